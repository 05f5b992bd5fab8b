/* A session against a router whose operations the test completes in any order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "base/mem.h"
#include "base/slot.h"
#include "node/resp_commands.h"
#include "tests/unit/session_fixture.h"

static bool no_random;

static void complete_bulk(unsigned i, size_t size, char fill) {
    struct result result = {.kind = RESULT_BULK};
    buffer_reserve(&result.data, size + 1);
    memset(result.data.data, fill, size);
    result.data.size = size;
    complete(i, result);
}

static void fake_describe(void *data, struct server_info *info) {
    (void)data;
    info->cluster = "test";
    info->node_id = 2;
    info->n_nodes = 1;
    info->nodes[0] =
        (struct server_info_node){.id = 2, .client_address = "127.0.0.1:7102", .connected = true};
    info->n_shards = 2;
    info->shards[0] = (struct server_info_shard){.role = "leader", .leader = 2, .keys = 5};
    info->shards[1] = (struct server_info_shard){.role = "follower", .leader = 1, .keys = 4};
    info->uptime_ms = 90061000;
}

static enum error_code fake_order(void *data, enum cluster_order order, uint64_t node,
                                  unsigned shard, struct error *error) {
    (void)data;
    (void)order;
    (void)shard;
    return node == 3 ? ERROR_NONE : error_set(error, ERROR_INVALID, "no node %d", (int)node);
}

static enum error_code fake_random(void *data, void *bytes, size_t size, struct error *error) {
    (void)data;
    if (no_random) {
        return error_set(error, ERROR_IO, "no luck");
    }
    memset(bytes, 0x5A, size);
    return ERROR_NONE;
}

static int setup(void **state) {
    (void)state;
    no_random = false;
    session_fixture_begin(session_fixture_limits(16),
                          (struct session_port){.random = fake_random,
                                                .describe = fake_describe,
                                                .order = fake_order});
    return 0;
}

static void assert_arg(unsigned op, unsigned arg, const char *text) {
    struct command command = command_of(op);
    assert_true(slice_equal(arg_of(&command, arg), slice_of(text)));
}

/* ---- replies ---- */

static void test_local_commands(void **state) {
    (void)state;
    assert_reply("PING\r\n", "+PONG\r\n");
    assert_reply("*2\r\n$4\r\nping\r\n$2\r\nhi\r\n", "$2\r\nhi\r\n");
    assert_reply("PING a b\r\n", "-ERR wrong number of arguments for 'ping' command\r\n");
    assert_reply("\r\nECHO x\r\n", "$1\r\nx\r\n");
    assert_reply("ECHO\r\n", "-ERR wrong number of arguments for 'echo' command\r\n");
    assert_reply("SELECT 0\r\n", "+OK\r\n");
    assert_reply("SELECT 1\r\n", "-ERR DB index is out of range\r\n");
    assert_reply("SELECT x\r\n", "-ERR value is not an integer or out of range\r\n");
    assert_reply("FOO a b\r\n",
                 "-ERR unknown command 'FOO', with args beginning with: 'a' 'b' \r\n");
    assert_reply("FOO\r\n", "-ERR unknown command 'FOO', with args beginning with: \r\n");
    assert_int_equal(t.n_ops, 0);
    assert_int_equal(t.host.stats.commands, 10);
    assert_int_equal(t.host.stats.errors, 6);
}

static void test_client_commands(void **state) {
    (void)state;
    assert_reply("CLIENT ID\r\n", ":1\r\n");
    assert_reply("CLIENT GETNAME\r\n", "$-1\r\n");
    assert_reply("client setname worker\r\n", "+OK\r\n");
    assert_reply("CLIENT GETNAME\r\n", "$6\r\nworker\r\n");
    assert_reply("CLIENT SETNAME \"a b\"\r\n",
                 "-ERR Client names cannot contain spaces, newlines or special characters.\r\n");
    assert_reply("CLIENT SETINFO lib-name x\r\n", "+OK\r\n");
    assert_reply("CLIENT SETINFO colour x\r\n", "-ERR Unrecognized option 'colour'\r\n");
    assert_reply("CLIENT NO-EVICT on\r\n", "+OK\r\n");
    assert_reply("CLIENT NO-EVICT x\r\n", "-ERR syntax error\r\n");
    assert_reply("CLIENT KILL x\r\n", "-ERR unknown subcommand 'KILL'. Try CLIENT HELP.\r\n");
    assert_reply("CLIENT SETNAME\r\n",
                 "-ERR wrong number of arguments for 'client|setname' command\r\n");
    assert_reply("CLIENT\r\n", "-ERR wrong number of arguments for 'client' command\r\n");
    t.now_ms = 6000;
    feed("CLIENT INFO\r\n");
    const char *text = sent_by(t.session);
    assert_non_null(strstr(text, "id=1 addr=127.0.0.1:5000 laddr=127.0.0.1:7102 name=worker "
                                 "age=5 idle=0 "));
    struct session *other = open_session();
    feed("CLIENT LIST\r\n");
    text = sent_by(t.session);
    assert_non_null(strstr(text, "\nid=2 addr="));
    session_free(other);
    feed("CLIENT HELP\r\n");
    assert_non_null(strstr(sent_by(t.session), "setname name"));
}

static void test_hello_and_resp3(void **state) {
    (void)state;
    assert_reply("HELLO\r\n", "*14\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n"
                              "7.0.15\r\n$5\r\nproto\r\n:2\r\n$2\r\nid\r\n:1\r\n$4\r\nmode\r\n"
                              "$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules"
                              "\r\n*0\r\n");
    assert_reply("HELLO 4\r\n", "-NOPROTO unsupported protocol version\r\n");
    assert_reply("HELLO x\r\n", "-ERR Protocol version is not an integer or out of range\r\n");
    assert_reply("HELLO 3 NOPE\r\n", "-ERR Syntax error in HELLO option 'NOPE'\r\n");
    assert_reply("HELLO 3 AUTH a\r\n", "-ERR Syntax error in HELLO option 'AUTH'\r\n");
    /* An error changes nothing. */
    assert_reply("CLIENT GETNAME\r\n", "$-1\r\n");
    feed("HELLO 3 AUTH blue pw SETNAME me\r\n");
    assert_memory_equal(sent_by(t.session), "%7\r\n$6\r\nserver\r\n", 16);
    assert_reply("CLIENT GETNAME\r\n", "$2\r\nme\r\n");
    assert_reply("CLIENT SETNAME \"\"\r\nCLIENT GETNAME\r\n", "+OK\r\n_\r\n");
    feed("GET k\r\n");
    assert_true(slice_equal(command_of(0).project, slice_of("blue")));
    complete(0, (struct result){.kind = RESULT_NIL});
    assert_string_equal(sent_by(t.session), "_\r\n");
    assert_reply("CONFIG GET save\r\n", "%1\r\n$4\r\nsave\r\n$0\r\n\r\n");
}

static void test_auth_picks_the_project_in_order(void **state) {
    (void)state;
    feed("SET a 1\r\nAUTH red x\r\nSET a 2\r\nAUTH pw\r\nSET a 3\r\n");
    assert_int_equal(t.n_ops, 3);
    assert_true(slice_equal(command_of(0).project, slice_of("default")));
    assert_true(slice_equal(command_of(1).project, slice_of("red")));
    assert_true(slice_equal(command_of(2).project, slice_of("default")));
    assert_int_equal(t.ops[1]->shard, slot_shard(slot_of(slice_of("red")), SHARDS));
    complete_ok(2);
    complete_ok(1);
    assert_string_equal(sent_by(t.session), "");
    complete_ok(0);
    assert_string_equal(sent_by(t.session), "+OK\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n");
    assert_reply("AUTH a b c\r\n", "-ERR syntax error\r\n");
    assert_reply("AUTH \"\" x\r\n", "-ERR a project name has at least one character\r\n");
    assert_reply("AUTH \"a\\tb\" x\r\n",
                 "-ERR project name holds a control character at byte 2\r\n");
    assert_reply("AUTH \"a b%\" x\r\n", "+OK\r\n");
    feed("CLIENT INFO\r\n");
    assert_non_null(strstr(sent_by(t.session), " user=a%20b%25\n"));
    char text[256];
    char name[LIMIT_PROJECT_CHARACTERS + 2];
    memset(name, 'p', sizeof name);
    name[LIMIT_PROJECT_CHARACTERS + 1] = '\0';
    snprintf(text, sizeof text, "AUTH %s x\r\n", name);
    assert_reply(text, "-TOOBIG project name of 129 bytes has more than 128 characters\r\n");
    snprintf(text, sizeof text, "AUTH %s x\r\n", name + 1);
    assert_reply(text, "+OK\r\n");
}

