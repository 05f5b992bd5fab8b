/* Watches: what they told must be what happened, each change once, in order, without a gap unless
 * they said so.
 *
 * A stretch is what one watch told from READY on until it told of a gap, over any number of nodes.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "chaos/check/report.h"

struct stretch {
    const struct op *ready;
    const struct op **changes; /* in the order in which they came */
    size_t n;
    size_t capacity;
    int64_t complete;      /* all changes up to this index were told */
    uint64_t newest_start; /* of the writes that were told */
    const struct op *newest;
};

struct watch_check {
    const struct history *history;
    struct report *report;
    struct stretch *stretches;
    size_t n;
    const struct op **writes; /* by key: the only write of this key, or NULL */
    uint32_t *n_writes;       /* by key */
    bool *was_told;           /* by key */
};

static void add_change(struct stretch *stretch, const struct op *change) {
    if (stretch->n == stretch->capacity) {
        stretch->capacity = stretch->capacity == 0 ? 64 : 2 * stretch->capacity;
        stretch->changes =
            mem_realloc(stretch->changes, stretch->capacity * sizeof(const struct op *));
    }
    stretch->changes[stretch->n++] = change;
}

static struct stretch *begin_stretch(struct watch_check *check, const struct op *ready) {
    check->stretches = mem_realloc(check->stretches, (check->n + 1) * sizeof *check->stretches);
    struct stretch *stretch = &check->stretches[check->n++];
    *stretch = (struct stretch){.ready = ready, .complete = ready->arg};
    return stretch;
}

static bool is_write(const struct op *op) {
    return op->kind == OP_SET || op->kind == OP_DELETE;
}

static bool is_set(const struct watch_check *check, const struct op *change) {
    return slice_equal(texts_get(&check->history->texts, change->about), slice_of("set"));
}

/* The write that a change tells of, when its key was written only once. */
static const struct op *write_of(const struct watch_check *check, const struct op *change) {
    return is_set(check, change) ? check->writes[change->key] : NULL;
}

/* --- what each watch tells -------------------------------------------------------------------- */

static void on_change(struct watch_check *check, struct stretch *stretch, const struct op *change) {
    const struct op *last = stretch->n > 0 ? stretch->changes[stretch->n - 1] : stretch->ready;
    const struct op *write = write_of(check, change);
    if (change->arg < last->arg || change->arg <= stretch->complete) {
        report_pair(check->report, check->history, last, change,
                    "a change came behind a later one, or behind word that all was told");
    }
    if (check->n_writes[change->key] == 0) {
        report_pair(check->report, check->history, change, NULL,
                    "a change of a key that nobody wrote");
    } else if (write != NULL && write->outcome == OUTCOME_FAIL) {
        report_pair(check->report, check->history, write, change,
                    "a change by a write that failed");
    }
    if (write != NULL && stretch->newest != NULL && write->end < stretch->newest_start) {
        report_pair(check->report, check->history, write, stretch->newest,
                    "the second write began when the first was done, and was told before it");
    }
    if (write != NULL && write->start >= stretch->newest_start) {
        stretch->newest_start = write->start;
        stretch->newest = write;
    }
    check->was_told[change->key] = true;
    if (change->arg - 1 > stretch->complete) {
        stretch->complete = change->arg - 1;
    }
    add_change(stretch, change);
}

static void read_watch(struct watch_check *check, const struct op *const *ops, size_t n) {
    struct stretch *stretch = NULL;
    for (size_t i = 0; i < n; i++) {
        switch (ops[i]->kind) {
        case OP_READY:
            stretch = stretch == NULL ? begin_stretch(check, ops[i]) : stretch;
            break;
        case OP_GAP:
            stretch = NULL;
            break;
        case OP_PROGRESS:
            if (stretch != NULL && ops[i]->arg > stretch->complete) {
                stretch->complete = ops[i]->arg;
            }
            break;
        case OP_CHANGE:
            if (stretch == NULL) {
                report_pair(check->report, check->history, ops[i], NULL,
                            "a change while the watch was not ready");
            } else {
                on_change(check, stretch, ops[i]);
            }
            break;
        default:
            break;
        }
    }
}

static int by_key(const void *left, const void *right) {
    const struct op *a = *(const struct op *const *)left;
    const struct op *b = *(const struct op *const *)right;
    return a->key != b->key ? (a->key < b->key ? -1 : 1) : a < b ? -1 : a > b ? 1 : 0;
}

static void check_duplicates(struct watch_check *check, const struct stretch *stretch) {
    const struct op **sorted = mem_zalloc(stretch->n + 1, sizeof(const struct op *));
    size_t n = 0;
    for (size_t i = 0; i < stretch->n; i++) {
        if (write_of(check, stretch->changes[i]) != NULL) {
            sorted[n++] = stretch->changes[i];
        }
    }
    qsort(sorted, n, sizeof(const struct op *), by_key);
    for (size_t i = 1; i < n; i++) {
        if (sorted[i]->key == sorted[i - 1]->key) {
            report_pair(check->report, check->history, sorted[i - 1], sorted[i],
                        "a watch told the same change twice");
        }
    }
    mem_free(sorted);
}

/* --- watches against each other --------------------------------------------------------------- */

