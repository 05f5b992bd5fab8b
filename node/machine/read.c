/* Reads. What has expired by the shard's clock has been removed, so a row that is there is alive.
 */
#include "base/limits.h"
#include "base/number.h"
#include "node/machine/access.h"
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

/* -2 without a key, -1 without an expiry, else the time in the unit that the flags ask for. */
static int64_t time_answer(const struct row *row, const struct command *command,
                           uint64_t origin_ms) {
    if (!row->exists) {
        return -2;
    }
    if (row->expires_at_ms == 0) {
        return -1;
    }
    uint64_t left_ms = row->expires_at_ms > origin_ms ? row->expires_at_ms - origin_ms : 0;
    bool in_seconds = (command->flags & COMMAND_FLAG_ROUND_S) != 0;
    return (int64_t)(in_seconds ? left_ms / 1000 + (left_ms % 1000 >= 500) : left_ms);
}

static enum error_code read_time(struct machine *machine, const struct project *project,
                                 const struct command *command, struct result *result,
                                 struct error *error) {
    result->kind = RESULT_INTEGER;
    struct reader args = reader_make(command->args);
    struct row row;
    enum error_code code = row_find(machine, project, command_next_arg(&args), &row, error);
    uint64_t now_ms = machine->state.clock_ms > machine->read_time_ms ? machine->state.clock_ms
                                                                      : machine->read_time_ms;
    result->integer = time_answer(&row, command, command->kind == COMMAND_PTTL ? now_ms : 0);
    return code;
}

static enum error_code read_usage(struct machine *machine, const struct project *project,
                                  const struct command *command, struct result *result,
                                  struct error *error) {
    (void)machine;
    (void)command;
    (void)error;
    result->kind = RESULT_INTEGERS;
    buffer_put_u64(&result->data, project != NULL ? project->keys : 0);
    buffer_put_u64(&result->data, project != NULL ? project->used_bytes : 0);
    buffer_put_u64(&result->data, project != NULL ? project->quota : 0);
    return ERROR_NONE;
}

static enum error_code read_dbsize(struct machine *machine, const struct project *project,
                                   const struct command *command, struct result *result,
                                   struct error *error) {
    (void)machine;
    (void)command;
    (void)error;
    result->kind = RESULT_INTEGER;
    result->integer = (int64_t)(project != NULL ? project->keys : 0);
    return ERROR_NONE;
}

static enum error_code read_get_many(struct machine *machine, const struct project *project,
                                     const struct command *command, struct result *result,
                                     struct error *error) {
    struct reader args = reader_make(command->args);
    struct buffer value = {0};
    enum error_code code = ERROR_NONE;
    result_begin_array(result, command->n_args);
    for (uint32_t i = 0; i < command->n_args && code == ERROR_NONE; i++) {
        struct row row;
        value.size = 0;
        code = row_get(machine, project, command_next_arg(&args), &row, &value, error);
        if (result->data.size + value.size > LIMIT_ANSWER_SIZE) {
            result_set_error(result, ERROR_TOOBIG,
                             "the values of these keys have more than %llu bytes together; ask for "
                             "fewer keys at a time",
                             (unsigned long long)LIMIT_ANSWER_SIZE);
            break;
        }
        if (row.exists) {
            result_add_bulk(result, buffer_slice(&value));
        } else {
            result_add_nil(result);
        }
    }
    buffer_free(&value);
    return code;
}

static enum error_code read_strlen(struct machine *machine, const struct project *project,
                                   const struct command *command, struct result *result,
                                   struct error *error) {
    struct reader args = reader_make(command->args);
    struct row row;
    enum error_code code = row_find(machine, project, command_next_arg(&args), &row, error);
    result->kind = RESULT_INTEGER;
    result->integer = (int64_t)row.size;
    return code;
}

/* Position of an index that may count from the end, in [0, size] or -1 in front of it. */
static int64_t position_of(int64_t index, int64_t size) {
    int64_t position = index < 0 ? (index < -size ? -1 : index + size) : index;
    return position < size ? position : size;
}

