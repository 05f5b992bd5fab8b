/* Carries out what node/membership.h decides, for the groups that this node leads, and the replace
 * procedure for a node that lost its disk. */
#include <stdio.h>
#include <string.h>

#include "node/forward.h"
#include "node/logging.h"
#include "node/membership.h"
#include "node/server_internal.h"

enum {
    REPLACE_LASTS_MS = 60000, /* then what was not done by it is given up */
    REPLACE_TOLD_MS = 20000,  /* the command is repeated to the others for so long ... */
    REPLACE_TELL_MS = 1000,   /* ... and after each of these intervals: a link may be dead unseen */
    CAUGHT_UP_ENTRIES = 64
};

static_assert(LIMIT_SHARDS <= 64, "replace_out and replace_pending have a bit per shard");

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
    return match > 0 && match + CAUGHT_UP_ENTRIES >= group_commit(context->group);
}

/* --- changing a group ------------------------------------------------------------------------- */

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
        const struct config_node *node = config_find_node(server->config, (uint32_t)id);
        config_format_address(&node->peer, address, sizeof address);
        servers[n++] = (struct group_server){.id = id, .address = address, .voter = false};
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
                                   .n_wanted = server->config->n_nodes,
                                   .self = server->config->node_id,
                                   .is_connected = is_connected,
                                   .is_caught_up = is_caught_up,
                                   .data = &context};
    for (unsigned i = 0; i < view.n_members; i++) {
        members[i] = (struct member){.id = servers[i].id, .voter = servers[i].voter};
    }
    for (unsigned i = 0; i < view.n_wanted; i++) {
        wanted[i] = server->config->nodes[i].id;
    }
    if (server->replace_pending >> shard & 1) {
        view.replace = server->replace_node;
    }
    uint64_t id = 0;
    enum membership_step step = membership_next(&view, &id);
    if (step == MEMBERSHIP_UNSAFE) {
        say_warn("cannot take a node out: another voter is not connected", "shard=%u node=%llu",
                 shard, (unsigned long long)id);
        return;
    }
    propose(server, shard, step, id, now_ms);
}

/* --- replacing a node ------------------------------------------------------------------------- */

enum presence { ABSENT, STANDBY, VOTER };

static enum presence presence_of(const struct group *group, uint64_t id) {
    struct group_server servers[LIMIT_NODES];
    unsigned n = group_servers(group, servers);
    for (unsigned i = 0; i < n; i++) {
        if (servers[i].id == id) {
            return servers[i].voter ? VOTER : STANDBY;
        }
    }
    return ABSENT;
}

static uint64_t all_shards(const struct server *server) {
    unsigned n = server->config->shards;
    return n == 64 ? UINT64_MAX : ((uint64_t)1 << n) - 1;
}

/* Whatever the node promised under its old directory is void now: a new one may come. False when
 * that could not be written down. */
static bool let_new_directory_in(struct server *server, uint64_t node) {
    struct error error = {0};
    if (known_peers_forget(&server->known_peers, node, &error) != ERROR_NONE) {
        say_error("cannot forget a replaced node", "reason=%s", error.message);
        return false;
    }
    say_info("ready for the replaced node", "node=%llu", (unsigned long long)node);
    return true;
}

/* What others have not heard of yet is only that the node is out. To take it out once more would
 * hit its new self. */
static void tell_done_from_now_on(struct server *server, uint64_t node) {
    if (server->replace_tell_node != node) {
        return;
    }
    server->replace_tell_done = true;
    if (server->replace_tell_incarnation == 0) {
        server->replace_tell_node = 0;
    }
}

static void watch_replace(struct server *server, uint64_t now_ms) {
    if (server->replace_node == 0) {
        return;
    }
    for (unsigned i = 0; i < server->config->shards; i++) {
        const struct group *group = server->groups[i];
        uint64_t bit = (uint64_t)1 << i;
        enum presence presence = presence_of(group, server->replace_node);
        bool committed = !group_is_changing(group);
        /* A leader takes a standby out as well: it knows how much log the former self had. */
        bool leads = group_role(group) == GROUP_LEADER;
        if (committed && (presence == ABSENT || (presence == STANDBY && !leads))) {
            server->replace_pending &= ~bit;
            server->replace_out |= bit;
        }
    }
    if (server->replace_out == all_shards(server)) {
        if (let_new_directory_in(server, server->replace_node)) {
            tell_done_from_now_on(server, server->replace_node);
            server->replace_node = 0;
        }
    } else if (now_ms >= server->replace_until_ms) {
        say_warn("replacing a node took too long; give the command again", "node=%llu",
                 (unsigned long long)server->replace_node);
        server->replace_node = 0;
        server->replace_pending = 0;
    }
}

