/* One row: key, value and what stands beside them. */
#include "base/assert.h"
#include "node/machine/digest.h"
#include "node/machine/machine_internal.h"
#include "node/machine/project_name.h"

/* A row of kv longer than this puts its value into the table `large`. Rows without a rowid stand
 * whole in every level of the tree, so that long ones make it deep; docs/state-machine.md has the
 * measurements. */
enum { ROW_INLINE_MAX = 700, VALUE_LARGE_MIN = 64 };

enum { COLUMN_EXPIRES_AT, COLUMN_HASH, COLUMN_SIZE, COLUMN_LARGE, COLUMN_VERSION, COLUMN_VALUE };

static bool belongs_in_large(size_t key_size, size_t value_size) {
    return value_size >= VALUE_LARGE_MIN && key_size + value_size > ROW_INLINE_MAX;
}

static void bind_key(struct machine *machine, enum statement statement,
                     const struct project *project, struct slice key) {
    database_bind_u64(&machine->database, statement, 1, project->id);
    database_bind_u64(&machine->database, statement, 2, project->epoch);
    database_bind_bytes(&machine->database, statement, 3, key);
}

static struct row row_of_columns(const struct machine *machine, enum statement statement) {
    const struct database *database = &machine->database;
    return (struct row){
        .exists = true,
        .expires_at_ms = database_u64(database, statement, COLUMN_EXPIRES_AT),
        .hash = database_u64(database, statement, COLUMN_HASH),
        .size = database_u64(database, statement, COLUMN_SIZE),
        .large = database_u64(database, statement, COLUMN_LARGE),
        .version = database_u64(database, statement, COLUMN_VERSION),
    };
}

enum error_code row_find(struct machine *machine, const struct project *project, struct slice key,
                         struct row *row, struct error *error) {
    *row = (struct row){0};
    if (project == NULL) {
        return ERROR_NONE;
    }
    bind_key(machine, STATEMENT_ROW_FIND, project, key);
    bool found = false;
    enum error_code code = database_step(&machine->database, STATEMENT_ROW_FIND, &found, error);
    if (code == ERROR_NONE && found) {
        *row = row_of_columns(machine, STATEMENT_ROW_FIND);
        database_reset(&machine->database, STATEMENT_ROW_FIND);
    }
    return code;
}

static enum error_code damaged_value(const struct project *project, struct slice key,
                                     struct error *error) {
    int shown = key.size < 64 ? (int)key.size : 64;
    return error_set(error, ERROR_CORRUPT,
                     "project %s, key %.*s: the stored value does not match its checksum; rebuild "
                     "this shard from its peers",
                     project_label(project_name(project)).text, shown, (const char *)key.data);
}

static enum error_code append_large(struct machine *machine, uint64_t id, struct buffer *value,
                                    struct error *error) {
    database_bind_u64(&machine->database, STATEMENT_LARGE_GET, 1, id);
    bool found = false;
    enum error_code code = database_step(&machine->database, STATEMENT_LARGE_GET, &found, error);
    if (code == ERROR_NONE && found) {
        buffer_append_slice(value, database_bytes(&machine->database, STATEMENT_LARGE_GET, 0));
        database_reset(&machine->database, STATEMENT_LARGE_GET);
    }
    return code;
}

enum error_code row_get(struct machine *machine, const struct project *project, struct slice key,
                        struct row *row, struct buffer *value, struct error *error) {
    ASSERT(value->size == 0);
    *row = (struct row){0};
    if (project == NULL) {
        return ERROR_NONE;
    }
    bind_key(machine, STATEMENT_ROW_GET, project, key);
    bool found = false;
    enum error_code code = database_step(&machine->database, STATEMENT_ROW_GET, &found, error);
    if (code != ERROR_NONE || !found) {
        return code;
    }
    *row = row_of_columns(machine, STATEMENT_ROW_GET);
    if (row->large != 0) {
        code = append_large(machine, row->large, value, error);
    } else {
        buffer_append_slice(value,
                            database_bytes(&machine->database, STATEMENT_ROW_GET, COLUMN_VALUE));
    }
    database_reset(&machine->database, STATEMENT_ROW_GET);
    if (code != ERROR_NONE) {
        return code;
    }
    uint64_t hash = digest_row(project->seed, key, buffer_slice(value), row->expires_at_ms);
    if (hash != row->hash) {
        return damaged_value(project, key, error);
    }
    return ERROR_NONE;
}

static enum error_code remove_large(struct machine *machine, uint64_t id, struct error *error) {
    database_bind_u64(&machine->database, STATEMENT_LARGE_REMOVE, 1, id);
    return database_run(&machine->database, STATEMENT_LARGE_REMOVE, error);
}

/* Stores a large value, in the place of the old one when that was large too. */
static enum error_code store_large(struct machine *machine, uint64_t old_id, struct slice value,
                                   uint64_t *id, struct error *error) {
    struct database *database = &machine->database;
    enum error_code code;
    if (old_id != 0) {
        *id = old_id;
        database_bind_u64(database, STATEMENT_LARGE_PUT, 1, old_id);
        database_bind_bytes(database, STATEMENT_LARGE_PUT, 2, value);
        code = database_run(database, STATEMENT_LARGE_PUT, error);
        database_bind_null(database, STATEMENT_LARGE_PUT, 2);
        return code;
    }
    database_bind_bytes(database, STATEMENT_LARGE_ADD, 1, value);
    code = database_run(database, STATEMENT_LARGE_ADD, error);
    database_bind_null(database, STATEMENT_LARGE_ADD, 1);
    *id = (uint64_t)sqlite3_last_insert_rowid(database->handle);
    return code;
}

