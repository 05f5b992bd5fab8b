#include "node/shard.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"

enum {
    APPLY_ENTRIES = 1024,       /* entries of one job */
    APPLY_BYTES = 64 << 10,     /* bytes of one job, unless a single entry is larger */
    APPLY_BYTES_OUT = 32 << 20, /* bytes of all jobs under way */
    STALL_RETRY_MS = 500,       /* after the state machine ran out of space */
    IDLE_CHECKPOINT_MS = 20000, /* an idle shard's WAL is folded in after this time */
    RETAIN_MS = 60000,          /* how long the log waits for a follower that got a snapshot */
    FOLD_BYTES = 1 << 20,       /* a longer WAL is folded in beside other jobs first */
    HOLD_RETRY_MS = 1000,       /* after a snapshot could not be held */
    COMMIT_MS = 1000,         /* the state machine's transaction is committed after this time ... */
    COMMIT_BYTES = 8 << 20,   /* ... or this many bytes of entries */
    OFFSET_MS = 50,           /* the offset from the wall clock is kept up to this ... */
    OFFSET_EVERY_MS = 1000,   /* ... after this time */
    WAL_BYTES = 32 << 20,     /* checkpoint when the WAL has grown by this */
    WAL_BYTES_MAX = 128 << 20 /* a longer WAL is started anew, which is a pause */
};

static uint64_t now_of(const struct shard *shard) {
    return shard->options.port.now_ms(shard->options.port.data);
}

void shard_init(struct shard *shard, const struct shard_options *options,
                struct machine_state state) {
    memset(shard, 0, sizeof *shard);
    shard->options = *options;
    shard->group = options->group;
    shard->state = state;
    shard->applied_term = state.applied_term;
    shard->settled = state.applied_index;
    shard->next = state.applied_index + 1;
    shard->durable_index = 0;
    shard->durable_offset_ms = state.wall_offset_ms;
    cluster_time_init(&shard->clock, state.clock_ms, now_of(shard));
}

void shard_stop(struct shard *shard) {
    shard->stopped = true;
}

void shard_free(struct shard *shard) {
    ASSERT(shard->mark == NULL);
    buffer_free(&shard->received_config);
    mem_free(shard->received_path);
}

/* --- applying --------------------------------------------------------------------------------- */

static void pump(struct shard *shard);
static void try_open(struct shard *shard, uint64_t now_ms);
static void end_opening(struct shard *shard);
static void tick_again(struct shard *shard, uint64_t now_ms);

static enum machine_entry_kind machine_kind(enum log_entry_kind kind) {
    switch (kind) {
    case LOG_ENTRY_COMMAND:
        return MACHINE_COMMANDS;
    case LOG_ENTRY_BARRIER:
        return MACHINE_BARRIER;
    case LOG_ENTRY_CHANGE:
        return MACHINE_CONFIG;
    }
    assert_fatal("an entry of unknown kind %d in the log", (int)kind);
}

static void stall(struct shard *shard) {
    if (shard->stalled_until_ms == 0) {
        shard->options.port.on_event(shard->options.port.data, shard->options.number,
                                     "no space to apply entries; retrying", shard->next);
    }
    shard->stalled_until_ms = now_of(shard) + STALL_RETRY_MS;
}

/* Takes over the state machine's state after a job. Less than before means that its transaction
 * failed for lack of space: the entries of it have to be applied again. */
static void take_state(struct shard *shard, const struct job *job) {
    bool fell_back = job->state.applied_index < shard->state.applied_index;
    shard->state = job->state;
    shard->applied_term = job->state.applied_term;
    shard->wal_bytes = job->wal_bytes;
    if (fell_back) {
        stall(shard);
    }
}

void shard_observe(struct shard *shard, const struct job *job) {
    if (job->state.applied_index < shard->state.applied_index) {
        take_state(shard, job);
    }
}

static void commit_done(struct job *job) {
    struct shard *shard = job->data;
    if (job->code != ERROR_NONE && job->code != ERROR_NOSPACE) {
        assert_fatal("shard %u: cannot commit: %s", shard->options.number, job->error.message);
    }
    take_state(shard, job);
    job_free(job);
}

