/* Opening, closing, and what is kept in memory beside the file. */
#include "node/machine/machine.h"

#include "base/assert.h"
#include "base/limits.h"
#include "base/mem.h"
#include "node/machine/digest.h"
#include "node/machine/files.h"
#include "node/machine/machine_internal.h"

enum {
    META_CLUSTER,
    META_SHARD,
    META_APPLIED_INDEX,
    META_APPLIED_TERM,
    META_CLOCK,
    META_DIGEST,
    META_KEYS,
    META_USED_BYTES,
    META_CONFIG_INDEX,
    META_CONFIG,
    META_LAST_PROJECT,
    META_WALL_OFFSET
};

enum {
    PROJECT_ID,
    PROJECT_NAME,
    PROJECT_EPOCH,
    PROJECT_QUOTA,
    PROJECT_USED_BYTES,
    PROJECT_KEYS,
    PROJECT_DIGEST
};

static enum error_code damaged(const struct machine *machine, struct error *error,
                               const char *what) {
    return error_set(error, ERROR_CORRUPT, "%s is damaged: %s; rebuild it from its peers",
                     machine->database.path, what);
}

/* Steps to the meta row, which the caller resets. */
static enum error_code step_to_meta(struct machine *machine, struct error *error) {
    bool found = false;
    enum error_code code = database_step(&machine->database, STATEMENT_META_GET, &found, error);
    if (code == ERROR_NONE && !found) {
        return damaged(machine, error, "its meta row is missing");
    }
    return code;
}

enum error_code machine_check_identity(struct machine *machine,
                                       const struct machine_options *options, struct error *error) {
    enum error_code code = step_to_meta(machine, error);
    if (code != ERROR_NONE) {
        return code;
    }
    struct database *database = &machine->database;
    struct slice cluster = database_bytes(database, STATEMENT_META_GET, META_CLUSTER);
    uint64_t shard = database_u64(database, STATEMENT_META_GET, META_SHARD);
    if (!slice_equal(cluster, slice_of(options->cluster))) {
        code =
            error_set(error, ERROR_MISMATCH, "%s belongs to cluster %.*s, not to %s", options->path,
                      (int)cluster.size, (const char *)cluster.data, options->cluster);
    } else if (shard != options->shard) {
        code = error_set(error, ERROR_MISMATCH, "%s holds shard %llu, not %u", options->path,
                         (unsigned long long)shard, options->shard);
    }
    database_reset(database, STATEMENT_META_GET);
    return code;
}

static enum error_code load_meta(struct machine *machine, struct error *error) {
    enum error_code code = step_to_meta(machine, error);
    if (code != ERROR_NONE) {
        return code;
    }
    struct database *database = &machine->database;
    const enum statement get = STATEMENT_META_GET;
    machine->state = (struct machine_state){
        .applied_index = database_u64(database, get, META_APPLIED_INDEX),
        .applied_term = database_u64(database, get, META_APPLIED_TERM),
        .config_index = database_u64(database, get, META_CONFIG_INDEX),
        .clock_ms = database_u64(database, get, META_CLOCK),
        .digest = database_u64(database, get, META_DIGEST),
        .keys = database_u64(database, get, META_KEYS),
        .used_bytes = database_u64(database, get, META_USED_BYTES),
        .wall_offset_ms = (int64_t)database_u64(database, get, META_WALL_OFFSET),
    };
    machine->config.size = 0;
    buffer_append_slice(&machine->config, database_bytes(database, get, META_CONFIG));
    projects_free(&machine->projects);
    machine->projects.last_id = database_u64(database, get, META_LAST_PROJECT);
    database_reset(database, get);
    return ERROR_NONE;
}

static enum error_code load_project(struct machine *machine, struct error *error) {
    struct database *database = &machine->database;
    const enum statement all = STATEMENT_PROJECT_ALL;
    struct slice name = database_bytes(database, all, PROJECT_NAME);
    uint64_t id = database_u64(database, all, PROJECT_ID);
    /* They come in the order of their ids, which differ and are positive as signed numbers. */
    if (id == 0 || id > INT64_MAX || machine->projects.count == LIMIT_PROJECTS ||
        name.size > LIMIT_PROJECT_NAME || projects_find(&machine->projects, name) != NULL) {
        return damaged(machine, error, "its list of projects cannot be");
    }
    struct project *project = projects_add(&machine->projects, name, id);
    project->epoch = database_u64(database, all, PROJECT_EPOCH);
    project->quota = database_u64(database, all, PROJECT_QUOTA);
    project->used_bytes = database_u64(database, all, PROJECT_USED_BYTES);
    project->keys = database_u64(database, all, PROJECT_KEYS);
    project->digest = database_u64(database, all, PROJECT_DIGEST);
    return ERROR_NONE;
}

