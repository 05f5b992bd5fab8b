/* The checkers of single keys: what is linearizable passes, what is not fails and is shown. */
#include <time.h>

#include "tests/unit/check_fixture.h"

/* --- registers -------------------------------------------------------------------------------- */

static const char key[] = "\"k\":\"r1\"";

static void set(struct writer *w, unsigned client, double start, double end, const char *value) {
    char fields[100];
    (void)snprintf(fields, sizeof fields, "\"k\":\"r1\",\"v\":\"%s\"", value);
    writer_op(w, client, start, end, "set", fields, "");
}

static void get(struct writer *w, unsigned client, double start, double end, const char *value) {
    char result[100];
    (void)snprintf(result, sizeof result, value == NULL ? "\"v\":null" : "\"v\":\"%s\"", value);
    writer_op(w, client, start, end, "get", key, result);
}

static void test_register_good(void **state) {
    struct writer w = writer_make("register");
    (void)state;
    get(&w, 1, 0, 1, NULL);
    set(&w, 1, 2, 10, "a");
    get(&w, 2, 3, 4, NULL);  /* not yet */
    get(&w, 2, 5, 6, "a");   /* already */
    set(&w, 3, 20, -1, "b"); /* unknown: it happens at 40 */
    get(&w, 2, 30, 31, "a");
    get(&w, 2, 50, 51, "b");
    writer_op(&w, 4, 60, 61, "delete", key, "\"v\":1");
    writer_op(&w, 4, 62, 63, "delete", key, "\"v\":0");
    get(&w, 2, 64, 65, NULL);
    set(&w, 5, 66, -1, "c"); /* unknown: it never happens */
    get(&w, 2, 70, 71, NULL);
    writer_expect(&w, VERDICT_GOOD, NULL);
}

static void test_stale_read(void **state) {
    struct writer w = writer_make("register");
    (void)state;
    for (int i = 0; i < 100; i++) { /* noise that the window must not show */
        char value[20];
        (void)snprintf(value, sizeof value, "old%d", i);
        set(&w, 1, i * 10, i * 10 + 5, value);
        get(&w, 2, i * 10 + 6, i * 10 + 7, value);
    }
    set(&w, 1, 2000, 2001, "a");
    set(&w, 2, 2002, 2003, "b");
    get(&w, 3, 2004, 2005, "a");
    set(&w, 2, 2006, 2007, "c");
    assert_int_equal(writer_check(&w), VERDICT_VIOLATION);
    assert_true(writer_says(&w, "no order of 3 of its"));
    assert_true(writer_says(&w, "operation 203 "));
    assert_true(writer_says(&w, "what it would find: \"b\""));
    assert_false(writer_says(&w, "\"c\""));
    assert_false(writer_says(&w, "\"old"));
    writer_free(&w);
}

static void test_lost_update(void **state) {
    struct writer w = writer_make("register");
    (void)state;
    set(&w, 1, 0, 1, "a");
    get(&w, 2, 2, 3, NULL);
    writer_expect(&w, VERDICT_VIOLATION, "no order of 2");
}

static void test_revived_value(void **state) {
    struct writer w = writer_make("register");
    (void)state;
    set(&w, 1, 0, 1, "a");
    writer_op(&w, 1, 2, 3, "delete", key, "\"v\":1");
    get(&w, 2, 4, 5, NULL);
    get(&w, 2, 6, 7, "a");
    writer_expect(&w, VERDICT_VIOLATION, "what it would find: missing");
}

static void test_value_from_nowhere(void **state) {
    struct writer w = writer_make("register");
    (void)state;
    set(&w, 1, 0, 1, "a");
    get(&w, 2, 2, 3, "z");
    writer_expect(&w, VERDICT_VIOLATION, NULL);
}

static void test_read_before_write(void **state) {
    struct writer w = writer_make("register");
    (void)state;
    get(&w, 2, 0, 1, "a");
    set(&w, 1, 2, -1, "a");
    writer_expect(&w, VERDICT_VIOLATION, NULL);
}

