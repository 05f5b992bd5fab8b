/* Exactly-once sessions in the state machine. */
#include "tests/unit/machine_fixture.h"

#include <inttypes.h>
#include <sqlite3.h>

#include "base/prng.h"
#include "tests/unit/faulty_vfs.h"
#include "tests/unit/transaction_builder.h"

enum { TTL_MS = 10000, START_MS = 1000000 };

static struct fixture f;
static uint64_t now_ms;

static int setup(void **state) {
    (void)state;
    fixture_make(&f);
    now_ms = START_MS;
    return 0;
}

static int teardown(void **state) {
    (void)state;
    fixture_destroy(&f);
    return 0;
}

/* Ids for sessions 0 to 65535; valid for a few calls. */
static struct slice id_of(unsigned session) {
    static uint8_t ids[8][COMMAND_SESSION_SIZE];
    static unsigned next;
    uint8_t *id = ids[next++ % 8];
    memset(id, 0xA5, COMMAND_SESSION_SIZE);
    bytes_put_u16(id + 7, (uint16_t)session);
    return slice_make(id, COMMAND_SESSION_SIZE);
}

static void begin(void) {
    batch_begin(&f.batch, now_ms, FIXTURE_QUOTA);
}

static void add_open(unsigned session, uint64_t ttl_ms) {
    uint8_t ttl[8];
    bytes_put_u64(ttl, ttl_ms);
    struct slice args[] = {id_of(session), slice_make(ttl, 8)};
    struct command command = {.kind = COMMAND_ONCE_OPEN, .project = slice_of("p")};
    batch_add(&f.batch, &command, args, 2);
}

static void add_close(unsigned session) {
    struct slice id = id_of(session);
    struct command command = {.kind = COMMAND_ONCE_CLOSE, .project = slice_of("p")};
    batch_add(&f.batch, &command, &id, 1);
}

static void add_once(struct buffer *batch, unsigned session, uint64_t sequence, uint64_t low,
                     const struct command *nested, const struct slice *nested_args,
                     uint32_t n_nested_args) {
    struct buffer encoded = {0};
    uint8_t numbers[2][8];
    command_encode(&encoded, nested, nested_args, n_nested_args);
    bytes_put_u64(numbers[0], sequence);
    bytes_put_u64(numbers[1], low);
    struct slice args[] = {id_of(session), slice_make(numbers[0], 8), slice_make(numbers[1], 8),
                           buffer_slice(&encoded)};
    struct command command = {.kind = COMMAND_ONCE, .project = nested->project};
    batch_add(batch, &command, args, 4);
    buffer_free(&encoded);
}

static void add_incr(struct buffer *batch, unsigned session, uint64_t sequence, uint64_t low,
                     const char *key) {
    uint8_t numbers[2][8];
    bytes_put_u64(numbers[0], 1);
    bytes_put_u64(numbers[1], 1 << 20);
    struct slice args[] = {slice_of(key), slice_make(numbers[0], 8), slice_make(numbers[1], 8)};
    struct command nested = {.kind = COMMAND_INCREMENT, .project = slice_of("p")};
    add_once(batch, session, sequence, low, &nested, args, 3);
}

/* SET with GET, so that the result has the size of the value before. */
static void add_swap(unsigned session, uint64_t sequence, const char *key, size_t size, char fill) {
    char *value = mem_alloc(size);
    memset(value, fill, size);
    struct slice args[] = {slice_of(key), slice_make(value, size)};
    struct command nested = {
        .kind = COMMAND_SET, .flags = COMMAND_FLAG_GET, .project = slice_of("p")};
    add_once(&f.batch, session, sequence, 0, &nested, args, 2);
    mem_free(value);
}

static void open_session(unsigned session, uint64_t ttl_ms) {
    begin();
    add_open(session, ttl_ms);
    fixture_apply(&f);
    assert_int_equal(f.results[0].kind, RESULT_BULK);
}

static const struct result *incr(unsigned session, uint64_t sequence, uint64_t low) {
    begin();
    add_incr(&f.batch, session, sequence, low, "n");
    fixture_apply(&f);
    assert_int_equal(f.n_results, 1);
    return &f.results[0];
}

static void expect_number(unsigned session, uint64_t sequence, uint64_t low, int64_t number) {
    const struct result *result = incr(session, sequence, low);
    assert_int_equal(result->kind, RESULT_INTEGER);
    assert_int_equal(result->integer, number);
}

static void expect_error(const struct result *result, enum error_code code) {
    assert_int_equal(result->kind, RESULT_ERROR);
    assert_int_equal(result->code, code);
}

static void expect_bulk(const struct result *result, size_t size, char fill) {
    assert_int_equal(result->kind, RESULT_BULK);
    assert_int_equal(result->data.size, size);
    for (size_t i = 0; i < size; i++) {
        assert_int_equal(result->data.data[i], fill);
    }
}

