/* What the node tells about itself. */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "node/server_internal.h"

static uint64_t resident_bytes(void) {
    size_t rss = 0;
    return uv_resident_set_memory(&rss) == 0 ? rss : 0;
}

static uint64_t peak_bytes(void) {
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (uint64_t)usage.ru_maxrss * 1024 : 0;
}

static const char *role_of(const struct group *group, uint64_t self) {
    uint64_t voters[LIMIT_NODES];
    unsigned n = group_voters(group, voters);
    bool voter = false;
    for (unsigned i = 0; i < n; i++) {
        voter = voter || voters[i] == self;
    }
    switch (group_role(group)) {
    case GROUP_LEADER:
        return "leader";
    case GROUP_CANDIDATE:
        return "candidate";
    case GROUP_FOLLOWER:
        return voter ? "follower" : "standby";
    }
    return "follower";
}

static void describe_shard(struct server *server, unsigned i, struct server_info_shard *info) {
    const struct group *group = server->groups[i];
    info->role = role_of(group, server->identity.node_id);
    info->leader = (uint32_t)group_leader(group);
    info->term = group_term(group);
    info->commit = group_commit(group);
    info->applied = server->shards[i].state.applied_index;
    info->last = group_last(group);
    info->keys = server->shards[i].state.keys;
    info->used_bytes = server->shards[i].state.used_bytes;
    info->sessions = server->shards[i].state.sessions;
    info->session_bytes = server->shards[i].state.session_bytes;
    info->clock_ms = server->shards[i].state.clock_ms;
    uint64_t voters[LIMIT_NODES];
    info->voters = group_voters(group, voters);
}

void server_describe(void *data, struct server_info *info) {
    struct server *server = data;
    const struct config *config = server->config;
    struct router_stats routed = router_stats(server->router);
    struct log_stats logged = log_stats(server->log);
    info->cluster = config->cluster;
    info->node_id = config->node_id;
    info->tcp_port = listener_port(server->listener);
    info->digest_mismatches = server->digest_mismatches;
    info->uptime_ms = server_now(server) - server->started_ms;
    info->n_nodes = config->n_nodes;
    for (unsigned i = 0; i < config->n_nodes; i++) {
        info->nodes[i].id = config->nodes[i].id;
        info->nodes[i].client_address = server->addresses[i];
        info->nodes[i].connected = config->nodes[i].id == config->node_id ||
                                   peers_is_up(server->peers, config->nodes[i].id);
        info->nodes[i].host = config->nodes[i].client.host;
        info->nodes[i].port = config->nodes[i].client.port;
        info->nodes[i].peer_port = config->nodes[i].peer.port;
    }
    info->n_shards = config->shards;
    for (unsigned i = 0; i < config->shards; i++) {
        describe_shard(server, i, &info->shards[i]);
    }
    info->memory_rss = resident_bytes();
    info->memory_rss_peak = peak_bytes();
    info->memory_inflight = routed.inflight_bytes;
    info->memory_inflight_limit = config->max_memory_inflight;
    info->memory_max = config->max_memory;
    info->memory_level = server->memory.level;
    info->max_connections = config->max_connections;
    info->memory_log_cache = logged.cache_bytes;
    info->memory_feed = feed_bytes(server->feed);
    info->log_bytes = logged.bytes;
    info->log_segments = logged.segments;
    info->log_syncs = logged.syncs;
    info->disk_free = server->disk_free;
    info->disk_has_space = !server_disk_is_low(server);
}

bool server_find_leader(void *data, unsigned shard, const char **host, uint16_t *port) {
    const struct server *server = data;
    uint64_t leader = group_leader(server->groups[shard]);
    if (leader == 0 || leader == server->identity.node_id || !peers_is_up(server->peers, leader)) {
        return false;
    }
    const struct config_node *node = config_find_node(server->config, (uint32_t)leader);
    if (node == NULL) {
        return false;
    }
    *host = node->client.host;
    *port = node->client.port;
    return true;
}
