/* Life of a connection: made, greeted, read, ended. What it writes is in pipeline.c. */
#include "client/src/connection.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "client/src/errors.h"
#include "client/src/pipeline.h"
#include "client/src/resolve.h"
#include "client/src/socket.h"
#include "client/src/tls.h"

enum {
    READS_PER_EVENT = 16,   /* then the others have their turn */
    FEED_SIZE = 16 * 1024,  /* the reader moves what is left after each reply: keep that small */
    WATCH_SILENCE_MS = 6000 /* the server tells its progress every 5 s */
};

static void connect_next(struct connection *connection);
static void fire(struct timer *timer, uint64_t now_ms);

const char *connection_node_name(const struct connection *connection) {
    return connection->node->name;
}

/* --- making
 * ---------------------------------------------------------------------------------------- */

static struct connection *make(struct node *node, enum lane lane, struct ikv_watch *watch) {
    ikv_client *client = node->client;
    struct connection *connection = calloc(1, sizeof *connection);
    if (connection == NULL) {
        return NULL;
    }
    connection->reader = value_reader_new(&connection->builder, (size_t)client->options.max_reply);
    if (connection->reader == NULL) {
        free(connection);
        return NULL;
    }
    connection->client = client;
    connection->node = node;
    connection->lane = lane;
    connection->watch = watch;
    connection->fd = -1;
    connection->redirect = -1;
    list_init(&connection->dirty_link);
    list_init(&connection->pending);
    list_init(&connection->unauthorised);
    list_init(&connection->unprimed);
    timer_init(&connection->timer, fire);
    list_push(&client->connections, &connection->link);
    connection->needs_priming = lane == LANE_SESSION && client->session_used;
    return connection;
}

static void begin(struct connection *connection) {
    ikv_client *client = connection->client;
    wheel_arm(&client->wheel, &connection->timer,
              client->now_ms + client->options.connect_timeout_ms);
    connection->state = CONNECTION_RESOLVING;
    enum resolve_status status = resolve_node(connection->node);
    if (status == RESOLVE_DONE) {
        connection_resolved(connection);
    } else if (status == RESOLVE_FAILED) {
        connection_fail(connection, IKV_ERR_UNREACHABLE, "no thread to look the host up");
    }
}

struct connection *connection_get(struct node *node, enum lane lane) {
    if (node->lanes[lane] != NULL) {
        return node->lanes[lane];
    }
    struct connection *connection = make(node, lane, NULL);
    if (connection == NULL) {
        client_note_failure(node->client, IKV_ERR_NOMEM, "no memory for a connection");
        return NULL;
    }
    node->lanes[lane] = connection;
    begin(connection);
    return node->lanes[lane]; /* NULL when it failed at once */
}

struct connection *connection_new_watch(struct node *node, struct ikv_watch *watch) {
    struct connection *connection = make(node, LANE_COUNT, watch);
    if (connection != NULL) {
        begin(connection);
        if (connection->state == CONNECTION_CLOSED) {
            return NULL;
        }
    }
    return connection;
}

/* --- the end
 * ---------------------------------------------------------------------------------------- */

static void move_all(struct list_node *from, struct list_node *to) {
    while (!list_empty(from)) {
        struct list_node *first = list_first(from);
        list_remove(first);
        list_push(to, first);
    }
}

/* Requests that were not written go elsewhere, or share the blame when the greeting was refused. */
static void release_unsent(struct connection *connection, int error, const char *text) {
    struct list_node unsent;
    list_init(&unsent);
    move_all(&connection->unauthorised, &unsent);
    move_all(&connection->unprimed, &unsent);
    move_all(&connection->pending, &unsent);
    while (!list_empty(&unsent)) {
        struct request *request = LIST_ENTRY(list_first(&unsent), struct request, link);
        list_remove(&request->link);
        if (error == IKV_ERR_AUTH && !request->maybe_done) {
            request_finish(request, error, text);
        } else {
            request_lost(request, false, error, text);
        }
    }
}

static void release_sent(struct connection *connection, int error, const char *text) {
    while (connection->ring_head < connection->ring_tail) {
        struct entry *entry = pipeline_entry(connection, connection->ring_head);
        struct request *request = entry->request;
        bool sent = connection->sent > entry->start;
        connection->ring_head++;
        if (entry->kind == ENTRY_REQUEST && request != NULL) {
            request->state = REQUEST_NEW;
            request_lost(request, sent, error, text);
        }
    }
}

