/* JSON (RFC 8259) as export, import and backups need it: values are found and checked but never
 * turned into numbers or trees, so that what is stored is, byte for byte, what stood in the file.
 * Pure; no recursion. Numbers of any length stay as they are, which no library that reads into
 * doubles could promise. */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

/* Arrays and objects within each other. */
enum { JSON_DEPTH = 1024 };

enum json_status {
    JSON_OK,
    JSON_MORE, /* the text ends in the middle: with more of it this may become OK */
    JSON_BAD   /* nothing that follows can make it JSON */
};

/* A place in a text. `text` may be the beginning of a longer one: then `is_whole` is false. */
struct json_cursor {
    struct slice text;
    size_t at;
    bool is_whole;
    const char *reason; /* why JSON_BAD, for people; static */
};

struct json_cursor json_cursor_make(struct slice text, bool is_whole);

void json_skip_space(struct json_cursor *cursor);
/* The byte at the cursor, or -1 at the end. */
int json_peek(const struct json_cursor *cursor);
/* Passes one value, and *raw is its text without blanks around it. The cursor moves only with
 * JSON_OK. */
enum json_status json_skip_value(struct json_cursor *cursor, struct slice *raw);
/* The same for a string. */
enum json_status json_skip_string(struct json_cursor *cursor, struct slice *raw);
/* Passes blanks and this byte. */
enum json_status json_expect(struct json_cursor *cursor, char wanted);

/* True when the text is one JSON value, with or without blanks around it. */
bool json_is_value(struct slice text);

/* Appends what a string says that json_skip_string() has passed. False, with nothing appended: a
 * lone surrogate, which stands for no character. */
bool json_decode_string(struct slice raw, struct buffer *out);
/* Reads a number that json_skip_value() has passed, if it is whole and fits. */
bool json_decode_integer(struct slice raw, int64_t *number);

bool utf8_is_valid(struct slice text);

/* Appends a string in quotes; the text must be valid UTF-8. */
void json_append_string(struct buffer *out, struct slice text);
void json_append_text(struct buffer *out, const char *text);
void json_append_unsigned(struct buffer *out, uint64_t number);
void json_append_integer(struct buffer *out, int64_t number);
void json_append_double(struct buffer *out, double number);

void base64_encode(struct slice bytes, struct buffer *out);
/* Strict: padded, no blanks, no bits behind the end. False, with nothing appended, otherwise. */
bool base64_decode(struct slice text, struct buffer *out);

#endif
