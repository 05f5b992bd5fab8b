#include "node/commands_auth.h"

#include <openssl/crypto.h>

#include "base/assert.h"
#include "base/mem.h"
#include "base/resp.h"
#include "node/logins.h"
#include "node/machine/project_name.h"
#include "node/session_limits.h"
#include "node/session_state.h"

static_assert(SESSION_CLIENT_NAME <= sizeof((struct hello_rest *)0)->name, "a name fits");

struct auth_step {
    struct call_step base;
    struct session_host *host;
    struct login login;
    bool login_ended;
    uint64_t token;
    bool greets;
    struct hello_rest hello;
    struct buffer project;
};

/* ---- bounds on failures ---- */

static uint64_t now_ms(const struct session_host *host) {
    return host->port.now_ms(host->port.data);
}

/* Somebody may have given the secret in the place of the name. */
static bool may_be_secret(const struct credentials *credentials, struct slice user) {
    static const char prefix[] = "ikv_";
    uint8_t digest[SECRET_DIGEST_SIZE];
    secret_digest(user, digest);
    bool is_token =
        user.size >= sizeof prefix - 1 && memcmp(user.data, prefix, sizeof prefix - 1) == 0;
    return is_token || credentials_are(credentials, digest);
}

static void tell_refusal(const struct session *session, struct slice user, uint64_t wait_ms) {
    const struct session_host *host = session->host;
    struct session_login login = {.peer = session->peer, .user = user, .wait_ms = wait_ms};
    if (may_be_secret(host->credentials, user)) {
        login.user = slice_make(NULL, 0);
    }
    if (host->logins != NULL) {
        host->port.on_login_refused(host->port.data, &login);
    }
}

/* False, and answered, when too many of this kind have failed. */
static bool begin_login(struct call *call, struct slice user, uint64_t token, struct login *login) {
    const struct session *session = call->session;
    struct logins *logins = session->host->logins;
    if (logins == NULL) {
        return true;
    }
    uint64_t wait_ms =
        logins_begin(logins, now_ms(session->host), session->peer, user, token, login);
    if (wait_ms == 0) {
        return true;
    }
    call_error(call, "BUSY",
               "too many failed logins like this one from your address (login_failures); try again "
               "in %llu ms",
               (unsigned long long)wait_ms);
    tell_refusal(session, user, wait_ms);
    return false;
}

static void end_login(struct session_host *host, const struct login *login,
                      enum login_outcome outcome) {
    if (host->logins != NULL) {
        logins_end(host->logins, now_ms(host), login, outcome);
    }
}

static enum login_outcome outcome_of(const struct result *result) {
    if (result->kind == RESULT_INTEGER) {
        return LOGIN_GOOD;
    }
    bool wrong = result->kind == RESULT_ERROR && result->code == ERROR_WRONGPASS;
    return wrong ? LOGIN_WRONG : LOGIN_UNKNOWN;
}

/* ---- asking the shard ---- */

/* Without an answer, for example because the client has gone, nothing is known. */
static void release(struct call_step *base) {
    struct auth_step *step = (struct auth_step *)base;
    if (!step->login_ended) {
        end_login(step->host, &step->login, LOGIN_UNKNOWN);
    }
    buffer_free(&step->project);
}

static void answer(struct session *session, const struct hello_rest *hello, struct buffer *out) {
    if (hello != NULL) {
        hello_greet(session, hello, out);
    } else {
        resp_write_simple(out, "OK");
    }
}