void connection_fail(struct connection *connection, int error, const char *text) {
    ikv_client *client = connection->client;
    struct node *node = connection->node;
    char copy[CLIENT_TEXT_SIZE];
    if (connection->state == CONNECTION_CLOSED) {
        return;
    }
    snprintf(copy, sizeof copy, "%s", text); /* it may stand in what goes away now */
    bool was_ready = connection->state == CONNECTION_READY;
    connection->state = CONNECTION_CLOSED;
    timer_disarm(&connection->timer);
    list_remove(&connection->dirty_link);
    socket_close(connection);
    if (connection->lane < LANE_COUNT) { /* else a watch's */
        node->lanes[connection->lane] = NULL;
    }
    list_remove(&connection->link);
    list_push(&client->graveyard, &connection->link);
    if (error != IKV_ERR_CLOSED) { /* else it is nobody's fault */
        if (!was_ready || error == IKV_ERR_PROTOCOL) {
            node_penalise(node, error, copy);
        }
        client_note_failure(client, error, copy);
        topology_refresh(client);
    }
    route_nearest_lost(connection);
    release_sent(connection, error, copy);
    release_unsent(connection, error, copy);
    if (connection->watch != NULL) {
        watch_lost(connection, error, copy);
    }
}

void connection_drop(struct connection *connection) {
    connection_fail(connection, IKV_ERR_CLOSED, ikv_strerror(IKV_ERR_CLOSED));
}

void connection_free(struct connection *connection) {
    redisReaderFree(connection->reader);
    value_builder_clear(&connection->builder);
    tls_free(connection->tls);
    text_free(&connection->cipher);
    text_free(&connection->out);
    free(connection->large_memory);
    free(connection->ring);
    free(connection->queue_error);
    identity_map_free(&connection->authorised);
    identity_map_free(&connection->authorising);
    free(connection);
}

/* --- connecting
 * ------------------------------------------------------------------------------------- */

void connection_resolved(struct connection *connection) {
    connection->addresses_left = connection->node->n_addresses;
    if (connection->addresses_left == 0) {
        char text[CLIENT_TEXT_SIZE];
        snprintf(text, sizeof text, "%.200s: no address found for this host",
                 connection->node->name);
        connection_fail(connection, IKV_ERR_UNREACHABLE, text);
        return;
    }
    connect_next(connection);
}

static void connect_failed(struct connection *connection, const struct socket_failure *failure) {
    struct node *node = connection->node;
    connection->addresses_left--;
    if (node->n_addresses > 0) {
        node->next_address = (node->next_address + 1) % node->n_addresses;
    }
    if (connection->addresses_left == 0) {
        node->resolved_until_ms = 0; /* the name may stand for other addresses by now */
        connection_fail(connection, failure->error, failure->text);
        return;
    }
    socket_close(connection);
    connect_next(connection);
}

static void connect_next(struct connection *connection) {
    struct socket_failure failure;
    connection->state = CONNECTION_CONNECTING;
    if (socket_connect(connection, &failure) != SOCKET_OK) {
        connect_failed(connection, &failure);
    }
}

static void greet(struct connection *connection) {
    connection->state = CONNECTION_GREETING;
    if (!pipeline_put_greeting(connection)) {
        connection_fail(connection, IKV_ERR_NOMEM, "no memory for a connection");
        return;
    }
    connection_mark_dirty(connection);
}

static void shake_hands(struct connection *connection) {
    struct socket_failure failure;
    switch (socket_handshake(connection, &failure)) {
    case SOCKET_OK:
        greet(connection);
        return;
    case SOCKET_BLOCKED:
        return;
    case SOCKET_ENDED:
        connection_fail(connection, IKV_ERR_TLS, "the node closed during the TLS handshake");
        return;
    case SOCKET_FAILED:
        connection_fail(connection, failure.error, failure.text);
        return;
    }
}

static void connected(struct connection *connection) {
    struct socket_failure failure;
    if (socket_connected(connection, &failure) != SOCKET_OK) {
        connect_failed(connection, &failure);
        return;
    }
    socket_want_output(connection, false);
    if (!connection->client->tls) {
        greet(connection);
        return;
    }
    connection->tls = tls_new(connection->client->tls_context, connection->node->host);
    if (connection->tls == NULL) {
        connection_fail(connection, IKV_ERR_TLS, "no memory for TLS");
        return;
    }
    connection->state = CONNECTION_TLS;
    shake_hands(connection);
}

