/* Several nodes in one process, for tests of routers and shards: real groups, shards, routers and
 * state machines; a log in memory; a network, jobs and clocks in the hands of the test. Everything
 * random comes from one seed, so that a run can be replayed. One shard. */
#ifndef TESTS_UNIT_NODE_FIXTURE_H
#define TESTS_UNIT_NODE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "base/mem.h"
#include "base/prng.h"
#include "node/forward.h"
#include "node/machine/machine_internal.h"
#include "node/router.h"
#include "node/shard.h"
#include "raft/group_internal.h"
#include "raft/messages.h"
#include "tests/unit/memory_log.h"

enum {
    FLEET_MAX = 5,
    FLEET_HEARTBEAT_MS = 50,
    FLEET_ELECTION_MS = 300,
    FLEET_TIMEOUT_MS = 4000,
    FLEET_DUTY_MS = 20,
    FLEET_START_MS = 100000,
    FLEET_PATH = 128
};
#define FLEET_WALL_MS UINT64_C(1700000000000)

struct fleet;

/* A message on its way, with memory of its own. */
struct letter {
    struct list_node link;
    struct peer_message message;
    struct buffer header;
    struct payload **attachments;
};

/* The outgoing link from one node to another. */
struct wire {
    struct list_node lanes[PEER_LANES];
    bool up;
    bool paused; /* up, but nothing gets through */
    uint64_t epoch;
};

struct node {
    struct fleet *fleet;
    uint64_t id;
    bool up;
    bool frozen; /* the process is stopped: time and messages wait */
    uint64_t boot;
    struct log *log;
    struct machine_options machine_options;
    struct machine *machine;
    char path[FLEET_PATH];
    struct group *group;
    struct shard shard;
    struct router *router;
    struct list_node jobs;
    uint64_t wall_ahead_ms; /* its wall clock's error */
    uint64_t tick_due_ms;
    bool apply_fails; /* no space for the state machine */
    bool falls_back;  /* the same once, with the loss of what it has not committed */
    bool hold_jobs;   /* its state machine thread does not get on */
    bool hold_syncs;  /* its disk does not get on */
    bool disk_low;
    unsigned gaps; /* snapshots installed */
    unsigned digests;
    bool sending; /* a snapshot */
};

/* A snapshot that arrived but was not handed over yet. */
struct parcel {
    struct list_node link;
    uint64_t from;
    uint64_t to;
    struct snapshot_info info;
    struct buffer config;
    char path[FLEET_PATH + 32];
};

/* Lets the test see or drop a message: false drops it. */
typedef bool (*fleet_filter)(void *data, uint64_t from, uint64_t to,
                             const struct peer_message *message);

struct fleet {
    struct node nodes[FLEET_MAX]; /* node i has the id i + 1 */
    unsigned n;
    struct wire wires[FLEET_MAX][FLEET_MAX];
    struct prng prng;
    uint64_t now_ms;
    uint64_t epoch;
    char directory[64];
    struct list_node parcels;
    struct payload *config;
    fleet_filter filter;
    void *filter_data;
    bool shuffled; /* messages, jobs and syncs take random time; else they are immediate */
    uint64_t snapshot_log_bytes;
    unsigned trailing;
    unsigned timeout_ms;
    uint64_t last_proposed_ms; /* newest cluster time seen in an entry that was sent */
};

/* --- ports ------------------------------------------------------------------------------------ */

static inline struct node *fleet_node(struct fleet *fleet, uint64_t id) {
    ASSERT(id >= 1 && id <= fleet->n);
    return &fleet->nodes[id - 1];
}

static inline struct wire *fleet_wire(struct fleet *fleet, uint64_t from, uint64_t to) {
    return &fleet->wires[from - 1][to - 1];
}

static inline void letter_free(struct letter *letter) {
    list_remove(&letter->link);
    for (unsigned i = 0; i < letter->message.n_attachments; i++) {
        payload_unref(letter->attachments[i]);
    }
    mem_free(letter->attachments);
    buffer_free(&letter->header);
    mem_free(letter);
}

