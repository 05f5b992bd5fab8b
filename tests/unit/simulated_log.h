/* raft/log.h for one group, in memory and in the hands of the test: what was queued becomes durable
 * when the test says so, a crash loses the rest, and entries outside the cache must be read.
 * Included by one program, it takes the place of the real log. */
#ifndef TESTS_UNIT_SIMULATED_LOG_H
#define TESTS_UNIT_SIMULATED_LOG_H

#include <string.h>

#include "base/assert.h"
#include "base/list.h"
#include "base/mem.h"
#include "raft/log.h"

enum { SIM_ENTRIES = 8192 };

/* A group's log as recovery would find it. */
struct sim_image {
    struct log_group_state state;
    struct log_entry entries[SIM_ENTRIES]; /* by index */
};

enum sim_op_kind { SIM_APPEND, SIM_VOTE, SIM_RESET, SIM_CUT };

struct sim_op {
    struct list_node link;
    enum sim_op_kind kind;
    uint64_t index; /* first of an append; of a reset or cut; the vote */
    uint64_t term;
    unsigned n;
    struct log_entry *entries;
    struct log_request *request;
};

struct sim_read {
    struct list_node link;
    uint64_t first;
    unsigned n;
    log_read_done done;
    void *data;
};

struct log {
    struct sim_image now;
    struct sim_image durable;
    struct list_node ops; /* not durable yet */
    struct list_node reads;
    uint64_t cached_from; /* durable entries before it are not cached */
    uint64_t reads_done;
    bool full;
    bool dead; /* crashed: completions mean nothing any more */
};

static void sim_image_drop(struct sim_image *image, uint64_t from, uint64_t to) {
    for (uint64_t i = from; i <= to; i++) {
        payload_unref(image->entries[i].payload);
        image->entries[i].payload = NULL;
    }
}

static void sim_image_clear(struct sim_image *image) {
    sim_image_drop(image, image->state.first, image->state.last);
    memset(image, 0, sizeof *image);
    image->state.first = 1;
}

static void sim_image_append(struct sim_image *image, uint64_t first,
                             const struct log_entry *entries, unsigned n) {
    struct log_group_state *state = &image->state;
    ASSERT(first >= state->first && first <= state->last + 1 && first + n < SIM_ENTRIES);
    sim_image_drop(image, first, state->last);
    for (unsigned i = 0; i < n; i++) {
        image->entries[first + i] = entries[i];
        payload_ref(entries[i].payload);
    }
    state->last = first + n - 1;
}

static void sim_image_cut(struct sim_image *image, uint64_t index, uint64_t term) {
    sim_image_drop(image, image->state.first, index);
    image->state.first = index + 1;
    image->state.base_term = term;
}

static void sim_image_reset(struct sim_image *image, uint64_t index, uint64_t term) {
    sim_image_drop(image, image->state.first, image->state.last);
    image->state.first = index + 1;
    image->state.last = index;
    image->state.base_term = term;
}

static void sim_image_apply(struct sim_image *image, const struct sim_op *op) {
    switch (op->kind) {
    case SIM_APPEND:
        sim_image_append(image, op->index, op->entries, op->n);
        return;
    case SIM_VOTE:
        image->state.term = op->term;
        image->state.voted_for = op->index;
        return;
    case SIM_RESET:
        sim_image_reset(image, op->index, op->term);
        return;
    case SIM_CUT:
        sim_image_cut(image, op->index, op->term);
        return;
    }
}

static bool sim_image_has(const struct sim_image *image, uint64_t index, uint64_t term) {
    const struct log_group_state *state = &image->state;
    if (index < state->first) {
        return true; /* was cut, thus committed */
    }
    return index <= state->last && image->entries[index].term == term;
}

static struct log *sim_log_new(void) {
    struct log *log = mem_zalloc(1, sizeof *log);
    log->now.state.first = 1;
    log->durable.state.first = 1;
    list_init(&log->ops);
    list_init(&log->reads);
    return log;
}

static struct sim_op *sim_push(struct log *log, enum sim_op_kind kind, uint64_t index,
                               uint64_t term, struct log_request *request) {
    struct sim_op *op = mem_zalloc(1, sizeof *op);
    op->kind = kind;
    op->index = index;
    op->term = term;
    op->request = request;
    list_push(&log->ops, &op->link);
    return op;
}

static struct sim_op *sim_pop(struct log *log) {
    struct sim_op *op = LIST_ENTRY(list_first(&log->ops), struct sim_op, link);
    list_remove(&op->link);
    return op;
}

static void sim_finish(struct sim_op *op, bool report) {
    struct log_request *request = op->request;
    for (unsigned i = 0; i < op->n; i++) {
        payload_unref(op->entries[i].payload);
    }
    mem_free(op->entries);
    mem_free(op);
    if (report && request != NULL) {
        request->done(request);
    }
}

static unsigned sim_log_pending(const struct log *log) {
    unsigned n = 0;
    for (struct list_node *at = log->ops.next; at != &log->ops; at = at->next) {
        n++;
    }
    return n;
}

/* The oldest `n` of what is queued becomes durable. */
static void sim_log_sync(struct log *log, unsigned n) {
    for (unsigned i = 0; i < n && !list_empty(&log->ops); i++) {
        struct sim_op *op = sim_pop(log);
        if (!log->dead) {
            sim_image_apply(&log->durable, op);
        }
        sim_finish(op, true);
    }
}

static void sim_log_sync_all(struct log *log) {
    sim_log_sync(log, sim_log_pending(log));
}

