/* Reads that a replica answers by itself, over real groups, shards and state machines: what they
 * promise while the replica is cut off, behind, or without a state. */
#include "node/router_internal.h"
#include "tests/unit/node_fixture.h"

static int setup(void **state) {
    struct fleet *fleet = mem_zalloc(1, sizeof *fleet);
    fleet_make(fleet, 3, 1);
    *state = fleet;
    return 0;
}

static int teardown(void **state) {
    fleet_free(*state);
    mem_free(*state);
    return 0;
}

static uint64_t other_than(const struct fleet *fleet, uint64_t a, uint64_t b) {
    for (uint64_t id = 1; id <= fleet->n; id++) {
        if (id != a && id != b) {
            return id;
        }
    }
    return 0;
}

static void begin_get(struct fleet *fleet, uint64_t id, struct request *request,
                      enum read_level level, uint64_t bound) {
    make_key_command(request, COMMAND_GET, "key");
    request->op.level = level;
    request->op.min_index = level == READ_SESSION ? bound : 0;
    request->op.max_stale_ms = level == READ_EVENTUAL ? bound : 0;
    submit_at(fleet, id, request);
}

/* An eventual read, which must be answered within one step of the state machine's. */
static void check_eventual(struct fleet *fleet, uint64_t id, uint64_t max_stale_ms,
                           const char *value) {
    struct request request;
    begin_get(fleet, id, &request, READ_EVENTUAL, max_stale_ms);
    fleet_run(fleet, 2);
    assert_bulk(&request, value);
    request_free(&request);
}

static void check_stale(struct fleet *fleet, uint64_t id, uint64_t max_stale_ms,
                        const char *expected) {
    struct request request;
    begin_get(fleet, id, &request, READ_EVENTUAL, max_stale_ms);
    assert_error(&request, ERROR_STALE); /* at once */
    buffer_put_u8(&request.result.data, 0);
    assert_non_null(strstr((const char *)request.result.data.data, expected));
    request_free(&request);
}

/* Sets the key; returns the log index that the result carried. */
static uint64_t write_through(struct fleet *fleet, uint64_t id, const char *value) {
    struct request request;
    make_set(&request, "key", slice_of(value), 0);
    submit_at(fleet, id, &request);
    await_answer(fleet, &request);
    assert_ok(&request);
    uint64_t index = request.op.seen_index;
    assert_true(index > 0);
    request_free(&request);
    return index;
}

/* --- results tell the log index --------------------------------------------------------------- */

static void test_results_carry_the_index(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    uint64_t before = 0;
    for (uint64_t id = 1; id <= 3; id++) {
        uint64_t index = write_through(fleet, id, "value");
        assert_true(index > before);
        assert_true(index <= group_commit(fleet_node(fleet, leader)->group));
        for (uint64_t reader = 1; reader <= 3; reader++) {
            struct request read;
            begin_get(fleet, reader, &read, READ_LINEARIZABLE, 0);
            await_answer(fleet, &read);
            assert_true(read.op.seen_index >= index);
            request_free(&read);
        }
        before = index;
    }
}

/* --- eventual --------------------------------------------------------------------------------- */

static void test_isolated_follower(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    uint64_t follower = other_than(fleet, leader, 0);
    write_through(fleet, leader, "old");
    fleet_run(fleet, 200);
    check_eventual(fleet, follower, 100, "old");
    fleet_isolate(fleet, follower, true);
    write_through(fleet, leader, "new");
    struct request linearizable;
    begin_get(fleet, follower, &linearizable, READ_LINEARIZABLE, 0);
    fleet_run(fleet, 300);
    check_eventual(fleet, follower, 1000, "old");
    check_stale(fleet, follower, 200, "200 ms");
    fleet_run(fleet, 1000);
    check_stale(fleet, follower, 1000, "1000 ms");
    check_eventual(fleet, follower, 0, "old");
    assert_int_equal(linearizable.answers, 0);
    await_answer(fleet, &linearizable);
    assert_error(&linearizable, ERROR_NOLEADER);
    request_free(&linearizable);
    fleet_isolate(fleet, follower, false);
    fleet_run(fleet, 3000);
    check_eventual(fleet, follower, 100, "new");
}

