#include "node/forward.h"

#include <string.h>

enum { KIND_WITH_INDEX = 0x80 };

static void finish(uint8_t type, uint16_t shard, struct slice body, struct buffer *header,
                   struct payload **attachment, struct peer_message *message) {
    bool large = body.size > FORWARD_INLINE_MAX;
    *attachment = NULL;
    if (large) {
        *attachment = payload_copy(body);
    } else {
        buffer_append_slice(header, body);
    }
    *message = (struct peer_message){.type = type,
                                     .group = shard,
                                     .header = buffer_slice(header),
                                     .n_attachments = large ? 1 : 0,
                                     .attachments = large ? attachment : NULL};
}

/* The part behind the fixed fields: inline or attached, but not both. */
static bool body_of(const struct peer_message *message, struct reader *reader, struct slice *body) {
    if (message->n_attachments == 0) {
        *body = reader_take(reader, reader->rest.size);
        return true;
    }
    *body = payload_slice(message->attachments[0]);
    return message->n_attachments == 1 && reader_done(reader);
}

void forward_encode(const struct forward *forward, uint16_t shard, struct buffer *header,
                    struct payload **attachment, struct peer_message *message) {
    buffer_put_u64(header, forward->term);
    buffer_put_u64(header, forward->stream);
    buffer_put_u64(header, forward->boot);
    buffer_put_u64(header, forward->sequence);
    buffer_put_u8(header, forward->flags);
    finish(PEER_MESSAGE_FORWARD, shard, forward->command, header, attachment, message);
}

bool forward_decode(const struct peer_message *message, struct forward *forward) {
    struct reader reader = reader_make(message->header);
    forward->term = reader_u64(&reader);
    forward->stream = reader_u64(&reader);
    forward->boot = reader_u64(&reader);
    forward->sequence = reader_u64(&reader);
    forward->flags = reader_u8(&reader);
    if (reader.failed || !body_of(message, &reader, &forward->command)) {
        return false;
    }
    struct command command;
    if (command_decode(forward->command, &command, NULL) != ERROR_NONE) {
        return false;
    }
    bool is_write = (forward->flags & FORWARD_WRITE) != 0;
    bool is_fence = (forward->flags & FORWARD_FENCE) != 0;
    bool after_writes = (forward->flags & FORWARD_AFTER_WRITES) != 0;
    const unsigned known = FORWARD_WRITE | FORWARD_AFTER_WRITES | FORWARD_FENCE;
    return command_is_write(command.kind) == is_write && !(is_write && after_writes) &&
           (command.kind == COMMAND_FENCE) == is_fence && (forward->flags & ~known) == 0;
}

static bool is_result(unsigned kind) {
    return kind == FORWARD_REPLY_RESULT || kind == FORWARD_REPLY_BULK;
}

enum peer_lane forward_reply_encode(const struct forward_reply *reply, uint16_t shard,
                                    struct buffer *header, struct payload **attachment,
                                    struct peer_message *message) {
    struct buffer encoded = {0};
    bool large = reply->kind == FORWARD_REPLY_RESULT && reply->result.kind == RESULT_BULK &&
                 reply->result.data.size > FORWARD_INLINE_MAX;
    struct slice body = {0};
    if (large) {
        body = buffer_slice(&reply->result.data);
    } else if (reply->kind == FORWARD_REPLY_RESULT || reply->kind == FORWARD_REPLY_FAILED) {
        result_encode(&encoded, &reply->result);
        body = buffer_slice(&encoded);
    }
    buffer_put_u64(header, reply->term);
    buffer_put_u64(header, reply->stream);
    buffer_put_u64(header, reply->boot);
    buffer_put_u64(header, reply->sequence);
    unsigned kind = large ? FORWARD_REPLY_BULK : reply->kind;
    if (is_result(kind) && reply->index > 0) {
        buffer_put_u8(header, (uint8_t)(kind | KIND_WITH_INDEX));
        buffer_put_u64(header, reply->index);
    } else {
        buffer_put_u8(header, (uint8_t)kind);
    }
    finish(PEER_MESSAGE_REPLY, shard, body, header, attachment, message);
    buffer_free(&encoded);
    return *attachment != NULL ? PEER_LANE_BULK : PEER_LANE_NORMAL;
}

bool forward_reply_decode(const struct peer_message *message, struct forward_reply *reply) {
    struct reader reader = reader_make(message->header);
    struct slice body;
    memset(reply, 0, sizeof *reply);
    reply->term = reader_u64(&reader);
    reply->stream = reader_u64(&reader);
    reply->boot = reader_u64(&reader);
    reply->sequence = reader_u64(&reader);
    unsigned kind = reader_u8(&reader);
    if ((kind & KIND_WITH_INDEX) != 0) {
        kind -= KIND_WITH_INDEX;
        reply->index = reader_u64(&reader);
        if (!is_result(kind) || reply->index == 0) {
            return false;
        }
    }
    if (reader.failed || !body_of(message, &reader, &body)) {
        return false;
    }
    reply->kind = (enum forward_reply_kind)kind;
    switch (kind) {
    case FORWARD_REPLY_RESULT:
        return result_decode(body, &reply->result, NULL) == ERROR_NONE;
    case FORWARD_REPLY_BULK:
        reply->result.kind = RESULT_BULK;
        buffer_append_slice(&reply->result.data, body);
        return true;
    case FORWARD_REPLY_REFUSED:
        return body.size == 0;
    case FORWARD_REPLY_FAILED:
        return result_decode(body, &reply->result, NULL) == ERROR_NONE &&
               reply->result.kind == RESULT_ERROR;
    default:
        return false;
    }
}
