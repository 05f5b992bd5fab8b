/* Cluster time: estimates, opening by a new leader, and what walls may and may not do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/prng.h"
#include "node/cluster_time.h"

#define T0 UINT64_C(1700000000000)

static void answer(struct cluster_time *clock, uint64_t node, uint64_t time_ms, uint64_t wall_ms,
                   bool anchored) {
    struct cluster_time_sample sample = {
        .node = node, .time_ms = time_ms, .wall_ms = wall_ms, .anchored = anchored};
    cluster_time_sample(clock, &sample);
}

static void test_estimate_follows_the_monotonic_clock(void **state) {
    struct cluster_time clock;
    (void)state;
    cluster_time_init(&clock, T0, 1000);
    assert_int_equal(cluster_time_estimate(&clock, 1000), T0);
    assert_int_equal(cluster_time_estimate(&clock, 1500), T0 + 500);
    assert_int_equal(cluster_time_estimate(&clock, 900), T0); /* never before its base */
}

static void test_observations_only_move_forward(void **state) {
    struct cluster_time clock;
    (void)state;
    cluster_time_init(&clock, T0, 1000);
    cluster_time_observe(&clock, T0 + 5000, 1100);
    assert_int_equal(cluster_time_estimate(&clock, 1100), T0 + 5000);
    assert_false(clock.anchored); /* it may have stood in a log for long */
    cluster_time_follow(&clock, T0 + 10, 0, 1200);
    assert_int_equal(cluster_time_estimate(&clock, 1200), T0 + 5000);
    assert_int_equal(cluster_time_estimate(&clock, 1300), T0 + 5100);
    assert_true(clock.anchored);
    cluster_time_observe(&clock, T0 + 20, 1300);
    assert_true(clock.anchored);
}

/* A follower whose clock is fast by a thousandth, for an hour: it is not ahead of its leader by
 * seconds when it takes over, but by what its clock gains until the leader speaks. */
static void test_drift_does_not_add_up(void **state) {
    struct cluster_time clock;
    (void)state;
    cluster_time_init(&clock, T0, 1000);
    uint64_t passed_ms = 0;
    uint64_t now_ms = 0;
    for (; passed_ms < 3600000; passed_ms += 50) {
        now_ms = 1000 + passed_ms + passed_ms / 1000;
        cluster_time_follow(&clock, T0 + passed_ms, 150, now_ms);
        assert_in_range(cluster_time_estimate(&clock, now_ms), T0 + passed_ms, T0 + passed_ms + 2);
    }
    cluster_time_open(&clock, now_ms);
    answer(&clock, 1, cluster_time_estimate(&clock, now_ms), 0, true);
    assert_true(cluster_time_settle(&clock, 1, now_ms));
    assert_in_range(cluster_time_estimate(&clock, now_ms), T0 + passed_ms - 50, T0 + passed_ms);
}

/* What was late when it came says little, and moves the estimate only as far as it must be wrong.
 */
static void test_late_messages_do_not_hold_the_clock_up(void **state) {
    struct cluster_time clock;
    (void)state;
    cluster_time_init(&clock, T0, 1000);
    cluster_time_follow(&clock, T0 + 100, 1, 1100);
    cluster_time_follow(&clock, T0 + 110, 290, 1400);                /* 290 ms late */
    assert_int_equal(cluster_time_estimate(&clock, 1400), T0 + 399); /* one leaked */
    /* A link that is congested for a minute: seconds late, each. */
    uint64_t now_ms = 1400;
    for (; now_ms < 61400; now_ms += 100) {
        uint64_t told_ms = T0 + now_ms - 1000 > T0 + 3000 ? T0 + now_ms - 4000 : T0;
        cluster_time_follow(&clock, told_ms, 3300, now_ms);
    }
    uint64_t true_ms = T0 + now_ms - 1000;
    assert_in_range(cluster_time_estimate(&clock, now_ms), true_ms - 310, true_ms);
    cluster_time_follow(&clock, true_ms, 2, now_ms); /* one in time puts it right */
    assert_int_equal(cluster_time_estimate(&clock, now_ms), true_ms);
}

/* A new leader knew less: keys that it gives a time to live must not pay for what others knew. */
static void test_the_time_of_a_leader_that_is_behind(void **state) {
    struct cluster_time clock;
    (void)state;
    cluster_time_init(&clock, T0, 1000);
    cluster_time_follow(&clock, T0 + 5000, 1, 1000);
    cluster_time_follow(&clock, T0 + 3000, UINT64_MAX, 1010); /* may be as old as that */
    assert_int_equal(cluster_time_estimate(&clock, 1010), T0 + 5010);
    cluster_time_follow(&clock, T0 + 3050, 120, 1060);
    assert_int_equal(cluster_time_estimate(&clock, 1060), T0 + 3170);
    cluster_time_observe(&clock, T0 + 3100, 1060);
    cluster_time_follow(&clock, T0 + 3060, 3, 1070); /* not below what was applied */
    assert_int_equal(cluster_time_estimate(&clock, 1070), T0 + 3100);
    uint64_t now_ms = 1100;
    for (; now_ms <= 41100; now_ms += 100) {
        cluster_time_follow(&clock, T0 + 2000 + now_ms, 150, now_ms);
    }
    assert_in_range(cluster_time_estimate(&clock, now_ms), T0 + 2000 + now_ms, T0 + 2001 + now_ms);
}

