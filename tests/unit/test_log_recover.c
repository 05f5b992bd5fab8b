/* Crashes at any moment: after a restart the log is exactly what a first part of the operations
 * makes of it, and that part holds at least everything that was acknowledged. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "base/crc32c.h"
#include "base/limits.h"
#include "memory_storage.h"
#include "raft/log_files.h"
#include "raft/log_format.h"
#include "raft/log_index.h"
#include "raft/log_newest.h"
#include "raft/log_read.h"
#include "raft/log_recover.h"
#include "raft/log_writer.h"

enum { GROUPS = 3, SEGMENT = 64 * 1024, STEPS_MAX = 4096, WINDOW = 4096 };

/* One change as the caller of the log sees it; an append of many entries is many steps. */
struct step {
    enum log_op_type type;
    unsigned group;
    uint64_t index;
    uint64_t term;
    uint64_t serial; /* identifies the entry's content */
    size_t size;
};

struct model_group {
    struct log_group_state state;
    uint64_t terms[WINDOW];
    uint64_t serials[WINDOW];
    size_t sizes[WINDOW];
};

struct world {
    struct memory_storage *disk;
    struct log_files files;
    struct log_index *index;
    struct log_recovery recovery;
    struct log_writer *writer;
    struct prng prng;
    struct step steps[STEPS_MAX];
    unsigned n_steps;
    unsigned acknowledged;           /* steps */
    struct model_group base[GROUPS]; /* before the first of the steps */
    struct log_spare spares[LOG_SPARES_MAX];
    unsigned n_spares;
    uint64_t next_serial;
    uint64_t next_ticket;
    bool uniform;      /* entries of one size */
    int old_files[64]; /* of segments that were left behind */
    unsigned n_old_files;
    bool had_log;      /* it was opened once */
    uint32_t promised; /* newest segment with something that was acknowledged */
};

static size_t slot(uint64_t index) {
    return index % WINDOW;
}

static void model_apply(struct model_group *groups, const struct step *step) {
    struct model_group *group = &groups[step->group];
    struct log_group_state *state = &group->state;
    switch (step->type) {
    case LOG_OP_APPEND:
        state->last = step->index;
        group->terms[slot(step->index)] = step->term;
        group->serials[slot(step->index)] = step->serial;
        group->sizes[slot(step->index)] = step->size;
        break;
    case LOG_OP_VOTE:
        state->term = step->term;
        state->voted_for = step->index;
        break;
    case LOG_OP_RESET:
        state->first = step->index + 1;
        state->last = step->index;
        state->base_term = step->term;
        break;
    case LOG_OP_CUT:
        state->first = step->index + 1;
        state->base_term = step->term;
        break;
    case LOG_OP_RELOCATE:
    case LOG_OP_RETIRE:
        break;
    }
}

static struct payload *payload_for(uint64_t serial, size_t size) {
    struct payload *payload = payload_new(size);
    memset(payload->data, (int)(serial % 251), size);
    ASSERT(size >= 8);
    bytes_put_u64(payload->data, serial);
    return payload;
}

/* ---- The surroundings of the writer, as the log thread has them ---- */

static bool host_take_spare(void *context, struct log_spare *spare) {
    struct world *w = context;
    if (w->n_spares == 0) {
        return false;
    }
    *spare = w->spares[--w->n_spares];
    return true;
}

static void host_segment_started(void *context, uint32_t number, int file, uint64_t size) {
    struct world *w = context;
    (void)size;
    log_index_segment_add(w->index, number);
    ASSERT(w->n_old_files < 64);
    w->old_files[w->n_old_files++] = file;
}

static void retire_file(struct world *w, uint64_t number) {
    struct log_spare spare;
    bool recycle = w->n_spares < LOG_SPARES_MAX && prng_below(&w->prng, 8) > 0;
    if (w->disk->crashed) {
        return;
    }
    log_spare_name((uint32_t)prng_next(&w->prng), spare.name);
    spare.file = -1;
    ASSERT(log_file_retire(&w->files, number, recycle ? &spare : NULL) == 0);
    if (recycle && spare.file >= 0) {
        uint64_t size = 0;
        w->disk->storage.size(w->disk, spare.file, &size);
        if (size == SEGMENT) {
            w->spares[w->n_spares++] = spare;
        }
    }
}

