/* Transactions in the state machine. */
#include "tests/unit/machine_fixture.h"

#include "base/limits.h"
#include "tests/unit/transaction_builder.h"

static struct fixture f;
static struct transaction_builder builder;

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

static void at(uint64_t time_ms) {
    batch_begin(&f.batch, time_ms, FIXTURE_QUOTA);
}

static void set(const char *key, const char *value) {
    batch_set(&f.batch, "p", slice_of(key), slice_of(value), 0, COMMAND_EXPIRY_NONE, 0);
}

static void add_with(struct command command, const char *first, const char *second) {
    struct slice args[] = {slice_of(first), slice_of(second != NULL ? second : "")};
    command.project = slice_of("p");
    builder_add(&builder, &command, args, first[0] == '\0' ? 0 : second != NULL ? 2 : 1);
}

/* A nested command of up to two arguments. */
static void add(enum command_kind kind, const char *first, const char *second) {
    add_with((struct command){.kind = kind}, first, second);
}

static void add_increment(const char *key) {
    static const uint8_t one[] = {1, 0, 0, 0, 0, 0, 0, 0};
    static const uint8_t limit[] = {0, 1, 0, 0, 0, 0, 0, 0};
    struct slice args[] = {slice_of(key), slice_make(one, 8), slice_make(limit, 8)};
    struct command command = {.kind = COMMAND_INCREMENT, .project = slice_of("p")};
    builder_add(&builder, &command, args, 3);
}

/* Puts the transaction into the batch. */
static void put_transaction(void) {
    struct command outer = {.kind = COMMAND_TRANSACTION, .project = slice_of("p")};
    struct buffer bytes = builder_encode(&builder, &outer);
    struct command_origin origin = {1, 2, 3};
    command_batch_add(&f.batch, origin, buffer_slice(&bytes));
    buffer_free(&bytes);
}

static void apply_transaction_at(uint64_t time_ms) {
    at(time_ms);
    put_transaction();
    fixture_apply(&f);
}

static struct result read_transaction(void) {
    struct command outer = {.kind = COMMAND_READ_TRANSACTION, .project = slice_of("p")};
    struct buffer bytes = builder_encode(&builder, &outer);
    struct command command;
    assert_int_equal(command_decode(buffer_slice(&bytes), &command, &f.error), ERROR_NONE);
    struct result result;
    unsigned n_done = 0;
    assert_int_equal(machine_read(f.machine, &command, 1, &result, &n_done, &f.error), ERROR_NONE);
    buffer_free(&bytes);
    return result;
}

/* The i-th element of a transaction's result. */
static struct result_view element(const struct result *result, uint32_t at_index) {
    assert_int_equal(result->kind, RESULT_RESULTS);
    struct reader reader = reader_make(buffer_slice(&result->data));
    assert_true(at_index < reader_u32(&reader));
    struct result_view view = {0};
    for (uint32_t i = 0; i <= at_index; i++) {
        view = result_next(&reader);
    }
    return view;
}

static void expect_element(uint32_t i, enum result_kind kind, int64_t integer, const char *data) {
    struct result_view view = element(&f.results[0], i);
    assert_int_equal(view.kind, kind);
    assert_int_equal(view.integer, integer);
    assert_true(slice_equal(view.data, slice_of(data)));
}

static void expect_count(const struct result *result, uint32_t count) {
    assert_int_equal(result->kind, RESULT_RESULTS);
    assert_int_equal(bytes_get_u32(result->data.data), count);
}

static uint64_t version(const char *key) {
    struct slice arg = slice_of(key);
    struct result result = fixture_read(&f, COMMAND_VERSIONS, 0, "p", &arg, 1);
    assert_int_equal(result.kind, RESULT_INTEGERS);
    assert_int_equal(result.data.size, 8);
    uint64_t found = bytes_get_u64(result.data.data);
    result_free(&result);
    return found;
}