static void sim_log_run_reads(struct log *log) {
    while (!list_empty(&log->reads)) {
        struct sim_read *read = LIST_ENTRY(list_first(&log->reads), struct sim_read, link);
        list_remove(&read->link);
        struct log_group_state *state = &log->now.state;
        bool valid =
            !log->dead && read->first >= state->first && read->first + read->n - 1 <= state->last;
        struct log_entry *entries = mem_zalloc(read->n, sizeof *entries);
        for (unsigned i = 0; valid && i < read->n; i++) {
            entries[i] = log->now.entries[read->first + i];
            payload_ref(entries[i].payload);
        }
        log->reads_done++;
        read->done(read->data, valid ? ERROR_NONE : ERROR_INVALID, read->first, entries,
                   valid ? read->n : 0);
        mem_free(entries);
        mem_free(read);
    }
}

/* The process is about to be gone: the oldest `n` of what is queued still reaches the disk, then
 * everything completes without meaning anything, so that its owner can be freed. */
static void sim_log_crash(struct log *log, unsigned n) {
    for (struct list_node *at = log->ops.next; at != &log->ops && n > 0; at = at->next, n--) {
        sim_image_apply(&log->durable, LIST_ENTRY(at, struct sim_op, link));
    }
    log->dead = true;
    while (!list_empty(&log->ops) || !list_empty(&log->reads)) {
        sim_log_sync_all(log);
        sim_log_run_reads(log);
    }
}

/* What the next process finds. */
static void sim_log_restart(struct log *log) {
    ASSERT(log->dead);
    sim_image_clear(&log->now);
    log->now = log->durable;
    for (uint64_t i = log->now.state.first; i <= log->now.state.last; i++) {
        payload_ref(log->now.entries[i].payload);
    }
    log->dead = false;
}

/* Takes the newest n entries away from a log that nobody has open, durable or not. */
static inline void sim_log_lose(struct log *log, uint64_t n) {
    struct sim_image *images[] = {&log->now, &log->durable};
    for (unsigned i = 0; i < 2; i++) {
        struct log_group_state *state = &images[i]->state;
        ASSERT(state->first + n <= state->last + 1);
        sim_image_drop(images[i], state->last - n + 1, state->last);
        state->last -= n;
    }
}

static void sim_log_free(struct log *log) {
    ASSERT(list_empty(&log->ops) && list_empty(&log->reads));
    sim_image_clear(&log->now);
    sim_image_clear(&log->durable);
    mem_free(log);
}

/* --- raft/log.h ------------------------------------------------------------------------------- */

struct log_group_state log_state(const struct log *log, unsigned group) {
    (void)group;
    return log->now.state;
}

bool log_lookup(const struct log *log, unsigned group, uint64_t index, uint64_t *term,
                enum log_entry_kind *kind) {
    (void)group;
    const struct log_group_state *state = &log->now.state;
    if (index >= state->first && index <= state->last) {
        *term = log->now.entries[index].term;
        *kind = log->now.entries[index].kind;
        return true;
    }
    if (index + 1 != state->first || state->base_term == 0) {
        return false;
    }
    *term = state->base_term;
    *kind = 0;
    return true;
}

void log_append(struct log *log, unsigned group, uint64_t first, const struct log_entry *entries,
                unsigned n, struct log_request *request) {
    (void)group;
    sim_image_append(&log->now, first, entries, n);
    struct sim_op *op = sim_push(log, SIM_APPEND, first, 0, request);
    op->n = n;
    op->entries = mem_dup(entries, n * sizeof *entries);
    for (unsigned i = 0; i < n; i++) {
        payload_ref(entries[i].payload);
    }
}

void log_set_vote(struct log *log, unsigned group, uint64_t term, uint64_t voted_for,
                  struct log_request *request) {
    (void)group;
    ASSERT(term >= log->now.state.term);
    sim_image_apply(&log->now, sim_push(log, SIM_VOTE, voted_for, term, request));
}

void log_reset(struct log *log, unsigned group, uint64_t index, uint64_t term,
               struct log_request *request) {
    (void)group;
    sim_image_apply(&log->now, sim_push(log, SIM_RESET, index, term, request));
}

void log_cut(struct log *log, unsigned group, uint64_t index) {
    (void)group;
    if (index < log->now.state.first) {
        return;
    }
    ASSERT(index <= log->now.state.last);
    uint64_t term = log->now.entries[index].term;
    sim_image_apply(&log->now, sim_push(log, SIM_CUT, index, term, NULL));
}

bool log_cached(const struct log *log, unsigned group, uint64_t index, struct log_entry *entry) {
    (void)group;
    const struct log_group_state *state = &log->now.state;
    if (index < state->first || index > state->last) {
        return false;
    }
    *entry = log->now.entries[index];
    if (entry->kind != LOG_ENTRY_CHANGE && index < log->cached_from &&
        sim_image_has(&log->durable, index, entry->term)) {
        return false;
    }
    payload_ref(entry->payload);
    return true;
}

void log_read(struct log *log, unsigned group, uint64_t first, unsigned n, uint64_t max_bytes,
              log_read_done done, void *data) {
    (void)group;
    (void)max_bytes;
    struct sim_read *read = mem_zalloc(1, sizeof *read);
    read->first = first;
    read->n = n > 3 ? n - n / 3 : n; /* less than what was asked for, as when bytes run out */
    read->done = done;
    read->data = data;
    list_push(&log->reads, &read->link);
}

bool log_has_space(const struct log *log) {
    return !log->full;
}

#endif
