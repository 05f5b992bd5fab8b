/* Where every retained log entry is: per group a map from index to term, kind, place on disk and,
 * for recent entries, the payload. Pure. Also counts how much of each segment is still needed.
 *
 * An entry is pending from log_index_append() until log_index_durable() tells its place; a pending
 * entry always has its payload. 32 bytes for each entry, in chunks, so that cutting the front and
 * growing the end cost little. */
#ifndef RAFT_LOG_INDEX_H
#define RAFT_LOG_INDEX_H

#include <stdbool.h>
#include <stdint.h>

#include "base/payload.h"
#include "raft/log.h"

struct log_index;

struct log_location {
    uint32_t segment; /* number of the segment, from 1 on */
    uint32_t unit;    /* offset of the record in units of 8 bytes */
};

static inline uint64_t log_location_offset(struct log_location location) {
    return (uint64_t)location.unit * 8;
}

struct log_index_entry {
    uint64_t term;
    struct payload *payload;      /* NULL when not cached */
    struct log_location location; /* while pending: the ticket of its append */
    uint32_t size;                /* of the payload */
    uint8_t kind;                 /* enum log_entry_kind; 0: place unknown (only in recovery) */
    bool pending;
};

struct log_index *log_index_new(unsigned n_groups, uint64_t cache_size);
void log_index_free(struct log_index *index);

struct log_group_state log_index_state(const struct log_index *index, unsigned group);
/* NULL when `i` is not retained. Valid until the index is changed. */
const struct log_index_entry *log_index_get(const struct log_index *index, unsigned group,
                                            uint64_t i);

void log_index_set_vote(struct log_index *index, unsigned group, uint64_t term, uint64_t voted_for);
/* See log_append(). The entries are pending under `ticket`; a ticket is never used twice. */
void log_index_append(struct log_index *index, unsigned group, uint64_t first,
                      const struct log_entry *entries, unsigned n, uint64_t ticket);
/* The entry reached the disk. Ignored when it was replaced, reset or cut since. */
void log_index_durable(struct log_index *index, unsigned group, uint64_t i, uint64_t ticket,
                       struct log_location location);
/* The entry was copied to another place. Ignored when it is not at `from` any more. */
void log_index_relocated(struct log_index *index, unsigned group, uint64_t i,
                         struct log_location from, struct log_location to);
void log_index_reset(struct log_index *index, unsigned group, uint64_t i, uint64_t term);
/* `i` must be retained. Returns the term of entry `i`. */
uint64_t log_index_cut(struct log_index *index, unsigned group, uint64_t i);
/* Drops cached payloads, oldest first, until the cache is within its size; never configurations. */
void log_index_evict(struct log_index *index);
uint64_t log_index_cache_bytes(const struct log_index *index);
/* Slots of the queue of cached entries: bounded by twice what is cached, and a small constant. */
uint64_t log_index_queue_capacity(const struct log_index *index);

/* Segments: consecutive numbers, added at the end and removed at the front. */
void log_index_segment_add(struct log_index *index, uint32_t number);
/* The oldest segment must not hold live entries. */
void log_index_segment_remove(struct log_index *index);
uint32_t log_index_segment_oldest(const struct log_index *index);
uint32_t log_index_segment_newest(const struct log_index *index);
/* Live entries of `group`, or of all groups, in the oldest segment, and bytes of all of them. */
uint64_t log_index_oldest_live(const struct log_index *index, unsigned group);
uint64_t log_index_oldest_live_total(const struct log_index *index);
uint64_t log_index_oldest_live_bytes(const struct log_index *index);

/* For recovery. A state brings entries whose places are not known yet; more than
 * LOG_INDEX_RESTORE_MAX of them are refused (false). */
#define LOG_INDEX_RESTORE_MAX ((uint64_t)1 << 28)
/* No log gets this far; it spares the arithmetic on indexes every thought of overflow. */
#define LOG_INDEX_MAX ((uint64_t)1 << 62)
bool log_index_restore(struct log_index *index, unsigned group,
                       const struct log_group_state *state);
/* Replays an append of one durable entry. False when it would leave a gap or is out of range. */
bool log_index_place(struct log_index *index, unsigned group, uint64_t i, uint64_t term,
                     enum log_entry_kind kind, uint32_t size, struct log_location location);
/* Replays a relocation. False when the entry is not there or has another term. */
bool log_index_replace(struct log_index *index, unsigned group, uint64_t i, uint64_t term,
                       enum log_entry_kind kind, uint32_t size, struct log_location location);
/* Replays a cut. False when it lies outside the log. */
bool log_index_replay_cut(struct log_index *index, unsigned group, uint64_t i, uint64_t term);
/* The payload of a configuration (LOG_ENTRY_CHANGE) that was just placed or replaced: it stays in
 * memory as long as the entry is retained, as does that of one that was appended. */
void log_index_keep(struct log_index *index, unsigned group, uint64_t i, struct slice bytes);
/* First entry of the group whose place is unknown, or 0. */
uint64_t log_index_unplaced(const struct log_index *index, unsigned group);

#endif