static void host_completed(void *context, struct log_op_list *ops) {
    struct world *w = context;
    for (struct log_op *op = log_op_list_pop(ops); op != NULL; op = log_op_list_pop(ops)) {
        if (op->type == LOG_OP_APPEND) {
            for (unsigned k = 0; k < op->n; k++) {
                log_index_durable(w->index, op->group, op->index + k, op->ticket,
                                  op->entries[k].location);
            }
            w->acknowledged += w->disk->crashed ? 0 : op->n;
        } else if (op->type == LOG_OP_RELOCATE) {
            log_index_relocated(w->index, op->group, op->index, op->from, op->entries[0].location);
        } else if (op->type == LOG_OP_RETIRE) {
            retire_file(w, op->index);
        } else {
            w->acknowledged += w->disk->crashed ? 0 : 1;
        }
        log_op_free(op);
    }
    w->promised = w->disk->crashed ? w->promised : log_index_segment_newest(w->index);
    log_index_evict(w->index);
}

static enum error_code world_open(struct world *w, struct error *error) {
    w->index = log_index_new(GROUPS, 0);
    enum error_code code = log_recover(&w->files, w->had_log, w->index, &w->recovery, error);
    if (code != ERROR_NONE) {
        log_index_free(w->index);
        w->index = NULL;
    } else if (!w->disk->crashed) {
        w->had_log = true;
    }
    return code;
}

static void world_start_writer(struct world *w) {
    struct log_group_state states[GROUPS];
    for (unsigned g = 0; g < GROUPS; g++) {
        states[g] = log_index_state(w->index, g);
    }
    const struct log_writer_host host = {
        .context = w,
        .take_spare = host_take_spare,
        .segment_started = host_segment_started,
        .completed = host_completed,
    };
    w->writer = log_writer_new(&w->files, &host, &w->recovery.tail, states);
    w->n_spares = w->recovery.n_spares;
    memcpy(w->spares, w->recovery.spares, sizeof w->spares);
}

static void world_drop(struct world *w) {
    if (w->writer != NULL) {
        log_writer_free(w->writer);
        w->writer = NULL;
    }
    if (w->index != NULL) {
        log_index_free(w->index);
        w->index = NULL;
    }
    w->n_old_files = 0;
    log_recovery_free(&w->recovery, NULL);
}

/* ---- Random work ---- */

static void add_step(struct world *w, struct step step) {
    ASSERT(w->n_steps < STEPS_MAX);
    w->steps[w->n_steps++] = step;
}

static void queue_append(struct world *w, struct log_op_list *ops, unsigned g) {
    struct log_group_state state = log_index_state(w->index, g);
    uint64_t first = state.last + 1;
    if (prng_below(&w->prng, 10) == 0 && state.last >= state.first) {
        first = state.first + prng_below(&w->prng, state.last - state.first + 1);
    }
    unsigned n = 1 + (unsigned)prng_below(&w->prng, 5);
    struct log_entry entries[5];
    struct log_op *op = log_op_new(LOG_OP_APPEND, g, first, 0, n);
    op->ticket = ++w->next_ticket;
    for (unsigned k = 0; k < n; k++) {
        size_t size = 8 + (size_t)prng_below(&w->prng, 300);
        uint64_t die = prng_below(&w->prng, 200);
        if (w->uniform) {
            size = 472; /* a record fills a sector: leftovers line up with what comes later */
        } else if (die < 10) {
            size = 8 + (size_t)prng_below(&w->prng, 12000);
        } else if (die == 199) {
            size = SEGMENT + (size_t)prng_below(&w->prng, 10000);
        }
        struct step step = {.type = LOG_OP_APPEND,
                            .group = g,
                            .index = first + k,
                            .term = 1 + prng_below(&w->prng, 9),
                            .serial = ++w->next_serial,
                            .size = size};
        add_step(w, step);
        entries[k] = (struct log_entry){.term = step.term,
                                        .kind = LOG_ENTRY_COMMAND,
                                        .payload = payload_for(step.serial, size)};
        log_op_set_entry(op, k, step.term, LOG_ENTRY_COMMAND, entries[k].payload);
    }
    log_index_append(w->index, g, first, entries, n, op->ticket);
    for (unsigned k = 0; k < n; k++) {
        payload_unref(entries[k].payload);
    }
    log_op_list_push(ops, op);
}