static void tick(uint64_t at_ms) {
    now_ms = at_ms;
    begin();
    fixture_apply(&f);
}

static void test_a_session_is_opened_and_closed(void **state) {
    (void)state;
    begin();
    add_open(7, TTL_MS);
    add_open(7, TTL_MS);
    add_open(8, LIMIT_ONCE_TTL_MIN_MS - 1);
    add_open(8, LIMIT_ONCE_TTL_MAX_MS + UINT64_C(1));
    add_close(8);
    fixture_apply(&f);
    result_assert_bulk(&f.results[0], slice_of("a5a5a5a5a5a5a50700a5a5a5a5a5a5a5"));
    for (unsigned i = 1; i < 4; i++) {
        expect_error(&f.results[i], ERROR_INVALID);
    }
    assert_int_equal(f.results[4].kind, RESULT_INTEGER);
    assert_int_equal(f.results[4].integer, 0);
    fixture_recount(&f);
    expect_number(7, 1, 0, 1);
    begin();
    add_close(7);
    add_close(7);
    fixture_apply(&f);
    assert_int_equal(f.results[0].integer, 1);
    assert_int_equal(f.results[1].integer, 0);
    expect_error(incr(7, 1, 0), ERROR_NOSESSION);
    expect_error(incr(7, 2, 0), ERROR_NOSESSION);
    fixture_expect(&f, "p", "n", "1");
    fixture_recount(&f);
    /* Opened and closed in one transaction: nothing is left of it. */
    begin();
    add_open(9, TTL_MS);
    add_incr(&f.batch, 9, 1, 0, "n");
    add_close(9);
    fixture_apply(&f);
    fixture_recount(&f);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, 0);
}

static void test_each_write_runs_once(void **state) {
    (void)state;
    open_session(1, TTL_MS);
    open_session(2, TTL_MS);
    expect_number(1, 5, 0, 1);
    expect_number(1, 2, 0, 2);
    expect_number(1, 300, 0, 3);
    expect_number(2, 5, 0, 4);
    for (unsigned round = 0; round < 2; round++) {
        expect_number(1, 300, 0, 3);
        expect_number(1, 5, 0, 1);
        expect_number(1, 2, 0, 2);
        expect_number(2, 5, 0, 4);
        fixture_reopen(&f);
    }
    /* The retry shares an entry, or a transaction, with the first attempt. */
    begin();
    add_incr(&f.batch, 1, 6, 0, "n");
    add_incr(&f.batch, 1, 6, 0, "n");
    fixture_apply(&f);
    assert_int_equal(f.results[0].integer, 5);
    assert_int_equal(f.results[1].integer, 5);
    fixture_expect(&f, "p", "n", "5");
    fixture_recount(&f);
}

static void test_errors_are_results(void **state) {
    (void)state;
    open_session(1, TTL_MS);
    begin();
    batch_set(&f.batch, "p", slice_of("n"), slice_of("text"), 0, COMMAND_EXPIRY_NONE, 0);
    fixture_apply(&f);
    expect_error(incr(1, 1, 0), ERROR_INVALID);
    begin();
    struct slice key = slice_of("n");
    batch_delete(&f.batch, "p", &key, 1);
    fixture_apply(&f);
    expect_error(incr(1, 1, 0), ERROR_INVALID);
    expect_number(1, 2, 0, 1);
    /* Quota: a project of its own that is full from the start. */
    struct slice args[] = {slice_of("k"), slice_of("value")};
    struct command set = {.kind = COMMAND_SET, .project = slice_of("q")};
    batch_begin(&f.batch, now_ms, 2);
    add_once(&f.batch, 1, 3, 0, &set, args, 2);
    fixture_apply(&f);
    expect_error(&f.results[0], ERROR_QUOTA);
    begin();
    add_once(&f.batch, 1, 3, 0, &set, args, 2);
    add_once(&f.batch, 1, 4, 0, &set, args, 2);
    fixture_apply(&f);
    expect_error(&f.results[0], ERROR_QUOTA);
    assert_int_equal(f.results[1].kind, RESULT_OK);
}

static void test_the_window_ends_somewhere(void **state) {
    (void)state;
    open_session(1, TTL_MS);
    expect_error(incr(1, 0, 0), ERROR_INVALID);
    expect_error(incr(1, UINT64_C(1) << 63, 0), ERROR_INVALID);
    expect_error(incr(1, 1 + LIMIT_ONCE_WINDOW, 0), ERROR_BUSY);
    expect_number(1, LIMIT_ONCE_WINDOW, 0, 1);
    expect_number(1, 1, 0, 2);
    expect_number(1, 2 + LIMIT_ONCE_WINDOW, 3, 3);
    expect_error(incr(1, 3 + LIMIT_ONCE_WINDOW, 0), ERROR_BUSY);
    expect_number(1, LIMIT_ONCE_WINDOW, 0, 1);
    expect_number(1, INT64_MAX, INT64_MAX, 4);
    expect_number(1, INT64_MAX, 0, 4);
    fixture_reopen(&f);
    expect_number(1, INT64_MAX, 0, 4);
    expect_error(incr(1, LIMIT_ONCE_WINDOW, 0), ERROR_FORGOTTEN);
    fixture_expect(&f, "p", "n", "4");
    fixture_recount(&f);
}

