/* MULTI and WATCH on a session, against a router whose operations the test completes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "node/transaction.h"
#include "tests/unit/session_fixture.h"

enum { MAX_VALUE = MIB };

static struct command nesting; /* of the last op that was looked at */

static void describe(void *data, struct server_info *info) {
    (void)data;
    info->cluster = "test";
}

/* With CLUSTER REDIRECT, another node leads. */
static bool find_leader(void *data, unsigned shard, const char **host, uint16_t *port) {
    (void)data;
    (void)shard;
    *host = "10.0.0.9";
    *port = 7101;
    return true;
}

static int setup(void **state) {
    (void)state;
    session_fixture_begin(session_fixture_limits(64),
                          (struct session_port){.describe = describe, .find_leader = find_leader});
    t.resumes = true;
    return 0;
}

/* Decodes op i, which is of that kind; the arguments stand in nesting. */
static struct reader args_of(unsigned i, enum command_kind kind) {
    struct error error = {0};
    assert_true(i < t.n_ops && t.ops[i] != NULL);
    enum error_code code = command_decode(buffer_slice(&t.ops[i]->command), &nesting, &error);
    assert_string_equal(error.message, "");
    assert_int_equal(code, ERROR_NONE);
    assert_int_equal(nesting.kind, kind);
    return reader_make(nesting.args);
}

static uint64_t next_number(struct reader *args) {
    struct slice number = command_next_arg(args);
    assert_int_equal(number.size, 8);
    return bytes_get_u64(number.data);
}

static void assert_next(struct reader *args, const char *text) {
    assert_true(slice_equal(command_next_arg(args), slice_of(text)));
}

static void assert_next_kind(struct reader *args, enum command_kind kind) {
    struct command nested;
    struct error error;
    assert_int_equal(command_decode_nested(&nesting, command_next_arg(args), &nested, &error),
                     ERROR_NONE);
    assert_int_equal(nested.kind, kind);
}

static struct result text_result(enum result_kind kind, const char *text) {
    struct result result = {.kind = kind};
    buffer_append_slice(&result.data, slice_of(text));
    return result;
}

/* Completes op i with what the state machine would answer: these results. */
static void complete_with(unsigned i, struct result *results, uint32_t count) {
    struct result all = {0};
    result_begin_results(&all, count);
    for (uint32_t n = 0; n < count; n++) {
        result_add_result(&all, &results[n]);
        result_free(&results[n]);
    }
    complete(i, all);
}

static void complete_versions(unsigned i, const uint64_t *versions, unsigned count) {
    struct result result = {.kind = RESULT_INTEGERS};
    for (unsigned n = 0; n < count; n++) {
        buffer_put_u64(&result.data, versions[n]);
    }
    complete(i, result);
}

static void test_commands_are_queued_and_submitted_as_one(void **state) {
    (void)state;
    assert_reply("MULTI\r\n", "+OK\r\n");
    assert_reply("SET a 1\r\nGET a\r\nincr n\r\n", "+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n");
    assert_int_equal(t.n_ops, 0);
    feed("EXEC\r\n");
    assert_int_equal(t.n_ops, 1);
    assert_true(t.ops[0]->is_write);
    struct reader args = args_of(0, COMMAND_TRANSACTION);
    assert_int_equal(nesting.n_args, 4);
    assert_int_equal(next_number(&args), 0);
    assert_next_kind(&args, COMMAND_SET);
    assert_next_kind(&args, COMMAND_GET);
    assert_next_kind(&args, COMMAND_INCREMENT);
    struct result failed = {0};
    result_set_error(&failed, ERROR_GENERIC, "value is not an integer or out of range");
    struct result results[] = {{.kind = RESULT_OK}, text_result(RESULT_BULK, "1"), failed};
    complete_with(0, results, 3);
    assert_string_equal(sent(), "*3\r\n+OK\r\n$1\r\n1\r\n-ERR value is not an integer or out of "
                                "range\r\n");
    /* The connection is as before. */
    assert_reply("PING\r\n", "+PONG\r\n");
    assert_reply("EXEC\r\n", "-ERR EXEC without MULTI\r\n");
}