static void begin_replace(struct server *server, uint64_t node) {
    say_info("replacing a node", "node=%llu", (unsigned long long)node);
    server->replace_node = node;
    server->replace_until_ms = server_now(server) + REPLACE_LASTS_MS;
    server->replace_pending = all_shards(server);
    server->replace_out = 0;
}

static void tell_replace(struct server *server) {
    const struct config *config = server->config;
    struct buffer header = {0};
    buffer_put_u64(&header, server->replace_tell_node);
    buffer_put_u64(&header, server->replace_number);
    buffer_put_u64(&header, server->replace_tell_incarnation);
    buffer_put_u8(&header, server->replace_tell_done ? 1 : 0);
    struct peer_message message = {.type = PEER_MESSAGE_REPLACE, .header = buffer_slice(&header)};
    for (unsigned i = 0; i < config->n_nodes; i++) {
        if (config->nodes[i].id != config->node_id) {
            (void)peers_send(server->peers, config->nodes[i].id, PEER_LANE_NORMAL, &message);
        }
    }
    buffer_free(&header);
    server->replace_told_ms = server_now(server);
}

/* The command was given here: tells it again to those whom it has not reached. */
static void repeat_replace(struct server *server, uint64_t now_ms) {
    if (server->replace_tell_node == 0 || now_ms < server->replace_told_ms + REPLACE_TELL_MS) {
        return;
    }
    if (now_ms < server->replace_tell_until_ms) {
        tell_replace(server);
    } else {
        server->replace_tell_node = 0;
    }
}

enum error_code server_replace(struct server *server, uint64_t node, struct error *error) {
    const struct config *config = server->config;
    if (node == config->node_id) {
        return error_set(error, ERROR_INVALID,
                         "this is node %llu itself: give the command to another node",
                         (unsigned long long)node);
    }
    if (config_find_node(config, (uint32_t)node) == NULL || node > UINT32_MAX) {
        return error_set(error, ERROR_INVALID, "no node %llu in this cluster's configuration",
                         (unsigned long long)node);
    }
    if (config->n_nodes < 3) {
        return error_set(error, ERROR_INVALID,
                         "a node can be replaced in a cluster of three or more only");
    }
    for (unsigned i = 0; i < config->n_nodes; i++) {
        uint64_t id = config->nodes[i].id;
        if (id != config->node_id && id != node && !peers_is_up(server->peers, id)) {
            return error_set(error, ERROR_INVALID,
                             "node %llu is not connected: all other nodes must be up to take node "
                             "%llu out safely",
                             (unsigned long long)id, (unsigned long long)node);
        }
    }
    server->replace_number =
        server->identity.incarnation + (server->identity.boot << 32) + ++server->replace_commands;
    server->replace_tell_node = node;
    server->replace_tell_incarnation = 0;
    (void)known_peers_get(&server->known_peers, node, &server->replace_tell_incarnation);
    server->replace_tell_done = false;
    server->replace_tell_until_ms = server_now(server) + REPLACE_TOLD_MS;
    tell_replace(server);
    begin_replace(server, node);
    return ERROR_NONE;
}

/* All shards have taken the node out, as somebody saw who took part. */
static void receive_replace_done(struct server *server, uint64_t node, uint64_t incarnation) {
    uint64_t known = 0;
    if (!known_peers_get(&server->known_peers, node, &known) || known != incarnation ||
        !let_new_directory_in(server, node)) {
        return;
    }
    if (server->replace_node == node) {
        server->replace_node = 0;
        server->replace_pending = 0;
    }
}

void server_receive_replace(struct server *server, uint64_t from,
                            const struct peer_message *message) {
    struct reader reader = reader_make(message->header);
    uint64_t node = reader_u64(&reader);
    uint64_t number = reader_u64(&reader);
    uint64_t incarnation = reader_u64(&reader);
    uint8_t done = reader_u8(&reader);
    if (!reader_done(&reader) || done > 1 || node == from || node == server->config->node_id ||
        node > UINT32_MAX || config_find_node(server->config, (uint32_t)node) == NULL) {
        return;
    }
    if (done == 1) {
        receive_replace_done(server, node, incarnation);
        return;
    }
    if (number == server->replace_number) {
        return;
    }
    server->replace_number = number;
    server->replace_tell_node = 0; /* a newer command takes the place of one given here */
    begin_replace(server, node);
}

void server_tend_members(struct server *server, uint64_t now_ms) {
    repeat_replace(server, now_ms);
    watch_replace(server, now_ms);
    for (unsigned i = 0; i < server->config->shards; i++) {
        tend_group(server, i, now_ms);
    }
}
