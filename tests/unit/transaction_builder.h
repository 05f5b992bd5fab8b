/* Puts a transaction together, command by command. A zeroed struct is empty; freed when encoded. */
#ifndef TESTS_UNIT_TRANSACTION_BUILDER_H
#define TESTS_UNIT_TRANSACTION_BUILDER_H

#include "base/bytes.h"
#include "base/mem.h"
#include "node/machine/command.h"

struct transaction_builder {
    struct buffer watches; /* u32+ each argument */
    struct buffer nested;
    uint32_t n_watched;
    uint32_t n_nested;
};

static inline void builder_watch(struct transaction_builder *builder, struct slice key,
                                 uint64_t version) {
    uint8_t number[sizeof(uint64_t)];
    bytes_put_u64(number, version);
    buffer_put_bytes(&builder->watches, key);
    buffer_put_bytes(&builder->watches, slice_make(number, sizeof(number)));
    builder->n_watched++;
}

static inline void builder_add(struct transaction_builder *builder, const struct command *command,
                               const struct slice *args, uint32_t n_args) {
    struct buffer encoded = {0};
    command_encode(&encoded, command, args, n_args);
    buffer_put_bytes(&builder->nested, buffer_slice(&encoded));
    buffer_free(&encoded);
    builder->n_nested++;
}

/* `outer` has the kind and the project. */
static inline struct buffer builder_encode(struct transaction_builder *builder,
                                           const struct command *outer) {
    uint32_t n_args = 1 + 2 * builder->n_watched + builder->n_nested;
    struct slice *args = mem_zalloc(n_args, sizeof(args[0]));
    struct reader watches = reader_make(buffer_slice(&builder->watches));
    struct reader nested = reader_make(buffer_slice(&builder->nested));
    uint8_t number[sizeof(uint64_t)];
    bytes_put_u64(number, builder->n_watched);
    args[0] = slice_make(number, sizeof(number));
    for (uint32_t i = 1; i < n_args; i++) {
        args[i] = reader_bytes(i <= 2 * builder->n_watched ? &watches : &nested);
    }
    struct buffer bytes = {0};
    command_encode(&bytes, outer, args, n_args);
    mem_free(args);
    buffer_free(&builder->watches);
    buffer_free(&builder->nested);
    *builder = (struct transaction_builder){0};
    return bytes;
}

#endif
