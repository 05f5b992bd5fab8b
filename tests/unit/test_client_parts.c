/* The pure parts of the client library: seeds, topology, timers, back-off, kinds of commands and
 * errors, encoding, sets of identities. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/slot.h"
#include "client/src/backoff.h"
#include "client/src/client.h"
#include "client/src/connection.h"
#include "client/src/errors.h"
#include "client/src/verbs.h"

/* --- seeds
 * --------------------------------------------------------------------------------------------- */

static void assert_seeds(const char *text, size_t count, const char *host, uint16_t port) {
    struct url_seeds seeds;
    char message[128] = "";
    if (!url_parse_seeds(text, &seeds, message, sizeof message)) {
        fail_msg("%s: %s", text, message);
    }
    assert_int_equal(seeds.count, count);
    assert_string_equal(seeds.seeds[count - 1].host, host);
    assert_int_equal(seeds.seeds[count - 1].port, port);
}

static void test_seeds(void **state) {
    (void)state;
    assert_seeds("localhost", 1, "localhost", 7101);
    assert_seeds("a:1,b:65535", 2, "b", 65535);
    assert_seeds(" a:1 , b ", 2, "b", 7101);
    assert_seeds("[::1]:7000", 1, "::1", 7000);
    assert_seeds("[::1]", 1, "::1", 7101);
    assert_seeds("::1", 1, "::1", 7101);
    assert_seeds("redis://h:1/0,g", 2, "g", 7101);
    assert_seeds("redis://h/", 1, "h", 7101);
    assert_seeds("redis://p:t@[fe80::1]:5", 1, "fe80::1", 5);
}

static void test_bad_seeds(void **state) {
    (void)state;
    static const char *const bad[] = {"",
                                      ",",
                                      "a,",
                                      "a:0",
                                      "a:65536",
                                      "a:x",
                                      "a:",
                                      ":1",
                                      "a b",
                                      "[::1",
                                      "[]:1",
                                      "[::1]x",
                                      "redis://",
                                      "redis://a/1",
                                      "redis://a:1/0/",
                                      "redis://%zz@a",
                                      "redis://%0@a",
                                      "redis://%00@a",
                                      "http://a",
                                      "redis://a,rediss://b",
                                      "redis://p:t@a,redis://q:t@b",
                                      "redis://p:t@a,redis://p:u@b"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct url_seeds seeds;
        char message[128] = "";
        if (url_parse_seeds(bad[i], &seeds, message, sizeof message)) {
            fail_msg("'%s' was taken", bad[i]);
        }
        assert_true(strlen(message) > 0);
        assert_null(strstr(message, "t@"));
    }
    char many[URL_SEEDS * 3 + 8] = "a";
    for (int i = 0; i < URL_SEEDS; i++) {
        strcat(many, ",a");
    }
    struct url_seeds seeds;
    assert_false(url_parse_seeds(many, &seeds, NULL, 0));
}

static void test_users(void **state) {
    (void)state;
    struct url_seeds seeds;
    assert_true(url_parse_seeds("rediss://my%20project:a%3Ab%40@h", &seeds, NULL, 0));
    assert_true(seeds.tls && seeds.has_user);
    assert_string_equal(seeds.user, "my project");
    assert_string_equal(seeds.token, "a:b@");
    assert_true(url_parse_seeds("redis://:t@h,redis://h2", &seeds, NULL, 0));
    assert_string_equal(seeds.user, "default");
    assert_string_equal(seeds.token, "t");
    assert_true(url_parse_seeds("redis://p@h", &seeds, NULL, 0));
    assert_string_equal(seeds.token, "");
    assert_true(url_parse_seeds("redis://h", &seeds, NULL, 0));
    assert_false(seeds.has_user);
}

