/* The checkers of whole projects: clear, quotas, banks. */
#include "tests/unit/check_fixture.h"

/* --- clear ------------------------------------------------------------------------------------ */

static void c_set(struct writer *w, unsigned client, double start, double end, const char *key,
                  const char *value) {
    char fields[100];
    (void)snprintf(fields, sizeof fields, "\"p\":1,\"k\":\"%s\",\"v\":\"%s\"", key, value);
    writer_op(w, client, start, end, "set", fields, "");
}

static void c_get(struct writer *w, unsigned client, double start, double end, const char *key,
                  const char *result) {
    char fields[100];
    (void)snprintf(fields, sizeof fields, "\"p\":1,\"k\":\"%s\"", key);
    writer_op(w, client, start, end, "get", fields, result);
}

static void c_clear(struct writer *w, unsigned client, double start, double end) {
    writer_op(w, client, start, end, "clear", "\"p\":1", "");
}

static void c_count(struct writer *w, double start, const char *result) {
    writer_op(w, 9, start, start + 1, "count", "\"p\":1", result);
}

static void test_clear_good(void **state) {
    struct writer w = writer_make("clear");
    (void)state;
    c_set(&w, 1, 0, 1, "k0", "a");
    c_set(&w, 1, 2, 3, "k1", "b");
    c_count(&w, 4, "\"v\":2");
    c_clear(&w, 2, 10, 20);
    c_set(&w, 1, 10, 20, "k0", "c"); /* before or behind it */
    c_get(&w, 3, 12, 13, "k1", "\"v\":null");
    c_get(&w, 3, 14, 15, "k0", "\"v\":\"c\"");
    c_count(&w, 30, "\"v\":1");
    c_clear(&w, 2, 40, -1); /* much later */
    c_count(&w, 50, "\"v\":1");
    c_count(&w, 60, "\"v\":0");
    writer_expect(&w, VERDICT_GOOD, NULL);
}

static void test_clear_forgot_a_key(void **state) {
    struct writer w = writer_make("clear");
    (void)state;
    c_set(&w, 1, 0, 1, "k0", "a");
    c_set(&w, 1, 2, 3, "k1", "b");
    c_clear(&w, 2, 4, 5);
    c_get(&w, 1, 6, 7, "k0", "\"v\":null");
    c_get(&w, 1, 8, 9, "k1", "\"v\":\"b\"");
    writer_expect(&w, VERDICT_VIOLATION, "what it would find: no key at all");
}

/* Each key on its own could be explained; both together cannot: half of a clear was seen. */
static void test_clear_is_one_step(void **state) {
    struct writer w = writer_make("clear");
    (void)state;
    c_set(&w, 1, 0, 1, "k0", "a");
    c_set(&w, 1, 2, 3, "k1", "b");
    c_clear(&w, 2, 10, 40);
    c_get(&w, 3, 12, 13, "k0", "\"v\":null");
    c_get(&w, 3, 14, 15, "k1", "\"v\":\"b\"");
    c_get(&w, 3, 42, 43, "k1", "\"v\":null");
    writer_expect(&w, VERDICT_VIOLATION, NULL);
}

static void test_clear_took_a_later_set(void **state) {
    struct writer w = writer_make("clear");
    (void)state;
    c_clear(&w, 2, 0, 1);
    c_set(&w, 1, 2, 3, "k0", "a");
    c_get(&w, 3, 4, 5, "k0", "\"v\":null");
    writer_expect(&w, VERDICT_VIOLATION, NULL);
}

static void test_clear_count(void **state) {
    struct writer w = writer_make("clear");
    (void)state;
    c_set(&w, 1, 2, 3, "k0", "a");
    c_count(&w, 4, "\"v\":2");
    writer_expect(&w, VERDICT_VIOLATION, NULL);
}

