/* The whole log on a real directory: threads, completions, background reads, segment turnover. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

#include <cmocka.h>

#include "base/assert.h"
#include "base/mem.h"
#include "base/prng.h"
#include "raft/log.h"
#include "raft/log_format.h"
#include "raft/storage.h"

enum { GROUPS = 3, IDENTITY = 4711 };

struct fixture {
    char root[64];
    char dir[80];
    uv_loop_t loop;
    struct log *log;
    bool closed;
};

static int setup(void **state) {
    struct fixture *f = mem_zalloc(1, sizeof *f);
    snprintf(f->root, sizeof f->root, "/tmp/ikv-test-log-XXXXXX");
    assert_non_null(mkdtemp(f->root));
    snprintf(f->dir, sizeof f->dir, "%s/log", f->root);
    uv_loop_init(&f->loop);
    *state = f;
    return 0;
}

static void on_closed(void *data) {
    *(bool *)data = true;
}

static void close_log(struct fixture *f) {
    f->closed = false;
    log_close(f->log, on_closed, &f->closed);
    while (!f->closed) {
        uv_run(&f->loop, UV_RUN_ONCE);
    }
    f->log = NULL;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    if (f->log != NULL) {
        close_log(f);
    }
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", f->root);
    assert_int_equal(system(command), 0);
    mem_free(f);
    return 0;
}

static struct log_options options_of(const struct fixture *f) {
    return (struct log_options){
        .dir = f->dir,
        .n_groups = GROUPS,
        .segment_size = LIMIT_SEGMENT_SIZE_MIN,
        .cache_size = 256 * KIB,
        .identity = IDENTITY,
    };
}

static void open_log(struct fixture *f) {
    struct error error = {.code = ERROR_NONE};
    struct log_options options = options_of(f);
    enum error_code code = log_open(&f->log, &f->loop, &options, &error);
    if (code != ERROR_NONE) {
        fail_msg("%s", error.message);
    }
}

static void reopen_log(struct fixture *f) {
    close_log(f);
    open_log(f);
}

struct waiter {
    struct log_request request;
    bool done;
};

static void on_done(struct log_request *request) {
    *(bool *)request->data = true;
}

static struct log_request *waiter_start(struct waiter *waiter) {
    waiter->done = false;
    waiter->request = (struct log_request){.done = on_done, .data = &waiter->done};
    return &waiter->request;
}

static void waiter_wait(struct fixture *f, struct waiter *waiter) {
    log_kick(f->log);
    while (!waiter->done) {
        uv_run(&f->loop, UV_RUN_ONCE);
    }
}

/* The content of an entry follows from its group, index and term. */
static struct payload *payload_for(unsigned group, uint64_t index, uint64_t term, size_t size) {
    struct payload *payload = payload_new(size);
    struct prng prng;
    prng_seed(&prng, (uint64_t)group * 1000003 + index * 17 + term);
    for (size_t k = 0; k < size; k++) {
        payload->data[k] = (uint8_t)prng_next(&prng);
    }
    return payload;
}

static void append_one(struct fixture *f, unsigned group, uint64_t index, uint64_t term,
                       size_t size, struct log_request *request) {
    struct log_entry entry = {
        .term = term, .kind = LOG_ENTRY_COMMAND, .payload = payload_for(group, index, term, size)};
    log_append(f->log, group, index, &entry, 1, request);
    payload_unref(entry.payload);
}

static void append_range(struct fixture *f, unsigned group, uint64_t first, uint64_t last,
                         uint64_t term, size_t size) {
    struct waiter waiter;
    for (uint64_t i = first; i <= last; i++) {
        append_one(f, group, i, term, size, i == last ? waiter_start(&waiter) : NULL);
    }
    waiter_wait(f, &waiter);
}

struct reading {
    bool done;
    enum error_code code;
    uint64_t first;
    unsigned n;
    struct log_entry *entries;
};

