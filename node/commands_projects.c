/* PROJECT: projects, their quotas and their tokens. Every subcommand but USE names its project, and
 * goes to the shard of that one, whatever the connection's project is. */
#include <inttypes.h>
#include <openssl/crypto.h>
#include <stdio.h>

#include "base/assert.h"
#include "base/mem.h"
#include "base/number.h"
#include "base/resp.h"
#include "base/slot.h"
#include "node/machine/project_name.h"
#include "node/machine/tokens.h"
#include "node/resp_commands.h"
#include "node/server_info.h"
#include "node/session_limits.h"
#include "node/session_state.h"

/* ---- what they share ---- */

static bool check_name(struct call *call, struct slice name) {
    struct error error;
    enum error_code code = project_name_check(name, &error);
    if (code != ERROR_NONE) {
        call_error(call, error_prefix(code), "%s", error.message);
    }
    return code == ERROR_NONE;
}

static bool parse_quota(struct call *call, struct slice text, uint64_t *quota) {
    int64_t number;
    if (!number_parse_integer(text, &number) || number < 0 || (uint64_t)number > LIMIT_QUOTA_MAX) {
        call_error(call, "ERR", "quota is not a number of bytes from 0 to %" PRIu64,
                   LIMIT_QUOTA_MAX);
        return false;
    }
    *quota = (uint64_t)number;
    return true;
}

/* The command for a project that the connection need not be in. */
static struct command command_for(const struct call *call, enum command_kind kind,
                                  struct slice project) {
    return (struct command){
        .kind = kind, .token = session_access_token(&call->session->access), .project = project};
}

static bool result_is_reply(struct call_step *step, struct session *session,
                            const struct result *result, struct buffer *out) {
    (void)step;
    (void)session;
    (void)result;
    (void)out;
    return false;
}

/* A command whose result is the reply. */
static void submit(struct call *call, const struct command *command, const struct slice *args,
                   unsigned n_args) {
    struct call_step *step = mem_zalloc(1, sizeof *step);
    step->done = result_is_reply;
    call_step_prepare(step, call->session, command, args, n_args);
    call_submit_step(call, step);
}

static void write_missing(struct buffer *out, struct slice project) {
    char text[PROJECT_LABEL_SIZE + 64];
    snprintf(text, sizeof text, "there is no project '%s'", project_label(project).text);
    resp_write_error(out, error_prefix(ERROR_NOPROJECT), text);
}

static void write_field(struct buffer *out, const char *name, uint64_t value) {
    resp_write_bulk(out, slice_of(name));
    resp_write_integer(out, (int64_t)value);
}

/* ---- new tokens ---- */

/* A token that this node has drawn: what the state machine gets, and the text that is shown once.
 */
struct new_token {
    uint8_t id[8];
    uint8_t access[8];
    uint8_t salt[COMMAND_SALT_SIZE];
    uint8_t hash[COMMAND_HASH_SIZE];
    char text[TOKEN_TEXT_SIZE + 1];
};

struct token_step {
    struct call_step base;
    char text[TOKEN_TEXT_SIZE + 1];
};

static void forget_token(struct call_step *base) {
    struct token_step *step = (struct token_step *)base;
    OPENSSL_cleanse(step->text, sizeof step->text);
}

static bool show_token(struct call_step *base, struct session *session, const struct result *result,
                       struct buffer *out) {
    (void)session;
    const struct token_step *step = (const struct token_step *)base;
    if (result->kind != RESULT_OK) {
        return false;
    }
    resp_write_bulk(out, slice_of(step->text));
    return true;
}

