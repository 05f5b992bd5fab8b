/* Shards of several nodes: opening of a new leader's clock, expiry ticks, applying under trouble,
 * checkpoints and the cut of the log, snapshots to followers. */
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

static void set_expiring(struct fleet *fleet, uint64_t id, const char *key, uint64_t ttl_ms) {
    struct request request;
    struct command command = {
        .kind = COMMAND_SET, .expiry_mode = COMMAND_EXPIRY_AFTER, .expiry_ms = ttl_ms};
    struct slice args[2] = {slice_of(key), slice_of("value")};
    request_make(&request, &command, args, 2);
    submit_at(fleet, id, &request);
    await_answer(fleet, &request);
    assert_ok(&request);
    request_free(&request);
}

static int64_t ttl_of(struct fleet *fleet, uint64_t id, const char *key) {
    struct request request;
    make_key_command(&request, COMMAND_PTTL, key);
    submit_at(fleet, id, &request);
    await_answer(fleet, &request);
    assert_int_equal(request.result.kind, RESULT_INTEGER);
    int64_t ttl_ms = request.result.integer;
    request_free(&request);
    return ttl_ms;
}

static uint64_t clock_of(struct fleet *fleet, uint64_t id) {
    return fleet_node(fleet, id)->shard.state.clock_ms;
}

/* --- time ------------------------------------------------------------------------------------- */

static void start_with_walls(struct fleet *fleet, uint64_t a, uint64_t b, uint64_t c) {
    fleet_init(fleet, 3, 1);
    fleet->nodes[0].wall_ahead_ms = a;
    fleet->nodes[1].wall_ahead_ms = b;
    fleet->nodes[2].wall_ahead_ms = c;
    fleet_start(fleet);
}

/* The first leader of a new cluster takes the median of the walls. */
static void test_first_clock_is_the_median_wall(void **state) {
    struct fleet fleet;
    (void)state;
    start_with_walls(&fleet, 0, 5000, 900000000);
    set_through(&fleet, fleet_await_leader(&fleet, 0), "key", "value");
    uint64_t wall_ms = FLEET_WALL_MS + fleet.now_ms;
    for (uint64_t id = 1; id <= 3; id++) {
        uint64_t clock_ms = clock_of(&fleet, fleet_leader(&fleet));
        assert_true(clock_ms > wall_ms && clock_ms <= wall_ms + 5000);
    }
    fleet_free(&fleet);
}

/* A change of leader carries the time on, although the new leader's wall is a year ahead or behind:
 * a key neither dies nor comes back. */
static void test_new_leader_with_a_skewed_wall(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    set_expiring(fleet, leader, "key", 60000);
    int64_t before_ms = ttl_of(fleet, leader, "key");
    uint64_t began_ms = fleet->now_ms;
    for (uint64_t id = 1; id <= 3; id++) {
        fleet_node(fleet, id)->wall_ahead_ms =
            id == leader ? 0 : UINT64_C(31536000000) * (id % 2 == 0 ? 1 : (uint64_t)-1);
    }
    fleet_crash(fleet, leader, 1000);
    uint64_t next = fleet_await_leader(fleet, leader);
    set_through(fleet, next, "other", "value");
    int64_t after_ms = ttl_of(fleet, next, "key");
    int64_t passed_ms = (int64_t)(fleet->now_ms - began_ms);
    assert_true(after_ms <= before_ms);
    assert_true(before_ms - after_ms <= passed_ms + 10);
    assert_true(before_ms - after_ms >= passed_ms - 100);
}

/* A follower that is ahead of its leader, by more than messages can have been late, is so no
 * longer.
 */
static void test_a_follower_that_is_ahead_falls_back(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    struct shard *ahead = &fleet_node(fleet, leader % 3 + 1)->shard;
    fleet_run(fleet, 1000);
    ahead->clock.base_ms += 5000;
    fleet_run(fleet, 1000);
    uint64_t time_ms = shard_time_ms(&fleet_node(fleet, leader)->shard);
    assert_in_range(shard_time_ms(ahead), time_ms - 200, time_ms + 400);
}