static void commit(struct shard *shard) {
    shard->bytes_uncommitted = 0;
    shard->commit_after_ms = 0;
    shard->options.port.submit(shard->options.port.data,
                               job_new(JOB_COMMIT, shard->options.number, commit_done, shard));
}

static void note_uncommitted(struct shard *shard, uint64_t bytes, bool overflows, uint64_t now_ms) {
    shard->bytes_uncommitted += bytes;
    if (shard->commit_after_ms == 0) {
        shard->commit_after_ms = now_ms + COMMIT_MS;
    }
    if (shard->bytes_uncommitted >= COMMIT_BYTES || overflows) {
        commit(shard);
    }
}

static void apply_done(struct job *job) {
    struct shard *shard = job->data;
    struct shard_port *port = &shard->options.port;
    uint64_t bytes = 0;
    for (unsigned i = 0; i < job->n_entries; i++) {
        bytes += job->entries[i].payload->size;
    }
    ASSERT(shard->applies_out > 0);
    shard->applies_out--;
    shard->bytes_out -= bytes;
    if (job->code != ERROR_NONE && job->code != ERROR_NOSPACE) {
        assert_fatal("shard %u: cannot apply entry %llu: %s", shard->options.number,
                     (unsigned long long)job->entries[0].index, job->error.message);
    }
    take_state(shard, job);
    if (shard->wal_bytes < shard->wal_folded) {
        shard->wal_folded = 0; /* nothing was left to move, and it started anew by itself */
    }
    if (job->code == ERROR_NOSPACE) {
        stall(shard);
    } else {
        note_uncommitted(shard, bytes, job->overflows, now_of(shard));
    }
    uint64_t last = job->state.applied_index;
    if (job->code == ERROR_NONE && last > shard->settled) {
        uint64_t now_ms = now_of(shard);
        shard->settled = last;
        if (job->batch_time_ms > 0) {
            cluster_time_observe(&shard->clock, job->batch_time_ms, now_ms);
        }
        shard->checkpoint_after_ms = now_ms + IDLE_CHECKPOINT_MS;
        port->on_applied(port->data, shard->options.number, job, last, shard->applied_term, false);
        if (job->digest.index > 0) {
            port->on_digest(port->data, shard->options.number, job->digest);
        }
        port->on_reads(port->data, shard->options.number);
    }
    if (shard->stalled_until_ms > 0 && shard->applies_out == 0) {
        shard->next = shard->state.applied_index + 1;
    }
    job_free(job);
    try_open(shard, now_of(shard));
    end_opening(shard);
    tick_again(shard, now_of(shard));
    pump(shard);
}

static bool knows_time(const struct shard *shard) {
    return shard->clock.anchored && !shard->clock.opening;
}

/* Kept with what is applied: what the time is by this node's wall clock, once all were down. */
static void tell_offset(const struct shard *shard, struct job *job) {
    uint64_t wall_ms = shard->options.port.wall_ms(shard->options.port.data);
    job->knows_time = knows_time(shard);
    job->wall_offset_ms = (int64_t)(shard_time_ms(shard) - wall_ms);
}

static struct job *new_apply(struct shard *shard, unsigned capacity) {
    struct job *job = job_new(JOB_APPLY, shard->options.number, apply_done, shard);
    job->entries = mem_alloc(capacity * sizeof *job->entries);
    job->self = (uint32_t)shard->options.self;
    job->boot = shard->options.boot;
    job->events.limit_bytes = shard->options.feed_bytes;
    job->events.after = shard->settled;
    job->settled = shard->settled;
    job->answer_term = group_role(shard->group) == GROUP_LEADER ? group_term(shard->group) : 0;
    tell_offset(shard, job);
    return job;
}

/* Takes over the entry's reference. */
static void add_entry(struct shard *shard, struct job *job, const struct log_entry *entry) {
    struct job_entry *added = &job->entries[job->n_entries++];
    added->index = shard->next++;
    added->term = entry->term;
    added->kind = machine_kind(entry->kind);
    added->payload = entry->payload;
    shard->bytes_out += entry->payload->size;
    shard->bytes_since_cut += entry->payload->size;
    shard->entries_since_cut++;
}

