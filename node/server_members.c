/* Carries out what node/membership.h decides, for the groups that this node leads, and tells who is
 * a member. */
#include <stdio.h>
#include <string.h>

#include "base/resp.h"
#include "node/logging.h"
#include "node/membership.h"
#include "node/release.h"
#include "node/server_internal.h"

enum {
    CAUGHT_UP_ENTRIES = 64,
    SAY_MS = 5000 /* between two lines about a step that cannot be taken */
};

struct view_context {
    struct server *server;
    struct group *group;
};

static bool is_connected(void *data, uint64_t id) {
    const struct view_context *context = data;
    return peers_is_up(context->server->peers, id);
}

static bool is_caught_up(void *data, uint64_t id) {
    const struct view_context *context = data;
    uint64_t match = group_match(context->group, id);
    return match > 0 && match + CAUGHT_UP_ENTRIES >= group_commit(context->group) &&
           !group_peer_is_newcomer(context->group, id);
}

enum server_presence server_presence_of(const struct group *group, uint64_t id) {
    struct group_server servers[LIMIT_NODES];
    unsigned n = group_servers(group, servers);
    for (unsigned i = 0; i < n; i++) {
        if (servers[i].id == id) {
            return servers[i].voter ? VOTER : STANDBY;
        }
    }
    return ABSENT;
}

/* A leader knows how much log a standby's former self had, and counts on it; unless it had none. */
bool server_may_forget(const struct server *server, uint64_t node) {
    for (unsigned i = 0; i < server->config->shards && server->started; i++) {
        const struct group *group = server->groups[i];
        enum server_presence presence = server_presence_of(group, node);
        bool leads = group_role(group) == GROUP_LEADER;
        bool counts =
            presence == VOTER || (presence == STANDBY && leads && group_match(group, node) > 0);
        if (group_is_changing(group) || counts) {
            return false;
        }
    }
    return server->started;
}

/* --- changing a group ------------------------------------------------------------------------- */

static bool may_say(struct server *server, uint64_t now_ms) {
    if (now_ms < server->orders.said_ms + SAY_MS) {
        return false;
    }
    server->orders.said_ms = now_ms;
    return true;
}

/* The address is told for people: nodes are found by their ids. */
static bool add_server(struct server *server, struct group_server *to, uint64_t id, char *address,
                       size_t address_size, uint64_t now_ms) {
    const struct config_node *node = config_find_node(server->config, (uint32_t)id);
    if (node == NULL) {
        if (may_say(server, now_ms)) {
            say_warn("cannot add a node: it has no `node` line here; write one and send SIGHUP",
                     "node=%llu", (unsigned long long)id);
        }
        return false;
    }
    config_format_address(&node->peer, address, address_size);
    *to = (struct group_server){.id = id, .address = address, .voter = false};
    return true;
}

static void propose(struct server *server, unsigned shard, enum membership_step step, uint64_t id,
                    uint64_t now_ms) {
    struct group_server servers[LIMIT_NODES];
    char address[CONFIG_HOST_SIZE + 8];
    const char *what = "";
    unsigned n = group_servers(server->groups[shard], servers);
    unsigned at = 0;
    while (at < n && servers[at].id != id) {
        at++;
    }
    if (step == MEMBERSHIP_REMOVE && at < n) {
        memmove(&servers[at], &servers[at + 1], (n - at - 1) * sizeof servers[0]);
        n--;
        what = "takes a node out of the shard";
    } else if (step == MEMBERSHIP_ADD && at == n && n < LIMIT_NODES) {
        if (!add_server(server, &servers[n], id, address, sizeof address, now_ms)) {
            return;
        }
        n++;
        what = "adds a node to the shard as a standby";
    } else if (step == MEMBERSHIP_PROMOTE && at < n) {
        servers[at].voter = true;
        what = "makes a standby of the shard a voter";
    } else {
        return;
    }
    struct payload *config = group_encode_config(servers, n);
    if (group_change(server->groups[shard], now_ms, config)) {
        say_info(what, "shard=%u node=%llu", shard, (unsigned long long)id);
    }
    payload_unref(config);
}

/* --- who should be a member ------------------------------------------------------------------- */

static unsigned member_ids(const struct group *group, uint64_t ids[LIMIT_NODES]) {
    struct group_server servers[LIMIT_NODES];
    unsigned n = group_servers(group, servers);
    for (unsigned i = 0; i < n; i++) {
        ids[i] = servers[i].id;
    }
    return n;
}