/* --- replies
 * ----------------------------------------------------------------------------------------- */

static void fail_with_reply(struct connection *connection, int error, const char *what) {
    char text[CLIENT_TEXT_SIZE];
    const ikv_value *value = &connection->builder.root;
    snprintf(text, sizeof text, "%.80s: %s: %.120s", connection->node->name, what,
             value->data != NULL ? value->data : "unexpected reply");
    connection_fail(connection, error, text);
}

static void ready(struct connection *connection) {
    ikv_client *client = connection->client;
    connection->state = CONNECTION_READY;
    wheel_arm(&client->wheel, &connection->timer, client->now_ms + client->options.probe_ms);
    node_is_well(connection->node);
    if (connection->watch != NULL) {
        watch_connected(connection);
        return;
    }
    if (connection->lane == LANE_SESSION) {
        client->session_used = true;
    }
    route_nearest_ready(connection);
    connection_mark_dirty(connection);
}

/* PING may be refused for want of authentication, which is an answer as well. */
static void answer_ping(struct connection *connection) {
    const ikv_value *value = &connection->builder.root;
    if (value_is_text(value, "PONG") || value_has_prefix(value, "NOAUTH")) {
        ready(connection);
    } else if (value->type == IKV_ERROR) {
        fail_with_reply(connection, IKV_ERR_UNREACHABLE, "greeting refused");
    } else {
        fail_with_reply(connection, IKV_ERR_PROTOCOL, "not an answer to PING");
    }
}

static void answer_greeting(struct connection *connection) {
    if (connection->builder.root.type == IKV_ERROR) {
        struct error_meaning meaning = error_meaning_of(&connection->builder.root);
        bool refused = meaning.error == IKV_ERR_AUTH || meaning.error == IKV_ERR_PERMISSION;
        fail_with_reply(connection, refused ? IKV_ERR_AUTH : IKV_ERR_UNREACHABLE,
                        "greeting refused");
    }
}

/* All requests for a name: those of one identity, and the others. */
static void take_of_name(struct list_node *from, uint64_t name, uint64_t identity,
                         struct list_node *own, struct list_node *others) {
    for (struct list_node *at = from->next; at != from;) {
        struct request *request = LIST_ENTRY(at, struct request, link);
        const struct identity *its = request->project->identity;
        at = at->next;
        if (its->name_id == name) {
            list_remove(&request->link);
            list_push(its->id == identity ? own : others, &request->link);
        }
    }
}

static void take_of_shard(struct connection *connection, uint64_t shard, struct list_node *to) {
    for (struct list_node *at = connection->unprimed.next; at != &connection->unprimed;) {
        struct request *request = LIST_ENTRY(at, struct request, link);
        unsigned own;
        at = at->next;
        if (!route_shard(connection->client, request->project, &own) || own == shard) {
            list_remove(&request->link);
            list_push(to, &request->link);
        }
    }
}

static void push_back(struct connection *connection, struct list_node *requests) {
    while (!list_empty(requests)) {
        struct request *request = LIST_ENTRY(list_first(requests), struct request, link);
        connection_push(connection, request);
    }
}

static void refuse_all(struct connection *connection, struct list_node *requests) {
    while (!list_empty(requests)) {
        struct request *request = LIST_ENTRY(list_first(requests), struct request, link);
        list_remove(&request->link);
        request->state = REQUEST_NEW;
        request_refused(request, connection, &connection->builder.root);
    }
}

/* NOPERM is said to whom shows no token where others have shown theirs. */
static void refuse_identity(struct connection *connection, struct list_node *requests) {
    ikv_value *value = &connection->builder.root;
    if (!value_has_prefix(value, "NOPERM")) {
        refuse_all(connection, requests);
        return;
    }
    while (!list_empty(requests)) {
        struct request *request = LIST_ENTRY(list_first(requests), struct request, link);
        list_remove(&request->link);
        request->state = REQUEST_NEW;
        request_finish(request, request->maybe_done ? IKV_ERR_UNKNOWN_OUTCOME : IKV_ERR_AUTH,
                       value->data);
    }
}

