#include "base/histogram.h"

const uint64_t histogram_bounds_us[HISTOGRAM_BOUNDS] = {
    50,    100,    250,    500,    1000,    2500,    5000,    10000,    25000,
    50000, 100000, 250000, 500000, 1000000, 2500000, 5000000, 10000000, 30000000,
};

void histogram_add(struct histogram *histogram, uint64_t duration_us) {
    unsigned bucket = 0;
    while (bucket < HISTOGRAM_BOUNDS && duration_us > histogram_bounds_us[bucket]) {
        bucket++;
    }
    histogram->counts[bucket]++;
    histogram->sum_us += duration_us;
}

uint64_t histogram_count(const struct histogram *histogram) {
    uint64_t count = 0;
    for (unsigned i = 0; i <= HISTOGRAM_BOUNDS; i++) {
        count += histogram->counts[i];
    }
    return count;
}
