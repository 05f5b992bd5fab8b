/* Random schedules: clients on every node write, delete and read while nodes crash, restart, freeze
 * and are cut off, links break, leadership moves and disks run full; then everything heals.
 * Checked: every operation is answered exactly once; the history of each key is linearizable, which
 * fails when an acknowledged write is lost or one is carried out twice; -NOLEADER and -NOSPACE mean
 * that nothing happened; replicas agree in the end.
 *
 * A failure prints its seed. ROUTER_SEED=n runs that one, ROUTER_SEEDS=n that many. */
#include "node/router_internal.h"
#include "tests/unit/node_fixture.h"
#include "tests/unit/register_check.h"
#include "tests/unit/transaction_builder.h"

enum { CLIENTS = 9, KEYS = 40, DEPTH = 6, HISTORY = REGISTER_OPS, RUN_MS = 6000, SEEDS = 12 };
enum { LARGE = FORWARD_NORMAL_MAX + 1 };

struct client {
    uint64_t node;
    unsigned writes; /* outstanding */
    unsigned reads;
    int last_write[KEYS]; /* newest write of the present pipeline on each key, or -1 */
};

struct event {
    struct request request;
    struct world *world;
    struct client *client;
    unsigned key;
    struct register_op op;
    bool finished;
    bool excluded; /* certainly did not happen */
    struct event *next;
};

struct world {
    struct fleet fleet;
    struct client clients[CLIENTS];
    struct event *events; /* all, newest first */
    struct event *history[KEYS][HISTORY];
    unsigned n_history[KEYS];
    uint64_t order;
    uint64_t next_value;
    uint64_t answers;
    uint64_t uncertain;
    uint64_t failed;
    uint64_t transactions; /* that were carried out */
    uint8_t *large;
    bool narrow; /* few writes may be under way, the others wait */
};

static uint64_t value_of(const struct result *result) {
    if (result->kind != RESULT_BULK) {
        return 0;
    }
    assert_true(result->data.size >= 8);
    return bytes_get_u64(result->data.data);
}

static void note_result(struct event *event) {
    const struct result *result = &event->request.result;
    struct register_op *op = &event->op;
    if (result->kind == RESULT_ERROR) {
        bool certain = result->code == ERROR_NOLEADER || result->code == ERROR_NOSPACE ||
                       result->code == ERROR_BUSY;
        assert_true(certain || result->code == ERROR_UNCERTAIN);
        assert_true(op->kind != REGISTER_GET || certain);
        event->excluded = certain;
        event->world->uncertain += certain ? 0 : 1;
        event->world->failed += certain ? 1 : 0;
        return;
    }
    op->end = ++event->world->order;
    switch (op->kind) {
    case REGISTER_SET:
        assert_int_equal(result->kind, RESULT_OK);
        return;
    case REGISTER_SET_NX:
        op->result = result->kind == RESULT_OK ? 1 : 0;
        return;
    case REGISTER_SET_GET:
    case REGISTER_GET:
        op->result = value_of(result);
        return;
    case REGISTER_DELETE:
        assert_int_equal(result->kind, RESULT_INTEGER);
        op->result = (uint64_t)result->integer;
        return;
    }
}

/* Every fourth command goes within a transaction: nothing but the form of the answer may differ. */
static void put_into_transaction(struct request *request) {
    struct transaction_builder builder = {0};
    struct command nested;
    struct slice bytes = buffer_slice(&request->op.command);
    assert_int_equal(command_decode(bytes, &nested, NULL), ERROR_NONE);
    struct command outer = {.kind = request->op.is_write ? COMMAND_TRANSACTION
                                                         : COMMAND_READ_TRANSACTION,
                            .project = nested.project};
    buffer_put_bytes(&builder.nested, bytes);
    builder.n_nested = 1;
    struct buffer encoded = builder_encode(&builder, &outer);
    buffer_free(&request->op.command);
    request->op.command = encoded;
}

static void take_out_of_transaction(struct event *event) {
    struct result *result = &event->request.result;
    if (result->kind != RESULT_RESULTS) {
        return;
    }
    struct reader elements = reader_make(buffer_slice(&result->data));
    assert_int_equal(reader_u32(&elements), 1);
    struct result_view view = result_next(&elements);
    struct result inner = {.kind = view.kind, .code = view.code, .integer = view.integer};
    buffer_append_slice(&inner.data, view.data);
    result_free(result);
    *result = inner;
    event->world->transactions++;
}

static void event_done(struct request *request) {
    struct event *event = request->data;
    take_out_of_transaction(event);
    assert_false(event->finished);
    event->finished = true;
    event->world->answers++;
    *(request->op.is_write ? &event->client->writes : &event->client->reads) -= 1;
    note_result(event);
}

