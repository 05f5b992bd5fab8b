#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node/config.h"
#include "node/credentials.h"
#include "node/secret_file.h"

#define NODES                                                                                      \
    "node = 1 127.0.0.1:7101 127.0.0.1:7201\n"                                                     \
    "node = 2 127.0.0.1:7102 127.0.0.1:7202\n"                                                     \
    "node = 3 127.0.0.1:7103 127.0.0.1:7203\n"
#define MINIMAL "cluster = test\nnode_id = 2\ndata_dir = /tmp/x\n" NODES

static struct config config;
static struct error error;

static enum error_code parse(const char *text) {
    config_init(&config);
    error.message[0] = '\0';
    enum error_code code = config_parse(&config, "node.conf", slice_of(text), &error);
    return code != ERROR_NONE ? code : config_finish(&config, &error);
}

static void assert_refused(const char *text, const char *message) {
    assert_int_not_equal(parse(text), ERROR_NONE);
    assert_string_equal(error.message, message);
}

static void test_minimal_file_takes_the_defaults(void **state) {
    (void)state;
    assert_int_equal(parse(MINIMAL), ERROR_NONE);
    assert_string_equal(config.cluster, "test");
    assert_int_equal(config.node_id, 2);
    assert_int_equal(config.n_nodes, 3);
    assert_string_equal(config.listen.host, "127.0.0.1");
    assert_int_equal(config.listen.port, 7102);
    assert_int_equal(config.peer_listen.port, 7202);
    assert_int_equal(config.http_listen.port, 7301);
    assert_int_equal(config.shards, 8);
    assert_int_equal(config.heartbeat_ms, 50);
    assert_int_equal(config.election_ms, 500);
    assert_int_equal(config.request_timeout_ms, 5000);
    assert_int_equal(config.max_connections, LIMIT_CONNECTIONS_DEFAULT);
    assert_int_equal(config.max_value, LIMIT_VALUE_SIZE_DEFAULT);
    assert_int_equal(config.default_quota, LIMIT_QUOTA_DEFAULT);
    assert_int_equal(config.segment_size, LIMIT_SEGMENT_SIZE_DEFAULT);
    assert_int_equal(config.max_pipeline, 1024);
    assert_int_equal(config.max_memory_inflight, 256 * MIB);
    assert_int_equal(config.max_memory, 4 * GIB);
    assert_int_equal(config.max_output, 8 * MIB);
    assert_int_equal(config.max_connections_per_project, 0);
    assert_int_equal(config.requests_per_second, 0);
    assert_int_equal(config.idle_timeout_ms, 0);
    assert_int_equal(config.receive_timeout_ms, 30000);
    assert_int_equal(config.send_timeout_ms, 60000);
    assert_int_equal(config.trailing_entries, 4096);
    assert_int_equal(config.min_free_disk, 64 * MIB);
    assert_true(config.rebalance);
    assert_false(config.redirect);
    assert_false(config.insecure_listen);
    assert_int_equal(config.auth, CONFIG_AUTH_OFF);
    assert_int_equal(config.log_level, SAY_INFO);
    assert_int_equal(config_find_node(&config, 3)->peer.port, 7203);
    assert_null(config_find_node(&config, 4));
}

