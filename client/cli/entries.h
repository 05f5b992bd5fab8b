/* The two forms that export writes and import reads.
 *
 *   object   {"key": value, ...}                        value: any JSON, stored as the text it is
 *
 *   lines    {"invoke_kv_lines": 1}                     first line; may be missing
 *            {"key": "k", "value": "v", "ttl_ms": 5000} one line for each key; value: the bytes as
 * a string. key_base64 and value_base64 in their places for what is not UTF-8. ttl_ms: what was
 * left; missing: no expiry
 *            {"invoke_kv_end": 2}                       last line: how many keys; wanted when the
 *                                                       first line is there, so that a file that
 * was cut off does not pass for a whole one
 *
 * The reader is fed by a function and holds one entry at a time. Pure but for that function. */
#ifndef CLIENT_CLI_ENTRIES_H
#define CLIENT_CLI_ENTRIES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/limits.h"

/* A value in the file takes at most this: 64 MiB in which each byte is escaped. */
#define ENTRIES_TEXT_MAX (6 * LIMIT_VALUE_SIZE_MAX + 8 * MIB)

enum entries_form { ENTRIES_AUTO, ENTRIES_OBJECT, ENTRIES_LINES };

struct entry {
    struct slice key;
    struct slice value;
    int64_t ttl_ms; /* 0: none */
};

/* Reads up to `size` bytes: how many, 0 at the end, negative on failure. */
typedef ssize_t (*entries_read)(void *data, void *buffer, size_t size);

struct entries {
    entries_read read;
    void *data;
    enum entries_form form; /* AUTO until the first entry */
    size_t text_max;
    struct buffer window; /* bytes read and not passed */
    size_t at;            /* how many of them are passed */
    bool ended;           /* the source */
    uint64_t passed;      /* bytes of the source before the window */
    uint64_t line;        /* at `at`, from 1 */
    uint64_t count;       /* entries told */
    bool has_header;
    bool is_open; /* object: behind { */
    bool is_done;
    struct buffer key;
    struct buffer value;
};

void entries_init(struct entries *entries, enum entries_form form, entries_read read, void *data);
void entries_free(struct entries *entries);

/* *found: an entry, whose slices are valid until the next call; false: the end. ERROR_IO: the
 * source failed; ERROR_INVALID or ERROR_TOOBIG: what it holds, with a message that names the line.
 */
enum error_code entries_next(struct entries *entries, struct entry *entry, bool *found,
                             struct error *error);
/* Bytes of the source that are passed. */
uint64_t entries_passed(const struct entries *entries);

void entries_write_header(struct buffer *out, enum entries_form form);
/* ERROR_INVALID: the object form cannot hold it. */
enum error_code entries_write(struct buffer *out, enum entries_form form, const struct entry *entry,
                              bool is_first, struct error *error);
void entries_write_end(struct buffer *out, enum entries_form form, uint64_t count);

/* For messages: a key in quotes, cut and escaped. Returns `text`. */
enum { ENTRIES_LABEL_SIZE = 96 };
const char *entries_label(struct slice key, char *text);

#endif