static void queue_small(struct world *w, struct log_op_list *ops, enum log_op_type type, unsigned g,
                        uint64_t index, uint64_t term) {
    add_step(w, (struct step){.type = type, .group = g, .index = index, .term = term});
    log_op_list_push(ops, log_op_new(type, g, index, term, 0));
}

static void queue_random(struct world *w, struct log_op_list *ops) {
    unsigned g = (unsigned)prng_below(&w->prng, GROUPS);
    struct log_group_state state = log_index_state(w->index, g);
    uint64_t die = prng_below(&w->prng, 100);
    /* Group 2 is quiet: it would pin the log. */
    if (g == 2 && die < 90) {
        return;
    }
    if (die < 75 || (g == 2 && die < 97)) {
        queue_append(w, ops, g);
    } else if (die < 85) {
        uint64_t term = state.term + prng_below(&w->prng, 3);
        uint64_t vote = prng_below(&w->prng, 4);
        log_index_set_vote(w->index, g, term, vote);
        queue_small(w, ops, LOG_OP_VOTE, g, vote, term);
    } else if (die < 98) {
        if (g != 2 && state.last >= state.first) {
            uint64_t to = state.last - prng_below(&w->prng, state.last - state.first + 1) / 4;
            queue_small(w, ops, LOG_OP_CUT, g, to, log_index_cut(w->index, g, to));
        }
    } else {
        uint64_t to = state.last + 1 + prng_below(&w->prng, 100);
        log_index_reset(w->index, g, to, 5);
        queue_small(w, ops, LOG_OP_RESET, g, to, 5);
    }
}

static int file_of(const struct world *w, uint32_t number) {
    char name[LOG_SEGMENT_NAME];
    char path[MEMORY_NAME];
    log_segment_name(number, name);
    snprintf(path, sizeof path, "%s/%s", w->files.dir, name);
    return memory_find(&w->disk->now, path);
}

/* Fills `item` with entry i as it is on the disk. */
static void read_entry(struct world *w, unsigned g, uint64_t i, struct log_read_batch *batch) {
    const struct log_index_entry *entry = log_index_get(w->index, g, i);
    ASSERT(entry != NULL && !entry->pending);
    log_read_batch_init(batch, &w->disk->storage, w->files.identity, 1);
    batch->n = 1;
    batch->items[0] = (struct log_read_item){
        .group = g,
        .index = i,
        .size = entry->size,
        .file = file_of(w, entry->location.segment),
        .location = entry->location,
        .entry = {.term = entry->term, .kind = (enum log_entry_kind)entry->kind},
    };
    enum error_code code = log_read_batch_run(batch);
    ASSERT(code == ERROR_NONE);
}

/* Moves the entries of the oldest segment when there are few, lets go of segments nobody needs. */
static void queue_housekeeping(struct world *w, struct log_op_list *ops) {
    uint32_t oldest = log_index_segment_oldest(w->index);
    if (log_index_segment_newest(w->index) - oldest >= 3 &&
        log_index_oldest_live_total(w->index) <= 20) {
        for (unsigned g = 0; g < GROUPS; g++) {
            struct log_group_state state = log_index_state(w->index, g);
            for (uint64_t i = state.first; i <= state.last; i++) {
                const struct log_index_entry *entry = log_index_get(w->index, g, i);
                if (entry->pending || entry->location.segment != oldest) {
                    continue;
                }
                struct log_read_batch batch;
                read_entry(w, g, i, &batch);
                struct log_op *op = log_op_new(LOG_OP_RELOCATE, g, i, 0, 1);
                op->from = entry->location;
                log_op_set_entry(op, 0, entry->term, LOG_ENTRY_COMMAND,
                                 batch.items[0].entry.payload);
                log_op_list_push(ops, op);
                log_read_batch_free(&batch);
            }
        }
    }
    while (log_index_segment_oldest(w->index) != log_index_segment_newest(w->index) &&
           log_index_oldest_live_total(w->index) == 0) {
        log_op_list_push(ops,
                         log_op_new(LOG_OP_RETIRE, 0, log_index_segment_oldest(w->index), 0, 0));
        log_index_segment_remove(w->index);
    }
}

