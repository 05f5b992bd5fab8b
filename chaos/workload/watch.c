/* Watches over writes: half of the clients write keys, most of them once only, the others watch,
 * through the library or over a connection that moves between nodes and resumes by itself. */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>

#include <hiredis/hiredis.h>

#include "base/assert.h"
#include "base/mem.h"
#include "base/number.h"
#include "chaos/workload/load.h"

enum { WATCH_PROJECTS = 2, HOT_KEYS = 4, SILENCE_S = 12, MOVE_S = 7 };

static const char last_key[] = "wend"; /* written at the end, when nobody writes any more */

#define SECOND_NS UINT64_C(1000000000)

struct watcher {
    uint32_t project;
    char project_name[64];
    bool is_watcher;
    atomic_bool has_seen_end;
    uint64_t told_progress_at; /* ns; progress is told now and then */
    int64_t progress;          /* not told yet, 0: none */
    /* Through the library. */
    ikv_project *handle;
    ikv_watch *watch;
    /* Over RESP. */
    unsigned node;
    redisContext *context;
    uint64_t heard_at;
    uint64_t move_at;
    int64_t complete; /* everything up to this index was told */
    int64_t partial;  /* an index of which some was told, 0: none */
    unsigned told;    /* how much of it */
    unsigned to_skip; /* of these still to come again */
    bool is_ready;    /* has begun, and had no gap since */
    unsigned gone;    /* nodes in a row that have no history left */
};

/* --- what a watch tells ----------------------------------------------------------------------- */

static void tell(struct client *client, const char *what, int64_t index) {
    const struct watcher *own = client->own;
    op_event(client, what);
    op_integer(client, "p", own->project);
    if (index >= 0) {
        op_integer(client, "i", index);
    }
}

static void tell_progress(struct client *client, bool now) {
    struct watcher *own = client->own;
    uint64_t time = clock_now();
    if (own->progress == 0 || (!now && time - own->told_progress_at < SECOND_NS / 4)) {
        return;
    }
    tell(client, "progress", own->progress);
    op_told(client);
    own->progress = 0;
    own->told_progress_at = time;
}

static void tell_change(struct client *client, int64_t index, struct slice kind, struct slice key) {
    struct watcher *own = client->own;
    tell(client, "change", index);
    op_bytes(client, "k", key);
    op_bytes(client, "kind", kind);
    op_told(client);
    atomic_fetch_add(&client->group->ok, 1);
    if (slice_equal(key, slice_of(last_key))) {
        atomic_store(&own->has_seen_end, true);
    }
}

/* --- through the library: on its thread ------------------------------------------------------- */

static void on_event(void *data, const ikv_event *event) {
    struct client *client = data;
    struct watcher *own = client->own;
    switch (event->type) {
    case IKV_EVENT_READY:
        tell(client, "ready", (int64_t)event->index);
        op_told(client);
        return;
    case IKV_EVENT_CHANGE:
        tell_change(client, (int64_t)event->index, slice_make(event->kind.data, event->kind.size),
                    slice_make(event->key.data, event->key.size));
        return;
    case IKV_EVENT_PROGRESS:
        own->progress = (int64_t)event->index;
        tell_progress(client, false);
        return;
    case IKV_EVENT_GAP:
        own->progress = 0;
        tell(client, "gap", -1);
        op_told(client);
        return;
    default:
        tell(client, "end", -1);
        op_told(client);
        return;
    }
}

/* --- over RESP -------------------------------------------------------------------------------- */

static void let_go(struct client *client) {
    struct watcher *own = client->own;
    if (own->context != NULL) {
        redisFree(own->context);
        own->context = NULL;
    }
    own->node = (own->node + 1) % client->load->nodes.n;
    /* What was told of an index that is not complete comes again. */
    own->to_skip = own->told;
}

static redisReply *call(redisContext *context, int argc, const char **argv) {
    return redisCommandArgv(context, argc, argv, NULL);
}

static bool is_error(const redisReply *reply, const char *prefix) {
    return reply != NULL && reply->type == REDIS_REPLY_ERROR &&
           strncmp(reply->str, prefix, strlen(prefix)) == 0;
}

static void on_gap(struct client *client) {
    struct watcher *own = client->own;
    tell_progress(client, true);
    tell(client, "gap", -1);
    op_told(client);
    own->is_ready = false;
    own->gone = 0;
    own->complete = 0;
    own->partial = 0;
    own->told = 0;
    own->to_skip = 0;
}

