#include "base/json.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/number.h"

struct json_cursor json_cursor_make(struct slice text, bool is_whole) {
    return (struct json_cursor){.text = text, .is_whole = is_whole};
}

static bool is_space(uint8_t c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

void json_skip_space(struct json_cursor *cursor) {
    while (cursor->at < cursor->text.size && is_space(cursor->text.data[cursor->at])) {
        cursor->at++;
    }
}

int json_peek(const struct json_cursor *cursor) {
    return cursor->at < cursor->text.size ? cursor->text.data[cursor->at] : -1;
}

static enum json_status bad(struct json_cursor *cursor, const char *reason) {
    cursor->reason = reason;
    return JSON_BAD;
}

static enum json_status at_end(struct json_cursor *cursor) {
    return cursor->is_whole ? bad(cursor, "it ends too early") : JSON_MORE;
}

enum json_status json_expect(struct json_cursor *cursor, char wanted) {
    json_skip_space(cursor);
    int c = json_peek(cursor);
    if (c < 0) {
        return at_end(cursor);
    }
    if (c != (unsigned char)wanted) {
        return bad(cursor, wanted == ':'   ? "expected a colon"
                           : wanted == '{' ? "expected an object, which begins with {"
                                           : "unexpected character");
    }
    cursor->at++;
    return JSON_OK;
}

/* --- UTF-8 ------------------------------------------------------------------------------------ */

/* Bytes of the character that begins with `first`, 0 when none does; *low and *high bound the
 * second byte, which keeps out overlong forms, surrogates and what is above U+10FFFF. */
static size_t utf8_size(uint8_t first, uint8_t *low, uint8_t *high) {
    *low = 0x80;
    *high = 0xBF;
    if (first < 0x80) {
        return 1;
    }
    if (first >= 0xC2 && first <= 0xDF) {
        return 2;
    }
    if (first >= 0xE0 && first <= 0xEF) {
        *low = first == 0xE0 ? 0xA0 : 0x80;
        *high = first == 0xED ? 0x9F : 0xBF;
        return 3;
    }
    if (first >= 0xF0 && first <= 0xF4) {
        *low = first == 0xF0 ? 0x90 : 0x80;
        *high = first == 0xF4 ? 0x8F : 0xBF;
        return 4;
    }
    return 0;
}

/* Bytes of the valid character at the beginning; 0: none; *cut: the text ends within it. */
static size_t utf8_character(struct slice text, bool *cut) {
    uint8_t low;
    uint8_t high;
    size_t size = utf8_size(text.data[0], &low, &high);
    *cut = false;
    for (size_t i = 1; i < size; i++) {
        if (i == text.size) {
            *cut = true;
            return 0;
        }
        uint8_t c = text.data[i];
        if (c < (i == 1 ? low : 0x80) || c > (i == 1 ? high : 0xBF)) {
            return 0;
        }
    }
    return size;
}

bool utf8_is_valid(struct slice text) {
    bool cut;
    for (size_t at = 0; at < text.size;) {
        size_t size = utf8_character(slice_make(text.data + at, text.size - at), &cut);
        if (size == 0) {
            return false;
        }
        at += size;
    }
    return true;
}

/* --- strings ---------------------------------------------------------------------------------- */

static int hex_digit(uint8_t c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The cursor stands behind a backslash. */
static enum json_status skip_escape(struct json_cursor *cursor, size_t *at) {
    if (*at == cursor->text.size) {
        return at_end(cursor);
    }
    uint8_t c = cursor->text.data[(*at)++];
    if (c != 'u') {
        return c != '\0' && strchr("\"\\/bfnrt", c) != NULL
                   ? JSON_OK
                   : bad(cursor, "unknown escape in a string");
    }
    for (int i = 0; i < 4; i++) {
        if (*at == cursor->text.size) {
            return at_end(cursor);
        }
        if (hex_digit(cursor->text.data[(*at)++]) < 0) {
            return bad(cursor, "\\u needs four hexadecimal digits");
        }
    }
    return JSON_OK;
}

/* One character at *at, which is not a quote. */
static enum json_status skip_character(struct json_cursor *cursor, size_t *at) {
    uint8_t c = cursor->text.data[*at];
    if (c == '\\') {
        (*at)++;
        return skip_escape(cursor, at);
    }
    if (c < 0x20) {
        return bad(cursor, "control character in a string; it must be escaped");
    }
    bool cut;
    size_t size =
        utf8_character(slice_make(cursor->text.data + *at, cursor->text.size - *at), &cut);
    if (size == 0) {
        return cut ? at_end(cursor) : bad(cursor, "not UTF-8");
    }
    *at += size;
    return JSON_OK;
}

static enum json_status skip_string_at(struct json_cursor *cursor, size_t *at) {
    (*at)++; /* the quote */
    while (*at < cursor->text.size) {
        if (cursor->text.data[*at] == '"') {
            (*at)++;
            return JSON_OK;
        }
        enum json_status status = skip_character(cursor, at);
        if (status != JSON_OK) {
            return status;
        }
    }
    return at_end(cursor);
}

enum json_status json_skip_string(struct json_cursor *cursor, struct slice *raw) {
    json_skip_space(cursor);
    size_t at = cursor->at;
    if (at == cursor->text.size) {
        return at_end(cursor);
    }
    if (cursor->text.data[at] != '"') {
        return bad(cursor, "expected a string, which begins with \"");
    }
    enum json_status status = skip_string_at(cursor, &at);
    if (status == JSON_OK) {
        *raw = slice_make(cursor->text.data + cursor->at, at - cursor->at);
        cursor->at = at;
    }
    return status;
}

/* --- values ----------------------------------------------------------------------------------- */

static size_t skip_digits(const struct json_cursor *cursor, size_t *at) {
    size_t before = *at;
    while (*at < cursor->text.size && cursor->text.data[*at] >= '0' &&
           cursor->text.data[*at] <= '9') {
        (*at)++;
    }
    return *at - before;
}

static enum json_status need_digits(struct json_cursor *cursor, size_t *at) {
    if (skip_digits(cursor, at) > 0) {
        return JSON_OK;
    }
    return *at == cursor->text.size ? at_end(cursor) : bad(cursor, "malformed number");
}

static bool is_at(const struct json_cursor *cursor, size_t at, const char *any) {
    return at < cursor->text.size && cursor->text.data[at] != '\0' &&
           strchr(any, cursor->text.data[at]) != NULL;
}

static enum json_status skip_number_at(struct json_cursor *cursor, size_t *at) {
    enum json_status status = JSON_OK;
    if (is_at(cursor, *at, "-")) {
        (*at)++;
    }
    if (is_at(cursor, *at, "0")) {
        (*at)++;
    } else {
        status = need_digits(cursor, at);
    }
    if (status == JSON_OK && is_at(cursor, *at, ".")) {
        (*at)++;
        status = need_digits(cursor, at);
    }
    if (status == JSON_OK && is_at(cursor, *at, "eE")) {
        (*at)++;
        if (is_at(cursor, *at, "+-")) {
            (*at)++;
        }
        status = need_digits(cursor, at);
    }
    /* Another digit could follow. */
    return status == JSON_OK && *at == cursor->text.size && !cursor->is_whole ? JSON_MORE : status;
}

static enum json_status skip_word_at(struct json_cursor *cursor, size_t *at, const char *word) {
    for (const char *c = word; *c != '\0'; c++) {
        if (*at == cursor->text.size) {
            return at_end(cursor);
        }
        if (cursor->text.data[(*at)++] != (uint8_t)*c) {
            return bad(cursor, "expected a value");
        }
    }
    return JSON_OK;
}

static enum json_status skip_scalar_at(struct json_cursor *cursor, size_t *at) {
    uint8_t c = cursor->text.data[*at];
    switch (c) {
    case '"':
        return skip_string_at(cursor, at);
    case 't':
        return skip_word_at(cursor, at, "true");
    case 'f':
        return skip_word_at(cursor, at, "false");
    case 'n':
        return skip_word_at(cursor, at, "null");
    default:
        return c == '-' || (c >= '0' && c <= '9') ? skip_number_at(cursor, at)
                                                  : bad(cursor, "expected a value");
    }
}

enum expected {
    EXPECT_VALUE,
    EXPECT_VALUE_OR_END, /* behind [ */
    EXPECT_KEY,
    EXPECT_KEY_OR_END, /* behind { */
    EXPECT_COLON,
    EXPECT_COMMA_OR_END
};

/* What is open around the place that is being read. */
struct nesting {
    unsigned depth;
    uint8_t is_object[JSON_DEPTH / 8];
};

static bool in_object(const struct nesting *nesting) {
    unsigned top = nesting->depth - 1;
    return (nesting->is_object[top / 8] >> (top % 8) & 1) != 0;
}

static bool nesting_open(struct nesting *nesting, bool is_object) {
    if (nesting->depth == JSON_DEPTH) {
        return false;
    }
    unsigned top = nesting->depth++;
    uint8_t bit = (uint8_t)(1u << (top % 8));
    nesting->is_object[top / 8] = (uint8_t)(is_object ? nesting->is_object[top / 8] | bit
                                                      : nesting->is_object[top / 8] & ~bit);
    return true;
}

static bool closes(const struct nesting *nesting, uint8_t c, enum expected expected) {
    bool may_end = expected == EXPECT_VALUE_OR_END || expected == EXPECT_KEY_OR_END ||
                   expected == EXPECT_COMMA_OR_END;
    return may_end && c == (in_object(nesting) ? '}' : ']');
}

/* One token at *at, which is no blank and not the end. */
static enum json_status skip_token(struct json_cursor *cursor, size_t *at, struct nesting *nesting,
                                   enum expected *expected) {
    uint8_t c = cursor->text.data[*at];
    enum json_status status = JSON_OK;
    if (nesting->depth > 0 && closes(nesting, c, *expected)) {
        (*at)++;
        nesting->depth--;
        *expected = EXPECT_COMMA_OR_END;
        return JSON_OK;
    }
    switch (*expected) {
    case EXPECT_COLON:
        (*at)++;
        *expected = EXPECT_VALUE;
        return c == ':' ? JSON_OK : bad(cursor, "expected a colon");
    case EXPECT_COMMA_OR_END:
        (*at)++;
        *expected = in_object(nesting) ? EXPECT_KEY : EXPECT_VALUE;
        return c == ',' ? JSON_OK : bad(cursor, "expected a comma, or the end of what is open");
    case EXPECT_KEY:
    case EXPECT_KEY_OR_END:
        *expected = EXPECT_COLON;
        return c == '"' ? skip_string_at(cursor, at) : bad(cursor, "expected a string");
    case EXPECT_VALUE:
    case EXPECT_VALUE_OR_END:
        break;
    }
    if (c == '{' || c == '[') {
        (*at)++;
        *expected = c == '{' ? EXPECT_KEY_OR_END : EXPECT_VALUE_OR_END;
        return nesting_open(nesting, c == '{') ? JSON_OK : bad(cursor, "nested too deeply");
    }
    status = skip_scalar_at(cursor, at);
    *expected = EXPECT_COMMA_OR_END;
    return status;
}

enum json_status json_skip_value(struct json_cursor *cursor, struct slice *raw) {
    struct nesting nesting = {0};
    enum expected expected = EXPECT_VALUE;
    json_skip_space(cursor);
    size_t at = cursor->at;
    do {
        while (at < cursor->text.size && is_space(cursor->text.data[at])) {
            at++;
        }
        if (at == cursor->text.size) {
            return at_end(cursor);
        }
        enum json_status status = skip_token(cursor, &at, &nesting, &expected);
        if (status != JSON_OK) {
            return status;
        }
    } while (nesting.depth > 0);
    *raw = slice_make(cursor->text.data + cursor->at, at - cursor->at);
    cursor->at = at;
    return JSON_OK;
}

bool json_is_value(struct slice text) {
    struct json_cursor cursor = json_cursor_make(text, true);
    struct slice raw;
    if (json_skip_value(&cursor, &raw) != JSON_OK) {
        return false;
    }
    json_skip_space(&cursor);
    return cursor.at == text.size;
}

/* --- reading ---------------------------------------------------------------------------------- */

static void append_utf8(struct buffer *out, uint32_t code) {
    if (code < 0x80) {
        buffer_put_u8(out, (uint8_t)code);
        return;
    }
    int followers = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static const uint8_t marks[] = {0, 0xC0, 0xE0, 0xF0};
    buffer_put_u8(out, (uint8_t)(marks[followers] | code >> (6 * followers)));
    while (followers-- > 0) {
        buffer_put_u8(out, (uint8_t)(0x80 | (code >> (6 * followers) & 0x3F)));
    }
}

static uint32_t hex4(const uint8_t *digits) {
    uint32_t code = 0;
    for (int i = 0; i < 4; i++) {
        code = code << 4 | (uint32_t)hex_digit(digits[i]);
    }
    return code;
}

static uint8_t escaped_byte(uint8_t c) {
    switch (c) {
    case 'b':
        return '\b';
    case 'f':
        return '\f';
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    default:
        return c;
    }
}

/* The four digits behind \u, at `at`; moves behind them, and behind the second half of a pair. */
static bool decode_unicode(struct slice raw, size_t *at, struct buffer *out) {
    uint32_t code = hex4(raw.data + *at);
    *at += 4;
    if (code >= 0xD800 && code <= 0xDFFF) {
        bool is_pair = code < 0xDC00 && raw.size - *at >= 7 && raw.data[*at] == '\\' &&
                       raw.data[*at + 1] == 'u';
        uint32_t second = is_pair ? hex4(raw.data + *at + 2) : 0;
        if (second < 0xDC00 || second > 0xDFFF) {
            return false;
        }
        *at += 6;
        code = 0x10000 + ((code - 0xD800) << 10) + (second - 0xDC00);
    }
    append_utf8(out, code);
    return true;
}

bool json_decode_string(struct slice raw, struct buffer *out) {
    size_t before = out->size;
    for (size_t at = 1; at + 1 < raw.size;) {
        const uint8_t *run = raw.data + at;
        const uint8_t *slash = memchr(run, '\\', raw.size - 1 - at);
        size_t plain = slash != NULL ? (size_t)(slash - run) : raw.size - 1 - at;
        buffer_append(out, run, plain);
        at += plain;
        if (slash == NULL) {
            break;
        }
        uint8_t c = raw.data[at + 1];
        at += 2;
        if (c != 'u') {
            buffer_put_u8(out, escaped_byte(c));
        } else if (!decode_unicode(raw, &at, out)) {
            out->size = before;
            return false;
        }
    }
    return true;
}

bool json_decode_integer(struct slice raw, int64_t *number) {
    return number_parse_integer(raw, number);
}

/* --- writing ---------------------------------------------------------------------------------- */

void json_append_text(struct buffer *out, const char *text) {
    buffer_append(out, text, strlen(text));
}

static void append_escaped(struct buffer *out, uint8_t c) {
    static const char short_forms[] = "\bb\ff\nn\rr\tt\"\"\\\\";
    for (const char *form = short_forms; *form != '\0'; form += 2) {
        if ((uint8_t)form[0] == c) {
            buffer_put_u8(out, '\\');
            buffer_put_u8(out, (uint8_t)form[1]);
            return;
        }
    }
    char text[8];
    snprintf(text, sizeof text, "\\u%04x", (unsigned)c);
    json_append_text(out, text);
}

static bool needs_escape(uint8_t c) {
    return c < 0x20 || c == '"' || c == '\\' || c == 0x7F;
}

void json_append_string(struct buffer *out, struct slice text) {
    size_t plain = 0;
    buffer_reserve(out, text.size + 2);
    buffer_put_u8(out, '"');
    for (size_t at = 0; at < text.size; at++) {
        if (needs_escape(text.data[at])) {
            buffer_append(out, text.data + plain, at - plain);
            append_escaped(out, text.data[at]);
            plain = at + 1;
        }
    }
    if (text.size > plain) {
        buffer_append(out, text.data + plain, text.size - plain);
    }
    buffer_put_u8(out, '"');
}

void json_append_unsigned(struct buffer *out, uint64_t number) {
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, number);
    json_append_text(out, text);
}

void json_append_integer(struct buffer *out, int64_t number) {
    char text[24];
    snprintf(text, sizeof text, "%" PRId64, number);
    json_append_text(out, text);
}

void json_append_double(struct buffer *out, double number) {
    char text[40];
    snprintf(text, sizeof text, "%.3f", number);
    json_append_text(out, text);
}

/* --- base64 ----------------------------------------------------------------------------------- */

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void base64_encode(struct slice bytes, struct buffer *out) {
    buffer_reserve(out, (bytes.size + 2) / 3 * 4);
    for (size_t at = 0; at < bytes.size; at += 3) {
        size_t n = bytes.size - at < 3 ? bytes.size - at : 3;
        uint32_t group = (uint32_t)bytes.data[at] << 16;
        group |= n > 1 ? (uint32_t)bytes.data[at + 1] << 8 : 0;
        group |= n > 2 ? bytes.data[at + 2] : 0;
        for (size_t i = 0; i < 4; i++) {
            buffer_put_u8(out, i <= n ? (uint8_t)alphabet[group >> (18 - 6 * i) & 63] : '=');
        }
    }
}

static int base64_digit(uint8_t c) {
    if (c >= 'A' && c <= 'Z') {
        return c - 'A';
    }
    if (c >= 'a' && c <= 'z') {
        return c - 'a' + 26;
    }
    if (c >= '0' && c <= '9') {
        return c - '0' + 52;
    }
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Four characters; `n` of them are digits, the others padding. */
static bool decode_group(const uint8_t *text, size_t n, struct buffer *out) {
    uint32_t group = 0;
    for (size_t i = 0; i < n; i++) {
        int digit = base64_digit(text[i]);
        if (digit < 0) {
            return false;
        }
        group |= (uint32_t)digit << (18 - 6 * i);
    }
    if ((n == 2 && (group & 0xFFFF) != 0) || (n == 3 && (group & 0xFF) != 0)) {
        return false;
    }
    for (size_t i = 0; i + 1 < n; i++) {
        buffer_put_u8(out, (uint8_t)(group >> (16 - 8 * i)));
    }
    return true;
}

bool base64_decode(struct slice text, struct buffer *out) {
    size_t before = out->size;
    if (text.size % 4 != 0) {
        return false;
    }
    buffer_reserve(out, text.size / 4 * 3);
    for (size_t at = 0; at < text.size; at += 4) {
        const uint8_t *group = text.data + at;
        size_t n = 4;
        if (at + 4 == text.size && group[3] == '=') {
            n = group[2] == '=' ? 2 : 3;
        }
        if (!decode_group(group, n, out)) {
            out->size = before;
            return false;
        }
    }
    return true;
}
