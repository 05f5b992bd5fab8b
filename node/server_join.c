/* How a node becomes part of a cluster: it founds one together with all others, or it waits with an
 * empty log until it is added to one that is there. And who the others are. */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/prng.h"
#include "node/logging.h"
#include "node/server_internal.h"

/* --- the other nodes -------------------------------------------------------------------------- */

unsigned server_peer_addresses(const struct config *config, struct peer_address *addresses) {
    unsigned n = 0;
    for (unsigned i = 0; i < config->n_nodes; i++) {
        const struct config_node *node = &config->nodes[i];
        if (node->id != config->node_id) {
            struct peer_address *to = &addresses[n++];
            *to = (struct peer_address){.id = node->id, .port = node->peer.port};
            snprintf(to->host, sizeof to->host, "%.*s", (int)sizeof to->host - 1, node->peer.host);
        }
    }
    return n;
}

const struct server_peer *server_seen(const struct server *server, uint64_t node) {
    for (unsigned i = 0; i < server->n_seen; i++) {
        if (server->seen[i].node == node) {
            return &server->seen[i];
        }
    }
    return NULL;
}

static void note_seen(struct server *server, uint64_t node, const struct peer_identity *identity) {
    struct server_peer *seen = NULL;
    for (unsigned i = 0; i < server->n_seen && seen == NULL; i++) {
        seen = server->seen[i].node == node ? &server->seen[i] : NULL;
    }
    if (seen == NULL && server->n_seen < LIMIT_NODES) {
        seen = &server->seen[server->n_seen++];
    }
    if (seen != NULL) {
        *seen = (struct server_peer){
            .node = node, .cluster_id = identity->cluster_id, .level = identity->level};
        snprintf(seen->release, sizeof seen->release, "%s", identity->release);
    }
}

/* False when a node that is still a member has no line in `fresh`. */
static bool keeps_members(const struct server *server, const struct config *fresh) {
    for (unsigned i = 0; i < server->config->shards; i++) {
        struct group_server servers[LIMIT_NODES];
        unsigned n = group_servers(server->groups[i], servers);
        for (unsigned k = 0; k < n; k++) {
            if (config_find_node(server->config, (uint32_t)servers[k].id) != NULL &&
                config_find_node(fresh, (uint32_t)servers[k].id) == NULL) {
                say_error("nodes not read again: a node without a line is still a member; take it "
                          "out first (invoke-kv cluster remove)",
                          "node=%llu shard=%u", (unsigned long long)servers[k].id, i);
                return false;
            }
        }
    }
    return true;
}

static void forget_unlisted(struct server *server) {
    for (unsigned i = 0; i < server->n_seen;) {
        if (config_find_node(server->config, (uint32_t)server->seen[i].node) == NULL) {
            server->seen[i] = server->seen[--server->n_seen];
        } else {
            i++;
        }
    }
}

void server_take_nodes(struct server *server, const struct config *fresh) {
    struct config *config = server->config;
    struct peer_address addresses[LIMIT_NODES];
    if (strcmp(fresh->cluster, config->cluster) != 0 || fresh->node_id != config->node_id ||
        fresh->shards != config->shards) {
        say_error("nodes not read again: cluster, node_id and shards cannot change", NULL);
        return;
    }
    if (!keeps_members(server, fresh)) {
        return;
    }
    memcpy(config->nodes, fresh->nodes, sizeof config->nodes);
    config->n_nodes = fresh->n_nodes;
    for (unsigned i = 0; i < config->n_nodes; i++) {
        config_format_address(&config->nodes[i].client, server->addresses[i],
                              sizeof server->addresses[i]);
    }
    forget_unlisted(server);
    peers_set_nodes(server->peers, addresses, server_peer_addresses(config, addresses));
    for (unsigned i = 0; i < config->n_nodes; i++) {
        server->accepted[i] = peers_is_up(server->peers, config->nodes[i].id);
    }
    say_info("nodes read again", "nodes=%u", config->n_nodes);
}

