/* Authorities and certificates made in memory, for tests and fuzz targets that speak TLS. */
#ifndef TESTS_TLS_FIXTURE_H
#define TESTS_TLS_FIXTURE_H

#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/tls_keys.h"

struct tls_authority {
    X509 *certificate;
    EVP_PKEY *key;
    struct buffer pem;
};

struct tls_pair {
    struct buffer certificate;
    struct buffer key;
};

/* What differs between certificates; a zeroed one is a server's that is valid now. */
struct tls_wish {
    const char *names; /* subjectAltName, or NULL */
    const char *usage; /* extendedKeyUsage; NULL: serverAuth,clientAuth */
    long from_s;       /* validity, seconds from now; both 0: a day ago until in 30 days */
    long until_s;
};

/* Out of memory in a fixture: nothing to test any more. */
static void *tls_made(void *made) {
    if (made == NULL) {
        abort();
    }
    return made;
}

static void tls_take_pem(BIO *bio, struct buffer *pem) {
    char *data;
    long size = BIO_get_mem_data(bio, &data);
    buffer_append(pem, data, (size_t)size);
    BIO_free(bio);
}

static void tls_certificate_pem(X509 *certificate, struct buffer *pem) {
    BIO *bio = tls_made(BIO_new(BIO_s_mem()));
    PEM_write_bio_X509(bio, certificate);
    tls_take_pem(bio, pem);
}

static void tls_extend(X509 *certificate, X509 *issuer, int kind, const char *value) {
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
    X509_EXTENSION *extension = tls_made(X509V3_EXT_conf_nid(NULL, &context, kind, value));
    X509_add_ext(certificate, extension, -1);
    X509_EXTENSION_free(extension);
}

static X509 *tls_blank(const char *name, EVP_PKEY *key, const struct tls_wish *wish) {
    static long serial;
    const long day_s = 24 * 3600;
    bool dated = wish->from_s != 0 || wish->until_s != 0;
    X509 *certificate = tls_made(X509_new());
    X509_set_version(certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(certificate), dated ? wish->from_s : -day_s);
    X509_gmtime_adj(X509_getm_notAfter(certificate), dated ? wish->until_s : 30 * day_s);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC,
                               (const unsigned char *)name, -1, -1, 0);
    X509_set_pubkey(certificate, key);
    return certificate;
}

static void tls_authority_make(struct tls_authority *authority, const char *name) {
    *authority = (struct tls_authority){.key = tls_made(EVP_EC_gen("P-256"))};
    X509 *certificate = tls_blank(name, authority->key, &(struct tls_wish){0});
    X509_set_issuer_name(certificate, X509_get_subject_name(certificate));
    tls_extend(certificate, certificate, NID_basic_constraints, "critical,CA:TRUE");
    X509_sign(certificate, authority->key, EVP_sha256());
    tls_certificate_pem(certificate, &authority->pem);
    authority->certificate = certificate;
}

static void tls_authority_free(struct tls_authority *authority) {
    X509_free(authority->certificate);
    EVP_PKEY_free(authority->key);
    buffer_free(&authority->pem);
}

static void tls_pair_make(struct tls_pair *pair, const struct tls_authority *authority,
                          const struct tls_wish *wish) {
    *pair = (struct tls_pair){0};
    EVP_PKEY *key = tls_made(EVP_EC_gen("P-256"));
    X509 *certificate = tls_blank("leaf", key, wish);
    X509_set_issuer_name(certificate, X509_get_subject_name(authority->certificate));
    tls_extend(certificate, authority->certificate, NID_ext_key_usage,
               wish->usage != NULL ? wish->usage : "serverAuth,clientAuth");
    if (wish->names != NULL) {
        tls_extend(certificate, authority->certificate, NID_subject_alt_name, wish->names);
    }
    X509_sign(certificate, authority->key, EVP_sha256());
    tls_certificate_pem(certificate, &pair->certificate);
    BIO *bio = tls_made(BIO_new(BIO_s_mem()));
    PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL);
    tls_take_pem(bio, &pair->key);
    X509_free(certificate);
    EVP_PKEY_free(key);
}

static void tls_pair_free(struct tls_pair *pair) {
    buffer_free(&pair->certificate);
    buffer_free(&pair->key);
}

/* Settings that refer to the fixtures, which have to outlive them. */
static struct tls_settings tls_settings_of(const struct tls_pair *pair,
                                           const struct tls_authority *authority,
                                           enum tls_verify verify) {
    return (struct tls_settings){.certificate = buffer_slice(&pair->certificate),
                                 .key = buffer_slice(&pair->key),
                                 .authorities = buffer_slice(&authority->pem),
                                 .verify = verify};
}

#endif
