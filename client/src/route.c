/* Which node a request goes to, and what is known of the nodes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/slot.h"
#include "client/src/backoff.h"
#include "client/src/client.h"
#include "client/src/connection.h"
#include "client/src/resolve.h"

enum {
    NODE_BACKOFF_FIRST_MS = 50,
    NODE_BACKOFF_MAX_MS = 2000,
    NO_NODE_WAIT_MS = 20,   /* least time before nodes are looked at again */
    BULK_SIZE = 256 * 1024, /* writes from here on have a lane of their own */
    REDIRECTS_MAX = 3       /* after so many the nodes forward instead */
};

/* --- nodes
 * ------------------------------------------------------------------------------------------ */

void node_format_name(char name[CLIENT_NAME_SIZE], const char *host, uint16_t port) {
    bool is_bare = strchr(host, ':') != NULL;
    snprintf(name, CLIENT_NAME_SIZE, is_bare ? "[%s]:%u" : "%s:%u", host, port);
}

/* HOST:PORT; an IPv6 address comes with and without brackets. */
struct node *node_find(ikv_client *client, const char *name) {
    for (unsigned i = 0; i < client->n_nodes; i++) {
        struct node *node = client->nodes[i];
        char bare[CLIENT_NAME_SIZE];
        snprintf(bare, sizeof bare, "%s:%u", node->host, node->port);
        if (strcmp(node->name, name) == 0 || strcmp(bare, name) == 0) {
            return node;
        }
    }
    return NULL;
}

struct node *node_find_id(ikv_client *client, uint32_t id) {
    for (unsigned i = 0; i < client->n_nodes; i++) {
        if (client->nodes[i]->id == id && client->nodes[i]->is_member) {
            return client->nodes[i];
        }
    }
    return NULL;
}

struct node *node_add(ikv_client *client, const struct url_seed *address) {
    char name[CLIENT_NAME_SIZE];
    node_format_name(name, address->host, address->port);
    struct node *node = node_find(client, name);
    if (node != NULL || client->n_nodes == CLIENT_NODES) {
        return node;
    }
    node = calloc(1, sizeof *node);
    if (node == NULL) {
        return NULL;
    }
    node->client = client;
    node->port = address->port;
    memcpy(node->host, address->host, sizeof node->host);
    memcpy(node->name, name, sizeof node->name);
    client->nodes[client->n_nodes++] = node;
    return node;
}

void node_free(struct node *node) {
    resolve_abandon(node);
    free(node);
}

bool node_is_usable(const ikv_client *client, const struct node *node) {
    return client->now_ms >= node->usable_at_ms;
}

void node_is_well(struct node *node) {
    node->usable_at_ms = 0;
    node->client->last_error = IKV_OK;
}

void node_penalise(struct node *node, int error, const char *text) {
    ikv_client *client = node->client;
    node->failures++;
    node->usable_at_ms = client->now_ms + backoff_ms(&client->prng, node->failures,
                                                     NODE_BACKOFF_FIRST_MS, NODE_BACKOFF_MAX_MS);
    client_note_failure(client, error, text);
}

void node_fail(struct node *node, int error, const char *text) {
    ikv_client *client = node->client;
    node_penalise(node, error, text);
    for (unsigned lane = 0; lane < LANE_COUNT; lane++) {
        if (node->lanes[lane] != NULL) {
            connection_fail(node->lanes[lane], error, text);
        }
    }
    bool found = true;
    while (found) { /* watches have connections of their own; each failure may change the list */
        found = false;
        for (struct list_node *at = client->connections.next; at != &client->connections && !found;
             at = at->next) {
            struct connection *connection = LIST_ENTRY(at, struct connection, link);
            if (connection->node == node && connection->watch != NULL) {
                found = true;
                connection_fail(connection, error, text);
                break;
            }
        }
    }
}

static bool has_ready_connection(const struct node *node) {
    for (unsigned lane = 0; lane < LANE_COUNT; lane++) {
        if (node->lanes[lane] != NULL && node->lanes[lane]->state == CONNECTION_READY) {
            return true;
        }
    }
    return false;
}

/* Members before seeds that are none, those with a connection before the others. */
static int rank(const struct node *node) {
    return (node->is_member ? 2 : 0) + (has_ready_connection(node) ? 1 : 0);
}

