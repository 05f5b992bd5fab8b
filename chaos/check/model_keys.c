/* Models of one key: registers, counters, compare and set, keys that expire. */
#include <inttypes.h>
#include <stdio.h>

#include "chaos/check/model.h"

/* --- what they share -------------------------------------------------------------------------- */

/* A value in a state: 0 for a missing key, else the number of its text + 1. */
static uint64_t cell_of(const struct value *value) {
    return value->type == VALUE_TEXT ? (uint64_t)value->text + 1 : 0;
}

static bool is_unknown(const struct op *op) {
    return op->outcome == OUTCOME_UNKNOWN;
}

static enum step changed_to(struct model_state *next, uint64_t cell) {
    next->words[0] = cell;
    return STEP_CHANGE;
}

static void begin_empty(const struct model_context *context, struct model_state *state) {
    (void)context;
    memset(state, 0, sizeof *state);
}

static void describe_cell(const struct model_context *context, uint64_t cell, char *text,
                          size_t size) {
    if (cell == 0) {
        (void)snprintf(text, size, "missing");
        return;
    }
    struct slice value = texts_get(&context->history->texts, (uint32_t)(cell - 1));
    (void)snprintf(text, size, "\"%.*s\"", (int)(value.size < 80 ? value.size : 80),
                   (const char *)value.data);
}

static void describe_first(const struct model_context *context, const struct model_state *state,
                           char *text, size_t size) {
    describe_cell(context, state->words[0], text, size);
}

/* The cell that an operation may write, if it writes one. */
static bool writes(const struct op *op, uint64_t *cell) {
    switch (op->kind) {
    case OP_SET:
    case OP_CAS:
    case OP_CASVER:
        *cell = cell_of(&op->in);
        return op->kind == OP_SET || op->outcome == OUTCOME_UNKNOWN || op->out.integer == 1;
    case OP_DELETE:
        *cell = 0;
        return true;
    default:
        return false;
    }
}

/* Whether the result of `op` asks for this cell: one that was missing, or had a value. */
static bool asks_for(const struct op *op, uint64_t cell) {
    if (is_unknown(op)) {
        return false;
    }
    switch (op->kind) {
    case OP_GET:
    case OP_GETVER:
        return cell_of(&op->out) == cell;
    case OP_DELETE:
        return (op->out.integer == 1) == (cell != 0);
    case OP_CAS:
    case OP_CASVER: {
        uint64_t old = op->old_is_nil ? 0 : (uint64_t)op->other + 1;
        return (op->out.integer == 1) == (old == cell);
    }
    default:
        return false;
    }
}

static bool register_aids(const struct model_context *context, const struct op *a,
                          const struct op *b) {
    uint64_t cell;
    (void)context;
    return b->end > a->start && writes(a, &cell) && asks_for(b, cell);
}

/* --- registers -------------------------------------------------------------------------------- */

static enum step step_delete(const struct op *op, struct model_state *next) {
    bool existed = next->words[0] != 0;
    if (is_unknown(op)) {
        return existed ? changed_to(next, 0) : STEP_NO;
    }
    if (existed != (op->out.integer == 1)) {
        return STEP_NO;
    }
    return existed ? changed_to(next, 0) : STEP_PURE;
}

static enum step step_get(const struct op *op, const struct model_state *state) {
    return cell_of(&op->out) == state->words[0] ? STEP_PURE : STEP_NO;
}

static enum step register_step(const struct model_context *context, const struct op *op,
                               struct model_state *next) {
    (void)context;
    switch (op->kind) {
    case OP_SET:
        return changed_to(next, cell_of(&op->in));
    case OP_GET:
        return step_get(op, next);
    case OP_DELETE:
        return step_delete(op, next);
    default:
        return STEP_NO;
    }
}

static bool register_alike(const struct op *a, const struct op *b) {
    return a->kind == OP_DELETE && b->kind == OP_DELETE;
}

const struct model model_register = {
    .begin = begin_empty,
    .step = register_step,
    .alike = register_alike,
    .aids = register_aids,
    .describe = describe_first,
};

/* --- counters: a missing key counts as 0 ------------------------------------------------------ */

static enum step counter_step(const struct model_context *context, const struct op *op,
                              struct model_state *next) {
    int64_t sum = (int64_t)next->words[0];
    (void)context;
    switch (op->kind) {
    case OP_ADD:
        sum = (int64_t)((uint64_t)sum + (uint64_t)op->in.integer);
        if (!is_unknown(op) && op->out.integer != sum) {
            return STEP_NO;
        }
        next->words[0] = (uint64_t)sum;
        return STEP_CHANGE;
    case OP_GET:
        return (op->out.type == VALUE_NIL ? 0 : op->out.integer) == sum ? STEP_PURE : STEP_NO;
    default:
        return STEP_NO;
    }
}

