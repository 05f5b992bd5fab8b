/* A cluster of Raft groups in one process, on a simulated log, network and clock, all of them in
 * the hands of the test. Whatever the test does, the harness checks what Raft promises:
 *
 * - at most one leader in a term;
 * - a term, a vote or an entry is durable before a message says so;
 * - what was committed once stays what it was, on every node, through every restart;
 * - an entry is committed only while a majority holds it on disk;
 * - a node's commit index never goes back;
 * - a confirmed read sees everything that was committed anywhere when it arrived. */
#ifndef TESTS_UNIT_GROUP_CLUSTER_H
#define TESTS_UNIT_GROUP_CLUSTER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/prng.h"
#include "raft/group.h"
#include "raft/messages.h"
#include "tests/unit/simulated_log.h"

enum {
    CLUSTER_NODES = 5,
    CLUSTER_TERMS = 4096,
    CLUSTER_READS = 64,
    CLUSTER_TRACE = 4096,
    HEARTBEAT_MS = 50,
    ELECTION_MS = 500
};

struct packet {
    struct list_node link;
    uint64_t from;
    uint64_t to;
    uint64_t at_ms;
    bool is_snapshot;
    struct snapshot_info info; /* of a snapshot; its config is the cluster's */
    uint8_t type;
    struct buffer header;
    unsigned n_attachments;
    struct payload **attachments;
};

struct pending_read {
    uint64_t round;
    uint64_t index; /* that the read would see at least */
    uint64_t floor; /* that it must see */
};

struct cluster;

struct node {
    struct cluster *cluster;
    uint64_t id;
    struct log *log;
    struct group *group; /* NULL: down */
    uint64_t commit_seen;
    uint64_t applied;   /* by the state machine */
    uint64_t durable;   /* and what it finds after a crash */
    uint64_t lead_term; /* 0: not leader */
    uint64_t lead_last; /* last index when it was elected */
    struct pending_read reads[CLUSTER_READS];
    unsigned n_reads;
    unsigned reads_confirmed;
    uint64_t install_at_ms; /* 0: none */
    uint64_t snapshot_sent_ms;
    unsigned snapshots_sent;
    unsigned snapshots_installed;
    bool hold_disk;
    bool newcomer; /* its starts are those of a directory that was let in */
    bool disk_low;
    uint64_t queued; /* what the port claims to have queued */
};

struct committed {
    uint64_t term;
    struct payload *payload;
};

struct cluster {
    unsigned n;
    struct node nodes[CLUSTER_NODES + 1]; /* by id, from 1 on */
    uint64_t now_ms;
    struct prng prng;
    struct list_node packets; /* in the order of delivery */
    bool cut[CLUSTER_NODES + 1][CLUSTER_NODES + 1];
    unsigned delay_min_ms;
    unsigned delay_max_ms;
    unsigned drop_percent;
    unsigned duplicate_percent;
    struct payload *config;
    struct committed committed[SIM_ENTRIES];
    uint64_t n_committed;
    uint64_t leaders[CLUSTER_TERMS];
    uint64_t messages;
    uint64_t last_value;
    bool tracing;
    char trace[CLUSTER_TRACE];
};

/* --- checks ----------------------------------------------------------------------------------- */

static unsigned holders_on_disk(const struct cluster *cluster, uint64_t index, uint64_t term) {
    unsigned n = 0;
    for (unsigned id = 1; id <= cluster->n; id++) {
        n += sim_image_has(&cluster->nodes[id].log->durable, index, term) ? 1 : 0;
    }
    return n;
}

static void check_committed(struct node *node, uint64_t index) {
    struct cluster *cluster = node->cluster;
    const struct log_entry *entry = &node->log->now.entries[index];
    assert_true(index >= node->log->now.state.first && index <= node->log->now.state.last);
    if (index <= cluster->n_committed) {
        struct committed *known = &cluster->committed[index];
        assert_int_equal(entry->term, known->term);
        assert_true(slice_equal(payload_slice(entry->payload), payload_slice(known->payload)));
        return;
    }
    assert_int_equal(index, cluster->n_committed + 1);
    /* The first entry is the same everywhere from the outset. */
    assert_true(index == 1 || holders_on_disk(cluster, index, entry->term) > cluster->n / 2);
    cluster->committed[index].term = entry->term;
    cluster->committed[index].payload = payload_ref(entry->payload);
    cluster->n_committed = index;
}