static inline bool node_send(void *data, uint64_t to, enum peer_lane lane,
                             const struct peer_message *message) {
    struct node *node = data;
    struct fleet *fleet = node->fleet;
    struct wire *wire = fleet_wire(fleet, node->id, to);
    if (!node->up || !wire->up) {
        return false;
    }
    if (fleet->filter != NULL && !fleet->filter(fleet->filter_data, node->id, to, message)) {
        return true;
    }
    struct letter *letter = mem_zalloc(1, sizeof *letter);
    buffer_append_slice(&letter->header, message->header);
    letter->message = *message;
    letter->message.header = buffer_slice(&letter->header);
    letter->attachments = mem_zalloc(message->n_attachments + 1, sizeof *letter->attachments);
    for (unsigned i = 0; i < message->n_attachments; i++) {
        letter->attachments[i] = payload_ref(message->attachments[i]);
    }
    letter->message.attachments = letter->attachments;
    list_push(&wire->lanes[lane], &letter->link);
    return true;
}

static inline uint64_t node_queued(void *data, uint64_t to) {
    (void)data;
    (void)to;
    return 0;
}

static inline uint64_t node_bulk_queued(void *data, uint64_t to, uint16_t group) {
    struct node *node = data;
    uint64_t n = 0;
    struct list_node *lane = &fleet_wire(node->fleet, node->id, to)->lanes[PEER_LANE_BULK];
    for (struct list_node *at = lane->next; at != lane; at = at->next) {
        n += LIST_ENTRY(at, struct letter, link)->message.group == group ? 1 : 0;
    }
    return n;
}

static inline bool node_disk_low(void *data) {
    return ((struct node *)data)->disk_low;
}

static inline bool node_log_is_full(void *data) {
    return !log_has_space(((struct node *)data)->log);
}

static inline void node_clock(void *data, unsigned group, struct group_clock *clock) {
    (void)group;
    shard_clock(&((struct node *)data)->shard, clock);
}

static inline void node_group_role(void *data, unsigned group) {
    (void)group;
    shard_on_role(&((struct node *)data)->shard);
}

static inline void node_group_commit(void *data, unsigned group) {
    (void)group;
    shard_on_commit(&((struct node *)data)->shard);
}

static inline void node_group_reads(void *data, unsigned group, uint64_t round) {
    (void)round;
    router_on_reads(((struct node *)data)->router, group);
}

static inline void node_group_clock(void *data, unsigned group, uint64_t from,
                                    const struct group_clock *clock) {
    (void)group;
    shard_on_clock(&((struct node *)data)->shard, from, clock);
}

static inline void node_snapshot_needed(void *data, unsigned group, uint64_t to) {
    struct node *node = data;
    (void)group;
    if (fleet_wire(node->fleet, node->id, to)->up && !node->sending) {
        shard_on_snapshot_needed(&node->shard, to);
    }
}

static inline void node_group_installed(void *data, unsigned group) {
    (void)group;
    shard_on_installed(&((struct node *)data)->shard);
}

static inline uint64_t node_now(void *data) {
    return ((struct node *)data)->fleet->now_ms;
}

static inline uint64_t node_wall(void *data) {
    struct node *node = data;
    return FLEET_WALL_MS + node->fleet->now_ms + node->wall_ahead_ms;
}

static inline void node_submit(void *data, struct job *job) {
    list_push(&((struct node *)data)->jobs, &job->link);
}

static inline void copy_file(const char *from, const char *to) {
    char bytes[4096];
    size_t n;
    FILE *in = fopen(from, "rb");
    FILE *out = fopen(to, "wb");
    assert_non_null(in);
    assert_non_null(out);
    while ((n = fread(bytes, 1, sizeof bytes, in)) > 0) {
        assert_int_equal(fwrite(bytes, 1, n, out), n);
    }
    fclose(in);
    fclose(out);
}

