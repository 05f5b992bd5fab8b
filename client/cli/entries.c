#include "client/cli/entries.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "client/cli/units.h"

enum { PIECE = 64 * 1024, LABEL_BYTES = 48 };

static const char header_name[] = "invoke_kv_lines";
static const char end_name[] = "invoke_kv_end";

void entries_init(struct entries *entries, enum entries_form form, entries_read read, void *data) {
    *entries = (struct entries){
        .read = read, .data = data, .form = form, .text_max = ENTRIES_TEXT_MAX, .line = 1};
}

void entries_free(struct entries *entries) {
    buffer_free(&entries->window);
    buffer_free(&entries->key);
    buffer_free(&entries->value);
}

uint64_t entries_passed(const struct entries *entries) {
    return entries->passed + entries->at;
}

const char *entries_label(struct slice key, char *text) {
    size_t size = 0;
    size_t n = key.size < LABEL_BYTES ? key.size : LABEL_BYTES;
    text[size++] = '"';
    for (size_t i = 0; i < n && size < ENTRIES_LABEL_SIZE - 8; i++) {
        uint8_t c = key.data[i];
        if (c >= 0x20 && c < 0x7F && c != '"' && c != '\\') {
            text[size++] = (char)c;
        } else {
            size += (size_t)snprintf(text + size, 8, "\\x%02x", (unsigned)c);
        }
    }
    snprintf(text + size, ENTRIES_LABEL_SIZE - size, "%s", n < key.size ? "\"..." : "\"");
    return text;
}

/* --- the window ------------------------------------------------------------------------------- */

static void pass(struct entries *entries, size_t size) {
    if (size == 0) {
        return;
    }
    const uint8_t *at = entries->window.data + entries->at;
    for (size_t left = size; left > 0;) {
        const uint8_t *end = memchr(at, '\n', left);
        if (end == NULL) {
            break;
        }
        entries->line++;
        left -= (size_t)(end + 1 - at);
        at = end + 1;
    }
    entries->at += size;
}

static struct slice rest(const struct entries *entries) {
    if (entries->window.size == 0) {
        return slice_make("", 0);
    }
    return slice_make(entries->window.data + entries->at, entries->window.size - entries->at);
}

/* Reads on. What is not passed grows by half at least, so that looking at it again from its
 * beginning costs no more than a few times its size in all. */
static enum error_code read_more(struct entries *entries, struct error *error) {
    struct buffer *window = &entries->window;
    size_t left = window->size - entries->at;
    if (left >= entries->text_max) {
        return error_set(error, ERROR_TOOBIG,
                         "line %" PRIu64 ": an entry is longer than %zu bytes, the most that a "
                         "value can take",
                         entries->line, entries->text_max);
    }
    if (entries->at > 0) {
        entries->passed += entries->at;
        buffer_consume(window, entries->at);
        entries->at = 0;
    }
    size_t wanted = left / 2 + PIECE;
    wanted = wanted < entries->text_max - left ? wanted : entries->text_max - left;
    buffer_reserve(window, wanted);
    while (wanted > 0 && !entries->ended) {
        ssize_t n = entries->read(entries->data, window->data + window->size, wanted);
        if (n < 0) {
            return error_set(error, ERROR_IO, "cannot read on behind line %" PRIu64, entries->line);
        }
        entries->ended = n == 0;
        window->size += (size_t)n;
        wanted -= (size_t)n;
    }
    return ERROR_NONE;
}

static enum error_code refuse(const struct entries *entries, const char *reason,
                              struct error *error) {
    return error_set(error, ERROR_INVALID, "line %" PRIu64 ": %s", entries->line, reason);
}

/* Passes blanks; *c is the byte behind them, -1 at the end. */
static enum error_code skip_space(struct entries *entries, int *c, struct error *error) {
    for (;;) {
        struct json_cursor cursor = json_cursor_make(rest(entries), entries->ended);
        json_skip_space(&cursor);
        *c = json_peek(&cursor);
        pass(entries, cursor.at);
        if (*c >= 0 || entries->ended) {
            return ERROR_NONE;
        }
        enum error_code code = read_more(entries, error);
        if (code != ERROR_NONE) {
            return code;
        }
    }
}

static enum error_code finish_entry(struct entries *entries, struct entry *entry, bool *found,
                                    struct error *error) {
    char label[ENTRIES_LABEL_SIZE];
    if (entry->key.size == 0 || entry->key.size > LIMIT_KEY_SIZE) {
        return error_set(error, ERROR_TOOBIG,
                         "line %" PRIu64 ": a key has 1 to %d bytes, this one %zu", entries->line,
                         LIMIT_KEY_SIZE, entry->key.size);
    }
    if (entry->value.size > LIMIT_VALUE_SIZE_MAX) {
        return error_set(error, ERROR_TOOBIG,
                         "line %" PRIu64 ": the value of %s has %zu bytes, "
                         "more than any server takes",
                         entries->line, entries_label(entry->key, label), entry->value.size);
    }
    entries->count++;
    *found = true;
    return ERROR_NONE;
}

