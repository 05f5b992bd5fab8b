#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "node/membership.h"

/* Bit per node id. */
struct world {
    unsigned connected;
    unsigned caught_up;
};

static bool is_connected(void *data, uint64_t id) {
    const struct world *world = data;
    return (world->connected >> id & 1) != 0;
}

static bool is_caught_up(void *data, uint64_t id) {
    const struct world *world = data;
    return (world->caught_up >> id & 1) != 0;
}

static const uint64_t wanted[] = {1, 2, 3};

static struct membership_view view_of(const struct member *members, unsigned n,
                                      struct world *world) {
    return (struct membership_view){.members = members,
                                    .n_members = n,
                                    .wanted = wanted,
                                    .n_wanted = 3,
                                    .self = 1,
                                    .is_connected = is_connected,
                                    .is_caught_up = is_caught_up,
                                    .data = world};
}

static void test_complete_group_is_left_alone(void **state) {
    (void)state;
    struct member members[] = {{1, true}, {2, true}, {3, true}};
    struct world world = {.connected = 0, .caught_up = 0};
    struct membership_view view = view_of(members, 3, &world);
    uint64_t id = 99;
    assert_int_equal(membership_next(&view, &id), MEMBERSHIP_NONE);
    assert_int_equal(id, 0);
}

static void test_missing_node_is_added_as_standby(void **state) {
    (void)state;
    struct member members[] = {{1, true}, {3, true}};
    struct world world = {.connected = 1 << 3};
    struct membership_view view = view_of(members, 2, &world);
    uint64_t id = 0;
    assert_int_equal(membership_next(&view, &id), MEMBERSHIP_ADD);
    assert_int_equal(id, 2);
}

static void test_standby_votes_only_when_connected_and_caught_up(void **state) {
    (void)state;
    struct member members[] = {{1, true}, {2, false}, {3, true}};
    static const struct {
        struct world world;
        enum membership_step step;
    } cases[] = {{{0, 0}, MEMBERSHIP_NONE},
                 {{1 << 2, 0}, MEMBERSHIP_NONE},
                 {{0, 1 << 2}, MEMBERSHIP_NONE},
                 {{1 << 2, 1 << 2}, MEMBERSHIP_PROMOTE}};
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct world world = cases[i].world;
        struct membership_view view = view_of(members, 3, &world);
        uint64_t id = 0;
        assert_int_equal(membership_next(&view, &id), cases[i].step);
    }
}

static void test_replaced_node_leaves_first(void **state) {
    (void)state;
    struct member voter[] = {{1, true}, {2, true}, {3, true}};
    struct member standby[] = {{1, true}, {2, false}, {3, true}};
    struct world world = {.connected = 1 << 3 | 1 << 2, .caught_up = 1 << 2};
    uint64_t id = 0;
    struct membership_view view = view_of(voter, 3, &world);
    view.replace = 2;
    assert_int_equal(membership_next(&view, &id), MEMBERSHIP_REMOVE);
    assert_int_equal(id, 2);
    /* Also from the role that it comes back in: the leader has to forget its progress. */
    view = view_of(standby, 3, &world);
    view.replace = 2;
    assert_int_equal(membership_next(&view, &id), MEMBERSHIP_REMOVE);
}

static void test_removal_never_costs_the_quorum(void **state) {
    (void)state;
    struct member members[] = {{1, true}, {2, true}, {3, true}};
    struct world world = {.connected = 0};
    struct membership_view view = view_of(members, 3, &world);
    uint64_t id = 0;
    view.replace = 2;
    assert_int_equal(membership_next(&view, &id), MEMBERSHIP_UNSAFE);
    /* The leader does not take itself out. */
    world.connected = 1 << 2 | 1 << 3;
    view.replace = 1;
    assert_int_equal(membership_next(&view, &id), MEMBERSHIP_NONE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_complete_group_is_left_alone),
        cmocka_unit_test(test_missing_node_is_added_as_standby),
        cmocka_unit_test(test_standby_votes_only_when_connected_and_caught_up),
        cmocka_unit_test(test_replaced_node_leaves_first),
        cmocka_unit_test(test_removal_never_costs_the_quorum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
