/* The state machine, one behaviour at a time. */
#include "tests/unit/machine_fixture.h"

#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <time.h>

#include "node/machine/digest.h"
#include "node/machine/machine_internal.h"

static struct fixture f;

static int setup(void **state) {
    (void)state;
    fixture_make(&f);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    fixture_destroy(&f);
    return 0;
}

/* Begins the next batch at the time given, which tests choose freely. */
static void at(uint64_t time_ms) {
    batch_begin(&f.batch, time_ms, FIXTURE_QUOTA);
}

static void set(const char *project, const char *key, const char *value) {
    batch_set(&f.batch, project, slice_of(key), slice_of(value), 0, COMMAND_EXPIRY_NONE, 0);
}

static void set_with(const char *key, const char *value, unsigned flags, enum command_expiry mode,
                     uint64_t expiry_ms) {
    batch_set(&f.batch, "p", slice_of(key), slice_of(value), flags, mode, expiry_ms);
}

static void expect_result(size_t i, enum result_kind kind) {
    assert_true(i < f.n_results);
    assert_int_equal(f.results[i].kind, kind);
}

static void expect_bulk(size_t i, const char *value) {
    assert_true(i < f.n_results);
    result_assert_bulk(&f.results[i], slice_of(value));
}

static void expect_error(size_t i, enum error_code code, const char *text) {
    expect_result(i, RESULT_ERROR);
    assert_int_equal(f.results[i].code, code);
    assert_true(slice_equal(buffer_slice(&f.results[i].data), slice_of(text)));
}

static int64_t pttl(const char *key) {
    return fixture_number(&f, COMMAND_PTTL, 0, "p", key);
}

static void test_digest_follows_the_published_hash(void **state) {
    (void)state;
    /* Values of the reference implementation; the last one crosses every branch. */
    assert_true(digest_bytes(0, slice_of("")) == UINT64_C(0xEF46DB3751D8E999));
    assert_true(digest_bytes(0, slice_of("a")) == UINT64_C(0xD24EC4F1A98C6E5B));
    assert_true(digest_bytes(0, slice_of("abc")) == UINT64_C(0x44BC2CF5AD770999));
    assert_true(digest_bytes(0, slice_of("Nobody inspects the spammish repetition")) ==
                UINT64_C(0xFBCEA83C8A378BF1));
}

static void test_an_empty_machine_answers(void **state) {
    (void)state;
    struct machine_state empty = machine_state(f.machine);
    assert_true(empty.applied_index == 0 && empty.keys == 0 && empty.digest == 0);
    assert_true(empty.next_expiry_ms == 0 && !empty.has_garbage);
    fixture_expect(&f, "p", "k", NULL);
    assert_int_equal(fixture_number(&f, COMMAND_EXISTS, 0, "p", "k"), 0);
    assert_int_equal(fixture_number(&f, COMMAND_DBSIZE, 0, "p", NULL), 0);
    assert_int_equal(pttl("k"), -2);
    fixture_recount(&f);
}

static void test_values_are_set_read_and_deleted(void **state) {
    (void)state;
    at(1);
    set("p", "a", "1");
    set("p", "b", "2");
    set("q", "a", "other");
    fixture_apply(&f);
    expect_result(0, RESULT_OK);
    fixture_expect(&f, "p", "a", "1");
    fixture_expect(&f, "q", "a", "other");
    struct slice keys[] = {slice_of("a"), slice_of("a"), slice_of("x"), slice_of("b")};
    struct result result = fixture_read(&f, COMMAND_EXISTS, 0, "p", keys, 4);
    assert_int_equal(result.integer, 3);
    at(2);
    batch_delete(&f.batch, "p", keys, 4);
    batch_delete(&f.batch, "nobody", keys, 4);
    fixture_apply(&f);
    assert_int_equal(f.results[0].integer, 2);
    assert_int_equal(f.results[1].integer, 0);
    fixture_expect(&f, "p", "a", NULL);
    fixture_expect(&f, "q", "a", "other");
    fixture_recount(&f);
}

static void test_an_empty_value_is_a_value(void **state) {
    (void)state;
    at(1);
    set("p", "k", "");
    fixture_apply(&f);
    fixture_expect(&f, "p", "k", "");
    assert_int_equal(machine_state(f.machine).used_bytes, 1);
    fixture_recount(&f);
}

static void test_set_options(void **state) {
    (void)state;
    at(1);
    set_with("k", "1", COMMAND_FLAG_XX, 0, 0);
    set_with("k", "1", COMMAND_FLAG_XX | COMMAND_FLAG_GET, 0, 0);
    set_with("k", "1", COMMAND_FLAG_NX, 0, 0);
    set_with("k", "2", COMMAND_FLAG_NX, 0, 0);
    set_with("k", "2", COMMAND_FLAG_NX | COMMAND_FLAG_GET, 0, 0);
    set_with("k", "3", COMMAND_FLAG_XX | COMMAND_FLAG_GET, 0, 0);
    set_with("k", "4", COMMAND_FLAG_XX, 0, 0);
    set_with("n", "5", COMMAND_FLAG_NX | COMMAND_FLAG_GET, 0, 0);
    set_with("k", "6", COMMAND_FLAG_GET, 0, 0);
    fixture_apply(&f);
    expect_result(0, RESULT_NIL);
    expect_result(1, RESULT_NIL);
    expect_result(2, RESULT_OK);
    expect_result(3, RESULT_NIL);
    expect_bulk(4, "1");
    expect_bulk(5, "1");
    expect_result(6, RESULT_OK);
    expect_result(7, RESULT_NIL);
    expect_bulk(8, "4");
    fixture_expect(&f, "p", "k", "6");
    fixture_expect(&f, "p", "n", "5");
}

static void test_a_blocked_set_creates_no_project(void **state) {
    (void)state;
    at(1);
    set_with("k", "1", COMMAND_FLAG_XX, 0, 0);
    set_with("k", "1", 0, COMMAND_EXPIRY_AT, 1);
    batch_plain(&f.batch, COMMAND_CLEAR, "p");
    fixture_apply(&f);
    expect_result(2, RESULT_OK);
    assert_true(machine_state(f.machine).digest == 0);
    struct result usage = fixture_read(&f, COMMAND_USAGE, 0, "p", NULL, 0);
    assert_true(bytes_get_u64(usage.data.data + 16) == 0);
    result_free(&usage);
}

static void test_expiry_counts_from_the_batch(void **state) {
    (void)state;
    at(1000);
    set_with("after", "1", 0, COMMAND_EXPIRY_AFTER, 1500);
    set_with("at", "1", 0, COMMAND_EXPIRY_AT, 5000);
    set_with("never", "1", 0, 0, 0);
    fixture_apply(&f);
    assert_int_equal(pttl("after"), 1500);
    assert_int_equal(pttl("at"), 4000);
    assert_int_equal(pttl("never"), -1);
    assert_int_equal(fixture_number(&f, COMMAND_PTTL, COMMAND_FLAG_ROUND_S, "p", "after"), 2);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, 2500);
    at(2499);
    fixture_apply(&f);
    assert_int_equal(pttl("after"), 1);
    assert_int_equal(fixture_number(&f, COMMAND_PTTL, COMMAND_FLAG_ROUND_S, "p", "after"), 0);
    at(2500);
    fixture_apply(&f);
    assert_int_equal(pttl("after"), -2);
    fixture_expect(&f, "p", "after", NULL);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, 5000);
    assert_int_equal(fixture_number(&f, COMMAND_DBSIZE, 0, "p", NULL), 2);
    at(9000);
    struct slice key = slice_of("at");
    batch_delete(&f.batch, "p", &key, 1);
    fixture_apply(&f);
    assert_int_equal(f.results[0].integer, 0);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, 0);
    fixture_recount(&f);
}

