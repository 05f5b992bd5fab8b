/* Real sockets on loopback against a router that the test completes. Client sockets do not block;
 * the loop turns until what is awaited has happened, with a generous deadline. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include "base/limits.h"
#include "base/mem.h"
#include "node/acceptor_uv.h"
#include "node/listener_uv.h"
#include "node/logging.h"
#include "node/op.h"
#include "node/server_info.h"

enum { DEADLINE_MS = 20000, MAX_OPS = 64, PATIENCE_MS = 150, RECEIVE_MS = 30000, SEND_MS = 60000 };

static struct {
    uv_loop_t loop;
    uv_timer_t tick; /* keeps a blocking turn of the loop short */
    struct session_host host;
    struct listener *listener;
    struct op *ops[MAX_OPS];
    unsigned n_ops;
    bool is_closed;
} t;

static void fake_submit(void *data, struct op *op) {
    (void)data;
    assert_true(t.n_ops < MAX_OPS);
    t.ops[t.n_ops++] = op;
}

static void complete_bulk(unsigned i, size_t size) {
    struct op *op = t.ops[i];
    assert_non_null(op);
    t.ops[i] = NULL;
    struct result result = {.kind = RESULT_BULK};
    buffer_reserve(&result.data, size + 1);
    for (size_t j = 0; j < size; j++) {
        result.data.data[j] = (uint8_t)(j * 31 % 251);
    }
    result.data.size = size;
    op->done(op, &result);
    result_free(&result);
}

static uint64_t fake_now_ms(void *data) {
    (void)data;
    return uv_now(&t.loop);
}

static void fake_describe(void *data, struct server_info *info) {
    (void)data;
    info->cluster = "test";
}

static void on_tick(uv_timer_t *timer) {
    (void)timer;
}

static void on_closed(void *data) {
    (void)data;
    t.is_closed = true;
}

static uint64_t clock_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Turns the loop until `condition` holds. */
#define AWAIT(condition)                                                                           \
    do {                                                                                           \
        uint64_t until = clock_ms() + DEADLINE_MS;                                                 \
        while (!(condition)) {                                                                     \
            assert_true(clock_ms() < until);                                                       \
            uv_run(&t.loop, UV_RUN_ONCE);                                                          \
        }                                                                                          \
    } while (0)

static void start_idle(unsigned max_connections, uint64_t receive_ms, uint64_t send_ms,
                       uint64_t idle_ms) {
    const struct listener_options options = {.host = "127.0.0.1",
                                             .port = 0,
                                             .max_connections = max_connections,
                                             .receive_ms = receive_ms,
                                             .send_ms = send_ms,
                                             .idle_ms = idle_ms};
    struct error error;
    assert_int_equal(listener_open(&t.listener, &t.loop, &options, &t.host, &error), ERROR_NONE);
    assert_true(listener_port(t.listener) > 0);
}

static void start(unsigned max_connections, uint64_t receive_ms, uint64_t send_ms) {
    start_idle(max_connections, receive_ms, send_ms, 0);
}

static int setup(void **state) {
    (void)state;
    memset(&t, 0, sizeof t);
    say_set_level(SAY_ERROR);
    uv_loop_init(&t.loop);
    uv_timer_init(&t.loop, &t.tick);
    uv_timer_start(&t.tick, on_tick, 5, 5);
    const struct session_limits limits = {.n_shards = 8,
                                          .max_value = 16 * MIB,
                                          .max_pipeline = 32,
                                          .max_output = SESSION_OUTPUT_DEFAULT,
                                          .max_input = 64 * MIB};
    const struct session_port port = {
        .submit = fake_submit, .now_ms = fake_now_ms, .describe = fake_describe};
    session_host_init(&t.host, &limits, &port);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    if (t.listener != NULL) {
        listener_close(t.listener, 0, on_closed, NULL);
        AWAIT(t.is_closed);
    }
    for (unsigned i = 0; i < t.n_ops; i++) {
        if (t.ops[i] != NULL) {
            complete_bulk(i, 1);
        }
    }
    uv_close((uv_handle_t *)&t.tick, NULL);
    uv_run(&t.loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&t.loop), 0);
    return t.host.n_sessions == 0 && t.host.n_slots == 0 ? 0 : -1;
}

