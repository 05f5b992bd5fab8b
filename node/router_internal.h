/* Shared by router.c and router_lead.c only. */
#ifndef NODE_ROUTER_INTERNAL_H
#define NODE_ROUTER_INTERNAL_H

#include "node/forward.h"
#include "node/router.h"

enum {
    ROUTER_SLOTS = 1 << 16,        /* operations of this node's clients under way */
    ROUTER_REMOTE_READS = 1 << 17, /* reads for other nodes under way */
    ROUTER_RETRY_MS = 10,          /* after a refusal or while nobody leads */
    ROUTER_FENCE_MS = 500,         /* between two fences */
    ROUTER_SILENCE_MS = 1000,      /* without an answer before a fence asks */
    ROUTER_READ_JOB = 1024,        /* reads of one job */
    ROUTER_READ_JOBS = 4,          /* of a leader under way: what they answer has a bound each */
    ROUTER_UNCOMMITTED_BYTES = 96 << 20, /* proposed by this leader and not yet applied */
    ROUTER_REPLY_QUEUE = 16 << 20,       /* no reads for a peer while more waits to be sent to it */
    ROUTER_BATCHES = 256,                /* entries proposed at once */
    ROUTER_ALONE = 64 * 1024,            /* larger commands are batches of their own */
    /* See router_options.window_bytes. */
    ROUTER_WINDOW_OPS = 2,      /* writes may be under way, of any size */
    ROUTER_WINDOW_HOLD_MS = 200 /* another shard counts as in use for so long */
};

/* A sequence number with this bit is a fence, the rest its number. */
#define ROUTER_FENCE_BIT ((uint64_t)1 << 63)

/* A command of another node in the batch being gathered. */
struct route_remote {
    uint64_t node;
    struct forward_reply reply; /* who to tell when the batch cannot be proposed */
};

/* What the next flush proposes: finished batches and the commands of other nodes in them. */
struct route_batches {
    struct payload *closed[ROUTER_BATCHES];
    unsigned n_closed;
    uint64_t bytes;
    struct route_remote *remotes;
    unsigned n_remotes;
    unsigned remotes_capacity;
};

/* One shard, as the router sees it. */
struct route {
    struct router *router;
    unsigned number;
    struct shard *shard;

    /* Operations of this node's clients, in the order of their sequence. Those in flight were all
     * sent under one term and, when forwarded, in one stream and over one lane of one link. */
    struct list_node parked;
    struct list_node inflight;
    uint64_t retry_at_ms;
    uint64_t window_bytes; /* of writes in flight ... */
    unsigned window_ops;   /* ... and their number */

    /* Forwarding. */
    uint64_t stream;
    bool stream_broken; /* something of it waits again: the next one begins when it is settled */
    bool draining;      /* router_drain() is under way; callbacks may lead back to it */
    enum peer_lane lane;
    uint64_t answered;   /* largest sequence of the stream that the leader has taken */
    uint64_t last_large; /* sequence of the newest operation that needs the bulk lane */
    uint64_t fences;     /* sent so far */
    uint64_t fence_sent_ms;

    /* Leading: what the next flush proposes, and reads. */
    struct buffer batch;
    unsigned batch_commands;
    struct route_batches gathered;
    uint64_t flushes; /* numbers the flushes; kept in op->index of proposed operations */
    uint64_t uncommitted_bytes;
    struct list_node reading;   /* OP_READING: wait for their round and index */
    struct list_node executing; /* in a read job */
    unsigned read_jobs;         /* of those that wait in `reading` */

    /* Reads that this node's replica answers, whoever leads. */
    struct list_node local;    /* wait for their index or for the job before */
    bool local_job;            /* one is under way; never two, so that reads take effect in order */
    uint64_t fresh_ms;         /* the replica held all that was committed then; 0: not known */
    struct group_contact mark; /* a later time, to count once its index is applied; 0: none */
    struct {
        uint64_t node;
        uint64_t boot;
        uint64_t stream;
    } refused[LIMIT_NODES];
    unsigned n_refused;
};

struct router {
    struct router_options options;
    struct route *routes;
    struct op **slots; /* by sequence modulo ROUTER_SLOTS */
    uint64_t next_sequence;
    unsigned remote_reads;
    struct router_stats stats;

    /* The shard that was last in use by clients of any node, as far as this one sees, when that
     * was, and when any other was. */
    unsigned used_shard;
    uint64_t used_ms;
    uint64_t other_used_ms;
};

/* router.c */
uint64_t router_now(const struct router *router);
/* Ends an operation with a result (or an error) and releases the result. */
void router_finish(struct router *router, struct op *op, struct result *result);
void router_fail(struct router *router, struct op *op, enum error_code code, const char *text);
void router_note_use(struct router *router, unsigned shard);
/* A write goes on its way: proposed or forwarded. */
void router_enter_window(struct route *route, struct op *op);
/* Puts an operation among the parked ones, by sequence. */
void router_park(struct route *route, struct op *op);
void router_drain(struct route *route);
bool router_leads(const struct route *route);

/* Replies fill the memory for them: may this read be run nevertheless? Not behind another one of
 * its client, *client, whose answer is not known yet. */
static inline bool router_is_modest(const struct op *op, uint64_t *client) {
    if (op->is_remote) {
        return true;
    }
    bool is_modest = op->is_modest != NULL && op->client != *client && op->is_modest(op);
    *client = is_modest ? op->client : *client;
    return is_modest;
}

/* router_lead.c */
enum lead_answer { LEAD_TAKEN, LEAD_LATER, LEAD_ANSWERED };
/* A local operation at its shard's leader, which is this node. LEAD_ANSWERED: it is done. */
enum lead_answer lead_submit(struct route *route, struct op *op);
void lead_receive(struct route *route, uint64_t from, const struct forward *forward);
/* False when what was gathered could not be proposed: it is parked or refused. */
bool lead_flush(struct route *route);
/* This node does not lead (or is not ready): nothing gathered can be proposed, no read be run. */
void lead_abandon(struct route *route);
void lead_run_reads(struct route *route);
void lead_on_applied(struct route *route, const struct job *job, uint64_t index);
/* Reads that the state machine has not answered by `now_ms` are answered with an error. */
void lead_expire_executing(struct route *route, uint64_t now_ms);
/* Sends the result of another node's command to it. */
void lead_reply(struct route *route, const struct job_result *result);

/* router_local.c */
/* A read for this node's replica; it may be answered at once. */
void local_submit(struct route *route, struct op *op);
void local_run(struct route *route);
/* Notes how fresh the replica is. After each apply and about every 20 ms. */
void local_note_fresh(struct route *route);
/* Reads whose index was not reached by their deadline. */
void local_expire(struct route *route, uint64_t now_ms);
/* What waits is answered: this node stops. */
void local_close(struct route *route);

#endif
