#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "raft/append_queue.h"

static void assert_waits(const struct append_queue *queue, uint64_t start, uint64_t prev,
                         uint64_t n) {
    assert_false(append_queue_is_empty(queue));
    assert_int_equal(queue->start, start);
    assert_int_equal(queue->prev, prev);
    assert_int_equal(queue->n, n);
}

static void test_what_was_sent_is_gone(void **state) {
    (void)state;
    struct append_queue queue = {0};
    assert_true(append_queue_is_empty(&queue));
    append_queue_push(&queue, 7, 5);
    append_queue_advance(&queue, 2);
    assert_waits(&queue, 7, 9, 3);
    append_queue_advance(&queue, 3);
    assert_true(append_queue_is_empty(&queue));
}

static void test_following_entries_become_one_range(void **state) {
    (void)state;
    struct append_queue queue = {0};
    append_queue_push(&queue, 7, 5);
    append_queue_advance(&queue, 1);
    append_queue_push(&queue, 12, 3);
    append_queue_push(&queue, 15, 1);
    assert_waits(&queue, 7, 8, 8);
}

static void test_repetition_sends_nothing_twice(void **state) {
    (void)state;
    struct append_queue queue = {0};
    append_queue_push(&queue, 7, 5);
    append_queue_advance(&queue, 2);
    append_queue_push(&queue, 7, 5);
    assert_waits(&queue, 7, 9, 3);
    append_queue_push(&queue, 7, 8);
    assert_waits(&queue, 7, 9, 6);
    append_queue_push(&queue, 7, 1); /* less than what was sent already */
    assert_waits(&queue, 7, 9, 6);
}

static void test_another_place_replaces_what_waits(void **state) {
    (void)state;
    struct append_queue queue = {0};
    append_queue_push(&queue, 7, 5);
    append_queue_push(&queue, 3, 2); /* back, after a rejection */
    assert_waits(&queue, 3, 3, 2);
    append_queue_push(&queue, 20, 4); /* forward, the follower has the rest */
    assert_waits(&queue, 20, 20, 4);
    append_queue_clear(&queue);
    assert_true(append_queue_is_empty(&queue));
    append_queue_push(&queue, 0, 1); /* an emptied queue remembers nothing */
    assert_waits(&queue, 0, 0, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_was_sent_is_gone),
        cmocka_unit_test(test_following_entries_become_one_range),
        cmocka_unit_test(test_repetition_sends_nothing_twice),
        cmocka_unit_test(test_another_place_replaces_what_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
