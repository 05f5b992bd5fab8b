/* What the files of the peer links share: peers_uv.c (the whole, its queue and close),
 * out_link_uv.c (links that this node dials and sends on), in_link_uv.c (links that it accepts and
 * receives on).
 *
 * Lifetime: a link is freed when libuv has let go of its handles; `struct peers` when that is true
 * for all links, the listener and the timers (n_open). So within a callback both stay valid, but
 * after calling the user a link may be closed: its state says so. */
#ifndef RAFT_PEERS_INTERNAL_H
#define RAFT_PEERS_INTERNAL_H

#include <uv.h>

#include "base/list.h"
#include "base/prng.h"
#include "base/tls_stream.h"
#include "raft/lanes.h"
#include "raft/peers.h"
#include "raft/wire.h"

enum {
    PEERS_HANDSHAKE_MS = 5000, /* from the start of a dial or accept to the end of its handshake */
    PEERS_STRANGERS_MAX = 64,  /* accepted connections without a finished handshake */
    PEERS_BACKLOG = 128,
    PEERS_READ_BUFFER = 64 * 1024,
    PEERS_SEND_BUFFER = 1024 * 1024,
    PEERS_NOT_SENT_MAX = 256 * 1024, /* bytes in the kernel that have not left yet */
    /* A link whose other side vanished without a word ends after this time, busy or idle: the first
     * keepalive probes go unanswered, or what was sent does. */
    PEERS_USER_TIMEOUT_MS = 5000,
    PEERS_KEEPALIVE_IDLE_S = 2,
    PEERS_KEEPALIVE_INTERVAL_S = 1,
    PEERS_TRY_WRITES_MAX = 4 /* batches that one flush writes before it yields to the loop */
};

enum out_state { OUT_RESOLVING, OUT_CONNECTING, OUT_GREETING, OUT_UP, OUT_CLOSED };

struct out_link {
    uv_tcp_t tcp;
    uv_timer_t deadline;
    uv_getaddrinfo_t resolve;
    uv_connect_t connect;
    uv_write_t write;
    struct peer *peer;
    enum out_state state;
    unsigned n_pending; /* handles and name look-ups that libuv still holds */
    uint64_t epoch;
    bool writing;  /* `write` is under way */
    bool batching; /* with a batch of `lanes` */
    struct lanes *lanes;
    struct wire_handshake_decoder greeting;
    uint8_t hello[WIRE_HANDSHAKE_MAX];
    struct tls_stream *tls; /* NULL: plaintext */
    struct buffer flying;   /* an encrypted batch, while `write` is under way */
};

/* Strangers become IN_UP by a good handshake. */
enum in_state { IN_GREETING, IN_REFUSING, IN_UP, IN_CLOSED };

struct in_link {
    uv_tcp_t tcp;
    uv_timer_t deadline;
    uv_write_t write;
    struct peers *peers;
    struct peer *peer; /* NULL for strangers */
    enum in_state state;
    unsigned n_pending;
    struct list_node node; /* in peers.strangers until IN_UP */
    uint64_t epoch;
    struct wire_decoder *decoder;
    struct wire_handshake_decoder greeting;
    uint8_t answer[WIRE_HANDSHAKE_MAX];
    char remote[64];        /* "address port", for logs */
    bool is_known;          /* its first byte told whether it uses TLS */
    struct tls_stream *tls; /* NULL: plaintext */
    struct buffer flying;   /* the encrypted answer */
};

/* Another node. */
struct peer {
    struct peers *peers;
    struct peer_address address;
    struct out_link *out; /* attempt or link, NULL while `retry` waits */
    struct in_link *in;   /* established link, or NULL */
    uv_timer_t retry;
    unsigned failures;       /* dials in a row that led to no link */
    bool dials_plain;        /* the last handshake over TLS failed, and TLS is not required */
    int logged;              /* error of the last failed dial that was logged, 0 for none */
    uint64_t in_epoch;       /* the largest epoch that was welcomed ... */
    uint64_t in_incarnation; /* ... of this incarnation */
};

/* Lets one line per second through. */
struct log_limit {
    uint64_t next_ms;
    unsigned suppressed;
};

struct peers {
    struct uv_loop_s *loop;
    struct peers_options options; /* `cluster` owned, `nodes` NULL */
    struct peer *nodes;
    unsigned n_nodes;
    uv_tcp_t listener;
    bool closing;
    unsigned n_open; /* links, listener, timers */
    void (*closed)(void *data);
    void *closed_data;
    struct list_node strangers;
    unsigned n_strangers;
    uint32_t n_dials; /* lower half of link epochs */
    struct prng prng;
    struct log_limit log_limit;
    uint8_t *read_buffer; /* of all links: libuv fills and hands it over in one go */
};

/* peers_uv.c */
struct peer *peers_find(struct peers *peers, uint64_t node);
void peers_log(struct peers *peers, enum peers_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* For lines that a stranger can provoke. */
void peers_log_limited(struct peers *peers, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Fields of HELLO and WELCOME that say who this node is. */
void peers_introduce(const struct peers *peers, struct wire_handshake *handshake);
/* Asks the user whether the other side of a handshake is who it should be. */
bool peers_check(const struct peers *peers, const struct wire_handshake *handshake,
                 struct error *error);
/* Parses an IPv4 or IPv6 literal. */
bool peers_parse_ip(const char *host, uint16_t port, struct sockaddr_storage *address);
/* Options of a connected socket: no delay, dead peers noticed, little unsent data in the kernel. */
void peers_tune_socket(uv_tcp_t *tcp);
void peers_give_read_buffer(struct peers *peers, uv_buf_t *buffer);
/* One of n_open is gone. */
void peers_release(struct peers *peers);

/* out_link_uv.c */
void out_link_dial(struct peer *peer);
void out_link_flush(struct out_link *link);
/* The node was heard of: dials now instead of after the pause. */
void out_link_hurry(struct peer *peer);
/* Ends the link without a word to the user and without another dial. */
void out_link_abort(struct out_link *link);

/* in_link_uv.c */
void in_link_accept(struct peers *peers);
void in_link_abort(struct in_link *link);

#endif