/* What this node holds of shard 0 is no older than an election or two. */
static bool root_is_fresh(const struct server *server, uint64_t now_ms) {
    const struct group *root = server->groups[0];
    struct group_contact contact;
    return !group_is_changing(root) && group_contact(root, &contact) &&
           now_ms <= contact.at_ms + 2 * server->config->election_ms;
}

static void drop_id(uint64_t ids[LIMIT_NODES], unsigned *n, uint64_t id) {
    for (unsigned i = 0; i < *n; i++) {
        if (ids[i] == id) {
            ids[i] = ids[--*n];
            return;
        }
    }
}

static bool has_id(const uint64_t *ids, unsigned n, uint64_t id) {
    for (unsigned i = 0; i < n; i++) {
        if (ids[i] == id) {
            return true;
        }
    }
    return false;
}

/* An order comes before what shard 0 says, since a node that is being taken out may not hear of the
 * changes there. */
static unsigned wanted_members(const struct server *server, unsigned shard, uint64_t now_ms,
                               uint64_t ids[LIMIT_NODES]) {
    const struct server_orders *orders = &server->orders;
    const struct group *group = server->groups[shard];
    bool follows = shard != 0 && root_is_fresh(server, now_ms);
    unsigned n = member_ids(follows ? server->groups[0] : group, ids);
    bool present = server_presence_of(group, orders->node) != ABSENT;
    bool was_out = (orders->out >> shard & 1) != 0;
    bool takes_out =
        orders->kind == CLUSTER_REMOVE || (orders->kind == CLUSTER_REPLACE && !orders->brings_in);
    bool brings_in =
        orders->kind == CLUSTER_ADD || (orders->kind == CLUSTER_REPLACE && orders->brings_in);
    if (takes_out && (orders->kind == CLUSTER_REMOVE || !was_out || !present)) {
        drop_id(ids, &n, orders->node);
    }
    /* A node that never was there has to be there to be added. */
    bool reachable = orders->kind == CLUSTER_REPLACE || peers_is_up(server->peers, orders->node);
    if (brings_in && shard == 0 && !has_id(ids, n, orders->node) && n < LIMIT_NODES && reachable) {
        ids[n++] = orders->node;
    }
    return n;
}

static void tend_group(struct server *server, unsigned shard, uint64_t now_ms) {
    struct group *group = server->groups[shard];
    struct group_server servers[LIMIT_NODES];
    struct member members[LIMIT_NODES];
    uint64_t wanted[LIMIT_NODES];
    struct view_context context = {.server = server, .group = group};
    if (!shard_is_ready(&server->shards[shard]) || group_is_changing(group) ||
        group_is_transferring(group)) {
        return;
    }
    struct membership_view view = {.members = members,
                                   .n_members = group_servers(group, servers),
                                   .wanted = wanted,
                                   .n_wanted = wanted_members(server, shard, now_ms, wanted),
                                   .self = server->config->node_id,
                                   .is_connected = is_connected,
                                   .is_caught_up = is_caught_up,
                                   .data = &context};
    for (unsigned i = 0; i < view.n_members; i++) {
        members[i] = (struct member){.id = servers[i].id, .voter = servers[i].voter};
    }
    uint64_t id = 0;
    switch (membership_next(&view, &id)) {
    case MEMBERSHIP_NONE:
        return;
    case MEMBERSHIP_UNSAFE:
        if (may_say(server, now_ms)) {
            say_warn("cannot take a node out: a voter that stays is not connected or far behind",
                     "shard=%u node=%llu", shard, (unsigned long long)id);
        }
        return;
    case MEMBERSHIP_HAND_OVER:
        if (group_transfer(group, now_ms, 0)) {
            say_info("hands leadership over before it is taken out", "shard=%u", shard);
        }
        return;
    case MEMBERSHIP_REMOVE:
        propose(server, shard, MEMBERSHIP_REMOVE, id, now_ms);
        return;
    case MEMBERSHIP_ADD:
        propose(server, shard, MEMBERSHIP_ADD, id, now_ms);
        return;
    case MEMBERSHIP_PROMOTE:
        propose(server, shard, MEMBERSHIP_PROMOTE, id, now_ms);
        return;
    }
}

void server_tend_members(struct server *server, uint64_t now_ms) {
    server_tend_orders(server, now_ms);
    for (unsigned i = 0; i < server->config->shards; i++) {
        if (group_role(server->groups[i]) == GROUP_LEADER) {
            tend_group(server, i, now_ms);
        }
    }
}

