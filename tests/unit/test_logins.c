/* Budgets of failed logins, with the clock in the test's hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "node/logins.h"

enum { FAILURES = 10, COST_MS = LOGINS_WINDOW_MS / FAILURES };

static struct logins *logins;
static uint64_t now_ms;

static int setup(void **state) {
    (void)state;
    logins = logins_new(FAILURES, 0x1234);
    now_ms = 1000000;
    return 0;
}

static int teardown(void **state) {
    (void)state;
    logins_free(logins);
    return 0;
}

static uint64_t begin(const char *peer, const char *user, uint64_t token, struct login *login) {
    return logins_begin(logins, now_ms, peer, slice_of(user), token, login);
}

/* Milliseconds to wait, 0: it was let through and ended like this. */
static uint64_t try_token(const char *peer, const char *user, uint64_t token,
                          enum login_outcome outcome) {
    struct login login;
    uint64_t wait_ms = begin(peer, user, token, &login);
    if (wait_ms == 0) {
        logins_end(logins, now_ms, &login, outcome);
    }
    return wait_ms;
}

static uint64_t try(const char *peer, const char *user, enum login_outcome outcome) {
    return try_token(peer, user, 0, outcome);
}

static void use_up(const char *peer, const char *user) {
    for (unsigned i = 0; i < FAILURES; i++) {
        assert_int_equal(try(peer, user, LOGIN_WRONG), 0);
    }
    assert_int_not_equal(try(peer, user, LOGIN_WRONG), 0);
}

static void test_so_many_fail_and_no_more(void **state) {
    (void)state;
    use_up("10.0.0.1:5000", "shop");
    assert_int_equal(try("10.0.0.1:5001", "shop", LOGIN_GOOD), COST_MS);
    now_ms += COST_MS - 1;
    assert_int_equal(try("10.0.0.1:5001", "shop", LOGIN_GOOD), 1);
    now_ms += 1;
    /* What is right gets in now, and costs nothing ... */
    assert_int_equal(try("10.0.0.1:5001", "shop", LOGIN_GOOD), 0);
    assert_int_equal(try("10.0.0.1:5001", "shop", LOGIN_WRONG), 0);
    /* ... nor does it give back what wrong ones used. */
    assert_int_equal(try("10.0.0.1:5001", "shop", LOGIN_GOOD), COST_MS);
    /* To be refused unseen costs nothing. */
    for (unsigned i = 0; i < 1000; i++) {
        assert_int_equal(try("10.0.0.1:5001", "shop", LOGIN_WRONG), COST_MS);
    }
    now_ms += LOGINS_WINDOW_MS;
    use_up("10.0.0.1:5000", "shop");
    const struct logins_stats *stats = logins_stats(logins);
    assert_int_equal(stats->counts[LOGIN_PROJECT][LOGIN_GOOD], 1);
    assert_int_equal(stats->counts[LOGIN_PROJECT][LOGIN_WRONG], 2 * FAILURES + 1);
    assert_int_equal(stats->counts[LOGIN_PROJECT][LOGIN_THROTTLED], 1005);
}

static void test_others_are_left_alone(void **state) {
    (void)state;
    use_up("10.0.0.1:5000", "shop");
    assert_int_equal(try("10.0.0.2:5000", "shop", LOGIN_GOOD), 0);
    assert_int_equal(try("10.0.0.1:5000", "other", LOGIN_GOOD), 0);
    assert_int_equal(try("10.0.0.1:5000", "admin", LOGIN_GOOD), 0);
    assert_int_equal(try_token("10.0.0.1:5000", "shop", 77, LOGIN_GOOD), 0);
    use_up("10.0.0.1:5000", "admin");
    assert_int_equal(try("10.0.0.1:5000", "service", LOGIN_GOOD), 0);
    assert_int_equal(logins_stats(logins)->counts[LOGIN_ADMIN][LOGIN_THROTTLED], 1);
}

static void test_what_is_one_address(void **state) {
    (void)state;
    use_up("[2001:db8:1:2:3:4:5:6]:5000", "shop");
    assert_int_not_equal(try("[2001:db8:1:2::1]:99", "shop", LOGIN_GOOD), 0);
    assert_int_equal(try("[2001:db8:1:3::1]:99", "shop", LOGIN_GOOD), 0);
    use_up("[::ffff:10.0.0.1]:5000", "shop");
    assert_int_not_equal(try("10.0.0.1:5000", "shop", LOGIN_GOOD), 0);
    assert_int_equal(try("[::ffff:10.0.0.2]:5000", "shop", LOGIN_GOOD), 0);
    use_up("?", "shop");
    use_up("[", "shop");
    use_up("a name of sixty-four characters and more, which no address can have: 12345", "shop");
}

/* Many kinds of one address together have a budget, too. */
static void test_spraying(void **state) {
    (void)state;
    char name[32];
    unsigned wrong = 0;
    for (unsigned i = 0; i < 1000; i++) {
        snprintf(name, sizeof name, "p%u", i);
        wrong += try("10.0.0.1:1", name, LOGIN_WRONG) == 0;
    }
    assert_int_equal(wrong, FAILURES * LOGINS_PER_ADDRESS);
    assert_int_not_equal(try("10.0.0.1:1", "anything", LOGIN_GOOD), 0);
    assert_int_equal(try("10.0.0.2:1", "anything", LOGIN_GOOD), 0);
    now_ms += COST_MS / LOGINS_PER_ADDRESS;
    assert_int_equal(try("10.0.0.1:1", "anything", LOGIN_GOOD), 0);
}

