/* Texts of a history, each kept once and known by a number. */
#ifndef CHAOS_CHECK_TEXTS_H
#define CHAOS_CHECK_TEXTS_H

#include <stdint.h>

#include "base/bytes.h"

/* A zeroed struct is empty. Numbers begin with 1. */
struct texts {
    struct slice *list; /* of `n`, by number - 1 */
    uint32_t n;
    uint32_t capacity;
    uint32_t *table; /* hash to number, 0: empty */
    uint32_t slots;
    uint8_t *block; /* memory for the bytes; blocks are chained through their first word */
    size_t block_used;
    uint64_t bytes; /* all memory in use */
};

/* The number of this text, a new one when it was not there. */
uint32_t texts_add(struct texts *texts, struct slice text);
/* The number, or 0 when the text was never added. */
uint32_t texts_find(const struct texts *texts, struct slice text);
/* Empty for number 0. Valid as long as `texts`. */
struct slice texts_get(const struct texts *texts, uint32_t number);
void texts_free(struct texts *texts);

#endif
