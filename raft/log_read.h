/* Reading log entries back from their segments, checked against their checksums. Synchronous and
 * free of libuv: runs in a background thread and touches nothing but its batch. */
#ifndef RAFT_LOG_READ_H
#define RAFT_LOG_READ_H

#include "raft/log.h"
#include "raft/log_index.h"
#include "raft/storage.h"

/* One entry. When entry.payload is set already (from the cache) nothing is read. */
struct log_read_item {
    unsigned group;
    uint64_t index;
    uint32_t size;
    int file;
    struct log_location location;
    struct log_entry entry;
};

struct log_read_batch {
    const struct storage *storage;
    uint64_t identity;
    enum error_code code; /* when not ERROR_NONE before the run, the run only returns it */
    unsigned n;
    struct log_read_item *items;
};

void log_read_batch_init(struct log_read_batch *batch, const struct storage *storage,
                         uint64_t identity, unsigned capacity);
/* Drops the payloads that are still in the items. */
void log_read_batch_free(struct log_read_batch *batch);
/* Fills in every payload. ERROR_CORRUPT when a record is not what it should be, ERROR_IO. */
enum error_code log_read_batch_run(struct log_read_batch *batch);

#endif
