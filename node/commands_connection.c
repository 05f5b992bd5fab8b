/* The connection itself: greeting, project, name, protocol version. */
#include <stdio.h>

#include "base/number.h"
#include "base/resp.h"
#include "node/commands_auth.h"
#include "node/resp_commands.h"
#include "node/session_state.h"
#include "node/subscriptions.h"

/* The release of Redis whose behaviour clients find here. */
#define REDIS_VERSION "7.0.15"

void verb_ping(struct call *call) {
    if (call->argc > 2) {
        call_error(call, "ERR", "wrong number of arguments for 'ping' command");
    } else if (call_version(call) < 3 && subscriptions_exist(call->session)) {
        struct buffer *out = call_reply(call);
        resp_write_array(out, 2);
        resp_write_bulk(out, slice_of("pong"));
        resp_write_bulk(out, call->argc == 2 ? call->argv[1] : slice_of(""));
    } else if (call->argc == 2) {
        resp_write_bulk(call_reply(call), call->argv[1]);
    } else {
        resp_write_simple(call_reply(call), "PONG");
    }
}

void verb_echo(struct call *call) {
    resp_write_bulk(call_reply(call), call->argv[1]);
}

void verb_quit(struct call *call) {
    call_ok(call);
    call->session->closing = true;
}

void verb_reset(struct call *call) {
    subscriptions_free(call->session);
    session_set_defaults(call->session);
    resp_write_simple(call_reply(call), "RESET");
}

void verb_select(struct call *call) {
    int64_t index;
    if (!number_parse_integer(call->argv[1], &index)) {
        call_error(call, "ERR", "value is not an integer or out of range");
    } else if (index != 0) {
        call_error(call, "ERR", "DB index is out of range");
    } else {
        call_ok(call);
    }
}

/* A name may be empty, which removes it. */
static bool check_name(struct call *call, struct slice name) {
    if (name.size > SESSION_CLIENT_NAME) {
        call_error(call, "TOOBIG", "client name of %zu bytes exceeds the limit of %d bytes",
                   name.size, SESSION_CLIENT_NAME);
        return false;
    }
    for (size_t i = 0; i < name.size; i++) {
        if (name.data[i] < '!' || name.data[i] > '~') {
            call_error(call, "ERR",
                       "Client names cannot contain spaces, newlines or special characters.");
            return false;
        }
    }
    return true;
}

static void set_name(struct session *session, struct slice name) {
    if (name.size > 0) {
        memcpy(session->name, name.data, name.size);
    }
    session->name[name.size] = '\0';
}

struct hello_options {
    int version;
    const struct slice *auth; /* project and token, NULL when not given */
    const struct slice *name;
};

static bool parse_hello(struct call *call, struct hello_options *options) {
    *options = (struct hello_options){.version = call->session->version};
    if (call->argc == 1) {
        return true;
    }
    int64_t version;
    if (!number_parse_integer(call->argv[1], &version)) {
        call_error(call, "ERR", "Protocol version is not an integer or out of range");
        return false;
    }
    if (version != 2 && version != 3) {
        call_error(call, "NOPROTO", "unsupported protocol version");
        return false;
    }
    options->version = (int)version;
    for (unsigned i = 2; i < call->argc; i++) {
        struct slice word = call->argv[i];
        unsigned left = call->argc - 1 - i;
        if (slice_equal_nocase(word, "AUTH") && left >= 2) {
            options->auth = &call->argv[i + 1];
            i += 2;
        } else if (slice_equal_nocase(word, "SETNAME") && left >= 1) {
            options->name = &call->argv[i + 1];
            i += 1;
        } else {
            call_error(call, "ERR", "Syntax error in HELLO option '%.*s'",
                       (int)(word.size < 128 ? word.size : 128),
                       word.size > 0 ? (const char *)word.data : "");
            return false;
        }
    }
    return options->name == NULL || check_name(call, *options->name);
}

static void write_field(struct buffer *out, const char *name, const char *value) {
    resp_write_bulk(out, slice_of(name));
    resp_write_bulk(out, slice_of(value));
}

void hello_greet(struct session *session, const struct hello_rest *hello, struct buffer *out) {
    if (hello->has_name) {
        set_name(session, slice_make(hello->name, hello->name_size));
    }
    session->version = hello->version;
    resp_write_map(out, 7, session->version);
    write_field(out, "server", "redis");
    write_field(out, "version", REDIS_VERSION);
    resp_write_bulk(out, slice_of("proto"));
    resp_write_integer(out, session->version);
    resp_write_bulk(out, slice_of("id"));
    resp_write_integer(out, (int64_t)session->id);
    write_field(out, "mode", "standalone");
    write_field(out, "role", "master");
    resp_write_bulk(out, slice_of("modules"));
    resp_write_array(out, 0);
}

