/* What the tests of the state machine share: a directory for the database, building batches, and
 * collecting results. */
#ifndef TESTS_UNIT_MACHINE_FIXTURE_H
#define TESTS_UNIT_MACHINE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/mem.h"
#include "node/machine/machine.h"

enum { FIXTURE_PATH_SIZE = 128, FIXTURE_CACHE_BYTES = 256 * 1024 };
#define FIXTURE_QUOTA UINT64_C(1000000000)

struct fixture {
    char directory[FIXTURE_PATH_SIZE / 2];
    char path[FIXTURE_PATH_SIZE];
    struct machine_options options;
    struct machine *machine;
    struct error error;
    struct buffer batch;
    /* Results of the last apply, in order. */
    struct result *results;
    size_t n_results;
    size_t results_capacity;
};

static inline void fixture_open(struct fixture *fixture) {
    enum error_code code = machine_open(&fixture->machine, &fixture->options, &fixture->error);
    if (code != ERROR_NONE) {
        fail_msg("open: %s", fixture->error.message);
    }
}

static inline void fixture_make(struct fixture *fixture) {
    *fixture = (struct fixture){0};
    snprintf(fixture->directory, sizeof(fixture->directory), "/tmp/test-machine-XXXXXX");
    assert_non_null(mkdtemp(fixture->directory));
    snprintf(fixture->path, sizeof(fixture->path), "%s/shard", fixture->directory);
    fixture->options = (struct machine_options){
        .path = fixture->path,
        .cluster = "test",
        .shard = 3,
        .cache_bytes = FIXTURE_CACHE_BYTES,
    };
    fixture_open(fixture);
}

static inline void fixture_drop_results(struct fixture *fixture) {
    for (size_t i = 0; i < fixture->n_results; i++) {
        result_free(&fixture->results[i]);
    }
    fixture->n_results = 0;
}

static inline void fixture_unlink(const struct fixture *fixture, const char *name) {
    char path[2 * FIXTURE_PATH_SIZE];
    snprintf(path, sizeof(path), "%s/%s", fixture->directory, name);
    unlink(path);
}

static inline void fixture_destroy(struct fixture *fixture) {
    static const char *const names[] = {"shard",         "shard-wal", "shard-shm",
                                        "shard-journal", "staged",    "staged-wal",
                                        "image",         "image-wal", "image-journal"};
    machine_close(fixture->machine);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        fixture_unlink(fixture, names[i]);
    }
    assert_int_equal(rmdir(fixture->directory), 0);
    fixture_drop_results(fixture);
    mem_free(fixture->results);
    buffer_free(&fixture->batch);
}

static inline void fixture_reopen(struct fixture *fixture) {
    machine_close(fixture->machine);
    fixture_open(fixture);
}

/* Batches. */

static inline void batch_begin(struct buffer *batch, uint64_t time_ms, uint64_t quota) {
    batch->size = 0;
    command_batch_begin(batch, time_ms, quota);
}

static inline void batch_add(struct buffer *batch, const struct command *command,
                             const struct slice *args, uint32_t n_args) {
    struct buffer encoded = {0};
    command_encode(&encoded, command, args, n_args);
    struct command_origin origin = {1, 2, bytes_get_u16(batch->data + 17)};
    command_batch_add(batch, origin, buffer_slice(&encoded));
    buffer_free(&encoded);
}

static inline void batch_set(struct buffer *batch, const char *project, struct slice key,
                             struct slice value, unsigned flags, enum command_expiry mode,
                             uint64_t expiry_ms) {
    struct command command = {.kind = COMMAND_SET,
                              .flags = (uint8_t)flags,
                              .expiry_mode = mode,
                              .expiry_ms = expiry_ms,
                              .project = slice_of(project)};
    struct slice args[] = {key, value};
    batch_add(batch, &command, args, 2);
}

