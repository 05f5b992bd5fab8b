/* The consensus driver: one, three and five groups on a simulated log, network and clock. What must
 * hold at every moment is checked by group_cluster.h; the tests set up the hard moments. */
#include "tests/unit/group_cluster.h"

/* --- elections -------------------------------------------------------------------------------- */

static void test_election_trace(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 1);
    cluster->nodes[2].hold_disk = true;
    cluster->nodes[3].hold_disk = true;
    cluster->tracing = true;
    /* Nodes 2 and 3 hear nothing before node 1 has asked. */
    struct node *one = &cluster->nodes[1];
    group_peer_gone(one->group, cluster->now_ms, 3); /* it does not lead: nothing happens */
    while (group_role(one->group) != GROUP_CANDIDATE) {
        cluster->now_ms++;
        (void)group_tick(one->group, cluster->now_ms);
    }
    cluster_run(cluster, 2); /* pre-votes and their answers; then the term is on node 1's disk */
    cluster_run(cluster, 4); /* the others know the new term, but not on disk */
    assert_string_equal(cluster->trace, "1 > 2 pre-vote term 2, has 1^1\n"
                                        "1 > 3 pre-vote term 2, has 1^1\n"
                                        "2 > 1 pre-vote result term 2, granted\n"
                                        "3 > 1 pre-vote result term 2, granted\n"
                                        "1 > 2 vote term 2, has 1^1\n"
                                        "1 > 3 vote term 2, has 1^1\n");
    assert_int_equal(group_role(one->group), GROUP_CANDIDATE);
    cluster->trace[0] = 0;
    cluster->nodes[3].hold_disk = false;
    cluster_run(cluster, 3);
    assert_string_equal(cluster->trace, "3 > 1 vote result term 2, granted\n"
                                        "1 > 2 append term 2, after 1^1, 0 entries, commit 1\n"
                                        "1 > 3 append term 2, after 1^1, 0 entries, commit 1\n"
                                        "3 > 1 append result term 2, has 1\n");
    assert_int_equal(group_role(one->group), GROUP_LEADER);
    assert_int_equal(group_elections(one->group), 1);
    cluster->tracing = false;
    cluster_heal(cluster);
    cluster_run(cluster, 200);
    assert_converged(cluster);
    cluster_free(cluster);
}

static void test_no_message_before_the_vote_is_durable(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 2);
    for (unsigned id = 1; id <= 3; id++) {
        cluster->nodes[id].hold_disk = true;
    }
    cluster_run(cluster, 3 * ELECTION_MS); /* the harness checks every message */
    assert_null(cluster_leader(cluster));
    /* Somebody knows a new term; it crashes before that is on disk and has promised nothing. */
    uint64_t newest = 0;
    for (unsigned id = 1; id <= 3; id++) {
        uint64_t term = group_term(cluster->nodes[id].group);
        newest = term > newest ? term : newest;
        assert_int_equal(cluster->nodes[id].log->durable.state.term, 1);
        node_restart(&cluster->nodes[id]);
        assert_int_equal(group_term(cluster->nodes[id].group), 1);
    }
    assert_true(newest > 1);
    cluster_heal(cluster);
    cluster_elect(cluster);
    cluster_free(cluster);
}

static void test_five_elect_and_replicate(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(5, 3);
    struct node *leader = cluster_elect(cluster);
    assert_true(node_propose(leader, 10));
    cluster_run(cluster, 100);
    assert_converged(cluster);
    node_crash(leader, 0);
    node_crash(cluster_other(cluster, NULL, NULL), 0);
    struct node *next = cluster_elect(cluster);
    assert_ptr_not_equal(next, leader);
    assert_true(node_propose(next, 5));
    cluster_run(cluster, 50);
    assert_int_equal(cluster->n_committed, group_last(next->group));
    cluster_heal(cluster);
    cluster_run(cluster, 500);
    assert_converged(cluster);
    cluster_free(cluster);
}

static void test_lone_voter(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(1, 4);
    struct node *node = &cluster->nodes[1];
    assert_int_equal(group_role(node->group), GROUP_LEADER);
    node->hold_disk = true;
    assert_true(node_propose(node, 3));
    cluster_run(cluster, 10);
    assert_int_equal(group_commit(node->group), 1);
    assert_true(node_read(node));
    cluster_run(cluster, 1);
    assert_int_equal(node->reads_confirmed, 1);
    sim_log_sync_all(node->log);
    assert_int_equal(group_commit(node->group), 4);
    /* What was proposed and lost must not share its term with what comes after the restart. */
    uint64_t term = group_term(node->group);
    assert_true(node_propose(node, 2));
    node_restart(node);
    assert_int_equal(group_last(node->group), 4);
    assert_int_equal(group_term(node->group), term + 1);
    node->hold_disk = false;
    assert_true(node_propose(node, 1));
    cluster_run(cluster, 5);
    assert_int_equal(cluster->n_committed, 5);
    cluster_free(cluster);
}

/* Gives both nodes of a cluster of two these roles. */
static void set_roles(struct node *leader, const struct node *other, bool other_votes) {
    struct group_server servers[2] = {
        {.id = leader->id, .address = "10.0.0.1:7201", .voter = true},
        {.id = other->id, .address = "10.0.0.2:7201", .voter = other_votes}};
    struct payload *config = group_encode_config(servers, 2);
    assert_true(group_change(leader->group, leader->cluster->now_ms, config));
    payload_unref(config);
}

/* The only voter makes a standby the second one, and dies before the standby hears of it. It cannot
 * lead again without the vote of a node that takes itself for a standby, and the old leader for
 * alive. */
static void test_promoted_standby_votes(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(2, 6);
    struct node *leader = cluster_elect(cluster);
    struct node *other = cluster_other(cluster, leader, NULL);
    uint64_t voters[LIMIT_NODES];
    leader->hold_disk = true; /* the harness wants to see a majority of all nodes */
    set_roles(leader, other, false);
    cluster_run(cluster, 3 * HEARTBEAT_MS);
    leader->hold_disk = false;
    cluster_run(cluster, 3 * HEARTBEAT_MS);
    assert_int_equal(group_voters(other->group, voters), 1);
    assert_converged(cluster);
    node_isolate(other, true);
    set_roles(leader, other, true);
    cluster_run(cluster, HEARTBEAT_MS);
    uint64_t last = group_last(leader->group);
    assert_true(group_last(other->group) < last);
    node_restart(leader);
    assert_int_equal(group_last(leader->group), last);
    cluster_run(cluster, HEARTBEAT_MS); /* what was on its way is lost */
    cluster_heal(cluster);
    cluster_run(cluster, 10 * ELECTION_MS);
    assert_ptr_equal(cluster_leader(cluster), leader);
    assert_int_equal(group_voters(other->group, voters), 2);
    assert_converged(cluster);
    cluster_free(cluster);
}

