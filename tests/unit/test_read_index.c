#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "raft/read_index.h"

static const uint64_t voters[] = {1, 2, 3, 4, 5};

static bool ack(struct read_index *reads, uint64_t node, uint64_t round) {
    return read_index_ack(reads, node, round, voters, 5, 1);
}

static void test_majority_confirms(void **state) {
    (void)state;
    struct read_index reads = {0};
    assert_false(read_index_start(&reads)); /* nobody reads */
    assert_int_equal(read_index_join(&reads), 1);
    assert_int_equal(read_index_join(&reads), 1);
    assert_true(read_index_start(&reads));
    assert_false(read_index_start(&reads));
    assert_true(read_index_is_waiting(&reads));
    assert_false(ack(&reads, 2, 1));
    assert_false(ack(&reads, 2, 1)); /* the same voter counts once */
    assert_int_equal(reads.confirmed, 0);
    assert_true(ack(&reads, 5, 1));
    assert_int_equal(reads.confirmed, 1);
    assert_false(read_index_is_waiting(&reads));
    assert_false(ack(&reads, 4, 1)); /* late, changes nothing */
}

static void test_read_during_a_round_waits_for_the_next(void **state) {
    (void)state;
    struct read_index reads = {0};
    assert_int_equal(read_index_join(&reads), 1);
    assert_true(read_index_start(&reads));
    assert_false(ack(&reads, 2, 1));
    assert_int_equal(read_index_join(&reads), 2);
    assert_false(read_index_start(&reads)); /* one round at a time */
    assert_true(ack(&reads, 3, 1));
    assert_int_equal(reads.confirmed, 1);
    assert_true(read_index_start(&reads));
    assert_false(ack(&reads, 2, 1)); /* an answer to the round before */
    assert_false(ack(&reads, 3, 1));
    assert_false(ack(&reads, 4, 1));
    assert_int_equal(reads.confirmed, 1);
}

static void test_only_voters_count(void **state) {
    (void)state;
    struct read_index reads = {0};
    (void)read_index_join(&reads);
    assert_true(read_index_start(&reads));
    assert_false(ack(&reads, 8, 1));
    assert_false(ack(&reads, 9, 1));
    assert_false(ack(&reads, 2, 1));
    assert_false(ack(&reads, 3, 2)); /* a round that was never asked */
    assert_int_equal(reads.confirmed, 0);
    /* More answers than there can be nodes do no harm. */
    for (uint64_t node = 100; node < 200; node++) {
        assert_false(ack(&reads, node, 1));
    }
}

static void test_leader_that_is_no_voter_does_not_count_itself(void **state) {
    (void)state;
    struct read_index reads = {0};
    (void)read_index_join(&reads);
    assert_true(read_index_start(&reads));
    assert_false(read_index_ack(&reads, 2, 1, voters + 1, 3, 1));
    assert_true(read_index_ack(&reads, 3, 1, voters + 1, 3, 1));
}

static void test_lone_voter_confirms_itself(void **state) {
    (void)state;
    struct read_index reads = {0};
    assert_false(read_index_check(&reads, voters, 1, 1));
    (void)read_index_join(&reads);
    assert_true(read_index_start(&reads));
    assert_true(read_index_check(&reads, voters, 1, 1));
    assert_int_equal(reads.confirmed, 1);
}

static void test_change_of_term_confirms_nothing(void **state) {
    (void)state;
    struct read_index reads = {0};
    uint64_t first = read_index_join(&reads);
    assert_true(read_index_start(&reads));
    assert_false(ack(&reads, 2, first));
    uint64_t second = read_index_join(&reads);
    read_index_reset(&reads);
    assert_true(reads.confirmed < first);
    assert_false(read_index_is_waiting(&reads));
    assert_false(read_index_start(&reads)); /* nobody waits in the new term */
    assert_false(ack(&reads, 3, first));
    assert_false(ack(&reads, 3, second));
    assert_false(ack(&reads, 4, second));
    assert_true(reads.confirmed < first);
    uint64_t third = read_index_join(&reads);
    assert_true(third > second);
    assert_true(read_index_start(&reads));
    assert_false(ack(&reads, 2, third));
    assert_false(ack(&reads, 3, second)); /* answers from before the change do not count */
    assert_true(ack(&reads, 3, third));
    assert_int_equal(reads.confirmed, third);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_majority_confirms),
        cmocka_unit_test(test_read_during_a_round_waits_for_the_next),
        cmocka_unit_test(test_only_voters_count),
        cmocka_unit_test(test_leader_that_is_no_voter_does_not_count_itself),
        cmocka_unit_test(test_lone_voter_confirms_itself),
        cmocka_unit_test(test_change_of_term_confirms_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
