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

void verb_cluster_replace(struct call *call) {
    const struct session_port *port = &call->session->host->port;
    struct error error = {0};
    int64_t node = 0;
    if (!number_parse_integer(call->argv[2], &node) || node <= 0) {
        call_error(call, "ERR", "node id is not a positive integer");
        return;
    }
    if (port->replace == NULL || port->replace(port->data, (uint64_t)node, &error) != ERROR_NONE) {
        call_error(call, "ERR", "%s", error.message);
        return;
    }
    call_ok(call);
}