static int dial(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(listener_port(t.listener)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    return fd;
}

static void client_send(int fd, const void *bytes, size_t size) {
    const char *from = bytes;
    uint64_t until = clock_ms() + DEADLINE_MS;
    while (size > 0) {
        ssize_t sent = send(fd, from, size, MSG_NOSIGNAL);
        if (sent > 0) {
            from += sent;
            size -= (size_t)sent;
            continue;
        }
        assert_true(errno == EAGAIN && clock_ms() < until);
        uv_run(&t.loop, UV_RUN_NOWAIT);
    }
}

static void client_say(int fd, const char *text) {
    client_send(fd, text, strlen(text));
}

/* Receives exactly `size` bytes. */
static void client_receive(int fd, void *bytes, size_t size) {
    char *to = bytes;
    uint64_t until = clock_ms() + DEADLINE_MS;
    while (size > 0) {
        ssize_t got = recv(fd, to, size, 0);
        if (got > 0) {
            to += got;
            size -= (size_t)got;
            continue;
        }
        assert_true(got < 0 && errno == EAGAIN && clock_ms() < until);
        uv_run(&t.loop, UV_RUN_ONCE);
    }
}

static void client_expect(int fd, const char *text) {
    char got[1024];
    assert_true(strlen(text) < sizeof got);
    client_receive(fd, got, strlen(text));
    got[strlen(text)] = '\0';
    assert_string_equal(got, text);
}

/* The server closed the connection, and nothing more came. */
static bool client_is_closed(int fd) {
    char byte;
    ssize_t got = recv(fd, &byte, 1, 0);
    assert_true(got <= 0);
    return got == 0 || errno == ECONNRESET;
}

static void test_commands_over_a_socket(void **state) {
    (void)state;
    start(10, RECEIVE_MS, SEND_MS);
    int fd = dial();
    client_say(fd, "PING\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING\r\n");
    client_expect(fd, "+PONG\r\n");
    AWAIT(t.n_ops == 1);
    complete_bulk(0, 0);
    client_expect(fd, "$0\r\n\r\n+PONG\r\n");
    client_say(fd, "GET k\r\nSET k v\r\n");
    AWAIT(t.n_ops == 2);
    complete_bulk(1, 0);
    /* The write that waited goes on without further input. */
    AWAIT(t.n_ops == 3);
    complete_bulk(2, 0);
    client_expect(fd, "$0\r\n\r\n$0\r\n\r\n");
    client_say(fd, "QUIT\r\n");
    client_expect(fd, "+OK\r\n");
    AWAIT(client_is_closed(fd));
    AWAIT(listener_connections(t.listener) == 0);
    close(fd);
}

static void test_protocol_error_closes(void **state) {
    (void)state;
    start(10, RECEIVE_MS, SEND_MS);
    int fd = dial();
    client_say(fd, "*1\r\n:4\r\n");
    client_expect(fd, "-ERR Protocol error: expected '$', got ':'\r\n");
    AWAIT(client_is_closed(fd));
    close(fd);
}

static void test_too_many_clients(void **state) {
    (void)state;
    start(2, RECEIVE_MS, SEND_MS);
    int a = dial(), b = dial();
    AWAIT(listener_connections(t.listener) == 2);
    int c = dial();
    client_expect(c, "-ERR max number of clients reached\r\n");
    AWAIT(client_is_closed(c));
    assert_int_equal(t.host.stats.rejected, 1);
    close(a);
    AWAIT(listener_connections(t.listener) == 1);
    int d = dial();
    client_say(d, "PING\r\n");
    client_expect(d, "+PONG\r\n");
    close(b);
    close(c);
    close(d);
}

static void test_large_values_both_ways(void **state) {
    (void)state;
    start(10, RECEIVE_MS, SEND_MS);
    const size_t size = 12 * MIB;
    uint8_t *value = mem_alloc(size);
    for (size_t i = 0; i < size; i++) {
        value[i] = (uint8_t)(i * 31 % 251);
    }
    int fd = dial();
    char head[64];
    snprintf(head, sizeof head, "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%zu\r\n", size);
    client_say(fd, head);
    client_send(fd, value, size);
    client_say(fd, "\r\nGET k\r\nGET k\r\nPING\r\n");
    AWAIT(t.n_ops >= 1);
    struct command command;
    struct error error;
    assert_int_equal(command_decode(buffer_slice(&t.ops[0]->command), &command, &error),
                     ERROR_NONE);
    struct reader args = reader_make(command.args);
    command_next_arg(&args);
    assert_true(slice_equal(command_next_arg(&args), slice_make(value, size)));
    complete_bulk(0, 0);
    AWAIT(t.n_ops >= 2);
    complete_bulk(1, size);
    /* Nobody reads for a while: what the kernel does not take has to wait. */
    for (int i = 0; i < 20; i++) {
        uv_run(&t.loop, UV_RUN_ONCE);
    }
    client_expect(fd, "$0\r\n\r\n");
    uint8_t *got = mem_alloc(size);
    for (unsigned i = 1; i <= 2; i++) {
        if (i == 2) {
            AWAIT(t.n_ops == 3);
            complete_bulk(2, size);
        }
        snprintf(head, sizeof head, "$%zu\r\n", size);
        client_expect(fd, head);
        client_receive(fd, got, size);
        assert_memory_equal(got, value, size);
        client_expect(fd, "\r\n");
    }
    client_expect(fd, "+PONG\r\n");
    mem_free(got);
    mem_free(value);
    close(fd);
}

static void test_many_pipelined_commands(void **state) {
    (void)state;
    start(10, RECEIVE_MS, SEND_MS);
    int fd = dial();
    enum { COMMANDS = 20000 };
    struct buffer in = {0};
    for (unsigned i = 0; i < COMMANDS; i++) {
        char line[32];
        int size = snprintf(line, sizeof line, "ECHO %05u\r\n", i);
        buffer_append(&in, line, (size_t)size);
    }
    client_send(fd, in.data, in.size);
    for (unsigned i = 0; i < COMMANDS; i++) {
        char line[32];
        snprintf(line, sizeof line, "$5\r\n%05u\r\n", i);
        client_expect(fd, line);
    }
    buffer_free(&in);
    close(fd);
}

static void test_half_a_command_that_stalls(void **state) {
    (void)state;
    start(10, PATIENCE_MS, SEND_MS);
    int idle = dial(), half = dial();
    client_say(half, "*2\r\n$3\r\nGET\r\n$100\r\nabc");
    client_say(idle, "PING\r\n");
    client_expect(idle, "+PONG\r\n");
    AWAIT(client_is_closed(half));
    assert_int_equal(t.host.stats.stalled, 1);
    /* An idle connection is none of its business. */
    client_say(idle, "PING\r\n");
    client_expect(idle, "+PONG\r\n");
    close(idle);
    close(half);
}

/* A byte now and then keeps a connection from being silent, and does not help. */
static void test_half_a_command_that_drips(void **state) {
    (void)state;
    start(10, 400, SEND_MS);
    int drips = dial();
    client_say(drips, "*2\r\n$3\r\nGET\r\n$100000\r\n");
    uint64_t deadline = clock_ms() + DEADLINE_MS;
    bool is_closed = false;
    while (!is_closed) {
        assert_true(clock_ms() < deadline);
        uint64_t next = clock_ms() + 20;
        AWAIT(clock_ms() >= next);
        ssize_t sent = send(drips, "x", 1, MSG_NOSIGNAL);
        is_closed = sent < 0 || client_is_closed(drips);
    }
    assert_int_equal(t.host.bounds.reached[BOUND_RECEIVE], 1);
    close(drips);
}

/* What comes fast enough may take longer than the bound. */
static void test_a_large_command_has_time(void **state) {
    (void)state;
    start(10, 300, SEND_MS);
    int fd = dial();
    static char part[64 * 1024];
    memset(part, 'x', sizeof part);
    client_say(fd, "*2\r\n$4\r\nECHO\r\n$1310720\r\n");
    for (int i = 0; i < 20; i++) {
        client_send(fd, part, sizeof part);
        uint64_t next = clock_ms() + 75;
        AWAIT(clock_ms() >= next);
    }
    client_say(fd, "\r\n");
    client_expect(fd, "$1310720\r\nxxx");
    assert_int_equal(t.host.stats.stalled, 0);
    close(fd);
}

static void test_idle_connections(void **state) {
    (void)state;
    start_idle(10, RECEIVE_MS, SEND_MS, PATIENCE_MS);
    int idle = dial(), waits = dial();
    client_say(idle, "PING\r\n");
    client_expect(idle, "+PONG\r\n");
    client_say(waits, "GET k\r\n");
    AWAIT(t.n_ops == 1);
    AWAIT(client_is_closed(idle));
    assert_int_equal(t.host.bounds.reached[BOUND_IDLE], 1);
    assert_int_equal(t.host.stats.stalled, 0);
    /* Its answer is not there yet. */
    uint64_t later = clock_ms() + 2500;
    AWAIT(clock_ms() >= later);
    complete_bulk(0, 0);
    client_expect(waits, "$0\r\n\r\n");
    AWAIT(client_is_closed(waits));
    close(idle);
    close(waits);
}

/* More than one iteration accepts, and nobody is forgotten. */
static void test_many_connections_at_once(void **state) {
    (void)state;
    enum { MANY = 3 * ACCEPTOR_PER_ITERATION };
    start(MANY, RECEIVE_MS, SEND_MS);
    int fds[MANY];
    for (int i = 0; i < MANY; i++) {
        fds[i] = dial();
        client_say(fds[i], "PING\r\n");
    }
    uv_run(&t.loop, UV_RUN_NOWAIT);
    assert_true(listener_connections(t.listener) <= ACCEPTOR_PER_ITERATION);
    for (int i = 0; i < MANY; i++) {
        client_expect(fds[i], "+PONG\r\n");
    }
    for (int i = 0; i < MANY; i++) {
        close(fds[i]);
    }
}

/* Without descriptors they wait, the loop sleeps, and they are served once there are some. */
static void test_no_descriptors(void **state) {
    (void)state;
    start(10, RECEIVE_MS, SEND_MS);
    int first = dial(), second = dial(), highest = dup(first);
    client_say(second, "PING\r\n");
    struct rlimit before, none;
    getrlimit(RLIMIT_NOFILE, &before);
    none = before;
    none.rlim_cur = (rlim_t)highest;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    unsigned turns = 0;
    uint64_t until = clock_ms() + 500;
    while (clock_ms() < until) {
        uv_run(&t.loop, UV_RUN_ONCE);
        turns++;
    }
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(listener_connections(t.listener), 0);
    assert_true(t.host.bounds.reached[BOUND_DESCRIPTORS] > 0);
    assert_true(turns < 1000); /* the test's own timer fires every 5 ms */
    client_expect(second, "+PONG\r\n");
    close(first);
    close(second);
    close(highest);
}

static void test_client_that_takes_no_replies(void **state) {
    (void)state;
    start(10, RECEIVE_MS, PATIENCE_MS);
    int fd = dial();
    client_say(fd, "GET k\r\n");
    AWAIT(t.n_ops == 1);
    complete_bulk(0, 16 * MIB);
    AWAIT(listener_connections(t.listener) == 0);
    assert_int_equal(t.host.stats.stalled, 1);
    close(fd);
}

static void test_disconnect_with_operations_under_way(void **state) {
    (void)state;
    start(10, RECEIVE_MS, SEND_MS);
    int fd = dial();
    client_say(fd, "GET a\r\nGET b\r\n");
    AWAIT(t.n_ops == 2);
    /* A reset, not an orderly end. */
    struct linger hard = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(fd);
    AWAIT(listener_connections(t.listener) == 0);
    assert_int_equal(t.host.n_slots, 2);
    complete_bulk(1, 100);
    complete_bulk(0, 100);
    assert_int_equal(t.host.n_slots, 0);
}

static void test_half_closed_client_gets_its_reply(void **state) {
    (void)state;
    start(10, RECEIVE_MS, SEND_MS);
    int fd = dial();
    client_say(fd, "GET a\r\n");
    shutdown(fd, SHUT_WR);
    AWAIT(t.n_ops == 1);
    for (int i = 0; i < 5; i++) {
        uv_run(&t.loop, UV_RUN_ONCE);
    }
    complete_bulk(0, 0);
    client_expect(fd, "$0\r\n\r\n");
    AWAIT(client_is_closed(fd));
    close(fd);
}

static void test_close_lets_replies_finish(void **state) {
    (void)state;
    start(10, RECEIVE_MS, SEND_MS);
    int busy = dial(), idle = dial();
    client_say(busy, "GET a\r\n");
    AWAIT(t.n_ops == 1 && listener_connections(t.listener) == 2);
    listener_close(t.listener, DEADLINE_MS, on_closed, NULL);
    AWAIT(client_is_closed(idle));
    assert_false(t.is_closed);
    complete_bulk(0, 0);
    client_expect(busy, "$0\r\n\r\n");
    AWAIT(client_is_closed(busy));
    AWAIT(t.is_closed);
    t.listener = NULL;
    close(busy);
    close(idle);
}

static void test_close_gives_up_after_the_grace(void **state) {
    (void)state;
    start(10, RECEIVE_MS, SEND_MS);
    int busy = dial();
    client_say(busy, "GET a\r\n");
    AWAIT(t.n_ops == 1);
    listener_close(t.listener, PATIENCE_MS, on_closed, NULL);
    AWAIT(t.is_closed);
    t.listener = NULL;
    AWAIT(client_is_closed(busy));
    assert_int_equal(t.host.n_slots, 1);
    close(busy);
}

static void test_address_in_use(void **state) {
    (void)state;
    start(10, RECEIVE_MS, SEND_MS);
    struct listener *other;
    struct error error;
    struct listener_options options = {
        .host = "127.0.0.1", .port = listener_port(t.listener), .max_connections = 1};
    assert_int_equal(listener_open(&other, &t.loop, &options, &t.host, &error), ERROR_IO);
    assert_null(other);
    char text[128];
    snprintf(text, sizeof text, "cannot listen on 127.0.0.1:%u: address already in use",
             listener_port(t.listener));
    assert_string_equal(error.message, text);
    uv_run(&t.loop, UV_RUN_NOWAIT);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_commands_over_a_socket),
        TEST(test_protocol_error_closes),
        TEST(test_too_many_clients),
        TEST(test_large_values_both_ways),
        TEST(test_many_pipelined_commands),
        TEST(test_half_a_command_that_stalls),
        TEST(test_half_a_command_that_drips),
        TEST(test_a_large_command_has_time),
        TEST(test_idle_connections),
        TEST(test_many_connections_at_once),
        TEST(test_no_descriptors),
        TEST(test_client_that_takes_no_replies),
        TEST(test_disconnect_with_operations_under_way),
        TEST(test_half_closed_client_gets_its_reply),
        TEST(test_close_lets_replies_finish),
        TEST(test_close_gives_up_after_the_grace),
        TEST(test_address_in_use),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
