#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "node/logging.h"
#include "node/notify.h"

/* The service manager's end: an abstract socket of this process. */
struct manager {
    int fd;
    struct notify notify;
};

static void expect(const struct manager *manager, const char *text) {
    char got[512] = {0};
    ssize_t size = recv(manager->fd, got, sizeof got - 1, MSG_DONTWAIT);
    assert_true(size > 0);
    assert_string_equal(got, text);
}

static void expect_silence(const struct manager *manager) {
    char got[512];
    assert_int_equal(recv(manager->fd, got, sizeof got, MSG_DONTWAIT), -1);
}

static void open_manager(struct manager *manager, const char *watchdog_us) {
    struct sockaddr_un own = {.sun_family = AF_UNIX};
    struct sockaddr_un bound;
    socklen_t size = sizeof bound;
    char name[128] = {0};
    manager->fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    assert_true(manager->fd >= 0);
    /* Without a name the kernel picks an abstract one. */
    assert_int_equal(bind(manager->fd, (struct sockaddr *)&own, sizeof own.sun_family), 0);
    assert_int_equal(getsockname(manager->fd, (struct sockaddr *)&bound, &size), 0);
    snprintf(name, sizeof name, "@%.*s", (int)(size - offsetof(struct sockaddr_un, sun_path)) - 1,
             bound.sun_path + 1);
    setenv("NOTIFY_SOCKET", name, 1);
    unsetenv("WATCHDOG_PID");
    if (watchdog_us != NULL) {
        setenv("WATCHDOG_USEC", watchdog_us, 1);
    } else {
        unsetenv("WATCHDOG_USEC");
    }
    notify_open(&manager->notify);
}

static void close_manager(struct manager *manager) {
    notify_close(&manager->notify);
    (void)close(manager->fd);
}

static void test_nobody_listens(void **state) {
    (void)state;
    struct notify notify;
    unsetenv("NOTIFY_SOCKET");
    notify_open(&notify);
    assert_int_equal(notify.fd, -1);
    notify_tick(&notify, 1000, true, "serves");
    notify_reloading(&notify, 1);
    notify_reloaded(&notify);
    notify_stopping(&notify);
    notify_close(&notify);
}

static void test_names_that_are_none(void **state) {
    (void)state;
    char too_long[200];
    memset(too_long, 'x', sizeof too_long - 1);
    too_long[0] = '/';
    too_long[sizeof too_long - 1] = '\0';
    const char *const names[] = {"", "relative/path", "@", "/", "vsock:2:1234", too_long};
    say_set_level(SAY_ERROR);
    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct notify notify;
        setenv("NOTIFY_SOCKET", names[i], 1);
        notify_open(&notify);
        assert_int_equal(notify.fd, -1);
    }
}

static void test_a_manager_that_is_gone(void **state) {
    (void)state;
    struct manager manager;
    open_manager(&manager, "1000000");
    (void)close(manager.fd);
    notify_tick(&manager.notify, 1000, true, "serves");
    notify_stopping(&manager.notify);
    notify_close(&manager.notify);
}

static void test_a_life(void **state) {
    (void)state;
    struct manager manager;
    open_manager(&manager, NULL);
    notify_tick(&manager.notify, 1000, false, "waiting\nfor others");
    expect(&manager, "STATUS=waiting for others");
    expect(&manager, "EXTEND_TIMEOUT_USEC=60000000");
    notify_reloading(&manager.notify, 7); /* a start is not a reload */
    notify_reloaded(&manager.notify);
    notify_tick(&manager.notify, 1500, false, "waiting\nfor others");
    expect_silence(&manager);
    notify_tick(&manager.notify, 1000 + NOTIFY_EXTEND_EVERY_MS, false, "waiting\nfor others");
    expect(&manager, "EXTEND_TIMEOUT_USEC=60000000");
    notify_tick(&manager.notify, 30000, true, "serves");
    expect(&manager, "STATUS=serves");
    expect(&manager, "READY=1");
    notify_tick(&manager.notify, 90000, true, "serves");
    expect_silence(&manager);

    notify_reloading(&manager.notify, 123456);
    expect(&manager, "RELOADING=1\nMONOTONIC_USEC=123456");
    notify_reloaded(&manager.notify);
    expect(&manager, "READY=1");

    notify_stopping(&manager.notify);
    expect(&manager, "STOPPING=1");
    notify_stopping(&manager.notify);
    notify_reloading(&manager.notify, 7);
    notify_reloaded(&manager.notify);
    expect_silence(&manager);
    close_manager(&manager);
}

static void test_stopped_before_it_was_ready(void **state) {
    (void)state;
    struct manager manager;
    open_manager(&manager, NULL);
    notify_stopping(&manager.notify);
    expect(&manager, "STOPPING=1");
    notify_tick(&manager.notify, 1000, true, "stops");
    expect(&manager, "STATUS=stops");
    expect_silence(&manager);
    close_manager(&manager);
}

static void test_watchdog(void **state) {
    (void)state;
    struct manager manager;
    open_manager(&manager, "30000000");
    notify_tick(&manager.notify, 1000, true, "serves");
    expect(&manager, "STATUS=serves");
    expect(&manager, "WATCHDOG=1");
    expect(&manager, "READY=1");
    notify_tick(&manager.notify, 15999, true, "serves");
    expect_silence(&manager);
    notify_tick(&manager.notify, 16000, true, "serves");
    expect(&manager, "WATCHDOG=1");
    close_manager(&manager);
}

static void test_watchdog_of_somebody_else(void **state) {
    (void)state;
    const char *const times[] = {"0", "-5", "soon", "99999999999999999999"};
    struct manager manager;
    say_set_level(SAY_ERROR);
    for (unsigned i = 0; i < sizeof times / sizeof times[0]; i++) {
        open_manager(&manager, times[i]);
        assert_int_equal(manager.notify.ping_every_ms, 0);
        close_manager(&manager);
    }
    open_manager(&manager, "30000000");
    notify_close(&manager.notify);
    setenv("WATCHDOG_PID", "1", 1);
    notify_open(&manager.notify);
    assert_int_equal(manager.notify.ping_every_ms, 0);
    notify_close(&manager.notify);
    char own[32];
    snprintf(own, sizeof own, "%d", (int)getpid());
    setenv("WATCHDOG_PID", own, 1);
    notify_open(&manager.notify);
    assert_int_equal(manager.notify.ping_every_ms, 15000);
    close_manager(&manager);
}

static void test_a_long_status_is_cut(void **state) {
    (void)state;
    struct manager manager;
    char status[2 * NOTIFY_STATUS_SIZE], wanted[NOTIFY_STATUS_SIZE + 8];
    memset(status, 's', sizeof status - 1);
    status[sizeof status - 1] = '\0';
    open_manager(&manager, NULL);
    notify_tick(&manager.notify, 1000, true, status);
    snprintf(wanted, sizeof wanted, "STATUS=%.*s", NOTIFY_STATUS_SIZE - 1, status);
    expect(&manager, wanted);
    expect(&manager, "READY=1");
    notify_tick(&manager.notify, 1500, true, status);
    expect_silence(&manager);
    close_manager(&manager);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nobody_listens),
        cmocka_unit_test(test_names_that_are_none),
        cmocka_unit_test(test_a_manager_that_is_gone),
        cmocka_unit_test(test_a_life),
        cmocka_unit_test(test_stopped_before_it_was_ready),
        cmocka_unit_test(test_watchdog),
        cmocka_unit_test(test_watchdog_of_somebody_else),
        cmocka_unit_test(test_a_long_status_is_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
