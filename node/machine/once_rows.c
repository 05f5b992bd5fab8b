/* Sessions of exactly-once writes in the database.
 *
 * A row of once_results holds the results of one chunk, in the order of their numbers:
 *
 *     u8   place in the chunk
 *     u64  hash, see once_hash()
 *     u32  size of the encoded result
 *     ...  up to ONCE_APART_MAX: the encoded result; else u64, its row in `large`
 *
 * Results below the session's `low` are forgotten, though they may stand in a row until it is
 * written again for another reason: a client that says DONE with every write would have two rows
 * written each time. */
#include <inttypes.h>

#include "base/assert.h"
#include "base/limits.h"
#include "base/mem.h"
#include "node/machine/machine_internal.h"

enum { SESSION_NUMBER, SESSION_ID, SESSION_TTL, SESSION_EXPIRES_AT, SESSION_LOW };
enum { RESULTS_ID, RESULTS_SESSION, RESULTS_CHUNK, RESULTS_RESULTS };

static enum error_code damaged(const struct machine *machine, struct error *error,
                               const char *what) {
    return error_set(error, ERROR_CORRUPT, "%s is damaged: %s; rebuild it from its peers",
                     machine->database.path, what);
}

/* --- loading ---------------------------------------------------------------------------------- */

/* Sessions in the order of their rows, to find those that rows of results belong to. */
struct loading {
    struct machine *machine;
    struct once *once;
    struct once_session **by_row;
    size_t count;
};

static enum error_code load_session(struct loading *loading, struct error *error) {
    struct database *database = &loading->machine->database;
    const enum statement all = STATEMENT_SESSION_ALL;
    struct slice id = database_bytes(database, all, SESSION_ID);
    uint64_t expires_at_ms = database_u64(database, all, SESSION_EXPIRES_AT);
    uint64_t low = database_u64(database, all, SESSION_LOW);
    if (id.size != COMMAND_SESSION_SIZE || expires_at_ms == 0 || low == 0 || low > INT64_MAX ||
        loading->count == LIMIT_ONCE_SESSIONS || once_find(loading->once, id) != NULL) {
        return damaged(loading->machine, error, "a session is not as it was written");
    }
    struct once_session *session =
        once_add(loading->once, id, database_u64(database, all, SESSION_TTL), expires_at_ms, low);
    session->row = database_u64(database, all, SESSION_NUMBER);
    loading->by_row[loading->count++] = session;
    return ERROR_NONE;
}

static struct once_session *find_by_row(const struct loading *loading, uint64_t row) {
    size_t low = 0;
    size_t high = loading->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (loading->by_row[middle]->row < row) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < loading->count && loading->by_row[low]->row == row ? loading->by_row[low] : NULL;
}

/* Puts one result of a row in its place; false when it is not as it was written. */
static bool load_result(struct once *once, struct once_session *session, struct once_chunk *chunk,
                        struct reader *reader) {
    unsigned place = reader_u8(reader);
    uint64_t hash = reader_u64(reader);
    uint32_t size = reader_u32(reader);
    struct slice encoded = {.size = size};
    uint64_t large = 0;
    if (size > ONCE_APART_MAX) {
        large = reader_u64(reader);
    } else {
        encoded = reader_take(reader, size);
    }
    if (reader->failed || place >= ONCE_CHUNK || size == 0 || chunk->results[place].size > 0) {
        return false;
    }
    uint64_t sequence = chunk->number * ONCE_CHUNK + place;
    bool is_whole =
        size > ONCE_APART_MAX ? large != 0 : once_hash(session, sequence, encoded) == hash;
    if (!is_whole || (sequence >= session->low && sequence - session->low >= LIMIT_ONCE_WINDOW)) {
        return false;
    }
    if (sequence < session->low) {
        return true;
    }
    once_put(once, session, chunk, place, hash, encoded, large);
    return true;
}

static enum error_code load_chunk(struct loading *loading, struct error *error) {
    struct machine *machine = loading->machine;
    struct database *database = &machine->database;
    const enum statement all = STATEMENT_RESULTS_ALL;
    struct once_session *session =
        find_by_row(loading, database_u64(database, all, RESULTS_SESSION));
    uint64_t number = database_u64(database, all, RESULTS_CHUNK);
    struct reader reader = reader_make(database_bytes(database, all, RESULTS_RESULTS));
    if (session == NULL || number > INT64_MAX / ONCE_CHUNK || reader.rest.size == 0 ||
        once_find_chunk(session, number) != NULL) {
        return damaged(machine, error, "kept results belong to no session");
    }
    struct once_chunk *chunk = once_make_chunk(loading->once, session, number);
    chunk->row = database_u64(database, all, RESULTS_ID);
    while (reader.rest.size > 0) {
        if (!load_result(loading->once, session, chunk, &reader)) {
            return damaged(machine, error, "a kept result is not as it was written");
        }
    }
    if (chunk->count == 0) {
        return damaged(machine, error, "a row of kept results holds none");
    }
    return ERROR_NONE;
}

