/* Routers of several nodes over real groups, shards and state machines: what becomes of operations
 * when leaders die, links break, leadership moves, space runs out and time passes. */
#include "node/router_internal.h"
#include "tests/unit/node_fixture.h"

enum { MANY = 40 };

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

/* --- the plain case --------------------------------------------------------------------------- */

static void test_every_node_serves(void **state) {
    struct fleet *fleet = *state;
    fleet_await_leader(fleet, 0);
    for (uint64_t id = 1; id <= 3; id++) {
        char key[16];
        snprintf(key, sizeof key, "key-%u", (unsigned)id);
        set_through(fleet, id, key, "value");
        for (uint64_t reader = 1; reader <= 3; reader++) {
            check_value(fleet, reader, key, "value");
        }
        check_value(fleet, id, "missing", NULL);
    }
    check_agreement(fleet);
}

static void test_one_node_alone(void **state) {
    struct fleet fleet;
    (void)state;
    fleet_make(&fleet, 1, 1);
    set_through(&fleet, 1, "key", "value");
    check_value(&fleet, 1, "key", "value");
    fleet_crash(&fleet, 1, 1000);
    fleet_restart(&fleet, 1);
    check_value(&fleet, 1, "key", "value");
    fleet_free(&fleet);
}

static void submit_sets(struct fleet *fleet, uint64_t id, struct request *requests, unsigned n,
                        uint8_t flags) {
    for (unsigned i = 0; i < n; i++) {
        char key[16];
        snprintf(key, sizeof key, "key-%u", i);
        make_set(&requests[i], key, slice_of("value"), flags);
        submit_at(fleet, id, &requests[i]);
    }
}

static void await_all(struct fleet *fleet, struct request *requests, unsigned n) {
    for (unsigned i = 0; i < n; i++) {
        await_answer(fleet, &requests[i]);
    }
}

static void free_all(struct request *requests, unsigned n) {
    for (unsigned i = 0; i < n; i++) {
        request_free(&requests[i]);
    }
}

/* SET NX on distinct keys: one that was carried out twice would answer nil. */
static void expect_all_ok(struct request *requests, unsigned n) {
    for (unsigned i = 0; i < n; i++) {
        assert_ok(&requests[i]);
    }
}

static void test_pipelined_reads_see_writes(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    for (uint64_t id = 1; id <= 3; id++) {
        struct request set;
        struct request get;
        char value[16];
        snprintf(value, sizeof value, "by-%u", (unsigned)id);
        make_set(&set, "key", slice_of(value), 0);
        make_key_command(&get, COMMAND_GET, "key");
        get.op.after_writes = true;
        submit_at(fleet, id, &set);
        submit_at(fleet, id, &get);
        await_answer(fleet, &set);
        await_answer(fleet, &get);
        assert_ok(&set);
        assert_bulk(&get, value);
        request_free(&set);
        request_free(&get);
    }
    assert_int_equal(fleet_leader(fleet), leader);
}

/* --- leaders die ------------------------------------------------------------------------------ */

struct drop_appends {
    uint64_t from;
    uint64_t spared; /* appends still reach this node */
};

static bool drop_appends(void *data, uint64_t from, uint64_t to,
                         const struct peer_message *message) {
    const struct drop_appends *drop = data;
    return message->type != PEER_MESSAGE_APPEND || from != drop->from || to == drop->spared ||
           message->n_attachments == 0;
}

/* Some of the forwarded writes are committed when the leader dies, the others are not in any other
 * log: every one is answered, once, and carried out, once. */
static void test_leader_dies_with_writes_in_flight(void **state) {
    struct fleet *fleet = *state;
    struct request first[MANY];
    struct request second[MANY];
    uint64_t leader = fleet_await_leader(fleet, 0);
    uint64_t origin = other_than(fleet, leader, 0);
    struct drop_appends drop = {.from = leader};
    submit_sets(fleet, origin, first, MANY, COMMAND_FLAG_NX);
    fleet_node(fleet, origin)->hold_jobs = true; /* committed, and not known at the origin */
    fleet->filter = drop_appends;
    fleet->filter_data = &drop;
    drop.spared = other_than(fleet, leader, origin);
    fleet_run(fleet, 5);
    drop.spared = 0;
    for (unsigned i = 0; i < MANY; i++) {
        char key[16];
        snprintf(key, sizeof key, "more-%u", i);
        make_set(&second[i], key, slice_of("value"), COMMAND_FLAG_NX);
        submit_at(fleet, origin, &second[i]);
    }
    fleet_run(fleet, 5);
    fleet_crash(fleet, leader, 1000);
    fleet->filter = NULL;
    fleet_node(fleet, origin)->hold_jobs = false;
    await_all(fleet, first, MANY);
    await_all(fleet, second, MANY);
    expect_all_ok(first, MANY);
    expect_all_ok(second, MANY);
    assert_true(router_stats(fleet_node(fleet, origin)->router).resent >= MANY);
    fleet_restart(fleet, leader);
    check_agreement(fleet);
    assert_int_equal(fleet_node(fleet, 1)->shard.state.keys, 2 * MANY);
    free_all(first, MANY);
    free_all(second, MANY);
}