static void test_done_forgets(void **state) {
    (void)state;
    open_session(1, TTL_MS);
    begin();
    for (uint64_t i = 1; i <= 1000; i++) {
        add_incr(&f.batch, 1, i, 0, "n");
    }
    fixture_apply(&f);
    expect_error(incr(1, 400, 401), ERROR_INVALID);
    expect_number(1, 400, 400, 400); /* a retry may say DONE as well */
    expect_error(incr(1, 399, 0), ERROR_FORGOTTEN);
    expect_error(incr(1, 1, 0), ERROR_FORGOTTEN);
    expect_number(1, 400, 2, 400); /* it never goes back */
    expect_error(incr(1, 399, 2), ERROR_FORGOTTEN);
    fixture_reopen(&f);
    fixture_recount(&f);
    expect_error(incr(1, 399, 0), ERROR_FORGOTTEN);
    expect_number(1, 1000, 0, 1000);
    assert_int_equal(machine_state(f.machine).sessions, 1);
    assert_int_equal(machine_state(f.machine).session_bytes, 5 * 4096); /* 384 to 1000 */
    /* All of it in the transaction that made it. */
    begin();
    add_incr(&f.batch, 1, 2000, 0, "n");
    add_incr(&f.batch, 1, 2001, 2001, "n");
    fixture_apply(&f);
    assert_int_equal(f.results[1].integer, 1002);
    fixture_reopen(&f);
    fixture_recount(&f);
    expect_error(incr(1, 2000, 0), ERROR_FORGOTTEN);
    fixture_expect(&f, "p", "n", "1002");
}

/* A row may hold forgotten results until it is written for another reason. */
static void test_forgotten_results_do_not_come_back(void **state) {
    (void)state;
    open_session(1, TTL_MS);
    begin();
    for (uint64_t i = 1; i <= 5; i++) {
        add_swap(1, i, "k", 2000, 'a');
    }
    add_incr(&f.batch, 1, 6, 0, "n");
    fixture_apply(&f);
    expect_number(1, 500, 4, 2);
    uint64_t digest = machine_state(f.machine).digest;
    for (unsigned round = 0; round < 2; round++) {
        fixture_recount(&f);
        expect_error(incr(1, 3, 0), ERROR_FORGOTTEN);
        expect_number(1, 6, 0, 1);
        begin();
        add_swap(1, 5, "k", 1, 'z');
        fixture_apply(&f);
        expect_bulk(&f.results[0], 2000, 'a');
        fixture_reopen(&f);
        assert_true(machine_state(f.machine).digest == digest);
    }
    expect_number(1, 7, 0, 3); /* now it is written */
    fixture_reopen(&f);
    fixture_recount(&f);
    expect_number(1, 501, 501, 4);
    fixture_reopen(&f);
    fixture_recount(&f);
}

static void test_results_of_every_size_are_kept(void **state) {
    (void)state;
    static const size_t sizes[] = {0, 1, 2, 3, 200, 242, 243, 1024, 5000, 100000};
    enum { SIZES = sizeof(sizes) / sizeof(sizes[0]) };
    open_session(1, TTL_MS);
    begin();
    add_swap(1, 1, "k", 0, 'a');
    for (unsigned i = 0; i < SIZES; i++) {
        add_swap(1, 2 + i, "k", sizes[i], (char)('a' + i));
    }
    fixture_apply(&f);
    for (unsigned round = 0; round < 3; round++) {
        begin();
        for (unsigned i = 0; i < SIZES; i++) {
            add_swap(1, 2 + i, "k", 3, 'z');
        }
        fixture_apply(&f);
        expect_bulk(&f.results[0], 0, 'a');
        for (unsigned i = 1; i < SIZES; i++) {
            expect_bulk(&f.results[i], sizes[i - 1], (char)('a' + i - 1));
        }
        fixture_recount(&f);
        if (round == 0) {
            fixture_reopen(&f);
        }
    }
    expect_number(1, 2 + SIZES, 2 + SIZES, 1); /* forgets them, the large ones too */
    fixture_recount(&f);
    add_close(1);
    fixture_apply(&f);
    fixture_recount(&f);
}

