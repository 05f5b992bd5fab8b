#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/histogram.h"

static void test_bounds_ascend(void **state) {
    (void)state;
    for (unsigned i = 1; i < HISTOGRAM_BOUNDS; i++) {
        assert_true(histogram_bounds_us[i - 1] < histogram_bounds_us[i]);
    }
}

/* A bound belongs to its own bucket, what is just above it to the next. */
static void test_each_duration_has_its_bucket(void **state) {
    (void)state;
    struct histogram histogram = {0};
    uint64_t sum_us = 0;
    for (unsigned i = 0; i < HISTOGRAM_BOUNDS; i++) {
        histogram_add(&histogram, histogram_bounds_us[i]);
        histogram_add(&histogram, histogram_bounds_us[i] + 1);
        sum_us += 2 * histogram_bounds_us[i] + 1;
    }
    assert_int_equal(histogram.counts[0], 1);
    for (unsigned i = 1; i < HISTOGRAM_BOUNDS; i++) {
        assert_int_equal(histogram.counts[i], 2);
    }
    assert_int_equal(histogram.counts[HISTOGRAM_BOUNDS], 1);
    assert_int_equal(histogram_count(&histogram), 2 * HISTOGRAM_BOUNDS);
    assert_int_equal(histogram.sum_us, sum_us);
}

static void test_extremes(void **state) {
    (void)state;
    struct histogram histogram = {0};
    assert_int_equal(histogram_count(&histogram), 0);
    histogram_add(&histogram, 0);
    histogram_add(&histogram, (uint64_t)1 << 60);
    assert_int_equal(histogram.counts[0], 1);
    assert_int_equal(histogram.counts[HISTOGRAM_BOUNDS], 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bounds_ascend),
        cmocka_unit_test(test_each_duration_has_its_bucket),
        cmocka_unit_test(test_extremes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
