/* One shard on this node: its Raft group, its state machine and its clock, and how they hang
 * together. Committed entries go to the state machine; what it has durably applied lets the log be
 * cut; a follower that fell behind gets the database; a received database replaces this one.
 *
 * Does no I/O of its own. Threads: loop thread only. */
#ifndef NODE_SHARD_H
#define NODE_SHARD_H

#include "node/cluster_time.h"
#include "node/jobs.h"
#include "raft/group.h"

struct shard;

struct shard_port {
    void *data;
    uint64_t (*now_ms)(void *data);  /* monotonic */
    uint64_t (*wall_ms)(void *data); /* since the Unix epoch */
    void (*submit)(void *data, struct job *job);
    /* Starts streaming the database file; false when that is not possible now. */
    bool (*send_snapshot)(void *data, unsigned shard, uint64_t to,
                          const struct snapshot_info *info);
    /* Removes a received file that is not wanted. */
    void (*discard)(void *data, const char *path);
    /* Role, leader, term or readiness changed. */
    void (*on_role)(void *data, unsigned shard);
    /* Reads up to `round` are confirmed, or the applied index moved on. */
    void (*on_reads)(void *data, unsigned shard);
    /* Entries were applied: job->results and job->events, then everything up to `index`, whose
     * entry has `term`, is settled. `gap`: a snapshot was installed, so that results of some
     * entries are unknown. */
    void (*on_applied)(void *data, unsigned shard, struct job *job, uint64_t index, uint64_t term,
                       bool gap);
    /* A digest at an index where every replica takes one. */
    void (*on_digest)(void *data, unsigned shard, struct job_digest digest);
    void (*on_event)(void *data, unsigned shard, const char *event, uint64_t number);
};

struct shard_options {
    unsigned number;
    uint64_t self;
    uint64_t boot;
    struct log *log;
    struct group *group;
    struct shard_port port;
    uint64_t snapshot_log_bytes; /* checkpoint and cut after this many bytes of entries */
    unsigned trailing_entries;
    unsigned tick_ms;  /* least time between two expiry ticks */
    size_t feed_bytes; /* of events that a job may hand over, 0: none are wanted */
};

/* Since the start of the process. */
struct shard_stats {
    uint64_t checkpoints; /* that made entries durable */
    uint64_t checkpoint_ms;
    uint64_t snapshots_sent;
    uint64_t snapshots_installed;
    uint64_t snapshots_failed; /* to be sent, or to be received */
};

struct shard {
    struct shard_options options;
    struct group *group;
    struct cluster_time clock;
    bool stopped;               /* see shard_stop() */
    struct machine_state state; /* as of the newest finished job */

    /* Applying. */
    uint64_t next;         /* next entry to hand to the state machine */
    uint64_t applied_term; /* of the entry at state.applied_index */
    /* Entries up to here were applied and their results handed out. The state machine may fall back
     * behind it for lack of space, and is fed the same entries again. */
    uint64_t settled;
    unsigned applies_out; /* jobs under way */
    uint64_t bytes_out;   /* of their entries */
    bool fetching;        /* entries are being read from the log's files */
    uint64_t fetch_epoch;
    uint64_t stalled_until_ms;  /* out of space: try again then; 0: not stalled */
    uint64_t bytes_uncommitted; /* of entries in the state machine's open transaction */
    uint64_t commit_after_ms;   /* it is to be committed then; 0: nothing to commit */

    /* Cutting the log. */
    uint64_t durable_index;
    int64_t durable_offset_ms; /* of cluster time from the wall clock, in the database file */
    uint64_t bytes_since_cut;
    uint64_t entries_since_cut;
    uint64_t wal_bytes;  /* of the state machine, after its newest job */
    uint64_t wal_folded; /* so much of that is in the database file already */
    struct job *mark;    /* index and configuration that the fold under way makes durable */
    uint64_t checkpoint_after_ms; /* an idle shard is checkpointed then, 0: nothing to do */
    bool checkpointing;
    uint64_t checkpoint_began_ms;
    uint64_t hold_after_ms; /* no snapshot could be held: not before this time again */
    unsigned holds;         /* snapshots being sent */
    uint64_t retain_index;  /* keep the log behind this, a follower needs it ... */
    uint64_t retain_until_ms;

    /* Receiving a snapshot. */
    bool receiving_job;     /* waiting for a checkpoint to end, verify or install is under way */
    bool verify_is_waiting; /* ... the first of these */
    struct snapshot_info received;
    struct buffer received_config;
    uint64_t received_from;
    char *received_path;

    /* Leading. */
    uint64_t lead_term;     /* term for which the clock was opened, 0: none */
    uint64_t inherited;     /* last index of the log when this leadership began */
    uint64_t opening_index; /* of the batch that opened the clock, 0: not open yet */
    /* Not ready before the state machine's clock has come so far; 0: does not wait for that. */
    uint64_t opening_clock_ms;
    uint64_t last_tick_ms;
    uint64_t tick_index; /* the newest tick, and its time; 0: none in this leadership */
    uint64_t tick_time_ms;

    struct shard_stats stats;
};

void shard_init(struct shard *shard, const struct shard_options *options,
                struct machine_state state);
/* Begins nothing new for the state machine from now on; what is under way comes to its end. Before
 * the state machine threads are closed: the log's last completions still commit entries after it.
 */
void shard_stop(struct shard *shard);
void shard_free(struct shard *shard);

/* Called by the group's port. */
void shard_on_role(struct shard *shard);
void shard_on_commit(struct shard *shard);
void shard_on_clock(struct shard *shard, uint64_t from, const struct group_clock *clock);
void shard_on_snapshot_needed(struct shard *shard, uint64_t to);
void shard_on_installed(struct shard *shard);

/* Time passed. */
void shard_tick(struct shard *shard, uint64_t now_ms);

/* True when this node leads the shard, has applied everything that earlier leaders committed and
 * may put times into batches, and what expired before it led has been removed. */
bool shard_is_ready(const struct shard *shard);
/* Cluster time for the next batch. Only while shard_is_ready(). */
uint64_t shard_time_ms(const struct shard *shard);
/* This replica's estimate, for probes. */
void shard_clock(const struct shard *shard, struct group_clock *clock);
/* Everything up to this index was handed to the state machine: a read job submitted now sees it. */
uint64_t shard_enqueued(const struct shard *shard);

/* Looks at a finished job that somebody else submitted: did the state machine fall back? */
void shard_observe(struct shard *shard, const struct job *job);

/* Asks for a checkpoint soon, because the log is pinned by this shard. */
void shard_want_checkpoint(struct shard *shard);

/* Holds the database as a snapshot: `held` is told how that went, and when job->code is ERROR_NONE,
 * shard_release_backup() must follow. False: not now. */
bool shard_hold_backup(struct shard *shard, void (*held)(void *data, const struct job *job),
                       void *data);
void shard_release_backup(struct shard *shard);

/* Snapshot streams. */
bool shard_accepts_snapshot(const struct shard *shard, const struct snapshot_info *info);
void shard_on_snapshot_received(struct shard *shard, uint64_t from,
                                const struct snapshot_info *info, const char *path);
void shard_on_snapshot_sent(struct shard *shard, uint64_t to, enum error_code code);
/* One did not arrive. */
void shard_on_snapshot_lost(struct shard *shard);

#endif