static void check_sent(const struct node *node, uint64_t to, const struct raft_wire *wire) {
    const struct log_group_state *disk = &node->log->durable.state;
    bool asks = wire->kind == PEER_MESSAGE_VOTE && wire->vote.pre_vote;
    bool answers = wire->kind == PEER_MESSAGE_VOTE_RESULT && wire->vote_result.pre_vote;
    if (!asks && !answers) {
        assert_true(wire->term <= disk->term);
    }
    if (wire->kind == PEER_MESSAGE_VOTE && !asks && wire->term == disk->term) {
        assert_int_equal(disk->voted_for, node->id);
    }
    if (wire->kind == PEER_MESSAGE_VOTE_RESULT && !answers && wire->vote_result.granted &&
        wire->term == disk->term) {
        assert_int_equal(disk->voted_for, to);
    }
    if (wire->kind == PEER_MESSAGE_APPEND_RESULT && wire->append_result.rejected == 0 &&
        !group_is_installing(node->group)) {
        /* What an installed snapshot holds is durable before the log knows of it. */
        assert_true(wire->append_result.last_index <= disk->last ||
                    wire->append_result.last_index <= node->durable);
    }
}

/* Two logs that hold the same index and term are equal up to there. */
static void check_log_matching(const struct cluster *cluster) {
    for (unsigned a = 1; a <= cluster->n; a++) {
        for (unsigned b = a + 1; b <= cluster->n; b++) {
            const struct sim_image *one = &cluster->nodes[a].log->now;
            const struct sim_image *two = &cluster->nodes[b].log->now;
            uint64_t last = one->state.last < two->state.last ? one->state.last : two->state.last;
            bool equal = false;
            for (uint64_t i = last; i >= one->state.first && i >= two->state.first && i > 0; i--) {
                bool same = one->entries[i].term == two->entries[i].term;
                assert_true(same || !equal);
                equal = equal || same;
                if (equal) {
                    assert_true(slice_equal(payload_slice(one->entries[i].payload),
                                            payload_slice(two->entries[i].payload)));
                }
            }
        }
    }
}

/* --- the port --------------------------------------------------------------------------------- */

static void trace_message(struct cluster *cluster, uint64_t from, uint64_t to,
                          const struct raft_wire *wire) {
    static const char *const names[] = {
        "", "append", "append result", "vote", "vote result", "timeout now", "probe", "probe ack"};
    char line[128];
    unsigned long long term = wire->term;
    const char *name = names[wire->kind];
    int n = 0;
    switch ((enum raft_message_kind)wire->kind) {
    case PEER_MESSAGE_APPEND:
        n = snprintf(line, sizeof line, "%s term %llu, after %llu^%llu, %u entries, commit %llu",
                     name, term, (unsigned long long)wire->append.prev_index,
                     (unsigned long long)wire->append.prev_term, wire->append.n,
                     (unsigned long long)wire->append.commit);
        break;
    case PEER_MESSAGE_APPEND_RESULT:
        n = snprintf(line, sizeof line, "%s term %llu, %s %llu", name, term,
                     wire->append_result.rejected > 0 ? "rejected, has" : "has",
                     (unsigned long long)wire->append_result.last_index);
        break;
    case PEER_MESSAGE_VOTE:
        n = snprintf(line, sizeof line, "%s%s term %llu, has %llu^%llu",
                     wire->vote.pre_vote ? "pre-" : "", name, term,
                     (unsigned long long)wire->vote.last_index,
                     (unsigned long long)wire->vote.last_term);
        break;
    case PEER_MESSAGE_VOTE_RESULT:
        n = snprintf(line, sizeof line, "%s%s term %llu, %s",
                     wire->vote_result.pre_vote ? "pre-" : "", name, term,
                     wire->vote_result.granted ? "granted" : "refused");
        break;
    default:
        n = snprintf(line, sizeof line, "%s term %llu", name, term);
        break;
    }
    ASSERT(n > 0 && (size_t)n < sizeof line);
    size_t used = strlen(cluster->trace);
    snprintf(cluster->trace + used, sizeof cluster->trace - used, "%llu > %llu %s\n",
             (unsigned long long)from, (unsigned long long)to, line);
}

