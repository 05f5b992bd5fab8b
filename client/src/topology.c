/* Who is in the cluster and who leads which shard: asked for, read, kept. */
#include <stdio.h>
#include <string.h>

#include "client/src/backoff.h"
#include "client/src/client.h"
#include "client/src/connection.h"

enum {
    REFRESH_FIRST_MS = 50, /* between questions, growing while the answers do not help */
    REFRESH_MAX_MS = 2000,
    ASKED_AT_ONCE = 8 /* seeds that are asked while nothing is known */
};

/* --- reading
 * ------------------------------------------------------------------------------------------ */

static bool parse_node(const ikv_value *value, struct topology_node *node) {
    int64_t id;
    int64_t port;
    if (value->type != IKV_ARRAY || value->size < 3 || !value_number(&value->elements[0], &id) ||
        !value_number(&value->elements[2], &port) || id < 1 || id > UINT32_MAX || port < 1 ||
        port > 65535) {
        return false;
    }
    const ikv_value *host = &value->elements[1];
    if (host->type != IKV_STRING || host->size < 1 || host->size >= URL_HOST_SIZE ||
        memchr(host->data, '\0', host->size) != NULL) {
        return false;
    }
    node->id = (uint32_t)id;
    node->address.port = (uint16_t)port;
    memcpy(node->address.host, host->data, host->size);
    node->address.host[host->size] = '\0';
    return true;
}

static bool parse_nodes(const ikv_value *value, struct topology_node nodes[CLIENT_NODES],
                        unsigned *n_nodes) {
    if (value == NULL || value->type != IKV_ARRAY || value->size < 1 ||
        value->size > CLIENT_NODES) {
        return false;
    }
    for (size_t i = 0; i < value->size; i++) {
        if (!parse_node(&value->elements[i], &nodes[i])) {
            return false;
        }
    }
    *n_nodes = (unsigned)value->size;
    return true;
}

static bool parse_leaders(const ikv_value *value, struct topology *topology) {
    if (value == NULL || value->type != IKV_ARRAY || value->size != topology->n_shards) {
        return false;
    }
    for (size_t i = 0; i < value->size; i++) {
        int64_t id;
        if (!value_number(&value->elements[i], &id) || id < 0 || id > UINT32_MAX) {
            return false;
        }
        topology->leaders[i] = (uint32_t)id;
    }
    return true;
}

bool topology_parse(const ikv_value *value, struct topology *topology,
                    struct topology_node nodes[CLIENT_NODES], unsigned *n_nodes) {
    const ikv_value *cluster = value_field(value, "cluster");
    const ikv_value *shards = value_field(value, "shards");
    int64_t n_shards;
    if (cluster == NULL || cluster->type != IKV_STRING || shards == NULL ||
        !value_number(shards, &n_shards) || n_shards < 1 || n_shards > CLIENT_SHARDS) {
        return false;
    }
    *topology = (struct topology){.known = true, .n_shards = (unsigned)n_shards};
    snprintf(topology->cluster, sizeof topology->cluster, "%s", cluster->data);
    return parse_nodes(value_field(value, "nodes"), nodes, n_nodes) &&
           parse_leaders(value_field(value, "leaders"), topology);
}

/* --- taking over
 * ---------------------------------------------------------------------------------------- */

/* A node that left keeps its place until nothing is open there. */
static void drop_nodes(ikv_client *client) {
    unsigned kept = 0;
    for (unsigned i = 0; i < client->n_nodes; i++) {
        struct node *node = client->nodes[i];
        bool is_open = node->probing;
        for (unsigned lane = 0; lane < LANE_COUNT; lane++) {
            is_open |= node->lanes[lane] != NULL;
        }
        for (struct list_node *at = client->connections.next; at != &client->connections;
             at = at->next) {
            is_open |= LIST_ENTRY(at, struct connection, link)->node == node;
        }
        for (struct list_node *at = client->graveyard.next; at != &client->graveyard;
             at = at->next) {
            is_open |= LIST_ENTRY(at, struct connection, link)->node == node;
        }
        if (node->is_member || node->is_seed || is_open) {
            client->nodes[kept++] = node;
        } else {
            node_free(node);
        }
    }
    client->n_nodes = kept;
}