/* Copied is the beginning of the log, where an earlier node of this number was the only voter. */
static void test_newcomer_does_not_take_itself_for_another(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(1, 4);
    struct node *node = &cluster->nodes[1];
    assert_int_equal(group_role(node->group), GROUP_LEADER);
    uint64_t term = group_term(node->group);
    sim_log_sync_all(node->log);
    node->newcomer = true;
    node_restart(node);
    cluster_run(cluster, 20 * ELECTION_MS);
    assert_int_equal(group_role(node->group), GROUP_FOLLOWER);
    assert_true(group_term(node->group) <= term);
    assert_true(group_is_newcomer(node->group));
    node->newcomer = false;
    node_restart(node);
    assert_int_equal(group_role(node->group), GROUP_LEADER);
    cluster_free(cluster);
}

static void test_newcomer_arrives(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(2, 6);
    struct node *leader = cluster_elect(cluster);
    struct node *other = cluster_other(cluster, leader, NULL);
    other->newcomer = true;
    node_isolate(other, true);
    node_restart(other);
    cluster_run(cluster, 20 * ELECTION_MS);
    assert_true(group_is_newcomer(other->group));
    assert_int_equal(group_elections(other->group), 0);
    cluster_heal(cluster);
    leader = cluster_elect(cluster);
    assert_true(leader != other);
    assert_true(node_propose(leader, 1));
    cluster_run(cluster, 3 * HEARTBEAT_MS);
    assert_true(group_knows_present(other->group));
    assert_true(group_peer_is_newcomer(leader->group, other->id));
    assert_true(group_transfer(leader->group, cluster->now_ms, other->id));
    cluster_run(cluster, 2 * ELECTION_MS);
    assert_ptr_equal(cluster_elect(cluster), leader);
    group_arrive(other->group);
    assert_true(node_propose(leader, 1));
    cluster_run(cluster, 3 * HEARTBEAT_MS);
    assert_false(group_peer_is_newcomer(leader->group, other->id));
    assert_true(group_transfer(leader->group, cluster->now_ms, other->id));
    cluster_run(cluster, 3 * HEARTBEAT_MS);
    assert_int_equal(group_role(other->group), GROUP_LEADER);
    cluster_free(cluster);
}

static void test_rejoining_node_does_not_disrupt(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 5);
    struct node *leader = cluster_elect(cluster);
    uint64_t term = group_term(leader->group);
    struct node *away = cluster_other(cluster, leader, NULL);
    node_isolate(away, true);
    cluster_run(cluster, 20 * ELECTION_MS);
    assert_int_equal(group_role(away->group), GROUP_CANDIDATE);
    assert_int_equal(group_term(away->group), term);
    assert_true(node_propose(leader, 5));
    node_isolate(away, false);
    cluster_run(cluster, 4 * ELECTION_MS);
    assert_int_equal(group_term(leader->group), term);
    assert_int_equal(group_role(leader->group), GROUP_LEADER);
    assert_converged(cluster);
    cluster_free(cluster);
}

/* A candidate that has won its pre-vote is cut off: its term must not grow with every timeout. */
static void test_lost_election_asks_beforehand_again(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 6);
    struct node *leader = cluster_elect(cluster);
    uint64_t term = group_term(leader->group);
    node_crash(leader, 0);
    struct node *candidate = NULL;
    for (unsigned i = 0; i < 5 * ELECTION_MS && candidate == NULL; i++) {
        cluster_run(cluster, 1);
        for (unsigned id = 1; id <= 3; id++) {
            struct node *node = &cluster->nodes[id];
            if (node->group != NULL && group_term(node->group) > term) {
                candidate = node;
            }
        }
    }
    assert_non_null(candidate);
    node_isolate(candidate, true);
    cluster_run(cluster, 20 * ELECTION_MS);
    assert_int_equal(group_term(candidate->group), term + 1);
    node_start(leader);
    node_isolate(candidate, false);
    cluster_run(cluster, 4 * ELECTION_MS);
    assert_converged(cluster);
    cluster_free(cluster);
}

/* One node has the better log and an old term, the other a newer term: only together they are a
 * majority, so the first one must learn of the second one's term from a refused pre-vote. */
static void test_old_term_with_the_better_log_gets_elected(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 7);
    struct node *good = cluster_elect(cluster);
    struct node *behind = cluster_other(cluster, good, NULL);
    struct node *gone = cluster_other(cluster, good, behind);
    node_isolate(behind, true);
    assert_true(node_propose(good, 5));
    cluster_run(cluster, 100);
    uint64_t last = group_last(good->group);
    assert_int_equal(cluster->n_committed, last);
    node_crash(good, 0);
    cluster_run(cluster, 10); /* nothing of it is left on the way */
    /* The third one gets itself elected again and again, its answers are lost, then it is gone. */
    node_isolate(behind, false);
    for (unsigned i = 0; i < 3; i++) {
        uint64_t term = group_term(gone->group);
        cluster->cut[behind->id][gone->id] = false;
        for (unsigned k = 0; k < 10 * ELECTION_MS && group_term(gone->group) == term; k++) {
            cluster_run(cluster, 1);
        }
        cluster->cut[behind->id][gone->id] = true;
        cluster_run(cluster, 10);
    }
    assert_true(group_term(behind->group) >= good->log->durable.state.term + 2);
    node_crash(gone, 0);
    node_start(good);
    struct node *leader = cluster_elect(cluster);
    assert_ptr_equal(leader, good);
    assert_true(cluster->n_committed >= last);
    cluster_free(cluster);
}

static void test_fast_election_when_the_leader_is_gone(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct cluster *cluster = cluster_new(3, seed);
        struct node *leader = cluster_elect(cluster);
        cluster_run(cluster, 100);
        node_crash(leader, 0);
        uint64_t gone_ms = cluster->now_ms;
        for (unsigned id = 1; id <= 3; id++) {
            if (cluster->nodes[id].group != NULL) {
                group_peer_gone(cluster->nodes[id].group, cluster->now_ms, leader->id);
            }
        }
        while (cluster_leader(cluster) == NULL && cluster->now_ms < gone_ms + 4 * ELECTION_MS) {
            cluster_run(cluster, 1);
        }
        assert_non_null(cluster_leader(cluster));
        assert_true(cluster->now_ms - gone_ms < ELECTION_MS);
        cluster_free(cluster);
    }
}