static void submit_apply(struct shard *shard, struct job *job) {
    shard->applies_out++;
    shard->options.port.submit(shard->options.port.data, job);
}

struct fetch {
    struct shard *shard;
    uint64_t epoch;
};

static void fetched(void *data, enum error_code code, uint64_t first, struct log_entry *entries,
                    unsigned n) {
    struct fetch *fetch = data;
    struct shard *shard = fetch->shard;
    bool current = fetch->epoch == shard->fetch_epoch;
    mem_free(fetch);
    if (code == ERROR_CORRUPT) {
        assert_fatal("shard %u: entry %llu cannot be read from the log: it is damaged; rebuild "
                     "this node from its peers",
                     shard->options.number, (unsigned long long)first);
    }
    if (current) {
        shard->fetching = false;
    }
    bool installing = group_is_installing(shard->group);
    if (!current || n == 0 || first != shard->next || shard->stalled_until_ms > 0 || installing) {
        for (unsigned i = 0; i < n; i++) {
            payload_unref(entries[i].payload);
        }
        pump(shard);
        return;
    }
    struct job *job = new_apply(shard, n);
    for (unsigned i = 0; i < n; i++) {
        add_entry(shard, job, &entries[i]);
    }
    submit_apply(shard, job);
    pump(shard);
    shard->options.port.on_reads(shard->options.port.data, shard->options.number);
}

static void fetch_entries(struct shard *shard, uint64_t last) {
    struct fetch *fetch = mem_zalloc(1, sizeof *fetch);
    uint64_t n = last - shard->next + 1;
    fetch->shard = shard;
    fetch->epoch = shard->fetch_epoch;
    shard->fetching = true;
    log_read(shard->options.log, shard->options.number, shard->next,
             n < APPLY_ENTRIES ? (unsigned)n : APPLY_ENTRIES, APPLY_BYTES, fetched, fetch);
}

static bool can_apply(const struct shard *shard, uint64_t commit) {
    return !shard->stopped && shard->next <= commit && !shard->fetching &&
           shard->stalled_until_ms == 0 && !shard->receiving_job &&
           !group_is_installing(shard->group) && shard->bytes_out < APPLY_BYTES_OUT;
}

/* Hands committed entries to the state machine, within bounds. */
static void pump(struct shard *shard) {
    uint64_t commit = group_commit(shard->group);
    while (can_apply(shard, commit)) {
        struct log_entry entry;
        if (!log_cached(shard->options.log, shard->options.number, shard->next, &entry)) {
            fetch_entries(shard, commit);
            return;
        }
        uint64_t left = commit - shard->next + 1;
        struct job *job = new_apply(shard, left < APPLY_ENTRIES ? (unsigned)left : APPLY_ENTRIES);
        uint64_t bytes = 0;
        do {
            bytes += entry.payload->size;
            add_entry(shard, job, &entry);
        } while (shard->next <= commit && job->n_entries < APPLY_ENTRIES && bytes < APPLY_BYTES &&
                 log_cached(shard->options.log, shard->options.number, shard->next, &entry));
        submit_apply(shard, job);
    }
}

void shard_on_commit(struct shard *shard) {
    pump(shard);
    shard->options.port.on_reads(shard->options.port.data, shard->options.number);
}

uint64_t shard_enqueued(const struct shard *shard) {
    return shard->stalled_until_ms > 0 ? shard->state.applied_index : shard->next - 1;
}

/* --- leading ---------------------------------------------------------------------------------- */

/* Leads, and its clock is open: it may put times into batches. */
static bool has_opened(const struct shard *shard) {
    return !shard->stopped && shard->lead_term != 0 && group_role(shard->group) == GROUP_LEADER &&
           shard->lead_term == group_term(shard->group) && shard->opening_index > 0;
}

bool shard_is_ready(const struct shard *shard) {
    return has_opened(shard) && shard->opening_clock_ms == 0;
}

uint64_t shard_time_ms(const struct shard *shard) {
    return cluster_time_estimate(&shard->clock, now_of(shard));
}

