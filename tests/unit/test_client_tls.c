/* TLS of the client library: certificates that are good, foreign, or of another host; peers that do
 * not speak TLS at all. The server is one thread with blocking sockets; it answers PING with PONG
 * and everything else with "$2 ok". */
#include <arpa/inet.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "base/resp.h"
#include "client/include/invoke_kv.h"

struct tls_peer {
    int listener;
    char seed[64];
    SSL_CTX *ctx; /* NULL: speaks plain text */
    pthread_t thread;
    atomic_bool stopping;
};

static char ca_path[64];
static char other_ca_path[64];

/* --- certificates
 * ------------------------------------------------------------------------------------ */

static void add_names(X509 *certificate, const char *names) {
    X509_EXTENSION *extension =
        X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, (char *)(uintptr_t)names);
    assert_non_null(extension);
    X509_add_ext(certificate, extension, -1);
    X509_EXTENSION_free(extension);
}

/* Self-signed: it is its own authority. */
static X509 *make_certificate(EVP_PKEY *key, const char *names) {
    X509 *certificate = X509_new();
    X509_set_version(certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    X509_set_pubkey(certificate, key);
    X509_NAME *name = X509_get_subject_name(certificate);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"test", -1, -1, 0);
    X509_set_issuer_name(certificate, name);
    add_names(certificate, names);
    assert_true(X509_sign(certificate, key, EVP_sha256()) > 0);
    return certificate;
}

static void write_certificate(X509 *certificate, char path[64]) {
    snprintf(path, 64, "/tmp/ikv-test-ca-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    FILE *file = fdopen(fd, "w");
    assert_non_null(file);
    assert_int_equal(PEM_write_X509(file, certificate), 1);
    fclose(file);
}

/* A server's context with a certificate for those names, which is also written to a file. */
static SSL_CTX *make_context(const char *names, char path[64]) {
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = make_certificate(key, names);
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    assert_int_equal(SSL_CTX_use_certificate(ctx, certificate), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey(ctx, key), 1);
    write_certificate(certificate, path);
    X509_free(certificate);
    EVP_PKEY_free(key);
    return ctx;
}

/* --- the peer
 * ------------------------------------------------------------------------------------------- */

static void talk(SSL *ssl) {
    static const struct resp_limits limits = {
        .max_args = 64, .max_bulk = 1 << 24, .max_request = 1 << 24, .max_inline = 1024};
    struct resp_parser *parser = resp_parser_new(&limits);
    for (;;) {
        uint8_t *space;
        size_t size;
        resp_parser_space(parser, &space, &size);
        int got = SSL_read(ssl, space, (int)(size < 16384 ? size : 16384));
        if (got <= 0) {
            break;
        }
        resp_parser_filled(parser, (size_t)got);
        struct resp_command command;
        while (resp_parser_next(parser, &command) == RESP_COMMAND) {
            bool ping = slice_equal_nocase(command.argv[0], "PING");
            bool cluster = slice_equal_nocase(command.argv[0], "CLUSTER");
            const char *text = ping      ? "+PONG\r\n"
                               : cluster ? "-ERR unknown subcommand\r\n"
                                         : "$2\r\nok\r\n";
            SSL_write(ssl, text, (int)strlen(text));
        }
    }
    resp_parser_free(parser);
}

struct visit {
    struct tls_peer *peer;
    int fd;
};

static void *serve(void *data) {
    struct visit *visit = data;
    if (visit->peer->ctx == NULL) {
        char byte[64];
        ssize_t got = recv(visit->fd, byte, sizeof byte, 0);
        (void)got;
        send(visit->fd, "-ERR plain text\r\n", 17, MSG_NOSIGNAL);
    } else {
        SSL *ssl = SSL_new(visit->peer->ctx);
        SSL_set_fd(ssl, visit->fd);
        if (SSL_accept(ssl) == 1) {
            talk(ssl);
        }
        SSL_free(ssl);
    }
    close(visit->fd);
    free(visit);
    return NULL;
}

/* Each connection has a thread, so that none waits for another; all end when the client closes. */
static void *accept_all(void *data) {
    struct tls_peer *peer = data;
    pthread_t threads[64];
    unsigned n = 0;
    while (n < 64) {
        int fd = accept(peer->listener, NULL, NULL);
        if (fd < 0 || atomic_load(&peer->stopping)) {
            if (fd >= 0) {
                close(fd);
            }
            break;
        }
        struct visit *visit = malloc(sizeof *visit);
        *visit = (struct visit){peer, fd};
        assert_int_equal(pthread_create(&threads[n++], NULL, serve, visit), 0);
    }
    while (n > 0) {
        pthread_join(threads[--n], NULL);
    }
    return NULL;
}

static void start(struct tls_peer *peer, SSL_CTX *ctx, const char *scheme) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    *peer = (struct tls_peer){.ctx = ctx};
    peer->listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(peer->listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(peer->listener, 64), 0);
    assert_int_equal(getsockname(peer->listener, (struct sockaddr *)&address, &size), 0);
    snprintf(peer->seed, sizeof peer->seed, "%s127.0.0.1:%u", scheme, ntohs(address.sin_port));
    assert_int_equal(pthread_create(&peer->thread, NULL, accept_all, peer), 0);
}