static void test_units_comments_and_overrides(void **state) {
    (void)state;
    assert_int_equal(
        parse("# a comment\r\n\n  max_value=8 MiB # inline\r\nelection_ms = 2s\n"
              "heartbeat_ms = 100ms\nlog_level = debug\nrebalance = no\nredirect = yes\n"
              "log_cache = 4096KiB\n"
              "listen = [::1]:7000\n" MINIMAL),
        ERROR_NONE);
    assert_int_equal(config.max_value, 8 * MIB);
    assert_int_equal(config.election_ms, 2000);
    assert_int_equal(config.heartbeat_ms, 100);
    assert_int_equal(config.log_cache, 4 * MIB);
    assert_int_equal(config.log_level, SAY_DEBUG);
    assert_false(config.rebalance);
    assert_true(config.redirect);
    assert_string_equal(config.listen.host, "::1");
    char text[CONFIG_HOST_SIZE + 8];
    config_format_address(&config.listen, text, sizeof text);
    assert_string_equal(text, "[::1]:7000");

    assert_int_equal(config_set(&config, "max_value=1MiB", &error), ERROR_NONE);
    assert_int_equal(config.max_value, MIB);
    assert_int_not_equal(config_set(&config, "max_value=1TiB", &error), ERROR_NONE);
    assert_string_equal(error.message,
                        "--set max_value=1TiB: max_value = '1TiB': expected a size from 1 to "
                        "64MiB (units: KiB, MiB, GiB)");
}

static void test_bad_lines_name_place_key_value_and_range(void **state) {
    (void)state;
    assert_refused("\nshard = 3\n", "node.conf:2: unknown key 'shard'; did you mean 'shards'?");
    assert_refused("lisetn = 127.0.0.1:1\n",
                   "node.conf:1: unknown key 'lisetn'; did you mean 'listen'?");
    assert_refused("shards\n", "node.conf:1: 'shards': expected key = value");
    assert_refused("shards = 65\n", "node.conf:1: shards = '65': expected a number from 1 to 64");
    assert_refused("shards = 0\n", "node.conf:1: shards = '0': expected a number from 1 to 64");
    assert_refused("shards = -1\n", "node.conf:1: shards = '-1': expected a number from 1 to 64");
    assert_refused("shards = 4 KiB\n",
                   "node.conf:1: shards = '4 KiB': expected a number from 1 to 64");
    assert_refused("max_value = 99999999999999999999\n",
                   "node.conf:1: max_value = '99999999999999999999': expected a size from 1 to "
                   "64MiB (units: KiB, MiB, GiB)");
    assert_refused("max_value = 18446744073709551615GiB\n",
                   "node.conf:1: max_value = '18446744073709551615GiB': expected a size from 1 to "
                   "64MiB (units: KiB, MiB, GiB)");
    assert_refused("listen = localhost:70000\n",
                   "node.conf:1: listen = 'localhost:70000': expected HOST:PORT with a port of 1 "
                   "to 65535");
    assert_refused("listen = localhost\n",
                   "node.conf:1: listen = 'localhost': expected HOST:PORT with a port of 1 to "
                   "65535");
    assert_refused("rebalance = maybe\n", "node.conf:1: rebalance = 'maybe': expected yes or no");
    assert_refused("log_level = loud\n",
                   "node.conf:1: log_level = 'loud': expected error, warn, info or debug");
    assert_refused("cluster = a b\n",
                   "node.conf:1: cluster = 'a b': expected 1 to 64 characters of A-Z a-z 0-9 . _ "
                   "-");
    assert_refused("cluster = a\n\ncluster = b\n",
                   "node.conf:3: cluster = 'b': the key was already set in line 1");
}

static void test_bad_nodes(void **state) {
    (void)state;
    assert_refused("node = 1 a:1 b:2\nnode = 1 c:1 d:2\n",
                   "node.conf:2: node = '1 c:1 d:2': this id was already given to node 1 in line "
                   "1");
    assert_refused("node = 1 a:1 b:2\nnode = 2 a:1 d:2\n",
                   "node.conf:2: node = '2 a:1 d:2': an address was already given to node 1 in "
                   "line 1");
    assert_refused("node = 0 a:1 b:2\n",
                   "node.conf:1: node = '0 a:1 b:2': expected ID CLIENT_HOST:PORT "
                   "PEER_HOST:PORT; the id is a number from 1 to 4294967295");
    assert_refused("node = 1 a:0 b:2\n",
                   "node.conf:1: node = '1 a:0 b:2': the client address must be HOST:PORT with a "
                   "port of 1 to 65535");
    assert_refused("node = 1 a:1\n",
                   "node.conf:1: node = '1 a:1': the peer address must be HOST:PORT with a port "
                   "of 1 to 65535, and nothing may follow it");
    char text[4096] = "";
    for (int i = 1; i <= LIMIT_NODES + 1; i++) {
        char line[64];
        snprintf(line, sizeof line, "node = %d h%d:1 h%d:2\n", i, i, i);
        strcat(text, line);
    }
    assert_refused(text, "node.conf:17: node = '17 h17:1 h17:2': a cluster has at most 16 nodes");
}