static void test_set_replaces_or_keeps_the_expiry(void **state) {
    (void)state;
    at(1000);
    set_with("a", "1", 0, COMMAND_EXPIRY_AFTER, 100);
    set_with("b", "1", 0, COMMAND_EXPIRY_AFTER, 100);
    set_with("c", "1", 0, COMMAND_EXPIRY_AFTER, 100);
    set_with("a", "2", 0, 0, 0);
    set_with("b", "2", COMMAND_FLAG_KEEPTTL, 0, 0);
    set_with("c", "2", 0, COMMAND_EXPIRY_AFTER, 700);
    set_with("d", "2", COMMAND_FLAG_KEEPTTL, 0, 0);
    fixture_apply(&f);
    assert_int_equal(pttl("a"), -1);
    assert_int_equal(pttl("b"), 100);
    assert_int_equal(pttl("c"), 700);
    assert_int_equal(pttl("d"), -1);
    at(1100);
    fixture_apply(&f);
    fixture_expect(&f, "p", "a", "2");
    fixture_expect(&f, "p", "b", NULL);
    fixture_expect(&f, "p", "c", "2");
    assert_int_equal(machine_state(f.machine).next_expiry_ms, 1700);
    fixture_recount(&f);
}

static void test_a_set_in_the_past_deletes(void **state) {
    (void)state;
    at(1000);
    set("p", "k", "old");
    set_with("k", "new", COMMAND_FLAG_GET, COMMAND_EXPIRY_AT, 1000);
    set_with("k", "new", 0, COMMAND_EXPIRY_AT, 0);
    set_with("k", "new", COMMAND_FLAG_XX, COMMAND_EXPIRY_AT, 5000);
    fixture_apply(&f);
    expect_bulk(1, "old");
    expect_result(2, RESULT_OK);
    expect_result(3, RESULT_NIL);
    fixture_expect(&f, "p", "k", NULL);
    fixture_recount(&f);
}

static void test_an_expiry_out_of_range_is_refused(void **state) {
    (void)state;
    at(1000);
    set("p", "k", "old");
    set_with("k", "1", 0, COMMAND_EXPIRY_AFTER, INT64_MAX - 999);
    set_with("k", "1", 0, COMMAND_EXPIRY_AFTER, UINT64_MAX);
    set_with("k", "1", 0, COMMAND_EXPIRY_AT, UINT64_MAX);
    set_with("m", "1", 0, COMMAND_EXPIRY_AT, INT64_MAX);
    fixture_apply(&f);
    for (size_t i = 1; i <= 3; i++) {
        expect_error(i, ERROR_INVALID, "invalid expire time in 'set' command");
    }
    expect_result(4, RESULT_OK);
    fixture_expect(&f, "p", "k", "old");
    fixture_reopen(&f);
    fixture_recount(&f);
}

static void test_the_clock_never_runs_backwards(void **state) {
    (void)state;
    at(5000);
    set_with("k", "1", 0, COMMAND_EXPIRY_AFTER, 10);
    fixture_apply(&f);
    at(3000);
    set_with("m", "1", 0, COMMAND_EXPIRY_AFTER, 10);
    set_with("n", "1", 0, COMMAND_EXPIRY_AT, 4000);
    fixture_apply(&f);
    assert_int_equal(machine_state(f.machine).clock_ms, 5000);
    assert_int_equal(pttl("m"), 10);
    fixture_expect(&f, "p", "n", NULL);
    fixture_reopen(&f);
    assert_int_equal(machine_state(f.machine).clock_ms, 5000);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, 5010);
}

static void set_numbered(const char *project, unsigned i, struct slice value, uint64_t at_ms) {
    char key[32];
    int size = snprintf(key, sizeof(key), "key-%06u", i);
    batch_set(&f.batch, project, slice_make(key, (size_t)size), value, 0,
              at_ms != 0 ? COMMAND_EXPIRY_AT : COMMAND_EXPIRY_NONE, at_ms);
}

/* Sets `n` keys that expire at `at_ms` (0: never), in batches at `time_ms`. */
static void fill(const char *project, unsigned n, struct slice value, uint64_t time_ms,
                 uint64_t at_ms) {
    for (unsigned i = 0; i < n; i += 1000) {
        at(time_ms);
        for (unsigned k = i; k < n && k < i + 1000; k++) {
            set_numbered(project, k, value, at_ms);
        }
        fixture_apply(&f);
    }
}

static void tick(uint64_t time_ms, uint64_t clock_after_ms, uint64_t keys_after) {
    at(time_ms);
    fixture_apply(&f);
    assert_int_equal(machine_state(f.machine).clock_ms, clock_after_ms);
    assert_int_equal(machine_state(f.machine).keys, keys_after);
}

static void test_expired_rows_go_in_bounded_steps(void **state) {
    (void)state;
    struct slice value = slice_of("v");
    fill("p", 3000, value, 10, 1000);
    fill("q", 3000, value, 10, 1000);
    fill("r", 3000, value, 10, 1005);
    tick(999, 999, 9000);
    /* 4096 of the 6000 that expire at 1000 go; the rest stays alive, one millisecond before. */
    tick(2000, 999, 9000 - MACHINE_PURGE_STEP);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, 1000);
    assert_int_equal(fixture_number(&f, COMMAND_DBSIZE, 0, "p", NULL), 0);
    assert_int_equal(fixture_number(&f, COMMAND_DBSIZE, 0, "q", NULL), 6000 - MACHINE_PURGE_STEP);
    assert_int_equal(fixture_number(&f, COMMAND_EXISTS, 0, "q", "key-001095"), 0);
    assert_int_equal(fixture_number(&f, COMMAND_EXISTS, 0, "q", "key-001096"), 1);
    assert_int_equal(fixture_number(&f, COMMAND_PTTL, 0, "q", "key-002999"), 1);
    fixture_recount(&f);
    fixture_reopen(&f);
    /* Then the remaining 1904 of 1000 and 2192 of 1005, even when the leader's time stands still.
     */
    tick(2000, 1004, 9000 - 2 * MACHINE_PURGE_STEP);
    at(1500);
    set_with("late", "v", 0, COMMAND_EXPIRY_AT, 1400);
    fixture_apply(&f);
    assert_int_equal(machine_state(f.machine).clock_ms, 1500);
    assert_int_equal(machine_state(f.machine).keys, 0);
    tick(2000, 2000, 0);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, 0);
    fixture_recount(&f);
}

static void test_a_step_is_bounded_in_bytes_too(void **state) {
    (void)state;
    size_t size = 12 * MIB;
    uint8_t *bytes = mem_zalloc(size, 1);
    for (unsigned i = 0; i < 8; i++) {
        at(10);
        set_numbered("p", i, slice_make(bytes, size), 100);
        fixture_apply(&f);
    }
    mem_free(bytes);
    tick(200, 99, 2); /* the sixth crosses 64 MiB */
    tick(200, 200, 0);
    fixture_recount(&f);
}

static void test_cleared_rows_do_not_count_as_expired(void **state) {
    (void)state;
    fill("p", 5000, slice_of("v"), 10, 1000);
    at(20);
    batch_plain(&f.batch, COMMAND_CLEAR, "p");
    set_with("new", "v", 0, COMMAND_EXPIRY_AT, 1000);
    fixture_apply(&f);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, 1000);
    tick(1000, 1000, 0);
    assert_true(machine_state(f.machine).has_garbage);
    fixture_recount(&f);
}

static void test_next_expiry_is_exact(void **state) {
    (void)state;
    at(10);
    set_with("a", "v", 0, COMMAND_EXPIRY_AT, 100);
    set_with("b", "v", 0, COMMAND_EXPIRY_AT, 200);
    batch_set(&f.batch, "q", slice_of("c"), slice_of("v"), 0, COMMAND_EXPIRY_AT, 300);
    fixture_apply(&f);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, 100);
    at(11);
    struct slice key = slice_of("a");
    batch_delete(&f.batch, "p", &key, 1);
    fixture_apply(&f);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, 200);
    at(12);
    set_with("b", "v", 0, COMMAND_EXPIRY_AT, 400);
    fixture_apply(&f);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, 300);
    at(13);
    batch_plain(&f.batch, COMMAND_CLEAR, "q");
    fixture_apply(&f);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, 400);
    at(14);
    set_with("b", "v", 0, 0, 0);
    fixture_apply(&f);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, 0);
}

