/* How near a node's memory is to its ceiling (max_memory), and what it takes no more.
 *
 * What counts is the process's resident size, which leaves nothing out: caches, SQLite, TLS,
 * replication, what malloc holds and does not use. It is read now and then; what the node counts
 * by itself (requests, replies, queues) tells how much came since. Work is refused before the
 * ceiling, so that what was taken already has room to end, and again only when there is some.
 *
 * Pure. Threads: the loop thread. */
#ifndef NODE_MEMORY_CEILING_H
#define NODE_MEMORY_CEILING_H

#include <stdbool.h>
#include <stdint.h>

enum memory_level {
    MEMORY_ENOUGH,
    MEMORY_NO_WRITES, /* writes are refused */
    MEMORY_NO_DATA    /* reads of keys as well; what is about the node is still answered */
};

struct memory_ceiling {
    uint64_t max; /* bytes, 0: no ceiling */
    uint64_t resident;
    uint64_t counted; /* at the time when that was read */
    enum memory_level level;
};

void memory_ceiling_init(struct memory_ceiling *ceiling, uint64_t max);
/* The resident size was read anew. `expected`: what was taken already will need so much more. */
void memory_ceiling_measure(struct memory_ceiling *ceiling, uint64_t resident, uint64_t counted,
                            uint64_t expected);
/* The level, given what is counted now. */
enum memory_level memory_ceiling_level(struct memory_ceiling *ceiling, uint64_t counted,
                                       uint64_t expected);
/* What the process uses by now, as far as is known. */
uint64_t memory_ceiling_used(const struct memory_ceiling *ceiling, uint64_t counted);

#endif
