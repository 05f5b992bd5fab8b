/* Histories: what clients did, when, and what came of it. Format: docs/chaos.md, section "History".
 *
 * Strict: whatever is not in that format is refused with the number of its line. */
#ifndef CHAOS_CHECK_HISTORY_H
#define CHAOS_CHECK_HISTORY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/error.h"
#include "chaos/check/texts.h"

#define HISTORY_WORKLOADS(X)                                                                       \
    X(REGISTER, "register")                                                                        \
    X(COUNTER, "counter")                                                                          \
    X(CAS, "cas")                                                                                  \
    X(BANK, "bank")                                                                                \
    X(CLEAR, "clear")                                                                              \
    X(QUOTA, "quota")                                                                              \
    X(TTL, "ttl")                                                                                  \
    X(SESSION, "session")                                                                          \
    X(EVENTUAL, "eventual")                                                                        \
    X(WATCH, "watch")                                                                              \
    X(LARGE, "large")

enum workload {
#define WORKLOAD_ENUM(symbol, name) WORKLOAD_##symbol,
    HISTORY_WORKLOADS(WORKLOAD_ENUM)
#undef WORKLOAD_ENUM
        WORKLOADS
};

/* What clients do. Which workload has which, with which fields: docs/chaos.md. */
#define HISTORY_OPS(X)                                                                             \
    X(SET, "set")                                                                                  \
    X(GET, "get")                                                                                  \
    X(DELETE, "delete")                                                                            \
    X(ADD, "add")                                                                                  \
    X(CAS, "cas")                                                                                  \
    X(CASVER, "casver")                                                                            \
    X(GETVER, "getver")                                                                            \
    X(OPEN, "open")                                                                                \
    X(TRANSFER, "transfer")                                                                        \
    X(READ, "read")                                                                                \
    X(PEEK, "peek")                                                                                \
    X(CLEAR, "clear")                                                                              \
    X(COUNT, "count")                                                                              \
    X(INFO, "info")                                                                                \
    X(EXPIRE, "expire")                                                                            \
    X(PERSIST, "persist")                                                                          \
    X(READY, "ready")                                                                              \
    X(CHANGE, "change")                                                                            \
    X(PROGRESS, "progress")                                                                        \
    X(GAP, "gap")                                                                                  \
    X(END, "end")

enum op_kind {
#define OP_ENUM(symbol, name) OP_##symbol,
    HISTORY_OPS(OP_ENUM)
#undef OP_ENUM
        OP_KINDS
};

enum value_type { VALUE_NONE, VALUE_NIL, VALUE_INTEGER, VALUE_TEXT, VALUE_LIST };

enum { HISTORY_LIST = 16 /* numbers in a list */ };

struct value {
    uint8_t type; /* enum value_type */
    uint8_t n;    /* of a list */
    uint32_t text;
    int64_t integer; /* of a list: index of the first number in history->numbers */
};

enum outcome {
    OUTCOME_OK,
    OUTCOME_FAIL,   /* surely without effect */
    OUTCOME_UNKNOWN /* may have had its effect at any time behind its start, or never */
};

#define TIME_NEVER UINT64_MAX

struct op {
    uint64_t number; /* unique in the history; 0 for what a watch told */
    uint64_t start;  /* ns */
    uint64_t end;    /* ns; TIME_NEVER when the outcome is unknown */
    int64_t arg;     /* ttl, ver, amount, stale or i, whichever the operation has; else 0 */
    int64_t result;  /* ver or i of the completion; else 0 */
    struct value in; /* v of the invocation */
    struct value out;
    uint32_t client;
    uint32_t line;    /* of the invocation */
    uint32_t project; /* p */
    uint32_t key;     /* texts from here on, 0: none */
    uint32_t other;   /* old or to */
    uint32_t node;
    uint32_t about; /* err, or the kind of a change */
    uint8_t kind;   /* enum op_kind */
    uint8_t outcome;
    uint8_t workload;
    bool old_is_nil;   /* "old":null */
    bool is_completed; /* there is a line that says so */
};

struct history {
    struct op *ops; /* in the order of their invocations' lines */
    size_t n;
    size_t capacity;
    int64_t *numbers;
    size_t n_numbers;
    size_t numbers_capacity;
    struct texts texts;
    uint64_t *seen; /* numbers of operations: hash table of index + 1 */
    size_t slots;
    uint64_t lines;
    uint64_t memory_max; /* bytes; 0: no bound */
};

/* Reads one line, without its end. ERROR_SYNTAX with a message that says what is wrong and not
 * where; ERROR_TOOBIG beyond memory_max. */
enum error_code history_add_line(struct history *history, struct slice line, struct error *error);
/* Adds a file; several may be read one after another if numbers of operations differ. The message
 * names file and line. `only`: a workload, or WORKLOADS for all; of others only the form is
 * checked. */
enum error_code history_read(struct history *history, const char *path, enum workload only,
                             struct error *error);
void history_free(struct history *history);

const char *workload_name(enum workload workload);
/* WORKLOADS when there is none of that name. */
enum workload workload_find(struct slice name);
const char *op_kind_name(enum op_kind kind);
/* Whether the operation cannot change anything. */
bool op_kind_is_read(enum op_kind kind);
int64_t value_list_at(const struct history *history, const struct value *value, unsigned at);

#endif
