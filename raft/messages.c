#include "raft/messages.h"

#include "base/assert.h"
#include "raft/log.h"

enum { BIT_1 = 1, BIT_2 = 2 };

/* Far beyond any real log, and far enough from overflow that index arithmetic is safe. */
static const uint64_t max_index = UINT64_MAX / 4;

static void encode_append(struct buffer *out, const struct raft_wire *wire) {
    ASSERT(wire->append.n <= RAFT_APPEND_ENTRIES_MAX);
    buffer_put_u64(out, wire->append.prev_index);
    buffer_put_u64(out, wire->append.prev_term);
    buffer_put_u64(out, wire->append.commit);
    buffer_put_u64(out, wire->append.time_ms);
    buffer_put_u64(out, wire->append.sent_ms);
    buffer_put_u64(out, wire->append.heard_ms);
    buffer_put_u16(out, (uint16_t)wire->append.n);
    for (unsigned i = 0; i < wire->append.n; i++) {
        buffer_put_u64(out, wire->append.entries[i].term);
        buffer_put_u8(out, wire->append.entries[i].kind);
    }
}

static uint8_t bits(bool first, bool second) {
    return (uint8_t)((first ? BIT_1 : 0) | (second ? BIT_2 : 0));
}

void raft_wire_encode(struct buffer *out, const struct raft_wire *wire) {
    buffer_put_u64(out, wire->term);
    buffer_put_u8(out, wire->sender_flags);
    switch ((enum raft_message_kind)wire->kind) {
    case PEER_MESSAGE_APPEND:
        encode_append(out, wire);
        return;
    case PEER_MESSAGE_APPEND_RESULT:
        buffer_put_u64(out, wire->append_result.rejected);
        buffer_put_u64(out, wire->append_result.last_index);
        buffer_put_u64(out, wire->append_result.sent_ms);
        buffer_put_u64(out, wire->append_result.heard_ms);
        return;
    case PEER_MESSAGE_VOTE:
        buffer_put_u64(out, wire->vote.candidate);
        buffer_put_u64(out, wire->vote.last_index);
        buffer_put_u64(out, wire->vote.last_term);
        buffer_put_u8(out, bits(wire->vote.disrupt, wire->vote.pre_vote));
        return;
    case PEER_MESSAGE_VOTE_RESULT:
        buffer_put_u8(out, bits(wire->vote_result.granted, wire->vote_result.pre_vote));
        return;
    case PEER_MESSAGE_TIMEOUT_NOW:
        buffer_put_u64(out, wire->timeout_now.last_index);
        buffer_put_u64(out, wire->timeout_now.last_term);
        return;
    case PEER_MESSAGE_PROBE:
        buffer_put_u64(out, wire->probe.round);
        return;
    case PEER_MESSAGE_PROBE_ACK:
        buffer_put_u64(out, wire->probe_ack.round);
        buffer_put_u64(out, wire->probe_ack.time_ms);
        buffer_put_u64(out, wire->probe_ack.wall_ms);
        buffer_put_u8(out, bits(wire->probe_ack.anchored, false));
        return;
    }
    ASSERT(false && "a kind of Raft message");
}

static bool decode_append(struct reader *reader, struct raft_wire *wire) {
    wire->append.prev_index = reader_u64(reader);
    wire->append.prev_term = reader_u64(reader);
    wire->append.commit = reader_u64(reader);
    wire->append.time_ms = reader_u64(reader);
    wire->append.sent_ms = reader_u64(reader);
    wire->append.heard_ms = reader_u64(reader);
    wire->append.n = reader_u16(reader);
    if (wire->append.n > RAFT_APPEND_ENTRIES_MAX || wire->append.prev_index > max_index ||
        wire->append.time_ms > INT64_MAX) {
        return false;
    }
    /* Raft's induction starts at index 0, which has term 0; every other entry has a term. */
    if ((wire->append.prev_index == 0) != (wire->append.prev_term == 0) ||
        wire->append.prev_term > wire->term) {
        return false;
    }
    uint64_t term = wire->append.prev_term;
    for (unsigned i = 0; i < wire->append.n; i++) {
        struct raft_wire_entry *entry = &wire->append.entries[i];
        entry->term = reader_u64(reader);
        entry->kind = reader_u8(reader);
        /* Terms of a log never decrease, and a leader has no entries of a term beyond its own. */
        if (entry->term == 0 || entry->term < term || entry->term > wire->term) {
            return false;
        }
        if (entry->kind < LOG_ENTRY_COMMAND || entry->kind > LOG_ENTRY_CHANGE) {
            return false;
        }
        term = entry->term;
    }
    return true;
}

static bool decode_bits(struct reader *reader, bool *first, bool *second) {
    uint8_t value = reader_u8(reader);
    *first = (value & BIT_1) != 0;
    *second = (value & BIT_2) != 0;
    return (value & ~(BIT_1 | BIT_2)) == 0;
}

static bool decode_body(struct reader *reader, struct raft_wire *wire) {
    bool unused;
    switch ((enum raft_message_kind)wire->kind) {
    case PEER_MESSAGE_APPEND:
        return decode_append(reader, wire);
    case PEER_MESSAGE_APPEND_RESULT:
        wire->append_result.rejected = reader_u64(reader);
        wire->append_result.last_index = reader_u64(reader);
        wire->append_result.sent_ms = reader_u64(reader);
        wire->append_result.heard_ms = reader_u64(reader);
        return wire->append_result.last_index <= max_index;
    case PEER_MESSAGE_VOTE:
        wire->vote.candidate = reader_u64(reader);
        wire->vote.last_index = reader_u64(reader);
        wire->vote.last_term = reader_u64(reader);
        if (wire->vote.candidate == 0) {
            return false;
        }
        return decode_bits(reader, &wire->vote.disrupt, &wire->vote.pre_vote);
    case PEER_MESSAGE_VOTE_RESULT:
        return decode_bits(reader, &wire->vote_result.granted, &wire->vote_result.pre_vote);
    case PEER_MESSAGE_TIMEOUT_NOW:
        wire->timeout_now.last_index = reader_u64(reader);
        wire->timeout_now.last_term = reader_u64(reader);
        return true;
    case PEER_MESSAGE_PROBE:
        wire->probe.round = reader_u64(reader);
        return true;
    case PEER_MESSAGE_PROBE_ACK:
        wire->probe_ack.round = reader_u64(reader);
        wire->probe_ack.time_ms = reader_u64(reader);
        wire->probe_ack.wall_ms = reader_u64(reader);
        return decode_bits(reader, &wire->probe_ack.anchored, &unused) && !unused;
    }
    return false;
}

bool raft_wire_decode(uint8_t kind, struct slice header, struct raft_wire *wire) {
    struct reader reader = reader_make(header);
    wire->kind = kind;
    wire->term = reader_u64(&reader);
    wire->sender_flags = reader_u8(&reader);
    return decode_body(&reader, wire) && reader_done(&reader) && wire->term > 0;
}
