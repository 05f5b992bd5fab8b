/* Watching keys: a connection of its own, resumed elsewhere when it is lost. An index of the log
 * can have many events; those of an index that was told in part come again and are skipped, so that
 * the caller sees each once. */
#include "client/src/watch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/src/backoff.h"
#include "client/src/connection.h"
#include "client/src/errors.h"

enum { RETRY_FIRST_MS = 20, RETRY_MAX_MS = 2000, PREFIX_MAX = CLIENT_KEY_SIZE };

static void watch_unref(struct ikv_watch *watch) {
    if (atomic_fetch_sub(&watch->refs, 1) == 1) {
        project_unref(watch->project);
        pthread_cond_destroy(&watch->detached);
        client_unref(watch->client);
        free(watch);
    }
}

/* --- telling
 * ------------------------------------------------------------------------------------------ */

static bool is_closing(struct ikv_watch *watch) {
    pthread_mutex_lock(&watch->client->mutex);
    bool closing = watch->is_closing;
    pthread_mutex_unlock(&watch->client->mutex);
    return closing;
}

static void tell(struct ikv_watch *watch, const ikv_event *event) {
    if (!is_closing(watch)) {
        watch->client->called_back = true;
        watch->callback(watch->data, event);
    }
}

static void tell_index(struct ikv_watch *watch, enum ikv_event_type type, uint64_t index) {
    ikv_event event = {.type = (int)type, .index = index, .message = ""};
    tell(watch, &event);
}

static void let_go(struct ikv_watch *watch) {
    if (watch->connection != NULL) {
        struct connection *connection = watch->connection;
        watch->connection = NULL;
        connection->watch = NULL;
        connection_drop(connection);
    }
}

/* The last event. The watch stays attached until it is closed. */
static void end(struct ikv_watch *watch, int error, const char *text) {
    if (watch->state == WATCH_ENDED) {
        return;
    }
    watch->state = WATCH_ENDED;
    timer_disarm(&watch->timer);
    ikv_event event = {
        .type = IKV_EVENT_END, .error = error, .index = watch->complete, .message = text};
    tell(watch, &event);
    let_go(watch);
}

/* --- beginning
 * ------------------------------------------------------------------------------------------ */

static void begin(struct ikv_watch *watch);

static void fire(struct timer *timer, uint64_t now_ms) {
    (void)now_ms;
    begin(LIST_ENTRY(timer, struct ikv_watch, timer));
}

static void retry(struct ikv_watch *watch) {
    ikv_client *client = watch->client;
    watch->state = WATCH_IDLE;
    watch->failures++;
    wheel_arm(&client->wheel, &watch->timer,
              client->now_ms +
                  backoff_ms(&client->prng, watch->failures, RETRY_FIRST_MS, RETRY_MAX_MS));
}

static void begin(struct ikv_watch *watch) {
    ikv_client *client = watch->client;
    if (!client->topology.known && !client->topology.unsupported) {
        topology_refresh(client);
    }
    struct node *node = node_pick(client, watch->not_this);
    if (node == NULL) {
        retry(watch);
        return;
    }
    watch->state = WATCH_CONNECTING;
    struct connection *connection = connection_new_watch(node, watch);
    if (connection == NULL && watch->state == WATCH_CONNECTING) {
        retry(watch);
    } else if (connection != NULL) {
        watch->connection = connection;
    }
}

static void put(struct connection *connection, size_t argc, const ikv_bytes *argv) {
    if (!connection_put_command(connection, argc, argv)) {
        connection_fail(connection, IKV_ERR_NOMEM, "no memory for a watch");
        return;
    }
    connection_mark_dirty(connection);
}

static void authorise(struct ikv_watch *watch, struct connection *connection) {
    const struct identity *identity = watch->project->identity;
    bool by_auth = watch->no_use || identity->token != NULL;
    const char *token = identity->token != NULL ? identity->token : "-";
    ikv_bytes auth[] = {ikv_text("AUTH"), ikv_text(identity->name), ikv_text(token)};
    ikv_bytes use[] = {ikv_text("PROJECT"), ikv_text("USE"), ikv_text(identity->name)};
    watch->state = WATCH_AUTHORISING;
    put(connection, 3, by_auth ? auth : use);
}

static void start(struct ikv_watch *watch, struct connection *connection) {
    char index[24];
    ikv_bytes words[] = {ikv_text("WATCHKEYS"), watch->prefix, ikv_text("FROM"), {index, 0}};
    words[3].size =
        (size_t)snprintf(index, sizeof index, "%llu", (unsigned long long)watch->complete);
    watch->state = WATCH_STARTING;
    put(connection, watch->resumes ? 4 : 2, words);
}

void watch_connected(struct connection *connection) {
    connection->watch->connection = connection;
    authorise(connection->watch, connection);
}

