/* The checkers of session reads, eventual reads and watches. */
#include "tests/unit/check_fixture.h"

static void add(struct writer *w, unsigned client, double start, double end, int sum) {
    char result[40];
    (void)snprintf(result, sizeof result, "\"v\":%d", sum);
    writer_op(w, client, start, end, "add", "\"k\":\"s0\",\"v\":1", end < 0 ? "" : result);
}

static void get(struct writer *w, unsigned client, double start, const char *fields, int sum) {
    char result[40];
    char text[120];
    (void)snprintf(result, sizeof result, "\"v\":%d", sum);
    (void)snprintf(text, sizeof text, "\"k\":\"s0\"%s%s", fields[0] != '\0' ? "," : "", fields);
    writer_op(w, client, start, start + 1, "get", text, result);
}

/* --- sessions --------------------------------------------------------------------------------- */

static void test_session_good(void **state) {
    struct writer w = writer_make("session");
    (void)state;
    add(&w, 1, 0, 1, 1);
    get(&w, 1, 2, "", 1);
    get(&w, 2, 2, "", 0); /* another session may be behind */
    add(&w, 2, 4, 5, 2);
    get(&w, 2, 6, "", 2);
    get(&w, 1, 8, "", 1);
    get(&w, 1, 10, "", 2);
    add(&w, 3, 12, -1, 0);
    get(&w, 1, 14, "", 3);
    writer_expect(&w, VERDICT_GOOD, NULL);
}

static void test_session_went_back(void **state) {
    struct writer w = writer_make("session");
    (void)state;
    add(&w, 1, 0, 1, 1);
    get(&w, 2, 2, "", 1);
    get(&w, 2, 4, "", 0);
    writer_expect(&w, VERDICT_VIOLATION, "a session found less");
}

static void test_session_misses_its_write(void **state) {
    struct writer w = writer_make("session");
    (void)state;
    add(&w, 1, 0, 1, 1);
    get(&w, 1, 2, "", 0);
    writer_expect(&w, VERDICT_VIOLATION, "a session found less");
}

static void test_session_from_nowhere(void **state) {
    struct writer w = writer_make("session");
    (void)state;
    add(&w, 1, 0, 1, 1);
    get(&w, 2, 2, "", 2);
    add(&w, 1, 5, 6, 2);
    writer_expect(&w, VERDICT_VIOLATION, "more was found than had been added");
}

static void test_session_same_sum(void **state) {
    struct writer w = writer_make("session");
    (void)state;
    add(&w, 1, 0, 1, 1);
    add(&w, 2, 2, 3, 1);
    writer_expect(&w, VERDICT_VIOLATION, "two additions have the same sum");
}

/* --- eventual --------------------------------------------------------------------------------- */

static void test_eventual_within_its_bound(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct writer w = writer_make("eventual");
        w.options.stale_ms = 100;
        add(&w, 1, 0, 1, 1);
        add(&w, 1, 100, 101, 2);
        get(&w, 2, 690, "\"stale\":500", 1);             /* 589 ms old */
        get(&w, 3, 702, "\"stale\":500", i > 0 ? 2 : 1); /* 601 ms old */
        get(&w, 4, 5000, "\"stale\":0", 0);              /* no bound */
        writer_expect(&w, i == 0 ? VERDICT_VIOLATION : VERDICT_GOOD,
                      i == 0 ? "misses what was acknowledged" : NULL);
    }
}

/* A node that was silent for 3 s, or knew that it was too old, says nothing old when it answers
 * again: a message that was held up is as old as it is. */
static void test_eventual_silence(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct writer w = writer_make("eventual");
        add(&w, 1, 100, 101, 1);
        for (int k = 0; k < 100; k++) {
            bool rests = k >= 2 && k <= 60;
            const char *fields = rests && i == 0 ? NULL : "\"stale\":500,\"node\":\"a\"";
            if (fields != NULL) {
                get(&w, 2, k * 50, fields, k > 2 ? 1 : 0);
            }
        }
        get(&w, 3, 3060, "\"stale\":500,\"node\":\"a\"", i < 2 ? 0 : 1);
        writer_expect(&w, i < 2 ? VERDICT_VIOLATION : VERDICT_GOOD, NULL);
    }
}

