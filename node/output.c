#include "node/output.h"

#include "base/assert.h"
#include "base/mem.h"

struct output_chunk {
    struct output_chunk *next;
    struct buffer bytes;
    bool is_linked; /* holds one moved buffer: nothing is appended to it */
};

static struct output_chunk *output_add(struct output *output, bool is_linked) {
    struct output_chunk *chunk = mem_zalloc(1, sizeof *chunk);
    chunk->is_linked = is_linked;
    if (output->last == NULL) {
        output->first = chunk;
    } else {
        output->last->next = chunk;
    }
    output->last = chunk;
    return chunk;
}

struct buffer *output_tail(struct output *output) {
    struct output_chunk *last = output->last;
    if (last == NULL || last->is_linked || last->bytes.size >= OUTPUT_CHUNK_SIZE) {
        last = output_add(output, false);
    }
    return &last->bytes;
}

void output_move(struct output *output, struct buffer *bytes) {
    if (bytes->size < OUTPUT_LINK_SIZE) {
        buffer_append_slice(output_tail(output), buffer_slice(bytes));
        buffer_free(bytes);
        return;
    }
    output_add(output, true)->bytes = *bytes;
    *bytes = (struct buffer){0};
}

void output_append(struct output *to, struct output *from) {
    if (from->first == NULL) {
        return;
    }
    if (to->first == NULL) {
        output_free(to);
        *to = *from;
    } else {
        ASSERT(from->offset == 0);
        to->last->next = from->first;
        to->last = from->last;
    }
    *from = (struct output){0};
}

bool output_is_empty(const struct output *output) {
    struct slice next;
    return output_peek(output, &next, 1) == 0;
}

size_t output_size(const struct output *output) {
    size_t size = 0;
    for (const struct output_chunk *chunk = output->first; chunk != NULL; chunk = chunk->next) {
        size += chunk->bytes.size;
    }
    ASSERT(size >= output->offset);
    return size - output->offset;
}

unsigned output_peek(const struct output *output, struct slice *slices, unsigned max) {
    unsigned n = 0;
    size_t offset = output->offset;
    for (const struct output_chunk *chunk = output->first; chunk != NULL && n < max;
         chunk = chunk->next) {
        if (chunk->bytes.size > offset) {
            slices[n++] = slice_make(chunk->bytes.data + offset, chunk->bytes.size - offset);
        }
        offset = 0;
    }
    return n;
}

static void output_drop_first(struct output *output) {
    struct output_chunk *chunk = output->first;
    output->first = chunk->next;
    if (output->first == NULL) {
        output->last = NULL;
    }
    output->offset = 0;
    buffer_free(&chunk->bytes);
    mem_free(chunk);
}

void output_consume(struct output *output, size_t size) {
    while (output->first != NULL && size >= output->first->bytes.size - output->offset) {
        size -= output->first->bytes.size - output->offset;
        output_drop_first(output);
    }
    ASSERT(size == 0 || output->first != NULL);
    output->offset += size;
}

void output_free(struct output *output) {
    while (output->first != NULL) {
        output_drop_first(output);
    }
}