struct delay {
    struct fleet *fleet;
    uint64_t until_ms; /* 0: not begun */
};

/* For a while nobody gets a batch, while probes pass. */
static bool delay_batches(void *data, uint64_t from, uint64_t to,
                          const struct peer_message *message) {
    struct delay *delay = data;
    struct raft_wire wire;
    (void)from;
    (void)to;
    if (message->type != PEER_MESSAGE_APPEND ||
        !raft_wire_decode(message->type, message->header, &wire)) {
        return true;
    }
    for (unsigned i = 0; i < wire.append.n; i++) {
        if (wire.append.entries[i].kind == LOG_ENTRY_COMMAND) {
            if (delay->until_ms == 0) {
                delay->until_ms = delay->fleet->now_ms + 200;
            }
            return delay->fleet->now_ms >= delay->until_ms;
        }
    }
    return true;
}

/* Asks for a key through all nodes that are up, before there is a leader: none may see it, although
 * the leader could confirm reads long before its first tick is committed. */
static void check_first_answers(struct fleet *fleet, const char *key) {
    struct delay delay = {.fleet = fleet};
    struct request requests[FLEET_MAX];
    fleet->filter = delay_batches;
    fleet->filter_data = &delay;
    for (uint64_t id = 1; id <= fleet->n; id++) {
        if (fleet_node(fleet, id)->up) {
            make_key_command(&requests[id - 1], COMMAND_GET, key);
            submit_at(fleet, id, &requests[id - 1]);
        }
    }
    for (uint64_t id = 1; id <= fleet->n; id++) {
        if (fleet_node(fleet, id)->up) {
            await_answer(fleet, &requests[id - 1]);
            assert_int_equal(requests[id - 1].result.kind, RESULT_NIL);
            request_free(&requests[id - 1]);
        }
    }
    assert_true(fleet_leader(fleet) != 0 && delay.until_ms > 0);
    fleet->filter = NULL;
}

/* All nodes were down for an hour: time has passed, by the walls. */
static void test_whole_cluster_was_down(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    set_expiring(fleet, leader, "short", 60000);
    set_expiring(fleet, leader, "long", 7200000);
    fleet_run(fleet, 100);
    for (uint64_t id = 1; id <= 3; id++) {
        fleet_crash(fleet, id, 1000);
    }
    for (uint64_t id = 1; id <= 3; id++) {
        fleet_node(fleet, id)->wall_ahead_ms += 3600000;
        fleet_restart(fleet, id);
    }
    check_first_answers(fleet, "short");
    int64_t ttl_ms = ttl_of(fleet, fleet_leader(fleet), "long");
    assert_true(ttl_ms > 3500000 && ttl_ms <= 3600000);
}

/* What the walls did while the cluster was up does not count when all have been down, but only what
 * has passed since. It is in the files already: a power failure does not forget it. */
static void test_walls_that_were_stepped_before_all_were_down(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    set_expiring(fleet, leader, "key", 600000);
    for (uint64_t id = 1; id <= 3; id++) {
        fleet_node(fleet, id)->wall_ahead_ms += 3600000;
    }
    set_through(fleet, leader, "other", "value");
    fleet_run(fleet, 3000);
    for (uint64_t id = 1; id <= 3; id++) {
        const struct shard *shard = &fleet_node(fleet, id)->shard;
        assert_in_range(-shard->durable_offset_ms, 3599000, 3601000);
        fleet_crash(fleet, id, 1000);
    }
    for (uint64_t id = 1; id <= 3; id++) {
        fleet_node(fleet, id)->wall_ahead_ms += 60000;
        fleet_restart(fleet, id);
    }
    set_through(fleet, fleet_await_leader(fleet, 0), "other", "value");
    int64_t ttl_ms = ttl_of(fleet, fleet_leader(fleet), "key");
    assert_true(ttl_ms > 510000 && ttl_ms <= 540000);
}