/* The leader is cut off with writes of its own clients, comes back as a follower, learns that they
 * were overwritten, and forwards them. */
static void test_deposed_leader_settles_its_own(void **state) {
    struct fleet *fleet = *state;
    struct request requests[MANY];
    uint64_t leader = fleet_await_leader(fleet, 0);
    fleet_isolate(fleet, leader, true);
    submit_sets(fleet, leader, requests, MANY, COMMAND_FLAG_NX);
    fleet_run(fleet, 2);
    uint64_t next = fleet_await_leader(fleet, leader);
    assert_int_not_equal(next, leader);
    for (unsigned i = 0; i < MANY; i++) {
        assert_int_equal(requests[i].answers, 0);
    }
    fleet_isolate(fleet, leader, false);
    await_all(fleet, requests, MANY);
    expect_all_ok(requests, MANY);
    check_agreement(fleet);
    free_all(requests, MANY);
}

/* Leadership comes back to a node whose writes of the older term are open: they were kept in its
 * log, so they are committed by the newer term, and not sent again. */
static void test_leadership_lost_and_regained(void **state) {
    struct fleet *fleet = *state;
    struct request requests[MANY];
    uint64_t leader = fleet_await_leader(fleet, 0);
    struct node *node = fleet_node(fleet, leader);
    uint64_t term = group_term(node->group);
    fleet_isolate(fleet, leader, true);
    submit_sets(fleet, leader, requests, MANY, COMMAND_FLAG_NX);
    fleet_run(fleet, 2 * FLEET_ELECTION_MS);
    assert_int_not_equal(group_role(node->group), GROUP_LEADER);
    for (uint64_t id = 1; id <= 3; id++) {
        if (id != leader) {
            fleet_node(fleet, id)->frozen = true; /* the others hold no election meanwhile */
        }
    }
    uint64_t peer = other_than(fleet, leader, 0);
    fleet_node(fleet, peer)->frozen = false;
    fleet_link(fleet, leader, peer, true);
    for (unsigned ms = 0; ms < 3000 && fleet_leader(fleet) != leader; ms++) {
        fleet_step(fleet);
    }
    fleet_node(fleet, other_than(fleet, leader, peer))->frozen = false;
    fleet_isolate(fleet, leader, false);
    await_all(fleet, requests, MANY);
    expect_all_ok(requests, MANY);
    assert_true(group_term(node->group) > term);
    check_agreement(fleet);
    assert_int_equal(node->shard.state.keys, MANY);
    free_all(requests, MANY);
}

/* Nobody can tell, and only then: the origin stays cut off until the deadline. */
static void test_uncertain_only_at_the_deadline(void **state) {
    struct fleet *fleet = *state;
    struct request write;
    struct request read;
    struct request late;
    uint64_t leader = fleet_await_leader(fleet, 0);
    uint64_t origin = other_than(fleet, leader, 0);
    make_set(&write, "key", slice_of("value"), 0);
    make_key_command(&read, COMMAND_GET, "key");
    make_set(&late, "late", slice_of("value"), 0);
    fleet_set_wire(fleet, leader, origin, false);
    submit_at(fleet, origin, &write);
    submit_at(fleet, origin, &read);
    fleet_step(fleet);
    fleet_isolate(fleet, origin, true);
    submit_at(fleet, origin, &late);
    fleet_run(fleet, FLEET_TIMEOUT_MS - 3 * FLEET_DUTY_MS);
    assert_int_equal(write.answers + read.answers + late.answers, 0);
    fleet_run(fleet, 6 * FLEET_DUTY_MS);
    assert_error(&write, ERROR_UNCERTAIN);
    assert_error(&read, ERROR_NOLEADER);
    assert_error(&late, ERROR_NOLEADER);
    fleet_isolate(fleet, origin, false);
    fleet_run(fleet, 3000);
    assert_int_equal(write.answers + read.answers + late.answers, 3);
    check_value(fleet, origin, "late", NULL); /* -NOLEADER: not carried out */
    request_free(&write);
    request_free(&read);
    request_free(&late);
}

