/* What one leader still has to send to one follower: ranges of log entries in the order in which
 * libraft decided on them, waiting for the disk or for room in the peer's queue. Bounded; libraft
 * finds a dropped range out by itself when the follower rejects what comes after. Pure. */
#ifndef RAFT_APPEND_QUEUE_H
#define RAFT_APPEND_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

enum { APPEND_QUEUE_SIZE = 128 };

struct append_range {
    uint64_t start; /* prev index as libraft gave it, to recognise repetitions */
    uint64_t prev;  /* index before the next entry to send */
    uint64_t n;     /* entries left */
};

struct append_queue {
    struct append_range ranges[APPEND_QUEUE_SIZE];
    unsigned head;
    unsigned count;
};

void append_queue_clear(struct append_queue *queue);
bool append_queue_is_empty(const struct append_queue *queue);
/* Adds entries prev+1 .. prev+n. A range that starts where a waiting one does replaces its length
 * (libraft repeats itself while probing). False when the queue is full. */
bool append_queue_push(struct append_queue *queue, uint64_t prev, uint64_t n);
/* First range, or NULL. */
struct append_range *append_queue_front(struct append_queue *queue);
/* The first `n` entries of the front range were sent. */
void append_queue_advance(struct append_queue *queue, uint64_t n);
/* Drops the front range. */
void append_queue_pop(struct append_queue *queue);

#endif