static bool draw_token(struct call *call, enum command_access access, struct new_token *token) {
    const struct session_port *port = &call->session->host->port;
    struct {
        uint64_t id;
        uint8_t salt[COMMAND_SALT_SIZE];
        uint8_t secret[TOKEN_SECRET_BYTES];
    } drawn;
    struct error error;
    do {
        if (port->random(port->data, &drawn, sizeof drawn, &error) != ERROR_NONE) {
            call_error(call, "ERR", "%s", error.message);
            return false;
        }
    } while (drawn.id == COMMAND_TOKEN_OPEN || drawn.id == COMMAND_TOKEN_SERVICE);
    uint8_t digest[SECRET_DIGEST_SIZE];
    token_text_write(token->text, drawn.id, drawn.secret);
    secret_digest(slice_of(token->text), digest);
    bytes_put_u64(token->id, drawn.id);
    bytes_put_u64(token->access, access);
    memcpy(token->salt, drawn.salt, sizeof token->salt);
    token_hash(token->salt, slice_make(digest, sizeof digest), token->hash);
    OPENSSL_cleanse(&drawn, sizeof drawn);
    return true;
}

/* Submits a command that ends in a new token. */
static void submit_token(struct call *call, const struct command *command, struct slice *args,
                         unsigned n_args, enum command_access access) {
    struct new_token token;
    if (!draw_token(call, access, &token)) {
        return;
    }
    args[n_args++] = slice_make(token.id, sizeof token.id);
    args[n_args++] = slice_make(token.access, sizeof token.access);
    args[n_args++] = slice_make(token.salt, sizeof token.salt);
    args[n_args++] = slice_make(token.hash, sizeof token.hash);
    struct token_step *step = mem_zalloc(1, sizeof *step);
    step->base.done = show_token;
    step->base.release = forget_token;
    memcpy(step->text, token.text, sizeof step->text);
    call_step_prepare(&step->base, call->session, command, args, n_args);
    call_submit_step(call, &step->base);
    OPENSSL_cleanse(&token, sizeof token);
}

/* READWRITE|READONLY [EXPIRES milliseconds], from argv[at] to the end. */
static bool parse_token(struct call *call, unsigned at, enum command_access *access,
                        struct command *command) {
    unsigned left = call->argc - at;
    if (left != 1 && left != 3) {
        call_syntax_error(call);
        return false;
    }
    bool reads = slice_equal_nocase(call->argv[at], "READONLY");
    if (!reads && !slice_equal_nocase(call->argv[at], "READWRITE")) {
        call_syntax_error(call);
        return false;
    }
    *access = reads ? COMMAND_ACCESS_READONLY : COMMAND_ACCESS_READWRITE;
    if (left == 1) {
        return true;
    }
    int64_t expires_ms;
    if (!slice_equal_nocase(call->argv[at + 1], "EXPIRES")) {
        call_syntax_error(call);
        return false;
    }
    if (!number_parse_integer(call->argv[at + 2], &expires_ms) || expires_ms <= 0) {
        call_error(call, "ERR", "EXPIRES takes a positive number of milliseconds");
        return false;
    }
    command->expiry_mode = COMMAND_EXPIRY_AFTER;
    command->expiry_ms = (uint64_t)expires_ms;
    return true;
}

/* ---- PROJECT CREATE, DELETE, SET-QUOTA ---- */

void verb_project_create(struct call *call) {
    if (!check_name(call, call->argv[2])) {
        return;
    }
    struct command command = command_for(call, COMMAND_PROJECT_CREATE, call->argv[2]);
    uint64_t quota = COMMAND_QUOTA_DEFAULT;
    unsigned at = 3;
    if (at + 1 < call->argc && slice_equal_nocase(call->argv[at], "QUOTA")) {
        if (!parse_quota(call, call->argv[at + 1], &quota)) {
            return;
        }
        at += 2;
    }
    uint8_t number[8];
    bytes_put_u64(number, quota);
    struct slice args[5] = {slice_make(number, sizeof number)};
    if (at == call->argc) {
        submit(call, &command, args, 1);
        return;
    }
    enum command_access access;
    if (!slice_equal_nocase(call->argv[at], "TOKEN")) {
        call_syntax_error(call);
    } else if (parse_token(call, at + 1, &access, &command)) {
        command.flags = COMMAND_FLAG_TOKEN;
        submit_token(call, &command, args, 1, access);
    }
}

void verb_project_delete(struct call *call) {
    if (check_name(call, call->argv[2])) {
        struct command command = command_for(call, COMMAND_PROJECT_DELETE, call->argv[2]);
        submit(call, &command, NULL, 0);
    }
}