static uint64_t delay_of(struct cluster *cluster) {
    return cluster->delay_min_ms +
           prng_below(&cluster->prng, cluster->delay_max_ms - cluster->delay_min_ms + 1);
}

static void packet_queue(struct cluster *cluster, struct packet *packet) {
    struct list_node *at = &cluster->packets;
    while (at->prev != &cluster->packets &&
           LIST_ENTRY(at->prev, struct packet, link)->at_ms > packet->at_ms) {
        at = at->prev;
    }
    list_insert_before(at, &packet->link);
}

static void packet_free(struct packet *packet) {
    for (unsigned i = 0; i < packet->n_attachments; i++) {
        payload_unref(packet->attachments[i]);
    }
    mem_free(packet->attachments);
    buffer_free(&packet->header);
    mem_free(packet);
}

static void packet_send(struct node *node, uint64_t to, const struct peer_message *message) {
    struct cluster *cluster = node->cluster;
    struct packet *packet = mem_zalloc(1, sizeof *packet);
    packet->from = node->id;
    packet->to = to;
    packet->at_ms = cluster->now_ms + delay_of(cluster);
    packet->type = message->type;
    buffer_append_slice(&packet->header, message->header);
    packet->n_attachments = message->n_attachments;
    packet->attachments = mem_zalloc(message->n_attachments + 1, sizeof *packet->attachments);
    for (unsigned i = 0; i < message->n_attachments; i++) {
        packet->attachments[i] = payload_ref(message->attachments[i]);
    }
    packet_queue(cluster, packet);
}

static bool port_send(void *data, uint64_t to, enum peer_lane lane,
                      const struct peer_message *message) {
    struct node *node = data;
    struct cluster *cluster = node->cluster;
    (void)lane;
    if (node->log->dead) {
        return false;
    }
    struct raft_wire wire;
    assert_true(raft_wire_decode(message->type, message->header, &wire));
    check_sent(node, to, &wire);
    cluster->messages++;
    if (cluster->tracing) {
        trace_message(cluster, node->id, to, &wire);
    }
    if (prng_below(&cluster->prng, 100) < cluster->drop_percent) {
        return prng_below(&cluster->prng, 2) == 0;
    }
    packet_send(node, to, message);
    if (prng_below(&cluster->prng, 100) < cluster->duplicate_percent) {
        packet_send(node, to, message);
    }
    return true;
}

static uint64_t port_queued_bytes(void *data, uint64_t to) {
    struct node *node = data;
    (void)to;
    return node->queued;
}

static uint64_t port_bulk_queued(void *data, uint64_t to, uint16_t group) {
    (void)data;
    (void)to;
    (void)group;
    return 0;
}

static bool port_disk_low(void *data) {
    struct node *node = data;
    return node->disk_low;
}

static void port_clock(void *data, unsigned group, struct group_clock *clock) {
    struct node *node = data;
    (void)group;
    *clock = (struct group_clock){.time_ms = node->cluster->now_ms, .wall_ms = 1, .anchored = true};
}

static void on_role(void *data, unsigned group) {
    struct node *node = data;
    struct cluster *cluster = node->cluster;
    (void)group;
    if (node->log->dead) {
        return;
    }
    uint64_t term = group_term(node->group);
    bool leads = group_role(node->group) == GROUP_LEADER;
    if (leads && node->lead_term == term) {
        return;
    }
    node->n_reads = 0;
    node->lead_term = leads ? term : 0;
    node->lead_last = leads ? group_last(node->group) : 0;
    if (leads) {
        assert_true(term < CLUSTER_TERMS);
        assert_true(cluster->leaders[term] == 0);
        cluster->leaders[term] = node->id;
    }
}

static void on_commit(void *data, unsigned group) {
    struct node *node = data;
    (void)group;
    if (node->log->dead) {
        return;
    }
    uint64_t commit = group_commit(node->group);
    assert_true(commit >= node->commit_seen);
    while (node->commit_seen < commit) {
        check_committed(node, ++node->commit_seen);
    }
    if (node->applied < commit) {
        node->applied = commit;
    }
}