static void stop(struct tls_peer *peer) {
    atomic_store(&peer->stopping, true);
    shutdown(peer->listener, SHUT_RDWR);
    pthread_join(peer->thread, NULL);
    close(peer->listener);
    SSL_CTX_free(peer->ctx);
}

/* --- what the client makes of it
 * --------------------------------------------------------------------------- */

struct attempt {
    int error;
    char message[256];
};

static struct attempt try_with(const char *seed, const char *ca_file, const char *name,
                               size_t value_size) {
    struct attempt attempt = {.error = -1};
    ikv_options *options = ikv_options_new();
    ikv_client *client = NULL;
    ikv_project *project = NULL;
    ikv_reply *reply = NULL;
    ikv_options_set_text(options, IKV_OPTION_CA_FILE, ca_file);
    ikv_options_set_text(options, IKV_OPTION_TLS_NAME, name);
    assert_int_equal(ikv_open(seed, options, &client, NULL, 0), IKV_OK);
    ikv_options_free(options);
    assert_int_equal(ikv_project_open(client, "p", NULL, IKV_LINEARIZABLE, 0, &project), IKV_OK);
    char *value = calloc(1, value_size + 1);
    ikv_bytes words[] = {ikv_text("GET"), ikv_bytes_of(value, value_size)};
    attempt.error =
        ikv_command(project, value_size > 0 ? 2 : 1, words, value_size > 0 ? 20000 : 1000, &reply);
    snprintf(attempt.message, sizeof attempt.message, "%s", ikv_reply_message(reply));
    ikv_reply_free(reply);
    free(value);
    ikv_project_close(project);
    assert_int_equal(ikv_close(client), IKV_OK);
    return attempt;
}

static void test_good_certificate(void **state) {
    (void)state;
    struct tls_peer peer;
    start(&peer, make_context("IP:127.0.0.1,DNS:kv.example", ca_path), "rediss://");
    assert_int_equal(try_with(peer.seed, ca_path, NULL, 10).error, IKV_OK);
    assert_int_equal(try_with(peer.seed, ca_path, NULL, 3000000).error, IKV_OK);
    assert_int_equal(try_with(peer.seed, ca_path, "kv.example", 10).error, IKV_OK);
    /* The right authority, another name. */
    struct attempt attempt = try_with(peer.seed, ca_path, "other.example", 0);
    assert_int_equal(attempt.error, IKV_ERR_TLS);
    assert_non_null(strstr(attempt.message, "ostname mismatch"));
    stop(&peer);
    unlink(ca_path);
}

static void test_foreign_certificates(void **state) {
    (void)state;
    struct tls_peer peer;
    SSL_CTX_free(make_context("IP:127.0.0.1", other_ca_path));
    start(&peer, make_context("IP:127.0.0.1", ca_path), "rediss://");
    assert_int_equal(try_with(peer.seed, other_ca_path, NULL, 0).error, IKV_ERR_TLS);
    assert_int_equal(try_with(peer.seed, NULL, NULL, 0).error, IKV_ERR_TLS);
    stop(&peer);
    unlink(ca_path);
    unlink(other_ca_path);
    start(&peer, make_context("IP:127.0.0.2", ca_path), "rediss://");
    struct attempt attempt = try_with(peer.seed, ca_path, NULL, 0);
    assert_int_equal(attempt.error, IKV_ERR_TLS);
    assert_non_null(strstr(attempt.message, "certificate refused"));
    stop(&peer);
    unlink(ca_path);
}

static void test_mismatched_peers(void **state) {
    (void)state;
    struct tls_peer peer;
    /* TLS asked of a peer that speaks plain text. */
    start(&peer, NULL, "rediss://");
    SSL_CTX *ctx = make_context("IP:127.0.0.1", ca_path);
    assert_int_equal(try_with(peer.seed, ca_path, NULL, 0).error, IKV_ERR_TLS);
    stop(&peer);
    /* And the reverse. */
    start(&peer, ctx, "redis://");
    int error = try_with(peer.seed, NULL, NULL, 0).error;
    assert_true(error == IKV_ERR_PROTOCOL || error == IKV_ERR_UNREACHABLE);
    stop(&peer);
    unlink(ca_path);
}

int main(void) {
    /* OpenSSL writes to the test server's sockets by itself, also when the client has gone. */
    (void)signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_certificate),
        cmocka_unit_test(test_foreign_certificates),
        cmocka_unit_test(test_mismatched_peers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