static void test_quota_refuses_growth_only(void **state) {
    (void)state;
    batch_begin(&f.batch, 1, 10);
    set("p", "key", "1234567");
    set("p", "key", "12345678");
    set("p", "key", "abcdefg");
    set("p", "k2", "");
    set("p", "key", "12");
    set("p", "k2", "123");
    set("p", "k3", "");
    fixture_apply(&f);
    expect_result(0, RESULT_OK);
    expect_error(1, ERROR_QUOTA, "project p: 11 of 10 bytes");
    expect_result(2, RESULT_OK);
    expect_error(3, ERROR_QUOTA, "project p: 12 of 10 bytes");
    expect_result(4, RESULT_OK);
    expect_result(5, RESULT_OK);
    expect_error(6, ERROR_QUOTA, "project p: 12 of 10 bytes");
    fixture_expect(&f, "p", "key", "12");
    /* The quota was given when the project was created and stays. */
    at(2);
    set("p", "k4", "1");
    batch_plain(&f.batch, COMMAND_CLEAR, "p");
    set("p", "k4", "1");
    fixture_apply(&f);
    expect_error(0, ERROR_QUOTA, "project p: 13 of 10 bytes");
    expect_result(2, RESULT_OK);
    struct result usage = fixture_read(&f, COMMAND_USAGE, 0, "p", NULL, 0);
    assert_int_equal(usage.kind, RESULT_INTEGERS);
    assert_int_equal(bytes_get_u64(usage.data.data), 1);
    assert_int_equal(bytes_get_u64(usage.data.data + 8), 3);
    assert_int_equal(bytes_get_u64(usage.data.data + 16), 10);
    result_free(&usage);
    fixture_recount(&f);
}

static void test_a_value_too_big_for_a_new_project_creates_none(void **state) {
    (void)state;
    batch_begin(&f.batch, 1, 10);
    set("p", "key", "12345678");
    fixture_apply(&f);
    expect_error(0, ERROR_QUOTA, "project p: 11 of 10 bytes");
    assert_true(machine_state(f.machine).digest == 0);
}

static void test_values_change_between_inline_and_large(void **state) {
    (void)state;
    static const size_t sizes[] = {10, 700, 5000, 3000000, 800, 0, 5000, 10};
    uint8_t *bytes = mem_alloc(3000000);
    for (size_t i = 0; i < 3000000; i++) {
        bytes[i] = (uint8_t)(i * 7 + i / 256);
    }
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct slice value = slice_make(bytes + i, sizes[i] > 0 ? sizes[i] - i : 0);
        at(1);
        batch_set(&f.batch, "p", slice_of("k"), value, 0, COMMAND_EXPIRY_NONE, 0);
        fixture_apply(&f);
        fixture_recount(&f);
        struct slice key = slice_of("k");
        struct result result = fixture_read(&f, COMMAND_GET, 0, "p", &key, 1);
        result_assert_bulk(&result, value);
        result_free(&result);
        assert_int_equal(machine_state(f.machine).used_bytes, 1 + value.size);
    }
    mem_free(bytes);
}

static void test_the_longest_key(void **state) {
    (void)state;
    uint8_t *bytes = mem_alloc(LIMIT_KEY_SIZE);
    memset(bytes, 'k', LIMIT_KEY_SIZE);
    struct slice key = slice_make(bytes, LIMIT_KEY_SIZE);
    at(1);
    batch_set(&f.batch, "p", key, slice_of("v"), 0, COMMAND_EXPIRY_AT, 50);
    fixture_apply(&f);
    struct result result = fixture_read(&f, COMMAND_GET, 0, "p", &key, 1);
    result_assert_bulk(&result, slice_of("v"));
    result_free(&result);
    fixture_recount(&f);
    tick(50, 50, 0);
    fixture_recount(&f);
    mem_free(bytes);
}

static void reclaim_all(unsigned max_rows, unsigned most_steps) {
    bool more = true;
    unsigned steps = 0;
    while (more) {
        uint64_t digest = machine_state(f.machine).digest;
        assert_int_equal(machine_reclaim(f.machine, max_rows, &more, &f.error), ERROR_NONE);
        assert_true(machine_state(f.machine).digest == digest);
        assert_true(++steps <= most_steps);
        assert_int_equal(machine_state(f.machine).has_garbage, more);
    }
}

static void test_clear_starts_a_new_epoch(void **state) {
    (void)state;
    at(1);
    set("q", "kept", "v");
    fixture_apply(&f);
    uint64_t digest_before = machine_state(f.machine).digest;
    uint8_t large[2000] = {1};
    fill("p", 50, slice_make(large, sizeof(large)), 1, 0);
    fill("p", 30, slice_of("small"), 1, 1000);
    at(2);
    batch_plain(&f.batch, COMMAND_CLEAR, "p");
    batch_plain(&f.batch, COMMAND_CLEAR, "p");
    fixture_apply(&f);
    expect_result(0, RESULT_OK);
    fixture_expect(&f, "p", "key-000000", NULL);
    assert_int_equal(fixture_number(&f, COMMAND_DBSIZE, 0, "p", NULL), 0);
    assert_int_equal(machine_state(f.machine).keys, 1);
    /* Only the project itself is left in the digest. */
    assert_true(machine_state(f.machine).digest ==
                digest_before + digest_project(digest_seed(slice_of("p")), FIXTURE_QUOTA));
    assert_true(machine_state(f.machine).has_garbage);
    fixture_recount(&f);
    at(3);
    set("p", "key-000000", "again");
    fixture_apply(&f);
    fixture_reopen(&f);
    assert_true(machine_state(f.machine).has_garbage);
    reclaim_all(7, 9);
    fixture_expect(&f, "p", "key-000000", "again");
    fixture_expect(&f, "p", "key-000001", NULL);
    fixture_recount(&f);
}

static uint64_t elapsed_ms(const struct timespec *start) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)((now.tv_sec - start->tv_sec) * 1000 +
                      (now.tv_nsec - start->tv_nsec) / 1000000);
}

static void test_clearing_many_keys_is_quick(void **state) {
    (void)state;
    const unsigned keys = 200000;
    fill("p", keys, slice_of("value"), 1, 0);
    struct timespec start;
    clock_gettime(CLOCK_MONOTONIC, &start);
    at(2);
    batch_plain(&f.batch, COMMAND_CLEAR, "p");
    fixture_apply(&f);
    uint64_t took_ms = elapsed_ms(&start);
    print_message("cleared %u keys in %u ms\n", keys, (unsigned)took_ms);
    assert_true(took_ms < 1000);
    reclaim_all(10000, keys / 10000 + 1);
    fixture_recount(&f);
}

static struct machine_entry entry_of(uint64_t index, enum machine_entry_kind kind,
                                     struct slice payload) {
    return (struct machine_entry){
        .index = index, .term = 2 + index / 3, .kind = kind, .payload = payload};
}

static void test_every_entry_kind_moves_the_index(void **state) {
    (void)state;
    struct buffer batch = {0};
    batch_begin(&batch, 77, FIXTURE_QUOTA);
    batch_set(&batch, "p", slice_of("k"), slice_of("v"), 0, 0, 0);
    batch_plain(&batch, COMMAND_FENCE, "");
    struct machine_entry entries[] = {
        entry_of(1, MACHINE_CONFIG, slice_of("one")),
        entry_of(2, MACHINE_COMMANDS, buffer_slice(&batch)),
        entry_of(3, MACHINE_CONFIG, slice_of("three")),
        entry_of(4, MACHINE_BARRIER, (struct slice){0}),
    };
    assert_int_equal(machine_apply(f.machine, entries, 4, fixture_collect, &f, &f.error),
                     ERROR_NONE);
    assert_int_equal(f.n_results, 2);
    expect_result(1, RESULT_OK);
    for (int round = 0; round < 2; round++) {
        struct machine_state now = machine_state(f.machine);
        assert_true(now.applied_index == 4 && now.applied_term == 3 && now.config_index == 3);
        assert_int_equal(now.clock_ms, 77);
        assert_true(slice_equal(machine_config(f.machine), slice_of("three")));
        fixture_reopen(&f);
    }
    buffer_free(&batch);
}

static void assert_same_state(struct machine_state a, struct machine_state b) {
    assert_true(a.applied_index == b.applied_index && a.applied_term == b.applied_term);
    assert_true(a.config_index == b.config_index && a.clock_ms == b.clock_ms);
    assert_true(a.digest == b.digest && a.next_expiry_ms == b.next_expiry_ms);
    assert_true(a.keys == b.keys && a.used_bytes == b.used_bytes);
    assert_true(a.has_garbage == b.has_garbage);
}

