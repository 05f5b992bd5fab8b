/* The writing half of the log: puts queued operations into batches, writes and syncs each batch,
 * starts new segments. Synchronous and free of libuv: the log thread runs it in production, tests
 * run it on a disk that crashes.
 *
 * Any failed write or sync ends the process (assert_fatal); lack of space for a new segment does
 * when the host has waited for it in vain. */
#ifndef RAFT_LOG_WRITER_H
#define RAFT_LOG_WRITER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/histogram.h"
#include "raft/log.h"
#include "raft/log_files.h"
#include "raft/log_index.h"
#include "raft/storage.h"

enum log_op_type {
    LOG_OP_APPEND,
    LOG_OP_VOTE,
    LOG_OP_RESET,
    LOG_OP_CUT,
    LOG_OP_RELOCATE,
    LOG_OP_RETIRE
};

struct log_op_entry {
    struct payload *payload; /* a reference of the operation's own */
    uint64_t term;
    struct log_location location; /* set when it is written */
    enum log_entry_kind kind;
};

/* One operation on its way to the disk. Whoever made it frees it with log_op_free(). */
struct log_op {
    struct log_op *next;
    struct log_request *request;
    enum log_op_type type;
    unsigned group;
    uint64_t index; /* first entry; vote: node id; retire: segment number */
    uint64_t term;
    uint64_t ticket;          /* of an append */
    uint64_t bytes;           /* counted as queued */
    struct log_location from; /* of a relocation */
    unsigned n;
    unsigned n_written;
    struct log_op_entry entries[];
};

struct log_op *log_op_new(enum log_op_type type, unsigned group, uint64_t index, uint64_t term,
                          unsigned n_entries);
/* Entry k of the operation; takes a reference of its own. */
void log_op_set_entry(struct log_op *op, unsigned k, uint64_t term, enum log_entry_kind kind,
                      struct payload *payload);
void log_op_free(struct log_op *op);

/* First-in first-out. */
struct log_op_list {
    struct log_op *first;
    struct log_op **end; /* where the next one is linked */
};
void log_op_list_init(struct log_op_list *list);
void log_op_list_push(struct log_op_list *list, struct log_op *op);
struct log_op *log_op_list_pop(struct log_op_list *list);
/* Moves everything in `from` to the end of `to`. */
void log_op_list_move(struct log_op_list *to, struct log_op_list *from);

struct log_writer_stats {
    uint64_t syncs;
    uint64_t batches;
    uint64_t sync_ns_total;
    uint64_t sync_ns_max;
    struct histogram sync; /* of the same */
};

/* What the writer needs of its surroundings; called on the writer's thread. */
struct log_writer_host {
    void *context;
    /* Hands over a prepared file, or returns false. */
    bool (*take_spare)(void *context, struct log_spare *spare);
    /* There is no room for the next segment. Waits a little; false: it is not worth another
     * attempt. NULL: it never is. */
    bool (*wait_for_space)(void *context);
    /* Writing goes on in a new segment. The host closes `file`, but not while it is the newest. */
    void (*segment_started)(void *context, uint32_t number, int file, uint64_t size);
    /* These operations are durable. The host takes them over. */
    void (*completed)(void *context, struct log_op_list *ops);
};

/* Where writing goes on. */
struct log_tail {
    uint32_t number;
    int file;
    uint64_t size;     /* of the segment */
    uint64_t offset;   /* end of its last batch */
    uint64_t sequence; /* of the next batch */
    bool sealed;       /* nothing to lose behind an unproven last batch */
};

struct log_writer;

/* Copies `dir` and the states of the groups (n_groups of them). */
struct log_writer *log_writer_new(const struct log_files *files, const struct log_writer_host *host,
                                  const struct log_tail *tail,
                                  const struct log_group_state *states);
void log_writer_free(struct log_writer *writer);

/* Makes all of `ops` durable, in one batch or several, and completes them batch by batch. */
void log_writer_write(struct log_writer *writer, struct log_op_list *ops);
bool log_writer_sealed(const struct log_writer *writer);
/* Proves on disk that the last batch was synced. */
void log_writer_seal(struct log_writer *writer);
/* Bytes left in the current segment. */
uint64_t log_writer_room(const struct log_writer *writer);
struct log_writer_stats log_writer_stats(const struct log_writer *writer);
/* Forgets the longest sync. */
void log_writer_stats_reset_max(struct log_writer *writer);

#endif
