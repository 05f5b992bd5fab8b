#include "client/src/socket.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "client/src/tls.h"

enum { KEEPALIVE_IDLE_S = 15, KEEPALIVE_INTERVAL_S = 5, KEEPALIVE_PROBES = 3 };

static enum socket_status fail(struct connection *connection, struct socket_failure *failure,
                               int error, const char *what, int number) {
    char reason[128];
    failure->error = error;
    snprintf(failure->text, sizeof failure->text, "%.120s: %s: %s", connection->node->name, what,
             strerror_r(number, reason, sizeof reason));
    return SOCKET_FAILED;
}

static enum socket_status fail_tls(struct connection *connection, struct socket_failure *failure) {
    failure->error = IKV_ERR_TLS;
    snprintf(failure->text, sizeof failure->text, "%.100s: %.150s", connection->node->name,
             tls_error(connection->tls));
    return SOCKET_FAILED;
}

static void set_options(int fd) {
    int on = 1;
    int idle = KEEPALIVE_IDLE_S;
    int interval = KEEPALIVE_INTERVAL_S;
    int probes = KEEPALIVE_PROBES;
    /* Without these it works as well, only slower or with less notice of a lost peer. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
}

static socklen_t address_size(const struct sockaddr_storage *address) {
    return address->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                          : sizeof(struct sockaddr_in);
}

static bool watch_socket(struct connection *connection) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = connection};
    connection->wants_output = true;
    return epoll_ctl(connection->client->epoll_fd, EPOLL_CTL_ADD, connection->fd, &event) == 0;
}

enum socket_status socket_connect(struct connection *connection, struct socket_failure *failure) {
    struct node *node = connection->node;
    const struct sockaddr_storage *address = &node->addresses[node->next_address];
    int fd = socket(address->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return fail(connection, failure, IKV_ERR_UNREACHABLE, "no socket", errno);
    }
    set_options(fd);
    int result = connect(fd, (const struct sockaddr *)address, address_size(address));
    if (result != 0 && errno != EINPROGRESS) {
        int number = errno;
        close(fd);
        return fail(connection, failure, IKV_ERR_UNREACHABLE, "cannot connect", number);
    }
    connection->fd = fd;
    if (!watch_socket(connection)) {
        int number = errno;
        socket_close(connection);
        return fail(connection, failure, IKV_ERR_UNREACHABLE, "cannot watch the socket", number);
    }
    return SOCKET_OK;
}

enum socket_status socket_connected(struct connection *connection, struct socket_failure *failure) {
    int number = 0;
    socklen_t size = sizeof number;
    if (getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &number, &size) != 0) {
        number = errno;
    }
    if (number != 0) {
        return fail(connection, failure, IKV_ERR_UNREACHABLE, "cannot connect", number);
    }
    return SOCKET_OK;
}

void socket_close(struct connection *connection) {
    if (connection->fd >= 0) {
        /* A forked child may hold a copy: the peer is to see the end all the same. */
        (void)shutdown(connection->fd, SHUT_RDWR);
        close(connection->fd);
        connection->fd = -1;
    }
}

void socket_want_output(struct connection *connection, bool wants) {
    if (connection->wants_output == wants || connection->fd < 0) {
        return;
    }
    struct epoll_event event = {.events = EPOLLIN | (wants ? EPOLLOUT : 0), .data.ptr = connection};
    if (epoll_ctl(connection->client->epoll_fd, EPOLL_CTL_MOD, connection->fd, &event) == 0) {
        connection->wants_output = wants;
    }
}

static enum socket_status send_plain(struct connection *connection, const char *data, size_t size,
                                     size_t *sent, struct socket_failure *failure) {
    ssize_t result = send(connection->fd, data, size, MSG_NOSIGNAL);
    if (result >= 0) {
        *sent = (size_t)result;
        return SOCKET_OK;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) {
        socket_want_output(connection, true);
        return SOCKET_BLOCKED;
    }
    return fail(connection, failure, IKV_ERR_UNREACHABLE, "connection lost", errno);
}

