#include <inttypes.h>

#include "chaos/check/report.h"
#include "chaos/check/units.h"

/* What an operation of a workload must carry: bits by enum value_type. */
enum { NONE = 1 << VALUE_NONE, NIL = 1 << VALUE_NIL, INTEGER = 1 << VALUE_INTEGER };
enum { TEXT = 1 << VALUE_TEXT, LIST = 1 << VALUE_LIST, ANY = 31 };
enum key_need { NO_KEY, KEY, SLOT /* a key that ends in a number below UNIT_KEYS */ };

struct shape {
    enum workload workload;
    enum op_kind kind;
    enum key_need key;
    unsigned in;
    unsigned out; /* when it is ok */
    bool needs_other;
};

static const struct shape shapes[] = {
    {WORKLOAD_REGISTER, OP_SET, KEY, TEXT, ANY, false},
    {WORKLOAD_REGISTER, OP_GET, KEY, NONE, NIL | TEXT, false},
    {WORKLOAD_REGISTER, OP_DELETE, KEY, NONE, INTEGER, false},
    {WORKLOAD_LARGE, OP_SET, KEY, TEXT, ANY, false},
    {WORKLOAD_LARGE, OP_GET, KEY, NONE, NIL | TEXT, false},
    {WORKLOAD_LARGE, OP_DELETE, KEY, NONE, INTEGER, false},
    {WORKLOAD_COUNTER, OP_ADD, KEY, INTEGER, INTEGER, false},
    {WORKLOAD_COUNTER, OP_GET, KEY, NONE, NIL | INTEGER, false},
    {WORKLOAD_CAS, OP_SET, KEY, TEXT, ANY, false},
    {WORKLOAD_CAS, OP_GET, KEY, NONE, NIL | TEXT, false},
    {WORKLOAD_CAS, OP_GETVER, KEY, NONE, NIL | TEXT, false},
    {WORKLOAD_CAS, OP_DELETE, KEY, NONE, INTEGER, false},
    {WORKLOAD_CAS, OP_CAS, KEY, TEXT, INTEGER, true},
    {WORKLOAD_CAS, OP_CASVER, KEY, TEXT, INTEGER, true},
    {WORKLOAD_TTL, OP_SET, KEY, TEXT, ANY, false},
    {WORKLOAD_TTL, OP_GET, KEY, NONE, NIL | TEXT, false},
    {WORKLOAD_TTL, OP_DELETE, KEY, NONE, INTEGER, false},
    {WORKLOAD_TTL, OP_EXPIRE, KEY, NONE, INTEGER, false},
    {WORKLOAD_TTL, OP_PERSIST, KEY, NONE, INTEGER, false},
    {WORKLOAD_CLEAR, OP_SET, SLOT, TEXT, ANY, false},
    {WORKLOAD_CLEAR, OP_GET, SLOT, NONE, NIL | TEXT, false},
    {WORKLOAD_CLEAR, OP_DELETE, SLOT, NONE, INTEGER, false},
    {WORKLOAD_CLEAR, OP_CLEAR, NO_KEY, NONE, ANY, false},
    {WORKLOAD_CLEAR, OP_COUNT, NO_KEY, NONE, INTEGER, false},
    {WORKLOAD_QUOTA, OP_OPEN, NO_KEY, INTEGER, ANY, false},
    {WORKLOAD_QUOTA, OP_SET, SLOT, INTEGER, ANY, false},
    {WORKLOAD_QUOTA, OP_DELETE, SLOT, NONE, INTEGER, false},
    {WORKLOAD_QUOTA, OP_INFO, NO_KEY, NONE, LIST, false},
    {WORKLOAD_BANK, OP_OPEN, NO_KEY, LIST, ANY, false},
    {WORKLOAD_BANK, OP_TRANSFER, SLOT, NONE | LIST, NONE | LIST, true},
    {WORKLOAD_BANK, OP_READ, NO_KEY, NONE, LIST, false},
    {WORKLOAD_BANK, OP_PEEK, NO_KEY, NONE, NIL | LIST, false},
    {WORKLOAD_SESSION, OP_ADD, KEY, INTEGER, INTEGER, false},
    {WORKLOAD_SESSION, OP_GET, KEY, NONE, NIL | INTEGER, false},
    {WORKLOAD_EVENTUAL, OP_ADD, KEY, INTEGER, INTEGER, false},
    {WORKLOAD_EVENTUAL, OP_GET, KEY, NONE, NIL | INTEGER, false},
    {WORKLOAD_WATCH, OP_SET, KEY, NONE | TEXT, ANY, false},
    {WORKLOAD_WATCH, OP_DELETE, KEY, NONE, INTEGER, false},
    {WORKLOAD_WATCH, OP_READY, NO_KEY, NONE, NONE, false},
    {WORKLOAD_WATCH, OP_CHANGE, KEY, NONE, NONE, false},
    {WORKLOAD_WATCH, OP_PROGRESS, NO_KEY, NONE, NONE, false},
    {WORKLOAD_WATCH, OP_GAP, NO_KEY, NONE, NONE, false},
    {WORKLOAD_WATCH, OP_END, NO_KEY, NONE, NONE, false},
};