static enum error_code read_getrange(struct machine *machine, const struct project *project,
                                     const struct command *command, struct result *result,
                                     struct error *error) {
    struct reader args = reader_make(command->args);
    struct slice key = command_next_arg(&args);
    int64_t first = (int64_t)bytes_get_u64(command_next_arg(&args).data);
    int64_t last = (int64_t)bytes_get_u64(command_next_arg(&args).data);
    struct row row;
    struct buffer value = {0};
    result->kind = RESULT_BULK;
    enum error_code code = row_get(machine, project, key, &row, &value, error);
    int64_t size = (int64_t)value.size;
    /* As Redis: counted from the end, the end before the start is empty before any clamping. */
    bool crossed = first < 0 && last < 0 && first > last;
    int64_t from = position_of(first, size);
    int64_t to = position_of(last, size);
    from = from < 0 ? 0 : from;
    to = to < 0 ? 0 : to;
    to = to < size ? to : size - 1;
    if (code == ERROR_NONE && !crossed && from <= to) {
        buffer_append(&result->data, value.data + from, (size_t)(to - from) + 1);
    }
    buffer_free(&value);
    return code;
}

static enum error_code read_type(struct machine *machine, const struct project *project,
                                 const struct command *command, struct result *result,
                                 struct error *error) {
    struct reader args = reader_make(command->args);
    struct row row;
    enum error_code code = row_find(machine, project, command_next_arg(&args), &row, error);
    result->kind = RESULT_STATUS;
    buffer_append_slice(&result->data, slice_of(row.exists ? "string" : "none"));
    return code;
}

static enum error_code read_version(struct machine *machine, const struct project *project,
                                    const struct command *command, struct result *result,
                                    struct error *error) {
    struct reader args = reader_make(command->args);
    struct row row;
    struct buffer value = {0};
    enum error_code code = row_get(machine, project, command_next_arg(&args), &row, &value, error);
    result->kind = RESULT_NIL;
    if (code == ERROR_NONE && row.exists) {
        result_begin_array(result, 2);
        result_add_bulk(result, buffer_slice(&value));
        result_add_integer(result, (int64_t)row.version);
    }
    buffer_free(&value);
    return code;
}

/* How Redis would keep the value. */
static const char *encoding_of(const struct row *row, struct slice value) {
    enum { EMBEDDED_MAX = 44 };
    int64_t number;
    if (value.size > 0 && number_parse_integer(value, &number)) {
        return "int";
    }
    return row->size <= EMBEDDED_MAX ? "embstr" : "raw";
}

static enum error_code inspect_encoding(struct machine *machine, const struct project *project,
                                        struct slice key, struct result *result,
                                        struct error *error) {
    enum { INTEGER_MAX = 20 };
    struct buffer value = {0};
    struct row row;
    enum error_code code = row_find(machine, project, key, &row, error);
    if (code == ERROR_NONE && row.size <= INTEGER_MAX) {
        code = row_get(machine, project, key, &row, &value, error);
    }
    result->kind = RESULT_BULK;
    buffer_append_slice(&result->data, slice_of(encoding_of(&row, buffer_slice(&value))));
    buffer_free(&value);
    return code;
}

static enum error_code read_inspect(struct machine *machine, const struct project *project,
                                    const struct command *command, struct result *result,
                                    struct error *error) {
    struct reader args = reader_make(command->args);
    struct slice key = command_next_arg(&args);
    uint64_t aspect = bytes_get_u64(command_next_arg(&args).data);
    struct row row;
    enum error_code code = row_find(machine, project, key, &row, error);
    result->kind = RESULT_NIL;
    if (code != ERROR_NONE || !row.exists) {
        return code;
    }
    result->kind = RESULT_INTEGER;
    switch (aspect) {
    case COMMAND_ASPECT_ENCODING:
        return inspect_encoding(machine, project, key, result, error);
    case COMMAND_ASPECT_REFCOUNT:
        result->integer = 1;
        return ERROR_NONE;
    case COMMAND_ASPECT_IDLETIME:
        return ERROR_NONE;
    case COMMAND_ASPECT_MEMORY:
        result->integer = (int64_t)(key.size + row.size);
        return ERROR_NONE;
    case COMMAND_ASPECT_FREQ:
        result_set_error(result, ERROR_GENERIC,
                         "An LFU maxmemory policy is not selected, access frequency not tracked.");
        return ERROR_NONE;
    default:
        result_set_error(result, ERROR_INVALID, "unknown aspect %llu", (unsigned long long)aspect);
        return ERROR_NONE;
    }
}

