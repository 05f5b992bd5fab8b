/* Bytes on their way to a socket, in order: a list of chunks. Small replies share a chunk; a large
 * buffer is linked as a chunk of its own, without copying. Pure. A zeroed struct is empty. */
#ifndef NODE_OUTPUT_H
#define NODE_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/bytes.h"

struct output_chunk;

struct output {
    struct output_chunk *first;
    struct output_chunk *last;
    size_t offset; /* bytes of the first chunk that are consumed already */
};

enum {
    OUTPUT_CHUNK_SIZE = 16 * 1024, /* small replies gather in chunks of about this size */
    OUTPUT_LINK_SIZE = 4 * 1024    /* from this size on output_move() links instead of copying */
};

/* The buffer that small replies are appended to. Valid until the next call on the output. */
struct buffer *output_tail(struct output *output);

/* Appends the bytes and leaves `bytes` empty. */
void output_move(struct output *output, struct buffer *bytes);

/* Moves everything from `from` to the end of `to`. `from` must not be partly consumed, unless `to`
 * is empty. */
void output_append(struct output *to, struct output *from);

bool output_is_empty(const struct output *output);
/* Walks the chunks: not for hot paths with very many of them. */
size_t output_size(const struct output *output);

/* Fills up to `max` slices with what comes next; returns how many. */
unsigned output_peek(const struct output *output, struct slice *slices, unsigned max);
/* The first `size` bytes were sent; frees what is done. */
void output_consume(struct output *output, size_t size);
void output_free(struct output *output);

#endif