static enum error_code load_rows(struct loading *loading, enum statement statement,
                                 enum error_code (*load)(struct loading *loading,
                                                         struct error *error),
                                 struct error *error) {
    struct database *database = &loading->machine->database;
    for (;;) {
        bool found = false;
        enum error_code code = database_step(database, statement, &found, error);
        if (code != ERROR_NONE || !found) {
            return code;
        }
        code = load(loading, error);
        if (code != ERROR_NONE) {
            database_reset(database, statement);
            return code;
        }
    }
}

enum error_code once_load(struct machine *machine, struct once *once, struct error *error) {
    once_free(once);
    once_init(once);
    struct loading loading = {
        .machine = machine,
        .once = once,
        .by_row = mem_zalloc(LIMIT_ONCE_SESSIONS, sizeof(loading.by_row[0])),
    };
    enum error_code code = load_rows(&loading, STATEMENT_SESSION_ALL, load_session, error);
    if (code == ERROR_NONE) {
        code = load_rows(&loading, STATEMENT_RESULTS_ALL, load_chunk, error);
    }
    mem_free(loading.by_row);
    once->settled_digest = once->digest;
    return code;
}

/* --- saving ----------------------------------------------------------------------------------- */

static enum error_code save_session(struct machine *machine, struct once_session *session,
                                    struct error *error) {
    struct database *database = &machine->database;
    enum error_code code;
    if (session->row == 0) {
        struct slice id = slice_make(session->id, sizeof(session->id));
        database_bind_bytes(database, STATEMENT_SESSION_ADD, 1, id);
        database_bind_u64(database, STATEMENT_SESSION_ADD, 2, session->ttl_ms);
        database_bind_u64(database, STATEMENT_SESSION_ADD, 3, session->expires_at_ms);
        database_bind_u64(database, STATEMENT_SESSION_ADD, 4, session->low);
        code = database_run(database, STATEMENT_SESSION_ADD, error);
        session->row = (uint64_t)sqlite3_last_insert_rowid(database->handle);
    } else {
        database_bind_u64(database, STATEMENT_SESSION_PUT, 1, session->row);
        database_bind_u64(database, STATEMENT_SESSION_PUT, 2, session->expires_at_ms);
        database_bind_u64(database, STATEMENT_SESSION_PUT, 3, session->low);
        code = database_run(database, STATEMENT_SESSION_PUT, error);
    }
    session->is_changed = false;
    return code;
}

static void encode_chunk(struct buffer *out, const struct once_chunk *chunk) {
    for (unsigned i = 0; i < ONCE_CHUNK; i++) {
        const struct once_result *result = &chunk->results[i];
        if (result->size == 0) {
            continue;
        }
        buffer_put_u8(out, (uint8_t)i);
        buffer_put_u64(out, result->hash);
        buffer_put_u32(out, result->size);
        if (once_is_large(result)) {
            buffer_put_u64(out, result->at.large);
        } else {
            buffer_append_slice(out, once_bytes(result));
        }
    }
}

static enum error_code save_chunk(struct machine *machine, const struct once_session *session,
                                  struct once_chunk *chunk, struct buffer *scratch,
                                  struct error *error) {
    struct database *database = &machine->database;
    scratch->size = 0;
    encode_chunk(scratch, chunk);
    enum error_code code;
    if (chunk->row == 0) {
        database_bind_u64(database, STATEMENT_RESULTS_ADD, 1, session->row);
        database_bind_u64(database, STATEMENT_RESULTS_ADD, 2, chunk->number);
        database_bind_bytes(database, STATEMENT_RESULTS_ADD, 3, buffer_slice(scratch));
        code = database_run(database, STATEMENT_RESULTS_ADD, error);
        database_bind_null(database, STATEMENT_RESULTS_ADD, 3);
        chunk->row = (uint64_t)sqlite3_last_insert_rowid(database->handle);
    } else {
        database_bind_u64(database, STATEMENT_RESULTS_PUT, 1, chunk->row);
        database_bind_bytes(database, STATEMENT_RESULTS_PUT, 2, buffer_slice(scratch));
        code = database_run(database, STATEMENT_RESULTS_PUT, error);
        database_bind_null(database, STATEMENT_RESULTS_PUT, 2);
    }
    chunk->is_changed = false;
    return code;
}