static void close_departed(ikv_client *client) {
    for (unsigned i = 0; i < client->n_nodes; i++) {
        struct node *node = client->nodes[i];
        for (unsigned lane = 0; lane < LANE_COUNT && !node->is_member && !node->is_seed; lane++) {
            struct connection *connection = node->lanes[lane];
            if (connection != NULL && connection->ring_head == connection->ring_tail) {
                connection_fail(connection, IKV_ERR_CLOSED, "the node has left the cluster");
            }
        }
    }
}

static void take_over(ikv_client *client, const struct topology *topology,
                      const struct topology_node *nodes, unsigned n_nodes) {
    client->topology = *topology;
    for (unsigned i = 0; i < client->n_nodes; i++) {
        client->nodes[i]->is_member = false;
        client->nodes[i]->id = 0;
    }
    for (unsigned i = 0; i < n_nodes; i++) {
        struct node *node = node_add(client, &nodes[i].address);
        if (node != NULL) { /* else one of more nodes than fit; the others forward */
            node->id = nodes[i].id;
            node->is_member = true;
        }
    }
    close_departed(client);
    drop_nodes(client);
}

/* A leader that cannot be reached was named again, or none at all: ask again soon. */
static bool helps(ikv_client *client) {
    for (unsigned i = 0; i < client->topology.n_shards; i++) {
        const struct node *leader = node_find_id(client, client->topology.leaders[i]);
        if (leader == NULL || !node_is_usable(client, leader)) {
            return false;
        }
    }
    return true;
}

/* --- asking
 * -----------------------------------------------------------------------------------------------
 */

static void plan_next(ikv_client *client, bool good) {
    client->topology_failures = good ? 0 : client->topology_failures + 1;
    client->topology_next_ms =
        client->now_ms +
        backoff_ms(&client->prng, client->topology_failures + 1, REFRESH_FIRST_MS, REFRESH_MAX_MS);
}

/* The server answers only those who are authorised, and refused this project: its requests learn
 * why, the others try with theirs. */
static void refuse_project(ikv_client *client, const struct ikv_project *project, int error,
                           const char *text) {
    for (struct list_node *at = client->unrouted.next; at != &client->unrouted;) {
        struct request *request = LIST_ENTRY(at, struct request, link);
        at = at->next;
        if (request->project != NULL && request->project->identity == project->identity) {
            request_finish(request, error, text);
        }
    }
}

static void set_project(ikv_client *client, struct ikv_project *project) {
    if (project != NULL) {
        project_ref(project);
    }
    if (client->topology_project != NULL) {
        project_unref(client->topology_project);
    }
    client->topology_project = project;
}

static void learn_failure(ikv_client *client, ikv_reply *reply) {
    int error = ikv_reply_error(reply);
    const char *text = ikv_reply_message(reply);
    if (error == IKV_ERR_REFUSED && strstr(text, "nknown") != NULL) {
        client->topology.unsupported = !client->topology.known;
        route_unrouted(client);
        return;
    }
    if (error == IKV_ERR_AUTH && client->options.secret == NULL) {
        if (client->topology_needs_auth && client->topology_project != NULL) {
            refuse_project(client, client->topology_project, error, text);
            set_project(client, NULL);
        }
        client->topology_needs_auth = true;
    }
    plan_next(client, false);
}

static void learn(void *data, ikv_reply *reply) {
    ikv_client *client = data;
    struct topology topology;
    struct topology_node nodes[CLIENT_NODES];
    unsigned n_nodes;
    client->topology_asking--;
    if (client->stopping) {
        return;
    }
    if (ikv_reply_error(reply) != IKV_OK) {
        learn_failure(client, reply);
    } else if (!topology_parse(ikv_reply_value(reply), &topology, nodes, &n_nodes)) {
        client_note_failure(client, IKV_ERR_PROTOCOL, "the answer to CLUSTER TOPOLOGY is not one");
        plan_next(client, false);
    } else {
        take_over(client, &topology, nodes, n_nodes);
        client->topology_at_ms = client->now_ms;
        plan_next(client, helps(client));
        route_unrouted(client);
    }
    if (!client->topology.unsupported &&
        (!list_empty(&client->unrouted) || (client->topology.known && !helps(client)))) {
        topology_refresh(client);
    }
}

/* Whom the server may know, when it wants to know somebody. */
static struct ikv_project *asking_project(ikv_client *client) {
    if (!client->topology_needs_auth) {
        return NULL;
    }
    if (client->topology_project == NULL) {
        for (struct list_node *at = client->unrouted.next; at != &client->unrouted; at = at->next) {
            struct request *request = LIST_ENTRY(at, struct request, link);
            if (request->project != NULL) {
                set_project(client, request->project);
                break;
            }
        }
    }
    return client->topology_project;
}