static uint64_t time_by_wall(const struct shard *shard) {
    return cluster_time_by_wall(shard->options.port.wall_ms(shard->options.port.data),
                                shard->state.wall_offset_ms);
}

void shard_clock(const struct shard *shard, struct group_clock *clock) {
    clock->time_ms = shard_time_ms(shard);
    clock->wall_ms = time_by_wall(shard);
    clock->anchored = knows_time(shard);
}

/* Something is to be removed from the state machine because its time has come. */
static bool is_due(const struct shard *shard) {
    return shard->state.next_expiry_ms > 0 && shard->state.next_expiry_ms <= shard_time_ms(shard);
}

/* An empty batch: moves the clock. */
static bool propose_tick(struct shard *shard, uint64_t now_ms, uint64_t *index) {
    struct buffer batch = {0};
    uint64_t time_ms = shard_time_ms(shard);
    command_batch_begin(&batch, time_ms, LIMIT_QUOTA_DEFAULT);
    struct payload *payload = payload_copy(buffer_slice(&batch));
    buffer_free(&batch);
    bool proposed = group_propose(shard->group, now_ms, &payload, 1, index);
    payload_unref(payload);
    if (proposed) {
        shard->last_tick_ms = now_ms;
        shard->tick_index = *index;
        shard->tick_time_ms = time_ms;
    }
    return proposed;
}

/* A tick removes so much and no more. When that was not all, the next one follows as soon as it is
 * applied, so that others' entries and reads have their turn between. */
static void tick_again(struct shard *shard, uint64_t now_ms) {
    uint64_t index;
    bool is_opening = shard->opening_clock_ms > 0;
    if (has_opened(shard) && shard->tick_index > 0 &&
        shard->state.applied_index >= shard->tick_index &&
        shard->state.clock_ms < shard->tick_time_ms &&
        (is_opening || log_has_space(shard->options.log))) {
        (void)propose_tick(shard, now_ms, &index);
    }
}

/* Tries to make a new leader ready. First it applies all that it found in its log (libraft proposes
 * a barrier when some of that is not committed): by then it has seen every time that was ever
 * committed, so that its own cannot fall behind one. Then it opens its clock and tells the others
 * by an empty batch: they carry the time on after it, and routers take this entry of the new term
 * as the end of the older ones. */
static void try_open(struct shard *shard, uint64_t now_ms) {
    uint64_t voters[LIMIT_NODES];
    if (shard->lead_term == 0 || shard->opening_index > 0 ||
        shard->state.applied_index < shard->inherited || group_role(shard->group) != GROUP_LEADER ||
        group_term(shard->group) != shard->lead_term) {
        return;
    }
    if (!cluster_time_settle(&shard->clock, group_voters(shard->group, voters), now_ms)) {
        return;
    }
    uint64_t index = 0;
    if (!propose_tick(shard, now_ms, &index)) {
        return;
    }
    shard->opening_index = index;
    if (is_due(shard)) {
        shard->opening_clock_ms = shard->tick_time_ms;
    } else {
        shard->options.port.on_role(shard->options.port.data, shard->options.number);
    }
}

/* While nobody led, perhaps for hours, no tick removed what expired. Nothing is answered before
 * the first ones of this leadership have. */
static void end_opening(struct shard *shard) {
    if (shard->opening_clock_ms > 0 && shard->state.clock_ms >= shard->opening_clock_ms) {
        shard->opening_clock_ms = 0;
        shard->options.port.on_role(shard->options.port.data, shard->options.number);
    }
}

static void forget_opening(struct shard *shard) {
    shard->opening_index = 0;
    shard->opening_clock_ms = 0;
    shard->tick_index = 0;
}

static void begin_leading(struct shard *shard) {
    uint64_t now_ms = now_of(shard);
    struct cluster_time_sample own = {.node = shard->options.self,
                                      .time_ms = shard_time_ms(shard),
                                      .wall_ms = time_by_wall(shard),
                                      .anchored = shard->clock.anchored};
    shard->lead_term = group_term(shard->group);
    shard->inherited = group_last(shard->group);
    forget_opening(shard);
    cluster_time_open(&shard->clock, now_ms);
    cluster_time_sample(&shard->clock, &own);
    (void)group_read(shard->group); /* its probes bring the voters' clocks */
    try_open(shard, now_ms);
}