/* No node can go on from where the watch is: it says so and begins anew. */
static void on_gone(struct client *client) {
    struct watcher *own = client->own;
    own->gone++;
    let_go(client);
    if (own->is_ready && own->gone >= 2 * client->load->nodes.n) {
        on_gap(client);
    }
}

/* WATCHKEYS from where it left off. */
static bool begin_watch(struct client *client) {
    struct watcher *own = client->own;
    char index[32];
    (void)snprintf(index, sizeof index, "%" PRId64, own->complete);
    const char *argv[] = {"WATCHKEYS", "", "FROM", index};
    redisReply *reply = call(own->context, own->is_ready ? 4 : 2, argv);
    if (is_error(reply, "GONE")) {
        freeReplyObject(reply);
        on_gone(client);
        return false;
    }
    bool is_good = reply != NULL && reply->type == REDIS_REPLY_ARRAY && reply->elements == 3 &&
                   reply->element[2]->type == REDIS_REPLY_INTEGER;
    if (is_good && !own->is_ready) {
        own->is_ready = true;
        own->complete = reply->element[2]->integer;
        tell(client, "ready", own->complete);
        op_told(client);
    }
    own->gone = is_good ? 0 : own->gone;
    freeReplyObject(reply);
    if (!is_good) {
        let_go(client);
    }
    return is_good;
}

static void connect_watch(struct client *client) {
    struct watcher *own = client->own;
    const char *name = client->load->nodes.names[own->node];
    const char *colon = strrchr(name, ':');
    struct timeval timeout = {.tv_sec = 2};
    char host[80];
    (void)snprintf(host, sizeof host, "%.*s", (int)(colon - name), name);
    own->context = redisConnectWithTimeout(host, atoi(colon + 1), timeout);
    bool is_good = own->context != NULL && own->context->err == 0 &&
                   redisSetTimeout(own->context, timeout) == REDIS_OK;
    if (is_good) {
        const char *argv[] = {"PROJECT", "USE", own->project_name};
        redisReply *reply = call(own->context, 3, argv);
        is_good = reply != NULL && reply->type == REDIS_REPLY_STATUS;
        freeReplyObject(reply);
    }
    if (!is_good) {
        let_go(client);
        return;
    }
    own->heard_at = clock_now();
    own->move_at = own->heard_at + SECOND_NS + client_below(client, MOVE_S * SECOND_NS);
    (void)begin_watch(client);
}

static void on_change(struct client *client, int64_t index, const redisReply *reply) {
    struct watcher *own = client->own;
    if (index > own->partial) {
        own->complete = index - 1 > own->complete ? index - 1 : own->complete;
        own->partial = index;
        own->told = 0;
        own->to_skip = 0;
    }
    if (own->to_skip > 0) {
        own->to_skip--;
        return;
    }
    own->told++;
    tell_change(client, index, slice_make(reply->element[2]->str, (size_t)reply->element[2]->len),
                slice_make(reply->element[3]->str, (size_t)reply->element[3]->len));
}

static void on_message(struct client *client, const redisReply *reply) {
    struct watcher *own = client->own;
    bool is_event = reply->type == REDIS_REPLY_ARRAY && reply->elements == 4 &&
                    reply->element[1]->type == REDIS_REPLY_INTEGER &&
                    reply->element[2]->type == REDIS_REPLY_STRING &&
                    reply->element[3]->type == REDIS_REPLY_STRING;
    own->heard_at = clock_now();
    if (!is_event) {
        let_go(client); /* -GONE: another node may go on; else it is no node of ours */
        return;
    }
    int64_t index = reply->element[1]->integer;
    if (strcmp(reply->element[2]->str, "progress") != 0) {
        on_change(client, index, reply);
        return;
    }
    if (index > own->complete) {
        own->complete = index;
        own->partial = 0;
        own->told = 0;
        own->to_skip = 0;
    }
    own->progress = own->complete;
    tell_progress(client, false);
}

/* Takes what has come; waits up to 50 ms for it. */
static void listen_to(struct client *client) {
    struct watcher *own = client->own;
    struct pollfd poll_fd = {.fd = own->context->fd, .events = POLLIN};
    int n = poll(&poll_fd, 1, 50);
    uint64_t now = clock_now();
    if (n == 0 || (n < 0 && errno == EINTR)) {
        if (now - own->heard_at > SILENCE_S * SECOND_NS || now > own->move_at) {
            let_go(client);
        }
        return;
    }
    if (redisBufferRead(own->context) != REDIS_OK) {
        let_go(client);
        return;
    }
    void *reply = NULL;
    while (own->context != NULL && redisGetReplyFromReader(own->context, &reply) == REDIS_OK &&
           reply != NULL) {
        on_message(client, reply);
        freeReplyObject(reply);
        reply = NULL;
    }
    if (own->context != NULL && (own->context->err != 0 || now > own->move_at)) {
        let_go(client);
    }
}

