#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "node/metrics.h"
#include "node/resp_commands.h"

static struct metrics *metrics; /* too large for the stack */
static struct metrics_process process;
static struct buffer text;

static int setup(void **state) {
    (void)state;
    metrics = mem_zalloc(1, sizeof *metrics);
    memset(&process, 0, sizeof process);
    process.build_id = "beef";
    metrics->node_id = 2;
    snprintf(metrics->cluster, sizeof metrics->cluster, "test");
    requests_init(&metrics->requests);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    buffer_free(&text);
    mem_free(metrics);
    return 0;
}

static const char *render(void) {
    text.size = 0;
    metrics_render(metrics, &process, &text);
    buffer_put_u8(&text, '\0');
    return (const char *)text.data;
}

static void expect_line(const char *line) {
    char whole[512];
    snprintf(whole, sizeof whole, "\n%s\n", line);
    if (strstr(render(), whole) == NULL) {
        fail_msg("no line '%s' in\n%s", line, (const char *)text.data);
    }
}

static void expect_none(const char *part) {
    if (strstr(render(), part) != NULL) {
        fail_msg("'%s' is in\n%s", part, (const char *)text.data);
    }
}

static void test_node_and_process(void **state) {
    (void)state;
    metrics->uptime_ms = 1234567;
    metrics->connections = UINT64_MAX;
    process.cpu_ms = 1001;
    expect_line("# TYPE invokekv_connections gauge");
    expect_line("invokekv_connections 18446744073709551615");
    expect_line("invokekv_uptime_seconds 1234.567");
    expect_line("process_cpu_seconds_total 1.001");
    expect_line("invokekv_build_info{version=\"" IKV_VERSION
                "\",build_id=\"beef\",cluster=\"test\",node=\"2\"} 1");
}

static void test_certificates(void **state) {
    (void)state;
    expect_none("invokekv_certificate_expiry_time_seconds{");
    metrics->peers_certificate_s = 1900000000;
    expect_line("invokekv_certificate_expiry_time_seconds{use=\"peers\"} 1900000000");
    expect_none("use=\"clients\"");
}

static void test_shards(void **state) {
    (void)state;
    metrics->n_shards = 2;
    metrics->shards[1].role = METRICS_STANDBY;
    metrics->shards[1].term = 7;
    metrics->shards[1].has_staleness = true;
    metrics->shards[1].staleness_ms = 1500;
    metrics->shards[0].clock_offset_ms = -61001;
    metrics->shards[1].clock_offset_ms = 500;
    expect_line("invokekv_raft_role{shard=\"0\",role=\"leader\"} 1");
    expect_line("invokekv_raft_role{shard=\"1\",role=\"leader\"} 0");
    expect_line("invokekv_raft_role{shard=\"1\",role=\"standby\"} 1");
    expect_line("invokekv_raft_term{shard=\"1\"} 7");
    expect_line("invokekv_replica_staleness_seconds{shard=\"1\"} 1.500");
    expect_none("invokekv_replica_staleness_seconds{shard=\"0\"}");
    expect_line("invokekv_cluster_time_offset_seconds{shard=\"0\"} -61.001");
    expect_line("invokekv_cluster_time_offset_seconds{shard=\"1\"} 0.500");
    expect_none("shard=\"2\"");
}

static void test_lag_is_told_by_the_leader_of_the_others(void **state) {
    (void)state;
    metrics->n_shards = 2;
    metrics->n_nodes = 2;
    metrics->nodes[0] = (struct metrics_node){.id = 2, .is_self = true};
    metrics->nodes[1] = (struct metrics_node){.id = 3, .connected = 1};
    metrics->shards[0].follower_lag[1] = 9;
    metrics->shards[1].role = METRICS_FOLLOWER;
    expect_line("invokekv_raft_follower_lag_entries{shard=\"0\",node=\"3\"} 9");
    expect_none("follower_lag_entries{shard=\"1\"");
    expect_none("follower_lag_entries{shard=\"0\",node=\"2\"");
    expect_line("invokekv_peer_connected{node=\"3\"} 1");
    expect_none("invokekv_peer_connected{node=\"2\"}");
}