static void test_sessions_expire_by_cluster_time(void **state) {
    (void)state;
    open_session(1, TTL_MS);
    expect_number(1, 1, 0, 1);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, START_MS + TTL_MS);
    now_ms = START_MS + TTL_MS / 2;
    expect_number(1, 1, 0, 1); /* half is left: not renewed */
    assert_int_equal(machine_state(f.machine).next_expiry_ms, START_MS + TTL_MS);
    now_ms++;
    expect_number(1, 1, 0, 1);
    uint64_t expires_at_ms = now_ms + TTL_MS;
    assert_int_equal(machine_state(f.machine).next_expiry_ms, expires_at_ms);
    fixture_reopen(&f);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, expires_at_ms);
    now_ms = expires_at_ms - 1;
    tick(now_ms);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, expires_at_ms);
    now_ms = expires_at_ms;
    expect_error(incr(1, 1, 0), ERROR_NOSESSION);
    expect_error(incr(1, 2, 0), ERROR_NOSESSION);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, 0);
    assert_int_equal(machine_state(f.machine).clock_ms, expires_at_ms);
    fixture_expect(&f, "p", "n", "1");
    fixture_recount(&f);
    /* A key that expires earlier is what the leader has to wake up for. */
    open_session(2, TTL_MS);
    begin();
    batch_set(&f.batch, "p", slice_of("k"), slice_of("v"), 0, COMMAND_EXPIRY_AFTER, 50);
    fixture_apply(&f);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, now_ms + 50);
    uint64_t session_ends_ms = now_ms + TTL_MS;
    tick(now_ms + 60);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, session_ends_ms);
    /* Time has an end; sessions stay within it. */
    tick(INT64_MAX - TTL_MS);
    open_session(3, TTL_MS);
    now_ms += TTL_MS - 1;
    expect_number(3, 1, 0, 2);
    begin();
    add_open(4, TTL_MS);
    fixture_apply(&f);
    expect_error(&f.results[0], ERROR_INVALID);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, INT64_MAX);
    fixture_reopen(&f);
    expect_number(3, 1, 0, 2);
}

/* Many expire at once: in steps, between which the clock stands still before the first of the rest.
 */
static void test_expiry_goes_in_steps(void **state) {
    (void)state;
    enum { SESSIONS = 5000 };
    begin();
    for (unsigned i = 0; i < SESSIONS; i++) {
        add_open(i, TTL_MS + i);
        add_incr(&f.batch, i, 1, 0, "n");
    }
    fixture_apply(&f);
    uint64_t late_ms = START_MS + 10 * TTL_MS;
    tick(late_ms);
    /* Each counts for its own row and that of a chunk. */
    uint64_t first_left_ms = START_MS + TTL_MS + MACHINE_PURGE_STEP / 2;
    assert_int_equal(machine_state(f.machine).clock_ms, first_left_ms - 1);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, first_left_ms);
    fixture_reopen(&f);
    fixture_recount(&f);
    begin(); /* the next step comes first, then the commands */
    add_incr(&f.batch, MACHINE_PURGE_STEP / 2, 1, 0, "n");
    add_incr(&f.batch, SESSIONS - 1, 1, 0, "n");
    fixture_apply(&f);
    expect_error(&f.results[0], ERROR_NOSESSION);
    assert_int_equal(f.results[1].integer, SESSIONS);
    assert_int_equal(machine_state(f.machine).clock_ms, START_MS + TTL_MS + MACHINE_PURGE_STEP - 1);
    tick(late_ms);
    assert_int_equal(machine_state(f.machine).clock_ms, late_ms);
    /* The one that was used in between lives on. */
    assert_int_equal(machine_state(f.machine).next_expiry_ms, late_ms + TTL_MS + SESSIONS - 1);
    expect_number(SESSIONS - 1, 1, 0, SESSIONS);
    fixture_recount(&f);
}

static void test_the_number_of_sessions_is_bounded(void **state) {
    (void)state;
    begin();
    for (unsigned i = 0; i < LIMIT_ONCE_SESSIONS + 1; i++) {
        add_open(i, TTL_MS);
    }
    fixture_apply(&f);
    assert_int_equal(f.results[LIMIT_ONCE_SESSIONS - 1].kind, RESULT_BULK);
    expect_error(&f.results[LIMIT_ONCE_SESSIONS], ERROR_BUSY);
    fixture_reopen(&f);
    begin();
    add_open(LIMIT_ONCE_SESSIONS, TTL_MS);
    add_close(11);
    add_open(LIMIT_ONCE_SESSIONS, TTL_MS);
    fixture_apply(&f);
    expect_error(&f.results[0], ERROR_BUSY);
    assert_int_equal(f.results[2].kind, RESULT_BULK);
    fixture_recount(&f);
}

