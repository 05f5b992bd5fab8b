/* How long things took, counted in fixed buckets: what Prometheus calls a histogram.
 *
 * Pure. Threads: whoever owns it; copy it to pass it on. */
#ifndef BASE_HISTOGRAM_H
#define BASE_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_BOUNDS = 18 };

/* Largest duration that belongs to each bucket, microseconds, ascending: 50 us to 30 s. One more
 * bucket takes what is longer. */
extern const uint64_t histogram_bounds_us[HISTOGRAM_BOUNDS];

/* A zeroed struct is an empty histogram. */
struct histogram {
    uint64_t counts[HISTOGRAM_BOUNDS + 1]; /* of each bucket alone */
    uint64_t sum_us;
};

void histogram_add(struct histogram *histogram, uint64_t duration_us);
/* Durations counted so far. */
uint64_t histogram_count(const struct histogram *histogram);

#endif
