/* Cluster time: the clock of one shard, in milliseconds since the Unix epoch, that decides expiry.
 *
 * Every replica keeps an estimate: what its leader told last, plus its own monotonic time since,
 * and never less than a time it has seen in an applied batch. It follows the leader downwards as
 * well: a clock that runs a little fast would otherwise be ahead by more and more, and take keys
 * away too early once it leads. Of what was told within the last CLUSTER_TIME_WINDOW_MS (or up to
 * twice as long) the least delayed counts. Only a leader puts times into batches, and before its
 * first one it "opens" its clock: it asks the voters (with the answers to a probe) and goes on from
 * the largest estimate among a majority. An estimate is anchored when this process has heard the
 * time from a leader, which is in each of its appends, or has led: such a majority carries time
 * across a change of leader without any wall clock. A batch does not anchor, since it may be old.
 * Only when nobody is anchored, that is, after the whole cluster was down, does wall time count:
 * the median of the voters' wall clocks is the floor then.
 *
 * Pure: monotonic and wall time are arguments. */
#ifndef NODE_CLUSTER_TIME_H
#define NODE_CLUSTER_TIME_H

#include <stdbool.h>
#include <stdint.h>

#include "base/limits.h"

enum {
    CLUSTER_TIME_WAIT_MS = 200,  /* how long an opening waits for the rest of the voters */
    CLUSTER_TIME_WINDOW_MS = 500 /* what the leader told counts for this time, or twice as long */
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
    /* Largest difference between what was told and the monotonic clock, in this window and in the
     * one before. */
    bool following;
    int64_t offset_ms;
    int64_t offset_before_ms;
    uint64_t window_since_ms;
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
/* The leader, whose clock is open, said that this is the time. */
void cluster_time_follow(struct cluster_time *clock, uint64_t time_ms, uint64_t now_ms);

uint64_t cluster_time_estimate(const struct cluster_time *clock, uint64_t now_ms);

/* This replica became leader: its clock is unusable until cluster_time_is_open(). */
void cluster_time_open(struct cluster_time *clock, uint64_t now_ms);
/* A voter's answer, this node's own included. */
void cluster_time_sample(struct cluster_time *clock, const struct cluster_time_sample *sample);
/* Tries to finish opening with the answers so far; true once the clock is open. */
bool cluster_time_settle(struct cluster_time *clock, unsigned n_voters, uint64_t now_ms);
/* No longer leader. */
void cluster_time_abandon(struct cluster_time *clock);

#endif