static void test_project_names(void **state) {
    (void)state;
    char longest[1 + 128 * 4];
    longest[0] = '\0';
    for (int i = 0; i < 128; i++) {
        strcat(longest, "\xf0\x9f\x98\x80");
    }
    assert_true(url_is_project_name(longest));
    assert_true(url_is_project_name("a b"));
    assert_true(url_is_project_name("\xc3\xa9"));
    longest[0] = '\0';
    for (int i = 0; i < 129; i++) {
        strcat(longest, "a");
    }
    static const char *const bad[] = {"",
                                      "a\n",
                                      "\x7f",
                                      "\xc2\x85",
                                      "\xc0\x80",
                                      "\xed\xa0\x80",
                                      "\xf5\x80\x80\x80",
                                      "\xe2\x82",
                                      "a\xff",
                                      "\xe0\x80\x80"};
    assert_false(url_is_project_name(longest));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(url_is_project_name(bad[i]));
    }
}

/* --- replies and topology
 * --------------------------------------------------------------------------------- */

struct parsed {
    struct value_builder builder;
    redisReader *reader;
    enum value_status status;
};

static void parse(struct parsed *parsed, const char *text) {
    parsed->reader = value_reader_new(&parsed->builder, 1 << 20);
    assert_non_null(parsed->reader);
    assert_int_equal(redisReaderFeed(parsed->reader, text, strlen(text)), REDIS_OK);
    parsed->status = value_next(parsed->reader, &parsed->builder);
}

static void release(struct parsed *parsed) {
    redisReaderFree(parsed->reader);
    value_builder_clear(&parsed->builder);
}

#define NODES                                                                                      \
    "$5\r\nnodes\r\n*2\r\n*4\r\n:1\r\n$1\r\na\r\n:7101\r\n:1\r\n*4\r\n:2\r\n$2\r\n::\r\n:1\r\n:"   \
    "0\r\n"
#define HEAD "*10\r\n$7\r\ncluster\r\n$1\r\nc\r\n$4\r\nself\r\n:1\r\n$6\r\nshards\r\n:3\r\n"

static bool parses(const char *text, struct topology *topology, struct topology_node *nodes,
                   unsigned *n) {
    struct parsed parsed;
    parse(&parsed, text);
    assert_int_equal(parsed.status, VALUE_READY);
    bool done = topology_parse(&parsed.builder.root, topology, nodes, n);
    release(&parsed);
    return done;
}

static void test_topology(void **state) {
    (void)state;
    struct topology topology;
    struct topology_node nodes[CLIENT_NODES];
    unsigned n = 0;
    assert_true(
        parses(HEAD NODES "$7\r\nleaders\r\n*3\r\n:2\r\n:0\r\n:1\r\n", &topology, nodes, &n));
    assert_true(topology.known);
    assert_string_equal(topology.cluster, "c");
    assert_int_equal(topology.n_shards, 3);
    assert_int_equal(topology.leaders[0], 2);
    assert_int_equal(topology.leaders[2], 1);
    assert_int_equal(n, 2);
    assert_string_equal(nodes[1].address.host, "::");
    assert_int_equal(nodes[0].address.port, 7101);
    static const char *const bad[] = {
        "+OK\r\n",
        "*0\r\n",
        "*2\r\n$7\r\ncluster\r\n$1\r\nc\r\n",
        HEAD NODES "$7\r\nleaders\r\n*2\r\n:2\r\n:0\r\n",
        HEAD NODES "$7\r\nleaders\r\n*3\r\n:2\r\n:-1\r\n:1\r\n",
        HEAD "$5\r\nnodes\r\n*0\r\n$7\r\nleaders\r\n*3\r\n:2\r\n:1\r\n:1\r\n",
        HEAD
        "$5\r\nnodes\r\n*1\r\n*2\r\n:1\r\n$1\r\na\r\n$7\r\nleaders\r\n*3\r\n:2\r\n:1\r\n:1\r\n",
        HEAD "$5\r\nnodes\r\n*1\r\n*3\r\n:1\r\n$1\r\na\r\n:70000\r\n$7\r\nleaders\r\n*3\r\n:1\r\n:"
             "1\r\n:1"
             "\r\n",
        "*6\r\n$7\r\ncluster\r\n$1\r\nc\r\n$6\r\nshards\r\n:65\r\n$7\r\nleaders\r\n*0\r\n"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(parses(bad[i], &topology, nodes, &n));
    }
}

