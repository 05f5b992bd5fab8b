/* Round trips of Raft's messages, and every way in which one can be malformed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "raft/log.h"
#include "raft/messages.h"

enum { APPEND_ENTRIES = 3 };

static struct raft_wire example(enum raft_message_kind kind) {
    struct raft_wire wire;
    memset(&wire, 0, sizeof wire);
    wire.kind = (uint8_t)kind;
    wire.term = 9;
    wire.sender_flags = RAFT_SENDER_DISK_LOW;
    switch (kind) {
    case PEER_MESSAGE_APPEND:
        wire.append.prev_index = 41;
        wire.append.prev_term = 6;
        wire.append.commit = 40;
        wire.append.time_ms = 1700000000000;
        wire.append.sent_ms = 76;
        wire.append.heard_ms = 77;
        wire.append.n = APPEND_ENTRIES;
        for (unsigned i = 0; i < APPEND_ENTRIES; i++) {
            wire.append.entries[i].term = 7 + i;
            wire.append.entries[i].kind = (uint8_t)(LOG_ENTRY_COMMAND + i);
        }
        return wire;
    case PEER_MESSAGE_APPEND_RESULT:
        wire.append_result.rejected = 12;
        wire.append_result.last_index = 11;
        wire.append_result.sent_ms = 78;
        wire.append_result.heard_ms = 79;
        return wire;
    case PEER_MESSAGE_VOTE:
        wire.vote.candidate = 2;
        wire.vote.last_index = 77;
        wire.vote.last_term = 8;
        wire.vote.disrupt = true;
        return wire;
    case PEER_MESSAGE_VOTE_RESULT:
        wire.vote_result.pre_vote = true;
        return wire;
    case PEER_MESSAGE_TIMEOUT_NOW:
        wire.timeout_now.last_index = 5;
        wire.timeout_now.last_term = 4;
        return wire;
    case PEER_MESSAGE_PROBE:
        wire.probe.round = UINT64_MAX;
        return wire;
    case PEER_MESSAGE_PROBE_ACK:
        wire.probe_ack.round = 3;
        wire.probe_ack.time_ms = 1000;
        wire.probe_ack.wall_ms = 2000;
        wire.probe_ack.anchored = true;
        return wire;
    }
    return wire;
}

static bool decodes(const struct raft_wire *wire) {
    struct buffer header = {0};
    struct raft_wire decoded;
    raft_wire_encode(&header, wire);
    bool good = raft_wire_decode(wire->kind, buffer_slice(&header), &decoded);
    buffer_free(&header);
    return good;
}

static void test_round_trips(void **state) {
    (void)state;
    for (unsigned kind = PEER_MESSAGE_APPEND; kind <= PEER_MESSAGE_RAFT_LAST; kind++) {
        struct raft_wire wire = example((enum raft_message_kind)kind);
        struct raft_wire decoded;
        struct buffer first = {0};
        struct buffer second = {0};
        memset(&decoded, 0xee, sizeof decoded);
        raft_wire_encode(&first, &wire);
        assert_true(raft_wire_decode((uint8_t)kind, buffer_slice(&first), &decoded));
        assert_int_equal(decoded.kind, kind);
        assert_int_equal(decoded.term, 9);
        assert_int_equal(decoded.sender_flags, RAFT_SENDER_DISK_LOW);
        raft_wire_encode(&second, &decoded);
        assert_true(slice_equal(buffer_slice(&first), buffer_slice(&second)));
        buffer_free(&first);
        buffer_free(&second);
    }
}

static void test_fields_arrive(void **state) {
    (void)state;
    struct raft_wire wire = example(PEER_MESSAGE_APPEND);
    struct raft_wire decoded;
    struct buffer header = {0};
    raft_wire_encode(&header, &wire);
    assert_true(raft_wire_decode(PEER_MESSAGE_APPEND, buffer_slice(&header), &decoded));
    assert_int_equal(decoded.append.prev_index, 41);
    assert_int_equal(decoded.append.prev_term, 6);
    assert_int_equal(decoded.append.commit, 40);
    assert_int_equal(decoded.append.time_ms, 1700000000000);
    assert_int_equal(decoded.append.sent_ms, 76);
    assert_int_equal(decoded.append.heard_ms, 77);
    assert_int_equal(decoded.append.n, APPEND_ENTRIES);
    assert_int_equal(decoded.append.entries[2].term, 9);
    assert_int_equal(decoded.append.entries[2].kind, LOG_ENTRY_CHANGE);
    buffer_free(&header);
}

static void test_every_other_length_is_refused(void **state) {
    (void)state;
    for (unsigned kind = PEER_MESSAGE_APPEND; kind <= PEER_MESSAGE_RAFT_LAST; kind++) {
        struct raft_wire wire = example((enum raft_message_kind)kind);
        struct raft_wire decoded;
        struct buffer header = {0};
        raft_wire_encode(&header, &wire);
        for (size_t size = 0; size < header.size; size++) {
            /* Of its exact size, so that a read beyond it is noticed. */
            uint8_t *cut = mem_dup(header.data, size > 0 ? size : 1);
            assert_false(raft_wire_decode((uint8_t)kind, slice_make(cut, size), &decoded));
            mem_free(cut);
        }
        buffer_put_u8(&header, 0);
        assert_false(raft_wire_decode((uint8_t)kind, buffer_slice(&header), &decoded));
        buffer_free(&header);
    }
}

