#include "node/machine/database.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/limits.h"
#include "base/mem.h"
#include "node/machine/wal_vfs.h"

enum {
    APPLICATION_ID = 0x494b5653, /* "IKVS", invoke-kv shard */
    FORMAT_VERSION = 2
};

/* The default VFS of connections that write. */
static const char gathering_vfs[] = "invoke-kv";

/* Small values stand inline in kv, larger ones in `large`; docs/state-machine.md has the reasons.
 */
static const char schema[] =
    "CREATE TABLE meta (id INTEGER PRIMARY KEY, cluster TEXT NOT NULL, shard INTEGER NOT NULL,"
    " applied_index INTEGER NOT NULL, applied_term INTEGER NOT NULL, clock INTEGER NOT NULL,"
    " digest INTEGER NOT NULL, keys INTEGER NOT NULL, used_bytes INTEGER NOT NULL,"
    " config_index INTEGER NOT NULL, config BLOB NOT NULL, last_project INTEGER NOT NULL,"
    " wall_offset INTEGER NOT NULL);"
    "CREATE TABLE projects (id INTEGER PRIMARY KEY, name BLOB NOT NULL, epoch INTEGER NOT NULL,"
    " quota INTEGER NOT NULL, used_bytes INTEGER NOT NULL, keys INTEGER NOT NULL,"
    " digest INTEGER NOT NULL);"
    "CREATE TABLE tokens (project INTEGER NOT NULL, id INTEGER NOT NULL, access INTEGER NOT NULL,"
    " created INTEGER NOT NULL, expires_at INTEGER NOT NULL, salt BLOB NOT NULL,"
    " hash BLOB NOT NULL, PRIMARY KEY (project, id)) WITHOUT ROWID;"
    "CREATE TABLE garbage (project INTEGER NOT NULL, epoch INTEGER NOT NULL,"
    " PRIMARY KEY (project, epoch)) WITHOUT ROWID;"
    "CREATE TABLE kv (project INTEGER NOT NULL, epoch INTEGER NOT NULL, key BLOB NOT NULL,"
    " version INTEGER NOT NULL, expires_at INTEGER NOT NULL, hash INTEGER NOT NULL,"
    " size INTEGER NOT NULL, large INTEGER NOT NULL, value BLOB,"
    " PRIMARY KEY (project, epoch, key)) WITHOUT ROWID;"
    "CREATE INDEX kv_expiry ON kv (project, epoch, expires_at, key) WHERE expires_at > 0;"
    "CREATE TABLE large (id INTEGER PRIMARY KEY, value BLOB NOT NULL);"
    "CREATE TABLE once_sessions (number INTEGER PRIMARY KEY, id BLOB NOT NULL,"
    " ttl INTEGER NOT NULL, expires_at INTEGER NOT NULL, low INTEGER NOT NULL);"
    "CREATE TABLE once_results (id INTEGER PRIMARY KEY, session INTEGER NOT NULL,"
    " chunk INTEGER NOT NULL, results BLOB NOT NULL);";

static const char *const statement_sql[STATEMENT_COUNT] = {
#define STATEMENT_SQL(symbol, sql) sql,
    STATEMENT_LIST(STATEMENT_SQL)
#undef STATEMENT_SQL
};

enum error_code database_error(const struct database *database, int rc, struct error *error) {
    int primary = rc & 0xff;
    int system_errno = database->handle != NULL ? sqlite3_system_errno(database->handle) : 0;
    if (rc == SQLITE_IOERR_FSYNC || rc == SQLITE_IOERR_DIR_FSYNC) {
        assert_fatal("fsync of %s failed (%s): what reached the disk is unknown; check the disk "
                     "and start again",
                     database->path, strerror(system_errno));
    }
    if (primary == SQLITE_FULL) {
        return error_set(error, ERROR_NOSPACE, "%s: no space left on disk", database->path);
    }
    if (primary == SQLITE_CORRUPT || primary == SQLITE_NOTADB) {
        return error_set(error, ERROR_CORRUPT, "%s is damaged: %s; rebuild it from its peers",
                         database->path, sqlite3_errstr(rc));
    }
    if (primary == SQLITE_BUSY || primary == SQLITE_LOCKED) {
        return error_set(error, ERROR_LOCKED, "%s is in use by another process", database->path);
    }
    if (primary == SQLITE_NOMEM) {
        return error_set(error, ERROR_NOMEM, "%s: out of memory", database->path);
    }
    bool is_system = primary == SQLITE_IOERR || primary == SQLITE_CANTOPEN;
    if (is_system && system_errno != 0) {
        return error_set_errno(error, system_errno, "%s: %s", database->path, sqlite3_errstr(rc));
    }
    return error_set(error, ERROR_IO, "%s: %s", database->path, sqlite3_errstr(rc));
}

