#include "tests/sim/model.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "tests/sim/kernel.h"

enum { SLOTS = 32, UNKNOWN_MAX = 64, CONFIGS_MAX = 4096, TABLE = 4 * CONFIGS_MAX };
enum { EFFORT_MAX = 300000 /* worlds looked at for one history */ };

#define SLACK_MS 5

/* A key as the store has it. */
struct cell {
    bool exists;
    bool has_ttl;
    struct model_value value;
    uint64_t gone_from;  /* ns: not gone before this */
    uint64_t gone_until; /* must be gone after this, where the history is strict */
};

struct state {
    struct cell cells[MODEL_KEYS];
};

/* A possible world: what is done so far, and what that led to. */
struct config {
    struct state state;
    uint32_t done;    /* open operations, by slot */
    uint64_t unknown; /* operations of unknown outcome that took effect */
};

struct search {
    const struct history *history;
    unsigned only_key;      /* MODEL_KEYS: all */
    struct config *configs; /* CONFIGS_MAX */
    size_t n;
    size_t n_extended; /* of them, whose followers are known */
    uint16_t *table;   /* hash to 1 + position in `configs`, 0: empty */
    uint64_t effort;
    const struct op *slots[SLOTS];
    uint32_t open;
    const struct op *unknown[UNKNOWN_MAX];
    unsigned n_unknown;
    uint64_t now;
};

size_t history_add(struct history *history, const struct op *op) {
    if (history->n == history->capacity) {
        history->capacity = history->capacity == 0 ? 256 : 2 * history->capacity;
        history->ops = sim_realloc(history->ops, history->capacity * sizeof *history->ops);
    }
    history->ops[history->n] = *op;
    return history->n++;
}

/* ---- the store ---- */

static bool value_equal(const struct model_value *a, const struct model_value *b) {
    uint32_t known = a->size < MODEL_VALUE ? a->size : MODEL_VALUE;
    return a->size == b->size && memcmp(a->data, b->data, known) == 0;
}

static void cell_set(struct cell *cell, const struct model_value *value) {
    memset(cell, 0, sizeof *cell);
    cell->exists = true;
    cell->value = *value;
}

static void cell_clear(struct cell *cell) {
    memset(cell, 0, sizeof *cell);
}

static struct reply integer(int64_t n) {
    return (struct reply){.kind = REPLY_INTEGER, .integer = n};
}

static struct reply value_or_nil(const struct cell *cell) {
    struct reply reply = {.kind = cell->exists ? REPLY_BULK : REPLY_NIL};
    if (cell->exists) {
        reply.bulk = cell->value;
    }
    return reply;
}

static void cell_expire_in(const struct search *search, struct cell *cell, const struct op *op) {
    double drift = search->history->drift;
    uint64_t ttl_ns = (uint64_t)op->number * SIM_MS;
    uint64_t least = (uint64_t)((double)ttl_ns * (1 - drift));
    least = least > SLACK_MS * SIM_MS ? least - SLACK_MS * SIM_MS : 0;
    cell->has_ttl = true;
    cell->gone_from = op->called < search->history->early_until ? 0 : op->called + least;
    uint64_t latest = op->returned == UINT64_MAX ? search->now + 60 * SIM_S : op->returned;
    cell->gone_until = latest + (uint64_t)((double)ttl_ns * (1 + drift)) + 5 * SIM_S;
}