/* --- links ------------------------------------------------------------------------------------ */

static bool drop_forwards(void *data, uint64_t from, uint64_t to,
                          const struct peer_message *message) {
    (void)from;
    (void)to;
    return message->type != PEER_MESSAGE_FORWARD || (*(unsigned *)data)++ % 2 == 0;
}

/* Both nodes live on, the link between them broke: a fence tells which writes arrived. */
static void test_fence_after_link_reset(void **state) {
    struct fleet *fleet = *state;
    struct request requests[MANY];
    unsigned seen = 0;
    uint64_t leader = fleet_await_leader(fleet, 0);
    uint64_t origin = other_than(fleet, leader, 0);
    uint64_t term = group_term(fleet_node(fleet, leader)->group);
    fleet_wire(fleet, leader, origin)->paused = true;
    fleet_node(fleet, leader)->hold_syncs = true;
    fleet->filter_data = &seen;
    submit_sets(fleet, origin, requests, MANY / 2, COMMAND_FLAG_NX);
    fleet_run(fleet, 3); /* these arrive */
    fleet->filter = drop_forwards;
    seen = 1;
    for (unsigned i = MANY / 2; i < MANY; i++) {
        char key[16];
        snprintf(key, sizeof key, "key-%u", i);
        make_set(&requests[i], key, slice_of("value"), COMMAND_FLAG_NX);
        seen = 1; /* these do not */
        submit_at(fleet, origin, &requests[i]);
    }
    fleet->filter = NULL;
    fleet_link(fleet, leader, origin, false);
    fleet_node(fleet, leader)->hold_syncs = false;
    fleet_link(fleet, leader, origin, true);
    await_all(fleet, requests, MANY);
    expect_all_ok(requests, MANY);
    assert_int_equal(group_term(fleet_node(fleet, leader)->group), term);
    uint64_t resent = router_stats(fleet_node(fleet, origin)->router).resent;
    assert_int_equal(resent, MANY / 2);
    check_agreement(fleet);
    free_all(requests, MANY);
}

static bool drop_replies(void *data, uint64_t from, uint64_t to,
                         const struct peer_message *message) {
    (void)data;
    (void)from;
    (void)to;
    return message->type != PEER_MESSAGE_REPLY;
}

/* Replies are lost while the link stays up: writes are answered from the log, refusals and reads
 * are found out by a fence, long before the deadline. */
static void test_lost_replies(void **state) {
    struct fleet *fleet = *state;
    struct request write;
    struct request read;
    struct request refused;
    uint64_t leader = fleet_await_leader(fleet, 0);
    uint64_t origin = other_than(fleet, leader, 0);
    fleet->filter = drop_replies;
    make_set(&write, "key", slice_of("value"), COMMAND_FLAG_NX);
    submit_at(fleet, origin, &write);
    await_answer(fleet, &write);
    assert_ok(&write);

    fleet_node(fleet, leader)->disk_low = true;
    make_set(&refused, "other", slice_of("value"), COMMAND_FLAG_NX);
    make_key_command(&read, COMMAND_GET, "key");
    submit_at(fleet, origin, &refused);
    submit_at(fleet, origin, &read);
    fleet_run(fleet, 20);
    fleet_node(fleet, leader)->disk_low = false;
    assert_int_equal(refused.answers + read.answers, 0);
    fleet_run(fleet, 2 * ROUTER_SILENCE_MS);
    fleet->filter = NULL;
    fleet_run(fleet, 2 * ROUTER_SILENCE_MS);
    assert_ok(&refused);
    assert_bulk(&read, "value");
    request_free(&write);
    request_free(&read);
    request_free(&refused);
}

struct keep_reply {
    struct buffer header;
    bool kept;
};

static bool keep_reply(void *data, uint64_t from, uint64_t to, const struct peer_message *message) {
    struct keep_reply *keep = data;
    (void)from;
    (void)to;
    if (message->type == PEER_MESSAGE_REPLY && !keep->kept) {
        buffer_append_slice(&keep->header, message->header);
        keep->kept = true;
        return false;
    }
    return true;
}

/* A leader answers -NOSPACE, the answer is late, the operation has been sent to the next leader:
 * the late answer to the first attempt must not count for the second. */
