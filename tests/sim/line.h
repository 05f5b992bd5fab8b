/* A connection of a simulated client that speaks RESP2: one command after the other, replies as
 * trees. It is used by workloads.c; client.c has its own, which is quicker with many small replies.
 */
#ifndef SIM_LINE_H
#define SIM_LINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

enum { LINE_VALUES = 512 /* values of one reply, nested ones included */ };

enum line_kind { LINE_NIL, LINE_TEXT, LINE_ERROR, LINE_INTEGER, LINE_BULK, LINE_ARRAY };

/* `text` is valid during the call that hands the value out. */
struct line_value {
    enum line_kind kind;
    int64_t integer; /* of an array: how many items follow it */
    struct slice text;
    const struct line_value *next; /* behind this value and all its items */
};

struct line;

struct line_events {
    void (*up)(void *data);
    /* A reply, or an event of a watch. */
    void (*reply)(void *data, const struct line_value *value);
    /* The connection is gone, or was never made. Replies that did not come never will. */
    void (*down)(void *data);
};

struct line *line_new(const struct line_events *events, void *data);
/* Connects to a node; the line must be down. */
void line_open(struct line *line, unsigned node);
/* Closes without a call of `down`. */
void line_close(struct line *line);
bool line_is_up(const struct line *line);
/* Sends a command, given as words between blanks. */
void line_send(struct line *line, const char *format, ...) __attribute__((format(printf, 2, 3)));

bool line_is(const struct line_value *value, const char *text);
/* An error that begins with this word. */
bool line_is_error(const struct line_value *value, const char *prefix);

#endif