/* SQLite's allocation statistics take one mutex for the whole process, which the machines' threads
 * would meet at. */
static void configure_sqlite(void) {
    static struct wal_vfs gathering;
    (void)sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
    int rc = wal_vfs_register(&gathering, gathering_vfs, NULL);
    ASSERT(rc == SQLITE_OK);
}

/* Path as a URI that tells SQLite to take the file as it is; mem_free() it. */
static char *immutable_uri(const char *path) {
    struct buffer uri = {0};
    buffer_append_slice(&uri, slice_of("file:"));
    for (const char *c = path; *c != '\0'; c++) {
        if (strchr("%?#", *c) != NULL) {
            char escaped[4];
            snprintf(escaped, sizeof(escaped), "%%%02X", (unsigned)(unsigned char)*c);
            buffer_append_slice(&uri, slice_of(escaped));
        } else {
            buffer_put_u8(&uri, (uint8_t)*c);
        }
    }
    static const char query[] = "?immutable=1";
    buffer_append(&uri, query, sizeof(query));
    return (char *)uri.data;
}

static int open_handle(struct database *database, const struct database_options *options) {
    if (!options->read_only) {
        return sqlite3_open_v2(options->path, &database->handle,
                               SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX |
                                   SQLITE_OPEN_EXRESCODE,
                               options->vfs != NULL ? options->vfs : gathering_vfs);
    }
    char *uri = immutable_uri(options->path);
    int rc = sqlite3_open_v2(uri, &database->handle,
                             SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX |
                                 SQLITE_OPEN_EXRESCODE,
                             options->vfs);
    mem_free(uri);
    return rc;
}

enum error_code database_execute(struct database *database, const char *sql, struct error *error) {
    int rc = sqlite3_exec(database->handle, sql, NULL, NULL, NULL);
    return rc == SQLITE_OK ? ERROR_NONE : database_error(database, rc, error);
}

/* First column of the first row that `sql` answers. */
static enum error_code query_number(struct database *database, const char *sql, int64_t *number,
                                    struct error *error) {
    sqlite3_stmt *statement = NULL;
    int rc = sqlite3_prepare_v2(database->handle, sql, -1, &statement, NULL);
    if (rc == SQLITE_OK) {
        rc = sqlite3_step(statement);
    }
    if (rc == SQLITE_ROW) {
        *number = sqlite3_column_int64(statement, 0);
    }
    sqlite3_finalize(statement);
    return rc == SQLITE_ROW ? ERROR_NONE : database_error(database, rc, error);
}

/* Settings that live in the connection. A VFS of a test's own has no shared memory: there an
 * exclusive lock, taken before anything is read, keeps the WAL index in the process. */