static void watch_step(struct client *client) {
    struct watcher *own = client->own;
    if (own->watch != NULL) {
        (void)poll(NULL, 0, 50); /* events come on the library's thread */
    } else if (own->context == NULL) {
        connect_watch(client);
        if (own->context == NULL) {
            (void)poll(NULL, 0, 100);
        }
    } else {
        listen_to(client);
    }
}

/* --- writers ---------------------------------------------------------------------------------- */

static void write_key(struct client *client, const char *key, bool deletes) {
    const struct watcher *own = client->own;
    struct words words = deletes ? words_make(2, (const char *const[]){"DEL", key})
                                 : words_make(3, (const char *const[]){"SET", key, "x"});
    op_begin(client, deletes ? "delete" : "set");
    char unique[40];
    if (key[0] == '\0') {
        (void)snprintf(unique, sizeof unique, "w%" PRIu64, client->operation);
        words = words_make(3, (const char *const[]){"SET", unique, "x"});
    }
    op_integer(client, "p", own->project);
    op_text(client, "k", key[0] == '\0' ? unique : key);
    op_invoke(client);
    link_command(client->link, own->project_name, &words, true, &client->answer);
    op_end(client);
    if (deletes && client->answer.outcome == ANSWER_OK) {
        op_integer(client, "v", answer_number(&client->answer.value, -1));
    }
    op_done(client);
}

static void write_step(struct client *client) {
    char key[16] = "";
    uint64_t dice = client_below(client, 10);
    if (dice < 3) {
        (void)snprintf(key, sizeof key, "h%" PRIu64, client_below(client, HOT_KEYS));
    }
    write_key(client, key, dice == 0);
}

/* --- both ------------------------------------------------------------------------------------- */

static void step_watch(struct client *client) {
    const struct watcher *own = client->own;
    if (!own->is_watcher) {
        write_step(client);
        return;
    }
    /* A watcher has no pace of its own. */
    do {
        watch_step(client);
    } while (client_goes_on(client));
}

static void begin_watch_client(struct client *client) {
    struct watcher *own = mem_zalloc(1, sizeof *own);
    const struct load *load = client->load;
    bool by_library = load->via == VIA_LIBRARY ||
                      (load->via == VIA_MIXED && client->index / (2 * WATCH_PROJECTS) % 2 == 0);
    own->project = client->index % WATCH_PROJECTS;
    own->is_watcher = client->index / WATCH_PROJECTS % 2 == 1;
    own->node = (unsigned)client_below(client, load->nodes.n);
    project_name(client->group, own->project, own->project_name, sizeof own->project_name);
    client->own = own;
    client->link = client_open_link(client);
    if (own->is_watcher && by_library &&
        (ikv_project_open(client->group->library, own->project_name, NULL, IKV_LINEARIZABLE, 0,
                          &own->handle) != IKV_OK ||
         ikv_watch_open(own->handle, ikv_bytes_of(NULL, 0), 0, on_event, client, &own->watch) !=
             IKV_OK)) {
        assert_fatal("chaos-workload: cannot watch");
    }
}

/* The first writer of each project writes the last key; watchers wait until they have seen it. */
static void finish_watch(struct client *client) {
    struct watcher *own = client->own;
    if (!own->is_watcher && client->index < WATCH_PROJECTS) {
        do {
            write_key(client, last_key, false);
        } while (client->answer.outcome != ANSWER_OK && client_tries_again(client));
    }
    while (own->is_watcher && !atomic_load(&own->has_seen_end) &&
           clock_now() < client->load->finish_by) {
        watch_step(client);
    }
}

static void end_watch(struct client *client) {
    struct watcher *own = client->own;
    ikv_watch_close(own->watch);
    ikv_project_close(own->handle);
    if (own->context != NULL) {
        redisFree(own->context);
    }
    if (own->is_watcher) {
        tell_progress(client, true);
    }
    mem_free(own);
}

const struct workload_kind workload_watch = {
    .name = "watch",
    .weight = 2,
    .least = 4 * WATCH_PROJECTS,
    .pace = 1,
    .slots = 1,
    .begin = begin_watch_client,
    .step = step_watch,
    .finish = finish_watch,
    .end = end_watch,
};
