/* A replicated log in memory in the place of the real one (raft/log.h), for tests that run several
 * nodes in one process: nothing happens by itself. Requests complete, and entries become durable,
 * when the test calls memory_log_sync(); background reads when it calls memory_log_read_some(). A
 * crash keeps what was durable and a first part of the rest. Only the newest entries are cached, so
 * that background reads happen.
 *
 * Included by one file of a program: it defines the functions of raft/log.h that nodes use. */
#ifndef TESTS_UNIT_MEMORY_LOG_H
#define TESTS_UNIT_MEMORY_LOG_H

#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "raft/log.h"

enum { MEMORY_LOG_CACHED = 24 };

/* What the log holds: of one group, which is all that these tests need. */
struct memory_image {
    uint64_t term;
    uint64_t voted_for;
    uint64_t first;
    uint64_t base_term;
    struct log_entry *entries; /* of index `first` on */
    uint64_t n;
    uint64_t capacity;
};

enum memory_change_kind { CHANGE_APPEND, CHANGE_VOTE, CHANGE_RESET, CHANGE_CUT };

struct memory_change {
    enum memory_change_kind kind;
    uint64_t index;
    uint64_t term;
    uint64_t voted_for;
    struct log_entry *entries;
    unsigned n;
    struct log_request *request;
    struct memory_change *next;
};

struct memory_read {
    uint64_t first;
    unsigned n;
    log_read_done done;
    void *data;
    struct memory_read *next;
};

struct log {
    struct memory_image now;
    struct memory_image durable;
    struct memory_change *changes; /* not yet durable, in order */
    struct memory_change **changes_end;
    struct memory_read *reads;
    bool full;
};

static inline void image_truncate(struct memory_image *image, uint64_t n) {
    while (image->n > n) {
        payload_unref(image->entries[--image->n].payload);
    }
}

static inline void image_cut(struct memory_image *image, uint64_t index) {
    if (index < image->first || index >= image->first + image->n) {
        return;
    }
    uint64_t gone = index + 1 - image->first;
    image->base_term = image->entries[gone - 1].term;
    for (uint64_t i = 0; i < gone; i++) {
        payload_unref(image->entries[i].payload);
    }
    memmove(image->entries, image->entries + gone, (image->n - gone) * sizeof *image->entries);
    image->n -= gone;
    image->first = index + 1;
}

static inline void image_apply(struct memory_image *image, const struct memory_change *change) {
    switch (change->kind) {
    case CHANGE_APPEND:
        ASSERT(change->index >= image->first && change->index <= image->first + image->n);
        image_truncate(image, change->index - image->first);
        for (unsigned i = 0; i < change->n; i++) {
            if (image->n == image->capacity) {
                image->capacity = 2 * image->capacity + 64;
                image->entries =
                    mem_realloc(image->entries, image->capacity * sizeof *image->entries);
            }
            image->entries[image->n] = change->entries[i];
            (void)payload_ref(image->entries[image->n++].payload);
        }
        return;
    case CHANGE_VOTE:
        image->term = change->term;
        image->voted_for = change->voted_for;
        return;
    case CHANGE_RESET:
        image_truncate(image, 0);
        image->first = change->index + 1;
        image->base_term = change->term;
        return;
    case CHANGE_CUT:
        image_cut(image, change->index);
        return;
    }
}

static inline void change_free(struct memory_change *change) {
    for (unsigned i = 0; i < change->n; i++) {
        payload_unref(change->entries[i].payload);
    }
    mem_free(change->entries);
    mem_free(change);
}

static inline struct log *memory_log_new(void) {
    struct log *log = mem_zalloc(1, sizeof *log);
    log->changes_end = &log->changes;
    log->now.first = 1;
    log->durable.first = 1;
    return log;
}

static inline void memory_log_free(struct log *log) {
    ASSERT(log->changes == NULL && log->reads == NULL);
    image_truncate(&log->now, 0);
    image_truncate(&log->durable, 0);
    mem_free(log->now.entries);
    mem_free(log->durable.entries);
    mem_free(log);
}

static inline void pop_change(struct log *log) {
    struct memory_change *change = log->changes;
    log->changes = change->next;
    if (log->changes == NULL) {
        log->changes_end = &log->changes;
    }
    change_free(change);
}

/* Makes up to `n` waiting changes durable and completes their requests. */
static inline void memory_log_sync(struct log *log, unsigned n) {
    while (n-- > 0 && log->changes != NULL) {
        struct log_request *request = log->changes->request;
        image_apply(&log->durable, log->changes);
        pop_change(log);
        if (request != NULL) {
            request->done(request);
        }
    }
}

/* The process dies: the first `kept` changes had reached the disk, the others did not. What is left
 * of the process is told that all its requests are done, so that it can be taken apart; nothing of
 * that reaches the disk. */