static inline void batch_delete(struct buffer *batch, const char *project, const struct slice *keys,
                                uint32_t n) {
    struct command command = {.kind = COMMAND_DELETE, .project = slice_of(project)};
    batch_add(batch, &command, keys, n);
}

static inline void batch_plain(struct buffer *batch, enum command_kind kind, const char *project) {
    struct command command = {.kind = kind, .project = slice_of(project)};
    batch_add(batch, &command, NULL, 0);
}

static inline void fixture_collect(void *data, uint64_t index, struct command_origin origin,
                                   struct result *result) {
    (void)index;
    struct fixture *fixture = data;
    assert_int_equal(origin.node, 1);
    assert_int_equal(origin.boot, 2);
    if (fixture->n_results == fixture->results_capacity) {
        fixture->results_capacity = 2 * fixture->results_capacity + 16;
        fixture->results =
            mem_realloc(fixture->results, fixture->results_capacity * sizeof(fixture->results[0]));
    }
    fixture->results[fixture->n_results++] = *result;
    *result = (struct result){0};
}

/* Applies fixture->batch as the next entry. */
static inline enum error_code fixture_try_apply(struct fixture *fixture) {
    fixture_drop_results(fixture);
    struct machine_entry entry = {
        .index = machine_state(fixture->machine).applied_index + 1,
        .term = 7,
        .kind = MACHINE_COMMANDS,
        .payload = buffer_slice(&fixture->batch),
    };
    enum error_code code =
        machine_apply(fixture->machine, &entry, 1, fixture_collect, fixture, &fixture->error);
    return code == ERROR_NONE ? machine_commit(fixture->machine, &fixture->error) : code;
}

static inline void fixture_apply(struct fixture *fixture) {
    if (fixture_try_apply(fixture) != ERROR_NONE) {
        fail_msg("apply: %s", fixture->error.message);
    }
}

static inline void fixture_recount(struct fixture *fixture) {
    if (machine_recount(fixture->machine, &fixture->error) != ERROR_NONE) {
        fail_msg("recount: %s", fixture->error.message);
    }
}

/* Reads. */

static inline struct result fixture_read(struct fixture *fixture, enum command_kind kind,
                                         unsigned flags, const char *project,
                                         const struct slice *args, uint32_t n_args) {
    struct command plain = {.kind = kind, .flags = (uint8_t)flags, .project = slice_of(project)};
    struct buffer encoded = {0};
    command_encode(&encoded, &plain, args, n_args);
    struct command command;
    assert_int_equal(command_decode(buffer_slice(&encoded), &command, &fixture->error), ERROR_NONE);
    struct result result;
    unsigned n_done = 0;
    if (machine_read(fixture->machine, &command, 1, &result, &n_done, &fixture->error) !=
        ERROR_NONE) {
        fail_msg("read: %s", fixture->error.message);
    }
    buffer_free(&encoded);
    return result;
}

static inline int64_t fixture_number(struct fixture *fixture, enum command_kind kind,
                                     unsigned flags, const char *project, const char *key) {
    struct slice arg = key != NULL ? slice_of(key) : (struct slice){0};
    struct result result = fixture_read(fixture, kind, flags, project, &arg, key != NULL);
    assert_int_equal(result.kind, RESULT_INTEGER);
    return result.integer;
}

static inline void result_assert_bulk(const struct result *result, struct slice expected) {
    assert_int_equal(result->kind, RESULT_BULK);
    assert_true(slice_equal(buffer_slice(&result->data), expected));
}

/* NULL: the key is missing. */
static inline void fixture_expect(struct fixture *fixture, const char *project, const char *key,
                                  const char *value) {
    struct slice arg = slice_of(key);
    struct result result = fixture_read(fixture, COMMAND_GET, 0, project, &arg, 1);
    if (value == NULL) {
        assert_int_equal(result.kind, RESULT_NIL);
    } else {
        result_assert_bulk(&result, slice_of(value));
    }
    result_free(&result);
}

#endif