/* Puts the value where it belongs; *id is 0 when that is inline. */
static enum error_code store_value(struct machine *machine, struct slice key, const struct row *old,
                                   struct slice value, uint64_t *id, struct error *error) {
    *id = 0;
    if (belongs_in_large(key.size, value.size)) {
        return store_large(machine, old->large, value, id, error);
    }
    return old->large != 0 ? remove_large(machine, old->large, error) : ERROR_NONE;
}

static enum error_code store_row(struct machine *machine, const struct project *project,
                                 struct slice key, const struct row *row, struct slice value,
                                 bool is_new, uint64_t version, struct error *error) {
    struct database *database = &machine->database;
    enum statement statement = is_new ? STATEMENT_ROW_ADD : STATEMENT_ROW_PUT;
    bind_key(machine, statement, project, key);
    database_bind_u64(database, statement, 4, version);
    database_bind_u64(database, statement, 5, row->expires_at_ms);
    database_bind_u64(database, statement, 6, row->hash);
    database_bind_u64(database, statement, 7, row->size);
    database_bind_u64(database, statement, 8, row->large);
    if (row->large != 0) {
        database_bind_null(database, statement, 9);
    } else {
        database_bind_bytes(database, statement, 9, value);
    }
    return database_run(database, statement, error);
}

/* Counts a row in, or out when `sign` is -1; unsigned wrap-around makes both the same sum. */
static void count_row(struct machine *machine, struct project *project, struct slice key,
                      const struct row *row, int sign) {
    uint64_t factor = (uint64_t)(int64_t)sign;
    uint64_t bytes = (key.size + row->size) * factor;
    uint64_t digest = row->hash * factor;
    project->keys += factor;
    project->used_bytes += bytes;
    project->digest += digest;
    machine->state.keys += factor;
    machine->state.used_bytes += bytes;
    machine->state.digest += digest;
    projects_mark_dirty(&machine->projects, project);
}

/* Keeps the project's bound at or below its first expiry. */
static void note_expiry(struct machine *machine, struct project *project, uint64_t expires_at_ms) {
    if (expires_at_ms != 0 && (project->next_expiry == 0 || expires_at_ms < project->next_expiry)) {
        projects_set_expiry(&machine->projects, project, expires_at_ms);
    }
}

enum error_code row_put(struct machine *machine, struct project *project, struct slice key,
                        const struct row *old, struct slice value, uint64_t expires_at_ms,
                        uint64_t version, struct error *error) {
    struct row row = {
        .exists = true,
        .expires_at_ms = expires_at_ms,
        .hash = digest_row(project->seed, key, value, expires_at_ms),
        .size = value.size,
    };
    enum error_code code = store_value(machine, key, old, value, &row.large, error);
    if (code == ERROR_NONE) {
        code = store_row(machine, project, key, &row, value, !old->exists, version, error);
    }
    if (code != ERROR_NONE) {
        return code;
    }
    if (old->exists) {
        count_row(machine, project, key, old, -1);
    }
    count_row(machine, project, key, &row, 1);
    note_expiry(machine, project, expires_at_ms);
    machine_event_record(machine->events, project, MACHINE_EVENT_SET, key);
    return ERROR_NONE;
}

enum error_code row_touch(struct machine *machine, struct project *project, struct slice key,
                          const struct row *old, uint64_t expires_at_ms, uint64_t version,
                          struct error *error) {
    ASSERT(old->exists);
    struct row row = *old;
    row.expires_at_ms = expires_at_ms;
    row.hash = digest_row_moved(old->hash, old->expires_at_ms, expires_at_ms);
    struct database *database = &machine->database;
    bind_key(machine, STATEMENT_ROW_TOUCH, project, key);
    database_bind_u64(database, STATEMENT_ROW_TOUCH, 4, version);
    database_bind_u64(database, STATEMENT_ROW_TOUCH, 5, row.expires_at_ms);
    database_bind_u64(database, STATEMENT_ROW_TOUCH, 6, row.hash);
    enum error_code code = database_run(database, STATEMENT_ROW_TOUCH, error);
    if (code != ERROR_NONE) {
        return code;
    }
    count_row(machine, project, key, old, -1);
    count_row(machine, project, key, &row, 1);
    note_expiry(machine, project, expires_at_ms);
    machine_event_record(machine->events, project,
                         expires_at_ms != 0 ? MACHINE_EVENT_EXPIRE : MACHINE_EVENT_PERSIST, key);
    return ERROR_NONE;
}

static enum error_code drop_row(struct machine *machine, struct project *project, struct slice key,
                                const struct row *old, enum machine_event_kind why,
                                struct error *error) {
    ASSERT(old->exists && project->keys > 0);
    enum error_code code = ERROR_NONE;
    if (old->large != 0) {
        code = remove_large(machine, old->large, error);
    }
    if (code == ERROR_NONE) {
        bind_key(machine, STATEMENT_ROW_REMOVE, project, key);
        code = database_run(&machine->database, STATEMENT_ROW_REMOVE, error);
    }
    if (code == ERROR_NONE) {
        count_row(machine, project, key, old, -1);
        machine_event_record(machine->events, project, why, key);
    }
    return code;
}

enum error_code row_remove(struct machine *machine, struct project *project, struct slice key,
                           const struct row *old, struct error *error) {
    return drop_row(machine, project, key, old, MACHINE_EVENT_DELETE, error);
}

enum error_code row_expire(struct machine *machine, struct project *project, struct slice key,
                           const struct row *old, struct error *error) {
    return drop_row(machine, project, key, old, MACHINE_EVENT_EXPIRED, error);
}
