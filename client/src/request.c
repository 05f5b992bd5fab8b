/* Requests: made by callers, judged and finished by the client's thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/src/backoff.h"
#include "client/src/client.h"
#include "client/src/connection.h"
#include "client/src/errors.h"

enum {
    INLINE_BODY = 16 * 1024, /* larger ones are memory of their own, so that it can go early */
    RETRY_FIRST_MS = 10,
    RETRY_MAX_MS = 500,
    REDIRECTS_MAX = 3, /* then the nodes forward, since they do not agree who leads */
    TOO_OLD_MS = 1000
};

/* --- making ------------------------------------------------------------------------------------
 */

static struct request *make(struct ikv_project *project, size_t body_size, char **body) {
    bool is_inline = body_size <= INLINE_BODY;
    struct request *request = malloc(sizeof *request + (is_inline ? body_size : 0));
    if (request == NULL) {
        return NULL;
    }
    memset(request, 0, sizeof *request);
    if (is_inline) {
        *body = (char *)request + sizeof *request;
    } else {
        request->body_memory = malloc(body_size);
        *body = request->body_memory;
    }
    if (*body == NULL) {
        free(request);
        return NULL;
    }
    request->body = *body;
    request->body_size = body_size;
    if (project != NULL) {
        project_ref(project);
        request->project = project;
    }
    list_init(&request->link);
    list_init(&request->live_link);
    list_init(&request->once_link);
    return request;
}

static char *put_bulk(char *at, const ikv_bytes *bytes) {
    at += text_format_header(at, '$', bytes->size);
    if (bytes->size > 0) {
        memcpy(at, bytes->data, bytes->size);
    }
    at += bytes->size;
    *at++ = '\r';
    *at++ = '\n';
    return at;
}

static size_t bulk_size(const ikv_bytes *bytes) {
    char header[TEXT_HEADER_SIZE];
    return text_format_header(header, '$', bytes->size) + bytes->size + 2;
}

struct request *request_new(struct ikv_project *project, size_t argc, const ikv_bytes *argv) {
    size_t size = 0;
    for (size_t i = 0; i < argc; i++) {
        size += bulk_size(&argv[i]);
    }
    char *body = NULL;
    struct request *request = make(project, size, &body);
    if (request == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < argc; i++) {
        body = put_bulk(body, &argv[i]);
    }
    request->argc = (uint32_t)argc;
    return request;
}

struct request *request_new_transaction(struct ikv_project *project, uint32_t commands,
                                        const void *body, size_t size) {
    char *copy = NULL;
    struct request *request = make(project, size, &copy);
    if (request != NULL) {
        memcpy(copy, body, size);
        request->commands = commands;
    }
    return request;
}

bool request_append_command(struct text *out, size_t argc, const ikv_bytes *argv) {
    bool done = text_append_header(out, '*', argc);
    for (size_t i = 0; i < argc && done; i++) {
        done = text_append_bulk(out, argv[i].data, argv[i].size);
    }
    return done;
}

void request_free(struct request *request) {
    if (request->project != NULL) {
        project_unref(request->project);
    }
    reply_clear(&request->reply);
    free(request->body_memory);
    free(request);
}

/* --- handing over ------------------------------------------------------------------------------
 */

static int take_room(ikv_client *client, const struct request *request) {
    size_t n = atomic_fetch_add(&client->n_requests, 1);
    size_t bytes = atomic_fetch_add(&client->n_bytes, request->body_size);
    if (n < client->options.max_requests &&
        bytes + request->body_size <= client->options.max_bytes) {
        return IKV_OK;
    }
    atomic_fetch_sub(&client->n_requests, 1);
    atomic_fetch_sub(&client->n_bytes, request->body_size);
    return IKV_ERR_BUSY;
}

static void give_room(ikv_client *client, const struct request *request) {
    atomic_fetch_sub(&client->n_requests, 1);
    atomic_fetch_sub(&client->n_bytes, request->body_size);
}

int request_submit(ikv_client *client, struct request *request, uint32_t timeout_ms,
                   ikv_callback callback, void *data) {
    int error = take_room(client, request);
    if (error != IKV_OK) {
        return error;
    }
    uint64_t timeout = timeout_ms > 0 ? timeout_ms : client->options.timeout_ms;
    request->deadline_ms = clock_now_ms() + timeout;
    request->callback = callback;
    request->data = data;
    pthread_mutex_lock(&client->mutex);
    if (client->closing) {
        pthread_mutex_unlock(&client->mutex);
        give_room(client, request);
        return IKV_ERR_CLOSED;
    }
    list_push(&client->inbox, &request->link);
    if (client->corked == 0) {
        client_wake(client);
    }
    pthread_mutex_unlock(&client->mutex);
    return IKV_OK;
}

