/* Keys and streams of TLS, between memory and memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <openssl/ssl.h>
#include <time.h>

#include "base/mem.h"
#include "base/prng.h"
#include "base/tls_keys.h"
#include "base/tls_stream.h"
#include "tests/unit/tls_fixture.h"

#define NODE_1 "URI:invoke-kv://test/node/1"
#define NODE_2 "URI:invoke-kv://test/node/2"

static struct tls_authority ours, theirs;

static int make_authorities(void **state) {
    (void)state;
    tls_authority_make(&ours, "ours");
    tls_authority_make(&theirs, "theirs");
    return 0;
}

static int free_authorities(void **state) {
    (void)state;
    tls_authority_free(&ours);
    tls_authority_free(&theirs);
    return 0;
}

/* ---- two ends ---- */

static struct tls_keys *keys_for(const struct tls_authority *signer, const struct tls_wish *wish,
                                 const struct tls_authority *trusted, enum tls_verify verify) {
    struct tls_pair pair;
    struct tls_keys *keys;
    struct error error = {0};
    tls_pair_make(&pair, signer, wish);
    const struct tls_settings settings = tls_settings_of(&pair, trusted, verify);
    if (tls_keys_load(&keys, &settings, &error) != ERROR_NONE) {
        fail_msg("%s", error.message);
    }
    tls_pair_free(&pair);
    return keys;
}

static struct tls_keys *node_keys(const char *names) {
    return keys_for(&ours, &(struct tls_wish){.names = names}, &ours, TLS_VERIFY_REQUIRED);
}

/* Moves what one end has to send to the other, in pieces; false when there was nothing to do. */
static bool carry(struct tls_stream *from, struct tls_stream *to, size_t piece) {
    struct buffer *wire = tls_stream_wire(from);
    if (wire->size == 0 || !tls_stream_is_starved(to)) {
        return false;
    }
    size_t size = wire->size < piece ? wire->size : piece;
    tls_stream_feed(to, slice_make(wire->data, size));
    buffer_consume(wire, size);
    return true;
}

/* Until neither end has anything left to do. */
static void shake(struct tls_stream *a, struct tls_stream *b, size_t piece) {
    for (bool moved = true; moved;) {
        (void)tls_stream_shake(a);
        (void)tls_stream_shake(b);
        moved = carry(a, b, piece);
        moved = carry(b, a, piece) || moved;
    }
}

struct ends {
    struct tls_stream *server;
    struct tls_stream *client;
};

static struct ends ends_new(struct tls_keys *server, struct tls_keys *client) {
    struct ends ends = {.server = tls_stream_accept(server), .client = tls_stream_connect(client)};
    /* Streams outlive their keys. */
    tls_keys_free(server);
    tls_keys_free(client);
    return ends;
}

static struct ends ends_up(size_t piece) {
    struct ends ends = ends_new(node_keys(NODE_1), node_keys(NODE_2));
    shake(ends.server, ends.client, piece);
    assert_int_equal(tls_stream_state(ends.server), TLS_STREAM_UP);
    assert_int_equal(tls_stream_state(ends.client), TLS_STREAM_UP);
    return ends;
}

static void ends_free(struct ends *ends) {
    tls_stream_free(ends->server);
    tls_stream_free(ends->client);
}

/* Everything that arrives at `to`, fed in pieces. */
static void receive(struct tls_stream *from, struct tls_stream *to, size_t piece,
                    struct buffer *out) {
    uint8_t plain[5000];
    for (;;) {
        size_t size = tls_stream_read(to, plain, sizeof plain);
        if (size > 0) {
            buffer_append(out, plain, size);
        } else if (!carry(from, to, piece)) {
            return;
        }
    }
}

static void fill(struct buffer *data, size_t size) {
    struct prng prng;
    prng_seed(&prng, size);
    buffer_reserve(data, size);
    for (size_t i = 0; i < size; i++) {
        data->data[i] = (uint8_t)prng_next(&prng);
    }
    data->size = size;
}

/* ---- tests ---- */

static void test_handshake_in_pieces(void **state) {
    (void)state;
    const size_t pieces[] = {1, 2, 5, 100, 1400, TLS_FEED_MAX};
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        struct ends ends = ends_up(pieces[i]);
        assert_true(tls_stream_peer_is(ends.server, "invoke-kv://test/node/2"));
        assert_false(tls_stream_peer_is(ends.server, "invoke-kv://test/node/1"));
        assert_false(tls_stream_peer_is(ends.server, "invoke-kv://test/node/22"));
        assert_true(tls_stream_peer_is(ends.client, "invoke-kv://test/node/1"));
        struct buffer got = {0};
        assert_true(tls_stream_write(ends.client, slice_of("there")));
        receive(ends.client, ends.server, pieces[i], &got);
        assert_true(slice_equal(buffer_slice(&got), slice_of("there")));
        got.size = 0;
        assert_true(tls_stream_write(ends.server, slice_of("and back")));
        receive(ends.server, ends.client, pieces[i], &got);
        assert_true(slice_equal(buffer_slice(&got), slice_of("and back")));
        buffer_free(&got);
        ends_free(&ends);
    }
}