static void test_checks_across_keys(void **state) {
    (void)state;
    assert_refused("cluster = a\nnode_id = 1\n" NODES,
                   "node.conf: the key 'data_dir' is missing; expected a path of at most 1023 "
                   "bytes");
    assert_refused("cluster = a\nnode_id = 7\ndata_dir = /x\n" NODES,
                   "node.conf:2: node_id = '7': no `node` line has this id; add `node = 7 "
                   "CLIENT_HOST:PORT PEER_HOST:PORT`");
    assert_refused("election_ms = 199\n" MINIMAL,
                   "node.conf:1: election_ms = '199': must be at least 4 times heartbeat_ms (50 "
                   "ms), so at least 200 ms");
    assert_refused("http_listen = 127.0.0.1:7102\n" MINIMAL,
                   "node.conf:1: http_listen = '127.0.0.1:7102': the same address as listen");
    assert_int_not_equal(parse("peer_listen = 0.0.0.0:7202\n" MINIMAL), ERROR_NONE);
    assert_non_null(strstr(error.message, "node.conf:1: peer_listen = '0.0.0.0:7202': not a "
                                          "loopback address"));
    assert_int_equal(parse("peer_listen = 0.0.0.0:7202\ninsecure_listen = yes\n" MINIMAL),
                     ERROR_NONE);
}

static void test_ceiling_of_memory(void **state) {
    (void)state;
    assert_int_equal(parse("max_memory = 0\n" MINIMAL), ERROR_NONE);
    assert_refused("max_memory = 300MiB\n" MINIMAL,
                   "node.conf:1: max_memory = '314572800': must be at least 408MiB, one and a half "
                   "times what the node itself may need: log_cache, shard_cache and feed_history "
                   "of each shard, and 64MiB; set it higher, or these lower");
    assert_int_equal(parse("max_memory = 300MiB\nshard_cache = 2MiB\n" MINIMAL), ERROR_NONE);
    assert_int_equal(config.max_memory, 300 * MIB);
    assert_refused("requests_per_second = 1000001\n" MINIMAL,
                   "node.conf:1: requests_per_second = '1000001': expected a number from 0 to "
                   "1000000");
    assert_refused("receive_timeout_ms = 99\n" MINIMAL,
                   "node.conf:1: receive_timeout_ms = '99': expected a time from 100 ms to 3600000 "
                   "ms (units: ms, s)");
}

static void test_auth(void **state) {
    (void)state;
    assert_int_equal(parse("auth = OFF\n" MINIMAL), ERROR_NONE);
    assert_int_equal(config.auth, CONFIG_AUTH_OFF);
    assert_int_equal(parse("auth = required\nadmin_token_file = /a\nlisten = 0.0.0.0:7102\n"
                           "service_token_file = /b\n" MINIMAL),
                     ERROR_NONE);
    assert_int_equal(config.auth, CONFIG_AUTH_REQUIRED);
    assert_string_equal(config.admin_token_file, "/a");
    assert_string_equal(config.service_token_file, "/b");
    /* It is clients that authenticate, not peers. */
    assert_int_not_equal(
        parse("auth = required\nadmin_token_file = /a\npeer_listen = 0.0.0.0:7202\n" MINIMAL),
        ERROR_NONE);
    assert_refused("auth = maybe\n" MINIMAL,
                   "node.conf:1: auth = 'maybe': expected off or required");
    assert_refused("auth = required\n" MINIMAL,
                   "node.conf:1: auth = 'required': nobody could make projects or tokens; set "
                   "admin_token_file, service_token_file or both");
    assert_refused("service_token_file = /a\n" MINIMAL,
                   "node.conf:1: service_token_file: without effect while auth = off; set auth = "
                   "required");
}