/* The hint is wrong: the leader goes on. */
static void test_fast_election_does_no_harm(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 8);
    struct node *leader = cluster_elect(cluster);
    uint64_t term = group_term(leader->group);
    for (unsigned i = 0; i < 20; i++) {
        struct node *follower = cluster_other(cluster, leader, NULL);
        group_peer_gone(follower->group, cluster->now_ms, leader->id);
        cluster_run(cluster, 77);
    }
    assert_int_equal(group_term(leader->group), term);
    assert_int_equal(group_role(leader->group), GROUP_LEADER);
    cluster_free(cluster);
}

/* --- replication ------------------------------------------------------------------------------ */

/* On an idle leader libraft takes followers off the pipeline: a write must not wait for the next
 * heartbeat. */
static void test_single_writes_do_not_wait_for_heartbeats(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 10; seed++) {
        struct cluster *cluster = cluster_new(3, seed);
        struct node *leader = cluster_elect(cluster);
        /* One follower is away for a moment: from then on heartbeats are out of step. */
        struct node *follower = cluster_other(cluster, leader, NULL);
        node_isolate(follower, true);
        assert_true(node_propose(leader, 3));
        cluster_run(cluster, 60);
        assert_true(node_propose(leader, 3));
        node_isolate(follower, false);
        cluster_run(cluster, 4 * HEARTBEAT_MS);
        cluster->delay_min_ms = 3; /* longer than heartbeats are out of step */
        cluster->delay_max_ms = 4;
        for (unsigned i = 0; i < 40; i++) {
            cluster_run(cluster, 20 + prng_below(&cluster->prng, 200));
            assert_true(node_propose(leader, 1));
            uint64_t sent_ms = cluster->now_ms;
            while (group_commit(leader->group) < group_last(leader->group)) {
                cluster_run(cluster, 1);
            }
            assert_true(cluster->now_ms - sent_ms <= 12);
        }
        cluster_free(cluster);
    }
}

static void test_conflicting_suffix_is_truncated_while_being_written(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 10);
    struct node *old = cluster_elect(cluster);
    struct node *follower = cluster_other(cluster, old, NULL);
    struct node *third = cluster_other(cluster, old, follower);
    /* Old leader and one follower: entries that reach the follower's memory, not its disk. */
    node_isolate(third, true);
    old->hold_disk = true;
    follower->hold_disk = true;
    assert_true(node_propose(old, 8));
    cluster_run(cluster, 20);
    assert_int_equal(group_last(follower->group), group_last(old->group));
    uint64_t committed = cluster->n_committed;
    /* The old leader loses touch. While the follower's disk is busy with the old leader's entries
     * it can neither vote nor stand; then it crashes, and nothing of them was ever acknowledged. */
    node_isolate(third, false);
    node_isolate(old, true);
    cluster_run(cluster, 3 * ELECTION_MS);
    assert_int_equal(cluster->n_committed, committed);
    node_crash(follower, 0);
    node_start(follower);
    follower->hold_disk = false;
    struct node *leader = NULL;
    for (unsigned i = 0; i < 20 && (leader == NULL || leader == old); i++) {
        cluster_run(cluster, ELECTION_MS);
        leader = cluster_leader(cluster);
    }
    assert_ptr_not_equal(leader, old);
    assert_true(node_propose(leader, 3));
    cluster_run(cluster, 100);
    /* The old leader, whose own writes are all still under way, is overwritten. */
    assert_true(sim_log_pending(old->log) > 0);
    node_isolate(old, false);
    cluster_run(cluster, 4 * HEARTBEAT_MS);
    sim_log_sync(old->log, 1); /* a write of entries that do not exist any more */
    cluster_run(cluster, 10);
    old->hold_disk = false;
    cluster_run(cluster, 4 * ELECTION_MS);
    assert_converged(cluster);
    cluster_free(cluster);
}

static void test_entries_count_once_they_are_durable(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 11);
    struct node *leader = cluster_elect(cluster);
    uint64_t before = cluster->n_committed;
    for (unsigned id = 1; id <= 3; id++) {
        cluster->nodes[id].hold_disk = true;
    }
    assert_true(node_propose(leader, 4));
    cluster_run(cluster, 50);
    assert_int_equal(cluster->n_committed, before);
    sim_log_sync_all(leader->log);
    cluster_run(cluster, 50);
    assert_int_equal(cluster->n_committed, before);
    struct node *follower = cluster_other(cluster, leader, NULL);
    sim_log_sync_all(follower->log);
    cluster_run(cluster, 2);
    assert_int_equal(cluster->n_committed, before + 4);
    cluster_free(cluster);
}

static void test_full_disk_of_a_follower(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 12);
    struct node *leader = cluster_elect(cluster);
    struct node *follower = cluster_other(cluster, leader, NULL);
    follower->log->full = true;
    follower->disk_low = true;
    uint64_t before = group_last(follower->group);
    uint64_t messages = cluster->messages;
    for (unsigned i = 0; i < 100; i++) {
        assert_true(node_propose(leader, 2));
        cluster_run(cluster, 10);
        assert_int_equal(group_role(follower->group), GROUP_FOLLOWER);
        assert_int_equal(group_leader(follower->group), leader->id);
    }
    assert_true(cluster->messages - messages < 2000); /* no storm of rejections */
    assert_int_equal(group_last(follower->group), before);
    assert_int_equal(cluster->n_committed, group_last(leader->group));
    assert_true(group_quorum_has_space(leader->group));
    cluster_other(cluster, leader, follower)->disk_low = true;
    cluster_run(cluster, 3 * HEARTBEAT_MS);
    assert_false(group_quorum_has_space(leader->group));
    cluster_heal(cluster);
    cluster_run(cluster, 4 * ELECTION_MS);
    assert_true(group_quorum_has_space(leader->group));
    assert_converged(cluster);
    cluster_free(cluster);
}

static void test_slow_follower_is_fed_from_files(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 13);
    struct node *leader = cluster_elect(cluster);
    struct node *follower = cluster_other(cluster, leader, NULL);
    node_isolate(follower, true);
    for (unsigned i = 0; i < 60; i++) {
        assert_true(node_propose(leader, 50));
        cluster_run(cluster, 5);
    }
    leader->log->cached_from = group_last(leader->group) - 10;
    node_isolate(follower, false);
    group_link_up(leader->group, cluster->now_ms, follower->id);
    cluster_run(cluster, 2 * ELECTION_MS);
    assert_true(leader->log->reads_done >= 10);
    assert_converged(cluster);
    cluster_free(cluster);
}

static void test_full_queue_of_a_peer(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 14);
    struct node *leader = cluster_elect(cluster);
    leader->queued = (uint64_t)1 << 40;
    for (unsigned i = 0; i < 200; i++) {
        assert_true(node_propose(leader, 2));
        cluster_run(cluster, 1);
    }
    assert_int_equal(group_role(leader->group), GROUP_LEADER); /* heartbeats still pass */
    leader->queued = 0;
    cluster_run(cluster, 200);
    assert_converged(cluster);
    cluster_free(cluster);
}

