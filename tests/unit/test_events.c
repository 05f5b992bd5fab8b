/* What a machine records of what applied entries did to keys. */
#include "node/jobs.h"
#include "tests/unit/machine_fixture.h"

#define START_MS UINT64_C(1000)

struct recorder {
    struct fixture f;
    struct machine_events events;
};

static int setup(void **state) {
    struct recorder *r = mem_zalloc(1, sizeof *r);
    fixture_make(&r->f);
    r->events.limit_bytes = 64 * 1024;
    machine_record_events(r->f.machine, &r->events);
    *state = r;
    return 0;
}

static int teardown(void **state) {
    struct recorder *r = *state;
    machine_events_free(&r->events);
    fixture_destroy(&r->f);
    mem_free(r);
    return 0;
}

/* One line per event: "index project kind key". */
static char *listing(const struct machine_events *events) {
    static const char *const names[] = {"?",      "set",     "del",   "expired",
                                        "expire", "persist", "clear", "revoked"};
    static char text[16 * 1024];
    size_t size = 0;
    struct machine_event_cursor cursor = {0};
    struct machine_event event;
    text[0] = '\0';
    while (machine_event_next(buffer_slice(&events->bytes), &cursor, &event)) {
        assert_true(event.kind < sizeof names / sizeof names[0]);
        size += (size_t)snprintf(text + size, sizeof text - size, "%llu %.*s %s %.*s\n",
                                 (unsigned long long)event.index, (int)event.project.size,
                                 (const char *)event.project.data, names[event.kind],
                                 (int)event.key.size, (const char *)event.key.data);
        assert_true(size < sizeof text);
    }
    return text;
}

static void begin(struct recorder *r, uint64_t time_ms) {
    batch_begin(&r->f.batch, time_ms, FIXTURE_QUOTA);
}

static void add_set(struct recorder *r, const char *project, const char *key) {
    batch_set(&r->f.batch, project, slice_of(key), slice_of("v"), 0, COMMAND_EXPIRY_NONE, 0);
}

static void add_expire(struct recorder *r, const char *project, const char *key, uint64_t ms) {
    struct command command = {.kind = COMMAND_EXPIRE,
                              .expiry_mode = COMMAND_EXPIRY_AFTER,
                              .expiry_ms = ms,
                              .project = slice_of(project)};
    struct slice args[] = {slice_of(key)};
    batch_add(&r->f.batch, &command, args, 1);
}

static void add_plain(struct recorder *r, enum command_kind kind, const char *first,
                      const char *second) {
    struct command command = {.kind = kind, .project = slice_of("p")};
    struct slice args[] = {slice_of(first), slice_of(second != NULL ? second : "")};
    batch_add(&r->f.batch, &command, args, second != NULL ? 2 : 1);
}

static void test_each_kind(void **state) {
    struct recorder *r = *state;
    begin(r, START_MS);
    add_set(r, "p", "a");
    add_set(r, "p", "b");
    add_set(r, "p", "c");
    fixture_apply(&r->f);
    begin(r, START_MS);
    add_plain(r, COMMAND_DELETE, "a", "none");
    add_expire(r, "p", "b", 500);
    add_expire(r, "p", "none", 500);
    add_plain(r, COMMAND_PERSIST, "b", NULL);
    add_plain(r, COMMAND_PERSIST, "b", NULL); /* has none: nothing happens */
    fixture_apply(&r->f);
    begin(r, START_MS);
    add_plain(r, COMMAND_RENAME, "b", "d");
    add_plain(r, COMMAND_COPY, "d", "e");
    add_plain(r, COMMAND_GETDEL, "e", NULL);
    add_expire(r, "p", "d", 0); /* at once: a deletion */
    add_expire(r, "p", "c", 1000);
    fixture_apply(&r->f);
    begin(r, START_MS + 1000);
    add_set(r, "p", "late");
    fixture_apply(&r->f);
    begin(r, START_MS + 1000);
    batch_plain(&r->f.batch, COMMAND_CLEAR, "p");
    batch_plain(&r->f.batch, COMMAND_CLEAR, "p"); /* empty: nothing happens */
    batch_plain(&r->f.batch, COMMAND_FENCE, "p");
    fixture_apply(&r->f);
    assert_string_equal(listing(&r->events), "1 p set a\n"
                                             "1 p set b\n"
                                             "1 p set c\n"
                                             "2 p del a\n"
                                             "2 p expire b\n"
                                             "2 p persist b\n"
                                             "3 p set d\n"
                                             "3 p del b\n"
                                             "3 p set e\n"
                                             "3 p del e\n"
                                             "3 p del d\n"
                                             "3 p expire c\n"
                                             "4 p expired c\n"
                                             "4 p set late\n"
                                             "5 p clear \n");
}