/* kinds: 0 1 2 set, 3 clear, 4 5 get, 6 count; "keys" of the plan are projects. */
static void write_clears(struct writer *w, struct plan *plan) {
    enum { KEYS = 4 };
    uint64_t(*values)[KEYS] = mem_zalloc(plan->n + 64, sizeof *values);
    plan_sort(plan);
    for (size_t i = 0; i < plan->n; i++) {
        const struct planned *op = &plan->ops[i];
        unsigned key = (unsigned)(op->argument * 7919 >> 3) % KEYS;
        uint64_t *cells = values[op->key];
        bool happens = op->point != UINT64_MAX;
        char fields[80];
        char result[80] = "";
        (void)snprintf(fields, sizeof fields, "\"p\":%u,\"k\":\"k%u\"", op->key, key);
        if (op->kind <= 2) {
            (void)snprintf(fields, sizeof fields, "\"p\":%u,\"k\":\"k%u\",\"v\":\"v%" PRIu64 "\"",
                           op->key, key, op->argument);
            cells[key] = happens ? op->argument : cells[key];
            writer_planned(w, op, "set", fields, "");
        } else if (op->kind == 3) {
            (void)snprintf(fields, sizeof fields, "\"p\":%u", op->key);
            memset(cells, 0, happens ? sizeof *values : 0);
            writer_planned(w, op, "clear", fields, "");
        } else if (op->kind <= 5) {
            (void)snprintf(result, sizeof result,
                           cells[key] != 0 ? "\"v\":\"v%" PRIu64 "\"" : "\"v\":null", cells[key]);
            writer_planned(w, op, "get", fields, result);
        } else {
            int n = 0;
            for (unsigned k = 0; k < KEYS; k++) {
                n += cells[k] != 0 ? 1 : 0;
            }
            (void)snprintf(fields, sizeof fields, "\"p\":%u", op->key);
            (void)snprintf(result, sizeof result, "\"v\":%d", n);
            writer_planned(w, op, "count", fields, result);
        }
    }
    mem_free(values);
}

static void test_clear_random(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct writer w = writer_make("clear");
        struct plan plan = plan_make(seed, 3000, 10, 2, 7, 4, 15, 300);
        write_clears(&w, &plan);
        writer_expect(&w, VERDICT_GOOD, NULL);
        mem_free(plan.ops);
    }
}

/* --- quota: 100 bytes; keys have two -----------------------------------------------------------
 */

static void q_open(struct writer *w) {
    writer_op(w, 1, 0, 1, "open", "\"p\":1,\"v\":100", "");
}

static void q_set(struct writer *w, double start, const char *key, int size, bool is_refused) {
    char fields[100];
    (void)snprintf(fields, sizeof fields, "\"p\":1,\"k\":\"%s\",\"v\":%d", key, size);
    writer_op_full(w, 1, start, start + 1, is_refused ? "fail" : "ok", "set", fields,
                   is_refused ? "\"err\":\"QUOTA project x: 1 of 1 bytes\"" : "");
}

static void q_info(struct writer *w, double start, int keys, int used) {
    char result[60];
    (void)snprintf(result, sizeof result, "\"v\":[%d,%d,100]", keys, used);
    writer_op(w, 2, start, start + 1, "info", "\"p\":1", result);
}

static void test_quota_good(void **state) {
    struct writer w = writer_make("quota");
    (void)state;
    q_open(&w);
    q_set(&w, 2, "k0", 48, false);
    q_set(&w, 4, "k1", 48, false);
    q_info(&w, 6, 2, 100);
    q_set(&w, 8, "k2", 1, true);
    q_set(&w, 10, "k1", 49, true);
    q_set(&w, 12, "k1", 48, false);
    q_set(&w, 14, "k1", 47, false);
    writer_op(&w, 1, 16, 17, "delete", "\"p\":1,\"k\":\"k0\"", "\"v\":1");
    q_info(&w, 18, 1, 49);
    q_set(&w, 20, "k2", 49, false);
    q_info(&w, 22, 2, 100);
    writer_expect(&w, VERDICT_GOOD, NULL);
}

static void test_quota_exceeded(void **state) {
    struct writer w = writer_make("quota");
    (void)state;
    q_open(&w);
    q_set(&w, 2, "k0", 98, false);
    q_set(&w, 4, "k1", 1, false);
    writer_expect(&w, VERDICT_VIOLATION, "100 of 100 bytes");
}

static void test_quota_used_beyond(void **state) {
    struct writer w = writer_make("quota");
    (void)state;
    q_open(&w);
    q_set(&w, 2, "k0", 98, false);
    q_info(&w, 4, 1, 101);
    writer_expect(&w, VERDICT_VIOLATION, "more is used than the quota allows");
}

static void test_quota_refused_without_reason(void **state) {
    struct writer w = writer_make("quota");
    (void)state;
    q_open(&w);
    q_set(&w, 2, "k0", 48, false);
    q_set(&w, 4, "k1", 48, true);
    writer_expect(&w, VERDICT_VIOLATION, NULL);
}

static void test_quota_miscounted(void **state) {
    struct writer w = writer_make("quota");
    (void)state;
    q_open(&w);
    q_set(&w, 2, "k0", 48, false);
    q_set(&w, 4, "k0", 40, false);
    q_info(&w, 6, 1, 50);
    writer_expect(&w, VERDICT_VIOLATION, "42 of 100 bytes");
}