static void on_read(void *data, enum error_code code, uint64_t first, struct log_entry *entries,
                    unsigned n) {
    struct reading *reading = data;
    reading->done = true;
    reading->code = code;
    reading->first = first;
    reading->n = n;
    reading->entries = n > 0 ? mem_dup(entries, n * sizeof *entries) : NULL;
}

static struct reading read_log(struct fixture *f, unsigned group, uint64_t first, unsigned n,
                               uint64_t max_bytes) {
    struct reading reading = {.done = false};
    log_read(f->log, group, first, n, max_bytes, on_read, &reading);
    assert_false(reading.done);
    while (!reading.done) {
        uv_run(&f->loop, UV_RUN_ONCE);
    }
    return reading;
}

static void reading_free(struct reading *reading) {
    for (unsigned k = 0; k < reading->n; k++) {
        payload_unref(reading->entries[k].payload);
    }
    mem_free(reading->entries);
}

static void assert_entry(unsigned group, uint64_t index, uint64_t term, size_t size,
                         const struct log_entry *entry) {
    assert_int_equal(entry->term, term);
    assert_int_equal(entry->kind, LOG_ENTRY_COMMAND);
    struct payload *expected = payload_for(group, index, term, size);
    assert_true(slice_equal(payload_slice(entry->payload), payload_slice(expected)));
    payload_unref(expected);
}

static void assert_readable(struct fixture *f, unsigned group, uint64_t first, uint64_t last,
                            uint64_t term, size_t size) {
    while (first <= last) {
        struct reading reading = read_log(f, group, first, (unsigned)(last - first + 1), 512 * KIB);
        assert_int_equal(reading.code, ERROR_NONE);
        assert_true(reading.n > 0);
        for (unsigned k = 0; k < reading.n; k++) {
            assert_entry(group, first + k, term, size, &reading.entries[k]);
        }
        first += reading.n;
        reading_free(&reading);
    }
}

/* Runs the loop for a while. */
static void on_timer(uv_timer_t *timer) {
    uv_close((uv_handle_t *)timer, NULL);
}
static void run_for(struct fixture *f, uint64_t ms) {
    uv_timer_t timer;
    uv_timer_init(&f->loop, &timer);
    uv_timer_start(&timer, on_timer, ms, 0);
    while (!uv_is_closing((uv_handle_t *)&timer)) {
        uv_run(&f->loop, UV_RUN_ONCE);
    }
    uv_run(&f->loop, UV_RUN_NOWAIT);
}

enum { WAIT_MS = 60000 };