#define TLS_FILES "tls_cert = /c\ntls_key = /k\n"
#define PEER_TLS_FILES "peer_tls_cert = /c\npeer_tls_key = /k\npeer_tls_ca = /a\n"

static void test_tls(void **state) {
    (void)state;
    assert_int_equal(parse(MINIMAL), ERROR_NONE);
    assert_int_equal(config.tls, CONFIG_TLS_OFF);
    assert_int_equal(config.tls_clients, CONFIG_TLS_OFF);
    assert_int_equal(config.peer_tls, CONFIG_TLS_OFF);
    assert_int_equal(parse("tls = Optional\n" TLS_FILES MINIMAL), ERROR_NONE);
    assert_int_equal(config.tls, CONFIG_TLS_OPTIONAL);
    assert_int_equal(
        parse("tls = required\ntls_clients = required\ntls_ca = /a\n" TLS_FILES
              "peer_tls = required\npeer_listen = 0.0.0.0:7202\n" PEER_TLS_FILES MINIMAL),
        ERROR_NONE);
    assert_int_equal(config.tls, CONFIG_TLS_REQUIRED);
    assert_int_equal(config.tls_clients, CONFIG_TLS_REQUIRED);
    assert_int_equal(config.peer_tls, CONFIG_TLS_REQUIRED);
    assert_string_equal(config.tls_key, "/k");
    assert_string_equal(config.peer_tls_ca, "/a");
    assert_refused("tls = maybe\n" MINIMAL,
                   "node.conf:1: tls = 'maybe': expected off, optional or required");
    assert_refused("tls = required\ntls_cert = /c\n" MINIMAL,
                   "node.conf:1: tls is not off: set tls_key as well, see docs/tls.md");
    assert_refused("tls_key = /k\n" MINIMAL,
                   "node.conf:1: tls_key: without effect while tls = off");
    assert_refused("tls_clients = required\n" MINIMAL,
                   "node.conf:1: tls_clients: without effect while tls = off");
    assert_refused("tls = required\ntls_clients = optional\n" TLS_FILES MINIMAL,
                   "node.conf:2: tls_clients is not off: set tls_ca as well, see docs/tls.md");
    assert_refused("tls = required\ntls_ca = /a\n" TLS_FILES MINIMAL,
                   "node.conf:2: tls_ca: without effect while tls_clients = off");
    assert_refused("peer_tls = required\npeer_tls_cert = /c\npeer_tls_key = /k\n" MINIMAL,
                   "node.conf:1: peer_tls is not off: set peer_tls_ca as well, see docs/tls.md");
    /* Encrypted is not authenticated, and optional is not required. */
    assert_int_not_equal(parse("tls = required\nlisten = 0.0.0.0:7102\n" TLS_FILES MINIMAL),
                         ERROR_NONE);
    assert_int_not_equal(
        parse("peer_tls = optional\npeer_listen = 0.0.0.0:7202\n" PEER_TLS_FILES MINIMAL),
        ERROR_NONE);
}

static void write_file(const char *path, const char *text, mode_t mode) {
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    fputs(text, out);
    fclose(out);
    assert_int_equal(chmod(path, mode), 0);
}

static void assert_file_refused(const char *reason) {
    struct credentials credentials;
    assert_int_not_equal(credentials_load(&credentials, &config, &error), ERROR_NONE);
    assert_non_null(strstr(error.message, "admin_token_file = '"));
    if (strstr(error.message, reason) == NULL) {
        fail_msg("%s", error.message);
    }
    assert_null(strstr(error.message, "0123456789"));
}

