/* What a checked object does: a sequential model of it, as the search asks for it. */
#ifndef CHAOS_CHECK_MODEL_H
#define CHAOS_CHECK_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "chaos/check/history.h"

enum { MODEL_STATE = 160, MODEL_TEXT = 240 };

/* One state; what a model does not use stays zero, since states are compared as bytes. */
struct model_state {
    uint64_t words[MODEL_STATE / 8];
};

enum step {
    STEP_NO,     /* cannot happen in this state with this result */
    STEP_CHANGE, /* can, and may change something (here, or in another state) */
    STEP_PURE,   /* can, and its result tells that it changed nothing and never does */
};

/* A time, ns, in which wall clocks were wrong: were so many nodes down that walls counted
 * (docs/cluster-time.md), then keys that lived in it may have gone at any time, or not. Or one in
 * which they may have counted, right or wrong: then keys of before may have gone early. */
struct doubt {
    uint64_t from;
    uint64_t to;
    bool early_only;
};

/* What the models know beside history and operations. */
struct model_context {
    const struct history *history;
    uint64_t early_ns;          /* ttl: how much too early a key may go, */
    uint64_t late_ns;           /* ... and how much too late; TIME_NEVER for any */
    double drift;               /* ttl: share of a TTL that clocks may be off */
    const struct doubt *doubts; /* ttl */
    size_t n_doubts;
    int64_t total; /* bank, quota: of this unit, from its "open" */
};

struct model {
    /* The state in which a unit begins. */
    void (*begin)(const struct model_context *context, struct model_state *state);
    /* Whether the operation can happen in *state; *next, which holds a copy of it, becomes what
     * follows. Of an operation whose outcome is unknown only the invocation counts; one that would
     * change nothing is STEP_NO. */
    enum step (*step)(const struct model_context *context, const struct op *op,
                      struct model_state *next);
    /* Whether two operations of unknown outcome do the same; NULL: never. */
    bool (*alike)(const struct op *a, const struct op *b);
    /* Whether `a` may be what makes the result of `b` possible: then no window of a violation shows
     * b without a. */
    bool (*aids)(const struct model_context *context, const struct op *a, const struct op *b);
    void (*describe)(const struct model_context *context, const struct model_state *state,
                     char *text, size_t size);
};

extern const struct model model_register; /* set, get, delete; also of large values */
extern const struct model model_counter;  /* add, get */
extern const struct model model_cas;      /* set, get, delete, cas, casver, getver */
extern const struct model model_ttl;      /* set, get, expire, persist, delete; in time */
extern const struct model model_clear;    /* a project: set, get, delete, clear, count */
extern const struct model model_quota;    /* a project: open, set, delete, info */
extern const struct model model_bank;     /* a project: open, transfer, read */

#endif
