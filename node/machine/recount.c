/* Counting everything again from the rows. */
#include <inttypes.h>

#include "base/mem.h"
#include "node/machine/digest.h"
#include "node/machine/machine_internal.h"

enum {
    COLUMN_PROJECT,
    COLUMN_EPOCH,
    COLUMN_KEY,
    COLUMN_EXPIRES_AT,
    COLUMN_HASH,
    COLUMN_SIZE,
    COLUMN_LARGE,
    COLUMN_VALUE
};

/* Sums over the live rows of a project. */
struct sums {
    uint64_t keys;
    uint64_t used_bytes;
    uint64_t digest;
};

struct recount {
    struct machine *machine;
    struct sums *projects; /* in the order of machine->projects.by_id */
    uint64_t large_rows;   /* rows whose value stands in `large`, garbage included */
    uint64_t expiring_sum; /* of hash_expiring() over all rows that expire, garbage included */
    uint64_t next_expiry_ms;
    struct buffer large;
};

static uint64_t column(const struct recount *recount, int at) {
    return database_u64(&recount->machine->database, STATEMENT_ROW_ALL, at);
}

static enum error_code differs(const struct recount *recount, struct error *error, const char *what,
                               uint64_t counted, uint64_t kept) {
    return error_set(error, ERROR_CORRUPT,
                     "%s is damaged: %s: %" PRIu64 " by recount, %" PRIu64
                     " on record; rebuild it from its peers",
                     recount->machine->database.path, what, counted, kept);
}

static uint64_t hash_expiring(uint64_t project, uint64_t epoch, uint64_t expires_at_ms,
                              struct slice key) {
    return digest_bytes(digest_mix(project) ^ digest_mix(epoch ^ digest_mix(expires_at_ms)), key);
}

static enum error_code value_of_row(struct recount *recount, struct slice *value,
                                    struct error *error) {
    struct database *database = &recount->machine->database;
    uint64_t large = column(recount, COLUMN_LARGE);
    if (large == 0) {
        *value = database_bytes(database, STATEMENT_ROW_ALL, COLUMN_VALUE);
        return ERROR_NONE;
    }
    recount->large_rows++;
    database_bind_u64(database, STATEMENT_LARGE_GET, 1, large);
    bool found = false;
    enum error_code code = database_step(database, STATEMENT_LARGE_GET, &found, error);
    if (code == ERROR_NONE && !found) {
        return differs(recount, error, "a large value is missing", 0, 1);
    }
    if (code == ERROR_NONE) {
        recount->large.size = 0;
        buffer_append_slice(&recount->large, database_bytes(database, STATEMENT_LARGE_GET, 0));
        database_reset(database, STATEMENT_LARGE_GET);
        *value = buffer_slice(&recount->large);
    }
    return code;
}

static enum error_code check_garbage(struct recount *recount, struct error *error) {
    struct database *database = &recount->machine->database;
    database_bind_u64(database, STATEMENT_GARBAGE_HAS, 1, column(recount, COLUMN_PROJECT));
    database_bind_u64(database, STATEMENT_GARBAGE_HAS, 2, column(recount, COLUMN_EPOCH));
    bool found = false;
    enum error_code code = database_step(database, STATEMENT_GARBAGE_HAS, &found, error);
    if (code == ERROR_NONE && !found) {
        return differs(recount, error, "a row belongs to no epoch", 1, 0);
    }
    database_reset(database, STATEMENT_GARBAGE_HAS);
    return code;
}

static enum error_code count_expiry(struct recount *recount, struct error *error) {
    uint64_t expires_at_ms = column(recount, COLUMN_EXPIRES_AT);
    if (expires_at_ms == 0) {
        return ERROR_NONE;
    }
    if (expires_at_ms <= recount->machine->state.clock_ms) {
        return differs(recount, error, "a row outlived its expiry", expires_at_ms,
                       recount->machine->state.clock_ms);
    }
    if (recount->next_expiry_ms == 0 || expires_at_ms < recount->next_expiry_ms) {
        recount->next_expiry_ms = expires_at_ms;
    }
    return ERROR_NONE;
}

static enum error_code count_row(struct recount *recount, struct error *error) {
    struct slice value = {0};
    struct slice key = database_bytes(&recount->machine->database, STATEMENT_ROW_ALL, COLUMN_KEY);
    if (column(recount, COLUMN_EXPIRES_AT) != 0) {
        recount->expiring_sum +=
            hash_expiring(column(recount, COLUMN_PROJECT), column(recount, COLUMN_EPOCH),
                          column(recount, COLUMN_EXPIRES_AT), key);
    }
    enum error_code code = value_of_row(recount, &value, error);
    if (code != ERROR_NONE) {
        return code;
    }
    const struct project *project =
        projects_by_id(&recount->machine->projects, column(recount, COLUMN_PROJECT));
    if (project == NULL || project->epoch != column(recount, COLUMN_EPOCH)) {
        return check_garbage(recount, error);
    }
    uint64_t hash = digest_row(project->seed, key, value, column(recount, COLUMN_EXPIRES_AT));
    if (hash != column(recount, COLUMN_HASH)) {
        return differs(recount, error, "checksum of a value", hash, column(recount, COLUMN_HASH));
    }
    if (value.size != column(recount, COLUMN_SIZE)) {
        return differs(recount, error, "size of a value", value.size, column(recount, COLUMN_SIZE));
    }
    struct sums *sums =
        &recount->projects[projects_place_after(&recount->machine->projects, project->id - 1)];
    sums->keys++;
    sums->used_bytes += key.size + value.size;
    sums->digest += hash;
    return count_expiry(recount, error);
}

