/* Reads that walk the keys of a project: SCAN, KEYS, RANDOMKEY. */
#include <inttypes.h>
#include <stdio.h>

#include "base/assert.h"
#include "base/glob.h"
#include "base/limits.h"
#include "base/prng.h"
#include "node/machine/digest.h"
#include "node/machine/machine_internal.h"

/* Starts a statement that answers keys of a project, from `key` on. */
static void begin_walk(struct machine *machine, enum statement statement,
                       const struct project *project, struct slice key) {
    database_bind_u64(&machine->database, statement, 1, project->id);
    database_bind_u64(&machine->database, statement, 2, project->epoch);
    if (statement != STATEMENT_KEY_LAST) {
        database_bind_bytes(&machine->database, statement, 3, key);
    }
}

static struct slice current_key(const struct machine *machine, enum statement statement) {
    return database_bytes(&machine->database, statement, 0);
}

static uint64_t next_number(struct reader *args) {
    return bytes_get_u64(command_next_arg(args).data);
}

/* ---- SCAN ----
 *
 * Keys come in their order, and a cursor stands for the last key that was looked at: 53 bits of its
 * hash, so that clients which keep numbers as doubles can hold it. The key itself is remembered;
 * when it is not (another leader, a restart), the first key with that hash is looked for. When
 * there is none, since that key was deleted meanwhile, the scan begins anew. In no case is a key
 * left out that is there all the time. */

#define CURSOR_BITS 53
#define CURSOR_SALT UINT64_C(0x5CA4C0DE5CA4C0DE)

static uint64_t cursor_of(const struct project *project, struct slice key) {
    uint64_t cursor = digest_bytes(project->seed ^ CURSOR_SALT, key) >> (64 - CURSOR_BITS);
    return cursor != 0 ? cursor : 1; /* 0 is where scans begin and end */
}

/* Looks for the first key with this cursor; leaves *key empty when there is none. */
static enum error_code search_cursor(struct machine *machine, const struct project *project,
                                     uint64_t cursor, struct buffer *key, struct error *error) {
    const enum statement statement = STATEMENT_KEYS_AFTER;
    begin_walk(machine, statement, project, (struct slice){0});
    for (unsigned i = 0; i < LIMIT_KEYS_EXAMINED; i++) {
        bool found = false;
        enum error_code code = database_step(&machine->database, statement, &found, error);
        if (code != ERROR_NONE || !found) {
            return code;
        }
        struct slice candidate = current_key(machine, statement);
        if (cursor_of(project, candidate) == cursor) {
            buffer_append_slice(key, candidate);
            break;
        }
    }
    database_reset(&machine->database, statement);
    return ERROR_NONE;
}

/* The key behind which the scan goes on; empty at its beginning. */
static enum error_code find_position(struct machine *machine, const struct project *project,
                                     uint64_t cursor, struct buffer *key, struct error *error) {
    struct slice known;
    if (cursor == 0) {
        return ERROR_NONE;
    }
    if (scan_cursors_find(&machine->cursors, project->id, project->epoch, cursor, &known)) {
        buffer_append_slice(key, known);
        return ERROR_NONE;
    }
    return search_cursor(machine, project, cursor, key, error);
}

struct page {
    struct buffer last;     /* last key looked at; at first the position to go on from */
    struct result elements; /* array of the keys that match */
    uint32_t count;
    bool more;
};

static enum error_code fill_page(struct machine *machine, const struct project *project,
                                 uint64_t most_keys, struct slice pattern, struct page *page,
                                 struct error *error) {
    const enum statement statement = STATEMENT_KEYS_AFTER;
    struct buffer after = page->last;
    page->last = (struct buffer){0};
    begin_walk(machine, statement, project, buffer_slice(&after));
    uint64_t examined = 0;
    uint64_t bytes = 0;
    enum error_code code;
    bool found;
    while ((code = database_step(&machine->database, statement, &found, error)) == ERROR_NONE &&
           found) {
        if (examined == most_keys || bytes >= LIMIT_SCAN_BYTES) {
            page->more = true;
            database_reset(&machine->database, statement);
            break;
        }
        struct slice key = current_key(machine, statement);
        examined++;
        bytes += key.size;
        page->last.size = 0;
        buffer_append_slice(&page->last, key);
        if (glob_match(pattern, key, false)) {
            result_add_bulk(&page->elements, key);
            page->count++;
        }
    }
    buffer_free(&after);
    return code;
}