/* Sends what TLS has made, from connection->cipher. */
static enum socket_status send_cipher(struct connection *connection,
                                      struct socket_failure *failure) {
    struct text *cipher = &connection->cipher;
    for (;;) {
        if (connection->cipher_offset == cipher->size) {
            if (!text_reserve(cipher, CLIENT_SCRATCH)) {
                return fail(connection, failure, IKV_ERR_NOMEM, "TLS output", ENOMEM);
            }
            connection->cipher_offset = 0;
            cipher->size = tls_output(connection->tls, cipher->data, cipher->capacity);
            if (cipher->size == 0) {
                return SOCKET_OK;
            }
        }
        size_t sent = 0;
        enum socket_status status =
            send_plain(connection, cipher->data + connection->cipher_offset,
                       cipher->size - connection->cipher_offset, &sent, failure);
        if (status != SOCKET_OK) {
            return status;
        }
        connection->cipher_offset += sent;
    }
}

enum socket_status socket_send(struct connection *connection, const char *data, size_t size,
                               size_t *sent, struct socket_failure *failure) {
    if (connection->tls == NULL) {
        return send_plain(connection, data, size, sent, failure);
    }
    /* What was made before goes first: no more than one piece of plain text is encrypted ahead. */
    enum socket_status status = send_cipher(connection, failure);
    if (status != SOCKET_OK || size == 0) {
        return status;
    }
    size_t piece = size < CLIENT_SCRATCH ? size : CLIENT_SCRATCH;
    if (tls_write(connection->tls, data, piece) != TLS_OK) {
        return fail_tls(connection, failure);
    }
    *sent = piece;
    status = send_cipher(connection, failure);
    return status == SOCKET_BLOCKED ? SOCKET_OK : status;
}

static enum socket_status receive_plain(struct connection *connection, char *data, size_t size,
                                        size_t *got, struct socket_failure *failure) {
    ssize_t result = recv(connection->fd, data, size, 0);
    if (result > 0) {
        *got = (size_t)result;
        return SOCKET_OK;
    }
    if (result == 0) {
        return SOCKET_ENDED;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) {
        return SOCKET_BLOCKED;
    }
    return fail(connection, failure, IKV_ERR_UNREACHABLE, "connection lost", errno);
}

/* One piece from the socket to TLS. */
static enum socket_status feed_tls(struct connection *connection, struct socket_failure *failure) {
    char piece[16 * 1024];
    size_t got = 0;
    enum socket_status status = receive_plain(connection, piece, sizeof piece, &got, failure);
    if (status == SOCKET_OK && !tls_feed(connection->tls, piece, got)) {
        return fail(connection, failure, IKV_ERR_NOMEM, "TLS input", ENOMEM);
    }
    return status;
}

enum socket_status socket_receive(struct connection *connection, char *data, size_t size,
                                  size_t *got, struct socket_failure *failure) {
    if (connection->tls == NULL) {
        return receive_plain(connection, data, size, got, failure);
    }
    for (;;) {
        enum tls_status status = tls_read(connection->tls, data, size, got);
        if (status == TLS_OK) {
            return SOCKET_OK;
        }
        if (status == TLS_ENDED) {
            return SOCKET_ENDED;
        }
        if (status == TLS_FAILED) {
            return fail_tls(connection, failure);
        }
        enum socket_status fed = feed_tls(connection, failure);
        if (fed != SOCKET_OK) {
            return fed;
        }
    }
}

enum socket_status socket_handshake(struct connection *connection, struct socket_failure *failure) {
    for (;;) {
        enum tls_status status = tls_handshake(connection->tls);
        enum socket_status sent = send_cipher(connection, failure); /* alerts, too */
        if (status == TLS_FAILED) {
            return fail_tls(connection, failure);
        }
        if (sent == SOCKET_FAILED || status == TLS_OK) {
            return sent == SOCKET_FAILED ? sent : SOCKET_OK;
        }
        enum socket_status fed = feed_tls(connection, failure);
        if (fed != SOCKET_OK) {
            return fed;
        }
    }
}