static void work_until_crash(struct world *w) {
    for (unsigned round = 0; round < 300 && !w->disk->crashed; round++) {
        struct log_op_list ops;
        log_op_list_init(&ops);
        if (w->n_steps + 100 > STEPS_MAX) {
            break;
        }
        for (uint64_t n = 1 + prng_below(&w->prng, 8); n > 0; n--) {
            queue_random(w, &ops);
        }
        queue_housekeeping(w, &ops);
        log_writer_write(w->writer, &ops);
        if (prng_below(&w->prng, 30) == 0) {
            log_writer_seal(w->writer);
        }
        if (w->n_spares == 0 && prng_below(&w->prng, 4) == 0 && !w->disk->crashed) {
            struct log_spare *spare = &w->spares[0];
            log_spare_name((uint32_t)prng_next(&w->prng), spare->name);
            spare->file =
                log_file_prepare(&w->disk->storage, w->files.dir, spare->name, SEGMENT, true);
            w->n_spares = 1;
        }
    }
}

/* ---- Checking ---- */

static bool matches(struct world *w, const struct model_group *groups) {
    for (unsigned g = 0; g < GROUPS; g++) {
        struct log_group_state state = log_index_state(w->index, g);
        const struct log_group_state *expected = &groups[g].state;
        if (state.first != expected->first || state.last != expected->last ||
            state.term != expected->term || state.voted_for != expected->voted_for ||
            state.base_term != expected->base_term) {
            return false;
        }
    }
    for (unsigned g = 0; g < GROUPS; g++) {
        const struct log_group_state *state = &groups[g].state;
        for (uint64_t i = state->first; i <= state->last; i++) {
            struct log_read_batch batch;
            read_entry(w, g, i, &batch);
            const struct log_entry *entry = &batch.items[0].entry;
            struct payload *expected =
                payload_for(groups[g].serials[slot(i)], groups[g].sizes[slot(i)]);
            bool same = entry->term == groups[g].terms[slot(i)] &&
                        slice_equal(payload_slice(entry->payload), payload_slice(expected));
            payload_unref(expected);
            log_read_batch_free(&batch);
            if (!same) {
                return false;
            }
        }
    }
    return true;
}

/* Finds the number of steps after which the model is what was recovered, and makes that the base.
 */
static bool settle(struct world *w) {
    unsigned k = 0;
    for (; k < w->acknowledged; k++) {
        model_apply(w->base, &w->steps[k]);
    }
    bool found = matches(w, w->base);
    for (; !found && k < w->n_steps; k++) {
        model_apply(w->base, &w->steps[k]);
        found = matches(w, w->base);
    }
    w->n_steps = 0;
    w->acknowledged = 0;
    return found;
}

static struct world *world_new(uint64_t seed) {
    struct world *w = mem_zalloc(1, sizeof *w);
    w->disk = memory_storage_new(seed + 1);
    prng_seed(&w->prng, seed);
    w->files = (struct log_files){
        .storage = &w->disk->storage,
        .dir = "log",
        .identity = seed * 77 + 5,
        .segment_size = SEGMENT,
        .n_groups = GROUPS,
    };
    for (unsigned g = 0; g < GROUPS; g++) {
        w->base[g].state.first = 1;
    }
    return w;
}

static void world_free(struct world *w) {
    world_drop(w);
    memory_storage_free(w->disk);
    mem_free(w);
}

/* The power fails, or only the process dies. */
static void crash(struct world *w) {
    if (prng_below(&w->prng, 3) == 0) {
        memory_storage_revive(w->disk);
    } else {
        memory_storage_restart(w->disk);
    }
}

/* Takes the names of segment `number` and of the later ones away. */
static void lose_segments_from(struct world *w, uint32_t number) {
    for (unsigned k = 0; k < w->disk->now.n; k++) {
        struct memory_name *name = &w->disk->now.names[k];
        uint64_t of = 0;
        if (name->file >= 0 && log_segment_name_parse(name->name + strlen("log/"), &of) &&
            of >= number) {
            name->file = -1;
        }
    }
}

/* Whenever it crashed: the loss of the newest segment with something acknowledged is noticed. */
static void expect_loss_is_noticed(struct world *w, uint64_t seed) {
    struct error error;
    if (w->promised == 0) {
        return;
    }
    struct memory_names before = w->disk->now;
    lose_segments_from(w, w->promised);
    if (world_open(w, &error) != ERROR_CORRUPT) {
        fail_msg("seed %" PRIu64 ": the loss of segment %" PRIu32 " is not noticed", seed,
                 w->promised);
    }
    w->disk->now = before;
}

