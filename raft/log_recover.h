/* Reading the log back after a start: replays the segments into the index, finds where writing goes
 * on, and tells a torn tail from damage. The rules are explained in docs/disk-format.md. */
#ifndef RAFT_LOG_RECOVER_H
#define RAFT_LOG_RECOVER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/error.h"
#include "raft/log_files.h"
#include "raft/log_format.h"
#include "raft/log_index.h"
#include "raft/log_writer.h"

enum { LOG_SPARES_MAX = 2 };

struct log_segment_file {
    uint32_t number;
    int file;
    uint64_t size;
};

struct log_recovery {
    struct log_segment_file *segments; /* oldest first; the last one is the tail's */
    unsigned n_segments;
    struct log_tail tail;
    struct log_spare spares[LOG_SPARES_MAX];
    unsigned n_spares;
    uint32_t next_spare; /* number for the name of the next spare */
};

/* Replays the log in files->dir into the empty `index`, or creates the log. On success the caller
 * owns the files in `recovery` and frees the array with log_recovery_free(). On failure nothing
 * stays open and `index` is good for nothing but log_index_free(). */
enum error_code log_recover(const struct log_files *files, bool must_exist, struct log_index *index,
                            struct log_recovery *recovery, struct error *error);
/* Frees the array; closes the files first when `storage` is not NULL. */
void log_recovery_free(struct log_recovery *recovery, const struct storage *storage);

/* Where the replay of a segment stopped. */
struct log_replay_end {
    uint64_t offset;   /* behind the last whole batch */
    uint64_t sequence; /* of the batch that would follow */
    bool sealed;       /* no batch, or the last one is a seal */
};

/* Pure: replays all whole batches of one segment, whose number the index knows already. `oldest`:
 * the state at its start is taken over rather than compared. ERROR_CORRUPT when intact records
 * contradict each other. */
enum error_code log_replay_segment(struct log_index *index, unsigned n_groups,
                                   const struct log_segment_header *header, struct slice segment,
                                   bool oldest, struct log_replay_end *end, struct error *error);

#endif