static void test_commit_does_not_go_back(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 15);
    struct node *leader = cluster_elect(cluster);
    struct node *follower = cluster_other(cluster, leader, NULL);
    assert_true(node_propose(leader, 20));
    cluster_run(cluster, 200);
    uint64_t commit = group_commit(follower->group);
    /* A late heartbeat that covers less than what is known, of a leader that knows more. */
    struct buffer header = {0};
    struct raft_wire wire = {.kind = PEER_MESSAGE_APPEND, .term = group_term(leader->group)};
    wire.append.prev_index = 1;
    wire.append.prev_term = 1;
    wire.append.commit = commit + 100;
    raft_wire_encode(&header, &wire);
    struct peer_message message = {.type = PEER_MESSAGE_APPEND, .header = buffer_slice(&header)};
    assert_true(group_receive(follower->group, cluster->now_ms, leader->id, &message));
    assert_int_equal(group_commit(follower->group), commit);
    buffer_free(&header);
    cluster_free(cluster);
}

/* A rejection that was overtaken by a later success must not send libraft back behind it. */
static void test_late_rejections_do_no_harm(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 17);
    struct node *leader = cluster_elect(cluster);
    struct node *follower = cluster_other(cluster, leader, NULL);
    assert_true(node_propose(leader, 20));
    cluster_run(cluster, 200);
    uint64_t match = group_match(leader->group, follower->id);
    assert_int_equal(match, group_last(leader->group));
    /* Silence takes the follower off the pipeline: libraft goes on behind `match`. */
    node_isolate(follower, true);
    assert_true(node_propose(leader, 3));
    cluster_run(cluster, 3 * ELECTION_MS);
    for (uint64_t rejected = match; rejected <= match + 1; rejected++) {
        struct buffer header = {0};
        struct raft_wire wire = {.kind = PEER_MESSAGE_APPEND_RESULT,
                                 .term = group_term(leader->group)};
        wire.append_result.rejected = rejected;
        wire.append_result.last_index = match - 10;
        raft_wire_encode(&header, &wire);
        struct peer_message message = {.type = PEER_MESSAGE_APPEND_RESULT,
                                       .header = buffer_slice(&header)};
        assert_true(group_receive(leader->group, cluster->now_ms, follower->id, &message));
        buffer_free(&header);
    }
    cluster_run(cluster, 3); /* nothing is left on the way */
    node_isolate(follower, false);
    cluster_run(cluster, 4 * HEARTBEAT_MS);
    assert_converged(cluster);
    cluster_free(cluster);
}

/* A disk that lied, or damage to the end of its log: a follower comes back without what it had
 * acknowledged. It gets it again, and nobody is elected who does not have it. */
static void test_follower_that_lost_what_it_acknowledged(void **state) {
    (void)state;
    for (unsigned lost = 1; lost <= 15; lost += 7) {
        struct cluster *cluster = cluster_new(3, 60 + lost);
        struct node *leader = cluster_elect(cluster);
        struct node *follower = cluster_other(cluster, leader, NULL);
        struct node *third = cluster_other(cluster, leader, follower);
        cluster_run(cluster, 2 * ELECTION_MS);
        node_isolate(third, true);
        assert_true(node_propose(leader, 20));
        cluster_run(cluster, 200);
        uint64_t last = group_last(leader->group);
        assert_int_equal(group_match(leader->group, follower->id), last);
        node_crash(follower, 0);
        sim_log_lose(follower->log, lost);
        node_start(follower);
        group_link_up(leader->group, cluster->now_ms, follower->id);
        /* While only the leader has the entries it stays. */
        cluster_run(cluster, 4 * ELECTION_MS);
        assert_true(leader->lead_term != 0);
        assert_int_equal(group_last(follower->group), last - lost);
        node_isolate(third, false);
        cluster_run(cluster, 8 * ELECTION_MS);
        assert_true(group_last(follower->group) >= last);
        assert_converged(cluster);
        cluster_free(cluster);
    }
}

/* After a vote with permission to disrupt, libraft still names the leader of the term before. */
static void test_contact_with_an_old_leader_does_not_count(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 16);
    struct node *old = cluster_elect(cluster);
    struct node *follower = cluster_other(cluster, old, NULL);
    struct node *next = cluster_other(cluster, old, follower);
    cluster_run(cluster, 200);
    uint64_t term = group_term(old->group);
    assert_true(group_transfer(old->group, cluster->now_ms, next->id));
    while (group_term(follower->group) == term) {
        cluster_run(cluster, 1);
    }
    assert_int_equal(group_leader(follower->group), 0);
    uint64_t contact_ms = group_leader_contact_ms(follower->group);
    struct buffer header = {0};
    struct raft_wire wire = {.kind = PEER_MESSAGE_APPEND, .term = term};
    wire.append.prev_index = 1;
    wire.append.prev_term = 1;
    raft_wire_encode(&header, &wire);
    struct peer_message message = {.type = PEER_MESSAGE_APPEND, .header = buffer_slice(&header)};
    cluster->now_ms += 10;
    assert_true(group_receive(follower->group, cluster->now_ms, old->id, &message));
    assert_int_equal(group_leader_contact_ms(follower->group), contact_ms);
    buffer_free(&header);
    cluster_run(cluster, ELECTION_MS);
    assert_converged(cluster);
    cluster_free(cluster);
}

/* --- followers learn of commits --------------------------------------------------------------- */

/* Long before the next heartbeat, and with no further entries to carry the news. */
static void test_commit_is_told_promptly(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 31);
    struct node *leader = cluster_elect(cluster);
    cluster_run(cluster, 200);
    for (unsigned i = 0; i < 20; i++) {
        cluster_run(cluster, 7); /* at any moment between two heartbeats */
        assert_true(node_propose(leader, 1));
        cluster_run(cluster, HEARTBEAT_MS / 2);
        struct node *one = cluster_other(cluster, leader, NULL);
        struct node *two = cluster_other(cluster, leader, one);
        assert_int_equal(group_commit(one->group), group_last(leader->group));
        assert_int_equal(group_commit(two->group), group_last(leader->group));
    }
    cluster_free(cluster);
}