/* The only node that was there all the time knows how long the others were away: its clock needs no
 * wall, but nobody has ticked meanwhile. */
static void test_no_majority_for_longer_than_a_ttl(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    uint64_t stays = leader % 3 + 1;
    set_expiring(fleet, leader, "short", 2000);
    fleet_run(fleet, 100);
    for (uint64_t id = 1; id <= 3; id++) {
        if (id != stays) {
            fleet_crash(fleet, id, 1000);
        }
    }
    fleet_run(fleet, 2500);
    fleet_restart(fleet, leader);
    check_first_answers(fleet, "short");
}

enum { HERD = 3 * MACHINE_PURGE_STEP + 100 };

/* Keys that all fall due at the same time. */
static void set_herd(struct fleet *fleet, uint64_t id, uint64_t expires_ms) {
    struct command command = {
        .kind = COMMAND_SET, .expiry_mode = COMMAND_EXPIRY_AT, .expiry_ms = expires_ms};
    struct request *requests = mem_zalloc(HERD, sizeof *requests);
    for (unsigned i = 0; i < HERD; i++) {
        char key[16];
        snprintf(key, sizeof key, "herd-%05u", i);
        struct slice args[2] = {slice_of(key), slice_of("value")};
        request_make(&requests[i], &command, args, 2);
        submit_at(fleet, id, &requests[i]);
        if (i % 512 == 0) {
            fleet_run(fleet, 2);
        }
    }
    for (unsigned i = 0; i < HERD; i++) {
        await_answer(fleet, &requests[i]);
        assert_ok(&requests[i]);
        request_free(&requests[i]);
    }
    mem_free(requests);
}

/* One tick does not remove that many, but no answer comes before the last one has. */
static void test_a_herd_is_gone_after_all_were_down(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    set_expiring(fleet, leader, "first", 60000);
    set_herd(fleet, leader, FLEET_WALL_MS + fleet->now_ms + 120000);
    assert_int_equal(fleet_node(fleet, leader)->shard.state.keys, HERD + 1);
    for (uint64_t id = 1; id <= 3; id++) {
        fleet_crash(fleet, id, 1000);
    }
    for (uint64_t id = 1; id <= 3; id++) {
        fleet_node(fleet, id)->wall_ahead_ms += 3600000;
        fleet_restart(fleet, id);
    }
    char last[16];
    snprintf(last, sizeof last, "herd-%05u", HERD - 1);
    check_first_answers(fleet, last);
    assert_int_equal(fleet_node(fleet, fleet_leader(fleet))->shard.state.keys, 0);
}

/* Nor do they wait for each other: tick follows tick as fast as they are applied. */
static void test_a_herd_expires_at_once(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    uint64_t due_ms = FLEET_WALL_MS + fleet->now_ms + 4000;
    set_herd(fleet, leader, due_ms);
    struct shard *shard = &fleet_node(fleet, leader)->shard;
    while (shard_time_ms(shard) < due_ms) {
        fleet_run(fleet, 1);
    }
    fleet_run(fleet, shard->options.tick_ms + FLEET_DUTY_MS + 10);
    assert_int_equal(shard->state.keys, 0);
    check_agreement(fleet);
}

/* Nothing is written and nothing expires, so the state machine's clock stands still; what is left
 * of a key's time does not. */
static void test_time_left_shrinks_while_nothing_happens(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    set_expiring(fleet, leader, "key", 60000);
    fleet_run(fleet, 30000);
    for (uint64_t id = 1; id <= 3; id++) {
        int64_t ttl_ms = ttl_of(fleet, id, "key");
        assert_true(ttl_ms >= 29900 && ttl_ms <= 30100);
    }
    assert_true(clock_of(fleet, leader) + 29000 < shard_time_ms(&fleet_node(fleet, leader)->shard));
}

