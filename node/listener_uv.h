/* The socket that clients connect to, and the shells of their sessions.
 *
 * In one iteration of the loop a connection reads once, hands over what came, and everything that
 * it has to answer leaves in one write at the iteration's end (just before the loop sleeps).
 * Operations that complete in between mark their connection; commands that were held back go on
 * right after the loop's poll phase, never from within the router.
 *
 * A connection's first byte tells whether it speaks TLS. Handshakes cost a client little and this
 * node much: a few are worked on in one iteration, so that a crowd of them delays no heartbeat, and
 * only so many wait for their client, each for a while.
 *
 * A client that sends a request too slowly is closed: it has receive_ms, and what comes at
 * LISTENER_RATE_MIN or faster extends that. Its silence before a request is another matter, and
 * bounded by idle_ms.
 *
 * Threads: the loop thread. */
#ifndef NODE_LISTENER_UV_H
#define NODE_LISTENER_UV_H

#include <stdint.h>

#include "base/error.h"
#include "node/session.h"

struct uv_loop_s;
struct listener;
struct tls_keys;

enum {
    LISTENER_RATE_MIN = 16 * 1024, /* bytes per second of a request that arrives in time */
    LISTENER_REST_MS = 2000,       /* of silence, then a connection gives memory back */
    LISTENER_HANDSHAKE_MS = 10000, /* from the accept to the end of a TLS handshake */
    LISTENER_HANDSHAKES_MIN = 64,  /* least bound on those that are not done */
    LISTENER_BACKLOG = 1024
};

struct listener_options {
    const char *host; /* name or address to listen on */
    uint16_t port;    /* 0: any, see listener_port() */
    unsigned max_connections;
    uint64_t receive_ms; /* for a request to arrive, or for a stranger to authenticate */
    uint64_t send_ms;    /* for the client to take something of the replies that wait */
    uint64_t idle_ms;    /* between requests, 0: any time */
    /* NULL: no TLS. They stay the caller's, who keeps them until listener_set_tls(). */
    const struct tls_keys *tls;
    bool tls_required;       /* plaintext is refused */
    unsigned max_handshakes; /* TLS handshakes not done; beyond it the oldest is closed */
    uint64_t handshake_ms;   /* LISTENER_HANDSHAKE_MS */
};

/* Binds and listens; resolves `host` while the node starts, so it may block. `sessions` must
 * outlive the listener and all operations. On error *listener is NULL and nothing is left on the
 * loop after its next iteration; the message names address and reason. */
enum error_code listener_open(struct listener **listener, struct uv_loop_s *loop,
                              const struct listener_options *options, struct session_host *sessions,
                              struct error *error);

/* New connections use these keys from now on; those that are there keep theirs. Only where there
 * were keys before. */
void listener_set_tls(struct listener *listener, const struct tls_keys *keys);

/* The port it listens on. */
uint16_t listener_port(const struct listener *listener);
unsigned listener_connections(const struct listener *listener);

/* Stops listening and taking commands; replies of operations under way still go out for up to
 * `grace_ms`, then every connection is closed. `closed` runs when nothing of it is left on the
 * loop; the listener is freed after it returns. A second call is not allowed. */
void listener_close(struct listener *listener, uint64_t grace_ms, void (*closed)(void *data),
                    void *data);

#endif