static void test_values(void **state) {
    (void)state;
    struct parsed parsed;
    parse(&parsed, "*4\r\n$3\r\na\0b\r\n:-5\r\n*2\r\n$-1\r\n-ERR no\r\n*0\r\n");
    assert_int_equal(parsed.status, VALUE_MORE); /* strlen() ended at the NUL */
    release(&parsed);
    parse(&parsed, "*4\r\n$3\r\na.b\r\n:-5\r\n*2\r\n$-1\r\n-ERR no\r\n*0\r\n$2\r\nxy\r\n$1");
    assert_int_equal(parsed.status, VALUE_READY);
    const ikv_value *root = &parsed.builder.root;
    assert_int_equal(root->size, 4);
    assert_true(value_is_text(&root->elements[0], "a.b"));
    assert_int_equal(root->elements[1].integer, -5);
    assert_int_equal(root->elements[2].elements[0].type, IKV_NIL);
    assert_true(value_has_prefix(&root->elements[2].elements[1], "ERR"));
    assert_false(value_has_prefix(&root->elements[2].elements[1], "ER"));
    assert_int_equal(root->elements[3].size, 0);
    /* A reply that was moved stays when the next one is read. */
    struct ikv_reply reply = {0};
    value_move(&parsed.builder, &reply);
    assert_int_equal(value_next(parsed.reader, &parsed.builder), VALUE_READY);
    assert_true(value_is_text(&parsed.builder.root, "xy"));
    assert_true(value_is_text(&reply.value.elements[0], "a.b"));
    assert_int_equal(value_next(parsed.reader, &parsed.builder), VALUE_MORE);
    reply_clear(&reply);
    release(&parsed);
}

/* --- time
 * ---------------------------------------------------------------------------------------------------
 */

static unsigned fired;
static struct wheel wheel;

static void count(struct timer *timer, uint64_t now_ms) {
    assert_true(now_ms >= timer->due_ms);
    fired++;
}

static void again(struct timer *timer, uint64_t now_ms) {
    fired++;
    wheel_arm(&wheel, timer, now_ms + 10);
}

static void test_wheel(void **state) {
    (void)state;
    enum { TIMERS = 2000 };
    static struct timer timers[TIMERS];
    struct prng prng;
    prng_seed(&prng, 7);
    wheel_init(&wheel, 1000003);
    assert_int_equal(wheel_wait_ms(&wheel, 1000003), -1);
    fired = 0;
    for (int i = 0; i < TIMERS; i++) {
        timer_init(&timers[i], count);
        wheel_arm(&wheel, &timers[i], 1000003 + prng_below(&prng, 20000));
    }
    timer_disarm(&timers[0]);
    timer_disarm(&timers[0]);
    assert_false(timer_is_armed(&timers[0]));
    unsigned expected = 0;
    for (uint64_t now = 1000003; now < 1000003 + 21000; now += 1 + prng_below(&prng, 300)) {
        wheel_run(&wheel, now);
        expected = 0;
        for (int i = 1; i < TIMERS; i++) {
            expected += timers[i].due_ms + WHEEL_TICK_MS <= now ? 1 : 0;
        }
        assert_true(fired >= expected);
        int wait_ms = wheel_wait_ms(&wheel, now);
        assert_true(wait_ms == -1 || wait_ms <= WHEEL_SLOTS * WHEEL_TICK_MS);
    }
    wheel_run(&wheel, 1100000);
    assert_int_equal(fired, TIMERS - 1);
    /* A late wheel, and a timer that arms itself. */
    struct timer own;
    timer_init(&own, again);
    fired = 0;
    wheel_arm(&wheel, &own, 1000);
    wheel_run(&wheel, 5000000);
    assert_int_equal(fired, 1);
    wheel_run(&wheel, 5000020);
    assert_int_equal(fired, 2);
    timer_disarm(&own);
}

