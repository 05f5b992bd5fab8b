#include "client/src/pipeline.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/src/socket.h"

enum {
    OUTPUT_PIECE = 64 * 1024, /* gathered before it is sent */
    OUTPUT_KEPT = 256 * 1024, /* larger buffers are not kept when they are empty */
    COPY_MAX = 16 * 1024,     /* larger bodies are sent from where they are */
    RING_MAX = 32768,         /* requests sent and not answered, of one connection */
    TOKENS_MAX = 1000         /* that a connection has shown; the node takes 1024 */
};

/* --- the ring
 * ---------------------------------------------------------------------------------------- */

struct entry *pipeline_entry(struct connection *connection, uint64_t number) {
    return &connection->ring[number & (connection->ring_capacity - 1)];
}

static bool grow_ring(struct connection *connection) {
    size_t count = (size_t)(connection->ring_tail - connection->ring_head);
    if (count < connection->ring_capacity) {
        return true;
    }
    size_t capacity = connection->ring_capacity > 0 ? connection->ring_capacity * 2 : 64;
    struct entry *ring = calloc(capacity, sizeof *ring);
    if (ring == NULL) {
        return false;
    }
    for (uint64_t i = connection->ring_head; i < connection->ring_tail; i++) {
        ring[i & (capacity - 1)] = *pipeline_entry(connection, i);
    }
    free(connection->ring);
    connection->ring = ring;
    connection->ring_capacity = capacity;
    return true;
}

/* One more answer owed, for what is put into the output next. */
static struct entry *add_entry(struct connection *connection, enum entry_kind kind) {
    if (!grow_ring(connection)) {
        return NULL;
    }
    if (connection->ring_head == connection->ring_tail) {
        connection->owing_since_ms = connection->client->now_ms;
    }
    struct entry *entry = pipeline_entry(connection, connection->ring_tail++);
    *entry = (struct entry){.kind = kind, .replies = 1, .start = connection->written};
    return entry;
}

/* --- what goes between requests
 * ------------------------------------------------------------------------ */

static bool put_words(struct connection *connection, enum entry_kind kind, uint64_t subject,
                      unsigned argc, const char *const *argv) {
    struct entry *entry = add_entry(connection, kind);
    size_t before = connection->out.size;
    if (entry == NULL || !text_append_words(&connection->out, argc, argv)) {
        return false;
    }
    entry->subject = subject;
    connection->written += connection->out.size - before;
    return true;
}

bool pipeline_put_greeting(struct connection *connection) {
    const struct ikv_options *options = &connection->client->options;
    const char *auth[] = {"AUTH", options->user, options->secret};
    const char *ping[] = {"PING"};
    if (options->secret != NULL && !put_words(connection, ENTRY_GREETING, 0, 3, auth)) {
        return false;
    }
    return put_words(connection, ENTRY_PING, 0, 1, ping);
}

bool connection_put_command(struct connection *connection, size_t argc, const ikv_bytes *argv) {
    size_t before = connection->out.size;
    bool done = request_append_command(&connection->out, argc, argv);
    connection->written += connection->out.size - before;
    return done;
}

static bool put_switch(struct connection *connection, enum entry_kind kind,
                       const struct identity *identity) {
    const char *use[] = {"PROJECT", "USE", identity->name};
    const char *auth[] = {"AUTH", identity->name, identity->token != NULL ? identity->token : "-"};
    bool first = kind == ENTRY_AUTHORISE;
    bool by_auth = connection->no_use || (first && identity->token != NULL);
    if (by_auth && identity->token != NULL) {
        connection->used_token = true;
        connection->open_to_all = false;
    }
    connection->newest_switch = identity->id;
    connection->current = first ? 0 : identity->id;
    return put_words(connection, kind, identity->name_id, 3, by_auth ? auth : use);
}

enum step { STEP_GO, STEP_WAITS, STEP_NO_MEMORY };

static void wait_in(struct request *request, struct list_node *list) {
    list_remove(&request->link);
    list_push(list, &request->link);
}

