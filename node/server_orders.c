/* What operators want to become of the cluster: nodes are added, removed and replaced, leaderships
 * moved. An order is told to all nodes, so that whoever leads a shard acts on it, also after a
 * change of leader; once shard 0's group has changed, its configuration is what remembers it. An
 * order lasts a minute: what was not done by then is given up, and giving it again is harmless. */
#include <string.h>

#include "node/forward.h"
#include "node/logging.h"
#include "node/server_internal.h"

enum {
    ORDER_LASTS_MS = 60000, /* then what was not done by it is given up */
    ORDER_TOLD_MS = 20000,  /* the order is repeated to the others for so long ... */
    ORDER_TELL_MS = 1000,   /* ... and after each of these intervals: a link may be dead unseen */
    PAUSE_MS = 600000,      /* after CLUSTER TRANSFER leaderships stay where they are */
    BALANCE_MS = 30000      /* after CLUSTER REBALANCE they are handed back for so long */
};

static_assert(LIMIT_SHARDS <= 64, "server_orders.out has a bit per shard");

static const char *word_of(enum cluster_order kind) {
    static const char *const words[] = {
        [CLUSTER_ADD] = "added", [CLUSTER_REMOVE] = "removed", [CLUSTER_REPLACE] = "replaced"};
    return words[kind];
}

static uint64_t all_shards(const struct server *server) {
    unsigned n = server->config->shards;
    return n == 64 ? UINT64_MAX : ((uint64_t)1 << n) - 1;
}

/* --- following an order ----------------------------------------------------------------------- */

static void end_order(struct server *server, const char *what) {
    struct server_orders *orders = &server->orders;
    say_info(what, "node=%llu", (unsigned long long)orders->node);
    orders->kind = CLUSTER_ORDER_NONE;
    if (!orders->tells_done) {
        orders->tells = CLUSTER_ORDER_NONE;
    }
}

/* Whatever the node promised under its old directory is void now. */
static bool forget(struct server *server, uint64_t node) {
    struct error error = {0};
    if (known_peers_forget(&server->known_peers, node, &error) == ERROR_NONE) {
        return true;
    }
    say_error("cannot forget a node", "reason=%s", error.message);
    return false;
}

/* The node is out of all shards. What others have not heard of yet is only that: to take it out
 * once more would hit its new self. */
static void bring_in(struct server *server) {
    struct server_orders *orders = &server->orders;
    orders->brings_in = true;
    orders->until_ms = server_now(server) + ORDER_LASTS_MS;
    if (orders->tells == CLUSTER_REPLACE && orders->tells_node == orders->node) {
        orders->tells_done = true;
        orders->tells = orders->tells_incarnation != 0 ? CLUSTER_REPLACE : CLUSTER_ORDER_NONE;
    }
    say_info("ready for the replaced node", "node=%llu", (unsigned long long)orders->node);
}

static void watch_leaving(struct server *server) {
    struct server_orders *orders = &server->orders;
    for (unsigned i = 0; i < server->config->shards; i++) {
        const struct group *group = server->groups[i];
        enum server_presence presence = server_presence_of(group, orders->node);
        /* A leader takes a standby out as well: it knows how much log the former self had. */
        bool leads = group_role(group) == GROUP_LEADER;
        bool gone = presence == ABSENT ||
                    (orders->kind == CLUSTER_REPLACE && presence == STANDBY && !leads);
        if (!group_is_changing(group) && gone) {
            orders->out |= (uint64_t)1 << i;
        }
    }
    if (orders->out != all_shards(server) || !forget(server, orders->node)) {
        return;
    }
    if (orders->kind == CLUSTER_REMOVE) {
        end_order(server, "a node was removed");
        return;
    }
    bring_in(server);
}

static void watch_coming(struct server *server) {
    const struct group *root = server->groups[0];
    if (!group_is_changing(root) && server_presence_of(root, server->orders.node) != ABSENT) {
        end_order(server, "a node is a member of the cluster");
    }
}

static void watch_order(struct server *server, uint64_t now_ms) {
    struct server_orders *orders = &server->orders;
    if (orders->kind == CLUSTER_REMOVE || (orders->kind == CLUSTER_REPLACE && !orders->brings_in)) {
        watch_leaving(server);
    } else if (orders->kind != CLUSTER_ORDER_NONE) {
        watch_coming(server);
    }
    if (orders->kind != CLUSTER_ORDER_NONE && now_ms >= orders->until_ms) {
        say_warn("this took too long and is given up; give the command again", "node=%llu to_be=%s",
                 (unsigned long long)orders->node, word_of(orders->kind));
        orders->kind = CLUSTER_ORDER_NONE;
    }
}

/* --- telling ---------------------------------------------------------------------------------- */