static enum error_code load_projects(struct machine *machine, struct error *error) {
    for (;;) {
        bool found = false;
        enum error_code code =
            database_step(&machine->database, STATEMENT_PROJECT_ALL, &found, error);
        if (code != ERROR_NONE || !found) {
            return code;
        }
        code = load_project(machine, error);
        if (code != ERROR_NONE) {
            database_reset(&machine->database, STATEMENT_PROJECT_ALL);
            return code;
        }
    }
}

/* The totals of the meta row are redundant: a file put together from two others shows here. */
static enum error_code check_totals(struct machine *machine, struct error *error) {
    uint64_t keys = 0;
    uint64_t used_bytes = 0;
    uint64_t digest = 0;
    for (size_t i = 0; i < machine->projects.count; i++) {
        const struct project *project = machine->projects.by_id[i];
        keys += project->keys;
        used_bytes += project->used_bytes;
        digest += project->digest + digest_project(project->seed, project->quota);
    }
    digest += machine->once.digest;
    digest += machine->tokens.digest;
    if (keys != machine->state.keys || used_bytes != machine->state.used_bytes ||
        digest != machine->state.digest) {
        return damaged(machine, error,
                       "its projects, tokens and sessions do not add up to its totals");
    }
    return ERROR_NONE;
}

enum error_code machine_load(struct machine *machine, struct error *error) {
    enum error_code code = load_meta(machine, error);
    if (code == ERROR_NONE) {
        code = load_projects(machine, error);
    }
    if (code == ERROR_NONE) {
        code = once_load(machine, &machine->once, error);
    }
    if (code == ERROR_NONE) {
        code = tokens_load(machine, error);
    }
    if (code == ERROR_NONE) {
        code = check_totals(machine, error);
    }
    if (code == ERROR_NONE) {
        code =
            database_number(&machine->database, STATEMENT_GARBAGE_COUNT, &machine->garbage, error);
    }
    if (code == ERROR_NONE) {
        code = expiry_load(machine, error);
    }
    if (code == ERROR_NONE) {
        code = expiry_settle(machine, error);
    }
    if (code == ERROR_NONE && machine->state.next_expiry_ms != 0 &&
        machine->state.next_expiry_ms <= machine->state.clock_ms) {
        code = damaged(machine, error, "it holds rows that have expired");
    }
    machine->is_stale = code != ERROR_NONE;
    return code;
}

enum error_code machine_ready(struct machine *machine, struct error *error) {
    if (!machine->is_stale) {
        return ERROR_NONE;
    }
    struct machine_state before = machine->state;
    enum error_code code = machine_load(machine, error);
    if (code != ERROR_NONE) {
        machine->state = before;
    }
    return code;
}

enum error_code machine_begin(struct machine *machine, struct error *error) {
    if (machine->in_transaction) {
        return ERROR_NONE;
    }
    enum error_code code = database_run(&machine->database, STATEMENT_BEGIN, error);
    if (code == ERROR_NONE) {
        machine->in_transaction = true;
        machine->committed = machine->state;
    }
    return code;
}

void machine_rollback(struct machine *machine) {
    struct machine_state before = machine->in_transaction ? machine->committed : machine->state;
    database_rollback(&machine->database);
    machine->in_transaction = false;
    /* When this fails too, the next operation tries again. */
    (void)machine_load(machine, NULL);
    machine->state = before;
}

static enum error_code save_project(struct machine *machine, struct project *project,
                                    struct error *error) {
    struct database *database = &machine->database;
    enum statement statement = project->is_new ? STATEMENT_PROJECT_ADD : STATEMENT_PROJECT_PUT;
    int at = 1;
    database_bind_u64(database, statement, at++, project->id);
    if (project->is_new) {
        database_bind_bytes(database, statement, at++, project_name(project));
    }
    database_bind_u64(database, statement, at++, project->epoch);
    database_bind_u64(database, statement, at++, project->quota);
    database_bind_u64(database, statement, at++, project->used_bytes);
    database_bind_u64(database, statement, at++, project->keys);
    database_bind_u64(database, statement, at++, project->digest);
    project->is_new = false;
    return database_run(database, statement, error);
}