static void test_a_damaged_entry_changes_nothing(void **state) {
    (void)state;
    at(1);
    set("p", "k", "v");
    fixture_apply(&f);
    struct machine_state before = machine_state(f.machine);
    struct buffer good = {0};
    batch_begin(&good, 5, 0);
    batch_set(&good, "p", slice_of("k"), slice_of("changed"), 0, 0, 0);
    batch_set(&good, "new", slice_of("k"), slice_of("v"), 0, COMMAND_EXPIRY_AT, 100);
    struct buffer reads = {0};
    batch_begin(&reads, 5, 0);
    batch_plain(&reads, COMMAND_DBSIZE, "p");
    const struct slice damaged[] = {
        {0}, slice_make(good.data, good.size - 1), buffer_slice(&reads)};
    for (size_t i = 0; i < sizeof(damaged) / sizeof(damaged[0]); i++) {
        struct machine_entry entries[] = {
            entry_of(2, MACHINE_CONFIG, slice_of("config")),
            entry_of(3, MACHINE_COMMANDS, buffer_slice(&good)),
            entry_of(4, MACHINE_COMMANDS, damaged[i]),
        };
        assert_int_equal(machine_apply(f.machine, entries, 3, NULL, NULL, &f.error), ERROR_CORRUPT);
        assert_non_null(strstr(f.error.message, "entry 4: "));
        assert_same_state(before, machine_state(f.machine));
        assert_int_equal(machine_config(f.machine).size, 0);
        fixture_expect(&f, "p", "k", "v");
        fixture_recount(&f);
    }
    struct machine_entry retry = entry_of(2, MACHINE_COMMANDS, buffer_slice(&good));
    assert_int_equal(machine_apply(f.machine, &retry, 1, NULL, NULL, &f.error), ERROR_NONE);
    fixture_recount(&f);
    buffer_free(&good);
    buffer_free(&reads);
}

/* What is applied is seen at once, and gone with the process unless it is committed. */
static void test_uncommitted_entries_can_be_read(void **state) {
    (void)state;
    at(1);
    set("p", "k", "committed");
    fixture_apply(&f);
    struct machine_state before = machine_state(f.machine);
    struct buffer batch = {0};
    batch_begin(&batch, 5, FIXTURE_QUOTA);
    batch_set(&batch, "p", slice_of("k"), slice_of("applied"), 0, 0, 0);
    batch_set(&batch, "new", slice_of("k"), slice_of("applied"), 0, 0, 0);
    struct machine_entry entry = entry_of(2, MACHINE_COMMANDS, buffer_slice(&batch));
    for (int round = 0; round < 2; round++) {
        assert_int_equal(machine_apply(f.machine, &entry, 1, NULL, NULL, &f.error), ERROR_NONE);
        fixture_expect(&f, "p", "k", "applied");
        fixture_expect(&f, "new", "k", "applied");
        if (round == 0) {
            machine_rollback(f.machine);
            assert_same_state(before, machine_state(f.machine));
            fixture_expect(&f, "p", "k", "committed");
            fixture_expect(&f, "new", "k", NULL);
            fixture_recount(&f);
        }
    }
    fixture_reopen(&f); /* closing commits */
    assert_int_equal(machine_state(f.machine).applied_index, 2);
    fixture_expect(&f, "new", "k", "applied");
    assert_int_equal(machine_commit(f.machine, &f.error), ERROR_NONE); /* nothing to do */
    fixture_recount(&f);
    buffer_free(&batch);
}

static void test_reads_share_one_view(void **state) {
    (void)state;
    at(1);
    set("p", "a", "1");
    set("q", "b", "2");
    fixture_apply(&f);
    struct buffer encoded[3] = {0};
    struct command commands[3];
    struct slice a = slice_of("a");
    struct slice b = slice_of("b");
    command_encode(&encoded[0], &(struct command){.kind = COMMAND_GET, .project = slice_of("p")},
                   &a, 1);
    command_encode(&encoded[1], &(struct command){.kind = COMMAND_GET, .project = slice_of("q")},
                   &b, 1);
    command_encode(&encoded[2], &(struct command){.kind = COMMAND_CLEAR, .project = slice_of("q")},
                   NULL, 0);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(command_decode(buffer_slice(&encoded[i]), &commands[i], &f.error),
                         ERROR_NONE);
    }
    struct result results[3];
    unsigned n_done = 0;
    assert_int_equal(machine_read(f.machine, commands, 3, results, &n_done, &f.error), ERROR_NONE);
    assert_int_equal(n_done, 3);
    result_assert_bulk(&results[0], slice_of("1"));
    result_assert_bulk(&results[1], slice_of("2"));
    assert_int_equal(results[2].kind, RESULT_ERROR);
    assert_int_equal(results[2].code, ERROR_INVALID);
    for (size_t i = 0; i < 3; i++) {
        result_free(&results[i]);
        buffer_free(&encoded[i]);
    }
    fixture_expect(&f, "q", "b", "2");
}

static void test_reads_stop_when_enough_is_gathered(void **state) {
    (void)state;
    enum { N = 3, SIZE = MACHINE_READ_BYTES / 2 + 1 };
    char *value = mem_zalloc(1, SIZE);
    struct slice key = slice_of("k");
    at(1);
    batch_set(&f.batch, "p", key, slice_make(value, SIZE), 0, COMMAND_EXPIRY_NONE, 0);
    fixture_apply(&f);
    mem_free(value);
    struct command commands[N];
    struct result results[N];
    struct buffer encoded = {0};
    unsigned n_done = 0;
    command_encode(&encoded, &(struct command){.kind = COMMAND_GET, .project = slice_of("p")}, &key,
                   1);
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(command_decode(buffer_slice(&encoded), &commands[i], &f.error),
                         ERROR_NONE);
    }
    assert_int_equal(machine_read(f.machine, commands, N, results, &n_done, &f.error), ERROR_NONE);
    assert_int_equal(n_done, 2);
    assert_int_equal(results[1].data.size, SIZE);
    for (unsigned i = 0; i < N; i++) {
        result_free(&results[i]);
    }
    buffer_free(&encoded);
}

static void test_the_file_belongs_to_one_shard(void **state) {
    (void)state;
    struct machine *other = NULL;
    machine_close(f.machine);
    f.machine = NULL;
    struct machine_options options = f.options;
    options.shard = 4;
    assert_int_equal(machine_open(&other, &options, &f.error), ERROR_MISMATCH);
    options = f.options;
    options.cluster = "other";
    assert_int_equal(machine_open(&other, &options, &f.error), ERROR_MISMATCH);
    fixture_open(&f);
}

