/* What came of a command, whichever way it went. */
#ifndef CHAOS_WORKLOAD_ANSWER_H
#define CHAOS_WORKLOAD_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

enum answer_type {
    ANSWER_NIL,
    ANSWER_INTEGER,
    ANSWER_TEXT, /* also a status such as OK */
    ANSWER_ARRAY,
    ANSWER_ERROR /* within an array */
};

struct answer_value {
    enum answer_type type;
    int64_t integer;
    uint8_t *data; /* ANSWER_TEXT, ANSWER_ERROR; a NUL follows */
    size_t size;   /* of `data`, or of `elements` */
    struct answer_value *elements;
};

enum answer_outcome { ANSWER_OK, ANSWER_FAIL, ANSWER_UNKNOWN };

enum { ANSWER_MESSAGE = 160 };

/* A zeroed struct is empty. */
struct answer {
    enum answer_outcome outcome;
    char message[ANSWER_MESSAGE]; /* why it is not OK */
    struct answer_value value;
};

void answer_value_free(struct answer_value *value);
/* Frees what is in it, and leaves it empty. */
void answer_reset(struct answer *answer);
void answer_set_text(struct answer_value *value, enum answer_type type, const void *data,
                     size_t size);
void answer_fail(struct answer *answer, enum answer_outcome outcome, const char *message);
struct slice answer_text(const struct answer_value *value);
bool answer_is(const struct answer_value *value, const char *text);
/* The number of an integer, or of a text that is one; `otherwise` if it is none. */
int64_t answer_number(const struct answer_value *value, int64_t otherwise);

#endif