static void test_replies_have_the_form_that_they_have_alone(void **state) {
    (void)state;
    feed("HELLO 3\r\n");
    (void)sent();
    for (int round = 0; round < 2; round++) {
        feed("MULTI\r\nGET missing\r\nMGET a b\r\nTYPE a\r\nDBSIZE\r\nEXEC\r\n");
        struct result array = {0};
        result_begin_array(&array, 2);
        result_add_nil(&array);
        result_add_bulk(&array, slice_of("v"));
        struct result results[] = {{.kind = RESULT_NIL},
                                   array,
                                   text_result(RESULT_STATUS, "string"),
                                   {.kind = RESULT_INTEGER, .integer = -7}};
        complete_with((unsigned)round, results, 4);
        const char *const queued = "+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n";
        const char *text = sent();
        assert_memory_equal(text, queued, strlen(queued));
        assert_string_equal(text + strlen(queued),
                            round == 0 ? "*4\r\n_\r\n*2\r\n_\r\n$1\r\nv\r\n+string\r\n:-7\r\n"
                                       : "*4\r\n$-1\r\n*2\r\n$-1\r\n$1\r\nv\r\n+string\r\n:-7\r\n");
        feed("HELLO 2\r\n");
        (void)sent();
    }
}

static void test_errors_of_the_frame(void **state) {
    (void)state;
    assert_reply("EXEC\r\n", "-ERR EXEC without MULTI\r\n");
    assert_reply("DISCARD\r\n", "-ERR DISCARD without MULTI\r\n");
    assert_reply("MULTI\r\n", "+OK\r\n");
    assert_reply("MULTI\r\n", "-ERR MULTI calls can not be nested\r\n");
    assert_reply("WATCH a\r\n", "-ERR WATCH inside MULTI is not allowed\r\n");
    /* Neither spoils the transaction. */
    assert_reply("EXEC\r\n", "*0\r\n");
    assert_reply("MULTI\r\nSET a 1\r\nDISCARD\r\n", "+OK\r\n+QUEUED\r\n+OK\r\n");
    assert_reply("EXEC\r\n", "-ERR EXEC without MULTI\r\n");
    assert_reply("MULTI\r\nSET a 1\r\nEXEC now\r\n",
                 "+OK\r\n+QUEUED\r\n-EXECABORT Transaction discarded because of: wrong number of "
                 "arguments for 'exec' command\r\n");
    assert_reply("EXEC\r\n", "-ERR EXEC without MULTI\r\n");
    assert_int_equal(t.n_ops, 0);
}

static void test_what_cannot_be_queued_aborts(void **state) {
    (void)state;
    const struct {
        const char *input;
        const char *reply;
    } cases[] = {
        {"NOSUCH x", "-ERR unknown command 'NOSUCH', with args beginning with: 'x' \r\n"},
        {"GET", "-ERR wrong number of arguments for 'get' command\r\n"},
        {"OBJECT NOPE x", "-ERR unknown subcommand 'NOPE'. Try OBJECT HELP.\r\n"},
        {"AUTH red x", "-ERR Command not allowed inside a transaction\r\n"},
        {"HELLO 3", "-ERR Command not allowed inside a transaction\r\n"},
        {"CONSISTENCY EVENTUAL", "-ERR Command not allowed inside a transaction\r\n"},
        {"CLUSTER HELP", "-ERR Command not allowed inside a transaction\r\n"},
        {"INFO", "-ERR Command not allowed inside a transaction\r\n"},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char input[128];
        assert_reply("MULTI\r\nSET a 1\r\n", "+OK\r\n+QUEUED\r\n");
        snprintf(input, sizeof input, "%s\r\n", cases[i].input);
        assert_reply(input, cases[i].reply);
        assert_reply("SET b 1\r\n", "+QUEUED\r\n");
        assert_reply("EXEC\r\n",
                     "-EXECABORT Transaction discarded because of previous errors.\r\n");
    }
    assert_int_equal(t.n_ops, 0);
    /* The connection was not changed by what was refused. */
    feed("MULTI\r\nGET a\r\nEXEC\r\n");
    (void)args_of(0, COMMAND_READ_TRANSACTION);
    assert_true(slice_equal(nesting.project, slice_of("default")));
    assert_int_equal(t.ops[0]->level, READ_LINEARIZABLE);
}