/* Voters may have come up since the first probes: all their walls count. */
static void ask_again(struct shard *shard) {
    if (shard->clock.opening && shard->lead_term != 0 && group_role(shard->group) == GROUP_LEADER) {
        (void)group_read(shard->group);
    }
}

void shard_on_role(struct shard *shard) {
    struct shard_port *port = &shard->options.port;
    bool leads = group_role(shard->group) == GROUP_LEADER;
    if (leads && shard->lead_term != group_term(shard->group)) {
        begin_leading(shard);
    } else if (!leads && shard->lead_term != 0) {
        shard->lead_term = 0;
        forget_opening(shard);
        cluster_time_abandon(&shard->clock);
    }
    port->on_role(port->data, shard->options.number);
}

void shard_on_clock(struct shard *shard, uint64_t from, const struct group_clock *clock) {
    if (group_role(shard->group) != GROUP_LEADER) {
        if (clock->anchored) {
            cluster_time_follow(&shard->clock, clock->time_ms, clock->age_max_ms, now_of(shard));
        }
        return;
    }
    struct cluster_time_sample sample = {.node = from,
                                         .time_ms = clock->time_ms,
                                         .wall_ms = clock->wall_ms,
                                         .anchored = clock->anchored};
    cluster_time_sample(&shard->clock, &sample);
    try_open(shard, now_of(shard));
}

static void expire(struct shard *shard, uint64_t now_ms) {
    uint64_t index;
    if (!shard_is_ready(shard) || !is_due(shard) || !log_has_space(shard->options.log) ||
        now_ms < shard->last_tick_ms + shard->options.tick_ms) {
        return;
    }
    (void)propose_tick(shard, now_ms, &index);
}

/* --- cutting the log -------------------------------------------------------------------------- */

/* Entries to keep behind the checkpoint: at most as many bytes as a checkpoint covers, so that the
 * log's size stays bounded whatever the size of its entries. */
static unsigned trailing_of(const struct shard *shard, uint64_t durable_index) {
    uint64_t trailing = shard->options.trailing_entries;
    if (shard->entries_since_cut > 0) {
        uint64_t mean_bytes = shard->bytes_since_cut / shard->entries_since_cut + 1;
        uint64_t fits = shard->options.snapshot_log_bytes / mean_bytes + 1;
        trailing = fits < trailing ? fits : trailing;
    }
    if (now_of(shard) < shard->retain_until_ms && shard->retain_index < durable_index &&
        durable_index - shard->retain_index > trailing) {
        trailing = durable_index - shard->retain_index;
    }
    return (unsigned)trailing;
}

static void verify_received(struct shard *shard);

/* The database file holds everything up to job->durable_index: the log may go. */
static void end_checkpoint(struct shard *shard, const struct job *job) {
    shard->checkpointing = false;
    if (job->durable_index > 0) {
        shard->durable_index = job->durable_index;
        shard->durable_offset_ms = job->state.wall_offset_ms;
        shard->stats.checkpoints++;
        shard->stats.checkpoint_ms += now_of(shard) - shard->checkpoint_began_ms;
        group_cut(shard->group, now_of(shard), job->durable_index, job->durable_config_index,
                  buffer_slice(&job->config), trailing_of(shard, job->durable_index));
        shard->bytes_since_cut = 0;
        shard->entries_since_cut = 0;
    }
    if (shard->verify_is_waiting) {
        shard->verify_is_waiting = false;
        verify_received(shard);
    }
}

/* Lack of space only means that nothing became durable. */
static void check_durable(const struct shard *shard, struct job *job) {
    if (job->code != ERROR_NONE && job->code != ERROR_NOSPACE) {
        assert_fatal("shard %u: cannot checkpoint: %s", shard->options.number, job->error.message);
    }
    if (job->code != ERROR_NONE) {
        job->durable_index = 0;
    }
}

static void checkpoint_done(struct job *job) {
    struct shard *shard = job->data;
    take_state(shard, job);
    shard->wal_folded = 0;
    check_durable(shard, job);
    end_checkpoint(shard, job);
    job_free(job);
}