static void on_reads(void *data, unsigned group, uint64_t round) {
    struct node *node = data;
    (void)group;
    if (node->log->dead) {
        return;
    }
    unsigned kept = 0;
    for (unsigned i = 0; i < node->n_reads; i++) {
        if (node->reads[i].round > round) {
            node->reads[kept++] = node->reads[i];
            continue;
        }
        assert_true(node->reads[i].index >= node->reads[i].floor);
        node->reads_confirmed++;
    }
    node->n_reads = kept;
}

static void on_clock(void *data, unsigned group, uint64_t from, const struct group_clock *clock) {
    struct node *node = data;
    (void)group;
    assert_true(clock->wall_ms == 1 || group_leader(node->group) == from);
    assert_true(clock->wall_ms == 1 || clock->anchored);
}

static void on_snapshot_needed(void *data, unsigned group, uint64_t to) {
    struct node *node = data;
    struct cluster *cluster = node->cluster;
    (void)group;
    if (node->log->dead || node->applied == 0 ||
        cluster->now_ms < node->snapshot_sent_ms + 2 * HEARTBEAT_MS) {
        return;
    }
    node->snapshot_sent_ms = cluster->now_ms;
    node->snapshots_sent++;
    struct packet *packet = mem_zalloc(1, sizeof *packet);
    packet->from = node->id;
    packet->to = to;
    packet->at_ms = cluster->now_ms + delay_of(cluster);
    packet->is_snapshot = true;
    packet->info = (struct snapshot_info){.leader_term = group_term(node->group),
                                          .index = node->applied,
                                          .term = cluster->committed[node->applied].term,
                                          .config_index = 1,
                                          .config = payload_slice(cluster->config)};
    packet_queue(cluster, packet);
}

static void on_installed(void *data, unsigned group) {
    struct node *node = data;
    (void)group;
    node->snapshots_installed++;
}

/* --- life ------------------------------------------------------------------------------------- */

static void node_try_start(struct node *node, enum error_code expected) {
    struct cluster *cluster = node->cluster;
    struct group_options options = {
        .self = node->id,
        .log = node->log,
        .heartbeat_ms = HEARTBEAT_MS,
        .election_ms = ELECTION_MS,
        .seed = prng_next(&cluster->prng),
        .port = {.data = node,
                 .send = port_send,
                 .queued_bytes = port_queued_bytes,
                 .bulk_queued = port_bulk_queued,
                 .disk_low = port_disk_low,
                 .clock = port_clock,
                 .on_role = on_role,
                 .on_commit = on_commit,
                 .on_reads = on_reads,
                 .on_clock = on_clock,
                 .on_snapshot_needed = on_snapshot_needed,
                 .on_installed = on_installed},
    };
    node->group = group_new(&options);
    if (group_is_blank(node->group)) {
        group_bootstrap(node->group, cluster->config, NULL);
        sim_log_sync_all(node->log);
    }
    if (node->newcomer) {
        group_be_newcomer(node->group);
    }
    node->applied = node->durable;
    node->commit_seen = node->durable;
    uint64_t index = node->durable;
    struct error error = {.code = ERROR_NONE};
    enum error_code code =
        group_start(node->group, cluster->now_ms, index,
                    index > 0 ? cluster->committed[index].term : 0, index > 0 ? 1 : 0,
                    index > 0 ? payload_slice(cluster->config) : slice_make(NULL, 0), &error);
    assert_int_equal(code, expected);
}

static void node_start(struct node *node) {
    node_try_start(node, ERROR_NONE);
}

/* `kept`: how much of what is queued still reaches the disk. */
static void node_crash(struct node *node, unsigned kept) {
    sim_log_crash(node->log, kept);
    group_free(node->group);
    sim_log_restart(node->log);
    node->group = NULL;
    node->lead_term = 0;
    node->n_reads = 0;
    node->install_at_ms = 0;
}

static inline void node_restart(struct node *node) {
    node_crash(node, 0);
    node_start(node);
}