/* What this node answers by itself, and mistakes in arguments, which Redis tells in the answer. */
static void test_replies_of_this_node_stand_in_their_places(void **state) {
    (void)state;
    feed("MULTI\r\nPING\r\nSET a 1\r\nECHO hi\r\nSET a 1 EX never\r\nSELECT 1\r\nGET a\r\n"
         "OBJECT HELP\r\nUNWATCH\r\nSCAN 5 TYPE list\r\nEXEC\r\n");
    assert_int_equal(t.n_ops, 1);
    struct reader args = args_of(0, COMMAND_TRANSACTION);
    assert_int_equal(nesting.n_args, 3);
    (void)next_number(&args);
    assert_next_kind(&args, COMMAND_SET);
    assert_next_kind(&args, COMMAND_GET);
    struct result results[] = {{.kind = RESULT_OK}, text_result(RESULT_BULK, "1")};
    complete_with(0, results, 2);
    const char *text = sent();
    assert_non_null(strstr(text, "*9\r\n+PONG\r\n+OK\r\n$2\r\nhi\r\n-ERR value is not an integer "
                                 "or out of range\r\n-ERR DB index is out of range\r\n$1\r\n1\r\n"
                                 "*"));
    assert_non_null(strstr(text, "+OK\r\n*2\r\n$1\r\n0\r\n*0\r\n"));
    /* Nothing of it needs the state machine. */
    assert_reply("MULTI\r\nPING\r\nGET \"\"\r\nEXEC\r\n",
                 "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+PONG\r\n-TOOBIG key of 0 bytes is outside "
                 "the limits of 1 to 65536 bytes\r\n");
    assert_int_equal(t.n_ops, 1);
}

static void test_reads_alone_are_a_read(void **state) {
    (void)state;
    feed("CONSISTENCY EVENTUAL MAXSTALE 500\r\n");
    feed("MULTI\r\nGET a\r\nKEYS *\r\nGETVER a\r\nSCAN 0\r\nEXEC\r\n");
    assert_false(t.ops[0]->is_write);
    assert_int_equal(t.ops[0]->level, READ_EVENTUAL);
    assert_int_equal(t.ops[0]->max_stale_ms, 500);
    (void)args_of(0, COMMAND_READ_TRANSACTION);
    assert_int_equal(nesting.n_args, 5);
    complete(0, (struct result){.kind = RESULT_NIL});
    (void)sent();
    const char *const refusal =
        "-ERR KEYS, SCAN and GETVER cannot share a transaction with writes\r\n";
    assert_reply("MULTI\r\nKEYS *\r\n", "+OK\r\n+QUEUED\r\n");
    assert_reply("SET a 1\r\n", refusal);
    assert_reply("EXEC\r\n", "-EXECABORT Transaction discarded because of previous errors.\r\n");
    assert_reply("MULTI\r\nSET a 1\r\n", "+OK\r\n+QUEUED\r\n");
    assert_reply("GETVER a\r\n", refusal);
    assert_reply("DISCARD\r\n", "+OK\r\n");
}

static void test_exec_keeps_the_order_of_reads_and_writes(void **state) {
    (void)state;
    /* A transaction that writes waits for the reads before it, as a write does. */
    feed("GET x\r\nMULTI\r\nSET a 1\r\nEXEC\r\nMULTI\r\nGET a\r\nEXEC\r\n");
    assert_int_equal(t.n_ops, 1);
    complete(0, text_result(RESULT_BULK, "x"));
    /* One that reads goes at once, and sees the writes before it. */
    assert_int_equal(t.n_ops, 3);
    assert_false(t.ops[2]->is_write);
    assert_true(t.ops[2]->after_writes);
    struct result read[] = {text_result(RESULT_BULK, "1")};
    struct result written[] = {{.kind = RESULT_OK}};
    complete_with(2, read, 1);
    complete_with(1, written, 1);
    assert_string_equal(sent(), "$1\r\nx\r\n+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n"
                                "$1\r\n1\r\n");
}

static void test_exec_says_what_became_of_it(void **state) {
    (void)state;
    feed("MULTI\r\nSET a 1\r\nPING\r\nEXEC\r\n");
    struct result uncertain = {0};
    result_set_error(&uncertain, ERROR_UNCERTAIN, "who knows");
    complete(0, uncertain);
    assert_string_equal(sent(), "+OK\r\n+QUEUED\r\n+QUEUED\r\n-UNCERTAIN who knows\r\n");
    /* An answer that does not fit what was queued. */
    feed("MULTI\r\nSET a 1\r\nPING\r\nEXEC\r\n");
    struct result results[] = {{.kind = RESULT_OK}, {.kind = RESULT_OK}};
    complete_with(1, results, 2);
    assert_string_equal(sent(), "+OK\r\n+QUEUED\r\n+QUEUED\r\n-ERR the answer does not fit the "
                                "transaction\r\n");
    feed("MULTI\r\nSET a 1\r\nEXEC\r\n");
    complete(2, (struct result){.kind = RESULT_OK});
    assert_string_equal(sent(),
                        "+OK\r\n+QUEUED\r\n-ERR the answer does not fit the transaction\r\n");
}

