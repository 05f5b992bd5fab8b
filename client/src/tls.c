#include "client/src/tls.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

struct tls_context {
    SSL_CTX *ctx;
    char *name; /* expected instead of the host, or NULL */
};

struct tls {
    SSL *ssl;
    BIO *input;  /* from the socket; belongs to ssl */
    BIO *output; /* to the socket; belongs to ssl */
    char error[256];
};

/* Errors of a library that the process shares stay in this thread's queue: read and emptied. */
static void take_error(char *text, size_t size, const char *what) {
    unsigned long code = ERR_get_error();
    char reason[160] = "no reason given";
    if (code != 0) {
        ERR_error_string_n(code, reason, sizeof reason);
    }
    ERR_clear_error();
    snprintf(text, size, "%s: %s", what, reason);
}

static bool load_trust(SSL_CTX *ctx, const struct ikv_options *options) {
    if (options->ca_file != NULL) {
        return SSL_CTX_load_verify_locations(ctx, options->ca_file, NULL) == 1;
    }
    return SSL_CTX_set_default_verify_paths(ctx) == 1;
}

static bool load_certificate(SSL_CTX *ctx, const struct ikv_options *options) {
    if (options->cert_file == NULL) {
        return true;
    }
    const char *key = options->key_file != NULL ? options->key_file : options->cert_file;
    return SSL_CTX_use_certificate_chain_file(ctx, options->cert_file) == 1 &&
           SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) == 1 &&
           SSL_CTX_check_private_key(ctx) == 1;
}

struct tls_context *tls_context_new(const struct ikv_options *options, char *message,
                                    size_t message_size) {
    struct tls_context *context = calloc(1, sizeof *context);
    if (context == NULL) {
        return NULL;
    }
    context->ctx = SSL_CTX_new(TLS_client_method());
    if (context->ctx != NULL && SSL_CTX_set_min_proto_version(context->ctx, TLS1_2_VERSION) == 1 &&
        load_trust(context->ctx, options) && load_certificate(context->ctx, options) &&
        options_set_text(&context->name, options->tls_name)) {
        SSL_CTX_set_verify(context->ctx, SSL_VERIFY_PEER, NULL);
        SSL_CTX_set_mode(context->ctx, SSL_MODE_RELEASE_BUFFERS);
        return context;
    }
    take_error(message, message_size, "TLS certificates");
    tls_context_free(context);
    return NULL;
}

void tls_context_free(struct tls_context *context) {
    if (context != NULL) {
        SSL_CTX_free(context->ctx);
        free(context->name);
        free(context);
    }
}

static bool is_address(const char *host) {
    unsigned char address[sizeof(struct in6_addr)];
    return inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;
}

static bool expect_host(SSL *ssl, const char *host) {
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
    if (is_address(host)) {
        return X509_VERIFY_PARAM_set1_ip_asc(param, host) == 1;
    }
    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return X509_VERIFY_PARAM_set1_host(param, host, 0) == 1 &&
           SSL_set_tlsext_host_name(ssl, host) == 1;
}

struct tls *tls_new(struct tls_context *context, const char *host) {
    struct tls *tls = calloc(1, sizeof *tls);
    if (tls == NULL) {
        return NULL;
    }
    tls->ssl = SSL_new(context->ctx);
    tls->input = BIO_new(BIO_s_mem());
    tls->output = BIO_new(BIO_s_mem());
    bool made = tls->ssl != NULL && tls->input != NULL && tls->output != NULL &&
                expect_host(tls->ssl, context->name != NULL ? context->name : host);
    if (!made) {
        BIO_free(tls->input);
        BIO_free(tls->output);
        SSL_free(tls->ssl);
        free(tls);
        ERR_clear_error();
        return NULL;
    }
    SSL_set_bio(tls->ssl, tls->input, tls->output);
    SSL_set_connect_state(tls->ssl);
    return tls;
}

void tls_free(struct tls *tls) {
    if (tls != NULL) {
        SSL_free(tls->ssl);
        free(tls);
    }
}

static enum tls_status status_of(struct tls *tls, int result, const char *what) {
    int error = SSL_get_error(tls->ssl, result);
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
        return TLS_MORE;
    }
    if (error == SSL_ERROR_ZERO_RETURN) {
        return TLS_ENDED;
    }
    long verified = SSL_get_verify_result(tls->ssl);
    if (verified != X509_V_OK) {
        ERR_clear_error();
        snprintf(tls->error, sizeof tls->error, "certificate refused: %s",
                 X509_verify_cert_error_string(verified));
    } else {
        take_error(tls->error, sizeof tls->error, what);
    }
    return TLS_FAILED;
}

enum tls_status tls_handshake(struct tls *tls) {
    ERR_clear_error();
    int result = SSL_do_handshake(tls->ssl);
    return result == 1 ? TLS_OK : status_of(tls, result, "TLS handshake");
}

enum tls_status tls_write(struct tls *tls, const void *data, size_t size) {
    const char *at = data;
    while (size > 0) {
        int chunk = size > INT_MAX ? INT_MAX : (int)size;
        ERR_clear_error();
        int result = SSL_write(tls->ssl, at, chunk);
        if (result <= 0) {
            enum tls_status status = status_of(tls, result, "TLS write");
            return status == TLS_MORE ? TLS_FAILED : status; /* no renegotiation: never waits */
        }
        at += result;
        size -= (size_t)result;
    }
    return TLS_OK;
}

enum tls_status tls_read(struct tls *tls, void *data, size_t size, size_t *got) {
    ERR_clear_error();
    int result = SSL_read(tls->ssl, data, size > INT_MAX ? INT_MAX : (int)size);
    *got = result > 0 ? (size_t)result : 0;
    return result > 0 ? TLS_OK : status_of(tls, result, "TLS read");
}

bool tls_feed(struct tls *tls, const void *data, size_t size) {
    return BIO_write(tls->input, data, (int)size) == (int)size;
}

size_t tls_output(struct tls *tls, void *data, size_t size) {
    int result = BIO_read(tls->output, data, size > INT_MAX ? INT_MAX : (int)size);
    return result > 0 ? (size_t)result : 0;
}

const char *tls_error(const struct tls *tls) {
    return tls->error;
}