static void test_failure_that_took_effect(void **state) {
    struct writer w = writer_make("register");
    (void)state;
    set(&w, 1, 0, 1, "a");
    writer_op_full(&w, 1, 2, 3, "fail", "set", "\"k\":\"r1\",\"v\":\"b\"", "\"err\":\"NOLEADER\"");
    get(&w, 2, 4, 5, "b");
    writer_expect(&w, VERDICT_VIOLATION, NULL);
}

static void test_unknown_took_effect_twice(void **state) {
    struct writer w = writer_make("register");
    (void)state;
    set(&w, 1, 0, -1, "a");
    get(&w, 2, 10, 11, "a");
    set(&w, 2, 12, 13, "b");
    get(&w, 2, 14, 15, "b");
    get(&w, 2, 16, 17, "a");
    writer_expect(&w, VERDICT_VIOLATION, NULL);
}

static void test_delete_that_found_nothing(void **state) {
    struct writer w = writer_make("register");
    (void)state;
    set(&w, 1, 0, 1, "a");
    writer_op(&w, 1, 2, 3, "delete", key, "\"v\":0");
    writer_expect(&w, VERDICT_VIOLATION, NULL);
}

static void test_order_of_concurrent_writes_is_kept(void **state) {
    struct writer w = writer_make("register");
    (void)state;
    set(&w, 1, 0, 100, "a");
    set(&w, 2, 0, 100, "b");
    get(&w, 3, 10, 20, "a");
    get(&w, 3, 30, 40, "b");
    get(&w, 3, 50, 60, "a");
    writer_expect(&w, VERDICT_VIOLATION, NULL);
}

/* kinds: 0 1 set, 2 delete, 3 4 get */
static void write_registers(struct writer *w, struct plan *plan, bool is_broken) {
    uint64_t *values = mem_zalloc(plan->n + 64, sizeof *values);
    uint64_t *older = mem_zalloc(plan->n + 64, sizeof *older);
    uint64_t *written_by = mem_zalloc(plan->n + 64, sizeof *written_by); /* ends of writes */
    size_t broken_at = plan->n / 2;
    plan_sort(plan);
    for (size_t i = 0; i < plan->n; i++) {
        const struct planned *op = &plan->ops[i];
        uint64_t *value = &values[op->key];
        char fields[80];
        char result[80] = "";
        (void)snprintf(fields, sizeof fields, "\"k\":\"k%u\"", op->key);
        if (op->kind <= 1) {
            (void)snprintf(fields, sizeof fields, "\"k\":\"k%u\",\"v\":\"v%" PRIu64 "\"", op->key,
                           op->argument);
            /* Only what ended before this one began is surely older. */
            older[op->key] = written_by[op->key] < op->start ? *value : 0;
            *value = op->point != UINT64_MAX ? op->argument : *value;
            written_by[op->key] = op->point != UINT64_MAX ? op->end : written_by[op->key];
            writer_planned(w, op, "set", fields, "");
        } else if (op->kind == 2) {
            (void)snprintf(result, sizeof result, "\"v\":%d", *value != 0);
            *value = op->point != UINT64_MAX ? 0 : *value;
            writer_planned(w, op, "delete", fields, result);
        } else {
            uint64_t found = *value;
            /* One read in the middle finds what was overwritten before it began. */
            if (is_broken && i >= broken_at && *value != 0 && older[op->key] != 0 &&
                written_by[op->key] < op->start && op->point != UINT64_MAX) {
                found = older[op->key];
                is_broken = false;
            }
            (void)snprintf(result, sizeof result,
                           found != 0 ? "\"v\":\"v%" PRIu64 "\"" : "\"v\":null", found);
            writer_planned(w, op, "get", fields, result);
        }
    }
    assert_false(is_broken);
    mem_free(values);
    mem_free(older);
    mem_free(written_by);
}