static void test_reset_forgets_all_of_it(void **state) {
    (void)state;
    feed("WATCH a\r\nMULTI\r\nSET a 1\r\nRESET\r\nEXEC\r\nMULTI\r\nSET a 1\r\nEXEC\r\n");
    complete_versions(0, (uint64_t[]){7}, 1);
    assert_string_equal(sent(), "+OK\r\n+OK\r\n+QUEUED\r\n+RESET\r\n-ERR EXEC without MULTI\r\n"
                                "+OK\r\n+QUEUED\r\n");
    struct reader args = args_of(1, COMMAND_TRANSACTION);
    assert_int_equal(next_number(&args), 0);
}

static void test_watched_keys_go_with_the_transaction(void **state) {
    (void)state;
    feed("CONSISTENCY EVENTUAL\r\nWATCH a b\r\n");
    struct reader args = args_of(0, COMMAND_VERSIONS);
    assert_next(&args, "a");
    assert_next(&args, "b");
    assert_int_equal(t.ops[0]->level, READ_LINEARIZABLE);
    assert_string_equal(sent(), "+OK\r\n");
    complete_versions(0, (uint64_t[]){7, 0}, 2);
    assert_string_equal(sent(), "+OK\r\n");
    /* "a" keeps the version of then. */
    feed("WATCH a c\r\n");
    args = args_of(1, COMMAND_VERSIONS);
    assert_int_equal(nesting.n_args, 1);
    complete_versions(1, (uint64_t[]){9}, 1);
    assert_reply("WATCH a\r\n", "+OK\r\n+OK\r\n");

    feed("MULTI\r\nSET a 1\r\nEXEC\r\n");
    args = args_of(2, COMMAND_TRANSACTION);
    assert_int_equal(next_number(&args), 3);
    assert_next(&args, "a");
    assert_int_equal(next_number(&args), 7);
    assert_next(&args, "b");
    assert_int_equal(next_number(&args), 0);
    assert_next(&args, "c");
    assert_int_equal(next_number(&args), 9);
    complete(2, (struct result){.kind = RESULT_NIL});
    assert_string_equal(sent(), "+OK\r\n+QUEUED\r\n*-1\r\n");
    /* EXEC unwatched. */
    feed("MULTI\r\nSET a 1\r\nEXEC\r\n");
    args = args_of(3, COMMAND_TRANSACTION);
    assert_int_equal(next_number(&args), 0);
}

static void test_reads_with_watches_are_linearizable(void **state) {
    (void)state;
    feed("HELLO 3\r\nCONSISTENCY EVENTUAL\r\nWATCH a\r\n");
    complete_versions(0, (uint64_t[]){7}, 1);
    feed("MULTI\r\nEXEC\r\n");
    struct reader args = args_of(1, COMMAND_READ_TRANSACTION);
    assert_int_equal(next_number(&args), 1);
    assert_int_equal(t.ops[1]->level, READ_LINEARIZABLE);
    (void)sent();
    complete(1, (struct result){.kind = RESULT_NIL});
    assert_string_equal(sent(), "_\r\n");
}

static void test_exec_waits_for_the_versions(void **state) {
    (void)state;
    feed("WATCH a\r\nMULTI\r\nSET a 1\r\nEXEC\r\nPING\r\n");
    assert_int_equal(t.n_ops, 1);
    assert_string_equal(sent(), "");
    complete_versions(0, (uint64_t[]){7}, 1);
    assert_int_equal(t.n_ops, 2);
    struct reader args = args_of(1, COMMAND_TRANSACTION);
    assert_int_equal(next_number(&args), 1);
    assert_next(&args, "a");
    assert_int_equal(next_number(&args), 7);
    struct result results[] = {{.kind = RESULT_OK}};
    complete_with(1, results, 1);
    assert_string_equal(sent(), "+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n+PONG\r\n");
}

/* Otherwise a value could be older than the version that is watched. */
static void test_reads_wait_for_the_versions(void **state) {
    (void)state;
    feed("CONSISTENCY EVENTUAL\r\nWATCH a\r\nGET a\r\n");
    assert_int_equal(t.n_ops, 1);
    t.ops[0]->seen_index = 77;
    complete_versions(0, (uint64_t[]){7}, 1);
    assert_int_equal(t.n_ops, 2);
    /* No stale value either, whatever the connection asks for. */
    assert_int_equal(t.ops[1]->level, READ_SESSION);
    assert_true(t.ops[1]->min_index == 77);
    complete(1, text_result(RESULT_BULK, "1"));
    feed("UNWATCH\r\nGET a\r\n");
    assert_int_equal(t.ops[2]->level, READ_EVENTUAL);
    complete(2, text_result(RESULT_BULK, "1"));
    assert_string_equal(sent(), "+OK\r\n+OK\r\n$1\r\n1\r\n+OK\r\n$1\r\n1\r\n");
}

