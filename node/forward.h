/* Operations that travel from the node a client talks to, to the shard's leader, and their answers.
 * Pure: encoding only. docs/forwarding.md tells why an operation is never lost and never done
 * twice.
 *
 *   FORWARD  u64 term, u64 stream, u64 boot, u64 sequence, u8 flags, then the command, or the
 *            command as the only attachment when it is large
 *   REPLY    u64 term, u64 stream, u64 boot, u64 sequence (all as in the FORWARD), u8 kind, then
 * the encoded result (kind RESULT), or a bulk result's bytes as the only attachment when they are
 * large (kind BULK) */
#ifndef NODE_FORWARD_H
#define NODE_FORWARD_H

#include "node/machine/command.h"
#include "raft/peers.h"

enum {
    PEER_MESSAGE_FORWARD = 16,
    PEER_MESSAGE_REPLY = 17,
    PEER_MESSAGE_DIGEST = 18,
    PEER_MESSAGE_REPLACE = 19
};

/* Larger commands and results travel as an attachment on the bulk lane. */
enum { FORWARD_INLINE_MAX = 32 * 1024 };

enum forward_flags {
    FORWARD_WRITE = 1,
    FORWARD_AFTER_WRITES = 2, /* a read that must see the writes forwarded before it */
    FORWARD_FENCE = 4         /* a write without effect; `sequence` is a link epoch */
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
    FORWARD_REPLY_RESULT = 0,
    FORWARD_REPLY_BULK = 1,
    FORWARD_REPLY_REFUSED = 2 /* not carried out; send it again when a leader is ready */
};

struct forward_reply {
    uint64_t term;
    uint64_t stream;
    uint64_t boot;
    uint64_t sequence;
    enum forward_reply_kind kind;
    struct result result; /* owned; RESULT and BULK only */
};

/* Builds the peer message. `header` and `attachment` are storage for it; the caller frees both (the
 * attachment with payload_unref, it may stay NULL). Returns the lane to send it on. */
enum peer_lane forward_encode(const struct forward *forward, uint16_t shard, struct buffer *header,
                              struct payload **attachment, struct peer_message *message);
/* Slices point into the message. */
bool forward_decode(const struct peer_message *message, struct forward *forward);

enum peer_lane forward_reply_encode(const struct forward_reply *reply, uint16_t shard,
                                    struct buffer *header, struct payload **attachment,
                                    struct peer_message *message);
/* Fills reply->result, which the caller frees. */
bool forward_reply_decode(const struct peer_message *message, struct forward_reply *reply);

#endif