static inline bool node_send_snapshot(void *data, unsigned shard, uint64_t to,
                                      const struct snapshot_info *info) {
    struct node *node = data;
    struct fleet *fleet = node->fleet;
    (void)shard;
    if (!node->up || !fleet_wire(fleet, node->id, to)->up || node->sending) {
        return false;
    }
    struct parcel *parcel = mem_zalloc(1, sizeof *parcel);
    parcel->from = node->id;
    parcel->to = to;
    parcel->info = *info;
    buffer_append_slice(&parcel->config, info->config);
    parcel->info.config = buffer_slice(&parcel->config);
    snprintf(parcel->path, sizeof parcel->path, "%s.incoming-%llu", fleet_node(fleet, to)->path,
             (unsigned long long)node->id);
    copy_file(node->path, parcel->path);
    node->sending = true;
    list_push(&fleet->parcels, &parcel->link);
    return true;
}

static inline void node_discard(void *data, const char *path) {
    (void)data;
    (void)unlink(path);
}

static inline void node_role(void *data, unsigned shard) {
    router_on_role(((struct node *)data)->router, shard);
}

static inline void node_reads(void *data, unsigned shard) {
    router_on_reads(((struct node *)data)->router, shard);
}

static inline void node_applied(void *data, unsigned shard, struct job *job, uint64_t index,
                                uint64_t term, bool gap) {
    struct node *node = data;
    node->gaps += gap ? 1 : 0;
    router_on_applied(node->router, shard, job, index, term, gap);
}

static inline void node_digest(void *data, unsigned shard, struct job_digest digest) {
    (void)shard;
    (void)digest;
    ((struct node *)data)->digests++;
}

static inline void node_event(void *data, unsigned shard, const char *event, uint64_t number) {
    (void)data;
    (void)shard;
    (void)event;
    (void)number;
}

static inline uint64_t node_link_epoch(void *data, uint64_t to) {
    struct node *node = data;
    const struct wire *wire = fleet_wire(node->fleet, node->id, to);
    return wire->up ? wire->epoch : 0;
}

/* --- nodes ------------------------------------------------------------------------------------ */

static inline void node_build(struct node *node) {
    struct fleet *fleet = node->fleet;
    struct error error;
    node->boot++;
    list_init(&node->jobs);
    node->frozen = false;
    node->sending = false;
    node->hold_jobs = false;
    node->hold_syncs = false;
    node->apply_fails = false;
    if (machine_open(&node->machine, &node->machine_options, &error) != ERROR_NONE) {
        fail_msg("cannot open a machine: %s", error.message);
    }
    struct group_options group = {.number = 0,
                                  .self = node->id,
                                  .log = node->log,
                                  .heartbeat_ms = FLEET_HEARTBEAT_MS,
                                  .election_ms = FLEET_ELECTION_MS,
                                  .seed = prng_next(&fleet->prng)};
    group.port = (struct group_port){.data = node,
                                     .send = node_send,
                                     .queued_bytes = node_queued,
                                     .bulk_queued = node_bulk_queued,
                                     .disk_low = node_disk_low,
                                     .clock = node_clock,
                                     .on_role = node_group_role,
                                     .on_commit = node_group_commit,
                                     .on_reads = node_group_reads,
                                     .on_clock = node_group_clock,
                                     .on_snapshot_needed = node_snapshot_needed,
                                     .on_installed = node_group_installed};
    node->group = group_new(&group);
    struct shard_options shard = {.number = 0,
                                  .self = node->id,
                                  .boot = node->boot,
                                  .log = node->log,
                                  .group = node->group,
                                  .snapshot_log_bytes = fleet->snapshot_log_bytes,
                                  .trailing_entries = fleet->trailing,
                                  .tick_ms = FLEET_HEARTBEAT_MS};
    shard.port = (struct shard_port){.data = node,
                                     .now_ms = node_now,
                                     .wall_ms = node_wall,
                                     .submit = node_submit,
                                     .send_snapshot = node_send_snapshot,
                                     .discard = node_discard,
                                     .on_role = node_role,
                                     .on_reads = node_reads,
                                     .on_applied = node_applied,
                                     .on_digest = node_digest,
                                     .on_event = node_event};
    shard_init(&node->shard, &shard, machine_state(node->machine));
    struct router_options router = {.self = node->id,
                                    .boot = node->boot,
                                    .n_shards = 1,
                                    .shards = &node->shard,
                                    .request_timeout_ms = fleet->timeout_ms,
                                    .inflight_bytes_max = 64 << 20,
                                    .window_bytes = 64 << 10,
                                    .default_quota = LIMIT_QUOTA_DEFAULT};
    router.port = (struct router_port){.data = node,
                                       .now_ms = node_now,
                                       .send = node_send,
                                       .link_epoch = node_link_epoch,
                                       .submit = node_submit,
                                       .log_is_full = node_log_is_full,
                                       .disk_is_low = node_disk_low};
    node->router = router_new(&router);
}