static void test_credential_files(void **state) {
    (void)state;
    char dir[] = "/tmp/test_config.XXXXXX";
    char path[64];
    char long_secret[CREDENTIAL_SIZE_MAX + 2];
    struct credentials credentials;
    uint8_t digest[SECRET_DIGEST_SIZE];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/admin", dir);
    config_init(&config);
    assert_int_equal(credentials_load(&credentials, &config, &error), ERROR_NONE);
    assert_false(credentials.required || credentials.has_admin || credentials.has_service);
    config.auth = CONFIG_AUTH_REQUIRED;
    snprintf(config.admin_token_file, sizeof config.admin_token_file, "%s", path);
    assert_file_refused("No such file or directory");
    write_file(path, "0123456789abcdef\n", 0640);
    assert_file_refused("others may read or change it (mode 640); chmod 600 it");
    write_file(path, "0123456789abcdef\n", 0604);
    assert_file_refused("chmod 600");
    write_file(path, "0123456789abcdef\n", 0600);
    assert_int_equal(credentials_load(&credentials, &config, &error), ERROR_NONE);
    assert_true(credentials.required && credentials.has_admin && !credentials.has_service);
    secret_digest(slice_of("0123456789abcdef"), digest);
    assert_memory_equal(credentials.admin, digest, sizeof digest);
    static const char *const bad[] = {"",
                                      "\n",
                                      "0123456789abcde\n",
                                      "0123456789 abcdef\n",
                                      "0123456789abcdef\n0123456789abcdef\n",
                                      "0123456789abcd\xc3\xa4\n"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        write_file(path, bad[i], 0600);
        assert_file_refused("one secret of 16 to 256 printable characters");
    }
    memset(long_secret, 'x', sizeof long_secret - 1);
    long_secret[sizeof long_secret - 1] = '\0';
    write_file(path, long_secret, 0600);
    assert_file_refused("one secret of 16 to 256 printable characters");
    write_file(path, long_secret + 1, 0600);
    assert_int_equal(credentials_load(&credentials, &config, &error), ERROR_NONE);
    unlink(path);
    snprintf(config.admin_token_file, sizeof config.admin_token_file, "%s", dir);
    assert_file_refused("not a regular file");
    rmdir(dir);
}

static void test_credentials_of_the_service_manager(void **state) {
    (void)state;
    char dir[] = "/tmp/test_config.XXXXXX";
    char path[64];
    struct credentials credentials;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/admin", dir);
    config_init(&config);
    config.auth = CONFIG_AUTH_REQUIRED;
    snprintf(config.admin_token_file, sizeof config.admin_token_file, "credential:admin");
    unsetenv("CREDENTIALS_DIRECTORY");
    assert_file_refused("$CREDENTIALS_DIRECTORY is not set");
    assert_file_refused("LoadCredential=admin:PATH");
    setenv("CREDENTIALS_DIRECTORY", "relative", 1);
    assert_file_refused("$CREDENTIALS_DIRECTORY is not set");
    setenv("CREDENTIALS_DIRECTORY", dir, 1);
    assert_file_refused("'credential:admin': cannot open it: No such file");
    write_file(path, "0123456789abcdef\n", 0644);
    assert_file_refused("chmod 600");
    write_file(path, "0123456789abcdef\n", 0400);
    assert_int_equal(credentials_load(&credentials, &config, &error), ERROR_NONE);
    assert_true(credentials.has_admin);
    static const char *const bad[] = {"", "..", ".", "a/b", "/etc/passwd", "../admin"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        snprintf(config.admin_token_file, sizeof config.admin_token_file, "credential:%s", bad[i]);
        assert_file_refused("expected credential:NAME");
    }
    unlink(path);
    rmdir(dir);
    unsetenv("CREDENTIALS_DIRECTORY");
}