/* Nobody spoke for an hour: the clock went on by itself, and does not fall back for it. */
static void test_silence_does_not_leak(void **state) {
    struct cluster_time clock;
    (void)state;
    cluster_time_init(&clock, T0, 1000);
    cluster_time_follow(&clock, T0, 0, 1000);
    cluster_time_follow(&clock, T0, UINT64_MAX, 3601000);
    assert_in_range(cluster_time_estimate(&clock, 3601000), T0 + 3599990, T0 + 3600000);
}

static void test_opening_needs_a_majority(void **state) {
    struct cluster_time clock;
    (void)state;
    cluster_time_init(&clock, T0, 1000);
    cluster_time_open(&clock, 1000);
    answer(&clock, 1, T0, T0, true);
    assert_false(cluster_time_settle(&clock, 3, 1000 + 10 * CLUSTER_TIME_WAIT_MS));
    answer(&clock, 1, T0, T0, true); /* the same voter again does not count twice */
    assert_false(cluster_time_settle(&clock, 3, 1000 + 10 * CLUSTER_TIME_WAIT_MS));
    answer(&clock, 2, T0 + 70, T0, false);
    assert_true(cluster_time_settle(&clock, 3, 1000));
    assert_int_equal(cluster_time_estimate(&clock, 1000), T0 + 70);
    assert_true(cluster_time_settle(&clock, 3, 1000)); /* stays open */
}

/* Somebody has followed a leader: time goes on from there, whatever the walls say. */
static void test_walls_do_not_count_while_anybody_is_anchored(void **state) {
    struct cluster_time clock;
    (void)state;
    cluster_time_init(&clock, T0, 1000);
    cluster_time_open(&clock, 1000);
    answer(&clock, 1, T0, T0 + 86400000, false);
    answer(&clock, 2, T0 + 30, T0 + 86400000, true);
    assert_true(cluster_time_settle(&clock, 3, 1001));
    assert_int_equal(cluster_time_estimate(&clock, 1001), T0 + 30);
}

/* This replica itself may have become anchored after it took its own sample. */
static void test_own_anchor_counts(void **state) {
    struct cluster_time clock;
    (void)state;
    cluster_time_init(&clock, T0, 1000);
    cluster_time_open(&clock, 1000);
    answer(&clock, 1, T0, T0 + 86400000, false);
    answer(&clock, 2, T0, T0 + 86400000, false);
    cluster_time_follow(&clock, T0 + 400, 5, 1010);
    assert_true(cluster_time_settle(&clock, 3, 1010));
    assert_int_equal(cluster_time_estimate(&clock, 1010), T0 + 400);
}

/* The whole cluster was down: the lower median of the walls is the floor, so that one clock that is
 * ahead kills no key; all voters are waited for, but not for long. */
static void test_walls_after_the_whole_cluster_was_down(void **state) {
    struct cluster_time clock;
    (void)state;
    cluster_time_init(&clock, T0, 1000);
    cluster_time_open(&clock, 1000);
    answer(&clock, 1, T0, T0 + 3600000, false);
    answer(&clock, 2, T0, T0 + 99999999, false);
    assert_false(cluster_time_settle(&clock, 3, 1000 + CLUSTER_TIME_WAIT_MS - 1));
    struct cluster_time two = clock;
    assert_true(cluster_time_settle(&two, 3, 1000 + CLUSTER_TIME_WAIT_MS));
    assert_int_equal(two.base_ms, T0 + 3600000);
    answer(&clock, 3, T0, T0 + 3600500, false);
    assert_true(cluster_time_settle(&clock, 3, 1001));
    assert_int_equal(clock.base_ms, T0 + 3600500);
    assert_true(clock.anchored);
}

