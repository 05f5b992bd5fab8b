/* The log as its users see it: the loop's side, the log thread, background reads, and the
 * housekeeping of segment files. See raft/log.h.
 *
 * The loop thread owns `struct log`, the index and the segment table. The log thread owns the
 * writer. They exchange lists of operations and spare files through `struct shared` under one
 * mutex, which nobody holds during I/O. Files are created, recycled and removed by one job at a
 * time in libuv's pool. */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <uv.h>

#include "base/assert.h"
#include "base/list.h"
#include "base/mem.h"
#include "raft/log.h"
#include "raft/log_files.h"
#include "raft/log_format.h"
#include "raft/log_index.h"
#include "raft/log_read.h"
#include "raft/log_recover.h"
#include "raft/log_writer.h"
#include "raft/storage.h"

enum {
    SEAL_AFTER_MS = 100,
    RETRY_MS = 1000,
    STARVED_RETRY_MS = 50, /* the log thread's attempts to get the next segment on a full disk */
    STARVED_MAX_S = 60,    /* and for how long */
    /* With more segments than this, the last entries of the oldest one are moved. The caller of
     * log_pinned_by(log, 4, ...) gets to checkpoint before. */
    RELOCATE_SEGMENTS = 5,
    /* Entries are moved when they fill less than an eighth of a segment, or less than half of it
     * once the log is as long as this. */
    RELOCATE_SEGMENTS_LATE = 16,
    /* So much at a time. */
    RELOCATE_ENTRIES = 256
};
#define RELOCATE_BYTES (1 * MIB)
#define NS_PER_S UINT64_C(1000000000)

/* A segment in use. Readers may keep its file open after it was removed. */
struct segment {
    struct segment *next;
    uint32_t number;
    int file;
    uint64_t size;
    unsigned readers;
    bool removed;
};

struct segment_list {
    struct segment *first;
    struct segment **end;
    unsigned n;
};

/* What the threads exchange. */
struct shared {
    uv_mutex_t mutex;
    uv_cond_t wake;
    struct log_op_list queued;
    bool urgent; /* something in `queued` is waited for */
    bool closing;
    struct log_op_list completed;
    struct segment_list started; /* new segments that the loop has not seen */
    struct log_spare spares[LOG_SPARES_MAX];
    unsigned n_spares;
    uint64_t room; /* bytes left in the current segment */
    struct log_writer_stats stats;
    bool reset_max;
    uint64_t starved_ns; /* since when the thread has been waiting for space, 0: it is not */
    bool exited;
};

struct log {
    uv_loop_t *loop;
    const struct storage *storage;
    char *dir;
    struct log_files files;
    unsigned n_groups;
    struct log_index *index;
    struct segment_list segments; /* in use, oldest first */
    uint64_t segment_bytes;
    uint64_t next_ticket;

    struct log_op_list pending; /* not yet handed over */
    bool pending_urgent;
    uint64_t queued_bytes;
    uint64_t room;
    /* What was written and is not known here yet, lies in this segment or behind it. */
    uint32_t settled_segment;

    uv_thread_t thread;
    bool thread_running;
    struct log_writer *writer; /* the thread's */
    uv_async_t async;
    struct shared shared;

    /* Housekeeping. */
    struct segment_list retiring; /* needed by nobody, but that is not on disk yet */
    struct segment_list retired;  /* to be recycled or removed, oldest first */
    bool job_running;
    bool prepare_failed; /* and there is no spare */
    bool starved;        /* the log thread waits for space, as last seen in `shared` */
    unsigned n_spares;   /* as last seen in `shared` */
    uint32_t next_spare;
    uv_timer_t retry; /* active: no new attempt before it fires */

    bool relocating;
    unsigned relocations;   /* queued and not yet on disk */
    struct list_node reads; /* under way */

    bool closing;
    unsigned open_handles;
    void (*closed)(void *data);
    void *closed_data;
};

static void log_service(struct log *log);
static void log_maybe_closed(struct log *log);

/* ---- Segments ------------------------------------------------------------------------------- */

static void segment_list_init(struct segment_list *list) {
    list->first = NULL;
    list->end = &list->first;
    list->n = 0;
}

static void segment_list_push(struct segment_list *list, struct segment *segment) {
    segment->next = NULL;
    *list->end = segment;
    list->end = &segment->next;
    list->n++;
}

static struct segment *segment_list_pop(struct segment_list *list) {
    struct segment *segment = list->first;
    if (segment != NULL) {
        list->first = segment->next;
        segment->next = NULL;
        list->n--;
        if (list->first == NULL) {
            list->end = &list->first;
        }
    }
    return segment;
}