static inline void node_start_group(struct node *node) {
    struct error error;
    struct machine_state state = machine_state(node->machine);
    node->up = true;
    enum error_code code =
        group_start(node->group, node->fleet->now_ms, state.applied_index, state.applied_term,
                    state.config_index, machine_config(node->machine), &error);
    if (code != ERROR_NONE) {
        fail_msg("node %llu does not start: %s", (unsigned long long)node->id, error.message);
    }
}

static inline void fleet_set_wire(struct fleet *fleet, uint64_t from, uint64_t to, bool up) {
    struct wire *wire = fleet_wire(fleet, from, to);
    if (wire->up == up) {
        return;
    }
    for (unsigned lane = 0; lane < PEER_LANES; lane++) {
        while (!list_empty(&wire->lanes[lane])) {
            letter_free(LIST_ENTRY(list_first(&wire->lanes[lane]), struct letter, link));
        }
    }
    wire->up = up;
    wire->paused = false;
    struct node *node = fleet_node(fleet, from);
    if (up) {
        wire->epoch = ++fleet->epoch;
        if (node->up) {
            group_link_up(node->group, fleet->now_ms, to);
        }
    }
    if (node->up) {
        router_on_link(node->router, to, up);
    }
}

/* Both directions. */
static inline void fleet_link(struct fleet *fleet, uint64_t a, uint64_t b, bool up) {
    fleet_set_wire(fleet, a, b, up);
    fleet_set_wire(fleet, b, a, up);
}

static inline void fleet_isolate(struct fleet *fleet, uint64_t id, bool isolated) {
    for (uint64_t other = 1; other <= fleet->n; other++) {
        if (other != id && fleet_node(fleet, other)->up && fleet_node(fleet, id)->up) {
            fleet_link(fleet, id, other, !isolated);
        }
    }
}

static inline void node_run_job(struct node *node) {
    struct job *job = LIST_ENTRY(list_first(&node->jobs), struct job, link);
    list_remove(&job->link);
    if (node->falls_back && (job->kind == JOB_APPLY || job->kind == JOB_COMMIT)) {
        node->falls_back = false;
        machine_rollback(node->machine);
        job->code = error_set(&job->error, ERROR_NOSPACE, "as the test wants");
        job->state = machine_state(node->machine);
    } else if (node->apply_fails && job->kind == JOB_APPLY) {
        job->code = error_set(&job->error, ERROR_NOSPACE, "as the test wants");
        job->state = machine_state(node->machine);
    } else {
        job_run(job, &node->machine, &node->machine_options);
    }
    job->done(job);
}

static inline bool dead_send(void *data, uint64_t to, enum peer_lane lane,
                             const struct peer_message *message) {
    (void)data;
    (void)to;
    (void)lane;
    (void)message;
    return false;
}

static inline void dead_clock(void *data, unsigned group, struct group_clock *clock) {
    (void)data;
    (void)group;
    memset(clock, 0, sizeof *clock);
}

static inline void dead_event(void *data, unsigned group) {
    (void)data;
    (void)group;
}

static inline void dead_number(void *data, unsigned group, uint64_t number) {
    dead_event(data, group);
    (void)number;
}

static inline void dead_on_clock(void *data, unsigned group, uint64_t from,
                                 const struct group_clock *clock) {
    dead_number(data, group, from);
    (void)clock;
}

