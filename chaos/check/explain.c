#include "chaos/check/explain.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"

enum {
    SHRINK_OPS = 600, /* longer windows are not thinned out, only cut off */
    SHOWN_OPS = 40,   /* the last ones of a window that stayed long */
    BAR = 40          /* characters of the picture */
};

struct window {
    struct op *ops; /* copies */
    size_t n;
    uint64_t until; /* end of the last operation that ends: the one that cannot be placed */
};

struct shrinking {
    const struct model *model;
    const struct model_context *context;
    struct search_limits limits;
    uint64_t steps_left;
};

static bool is_violation(struct shrinking *shrinking, const struct window *window,
                         struct search_result *result) {
    const struct op **list = mem_zalloc(window->n + 1, sizeof(const struct op *));
    for (size_t i = 0; i < window->n; i++) {
        list[i] = &window->ops[i];
    }
    struct search_limits limits = shrinking->limits;
    limits.steps = limits.steps < shrinking->steps_left ? limits.steps : shrinking->steps_left;
    search_run(shrinking->model, shrinking->context, list, window->n, &limits, result);
    shrinking->steps_left -=
        result->steps < shrinking->steps_left ? result->steps : shrinking->steps_left;
    mem_free(list);
    return result->verdict == VERDICT_VIOLATION;
}

/* What was known at the time `until`: later ends are unknown. */
static struct window cut_at(const struct op *const *ops, size_t n, uint64_t until) {
    struct window window = {.ops = mem_zalloc(n + 1, sizeof *window.ops), .until = until};
    for (size_t i = 0; i < n; i++) {
        bool is_open = ops[i]->end > until;
        bool has_effect =
            ops[i]->outcome != OUTCOME_FAIL && !op_kind_is_read((enum op_kind)ops[i]->kind);
        if (ops[i]->start > until || (is_open && !has_effect)) {
            continue;
        }
        window.ops[window.n] = *ops[i];
        if (is_open) {
            window.ops[window.n].end = TIME_NEVER;
            window.ops[window.n].outcome = OUTCOME_UNKNOWN;
        }
        window.n++;
    }
    return window;
}

static int by_time(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *)left;
    uint64_t b = *(const uint64_t *)right;
    return a < b ? -1 : a > b ? 1 : 0;
}

/* The shortest beginning that cannot be explained: what is wrong once stays wrong. */
static struct window cut(struct shrinking *shrinking, const struct op *const *ops, size_t n) {
    uint64_t *ends = mem_zalloc(n + 1, sizeof *ends);
    struct search_result result;
    size_t n_ends = 0;
    for (size_t i = 0; i < n; i++) {
        if (ops[i]->end != TIME_NEVER) {
            ends[n_ends++] = ops[i]->end;
        }
    }
    qsort(ends, n_ends, sizeof *ends, by_time);
    size_t low = 0;
    size_t high = n_ends > 0 ? n_ends - 1 : 0;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        struct window window = cut_at(ops, n, ends[middle]);
        if (is_violation(shrinking, &window, &result)) {
            high = middle;
        } else {
            low = middle + 1;
        }
        mem_free(window.ops);
    }
    struct window window = cut_at(ops, n, n_ends > 0 ? ends[high] : TIME_NEVER);
    mem_free(ends);
    return window;
}

/* Leaves out what may rest on what is left out. False when that is the operation in question. */
static bool close_under_need(const struct shrinking *shrinking, const struct window *window,
                             bool *out) {
    size_t *queue = mem_zalloc(window->n + 1, sizeof *queue);
    size_t n = 0;
    bool is_fine = true;
    for (size_t i = 0; i < window->n; i++) {
        if (out[i]) {
            queue[n++] = i;
        }
    }
    for (size_t a = 0; a < n && is_fine; a++) {
        for (size_t b = 0; b < window->n && is_fine; b++) {
            if (!out[b] && shrinking->model->aids(shrinking->context, &window->ops[queue[a]],
                                                  &window->ops[b])) {
                is_fine = window->ops[b].end != window->until;
                out[b] = true;
                queue[n++] = b;
            }
        }
    }
    mem_free(queue);
    return is_fine;
}

