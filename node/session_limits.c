#include "node/session_limits.h"

#include "base/resp.h"
#include "node/project_limits.h"
#include "node/resp_commands.h"
#include "node/session_state.h"

void session_limits_reached(struct session_host *host, enum bound bound, const char *peer,
                            struct slice project, const char *text) {
    const struct session_port *port = &host->port;
    bool is_due = bounds_note(&host->bounds, bound, 1, port->now_ms(port->data));
    if (is_due && port->on_bound != NULL) {
        port->on_bound(port->data, bound, peer, project, text != NULL ? text : "");
    }
}

/* What works in the connection's project. */
static bool is_of_project(const struct verb *verb) {
    bool administers = (verb->flags & (VERB_ADMIN | VERB_SERVICE)) != 0;
    bool subscribes = (verb->flags & VERB_SUBSCRIBED) != 0 && (verb->flags & VERB_SETTLED) != 0 &&
                      (verb->flags & VERB_NO_AUTH) == 0;
    return !administers && ((verb->flags & (VERB_WRITE | VERB_READONLY)) != 0 || subscribes);
}

/* ---- projects ---- */

static uint64_t now_us(const struct session *session) {
    const struct session_port *port = &session->host->port;
    return session->running ? session->run_us : 1000 * port->now_ms(port->data);
}

void session_limits_leave(struct session *session) {
    if (session->project_key != 0) {
        project_limits_leave(session->host->projects, session->project_key);
        session->project_key = 0;
    }
}

/* As much of a name as fits into a message. */
static int shown_size(struct slice name) {
    return (int)(name.size < LIMIT_PROJECT_CHARACTERS ? name.size : LIMIT_PROJECT_CHARACTERS);
}

enum error_code session_limits_enter(struct session *session, struct slice project,
                                     struct error *error) {
    struct session_host *host = session->host;
    if (host->projects == NULL || session->access.role == ROLE_ADMIN) {
        return ERROR_NONE;
    }
    uint64_t key = project_limits_key(host->projects, project);
    if (key == session->project_key) {
        return ERROR_NONE;
    }
    if (!project_limits_enter(host->projects, key, now_us(session))) {
        error_set(error, ERROR_GENERIC,
                  "max number of clients reached: project '%.*s' has %u connections at this node "
                  "(max_connections_per_project)",
                  shown_size(project), (const char *)project.data,
                  project_limits_connections(host->projects, key));
        session_limits_reached(host, BOUND_PROJECT_CONNECTIONS, session->peer, project, NULL);
        return error->code;
    }
    session_limits_leave(session);
    session->project_key = key;
    return ERROR_NONE;
}

static bool admit_project(struct call *call) {
    struct session *session = call->session;
    struct session_host *host = session->host;
    struct slice project = session_project(session);
    struct error error;
    uint64_t wait_us = 0;
    if (host->projects == NULL || session->access.role == ROLE_ADMIN) {
        return true;
    }
    if (session->project_key == 0 && session_limits_enter(session, project, &error) != ERROR_NONE) {
        call_error(call, error_prefix(error.code), "%s", error.message);
        return false;
    }
    if (project_limits_take(host->projects, session->project_key, now_us(session), &wait_us)) {
        return true;
    }
    call_error(call, "BUSY",
               "project '%.*s' sends this node more than %u requests per second "
               "(requests_per_second); try again in %llu ms",
               shown_size(project), (const char *)project.data, host->limits.requests_per_second,
               (unsigned long long)((wait_us + 999) / 1000));
    session_limits_reached(host, BOUND_REQUEST_RATE, session->peer, project, NULL);
    return false;
}

/* ---- memory ---- */

enum error_code session_limits_memory(const struct session_host *host, bool is_write,
                                      struct error *error) {
    const struct session_port *port = &host->port;
    uint64_t used = 0, max = 0;
    if (port->memory == NULL) {
        return ERROR_NONE;
    }
    enum memory_level refused_from = is_write ? MEMORY_NO_WRITES : MEMORY_NO_DATA;
    if (port->memory(port->data, &used, &max) < refused_from) {
        return ERROR_NONE;
    }
    return error_set(error, ERROR_BUSY,
                     "this node uses %llu MiB of memory, near to its ceiling of %llu MiB "
                     "(max_memory); try again later",
                     (unsigned long long)(used / MIB), (unsigned long long)(max / MIB));
}

static bool admit_memory(struct call *call, const struct verb *verb) {
    struct session *session = call->session;
    bool is_write = (verb->flags & VERB_WRITE) != 0;
    struct error error;
    if (session_limits_memory(session->host, is_write, &error) == ERROR_NONE) {
        return true;
    }
    call_error(call, error_prefix(error.code), "%s", error.message);
    session_limits_reached(session->host, BOUND_MEMORY, session->peer, session_project(session),
                           error.message);
    return false;
}

bool session_limits_admit(struct call *call, const struct verb *verb) {
    if (!is_of_project(verb)) {
        return true;
    }
    return admit_memory(call, verb) && admit_project(call);
}