static void test_the_results_of_a_session_are_bounded(void **state) {
    (void)state;
    enum { SIZE = 1024 * 1024 };
    open_session(1, TTL_MS);
    open_session(2, TTL_MS);
    begin();
    for (unsigned i = 0; i < 7; i++) {
        add_swap(1, 1 + i, "k", SIZE, (char)('a' + i));
    }
    fixture_apply(&f);
    /* The first result is nil; with the fourth value kept the bound is reached. */
    expect_bulk(&f.results[4], SIZE, 'd');
    expect_error(&f.results[5], ERROR_BUSY);
    expect_error(&f.results[6], ERROR_BUSY);
    begin();
    add_swap(1, 5, "k", SIZE, 'z'); /* a retry is answered all the same */
    add_swap(2, 1, "k", 1, 'y');    /* and so are other sessions */
    fixture_apply(&f);
    expect_bulk(&f.results[0], SIZE, 'd');
    expect_bulk(&f.results[1], SIZE, 'e');
    fixture_recount(&f);
    fixture_reopen(&f);
    expect_error(incr(1, 8, 0), ERROR_BUSY);
    expect_number(1, 8, 3, 1);
    fixture_recount(&f);
}

/* Results that lie far apart take a chunk each, and count for it. */
static void test_the_results_of_a_shard_are_bounded(void **state) {
    (void)state;
    enum { CHUNKS = LIMIT_ONCE_WINDOW / 128, SESSIONS = LIMIT_ONCE_SHARD_BYTES / 4096 / CHUNKS };
    for (unsigned s = 0; s <= SESSIONS; s++) {
        begin();
        add_open(s, TTL_MS);
        for (uint64_t i = 0; i < CHUNKS; i++) {
            add_incr(&f.batch, s, 1 + i * 128, 0, "n");
        }
        fixture_apply(&f);
        if (s == SESSIONS) {
            expect_error(&f.results[1], ERROR_BUSY);
            expect_error(&f.results[CHUNKS], ERROR_BUSY);
        } else {
            assert_int_equal(f.results[CHUNKS].kind, RESULT_INTEGER);
        }
    }
    begin();
    add_close(3);
    add_incr(&f.batch, SESSIONS, 1, 0, "n");
    fixture_apply(&f);
    assert_int_equal(f.results[1].integer, SESSIONS * CHUNKS + 1);
    fixture_recount(&f);
}

/* A busy session writes its rows once per transaction. */
static void test_a_transaction_writes_a_row_once(void **state) {
    (void)state;
    open_session(1, TTL_MS);
    uint64_t durable_index;
    assert_int_equal(machine_checkpoint(f.machine, &durable_index, &f.error), ERROR_NONE);
    begin();
    for (uint64_t i = 1; i <= 1024; i++) {
        add_incr(&f.batch, 1, i, i > 256 ? i - 256 : 0, "n");
    }
    fixture_apply(&f);
    assert_int_equal(f.results[1023].integer, 1024);
    /* 256 results of 27 bytes are left, in three rows; and the tables around them. */
    assert_in_range(machine_wal_bytes(f.machine), 4096, 20 * 4120);
    fixture_recount(&f);
}

/* Entries for two machines; each machine groups them in its own way. */
enum { ENTRIES = 200, SESSIONS = 5 };

static void make_entry(struct buffer *batch, struct prng *prng, uint64_t *time_ms) {
    *time_ms += prng_below(prng, 400);
    batch_begin(batch, *time_ms, FIXTURE_QUOTA);
    struct buffer whole = f.batch; /* the helpers add to f.batch */
    f.batch = *batch;
    for (uint64_t i = prng_below(prng, 30); i > 0; i--) {
        unsigned session = (unsigned)prng_below(prng, SESSIONS);
        uint64_t pick = prng_below(prng, 20);
        uint64_t sequence = *time_ms / 400 + prng_below(prng, 300);
        uint64_t low = prng_below(prng, 8) == 0 ? sequence - prng_below(prng, 200) : 0;
        char key[2] = {(char)('a' + prng_below(prng, 4)), '\0'};
        if (pick == 0) {
            add_open(session, 1000 + prng_below(prng, 4000));
        } else if (pick == 1 && prng_below(prng, 4) == 0) {
            add_close(session);
        } else if (pick < 5) {
            key[0] = 's';
            add_swap(session, sequence, key, prng_below(prng, 600), 'x');
        } else {
            add_incr(&f.batch, session, sequence, low, key);
        }
    }
    *batch = f.batch;
    f.batch = whole;
}