struct node *node_pick(ikv_client *client, const struct node *not_this) {
    struct node *best = NULL;
    for (unsigned i = 0; i < client->n_nodes; i++) {
        struct node *node = client->nodes[(client->next_node + i) % client->n_nodes];
        if (node != not_this && node_is_usable(client, node) &&
            (best == NULL || rank(node) > rank(best))) {
            best = node;
        }
    }
    if (best == NULL && not_this != NULL && node_is_usable(client, not_this)) {
        return node_find(client, not_this->name);
    }
    return best;
}

/* --- probes
 * ------------------------------------------------------------------------------------------- */

static void end_probe(void *data, ikv_reply *reply) {
    struct node *node = data;
    node->probing = false;
    int error = ikv_reply_error(reply);
    if (error == IKV_ERR_CLOSED || error == IKV_OK || error == IKV_ERR_AUTH) {
        return; /* it lives; a refusal proves that as well */
    }
    char text[CLIENT_TEXT_SIZE];
    snprintf(text, sizeof text, "%.120s does not answer: %.100s", node->name,
             ikv_reply_message(reply));
    node_fail(node, error, text);
}

void node_probe(struct node *node) {
    ikv_client *client = node->client;
    ikv_bytes words[] = {ikv_text("PING")};
    if (node->probing || client->stopping) {
        return;
    }
    struct request *request = request_new(NULL, 1, words);
    if (request == NULL) {
        return;
    }
    memcpy(request->node_name, node->name, sizeof request->node_name);
    request->control = true;
    request->retry_safe = true;
    request->no_retry = true;
    node->probing = true;
    request_start_internal(client, request, client->options.probe_ms, end_probe, node);
}

/* --- the nearest replica
 * -------------------------------------------------------------------------------- */

/* The nearest is the one whose connection is ready first: all are begun at once. */
static void begin_race(ikv_client *client, enum lane lane) {
    bool members = client->topology.known;
    for (unsigned i = 0; i < client->n_nodes; i++) {
        struct node *node = client->nodes[i];
        bool runs = node->is_member || !members;
        if (runs && node_is_usable(client, node) && client->now_ms >= node->too_old_until_ms) {
            (void)connection_get(node, lane);
        }
    }
}

static bool has_runner(const ikv_client *client, enum lane lane) {
    for (unsigned i = 0; i < client->n_nodes; i++) {
        if (client->nodes[i]->lanes[lane] != NULL) {
            return true;
        }
    }
    return false;
}

static void park_without_node(struct request *request);

static void send_nearest(ikv_client *client, struct request *request, enum lane lane) {
    struct node *nearest = client->nearest[lane];
    if (nearest != NULL) {
        struct connection *connection = connection_get(nearest, lane);
        if (connection != NULL) {
            connection_push(connection, request);
        } else {
            park_without_node(request);
        }
        return;
    }
    request_wait(request, &client->near_waiting[lane]);
    if (!has_runner(client, lane)) {
        begin_race(client, lane);
        if (!has_runner(client, lane) && request->state == REQUEST_WAITING) {
            park_without_node(request);
        }
    }
}

void route_nearest_ready(struct connection *connection) {
    ikv_client *client = connection->client;
    enum lane lane = connection->lane;
    if (lane != LANE_SESSION && lane != LANE_EVENTUAL) {
        return;
    }
    if (client->nearest[lane] == NULL) {
        client->nearest[lane] = connection->node;
        for (unsigned i = 0; i < client->n_nodes; i++) {
            struct connection *other = client->nodes[i]->lanes[lane];
            if (other != NULL && other != connection) {
                connection_drop(other);
            }
        }
    }
    route_list(&client->near_waiting[lane]);
}

void route_nearest_lost(struct connection *connection) {
    ikv_client *client = connection->client;
    enum lane lane = connection->lane;
    if (lane != LANE_SESSION && lane != LANE_EVENTUAL) {
        return;
    }
    if (client->nearest[lane] == connection->node) {
        client->nearest[lane] = NULL;
    }
    if (client->nearest[lane] == NULL && !has_runner(client, lane)) {
        route_list(&client->near_waiting[lane]);
    }
}

/* --- requests
 * ---------------------------------------------------------------------------------------------- */

void route_list(struct list_node *list) {
    struct list_node taken;
    list_init(&taken);
    while (!list_empty(list)) {
        struct list_node *first = list_first(list);
        list_remove(first);
        list_push(&taken, first);
    }
    while (!list_empty(&taken)) {
        struct request *request = LIST_ENTRY(list_first(&taken), struct request, link);
        list_remove(&request->link);
        route_request(request);
    }
}