/* From now on nothing that the group does has an effect. */
static inline void node_disconnect_group(struct node *node) {
    struct group_port *port = &node->group->options.port;
    node->shard.receiving_job = true; /* nothing more is applied */
    port->send = dead_send;
    port->clock = dead_clock;
    port->on_role = dead_event;
    port->on_commit = dead_event;
    port->on_installed = dead_event;
    port->on_reads = dead_number;
    port->on_snapshot_needed = dead_number;
    port->on_clock = dead_on_clock;
}

/* The process ends without a goodbye; `kept` writes had reached the disk. */
static inline void fleet_crash(struct fleet *fleet, uint64_t id, unsigned kept) {
    struct node *node = fleet_node(fleet, id);
    ASSERT(node->up);
    node->up = false;
    for (uint64_t other = 1; other <= fleet->n; other++) {
        if (other != id) {
            fleet_link(fleet, id, other, false);
        }
    }
    for (struct list_node *at = fleet->parcels.next; at != &fleet->parcels;) {
        struct parcel *parcel = LIST_ENTRY(at, struct parcel, link);
        at = at->next;
        if (parcel->to == id || parcel->from == id) {
            struct node *from = fleet_node(fleet, parcel->from);
            (void)unlink(parcel->path);
            from->sending = false;
            if (from->up) {
                shard_on_snapshot_sent(&from->shard, parcel->to, ERROR_IO);
            }
            list_remove(&parcel->link);
            buffer_free(&parcel->config);
            mem_free(parcel);
        }
    }
    /* What the state machine had been given and has committed still counts; nothing that follows
     * from it does. */
    node->apply_fails = false;
    while (!list_empty(&node->jobs)) {
        node_run_job(node);
    }
    router_free(node->router);
    node_disconnect_group(node);
    memory_log_crash(node->log, kept);
    ASSERT(list_empty(&node->jobs));
    group_free(node->group);
    shard_free(&node->shard);
    machine_rollback(node->machine);
    machine_close(node->machine);
    node->machine = NULL;
    node->group = NULL;
    node->router = NULL;
}

static inline void fleet_restart(struct fleet *fleet, uint64_t id) {
    struct node *node = fleet_node(fleet, id);
    ASSERT(!node->up);
    node_build(node);
    node_start_group(node);
    for (uint64_t other = 1; other <= fleet->n; other++) {
        if (other != id && fleet_node(fleet, other)->up) {
            fleet_link(fleet, id, other, true);
        }
    }
}

/* --- time passes ------------------------------------------------------------------------------ */

static inline bool fleet_chance(struct fleet *fleet, unsigned percent) {
    return !fleet->shuffled || prng_below(&fleet->prng, 100) < percent;
}

static inline bool deliver_one(struct fleet *fleet, uint64_t from, uint64_t to,
                               enum peer_lane lane) {
    struct wire *wire = fleet_wire(fleet, from, to);
    struct node *node = fleet_node(fleet, to);
    struct list_node *first = list_first(&wire->lanes[lane]);
    if (first == NULL || wire->paused || !node->up || node->frozen) {
        return false;
    }
    struct letter *letter = LIST_ENTRY(first, struct letter, link);
    list_remove(&letter->link);
    if (letter->message.type <= PEER_MESSAGE_RAFT_LAST) {
        assert_true(group_receive(node->group, fleet->now_ms, from, &letter->message));
        letter->message.n_attachments = 0; /* taken over */
    } else {
        assert_true(router_receive(node->router, from, &letter->message));
    }
    letter_free(letter);
    return true;
}

static inline bool fleet_deliver(struct fleet *fleet) {
    bool any = false;
    for (uint64_t from = 1; from <= fleet->n; from++) {
        for (uint64_t to = 1; to <= fleet->n; to++) {
            for (unsigned lane = 0; lane < PEER_LANES; lane++) {
                while (from != to && fleet_chance(fleet, 60) &&
                       deliver_one(fleet, from, to, (enum peer_lane)lane)) {
                    any = true;
                }
            }
        }
    }
    return any;
}

