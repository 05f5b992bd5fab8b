#include "base/tls_stream.h"

#include <limits.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>

#include "base/assert.h"
#include "base/mem.h"
#include "base/tls_keys.h"

enum { REASON_SIZE = 160, KEPT_CAPACITY = 4 * 1024 };

struct tls_stream {
    SSL *ssl;
    struct buffer input; /* fed, not yet looked at from `taken` on */
    size_t taken;
    struct buffer wire;
    size_t own_wire; /* bytes of the wire that no write asked for, since it was last empty */
    bool writing;    /* within tls_stream_write() */
    bool starved;
    enum tls_stream_state state;
    bool lacks_certificate;
    char reason[REASON_SIZE];
};

/* ---- OpenSSL's view of the two buffers ---- */

static int bio_read(BIO *bio, char *to, int size) {
    struct tls_stream *stream = BIO_get_data(bio);
    size_t left = stream->input.size - stream->taken;
    BIO_clear_retry_flags(bio);
    if (left == 0 || size <= 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    size_t taken = left < (size_t)size ? left : (size_t)size;
    memcpy(to, stream->input.data + stream->taken, taken);
    stream->taken += taken;
    return (int)taken;
}

static int bio_write(BIO *bio, const char *data, int size) {
    struct tls_stream *stream = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (size <= 0) {
        return 0;
    }
    if (stream->wire.size == 0) {
        stream->own_wire = 0;
    }
    if (!stream->writing) {
        stream->own_wire += (size_t)size;
        if (stream->own_wire > TLS_OWN_WIRE_MAX) {
            return -1; /* not to be tried again */
        }
    }
    buffer_append(&stream->wire, data, (size_t)size);
    return size;
}

static long bio_control(BIO *bio, int command, long number, void *pointer) {
    (void)bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH ? 1 : 0;
}

static int bio_create(BIO *bio) {
    BIO_set_init(bio, 1);
    return 1;
}

/* Made once and kept: the first stream is made before there is a second thread that makes any. */
static const BIO_METHOD *bio_method(void) {
    static BIO_METHOD *method;
    if (method == NULL) {
        method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "invoke-kv");
        bool made = method != NULL && BIO_meth_set_read(method, bio_read) == 1 &&
                    BIO_meth_set_write(method, bio_write) == 1 &&
                    BIO_meth_set_ctrl(method, bio_control) == 1 &&
                    BIO_meth_set_create(method, bio_create) == 1;
        ASSERT(made);
    }
    return method;
}

/* ---- life ---- */

static struct tls_stream *stream_new(const struct tls_keys *keys) {
    struct tls_stream *stream = mem_zalloc(1, sizeof *stream);
    ERR_clear_error();
    stream->ssl = SSL_new(tls_keys_context(keys));
    BIO *bio = BIO_new(bio_method());
    ASSERT(stream->ssl != NULL && bio != NULL);
    BIO_set_data(bio, stream);
    SSL_set_bio(stream->ssl, bio, bio);
    return stream;
}

struct tls_stream *tls_stream_accept(const struct tls_keys *keys) {
    struct tls_stream *stream = stream_new(keys);
    SSL_set_accept_state(stream->ssl);
    stream->starved = true;
    return stream;
}

struct tls_stream *tls_stream_connect(const struct tls_keys *keys) {
    struct tls_stream *stream = stream_new(keys);
    SSL_set_connect_state(stream->ssl);
    return stream;
}

void tls_stream_free(struct tls_stream *stream) {
    if (stream != NULL) {
        SSL_free(stream->ssl);
        buffer_free(&stream->input);
        buffer_free(&stream->wire);
        mem_free(stream);
    }
}

enum tls_stream_state tls_stream_state(const struct tls_stream *stream) {
    return stream->state;
}

const char *tls_stream_error(const struct tls_stream *stream) {
    return stream->reason;
}

bool tls_stream_lacks_certificate(const struct tls_stream *stream) {
    return stream->lacks_certificate;
}

bool tls_stream_is_starved(const struct tls_stream *stream) {
    return stream->starved;
}

struct buffer *tls_stream_wire(struct tls_stream *stream) {
    return &stream->wire;
}

/* ---- what went wrong ---- */

static void break_stream(struct tls_stream *stream, const char *reason) {
    stream->state = TLS_STREAM_BROKEN;
    snprintf(stream->reason, sizeof stream->reason, "%s", reason);
}

