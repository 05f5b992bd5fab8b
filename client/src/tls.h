/* TLS between memory and memory: the connection moves the bytes to and from the socket. */
#ifndef CLIENT_TLS_H
#define CLIENT_TLS_H

#include <stdbool.h>
#include <stddef.h>

#include "client/src/options.h"

struct tls;
struct tls_context;

/* What certificates to trust and show; NULL with a text on failure. */
struct tls_context *tls_context_new(const struct ikv_options *options, char *message,
                                    size_t message_size);
void tls_context_free(struct tls_context *context);

/* A client's end of a connection to `host`, whose certificate must be for that name or address;
 * NULL without memory. */
struct tls *tls_new(struct tls_context *context, const char *host);
void tls_free(struct tls *tls);

enum tls_status {
    TLS_OK,
    TLS_MORE,  /* needs more bytes from the peer */
    TLS_ENDED, /* the peer closed in good order */
    TLS_FAILED /* tls_error() says why */
};

enum tls_status tls_handshake(struct tls *tls);
/* Encrypts all of it; TLS_OK or TLS_FAILED. */
enum tls_status tls_write(struct tls *tls, const void *data, size_t size);
/* Decrypts up to `size` bytes; TLS_OK with *got > 0, or another status. */
enum tls_status tls_read(struct tls *tls, void *data, size_t size, size_t *got);
/* Bytes that came from the socket; false without memory. */
bool tls_feed(struct tls *tls, const void *data, size_t size);
/* Takes up to `size` bytes that have to go to the socket; 0: there are none. */
size_t tls_output(struct tls *tls, void *data, size_t size);
const char *tls_error(const struct tls *tls);

#endif