/* Contact counts from the first word of a leader of the present term, not from the start. */
static void test_contact(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 32);
    struct group_contact contact;
    struct node *first = cluster_elect(cluster);
    struct node *follower = cluster_other(cluster, first, NULL);
    cluster_run(cluster, 200);
    assert_true(group_contact(first->group, &contact));
    assert_true(cluster->now_ms - contact.at_ms <= 2 * HEARTBEAT_MS);
    assert_true(group_contact(follower->group, &contact));
    assert_true(cluster->now_ms - contact.at_ms <= 2 * HEARTBEAT_MS);
    assert_int_equal(contact.commit, group_commit(first->group));
    uint64_t at_ms = contact.at_ms;
    node_isolate(first, true);
    node_isolate(follower, true);
    cluster_run(cluster, ELECTION_MS / 4);
    assert_true(group_contact(first->group, &contact));
    assert_true(cluster->now_ms - contact.at_ms >= ELECTION_MS / 4);
    assert_true(group_contact(follower->group, &contact));
    assert_int_equal(contact.at_ms, at_ms);
    cluster_run(cluster, 4 * ELECTION_MS);
    assert_false(group_contact(follower->group, &contact));
    cluster_free(cluster);
}

static void receive_heartbeat(struct cluster *cluster, struct node *to, struct node *from,
                              uint64_t heard_ms) {
    struct buffer header = {0};
    struct raft_wire wire = {.kind = PEER_MESSAGE_APPEND, .term = group_term(from->group)};
    wire.append.prev_index = 1;
    wire.append.prev_term = 1;
    wire.append.heard_ms = heard_ms;
    raft_wire_encode(&header, &wire);
    struct peer_message message = {.type = PEER_MESSAGE_APPEND, .header = buffer_slice(&header)};
    assert_true(group_receive(to->group, cluster->now_ms, from->id, &message));
    buffer_free(&header);
}

/* A heartbeat that was long on its way says nothing about the present: what counts is when the
 * answer was sent to which its sender refers. */
static void test_late_contact(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 33);
    struct group_contact contact;
    struct node *first = cluster_elect(cluster);
    struct node *follower = cluster_other(cluster, first, NULL);
    cluster_run(cluster, 200);
    assert_true(group_contact(follower->group, &contact));
    uint64_t at_ms = contact.at_ms;
    node_isolate(first, true);
    node_isolate(follower, true);
    cluster_run(cluster, ELECTION_MS / 4);
    receive_heartbeat(cluster, follower, first, at_ms + 1);
    assert_true(group_contact(follower->group, &contact));
    assert_int_equal(contact.at_ms, at_ms + 1);
    uint64_t others[] = {0, at_ms,
                         cluster->now_ms + 1}; /* nothing heard, overtaken, another boot */
    for (unsigned i = 0; i < 3; i++) {
        receive_heartbeat(cluster, follower, first, others[i]);
        assert_true(group_contact(follower->group, &contact));
        assert_int_equal(contact.at_ms, at_ms + 1);
    }
    cluster_free(cluster);
}

/* Nor does an answer that comes late to a leader. */
static void test_late_answer(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 34);
    struct group_contact contact;
    struct node *first = cluster_elect(cluster);
    struct node *follower = cluster_other(cluster, first, NULL);
    cluster_run(cluster, 200);
    assert_true(group_contact(first->group, &contact));
    uint64_t at_ms = contact.at_ms;
    node_isolate(first, true);
    cluster_run(cluster, ELECTION_MS / 4);
    struct buffer header = {0};
    struct raft_wire wire = {.kind = PEER_MESSAGE_APPEND_RESULT, .term = group_term(first->group)};
    wire.append_result.last_index = group_last(first->group);
    wire.append_result.heard_ms = at_ms + 1;
    raft_wire_encode(&header, &wire);
    struct peer_message message = {.type = PEER_MESSAGE_APPEND_RESULT,
                                   .header = buffer_slice(&header)};
    assert_true(group_receive(first->group, cluster->now_ms, follower->id, &message));
    buffer_free(&header);
    assert_true(group_contact(first->group, &contact));
    assert_int_equal(contact.at_ms, at_ms + 1);
    cluster_free(cluster);
}

/* --- reads ------------------------------------------------------------------------------------ */

static void test_isolated_leader_confirms_no_read(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 20);
    struct node *old = cluster_elect(cluster);
    cluster_run(cluster, 200);
    node_isolate(old, true);
    assert_true(node_read(old));
    unsigned confirmed = old->reads_confirmed;
    cluster_run(cluster, 3 * ELECTION_MS);
    assert_int_equal(old->reads_confirmed, confirmed);
    assert_int_not_equal(group_role(old->group), GROUP_LEADER);
    assert_false(node_read(old));
    struct node *now = cluster_elect(cluster);
    assert_true(node_propose(now, 3));
    cluster_run(cluster, 50);
    assert_true(node_read(now)); /* the harness compares it with everything committed */
    cluster_run(cluster, 10);
    assert_int_equal(now->reads_confirmed, 1);
    cluster_free(cluster);
}

/* A read that waits when leadership is lost is not confirmed by the same node's next leadership. */
static void test_rounds_of_a_lost_leadership_are_not_confirmed(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 21);
    struct node *leader = cluster_elect(cluster);
    node_isolate(leader, true);
    uint64_t round = group_read(leader->group);
    group_flush_reads(leader->group, cluster->now_ms);
    uint64_t next = group_read(leader->group);
    assert_true(next > round);
    cluster_run(cluster, 3 * ELECTION_MS);
    assert_int_not_equal(group_role(leader->group), GROUP_LEADER);
    assert_true(group_reads_confirmed(leader->group) < round);
    cluster_free(cluster);
}

static void test_lost_probes_are_sent_again(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 22);
    struct node *leader = cluster_elect(cluster);
    cluster->drop_percent = 100;
    assert_true(node_read(leader));
    cluster_run(cluster, 20);
    cluster->drop_percent = 0;
    cluster_run(cluster, 2 * HEARTBEAT_MS);
    assert_int_equal(leader->reads_confirmed, 1);
    cluster_free(cluster);
}

/* --- leadership transfer ---------------------------------------------------------------------- */

static void test_transfer_with_proposals_in_flight(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct cluster *cluster = cluster_new(3, seed);
        struct node *leader = cluster_elect(cluster);
        struct node *to = cluster_other(cluster, leader, NULL);
        cluster->delay_max_ms = 5;
        for (unsigned i = 0; i < 20; i++) {
            assert_true(node_propose(leader, 3));
            cluster_run(cluster, i % 2);
        }
        uint64_t last = group_last(leader->group);
        uint64_t start_ms = cluster->now_ms;
        assert_true(group_transfer(leader->group, cluster->now_ms, to->id));
        assert_false(group_transfer(leader->group, cluster->now_ms, to->id));
        assert_false(node_propose(leader, 1));
        while (cluster_leader(cluster) != to && cluster->now_ms < start_ms + ELECTION_MS) {
            cluster_run(cluster, 1);
        }
        assert_ptr_equal(cluster_leader(cluster), to);
        assert_true(cluster->now_ms - start_ms < 200);
        cluster_run(cluster, 300);
        assert_converged(cluster);
        assert_true(cluster->n_committed >= last);
        cluster_free(cluster);
    }
}