static bool counter_alike(const struct op *a, const struct op *b) {
    return a->kind == b->kind && a->in.integer == b->in.integer;
}

/* Every sum rests on all that was added before. */
static bool counter_aids(const struct model_context *context, const struct op *a,
                         const struct op *b) {
    (void)context;
    return a->kind == OP_ADD && b->end > a->start;
}

static void counter_describe(const struct model_context *context, const struct model_state *state,
                             char *text, size_t size) {
    (void)context;
    (void)snprintf(text, size, "%" PRId64, (int64_t)state->words[0]);
}

const struct model model_counter = {
    .begin = begin_empty,
    .step = counter_step,
    .alike = counter_alike,
    .aids = counter_aids,
    .describe = counter_describe,
};

/* --- compare and set --------------------------------------------------------------------------
 *
 * words: value, version, whether that is the value's (1) or only one that it must be above (0).
 * IFVER is looked at by the value that was read together with the version: values are unique. */

enum { CAS_VALUE, CAS_VERSION, CAS_IS_ITS_OWN };

static enum step cas_write(struct model_state *next, uint64_t cell) {
    next->words[CAS_VALUE] = cell;
    next->words[CAS_IS_ITS_OWN] = 0;
    return STEP_CHANGE;
}

static enum step cas_compare(const struct op *op, struct model_state *next) {
    uint64_t old = op->old_is_nil ? 0 : (uint64_t)op->other + 1;
    bool holds = next->words[CAS_VALUE] == old;
    if (is_unknown(op)) {
        return holds ? cas_write(next, cell_of(&op->in)) : STEP_NO;
    }
    if (holds != (op->out.integer == 1)) {
        return STEP_NO;
    }
    return holds ? cas_write(next, cell_of(&op->in)) : STEP_PURE;
}

/* The first to read a value's version tells it: it must be above all that were seen before. */
static enum step cas_get_version(const struct op *op, struct model_state *next) {
    uint64_t version = (uint64_t)op->result;
    if (cell_of(&op->out) != next->words[CAS_VALUE]) {
        return STEP_NO;
    }
    if (next->words[CAS_VALUE] == 0) {
        return version == 0 ? STEP_PURE : STEP_NO;
    }
    if (next->words[CAS_IS_ITS_OWN] == 1) {
        return version == next->words[CAS_VERSION] ? STEP_PURE : STEP_NO;
    }
    if (version <= next->words[CAS_VERSION]) {
        return STEP_NO;
    }
    next->words[CAS_VERSION] = version;
    next->words[CAS_IS_ITS_OWN] = 1;
    return STEP_CHANGE;
}

static enum step cas_step(const struct model_context *context, const struct op *op,
                          struct model_state *next) {
    (void)context;
    switch (op->kind) {
    case OP_SET:
        return cas_write(next, cell_of(&op->in));
    case OP_DELETE: {
        enum step step = step_delete(op, next);
        next->words[CAS_IS_ITS_OWN] = step == STEP_CHANGE ? 0 : next->words[CAS_IS_ITS_OWN];
        return step;
    }
    case OP_GET:
        return step_get(op, next);
    case OP_CAS:
    case OP_CASVER:
        return cas_compare(op, next);
    case OP_GETVER:
        return cas_get_version(op, next);
    default:
        return STEP_NO;
    }
}

const struct model model_cas = {
    .begin = begin_empty,
    .step = cas_step,
    .alike = register_alike,
    .aids = register_aids,
    .describe = describe_first,
};

/* --- keys that expire -------------------------------------------------------------------------
 *
 * words: value; from when on (ns) it may be gone; from when on it must be. An operation that finds
 * the key gone may be the one that sees it go. */

enum { TTL_VALUE, TTL_MAY_GO, TTL_MUST_GO };

static uint64_t add_time(uint64_t time, uint64_t more) {
    return time > TIME_NEVER - more ? TIME_NEVER : time + more;
}

static bool is_in_doubt(const struct model_context *context, uint64_t from, uint64_t to,
                        bool early_only) {
    for (size_t i = 0; i < context->n_doubts; i++) {
        const struct doubt *doubt = &context->doubts[i];
        if (doubt->early_only == early_only && from <= doubt->to && to >= doubt->from) {
            return true;
        }
    }
    return false;
}