static void test_large_data(void **state) {
    (void)state;
    struct ends ends = ends_up(TLS_FEED_MAX);
    struct buffer sent = {0}, got = {0};
    fill(&sent, 3 * 1000 * 1000 + 17);
    assert_true(tls_stream_write(ends.server, buffer_slice(&sent)));
    size_t records = sent.size / TLS_RECORD_SIZE + 1;
    size_t encrypted = tls_stream_wire(ends.server)->size;
    assert_true(encrypted > sent.size && encrypted <= sent.size + records * TLS_RECORD_EXTRA);
    receive(ends.server, ends.client, 33333, &got);
    assert_true(slice_equal(buffer_slice(&got), buffer_slice(&sent)));
    buffer_free(&sent);
    buffer_free(&got);
    ends_free(&ends);
}

static void test_data_right_behind_the_handshake(void **state) {
    (void)state;
    struct ends ends = ends_new(node_keys(NODE_1), node_keys(NODE_2));
    while (tls_stream_shake(ends.client) == TLS_STREAM_SHAKING) {
        carry(ends.client, ends.server, TLS_FEED_MAX);
        (void)tls_stream_shake(ends.server);
        carry(ends.server, ends.client, TLS_FEED_MAX);
    }
    assert_int_equal(tls_stream_state(ends.server), TLS_STREAM_SHAKING);
    assert_true(tls_stream_write(ends.client, slice_of("early")));
    carry(ends.client, ends.server, TLS_FEED_MAX); /* with the last of the handshake */
    assert_int_equal(tls_stream_shake(ends.server), TLS_STREAM_UP);
    assert_false(tls_stream_is_starved(ends.server));
    char plain[16];
    assert_int_equal(tls_stream_read(ends.server, plain, sizeof plain), 5);
    assert_memory_equal(plain, "early", 5);
    ends_free(&ends);
}

static void test_close_in_good_order(void **state) {
    (void)state;
    struct ends ends = ends_up(TLS_FEED_MAX);
    struct buffer got = {0};
    assert_true(tls_stream_write(ends.client, slice_of("last")));
    tls_stream_end(ends.client);
    receive(ends.client, ends.server, 7, &got);
    assert_true(slice_equal(buffer_slice(&got), slice_of("last")));
    assert_int_equal(tls_stream_state(ends.server), TLS_STREAM_ENDED);
    got.size = 0;
    /* What was asked can still be answered. */
    assert_true(tls_stream_write(ends.server, slice_of("answer")));
    receive(ends.server, ends.client, 7, &got);
    assert_true(slice_equal(buffer_slice(&got), slice_of("answer")));
    buffer_free(&got);
    ends_free(&ends);
}

static void test_truncation_delivers_whole_records_only(void **state) {
    (void)state;
    struct ends ends = ends_up(TLS_FEED_MAX);
    struct buffer got = {0};
    assert_true(tls_stream_write(ends.client, slice_of("first")));
    assert_true(tls_stream_write(ends.client, slice_of("second")));
    tls_stream_wire(ends.client)->size -= 1;
    receive(ends.client, ends.server, TLS_FEED_MAX, &got);
    assert_true(slice_equal(buffer_slice(&got), slice_of("first")));
    assert_int_equal(tls_stream_state(ends.server), TLS_STREAM_UP);
    assert_true(tls_stream_is_starved(ends.server));
    buffer_free(&got);
    ends_free(&ends);
}

static void test_damage_breaks_it(void **state) {
    (void)state;
    struct ends ends = ends_up(TLS_FEED_MAX);
    struct buffer got = {0};
    assert_true(tls_stream_write(ends.client, slice_of("first")));
    tls_stream_wire(ends.client)->data[9] ^= 1;
    receive(ends.client, ends.server, TLS_FEED_MAX, &got);
    assert_int_equal(got.size, 0);
    assert_int_equal(tls_stream_state(ends.server), TLS_STREAM_BROKEN);
    assert_string_not_equal(tls_stream_error(ends.server), "");
    assert_false(tls_stream_write(ends.server, slice_of("x")));
    ends_free(&ends);
}