static const struct shape *shape_of(const struct op *op) {
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (shapes[i].workload == op->workload && shapes[i].kind == op->kind) {
            return &shapes[i];
        }
    }
    return NULL;
}

static bool is_slot(const struct history *history, uint32_t key) {
    return key != 0 && unit_key_slot(texts_get(&history->texts, key)) < UNIT_KEYS;
}

static bool fits(const struct history *history, const struct shape *shape, const struct op *op) {
    bool adds_one = op->kind != OP_ADD || op->workload == WORKLOAD_COUNTER || op->in.integer == 1;
    bool has_other = op->other != 0 || op->old_is_nil;
    return (shape->key == NO_KEY || op->key != 0) &&
           (shape->key != SLOT || is_slot(history, op->key)) &&
           (shape->in >> op->in.type & 1) != 0 &&
           (op->outcome != OUTCOME_OK || (shape->out >> op->out.type & 1) != 0) &&
           (!shape->needs_other || has_other) && adds_one &&
           (op->kind != OP_TRANSFER || is_slot(history, op->other));
}

static enum error_code check_shapes(const struct history *history, enum workload workload,
                                    struct error *error) {
    for (size_t i = 0; i < history->n; i++) {
        const struct op *op = &history->ops[i];
        const struct shape *shape = op->workload == workload ? shape_of(op) : NULL;
        if (op->workload == workload && (shape == NULL || !fits(history, shape, op))) {
            return error_set(error, ERROR_SYNTAX,
                             "line %" PRIu32 ": %s of the workload %s is not as docs/chaos.md "
                             "describes it: operation, key or values",
                             op->line, op_kind_name((enum op_kind)op->kind),
                             workload_name(workload));
        }
    }
    return ERROR_NONE;
}

static void count_operations(const struct history *history, enum workload workload,
                             struct report *report) {
    for (size_t i = 0; i < history->n; i++) {
        const struct op *op = &history->ops[i];
        if (op->workload == workload) {
            report->operations++;
            report->unknown += op->outcome == OUTCOME_UNKNOWN ? 1 : 0;
            report->failed += op->outcome == OUTCOME_FAIL ? 1 : 0;
        }
    }
}

enum error_code check_workload(const struct history *history, enum workload workload,
                               const struct check_options *options, struct report *report,
                               struct error *error) {
    *report = (struct report){.workload = workload, .units_are = "keys"};
    enum error_code code = check_shapes(history, workload, error);
    if (code != ERROR_NONE) {
        return code;
    }
    count_operations(history, workload, report);
    switch (workload) {
    case WORKLOAD_SESSION:
        check_session(history, report);
        break;
    case WORKLOAD_EVENTUAL:
        check_eventual(history, options, report);
        break;
    case WORKLOAD_WATCH:
        check_watch(history, report);
        break;
    default:
        units_check(history, workload, options, report);
        break;
    }
    return ERROR_NONE;
}