static bool watch_times(void *data, uint64_t from, uint64_t to,
                        const struct peer_message *message) {
    uint64_t *last_ms = data;
    (void)from;
    (void)to;
    struct raft_wire wire;
    if (message->type != PEER_MESSAGE_APPEND ||
        !raft_wire_decode(message->type, message->header, &wire)) {
        return true;
    }
    for (unsigned i = 0; i < wire.append.n; i++) {
        uint64_t index = wire.append.prev_index + 1 + i;
        struct command_batch batch;
        if (wire.append.entries[i].kind != LOG_ENTRY_COMMAND || index >= 4096) {
            continue;
        }
        assert_int_equal(command_batch_decode(payload_slice(message->attachments[i]), &batch, NULL),
                         ERROR_NONE);
        last_ms[index] = batch.time_ms; /* an overwritten entry gives way to the newer one */
    }
    return true;
}

/* In the log, times never fall: not between ticks and batches, nor from leader to leader, however
 * far a new leader's state machine is behind its log. */
static void test_times_in_the_log_never_fall(void **state) {
    struct fleet *fleet = *state;
    static uint64_t times[4096];
    memset(times, 0, sizeof times);
    fleet->filter = watch_times;
    fleet->filter_data = times;
    for (unsigned round = 0; round < 12; round++) {
        uint64_t leader = fleet_await_leader(fleet, 0);
        for (uint64_t id = 1; id <= 3; id++) {
            fleet_node(fleet, id)->hold_jobs = id != leader;
        }
        for (unsigned i = 0; i < 5; i++) {
            set_expiring(fleet, leader, "key", 30);
            fleet_run(fleet, 60);
        }
        for (uint64_t id = 1; id <= 3; id++) {
            fleet_node(fleet, id)->hold_jobs = false;
        }
        (void)group_transfer(fleet_node(fleet, leader)->group, fleet->now_ms, 0);
        fleet_run(fleet, 100);
    }
    uint64_t last_ms = 0;
    uint64_t last = group_last(fleet_node(fleet, fleet_await_leader(fleet, 0))->group);
    assert_true(last > 100 && last < 4096);
    for (uint64_t index = 1; index <= last; index++) {
        assert_true(times[index] == 0 || times[index] >= last_ms);
        last_ms = times[index] > last_ms ? times[index] : last_ms;
    }
}

/* When nothing is written, a tick removes what falls due, on every replica; nothing due, no tick.
 */
static void test_expiry_ticks(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    set_expiring(fleet, leader, "key", 500);
    set_through(fleet, leader, "stays", "value");
    fleet_run(fleet, 300);
    uint64_t index = fleet_node(fleet, leader)->shard.state.applied_index;
    fleet_run(fleet, 100);
    assert_int_equal(fleet_node(fleet, leader)->shard.state.applied_index, index);
    fleet_run(fleet, 300);
    for (uint64_t id = 1; id <= 3; id++) {
        assert_int_equal(fleet_node(fleet, id)->shard.state.keys, 1);
    }
    index = fleet_node(fleet, leader)->shard.state.applied_index;
    fleet_run(fleet, 500);
    assert_int_equal(fleet_node(fleet, leader)->shard.state.applied_index, index);
    check_agreement(fleet);
}

/* --- opening ---------------------------------------------------------------------------------- */

/* A new leader is not ready before it has applied what it found in its log. */
static void test_leader_catches_up_before_it_is_ready(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    uint64_t next = leader % 3 + 1;
    struct node *node = fleet_node(fleet, next);
    node->hold_jobs = true;
    set_through(fleet, leader, "key", "value");
    assert_true(group_transfer(fleet_node(fleet, leader)->group, fleet->now_ms, next));
    fleet_run(fleet, 300);
    assert_int_equal(group_role(node->group), GROUP_LEADER);
    assert_false(shard_is_ready(&node->shard));
    node->hold_jobs = false;
    fleet_run(fleet, 50);
    assert_true(shard_is_ready(&node->shard));
    check_value(fleet, next, "key", "value");
}

/* --- applying --------------------------------------------------------------------------------- */