static void test_register_random(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct writer w = writer_make("register");
        struct plan plan = plan_make(seed, 2000, 20, 3, 5, 3, seed % 3 == 0 ? 0 : 30, 300);
        write_registers(&w, &plan, false);
        writer_expect(&w, VERDICT_GOOD, NULL);
        mem_free(plan.ops);
    }
}

static void test_register_random_broken(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 10; seed++) {
        struct writer w = writer_make("register");
        struct plan plan = plan_make(seed, 4000, 10, 8, 5, 3, 0, 1000000);
        write_registers(&w, &plan, true);
        writer_expect(&w, VERDICT_VIOLATION, "cannot be placed");
        mem_free(plan.ops);
    }
}

static double seconds_now(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* A million operations of 64 clients on hot keys: reading and judging takes less than a minute. */
static void test_million(void **state) {
#ifdef IKV_SANITIZED
    size_t n = 50000;
#else
    size_t n = 1000000;
#endif
    struct writer w = writer_make("register");
    struct plan plan = plan_make(7, n, 64, 8, 5, 3, 2, 500);
    (void)state;
    double begin = seconds_now();
    write_registers(&w, &plan, false);
    double read = seconds_now();
    assert_int_equal(writer_check(&w), VERDICT_GOOD);
    double end = seconds_now();
    print_message("%zu operations, %" PRIu64 " keys: read in %.1f s, checked in %.1f s, %" PRIu64
                  " steps, at most %" PRIu64 " states\n",
                  n, w.report.units, read - begin, end - read, w.report.steps,
                  w.report.peak_states);
    assert_true(end - begin < 60);
    writer_free(&w);
    mem_free(plan.ops);
}

static void test_undecided_says_so(void **state) {
    struct writer w = writer_make("register");
    (void)state;
    w.options.limits.steps = 3;
    set(&w, 1, 0, 1, "a");
    set(&w, 1, 2, 3, "b");
    set(&w, 1, 4, 5, "c");
    set(&w, 1, 6, 7, "d");
    writer_expect(&w, VERDICT_UNDECIDED, "undecided after");
}

/* --- counters --------------------------------------------------------------------------------- */

static void add(struct writer *w, unsigned client, double start, double end, int sum) {
    char result[40];
    (void)snprintf(result, sizeof result, "\"v\":%d", sum);
    writer_op(w, client, start, end, "add", "\"k\":\"n\",\"v\":1", end < 0 ? "" : result);
}

static void test_counter_good(void **state) {
    struct writer w = writer_make("counter");
    (void)state;
    writer_op(&w, 1, 0, 1, "get", "\"k\":\"n\"", "\"v\":null");
    add(&w, 1, 2, 10, 2);
    add(&w, 2, 2, 10, 1);
    add(&w, 3, 11, -1, 0); /* happens late */
    add(&w, 4, 11, -1, 0); /* never */
    writer_op(&w, 1, 20, 21, "get", "\"k\":\"n\"", "\"v\":2");
    writer_op(&w, 1, 30, 31, "get", "\"k\":\"n\"", "\"v\":3");
    add(&w, 1, 40, 41, 4);
    writer_expect(&w, VERDICT_GOOD, NULL);
}

static void test_double_increment(void **state) {
    struct writer w = writer_make("counter");
    (void)state;
    add(&w, 1, 0, 1, 1);
    add(&w, 2, 2, 3, 3);
    writer_expect(&w, VERDICT_VIOLATION, "what it would find: 1");
}

static void test_lost_increment(void **state) {
    struct writer w = writer_make("counter");
    (void)state;
    add(&w, 1, 0, 1, 1);
    add(&w, 2, 2, 3, 2);
    writer_op(&w, 1, 20, 21, "get", "\"k\":\"n\"", "\"v\":1");
    writer_expect(&w, VERDICT_VIOLATION, NULL);
}

static void test_unknown_increment_counts_once(void **state) {
    struct writer w = writer_make("counter");
    (void)state;
    add(&w, 1, 0, 1, 1);
    add(&w, 2, 2, -1, 0);
    writer_op(&w, 1, 20, 21, "get", "\"k\":\"n\"", "\"v\":3");
    writer_expect(&w, VERDICT_VIOLATION, NULL);
}

/* kinds: 0 1 2 add, 3 get */
static void write_counters(struct writer *w, struct plan *plan) {
    uint64_t *sums = mem_zalloc(plan->n + 64, sizeof *sums);
    plan_sort(plan);
    for (size_t i = 0; i < plan->n; i++) {
        const struct planned *op = &plan->ops[i];
        char fields[80];
        char result[80];
        sums[op->key] += op->kind <= 2 && op->point != UINT64_MAX ? 1 : 0;
        (void)snprintf(fields, sizeof fields, "\"k\":\"k%u\"%s", op->key,
                       op->kind <= 2 ? ",\"v\":1" : "");
        (void)snprintf(result, sizeof result, "\"v\":%" PRIu64, sums[op->key]);
        writer_planned(w, op, op->kind <= 2 ? "add" : "get", fields, result);
    }
    mem_free(sums);
}

static void test_counter_random(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct writer w = writer_make("counter");
        struct plan plan = plan_make(seed, 10000, 30, 2, 4, 3, 20, 100000);
        write_counters(&w, &plan);
        writer_expect(&w, VERDICT_GOOD, NULL);
        mem_free(plan.ops);
    }
}

