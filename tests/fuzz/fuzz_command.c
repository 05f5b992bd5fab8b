/* Decoders of commands, batches and results. The first byte picks one. What decodes must encode to
 * the same bytes: there is one way to write each. */
#include <stddef.h>
#include <stdint.h>

#include "base/assert.h"
#include "base/limits.h"
#include "base/mem.h"
#include "node/machine/command.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Appends the command again, argument by argument. */
static void encode_again(struct buffer *out, const struct command *command) {
    struct slice *args = mem_zalloc(command->n_args, sizeof(args[0]));
    struct reader reader = reader_make(command->args);
    for (uint32_t i = 0; i < command->n_args; i++) {
        args[i] = command_next_arg(&reader);
    }
    ASSERT(reader_done(&reader));
    command_encode(out, command, args, command->n_args);
    mem_free(args);
}

static void try_command(struct slice bytes) {
    struct command command;
    struct error error;
    if (command_decode(bytes, &command, &error) != ERROR_NONE) {
        return;
    }
    ASSERT(command.project.size <= LIMIT_PROJECT_NAME);
    struct buffer again = {0};
    encode_again(&again, &command);
    ASSERT(slice_equal(buffer_slice(&again), bytes));
    buffer_free(&again);
}

static void try_batch(struct slice bytes) {
    struct command_batch batch;
    struct error error;
    if (command_batch_decode(bytes, &batch, &error) != ERROR_NONE) {
        return;
    }
    struct buffer again = {0};
    command_batch_begin(&again, batch.time_ms, batch.default_quota);
    bool is_good = true;
    for (unsigned i = 0; i < batch.count && is_good; i++) {
        struct command_origin origin;
        struct command command;
        is_good = command_batch_next(&batch, &origin, &command, &error) == ERROR_NONE;
        if (is_good) {
            struct buffer encoded = {0};
            encode_again(&encoded, &command);
            command_batch_add(&again, origin, buffer_slice(&encoded));
            buffer_free(&encoded);
        }
    }
    ASSERT(!is_good || slice_equal(buffer_slice(&again), bytes));
    buffer_free(&again);
}

static void try_result(struct slice bytes) {
    struct result result;
    struct error error;
    if (result_decode(bytes, &result, &error) != ERROR_NONE) {
        return;
    }
    struct buffer again = {0};
    result_encode(&again, &result);
    ASSERT(slice_equal(buffer_slice(&again), bytes));
    buffer_free(&again);
    result_free(&result);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) {
        return 0;
    }
    struct slice bytes = slice_make(data + 1, size - 1);
    switch (data[0] % 3) {
    case 0:
        try_command(bytes);
        break;
    case 1:
        try_batch(bytes);
        break;
    default:
        try_result(bytes);
        break;
    }
    return 0;
}