static void test_set_options(void **state) {
    (void)state;
    const struct {
        const char *input;
        uint8_t flags;
        enum command_expiry mode;
        uint64_t expiry_ms;
    } good[] = {
        {"SET k v\r\n", 0, COMMAND_EXPIRY_NONE, 0},
        {"set k v ex 10 nx\r\n", COMMAND_FLAG_NX, COMMAND_EXPIRY_AFTER, 10000},
        {"SET k v PX 10 XX GET\r\n", COMMAND_FLAG_XX | COMMAND_FLAG_GET, COMMAND_EXPIRY_AFTER, 10},
        {"SET k v EXAT 2000000000\r\n", 0, COMMAND_EXPIRY_AT, 2000000000000},
        {"SET k v GET PXAT 1\r\n", COMMAND_FLAG_GET, COMMAND_EXPIRY_AT, 1},
        {"SET k v KEEPTTL\r\n", COMMAND_FLAG_KEEPTTL, COMMAND_EXPIRY_NONE, 0},
        {"SET k v NX GET\r\n", COMMAND_FLAG_NX | COMMAND_FLAG_GET, COMMAND_EXPIRY_NONE, 0},
        {"SET k v PXAT 9007199254740992\r\n", 0, COMMAND_EXPIRY_AT, (uint64_t)1 << 53},
    };
    for (unsigned i = 0; i < sizeof good / sizeof good[0]; i++) {
        feed(good[i].input);
        struct command command = command_of(i);
        assert_int_equal(command.kind, COMMAND_SET);
        assert_int_equal(command.flags, good[i].flags);
        assert_int_equal(command.expiry_mode, good[i].mode);
        assert_int_equal(command.expiry_ms, good[i].expiry_ms);
        assert_arg(i, 0, "k");
        assert_arg(i, 1, "v");
        complete_ok(i);
        assert_string_equal(sent_by(t.session), "+OK\r\n");
    }
}

static void test_set_refusals(void **state) {
    (void)state;
    const char *syntax[] = {"NX XX",        "EX",   "EX 10 PX 10", "KEEPTTL EX 10",
                            "EX 1 KEEPTTL", "NOPE", "PX 10 EX"};
    for (unsigned i = 0; i < sizeof syntax / sizeof syntax[0]; i++) {
        char input[64];
        snprintf(input, sizeof input, "SET k v %s\r\n", syntax[i]);
        assert_reply(input, "-ERR syntax error\r\n");
    }
    const char *expiry[] = {"EX 0",
                            "EX -1",
                            "PX 0",
                            "EXAT 0",
                            "PXAT -5",
                            "EX 9223372036854775807",
                            "PX 9223372036854775807",
                            "EX 9223372036854776",
                            "PX 9007199254740992",
                            "PXAT 9007199254740993",
                            "EXAT 9007199254741"};
    for (unsigned i = 0; i < sizeof expiry / sizeof expiry[0]; i++) {
        char input[64];
        snprintf(input, sizeof input, "SET k v %s\r\n", expiry[i]);
        assert_reply(input, "-ERR invalid expire time in 'set' command\r\n");
    }
    assert_reply("SET k v EX abc\r\n", "-ERR value is not an integer or out of range\r\n");
    assert_reply("SET k v EX 9223372036854775808\r\n",
                 "-ERR value is not an integer or out of range\r\n");
    assert_reply("SET k\r\n", "-ERR wrong number of arguments for 'set' command\r\n");
    assert_int_equal(t.n_ops, 0);
}

static void test_sizes_are_refused_in_words(void **state) {
    (void)state;
    assert_reply("SET \"\" v\r\n",
                 "-TOOBIG key of 0 bytes is outside the limits of 1 to 65536 bytes\r\n");
    assert_reply("DEL a \"\"\r\n",
                 "-TOOBIG key of 0 bytes is outside the limits of 1 to 65536 bytes\r\n");
    struct buffer big = {0};
    buffer_reserve(&big, 2 * MIB);
    memset(big.data, 'x', 2 * MIB);
    feed("*2\r\n$3\r\nGET\r\n$65537\r\n");
    feed_bytes(t.session, big.data, 65537);
    assert_reply("\r\n",
                 "-TOOBIG key of 65537 bytes is outside the limits of 1 to 65536 bytes\r\n");
    feed("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1048577\r\n");
    feed_bytes(t.session, big.data, 1048577);
    assert_reply("\r\nPING\r\n",
                 "-TOOBIG 1048577 bytes exceed the limit of 1048576 bytes for an argument "
                 "(max_value) or of 1572864 bytes for a whole command\r\n+PONG\r\n");
    assert_int_equal(t.n_ops, 0);
    /* Exactly at the limits. */
    feed("*3\r\n$3\r\nSET\r\n$65536\r\n");
    feed_bytes(t.session, big.data, 65536);
    feed("\r\n$1048576\r\n");
    feed_bytes(t.session, big.data, 1048576);
    feed("\r\n");
    assert_int_equal(t.n_ops, 1);
    /* The parser's copy of the value has gone although the operation has not completed. */
    assert_true(t.host.input_bytes < 64 * 1024);
    assert_int_equal(command_of(0).n_args, 2);
    buffer_free(&big);
}

static void test_key_commands(void **state) {
    (void)state;
    const struct {
        const char *input;
        enum command_kind kind;
        uint32_t n_args;
        uint8_t flags;
    } cases[] = {
        {"GET a\r\n", COMMAND_GET, 1, 0},
        {"EXISTS a b a\r\n", COMMAND_EXISTS, 3, 0},
        {"DEL a b\r\n", COMMAND_DELETE, 2, 0},
        {"UNLINK a\r\n", COMMAND_DELETE, 1, 0},
        {"PTTL a\r\n", COMMAND_PTTL, 1, 0},
        {"TTL a\r\n", COMMAND_PTTL, 1, COMMAND_FLAG_ROUND_S},
        {"DBSIZE\r\n", COMMAND_DBSIZE, 0, 0},
        {"FLUSHDB\r\n", COMMAND_CLEAR, 0, 0},
        {"FLUSHDB async\r\n", COMMAND_CLEAR, 0, 0},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        feed(cases[i].input);
        struct command command = command_of(i);
        assert_int_equal(command.kind, cases[i].kind);
        assert_int_equal(command.n_args, cases[i].n_args);
        assert_int_equal(command.flags, cases[i].flags);
        assert_int_equal(t.ops[i]->is_write, command_is_write(command.kind));
        complete_integer(i, (int64_t)i - 2);
        char reply[16];
        snprintf(reply, sizeof reply, ":%d\r\n", (int)i - 2);
        assert_string_equal(sent_by(t.session), reply);
    }
    assert_reply("FLUSHDB now\r\n", "-ERR syntax error\r\n");
    assert_reply("FLUSHDB sync sync\r\n", "-ERR syntax error\r\n");
}