/* A follower whose state machine has no space falls behind, keeps trying and catches up: also with
 * what is no longer in the log's cache. */
static void test_follower_without_space_catches_up(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    struct node *node = fleet_node(fleet, leader % 3 + 1);
    uint64_t applied = node->shard.state.applied_index;
    node->apply_fails = true;
    for (unsigned i = 0; i < 3 * MEMORY_LOG_CACHED; i++) {
        char key[16];
        snprintf(key, sizeof key, "key-%u", i);
        set_through(fleet, leader, key, "value");
    }
    fleet_run(fleet, 1200);
    assert_int_equal(node->shard.state.applied_index, applied);
    assert_int_equal(shard_enqueued(&node->shard), applied);
    node->apply_fails = false;
    fleet_run(fleet, 1200);
    check_agreement(fleet);
    assert_int_equal(node->shard.state.keys, 3 * MEMORY_LOG_CACHED);
}

/* Runs out of space when entries of many jobs are in the state machine's open transaction: it falls
 * back behind what was answered, and nobody sees that. */
static void test_a_leader_falls_back(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    struct node *node = fleet_node(fleet, leader);
    fleet_run(fleet, 2500); /* what came before is committed */
    for (unsigned i = 0; i < 3 * MEMORY_LOG_CACHED; i++) {
        char key[16];
        snprintf(key, sizeof key, "key-%u", i);
        set_through(fleet, leader, key, "value");
    }
    uint64_t applied = node->shard.state.applied_index;
    node->falls_back = true;
    struct request set;
    make_set(&set, "last", slice_of("value"), 0);
    submit_at(fleet, leader, &set);
    fleet_run(fleet, 30);
    assert_false(node->falls_back);
    assert_true(node->shard.state.applied_index < applied);
    assert_int_equal(node->shard.settled, applied);
    struct request eventual;
    make_key_command(&eventual, COMMAND_GET, "key-0");
    eventual.op.level = READ_EVENTUAL;
    submit_at(fleet, leader, &eventual);
    fleet_run(fleet, 30);
    assert_int_equal(eventual.answers, 0);
    check_value(fleet, leader, "key-0", "value");
    await_answer(fleet, &eventual);
    assert_int_equal(eventual.result.kind, RESULT_BULK);
    await_answer(fleet, &set);
    assert_ok(&set);
    request_free(&set);
    request_free(&eventual);
    fleet_run(fleet, 1200);
    check_agreement(fleet);
}

/* The same in the commit itself, while nothing else happens. */
static void test_a_follower_falls_back_in_its_commit(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    struct node *node = fleet_node(fleet, leader % 3 + 1);
    fleet_run(fleet, 2500);
    set_through(fleet, leader, "key", "value");
    fleet_run(fleet, 200);
    uint64_t applied = node->shard.state.applied_index;
    node->falls_back = true;
    for (unsigned i = 0; i < 300 && node->falls_back; i++) {
        fleet_run(fleet, 10);
    }
    assert_true(node->shard.state.applied_index < applied);
    fleet_run(fleet, 1200);
    assert_int_equal(node->shard.state.applied_index, applied);
    check_agreement(fleet);
}

/* Entries that change more pages than the state machine's cache holds are not kept uncommitted
 * until the second is over. */