/* The node remembers no more tokens for a connection: it is brought back to its beginning, behind
 * what is under way. */
static bool start_over(struct connection *connection) {
    const struct ikv_options *options = &connection->client->options;
    static const char *const reset[] = {"RESET"};
    const char *auth[] = {"AUTH", options->user, options->secret};
    identity_map_free(&connection->authorised);
    connection->current = 0;
    connection->newest_switch = 0;
    connection->open_to_all = false;
    connection->used_token = false;
    connection->redirect = -1;
    connection->level_set = false;
    connection->needs_priming = true;
    connection->primed = 0;
    return put_words(connection, ENTRY_SETTING, 0, 1, reset) &&
           (options->secret == NULL || put_words(connection, ENTRY_GREETING, 0, 3, auth));
}

static bool put_authorise(struct connection *connection, const struct identity *identity) {
    if (connection->authorised.count >= TOKENS_MAX && connection->authorising.count == 0 &&
        connection->priming == 0 && !start_over(connection)) {
        return false;
    }
    identity_map_remove(&connection->authorised, identity->name_id);
    return identity_map_put(&connection->authorising, identity->name_id, identity->id) &&
           put_switch(connection, ENTRY_AUTHORISE, identity);
}

/* Puts the request's project into use, or lets the request wait until that is known to be allowed.
 */
static enum step use_project(struct connection *connection, struct request *request) {
    const struct identity *identity = request->project->identity;
    if (connection->current == identity->id) {
        return STEP_GO;
    }
    if (identity_map_get(&connection->authorised, identity->name_id) == identity->id ||
        (connection->open_to_all && identity->token == NULL)) {
        return put_switch(connection, ENTRY_USE, identity) ? STEP_GO : STEP_NO_MEMORY;
    }
    wait_in(request, &connection->unauthorised);
    if (identity_map_get(&connection->authorising, identity->name_id) != 0) {
        return STEP_WAITS;
    }
    return put_authorise(connection, identity) ? STEP_WAITS : STEP_NO_MEMORY;
}

static bool put_session_level(struct connection *connection) {
    static const char *const words[] = {"CONSISTENCY", "SESSION"};
    connection->level_set = true;
    return put_words(connection, ENTRY_SETTING, 0, 2, words);
}

/* A session that goes on over a new connection first reads at the leader: the answer raises what
 * this connection has seen of the shard above all that the session saw before. */
static bool put_prime(struct connection *connection, unsigned shard) {
    static const char *const strict[] = {"CONSISTENCY", "LINEARIZABLE"};
    static const char *const read[] = {"EXISTS", "invoke-kv"};
    connection->priming |= (uint64_t)1 << shard;
    return put_words(connection, ENTRY_SETTING, 0, 2, strict) &&
           put_words(connection, ENTRY_PRIME, shard, 2, read) && put_session_level(connection);
}

static enum step prepare_session(struct connection *connection, struct request *request) {
    unsigned shard;
    if (connection->needs_priming && request->retry_safe &&
        route_shard(connection->client, request->project, &shard)) {
        uint64_t bit = (uint64_t)1 << shard;
        if ((connection->primed & bit) == 0) {
            wait_in(request, &connection->unprimed);
            if ((connection->priming & bit) != 0) {
                return STEP_WAITS;
            }
            return put_prime(connection, shard) ? STEP_WAITS : STEP_NO_MEMORY;
        }
    }
    return connection->level_set || put_session_level(connection) ? STEP_GO : STEP_NO_MEMORY;
}

static enum step prepare_eventual(struct connection *connection, uint32_t max_stale_ms) {
    char number[16];
    const char *words[] = {"CONSISTENCY", "EVENTUAL", "MAXSTALE", number};
    if (connection->level_set && connection->max_stale_ms == max_stale_ms) {
        return STEP_GO;
    }
    snprintf(number, sizeof number, "%u", max_stale_ms);
    connection->level_set = true;
    connection->max_stale_ms = max_stale_ms;
    bool done = put_words(connection, ENTRY_SETTING, 0, max_stale_ms > 0 ? 4 : 2, words);
    return done ? STEP_GO : STEP_NO_MEMORY;
}

