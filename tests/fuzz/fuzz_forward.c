/* Decoders of forwarded operations and their answers. The first byte picks the type (lowest bit)
 * and whether what follows the header comes as an attachment (next bit): then a u16 gives the
 * header's size. What decodes must encode to a message that decodes to the same. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/assert.h"
#include "node/forward.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_forward(const struct peer_message *message) {
    struct forward forward;
    struct forward again;
    if (!forward_decode(message, &forward)) {
        return;
    }
    struct buffer header = {0};
    struct payload *attachment = NULL;
    struct peer_message encoded;
    forward_encode(&forward, message->group, &header, &attachment, &encoded);
    ASSERT(forward_decode(&encoded, &again));
    ASSERT(again.term == forward.term && again.stream == forward.stream);
    ASSERT(again.boot == forward.boot && again.sequence == forward.sequence);
    ASSERT(again.flags == forward.flags && slice_equal(again.command, forward.command));
    payload_unref(attachment);
    buffer_free(&header);
}

static void try_reply(const struct peer_message *message) {
    struct forward_reply reply;
    struct forward_reply again;
    if (forward_reply_decode(message, &reply)) {
        struct buffer header = {0};
        struct payload *attachment = NULL;
        struct peer_message encoded;
        if (reply.kind == FORWARD_REPLY_BULK) {
            reply.kind = FORWARD_REPLY_RESULT; /* which of the two is the encoder's choice */
        }
        (void)forward_reply_encode(&reply, message->group, &header, &attachment, &encoded);
        ASSERT(forward_reply_decode(&encoded, &again));
        ASSERT(again.term == reply.term && again.stream == reply.stream);
        ASSERT(again.boot == reply.boot && again.sequence == reply.sequence);
        ASSERT(again.result.kind == reply.result.kind && again.result.code == reply.result.code);
        ASSERT(again.result.integer == reply.result.integer);
        ASSERT(slice_equal(buffer_slice(&again.result.data), buffer_slice(&reply.result.data)));
        result_free(&again.result);
        payload_unref(attachment);
        buffer_free(&header);
    }
    result_free(&reply.result);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct reader reader = reader_make(slice_make(data, size));
    uint8_t choice = reader_u8(&reader);
    struct payload *attachment = NULL;
    struct peer_message message = {.group = 3};
    if (choice & 2) {
        uint16_t header_size = reader_u16(&reader);
        message.header = reader_take(&reader, header_size);
        attachment = payload_copy(reader.rest);
        message.n_attachments = 1;
        message.attachments = &attachment;
    } else {
        message.header = reader.rest;
    }
    if (choice & 1) {
        message.type = PEER_MESSAGE_REPLY;
        try_reply(&message);
    } else {
        message.type = PEER_MESSAGE_FORWARD;
        try_forward(&message);
    }
    payload_unref(attachment);
    return 0;
}