static size_t first_behind(const struct stretch *stretch, int64_t index) {
    size_t low = 0;
    size_t high = stretch->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (stretch->changes[middle]->arg <= index) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static bool are_same(const struct op *a, const struct op *b) {
    return a->arg == b->arg && a->key == b->key && a->about == b->about;
}

/* Where both were there for all, both must have told the same. */
static void compare(struct watch_check *check, const struct stretch *a, const struct stretch *b) {
    int64_t from = a->ready->arg > b->ready->arg ? a->ready->arg : b->ready->arg;
    int64_t to = a->complete < b->complete ? a->complete : b->complete;
    size_t i = first_behind(a, from);
    size_t k = first_behind(b, from);
    size_t i_end = first_behind(a, to);
    size_t k_end = first_behind(b, to);
    while (i < i_end && k < k_end && are_same(a->changes[i], b->changes[k])) {
        i++;
        k++;
    }
    if (from < to && i < i_end && k < k_end) {
        report_pair(check->report, check->history, a->changes[i], b->changes[k],
                    "two watches do not tell the same at this place");
    } else if (from < to && i < i_end) {
        report_pair(check->report, check->history, b->ready, a->changes[i],
                    "the watch that began with the first line missed the change of the second");
    } else if (from < to && k < k_end) {
        report_pair(check->report, check->history, a->ready, b->changes[k],
                    "the watch that began with the first line missed the change of the second");
    }
}

/* --- watches against writes ------------------------------------------------------------------- */

/* A write that nobody told of although a watch was there before it, and for a write after it. */
static void check_missed(struct watch_check *check, const struct op *write) {
    for (size_t i = 0; i < check->n; i++) {
        const struct stretch *stretch = &check->stretches[i];
        if (stretch->ready->end < write->start && stretch->newest != NULL &&
            write->end < stretch->newest_start && stretch->ready->project == write->project) {
            report_pair(check->report, check->history, write, stretch->newest,
                        "a watch told of the second write, and never of the first");
            return;
        }
    }
}

/* Watches wait for the key that is written last: one that never tells of it is stuck. */
static void check_end(struct watch_check *check, const struct stretch *stretch) {
    const struct history *history = check->history;
    uint32_t last = texts_find(&history->texts, slice_of("wend"));
    const struct op *write = NULL;
    for (size_t i = 0; i < history->n && last != 0 && write == NULL; i++) {
        const struct op *op = &history->ops[i];
        bool is_it = op->workload == WORKLOAD_WATCH && op->kind == OP_SET && op->key == last &&
                     op->project == stretch->ready->project && op->outcome == OUTCOME_OK;
        write = is_it ? op : NULL;
    }
    bool is_told = write == NULL || write->start <= stretch->ready->end;
    for (size_t i = stretch->n; i > 0 && !is_told; i--) {
        is_told = stretch->changes[i - 1]->key == last;
    }
    if (!is_told) {
        report_pair(check->report, history, stretch->ready, write,
                    "the watch that began with the first line never told of the last write");
    }
}

/* By project and client; a client's in the order of their lines. */
static int by_watch(const void *left, const void *right) {
    const struct op *a = *(const struct op *const *)left;
    const struct op *b = *(const struct op *const *)right;
    if (a->project != b->project) {
        return a->project < b->project ? -1 : 1;
    }
    if (a->client != b->client) {
        return a->client < b->client ? -1 : 1;
    }
    return a < b ? -1 : a > b ? 1 : 0;
}

static bool is_of_one_watch(const struct op *a, const struct op *b) {
    return a->project == b->project && a->client == b->client;
}

static void read_watches(struct watch_check *check, const struct op **told, size_t n) {
    qsort(told, n, sizeof(const struct op *), by_watch);
    for (size_t from = 0, to; from < n; from = to) {
        to = from;
        while (to < n && is_of_one_watch(told[to], told[from])) {
            to++;
        }
        check->report->units++;
        read_watch(check, told + from, to - from);
    }
}

static void check_all(struct watch_check *check) {
    const struct history *history = check->history;
    uint64_t missed = 0;
    for (size_t i = 0; i < check->n; i++) {
        check_duplicates(check, &check->stretches[i]);
        if (i + 1 == check->n ||
            !is_of_one_watch(check->stretches[i].ready, check->stretches[i + 1].ready)) {
            check_end(check, &check->stretches[i]);
        }
        for (size_t k = 0; k < i; k++) {
            if (check->stretches[i].ready->project == check->stretches[k].ready->project) {
                compare(check, &check->stretches[i], &check->stretches[k]);
            }
        }
    }
    for (uint32_t key = 1; key <= history->texts.n; key++) {
        const struct op *write = check->writes[key];
        if (write != NULL && write->kind == OP_SET && write->outcome == OUTCOME_OK &&
            !check->was_told[key]) {
            check_missed(check, write);
            missed++;
        }
    }
    if (missed > 0) {
        report_print(check->report,
                     "  note: %" PRIu64 " acknowledged writes were told by no watch (before the "
                     "first was ready, in gaps that were told, or behind the end)\n",
                     missed);
    }
}

void check_watch(const struct history *history, struct report *report) {
    struct watch_check check = {.history = history, .report = report};
    const struct op **told = mem_zalloc(history->n + 1, sizeof(const struct op *));
    size_t n = 0;
    report->units_are = "watches";
    check.writes = mem_zalloc((size_t)history->texts.n + 1, sizeof(const struct op *));
    check.n_writes = mem_zalloc((size_t)history->texts.n + 1, sizeof *check.n_writes);
    check.was_told = mem_zalloc((size_t)history->texts.n + 1, sizeof *check.was_told);
    for (size_t i = 0; i < history->n; i++) {
        const struct op *op = &history->ops[i];
        if (op->workload == WORKLOAD_WATCH && is_write(op)) {
            check.writes[op->key] = check.n_writes[op->key]++ == 0 ? op : NULL;
        } else if (op->workload == WORKLOAD_WATCH) {
            told[n++] = op;
        }
    }
    read_watches(&check, told, n);
    check_all(&check);
    for (size_t i = 0; i < check.n; i++) {
        mem_free(check.stretches[i].changes);
    }
    mem_free(check.stretches);
    mem_free(check.writes);
    mem_free(check.n_writes);
    mem_free(check.was_told);
    mem_free(told);
}