static void test_requests(void **state) {
    (void)state;
    struct requests *requests = &metrics->requests;
    unsigned get = requests_number(requests, verb_find(slice_of("GET")), NULL);
    requests_count(requests, get, requests_result(slice_of("OK")), 80);
    requests_count(requests, get, requests_result(slice_of("NOLEADER")), 3000000);
    requests_count(requests, get, requests_result(slice_of("NOLEADER")), 60000000);
    expect_line("invokekv_requests_total{command=\"get\",result=\"OK\"} 1");
    expect_line("invokekv_requests_total{command=\"get\",result=\"NOLEADER\"} 2");
    expect_line("invokekv_request_duration_seconds_bucket{command=\"get\",le=\"5e-05\"} 0");
    expect_line("invokekv_request_duration_seconds_bucket{command=\"get\",le=\"0.0001\"} 1");
    expect_line("invokekv_request_duration_seconds_bucket{command=\"get\",le=\"2.5\"} 1");
    expect_line("invokekv_request_duration_seconds_bucket{command=\"get\",le=\"30\"} 2");
    expect_line("invokekv_request_duration_seconds_bucket{command=\"get\",le=\"+Inf\"} 3");
    expect_line("invokekv_request_duration_seconds_sum{command=\"get\"} 63.000080");
    expect_line("invokekv_request_duration_seconds_count{command=\"get\"} 3");
    expect_none("command=\"set\"");
    expect_line("invokekv_log_sync_duration_seconds_count 0");
}

static void test_names_of_projects_are_escaped(void **state) {
    (void)state;
    struct machine_top_entry entry = {.used_bytes = 5, .quota = 10, .keys = 1, .shard = 3};
    const char *name = "a\"b\\c\nd\xc3\xa9";
    entry.name_size = (unsigned)strlen(name);
    memcpy(entry.name, name, entry.name_size);
    metrics->top.most = 1;
    machine_top_add(&metrics->top, &entry);
    expect_line("invokekv_project_used_bytes{project=\"a\\\"b\\\\c\\nd\xc3\xa9\",shard=\"3\"} 5");
    expect_line("invokekv_project_quota_bytes{project=\"a\\\"b\\\\c\\nd\xc3\xa9\",shard=\"3\"} 10");
}

static void test_top_keeps_the_largest(void **state) {
    (void)state;
    struct machine_top *top = &metrics->top;
    uint64_t sum = 0;
    top->most = 3;
    for (unsigned i = 0; i < 50; i++) {
        struct machine_top_entry entry = {.used_bytes = i * 7 % 50};
        machine_top_add(top, &entry);
    }
    for (unsigned i = 0; i < top->n; i++) {
        sum += top->entries[i].used_bytes;
    }
    assert_int_equal(top->n, 3);
    assert_int_equal(sum, 47 + 48 + 49);
    top->most = 0;
    top->n = 0;
    struct machine_top_entry entry = {.used_bytes = 1};
    machine_top_add(top, &entry);
    assert_int_equal(top->n, 0);
}

static void test_words_of_replies(void **state) {
    (void)state;
    assert_string_equal(requests_result_name(requests_result_of(slice_of("+OK\r\n"))), "OK");
    assert_string_equal(requests_result_name(requests_result_of(slice_of("*0\r\n"))), "OK");
    assert_string_equal(requests_result_name(requests_result_of(slice_of("-ERR no\r\n"))), "ERR");
    assert_string_equal(requests_result_name(requests_result_of(slice_of("-MOVED 1 a:1\r\n"))),
                        "MOVED");
    assert_string_equal(requests_result_name(requests_result_of(slice_of("-NEW what\r\n"))),
                        "OTHER");
    assert_string_equal(requests_result_name(requests_result_of(slice_of(""))), "OK");
}

