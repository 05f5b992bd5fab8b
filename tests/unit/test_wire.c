/* The codec of the peer links: random messages through lanes and decoder, in random pieces, whole
 * and damaged; bounds; handshakes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/prng.h"
#include "raft/lanes.h"
#include "raft/wire.h"

enum { MESSAGES_MAX = 64 };

/* ---- random messages ---- */

struct sent {
    enum peer_lane lane;
    struct peer_message message;
};

struct script {
    struct sent sent[MESSAGES_MAX];
    unsigned n;
    unsigned next[PEER_LANES]; /* position in `sent` up to which a lane was received */
};

static struct payload *random_payload(struct prng *prng, size_t size) {
    struct payload *payload = payload_new(size);
    for (size_t i = 0; i < size; i++) {
        payload->data[i] = (uint8_t)prng_next(prng);
    }
    return payload;
}

/* Sizes near the borders of copying and of fragments. */
static size_t random_size(struct prng *prng) {
    const size_t borders[] = {0, 1, LANES_COPY_MAX, WIRE_FRAGMENT_BODY_MAX,
                              3 * WIRE_FRAGMENT_BODY_MAX};
    size_t size = borders[prng_below(prng, 5)] + prng_below(prng, 40);
    size_t less = prng_below(prng, 40);
    return size > less ? size - less : size;
}

static void script_add(struct script *script, struct prng *prng) {
    struct sent *sent = &script->sent[script->n++];
    sent->lane = (enum peer_lane)prng_below(prng, PEER_LANES);
    struct peer_message *message = &sent->message;
    message->type = (uint8_t)prng_next(prng);
    message->group = (uint16_t)prng_below(prng, 100);
    size_t header_size = prng_below(prng, 4) == 0 ? random_size(prng) : prng_below(prng, 100);
    struct payload *header = random_payload(prng, header_size);
    message->header = slice_make(mem_dup(header->data, header_size), header_size);
    payload_unref(header);
    message->n_attachments = (unsigned)prng_below(prng, 6);
    message->attachments = mem_zalloc(message->n_attachments + 1, sizeof(struct payload *));
    for (unsigned i = 0; i < message->n_attachments; i++) {
        message->attachments[i] = random_payload(prng, random_size(prng));
    }
}

static void script_make(struct script *script, struct prng *prng, unsigned n) {
    memset(script, 0, sizeof *script);
    for (unsigned i = 0; i < n; i++) {
        script_add(script, prng);
    }
}

static void script_free(struct script *script) {
    for (unsigned i = 0; i < script->n; i++) {
        struct peer_message *message = &script->sent[i].message;
        for (unsigned k = 0; k < message->n_attachments; k++) {
            payload_unref(message->attachments[k]);
        }
        mem_free(message->attachments);
        mem_free((void *)message->header.data);
    }
}

static bool same_message(const struct peer_message *a, const struct peer_message *b) {
    bool same = a->type == b->type && a->group == b->group && slice_equal(a->header, b->header) &&
                a->n_attachments == b->n_attachments;
    for (unsigned i = 0; same && i < a->n_attachments; i++) {
        same = slice_equal(payload_slice(a->attachments[i]), payload_slice(b->attachments[i]));
    }
    return same;
}

/* Whether `message` is the next one that was sent on the lane; drops its attachments. */
static bool script_expect(struct script *script, enum peer_lane lane,
                          struct peer_message *message) {
    unsigned *next = &script->next[lane];
    while (*next < script->n && script->sent[*next].lane != lane) {
        (*next)++;
    }
    bool good = *next < script->n && same_message(&script->sent[*next].message, message);
    (*next)++;
    for (unsigned i = 0; i < message->n_attachments; i++) {
        payload_unref(message->attachments[i]);
    }
    return good;
}