static void ask(ikv_client *client, const struct node *node) {
    ikv_bytes words[] = {ikv_text("CLUSTER"), ikv_text("TOPOLOGY")};
    struct request *request = request_new(asking_project(client), 2, words);
    if (request == NULL) {
        return;
    }
    memcpy(request->node_name, node->name, sizeof request->node_name);
    request->control = true;
    request->retry_safe = true;
    request->no_retry = true;
    client->topology_asking++;
    request_start_internal(client, request, client->options.connect_timeout_ms, learn, client);
}

static void ask_somebody(ikv_client *client) {
    client->next_node++;
    if (client->topology.known) {
        struct node *node = node_pick(client, NULL);
        if (node != NULL) {
            ask(client, node);
        }
        return;
    }
    struct node *chosen[ASKED_AT_ONCE];
    unsigned n = 0;
    for (unsigned i = 0; i < client->n_nodes && n < ASKED_AT_ONCE; i++) {
        struct node *node = client->nodes[(client->next_node + i) % client->n_nodes];
        if (node_is_usable(client, node)) {
            chosen[n++] = node;
        }
    }
    for (unsigned i = 0; i < n; i++) { /* an answer may come, or fail, at once */
        ask(client, chosen[i]);
    }
}

static void fire(struct timer *timer, uint64_t now_ms) {
    (void)now_ms;
    topology_refresh(LIST_ENTRY(timer, ikv_client, topology_timer));
}

void topology_refresh(ikv_client *client) {
    if (client->topology.unsupported || client->stopping || client->topology_asking > 0) {
        return;
    }
    if (client->now_ms < client->topology_next_ms) {
        if (!timer_is_armed(&client->topology_timer)) {
            wheel_arm(&client->wheel, &client->topology_timer, client->topology_next_ms);
        }
        return;
    }
    timer_disarm(&client->topology_timer);
    ask_somebody(client);
    if (client->topology_asking == 0) { /* no node is usable now */
        plan_next(client, false);
        wheel_arm(&client->wheel, &client->topology_timer, client->topology_next_ms);
    }
}

void topology_tick(ikv_client *client) {
    if (client->topology.known &&
        client->now_ms - client->topology_at_ms >= client->options.topology_ms) {
        topology_refresh(client);
    }
}

void topology_init(ikv_client *client) {
    timer_init(&client->topology_timer, fire);
}

/* --- telling
 * ------------------------------------------------------------------------------------------------
 */

static bool format(const ikv_client *client, struct text *out) {
    const struct topology *topology = &client->topology;
    unsigned members = 0;
    for (unsigned i = 0; i < client->n_nodes; i++) {
        members += client->nodes[i]->is_member ? 1 : 0;
    }
    bool done = text_append_header(out, '*', 4) &&
                text_append_bulk(out, topology->cluster, strlen(topology->cluster)) &&
                text_append_header(out, ':', topology->n_shards) &&
                text_append_header(out, '*', members);
    for (unsigned i = 0; i < client->n_nodes && done; i++) {
        const struct node *node = client->nodes[i];
        if (node->is_member) {
            done = text_append_header(out, '*', 2) && text_append_header(out, ':', node->id) &&
                   text_append_bulk(out, node->name, strlen(node->name));
        }
    }
    done = done && text_append_header(out, '*', topology->n_shards);
    for (unsigned i = 0; i < topology->n_shards && done; i++) {
        done = text_append_header(out, ':', topology->leaders[i]);
    }
    return done;
}

void topology_answer(struct request *request) {
    ikv_client *client = request->client;
    struct text out = {0};
    struct value_builder builder;
    redisReader *reader = NULL;
    if (!client->topology.known && !client->topology.unsupported) {
        request_wait(request, &client->unrouted);
        topology_refresh(client);
        return;
    }
    reader = value_reader_new(&builder, (size_t)client->options.max_reply);
    if (reader != NULL && format(client, &out) &&
        redisReaderFeed(reader, out.data, out.size) == REDIS_OK &&
        value_next(reader, &builder) == VALUE_READY) {
        request_answer(request, NULL, &builder);
    } else {
        request_finish(request, IKV_ERR_NOMEM, "no memory for the topology");
    }
    if (reader != NULL) {
        redisReaderFree(reader);
        value_builder_clear(&builder);
    }
    text_free(&out);
}