static void expect_broken(const char *input, size_t size, const char *reason) {
    struct tls_keys *keys = node_keys(NODE_1);
    struct tls_stream *stream = tls_stream_accept(keys);
    tls_keys_free(keys);
    tls_stream_feed(stream, slice_make(input, size));
    assert_int_equal(tls_stream_shake(stream), TLS_STREAM_BROKEN);
    if (reason != NULL) {
        assert_string_equal(tls_stream_error(stream), reason);
    }
    assert_string_not_equal(tls_stream_error(stream), "");
    tls_stream_free(stream);
}

static void test_garbage(void **state) {
    (void)state;
    expect_broken("PING\r\n", 6, "the other side does not speak TLS");
    expect_broken("IKVP", 4, "the other side does not speak TLS");
    expect_broken("\x16\x03\x01\x00\x05hello", 10, NULL);
    expect_broken("\x16\xff\xff\xff\xff\xff", 6, NULL);
}

static void expect_refused(struct tls_keys *server, struct tls_keys *client, bool by_server,
                           const char *word) {
    struct ends ends = ends_new(server, client);
    shake(ends.server, ends.client, TLS_FEED_MAX);
    struct tls_stream *refusing = by_server ? ends.server : ends.client;
    assert_int_equal(tls_stream_state(refusing), TLS_STREAM_BROKEN);
    if (strstr(tls_stream_error(refusing), word) == NULL) {
        fail_msg("'%s' does not say '%s'", tls_stream_error(refusing), word);
    }
    /* In TLS 1.3 the client is done before the server looks at its certificate: the alert comes
     * with the first read. */
    struct tls_stream *refused = by_server ? ends.client : ends.server;
    uint8_t plain;
    if (tls_stream_state(refused) == TLS_STREAM_UP) {
        assert_int_equal(tls_stream_read(refused, &plain, 1), 0);
    }
    assert_int_equal(tls_stream_state(refused), TLS_STREAM_BROKEN);
    assert_non_null(strstr(tls_stream_error(refused), "the other side refused"));
    ends_free(&ends);
}

static void test_certificates_of_the_wrong_kind(void **state) {
    (void)state;
    const struct tls_wish plain = {.names = NODE_2};
    const struct tls_wish client_only = {.names = NODE_1, .usage = "clientAuth"};
    const struct tls_wish server_only = {.names = NODE_2, .usage = "serverAuth"};
    struct tls_keys *(*const node)(const char *) = node_keys;
    expect_refused(node(NODE_1), keys_for(&theirs, &plain, &ours, TLS_VERIFY_REQUIRED), true,
                   "certificate");
    expect_refused(keys_for(&theirs, &plain, &ours, TLS_VERIFY_REQUIRED), node(NODE_1), false,
                   "certificate");
    expect_refused(keys_for(&ours, &client_only, &ours, TLS_VERIFY_REQUIRED), node(NODE_2), false,
                   "purpose");
    expect_refused(node(NODE_1), keys_for(&ours, &server_only, &ours, TLS_VERIFY_REQUIRED), true,
                   "purpose");
}

/* Loads while it is valid, and has expired when it is shown. */
static void test_expired_certificate(void **state) {
    (void)state;
    const struct tls_wish short_lived = {.names = NODE_2, .from_s = -10, .until_s = 1};
    struct tls_keys *client = keys_for(&ours, &short_lived, &ours, TLS_VERIFY_REQUIRED);
    int64_t expiry_s = tls_keys_expiry_s(client);
    assert_in_range(expiry_s, time(NULL) - 5, time(NULL) + 2);
    while (time(NULL) <= expiry_s) {
        const struct timespec pause = {.tv_nsec = 50 * 1000 * 1000};
        (void)nanosleep(&pause, NULL);
    }
    expect_refused(node_keys(NODE_1), client, true, "expired");
}

/* A client with settings of its own, as a program might have it. */
static enum tls_stream_state meet(struct tls_keys *keys, int version, bool *resumes,
                                  SSL_SESSION **session) {
    struct tls_stream *server = tls_stream_accept(keys);
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_cipher_list(context, "ALL:@SECLEVEL=0");
    SSL_CTX_set_min_proto_version(context, version);
    SSL_CTX_set_max_proto_version(context, version);
    SSL *client = SSL_new(context);
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    SSL_set_bio(client, in, out);
    SSL_set_connect_state(client);
    if (session != NULL && *session != NULL) {
        SSL_set_session(client, *session);
    }
    for (int i = 0; i < 10; i++) {
        uint8_t bytes[4096];
        (void)SSL_do_handshake(client);
        (void)SSL_read(client, bytes, 1);
        int size = BIO_read(out, bytes, sizeof bytes);
        if (size > 0 && tls_stream_state(server) == TLS_STREAM_SHAKING) {
            tls_stream_feed(server, slice_make(bytes, (size_t)size));
        }
        (void)tls_stream_shake(server);
        struct buffer *wire = tls_stream_wire(server);
        BIO_write(in, wire->data, (int)wire->size);
        wire->size = 0;
    }
    if (resumes != NULL) {
        *resumes = SSL_session_reused(client) == 1;
    }
    if (session != NULL && *session == NULL) {
        *session = SSL_get1_session(client);
    }
    enum tls_stream_state reached = tls_stream_state(server);
    SSL_set_shutdown(client, SSL_SENT_SHUTDOWN);
    SSL_free(client);
    SSL_CTX_free(context);
    tls_stream_free(server);
    return reached;
}

