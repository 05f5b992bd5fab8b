/* The event log, failures, and coverage counters. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "tests/sim/kernel.h"
#include "tests/sim/run.h"

enum { RING = 400, LINE = 400, COUNTERS = 256 };

static char ring[RING][LINE];
static uint64_t n_lines;
static bool to_output;

static struct {
    const char *name;
    uint64_t n;
} counters[COUNTERS];
static unsigned n_counters;

void sim_log_to_output(bool on) {
    to_output = on;
}

void sim_log(const char *format, ...) {
    char *line = ring[n_lines++ % RING];
    uint64_t now = kernel_now();
    int n = snprintf(line, LINE, "%6" PRIu64 ".%06" PRIu64 " ", now / SIM_S, now % SIM_S / SIM_US);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line + n, LINE - (size_t)n, format, arguments);
    va_end(arguments);
    for (const char *c = line; *c != '\0'; c++) {
        kernel_mix((uint64_t)*c);
    }
    if (to_output) {
        puts(line);
    }
}

void sim_print_log_tail(void) {
    uint64_t first = n_lines > RING ? n_lines - RING : 0;
    for (uint64_t i = first; i < n_lines; i++) {
        puts(ring[i % RING]);
    }
}

void sim_fail(const char *format, ...) {
    char text[2000];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (!to_output && run_prints_failures()) {
        sim_print_log_tail();
    }
    printf("FAILED at %" PRIu64 ".%03" PRIu64 " s: %s\n", kernel_now() / SIM_S,
           kernel_now() % SIM_S / SIM_MS, text);
    run_report_failure(text);
    fflush(stdout);
    _Exit(1);
}

void cover_add(const char *name, uint64_t n) {
    for (unsigned i = 0; i < n_counters; i++) {
        if (counters[i].name == name || strcmp(counters[i].name, name) == 0) {
            counters[i].n += n;
            return;
        }
    }
    ASSERT(n_counters < COUNTERS);
    counters[n_counters].name = name;
    counters[n_counters++].n = n;
}

void cover(const char *name) {
    cover_add(name, 1);
}

static int by_name(const void *a, const void *b) {
    const struct {
        const char *name;
        uint64_t n;
    } *x = a, *y = b;
    return strcmp(x->name, y->name);
}

void cover_print(void *file, const char *prefix) {
    qsort(counters, n_counters, sizeof counters[0], by_name);
    for (unsigned i = 0; i < n_counters; i++) {
        fprintf(file, "%s%s\t%" PRIu64 "\n", prefix, counters[i].name, counters[i].n);
    }
}
