/* The consensus driver on the real log: three groups, each with a log in a directory of its own, on
 * one loop. test_group.c has the hard moments; here it is about what comes from files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include <cmocka.h>

#include "base/list.h"
#include "base/mem.h"
#include "raft/group.h"

enum { NODES = 3, ENTRY_SIZE = 2000, CACHE_SIZE = 64 * 1024, STEP_MS = 5 };

struct packet {
    struct list_node link;
    uint64_t from;
    uint64_t to;
    struct peer_message message;
    struct buffer header;
};

struct cluster;

struct node {
    struct cluster *cluster;
    uint64_t id;
    char dir[96];
    struct log *log;
    struct group *group;
    bool away;
    bool snapshot_wanted;
    bool installed;
};

struct cluster {
    uv_loop_t loop;
    char root[64];
    uint64_t now_ms;
    struct node nodes[NODES + 1]; /* by id */
    struct list_node packets;
    struct payload *config;
    uint64_t cut_index; /* up to here every state machine is taken to be durable */
    uint64_t cut_term;
};

/* --- the port --------------------------------------------------------------------------------- */

static bool port_send(void *data, uint64_t to, enum peer_lane lane,
                      const struct peer_message *message) {
    struct node *node = data;
    (void)lane;
    if (node->away || node->cluster->nodes[to].away) {
        return false;
    }
    struct packet *packet = mem_zalloc(1, sizeof *packet);
    packet->from = node->id;
    packet->to = to;
    packet->message = *message;
    buffer_append_slice(&packet->header, message->header);
    packet->message.header = buffer_slice(&packet->header);
    packet->message.attachments =
        mem_zalloc(message->n_attachments + 1, sizeof *packet->message.attachments);
    for (unsigned i = 0; i < message->n_attachments; i++) {
        packet->message.attachments[i] = payload_ref(message->attachments[i]);
    }
    list_push(&node->cluster->packets, &packet->link);
    return true;
}

static uint64_t port_queued_bytes(void *data, uint64_t to) {
    (void)data;
    (void)to;
    return 0;
}

static uint64_t port_bulk_queued(void *data, uint64_t to, uint16_t group) {
    (void)data;
    (void)to;
    (void)group;
    return 0;
}

static bool port_disk_low(void *data) {
    (void)data;
    return false;
}

static void port_clock(void *data, unsigned group, struct group_clock *clock) {
    (void)data;
    (void)group;
    *clock = (struct group_clock){.time_ms = 1};
}

static void on_event(void *data, unsigned group) {
    (void)data;
    (void)group;
}

static void on_reads(void *data, unsigned group, uint64_t round) {
    (void)data;
    (void)group;
    (void)round;
}

static void on_clock(void *data, unsigned group, uint64_t from, const struct group_clock *clock) {
    (void)data;
    (void)group;
    (void)from;
    (void)clock;
}

static void on_snapshot_needed(void *data, unsigned group, uint64_t to) {
    struct node *node = data;
    (void)group;
    node->cluster->nodes[to].snapshot_wanted = true;
}

static void on_installed(void *data, unsigned group) {
    struct node *node = data;
    (void)group;
    node->installed = true;
}

/* --- life ------------------------------------------------------------------------------------- */

static void node_start(struct node *node) {
    struct cluster *cluster = node->cluster;
    struct error error = {.code = ERROR_NONE};
    struct log_options log_options = {.dir = node->dir,
                                      .n_groups = 1,
                                      .segment_size = LIMIT_SEGMENT_SIZE_MIN,
                                      .cache_size = CACHE_SIZE,
                                      .identity = node->id};
    if (log_open(&node->log, &cluster->loop, &log_options, &error) != ERROR_NONE) {
        fail_msg("%s", error.message);
    }
    struct group_options options = {.self = node->id,
                                    .log = node->log,
                                    .heartbeat_ms = 50,
                                    .election_ms = 500,
                                    .seed = node->id,
                                    .port = {.data = node,
                                             .send = port_send,
                                             .queued_bytes = port_queued_bytes,
                                             .bulk_queued = port_bulk_queued,
                                             .disk_low = port_disk_low,
                                             .clock = port_clock,
                                             .on_role = on_event,
                                             .on_commit = on_event,
                                             .on_reads = on_reads,
                                             .on_clock = on_clock,
                                             .on_snapshot_needed = on_snapshot_needed,
                                             .on_installed = on_installed}};
    node->group = group_new(&options);
    if (group_is_blank(node->group)) {
        group_bootstrap(node->group, cluster->config, NULL);
    }
    uint64_t applied = log_state(node->log, 0).first > 1 ? cluster->cut_index : 0;
    enum error_code code =
        group_start(node->group, cluster->now_ms, applied, applied > 0 ? cluster->cut_term : 0,
                    applied > 0 ? 1 : 0,
                    applied > 0 ? payload_slice(cluster->config) : slice_make(NULL, 0), &error);
    if (code != ERROR_NONE) {
        fail_msg("%s", error.message);
    }
}

