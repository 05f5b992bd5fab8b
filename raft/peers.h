/* Links between the nodes of a cluster: framed, checksummed, authenticated by identity, bounded.
 *
 * Every node dials every other node; a connection carries messages one way only, from the dialer to
 * the acceptor. So a pair of nodes has two connections, and losing one direction is visible as
 * such.
 *
 * Handshake: the dialer sends HELLO (protocol version, cluster name, its node id, incarnation and
 * boot number, link epoch, the node id it wants to reach); the acceptor answers WELCOME (its own
 * identity) or REFUSED with a reason in words, and closes. Either side refuses a wrong cluster,
 * node id, version, or an incarnation that `check_peer` does not accept. When a newer link of the
 * same node is welcomed, an older one is closed first: after on_link_in() reported epoch e, nothing
 * sent over an earlier epoch of that node is delivered any more.
 *
 * TLS: with keys, both ends show certificates, and each checks that the other's is the one of the
 * node that it is or wants to reach. Unless it is required, plaintext is accepted as well, and
 * dialed when a handshake over TLS failed.
 *
 * Lanes: a message is cut into fragments, and fragments of different lanes interleave, so that
 * megabytes on PEER_LANE_BULK cannot hold up a heartbeat on PEER_LANE_URGENT. Order is kept within
 * a lane, not between lanes. Formats are drawn in raft/wire.h.
 *
 * Losses: a message that peers_send() accepted may still be lost with the connection; Raft and the
 * layers above cope. Nothing is delivered twice, and nothing damaged is delivered: a frame that
 * fails its checks closes the connection.
 *
 * Threads: loop thread only. Callbacks run from libuv's callbacks, never inside peers_send(),
 * peers_flush() or peers_close(); each of these may be called from within a callback. */
#ifndef RAFT_PEERS_H
#define RAFT_PEERS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/limits.h"
#include "base/payload.h"

struct tls_keys;
struct uv_loop_s;
struct peers;

enum peer_lane { PEER_LANE_URGENT = 0, PEER_LANE_NORMAL = 1, PEER_LANE_BULK = 2, PEER_LANES = 3 };

enum {
    PEER_HEADER_MAX = 1 << 20,  /* bytes of a message's header */
    PEER_ATTACHMENTS_MAX = 4096 /* payloads behind it, each at most LIMIT_ENTRY_SIZE */
};

/* All attachments of one message together, bytes: the largest entry and some company. */
#define PEER_ATTACHMENTS_SIZE_MAX (LIMIT_ENTRY_SIZE + 16 * MIB)

/* What urgent messages may queue beyond peers_options.queue_bytes, so that a queue full of bulk
 * does not silence heartbeats. */
#define PEER_URGENT_RESERVE (1 * MIB)

enum peers_log_level { PEERS_LOG_INFO = 0, PEERS_LOG_WARNING = 1 };

/* A message: a small header and payloads that travel without being copied on the sending side and
 * are received into payloads of their own. `type` and `group` are the user's. */
struct peer_message {
    uint8_t type;
    uint16_t group;
    struct slice header;
    unsigned n_attachments;
    struct payload **attachments;
};

enum { PEER_RELEASE_SIZE = 32 }; /* bytes of a release's name, and NUL */

/* Who a node says that it is, beside its id. */
struct peer_identity {
    uint64_t incarnation;            /* of its data directory */
    uint64_t cluster_id;             /* of the cluster it belongs to, 0: none yet */
    uint32_t level;                  /* highest feature level that its release understands */
    char release[PEER_RELEASE_SIZE]; /* for people */
};

struct peer_address {
    uint64_t id;
    char host[64]; /* IPv4, IPv6 or name */
    uint16_t port;
};