/* --- compare and set -------------------------------------------------------------------------- */

static void test_cas(void **state) {
    struct writer w = writer_make("cas");
    (void)state;
    writer_op(&w, 1, 0, 1, "casver", "\"k\":\"c\",\"v\":\"a\",\"old\":null,\"ver\":0", "\"v\":1");
    writer_op(&w, 1, 2, 3, "getver", "\"k\":\"c\"", "\"v\":\"a\",\"ver\":17");
    writer_op(&w, 1, 4, 5, "cas", "\"k\":\"c\",\"v\":\"b\",\"old\":\"z\"", "\"v\":0");
    writer_op(&w, 1, 6, 7, "casver", "\"k\":\"c\",\"v\":\"b\",\"old\":\"a\",\"ver\":17", "\"v\":1");
    writer_op(&w, 2, 8, 9, "casver", "\"k\":\"c\",\"v\":\"c\",\"old\":\"a\",\"ver\":17", "\"v\":0");
    writer_op(&w, 2, 10, 11, "getver", "\"k\":\"c\"", "\"v\":\"b\",\"ver\":19");
    writer_expect(&w, VERDICT_GOOD, NULL);
}

static void test_cas_both_win(void **state) {
    struct writer w = writer_make("cas");
    (void)state;
    writer_op(&w, 1, 0, 1, "set", "\"k\":\"c\",\"v\":\"a\"", "");
    writer_op(&w, 1, 2, 10, "cas", "\"k\":\"c\",\"v\":\"b\",\"old\":\"a\"", "\"v\":1");
    writer_op(&w, 2, 2, 10, "cas", "\"k\":\"c\",\"v\":\"c\",\"old\":\"a\"", "\"v\":1");
    writer_expect(&w, VERDICT_VIOLATION, NULL);
}

static void test_cas_both_lose(void **state) {
    struct writer w = writer_make("cas");
    (void)state;
    writer_op(&w, 1, 0, 1, "set", "\"k\":\"c\",\"v\":\"a\"", "");
    writer_op(&w, 1, 2, 10, "cas", "\"k\":\"c\",\"v\":\"b\",\"old\":\"a\"", "\"v\":0");
    writer_op(&w, 2, 2, 10, "cas", "\"k\":\"c\",\"v\":\"c\",\"old\":\"a\"", "\"v\":0");
    writer_expect(&w, VERDICT_VIOLATION, NULL);
}