static void test_all_is_carried_out_in_order(void **state) {
    (void)state;
    add(COMMAND_SET, "a", "1");
    add(COMMAND_GET, "a", NULL);
    add_increment("a");
    add(COMMAND_GET, "a", NULL);
    add(COMMAND_GETDEL, "missing", NULL);
    add(COMMAND_DBSIZE, "", NULL);
    add(COMMAND_DELETE, "a", "b");
    add(COMMAND_EXISTS, "a", NULL);
    apply_transaction_at(1);
    assert_int_equal(f.n_results, 1);
    expect_count(&f.results[0], 8);
    expect_element(0, RESULT_OK, 0, "");
    expect_element(1, RESULT_BULK, 0, "1");
    expect_element(2, RESULT_INTEGER, 2, "");
    expect_element(3, RESULT_BULK, 0, "2");
    expect_element(4, RESULT_NIL, 0, "");
    expect_element(5, RESULT_INTEGER, 1, "");
    expect_element(6, RESULT_INTEGER, 1, "");
    expect_element(7, RESULT_INTEGER, 0, "");
    fixture_recount(&f);
}

static void test_an_error_stops_nothing(void **state) {
    (void)state;
    at(1);
    set("text", "abc");
    fixture_apply(&f);
    add(COMMAND_SET, "a", "1");
    add_increment("text");
    add(COMMAND_SET, "b", "2");
    add(COMMAND_RENAME, "missing", "c");
    apply_transaction_at(2);
    expect_element(0, RESULT_OK, 0, "");
    expect_element(1, RESULT_ERROR, 0, "value is not an integer or out of range");
    expect_element(2, RESULT_OK, 0, "");
    expect_element(3, RESULT_ERROR, 0, "no such key");
    fixture_expect(&f, "p", "a", "1");
    fixture_expect(&f, "p", "b", "2");
    fixture_expect(&f, "p", "text", "abc");
}

static void test_a_changed_key_prevents_it(void **state) {
    (void)state;
    at(1);
    set("a", "1");
    fixture_apply(&f);
    at(1);
    set("b", "1");
    fixture_apply(&f);
    assert_int_equal(version("a"), 1);
    assert_int_equal(version("b"), 2);
    assert_int_equal(version("missing"), 0);

    builder_watch(&builder, slice_of("a"), 1);
    builder_watch(&builder, slice_of("b"), 2);
    builder_watch(&builder, slice_of("missing"), 0);
    add(COMMAND_SET, "a", "2");
    apply_transaction_at(2);
    expect_count(&f.results[0], 1);
    fixture_expect(&f, "p", "a", "2");

    /* "a" has changed, by that transaction. */
    builder_watch(&builder, slice_of("b"), 2);
    builder_watch(&builder, slice_of("a"), 1);
    add(COMMAND_SET, "a", "3");
    add(COMMAND_SET, "new", "3");
    uint64_t digest = machine_state(f.machine).digest;
    apply_transaction_at(3);
    assert_int_equal(f.results[0].kind, RESULT_NIL);
    fixture_expect(&f, "p", "a", "2");
    fixture_expect(&f, "p", "new", NULL);
    assert_true(machine_state(f.machine).digest == digest);
}

static void test_a_created_or_deleted_key_has_changed(void **state) {
    (void)state;
    at(1);
    set("a", "1");
    fixture_apply(&f);
    builder_watch(&builder, slice_of("a"), 0);
    add(COMMAND_SET, "b", "1");
    apply_transaction_at(2);
    assert_int_equal(f.results[0].kind, RESULT_NIL);

    struct slice key = slice_of("a");
    at(3);
    batch_delete(&f.batch, "p", &key, 1);
    set("a", "1");
    fixture_apply(&f);
    /* Deleted and written again: the same value, another version. */
    builder_watch(&builder, key, 1);
    add(COMMAND_SET, "b", "1");
    apply_transaction_at(4);
    assert_int_equal(f.results[0].kind, RESULT_NIL);

    at(5);
    batch_plain(&f.batch, COMMAND_CLEAR, "p");
    fixture_apply(&f);
    builder_watch(&builder, key, 3);
    add(COMMAND_SET, "b", "1");
    apply_transaction_at(6);
    assert_int_equal(f.results[0].kind, RESULT_NIL);
    fixture_expect(&f, "p", "b", NULL);
}