static struct reply do_set(const struct search *search, struct state *state, const struct op *op) {
    struct cell *cell = &state->cells[op->keys[0]];
    struct reply old = value_or_nil(cell);
    bool met = true;
    if ((op->flags & SET_NX) != 0) {
        met = !cell->exists;
    } else if ((op->flags & SET_XX) != 0) {
        met = cell->exists;
    } else if ((op->flags & SET_IFEQ) != 0) {
        met = cell->exists && value_equal(&cell->value, &op->expected);
    }
    if (met) {
        struct cell before = *cell;
        cell_set(cell, &op->values[0]);
        if ((op->flags & SET_PX) != 0) {
            cell_expire_in(search, cell, op);
        } else if ((op->flags & SET_KEEPTTL) != 0 && before.exists && before.has_ttl) {
            cell->has_ttl = true;
            cell->gone_from = before.gone_from;
            cell->gone_until = before.gone_until;
        }
    }
    if ((op->flags & SET_GET) != 0) {
        return old;
    }
    return (struct reply){.kind = met ? REPLY_OK : REPLY_NIL};
}

static bool parse_number(const struct model_value *value, int64_t *number) {
    char text[32];
    if (value->size >= sizeof text) {
        return false;
    }
    memcpy(text, value->data, value->size);
    text[value->size] = '\0';
    char *end;
    *number = strtoll(text, &end, 10);
    char again[32];
    snprintf(again, sizeof again, "%" PRId64, *number);
    return strcmp(again, text) == 0;
}

static struct reply do_incr(struct state *state, const struct op *op) {
    struct cell *cell = &state->cells[op->keys[0]];
    int64_t number = 0;
    if (cell->exists && !parse_number(&cell->value, &number)) {
        return (struct reply){.kind = REPLY_ERROR};
    }
    number += op->number;
    struct model_value value = {0};
    char text[MODEL_VALUE];
    value.size = (uint32_t)snprintf(text, sizeof text, "%" PRId64, number);
    memcpy(value.data, text, value.size);
    if (!cell->exists) {
        cell_set(cell, &value);
    }
    cell->value = value;
    return integer(number);
}

static struct reply do_append(struct state *state, const struct op *op) {
    struct cell *cell = &state->cells[op->keys[0]];
    if (!cell->exists) {
        cell_set(cell, &op->values[0]);
    } else {
        for (uint32_t i = 0; i < op->values[0].size; i++) {
            if (cell->value.size < MODEL_VALUE) {
                cell->value.data[cell->value.size] = op->values[0].data[i];
            }
            cell->value.size++;
        }
    }
    return integer(cell->value.size);
}

/* GETRANGE key 0 number */
static struct reply do_getrange(const struct state *state, const struct op *op) {
    const struct cell *cell = &state->cells[op->keys[0]];
    struct reply reply = {.kind = REPLY_BULK};
    uint32_t n = (uint32_t)op->number + 1;
    ASSERT(n <= MODEL_VALUE);
    if (cell->exists) {
        reply.bulk.size = cell->value.size < n ? cell->value.size : n;
        memcpy(reply.bulk.data, cell->value.data, reply.bulk.size);
    }
    return reply;
}

static struct reply do_mset(struct state *state, const struct op *op) {
    if (op->kind == OP_MSETNX) {
        for (unsigned i = 0; i < op->n_keys; i++) {
            if (state->cells[op->keys[i]].exists) {
                return integer(0);
            }
        }
    }
    for (unsigned i = 0; i < op->n_keys; i++) {
        cell_set(&state->cells[op->keys[i]], &op->values[i]);
    }
    return op->kind == OP_MSETNX ? integer(1) : (struct reply){.kind = REPLY_OK};
}

static struct reply do_move(struct state *state, const struct op *op) {
    struct cell *from = &state->cells[op->keys[0]];
    struct cell *to = &state->cells[op->keys[1]];
    if (op->kind == OP_COPY) {
        if (!from->exists || to->exists) {
            return integer(0);
        }
        *to = *from;
        return integer(1);
    }
    if (!from->exists) {
        return (struct reply){.kind = REPLY_ERROR};
    }
    struct cell moved = *from;
    cell_clear(from);
    *to = moved;
    return (struct reply){.kind = REPLY_OK};
}