static enum step prepare_redirect(struct connection *connection, bool redirect) {
    const char *words[] = {"CLUSTER", "REDIRECT", redirect ? "ON" : "OFF"};
    if (connection->redirect == (redirect ? 1 : 0)) {
        return STEP_GO;
    }
    connection->redirect = redirect ? 1 : 0;
    return put_words(connection, ENTRY_SETTING, 0, 3, words) ? STEP_GO : STEP_NO_MEMORY;
}

static enum step prepare(struct connection *connection, struct request *request) {
    if (request->project == NULL) {
        return STEP_GO;
    }
    enum step step = use_project(connection, request);
    if (step != STEP_GO) {
        return step;
    }
    switch (connection->lane) {
    case LANE_SESSION:
        return prepare_session(connection, request);
    case LANE_EVENTUAL:
        return prepare_eventual(connection, request->project->max_stale_ms);
    case LANE_WRITE:
    case LANE_READ:
    case LANE_BULK:
        return prepare_redirect(connection, request->redirect);
    default:
        return STEP_GO;
    }
}

/* --- requests
 * --------------------------------------------------------------------------------------------- */

static bool append_front(struct text *out, const struct request *request) {
    static const char *const multi[] = {"MULTI"};
    if (request->commands > 0) {
        return text_append_words(out, 1, multi);
    }
    unsigned extra = request->once != NULL ? once_argc() : 0;
    return text_append_header(out, '*', request->argc + extra) &&
           (request->once == NULL || once_append(out, request));
}

static bool append_back(struct text *out, const struct request *request) {
    static const char *const exec[] = {"EXEC"};
    if (request->commands == 0) {
        return true;
    }
    if (request->once == NULL) {
        return text_append_words(out, 1, exec);
    }
    return text_append_header(out, '*', once_argc() + 1) && once_append(out, request) &&
           text_append_bulk(out, exec[0], strlen(exec[0]));
}

/* A large single command is sent from where it is; nothing may be put behind it before it has left.
 */
static bool is_sent_in_place(const struct request *request) {
    return request->commands == 0 && request->body_size > COPY_MAX;
}

static bool put_request(struct connection *connection, struct request *request) {
    struct text *out = &connection->out;
    size_t before = out->size;
    bool in_place = is_sent_in_place(request);
    struct entry *entry = add_entry(connection, ENTRY_REQUEST);
    if (entry == NULL || !append_front(out, request) ||
        (!in_place && !text_append(out, request->body, request->body_size)) ||
        !append_back(out, request)) {
        return false;
    }
    entry->request = request;
    entry->replies = request->commands > 0 ? request->commands + 2 : 1;
    request->number = connection->ring_tail - 1;
    request->state = REQUEST_SENT;
    list_remove(&request->link);
    connection->written += out->size - before;
    if (in_place) {
        connection->large = request->body;
        connection->large_size = request->body_size;
        connection->large_request = request;
        connection->written += request->body_size;
    }
    return true;
}

/* Moves requests into the output until that is worth a call; false when the connection has failed.
 */
static bool fill(struct connection *connection) {
    while (connection->state == CONNECTION_READY && !list_empty(&connection->pending) &&
           connection->large == NULL && connection->out.size < OUTPUT_PIECE &&
           connection->ring_tail - connection->ring_head < RING_MAX) {
        struct request *request =
            LIST_ENTRY(list_first(&connection->pending), struct request, link);
        enum step step = prepare(connection, request);
        if (step == STEP_NO_MEMORY || (step == STEP_GO && !put_request(connection, request))) {
            connection_fail(connection, IKV_ERR_NOMEM, "no memory for requests");
            return false;
        }
    }
    return true;
}

/* --- sending
 * ------------------------------------------------------------------------------------------------
 */

