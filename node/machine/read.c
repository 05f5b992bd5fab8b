/* Reads. What has expired by the shard's clock has been removed, so a row that is there is alive.
 */
#include "base/assert.h"
#include "node/machine/machine_internal.h"

static enum error_code read_get(struct machine *machine, const struct project *project,
                                const struct command *command, struct result *result,
                                struct error *error) {
    struct reader args = reader_make(command->args);
    struct slice key = command_next_arg(&args);
    struct row row;
    enum error_code code = row_get(machine, project, key, &row, &result->data, error);
    result->kind = row.exists ? RESULT_BULK : RESULT_NIL;
    return code;
}

static enum error_code read_exists(struct machine *machine, const struct project *project,
                                   const struct command *command, struct result *result,
                                   struct error *error) {
    result->kind = RESULT_INTEGER;
    struct reader args = reader_make(command->args);
    enum error_code code = ERROR_NONE;
    for (uint32_t i = 0; i < command->n_args && code == ERROR_NONE; i++) {
        struct row row;
        code = row_find(machine, project, command_next_arg(&args), &row, error);
        result->integer += row.exists;
    }
    return code;
}

static enum error_code read_pttl(struct machine *machine, const struct project *project,
                                 const struct command *command, struct result *result,
                                 struct error *error) {
    result->kind = RESULT_INTEGER;
    struct reader args = reader_make(command->args);
    struct row row;
    enum error_code code = row_find(machine, project, command_next_arg(&args), &row, error);
    if (code != ERROR_NONE || !row.exists) {
        result->integer = -2;
        return code;
    }
    if (row.expires_at_ms == 0) {
        result->integer = -1;
        return code;
    }
    uint64_t left_ms = row.expires_at_ms - machine->state.clock_ms;
    bool in_seconds = (command->flags & COMMAND_FLAG_ROUND_S) != 0;
    result->integer = (int64_t)(in_seconds ? left_ms / 1000 + (left_ms % 1000 >= 500) : left_ms);
    return code;
}

static void read_usage(const struct project *project, struct result *result) {
    result->kind = RESULT_INTEGERS;
    buffer_put_u64(&result->data, project != NULL ? project->keys : 0);
    buffer_put_u64(&result->data, project != NULL ? project->used_bytes : 0);
    buffer_put_u64(&result->data, project != NULL ? project->quota : 0);
}

static enum error_code read_one(struct machine *machine, const struct command *command,
                                struct result *result, struct error *error) {
    const struct project *project = projects_find(&machine->projects, command->project);
    switch (command->kind) {
    case COMMAND_GET:
        return read_get(machine, project, command, result, error);
    case COMMAND_EXISTS:
        return read_exists(machine, project, command, result, error);
    case COMMAND_PTTL:
        return read_pttl(machine, project, command, result, error);
    case COMMAND_DBSIZE:
        result->kind = RESULT_INTEGER;
        result->integer = (int64_t)(project != NULL ? project->keys : 0);
        return ERROR_NONE;
    case COMMAND_USAGE:
        read_usage(project, result);
        return ERROR_NONE;
    case COMMAND_SET:
    case COMMAND_DELETE:
    case COMMAND_CLEAR:
    case COMMAND_FENCE:
        break;
    }
    result_set_error(result, ERROR_INVALID, "command %u does not only read",
                     (unsigned)command->kind);
    return ERROR_NONE;
}

static enum error_code read_all(struct machine *machine, const struct command *commands, unsigned n,
                                struct result *results, unsigned *n_done, struct error *error) {
    uint64_t bytes = 0;
    /* One read transaction saves each statement from opening its own; alone it would only cost. */
    bool in_transaction = n > 1;
    enum error_code code = machine_ready(machine, error);
    if (code == ERROR_NONE && in_transaction) {
        code = database_run(&machine->database, STATEMENT_BEGIN_READ, error);
    }
    *n_done = 0;
    while (*n_done < n && code == ERROR_NONE && bytes < MACHINE_READ_BYTES) {
        code = read_one(machine, &commands[*n_done], &results[*n_done], error);
        bytes += results[*n_done].data.size;
        (*n_done)++;
    }
    if (code == ERROR_NONE && in_transaction) {
        code = database_run(&machine->database, STATEMENT_COMMIT, error);
    }
    if (code != ERROR_NONE) {
        database_rollback(&machine->database);
    }
    return code;
}

enum error_code machine_read(struct machine *machine, const struct command *commands, unsigned n,
                             struct result *results, unsigned *n_done, struct error *error) {
    memset(results, 0, n * sizeof(results[0]));
    struct error reason = {0};
    enum error_code code = read_all(machine, commands, n, results, n_done, &reason);
    if (code == ERROR_NONE) {
        return ERROR_NONE;
    }
    *n_done = n;
    for (unsigned i = 0; i < n; i++) {
        result_set_error(&results[i], code, "%s", reason.message);
    }
    return error_set(error, code, "%s", reason.message);
}