static void test_results(void **state) {
    (void)state;
    feed("GET a\r\nGET b\r\nGET c\r\nGET d\r\nGET e\r\nGET f\r\n");
    complete(0, (struct result){.kind = RESULT_NIL});
    complete_bulk(1, 0, 'x');
    complete_bulk(2, 3, 'x');
    struct result error = {0};
    result_set_error(&error, ERROR_QUOTA, "quota of 10 bytes\r\nreached");
    complete(3, error);
    complete(4, (struct result){.kind = RESULT_ERROR, .code = ERROR_UNCERTAIN});
    struct result numbers = {.kind = RESULT_INTEGERS};
    buffer_put_u64(&numbers.data, 7);
    buffer_put_u64(&numbers.data, 8);
    complete(5, numbers);
    assert_string_equal(sent_by(t.session),
                        "$-1\r\n$0\r\n\r\n$3\r\nxxx\r\n-QUOTA quota of 10 bytes  reached\r\n"
                        "-UNCERTAIN the request may or may not have been carried out\r\n"
                        "*2\r\n:7\r\n:8\r\n");
    assert_int_equal(t.wakes, 6);
}

/* What each command submits: kind, flags and arguments; a number stands as its value. */
static void test_commands_become_operations(void **state) {
    (void)state;
    enum { LIMIT = 1048576 }; /* max_value of this host */
    const struct {
        const char *input;
        enum command_kind kind;
        uint8_t flags;
        uint32_t n_args;
        int64_t number; /* the argument that `number_at` names */
        uint32_t number_at;
    } cases[] = {
        {"INCR a\r\n", COMMAND_INCREMENT, 0, 3, 1, 1},
        {"DECR a\r\n", COMMAND_INCREMENT, 0, 3, -1, 1},
        {"INCRBY a -7\r\n", COMMAND_INCREMENT, 0, 3, -7, 1},
        {"DECRBY a 7\r\n", COMMAND_INCREMENT, 0, 3, -7, 1},
        {"DECRBY a 7\r\n", COMMAND_INCREMENT, 0, 3, LIMIT, 2},
        {"INCRBYFLOAT a 1.5\r\n", COMMAND_INCREMENT_FLOAT, 0, 3, LIMIT, 2},
        {"APPEND a b\r\n", COMMAND_APPEND, 0, 3, LIMIT, 2},
        {"SETRANGE a 5 b\r\n", COMMAND_SETRANGE, 0, 4, 5, 1},
        {"SETRANGE a 5 b\r\n", COMMAND_SETRANGE, 0, 4, LIMIT, 3},
        {"GETRANGE a 0 -1\r\n", COMMAND_GETRANGE, 0, 3, -1, 2},
        {"SUBSTR a -2 3\r\n", COMMAND_GETRANGE, 0, 3, -2, 1},
        {"GETSET a b\r\n", COMMAND_SET, COMMAND_FLAG_GET, 2, 0, 0},
        {"SETNX a b\r\n", COMMAND_SET, COMMAND_FLAG_NX | COMMAND_FLAG_COUNT, 2, 0, 0},
        {"GETDEL a\r\n", COMMAND_GETDEL, 0, 1, 0, 0},
        {"GETEX a\r\n", COMMAND_GET, 0, 1, 0, 0},
        {"GETEX a PERSIST\r\n", COMMAND_GETEX, COMMAND_FLAG_PERSIST, 1, 0, 0},
        {"MSET a 1 b 2\r\n", COMMAND_SET_MANY, 0, 4, 0, 0},
        {"MSETNX a 1\r\n", COMMAND_SET_MANY, COMMAND_FLAG_NX, 2, 0, 0},
        {"MGET a b a\r\n", COMMAND_GET_MANY, 0, 3, 0, 0},
        {"STRLEN a\r\n", COMMAND_STRLEN, 0, 1, 0, 0},
        {"PERSIST a\r\n", COMMAND_PERSIST, 0, 1, 0, 0},
        {"RENAME a b\r\n", COMMAND_RENAME, 0, 2, 0, 0},
        {"RENAMENX a b\r\n", COMMAND_RENAME, COMMAND_FLAG_NX, 2, 0, 0},
        {"COPY a b\r\n", COMMAND_COPY, 0, 2, 0, 0},
        {"COPY a b DB 0 replace\r\n", COMMAND_COPY, COMMAND_FLAG_REPLACE, 2, 0, 0},
        {"TOUCH a b\r\n", COMMAND_EXISTS, 0, 2, 0, 0},
        {"FLUSHALL sync\r\n", COMMAND_CLEAR, 0, 0, 0, 0},
        {"TYPE a\r\n", COMMAND_TYPE, 0, 1, 0, 0},
        {"EXPIRETIME a\r\n", COMMAND_EXPIRETIME, COMMAND_FLAG_ROUND_S, 1, 0, 0},
        {"PEXPIRETIME a\r\n", COMMAND_EXPIRETIME, 0, 1, 0, 0},
        {"RANDOMKEY\r\n", COMMAND_RANDOM_KEY, 0, 1, 0, 0},
        {"KEYS *\r\n", COMMAND_KEYS, 0, 1, 0, 0},
        {"SCAN 0\r\n", COMMAND_SCAN, 0, 3, 10, 1},
        {"SCAN 77 COUNT 5 MATCH x* TYPE string\r\n", COMMAND_SCAN, 0, 3, 77, 0},
        {"SCAN 77 COUNT 5 MATCH x*\r\n", COMMAND_SCAN, 0, 3, 5, 1},
        {"OBJECT ENCODING a\r\n", COMMAND_INSPECT, 0, 2, COMMAND_ASPECT_ENCODING, 1},
        {"OBJECT FREQ a\r\n", COMMAND_INSPECT, 0, 2, COMMAND_ASPECT_FREQ, 1},
        {"OBJECT IDLETIME a\r\n", COMMAND_INSPECT, 0, 2, COMMAND_ASPECT_IDLETIME, 1},
        {"OBJECT REFCOUNT a\r\n", COMMAND_INSPECT, 0, 2, COMMAND_ASPECT_REFCOUNT, 1},
        {"MEMORY USAGE a SAMPLES 5\r\n", COMMAND_INSPECT, 0, 2, COMMAND_ASPECT_MEMORY, 1},
        {"GETVER a\r\n", COMMAND_GET_VERSION, 0, 1, 0, 0},
        {"DELEX a\r\n", COMMAND_DELETE, 0, 1, 0, 0},
        {"DELEX a IFEQ b\r\n", COMMAND_DELETE_MATCHING, COMMAND_FLAG_IFEQ, 2, 0, 0},
        {"DELEX a IFVER 9\r\n", COMMAND_DELETE_MATCHING, COMMAND_FLAG_IFVER, 2, 9, 1},
        {"SET a b IFEQ c GET\r\n", COMMAND_SET, COMMAND_FLAG_IFEQ | COMMAND_FLAG_GET, 3, 0, 0},
        {"SET a b IFVER 0\r\n", COMMAND_SET, COMMAND_FLAG_IFVER, 3, 0, 2},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        feed(cases[i].input);
        struct command command = command_of(i);
        assert_int_equal(command.kind, cases[i].kind);
        assert_int_equal(command.flags, cases[i].flags);
        assert_int_equal(command.n_args, cases[i].n_args);
        assert_int_equal(t.ops[i]->is_write, command_is_write(command.kind));
        struct reader reader = reader_make(command.args);
        for (uint32_t j = 0; j < command.n_args; j++) {
            struct slice arg = command_next_arg(&reader);
            if (j == cases[i].number_at && (cases[i].number != 0 || j > 0)) {
                assert_int_equal(arg.size, 8);
                assert_true((int64_t)bytes_get_u64(arg.data) == cases[i].number);
            }
        }
        complete_ok(i);
        assert_string_equal(sent_by(t.session), "+OK\r\n");
    }
}