static void test_transfer_finds_a_follower_that_answers(void **state) {
    (void)state;
    for (unsigned dead = 0; dead < 2; dead++) {
        struct cluster *cluster = cluster_new(3, 30);
        struct node *leader = cluster_elect(cluster);
        struct node *first = cluster_other(cluster, leader, NULL);
        struct node *second = cluster_other(cluster, leader, first);
        struct node *to = dead == 0 ? second : first;
        cluster_run(cluster, 200);
        node_crash(dead == 0 ? first : second, 0);
        cluster_run(cluster, ELECTION_MS);
        assert_true(group_transfer(leader->group, cluster->now_ms, 0));
        cluster_run(cluster, 100);
        assert_ptr_equal(cluster_leader(cluster), to);
        cluster_free(cluster);
    }
}

static void test_transfer_that_fails_is_given_up(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 31);
    struct node *leader = cluster_elect(cluster);
    struct node *to = cluster_other(cluster, leader, NULL);
    assert_false(group_transfer(leader->group, cluster->now_ms, 99));
    assert_false(group_transfer(leader->group, cluster->now_ms, leader->id));
    node_crash(to, 0);
    assert_true(group_transfer(leader->group, cluster->now_ms, to->id));
    assert_true(group_is_transferring(leader->group));
    cluster_run(cluster, 2 * ELECTION_MS);
    assert_false(group_is_transferring(leader->group));
    assert_true(node_propose(leader, 1));
    cluster_free(cluster);
}

/* --- snapshots and cuts ----------------------------------------------------------------------- */

static void test_snapshot_where_the_log_was_cut(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 40);
    struct node *leader = cluster_elect(cluster);
    struct node *follower = cluster_other(cluster, leader, NULL);
    node_isolate(follower, true);
    for (unsigned i = 0; i < 20; i++) {
        assert_true(node_propose(leader, 20));
        cluster_run(cluster, 10);
    }
    node_cut(leader, 5);
    assert_true(leader->log->now.state.first > 300);
    cluster->delay_max_ms = 40; /* the install takes a while, under heartbeats and new entries */
    node_isolate(follower, false);
    for (unsigned i = 0; i < 40; i++) {
        assert_true(node_propose(leader, 1));
        cluster_run(cluster, 20);
    }
    assert_int_equal(follower->snapshots_installed, 1);
    cluster_heal(cluster);
    cluster_run(cluster, 2 * ELECTION_MS);
    assert_converged(cluster);
    cluster_free(cluster);
}

/* The last entry that was cut off: its term is not known any more, but it is committed. */
static void test_append_at_the_edge_of_a_cut_log(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 43);
    struct node *leader = cluster_elect(cluster);
    struct node *follower = cluster_other(cluster, leader, NULL);
    assert_true(node_propose(leader, 20));
    cluster_run(cluster, 200);
    node_cut(follower, 5);
    uint64_t edge = follower->log->now.state.first - 1;
    assert_int_equal(edge, follower->applied - 5);
    for (uint64_t prev = edge - 3; prev <= follower->applied; prev++) {
        char expected[128];
        struct buffer header = {0};
        struct raft_wire wire = {.kind = PEER_MESSAGE_APPEND, .term = group_term(leader->group)};
        wire.append.prev_index = prev;
        wire.append.prev_term = cluster->committed[prev].term;
        wire.append.commit = follower->applied;
        raft_wire_encode(&header, &wire);
        struct peer_message message = {.type = PEER_MESSAGE_APPEND,
                                       .header = buffer_slice(&header)};
        cluster->tracing = true;
        cluster->trace[0] = 0;
        assert_true(group_receive(follower->group, cluster->now_ms, leader->id, &message));
        snprintf(expected, sizeof expected, "%llu > %llu append result term %llu, has %llu\n",
                 (unsigned long long)follower->id, (unsigned long long)leader->id,
                 (unsigned long long)group_term(leader->group),
                 (unsigned long long)(prev <= edge ? follower->applied : prev));
        assert_string_equal(cluster->trace, expected);
        buffer_free(&header);
    }
    cluster->tracing = false;
    cluster_run(cluster, 200);
    assert_converged(cluster);
    cluster_free(cluster);
}

/* Crashes at each point of an install: before the state machine is replaced, between that and the
 * log, and after. */
static void test_crash_while_installing(void **state) {
    (void)state;
    for (unsigned point = 0; point < 3; point++) {
        struct cluster *cluster = cluster_new(3, 41);
        struct node *leader = cluster_elect(cluster);
        struct node *follower = cluster_other(cluster, leader, NULL);
        node_isolate(follower, true);
        for (unsigned i = 0; i < 10; i++) {
            assert_true(node_propose(leader, 20));
            cluster_run(cluster, 10);
        }
        node_cut(leader, 0);
        node_isolate(follower, false);
        while (!group_is_installing(follower->group)) {
            cluster_run(cluster, 1);
        }
        if (point == 0) {
            follower->durable = 1; /* the new file never got its name */
        } else if (point == 2) {
            group_install(follower->group);
            follower->install_at_ms = 0;
            sim_log_sync_all(follower->log);
        }
        node_restart(follower);
        cluster_run(cluster, 2 * ELECTION_MS);
        assert_converged(cluster);
        cluster_free(cluster);
    }
}

static void test_offers_that_are_not_wanted(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 42);
    struct node *leader = cluster_elect(cluster);
    struct node *follower = cluster_other(cluster, leader, NULL);
    assert_true(node_propose(leader, 10));
    cluster_run(cluster, 100);
    struct snapshot_info info = {.leader_term = group_term(leader->group),
                                 .index = group_commit(follower->group),
                                 .term = group_term(leader->group),
                                 .config_index = 1,
                                 .config = payload_slice(cluster->config)};
    assert_false(group_offer_snapshot(follower->group, cluster->now_ms, leader->id, &info));
    assert_false(group_offer_snapshot(leader->group, cluster->now_ms, follower->id, &info));
    struct snapshot_info bad = info;
    bad.index += 100;
    bad.leader_term = 1;
    assert_false(group_offer_snapshot(follower->group, cluster->now_ms, leader->id, &bad));
    bad = info;
    bad.index += 100;
    bad.term = 0;
    assert_false(group_offer_snapshot(follower->group, cluster->now_ms, leader->id, &bad));
    bad = info;
    bad.index += 100;
    bad.config.size -= 9;
    assert_false(group_offer_snapshot(follower->group, cluster->now_ms, leader->id, &bad));
    assert_false(group_is_installing(follower->group));
    cluster_free(cluster);
}

/* --- restarts --------------------------------------------------------------------------------- */