static void test_discard_and_unwatch_forget_the_keys(void **state) {
    (void)state;
    /* They wait too: the versions must not come into a later transaction. */
    feed("WATCH a\r\nUNWATCH\r\nWATCH b\r\nMULTI\r\nDISCARD\r\nMULTI\r\nSET a 1\r\nEXEC\r\n");
    assert_int_equal(t.n_ops, 1);
    complete_versions(0, (uint64_t[]){7}, 1);
    assert_int_equal(t.n_ops, 2);
    complete_versions(1, (uint64_t[]){7}, 1);
    struct reader args = args_of(2, COMMAND_TRANSACTION);
    assert_int_equal(next_number(&args), 0);
}

static void test_a_watch_that_failed_aborts(void **state) {
    (void)state;
    feed("WATCH a\r\nMULTI\r\nSET a 1\r\nEXEC\r\n");
    struct result failed = {0};
    result_set_error(&failed, ERROR_NOLEADER, "nobody");
    complete(0, failed);
    assert_int_equal(t.n_ops, 1);
    assert_string_equal(sent(), "-NOLEADER nobody\r\n+OK\r\n+QUEUED\r\n-EXECABORT Transaction "
                                "discarded because of previous errors.\r\n");
    assert_reply("WATCH \"\"\r\n",
                 "-TOOBIG key of 0 bytes is outside the limits of 1 to 65536 bytes\r\n");
    assert_reply("MULTI\r\nEXEC\r\n", "+OK\r\n-EXECABORT Transaction discarded because of previous "
                                      "errors.\r\n");
    /* UNWATCH puts it right. */
    feed("WATCH a\r\n");
    complete(1, (struct result){.kind = RESULT_OK});
    assert_string_equal(sent(), "-ERR the leader answered no versions\r\n");
    assert_reply("UNWATCH\r\n", "+OK\r\n");
    feed("WATCH a b\r\n");
    complete_versions(2, (uint64_t[]){7}, 1);
    assert_string_equal(sent(), "-ERR the leader answered no versions\r\n");
    assert_reply("UNWATCH\r\nMULTI\r\nEXEC\r\n", "+OK\r\n+OK\r\n*0\r\n");
}

static void test_known_versions_are_watched(void **state) {
    (void)state;
    feed("MULTI\r\nWATCHVER a 7 b 0\r\nSET a 1\r\nEXEC\r\n");
    assert_int_equal(t.n_ops, 1);
    struct reader args = args_of(0, COMMAND_TRANSACTION);
    assert_int_equal(next_number(&args), 2);
    assert_next(&args, "a");
    assert_int_equal(next_number(&args), 7);
    assert_next(&args, "b");
    assert_int_equal(next_number(&args), 0);
    complete(0, (struct result){.kind = RESULT_NIL});
    assert_string_equal(sent(), "+OK\r\n+OK\r\n+QUEUED\r\n*-1\r\n");
    /* Outside of MULTI, beside WATCH. */
    feed("WATCH c\r\nWATCHVER a 9\r\nMULTI\r\nSET a 1\r\nEXEC\r\n");
    complete_versions(1, (uint64_t[]){5}, 1);
    args = args_of(2, COMMAND_TRANSACTION);
    assert_int_equal(next_number(&args), 2);
    assert_next(&args, "c");
    assert_int_equal(next_number(&args), 5);
    assert_next(&args, "a");
    assert_int_equal(next_number(&args), 9);
    complete(2, (struct result){.kind = RESULT_NIL});
    assert_string_equal(sent(), "+OK\r\n+OK\r\n+OK\r\n+QUEUED\r\n*-1\r\n");
}