static void run_crashes(uint64_t seed) {
    struct world *w = world_new(seed);
    w->uniform = seed % 3 == 0;
    unsigned lives = w->uniform ? 12 : 4;
    for (unsigned life = 0; life < lives; life++) {
        struct error error = {.code = ERROR_NONE};
        /* Now and then the power fails during recovery as well. */
        w->disk->crash_at = prng_below(&w->prng, 3) == 0 ? 1 + prng_below(&w->prng, 6) : 0;
        enum error_code code = world_open(w, &error);
        if (w->disk->crashed) {
            world_drop(w);
            crash(w);
            code = world_open(w, &error);
        }
        w->disk->crash_at = 0;
        if (code != ERROR_NONE) {
            fail_msg("seed %" PRIu64 " life %u: %s", seed, life, error.message);
        }
        if (!settle(w)) {
            fail_msg("seed %" PRIu64 " life %u: recovered what no order of events explains", seed,
                     life);
        }
        world_start_writer(w);
        uint64_t soon = w->uniform ? 8 : 300;
        w->disk->crash_at = w->disk->operations + 1 + prng_below(&w->prng, soon);
        work_until_crash(w);
        world_drop(w);
        crash(w);
        expect_loss_is_noticed(w, seed);
    }
    world_free(w);
}

static uint64_t number_from_environment(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text != NULL ? strtoull(text, NULL, 10) : otherwise;
}

static void test_crashes_keep_every_promise(void **state) {
    (void)state;
    uint64_t first = number_from_environment("IKV_SEED", (uint64_t)time(NULL) * 1000);
    uint64_t runs = number_from_environment("IKV_RUNS", 300);
    print_message("seeds from %" PRIu64 " on; repeat one with IKV_SEED=... IKV_RUNS=1\n", first);
    for (uint64_t k = 0; k < runs; k++) {
        run_crashes(first + k);
    }
}

/* ---- Single cases ---- */

/* A log that was opened, so that batches can be written to it one by one. */
static struct world *opened_world(void) {
    struct world *w = world_new(99);
    struct error error;
    assert_int_equal(world_open(w, &error), ERROR_NONE);
    world_start_writer(w);
    return w;
}

static void append_batch(struct world *w, unsigned g, unsigned n, size_t size) {
    struct log_op_list ops;
    log_op_list_init(&ops);
    uint64_t first = log_index_state(w->index, g).last + 1;
    struct log_op *op = log_op_new(LOG_OP_APPEND, g, first, 0, n);
    op->ticket = ++w->next_ticket;
    for (unsigned k = 0; k < n; k++) {
        struct log_entry entry = {
            .term = 1, .kind = LOG_ENTRY_COMMAND, .payload = payload_for(++w->next_serial, size)};
        log_index_append(w->index, g, first + k, &entry, 1, op->ticket);
        log_op_set_entry(op, k, 1, LOG_ENTRY_COMMAND, entry.payload);
        payload_unref(entry.payload);
    }
    log_op_list_push(&ops, op);
    log_writer_write(w->writer, &ops);
}

/* The process ends; the disk is what it is. */
static void stop(struct world *w) {
    world_drop(w);
    memory_storage_revive(w->disk);
}

static enum error_code reopen(struct world *w, struct error *error) {
    stop(w);
    enum error_code code = world_open(w, error);
    if (code == ERROR_NONE) {
        world_start_writer(w);
    }
    return code;
}

static uint8_t *byte_of(struct world *w, uint32_t number, uint64_t offset) {
    return &w->disk->files[file_of(w, number)].now[offset];
}

static uint64_t tail_of(const struct world *w) {
    return SEGMENT - log_writer_room(w->writer);
}

static void test_damage_before_the_last_batch(void **state) {
    (void)state;
    struct world *w = opened_world();
    struct error error;
    for (unsigned k = 0; k < 5; k++) {
        append_batch(w, 0, 3, 100);
    }
    uint64_t last_batch = tail_of(w);
    append_batch(w, 0, 1, 100);
    stop(w);
    for (uint64_t offset = LOG_BLOCK; offset < last_batch; offset += 5) {
        *byte_of(w, 1, offset) ^= 4;
        enum error_code code = world_open(w, &error);
        /* The padding of a record is the only thing that nobody checks, as nobody reads it. */
        if (code != ERROR_NONE) {
            assert_int_equal(code, ERROR_CORRUPT);
            assert_non_null(strstr(error.message, "0000000000000001.seg"));
            assert_non_null(strstr(error.message, "offset"));
        } else {
            assert_int_equal(log_index_state(w->index, 0).last, 16);
            world_drop(w);
        }
        assert_int_equal(w->disk->open_files, code == ERROR_NONE ? 1 : 0);
        w->disk->open_files = 0;
        *byte_of(w, 1, offset) ^= 4;
    }
    world_free(w);
}

