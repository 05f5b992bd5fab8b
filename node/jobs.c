#include "node/jobs.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"

struct job *job_new(enum job_kind kind, unsigned shard, void (*done)(struct job *job), void *data) {
    struct job *job = mem_zalloc(1, sizeof *job);
    list_init(&job->link);
    job->kind = kind;
    job->shard = shard;
    job->done = done;
    job->data = data;
    return job;
}

void job_free(struct job *job) {
    for (unsigned i = 0; i < job->n_entries; i++) {
        payload_unref(job->entries[i].payload);
    }
    for (unsigned i = 0; i < job->n_results; i++) {
        result_free(&job->results[i].result);
    }
    for (unsigned i = 0; i < job->n_reads; i++) {
        result_free(&job->reads[i].result);
        buffer_free(&job->reads[i].kept);
    }
    mem_free(job->entries);
    mem_free(job->results);
    mem_free(job->reads);
    mem_free(job->path);
    mem_free(job->top);
    buffer_free(&job->config);
    machine_events_free(&job->events);
    mem_free(job);
}

void job_add_read(struct job *job, struct slice command, uint64_t index, void *data) {
    if (job->n_reads == job->reads_capacity) {
        job->reads_capacity = job->reads_capacity == 0 ? 16 : 2 * job->reads_capacity;
        job->reads = mem_realloc(job->reads, job->reads_capacity * sizeof *job->reads);
    }
    job->reads[job->n_reads++] = (struct job_read){.command = command, .data = data};
    job->read_index = index > job->read_index ? index : job->read_index;
}

void job_read_abandon(struct job_read *read, struct buffer *command) {
    read->kept = *command;
    read->data = NULL;
    *command = (struct buffer){0};
}

static uint64_t term_of(const struct job *job, uint64_t index) {
    return job->entries[index - job->entries[0].index].term;
}

static void keep_result(void *data, uint64_t index, struct command_origin origin,
                        struct result *result) {
    struct job *job = data;
    uint64_t term = term_of(job, index);
    bool own = origin.node == job->self && origin.boot == job->boot;
    bool remote = origin.node != 0 && origin.node != job->self && term == job->answer_term;
    if ((!own && !remote) || index <= job->settled) {
        return;
    }
    if (job->n_results == job->results_capacity) {
        job->results_capacity = job->results_capacity == 0 ? 64 : 2 * job->results_capacity;
        job->results = mem_realloc(job->results, job->results_capacity * sizeof *job->results);
    }
    struct job_result *kept = &job->results[job->n_results++];
    kept->index = index;
    kept->term = term;
    kept->origin = origin;
    kept->result = *result;
    memset(&result->data, 0, sizeof result->data);
}

static void forget_results(struct job *job) {
    for (unsigned i = 0; i < job->n_results; i++) {
        result_free(&job->results[i].result);
    }
    job->n_results = 0;
    job->digest.index = 0;
}

static void note_times(struct job *job) {
    for (unsigned i = 0; i < job->n_entries; i++) {
        struct command_batch batch;
        if (job->entries[i].kind == MACHINE_COMMANDS &&
            command_batch_decode(payload_slice(job->entries[i].payload), &batch, NULL) ==
                ERROR_NONE &&
            batch.time_ms > job->batch_time_ms) {
            job->batch_time_ms = batch.time_ms;
        }
    }
}

/* Applies entries [from, from + n). */
static bool apply_range(struct job *job, struct machine *machine, unsigned from, unsigned n) {
    struct machine_entry *entries = mem_zalloc(n, sizeof *entries);
    for (unsigned i = 0; i < n; i++) {
        const struct job_entry *entry = &job->entries[from + i];
        entries[i] = (struct machine_entry){.index = entry->index,
                                            .term = entry->term,
                                            .kind = entry->kind,
                                            .payload = payload_slice(entry->payload)};
    }
    job->code = machine_apply(machine, entries, n, keep_result, job, &job->error);
    mem_free(entries);
    if (job->code != ERROR_NONE) {
        forget_results(job); /* also those of the ranges before, which are undone with this one */
        return false;
    }
    return true;
}

/* Ranges end where a digest is due, so that every replica takes it at the same index. */
static void run_apply(struct job *job, struct machine *machine) {
    unsigned from = 0;
    if (machine_state(machine).applied_index + 1 != job->entries[0].index) {
        /* A job before this one failed for lack of space: wait for the retry. */
        job->code = error_set(&job->error, ERROR_NOSPACE, "earlier entries are not applied yet");
        return;
    }
    note_times(job);
    if (job->knows_time) {
        machine_set_wall_offset(machine, job->wall_offset_ms);
    }
    for (unsigned i = 0; i < job->n_entries; i++) {
        bool boundary = job->entries[i].index % JOB_DIGEST_EVERY == 0;
        if (!boundary && i + 1 < job->n_entries) {
            continue;
        }
        if (!apply_range(job, machine, from, i + 1 - from)) {
            return;
        }
        from = i + 1;
        if (boundary) {
            job->digest.index = job->entries[i].index;
            job->digest.digest = machine_state(machine).digest;
        }
    }
}

