/* Limits: the tables and ceilings by themselves, and what sessions make of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/limits.h"
#include "base/mem.h"
#include "node/bounds.h"
#include "node/credentials.h"
#include "node/descriptors.h"
#include "node/memory_ceiling.h"
#include "node/op.h"
#include "node/project_limits.h"
#include "node/server_info.h"
#include "node/session.h"

enum { SECOND_US = 1000000, MAX_OPS = 256 };

/* ---- projects ---- */

static uint64_t key_of(const struct project_limits *limits, unsigned number) {
    char name[32];
    snprintf(name, sizeof name, "project-%u", number);
    return project_limits_key(limits, slice_of(name));
}

static void test_connections_of_a_project(void **state) {
    (void)state;
    struct project_limits *limits = project_limits_new(2, 0, 7);
    uint64_t a = key_of(limits, 1), b = key_of(limits, 2);
    assert_true(a != b && a != 0);
    assert_true(project_limits_enter(limits, a, 0) && project_limits_enter(limits, a, 0));
    assert_false(project_limits_enter(limits, a, 0));
    assert_true(project_limits_enter(limits, b, 0));
    assert_int_equal(project_limits_connections(limits, a), 2);
    project_limits_leave(limits, a);
    assert_true(project_limits_enter(limits, a, 0));
    uint64_t wait_us = 0;
    for (int i = 0; i < 100000; i++) {
        assert_true(project_limits_take(limits, a, 0, &wait_us)); /* no rate */
    }
    project_limits_free(limits);
}

static void test_a_bucket_holds_a_second(void **state) {
    (void)state;
    struct project_limits *limits = project_limits_new(0, 100, 7);
    uint64_t key = key_of(limits, 1), wait_us = 0, now_us = 5 * (uint64_t)SECOND_US;
    for (int i = 0; i < 100; i++) {
        assert_true(project_limits_take(limits, key, now_us, &wait_us));
    }
    assert_false(project_limits_take(limits, key, now_us, &wait_us));
    assert_int_equal(wait_us, SECOND_US / 100);
    /* It comes back bit by bit, and no more than a second's worth. */
    assert_false(project_limits_take(limits, key, now_us + wait_us - 1, &wait_us));
    assert_true(project_limits_take(limits, key, now_us + SECOND_US / 100, &wait_us));
    assert_false(project_limits_take(limits, key, now_us + SECOND_US / 100, &wait_us));
    now_us += 100 * (uint64_t)SECOND_US;
    unsigned taken = 0;
    while (project_limits_take(limits, key, now_us, &wait_us)) {
        taken++;
    }
    assert_int_equal(taken, 100);
    /* Another project has its own; in the long run the rate is kept. */
    assert_true(project_limits_take(limits, key_of(limits, 2), now_us, &wait_us));
    for (int ms = 0; ms < 10000; ms++) {
        now_us += 1000;
        taken += project_limits_take(limits, key, now_us, &wait_us) ? 1 : 0;
    }
    assert_int_equal(taken, 1100);
    project_limits_free(limits);
}

static void test_the_highest_rate(void **state) {
    (void)state;
    struct project_limits *limits = project_limits_new(0, PROJECT_LIMITS_RATE_MAX, 7);
    uint64_t key = key_of(limits, 1), wait_us = 0;
    unsigned taken = 0;
    while (project_limits_take(limits, key, SECOND_US, &wait_us)) {
        taken++;
    }
    assert_int_equal(taken, PROJECT_LIMITS_RATE_MAX);
    project_limits_free(limits);
}

/* 100,000 projects at once take little, and what is over is forgotten. */
static void test_memory_of_many_projects(void **state) {
    (void)state;
    enum { PROJECTS = 100000 };
    struct project_limits *limits = project_limits_new(10, 1, 42);
    uint64_t wait_us = 0, now_us = SECOND_US;
    for (unsigned i = 0; i < PROJECTS; i++) {
        assert_true(project_limits_take(limits, key_of(limits, i), now_us, &wait_us));
    }
    for (unsigned i = 0; i < PROJECTS; i += 1000) {
        assert_false(project_limits_take(limits, key_of(limits, i), now_us, &wait_us));
        assert_true(project_limits_enter(limits, key_of(limits, i), now_us));
    }
    assert_true(project_limits_memory(limits) <= 4 * MIB);
    for (unsigned second = 2; second < 200; second++) {
        now_us += 2 * SECOND_US;
        for (unsigned i = 0; i < 5000; i++) {
            assert_true(
                project_limits_take(limits, key_of(limits, second * 5000 + i), now_us, &wait_us));
        }
    }
    assert_true(project_limits_memory(limits) <= 512 * KIB);
    for (unsigned i = 0; i < PROJECTS; i += 1000) {
        assert_int_equal(project_limits_connections(limits, key_of(limits, i)), 1);
    }
    project_limits_free(limits);
}