static void test_a_wrong_watchver_aborts(void **state) {
    (void)state;
    const char *const cases[] = {"WATCHVER a x\r\n",     "WATCHVER a -1\r\n",
                                 "WATCHVER a\r\n",       "WATCHVER a 1 b\r\n",
                                 "WATCHVER a 1 a 1\r\n", "WATCHVER \"\" 1\r\n"};
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_reply("MULTI\r\n", "+OK\r\n");
        feed(cases[i]);
        assert_non_null(strstr(sent(), "-"));
        assert_reply("SET a 1\r\nEXEC\r\n",
                     "+QUEUED\r\n-EXECABORT Transaction discarded because of previous errors.\r\n");
    }
    assert_int_equal(t.n_ops, 0);
}

static void test_a_watch_belongs_to_a_project(void **state) {
    (void)state;
    feed("WATCH a\r\n");
    complete_versions(0, (uint64_t[]){7}, 1);
    assert_reply("AUTH red x\r\n", "+OK\r\n+OK\r\n");
    assert_reply("WATCH b\r\n", "-ERR keys of another project are watched; UNWATCH them first\r\n");
    assert_reply("UNWATCH\r\nAUTH default x\r\n", "+OK\r\n+OK\r\n");
    feed("WATCH a\r\n");
    complete_versions(1, (uint64_t[]){7}, 1);
    assert_reply("AUTH red x\r\nMULTI\r\nSET a 1\r\nEXEC\r\n",
                 "+OK\r\n+OK\r\n+OK\r\n+QUEUED\r\n-EXECABORT Transaction discarded because of: the "
                 "watched keys are of another project.\r\n");
    assert_int_equal(t.n_ops, 2);
}

#define ONCE_SESSION "000102030405060708090a0b0c0d0e0f"

static void test_exec_may_be_numbered(void **state) {
    (void)state;
    feed("WATCH a\r\n");
    complete_versions(0, (uint64_t[]){7}, 1);
    feed("MULTI\r\nSET a 1\r\nPING\r\nONCE " ONCE_SESSION " 5 DONE 3 EXEC\r\n");
    struct reader args = args_of(1, COMMAND_ONCE);
    (void)command_next_arg(&args);
    assert_int_equal(next_number(&args), 5);
    assert_int_equal(next_number(&args), 3);
    assert_next_kind(&args, COMMAND_TRANSACTION);
    struct result results[] = {{.kind = RESULT_OK}};
    complete_with(1, results, 1);
    assert_string_equal(sent(), "+OK\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n+PONG\r\n");
    feed("MULTI\r\nSET a 1\r\nONCE " ONCE_SESSION " 6 EXEC\r\n");
    complete(2, (struct result){.kind = RESULT_NIL});
    assert_string_equal(sent(), "+OK\r\n+QUEUED\r\n*-1\r\n");
    assert_reply("ONCE " ONCE_SESSION " 7 EXEC\r\n", "-ERR EXEC without MULTI\r\n");
    assert_reply("MULTI\r\nGET a\r\nONCE " ONCE_SESSION " 7 EXEC\r\n",
                 "+OK\r\n+QUEUED\r\n-EXECABORT Transaction discarded because of: ONCE is for "
                 "transactions that write.\r\n");
    assert_int_equal(t.n_ops, 3);
}

static void test_nothing_else_is_numbered_within_a_transaction(void **state) {
    (void)state;
    const char *const refusal = "-ERR between MULTI and EXEC only EXEC can stand behind ONCE\r\n";
    const struct {
        const char *input;
        const char *reply;
    } cases[] = {
        {"ONCE OPEN\r\n", "-ERR wrong number of arguments for 'once' command\r\n"},
        {"ONCE " ONCE_SESSION " 5 SET a 1\r\n", refusal},
        {"ONCE " ONCE_SESSION " 5 NOSUCH\r\n", refusal},
        {"ONCE " ONCE_SESSION " 0 EXEC\r\n", "-ERR value is not an integer or out of range\r\n"},
        {"ONCE " ONCE_SESSION " 5 EXEC now\r\n",
         "-ERR wrong number of arguments for 'exec' command\r\n"},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_reply("MULTI\r\nSET a 1\r\n", "+OK\r\n+QUEUED\r\n");
        assert_reply(cases[i].input, cases[i].reply);
        assert_reply("EXEC\r\n",
                     "-EXECABORT Transaction discarded because of previous errors.\r\n");
    }
    assert_int_equal(t.n_ops, 0);
}

