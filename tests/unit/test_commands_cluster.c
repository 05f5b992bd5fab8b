/* CLUSTER commands and redirection, over a session. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "base/limits.h"
#include "node/op.h"
#include "node/server_info.h"
#include "node/session.h"

enum { SHARDS = 8, SHARD_OF_DEFAULT = 2, SHARD_OF_FOO = 5, MAX_OPS = 16 };

static struct {
    struct session_host host;
    struct session *session;
    struct op *ops[MAX_OPS];
    unsigned n_ops;
    uint16_t leader_port; /* of the shard of the project `default`; 0: this node leads, or nobody */
} t;

static void fake_submit(void *data, struct op *op) {
    (void)data;
    assert_true(t.n_ops < MAX_OPS);
    t.ops[t.n_ops++] = op;
}

static uint64_t fake_now_ms(void *data) {
    (void)data;
    return 1000;
}

static void fake_describe(void *data, struct server_info *info) {
    (void)data;
    info->cluster = "test";
    info->node_id = 1;
    info->n_nodes = 2;
    for (unsigned i = 0; i < 2; i++) {
        info->nodes[i].id = i + 1;
        info->nodes[i].connected = true;
        info->nodes[i].host = "127.0.0.1";
        info->nodes[i].port = (uint16_t)(7101 + i);
        info->nodes[i].peer_port = (uint16_t)(7201 + i);
    }
    info->n_shards = SHARDS;
    info->shards[SHARD_OF_DEFAULT].leader = 2;
    info->shards[SHARD_OF_FOO].leader = 1;
}

static bool fake_find_leader(void *data, unsigned shard, const char **host, uint16_t *port) {
    (void)data;
    if (t.leader_port == 0 || shard != SHARD_OF_DEFAULT) {
        return false;
    }
    *host = "::1";
    *port = t.leader_port;
    return true;
}

static void on_wake(void *data) {
    (void)data;
}

static int start(bool redirect, bool with_leader) {
    memset(&t, 0, sizeof t);
    const struct session_limits limits = {.n_shards = SHARDS,
                                          .max_value = MIB,
                                          .max_pipeline = 16,
                                          .max_output = 256 * 1024,
                                          .max_input = 4 * MIB,
                                          .redirect = redirect};
    const struct session_port port = {.submit = fake_submit,
                                      .now_ms = fake_now_ms,
                                      .describe = fake_describe,
                                      .find_leader = with_leader ? fake_find_leader : NULL};
    session_host_init(&t.host, &limits, &port);
    t.session = session_new(&t.host, "127.0.0.1:5000", "127.0.0.1:7101", on_wake, NULL);
    return 0;
}

static int setup(void **state) {
    (void)state;
    return start(false, true);
}

static int setup_redirecting(void **state) {
    (void)state;
    return start(true, true);
}

static int setup_without_port(void **state) {
    (void)state;
    return start(true, false);
}

static int teardown(void **state) {
    (void)state;
    session_free(t.session);
    for (unsigned i = 0; i < t.n_ops; i++) {
        if (t.ops[i] != NULL) {
            struct result result = {.kind = RESULT_OK};
            t.ops[i]->done(t.ops[i], &result);
        }
    }
    return t.host.n_slots == 0 ? 0 : -1;
}

static void feed(const char *text) {
    struct slice bytes = slice_of(text);
    uint8_t *data;
    size_t space;
    session_input_space(t.session, &data, &space);
    assert_true(space >= bytes.size);
    memcpy(data, bytes.data, bytes.size);
    session_input_filled(t.session, bytes.size);
}

static const char *sent(void) {
    static char copy[16 * 1024];
    size_t size = 0;
    struct slice slice;
    while (output_peek(session_output(t.session), &slice, 1) > 0) {
        assert_true(size + slice.size < sizeof copy);
        memcpy(copy + size, slice.data, slice.size);
        size += slice.size;
        output_consume(session_output(t.session), slice.size);
        session_sent(t.session, slice.size);
    }
    copy[size] = '\0';
    return copy;
}

static void assert_reply(const char *input, const char *output) {
    feed(input);
    assert_string_equal(sent(), output);
}

static void assert_begins(const char *output) {
    const char *all = sent();
    if (strncmp(all, output, strlen(output)) != 0) {
        fail_msg("'%s' does not begin with '%s'", all, output);
    }
}

/* The command goes to the router. */
static void assert_submitted(const char *input) {
    unsigned before = t.n_ops;
    feed(input);
    assert_int_equal(t.n_ops, before + 1);
    assert_string_equal(sent(), "");
    struct result result = {.kind = RESULT_OK};
    t.ops[before]->done(t.ops[before], &result);
    t.ops[before] = NULL;
    assert_string_equal(sent(), "+OK\r\n");
}

static void test_replies(void **state) {
    (void)state;
    assert_reply("CLUSTER KEYSLOT {foo}bar\r\n", ":12182\r\n");
    assert_reply("ASKING\r\n", "+OK\r\n");
    assert_reply("CLUSTER MYID\r\n", "$40\r\n00000001994ad156ee3a2d4ba78d86fed381c5dd\r\n");
    assert_reply("CLUSTER SLOTS x\r\n",
                 "-ERR wrong number of arguments for 'cluster|slots' command\r\n");
    assert_reply("CLUSTER REDIRECT perhaps\r\n", "-ERR syntax error\r\n");
    assert_reply("CLUSTER NOSUCH\r\n", "-ERR unknown subcommand 'NOSUCH'. Try CLUSTER HELP.\r\n");
    feed("CLUSTER INFO\r\n");
    assert_non_null(strstr(sent(), "cluster_state:ok\r\n"));
    feed("CLUSTER TOPOLOGY\r\n");
    assert_begins("*10\r\n$7\r\ncluster\r\n$4\r\ntest\r\n");
}