void verb_hello(struct call *call) {
    struct hello_options options;
    if (!parse_hello(call, &options)) {
        return;
    }
    struct hello_rest hello = {.version = options.version, .has_name = options.name != NULL};
    if (options.name != NULL && options.name->size > 0) {
        hello.name_size = options.name->size;
        memcpy(hello.name, options.name->data, options.name->size);
    }
    if (options.auth != NULL) {
        call_authenticate(call, options.auth[0], options.auth[1], &hello);
    } else if (call->session->access.role == ROLE_NONE) {
        call_error(call, "NOAUTH",
                   "authentication required: HELLO protover AUTH project token, or AUTH first");
    } else {
        hello_greet(call->session, &hello, call_reply(call));
    }
}

void verb_client_setname(struct call *call) {
    if (check_name(call, call->argv[2])) {
        set_name(call->session, call->argv[2]);
        call_ok(call);
    }
}

void verb_client_getname(struct call *call) {
    if (call->session->name[0] == '\0') {
        resp_write_null(call_reply(call), call_version(call));
    } else {
        resp_write_bulk(call_reply(call), slice_of(call->session->name));
    }
}

void verb_client_id(struct call *call) {
    resp_write_integer(call_reply(call), (int64_t)call->session->id);
}

void verb_client_setinfo(struct call *call) {
    if (slice_equal_nocase(call->argv[2], "LIB-NAME") ||
        slice_equal_nocase(call->argv[2], "LIB-VER")) {
        call_ok(call);
        return;
    }
    struct slice word = call->argv[2];
    call_error(call, "ERR", "Unrecognized option '%.*s'", (int)(word.size < 128 ? word.size : 128),
               word.size > 0 ? (const char *)word.data : "");
}

void verb_client_no_evict(struct call *call) {
    if (slice_equal_nocase(call->argv[2], "ON") || slice_equal_nocase(call->argv[2], "OFF")) {
        call_ok(call);
    } else {
        call_syntax_error(call);
    }
}

/* A project's name as a field that ends at a blank. */
static void put_project(struct buffer *out, struct slice name) {
    for (size_t i = 0; i < name.size; i++) {
        uint8_t c = name.data[i];
        if (c == ' ' || c == '%') {
            buffer_append_slice(out, slice_of(c == ' ' ? "%20" : "%25"));
        } else {
            buffer_put_u8(out, c);
        }
    }
}

/* One line about a session, in the fields that Redis has. */
static void describe_session(struct buffer *out, const struct session *session, uint64_t now_ms) {
    char line[1024];
    int size = snprintf(
        line, sizeof line,
        "id=%llu addr=%s laddr=%s name=%s age=%llu idle=%llu flags=%s db=0 sub=%u psub=%u multi=%d "
        "qbuf=%zu ops=%u omem=%zu cmd=%s resp=%d user=",
        (unsigned long long)session->id, session->peer, session->local, session->name,
        (unsigned long long)((now_ms - session->since_ms) / 1000),
        (unsigned long long)((now_ms - session->active_ms) / 1000),
        session->transaction.is_open ? "x" : "N", subscriptions_count(session, false),
        subscriptions_count(session, true),
        session->transaction.is_open ? (int)session->transaction.plan.count : -1,
        session->input_memory, session->reads + session->writes, session->unsent + session->queued,
        session->last_verb != NULL ? session->last_verb->name : "NULL", session->version);
    buffer_append(out, line, (size_t)size < sizeof line ? (size_t)size : sizeof line - 1);
    if (session->access.role != ROLE_NONE) {
        put_project(out, session_project(session));
    }
    buffer_put_u8(out, '\n');
}

static uint64_t host_now_ms(const struct session_host *host) {
    return host->port.now_ms(host->port.data);
}

void verb_client_info(struct call *call) {
    struct buffer text = {0};
    describe_session(&text, call->session, host_now_ms(call->session->host));
    resp_write_bulk(call_reply(call), buffer_slice(&text));
    buffer_free(&text);
}

/* Options that narrow the list are accepted where they select everybody. */
static bool check_list_options(struct call *call) {
    if (call->argc == 2) {
        return true;
    }
    if (call->argc == 4 && slice_equal_nocase(call->argv[2], "TYPE")) {
        if (slice_equal_nocase(call->argv[3], "NORMAL")) {
            return true;
        }
        struct slice type = call->argv[3];
        call_error(call, "ERR", "Unknown client type '%.*s'",
                   (int)(type.size < 128 ? type.size : 128),
                   type.size > 0 ? (const char *)type.data : "");
        return false;
    }
    call_syntax_error(call);
    return false;
}

void verb_client_list(struct call *call) {
    if (!check_list_options(call)) {
        return;
    }
    const struct session_host *host = call->session->host;
    uint64_t now_ms = host_now_ms(host);
    struct buffer text = {0};
    for (const struct list_node *node = host->sessions.next; node != &host->sessions;
         node = node->next) {
        describe_session(&text, LIST_ENTRY(node, const struct session, link), now_ms);
    }
    resp_write_bulk(call_reply(call), buffer_slice(&text));
    buffer_free(&text);
}
