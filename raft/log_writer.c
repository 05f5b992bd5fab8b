#include "raft/log_writer.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/mem.h"
#include "raft/log_format.h"

/* A batch takes no more records once it is this large. */
#define BATCH_SIZE_MAX (32 * MIB)
/* Payloads up to this size are copied beside their header: fewer pieces for the kernel. */
#define COPY_MAX (8 * KIB)
/* The batch buffer is given back when a batch made it larger than this. */
#define BUFFER_KEEP (4 * MIB)
/* A part of the batch: a stretch of the buffer, or a payload. */
struct piece {
    const uint8_t *payload; /* NULL: in the buffer at `at` */
    size_t at;
    size_t size;
};

struct log_writer {
    struct log_files files;
    struct log_writer_host host;
    struct log_tail tail;
    uint32_t seed;
    struct log_group_state states[LIMIT_SHARDS]; /* as of the last record in the batch */
    struct log_writer_stats stats;

    /* The batch being built. */
    struct buffer buffer;
    struct piece *pieces;
    size_t n_pieces;
    size_t piece_capacity;
    struct iovec *vectors;
    size_t vector_capacity;
    uint64_t batch_size;
    size_t last_header; /* of the last record, in the buffer */
    uint64_t last_offset;
    struct log_record last_record;
};

struct log_op *log_op_new(enum log_op_type type, unsigned group, uint64_t index, uint64_t term,
                          unsigned n_entries) {
    struct log_op *op = mem_alloc(sizeof *op + n_entries * sizeof op->entries[0]);
    *op =
        (struct log_op){.type = type, .group = group, .index = index, .term = term, .n = n_entries};
    return op;
}

void log_op_set_entry(struct log_op *op, unsigned k, uint64_t term, enum log_entry_kind kind,
                      struct payload *payload) {
    ASSERT(k < op->n);
    op->entries[k] =
        (struct log_op_entry){.payload = payload_ref(payload), .term = term, .kind = kind};
    op->bytes += log_record_size(payload->size);
}

void log_op_free(struct log_op *op) {
    for (unsigned k = 0; k < op->n; k++) {
        payload_unref(op->entries[k].payload);
    }
    mem_free(op);
}

void log_op_list_init(struct log_op_list *list) {
    list->first = NULL;
    list->end = &list->first;
}

void log_op_list_push(struct log_op_list *list, struct log_op *op) {
    op->next = NULL;
    *list->end = op;
    list->end = &op->next;
}

struct log_op *log_op_list_pop(struct log_op_list *list) {
    struct log_op *op = list->first;
    if (op != NULL) {
        list->first = op->next;
        op->next = NULL;
        if (list->first == NULL) {
            list->end = &list->first;
        }
    }
    return op;
}

void log_op_list_move(struct log_op_list *to, struct log_op_list *from) {
    if (from->first == NULL) {
        return;
    }
    *to->end = from->first;
    to->end = from->end;
    log_op_list_init(from);
}

struct log_writer *log_writer_new(const struct log_files *files, const struct log_writer_host *host,
                                  const struct log_tail *tail,
                                  const struct log_group_state *states) {
    ASSERT(files->n_groups > 0 && files->n_groups <= LIMIT_SHARDS);
    ASSERT(tail->offset >= LOG_BLOCK && tail->offset <= tail->size);
    struct log_writer *writer = mem_zalloc(1, sizeof *writer);
    writer->files = *files;
    writer->files.dir = mem_strdup(files->dir);
    writer->host = *host;
    writer->tail = *tail;
    writer->seed = log_record_seed(files->identity, tail->number);
    memcpy(writer->states, states, files->n_groups * sizeof *states);
    return writer;
}

void log_writer_free(struct log_writer *writer) {
    buffer_free(&writer->buffer);
    mem_free(writer->pieces);
    mem_free(writer->vectors);
    mem_free((void *)(uintptr_t)writer->files.dir);
    mem_free(writer);
}

static struct piece *piece_add(struct log_writer *writer) {
    if (writer->n_pieces == writer->piece_capacity) {
        writer->piece_capacity = writer->piece_capacity == 0 ? 64 : writer->piece_capacity * 2;
        writer->pieces =
            mem_realloc(writer->pieces, writer->piece_capacity * sizeof *writer->pieces);
    }
    return &writer->pieces[writer->n_pieces++];
}

