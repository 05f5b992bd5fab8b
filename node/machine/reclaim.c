/* Removing the rows of cleared epochs, a little at a time. */
#include "node/machine/machine_internal.h"

/* A step ends after this many bytes of large values too, since freeing one walks all its pages. */
#define RECLAIM_BYTES (16 * MIB)

struct epoch {
    uint64_t project;
    uint64_t number;
};

static void bind_epoch(struct machine *machine, enum statement statement, struct epoch epoch) {
    database_bind_u64(&machine->database, statement, 1, epoch.project);
    database_bind_u64(&machine->database, statement, 2, epoch.number);
}

static enum error_code find_epoch(struct machine *machine, struct epoch *epoch,
                                  struct error *error) {
    struct database *database = &machine->database;
    bool found = false;
    enum error_code code = database_step(database, STATEMENT_GARBAGE_FIRST, &found, error);
    if (code == ERROR_NONE && !found) {
        return error_set(error, ERROR_CORRUPT, "%s: its list of cleared epochs is too short",
                         database->path);
    }
    if (code == ERROR_NONE) {
        epoch->project = database_u64(database, STATEMENT_GARBAGE_FIRST, 0);
        epoch->number = database_u64(database, STATEMENT_GARBAGE_FIRST, 1);
        database_reset(database, STATEMENT_GARBAGE_FIRST);
    }
    return code;
}

/* Looks at the next rows of the epoch: how many there are within the bounds and the last one's key.
 */
static enum error_code measure_step(struct machine *machine, struct epoch epoch, unsigned max_rows,
                                    unsigned *rows, struct buffer *last, struct error *error) {
    struct database *database = &machine->database;
    const enum statement statement = STATEMENT_EPOCH_ROWS;
    bind_epoch(machine, statement, epoch);
    database_bind_u64(database, statement, 3, max_rows);
    uint64_t large_bytes = 0;
    *rows = 0;
    while (large_bytes < RECLAIM_BYTES) {
        bool found = false;
        enum error_code code = database_step(database, statement, &found, error);
        if (code != ERROR_NONE || !found) {
            return code;
        }
        last->size = 0;
        buffer_append_slice(last, database_bytes(database, statement, 0));
        large_bytes +=
            database_u64(database, statement, 2) != 0 ? database_u64(database, statement, 1) : 0;
        (*rows)++;
    }
    database_reset(database, statement);
    return ERROR_NONE;
}

static enum error_code remove_up_to(struct machine *machine, struct epoch epoch, struct slice last,
                                    struct error *error) {
    struct database *database = &machine->database;
    bind_epoch(machine, STATEMENT_EPOCH_REMOVE_LARGE, epoch);
    database_bind_bytes(database, STATEMENT_EPOCH_REMOVE_LARGE, 3, last);
    enum error_code code = database_run(database, STATEMENT_EPOCH_REMOVE_LARGE, error);
    if (code == ERROR_NONE) {
        bind_epoch(machine, STATEMENT_EPOCH_REMOVE, epoch);
        database_bind_bytes(database, STATEMENT_EPOCH_REMOVE, 3, last);
        code = database_run(database, STATEMENT_EPOCH_REMOVE, error);
    }
    return code;
}

static enum error_code reclaim_step(struct machine *machine, unsigned max_rows,
                                    struct error *error) {
    struct epoch epoch = {0};
    struct buffer last = {0};
    unsigned rows = 0;
    enum error_code code = find_epoch(machine, &epoch, error);
    if (code == ERROR_NONE) {
        code = measure_step(machine, epoch, max_rows, &rows, &last, error);
    }
    if (code == ERROR_NONE && rows > 0) {
        code = remove_up_to(machine, epoch, buffer_slice(&last), error);
    }
    if (code == ERROR_NONE && rows == 0) {
        bind_epoch(machine, STATEMENT_GARBAGE_REMOVE, epoch);
        code = database_run(&machine->database, STATEMENT_GARBAGE_REMOVE, error);
        machine->garbage--;
    }
    buffer_free(&last);
    return code;
}

enum error_code machine_reclaim(struct machine *machine, unsigned max_rows, bool *more,
                                struct error *error) {
    /* A step that fails takes nothing with it that was applied. */
    enum error_code code = machine_commit(machine, error);
    if (code == ERROR_NONE) {
        code = machine_ready(machine, error);
    }
    *more = machine->garbage > 0;
    if (code != ERROR_NONE || machine->garbage == 0 || max_rows == 0) {
        return code;
    }
    code = machine_begin(machine, error);
    if (code == ERROR_NONE) {
        code = reclaim_step(machine, max_rows, error);
    }
    if (code == ERROR_NONE) {
        code = machine_commit(machine, error);
    } else {
        machine_rollback(machine);
    }
    *more = machine->garbage > 0;
    return code;
}