/* Who behind the sprayer's address has logged in lately goes on, and is no way round either. */
static void test_spraying_does_not_lock_out_who_is_known(void **state) {
    (void)state;
    char name[32];
    assert_int_equal(try_token("10.0.0.1:1", "old", 6, LOGIN_GOOD), 0);
    now_ms += LOGINS_KNOWN_MS;
    assert_int_equal(try_token("10.0.0.1:1", "shop", 5, LOGIN_GOOD), 0);
    for (unsigned i = 0; i < 1000; i++) {
        snprintf(name, sizeof name, "p%u", i);
        (void)try("10.0.0.1:1", name, LOGIN_WRONG);
    }
    assert_int_not_equal(try_token("10.0.0.1:1", "new", 7, LOGIN_GOOD), 0);
    assert_int_not_equal(try_token("10.0.0.1:1", "old", 6, LOGIN_GOOD), 0);
    assert_int_not_equal(try_token("10.0.0.1:1", "shop", 8, LOGIN_GOOD), 0);
    assert_int_equal(try_token("10.0.0.1:1", "shop", 5, LOGIN_GOOD), 0);
    for (unsigned i = 0; i < FAILURES; i++) {
        assert_int_equal(try_token("10.0.0.1:1", "shop", 5, LOGIN_WRONG), 0);
    }
    assert_int_not_equal(try_token("10.0.0.1:1", "shop", 5, LOGIN_WRONG), 0);
}

static void test_many_at_once(void **state) {
    (void)state;
    enum { AT_ONCE = 5000 };
    static struct login under_way[AT_ONCE];
    /* A service that starts is let in, however often it logs in at once. */
    for (unsigned i = 0; i < AT_ONCE; i++) {
        assert_int_equal(begin("10.0.0.1:1", "shop", 5, &under_way[i]), 0);
    }
    for (unsigned i = 0; i < AT_ONCE; i++) {
        logins_end(logins, now_ms, &under_way[i], LOGIN_GOOD);
    }
    /* What fails at once is paid for, but not for ever. */
    for (unsigned i = 0; i < AT_ONCE; i++) {
        assert_int_equal(begin("10.0.0.1:1", "shop", 5, &under_way[i]), 0);
    }
    for (unsigned i = 0; i < AT_ONCE; i++) {
        logins_end(logins, now_ms, &under_way[i], LOGIN_WRONG);
    }
    uint64_t wait_ms = try_token("10.0.0.1:1", "shop", 5, LOGIN_GOOD);
    assert_in_range(wait_ms, LOGINS_WAIT_MAX_MS - COST_MS, LOGINS_WAIT_MAX_MS);
    now_ms += LOGINS_WAIT_MAX_MS;
    assert_int_equal(try_token("10.0.0.1:1", "shop", 5, LOGIN_GOOD), 0);
    /* While some of the budget is used, what is under way counts as if it failed ... */
    now_ms += 10 * LOGINS_WINDOW_MS;
    assert_int_equal(try_token("10.0.0.1:1", "shop", 5, LOGIN_WRONG), 0);
    unsigned n = 0;
    while (begin("10.0.0.1:1", "shop", 5, &under_way[n]) == 0) {
        n++;
    }
    assert_int_equal(n, FAILURES - 1);
    /* ... until it is known. */
    for (unsigned i = 0; i < n; i++) {
        logins_end(logins, now_ms, &under_way[i], LOGIN_UNKNOWN);
    }
    assert_int_equal(try_token("10.0.0.1:1", "shop", 5, LOGIN_GOOD), 0);
}

/* More addresses than the table has room for: those that used their budgets stay known. */
static void test_crowd_of_addresses(void **state) {
    (void)state;
    char peer[64];
    use_up("[2001:db8::1]:1", "shop");
    for (unsigned i = 0; i < 200000; i++) {
        snprintf(peer, sizeof peer, "[2001:db9:%x:%x::1]:1", i >> 16, i & 0xffff);
        assert_int_equal(try(peer, "shop", LOGIN_WRONG), 0);
    }
    assert_int_not_equal(try("[2001:db8::2]:1", "shop", LOGIN_GOOD), 0);
}

static void test_no_bound(void **state) {
    (void)state;
    logins_free(logins);
    logins = logins_new(0, 1);
    for (unsigned i = 0; i < 100000; i++) {
        assert_int_equal(try("10.0.0.1:1", "shop", LOGIN_WRONG), 0);
    }
    assert_int_equal(logins_stats(logins)->counts[LOGIN_PROJECT][LOGIN_WRONG], 100000);
    logins_free(logins);
    logins = logins_new(LOGINS_FAILURES_MAX, 1);
    for (unsigned i = 0; i < LOGINS_FAILURES_MAX; i++) {
        assert_int_equal(try("10.0.0.1:1", "shop", LOGIN_WRONG), 0);
    }
    assert_int_not_equal(try("10.0.0.1:1", "shop", LOGIN_WRONG), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_so_many_fail_and_no_more, setup, teardown),
        cmocka_unit_test_setup_teardown(test_others_are_left_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_one_address, setup, teardown),
        cmocka_unit_test_setup_teardown(test_spraying, setup, teardown),
        cmocka_unit_test_setup_teardown(test_spraying_does_not_lock_out_who_is_known, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_many_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_crowd_of_addresses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_bound, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