static void test_expiry_commands(void **state) {
    (void)state;
    const struct {
        const char *input;
        enum command_kind kind;
        uint8_t flags;
        enum command_expiry mode;
        uint64_t expiry_ms;
    } cases[] = {
        {"EXPIRE a 10\r\n", COMMAND_EXPIRE, 0, COMMAND_EXPIRY_AFTER, 10000},
        {"EXPIRE a -10 gt xx\r\n", COMMAND_EXPIRE, COMMAND_FLAG_GT | COMMAND_FLAG_XX,
         COMMAND_EXPIRY_AFTER, 0},
        {"PEXPIRE a 10 NX\r\n", COMMAND_EXPIRE, COMMAND_FLAG_NX, COMMAND_EXPIRY_AFTER, 10},
        {"EXPIREAT a 10 LT\r\n", COMMAND_EXPIRE, COMMAND_FLAG_LT, COMMAND_EXPIRY_AT, 10000},
        {"PEXPIREAT a 0\r\n", COMMAND_EXPIRE, 0, COMMAND_EXPIRY_AT, 0},
        {"GETEX a EX 3\r\n", COMMAND_GETEX, 0, COMMAND_EXPIRY_AFTER, 3000},
        {"GETEX a PXAT 3\r\n", COMMAND_GETEX, 0, COMMAND_EXPIRY_AT, 3},
        {"SETEX a 3 v\r\n", COMMAND_SET, 0, COMMAND_EXPIRY_AFTER, 3000},
        {"PSETEX a 3 v\r\n", COMMAND_SET, 0, COMMAND_EXPIRY_AFTER, 3},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        feed(cases[i].input);
        struct command command = command_of(i);
        assert_int_equal(command.kind, cases[i].kind);
        assert_int_equal(command.flags, cases[i].flags);
        assert_int_equal(command.expiry_mode, cases[i].mode);
        assert_true(command.expiry_ms == cases[i].expiry_ms);
        complete_integer(i, 1);
        assert_string_equal(sent_by(t.session), ":1\r\n");
    }
}

static void test_refusals_as_redis_words_them(void **state) {
    (void)state;
    const char *const not_integer[] = {
        "INCRBY a x",      "INCRBY a 1.5",      "DECRBY a \"\"",
        "SETRANGE a x v",  "GETRANGE a x 1",    "GETRANGE a 1 x",
        "EXPIRE a x",      "PEXPIREAT a 1.5",   "SETEX a x v",
        "COPY a b DB x",   "SCAN 0 COUNT x",    "SET a b IFVER -1",
        "SET a b IFVER x", "DELEX a IFVER 1.5", "MEMORY USAGE a SAMPLES x"};
    const char *const syntax[] = {
        "GETEX a EX",         "GETEX a NOPE",          "GETEX a EX 1 PERSIST",
        "COPY a b NOPE",      "COPY a b DB",           "SCAN 0 MATCH",
        "SCAN 0 NOPE x",      "SCAN 0 COUNT 0",        "DELEX a IFEQ",
        "DELEX a NX 1",       "SET a b IFEQ c NX",     "SET a b IFEQ c IFVER 1",
        "SET a b IFVER 1 XX", "MEMORY USAGE a NOPE 1", "FLUSHALL now"};
    const struct {
        const char *input;
        const char *reply;
    } others[] = {
        {"DECRBY a -9223372036854775808\r\n", "-ERR decrement would overflow\r\n"},
        {"INCRBYFLOAT a x\r\n", "-ERR value is not a valid float\r\n"},
        {"SETRANGE a -1 v\r\n", "-ERR offset is out of range\r\n"},
        {"MSET a 1 b\r\n", "-ERR wrong number of arguments for 'mset' command\r\n"},
        {"MSETNX a 1 b\r\n", "-ERR wrong number of arguments for 'msetnx' command\r\n"},
        {"SETEX a 0 v\r\n", "-ERR invalid expire time in 'setex' command\r\n"},
        {"PSETEX a -1 v\r\n", "-ERR invalid expire time in 'psetex' command\r\n"},
        {"GETEX a EX 0\r\n", "-ERR invalid expire time in 'getex' command\r\n"},
        {"EXPIRE a 9223372036854775807\r\n", "-ERR invalid expire time in 'expire' command\r\n"},
        {"EXPIRE a -9223372036854775807\r\n", "-ERR invalid expire time in 'expire' command\r\n"},
        {"EXPIRE a 1 NOPE\r\n", "-ERR Unsupported option NOPE\r\n"},
        {"EXPIRE a 1 NX GT\r\n",
         "-ERR NX and XX, GT or LT options at the same time are not compatible\r\n"},
        {"EXPIRE a 1 GT LT\r\n", "-ERR GT and LT options at the same time are not compatible\r\n"},
        {"COPY a a\r\n", "-ERR source and destination objects are the same\r\n"},
        {"COPY a b DB 1\r\n", "-ERR DB index is out of range\r\n"},
        {"SCAN x\r\n", "-ERR invalid cursor\r\n"},
        {"SCAN -1\r\n", "-ERR invalid cursor\r\n"},
        {"OBJECT NOPE a\r\n", "-ERR unknown subcommand 'NOPE'. Try OBJECT HELP.\r\n"},
        {"INCR \"\"\r\n", "-TOOBIG key of 0 bytes is outside the limits of 1 to 65536 bytes\r\n"},
        /* No key has another type: answered at once. */
        {"SCAN 5 TYPE list\r\n", "*2\r\n$1\r\n0\r\n*0\r\n"},
    };
    char input[128];
    for (unsigned i = 0; i < sizeof not_integer / sizeof not_integer[0]; i++) {
        snprintf(input, sizeof input, "%s\r\n", not_integer[i]);
        assert_reply(input, "-ERR value is not an integer or out of range\r\n");
    }
    for (unsigned i = 0; i < sizeof syntax / sizeof syntax[0]; i++) {
        snprintf(input, sizeof input, "%s\r\n", syntax[i]);
        assert_reply(input, "-ERR syntax error\r\n");
    }
    for (unsigned i = 0; i < sizeof others / sizeof others[0]; i++) {
        assert_reply(others[i].input, others[i].reply);
    }
    struct buffer pattern = {0};
    buffer_append_slice(&pattern, slice_of("KEYS "));
    for (int i = 0; i <= LIMIT_PATTERN_SIZE; i++) {
        buffer_put_u8(&pattern, '*');
    }
    buffer_append(&pattern, "\r\n", 3);
    assert_reply((const char *)pattern.data,
                 "-TOOBIG pattern of 1025 bytes exceeds the limit of 1024 bytes\r\n");
    buffer_free(&pattern);
    assert_int_equal(t.n_ops, 0);
}

static struct result example_array(void) {
    struct result array = {0};
    result_begin_array(&array, 4);
    result_add_bulk(&array, slice_of("a"));
    result_add_nil(&array);
    result_add_integer(&array, -5);
    result_add_array(&array, 1);
    result_add_bulk(&array, slice_of(""));
    return array;
}

static void test_arrays_and_words(void **state) {
    (void)state;
    feed("MGET a b\r\nTYPE a\r\n");
    struct result word = {.kind = RESULT_STATUS};
    buffer_append_slice(&word.data, slice_of("string"));
    complete(1, word);
    complete(0, example_array());
    assert_string_equal(sent_by(t.session),
                        "*4\r\n$1\r\na\r\n$-1\r\n:-5\r\n*1\r\n$0\r\n\r\n+string\r\n");
    feed("HELLO 3\r\n");
    (void)sent_by(t.session);
    feed("MGET a b\r\nGET a\r\n");
    complete(2, example_array());
    complete(3, (struct result){.kind = RESULT_NIL});
    assert_string_equal(sent_by(t.session), "*4\r\n$1\r\na\r\n_\r\n:-5\r\n*1\r\n$0\r\n\r\n_\r\n");
    assert_int_equal(t.host.stats.errors, 0);
}

/* The reply begins with the type and count, and then the text. */
static void assert_counted(const char *input, char type, unsigned count, const char *text) {
    char begin[64];
    feed(input);
    int size = snprintf(begin, sizeof begin, "%c%u\r\n%s", type, count, text);
    assert_memory_equal(sent_by(t.session), begin, (size_t)size);
}