static void test_late_failure_of_an_earlier_attempt(void **state) {
    struct fleet *fleet = *state;
    struct request request;
    struct keep_reply keep = {0};
    uint64_t leader = fleet_await_leader(fleet, 0);
    uint64_t origin = other_than(fleet, leader, 0);
    fleet->filter = keep_reply;
    fleet->filter_data = &keep;
    fleet_node(fleet, leader)->disk_low = true;
    make_set(&request, "key", slice_of("value"), COMMAND_FLAG_NX);
    submit_at(fleet, origin, &request);
    fleet_run(fleet, 3);
    assert_true(keep.kept);
    fleet->filter = NULL;
    fleet_crash(fleet, leader, 1000);
    uint64_t next = fleet_await_leader(fleet, leader);
    for (uint64_t id = 1; id <= 3; id++) {
        fleet_node(fleet, id)->hold_jobs = true;
    }
    fleet_node(fleet, origin)->hold_jobs = false;
    fleet_run(fleet, 30);
    struct peer_message late = {.type = PEER_MESSAGE_REPLY, .header = buffer_slice(&keep.header)};
    assert_true(router_receive(fleet_node(fleet, origin)->router, leader, &late));
    for (uint64_t id = 1; id <= 3; id++) {
        fleet_node(fleet, id)->hold_jobs = false;
    }
    await_answer(fleet, &request);
    assert_ok(&request);
    assert_true(router_receive(fleet_node(fleet, origin)->router, leader, &late));
    assert_int_equal(request.answers, 1);
    check_value(fleet, next, "key", "value");
    buffer_free(&keep.header);
    request_free(&request);
}

/* --- order ------------------------------------------------------------------------------------ */

/* Large values travel on a slower lane than small ones; pipelined writes of one key still take
 * effect in their order. */
static void test_order_across_lanes(void **state) {
    struct fleet *fleet = *state;
    enum { LARGE = 300 * 1024, N = 12 };
    struct request requests[N];
    uint8_t *large = mem_zalloc(1, LARGE);
    uint64_t leader = fleet_await_leader(fleet, 0);
    uint64_t origin = other_than(fleet, leader, 0);
    fleet->shuffled = true;
    for (unsigned i = 0; i < N; i++) {
        bool is_large = i % 3 == 1;
        large[0] = (uint8_t)i;
        make_set(&requests[i], "key", slice_make(large, is_large ? LARGE : 1), COMMAND_FLAG_GET);
        submit_at(fleet, origin, &requests[i]);
    }
    await_all(fleet, requests, N);
    for (unsigned i = 0; i < N; i++) {
        const struct result *result = &requests[i].result;
        assert_int_equal(result->kind, i == 0 ? RESULT_NIL : RESULT_BULK);
        if (i > 0) {
            assert_int_equal(result->data.data[0], i - 1);
        }
    }
    mem_free(large);
    free_all(requests, N);
}

/* Pipelined writes keep their order when the leader refuses in the middle of a stream and when it
 * changes. */
static void test_order_across_refusals_and_leaders(void **state) {
    struct fleet *fleet = *state;
    struct request requests[MANY];
    uint64_t leader = fleet_await_leader(fleet, 0);
    uint64_t origin = other_than(fleet, leader, 0);
    for (unsigned i = 0; i < MANY; i++) {
        char value[16];
        snprintf(value, sizeof value, "%u", i);
        make_set(&requests[i], "key", slice_of(value), COMMAND_FLAG_GET);
        submit_at(fleet, origin, &requests[i]);
        if (i == MANY / 3) {
            fleet_step(fleet);
            assert_true(group_transfer(fleet_node(fleet, leader)->group, fleet->now_ms, 0));
        }
        if (i == 2 * MANY / 3) {
            fleet_run(fleet, 30);
            fleet_crash(fleet,
                        fleet_await_leader(fleet, 0) == origin ? leader : fleet_leader(fleet), 0);
        }
    }
    await_all(fleet, requests, MANY);
    for (unsigned i = 0; i < MANY; i++) {
        char value[16];
        snprintf(value, sizeof value, "%u", i - 1);
        if (i == 0) {
            assert_int_equal(requests[i].result.kind, RESULT_NIL);
        } else {
            assert_bulk(&requests[i], value);
        }
    }
    free_all(requests, MANY);
}

/* -NOSPACE for the first write is lost, the second one is carried out: the first is not sent again
 * behind it. */
static void test_lost_no_space_keeps_order(void **state) {
    struct fleet *fleet = *state;
    struct request first;
    struct request second;
    uint64_t leader = fleet_await_leader(fleet, 0);
    uint64_t origin = other_than(fleet, leader, 0);
    make_set(&first, "key", slice_of("first"), 0);
    make_set(&second, "key", slice_of("second"), 0);
    fleet->filter = drop_replies;
    fleet_node(fleet, leader)->disk_low = true;
    submit_at(fleet, origin, &first);
    fleet_run(fleet, 5);
    fleet_node(fleet, leader)->disk_low = false;
    submit_at(fleet, origin, &second);
    await_answer(fleet, &second);
    assert_ok(&second);
    fleet->filter = NULL;
    await_answer(fleet, &first);
    assert_error(&first, ERROR_NOSPACE);
    check_value(fleet, origin, "key", "second");
    request_free(&first);
    request_free(&second);
}