/* --- the object form -------------------------------------------------------------------------- */

/* "key": value, at the window's place. */
static enum json_status scan_member(struct entries *entries, struct json_cursor *cursor,
                                    struct entry *entry) {
    struct slice key;
    enum json_status status = json_skip_string(cursor, &key);
    if (status == JSON_OK) {
        status = json_expect(cursor, ':');
    }
    if (status == JSON_OK) {
        status = json_skip_value(cursor, &entry->value);
    }
    if (status != JSON_OK) {
        return status;
    }
    entries->key.size = 0;
    if (!json_decode_string(key, &entries->key)) {
        cursor->reason = "a key holds half of a surrogate pair, which is no character";
        return JSON_BAD;
    }
    entry->key = buffer_slice(&entries->key);
    return JSON_OK;
}

static enum error_code read_member(struct entries *entries, struct entry *entry, bool *found,
                                   struct error *error) {
    for (;;) {
        struct json_cursor cursor = json_cursor_make(rest(entries), entries->ended);
        enum json_status status = scan_member(entries, &cursor, entry);
        if (status == JSON_OK) {
            pass(entries, cursor.at);
            return finish_entry(entries, entry, found, error);
        }
        if (status == JSON_BAD) {
            pass(entries, cursor.at);
            return refuse(entries, cursor.reason, error);
        }
        enum error_code code = read_more(entries, error);
        if (code != ERROR_NONE) {
            return code;
        }
    }
}

static enum error_code end_object(struct entries *entries, struct error *error) {
    int c;
    pass(entries, 1);
    enum error_code code = skip_space(entries, &c, error);
    if (code == ERROR_NONE && c >= 0) {
        return refuse(entries,
                      "something follows the object; for one object in each line say --format "
                      "lines",
                      error);
    }
    entries->is_done = true;
    return code;
}

static enum error_code next_member(struct entries *entries, struct entry *entry, bool *found,
                                   struct error *error) {
    int c;
    enum error_code code = skip_space(entries, &c, error);
    if (code != ERROR_NONE) {
        return code;
    }
    bool is_first = !entries->is_open;
    if (is_first) {
        if (c != '{') {
            return refuse(
                entries, c < 0 ? "the file is empty" : "expected an object of key to value", error);
        }
        entries->is_open = true;
        pass(entries, 1);
        code = skip_space(entries, &c, error);
        if (code != ERROR_NONE) {
            return code;
        }
    }
    if (c == '}') {
        return end_object(entries, error);
    }
    if (!is_first) {
        if (c != ',') {
            return refuse(entries,
                          c < 0 ? "the file ends within the object"
                                : "expected a comma or the end of the object",
                          error);
        }
        pass(entries, 1);
    }
    return read_member(entries, entry, found, error);
}

/* --- the lines form --------------------------------------------------------------------------- */

enum line_kind { LINE_ENTRY, LINE_HEADER, LINE_END };

struct line {
    enum line_kind kind;
    bool has_key;
    bool has_value;
    int64_t number; /* of a header or end */
    int64_t ttl_ms;
};

static bool is_name(struct slice raw, const char *name) {
    size_t size = strlen(name);
    return raw.size == size + 2 && memcmp(raw.data + 1, name, size) == 0;
}

/* A member with text: decodes it into `out`; the reason when it cannot be. */
static const char *take_text(struct slice raw, bool is_base64, bool *has, struct buffer *out) {
    if (*has) {
        return "a member comes twice";
    }
    if (raw.data[0] != '"') {
        return "key and value are strings; for any JSON as a value use the object form";
    }
    *has = true;
    out->size = 0;
    if (!is_base64) {
        return json_decode_string(raw, out) ? NULL : "half of a surrogate pair is no character";
    }
    /* Base64 needs no escapes. */
    return base64_decode(slice_make(raw.data + 1, raw.size - 2), out) ? NULL : "malformed base64";
}

static const char *take_member(struct entries *entries, struct line *line, struct slice name,
                               struct slice value) {
    if (is_name(name, "key") || is_name(name, "key_base64")) {
        return take_text(value, is_name(name, "key_base64"), &line->has_key, &entries->key);
    }
    if (is_name(name, "value") || is_name(name, "value_base64")) {
        return take_text(value, is_name(name, "value_base64"), &line->has_value, &entries->value);
    }
    if (is_name(name, "ttl_ms")) {
        bool fits = json_decode_integer(value, &line->ttl_ms) && line->ttl_ms > 0 &&
                    line->ttl_ms <= UNITS_DURATION_MAX_MS;
        return fits ? NULL : "ttl_ms is a whole number of milliseconds, from 1 to 100 years";
    }
    if (is_name(name, header_name) || is_name(name, end_name)) {
        line->kind = is_name(name, end_name) ? LINE_END : LINE_HEADER;
        return json_decode_integer(value, &line->number) ? NULL : "expected a number";
    }
    return "unknown member; a line has key or key_base64, value or value_base64, ttl_ms";
}