/* A wall clock counts on from the time that the cluster had, unless that was wrong by hours. */
static void test_the_time_by_a_wall(void **state) {
    const int64_t most_ms = CLUSTER_TIME_OFFSET_MAX_MS;
    (void)state;
    assert_int_equal(cluster_time_by_wall(T0, 0), T0);
    assert_int_equal(cluster_time_by_wall(T0, -3000), T0 - 3000);
    assert_int_equal(cluster_time_by_wall(T0, 3000), T0 + 3000);
    assert_int_equal(cluster_time_by_wall(T0, most_ms), T0 + (uint64_t)most_ms);
    assert_int_equal(cluster_time_by_wall(T0, -most_ms), T0 - (uint64_t)most_ms);
    assert_int_equal(cluster_time_by_wall(T0, most_ms + 1), T0);
    assert_int_equal(cluster_time_by_wall(T0, -most_ms - 1), T0);
    assert_int_equal(cluster_time_by_wall(T0, INT64_MIN), T0);
    assert_int_equal(cluster_time_by_wall(5, -6), 0);
    assert_true(cluster_time_by_wall(UINT64_MAX - 5, 6) == UINT64_MAX);
}

static void test_walls_never_turn_time_back(void **state) {
    struct cluster_time clock;
    (void)state;
    cluster_time_init(&clock, T0, 1000);
    cluster_time_open(&clock, 1000);
    answer(&clock, 1, T0, 5, false);
    answer(&clock, 2, T0 + 9, 6, false);
    answer(&clock, 3, T0, 7, false);
    assert_true(cluster_time_settle(&clock, 3, 1000));
    assert_int_equal(cluster_time_estimate(&clock, 1000), T0 + 9);
}

static void test_answers_outside_an_opening_are_ignored(void **state) {
    struct cluster_time clock;
    (void)state;
    cluster_time_init(&clock, T0, 1000);
    answer(&clock, 2, T0 + 500, T0, true);
    assert_int_equal(clock.n_samples, 0);
    cluster_time_open(&clock, 1000);
    answer(&clock, 2, T0 + 500, T0, true);
    cluster_time_abandon(&clock);
    assert_int_equal(clock.n_samples, 0);
    assert_int_equal(cluster_time_estimate(&clock, 1000), T0);
}

static void test_more_answers_than_nodes(void **state) {
    struct cluster_time clock;
    (void)state;
    cluster_time_init(&clock, T0, 1000);
    cluster_time_open(&clock, 1000);
    for (uint64_t node = 1; node <= LIMIT_NODES + 5; node++) {
        answer(&clock, node, T0, T0, false);
    }
    assert_int_equal(clock.n_samples, LIMIT_NODES);
}

/* Whatever happens, the estimate of a replica falls only to what a leader told, and never below
 * what was applied; that of a leader never falls. */
static void test_never_backwards(void **state) {
    struct prng prng;
    (void)state;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        struct cluster_time clock;
        uint64_t now_ms = 1000;
        prng_seed(&prng, seed);
        cluster_time_init(&clock, T0, now_ms);
        uint64_t last_ms = 0;
        uint64_t applied_ms = T0;
        for (unsigned i = 0; i < 200; i++) {
            uint64_t time_ms = T0 - 1000 + prng_below(&prng, 5000);
            now_ms += prng_below(&prng, 30);
            switch (prng_below(&prng, 6)) {
            case 0:
                cluster_time_observe(&clock, time_ms, now_ms);
                applied_ms = time_ms > applied_ms ? time_ms : applied_ms;
                break;
            case 5:
                cluster_time_follow(&clock, time_ms, prng_below(&prng, 300), now_ms);
                assert_true(cluster_time_estimate(&clock, now_ms) >= time_ms);
                last_ms = 0;
                break;
            case 1:
                cluster_time_open(&clock, now_ms);
                break;
            case 2:
                answer(&clock, 1 + prng_below(&prng, 3), time_ms, prng_below(&prng, 2 * T0),
                       prng_below(&prng, 2) == 0);
                break;
            case 3:
                (void)cluster_time_settle(&clock, 3, now_ms);
                break;
            default:
                cluster_time_abandon(&clock);
                break;
            }
            uint64_t estimate_ms = cluster_time_estimate(&clock, now_ms);
            assert_true(estimate_ms >= last_ms && estimate_ms >= applied_ms);
            last_ms = estimate_ms;
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_estimate_follows_the_monotonic_clock),
        cmocka_unit_test(test_observations_only_move_forward),
        cmocka_unit_test(test_drift_does_not_add_up),
        cmocka_unit_test(test_late_messages_do_not_hold_the_clock_up),
        cmocka_unit_test(test_the_time_of_a_leader_that_is_behind),
        cmocka_unit_test(test_silence_does_not_leak),
        cmocka_unit_test(test_opening_needs_a_majority),
        cmocka_unit_test(test_walls_do_not_count_while_anybody_is_anchored),
        cmocka_unit_test(test_own_anchor_counts),
        cmocka_unit_test(test_walls_after_the_whole_cluster_was_down),
        cmocka_unit_test(test_the_time_by_a_wall),
        cmocka_unit_test(test_walls_never_turn_time_back),
        cmocka_unit_test(test_answers_outside_an_opening_are_ignored),
        cmocka_unit_test(test_more_answers_than_nodes),
        cmocka_unit_test(test_never_backwards),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