static void test_state_machine_behind_the_log_is_refused(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 50);
    struct node *leader = cluster_elect(cluster);
    assert_true(node_propose(leader, 30));
    cluster_run(cluster, 100);
    node_cut(leader, 0);
    cluster_run(cluster, 10);
    uint64_t last = group_last(leader->group);
    uint64_t durable = leader->durable;
    node_crash(leader, 0);
    /* An older copy of the database: the entries in between are nowhere on this node. */
    leader->durable = durable - 10;
    node_try_start(leader, ERROR_CORRUPT);
    assert_int_equal(leader->log->now.state.last, last); /* and nothing was thrown away */
    sim_log_crash(leader->log, 0);
    group_free(leader->group);
    sim_log_restart(leader->log);
    leader->durable = durable;
    node_start(leader);
    cluster_run(cluster, 3 * ELECTION_MS);
    assert_converged(cluster);
    cluster_free(cluster);
}

static void test_interrupted_bootstrap(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(1, 51);
    struct node *node = &cluster->nodes[1];
    node_crash(node, 0);
    sim_image_clear(&node->log->durable);
    cluster->n_committed = 0;
    payload_unref(cluster->committed[1].payload);
    memset(cluster->leaders, 0, sizeof cluster->leaders);
    node->log->durable.state.term = 1; /* of the two records only the first one survived */
    node->log->dead = true;
    sim_log_restart(node->log);
    node_start(node);
    assert_int_equal(group_role(node->group), GROUP_LEADER);
    assert_int_equal(group_last(node->group), 1);
    cluster_free(cluster);
}

static void test_damaged_logs_are_refused(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 52);
    struct node *node = cluster_elect(cluster);
    assert_true(node_propose(node, 3));
    cluster_run(cluster, 100);
    node_crash(node, 0);
    struct log_entry *first = &node->log->now.entries[1];
    first->kind = LOG_ENTRY_COMMAND;
    node_try_start(node, ERROR_CORRUPT);
    group_free(node->group);
    first->kind = LOG_ENTRY_CHANGE;
    node->log->now.entries[3].term = 99;
    node_try_start(node, ERROR_CORRUPT);
    group_free(node->group);
    node->log->now.entries[3].term = node->log->durable.entries[3].term;
    struct payload *config = first->payload;
    first->payload = payload_copy(slice_of("no configuration"));
    node_try_start(node, ERROR_CORRUPT);
    group_free(node->group);
    payload_unref(first->payload);
    first->payload = config;
    node_start(node);
    cluster_run(cluster, 3 * ELECTION_MS);
    assert_converged(cluster);
    cluster_free(cluster);
}

static void test_everybody_restarts_in_the_middle(void **state) {
    (void)state;
    struct cluster *cluster = cluster_new(3, 53);
    for (unsigned round = 0; round < 10; round++) {
        struct node *leader = cluster_elect(cluster);
        for (unsigned i = 0; i < 10; i++) {
            (void)node_propose(leader, 2);
            cluster_run(cluster, i % 3);
        }
        for (unsigned id = 1; id <= 3; id++) {
            struct node *node = &cluster->nodes[id];
            node_crash(node, (unsigned)prng_below(&cluster->prng, 3));
        }
        for (unsigned id = 1; id <= 3; id++) {
            node_start(&cluster->nodes[id]);
        }
    }
    cluster_elect(cluster);
    cluster_run(cluster, ELECTION_MS);
    assert_converged(cluster);
    cluster_free(cluster);
}

/* --- configurations --------------------------------------------------------------------------- */

static void test_configurations_are_checked(void **state) {
    (void)state;
    struct group_server servers[2] = {{.id = 1, .address = "a:1", .voter = true},
                                      {.id = 2, .address = "b:1", .voter = false}};
    struct payload *good = group_encode_config(servers, 2);
    assert_true(group_config_is_valid(payload_slice(good)));
    /* In memory of its exact size, so that reading beyond is noticed. */
    for (size_t size = 0; size < good->size; size++) {
        uint8_t *cut = mem_dup(good->data, size + 1);
        cut = mem_realloc(cut, size > 0 ? size : 1);
        (void)group_config_is_valid(slice_make(cut, size));
        if (size < good->size - 7) {
            assert_false(group_config_is_valid(slice_make(cut, size)));
        }
        mem_free(cut);
    }
    struct payload *bad = payload_copy(payload_slice(good));
    bad->data[0] = 2; /* version */
    assert_false(group_config_is_valid(payload_slice(bad)));
    bad->data[0] = 1;
    bytes_put_u64(bad->data + 1, UINT64_MAX);
    assert_false(group_config_is_valid(payload_slice(bad)));
    bytes_put_u64(bad->data + 1, 0);
    assert_false(group_config_is_valid(payload_slice(bad)));
    bytes_put_u64(bad->data + 1, 2);
    assert_true(group_config_is_valid(payload_slice(bad)));
    bad->data[1 + 8 + 8 + 4] = 9; /* role */
    assert_false(group_config_is_valid(payload_slice(bad)));
    payload_unref(bad);
    servers[0].voter = false;
    struct payload *voterless = group_encode_config(servers, 2);
    assert_false(group_config_is_valid(payload_slice(voterless)));
    payload_unref(voterless);
    payload_unref(good);
}

/* --- random schedules ------------------------------------------------------------------------- */

static void random_fault(struct cluster *cluster, struct node *node) {
    struct prng *prng = &cluster->prng;
    struct node *other = &cluster->nodes[1 + prng_below(prng, cluster->n)];
    switch (prng_below(prng, 12)) {
    case 0:
        if (node->group != NULL) {
            node_crash(node, (unsigned)prng_below(prng, sim_log_pending(node->log) + 1));
        }
        break;
    case 1:
    case 2:
        if (node->group == NULL) {
            node_start(node);
        }
        break;
    case 3:
        node_isolate(node, prng_below(prng, 2) == 0);
        break;
    case 4:
        cluster->cut[node->id][other->id] = prng_below(prng, 2) == 0;
        break;
    case 5:
        memset(cluster->cut, 0, sizeof cluster->cut);
        break;
    case 6:
        cluster->drop_percent = (unsigned)prng_below(prng, 30);
        cluster->duplicate_percent = (unsigned)prng_below(prng, 30);
        cluster->delay_max_ms = 1 + (unsigned)prng_below(prng, prng_below(prng, 4) == 0 ? 400 : 20);
        break;
    case 7:
        node->hold_disk = prng_below(prng, 2) == 0;
        break;
    case 8:
        node_cut(node, (unsigned)prng_below(prng, 30));
        break;
    case 9:
        if (node->group != NULL) {
            (void)group_transfer(node->group, cluster->now_ms,
                                 prng_below(prng, 2) == 0 ? 0 : other->id);
        }
        break;
    case 10:
        if (node->group != NULL && node != other) {
            group_peer_gone(node->group, cluster->now_ms, other->id);
            group_link_up(node->group, cluster->now_ms, other->id);
        }
        break;
    default:
        node->log->full = prng_below(prng, 4) == 0;
        node->disk_low = node->log->full;
        node->queued = prng_below(prng, 8) == 0 ? (uint64_t)1 << 40 : 0;
        node->log->cached_from =
            node->log->now.state.last - prng_below(prng, node->log->now.state.last + 1);
        break;
    }
}