static void make_event_request(struct event *event, const char *key) {
    struct world *world = event->world;
    uint8_t bytes[8];
    struct slice value = slice_make(bytes, sizeof bytes);
    bytes_put_u64(bytes, event->op.value);
    if (prng_below(&world->fleet.prng, 10) == 0) {
        memcpy(world->large, bytes, sizeof bytes);
        value = slice_make(world->large, LARGE);
    }
    switch (event->op.kind) {
    case REGISTER_SET:
        make_set(&event->request, key, value, 0);
        return;
    case REGISTER_SET_NX:
        make_set(&event->request, key, value, COMMAND_FLAG_NX);
        return;
    case REGISTER_SET_GET:
        make_set(&event->request, key, value, COMMAND_FLAG_GET);
        return;
    case REGISTER_DELETE:
        make_key_command(&event->request, COMMAND_DELETE, key);
        return;
    case REGISTER_GET:
        make_key_command(&event->request, COMMAND_GET, key);
        return;
    }
}

static void submit_event(struct world *world, struct client *client, enum register_kind kind,
                         unsigned key) {
    char name[16];
    struct event *event = mem_zalloc(1, sizeof *event);
    snprintf(name, sizeof name, "key-%u", key);
    event->world = world;
    event->client = client;
    event->key = key;
    event->next = world->events;
    world->events = event;
    event->op = (struct register_op){.kind = kind, .end = UINT64_MAX, .after = -1};
    if (kind != REGISTER_GET && kind != REGISTER_DELETE) {
        event->op.value = ++world->next_value;
    }
    event->op.start = ++world->order;
    make_event_request(event, name);
    if (prng_below(&world->fleet.prng, 4) == 0) {
        put_into_transaction(&event->request);
    }
    if (client->writes + client->reads == 0) {
        for (unsigned i = 0; i < KEYS; i++) {
            client->last_write[i] = -1;
        }
    }
    /* Reads of one pipeline are concurrent: after a change of leader the second may be answered
     * from an earlier moment than the first. */
    event->op.after = client->last_write[key];
    if (event->request.op.is_write) {
        client->last_write[key] = (int)world->n_history[key];
    }
    world->history[key][world->n_history[key]++] = event;
    event->request.op.after_writes = kind == REGISTER_GET && client->writes > 0;
    event->request.then = event_done;
    event->request.data = event;
    *(event->request.op.is_write ? &client->writes : &client->reads) += 1;
    submit_at(&world->fleet, client->node, &event->request);
}

/* Like a session: writes wait for the reads before them, reads are told of the writes. */
static void client_acts(struct world *world, struct client *client) {
    struct prng *prng = &world->fleet.prng;
    unsigned key = (unsigned)prng_below(prng, KEYS);
    enum register_kind kind = (enum register_kind)prng_below(prng, 5);
    bool is_write = kind != REGISTER_GET;
    if (!fleet_node(&world->fleet, client->node)->up ||
        world->n_history[key] + CLIENTS + 2 >= HISTORY || (is_write && client->reads > 0) ||
        client->writes + client->reads >= DEPTH) {
        return;
    }
    submit_event(world, client, kind, key);
}

static unsigned count_up(const struct fleet *fleet) {
    unsigned n = 0;
    for (unsigned i = 0; i < fleet->n; i++) {
        n += fleet->nodes[i].up ? 1 : 0;
    }
    return n;
}

static void crash_or_restart(struct fleet *fleet, uint64_t id) {
    struct node *node = fleet_node(fleet, id);
    if (!node->up) {
        fleet_restart(fleet, id);
    } else if (count_up(fleet) > fleet->n / 2) {
        fleet_crash(fleet, id, (unsigned)prng_below(&fleet->prng, 6));
    }
}

static void break_or_mend_link(struct fleet *fleet, uint64_t a, uint64_t b) {
    struct wire *wire = fleet_wire(fleet, a, b);
    bool both_up = a != b && fleet_node(fleet, a)->up && fleet_node(fleet, b)->up;
    switch (prng_below(&fleet->prng, 4)) {
    case 0:
        if (both_up) {
            fleet_link(fleet, a, b, !wire->up);
        }
        return;
    case 1:
        if (both_up) {
            fleet_set_wire(fleet, a, b, !wire->up);
        }
        return;
    case 2: /* a reset between living nodes */
        if (both_up && wire->up) {
            fleet_set_wire(fleet, a, b, false);
            fleet_set_wire(fleet, a, b, true);
        }
        return;
    default:
        wire->paused = wire->up && !wire->paused;
        return;
    }
}

