/* How a session counts its commands, and what it tells of slow ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "node/op.h"
#include "node/requests.h"
#include "node/resp_commands.h"
#include "node/session.h"

enum { SHARDS = 4, SLOW_US = 1000000 };

static struct {
    struct session_host host;
    struct requests requests;
    struct session *session;
    uint64_t now_us;
    struct op *ops[8];
    unsigned n_ops;
    unsigned n_slow;
    char slow[128]; /* the newest, as text */
} t;

static uint64_t fake_now_us(void *data) {
    (void)data;
    return t.now_us;
}

static uint64_t fake_now_ms(void *data) {
    return fake_now_us(data) / 1000;
}

static void fake_submit(void *data, struct op *op) {
    (void)data;
    assert_true(t.n_ops < sizeof t.ops / sizeof t.ops[0]);
    t.ops[t.n_ops++] = op;
}

static void fake_slow(void *data, const struct session_slow *slow) {
    (void)data;
    t.n_slow++;
    snprintf(t.slow, sizeof t.slow, "%s %.*s %llu %d", slow->command, (int)slow->project.size,
             (const char *)slow->project.data, (unsigned long long)slow->duration_us, slow->failed);
}

static void on_wake(void *data) {
    (void)data;
}

static int setup(void **state) {
    (void)state;
    memset(&t, 0, sizeof t);
    t.now_us = 5000000;
    const struct session_limits limits = {.n_shards = SHARDS,
                                          .max_value = 1 << 20,
                                          .max_pipeline = 16,
                                          .max_output = 256 * 1024,
                                          .max_input = 4 << 20,
                                          .slow_us = SLOW_US};
    const struct session_port port = {
        .submit = fake_submit, .now_ms = fake_now_ms, .now_us = fake_now_us, .on_slow = fake_slow};
    session_host_init(&t.host, &limits, &port);
    requests_init(&t.requests);
    t.host.requests = &t.requests;
    t.session = session_new(&t.host, "127.0.0.1:5000", "127.0.0.1:7102", on_wake, NULL);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    if (t.session != NULL) {
        session_free(t.session);
    }
    return t.host.n_slots == 0 ? 0 : -1;
}

static void feed(const char *text) {
    uint8_t *data;
    size_t space;
    session_input_space(t.session, &data, &space);
    assert_true(space >= strlen(text));
    memcpy(data, text, strlen(text));
    session_input_filled(t.session, strlen(text));
}

static void complete(unsigned i, enum error_code code) {
    struct result result = {.kind = RESULT_OK};
    if (code != ERROR_NONE) {
        result_set_error(&result, code, "no");
    }
    t.ops[i]->done(t.ops[i], &result);
    result_free(&result);
}

static uint64_t count_of(const char *command, const char *result) {
    for (unsigned i = 0; i < t.requests.n_verbs; i++) {
        if (strcmp(t.requests.names[i], command) == 0) {
            return t.requests.verbs[i].results[requests_result(slice_of(result))];
        }
    }
    fail_msg("no command %s", command);
    return 0;
}

static uint64_t sum_of(const char *command) {
    unsigned number = requests_number(&t.requests, verb_find(slice_of(command)), NULL);
    return t.requests.verbs[number].duration.sum_us;
}

static void test_local_commands(void **state) {
    (void)state;
    feed("PING\r\nPING a b c\r\nNOSUCH\r\nCLIENT ID\r\nCLIENT NOSUCH\r\n");
    assert_int_equal(count_of("ping", "OK"), 1);
    assert_int_equal(count_of("ping", "ERR"), 1);
    assert_int_equal(count_of("unknown", "ERR"), 1);
    assert_int_equal(count_of("client|id", "OK"), 1);
    assert_int_equal(count_of("client", "ERR"), 1);
}

static void test_operations_take_from_receipt_to_reply(void **state) {
    (void)state;
    feed("SET a b\r\nSET c d\r\n");
    assert_int_equal(count_of("set", "OK"), 0);
    t.now_us += 700;
    complete(0, ERROR_NONE);
    t.now_us += 100;
    complete(1, ERROR_NOLEADER);
    assert_int_equal(count_of("set", "OK"), 1);
    assert_int_equal(count_of("set", "NOLEADER"), 1);
    assert_int_equal(sum_of("set"), 700 + 800);
    assert_int_equal(t.n_slow, 0);
}

/* The write waits behind the read: that is part of its time. */
static void test_waiting_counts(void **state) {
    (void)state;
    feed("GET a\r\nSET a b\r\n");
    assert_int_equal(t.n_ops, 1);
    t.now_us += 400;
    complete(0, ERROR_NONE);
    assert_true(session_needs_resume(t.session));
    session_resume(t.session);
    assert_int_equal(t.n_ops, 2);
    t.now_us += 50;
    complete(1, ERROR_NONE);
    assert_int_equal(sum_of("get"), 400);
    assert_int_equal(sum_of("set"), 450);
}

static void test_operations_outlive_their_connection(void **state) {
    (void)state;
    feed("SET a b\r\n");
    session_free(t.session);
    t.session = NULL;
    t.now_us += 10;
    complete(0, ERROR_UNCERTAIN);
    assert_int_equal(count_of("set", "UNCERTAIN"), 1);
}

static void test_exec_is_one_request(void **state) {
    (void)state;
    feed("MULTI\r\nSET a b\r\nEXEC\r\n");
    assert_int_equal(count_of("multi", "OK"), 1);
    assert_int_equal(count_of("set", "OK"), 1);
    assert_int_equal(count_of("exec", "OK"), 0);
    t.now_us += 30;
    complete(0, ERROR_BUSY);
    assert_int_equal(count_of("exec", "BUSY"), 1);
    assert_int_equal(sum_of("exec"), 30);
}

static void test_slow_ones_are_told(void **state) {
    (void)state;
    feed("AUTH tenant x\r\nSET a b\r\nSET a b\r\n");
    t.now_us += SLOW_US - 1;
    complete(0, ERROR_NONE);
    assert_int_equal(t.n_slow, 0);
    t.now_us += 1;
    complete(1, ERROR_NOLEADER);
    assert_int_equal(t.n_slow, 1);
    assert_int_equal(t.requests.slow, 1);
    assert_string_equal(t.slow, "set tenant 1000000 1");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_local_commands, setup, teardown),
        cmocka_unit_test_setup_teardown(test_operations_take_from_receipt_to_reply, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_waiting_counts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_operations_outlive_their_connection, setup, teardown),
        cmocka_unit_test_setup_teardown(test_exec_is_one_request, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slow_ones_are_told, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
