/* Raft's messages between nodes, as the header of a peer message. Pure.
 *
 * Every header starts with
 *     u64  sender's term
 *     u8   flags of the sender: see enum raft_sender_flags
 * and goes on with the fields of its type, all little-endian:
 *
 *   APPEND         u64 prev index, u64 prev term, u64 leader commit,
 *                  u64 leader's cluster time in ms or 0, u16 n,
 *                  n times { u64 term, u8 kind }; the entries' payloads are the attachments
 *   APPEND_RESULT  u64 rejected index or 0, u64 last index
 *   VOTE           u64 candidate, u64 last index, u64 last term, u8 bits (1 disrupt, 2 pre-vote)
 *   VOTE_RESULT    u8 bits (1 granted, 2 pre-vote)
 *   TIMEOUT_NOW    u64 last index, u64 last term
 *   PROBE          u64 round: is the sender still leader of its term?
 *   PROBE_ACK      u64 round, u64 cluster time in ms, u64 wall clock in ms, u8 bits (1 anchored)
 *
 * InstallSnapshot has no message of its own: raft/snapshot_stream.h carries snapshots. */
#ifndef RAFT_MESSAGES_H
#define RAFT_MESSAGES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"

/* Types of peer messages that belong to consensus. */
enum raft_message_kind {
    PEER_MESSAGE_APPEND = 1,
    PEER_MESSAGE_APPEND_RESULT = 2,
    PEER_MESSAGE_VOTE = 3,
    PEER_MESSAGE_VOTE_RESULT = 4,
    PEER_MESSAGE_TIMEOUT_NOW = 5,
    PEER_MESSAGE_PROBE = 6,
    PEER_MESSAGE_PROBE_ACK = 7,
    PEER_MESSAGE_RAFT_LAST = 7
};

enum raft_sender_flags {
    RAFT_SENDER_DISK_LOW = 1, /* the sender refuses new entries: its disk is nearly full */
    RAFT_SENDER_NEWCOMER = 2  /* it could not stand for election: it must not become a voter yet */
};

enum { RAFT_APPEND_ENTRIES_MAX = 256 /* entries of one APPEND message */ };

struct raft_wire_entry {
    uint64_t term;
    uint8_t kind;
};

/* One decoded header. */
struct raft_wire {
    uint8_t kind; /* enum raft_message_kind */
    uint8_t sender_flags;
    uint64_t term;
    union {
        struct {
            uint64_t prev_index;
            uint64_t prev_term;
            uint64_t commit;
            uint64_t time_ms;
            uint64_t sent_ms;  /* by the sender's clock */
            uint64_t heard_ms; /* sent_ms of the receiver's newest APPEND_RESULT, 0: none */
            unsigned n;
            struct raft_wire_entry entries[RAFT_APPEND_ENTRIES_MAX];
        } append;
        struct {
            uint64_t rejected;
            uint64_t last_index;
            uint64_t sent_ms;  /* by the sender's clock */
            uint64_t heard_ms; /* sent_ms of the receiver's newest APPEND of this term, 0: none */
        } append_result;
        struct {
            uint64_t candidate;
            uint64_t last_index;
            uint64_t last_term;
            bool disrupt;
            bool pre_vote;
        } vote;
        struct {
            bool granted;
            bool pre_vote;
        } vote_result;
        struct {
            uint64_t last_index;
            uint64_t last_term;
        } timeout_now;
        struct {
            uint64_t round;
        } probe;
        struct {
            uint64_t round;
            uint64_t time_ms;
            uint64_t wall_ms;
            bool anchored;
        } probe_ack;
    };
};

void raft_wire_encode(struct buffer *out, const struct raft_wire *wire);

/* False when the header is not exactly one well-formed message of this kind: a kind that is not
 * known, a wrong length, a term or index of 0 where none can be, an unknown entry kind, indexes
 * that would overflow. */
bool raft_wire_decode(uint8_t kind, struct slice header, struct raft_wire *wire);

#endif
