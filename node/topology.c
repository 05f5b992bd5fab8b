#include "node/topology.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/prng.h"
#include "base/resp.h"
#include "base/slot.h"

unsigned topology_key_slot(struct slice key) {
    const uint8_t *open = key.size > 0 ? memchr(key.data, '{', key.size) : NULL;
    if (open != NULL) {
        const uint8_t *tag = open + 1;
        size_t rest = key.size - (size_t)(tag - key.data);
        const uint8_t *close = rest > 0 ? memchr(tag, '}', rest) : NULL;
        if (close != NULL && close != tag) {
            key = slice_make(tag, (size_t)(close - tag));
        }
    }
    return slot_of(key);
}

static const struct server_info_node *find_node(const struct server_info *info, uint32_t id) {
    for (unsigned i = 0; i < info->n_nodes; i++) {
        if (info->nodes[i].id == id) {
            return &info->nodes[i];
        }
    }
    return NULL;
}

uint32_t topology_leader(const struct server_info *info, unsigned shard) {
    ASSERT(shard < info->n_shards);
    const struct server_info_node *leader = find_node(info, info->shards[shard].leader);
    return leader != NULL && leader->connected ? leader->id : 0;
}

/* The node that stands for the slots. */
static uint32_t owner_of(const struct server_info *info, unsigned shard) {
    uint32_t leader = topology_leader(info, shard);
    return leader != 0 ? leader : info->node_id;
}

/* FNV-1a, 64 bits. */
static uint64_t hash_name(const char *name) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (const char *c = name; *c != '\0'; c++) {
        hash = (hash ^ (uint8_t)*c) * 0x100000001b3u;
    }
    return hash;
}

void topology_node_id(const char *cluster, uint32_t node, char text[TOPOLOGY_NODE_ID_SIZE + 1]) {
    struct prng prng;
    prng_seed(&prng, hash_name(cluster));
    uint64_t high = prng_next(&prng);
    uint64_t low = prng_next(&prng);
    int size = snprintf(text, TOPOLOGY_NODE_ID_SIZE + 1, "%08" PRIx32 "%016" PRIx64 "%016" PRIx64,
                        node, high, low);
    ASSERT(size == TOPOLOGY_NODE_ID_SIZE);
}

/* ---- RESP ---- */

static void write_text(struct buffer *out, const char *text) {
    resp_write_bulk(out, slice_of(text));
}

static void write_node_id(struct buffer *out, const struct server_info *info, uint32_t node) {
    char id[TOPOLOGY_NODE_ID_SIZE + 1];
    topology_node_id(info->cluster, node, id);
    write_text(out, id);
}

static void write_slots_node(struct buffer *out, const struct server_info *info,
                             const struct server_info_node *node, int version) {
    resp_write_array(out, 4);
    write_text(out, node->host);
    resp_write_integer(out, node->port);
    write_node_id(out, info, node->id);
    resp_write_map(out, 0, version); /* no further names of this node */
}

void topology_write_slots(struct buffer *out, const struct server_info *info, unsigned shard,
                          int version) {
    const struct server_info_node *owner = find_node(info, owner_of(info, shard));
    ASSERT(owner != NULL);
    unsigned replicas = 0;
    for (unsigned i = 0; i < info->n_nodes; i++) {
        replicas += info->nodes[i].connected && &info->nodes[i] != owner;
    }
    resp_write_array(out, 1);
    resp_write_array(out, 3 + (size_t)replicas);
    resp_write_integer(out, 0);
    resp_write_integer(out, SLOT_COUNT - 1);
    write_slots_node(out, info, owner, version);
    for (unsigned i = 0; i < info->n_nodes; i++) {
        if (info->nodes[i].connected && &info->nodes[i] != owner) {
            write_slots_node(out, info, &info->nodes[i], version);
        }
    }
}

/* An index of the log: what this node has applied; of the others what is known to be committed. */
static uint64_t offset_of(const struct server_info *info, unsigned shard, uint32_t node) {
    const struct server_info_shard *state = &info->shards[shard];
    return node == info->node_id ? state->applied : state->commit;
}

static void write_shards_node(struct buffer *out, const struct server_info *info, unsigned shard,
                              const struct server_info_node *node, int version) {
    resp_write_map(out, 7, version);
    write_text(out, "id");
    write_node_id(out, info, node->id);
    write_text(out, "port");
    resp_write_integer(out, node->port);
    write_text(out, "ip");
    write_text(out, node->host);
    write_text(out, "endpoint");
    write_text(out, node->host);
    write_text(out, "role");
    write_text(out, node->id == owner_of(info, shard) ? "master" : "replica");
    write_text(out, "replication-offset");
    resp_write_integer(out, (int64_t)offset_of(info, shard, node->id));
    write_text(out, "health");
    write_text(out, node->connected ? "online" : "fail");
}