/* --- who may talk to this node ---------------------------------------------------------------- */

static void say_refused(struct server *server, uint64_t node, const struct error *error) {
    if (server_now(server) >= server->refused_said_ms + SERVER_SAY_AGAIN_MS) {
        server->refused_said_ms = server_now(server);
        say_error("refused a peer", "node=%llu reason=%s", (unsigned long long)node,
                  error->message);
    }
}

static enum error_code adopt(struct server *server, uint64_t cluster_id,
                             enum identity_standing standing, struct error *error) {
    enum error_code code =
        identity_join(server->config->data_dir, &server->identity, cluster_id, standing, error);
    if (code == ERROR_NONE) {
        peers_set_cluster_id(server->peers, cluster_id);
    }
    return code;
}

static enum error_code check_cluster(struct server *server, uint64_t node, uint64_t theirs,
                                     struct error *error) {
    uint64_t own = server->identity.cluster_id;
    if (own == 0 && theirs != 0 && server->config->join) {
        say_info("found its cluster", "through_node=%llu cluster_id=%016llx",
                 (unsigned long long)node, (unsigned long long)theirs);
        return adopt(server, theirs, IDENTITY_NEWCOMER, error);
    }
    if (own == 0 || theirs == 0 || own == theirs) {
        return ERROR_NONE;
    }
    return error_set(error, ERROR_MISMATCH,
                     "node %llu belongs to another cluster of this name (%016llx, node %u to "
                     "%016llx): one of the two was founded anew, restored or recovered; let it "
                     "join with an empty data directory",
                     (unsigned long long)node, (unsigned long long)theirs, server->config->node_id,
                     (unsigned long long)own);
}

static enum error_code check_incarnation(struct server *server, uint64_t node, uint64_t incarnation,
                                         struct error *error) {
    uint64_t known = 0;
    bool met = known_peers_get(&server->known_peers, node, &known);
    if (met && known == incarnation) {
        return ERROR_NONE;
    }
    if (!met || server_may_forget(server, node)) {
        enum error_code code = known_peers_set(&server->known_peers, node, incarnation, error);
        if (met && code == ERROR_NONE) {
            server_note_new_directory(server, node);
        }
        return code;
    }
    return error_set(error, ERROR_MISMATCH,
                     "node %llu comes with another data directory than the one it had before: it "
                     "lost its disk, or somebody else uses its id; it must not vote under its old "
                     "identity: see the replace procedure in docs/operations.md",
                     (unsigned long long)node);
}

bool server_check_peer(void *data, uint64_t node, const struct peer_identity *identity,
                       struct error *error) {
    struct server *server = data;
    enum error_code code = ERROR_NONE;
    if (!release_is_neighbour(release_level(), identity->level)) {
        code =
            error_set(error, ERROR_VERSION,
                      "node %llu runs release %s (level %u), node %u release %s (level %u): only "
                      "neighbouring levels work together; upgrade one after the other",
                      (unsigned long long)node, identity->release, identity->level,
                      server->config->node_id, release_name(), release_level());
    }
    code =
        code != ERROR_NONE ? code : check_incarnation(server, node, identity->incarnation, error);
    code = code != ERROR_NONE ? code : check_cluster(server, node, identity->cluster_id, error);
    if (code != ERROR_NONE) {
        say_refused(server, node, error);
        return false;
    }
    note_seen(server, node, identity);
    return true;
}

/* --- founding --------------------------------------------------------------------------------- */

/* Positions of the nodes in the configuration, by id. */
static void order_nodes(const struct config *config, unsigned order[LIMIT_NODES]) {
    for (unsigned i = 0; i < config->n_nodes; i++) {
        unsigned k = i;
        for (; k > 0 && config->nodes[order[k - 1]].id > config->nodes[i].id; k--) {
            order[k] = order[k - 1];
        }
        order[k] = i;
    }
}