static struct cluster *cluster_new(unsigned n, uint64_t seed) {
    struct cluster *cluster = mem_zalloc(1, sizeof *cluster);
    struct group_server servers[CLUSTER_NODES];
    char addresses[CLUSTER_NODES][32];
    cluster->n = n;
    cluster->now_ms = 1000;
    cluster->delay_min_ms = 1;
    cluster->delay_max_ms = 1;
    prng_seed(&cluster->prng, seed);
    list_init(&cluster->packets);
    for (unsigned i = 0; i < n; i++) {
        snprintf(addresses[i], sizeof addresses[i], "10.0.0.%u:7201", i + 1);
        servers[i] = (struct group_server){.id = i + 1, .address = addresses[i], .voter = true};
    }
    cluster->config = group_encode_config(servers, n);
    for (unsigned id = 1; id <= n; id++) {
        struct node *node = &cluster->nodes[id];
        node->cluster = cluster;
        node->id = id;
        node->log = sim_log_new();
    }
    for (unsigned id = 1; id <= n; id++) {
        node_start(&cluster->nodes[id]);
    }
    return cluster;
}

static void cluster_free(struct cluster *cluster) {
    for (unsigned id = 1; id <= cluster->n; id++) {
        if (cluster->nodes[id].group != NULL) {
            node_crash(&cluster->nodes[id], 0);
        }
        sim_log_free(cluster->nodes[id].log);
    }
    while (!list_empty(&cluster->packets)) {
        struct packet *packet = LIST_ENTRY(list_first(&cluster->packets), struct packet, link);
        list_remove(&packet->link);
        packet_free(packet);
    }
    for (uint64_t i = 1; i <= cluster->n_committed; i++) {
        payload_unref(cluster->committed[i].payload);
    }
    payload_unref(cluster->config);
    mem_free(cluster);
}

/* --- time ------------------------------------------------------------------------------------- */

static void deliver_snapshot(struct node *node, const struct packet *packet) {
    if (packet->info.index <= node->applied || node->install_at_ms > 0 ||
        !group_offer_snapshot(node->group, node->cluster->now_ms, packet->from, &packet->info)) {
        return;
    }
    node->applied = packet->info.index;
    node->durable = packet->info.index;
    node->commit_seen = packet->info.index;
    node->install_at_ms = node->cluster->now_ms + delay_of(node->cluster);
}

static void deliver(struct cluster *cluster, struct packet *packet) {
    struct node *node = &cluster->nodes[packet->to];
    if (node->group == NULL || cluster->cut[packet->from][packet->to]) {
        return;
    }
    if (packet->is_snapshot) {
        deliver_snapshot(node, packet);
        return;
    }
    struct peer_message message = {.type = packet->type,
                                   .header = buffer_slice(&packet->header),
                                   .n_attachments = packet->n_attachments,
                                   .attachments = packet->attachments};
    assert_true(group_receive(node->group, cluster->now_ms, packet->from, &message));
    packet->n_attachments = 0;
}

static void node_work(struct node *node) {
    struct cluster *cluster = node->cluster;
    if (node->group == NULL) {
        return;
    }
    if (node->install_at_ms > 0 && cluster->now_ms >= node->install_at_ms) {
        node->install_at_ms = 0;
        group_install(node->group);
    }
    group_flush_reads(node->group, cluster->now_ms);
    (void)group_tick(node->group, cluster->now_ms);
    if (!node->hold_disk) {
        sim_log_sync_all(node->log);
    }
    sim_log_run_reads(node->log);
}

static void cluster_run(struct cluster *cluster, uint64_t ms) {
    for (uint64_t end_ms = cluster->now_ms + ms; cluster->now_ms < end_ms;) {
        cluster->now_ms++;
        while (!list_empty(&cluster->packets)) {
            struct packet *packet = LIST_ENTRY(list_first(&cluster->packets), struct packet, link);
            if (packet->at_ms > cluster->now_ms) {
                break;
            }
            list_remove(&packet->link);
            deliver(cluster, packet);
            packet_free(packet);
        }
        for (unsigned id = 1; id <= cluster->n; id++) {
            node_work(&cluster->nodes[id]);
        }
    }
}

/* --- what tests do ---------------------------------------------------------------------------- */

