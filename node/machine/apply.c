/* Applying log entries. */
#include "node/machine/apply.h"

#include <inttypes.h>

#include "base/assert.h"
#include "base/limits.h"
#include "node/machine/access.h"
#include "node/machine/digest.h"
#include "node/machine/project_name.h"

/* What the commands share. */

uint64_t apply_next_number(struct reader *args) {
    struct slice number = command_next_arg(args);
    ASSERT(number.size == sizeof(uint64_t));
    return bytes_get_u64(number.data);
}

static struct target target_of(const struct batch_context *batch, const struct command *command,
                               struct slice key) {
    return (struct target){.project = projects_find(&batch->machine->projects, command->project),
                           .key = key};
}

enum error_code apply_find(const struct batch_context *batch, const struct command *command,
                           struct slice key, struct target *target, struct error *error) {
    *target = target_of(batch, command, key);
    return row_find(batch->machine, target->project, key, &target->row, error);
}

enum error_code apply_get(const struct batch_context *batch, const struct command *command,
                          struct slice key, struct target *target, struct buffer *value,
                          struct error *error) {
    *target = target_of(batch, command, key);
    return row_get(batch->machine, target->project, key, &target->row, value, error);
}

bool apply_expiry(const struct batch_context *batch, const struct command *command,
                  uint64_t kept_ms, uint64_t *expires_at_ms) {
    *expires_at_ms = 0;
    switch (command->expiry_mode) {
    case COMMAND_EXPIRY_NONE:
        if (command->kind == COMMAND_SET && (command->flags & COMMAND_FLAG_KEEPTTL)) {
            *expires_at_ms = kept_ms;
        }
        return true;
    case COMMAND_EXPIRY_AFTER:
        if (command->expiry_ms > INT64_MAX - batch->now_ms) {
            return false;
        }
        *expires_at_ms = batch->now_ms + command->expiry_ms;
        return true;
    case COMMAND_EXPIRY_AT:
        /* 0 means "never" in a row, yet as a time it is long past. */
        *expires_at_ms = command->expiry_ms > 0 ? command->expiry_ms : 1;
        return command->expiry_ms <= INT64_MAX;
    }
    return false;
}

bool apply_is_past(const struct batch_context *batch, const struct command *command,
                   uint64_t expires_at_ms) {
    return command->expiry_mode != COMMAND_EXPIRY_NONE && expires_at_ms <= batch->now_ms;
}

bool apply_fits_quota(const struct batch_context *batch, const struct command *command,
                      uint64_t added, uint64_t removed, struct result *result) {
    const struct project *project = projects_find(&batch->machine->projects, command->project);
    uint64_t used = project != NULL ? project->used_bytes : 0;
    uint64_t quota = project != NULL ? project->quota : batch->default_quota;
    ASSERT(removed <= used);
    uint64_t wanted = used - removed + added;
    if (added <= removed || wanted <= quota) {
        return true;
    }
    result_set_error(result, ERROR_QUOTA, "project %s: %" PRIu64 " of %" PRIu64 " bytes",
                     project_label(command->project).text, wanted, quota);
    return false;
}

bool apply_fits_limit(uint64_t size, uint64_t limit, struct result *result) {
    uint64_t most = limit < LIMIT_VALUE_SIZE_MAX ? limit : LIMIT_VALUE_SIZE_MAX;
    if (size <= most) {
        return true;
    }
    result_set_error(result, ERROR_TOOBIG,
                     "value of %" PRIu64 " bytes exceeds the limit of %" PRIu64
                     " bytes (max_value)",
                     size, most);
    return false;
}

struct project *apply_project(const struct batch_context *batch, const struct command *command,
                              struct result *result) {
    struct machine *machine = batch->machine;
    struct project *project = projects_find(&machine->projects, command->project);
    if (project != NULL) {
        return project;
    }
    if (machine->projects.count == LIMIT_PROJECTS) {
        result_set_error(result, ERROR_TOOBIG, "a shard holds at most %d projects", LIMIT_PROJECTS);
        return NULL;
    }
    project = projects_add(&machine->projects, command->project, machine->projects.last_id + 1);
    project->quota = batch->default_quota;
    project->is_new = true;
    projects_mark_dirty(&machine->projects, project);
    machine->state.digest += digest_project(project->seed, project->quota);
    return project;
}