/* Pushes and composes in random turns, as flushes come between sends. */
static void script_encode(const struct script *script, struct prng *prng, struct buffer *out) {
    struct lanes *lanes = lanes_new(GIB);
    const struct slice *pieces;
    unsigned pushed = 0;
    for (;;) {
        if (pushed < script->n && prng_below(prng, 2) == 0) {
            const struct sent *sent = &script->sent[pushed++];
            assert_true(lanes_push(lanes, sent->lane, &sent->message));
            continue;
        }
        unsigned n = lanes_compose(lanes, &pieces);
        size_t before = out->size;
        for (unsigned i = 0; i < n; i++) {
            buffer_append_slice(out, pieces[i]);
        }
        assert_true(out->size - before <= LANES_BATCH_MAX);
        if (n > 0) {
            lanes_release(lanes);
        } else if (pushed == script->n) {
            break;
        }
    }
    assert_int_equal(lanes_bytes(lanes), 0);
    lanes_free(lanes);
}

/* Feeds the bytes in random pieces; the number of messages that came out, all of them right, or -1
 * when the decoder refused the bytes. */
static int script_decode(struct script *script, struct prng *prng, struct slice bytes) {
    struct wire_decoder *decoder = wire_decoder_new();
    int n = 0;
    bool broken = false;
    size_t piece_max = 1 + prng_below(prng, 200000);
    while (bytes.size > 0 && !broken) {
        size_t size = 1 + prng_below(prng, bytes.size < piece_max ? bytes.size : piece_max);
        struct slice piece = slice_make(bytes.data, size);
        bytes = slice_make(bytes.data + size, bytes.size - size);
        for (;;) {
            enum peer_lane lane;
            struct peer_message message;
            struct error error = {0};
            enum wire_status status = wire_decoder_next(decoder, &piece, &lane, &message, &error);
            broken = status == WIRE_BROKEN;
            if (broken) {
                assert_int_equal(error.code, ERROR_CORRUPT);
            }
            if (status != WIRE_FOUND) {
                break;
            }
            assert_true(script_expect(script, lane, &message));
            n++;
        }
    }
    wire_decoder_free(decoder);
    return broken ? -1 : n;
}

static void test_random_messages_come_out_equal(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct prng prng;
        prng_seed(&prng, seed);
        struct script script;
        script_make(&script, &prng, 1 + (unsigned)prng_below(&prng, MESSAGES_MAX));
        struct buffer bytes = {0};
        script_encode(&script, &prng, &bytes);
        assert_int_equal(script_decode(&script, &prng, buffer_slice(&bytes)), script.n);
        buffer_free(&bytes);
        script_free(&script);
    }
}