/* The entry must be the same on every node, whatever the order in its file. */
struct payload *server_initial_config(const struct config *config) {
    struct group_server servers[LIMIT_NODES];
    char addresses[LIMIT_NODES][CONFIG_HOST_SIZE + 8];
    unsigned order[LIMIT_NODES];
    order_nodes(config, order);
    for (unsigned i = 0; i < config->n_nodes; i++) {
        const struct config_node *node = &config->nodes[order[i]];
        config_format_address(&node->peer, addresses[i], sizeof addresses[i]);
        servers[i] = (struct group_server){.id = node->id, .address = addresses[i], .voter = true};
    }
    return group_encode_config(servers, config->n_nodes);
}

/* This directory was let into a cluster that was there, and may hold of the shard what is past. */
static bool is_newcomer(const struct server *server, unsigned shard) {
    const struct identity *identity = &server->identity;
    return identity->cluster_id == 0 ||
           (identity->standing == IDENTITY_NEWCOMER && (identity->arrived >> shard & 1) == 0);
}

static bool start_groups(struct server *server, struct error *error) {
    uint64_t now_ms = server_now(server);
    for (unsigned i = 0; i < server->config->shards; i++) {
        if (is_newcomer(server, i)) {
            group_be_newcomer(server->groups[i]);
        }
        struct machine_state state = workers_initial_state(server->workers, i);
        enum error_code code =
            group_start(server->groups[i], now_ms, state.applied_index, state.applied_term,
                        state.config_index, workers_initial_config(server->workers, i), error);
        if (code != ERROR_NONE) {
            return false;
        }
    }
    server->started = true;
    say_info("started", "node=%u cluster=%s shards=%u boot=%llu", server->config->node_id,
             server->config->cluster, server->config->shards,
             (unsigned long long)server->identity.boot);
    return true;
}

static void bootstrapped(struct log_request *request) {
    struct server *server = request->data;
    struct error error;
    payload_unref(server->bootstrap_config);
    server->bootstrap_config = NULL;
    server->bootstrapping = false;
    if (server->closing) {
        return;
    }
    if (!start_groups(server, &error)) {
        assert_fatal("cannot start: %s", error.message);
    }
}

static unsigned count_blank(const struct server *server) {
    unsigned blank = 0;
    for (unsigned i = 0; i < server->config->shards; i++) {
        blank += group_is_blank(server->groups[i]) ? 1 : 0;
    }
    return blank;
}

static void write_bootstrap(struct server *server) {
    server->bootstrapping = true;
    server->bootstrap_config = server_initial_config(server->config);
    server->bootstrap.done = bootstrapped;
    server->bootstrap.data = server;
    unsigned left = count_blank(server);
    for (unsigned i = 0; i < server->config->shards; i++) {
        if (group_is_blank(server->groups[i])) {
            left--;
            group_bootstrap(server->groups[i], server->bootstrap_config,
                            left == 0 ? &server->bootstrap : NULL);
        }
    }
    log_kick(server->log);
}

/* The same on every founder: made from the data directories that found the cluster together. 0 when
 * not all of them are known. */
static uint64_t founded_id(const struct server *server) {
    const struct config *config = server->config;
    unsigned order[LIMIT_NODES];
    struct prng prng;
    uint64_t id = config->shards;
    order_nodes(config, order);
    for (unsigned i = 0; i < config->n_nodes; i++) {
        uint64_t node = config->nodes[order[i]].id;
        uint64_t incarnation = server->identity.incarnation;
        if (node != config->node_id && !known_peers_get(&server->known_peers, node, &incarnation)) {
            return 0;
        }
        prng_seed(&prng, id ^ node);
        prng_seed(&prng, prng_next(&prng) ^ incarnation);
        id = prng_next(&prng);
    }
    return id != 0 ? id : 1;
}

static void start_blank(struct server *server) {
    struct error error;
    say_info("waits to be added to its cluster", "node=%u", server->config->node_id);
    if (!start_groups(server, &error)) {
        assert_fatal("cannot start: %s", error.message);
    }
}