static void test_versions(void **state) {
    (void)state;
    struct tls_keys *keys = keys_for(&ours, &(struct tls_wish){0}, &ours, TLS_VERIFY_OFF);
    assert_int_equal(meet(keys, TLS1_VERSION, NULL, NULL), TLS_STREAM_BROKEN);
    assert_int_equal(meet(keys, TLS1_1_VERSION, NULL, NULL), TLS_STREAM_BROKEN);
    assert_int_equal(meet(keys, TLS1_2_VERSION, NULL, NULL), TLS_STREAM_UP);
    assert_int_equal(meet(keys, TLS1_3_VERSION, NULL, NULL), TLS_STREAM_UP);
    tls_keys_free(keys);
}

static void test_sessions_resume(void **state) {
    (void)state;
    const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
    for (int i = 0; i < 2; i++) {
        SSL_SESSION *session = NULL;
        bool resumes;
        struct tls_keys *keys = keys_for(&ours, &(struct tls_wish){0}, &ours, TLS_VERIFY_OPTIONAL);
        assert_int_equal(meet(keys, versions[i], &resumes, &session), TLS_STREAM_UP);
        assert_false(resumes);
        assert_int_equal(meet(keys, versions[i], &resumes, &session), TLS_STREAM_UP);
        assert_true(resumes);
        tls_keys_free(keys);
        /* After a reload it is a full handshake again. */
        keys = keys_for(&ours, &(struct tls_wish){0}, &ours, TLS_VERIFY_OPTIONAL);
        assert_int_equal(meet(keys, versions[i], &resumes, &session), TLS_STREAM_UP);
        assert_false(resumes);
        tls_keys_free(keys);
        SSL_SESSION_free(session);
    }
}

static void test_a_client_without_certificate(void **state) {
    (void)state;
    struct tls_keys *keys = keys_for(&ours, &(struct tls_wish){0}, &ours, TLS_VERIFY_REQUIRED);
    assert_int_equal(meet(keys, TLS1_2_VERSION, NULL, NULL), TLS_STREAM_BROKEN);
    assert_int_equal(meet(keys, TLS1_3_VERSION, NULL, NULL), TLS_STREAM_BROKEN);
    tls_keys_free(keys);
}

static void expect_bad(const struct tls_settings *settings, const char *word) {
    struct tls_keys *keys;
    struct error error = {0};
    assert_int_equal(tls_keys_load(&keys, settings, &error), ERROR_INVALID);
    assert_null(keys);
    if (strstr(error.message, word) == NULL) {
        fail_msg("'%s' does not say '%s'", error.message, word);
    }
}

