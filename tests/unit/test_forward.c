/* Forwarded operations and their answers: round trips, and messages that are not sound. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "node/forward.h"

/* A message with everything that belongs to it. */
struct sent {
    struct buffer header;
    struct payload *attachment;
    struct peer_message message;
    enum peer_lane lane;
};

static void sent_free(struct sent *sent) {
    buffer_free(&sent->header);
    payload_unref(sent->attachment);
}

static struct buffer encoded_command(enum command_kind kind, size_t value_size) {
    struct buffer out = {0};
    uint8_t *value = mem_zalloc(1, value_size + 1);
    memset(value, 'v', value_size);
    struct command command = {.kind = kind, .project = slice_of("project")};
    struct slice args[2] = {slice_of("key"), slice_make(value, value_size)};
    uint32_t n = kind == COMMAND_SET ? 2 : kind == COMMAND_GET ? 1 : 0;
    command_encode(&out, &command, args, n);
    mem_free(value);
    return out;
}

static void send_forward(struct sent *sent, const struct forward *forward) {
    memset(sent, 0, sizeof *sent);
    forward_encode(forward, 7, &sent->header, &sent->attachment, &sent->message);
}

static void send_reply(struct sent *sent, const struct forward_reply *reply) {
    memset(sent, 0, sizeof *sent);
    sent->lane = forward_reply_encode(reply, 7, &sent->header, &sent->attachment, &sent->message);
}

static void check_forward(enum command_kind kind, uint8_t flags, size_t value_size,
                          bool is_attached) {
    struct buffer command = encoded_command(kind, value_size);
    struct forward forward = {.term = 3,
                              .stream = UINT64_MAX,
                              .boot = 5,
                              .sequence = UINT64_C(1) << 63 | 9,
                              .flags = flags,
                              .command = buffer_slice(&command)};
    struct forward decoded;
    struct sent sent;
    send_forward(&sent, &forward);
    assert_int_equal(sent.message.type, PEER_MESSAGE_FORWARD);
    assert_int_equal(sent.message.group, 7);
    assert_int_equal(sent.message.n_attachments, is_attached ? 1 : 0);
    assert_true(forward_decode(&sent.message, &decoded));
    assert_int_equal(decoded.term, forward.term);
    assert_int_equal(decoded.stream, forward.stream);
    assert_int_equal(decoded.boot, forward.boot);
    assert_int_equal(decoded.sequence, forward.sequence);
    assert_int_equal(decoded.flags, flags);
    assert_true(slice_equal(decoded.command, forward.command));
    sent_free(&sent);
    buffer_free(&command);
}

static void test_forward_round_trips(void **state) {
    (void)state;
    check_forward(COMMAND_SET, FORWARD_WRITE, 10, false);
    check_forward(COMMAND_SET, FORWARD_WRITE, FORWARD_INLINE_MAX, true);
    check_forward(COMMAND_GET, 0, 0, false);
    check_forward(COMMAND_GET, FORWARD_AFTER_WRITES, 0, false);
    check_forward(COMMAND_CLEAR, FORWARD_WRITE, 0, false);
    check_forward(COMMAND_FENCE, FORWARD_WRITE | FORWARD_FENCE, 0, false);
}

static void reject_forward(enum command_kind kind, uint8_t flags) {
    struct buffer command = encoded_command(kind, 10);
    struct forward forward = {.flags = flags, .command = buffer_slice(&command)};
    struct forward decoded;
    struct sent sent;
    send_forward(&sent, &forward);
    assert_false(forward_decode(&sent.message, &decoded));
    sent_free(&sent);
    buffer_free(&command);
}

/* What the flags say must be what the command is: a read must not get into the log, and a write
 * must not be answered without it. */
