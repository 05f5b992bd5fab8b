/* The RESP parser against arbitrary bytes. The first byte of the input chooses how the rest is cut
 * into reads; whatever the cut, the commands must be the same as with single bytes, every slice
 * must be readable, and memory must stay within what the limits allow. */
#include <stddef.h>
#include <stdint.h>

#include "base/assert.h"
#include "base/crc32c.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/resp.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct resp_limits LIMITS = {
    .max_args = 16, .max_bulk = 40 * 1000, .max_request = 60 * 1000, .max_inline = 64};

/* The smallest input buffer, doubled until arguments, headers and one read fit, large arguments
 * beside it, and the parser with its argument list. */
static size_t memory_bound(void) {
    size_t headers = LIMITS.max_args * 16 + LIMITS.max_inline;
    size_t command = LIMITS.max_request + headers + 4 * KIB;
    return 2 * command + LIMITS.max_request + 16 * KIB + 4 * KIB;
}

/* Everything that a run of the parser told its caller, as a checksum. */
struct outcome {
    uint32_t checksum;
    unsigned commands;
    bool broken;
};

static void outcome_add_command(struct outcome *outcome, const struct resp_command *command) {
    ASSERT(command->argc <= LIMITS.max_args);
    size_t total = 0;
    uint32_t sum = crc32c(outcome->checksum, &command->argc, sizeof command->argc);
    for (unsigned i = 0; i < command->argc; i++) {
        struct slice arg = command->argv[i];
        ASSERT(arg.size <= LIMITS.max_bulk);
        total += arg.size;
        sum = crc32c(sum, &arg.size, sizeof arg.size);
        sum = crc32c(sum, arg.data, arg.size);
    }
    ASSERT(total <= LIMITS.max_request);
    ASSERT(command->oversized == 0 || command->oversized > LIMITS.max_bulk);
    outcome->checksum = crc32c(sum, &command->oversized, sizeof command->oversized);
    outcome->commands++;
}

static void outcome_drain(struct outcome *outcome, struct resp_parser *parser) {
    for (;;) {
        struct resp_command command;
        enum resp_status status = resp_parser_next(parser, &command);
        ASSERT(resp_parser_memory(parser) <= memory_bound());
        if (status == RESP_MORE) {
            return;
        }
        if (status == RESP_BROKEN) {
            const char *text = resp_parser_error(parser);
            ASSERT(text[0] != '\0');
            outcome->checksum = crc32c(outcome->checksum, text, strlen(text));
            outcome->broken = true;
            return;
        }
        outcome_add_command(outcome, &command);
    }
}

/* Size of the next read: cycles through sizes that depend on `cut`. */
static size_t read_size(unsigned cut, unsigned nth) {
    static const size_t sizes[] = {1, 2, 3, 7, 61, 1000, 4096, 20000};
    return sizes[(cut + nth * (cut >> 3)) % 8];
}

static struct outcome parse(struct slice bytes, unsigned cut, bool single_bytes) {
    struct outcome outcome = {0};
    struct resp_parser *parser = resp_parser_new(&LIMITS);
    for (unsigned nth = 0; bytes.size > 0 && !outcome.broken; nth++) {
        uint8_t *at = NULL;
        size_t room = 0;
        size_t size = single_bytes ? 1 : read_size(cut, nth);
        resp_parser_space(parser, &at, &room);
        ASSERT(room > 0);
        size = size < room ? size : room;
        size = size < bytes.size ? size : bytes.size;
        memcpy(at, bytes.data, size);
        resp_parser_filled(parser, size);
        bytes = slice_make(bytes.data + size, bytes.size - size);
        outcome_drain(&outcome, parser);
    }
    resp_parser_free(parser);
    return outcome;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) {
        return 0;
    }
    struct slice bytes = slice_make(data + 1, size - 1);
    struct outcome cut = parse(bytes, data[0], false);
    struct outcome single = parse(bytes, 0, true);
    ASSERT(cut.checksum == single.checksum);
    ASSERT(cut.commands == single.commands);
    ASSERT(cut.broken == single.broken);
    return 0;
}