static void test_backoff(void **state) {
    (void)state;
    struct prng prng;
    prng_seed(&prng, 1);
    bool differs = false;
    for (unsigned attempt = 1; attempt < 100; attempt++) {
        uint64_t whole = attempt < 8 ? (uint64_t)10 << (attempt - 1) : 1000;
        uint64_t first = backoff_ms(&prng, attempt, 10, 1000);
        uint64_t second = backoff_ms(&prng, attempt, 10, 1000);
        assert_true(first >= (whole < 1000 ? whole : 1000) / 2 && first <= whole && first <= 1000);
        differs |= first != second;
    }
    assert_true(differs);
    assert_int_equal(backoff_ms(&prng, 1, 1, 1), 1);
}

/* --- commands
 * -------------------------------------------------------------------------------------------------
 */

static enum verb_kind kind_of(const char *one, const char *two, const char *three) {
    ikv_bytes words[3];
    size_t n = 0;
    const char *texts[] = {one, two, three};
    for (int i = 0; i < 3 && texts[i] != NULL; i++) {
        words[n++] = ikv_text(texts[i]);
    }
    return verb_kind_of(n, words);
}

static void test_verbs(void **state) {
    (void)state;
    assert_int_equal(kind_of("get", "k", NULL), VERB_READ);
    assert_int_equal(kind_of("SeT", "k", "v"), VERB_WRITE);
    assert_int_equal(kind_of("setx", "k", "v"), VERB_ACT);
    assert_int_equal(kind_of("client", "list", NULL), VERB_ASK);
    assert_int_equal(kind_of("client", "reply", "off"), VERB_CONNECTION);
    assert_int_equal(kind_of("client", NULL, NULL), VERB_CONNECTION);
    assert_int_equal(kind_of("project", "use", "x"), VERB_CONNECTION);
    assert_int_equal(kind_of("project", "create", "x"), VERB_ACT);
    assert_int_equal(kind_of("project", "token", "list"), VERB_ASK);
    assert_int_equal(kind_of("project", "token", "add"), VERB_ACT);
    assert_int_equal(kind_of("multi", NULL, NULL), VERB_CONNECTION);
    assert_int_equal(kind_of("once", "open", NULL), VERB_CONNECTION);
}

static void test_encoding(void **state) {
    (void)state;
    ikv_bytes words[] = {ikv_text("SET"), ikv_bytes_of("k\0\n", 3), ikv_text("")};
    struct request *request = request_new(NULL, 3, words);
    static const char expected[] = "$3\r\nSET\r\n$3\r\nk\0\n\r\n$0\r\n\r\n";
    assert_int_equal(request->argc, 3);
    assert_int_equal(request->body_size, sizeof expected - 1);
    assert_memory_equal(request->body, expected, sizeof expected - 1);
    assert_null(request->body_memory);
    request_free(request);
    char *large = calloc(1, 100000);
    words[2] = ikv_bytes_of(large, 100000);
    request = request_new(NULL, 3, words);
    assert_non_null(request->body_memory);
    assert_int_equal(request->body_size, 9 + 9 + 9 + 100000 + 2);
    request_free(request);
    free(large);
    struct text text = {0};
    assert_true(request_append_command(&text, 1, words));
    assert_true(text_append_bulk_number(&text, UINT64_MAX));
    static const char both[] = "*1\r\n$3\r\nSET\r\n$20\r\n18446744073709551615\r\n";
    assert_int_equal(text.size, sizeof both - 1);
    assert_memory_equal(text.data, both, sizeof both - 1);
    text_free(&text);
}

static struct error_meaning meaning_of(const char *text) {
    ikv_value value = {.type = IKV_ERROR, .data = text, .size = strlen(text)};
    return error_meaning_of(&value);
}

