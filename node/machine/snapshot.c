/* Checkpoints, and the database file as a snapshot. */
#include "base/assert.h"
#include "base/mem.h"
#include "node/machine/files.h"
#include "node/machine/machine_internal.h"

enum error_code machine_checkpoint(struct machine *machine, uint64_t *durable_index,
                                   struct error *error) {
    if (machine->holds > 0) {
        *durable_index = machine->held.index;
        return ERROR_NONE;
    }
    enum error_code code = machine_commit(machine, error);
    if (code == ERROR_NONE) {
        code = database_checkpoint(&machine->database, error);
    }
    if (code == ERROR_NONE) {
        *durable_index = machine->state.applied_index;
    }
    return code;
}

enum error_code machine_fold(const struct machine_options *options, uint64_t wal_bytes,
                             bool *complete, uint64_t *moved_bytes, struct error *error) {
    *complete = false;
    *moved_bytes = 0;
    return options->vfs != NULL
               ? ERROR_NONE
               : database_fold(options->path, wal_bytes, complete, moved_bytes, error);
}

bool machine_take_overflow(struct machine *machine) {
    return database_take_overflow(&machine->database);
}

uint64_t machine_wal_bytes(const struct machine *machine) {
    return machine->database.wal_bytes;
}

enum error_code machine_snapshot_hold(struct machine *machine, struct machine_snapshot *snapshot,
                                      struct buffer *config, struct error *error) {
    if (machine->holds == 0) {
        uint64_t durable_index;
        enum error_code code = machine_checkpoint(machine, &durable_index, error);
        if (code != ERROR_NONE) {
            return code;
        }
        machine->held = (struct machine_snapshot){
            .index = durable_index,
            .term = machine->state.applied_term,
            .config_index = machine->state.config_index,
            .size = database_file_bytes(&machine->database),
        };
        machine->held_config.size = 0;
        buffer_append_slice(&machine->held_config, buffer_slice(&machine->config));
    }
    machine->holds++;
    *snapshot = machine->held;
    config->size = 0;
    buffer_append_slice(config, buffer_slice(&machine->held_config));
    return ERROR_NONE;
}

void machine_snapshot_release(struct machine *machine) {
    ASSERT(machine->holds > 0);
    machine->holds--;
}

static enum error_code verify_opened(struct machine *machine, const struct machine_options *options,
                                     bool recount, struct error *error) {
    enum error_code code = database_prepare(&machine->database, error);
    if (code == ERROR_NONE) {
        code = machine_check_identity(machine, options, error);
    }
    if (code == ERROR_NONE) {
        code = machine_load(machine, error);
    }
    if (code == ERROR_NONE && recount) {
        code = database_check_pages(&machine->database, error);
    }
    if (code == ERROR_NONE && recount) {
        code = machine_recount(machine, error);
    }
    return code;
}

enum error_code machine_verify(const struct machine_options *options, bool recount,
                               struct machine_state *state, struct error *error) {
    struct machine *machine = mem_zalloc(1, sizeof(*machine));
    struct database_options database = {
        .path = options->path,
        .vfs = options->vfs,
        .cache_bytes = options->cache_bytes,
        .read_only = true,
    };
    bool is_new = false;
    enum error_code code = database_open(&machine->database, &database, &is_new, error);
    if (code == ERROR_NONE && is_new) {
        code = error_set(error, ERROR_CORRUPT, "%s is empty", options->path);
    }
    if (code == ERROR_NONE) {
        code = verify_opened(machine, options, recount, error);
    }
    if (code == ERROR_NONE) {
        *state = machine_state(machine);
    }
    machine_close(machine);
    return code;
}

/* A database that was not closed in order may need its WAL to be whole: a checkpoint may have been
 * cut short. Folds it in, so that the WAL can go before the new file comes; of a damaged or foreign
 * database there is nothing to save. */
static enum error_code fold_wal(const struct machine_options *options, struct error *error) {
    if (!files_exists(options->path, "") || !files_exists(options->path, "-wal")) {
        return ERROR_NONE;
    }
    struct machine *machine = NULL;
    struct error reason = {0};
    enum error_code code = machine_open(&machine, options, &reason);
    if (code == ERROR_CORRUPT || code == ERROR_MISMATCH || code == ERROR_VERSION) {
        return ERROR_NONE;
    }
    if (code == ERROR_NONE) {
        uint64_t durable_index;
        code = machine_checkpoint(machine, &durable_index, &reason);
    }
    machine_close(machine);
    return code == ERROR_NONE ? ERROR_NONE : error_set(error, code, "%s", reason.message);
}

enum error_code machine_replace(const struct machine_options *options, const char *staged,
                                struct error *error) {
    enum error_code code = files_sync(staged, error);
    if (code == ERROR_NONE) {
        code = fold_wal(options, error);
    }
    /* An old WAL beside a new file would be replayed into it, hence the sync before the rename. */
    static const char *const suffixes[] = {"-wal", "-shm", "-journal"};
    for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]) && code == ERROR_NONE; i++) {
        code = files_remove(options->path, suffixes[i], error);
    }
    if (code == ERROR_NONE) {
        code = files_sync_directory_of(options->path, error);
    }
    if (code == ERROR_NONE) {
        code = files_rename(staged, options->path, error);
    }
    if (code == ERROR_NONE) {
        code = files_sync_directory_of(options->path, error);
    }
    return code;
}