static enum error_code configure_connection(struct database *database,
                                            const struct database_options *options,
                                            struct error *error) {
    char cache[64];
    snprintf(cache, sizeof(cache), "PRAGMA cache_size = -%llu",
             (unsigned long long)(options->cache_bytes / KIB + 1));
    (void)sqlite3_db_config(database->handle, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    enum error_code code = ERROR_NONE;
    if (options->vfs != NULL) {
        code = database_execute(database, "PRAGMA locking_mode = EXCLUSIVE", error);
    }
    if (code != ERROR_NONE) {
        return code;
    }
    code = database_execute(database,
                            "PRAGMA page_size = 4096;"
                            "PRAGMA auto_vacuum = NONE;"
                            "PRAGMA mmap_size = 0;"
                            "PRAGMA temp_store = MEMORY;"
                            "PRAGMA secure_delete = OFF;"
                            "PRAGMA foreign_keys = OFF;"
                            "PRAGMA trusted_schema = OFF;"
                            "PRAGMA cell_size_check = ON;"
                            "PRAGMA synchronous = NORMAL;"
                            "PRAGMA journal_size_limit = 67108864;",
                            error);
    return code != ERROR_NONE ? code : database_execute(database, cache, error);
}

static enum error_code check_format(struct database *database, bool *is_new, struct error *error) {
    int64_t application_id = 0;
    int64_t version = 0;
    int64_t tables = 0;
    enum error_code code =
        query_number(database, "SELECT count(*) FROM sqlite_schema", &tables, error);
    if (code == ERROR_NONE) {
        code = query_number(database, "PRAGMA application_id", &application_id, error);
    }
    if (code == ERROR_NONE) {
        code = query_number(database, "PRAGMA user_version", &version, error);
    }
    if (code != ERROR_NONE) {
        return code;
    }
    *is_new = tables == 0 && application_id == 0 && version == 0;
    if (*is_new) {
        return ERROR_NONE;
    }
    if (application_id != APPLICATION_ID) {
        return error_set(error, ERROR_CORRUPT, "%s is not a shard of invoke-kv", database->path);
    }
    if (version != FORMAT_VERSION) {
        return error_set(error, ERROR_VERSION,
                         "%s has format %lld, this release reads format %d; start the release that "
                         "wrote it",
                         database->path, (long long)version, FORMAT_VERSION);
    }
    return ERROR_NONE;
}

static uint64_t size_of_file(const struct database *database, int which) {
    sqlite3_file *file = NULL;
    sqlite3_int64 size = 0;
    int rc = sqlite3_file_control(database->handle, "main", which, &file);
    if (rc != SQLITE_OK || file == NULL || file->pMethods == NULL ||
        file->pMethods->xFileSize(file, &size) != SQLITE_OK) {
        return 0;
    }
    return (uint64_t)size;
}

static int note_wal_size(void *context, sqlite3 *handle, const char *name, int frames) {
    (void)handle;
    (void)name;
    struct database *database = context;
    database->wal_bytes = (uint64_t)frames * (WAL_PAGE_SIZE + WAL_FRAME_HEADER_SIZE);
    return SQLITE_OK;
}

/* SQLite's own hook would checkpoint every thousand pages, at a time of its choosing. */
static enum error_code enter_wal_mode(struct database *database, struct error *error) {
    enum error_code code = database_execute(database, "PRAGMA journal_mode = WAL", error);
    if (code != ERROR_NONE) {
        return code;
    }
    (void)sqlite3_wal_hook(database->handle, note_wal_size, database);
    database->wal_bytes = size_of_file(database, SQLITE_FCNTL_JOURNAL_POINTER);
    return ERROR_NONE;
}

enum error_code database_open(struct database *database, const struct database_options *options,
                              bool *is_new, struct error *error) {
    static pthread_once_t configured = PTHREAD_ONCE_INIT;
    pthread_once(&configured, configure_sqlite);
    *database = (struct database){.path = mem_strdup(options->path)};
    *is_new = false;
    int rc = open_handle(database, options);
    enum error_code code = rc == SQLITE_OK ? ERROR_NONE : database_error(database, rc, error);
    if (code == ERROR_NONE) {
        code = configure_connection(database, options, error);
    }
    if (code == ERROR_NONE) {
        code = check_format(database, is_new, error);
    }
    if (code == ERROR_NONE && !options->read_only) {
        code = enter_wal_mode(database, error);
    }
    if (code != ERROR_NONE) {
        database_close(database, true);
    }
    return code;
}

static enum error_code insert_meta(struct database *database, const char *cluster, unsigned shard,
                                   struct error *error) {
    char *sql =
        sqlite3_mprintf("PRAGMA application_id = %d; PRAGMA user_version = %d;"
                        "INSERT INTO meta VALUES (1, %Q, %u, 0, 0, 0, 0, 0, 0, 0, x'', 0, 0)",
                        APPLICATION_ID, FORMAT_VERSION, cluster, shard);
    if (sql == NULL) {
        return database_error(database, SQLITE_NOMEM, error);
    }
    enum error_code code = database_execute(database, sql, error);
    sqlite3_free(sql);
    return code;
}

enum error_code database_create(struct database *database, const char *cluster, unsigned shard,
                                struct error *error) {
    enum error_code code = database_execute(database, "BEGIN IMMEDIATE", error);
    if (code == ERROR_NONE) {
        code = database_execute(database, schema, error);
    }
    if (code == ERROR_NONE) {
        code = insert_meta(database, cluster, shard, error);
    }
    if (code == ERROR_NONE) {
        code = database_execute(database, "COMMIT", error);
    }
    return code;
}

enum error_code database_prepare(struct database *database, struct error *error) {
    for (int i = 0; i < STATEMENT_COUNT; i++) {
        int rc = sqlite3_prepare_v3(database->handle, statement_sql[i], -1,
                                    SQLITE_PREPARE_PERSISTENT, &database->statements[i], NULL);
        /* The SQL is fixed: when it does not compile, the file's schema is not ours. */
        if (rc == SQLITE_ERROR) {
            return error_set(error, ERROR_CORRUPT, "%s has a damaged schema: %s", database->path,
                             sqlite3_errmsg(database->handle));
        }
        if (rc != SQLITE_OK) {
            return database_error(database, rc, error);
        }
    }
    return ERROR_NONE;
}

void database_close(struct database *database, bool keep_wal) {
    for (int i = 0; i < STATEMENT_COUNT; i++) {
        sqlite3_finalize(database->statements[i]);
    }
    if (keep_wal && database->handle != NULL) {
        (void)sqlite3_db_config(database->handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    }
    int rc = sqlite3_close(database->handle);
    ASSERT(rc == SQLITE_OK);
    mem_free(database->path);
    *database = (struct database){0};
}

enum error_code database_run(struct database *database, enum statement statement,
                             struct error *error) {
    sqlite3_stmt *prepared = database->statements[statement];
    int rc = sqlite3_step(prepared);
    if (rc != SQLITE_DONE && rc != SQLITE_ROW) {
        enum error_code code = database_error(database, rc, error);
        sqlite3_reset(prepared);
        return code;
    }
    sqlite3_reset(prepared);
    return ERROR_NONE;
}

enum error_code database_step(struct database *database, enum statement statement, bool *has_row,
                              struct error *error) {
    sqlite3_stmt *prepared = database->statements[statement];
    int rc = sqlite3_step(prepared);
    *has_row = rc == SQLITE_ROW;
    if (rc == SQLITE_ROW) {
        return ERROR_NONE;
    }
    enum error_code code = rc == SQLITE_DONE ? ERROR_NONE : database_error(database, rc, error);
    sqlite3_reset(prepared);
    return code;
}

void database_reset(struct database *database, enum statement statement) {
    sqlite3_reset(database->statements[statement]);
}

enum error_code database_number(struct database *database, enum statement statement,
                                uint64_t *number, struct error *error) {
    bool has_row = false;
    enum error_code code = database_step(database, statement, &has_row, error);
    if (code == ERROR_NONE) {
        ASSERT(has_row);
        *number = database_u64(database, statement, 0);
        database_reset(database, statement);
    }
    return code;
}

/* Binding fails only for a wrong parameter number, a statement in use or a value beyond SQLite's
 * size limit, none of which depends on input. */
void database_bind_u64(struct database *database, enum statement statement, int at,
                       uint64_t value) {
    int rc = sqlite3_bind_int64(database->statements[statement], at, (int64_t)value);
    ASSERT(rc == SQLITE_OK);
}

void database_bind_bytes(struct database *database, enum statement statement, int at,
                         struct slice bytes) {
    /* A NULL pointer would bind NULL instead of an empty blob. */
    const void *data = bytes.size > 0 ? (const void *)bytes.data : "";
    int rc =
        sqlite3_bind_blob64(database->statements[statement], at, data, bytes.size, SQLITE_STATIC);
    ASSERT(rc == SQLITE_OK);
}

void database_bind_null(struct database *database, enum statement statement, int at) {
    int rc = sqlite3_bind_null(database->statements[statement], at);
    ASSERT(rc == SQLITE_OK);
}

uint64_t database_u64(const struct database *database, enum statement statement, int column) {
    return (uint64_t)sqlite3_column_int64(database->statements[statement], column);
}

struct slice database_bytes(const struct database *database, enum statement statement, int column) {
    sqlite3_stmt *prepared = database->statements[statement];
    const void *data = sqlite3_column_blob(prepared, column);
    int size = data != NULL ? sqlite3_column_bytes(prepared, column) : 0;
    return slice_make(data, (size_t)size);
}

void database_reset_all(struct database *database) {
    for (int i = 0; i < STATEMENT_COUNT; i++) {
        sqlite3_reset(database->statements[i]);
    }
}

bool database_in_transaction(const struct database *database) {
    return !sqlite3_get_autocommit(database->handle);
}

bool database_take_overflow(struct database *database) {
    int spilled = 0;
    int highest = 0;
    int rc =
        sqlite3_db_status(database->handle, SQLITE_DBSTATUS_CACHE_SPILL, &spilled, &highest, 1);
    return rc == SQLITE_OK && spilled > 0;
}

void database_rollback(struct database *database) {
    database_reset_all(database);
    if (database_in_transaction(database)) {
        (void)database_run(database, STATEMENT_ROLLBACK, NULL);
    }
    ASSERT(!database_in_transaction(database));
}

enum error_code database_checkpoint(struct database *database, struct error *error) {
    int rc =
        sqlite3_wal_checkpoint_v2(database->handle, "main", SQLITE_CHECKPOINT_RESTART, NULL, NULL);
    if (rc != SQLITE_OK) {
        enum error_code code = database_error(database, rc, error);
        error_wrap(error, "checkpoint");
        return code;
    }
    database->wal_bytes = 0;
    return ERROR_NONE;
}

/* A checkpoint that waits for nobody stops at the frame where the machine's running transaction
 * began: hence the question how far it got, rather than whether all was moved. When the WAL was
 * started anew since the question was put, everything of before is in the file. */
static bool fold_reached(int frames, int moved, uint64_t wal_bytes) {
    return frames >= 0 && (moved == frames ||
                           (uint64_t)moved * (WAL_PAGE_SIZE + WAL_FRAME_HEADER_SIZE) >= wal_bytes);
}

enum error_code database_fold(const char *path, uint64_t wal_bytes, bool *complete,
                              uint64_t *moved_bytes, struct error *error) {
    int frames = -1;
    int moved = -1;
    struct database database = {.path = mem_strdup(path)};
    int rc =
        sqlite3_open_v2(path, &database.handle,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, NULL);
    if (rc == SQLITE_OK) {
        /* A connection finds out about the WAL with its first read. */
        rc = sqlite3_exec(database.handle, "SELECT 1 FROM meta", NULL, NULL, NULL);
    }
    if (rc == SQLITE_OK) {
        rc = sqlite3_wal_checkpoint_v2(database.handle, "main", SQLITE_CHECKPOINT_PASSIVE, &frames,
                                       &moved);
    }
    *complete = rc == SQLITE_OK && fold_reached(frames, moved, wal_bytes);
    *moved_bytes = rc == SQLITE_OK && moved > 0
                       ? (uint64_t)moved * (WAL_PAGE_SIZE + WAL_FRAME_HEADER_SIZE)
                       : 0;
    enum error_code code = rc == SQLITE_OK ? ERROR_NONE : database_error(&database, rc, error);
    database_close(&database, true);
    return code;
}

enum error_code database_check_pages(struct database *database, struct error *error) {
    sqlite3_stmt *statement = NULL;
    int rc = sqlite3_prepare_v2(database->handle, "PRAGMA quick_check(1)", -1, &statement, NULL);
    if (rc == SQLITE_OK) {
        rc = sqlite3_step(statement);
    }
    enum error_code code = ERROR_NONE;
    if (rc != SQLITE_ROW) {
        code = database_error(database, rc, error);
    } else if (strcmp((const char *)sqlite3_column_text(statement, 0), "ok") != 0) {
        code = error_set(error, ERROR_CORRUPT, "%s is damaged: %s; rebuild it from its peers",
                         database->path, (const char *)sqlite3_column_text(statement, 0));
    }
    sqlite3_finalize(statement);
    return code;
}

uint64_t database_file_bytes(const struct database *database) {
    return size_of_file(database, SQLITE_FCNTL_FILE_POINTER);
}