/* --- the client's thread: beginning and end
 * ------------------------------------------------------- */

static void expire(struct request *request);

static void fire(struct timer *timer, uint64_t now_ms) {
    struct request *request = LIST_ENTRY(timer, struct request, timer);
    if (now_ms >= request->deadline_ms) {
        expire(request);
    } else {
        route_request(request);
    }
}

void request_start(ikv_client *client, struct request *request) {
    request->client = client;
    list_push(&client->live, &request->live_link);
    timer_init(&request->timer, fire);
    wheel_arm(&client->wheel, &request->timer, request->deadline_ms);
    route_request(request);
}

void request_start_internal(ikv_client *client, struct request *request, uint64_t timeout_ms,
                            ikv_callback callback, void *data) {
    request->is_internal = true;
    request->callback = callback;
    request->data = data;
    request->deadline_ms = client->now_ms + timeout_ms;
    request_start(client, request);
}

/* Takes it out of wherever it is. */
static void withdraw(struct request *request) {
    if (request->state == REQUEST_SENT) {
        connection_orphan(request);
    }
    list_remove(&request->link);
    timer_disarm(&request->timer);
    request->state = REQUEST_NEW;
    request->connection = NULL;
}

static void finish(struct request *request) {
    ikv_client *client = request->client;
    withdraw(request);
    once_release(request);
    list_remove(&request->live_link);
    if (!request->is_internal) {
        give_room(client, request);
        client->called_back = true;
    }
    free(request->body_memory); /* a reply that is kept keeps the request */
    request->body_memory = NULL;
    if (request->project != NULL) {
        project_unref(request->project);
        request->project = NULL;
    }
    bool taken = false;
    request->reply.taken = &taken;
    request->callback(request->data, &request->reply);
    if (!taken) {
        request_free(request);
    }
}

void request_finish(struct request *request, int error, const char *text) {
    char *copy = text != NULL ? strdup(text) : NULL; /* it may be the reply's own */
    reply_set_error(&request->reply, error, copy);
    free(copy);
    finish(request);
}

/* An attempt may have been carried out, and that matters. */
static bool is_open(const struct request *request) {
    bool sent = request->state == REQUEST_SENT && connection_has_sent(request);
    return !request->retry_safe && (sent || request->maybe_done);
}

static void expire(struct request *request) {
    const ikv_client *client = request->client;
    char text[CLIENT_TEXT_SIZE + CLIENT_NAME_SIZE + 64];
    if (is_open(request)) {
        request_finish(request, IKV_ERR_UNKNOWN_OUTCOME,
                       "no answer by the deadline; it may or may not have been carried out");
    } else if (request->state == REQUEST_SENT) {
        snprintf(text, sizeof text, "no answer from %s by the deadline",
                 connection_node_name(request->connection));
        request_finish(request, IKV_ERR_TIMEOUT, text);
    } else if (request->why != IKV_OK) {
        request_finish(request, request->why, request->reply.message);
    } else if (client->last_error != IKV_OK) {
        snprintf(text, sizeof text, "no node could be used by the deadline; the last failure: %s",
                 client->last_text);
        request_finish(request, client->last_error, text);
    } else {
        request_finish(request, IKV_ERR_UNREACHABLE, "no node was reached by the deadline");
    }
}

void request_abandon(struct request *request) {
    bool open = is_open(request);
    request_finish(request, open ? IKV_ERR_UNKNOWN_OUTCOME : IKV_ERR_CLOSED,
                   open ? "the client was closed before the answer came"
                        : "the client was closed before the request was carried out");
}

/* --- again
 * ---------------------------------------------------------------------------------------- */

void request_wait(struct request *request, struct list_node *list) {
    list_remove(&request->link);
    list_push(list, &request->link);
    request->state = REQUEST_WAITING;
}

void request_park(struct request *request, uint64_t delay_ms) {
    ikv_client *client = request->client;
    uint64_t at_ms = client->now_ms + delay_ms;
    list_remove(&request->link);
    request->state = REQUEST_PARKED;
    request->connection = NULL;
    wheel_arm(&client->wheel, &request->timer,
              at_ms < request->deadline_ms ? at_ms : request->deadline_ms);
}

/* Why it is not done yet; told if the deadline comes first. */
static void note_why(struct request *request, int error, const char *text) {
    reply_set_error(&request->reply, IKV_OK, text);
    request->why = error;
}

