/* A listening socket. In one iteration of the loop it hands over so many connections and leaves the
 * rest in the kernel's queue. There they wait as well while the process or the system has no
 * descriptor for them: trying again at once would only burn time, so the owner says when.
 *
 * Threads: the loop thread. */
#ifndef NODE_ACCEPTOR_UV_H
#define NODE_ACCEPTOR_UV_H

#include <stdint.h>
#include <uv.h>

#include "base/error.h"

struct acceptor;

enum { ACCEPTOR_PER_ITERATION = 64, ACCEPTOR_BACKLOG = 1024 };

struct acceptor_callbacks {
    void *data;
    /* A connection is there: call acceptor_take() once, with an initialised handle. */
    void (*on_connection)(void *data);
    /* There are no descriptors; nothing happens before acceptor_go_on(). */
    void (*on_shortage)(void *data, const char *reason);
};

/* Binds and listens; resolves `host`, so it may block. `port` 0: any. On error *acceptor is NULL
 * and nothing is left on the loop. */
enum error_code acceptor_open(struct acceptor **acceptor, uv_loop_t *loop, const char *host,
                              uint16_t port, const struct acceptor_callbacks *callbacks,
                              struct error *error);
uint16_t acceptor_port(const struct acceptor *acceptor);

/* Only within on_connection. 0, or libuv's error: then the connection is gone. */
int acceptor_take(struct acceptor *acceptor, uv_tcp_t *tcp);

/* After on_shortage; otherwise without effect. */
void acceptor_go_on(struct acceptor *acceptor);

/* Stops listening at once; freed when `closed` returns. */
void acceptor_close(struct acceptor *acceptor, void (*closed)(void *data), void *data);

#endif
