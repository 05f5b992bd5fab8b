/* How a session counts its commands, and what it tells of slow ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "node/requests.h"
#include "node/resp_commands.h"
#include "tests/unit/session_fixture.h"

enum { SLOW_US = 1000000 };

static struct {
    struct requests requests;
    uint64_t now_us;
    unsigned n_slow;
    char slow[128]; /* the newest, as text */
} extra;

static uint64_t fake_now_us(void *data) {
    (void)data;
    return extra.now_us;
}

static uint64_t fake_now_ms(void *data) {
    return fake_now_us(data) / 1000;
}

static void fake_slow(void *data, const struct session_slow *slow) {
    (void)data;
    extra.n_slow++;
    snprintf(extra.slow, sizeof extra.slow, "%s %.*s %llu %d", slow->command,
             (int)slow->project.size, (const char *)slow->project.data,
             (unsigned long long)slow->duration_us, slow->failed);
}

static int setup(void **state) {
    (void)state;
    memset(&extra, 0, sizeof extra);
    extra.now_us = 5000000;
    struct session_limits limits = session_fixture_limits(16);
    limits.slow_us = SLOW_US;
    session_fixture_begin(
        limits,
        (struct session_port){.now_ms = fake_now_ms, .now_us = fake_now_us, .on_slow = fake_slow});
    requests_init(&extra.requests);
    t.host.requests = &extra.requests;
    return 0;
}

static uint64_t count_of(const char *command, const char *result) {
    for (unsigned i = 0; i < extra.requests.n_verbs; i++) {
        if (strcmp(extra.requests.names[i], command) == 0) {
            return extra.requests.verbs[i].results[requests_result(slice_of(result))];
        }
    }
    fail_msg("no command %s", command);
    return 0;
}

static uint64_t sum_of(const char *command) {
    unsigned number = requests_number(&extra.requests, verb_find(slice_of(command)), NULL);
    return extra.requests.verbs[number].duration.sum_us;
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
    extra.now_us += 700;
    complete_ok(0);
    extra.now_us += 100;
    complete_error(1, ERROR_NOLEADER, "no");
    assert_int_equal(count_of("set", "OK"), 1);
    assert_int_equal(count_of("set", "NOLEADER"), 1);
    assert_int_equal(sum_of("set"), 700 + 800);
    assert_int_equal(extra.n_slow, 0);
}

/* The write waits behind the read: that is part of its time. */
static void test_waiting_counts(void **state) {
    (void)state;
    feed("GET a\r\nSET a b\r\n");
    assert_int_equal(t.n_ops, 1);
    extra.now_us += 400;
    complete_ok(0);
    assert_true(session_needs_resume(t.session));
    session_resume(t.session);
    assert_int_equal(t.n_ops, 2);
    extra.now_us += 50;
    complete_ok(1);
    assert_int_equal(sum_of("get"), 400);
    assert_int_equal(sum_of("set"), 450);
}

static void test_operations_outlive_their_connection(void **state) {
    (void)state;
    feed("SET a b\r\n");
    session_free(t.session);
    t.session = NULL;
    extra.now_us += 10;
    complete_error(0, ERROR_UNCERTAIN, "no");
    assert_int_equal(count_of("set", "UNCERTAIN"), 1);
}

static void test_exec_is_one_request(void **state) {
    (void)state;
    feed("MULTI\r\nSET a b\r\nEXEC\r\n");
    assert_int_equal(count_of("multi", "OK"), 1);
    assert_int_equal(count_of("set", "OK"), 1);
    assert_int_equal(count_of("exec", "OK"), 0);
    extra.now_us += 30;
    complete_error(0, ERROR_BUSY, "no");
    assert_int_equal(count_of("exec", "BUSY"), 1);
    assert_int_equal(sum_of("exec"), 30);
}

static void test_slow_ones_are_told(void **state) {
    (void)state;
    feed("AUTH tenant x\r\nSET a b\r\nSET a b\r\n");
    extra.now_us += SLOW_US - 1;
    complete_ok(0);
    assert_int_equal(extra.n_slow, 0);
    extra.now_us += 1;
    complete_error(1, ERROR_NOLEADER, "no");
    assert_int_equal(extra.n_slow, 1);
    assert_int_equal(extra.requests.slow, 1);
    assert_string_equal(extra.slow, "set tenant 1000000 1");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_local_commands, setup, session_fixture_end),
        cmocka_unit_test_setup_teardown(test_operations_take_from_receipt_to_reply, setup,
                                        session_fixture_end),
        cmocka_unit_test_setup_teardown(test_waiting_counts, setup, session_fixture_end),
        cmocka_unit_test_setup_teardown(test_operations_outlive_their_connection, setup,
                                        session_fixture_end),
        cmocka_unit_test_setup_teardown(test_exec_is_one_request, setup, session_fixture_end),
        cmocka_unit_test_setup_teardown(test_slow_ones_are_told, setup, session_fixture_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
