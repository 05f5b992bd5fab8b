/* What one leader still has to send to one follower: the range of log entries that libraft decided
 * on, waiting for the disk or for room in the peer's queue. Decisions that follow on each other
 * become one range, so that a follower that was waited for gets few large messages. Pure. */
#ifndef RAFT_APPEND_QUEUE_H
#define RAFT_APPEND_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

/* Zeroed: nothing waits. */
struct append_queue {
    uint64_t start; /* index before the first entry that was asked for, to recognise repetitions */
    uint64_t prev;  /* index before the next entry to send */
    uint64_t n;     /* entries left */
};

void append_queue_clear(struct append_queue *queue);
bool append_queue_is_empty(const struct append_queue *queue);
/* Adds entries prev+1 .. prev+n, n > 0. They extend what waits when they follow on it, or when they
 * start where it did (libraft repeats itself while probing). Anything else means that libraft has
 * found another place to go on from: it replaces what waits. */
void append_queue_push(struct append_queue *queue, uint64_t prev, uint64_t n);
/* The first `n` entries that wait were sent. */
void append_queue_advance(struct append_queue *queue, uint64_t n);

#endif