static void test_an_expired_key_has_changed(void **state) {
    (void)state;
    at(1000);
    batch_set(&f.batch, "p", slice_of("a"), slice_of("1"), 0, COMMAND_EXPIRY_AFTER, 500);
    fixture_apply(&f);
    builder_watch(&builder, slice_of("a"), 1);
    add(COMMAND_SET, "b", "1");
    apply_transaction_at(1499);
    expect_count(&f.results[0], 1);
    builder_watch(&builder, slice_of("a"), 1);
    add(COMMAND_SET, "b", "2");
    apply_transaction_at(1500);
    assert_int_equal(f.results[0].kind, RESULT_NIL);
    fixture_expect(&f, "p", "b", "1");
}

/* What stands before it in the same entry was not seen by the client that watched. */
static void test_a_write_of_the_same_entry_prevents_it(void **state) {
    (void)state;
    at(1);
    set("a", "1");
    fixture_apply(&f);
    at(2);
    set("a", "2");
    builder_watch(&builder, slice_of("a"), 1);
    add(COMMAND_SET, "a", "3");
    put_transaction();
    set("z", "1");
    fixture_apply(&f);
    assert_int_equal(f.results[1].kind, RESULT_NIL);
    fixture_expect(&f, "p", "a", "2");
    fixture_expect(&f, "p", "z", "1");
}

static void test_times_are_those_of_the_entry(void **state) {
    (void)state;
    add_with((struct command){.kind = COMMAND_SET,
                              .expiry_mode = COMMAND_EXPIRY_AFTER,
                              .expiry_ms = 500},
             "a", "1");
    add(COMMAND_PTTL, "a", NULL);
    add_with(
        (struct command){.kind = COMMAND_SET, .expiry_mode = COMMAND_EXPIRY_AT, .expiry_ms = 9000},
        "b", "1");
    add(COMMAND_EXISTS, "b", NULL);
    apply_transaction_at(9000);
    expect_element(0, RESULT_OK, 0, "");
    expect_element(1, RESULT_INTEGER, 500, "");
    expect_element(2, RESULT_OK, 0, "");
    expect_element(3, RESULT_INTEGER, 0, "");
    assert_int_equal(machine_state(f.machine).next_expiry_ms, 9500);
}

static void test_the_quota_is_that_of_each_command(void **state) {
    (void)state;
    add(COMMAND_SET, "a", "12345");
    add(COMMAND_SET, "b", "12345");
    add(COMMAND_DELETE, "a", NULL);
    add(COMMAND_SET, "b", "12345");
    batch_begin(&f.batch, 1, 8);
    put_transaction();
    fixture_apply(&f);
    expect_element(0, RESULT_OK, 0, "");
    assert_int_equal(element(&f.results[0], 1).code, ERROR_QUOTA);
    expect_element(2, RESULT_INTEGER, 1, "");
    expect_element(3, RESULT_OK, 0, "");
    fixture_expect(&f, "p", "a", NULL);
    fixture_expect(&f, "p", "b", "12345");
    assert_int_equal(machine_state(f.machine).used_bytes, 6);
    fixture_recount(&f);
}

static void set_large(const char *key, size_t size) {
    uint8_t *value = mem_zalloc(size, 1);
    at(1);
    batch_set(&f.batch, "p", slice_of(key), slice_make(value, size), 0, COMMAND_EXPIRY_NONE, 0);
    fixture_apply(&f);
    mem_free(value);
}

/* A write that answers more than there is room for is not carried out: nothing gets lost. */
static void test_answers_are_bounded(void **state) {
    (void)state;
    const size_t size = 25 * MIB;
    set_large("a", size);
    set_large("b", size);
    set_large("c", size);
    add(COMMAND_GETDEL, "a", NULL);
    add(COMMAND_GET, "b", NULL);
    add(COMMAND_GETDEL, "c", NULL);
    add(COMMAND_GET, "c", NULL);
    add(COMMAND_DELETE, "b", NULL);
    apply_transaction_at(2);
    assert_int_equal(element(&f.results[0], 0).data.size, size);
    assert_int_equal(element(&f.results[0], 1).data.size, size);
    assert_int_equal(element(&f.results[0], 2).code, ERROR_TOOBIG);
    assert_int_equal(element(&f.results[0], 3).code, ERROR_TOOBIG);
    expect_element(4, RESULT_INTEGER, 1, "");
    assert_int_equal(fixture_number(&f, COMMAND_STRLEN, 0, "p", "c"), size);
    assert_int_equal(fixture_number(&f, COMMAND_DBSIZE, 0, "p", NULL), 1);
    assert_true(f.results[0].data.size <= LIMIT_TRANSACTION_ANSWER + MIB);

    for (unsigned i = 0; i < 3; i++) {
        add(COMMAND_GET, "c", NULL);
    }
    struct result result = read_transaction();
    assert_int_equal(element(&result, 1).kind, RESULT_BULK);
    assert_int_equal(element(&result, 2).code, ERROR_TOOBIG);
    result_free(&result);
}