/* Runs SQL on the closed database, as a damaged or newer file would have it. */
static void tamper(const char *sql) {
    machine_close(f.machine);
    f.machine = NULL;
    sqlite3 *handle = NULL;
    assert_int_equal(sqlite3_open(f.path, &handle), SQLITE_OK);
    assert_int_equal(sqlite3_exec(handle, sql, NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(handle), SQLITE_OK);
}

static void expect_open_error(enum error_code code) {
    assert_int_equal(machine_open(&f.machine, &f.options, &f.error), code);
    assert_null(f.machine);
    assert_non_null(strstr(f.error.message, f.path));
}

static void test_a_strange_file_is_refused(void **state) {
    (void)state;
    tamper("PRAGMA user_version = 3");
    expect_open_error(ERROR_VERSION);
    tamper("PRAGMA user_version = 2; PRAGMA application_id = 7");
    expect_open_error(ERROR_CORRUPT);
    tamper("PRAGMA application_id = 0x494b5653; UPDATE meta SET keys = 1");
    expect_open_error(ERROR_CORRUPT);
    tamper("UPDATE meta SET keys = 0; DROP INDEX kv_expiry");
    expect_open_error(ERROR_CORRUPT);
    tamper("DELETE FROM meta");
    expect_open_error(ERROR_CORRUPT);
    FILE *file = fopen(f.path, "w");
    assert_non_null(file);
    for (int i = 0; i < 5000; i++) {
        fputc('x', file);
    }
    fclose(file);
    expect_open_error(ERROR_CORRUPT);
}

static void test_a_damaged_value_is_not_served(void **state) {
    (void)state;
    at(1);
    set("p", "good", "value");
    set("p", "bad", "value");
    fixture_apply(&f);
    tamper("UPDATE kv SET value = x'76616c7566' WHERE key = x'626164'");
    fixture_open(&f);
    fixture_expect(&f, "p", "good", "value");
    struct buffer encoded = {0};
    struct slice key = slice_of("bad");
    command_encode(&encoded, &(struct command){.kind = COMMAND_GET, .project = slice_of("p")}, &key,
                   1);
    struct command command;
    assert_int_equal(command_decode(buffer_slice(&encoded), &command, &f.error), ERROR_NONE);
    struct result result;
    unsigned n_done = 0;
    assert_int_equal(machine_read(f.machine, &command, 1, &result, &n_done, &f.error),
                     ERROR_CORRUPT);
    assert_int_equal(result.kind, RESULT_ERROR);
    assert_int_equal(result.code, ERROR_CORRUPT);
    result_free(&result);
    buffer_free(&encoded);
    assert_int_equal(machine_recount(f.machine, &f.error), ERROR_CORRUPT);
}

static void test_recount_finds_what_is_wrong(void **state) {
    (void)state;
    uint8_t large[2000] = {1};
    static const char *const damage[] = {
        "DELETE FROM kv WHERE key = x'61'",
        "DELETE FROM large",
        "INSERT INTO large (value) VALUES (x'00')",
        "UPDATE kv SET size = size + 1 WHERE key = x'61'",
        "UPDATE kv SET epoch = 9 WHERE key = x'61'",
        "UPDATE kv SET expires_at = expires_at + 1 WHERE key = x'65'",
        ("UPDATE projects SET used_bytes = used_bytes + 1;"
         "UPDATE meta SET used_bytes = used_bytes + 1"),
    };
    for (size_t i = 0; i < sizeof(damage) / sizeof(damage[0]); i++) {
        teardown(NULL);
        setup(NULL);
        at(1);
        set("p", "a", "value");
        set_with("e", "value", 0, COMMAND_EXPIRY_AT, 1000);
        batch_set(&f.batch, "p", slice_of("large"), slice_make(large, sizeof(large)), 0, 0, 0);
        fixture_apply(&f);
        fixture_recount(&f);
        tamper(damage[i]);
        fixture_open(&f);
        assert_int_equal(machine_recount(f.machine, &f.error), ERROR_CORRUPT);
    }
}

static void copy_bytes(const char *from, const char *to, uint64_t size) {
    int in = open(from, O_RDONLY);
    int out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(in >= 0 && out >= 0);
    uint8_t *bytes = mem_alloc(size);
    assert_int_equal(pread(in, bytes, size, 0), size);
    assert_int_equal(write(out, bytes, size), size);
    mem_free(bytes);
    close(in);
    close(out);
}

static void test_a_held_file_is_the_snapshot(void **state) {
    (void)state;
    char staged[FIXTURE_PATH_SIZE];
    snprintf(staged, sizeof(staged), "%s/staged", f.directory);
    fill("p", 3000, slice_of("before"), 1, 500);
    struct machine_entry config = entry_of(4, MACHINE_CONFIG, slice_of("four"));
    assert_int_equal(machine_apply(f.machine, &config, 1, NULL, NULL, &f.error), ERROR_NONE);
    struct machine_state expected = machine_state(f.machine);
    struct machine_snapshot snapshot;
    struct buffer bytes = {0};
    assert_int_equal(machine_snapshot_hold(f.machine, &snapshot, &bytes, &f.error), ERROR_NONE);
    assert_true(snapshot.index == 4 && snapshot.term == config.term && snapshot.config_index == 4);
    assert_true(slice_equal(buffer_slice(&bytes), slice_of("four")));

    /* Neither writes nor checkpoints nor a second hold touch it. */
    fill("p", 3000, slice_of("after"), 2, 0);
    config = entry_of(8, MACHINE_CONFIG, slice_of("eight"));
    assert_int_equal(machine_apply(f.machine, &config, 1, NULL, NULL, &f.error), ERROR_NONE);
    uint64_t durable = 0;
    assert_int_equal(machine_checkpoint(f.machine, &durable, &f.error), ERROR_NONE);
    assert_int_equal(durable, 4);
    struct machine_snapshot second;
    assert_int_equal(machine_snapshot_hold(f.machine, &second, &bytes, &f.error), ERROR_NONE);
    assert_memory_equal(&snapshot, &second, sizeof(second));
    assert_true(slice_equal(buffer_slice(&bytes), slice_of("four")));
    machine_snapshot_release(f.machine);
    struct stat file;
    assert_int_equal(stat(f.path, &file), 0);
    assert_int_equal(file.st_size, snapshot.size);
    copy_bytes(f.path, staged, snapshot.size);
    machine_snapshot_release(f.machine);
    assert_true(machine_wal_bytes(f.machine) > 0);
    assert_int_equal(machine_checkpoint(f.machine, &durable, &f.error), ERROR_NONE);
    assert_int_equal(durable, 8);
    assert_int_equal(machine_wal_bytes(f.machine), 0);

    /* The copy is whole by itself. */
    struct machine_options options = f.options;
    options.path = staged;
    struct machine_state verified;
    assert_int_equal(machine_verify(&options, true, &verified, &f.error), ERROR_NONE);
    assert_same_state(verified, expected);
    machine_close(f.machine);
    assert_int_equal(machine_replace(&f.options, staged, &f.error), ERROR_NONE);
    fixture_open(&f);
    assert_same_state(machine_state(f.machine), expected);
    assert_true(slice_equal(machine_config(f.machine), slice_of("four")));
    fixture_expect(&f, "p", "key-000001", "before");
    fixture_recount(&f);
    buffer_free(&bytes);
}

struct fold_thread {
    uint64_t wal_bytes;
    bool complete;
    uint64_t moved_bytes;
    enum error_code code;
    struct error error;
};

static void *fold_main(void *data) {
    struct fold_thread *fold = data;
    fold->code = machine_fold(&f.options, fold->wal_bytes, &fold->complete, &fold->moved_bytes,
                              &fold->error);
    return NULL;
}

/* What the file holds at the path of `options`, with its WAL. */
static struct machine_state recovered_state(const struct machine_options *options) {
    struct machine *machine = NULL;
    assert_int_equal(machine_open(&machine, options, &f.error), ERROR_NONE);
    assert_int_equal(machine_recount(machine, &f.error), ERROR_NONE);
    struct machine_state state = machine_state(machine);
    machine_close(machine);
    return state;
}

/* Mostly the file alone holds what was applied, as if the WAL had been lost. But a fold that comes
 * in the middle of a commit may move no more than that commit's read mark, and leaves out pages
 * that stand in the WAL again behind it; the fold has synced the WAL that far, so nothing can be
 * lost. */
static void test_a_fold_makes_durable_what_was_applied_before_it(void **state) {
    (void)state;
    char copy[FIXTURE_PATH_SIZE];
    char copy_wal[FIXTURE_PATH_SIZE + 8];
    char wal[FIXTURE_PATH_SIZE + 8];
    unsigned whole = 0;
    snprintf(copy, sizeof(copy), "%s/copy", f.directory);
    snprintf(copy_wal, sizeof(copy_wal), "%s-wal", copy);
    snprintf(wal, sizeof(wal), "%s-wal", f.path);
    struct machine_options options = f.options;
    options.path = copy;
    for (unsigned round = 1; round <= 5; round++) {
        struct fold_thread fold = {.complete = false};
        pthread_t thread;
        struct stat file;
        struct machine_state folded;
        fill("p", 2000, slice_of("before"), round, 0);
        uint64_t mark = machine_state(f.machine).applied_index;
        fold.wal_bytes = machine_wal_bytes(f.machine);
        assert_int_equal(pthread_create(&thread, NULL, fold_main, &fold), 0);
        for (unsigned i = 0; i < 20; i++) {
            fill("p", 50, slice_of("meanwhile"), round, 0);
        }
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_int_equal(fold.code, ERROR_NONE);
        assert_true(fold.complete);
        assert_int_equal(stat(f.path, &file), 0);
        copy_bytes(f.path, copy, (uint64_t)file.st_size);
        if (machine_verify(&options, true, &folded, &f.error) == ERROR_NONE &&
            folded.applied_index >= mark) {
            whole++;
        } else {
            assert_int_equal(stat(wal, &file), 0);
            copy_bytes(wal, copy_wal, (uint64_t)file.st_size);
            folded = recovered_state(&options);
        }
        assert_true(folded.applied_index >= mark);
        assert_true(folded.applied_index <= machine_state(f.machine).applied_index);
    }
    assert_true(whole > 0);
    fill("p", 10, slice_of("last"), 6, 0);
    struct fold_thread last = {.wal_bytes = machine_wal_bytes(f.machine)};
    (void)fold_main(&last);
    assert_int_equal(last.code, ERROR_NONE);
    assert_true(last.complete);
    assert_int_equal(last.moved_bytes, machine_wal_bytes(f.machine));
    uint64_t durable = 0;
    assert_int_equal(machine_checkpoint(f.machine, &durable, &f.error), ERROR_NONE);
    assert_int_equal(durable, machine_state(f.machine).applied_index);
    fixture_reopen(&f);
    fixture_recount(&f);
    /* Where nothing is known of several connections it does nothing. */
    bool complete = true;
    uint64_t moved_bytes = 1;
    options.vfs = "unix";
    assert_int_equal(machine_fold(&options, 1, &complete, &moved_bytes, &f.error), ERROR_NONE);
    assert_false(complete);
    assert_int_equal(moved_bytes, 0);
    assert_int_equal(unlink(copy), 0);
}

static void test_closing_leaves_a_held_file_alone(void **state) {
    (void)state;
    at(1);
    set("p", "k", "before");
    fixture_apply(&f);
    struct machine_snapshot snapshot;
    struct buffer config = {0};
    assert_int_equal(machine_snapshot_hold(f.machine, &snapshot, &config, &f.error), ERROR_NONE);
    at(2);
    set("p", "k", "after");
    fixture_apply(&f);
    uint64_t digest = machine_state(f.machine).digest;
    machine_close(f.machine);
    f.machine = NULL;
    struct machine_state verified;
    assert_int_equal(machine_verify(&f.options, true, &verified, &f.error), ERROR_NONE);
    assert_int_equal(verified.applied_index, 1);
    fixture_open(&f);
    fixture_expect(&f, "p", "k", "after");
    assert_true(machine_state(f.machine).digest == digest);
    buffer_free(&config);
}

static void test_verify_refuses_damaged_files(void **state) {
    (void)state;
    char staged[FIXTURE_PATH_SIZE];
    snprintf(staged, sizeof(staged), "%s/staged", f.directory);
    fill("p", 3000, slice_of("value"), 1, 500);
    uint64_t durable = 0;
    assert_int_equal(machine_checkpoint(f.machine, &durable, &f.error), ERROR_NONE);
    struct stat file;
    assert_int_equal(stat(f.path, &file), 0);
    struct machine_options options = f.options;
    options.path = staged;
    struct machine_state verified;
    uint64_t size = (uint64_t)file.st_size;
    assert_int_not_equal(machine_verify(&options, false, &verified, &f.error), ERROR_NONE);
    copy_bytes(f.path, staged, 0);
    assert_int_equal(machine_verify(&options, false, &verified, &f.error), ERROR_CORRUPT);
    copy_bytes(f.path, staged, size - 4096);
    assert_int_equal(machine_verify(&options, false, &verified, &f.error), ERROR_CORRUPT);
    copy_bytes(f.path, staged, size);
    assert_int_equal(machine_verify(&options, true, &verified, &f.error), ERROR_NONE);
    options.shard++;
    assert_int_equal(machine_verify(&options, false, &verified, &f.error), ERROR_MISMATCH);
    options.shard--;
    /* One flipped bit in any page of rows: cells fill a page from its end. */
    for (uint64_t page = 10; page < size / 4096; page += 7) {
        copy_bytes(f.path, staged, size);
        int fd = open(staged, O_RDWR);
        uint8_t byte;
        off_t offset = (off_t)(page * 4096 + 4090);
        assert_int_equal(pread(fd, &byte, 1, offset), 1);
        byte ^= 4;
        assert_int_equal(pwrite(fd, &byte, 1, offset), 1);
        close(fd);
        assert_int_equal(machine_verify(&options, true, &verified, &f.error), ERROR_CORRUPT);
    }
}

static void test_grouping_does_not_show_in_the_digest(void **state) {
    (void)state;
    enum { ENTRIES = 60 };
    struct buffer batches[ENTRIES] = {0};
    struct machine_entry entries[ENTRIES];
    for (unsigned i = 0; i < ENTRIES; i++) {
        batch_begin(&batches[i], 100 + 10 * i, 300);
        for (unsigned k = 0; k < 5; k++) {
            char key[8];
            snprintf(key, sizeof(key), "k%u", (i * 7 + k * 3) % 23);
            batch_set(&batches[i], k % 2 == 0 ? "p" : "q", slice_of(key), slice_of("value"), 0,
                      k == 3 ? COMMAND_EXPIRY_AFTER : COMMAND_EXPIRY_NONE, k == 3 ? 45 : 0);
        }
        if (i % 20 == 19) {
            batch_plain(&batches[i], COMMAND_CLEAR, "p");
        }
        entries[i] = entry_of(i + 1, MACHINE_COMMANDS, buffer_slice(&batches[i]));
    }
    uint64_t digests[3];
    static const unsigned groups[] = {1, 7, ENTRIES};
    for (unsigned g = 0; g < 3; g++) {
        teardown(NULL);
        setup(NULL);
        for (unsigned i = 0; i < ENTRIES; i += groups[g]) {
            unsigned n = i + groups[g] <= ENTRIES ? groups[g] : ENTRIES - i;
            assert_int_equal(machine_apply(f.machine, entries + i, n, NULL, NULL, &f.error),
                             ERROR_NONE);
        }
        digests[g] = machine_state(f.machine).digest;
        fixture_recount(&f);
    }
    assert_true(digests[0] != 0 && digests[0] == digests[1] && digests[1] == digests[2]);
    for (unsigned i = 0; i < ENTRIES; i++) {
        buffer_free(&batches[i]);
    }
}

static void test_the_digest_tells_states_apart(void **state) {
    (void)state;
    /* Key, value, expiry, project and quota each count, and nothing else does. */
    static const struct {
        const char *project, *key, *value;
        uint64_t expiry_ms, quota;
    } states[] = {{"p", "k", "v", 0, 100},  {"q", "k", "v", 0, 100}, {"p", "kv", "", 0, 100},
                  {"p", "l", "v", 0, 100},  {"p", "k", "w", 0, 100}, {"p", "k", "v", 9, 100},
                  {"p", "k", "v", 10, 100}, {"p", "k", "v", 0, 101}, {"p", "k", "v", 0, 100}};
    enum { STATES = sizeof(states) / sizeof(states[0]) };
    uint64_t digests[STATES];
    for (size_t i = 0; i < STATES; i++) {
        teardown(NULL);
        setup(NULL);
        batch_begin(&f.batch, 1, states[i].quota);
        batch_set(&f.batch, states[i].project, slice_of(states[i].key), slice_of(states[i].value),
                  0, states[i].expiry_ms != 0 ? COMMAND_EXPIRY_AT : COMMAND_EXPIRY_NONE,
                  states[i].expiry_ms);
        fixture_apply(&f);
        digests[i] = machine_state(f.machine).digest;
    }
    for (size_t i = 0; i < STATES; i++) {
        for (size_t k = i + 1; k < STATES; k++) {
            bool same = i == 0 && k == STATES - 1;
            assert_int_equal(digests[i] == digests[k], same);
        }
    }
}

static void test_many_projects(void **state) {
    (void)state;
    char name[32];
    for (unsigned i = 0; i < 3000; i++) {
        if (i % 100 == 0) {
            at(10);
        }
        snprintf(name, sizeof(name), "project-%u", i);
        batch_set(&f.batch, name, slice_of("k"), slice_of(name), 0, COMMAND_EXPIRY_AT,
                  1000 + (i * 7919) % 3000);
        if (i % 100 == 99) {
            fixture_apply(&f);
        }
    }
    fixture_reopen(&f);
    assert_int_equal(machine_state(f.machine).keys, 3000);
    fixture_expect(&f, "project-1234", "k", "project-1234");
    tick(2499, 2499, 1500);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, 2500);
    fixture_recount(&f);
    tick(4000, 4000, 0);
    fixture_recount(&f);
}