/* A leader that is cut off goes by when a majority last followed it. */
static void test_isolated_leader(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    write_through(fleet, leader, "old");
    fleet_run(fleet, 200);
    check_eventual(fleet, leader, 100, "old");
    fleet_isolate(fleet, leader, true);
    fleet_run(fleet, 150);
    assert_int_equal(group_role(fleet_node(fleet, leader)->group), GROUP_LEADER);
    check_stale(fleet, leader, 100, "100 ms");
    check_eventual(fleet, leader, 0, "old");
    uint64_t next = fleet_await_leader(fleet, leader);
    write_through(fleet, next, "new");
    struct request linearizable;
    begin_get(fleet, leader, &linearizable, READ_LINEARIZABLE, 0);
    await_answer(fleet, &linearizable);
    assert_error(&linearizable, ERROR_NOLEADER);
    check_stale(fleet, leader, 1000, "1000 ms");
    request_free(&linearizable);
}

/* A replica that hears its leader but does not apply is as old as what it has applied. */
static void test_contact_without_progress_is_stale(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    uint64_t follower = other_than(fleet, leader, 0);
    struct node *node = fleet_node(fleet, follower);
    write_through(fleet, leader, "old");
    fleet_run(fleet, 200);
    node->apply_fails = true;
    write_through(fleet, leader, "new");
    fleet_run(fleet, 500);
    struct group_contact contact;
    assert_true(group_contact(node->group, &contact));
    assert_true(fleet->now_ms - contact.at_ms < 100);
    check_stale(fleet, follower, 300, "300 ms");
    check_eventual(fleet, follower, 0, "old");
    node->apply_fails = false;
    fleet_run(fleet, 1500);
    check_eventual(fleet, follower, 100, "new");
}

/* The time of the start is no contact. */
static void test_restarted_alone(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    uint64_t follower = other_than(fleet, leader, 0);
    write_through(fleet, leader, "old");
    fleet_run(fleet, 1500); /* committed by the follower's state machine */
    fleet_crash(fleet, follower, 1000);
    fleet_restart(fleet, follower);
    fleet_isolate(fleet, follower, true);
    check_stale(fleet, follower, 100000, "100000 ms");
    check_eventual(fleet, follower, 0, "old");
}

/* A node that has nothing yet does not answer that there is nothing. */
static void test_node_without_state(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    struct shard *shard = &fleet_node(fleet, leader)->shard;
    uint64_t applied = shard->state.applied_index;
    shard->state.applied_index = 0;
    check_stale(fleet, leader, 0, "has not started");
    shard->state.applied_index = applied;
}

/* --- sessions --------------------------------------------------------------------------------- */

static void test_session_waits_for_what_it_wrote(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    uint64_t follower = other_than(fleet, leader, 0);
    struct request read;
    fleet_run(fleet, 200);
    fleet_node(fleet, follower)->hold_syncs = true;
    uint64_t index = write_through(fleet, leader, "new");
    begin_get(fleet, follower, &read, READ_SESSION, index);
    fleet_run(fleet, 300);
    assert_int_equal(read.answers, 0);
    fleet_node(fleet, follower)->hold_syncs = false;
    await_answer(fleet, &read);
    assert_bulk(&read, "new");
    assert_true(read.op.seen_index >= index);
    request_free(&read);
}