static void consume_large(struct connection *connection, size_t size) {
    connection->large += size;
    connection->large_size -= size;
    if (connection->large_size == 0) {
        connection->large = NULL;
        connection->large_request = NULL;
        free(connection->large_memory);
        connection->large_memory = NULL;
    }
}

static void consume_out(struct connection *connection, size_t size) {
    struct text *out = &connection->out;
    connection->out_offset += size;
    if (connection->out_offset == out->size) {
        connection->out_offset = 0;
        out->size = 0;
        if (out->capacity > OUTPUT_KEPT) {
            text_free(out);
        }
    }
}

static bool has_output(const struct connection *connection) {
    return connection->out.size > connection->out_offset || connection->large != NULL;
}

static enum socket_status send_some(struct connection *connection, struct socket_failure *failure) {
    bool from_out = connection->out.size > connection->out_offset;
    const char *data = from_out ? connection->out.data + connection->out_offset : connection->large;
    size_t size = from_out ? connection->out.size - connection->out_offset : connection->large_size;
    size_t sent = 0;
    enum socket_status status = socket_send(connection, data, size, &sent, failure);
    if (status == SOCKET_OK) {
        connection->sent += sent;
        if (from_out) {
            consume_out(connection, sent);
        } else {
            consume_large(connection, sent);
        }
    }
    return status;
}

/* TLS keeps up to a piece that is not counted in `out` any more. */
static bool has_cipher(const struct connection *connection) {
    return connection->tls != NULL && connection->cipher.size > connection->cipher_offset;
}

static enum socket_status send_cipher_rest(struct connection *connection,
                                           struct socket_failure *failure) {
    size_t sent = 0;
    return socket_send(connection, NULL, 0, &sent, failure);
}

void connection_flush(struct connection *connection) {
    struct socket_failure failure;
    list_remove(&connection->dirty_link);
    if (connection->state != CONNECTION_READY && connection->state != CONNECTION_GREETING) {
        return;
    }
    for (;;) {
        if (!has_output(connection) && !fill(connection)) {
            return;
        }
        bool any = has_output(connection);
        if (!any && !has_cipher(connection)) {
            socket_want_output(connection, false);
            return;
        }
        enum socket_status status =
            any ? send_some(connection, &failure) : send_cipher_rest(connection, &failure);
        if (status == SOCKET_BLOCKED) {
            return;
        }
        if (status != SOCKET_OK) {
            connection_fail(connection, failure.error, failure.text);
            return;
        }
    }
}

void connection_mark_dirty(struct connection *connection) {
    if (list_empty(&connection->dirty_link)) {
        list_push(&connection->client->dirty, &connection->dirty_link);
    }
}

void connection_push(struct connection *connection, struct request *request) {
    list_remove(&request->link);
    list_push(&connection->pending, &request->link);
    request->state = REQUEST_PENDING;
    request->connection = connection;
    if (connection->state == CONNECTION_READY) {
        connection_mark_dirty(connection);
    }
}

/* --- requests that end before their answer
 * ------------------------------------------------------------------ */

bool connection_has_sent(const struct request *request) {
    struct connection *connection = request->connection;
    return connection->sent > pipeline_entry(connection, request->number)->start;
}

void connection_orphan(struct request *request) {
    struct connection *connection = request->connection;
    pipeline_entry(connection, request->number)->request = NULL;
    if (connection->large_request == request) {
        /* The rest has to leave all the same, or the node could not read what comes next. */
        connection->large_memory = request->body_memory;
        request->body_memory = NULL;
        connection->large_request = NULL;
    }
}

void connection_forget_identity(struct connection *connection, const struct request *request) {
    if (request->project == NULL) {
        return;
    }
    const struct identity *identity = request->project->identity;
    if (identity_map_get(&connection->authorised, identity->name_id) == identity->id) {
        identity_map_remove(&connection->authorised, identity->name_id);
    }
    if (connection->current == identity->id) {
        connection->current = 0;
    }
}