static void test_flipped_bits_are_never_a_message(void **state) {
    (void)state;
    struct prng prng;
    prng_seed(&prng, 3);
    struct script script;
    script_make(&script, &prng, 6);
    struct buffer bytes = {0};
    script_encode(&script, &prng, &bytes);
    for (int i = 0; i < 2000; i++) {
        /* Every bit of the first bytes, then any. */
        size_t bit = i < 800 ? (size_t)i : prng_below(&prng, bytes.size * 8);
        bytes.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        memset(script.next, 0, sizeof script.next);
        int n = script_decode(&script, &prng, buffer_slice(&bytes));
        assert_true(n < (int)script.n); /* each that came out was checked */
        bytes.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    buffer_free(&bytes);
    script_free(&script);
}

static void test_missing_and_repeated_fragments(void **state) {
    (void)state;
    struct prng prng;
    prng_seed(&prng, 4);
    struct payload *payload = random_payload(&prng, 3 * WIRE_FRAGMENT_BODY_MAX);
    struct peer_message message = {.n_attachments = 1, .attachments = &payload};
    struct lanes *lanes = lanes_new(GIB);
    assert_true(lanes_push(lanes, PEER_LANE_BULK, &message));
    struct buffer bytes = {0};
    const struct slice *pieces;
    unsigned n = lanes_compose(lanes, &pieces);
    for (unsigned i = 0; i < n; i++) {
        buffer_append_slice(&bytes, pieces[i]);
    }
    enum { FULL = LANES_FRAGMENT_MAX };
    struct script none = {0};
    /* Without the first; without the second, so that the last is too long; the first twice. */
    assert_int_equal(script_decode(&none, &prng, slice_make(bytes.data + FULL, bytes.size - FULL)),
                     -1);
    struct buffer changed = {0};
    buffer_append(&changed, bytes.data, FULL);
    buffer_append(&changed, bytes.data + 2 * FULL, bytes.size - 2 * FULL);
    assert_int_equal(script_decode(&none, &prng, buffer_slice(&changed)), -1);
    changed.size = FULL;
    buffer_append(&changed, bytes.data, FULL);
    assert_int_equal(script_decode(&none, &prng, buffer_slice(&changed)), -1);
    buffer_free(&changed);
    buffer_free(&bytes);
    lanes_free(lanes);
    payload_unref(payload);
}

/* ---- bounds of the decoder ---- */

/* A correct fragment around any body. */
static void put_fragment(struct buffer *out, enum peer_lane lane, unsigned flags,
                         struct slice body) {
    uint8_t header[WIRE_FRAGMENT_HEADER];
    uint32_t crc = wire_fragment_begin(header, lane, flags, body.size);
    wire_fragment_finish(header, crc32c(crc, body.data, body.size));
    buffer_append(out, header, sizeof header);
    buffer_append_slice(out, body);
}

/* A prefix with these fields and the first `n_sizes` sizes all equal. */
static void put_prefix(struct buffer *out, uint32_t header_size, uint32_t n, uint32_t size) {
    buffer_put_u32(out, 0);
    buffer_put_u32(out, header_size);
    buffer_put_u32(out, n);
    for (uint32_t i = 0; i < n && i <= PEER_ATTACHMENTS_MAX; i++) {
        buffer_put_u32(out, size);
    }
}

static enum wire_status decode_first(uint32_t header_size, uint32_t n, uint32_t size,
                                     unsigned flags, uint64_t *memory) {
    struct buffer body = {0};
    struct buffer bytes = {0};
    put_prefix(&body, header_size, n, size);
    put_fragment(&bytes, PEER_LANE_BULK, flags, buffer_slice(&body));
    struct wire_decoder *decoder = wire_decoder_new();
    struct slice input = buffer_slice(&bytes);
    enum peer_lane lane;
    struct peer_message message;
    struct error error;
    enum wire_status status = wire_decoder_next(decoder, &input, &lane, &message, &error);
    if (status == WIRE_FOUND) {
        for (unsigned i = 0; i < message.n_attachments; i++) {
            payload_unref(message.attachments[i]);
        }
    }
    *memory = wire_decoder_memory(decoder);
    wire_decoder_free(decoder);
    buffer_free(&bytes);
    buffer_free(&body);
    return status;
}

static void test_bounds(void **state) {
    (void)state;
    enum { FIRST = WIRE_FLAG_FIRST, WHOLE = WIRE_FLAG_FIRST | WIRE_FLAG_LAST };
    const uint64_t little = 256 * KIB;
    uint64_t memory;
    assert_int_equal(decode_first(0, 0, 0, WHOLE, &memory), WIRE_FOUND);
    assert_int_equal(decode_first(0, PEER_ATTACHMENTS_MAX, 0, WHOLE, &memory), WIRE_FOUND);
    assert_int_equal(decode_first(PEER_HEADER_MAX, 0, 0, FIRST, &memory), WIRE_MORE);
    assert_true(memory < little);
    assert_int_equal(decode_first(0, 1, LIMIT_ENTRY_SIZE, FIRST, &memory), WIRE_MORE);
    assert_true(memory < little); /* nothing is allocated before its first byte */

    assert_int_equal(decode_first(PEER_HEADER_MAX + 1, 0, 0, FIRST, &memory), WIRE_BROKEN);
    assert_int_equal(decode_first(UINT32_MAX, 0, 0, FIRST, &memory), WIRE_BROKEN);
    assert_int_equal(decode_first(0, PEER_ATTACHMENTS_MAX + 1, 0, FIRST, &memory), WIRE_BROKEN);
    assert_int_equal(decode_first(0, UINT32_MAX, 0, FIRST, &memory), WIRE_BROKEN);
    assert_int_equal(decode_first(0, 1, LIMIT_ENTRY_SIZE + 1, FIRST, &memory), WIRE_BROKEN);
    assert_int_equal(decode_first(0, 2, LIMIT_ENTRY_SIZE, FIRST, &memory), WIRE_BROKEN);
    assert_int_equal(decode_first(0, 4096, UINT32_MAX, FIRST, &memory), WIRE_BROKEN);
    assert_int_equal(decode_first(1, 0, 0, WHOLE, &memory), WIRE_BROKEN); /* ends too early */
    assert_int_equal(decode_first(0, 0, 0, FIRST, &memory), WIRE_BROKEN); /* never ends */
}

static void test_half_received_messages_hold_what_came(void **state) {
    (void)state;
    struct wire_decoder *decoder = wire_decoder_new();
    struct buffer body = {0};
    struct buffer bytes = {0};
    put_prefix(&body, 0, 2, 20 * MIB);
    buffer_put_u8(&body, 1); /* one byte of the first attachment */
    for (unsigned lane = 0; lane < PEER_LANES; lane++) {
        put_fragment(&bytes, (enum peer_lane)lane, WIRE_FLAG_FIRST, buffer_slice(&body));
    }
    struct slice input = buffer_slice(&bytes);
    enum peer_lane lane;
    struct peer_message message;
    struct error error;
    assert_int_equal(wire_decoder_next(decoder, &input, &lane, &message, &error), WIRE_MORE);
    uint64_t memory = wire_decoder_memory(decoder);
    assert_true(memory >= PEER_LANES * 20 * MIB && memory < PEER_LANES * 20 * MIB + 64 * KIB);
    wire_decoder_free(decoder);
    buffer_free(&bytes);
    buffer_free(&body);
}

static void test_message_bounds_of_the_sender(void **state) {
    (void)state;
    struct payload *large = payload_new(LIMIT_ENTRY_SIZE);
    struct payload *two[2] = {large, large};
    struct peer_message message = {.n_attachments = 1, .attachments = two};
    assert_true(wire_message_is_valid(&message));
    message.n_attachments = 2;
    assert_false(wire_message_is_valid(&message));
    message.n_attachments = 0;
    message.header = slice_make(large->data, PEER_HEADER_MAX);
    assert_true(wire_message_is_valid(&message));
    message.header.size++;
    assert_false(wire_message_is_valid(&message));
    payload_unref(large);
}

/* ---- lanes ---- */

static void push_sized(struct lanes *lanes, enum peer_lane lane, uint8_t type, size_t size) {
    uint8_t *header = mem_zalloc(1, size);
    struct peer_message message = {.type = type, .group = 1, .header = slice_make(header, size)};
    assert_true(lanes_push(lanes, lane, &message));
    mem_free(header);
}

/* The lanes of the fragments of the next batch, in order, as digits. */
static void batch_lanes(struct lanes *lanes, char *out) {
    const struct slice *pieces;
    struct buffer bytes = {0};
    unsigned n = lanes_compose(lanes, &pieces);
    for (unsigned i = 0; i < n; i++) {
        buffer_append_slice(&bytes, pieces[i]);
    }
    for (size_t at = 0; at < bytes.size;
         at += WIRE_FRAGMENT_HEADER + bytes_get_u32(bytes.data + at + 4)) {
        *out++ = (char)('0' + bytes.data[at + 1]);
    }
    *out = '\0';
    buffer_free(&bytes);
    if (n > 0) {
        lanes_release(lanes);
    }
}

static void test_lanes_share_batches(void **state) {
    (void)state;
    struct lanes *lanes = lanes_new(GIB);
    char order[64];
    push_sized(lanes, PEER_LANE_BULK, 'b', 10 * WIRE_FRAGMENT_BODY_MAX);
    push_sized(lanes, PEER_LANE_NORMAL, 'n', 10 * WIRE_FRAGMENT_BODY_MAX);
    batch_lanes(lanes, order);
    assert_string_equal(order, "1112");
    push_sized(lanes, PEER_LANE_URGENT, 'u', 10 * WIRE_FRAGMENT_BODY_MAX);
    batch_lanes(lanes, order);
    assert_string_equal(order, "0012"); /* nobody starves */
    lanes_free(lanes);

    lanes = lanes_new(GIB);
    push_sized(lanes, PEER_LANE_BULK, 'b', 6 * WIRE_FRAGMENT_BODY_MAX);
    batch_lanes(lanes, order);
    assert_string_equal(order, "2222");
    push_sized(lanes, PEER_LANE_URGENT, 'u', 10);
    push_sized(lanes, PEER_LANE_URGENT, 'u', 10);
    batch_lanes(lanes, order);
    assert_string_equal(order, "00222");
    batch_lanes(lanes, order);
    assert_string_equal(order, "");
    lanes_free(lanes);
}

static void test_lanes_have_bounds(void **state) {
    (void)state;
    struct lanes *lanes = lanes_new(1000);
    uint8_t bytes[2000] = {0};
    struct peer_message large = {.group = 9, .header = slice_make(bytes, sizeof bytes)};
    struct peer_message small = {.group = 9, .header = slice_make(bytes, 10)};
    assert_true(lanes_push(lanes, PEER_LANE_BULK, &large)); /* its lane is empty */
    assert_false(lanes_push(lanes, PEER_LANE_BULK, &small));
    assert_true(lanes_push(lanes, PEER_LANE_NORMAL, &small));
    assert_false(lanes_push(lanes, PEER_LANE_NORMAL, &small));
    assert_int_equal(lanes_bulk_queued(lanes, 9), 1);
    assert_int_equal(lanes_bulk_queued(lanes, 8), 0);
    assert_int_equal(lanes_bulk_queued(lanes, 60000), 0);
    while (lanes_push(lanes, PEER_LANE_URGENT, &small)) {
        assert_true(lanes_bytes(lanes) <= 1000 + PEER_URGENT_RESERVE);
    }
    assert_true(lanes_bytes(lanes) > PEER_URGENT_RESERVE);
    char order[20000];
    while (lanes_bytes(lanes) > 0) {
        batch_lanes(lanes, order);
    }
    assert_int_equal(lanes_bulk_queued(lanes, 9), 0);
    assert_true(lanes_push(lanes, PEER_LANE_BULK, &small));
    lanes_free(lanes);
}

static void test_large_payloads_are_not_copied(void **state) {
    (void)state;
    struct lanes *lanes = lanes_new(GIB);
    struct payload *payload = payload_new(100000);
    memset(payload->data, 1, payload->size);
    struct peer_message message = {.n_attachments = 1, .attachments = &payload};
    assert_true(lanes_push(lanes, PEER_LANE_NORMAL, &message));
    assert_int_equal(atomic_load(&payload->refs), 2);
    const struct slice *pieces;
    assert_int_equal(lanes_compose(lanes, &pieces), 4);
    assert_ptr_equal(pieces[1].data, payload->data);
    assert_ptr_equal(pieces[3].data + pieces[3].size, payload->data + payload->size);
    assert_int_equal(atomic_load(&payload->refs), 2); /* kept until it is written */
    lanes_release(lanes);
    assert_int_equal(atomic_load(&payload->refs), 1);
    lanes_free(lanes);
    payload_unref(payload);
}

/* ---- handshakes ---- */

static struct wire_handshake example(enum wire_handshake_kind kind) {
    struct wire_handshake handshake = {.kind = kind};
    if (kind == WIRE_REFUSED) {
        handshake.code = ERROR_MISMATCH;
        snprintf(handshake.reason, sizeof handshake.reason, "because");
        return handshake;
    }
    snprintf(handshake.cluster, sizeof handshake.cluster, "cluster");
    handshake.from = 1;
    handshake.incarnation = UINT64_MAX;
    handshake.boot = 3;
    handshake.epoch = kind == WIRE_HELLO ? 4 : 0;
    handshake.to = kind == WIRE_HELLO ? 5 : 0;
    return handshake;
}

static void test_handshakes_come_out_equal(void **state) {
    (void)state;
    for (int kind = WIRE_HELLO; kind <= WIRE_REFUSED; kind++) {
        struct wire_handshake sent = example((enum wire_handshake_kind)kind);
        uint8_t frame[WIRE_HANDSHAKE_MAX + 3];
        size_t size = wire_handshake_encode(&sent, frame);
        struct wire_handshake_decoder decoder = {0};
        struct wire_handshake got;
        struct error error;
        for (size_t i = 0; i < size - 1; i++) {
            struct slice one = slice_make(frame + i, 1);
            assert_int_equal(wire_handshake_decode(&decoder, &one, &got, &error), WIRE_MORE);
            assert_int_equal(one.size, 0);
        }
        struct slice rest = slice_make(frame + size - 1, 4); /* takes no more than its own */
        assert_int_equal(wire_handshake_decode(&decoder, &rest, &got, &error), WIRE_FOUND);
        assert_int_equal(rest.size, 3);
        assert_memory_equal(&sent, &got, sizeof sent);
    }
}

static void test_flipped_bits_in_handshakes(void **state) {
    (void)state;
    struct wire_handshake sent = example(WIRE_HELLO);
    uint8_t frame[WIRE_HANDSHAKE_MAX];
    size_t size = wire_handshake_encode(&sent, frame);
    for (size_t bit = 0; bit < size * 8; bit++) {
        frame[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        struct wire_handshake_decoder decoder = {0};
        struct wire_handshake got;
        struct error error;
        struct slice input = slice_make(frame, size);
        enum wire_status status = wire_handshake_decode(&decoder, &input, &got, &error);
        assert_int_not_equal(status, WIRE_FOUND);
        frame[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
}

static void test_long_texts_are_cut(void **state) {
    (void)state;
    struct wire_handshake sent = example(WIRE_REFUSED);
    memset(sent.reason, 'r', WIRE_REASON_MAX);
    struct wire_handshake hello = example(WIRE_HELLO);
    memset(hello.cluster, 'c', WIRE_CLUSTER_MAX);
    uint8_t frame[WIRE_HANDSHAKE_MAX];
    struct wire_handshake got;
    struct error error;
    struct wire_handshake_decoder decoder = {0};
    struct slice input = slice_make(frame, wire_handshake_encode(&sent, frame));
    assert_int_equal(wire_handshake_decode(&decoder, &input, &got, &error), WIRE_FOUND);
    assert_int_equal(strlen(got.reason), WIRE_REASON_MAX);
    decoder.size = 0;
    input = slice_make(frame, wire_handshake_encode(&hello, frame));
    assert_int_equal(wire_handshake_decode(&decoder, &input, &got, &error), WIRE_FOUND);
    assert_int_equal(strlen(got.cluster), WIRE_CLUSTER_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_messages_come_out_equal),
        cmocka_unit_test(test_flipped_bits_are_never_a_message),
        cmocka_unit_test(test_missing_and_repeated_fragments),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_half_received_messages_hold_what_came),
        cmocka_unit_test(test_message_bounds_of_the_sender),
        cmocka_unit_test(test_lanes_share_batches),
        cmocka_unit_test(test_lanes_have_bounds),
        cmocka_unit_test(test_large_payloads_are_not_copied),
        cmocka_unit_test(test_handshakes_come_out_equal),
        cmocka_unit_test(test_flipped_bits_in_handshakes),
        cmocka_unit_test(test_long_texts_are_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
