/* One SQLite file: how it is opened, the statements that the machine runs on it, its checkpoints,
 * and SQLite's errors in the project's terms. */
#ifndef NODE_MACHINE_DATABASE_H
#define NODE_MACHINE_DATABASE_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/error.h"

/* X(symbol, SQL). */
#define STATEMENT_LIST(X)                                                                          \
    X(STATEMENT_BEGIN, "BEGIN IMMEDIATE")                                                          \
    X(STATEMENT_BEGIN_READ, "BEGIN")                                                               \
    X(STATEMENT_COMMIT, "COMMIT")                                                                  \
    X(STATEMENT_ROLLBACK, "ROLLBACK")                                                              \
    X(STATEMENT_META_GET, "SELECT cluster, shard, applied_index, applied_term, clock, digest, "    \
                          "keys, used_bytes, config_index, config, last_project, wall_offset "     \
                          "FROM meta WHERE id = 1")                                                \
    X(STATEMENT_META_PUT, "UPDATE meta SET applied_index = ?1, applied_term = ?2, clock = ?3, "    \
                          "digest = ?4, keys = ?5, used_bytes = ?6, wall_offset = ?7 "             \
                          "WHERE id = 1")                                                          \
    X(STATEMENT_CONFIG_PUT, "UPDATE meta SET config_index = ?1, config = ?2 WHERE id = 1")         \
    X(STATEMENT_PROJECT_ALL, "SELECT id, name, epoch, quota, used_bytes, keys, digest "            \
                             "FROM projects ORDER BY id")                                          \
    X(STATEMENT_PROJECT_ADD, "INSERT INTO projects "                                               \
                             "(id, name, epoch, quota, used_bytes, keys, digest) "                 \
                             "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")                                \
    X(STATEMENT_PROJECT_PUT, "UPDATE projects SET epoch = ?2, quota = ?3, used_bytes = ?4, "       \
                             "keys = ?5, digest = ?6 WHERE id = ?1")                               \
    X(STATEMENT_PROJECT_REMOVE, "DELETE FROM projects WHERE id = ?1")                              \
    X(STATEMENT_LAST_PROJECT_PUT, "UPDATE meta SET last_project = ?1 WHERE id = 1")                \
    X(STATEMENT_TOKEN_ALL, "SELECT project, id, access, created, expires_at, salt, hash "          \
                           "FROM tokens ORDER BY project, id")                                     \
    X(STATEMENT_TOKEN_ADD, "INSERT INTO tokens "                                                   \
                           "(project, id, access, created, expires_at, salt, hash) "               \
                           "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")                                  \
    X(STATEMENT_TOKEN_REMOVE, "DELETE FROM tokens WHERE project = ?1 AND id = ?2")                 \
    X(STATEMENT_ROW_FIND, "SELECT expires_at, hash, size, large, version FROM kv "                 \
                          "WHERE project = ?1 AND epoch = ?2 AND key = ?3")                        \
    X(STATEMENT_ROW_GET, "SELECT expires_at, hash, size, large, version, value FROM kv "           \
                         "WHERE project = ?1 AND epoch = ?2 AND key = ?3")                         \
    X(STATEMENT_ROW_ADD, "INSERT INTO kv "                                                         \
                         "(project, epoch, key, version, expires_at, hash, size, large, value) "   \
                         "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")                            \
    X(STATEMENT_ROW_PUT, "UPDATE kv SET version = ?4, expires_at = ?5, hash = ?6, size = ?7, "     \
                         "large = ?8, value = ?9 "                                                 \
                         "WHERE project = ?1 AND epoch = ?2 AND key = ?3")                         \
    X(STATEMENT_ROW_TOUCH, "UPDATE kv SET version = ?4, expires_at = ?5, hash = ?6 "               \
                           "WHERE project = ?1 AND epoch = ?2 AND key = ?3")                       \
    X(STATEMENT_KEYS_AFTER, "SELECT key FROM kv WHERE project = ?1 AND epoch = ?2 AND key > ?3 "   \
                            "ORDER BY key")                                                        \
    X(STATEMENT_KEYS_FROM, "SELECT key FROM kv WHERE project = ?1 AND epoch = ?2 AND key >= ?3 "   \
                           "ORDER BY key")                                                         \
    X(STATEMENT_KEY_BEFORE, "SELECT key FROM kv WHERE project = ?1 AND epoch = ?2 AND key < ?3 "   \
                            "ORDER BY key DESC LIMIT 1")                                           \
    X(STATEMENT_KEY_LAST, "SELECT key FROM kv WHERE project = ?1 AND epoch = ?2 "                  \
                          "ORDER BY key DESC LIMIT 1")                                             \
    X(STATEMENT_ROW_REMOVE, "DELETE FROM kv WHERE project = ?1 AND epoch = ?2 AND key = ?3")       \
    X(STATEMENT_ROW_ALL, "SELECT project, epoch, key, expires_at, hash, size, large, value "       \
                         "FROM kv ORDER BY project, epoch, key")                                   \
    X(STATEMENT_LARGE_GET, "SELECT value FROM large WHERE id = ?1")                                \
    X(STATEMENT_LARGE_ADD, "INSERT INTO large (value) VALUES (?1)")                                \
    X(STATEMENT_LARGE_PUT, "UPDATE large SET value = ?2 WHERE id = ?1")                            \
    X(STATEMENT_LARGE_REMOVE, "DELETE FROM large WHERE id = ?1")                                   \
    X(STATEMENT_LARGE_COUNT, "SELECT count(*) FROM large")                                         \
    X(STATEMENT_EXPIRY_FIRST, "SELECT expires_at, key FROM kv INDEXED BY kv_expiry "               \
                              "WHERE project = ?1 AND epoch = ?2 AND expires_at > 0 "              \
                              "ORDER BY expires_at, key LIMIT 1")                                  \
    X(STATEMENT_EXPIRY_ALL, "SELECT project, epoch, expires_at, key "                              \
                            "FROM kv INDEXED BY kv_expiry WHERE expires_at > 0")                   \
    X(STATEMENT_GARBAGE_ADD, "INSERT INTO garbage (project, epoch) VALUES (?1, ?2)")               \
    X(STATEMENT_GARBAGE_FIRST, "SELECT project, epoch FROM garbage LIMIT 1")                       \
    X(STATEMENT_GARBAGE_HAS, "SELECT 1 FROM garbage WHERE project = ?1 AND epoch = ?2")            \
    X(STATEMENT_GARBAGE_COUNT, "SELECT count(*) FROM garbage")                                     \
    X(STATEMENT_GARBAGE_REMOVE, "DELETE FROM garbage WHERE project = ?1 AND epoch = ?2")           \
    X(STATEMENT_EPOCH_ROWS, "SELECT key, size, large FROM kv "                                     \
                            "WHERE project = ?1 AND epoch = ?2 ORDER BY key LIMIT ?3")             \
    X(STATEMENT_EPOCH_REMOVE_LARGE,                                                                \
      "DELETE FROM large WHERE id IN (SELECT large FROM kv "                                       \
      "WHERE project = ?1 AND epoch = ?2 AND key <= ?3 AND large > 0)")                            \
    X(STATEMENT_EPOCH_REMOVE, "DELETE FROM kv "                                                    \
                              "WHERE project = ?1 AND epoch = ?2 AND key <= ?3")                   \
    X(STATEMENT_SESSION_ALL, "SELECT number, id, ttl, expires_at, low FROM once_sessions "         \
                             "ORDER BY number")                                                    \
    X(STATEMENT_SESSION_ADD, "INSERT INTO once_sessions (id, ttl, expires_at, low) "               \
                             "VALUES (?1, ?2, ?3, ?4)")                                            \
    X(STATEMENT_SESSION_PUT, "UPDATE once_sessions SET expires_at = ?2, low = ?3 "                 \
                             "WHERE number = ?1")                                                  \
    X(STATEMENT_SESSION_REMOVE, "DELETE FROM once_sessions WHERE number = ?1")                     \
    X(STATEMENT_RESULTS_ALL, "SELECT id, session, chunk, results FROM once_results ORDER BY id")   \
    X(STATEMENT_RESULTS_ADD, "INSERT INTO once_results (session, chunk, results) "                 \
                             "VALUES (?1, ?2, ?3)")                                                \
    X(STATEMENT_RESULTS_PUT, "UPDATE once_results SET results = ?2 WHERE id = ?1")                 \
    X(STATEMENT_RESULTS_REMOVE, "DELETE FROM once_results WHERE id = ?1")

