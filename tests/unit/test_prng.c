#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/prng.h"

/* xoshiro256** from the state {1, 2, 3, 4}, worked out from its definition: the first result is
 * rotl(2 * 5, 7) * 9 = 11520, the second has s[1] = 2 ^ (3 ^ 1) = 0. */
static void test_generator_by_hand(void **state) {
    (void)state;
    struct prng prng = {.state = {1, 2, 3, 4}};
    assert_true(prng_next(&prng) == 11520);
    assert_true(prng_next(&prng) == 0);
    assert_true(prng_next(&prng) == 1509978240);
    assert_true(prng_next(&prng) == 1215971899390074240u);
}

/* The state is four outputs of splitmix64, whose first one from seed 0 is well known. */
static void test_seed_fills_the_state(void **state) {
    (void)state;
    struct prng prng;
    prng_seed(&prng, 0);
    assert_true(prng.state[0] == 0xE220A8397B1DCDAFu);
    assert_true(prng.state[1] == 0x6E789E6AA1B965F4u);
}

static void test_same_seed_same_stream(void **state) {
    (void)state;
    struct prng a;
    struct prng b;
    struct prng other;
    prng_seed(&a, 42);
    prng_seed(&b, 42);
    prng_seed(&other, 43);
    unsigned equal = 0;
    for (unsigned i = 0; i < 1000; i++) {
        uint64_t value = prng_next(&a);
        assert_true(value == prng_next(&b));
        equal += value == prng_next(&other);
    }
    assert_int_equal(equal, 0);
}

static void test_below_stays_below_and_is_even(void **state) {
    (void)state;
    struct prng prng;
    prng_seed(&prng, 7);
    unsigned counts[10] = {0};
    for (unsigned i = 0; i < 100000; i++) {
        uint64_t value = prng_below(&prng, 10);
        assert_true(value < 10);
        counts[value]++;
    }
    /* Expected 10000 each with a standard deviation of 95; the stream is fixed by its seed. */
    for (unsigned i = 0; i < 10; i++) {
        assert_in_range(counts[i], 9500, 10500);
    }
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(prng_below(&prng, 1), 0);
    }
}

/* With a bound of 3/4 of the range, a plain modulo would give the lowest third twice as often. */
static void test_below_is_unbiased_for_huge_bounds(void **state) {
    (void)state;
    struct prng prng;
    prng_seed(&prng, 11);
    uint64_t third = (uint64_t)1 << 62;
    unsigned lowest = 0;
    for (unsigned i = 0; i < 30000; i++) {
        uint64_t value = prng_below(&prng, 3 * third);
        assert_true(value < 3 * third);
        lowest += value < third;
    }
    assert_in_range(lowest, 9500, 10500);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_generator_by_hand),
        cmocka_unit_test(test_seed_fills_the_state),
        cmocka_unit_test(test_same_seed_same_stream),
        cmocka_unit_test(test_below_stays_below_and_is_even),
        cmocka_unit_test(test_below_is_unbiased_for_huge_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
