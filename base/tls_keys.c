#include "base/tls_keys.h"

#include <inttypes.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/mem.h"

enum { PEM_SIZE_MAX = 1 << 20, CHAIN_MAX = 16 };

/* Forward secrecy and authenticated encryption only, for TLS 1.2; 1.3 has nothing else. */
static const char ciphers[] = "ECDHE+AESGCM:ECDHE+CHACHA20";

/* Curves of 128 bits of strength and more, the quick ones first. Newer libraries put a key exchange
 * that withstands quantum computers before them; those that do not know it refuse the longer list.
 */
static const char groups[] = "X25519:P-256:X448:P-384:P-521";
static const char groups_hybrid[] = "X25519MLKEM768:X25519:P-256:X448:P-384:P-521";

struct tls_keys {
    SSL_CTX *context;
    int64_t expiry_s;
};

struct ssl_ctx_st *tls_keys_context(const struct tls_keys *keys) {
    return keys->context;
}

int64_t tls_keys_expiry_s(const struct tls_keys *keys) {
    return keys->expiry_s;
}

void tls_node_uri(char uri[TLS_URI_SIZE], const char *cluster, uint64_t id) {
    int size = snprintf(uri, TLS_URI_SIZE, "invoke-kv://%s/node/%" PRIu64, cluster, id);
    ASSERT(size > 0 && size < TLS_URI_SIZE);
}

/* Says what OpenSSL said, and empties its queue. */
static enum error_code refuse(struct error *error, const char *what) {
    unsigned long code = ERR_peek_last_error();
    const char *reason = code == 0 ? NULL : ERR_reason_error_string(code);
    ERR_clear_error();
    return error_set(error, ERROR_INVALID, "%s: %s", what, reason == NULL ? "not valid" : reason);
}

/* No prompt on a terminal for the password of an encrypted key. */
static int no_password(char *text, int size, int writing, void *data) {
    (void)text;
    (void)size;
    (void)writing;
    (void)data;
    return -1;
}

static BIO *open_text(struct slice text) {
    ERR_clear_error();
    ASSERT(text.size <= PEM_SIZE_MAX);
    BIO *bio = BIO_new_mem_buf(text.size > 0 ? (const void *)text.data : "", (int)text.size);
    ASSERT(bio != NULL);
    return bio;
}

/* The end of a list of certificates, as opposed to a damaged one. */
static bool ended_well(void) {
    unsigned long code = ERR_peek_last_error();
    bool ended = ERR_GET_LIB(code) == ERR_LIB_PEM && ERR_GET_REASON(code) == PEM_R_NO_START_LINE;
    if (ended) {
        ERR_clear_error();
    }
    return ended;
}

static int64_t expiry_of(const X509 *certificate) {
    struct tm parts;
    if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &parts) != 1) {
        return 0;
    }
    return (int64_t)timegm(&parts);
}

static enum error_code check_dates(struct tls_keys *keys, const X509 *certificate,
                                   struct error *error) {
    if (X509_cmp_current_time(X509_get0_notBefore(certificate)) >= 0) {
        return error_set(error, ERROR_INVALID, "the certificate is not valid yet");
    }
    if (X509_cmp_current_time(X509_get0_notAfter(certificate)) <= 0) {
        return error_set(error, ERROR_INVALID, "the certificate has expired");
    }
    int64_t expiry_s = expiry_of(certificate);
    if (keys->expiry_s == 0 || expiry_s < keys->expiry_s) {
        keys->expiry_s = expiry_s;
    }
    return ERROR_NONE;
}

/* The own certificate first, then those that lead to an authority. */
static enum error_code use_chain(struct tls_keys *keys, BIO *bio, struct error *error) {
    X509 *certificate;
    for (unsigned n = 0;; n++) {
        certificate = PEM_read_bio_X509(bio, NULL, no_password, NULL);
        if (certificate == NULL && n > 0 && ended_well()) {
            return ERROR_NONE;
        }
        if (certificate == NULL) {
            return refuse(error, "no PEM certificate");
        }
        if (n == CHAIN_MAX) {
            X509_free(certificate);
            return error_set(error, ERROR_INVALID, "more than %d certificates", CHAIN_MAX);
        }
        enum error_code code = check_dates(keys, certificate, error);
        bool taken = code == ERROR_NONE &&
                     (n == 0 ? SSL_CTX_use_certificate(keys->context, certificate) == 1
                             : SSL_CTX_add1_chain_cert(keys->context, certificate) == 1);
        X509_free(certificate);
        if (!taken) {
            return code != ERROR_NONE ? code : refuse(error, "unusable certificate");
        }
    }
}

static enum error_code use_key(struct tls_keys *keys, struct slice text, struct error *error) {
    BIO *bio = open_text(text);
    EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL);
    BIO_free(bio);
    if (key == NULL) {
        return refuse(error, "no PEM private key, or an encrypted one");
    }
    bool fits = SSL_CTX_use_PrivateKey(keys->context, key) == 1 &&
                SSL_CTX_check_private_key(keys->context) == 1;
    EVP_PKEY_free(key);
    return fits ? ERROR_NONE : refuse(error, "the private key does not fit the certificate");
}

static enum error_code use_authorities(struct tls_keys *keys, struct slice text,
                                       struct error *error) {
    X509_STORE *store = SSL_CTX_get_cert_store(keys->context);
    BIO *bio = open_text(text);
    enum error_code code = ERROR_NONE;
    for (unsigned n = 0; code == ERROR_NONE; n++) {
        X509 *certificate = PEM_read_bio_X509(bio, NULL, no_password, NULL);
        if (certificate == NULL) {
            code = n > 0 && ended_well() ? ERROR_NONE : refuse(error, "no PEM certificate");
            break;
        }
        bool taken = X509_STORE_add_cert(store, certificate) == 1 &&
                     SSL_CTX_add_client_CA(keys->context, certificate) == 1;
        X509_free(certificate);
        code = taken ? ERROR_NONE : refuse(error, "unusable certificate");
    }
    BIO_free(bio);
    return code;
}

