/* The number of the newest segment, written down apart from the segments: nothing else would miss
 * that one when its file is lost, and the node would come back without the votes and entries in it.
 *
 * The file `newest` beside the segments has two slots, LOG_BLOCK bytes apart. Segment N is recorded
 * in slot N modulo 2, so that a torn write leaves the other slot with the number before:
 *
 *      0  magic "IKVNEWS\n"                      8 bytes
 *      8  format version                         u32
 *     12  number of the segment                  u64
 *     20  identity of the data directory         u64
 *     28  CRC-32C of bytes 0 to 27               u32
 *
 * A segment is recorded when its name is durable, and its first batch is written after that. */
#ifndef RAFT_LOG_NEWEST_H
#define RAFT_LOG_NEWEST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/error.h"
#include "raft/log_files.h"

enum { LOG_NEWEST_SLOT = 32, LOG_NEWEST_SLOTS = 2 };

struct log_newest {
    uint64_t number;
    uint64_t identity;
};

/* `out` has LOG_NEWEST_SLOT bytes. */
void log_newest_encode(const struct log_newest *newest, uint8_t *out);
/* ERROR_CORRUPT when it was never written, is torn or damaged; ERROR_VERSION. */
enum error_code log_newest_decode(struct slice bytes, struct log_newest *newest,
                                  struct error *error);

/* The number that was recorded last, 0 when there is none, which is ERROR_CORRUPT when
 * `must_exist`. Also ERROR_MISMATCH (the file of another directory), ERROR_VERSION, ERROR_IO. */
enum error_code log_newest_load(const struct log_files *files, bool must_exist, uint64_t *number,
                                struct error *error);
/* Records `number`, durably when it returns 0; else -errno. The name of the segment must be durable
 * by now. */
int log_newest_store(const struct log_files *files, uint64_t number);
/* What log_newest_load() found may be in memory only: makes it durable. 0 or -errno. */
int log_newest_sync(const struct log_files *files);

#endif