static void tell(struct server *server, enum cluster_order kind, uint64_t node, uint64_t number) {
    const struct config *config = server->config;
    struct buffer header = {0};
    buffer_put_u64(&header, node);
    buffer_put_u64(&header, number);
    buffer_put_u8(&header, (uint8_t)kind);
    buffer_put_u64(&header, server->orders.tells_incarnation);
    buffer_put_u8(&header, kind == CLUSTER_REPLACE && server->orders.tells_done);
    struct peer_message message = {.type = PEER_MESSAGE_ORDER, .header = buffer_slice(&header)};
    for (unsigned i = 0; i < config->n_nodes; i++) {
        if (config->nodes[i].id != config->node_id) {
            (void)peers_send(server->peers, config->nodes[i].id, PEER_LANE_NORMAL, &message);
        }
    }
    buffer_free(&header);
}

/* The order was given here: tells it again to those whom it has not reached. */
static void repeat(struct server *server, uint64_t now_ms) {
    struct server_orders *orders = &server->orders;
    if (orders->tells == CLUSTER_ORDER_NONE || now_ms < orders->told_ms + ORDER_TELL_MS) {
        return;
    }
    if (now_ms < orders->tells_until_ms) {
        tell(server, orders->tells, orders->tells_node, orders->number);
        orders->told_ms = now_ms;
    } else {
        orders->tells = CLUSTER_ORDER_NONE;
    }
}

static void begin(struct server *server, enum cluster_order kind, uint64_t node) {
    struct server_orders *orders = &server->orders;
    uint64_t now_ms = server_now(server);
    if (kind == CLUSTER_TRANSFER) {
        orders->balance_after_ms = now_ms + PAUSE_MS;
        orders->balance_until_ms = 0;
        return;
    }
    if (kind == CLUSTER_REBALANCE) {
        orders->balance_after_ms = 0;
        orders->balance_until_ms = now_ms + BALANCE_MS;
        return;
    }
    say_info("an operator's order", "node=%llu to_be=%s", (unsigned long long)node, word_of(kind));
    orders->kind = kind;
    orders->node = node;
    orders->until_ms = now_ms + ORDER_LASTS_MS;
    orders->out = 0;
    orders->brings_in = false;
}

/* --- giving an order -------------------------------------------------------------------------- */

static bool is_member(const struct server *server, uint64_t node) {
    for (unsigned i = 0; i < server->config->shards; i++) {
        if (server_presence_of(server->groups[i], node) != ABSENT) {
            return true;
        }
    }
    return false;
}

/* All other members have to be there to take a node out safely. */
static enum error_code check_leaving(const struct server *server, uint64_t node,
                                     struct error *error) {
    struct group_server servers[LIMIT_NODES];
    unsigned n = group_servers(server->groups[0], servers);
    unsigned stay = 0;
    for (unsigned i = 0; i < n; i++) {
        uint64_t id = servers[i].id;
        stay += id != node && servers[i].voter;
        if (id != server->config->node_id && id != node && !peers_is_up(server->peers, id)) {
            return error_set(error, ERROR_INVALID,
                             "node %llu is not connected: all other nodes must be up to take node "
                             "%llu out safely",
                             (unsigned long long)id, (unsigned long long)node);
        }
    }
    return stay > 0 ? ERROR_NONE
                    : error_set(error, ERROR_INVALID, "node %llu is the last voter",
                                (unsigned long long)node);
}

static enum error_code check_add(const struct server *server, uint64_t node, struct error *error) {
    const struct server_peer *seen = server_seen(server, node);
    if (is_member(server, node)) {
        return ERROR_NONE;
    }
    if (!peers_is_up(server->peers, node)) {
        return error_set(error, ERROR_INVALID,
                         "node %llu is not connected: start it with an empty data directory and "
                         "join = yes, and look into its log",
                         (unsigned long long)node);
    }
    if (seen != NULL && seen->cluster_id != 0 && seen->cluster_id != server->identity.cluster_id) {
        return error_set(error, ERROR_MISMATCH, "node %llu belongs to another cluster",
                         (unsigned long long)node);
    }
    return ERROR_NONE;
}

static enum error_code check_order(const struct server *server, enum cluster_order kind,
                                   uint64_t node, struct error *error) {
    const struct config *config = server->config;
    const struct server_orders *orders = &server->orders;
    if (!server->started) {
        return error_set(error, ERROR_INVALID, "this node has not joined the cluster yet");
    }
    if (kind == CLUSTER_REBALANCE) {
        return ERROR_NONE;
    }
    if (node == config->node_id) {
        return error_set(error, ERROR_INVALID,
                         "this is node %llu itself: give the command to another node",
                         (unsigned long long)node);
    }
    bool known = node <= UINT32_MAX && config_find_node(config, (uint32_t)node) != NULL;
    if (!known && !(kind == CLUSTER_REMOVE && is_member(server, node))) {
        return error_set(error, ERROR_INVALID,
                         "no node %llu in this cluster's configuration: write its `node` line into "
                         "every node's file and send SIGHUP",
                         (unsigned long long)node);
    }
    if (orders->kind != CLUSTER_ORDER_NONE && orders->node != node) {
        return error_set(error, ERROR_BUSY,
                         "node %llu is being %s; one change at a time: try again in a minute",
                         (unsigned long long)orders->node, word_of(orders->kind));
    }
    if (kind == CLUSTER_ADD) {
        return check_add(server, node, error);
    }
    if (kind == CLUSTER_REPLACE && config->n_nodes < 3) {
        return error_set(error, ERROR_INVALID,
                         "a node can be replaced in a cluster of three or more only");
    }
    return check_leaving(server, node, error);
}

