#include "chaos/check/units.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "chaos/check/explain.h"

unsigned unit_key_slot(struct slice key) {
    unsigned slot = 0;
    size_t at = key.size;
    while (at > 0 && key.data[at - 1] >= '0' && key.data[at - 1] <= '9' && key.size - at < 3) {
        at--;
    }
    if (at == key.size) {
        return UNIT_KEYS;
    }
    for (; at < key.size; at++) {
        slot = slot * 10 + (unsigned)(key.data[at] - '0');
    }
    return slot < UNIT_KEYS ? slot : UNIT_KEYS;
}

struct unit_kind {
    const struct model *model;
    bool is_project;
};

static const struct unit_kind unit_kinds[WORKLOADS] = {
    [WORKLOAD_REGISTER] = {&model_register, false}, [WORKLOAD_LARGE] = {&model_register, false},
    [WORKLOAD_COUNTER] = {&model_counter, false},   [WORKLOAD_CAS] = {&model_cas, false},
    [WORKLOAD_TTL] = {&model_ttl, false},           [WORKLOAD_CLEAR] = {&model_clear, true},
    [WORKLOAD_QUOTA] = {&model_quota, true},        [WORKLOAD_BANK] = {&model_bank, true},
};

static uint64_t unit_of(const struct op *op, bool is_project) {
    return is_project ? op->project : (uint64_t)op->project << 32 | op->key;
}

static int by_project(const void *left, const void *right) {
    const struct op *a = *(const struct op *const *)left;
    const struct op *b = *(const struct op *const *)right;
    if (a->project != b->project) {
        return a->project < b->project ? -1 : 1;
    }
    return a < b ? -1 : a > b ? 1 : 0;
}

static int by_key(const void *left, const void *right) {
    const struct op *a = *(const struct op *const *)left;
    const struct op *b = *(const struct op *const *)right;
    if (unit_of(a, false) != unit_of(b, false)) {
        return unit_of(a, false) < unit_of(b, false) ? -1 : 1;
    }
    return a < b ? -1 : a > b ? 1 : 0;
}

/* A refusal that says something about the state: the only failures that are looked at. */
static bool is_quota_refusal(const struct history *history, const struct op *op) {
    struct slice about = texts_get(&history->texts, op->about);
    return op->workload == WORKLOAD_QUOTA && op->kind == OP_SET && about.size >= 5 &&
           memcmp(about.data, "QUOTA", 5) == 0;
}

static bool counts(const struct history *history, const struct op *op) {
    switch (op->outcome) {
    case OUTCOME_OK:
        return op->kind != OP_PEEK;
    case OUTCOME_FAIL:
        return is_quota_refusal(history, op);
    default:
        return !op_kind_is_read((enum op_kind)op->kind);
    }
}

static void name_unit(const struct history *history, const struct op *op, bool is_project,
                      char *name, size_t size) {
    struct slice key = texts_get(&history->texts, op->key);
    if (is_project) {
        (void)snprintf(name, size, "project %" PRIu32, op->project);
    } else {
        (void)snprintf(name, size, "key %.*s", (int)(key.size < 80 ? key.size : 80),
                       (const char *)key.data);
    }
}

/* --- what needs no search --------------------------------------------------------------------- */

static const struct op *find_open(const struct op *const *ops, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (ops[i]->kind == OP_OPEN) {
            return ops[i];
        }
    }
    return NULL;
}

static int64_t sum_of(const struct history *history, const struct value *list) {
    uint64_t sum = 0; /* wraps, whatever a history says */
    for (unsigned i = 0; list->type == VALUE_LIST && i < list->n; i++) {
        sum += (uint64_t)value_list_at(history, list, i);
    }
    return (int64_t)sum;
}