/* What nobody can know at once: that the leader that a replica hears was deposed. */
static void test_eventual_deposed_leader(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct writer w = writer_make("eventual");
        add(&w, 1, 100, 101, 1);
        get(&w, 2, i == 0 ? 1590 : 1610, "\"stale\":500", 0);
        writer_expect(&w, i == 0 ? VERDICT_GOOD : VERDICT_VIOLATION, NULL);
    }
}

/* --- watches ---------------------------------------------------------------------------------- */

static void write_key(struct writer *w, double start, double end, const char *key) {
    char fields[60];
    (void)snprintf(fields, sizeof fields, "\"p\":0,\"k\":\"%s\"", key);
    writer_op(w, 1, start, end, "set", fields, "");
}

static void told(struct writer *w, unsigned client, double at, const char *fields) {
    char line[200];
    (void)snprintf(line, sizeof line,
                   "{\"t\":%.0f,\"w\":\"watch\",\"c\":%u,\"e\":\"event\",\"p\":0,%s}", at * 1e6,
                   client, fields);
    writer_line(w, line);
}

static void ready(struct writer *w, unsigned client, double at, int index) {
    char fields[60];
    (void)snprintf(fields, sizeof fields, "\"op\":\"ready\",\"i\":%d", index);
    told(w, client, at, fields);
}

static void change(struct writer *w, unsigned client, double at, int index, const char *key) {
    char fields[100];
    (void)snprintf(fields, sizeof fields,
                   "\"op\":\"change\",\"i\":%d,\"k\":\"%s\",\"kind\":\"set\"", index, key);
    told(w, client, at, fields);
}

static void progress(struct writer *w, unsigned client, double at, int index) {
    char fields[60];
    (void)snprintf(fields, sizeof fields, "\"op\":\"progress\",\"i\":%d", index);
    told(w, client, at, fields);
}

/* w1 to w4, one after another, at 10, 20, 30 and 40 ms. */
static struct writer four_writes(void) {
    struct writer w = writer_make("watch");
    static const char *const keys[] = {"w1", "w2", "w3", "w4"};
    ready(&w, 7, 1, 100);
    for (int i = 0; i < 4; i++) {
        write_key(&w, 10 + 10 * i, 11 + 10 * i, keys[i]);
    }
    return w;
}

static void test_watch_good(void **state) {
    struct writer w = four_writes();
    (void)state;
    write_key(&w, 50, -1, "w5");
    write_key(&w, 52, -1, "w6");
    ready(&w, 8, 2, 100);
    for (unsigned client = 7; client <= 8; client++) {
        change(&w, client, 60, 101, "w1");
        change(&w, client, 61, 102, "w2");
        change(&w, client, 61, 102, "w3"); /* one entry */
        progress(&w, client, 62, 102);
        ready(&w, client, 63, 102); /* goes on elsewhere */
        change(&w, client, 64, 110, "w4");
        if (client == 8) { /* the other one is not that far */
            change(&w, client, 65, 111, "w6");
        }
    }
    ready(&w, 9, 30, 102); /* later than the others */
    change(&w, 9, 70, 110, "w4");
    writer_expect(&w, VERDICT_GOOD, NULL);
}

static void test_watch_gap(void **state) {
    struct writer w = four_writes();
    (void)state;
    change(&w, 7, 60, 101, "w1");
    change(&w, 7, 61, 103, "w3");
    change(&w, 7, 62, 104, "w4");
    writer_expect(&w, VERDICT_VIOLATION, "and never of the first");
}

static void test_watch_gap_that_another_did_not_have(void **state) {
    struct writer w = four_writes();
    (void)state;
    ready(&w, 8, 2, 100);
    change(&w, 7, 60, 101, "w1");
    change(&w, 7, 61, 103, "w3");
    progress(&w, 7, 62, 103);
    change(&w, 8, 60, 101, "w1");
    change(&w, 8, 61, 102, "w2");
    change(&w, 8, 61, 103, "w3");
    progress(&w, 8, 62, 103);
    writer_expect(&w, VERDICT_VIOLATION, NULL);
}

