#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/resp.h"

enum {
    /* Type byte, sign, 19 digits, CR LF, and room to spare. */
    NUMBER_LINE_SIZE = 32,
    DOUBLE_TEXT_SIZE = 32
};

static void write_end_of_line(struct buffer *out) {
    buffer_append(out, "\r\n", 2);
}

/* "<type><value>\r\n", built from the last digit backwards: this runs once per reply. */
static void write_number_line(struct buffer *out, char type, int64_t value) {
    char line[NUMBER_LINE_SIZE];
    char *at = line + sizeof line;
    /* Through unsigned, because INT64_MIN has no positive counterpart. */
    uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    *--at = '\n';
    *--at = '\r';
    do {
        *--at = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest > 0);
    if (value < 0) {
        *--at = '-';
    }
    *--at = type;
    buffer_append(out, at, (size_t)(line + sizeof line - at));
}

static void write_count_line(struct buffer *out, char type, size_t count) {
    ASSERT(count <= INT64_MAX);
    write_number_line(out, type, (int64_t)count);
}

/* Text of a one-line reply: a line end inside it would start a reply of its own. */
static void write_one_line(struct buffer *out, const char *text) {
    size_t size = strlen(text);
    buffer_reserve(out, size + 2);
    for (size_t i = 0; i < size; i++) {
        bool ends_line = text[i] == '\r' || text[i] == '\n';
        out->data[out->size++] = ends_line ? ' ' : (uint8_t)text[i];
    }
}

void resp_write_simple(struct buffer *out, const char *text) {
    buffer_put_u8(out, '+');
    write_one_line(out, text);
    write_end_of_line(out);
}

void resp_write_error(struct buffer *out, const char *prefix, const char *text) {
    buffer_put_u8(out, '-');
    write_one_line(out, prefix);
    buffer_put_u8(out, ' ');
    write_one_line(out, text);
    write_end_of_line(out);
}

void resp_write_integer(struct buffer *out, int64_t value) {
    write_number_line(out, ':', value);
}

void resp_write_bulk(struct buffer *out, struct slice bytes) {
    ASSERT(bytes.size <= SIZE_MAX - NUMBER_LINE_SIZE - 2);
    buffer_reserve(out, bytes.size + NUMBER_LINE_SIZE + 2);
    resp_write_bulk_header(out, bytes.size);
    buffer_append_slice(out, bytes);
    write_end_of_line(out);
}

void resp_write_bulk_header(struct buffer *out, size_t size) {
    write_count_line(out, '$', size);
}

void resp_write_null(struct buffer *out, int version) {
    buffer_append_slice(out, slice_of(version >= 3 ? "_\r\n" : "$-1\r\n"));
}

void resp_write_null_array(struct buffer *out, int version) {
    buffer_append_slice(out, slice_of(version >= 3 ? "_\r\n" : "*-1\r\n"));
}

void resp_write_bool(struct buffer *out, bool value, int version) {
    if (version >= 3) {
        buffer_append_slice(out, slice_of(value ? "#t\r\n" : "#f\r\n"));
    } else {
        resp_write_integer(out, value ? 1 : 0);
    }
}

/* The shortest decimal that reads back as the same number. */
static void double_to_text(double value, char text[DOUBLE_TEXT_SIZE]) {
    if (isnan(value)) {
        snprintf(text, DOUBLE_TEXT_SIZE, "nan");
        return;
    }
    if (isinf(value)) {
        snprintf(text, DOUBLE_TEXT_SIZE, value > 0 ? "inf" : "-inf");
        return;
    }
    /* 15 digits always survive the way to a double and back, 17 always identify one. */
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, DOUBLE_TEXT_SIZE, "%.*g", digits, value);
        if (strtod(text, NULL) == value) {
            return;
        }
    }
}

void resp_write_double(struct buffer *out, double value, int version) {
    char text[DOUBLE_TEXT_SIZE];
    double_to_text(value, text);
    if (version < 3) {
        resp_write_bulk(out, slice_of(text));
        return;
    }
    buffer_put_u8(out, ',');
    buffer_append_slice(out, slice_of(text));
    write_end_of_line(out);
}

void resp_write_array(struct buffer *out, size_t count) {
    write_count_line(out, '*', count);
}

void resp_write_push(struct buffer *out, size_t count, int version) {
    write_count_line(out, version >= 3 ? '>' : '*', count);
}

void resp_write_map(struct buffer *out, size_t pairs, int version) {
    ASSERT(pairs <= SIZE_MAX / 2);
    if (version >= 3) {
        write_count_line(out, '%', pairs);
    } else {
        write_count_line(out, '*', pairs * 2);
    }
}
