/* Commands that delete, move and time keys. */
#include "base/assert.h"
#include "node/machine/apply.h"

enum error_code apply_delete(const struct batch_context *batch, const struct command *command,
                             struct result *result, struct error *error) {
    struct reader args = reader_make(command->args);
    result->kind = RESULT_INTEGER;
    for (uint32_t i = 0; i < command->n_args; i++) {
        struct target target;
        enum error_code code = apply_find(batch, command, command_next_arg(&args), &target, error);
        if (code == ERROR_NONE && target.row.exists) {
            result->integer++;
            code = apply_remove(batch, &target, error);
        }
        if (code != ERROR_NONE) {
            return code;
        }
    }
    return ERROR_NONE;
}

/* Gives an existing key another expiry; one that has passed deletes it. */
static enum error_code move_expiry(const struct batch_context *batch, const struct command *command,
                                   const struct target *target, uint64_t expires_at_ms,
                                   struct error *error) {
    if (apply_is_past(batch, command, expires_at_ms)) {
        return apply_remove(batch, target, error);
    }
    if (expires_at_ms == target->row.expires_at_ms) {
        return ERROR_NONE;
    }
    return row_touch(batch->machine, target->project, target->key, &target->row, expires_at_ms,
                     batch->index, error);
}

static void refuse_time(struct result *result, const char *command) {
    result_set_error(result, ERROR_INVALID, "invalid expire time in '%s' command", command);
}

enum error_code apply_getex(const struct batch_context *batch, const struct command *command,
                            struct result *result, struct error *error) {
    struct reader args = reader_make(command->args);
    struct slice key = command_next_arg(&args);
    struct target target;
    enum error_code code = apply_get(batch, command, key, &target, &result->data, error);
    result->kind = target.row.exists ? RESULT_BULK : RESULT_NIL;
    if (code != ERROR_NONE || !target.row.exists) {
        return code;
    }
    uint64_t expires_at_ms;
    if (!apply_expiry(batch, command, 0, &expires_at_ms)) {
        refuse_time(result, "getex");
        return ERROR_NONE;
    }
    return move_expiry(batch, command, &target, expires_at_ms, error);
}

/* A key without expiry counts as one that expires last of all. */
static bool may_expire(const struct command *command, const struct row *row,
                       uint64_t expires_at_ms) {
    uint64_t old_ms = row->expires_at_ms != 0 ? row->expires_at_ms : UINT64_MAX;
    return !((command->flags & COMMAND_FLAG_NX) && row->expires_at_ms != 0) &&
           !((command->flags & COMMAND_FLAG_XX) && row->expires_at_ms == 0) &&
           !((command->flags & COMMAND_FLAG_GT) && expires_at_ms <= old_ms) &&
           !((command->flags & COMMAND_FLAG_LT) && expires_at_ms >= old_ms);
}

enum error_code apply_expire(const struct batch_context *batch, const struct command *command,
                             struct result *result, struct error *error) {
    struct reader args = reader_make(command->args);
    struct slice key = command_next_arg(&args);
    struct target target;
    enum error_code code = apply_find(batch, command, key, &target, error);
    result->kind = RESULT_INTEGER;
    if (code != ERROR_NONE || !target.row.exists) {
        return code;
    }
    uint64_t expires_at_ms;
    if (!apply_expiry(batch, command, 0, &expires_at_ms)) {
        refuse_time(result, "expire");
        return ERROR_NONE;
    }
    if (!may_expire(command, &target.row, expires_at_ms)) {
        return ERROR_NONE;
    }
    result->integer = 1;
    return move_expiry(batch, command, &target, expires_at_ms, error);
}

enum error_code apply_persist(const struct batch_context *batch, const struct command *command,
                              struct result *result, struct error *error) {
    struct reader args = reader_make(command->args);
    struct slice key = command_next_arg(&args);
    struct target target;
    enum error_code code = apply_find(batch, command, key, &target, error);
    result->kind = RESULT_INTEGER;
    if (code != ERROR_NONE || !target.row.exists || target.row.expires_at_ms == 0) {
        return code;
    }
    result->integer = 1;
    return move_expiry(batch, command, &target, 0, error);
}

/* Writes what `from` holds under the key of `to`, expiry and all. */
static enum error_code copy_row(const struct batch_context *batch, const struct command *command,
                                const struct target *from, const struct target *to,
                                struct error *error) {
    struct buffer value = {0};
    struct row row;
    enum error_code code = row_get(batch->machine, from->project, from->key, &row, &value, error);
    if (code == ERROR_NONE) {
        struct project *project = projects_find(&batch->machine->projects, command->project);
        code = row_put(batch->machine, project, to->key, &to->row, buffer_slice(&value),
                       row.expires_at_ms, batch->index, error);
    }
    buffer_free(&value);
    return code;
}

static uint64_t bytes_of(const struct target *target) {
    return target->row.exists ? target->key.size + target->row.size : 0;
}

static enum error_code find_two(const struct batch_context *batch, const struct command *command,
                                struct target *from, struct target *to, struct error *error) {
    struct reader args = reader_make(command->args);
    struct slice source = command_next_arg(&args);
    struct slice destination = command_next_arg(&args);
    enum error_code code = apply_find(batch, command, source, from, error);
    return code == ERROR_NONE ? apply_find(batch, command, destination, to, error) : code;
}

static enum error_code move_row(const struct batch_context *batch, const struct command *command,
                                const struct target *from, const struct target *to,
                                struct result *result, struct error *error) {
    uint64_t added = to->key.size + from->row.size;
    if (!apply_fits_quota(batch, command, added, bytes_of(from) + bytes_of(to), result)) {
        return ERROR_NONE;
    }
    enum error_code code = copy_row(batch, command, from, to, error);
    return code == ERROR_NONE ? apply_remove(batch, from, error) : code;
}

enum error_code apply_rename(const struct batch_context *batch, const struct command *command,
                             struct result *result, struct error *error) {
    struct target from;
    struct target to;
    enum error_code code = find_two(batch, command, &from, &to, error);
    if (code != ERROR_NONE) {
        return code;
    }
    if (!from.row.exists) {
        result_set_error(result, ERROR_GENERIC, "no such key");
        return ERROR_NONE;
    }
    bool only_new = (command->flags & COMMAND_FLAG_NX) != 0;
    bool moves = !slice_equal(from.key, to.key) && !(only_new && to.row.exists);
    result->kind = only_new ? RESULT_INTEGER : RESULT_OK;
    result->integer = only_new && moves;
    return moves ? move_row(batch, command, &from, &to, result, error) : ERROR_NONE;
}

enum error_code apply_copy(const struct batch_context *batch, const struct command *command,
                           struct result *result, struct error *error) {
    struct target from;
    struct target to;
    enum error_code code = find_two(batch, command, &from, &to, error);
    result->kind = RESULT_INTEGER;
    if (code != ERROR_NONE || !from.row.exists || slice_equal(from.key, to.key)) {
        return code;
    }
    if (to.row.exists && !(command->flags & COMMAND_FLAG_REPLACE)) {
        return ERROR_NONE;
    }
    if (!apply_fits_quota(batch, command, to.key.size + from.row.size, bytes_of(&to), result)) {
        return ERROR_NONE;
    }
    result->integer = 1;
    return copy_row(batch, command, &from, &to, error);
}