struct replies {
    enum forward_reply_kind kinds[16];
    unsigned n;
};

static bool collect_replies(void *data, uint64_t from, uint64_t to,
                            const struct peer_message *message) {
    struct replies *replies = data;
    struct forward_reply reply;
    (void)from;
    (void)to;
    if (message->type != PEER_MESSAGE_REPLY) {
        return true;
    }
    assert_true(forward_reply_decode(message, &reply));
    assert_true(replies->n < 16);
    replies->kinds[replies->n++] = reply.kind;
    result_free(&reply.result);
    return false;
}

static void receive_forward(struct fleet *fleet, uint64_t leader, uint64_t from, uint64_t term,
                            uint64_t stream, uint64_t sequence) {
    struct request request;
    struct buffer header = {0};
    struct payload *attachment = NULL;
    struct peer_message message;
    make_set(&request, "key", slice_of("value"), 0);
    struct forward forward = {.term = term,
                              .stream = stream,
                              .boot = 1,
                              .sequence = sequence,
                              .flags = FORWARD_WRITE,
                              .command = buffer_slice(&request.op.command)};
    forward_encode(&forward, 0, &header, &attachment, &message);
    assert_true(router_receive(fleet_node(fleet, leader)->router, from, &message));
    buffer_free(&header);
    request_free(&request);
}

/* Once refused, a stream stays refused, and so do older ones; the next is taken. */
static void test_refused_streams(void **state) {
    struct fleet *fleet = *state;
    struct replies replies = {0};
    uint64_t leader = fleet_await_leader(fleet, 0);
    uint64_t from = other_than(fleet, leader, 0);
    uint64_t term = group_term(fleet_node(fleet, leader)->group);
    fleet->filter = collect_replies;
    fleet->filter_data = &replies;
    receive_forward(fleet, leader, from, term - 1, 5, 1);
    receive_forward(fleet, leader, from, term, 5, 2);
    receive_forward(fleet, leader, from, term, 4, 3);
    assert_int_equal(replies.n, 3);
    receive_forward(fleet, leader, from, term, 6, 4);
    receive_forward(fleet, leader, from, term, 5, 5);
    fleet_run(fleet, 20);
    assert_int_equal(replies.n, 5);
    const enum forward_reply_kind expected[] = {FORWARD_REPLY_REFUSED, FORWARD_REPLY_REFUSED,
                                                FORWARD_REPLY_REFUSED, FORWARD_REPLY_REFUSED,
                                                FORWARD_REPLY_RESULT};
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(replies.kinds[i], expected[i]);
    }
}

/* --- leadership moves ------------------------------------------------------------------------- */

struct load {
    struct fleet *fleet;
    uint64_t node;
    unsigned left;
    unsigned ok;
};

static void next_of_load(struct request *request) {
    struct load *load = request->data;
    assert_int_not_equal(request->result.kind, RESULT_ERROR);
    load->ok++;
    if (load->left > 0) {
        load->left--;
        request->answers = 0;
        router_submit(fleet_node(load->fleet, load->node)->router, &request->op);
    }
}

static void test_transfer_under_load(void **state) {
    struct fleet *fleet = *state;
    enum { CLIENTS = 24, EACH = 120 };
    static struct request requests[CLIENTS];
    struct load loads[CLIENTS];
    fleet_await_leader(fleet, 0);
    for (unsigned i = 0; i < CLIENTS; i++) {
        char key[16];
        snprintf(key, sizeof key, "key-%u", i / 2);
        if (i % 2 == 0) {
            make_set(&requests[i], key, slice_of("value"), 0);
        } else {
            make_key_command(&requests[i], COMMAND_GET, key);
        }
        loads[i] = (struct load){.fleet = fleet, .node = 1 + i % 3, .left = EACH - 1};
        requests[i].then = next_of_load;
        requests[i].data = &loads[i];
        submit_at(fleet, loads[i].node, &requests[i]);
    }
    unsigned moves = 0;
    for (unsigned ms = 0; ms < 4000; ms++) {
        uint64_t leader = fleet_leader(fleet);
        if (ms % 40 == 0 && leader != 0 &&
            group_transfer(fleet_node(fleet, leader)->group, fleet->now_ms, 1 + leader % 3)) {
            moves++;
        }
        fleet_step(fleet);
    }
    assert_true(moves > 3);
    for (unsigned i = 0; i < CLIENTS; i++) {
        assert_int_equal(loads[i].ok, EACH);
        request_free(&requests[i]);
    }
    for (uint64_t id = 1; id <= 3; id++) {
        assert_int_equal(router_stats(fleet_node(fleet, id)->router).uncertain, 0);
        assert_int_equal(router_stats(fleet_node(fleet, id)->router).inflight, 0);
        assert_int_equal(router_stats(fleet_node(fleet, id)->router).inflight_bytes, 0);
    }
    check_agreement(fleet);
}