/* A project that is deleted takes its keys along, as a clear does. */
static void test_project_deletion(void **state) {
    struct recorder *r = *state;
    begin(r, START_MS);
    add_set(r, "p", "a");
    batch_plain(&r->f.batch, COMMAND_PROJECT_DELETE, "p");
    add_set(r, "p", "b");
    fixture_apply(&r->f);
    assert_string_equal(listing(&r->events), "1 p set a\n1 p clear \n1 p set b\n");
}

/* A token that goes, whatever the reason. */
static void add_token(struct recorder *r, uint64_t id, uint64_t life_ms) {
    uint8_t numbers[2][8];
    uint8_t salt[16] = {0}, hash[32] = {0};
    bytes_put_u64(numbers[0], id);
    bytes_put_u64(numbers[1], COMMAND_ACCESS_READWRITE);
    struct command command = {.kind = COMMAND_TOKEN_ADD,
                              .expiry_mode =
                                  life_ms > 0 ? COMMAND_EXPIRY_AFTER : COMMAND_EXPIRY_NONE,
                              .expiry_ms = life_ms,
                              .project = slice_of("p")};
    struct slice args[] = {slice_make(numbers[0], 8), slice_make(numbers[1], 8),
                           slice_make(salt, sizeof salt), slice_make(hash, sizeof hash)};
    batch_add(&r->f.batch, &command, args, 4);
}

static void test_tokens(void **state) {
    struct recorder *r = *state;
    struct command revoke = {.kind = COMMAND_TOKEN_REVOKE, .project = slice_of("p")};
    struct slice number = slice_make("22222222", 8);
    uint64_t second = bytes_get_u64(number.data);
    begin(r, START_MS);
    add_set(r, "p", "a");
    add_token(r, bytes_get_u64("11111111"), 100);
    add_token(r, second, 0);
    add_token(r, bytes_get_u64("33333333"), 0);
    fixture_apply(&r->f);
    begin(r, START_MS);
    batch_add(&r->f.batch, &revoke, &number, 1);
    fixture_apply(&r->f);
    begin(r, START_MS + 100);
    fixture_apply(&r->f);
    begin(r, START_MS + 100);
    batch_plain(&r->f.batch, COMMAND_PROJECT_DELETE, "p");
    fixture_apply(&r->f);
    assert_string_equal(listing(&r->events), "1 p set a\n2 p revoked 22222222\n"
                                             "3 p revoked 11111111\n4 p clear \n"
                                             "4 p revoked 33333333\n");
}

/* A name that has the same start, the same size or the same id as another one. */
static void test_projects(void **state) {
    struct recorder *r = *state;
    begin(r, START_MS);
    add_set(r, "p", "1");
    add_set(r, "q", "2");
    add_set(r, "qq", "3");
    add_set(r, "qq", "4");
    fixture_apply(&r->f);
    begin(r, START_MS);
    add_set(r, "qq", "5");
    fixture_apply(&r->f);
    assert_string_equal(listing(&r->events), "1 p set 1\n1 q set 2\n1 qq set 3\n1 qq set 4\n"
                                             "2 qq set 5\n");
}

static struct machine_entry *entries_of(struct buffer *batches, unsigned n) {
    struct machine_entry *entries = mem_zalloc(n, sizeof *entries);
    for (unsigned i = 0; i < n; i++) {
        entries[i] = (struct machine_entry){.index = i + 1,
                                            .term = 1,
                                            .kind = MACHINE_COMMANDS,
                                            .payload = buffer_slice(&batches[i])};
    }
    return entries;
}

/* Some entries with sets, deletions and expiries in two projects. */
static void make_batches(struct recorder *r, struct buffer *batches, unsigned n) {
    for (unsigned i = 0; i < n; i++) {
        char key[16], other[16];
        snprintf(key, sizeof key, "k%u", i % 7);
        snprintf(other, sizeof other, "k%u", (i + 3) % 7);
        begin(r, START_MS + 10 * i);
        add_set(r, i % 3 == 0 ? "p" : "q", key);
        add_expire(r, "q", other, 15);
        add_plain(r, COMMAND_DELETE, other, NULL);
        batches[i] = r->f.batch;
        r->f.batch = (struct buffer){0};
    }
}