/* An alert of the other side says what it thinks of us; anything else is what we think of it. */
static void break_with_openssl(struct tls_stream *stream) {
    long verified = SSL_get_verify_result(stream->ssl);
    unsigned long code = ERR_peek_last_error();
    const char *reason = code == 0 ? NULL : ERR_reason_error_string(code);
    int what = ERR_GET_REASON(code);
    stream->lacks_certificate =
        what == SSL_R_CERTIFICATE_VERIFY_FAILED || what == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE;
    if (stream->own_wire > TLS_OWN_WIRE_MAX) {
        break_stream(stream, "the other side asks for answers without taking them");
    } else if (ERR_GET_REASON(code) == SSL_R_CERTIFICATE_VERIFY_FAILED && verified != X509_V_OK) {
        snprintf(stream->reason, sizeof stream->reason, "certificate refused: %s",
                 X509_verify_cert_error_string(verified));
        stream->state = TLS_STREAM_BROKEN;
    } else if (ERR_GET_REASON(code) > SSL_AD_REASON_OFFSET) {
        snprintf(stream->reason, sizeof stream->reason, "the other side refused: %s",
                 reason == NULL ? "unknown alert" : reason);
        stream->state = TLS_STREAM_BROKEN;
    } else {
        break_stream(stream, reason == NULL ? "TLS failed" : reason);
    }
    ERR_clear_error();
}

/* After a call of OpenSSL that did not succeed. */
static void stream_note(struct tls_stream *stream, int result) {
    switch (SSL_get_error(stream->ssl, result)) {
    case SSL_ERROR_WANT_READ:
        stream->starved = true;
        break;
    case SSL_ERROR_ZERO_RETURN:
        stream->state = TLS_STREAM_ENDED;
        break;
    default:
        break_with_openssl(stream);
        break;
    }
}

/* ---- bytes ---- */

void tls_stream_feed(struct tls_stream *stream, struct slice wire) {
    ASSERT(wire.size <= TLS_FEED_MAX && stream->starved);
    ASSERT(stream->taken == stream->input.size);
    if (wire.size == 0) {
        return;
    }
    stream->taken = 0;
    stream->input.size = 0;
    buffer_append_slice(&stream->input, wire);
    stream->starved = false;
}

/* A connection that rests keeps no large buffer. */
static void stream_tidy(struct tls_stream *stream) {
    if (stream->taken == stream->input.size && stream->input.capacity > KEPT_CAPACITY) {
        buffer_free(&stream->input);
        stream->taken = 0;
    }
}

enum tls_stream_state tls_stream_shake(struct tls_stream *stream) {
    if (stream->state != TLS_STREAM_SHAKING || stream->starved) {
        return stream->state;
    }
    if (stream->input.size > 0 && stream->taken == 0 && SSL_in_before(stream->ssl) &&
        stream->input.data[0] != TLS_FIRST_BYTE) {
        break_stream(stream, "the other side does not speak TLS");
        return stream->state;
    }
    ERR_clear_error();
    int result = SSL_do_handshake(stream->ssl);
    if (result == 1) {
        stream->state = TLS_STREAM_UP;
        /* Data may stand right behind the handshake. */
        stream->starved = stream->taken == stream->input.size && !SSL_has_pending(stream->ssl);
    } else {
        stream_note(stream, result);
    }
    if (stream->starved) {
        stream_tidy(stream);
    }
    return stream->state;
}

size_t tls_stream_read(struct tls_stream *stream, void *plain, size_t size) {
    ASSERT(stream->state != TLS_STREAM_SHAKING);
    if (stream->state != TLS_STREAM_UP || stream->starved || size == 0) {
        return 0;
    }
    ERR_clear_error();
    int result = SSL_read(stream->ssl, plain, size < INT_MAX ? (int)size : INT_MAX);
    if (result <= 0) {
        stream_note(stream, result);
        stream_tidy(stream);
    }
    return result > 0 ? (size_t)result : 0;
}

bool tls_stream_write(struct tls_stream *stream, struct slice plain) {
    ASSERT(stream->state != TLS_STREAM_SHAKING);
    if (stream->state == TLS_STREAM_BROKEN) {
        return false;
    }
    size_t records = plain.size / TLS_RECORD_SIZE + 1;
    buffer_reserve(&stream->wire, plain.size + records * TLS_RECORD_EXTRA);
    stream->writing = true;
    while (plain.size > 0) {
        int size = plain.size < INT_MAX ? (int)plain.size : INT_MAX;
        ERR_clear_error();
        int result = SSL_write(stream->ssl, plain.data, size);
        if (result <= 0) {
            /* Without renegotiation there is nothing that it could wait for. */
            break_with_openssl(stream);
            break;
        }
        plain = slice_make(plain.data + result, plain.size - (size_t)result);
    }
    stream->writing = false;
    return stream->state != TLS_STREAM_BROKEN;
}

void tls_stream_end(struct tls_stream *stream) {
    if (stream->state == TLS_STREAM_UP || stream->state == TLS_STREAM_ENDED) {
        ERR_clear_error();
        (void)SSL_shutdown(stream->ssl);
        ERR_clear_error();
    }
}

bool tls_stream_peer_is(const struct tls_stream *stream, const char *uri) {
    const X509 *certificate = SSL_get0_peer_certificate(stream->ssl);
    return certificate != NULL && SSL_get_verify_result(stream->ssl) == X509_V_OK &&
           tls_certificate_has_uri(certificate, uri);
}
