/* One end of a TLS connection between memory and memory: the shell that owns the socket hands over
 * what came from the wire and sends what has to go there. Pure.
 *
 *     socket -> tls_stream_feed() -> tls_stream_read()  -> plaintext
 *     socket <- tls_stream_wire() <- tls_stream_write() <- plaintext
 *
 * After each call the wire may hold bytes to send: handshake, alerts, data.
 *
 * Bounds: the shell feeds at most TLS_FEED_MAX bytes, and only while tls_stream_is_starved(); the
 * wire holds what the shell wrote and has not sent, and at most TLS_OWN_WIRE_MAX bytes that the
 * other side provoked: then the stream is broken.
 *
 * Threads: the one that made it. */
#ifndef BASE_TLS_STREAM_H
#define BASE_TLS_STREAM_H

#include <stdbool.h>

#include "base/bytes.h"
#include "base/error.h"

struct tls_keys;
struct tls_stream;

enum {
    TLS_FEED_MAX = 64 * 1024,
    TLS_OWN_WIRE_MAX = 256 * 1024,
    TLS_RECORD_SIZE = 16 * 1024, /* plaintext of the largest record */
    TLS_RECORD_EXTRA = 64,       /* a record is at most this much longer than its plaintext */
    TLS_FIRST_BYTE = 0x16        /* of every TLS connection, and of none in plaintext */
};

enum tls_stream_state {
    TLS_STREAM_SHAKING, /* no plaintext yet: tls_stream_shake() goes on */
    TLS_STREAM_UP,
    TLS_STREAM_ENDED, /* the other side has sent all it wants to; writing is still possible */
    TLS_STREAM_BROKEN /* tls_stream_error() says why; the wire may hold an alert */
};

/* The accepting and the dialing end. `keys` may be freed before the stream. */
struct tls_stream *tls_stream_accept(const struct tls_keys *keys);
struct tls_stream *tls_stream_connect(const struct tls_keys *keys);
void tls_stream_free(struct tls_stream *stream); /* NULL is fine */

enum tls_stream_state tls_stream_state(const struct tls_stream *stream);
/* Why it is broken, without a line's end; "" before. */
const char *tls_stream_error(const struct tls_stream *stream);

/* Broken because the other side showed no certificate, or none that is good. */
bool tls_stream_lacks_certificate(const struct tls_stream *stream);

/* Bytes from the wire; copied, and looked at by the next tls_stream_shake() or _read(). */
void tls_stream_feed(struct tls_stream *stream, struct slice wire);
/* Nothing can be done before more bytes are fed. */
bool tls_stream_is_starved(const struct tls_stream *stream);

/* Goes on with the handshake as far as the bytes reach; this is where the time of a handshake goes.
 */
enum tls_stream_state tls_stream_shake(struct tls_stream *stream);

/* Up to `size` bytes of plaintext; 0: see whether it is starved, ended or broken. Only once the
 * handshake is done. */
size_t tls_stream_read(struct tls_stream *stream, void *plain, size_t size);

/* Encrypts all of it onto the wire. False when the stream is broken. Only once the handshake is
 * done. */
bool tls_stream_write(struct tls_stream *stream, struct slice plain);
/* Tells the other side that nothing follows. */
void tls_stream_end(struct tls_stream *stream);

/* What has to go to the socket. The shell takes from its front, or all of it by moving the buffer
 * away and leaving a zeroed one. */
struct buffer *tls_stream_wire(struct tls_stream *stream);

/* Whether the certificate that the other side showed, and that was verified, has this URI among its
 * names. */
bool tls_stream_peer_is(const struct tls_stream *stream, const char *uri);

#endif
