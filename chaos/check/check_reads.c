/* Reads at the levels session and eventual, of counters that only grow. A counter of the workload
 * session has two copies, changed by one transaction; reads take one or the other, so that a
 * session is also held to what it saw of another key. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "chaos/check/report.h"

static int64_t number_of(const struct value *value) {
    return value->type == VALUE_INTEGER ? value->integer : 0;
}

/* The operations of one counter. */
struct counter {
    const struct op **ops; /* by start */
    size_t n;
    const struct op **acknowledged; /* adds, by end */
    int64_t *most;                  /* largest sum of acknowledged[0..i] */
    const struct op **most_op;      /* ... and whose it is */
    size_t n_acknowledged;
    uint64_t *begun; /* starts of adds that may have happened, ascending */
    size_t n_begun;
};

static int by_counter(const void *left, const void *right) {
    const struct op *a = *(const struct op *const *)left;
    const struct op *b = *(const struct op *const *)right;
    if (a->project != b->project) {
        return a->project < b->project ? -1 : 1;
    }
    if (a->key != b->key) {
        return a->key < b->key ? -1 : 1;
    }
    return a->start != b->start ? (a->start < b->start ? -1 : 1) : a < b ? -1 : 1;
}

static int by_end(const void *left, const void *right) {
    const struct op *a = *(const struct op *const *)left;
    const struct op *b = *(const struct op *const *)right;
    return a->end != b->end ? (a->end < b->end ? -1 : 1) : a < b ? -1 : a > b ? 1 : 0;
}

static int by_sum(const void *left, const void *right) {
    const struct op *a = *(const struct op *const *)left;
    const struct op *b = *(const struct op *const *)right;
    if (a->out.integer != b->out.integer) {
        return a->out.integer < b->out.integer ? -1 : 1;
    }
    return a < b ? -1 : a > b ? 1 : 0;
}

static struct counter counter_make(const struct op **ops, size_t n) {
    struct counter counter = {.ops = ops, .n = n};
    counter.acknowledged = mem_zalloc(n + 1, sizeof(const struct op *));
    counter.most_op = mem_zalloc(n + 1, sizeof(const struct op *));
    counter.most = mem_zalloc(n + 1, sizeof *counter.most);
    counter.begun = mem_zalloc(n + 1, sizeof *counter.begun);
    for (size_t i = 0; i < n; i++) {
        if (ops[i]->kind == OP_ADD && ops[i]->outcome != OUTCOME_FAIL) {
            counter.begun[counter.n_begun++] = ops[i]->start;
        }
        if (ops[i]->kind == OP_ADD && ops[i]->outcome == OUTCOME_OK) {
            counter.acknowledged[counter.n_acknowledged++] = ops[i];
        }
    }
    qsort(counter.acknowledged, counter.n_acknowledged, sizeof(const struct op *), by_end);
    for (size_t i = 0; i < counter.n_acknowledged; i++) {
        const struct op *op = counter.acknowledged[i];
        bool is_more = i == 0 || op->out.integer > counter.most[i - 1];
        counter.most[i] = is_more ? op->out.integer : counter.most[i - 1];
        counter.most_op[i] = is_more ? op : counter.most_op[i - 1];
    }
    return counter;
}

static void counter_free(struct counter *counter) {
    mem_free(counter->acknowledged);
    mem_free(counter->most_op);
    mem_free(counter->most);
    mem_free(counter->begun);
}

/* The largest sum that was acknowledged before `time`, and by whom; 0 and NULL for none. */
static int64_t known_before(const struct counter *counter, uint64_t time, const struct op **by) {
    size_t low = 0;
    size_t high = counter->n_acknowledged;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (counter->acknowledged[middle]->end < time) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    *by = low > 0 ? counter->most_op[low - 1] : NULL;
    return low > 0 ? counter->most[low - 1] : 0;
}

/* How many adds had begun at `time`. Each adds 1. */
static int64_t begun_until(const struct counter *counter, uint64_t time) {
    size_t low = 0;
    size_t high = counter->n_begun;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (counter->begun[middle] <= time) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return (int64_t)low;
}

