/* Subscriptions to what happens to keys; see docs/change-feed.md. */
#include "base/limits.h"
#include "base/number.h"
#include "base/resp.h"
#include "node/resp_commands.h"
#include "node/session_state.h"
#include "node/subscriptions.h"

static unsigned count_all(const struct session *session) {
    return subscriptions_count(session, false) + subscriptions_count(session, true);
}

/* NULL stands for nil. */
static void write_change(struct call *call, const char *what, const struct slice *name) {
    struct buffer *out = call_reply(call);
    resp_write_push(out, 3, call_version(call));
    resp_write_bulk(out, slice_of(what));
    if (name != NULL) {
        resp_write_bulk(out, *name);
    } else {
        resp_write_null(out, call_version(call));
    }
    resp_write_integer(out, (int64_t)count_all(call->session));
}

static bool check_names(struct call *call, bool is_pattern) {
    size_t limit =
        is_pattern ? LIMIT_PATTERN_SIZE : LIMIT_KEY_SIZE + sizeof SUBSCRIPTIONS_CHANNEL - 1;
    for (unsigned i = 1; i < call->argc; i++) {
        if (call->argv[i].size > limit) {
            call_error(call, "TOOBIG", "%s of %zu bytes exceeds the limit of %zu bytes",
                       is_pattern ? "pattern" : "channel", call->argv[i].size, limit);
            return false;
        }
    }
    if (!subscriptions_fit(call->session, call->argv + 1, call->argc - 1)) {
        call_error(call, "TOOBIG",
                   "a connection may have %d subscriptions, and %d bytes of their names; it has "
                   "%u, and %u more were asked for",
                   SUBSCRIPTIONS_MAX, SUBSCRIPTIONS_BYTES, count_all(call->session),
                   call->argc - 1);
        return false;
    }
    return true;
}

static void subscribe(struct call *call, bool is_pattern) {
    if (!check_names(call, is_pattern)) {
        return;
    }
    for (unsigned i = 1; i < call->argc; i++) {
        subscriptions_add(call->session, is_pattern, call->argv[i]);
        write_change(call, is_pattern ? "psubscribe" : "subscribe", &call->argv[i]);
    }
}

static void unsubscribe_all(struct call *call, bool is_pattern, const char *what) {
    struct slice name;
    if (!subscriptions_any(call->session, is_pattern, &name)) {
        write_change(call, what, NULL);
        return;
    }
    do {
        struct buffer copy = {0};
        buffer_append_slice(&copy, name);
        name = buffer_slice(&copy);
        subscriptions_remove(call->session, is_pattern, name);
        write_change(call, what, &name);
        buffer_free(&copy);
    } while (subscriptions_any(call->session, is_pattern, &name));
}

static void unsubscribe(struct call *call, bool is_pattern) {
    const char *what = is_pattern ? "punsubscribe" : "unsubscribe";
    if (call->argc == 1) {
        unsubscribe_all(call, is_pattern, what);
        return;
    }
    for (unsigned i = 1; i < call->argc; i++) {
        subscriptions_remove(call->session, is_pattern, call->argv[i]);
        write_change(call, what, &call->argv[i]);
    }
}

void verb_subscribe(struct call *call) {
    subscribe(call, false);
}

void verb_psubscribe(struct call *call) {
    subscribe(call, true);
}

void verb_unsubscribe(struct call *call) {
    unsubscribe(call, false);
}

void verb_punsubscribe(struct call *call) {
    unsubscribe(call, true);
}

static void write_watch(struct call *call, const char *what, const struct slice *prefix,
                        uint64_t index) {
    struct buffer *out = call_reply(call);
    resp_write_push(out, 3, call_version(call));
    resp_write_bulk(out, slice_of(what));
    if (prefix != NULL) {
        resp_write_bulk(out, *prefix);
    } else {
        resp_write_null(out, call_version(call));
    }
    resp_write_integer(out, (int64_t)index);
}

/* WATCHKEYS prefix [FROM index] */
static bool parse_watch(struct call *call, bool *from_now, uint64_t *index) {
    int64_t number = 0;
    *from_now = call->argc == 2;
    *index = 0;
    if (*from_now) {
        return true;
    }
    if (call->argc != 4 || !slice_equal_nocase(call->argv[2], "FROM")) {
        call_syntax_error(call);
        return false;
    }
    if (!number_parse_integer(call->argv[3], &number) || number < 0) {
        call_error(call, "ERR", "FROM takes an index, which is a number of 0 or more");
        return false;
    }
    *index = (uint64_t)number;
    return true;
}

void verb_watchkeys(struct call *call) {
    struct slice prefix = call->argv[1];
    bool from_now;
    uint64_t index;
    if (!parse_watch(call, &from_now, &index)) {
        return;
    }
    if (prefix.size > LIMIT_KEY_SIZE) {
        call_error(call, "TOOBIG", "prefix of %zu bytes exceeds the limit of %d bytes", prefix.size,
                   LIMIT_KEY_SIZE);
        return;
    }
    if (subscriptions_is_watching(call->session)) {
        call_error(call, "ERR", "this connection is watching already; UNWATCHKEYS ends that");
        return;
    }
    switch (subscriptions_watch(call->session, prefix, from_now, &index)) {
    case WATCH_STARTED:
        write_watch(call, "watchkeys", &prefix, index);
        break;
    case WATCH_OFF:
        call_error(call, "ERR", "the change feed of this node is off (feed_history = 0)");
        break;
    case WATCH_GONE:
        call_error(call, "GONE",
                   "%llu is the oldest index to resume from here: the history of this shard does "
                   "not reach back to the one asked for; read the keys anew",
                   (unsigned long long)index);
        break;
    }
}

void verb_unwatchkeys(struct call *call) {
    struct session *session = call->session;
    if (!subscriptions_is_watching(session)) {
        write_watch(call, "unwatchkeys", NULL, 0);
        return;
    }
    struct buffer prefix = {0};
    buffer_append_slice(&prefix, subscriptions_prefix(session));
    struct slice name = buffer_slice(&prefix);
    write_watch(call, "unwatchkeys", &name, subscriptions_unwatch(session));
    buffer_free(&prefix);
}