static void answer_page(struct machine *machine, const struct project *project,
                        const struct page *page, struct result *result) {
    char text[24];
    uint64_t cursor = 0;
    if (page->more) {
        struct slice last = buffer_slice(&page->last);
        cursor = cursor_of(project, last);
        scan_cursors_put(&machine->cursors, project->id, project->epoch, cursor, last);
    }
    snprintf(text, sizeof text, "%" PRIu64, cursor);
    result_begin_array(result, 2);
    result_add_bulk(result, slice_of(text));
    result_add_array(result, page->count);
    buffer_append_slice(&result->data, buffer_slice(&page->elements.data));
}

enum error_code read_scan(struct machine *machine, const struct project *project,
                          const struct command *command, struct result *result,
                          struct error *error) {
    struct reader args = reader_make(command->args);
    uint64_t cursor = next_number(&args);
    uint64_t count = next_number(&args);
    struct slice pattern = command_next_arg(&args);
    uint64_t most = count < 1 ? 1 : count < LIMIT_SCAN_KEYS ? count : LIMIT_SCAN_KEYS;
    struct page page = {0};
    enum error_code code = ERROR_NONE;
    if (project != NULL) {
        code = find_position(machine, project, cursor, &page.last, error);
    }
    if (project != NULL && code == ERROR_NONE) {
        code = fill_page(machine, project, most, pattern, &page, error);
    }
    if (code == ERROR_NONE) {
        answer_page(machine, project, &page, result);
    }
    buffer_free(&page.last);
    result_free(&page.elements);
    return code;
}

/* ---- KEYS ---- */

/* What every key that matches must start with. */
static struct slice literal_prefix(struct slice pattern) {
    static const char special[] = {'*', '?', '[', '\\'};
    size_t size = 0;
    while (size < pattern.size && memchr(special, pattern.data[size], sizeof special) == NULL) {
        size++;
    }
    return slice_make(pattern.data, size);
}

static bool starts_with(struct slice key, struct slice prefix) {
    return key.size >= prefix.size && slice_equal(slice_make(key.data, prefix.size), prefix);
}

/* Puts the number of elements where result_begin_array() left room for it. */
static void set_count(struct result *result, uint32_t count) {
    bytes_put_u32(result->data.data, count);
}

/* Takes one key; false when that is one too many, with the result filled. */
static bool take_key(struct slice key, struct slice pattern, uint64_t *examined, uint32_t *count,
                     struct result *result) {
    if (++*examined > LIMIT_KEYS_EXAMINED) {
        result_set_error(result, ERROR_TOOBIG,
                         "KEYS looks at %d keys at most and there are more; use SCAN",
                         LIMIT_KEYS_EXAMINED);
        return false;
    }
    if (!glob_match(pattern, key, false)) {
        return true;
    }
    if (*count == LIMIT_KEYS_ANSWERED || result->data.size + key.size > LIMIT_ANSWER_SIZE) {
        result_set_error(result, ERROR_TOOBIG,
                         "KEYS answers %d keys and %" PRIu64
                         " bytes at most and more match; use SCAN",
                         LIMIT_KEYS_ANSWERED, LIMIT_ANSWER_SIZE);
        return false;
    }
    result_add_bulk(result, key);
    ++*count;
    return true;
}

enum error_code read_keys(struct machine *machine, const struct project *project,
                          const struct command *command, struct result *result,
                          struct error *error) {
    const enum statement statement = STATEMENT_KEYS_FROM;
    struct reader args = reader_make(command->args);
    struct slice pattern = command_next_arg(&args);
    struct slice prefix = literal_prefix(pattern);
    result_begin_array(result, 0);
    if (project == NULL) {
        return ERROR_NONE;
    }
    begin_walk(machine, statement, project, prefix);
    uint64_t examined = 0;
    uint32_t count = 0;
    for (;;) {
        bool found = false;
        enum error_code code = database_step(&machine->database, statement, &found, error);
        if (code != ERROR_NONE) {
            return code;
        }
        if (!found) {
            break;
        }
        struct slice key = current_key(machine, statement);
        bool goes_on = starts_with(key, prefix);
        if (goes_on && !take_key(key, pattern, &examined, &count, result)) {
            database_reset(&machine->database, statement);
            return ERROR_NONE;
        }
        if (!goes_on) {
            database_reset(&machine->database, statement);
            break;
        }
    }
    set_count(result, count);
    return ERROR_NONE;
}