static void answer_authorise(struct connection *connection, uint64_t name) {
    const ikv_value *value = &connection->builder.root;
    uint64_t identity = identity_map_get(&connection->authorising, name);
    struct list_node waiting;
    struct list_node others;
    list_init(&waiting);
    list_init(&others);
    identity_map_remove(&connection->authorising, name);
    take_of_name(&connection->unauthorised, name, identity, &waiting, &others);
    if (value->type != IKV_ERROR) {
        /* Without memory the identity is asked for again by the next request. */
        bool known = identity_map_put(&connection->authorised, name, identity);
        if (known && connection->newest_switch == identity) {
            connection->current = identity;
        }
        connection->open_to_all = !connection->used_token;
        push_back(connection, &waiting);
    } else if (strstr(value->data, "unknown command 'PROJECT'") != NULL) {
        connection->no_use = true;
        push_back(connection, &waiting);
    } else {
        refuse_identity(connection, &waiting);
    }
    push_back(connection, &others);
}

static void answer_prime(struct connection *connection, uint64_t shard) {
    struct list_node waiting;
    list_init(&waiting);
    connection->priming &= ~((uint64_t)1 << shard);
    take_of_shard(connection, shard, &waiting);
    if (connection->builder.root.type == IKV_ERROR) {
        refuse_all(connection, &waiting);
    } else {
        connection->primed |= (uint64_t)1 << shard;
        push_back(connection, &waiting);
    }
}

/* EXEC's error only says that there was one; the first refusal of a command says which. */
static void answer_request(struct connection *connection, struct request *request) {
    struct value_builder *builder = &connection->builder;
    char *queue_error = connection->queue_error;
    connection->queue_error = NULL;
    if (request != NULL) {
        if (queue_error != NULL && builder->root.type == IKV_ERROR) {
            builder->root.data = queue_error;
            builder->root.size = strlen(queue_error);
        }
        request_answer(request, connection, builder);
    }
    free(queue_error);
}

static void note_queue_error(struct connection *connection) {
    const ikv_value *value = &connection->builder.root;
    if (value->type == IKV_ERROR && connection->queue_error == NULL) {
        connection->queue_error = strdup(value->data);
    }
}

static void answer(struct connection *connection) {
    if (connection->ring_head == connection->ring_tail) {
        fail_with_reply(connection, IKV_ERR_PROTOCOL, "a reply that nobody asked for");
        return;
    }
    struct entry *entry = pipeline_entry(connection, connection->ring_head);
    if (--entry->replies > 0) {
        note_queue_error(connection);
        return;
    }
    struct entry done = *entry;
    connection->ring_head++;
    connection->owing_since_ms = connection->client->now_ms;
    switch (done.kind) {
    case ENTRY_REQUEST:
        connection->node->failures = 0; /* it does more than greet */
        answer_request(connection, done.request);
        return;
    case ENTRY_GREETING:
        answer_greeting(connection);
        return;
    case ENTRY_PING:
        answer_ping(connection);
        return;
    case ENTRY_AUTHORISE:
        answer_authorise(connection, done.subject);
        return;
    case ENTRY_USE:
        if (connection->builder.root.type == IKV_ERROR) {
            fail_with_reply(connection, IKV_ERR_PROTOCOL, "a project in use was refused");
        }
        return;
    case ENTRY_SETTING:
        return;
    case ENTRY_PRIME:
        answer_prime(connection, done.subject);
        return;
    }
}

static bool is_stream(const struct connection *connection) {
    return connection->watch != NULL && connection->state == CONNECTION_READY &&
           connection->ring_head == connection->ring_tail;
}

static void handle_replies(struct connection *connection) {
    while (connection->state != CONNECTION_CLOSED) {
        enum value_status status = value_next(connection->reader, &connection->builder);
        if (status == VALUE_MORE) {
            break;
        }
        if (status == VALUE_BROKEN) {
            char text[CLIENT_TEXT_SIZE];
            snprintf(text, sizeof text, "%.80s does not speak the protocol: %.120s",
                     connection->node->name, redisReaderGetError(connection->reader));
            connection_fail(connection, IKV_ERR_PROTOCOL, text);
            return;
        }
        if (is_stream(connection)) {
            watch_answer(connection, &connection->builder.root);
        } else {
            answer(connection);
        }
    }
}

/* --- reading
 * ------------------------------------------------------------------------------------------ */