static inline bool deliver_parcel(struct fleet *fleet) {
    if (list_empty(&fleet->parcels) || !fleet_chance(fleet, 10)) {
        return false;
    }
    struct parcel *parcel = LIST_ENTRY(list_first(&fleet->parcels), struct parcel, link);
    struct node *from = fleet_node(fleet, parcel->from);
    struct node *to = fleet_node(fleet, parcel->to);
    bool reachable = fleet_wire(fleet, parcel->from, parcel->to)->up && !to->frozen;
    bool delivered = reachable && shard_accepts_snapshot(&to->shard, &parcel->info);
    list_remove(&parcel->link);
    if (delivered) {
        shard_on_snapshot_received(&to->shard, parcel->from, &parcel->info, parcel->path);
    } else {
        (void)unlink(parcel->path);
    }
    from->sending = false;
    shard_on_snapshot_sent(&from->shard, parcel->to, delivered ? ERROR_NONE : ERROR_IO);
    buffer_free(&parcel->config);
    mem_free(parcel);
    return true;
}

/* What a loop iteration ends with. */
static inline void node_end_iteration(struct node *node) {
    uint64_t now_ms = node->fleet->now_ms;
    router_flush(node->router);
    group_flush_reads(node->group, now_ms);
    (void)group_tick(node->group, now_ms);
}

static inline bool node_work(struct node *node) {
    struct fleet *fleet = node->fleet;
    bool any = false;
    while (!node->hold_jobs && !list_empty(&node->jobs) && fleet_chance(fleet, 70)) {
        node_run_job(node);
        any = true;
    }
    while (!node->hold_syncs && node->log->changes != NULL && fleet_chance(fleet, 50)) {
        memory_log_sync(node->log, 1 + (unsigned)prng_below(&fleet->prng, 4));
        any = true;
    }
    while (node->log->reads != NULL && fleet_chance(fleet, 70)) {
        memory_log_read_one(node->log);
        any = true;
    }
    return any;
}

/* One millisecond, with everything that it brings about. */
static inline void fleet_step(struct fleet *fleet) {
    bool busy = true;
    fleet->now_ms++;
    for (unsigned round = 0; busy && round < (fleet->shuffled ? 1u : 50u); round++) {
        busy = fleet_deliver(fleet);
        busy = deliver_parcel(fleet) || busy;
        for (unsigned i = 0; i < fleet->n; i++) {
            struct node *node = &fleet->nodes[i];
            if (!node->up || node->frozen) {
                continue;
            }
            busy = node_work(node) || busy;
            if (fleet->now_ms >= node->tick_due_ms) {
                node->tick_due_ms = fleet->now_ms + FLEET_DUTY_MS;
                shard_tick(&node->shard, fleet->now_ms);
                router_tick(node->router, fleet->now_ms);
            }
            node_end_iteration(node);
        }
    }
}

static inline void fleet_run(struct fleet *fleet, unsigned ms) {
    while (ms-- > 0) {
        fleet_step(fleet);
    }
}

/* The node that leads and is ready, or 0. */
static inline uint64_t fleet_leader(struct fleet *fleet) {
    uint64_t leader = 0;
    uint64_t term = 0;
    for (uint64_t id = 1; id <= fleet->n; id++) {
        struct node *node = fleet_node(fleet, id);
        if (node->up && !node->frozen && shard_is_ready(&node->shard) &&
            group_term(node->group) > term) {
            leader = id;
            term = group_term(node->group);
        }
    }
    return leader;
}

