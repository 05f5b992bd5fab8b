/* Applying log entries: one transaction for all that are given. */
#include <inttypes.h>

#include "base/assert.h"
#include "base/limits.h"
#include "node/machine/digest.h"
#include "node/machine/machine_internal.h"

struct batch_context {
    struct machine *machine;
    uint64_t index;  /* of the entry; version of the rows that it writes */
    uint64_t now_ms; /* what expiries count from and are compared with */
    uint64_t default_quota;
};

/* Absolute expiry of a SET, 0 for none. False when the sum leaves the range of times. */
static bool expiry_of(const struct batch_context *batch, const struct command *command,
                      const struct row *old, uint64_t *expires_at_ms) {
    *expires_at_ms = 0;
    switch (command->expiry_mode) {
    case COMMAND_EXPIRY_NONE:
        if (command->flags & COMMAND_FLAG_KEEPTTL) {
            *expires_at_ms = old->expires_at_ms;
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

static bool is_blocked(const struct command *command, const struct row *old) {
    return ((command->flags & COMMAND_FLAG_NX) && old->exists) ||
           ((command->flags & COMMAND_FLAG_XX) && !old->exists);
}

/* True when the project may hold the new value; otherwise fills the result. */
static bool fits_quota(const struct batch_context *batch, const struct project *project,
                       const struct command *command, const struct row *old, uint64_t row_bytes,
                       uint64_t old_bytes, struct result *result) {
    uint64_t used = project != NULL ? project->used_bytes : 0;
    uint64_t quota = project != NULL ? project->quota : batch->default_quota;
    ASSERT(!old->exists || old_bytes <= used);
    uint64_t wanted = used - old_bytes + row_bytes;
    if (row_bytes <= old_bytes || wanted <= quota) {
        return true;
    }
    result_set_error(result, ERROR_QUOTA, "project %.*s: %" PRIu64 " of %" PRIu64 " bytes",
                     (int)command->project.size, (const char *)command->project.data, wanted,
                     quota);
    return false;
}

static struct project *create_project(const struct batch_context *batch, struct slice name) {
    struct machine *machine = batch->machine;
    struct project *project = projects_add(&machine->projects, name);
    project->quota = batch->default_quota;
    project->is_new = true;
    projects_mark_dirty(&machine->projects, project);
    machine->state.digest += digest_project(project->seed, project->quota);
    return project;
}

/* Stores the key once nothing stands against it. */
static enum error_code set_value(const struct batch_context *batch, struct project *project,
                                 const struct command *command, const struct row *old,
                                 struct slice key, struct slice value, struct result *result,
                                 struct error *error) {
    struct machine *machine = batch->machine;
    uint64_t expires_at_ms;
    if (!expiry_of(batch, command, old, &expires_at_ms)) {
        result_set_error(result, ERROR_INVALID, "invalid expire time in 'set' command");
        return ERROR_NONE;
    }
    bool is_past = command->expiry_mode != COMMAND_EXPIRY_NONE && expires_at_ms <= batch->now_ms;
    if (is_past) {
        return old->exists ? row_remove(machine, project, key, old, error) : ERROR_NONE;
    }
    uint64_t old_bytes = old->exists ? key.size + old->size : 0;
    if (!fits_quota(batch, project, command, old, key.size + value.size, old_bytes, result)) {
        return ERROR_NONE;
    }
    if (project == NULL) {
        if (machine->projects.count == LIMIT_PROJECTS) {
            result_set_error(result, ERROR_TOOBIG, "a shard holds at most %d projects",
                             LIMIT_PROJECTS);
            return ERROR_NONE;
        }
        project = create_project(batch, command->project);
    }
    return row_put(machine, project, key, old, value, expires_at_ms, batch->index, error);
}

static enum error_code apply_set(const struct batch_context *batch, const struct command *command,
                                 struct result *result, struct error *error) {
    struct machine *machine = batch->machine;
    struct reader args = reader_make(command->args);
    struct slice key = command_next_arg(&args);
    struct slice value = command_next_arg(&args);
    struct project *project = projects_find(&machine->projects, command->project);
    struct row old;
    bool wants_old = (command->flags & COMMAND_FLAG_GET) != 0;
    enum error_code code = wants_old ? row_get(machine, project, key, &old, &result->data, error)
                                     : row_find(machine, project, key, &old, error);
    if (code != ERROR_NONE) {
        return code;
    }
    bool blocked = is_blocked(command, &old);
    if (wants_old) {
        result->kind = old.exists ? RESULT_BULK : RESULT_NIL;
    } else {
        result->kind = blocked ? RESULT_NIL : RESULT_OK;
    }
    return blocked ? ERROR_NONE
                   : set_value(batch, project, command, &old, key, value, result, error);
}

static enum error_code apply_delete(const struct batch_context *batch,
                                    const struct command *command, struct result *result,
                                    struct error *error) {
    struct machine *machine = batch->machine;
    struct project *project = projects_find(&machine->projects, command->project);
    struct reader args = reader_make(command->args);
    result->kind = RESULT_INTEGER;
    for (uint32_t i = 0; i < command->n_args && project != NULL; i++) {
        struct slice key = command_next_arg(&args);
        struct row old;
        enum error_code code = row_find(machine, project, key, &old, error);
        if (code == ERROR_NONE && old.exists) {
            result->integer++;
            code = row_remove(machine, project, key, &old, error);
        }
        if (code != ERROR_NONE) {
            return code;
        }
    }
    return ERROR_NONE;
}

/* The rows stay where they are, under an epoch that nobody asks for any more. */
static enum error_code apply_clear(const struct batch_context *batch, const struct command *command,
                                   struct error *error) {
    struct machine *machine = batch->machine;
    struct project *project = projects_find(&machine->projects, command->project);
    if (project == NULL || project->keys == 0) {
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
    return ERROR_NONE;
}

static enum error_code apply_command(const struct batch_context *batch,
                                     const struct command *command, struct result *result,
                                     struct error *error) {
    switch (command->kind) {
    case COMMAND_SET:
        return apply_set(batch, command, result, error);
    case COMMAND_DELETE:
        return apply_delete(batch, command, result, error);
    case COMMAND_CLEAR:
        return apply_clear(batch, command, error);
    case COMMAND_FENCE:
        return ERROR_NONE;
    case COMMAND_GET:
    case COMMAND_EXISTS:
    case COMMAND_PTTL:
    case COMMAND_DBSIZE:
    case COMMAND_USAGE:
        break;
    }
    return error_set(error, ERROR_CORRUPT, "batch: command %u only reads", (unsigned)command->kind);
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
        code = apply_command(&context, &command, &result, error);
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
    enum error_code code = database_run(&machine->database, STATEMENT_BEGIN, error);
    for (unsigned i = 0; i < n && code == ERROR_NONE; i++) {
        code = apply_entry(machine, &entries[i], on_result, data, error);
    }
    if (code == ERROR_NONE) {
        code = expiry_settle(machine, error);
    }
    if (code == ERROR_NONE) {
        code = machine_save(machine, error);
    }
    if (code == ERROR_NONE) {
        code = database_run(&machine->database, STATEMENT_COMMIT, error);
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
    struct machine_state before = machine->state;
    code = apply_all(machine, entries, n, on_result, data, error);
    if (code != ERROR_NONE) {
        machine_rollback(machine, &before);
        return code;
    }
    keep_last_config(machine, entries, n);
    ASSERT(machine->state.applied_index == entries[n - 1].index);
    ASSERT(machine->state.clock_ms >= before.clock_ms);
    return ERROR_NONE;
}