static struct reply do_count(struct state *state, const struct op *op) {
    int64_t n = 0;
    if (op->kind == OP_DBSIZE) {
        for (unsigned i = 0; i < MODEL_KEYS; i++) {
            n += state->cells[i].exists ? 1 : 0;
        }
        return integer(n);
    }
    for (unsigned i = 0; i < op->n_keys; i++) {
        struct cell *cell = &state->cells[op->keys[i]];
        n += cell->exists ? 1 : 0;
        if (op->kind == OP_DEL) {
            cell_clear(cell);
        }
    }
    return integer(n);
}

static struct reply carry_out(const struct search *search, struct state *state,
                              const struct op *op) {
    struct cell *cell = op->n_keys > 0 ? &state->cells[op->keys[0]] : NULL;
    struct reply reply = {.kind = REPLY_NIL};
    switch (op->kind) {
    case OP_GET:
        return value_or_nil(cell);
    case OP_SET:
        return do_set(search, state, op);
    case OP_DEL:
    case OP_EXISTS:
    case OP_DBSIZE:
        return do_count(state, op);
    case OP_INCRBY:
        return do_incr(state, op);
    case OP_APPEND:
        return do_append(state, op);
    case OP_STRLEN:
        return integer(cell->exists ? cell->value.size : 0);
    case OP_GETDEL:
        reply = value_or_nil(cell);
        cell_clear(cell);
        return reply;
    case OP_PERSIST:
        reply = integer(cell->exists && cell->has_ttl ? 1 : 0);
        cell->has_ttl = false;
        cell->gone_from = 0;
        cell->gone_until = 0;
        return reply;
    case OP_PEXPIRE:
        if (!cell->exists) {
            return integer(0);
        }
        cell_expire_in(search, cell, op);
        return integer(1);
    case OP_PTTL:
        return integer(!cell->exists ? -2 : cell->has_ttl ? 1 : -1);
    case OP_GETRANGE:
        return do_getrange(state, op);
    case OP_DELEX:
        if (!cell->exists || !value_equal(&cell->value, &op->expected)) {
            return integer(0);
        }
        cell_clear(cell);
        return integer(1);
    case OP_MSET:
    case OP_MSETNX:
        return do_mset(state, op);
    case OP_MGET:
        reply.kind = REPLY_ARRAY;
        reply.n = op->n_keys;
        for (unsigned i = 0; i < op->n_keys; i++) {
            const struct cell *item = &state->cells[op->keys[i]];
            reply.is_nil[i] = !item->exists;
            if (item->exists) {
                reply.items[i] = item->value;
            }
        }
        return reply;
    case OP_RENAME:
    case OP_COPY:
        return do_move(state, op);
    case OP_FLUSHDB:
        memset(state, 0, sizeof *state);
        return (struct reply){.kind = REPLY_OK};
    case OP_KINDS:
        break;
    }
    ASSERT(false);
    return reply;
}

static bool reply_matches(const struct op *op, const struct reply *expected) {
    const struct reply *got = &op->reply;
    if (op->kind == OP_PTTL && got->kind == REPLY_INTEGER) {
        return expected->integer == 1 ? got->integer >= 0 : got->integer == expected->integer;
    }
    if (got->kind != expected->kind) {
        return false;
    }
    switch (got->kind) {
    case REPLY_INTEGER:
        return got->integer == expected->integer;
    case REPLY_BULK:
        return value_equal(&got->bulk, &expected->bulk);
    case REPLY_ARRAY:
        for (unsigned i = 0; i < got->n; i++) {
            if (got->is_nil[i] != expected->is_nil[i] ||
                (!got->is_nil[i] && !value_equal(&got->items[i], &expected->items[i]))) {
                return false;
            }
        }
        return got->n == expected->n;
    case REPLY_NIL:
    case REPLY_OK:
    case REPLY_ERROR:
        return true;
    }
    return false;
}

/* ---- the search ---- */

static bool concerns(const struct search *search, const struct op *op) {
    return search->only_key == MODEL_KEYS || op->keys[0] == search->only_key;
}

