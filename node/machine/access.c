#include "node/machine/access.h"

#include "node/machine/project_name.h"
#include "node/machine/projects.h"
#include "node/machine/tokens.h"

static bool refuse_missing(const struct command *command, struct result *result) {
    result_set_error(result, ERROR_NOPROJECT, "there is no project '%s'",
                     project_label(command->project).text);
    return false;
}

static bool check_token(const struct project *project, const struct command *command,
                        struct result *result) {
    const struct token *token = token_find(project, command->token);
    if (token == NULL) {
        result_set_error(result, ERROR_NOAUTH,
                         "the token was revoked or has expired, or its project was deleted");
        return false;
    }
    bool writes = command_is_write(command->kind);
    if (command_is_administrative(command->kind) &&
        (writes || command->kind != COMMAND_PROJECT_INFO)) {
        result_set_error(result, ERROR_NOPERM, "a project's token does not administer projects");
        return false;
    }
    if (writes && token->access != COMMAND_ACCESS_READWRITE) {
        result_set_error(result, ERROR_NOPERM, "this token of project '%s' is read-only",
                         project_label(command->project).text);
        return false;
    }
    return true;
}

bool access_is_allowed(const struct projects *projects, const struct command *command,
                       struct result *result) {
    if (command->project.size == 0 || command->token == COMMAND_TOKEN_OPEN) {
        return true;
    }
    const struct project *project = projects_find(projects, command->project);
    if (command->token == COMMAND_TOKEN_SERVICE) {
        return project != NULL || command_is_administrative(command->kind) ||
               refuse_missing(command, result);
    }
    return check_token(project, command, result);
}