static void test_watched_keys_are_bounded(void **state) {
    (void)state;
    const char *const refusal =
        "-TOOBIG a connection watches at most 1024 keys of 262144 bytes together\r\n";
    char input[64];
    for (unsigned i = 0; i < TRANSACTION_WATCHED_MAX; i++) {
        snprintf(input, sizeof input, "WATCH key-%u\r\n", i);
        feed(input);
        complete_versions(0, (uint64_t[]){7}, 1);
        t.n_ops = 0;
        assert_string_equal(sent(), "+OK\r\n");
    }
    assert_reply("WATCH key-1\r\n", "+OK\r\n");
    assert_reply("WATCH other\r\n", refusal);
    assert_reply("UNWATCH\r\n", "+OK\r\n");
    for (unsigned i = 0; i < 5; i++) {
        struct buffer key = {0};
        snprintf(input, sizeof input, "*2\r\n$5\r\nWATCH\r\n$%d\r\n", LIMIT_KEY_SIZE);
        buffer_append_slice(&key, slice_of(input));
        for (int n = 0; n < LIMIT_KEY_SIZE; n++) {
            buffer_put_u8(&key, (uint8_t)('a' + i));
        }
        buffer_append(&key, "\r\n", 2);
        feed_bytes(t.session, key.data, key.size);
        buffer_free(&key);
        if (i < 3) {
            complete_versions(0, (uint64_t[]){7}, 1);
            t.n_ops = 0;
        }
        assert_string_equal(sent(), i < 3 ? "+OK\r\n" : refusal);
    }
}

/* Feeds SET k with a value of this size. */
static void feed_set(size_t size) {
    char head[64];
    struct buffer bytes = {0};
    snprintf(head, sizeof head, "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%zu\r\n", size);
    buffer_append_slice(&bytes, slice_of(head));
    buffer_reserve(&bytes, size);
    memset(bytes.data + bytes.size, 'v', size);
    bytes.size += size;
    buffer_append(&bytes, "\r\n", 2);
    feed_bytes(t.session, bytes.data, bytes.size);
    buffer_free(&bytes);
}

static void test_bytes_are_bounded(void **state) {
    (void)state;
    assert_reply("MULTI\r\n", "+OK\r\n");
    feed_set(MAX_VALUE);
    assert_string_equal(sent(), "+QUEUED\r\n");
    feed_set(SESSION_REQUEST_SLACK);
    const char *text = sent();
    assert_memory_equal(text, "-TOOBIG transaction of 157", 26);
    assert_non_null(strstr(text, " bytes exceeds the limit of 1572864 bytes\r\n"));
    assert_true(t.host.input_bytes < MAX_VALUE);
    assert_reply("EXEC\r\n", "-EXECABORT Transaction discarded because of previous errors.\r\n");
}

static void test_an_oversized_command_aborts(void **state) {
    (void)state;
    assert_reply("MULTI\r\nSET a 1\r\n", "+OK\r\n+QUEUED\r\n");
    feed_set(MAX_VALUE + 1);
    assert_memory_equal(sent(), "-TOOBIG 1048577 bytes exceed", 28);
    assert_reply("EXEC\r\n", "-EXECABORT Transaction discarded because of previous errors.\r\n");
}

/* The queue counts as input that is held; a node that holds too much refuses. */
static void test_memory_is_bounded_over_all_connections(void **state) {
    (void)state;
    struct session *first = t.session;
    struct session *others[8];
    unsigned n = 0;
    const char *reply = "";
    for (; n < 8; n++) {
        t.session = open_session();
        others[n] = t.session;
        assert_reply("MULTI\r\n", "+OK\r\n");
        feed_set(MAX_VALUE - 64 * 1024);
        reply = sent();
        if (strcmp(reply, "+QUEUED\r\n") != 0) {
            n++;
            break;
        }
        assert_true(t.host.input_bytes >= (n + 1) * (MAX_VALUE - 64 * 1024));
    }
    assert_memory_equal(reply, "-BUSY this node holds", 21);
    assert_true(n > 2 && n < 8);
    assert_reply("EXEC\r\n", "-EXECABORT Transaction discarded because of previous errors.\r\n");
    for (unsigned i = 0; i < n; i++) {
        session_free(others[i]);
    }
    t.session = first;
}

static void test_the_number_of_words_is_bounded(void **state) {
    (void)state;
    assert_reply("MULTI\r\n", "+OK\r\n");
    for (unsigned i = 0; i < LIMIT_RESP_ARGS / 2; i++) {
        feed("GET k\r\n");
        assert_string_equal(sent(), "+QUEUED\r\n");
    }
    assert_reply("GET k\r\n", "-TOOBIG transaction of 65538 commands, arguments and watched keys "
                              "exceeds the limit of 65536\r\n");
    assert_reply("EXEC\r\n", "-EXECABORT Transaction discarded because of previous errors.\r\n");
}

