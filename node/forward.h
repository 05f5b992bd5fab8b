/* Operations that travel from the node a client talks to, to the shard's leader, and their answers.
 * Pure: encoding only. docs/forwarding.md tells why an operation is never lost and never done
 * twice.
 *
 *   FORWARD  u64 term, u64 stream, u64 boot, u64 sequence, u8 flags, then the command, or the
 *            command as the only attachment when it is large
 *   REPLY    u64 term, u64 stream, u64 boot, u64 sequence (as in the FORWARD; term and stream are 0
 *            where the result of a write comes from the log), u8 kind, then, when the kind's
 *            highest bit is set, u64 log index (of the write's entry, or up to which the read saw),
 *            then the encoded result (kinds RESULT and FAILED), or a bulk result's bytes as the
 *            only attachment when they are large (kind BULK). Nodes up to 0.1 send no index. */
#ifndef NODE_FORWARD_H
#define NODE_FORWARD_H

#include "node/machine/command.h"
#include "raft/peers.h"

enum {
    PEER_MESSAGE_FORWARD = 16,
    PEER_MESSAGE_REPLY = 17,
    PEER_MESSAGE_DIGEST = 18,
    PEER_MESSAGE_ORDER = 19
};

enum {
    FORWARD_INLINE_MAX = 32 * 1024, /* larger commands and results travel as an attachment */
    FORWARD_NORMAL_MAX = 128 * 1024 /* larger commands take the bulk lane */
};

enum forward_flags {
    FORWARD_WRITE = 1,
    FORWARD_AFTER_WRITES = 2, /* a read that must see the writes forwarded before it */
    FORWARD_FENCE = 4         /* a write without effect; `sequence` numbers the sender's fences */
};

struct forward {
    uint64_t term;   /* in which the addressee leads; it refuses when that is over */
    uint64_t stream; /* after one refusal the rest of a stream is refused too, to keep order */
    uint64_t boot;
    uint64_t sequence;
    uint8_t flags;
    struct slice command;
};

enum forward_reply_kind {
    /* The operation's result, true whichever attempt it answers. */
    FORWARD_REPLY_RESULT = 0,
    FORWARD_REPLY_BULK = 1,
    /* This attempt, known by its stream, was not carried out: */
    FORWARD_REPLY_REFUSED = 2, /* send it again when a leader is ready */
    FORWARD_REPLY_FAILED = 3   /* give up; the result tells why */
};

struct forward_reply {
    uint64_t term;
    uint64_t stream;
    uint64_t boot;
    uint64_t sequence;
    enum forward_reply_kind kind;
    uint64_t index;       /* RESULT and BULK; 0: not known */
    struct result result; /* owned; empty when REFUSED */
};

/* Builds the peer message. `header` and `attachment` are storage for it; the caller frees both (the
 * attachment with payload_unref, it may stay NULL). The lane is the sender's choice, since
 * forwarded operations must not overtake each other. */
void forward_encode(const struct forward *forward, uint16_t shard, struct buffer *header,
                    struct payload **attachment, struct peer_message *message);
/* Slices point into the message. */
bool forward_decode(const struct peer_message *message, struct forward *forward);

/* Returns the lane to send it on: replies have no order. */
enum peer_lane forward_reply_encode(const struct forward_reply *reply, uint16_t shard,
                                    struct buffer *header, struct payload **attachment,
                                    struct peer_message *message);
/* Fills reply->result, which the caller frees. */
bool forward_reply_decode(const struct peer_message *message, struct forward_reply *reply);

#endif