typedef enum error_code (*read_handler)(struct machine *machine, const struct project *project,
                                        const struct command *command, struct result *result,
                                        struct error *error);

static const read_handler handlers[] = {
    [COMMAND_GET] = read_get,
    [COMMAND_EXISTS] = read_exists,
    [COMMAND_PTTL] = read_time,
    [COMMAND_DBSIZE] = read_dbsize,
    [COMMAND_USAGE] = read_usage,
    [COMMAND_GET_MANY] = read_get_many,
    [COMMAND_STRLEN] = read_strlen,
    [COMMAND_GETRANGE] = read_getrange,
    [COMMAND_TYPE] = read_type,
    [COMMAND_EXPIRETIME] = read_time,
    [COMMAND_RANDOM_KEY] = read_random_key,
    [COMMAND_KEYS] = read_keys,
    [COMMAND_SCAN] = read_scan,
    [COMMAND_INSPECT] = read_inspect,
    [COMMAND_GET_VERSION] = read_version,
    [COMMAND_READ_TRANSACTION] = read_transaction,
    [COMMAND_VERSIONS] = read_versions,
    [COMMAND_PROJECT_LIST] = read_project_list,
    [COMMAND_PROJECT_INFO] = read_project_info,
    [COMMAND_TOKEN_LIST] = read_token_list,
    [COMMAND_AUTHENTICATE] = read_authenticate,
};

enum error_code read_command(struct machine *machine, const struct command *command,
                             struct result *result, struct error *error) {
    const struct project *project = projects_find(&machine->projects, command->project);
    size_t kind = (size_t)command->kind;
    if (kind >= sizeof(handlers) / sizeof(handlers[0]) || handlers[kind] == NULL) {
        result_set_error(result, ERROR_INVALID, "command %zu does not only read", kind);
        return ERROR_NONE;
    }
    if (!access_is_allowed(&machine->projects, command, result)) {
        return ERROR_NONE;
    }
    return handlers[kind](machine, project, command, result, error);
}

/* SQLite may have ended the transaction of the entries that were applied together with the read. */
static void end_failed_read(struct machine *machine) {
    if (!machine->in_transaction) {
        database_rollback(&machine->database);
        return;
    }
    database_reset_all(&machine->database);
    if (!database_in_transaction(&machine->database)) {
        machine_rollback(machine);
    }
}

static enum error_code read_all(struct machine *machine, const struct command *commands, unsigned n,
                                struct result *results, unsigned *n_done, struct error *error) {
    uint64_t bytes = 0;
    enum error_code code = machine_ready(machine, error);
    /* One read transaction saves each statement from opening its own; alone it would only cost. */
    bool in_transaction =
        (n > 1 || commands[0].kind == COMMAND_READ_TRANSACTION) && !machine->in_transaction;
    if (code == ERROR_NONE && in_transaction) {
        code = database_run(&machine->database, STATEMENT_BEGIN_READ, error);
    }
    *n_done = 0;
    while (*n_done < n && code == ERROR_NONE && bytes < MACHINE_READ_BYTES) {
        code = read_command(machine, &commands[*n_done], &results[*n_done], error);
        bytes += results[*n_done].data.size;
        (*n_done)++;
    }
    if (code == ERROR_NONE && in_transaction) {
        code = database_run(&machine->database, STATEMENT_COMMIT, error);
    }
    if (code != ERROR_NONE) {
        end_failed_read(machine);
    }
    return code;
}

void machine_set_read_time(struct machine *machine, uint64_t now_ms) {
    machine->read_time_ms = now_ms;
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