static void test_walks_are_bounded(void **state) {
    (void)state;
    assert_reply("MULTI\r\n", "+OK\r\n");
    for (unsigned i = 0; i < 15; i++) {
        assert_reply(i % 2 == 0 ? "KEYS *\r\n" : "SCAN 0\r\n", "+QUEUED\r\n");
    }
    feed("KEYS *\r\n");
    assert_memory_equal(sent(), "-TOOBIG transaction of 65", 25);
    assert_reply("DISCARD\r\n", "+OK\r\n");
}

static void test_the_largest_number_of_commands_is_accepted(void **state) {
    (void)state;
    assert_reply("MULTI\r\n", "+OK\r\n");
    for (unsigned i = 0; i < LIMIT_RESP_ARGS / 2; i++) {
        feed("GET k\r\n");
        assert_string_equal(sent(), "+QUEUED\r\n");
    }
    feed("EXEC\r\n");
    (void)args_of(0, COMMAND_READ_TRANSACTION);
    assert_int_equal(nesting.n_args, 1 + LIMIT_RESP_ARGS / 2);
}

static void test_moved_is_told_where_commands_are_queued(void **state) {
    (void)state;
    assert_reply("CLUSTER REDIRECT ON\r\n", "+OK\r\n");
    feed("WATCH k\r\n");
    assert_string_equal(sent(), "-MOVED 7629 10.0.0.9:7101\r\n");
    assert_reply("UNWATCH\r\n", "+OK\r\n");
    assert_reply("MULTI\r\nPING\r\n", "+OK\r\n+QUEUED\r\n");
    assert_reply("SET k 1\r\n", "-MOVED 7629 10.0.0.9:7101\r\n");
    assert_reply("EXEC\r\n", "-EXECABORT Transaction discarded because of previous errors.\r\n");
    assert_int_equal(t.n_ops, 0);
}

static void test_a_connection_that_goes_leaves_nothing(void **state) {
    (void)state;
    feed("WATCH a\r\nMULTI\r\nSET a 1\r\n");
    session_free(t.session);
    t.session = NULL;
    complete_versions(0, (uint64_t[]){7}, 1);
}

static void test_clients_show_what_they_queue(void **state) {
    (void)state;
    struct session *queueing = t.session;
    assert_reply("MULTI\r\nSET a 1\r\nPING\r\n", "+OK\r\n+QUEUED\r\n+QUEUED\r\n");
    t.session = open_session();
    feed("CLIENT LIST\r\n");
    const char *text = sent();
    assert_non_null(strstr(text, "flags=x db=0 sub=0 psub=0 multi=2 "));
    assert_non_null(strstr(text, "flags=N db=0 sub=0 psub=0 multi=-1 "));
    session_free(t.session);
    t.session = queueing;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, session_fixture_end)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_commands_are_queued_and_submitted_as_one),
        TEST(test_replies_have_the_form_that_they_have_alone),
        TEST(test_errors_of_the_frame),
        TEST(test_what_cannot_be_queued_aborts),
        TEST(test_replies_of_this_node_stand_in_their_places),
        TEST(test_reads_alone_are_a_read),
        TEST(test_exec_keeps_the_order_of_reads_and_writes),
        TEST(test_exec_says_what_became_of_it),
        TEST(test_reset_forgets_all_of_it),
        TEST(test_watched_keys_go_with_the_transaction),
        TEST(test_reads_with_watches_are_linearizable),
        TEST(test_exec_waits_for_the_versions),
        TEST(test_reads_wait_for_the_versions),
        TEST(test_discard_and_unwatch_forget_the_keys),
        TEST(test_a_watch_that_failed_aborts),
        TEST(test_known_versions_are_watched),
        TEST(test_a_wrong_watchver_aborts),
        TEST(test_a_watch_belongs_to_a_project),
        TEST(test_exec_may_be_numbered),
        TEST(test_nothing_else_is_numbered_within_a_transaction),
        TEST(test_watched_keys_are_bounded),
        TEST(test_bytes_are_bounded),
        TEST(test_an_oversized_command_aborts),
        TEST(test_memory_is_bounded_over_all_connections),
        TEST(test_the_number_of_words_is_bounded),
        TEST(test_walks_are_bounded),
        TEST(test_the_largest_number_of_commands_is_accepted),
        TEST(test_moved_is_told_where_commands_are_queued),
        TEST(test_a_connection_that_goes_leaves_nothing),
        TEST(test_clients_show_what_they_queue),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
