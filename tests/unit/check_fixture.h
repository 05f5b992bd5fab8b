/* Histories for the tests of the checkers: written by hand, or by a store that is linearizable by
 * construction: each operation takes effect at a moment between its start and its end. */
#ifndef TESTS_UNIT_CHECK_FIXTURE_H
#define TESTS_UNIT_CHECK_FIXTURE_H

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/prng.h"
#include "chaos/check/report.h"

struct writer {
    struct history history;
    const char *workload;
    uint64_t n;
    struct report report;
    struct check_options options;
};

static inline struct writer writer_make(const char *workload) {
    return (struct writer){.workload = workload, .options = check_options_default()};
}

static inline void writer_line(struct writer *writer, const char *line) {
    struct error error = {0};
    if (history_add_line(&writer->history, slice_of(line), &error) != ERROR_NONE) {
        fail_msg("%s: %s", line, error.message);
    }
}

/* An operation; times in ms. `end` < 0: the outcome is unknown. `fields` and `result` are further
 * members, such as "\"k\":\"a\"", or "". */
static inline void writer_op_full(struct writer *writer, unsigned client, double start, double end,
                                  const char *outcome, const char *op, const char *fields,
                                  const char *result) {
    char line[1024];
    uint64_t n = ++writer->n;
    (void)snprintf(
        line, sizeof line,
        "{\"t\":%.0f,\"w\":\"%s\",\"c\":%u,\"n\":%" PRIu64 ",\"e\":\"invoke\",\"op\":\"%s\"%s%s}",
        start * 1e6, writer->workload, client, n, op, fields[0] != '\0' ? "," : "", fields);
    writer_line(writer, line);
    (void)snprintf(line, sizeof line,
                   "{\"t\":%.0f,\"w\":\"%s\",\"c\":%u,\"n\":%" PRIu64 ",\"e\":\"%s\"%s%s}",
                   (end < 0 ? start + 1000 : end) * 1e6, writer->workload, client, n, outcome,
                   result[0] != '\0' ? "," : "", result);
    writer_line(writer, line);
}

static inline void writer_op(struct writer *writer, unsigned client, double start, double end,
                             const char *op, const char *fields, const char *result) {
    writer_op_full(writer, client, start, end, end < 0 ? "unknown" : "ok", op, fields, result);
}

static inline enum verdict writer_check(struct writer *writer) {
    struct error error = {0};
    report_free(&writer->report);
    enum workload workload = workload_find(slice_of(writer->workload));
    enum error_code code =
        check_workload(&writer->history, workload, &writer->options, &writer->report, &error);
    if (code != ERROR_NONE) {
        fail_msg("%s", error.message);
    }
    return writer->report.verdict;
}

static inline void writer_free(struct writer *writer) {
    report_free(&writer->report);
    history_free(&writer->history);
}

/* Whether the text about a violation has these words. */
static inline bool writer_says(const struct writer *writer, const char *words) {
    return memmem(writer->report.text.data, writer->report.text.size, words, strlen(words)) != NULL;
}

static inline void writer_expect(struct writer *writer, enum verdict verdict, const char *words) {
    enum verdict found = writer_check(writer);
    if (found != verdict || (words != NULL && !writer_says(writer, words))) {
        fail_msg("verdict %d, expected %d with '%s':\n%.*s", (int)found, (int)verdict,
                 words != NULL ? words : "", (int)writer->report.text.size,
                 (const char *)writer->report.text.data);
    }
    writer_free(writer);
}

/* --- a store that is linearizable by construction ----------------------------------------------
 */

struct planned {
    uint64_t start;
    uint64_t point; /* when it takes effect; UINT64_MAX: never */
    uint64_t end;   /* UINT64_MAX: unknown */
    unsigned client;
    unsigned kind;
    unsigned key;
    uint64_t argument;
    bool fails;
};

struct plan {
    struct planned *ops;
    size_t n;
    struct prng prng;
};

/* `per_mille` of the operations have an unknown outcome: half of these take effect, some of them
 * much later; as many fail. Kinds are 0 to `kinds` - 1, as the caller understands them; kinds from
 * `reads_from` on cannot be unknown. A key is used for about `rotate` operations. */
static inline struct plan plan_make(uint64_t seed, size_t n, unsigned clients, unsigned keys,
                                    unsigned kinds, unsigned reads_from, unsigned per_mille,
                                    size_t rotate) {
    struct plan plan = {.ops = mem_zalloc(n, sizeof *plan.ops), .n = n};
    uint64_t *free_at = mem_zalloc(clients, sizeof *free_at);
    unsigned *ids = mem_zalloc(clients, sizeof *ids);
    unsigned next_id = clients;
    prng_seed(&plan.prng, seed);
    for (unsigned i = 0; i < clients; i++) {
        ids[i] = i;
    }
    for (size_t i = 0; i < n; i++) {
        struct planned *op = &plan.ops[i];
        unsigned client = (unsigned)(i % clients);
        op->start = free_at[client] + prng_below(&plan.prng, 2000);
        op->point = op->start + prng_below(&plan.prng, 1000);
        op->end = op->point + 1 + prng_below(&plan.prng, 1000);
        op->client = ids[client];
        op->kind = (unsigned)prng_below(&plan.prng, kinds);
        op->key = (unsigned)(i / (rotate * keys)) * keys + (unsigned)prng_below(&plan.prng, keys);
        op->argument = i + 1;
        free_at[client] = op->end;
        uint64_t dice = op->kind < reads_from ? prng_below(&plan.prng, 1000) : 1000;
        if (dice < per_mille) {
            op->end = UINT64_MAX;
            ids[client] = next_id++;
            if (dice < per_mille / 2) {
                op->point = UINT64_MAX;
            } else if (dice < per_mille * 3 / 4) {
                op->point += prng_below(&plan.prng, 20000);
            }
        } else if (dice < 2 * per_mille) {
            op->fails = true;
            op->point = UINT64_MAX;
        }
    }
    mem_free(free_at);
    mem_free(ids);
    return plan;
}

static int planned_by_point(const void *left, const void *right) {
    const struct planned *a = left;
    const struct planned *b = right;
    if (a->point != b->point) {
        return a->point < b->point ? -1 : 1;
    }
    return a->argument < b->argument ? -1 : 1;
}

/* In the order in which they take effect; those that never do come last. */
static inline void plan_sort(struct plan *plan) {
    qsort(plan->ops, plan->n, sizeof *plan->ops, planned_by_point);
}

static inline void writer_planned(struct writer *writer, const struct planned *op, const char *name,
                                  const char *fields, const char *result) {
    double end = op->end == UINT64_MAX ? -1 : (double)op->end / 1e3;
    const char *outcome = op->fails ? "fail" : op->end == UINT64_MAX ? "unknown" : "ok";
    writer_op_full(writer, op->client, (double)op->start / 1e3, end, outcome, name, fields,
                   op->fails || op->end == UINT64_MAX ? "" : result);
}

#endif