static void test_versions_only_grow(void **state) {
    static const char *const second[] = {"\"v\":\"b\",\"ver\":16", "\"v\":\"b\",\"ver\":17",
                                         "\"v\":\"b\",\"ver\":18"};
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct writer w = writer_make("cas");
        writer_op(&w, 1, 0, 1, "set", "\"k\":\"c\",\"v\":\"a\"", "");
        writer_op(&w, 1, 2, 3, "getver", "\"k\":\"c\"", "\"v\":\"a\",\"ver\":17");
        writer_op(&w, 1, 4, 5, "set", "\"k\":\"c\",\"v\":\"b\"", "");
        writer_op(&w, 1, 6, 7, "getver", "\"k\":\"c\"", second[i]);
        writer_expect(&w, i == 2 ? VERDICT_GOOD : VERDICT_VIOLATION, NULL);
    }
}

static void test_version_stays(void **state) {
    struct writer w = writer_make("cas");
    (void)state;
    writer_op(&w, 1, 0, 1, "set", "\"k\":\"c\",\"v\":\"a\"", "");
    writer_op(&w, 1, 2, 3, "getver", "\"k\":\"c\"", "\"v\":\"a\",\"ver\":17");
    writer_op(&w, 1, 6, 7, "getver", "\"k\":\"c\"", "\"v\":\"a\",\"ver\":18");
    writer_expect(&w, VERDICT_VIOLATION, NULL);
}

/* --- keys that expire ------------------------------------------------------------------------- */

static void set_for(struct writer *w, double start, double end, const char *value, int ttl_ms) {
    char fields[100];
    (void)snprintf(fields, sizeof fields, "\"k\":\"t\",\"v\":\"%s\",\"ttl\":%d", value, ttl_ms);
    writer_op(w, 1, start, end, "set", fields, "");
}

static void get_ttl(struct writer *w, double start, double end, const char *result) {
    writer_op(w, 2, start, end, "get", "\"k\":\"t\"", result);
}

static void test_ttl_good(void **state) {
    struct writer w = writer_make("ttl");
    (void)state;
    set_for(&w, 0, 2, "a", 1000);
    get_ttl(&w, 500, 501, "\"v\":\"a\"");
    get_ttl(&w, 990, 992, "\"v\":\"a\"");
    get_ttl(&w, 1002, 1003, "\"v\":null");
    set_for(&w, 2000, 2001, "b", 1000);
    writer_op(&w, 1, 2500, 2501, "expire", "\"k\":\"t\",\"ttl\":60000", "\"v\":1");
    get_ttl(&w, 9000, 9001, "\"v\":\"b\"");
    writer_op(&w, 1, 9500, 9501, "persist", "\"k\":\"t\"", "\"v\":1");
    writer_op(&w, 1, 9502, 9503, "persist", "\"k\":\"t\"", "\"v\":0");
    get_ttl(&w, 500000, 500001, "\"v\":\"b\"");
    writer_op(&w, 1, 500002, 500003, "delete", "\"k\":\"t\"", "\"v\":1");
    writer_op(&w, 1, 500004, 500005, "expire", "\"k\":\"t\",\"ttl\":60000", "\"v\":0");
    writer_expect(&w, VERDICT_GOOD, NULL);
}

static void test_early_expiry(void **state) {
    struct writer w = writer_make("ttl");
    (void)state;
    set_for(&w, 0, 2, "a", 1000);
    get_ttl(&w, 900, 950, "\"v\":null");
    writer_expect(&w, VERDICT_VIOLATION, "not gone before");
}

static void test_late_expiry(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct writer w = writer_make("ttl");
        set_for(&w, 0, 2, "a", 1000);
        get_ttl(&w, 7000, 7001, "\"v\":\"a\"");
        w.options.late_ms = i == 0 ? 5000 : UINT64_MAX;
        writer_expect(&w, i == 0 ? VERDICT_VIOLATION : VERDICT_GOOD, NULL);
    }
}