static void test_errors(void **state) {
    (void)state;
    assert_int_equal(meaning_of("QUOTA x").error, IKV_ERR_QUOTA);
    assert_int_equal(meaning_of("QUOTAS x").error, IKV_ERR_REFUSED);
    assert_int_equal(meaning_of("MOVED 1 h:1").action, ERROR_MOVED);
    assert_int_equal(meaning_of("").error, IKV_ERR_REFUSED);
    for (int error = -1; error < 60; error++) {
        assert_true(strlen(ikv_strerror(error)) > 0);
    }
    assert_int_equal(ikv_outcome(IKV_OK), IKV_OUTCOME_DONE);
    assert_int_equal(ikv_outcome(IKV_ERR_TIMEOUT), IKV_OUTCOME_NOT_DONE);
    assert_int_equal(ikv_outcome(IKV_ERR_UNKNOWN_OUTCOME), IKV_OUTCOME_UNKNOWN);
}

static void test_identity_map(void **state) {
    (void)state;
    enum { NAMES = 500 };
    struct identity_map map = {0};
    struct prng prng;
    uint64_t in[NAMES] = {0};
    prng_seed(&prng, 3);
    assert_int_equal(identity_map_get(&map, 1), 0);
    for (uint64_t i = 1; i < 20000; i++) {
        uint64_t name = prng_below(&prng, NAMES - 1) + 1;
        if (prng_below(&prng, 2) == 0) {
            assert_true(identity_map_put(&map, name, i));
            in[name] = i;
        } else {
            identity_map_remove(&map, name);
            in[name] = 0;
        }
        uint64_t other = prng_below(&prng, NAMES - 1) + 1;
        assert_int_equal(identity_map_get(&map, other), in[other]);
    }
    identity_map_free(&map);
}

static void test_options(void **state) {
    (void)state;
    ikv_options *options = ikv_options_new();
    assert_int_equal(ikv_options_set_number(options, IKV_OPTION_TIMEOUT_MS, 0), IKV_ERR_INVALID);
    assert_int_equal(ikv_options_set_number(options, IKV_OPTION_TIMEOUT_MS, 1), IKV_OK);
    assert_int_equal(ikv_options_set_number(options, IKV_OPTION_USER, 1), IKV_ERR_INVALID);
    assert_int_equal(ikv_options_set_number(options, (enum ikv_option)0, 1), IKV_ERR_INVALID);
    assert_int_equal(ikv_options_set_text(options, IKV_OPTION_TIMEOUT_MS, "x"), IKV_ERR_INVALID);
    assert_int_equal(ikv_options_set_text(options, (enum ikv_option)99, "x"), IKV_ERR_INVALID);
    assert_int_equal(ikv_options_set_text(options, IKV_OPTION_USER, "admin"), IKV_OK);
    ikv_client *client = NULL;
    char message[128] = "";
    /* A user without a secret, and a user that is none. */
    assert_int_equal(ikv_open("h", options, &client, message, sizeof message), IKV_ERR_INVALID);
    assert_int_equal(ikv_options_set_text(options, IKV_OPTION_SECRET, "s"), IKV_OK);
    assert_int_equal(ikv_options_set_text(options, IKV_OPTION_USER, "me"), IKV_OK);
    assert_int_equal(ikv_open("h", options, &client, message, sizeof message), IKV_ERR_INVALID);
    ikv_options_set_text(options, IKV_OPTION_USER, NULL);
    ikv_options_set_text(options, IKV_OPTION_SECRET, NULL);
    assert_int_equal(ikv_options_set_text(options, IKV_OPTION_CA_FILE, "/nowhere"), IKV_OK);
    assert_int_equal(ikv_open("rediss://h", options, &client, message, sizeof message),
                     IKV_ERR_TLS);
    assert_true(strlen(message) > 0);
    ikv_options_free(options);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_seeds),    cmocka_unit_test(test_bad_seeds),
        cmocka_unit_test(test_users),    cmocka_unit_test(test_project_names),
        cmocka_unit_test(test_topology), cmocka_unit_test(test_values),
        cmocka_unit_test(test_wheel),    cmocka_unit_test(test_backoff),
        cmocka_unit_test(test_verbs),    cmocka_unit_test(test_encoding),
        cmocka_unit_test(test_errors),   cmocka_unit_test(test_identity_map),
        cmocka_unit_test(test_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
