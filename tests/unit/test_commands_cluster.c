/* CLUSTER commands and redirection, over a session. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/session_fixture.h"

enum { SHARD_OF_DEFAULT = 2, SHARD_OF_FOO = 5 };

/* Of the shard of the project `default`; 0: this node leads, or nobody. */
static uint16_t leader_port;

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
    if (leader_port == 0 || shard != SHARD_OF_DEFAULT) {
        return false;
    }
    *host = "::1";
    *port = leader_port;
    return true;
}

static int start(bool redirect, bool with_leader) {
    leader_port = 0;
    struct session_limits limits = session_fixture_limits(16);
    limits.redirect = redirect;
    session_fixture_begin(
        limits, (struct session_port){.describe = fake_describe,
                                      .find_leader = with_leader ? fake_find_leader : NULL});
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
    complete_ok(before);
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
    leader_port = 7102;
    assert_submitted("SET foo 1\r\n");
    assert_submitted("GET foo\r\n");
}

static void test_redirection(void **state) {
    (void)state;
    leader_port = 7102;
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
    leader_port = 0;
    assert_submitted("SET foo 1\r\n");
    leader_port = 7103;
    assert_reply("GET foo\r\n", "-MOVED 12182 ::1:7103\r\n");
    assert_reply("CLUSTER REDIRECT off\r\n", "+OK\r\n");
    assert_submitted("GET foo\r\n");
}

static void test_redirection_keeps_the_order(void **state) {
    (void)state;
    feed("GET a\r\nCLUSTER REDIRECT ON\r\n");
    leader_port = 7102;
    feed("GET foo\r\n");
    assert_string_equal(sent(), "");
    struct result result = {.kind = RESULT_NIL};
    t.ops[0]->done(t.ops[0], &result);
    t.ops[0] = NULL;
    assert_string_equal(sent(), "$-1\r\n+OK\r\n-MOVED 12182 ::1:7102\r\n");
}

static void test_redirection_by_configuration(void **state) {
    (void)state;
    leader_port = 7102;
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
        cmocka_unit_test_setup_teardown(test_replies, setup, session_fixture_end),
        cmocka_unit_test_setup_teardown(test_the_view_is_that_of_the_project, setup,
                                        session_fixture_end),
        cmocka_unit_test_setup_teardown(test_forwarding_is_the_default, setup, session_fixture_end),
        cmocka_unit_test_setup_teardown(test_redirection, setup, session_fixture_end),
        cmocka_unit_test_setup_teardown(test_redirection_keeps_the_order, setup,
                                        session_fixture_end),
        cmocka_unit_test_setup_teardown(test_redirection_by_configuration, setup_redirecting,
                                        session_fixture_end),
        cmocka_unit_test_setup_teardown(test_nobody_to_ask, setup_without_port,
                                        session_fixture_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