static void test_server_commands(void **state) {
    (void)state;
    unsigned count;
    verb_table(&count);
    assert_counted("COMMAND COUNT\r\n", ':', count, "");
    assert_reply("COMMAND INFO nosuch get\r\n",
                 "*2\r\n*-1\r\n*10\r\n$3\r\nget\r\n:2\r\n*2\r\n+readonly\r\n+fast\r\n:1\r\n:1\r\n"
                 ":1\r\n*2\r\n+@read\r\n+@fast\r\n*0\r\n*0\r\n*0\r\n");
    assert_reply("COMMAND INFO watch\r\n",
                 "*1\r\n*10\r\n$5\r\nwatch\r\n:-2\r\n*1\r\n+fast\r\n:1\r\n:-1\r\n:1\r\n"
                 "*1\r\n+@fast\r\n*0\r\n*0\r\n*0\r\n");
    assert_reply("COMMAND DOCS nosuch\r\n", "*0\r\n");
    assert_reply("COMMAND DOCS get nosuch\r\n",
                 "*2\r\n$3\r\nget\r\n*8\r\n$7\r\nsummary\r\n$14\r\nValue of a key\r\n$5\r\nsince"
                 "\r\n$5\r\n0.1.0\r\n$5\r\ngroup\r\n$6\r\nstring\r\n$6\r\nsyntax\r\n$3\r\nkey\r\n");
    feed("COMMAND DOCS client|id\r\n");
    assert_memory_equal(sent_by(t.session), "*2\r\n$9\r\nclient|id\r\n", 18);
    assert_counted("COMMAND\r\n", '*', count, "*10\r\n");
    assert_counted("COMMAND DOCS\r\n", '*', 2 * count, "$6\r\nappend\r\n");
    assert_counted("COMMAND LIST\r\n", '*', count, "$6\r\nappend\r\n");
    assert_reply("COMMAND NOPE\r\n", "-ERR unknown subcommand 'NOPE'. Try COMMAND HELP.\r\n");
    assert_reply("CONFIG GET save\r\n", "*2\r\n$4\r\nsave\r\n$0\r\n\r\n");
    assert_reply("CONFIG GET APPEND* nothing\r\n", "*2\r\n$10\r\nappendonly\r\n$3\r\nyes\r\n");
    feed("CONFIG SET a b\r\n");
    assert_memory_equal(sent_by(t.session), "-ERR settings cannot be changed", 31);
    assert_reply("CONFIG RESETSTAT\r\n", "+OK\r\n");
    assert_int_equal(t.host.stats.errors, 0);
    assert_reply("CLUSTER REPLACE 3\r\n", "+OK\r\n");
    assert_reply("CLUSTER REPLACE 4\r\n", "-ERR no node 4\r\n");
    assert_reply("CLUSTER REPLACE 0\r\n", "-ERR node id is not a positive integer\r\n");
    assert_reply("CLUSTER REPLACE two\r\n", "-ERR node id is not a positive integer\r\n");

    feed("INFO\r\n");
    const char *text = sent_by(t.session);
    const char *lines[] = {"# Server\r\n",
                           "redis_version:7.0.15\r\n",
                           "invoke_kv_version:",
                           "uptime_in_seconds:90061\r\nuptime_in_days:1\r\n",
                           "\r\n\r\n# Clients\r\nconnected_clients:1\r\n",
                           "# Memory\r\n",
                           "# Stats\r\n",
                           "role:master\r\n",
                           "cluster_enabled:1\r\ncluster_name:test\r\nnode_id:2\r\n",
                           "node2:address=127.0.0.1:7102,connected=1\r\n",
                           "shard0:role=leader,leader=2,term=0,",
                           "shard1:role=follower,leader=1,",
                           "db0:keys=9,"};
    for (unsigned i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        assert_non_null(strstr(text, lines[i]));
    }
    feed("INFO keyspace\r\n");
    assert_string_equal(sent_by(t.session),
                        "$44\r\n# Keyspace\r\ndb0:keys=9,expires=0,avg_ttl=0\r\n\r\n");
    assert_reply("INFO nosuch\r\n", "$0\r\n\r\n");
}

/* ---- order ---- */

static void test_replies_keep_the_order_of_commands(void **state) {
    (void)state;
    feed("GET a\r\nPING\r\nGET b\r\nECHO x\r\nECHO y\r\nGET c\r\n");
    assert_int_equal(t.n_ops, 3);
    complete_bulk(2, 1, 'c');
    complete_bulk(1, 1, 'b');
    assert_string_equal(sent_by(t.session), "");
    complete_bulk(0, 1, 'a');
    assert_string_equal(sent_by(t.session), "$1\r\na\r\n+PONG\r\n$1\r\nb\r\n$1\r\nx\r\n$1\r\ny\r\n"
                                            "$1\r\nc\r\n");
}

static void test_a_write_waits_for_reads(void **state) {
    (void)state;
    feed("GET a\r\nGET b\r\nSET a 1\r\nPING\r\n");
    assert_int_equal(t.n_ops, 2);
    assert_false(session_wants_read(t.session));
    complete_bulk(1, 1, 'b');
    assert_false(session_needs_resume(t.session));
    complete_bulk(0, 1, 'a');
    assert_int_equal(t.n_ops, 2); /* never from within a completion */
    assert_true(session_needs_resume(t.session));
    session_resume(t.session);
    assert_int_equal(t.n_ops, 3);
    assert_true(session_wants_read(t.session));
    assert_string_equal(sent_by(t.session), "$1\r\na\r\n$1\r\nb\r\n");
    complete_ok(2);
    assert_string_equal(sent_by(t.session), "+OK\r\n+PONG\r\n");
}

static void test_a_read_behind_writes_is_marked(void **state) {
    (void)state;
    feed("GET a\r\n");
    assert_false(t.ops[0]->after_writes);
    complete_bulk(0, 1, 'a');
    feed("SET a 1\r\nGET a\r\n");
    assert_int_equal(t.n_ops, 3);
    assert_true(t.ops[1]->is_write);
    assert_true(t.ops[2]->after_writes);
    complete_bulk(2, 1, '1');
    complete_ok(1);
    feed("GET a\r\n");
    assert_false(t.ops[3]->after_writes);
    assert_string_equal(sent_by(t.session), "$1\r\na\r\n+OK\r\n$1\r\n1\r\n");
}

static void test_hello_does_not_change_earlier_replies(void **state) {
    (void)state;
    feed("GET a\r\nHELLO 3\r\nGET b\r\n");
    complete(1, (struct result){.kind = RESULT_NIL});
    complete(0, (struct result){.kind = RESULT_NIL});
    const char *text = sent_by(t.session);
    assert_memory_equal(text, "$-1\r\n%7\r\n", 9);
    assert_string_equal(text + strlen(text) - 7, "*0\r\n_\r\n");
}

static void test_completion_within_submit(void **state) {
    (void)state;
    t.at_once = true;
    feed("SET a 1\r\nPING\r\nSET b 2\r\nGET a\r\nSET c 3\r\n");
    assert_string_equal(sent_by(t.session), "+OK\r\n+PONG\r\n+OK\r\n+OK\r\n+OK\r\n");
    assert_int_equal(t.wakes, 0);
}

/* Random completion orders: replies always match their commands. */
static void test_any_order_of_completion(void **state) {
    (void)state;
    srand(7);
    for (unsigned round = 0; round < 200; round++) {
        unsigned first = t.n_ops;
        char expected[512] = "", text[512] = "";
        for (unsigned i = 0; i < 12; i++) {
            bool ping = rand() % 3 == 0;
            char line[32];
            snprintf(line, sizeof line, ping ? "ECHO e%u\r\n" : "GET g%u\r\n", i + 10);
            strcat(text, line);
            snprintf(line, sizeof line, ping ? "$3\r\ne%u\r\n" : ":%u\r\n", i + 10);
            strcat(expected, line);
        }
        feed(text);
        char got[1024] = "";
        for (unsigned left = t.n_ops - first; left > 0;) {
            unsigned i = first + (unsigned)rand() % (t.n_ops - first);
            if (t.ops[i] == NULL) {
                continue;
            }
            struct command command = command_of(i);
            struct reader reader = reader_make(command.args);
            struct slice key = command_next_arg(&reader);
            complete_integer(i, (key.data[1] - '0') * 10 + (key.data[2] - '0'));
            strcat(got, sent_by(t.session));
            left--;
        }
        strcat(got, sent_by(t.session));
        assert_string_equal(got, expected);
        t.n_ops = first;
    }
}

