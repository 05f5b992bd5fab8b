/* One operation of a client on its way through the node: made by the RESP front end, routed to the
 * shard's leader, answered exactly once. */
#ifndef NODE_OP_H
#define NODE_OP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/list.h"
#include "node/machine/command.h"

struct op;
struct job_read;

/* Called exactly once per submitted op, on the loop thread, possibly from within router_submit().
 * The callee may move the result's data out and owns the op again. */
typedef void (*op_done)(struct op *op, struct result *result);

enum op_state {
    OP_NEW,
    OP_PARKED,    /* waits for a leader, or for earlier operations to be settled */
    OP_BATCHED,   /* write: in the batch that this leader proposes next */
    OP_PROPOSED,  /* write: in a log entry of this leader */
    OP_FORWARDED, /* sent to the leader */
    OP_READING    /* read: waits for the leadership check or for the state machine */
};

/* Where a read may be answered; see docs/consistency.md. */
enum read_level {
    READ_LINEARIZABLE, /* by the leader, never stale */
    READ_SESSION,      /* by this node's replica, once it has applied `min_index` */
    READ_EVENTUAL      /* by this node's replica at once */
};

struct op {
    /* Filled by the front end. */
    struct buffer command; /* encoded, see node/machine/command.h; freed by the op's owner */
    unsigned shard;
    bool is_write;
    /* Read only: must see every earlier write of this node to the shard, although those are not yet
     * acknowledged (a pipelined GET behind a SET). */
    bool after_writes;
    /* Reads only. */
    enum read_level level;
    uint64_t min_index;    /* READ_SESSION: the least log index that must be applied */
    uint64_t max_stale_ms; /* READ_EVENTUAL: 0: any age will do */
    /* Reads only: its client has few replies waiting, so this one is run also while clients that
     * take none fill the memory for replies, one of each client at a time. May be NULL: nobody
     * knows. */
    bool (*is_modest)(const struct op *op);
    uint64_t client; /* tells the ops of a client from others' */
    op_done done;
    void *data;

    /* Set by the router before `done`: log index of the write's entry, or up to which the read saw
     * the log; 0: not known. */
    uint64_t seen_index;

    /* Kept by the router. */
    struct list_node link;
    enum op_state state;
    uint64_t sequence;
    uint64_t bytes;       /* counted for it while it is under way */
    bool in_window;       /* write: one of those that its route has sent on their way */
    uint64_t term;        /* in which it was proposed or forwarded */
    uint64_t link_epoch;  /* of the peer link it was forwarded over */
    uint64_t stream;      /* in which it was forwarded; no two attempts share one */
    uint64_t fence;       /* newest fence that was sent before it was forwarded */
    uint64_t sent_ms;     /* when it was forwarded */
    uint64_t index;       /* OP_READING: log index that must be applied first */
    uint64_t round;       /* OP_READING: leadership check to wait for */
    struct job_read *job; /* OP_READING: its place in the job that reads, or NULL */
    bool is_remote;       /* a read forwarded by another node */
    bool fate_lost;       /* a snapshot may have hidden its log entry */
    uint64_t deadline_ms; /* monotonic */
};

struct router;

/* Takes the op until its `done`. */
void router_submit(struct router *router, struct op *op);

#endif