/* Puts bytes behind what the batch has so far. */
static void batch_put(struct log_writer *writer, const void *data, size_t size) {
    size_t at = writer->buffer.size;
    buffer_append(&writer->buffer, data, size);
    writer->batch_size += size;
    struct piece *piece = writer->n_pieces > 0 ? &writer->pieces[writer->n_pieces - 1] : NULL;
    if (piece != NULL && piece->payload == NULL) {
        piece->size += size;
        return;
    }
    *piece_add(writer) = (struct piece){.at = at, .size = size};
}

static void batch_put_zeros(struct log_writer *writer, uint64_t size) {
    static const uint8_t zeros[LOG_BLOCK];
    while (size > 0) {
        size_t part = size < sizeof zeros ? (size_t)size : sizeof zeros;
        batch_put(writer, zeros, part);
        size -= part;
    }
}

static void batch_put_payload(struct log_writer *writer, struct slice payload) {
    if (payload.size <= COPY_MAX) {
        if (payload.size > 0) {
            batch_put(writer, payload.data, payload.size);
        }
        return;
    }
    *piece_add(writer) = (struct piece){.payload = payload.data, .size = payload.size};
    writer->batch_size += payload.size;
}

static void batch_start(struct log_writer *writer) {
    if (writer->buffer.capacity > BUFFER_KEEP) {
        buffer_free(&writer->buffer);
    }
    writer->buffer.size = 0;
    writer->n_pieces = 0;
    writer->batch_size = 0;
}

static bool batch_fits(const struct log_writer *writer, uint64_t payload_size) {
    uint64_t used = writer->tail.offset + writer->batch_size;
    ASSERT(used <= writer->tail.size);
    return log_record_size(payload_size) <= writer->tail.size - used;
}

/* Adds a record; the caller knows that it fits. */
static void batch_add(struct log_writer *writer, struct log_record record, struct slice payload) {
    ASSERT(batch_fits(writer, payload.size));
    record.size = (uint32_t)payload.size;
    record.payload_crc = crc32c(0, payload.data, payload.size);
    record.sequence = writer->tail.sequence;
    uint64_t offset = writer->tail.offset + writer->batch_size;
    uint8_t header[LOG_RECORD_HEADER];
    log_record_encode(&record, writer->seed, offset, header);
    writer->last_header = writer->buffer.size;
    writer->last_offset = offset;
    writer->last_record = record;
    batch_put(writer, header, sizeof header);
    batch_put_payload(writer, payload);
    batch_put_zeros(writer, log_record_size(payload.size) - LOG_RECORD_HEADER - payload.size);
}