static void test_grouping_does_not_matter(void **state) {
    (void)state;
    static struct buffer batches[ENTRIES];
    static struct machine_entry entries[ENTRIES];
    struct prng prng;
    uint64_t time_ms = START_MS;
    prng_seed(&prng, 42);
    for (unsigned i = 0; i < ENTRIES; i++) {
        make_entry(&batches[i], &prng, &time_ms);
        entries[i] = (struct machine_entry){.index = i + 1,
                                            .term = 1,
                                            .kind = MACHINE_COMMANDS,
                                            .payload = buffer_slice(&batches[i])};
    }
    struct fixture other;
    fixture_make(&other);
    for (unsigned done = 0; done < ENTRIES;) {
        unsigned n = 1 + (unsigned)prng_below(&prng, 40);
        n = n < ENTRIES - done ? n : ENTRIES - done;
        assert_int_equal(machine_apply(f.machine, entries + done, n, fixture_collect, &f, &f.error),
                         ERROR_NONE);
        for (unsigned i = 0; i < n; i++) {
            assert_int_equal(machine_apply(other.machine, entries + done + i, 1, fixture_collect,
                                           &other, &other.error),
                             ERROR_NONE);
            if (prng_below(&prng, 10) == 0) {
                fixture_reopen(&other);
            }
        }
        done += n;
        assert_true(machine_state(f.machine).digest == machine_state(other.machine).digest);
        assert_int_equal(machine_state(f.machine).next_expiry_ms,
                         machine_state(other.machine).next_expiry_ms);
        fixture_recount(&f);
        fixture_recount(&other);
    }
    assert_int_equal(f.n_results, other.n_results);
    unsigned kinds[RESULT_RESULTS + 1] = {0};
    unsigned codes[ERROR_FORGOTTEN + 1] = {0};
    for (size_t i = 0; i < f.n_results; i++) {
        assert_int_equal(f.results[i].kind, other.results[i].kind);
        assert_int_equal(f.results[i].integer, other.results[i].integer);
        assert_true(
            slice_equal(buffer_slice(&f.results[i].data), buffer_slice(&other.results[i].data)));
        kinds[f.results[i].kind]++;
        codes[f.results[i].code]++;
    }
    assert_true(kinds[RESULT_INTEGER] > 100 && kinds[RESULT_BULK] > 100);
    assert_true(codes[ERROR_NOSESSION] > 100 && codes[ERROR_FORGOTTEN] > 0);
    fixture_destroy(&other);
    for (unsigned i = 0; i < ENTRIES; i++) {
        buffer_free(&batches[i]);
    }
}

static void test_a_snapshot_remembers(void **state) {
    (void)state;
    open_session(1, TTL_MS);
    begin();
    add_incr(&f.batch, 1, 1, 0, "n");
    add_swap(1, 2, "k", 2000, 'a');
    add_swap(1, 3, "k", 2000, 'b');
    fixture_apply(&f);
    struct machine_snapshot snapshot;
    struct buffer config = {0};
    assert_int_equal(machine_snapshot_hold(f.machine, &snapshot, &config, &f.error), ERROR_NONE);
    expect_number(1, 4, 4, 2); /* not part of it */
    char staged[2 * FIXTURE_PATH_SIZE];
    snprintf(staged, sizeof staged, "%s/staged", f.directory);
    FILE *from = fopen(f.path, "rb");
    FILE *to = fopen(staged, "wb");
    assert_non_null(from);
    assert_non_null(to);
    for (uint64_t i = 0; i < snapshot.size; i++) {
        assert_int_not_equal(fputc(fgetc(from), to), EOF);
    }
    assert_int_equal(fclose(from), 0);
    assert_int_equal(fclose(to), 0);
    machine_snapshot_release(f.machine);
    buffer_free(&config);
    struct machine_options options = f.options;
    options.path = staged;
    struct machine_state verified;
    assert_int_equal(machine_verify(&options, true, &verified, &f.error), ERROR_NONE);
    machine_close(f.machine);
    assert_int_equal(machine_replace(&f.options, staged, &f.error), ERROR_NONE);
    fixture_open(&f);
    expect_number(1, 1, 0, 1);
    begin();
    add_swap(1, 3, "k", 1, 'z');
    fixture_apply(&f);
    expect_bulk(&f.results[0], 2000, 'a');
    expect_number(1, 4, 0, 2);
    fixture_recount(&f);
}

/* A transaction is a write like others: it runs once, as a whole. */
static void test_a_transaction_runs_once(void **state) {
    (void)state;
    open_session(1, TTL_MS);
    uint8_t numbers[2][8];
    bytes_put_u64(numbers[0], 1);
    bytes_put_u64(numbers[1], 1 << 20);
    struct slice incr_args[] = {slice_of("n"), slice_make(numbers[0], 8),
                                slice_make(numbers[1], 8)};
    struct slice key = slice_of("n");
    const struct command increment = {.kind = COMMAND_INCREMENT, .project = slice_of("p")};
    const struct command get = {.kind = COMMAND_GET, .project = slice_of("p")};
    const struct command outer = {.kind = COMMAND_TRANSACTION, .project = slice_of("p")};
    struct transaction_builder builder = {0};
    builder_add(&builder, &increment, incr_args, 3);
    builder_add(&builder, &get, &key, 1);
    struct buffer transaction = builder_encode(&builder, &outer);
    bytes_put_u64(numbers[0], 9);
    bytes_put_u64(numbers[1], 0);
    struct slice args[] = {id_of(1), slice_make(numbers[0], 8), slice_make(numbers[1], 8),
                           buffer_slice(&transaction)};
    const struct command once = {.kind = COMMAND_ONCE, .project = slice_of("p")};
    for (unsigned i = 0; i < 3; i++) {
        begin();
        batch_add(&f.batch, &once, args, 4);
        fixture_apply(&f);
        assert_int_equal(f.results[0].kind, RESULT_RESULTS);
        struct reader reader = reader_make(buffer_slice(&f.results[0].data));
        assert_int_equal(reader_u32(&reader), 2);
        struct result first = {0};
        assert_int_equal(result_decode(reader_bytes(&reader), &first, &f.error), ERROR_NONE);
        assert_int_equal(first.integer, 1);
    }
    fixture_expect(&f, "p", "n", "1");
    fixture_recount(&f);
    buffer_free(&transaction);
}

