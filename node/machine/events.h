/* What applied entries did to keys, in log order: the machine records it on the way, the job hands
 * it over, the change feed (node/feed.h) passes it on to subscribers. Every replica records the
 * same events for the same entry in the same order. Recorded where rows change, so that whatever a
 * command was, what happened is what is told: a rename is a set and a delete.
 *
 * The bytes are a sequence of records:
 *
 *     u8   0x80, u64 index        what follows happened in that log entry
 *     u8   0x81, u16+ name        ... and to that project
 *     u8   kind, u32+ key         an event
 *
 * They begin with an index and a project; an index begins when its first event does. So whole
 * sequences can be put behind one another. They never leave the process. */
#ifndef NODE_MACHINE_EVENTS_H
#define NODE_MACHINE_EVENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"

struct project;

enum machine_event_kind {
    MACHINE_EVENT_SET = 1,     /* a new value, also that of an INCR, APPEND, RENAME ... */
    MACHINE_EVENT_DELETE = 2,  /* removed by a command, also by an expiry in the past */
    MACHINE_EVENT_EXPIRED = 3, /* removed because its time had come */
    MACHINE_EVENT_EXPIRE = 4,  /* its expiry was set or moved, its value stayed */
    MACHINE_EVENT_PERSIST = 5, /* its expiry was taken away, its value stayed */
    MACHINE_EVENT_CLEAR = 6,   /* every key of the project went at once; the key is empty */
    /* Not for clients: one of the project's tokens is gone, by its time, its owner or with the
     * project. The key is its number, a u64. */
    MACHINE_EVENT_REVOKED = 7
};

/* Where a machine records. A zeroed struct with `limit_bytes` set is empty and ready. */
struct machine_events {
    struct buffer bytes; /* owned */
    size_t limit_bytes;
    uint64_t after; /* entries up to this one were recorded before and are applied once more */
    bool lost;      /* there was more than the limit: nothing is here, everything is unknown */

    /* The machine's own. */
    uint64_t index;      /* of the entry being applied */
    uint64_t told_index; /* the last one in the bytes */
    size_t project_at;   /* the last project's name in the bytes */
    size_t project_size;
};

/* Whether anything happened. */
static inline bool machine_events_any(const struct machine_events *events) {
    return events->bytes.size > 0 || events->lost;
}
void machine_events_free(struct machine_events *events);

/* Adds an event; does nothing without `events`. */
void machine_event_record(struct machine_events *events, const struct project *project,
                          enum machine_event_kind kind, struct slice key);
/* Forgets what was recorded since `before` was copied from `events`, without owning its bytes. What
 * was lost meanwhile stays lost. */
void machine_events_rollback(struct machine_events *events, const struct machine_events *before);

struct machine_event {
    uint64_t index;
    enum machine_event_kind kind;
    struct slice project; /* point into the bytes */
    struct slice key;
};

/* A place among records, zeroed at their beginning. It holds offsets only, so the bytes may grow
 * and move meanwhile. */
struct machine_event_cursor {
    size_t offset;
    uint64_t index;
    size_t project_at;
    size_t project_size;
};

/* The next event; false at the end. */
bool machine_event_next(struct slice bytes, struct machine_event_cursor *cursor,
                        struct machine_event *event);

#endif