/* A transfer that nobody takes up is given up, and writes go on. */
static void test_transfer_that_aborts(void **state) {
    struct fleet *fleet = *state;
    struct request request;
    uint64_t leader = fleet_await_leader(fleet, 0);
    uint64_t to = other_than(fleet, leader, 0);
    uint64_t term = group_term(fleet_node(fleet, leader)->group);
    fleet_wire(fleet, leader, to)->paused = true;
    set_through(fleet, leader, "before", "value"); /* so that `to` has to catch up first */
    assert_true(group_transfer(fleet_node(fleet, leader)->group, fleet->now_ms, to));
    make_set(&request, "key", slice_of("value"), 0);
    submit_at(fleet, other_than(fleet, leader, to), &request);
    fleet_run(fleet, 20);
    assert_int_equal(request.answers, 0);
    fleet_wire(fleet, to, leader)->paused = true;
    fleet_wire(fleet, to, other_than(fleet, leader, to))->paused = true;
    await_answer(fleet, &request);
    assert_ok(&request);
    assert_int_equal(group_term(fleet_node(fleet, leader)->group), term);
    request_free(&request);
}

/* A write that waited to its last moment is gathered for the next proposal: it must not be called
 * not carried out, and then be proposed. */
static void test_deadline_of_a_gathered_write(void **state) {
    struct fleet *fleet = *state;
    struct request request;
    uint64_t leader = fleet_await_leader(fleet, 0);
    struct node *node = fleet_node(fleet, leader);
    make_set(&request, "key", slice_of("value"), 0);
    submit_at(fleet, leader, &request);
    assert_int_equal(request.op.state, OP_BATCHED);
    fleet->now_ms += FLEET_TIMEOUT_MS; /* the loop was held up */
    router_tick(node->router, fleet->now_ms);
    assert_int_equal(request.answers, 0);
    router_flush(node->router);
    router_tick(node->router, fleet->now_ms);
    assert_error(&request, ERROR_UNCERTAIN);
    request_free(&request);
}

/* --- limits ----------------------------------------------------------------------------------- */

static void test_no_space(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    set_through(fleet, leader, "key", "value");
    for (uint64_t id = 1; id <= 3; id++) {
        struct request set;
        struct request del;
        fleet_node(fleet, leader)->disk_low = true;
        make_set(&set, "other", slice_of("value"), 0);
        make_key_command(&del, COMMAND_DELETE, "key");
        submit_at(fleet, id, &set);
        submit_at(fleet, id, &del);
        await_answer(fleet, &set);
        await_answer(fleet, &del);
        assert_error(&set, ERROR_NOSPACE);
        assert_int_equal(del.result.kind, RESULT_INTEGER); /* that is how space is won back */
        fleet_node(fleet, leader)->disk_low = false;
        request_free(&set);
        request_free(&del);
    }
    struct request del;
    fleet_node(fleet, leader)->log->full = true;
    make_key_command(&del, COMMAND_DELETE, "key");
    submit_at(fleet, leader, &del);
    assert_error(&del, ERROR_NOSPACE);
    fleet_node(fleet, leader)->log->full = false;
    check_value(fleet, leader, "other", NULL);
    request_free(&del);
}

/* A leader whose state machine has run out of space takes nothing more that grows. */
static void test_stalled_leader_takes_no_growth(void **state) {
    struct fleet *fleet = *state;
    struct request first;
    struct request second;
    uint64_t leader = fleet_await_leader(fleet, 0);
    fleet_node(fleet, leader)->apply_fails = true;
    make_set(&first, "first", slice_of("value"), 0);
    submit_at(fleet, leader, &first);
    fleet_run(fleet, 20);
    assert_int_equal(first.answers, 0); /* committed: it will be carried out */
    make_set(&second, "second", slice_of("value"), 0);
    submit_at(fleet, leader, &second);
    assert_error(&second, ERROR_NOSPACE);
    fleet_node(fleet, leader)->apply_fails = false;
    await_answer(fleet, &first);
    assert_ok(&first);
    check_value(fleet, leader, "second", NULL);
    request_free(&first);
    request_free(&second);
}

