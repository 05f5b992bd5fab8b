#include "node/subscriptions.h"

#include <stdio.h>

#include "base/assert.h"
#include "base/glob.h"
#include "base/mem.h"
#include "base/slot.h"
#include "node/feed.h"
#include "node/session_state.h"

/* Projects whose subscribers go on in one call. */
enum { RUNS_MAX = 8 };

/* Names in their order, each with memory of its own. */
struct names {
    struct slice *list;
    unsigned count;
    unsigned capacity;
};

/* Subscriptions made in one project. */
struct subscriber {
    struct list_node link; /* in subscriptions->subscribers */
    struct session *session;
    struct feed_reader reader; /* closed while the feed is off */
    uint64_t token;
    uint64_t start; /* events behind this index are told */
    struct buffer project;
    struct names names[2]; /* channels, patterns */
};

struct watch {
    struct list_node link; /* in host->watches */
    struct session *session;
    struct feed_reader reader;
    struct buffer prefix;
    uint64_t token;
    uint64_t start;   /* events behind this index are told */
    uint64_t settled; /* everything up to this index has been told */
    uint64_t told_ms; /* when anything was told last */
    bool has_news;    /* an event was told since `settled` was */
};

struct subscriptions {
    struct list_node subscribers;
    unsigned count[2];
    size_t bytes; /* of all names */
    struct watch *watch;
    struct buffer channel; /* of the event being told */
};

static uint64_t now_of(const struct session *session) {
    const struct session_port *port = &session->host->port;
    return port->now_ms(port->data);
}

static unsigned shard_of(const struct session *session) {
    return slot_shard(slot_of(session_project(session)), session->host->limits.n_shards);
}

static struct subscriptions *subscriptions_of(struct session *session) {
    if (session->subscriptions == NULL) {
        session->subscriptions = mem_zalloc(1, sizeof *session->subscriptions);
        list_init(&session->subscriptions->subscribers);
    }
    return session->subscriptions;
}

/* --- names ------------------------------------------------------------------------------------ */