static void submit_checkpoint(struct shard *shard) {
    shard->options.port.submit(
        shard->options.port.data,
        job_new(JOB_CHECKPOINT, shard->options.number, checkpoint_done, shard));
}

/* Everything up to the mark is durable, and the state machine went on meanwhile. Only when the WAL
 * has grown long does it have to pause, so that the WAL can start anew. */
static void fold_done(struct job *job) {
    struct shard *shard = job->data;
    struct job *mark = shard->mark;
    if (job->code == ERROR_CORRUPT) {
        assert_fatal("shard %u: cannot checkpoint: %s", shard->options.number, job->error.message);
    }
    bool enough = job->code == ERROR_NONE && job->complete && shard->wal_bytes < WAL_BYTES_MAX;
    uint64_t moved_bytes = job->moved_bytes;
    job_free(job);
    shard->mark = NULL;
    if (enough) {
        shard->wal_folded = moved_bytes;
        end_checkpoint(shard, mark);
    } else {
        submit_checkpoint(shard); /* which will meet what went wrong, too */
    }
    job_free(mark);
}

static void mark_done(struct job *job) {
    struct shard *shard = job->data;
    take_state(shard, job);
    check_durable(shard, job);
    if (job->code != ERROR_NONE) {
        end_checkpoint(shard, job);
        job_free(job);
        return;
    }
    /* A fold of a WAL that is in the file already could meet its new start: see machine_fold(). */
    if (job->wal_bytes < FOLD_BYTES || job->wal_bytes <= shard->wal_folded) {
        submit_checkpoint(shard);
        job_free(job);
        return;
    }
    struct job *fold = job_new(JOB_FOLD, shard->options.number, fold_done, shard);
    fold->fold_bytes = job->wal_bytes;
    shard->mark = job;
    shard->options.port.submit(shard->options.port.data, fold);
}

static void checkpoint(struct shard *shard) {
    if (shard->stopped || shard->checkpointing || shard->holds > 0 || shard->receiving_job ||
        shard->state.config_index == 0 || shard->state.applied_index == shard->durable_index) {
        return;
    }
    shard->checkpointing = true;
    shard->checkpoint_began_ms = now_of(shard);
    shard->checkpoint_after_ms = 0;
    shard->options.port.submit(shard->options.port.data,
                               job_new(JOB_MARK, shard->options.number, mark_done, shard));
}

void shard_want_checkpoint(struct shard *shard) {
    checkpoint(shard);
}

/* --- snapshots -------------------------------------------------------------------------------- */

struct hold {
    struct shard *shard;
    uint64_t to;
};

static void release_done(struct job *job) {
    struct shard *shard = job->data;
    ASSERT(shard->holds > 0);
    shard->holds--;
    job_free(job);
}

static void release(struct shard *shard) {
    shard->options.port.submit(shard->options.port.data,
                               job_new(JOB_RELEASE, shard->options.number, release_done, shard));
}

static void hold_done(struct job *job) {
    struct hold *hold = job->data;
    struct shard *shard = hold->shard;
    struct shard_port *port = &shard->options.port;
    uint64_t to = hold->to;
    mem_free(hold);
    take_state(shard, job);
    if (job->code != ERROR_NONE) {
        port->on_event(port->data, shard->options.number, "cannot hold a snapshot", to);
        shard->hold_after_ms = now_of(shard) + HOLD_RETRY_MS;
        shard->holds--;
        job_free(job);
        return;
    }
    struct snapshot_info info = {.leader_term = group_term(shard->group),
                                 .index = job->snapshot.index,
                                 .term = job->snapshot.term,
                                 .config_index = job->snapshot.config_index,
                                 .config = buffer_slice(&job->config),
                                 .size = job->snapshot.size};
    if (group_role(shard->group) == GROUP_LEADER &&
        port->send_snapshot(port->data, shard->options.number, to, &info)) {
        shard->retain_index = info.index;
        shard->retain_until_ms = UINT64_MAX; /* until the stream ends */
    } else {
        release(shard);
    }
    job_free(job);
}