static enum error_code save_changes(struct machine *machine, struct once_session *session,
                                    struct buffer *scratch, struct error *error) {
    enum error_code code = ERROR_NONE;
    if (session->is_changed || session->row == 0) {
        code = save_session(machine, session, error);
    }
    for (unsigned i = 0; i < session->n_chunks && code == ERROR_NONE; i++) {
        if (session->chunks[i]->is_changed) {
            code = save_chunk(machine, session, session->chunks[i], scratch, error);
        }
    }
    return code;
}

enum error_code once_save(struct machine *machine, struct error *error) {
    struct once *once = &machine->once;
    struct buffer scratch = {0};
    enum error_code code = ERROR_NONE;
    struct list_node *node;
    while (code == ERROR_NONE && (node = list_first(&once->changed)) != NULL) {
        list_remove(node);
        code = save_changes(machine, LIST_ENTRY(node, struct once_session, changed_link), &scratch,
                            error);
    }
    buffer_free(&scratch);
    return code;
}

void once_settle(struct machine *machine) {
    struct once *once = &machine->once;
    machine->state.digest += once->digest - once->settled_digest;
    once->settled_digest = once->digest;
}

/* --- results ---------------------------------------------------------------------------------- */

static enum error_code add_large(struct machine *machine, struct slice encoded, uint64_t *large,
                                 struct error *error) {
    struct database *database = &machine->database;
    database_bind_bytes(database, STATEMENT_LARGE_ADD, 1, encoded);
    enum error_code code = database_run(database, STATEMENT_LARGE_ADD, error);
    database_bind_null(database, STATEMENT_LARGE_ADD, 1);
    *large = (uint64_t)sqlite3_last_insert_rowid(database->handle);
    return code;
}

enum error_code once_keep(struct machine *machine, struct once_session *session, uint64_t sequence,
                          struct slice encoded, struct error *error) {
    uint64_t large = 0;
    if (encoded.size > ONCE_APART_MAX) {
        enum error_code code = add_large(machine, encoded, &large, error);
        if (code != ERROR_NONE) {
            return code;
        }
    }
    struct once_chunk *chunk = once_make_chunk(&machine->once, session, sequence / ONCE_CHUNK);
    once_put(&machine->once, session, chunk, (unsigned)(sequence % ONCE_CHUNK),
             once_hash(session, sequence, encoded), encoded, large);
    chunk->is_changed = true;
    once_mark(&machine->once, session);
    return ERROR_NONE;
}

static enum error_code read_large(struct machine *machine, uint64_t large, struct buffer *encoded,
                                  struct error *error) {
    struct database *database = &machine->database;
    database_bind_u64(database, STATEMENT_LARGE_GET, 1, large);
    bool found = false;
    enum error_code code = database_step(database, STATEMENT_LARGE_GET, &found, error);
    if (code == ERROR_NONE && found) {
        buffer_append_slice(encoded, database_bytes(database, STATEMENT_LARGE_GET, 0));
        database_reset(database, STATEMENT_LARGE_GET);
    }
    return code;
}

enum error_code once_recall(struct machine *machine, const struct once_session *session,
                            uint64_t sequence, const struct once_result *kept,
                            struct buffer *encoded, struct error *error) {
    ASSERT(encoded->size == 0);
    if (!once_is_large(kept)) {
        buffer_append_slice(encoded, once_bytes(kept));
        return ERROR_NONE;
    }
    enum error_code code = read_large(machine, kept->at.large, encoded, error);
    if (code == ERROR_NONE && (encoded->size != kept->size ||
                               once_hash(session, sequence, buffer_slice(encoded)) != kept->hash)) {
        code = damaged(machine, error, "a kept result does not match its checksum");
    }
    return code;
}

static enum error_code forget_result(struct machine *machine, struct once_session *session,
                                     struct once_chunk *chunk, unsigned place,
                                     struct error *error) {
    const struct once_result *result = &chunk->results[place];
    enum error_code code = ERROR_NONE;
    if (once_is_large(result)) {
        database_bind_u64(&machine->database, STATEMENT_LARGE_REMOVE, 1, result->at.large);
        code = database_run(&machine->database, STATEMENT_LARGE_REMOVE, error);
    }
    once_clear(&machine->once, session, chunk, place);
    return code;
}