static void add_token(uint64_t id, enum command_access access) {
    uint8_t numbers[2][8];
    static const uint8_t zeros[COMMAND_HASH_SIZE];
    bytes_put_u64(numbers[0], id);
    bytes_put_u64(numbers[1], access);
    struct slice args[] = {slice_make(numbers[0], 8), slice_make(numbers[1], 8),
                           slice_make(zeros, COMMAND_SALT_SIZE),
                           slice_make(zeros, COMMAND_HASH_SIZE)};
    struct command command = {.kind = COMMAND_TOKEN_ADD, .project = slice_of("p")};
    batch_add(&f.batch, &command, args, 4);
}

static const struct result *incr_as(uint64_t token, uint64_t sequence) {
    uint8_t numbers[4][8];
    const uint64_t values[] = {1, 1 << 20, sequence, 0};
    for (unsigned i = 0; i < 4; i++) {
        bytes_put_u64(numbers[i], values[i]);
    }
    struct slice incr_args[] = {slice_of("n"), slice_make(numbers[0], 8),
                                slice_make(numbers[1], 8)};
    struct command command = {.kind = COMMAND_INCREMENT, .project = slice_of("p"), .token = token};
    struct buffer nested = {0};
    command_encode(&nested, &command, incr_args, 3);
    struct slice args[] = {id_of(1), slice_make(numbers[2], 8), slice_make(numbers[3], 8),
                           buffer_slice(&nested)};
    command.kind = COMMAND_ONCE;
    begin();
    batch_add(&f.batch, &command, args, 4);
    fixture_apply(&f);
    buffer_free(&nested);
    return &f.results[0];
}

/* Whoever may not write is refused before the session is asked, and nothing is kept of that. */
static void test_tokens_come_first(void **state) {
    (void)state;
    enum { WRITER = 5, OTHER_WRITER = 6, READER = 7, UNKNOWN = 8 };
    uint8_t quota[8];
    bytes_put_u64(quota, FIXTURE_QUOTA);
    struct slice args[] = {slice_make(quota, 8)};
    struct command create = {.kind = COMMAND_PROJECT_CREATE, .project = slice_of("p")};
    begin();
    batch_add(&f.batch, &create, args, 1);
    add_token(WRITER, COMMAND_ACCESS_READWRITE);
    add_token(OTHER_WRITER, COMMAND_ACCESS_READWRITE);
    add_token(READER, COMMAND_ACCESS_READONLY);
    add_open(1, TTL_MS);
    fixture_apply(&f);
    expect_error(incr_as(READER, 1), ERROR_NOPERM);
    expect_error(incr_as(UNKNOWN, 1), ERROR_NOAUTH);
    assert_int_equal(incr_as(WRITER, 1)->integer, 1);
    assert_int_equal(incr_as(OTHER_WRITER, 1)->integer, 1);
    expect_error(incr_as(READER, 1), ERROR_NOPERM);
    assert_int_equal(incr_as(COMMAND_TOKEN_SERVICE, 2)->integer, 2);
    fixture_recount(&f);
}

/* Every write to the disk fails in turn; what was in memory comes back from the file. */
static void test_a_failed_transaction_leaves_no_trace(void **state) {
    (void)state;
    machine_close(f.machine);
    fixture_unlink(&f, "shard");
    f.options.vfs = "faulty";
    faulty_reset(f.path);
    fixture_open(&f);
    open_session(1, TTL_MS);
    open_session(2, TTL_MS);
    unsigned refused = 0;
    for (uint64_t round = 0; round < 12; round++) {
        faulty.failure_sticks = round % 2 == 0;
        begin();
        for (uint64_t i = 0; i < 50; i++) {
            add_incr(&f.batch, 1, 1 + round * 30 + i, 0, "n"); /* some are retries */
        }
        add_swap(1, 5000 + round, "k", 3000, 'a');
        add_incr(&f.batch, 1, 6000 + round, 1 + round * 30, "n");
        add_open(10 + (unsigned)round, TTL_MS);
        add_close(round == 6 ? 2 : 9 + (unsigned)round);
        for (long writes = 0;; writes++) {
            struct machine_state before = machine_state(f.machine);
            faulty.writes_left = writes;
            enum error_code code = fixture_try_apply(&f);
            faulty.writes_left = -1;
            if (code == ERROR_NONE) {
                break;
            }
            assert_int_equal(code, ERROR_NOSPACE);
            assert_true(machine_state(f.machine).digest == before.digest);
            assert_int_equal(machine_state(f.machine).next_expiry_ms, before.next_expiry_ms);
            fixture_recount(&f);
            refused++;
        }
        fixture_recount(&f);
    }
    assert_true(refused > 50);
    fixture_reopen(&f);
    fixture_recount(&f);
    fixture_expect(&f, "p", "n", "392"); /* 50 + 11 * 30 and one more in each round */
}

