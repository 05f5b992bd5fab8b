#include "node/space.h"
#include "tests/unit/group_cluster.h"

enum { TICK_MS = 20, SHARD = 3 };

struct fixture {
    struct cluster *cluster;
    struct space spaces[CLUSTER_NODES + 1]; /* by id */
    unsigned handed_over;
};

static struct fixture fixture_new(unsigned n, uint64_t seed) {
    return (struct fixture){.cluster = cluster_new(n, seed)};
}

/* As the servers do it, on all nodes. */
static void run(struct fixture *f, uint64_t ms) {
    struct cluster *cluster = f->cluster;
    for (uint64_t at = 0; at < ms; at += TICK_MS) {
        cluster_run(cluster, TICK_MS);
        for (unsigned id = 1; id <= cluster->n; id++) {
            struct node *node = &cluster->nodes[id];
            if (node->group != NULL && space_tend(&f->spaces[id], node->group, SHARD,
                                                  node->disk_low, cluster->now_ms) != 0) {
                f->handed_over++;
            }
        }
    }
}

static void set_full(struct node *node, bool full) {
    node->disk_low = full;
    node->log->full = full;
}

static void test_full_leader_hands_over(void **state) {
    (void)state;
    struct fixture f = fixture_new(3, 1);
    struct node *leader = cluster_elect(f.cluster);
    run(&f, 2 * ELECTION_MS);
    assert_int_equal(f.handed_over, 0);
    set_full(leader, true); /* nothing is written: an idle leader goes as well */
    run(&f, ELECTION_MS);
    struct node *next = cluster_leader(f.cluster);
    assert_non_null(next);
    assert_ptr_not_equal(next, leader);
    assert_int_equal(f.handed_over, 1);
    for (unsigned i = 0; i < 100; i++) {
        assert_true(node_propose(next, 1));
        run(&f, TICK_MS);
    }
    assert_int_equal(f.cluster->n_committed, group_last(next->group));
    assert_true(group_quorum_has_space(next->group));
    assert_int_equal(f.handed_over, 1);
    cluster_free(f.cluster);
}

static void test_a_follower_with_a_full_disk_is_not_chosen(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        struct fixture f = fixture_new(5, seed);
        struct node *leader = cluster_elect(f.cluster);
        struct node *full = cluster_other(f.cluster, leader, NULL);
        set_full(full, true);
        run(&f, ELECTION_MS);
        assert_int_equal(f.handed_over, 0);
        assert_int_equal(group_peer_space(leader->group, full->id), GROUP_SPACE_LOW);
        set_full(leader, true);
        run(&f, 2 * ELECTION_MS);
        struct node *next = cluster_leader(f.cluster);
        assert_non_null(next);
        assert_true(next != leader && next != full);
        assert_int_equal(f.handed_over, 1);
        cluster_free(f.cluster);
    }
}

static void test_nothing_when_most_are_full(void **state) {
    (void)state;
    struct fixture f = fixture_new(3, 2);
    struct node *leader = cluster_elect(f.cluster);
    struct node *full = cluster_other(f.cluster, leader, NULL);
    set_full(full, true);
    run(&f, ELECTION_MS);
    set_full(leader, true);
    run(&f, 10 * SPACE_CALM_MS);
    assert_ptr_equal(cluster_leader(f.cluster), leader);
    assert_int_equal(f.handed_over, 0);
    cluster_free(f.cluster);
}

/* Only when it has been well for a while does a node lead again. */
static void test_a_disk_must_stay_well(void **state) {
    (void)state;
    struct fixture f = fixture_new(3, 3);
    struct node *first = cluster_elect(f.cluster);
    set_full(first, true);
    run(&f, 2 * ELECTION_MS);
    struct node *second = cluster_leader(f.cluster);
    assert_non_null(second);
    assert_ptr_not_equal(second, first);
    struct space *space = &f.spaces[second->id];
    struct node *third = cluster_other(f.cluster, first, second);
    assert_true(space_may_lead(space, second->group, third->id, f.cluster->now_ms));
    assert_false(space_may_lead(space, second->group, first->id, f.cluster->now_ms));
    set_full(first, false);
    run(&f, SPACE_CALM_MS - ELECTION_MS);
    assert_int_equal(group_peer_space(second->group, first->id), GROUP_SPACE_FINE);
    assert_false(space_may_lead(space, second->group, first->id, f.cluster->now_ms));
    run(&f, 2 * ELECTION_MS);
    assert_true(space_may_lead(space, second->group, first->id, f.cluster->now_ms));
    cluster_free(f.cluster);
}

/* Disks about their limits: leadership moves now and then, not all the time. */
static void test_no_ping_pong(void **state) {
    (void)state;
    struct fixture f = fixture_new(3, 4);
    struct node *leader = cluster_elect(f.cluster);
    struct node *never = cluster_other(f.cluster, leader, NULL);
    run(&f, ELECTION_MS);
    uint64_t begun_ms = f.cluster->now_ms;
    for (unsigned i = 0; f.cluster->now_ms < begun_ms + 6 * SPACE_CALM_MS; i++) {
        for (unsigned id = 1; id <= 3; id++) {
            struct node *node = &f.cluster->nodes[id];
            set_full(node, node == never || (i + id) % 3 == 0);
        }
        run(&f, 200);
    }
    assert_true(f.handed_over <= 2 * 6);
    cluster_free(f.cluster);
}

static void test_attempts_are_bounded(void **state) {
    (void)state;
    struct fixture f = fixture_new(3, 5);
    struct node *leader = cluster_elect(f.cluster);
    run(&f, ELECTION_MS);
    struct space *space = &f.spaces[leader->id];
    set_full(leader, true);
    unsigned attempts = 0;
    uint64_t tried[2] = {0};
    uint64_t now_ms = f.cluster->now_ms;
    for (uint64_t ms = 0; ms < 400; ms += TICK_MS) { /* the network is not run: nobody takes over */
        uint64_t to = space_tend(space, leader->group, SHARD, true, now_ms + ms);
        if (to != 0) {
            assert_true(attempts < 2);
            tried[attempts++] = to;
        }
    }
    assert_int_equal(attempts, 1);
    assert_int_equal(group_role(leader->group), GROUP_LEADER);
    assert_int_not_equal(tried[0], leader->id);
    cluster_free(f.cluster);
}

/* The chosen node is deaf for whatever orders it to begin: another one is tried, later and later.
 */
static void test_another_node_is_tried(void **state) {
    (void)state;
    struct fixture f = fixture_new(3, 6);
    struct node *leader = cluster_elect(f.cluster);
    run(&f, ELECTION_MS);
    struct space *space = &f.spaces[leader->id];
    uint64_t first = space_tend(space, leader->group, SHARD, true, f.cluster->now_ms);
    assert_int_not_equal(first, 0);
    assert_true(space->shards[SHARD].again_ms >= f.cluster->now_ms + SPACE_RETRY_MS);
    node_isolate(&f.cluster->nodes[first], true);
    leader->disk_low = true;
    run(&f, 4 * ELECTION_MS);
    struct node *next = cluster_leader(f.cluster);
    assert_non_null(next);
    assert_true(next->id != first && next != leader);
    cluster_free(f.cluster);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_full_leader_hands_over),
        cmocka_unit_test(test_a_follower_with_a_full_disk_is_not_chosen),
        cmocka_unit_test(test_nothing_when_most_are_full),
        cmocka_unit_test(test_a_disk_must_stay_well),
        cmocka_unit_test(test_no_ping_pong),
        cmocka_unit_test(test_attempts_are_bounded),
        cmocka_unit_test(test_another_node_is_tried),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
