/* Two ends that talk over a wire which the input tampers with, after the handshake as well as in
 * it: what comes out is a beginning of what went in, or the stream breaks.
 *
 * The input is a list of steps of two bytes: what to do, and an amount. */
#include <stdlib.h>

#include "base/tls_keys.h"
#include "base/tls_stream.h"
#include "tests/unit/tls_fixture.h"

enum { CLIENT, SERVER };

struct end {
    struct tls_stream *stream;
    struct buffer wire; /* what it has sent and the other has not got */
    uint64_t written;   /* bytes of plaintext, numbered by pattern() */
    uint64_t read;
};

static struct end ends[2];

static void expect(bool holds) {
    if (!holds) {
        abort();
    }
}

static struct tls_keys *make_keys(enum tls_verify verify) {
    struct tls_authority authority;
    struct tls_pair pair;
    struct tls_keys *keys;
    tls_authority_make(&authority, "fuzz");
    tls_pair_make(&pair, &authority, &(struct tls_wish){.names = "URI:invoke-kv://fuzz/node/1"});
    struct tls_settings settings = tls_settings_of(&pair, &authority, verify);
    expect(tls_keys_load(&keys, &settings, NULL) == ERROR_NONE);
    tls_pair_free(&pair);
    tls_authority_free(&authority);
    return keys;
}

static uint8_t pattern(uint64_t at) {
    return (uint8_t)(at * 7 + (at >> 8));
}

static bool is_up(const struct end *end) {
    return tls_stream_state(end->stream) == TLS_STREAM_UP;
}

/* Takes over what the stream has to say. */
static void collect(struct end *end) {
    struct buffer *wire = tls_stream_wire(end->stream);
    buffer_append_slice(&end->wire, buffer_slice(wire));
    wire->size = 0;
}

static void read_all(struct end *end, const struct end *other) {
    uint8_t plain[5000];
    size_t size;
    while ((size = tls_stream_read(end->stream, plain, sizeof plain)) > 0) {
        expect(end->read + size <= other->written);
        for (size_t i = 0; i < size; i++) {
            expect(plain[i] == pattern(end->read++));
        }
    }
}

/* Hands over up to `size` bytes of what the other end has sent. */
static void deliver(struct end *to, struct end *from, size_t size) {
    size = size < from->wire.size ? size : from->wire.size;
    size = size < TLS_FEED_MAX ? size : TLS_FEED_MAX;
    if (size == 0 || !tls_stream_is_starved(to->stream) ||
        tls_stream_state(to->stream) == TLS_STREAM_BROKEN ||
        tls_stream_state(to->stream) == TLS_STREAM_ENDED) {
        return;
    }
    tls_stream_feed(to->stream, slice_make(from->wire.data, size));
    buffer_consume(&from->wire, size);
    if (tls_stream_shake(to->stream) == TLS_STREAM_UP) {
        read_all(to, from);
    }
    collect(to);
}

static void write_some(struct end *end, size_t size) {
    uint8_t plain[40000];
    if (!is_up(end)) {
        return;
    }
    size = size < sizeof plain ? size : sizeof plain;
    for (size_t i = 0; i < size; i++) {
        plain[i] = pattern(end->written + i);
    }
    if (tls_stream_write(end->stream, slice_make(plain, size))) {
        end->written += size;
    }
    collect(end);
}

/* To the end of the handshake, undisturbed. */
static void shake_hands(void) {
    for (unsigned i = 0; i < 20; i++) {
        deliver(&ends[SERVER], &ends[CLIENT], SIZE_MAX);
        deliver(&ends[CLIENT], &ends[SERVER], SIZE_MAX);
    }
}

static void step(uint8_t what, uint8_t amount) {
    struct end *end = &ends[what & 1];
    struct end *other = &ends[~what & 1];
    struct buffer *wire = &end->wire;
    size_t at = wire->size > 0 ? amount % wire->size : 0;
    switch (what >> 1 & 7) {
    case 0:
        deliver(other, end, amount + 1U);
        break;
    case 1:
        deliver(other, end, SIZE_MAX);
        break;
    case 2:
        write_some(end, (size_t)amount * amount);
        break;
    case 3: /* a flipped bit */
        if (wire->size > 0) {
            wire->data[at] ^= (uint8_t)(1U << (what >> 5));
        }
        break;
    case 4: /* bytes that are lost */
        if (wire->size > 0) {
            buffer_consume(wire, at + 1);
        }
        break;
    case 5: /* bytes of a stranger */
        for (unsigned i = 0; i < 1U + (what >> 4); i++) {
            buffer_put_u8(wire, amount);
        }
        break;
    case 6: /* everything twice */
        if (wire->size > 0 && wire->size < 100000) {
            struct buffer copy = {0};
            buffer_append_slice(&copy, buffer_slice(wire));
            buffer_append_slice(wire, buffer_slice(&copy));
            buffer_free(&copy);
        }
        break;
    default:
        tls_stream_end(end->stream);
        collect(end);
        break;
    }
    expect(tls_stream_wire(end->stream)->size == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct tls_keys *keys;
    if (keys == NULL) {
        keys = make_keys(TLS_VERIFY_REQUIRED);
    }
    if (size < 1) {
        return 0;
    }
    memset(ends, 0, sizeof ends);
    ends[CLIENT].stream = tls_stream_connect(keys);
    ends[SERVER].stream = tls_stream_accept(keys);
    (void)tls_stream_shake(ends[CLIENT].stream);
    collect(&ends[CLIENT]);
    if ((data[0] & 1) != 0) {
        shake_hands();
        expect(is_up(&ends[CLIENT]) && is_up(&ends[SERVER]));
    }
    for (size_t i = 1; i + 1 < size && i < 200; i += 2) {
        step(data[i], data[i + 1]);
    }
    for (unsigned i = 0; i < 2; i++) {
        bool broken = tls_stream_state(ends[i].stream) == TLS_STREAM_BROKEN;
        expect(broken == (tls_stream_error(ends[i].stream)[0] != '\0'));
        tls_stream_free(ends[i].stream);
        buffer_free(&ends[i].wire);
    }
    return 0;
}