static void test_busy(void **state) {
    struct fleet *fleet = *state;
    enum { LARGE = 40 << 20 };
    struct request a;
    struct request b;
    uint8_t *value = mem_zalloc(1, LARGE);
    uint64_t leader = fleet_await_leader(fleet, 0);
    fleet_isolate(fleet, leader, true);
    make_set(&a, "a", slice_make(value, LARGE), 0);
    make_set(&b, "b", slice_make(value, LARGE), 0);
    submit_at(fleet, leader, &a);
    submit_at(fleet, leader, &b);
    assert_int_equal(a.answers, 0);
    assert_error(&b, ERROR_BUSY);
    fleet_isolate(fleet, leader, false);
    await_answer(fleet, &a);
    assert_ok(&a);
    mem_free(value);
    request_free(&a);
    request_free(&b);
}

static unsigned count_in(const struct list_node *list) {
    unsigned n = 0;
    for (const struct list_node *at = list->next; at != list; at = at->next) {
        n++;
    }
    return n;
}

/* While another shard is in use, most of a flood waits at the node it came to, wherever the leader
 * is. Reads of others do not wait behind it at the leader. */
static void test_flood_beside_another_shard(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    for (uint64_t id = 1; id <= 3; id++) {
        struct router *router = fleet_node(fleet, id)->router;
        struct route *route = &router->routes[0];
        struct request requests[MANY];
        struct request read;
        char key[16];
        snprintf(key, sizeof key, "other-%u", (unsigned)id);
        router->options.window_bytes = 128;
        router_note_use(router, 1);
        submit_sets(fleet, id, requests, MANY, 0);
        unsigned under_way = count_in(&route->inflight);
        assert_in_range(under_way, ROUTER_WINDOW_OPS, 6);
        assert_int_equal(count_in(&route->parked), MANY - under_way);
        make_key_command(&read, COMMAND_GET, key);
        submit_at(fleet, id, &read);
        assert_int_equal(read.op.state, id == leader ? OP_READING : OP_PARKED);
        while (requests[0].answers == 0) {
            router_note_use(router, 1);
            fleet_step(fleet);
            assert_true(count_in(&route->inflight) <= 6);
        }
        await_all(fleet, requests, MANY);
        expect_all_ok(requests, MANY);
        await_answer(fleet, &read);
        assert_int_equal(route->window_ops, 0);
        assert_int_equal(route->window_bytes, 0);
        free_all(requests, MANY);
        request_free(&read);
    }
}

/* Without another shard in use nothing waits. */
static void test_flood_of_the_only_shard(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    struct router *router = fleet_node(fleet, leader)->router;
    struct request requests[MANY];
    router->options.window_bytes = 128;
    router_note_use(router, 1);
    fleet_run(fleet, ROUTER_WINDOW_HOLD_MS + 1);
    submit_sets(fleet, leader, requests, MANY, 0);
    assert_int_equal(count_in(&router->routes[0].inflight), MANY);
    await_all(fleet, requests, MANY);
    expect_all_ok(requests, MANY);
    free_all(requests, MANY);
}

/* Writes that never got their turn were not carried out, and the client hears that. */
static void test_deadline_behind_the_window(void **state) {
    struct fleet *fleet = *state;
    uint64_t leader = fleet_await_leader(fleet, 0);
    struct node *node = fleet_node(fleet, leader);
    struct request requests[MANY];
    node->router->options.window_bytes = 1;
    node->hold_jobs = true;
    router_note_use(node->router, 1);
    submit_sets(fleet, leader, requests, MANY, 0);
    for (unsigned ms = 0; ms < FLEET_TIMEOUT_MS + 2 * FLEET_DUTY_MS; ms += 10) {
        router_note_use(node->router, 1);
        fleet_run(fleet, 10);
    }
    for (unsigned i = 0; i < MANY; i++) {
        assert_error(&requests[i], i < ROUTER_WINDOW_OPS ? ERROR_UNCERTAIN : ERROR_BUSY);
    }
    node->hold_jobs = false;
    fleet_run(fleet, 100);
    check_value(fleet, leader, "key-5", NULL);
    free_all(requests, MANY);
}

/* A state machine that runs out of space must not answer reads from before what was acknowledged
 * elsewhere; the reads wait, and are answered when it goes on. */