/* Commands of one key and a few numbers. */

static void put_command(enum command_kind kind, unsigned flags, const char *const *texts,
                        const uint64_t *numbers, const char *shape) {
    struct command command = {.kind = kind, .flags = (uint8_t)flags, .project = slice_of("p")};
    uint8_t bytes[4][8];
    struct slice args[4];
    uint32_t n = 0;
    for (uint32_t words = 0, count = 0; shape[n] != '\0'; n++) {
        if (shape[n] == 'n') {
            bytes_put_u64(bytes[n], numbers[count++]);
            args[n] = slice_make(bytes[n], 8);
        } else {
            args[n] = slice_of(texts[words++]);
        }
    }
    batch_add(&f.batch, &command, args, n);
}

static void add_float(const char *key, const char *increment, uint64_t limit) {
    const char *texts[] = {key, increment};
    put_command(COMMAND_INCREMENT_FLOAT, 0, texts, &limit, "kvn");
}

static void increment(const char *key, int64_t delta, uint64_t limit) {
    uint64_t numbers[] = {(uint64_t)delta, limit};
    put_command(COMMAND_INCREMENT, 0, &key, numbers, "knn");
}

static void test_floats_are_written_as_redis_does(void **state) {
    (void)state;
    static const struct {
        const char *increment;
        const char *sum;
    } steps[] = {{"0.1", "0.1"},   {"0.2", "0.3"}, {"-0.3", "0"},
                 {"5e3", "5000"},  {"-0", "5000"}, {"1e20", "100000000000000005000"},
                 {"-1e20", "5000"}};
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        at(1000);
        add_float("k", steps[i].increment, 1000);
        fixture_apply(&f);
        expect_bulk(0, steps[i].sum);
        fixture_expect(&f, "p", "k", steps[i].sum);
    }
    at(1000);
    set("p", "word", "x");
    add_float("word", "1", 1000);
    add_float("k", "inf", 1000);
    add_float("k", "0.25", 5);
    add_float("k", "1e4000", 1000);
    fixture_apply(&f);
    expect_error(1, ERROR_INVALID, "value is not a valid float");
    expect_error(2, ERROR_INVALID, "increment would produce NaN or Infinity");
    expect_error(3, ERROR_TOOBIG, "value of 7 bytes exceeds the limit of 5 bytes (max_value)");
    expect_result(4, RESULT_ERROR); /* 4001 digits */
    fixture_expect(&f, "p", "k", "5000");
    fixture_recount(&f);
}

