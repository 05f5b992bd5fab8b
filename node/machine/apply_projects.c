/* Commands that administer projects and their tokens. */
#include "base/assert.h"
#include "base/limits.h"
#include "node/machine/apply.h"
#include "node/machine/digest.h"
#include "node/machine/project_name.h"
#include "node/machine/tokens.h"

static struct project *find_project(const struct batch_context *batch,
                                    const struct command *command) {
    return projects_find(&batch->machine->projects, command->project);
}

static void refuse_missing(const struct command *command, struct result *result) {
    result_set_error(result, ERROR_NOPROJECT, "there is no project '%s'",
                     project_label(command->project).text);
}

/* The token that the arguments describe; false, with the result filled, when it cannot be. */
static bool read_token(const struct batch_context *batch, const struct command *command,
                       struct reader *args, struct token *token, struct result *result) {
    *token = (struct token){.id = apply_next_number(args), .created_ms = batch->now_ms};
    uint64_t access = apply_next_number(args);
    struct slice salt = command_next_arg(args);
    struct slice hash = command_next_arg(args);
    ASSERT(salt.size == sizeof token->salt && hash.size == sizeof token->hash);
    memcpy(token->salt, salt.data, salt.size);
    memcpy(token->hash, hash.data, hash.size);
    token->access = (uint8_t)access;
    bool is_reserved = token->id == COMMAND_TOKEN_OPEN || token->id == COMMAND_TOKEN_SERVICE;
    if (is_reserved || (access != COMMAND_ACCESS_READONLY && access != COMMAND_ACCESS_READWRITE)) {
        result_set_error(result, ERROR_INVALID, "impossible token");
        return false;
    }
    if (!apply_expiry(batch, command, 0, &token->expires_at_ms) ||
        apply_is_past(batch, command, token->expires_at_ms)) {
        result_set_error(result, ERROR_INVALID, "invalid expire time of a token");
        return false;
    }
    return true;
}

enum error_code apply_project_create(const struct batch_context *batch,
                                     const struct command *command, struct result *result,
                                     struct error *error) {
    struct reader args = reader_make(command->args);
    uint64_t quota = apply_next_number(&args);
    bool with_token = (command->flags & COMMAND_FLAG_TOKEN) != 0;
    struct token token;
    if (find_project(batch, command) != NULL) {
        result_set_error(result, ERROR_GENERIC, "project '%s' exists already",
                         project_label(command->project).text);
        return ERROR_NONE;
    }
    if (with_token && !read_token(batch, command, &args, &token, result)) {
        return ERROR_NONE;
    }
    struct project *project = apply_project(batch, command, result);
    if (project == NULL) {
        return ERROR_NONE;
    }
    if (quota != COMMAND_QUOTA_DEFAULT) {
        apply_set_quota(batch, project, quota);
    }
    return with_token ? token_add(batch->machine, project, &token, error) : ERROR_NONE;
}

/* The rows become garbage under the project's number, which no other project will ever have. */
enum error_code apply_project_delete(const struct batch_context *batch,
                                     const struct command *command, struct result *result,
                                     struct error *error) {
    struct machine *machine = batch->machine;
    struct project *project = find_project(batch, command);
    result->kind = RESULT_INTEGER;
    if (project == NULL) {
        return ERROR_NONE;
    }
    enum error_code code = apply_drop_rows(batch, project, error);
    if (code == ERROR_NONE) {
        code = token_remove_all(machine, project, error);
    }
    if (code == ERROR_NONE) {
        database_bind_u64(&machine->database, STATEMENT_PROJECT_REMOVE, 1, project->id);
        code = database_run(&machine->database, STATEMENT_PROJECT_REMOVE, error);
    }
    if (code == ERROR_NONE) {
        database_bind_u64(&machine->database, STATEMENT_LAST_PROJECT_PUT, 1,
                          machine->projects.last_id);
        code = database_run(&machine->database, STATEMENT_LAST_PROJECT_PUT, error);
    }
    if (code != ERROR_NONE) {
        return code;
    }
    machine->state.digest -= digest_project(project->seed, project->quota);
    projects_remove(&machine->projects, project);
    result->integer = 1;
    return ERROR_NONE;
}

void apply_set_quota(const struct batch_context *batch, struct project *project, uint64_t quota) {
    struct machine *machine = batch->machine;
    machine->state.digest += digest_project(project->seed, quota);
    machine->state.digest -= digest_project(project->seed, project->quota);
    project->quota = quota;
    projects_mark_dirty(&machine->projects, project);
}

enum error_code apply_project_set_quota(const struct batch_context *batch,
                                        const struct command *command, struct result *result,
                                        struct error *error) {
    (void)error;
    struct reader args = reader_make(command->args);
    struct project *project = find_project(batch, command);
    if (project == NULL) {
        refuse_missing(command, result);
    } else {
        apply_set_quota(batch, project, apply_next_number(&args));
    }
    return ERROR_NONE;
}

enum error_code apply_token_add(const struct batch_context *batch, const struct command *command,
                                struct result *result, struct error *error) {
    struct reader args = reader_make(command->args);
    struct project *project = find_project(batch, command);
    struct token token;
    if (project == NULL) {
        refuse_missing(command, result);
        return ERROR_NONE;
    }
    if (!read_token(batch, command, &args, &token, result)) {
        return ERROR_NONE;
    }
    if (project->n_tokens == LIMIT_PROJECT_TOKENS) {
        result_set_error(result, ERROR_TOOBIG,
                         "project '%s' has %d tokens, which is the limit; revoke one first",
                         project_label(command->project).text, LIMIT_PROJECT_TOKENS);
        return ERROR_NONE;
    }
    if (token_find(project, token.id) != NULL) {
        result_set_error(result, ERROR_GENERIC, "a token of this number exists; try again");
        return ERROR_NONE;
    }
    return token_add(batch->machine, project, &token, error);
}

enum error_code apply_token_revoke(const struct batch_context *batch, const struct command *command,
                                   struct result *result, struct error *error) {
    struct reader args = reader_make(command->args);
    uint64_t id = apply_next_number(&args);
    struct project *project = find_project(batch, command);
    result->kind = RESULT_INTEGER;
    if (token_find(project, id) == NULL) {
        return ERROR_NONE;
    }
    result->integer = 1;
    return token_remove(batch->machine, project, id, error);
}