/* ---- bounds, memory, descriptors ---- */

static void test_a_line_is_due_now_and_then(void **state) {
    (void)state;
    struct bounds bounds = {0};
    assert_true(bounds_note(&bounds, BOUND_IDLE, 1, 0));
    assert_false(bounds_note(&bounds, BOUND_IDLE, 5, BOUNDS_SAY_AGAIN_MS));
    assert_true(bounds_note(&bounds, BOUND_MEMORY, 1, 10));
    assert_true(bounds_note(&bounds, BOUND_IDLE, 1, BOUNDS_SAY_AGAIN_MS + 1));
    assert_int_equal(bounds.reached[BOUND_IDLE], 7);
    for (int i = 0; i < BOUNDS; i++) {
        assert_non_null(bound_name((enum bound)i));
    }
}

static void test_levels_of_memory(void **state) {
    (void)state;
    struct memory_ceiling ceiling;
    memory_ceiling_init(&ceiling, 0);
    memory_ceiling_measure(&ceiling, UINT64_MAX / 2, 0, 0);
    assert_int_equal(memory_ceiling_level(&ceiling, 0, 0), MEMORY_ENOUGH);

    memory_ceiling_init(&ceiling, 1600);
    memory_ceiling_measure(&ceiling, 1100, 100, 0);
    assert_int_equal(ceiling.level, MEMORY_ENOUGH);
    /* What came since the measurement counts at once, what went does not. */
    assert_int_equal(memory_ceiling_level(&ceiling, 199, 0), MEMORY_ENOUGH);
    assert_int_equal(memory_ceiling_level(&ceiling, 199, 1), MEMORY_NO_WRITES);
    assert_int_equal(memory_ceiling_used(&ceiling, 0), 1100);
    assert_int_equal(memory_ceiling_level(&ceiling, 0, 0), MEMORY_NO_WRITES);
    memory_ceiling_measure(&ceiling, 1099, 0, 0);
    assert_int_equal(ceiling.level, MEMORY_ENOUGH);
    assert_int_equal(memory_ceiling_level(&ceiling, 301, 0), MEMORY_NO_DATA);
    memory_ceiling_measure(&ceiling, 1300, 0, 0);
    assert_int_equal(ceiling.level, MEMORY_NO_DATA);
    memory_ceiling_measure(&ceiling, 1299, 0, 0);
    assert_int_equal(ceiling.level, MEMORY_NO_WRITES);
    memory_ceiling_measure(&ceiling, 1000, 99, 99);
    assert_int_equal(ceiling.level, MEMORY_ENOUGH);
}

static void test_descriptors(void **state) {
    (void)state;
    static struct config config;
    struct error error;
    config_init(&config);
    config.n_nodes = 3;
    assert_true(descriptors_reserve(&config) < 1000);
    config.max_connections = 10;
    assert_int_equal(descriptors_provide(&config, &error), ERROR_NONE);
    /* More than any system gives. */
    config.max_connections = UINT32_MAX;
    config.is_set[CONFIG_MAX_CONNECTIONS] = true;
    assert_int_equal(descriptors_provide(&config, &error), ERROR_INVALID);
    assert_non_null(strstr(error.message, "max_connections = '4294967295': needs 42949"));
    assert_non_null(strstr(error.message, "LimitNOFILE="));
}

/* ---- sessions ---- */

static struct {
    struct session_host host;
    struct credentials credentials;
    struct op *ops[MAX_OPS];
    unsigned n_ops;
    uint64_t now_ms;
    enum memory_level memory;
    unsigned said;
    char said_project[64];
} t;

static void fake_submit(void *data, struct op *op) {
    (void)data;
    assert_true(t.n_ops < MAX_OPS);
    t.ops[t.n_ops++] = op;
}

static void complete(unsigned i, struct result result) {
    struct op *op = t.ops[i];
    assert_non_null(op);
    t.ops[i] = NULL;
    op->done(op, &result);
    result_free(&result);
}