static void on_closed(void *data) {
    *(bool *)data = true;
}

static void packet_free(struct packet *packet, bool delivered) {
    for (unsigned i = 0; i < packet->message.n_attachments && !delivered; i++) {
        payload_unref(packet->message.attachments[i]);
    }
    mem_free(packet->message.attachments);
    buffer_free(&packet->header);
    mem_free(packet);
}

static void node_stop(struct node *node) {
    bool closed = false;
    log_close(node->log, on_closed, &closed);
    while (!closed) {
        uv_run(&node->cluster->loop, UV_RUN_ONCE);
    }
    uv_run(&node->cluster->loop, UV_RUN_NOWAIT);
    group_free(node->group);
    node->group = NULL;
}

static void node_restart(struct node *node) {
    node_stop(node);
    node_start(node);
}

static int setup(void **state) {
    struct cluster *cluster = mem_zalloc(1, sizeof *cluster);
    struct group_server servers[NODES];
    char addresses[NODES][32];
    snprintf(cluster->root, sizeof cluster->root, "/tmp/ikv-test-group-XXXXXX");
    assert_non_null(mkdtemp(cluster->root));
    uv_loop_init(&cluster->loop);
    list_init(&cluster->packets);
    cluster->now_ms = 1000;
    for (unsigned i = 0; i < NODES; i++) {
        snprintf(addresses[i], sizeof addresses[i], "10.0.0.%u:7201", i + 1);
        servers[i] = (struct group_server){.id = i + 1, .address = addresses[i], .voter = true};
    }
    cluster->config = group_encode_config(servers, NODES);
    for (unsigned id = 1; id <= NODES; id++) {
        struct node *node = &cluster->nodes[id];
        node->cluster = cluster;
        node->id = id;
        snprintf(node->dir, sizeof node->dir, "%s/%u", cluster->root, id);
        node_start(node);
    }
    *state = cluster;
    return 0;
}

static int teardown(void **state) {
    struct cluster *cluster = *state;
    char command[128];
    for (unsigned id = 1; id <= NODES; id++) {
        node_stop(&cluster->nodes[id]);
    }
    while (!list_empty(&cluster->packets)) {
        struct packet *packet = LIST_ENTRY(list_first(&cluster->packets), struct packet, link);
        list_remove(&packet->link);
        packet_free(packet, false);
    }
    uv_run(&cluster->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&cluster->loop), 0);
    payload_unref(cluster->config);
    snprintf(command, sizeof command, "rm -rf %s", cluster->root);
    assert_int_equal(system(command), 0);
    mem_free(cluster);
    return 0;
}

static void cluster_step(struct cluster *cluster) {
    cluster->now_ms += STEP_MS;
    while (!list_empty(&cluster->packets)) {
        struct packet *packet = LIST_ENTRY(list_first(&cluster->packets), struct packet, link);
        struct node *to = &cluster->nodes[packet->to];
        list_remove(&packet->link);
        bool arrives = !to->away && !cluster->nodes[packet->from].away;
        if (arrives) {
            assert_true(group_receive(to->group, cluster->now_ms, packet->from, &packet->message));
        }
        packet_free(packet, arrives);
    }
    for (unsigned id = 1; id <= NODES; id++) {
        group_flush_reads(cluster->nodes[id].group, cluster->now_ms);
        (void)group_tick(cluster->nodes[id].group, cluster->now_ms);
        log_kick(cluster->nodes[id].log);
    }
    /* The disk works in real time, the clock does not wait for it: give it a little. */
    usleep(200);
    uv_run(&cluster->loop, UV_RUN_NOWAIT);
}

static struct node *leader_of(struct cluster *cluster) {
    for (unsigned steps = 0; steps < 20000; steps++) {
        for (unsigned id = 1; id <= NODES; id++) {
            struct node *node = &cluster->nodes[id];
            if (!node->away && group_role(node->group) == GROUP_LEADER &&
                group_commit(node->group) == group_last(node->group)) {
                return node;
            }
        }
        cluster_step(cluster);
    }
    fail_msg("no leader");
    return NULL;
}

static void wait_for_commit(struct cluster *cluster, const struct node *node, uint64_t index) {
    for (unsigned steps = 0; steps < 50000 && group_commit(node->group) < index; steps++) {
        cluster_step(cluster);
    }
    assert_true(group_commit(node->group) >= index);
}

static uint64_t write_entries(struct cluster *cluster, unsigned n) {
    uint64_t first = 0;
    for (unsigned i = 0; i < n; i++) {
        struct node *leader = leader_of(cluster);
        struct payload *payload = payload_new(ENTRY_SIZE);
        memset(payload->data, (int)(i & 0xff), ENTRY_SIZE);
        assert_true(group_propose(leader->group, cluster->now_ms, &payload, 1, &first));
        payload_unref(payload);
        wait_for_commit(cluster, leader, first);
    }
    return first;
}

/* --- tests ------------------------------------------------------------------------------------ */