/* ---- bounds ---- */

static void test_pipeline_is_bounded(void **state) {
    (void)state;
    struct buffer text = {0};
    for (unsigned i = 0; i < 40; i++) {
        buffer_append(&text, "SET a 1\r\n", 9);
    }
    feed_bytes(t.session, text.data, text.size);
    buffer_free(&text);
    assert_int_equal(t.n_ops, 16);
    assert_false(session_wants_read(t.session));
    for (unsigned i = 0; i < 40; i++) {
        complete_ok(i);
        assert_true(t.n_ops >= 40 || session_needs_resume(t.session));
        session_resume(t.session);
    }
    assert_int_equal(t.n_ops, 40);
    assert_true(session_wants_read(t.session));
    assert_int_equal(strlen(sent_by(t.session)), 40 * 5);
}

static void feed_pings(struct session *session, unsigned n) {
    struct buffer text = {0};
    for (unsigned i = 0; i < n; i++) {
        buffer_append(&text, "PING\r\n", 6);
    }
    feed_bytes(session, text.data, text.size);
    buffer_free(&text);
}

/* A long pipeline leaves the rest of a turn to others, and many of them leave it to the last. */
static void test_sessions_take_turns(void **state) {
    (void)state;
    const size_t pong = strlen("+PONG\r\n");
    struct session *others[SESSION_TURN_ALL / SESSION_RUN];
    feed_pings(t.session, 3 * SESSION_RUN);
    assert_int_equal(strlen(sent_by(t.session)), SESSION_RUN * pong);
    assert_true(session_needs_resume(t.session));
    assert_false(session_wants_read(t.session));
    for (unsigned i = 0; i < SESSION_TURN_ALL / SESSION_RUN; i++) {
        others[i] = open_session();
        feed_pings(others[i], 2 * SESSION_RUN);
        size_t begun = i + 1 < SESSION_TURN_ALL / SESSION_RUN ? SESSION_RUN : SESSION_RUN_BUSY;
        assert_int_equal(strlen(sent_by(others[i])), begun * pong);
    }
    session_host_begin_turn(&t.host);
    session_resume(t.session);
    assert_int_equal(strlen(sent_by(t.session)), SESSION_RUN * pong);
    session_resume(t.session);
    assert_int_equal(strlen(sent_by(t.session)), SESSION_RUN * pong);
    assert_false(session_needs_resume(t.session));
    assert_true(session_wants_read(t.session));
    for (unsigned i = 0; i < SESSION_TURN_ALL / SESSION_RUN; i++) {
        session_free(others[i]);
    }
}

static void test_output_is_bounded(void **state) {
    (void)state;
    feed("GET a\r\nGET b\r\nGET c\r\n");
    complete_bulk(0, 200 * 1024, 'a');
    assert_true(session_wants_read(t.session));
    /* Counts also where it waits for its turn. */
    complete_bulk(2, 100 * 1024, 'c');
    assert_false(session_wants_read(t.session));
    complete_bulk(1, 1, 'b');
    assert_false(session_wants_read(t.session));
    /* Taken by the shell is not yet sent. */
    struct output taken = {0};
    output_append(&taken, session_output(t.session));
    assert_false(session_wants_read(t.session));
    session_sent(t.session, output_size(&taken));
    assert_true(session_wants_read(t.session));
    output_free(&taken);
}

static void test_reads_of_large_values_narrow_the_window(void **state) {
    (void)state;
    feed("GET a\r\n");
    complete_bulk(0, 200 * 1024, 'a');
    sent_by(t.session);
    feed("GET a\r\nGET b\r\n");
    assert_int_equal(t.n_ops, 2);
    complete_bulk(1, 10, 'a');
    session_resume(t.session);
    assert_int_equal(t.n_ops, 3);
}

static void test_half_received_commands_are_bounded_together(void **state) {
    (void)state;
    struct session *others[4];
    const char *half = "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\nx";
    for (unsigned i = 0; i < 4; i++) {
        others[i] = open_session();
        feed_bytes(others[i], half, strlen(half));
        assert_true(session_is_mid_command(others[i]));
        assert_false(session_is_finished(others[i]));
    }
    feed(half);
    const char *text = sent_by(t.session);
    assert_memory_equal(text, "-BUSY this node holds ", 22);
    assert_non_null(strstr(text, "more than the limit of 4194304 bytes"));
    assert_true(session_is_finished(t.session));
    for (unsigned i = 0; i < 4; i++) {
        session_free(others[i]);
    }
}

/* ---- endings ---- */

static void test_quit_answers_what_came_before(void **state) {
    (void)state;
    feed("GET a\r\nQUIT\r\nSET a 1\r\n");
    assert_int_equal(t.n_ops, 1);
    assert_false(session_wants_read(t.session));
    assert_false(session_is_finished(t.session));
    complete_bulk(0, 1, 'a');
    assert_false(session_is_finished(t.session));
    assert_string_equal(sent_by(t.session), "$1\r\na\r\n+OK\r\n");
    assert_true(session_is_finished(t.session));
}

static void test_protocol_error_ends_the_session(void **state) {
    (void)state;
    feed("SET a 1\r\n*2\r\n$3\r\nGET\r\n:1\r\nPING\r\n");
    assert_int_equal(t.n_ops, 1);
    complete_ok(0);
    assert_string_equal(sent_by(t.session),
                        "+OK\r\n-ERR Protocol error: expected '$', got ':'\r\n");
    assert_true(session_is_finished(t.session));
}

static void test_half_closed_connection_gets_its_replies(void **state) {
    (void)state;
    feed("GET a\r\nSET a 1\r\nPI");
    session_input_end(t.session);
    assert_false(session_wants_read(t.session));
    assert_false(session_is_finished(t.session));
    complete_bulk(0, 1, 'a');
    session_resume(t.session);
    assert_false(session_is_finished(t.session));
    complete_ok(1);
    assert_string_equal(sent_by(t.session), "$1\r\na\r\n+OK\r\n");
    assert_true(session_is_finished(t.session));
}

static void test_drain_takes_no_more(void **state) {
    (void)state;
    feed("GET a\r\nSET a 1\r\n");
    session_drain(t.session);
    complete_bulk(0, 1, 'a');
    assert_false(session_needs_resume(t.session));
    assert_string_equal(sent_by(t.session), "$1\r\na\r\n");
    assert_true(session_is_finished(t.session));
    assert_int_equal(t.n_ops, 1);
}

static void test_disconnect_with_operations_under_way(void **state) {
    (void)state;
    feed("GET a\r\nGET b\r\nPING\r\nGET c\r\n");
    complete_bulk(1, 100000, 'b');
    session_free(t.session);
    t.session = NULL;
    assert_int_equal(t.host.n_slots, 2);
    unsigned wakes = t.wakes;
    complete_bulk(2, 100000, 'c');
    complete_bulk(0, 100000, 'a');
    assert_int_equal(t.wakes, wakes);
    assert_int_equal(t.host.n_slots, 0);
}

static void test_input_byte_by_byte(void **state) {
    (void)state;
    const char *text = "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nvv\r\n";
    for (size_t i = 0; i < strlen(text); i++) {
        assert_int_equal(session_is_mid_command(t.session), i > 0);
        assert_int_equal(t.n_ops, 0);
        feed_bytes(t.session, text + i, 1);
    }
    assert_false(session_is_mid_command(t.session));
    assert_int_equal(t.n_ops, 1);
    assert_arg(0, 1, "vv");
}