static void test_damage_of_the_last_batch(void **state) {
    (void)state;
    struct error error;
    for (unsigned sealed = 0; sealed < 2; sealed++) {
        struct world *w = opened_world();
        append_batch(w, 0, 3, 100);
        uint64_t offset = tail_of(w);
        append_batch(w, 0, 1, 100);
        if (sealed == 1) {
            log_writer_seal(w->writer);
        }
        /* Without a seal it cannot be told from a torn write. The whole block is gone. */
        memset(byte_of(w, 1, offset), 0, (size_t)(log_round_up(offset) - offset));
        enum error_code code = reopen(w, &error);
        assert_int_equal(code, sealed == 1 ? ERROR_CORRUPT : ERROR_NONE);
        if (code == ERROR_NONE) {
            assert_int_equal(log_index_state(w->index, 0).last, 3);
        }
        world_free(w);
    }
}

static void test_damage_in_an_older_segment(void **state) {
    (void)state;
    struct error error;
    struct world *w = opened_world();
    while (log_index_segment_newest(w->index) < 3) {
        append_batch(w, 0, 3, 3000);
    }
    stop(w);
    /* The last batch of a segment is proven by the header of the next one. */
    struct slice bytes = slice_make(byte_of(w, 1, 0), SEGMENT);
    uint64_t offset = LOG_BLOCK;
    uint64_t end = LOG_BLOCK;
    uint32_t seed = log_record_seed(w->files.identity, 1);
    for (uint64_t sequence = 1; log_batch_find(bytes, end, seed, sequence, &end); sequence++) {
        offset = end;
    }
    ASSERT(offset > LOG_BLOCK);
    *byte_of(w, 1, offset - 100) ^= 1;
    assert_int_equal(world_open(w, &error), ERROR_CORRUPT);
    assert_non_null(strstr(error.message, "0000000000000001.seg is damaged"));
    *byte_of(w, 1, offset - 100) ^= 1;

    /* So is a header, even that of the newest segment: it was synced before the file got its name.
     */
    for (uint32_t number = 1; number <= 3; number++) {
        *byte_of(w, number, 20) ^= 1;
        assert_int_equal(world_open(w, &error), ERROR_CORRUPT);
        *byte_of(w, number, 20) ^= 1;
    }
    assert_int_equal(world_open(w, &error), ERROR_NONE);
    world_free(w);
}

static void test_missing_segments(void **state) {
    (void)state;
    struct error error;
    for (uint32_t missing = 1; missing <= 3; missing++) {
        struct world *w = opened_world();
        while (log_index_segment_newest(w->index) < 3) {
            append_batch(w, 0, 3, 3000);
        }
        stop(w);
        char name[LOG_SEGMENT_NAME];
        char path[MEMORY_NAME];
        log_segment_name(missing, name);
        snprintf(path, sizeof path, "log/%s", name);
        memory_bind(&w->disk->now, path, -1);
        assert_int_equal(world_open(w, &error), ERROR_CORRUPT);
        assert_non_null(strstr(error.message, missing == 1 ? "entry 1 of group 0" : name));
        world_free(w);
    }
}

static uint8_t *newest_slot(struct world *w, unsigned slot) {
    return &w->disk->files[memory_find(&w->disk->now, "log/newest")].now[slot * LOG_BLOCK];
}

