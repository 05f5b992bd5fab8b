/* Read index: proof that a leader is still the leader, without a log write and without trusting
 * clocks (Raft dissertation, section 6.4).
 *
 * A leader numbers rounds. Reads that arrive join the next round; a round sends one PROBE to every
 * other voter; a voter whose current term equals the leader's answers. Once a majority (with the
 * leader itself) has answered a round, no other leader can have existed when the round began, so
 * that the commit index noted at the read's arrival covers everything acknowledged before it.
 * One round is under way at a time, so that under load all reads of a round trip share it.
 *
 * Pure: the caller sends and counts time. */
#ifndef RAFT_READ_INDEX_H
#define RAFT_READ_INDEX_H

#include <stdbool.h>
#include <stdint.h>

#include "base/limits.h"

struct read_index {
    uint64_t started;   /* number of the newest round that was sent or given up */
    uint64_t confirmed; /* newest round that a majority answered */
    uint64_t wanted;    /* newest round that somebody waits for */
    bool under_way;     /* `started` was sent and is not confirmed */
    struct {
        uint64_t node;
        uint64_t round; /* newest round that this voter answered */
    } acks[LIMIT_NODES];
    unsigned n_acks;
};

/* Gives up the round under way: on each change of role or term. Round numbers go on growing, so
 * that an answer to an older term's round can never count. Nothing gets confirmed by this; who
 * still waits must drop the read, since a later term's round proves nothing about its index. */
void read_index_reset(struct read_index *reads);

/* A read arrives. Returns the round that it has to wait for. */
uint64_t read_index_join(struct read_index *reads);

/* True when the next round should be sent now; the caller sends PROBE(reads->started). */
bool read_index_start(struct read_index *reads);

/* The round under way was perhaps lost: its probes should be sent again. */
bool read_index_is_waiting(const struct read_index *reads);

/* Voter `node` answered `round`. `voters` are the ids of the current configuration's voters, `self`
 * counts as having answered. Returns true when `confirmed` moved. */
bool read_index_ack(struct read_index *reads, uint64_t node, uint64_t round, const uint64_t *voters,
                    unsigned n_voters, uint64_t self);

/* The same without a new answer: for a leader that is its only voter. */
bool read_index_check(struct read_index *reads, const uint64_t *voters, unsigned n_voters,
                      uint64_t self);

#endif