/* Every read of a bank, fresh or not, must find the whole of its money. */
static void check_totals(const struct history *history, struct report *report,
                         const struct op *const *ops, size_t n, const struct op *open) {
    int64_t total = sum_of(history, &open->in);
    for (size_t i = 0; i < n; i++) {
        bool reads = ops[i]->kind == OP_READ || ops[i]->kind == OP_PEEK;
        /* A replica that is behind may not have the bank yet. */
        bool is_before = ops[i]->kind == OP_PEEK && ops[i]->out.type == VALUE_NIL;
        if (reads && ops[i]->outcome == OUTCOME_OK && !is_before &&
            sum_of(history, &ops[i]->out) != total) {
            char why[120];
            (void)snprintf(why, sizeof why,
                           "project %" PRIu32 ": the total is %" PRId64 " and must be %" PRId64,
                           ops[i]->project, sum_of(history, &ops[i]->out), total);
            report_pair(report, history, ops[i], NULL, why);
        }
    }
}

static void check_used(const struct history *history, struct report *report,
                       const struct op *const *ops, size_t n, const struct op *open) {
    for (size_t i = 0; i < n; i++) {
        const struct value *out = &ops[i]->out;
        if (ops[i]->kind == OP_INFO && ops[i]->outcome == OUTCOME_OK && out->type == VALUE_LIST &&
            out->n == 3 && value_list_at(history, out, 1) > open->in.integer) {
            report_pair(report, history, open, ops[i], "more is used than the quota allows");
        }
    }
}

/* --- units ------------------------------------------------------------------------------------ */

static void search_unit(const struct unit_kind *kind, const struct model_context *context,
                        const struct op *const *ops, size_t n, const struct check_options *options,
                        struct report *report) {
    struct search_result result;
    char name[120];
    search_run(kind->model, context, ops, n, &options->limits, &result);
    report->steps += result.steps;
    report->peak_states =
        result.peak_states > report->peak_states ? result.peak_states : report->peak_states;
    name_unit(context->history, ops[0], kind->is_project, name, sizeof name);
    if (result.verdict == VERDICT_VIOLATION && report_violation(report)) {
        explain_violation(kind->model, context, ops, n, name, &options->limits, report);
    }
    if (result.verdict == VERDICT_UNDECIDED) {
        report->undecided++;
        report->verdict = report->verdict == VERDICT_GOOD ? VERDICT_UNDECIDED : report->verdict;
        report_print(report,
                     "  %s: undecided after %" PRIu64 " steps with %" PRIu64
                     " states in memory (%zu operations); --steps and --states allow more\n",
                     name, result.steps, result.peak_states, n);
    }
}

static uint64_t ns_of(uint64_t ms) {
    return ms == UINT64_MAX ? TIME_NEVER : ms * UINT64_C(1000000);
}

static void check_unit(const struct history *history, const struct unit_kind *kind,
                       const struct op **ops, size_t n, const struct check_options *options,
                       struct report *report) {
    struct model_context context = {.history = history,
                                    .early_ns = ns_of(options->early_ms),
                                    .late_ns = ns_of(options->late_ms),
                                    .drift = options->drift,
                                    .doubts = options->doubts,
                                    .n_doubts = options->n_doubts};
    const struct op *open = find_open(ops, n);
    uint64_t violations = report->violations;
    report->units++;
    if (open != NULL && kind->model == &model_bank) {
        check_totals(history, report, ops, n, open);
    }
    if (open != NULL && kind->model == &model_quota) {
        context.total = open->in.integer;
        check_used(history, report, ops, n, open);
    }
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (counts(history, ops[i])) {
            ops[kept++] = ops[i];
        }
    }
    if (kept > 0 && report->violations == violations) {
        search_unit(kind, &context, ops, kept, options, report);
    }
}

void units_check(const struct history *history, enum workload workload,
                 const struct check_options *options, struct report *report) {
    const struct unit_kind *kind = &unit_kinds[workload];
    const struct op **ops = mem_zalloc(history->n + 1, sizeof(const struct op *));
    size_t n = 0;
    for (size_t i = 0; i < history->n; i++) {
        if (history->ops[i].workload == workload) {
            ops[n++] = &history->ops[i];
        }
    }
    qsort(ops, n, sizeof(const struct op *), kind->is_project ? by_project : by_key);
    report->units_are = kind->is_project ? "projects" : "keys";
    for (size_t from = 0, to; from < n; from = to) {
        to = from + 1;
        while (to < n &&
               unit_of(ops[to], kind->is_project) == unit_of(ops[from], kind->is_project)) {
            to++;
        }
        check_unit(history, kind, ops + from, to - from, options, report);
    }
    mem_free(ops);
}