enum statement {
#define STATEMENT_ENUM(symbol, sql) symbol,
    STATEMENT_LIST(STATEMENT_ENUM)
#undef STATEMENT_ENUM
        STATEMENT_COUNT
};

/* Stays where it is from database_open() to database_close(). */
struct database {
    sqlite3 *handle;
    sqlite3_stmt *statements[STATEMENT_COUNT];
    char *path;
    uint64_t wal_bytes; /* written to the WAL since the last checkpoint */
};

struct database_options {
    const char *path;
    const char *vfs;
    uint64_t cache_bytes;
    bool read_only; /* the file as it is, without a WAL and without locks */
};

/* Opens the file, or creates it unless it is to be read only; *is_new tells that it holds nothing
 * yet and wants database_create(). On error nothing is left open. ERROR_LOCKED: another connection
 * has it; ERROR_CORRUPT: not one of our files; ERROR_VERSION: format of another release. */
enum error_code database_open(struct database *database, const struct database_options *options,
                              bool *is_new, struct error *error);
/* Writes the schema and the meta row. */
enum error_code database_create(struct database *database, const char *cluster, unsigned shard,
                                struct error *error);
enum error_code database_prepare(struct database *database, struct error *error);
/* Folds the WAL into the file first, unless `keep_wal`. Harmless on a zeroed struct. */
void database_close(struct database *database, bool keep_wal);

