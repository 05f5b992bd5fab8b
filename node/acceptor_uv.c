#include "node/acceptor_uv.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/mem.h"

struct acceptor {
    uv_loop_t *loop;
    struct acceptor_callbacks callbacks;
    uv_poll_t poll;
    int socket;
    int accepted; /* in on_connection, else -1 */
    uint16_t port;
    bool is_short;
    bool is_closing;
    void (*closed)(void *data);
    void *closed_data;
};

/* ---- accepting ---- */

/* Rather than the end of a single connection. */
static bool is_shortage(int error) {
    return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

static void hand_over(struct acceptor *acceptor, int socket) {
    acceptor->accepted = socket;
    acceptor->callbacks.on_connection(acceptor->callbacks.data);
    ASSERT(acceptor->accepted < 0);
}

static void on_readable(uv_poll_t *poll, int status, int events) {
    struct acceptor *acceptor = poll->data;
    (void)status;
    (void)events;
    for (unsigned i = 0; i < ACCEPTOR_PER_ITERATION && !acceptor->is_closing; i++) {
        int socket = accept4(acceptor->socket, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (socket >= 0) {
            hand_over(acceptor, socket);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return;
        } else if (is_shortage(errno)) {
            const char *reason = uv_strerror(-errno);
            acceptor->is_short = true;
            uv_poll_stop(&acceptor->poll);
            acceptor->callbacks.on_shortage(acceptor->callbacks.data, reason);
            return;
        }
    }
}

int acceptor_take(struct acceptor *acceptor, uv_tcp_t *tcp) {
    int socket = acceptor->accepted;
    ASSERT(socket >= 0);
    acceptor->accepted = -1;
    int result = uv_tcp_open(tcp, socket);
    if (result != 0) {
        (void)close(socket);
    }
    return result;
}

void acceptor_go_on(struct acceptor *acceptor) {
    if (acceptor->is_short && !acceptor->is_closing) {
        acceptor->is_short = false;
        uv_poll_start(&acceptor->poll, UV_READABLE, on_readable);
    }
}

/* ---- opening and closing ---- */

static enum error_code set_error(struct error *error, int status, const char *host, uint16_t port,
                                 const char *what) {
    return error_set(error, ERROR_IO, "cannot %s %s:%u: %s", what, host, port, uv_strerror(status));
}

static enum error_code resolve(uv_loop_t *loop, const char *host, uint16_t port,
                               struct sockaddr_storage *address, struct error *error) {
    char text[8];
    snprintf(text, sizeof text, "%u", port);
    const struct addrinfo hints = {.ai_family = AF_UNSPEC,
                                   .ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    uv_getaddrinfo_t request;
    int result = uv_getaddrinfo(loop, &request, NULL, host, text, &hints);
    if (result != 0) {
        return set_error(error, result, host, port, "resolve");
    }
    memcpy(address, request.addrinfo->ai_addr, request.addrinfo->ai_addrlen);
    uv_freeaddrinfo(request.addrinfo);
    return ERROR_NONE;
}

/* The socket, or libuv's error. *address becomes the one that it has. */
static int listen_on(struct sockaddr_storage *address) {
    const int yes = 1;
    socklen_t length =
        address->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    struct sockaddr *bare = (struct sockaddr *)address;
    int fd = socket(address->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == 0 &&
        bind(fd, bare, length) == 0 && listen(fd, ACCEPTOR_BACKLOG) == 0 &&
        getsockname(fd, bare, &length) == 0) {
        return fd;
    }
    int status = -errno;
    if (fd >= 0) {
        (void)close(fd);
    }
    return status;
}

static uint16_t port_of(const struct sockaddr_storage *address) {
    if (address->ss_family == AF_INET6) {
        struct sockaddr_in6 six;
        memcpy(&six, address, sizeof six);
        return ntohs(six.sin6_port);
    }
    struct sockaddr_in four;
    memcpy(&four, address, sizeof four);
    return ntohs(four.sin_port);
}

enum error_code acceptor_open(struct acceptor **out, uv_loop_t *loop, const char *host,
                              uint16_t port, const struct acceptor_callbacks *callbacks,
                              struct error *error) {
    struct sockaddr_storage address = {0};
    *out = NULL;
    enum error_code code = resolve(loop, host, port, &address, error);
    if (code != ERROR_NONE) {
        return code;
    }
    int socket = listen_on(&address);
    if (socket < 0) {
        return set_error(error, socket, host, port, "listen on");
    }
    struct acceptor *acceptor = mem_zalloc(1, sizeof *acceptor);
    acceptor->loop = loop;
    acceptor->callbacks = *callbacks;
    acceptor->socket = socket;
    acceptor->accepted = -1;
    acceptor->port = port_of(&address);
    int result = uv_poll_init_socket(loop, &acceptor->poll, socket);
    ASSERT(result == 0);
    acceptor->poll.data = acceptor;
    uv_poll_start(&acceptor->poll, UV_READABLE, on_readable);
    *out = acceptor;
    return ERROR_NONE;
}

uint16_t acceptor_port(const struct acceptor *acceptor) {
    return acceptor->port;
}

static void on_closed(uv_handle_t *handle) {
    struct acceptor *acceptor = handle->data;
    acceptor->closed(acceptor->closed_data);
    mem_free(acceptor);
}

void acceptor_close(struct acceptor *acceptor, void (*closed)(void *data), void *data) {
    ASSERT(!acceptor->is_closing);
    acceptor->is_closing = true;
    acceptor->closed = closed;
    acceptor->closed_data = data;
    uv_close((uv_handle_t *)&acceptor->poll, on_closed);
    (void)close(acceptor->socket);
}