void request_retry(struct request *request, int why, const char *text) {
    ikv_client *client = request->client;
    note_why(request, why, text);
    request->attempts++;
    request_park(request,
                 backoff_ms(&client->prng, request->attempts, RETRY_FIRST_MS, RETRY_MAX_MS));
}

void request_lost(struct request *request, bool sent, int error, const char *text) {
    bool open = sent && !request->retry_safe;
    if (open && request->once == NULL) {
        request_finish(request, IKV_ERR_UNKNOWN_OUTCOME, text);
        return;
    }
    request->maybe_done |= open;
    if (request->no_retry) {
        request_finish(request, error, text);
    } else if (sent && request->attempts > 0) {
        request_retry(request, error, text);
    } else {
        /* At once: only the second lost connection in a row is a reason to wait. */
        request->attempts += sent ? 1 : 0;
        note_why(request, error, text);
        request_park(request, 0);
    }
}

/* --- answers
 * --------------------------------------------------------------------------------------- */

/* Behind MOVED: "SLOT HOST:PORT", the node that leads the request's shard. */
static void follow(struct request *request, const ikv_value *value) {
    ikv_client *client = request->client;
    const char *address = strrchr(value->data, ' ');
    struct node *node = address != NULL ? node_find(client, address + 1) : NULL;
    unsigned shard;
    if (node != NULL && node->id != 0 && request->project != NULL &&
        route_shard(client, request->project, &shard)) {
        client->topology.leaders[shard] = node->id;
    } else {
        request->redirects = REDIRECTS_MAX;
    }
    topology_refresh(client);
    request->redirects++;
    note_why(request, IKV_ERR_NO_LEADER, value->data);
    request_park(request, request->redirects < REDIRECTS_MAX ? 0 : RETRY_FIRST_MS);
}

static void answer_final(struct request *request, struct connection *connection,
                         struct error_meaning meaning, const ikv_value *value) {
    if (meaning.error == IKV_ERR_AUTH) {
        connection_forget_identity(connection, request);
    }
    bool open = is_open(request) && !meaning.settles;
    request_finish(request, open ? IKV_ERR_UNKNOWN_OUTCOME : meaning.error, value->data);
}

static void answer_uncertain(struct request *request, const ikv_value *value) {
    if (!request->retry_safe && (request->once == NULL || value_has_prefix(value, "FORGOTTEN"))) {
        request_finish(request, IKV_ERR_UNKNOWN_OUTCOME, value->data);
        return;
    }
    request->maybe_done |= !request->retry_safe;
    request_retry(request, IKV_ERR_NO_LEADER, value->data);
}

static void answer_session_gone(struct request *request, const ikv_value *value) {
    if (is_open(request) || request->once == NULL) {
        request_finish(request, IKV_ERR_UNKNOWN_OUTCOME, value->data);
        return;
    }
    once_forget(request);
    note_why(request, IKV_ERR_NO_LEADER, value->data);
    request_park(request, 0);
}

/* A session goes on at a fresher replica as a whole: were only this read answered by another one,
 * the reads behind it could go back. An eventual read may ask the leader alone. */
static void answer_stale(struct request *request, struct connection *connection,
                         const ikv_value *value) {
    connection->node->too_old_until_ms = request->client->now_ms + TOO_OLD_MS;
    request->to_leader = connection->lane == LANE_EVENTUAL;
    request_retry(request, IKV_ERR_STALE, value->data);
    if (connection->lane == LANE_SESSION) {
        connection_fail(connection, IKV_ERR_STALE, "the replica is too far behind");
    }
}

void request_refused(struct request *request, struct connection *connection,
                     const ikv_value *value) {
    struct error_meaning meaning = error_meaning_of(value);
    switch (meaning.action) {
    case ERROR_FINAL:
        answer_final(request, connection, meaning, value);
        return;
    case ERROR_AGAIN:
        if (meaning.error == IKV_ERR_NO_LEADER) {
            topology_refresh(request->client);
        }
        request_retry(request, meaning.error, value->data);
        return;
    case ERROR_MOVED:
        follow(request, value);
        return;
    case ERROR_UNCERTAIN:
        answer_uncertain(request, value);
        return;
    case ERROR_FRESHER:
        answer_stale(request, connection, value);
        return;
    case ERROR_SESSION:
        answer_session_gone(request, value);
        return;
    }
}

void request_answer(struct request *request, struct connection *connection,
                    struct value_builder *builder) {
    request->state = REQUEST_NEW; /* out of the ring */
    if (builder->root.type == IKV_ERROR) {
        request_refused(request, connection, &builder->root);
        return;
    }
    reply_clear(&request->reply);
    value_move(builder, &request->reply);
    finish(request);
}