static void test_session_never_goes_back(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    uint64_t behind = other_than(fleet, leader, 0);
    uint64_t ahead = other_than(fleet, leader, behind);
    struct request read;
    struct request late;
    write_through(fleet, leader, "old");
    fleet_run(fleet, 200);
    fleet_isolate(fleet, behind, true);
    write_through(fleet, leader, "new");
    fleet_run(fleet, 100);
    begin_get(fleet, ahead, &read, READ_SESSION, 0);
    await_answer(fleet, &read);
    assert_bulk(&read, "new");
    begin_get(fleet, behind, &late, READ_SESSION, read.op.seen_index);
    fleet_run(fleet, FLEET_TIMEOUT_MS - 3 * FLEET_DUTY_MS);
    assert_int_equal(late.answers, 0);
    await_answer(fleet, &late);
    assert_error(&late, ERROR_STALE);
    request_free(&late);
    /* What it has not seen yet it need not wait for. */
    begin_get(fleet, behind, &late, READ_SESSION, 1);
    fleet_run(fleet, 2);
    assert_bulk(&late, "old");
    request_free(&late);
    request_free(&read);
}

/* Pipelined reads with writes going on around them: what they saw only grows, in their order. */
static void test_pipelined_reads_only_go_forward(void **state) {
    struct fleet *fleet = *state;
    enum { READS = 60 };
    struct request reads[READS];
    struct request writes[READS];
    uint64_t leader = fleet_await_leader(fleet, 0);
    uint64_t follower = other_than(fleet, leader, 0);
    uint64_t index = write_through(fleet, leader, "0");
    fleet->shuffled = true;
    for (unsigned i = 0; i < READS; i++) {
        make_set(&writes[i], "key", slice_of("value"), 0);
        submit_at(fleet, leader, &writes[i]);
        begin_get(fleet, follower, &reads[i], READ_SESSION, index);
        fleet_run(fleet, 2);
    }
    for (unsigned i = 0; i < READS; i++) {
        await_answer(fleet, &writes[i]);
        await_answer(fleet, &reads[i]);
        assert_int_equal(reads[i].result.kind, RESULT_BULK);
        assert_true(i == 0 || reads[i].op.seen_index >= reads[i - 1].op.seen_index);
    }
    assert_true(reads[READS - 1].op.seen_index > reads[0].op.seen_index);
    for (unsigned i = 0; i < READS; i++) {
        request_free(&writes[i]);
        request_free(&reads[i]);
    }
}

/* A state machine that hangs does not keep a local read beyond its deadline. */
static void test_local_reads_of_a_hanging_machine(void **state) {
    struct fleet *fleet = *state;
    struct request eventual;
    struct request queued;
    uint64_t leader = fleet_await_leader(fleet, 0);
    write_through(fleet, leader, "value");
    fleet_run(fleet, 200);
    fleet_node(fleet, leader)->hold_jobs = true;
    begin_get(fleet, leader, &eventual, READ_EVENTUAL, 0);
    begin_get(fleet, leader, &queued, READ_EVENTUAL, 0);
    await_answer(fleet, &eventual);
    await_answer(fleet, &queued);
    assert_error(&eventual, ERROR_BUSY);
    assert_error(&queued, ERROR_BUSY);
    fleet_node(fleet, leader)->hold_jobs = false;
    fleet_run(fleet, 100);
    check_eventual(fleet, leader, 0, "value");
    /* The bound is that of the answer, not that of the question. */
    request_free(&queued);
    uint64_t follower = other_than(fleet, leader, 0);
    check_eventual(fleet, follower, 100, "value");
    fleet_isolate(fleet, follower, true);
    fleet_node(fleet, follower)->hold_jobs = true;
    begin_get(fleet, follower, &queued, READ_EVENTUAL, 200);
    fleet_run(fleet, 300);
    assert_int_equal(queued.answers, 0);
    fleet_node(fleet, follower)->hold_jobs = false;
    fleet_run(fleet, 2);
    assert_error(&queued, ERROR_STALE);
    request_free(&eventual);
    request_free(&queued);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_results_carry_the_index),
        TEST(test_isolated_follower),
        TEST(test_isolated_leader),
        TEST(test_contact_without_progress_is_stale),
        TEST(test_restarted_alone),
        TEST(test_node_without_state),
        TEST(test_session_waits_for_what_it_wrote),
        TEST(test_session_never_goes_back),
        TEST(test_pipelined_reads_only_go_forward),
        TEST(test_local_reads_of_a_hanging_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