static void run_read(struct job *job, struct machine *machine) {
    if (machine_state(machine).applied_index < job->read_index) {
        job->behind = true;
        return;
    }
    struct command *commands = mem_zalloc(job->n_reads, sizeof *commands);
    struct result *results = mem_zalloc(job->n_reads, sizeof *results);
    for (unsigned i = 0; i < job->n_reads; i++) {
        enum error_code code = command_decode(job->reads[i].command, &commands[i], &job->error);
        ASSERT(code == ERROR_NONE); /* checked when it was made or received */
    }
    machine_set_read_time(machine, job->time_ms);
    job->code = machine_read(machine, commands, job->n_reads, results, &job->n_done, &job->error);
    machine_set_read_time(machine, 0); /* entries know no other time than theirs */
    for (unsigned i = 0; i < job->n_done; i++) {
        job->reads[i].result = results[i];
        if (job->code != ERROR_NONE) {
            result_set_error(&job->reads[i].result, job->code, "%s", job->error.message);
        }
    }
    mem_free(results);
    mem_free(commands);
}

static void run_checkpoint(struct job *job, struct machine *machine) {
    job->code = machine_checkpoint(machine, &job->durable_index, &job->error);
    struct machine_state state = machine_state(machine);
    /* While a snapshot is held the file stays at an older index, whose configuration this is not.
     */
    if (job->code == ERROR_NONE && job->durable_index == state.applied_index) {
        job->durable_config_index = state.config_index;
        buffer_append_slice(&job->config, machine_config(machine));
    } else {
        job->durable_index = 0;
    }
}

static void run_mark(struct job *job, struct machine *machine) {
    job->code = machine_commit(machine, &job->error);
    if (job->code != ERROR_NONE) {
        return;
    }
    struct machine_state state = machine_state(machine);
    job->durable_index = state.applied_index;
    job->durable_config_index = state.config_index;
    buffer_append_slice(&job->config, machine_config(machine));
}

static void run_hold(struct job *job, struct machine *machine) {
    job->code = machine_snapshot_hold(machine, &job->snapshot, &job->config, &job->error);
    job->durable_index = job->snapshot.index;
    job->durable_config_index = job->snapshot.config_index;
}

static void run_verify(struct job *job, const struct machine_options *options) {
    struct machine_options staged = *options;
    staged.path = job->path;
    job->code = machine_verify(&staged, false, &job->state, &job->error);
}

static void run_install(struct job *job, struct machine **machine,
                        const struct machine_options *options) {
    machine_close(*machine);
    *machine = NULL;
    job->code = machine_replace(options, job->path, &job->error);
    if (job->code != ERROR_NONE) {
        return;
    }
    job->code = machine_open(machine, options, &job->error);
}

void job_run(struct job *job, struct machine **machine, const struct machine_options *options) {
    switch (job->kind) {
    case JOB_APPLY:
        machine_record_events(*machine, job->events.limit_bytes > 0 ? &job->events : NULL);
        run_apply(job, *machine);
        machine_record_events(*machine, NULL);
        break;
    case JOB_READ:
        run_read(job, *machine);
        break;
    case JOB_COMMIT:
        job->code = machine_commit(*machine, &job->error);
        break;
    case JOB_MARK:
        run_mark(job, *machine);
        break;
    case JOB_FOLD:
        job->code =
            machine_fold(options, job->fold_bytes, &job->complete, &job->moved_bytes, &job->error);
        return;
    case JOB_CHECKPOINT:
        run_checkpoint(job, *machine);
        break;
    case JOB_HOLD:
        run_hold(job, *machine);
        break;
    case JOB_RELEASE:
        machine_snapshot_release(*machine);
        break;
    case JOB_TOP:
        machine_top_step(*machine, job->top);
        break;
    case JOB_VERIFY:
        run_verify(job, options);
        return;
    case JOB_INSTALL:
        run_install(job, machine, options);
        break;
    }
    if (*machine != NULL) {
        job->state = machine_state(*machine);
        job->wal_bytes = machine_wal_bytes(*machine);
        job->overflows = job->kind == JOB_APPLY && machine_take_overflow(*machine);
    }
}
