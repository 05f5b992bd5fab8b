/* Models of a whole project: clear against everything else, quotas, banks. */
#include <inttypes.h>
#include <stdio.h>

#include "chaos/check/model.h"
#include "chaos/check/units.h"

static bool is_unknown(const struct op *op) {
    return op->outcome == OUTCOME_UNKNOWN;
}

static void begin_empty(const struct model_context *context, struct model_state *state) {
    (void)context;
    memset(state, 0, sizeof *state);
}

static unsigned slot_of_key(const struct model_context *context, uint32_t key) {
    return unit_key_slot(texts_get(&context->history->texts, key));
}

static uint64_t cell_of(const struct value *value) {
    return value->type == VALUE_TEXT ? (uint64_t)value->text + 1 : 0;
}

/* --- clear ------------------------------------------------------------------------------------
 *
 * words: the value of each key, by the number at the end of its name. */

static int64_t count_keys(const struct model_state *state) {
    int64_t n = 0;
    for (unsigned i = 0; i < UNIT_KEYS; i++) {
        n += state->words[i] != 0 ? 1 : 0;
    }
    return n;
}

static enum step clear_delete(const struct op *op, uint64_t *cell) {
    bool existed = *cell != 0;
    if (is_unknown(op) ? !existed : existed != (op->out.integer == 1)) {
        return STEP_NO;
    }
    *cell = 0;
    return existed ? STEP_CHANGE : STEP_PURE;
}

static enum step clear_step(const struct model_context *context, const struct op *op,
                            struct model_state *next) {
    uint64_t *cell = &next->words[op->key != 0 ? slot_of_key(context, op->key) : 0];
    switch (op->kind) {
    case OP_SET:
        *cell = cell_of(&op->in);
        return STEP_CHANGE;
    case OP_GET:
        return cell_of(&op->out) == *cell ? STEP_PURE : STEP_NO;
    case OP_DELETE:
        return clear_delete(op, cell);
    case OP_CLEAR:
        if (is_unknown(op) && count_keys(next) == 0) {
            return STEP_NO;
        }
        memset(next, 0, sizeof *next);
        return STEP_CHANGE;
    case OP_COUNT:
        return op->out.integer == count_keys(next) ? STEP_PURE : STEP_NO;
    default:
        return STEP_NO;
    }
}

static bool clear_alike(const struct op *a, const struct op *b) {
    return a->kind == b->kind && a->key == b->key && a->kind != OP_SET;
}

static bool clear_asks_for(const struct op *op, uint64_t cell) {
    if (is_unknown(op)) {
        return false;
    }
    return (op->kind == OP_GET && cell_of(&op->out) == cell) ||
           (op->kind == OP_DELETE && (op->out.integer == 1) == (cell != 0));
}

static bool clear_aids(const struct model_context *context, const struct op *a,
                       const struct op *b) {
    bool changes = a->kind == OP_SET || a->kind == OP_DELETE || a->kind == OP_CLEAR;
    (void)context;
    if (!changes || b->end <= a->start) {
        return false;
    }
    if (b->kind == OP_COUNT) {
        return true;
    }
    return (a->kind == OP_CLEAR || a->key == b->key) &&
           clear_asks_for(b, a->kind == OP_SET ? cell_of(&a->in) : 0);
}

static void clear_describe(const struct model_context *context, const struct model_state *state,
                           char *text, size_t size) {
    size_t at = 0;
    for (unsigned i = 0; i < UNIT_KEYS && at < size; i++) {
        if (state->words[i] != 0) {
            struct slice value =
                texts_get(&context->history->texts, (uint32_t)(state->words[i] - 1));
            int n = snprintf(text + at, size - at, "%s%u=\"%.*s\"", at > 0 ? " " : "", i,
                             (int)(value.size < 40 ? value.size : 40), (const char *)value.data);
            at += n > 0 ? (size_t)n : 0;
        }
    }
    if (at == 0) {
        (void)snprintf(text, size, "no key at all");
    }
}

const struct model model_clear = {
    .begin = begin_empty,
    .step = clear_step,
    .alike = clear_alike,
    .aids = clear_aids,
    .describe = clear_describe,
};

/* --- quota ------------------------------------------------------------------------------------
 *
 * words: bytes of each key and its value, 0 when it is missing. context->total: the quota. */

static uint64_t bytes_used(const struct model_state *state) {
    uint64_t sum = 0;
    for (unsigned i = 0; i < UNIT_KEYS; i++) {
        sum += state->words[i];
    }
    return sum;
}

static enum step quota_set(const struct model_context *context, const struct op *op,
                           struct model_state *next) {
    uint64_t used = bytes_used(next);
    next->words[slot_of_key(context, op->key)] =
        texts_get(&context->history->texts, op->key).size + (uint64_t)op->in.integer;
    uint64_t wanted = bytes_used(next);
    bool is_too_much = wanted > used && wanted > (uint64_t)context->total;
    if (op->outcome == OUTCOME_FAIL) { /* refused with -QUOTA, the only failure that gets here */
        return is_too_much ? STEP_PURE : STEP_NO;
    }
    return is_too_much ? STEP_NO : STEP_CHANGE;
}