static void complete_all(void) {
    for (unsigned i = 0; i < t.n_ops; i++) {
        if (t.ops[i] != NULL) {
            complete(i, (struct result){.kind = RESULT_OK});
        }
    }
    t.n_ops = 0;
}

static uint64_t fake_now_ms(void *data) {
    (void)data;
    return t.now_ms;
}

static void fake_describe(void *data, struct server_info *info) {
    (void)data;
    info->cluster = "test";
    info->max_connections = 77;
}

static enum memory_level fake_memory(void *data, uint64_t *used, uint64_t *max) {
    (void)data;
    *used = 900 * MIB;
    *max = 1024 * MIB;
    return t.memory;
}

static void fake_on_bound(void *data, enum bound bound, const char *peer, struct slice project,
                          const char *text) {
    (void)data;
    assert_non_null(bound_name(bound));
    assert_non_null(peer);
    assert_non_null(text);
    snprintf(t.said_project, sizeof t.said_project, "%.*s", (int)project.size,
             project.size > 0 ? (const char *)project.data : "");
    t.said++;
}

static void on_wake(void *data) {
    (void)data;
}

static void begin(bool required, unsigned connections, unsigned rate) {
    memset(&t, 0, sizeof t);
    t.now_ms = 1000;
    const struct session_limits limits = {.n_shards = 8,
                                          .max_value = MIB,
                                          .max_pipeline = 1024,
                                          .max_output = 256 * 1024,
                                          .max_input = 4 * MIB,
                                          .requests_per_second = rate};
    const struct session_port port = {.submit = fake_submit,
                                      .now_ms = fake_now_ms,
                                      .describe = fake_describe,
                                      .memory = fake_memory,
                                      .on_bound = fake_on_bound};
    session_host_init(&t.host, &limits, &port);
    t.credentials =
        (struct credentials){.required = required, .has_service = true, .has_admin = true};
    secret_digest(slice_of("service-secret"), t.credentials.service);
    secret_digest(slice_of("admin-secret"), t.credentials.admin);
    t.host.credentials = &t.credentials;
    t.host.projects = project_limits_new(connections, rate, 99);
}

static struct session *dial(void) {
    return session_new(&t.host, "127.0.0.1:5000", "127.0.0.1:7102", on_wake, NULL);
}

static void end(void) {
    complete_all();
    project_limits_free(t.host.projects);
    assert_int_equal(t.host.n_sessions, 0);
    assert_int_equal(t.host.input_bytes, 0);
}

static const char *ask(struct session *session, const char *text) {
    static char reply[64 * 1024];
    size_t left = strlen(text), size = 0;
    struct slice slice;
    while (left > 0) {
        uint8_t *data;
        size_t space;
        assert_true(session_wants_read(session));
        session_input_space(session, &data, &space);
        size_t taken = space < left ? space : left;
        memcpy(data, text, taken);
        session_input_filled(session, taken);
        text += taken;
        left -= taken;
    }
    while (output_peek(session_output(session), &slice, 1) > 0) {
        assert_true(size + slice.size < sizeof reply);
        memcpy(reply + size, slice.data, slice.size);
        size += slice.size;
        output_consume(session_output(session), slice.size);
        session_sent(session, slice.size);
    }
    reply[size] = '\0';
    return reply;
}

#define FULL(name, n)                                                                              \
    "-ERR max number of clients reached: project '" name "' has " n                                \
    " connections at this node (max_connections_per_project)\r\n"

static unsigned count_in(const char *project) {
    uint64_t key = project_limits_key(t.host.projects, slice_of(project));
    return project_limits_connections(t.host.projects, key);
}