static void batch_add_state(struct log_writer *writer) {
    uint8_t payload[LIMIT_SHARDS * LOG_STATE_SIZE];
    log_state_encode(writer->states, writer->files.n_groups, payload);
    batch_add(writer, (struct log_record){.type = LOG_RECORD_STATE},
              slice_make(payload, (size_t)writer->files.n_groups * LOG_STATE_SIZE));
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

static void count_sync(struct log_writer *writer, uint64_t started_ns) {
    uint64_t took_ns = now_ns() - started_ns;
    writer->stats.syncs++;
    writer->stats.sync_ns_total += took_ns;
    histogram_add(&writer->stats.sync, took_ns / 1000);
    if (took_ns > writer->stats.sync_ns_max) {
        writer->stats.sync_ns_max = took_ns;
    }
}

static int batch_vectors(struct log_writer *writer) {
    if (writer->vector_capacity < writer->n_pieces) {
        writer->vector_capacity = writer->piece_capacity;
        writer->vectors =
            mem_realloc(writer->vectors, writer->vector_capacity * sizeof *writer->vectors);
    }
    for (size_t k = 0; k < writer->n_pieces; k++) {
        const struct piece *piece = &writer->pieces[k];
        const uint8_t *base =
            piece->payload != NULL ? piece->payload : writer->buffer.data + piece->at;
        writer->vectors[k].iov_base = (void *)(uintptr_t)base;
        writer->vectors[k].iov_len = piece->size;
    }
    return (int)writer->n_pieces;
}

/* Writes and syncs the batch. When this returns it is on stable storage. */
static void batch_commit(struct log_writer *writer) {
    struct log_tail *tail = &writer->tail;
    writer->last_record.last = true;
    log_record_encode(&writer->last_record, writer->seed, writer->last_offset,
                      writer->buffer.data + writer->last_header);
    uint64_t batch_size = writer->batch_size;
    /* Whole blocks are written so that the kernel need not read the rest of a block that a recycled
     * segment has on disk; the zeros are overwritten by the next batch. */
    uint64_t end = log_round_up(tail->offset + batch_size);
    batch_put_zeros(writer, end - tail->offset - batch_size);

    int n = batch_vectors(writer);
    int result =
        storage_write_pieces(writer->files.storage, tail->file, writer->vectors, n, tail->offset);
    if (result != 0) {
        assert_fatal(
            "cannot write to log segment %016" PRIx32 ".seg in %s: %s; what is on disk is "
            "unknown, the process stops and recovers from the log when it is started again",
            tail->number, writer->files.dir, strerror(-result));
    }
    uint64_t started_ns = now_ns();
    result = writer->files.storage->sync(writer->files.storage->context, tail->file);
    if (result != 0) {
        assert_fatal(
            "cannot sync log segment %016" PRIx32 ".seg in %s: %s; what is on disk is "
            "unknown, the process stops and recovers from the log when it is started again",
            tail->number, writer->files.dir, strerror(-result));
    }
    count_sync(writer, started_ns);
    writer->stats.batches++;
    tail->offset += batch_size;
    tail->sequence++;
    tail->sealed = false;
}

/* A file for the next segment: 0, or -errno. */
static int segment_prepare(struct log_writer *writer, uint32_t number, uint64_t size,
                           struct log_spare *spare) {
    if (size == writer->files.segment_size &&
        writer->host.take_spare(writer->host.context, spare)) {
        return 0;
    }
    snprintf(spare->name, sizeof spare->name, "next-%" PRIx32, number);
    spare->file =
        log_file_prepare(writer->files.storage, writer->files.dir, spare->name, size, false);
    return spare->file < 0 ? spare->file : 0;
}

/* What is queued was accepted before the disk was known to be full. Nobody was promised anything of
 * it yet, so it can wait, as on a slow disk. */
static bool worth_waiting(const struct log_writer *writer, int result) {
    return (result == -ENOSPC || result == -EDQUOT) && writer->host.wait_for_space != NULL &&
           writer->host.wait_for_space(writer->host.context);
}

/* Goes on in a new segment that has room for a record with this payload. */
static void segment_switch(struct log_writer *writer, uint64_t payload_size) {
    uint64_t needed = LOG_BLOCK +
                      log_record_size((uint64_t)writer->files.n_groups * LOG_STATE_SIZE) +
                      log_record_size(payload_size);
    uint64_t size = writer->files.segment_size;
    if (needed > size) {
        size = log_round_up(needed);
    }
    uint32_t number = writer->tail.number + 1;
    ASSERT(number != 0);
    struct log_spare spare;
    int result = segment_prepare(writer, number, size, &spare);
    while (result != 0 && worth_waiting(writer, result)) {
        result = segment_prepare(writer, number, size, &spare);
    }
    if (result == 0) {
        result = log_file_activate(&writer->files, &spare, number, writer->tail.sequence, size);
    }
    if (result != 0) {
        assert_fatal("cannot start log segment %016" PRIx32 ".seg of %" PRIu64 " bytes in %s: %s; "
                     "the process cannot go on without it: free space on that disk and start again",
                     number, size, writer->files.dir, strerror(-result));
    }
    writer->tail.number = number;
    writer->tail.file = spare.file;
    writer->tail.size = size;
    writer->tail.offset = LOG_BLOCK;
    writer->seed = log_record_seed(writer->files.identity, number);
    writer->host.segment_started(writer->host.context, number, spare.file, size);
}

static void state_apply_entry(struct log_group_state *state, uint64_t index) {
    ASSERT(index >= state->first && index <= state->last + 1);
    state->last = index;
}

/* Adds as many of an operation's entries as fit. True when all of them are in a batch. */
static bool batch_add_entries(struct log_writer *writer, struct log_op *op) {
    bool append = op->type == LOG_OP_APPEND;
    while (op->n_written < op->n) {
        struct log_op_entry *entry = &op->entries[op->n_written];
        if (writer->batch_size >= BATCH_SIZE_MAX || !batch_fits(writer, entry->payload->size)) {
            return false;
        }
        uint64_t index = op->index + op->n_written;
        entry->location = (struct log_location){
            .segment = writer->tail.number,
            .unit = (uint32_t)((writer->tail.offset + writer->batch_size) / 8),
        };
        struct log_record record = {
            .type = append ? LOG_RECORD_ENTRY : LOG_RECORD_RELOCATED,
            .kind = entry->kind,
            .group = op->group,
            .term = entry->term,
            .index = index,
        };
        batch_add(writer, record, payload_slice(entry->payload));
        if (append) {
            state_apply_entry(&writer->states[op->group], index);
        }
        op->n_written++;
    }
    return true;
}

static bool batch_add_small(struct log_writer *writer, const struct log_op *op) {
    if (!batch_fits(writer, 0)) {
        return false;
    }
    struct log_record record = {.group = op->group, .term = op->term, .index = op->index};
    struct log_group_state *state = &writer->states[op->group];
    switch (op->type) {
    case LOG_OP_VOTE:
        record.type = LOG_RECORD_VOTE;
        state->term = op->term;
        state->voted_for = op->index;
        break;
    case LOG_OP_RESET:
        record.type = LOG_RECORD_RESET;
        state->first = op->index + 1;
        state->last = op->index;
        state->base_term = op->term;
        break;
    case LOG_OP_CUT:
        record.type = LOG_RECORD_CUT;
        ASSERT(op->index >= state->first && op->index <= state->last);
        state->first = op->index + 1;
        state->base_term = op->term;
        break;
    case LOG_OP_APPEND:
    case LOG_OP_RELOCATE:
    case LOG_OP_RETIRE:
        ASSERT(false);
    }
    batch_add(writer, record, slice_make(NULL, 0));
    return true;
}

static bool batch_add_op(struct log_writer *writer, struct log_op *op) {
    switch (op->type) {
    case LOG_OP_APPEND:
    case LOG_OP_RELOCATE:
        return batch_add_entries(writer, op);
    case LOG_OP_RETIRE:
        return true; /* leaves no record */
    case LOG_OP_VOTE:
    case LOG_OP_RESET:
    case LOG_OP_CUT:
        return batch_add_small(writer, op);
    }
    return false;
}

/* Payload of the record that `op` has to write next. */
static uint64_t op_next_size(const struct log_op *op) {
    return op->n_written < op->n ? op->entries[op->n_written].payload->size : 0;
}

static void batch_start_with_state(struct log_writer *writer) {
    batch_start(writer);
    if (writer->tail.offset == LOG_BLOCK) {
        batch_add_state(writer); /* replay of the log may begin here */
    }
}

void log_writer_write(struct log_writer *writer, struct log_op_list *ops) {
    while (ops->first != NULL) {
        struct log_op_list done;
        log_op_list_init(&done);
        bool full = false;
        batch_start_with_state(writer);
        while (ops->first != NULL && !full) {
            full = !batch_add_op(writer, ops->first);
            if (!full) {
                log_op_list_push(&done, log_op_list_pop(ops));
            }
        }
        bool nothing_fits = full && writer->batch_size == 0;
        if (writer->batch_size > 0) {
            batch_commit(writer);
        }
        if (done.first != NULL) {
            writer->host.completed(writer->host.context, &done);
        }
        if (nothing_fits) {
            segment_switch(writer, op_next_size(ops->first));
        }
    }
}

bool log_writer_sealed(const struct log_writer *writer) {
    return writer->tail.sealed;
}

void log_writer_seal(struct log_writer *writer) {
    if (writer->tail.sealed) {
        return;
    }
    /* The seal goes into a block of its own: damage to the block in which the last batch ends must
     * not take the proof with it. */
    uint64_t record = log_record_size(0);
    uint64_t seal_at = log_round_up(writer->tail.offset + record);
    if (seal_at + record > writer->tail.size) {
        segment_switch(writer, 0); /* its header is proof as well */
    }
    batch_start_with_state(writer);
    if (writer->batch_size == 0) {
        static const uint8_t zeros[2 * LOG_BLOCK];
        batch_add(writer, (struct log_record){.type = LOG_RECORD_PAD},
                  slice_make(zeros, seal_at - writer->tail.offset - LOG_RECORD_HEADER));
    }
    batch_add(writer, (struct log_record){.type = LOG_RECORD_SEAL}, slice_make(NULL, 0));
    batch_commit(writer);
    writer->tail.sealed = true;
}

uint64_t log_writer_room(const struct log_writer *writer) {
    return writer->tail.size - writer->tail.offset;
}

struct log_writer_stats log_writer_stats(const struct log_writer *writer) {
    return writer->stats;
}

void log_writer_stats_reset_max(struct log_writer *writer) {
    writer->stats.sync_ns_max = 0;
}
