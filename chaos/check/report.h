/* What came out of checking a workload, and with which tolerances. */
#ifndef CHAOS_CHECK_REPORT_H
#define CHAOS_CHECK_REPORT_H

#include "base/bytes.h"
#include "chaos/check/history.h"
#include "chaos/check/search.h"

struct check_options {
    struct search_limits limits; /* of each unit */
    uint64_t early_ms;           /* ttl: see docs/chaos.md; UINT64_MAX: any */
    uint64_t late_ms;            /* ttl; UINT64_MAX: any */
    double drift;
    const struct doubt *doubts; /* the caller's */
    size_t n_doubts;
    uint64_t stale_ms; /* eventual: beyond the bound that a read names; two election timeouts */
};

struct check_options check_options_default(void);

enum { REPORT_VIOLATIONS = 3 /* told in full; others are counted */ };

struct report {
    enum workload workload;
    enum verdict verdict; /* the worst */
    uint64_t operations;
    uint64_t unknown; /* of these */
    uint64_t failed;
    uint64_t units;
    const char *units_are; /* "keys", "projects", ... */
    uint64_t violations;
    uint64_t undecided; /* units */
    uint64_t steps;
    uint64_t peak_states;
    struct buffer text; /* violations and notes for people, lines */
};

void report_free(struct report *report);
/* Adds formatted text. */
void report_print(struct report *report, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Counts a violation; true when its text is wanted. */
bool report_violation(struct report *report);
/* One line about an operation, times in milliseconds since `zero`. */
void report_op(struct report *report, const struct history *history, const struct op *op,
               uint64_t zero, const char *mark);
/* A violation of a rule that one or two operations show; `b` may be NULL. */
void report_pair(struct report *report, const struct history *history, const struct op *a,
                 const struct op *b, const char *why);

/* Checks a workload in whatever way is its own. ERROR_SYNTAX: an operation is not of this workload
 * or lacks a field; the message names its line. */
enum error_code check_workload(const struct history *history, enum workload workload,
                               const struct check_options *options, struct report *report,
                               struct error *error);

/* Checkers of their own. */
void check_session(const struct history *history, struct report *report);
void check_eventual(const struct history *history, const struct check_options *options,
                    struct report *report);
void check_watch(const struct history *history, struct report *report);

#endif