/* --- telling ---------------------------------------------------------------------------------- */

static void write_text(struct buffer *out, const char *text) {
    resp_write_bulk(out, slice_of(text));
}

static void write_number(struct buffer *out, const char *name, uint64_t number) {
    write_text(out, name);
    resp_write_integer(out, (int64_t)number);
}

static void write_order(const struct server *server, struct buffer *out) {
    static const char *const words[] = {
        [CLUSTER_ADD] = "add", [CLUSTER_REMOVE] = "remove", [CLUSTER_REPLACE] = "replace"};
    const struct server_orders *orders = &server->orders;
    char text[48] = "";
    if (orders->kind != CLUSTER_ORDER_NONE) {
        snprintf(text, sizeof text, "%s %llu", words[orders->kind],
                 (unsigned long long)orders->node);
    }
    write_text(out, "order");
    write_text(out, text);
}

static void write_node(const struct server *server, const struct config_node *node,
                       struct buffer *out, int version) {
    const struct server_peer *seen = server_seen(server, node->id);
    bool is_self = node->id == server->config->node_id;
    char address[CONFIG_HOST_SIZE + 8];
    resp_write_map(out, 6, version);
    write_number(out, "id", node->id);
    config_format_address(&node->client, address, sizeof address);
    write_text(out, "client");
    write_text(out, address);
    config_format_address(&node->peer, address, sizeof address);
    write_text(out, "peer");
    write_text(out, address);
    write_number(out, "connected", is_self || peers_is_up(server->peers, node->id));
    write_text(out, "release");
    write_text(out, is_self ? release_name() : seen != NULL ? seen->release : "");
    write_number(out, "blank",
                 is_self ? server->identity.cluster_id == 0
                         : seen != NULL && seen->cluster_id == 0);
}

static void write_shard(const struct server *server, unsigned shard, struct buffer *out,
                        int version) {
    const struct group *group = server->groups[shard];
    struct group_server servers[LIMIT_NODES];
    unsigned n = group_servers(group, servers);
    bool leads = group_role(group) == GROUP_LEADER;
    resp_write_map(out, 7, version);
    write_number(out, "shard", shard);
    write_number(out, "leader", group_leader(group));
    write_number(out, "term", group_term(group));
    write_number(out, "commit", group_commit(group));
    write_number(out, "applied", server->shards[shard].state.applied_index);
    write_number(out, "changing", group_is_changing(group));
    write_text(out, "members");
    resp_write_array(out, n);
    for (unsigned i = 0; i < n; i++) {
        uint64_t match = servers[i].id == server->config->node_id ? group_last(group)
                         : leads ? group_match(group, servers[i].id)
                                 : 0;
        resp_write_map(out, 3, version);
        write_number(out, "id", servers[i].id);
        write_number(out, "voter", servers[i].voter);
        write_number(out, "match", match);
    }
}

/* The lowest level of the members, as far as this node has met them. */
static uint32_t common_level(const struct server *server) {
    uint32_t level = release_level();
    for (unsigned i = 0; i < server->n_seen; i++) {
        const struct server_peer *seen = &server->seen[i];
        bool member = server_presence_of(server->groups[0], seen->node) != ABSENT;
        level = member && seen->level < level ? seen->level : level;
    }
    return level;
}

void server_write_members(void *data, struct buffer *out, int version) {
    const struct server *server = data;
    const struct config *config = server->config;
    char id[17];
    snprintf(id, sizeof id, "%016llx", (unsigned long long)server->identity.cluster_id);
    resp_write_map(out, 9, version);
    write_number(out, "level", common_level(server));
    write_text(out, "cluster");
    write_text(out, config->cluster);
    write_text(out, "cluster_id");
    write_text(out, id);
    write_number(out, "self", config->node_id);
    write_number(out, "started", server->started);
    write_number(out, "digest_mismatches", server->digest_mismatches);
    write_order(server, out);
    write_text(out, "nodes");
    resp_write_array(out, config->n_nodes);
    for (unsigned i = 0; i < config->n_nodes; i++) {
        write_node(server, &config->nodes[i], out, version);
    }
    write_text(out, "shards");
    resp_write_array(out, server->started ? config->shards : 0);
    for (unsigned i = 0; i < config->shards && server->started; i++) {
        write_shard(server, i, out, version);
    }
}
