#include "raft/snapshot_message.h"

#include "base/assert.h"

bool snapshot_id_equal(struct snapshot_id a, struct snapshot_id b) {
    return a.boot == b.boot && a.counter == b.counter;
}

static void put_info(struct buffer *out, const struct snapshot_info *info) {
    ASSERT(info->config.size <= SNAPSHOT_CONFIG_MAX);
    buffer_put_u64(out, info->leader_term);
    buffer_put_u64(out, info->index);
    buffer_put_u64(out, info->term);
    buffer_put_u64(out, info->config_index);
    buffer_put_u64(out, info->size);
    buffer_put_bytes(out, info->config);
}

void snapshot_message_encode(const struct snapshot_message *message, struct buffer *out) {
    buffer_put_u64(out, message->id.boot);
    buffer_put_u64(out, message->id.counter);
    switch (message->kind) {
    case SNAPSHOT_OFFER:
        put_info(out, &message->info);
        break;
    case SNAPSHOT_CHUNK_DATA:
    case SNAPSHOT_END:
        buffer_put_u64(out, message->offset);
        buffer_put_u32(out, message->crc);
        break;
    case SNAPSHOT_ACK:
        buffer_put_u64(out, message->offset);
        break;
    case SNAPSHOT_ABORT:
        buffer_put_u8(out, message->by_sender ? 1 : 0);
        buffer_put_u32(out, (uint32_t)message->code);
        buffer_put_bytes(out, slice_of(message->reason));
        break;
    case SNAPSHOT_ACCEPT:
    case SNAPSHOT_DONE:
        break;
    }
}

static bool get_info(struct reader *reader, struct snapshot_info *info) {
    info->leader_term = reader_u64(reader);
    info->index = reader_u64(reader);
    info->term = reader_u64(reader);
    info->config_index = reader_u64(reader);
    info->size = reader_u64(reader);
    info->config = reader_bytes(reader);
    return info->size <= INT64_MAX && info->config.size <= SNAPSHOT_CONFIG_MAX;
}

static bool get_abort(struct reader *reader, struct snapshot_message *message) {
    uint8_t by_sender = reader_u8(reader);
    uint32_t code = reader_u32(reader);
    struct slice reason = reader_bytes(reader);
    if (reader->failed || by_sender > 1 || code == ERROR_NONE ||
        reason.size > SNAPSHOT_REASON_MAX) {
        return false;
    }
    message->by_sender = by_sender == 1;
    bool known = code <= INT32_MAX && error_is_known((int)code);
    message->code = known ? (enum error_code)code : ERROR_GENERIC;
    for (size_t i = 0; i < reason.size; i++) {
        message->reason[i] = (char)(reason.data[i] < ' ' ? ' ' : reason.data[i]);
    }
    message->reason[reason.size] = '\0';
    return true;
}

bool snapshot_message_decode(uint8_t type, struct slice header, struct snapshot_message *message) {
    if (type < SNAPSHOT_OFFER || type > SNAPSHOT_ABORT) {
        return false;
    }
    memset(message, 0, sizeof *message);
    message->kind = (enum snapshot_kind)type;
    struct reader reader = reader_make(header);
    message->id.boot = reader_u64(&reader);
    message->id.counter = reader_u64(&reader);
    switch (message->kind) {
    case SNAPSHOT_OFFER:
        return get_info(&reader, &message->info) && reader_done(&reader);
    case SNAPSHOT_CHUNK_DATA:
    case SNAPSHOT_END:
        message->offset = reader_u64(&reader);
        message->crc = reader_u32(&reader);
        break;
    case SNAPSHOT_ACK:
        message->offset = reader_u64(&reader);
        break;
    case SNAPSHOT_ABORT:
        return get_abort(&reader, message) && reader_done(&reader);
    case SNAPSHOT_ACCEPT:
    case SNAPSHOT_DONE:
        break;
    }
    return reader_done(&reader);
}