static void disturb(struct fleet *fleet) {
    struct prng *prng = &fleet->prng;
    uint64_t id = 1 + prng_below(prng, fleet->n);
    uint64_t other = 1 + prng_below(prng, fleet->n);
    struct node *node = fleet_node(fleet, id);
    switch (prng_below(prng, 12)) {
    case 0:
        crash_or_restart(fleet, id);
        return;
    case 1:
        node->frozen = node->up && !node->frozen;
        return;
    case 2:
    case 3:
    case 4:
    case 5:
        break_or_mend_link(fleet, id, other);
        return;
    case 6:
        fleet_isolate(fleet, id, prng_below(prng, 2) == 0 && node->up);
        return;
    case 7:
        node->apply_fails = !node->apply_fails;
        return;
    case 8:
        node->disk_low = prng_below(prng, 3) == 0;
        return;
    case 9:
        node->hold_jobs = !node->hold_jobs;
        return;
    case 10:
        node->hold_syncs = !node->hold_syncs;
        return;
    default:
        if (node->up) {
            (void)group_transfer(node->group, fleet->now_ms, 0);
        }
        return;
    }
}

static void heal(struct fleet *fleet) {
    for (uint64_t id = 1; id <= fleet->n; id++) {
        struct node *node = fleet_node(fleet, id);
        if (!node->up) {
            fleet_restart(fleet, id);
        }
        node->frozen = false;
        node->apply_fails = false;
        node->disk_low = false;
        node->hold_jobs = false;
        node->hold_syncs = false;
    }
    for (uint64_t a = 1; a <= fleet->n; a++) {
        for (uint64_t b = 1; b <= fleet->n; b++) {
            if (a != b) {
                fleet_wire(fleet, a, b)->paused = false;
                fleet_set_wire(fleet, a, b, true);
            }
        }
    }
}

static void check_key(const struct world *world, unsigned key) {
    struct register_op ops[REGISTER_OPS];
    int moved[REGISTER_OPS]; /* place of an event in `ops`, or of the one before it, or -1 */
    unsigned n = 0;
    for (unsigned i = 0; i < world->n_history[key]; i++) {
        const struct event *event = world->history[key][i];
        int after = event->op.after >= 0 ? moved[event->op.after] : -1;
        moved[i] = after;
        if (!event->excluded) {
            moved[i] = (int)n;
            ops[n] = event->op;
            ops[n].after = after;
            n++;
        }
    }
    if (register_is_linearizable(ops, n)) {
        return;
    }
    for (unsigned i = 0; i < n; i++) {
        print_error("%2u: kind %d, value %llu, result %llu, from %llu to %lld, after %d\n", i,
                    (int)ops[i].kind, (unsigned long long)ops[i].value,
                    (unsigned long long)ops[i].result, (unsigned long long)ops[i].start,
                    (long long)ops[i].end, ops[i].after);
    }
    fail_msg("the history of key-%u is not linearizable", key);
}

static void free_events(struct world *world) {
    while (world->events != NULL) {
        struct event *event = world->events;
        world->events = event->next;
        assert_int_equal(event->request.answers, 1);
        request_free(&event->request);
        mem_free(event);
    }
}

/* As if another shard were in use, so that only two writes of a node are under way at a time. */
static void narrow_windows(struct fleet *fleet) {
    for (uint64_t id = 1; id <= fleet->n; id++) {
        struct router *router = fleet_node(fleet, id)->router;
        if (router != NULL) {
            router->options.window_bytes = 1;
            router_note_use(router, 1);
        }
    }
}

static void run_clients(struct world *world, unsigned ms, unsigned trouble) {
    struct fleet *fleet = &world->fleet;
    for (unsigned i = 0; i < ms; i++) {
        if (world->narrow) {
            narrow_windows(fleet);
        }
        /* Seldom enough that histories stay short enough to be searched. */
        if (prng_below(&fleet->prng, 3) == 0) {
            client_acts(world, &world->clients[prng_below(&fleet->prng, CLIENTS)]);
        }
        if (trouble > 0 && prng_below(&fleet->prng, trouble) == 0) {
            disturb(fleet);
        }
        if (trouble > 0 && prng_below(&fleet->prng, 6 * trouble) == 0) {
            heal(fleet);
        }
        fleet_step(fleet);
    }
}