enum error_code server_order(struct server *server, enum cluster_order kind, uint64_t node,
                             struct error *error) {
    struct server_orders *orders = &server->orders;
    watch_order(server, server_now(server)); /* the one before may just have been done */
    enum error_code code = check_order(server, kind, node, error);
    if (code != ERROR_NONE) {
        return code;
    }
    uint64_t number =
        server->identity.incarnation + (server->identity.boot << 32) + ++orders->given;
    if (kind == CLUSTER_REBALANCE) {
        tell(server, kind, node, number);
        begin(server, kind, node);
        return ERROR_NONE;
    }
    orders->tells_incarnation = 0;
    (void)known_peers_get(&server->known_peers, node, &orders->tells_incarnation);
    orders->tells_done = false;
    tell(server, kind, node, number);
    begin(server, kind, node);
    orders->number = number;
    orders->tells = kind;
    orders->tells_node = node;
    orders->told_ms = server_now(server);
    orders->tells_until_ms = orders->told_ms + ORDER_TOLD_MS;
    return ERROR_NONE;
}

enum error_code server_replace(struct server *server, uint64_t node, struct error *error) {
    return server_order(server, CLUSTER_REPLACE, node, error);
}

enum error_code server_transfer(struct server *server, unsigned shard, uint64_t node,
                                struct error *error) {
    if (shard >= server->config->shards) {
        return error_set(error, ERROR_INVALID, "no shard %u: there are %u, from 0 on", shard,
                         server->config->shards);
    }
    struct group *group = server->groups[shard];
    uint64_t leader = group_leader(group);
    if (group_role(group) != GROUP_LEADER) {
        return leader == 0 ? error_set(error, ERROR_NOLEADER, "shard %u has no leader now", shard)
                           : error_set(error, ERROR_INVALID,
                                       "node %llu leads shard %u: give the command to it",
                                       (unsigned long long)leader, shard);
    }
    if (node == server->config->node_id) {
        return ERROR_NONE;
    }
    if (node != 0 && server_presence_of(group, node) != VOTER) {
        return error_set(error, ERROR_INVALID, "node %llu does not vote in shard %u",
                         (unsigned long long)node, shard);
    }
    if (!group_transfer(group, server_now(server), node)) {
        return error_set(error, ERROR_BUSY,
                         "shard %u cannot be handed over now: the other node is not connected or "
                         "behind, or a transfer is under way",
                         shard);
    }
    /* Else its preferred node would take it back within seconds. */
    tell(server, CLUSTER_TRANSFER, node, 0);
    begin(server, CLUSTER_TRANSFER, node);
    return ERROR_NONE;
}

void server_note_new_directory(struct server *server, uint64_t node) {
    struct server_orders *orders = &server->orders;
    if (orders->kind == CLUSTER_REPLACE && orders->node == node && !orders->brings_in) {
        orders->out = all_shards(server);
        bring_in(server);
    }
}

/* All shards have taken the node out, as somebody saw who took part. */
static void receive_out(struct server *server, uint64_t node, uint64_t incarnation) {
    struct server_orders *orders = &server->orders;
    uint64_t known = 0;
    bool knows_old = known_peers_get(&server->known_peers, node, &known) && known == incarnation;
    if (knows_old && forget(server, node) && orders->kind == CLUSTER_REPLACE &&
        orders->node == node && !orders->brings_in) {
        bring_in(server);
    }
}

void server_receive_order(struct server *server, uint64_t from,
                          const struct peer_message *message) {
    struct server_orders *orders = &server->orders;
    struct reader reader = reader_make(message->header);
    uint64_t node = reader_u64(&reader);
    uint64_t number = reader_u64(&reader);
    uint8_t kind = reader_u8(&reader);
    uint64_t incarnation = reader_u64(&reader);
    uint8_t done = reader_u8(&reader);
    if (!reader_done(&reader) || kind < CLUSTER_ADD || kind > CLUSTER_REBALANCE || done > 1 ||
        !server->started) {
        return;
    }
    if (done == 1) {
        receive_out(server, node, incarnation);
        return;
    }
    if (kind == CLUSTER_TRANSFER || kind == CLUSTER_REBALANCE) {
        begin(server, (enum cluster_order)kind, node);
        return;
    }
    bool leaves = kind == CLUSTER_REMOVE;
    if (number == orders->number || node == from || node == 0 ||
        (node == server->config->node_id && !leaves)) {
        return;
    }
    orders->number = number;
    orders->tells = CLUSTER_ORDER_NONE; /* a newer order takes the place of one given here */
    begin(server, (enum cluster_order)kind, node);
}

void server_tend_orders(struct server *server, uint64_t now_ms) {
    repeat(server, now_ms);
    watch_order(server, now_ms);
}