static struct segment *segment_new(uint32_t number, int file, uint64_t size) {
    struct segment *segment = mem_zalloc(1, sizeof *segment);
    segment->number = number;
    segment->file = file;
    segment->size = size;
    return segment;
}

static struct segment *segment_find(const struct log *log, uint32_t number) {
    for (struct segment *segment = log->segments.first; segment != NULL; segment = segment->next) {
        if (segment->number == number) {
            return segment;
        }
    }
    ASSERT(false);
    return NULL;
}

static void segment_free(struct log *log, struct segment *segment) {
    ASSERT(segment->readers == 0);
    log->storage->close(log->storage->context, segment->file);
    mem_free(segment);
}

static void segment_release(struct log *log, struct segment *segment) {
    ASSERT(segment->readers > 0);
    segment->readers--;
    if (segment->readers == 0 && segment->removed) {
        segment_free(log, segment);
    }
}

static void segments_adopt(struct log *log, struct segment *segment) {
    segment_list_push(&log->segments, segment);
    log->segment_bytes += segment->size;
}

/* ---- The log thread ------------------------------------------------------------------------- */

static bool thread_take_spare(void *context, struct log_spare *spare) {
    struct log *log = context;
    uv_mutex_lock(&log->shared.mutex);
    bool have = log->shared.n_spares > 0;
    if (have) {
        *spare = log->shared.spares[--log->shared.n_spares];
    }
    uv_mutex_unlock(&log->shared.mutex);
    return have;
}

