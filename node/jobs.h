/* Work for the state machine threads. A shard's jobs run one after another, in the order of
 * submission, always on the same thread; `done` runs on the loop thread.
 *
 * Shared state passes by message: whoever submits a job leaves it alone until `done`. */
#ifndef NODE_JOBS_H
#define NODE_JOBS_H

#include "base/list.h"
#include "base/payload.h"
#include "node/machine/machine.h"
#include "node/machine/top.h"

enum job_kind {
    JOB_APPLY,      /* committed entries to the state machine */
    JOB_READ,       /* read commands */
    JOB_COMMIT,     /* ends the state machine's transaction, see machine_commit() */
    JOB_MARK,       /* the same, and notes the applied index and its configuration */
    JOB_FOLD,       /* a checkpoint beside the shard's other jobs, see machine_fold() */
    JOB_CHECKPOINT, /* make what was applied durable */
    JOB_HOLD,       /* hold the database file as a snapshot */
    JOB_RELEASE,    /* end of that */
    JOB_TOP,        /* the projects that use most: a step of the walk, see machine_top_step() */
    JOB_VERIFY,     /* check a received snapshot before Raft hears of it */
    JOB_INSTALL     /* replace the database by it */
};

struct job_entry {
    uint64_t index;
    uint64_t term;
    enum machine_entry_kind kind;
    struct payload *payload; /* owned by the job */
};

/* A result that somebody waits for. */
struct job_result {
    uint64_t index; /* of the log entry */
    uint64_t term;
    struct command_origin origin;
    struct result result;
};

struct job_read {
    struct slice command; /* encoded; must stay valid until `done`, or see job_read_abandon() */
    void *data;           /* the submitter's; NULL once abandoned */
    struct result result;
    struct buffer kept; /* command of an abandoned read */
};

/* The shard's digest right after the entry `index`; taken at the same indexes on every replica. */
struct job_digest {
    uint64_t index;
    uint64_t digest;
};

enum { JOB_DIGEST_EVERY = 512 /* entries between two digests */ };

struct job {
    struct list_node link; /* for the queue's own use */
    enum job_kind kind;
    unsigned shard;
    void (*done)(struct job *job);
    void *data;

    /* JOB_APPLY in: */
    struct job_entry *entries;
    unsigned n_entries;
    uint32_t self;        /* results of this node's own commands are wanted ... */
    uint64_t boot;        /* ... of this boot, and ... */
    uint64_t answer_term; /* ... of others' commands in entries of this term; 0: none ... */
    uint64_t settled;     /* ... unless the entry was applied before, as the ones up to here */
    bool knows_time;      /* the next is to be kept, see machine_set_wall_offset() */
    int64_t wall_offset_ms;
    /* JOB_APPLY out: */
    struct job_result *results;
    unsigned n_results;
    unsigned results_capacity;
    uint64_t batch_time_ms;       /* largest time among the batches */
    bool overflows;               /* see machine_take_overflow() */
    struct job_digest digest;     /* index 0: none */
    struct machine_events events; /* in: its limit, 0: not wanted */

    /* JOB_READ in and out: */
    struct job_read *reads;
    unsigned n_reads;
    unsigned reads_capacity;
    uint64_t time_ms;    /* in: see machine_set_read_time() */
    uint64_t read_index; /* in: the least that must be applied; ... */
    unsigned n_done;     /* out: so many of the reads were carried out */
    bool behind;         /* out: ... it was not, for lack of space: nothing was read */

    /* JOB_TOP in and out; owned by the job. */
    struct machine_top *top;

    /* JOB_VERIFY, JOB_INSTALL in: path of the staged file; owned by the job. */
    char *path;

    /* All, out: */
    enum error_code code;
    struct error error;
    struct machine_state state; /* of the machine after the job; JOB_VERIFY: of the staged file */
    uint64_t wal_bytes;
    uint64_t fold_bytes;  /* JOB_FOLD in: how far it must get, from JOB_MARK */
    uint64_t moved_bytes; /* JOB_FOLD: so much of the WAL is in the database file */
    bool complete;        /* JOB_FOLD */
    /* JOB_CHECKPOINT, JOB_HOLD: in the database file; JOB_MARK: applied; 0: it failed. */
    uint64_t durable_index;
    uint64_t durable_config_index;
    struct buffer config;             /* JOB_CHECKPOINT, JOB_HOLD: configuration at durable_index */
    struct machine_snapshot snapshot; /* JOB_HOLD */
};

struct job *job_new(enum job_kind kind, unsigned shard, void (*done)(struct job *job), void *data);
/* Frees the job with everything that it owns. */
void job_free(struct job *job);

/* Adds a read that must see the entry `index`. Before the job is submitted only. */
void job_add_read(struct job *job, struct slice command, uint64_t index, void *data);
/* The submitter of a read under way waits no longer: the job takes over the command's memory. On
 * the loop thread; a state machine thread may be at work on the job. */
void job_read_abandon(struct job_read *read, struct buffer *command);

/* Runs a job against the shard's machine: what a state machine thread does, and what a test without
 * threads may do as well. *machine is replaced by JOB_INSTALL. */
void job_run(struct job *job, struct machine **machine, const struct machine_options *options);

#endif