/* Every error that a result can carry is counted under a word of its own. */
static void test_every_error_has_its_word(void **state) {
    (void)state;
#define CHECK(symbol, number, prefix, description)                                                 \
    assert_string_equal(requests_result_name(requests_result(slice_of(prefix))), prefix);
    ERROR_LIST(CHECK)
#undef CHECK
}

static void test_every_verb_has_its_number(void **state) {
    (void)state;
    const struct requests *requests = &metrics->requests;
    unsigned count;
    unsigned expected = 0;
    const struct verb *verbs = verb_table(&count);
    assert_string_equal(requests->names[requests_number(requests, NULL, NULL)], "unknown");
    for (unsigned i = 0; i < count; i++) {
        expected++;
        unsigned number = requests_number(requests, &verbs[i], &verbs[i]);
        assert_int_equal(number, expected);
        assert_string_equal(requests->names[number], verbs[i].name);
    }
    for (unsigned i = 0; i < count; i++) {
        for (unsigned k = 0; k < verbs[i].n_subcommands; k++) {
            char name[64];
            expected++;
            snprintf(name, sizeof name, "%s|%s", verbs[i].name, verbs[i].subcommands[k].name);
            unsigned number = requests_number(requests, &verbs[i], &verbs[i].subcommands[k]);
            assert_int_equal(number, expected);
            assert_string_equal(requests->names[number], name);
        }
    }
    assert_int_equal(requests->n_verbs, expected + 1);
}

/* --- the page --------------------------------------------------------------------------------- */

static void read_page(struct buffer *page) {
    FILE *file = fopen(SOURCE_DIR "/docs/metrics.md", "r");
    char piece[4096];
    size_t size;
    assert_non_null(file);
    while ((size = fread(piece, 1, sizeof piece, file)) > 0) {
        buffer_append(page, piece, size);
    }
    fclose(file);
    buffer_put_u8(page, '\0');
}

/* Fails with the first row that the page lacks: the message has not room for all. */
static void check_rows(const char *page, char *table) {
    char *rest = table;
    for (char *row = strtok_r(table, "\n", &rest); row != NULL; row = strtok_r(NULL, "\n", &rest)) {
        if (strstr(page, row) == NULL) {
            fail_msg("docs/metrics.md lacks the row:\n%s", row);
        }
    }
}

/* The whole table, no row more or less, in the order of what is served. */
static void test_the_page_has_this_table(void **state) {
    (void)state;
    struct buffer page = {0};
    struct buffer table = {0};
    read_page(&page);
    buffer_append_slice(&table, slice_of("|---|---|---|---|\n"));
    metrics_describe(&table);
    buffer_append_slice(&table, slice_of("\n"));
    buffer_put_u8(&table, '\0');
    bool is_equal = strstr((const char *)page.data, (const char *)table.data) != NULL;
    if (!is_equal) {
        check_rows((const char *)page.data, (char *)table.data);
        fail_msg(
            "docs/metrics.md has other rows, another order, or no empty line behind the table");
    }
    buffer_free(&page);
    buffer_free(&table);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_node_and_process, setup, teardown),
        cmocka_unit_test_setup_teardown(test_certificates, setup, teardown),
        cmocka_unit_test_setup_teardown(test_shards, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lag_is_told_by_the_leader_of_the_others, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_requests, setup, teardown),
        cmocka_unit_test_setup_teardown(test_names_of_projects_are_escaped, setup, teardown),
        cmocka_unit_test_setup_teardown(test_top_keeps_the_largest, setup, teardown),
        cmocka_unit_test_setup_teardown(test_words_of_replies, setup, teardown),
        cmocka_unit_test_setup_teardown(test_every_error_has_its_word, setup, teardown),
        cmocka_unit_test_setup_teardown(test_every_verb_has_its_number, setup, teardown),
        cmocka_unit_test(test_the_page_has_this_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