/* What a connection is told depends on its project: another one may live in another shard. */
static void test_the_view_is_that_of_the_project(void **state) {
    (void)state;
    feed("CLUSTER SLOTS\r\n");
    assert_begins("*1\r\n*4\r\n:0\r\n:16383\r\n*4\r\n$9\r\n127.0.0.1\r\n:7102\r\n");
    feed("CLUSTER NODES\r\n");
    assert_non_null(strstr(sent(), "127.0.0.1:7102@7202 master - "));
    assert_reply("AUTH foo x\r\n", "+OK\r\n");
    feed("CLUSTER SLOTS\r\n");
    assert_begins("*1\r\n*4\r\n:0\r\n:16383\r\n*4\r\n$9\r\n127.0.0.1\r\n:7101\r\n");
    feed("CLUSTER NODES\r\n");
    assert_non_null(strstr(sent(), "127.0.0.1:7101@7201 myself,master - "));
    feed("CLUSTER SHARDS\r\n");
    assert_begins("*1\r\n*4\r\n");
    assert_reply("AUTH qux x\r\n", "+OK\r\n"); /* nobody leads its shard */
    feed("CLUSTER INFO\r\n");
    assert_non_null(strstr(sent(), "cluster_state:fail\r\n"));
}

static void test_forwarding_is_the_default(void **state) {
    (void)state;
    t.leader_port = 7102;
    assert_submitted("SET foo 1\r\n");
    assert_submitted("GET foo\r\n");
}

static void test_redirection(void **state) {
    (void)state;
    t.leader_port = 7102;
    assert_reply("CLUSTER REDIRECT ON\r\n", "+OK\r\n");
    assert_reply("SET foo 1\r\n", "-MOVED 12182 ::1:7102\r\n");
    assert_reply("GET {foo}2\r\n", "-MOVED 12182 ::1:7102\r\n");
    assert_reply("MSET bar 1 foo 2\r\n", "-MOVED 5061 ::1:7102\r\n");
    assert_reply("OBJECT ENCODING foo\r\n", "-MOVED 12182 ::1:7102\r\n");
    assert_reply("DBSIZE\r\n", "-MOVED 0 ::1:7102\r\n"); /* a command without keys */
    assert_reply("ONCE 0123456789abcdef0123456789abcdef 1 SET foo 1\r\n",
                 "-MOVED 12182 ::1:7102\r\n");
    assert_reply("PING\r\n", "+PONG\r\n");
    assert_int_equal(t.n_ops, 0);
    assert_int_equal(t.host.stats.errors, 6);

    /* Wrong commands are wrong wherever they go. */
    assert_reply("GET\r\n", "-ERR wrong number of arguments for 'get' command\r\n");

    /* Reads that any replica may answer stay; writes go. */
    assert_reply("READONLY\r\n", "+OK\r\n");
    assert_submitted("GET foo\r\n");
    assert_reply("SET foo 1\r\n", "-MOVED 12182 ::1:7102\r\n");
    assert_reply("CONSISTENCY SESSION\r\n", "+OK\r\n");
    assert_submitted("GET foo\r\n");
    assert_reply("READWRITE\r\n", "+OK\r\n");
    assert_reply("GET foo\r\n", "-MOVED 12182 ::1:7102\r\n");

    /* This node leads, or nobody does: the router takes it. */
    t.leader_port = 0;
    assert_submitted("SET foo 1\r\n");
    t.leader_port = 7103;
    assert_reply("GET foo\r\n", "-MOVED 12182 ::1:7103\r\n");
    assert_reply("CLUSTER REDIRECT off\r\n", "+OK\r\n");
    assert_submitted("GET foo\r\n");
}

static void test_redirection_keeps_the_order(void **state) {
    (void)state;
    feed("GET a\r\nCLUSTER REDIRECT ON\r\n");
    t.leader_port = 7102;
    feed("GET foo\r\n");
    assert_string_equal(sent(), "");
    struct result result = {.kind = RESULT_NIL};
    t.ops[0]->done(t.ops[0], &result);
    t.ops[0] = NULL;
    assert_string_equal(sent(), "$-1\r\n+OK\r\n-MOVED 12182 ::1:7102\r\n");
}

static void test_redirection_by_configuration(void **state) {
    (void)state;
    t.leader_port = 7102;
    assert_reply("SET foo 1\r\n", "-MOVED 12182 ::1:7102\r\n");
    assert_reply("AUTH foo x\r\n", "+OK\r\n"); /* of a shard that is led here */
    assert_submitted("SET foo 1\r\n");
}

static void test_nobody_to_ask(void **state) {
    (void)state;
    assert_submitted("SET foo 1\r\n");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_replies, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_view_is_that_of_the_project, setup, teardown),
        cmocka_unit_test_setup_teardown(test_forwarding_is_the_default, setup, teardown),
        cmocka_unit_test_setup_teardown(test_redirection, setup, teardown),
        cmocka_unit_test_setup_teardown(test_redirection_keeps_the_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_redirection_by_configuration, setup_redirecting,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_nobody_to_ask, setup_without_port, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