/* Forgets the results of a chunk below the sequence, and the chunk when none is left. */
static enum error_code forget_in_chunk(struct machine *machine, struct once_session *session,
                                       struct once_chunk *chunk, uint64_t low,
                                       struct error *error) {
    enum error_code code = ERROR_NONE;
    for (unsigned i = 0; i < ONCE_CHUNK && code == ERROR_NONE; i++) {
        if (chunk->results[i].size > 0 && chunk->number * ONCE_CHUNK + i < low) {
            code = forget_result(machine, session, chunk, i, error);
        }
    }
    if (code != ERROR_NONE || chunk->count > 0) {
        return code;
    }
    if (chunk->row != 0) {
        database_bind_u64(&machine->database, STATEMENT_RESULTS_REMOVE, 1, chunk->row);
        code = database_run(&machine->database, STATEMENT_RESULTS_REMOVE, error);
    }
    once_drop_chunk(&machine->once, session, chunk);
    return code;
}

enum error_code once_forget(struct machine *machine, struct once_session *session, uint64_t low,
                            struct error *error) {
    ASSERT(low > session->low);
    once_set(&machine->once, session, session->expires_at_ms, low);
    enum error_code code = ERROR_NONE;
    while (code == ERROR_NONE && session->n_chunks > 0 &&
           session->chunks[0]->number * ONCE_CHUNK < low) {
        struct once_chunk *first = session->chunks[0];
        bool ends_above = first->number * ONCE_CHUNK + ONCE_CHUNK > low;
        code = forget_in_chunk(machine, session, first, low, error);
        if (ends_above) {
            break;
        }
    }
    return code;
}

enum error_code once_remove(struct machine *machine, struct once_session *session,
                            struct error *error) {
    enum error_code code = ERROR_NONE;
    while (code == ERROR_NONE && session->n_chunks > 0) {
        code = forget_in_chunk(machine, session, session->chunks[session->n_chunks - 1], UINT64_MAX,
                               error);
    }
    if (code == ERROR_NONE && session->row != 0) {
        database_bind_u64(&machine->database, STATEMENT_SESSION_REMOVE, 1, session->row);
        code = database_run(&machine->database, STATEMENT_SESSION_REMOVE, error);
    }
    if (code == ERROR_NONE) {
        once_drop(&machine->once, session);
    }
    return code;
}

/* --- recount ---------------------------------------------------------------------------------- */

static enum error_code check_large(struct machine *machine, const struct once_session *session,
                                   struct error *error) {
    struct buffer encoded = {0};
    enum error_code code = ERROR_NONE;
    for (unsigned i = 0; i < session->n_chunks * ONCE_CHUNK && code == ERROR_NONE; i++) {
        const struct once_chunk *chunk = session->chunks[i / ONCE_CHUNK];
        const struct once_result *result = &chunk->results[i % ONCE_CHUNK];
        if (once_is_large(result)) {
            encoded.size = 0;
            code = once_recall(machine, session, chunk->number * ONCE_CHUNK + i % ONCE_CHUNK,
                               result, &encoded, error);
        }
    }
    buffer_free(&encoded);
    return code;
}

static enum error_code compare(struct machine *machine, const struct once *counted,
                               struct error *error) {
    const struct once *kept = &machine->once;
    if (counted->count != kept->count || counted->bytes != kept->bytes ||
        counted->digest != kept->digest || kept->digest != kept->settled_digest) {
        return error_set(error, ERROR_CORRUPT,
                         "%s is damaged: sessions: %zu with %" PRIu64 " bytes and digest %" PRIx64
                         " by recount, %zu with %" PRIu64 " and %" PRIx64
                         " on record; rebuild it from its peers",
                         machine->database.path, counted->count, counted->bytes, counted->digest,
                         kept->count, kept->bytes, kept->digest);
    }
    return ERROR_NONE;
}

enum error_code once_recount(struct machine *machine, uint64_t *large, struct error *error) {
    struct once counted = {0};
    *large = 0;
    enum error_code code = once_load(machine, &counted, error);
    for (size_t i = 0; i < counted.count && code == ERROR_NONE; i++) {
        *large += counted.heap[i]->n_large;
        code = check_large(machine, counted.heap[i], error);
    }
    if (code == ERROR_NONE) {
        code = compare(machine, &counted, error);
    }
    once_free(&counted);
    return code;
}