enum error_code apply_store(const struct batch_context *batch, const struct command *command,
                            const struct target *target, struct slice value, uint64_t expires_at_ms,
                            struct result *result, struct error *error) {
    const struct row *old = &target->row;
    uint64_t removed = old->exists ? target->key.size + old->size : 0;
    if (!apply_fits_quota(batch, command, target->key.size + value.size, removed, result)) {
        return ERROR_NONE;
    }
    struct project *project = apply_project(batch, command, result);
    if (project == NULL) {
        return ERROR_NONE;
    }
    return row_put(batch->machine, project, target->key, old, value, expires_at_ms, batch->index,
                   error);
}

enum error_code apply_remove(const struct batch_context *batch, const struct target *target,
                             struct error *error) {
    return row_remove(batch->machine, target->project, target->key, &target->row, error);
}

enum error_code apply_drop_rows(const struct batch_context *batch, struct project *project,
                                struct error *error) {
    struct machine *machine = batch->machine;
    if (project->keys == 0) {
        return ERROR_NONE;
    }
    struct database *database = &machine->database;
    database_bind_u64(database, STATEMENT_GARBAGE_ADD, 1, project->id);
    database_bind_u64(database, STATEMENT_GARBAGE_ADD, 2, project->epoch);
    enum error_code code = database_run(database, STATEMENT_GARBAGE_ADD, error);
    if (code != ERROR_NONE) {
        return code;
    }
    machine->garbage++;
    machine->state.keys -= project->keys;
    machine->state.used_bytes -= project->used_bytes;
    machine->state.digest -= project->digest;
    project->keys = 0;
    project->used_bytes = 0;
    project->digest = 0;
    project->epoch++;
    projects_set_expiry(&machine->projects, project, 0);
    projects_mark_dirty(&machine->projects, project);
    machine_event_record(machine->events, project, MACHINE_EVENT_CLEAR, (struct slice){0});
    return ERROR_NONE;
}

static enum error_code apply_clear(const struct batch_context *batch, const struct command *command,
                                   struct result *result, struct error *error) {
    (void)result;
    struct project *project = projects_find(&batch->machine->projects, command->project);
    return project != NULL ? apply_drop_rows(batch, project, error) : ERROR_NONE;
}

static enum error_code apply_fence(const struct batch_context *batch, const struct command *command,
                                   struct result *result, struct error *error) {
    (void)batch;
    (void)command;
    (void)result;
    (void)error;
    return ERROR_NONE;
}

static const apply_handler handlers[] = {
    [COMMAND_SET] = apply_set,
    [COMMAND_DELETE] = apply_delete,
    [COMMAND_CLEAR] = apply_clear,
    [COMMAND_FENCE] = apply_fence,
    [COMMAND_INCREMENT] = apply_increment,
    [COMMAND_INCREMENT_FLOAT] = apply_increment_float,
    [COMMAND_APPEND] = apply_append,
    [COMMAND_SETRANGE] = apply_setrange,
    [COMMAND_GETDEL] = apply_getdel,
    [COMMAND_GETEX] = apply_getex,
    [COMMAND_EXPIRE] = apply_expire,
    [COMMAND_PERSIST] = apply_persist,
    [COMMAND_RENAME] = apply_rename,
    [COMMAND_COPY] = apply_copy,
    [COMMAND_SET_MANY] = apply_set_many,
    [COMMAND_DELETE_MATCHING] = apply_delete_matching,
    [COMMAND_TRANSACTION] = apply_transaction,
    [COMMAND_ONCE_OPEN] = apply_once_open,
    [COMMAND_ONCE_CLOSE] = apply_once_close,
    [COMMAND_ONCE] = apply_once,
    [COMMAND_PROJECT_CREATE] = apply_project_create,
    [COMMAND_PROJECT_DELETE] = apply_project_delete,
    [COMMAND_PROJECT_SET_QUOTA] = apply_project_set_quota,
    [COMMAND_TOKEN_ADD] = apply_token_add,
    [COMMAND_TOKEN_REVOKE] = apply_token_revoke,
};

enum error_code apply_command(const struct batch_context *batch, const struct command *command,
                              struct result *result, struct error *error) {
    size_t kind = (size_t)command->kind;
    if (kind >= sizeof(handlers) / sizeof(handlers[0]) || handlers[kind] == NULL) {
        return read_command(batch->machine, command, result, error);
    }
    if (!access_is_allowed(&batch->machine->projects, command, result)) {
        return ERROR_NONE;
    }
    return handlers[kind](batch, command, result, error);
}