static void test_full_cache_is_committed_early(void **state) {
    enum { N = 1200 };
    struct fleet *fleet = mem_zalloc(1, sizeof *fleet);
    (void)state;
    fleet_init(fleet, 3, 1);
    fleet->snapshot_log_bytes = 64 * MIB; /* no checkpoint, which commits as well */
    fleet->trailing = 4096;
    fleet_start(fleet);
    uint64_t leader = fleet_await_leader(fleet, 0);
    fleet_run(fleet, 2500);
    uint64_t began_ms = fleet->now_ms;
    struct request *requests = mem_zalloc(N, sizeof *requests);
    uint8_t value[1024] = {0};
    uint64_t largest_bytes = 0;
    for (unsigned i = 0; i < N; i++) {
        char key[16];
        snprintf(key, sizeof key, "key-%u", i);
        make_set(&requests[i], key, slice_make(value, sizeof value), 0);
        submit_at(fleet, leader, &requests[i]);
        if (i % 100 == 99) {
            fleet_run(fleet, 10);
        }
        uint64_t bytes = fleet_node(fleet, leader)->shard.bytes_uncommitted;
        largest_bytes = bytes > largest_bytes ? bytes : largest_bytes;
    }
    for (unsigned i = 0; i < N; i++) {
        await_answer(fleet, &requests[i]);
        assert_ok(&requests[i]);
        request_free(&requests[i]);
    }
    mem_free(requests);
    assert_true(fleet->now_ms < began_ms + 900);
    assert_true(largest_bytes > 512 * KIB); /* the fixture's caches hold a mebibyte */
    assert_true(fleet_node(fleet, leader)->shard.bytes_uncommitted < largest_bytes);
    check_agreement(fleet);
    fleet_free(fleet);
    mem_free(fleet);
}

/* --- the log is cut --------------------------------------------------------------------------- */

static void fill(struct fleet *fleet, unsigned n) {
    uint8_t value[1024] = {0};
    for (unsigned i = 0; i < n; i++) {
        struct request request;
        char key[16];
        snprintf(key, sizeof key, "fill-%u", i);
        make_set(&request, key, slice_make(value, sizeof value), 0);
        submit_at(fleet, fleet_leader(fleet), &request);
        await_answer(fleet, &request);
        assert_ok(&request);
        request_free(&request);
    }
}

/* After enough bytes a checkpoint makes the state durable, and the log is cut behind it, but for
 * what helps slow followers. */
static void test_checkpoint_cuts_the_log(void **state) {
    struct fleet *fleet = *state;
    fleet_await_leader(fleet, 0);
    fill(fleet, 200);
    fleet_run(fleet, 100);
    for (uint64_t id = 1; id <= 3; id++) {
        struct node *node = fleet_node(fleet, id);
        uint64_t first = log_state(node->log, 0).first;
        assert_true(node->shard.durable_index > 100);
        assert_true(first > 1 && first <= node->shard.durable_index);
        assert_true(node->shard.bytes_since_cut < 2 * fleet->snapshot_log_bytes);
    }
    check_agreement(fleet);
}

static void test_idle_shard_is_checkpointed(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    set_through(fleet, leader, "key", "value");
    struct shard *shard = &fleet_node(fleet, leader)->shard;
    fleet_run(fleet, 10000);
    assert_int_equal(shard->durable_index, 0);
    fleet_run(fleet, 15000);
    assert_int_equal(shard->durable_index, shard->state.applied_index);
    shard_want_checkpoint(shard); /* nothing to do */
    fleet_run(fleet, 50);
    assert_false(shard->checkpointing);
}

/* A follower that was away for longer than the log reaches back gets the database; while that is
 * under way the log keeps what follows it. */
static void test_snapshot_to_a_follower(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    uint64_t away = leader % 3 + 1;
    fleet_isolate(fleet, away, true);
    fill(fleet, 300);
    assert_true(log_state(fleet_node(fleet, leader)->log, 0).first > 10);
    fleet_isolate(fleet, away, false);
    fleet_run(fleet, 2000);
    assert_int_equal(fleet_node(fleet, away)->gaps, 1);
    check_agreement(fleet);
    assert_int_equal(fleet_node(fleet, leader)->shard.holds, 0);
    fleet_crash(fleet, away, 0); /* the installed state survives, whatever the log's tail does */
    fleet_restart(fleet, away);
    fill(fleet, 10);
    check_agreement(fleet);
}

/* A deposed leader that is still sending its database keeps it until that is over, and takes the
 * new leader's snapshot then. Found by the simulator. */