static void run_seed(uint64_t seed) {
    struct world *world = mem_zalloc(1, sizeof *world);
    struct fleet *fleet = &world->fleet;
    unsigned n = seed % 5 == 4 ? 5 : 3;
    world->large = mem_zalloc(1, LARGE);
    fleet_init(fleet, n, seed);
    fleet->shuffled = true;
    /* Little log is kept in every other run, so that those who were away get snapshots. */
    fleet->snapshot_log_bytes = seed % 2 ? 8 * KIB : 64 * MIB;
    fleet->trailing = seed % 2 ? 4 : 100000;
    world->narrow = seed % 3 == 0;
    for (unsigned i = 0; i < n; i++) {
        fleet->nodes[i].wall_ahead_ms = prng_below(&fleet->prng, 1000000);
    }
    fleet_start(fleet);
    for (unsigned i = 0; i < CLIENTS; i++) {
        world->clients[i].node = 1 + i % n;
    }
    run_clients(world, 600, 0);
    run_clients(world, RUN_MS, 80);
    heal(fleet);
    run_clients(world, 2 * FLEET_TIMEOUT_MS, 0);
    fleet_await_leader(fleet, 0);
    for (unsigned key = 0; key < KEYS; key++) {
        for (unsigned i = 0; i < 2 && world->n_history[key] < HISTORY; i++) {
            struct client reader = {.node = 1 + (key + i) % n};
            memset(reader.last_write, 0xff, sizeof reader.last_write);
            submit_event(world, &reader, REGISTER_GET, key);
            await_answer(fleet, &world->events->request);
            assert_int_not_equal(world->events->request.result.kind, RESULT_ERROR);
        }
        check_key(world, key);
    }
    check_agreement(fleet);
    uint64_t resent = 0;
    unsigned gaps = 0;
    for (unsigned i = 0; i < n; i++) {
        resent += router_stats(fleet->nodes[i].router).resent;
        gaps += fleet->nodes[i].gaps;
        assert_int_equal(router_stats(fleet->nodes[i].router).inflight, 0);
        assert_int_equal(router_stats(fleet->nodes[i].router).inflight_bytes, 0);
    }
    print_message("seed %llu: %llu answers, %llu uncertain, %llu refused, %llu resent, %llu "
                  "transactions, %u snapshots\n",
                  (unsigned long long)seed, (unsigned long long)world->answers,
                  (unsigned long long)world->uncertain, (unsigned long long)world->failed,
                  (unsigned long long)resent, (unsigned long long)world->transactions, gaps);
    assert_true(world->transactions > 0);
    fleet_free(fleet);
    free_events(world);
    mem_free(world->large);
    mem_free(world);
}

static uint64_t number_from(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text != NULL ? strtoull(text, NULL, 10) : otherwise;
}

static void test_random_schedules(void **state) {
    uint64_t first = number_from("ROUTER_SEED", 1);
    uint64_t n = number_from("ROUTER_SEEDS", getenv("ROUTER_SEED") != NULL ? 1 : SEEDS);
    (void)state;
    for (uint64_t seed = first; seed < first + n; seed++) {
        print_message("ROUTER_SEED=%llu\n", (unsigned long long)seed);
        run_seed(seed);
    }
}

/* A checker that accepts everything is worse than none. */
static void test_checker_rejects(void **state) {
    (void)state;
    struct register_op lost[] = {
        {.kind = REGISTER_SET, .value = 1, .start = 1, .end = 2, .after = -1},
        {.kind = REGISTER_GET, .result = 0, .start = 3, .end = 4, .after = -1},
    };
    assert_false(register_is_linearizable(lost, 2));
    lost[0].end = UINT64_MAX; /* unknown: may not have happened */
    assert_true(register_is_linearizable(lost, 2));

    struct register_op twice[] = {
        {.kind = REGISTER_SET, .value = 1, .start = 1, .end = 2, .after = -1},
        {.kind = REGISTER_SET, .value = 2, .start = 3, .end = 4, .after = -1},
        {.kind = REGISTER_GET, .result = 1, .start = 5, .end = 6, .after = -1},
    };
    assert_false(register_is_linearizable(twice, 3));
    twice[0].end = UINT64_MAX; /* unknown: may have happened late, but once */
    assert_true(register_is_linearizable(twice, 3));

    struct register_op twice_nx[] = {
        {.kind = REGISTER_SET_NX, .value = 1, .result = 0, .start = 1, .end = 4, .after = -1},
        {.kind = REGISTER_GET, .result = 1, .start = 2, .end = 3, .after = -1},
    };
    assert_false(register_is_linearizable(twice_nx, 2));

    struct register_op order[] = {
        {.kind = REGISTER_SET, .value = 1, .start = 1, .end = 10, .after = -1},
        {.kind = REGISTER_SET, .value = 2, .start = 2, .end = 10, .after = 0},
        {.kind = REGISTER_GET, .result = 1, .start = 11, .end = 12, .after = -1},
    };
    assert_false(register_is_linearizable(order, 3));
    order[1].after = -1;
    assert_true(register_is_linearizable(order, 3));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_checker_rejects),
        cmocka_unit_test(test_random_schedules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