void verb_project_set_quota(struct call *call) {
    uint64_t quota;
    if (!check_name(call, call->argv[2]) || !parse_quota(call, call->argv[3], &quota)) {
        return;
    }
    uint8_t number[8];
    bytes_put_u64(number, quota);
    struct slice arg = slice_make(number, sizeof number);
    struct command command = command_for(call, COMMAND_PROJECT_SET_QUOTA, call->argv[2]);
    submit(call, &command, &arg, 1);
}

/* ---- PROJECT USE ---- */

void verb_project_use(struct call *call) {
    if (!check_name(call, call->argv[2])) {
        return;
    }
    struct session *session = call->session;
    uint64_t token;
    struct error error;
    if (!session_access_find(&session->access, call->argv[2], &token)) {
        call_error(call, "NOPERM",
                   "this connection has shown no token of project '%s'; AUTH with one first",
                   project_label(call->argv[2]).text);
    } else if (session_limits_enter(session, call->argv[2], &error) != ERROR_NONE) {
        call_error(call, error_prefix(error.code), "%s", error.message);
    } else {
        (void)session_access_use(&session->access, call->argv[2]);
        call_ok(call);
    }
}

/* ---- PROJECT INFO ---- */

struct info_step {
    struct call_step base;
    struct buffer project;
};

static void release_info(struct call_step *base) {
    buffer_free(&((struct info_step *)base)->project);
}

/* Use of the quota in percent with two digits, rounded down; a quota of 0 is always full. */
static void format_percent(char *text, size_t size, uint64_t used, uint64_t quota) {
    double percent = quota > 0 ? 100.0 * (double)used / (double)quota : 100.0;
    uint64_t hundredths = (uint64_t)(percent * 100);
    snprintf(text, size, "%" PRIu64 ".%02" PRIu64, hundredths / 100, hundredths % 100);
}

static bool write_info(struct call_step *base, struct session *session, const struct result *result,
                       struct buffer *out) {
    struct slice project = buffer_slice(&((struct info_step *)base)->project);
    if (result->kind == RESULT_NIL) {
        write_missing(out, project);
        return true;
    }
    if (result->kind != RESULT_INTEGERS) {
        return false;
    }
    struct reader numbers = reader_make(buffer_slice(&result->data));
    uint64_t keys = reader_u64(&numbers);
    uint64_t used = reader_u64(&numbers);
    uint64_t quota = reader_u64(&numbers);
    const struct session_port *port = &session->host->port;
    struct server_info info = {.cluster = ""};
    port->describe(port->data, &info);
    unsigned shard = slot_shard(slot_of(project), session->host->limits.n_shards);
    char percent[32];
    format_percent(percent, sizeof percent, used, quota);
    resp_write_map(out, 7, session->version);
    resp_write_bulk(out, slice_of("name"));
    resp_write_bulk(out, project);
    write_field(out, "keys", keys);
    write_field(out, "used_bytes", used);
    write_field(out, "quota_bytes", quota);
    resp_write_bulk(out, slice_of("used_percent"));
    resp_write_bulk(out, slice_of(percent));
    write_field(out, "shard", shard);
    write_field(out, "leader", shard < info.n_shards ? info.shards[shard].leader : 0);
    return true;
}

void verb_project_info(struct call *call) {
    const struct session *session = call->session;
    struct slice name = call->argc == 3 ? call->argv[2] : session_project(session);
    uint64_t token;
    if (call->argc > 3) {
        call_syntax_error(call);
        return;
    }
    if (!check_name(call, name)) {
        return;
    }
    if (!session_access_find(&session->access, name, &token)) {
        call_error(call, "NOPERM", "this connection has shown no token of project '%s'",
                   project_label(name).text);
        return;
    }
    struct info_step *step = mem_zalloc(1, sizeof *step);
    const struct command command = {.kind = COMMAND_PROJECT_INFO, .token = token, .project = name};
    step->base.done = write_info;
    step->base.release = release_info;
    buffer_append_slice(&step->project, name);
    call_step_prepare(&step->base, session, &command, NULL, 0);
    call_submit_step(call, &step->base);
}

