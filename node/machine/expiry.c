/* Expiry as a replicated event. Which rows one batch removes must be the same on every replica, so
 * only live rows count and the order is total: by expiry, then project, then key. Rows of cleared
 * epochs, which every replica reclaims in its own time, are never looked at: each project seeks its
 * own current epoch, and a heap in memory orders the projects. */
#include "node/machine/machine_internal.h"

struct due {
    bool exists;
    uint64_t expires_at_ms;
    struct buffer key;
};

static enum error_code damaged_index(const struct machine *machine, struct error *error) {
    return error_set(error, ERROR_CORRUPT,
                     "%s: the expiry index does not match the rows; rebuild it from its peers",
                     machine->database.path);
}

/* First expiring row of a project; due->key keeps its memory between calls. */
static enum error_code find_first(struct machine *machine, const struct project *project,
                                  struct due *due, struct error *error) {
    struct database *database = &machine->database;
    database_bind_u64(database, STATEMENT_EXPIRY_FIRST, 1, project->id);
    database_bind_u64(database, STATEMENT_EXPIRY_FIRST, 2, project->epoch);
    enum error_code code = database_step(database, STATEMENT_EXPIRY_FIRST, &due->exists, error);
    if (code != ERROR_NONE || !due->exists) {
        return code;
    }
    due->expires_at_ms = database_u64(database, STATEMENT_EXPIRY_FIRST, 0);
    due->key.size = 0;
    buffer_append_slice(&due->key, database_bytes(database, STATEMENT_EXPIRY_FIRST, 1));
    database_reset(database, STATEMENT_EXPIRY_FIRST);
    return ERROR_NONE;
}

/* The first row to expire of the whole shard, if it does so by `until_ms`. On the way, bounds of
 * projects that overwriting and deleting made too low are raised to the truth. */
static enum error_code find_due(struct machine *machine, uint64_t until_ms,
                                struct project **project, struct due *due, struct error *error) {
    for (;;) {
        *project = projects_first_expiring(&machine->projects);
        due->exists = false;
        if (*project == NULL || (*project)->next_expiry > until_ms) {
            return ERROR_NONE;
        }
        enum error_code code = find_first(machine, *project, due, error);
        if (code != ERROR_NONE) {
            return code;
        }
        uint64_t exact_ms = due->exists ? due->expires_at_ms : 0;
        if (exact_ms != 0 && exact_ms == (*project)->next_expiry) {
            return ERROR_NONE;
        }
        if (exact_ms != 0 && exact_ms < (*project)->next_expiry) {
            return damaged_index(machine, error);
        }
        projects_set_expiry(&machine->projects, *project, exact_ms);
    }
}

static enum error_code remove_due(struct machine *machine, struct project *project,
                                  const struct due *due, uint64_t *removed_bytes,
                                  struct error *error) {
    struct slice key = buffer_slice(&due->key);
    struct row row;
    enum error_code code = row_find(machine, project, key, &row, error);
    if (code != ERROR_NONE) {
        return code;
    }
    if (!row.exists || row.expires_at_ms != due->expires_at_ms) {
        return damaged_index(machine, error);
    }
    *removed_bytes += key.size + row.size;
    return row_expire(machine, project, key, &row, error);
}

/* Removes expired rows up to the bounds of a step. *left_ms is the expiry of the first row that has
 * expired and stays, 0 when none does. */
static enum error_code purge(struct machine *machine, uint64_t now_ms, uint64_t *left_ms,
                             struct error *error) {
    struct due due = {0};
    enum error_code code = ERROR_NONE;
    unsigned rows = 0;
    uint64_t bytes = 0;
    *left_ms = 0;
    while (code == ERROR_NONE) {
        struct project *project = NULL;
        code = find_due(machine, now_ms, &project, &due, error);
        if (code != ERROR_NONE || !due.exists) {
            break;
        }
        if (rows == MACHINE_PURGE_STEP || bytes >= MACHINE_PURGE_BYTES) {
            *left_ms = due.expires_at_ms;
            break;
        }
        code = remove_due(machine, project, &due, &bytes, error);
        rows++;
    }
    buffer_free(&due.key);
    return code;
}

enum error_code expiry_advance(struct machine *machine, uint64_t now_ms, struct error *error) {
    uint64_t left_ms = 0;
    uint64_t session_left_ms = 0;
    uint64_t token_left_ms = 0;
    enum error_code code = purge(machine, now_ms, &left_ms, error);
    if (code == ERROR_NONE) {
        code = once_purge(machine, now_ms, &session_left_ms, error);
    }
    if (code == ERROR_NONE) {
        code = tokens_purge(machine, now_ms, &token_left_ms, error);
    }
    if (code != ERROR_NONE) {
        return code;
    }
    left_ms = expiry_earlier(left_ms, expiry_earlier(session_left_ms, token_left_ms));
    uint64_t clock_ms = left_ms != 0 ? left_ms - 1 : now_ms;
    /* What was alive before expires after the old clock, so the clock cannot move back. */
    if (clock_ms < machine->state.clock_ms) {
        return damaged_index(machine, error);
    }
    machine->state.clock_ms = clock_ms;
    return ERROR_NONE;
}

enum error_code expiry_settle(struct machine *machine, struct error *error) {
    struct due due = {0};
    struct project *project = NULL;
    enum error_code code = find_due(machine, UINT64_MAX, &project, &due, error);
    machine->state.next_expiry_ms = expiry_earlier(
        due.exists ? due.expires_at_ms : 0,
        expiry_earlier(once_next_expiry(&machine->once), tokens_next_expiry(machine)));
    buffer_free(&due.key);
    return code;
}

enum error_code expiry_load(struct machine *machine, struct error *error) {
    struct due due = {0};
    enum error_code code = ERROR_NONE;
    for (size_t i = 0; i < machine->projects.count && code == ERROR_NONE; i++) {
        struct project *project = machine->projects.by_id[i];
        code = find_first(machine, project, &due, error);
        if (code == ERROR_NONE && due.exists) {
            projects_set_expiry(&machine->projects, project, due.expires_at_ms);
        }
    }
    buffer_free(&due.key);
    return code;
}
