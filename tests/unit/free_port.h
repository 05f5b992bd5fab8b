/* Ports for tests that listen at a known place. Not such as the kernel gives to whoever asks for
 * any: by the time of the test another process may have got it, since tests run side by side. */
#ifndef TESTS_UNIT_FREE_PORT_H
#define TESTS_UNIT_FREE_PORT_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* A port belongs to the process that has bound this name, until it ends; tests/integration/harness
 * (cluster.py) goes by the same names. */
static inline bool free_port_reserve(uint16_t port) {
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int length = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "invoke-kv-test-port-%u",
                          (unsigned)port);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && bind(fd, (const struct sockaddr *)&name, size) == 0) {
        return true; /* stays open */
    }
    (void)close(fd);
    return false;
}

static inline bool free_port_is_free(uint16_t port) {
    const int on = 1;
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool is_free = setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
                   bind(fd, (const struct sockaddr *)&address, sizeof address) == 0;
    (void)close(fd);
    return is_free;
}

/* Of 127.0.0.1, below those that outgoing connections are given. */
static inline uint16_t free_port(void) {
    for (;;) {
        uint16_t drawn = 0;
        assert_int_equal(getrandom(&drawn, sizeof drawn, 0), sizeof drawn);
        uint16_t port = (uint16_t)(10240 + drawn % (32000 - 10240));
        if (free_port_reserve(port) && free_port_is_free(port)) {
            return port;
        }
    }
}

#endif