/* A refusal that is no answer of the quota's says nothing. */
static void test_quota_other_failures(void **state) {
    struct writer w = writer_make("quota");
    (void)state;
    q_open(&w);
    writer_op_full(&w, 1, 2, 3, "fail", "set", "\"p\":1,\"k\":\"k0\",\"v\":1", "\"err\":\"BUSY\"");
    q_info(&w, 6, 0, 0);
    writer_expect(&w, VERDICT_GOOD, NULL);
}

/* --- bank ------------------------------------------------------------------------------------- */

static void b_open(struct writer *w) {
    writer_op(w, 1, 0, 1, "open", "\"p\":1,\"v\":[100,100,100]", "");
}

static void b_transfer(struct writer *w, double start, double end, const char *fields,
                       const char *result) {
    char text[120];
    (void)snprintf(text, sizeof text, "\"p\":1,%s", fields);
    writer_op(w, 1, start, end, "transfer", text, result);
}

static void b_read(struct writer *w, const char *op, double start, const char *result) {
    writer_op(w, 2, start, start + 1, op, "\"p\":1", result);
}

static void test_bank_good(void **state) {
    struct writer w = writer_make("bank");
    (void)state;
    b_open(&w);
    b_read(&w, "peek", 2, "\"v\":null");
    b_transfer(&w, 4, 5, "\"k\":\"a0\",\"to\":\"a1\",\"amount\":30", "\"v\":[70,130]");
    b_read(&w, "peek", 6, "\"v\":[100,100,100]");
    b_read(&w, "read", 8, "\"v\":[70,130,100]");
    b_transfer(&w, 10, -1, "\"k\":\"a0\",\"to\":\"a2\",\"amount\":5", "");
    b_read(&w, "read", 20, "\"v\":[70,130,100]");
    b_read(&w, "read", 22, "\"v\":[65,130,105]");
    b_transfer(&w, 24, 25, "\"k\":\"a0\",\"to\":\"a1\",\"amount\":5,\"v\":[60,135]", "");
    b_read(&w, "read", 26, "\"v\":[60,135,105]");
    writer_expect(&w, VERDICT_GOOD, NULL);
}

static void test_bank_broken_total(void **state) {
    static const char *const ops[] = {"read", "peek"};
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct writer w = writer_make("bank");
        b_open(&w);
        b_transfer(&w, 4, 5, "\"k\":\"a0\",\"to\":\"a1\",\"amount\":30", "\"v\":[70,130]");
        b_read(&w, ops[i], 6, "\"v\":[70,100,100]");
        writer_expect(&w, VERDICT_VIOLATION, "the total is 270 and must be 300");
    }
}

static void test_bank_lost_update(void **state) {
    struct writer w = writer_make("bank");
    (void)state;
    b_open(&w);
    b_transfer(&w, 4, 5, "\"k\":\"a0\",\"to\":\"a1\",\"amount\":30,\"v\":[70,130]", "");
    b_transfer(&w, 6, 7, "\"k\":\"a0\",\"to\":\"a1\",\"amount\":10,\"v\":[90,110]", "");
    writer_expect(&w, VERDICT_VIOLATION, "70 130 100");
}

static void test_bank_stale_read(void **state) {
    struct writer w = writer_make("bank");
    (void)state;
    b_open(&w);
    b_transfer(&w, 4, 5, "\"k\":\"a0\",\"to\":\"a1\",\"amount\":30", "\"v\":[70,130]");
    b_read(&w, "read", 6, "\"v\":[100,100,100]");
    writer_expect(&w, VERDICT_VIOLATION, NULL);
}

static void test_bank_transfer_twice(void **state) {
    struct writer w = writer_make("bank");
    (void)state;
    b_open(&w);
    b_transfer(&w, 4, -1, "\"k\":\"a0\",\"to\":\"a1\",\"amount\":30", "");
    b_read(&w, "read", 6, "\"v\":[40,160,100]");
    writer_expect(&w, VERDICT_VIOLATION, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clear_good),
        cmocka_unit_test(test_clear_forgot_a_key),
        cmocka_unit_test(test_clear_is_one_step),
        cmocka_unit_test(test_clear_took_a_later_set),
        cmocka_unit_test(test_clear_count),
        cmocka_unit_test(test_clear_random),
        cmocka_unit_test(test_quota_good),
        cmocka_unit_test(test_quota_exceeded),
        cmocka_unit_test(test_quota_used_beyond),
        cmocka_unit_test(test_quota_refused_without_reason),
        cmocka_unit_test(test_quota_miscounted),
        cmocka_unit_test(test_quota_other_failures),
        cmocka_unit_test(test_bank_good),
        cmocka_unit_test(test_bank_broken_total),
        cmocka_unit_test(test_bank_lost_update),
        cmocka_unit_test(test_bank_stale_read),
        cmocka_unit_test(test_bank_transfer_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