static void random_load(struct cluster *cluster, struct node *node) {
    struct prng *prng = &cluster->prng;
    if (node->group == NULL) {
        return;
    }
    if (group_last(node->group) + 200 < SIM_ENTRIES) {
        (void)node_propose(node, 1 + (unsigned)prng_below(prng, 6));
    }
    (void)node_read(node);
    if (node->hold_disk && prng_below(prng, 3) == 0) {
        sim_log_sync(node->log, 1 + (unsigned)prng_below(prng, 3));
    }
}

/* A schedule in which nothing happened would pass as well. */
static void print_coverage(const struct cluster *cluster) {
    unsigned reads = 0;
    unsigned snapshots = 0;
    uint64_t from_files = 0;
    for (unsigned id = 1; id <= cluster->n; id++) {
        reads += cluster->nodes[id].reads_confirmed;
        snapshots += cluster->nodes[id].snapshots_installed;
        from_files += cluster->nodes[id].log->reads_done;
    }
    fprintf(stderr,
            "  %llu ms, %llu messages, term %llu, %llu committed, %u reads, %u snapshots, %llu "
            "reads of files\n",
            (unsigned long long)cluster->now_ms, (unsigned long long)cluster->messages,
            (unsigned long long)group_term(cluster->nodes[1].group),
            (unsigned long long)cluster->n_committed, reads, snapshots,
            (unsigned long long)from_files);
}

static void run_schedule(unsigned n, uint64_t seed, unsigned steps) {
    struct cluster *cluster = cluster_new(n, seed);
    struct prng *prng = &cluster->prng;
    for (unsigned step = 0; step < steps; step++) {
        struct node *node = &cluster->nodes[1 + prng_below(prng, n)];
        if (prng_below(prng, 10) == 0) {
            random_fault(cluster, node);
        } else {
            random_load(cluster, node);
        }
        cluster_run(cluster, prng_below(prng, prng_below(prng, 20) == 0 ? 600 : 15));
        if (step % 50 == 0) {
            check_log_matching(cluster);
        }
    }
    cluster_heal(cluster);
    cluster_run(cluster, 2 * ELECTION_MS);
    struct node *leader = cluster_elect(cluster);
    uint64_t before = cluster->n_committed;
    assert_true(group_is_transferring(leader->group) || node_propose(leader, 3));
    cluster_run(cluster, 6 * ELECTION_MS);
    leader = cluster_elect(cluster);
    assert_true(node_propose(leader, 1));
    cluster_run(cluster, 2 * ELECTION_MS);
    assert_true(cluster->n_committed > before);
    assert_converged(cluster);
    print_coverage(cluster);
    cluster_free(cluster);
}

static uint64_t number_from_env(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text == NULL ? otherwise : strtoull(text, NULL, 10);
}

/* GROUP_SEED=n runs one schedule again, GROUP_SEEDS=n runs so many. */
static void test_random_schedules(void **state) {
    (void)state;
    uint64_t first = number_from_env("GROUP_SEED", 0);
    uint64_t n = first > 0 ? 1 : number_from_env("GROUP_SEEDS", 40);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t seed = first > 0 ? first : 1000 + i;
        unsigned nodes = seed % 4 == 3 ? 5 : 3;
        fprintf(stderr, "GROUP_SEED=%llu (%u nodes)\n", (unsigned long long)seed, nodes);
        run_schedule(nodes, seed, 1500);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commit_is_told_promptly),
        cmocka_unit_test(test_contact),
        cmocka_unit_test(test_late_contact),
        cmocka_unit_test(test_late_answer),
        cmocka_unit_test(test_election_trace),
        cmocka_unit_test(test_no_message_before_the_vote_is_durable),
        cmocka_unit_test(test_five_elect_and_replicate),
        cmocka_unit_test(test_lone_voter),
        cmocka_unit_test(test_promoted_standby_votes),
        cmocka_unit_test(test_newcomer_does_not_take_itself_for_another),
        cmocka_unit_test(test_newcomer_arrives),
        cmocka_unit_test(test_rejoining_node_does_not_disrupt),
        cmocka_unit_test(test_lost_election_asks_beforehand_again),
        cmocka_unit_test(test_old_term_with_the_better_log_gets_elected),
        cmocka_unit_test(test_fast_election_when_the_leader_is_gone),
        cmocka_unit_test(test_fast_election_does_no_harm),
        cmocka_unit_test(test_single_writes_do_not_wait_for_heartbeats),
        cmocka_unit_test(test_conflicting_suffix_is_truncated_while_being_written),
        cmocka_unit_test(test_entries_count_once_they_are_durable),
        cmocka_unit_test(test_full_disk_of_a_follower),
        cmocka_unit_test(test_slow_follower_is_fed_from_files),
        cmocka_unit_test(test_full_queue_of_a_peer),
        cmocka_unit_test(test_commit_does_not_go_back),
        cmocka_unit_test(test_late_rejections_do_no_harm),
        cmocka_unit_test(test_follower_that_lost_what_it_acknowledged),
        cmocka_unit_test(test_contact_with_an_old_leader_does_not_count),
        cmocka_unit_test(test_isolated_leader_confirms_no_read),
        cmocka_unit_test(test_rounds_of_a_lost_leadership_are_not_confirmed),
        cmocka_unit_test(test_lost_probes_are_sent_again),
        cmocka_unit_test(test_transfer_with_proposals_in_flight),
        cmocka_unit_test(test_transfer_finds_a_follower_that_answers),
        cmocka_unit_test(test_transfer_that_fails_is_given_up),
        cmocka_unit_test(test_snapshot_where_the_log_was_cut),
        cmocka_unit_test(test_append_at_the_edge_of_a_cut_log),
        cmocka_unit_test(test_crash_while_installing),
        cmocka_unit_test(test_offers_that_are_not_wanted),
        cmocka_unit_test(test_state_machine_behind_the_log_is_refused),
        cmocka_unit_test(test_interrupted_bootstrap),
        cmocka_unit_test(test_damaged_logs_are_refused),
        cmocka_unit_test(test_everybody_restarts_in_the_middle),
        cmocka_unit_test(test_configurations_are_checked),
        cmocka_unit_test(test_random_schedules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