static void test_flags_must_fit_the_command(void **state) {
    (void)state;
    reject_forward(COMMAND_SET, 0);
    reject_forward(COMMAND_GET, FORWARD_WRITE);
    reject_forward(COMMAND_SET, FORWARD_WRITE | FORWARD_FENCE);
    reject_forward(COMMAND_FENCE, FORWARD_WRITE);
    reject_forward(COMMAND_SET, FORWARD_WRITE | FORWARD_AFTER_WRITES);
    reject_forward(COMMAND_SET, FORWARD_WRITE | 64);
}

static void test_cut_forwards_are_rejected(void **state) {
    (void)state;
    struct buffer command = encoded_command(COMMAND_SET, 10);
    struct forward forward = {.flags = FORWARD_WRITE, .command = buffer_slice(&command)};
    struct forward decoded;
    struct sent sent;
    send_forward(&sent, &forward);
    for (size_t size = 0; size < sent.header.size; size++) {
        struct peer_message cut = sent.message;
        cut.header.size = size;
        assert_false(forward_decode(&cut, &decoded));
    }
    buffer_put_u8(&sent.header, 0);
    struct peer_message longer = sent.message;
    longer.header = buffer_slice(&sent.header);
    assert_false(forward_decode(&longer, &decoded));
    sent_free(&sent);
    buffer_free(&command);
}

static void test_body_is_inline_or_attached(void **state) {
    (void)state;
    struct buffer command = encoded_command(COMMAND_SET, FORWARD_INLINE_MAX);
    struct forward forward = {.flags = FORWARD_WRITE, .command = buffer_slice(&command)};
    struct forward decoded;
    struct sent sent;
    send_forward(&sent, &forward);
    buffer_put_u8(&sent.header, 0);
    struct peer_message both = sent.message;
    both.header = buffer_slice(&sent.header);
    assert_false(forward_decode(&both, &decoded));
    struct payload *two[2] = {sent.attachment, sent.attachment};
    both = sent.message;
    both.n_attachments = 2;
    both.attachments = two;
    assert_false(forward_decode(&both, &decoded));
    sent_free(&sent);
    buffer_free(&command);
}

static void check_reply(const struct forward_reply *reply, bool is_attached) {
    struct forward_reply decoded;
    struct sent sent;
    send_reply(&sent, reply);
    assert_int_equal(sent.message.type, PEER_MESSAGE_REPLY);
    assert_int_equal(sent.message.n_attachments, is_attached ? 1 : 0);
    assert_int_equal(sent.lane, is_attached ? PEER_LANE_BULK : PEER_LANE_NORMAL);
    assert_true(forward_reply_decode(&sent.message, &decoded));
    assert_int_equal(decoded.term, reply->term);
    assert_int_equal(decoded.stream, reply->stream);
    assert_int_equal(decoded.boot, reply->boot);
    assert_int_equal(decoded.sequence, reply->sequence);
    assert_true(decoded.index == reply->index);
    assert_int_equal(decoded.result.kind, reply->result.kind);
    assert_int_equal(decoded.result.code, reply->result.code);
    assert_int_equal(decoded.result.integer, reply->result.integer);
    assert_true(slice_equal(buffer_slice(&decoded.result.data), buffer_slice(&reply->result.data)));
    bool is_bulk = reply->kind == FORWARD_REPLY_RESULT && reply->result.kind == RESULT_BULK &&
                   reply->result.data.size > FORWARD_INLINE_MAX;
    assert_int_equal(decoded.kind, is_bulk ? FORWARD_REPLY_BULK : reply->kind);
    result_free(&decoded.result);
    sent_free(&sent);
}