static uint64_t config_hash(const struct config *config) {
    const uint64_t *words = (const uint64_t *)(const void *)&config->state;
    uint64_t hash = config->done;
    for (size_t i = 0; i < sizeof config->state / sizeof *words; i++) {
        hash = (hash ^ words[i]) * 0x9e3779b97f4a7c15U;
        hash ^= hash >> 32;
    }
    return hash;
}

static_assert(sizeof(struct state) % sizeof(uint64_t) == 0, "hashed by words");

static void table_clear(struct search *search) {
    memset(search->table, 0, TABLE * sizeof *search->table);
}

/* An equal world in which fewer of the unknown operations are used up allows whatever this one
 * allows, and takes its place, unless what the other leads to has been looked at already. False
 * when there are too many. */
static bool config_add(struct search *search, const struct config *config) {
    size_t at = (size_t)(config_hash(config) % TABLE);
    if (++search->effort > EFFORT_MAX) {
        return false;
    }
    for (; search->table[at] != 0; at = (at + 1) % TABLE) {
        struct config *other = &search->configs[search->table[at] - 1];
        if (other->done == config->done &&
            memcmp(&other->state, &config->state, sizeof config->state) == 0) {
            if ((other->unknown & ~config->unknown) == 0) {
                return true;
            }
            bool is_extended = search->table[at] <= search->n_extended;
            if (!is_extended && (config->unknown & ~other->unknown) == 0) {
                other->unknown = config->unknown;
                return true;
            }
        }
    }
    if (search->n == CONFIGS_MAX) {
        return false;
    }
    search->configs[search->n++] = *config;
    search->table[at] = (uint16_t)search->n;
    return true;
}

static bool is_read(enum op_kind kind) {
    return kind == OP_GET || kind == OP_EXISTS || kind == OP_STRLEN || kind == OP_PTTL ||
           kind == OP_GETRANGE || kind == OP_MGET || kind == OP_DBSIZE;
}

/* Whether a key still exists that must be gone before the operation was called. */
static bool is_overdue(const struct search *search, const struct config *config,
                       const struct op *op) {
    for (unsigned i = 0; i < MODEL_KEYS && op->called >= search->history->strict_from; i++) {
        const struct cell *cell = &config->state.cells[i];
        if (cell->exists && cell->has_ttl && cell->gone_until < op->called) {
            return true;
        }
    }
    return false;
}

/* The worlds that one more operation, or the expiry of a key, leads to. */
static bool extend(struct search *search, struct config config) {
    /* A read that fits may as well happen now: it changes nothing for the others. */
    for (unsigned s = 0; s < SLOTS; s++) {
        uint32_t bit = (uint32_t)1 << s;
        if ((search->open & bit) != 0 && (config.done & bit) == 0 &&
            is_read(search->slots[s]->kind) && !is_overdue(search, &config, search->slots[s])) {
            struct reply expected = carry_out(search, &config.state, search->slots[s]);
            if (reply_matches(search->slots[s], &expected)) {
                struct config next = config;
                next.done |= bit;
                return config_add(search, &next);
            }
        }
    }
    for (unsigned i = 0; i < MODEL_KEYS; i++) {
        const struct cell *cell = &config.state.cells[i];
        if (cell->exists && cell->has_ttl && search->now >= cell->gone_from) {
            struct config next = config;
            cell_clear(&next.state.cells[i]);
            if (!config_add(search, &next)) {
                return false;
            }
        }
    }
    for (unsigned s = 0; s < SLOTS; s++) {
        uint32_t bit = (uint32_t)1 << s;
        if ((search->open & bit) == 0 || (config.done & bit) != 0) {
            continue;
        }
        const struct op *op = search->slots[s];
        struct config next = config;
        struct reply expected = carry_out(search, &next.state, op);
        if (!is_overdue(search, &config, op) && reply_matches(op, &expected)) {
            next.done |= bit;
            if (!config_add(search, &next)) {
                return false;
            }
        }
    }
    for (unsigned u = 0; u < search->n_unknown; u++) {
        uint64_t bit = (uint64_t)1 << u;
        if ((config.unknown & bit) != 0) {
            continue;
        }
        struct config next = config;
        (void)carry_out(search, &next.state, search->unknown[u]);
        next.unknown |= bit;
        if (memcmp(&next.state, &config.state, sizeof next.state) != 0 &&
            !config_add(search, &next)) {
            return false;
        }
    }
    return true;
}

