/* Replies as values: hiredis reads them, its objects are ours. A reply costs at most one allocation
 * when it is a string, none when it is a number, a nil or a word such as OK. */
#ifndef CLIENT_VALUE_H
#define CLIENT_VALUE_H

#include <stdbool.h>
#include <stddef.h>

#include <hiredis/hiredis.h>

#include "client/include/invoke_kv.h"
#include "client/src/text.h"

struct value_block;

/* A reply; in a request (request.h), or alone. */
struct ikv_reply {
    int error;
    bool *taken; /* during a callback: where to note that it keeps the reply, which may be freed by
                    another thread before the callback returns */
    bool is_plain; /* not the head of a request */
    char *message; /* or NULL */
    ikv_value value;
    struct value_block *blocks; /* what the value points to */
};

/* Where a reply under construction stands. */
struct value_builder {
    ikv_value root;
    bool filled;
    struct value_block *blocks;
    size_t used; /* bytes and elements of this reply */
    size_t limit;
};

/* A reader whose objects land in the builder, which must outlive it; NULL without memory. */
redisReader *value_reader_new(struct value_builder *builder, size_t limit);

enum value_status { VALUE_READY, VALUE_MORE, VALUE_BROKEN };

/* The next reply, in builder->root, until the next call. VALUE_BROKEN: redisReaderGetError() says
 * why; the reader is of no more use. */
enum value_status value_next(redisReader *reader, struct value_builder *builder);
/* Frees what is in the builder. */
void value_builder_clear(struct value_builder *builder);
/* Moves the builder's value into a reply. */
void value_move(struct value_builder *builder, struct ikv_reply *reply);
/* Sets error and message of a reply; the value becomes IKV_NIL. */
void reply_set_error(struct ikv_reply *reply, int error, const char *text);
/* Frees what the reply holds, not itself. */
void reply_clear(struct ikv_reply *reply);

bool value_is_text(const ikv_value *value, const char *text);
/* Begins with this word, then a blank or nothing. */
bool value_has_prefix(const ikv_value *value, const char *word);
/* IKV_INTEGER, or decimal IKV_STRING. */
bool value_number(const ikv_value *value, int64_t *number);
/* Element behind a name in a map, or NULL. */
const ikv_value *value_field(const ikv_value *map, const char *name);

#endif