static void test_reads_alone_need_no_entry(void **state) {
    (void)state;
    at(1);
    set("a", "1");
    set("b", "2");
    fixture_apply(&f);
    add(COMMAND_GET, "a", NULL);
    add(COMMAND_GET_VERSION, "b", NULL);
    add(COMMAND_KEYS, "*", NULL);
    struct result result = read_transaction();
    expect_count(&result, 3);
    assert_true(slice_equal(element(&result, 0).data, slice_of("1")));
    assert_int_equal(element(&result, 1).kind, RESULT_ARRAY);
    assert_int_equal(element(&result, 2).kind, RESULT_ARRAY);
    result_free(&result);

    builder_watch(&builder, slice_of("a"), 1);
    result = read_transaction();
    expect_count(&result, 0);
    result_free(&result);
    builder_watch(&builder, slice_of("a"), 2);
    add(COMMAND_GET, "a", NULL);
    result = read_transaction();
    assert_int_equal(result.kind, RESULT_NIL);
    result_free(&result);
}

static void test_a_project_appears_with_its_first_write(void **state) {
    (void)state;
    add(COMMAND_EXISTS, "a", NULL);
    add_with((struct command){.kind = COMMAND_SET, .flags = COMMAND_FLAG_XX}, "a", "1");
    apply_transaction_at(1);
    assert_true(machine_state(f.machine).digest == 0);
    add(COMMAND_SET, "a", "1");
    add(COMMAND_CLEAR, "", NULL);
    add(COMMAND_SET, "b", "1");
    add(COMMAND_DBSIZE, "", NULL);
    apply_transaction_at(2);
    expect_element(3, RESULT_INTEGER, 1, "");
    fixture_expect(&f, "p", "a", NULL);
    fixture_expect(&f, "p", "b", "1");
    fixture_recount(&f);
}

/* As any write: by its token, for a project that exists. */
static void test_access_is_that_of_the_token(void **state) {
    (void)state;
    struct command set = {.kind = COMMAND_SET, .project = slice_of("p")};
    struct slice args[] = {slice_of("k"), slice_of("v")};
    const uint64_t tokens[] = {77, COMMAND_TOKEN_SERVICE};
    for (unsigned i = 0; i < 2; i++) {
        struct command outer = {
            .kind = COMMAND_TRANSACTION, .token = tokens[i], .project = slice_of("p")};
        set.token = tokens[i];
        builder_add(&builder, &set, args, 2);
        struct buffer bytes = builder_encode(&builder, &outer);
        at(1);
        command_batch_add(&f.batch, (struct command_origin){1, 2, 3}, buffer_slice(&bytes));
        buffer_free(&bytes);
        fixture_apply(&f);
        assert_int_equal(f.results[0].code, i == 0 ? ERROR_NOAUTH : ERROR_NOPROJECT);
        assert_true(machine_state(f.machine).digest == 0);
    }
}

/* Leaders propose writes only: a read by itself in an entry is damage. */
static void test_a_read_is_no_entry(void **state) {
    (void)state;
    at(1);
    batch_plain(&f.batch, COMMAND_DBSIZE, "p");
    assert_int_equal(fixture_try_apply(&f), ERROR_CORRUPT);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_all_is_carried_out_in_order),
        TEST(test_an_error_stops_nothing),
        TEST(test_a_changed_key_prevents_it),
        TEST(test_a_created_or_deleted_key_has_changed),
        TEST(test_an_expired_key_has_changed),
        TEST(test_a_write_of_the_same_entry_prevents_it),
        TEST(test_times_are_those_of_the_entry),
        TEST(test_the_quota_is_that_of_each_command),
        TEST(test_answers_are_bounded),
        TEST(test_reads_alone_need_no_entry),
        TEST(test_a_project_appears_with_its_first_write),
        TEST(test_access_is_that_of_the_token),
        TEST(test_a_read_is_no_entry),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