/* Writes the dirty projects and the meta row. */
static enum error_code save(struct machine *machine, struct error *error) {
    struct project *project;
    while ((project = projects_take_dirty(&machine->projects)) != NULL) {
        enum error_code code = save_project(machine, project, error);
        if (code != ERROR_NONE) {
            return code;
        }
    }
    enum error_code code = once_save(machine, error);
    if (code != ERROR_NONE) {
        return code;
    }
    struct database *database = &machine->database;
    const struct machine_state *state = &machine->state;
    database_bind_u64(database, STATEMENT_META_PUT, 1, state->applied_index);
    database_bind_u64(database, STATEMENT_META_PUT, 2, state->applied_term);
    database_bind_u64(database, STATEMENT_META_PUT, 3, state->clock_ms);
    database_bind_u64(database, STATEMENT_META_PUT, 4, state->digest);
    database_bind_u64(database, STATEMENT_META_PUT, 5, state->keys);
    database_bind_u64(database, STATEMENT_META_PUT, 6, state->used_bytes);
    database_bind_u64(database, STATEMENT_META_PUT, 7, (uint64_t)state->wall_offset_ms);
    return database_run(database, STATEMENT_META_PUT, error);
}

enum error_code machine_commit(struct machine *machine, struct error *error) {
    if (!machine->in_transaction) {
        return ERROR_NONE;
    }
    enum error_code code = save(machine, error);
    if (code == ERROR_NONE) {
        code = database_run(&machine->database, STATEMENT_COMMIT, error);
    }
    if (code != ERROR_NONE) {
        machine_rollback(machine);
        return code;
    }
    machine->in_transaction = false;
    return ERROR_NONE;
}

/* A fresh file must be in its directory, whole, before anybody relies on it. */
static enum error_code create(struct machine *machine, const struct machine_options *options,
                              struct error *error) {
    enum error_code code =
        database_create(&machine->database, options->cluster, options->shard, error);
    if (code == ERROR_NONE) {
        code = database_checkpoint(&machine->database, error);
    }
    if (code == ERROR_NONE) {
        code = files_sync_directory_of(options->path, error);
    }
    return code;
}

enum error_code machine_open(struct machine **machine, const struct machine_options *options,
                             struct error *error) {
    *machine = NULL;
    struct machine *opened = mem_zalloc(1, sizeof(*opened));
    struct database_options database = {
        .path = options->path,
        .vfs = options->vfs,
        .cache_bytes = options->cache_bytes,
    };
    bool is_new = false;
    enum error_code code = database_open(&opened->database, &database, &is_new, error);
    if (code == ERROR_NONE && is_new) {
        code = create(opened, options, error);
    }
    if (code == ERROR_NONE) {
        code = database_prepare(&opened->database, error);
    }
    if (code == ERROR_NONE) {
        code = machine_check_identity(opened, options, error);
    }
    if (code == ERROR_NONE) {
        code = machine_load(opened, error);
    }
    if (code != ERROR_NONE) {
        database_close(&opened->database, true);
        machine_close(opened);
        return code;
    }
    *machine = opened;
    return ERROR_NONE;
}

void machine_close(struct machine *machine) {
    if (machine == NULL) {
        return;
    }
    if (machine->in_transaction && machine_commit(machine, NULL) != ERROR_NONE) {
        database_rollback(&machine->database); /* the log has what is lost with it */
    }
    /* Somebody may still be reading the file of a held snapshot. */
    database_close(&machine->database, machine->holds > 0);
    projects_free(&machine->projects);
    once_free(&machine->once);
    tokens_free(&machine->tokens);
    scan_cursors_free(&machine->cursors);
    buffer_free(&machine->config);
    buffer_free(&machine->held_config);
    mem_free(machine);
}

void machine_set_wall_offset(struct machine *machine, int64_t offset_ms) {
    machine->state.wall_offset_ms = offset_ms;
}

struct machine_state machine_state(const struct machine *machine) {
    struct machine_state state = machine->state;
    state.has_garbage = machine->garbage > 0;
    state.sessions = machine->once.count;
    state.session_bytes = machine->once.bytes;
    return state;
}

void machine_record_events(struct machine *machine, struct machine_events *events) {
    machine->events = events;
}

struct slice machine_config(const struct machine *machine) {
    return buffer_slice(&machine->config);
}