static inline void memory_log_crash(struct log *log, unsigned kept) {
    struct memory_image empty = {.first = 1};
    struct memory_image *durable = &log->durable;
    struct memory_image survived = empty;
    while (kept-- > 0 && log->changes != NULL) {
        struct memory_change *change = log->changes;
        image_apply(durable, change);
        struct log_request *request = change->request;
        pop_change(log);
        if (request != NULL) {
            request->done(request);
        }
    }
    struct memory_change all = {.kind = CHANGE_APPEND,
                                .index = durable->first,
                                .entries = durable->entries,
                                .n = (unsigned)durable->n};
    survived.first = durable->first;
    survived.term = durable->term;
    survived.voted_for = durable->voted_for;
    survived.base_term = durable->base_term;
    image_apply(&survived, &all);
    while (log->changes != NULL || log->reads != NULL) {
        memory_log_sync(log, 1);
        struct memory_read *read = log->reads;
        if (read != NULL) {
            log->reads = read->next;
            read->done(read->data, ERROR_INVALID, read->first, NULL, 0);
            mem_free(read);
        }
    }
    image_truncate(&log->now, 0);
    log->now.term = survived.term;
    log->now.voted_for = survived.voted_for;
    log->now.first = survived.first;
    log->now.base_term = survived.base_term;
    all.entries = survived.entries;
    image_apply(&log->now, &all);
    image_truncate(durable, 0);
    mem_free(durable->entries);
    *durable = survived;
}

static inline struct memory_change *add_change(struct log *log, enum memory_change_kind kind,
                                               struct log_request *request) {
    struct memory_change *change = mem_zalloc(1, sizeof *change);
    change->kind = kind;
    change->request = request;
    *log->changes_end = change;
    log->changes_end = &change->next;
    return change;
}

/* --- raft/log.h ------------------------------------------------------------------------------- */

struct log_group_state log_state(const struct log *log, unsigned group) {
    ASSERT(group == 0);
    return (struct log_group_state){.term = log->now.term,
                                    .voted_for = log->now.voted_for,
                                    .first = log->now.first,
                                    .last = log->now.first + log->now.n - 1,
                                    .base_term = log->now.base_term};
}

bool log_lookup(const struct log *log, unsigned group, uint64_t index, uint64_t *term,
                enum log_entry_kind *kind) {
    ASSERT(group == 0);
    if (index + 1 == log->now.first && log->now.base_term != 0) {
        *term = log->now.base_term;
        *kind = (enum log_entry_kind)0;
        return true;
    }
    if (index < log->now.first || index >= log->now.first + log->now.n) {
        return false;
    }
    *term = log->now.entries[index - log->now.first].term;
    *kind = log->now.entries[index - log->now.first].kind;
    return true;
}

void log_append(struct log *log, unsigned group, uint64_t first, const struct log_entry *entries,
                unsigned n, struct log_request *request) {
    ASSERT(group == 0);
    struct memory_change *change = add_change(log, CHANGE_APPEND, request);
    change->index = first;
    change->entries = mem_dup(entries, n * sizeof *entries);
    change->n = n;
    for (unsigned i = 0; i < n; i++) {
        (void)payload_ref(entries[i].payload);
    }
    image_apply(&log->now, change);
}

void log_set_vote(struct log *log, unsigned group, uint64_t term, uint64_t voted_for,
                  struct log_request *request) {
    ASSERT(group == 0);
    struct memory_change *change = add_change(log, CHANGE_VOTE, request);
    change->term = term;
    change->voted_for = voted_for;
    image_apply(&log->now, change);
}

void log_reset(struct log *log, unsigned group, uint64_t index, uint64_t term,
               struct log_request *request) {
    ASSERT(group == 0);
    struct memory_change *change = add_change(log, CHANGE_RESET, request);
    change->index = index;
    change->term = term;
    image_apply(&log->now, change);
}

void log_cut(struct log *log, unsigned group, uint64_t index) {
    ASSERT(group == 0);
    struct memory_change *change = add_change(log, CHANGE_CUT, NULL);
    change->index = index;
    image_apply(&log->now, change);
}

bool log_cached(const struct log *log, unsigned group, uint64_t index, struct log_entry *entry) {
    ASSERT(group == 0);
    const struct memory_image *now = &log->now;
    if (index < now->first || index >= now->first + now->n) {
        return false;
    }
    *entry = now->entries[index - now->first];
    if (index + MEMORY_LOG_CACHED < now->first + now->n && entry->kind != LOG_ENTRY_CHANGE) {
        return false;
    }
    (void)payload_ref(entry->payload);
    return true;
}

void log_read(struct log *log, unsigned group, uint64_t first, unsigned n, uint64_t max_bytes,
              log_read_done done, void *data) {
    ASSERT(group == 0);
    (void)max_bytes;
    struct memory_read *read = mem_zalloc(1, sizeof *read);
    *read = (struct memory_read){.first = first, .n = n, .done = done, .data = data};
    struct memory_read **end = &log->reads;
    while (*end != NULL) {
        end = &(*end)->next;
    }
    *end = read;
}

/* Answers one background read. */
static inline void memory_log_read_one(struct log *log) {
    struct memory_read *read = log->reads;
    if (read == NULL) {
        return;
    }
    log->reads = read->next;
    const struct memory_image *now = &log->now;
    if (read->first < now->first || read->first + read->n > now->first + now->n) {
        read->done(read->data, ERROR_INVALID, read->first, NULL, 0);
        mem_free(read);
        return;
    }
    struct log_entry *entries =
        mem_dup(now->entries + (read->first - now->first), read->n * sizeof *entries);
    for (unsigned i = 0; i < read->n; i++) {
        (void)payload_ref(entries[i].payload);
    }
    read->done(read->data, ERROR_NONE, read->first, entries, read->n);
    mem_free(entries);
    mem_free(read);
}

bool log_has_space(const struct log *log) {
    return !log->full;
}

#endif