/* Wall clocks were wrong meanwhile: early and late are both possible, coming back is not. */
static void test_expiry_in_doubt(void **state) {
    static const struct doubt doubt = {.from = 400000000, .to = 600000000};
    (void)state;
    for (int i = 0; i < 4; i++) {
        struct writer w = writer_make("ttl");
        set_for(&w, i < 3 ? 0 : 601, i < 3 ? 2 : 602, "a", 1000);
        if (i == 0 || i == 3) {
            get_ttl(&w, 650, 651, "\"v\":null");
        } else {
            get_ttl(&w, 100000, 100001, i == 1 ? "\"v\":\"a\"" : "\"v\":null");
        }
        if (i == 2) {
            get_ttl(&w, 100002, 100003, "\"v\":\"a\"");
        }
        w.options.doubts = &doubt;
        w.options.n_doubts = 1;
        writer_expect(&w, i < 2 ? VERDICT_GOOD : VERDICT_VIOLATION, NULL);
    }
}

/* Walls may have counted meanwhile: early is possible, late is not. */
static void test_expiry_where_walls_count(void **state) {
    static const struct doubt doubt = {.from = 400000000, .to = 600000000, .early_only = true};
    static const struct {
        double set;
        double get;
        const char *found;
        enum verdict verdict;
    } cases[] = {{0, 650, "\"v\":null", VERDICT_GOOD},
                 {0, 650, "\"v\":\"a\"", VERDICT_GOOD},
                 {601, 650, "\"v\":null", VERDICT_VIOLATION},
                 {0, 100000, "\"v\":\"a\"", VERDICT_VIOLATION}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct writer w = writer_make("ttl");
        set_for(&w, cases[i].set, cases[i].set + 1, "a", 1000);
        get_ttl(&w, cases[i].get, cases[i].get + 1, cases[i].found);
        w.options.doubts = &doubt;
        w.options.n_doubts = 1;
        writer_expect(&w, cases[i].verdict, NULL);
    }
}

static void test_revived_after_expiry(void **state) {
    struct writer w = writer_make("ttl");
    (void)state;
    set_for(&w, 0, 2, "a", 1000);
    get_ttl(&w, 1100, 1101, "\"v\":null");
    get_ttl(&w, 1200, 1201, "\"v\":\"a\"");
    writer_expect(&w, VERDICT_VIOLATION, "what it would find: missing");
}

static void test_expired_although_persistent(void **state) {
    struct writer w = writer_make("ttl");
    (void)state;
    set_for(&w, 0, 2, "a", 1000);
    writer_op(&w, 1, 500, 501, "persist", "\"k\":\"t\"", "\"v\":1");
    get_ttl(&w, 2000, 2001, "\"v\":null");
    writer_expect(&w, VERDICT_VIOLATION, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_register_good),
        cmocka_unit_test(test_stale_read),
        cmocka_unit_test(test_lost_update),
        cmocka_unit_test(test_revived_value),
        cmocka_unit_test(test_value_from_nowhere),
        cmocka_unit_test(test_read_before_write),
        cmocka_unit_test(test_failure_that_took_effect),
        cmocka_unit_test(test_unknown_took_effect_twice),
        cmocka_unit_test(test_delete_that_found_nothing),
        cmocka_unit_test(test_order_of_concurrent_writes_is_kept),
        cmocka_unit_test(test_register_random),
        cmocka_unit_test(test_register_random_broken),
        cmocka_unit_test(test_million),
        cmocka_unit_test(test_undecided_says_so),
        cmocka_unit_test(test_counter_good),
        cmocka_unit_test(test_double_increment),
        cmocka_unit_test(test_lost_increment),
        cmocka_unit_test(test_unknown_increment_counts_once),
        cmocka_unit_test(test_counter_random),
        cmocka_unit_test(test_cas),
        cmocka_unit_test(test_cas_both_win),
        cmocka_unit_test(test_cas_both_lose),
        cmocka_unit_test(test_versions_only_grow),
        cmocka_unit_test(test_version_stays),
        cmocka_unit_test(test_ttl_good),
        cmocka_unit_test(test_early_expiry),
        cmocka_unit_test(test_late_expiry),
        cmocka_unit_test(test_expiry_in_doubt),
        cmocka_unit_test(test_expiry_where_walls_count),
        cmocka_unit_test(test_revived_after_expiry),
        cmocka_unit_test(test_expired_although_persistent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