/* ---- levels of consistency ---- */

/* Completes a submitted operation as the router does that knows the log index. */
static void complete_at(unsigned i, uint64_t index) {
    t.ops[i]->seen_index = index;
    complete_ok(i);
}

static void test_consistency_is_set_and_told(void **state) {
    (void)state;
    assert_reply("CONSISTENCY\r\n", "$12\r\nLINEARIZABLE\r\n");
    assert_reply("consistency eventual maxstale 250\r\n", "+OK\r\n");
    assert_reply("CONSISTENCY\r\n", "$21\r\nEVENTUAL MAXSTALE 250\r\n");
    assert_reply("CONSISTENCY SESSION\r\n", "+OK\r\n");
    assert_reply("CONSISTENCY\r\n", "$7\r\nSESSION\r\n");
    assert_reply("READONLY\r\n", "+OK\r\n");
    assert_reply("CONSISTENCY\r\n", "$8\r\nEVENTUAL\r\n");
    assert_reply("READWRITE\r\n", "+OK\r\n");
    assert_reply("CONSISTENCY\r\n", "$12\r\nLINEARIZABLE\r\n");
    assert_reply("CONSISTENCY SESSION\r\nCONSISTENCY LINEARIZABLE\r\n", "+OK\r\n+OK\r\n");
}

static void test_consistency_refusals(void **state) {
    (void)state;
    const char *syntax = "-ERR syntax error\r\n";
    const char *range = "-ERR MAXSTALE takes 1 to 2147483647 milliseconds\r\n";
    const char *token = "-BADTOKEN this is not a session token: take it as TOKEN answered it\r\n";
    assert_reply("CONSISTENCY STRONG\r\n", syntax);
    assert_reply("CONSISTENCY LINEARIZABLE x\r\n", syntax);
    assert_reply("CONSISTENCY EVENTUAL 100\r\n", syntax);
    assert_reply("CONSISTENCY EVENTUAL MAXSTALE\r\n", syntax);
    assert_reply("CONSISTENCY EVENTUAL MAXAGE 1\r\n", syntax);
    assert_reply("CONSISTENCY SESSION a b\r\n", syntax);
    assert_reply("CONSISTENCY EVENTUAL MAXSTALE 0\r\n", range);
    assert_reply("CONSISTENCY EVENTUAL MAXSTALE -1\r\n", range);
    assert_reply("CONSISTENCY EVENTUAL MAXSTALE 2147483648\r\n", range);
    assert_reply("CONSISTENCY SESSION x\r\n", token);
    assert_reply("CONSISTENCY\r\n", "$12\r\nLINEARIZABLE\r\n"); /* a refusal changes nothing */
}

static void test_reads_carry_the_level(void **state) {
    (void)state;
    feed("SET k v\r\nGET k\r\n");
    assert_int_equal(t.ops[1]->level, READ_LINEARIZABLE);
    complete_at(0, 40);
    complete_at(1, 43);
    feed("READONLY\r\nGET k\r\n");
    assert_int_equal(t.ops[2]->level, READ_EVENTUAL);
    assert_int_equal(t.ops[2]->max_stale_ms, 0);
    complete_at(2, 41); /* an older state does not lower what the session has seen */
    feed("CONSISTENCY EVENTUAL MAXSTALE 70\r\nGET k\r\n");
    assert_int_equal(t.ops[3]->max_stale_ms, 70);
    complete_at(3, 0);
    feed("CONSISTENCY SESSION\r\nGET k\r\n");
    assert_int_equal(t.ops[4]->level, READ_SESSION);
    assert_int_equal(t.ops[4]->min_index, 43);
    unsigned shard = t.ops[4]->shard;
    complete_at(4, 50);
    feed("AUTH other x\r\nGET k\r\n");
    assert_int_not_equal(t.ops[5]->shard, shard);
    assert_int_equal(t.ops[5]->min_index, 0); /* indexes of another shard say nothing */
    complete_at(5, 9);
    feed("AUTH default x\r\nGET k\r\n");
    assert_int_equal(t.ops[6]->min_index, 50);
}

static void test_session_reads_wait_for_writes(void **state) {
    (void)state;
    feed("CONSISTENCY SESSION\r\nSET k v\r\nSET k w\r\nGET k\r\nGET k\r\n");
    assert_int_equal(t.n_ops, 2);
    complete_at(1, 12);
    assert_false(session_needs_resume(t.session));
    complete_at(0, 11);
    assert_true(session_needs_resume(t.session));
    session_resume(t.session);
    assert_int_equal(t.n_ops, 4);
    assert_int_equal(t.ops[2]->min_index, 12);
    assert_int_equal(t.ops[3]->min_index, 12);
    /* An eventual read need not. */
    complete_at(2, 12);
    complete_at(3, 12);
    feed("READONLY\r\nSET k x\r\nGET k\r\n");
    assert_int_equal(t.n_ops, 6);
}

static void test_level_changes_when_all_is_done(void **state) {
    (void)state;
    feed("GET k\r\nCONSISTENCY SESSION\r\nGET k\r\n");
    assert_int_equal(t.n_ops, 1);
    complete_at(0, 77);
    session_resume(t.session);
    assert_int_equal(t.n_ops, 2);
    assert_int_equal(t.ops[1]->min_index, 77);
}

static void test_token_carries_over(void **state) {
    (void)state;
    char command[128];
    feed("SET k v\r\nTOKEN\r\n");
    assert_string_equal(sent_by(t.session), "");
    complete_at(0, 1234);
    session_resume(t.session);
    const char *reply = sent_by(t.session);
    const char *token = strstr(reply, "\r\n");
    token = strstr(token + 2, "\r\n"); /* +OK, $length, token */
    assert_non_null(token);
    snprintf(command, sizeof command, "CONSISTENCY SESSION %.38s\r\nGET k\r\n", token + 2);
    session_free(t.session);
    t.session = open_session();
    feed(command);
    assert_string_equal(sent_by(t.session), "+OK\r\n");
    assert_int_equal(t.ops[1]->level, READ_SESSION);
    assert_int_equal(t.ops[1]->min_index, 1234);
    complete_at(1, 1300);
    feed(command); /* an older token does not lower it */
    assert_int_equal(t.ops[2]->min_index, 1300);
    complete_at(2, 1300);
    (void)sent_by(t.session);
    feed("AUTH other x\r\n");
    feed(command);
    reply = sent_by(t.session);
    assert_non_null(strstr(reply, "-BADTOKEN this session token is of shard "));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, session_fixture_end)

/* ---- exactly-once writes ---- */

#define SESSION "000102030405060708090a0b0C0D0E0F"

/* The command that submitted op i, a COMMAND_ONCE, holds; checks what stands before it. */
static struct command nested_of(unsigned i, uint64_t sequence, uint64_t low) {
    struct command command = command_of(i);
    assert_int_equal(command.kind, COMMAND_ONCE);
    assert_true(t.ops[i]->is_write);
    struct reader reader = reader_make(command.args);
    struct slice id = command_next_arg(&reader);
    assert_int_equal(id.size, COMMAND_SESSION_SIZE);
    for (unsigned byte = 0; byte < COMMAND_SESSION_SIZE; byte++) {
        assert_int_equal(id.data[byte], byte);
    }
    assert_int_equal(bytes_get_u64(command_next_arg(&reader).data), sequence);
    assert_int_equal(bytes_get_u64(command_next_arg(&reader).data), low);
    struct command nested;
    struct error error;
    assert_int_equal(command_decode_nested(&command, command_next_arg(&reader), &nested, &error),
                     ERROR_NONE);
    return nested;
}

