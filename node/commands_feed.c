/* Subscriptions to what happens to keys; see docs/change-feed.md. */
#include <stdio.h>

#include "base/limits.h"
#include "base/mem.h"
#include "base/number.h"
#include "base/resp.h"
#include "node/resp_commands.h"
#include "node/router.h"
#include "node/session_state.h"
#include "node/subscriptions.h"

static unsigned count_all(const struct session *session) {
    return subscriptions_count(session, false) + subscriptions_count(session, true);
}

/* NULL stands for nil. */
static void write_change(struct session *session, struct buffer *out, const char *what,
                         const struct slice *name, uint64_t number) {
    resp_write_push(out, 3, session->version);
    resp_write_bulk(out, slice_of(what));
    if (name != NULL) {
        resp_write_bulk(out, *name);
    } else {
        resp_write_null(out, session->version);
    }
    resp_write_integer(out, (int64_t)number);
}

/* --- beginning -------------------------------------------------------------------------------- */

/* What a command asks for. With a token the shard is asked first whether that is good, which
 * subscriptions.h explains. */
struct feed_step {
    struct call_step base;
    bool is_watch;
    bool is_pattern;
    bool from_now;
    uint64_t index; /* of FROM */
    uint64_t since;
    unsigned n;
    struct buffer names; /* n channels or patterns, or the prefix, each as u32+ */
};

static void subscribe(struct session *session, const struct feed_step *step, struct buffer *out) {
    struct reader reader = reader_make(buffer_slice(&step->names));
    for (unsigned i = 0; i < step->n; i++) {
        struct slice name = reader_bytes(&reader);
        if (!subscriptions_add(session, step->is_pattern, name, step->since)) {
            resp_write_error(out, "BUSY",
                             "the change feed has moved on too far meanwhile; try again");
            return;
        }
        write_change(session, out, step->is_pattern ? "psubscribe" : "subscribe", &name,
                     count_all(session));
    }
}

static void watch(struct session *session, const struct feed_step *step, struct buffer *out) {
    struct reader reader = reader_make(buffer_slice(&step->names));
    struct slice prefix = reader_bytes(&reader);
    uint64_t index = step->index;
    char text[160];
    switch (subscriptions_watch(session, prefix, step->from_now, &index, step->since)) {
    case WATCH_STARTED:
        write_change(session, out, "watchkeys", &prefix, index);
        break;
    case WATCH_OFF:
        resp_write_error(out, "ERR", "the change feed of this node is off (feed_history = 0)");
        break;
    case WATCH_GONE:
        snprintf(text, sizeof text,
                 "%llu is the oldest index to resume from here: the history of this shard does not "
                 "reach back to the one asked for; read the keys anew",
                 (unsigned long long)index);
        resp_write_error(out, "GONE", text);
        break;
    }
}

/* Silence from a node that waits to be added would look as if nothing happened. */
static void begin(struct session *session, const struct feed_step *step, struct buffer *out) {
    if (!subscriptions_are_served(session)) {
        resp_write_error(out, "STALE", ROUTER_NOT_WHOLE);
    } else if (step->is_watch) {
        watch(session, step, out);
    } else {
        subscribe(session, step, out);
    }
}

static void release(struct call_step *base) {
    struct feed_step *step = (struct feed_step *)base;
    buffer_free(&step->names);
}

static bool allowed(struct call_step *base, struct session *session, const struct result *result,
                    struct buffer *out) {
    if (result->kind == RESULT_ERROR) {
        return false;
    }
    begin(session, (struct feed_step *)base, out);
    return true;
}

/* Any read will do: it is refused without a good token. */
static void ask(struct call *call, struct feed_step *step) {
    const struct session *session = call->session;
    const struct command command = {.kind = COMMAND_DBSIZE,
                                    .project = session_project(session),
                                    .token = session_access_token(&session->access)};
    step->since = subscriptions_index(session);
    step->base.done = allowed;
    step->base.release = release;
    step->base.blocks = true;
    call_step_prepare(&step->base, session, &command, NULL, 0);
    call_submit_step(call, &step->base);
}

/* Takes the names argv[1..1 + n). */
static void ask_or_begin(struct call *call, const struct feed_step *wanted, unsigned n) {
    struct feed_step *step = mem_zalloc(1, sizeof *step);
    *step = *wanted;
    step->n = n;
    for (unsigned i = 0; i < n; i++) {
        buffer_put_bytes(&step->names, call->argv[1 + i]);
    }
    if (call->session->access.role == ROLE_TOKEN) {
        ask(call, step);
        return;
    }
    step->since = SUBSCRIPTIONS_NOW;
    begin(call->session, step, call_reply(call));
    release(&step->base);
    mem_free(step);
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

static void verb_subscribe_to(struct call *call, bool is_pattern) {
    if (check_names(call, is_pattern)) {
        ask_or_begin(call, &(struct feed_step){.is_pattern = is_pattern}, call->argc - 1);
    }
}

void verb_subscribe(struct call *call) {
    verb_subscribe_to(call, false);
}

void verb_psubscribe(struct call *call) {
    verb_subscribe_to(call, true);
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
    struct feed_step wanted = {.is_watch = true};
    size_t size = call->argv[1].size;
    if (!parse_watch(call, &wanted.from_now, &wanted.index)) {
        return;
    }
    if (size > LIMIT_KEY_SIZE) {
        call_error(call, "TOOBIG", "prefix of %zu bytes exceeds the limit of %d bytes", size,
                   LIMIT_KEY_SIZE);
    } else if (subscriptions_is_watching(call->session)) {
        call_error(call, "ERR", "this connection is watching already; UNWATCHKEYS ends that");
    } else {
        ask_or_begin(call, &wanted, 1);
    }
}

/* --- ending ----------------------------------------------------------------------------------- */

static void unsubscribe_all(struct call *call, bool is_pattern, const char *what) {
    struct session *session = call->session;
    struct buffer *out = call_reply(call);
    struct slice name;
    if (!subscriptions_any(session, is_pattern, &name)) {
        write_change(session, out, what, NULL, count_all(session));
        return;
    }
    do {
        struct buffer copy = {0};
        buffer_append_slice(&copy, name);
        name = buffer_slice(&copy);
        subscriptions_remove(session, is_pattern, name);
        write_change(session, out, what, &name, count_all(session));
        buffer_free(&copy);
    } while (subscriptions_any(session, is_pattern, &name));
}

static void unsubscribe(struct call *call, bool is_pattern) {
    struct session *session = call->session;
    const char *what = is_pattern ? "punsubscribe" : "unsubscribe";
    if (call->argc == 1) {
        unsubscribe_all(call, is_pattern, what);
        return;
    }
    for (unsigned i = 1; i < call->argc; i++) {
        subscriptions_remove(session, is_pattern, call->argv[i]);
        write_change(session, call_reply(call), what, &call->argv[i], count_all(session));
    }
}

void verb_unsubscribe(struct call *call) {
    unsubscribe(call, false);
}

void verb_punsubscribe(struct call *call) {
    unsubscribe(call, true);
}

void verb_unwatchkeys(struct call *call) {
    struct session *session = call->session;
    struct buffer *out = call_reply(call);
    if (!subscriptions_is_watching(session)) {
        write_change(session, out, "unwatchkeys", NULL, 0);
        return;
    }
    struct buffer prefix = {0};
    buffer_append_slice(&prefix, subscriptions_prefix(session));
    struct slice name = buffer_slice(&prefix);
    write_change(session, out, "unwatchkeys", &name, subscriptions_unwatch(session));
    buffer_free(&prefix);
}
