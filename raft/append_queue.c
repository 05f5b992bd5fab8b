#include "raft/append_queue.h"

#include <stddef.h>

#include "base/assert.h"

void append_queue_clear(struct append_queue *queue) {
    queue->head = 0;
    queue->count = 0;
}

bool append_queue_is_empty(const struct append_queue *queue) {
    return queue->count == 0;
}

static struct append_range *range_at(struct append_queue *queue, unsigned i) {
    return &queue->ranges[(queue->head + i) % APPEND_QUEUE_SIZE];
}

bool append_queue_push(struct append_queue *queue, uint64_t prev, uint64_t n) {
    ASSERT(n > 0);
    for (unsigned i = 0; i < queue->count; i++) {
        struct append_range *range = range_at(queue, i);
        if (range->start == prev) {
            uint64_t end = prev + n;
            if (end > range->prev + range->n) {
                range->n = end - range->prev;
            }
            return true;
        }
    }
    if (queue->count == APPEND_QUEUE_SIZE) {
        return false;
    }
    struct append_range *range = range_at(queue, queue->count++);
    range->start = prev;
    range->prev = prev;
    range->n = n;
    return true;
}

struct append_range *append_queue_front(struct append_queue *queue) {
    return queue->count == 0 ? NULL : range_at(queue, 0);
}

void append_queue_advance(struct append_queue *queue, uint64_t n) {
    ASSERT(queue->count > 0);
    struct append_range *range = range_at(queue, 0);
    ASSERT(n <= range->n);
    range->prev += n;
    range->n -= n;
    if (range->n == 0) {
        append_queue_pop(queue);
    }
}

void append_queue_pop(struct append_queue *queue) {
    ASSERT(queue->count > 0);
    queue->head = (queue->head + 1) % APPEND_QUEUE_SIZE;
    queue->count--;
}