static bool thread_wait_for_space(void *context) {
    struct log *log = context;
    struct shared *shared = &log->shared;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t now_ns = (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
    uv_mutex_lock(&shared->mutex);
    bool begins = shared->starved_ns == 0;
    shared->starved_ns = begins ? now_ns : shared->starved_ns;
    bool go_on = !shared->closing && now_ns < shared->starved_ns + STARVED_MAX_S * NS_PER_S;
    if (begins) {
        uv_async_send(&log->async); /* see log_has_space() */
    }
    if (go_on) {
        (void)uv_cond_timedwait(&shared->wake, &shared->mutex, STARVED_RETRY_MS * NS_PER_S / 1000);
    }
    uv_mutex_unlock(&shared->mutex);
    return go_on;
}

static void thread_segment_started(void *context, uint32_t number, int file, uint64_t size) {
    struct log *log = context;
    struct segment *segment = segment_new(number, file, size);
    uv_mutex_lock(&log->shared.mutex);
    segment_list_push(&log->shared.started, segment);
    log->shared.starved_ns = 0;
    uv_mutex_unlock(&log->shared.mutex);
    uv_async_send(&log->async);
}

static void thread_completed(void *context, struct log_op_list *ops) {
    struct log *log = context;
    struct shared *shared = &log->shared;
    uint64_t room = log_writer_room(log->writer);
    uv_mutex_lock(&shared->mutex);
    if (shared->reset_max) {
        shared->reset_max = false;
        log_writer_stats_reset_max(log->writer);
    }
    log_op_list_move(&shared->completed, ops);
    shared->room = room;
    shared->stats = log_writer_stats(log->writer);
    uv_mutex_unlock(&shared->mutex);
    uv_async_send(&log->async);
}

/* Waits for work. True: take what is queued (possibly nothing, then it is time to seal). Called and
 * returns with the mutex held. */
static void thread_wait(struct log *log) {
    struct shared *shared = &log->shared;
    bool sealed = log_writer_sealed(log->writer);
    while (!shared->urgent && !shared->closing) {
        if (sealed && shared->queued.first == NULL) {
            uv_cond_wait(&shared->wake, &shared->mutex);
            continue;
        }
        if (uv_cond_timedwait(&shared->wake, &shared->mutex,
                              (uint64_t)SEAL_AFTER_MS * 1000 * 1000) == UV_ETIMEDOUT) {
            return;
        }
    }
}

static void thread_main(void *context) {
    struct log *log = context;
    struct shared *shared = &log->shared;
    uv_mutex_lock(&shared->mutex);
    for (;;) {
        thread_wait(log);
        struct log_op_list ops;
        log_op_list_init(&ops);
        log_op_list_move(&ops, &shared->queued);
        shared->urgent = false;
        bool closing = shared->closing;
        uv_mutex_unlock(&shared->mutex);
        if (ops.first != NULL) {
            log_writer_write(log->writer, &ops);
        } else {
            log_writer_seal(log->writer);
        }
        uv_mutex_lock(&shared->mutex);
        if (closing && shared->queued.first == NULL && log_writer_sealed(log->writer)) {
            break;
        }
    }
    shared->exited = true;
    uv_mutex_unlock(&shared->mutex);
    uv_async_send(&log->async);
}

/* ---- Queueing ------------------------------------------------------------------------------- */

static void log_push(struct log *log, struct log_op *op, bool urgent) {
    ASSERT(!log->closing);
    op->bytes += log_record_size(0);
    log->queued_bytes += op->bytes;
    log_op_list_push(&log->pending, op);
    log->pending_urgent = log->pending_urgent || urgent;
}

static void log_hand_over(struct log *log, bool closing) {
    if (log->pending.first == NULL && !closing) {
        return;
    }
    struct shared *shared = &log->shared;
    uv_mutex_lock(&shared->mutex);
    log_op_list_move(&shared->queued, &log->pending);
    shared->urgent = shared->urgent || log->pending_urgent;
    shared->closing = closing;
    uv_cond_signal(&shared->wake);
    uv_mutex_unlock(&shared->mutex);
    log->pending_urgent = false;
}

void log_kick(struct log *log) {
    log_hand_over(log, log->closing);
}

/* What nobody waits for need not wait for the next kick, unless it would take along what does. */
static void log_hand_over_lazy(struct log *log) {
    if (!log->pending_urgent && !log->closing) {
        log_hand_over(log, false);
    }
}

void log_append(struct log *log, unsigned group, uint64_t first, const struct log_entry *entries,
                unsigned n, struct log_request *request) {
    uint64_t ticket = log->next_ticket++;
    struct log_op *op = log_op_new(LOG_OP_APPEND, group, first, 0, n);
    op->ticket = ticket;
    op->request = request;
    for (unsigned k = 0; k < n; k++) {
        log_op_set_entry(op, k, entries[k].term, entries[k].kind, entries[k].payload);
    }
    log_index_append(log->index, group, first, entries, n, ticket);
    log_push(log, op, true);
}

void log_set_vote(struct log *log, unsigned group, uint64_t term, uint64_t voted_for,
                  struct log_request *request) {
    struct log_op *op = log_op_new(LOG_OP_VOTE, group, voted_for, term, 0);
    op->request = request;
    log_index_set_vote(log->index, group, term, voted_for);
    log_push(log, op, true);
}

void log_reset(struct log *log, unsigned group, uint64_t index, uint64_t term,
               struct log_request *request) {
    struct log_op *op = log_op_new(LOG_OP_RESET, group, index, term, 0);
    op->request = request;
    log_index_reset(log->index, group, index, term);
    log_push(log, op, true);
    log_service(log);
}

void log_cut(struct log *log, unsigned group, uint64_t index) {
    struct log_group_state state = log_index_state(log->index, group);
    if (index < state.first) {
        return;
    }
    uint64_t term = log_index_cut(log->index, group, index);
    log_push(log, log_op_new(LOG_OP_CUT, group, index, term, 0), false);
    log_service(log);
}

/* ---- Looking up ----------------------------------------------------------------------------- */

struct log_group_state log_state(const struct log *log, unsigned group) {
    return log_index_state(log->index, group);
}

bool log_lookup(const struct log *log, unsigned group, uint64_t index, uint64_t *term,
                enum log_entry_kind *kind) {
    const struct log_index_entry *entry = log_index_get(log->index, group, index);
    if (entry != NULL) {
        *term = entry->term;
        *kind = (enum log_entry_kind)entry->kind;
        return true;
    }
    struct log_group_state state = log_index_state(log->index, group);
    if (index + 1 != state.first || state.base_term == 0) {
        return false;
    }
    *term = state.base_term;
    *kind = 0;
    return true;
}

bool log_cached(const struct log *log, unsigned group, uint64_t index, struct log_entry *entry) {
    const struct log_index_entry *found = log_index_get(log->index, group, index);
    if (found == NULL || found->payload == NULL) {
        return false;
    }
    entry->term = found->term;
    entry->kind = (enum log_entry_kind)found->kind;
    entry->payload = payload_ref(found->payload);
    return true;
}

bool log_has_space(const struct log *log) {
    if (log->starved) {
        return false;
    }
    if (!log->prepare_failed) {
        return true;
    }
    /* An eighth of the segment is for terms and votes; and one value of the default size that is
     * accepted now must not need the segment that is missing. */
    uint64_t reserve = log->files.segment_size / 8;
    uint64_t largest = LIMIT_VALUE_SIZE_DEFAULT + 1 * MIB;
    if (largest > log->files.segment_size / 2) {
        largest = log->files.segment_size / 2;
    }
    if (largest > reserve) {
        reserve = largest;
    }
    return log->room > reserve + log->queued_bytes;
}

bool log_pinned_by(const struct log *log, unsigned max_segments, unsigned *group) {
    if (log->segments.n <= max_segments ||
        log_index_segment_oldest(log->index) == log_index_segment_newest(log->index)) {
        return false;
    }
    uint64_t most = 0;
    for (unsigned g = 0; g < log->n_groups; g++) {
        uint64_t live = log_index_oldest_live(log->index, g);
        if (live > most) {
            most = live;
            *group = g;
        }
    }
    return most > 0;
}

struct log_stats log_stats(struct log *log) {
    struct shared *shared = &log->shared;
    uv_mutex_lock(&shared->mutex);
    struct log_writer_stats writer = shared->stats;
    shared->stats.sync_ns_max = 0;
    shared->reset_max = true;
    uv_mutex_unlock(&shared->mutex);
    return (struct log_stats){
        .segments = log->segments.n,
        .bytes = log->segment_bytes,
        .cache_bytes = log_index_cache_bytes(log->index),
        .syncs = writer.syncs,
        .batches = writer.batches,
        .sync_ns_total = writer.sync_ns_total,
        .sync_ns_max = writer.sync_ns_max,
        .sync = writer.sync,
        .queued_bytes = log->queued_bytes,
    };
}

/* ---- Background reads ----------------------------------------------------------------------- */

struct read {
    uv_work_t work;
    struct list_node node;
    struct log *log;
    unsigned group;
    uint64_t first;     /* of a client's read; a relocation has an index in every item */
    log_read_done done; /* NULL: relocation */
    void *data;
    enum error_code code;
    struct log_read_batch batch;
    struct segment **segments; /* one for each item, with a reader counted; NULL: cached */
};

static void read_work(uv_work_t *work) {
    struct read *read = work->data;
    read->code = log_read_batch_run(&read->batch);
}

static struct read *read_new(struct log *log, unsigned group, unsigned n) {
    struct read *read = mem_zalloc(1, sizeof *read);
    read->work.data = read;
    read->log = log;
    read->group = group;
    log_read_batch_init(&read->batch, log->storage, log->files.identity, n);
    read->segments = mem_zalloc(n, sizeof *read->segments);
    return read;
}

static void read_add(struct read *read, unsigned group, uint64_t index,
                     const struct log_index_entry *entry) {
    struct log_read_item *item = &read->batch.items[read->batch.n];
    *item = (struct log_read_item){
        .group = group,
        .index = index,
        .size = entry->size,
        .entry = {.term = entry->term, .kind = (enum log_entry_kind)entry->kind},
    };
    if (entry->payload != NULL) {
        item->entry.payload = payload_ref(entry->payload);
    } else {
        struct segment *segment = segment_find(read->log, entry->location.segment);
        segment->readers++;
        read->segments[read->batch.n] = segment;
        item->file = segment->file;
    }
    if (!entry->pending) {
        item->location = entry->location;
    }
    read->batch.n++;
}

static void read_release_segments(struct read *read) {
    for (unsigned k = 0; k < read->batch.n; k++) {
        if (read->segments[k] != NULL) {
            segment_release(read->log, read->segments[k]);
            read->segments[k] = NULL;
        }
    }
}

static void read_free(struct read *read) {
    list_remove(&read->node);
    log_read_batch_free(&read->batch);
    mem_free(read->segments);
    mem_free(read);
}

static void read_start(struct read *read, uv_after_work_cb after) {
    list_push(&read->log->reads, &read->node);
    int result = uv_queue_work(read->log->loop, &read->work, read_work, after);
    ASSERT(result == 0);
}

/* True when the log still holds what was read. */
static bool read_still_valid(const struct read *read) {
    for (unsigned k = 0; k < read->batch.n; k++) {
        const struct log_read_item *item = &read->batch.items[k];
        const struct log_index_entry *entry =
            log_index_get(read->log->index, item->group, item->index);
        if (entry == NULL || entry->term != item->entry.term) {
            return false;
        }
    }
    return true;
}

/* True when an item that was read from the disk has its bytes elsewhere by now: the place that was
 * read may have been overwritten by a newer segment. */
static bool read_was_moved(const struct read *read) {
    for (unsigned k = 0; k < read->batch.n; k++) {
        const struct log_read_item *item = &read->batch.items[k];
        const struct log_index_entry *entry =
            log_index_get(read->log->index, item->group, item->index);
        if (entry != NULL && item->location.segment != 0 &&
            (entry->pending || entry->location.segment != item->location.segment ||
             entry->location.unit != item->location.unit)) {
            return true;
        }
    }
    return false;
}

static void read_deliver(struct read *read) {
    unsigned n = read->code == ERROR_NONE ? read->batch.n : 0;
    struct log_entry *entries = n > 0 ? mem_alloc(n * sizeof *entries) : NULL;
    for (unsigned k = 0; k < n; k++) {
        entries[k] = read->batch.items[k].entry;
        read->batch.items[k].entry.payload = NULL;
    }
    log_read_done done = read->done;
    void *data = read->data;
    uint64_t first = read->first;
    enum error_code code = read->code;
    read_free(read);
    done(data, code, first, entries, n);
    mem_free(entries);
}

static void read_after(uv_work_t *work, int status) {
    (void)status;
    struct read *read = work->data;
    struct log *log = read->log;
    read_release_segments(read);
    if (read->code == ERROR_NONE || read->code == ERROR_CORRUPT) {
        if (!read_still_valid(read)) {
            read->code = ERROR_INVALID;
        } else if (read->code == ERROR_CORRUPT && read_was_moved(read)) {
            uint64_t first = read->first;
            log_read(log, read->group, first, read->batch.n, UINT64_MAX, read->done, read->data);
            read_free(read);
            return;
        }
    }
    read_deliver(read);
    log_maybe_closed(log);
}

void log_read(struct log *log, unsigned group, uint64_t first, unsigned n, uint64_t max_bytes,
              log_read_done done, void *data) {
    struct log_group_state state = log_index_state(log->index, group);
    bool valid =
        n > 0 && first >= state.first && first <= state.last && n - 1 <= state.last - first;
    struct read *read = read_new(log, group, valid ? n : 0);
    read->first = first;
    read->done = done;
    read->data = data;
    read->batch.code = valid ? ERROR_NONE : ERROR_INVALID;
    uint64_t bytes = 0;
    for (unsigned k = 0; valid && k < n; k++) {
        const struct log_index_entry *entry = log_index_get(log->index, group, first + k);
        ASSERT(entry != NULL);
        bytes += entry->size;
        if (k > 0 && bytes > max_bytes) {
            break;
        }
        read_add(read, group, first + k, entry);
    }
    read_start(read, read_after);
}

/* ---- Relocation ----------------------------------------------------------------------------- */

static bool relocation_is_due(const struct log *log) {
    if (log->relocating || log->relocations > 0 || log->closing ||
        log->segments.n <= RELOCATE_SEGMENTS) {
        return false;
    }
    uint64_t live = log_index_oldest_live_total(log->index);
    uint64_t most = log->segments.n > RELOCATE_SEGMENTS_LATE ? log->files.segment_size / 2
                                                             : log->files.segment_size / 8;
    return live > 0 && log_index_oldest_live_bytes(log->index) <= most;
}

static void relocate_after(uv_work_t *work, int status) {
    (void)status;
    struct read *read = work->data;
    struct log *log = read->log;
    read_release_segments(read);
    log->relocating = false;
    if (read->code != ERROR_NONE && !log->closing && !read_was_moved(read) &&
        read_still_valid(read)) {
        assert_fatal(
            "cannot read an entry of group %u in the oldest log segment in %s: %s; rebuild "
            "this node from its peers",
            read->batch.items[0].group, log->dir, error_describe(read->code));
    }
    for (unsigned k = 0; k < read->batch.n && read->code == ERROR_NONE && !log->closing; k++) {
        struct log_read_item *item = &read->batch.items[k];
        const struct log_index_entry *entry = log_index_get(log->index, item->group, item->index);
        if (entry == NULL || entry->pending || entry->location.segment != item->location.segment ||
            entry->location.unit != item->location.unit) {
            continue; /* replaced or cut meanwhile */
        }
        struct log_op *op = log_op_new(LOG_OP_RELOCATE, item->group, item->index, 0, 1);
        op->from = item->location;
        log_op_set_entry(op, 0, item->entry.term, item->entry.kind, item->entry.payload);
        log->relocations++;
        log_push(log, op, false);
    }
    read_free(read);
    log_hand_over_lazy(log);
    log_maybe_closed(log);
}

static void relocate_collect(struct log *log, struct read *read, unsigned group, uint64_t *bytes) {
    struct log_group_state state = log_index_state(log->index, group);
    uint32_t oldest = log_index_segment_oldest(log->index);
    uint64_t left = log_index_oldest_live(log->index, group);
    for (uint64_t i = state.first; i <= state.last && left > 0; i++) {
        const struct log_index_entry *entry = log_index_get(log->index, group, i);
        if (entry->pending || entry->location.segment != oldest) {
            continue;
        }
        if (read->batch.n == RELOCATE_ENTRIES || *bytes >= RELOCATE_BYTES) {
            return;
        }
        *bytes += entry->size;
        left--;
        read_add(read, group, i, entry);
    }
}

static void relocate(struct log *log) {
    struct read *read = read_new(log, 0, RELOCATE_ENTRIES);
    uint64_t bytes = 0;
    for (unsigned g = 0; g < log->n_groups; g++) {
        if (log_index_oldest_live(log->index, g) > 0) {
            relocate_collect(log, read, g, &bytes);
        }
    }
    log->relocating = true;
    read_start(read, relocate_after);
}

/* ---- Housekeeping: recycling, removing and preparing files ---------------------------------- */

struct job {
    uv_work_t work;
    struct log *log;
    struct segment_list retired; /* what could not be handled stays in here */
    struct log_spare spares[LOG_SPARES_MAX];
    unsigned n_spares;    /* made by this job */
    unsigned have_spares; /* there were before */
    uint32_t next_spare;
    bool failed;
};

static int job_retire(struct job *job, const struct segment *segment) {
    const struct log_files *files = &job->log->files;
    if (segment->size != files->segment_size ||
        job->have_spares + job->n_spares == LOG_SPARES_MAX) {
        return log_file_retire(files, segment->number, NULL);
    }
    struct log_spare *spare = &job->spares[job->n_spares];
    log_spare_name(job->next_spare++, spare->name);
    int result = log_file_retire(files, segment->number, spare);
    if (result == 0 && spare->file >= 0) {
        job->n_spares++;
    }
    return result;
}

static void job_work(uv_work_t *work) {
    struct job *job = work->data;
    struct log *log = job->log;
    while (job->retired.first != NULL) {
        if (job_retire(job, job->retired.first) != 0) {
            job->failed = true;
            break;
        }
        struct segment *segment = segment_list_pop(&job->retired);
        if (segment->file >= 0) {
            log->storage->close(log->storage->context, segment->file);
        }
        mem_free(segment);
    }
    if (job->have_spares + job->n_spares > 0) {
        return;
    }
    struct log_spare *spare = &job->spares[0];
    log_spare_name(job->next_spare++, spare->name);
    spare->file =
        log_file_prepare(log->storage, log->dir, spare->name, log->files.segment_size, true);
    if (spare->file < 0) {
        job->failed = true;
        return;
    }
    job->n_spares = 1;
}

static void retry_fired(uv_timer_t *timer) {
    log_service(timer->data);
}

static void job_after(uv_work_t *work, int status) {
    (void)status;
    struct job *job = work->data;
    struct log *log = job->log;
    struct shared *shared = &log->shared;
    uv_mutex_lock(&shared->mutex);
    ASSERT(shared->n_spares + job->n_spares <= LOG_SPARES_MAX);
    for (unsigned k = 0; k < job->n_spares; k++) {
        shared->spares[shared->n_spares++] = job->spares[k];
    }
    log->n_spares = shared->n_spares;
    uv_mutex_unlock(&shared->mutex);

    while (log->retired.first != NULL) {
        segment_list_push(&job->retired, segment_list_pop(&log->retired));
    }
    while (job->retired.first != NULL) {
        segment_list_push(&log->retired, segment_list_pop(&job->retired));
    }
    log->next_spare = job->next_spare;
    log->prepare_failed = job->failed && job->have_spares + job->n_spares == 0;
    log->job_running = false;
    if (job->failed && !log->closing) {
        uv_timer_start(&log->retry, retry_fired, RETRY_MS, 0);
    }
    mem_free(job);
    log_service(log);
    log_maybe_closed(log);
}

static void job_maybe_start(struct log *log) {
    if (log->job_running || uv_is_active((uv_handle_t *)&log->retry) ||
        (log->retired.first == NULL && log->n_spares > 0)) {
        return;
    }
    struct job *job = mem_zalloc(1, sizeof *job);
    job->work.data = job;
    job->log = log;
    job->have_spares = log->n_spares;
    job->next_spare = log->next_spare;
    segment_list_init(&job->retired);
    while (log->retired.first != NULL) {
        segment_list_push(&job->retired, segment_list_pop(&log->retired));
    }
    log->job_running = true;
    int result = uv_queue_work(log->loop, &job->work, job_work, job_after);
    ASSERT(result == 0);
}

/* Lets go of the oldest segments as far as they hold nothing that is needed, not even entries of
 * which the log thread has not told yet. Their files stay until what made them dispensable is on
 * disk: that is what the queued operation waits for. */
static void collect_dead(struct log *log) {
    if (log->queued_bytes == 0) {
        log->settled_segment = log_index_segment_newest(log->index);
    }
    while (log_index_segment_oldest(log->index) < log->settled_segment &&
           log_index_oldest_live_total(log->index) == 0) {
        struct segment *segment = segment_list_pop(&log->segments);
        ASSERT(segment->number == log_index_segment_oldest(log->index));
        log_index_segment_remove(log->index);
        log->segment_bytes -= segment->size;
        segment_list_push(&log->retiring, segment);
        log_push(log, log_op_new(LOG_OP_RETIRE, 0, segment->number, 0, 0), false);
    }
}

static void segment_retired(struct log *log, uint64_t number) {
    struct segment *segment = segment_list_pop(&log->retiring);
    ASSERT(segment != NULL && segment->number == number);
    bool idle = segment->readers == 0;
    segment_list_push(&log->retired,
                      segment_new(segment->number, idle ? segment->file : -1, segment->size));
    segment->removed = true;
    if (idle) {
        mem_free(segment); /* the job closes the file */
    }
    uv_timer_stop(&log->retry); /* a file to recycle: worth an attempt now */
}

/* Everything that keeps the set of segments small and the next one ready. */
static void log_service(struct log *log) {
    if (log->closing) {
        return;
    }
    collect_dead(log);
    if (relocation_is_due(log)) {
        relocate(log);
    }
    job_maybe_start(log);
    log_hand_over_lazy(log);
}

/* ---- Completion ----------------------------------------------------------------------------- */

static void op_completed(struct log *log, const struct log_op *op) {
    if (op->n > 0) {
        log->settled_segment = op->entries[op->n - 1].location.segment;
    }
    switch (op->type) {
    case LOG_OP_APPEND:
        for (unsigned k = 0; k < op->n; k++) {
            log_index_durable(log->index, op->group, op->index + k, op->ticket,
                              op->entries[k].location);
        }
        break;
    case LOG_OP_RELOCATE:
        ASSERT(log->relocations > 0);
        log->relocations--;
        log_index_relocated(log->index, op->group, op->index, op->from, op->entries[0].location);
        break;
    case LOG_OP_RETIRE:
        segment_retired(log, op->index);
        break;
    case LOG_OP_VOTE:
    case LOG_OP_RESET:
    case LOG_OP_CUT:
        break;
    }
}

static void log_completions(uv_async_t *async) {
    struct log *log = async->data;
    struct shared *shared = &log->shared;
    struct log_op_list completed;
    struct segment_list started;
    log_op_list_init(&completed);
    segment_list_init(&started);

    uv_mutex_lock(&shared->mutex);
    log_op_list_move(&completed, &shared->completed);
    while (shared->started.first != NULL) {
        segment_list_push(&started, segment_list_pop(&shared->started));
    }
    log->room = shared->room;
    log->n_spares = shared->n_spares;
    log->starved = shared->starved_ns != 0;
    bool exited = shared->exited;
    uv_mutex_unlock(&shared->mutex);

    while (started.first != NULL) {
        struct segment *segment = segment_list_pop(&started);
        log_index_segment_add(log->index, segment->number);
        segments_adopt(log, segment);
    }
    for (struct log_op *op = log_op_list_pop(&completed); op != NULL;
         op = log_op_list_pop(&completed)) {
        op_completed(log, op);
        ASSERT(log->queued_bytes >= op->bytes);
        log->queued_bytes -= op->bytes;
        struct log_request *request = op->request;
        log_op_free(op);
        if (request != NULL) {
            request->done(request);
        }
    }
    log_index_evict(log->index);
    log_service(log);
    if (exited && log->thread_running) {
        uv_thread_join(&log->thread);
        log->thread_running = false;
        log_maybe_closed(log);
    }
}

/* ---- Opening and closing -------------------------------------------------------------------- */

static void log_start_writer(struct log *log, const struct log_recovery *recovery) {
    struct log_group_state states[LIMIT_SHARDS];
    for (unsigned g = 0; g < log->n_groups; g++) {
        states[g] = log_index_state(log->index, g);
    }
    const struct log_writer_host host = {
        .context = log,
        .take_spare = thread_take_spare,
        .wait_for_space = thread_wait_for_space,
        .segment_started = thread_segment_started,
        .completed = thread_completed,
    };
    log->writer = log_writer_new(&log->files, &host, &recovery->tail, states);
    log->room = log_writer_room(log->writer);
}

/* Takes over the files that recovery found. */
static void log_adopt(struct log *log, struct log_recovery *recovery) {
    for (unsigned k = 0; k < recovery->n_segments; k++) {
        const struct log_segment_file *file = &recovery->segments[k];
        segments_adopt(log, segment_new(file->number, file->file, file->size));
    }
    for (unsigned k = 0; k < recovery->n_spares; k++) {
        log->shared.spares[log->shared.n_spares++] = recovery->spares[k];
    }
    log->n_spares = log->shared.n_spares;
    log->next_spare = recovery->next_spare;
    log->shared.room = log->room;
}

static struct log *log_new(struct uv_loop_s *loop, const struct log_options *options) {
    struct log *log = mem_zalloc(1, sizeof *log);
    log->loop = loop;
    log->storage = options->storage != NULL ? options->storage : storage_posix();
    log->dir = mem_strdup(options->dir);
    log->files = (struct log_files){
        .storage = log->storage,
        .dir = log->dir,
        .identity = options->identity,
        .segment_size = log_round_up(options->segment_size),
        .n_groups = options->n_groups,
    };
    log->n_groups = options->n_groups;
    log->index = log_index_new(options->n_groups, options->cache_size);
    log->next_ticket = 1;
    log_op_list_init(&log->pending);
    log_op_list_init(&log->shared.queued);
    log_op_list_init(&log->shared.completed);
    segment_list_init(&log->segments);
    segment_list_init(&log->retiring);
    segment_list_init(&log->retired);
    segment_list_init(&log->shared.started);
    list_init(&log->reads);
    return log;
}

static void log_free_segments(struct log *log, struct segment_list *list) {
    for (struct segment *segment = segment_list_pop(list); segment != NULL;
         segment = segment_list_pop(list)) {
        if (segment->file >= 0) {
            log->storage->close(log->storage->context, segment->file);
        }
        mem_free(segment);
    }
}

static void log_free(struct log *log) {
    log_free_segments(log, &log->segments);
    log_free_segments(log, &log->retiring);
    log_free_segments(log, &log->retired);
    for (unsigned k = 0; k < log->shared.n_spares; k++) {
        log->storage->close(log->storage->context, log->shared.spares[k].file);
    }
    if (log->writer != NULL) {
        log_writer_free(log->writer);
    }
    log_index_free(log->index);
    mem_free(log->dir);
    mem_free(log);
}

static enum error_code log_check_options(const struct log_options *options, struct error *error) {
    if (options->n_groups == 0 || options->n_groups > LIMIT_SHARDS) {
        return error_set(error, ERROR_INVALID, "a log has 1 to %d groups, not %u", LIMIT_SHARDS,
                         options->n_groups);
    }
    if (options->segment_size < LIMIT_SEGMENT_SIZE_MIN || options->segment_size > 16 * GIB) {
        return error_set(error, ERROR_INVALID,
                         "a log segment has 1 MiB to 16 GiB, not %" PRIu64 " bytes",
                         options->segment_size);
    }
    return ERROR_NONE;
}

enum error_code log_open(struct log **out, struct uv_loop_s *loop,
                         const struct log_options *options, struct error *error) {
    *out = NULL;
    enum error_code code = log_check_options(options, error);
    if (code != ERROR_NONE) {
        return code;
    }
    struct log *log = log_new(loop, options);
    struct log_recovery recovery;
    code = log_recover(&log->files, options->must_exist, log->index, &recovery, error);
    if (code != ERROR_NONE) {
        log_free(log);
        return code;
    }
    int result = uv_async_init(loop, &log->async, log_completions);
    if (result != 0) {
        code = error_set(error, ERROR_IO, "cannot open the log: %s", uv_strerror(result));
        log_recovery_free(&recovery, log->storage);
        log_free(log);
        return code;
    }
    log->async.data = log;
    result = uv_timer_init(loop, &log->retry);
    ASSERT(result == 0);
    log->retry.data = log;
    log->open_handles = 2;

    log_start_writer(log, &recovery);
    log_adopt(log, &recovery);
    log_recovery_free(&recovery, NULL);
    result = uv_mutex_init(&log->shared.mutex);
    ASSERT(result == 0);
    result = uv_cond_init(&log->shared.wake);
    ASSERT(result == 0);
    result = uv_thread_create(&log->thread, thread_main, log);
    if (result != 0) {
        assert_fatal("cannot start the log thread: %s; raise the limit on threads and start again",
                     uv_strerror(result));
    }
    log->thread_running = true;
    log_service(log);
    *out = log;
    return ERROR_NONE;
}

static void handle_closed(uv_handle_t *handle) {
    struct log *log = handle->data;
    ASSERT(log->open_handles > 0);
    log->open_handles--;
    if (log->open_handles > 0) {
        return;
    }
    if (log->closed != NULL) {
        log->closed(log->closed_data);
    }
    uv_cond_destroy(&log->shared.wake);
    uv_mutex_destroy(&log->shared.mutex);
    log_free(log);
}

static void log_maybe_closed(struct log *log) {
    if (!log->closing || log->thread_running || log->job_running || !list_empty(&log->reads) ||
        uv_is_closing((uv_handle_t *)&log->async)) {
        return;
    }
    ASSERT(log->queued_bytes == 0);
    uv_close((uv_handle_t *)&log->async, handle_closed);
    uv_close((uv_handle_t *)&log->retry, handle_closed);
}

void log_close(struct log *log, void (*closed)(void *data), void *data) {
    ASSERT(!log->closing);
    log->closing = true;
    log->closed = closed;
    log->closed_data = data;
    uv_timer_stop(&log->retry);
    log_hand_over(log, true);
}
