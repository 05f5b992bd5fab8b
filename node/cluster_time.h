/* Cluster time: the clock of one shard, in milliseconds since the Unix epoch, that decides expiry.
 *
 * Every replica keeps an estimate, which its own monotonic clock carries on. What the leader tells
 * is late by an unknown time, but not by more than the way there and back took: the leader's time
 * is between what it told and that much later, and so the estimate is moved, if it is outside. Late
 * messages thus do not hold it up, and it falls to the time of a new leader that knew less. Inside,
 * it falls by one part in CLUSTER_TIME_LEAK: a clock that runs a little fast would otherwise be
 * ahead of its leader for ever, and the next message in time puts right what fell too far. It is
 * never less than a time seen in an applied batch. Only a leader puts times into batches, and
 * before its first one it "opens" its clock: it asks the voters (with the answers to a probe) and
 * goes on from the largest estimate among a majority. An estimate is anchored when this process has
 * heard the time from a leader, which is in each of its appends, or has led: such a majority
 * carries time across a change of leader without any wall clock. A batch does not anchor, since it
 * may be old. Only when nobody is anchored, that is, after the whole cluster was down, do wall
 * clocks count: each voter tells what the time is by its own, and their median is the floor then.
 * Each counts on from the time that the cluster had before (cluster_time_by_wall()), which may have
 * fallen behind the walls: else the keys would pay for that at once.
 *
 * Pure: monotonic and wall time are arguments. */
#ifndef NODE_CLUSTER_TIME_H
#define NODE_CLUSTER_TIME_H

#include <stdbool.h>
#include <stdint.h>

#include "base/limits.h"

enum {
    CLUSTER_TIME_WAIT_MS = 200,     /* how long an opening waits for the rest of the voters */
    CLUSTER_TIME_LEAK = 200,        /* ten times what clocks may drift from each other */
    CLUSTER_TIME_SILENCE_MS = 1000, /* between two messages no more than this time leaks */
    /* More than two hours between cluster and wall is a clock that was wrong once, by a zone for
     * example: the walls put it right. */
    CLUSTER_TIME_OFFSET_MAX_MS = 2 * 60 * 60 * 1000
};

struct cluster_time_sample {
    uint64_t node;
    uint64_t time_ms;
    uint64_t wall_ms;
    bool anchored;
};

struct cluster_time {
    uint64_t base_ms;   /* cluster time ... */
    uint64_t base_mono; /* ... at this monotonic time */
    uint64_t floor_ms;  /* largest time in an applied batch */
    bool anchored;
    bool opening;
    uint64_t opening_since_ms;
    struct cluster_time_sample samples[LIMIT_NODES];
    unsigned n_samples;
};

/* `clock_ms` is what the shard's database remembers. */
void cluster_time_init(struct cluster_time *clock, uint64_t clock_ms, uint64_t now_ms);

/* A batch with this time was applied, by this process or the one that wrote a snapshot. */
void cluster_time_observe(struct cluster_time *clock, uint64_t time_ms, uint64_t now_ms);
/* The leader, whose clock is open, said that this is the time, at most `age_max_ms` ago
 * (UINT64_MAX: not known). */
void cluster_time_follow(struct cluster_time *clock, uint64_t time_ms, uint64_t age_max_ms,
                         uint64_t now_ms);

uint64_t cluster_time_estimate(const struct cluster_time *clock, uint64_t now_ms);

/* What the time is by a wall clock, when it was `offset_ms` more than that clock said before the
 * process ended; 0: there was no time yet. */
uint64_t cluster_time_by_wall(uint64_t wall_ms, int64_t offset_ms);

/* This replica became leader: its clock is unusable until cluster_time_is_open(). */
void cluster_time_open(struct cluster_time *clock, uint64_t now_ms);
/* A voter's answer, this node's own included. */
void cluster_time_sample(struct cluster_time *clock, const struct cluster_time_sample *sample);
/* Tries to finish opening with the answers so far; true once the clock is open. */
bool cluster_time_settle(struct cluster_time *clock, unsigned n_voters, uint64_t now_ms);
/* No longer leader. */
void cluster_time_abandon(struct cluster_time *clock);

#endif