/* The operation in the slot returns: only worlds in which it has taken effect remain. */
static enum verdict on_return(struct search *search, unsigned slot) {
    uint32_t bit = (uint32_t)1 << slot;
    for (size_t i = 0; i < search->n; i++) {
        search->n_extended = i + 1;
        if ((search->configs[i].done & bit) == 0 && !extend(search, search->configs[i])) {
            return VERDICT_TOO_HARD;
        }
    }
    search->n_extended = 0;
    size_t kept = 0;
    size_t n = search->n;
    search->n = 0;
    search->open &= ~bit;
    table_clear(search);
    for (size_t i = 0; i < n; i++) {
        struct config config = search->configs[i];
        if ((config.done & bit) != 0) {
            config.done &= ~bit;
            if (!config_add(search, &config)) {
                return VERDICT_TOO_HARD;
            }
            kept++;
        }
    }
    return kept > 0 ? VERDICT_GOOD : VERDICT_BAD;
}

static bool on_call(struct search *search, const struct op *op) {
    if (op->returned == UINT64_MAX) {
        if (search->n_unknown == UNKNOWN_MAX) {
            return false;
        }
        search->unknown[search->n_unknown++] = op;
        return true;
    }
    for (unsigned s = 0; s < SLOTS; s++) {
        if ((search->open & ((uint32_t)1 << s)) == 0) {
            search->open |= (uint32_t)1 << s;
            search->slots[s] = op;
            return true;
        }
    }
    return false;
}

struct moment {
    uint64_t at;
    bool is_return;
    const struct op *op;
    size_t order;
};

static int by_time(const void *a, const void *b) {
    const struct moment *x = a;
    const struct moment *y = b;
    if (x->at != y->at) {
        return x->at < y->at ? -1 : 1;
    }
    if (x->is_return != y->is_return) {
        return x->is_return ? 1 : -1;
    }
    return x->order < y->order ? -1 : 1;
}

static void explain(const struct search *search, const struct moment *moments, size_t at, char *why,
                    size_t size) {
    char text[200];
    op_print(moments[at].op, text, sizeof text);
    int n = snprintf(why, size, "not explainable: %s; before it:", text);
    size_t first = at > 14 ? at - 14 : 0;
    for (size_t i = first; i < at && n > 0 && (size_t)n < size; i++) {
        if (moments[i].is_return || moments[i].op->returned == UINT64_MAX) {
            op_print(moments[i].op, text, sizeof text);
            n += snprintf(why + n, size - (size_t)n, "\n    %s", text);
        }
    }
    (void)search;
}