/* All nodes of the configuration are there. When one belongs to a cluster already, this one is a
 * latecomer with an empty disk, and must not found that cluster a second time. */
static void found_or_join(struct server *server) {
    struct error error = {0};
    uint64_t founded = founded_id(server);
    uint64_t joined = founded;
    if (founded == 0) {
        return;
    }
    for (unsigned i = 0; i < server->n_seen; i++) {
        uint64_t theirs = server->seen[i].cluster_id;
        if (theirs != 0 && theirs != founded) {
            joined = theirs;
        }
    }
    enum identity_standing standing = joined == founded ? IDENTITY_FOUNDER : IDENTITY_NEWCOMER;
    if (adopt(server, joined, standing, &error) != ERROR_NONE) {
        say_error("cannot join, trying again", "reason=%s", error.message);
        return;
    }
    if (joined == founded) {
        say_info("joins", "cluster=%s node=%u", server->config->cluster, server->config->node_id);
        write_bootstrap(server);
    } else {
        start_blank(server);
    }
}

/* A new data directory founds a cluster only after every other node has accepted it. Were fewer
 * enough, two nodes that lost their disks could form an empty cluster while the third, which
 * remembers everything, is down. */
void server_try_start(struct server *server) {
    const struct config *config = server->config;
    if (server->started || server->bootstrapping) {
        return;
    }
    for (unsigned i = 0; i < config->n_nodes; i++) {
        if (config->nodes[i].id != config->node_id && !server->accepted[i]) {
            return;
        }
    }
    found_or_join(server);
}

void server_note_arrival(struct server *server) {
    struct error error;
    uint64_t known = 0;
    for (unsigned i = 0; i < server->config->shards; i++) {
        known |= (uint64_t)group_knows_present(server->groups[i]) << i;
    }
    if (known == 0 || server->identity.standing != IDENTITY_NEWCOMER) {
        return;
    }
    if (identity_arrive(server->config->data_dir, &server->identity, known, &error) != ERROR_NONE) {
        say_warn("cannot note that this node has arrived, trying again", "reason=%s",
                 error.message);
        return;
    }
    for (unsigned i = 0; i < server->config->shards; i++) {
        if ((known >> i & 1) != 0) {
            group_arrive(server->groups[i]);
        }
    }
}

static enum error_code check_joined(const struct server *server, struct error *error) {
    /* A newcomer may have applied what its log did not hold yet; it never voted on that. */
    bool newcomer =
        server->identity.cluster_id != 0 && server->identity.standing != IDENTITY_FOUNDER;
    for (unsigned i = 0; i < server->config->shards && !newcomer; i++) {
        if (group_is_blank(server->groups[i]) &&
            workers_initial_state(server->workers, i).applied_index > 0) {
            return error_set(error, ERROR_CORRUPT,
                             "shard %u has data but no log: the log directory was lost; rebuild "
                             "this node from its peers (docs/operations.md)",
                             i);
        }
    }
    return ERROR_NONE;
}

enum error_code server_start_or_join(struct server *server, struct error *error) {
    const struct config *config = server->config;
    enum error_code code = check_joined(server, error);
    if (code != ERROR_NONE) {
        return code;
    }
    unsigned blank = count_blank(server);
    if (blank > 0 && server->identity.standing == IDENTITY_FOUNDER) {
        write_bootstrap(server); /* it had been decided, and then the process ended */
        return ERROR_NONE;
    }
    if (blank == 0 || server->identity.cluster_id != 0) {
        return start_groups(server, error) ? ERROR_NONE : error->code;
    }
    if (config->join) {
        start_blank(server);
        return ERROR_NONE;
    }
    server_try_start(server);
    if (!server->started && !server->bootstrapping) {
        say_info("waiting for all other nodes", "nodes=%u", config->n_nodes);
    }
    return ERROR_NONE;
}