/* The leader with the highest term, or NULL. */
static struct node *cluster_leader(struct cluster *cluster) {
    struct node *leader = NULL;
    for (unsigned id = 1; id <= cluster->n; id++) {
        struct node *node = &cluster->nodes[id];
        if (node->group != NULL && node->lead_term > 0 &&
            (leader == NULL || node->lead_term > leader->lead_term)) {
            leader = node;
        }
    }
    return leader;
}

static struct node *cluster_elect(struct cluster *cluster) {
    for (unsigned i = 0; i < 200; i++) {
        struct node *leader = cluster_leader(cluster);
        if (leader != NULL && group_commit(leader->group) >= leader->lead_last) {
            return leader;
        }
        cluster_run(cluster, 100);
    }
    fail_msg("no leader within 20 seconds");
    return NULL;
}

/* Proposes `n` entries; false when the node does not take them. */
static bool node_propose(struct node *node, unsigned n) {
    struct payload *payloads[64] = {NULL};
    uint64_t first;
    ASSERT(n <= 64);
    for (unsigned i = 0; i < n; i++) {
        payloads[i] = payload_new(sizeof(uint64_t));
        bytes_put_u64(payloads[i]->data, ++node->cluster->last_value);
    }
    bool taken = group_propose(node->group, node->cluster->now_ms, payloads, n, &first);
    for (unsigned i = 0; i < n; i++) {
        payload_unref(payloads[i]);
    }
    return taken;
}

/* A linearizable read; false when the node does not serve reads. */
static inline bool node_read(struct node *node) {
    if (node->group == NULL || node->lead_term == 0 || group_role(node->group) != GROUP_LEADER ||
        group_commit(node->group) < node->lead_last || node->n_reads == CLUSTER_READS) {
        return false;
    }
    struct pending_read *read = &node->reads[node->n_reads++];
    read->round = group_read(node->group);
    read->index = group_commit(node->group);
    read->floor = node->cluster->n_committed;
    return true;
}

static inline void node_cut(struct node *node, unsigned trailing) {
    if (node->group == NULL || group_is_installing(node->group) || node->applied == 0) {
        return;
    }
    node->durable = node->applied;
    group_cut(node->group, node->cluster->now_ms, node->durable, 1,
              payload_slice(node->cluster->config), trailing);
}

/* Cuts the links between `node` and all others, or mends them. */
static void node_isolate(struct node *node, bool isolated) {
    struct cluster *cluster = node->cluster;
    for (unsigned id = 1; id <= cluster->n; id++) {
        cluster->cut[node->id][id] = isolated;
        cluster->cut[id][node->id] = isolated;
    }
}

static inline void cluster_heal(struct cluster *cluster) {
    memset(cluster->cut, 0, sizeof cluster->cut);
    cluster->drop_percent = 0;
    cluster->duplicate_percent = 0;
    cluster->delay_min_ms = 1;
    cluster->delay_max_ms = 2;
    for (unsigned id = 1; id <= cluster->n; id++) {
        struct node *node = &cluster->nodes[id];
        node->hold_disk = false;
        node->disk_low = false;
        node->log->full = false;
        node->queued = 0;
        if (node->group == NULL) {
            node_start(node);
        }
    }
}

static struct node *cluster_other(struct cluster *cluster, const struct node *a,
                                  const struct node *b) {
    for (unsigned id = 1; id <= cluster->n; id++) {
        struct node *node = &cluster->nodes[id];
        if (node != a && node != b && node->group != NULL) {
            return node;
        }
    }
    return NULL;
}

/* Everything that the leader has is committed on every node. */
static inline void assert_converged(struct cluster *cluster) {
    struct node *leader = cluster_elect(cluster);
    for (unsigned id = 1; id <= cluster->n; id++) {
        struct node *node = &cluster->nodes[id];
        assert_non_null(node->group);
        assert_int_equal(group_commit(node->group), group_last(leader->group));
        assert_int_equal(group_leader(node->group), leader->id);
        assert_int_equal(node->applied, group_last(leader->group));
    }
    assert_int_equal(cluster->n_committed, group_last(leader->group));
    check_log_matching(cluster);
}

#endif
