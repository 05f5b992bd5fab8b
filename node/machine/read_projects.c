/* Reads about projects and their tokens. */
#include <openssl/crypto.h>

#include "base/limits.h"
#include "node/machine/machine_internal.h"
#include "node/machine/tokens.h"

static uint64_t next_number(struct reader *args) {
    return bytes_get_u64(command_next_arg(args).data);
}

/* In order of their numbers, which never change: a walk misses none that is there all the time. */
enum error_code read_project_list(struct machine *machine, const struct project *project,
                                  const struct command *command, struct result *result,
                                  struct error *error) {
    (void)project;
    (void)error;
    struct reader args = reader_make(command->args);
    uint64_t after = next_number(&args);
    uint64_t most = next_number(&args);
    const struct projects *projects = &machine->projects;
    size_t from = projects_place_after(projects, after);
    size_t left = projects->count - from;
    most = most < LIMIT_PROJECTS_LISTED ? most : LIMIT_PROJECTS_LISTED;
    uint32_t count = (uint32_t)(left < most ? left : most);
    result_begin_array(result, 2);
    bool ends = count == left || count == 0;
    result_add_integer(result, ends ? 0 : (int64_t)projects->by_id[from + count - 1]->id);
    result_add_array(result, count);
    for (uint32_t i = 0; i < count; i++) {
        result_add_bulk(result, project_name(projects->by_id[from + i]));
    }
    return ERROR_NONE;
}

enum error_code read_project_info(struct machine *machine, const struct project *project,
                                  const struct command *command, struct result *result,
                                  struct error *error) {
    (void)machine;
    (void)command;
    (void)error;
    result->kind = RESULT_NIL;
    if (project != NULL) {
        result->kind = RESULT_INTEGERS;
        buffer_put_u64(&result->data, project->keys);
        buffer_put_u64(&result->data, project->used_bytes);
        buffer_put_u64(&result->data, project->quota);
    }
    return ERROR_NONE;
}

enum error_code read_token_list(struct machine *machine, const struct project *project,
                                const struct command *command, struct result *result,
                                struct error *error) {
    (void)machine;
    (void)command;
    (void)error;
    result->kind = RESULT_NIL;
    if (project == NULL) {
        return ERROR_NONE;
    }
    result->kind = RESULT_INTEGERS;
    for (unsigned i = 0; i < project->n_tokens; i++) {
        const struct token *token = &project->tokens[i];
        buffer_put_u64(&result->data, token->id);
        buffer_put_u64(&result->data, token->access);
        buffer_put_u64(&result->data, token->created_ms);
        buffer_put_u64(&result->data, token->expires_at_ms);
    }
    return ERROR_NONE;
}

/* The same work, whether the project, the token or the secret is wrong. */
enum error_code read_authenticate(struct machine *machine, const struct project *project,
                                  const struct command *command, struct result *result,
                                  struct error *error) {
    (void)machine;
    (void)error;
    static const struct token nobody;
    struct reader args = reader_make(command->args);
    const struct token *known = token_find(project, next_number(&args));
    const struct token *token = known != NULL ? known : &nobody;
    uint8_t hash[COMMAND_HASH_SIZE];
    token_hash(token->salt, command_next_arg(&args), hash);
    bool matches = CRYPTO_memcmp(hash, token->hash, sizeof hash) == 0;
    if (!matches || known == NULL) {
        result_set_error(result, ERROR_WRONGPASS, "%s", error_describe(ERROR_WRONGPASS));
        return ERROR_NONE;
    }
    result->kind = RESULT_INTEGER;
    result->integer = token->access;
    return ERROR_NONE;
}
