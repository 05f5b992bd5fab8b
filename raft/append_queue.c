#include "raft/append_queue.h"

#include "base/assert.h"

void append_queue_clear(struct append_queue *queue) {
    *queue = (struct append_queue){.n = 0};
}

bool append_queue_is_empty(const struct append_queue *queue) {
    return queue->n == 0;
}

void append_queue_push(struct append_queue *queue, uint64_t prev, uint64_t n) {
    ASSERT(n > 0);
    uint64_t end = prev + n;
    uint64_t waiting_end = queue->prev + queue->n;
    if (queue->n > 0 && (prev == queue->start || prev == waiting_end)) {
        queue->n = (end > waiting_end ? end : waiting_end) - queue->prev;
        return;
    }
    *queue = (struct append_queue){.start = prev, .prev = prev, .n = n};
}

void append_queue_advance(struct append_queue *queue, uint64_t n) {
    ASSERT(n <= queue->n);
    queue->prev += n;
    queue->n -= n;
}