struct peers_callbacks {
    void *data;
    /* A message arrived from node `from`. Header and array are valid during the call; the callee
     * takes over the attachments' references. */
    void (*on_message)(void *data, uint64_t from, struct peer_message *message);
    /* The outgoing link to `node` is up (then `epoch` is larger than ever before, also across
     * restarts of this process) or went down. */
    void (*on_link_out)(void *data, uint64_t node, bool up, uint64_t epoch);
    /* The incoming link from `node` is up or went down. */
    void (*on_link_in)(void *data, uint64_t node, bool up, uint64_t epoch);
    /* A dial to `node` ended with "connection refused" or its link was reset or closed by the other
     * side: nobody listens there, a hint that the process is gone. */
    void (*on_gone)(void *data, uint64_t node);
    /* Whether this is `node`: the right incarnation and cluster; a first contact is remembered
     * durably before true is returned. On false the error's message tells both sides' logs why. */
    bool (*check_peer)(void *data, uint64_t node, const struct peer_identity *identity,
                       struct error *error);
    /* The other side refused this node, with its reason (wrong cluster, wiped disk ...). Called at
     * most once per dial. */
    void (*on_refused)(void *data, uint64_t node, const char *reason);
    /* What no other callback tells: failed dials, strangers, damaged bytes. Lines that outsiders
     * can provoke are limited to one per second. May be NULL. */
    void (*log)(void *data, enum peers_log_level level, const char *text);
};

struct peers_options {
    uint64_t self;                 /* node id */
    const char *cluster;           /* name */
    struct peer_identity identity; /* of this node */
    uint64_t boot;                 /* boot number; the upper half of link epochs */
    struct peer_address listen;
    const struct peer_address *nodes; /* all nodes but self */
    unsigned n_nodes;
    uint64_t queue_bytes;      /* most that may wait per peer; see peers_send() */
    unsigned reconnect_min_ms; /* back-off with jitter between dials: first and longest pause */
    unsigned reconnect_max_ms;
    /* Loaded with peer_uri; NULL: no TLS. The caller keeps them until peers_set_tls(). */
    const struct tls_keys *tls;
    bool tls_required;
    struct peers_callbacks callbacks;
};

/* Starts listening and dialing. ERROR_IO when the address cannot be bound. The process must ignore
 * SIGPIPE: libuv writes to sockets that the other side may just have closed. */
enum error_code peers_open(struct peers **peers, struct uv_loop_s *loop,
                           const struct peers_options *options, struct error *error);

/* New links use these keys from now on; those that are up keep theirs. Only where there were keys
 * before. */
void peers_set_tls(struct peers *peers, const struct tls_keys *keys);

/* From now on this node says that it belongs to this cluster; links that are up stay. */
void peers_set_cluster_id(struct peers *peers, uint64_t cluster_id);

/* These are the other nodes from now on: links to those that are missing, or have another address,
 * end without a word to the user except on_link_out() and on_link_in(); new ones are dialed. At
 * most LIMIT_NODES - 1. Not from within a callback. */
void peers_set_nodes(struct peers *peers, const struct peer_address *nodes, unsigned n_nodes);

/* Closes everything; no other callback runs any more, then `closed` runs on the loop, after which
 * the memory is gone. */
void peers_close(struct peers *peers, void (*closed)(void *data), void *data);

/* Queues a message; takes own references to the attachments, copies the header. False when the link
 * is down or its queue full: the message is dropped, nothing else happens. A lane on which nothing
 * waits takes one message of any size, so that a message larger than queue_bytes can pass. A
 * message beyond the bounds above is a bug of the caller and fails an assertion. Written to the
 * socket at the end of the loop iteration (peers_flush), many messages in one system call. */
bool peers_send(struct peers *peers, uint64_t to, enum peer_lane lane,
                const struct peer_message *message);

/* Writes what is queued. Called once at the end of each loop iteration. */
void peers_flush(struct peers *peers);

/* State for routing, INFO and tests. */
bool peers_is_up(const struct peers *peers, uint64_t node);
uint64_t peers_epoch(const struct peers *peers, uint64_t node); /* of the outgoing link, or 0 */
uint64_t peers_boot(const struct peers *peers);                 /* as given to peers_open() */
uint64_t peers_queued_bytes(const struct peers *peers, uint64_t node);
uint64_t peers_bulk_queued(const struct peers *peers, uint64_t node, uint16_t group); /* messages */

#endif