static void test_results_keep_to_the_limit_of_their_command(void **state) {
    (void)state;
    const char *append[] = {"k", "56"};
    const char *patch[] = {"k", "x"};
    uint64_t five = 5;
    uint64_t six = 6;
    uint64_t far[] = {UINT64_MAX, UINT64_MAX};
    uint64_t at_five[] = {5, 5};
    at(1000);
    set("p", "k", "1234");
    put_command(COMMAND_APPEND, 0, append, &five, "kvn");
    put_command(COMMAND_SETRANGE, 0, patch, at_five, "knvn");
    put_command(COMMAND_SETRANGE, 0, patch, far, "knvn");
    increment("k", 99999, 5);
    put_command(COMMAND_APPEND, 0, append, &six, "kvn");
    fixture_apply(&f);
    expect_error(1, ERROR_TOOBIG, "value of 6 bytes exceeds the limit of 5 bytes (max_value)");
    expect_error(2, ERROR_TOOBIG, "value of 6 bytes exceeds the limit of 5 bytes (max_value)");
    /* The hard limit holds whatever the command says. */
    expect_error(3, ERROR_TOOBIG,
                 "value of 18446744073709551615 bytes exceeds the limit of 67108864 bytes "
                 "(max_value)");
    expect_error(4, ERROR_TOOBIG, "value of 6 bytes exceeds the limit of 5 bytes (max_value)");
    expect_result(5, RESULT_INTEGER);
    fixture_expect(&f, "p", "k", "123456");
    fixture_recount(&f);
}

static void expect_texts(const struct result *result, const char *const *texts, uint32_t n) {
    struct result wanted = {0};
    result_begin_array(&wanted, n);
    for (uint32_t i = 0; i < n; i++) {
        if (texts[i] != NULL) {
            result_add_bulk(&wanted, slice_of(texts[i]));
        } else {
            result_add_nil(&wanted);
        }
    }
    assert_int_equal(result->kind, RESULT_ARRAY);
    assert_true(slice_equal(buffer_slice(&result->data), buffer_slice(&wanted.data)));
    result_free(&wanted);
}

static void expect_inspect(uint64_t aspect, const char *key, const char *text, int64_t number) {
    uint8_t bytes[8];
    bytes_put_u64(bytes, aspect);
    struct slice args[] = {slice_of(key), slice_make(bytes, 8)};
    struct result result = fixture_read(&f, COMMAND_INSPECT, 0, "p", args, 2);
    if (text != NULL) {
        result_assert_bulk(&result, slice_of(text));
    } else {
        assert_int_equal(result.integer, number);
    }
    result_free(&result);
}

static void test_reads_of_values_and_keys(void **state) {
    (void)state;
    at(1000);
    set("p", "num", "123");
    set("p", "short", "abc");
    set("p", "long", "a value that is too long to be kept together with its object");
    set_with("timed", "x", 0, COMMAND_EXPIRY_AT, 5500);
    set("other", "num", "4");
    fixture_apply(&f);
    struct slice names[] = {slice_of("num"), slice_of("missing"), slice_of("num")};
    const char *values[] = {"123", NULL, "123"};
    struct result result = fixture_read(&f, COMMAND_GET_MANY, 0, "p", names, 3);
    expect_texts(&result, values, 3);
    result_free(&result);
    assert_int_equal(fixture_number(&f, COMMAND_STRLEN, 0, "p", "short"), 3);
    assert_int_equal(fixture_number(&f, COMMAND_STRLEN, 0, "p", "missing"), 0);
    assert_int_equal(fixture_number(&f, COMMAND_EXPIRETIME, 0, "p", "timed"), 5500);
    assert_int_equal(fixture_number(&f, COMMAND_EXPIRETIME, COMMAND_FLAG_ROUND_S, "p", "timed"), 6);
    assert_int_equal(fixture_number(&f, COMMAND_EXPIRETIME, 0, "p", "num"), -1);
    assert_int_equal(fixture_number(&f, COMMAND_EXPIRETIME, 0, "p", "missing"), -2);
    expect_inspect(COMMAND_ASPECT_ENCODING, "num", "int", 0);
    expect_inspect(COMMAND_ASPECT_ENCODING, "short", "embstr", 0);
    expect_inspect(COMMAND_ASPECT_ENCODING, "long", "raw", 0);
    expect_inspect(COMMAND_ASPECT_REFCOUNT, "num", NULL, 1);
    expect_inspect(COMMAND_ASPECT_IDLETIME, "num", NULL, 0);
    expect_inspect(COMMAND_ASPECT_MEMORY, "num", NULL, 6);
    static const struct {
        const char *pattern;
        const char *keys[4];
        uint32_t n;
    } patterns[] = {{"*", {"long", "num", "short", "timed"}, 4},
                    {"n*", {"num"}, 1},
                    {"?[ui]m*", {"num", "timed"}, 2},
                    {"num", {"num"}, 1},
                    {"", {NULL}, 0},
                    {"zz*", {NULL}, 0},
                    {"\\num", {"num"}, 1}};
    for (size_t i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++) {
        struct slice pattern = slice_of(patterns[i].pattern);
        result = fixture_read(&f, COMMAND_KEYS, 0, "p", &pattern, 1);
        expect_texts(&result, patterns[i].keys, patterns[i].n);
        result_free(&result);
    }
}