void route_unrouted(ikv_client *client) {
    route_list(&client->unrouted);
}

bool route_shard(const ikv_client *client, const struct ikv_project *project, unsigned *shard) {
    if (!client->topology.known) {
        return false;
    }
    *shard = slot_shard(project->identity->slot, client->topology.n_shards);
    return true;
}

/* All nodes are backing off: until the first of them is done with that. */
static void park_without_node(struct request *request) {
    ikv_client *client = request->client;
    uint64_t wait_ms = NODE_BACKOFF_MAX_MS;
    for (unsigned i = 0; i < client->n_nodes; i++) {
        uint64_t at_ms = client->nodes[i]->usable_at_ms;
        uint64_t left_ms = at_ms > client->now_ms ? at_ms - client->now_ms : 0;
        wait_ms = left_ms < wait_ms ? left_ms : wait_ms;
    }
    request_park(request, wait_ms > NO_NODE_WAIT_MS ? wait_ms : NO_NODE_WAIT_MS);
}

static void send_to(struct request *request, struct node *node, enum lane lane) {
    struct connection *connection = node != NULL ? connection_get(node, lane) : NULL;
    if (connection != NULL) {
        connection_push(connection, request);
    } else if (request->no_retry) {
        const ikv_client *client = request->client;
        int error = client->last_error != IKV_OK ? client->last_error : IKV_ERR_UNREACHABLE;
        request_finish(request, error, client->last_text);
    } else {
        park_without_node(request);
    }
}

static void route_to_node(struct request *request) {
    ikv_client *client = request->client;
    struct node *node = NULL;
    if (request->node_name[0] == '\0') {
        send_to(request, node_pick(client, NULL), LANE_CONTROL);
        return;
    }
    node = node_find(client, request->node_name);
    if (node == NULL && !client->topology.known && !client->topology.unsupported) {
        request_wait(request, &client->unrouted);
        topology_refresh(client);
    } else if (node == NULL) {
        request_finish(request, IKV_ERR_INVALID, "the cluster has no node of that address");
    } else {
        send_to(request, request->no_retry || node_is_usable(client, node) ? node : NULL,
                LANE_CONTROL);
    }
}

static void route_to_leader(struct request *request, enum lane lane) {
    ikv_client *client = request->client;
    struct node *leader = NULL;
    unsigned shard;
    if (route_shard(client, request->project, &shard)) {
        leader = node_find_id(client, client->topology.leaders[shard]);
    }
    bool usable = leader != NULL && node_is_usable(client, leader);
    if (client->topology.known && !usable) {
        topology_refresh(client); /* somebody else will lead, soon */
    }
    /* A node that is not believed to lead forwards. */
    request->redirect = usable && request->commands == 0 && request->redirects < REDIRECTS_MAX;
    send_to(request, usable ? leader : node_pick(client, leader), lane);
}

static enum lane lane_of(const struct request *request) {
    if (!request->is_write) {
        return LANE_READ;
    }
    return request->body_size >= BULK_SIZE ? LANE_BULK : LANE_WRITE;
}

static void route_by_level(struct request *request) {
    ikv_client *client = request->client;
    enum ikv_level level = request->project->level;
    /* Without a topology it is not known which shard a session has to catch up with. */
    if (level == IKV_SESSION && client->topology.known) {
        send_nearest(client, request, LANE_SESSION);
    } else if (level == IKV_EVENTUAL && !request->is_write && !request->to_leader) {
        send_nearest(client, request, LANE_EVENTUAL);
    } else {
        route_to_leader(request, lane_of(request));
    }
}

void route_request(struct request *request) {
    ikv_client *client = request->client;
    list_remove(&request->link);
    request->state = REQUEST_NEW;
    request->connection = NULL;
    wheel_arm(&client->wheel, &request->timer, request->deadline_ms);
    if (request->control) {
        route_to_node(request);
        return;
    }
    if (request->wants_topology) {
        topology_answer(request);
        return;
    }
    if (!client->topology.known && !client->topology.unsupported) {
        request_wait(request, &client->unrouted);
        topology_refresh(client);
        return;
    }
    switch (once_prepare(request)) {
    case ONCE_GO:
        route_by_level(request);
        return;
    case ONCE_WAIT:
        return;
    case ONCE_UNKNOWN:
        request_finish(request, IKV_ERR_UNKNOWN_OUTCOME,
                       "the cluster no longer remembers the numbers of this client's writes");
        return;
    }
}