void shard_on_snapshot_needed(struct shard *shard, uint64_t to) {
    /* One at a time per shard: the next follower's turn comes with libraft's next request. */
    if (shard->stopped || shard->holds > 0 || shard->checkpointing ||
        shard->state.config_index == 0 || now_of(shard) < shard->hold_after_ms) {
        return;
    }
    struct hold *hold = mem_zalloc(1, sizeof *hold);
    hold->shard = shard;
    hold->to = to;
    shard->holds++;
    shard->options.port.submit(shard->options.port.data,
                               job_new(JOB_HOLD, shard->options.number, hold_done, hold));
}

struct backup_hold {
    struct shard *shard;
    void (*held)(void *data, const struct job *job);
    void *data;
};

static void backup_hold_done(struct job *job) {
    struct backup_hold hold = *(struct backup_hold *)job->data;
    mem_free(job->data);
    take_state(hold.shard, job);
    if (job->code != ERROR_NONE) {
        hold.shard->holds--;
    }
    hold.held(hold.data, job);
    job_free(job);
}

bool shard_hold_backup(struct shard *shard, void (*held)(void *data, const struct job *job),
                       void *data) {
    if (shard->stopped || shard->holds > 0 || shard->checkpointing || shard->receiving_job ||
        shard->state.config_index == 0) {
        return false;
    }
    struct backup_hold *hold = mem_alloc(sizeof *hold);
    *hold = (struct backup_hold){.shard = shard, .held = held, .data = data};
    shard->holds++;
    shard->options.port.submit(shard->options.port.data,
                               job_new(JOB_HOLD, shard->options.number, backup_hold_done, hold));
    return true;
}

void shard_release_backup(struct shard *shard) {
    release(shard);
}

void shard_on_snapshot_sent(struct shard *shard, uint64_t to, enum error_code code) {
    struct shard_port *port = &shard->options.port;
    shard->retain_until_ms = code == ERROR_NONE ? now_of(shard) + RETAIN_MS : 0;
    release(shard);
    if (code == ERROR_NONE) {
        shard->stats.snapshots_sent++;
        port->on_event(port->data, shard->options.number, "snapshot sent", to);
    } else {
        shard->stats.snapshots_failed++;
    }
}

void shard_on_snapshot_lost(struct shard *shard) {
    shard->stats.snapshots_failed++;
}

bool shard_accepts_snapshot(const struct shard *shard, const struct snapshot_info *info) {
    return !shard->stopped && group_role(shard->group) != GROUP_LEADER && !shard->receiving_job &&
           !group_is_installing(shard->group) && info->index > shard->state.applied_index &&
           info->leader_term >= group_term(shard->group) && group_config_is_valid(info->config);
}

static void end_receiving(struct shard *shard) {
    shard->receiving_job = false;
    mem_free(shard->received_path);
    shard->received_path = NULL;
    buffer_free(&shard->received_config);
}

static void install_done(struct job *job) {
    struct shard *shard = job->data;
    if (job->code != ERROR_NONE) {
        assert_fatal("shard %u: cannot put the received snapshot in place: %s",
                     shard->options.number, job->error.message);
    }
    take_state(shard, job);
    if (job->state.applied_index > shard->settled) {
        shard->settled = job->state.applied_index;
    }
    shard->next = job->state.applied_index + 1;
    shard->stalled_until_ms = 0;
    shard->durable_index = job->state.applied_index;
    shard->durable_offset_ms = job->state.wall_offset_ms;
    shard->bytes_since_cut = 0;
    shard->entries_since_cut = 0;
    cluster_time_observe(&shard->clock, job->state.clock_ms, now_of(shard));
    job_free(job);
    end_receiving(shard);
    group_install(shard->group);
}

