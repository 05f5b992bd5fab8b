#include "node/commands_auth.h"

#include "base/assert.h"
#include "base/mem.h"
#include "base/resp.h"
#include "node/machine/project_name.h"
#include "node/session_state.h"

static_assert(SESSION_CLIENT_NAME <= sizeof((struct hello_rest *)0)->name, "a name fits");

struct auth_step {
    struct call_step base;
    uint64_t token;
    bool greets;
    struct hello_rest hello;
    struct buffer project;
};

static void release(struct call_step *base) {
    struct auth_step *step = (struct auth_step *)base;
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
    if (result->kind != RESULT_INTEGER) {
        return false;
    }
    enum error_code code =
        session_access_add(&session->access, buffer_slice(&step->project), step->token, &error);
    if (code != ERROR_NONE) {
        resp_write_error(out, error_prefix(code), error.message);
    } else {
        answer(session, step->greets ? &step->hello : NULL, out);
    }
    return true;
}

/* Asks the project's shard. A wrong credential goes this way too, with a token that nobody has, so
 * that all refusals look alike and take as long. */
static void ask(struct call *call, struct slice project, uint64_t token, const uint8_t *digest,
                const struct hello_rest *hello) {
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

void call_authenticate(struct call *call, struct slice user, struct slice secret,
                       const struct hello_rest *hello) {
    struct session *session = call->session;
    const struct credentials *credentials = session->host->credentials;
    if (!check_project(call, user)) {
        return;
    }
    if (credentials == NULL || !credentials->required) {
        /* Any token will do. */
        session_access_set_project(&session->access, user);
        answer(session, hello, call_reply(call));
        return;
    }
    uint8_t digest[SECRET_DIGEST_SIZE];
    secret_digest(secret, digest);
    enum session_role role = credentials_check(credentials, user, digest);
    if (role != ROLE_NONE) {
        session_access_become(&session->access, role);
        answer(session, hello, call_reply(call));
        return;
    }
    ask(call, user, credentials_is_reserved(user) ? 0 : token_text_id(secret), digest, hello);
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
