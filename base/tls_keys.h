/* The certificate, private key and trusted authorities with which one port speaks TLS: 1.2 or
 * later, without compression and renegotiation. Immutable; streams that were made with it live on
 * when it is freed, so a reload makes new keys and drops the old ones.
 *
 * All texts are PEM and come from memory: this module reads no file. Expiry is judged by the
 * system's clock, as OpenSSL does. Threads: any, one at a time. */
#ifndef BASE_TLS_KEYS_H
#define BASE_TLS_KEYS_H

#include <stdint.h>

#include "base/bytes.h"
#include "base/error.h"

struct ssl_ctx_st;
struct tls_keys;

/* What the other side has to show. */
enum tls_verify {
    TLS_VERIFY_OFF,      /* nothing; what it shows is not looked at */
    TLS_VERIFY_OPTIONAL, /* when it shows a certificate, one of the authorities signed it */
    TLS_VERIFY_REQUIRED  /* a certificate that one of the authorities signed */
};

struct tls_settings {
    struct slice certificate; /* the own one, then intermediate ones */
    struct slice key;         /* not encrypted */
    struct slice authorities; /* needed unless verify is TLS_VERIFY_OFF */
    enum tls_verify verify;
    /* The link of a node to another one: resumes no sessions, and the own certificate must be good
     * for both ends, signed by one of the authorities, and carry this URI among its names. */
    const char *peer_uri; /* NULL: no such link */
};

enum { TLS_URI_SIZE = 128 }; /* bytes of a URI with its NUL */

/* Checks everything: that key and certificate belong together, that the certificate is valid now.
 * ERROR_INVALID otherwise, *keys is NULL then; the message tells which text is bad, and why. */
enum error_code tls_keys_load(struct tls_keys **keys, const struct tls_settings *settings,
                              struct error *error);
void tls_keys_free(struct tls_keys *keys); /* NULL is fine */

/* When the first of the own certificates expires, seconds since the Unix epoch. */
int64_t tls_keys_expiry_s(const struct tls_keys *keys);
/* The name that node `id` of `cluster` carries in its certificate: invoke-kv://CLUSTER/node/ID. */
void tls_node_uri(char uri[TLS_URI_SIZE], const char *cluster, uint64_t id);

/* For base/tls_stream.c. */
struct ssl_ctx_st *tls_keys_context(const struct tls_keys *keys);
struct x509_st;
/* Whether the certificate has this URI among its names. */
int tls_certificate_has_uri(const struct x509_st *certificate, const char *uri);

#endif
