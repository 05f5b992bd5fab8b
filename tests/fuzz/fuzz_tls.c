/* Bytes of a stranger on a TLS port, before anybody has shown who it is. The first byte of the
 * input picks the end and the size of the pieces. */
#include "base/tls_keys.h"
#include "base/tls_stream.h"
#include "tests/unit/tls_fixture.h"

static struct tls_keys *make_keys(void) {
    struct tls_authority authority;
    struct tls_pair pair;
    struct tls_keys *keys;
    tls_authority_make(&authority, "fuzz");
    tls_pair_make(&pair, &authority, &(struct tls_wish){.names = "URI:invoke-kv://fuzz/node/1"});
    struct tls_settings settings = tls_settings_of(&pair, &authority, TLS_VERIFY_REQUIRED);
    if (tls_keys_load(&keys, &settings, NULL) != ERROR_NONE) {
        abort();
    }
    tls_pair_free(&pair);
    tls_authority_free(&authority);
    return keys;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct tls_keys *keys;
    if (keys == NULL) {
        keys = make_keys();
    }
    if (size < 2) {
        return 0;
    }
    struct tls_stream *stream =
        (data[0] & 1) != 0 ? tls_stream_connect(keys) : tls_stream_accept(keys);
    size_t piece = (size_t)(data[0] >> 1) * 16 + 1;
    (void)tls_stream_shake(stream);
    for (size_t at = 1; at < size && tls_stream_is_starved(stream); at += piece) {
        size_t rest = size - at;
        tls_stream_feed(stream, slice_make(data + at, rest < piece ? rest : piece));
        if (tls_stream_shake(stream) == TLS_STREAM_UP) {
            abort(); /* nobody without a certificate gets this far */
        }
        if (tls_stream_wire(stream)->size > TLS_OWN_WIRE_MAX) {
            abort();
        }
    }
    bool broken = tls_stream_state(stream) == TLS_STREAM_BROKEN;
    if (broken != (tls_stream_error(stream)[0] != '\0')) {
        abort();
    }
    tls_stream_free(stream);
    return 0;
}