static void test_reply_round_trips(void **state) {
    (void)state;
    struct forward_reply reply = {.term = 1, .stream = 2, .boot = 3, .sequence = 4};
    check_reply(&reply, false);
    reply.result = (struct result){.kind = RESULT_INTEGER, .integer = -5};
    check_reply(&reply, false);
    reply.result = (struct result){.kind = RESULT_BULK};
    check_reply(&reply, false); /* an empty value */
    buffer_reserve(&reply.result.data, FORWARD_INLINE_MAX + 1);
    memset(reply.result.data.data, 'x', FORWARD_INLINE_MAX + 1);
    reply.result.data.size = FORWARD_INLINE_MAX;
    check_reply(&reply, true); /* with its kind and length it is just too large for a header */
    reply.result.data.size = FORWARD_INLINE_MAX + 1;
    check_reply(&reply, true);
    reply.index = UINT64_MAX - 1;
    check_reply(&reply, true);
    result_free(&reply.result);
    reply.result = (struct result){.kind = RESULT_INTEGER, .integer = 7};
    check_reply(&reply, false);
    reply.index = 0;
    reply.result = (struct result){0};
    reply.kind = FORWARD_REPLY_REFUSED;
    check_reply(&reply, false);
    reply.kind = FORWARD_REPLY_FAILED;
    result_set_error(&reply.result, ERROR_NOSPACE, "full");
    check_reply(&reply, false);
    result_free(&reply.result);
}

static void test_cut_replies_are_rejected(void **state) {
    (void)state;
    struct forward_reply reply = {.kind = FORWARD_REPLY_FAILED};
    struct forward_reply decoded;
    struct sent sent;
    result_set_error(&reply.result, ERROR_NOSPACE, "full");
    send_reply(&sent, &reply);
    for (size_t size = 0; size < sent.header.size; size++) {
        struct peer_message cut = sent.message;
        cut.header.size = size;
        assert_false(forward_reply_decode(&cut, &decoded));
        result_free(&decoded.result);
    }
    result_free(&reply.result);
    sent_free(&sent);
}

/* "Not carried out" must come with an error, and a refusal with nothing. */
static void test_kinds_of_replies_are_checked(void **state) {
    (void)state;
    enum { KIND_AT = 4 * 8 };
    struct forward_reply reply = {.kind = FORWARD_REPLY_RESULT};
    struct forward_reply decoded;
    struct sent sent;
    send_reply(&sent, &reply);
    assert_true(forward_reply_decode(&sent.message, &decoded));
    for (unsigned kind = 2; kind < 256; kind++) {
        sent.header.data[KIND_AT] = (uint8_t)kind;
        assert_false(forward_reply_decode(&sent.message, &decoded));
        result_free(&decoded.result);
    }
    sent_free(&sent);
}

/* The log index is announced by the kind's highest bit, for results only, and is never zero. */
static void test_log_index_of_replies(void **state) {
    (void)state;
    enum { KIND_AT = 4 * 8 };
    struct forward_reply reply = {.kind = FORWARD_REPLY_RESULT, .index = 5};
    struct forward_reply decoded;
    struct sent sent;
    send_reply(&sent, &reply);
    assert_int_equal(sent.header.data[KIND_AT], 0x80);
    for (size_t size = 0; size < sent.header.size; size++) {
        struct peer_message cut = sent.message;
        cut.header.size = size;
        assert_false(forward_reply_decode(&cut, &decoded));
        result_free(&decoded.result);
    }
    sent.header.data[KIND_AT] = 0x80 | FORWARD_REPLY_REFUSED;
    assert_false(forward_reply_decode(&sent.message, &decoded));
    result_free(&decoded.result);
    sent.header.data[KIND_AT] = 0x80;
    sent.header.data[KIND_AT + 1] = 0;
    assert_false(forward_reply_decode(&sent.message, &decoded));
    result_free(&decoded.result);
    sent_free(&sent);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward_round_trips),
        cmocka_unit_test(test_flags_must_fit_the_command),
        cmocka_unit_test(test_cut_forwards_are_rejected),
        cmocka_unit_test(test_body_is_inline_or_attached),
        cmocka_unit_test(test_reply_round_trips),
        cmocka_unit_test(test_cut_replies_are_rejected),
        cmocka_unit_test(test_log_index_of_replies),
        cmocka_unit_test(test_kinds_of_replies_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
