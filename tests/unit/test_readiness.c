#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "node/readiness.h"

static void expect_text(const struct readiness *readiness, const char *text) {
    struct buffer out = {0};
    readiness_write_text(readiness, &out);
    buffer_put_u8(&out, '\0');
    assert_string_equal((const char *)out.data, text);
    buffer_free(&out);
}

static void expect_json(const struct readiness *readiness, const char *text) {
    struct buffer out = {0};
    readiness_write_json(readiness, &out);
    buffer_put_u8(&out, '\0');
    assert_string_equal((const char *)out.data, text);
    buffer_free(&out);
}

static void test_ready(void **state) {
    (void)state;
    struct readiness readiness = {.n_shards = 2};
    assert_true(readiness_is_ready(&readiness));
    expect_text(&readiness, "ok\n");
    expect_json(&readiness, "{\"ready\": true, \"reasons\": [], \"shards\": [{\"shard\": 0, "
                            "\"ready\": true}, {\"shard\": 1, \"ready\": true}]}\n");
}

static void test_every_reason_counts(void **state) {
    (void)state;
    struct readiness cases[] = {
        {.starting = true},
        {.draining = true},
        {.joining = true},
        {.disk_low = true},
        {.replicas_differ = true},
        {.n_shards = 1, .shards = {SHARD_NO_LEADER}},
        {.n_shards = 1, .shards = {SHARD_INSTALLING}},
        {.n_shards = 1, .shards = {SHARD_BEHIND}},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_false(readiness_is_ready(&cases[i]));
    }
}

static void test_reasons_in_words(void **state) {
    (void)state;
    struct readiness readiness = {
        .draining = true,
        .disk_low = true,
        .disk_free_bytes = 77,
        .n_shards = 4,
        .shards = {SHARD_NO_LEADER, SHARD_FINE, SHARD_BEHIND, SHARD_INSTALLING},
        .stale_ms = {0, 0, 12999, 0}};
    expect_text(&readiness, "draining: this node stops\n"
                            "disk nearly full: 77 bytes free; writes are refused\n"
                            "shard 0: no leader known\n"
                            "shard 2: replica far behind: its state is 12 s old\n"
                            "shard 3: installing a snapshot\n");
    expect_json(&readiness,
                "{\"ready\": false, \"reasons\": [\"draining: this node stops\", \"disk nearly "
                "full: 77 bytes free; writes are refused\"], \"shards\": [{\"shard\": 0, "
                "\"ready\": false, \"reason\": \"no leader known\"}, {\"shard\": 1, \"ready\": "
                "true}, {\"shard\": 2, \"ready\": false, \"reason\": \"replica far behind: its "
                "state is 12 s old\"}, {\"shard\": 3, \"ready\": false, \"reason\": \"installing "
                "a snapshot\"}]}\n");
}

/* The words of a peer are a stranger's. */
static void test_json_escapes(void **state) {
    (void)state;
    struct readiness readiness = {.joining = true};
    snprintf(readiness.refusal, sizeof readiness.refusal, "a \"b\" \\ \n \xff");
    expect_json(&readiness,
                "{\"ready\": false, \"reasons\": [\"waiting until all other nodes have accepted "
                "this one\", \"a peer refused this node: a \\u0022b\\u0022 \\u005c \\u000a "
                "\\u00ff\"], \"shards\": []}\n");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ready),
        cmocka_unit_test(test_every_reason_counts),
        cmocka_unit_test(test_reasons_in_words),
        cmocka_unit_test(test_json_escapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