/* A few times the cache: the configuration, written first, is in memory all the same. */
static void test_configuration_stays_in_memory(void **state) {
    struct cluster *cluster = *state;
    uint64_t last = write_entries(cluster, 150);
    struct log_entry entry;
    for (unsigned id = 1; id <= NODES; id++) {
        struct node *node = &cluster->nodes[id];
        wait_for_commit(cluster, node, last);
        for (unsigned round = 0; round < 2; round++) {
            assert_false(log_cached(node->log, 0, 3, &entry));
            assert_true(log_cached(node->log, 0, 1, &entry));
            assert_int_equal(entry.kind, LOG_ENTRY_CHANGE);
            assert_true(slice_equal(payload_slice(entry.payload), payload_slice(cluster->config)));
            payload_unref(entry.payload);
            node_restart(node);
        }
        uint64_t voters[LIMIT_NODES];
        assert_int_equal(group_voters(node->group, voters), NODES);
    }
    assert_true(write_entries(cluster, 3) > last);
}

/* What decides whether the state machine must be durable before the log is reset behind it. */
static void test_log_fits_what_was_applied(void **state) {
    struct cluster *cluster = *state;
    uint64_t last = write_entries(cluster, 10);
    const struct log *log = leader_of(cluster)->log;
    uint64_t term = 0;
    enum log_entry_kind kind;
    assert_true(log_lookup(log, 0, last, &term, &kind));
    assert_true(group_log_fits(log, 0, 0, 0));
    assert_true(group_log_fits(log, 0, last, term));
    assert_false(group_log_fits(log, 0, last, term + 1));
    assert_false(group_log_fits(log, 0, log_state(log, 0).last + 1, term));
}

static void test_slow_follower_is_fed_from_files(void **state) {
    struct cluster *cluster = *state;
    struct node *leader = leader_of(cluster);
    struct node *slow = &cluster->nodes[leader->id % NODES + 1];
    slow->away = true;
    uint64_t last = write_entries(cluster, 300);
    struct log_entry entry;
    assert_false(log_cached(leader->log, 0, 20, &entry));
    slow->away = false;
    group_link_up(leader->group, cluster->now_ms, slow->id);
    wait_for_commit(cluster, slow, last);
    assert_false(slow->snapshot_wanted);
}

static void test_restart_of_each_and_all(void **state) {
    struct cluster *cluster = *state;
    uint64_t last = write_entries(cluster, 20);
    for (unsigned id = 1; id <= NODES; id++) {
        node_restart(&cluster->nodes[id]);
        last = write_entries(cluster, 10);
    }
    for (unsigned id = 1; id <= NODES; id++) {
        node_restart(&cluster->nodes[id]);
    }
    assert_true(group_last(leader_of(cluster)->group) >= last);
    last = write_entries(cluster, 1);
    for (unsigned id = 1; id <= NODES; id++) {
        wait_for_commit(cluster, &cluster->nodes[id], last);
    }
}

static void test_snapshot_where_the_log_was_cut(void **state) {
    struct cluster *cluster = *state;
    struct node *leader = leader_of(cluster);
    struct node *slow = &cluster->nodes[leader->id % NODES + 1];
    slow->away = true;
    uint64_t last = write_entries(cluster, 60);
    enum log_entry_kind kind;
    cluster->cut_index = last;
    assert_true(log_lookup(leader->log, 0, last, &cluster->cut_term, &kind));
    group_cut(leader->group, cluster->now_ms, last, 1, payload_slice(cluster->config), 10);
    assert_int_equal(log_state(leader->log, 0).first, last - 10 + 1);
    slow->away = false;
    group_link_up(leader->group, cluster->now_ms, slow->id);
    for (unsigned steps = 0; steps < 20000 && !slow->snapshot_wanted; steps++) {
        cluster_step(cluster);
    }
    assert_true(slow->snapshot_wanted);
    struct snapshot_info info = {.leader_term = group_term(leader->group),
                                 .index = last,
                                 .term = cluster->cut_term,
                                 .config_index = 1,
                                 .config = payload_slice(cluster->config)};
    assert_true(group_offer_snapshot(slow->group, cluster->now_ms, leader->id, &info));
    group_install(slow->group);
    for (unsigned steps = 0; steps < 20000 && !slow->installed; steps++) {
        cluster_step(cluster);
    }
    assert_true(slow->installed);
    assert_int_equal(log_state(slow->log, 0).first, last + 1);
    last = write_entries(cluster, 5);
    wait_for_commit(cluster, slow, last);
    /* Cut and installed logs open again. */
    for (unsigned id = 1; id <= NODES; id++) {
        node_restart(&cluster->nodes[id]);
    }
    last = write_entries(cluster, 5);
    wait_for_commit(cluster, slow, last);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_log_fits_what_was_applied, setup, teardown),
        cmocka_unit_test_setup_teardown(test_configuration_stays_in_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slow_follower_is_fed_from_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_restart_of_each_and_all, setup, teardown),
        cmocka_unit_test_setup_teardown(test_snapshot_where_the_log_was_cut, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
