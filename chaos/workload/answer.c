#include "chaos/workload/answer.h"

#include <stdio.h>

#include "base/mem.h"
#include "base/number.h"

void answer_value_free(struct answer_value *value) {
    for (size_t i = 0; value->elements != NULL && i < value->size; i++) {
        answer_value_free(&value->elements[i]); /* replies are at most a few levels deep */
    }
    mem_free(value->elements);
    mem_free(value->data);
    *value = (struct answer_value){0};
}

void answer_reset(struct answer *answer) {
    answer_value_free(&answer->value);
    *answer = (struct answer){0};
}

void answer_set_text(struct answer_value *value, enum answer_type type, const void *data,
                     size_t size) {
    value->type = type;
    value->data = mem_alloc(size + 1);
    if (size > 0) {
        memcpy(value->data, data, size);
    }
    value->data[size] = '\0';
    value->size = size;
}

void answer_fail(struct answer *answer, enum answer_outcome outcome, const char *message) {
    answer_reset(answer);
    answer->outcome = outcome;
    (void)snprintf(answer->message, sizeof answer->message, "%s", message);
}

struct slice answer_text(const struct answer_value *value) {
    return slice_make(value->data, value->data != NULL ? value->size : 0);
}

bool answer_is(const struct answer_value *value, const char *text) {
    return value->type == ANSWER_TEXT && slice_equal(answer_text(value), slice_of(text));
}

int64_t answer_number(const struct answer_value *value, int64_t otherwise) {
    int64_t number;
    if (value->type == ANSWER_INTEGER) {
        return value->integer;
    }
    return value->type == ANSWER_TEXT && number_parse_integer(answer_text(value), &number)
               ? number
               : otherwise;
}
