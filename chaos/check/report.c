#include "chaos/check/report.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

struct check_options check_options_default(void) {
    return (struct check_options){
        .limits = {.steps = UINT64_C(200000000), .states = UINT64_C(8000000)},
        .early_ms = 10,
        .late_ms = 10000,
        .drift = 0.001,
        .stale_ms = 1000,
    };
}

void report_free(struct report *report) {
    buffer_free(&report->text);
}

void report_print(struct report *report, const char *format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (n > 0) {
        size_t size = (size_t)n < sizeof text ? (size_t)n : sizeof text - 1;
        buffer_append(&report->text, text, size);
    }
}

bool report_violation(struct report *report) {
    report->verdict = VERDICT_VIOLATION;
    return report->violations++ < REPORT_VIOLATIONS;
}

static void print_text(struct report *report, const struct history *history, uint32_t number) {
    struct slice text = texts_get(&history->texts, number);
    report_print(report, "\"%.*s%s\"", (int)(text.size < 60 ? text.size : 60),
                 (const char *)text.data, text.size > 60 ? "..." : "");
}

static void print_value(struct report *report, const struct history *history,
                        const struct value *value) {
    switch (value->type) {
    case VALUE_NIL:
        report_print(report, "nil");
        return;
    case VALUE_INTEGER:
        report_print(report, "%" PRId64, value->integer);
        return;
    case VALUE_TEXT:
        print_text(report, history, value->text);
        return;
    case VALUE_LIST:
        for (unsigned i = 0; i < value->n; i++) {
            report_print(report, "%s%" PRId64, i == 0 ? "[" : " ",
                         value_list_at(history, value, i));
        }
        report_print(report, value->n == 0 ? "[]" : "]");
        return;
    default:
        return;
    }
}

static void print_what(struct report *report, const struct history *history, const struct op *op) {
    report_print(report, "%s", op_kind_name((enum op_kind)op->kind));
    if (op->key != 0) {
        struct slice key = texts_get(&history->texts, op->key);
        report_print(report, " %.*s", (int)(key.size < 60 ? key.size : 60), (const char *)key.data);
    }
    if (op->in.type != VALUE_NONE) {
        report_print(report, " ");
        print_value(report, history, &op->in);
    }
    if (op->old_is_nil || op->other != 0) {
        report_print(report, op->kind == OP_TRANSFER ? " to " : " if ");
        if (op->old_is_nil) {
            report_print(report, "missing");
        } else {
            print_text(report, history, op->other);
        }
    }
    if (op->arg != 0) {
        report_print(report, " (%" PRId64 ")", op->arg);
    }
}

static void print_outcome(struct report *report, const struct history *history,
                          const struct op *op) {
    switch (op->outcome) {
    case OUTCOME_OK:
        report_print(report, " -> ");
        print_value(report, history, &op->out);
        report_print(report, op->out.type == VALUE_NONE ? "ok" : "");
        if (op->result != 0) {
            report_print(report, " (%" PRId64 ")", op->result);
        }
        break;
    case OUTCOME_FAIL:
        report_print(report, " -> failed");
        break;
    default:
        report_print(report, " -> unknown");
        break;
    }
    if (op->about != 0 && op->outcome != OUTCOME_OK) {
        struct slice about = texts_get(&history->texts, op->about);
        report_print(report, ": %.*s", (int)(about.size < 100 ? about.size : 100),
                     (const char *)about.data);
    }
}

static double ms_since(uint64_t at, uint64_t zero) {
    return at >= zero ? (double)(at - zero) / 1e6 : -(double)(zero - at) / 1e6;
}

void report_op(struct report *report, const struct history *history, const struct op *op,
               uint64_t zero, const char *mark) {
    if (op->end == TIME_NEVER) {
        report_print(report, "  %s %12.3f ..            ?", mark, ms_since(op->start, zero));
    } else {
        report_print(report, "  %s %12.3f .. %12.3f", mark, ms_since(op->start, zero),
                     ms_since(op->end, zero));
    }
    report_print(report, "  client %-4" PRIu32 " n %-8" PRIu64 " line %-8" PRIu32 " ", op->client,
                 op->number, op->line);
    print_what(report, history, op);
    print_outcome(report, history, op);
    if (op->node != 0) {
        struct slice node = texts_get(&history->texts, op->node);
        report_print(report, "  at %.*s", (int)(node.size < 60 ? node.size : 60),
                     (const char *)node.data);
    }
    report_print(report, "\n");
}

void report_pair(struct report *report, const struct history *history, const struct op *a,
                 const struct op *b, const char *why) {
    if (!report_violation(report)) {
        return;
    }
    uint64_t zero = b != NULL && b->start < a->start ? b->start : a->start;
    report_print(report, "  %s (times in ms since %" PRIu64 " ns)\n", why, zero);
    report_op(report, history, a, zero, " ");
    if (b != NULL) {
        report_op(report, history, b, zero, ">");
    }
}