static enum verdict check_part(const struct history *history, unsigned only_key, char *why,
                               size_t size) {
    struct search search = {.history = history, .only_key = only_key};
    struct moment *moments = sim_alloc((2 * history->n + 1) * sizeof *moments);
    size_t n = 0;
    for (size_t i = 0; i < history->n; i++) {
        const struct op *op = &history->ops[i];
        if (!concerns(&search, op)) {
            continue;
        }
        moments[n++] = (struct moment){.at = op->called, .op = op, .order = i};
        if (op->returned != UINT64_MAX) {
            moments[n++] =
                (struct moment){.at = op->returned, .is_return = true, .op = op, .order = i};
        }
    }
    qsort(moments, n, sizeof *moments, by_time);
    struct config empty;
    memset(&empty, 0, sizeof empty);
    search.configs = sim_alloc(CONFIGS_MAX * sizeof *search.configs);
    search.table = sim_alloc(TABLE * sizeof *search.table);
    (void)config_add(&search, &empty);
    enum verdict verdict = VERDICT_GOOD;
    for (size_t i = 0; i < n && verdict == VERDICT_GOOD; i++) {
        search.now = moments[i].at;
        if (!moments[i].is_return) {
            verdict = on_call(&search, moments[i].op) ? VERDICT_GOOD : VERDICT_TOO_HARD;
            continue;
        }
        unsigned slot = 0;
        while (search.slots[slot] != moments[i].op || (search.open & ((uint32_t)1 << slot)) == 0) {
            slot++;
        }
        verdict = on_return(&search, slot);
        if (verdict == VERDICT_BAD) {
            explain(&search, moments, i, why, size);
        }
    }
    sim_free(search.configs);
    sim_free(search.table);
    sim_free(moments);
    return verdict;
}

enum verdict history_check(const struct history *history, char *why, size_t size) {
    if (history->multi_key) {
        return check_part(history, MODEL_KEYS, why, size);
    }
    enum verdict worst = VERDICT_GOOD;
    for (unsigned key = 0; key < MODEL_KEYS; key++) {
        enum verdict verdict = check_part(history, key, why, size);
        if (verdict == VERDICT_BAD) {
            return verdict;
        }
        worst = verdict == VERDICT_GOOD ? worst : verdict;
    }
    return worst;
}

/* ---- for people ---- */

static const char *const op_names[] = {"GET",    "SET",      "DEL",    "EXISTS",  "INCRBY",
                                       "APPEND", "STRLEN",   "GETDEL", "PERSIST", "PEXPIRE",
                                       "PTTL",   "GETRANGE", "DELEX",  "MSET",    "MSETNX",
                                       "MGET",   "RENAME",   "COPY",   "DBSIZE",  "FLUSHDB"};

static int print_reply(const struct op *op, char *text, size_t size) {
    const struct reply *reply = &op->reply;
    if (op->returned == UINT64_MAX) {
        return snprintf(text, size, "unknown");
    }
    switch (reply->kind) {
    case REPLY_NIL:
        return snprintf(text, size, "nil");
    case REPLY_OK:
        return snprintf(text, size, "OK");
    case REPLY_INTEGER:
        return snprintf(text, size, "%" PRId64, reply->integer);
    case REPLY_BULK:
    case REPLY_ERROR:
        return snprintf(text, size, "\"%.*s\"",
                        (int)(reply->bulk.size < MODEL_VALUE ? reply->bulk.size : MODEL_VALUE),
                        reply->bulk.data);
    case REPLY_ARRAY:
        return snprintf(text, size, "array of %u", reply->n);
    }
    return 0;
}

void op_print(const struct op *op, char *text, size_t size) {
    int n = snprintf(text, size, "client %u %s", op->client, op_names[op->kind]);
    for (unsigned i = 0; i < op->n_keys && (size_t)n < size; i++) {
        n += snprintf(text + n, size - (size_t)n, " k%u", op->keys[i]);
        if (op->values[i].size > 0 && (size_t)n < size) {
            n += snprintf(text + n, size - (size_t)n, " \"%.*s\"", (int)op->values[i].size,
                          op->values[i].data);
        }
    }
    if ((size_t)n < size) {
        n += snprintf(text + n, size - (size_t)n, " flags=%u n=%" PRId64 " -> ", op->flags,
                      op->number);
    }
    if ((size_t)n < size) {
        n += print_reply(op, text + n, size - (size_t)n);
    }
    if ((size_t)n < size) {
        snprintf(text + n, size - (size_t)n, " [%.6f, %.6f]", (double)op->called / 1e9,
                 op->returned == UINT64_MAX ? 0.0 : (double)op->returned / 1e9);
    }
}