/* Runs until a leader other than `not` is ready and every running node knows it. */
static inline uint64_t fleet_await_leader(struct fleet *fleet, uint64_t not ) {
    for (unsigned ms = 0; ms < 20000; ms++) {
        uint64_t leader = fleet_leader(fleet);
        bool all = leader != 0 && leader != not ;
        for (uint64_t id = 1; id <= fleet->n && all; id++) {
            struct node *node = fleet_node(fleet, id);
            all = !node->up || node->frozen || id == not || group_leader(node->group) == leader;
        }
        if (all) {
            return leader;
        }
        fleet_step(fleet);
    }
    for (uint64_t id = 1; id <= fleet->n; id++) {
        struct node *node = fleet_node(fleet, id);
        if (node->up) {
            print_error("node %u: role %d, term %u, leader %u, last %u, commit %u, applied %u\n",
                        (unsigned)id, (int)group_role(node->group),
                        (unsigned)group_term(node->group), (unsigned)group_leader(node->group),
                        (unsigned)group_last(node->group), (unsigned)group_commit(node->group),
                        (unsigned)node->shard.state.applied_index);
        }
    }
    fail_msg("no leader");
    return 0;
}

/* --- the fleet -------------------------------------------------------------------------------- */

/* Builds the nodes without starting them, so that a test may set their clocks. */
static inline void fleet_init(struct fleet *fleet, unsigned n, uint64_t seed) {
    struct group_server servers[FLEET_MAX];
    char addresses[FLEET_MAX][16];
    memset(fleet, 0, sizeof *fleet);
    fleet->n = n;
    fleet->now_ms = FLEET_START_MS;
    fleet->snapshot_log_bytes = 64 * KIB;
    fleet->trailing = 64;
    fleet->timeout_ms = FLEET_TIMEOUT_MS;
    prng_seed(&fleet->prng, seed);
    list_init(&fleet->parcels);
    snprintf(fleet->directory, sizeof fleet->directory, "/tmp/ikv-test-nodes-XXXXXX");
    assert_non_null(mkdtemp(fleet->directory));
    for (unsigned i = 0; i < n; i++) {
        struct node *node = &fleet->nodes[i];
        node->fleet = fleet;
        node->id = i + 1;
        node->log = memory_log_new();
        snprintf(node->path, sizeof node->path, "%s/node-%u.db", fleet->directory, i + 1);
        node->machine_options =
            (struct machine_options){.path = node->path, .cluster = "test", .cache_bytes = MIB};
        snprintf(addresses[i], sizeof addresses[i], "host:%u", i + 1);
        servers[i] = (struct group_server){.id = i + 1, .address = addresses[i], .voter = true};
        for (unsigned k = 0; k < n; k++) {
            for (unsigned lane = 0; lane < PEER_LANES; lane++) {
                list_init(&fleet->wires[i][k].lanes[lane]);
            }
        }
    }
    fleet->config = group_encode_config(servers, n);
}

static inline void fleet_start(struct fleet *fleet) {
    for (unsigned i = 0; i < fleet->n; i++) {
        struct node *node = &fleet->nodes[i];
        node_build(node);
        group_bootstrap(node->group, fleet->config, NULL);
        memory_log_sync(node->log, 10);
        node_start_group(node);
    }
    for (uint64_t a = 1; a <= fleet->n; a++) {
        for (uint64_t b = a + 1; b <= fleet->n; b++) {
            fleet_link(fleet, a, b, true);
        }
    }
}

static inline void fleet_make(struct fleet *fleet, unsigned n, uint64_t seed) {
    fleet_init(fleet, n, seed);
    fleet_start(fleet);
}

static inline void fleet_free(struct fleet *fleet) {
    for (uint64_t id = 1; id <= fleet->n; id++) {
        if (fleet_node(fleet, id)->up) {
            fleet_crash(fleet, id, 1000000);
        }
        memory_log_free(fleet_node(fleet, id)->log);
    }
    payload_unref(fleet->config);
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", fleet->directory);
    assert_int_equal(system(command), 0);
}

/* --- clients ---------------------------------------------------------------------------------- */

struct request {
    struct op op;
    struct fleet *fleet;
    unsigned answers;
    uint64_t answered_at; /* order among all answers, from 1 */
    struct result result;
    void (*then)(struct request *request);
    void *data;
};

static inline void request_done(struct op *op, struct result *result) {
    struct request *request = op->data;
    static uint64_t order;
    request->answers++;
    request->answered_at = ++order;
    result_free(&request->result);
    request->result = *result;
    result->data = (struct buffer){0};
    if (request->then != NULL) {
        request->then(request);
    }
}