static void test_a_connection_counts_where_it_works(void **state) {
    (void)state;
    begin(false, 2, 0);
    struct session *s[4] = {dial(), dial(), dial(), dial()};
    /* Nobody counts before there is something to count. */
    assert_string_equal(ask(s[0], "PING\r\n"), "+PONG\r\n");
    assert_int_equal(count_in("default"), 0);
    for (int i = 0; i < 2; i++) {
        assert_string_equal(ask(s[i], "GET k\r\nGET k\r\n"), "");
    }
    assert_int_equal(count_in("default"), 2);
    assert_string_equal(ask(s[2], "GET k\r\n"), FULL("default", "2"));
    assert_string_equal(ask(s[2], "SUBSCRIBE x\r\n"), FULL("default", "2"));
    assert_int_equal(t.said, 1);
    assert_string_equal(t.said_project, "default");
    assert_int_equal(t.host.bounds.reached[BOUND_PROJECT_CONNECTIONS], 2);
    /* It may still look, and work elsewhere; two leave the project, by two ways. */
    assert_string_equal(ask(s[2], "ECHO a\r\nAUTH other x\r\n"), "$1\r\na\r\n+OK\r\n");
    complete_all();
    assert_string_equal(ask(s[3], "AUTH default x\r\n"), FULL("default", "2"));
    ask(s[0], "PROJECT USE other\r\n");
    assert_int_equal(count_in("default"), 1);
    assert_int_equal(count_in("other"), 2);
    assert_string_equal(ask(s[3], "AUTH default x\r\n"), "+OK\r\n");
    /* Refused: it stays where it is, and counts there. */
    assert_string_equal(ask(s[3], "PROJECT USE other\r\n"), FULL("other", "2"));
    assert_string_equal(ask(s[3], "HELLO 2 AUTH other x\r\n"), FULL("other", "2"));
    assert_int_equal(count_in("default"), 2);
    assert_string_equal(ask(s[3], "AUTH default x\r\nAUTH default y\r\n"), "+OK\r\n+OK\r\n");
    assert_int_equal(count_in("default"), 2);
    assert_string_equal(ask(s[3], "RESET\r\n"), "+RESET\r\n");
    assert_int_equal(count_in("default"), 1);
    for (int i = 0; i < 4; i++) {
        session_free(s[i]);
    }
    assert_int_equal(count_in("default"), 0);
    assert_int_equal(count_in("other"), 0);
    end();
}

static void test_administrators_are_not_counted(void **state) {
    (void)state;
    begin(true, 1, 1);
    struct session *service = dial(), *admin = dial(), *second = dial();
    assert_string_equal(ask(service, "AUTH service service-secret\r\nPROJECT USE shop\r\n"),
                        "+OK\r\n+OK\r\n");
    assert_string_equal(ask(admin, "AUTH admin admin-secret\r\nPROJECT USE shop\r\n"),
                        "+OK\r\n+OK\r\n");
    for (int i = 0; i < 10; i++) {
        assert_string_equal(ask(admin, "SET k v\r\n"), "");
    }
    assert_string_equal(ask(second, "AUTH service service-secret\r\nPROJECT USE shop\r\n"),
                        "+OK\r\n" FULL("shop", "1"));
    assert_int_equal(count_in("shop"), 1);
    /* From a service to an administrator, who counts no more. */
    assert_string_equal(ask(service, "AUTH admin admin-secret\r\n"), "+OK\r\n");
    assert_int_equal(count_in("shop"), 0);
    session_free(service);
    session_free(admin);
    session_free(second);
    end();
}

static void test_requests_per_second(void **state) {
    (void)state;
    begin(false, 0, 10);
    struct session *a = dial(), *b = dial();
    assert_string_equal(ask(b, "AUTH other x\r\n"), "+OK\r\n");
    for (int i = 0; i < 5; i++) {
        ask(a, "GET k\r\n");
        complete_all();
        ask(a, "INCR n\r\n");
        complete_all();
        (void)ask(a, "PING\r\nINFO\r\n");
    }
    const char *refusal =
        "-BUSY project 'default' sends this node more than 10 requests per second "
        "(requests_per_second); try again in 100 ms\r\n";
    assert_string_equal(ask(a, "GET k\r\n"), refusal);
    assert_string_equal(ask(a, "ECHO a\r\n"), "$1\r\na\r\n");
    assert_string_equal(ask(b, "GET k\r\n"), "");
    /* In a transaction, where it spoils the rest. */
    char text[512];
    snprintf(text, sizeof text,
             "+OK\r\n%s-EXECABORT Transaction discarded because of previous "
             "errors.\r\n",
             refusal);
    assert_string_equal(ask(a, "MULTI\r\nGET k\r\nEXEC\r\n"), text);
    t.now_ms += 100;
    assert_string_equal(ask(a, "GET k\r\n"), "");
    assert_string_equal(ask(a, "ECHO a\r\n"), "");
    complete_all();
    assert_int_equal(t.host.bounds.reached[BOUND_REQUEST_RATE], 2);
    assert_int_equal(t.said, 1);
    session_free(a);
    session_free(b);
    end();
}