static void test_once_opens_and_closes(void **state) {
    (void)state;
    feed("ONCE OPEN\r\nonce open ttl 1000\r\nONCE CLOSE " SESSION "\r\n");
    struct command command = command_of(0);
    assert_int_equal(command.kind, COMMAND_ONCE_OPEN);
    struct reader reader = reader_make(command.args);
    assert_true(
        slice_equal(command_next_arg(&reader), slice_of("ZZZZZZZZZZZZZZZZ"))); /* fake_random() */
    assert_int_equal(bytes_get_u64(command_next_arg(&reader).data), LIMIT_ONCE_TTL_DEFAULT_MS);
    command = command_of(1);
    reader = reader_make(command.args);
    (void)command_next_arg(&reader);
    assert_int_equal(bytes_get_u64(command_next_arg(&reader).data), 1000);
    assert_int_equal(command_of(2).kind, COMMAND_ONCE_CLOSE);
    complete_bulk(0, 32, 'a');
    complete_bulk(1, 32, 'b');
    complete_integer(2, 1);
    assert_string_equal(sent_by(t.session), "$32\r\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n"
                                            "$32\r\nbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n"
                                            ":1\r\n");
    no_random = true;
    assert_reply("ONCE OPEN\r\n", "-ERR no luck\r\n");
    assert_reply("ONCE OPEN 1000\r\n", "-ERR syntax error\r\n");
    assert_reply("ONCE OPEN TTL 1000 x\r\n", "-ERR syntax error\r\n");
    assert_reply("ONCE OPEN TTL 999\r\n", "-ERR TTL is from 1000 to 86400000 milliseconds\r\n");
    assert_reply("ONCE OPEN TTL 86400001\r\n",
                 "-ERR TTL is from 1000 to 86400000 milliseconds\r\n");
    assert_reply("ONCE OPEN TTL x\r\n", "-ERR TTL is from 1000 to 86400000 milliseconds\r\n");
    assert_reply("ONCE\r\n", "-ERR wrong number of arguments for 'once' command\r\n");
    assert_reply("ONCE CLOSE\r\n", "-ERR wrong number of arguments for 'once' command\r\n");
    assert_reply("ONCE CLOSE x\r\n",
                 "-ERR a session is named by the 32 digits that ONCE OPEN answered\r\n");
    assert_int_equal(t.n_ops, 3);
}

static void test_once_holds_any_write(void **state) {
    (void)state;
    feed("ONCE " SESSION " 1 SET k v PX 500\r\n"
         "once " SESSION " 9223372036854775807 done 7 incrby k 5\r\n"
         "ONCE " SESSION " 3 DONE 3 DEL a b c\r\n"
         "ONCE " SESSION " 4 FLUSHDB\r\n");
    struct command nested = nested_of(0, 1, 0);
    assert_int_equal(nested.kind, COMMAND_SET);
    assert_int_equal(nested.expiry_ms, 500);
    struct reader reader = reader_make(nested.args);
    assert_true(slice_equal(command_next_arg(&reader), slice_of("k")));
    assert_true(slice_equal(command_next_arg(&reader), slice_of("v")));
    assert_int_equal(nested_of(1, INT64_MAX, 7).kind, COMMAND_INCREMENT);
    nested = nested_of(2, 3, 3);
    assert_int_equal(nested.kind, COMMAND_DELETE);
    assert_int_equal(nested.n_args, 3);
    assert_int_equal(nested_of(3, 4, 0).kind, COMMAND_CLEAR);
    complete_ok(0);
    complete_integer(1, 12);
    struct result forgotten = {0};
    result_set_error(&forgotten, ERROR_FORGOTTEN, "gone");
    complete(2, forgotten);
    struct result unknown = {0};
    result_set_error(&unknown, ERROR_NOSESSION, "who");
    complete(3, unknown);
    assert_string_equal(sent_by(t.session), "+OK\r\n:12\r\n-FORGOTTEN gone\r\n-NOSESSION who\r\n");
    /* The command's own mistakes are told as ever, and reads do not belong here. */
    assert_reply("ONCE " SESSION " 1 SET k\r\n",
                 "-ERR wrong number of arguments for 'set' command\r\n");
    assert_reply("ONCE " SESSION " 1 SET k v EX 0\r\n",
                 "-ERR invalid expire time in 'set' command\r\n");
    assert_reply("ONCE " SESSION " 1 FOO x\r\n",
                 "-ERR unknown command 'FOO', with args beginning with: 'x' \r\n");
    static const char *const others[] = {"GET k", "PING", "CLIENT ID", "ONCE OPEN", "CLUSTER INFO"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        char text[128];
        snprintf(text, sizeof text, "ONCE " SESSION " 1 %s\r\n", others[i]);
        feed(text);
        assert_non_null(strstr(sent_by(t.session), "-ERR ONCE is for commands that write keys"));
    }
    assert_reply("ONCE " SESSION " 1 GETEX k\r\n",
                 "-ERR ONCE is for commands that write keys; 'getex' is none\r\n");
    assert_reply("ONCE " SESSION " 1\r\n", "-ERR wrong number of arguments for 'once' command\r\n");
    assert_reply("ONCE " SESSION " 1 DONE 1\r\n",
                 "-ERR wrong number of arguments for 'once' command\r\n");
    static const char *const numbers[] = {"0",        "-1",      "x", "9223372036854775808",
                                          "5 DONE 6", "5 DONE 0"};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        char text[128];
        snprintf(text, sizeof text, "ONCE " SESSION " %s INCR n\r\n", numbers[i]);
        assert_reply(text, "-ERR value is not an integer or out of range\r\n");
    }
    static const char *const ids[] = {"00", "000102030405060708090a0b0c0d0e0g",
                                      "000102030405060708090a0b0c0d0e0f0"};
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        char text[128];
        snprintf(text, sizeof text, "ONCE %s 1 INCR n\r\n", ids[i]);
        assert_reply(text, "-ERR a session is named by the 32 digits that ONCE OPEN answered\r\n");
    }
    assert_int_equal(t.n_ops, 4);
    /* The project is that of the connection, inside and outside. */
    feed("AUTH blue x\r\nONCE " SESSION " 9 INCR n\r\n");
    assert_true(slice_equal(command_of(4).project, slice_of("blue")));
    assert_true(slice_equal(nested_of(4, 9, 0).project, slice_of("blue")));
    complete_integer(4, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_local_commands),
        TEST(test_client_commands),
        TEST(test_hello_and_resp3),
        TEST(test_auth_picks_the_project_in_order),
        TEST(test_set_options),
        TEST(test_set_refusals),
        TEST(test_sizes_are_refused_in_words),
        TEST(test_key_commands),
        TEST(test_results),
        TEST(test_commands_become_operations),
        TEST(test_expiry_commands),
        TEST(test_refusals_as_redis_words_them),
        TEST(test_arrays_and_words),
        TEST(test_server_commands),
        TEST(test_replies_keep_the_order_of_commands),
        TEST(test_a_write_waits_for_reads),
        TEST(test_a_read_behind_writes_is_marked),
        TEST(test_hello_does_not_change_earlier_replies),
        TEST(test_completion_within_submit),
        TEST(test_any_order_of_completion),
        TEST(test_pipeline_is_bounded),
        TEST(test_sessions_take_turns),
        TEST(test_output_is_bounded),
        TEST(test_reads_of_large_values_narrow_the_window),
        TEST(test_half_received_commands_are_bounded_together),
        TEST(test_quit_answers_what_came_before),
        TEST(test_protocol_error_ends_the_session),
        TEST(test_half_closed_connection_gets_its_replies),
        TEST(test_drain_takes_no_more),
        TEST(test_disconnect_with_operations_under_way),
        TEST(test_input_byte_by_byte),
        TEST(test_consistency_is_set_and_told),
        TEST(test_consistency_refusals),
        TEST(test_reads_carry_the_level),
        TEST(test_session_reads_wait_for_writes),
        TEST(test_level_changes_when_all_is_done),
        TEST(test_token_carries_over),
        TEST(test_once_opens_and_closes),
        TEST(test_once_holds_any_write),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
