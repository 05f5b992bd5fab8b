/* Routes operations to the leader of their shard and settles their fate.
 *
 * Each operation is answered exactly once: with its result; with -NOLEADER or -BUSY when it
 * certainly was not carried out; with -UNCERTAIN when nobody can tell. It is never carried out
 * twice. Two writes of one node to one shard take effect in the order in which they came, and a
 * read with `after_writes` sees those before it; reads under way together are concurrent.
 *
 * How the fate of a write is known although the leader died: a write carries (node, boot, sequence)
 * into the log. The node that took it from the client applies the log as well, and sees it pass. It
 * was sent to a leader of term T and no other; once an entry of a later term is applied here, no
 * entry of term T can be committed any more, so a write that has not passed by then never will, and
 * is sent again. When the link to a living leader broke, or its answers were lost, a fence sent
 * behind the writes plays that part. docs/forwarding.md has the argument in full.
 *
 * Pure but for its port. Threads: loop thread only. */
#ifndef NODE_ROUTER_H
#define NODE_ROUTER_H

#include "node/memory_ceiling.h"
#include "node/op.h"
#include "node/shard.h"
#include "raft/peers.h"

struct router_port {
    void *data;
    uint64_t (*now_ms)(void *data);
    bool (*send)(void *data, uint64_t to, enum peer_lane lane, const struct peer_message *message);
    /* Epoch of the outgoing link, 0 while it is down. */
    uint64_t (*link_epoch)(void *data, uint64_t node);
    void (*submit)(void *data, struct job *job);
    /* Log without room for entries (hard), disk nearly full (soft: deletes still pass). */
    bool (*log_is_full)(void *data);
    bool (*disk_is_low)(void *data);
    /* So many replies wait to be sent that no more values should be read for now, but for clients
     * that take theirs (op.is_modest) and other nodes. May be NULL. */
    bool (*replies_are_full)(void *data);
    /* How near memory is to its ceiling: what other nodes forward is refused then. May be NULL. */
    enum memory_level (*memory)(void *data);
    /* Bytes that wait to be sent to a peer. May be NULL. */
    uint64_t (*queued_bytes)(void *data, uint64_t node);
};

struct router_options {
    uint64_t self;
    uint64_t boot; /* never used before by a process with this node id */
    unsigned n_shards;
    struct shard *shards;
    unsigned request_timeout_ms;
    uint64_t inflight_bytes_max; /* of all operations of this node's clients */
    uint64_t window_bytes;       /* writes under way to a shard while others are in use as well */
    uint64_t default_quota;
    struct router_port port;
};

struct router *router_new(const struct router_options *options);
/* Answers what is left with -UNCERTAIN or -NOLEADER, then frees. */
void router_free(struct router *router);

/* From the shards. */
void router_on_role(struct router *router, unsigned shard);
void router_on_reads(struct router *router, unsigned shard);
void router_on_applied(struct router *router, unsigned shard, struct job *job, uint64_t index,
                       uint64_t term, bool gap);

/* From the links. */
void router_on_link(struct router *router, uint64_t node, bool up);
/* A FORWARD or REPLY message; does not take over attachments. False when malformed. */
bool router_receive(struct router *router, uint64_t from, const struct peer_message *message);

/* Proposes what was gathered. Called at the end of each loop iteration. */
void router_flush(struct router *router);
/* Time passed: deadlines and retries. About every 20 ms. */
void router_tick(struct router *router, uint64_t now_ms);

struct router_stats {
    uint64_t inflight; /* operations under way */
    uint64_t inflight_bytes;
    uint64_t forwarded; /* since start */
    uint64_t resent;    /* since start: fate known, sent again */
    uint64_t uncertain; /* since start */
    uint64_t busy;      /* since start: refused for max_memory_inflight or for their number */
    uint64_t pressed;   /* since start: of other nodes, refused for lack of memory here */
    uint64_t uncommitted_bytes; /* of entries that this node proposed as a leader */
};
struct router_stats router_stats(const struct router *router);
/* Monotonic time at which this node's replica of the shard held all that was committed; 0: not
 * known. */
uint64_t router_fresh_ms(const struct router *router, unsigned shard);

/* This node's replica of the shard has a state to read: not so before the node was added to its
 * cluster, nor while a snapshot is taking its place. */
bool router_replica_is_whole(const struct router *router, unsigned shard);
/* What reads of this replica, and who would follow it, are told (-STALE) when it has not. */
#define ROUTER_NOT_WHOLE                                                                           \
    "this replica has not started or is being replaced by a snapshot; ask another node"

#endif