static void test_reads_behind_a_stalled_machine(void **state) {
    struct fleet *fleet = *state;
    struct request write;
    struct request read;
    uint64_t leader = fleet_await_leader(fleet, 0);
    uint64_t origin = other_than(fleet, leader, 0);
    struct node *node = fleet_node(fleet, leader);
    set_through(fleet, leader, "key", "old");
    node->hold_jobs = true;
    make_set(&write, "key", slice_of("new"), 0);
    submit_at(fleet, origin, &write);
    await_answer(fleet, &write); /* the origin applies it */
    assert_ok(&write);
    make_key_command(&read, COMMAND_GET, "key");
    submit_at(fleet, leader, &read);
    fleet_run(fleet, 5);
    node->apply_fails = true;
    node->hold_jobs = false;
    fleet_run(fleet, 100);
    assert_int_equal(read.answers, 0);
    node->apply_fails = false;
    await_answer(fleet, &read);
    assert_bulk(&read, "new");
    request_free(&write);
    request_free(&read);
}

/* The state machine's thread hangs: reads end at their deadline all the same. */
static void test_reads_of_a_hanging_machine(void **state) {
    struct fleet *fleet = *state;
    struct request read;
    uint64_t leader = fleet_await_leader(fleet, 0);
    fleet_node(fleet, leader)->hold_jobs = true;
    make_key_command(&read, COMMAND_GET, "key");
    submit_at(fleet, leader, &read);
    fleet_run(fleet, FLEET_TIMEOUT_MS + 2 * FLEET_DUTY_MS);
    assert_error(&read, ERROR_BUSY);
    request_free(&read); /* while the job still refers to the command */
    fleet_node(fleet, leader)->hold_jobs = false;
    fleet_run(fleet, 50);
    assert_int_equal(router_stats(fleet_node(fleet, leader)->router).inflight_bytes, 0);
    check_value(fleet, leader, "key", NULL);
}

/* --- snapshots -------------------------------------------------------------------------------- */

/* The origin missed so much that it gets a snapshot, which may contain its write: nobody can tell.
 */
static void test_snapshot_hides_the_fate(void **state) {
    struct fleet *fleet = *state;
    struct request request;
    char key[16];
    uint64_t leader = fleet_await_leader(fleet, 0);
    uint64_t origin = other_than(fleet, leader, 0);
    uint64_t third = other_than(fleet, leader, origin);
    fleet_wire(fleet, leader, origin)->paused = true;
    make_set(&request, "hidden", slice_of("value"), COMMAND_FLAG_NX);
    submit_at(fleet, origin, &request);
    fleet_run(fleet, 5);
    fleet_isolate(fleet, origin, true);
    uint8_t value[1024] = {0};
    for (unsigned i = 0; i < 400; i++) {
        struct request filler;
        snprintf(key, sizeof key, "fill-%u", i);
        make_set(&filler, key, slice_make(value, sizeof value), 0);
        submit_at(fleet, third, &filler);
        await_answer(fleet, &filler);
        assert_ok(&filler);
        request_free(&filler);
    }
    fleet_run(fleet, 100);
    assert_int_equal(request.answers, 0);
    fleet_isolate(fleet, origin, false);
    await_answer(fleet, &request);
    assert_error(&request, ERROR_UNCERTAIN);
    assert_true(fleet_node(fleet, origin)->gaps > 0);
    check_value(fleet, origin, "hidden", "value");
    set_through(fleet, origin, "after", "value");
    check_agreement(fleet);
    request_free(&request);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_node_serves, setup, teardown),
        cmocka_unit_test(test_one_node_alone),
        cmocka_unit_test_setup_teardown(test_pipelined_reads_see_writes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_leader_dies_with_writes_in_flight, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deposed_leader_settles_its_own, setup, teardown),
        cmocka_unit_test_setup_teardown(test_leadership_lost_and_regained, setup, teardown),
        cmocka_unit_test_setup_teardown(test_uncertain_only_at_the_deadline, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fence_after_link_reset, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lost_replies, setup, teardown),
        cmocka_unit_test_setup_teardown(test_late_failure_of_an_earlier_attempt, setup, teardown),
        cmocka_unit_test_setup_teardown(test_order_across_lanes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_order_across_refusals_and_leaders, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lost_no_space_keeps_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused_streams, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deadline_of_a_gathered_write, setup, teardown),
        cmocka_unit_test_setup_teardown(test_transfer_under_load, setup, teardown),
        cmocka_unit_test_setup_teardown(test_transfer_that_aborts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_space, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stalled_leader_takes_no_growth, setup, teardown),
        cmocka_unit_test_setup_teardown(test_busy, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flood_beside_another_shard, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flood_of_the_only_shard, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deadline_behind_the_window, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reads_behind_a_stalled_machine, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reads_of_a_hanging_machine, setup, teardown),
        cmocka_unit_test_setup_teardown(test_snapshot_hides_the_fate, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