static void test_who_may_read_a_secret(void **state) {
    (void)state;
    const struct {
        uid_t owner;
        gid_t group;
        mode_t mode;
        uid_t user; /* who runs the node; its group is 7 */
        bool is_private;
    } cases[] = {
        {0, 0, 0600, 0, true},  {0, 0, 0400, 0, true},  {0, 0, 0640, 0, false},
        {0, 7, 0640, 0, false}, {5, 7, 0600, 5, true},  {5, 7, 0400, 5, true},
        {5, 7, 0440, 5, false}, {5, 7, 0600, 6, false}, {5, 7, 0600, 0, false},
        {0, 7, 0640, 5, true},  {0, 7, 0440, 5, true},  {0, 0, 0440, 5, true},
        {0, 8, 0640, 5, false}, {0, 7, 0660, 5, false}, {0, 7, 0644, 5, false},
        {0, 7, 0604, 5, false}, {0, 7, 0650, 5, false}, {0, 7, 0620, 5, false},
        {0, 7, 04640, 5, true}, {6, 7, 0640, 5, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct stat status = {
            .st_uid = cases[i].owner, .st_gid = cases[i].group, .st_mode = S_IFREG | cases[i].mode};
        if (secret_file_is_private(&status, cases[i].user, 7) != cases[i].is_private) {
            fail_msg("case %zu", i);
        }
    }
}

/* Every listener, in every form of an address. */
static void test_each_listener_keeps_to_loopback(void **state) {
    (void)state;
    static const char *const keys[] = {"listen", "peer_listen", "http_listen"};
    static const char *const inside[] = {"127.0.0.1", "[::1]", "localhost"};
    static const char *const outside[] = {"0.0.0.0",          "[::]",        "192.0.2.1",
                                          "[::ffff:0.0.0.0]", "example.org", "[::ffff:127.0.0.1]"};
    char text[1024];
    for (unsigned k = 0; k < 3; k++) {
        for (unsigned i = 0; i < sizeof inside / sizeof inside[0]; i++) {
            snprintf(text, sizeof text, "%s = %s:7999\n" MINIMAL, keys[k], inside[i]);
            assert_int_equal(parse(text), ERROR_NONE);
        }
        for (unsigned i = 0; i < sizeof outside / sizeof outside[0]; i++) {
            snprintf(text, sizeof text, "%s = %s:7999\n" MINIMAL, keys[k], outside[i]);
            assert_int_equal(parse(text), ERROR_INVALID);
            assert_non_null(strstr(error.message, keys[k]));
            assert_non_null(strstr(error.message, "not a loopback address"));
            snprintf(text, sizeof text, "insecure_listen = yes\n%s = %s:7999\n" MINIMAL, keys[k],
                     outside[i]);
            assert_int_equal(parse(text), ERROR_NONE);
        }
    }
}

static void test_loopback(void **state) {
    (void)state;
    const char *inside[] = {"127.0.0.1", "127.255.0.9", "::1", "0:0:0:0:0:0:0:1", "localhost"};
    const char *outside[] = {"0.0.0.0",
                             "10.0.0.1",
                             "::",
                             "128.0.0.1",
                             "127.0.0.300",
                             "127.1",
                             "127.0.0.1.nl",
                             "localhost.nl",
                             "::2",
                             "::127.0.0.1",
                             "::ffff:127.0.0.1",
                             "fe80::1",
                             "LOCALHOST.",
                             "ip6-localhost",
                             "::ffff:0.0.0.0",
                             "64:ff9b::7f01",
                             "1",
                             "2130706433"};
    struct config_address address = {.port = 1};
    for (unsigned i = 0; i < sizeof inside / sizeof inside[0]; i++) {
        snprintf(address.host, sizeof address.host, "%s", inside[i]);
        assert_true(config_is_loopback(&address));
    }
    for (unsigned i = 0; i < sizeof outside / sizeof outside[0]; i++) {
        snprintf(address.host, sizeof address.host, "%s", outside[i]);
        assert_false(config_is_loopback(&address));
    }
}

static void test_single(void **state) {
    (void)state;
    assert_int_equal(config_default_single(&config, "/tmp", &error), ERROR_NONE);
    assert_int_equal(config_finish(&config, &error), ERROR_NONE);
    assert_int_equal(config.listen.port, 7101);
    assert_int_equal(config.peer_listen.port, 7201);
    assert_int_equal(config.http_listen.port, 7301);
    assert_string_equal(config.data_dir, "/tmp");
    char path[CONFIG_PATH_SIZE + 1];
    memset(path, 'a', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    assert_int_equal(config_default_single(&config, path, &error), ERROR_TOOBIG);
}

static void test_data_dir(void **state) {
    (void)state;
    char dir[] = "/tmp/test_config.XXXXXX";
    char file[64];
    assert_non_null(mkdtemp(dir));
    snprintf(file, sizeof file, "%s/node.conf", dir);
    config_init(&config);

    snprintf(config.data_dir, sizeof config.data_dir, "%s", dir);
    assert_int_equal(config_check_data_dir(&config, &error), ERROR_NONE);
    snprintf(config.data_dir, sizeof config.data_dir, "%s/new/", dir);
    assert_int_equal(config_check_data_dir(&config, &error), ERROR_NONE);
    snprintf(config.data_dir, sizeof config.data_dir, "%s/no/new", dir);
    assert_int_not_equal(config_check_data_dir(&config, &error), ERROR_NONE);
    assert_non_null(strstr(error.message, "it does not exist, and its parent cannot be used: No "
                                          "such file or directory"));

    FILE *out = fopen(file, "w");
    assert_non_null(out);
    fputs(MINIMAL, out);
    fclose(out);
    snprintf(config.data_dir, sizeof config.data_dir, "%s", file);
    assert_int_not_equal(config_check_data_dir(&config, &error), ERROR_NONE);
    assert_non_null(strstr(error.message, "this path is not a directory"));

    assert_int_equal(config_load(&config, file, &error), ERROR_NONE);
    assert_int_equal(config_finish(&config, &error), ERROR_NONE);
    unlink(file);
    assert_int_equal(config_load(&config, file, &error), ERROR_IO);
    assert_non_null(strstr(error.message, "No such file or directory"));
    assert_int_not_equal(config_load(&config, dir, &error), ERROR_NONE);
    rmdir(dir);
}

static void test_describe_lists_every_key(void **state) {
    (void)state;
    struct buffer text = {0};
    config_describe(&text);
    buffer_put_u8(&text, 0);
    for (int i = 0; i < CONFIG_KEYS; i++) {
        char start[64];
        snprintf(start, sizeof start, "%s ", config_key_name((enum config_key)i));
        assert_non_null(strstr((char *)text.data, start));
    }
    buffer_free(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_minimal_file_takes_the_defaults),
        cmocka_unit_test(test_units_comments_and_overrides),
        cmocka_unit_test(test_bad_lines_name_place_key_value_and_range),
        cmocka_unit_test(test_bad_nodes),
        cmocka_unit_test(test_checks_across_keys),
        cmocka_unit_test(test_ceiling_of_memory),
        cmocka_unit_test(test_auth),
        cmocka_unit_test(test_tls),
        cmocka_unit_test(test_credential_files),
        cmocka_unit_test(test_credentials_of_the_service_manager),
        cmocka_unit_test(test_who_may_read_a_secret),
        cmocka_unit_test(test_each_listener_keeps_to_loopback),
        cmocka_unit_test(test_loopback),
        cmocka_unit_test(test_single),
        cmocka_unit_test(test_data_dir),
        cmocka_unit_test(test_describe_lists_every_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