static enum error_code apply_batch(struct machine *machine, const struct machine_entry *entry,
                                   machine_result_cb on_result, void *data, struct error *error) {
    struct command_batch batch;
    enum error_code code = command_batch_decode(entry->payload, &batch, error);
    if (code != ERROR_NONE) {
        return code;
    }
    struct batch_context context = {
        .machine = machine,
        .index = entry->index,
        .now_ms = batch.time_ms,
        .default_quota = batch.default_quota,
    };
    if (context.now_ms < machine->state.clock_ms) {
        context.now_ms = machine->state.clock_ms;
    }
    code = expiry_advance(machine, context.now_ms, error);
    for (unsigned i = 0; i < batch.count && code == ERROR_NONE; i++) {
        struct command_origin origin;
        struct command command;
        code = command_batch_next(&batch, &origin, &command, error);
        if (code != ERROR_NONE) {
            break;
        }
        struct result result = {0};
        code = command_is_write(command.kind)
                   ? apply_command(&context, &command, &result, error)
                   : error_set(error, ERROR_CORRUPT, "batch: command %u only reads",
                               (unsigned)command.kind);
        if (code == ERROR_NONE && on_result != NULL) {
            on_result(data, entry->index, origin, &result);
        }
        result_free(&result);
    }
    return code;
}

static enum error_code apply_config(struct machine *machine, const struct machine_entry *entry,
                                    struct error *error) {
    struct database *database = &machine->database;
    database_bind_u64(database, STATEMENT_CONFIG_PUT, 1, entry->index);
    database_bind_bytes(database, STATEMENT_CONFIG_PUT, 2, entry->payload);
    machine->state.config_index = entry->index;
    return database_run(database, STATEMENT_CONFIG_PUT, error);
}

static enum error_code apply_entry(struct machine *machine, const struct machine_entry *entry,
                                   machine_result_cb on_result, void *data, struct error *error) {
    enum error_code code = ERROR_NONE;
    if (machine->events != NULL) {
        machine->events->index = entry->index;
    }
    switch (entry->kind) {
    case MACHINE_COMMANDS:
        code = apply_batch(machine, entry, on_result, data, error);
        break;
    case MACHINE_CONFIG:
        code = apply_config(machine, entry, error);
        break;
    case MACHINE_BARRIER:
        break;
    }
    if (code != ERROR_NONE) {
        error_wrap(error, "entry %" PRIu64, entry->index);
        return code;
    }
    machine->state.applied_index = entry->index;
    machine->state.applied_term = entry->term;
    return ERROR_NONE;
}

static enum error_code apply_all(struct machine *machine, const struct machine_entry *entries,
                                 unsigned n, machine_result_cb on_result, void *data,
                                 struct error *error) {
    enum error_code code = machine_begin(machine, error);
    for (unsigned i = 0; i < n && code == ERROR_NONE; i++) {
        code = apply_entry(machine, &entries[i], on_result, data, error);
    }
    if (code == ERROR_NONE) {
        once_settle(machine);
        code = expiry_settle(machine, error);
    }
    return code;
}

static void keep_last_config(struct machine *machine, const struct machine_entry *entries,
                             unsigned n) {
    for (unsigned i = n; i > 0; i--) {
        if (entries[i - 1].kind == MACHINE_CONFIG) {
            machine->config.size = 0;
            buffer_append_slice(&machine->config, entries[i - 1].payload);
            return;
        }
    }
}

enum error_code machine_apply(struct machine *machine, const struct machine_entry *entries,
                              unsigned n, machine_result_cb on_result, void *data,
                              struct error *error) {
    for (unsigned i = 0; i < n; i++) {
        ASSERT(entries[i].index == machine->state.applied_index + 1 + i);
    }
    enum error_code code = machine_ready(machine, error);
    if (code != ERROR_NONE || n == 0) {
        return code;
    }
    uint64_t clock_before_ms = machine->state.clock_ms;
    struct machine_events recorded = {0};
    if (machine->events != NULL) {
        recorded = *machine->events;
    }
    code = apply_all(machine, entries, n, on_result, data, error);
    if (code != ERROR_NONE) {
        machine_rollback(machine);
        if (machine->events != NULL) {
            machine_events_rollback(machine->events, &recorded);
        }
        return code;
    }
    keep_last_config(machine, entries, n);
    ASSERT(machine->state.applied_index == entries[n - 1].index);
    ASSERT(machine->state.clock_ms >= clock_before_ms);
    return ERROR_NONE;
}