/* The same entries give the same events, one by one and all in one transaction. */
static void test_grouping_does_not_matter(void **state) {
    enum { N = 40 };
    struct recorder *r = *state;
    struct buffer batches[N] = {0};
    make_batches(r, batches, N);
    struct machine_entry *entries = entries_of(batches, N);
    assert_int_equal(machine_apply(r->f.machine, entries, N, NULL, NULL, &r->f.error), ERROR_NONE);
    char *whole = mem_strdup(listing(&r->events));
    assert_non_null(strstr(whole, " q expired "));

    void *other_state;
    setup(&other_state);
    struct recorder *other = other_state;
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(
            machine_apply(other->f.machine, &entries[i], 1, NULL, NULL, &other->f.error),
            ERROR_NONE);
    }
    assert_string_equal(listing(&other->events), whole);
    teardown(&other_state);
    mem_free(whole);
    mem_free(entries);
    for (unsigned i = 0; i < N; i++) {
        buffer_free(&batches[i]);
    }
}

/* What a failed transaction recorded vanishes, what came before it stays, and it goes on well. */
static void test_rollback(void **state) {
    struct recorder *r = *state;
    begin(r, START_MS);
    add_set(r, "p", "a");
    fixture_apply(&r->f);
    struct buffer good = {0};
    begin(r, START_MS);
    add_set(r, "q", "b");
    buffer_append_slice(&good, buffer_slice(&r->f.batch));
    struct machine_entry entries[2] = {
        {.index = 2, .term = 1, .kind = MACHINE_COMMANDS, .payload = buffer_slice(&good)},
        {.index = 3, .term = 1, .kind = MACHINE_COMMANDS, .payload = slice_of("damaged")}};
    assert_int_not_equal(machine_apply(r->f.machine, entries, 2, NULL, NULL, &r->f.error),
                         ERROR_NONE);
    assert_string_equal(listing(&r->events), "1 p set a\n");
    assert_int_equal(machine_apply(r->f.machine, entries, 1, NULL, NULL, &r->f.error), ERROR_NONE);
    assert_string_equal(listing(&r->events), "1 p set a\n2 q set b\n");
    buffer_free(&good);
}

/* Entries that are applied once more, since the state fell back, were told before. */
static void test_entries_applied_again(void **state) {
    struct recorder *r = *state;
    r->events.after = 2;
    for (unsigned i = 1; i <= 3; i++) {
        char key[8];
        snprintf(key, sizeof key, "%u", i);
        begin(r, START_MS);
        add_set(r, "p", key);
        fixture_apply(&r->f);
    }
    assert_string_equal(listing(&r->events), "3 p set 3\n");
}

static void test_limit(void **state) {
    struct recorder *r = *state;
    r->events.limit_bytes = 100;
    assert_false(machine_events_any(&r->events));
    begin(r, START_MS);
    add_set(r, "p", "a");
    fixture_apply(&r->f);
    assert_true(machine_events_any(&r->events));
    assert_false(r->events.lost);
    begin(r, START_MS);
    for (unsigned i = 0; i < 20; i++) {
        add_set(r, "p", "b");
    }
    fixture_apply(&r->f);
    assert_true(r->events.lost);
    assert_int_equal(r->events.bytes.size, 0);
    assert_true(machine_events_any(&r->events));
}

/* A job hands the events over when they are wanted, and the machine records no more after it. */
static void test_job(void **state) {
    struct recorder *r = *state;
    machine_record_events(r->f.machine, NULL);
    for (unsigned i = 0; i < 2; i++) {
        begin(r, START_MS);
        add_set(r, "p", i == 0 ? "told" : "untold");
        struct job *job = job_new(JOB_APPLY, 0, NULL, NULL);
        job->entries = mem_zalloc(1, sizeof *job->entries);
        job->n_entries = 1;
        job->entries[0] = (struct job_entry){.index = i + 1,
                                             .term = 1,
                                             .kind = MACHINE_COMMANDS,
                                             .payload = payload_copy(buffer_slice(&r->f.batch))};
        job->events.limit_bytes = i == 0 ? 4096 : 0;
        job_run(job, &r->f.machine, &r->f.options);
        assert_int_equal(job->code, ERROR_NONE);
        assert_string_equal(listing(&job->events), i == 0 ? "1 p set told\n" : "");
        job_free(job);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_each_kind, setup, teardown),
        cmocka_unit_test_setup_teardown(test_project_deletion, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tokens, setup, teardown),
        cmocka_unit_test_setup_teardown(test_projects, setup, teardown),
        cmocka_unit_test_setup_teardown(test_grouping_does_not_matter, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rollback, setup, teardown),
        cmocka_unit_test_setup_teardown(test_entries_applied_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_limit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_job, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