#define PRESSED                                                                                    \
    "-BUSY this node uses 900 MiB of memory, near to its ceiling of 1024 MiB (max_memory); try "   \
    "again later\r\n"

static void test_refusals_under_pressure(void **state) {
    (void)state;
    begin(false, 0, 0);
    struct session *session = dial();
    t.memory = MEMORY_NO_WRITES;
    assert_string_equal(ask(session, "SET k v\r\nDEL k\r\n"), PRESSED PRESSED);
    assert_string_equal(ask(session, "GET k\r\n"), "");
    complete_all();
    (void)ask(session, "ECHO flush\r\n");
    assert_string_equal(ask(session, "MULTI\r\nSET k v\r\nDISCARD\r\n"),
                        "+OK\r\n" PRESSED "+OK\r\n");
    t.memory = MEMORY_NO_DATA;
    assert_string_equal(ask(session, "SET k v\r\nGET k\r\n"), PRESSED PRESSED);
    /* Somebody can still look and administer. */
    assert_string_equal(ask(session, "PING\r\n"), "+PONG\r\n");
    assert_non_null(strstr(ask(session, "INFO clients\r\n"), "maxclients:77"));
    assert_string_equal(ask(session, "PROJECT DELETE p\r\n"), "");
    complete_all();
    /* A large command on its way in is given up, with the connection; a small one is not. */
    struct session *large = dial();
    static char part[10 * 1024];
    int size = snprintf(part, sizeof part, "*2\r\n$3\r\nGET\r\n$900000\r\n");
    memset(part + size, 'x', sizeof part - 1 - (size_t)size);
    assert_string_equal(ask(large, part), PRESSED);
    assert_true(session_is_finished(large));
    assert_int_equal(t.host.bounds.reached[BOUND_MEMORY], 6);
    session_free(large);
    session_free(session);
    end();
}

static void test_who_is_idle(void **state) {
    (void)state;
    begin(true, 0, 0);
    struct session *session = dial();
    assert_int_equal(session_stranger_since_ms(session), 1000);
    t.now_ms = 5000;
    ask(session, "AUTH service service-secret\r\n");
    assert_true(session_stranger_since_ms(session) == UINT64_MAX);
    assert_int_equal(session_idle_since_ms(session), 5000);
    ask(session, "GET k\r\n");
    assert_true(session_idle_since_ms(session) == UINT64_MAX); /* waits for its answer */
    complete(0, (struct result){.kind = RESULT_NIL});
    assert_true(session_idle_since_ms(session) == UINT64_MAX); /* which is not sent yet */
    t.now_ms = 6000;
    ask(session, "PING\r\n");
    assert_int_equal(session_idle_since_ms(session), 6000);
    t.now_ms = 7000;
    ask(session, "RESET\r\n");
    assert_int_equal(session_stranger_since_ms(session), 7000);
    session_free(session);
    end();
}

/* An idle session holds no buffers, and a busy one keeps what it needs. */
static void test_rest(void **state) {
    (void)state;
    begin(false, 0, 0);
    struct session *session = dial();
    uint64_t fresh = t.host.input_bytes;
    ask(session, "PING\r\n");
    uint64_t used = t.host.input_bytes;
    assert_true(used > fresh);
    session_rest(session);
    assert_int_equal(t.host.input_bytes, fresh);
    assert_string_equal(ask(session, "PING\r\n"), "+PONG\r\n");
    ask(session, "ECH");
    session_rest(session);
    assert_int_equal(t.host.input_bytes, used);
    assert_string_equal(ask(session, "O a\r\n"), "$1\r\na\r\n");
    session_free(session);
    end();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_connections_of_a_project),
        cmocka_unit_test(test_a_bucket_holds_a_second),
        cmocka_unit_test(test_the_highest_rate),
        cmocka_unit_test(test_memory_of_many_projects),
        cmocka_unit_test(test_a_line_is_due_now_and_then),
        cmocka_unit_test(test_levels_of_memory),
        cmocka_unit_test(test_descriptors),
        cmocka_unit_test(test_a_connection_counts_where_it_works),
        cmocka_unit_test(test_administrators_are_not_counted),
        cmocka_unit_test(test_requests_per_second),
        cmocka_unit_test(test_refusals_under_pressure),
        cmocka_unit_test(test_who_is_idle),
        cmocka_unit_test(test_rest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