static void test_no_install_while_the_database_is_sent(void **state) {
    struct fleet *fleet = *state;
    uint64_t old = fleet_await_leader(fleet, 0);
    struct node *node = fleet_node(fleet, old);
    fill(fleet, 5);
    fleet->shuffled = true; /* small steps, to catch it on its way */
    for (unsigned i = 0; i < 10000 && list_empty(&fleet->parcels); i++) {
        if (node->shard.holds == 0) {
            shard_on_snapshot_needed(&node->shard, old % 3 + 1);
        }
        fleet_step(fleet);
    }
    struct list_node *parcel = list_first(&fleet->parcels);
    assert_non_null(parcel);
    list_remove(parcel); /* a slow one */
    fleet->shuffled = false;
    assert_int_equal(node->shard.holds, 1);
    fleet_isolate(fleet, old, true);
    fleet_await_leader(fleet, old);
    fill(fleet, 300);
    fleet_isolate(fleet, old, false);
    fleet_run(fleet, 3000);
    assert_int_equal(node->gaps, 0);
    assert_int_equal(node->shard.holds, 1);
    list_push(&fleet->parcels, parcel);
    fleet_run(fleet, 3000);
    assert_int_equal(node->shard.holds, 0);
    assert_int_equal(node->gaps, 1);
    check_agreement(fleet);
}

/* What arrives damaged, too late or for a leader is not installed, and not left lying about. */
static void test_unwanted_snapshots(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    struct node *node = fleet_node(fleet, leader % 3 + 1);
    char path[FLEET_PATH + 16];
    snprintf(path, sizeof path, "%s.incoming", node->path);
    fill(fleet, 5);
    struct snapshot_info info = {.leader_term = group_term(node->group),
                                 .index = node->shard.state.applied_index + 100,
                                 .term = group_term(node->group),
                                 .config_index = 1,
                                 .config = payload_slice(fleet->config),
                                 .size = 10};
    assert_true(shard_accepts_snapshot(&node->shard, &info));
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fputs("no database", file);
    fclose(file);
    shard_on_snapshot_received(&node->shard, leader, &info, path);
    assert_false(shard_accepts_snapshot(&node->shard, &info)); /* one at a time */
    fleet_run(fleet, 20);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(node->gaps, 0);

    struct snapshot_info other = info;
    other.index = node->shard.state.applied_index;
    assert_false(shard_accepts_snapshot(&node->shard, &other)); /* nothing new */
    other = info;
    other.leader_term--;
    assert_false(shard_accepts_snapshot(&node->shard, &other)); /* a leader of the past */
    other = info;
    other.config = slice_of("x");
    assert_false(shard_accepts_snapshot(&node->shard, &other));
    assert_false(shard_accepts_snapshot(&fleet_node(fleet, leader)->shard, &info));
    fill(fleet, 5);
    check_agreement(fleet);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_clock_is_the_median_wall),
        cmocka_unit_test_setup_teardown(test_new_leader_with_a_skewed_wall, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_follower_that_is_ahead_falls_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_whole_cluster_was_down, setup, teardown),
        cmocka_unit_test_setup_teardown(test_walls_that_were_stepped_before_all_were_down, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_no_majority_for_longer_than_a_ttl, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_herd_is_gone_after_all_were_down, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_herd_expires_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_time_left_shrinks_while_nothing_happens, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_times_in_the_log_never_fall, setup, teardown),
        cmocka_unit_test_setup_teardown(test_expiry_ticks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_leader_catches_up_before_it_is_ready, setup, teardown),
        cmocka_unit_test_setup_teardown(test_follower_without_space_catches_up, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_leader_falls_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_follower_falls_back_in_its_commit, setup, teardown),
        cmocka_unit_test(test_full_cache_is_committed_early),
        cmocka_unit_test_setup_teardown(test_checkpoint_cuts_the_log, setup, teardown),
        cmocka_unit_test_setup_teardown(test_idle_shard_is_checkpointed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_snapshot_to_a_follower, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_install_while_the_database_is_sent, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_unwanted_snapshots, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