/* ---- PROJECT LIST ----
 *
 * A cursor is the number of a shard, and that of the last project which was listed there. */

enum { CURSOR_PROJECT_BITS = 48, LIST_COUNT_DEFAULT = 100 };

struct list_step {
    struct call_step base;
    unsigned shard;
    uint64_t wanted; /* names still to be found */
    uint64_t found;
    struct buffer names; /* as the reply will have them */
};

static void release_list(struct call_step *base) {
    buffer_free(&((struct list_step *)base)->names);
}

static void prepare_list(struct list_step *step, const struct session *session, uint64_t after) {
    uint8_t numbers[2][8];
    bytes_put_u64(numbers[0], after);
    bytes_put_u64(numbers[1], step->wanted);
    const struct slice args[] = {slice_make(numbers[0], 8), slice_make(numbers[1], 8)};
    const struct command command = {.kind = COMMAND_PROJECT_LIST,
                                    .token = session_access_token(&session->access)};
    call_step_prepare(&step->base, session, &command, args, 2);
    step->base.shard = step->shard;
}

static void write_list(const struct list_step *step, uint64_t cursor, struct buffer *out) {
    char text[32];
    snprintf(text, sizeof text, "%" PRIu64, cursor);
    resp_write_array(out, 2);
    resp_write_bulk(out, slice_of(text));
    resp_write_array(out, step->found);
    buffer_append_slice(out, buffer_slice(&step->names));
}

/* Takes the names of one shard; goes on with the next while there is room for more. */
static bool gather_list(struct call_step *base, struct session *session,
                        const struct result *result, struct buffer *out) {
    struct list_step *step = (struct list_step *)base;
    if (result->kind != RESULT_ARRAY) {
        return false;
    }
    struct reader reader = reader_make(buffer_slice(&result->data));
    (void)reader_u32(&reader); /* two elements: the number to go on with, and the names */
    (void)reader_u8(&reader);
    uint64_t next = reader_u64(&reader);
    (void)reader_u8(&reader);
    uint32_t count = reader_u32(&reader);
    for (uint32_t i = 0; i < count && !reader.failed; i++) {
        (void)reader_u8(&reader);
        resp_write_bulk(&step->names, reader_bytes(&reader));
    }
    ASSERT(!reader.failed && count <= step->wanted);
    step->found += count;
    step->wanted -= count;
    if (next != 0) {
        write_list(step, (uint64_t)step->shard << CURSOR_PROJECT_BITS | next, out);
        return true;
    }
    step->shard++;
    if (step->shard == session->host->limits.n_shards) {
        write_list(step, 0, out);
    } else if (step->wanted == 0) {
        write_list(step, (uint64_t)step->shard << CURSOR_PROJECT_BITS, out);
    } else {
        prepare_list(step, session, 0);
        step->base.again = true;
    }
    return true;
}

struct list_options {
    int64_t cursor;
    int64_t count;
};

static bool parse_list(struct call *call, struct list_options *options) {
    *options = (struct list_options){.count = LIST_COUNT_DEFAULT};
    for (unsigned i = 2; i < call->argc; i += 2) {
        bool is_cursor = slice_equal_nocase(call->argv[i], "CURSOR");
        if (i + 1 == call->argc || (!is_cursor && !slice_equal_nocase(call->argv[i], "COUNT"))) {
            call_syntax_error(call);
            return false;
        }
        int64_t *field = is_cursor ? &options->cursor : &options->count;
        if (!number_parse_integer(call->argv[i + 1], field) || *field < 0) {
            call_error(call, "ERR", "value is not an integer or out of range");
            return false;
        }
    }
    if (options->cursor >> CURSOR_PROJECT_BITS >= call->session->host->limits.n_shards) {
        call_error(call, "ERR", "invalid cursor");
        return false;
    }
    if (options->count < 1 || options->count > LIMIT_PROJECTS_LISTED) {
        call_error(call, "ERR", "COUNT takes 1 to %d", LIMIT_PROJECTS_LISTED);
        return false;
    }
    return true;
}