static inline void request_make(struct request *request, const struct command *command,
                                const struct slice *args, uint32_t n_args) {
    struct command complete = *command;
    memset(request, 0, sizeof *request);
    complete.project = slice_of("test");
    command_encode(&request->op.command, &complete, args, n_args);
    request->op.is_write = command_is_write(command->kind);
    request->op.done = request_done;
    request->op.data = request;
}

static inline void request_free(struct request *request) {
    buffer_free(&request->op.command);
    result_free(&request->result);
}

static inline void submit_at(struct fleet *fleet, uint64_t id, struct request *request) {
    request->fleet = fleet;
    router_submit(fleet_node(fleet, id)->router, &request->op);
}

static inline void make_set(struct request *request, const char *key, struct slice value,
                            uint8_t flags) {
    struct command command = {.kind = COMMAND_SET, .flags = flags};
    struct slice args[2] = {slice_of(key), value};
    request_make(request, &command, args, 2);
}

static inline void make_key_command(struct request *request, enum command_kind kind,
                                    const char *key) {
    struct command command = {.kind = kind};
    struct slice args[1] = {slice_of(key)};
    request_make(request, &command, args, kind == COMMAND_CLEAR ? 0 : 1);
}

static inline void await_answer(struct fleet *fleet, struct request *request) {
    for (unsigned ms = 0; ms < 4 * FLEET_TIMEOUT_MS && request->answers == 0; ms++) {
        fleet_step(fleet);
    }
    assert_int_equal(request->answers, 1);
}

static inline void assert_ok(const struct request *request) {
    if (request->result.kind == RESULT_ERROR) {
        fail_msg("error %d: %.*s", (int)request->result.code, (int)request->result.data.size,
                 (const char *)request->result.data.data);
    }
    assert_int_equal(request->answers, 1);
    assert_int_equal(request->result.kind, RESULT_OK);
}

static inline void assert_error(const struct request *request, enum error_code code) {
    assert_int_equal(request->answers, 1);
    assert_int_equal(request->result.kind, RESULT_ERROR);
    assert_int_equal(request->result.code, code);
}

static inline void assert_bulk(const struct request *request, const char *expected) {
    assert_int_equal(request->answers, 1);
    assert_int_equal(request->result.kind, RESULT_BULK);
    assert_true(slice_equal(buffer_slice(&request->result.data), slice_of(expected)));
}

static inline void set_through(struct fleet *fleet, uint64_t id, const char *key,
                               const char *value) {
    struct request request;
    make_set(&request, key, slice_of(value), 0);
    submit_at(fleet, id, &request);
    await_answer(fleet, &request);
    assert_ok(&request);
    request_free(&request);
}

/* Reads through node `id`; expects `value`, or a missing key when NULL. */
static inline void check_value(struct fleet *fleet, uint64_t id, const char *key,
                               const char *value) {
    struct request request;
    make_key_command(&request, COMMAND_GET, key);
    submit_at(fleet, id, &request);
    await_answer(fleet, &request);
    if (value == NULL) {
        assert_int_equal(request.result.kind, RESULT_NIL);
    } else {
        assert_bulk(&request, value);
    }
    request_free(&request);
}

/* All running nodes have applied the same; their states must be the same. */
static inline void check_agreement(struct fleet *fleet) {
    uint64_t leader = fleet_await_leader(fleet, 0);
    fleet_run(fleet, 2000);
    uint64_t index = fleet_node(fleet, leader)->shard.state.applied_index;
    for (uint64_t id = 1; id <= fleet->n; id++) {
        struct node *node = fleet_node(fleet, id);
        struct error error;
        if (!node->up) {
            continue;
        }
        assert_int_equal(machine_state(node->machine).applied_index, index);
        assert_int_equal(machine_state(node->machine).digest,
                         machine_state(fleet_node(fleet, leader)->machine).digest);
        if (machine_recount(node->machine, &error) != ERROR_NONE) {
            fail_msg("node %llu: %s", (unsigned long long)id, error.message);
        }
    }
}

#endif