static void execute(const char *sql) {
    sqlite3 *handle = NULL;
    assert_int_equal(sqlite3_open(f.path, &handle), SQLITE_OK);
    assert_int_equal(sqlite3_exec(handle, sql, NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(handle), SQLITE_OK);
}

static void test_damage_is_noticed(void **state) {
    (void)state;
    static const char *const damages[] = {
        "UPDATE once_sessions SET low = 2",
        "UPDATE once_sessions SET low = 0",
        "UPDATE once_sessions SET ttl = ttl + 1",
        "UPDATE once_sessions SET expires_at = expires_at + 1",
        "UPDATE once_sessions SET id = x'00'",
        "UPDATE once_sessions SET number = number + 1",
        "INSERT INTO once_sessions (id, ttl, expires_at, low) "
        "SELECT id, ttl, expires_at, low FROM once_sessions",
        "DELETE FROM once_sessions",
        "DELETE FROM once_results",
        "UPDATE once_results SET chunk = chunk + 1",
        "UPDATE once_results SET results = x''",
        "UPDATE once_results SET results = substr(results, 1, length(results) - 1)",
        "UPDATE once_results SET results = results || substr(results, 1, 27)",
        "UPDATE once_results SET results = x'7f' || substr(results, 2)",
        "UPDATE once_results SET results = substr(results, 1, 13) || x'01' || substr(results, 15)",
        "INSERT INTO once_results (session, chunk, results) "
        "SELECT session, chunk, results FROM once_results",
    };
    open_session(1, TTL_MS);
    begin();
    add_incr(&f.batch, 1, 1, 0, "n");
    add_swap(1, 2, "k", 2000, 'a');
    add_swap(1, 3, "k", 2000, 'b');
    fixture_apply(&f);
    machine_close(f.machine);
    f.machine = NULL;
    for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
        execute("CREATE TABLE s AS SELECT * FROM once_sessions;"
                "CREATE TABLE r AS SELECT * FROM once_results");
        execute(damages[i]);
        enum error_code code = machine_open(&f.machine, &f.options, &f.error);
        if (code != ERROR_CORRUPT) {
            fail_msg("%s: %d", damages[i], (int)code);
        }
        execute("DELETE FROM once_sessions; DELETE FROM once_results;"
                "INSERT INTO once_sessions SELECT * FROM s; DROP TABLE s;"
                "INSERT INTO once_results SELECT * FROM r; DROP TABLE r");
    }
    /* Large results are looked at when they are asked for. */
    execute("UPDATE large SET value = zeroblob(length(value))");
    fixture_open(&f);
    assert_int_equal(machine_recount(f.machine, &f.error), ERROR_CORRUPT);
    begin();
    add_swap(1, 3, "k", 1, 'z');
    assert_int_equal(fixture_try_apply(&f), ERROR_CORRUPT);
}

int main(void) {
    struct prng prng;
    prng_seed(&prng, 1);
    faulty_register(&prng);
    const struct CMUnitTest tests[] = {
#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
        TEST(test_a_session_is_opened_and_closed),
        TEST(test_each_write_runs_once),
        TEST(test_errors_are_results),
        TEST(test_the_window_ends_somewhere),
        TEST(test_done_forgets),
        TEST(test_forgotten_results_do_not_come_back),
        TEST(test_results_of_every_size_are_kept),
        TEST(test_sessions_expire_by_cluster_time),
        TEST(test_expiry_goes_in_steps),
        TEST(test_the_number_of_sessions_is_bounded),
        TEST(test_the_results_of_a_session_are_bounded),
        TEST(test_the_results_of_a_shard_are_bounded),
        TEST(test_a_transaction_writes_a_row_once),
        TEST(test_grouping_does_not_matter),
        TEST(test_a_snapshot_remembers),
        TEST(test_a_transaction_runs_once),
        TEST(test_tokens_come_first),
        TEST(test_a_failed_transaction_leaves_no_trace),
        TEST(test_damage_is_noticed),
#undef TEST
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    for (int i = 0; i < FAULTY_FILES; i++) {
        faulty_forget(&faulty.files[i]);
        buffer_free(&faulty.files[i].durable);
    }
    return failed;
}
