/* Commands that write values. */
#include <stdlib.h>

#include "base/assert.h"
#include "base/mem.h"
#include "node/machine/apply.h"

/* Reads the condition that follows in `args`, if the command has one. The value of the row is
 * needed only where it could be equal. */
static enum error_code check_condition(const struct batch_context *batch,
                                       const struct command *command, struct reader *args,
                                       const struct target *target, bool *holds,
                                       struct error *error) {
    *holds = true;
    if (command->flags & COMMAND_FLAG_IFVER) {
        uint64_t wanted = apply_next_number(args);
        *holds = target->row.exists ? target->row.version == wanted : wanted == 0;
        return ERROR_NONE;
    }
    if (!(command->flags & COMMAND_FLAG_IFEQ)) {
        return ERROR_NONE;
    }
    struct slice wanted = command_next_arg(args);
    *holds = target->row.exists && target->row.size == wanted.size;
    if (!*holds) {
        return ERROR_NONE;
    }
    struct buffer value = {0};
    struct row row;
    enum error_code code =
        row_get(batch->machine, target->project, target->key, &row, &value, error);
    *holds = code == ERROR_NONE && slice_equal(buffer_slice(&value), wanted);
    buffer_free(&value);
    return code;
}

static bool is_blocked(const struct command *command, const struct row *old) {
    return ((command->flags & COMMAND_FLAG_NX) && old->exists) ||
           ((command->flags & COMMAND_FLAG_XX) && !old->exists);
}

/* Stores the key once nothing stands against it. */
static enum error_code set_value(const struct batch_context *batch, const struct command *command,
                                 const struct target *target, struct slice value,
                                 struct result *result, struct error *error) {
    uint64_t expires_at_ms;
    if (!apply_expiry(batch, command, target->row.expires_at_ms, &expires_at_ms)) {
        result_set_error(result, ERROR_INVALID, "invalid expire time in 'set' command");
        return ERROR_NONE;
    }
    if (apply_is_past(batch, command, expires_at_ms)) {
        return target->row.exists ? apply_remove(batch, target, error) : ERROR_NONE;
    }
    return apply_store(batch, command, target, value, expires_at_ms, result, error);
}

/* What SET answers when nothing goes wrong; GET has put the old value there already. */
static void answer_set(const struct command *command, const struct row *old, bool blocked,
                       struct result *result) {
    if (command->flags & COMMAND_FLAG_GET) {
        result->kind = old->exists ? RESULT_BULK : RESULT_NIL;
    } else if (command->flags & COMMAND_FLAG_COUNT) {
        result->kind = RESULT_INTEGER;
        result->integer = !blocked;
    } else {
        result->kind = blocked ? RESULT_NIL : RESULT_OK;
    }
}

enum error_code apply_set(const struct batch_context *batch, const struct command *command,
                          struct result *result, struct error *error) {
    struct reader args = reader_make(command->args);
    struct slice key = command_next_arg(&args);
    struct slice value = command_next_arg(&args);
    struct target target;
    bool wants_old = (command->flags & COMMAND_FLAG_GET) != 0;
    enum error_code code = wants_old ? apply_get(batch, command, key, &target, &result->data, error)
                                     : apply_find(batch, command, key, &target, error);
    bool holds = false;
    if (code == ERROR_NONE) {
        code = check_condition(batch, command, &args, &target, &holds, error);
    }
    if (code != ERROR_NONE) {
        return code;
    }
    bool blocked = !holds || is_blocked(command, &target.row);
    answer_set(command, &target.row, blocked, result);
    return blocked ? ERROR_NONE : set_value(batch, command, &target, value, result, error);
}

enum error_code apply_delete_matching(const struct batch_context *batch,
                                      const struct command *command, struct result *result,
                                      struct error *error) {
    struct reader args = reader_make(command->args);
    struct slice key = command_next_arg(&args);
    struct target target;
    bool holds = false;
    enum error_code code = apply_find(batch, command, key, &target, error);
    if (code == ERROR_NONE) {
        code = check_condition(batch, command, &args, &target, &holds, error);
    }
    result->kind = RESULT_INTEGER;
    if (code != ERROR_NONE || !holds || !target.row.exists) {
        return code;
    }
    result->integer = 1;
    return apply_remove(batch, &target, error);
}

enum error_code apply_getdel(const struct batch_context *batch, const struct command *command,
                             struct result *result, struct error *error) {
    struct reader args = reader_make(command->args);
    struct slice key = command_next_arg(&args);
    struct target target;
    enum error_code code = apply_get(batch, command, key, &target, &result->data, error);
    result->kind = target.row.exists ? RESULT_BULK : RESULT_NIL;
    if (code != ERROR_NONE || !target.row.exists) {
        return code;
    }
    return apply_remove(batch, &target, error);
}

/* Stores a changed value under the expiry that the key has, and answers its length. */
static enum error_code store_changed(const struct batch_context *batch,
                                     const struct command *command, const struct target *target,
                                     const struct buffer *value, struct result *result,
                                     struct error *error) {
    result->kind = RESULT_INTEGER;
    result->integer = (int64_t)value->size;
    return apply_store(batch, command, target, buffer_slice(value), target->row.expires_at_ms,
                       result, error);
}

