/* Is a history of one key linearizable? Writes carry unique values. Operations with an unknown
 * outcome may have happened at any time after their start, or never. Pipelined operations of one
 * client happened in their order. A search over subsets with the usual memory of what was tried
 * (Wing and Gong; Lowe's improvement). */
#ifndef TESTS_UNIT_REGISTER_CHECK_H
#define TESTS_UNIT_REGISTER_CHECK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/mem.h"

enum { REGISTER_OPS = 64 };

enum register_kind {
    REGISTER_SET,
    REGISTER_SET_NX,
    REGISTER_SET_GET,
    REGISTER_DELETE,
    REGISTER_GET
};

struct register_op {
    enum register_kind kind;
    uint64_t value;  /* written, or 0 */
    uint64_t result; /* SET_GET, GET: value or 0; SET_NX, DELETE: 1 when it had an effect */
    uint64_t start;  /* order of events */
    uint64_t end;    /* UINT64_MAX: outcome unknown */
    int after;       /* index of the operation that came before it in the pipeline, or -1 */
};

struct register_state {
    uint64_t done; /* bit set of operations */
    uint64_t value;
};

struct register_search {
    const struct register_op *ops;
    unsigned n;
    struct register_state *seen; /* hash table */
    uint64_t capacity;
    uint64_t used;
};

static inline uint64_t register_hash(struct register_state state) {
    uint64_t hash = state.done * UINT64_C(0x9e3779b97f4a7c15);
    hash ^= hash >> 29;
    hash = (hash + state.value) * UINT64_C(0xbf58476d1ce4e5b9);
    return hash ^ hash >> 32;
}

/* True when the state is new. */
static inline bool register_remember(struct register_search *search, struct register_state state) {
    if (2 * search->used >= search->capacity) {
        uint64_t old = search->capacity;
        struct register_state *seen = search->seen;
        search->capacity = old == 0 ? 1024 : 4 * old;
        search->seen = mem_zalloc(search->capacity, sizeof *search->seen);
        search->used = 0;
        for (uint64_t i = 0; i < old; i++) {
            if (seen[i].done != 0) {
                (void)register_remember(search, seen[i]);
            }
        }
        mem_free(seen);
    }
    for (uint64_t at = register_hash(state);; at++) {
        struct register_state *slot = &search->seen[at & (search->capacity - 1)];
        if (slot->done == 0) {
            *slot = state;
            search->used++;
            return true;
        }
        if (slot->done == state.done && slot->value == state.value) {
            return false;
        }
    }
}

/* Whether the operation could have happened with this value in place; the value after it. */
static inline bool register_step(const struct register_op *op, uint64_t value, uint64_t *next) {
    bool known = op->end != UINT64_MAX;
    bool had_effect = true;
    *next = value;
    switch (op->kind) {
    case REGISTER_SET:
        *next = op->value;
        return true;
    case REGISTER_SET_NX:
        had_effect = value == 0;
        *next = value == 0 ? op->value : value;
        return !known || op->result == (had_effect ? 1 : 0);
    case REGISTER_SET_GET:
        *next = op->value;
        return !known || op->result == value;
    case REGISTER_DELETE:
        had_effect = value != 0;
        *next = 0;
        return !known || op->result == (had_effect ? 1 : 0);
    case REGISTER_GET:
        return !known || op->result == value;
    }
    return false;
}

static inline bool register_is_free(const struct register_search *search, unsigned i,
                                    uint64_t done) {
    const struct register_op *op = &search->ops[i];
    if (op->after >= 0 && (done >> op->after & 1) == 0 &&
        search->ops[op->after].end != UINT64_MAX) {
        return false;
    }
    for (unsigned k = 0; k < search->n; k++) {
        if ((done >> k & 1) == 0 && search->ops[k].end < op->start) {
            return false; /* that one had ended before this one began */
        }
    }
    return true;
}

static inline bool register_search_from(struct register_search *search,
                                        struct register_state state) {
    bool complete = true;
    for (unsigned i = 0; i < search->n; i++) {
        complete = complete && ((state.done >> i & 1) != 0 || search->ops[i].end == UINT64_MAX);
    }
    if (complete) {
        return true;
    }
    for (unsigned i = 0; i < search->n; i++) {
        struct register_state next = {.done = state.done | UINT64_C(1) << i};
        if ((state.done >> i & 1) == 0 && register_is_free(search, i, state.done) &&
            register_step(&search->ops[i], state.value, &next.value) &&
            register_remember(search, next) && register_search_from(search, next)) {
            return true;
        }
    }
    return false;
}

/* At most REGISTER_OPS operations; leave reads with an unknown outcome out. */
static inline bool register_is_linearizable(const struct register_op *ops, unsigned n) {
    struct register_search search = {.ops = ops, .n = n};
    ASSERT(n <= REGISTER_OPS);
    bool found = register_search_from(&search, (struct register_state){0});
    mem_free(search.seen);
    return found;
}

#endif