static void test_any_key_may_come_at_random(void **state) {
    (void)state;
    static const char *const keys[] = {"a",       "ab",      "abc",     "user:1",
                                       "user:22", "user:23", "\xff\xff"};
    enum { KEYS = sizeof(keys) / sizeof(keys[0]) };
    unsigned seen[KEYS] = {0};
    uint8_t seed[8] = {0};
    struct slice arg = slice_make(seed, 8);
    struct result none = fixture_read(&f, COMMAND_RANDOM_KEY, 0, "p", &arg, 1);
    assert_int_equal(none.kind, RESULT_NIL);
    at(1000);
    for (unsigned i = 0; i < KEYS; i++) {
        set("p", keys[i], "v");
    }
    fixture_apply(&f);
    for (uint64_t i = 0; i < 2000; i++) {
        bytes_put_u64(seed, i);
        struct result result = fixture_read(&f, COMMAND_RANDOM_KEY, 0, "p", &arg, 1);
        assert_int_equal(result.kind, RESULT_BULK);
        unsigned k = 0;
        while (k < KEYS && !slice_equal(buffer_slice(&result.data), slice_of(keys[k]))) {
            k++;
        }
        assert_true(k < KEYS);
        seen[k]++;
        result_free(&result);
    }
    for (unsigned k = 0; k < KEYS; k++) {
        assert_true(seen[k] > 0);
    }
}

/* SCAN. */

enum { SCAN_KEYS = 300 };

struct scan {
    uint64_t cursor;
    unsigned calls;
    unsigned seen[SCAN_KEYS];
};

/* One call; counts the keys "key-NNN" that it answers. */
static void scan_step(struct scan *scan, uint64_t count, const char *pattern) {
    uint8_t numbers[2][8];
    bytes_put_u64(numbers[0], scan->cursor);
    bytes_put_u64(numbers[1], count);
    struct slice args[] = {slice_make(numbers[0], 8), slice_make(numbers[1], 8), slice_of(pattern)};
    struct result result = fixture_read(&f, COMMAND_SCAN, 0, "p", args, 3);
    assert_int_equal(result.kind, RESULT_ARRAY);
    struct reader reader = reader_make(buffer_slice(&result.data));
    assert_int_equal(reader_u32(&reader), 2);
    assert_int_equal(reader_u8(&reader), RESULT_TAG_BULK);
    struct slice cursor = reader_bytes(&reader);
    char text[32] = {0};
    assert_true(cursor.size < sizeof text);
    memcpy(text, cursor.data, cursor.size);
    scan->cursor = strtoull(text, NULL, 10);
    assert_true(scan->cursor < UINT64_C(1) << 53);
    assert_int_equal(reader_u8(&reader), RESULT_TAG_ARRAY);
    uint32_t n = reader_u32(&reader);
    assert_true(n <= count);
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(reader_u8(&reader), RESULT_TAG_BULK);
        struct slice key = reader_bytes(&reader);
        memcpy(text, key.data, key.size);
        text[key.size] = '\0';
        unsigned number = (unsigned)strtoul(text + 4, NULL, 10);
        assert_true(number < SCAN_KEYS);
        scan->seen[number]++;
    }
    assert_true(reader_done(&reader));
    result_free(&result);
    scan->calls++;
}

static void make_scan_keys(void) {
    at(1000);
    for (unsigned i = 0; i < SCAN_KEYS; i++) {
        char key[16];
        snprintf(key, sizeof key, "key-%03u", i);
        set("p", key, "v");
    }
    fixture_apply(&f);
}

static void delete_key(unsigned number) {
    char key[16];
    snprintf(key, sizeof key, "key-%03u", number);
    struct slice name = slice_of(key);
    at(1000);
    batch_delete(&f.batch, "p", &name, 1);
    fixture_apply(&f);
}

static void test_a_scan_sees_each_key_once(void **state) {
    (void)state;
    struct scan empty = {0};
    scan_step(&empty, 10, "*");
    assert_true(empty.cursor == 0);
    make_scan_keys();
    for (uint64_t count = 1; count < 2 * SCAN_KEYS; count = 3 * count + 1) {
        struct scan scan = {0};
        do {
            scan_step(&scan, count, "*");
        } while (scan.cursor != 0);
        for (unsigned i = 0; i < SCAN_KEYS; i++) {
            assert_int_equal(scan.seen[i], 1);
        }
        assert_int_equal(scan.calls, (SCAN_KEYS + count - 1) / count);
    }
    struct scan matching = {0};
    do {
        scan_step(&matching, 7, "key-00[12]");
    } while (matching.cursor != 0);
    for (unsigned i = 0; i < SCAN_KEYS; i++) {
        assert_int_equal(matching.seen[i], i == 1 || i == 2);
    }
}

/* Between two calls the process may start anew, which forgets where scans stand, and keys may go,
 * among them the one that the cursor stands for. */
static void test_a_scan_misses_nothing_that_stays(void **state) {
    (void)state;
    make_scan_keys();
    struct scan scan = {0};
    bool deleted[SCAN_KEYS] = {0};
    do {
        scan_step(&scan, 10, "*");
        unsigned last = 0;
        for (unsigned i = 0; i < SCAN_KEYS; i++) {
            last = scan.seen[i] > 0 ? i : last;
        }
        if (scan.calls % 3 == 0) {
            fixture_reopen(&f);
        }
        /* With the table at hand; and twice without, so that the scan begins anew. */
        if (scan.cursor != 0 && (scan.calls % 3 == 1 || scan.calls == 6 || scan.calls == 12) &&
            !deleted[last]) {
            deleted[last] = true;
            delete_key(last);
        }
        assert_true(scan.calls < SCAN_KEYS);
    } while (scan.cursor != 0);
    bool repeated = false;
    for (unsigned i = 0; i < SCAN_KEYS; i++) {
        assert_true(scan.seen[i] > 0 || deleted[i]);
        repeated = repeated || scan.seen[i] > 1;
    }
    assert_true(repeated);
}

static void test_a_cursor_of_cleared_keys_begins_anew(void **state) {
    (void)state;
    make_scan_keys();
    struct scan scan = {0};
    scan_step(&scan, 200, "*");
    at(1000);
    batch_plain(&f.batch, COMMAND_CLEAR, "p");
    set("p", "key-001", "v");
    fixture_apply(&f);
    scan_step(&scan, 200, "*");
    assert_true(scan.cursor == 0);
    assert_int_equal(scan.seen[1], 2);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_digest_follows_the_published_hash),
        TEST(test_an_empty_machine_answers),
        TEST(test_values_are_set_read_and_deleted),
        TEST(test_an_empty_value_is_a_value),
        TEST(test_set_options),
        TEST(test_a_blocked_set_creates_no_project),
        TEST(test_expiry_counts_from_the_batch),
        TEST(test_set_replaces_or_keeps_the_expiry),
        TEST(test_a_set_in_the_past_deletes),
        TEST(test_an_expiry_out_of_range_is_refused),
        TEST(test_the_clock_never_runs_backwards),
        TEST(test_expired_rows_go_in_bounded_steps),
        TEST(test_a_step_is_bounded_in_bytes_too),
        TEST(test_cleared_rows_do_not_count_as_expired),
        TEST(test_next_expiry_is_exact),
        TEST(test_quota_refuses_growth_only),
        TEST(test_a_value_too_big_for_a_new_project_creates_none),
        TEST(test_values_change_between_inline_and_large),
        TEST(test_the_longest_key),
        TEST(test_clear_starts_a_new_epoch),
        TEST(test_clearing_many_keys_is_quick),
        TEST(test_every_entry_kind_moves_the_index),
        TEST(test_a_damaged_entry_changes_nothing),
        TEST(test_uncommitted_entries_can_be_read),
        TEST(test_reads_share_one_view),
        TEST(test_reads_stop_when_enough_is_gathered),
        TEST(test_the_file_belongs_to_one_shard),
        TEST(test_a_strange_file_is_refused),
        TEST(test_a_damaged_value_is_not_served),
        TEST(test_recount_finds_what_is_wrong),
        TEST(test_a_held_file_is_the_snapshot),
        TEST(test_a_fold_makes_durable_what_was_applied_before_it),
        TEST(test_closing_leaves_a_held_file_alone),
        TEST(test_verify_refuses_damaged_files),
        TEST(test_grouping_does_not_show_in_the_digest),
        TEST(test_the_digest_tells_states_apart),
        TEST(test_many_projects),
        TEST(test_floats_are_written_as_redis_does),
        TEST(test_results_keep_to_the_limit_of_their_command),
        TEST(test_reads_of_values_and_keys),
        TEST(test_any_key_may_come_at_random),
        TEST(test_a_scan_sees_each_key_once),
        TEST(test_a_scan_misses_nothing_that_stays),
        TEST(test_a_cursor_of_cleared_keys_begins_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
