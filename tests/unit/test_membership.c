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

static void test_unwanted_node_leaves_first(void **state) {
    (void)state;
    struct member voter[] = {{1, true}, {2, true}, {3, true}};
    struct member standby[] = {{1, true}, {2, false}, {3, true}};
    static const uint64_t others[] = {1, 3};
    struct world world = {.connected = 1 << 3 | 1 << 2, .caught_up = 1 << 2 | 1 << 3};
    uint64_t id = 0;
    struct membership_view view = view_of(voter, 3, &world);
    view.wanted = others;
    view.n_wanted = 2;
    assert_int_equal(membership_next(&view, &id), MEMBERSHIP_REMOVE);
    assert_int_equal(id, 2);
    /* Also as a standby, where nobody has to be there. */
    world = (struct world){0};
    view = view_of(standby, 3, &world);
    view.wanted = others;
    view.n_wanted = 2;
    assert_int_equal(membership_next(&view, &id), MEMBERSHIP_REMOVE);
    assert_int_equal(id, 2);
}

static void test_removal_never_costs_the_quorum(void **state) {
    (void)state;
    struct member members[] = {{1, true}, {2, true}, {3, true}};
    static const uint64_t others[] = {1, 3};
    static const struct world lacking[] = {{0, 0}, {1 << 3, 0}, {0, 1 << 3}, {1 << 2, 1 << 2}};
    uint64_t id = 0;
    for (unsigned i = 0; i < sizeof lacking / sizeof lacking[0]; i++) {
        struct world world = lacking[i];
        struct membership_view view = view_of(members, 3, &world);
        view.wanted = others;
        view.n_wanted = 2;
        assert_int_equal(membership_next(&view, &id), MEMBERSHIP_UNSAFE);
        assert_int_equal(id, 2);
    }
    /* Not the last voter, either. */
    struct world world = {0};
    static const uint64_t newcomer[] = {2};
    struct member last[] = {{1, true}, {2, false}};
    struct membership_view view = view_of(last, 2, &world);
    view.wanted = newcomer;
    view.n_wanted = 1;
    assert_int_equal(membership_next(&view, &id), MEMBERSHIP_UNSAFE);
}

static void test_leader_hands_over_before_it_leaves(void **state) {
    (void)state;
    struct member members[] = {{1, true}, {2, true}, {3, true}};
    static const uint64_t others[] = {2, 3};
    struct world world = {.connected = 1 << 2 | 1 << 3, .caught_up = 1 << 2 | 1 << 3};
    struct membership_view view = view_of(members, 3, &world);
    uint64_t id = 0;
    view.wanted = others;
    view.n_wanted = 2;
    assert_int_equal(membership_next(&view, &id), MEMBERSHIP_HAND_OVER);
    assert_int_equal(id, 1);
}

/* 2 is dead and to be taken out, 4 takes its place: with 4 as a voter 3 can be spared, too. */
static void test_newcomer_votes_while_a_removal_has_to_wait(void **state) {
    (void)state;
    struct member members[] = {{1, true}, {2, true}, {3, true}, {4, false}};
    static const uint64_t others[] = {1, 3, 4};
    struct world world = {.connected = 1 << 4, .caught_up = 1 << 4};
    struct membership_view view = view_of(members, 4, &world);
    uint64_t id = 0;
    view.wanted = others;
    view.n_wanted = 3;
    assert_int_equal(membership_next(&view, &id), MEMBERSHIP_PROMOTE);
    assert_int_equal(id, 4);
}

/* A standby that is to leave never gets a vote. */
static void test_unwanted_standby_is_not_promoted(void **state) {
    (void)state;
    struct member members[] = {{1, true}, {2, false}, {3, true}};
    static const uint64_t others[] = {1, 3};
    struct world world = {.connected = 1 << 2, .caught_up = 1 << 2};
    struct membership_view view = view_of(members, 3, &world);
    uint64_t id = 0;
    view.wanted = others;
    view.n_wanted = 2;
    assert_int_equal(membership_next(&view, &id), MEMBERSHIP_REMOVE);
    assert_int_equal(id, 2);
}

static void test_unknown_wishes_change_nobody(void **state) {
    (void)state;
    struct member members[] = {{1, true}, {2, false}, {5, true}};
    struct world world = {.connected = 1 << 2 | 1 << 5, .caught_up = 1 << 5};
    struct membership_view view = view_of(members, 3, &world);
    uint64_t id = 0;
    view.n_wanted = 0;
    assert_int_equal(membership_next(&view, &id), MEMBERSHIP_NONE);
    /* But a standby that was added gets its vote. */
    world.caught_up |= 1 << 2;
    assert_int_equal(membership_next(&view, &id), MEMBERSHIP_PROMOTE);
    assert_int_equal(id, 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_complete_group_is_left_alone),
        cmocka_unit_test(test_missing_node_is_added_as_standby),
        cmocka_unit_test(test_standby_votes_only_when_connected_and_caught_up),
        cmocka_unit_test(test_unwanted_node_leaves_first),
        cmocka_unit_test(test_removal_never_costs_the_quorum),
        cmocka_unit_test(test_leader_hands_over_before_it_leaves),
        cmocka_unit_test(test_newcomer_votes_while_a_removal_has_to_wait),
        cmocka_unit_test(test_unwanted_standby_is_not_promoted),
        cmocka_unit_test(test_unknown_wishes_change_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