/* Without the record of the newest segment nobody can tell whether one is missing. */
static void test_missing_record_of_the_newest_segment(void **state) {
    (void)state;
    struct error error;
    struct world *w = opened_world();
    while (log_index_segment_newest(w->index) < 3) {
        append_batch(w, 0, 3, 3000);
    }
    stop(w);
    int file = memory_find(&w->disk->now, "log/newest");
    memory_bind(&w->disk->now, "log/newest", -1);
    assert_int_equal(world_open(w, &error), ERROR_CORRUPT);
    assert_non_null(strstr(error.message, "log/newest"));
    assert_non_null(strstr(error.message, "missing"));
    assert_non_null(strstr(error.message, "replace the node"));
    /* A first start that did not come to its end has promised nothing. */
    w->had_log = false;
    assert_int_equal(world_open(w, &error), ERROR_NONE);
    assert_true(memory_find(&w->disk->now, "log/newest") >= 0);
    assert_int_equal(log_index_state(w->index, 0).last, w->next_serial);
    stop(w);
    memory_bind(&w->disk->now, "log/newest", file);
    assert_int_equal(world_open(w, &error), ERROR_NONE);
    world_free(w);
}

/* One torn slot is what a crash leaves behind; two are damage. */
static void test_damaged_record_of_the_newest_segment(void **state) {
    (void)state;
    struct error error;
    struct world *w = opened_world();
    while (log_index_segment_newest(w->index) < 4) {
        append_batch(w, 0, 3, 3000);
    }
    stop(w);
    for (size_t at = 0; at < LOG_NEWEST_SLOT; at++) {
        newest_slot(w, 0)[at] ^= 0x10; /* segment 4 */
        assert_int_equal(world_open(w, &error), ERROR_NONE);
        stop(w);
        /* It is whole again, and alone tells what is missing. */
        newest_slot(w, 1)[at] ^= 0x10;
        struct memory_names before = w->disk->now;
        lose_segments_from(w, 4);
        assert_int_equal(world_open(w, &error), ERROR_CORRUPT);
        assert_non_null(strstr(error.message, "0000000000000004.seg is missing"));
        w->disk->now = before;
        assert_int_equal(world_open(w, &error), ERROR_NONE);
        stop(w);
        newest_slot(w, 1)[at] ^= 0x10;
    }
    newest_slot(w, 0)[LOG_NEWEST_SLOT - 1] ^= 1;
    newest_slot(w, 1)[0] ^= 1;
    assert_int_equal(world_open(w, &error), ERROR_CORRUPT);
    assert_non_null(strstr(error.message, "damaged"));
    newest_slot(w, 0)[LOG_NEWEST_SLOT - 1] ^= 1;
    newest_slot(w, 1)[0] ^= 1;

    struct log_newest other = {.number = 4, .identity = w->files.identity + 1};
    log_newest_encode(&other, newest_slot(w, 0));
    assert_int_equal(world_open(w, &error), ERROR_MISMATCH);

    uint8_t *slot = newest_slot(w, 0);
    bytes_put_u32(slot + 8, 2);
    bytes_put_u32(slot + 28, crc32c(0, slot, 28));
    assert_int_equal(world_open(w, &error), ERROR_VERSION);
    world_free(w);
}

static void test_all_segments_missing(void **state) {
    (void)state;
    struct error error;
    struct world *w = opened_world();
    append_batch(w, 0, 3, 100);
    stop(w);
    lose_segments_from(w, 1);
    for (unsigned k = 0; k < 2; k++) {
        assert_int_equal(world_open(w, &error), ERROR_CORRUPT);
        w->had_log = false; /* the boot counter was lost as well */
    }
    world_free(w);
}

/* What is left of a torn batch must not complete a later batch that is torn in the same place. */
static void test_torn_tail_is_wiped(void **state) {
    (void)state;
    struct error error;
    struct world *w = opened_world();
    append_batch(w, 0, 1, 472);
    uint64_t tail = tail_of(w);
    append_batch(w, 0, 20, 472);         /* several blocks */
    memset(byte_of(w, 1, tail), 0, 512); /* the first record of the batch is missing */
    assert_int_equal(reopen(w, &error), ERROR_NONE);
    assert_int_equal(log_index_state(w->index, 0).last, 1);
    uint64_t again = tail_of(w);
    assert_int_equal(again, tail);
    append_batch(w, 1, 2, 472);
    /* Only its first record arrived, the rest of the blocks is what was there before. */
    struct slice bytes = slice_make(byte_of(w, 1, 0), SEGMENT);
    uint32_t seed = log_record_seed(w->files.identity, 1);
    struct log_record record;
    assert_true(log_record_decode(bytes, tail + 512, seed, &record));
    assert_int_equal(record.group, 1);
    for (uint64_t k = 2; k < 20; k++) {
        assert_false(log_record_decode(bytes, tail + k * 512, seed, &record));
    }
    world_free(w);
}