void topology_write_shards(struct buffer *out, const struct server_info *info, unsigned shard,
                           int version) {
    uint32_t owner = owner_of(info, shard);
    resp_write_array(out, 1);
    resp_write_map(out, 2, version);
    write_text(out, "slots");
    resp_write_array(out, 2);
    resp_write_integer(out, 0);
    resp_write_integer(out, SLOT_COUNT - 1);
    write_text(out, "nodes");
    resp_write_array(out, info->n_nodes);
    const struct server_info_node *first = find_node(info, owner);
    ASSERT(first != NULL);
    write_shards_node(out, info, shard, first, version);
    for (unsigned i = 0; i < info->n_nodes; i++) {
        if (&info->nodes[i] != first) {
            write_shards_node(out, info, shard, &info->nodes[i], version);
        }
    }
}

void topology_write_map(struct buffer *out, const struct server_info *info, int version) {
    resp_write_map(out, 5, version);
    write_text(out, "cluster");
    write_text(out, info->cluster);
    write_text(out, "self");
    resp_write_integer(out, info->node_id);
    write_text(out, "shards");
    resp_write_integer(out, info->n_shards);
    write_text(out, "nodes");
    resp_write_array(out, info->n_nodes);
    for (unsigned i = 0; i < info->n_nodes; i++) {
        const struct server_info_node *node = &info->nodes[i];
        resp_write_array(out, 4);
        resp_write_integer(out, node->id);
        write_text(out, node->host);
        resp_write_integer(out, node->port);
        resp_write_integer(out, node->connected);
    }
    write_text(out, "leaders");
    resp_write_array(out, info->n_shards);
    for (unsigned shard = 0; shard < info->n_shards; shard++) {
        resp_write_integer(out, topology_leader(info, shard));
    }
}

/* ---- text ---- */

__attribute__((format(printf, 2, 3))) static void put(struct buffer *out, const char *format, ...) {
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    ASSERT(size >= 0 && (size_t)size < sizeof line);
    buffer_append(out, line, (size_t)size);
}

/* id host:port@peer-port flags master ping-sent pong-received epoch link-state slots */
static void write_nodes_line(struct buffer *out, const struct server_info *info, unsigned shard,
                             const struct server_info_node *node) {
    uint32_t owner = owner_of(info, shard);
    char id[TOPOLOGY_NODE_ID_SIZE + 1];
    char master[TOPOLOGY_NODE_ID_SIZE + 1] = "-";
    topology_node_id(info->cluster, node->id, id);
    if (node->id != owner) {
        topology_node_id(info->cluster, owner, master);
    }
    put(out, "%s %s:%u@%u ", id, node->host, node->port, node->peer_port);
    put(out, "%s%s%s %s 0 0 %" PRIu64 " %s", node->id == info->node_id ? "myself," : "",
        node->id == owner ? "master" : "slave", node->connected ? "" : ",fail?", master,
        info->shards[shard].term, node->connected ? "connected" : "disconnected");
    put(out, "%s\n", node->id == owner ? " 0-16383" : "");
}

void topology_write_nodes(struct buffer *out, const struct server_info *info, unsigned shard) {
    for (unsigned i = 0; i < info->n_nodes; i++) {
        write_nodes_line(out, info, shard, &info->nodes[i]);
    }
}

void topology_write_info(struct buffer *out, const struct server_info *info, unsigned shard) {
    bool ok = topology_leader(info, shard) != 0;
    uint64_t term = info->shards[shard].term;
    put(out, "cluster_enabled:1\r\ncluster_state:%s\r\n", ok ? "ok" : "fail");
    put(out, "cluster_slots_assigned:%d\r\ncluster_slots_ok:%d\r\n", SLOT_COUNT,
        ok ? SLOT_COUNT : 0);
    put(out, "cluster_slots_pfail:%d\r\ncluster_slots_fail:0\r\n", ok ? 0 : SLOT_COUNT);
    put(out, "cluster_known_nodes:%u\r\ncluster_size:1\r\n", info->n_nodes);
    put(out, "cluster_current_epoch:%" PRIu64 "\r\ncluster_my_epoch:%" PRIu64 "\r\n", term, term);
    /* Nodes do not gossip; clients that show these expect them to be there. */
    put(out, "cluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0\r\n");
    put(out, "total_cluster_links_buffer_limit_exceeded:0\r\n");
}