void watch_lost(struct connection *connection, int error, const char *text) {
    struct ikv_watch *watch = connection->watch;
    watch->connection = NULL;
    watch->not_this = connection->node;
    if (watch->state == WATCH_ENDED) {
        return;
    }
    if (error == IKV_ERR_AUTH) {
        end(watch, error, text);
    } else {
        retry(watch);
    }
}

/* --- events
 * --------------------------------------------------------------------------------------------- */

static void lose(struct ikv_watch *watch, const char *text) {
    connection_fail(watch->connection, IKV_ERR_PROTOCOL, text);
}

static void take_start(struct ikv_watch *watch, const ikv_value *value) {
    int64_t index;
    if (value->type != IKV_ARRAY || value->size != 3 ||
        !value_is_text(&value->elements[0], "watchkeys") ||
        !value_number(&value->elements[2], &index) || index < 0) {
        lose(watch, "the answer to WATCHKEYS is not one");
        return;
    }
    if (!watch->resumes) {
        watch->complete = (uint64_t)index;
        watch->partial = 0;
        watch->told = 0;
    }
    watch->resumes = true;
    watch->state = WATCH_RUNNING;
    watch->failures = 0;
    watch->gone = 0;
    watch->not_this = NULL;
    watch->skip = watch->told;
    tell_index(watch, IKV_EVENT_READY, watch->complete);
}

static void take_progress(struct ikv_watch *watch, uint64_t index) {
    if (index > watch->complete) {
        watch->complete = index;
    }
    watch->partial = 0;
    watch->told = 0;
    watch->skip = 0;
    tell_index(watch, IKV_EVENT_PROGRESS, watch->complete);
}

static void take_change(struct ikv_watch *watch, uint64_t index, const ikv_value *kind,
                        const ikv_value *key) {
    if (index <= watch->complete) {
        return; /* told before */
    }
    if (index != watch->partial) {
        if (watch->partial > watch->complete) {
            watch->complete = watch->partial;
        }
        watch->partial = index;
        watch->told = 0;
        watch->skip = 0;
    }
    if (watch->skip > 0) {
        watch->skip--;
        return;
    }
    watch->told++;
    ikv_event event = {.type = IKV_EVENT_CHANGE,
                       .index = index,
                       .kind = {kind->data, kind->size},
                       .key = {key->data, key->size},
                       .message = ""};
    tell(watch, &event);
}

static void take_event(struct ikv_watch *watch, const ikv_value *value) {
    int64_t index;
    if (value->type != IKV_ARRAY || value->size != 4 ||
        !value_is_text(&value->elements[0], "event") ||
        !value_number(&value->elements[1], &index) || index < 0 ||
        value->elements[2].type != IKV_STRING || value->elements[3].type != IKV_STRING) {
        lose(watch, "an event of WATCHKEYS is not one");
        return;
    }
    if (value_is_text(&value->elements[2], "progress")) {
        take_progress(watch, (uint64_t)index);
    } else {
        take_change(watch, (uint64_t)index, &value->elements[2], &value->elements[3]);
    }
}

/* The history of this node does not reach back. Another one's may; when none does there is a gap.
 */
static void take_gone(struct ikv_watch *watch) {
    ikv_client *client = watch->client;
    bool was_running = watch->state == WATCH_RUNNING;
    watch->gone += was_running ? 0 : 1;
    watch->not_this = watch->connection->node;
    let_go(watch);
    if (watch->gone >= client->n_nodes) {
        watch->gone = 0;
        watch->resumes = false;
        tell_index(watch, IKV_EVENT_GAP, watch->complete);
    }
    retry(watch);
}

static void take_error(struct ikv_watch *watch, const ikv_value *value) {
    struct error_meaning meaning = error_meaning_of(value);
    if (value_has_prefix(value, "GONE")) {
        take_gone(watch);
    } else if (strstr(value->data, "unknown command 'PROJECT'") != NULL) {
        watch->no_use = true;
        authorise(watch, watch->connection);
    } else if (meaning.action == ERROR_FINAL) {
        end(watch, meaning.error, value->data);
    } else {
        watch->not_this = watch->connection->node;
        let_go(watch);
        retry(watch);
    }
}

void watch_answer(struct connection *connection, const ikv_value *value) {
    struct ikv_watch *watch = connection->watch;
    if (value->type == IKV_ERROR) {
        take_error(watch, value);
        return;
    }
    switch (watch->state) {
    case WATCH_AUTHORISING:
        start(watch, connection);
        return;
    case WATCH_STARTING:
        take_start(watch, value);
        return;
    case WATCH_RUNNING:
        take_event(watch, value);
        return;
    default:
        lose(watch, "a reply that nobody asked for");
        return;
    }
}

/* --- orders
 * ------------------------------------------------------------------------------------------------
 */

static void attach(ikv_client *client, struct ikv_watch *watch) {
    watch->is_attached = true;
    timer_init(&watch->timer, fire);
    list_push(&client->watches, &watch->link);
    wheel_arm(&client->wheel, &watch->timer, client->now_ms);
}