enum error_code apply_append(const struct batch_context *batch, const struct command *command,
                             struct result *result, struct error *error) {
    struct reader args = reader_make(command->args);
    struct slice key = command_next_arg(&args);
    struct slice added = command_next_arg(&args);
    uint64_t limit = apply_next_number(&args);
    struct target target;
    enum error_code code = apply_find(batch, command, key, &target, error);
    if (code != ERROR_NONE || !apply_fits_limit(target.row.size + added.size, limit, result)) {
        return code;
    }
    struct buffer value = {0};
    buffer_reserve(&value, (size_t)target.row.size + added.size);
    code = apply_get(batch, command, key, &target, &value, error);
    if (code == ERROR_NONE) {
        buffer_append_slice(&value, added);
        code = store_changed(batch, command, &target, &value, result, error);
    }
    buffer_free(&value);
    return code;
}

/* Puts `patch` at `offset`, with zeros in front of it where the value is shorter. */
static void overwrite(struct buffer *value, size_t offset, struct slice patch) {
    size_t end = offset + patch.size;
    if (end > value->size) {
        buffer_reserve(value, end - value->size);
        memset(value->data + value->size, 0, end - value->size);
        value->size = end;
    }
    memcpy(value->data + offset, patch.data, patch.size);
}

enum error_code apply_setrange(const struct batch_context *batch, const struct command *command,
                               struct result *result, struct error *error) {
    struct reader args = reader_make(command->args);
    struct slice key = command_next_arg(&args);
    uint64_t offset = apply_next_number(&args);
    struct slice patch = command_next_arg(&args);
    uint64_t limit = apply_next_number(&args);
    struct target target;
    enum error_code code = apply_find(batch, command, key, &target, error);
    if (code != ERROR_NONE) {
        return code;
    }
    if (patch.size == 0) {
        result->kind = RESULT_INTEGER;
        result->integer = (int64_t)target.row.size;
        return ERROR_NONE;
    }
    uint64_t end = offset > UINT64_MAX - patch.size ? UINT64_MAX : offset + patch.size;
    uint64_t size = end > target.row.size ? end : target.row.size;
    if (!apply_fits_limit(size, limit, result)) {
        return ERROR_NONE;
    }
    struct buffer value = {0};
    code = apply_get(batch, command, key, &target, &value, error);
    if (code == ERROR_NONE) {
        overwrite(&value, (size_t)offset, patch);
        code = store_changed(batch, command, &target, &value, result, error);
    }
    buffer_free(&value);
    return code;
}

/* Many keys at once: all of them are written or none. */

struct pair {
    struct slice key;
    struct slice value;
    uint32_t position;
    struct row row;
};

static int compare_pairs(const void *a, const void *b) {
    const struct pair *x = a;
    const struct pair *y = b;
    int order = slice_compare(x->key, y->key);
    if (order != 0) {
        return order;
    }
    return x->position < y->position ? -1 : x->position > y->position;
}

/* The pairs in order of their keys; of several with one key the last stays. */
static struct pair *take_pairs(const struct command *command, uint32_t *count) {
    uint32_t given = command->n_args / 2;
    struct pair *pairs = mem_zalloc(given, sizeof(pairs[0]));
    struct reader args = reader_make(command->args);
    for (uint32_t i = 0; i < given; i++) {
        pairs[i].key = command_next_arg(&args);
        pairs[i].value = command_next_arg(&args);
        pairs[i].position = i;
    }
    qsort(pairs, given, sizeof(pairs[0]), compare_pairs);
    *count = 0;
    for (uint32_t i = 0; i < given; i++) {
        if (*count > 0 && slice_equal(pairs[*count - 1].key, pairs[i].key)) {
            --*count;
        }
        pairs[(*count)++] = pairs[i];
    }
    return pairs;
}

/* Looks all keys up, and adds up what their rows take now and then. */
static enum error_code measure_pairs(const struct batch_context *batch,
                                     const struct project *project, struct pair *pairs,
                                     uint32_t count, uint64_t *added, uint64_t *removed,
                                     bool *some_exist, struct error *error) {
    *added = 0;
    *removed = 0;
    *some_exist = false;
    for (uint32_t i = 0; i < count; i++) {
        struct pair *pair = &pairs[i];
        enum error_code code = row_find(batch->machine, project, pair->key, &pair->row, error);
        if (code != ERROR_NONE) {
            return code;
        }
        *added += pair->key.size + pair->value.size;
        *removed += pair->row.exists ? pair->key.size + pair->row.size : 0;
        *some_exist = *some_exist || pair->row.exists;
    }
    return ERROR_NONE;
}

static enum error_code store_pairs(const struct batch_context *batch, const struct command *command,
                                   const struct pair *pairs, uint32_t count, struct result *result,
                                   struct error *error) {
    struct project *project = apply_project(batch, command, result);
    enum error_code code = ERROR_NONE;
    for (uint32_t i = 0; i < count && project != NULL && code == ERROR_NONE; i++) {
        code = row_put(batch->machine, project, pairs[i].key, &pairs[i].row, pairs[i].value, 0,
                       batch->index, error);
    }
    return code;
}

enum error_code apply_set_many(const struct batch_context *batch, const struct command *command,
                               struct result *result, struct error *error) {
    const struct project *project = projects_find(&batch->machine->projects, command->project);
    bool only_new = (command->flags & COMMAND_FLAG_NX) != 0;
    uint32_t count = 0;
    struct pair *pairs = take_pairs(command, &count);
    uint64_t added = 0;
    uint64_t removed = 0;
    bool some_exist = false;
    enum error_code code =
        measure_pairs(batch, project, pairs, count, &added, &removed, &some_exist, error);
    bool blocked = only_new && some_exist;
    result->kind = only_new ? RESULT_INTEGER : RESULT_OK;
    result->integer = only_new && !blocked;
    if (code == ERROR_NONE && !blocked &&
        apply_fits_quota(batch, command, added, removed, result)) {
        code = store_pairs(batch, command, pairs, count, result, error);
    }
    mem_free(pairs);
    return code;
}