static bool try_without(struct shrinking *shrinking, struct window *window, size_t from,
                        size_t size) {
    bool *out = mem_zalloc(window->n + 1, sizeof *out);
    struct search_result result;
    struct window rest = {.until = window->until};
    bool better = false;
    for (size_t i = from; i < window->n && i < from + size; i++) {
        out[i] = window->ops[i].end != window->until;
    }
    if (close_under_need(shrinking, window, out)) {
        rest.ops = mem_zalloc(window->n + 1, sizeof *rest.ops);
        for (size_t i = 0; i < window->n; i++) {
            if (!out[i]) {
                rest.ops[rest.n++] = window->ops[i];
            }
        }
        better = rest.n < window->n && is_violation(shrinking, &rest, &result);
    }
    mem_free(out);
    if (!better) {
        mem_free(rest.ops);
        return false;
    }
    mem_free(window->ops);
    *window = rest;
    return true;
}

static void thin_out(struct shrinking *shrinking, struct window *window) {
    if (window->n > SHRINK_OPS) {
        return;
    }
    for (size_t size = (window->n + 1) / 2; size > 0; size /= 2) {
        for (size_t from = 0; from < window->n && shrinking->steps_left > 0;) {
            from += try_without(shrinking, window, from, size) ? 0 : size;
        }
    }
}

/* --- for people ------------------------------------------------------------------------------- */

static int op_by_start(const void *left, const void *right) {
    const struct op *a = left;
    const struct op *b = right;
    return a->start != b->start ? (a->start < b->start ? -1 : 1) : a->line < b->line ? -1 : 1;
}

static size_t bar_at(uint64_t at, uint64_t zero, uint64_t until) {
    uint64_t span = until > zero ? until - zero : 1;
    uint64_t from = at > until ? span : at - zero;
    return (size_t)((double)from / (double)span * (BAR - 1));
}

static void draw(struct report *report, const struct op *op, uint64_t zero, uint64_t until) {
    char bar[BAR + 1];
    size_t from = bar_at(op->start, zero, until);
    size_t to = bar_at(op->end, zero, until);
    memset(bar, ' ', BAR);
    bar[BAR] = '\0';
    memset(bar + from, '-', to - from + 1);
    bar[from] = '|';
    bar[to] = op->end == TIME_NEVER ? '?' : '|';
    report_print(report, "  %s", bar);
}

static void print_window(struct report *report, const struct model_context *context,
                         const struct window *window) {
    size_t first = window->n > SHOWN_OPS ? window->n - SHOWN_OPS : 0;
    uint64_t zero = window->n > first ? window->ops[first].start : 0;
    if (first > 0) {
        report_print(report, "    (%zu earlier operations that it takes as well)\n", first);
    }
    for (size_t i = first; i < window->n; i++) {
        const struct op *op = &window->ops[i];
        draw(report, op, zero, window->until);
        report_op(report, context->history, op, zero, op->end == window->until ? ">" : " ");
    }
}

static void print_states(struct report *report, const struct model *model,
                         const struct model_context *context, const struct search_result *result) {
    char text[MODEL_TEXT];
    for (unsigned i = 0; i < result->n_states; i++) {
        model->describe(context, &result->states[i], text, sizeof text);
        report_print(report, "    %s %s\n",
                     i == 0 ? "what it would find:" : "                or:", text);
    }
}

void explain_violation(const struct model *model, const struct model_context *context,
                       const struct op *const *ops, size_t n, const char *name,
                       const struct search_limits *limits, struct report *report) {
    struct shrinking shrinking = {
        .model = model, .context = context, .limits = *limits, .steps_left = limits->steps};
    struct search_result result;
    struct window window = cut(&shrinking, ops, n);
    thin_out(&shrinking, &window);
    shrinking.steps_left = limits->steps;
    (void)is_violation(&shrinking, &window, &result);
    qsort(window.ops, window.n, sizeof *window.ops, op_by_start);
    const struct op *last = NULL;
    for (size_t i = 0; i < window.n; i++) {
        last = window.ops[i].end == window.until ? &window.ops[i] : last;
    }
    if (last != NULL) {
        report_print(report,
                     "  %s: no order of %zu of its %zu operations explains operation %" PRIu64
                     " (line %" PRIu32 ")\n",
                     name, window.n, n, last->number, last->line);
        report_print(report, "  (times in ms since %" PRIu64 " ns; > cannot be placed)\n",
                     window.ops[window.n > SHOWN_OPS ? window.n - SHOWN_OPS : 0].start);
    }
    print_window(report, context, &window);
    print_states(report, model, context, &result);
    mem_free(window.ops);
}