static bool done(struct call_step *base, struct session *session, const struct result *result,
                 struct buffer *out) {
    struct auth_step *step = (struct auth_step *)base;
    struct error error;
    enum login_outcome outcome = outcome_of(result);
    end_login(step->host, &step->login, outcome);
    step->login_ended = true;
    if (outcome != LOGIN_GOOD) {
        if (outcome == LOGIN_WRONG) {
            tell_refusal(session, buffer_slice(&step->project), 0);
        }
        return false;
    }
    struct slice project = buffer_slice(&step->project);
    enum error_code code = session_limits_enter(session, project, &error);
    if (code == ERROR_NONE) {
        code = session_access_add(&session->access, project, step->token, &error);
    }
    if (code != ERROR_NONE) {
        session_limits_leave(session); /* counts again where it works next */
        resp_write_error(out, error_prefix(code), error.message);
    } else {
        answer(session, step->greets ? &step->hello : NULL, out);
    }
    return true;
}

/* Asks the project's shard. A wrong credential goes this way too, with a token that nobody has, so
 * that all refusals look alike and take as long. */
static void ask(struct call *call, struct slice project, uint64_t token, const uint8_t *digest,
                const struct login *login, const struct hello_rest *hello) {
    struct auth_step *step = mem_zalloc(1, sizeof *step);
    uint8_t number[8];
    bytes_put_u64(number, token);
    const struct slice args[] = {slice_make(number, sizeof number),
                                 slice_make(digest, SECRET_DIGEST_SIZE)};
    const struct command command = {
        .kind = COMMAND_AUTHENTICATE, .token = COMMAND_TOKEN_OPEN, .project = project};
    step->base.done = done;
    step->base.release = release;
    step->base.blocks = true;
    step->host = call->session->host;
    step->login = *login;
    step->token = token;
    step->greets = hello != NULL;
    if (hello != NULL) {
        step->hello = *hello;
    }
    buffer_append_slice(&step->project, project);
    call_step_prepare(&step->base, call->session, &command, args, 2);
    call_submit_step(call, &step->base);
}

static bool check_project(struct call *call, struct slice name) {
    struct error error;
    enum error_code code = project_name_check(name, &error);
    if (code != ERROR_NONE) {
        call_error(call, error_prefix(code), "%s", error.message);
    }
    return code == ERROR_NONE;
}

static void authenticate(struct call *call, struct slice user, struct slice secret,
                         const struct hello_rest *hello) {
    struct session *session = call->session;
    const struct credentials *credentials = session->host->credentials;
    if (!check_project(call, user)) {
        return;
    }
    if (credentials == NULL || !credentials->required) {
        /* Any token will do. */
        struct error error;
        if (session_limits_enter(session, user, &error) != ERROR_NONE) {
            call_error(call, error_prefix(error.code), "%s", error.message);
            return;
        }
        session_access_set_project(&session->access, user);
        answer(session, hello, call_reply(call));
        return;
    }
    uint64_t token = credentials_is_reserved(user) ? 0 : token_text_id(secret);
    struct login login = {.kind = LOGIN_PROJECT};
    if (!begin_login(call, user, token, &login)) {
        return;
    }
    uint8_t digest[SECRET_DIGEST_SIZE];
    secret_digest(secret, digest);
    enum session_role role = credentials_check(credentials, user, digest);
    if (role != ROLE_NONE) {
        end_login(session->host, &login, LOGIN_GOOD);
        session_limits_leave(session);
        session_access_become(&session->access, role);
        answer(session, hello, call_reply(call));
        return;
    }
    ask(call, user, token, digest, &login, hello);
}

void call_authenticate(struct call *call, struct slice user, struct slice secret,
                       const struct hello_rest *hello) {
    authenticate(call, user, secret, hello);
    /* It stands in the parser's memory, which nobody else looks at and which is reused late. */
    if (secret.size > 0) {
        OPENSSL_cleanse((void *)(uintptr_t)secret.data, secret.size);
    }
}

void verb_auth(struct call *call) {
    if (call->argc > 3) {
        call_syntax_error(call);
        return;
    }
    /* A token alone is that of the project `default`. */
    struct slice user = call->argc == 3 ? call->argv[1] : slice_of("default");
    call_authenticate(call, user, call->argv[call->argc - 1], NULL);
}