static void detach(ikv_client *client, struct ikv_watch *watch) {
    timer_disarm(&watch->timer);
    watch->state = WATCH_ENDED;
    let_go(watch);
    list_remove(&watch->link);
    pthread_mutex_lock(&client->mutex);
    list_remove(&watch->order_link);
    watch->is_detached = true;
    client->n_watches--;
    pthread_cond_broadcast(&watch->detached);
    pthread_mutex_unlock(&client->mutex);
    watch_unref(watch);
}

static struct ikv_watch *take_order(ikv_client *client, bool *closing) {
    struct ikv_watch *watch = NULL;
    pthread_mutex_lock(&client->mutex);
    if (!list_empty(&client->orders)) {
        watch = LIST_ENTRY(list_first(&client->orders), struct ikv_watch, order_link);
        list_remove(&watch->order_link);
        *closing = watch->is_closing;
    }
    pthread_mutex_unlock(&client->mutex);
    return watch;
}

void watch_take_orders(ikv_client *client) {
    struct ikv_watch *watch;
    bool closing;
    while ((watch = take_order(client, &closing)) != NULL) {
        if (!watch->is_attached) {
            attach(client, watch);
        }
        if (closing) {
            detach(client, watch);
        }
    }
}

void watch_end_all(ikv_client *client) {
    watch_take_orders(client);
    while (!list_empty(&client->watches)) {
        struct ikv_watch *watch = LIST_ENTRY(list_first(&client->watches), struct ikv_watch, link);
        end(watch, IKV_ERR_CLOSED, ikv_strerror(IKV_ERR_CLOSED));
        detach(client, watch);
    }
}

/* --- callers
 * ------------------------------------------------------------------------------------------------
 */

static struct ikv_watch *make(ikv_project *project, ikv_bytes prefix, uint64_t from_index) {
    struct ikv_watch *watch = calloc(1, sizeof *watch + prefix.size + 1);
    if (watch == NULL) {
        return NULL;
    }
    if (pthread_cond_init(&watch->detached, NULL) != 0) {
        free(watch);
        return NULL;
    }
    char *copy = (char *)(watch + 1);
    if (prefix.size > 0) {
        memcpy(copy, prefix.data, prefix.size);
    }
    watch->prefix = ikv_bytes_of(copy, prefix.size);
    atomic_init(&watch->refs, 2);
    watch->client = project->client;
    client_ref(watch->client);
    watch->project = project;
    project_ref(project);
    watch->resumes = from_index > 0;
    watch->complete = from_index;
    list_init(&watch->link);
    list_init(&watch->order_link);
    return watch;
}

static int hand_over(ikv_client *client, struct ikv_watch *watch) {
    int error = IKV_OK;
    pthread_mutex_lock(&client->mutex);
    if (client->closing) {
        error = IKV_ERR_CLOSED;
    } else if (client->n_watches >= CLIENT_WATCHES) {
        error = IKV_ERR_BUSY;
    } else {
        client->n_watches++;
        list_push(&client->orders, &watch->order_link);
        client_wake(client);
    }
    pthread_mutex_unlock(&client->mutex);
    return error;
}

int ikv_watch_open(ikv_project *project, ikv_bytes prefix, uint64_t from_index,
                   ikv_watch_callback callback, void *data, ikv_watch **watch) {
    if (watch != NULL) {
        *watch = NULL;
    }
    if (project == NULL || callback == NULL || watch == NULL ||
        (prefix.data == NULL && prefix.size > 0) || from_index > INT64_MAX) {
        return IKV_ERR_INVALID;
    }
    if (prefix.size > PREFIX_MAX) {
        return IKV_ERR_TOO_BIG;
    }
    if (client_is_forked(project->client)) {
        return IKV_ERR_FORKED;
    }
    struct ikv_watch *made = make(project, prefix, from_index);
    if (made == NULL) {
        return IKV_ERR_NOMEM;
    }
    made->callback = callback;
    made->data = data;
    *watch = made; /* before any callback can look at it */
    int error = hand_over(project->client, made);
    if (error != IKV_OK) {
        *watch = NULL;
        atomic_store(&made->refs, 1); /* the thread never had it */
        watch_unref(made);
    }
    return error;
}

void ikv_watch_close(ikv_watch *watch) {
    if (watch == NULL || client_is_forked(watch->client)) {
        return;
    }
    ikv_client *client = watch->client;
    bool own_thread = client_is_own_thread(client);
    pthread_mutex_lock(&client->mutex);
    watch->is_closing = true;
    if (!watch->is_detached) {
        if (list_empty(&watch->order_link)) {
            list_push(&client->orders, &watch->order_link);
        }
        client_wake(client);
    }
    while (!watch->is_detached && !own_thread) {
        pthread_cond_wait(&watch->detached, &client->mutex);
    }
    pthread_mutex_unlock(&client->mutex);
    watch_unref(watch);
}
