/* CLUSTER and what belongs to it: where the connection's project lives; see docs/clients.md. */
#include "base/number.h"
#include "base/resp.h"
#include "base/slot.h"
#include "node/resp_commands.h"
#include "node/session_state.h"
#include "node/topology.h"

static void describe(struct call *call, struct server_info *info) {
    const struct session_port *port = &call->session->host->port;
    port->describe(port->data, info);
}

static unsigned own_shard(const struct session *session) {
    return slot_shard(slot_of(session_project(session)), session->host->limits.n_shards);
}

static void write_bulk_and_free(struct call *call, struct buffer *text) {
    resp_write_bulk(call_reply(call), buffer_slice(text));
    buffer_free(text);
}

void verb_cluster_slots(struct call *call) {
    struct server_info info = {0};
    describe(call, &info);
    topology_write_slots(call_reply(call), &info, own_shard(call->session), call_version(call));
}

void verb_cluster_shards(struct call *call) {
    struct server_info info = {0};
    describe(call, &info);
    topology_write_shards(call_reply(call), &info, own_shard(call->session), call_version(call));
}

void verb_cluster_nodes(struct call *call) {
    struct server_info info = {0};
    struct buffer text = {0};
    describe(call, &info);
    topology_write_nodes(&text, &info, own_shard(call->session));
    write_bulk_and_free(call, &text);
}

void verb_cluster_info(struct call *call) {
    struct server_info info = {0};
    struct buffer text = {0};
    describe(call, &info);
    topology_write_info(&text, &info, own_shard(call->session));
    write_bulk_and_free(call, &text);
}

void verb_cluster_topology(struct call *call) {
    struct server_info info = {0};
    describe(call, &info);
    topology_write_map(call_reply(call), &info, call_version(call));
}

void verb_cluster_myid(struct call *call) {
    struct server_info info = {0};
    char id[TOPOLOGY_NODE_ID_SIZE + 1];
    describe(call, &info);
    topology_node_id(info.cluster, info.node_id, id);
    resp_write_bulk(call_reply(call), slice_of(id));
}

void verb_cluster_keyslot(struct call *call) {
    resp_write_integer(call_reply(call), topology_key_slot(call->argv[2]));
}

void verb_cluster_redirect(struct call *call) {
    bool on = slice_equal_nocase(call->argv[2], "ON");
    if (!on && !slice_equal_nocase(call->argv[2], "OFF")) {
        call_syntax_error(call);
        return;
    }
    call->session->redirect = on;
    call_ok(call);
}

void verb_asking(struct call *call) {
    call_ok(call); /* slots do not move between nodes one by one, so nobody is sent to ask */
}

/* Of the first key; a command without keys could as well have any. */
static unsigned call_slot(const struct call *call) {
    int first = call->verb->first_key;
    return first > 0 && (unsigned)first < call->argc ? topology_key_slot(call->argv[first]) : 0;
}

bool call_redirect(struct call *call, bool needs_leader) {
    const struct session *session = call->session;
    const struct session_port *port = &session->host->port;
    const char *host;
    uint16_t number;
    if (!session->redirect || !needs_leader || port->find_leader == NULL ||
        !port->find_leader(port->data, own_shard(session), &host, &number)) {
        return false;
    }
    call_error(call, "MOVED", "%u %s:%u", call_slot(call), host, number);
    return true;
}

static void give_order(struct call *call, enum cluster_order order, uint64_t node, unsigned shard) {
    const struct session_port *port = &call->session->host->port;
    struct error error = {0};
    enum error_code code = port->order == NULL
                               ? error_set(&error, ERROR_GENERIC, "there is no cluster here")
                               : port->order(port->data, order, node, shard, &error);
    if (code != ERROR_NONE) {
        call_error(call, error_prefix(code), "%s", error.message);
        return;
    }
    call_ok(call);
}

/* False: answered with an error. */
static bool parse_node(struct call *call, unsigned at, uint64_t *node) {
    int64_t number = 0;
    if (!number_parse_integer(call->argv[at], &number) || number <= 0) {
        call_error(call, "ERR", "node id is not a positive integer");
        return false;
    }
    *node = (uint64_t)number;
    return true;
}

static void order_of_node(struct call *call, enum cluster_order order) {
    uint64_t node;
    if (parse_node(call, 2, &node)) {
        give_order(call, order, node, 0);
    }
}

void verb_cluster_add(struct call *call) {
    order_of_node(call, CLUSTER_ADD);
}

void verb_cluster_remove(struct call *call) {
    order_of_node(call, CLUSTER_REMOVE);
}

void verb_cluster_replace(struct call *call) {
    order_of_node(call, CLUSTER_REPLACE);
}

void verb_cluster_rebalance(struct call *call) {
    give_order(call, CLUSTER_REBALANCE, 0, 0);
}

void verb_cluster_transfer(struct call *call) {
    int64_t shard = 0;
    uint64_t node = 0;
    if (call->argc > 4) {
        call_syntax_error(call);
        return;
    }
    if (!number_parse_integer(call->argv[2], &shard) || shard < 0 || shard >= LIMIT_SHARDS) {
        call_error(call, "ERR", "shard is not a number from 0 to %d", LIMIT_SHARDS - 1);
        return;
    }
    if (call->argc == 4 && !parse_node(call, 3, &node)) {
        return;
    }
    give_order(call, CLUSTER_TRANSFER, node, (unsigned)shard);
}

/* False: answered with an error. */
static bool parse_backup(struct call *call, struct backup_request *request) {
    static const struct {
        const char *word;
        unsigned argc;
    } kinds[] = {[BACKUP_BEGIN] = {"BEGIN", 4},
                 [BACKUP_STATE] = {"STATE", 4},
                 [BACKUP_READ] = {"READ", 5},
                 [BACKUP_END] = {"END", 4}};
    int64_t number = 0;
    int64_t offset = 0;
    unsigned kind = 0;
    while (kind < 4 && !slice_equal_nocase(call->argv[2], kinds[kind].word)) {
        kind++;
    }
    if (kind == 4 || call->argc != kinds[kind].argc) {
        call_syntax_error(call);
        return false;
    }
    if (!number_parse_integer(call->argv[3], &number) || number < 0 ||
        (kind == BACKUP_READ && (!number_parse_integer(call->argv[4], &offset) || offset < 0))) {
        call_error(call, "ERR", "value is not an integer or out of range");
        return false;
    }
    request->kind = kind;
    request->shard = number < LIMIT_SHARDS ? (unsigned)number : LIMIT_SHARDS;
    request->ticket = (uint64_t)number;
    request->offset = (uint64_t)offset;
    return true;
}

void verb_cluster_backup(struct call *call) {
    const struct session_port *port = &call->session->host->port;
    struct backup_request request;
    struct error error = {0};
    if (!parse_backup(call, &request)) {
        return;
    }
    struct buffer reply = {0};
    enum error_code code =
        port->backup == NULL
            ? error_set(&error, ERROR_GENERIC, "there is no cluster here")
            : port->backup(port->data, &request, &reply, call_version(call), &error);
    if (code != ERROR_NONE) {
        call_error(call, error_prefix(code), "%s", error.message);
    } else {
        buffer_append_slice(call_reply(call), buffer_slice(&reply));
    }
    buffer_free(&reply);
}

void verb_cluster_members(struct call *call) {
    const struct session_port *port = &call->session->host->port;
    if (port->write_members == NULL) {
        call_error(call, "ERR", "there is no cluster here");
        return;
    }
    port->write_members(port->data, call_reply(call), call_version(call));
}