/* The place of a name, or where it would stand. */
static unsigned names_place(const struct names *names, struct slice name, bool *found) {
    unsigned low = 0, high = names->count;
    while (low < high) {
        unsigned middle = low + (high - low) / 2;
        int order = slice_compare(name, names->list[middle]);
        if (order == 0) {
            *found = true;
            return middle;
        }
        if (order < 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    *found = false;
    return low;
}

static bool names_has(const struct names *names, struct slice name) {
    bool found;
    (void)names_place(names, name, &found);
    return found;
}

/* False when it is there already. */
static bool names_add(struct names *names, struct slice name) {
    bool found;
    unsigned at = names_place(names, name, &found);
    if (found) {
        return false;
    }
    if (names->count == names->capacity) {
        names->capacity = names->capacity == 0 ? 4 : 2 * names->capacity;
        names->list = mem_realloc(names->list, names->capacity * sizeof names->list[0]);
    }
    memmove(names->list + at + 1, names->list + at, (names->count - at) * sizeof names->list[0]);
    names->list[at] = slice_make(mem_dup(name.data, name.size), name.size);
    names->count++;
    return true;
}

static void free_name(struct slice name) {
    mem_free((void *)(uintptr_t)name.data);
}

static bool names_remove(struct names *names, struct slice name) {
    bool found;
    unsigned at = names_place(names, name, &found);
    if (!found) {
        return false;
    }
    free_name(names->list[at]);
    names->count--;
    memmove(names->list + at, names->list + at + 1, (names->count - at) * sizeof names->list[0]);
    return true;
}

static void names_free(struct names *names) {
    for (unsigned i = 0; i < names->count; i++) {
        free_name(names->list[i]);
    }
    mem_free(names->list);
}

/* --- pushes ----------------------------------------------------------------------------------- */

static bool has_room(const struct session *session) {
    size_t limit = session->host->limits.max_output;
    limit = limit < SUBSCRIPTIONS_OUTPUT ? limit : SUBSCRIPTIONS_OUTPUT;
    return session->unsent + session->queued < limit;
}

static const char *kind_name(enum machine_event_kind kind) {
    switch (kind) {
    case MACHINE_EVENT_SET:
        return "set";
    case MACHINE_EVENT_DELETE:
        return "del";
    case MACHINE_EVENT_EXPIRED:
        return "expired";
    case MACHINE_EVENT_EXPIRE:
        return "expire";
    case MACHINE_EVENT_PERSIST:
        return "persist";
    case MACHINE_EVENT_CLEAR:
        return "clear";
    case MACHINE_EVENT_REVOKED:
        break;
    }
    assert_fatal("an event of unknown kind %d", (int)kind);
}

static void push_watched(struct watch *watch, uint64_t index, const char *kind, struct slice key) {
    struct session *session = watch->session;
    struct buffer *out = session_begin_push(session);
    resp_write_push(out, 4, session->version);
    resp_write_bulk(out, slice_of("event"));
    resp_write_integer(out, (int64_t)index);
    resp_write_bulk(out, slice_of(kind));
    resp_write_bulk(out, key);
    session_end_push(session);
    watch->told_ms = now_of(session);
}

static void push_message(struct session *session, const struct slice *pattern, struct slice channel,
                         const char *message) {
    struct buffer *out = session_begin_push(session);
    resp_write_push(out, pattern != NULL ? 4 : 3, session->version);
    resp_write_bulk(out, slice_of(pattern != NULL ? "pmessage" : "message"));
    if (pattern != NULL) {
        resp_write_bulk(out, *pattern);
    }
    resp_write_bulk(out, channel);
    resp_write_bulk(out, slice_of(message));
    session_end_push(session);
}

/* The token under which a subscription was made is gone. */
static bool is_revoked(uint64_t token, const struct machine_event *event) {
    ASSERT(event->key.size == sizeof token);
    return bytes_get_u64(event->key.data) == token;
}

static void end_access(struct session *session, const char *why) {
    if (session->closing) {
        return;
    }
    resp_write_error(session_begin_push(session), "NOAUTH", why);
    session->host->stats.errors++;
    session->closing = true;
    session_end_push(session);
}

static const char gone_token[] =
    "a token of this connection's subscriptions was revoked or has expired, or its project was "
    "deleted";

static bool has_token(uint64_t token) {
    return token != COMMAND_TOKEN_OPEN && token != COMMAND_TOKEN_SERVICE;
}

/* --- channels and patterns -------------------------------------------------------------------- */

static void tell_subscriber(struct subscriber *subscriber, struct slice channel,
                            const char *message) {
    const struct names *patterns = &subscriber->names[true];
    if (names_has(&subscriber->names[false], channel)) {
        push_message(subscriber->session, NULL, channel, message);
    }
    for (unsigned i = 0; i < patterns->count; i++) {
        if (glob_match(patterns->list[i], channel, false)) {
            push_message(subscriber->session, &patterns->list[i], channel, message);
        }
    }
}

static bool subscriber_on_event(void *data, const struct machine_event *event) {
    struct subscriber *subscriber = data;
    struct session *session = subscriber->session;
    if (event->kind == MACHINE_EVENT_REVOKED) {
        if (is_revoked(subscriber->token, event)) {
            end_access(session, gone_token);
        }
        return true;
    }
    if (session->closing || event->index <= subscriber->start) {
        return true;
    }
    if (!has_room(session)) {
        return false;
    }
    struct buffer *channel = &session->subscriptions->channel;
    channel->size = 0;
    buffer_append_slice(channel, slice_of(SUBSCRIPTIONS_CHANNEL));
    buffer_append_slice(channel, event->key);
    tell_subscriber(subscriber, buffer_slice(channel), kind_name(event->kind));
    return true;
}

static void subscriber_on_settled(void *data, uint64_t index) {
    (void)data;
    (void)index;
}

static void subscriber_on_lost(void *data, enum feed_loss loss, uint64_t index) {
    struct subscriber *subscriber = data;
    (void)index;
    if (loss == FEED_TOO_SLOW) {
        session_drop(subscriber->session,
                     "the client does not take its messages, and the change feed's history "
                     "(feed_history) has moved past it");
    } else if (has_token(subscriber->token)) {
        end_access(subscriber->session,
                   "this replica has skipped entries, among which the token may have been revoked; "
                   "connect again");
    }
}

static const struct feed_listener subscriber_listener = {
    subscriber_on_event,
    subscriber_on_settled,
    subscriber_on_lost,
};

static struct subscriber *find_subscriber(struct subscriptions *subscriptions,
                                          struct slice project) {
    for (struct list_node *node = subscriptions->subscribers.next;
         node != &subscriptions->subscribers; node = node->next) {
        struct subscriber *subscriber = LIST_ENTRY(node, struct subscriber, link);
        if (slice_equal(buffer_slice(&subscriber->project), project)) {
            return subscriber;
        }
    }
    return NULL;
}

/* False when it cannot begin so early. */
static bool open_subscriber(struct subscriber *subscriber, uint64_t since) {
    const struct session *session = subscriber->session;
    struct feed *feed = session->host->port.feed;
    struct slice project = session_project(session);
    if (!feed_is_on(feed)) {
        return true;
    }
    subscriber->start = feed_index(feed, shard_of(session));
    if (since != SUBSCRIPTIONS_NOW) {
        return feed_reader_open_from(feed, &subscriber->reader, shard_of(session), project, since);
    }
    (void)feed_reader_open(feed, &subscriber->reader, shard_of(session), project);
    return true;
}

static struct subscriber *new_subscriber(struct session *session) {
    struct subscriber *subscriber = mem_zalloc(1, sizeof *subscriber);
    subscriber->session = session;
    subscriber->reader.listener = &subscriber_listener;
    subscriber->reader.data = subscriber;
    subscriber->reader.may_skip = true;
    buffer_append_slice(&subscriber->project, session_project(session));
    subscriber->token = session_access_token(&session->access);
    list_push(&session->subscriptions->subscribers, &subscriber->link);
    return subscriber;
}

static void free_subscriber(struct subscriber *subscriber) {
    feed_reader_close(&subscriber->reader);
    list_remove(&subscriber->link);
    buffer_free(&subscriber->project);
    names_free(&subscriber->names[false]);
    names_free(&subscriber->names[true]);
    mem_free(subscriber);
}

bool subscriptions_fit(const struct session *session, const struct slice *names, unsigned n) {
    const struct subscriptions *subscriptions = session->subscriptions;
    size_t bytes = subscriptions != NULL ? subscriptions->bytes : 0;
    unsigned count = subscriptions_count(session, false) + subscriptions_count(session, true);
    if (n > SUBSCRIPTIONS_MAX - count) {
        return false;
    }
    for (unsigned i = 0; i < n; i++) {
        bytes += names[i].size;
    }
    return bytes <= SUBSCRIPTIONS_BYTES;
}

bool subscriptions_are_served(const struct session *session) {
    const struct session_port *port = &session->host->port;
    return port->replica_is_whole == NULL || port->replica_is_whole(port->data, shard_of(session));
}

uint64_t subscriptions_index(const struct session *session) {
    const struct feed *feed = session->host->port.feed;
    return feed_is_on(feed) ? feed_index(feed, shard_of(session)) : 0;
}

bool subscriptions_add(struct session *session, bool is_pattern, struct slice name,
                       uint64_t since) {
    struct subscriptions *subscriptions = subscriptions_of(session);
    struct subscriber *subscriber = find_subscriber(subscriptions, session_project(session));
    if (subscriber == NULL) {
        subscriber = new_subscriber(session);
        if (!open_subscriber(subscriber, since)) {
            free_subscriber(subscriber);
            return false;
        }
    }
    if (names_add(&subscriber->names[is_pattern], name)) {
        subscriptions->count[is_pattern]++;
        subscriptions->bytes += name.size;
    }
    return true;
}

void subscriptions_remove(struct session *session, bool is_pattern, struct slice name) {
    struct subscriptions *subscriptions = session->subscriptions;
    if (subscriptions == NULL) {
        return;
    }
    struct list_node *node = subscriptions->subscribers.next;
    while (node != &subscriptions->subscribers) {
        struct subscriber *subscriber = LIST_ENTRY(node, struct subscriber, link);
        node = node->next;
        if (!names_remove(&subscriber->names[is_pattern], name)) {
            continue;
        }
        subscriptions->count[is_pattern]--;
        subscriptions->bytes -= name.size;
        if (subscriber->names[false].count + subscriber->names[true].count == 0) {
            free_subscriber(subscriber);
        }
    }
}

bool subscriptions_any(const struct session *session, bool is_pattern, struct slice *name) {
    const struct subscriptions *subscriptions = session->subscriptions;
    *name = (struct slice){0};
    if (subscriptions == NULL) {
        return false;
    }
    for (const struct list_node *node = subscriptions->subscribers.next;
         node != &subscriptions->subscribers; node = node->next) {
        const struct subscriber *subscriber = LIST_ENTRY(node, const struct subscriber, link);
        if (subscriber->names[is_pattern].count > 0) {
            *name = subscriber->names[is_pattern].list[0];
            return true;
        }
    }
    return false;
}

unsigned subscriptions_count(const struct session *session, bool is_pattern) {
    return session->subscriptions != NULL ? session->subscriptions->count[is_pattern] : 0;
}

/* --- watches ---------------------------------------------------------------------------------- */

static void tell_progress(struct watch *watch, uint64_t index) {
    /* One that came from ahead has told everything up to there. */
    if (index > watch->settled) {
        watch->settled = index;
    }
    watch->has_news = false;
    push_watched(watch, watch->settled, "progress", (struct slice){0});
}

static bool is_watched(const struct watch *watch, const struct machine_event *event) {
    struct slice prefix = buffer_slice(&watch->prefix);
    return event->kind == MACHINE_EVENT_CLEAR ||
           (event->key.size >= prefix.size &&
            slice_equal(slice_make(event->key.data, prefix.size), prefix));
}

static bool watch_on_event(void *data, const struct machine_event *event) {
    struct watch *watch = data;
    if (event->kind == MACHINE_EVENT_REVOKED) {
        if (is_revoked(watch->token, event)) {
            end_access(watch->session, gone_token);
        }
        return true;
    }
    if (watch->session->closing || event->index <= watch->start || !is_watched(watch, event)) {
        return true;
    }
    if (!has_room(watch->session)) {
        return false;
    }
    push_watched(watch, event->index, kind_name(event->kind), event->key);
    watch->has_news = true;
    return true;
}

static void watch_on_settled(void *data, uint64_t index) {
    struct watch *watch = data;
    if (watch->has_news && !watch->session->closing) {
        tell_progress(watch, index);
    }
}

static void free_watch(struct watch *watch) {
    feed_reader_close(&watch->reader);
    list_remove(&watch->link);
    buffer_free(&watch->prefix);
    watch->session->subscriptions->watch = NULL;
    mem_free(watch);
}

static void watch_on_lost(void *data, enum feed_loss loss, uint64_t index) {
    struct watch *watch = data;
    struct session *session = watch->session;
    char text[256];
    const char *why = loss == FEED_TOO_SLOW
                          ? "the history of this shard has moved past what was delivered"
                          : "this replica has skipped entries";
    snprintf(text, sizeof text,
             "%llu is the oldest index to resume from here: %s; read the keys anew",
             (unsigned long long)index, why);
    if (session->closing) {
        free_watch(watch);
        return;
    }
    if (session->version == 3) {
        push_watched(watch, index, "gone", slice_of(text));
    } else {
        resp_write_error(session_begin_push(session), "GONE", text);
        session_end_push(session);
    }
    session->host->stats.errors++;
    free_watch(watch);
}

static const struct feed_listener watch_listener = {
    watch_on_event,
    watch_on_settled,
    watch_on_lost,
};

/* False when it cannot begin so early. */
static bool open_watch(struct watch *watch, bool from_now, uint64_t *index, uint64_t since) {
    const struct session *session = watch->session;
    struct feed *feed = session->host->port.feed;
    unsigned shard = shard_of(session);
    if (from_now && since == SUBSCRIPTIONS_NOW) {
        *index = feed_reader_open(feed, &watch->reader, shard, session_project(session));
        return true;
    }
    *index = from_now ? feed_index(feed, shard) : *index;
    return feed_reader_open_from(feed, &watch->reader, shard, session_project(session),
                                 since < *index ? since : *index);
}

enum watch_start subscriptions_watch(struct session *session, struct slice prefix, bool from_now,
                                     uint64_t *index, uint64_t since) {
    struct subscriptions *subscriptions = subscriptions_of(session);
    struct feed *feed = session->host->port.feed;
    ASSERT(subscriptions->watch == NULL);
    if (!feed_is_on(feed)) {
        return WATCH_OFF;
    }
    struct watch *watch = mem_zalloc(1, sizeof *watch);
    watch->session = session;
    watch->reader.listener = &watch_listener;
    watch->reader.data = watch;
    watch->token = session_access_token(&session->access);
    if (!open_watch(watch, from_now, index, since)) {
        *index = feed_oldest(feed, shard_of(session));
        mem_free(watch);
        return WATCH_GONE;
    }
    buffer_append_slice(&watch->prefix, prefix);
    watch->start = *index;
    watch->settled = *index;
    watch->told_ms = now_of(session);
    list_push(&session->host->watches, &watch->link);
    subscriptions->watch = watch;
    return WATCH_STARTED;
}

bool subscriptions_is_watching(const struct session *session) {
    return session->subscriptions != NULL && session->subscriptions->watch != NULL;
}

struct slice subscriptions_prefix(const struct session *session) {
    ASSERT(subscriptions_is_watching(session));
    return buffer_slice(&session->subscriptions->watch->prefix);
}

/* At the end of the stream everything has been told; a reader that is behind knows only what it
 * told as its progress. */
uint64_t subscriptions_unwatch(struct session *session) {
    ASSERT(subscriptions_is_watching(session));
    struct watch *watch = session->subscriptions->watch;
    uint64_t index = feed_index(watch->reader.feed, watch->reader.shard);
    if (feed_reader_is_behind(&watch->reader) || index < watch->settled) {
        index = watch->settled;
    }
    free_watch(watch);
    return index;
}

/* --- the session's side ----------------------------------------------------------------------- */

bool subscriptions_exist(const struct session *session) {
    return session->subscriptions != NULL && (session->subscriptions->watch != NULL ||
                                              !list_empty(&session->subscriptions->subscribers));
}

bool subscriptions_are_due(const struct session *session) {
    const struct subscriptions *subscriptions = session->subscriptions;
    if (subscriptions == NULL || session->closing || !has_room(session)) {
        return false;
    }
    if (subscriptions->watch != NULL && feed_reader_is_behind(&subscriptions->watch->reader)) {
        return true;
    }
    for (const struct list_node *node = subscriptions->subscribers.next;
         node != &subscriptions->subscribers; node = node->next) {
        if (feed_reader_is_behind(&LIST_ENTRY(node, const struct subscriber, link)->reader)) {
            return true;
        }
    }
    return false;
}

void subscriptions_run(struct session *session) {
    struct subscriptions *subscriptions = session->subscriptions;
    if (subscriptions == NULL) {
        return;
    }
    struct list_node *node = subscriptions->subscribers.next;
    struct list_node *last = subscriptions->subscribers.prev;
    for (unsigned runs = 0; runs < RUNS_MAX && node != &subscriptions->subscribers;) {
        struct subscriber *subscriber = LIST_ENTRY(node, struct subscriber, link);
        bool is_last = node == last;
        node = node->next;
        if (feed_reader_is_behind(&subscriber->reader)) {
            feed_reader_run(&subscriber->reader);
            list_remove(&subscriber->link); /* the others' turn comes first */
            list_push(&subscriptions->subscribers, &subscriber->link);
            runs++;
        }
        if (is_last) {
            break;
        }
    }
    if (subscriptions->watch != NULL) {
        feed_reader_run(&subscriptions->watch->reader);
    }
}

void subscriptions_free(struct session *session) {
    struct subscriptions *subscriptions = session->subscriptions;
    if (subscriptions == NULL) {
        return;
    }
    struct list_node *node;
    while ((node = list_first(&subscriptions->subscribers)) != NULL) {
        free_subscriber(LIST_ENTRY(node, struct subscriber, link));
    }
    if (subscriptions->watch != NULL) {
        free_watch(subscriptions->watch);
    }
    buffer_free(&subscriptions->channel);
    mem_free(subscriptions);
    session->subscriptions = NULL;
}

void subscriptions_tick(struct session_host *host, uint64_t now_ms) {
    for (struct list_node *node = host->watches.next; node != &host->watches; node = node->next) {
        struct watch *watch = LIST_ENTRY(node, struct watch, link);
        const struct feed_reader *reader = &watch->reader;
        if (now_ms >= watch->told_ms + SUBSCRIPTIONS_PROGRESS_MS && has_room(watch->session) &&
            !watch->session->closing && !feed_reader_is_behind(reader)) {
            tell_progress(watch, feed_index(reader->feed, reader->shard));
        }
    }
}
