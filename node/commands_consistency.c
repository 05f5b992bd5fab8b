/* How fresh the reads of a connection must be; see docs/consistency.md. */
#include <stdio.h>

#include "base/number.h"
#include "base/resp.h"
#include "base/slot.h"
#include "node/machine/project_name.h"
#include "node/resp_commands.h"
#include "node/server_info.h"
#include "node/session_state.h"
#include "node/session_token.h"

static void set_level(struct call *call, enum read_level level, uint64_t max_stale_ms) {
    call->session->level = level;
    call->session->max_stale_ms = max_stale_ms;
    call_ok(call);
}

static unsigned own_shard(const struct session *session) {
    return slot_shard(slot_of(session_project(session)), session->host->limits.n_shards);
}

static const char *own_cluster(const struct session *session) {
    const struct session_port *port = &session->host->port;
    struct server_info info = {0};
    port->describe(port->data, &info);
    return info.cluster; /* valid until the loop goes on */
}

/* A token only ever raises what the session has to see. */
static bool take_token(struct call *call, struct slice text) {
    struct session *session = call->session;
    struct error error;
    unsigned shard = 0;
    uint64_t index = 0;
    enum error_code code = session_token_read(text, own_cluster(session), &shard, &index, &error);
    if (code != ERROR_NONE) {
        call_error(call, "BADTOKEN", "%s", error.message);
        return false;
    }
    if (shard != own_shard(session)) {
        call_error(call, "BADTOKEN",
                   "this session token is of shard %u; project '%s' lives in shard %u", shard,
                   project_label(session_project(session)).text, own_shard(session));
        return false;
    }
    if (index > session->seen[shard]) {
        session->seen[shard] = index;
    }
    return true;
}

static void set_session(struct call *call) {
    if (call->argc > 3) {
        call_syntax_error(call);
    } else if (call->argc == 2 || take_token(call, call->argv[2])) {
        set_level(call, READ_SESSION, 0);
    }
}

static void set_eventual(struct call *call) {
    int64_t max_stale_ms = 0;
    if (call->argc == 2) {
        set_level(call, READ_EVENTUAL, 0);
        return;
    }
    if (call->argc != 4 || !slice_equal_nocase(call->argv[2], "MAXSTALE")) {
        call_syntax_error(call);
        return;
    }
    /* Within what can be added to a time without overflow. */
    if (!number_parse_integer(call->argv[3], &max_stale_ms) || max_stale_ms < 1 ||
        max_stale_ms > INT32_MAX) {
        call_error(call, "ERR", "MAXSTALE takes 1 to %d milliseconds", INT32_MAX);
        return;
    }
    set_level(call, READ_EVENTUAL, (uint64_t)max_stale_ms);
}

/* In the words that would set it. */
static void tell_level(struct call *call) {
    const struct session *session = call->session;
    char text[64];
    switch (session->level) {
    case READ_LINEARIZABLE:
        snprintf(text, sizeof text, "LINEARIZABLE");
        break;
    case READ_SESSION:
        snprintf(text, sizeof text, "SESSION");
        break;
    case READ_EVENTUAL:
        if (session->max_stale_ms > 0) {
            snprintf(text, sizeof text, "EVENTUAL MAXSTALE %llu",
                     (unsigned long long)session->max_stale_ms);
        } else {
            snprintf(text, sizeof text, "EVENTUAL");
        }
        break;
    }
    resp_write_bulk(call_reply(call), slice_of(text));
}

void verb_consistency(struct call *call) {
    if (call->argc == 1) {
        tell_level(call);
    } else if (slice_equal_nocase(call->argv[1], "LINEARIZABLE") && call->argc == 2) {
        set_level(call, READ_LINEARIZABLE, 0);
    } else if (slice_equal_nocase(call->argv[1], "SESSION")) {
        set_session(call);
    } else if (slice_equal_nocase(call->argv[1], "EVENTUAL")) {
        set_eventual(call);
    } else {
        call_syntax_error(call);
    }
}

void verb_readonly(struct call *call) {
    set_level(call, READ_EVENTUAL, 0);
}

void verb_readwrite(struct call *call) {
    set_level(call, READ_LINEARIZABLE, 0);
}

void verb_token(struct call *call) {
    const struct session *session = call->session;
    char text[SESSION_TOKEN_SIZE + 1];
    unsigned shard = own_shard(session);
    session_token_write(text, own_cluster(session), shard, session->seen[shard]);
    resp_write_bulk(call_reply(call), slice_of(text));
}