static void test_bad_keys(void **state) {
    (void)state;
    struct tls_pair pair, other, expired, early, client, foreign;
    tls_pair_make(&pair, &ours, &(struct tls_wish){.names = NODE_1});
    tls_pair_make(&other, &ours, &(struct tls_wish){0});
    tls_pair_make(&expired, &ours, &(struct tls_wish){.from_s = -100, .until_s = -1});
    tls_pair_make(&early, &ours, &(struct tls_wish){.from_s = 100, .until_s = 1000});
    tls_pair_make(&client, &ours, &(struct tls_wish){.names = NODE_1, .usage = "clientAuth"});
    tls_pair_make(&foreign, &theirs, &(struct tls_wish){.names = NODE_1});

    struct tls_settings settings = tls_settings_of(&pair, &ours, TLS_VERIFY_REQUIRED);
    settings.key = buffer_slice(&other.key);
    expect_bad(&settings, "key: the private key does not fit");
    settings.key = slice_of("nonsense");
    expect_bad(&settings, "key: no PEM");
    settings = tls_settings_of(&pair, &ours, TLS_VERIFY_REQUIRED);
    settings.certificate = slice_of("");
    expect_bad(&settings, "certificate: no PEM");
    settings.certificate = slice_make(pair.certificate.data, pair.certificate.size / 2);
    expect_bad(&settings, "certificate: no PEM");
    settings = tls_settings_of(&pair, &ours, TLS_VERIFY_REQUIRED);
    settings.authorities = slice_of("");
    expect_bad(&settings, "authorities: no PEM");
    settings = tls_settings_of(&expired, &ours, TLS_VERIFY_OFF);
    expect_bad(&settings, "has expired");
    settings = tls_settings_of(&early, &ours, TLS_VERIFY_OFF);
    expect_bad(&settings, "not valid yet");

    settings = tls_settings_of(&pair, &ours, TLS_VERIFY_REQUIRED);
    settings.peer_uri = "invoke-kv://test/node/2";
    expect_bad(&settings, "not this node's");
    settings = tls_settings_of(&client, &ours, TLS_VERIFY_REQUIRED);
    settings.peer_uri = "invoke-kv://test/node/1";
    expect_bad(&settings, "as a server's");
    settings = tls_settings_of(&foreign, &ours, TLS_VERIFY_REQUIRED);
    settings.peer_uri = "invoke-kv://test/node/1";
    expect_bad(&settings, "as a server's");
    settings = tls_settings_of(&pair, &ours, TLS_VERIFY_REQUIRED);
    settings.peer_uri = "invoke-kv://test/node/1";
    struct tls_keys *keys;
    struct error error = {0};
    assert_int_equal(tls_keys_load(&keys, &settings, &error), ERROR_NONE);
    tls_keys_free(keys);

    struct tls_pair *pairs[] = {&pair, &other, &expired, &early, &client, &foreign};
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        tls_pair_free(pairs[i]);
    }
}

/* Asks again and again for new keys, each of which is answered, and takes no answer. */
static void test_answers_that_nobody_takes(void **state) {
    (void)state;
    struct tls_keys *keys = keys_for(&ours, &(struct tls_wish){0}, &ours, TLS_VERIFY_OFF);
    struct tls_stream *server = tls_stream_accept(keys);
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    SSL *client = SSL_new(context);
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    SSL_set_bio(client, in, out);
    SSL_set_connect_state(client);
    size_t most = 0;
    for (int i = 0; i < 40000 && tls_stream_state(server) != TLS_STREAM_BROKEN; i++) {
        uint8_t bytes[4096];
        if (SSL_do_handshake(client) == 1) {
            SSL_key_update(client, SSL_KEY_UPDATE_REQUESTED);
            (void)SSL_write(client, "x", 1);
        }
        int size = BIO_read(out, bytes, sizeof bytes);
        if (size > 0) {
            tls_stream_feed(server, slice_make(bytes, (size_t)size));
        }
        struct buffer *wire = tls_stream_wire(server);
        if (tls_stream_shake(server) == TLS_STREAM_SHAKING || i < 10) {
            BIO_write(in, wire->data, (int)wire->size);
            wire->size = 0;
        }
        while (tls_stream_state(server) != TLS_STREAM_SHAKING &&
               tls_stream_read(server, bytes, sizeof bytes) > 0) {
        }
        most = wire->size > most ? wire->size : most;
    }
    assert_in_range(most, 1, TLS_OWN_WIRE_MAX);
    SSL_free(client);
    SSL_CTX_free(context);
    tls_stream_free(server);
    tls_keys_free(keys);
}

static void test_names_of_nodes(void **state) {
    (void)state;
    char uri[TLS_URI_SIZE], longest[65];
    tls_node_uri(uri, "test", 7);
    assert_string_equal(uri, "invoke-kv://test/node/7");
    memset(longest, 'c', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    tls_node_uri(uri, longest, UINT64_MAX);
    assert_non_null(strstr(uri, "ccc/node/18446744073709551615"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_handshake_in_pieces),
        cmocka_unit_test(test_large_data),
        cmocka_unit_test(test_data_right_behind_the_handshake),
        cmocka_unit_test(test_close_in_good_order),
        cmocka_unit_test(test_truncation_delivers_whole_records_only),
        cmocka_unit_test(test_damage_breaks_it),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_certificates_of_the_wrong_kind),
        cmocka_unit_test(test_expired_certificate),
        cmocka_unit_test(test_versions),
        cmocka_unit_test(test_sessions_resume),
        cmocka_unit_test(test_a_client_without_certificate),
        cmocka_unit_test(test_bad_keys),
        cmocka_unit_test(test_answers_that_nobody_takes),
        cmocka_unit_test(test_names_of_nodes),
    };
    return cmocka_run_group_tests(tests, make_authorities, free_authorities);
}