/* No read and no sum comes from nowhere, and no two adds make the same sum. */
static void check_sums(const struct history *history, struct report *report,
                       struct counter *counter) {
    for (size_t i = 0; i < counter->n; i++) {
        const struct op *op = counter->ops[i];
        if (op->outcome == OUTCOME_OK && number_of(&op->out) > begun_until(counter, op->end)) {
            report_pair(report, history, op, NULL, "more was found than had been added by then");
        }
    }
    const struct op **sums = mem_zalloc(counter->n_acknowledged + 1, sizeof(const struct op *));
    for (size_t i = 0; i < counter->n_acknowledged; i++) {
        sums[i] = counter->acknowledged[i];
    }
    qsort(sums, counter->n_acknowledged, sizeof(const struct op *), by_sum);
    for (size_t i = 1; i < counter->n_acknowledged; i++) {
        if (sums[i]->out.integer == sums[i - 1]->out.integer) {
            report_pair(report, history, sums[i - 1], sums[i], "two additions have the same sum");
        }
    }
    mem_free(sums);
}

/* --- session ---------------------------------------------------------------------------------- */

static int by_client(const void *left, const void *right) {
    const struct op *a = *(const struct op *const *)left;
    const struct op *b = *(const struct op *const *)right;
    if (a->client != b->client) {
        return a->client < b->client ? -1 : 1;
    }
    return a->start != b->start ? (a->start < b->start ? -1 : 1) : a < b ? -1 : a > b ? 1 : 0;
}

/* A client is a session: it does one thing after another. */
static void check_sessions(const struct history *history, struct report *report,
                           struct counter *counter) {
    const struct op *best = NULL;
    qsort(counter->ops, counter->n, sizeof(const struct op *), by_client);
    for (size_t i = 0; i < counter->n; i++) {
        const struct op *op = counter->ops[i];
        best = i > 0 && counter->ops[i - 1]->client == op->client ? best : NULL;
        if (op->outcome != OUTCOME_OK) {
            continue;
        }
        report->units += best == NULL ? 1 : 0;
        if (best != NULL && number_of(&op->out) < number_of(&best->out)) {
            report_pair(report, history, best, op,
                        "a session found less than it had seen or written before");
        }
        best = best == NULL || number_of(&op->out) > number_of(&best->out) ? op : best;
    }
}

/* --- eventual --------------------------------------------------------------------------------- */

static void check_staleness(const struct history *history, const struct check_options *options,
                            struct report *report, struct counter *counter) {
    for (size_t i = 0; i < counter->n; i++) {
        const struct op *op = counter->ops[i];
        const struct op *by;
        if (op->kind != OP_GET || op->outcome != OUTCOME_OK || op->arg <= 0) {
            continue;
        }
        uint64_t allowed = ((uint64_t)op->arg + options->stale_ms) * UINT64_C(1000000);
        uint64_t then = op->start > allowed ? op->start - allowed : 0;
        if (number_of(&op->out) < known_before(counter, then, &by)) {
            char why[160];
            (void)snprintf(why, sizeof why,
                           "a read that may be %" PRId64 " ms old (and %" PRIu64
                           " ms more) misses what was acknowledged before that",
                           op->arg, options->stale_ms);
            report_pair(report, history, by, op, why);
        }
    }
}

/* --- both ------------------------------------------------------------------------------------- */

static const struct op **gather(const struct history *history, enum workload workload, size_t *n) {
    const struct op **ops = mem_zalloc(history->n + 1, sizeof(const struct op *));
    *n = 0;
    for (size_t i = 0; i < history->n; i++) {
        if (history->ops[i].workload == workload) {
            ops[(*n)++] = &history->ops[i];
        }
    }
    return ops;
}

static void check_counters(const struct history *history, enum workload workload,
                           const struct check_options *options, struct report *report) {
    size_t n;
    const struct op **ops = gather(history, workload, &n);
    qsort(ops, n, sizeof(const struct op *), by_counter);
    for (size_t from = 0, to; from < n; from = to) {
        to = from;
        while (to < n && ops[to]->project == ops[from]->project && ops[to]->key == ops[from]->key) {
            to++;
        }
        struct counter counter = counter_make(ops + from, to - from);
        check_sums(history, report, &counter);
        if (workload == WORKLOAD_SESSION) {
            check_sessions(history, report, &counter);
        } else {
            report->units++;
            check_staleness(history, options, report, &counter);
        }
        counter_free(&counter);
    }
    mem_free(ops);
}

void check_session(const struct history *history, struct report *report) {
    struct check_options options = check_options_default();
    report->units_are = "sessions and counters";
    check_counters(history, WORKLOAD_SESSION, &options, report);
}

void check_eventual(const struct history *history, const struct check_options *options,
                    struct report *report) {
    report->units_are = "counters";
    check_counters(history, WORKLOAD_EVENTUAL, options, report);
}