static void verify_done(struct job *job) {
    struct shard *shard = job->data;
    struct shard_port *port = &shard->options.port;
    uint64_t now_ms = now_of(shard);
    bool good = job->code == ERROR_NONE && job->state.applied_index == shard->received.index &&
                job->state.applied_term == shard->received.term;
    /* A database that is being sent, by a leader that was deposed meanwhile, stays until that is
     * over; the leader offers its snapshot again. */
    bool wanted = good && shard->next <= shard->received.index && shard->holds == 0;
    job_free(job);
    /* Jobs that apply entries may still be under way: the install job runs behind them, and nothing
     * new is submitted until it is done. */
    if (!wanted ||
        !group_offer_snapshot(shard->group, now_ms, shard->received_from, &shard->received)) {
        shard->stats.snapshots_failed += good ? 0 : 1;
        port->on_event(port->data, shard->options.number,
                       good ? "received snapshot is not needed any more"
                            : "received snapshot is not sound",
                       shard->received.index);
        port->discard(port->data, shard->received_path);
        end_receiving(shard);
        pump(shard);
        return;
    }
    shard->fetch_epoch++; /* entries being read belong to the log that is replaced */
    shard->fetching = false;
    struct job *install = job_new(JOB_INSTALL, shard->options.number, install_done, shard);
    install->path = mem_strdup(shard->received_path);
    port->submit(port->data, install);
}

static void verify_received(struct shard *shard) {
    struct job *verify = job_new(JOB_VERIFY, shard->options.number, verify_done, shard);
    verify->path = mem_strdup(shard->received_path);
    shard->options.port.submit(shard->options.port.data, verify);
}

void shard_on_snapshot_received(struct shard *shard, uint64_t from,
                                const struct snapshot_info *info, const char *path) {
    struct shard_port *port = &shard->options.port;
    if (!shard_accepts_snapshot(shard, info)) {
        port->discard(port->data, path);
        return;
    }
    shard->receiving_job = true;
    shard->received = *info;
    shard->received_from = from;
    shard->received_path = mem_strdup(path);
    buffer_free(&shard->received_config);
    buffer_append_slice(&shard->received_config, info->config);
    shard->received.config = buffer_slice(&shard->received_config);
    /* A checkpoint works on the file that would be replaced. */
    if (shard->checkpointing) {
        shard->verify_is_waiting = true;
    } else {
        verify_received(shard);
    }
}

void shard_on_installed(struct shard *shard) {
    struct shard_port *port = &shard->options.port;
    shard->stats.snapshots_installed++;
    port->on_event(port->data, shard->options.number, "snapshot installed",
                   shard->state.applied_index);
    port->on_applied(port->data, shard->options.number, NULL, shard->state.applied_index,
                     shard->applied_term, true);
    pump(shard);
}

/* --- time ------------------------------------------------------------------------------------- */

/* The cluster's time has moved away from this wall clock: a power failure must not forget it. */
static bool offset_is_due(const struct shard *shard, uint64_t now_ms) {
    int64_t moved_ms = shard->state.wall_offset_ms - shard->durable_offset_ms;
    return (moved_ms >= OFFSET_MS || moved_ms <= -OFFSET_MS) &&
           now_ms >= shard->checkpoint_began_ms + OFFSET_EVERY_MS;
}

static bool checkpoint_is_due(const struct shard *shard, uint64_t now_ms) {
    return shard->bytes_since_cut >= shard->options.snapshot_log_bytes ||
           shard->wal_bytes >= shard->wal_folded + WAL_BYTES ||
           shard->entries_since_cut >= 16 * (uint64_t)shard->options.trailing_entries ||
           (shard->checkpoint_after_ms > 0 && now_ms >= shard->checkpoint_after_ms) ||
           offset_is_due(shard, now_ms);
}

void shard_tick(struct shard *shard, uint64_t now_ms) {
    try_open(shard, now_ms);
    ask_again(shard);
    tick_again(shard, now_ms);
    expire(shard, now_ms);
    if (shard->commit_after_ms > 0 && now_ms >= shard->commit_after_ms && !shard->stopped) {
        commit(shard);
    }
    if (shard->stalled_until_ms > 0 && now_ms >= shard->stalled_until_ms &&
        shard->applies_out == 0) {
        shard->stalled_until_ms = 0;
        shard->next = shard->state.applied_index + 1;
        checkpoint(shard); /* lets the WAL be written over, and the log be cut */
        pump(shard);
    }
    if (checkpoint_is_due(shard, now_ms)) {
        checkpoint(shard);
    }
}