/* Runs a statement whose parameters are bound to its end and resets it. */
enum error_code database_run(struct database *database, enum statement statement,
                             struct error *error);
/* One step: *has_row is false at the end, and the statement is reset then and on error. */
enum error_code database_step(struct database *database, enum statement statement, bool *has_row,
                              struct error *error);
void database_reset(struct database *database, enum statement statement);
/* The only number that a statement without parameters answers. */
enum error_code database_number(struct database *database, enum statement statement,
                                uint64_t *number, struct error *error);
/* Runs SQL without parameters that nobody prepared. */
enum error_code database_execute(struct database *database, const char *sql, struct error *error);

/* Bytes that are bound must live until the statement is reset. */
void database_bind_u64(struct database *database, enum statement statement, int at, uint64_t value);
void database_bind_bytes(struct database *database, enum statement statement, int at,
                         struct slice bytes);
void database_bind_null(struct database *database, enum statement statement, int at);
/* Columns of the current row; bytes live until the next step or reset. */
uint64_t database_u64(const struct database *database, enum statement statement, int column);
struct slice database_bytes(const struct database *database, enum statement statement, int column);

/* Resets every statement that an error may have left in the middle. */
void database_reset_all(struct database *database);
/* False also when SQLite ended a transaction because of an error. */
bool database_in_transaction(const struct database *database);
/* Ends the transaction without effect, also when SQLite has already done so. */
void database_rollback(struct database *database);

/* Did the open transaction change more pages than the cache holds, since the last call? */
bool database_take_overflow(struct database *database);

/* The background part of a checkpoint, see machine_fold(). */
enum error_code database_fold(const char *path, uint64_t wal_bytes, bool *complete,
                              uint64_t *moved_bytes, struct error *error);

/* Moves the whole WAL into the file and syncs it; the next transaction starts the WAL anew. */
enum error_code database_checkpoint(struct database *database, struct error *error);
/* Walks every page: ERROR_CORRUPT when the file's structure is damaged. */
enum error_code database_check_pages(struct database *database, struct error *error);
uint64_t database_file_bytes(const struct database *database);

/* Error of SQLite's result code `rc`. A failed fsync does not return: what the kernel has then
 * dropped is unknown, and a later fsync would claim success. */
enum error_code database_error(const struct database *database, int rc, struct error *error);

#endif