/* ---- RANDOMKEY ----
 *
 * Keys cannot be counted off in constant time. So this walks down the tree that their common
 * prefixes form, and takes one of the branches at each fork: any key can come, though not all with
 * the same probability. */

enum { FORKS_MAX = 64 }; /* then any key below will do */

static enum error_code fetch_key(struct machine *machine, enum statement statement,
                                 const struct project *project, struct slice key,
                                 struct buffer *out, struct error *error) {
    bool found = false;
    begin_walk(machine, statement, project, key);
    enum error_code code = database_step(&machine->database, statement, &found, error);
    out->size = 0;
    if (code == ERROR_NONE && found) {
        buffer_append_slice(out, current_key(machine, statement));
        database_reset(&machine->database, statement);
    }
    return code;
}

/* The last key that starts with `prefix`, when some key does. */
static enum error_code fetch_last(struct machine *machine, const struct project *project,
                                  struct slice prefix, struct buffer *out, struct error *error) {
    struct buffer end = {0};
    buffer_append_slice(&end, prefix);
    while (end.size > 0 && end.data[end.size - 1] == UINT8_MAX) {
        end.size--;
    }
    enum statement statement = STATEMENT_KEY_LAST;
    if (end.size > 0) {
        end.data[end.size - 1]++;
        statement = STATEMENT_KEY_BEFORE;
    }
    enum error_code code = fetch_key(machine, statement, project, buffer_slice(&end), out, error);
    buffer_free(&end);
    return code;
}

static size_t common_size(struct slice a, struct slice b) {
    size_t size = 0;
    while (size < a.size && size < b.size && a.data[size] == b.data[size]) {
        size++;
    }
    return size;
}

/* Makes *first the prefix of a branch that lies between the two keys, by chance; false when *first
 * itself is chosen. */
static bool choose_branch(struct buffer *first, struct slice last, struct prng *prng) {
    enum { STOP = 8 }; /* one in so many stays at a key that is the prefix of others */
    size_t fork = common_size(buffer_slice(first), last);
    bool is_prefix = first->size == fork;
    ASSERT(fork < last.size && (is_prefix || first->data != NULL));
    if (is_prefix && prng_below(prng, STOP) == 0) {
        return false;
    }
    unsigned low = is_prefix ? 0 : first->data[fork];
    unsigned span = last.data[fork] - low + 1;
    first->size = fork;
    buffer_put_u8(first, (uint8_t)(low + prng_below(prng, span)));
    return true;
}

enum error_code read_random_key(struct machine *machine, const struct project *project,
                                const struct command *command, struct result *result,
                                struct error *error) {
    struct reader args = reader_make(command->args);
    struct prng prng;
    prng_seed(&prng, next_number(&args));
    result->kind = RESULT_NIL;
    if (project == NULL || project->keys == 0) {
        return ERROR_NONE;
    }
    struct buffer key = {0};
    struct buffer last = {0};
    size_t prefix_size = 0;
    enum error_code code =
        fetch_key(machine, STATEMENT_KEYS_FROM, project, (struct slice){0}, &key, error);
    for (unsigned i = 0; i < FORKS_MAX && code == ERROR_NONE; i++) {
        code = fetch_last(machine, project, slice_make(key.data, prefix_size), &last, error);
        if (code != ERROR_NONE || slice_equal(buffer_slice(&key), buffer_slice(&last)) ||
            !choose_branch(&key, buffer_slice(&last), &prng)) {
            break;
        }
        prefix_size = key.size;
        struct buffer prefix = key;
        key = (struct buffer){0};
        code = fetch_key(machine, STATEMENT_KEYS_FROM, project, buffer_slice(&prefix), &key, error);
        buffer_free(&prefix);
    }
    if (code == ERROR_NONE) {
        result->kind = RESULT_BULK;
        result->data = key;
        key = (struct buffer){0};
    }
    buffer_free(&key);
    buffer_free(&last);
    return code;
}