static void ttl_lives_for(const struct model_context *context, const struct op *op,
                          struct model_state *next) {
    uint64_t ttl = (uint64_t)op->arg * UINT64_C(1000000);
    uint64_t least = (uint64_t)((double)ttl * (1 - context->drift));
    uint64_t most = (uint64_t)((double)ttl * (1 + context->drift));
    least = least > context->early_ns ? least - context->early_ns : 0;
    if (op->arg <= 0) {
        next->words[TTL_MAY_GO] = TIME_NEVER;
        next->words[TTL_MUST_GO] = TIME_NEVER;
        return;
    }
    next->words[TTL_MAY_GO] = op->start + least;
    next->words[TTL_MUST_GO] =
        is_unknown(op) ? TIME_NEVER : add_time(add_time(op->end, most), context->late_ns);
    if (is_in_doubt(context, op->start, next->words[TTL_MAY_GO], true)) {
        next->words[TTL_MAY_GO] = op->start;
    }
    if (is_in_doubt(context, op->start, next->words[TTL_MUST_GO], false)) {
        next->words[TTL_MAY_GO] = op->start;
        next->words[TTL_MUST_GO] = TIME_NEVER;
    }
}

static void ttl_forget(struct model_state *next) {
    memset(next, 0, sizeof *next);
}

static bool may_be_gone(const struct op *op, const struct model_state *state) {
    return state->words[TTL_VALUE] != 0 && op->end >= state->words[TTL_MAY_GO];
}

static bool must_be_gone(const struct op *op, const struct model_state *state) {
    return state->words[TTL_VALUE] != 0 && op->start > state->words[TTL_MUST_GO];
}

/* An operation whose result is `found`: whether the key was there. */
static enum step ttl_meets(const struct op *op, bool found, struct model_state *next) {
    if (found) {
        return next->words[TTL_VALUE] != 0 && !must_be_gone(op, next) ? STEP_PURE : STEP_NO;
    }
    if (next->words[TTL_VALUE] == 0) {
        return STEP_PURE;
    }
    if (!may_be_gone(op, next)) {
        return STEP_NO;
    }
    ttl_forget(next);
    return STEP_CHANGE;
}

static enum step ttl_set(const struct model_context *context, const struct op *op,
                         struct model_state *next) {
    next->words[TTL_VALUE] = cell_of(&op->in);
    ttl_lives_for(context, op, next);
    return STEP_CHANGE;
}

/* PERSIST answers 0 also for a key that is there and does not expire. */
static bool is_idle_persist(const struct op *op, const struct model_state *state) {
    return op->kind == OP_PERSIST && state->words[TTL_VALUE] != 0 &&
           state->words[TTL_MAY_GO] == TIME_NEVER;
}

/* PEXPIRE, PERSIST and DEL answer whether the key was there. */
static enum step ttl_touch(const struct model_context *context, const struct op *op,
                           struct model_state *next) {
    if (is_idle_persist(op, next)) {
        return !is_unknown(op) && op->out.integer == 0 ? STEP_CHANGE : STEP_NO;
    }
    enum step step = ttl_meets(op, is_unknown(op) || op->out.integer == 1, next);
    bool found = step == STEP_PURE && next->words[TTL_VALUE] != 0;
    if (step == STEP_NO || (!found && is_unknown(op))) {
        return STEP_NO;
    }
    if (found && op->kind == OP_DELETE) {
        ttl_forget(next);
    } else if (found) {
        ttl_lives_for(context, op, next);
    }
    return found ? STEP_CHANGE : step;
}

static enum step ttl_step(const struct model_context *context, const struct op *op,
                          struct model_state *next) {
    switch (op->kind) {
    case OP_SET:
        return ttl_set(context, op, next);
    case OP_GET:
        if (cell_of(&op->out) != 0 && cell_of(&op->out) != next->words[TTL_VALUE]) {
            return STEP_NO;
        }
        return ttl_meets(op, cell_of(&op->out) != 0, next);
    case OP_EXPIRE:
    case OP_PERSIST:
    case OP_DELETE:
        return ttl_touch(context, op, next);
    default:
        return STEP_NO;
    }
}

/* Whatever moves an expiry may explain that the key was there, or not. */
static bool ttl_aids(const struct model_context *context, const struct op *a, const struct op *b) {
    (void)context;
    return b->end > a->start && !op_kind_is_read(a->kind);
}

static void ttl_describe(const struct model_context *context, const struct model_state *state,
                         char *text, size_t size) {
    char value[100];
    describe_cell(context, state->words[TTL_VALUE], value, sizeof value);
    if (state->words[TTL_VALUE] == 0 || state->words[TTL_MAY_GO] == TIME_NEVER) {
        (void)snprintf(text, size, "%s", value);
        return;
    }
    (void)snprintf(text, size, "%s, not gone before %" PRIu64 " ns, gone behind %" PRIu64 " ns",
                   value, state->words[TTL_MAY_GO], state->words[TTL_MUST_GO]);
}

const struct model model_ttl = {
    .begin = begin_empty,
    .step = ttl_step,
    .aids = ttl_aids,
    .describe = ttl_describe,
};