/* Members up to the closing brace. */
static const char *read_members(struct entries *entries, struct json_cursor *cursor,
                                struct line *line) {
    const char *reason = NULL;
    json_skip_space(cursor);
    if (json_expect(cursor, '{') != JSON_OK) {
        return cursor->reason;
    }
    json_skip_space(cursor);
    if (json_peek(cursor) == '}') {
        cursor->at++;
        return NULL;
    }
    for (;;) {
        struct slice name;
        struct slice value;
        if (json_skip_string(cursor, &name) != JSON_OK || json_expect(cursor, ':') != JSON_OK ||
            json_skip_value(cursor, &value) != JSON_OK) {
            return cursor->reason;
        }
        reason = take_member(entries, line, name, value);
        json_skip_space(cursor);
        if (reason != NULL || json_peek(cursor) == '}') {
            cursor->at += reason == NULL;
            return reason;
        }
        if (json_expect(cursor, ',') != JSON_OK) {
            return cursor->reason;
        }
    }
}

static const char *read_line(struct entries *entries, struct slice text, struct line *line) {
    struct json_cursor cursor = json_cursor_make(text, true);
    const char *reason = read_members(entries, &cursor, line);
    if (reason != NULL) {
        return reason;
    }
    json_skip_space(&cursor);
    if (cursor.at != text.size) {
        return "something follows the object; each stands in a line of its own";
    }
    bool has_any = line->has_key || line->has_value || line->ttl_ms > 0;
    if (line->kind != LINE_ENTRY) {
        return has_any ? "this member stands alone in its line" : NULL;
    }
    return line->has_key && line->has_value ? NULL : "a key or a value is missing";
}

/* The next line that is not blank, without its end; *found false at the end of the source. */
static enum error_code find_line(struct entries *entries, struct slice *text, bool *found,
                                 struct error *error) {
    int c;
    size_t scanned = 0;
    enum error_code code = skip_space(entries, &c, error);
    *found = false;
    while (code == ERROR_NONE && c >= 0) {
        struct slice left = rest(entries);
        const uint8_t *end = memchr(left.data + scanned, '\n', left.size - scanned);
        if (end != NULL || entries->ended) {
            *text = slice_make(left.data, end != NULL ? (size_t)(end - left.data) : left.size);
            *found = true;
            break;
        }
        scanned = left.size;
        code = read_more(entries, error);
    }
    return code;
}

static enum error_code end_lines(struct entries *entries, const struct line *line,
                                 struct error *error) {
    if (line->number < 0 || (uint64_t)line->number != entries->count) {
        return error_set(error, ERROR_INVALID,
                         "line %" PRIu64 ": the file says that it has %" PRId64
                         " keys, but %" PRIu64 " came: a part of it is missing",
                         entries->line, line->number, entries->count);
    }
    entries->is_done = true;
    return ERROR_NONE;
}

static enum error_code take_line(struct entries *entries, const struct line *line, size_t size,
                                 struct entry *entry, bool *found, struct error *error) {
    enum error_code code = ERROR_NONE;
    switch (line->kind) {
    case LINE_HEADER:
        if (line->number != 1) {
            return refuse(entries,
                          "written by a newer release, in a form that this one cannot read", error);
        }
        if (entries->count > 0 || entries->has_header) {
            return refuse(entries, "a first line in the middle: were two files put together?",
                          error);
        }
        entries->has_header = true;
        break;
    case LINE_END:
        code = end_lines(entries, line, error);
        break;
    case LINE_ENTRY:
        *entry = (struct entry){.key = buffer_slice(&entries->key),
                                .value = buffer_slice(&entries->value),
                                .ttl_ms = line->ttl_ms};
        code = finish_entry(entries, entry, found, error);
        break;
    }
    pass(entries, size);
    return code;
}

/* Behind the last line of a file. */
static enum error_code expect_nothing(struct entries *entries, struct error *error) {
    int c;
    enum error_code code = skip_space(entries, &c, error);
    if (code == ERROR_NONE && c >= 0) {
        return refuse(entries, "something follows the last line: were two files put together?",
                      error);
    }
    return code;
}

