/* Sockets of connections, and what goes over them: plain, or through TLS. */
#ifndef CLIENT_SOCKET_H
#define CLIENT_SOCKET_H

#include "client/src/connection.h"

enum socket_status {
    SOCKET_OK,
    SOCKET_BLOCKED, /* epoll will tell */
    SOCKET_ENDED,   /* the peer closed */
    SOCKET_FAILED   /* `error` and `text` are filled */
};

struct socket_failure {
    int error; /* enum ikv_error */
    char text[CLIENT_TEXT_SIZE];
};

/* Begins to connect to the next address of the node. SOCKET_OK: under way. */
enum socket_status socket_connect(struct connection *connection, struct socket_failure *failure);
/* The socket is writable: SOCKET_OK when it is connected. */
enum socket_status socket_connected(struct connection *connection, struct socket_failure *failure);
void socket_close(struct connection *connection);
/* Sends some bytes; *sent > 0 with SOCKET_OK. */
enum socket_status socket_send(struct connection *connection, const char *data, size_t size,
                               size_t *sent, struct socket_failure *failure);
/* Receives up to `size` bytes; *got > 0 with SOCKET_OK. */
enum socket_status socket_receive(struct connection *connection, char *data, size_t size,
                                  size_t *got, struct socket_failure *failure);
/* Goes on with the TLS handshake; SOCKET_OK when it is done. */
enum socket_status socket_handshake(struct connection *connection, struct socket_failure *failure);
/* Asks epoll to tell when the socket takes more, or no longer. */
void socket_want_output(struct connection *connection, bool wants);

#endif