static void test_unknown_kinds_are_refused(void **state) {
    (void)state;
    struct raft_wire wire = example(PEER_MESSAGE_PROBE);
    struct raft_wire decoded;
    struct buffer header = {0};
    raft_wire_encode(&header, &wire);
    assert_false(raft_wire_decode(0, buffer_slice(&header), &decoded));
    assert_false(raft_wire_decode(PEER_MESSAGE_RAFT_LAST + 1, buffer_slice(&header), &decoded));
    assert_false(raft_wire_decode(255, buffer_slice(&header), &decoded));
    buffer_free(&header);
}

static void test_unknown_bits_are_refused(void **state) {
    (void)state;
    static const uint8_t kinds[] = {PEER_MESSAGE_VOTE, PEER_MESSAGE_VOTE_RESULT,
                                    PEER_MESSAGE_PROBE_ACK};
    for (unsigned i = 0; i < sizeof kinds; i++) {
        struct raft_wire wire = example((enum raft_message_kind)kinds[i]);
        struct raft_wire decoded;
        struct buffer header = {0};
        raft_wire_encode(&header, &wire);
        header.data[header.size - 1] |= 4;
        assert_false(raft_wire_decode(kinds[i], buffer_slice(&header), &decoded));
        if (kinds[i] == PEER_MESSAGE_PROBE_ACK) {
            header.data[header.size - 1] = 2; /* only the first bit has a meaning here */
            assert_false(raft_wire_decode(kinds[i], buffer_slice(&header), &decoded));
        }
        buffer_free(&header);
    }
}

static void test_terms_and_indexes_that_cannot_be(void **state) {
    (void)state;
    for (unsigned kind = PEER_MESSAGE_APPEND; kind <= PEER_MESSAGE_RAFT_LAST; kind++) {
        struct raft_wire wire = example((enum raft_message_kind)kind);
        wire.term = 0;
        assert_false(decodes(&wire));
    }
    struct raft_wire wire = example(PEER_MESSAGE_VOTE);
    wire.vote.candidate = 0;
    assert_false(decodes(&wire));

    wire = example(PEER_MESSAGE_APPEND_RESULT);
    wire.append_result.last_index = UINT64_MAX;
    assert_false(decodes(&wire));

    const struct raft_wire append = example(PEER_MESSAGE_APPEND);
    wire = append;
    wire.append.prev_index = UINT64_MAX - 1;
    assert_false(decodes(&wire));
    wire = append;
    wire.append.time_ms = UINT64_MAX;
    assert_false(decodes(&wire));
    wire = append;
    wire.append.prev_index = 0;
    assert_false(decodes(&wire)); /* with a term */
    wire = append;
    wire.append.prev_term = 0;
    assert_false(decodes(&wire)); /* with an index */
    wire = append;
    wire.append.prev_term = 10;
    wire.append.n = 0;
    assert_false(decodes(&wire)); /* of a term that the sender has not reached */
    wire = append;
    wire.append.prev_index = 0;
    wire.append.prev_term = 0;
    assert_true(decodes(&wire));
    wire = append;
    wire.append.entries[0].term = 5;
    assert_false(decodes(&wire)); /* less than the entry before */
    wire = append;
    wire.append.entries[1].term = 6;
    assert_false(decodes(&wire));
    wire = append;
    wire.append.entries[2].term = 10;
    assert_false(decodes(&wire)); /* more than the leader's */
    wire = append;
    wire.append.entries[0].kind = 0;
    assert_false(decodes(&wire));
    wire = append;
    wire.append.entries[0].kind = LOG_ENTRY_CHANGE + 1;
    assert_false(decodes(&wire));
}

static void test_number_of_entries_is_bounded(void **state) {
    (void)state;
    struct raft_wire wire = example(PEER_MESSAGE_APPEND);
    wire.append.n = RAFT_APPEND_ENTRIES_MAX;
    for (unsigned i = 0; i < RAFT_APPEND_ENTRIES_MAX; i++) {
        wire.append.entries[i].term = 9;
        wire.append.entries[i].kind = LOG_ENTRY_COMMAND;
    }
    struct raft_wire decoded;
    struct buffer header = {0};
    raft_wire_encode(&header, &wire);
    assert_true(raft_wire_decode(PEER_MESSAGE_APPEND, buffer_slice(&header), &decoded));
    enum { AT_N = 8 + 1 + 3 * 8 };
    bytes_put_u16(header.data + AT_N, RAFT_APPEND_ENTRIES_MAX + 1);
    buffer_put_u64(&header, 9);
    buffer_put_u8(&header, LOG_ENTRY_COMMAND);
    assert_false(raft_wire_decode(PEER_MESSAGE_APPEND, buffer_slice(&header), &decoded));
    bytes_put_u16(header.data + AT_N, UINT16_MAX);
    assert_false(raft_wire_decode(PEER_MESSAGE_APPEND, buffer_slice(&header), &decoded));
    buffer_free(&header);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_fields_arrive),
        cmocka_unit_test(test_every_other_length_is_refused),
        cmocka_unit_test(test_unknown_kinds_are_refused),
        cmocka_unit_test(test_unknown_bits_are_refused),
        cmocka_unit_test(test_terms_and_indexes_that_cannot_be),
        cmocka_unit_test(test_number_of_entries_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