static void test_recycled_segment_brings_nothing_back(void **state) {
    (void)state;
    struct error error;
    struct world *w = opened_world();
    append_batch(w, 0, 1, 100);
    uint8_t *old = mem_dup(byte_of(w, 1, 0), SEGMENT);
    while (log_index_segment_newest(w->index) < 2) {
        append_batch(w, 0, 10, 1000);
    }
    uint64_t last = log_index_state(w->index, 0).last;
    uint64_t tail = log_round_up(tail_of(w));
    /* As if segment 2 had been segment 1 before. */
    memcpy(byte_of(w, 2, tail), old + LOG_BLOCK, SEGMENT - tail);
    assert_int_equal(reopen(w, &error), ERROR_NONE);
    assert_int_equal(log_index_state(w->index, 0).last, last);
    mem_free(old);
    world_free(w);
}

/* Fails one call after the other: recovery reports it, keeps nothing open, and once the disk works
 * everything is there. */
static void test_each_failing_call(void **state) {
    (void)state;
    struct error error;
    struct world *w = opened_world();
    append_batch(w, 0, 20, 5000);
    append_batch(w, 0, 3, 100);
    uint64_t tail = tail_of(w);
    append_batch(w, 0, 3, 472);
    *byte_of(w, log_index_segment_newest(w->index), tail) ^= 1; /* a torn tail to be wiped */
    struct log_spare spare;
    log_spare_name(5, spare.name);
    spare.file = log_file_prepare(&w->disk->storage, "log", spare.name, SEGMENT, true);
    log_file_prepare(&w->disk->storage, "log", "next-7", SEGMENT, true);
    stop(w);
    unsigned failures = 0;
    for (uint64_t call = 1;; call++) {
        w->disk->fail_at = w->disk->calls + call;
        enum error_code code = world_open(w, &error);
        bool reached = w->disk->calls >= w->disk->fail_at;
        w->disk->fail_at = 0;
        if (!reached) {
            assert_int_equal(code, ERROR_NONE);
            break;
        }
        /* A spare that cannot be used is no reason to stay out; everything else is. */
        if (code == ERROR_NONE) {
            log_recovery_free(&w->recovery, &w->disk->storage);
            world_drop(w);
        } else {
            assert_int_equal(code, ERROR_IO);
            failures++;
        }
        assert_int_equal(w->disk->open_files, 0);
    }
    assert_true(failures >= 10);
    assert_int_equal(log_index_state(w->index, 0).last, 23);
    log_recovery_free(&w->recovery, &w->disk->storage);
    assert_int_equal(w->disk->open_files, 0);
    world_free(w);
}

static void test_each_failing_call_of_a_creation(void **state) {
    (void)state;
    struct error error;
    struct world *w = world_new(7);
    for (uint64_t call = 1;; call++) {
        w->disk->fail_at = w->disk->calls + call;
        enum error_code code = world_open(w, &error);
        bool reached = w->disk->calls >= w->disk->fail_at;
        w->disk->fail_at = 0;
        if (!reached) {
            assert_int_equal(code, ERROR_NONE);
            break;
        }
        if (code == ERROR_NONE) {
            log_recovery_free(&w->recovery, &w->disk->storage);
            world_drop(w);
        } else {
            assert_int_equal(code, ERROR_IO);
        }
        assert_int_equal(w->disk->open_files, 0);
    }
    log_recovery_free(&w->recovery, &w->disk->storage);
    world_free(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_damage_before_the_last_batch),
        cmocka_unit_test(test_damage_of_the_last_batch),
        cmocka_unit_test(test_damage_in_an_older_segment),
        cmocka_unit_test(test_missing_segments),
        cmocka_unit_test(test_missing_record_of_the_newest_segment),
        cmocka_unit_test(test_damaged_record_of_the_newest_segment),
        cmocka_unit_test(test_all_segments_missing),
        cmocka_unit_test(test_torn_tail_is_wiped),
        cmocka_unit_test(test_recycled_segment_brings_nothing_back),
        cmocka_unit_test(test_each_failing_call),
        cmocka_unit_test(test_each_failing_call_of_a_creation),
        cmocka_unit_test(test_crashes_keep_every_promise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