static enum step quota_info(const struct model_context *context, const struct op *op,
                            const struct model_state *state) {
    const struct history *history = context->history;
    bool is_exact = op->out.type == VALUE_LIST && op->out.n == 3 &&
                    value_list_at(history, &op->out, 0) == count_keys(state) &&
                    value_list_at(history, &op->out, 1) == (int64_t)bytes_used(state) &&
                    value_list_at(history, &op->out, 2) == context->total;
    return is_exact ? STEP_PURE : STEP_NO;
}

static enum step quota_step(const struct model_context *context, const struct op *op,
                            struct model_state *next) {
    struct model_state before = *next;
    enum step step;
    switch (op->kind) {
    case OP_OPEN:
        return STEP_PURE;
    case OP_SET:
        step = quota_set(context, op, next);
        if (step != STEP_CHANGE) {
            *next = before;
        }
        return step;
    case OP_DELETE:
        return clear_delete(op, &next->words[slot_of_key(context, op->key)]);
    case OP_INFO:
        return quota_info(context, op, next);
    default:
        return STEP_NO;
    }
}

/* What is stored makes refusals, and what is deleted makes room. */
static bool quota_aids(const struct model_context *context, const struct op *a,
                       const struct op *b) {
    (void)context;
    return b->end > a->start && !op_kind_is_read(a->kind) && a->outcome != OUTCOME_FAIL;
}

static void quota_describe(const struct model_context *context, const struct model_state *state,
                           char *text, size_t size) {
    (void)snprintf(text, size, "%" PRIu64 " of %" PRId64 " bytes in %" PRId64 " keys",
                   bytes_used(state), context->total, count_keys(state));
}

const struct model model_quota = {
    .begin = begin_empty,
    .step = quota_step,
    .aids = quota_aids,
    .describe = quota_describe,
};

/* --- bank -------------------------------------------------------------------------------------
 *
 * words: balances, and behind them how many accounts there are. */

enum { BANK_ACCOUNTS = UNIT_KEYS };

static enum step bank_open(const struct model_context *context, const struct op *op,
                           struct model_state *next) {
    if (op->in.type != VALUE_LIST) {
        return STEP_NO;
    }
    for (unsigned i = 0; i < op->in.n; i++) {
        next->words[i] = (uint64_t)value_list_at(context->history, &op->in, i);
    }
    next->words[BANK_ACCOUNTS] = op->in.n;
    return STEP_CHANGE;
}

/* Whether both accounts have what the list says; no list says nothing. */
static bool both_are(const struct model_context *context, const struct value *list, uint64_t from,
                     uint64_t to) {
    return list->type != VALUE_LIST ||
           (list->n == 2 && value_list_at(context->history, list, 0) == (int64_t)from &&
            value_list_at(context->history, list, 1) == (int64_t)to);
}

static enum step bank_transfer(const struct model_context *context, const struct op *op,
                               struct model_state *next) {
    uint64_t *from = &next->words[slot_of_key(context, op->key)];
    uint64_t *to = &next->words[slot_of_key(context, op->other)];
    *from -= (uint64_t)op->arg;
    *to += (uint64_t)op->arg;
    bool fits = both_are(context, &op->in, *from, *to) &&
                (is_unknown(op) || both_are(context, &op->out, *from, *to));
    return fits ? STEP_CHANGE : STEP_NO;
}

static enum step bank_read(const struct model_context *context, const struct op *op,
                           const struct model_state *state) {
    bool same = op->out.type == VALUE_LIST && op->out.n == state->words[BANK_ACCOUNTS];
    for (unsigned i = 0; same && i < op->out.n; i++) {
        same = value_list_at(context->history, &op->out, i) == (int64_t)state->words[i];
    }
    return same ? STEP_PURE : STEP_NO;
}

static enum step bank_step(const struct model_context *context, const struct op *op,
                           struct model_state *next) {
    switch (op->kind) {
    case OP_OPEN:
        return bank_open(context, op, next);
    case OP_TRANSFER:
        return bank_transfer(context, op, next);
    case OP_READ:
        return bank_read(context, op, next);
    default:
        return STEP_NO;
    }
}

static bool bank_aids(const struct model_context *context, const struct op *a, const struct op *b) {
    (void)context;
    return b->end > a->start && !op_kind_is_read(a->kind);
}

static void bank_describe(const struct model_context *context, const struct model_state *state,
                          char *text, size_t size) {
    size_t at = 0;
    (void)context;
    text[0] = '\0';
    for (unsigned i = 0; i < state->words[BANK_ACCOUNTS] && at < size; i++) {
        int n = snprintf(text + at, size - at, "%s%" PRId64, i > 0 ? " " : "",
                         (int64_t)state->words[i]);
        at += n > 0 ? (size_t)n : 0;
    }
}

const struct model model_bank = {
    .begin = begin_empty,
    .step = bank_step,
    .aids = bank_aids,
    .describe = bank_describe,
};