static void feed(struct connection *connection, const char *data, size_t size) {
    const ikv_client *client = connection->client;
    connection->heard_at_ms = client->now_ms;
    while (size > 0 && connection->state != CONNECTION_CLOSED) {
        size_t piece = size < FEED_SIZE ? size : FEED_SIZE;
        if (redisReaderFeed(connection->reader, data, piece) != REDIS_OK) {
            connection_fail(connection, IKV_ERR_NOMEM, "no memory for a reply");
            return;
        }
        data += piece;
        size -= piece;
        handle_replies(connection);
        if (connection->state != CONNECTION_CLOSED &&
            connection->reader->len - connection->reader->pos > client->options.max_reply) {
            connection_fail(connection, IKV_ERR_PROTOCOL,
                            "a reply is larger than the client takes (IKV_OPTION_MAX_REPLY)");
        }
    }
}

static void read_some(struct connection *connection) {
    ikv_client *client = connection->client;
    for (unsigned i = 0; i < READS_PER_EVENT; i++) {
        struct socket_failure failure;
        size_t got = 0;
        switch (socket_receive(connection, client->scratch, CLIENT_SCRATCH, &got, &failure)) {
        case SOCKET_OK:
            feed(connection, client->scratch, got);
            break;
        case SOCKET_BLOCKED:
            return;
        case SOCKET_ENDED: {
            char text[CLIENT_TEXT_SIZE];
            snprintf(text, sizeof text, "%.200s closed the connection", connection->node->name);
            connection_fail(connection, IKV_ERR_UNREACHABLE, text);
            return;
        }
        case SOCKET_FAILED:
            connection_fail(connection, failure.error, failure.text);
            return;
        }
        /* A short read from a plain socket has emptied it. */
        if (connection->state == CONNECTION_CLOSED ||
            (got < CLIENT_SCRATCH && connection->tls == NULL)) {
            return;
        }
    }
}

void connection_event(struct connection *connection, uint32_t events) {
    switch (connection->state) {
    case CONNECTION_RESOLVING:
    case CONNECTION_CLOSED:
        return;
    case CONNECTION_CONNECTING:
        if ((events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) != 0) {
            connected(connection);
        }
        return;
    case CONNECTION_TLS:
        shake_hands(connection);
        return;
    case CONNECTION_GREETING:
    case CONNECTION_READY:
        break;
    }
    if ((events & (EPOLLIN | EPOLLERR | EPOLLHUP)) != 0) {
        read_some(connection);
    }
    if (connection->state != CONNECTION_CLOSED) {
        connection_mark_dirty(connection); /* room in the socket, or in the ring */
    }
}

/* --- health
 * -------------------------------------------------------------------------------------------- */

static uint64_t silent_since(const struct connection *connection) {
    uint64_t owing = connection->owing_since_ms;
    return connection->heard_at_ms > owing ? connection->heard_at_ms : owing;
}

static void check_health(struct connection *connection, uint64_t now_ms) {
    ikv_client *client = connection->client;
    bool owes = connection->ring_head != connection->ring_tail || connection->watch != NULL;
    uint64_t silence = now_ms - silent_since(connection);
    uint64_t patience = client->options.probe_ms + (is_stream(connection) ? WATCH_SILENCE_MS : 0);
    wheel_arm(&client->wheel, &connection->timer, now_ms + client->options.probe_ms);
    if (owes && silence >= client->options.stall_ms) {
        char text[CLIENT_TEXT_SIZE];
        snprintf(text, sizeof text, "%.120s owes answers for %llu ms", connection->node->name,
                 (unsigned long long)silence);
        connection_fail(connection, IKV_ERR_TIMEOUT, text);
    } else if (owes && silence >= patience && connection->lane != LANE_CONTROL) {
        node_probe(connection->node);
    }
}

static void fire(struct timer *timer, uint64_t now_ms) {
    struct connection *connection = LIST_ENTRY(timer, struct connection, timer);
    if (connection->state == CONNECTION_READY) {
        check_health(connection, now_ms);
        return;
    }
    char text[CLIENT_TEXT_SIZE];
    snprintf(text, sizeof text, "%.120s: no connection within %llu ms", connection->node->name,
             (unsigned long long)connection->client->options.connect_timeout_ms);
    connection_fail(connection, IKV_ERR_UNREACHABLE, text);
}