static enum error_code next_line(struct entries *entries, struct entry *entry, bool *found,
                                 struct error *error) {
    while (!*found && !entries->is_done) {
        struct slice text;
        bool has_line;
        struct line line = {.kind = LINE_ENTRY};
        enum error_code code = find_line(entries, &text, &has_line, error);
        if (code != ERROR_NONE) {
            return code;
        }
        if (!has_line) {
            entries->is_done = true;
            return entries->has_header
                       ? refuse(entries, "the file ends without its last line: it was cut off",
                                error)
                       : ERROR_NONE;
        }
        const char *reason = read_line(entries, text, &line);
        if (reason != NULL) {
            return refuse(entries, reason, error);
        }
        code = take_line(entries, &line, text.size, entry, found, error);
        if (code != ERROR_NONE) {
            return code;
        }
    }
    return entries->is_done ? expect_nothing(entries, error) : ERROR_NONE;
}

/* --- both ------------------------------------------------------------------------------------- */

/* Lines when the first member is that of a first line. */
static enum error_code detect(struct entries *entries, struct error *error) {
    int c;
    enum error_code code = skip_space(entries, &c, error);
    struct json_cursor cursor = json_cursor_make(rest(entries), true);
    struct slice name;
    entries->form = ENTRIES_OBJECT;
    if (code == ERROR_NONE && rest(entries).size < sizeof header_name + PIECE && !entries->ended) {
        code = read_more(entries, error);
        cursor = json_cursor_make(rest(entries), true);
    }
    if (code == ERROR_NONE && json_expect(&cursor, '{') == JSON_OK &&
        json_skip_string(&cursor, &name) == JSON_OK && is_name(name, header_name)) {
        entries->form = ENTRIES_LINES;
    }
    return code;
}

enum error_code entries_next(struct entries *entries, struct entry *entry, bool *found,
                             struct error *error) {
    enum error_code code = ERROR_NONE;
    *found = false;
    *entry = (struct entry){.ttl_ms = 0};
    if (entries->is_done) {
        return ERROR_NONE;
    }
    if (entries->form == ENTRIES_AUTO) {
        code = detect(entries, error);
    }
    if (code != ERROR_NONE) {
        return code;
    }
    return entries->form == ENTRIES_LINES ? next_line(entries, entry, found, error)
                                          : next_member(entries, entry, found, error);
}

/* --- writing ---------------------------------------------------------------------------------- */

static void write_mark(struct buffer *out, const char *name, uint64_t number) {
    json_append_text(out, "{");
    json_append_string(out, slice_of(name));
    json_append_text(out, ":");
    json_append_unsigned(out, number);
    json_append_text(out, "}\n");
}

void entries_write_header(struct buffer *out, enum entries_form form) {
    if (form == ENTRIES_LINES) {
        write_mark(out, header_name, 1);
    } else {
        json_append_text(out, "{");
    }
}

void entries_write_end(struct buffer *out, enum entries_form form, uint64_t count) {
    if (form == ENTRIES_LINES) {
        write_mark(out, end_name, count);
    } else {
        json_append_text(out, count > 0 ? "\n}\n" : "}\n");
    }
}

static void write_bytes(struct buffer *out, const char *name, struct slice bytes) {
    bool is_text = utf8_is_valid(bytes);
    json_append_text(out, "\"");
    json_append_text(out, name);
    json_append_text(out, is_text ? "\":" : "_base64\":\"");
    if (is_text) {
        json_append_string(out, bytes);
    } else {
        base64_encode(bytes, out);
        json_append_text(out, "\"");
    }
}

static enum error_code write_member(struct buffer *out, const struct entry *entry, bool is_first,
                                    struct error *error) {
    char label[ENTRIES_LABEL_SIZE];
    if (!utf8_is_valid(entry->key)) {
        return error_set(error, ERROR_INVALID, "the key %s is not UTF-8; use --format lines",
                         entries_label(entry->key, label));
    }
    if (!json_is_value(entry->value)) {
        return error_set(error, ERROR_INVALID, "the value of %s is not JSON; use --format lines",
                         entries_label(entry->key, label));
    }
    json_append_text(out, is_first ? "\n  " : ",\n  ");
    json_append_string(out, entry->key);
    json_append_text(out, ": ");
    buffer_append_slice(out, entry->value);
    return ERROR_NONE;
}

enum error_code entries_write(struct buffer *out, enum entries_form form, const struct entry *entry,
                              bool is_first, struct error *error) {
    if (form != ENTRIES_LINES) {
        return write_member(out, entry, is_first, error);
    }
    json_append_text(out, "{");
    write_bytes(out, "key", entry->key);
    json_append_text(out, ",");
    write_bytes(out, "value", entry->value);
    if (entry->ttl_ms > 0) {
        json_append_text(out, ",\"ttl_ms\":");
        json_append_integer(out, entry->ttl_ms);
    }
    json_append_text(out, "}\n");
    return ERROR_NONE;
}
