#include "tests/sim/cluster.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <uv.h>

#include "base/assert.h"
#include "node/server.h"
#include "node/server_internal.h"
#include "tests/sim/disk.h"
#include "tests/sim/network.h"
#include "tests/sim/posix.h"
#include "tests/sim/uv.h"

static struct cluster_options options;
static struct node nodes[SIM_NODES + 1];

const struct cluster_options *cluster_options(void) {
    return &options;
}

struct node *cluster_node(unsigned id) {
    ASSERT(id >= 1 && id <= options.n_nodes);
    return &nodes[id];
}

/* ---- a node's process ---- */

static void set(struct config *config, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void set(struct config *config, const char *format, ...) {
    char line[200];
    struct error error;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (config_set(config, line, &error) != ERROR_NONE) {
        sim_fail("CONFIG %s", error.message);
    }
}

static void make_config(const struct node *node, struct config *config) {
    struct error error;
    config_init(config);
    set(config, "cluster=sim");
    set(config, "node_id=%u", node->id);
    set(config, "data_dir=/data");
    set(config, "insecure_listen=yes");
    set(config, "join=%s", node->joins ? "yes" : "no");
    for (unsigned i = 1; i <= options.n_nodes; i++) {
        if (!nodes[i].listed) {
            continue;
        }
        set(config, "node=%u 10.0.0.%u:%d 10.0.0.%u:%d", i, i, CLIENT_PORT, i, PEER_PORT);
    }
    set(config, "shards=%u", options.n_shards);
    set(config, "heartbeat_ms=%llu", (unsigned long long)options.heartbeat_ms);
    set(config, "election_ms=%llu", (unsigned long long)options.election_ms);
    set(config, "request_timeout_ms=%llu", (unsigned long long)options.request_timeout_ms);
    set(config, "segment_size=1MiB");
    set(config, "log_cache=%llu", (unsigned long long)options.log_cache);
    set(config, "shard_cache=256KiB");
    set(config, "shard_window=%llu", (unsigned long long)options.shard_window);
    set(config, "workers=%u", options.workers);
    set(config, "snapshot_log_bytes=%llu", (unsigned long long)options.snapshot_log_bytes);
    set(config, "trailing_entries=%llu", (unsigned long long)options.trailing_entries);
    set(config, "min_free_disk=4MiB");
    set(config, "rebalance=%s", options.rebalance ? "yes" : "no");
    set(config, "default_quota=%llu", (unsigned long long)options.default_quota);
    if (config_finish(config, &error) != ERROR_NONE) {
        sim_fail("CONFIG %s", error.message);
    }
}

bool node_may_end(const struct node *node) {
    return node->damaged ||
           node->host->disk->used + ((uint64_t)8 << 20) > node->host->disk->capacity;
}

static void node_main(void *data) {
    struct node *node = data;
    struct process *process = process_current();
    struct error error = {0};
    uv_loop_t loop;
    struct server *server = NULL;
    uv_loop_init(&loop);
    if (server_open(&server, &loop, &node->config, &error) != ERROR_NONE) {
        sim_log("n%u cannot start: %s", node->id, error.message);
        if (!process->io_failed && !node_may_end(node)) {
            sim_fail("START node %u cannot start: %s", node->id, error.message);
        }
        node->refused = node->damaged;
        cover(node->damaged ? "damaged node refused to start" : "node could not start for now");
        process_kill(process, error.message);
    }
    node->server = server;
    uv_run(&loop, UV_RUN_DEFAULT);
    node->server = NULL;
    (void)uv_loop_close(&loop);
}

void node_start(struct node *node) {
    ASSERT(node->state == NODE_DOWN && node->listed);
    node->state = NODE_UP;
    node->starts++;
    node->refused = false;
    node->clean_stop = false;
    node->host->powered = true;
    make_config(node, &node->config);
    sim_log("n%u starts", node->id);
    node->process = process_start(node->host, node, node_main, node);
}

static bool ends_by_power;

static void on_process_ended(struct process *process) {
    struct node *node = process->node;
    bool by_power = ends_by_power || process->die_by_power;
    posix_process_ended(process);
    net_process_ended(process, by_power);
    if (node == NULL) {
        return;
    }
    node->state = NODE_DOWN;
    node->server = NULL;
    node->ready = false;
    node->clean_stop = process->clean;
    node->down_since = kernel_now();
    /* After a failed sync the machine is rebooted: its page cache must not be believed. */
    if (by_power || process->io_failed) {
        disk_lose_power(node->host->disk);
        node->host->powered = !by_power;
    }
    sim_log("n%u ended: %s", node->id, process->reason);
}

void node_kill(struct node *node, bool by_power) {
    if (node->state == NODE_DOWN) {
        return;
    }
    node->process->die_by_power = by_power;
    process_kill(node->process, by_power ? "power loss" : "killed");
}

static void stop_server(void *data) {
    struct node *node = data;
    if (node->server != NULL) {
        struct server *server = node->server;
        node->server = NULL; /* it is freed before its process ends */
        server_stop(server);
    }
}

void node_stop(struct node *node) {
    if (node->state == NODE_UP && node->server != NULL) {
        node->state = NODE_STOPPING;
        sim_log("n%u is told to stop", node->id);
        uv_loop_signal(node->process, stop_server, node);
    }
}

static void reread_file(void *data) {
    struct node *node = data;
    if (node->server != NULL) {
        struct config *fresh = sim_alloc(sizeof *fresh);
        make_config(node, fresh);
        server_reload(node->server, fresh);
        sim_free(fresh);
    }
}

static bool has_read_files(const struct node *node) {
    unsigned n = 0;
    for (unsigned i = 1; i <= options.n_nodes; i++) {
        bool known = config_find_node(node->server->config, i) != NULL;
        n += known != nodes[i].listed ? 1 : 0;
    }
    return n == 0;
}

void cluster_reread_files(void) {
    for (unsigned i = 1; i <= options.n_nodes; i++) {
        struct node *node = &nodes[i];
        if (node->listed && node->server != NULL && node->server->started &&
            !has_read_files(node)) {
            uv_loop_signal(node->process, reread_file, node);
        }
    }
}

void node_set_ready(struct node *node, bool ready) {
    node->ready = ready;
}

static void on_iteration(struct process *process) {
    if (process->node->server != NULL) {
        invariants_check(process->node);
    }
}

void cluster_start(const struct cluster_options *wanted) {
    options = *wanted;
    process_ended = on_process_ended;
    uv_loop_observer = on_iteration;
    invariants_start(options.n_shards);
    for (unsigned i = 1; i <= options.n_nodes; i++) {
        nodes[i] = (struct node){.id = i, .host = host_get(i)};
        nodes[i].host->disk = disk_new(nodes[i].host);
        nodes[i].listed = i <= options.n_founders;
        nodes[i].member = nodes[i].listed;
    }
    for (unsigned i = 1; i <= options.n_founders; i++) {
        node_start(&nodes[i]);
    }
}

/* ---- looking at it ---- */

unsigned cluster_count_up(void) {
    unsigned n = 0;
    for (unsigned i = 1; i <= options.n_nodes; i++) {
        n += nodes[i].member && nodes[i].server != NULL ? 1 : 0;
    }
    return n;
}

unsigned cluster_count_members(void) {
    unsigned n = 0;
    for (unsigned i = 1; i <= options.n_nodes; i++) {
        n += nodes[i].member ? 1 : 0;
    }
    return n;
}

unsigned cluster_some_member(void) {
    unsigned left = (unsigned)kernel_random(cluster_count_members());
    unsigned id = 1;
    while (!nodes[id].member || left-- > 0) {
        id++;
    }
    return id;
}

unsigned cluster_leader(unsigned shard) {
    unsigned leader = 0;
    uint64_t term = 0;
    for (unsigned i = 1; i <= options.n_nodes; i++) {
        if (nodes[i].server != NULL && nodes[i].server->started) {
            const struct group *group = nodes[i].server->groups[shard];
            if (group_role(group) == GROUP_LEADER && group_term(group) > term) {
                leader = i;
                term = group_term(group);
            }
        }
    }
    return leader;
}

struct transfer {
    unsigned node;
    unsigned shard;
    unsigned to;
};

static void run_transfer(void *data) {
    struct transfer *transfer = data;
    struct server *server = nodes[transfer->node].server;
    if (server != NULL && server->started &&
        group_role(server->groups[transfer->shard]) == GROUP_LEADER) {
        if (group_transfer(server->groups[transfer->shard], server_now(server), transfer->to)) {
            cover("leadership transfer");
        }
    }
    sim_free(transfer);
}

bool cluster_transfer(unsigned shard, unsigned to) {
    unsigned leader = cluster_leader(shard);
    if (leader == 0 || leader == to) {
        return false;
    }
    struct transfer *transfer = sim_alloc(sizeof *transfer);
    *transfer = (struct transfer){.node = leader, .shard = shard, .to = to};
    uv_loop_signal(nodes[leader].process, run_transfer, transfer);
    return true;
}

static bool are_members(const struct group *group) {
    struct group_server servers[LIMIT_NODES];
    unsigned n = group_servers(group, servers);
    for (unsigned i = 0; i < n; i++) {
        if (!servers[i].voter || !nodes[servers[i].id].member) {
            return false;
        }
    }
    return n == cluster_count_members();
}

bool cluster_has_all_voters(void) {
    for (unsigned i = 1; i <= options.n_nodes; i++) {
        for (unsigned k = 0; k < options.n_shards && nodes[i].member; k++) {
            if (nodes[i].server == NULL || !nodes[i].server->started ||
                !are_members(nodes[i].server->groups[k])) {
                return false;
            }
        }
    }
    return true;
}

bool cluster_is_met_by_all(const struct node *node) {
    for (unsigned i = 1; i <= options.n_nodes; i++) {
        if (&nodes[i] != node && nodes[i].member &&
            (nodes[i].server == NULL || !peers_is_up(nodes[i].server->peers, node->id))) {
            return false;
        }
    }
    return true;
}

bool cluster_others_serve(const struct node *node) {
    for (unsigned i = 1; i <= options.n_nodes; i++) {
        if (&nodes[i] != node && nodes[i].member &&
            (nodes[i].server == NULL || !nodes[i].server->started)) {
            return false;
        }
    }
    return true;
}

bool cluster_is_healthy(char *reason, size_t size) {
    for (unsigned i = 1; i <= options.n_nodes; i++) {
        if (nodes[i].member && (nodes[i].server == NULL || !nodes[i].server->started)) {
            snprintf(reason, size, "node %u is not up", i);
            return false;
        }
    }
    for (unsigned k = 0; k < options.n_shards; k++) {
        unsigned leader = cluster_leader(k);
        if (leader == 0 || !shard_is_ready(&nodes[leader].server->shards[k])) {
            snprintf(reason, size, "shard %u has no leader that is ready", k);
            return false;
        }
    }
    if (!cluster_has_all_voters()) {
        snprintf(reason, size, "the voters are not the members");
        return false;
    }
    return true;
}

bool cluster_is_even(void) {
    for (unsigned k = 0; k < options.n_shards; k++) {
        const struct machine_state *first = NULL;
        for (unsigned i = 1; i <= options.n_nodes; i++) {
            if (!nodes[i].member) {
                continue;
            }
            if (nodes[i].server == NULL) {
                return false;
            }
            const struct machine_state *state = &nodes[i].server->shards[k].state;
            if (first != NULL && state->applied_index != first->applied_index) {
                return false;
            }
            if (first != NULL && (state->digest != first->digest || state->keys != first->keys ||
                                  state->used_bytes != first->used_bytes)) {
                sim_fail("DIGEST shard %u: nodes differ at index %llu", k,
                         (unsigned long long)first->applied_index);
            }
            first = state;
        }
    }
    return true;
}

/* ---- files of a node that is down ---- */

static void verify_main(void *data) {
    struct node *node = data;
    for (unsigned k = 0; k < options.n_shards; k++) {
        char path[64];
        struct error error = {0};
        snprintf(path, sizeof path, "/data/shard-%u.db", k);
        struct machine_options machine_options = {
            .path = path, .cluster = "sim", .shard = k, .cache_bytes = 1 << 20};
        struct machine *machine = NULL;
        if (machine_open(&machine, &machine_options, &error) != ERROR_NONE ||
            machine_recount(machine, &error) != ERROR_NONE) {
            sim_fail("RECOUNT node %u: %s", node->id, error.message);
        }
        machine_close(machine);
        cover("databases recounted");
    }
}

void cluster_verify_files(struct node *node) {
    ASSERT(node->state == NODE_DOWN);
    (void)process_start(node->host, NULL, verify_main, node);
}