#define RUN_UNTIL(f, condition)                                                                    \
    do {                                                                                           \
        uint64_t end_ms = uv_hrtime() / 1000000 + WAIT_MS;                                         \
        while (!(condition)) {                                                                     \
            run_for(f, 5);                                                                         \
            if (uv_hrtime() / 1000000 > end_ms) {                                                  \
                fail_msg("never true: %s", #condition);                                            \
            }                                                                                      \
        }                                                                                          \
    } while (0)

static unsigned count_files(const struct fixture *f, const char *part) {
    DIR *dir = opendir(f->dir);
    assert_non_null(dir);
    unsigned n = 0;
    for (struct dirent *item = readdir(dir); item != NULL; item = readdir(dir)) {
        n += strstr(item->d_name, part) != NULL;
    }
    closedir(dir);
    return n;
}

/* A spare segment is prepared in the background; the log has been handed it, and nothing else is
 * under way. */
static bool has_spare(const struct fixture *f) {
    return count_files(f, "spare-") > 0 && count_files(f, ".tmp") == 0 &&
           f->loop.active_reqs.count == 0;
}

static bool has_few_files(const struct fixture *f) {
    unsigned spares = count_files(f, "spare-");
    return log_stats(f->log).segments <= 3 && count_files(f, ".seg") <= 3 && spares >= 1 &&
           spares <= 2 && count_files(f, ".tmp") == 0;
}

static void test_fresh_log_is_empty(void **state) {
    struct fixture *f = *state;
    open_log(f);
    for (unsigned g = 0; g < GROUPS; g++) {
        struct log_group_state s = log_state(f->log, g);
        assert_int_equal(s.term, 0);
        assert_int_equal(s.voted_for, 0);
        assert_int_equal(s.first, 1);
        assert_int_equal(s.last, 0);
    }
    uint64_t term;
    enum log_entry_kind kind;
    assert_false(log_lookup(f->log, 0, 1, &term, &kind));
    assert_false(log_lookup(f->log, 0, 0, &term, &kind));
    assert_true(log_has_space(f->log));
}

static void test_appended_survives(void **state) {
    struct fixture *f = *state;
    open_log(f);
    struct waiter waiter;
    log_set_vote(f->log, 1, 7, 3, waiter_start(&waiter));
    waiter_wait(f, &waiter);
    append_range(f, 0, 1, 200, 5, 100);
    append_range(f, 2, 1, 3, 6, 0);
    reopen_log(f);
    assert_int_equal(log_state(f->log, 0).last, 200);
    assert_int_equal(log_state(f->log, 1).term, 7);
    assert_int_equal(log_state(f->log, 1).voted_for, 3);
    assert_int_equal(log_state(f->log, 2).last, 3);
    assert_readable(f, 0, 1, 200, 5, 100);
    assert_readable(f, 2, 1, 3, 6, 0);
}

static void test_lookup_and_cache_at_once(void **state) {
    struct fixture *f = *state;
    open_log(f);
    append_one(f, 0, 1, 4, 10, NULL);
    uint64_t term = 0;
    enum log_entry_kind kind = 0;
    assert_true(log_lookup(f->log, 0, 1, &term, &kind));
    assert_int_equal(term, 4);
    assert_int_equal(kind, LOG_ENTRY_COMMAND);
    struct log_entry entry;
    assert_true(log_cached(f->log, 0, 1, &entry));
    assert_entry(0, 1, 4, 10, &entry);
    payload_unref(entry.payload);
    assert_false(log_cached(f->log, 0, 2, &entry));
    assert_readable(f, 0, 1, 1, 4, 10);
}

static void test_replaced_suffix_stays_away(void **state) {
    struct fixture *f = *state;
    open_log(f);
    append_range(f, 0, 1, 10, 1, 50);
    append_range(f, 0, 4, 5, 2, 60);
    assert_int_equal(log_state(f->log, 0).last, 5);
    reopen_log(f);
    assert_int_equal(log_state(f->log, 0).last, 5);
    assert_readable(f, 0, 1, 3, 1, 50);
    assert_readable(f, 0, 4, 5, 2, 60);
    struct reading reading = read_log(f, 0, 4, 3, 1000);
    assert_int_equal(reading.code, ERROR_INVALID);
}

static void test_replaced_while_in_flight(void **state) {
    struct fixture *f = *state;
    open_log(f);
    struct waiter waiter;
    for (unsigned round = 1; round <= 20; round++) {
        append_one(f, 0, 1, round, 30, NULL);
        log_kick(f->log);
        append_one(f, 0, 2, round, 30, NULL);
        log_kick(f->log);
    }
    append_one(f, 0, 2, 99, 30, waiter_start(&waiter));
    waiter_wait(f, &waiter);
    reopen_log(f);
    assert_readable(f, 0, 1, 1, 20, 30);
    assert_readable(f, 0, 2, 2, 99, 30);
}

static void test_reset_and_cut(void **state) {
    struct fixture *f = *state;
    open_log(f);
    append_range(f, 0, 1, 10, 1, 50);
    append_range(f, 1, 1, 10, 1, 50);
    log_cut(f->log, 0, 4);
    log_cut(f->log, 0, 2); /* behind it already */
    struct waiter waiter;
    log_reset(f->log, 1, 1000, 8, waiter_start(&waiter));
    waiter_wait(f, &waiter);
    append_range(f, 1, 1001, 1002, 9, 20);
    reopen_log(f);
    struct log_group_state s = log_state(f->log, 0);
    assert_int_equal(s.first, 5);
    assert_int_equal(s.last, 10);
    assert_int_equal(s.base_term, 1);
    s = log_state(f->log, 1);
    assert_int_equal(s.first, 1001);
    assert_int_equal(s.last, 1002);
    uint64_t term;
    enum log_entry_kind kind;
    assert_true(log_lookup(f->log, 1, 1000, &term, &kind));
    assert_int_equal(term, 8);
    assert_int_equal(kind, 0);
    assert_readable(f, 0, 5, 10, 1, 50);
    assert_readable(f, 1, 1001, 1002, 9, 20);
}

static unsigned order_next;
static void on_ordered(struct log_request *request) {
    assert_int_equal((uintptr_t)request->data, order_next);
    order_next++;
}
static void test_completions_keep_their_order(void **state) {
    struct fixture *f = *state;
    open_log(f);
    enum { N = 500 };
    static struct log_request requests[N];
    order_next = 0;
    for (unsigned k = 0; k < N; k++) {
        requests[k] = (struct log_request){.done = on_ordered, .data = (void *)(uintptr_t)k};
        if (k % 5 == 0) {
            log_set_vote(f->log, k % GROUPS, k + 1, 1, &requests[k]);
        } else {
            append_one(f, 0, log_state(f->log, 0).last + 1, 1, k * 10, &requests[k]);
        }
        if (k % 7 == 0) {
            log_kick(f->log);
            uv_run(&f->loop, UV_RUN_NOWAIT);
        }
    }
    log_kick(f->log);
    while (order_next < N) {
        uv_run(&f->loop, UV_RUN_ONCE);
    }
    assert_int_equal(log_stats(f->log).queued_bytes, 0);
    assert_true(log_stats(f->log).syncs > 0);
}

static void test_cache_is_bounded(void **state) {
    struct fixture *f = *state;
    open_log(f);
    append_range(f, 0, 1, 3000, 1, 1000);
    assert_true(log_stats(f->log).cache_bytes <= 256 * KIB);
    struct log_entry entry;
    assert_false(log_cached(f->log, 0, 1, &entry));
    assert_true(log_cached(f->log, 0, 3000, &entry));
    payload_unref(entry.payload);
    assert_readable(f, 0, 1, 3000, 1, 1000);
    /* At most max_bytes, but at least one. */
    struct reading reading = read_log(f, 0, 1, 100, 3500);
    assert_int_equal(reading.n, 3);
    reading_free(&reading);
    reading = read_log(f, 0, 1, 100, 1);
    assert_int_equal(reading.n, 1);
    reading_free(&reading);
}

static void test_configurations_stay_cached(void **state) {
    struct fixture *f = *state;
    open_log(f);
    struct log_entry entry = {
        .term = 1, .kind = LOG_ENTRY_CHANGE, .payload = payload_for(0, 1, 1, 300)};
    log_append(f->log, 0, 1, &entry, 1, NULL);
    payload_unref(entry.payload);
    append_range(f, 0, 2, 2000, 1, 1000);
    for (unsigned k = 0; k < 2; k++) {
        assert_false(log_cached(f->log, 0, 2, &entry));
        assert_true(log_cached(f->log, 0, 1, &entry));
        assert_int_equal(entry.kind, LOG_ENTRY_CHANGE);
        struct payload *expected = payload_for(0, 1, 1, 300);
        assert_true(slice_equal(payload_slice(entry.payload), payload_slice(expected)));
        payload_unref(expected);
        payload_unref(entry.payload);
        reopen_log(f);
    }
    log_cut(f->log, 0, 1);
    assert_false(log_cached(f->log, 0, 1, &entry));
    assert_int_equal(log_stats(f->log).cache_bytes, 0);
}

static void test_entry_larger_than_a_segment(void **state) {
    struct fixture *f = *state;
    open_log(f);
    append_range(f, 0, 1, 2, 1, 100);
    append_range(f, 0, 3, 4, 1, 3 * MIB);
    append_range(f, 0, 5, 6, 1, 100);
    assert_readable(f, 0, 3, 4, 1, 3 * MIB);
    reopen_log(f);
    assert_readable(f, 0, 1, 2, 1, 100);
    assert_readable(f, 0, 3, 4, 1, 3 * MIB);
    assert_readable(f, 0, 5, 6, 1, 100);
}

static void test_cut_segments_are_recycled(void **state) {
    struct fixture *f = *state;
    open_log(f);
    uint64_t last = 0;
    for (unsigned round = 0; round < 20; round++) {
        append_range(f, 0, last + 1, last + 600, 1, 1000);
        last += 600;
        log_cut(f->log, 0, last - 10);
        run_for(f, 20);
    }
    RUN_UNTIL(f, has_few_files(f));
    reopen_log(f);
    assert_int_equal(log_state(f->log, 0).last, last);
    assert_readable(f, 0, last - 9, last, 1, 1000);
}

static void test_quiet_group_pins_nothing(void **state) {
    struct fixture *f = *state;
    open_log(f);
    append_range(f, 1, 1, 5, 3, 100);
    append_range(f, 2, 1, 1, 3, 100);
    uint64_t last = 0;
    unsigned group = 99;
    assert_false(log_pinned_by(f->log, 4, &group));
    bool pinned = false;
    for (unsigned round = 0; round < 20; round++) {
        append_range(f, 0, last + 1, last + 600, 4, 1000);
        last += 600;
        log_cut(f->log, 0, last);
        if (!pinned && log_pinned_by(f->log, 3, &group)) {
            pinned = true;
            assert_int_equal(group, 1);
        }
        run_for(f, 10);
    }
    assert_true(pinned);
    RUN_UNTIL(f, log_stats(f->log).segments <= 6);
    assert_readable(f, 1, 1, 5, 3, 100);
    reopen_log(f);
    assert_readable(f, 1, 1, 5, 3, 100);
    assert_readable(f, 2, 1, 1, 3, 100);
    assert_int_equal(log_state(f->log, 0).first, last + 1);
    assert_int_equal(log_state(f->log, 0).base_term, 4);
}

static void test_read_of_cut_range_is_invalid(void **state) {
    struct fixture *f = *state;
    open_log(f);
    append_range(f, 0, 1, 100, 1, 5000);
    struct reading reading = {.done = false};
    log_read(f->log, 0, 1, 10, MIB, on_read, &reading);
    log_cut(f->log, 0, 50);
    while (!reading.done) {
        uv_run(&f->loop, UV_RUN_ONCE);
    }
    assert_int_equal(reading.code, ERROR_INVALID);
    assert_int_equal(reading.n, 0);
}

static void test_damage_is_noticed_by_a_read(void **state) {
    struct fixture *f = *state;
    open_log(f);
    append_range(f, 0, 1, 1, 1, 5000);
    reopen_log(f); /* nothing cached */
    char path[128];
    snprintf(path, sizeof path, "%s/0000000000000001.seg", f->dir);
    int file = open(path, O_RDWR);
    assert_int_equal(pwrite(file, "damage", 6, 7000), 6);
    close(file);
    struct reading reading = read_log(f, 0, 1, 1, MIB);
    assert_int_equal(reading.code, ERROR_CORRUPT);
    close_log(f);
    /* And by the next start: the seal proves that the batch was acknowledged. */
    struct error error;
    struct log_options options = options_of(f);
    assert_int_equal(log_open(&f->log, &f->loop, &options, &error), ERROR_CORRUPT);
    assert_null(f->log);
    assert_non_null(strstr(error.message, "0000000000000001.seg"));
}

/* The seal is a batch of its own. It is counted with the next one, and comes when the log thread
 * gets to run: so an attempt may be too short. */
static void test_idle_log_seals_itself(void **state) {
    struct fixture *f = *state;
    open_log(f);
    append_range(f, 0, 1, 1, 1, 10);
    uint64_t more = 1;
    for (uint64_t i = 2; i <= 50 && more == 1; i++) {
        uint64_t batches = log_stats(f->log).batches;
        run_for(f, 400);
        append_range(f, 0, i, i, 1, 10);
        more = log_stats(f->log).batches - batches;
    }
    assert_int_equal(more, 2);
}

static void test_wrong_options_are_refused(void **state) {
    struct fixture *f = *state;
    struct error error;
    struct log_options options = options_of(f);
    options.must_exist = true;
    assert_int_equal(log_open(&f->log, &f->loop, &options, &error), ERROR_CORRUPT);
    open_log(f);
    append_range(f, 0, 1, 1, 1, 10);
    close_log(f);
    assert_int_equal(log_open(&f->log, &f->loop, &options, &error), ERROR_NONE);
    close_log(f);
    options.identity++;
    assert_int_equal(log_open(&f->log, &f->loop, &options, &error), ERROR_MISMATCH);
    options = options_of(f);
    options.n_groups++;
    assert_int_equal(log_open(&f->log, &f->loop, &options, &error), ERROR_MISMATCH);
    options.n_groups = 0;
    assert_int_equal(log_open(&f->log, &f->loop, &options, &error), ERROR_INVALID);
    options = options_of(f);
    options.segment_size = 1000;
    assert_int_equal(log_open(&f->log, &f->loop, &options, &error), ERROR_INVALID);
}

/* ---- A disk that fails on demand ---- */

static struct {
    struct storage storage;
    atomic_int failure;   /* errno of writes and syncs, or 0 */
    atomic_bool on_sync;  /* it is the sync that fails */
    atomic_bool full;     /* no room for new files */
    atomic_int countdown; /* calls until one fails with EIO; 0: none does */
} faulty;

static bool counted_down(void) {
    return atomic_load(&faulty.countdown) > 0 && atomic_fetch_sub(&faulty.countdown, 1) == 1;
}

static int faulty_open(void *context, const char *path, enum storage_mode mode) {
    return counted_down() ? -EIO : storage_posix()->open(context, path, mode);
}

static ssize_t faulty_pwritev(void *context, int file, const struct iovec *pieces, int n,
                              uint64_t offset) {
    int failure = atomic_load(&faulty.failure);
    if (counted_down()) {
        return -EIO;
    }
    if (failure != 0 && !atomic_load(&faulty.on_sync)) {
        return -failure;
    }
    return storage_posix()->pwritev(context, file, pieces, n, offset);
}

static int faulty_sync(void *context, int file) {
    int failure = atomic_load(&faulty.failure);
    if (counted_down()) {
        return -EIO;
    }
    if (failure != 0 && atomic_load(&faulty.on_sync)) {
        return -failure;
    }
    return storage_posix()->sync(context, file);
}

static int faulty_allocate(void *context, int file, uint64_t size) {
    if (counted_down()) {
        return -EIO;
    }
    return atomic_load(&faulty.full) ? -ENOSPC : storage_posix()->allocate(context, file, size);
}

static struct log_options faulty_options(const struct fixture *f) {
    atomic_store(&faulty.failure, 0);
    atomic_store(&faulty.full, false);
    atomic_store(&faulty.countdown, 0);
    faulty.storage = *storage_posix();
    faulty.storage.open = faulty_open;
    faulty.storage.pwritev = faulty_pwritev;
    faulty.storage.sync = faulty_sync;
    faulty.storage.allocate = faulty_allocate;
    struct log_options options = options_of(f);
    options.storage = &faulty.storage;
    return options;
}

/* Runs `body` in a child process and expects it to abort with this text in its last words. */
static void assert_aborts(struct fixture *f, void (*body)(struct fixture *f), const char *text) {
    int out[2];
    assert_int_equal(pipe(out), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const struct rlimit no_core = {0, 0};
        setrlimit(RLIMIT_CORE, &no_core);
        signal(SIGABRT, SIG_DFL);
        dup2(out[1], STDERR_FILENO);
        body(f);
        _exit(0);
    }
    close(out[1]);
    char words[4096];
    size_t size = 0;
    for (ssize_t some = 1; some > 0 && size < sizeof words - 1; size += (size_t)some) {
        some = read(out[0], words + size, sizeof words - 1 - size);
        some = some < 0 ? 0 : some;
    }
    words[size] = '\0';
    close(out[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    if (strstr(words, text) == NULL) {
        fail_msg("last words: %s", words);
    }
}

static void open_faulty(struct fixture *f) {
    struct error error;
    struct log_options options = faulty_options(f);
    if (log_open(&f->log, &f->loop, &options, &error) != ERROR_NONE) {
        _exit(1);
    }
    RUN_UNTIL(f, has_spare(f));
}

static void body_failing_write(struct fixture *f) {
    open_faulty(f);
    atomic_store(&faulty.failure, EIO);
    append_range(f, 0, 1, 1, 1, 10);
}

static void body_failing_sync(struct fixture *f) {
    open_faulty(f);
    atomic_store(&faulty.on_sync, true);
    atomic_store(&faulty.failure, EIO);
    append_range(f, 0, 1, 1, 1, 10);
}

static void body_running_out(struct fixture *f) {
    open_faulty(f);
    atomic_store(&faulty.full, true);
    for (uint64_t i = 1; i <= 3000; i++) {
        append_one(f, 0, i, 1, 1000, NULL);
    }
    log_kick(f->log);
    run_for(f, 300); /* it waits for space, but not when it is to end */
    log_close(f->log, NULL, NULL);
    uv_run(&f->loop, UV_RUN_DEFAULT);
}

/* More was accepted than fits, before anybody could know. */
static void test_what_was_accepted_waits_for_space(void **state) {
    struct fixture *f = *state;
    struct error error;
    struct waiter waiter;
    struct log_options options = faulty_options(f);
    assert_int_equal(log_open(&f->log, &f->loop, &options, &error), ERROR_NONE);
    RUN_UNTIL(f, has_spare(f));
    atomic_store(&faulty.full, true);
    for (uint64_t i = 1; i <= 5000; i++) {
        append_one(f, 0, i, 1, 1000, i == 5000 ? waiter_start(&waiter) : NULL);
    }
    log_kick(f->log);
    RUN_UNTIL(f, !log_has_space(f->log));
    run_for(f, 200);
    assert_false(waiter.done);
    atomic_store(&faulty.full, false);
    waiter_wait(f, &waiter);
    RUN_UNTIL(f, log_has_space(f->log));
    reopen_log(f);
    assert_readable(f, 0, 1, 5000, 1, 1000);
}

static void test_failures_are_fatal(void **state) {
    struct fixture *f = *state;
    assert_aborts(f, body_failing_write, "cannot write to log segment");
    assert_aborts(f, body_failing_sync, "cannot sync log segment");
    assert_aborts(f, body_running_out, "cannot start log segment");
}

static void test_lack_of_space_is_known_in_time(void **state) {
    struct fixture *f = *state;
    struct error error;
    struct log_options options = faulty_options(f);
    assert_int_equal(log_open(&f->log, &f->loop, &options, &error), ERROR_NONE);
    RUN_UNTIL(f, has_spare(f));
    atomic_store(&faulty.full, true);
    uint64_t last = 0;
    while (log_has_space(f->log) && last < 5000) {
        append_range(f, 0, last + 1, last + 10, 1, 1000);
        last += 10;
    }
    assert_false(log_has_space(f->log));
    assert_true(last > 1000 && last < 2000); /* the spare was used up to its reserve */
    struct waiter waiter;
    for (uint64_t term = 1; term <= 200; term++) {
        log_set_vote(f->log, 1, term, 2, waiter_start(&waiter));
        waiter_wait(f, &waiter);
    }
    atomic_store(&faulty.full, false);
    RUN_UNTIL(f, log_has_space(f->log));
    append_range(f, 0, last + 1, last + 2000, 1, 1000);
    reopen_log(f);
    assert_int_equal(log_state(f->log, 0).last, last + 2000);
    assert_int_equal(log_state(f->log, 1).term, 200);
}

static void test_open_survives_each_failure(void **state) {
    struct fixture *f = *state;
    open_log(f);
    append_range(f, 0, 1, 2000, 1, 1000);
    close_log(f);
    unsigned refused = 0;
    for (int call = 1; call <= 40; call++) {
        struct error error;
        struct log_options options = faulty_options(f);
        atomic_store(&faulty.countdown, call);
        enum error_code code = log_open(&f->log, &f->loop, &options, &error);
        atomic_store(&faulty.countdown, 0);
        refused += code != ERROR_NONE;
        if (code == ERROR_NONE) {
            assert_int_equal(log_state(f->log, 0).last, 2000);
            close_log(f);
        } else {
            assert_null(f->log);
            assert_int_equal(code, ERROR_IO);
        }
    }
    assert_true(refused >= 3);
}

struct cut_on_done {
    struct log_request request;
    struct log *log;
    bool done;
};

static void cut_first_entry(struct log_request *request) {
    struct cut_on_done *cut = request->data;
    log_cut(cut->log, 0, 1);
    cut->done = true;
}

/* A segment may hold entries that the log thread has written and the loop has not heard of: it must
 * not be taken for empty then. Found by the simulator. */
static void test_segment_stays_for_entries_not_yet_told(void **state) {
    struct fixture *f = *state;
    struct waiter last;
    open_log(f);
    struct cut_on_done cut = {.log = f->log};
    cut.request = (struct log_request){.done = cut_first_entry, .data = &cut};
    append_one(f, 0, 1, 1, 64 * KIB, &cut.request);
    append_one(f, 0, 2, 1, 100, NULL);
    /* Does not fit behind them: the next segment. */
    append_one(f, 0, 3, 1, LIMIT_SEGMENT_SIZE_MIN - 16 * KIB, waiter_start(&last));
    log_kick(f->log);
    while (log_stats(f->log).batches < 2) {
        usleep(1000); /* everything is written before the loop hears of any of it */
    }
    usleep(20000);
    waiter_wait(f, &last);
    assert_true(cut.done);
    assert_int_equal(log_state(f->log, 0).first, 2);
    reopen_log(f);
    assert_int_equal(log_state(f->log, 0).first, 2);
    assert_int_equal(log_state(f->log, 0).last, 3);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_failures_are_fatal), /* first: it forks, and no thread may run then */
        TEST(test_fresh_log_is_empty),
        TEST(test_appended_survives),
        TEST(test_lookup_and_cache_at_once),
        TEST(test_segment_stays_for_entries_not_yet_told),
        TEST(test_replaced_suffix_stays_away),
        TEST(test_replaced_while_in_flight),
        TEST(test_reset_and_cut),
        TEST(test_completions_keep_their_order),
        TEST(test_cache_is_bounded),
        TEST(test_configurations_stay_cached),
        TEST(test_entry_larger_than_a_segment),
        TEST(test_cut_segments_are_recycled),
        TEST(test_quiet_group_pins_nothing),
        TEST(test_read_of_cut_range_is_invalid),
        TEST(test_damage_is_noticed_by_a_read),
        TEST(test_idle_log_seals_itself),
        TEST(test_wrong_options_are_refused),
        TEST(test_lack_of_space_is_known_in_time),
        TEST(test_what_was_accepted_waits_for_space),
        TEST(test_open_survives_each_failure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