static enum error_code count_rows(struct recount *recount, struct error *error) {
    struct database *database = &recount->machine->database;
    for (;;) {
        bool found = false;
        enum error_code code = database_step(database, STATEMENT_ROW_ALL, &found, error);
        if (code != ERROR_NONE || !found) {
            return code;
        }
        code = count_row(recount, error);
        if (code != ERROR_NONE) {
            database_reset(database, STATEMENT_ROW_ALL);
            return code;
        }
    }
}

static enum error_code compare_projects(const struct recount *recount, struct error *error) {
    const struct machine *machine = recount->machine;
    struct sums total = {0};
    for (size_t i = 0; i < machine->projects.count; i++) {
        const struct project *project = machine->projects.by_id[i];
        const struct sums *sums = &recount->projects[i];
        if (sums->keys != project->keys) {
            return differs(recount, error, "keys of a project", sums->keys, project->keys);
        }
        if (sums->used_bytes != project->used_bytes) {
            return differs(recount, error, "bytes of a project", sums->used_bytes,
                           project->used_bytes);
        }
        if (sums->digest != project->digest) {
            return differs(recount, error, "digest of a project", sums->digest, project->digest);
        }
        total.keys += sums->keys;
        total.used_bytes += sums->used_bytes;
        total.digest += sums->digest + digest_project(project->seed, project->quota);
    }
    if (total.keys != machine->state.keys) {
        return differs(recount, error, "keys", total.keys, machine->state.keys);
    }
    if (total.used_bytes != machine->state.used_bytes) {
        return differs(recount, error, "bytes", total.used_bytes, machine->state.used_bytes);
    }
    total.digest += machine->once.digest;
    total.digest += machine->tokens.digest;
    if (total.digest != machine->state.digest) {
        return differs(recount, error, "digest", total.digest, machine->state.digest);
    }
    return ERROR_NONE;
}

/* The expiry index names the same rows as the table does. */
static enum error_code compare_index(const struct recount *recount, struct error *error) {
    struct database *database = &recount->machine->database;
    const enum statement all = STATEMENT_EXPIRY_ALL;
    uint64_t sum = 0;
    for (;;) {
        bool found = false;
        enum error_code code = database_step(database, all, &found, error);
        if (code != ERROR_NONE) {
            return code;
        }
        if (!found) {
            break;
        }
        sum += hash_expiring(database_u64(database, all, 0), database_u64(database, all, 1),
                             database_u64(database, all, 2), database_bytes(database, all, 3));
    }
    if (recount->expiring_sum != sum) {
        return differs(recount, error, "digest of the expiry index", recount->expiring_sum, sum);
    }
    uint64_t token_expiry_ms = 0;
    enum error_code code = tokens_recount(recount->machine, &token_expiry_ms, error);
    uint64_t next_ms =
        expiry_earlier(recount->next_expiry_ms,
                       expiry_earlier(once_next_expiry(&recount->machine->once), token_expiry_ms));
    if (code == ERROR_NONE && next_ms != recount->machine->state.next_expiry_ms) {
        return differs(recount, error, "next expiry", next_ms,
                       recount->machine->state.next_expiry_ms);
    }
    return code;
}

static enum error_code compare_large(const struct recount *recount, struct error *error) {
    uint64_t large_rows = 0;
    uint64_t large_results = 0;
    enum error_code code = once_recount(recount->machine, &large_results, error);
    if (code != ERROR_NONE) {
        return code;
    }
    code = database_number(&recount->machine->database, STATEMENT_LARGE_COUNT, &large_rows, error);
    if (code == ERROR_NONE && recount->large_rows + large_results != large_rows) {
        return differs(recount, error, "large values", recount->large_rows + large_results,
                       large_rows);
    }
    return code;
}

enum error_code machine_recount(struct machine *machine, struct error *error) {
    enum error_code code = machine_commit(machine, error);
    if (code == ERROR_NONE) {
        code = machine_ready(machine, error);
    }
    if (code != ERROR_NONE) {
        return code;
    }
    struct recount recount = {
        .machine = machine,
        .projects = mem_zalloc(machine->projects.count, sizeof(struct sums)),
    };
    code = count_rows(&recount, error);
    if (code == ERROR_NONE) {
        code = compare_projects(&recount, error);
    }
    if (code == ERROR_NONE) {
        code = compare_large(&recount, error);
    }
    if (code == ERROR_NONE) {
        code = compare_index(&recount, error);
    }
    mem_free(recount.projects);
    buffer_free(&recount.large);
    return code;
}