void verb_project_list(struct call *call) {
    struct list_options options;
    if (!parse_list(call, &options)) {
        return;
    }
    struct list_step *step = mem_zalloc(1, sizeof *step);
    uint64_t cursor = (uint64_t)options.cursor;
    step->base.done = gather_list;
    step->base.release = release_list;
    step->base.blocks = true;
    step->shard = (unsigned)(cursor >> CURSOR_PROJECT_BITS);
    step->wanted = (uint64_t)options.count;
    prepare_list(step, call->session, cursor & (((uint64_t)1 << CURSOR_PROJECT_BITS) - 1));
    call_submit_step(call, &step->base);
}

/* ---- PROJECT TOKEN ---- */

static void write_token(struct buffer *out, struct reader *numbers, int version) {
    char id[TOKEN_ID_SIZE + 1];
    token_id_write(id, reader_u64(numbers));
    bool reads = reader_u64(numbers) == COMMAND_ACCESS_READONLY;
    resp_write_map(out, 4, version);
    resp_write_bulk(out, slice_of("id"));
    resp_write_bulk(out, slice_of(id));
    resp_write_bulk(out, slice_of("access"));
    resp_write_bulk(out, slice_of(reads ? "READONLY" : "READWRITE"));
    write_field(out, "created_ms", reader_u64(numbers));
    write_field(out, "expires_ms", reader_u64(numbers));
}

static bool write_tokens(struct call_step *base, struct session *session,
                         const struct result *result, struct buffer *out) {
    if (result->kind == RESULT_NIL) {
        write_missing(out, buffer_slice(&((struct info_step *)base)->project));
        return true;
    }
    if (result->kind != RESULT_INTEGERS) {
        return false;
    }
    struct reader numbers = reader_make(buffer_slice(&result->data));
    size_t count = result->data.size / (4 * sizeof(uint64_t));
    resp_write_array(out, count);
    for (size_t i = 0; i < count; i++) {
        write_token(out, &numbers, session->version);
    }
    return true;
}

static void list_tokens(struct call *call) {
    if (call->argc != 4) {
        call_syntax_error(call);
        return;
    }
    struct info_step *step = mem_zalloc(1, sizeof *step);
    struct command command = command_for(call, COMMAND_TOKEN_LIST, call->argv[3]);
    step->base.done = write_tokens;
    step->base.release = release_info;
    buffer_append_slice(&step->project, call->argv[3]);
    call_step_prepare(&step->base, call->session, &command, NULL, 0);
    call_submit_step(call, &step->base);
}

static void add_token(struct call *call) {
    struct command command = command_for(call, COMMAND_TOKEN_ADD, call->argv[3]);
    enum command_access access;
    struct slice args[4];
    if (call->argc < 5) {
        call_syntax_error(call);
    } else if (parse_token(call, 4, &access, &command)) {
        submit_token(call, &command, args, 0, access);
    }
}

static void revoke_token(struct call *call) {
    struct command command = command_for(call, COMMAND_TOKEN_REVOKE, call->argv[3]);
    uint64_t id;
    if (call->argc != 5) {
        call_syntax_error(call);
        return;
    }
    if (!token_id_read(call->argv[4], &id)) {
        call_error(call, "ERR", "a token's id has %d digits, as PROJECT TOKEN LIST shows it",
                   TOKEN_ID_SIZE);
        return;
    }
    uint8_t number[8];
    bytes_put_u64(number, id);
    struct slice arg = slice_make(number, sizeof number);
    submit(call, &command, &arg, 1);
}

void verb_project_token(struct call *call) {
    struct slice action = call->argv[2];
    if (!check_name(call, call->argv[3])) {
        return;
    }
    if (slice_equal_nocase(action, "ADD")) {
        add_token(call);
    } else if (slice_equal_nocase(action, "REVOKE")) {
        revoke_token(call);
    } else if (slice_equal_nocase(action, "LIST")) {
        list_tokens(call);
    } else {
        call_syntax_error(call);
    }
}
