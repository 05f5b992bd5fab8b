#include "tests/sim/line.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "tests/sim/cluster.h"
#include "tests/sim/network.h"

enum { COMMAND_MAX = 8192 };

struct line {
    struct line_events events;
    void *data;
    struct endpoint *endpoint;
    bool up;
    struct buffer in;
    struct buffer out;
    size_t out_at;
    struct line_value values[LINE_VALUES];
    unsigned n_values;
};

struct line *line_new(const struct line_events *events, void *data) {
    struct line *line = sim_alloc(sizeof *line);
    line->events = *events;
    line->data = data;
    return line;
}

bool line_is_up(const struct line *line) {
    return line->up;
}

bool line_is(const struct line_value *value, const char *text) {
    return (value->kind == LINE_BULK || value->kind == LINE_TEXT) &&
           value->text.size == strlen(text) && memcmp(value->text.data, text, strlen(text)) == 0;
}

bool line_is_error(const struct line_value *value, const char *prefix) {
    return value->kind == LINE_ERROR && value->text.size >= strlen(prefix) &&
           memcmp(value->text.data, prefix, strlen(prefix)) == 0;
}

/* ---- replies ---- */

/* The line that starts at *at, without its end; false when it is not whole yet. */
static bool take_line(struct slice in, size_t *at, struct slice *text) {
    const uint8_t *end = memchr(in.data + *at, '\r', in.size - *at);
    if (end == NULL || (size_t)(end - in.data) + 2 > in.size) {
        return false;
    }
    *text = slice_make(in.data + *at + 1, (size_t)(end - in.data) - *at - 1);
    *at = (size_t)(end - in.data) + 2;
    return true;
}

static bool take_value(struct line *line, struct slice in, size_t *at) {
    struct slice text;
    if (*at >= in.size) {
        return false;
    }
    char type = (char)in.data[*at];
    if (!take_line(in, at, &text)) {
        return false;
    }
    ASSERT(line->n_values < LINE_VALUES);
    struct line_value *value = &line->values[line->n_values++];
    *value = (struct line_value){.kind = LINE_TEXT, .text = text};
    value->integer = strtoll((const char *)text.data, NULL, 10);
    switch (type) {
    case '+':
        break;
    case '-':
        value->kind = LINE_ERROR;
        break;
    case ':':
        value->kind = LINE_INTEGER;
        break;
    case '$':
        value->kind = value->integer < 0 ? LINE_NIL : LINE_BULK;
        if (value->integer >= 0) {
            if (in.size - *at < (size_t)value->integer + 2) {
                return false;
            }
            value->text = slice_make(in.data + *at, (size_t)value->integer);
            *at += (size_t)value->integer + 2;
        }
        break;
    case '*':
        value->kind = value->integer < 0 ? LINE_NIL : LINE_ARRAY;
        for (int64_t i = 0; i < value->integer; i++) {
            if (!take_value(line, in, at)) {
                return false;
            }
        }
        break;
    default:
        sim_fail("REPLY not RESP: 0x%02x", (unsigned)in.data[0]);
    }
    value->next = &line->values[line->n_values];
    return true;
}

static void hand_out(struct line *line) {
    size_t at = 0;
    while (line->up) {
        size_t end = at;
        line->n_values = 0;
        if (!take_value(line, buffer_slice(&line->in), &end)) {
            break;
        }
        at = end;
        line->events.reply(line->data, &line->values[0]);
    }
    if (line->up && at > 0) {
        memmove(line->in.data, line->in.data + at, line->in.size - at);
        line->in.size -= at;
    }
}

/* ---- the connection ---- */

void line_close(struct line *line) {
    if (line->endpoint != NULL) {
        net_close(line->endpoint);
        line->endpoint = NULL;
    }
    line->up = false;
    line->in.size = 0;
    line->out.size = 0;
    line->out_at = 0;
}

static void go_down(struct line *line) {
    line_close(line);
    line->events.down(line->data);
}

static void flush(struct line *line) {
    while (line->out_at < line->out.size) {
        size_t n =
            net_send(line->endpoint, line->out.data + line->out_at, line->out.size - line->out_at);
        if (n == 0) {
            return;
        }
        line->out_at += n;
    }
    line->out.size = 0;
    line->out_at = 0;
}

static void on_readable(struct line *line) {
    uint8_t data[16 * 1024];
    bool end = false;
    size_t n;
    while ((n = net_receive(line->endpoint, data, sizeof data, &end)) > 0) {
        buffer_append(&line->in, data, n);
        if (end) {
            break;
        }
    }
    hand_out(line);
    if (end && line->up) {
        go_down(line);
    }
}

static void on_event(void *data, enum net_event event) {
    struct line *line = data;
    switch (event) {
    case NET_CONNECTED:
        line->up = true;
        line->events.up(line->data);
        break;
    case NET_READABLE:
        on_readable(line);
        break;
    case NET_WRITABLE:
        flush(line);
        break;
    case NET_REFUSED:
    case NET_BROKEN:
        go_down(line);
        break;
    }
}

void line_open(struct line *line, unsigned node) {
    ASSERT(line->endpoint == NULL);
    line->endpoint = net_connect(0, NULL, node, CLIENT_PORT, on_event, line);
}

void line_send(struct line *line, const char *format, ...) {
    char text[COMMAND_MAX];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    ASSERT(line->up && size > 0 && size < COMMAND_MAX);
    unsigned n_words = 1;
    for (const char *at = strchr(text, ' '); at != NULL; at = strchr(at + 1, ' ')) {
        n_words++;
    }
    char head[32];
    int n = snprintf(head, sizeof head, "*%u\r\n", n_words);
    buffer_append(&line->out, head, (size_t)n);
    for (const char *word = text; word != NULL;) {
        const char *blank = strchr(word, ' ');
        size_t length = blank != NULL ? (size_t)(blank - word) : strlen(word);
        n = snprintf(head, sizeof head, "$%zu\r\n", length);
        buffer_append(&line->out, head, (size_t)n);
        buffer_append(&line->out, word, length);
        buffer_append(&line->out, "\r\n", 2);
        word = blank != NULL ? blank + 1 : NULL;
    }
    flush(line);
}