int tls_certificate_has_uri(const struct x509_st *certificate, const char *uri) {
    GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
    int found = 0;
    for (int i = 0; names != NULL && i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type != GEN_URI) {
            continue;
        }
        const ASN1_IA5STRING *text = name->d.uniformResourceIdentifier;
        size_t size = (size_t)ASN1_STRING_length(text);
        if (size == strlen(uri) && memcmp(ASN1_STRING_get0_data(text), uri, size) == 0) {
            found = 1;
        }
    }
    GENERAL_NAMES_free(names);
    ERR_clear_error();
    return found;
}

/* Whether the other nodes will accept the own certificate from this end of a connection. */
static enum error_code check_purpose(struct tls_keys *keys, int purpose, struct error *error) {
    X509_STORE_CTX *check = X509_STORE_CTX_new();
    STACK_OF(X509) *chain = NULL;
    SSL_CTX_get0_chain_certs(keys->context, &chain);
    ASSERT(check != NULL);
    bool good = X509_STORE_CTX_init(check, SSL_CTX_get_cert_store(keys->context),
                                    SSL_CTX_get0_certificate(keys->context), chain) == 1 &&
                X509_STORE_CTX_set_purpose(check, purpose) == 1 && X509_verify_cert(check) == 1;
    int reason = X509_STORE_CTX_get_error(check);
    X509_STORE_CTX_free(check);
    ERR_clear_error();
    if (good) {
        return ERROR_NONE;
    }
    return error_set(error, ERROR_INVALID, "other nodes would refuse the certificate as a %s's: %s",
                     purpose == X509_PURPOSE_SSL_SERVER ? "server" : "client",
                     X509_verify_cert_error_string(reason));
}

static enum error_code check_peer(struct tls_keys *keys, const char *uri, struct error *error) {
    if (!tls_certificate_has_uri(SSL_CTX_get0_certificate(keys->context), uri)) {
        return error_set(error, ERROR_INVALID,
                         "the certificate is not this node's: it does not have the name URI:%s",
                         uri);
    }
    enum error_code code = check_purpose(keys, X509_PURPOSE_SSL_SERVER, error);
    return code == ERROR_NONE ? check_purpose(keys, X509_PURPOSE_SSL_CLIENT, error) : code;
}

static void set_protocol(SSL_CTX *context, const struct tls_settings *settings) {
    static const unsigned char session_context[] = "invoke-kv";
    int verify = settings->verify == TLS_VERIFY_OFF ? SSL_VERIFY_NONE : SSL_VERIFY_PEER;
    if (settings->verify == TLS_VERIFY_REQUIRED) {
        verify |= SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
    }
    bool set =
        SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) == 1 &&
        (SSL_CTX_set1_groups_list(context, groups_hybrid) == 1 ||
         SSL_CTX_set1_groups_list(context, groups) == 1) &&
        SSL_CTX_set_cipher_list(context, ciphers) == 1 &&
        SSL_CTX_set_session_id_context(context, session_context, sizeof session_context - 1) == 1;
    ASSERT(set);
    ERR_clear_error();
    SSL_CTX_set_options(context, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
    /* What was read, secrets for example, does not stay in OpenSSL's buffer or in freed memory. */
    SSL_CTX_set_options(context, SSL_OP_CLEANSE_PLAINTEXT);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_verify(context, verify, NULL);
    /* Tickets carry a session's state; nothing is kept here for those who come again. */
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    if (settings->peer_uri != NULL) {
        SSL_CTX_set_options(context, SSL_OP_NO_TICKET);
        set = SSL_CTX_set_num_tickets(context, 0) == 1;
        ASSERT(set);
    }
}

static enum error_code load(struct tls_keys *keys, const struct tls_settings *settings,
                            struct error *error) {
    BIO *bio = open_text(settings->certificate);
    enum error_code code = use_chain(keys, bio, error);
    BIO_free(bio);
    if (code != ERROR_NONE) {
        (void)error_wrap(error, "certificate");
        return code;
    }
    code = use_key(keys, settings->key, error);
    if (code != ERROR_NONE) {
        (void)error_wrap(error, "key");
        return code;
    }
    if (settings->verify != TLS_VERIFY_OFF) {
        code = use_authorities(keys, settings->authorities, error);
    }
    if (code != ERROR_NONE) {
        (void)error_wrap(error, "authorities");
        return code;
    }
    return settings->peer_uri == NULL ? code : check_peer(keys, settings->peer_uri, error);
}

enum error_code tls_keys_load(struct tls_keys **out, const struct tls_settings *settings,
                              struct error *error) {
    *out = NULL;
    const struct slice texts[] = {settings->certificate, settings->key, settings->authorities};
    for (unsigned i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        if (texts[i].size > PEM_SIZE_MAX) {
            return error_set(error, ERROR_INVALID, "certificates and keys of more than %d bytes",
                             PEM_SIZE_MAX);
        }
    }
    struct tls_keys *keys = mem_zalloc(1, sizeof *keys);
    keys->context = SSL_CTX_new(TLS_method());
    ASSERT(keys->context != NULL);
    set_protocol(keys->context, settings);
    enum error_code code = load(keys, settings, error);
    if (code != ERROR_NONE) {
        tls_keys_free(keys);
        return code;
    }
    *out = keys;
    return ERROR_NONE;
}

void tls_keys_free(struct tls_keys *keys) {
    if (keys != NULL) {
        SSL_CTX_free(keys->context);
        mem_free(keys);
    }
}