static void test_watch_gap_that_was_told(void **state) {
    struct writer w = four_writes();
    (void)state;
    change(&w, 7, 60, 101, "w1");
    told(&w, 7, 61, "\"op\":\"gap\"");
    ready(&w, 7, 62, 103);
    change(&w, 7, 63, 104, "w4");
    writer_expect(&w, VERDICT_GOOD, "told by no watch");
}

static void test_watch_duplicate(void **state) {
    struct writer w = four_writes();
    (void)state;
    change(&w, 7, 60, 101, "w1");
    change(&w, 7, 61, 101, "w1");
    writer_expect(&w, VERDICT_VIOLATION, "the same change twice");
}

static void test_watch_reordered(void **state) {
    struct writer w = four_writes();
    (void)state;
    change(&w, 7, 60, 101, "w1");
    change(&w, 7, 61, 103, "w3");
    change(&w, 7, 62, 102, "w2");
    writer_expect(&w, VERDICT_VIOLATION, "a change came behind a later one");
}

static void test_watch_order_against_time(void **state) {
    struct writer w = four_writes();
    (void)state;
    change(&w, 7, 60, 101, "w2");
    change(&w, 7, 61, 102, "w1");
    writer_expect(&w, VERDICT_VIOLATION, "was told before it");
}

static void test_watch_behind_progress(void **state) {
    struct writer w = four_writes();
    (void)state;
    progress(&w, 7, 60, 105);
    change(&w, 7, 61, 104, "w1");
    writer_expect(&w, VERDICT_VIOLATION, "word that all was told");
}

static void test_watch_of_what_failed(void **state) {
    struct writer w = four_writes();
    (void)state;
    writer_op_full(&w, 1, 50, 51, "fail", "set", "\"p\":0,\"k\":\"w9\"", "\"err\":\"NOLEADER\"");
    change(&w, 7, 60, 101, "w9");
    writer_expect(&w, VERDICT_VIOLATION, "a write that failed");
}

/* The last key of all: a watch that was there before must tell of it. */
static void test_watch_that_is_stuck(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) {
        struct writer w = four_writes();
        if (i == 3) { /* it began only then */
            told(&w, 7, 45, "\"op\":\"gap\"");
            ready(&w, 7, 60, 104);
        }
        writer_op(&w, 1, 50, i == 1 ? -1 : 51, "set", "\"p\":0,\"k\":\"wend\"", "");
        if (i == 2) {
            change(&w, 7, 60, 101, "w1");
            change(&w, 7, 60, 102, "w2");
            change(&w, 7, 60, 103, "w3");
            change(&w, 7, 60, 104, "w4");
            change(&w, 7, 60, 105, "wend");
        }
        writer_expect(&w, i == 0 ? VERDICT_VIOLATION : VERDICT_GOOD,
                      i == 0 ? "never told of the last write" : NULL);
    }
}

static void test_watch_of_what_nobody_wrote(void **state) {
    struct writer w = four_writes();
    (void)state;
    change(&w, 7, 60, 101, "w77");
    writer_expect(&w, VERDICT_VIOLATION, "nobody wrote");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_session_good),
        cmocka_unit_test(test_session_went_back),
        cmocka_unit_test(test_session_misses_its_write),
        cmocka_unit_test(test_session_from_nowhere),
        cmocka_unit_test(test_session_same_sum),
        cmocka_unit_test(test_eventual_within_its_bound),
        cmocka_unit_test(test_eventual_silence),
        cmocka_unit_test(test_eventual_deposed_leader),
        cmocka_unit_test(test_watch_good),
        cmocka_unit_test(test_watch_gap),
        cmocka_unit_test(test_watch_gap_that_another_did_not_have),
        cmocka_unit_test(test_watch_gap_that_was_told),
        cmocka_unit_test(test_watch_duplicate),
        cmocka_unit_test(test_watch_reordered),
        cmocka_unit_test(test_watch_order_against_time),
        cmocka_unit_test(test_watch_behind_progress),
        cmocka_unit_test(test_watch_of_what_failed),
        cmocka_unit_test(test_watch_that_is_stuck),
        cmocka_unit_test(test_watch_of_what_nobody_wrote),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
