/* Encoding and checked decoding of commands, batches and results. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/limits.h"
#include "base/mem.h"
#include "node/machine/command.h"
#include "tests/unit/transaction_builder.h"

static struct error error;

static struct buffer encode(const struct command *command, const struct slice *args,
                            uint32_t n_args) {
    struct buffer out = {0};
    command_encode(&out, command, args, n_args);
    return out;
}

static enum error_code decode_once(const struct command *command, const struct slice *args,
                                   uint32_t n_args) {
    struct buffer bytes = encode(command, args, n_args);
    struct command decoded;
    enum error_code code = command_decode(buffer_slice(&bytes), &decoded, &error);
    buffer_free(&bytes);
    return code;
}

static void test_set_survives_the_round_trip(void **state) {
    (void)state;
    struct command command = {.kind = COMMAND_SET,
                              .flags = COMMAND_FLAG_XX | COMMAND_FLAG_GET,
                              .expiry_mode = COMMAND_EXPIRY_AT,
                              .expiry_ms = UINT64_C(0x0102030405060708),
                              .token = UINT64_C(0x1112131415161718),
                              .project = slice_of("shop")};
    struct slice args[] = {slice_of("key"), slice_make("v\0w", 3)};
    struct buffer bytes = encode(&command, args, 2);
    struct command decoded;
    assert_int_equal(command_decode(buffer_slice(&bytes), &decoded, &error), ERROR_NONE);
    assert_int_equal(decoded.kind, COMMAND_SET);
    assert_int_equal(decoded.flags, command.flags);
    assert_int_equal(decoded.expiry_mode, COMMAND_EXPIRY_AT);
    assert_true(decoded.expiry_ms == command.expiry_ms);
    assert_true(decoded.token == command.token);
    assert_true(slice_equal(decoded.project, command.project));
    assert_int_equal(decoded.n_args, 2);
    struct reader reader = reader_make(decoded.args);
    assert_true(slice_equal(command_next_arg(&reader), args[0]));
    assert_true(slice_equal(command_next_arg(&reader), args[1]));
    assert_true(reader_done(&reader));
    buffer_free(&bytes);
}

/* Every kind with what it takes, and that it is refused with one argument more or less. */
static void test_each_kind_takes_its_arguments(void **state) {
    (void)state;
    static const struct {
        enum command_kind kind;
        bool is_write;
        bool may_grow;
        uint8_t flags;    /* needed for a valid command */
        const char *args; /* k key, v value, n number; * at the end: any number of rounds */
    } kinds[] = {
        {COMMAND_SET, true, true, 0, "kv"},
        {COMMAND_SET, true, true, COMMAND_FLAG_IFEQ, "kvv"},
        {COMMAND_SET, true, true, COMMAND_FLAG_IFVER, "kvn"},
        {COMMAND_DELETE, true, false, 0, "k*"},
        {COMMAND_CLEAR, true, false, 0, ""},
        {COMMAND_FENCE, true, false, 0, ""},
        {COMMAND_INCREMENT, true, true, 0, "knn"},
        {COMMAND_INCREMENT_FLOAT, true, true, 0, "kvn"},
        {COMMAND_APPEND, true, true, 0, "kvn"},
        {COMMAND_SETRANGE, true, true, 0, "knvn"},
        {COMMAND_GETDEL, true, false, 0, "k"},
        {COMMAND_GETEX, true, false, COMMAND_FLAG_PERSIST, "k"},
        {COMMAND_PERSIST, true, false, 0, "k"},
        {COMMAND_RENAME, true, true, COMMAND_FLAG_NX, "kk"},
        {COMMAND_COPY, true, true, COMMAND_FLAG_REPLACE, "kk"},
        {COMMAND_SET_MANY, true, true, 0, "kv*"},
        {COMMAND_DELETE_MATCHING, true, false, COMMAND_FLAG_IFEQ, "kv"},
        {COMMAND_DELETE_MATCHING, true, false, COMMAND_FLAG_IFVER, "kn"},
        {COMMAND_PROJECT_CREATE, true, true, 0, "n"},
        {COMMAND_PROJECT_DELETE, true, false, 0, ""},
        {COMMAND_PROJECT_SET_QUOTA, true, false, 0, "n"},
        {COMMAND_TOKEN_REVOKE, true, false, 0, "n"},
        {COMMAND_PROJECT_LIST, false, false, 0, "nn"},
        {COMMAND_PROJECT_INFO, false, false, 0, ""},
        {COMMAND_TOKEN_LIST, false, false, 0, ""},
        {COMMAND_GET, false, false, 0, "k"},
        {COMMAND_EXISTS, false, false, 0, "k*"},
        {COMMAND_PTTL, false, false, 0, "k"},
        {COMMAND_DBSIZE, false, false, 0, ""},
        {COMMAND_USAGE, false, false, 0, ""},
        {COMMAND_GET_MANY, false, false, 0, "k*"},
        {COMMAND_STRLEN, false, false, 0, "k"},
        {COMMAND_GETRANGE, false, false, 0, "knn"},
        {COMMAND_TYPE, false, false, 0, "k"},
        {COMMAND_EXPIRETIME, false, false, COMMAND_FLAG_ROUND_S, "k"},
        {COMMAND_RANDOM_KEY, false, false, 0, "n"},
        {COMMAND_KEYS, false, false, 0, "v"},
        {COMMAND_SCAN, false, false, 0, "nnv"},
        {COMMAND_INSPECT, false, false, 0, "kn"},
        {COMMAND_GET_VERSION, false, false, 0, "k"},
        {COMMAND_VERSIONS, false, false, 0, "k*"},
    };
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        struct command command = {
            .kind = kinds[i].kind, .flags = kinds[i].flags, .project = slice_of("p")};
        size_t round = strcspn(kinds[i].args, "*");
        bool repeats = kinds[i].args[round] == '*';
        assert_int_equal(command_is_write(kinds[i].kind), kinds[i].is_write);
        uint8_t kind = (uint8_t)kinds[i].kind;
        assert_int_equal(command_may_grow(slice_make(&kind, 1)), kinds[i].may_grow);
        struct slice args[8];
        for (uint32_t n = 0; n <= 6; n++) {
            args[n] = round > 0 && kinds[i].args[n % round] == 'n' ? slice_of("8 bytes.")
                                                                   : slice_of("key");
            bool fits = repeats ? n > 0 && n % round == 0 : n == round;
            assert_int_equal(decode_once(&command, args, n), fits ? ERROR_NONE : ERROR_INVALID);
            if (n > 0 && fits && kinds[i].args[(n - 1) % round] == 'n') {
                args[n - 1].size = 7;
                assert_int_equal(decode_once(&command, args, n), ERROR_INVALID);
                args[n - 1].size = 8;
            }
        }
    }
    assert_false(command_may_grow((struct slice){0}));
    assert_true(command_is_write(COMMAND_ONCE));
    assert_false(command_is_write((enum command_kind)99));
}

/* A session and a nested command, which has to be a write of the same project and token. */
static void test_once_holds_a_write(void **state) {
    (void)state;
    struct slice id = slice_of("16 bytes of id..");
    struct slice number = slice_of("8 bytes.");
    struct slice set_args[] = {slice_of("k"), slice_of("v")};
    const struct command set = {.kind = COMMAND_SET, .project = slice_of("p"), .token = 7};
    const struct command delete = {.kind = COMMAND_DELETE, .project = slice_of("p"), .token = 7};
    struct command once = {.kind = COMMAND_ONCE, .project = slice_of("p"), .token = 7};
    struct buffer nested = encode(&set, set_args, 2);
    struct slice args[] = {id, number, number, buffer_slice(&nested)};
    assert_int_equal(decode_once(&once, args, 4), ERROR_NONE);
    assert_int_equal(decode_once(&once, args, 3), ERROR_INVALID);
    struct buffer whole = encode(&once, args, 4);
    assert_true(command_may_grow(buffer_slice(&whole)));
    assert_false(command_may_grow(slice_make(whole.data, whole.size - 1)));
    for (size_t size = 0; size < nested.size; size++) {
        args[3].size = size;
        assert_int_equal(decode_once(&once, args, 4), ERROR_INVALID);
    }
    args[3].size = nested.size;
    args[0].size = 15;
    assert_int_equal(decode_once(&once, args, 4), ERROR_INVALID);
    args[0].size = 16;
    args[1].size = 7;
    assert_int_equal(decode_once(&once, args, 4), ERROR_INVALID);
    args[1].size = 8;
    once.token = 8;
    assert_int_equal(decode_once(&once, args, 4), ERROR_INVALID);
    once.token = 7;
    once.project = slice_of("q");
    assert_int_equal(decode_once(&once, args, 4), ERROR_INVALID);
    once.project = slice_of("p");

    buffer_free(&nested);
    nested = encode(&delete, set_args, 1);
    args[3] = buffer_slice(&nested);
    assert_int_equal(decode_once(&once, args, 4), ERROR_NONE);
    buffer_free(&whole);
    whole = encode(&once, args, 4);
    assert_false(command_may_grow(buffer_slice(&whole)));
    /* Nothing else goes into it: no read, no fence, nothing of sessions, nothing unknown. */
    static const enum command_kind others[] = {COMMAND_GET,       COMMAND_FENCE,
                                               COMMAND_ONCE_OPEN, COMMAND_ONCE_CLOSE,
                                               COMMAND_ONCE,      (enum command_kind)99};
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        assert_false(command_may_nest(COMMAND_ONCE, others[i]));
        nested.data[0] = (uint8_t)others[i];
        assert_int_equal(decode_once(&once, args, 4), ERROR_INVALID);
    }
    args[3] = buffer_slice(&whole);
    assert_int_equal(decode_once(&once, args, 4), ERROR_INVALID);
    buffer_free(&whole);
    buffer_free(&nested);

    const struct command open = {.kind = COMMAND_ONCE_OPEN, .project = slice_of("p")};
    const struct command close = {.kind = COMMAND_ONCE_CLOSE, .project = slice_of("p")};
    assert_int_equal(decode_once(&open, args, 2), ERROR_NONE);
    assert_int_equal(decode_once(&open, args, 1), ERROR_INVALID);
    assert_int_equal(decode_once(&close, args, 1), ERROR_NONE);
    assert_int_equal(decode_once(&close, args + 1, 1), ERROR_INVALID);
}

static void test_flags_and_expiry_are_checked(void **state) {
    (void)state;
    struct slice args[] = {slice_of("k"), slice_of("v")};
    const struct command good = {.kind = COMMAND_SET, .project = slice_of("p")};
    struct command command = good;
    command.flags = COMMAND_FLAG_NX | COMMAND_FLAG_GET | COMMAND_FLAG_KEEPTTL;
    assert_int_equal(decode_once(&command, args, 2), ERROR_NONE);
    command.flags = COMMAND_FLAG_NX | COMMAND_FLAG_XX;
    assert_int_equal(decode_once(&command, args, 2), ERROR_INVALID);
    command.flags = COMMAND_FLAG_ROUND_S;
    assert_int_equal(decode_once(&command, args, 2), ERROR_INVALID);
    command = good;
    command.expiry_ms = 5;
    assert_int_equal(decode_once(&command, args, 2), ERROR_INVALID);
    command.expiry_mode = COMMAND_EXPIRY_AFTER;
    assert_int_equal(decode_once(&command, args, 2), ERROR_NONE);
    command.flags = COMMAND_FLAG_KEEPTTL;
    assert_int_equal(decode_once(&command, args, 2), ERROR_INVALID);
    command = good;
    command.expiry_mode = (enum command_expiry)3;
    assert_int_equal(decode_once(&command, args, 2), ERROR_INVALID);
    command = (struct command){
        .kind = COMMAND_PTTL, .flags = COMMAND_FLAG_ROUND_S, .project = slice_of("p")};
    assert_int_equal(decode_once(&command, args, 1), ERROR_NONE);
    command.expiry_mode = COMMAND_EXPIRY_AT;
    assert_int_equal(decode_once(&command, args, 1), ERROR_INVALID);
    command = (struct command){.kind = (enum command_kind)63, .project = slice_of("p")};
    assert_int_equal(decode_once(&command, NULL, 0), ERROR_INVALID);
}

/* Flags that contradict each other, and expiries that are missing. */
static void test_each_kind_checks_its_options(void **state) {
    (void)state;
    struct slice args[] = {slice_of("k"), slice_of("value678"), slice_of("value678")};
    static const struct {
        enum command_kind kind;
        unsigned flags;
        enum command_expiry mode;
        uint32_t n_args;
        enum error_code expected;
    } cases[] = {
        {COMMAND_SET, COMMAND_FLAG_COUNT | COMMAND_FLAG_NX, COMMAND_EXPIRY_NONE, 2, ERROR_NONE},
        {COMMAND_SET, COMMAND_FLAG_COUNT | COMMAND_FLAG_GET, COMMAND_EXPIRY_NONE, 2, ERROR_INVALID},
        {COMMAND_SET, COMMAND_FLAG_IFEQ | COMMAND_FLAG_NX, COMMAND_EXPIRY_NONE, 3, ERROR_INVALID},
        {COMMAND_SET, COMMAND_FLAG_IFEQ | COMMAND_FLAG_IFVER, COMMAND_EXPIRY_NONE, 3,
         ERROR_INVALID},
        {COMMAND_SET, COMMAND_FLAG_IFEQ, COMMAND_EXPIRY_AT, 3, ERROR_NONE},
        {COMMAND_EXPIRE, 0, COMMAND_EXPIRY_NONE, 1, ERROR_INVALID},
        {COMMAND_EXPIRE, COMMAND_FLAG_XX | COMMAND_FLAG_GT, COMMAND_EXPIRY_AT, 1, ERROR_NONE},
        {COMMAND_EXPIRE, COMMAND_FLAG_NX | COMMAND_FLAG_LT, COMMAND_EXPIRY_AT, 1, ERROR_INVALID},
        {COMMAND_EXPIRE, COMMAND_FLAG_GT | COMMAND_FLAG_LT, COMMAND_EXPIRY_AT, 1, ERROR_INVALID},
        {COMMAND_GETEX, 0, COMMAND_EXPIRY_NONE, 1, ERROR_INVALID},
        {COMMAND_GETEX, 0, COMMAND_EXPIRY_AFTER, 1, ERROR_NONE},
        {COMMAND_GETEX, COMMAND_FLAG_PERSIST, COMMAND_EXPIRY_AFTER, 1, ERROR_INVALID},
        {COMMAND_DELETE_MATCHING, 0, COMMAND_EXPIRY_NONE, 1, ERROR_INVALID},
        {COMMAND_PERSIST, 0, COMMAND_EXPIRY_AFTER, 1, ERROR_INVALID},
        {COMMAND_GETDEL, COMMAND_FLAG_NX, COMMAND_EXPIRY_NONE, 1, ERROR_INVALID},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct command command = {.kind = cases[i].kind,
                                  .flags = (uint8_t)cases[i].flags,
                                  .expiry_mode = cases[i].mode,
                                  .project = slice_of("p")};
        assert_int_equal(decode_once(&command, args, cases[i].n_args), cases[i].expected);
    }
    uint8_t pattern[LIMIT_PATTERN_SIZE + 1] = {0};
    struct command keys = {.kind = COMMAND_KEYS, .project = slice_of("p")};
    args[0] = slice_make(pattern, LIMIT_PATTERN_SIZE);
    assert_int_equal(decode_once(&keys, args, 1), ERROR_NONE);
    args[0].size++;
    assert_int_equal(decode_once(&keys, args, 1), ERROR_TOOBIG);
}

/* A token has an exact size in every argument, and brings the only expiry that a project takes. */
static void test_tokens_are_checked(void **state) {
    (void)state;
    uint8_t bytes[COMMAND_HASH_SIZE + 1] = {0};
    const struct slice good[] = {slice_of("8 bytes."), slice_of("8 bytes."), slice_of("8 bytes."),
                                 slice_make(bytes, COMMAND_SALT_SIZE),
                                 slice_make(bytes, COMMAND_HASH_SIZE)};
    struct command add = {.kind = COMMAND_TOKEN_ADD, .project = slice_of("p")};
    struct command create = {
        .kind = COMMAND_PROJECT_CREATE, .flags = COMMAND_FLAG_TOKEN, .project = slice_of("p")};
    for (uint32_t n = 0; n <= 5; n++) {
        enum error_code code = decode_once(&add, good + (n < 5), n);
        assert_int_equal(code, n == 4 ? ERROR_NONE : ERROR_INVALID);
        assert_int_equal(decode_once(&create, good, n), n == 5 ? ERROR_NONE : ERROR_INVALID);
    }
    for (uint32_t i = 0; i < 5; i++) {
        for (int change = -1; change <= 1; change += 2) {
            struct slice args[5];
            memcpy(args, good, sizeof args);
            args[i].size += (size_t)change;
            assert_int_equal(decode_once(&create, args, 5), ERROR_INVALID);
        }
    }
    add.expiry_mode = COMMAND_EXPIRY_AFTER;
    create.expiry_mode = COMMAND_EXPIRY_AT;
    assert_int_equal(decode_once(&add, good + 1, 4), ERROR_NONE);
    assert_int_equal(decode_once(&create, good, 5), ERROR_NONE);
    create.flags = 0;
    assert_int_equal(decode_once(&create, good, 1), ERROR_INVALID);
    struct command authenticate = {.kind = COMMAND_AUTHENTICATE, .project = slice_of("p")};
    struct slice args[] = {good[0], good[4]};
    assert_int_equal(decode_once(&authenticate, args, 2), ERROR_NONE);
    args[1].size++;
    assert_int_equal(decode_once(&authenticate, args, 2), ERROR_INVALID);
    assert_true(command_is_administrative(COMMAND_AUTHENTICATE));
    assert_false(command_is_administrative(COMMAND_SET));
    assert_true(command_may_grow(slice_make("\x14", 1)));
}

static void test_sizes_are_limited(void **state) {
    (void)state;
    size_t big = (size_t)LIMIT_VALUE_SIZE_MAX + 1;
    uint8_t *bytes = mem_zalloc(big, 1);
    struct command command = {.kind = COMMAND_SET, .project = slice_of("p")};
    struct slice args[] = {slice_make(bytes, LIMIT_KEY_SIZE),
                           slice_make(bytes, LIMIT_VALUE_SIZE_MAX)};
    assert_int_equal(decode_once(&command, args, 2), ERROR_NONE);
    args[1].size = big;
    assert_int_equal(decode_once(&command, args, 2), ERROR_TOOBIG);
    args[1].size = 0;
    assert_int_equal(decode_once(&command, args, 2), ERROR_NONE);
    args[0].size = LIMIT_KEY_SIZE + 1;
    assert_int_equal(decode_once(&command, args, 2), ERROR_TOOBIG);
    args[0].size = 0;
    assert_int_equal(decode_once(&command, args, 2), ERROR_INVALID);
    args[0].size = 1;
    memset(bytes, 'p', LIMIT_PROJECT_CHARACTERS + 1);
    command.project = slice_make(bytes, LIMIT_PROJECT_CHARACTERS);
    assert_int_equal(decode_once(&command, args, 2), ERROR_NONE);
    command.project.size++;
    assert_int_equal(decode_once(&command, args, 2), ERROR_TOOBIG);
    command.project.size = 0;
    assert_int_equal(decode_once(&command, args, 2), ERROR_INVALID);
    command.project = slice_of("tab\tulator");
    assert_int_equal(decode_once(&command, args, 2), ERROR_INVALID);
    command.project.size = 0;
    command.kind = COMMAND_FENCE;
    assert_int_equal(decode_once(&command, NULL, 0), ERROR_NONE);
    mem_free(bytes);
}

static void test_a_cut_command_does_not_decode(void **state) {
    (void)state;
    struct command command = {.kind = COMMAND_SET, .project = slice_of("shop")};
    struct slice args[] = {slice_of("key"), slice_of("value")};
    struct buffer bytes = encode(&command, args, 2);
    struct command decoded;
    for (size_t size = 0; size < bytes.size; size++) {
        /* A copy of its exact size, so that reading past it shows under the address sanitizer. */
        uint8_t *cut = mem_dup(bytes.data, size);
        assert_int_equal(command_decode(slice_make(cut, size), &decoded, &error), ERROR_INVALID);
        mem_free(cut);
    }
    buffer_put_u8(&bytes, 0);
    assert_int_equal(command_decode(buffer_slice(&bytes), &decoded, &error), ERROR_INVALID);
    buffer_free(&bytes);
}

static struct buffer make_batch(void) {
    struct buffer batch = {0};
    command_batch_begin(&batch, 1234, 5678);
    struct command command = {.kind = COMMAND_DELETE, .project = slice_of("p")};
    struct slice key = slice_of("key");
    for (uint64_t i = 0; i < 3; i++) {
        struct buffer bytes = encode(&command, &key, 1);
        command_batch_add(&batch, (struct command_origin){(uint32_t)i, 10 + i, 20 + i},
                          buffer_slice(&bytes));
        buffer_free(&bytes);
    }
    return batch;
}

static void test_batch_survives_the_round_trip(void **state) {
    (void)state;
    struct buffer bytes = make_batch();
    struct command_batch batch;
    assert_int_equal(command_batch_decode(buffer_slice(&bytes), &batch, &error), ERROR_NONE);
    assert_true(batch.time_ms == 1234 && batch.default_quota == 5678 && batch.count == 3);
    struct command_origin origin;
    struct command command;
    for (uint64_t i = 0; i < 3; i++) {
        assert_int_equal(command_batch_next(&batch, &origin, &command, &error), ERROR_NONE);
        assert_true(origin.node == i && origin.boot == 10 + i && origin.sequence == 20 + i);
        assert_int_equal(command.kind, COMMAND_DELETE);
    }
    assert_true(reader_done(&batch.rest));
    assert_int_equal(command_batch_next(&batch, &origin, &command, &error), ERROR_CORRUPT);
    buffer_free(&bytes);
}

static void test_a_tick_is_a_batch_without_commands(void **state) {
    (void)state;
    struct buffer bytes = {0};
    command_batch_begin(&bytes, 9, 0);
    assert_int_equal(bytes.size, COMMAND_BATCH_HEADER_SIZE);
    struct command_batch batch;
    assert_int_equal(command_batch_decode(buffer_slice(&bytes), &batch, &error), ERROR_NONE);
    assert_int_equal(batch.count, 0);
    buffer_free(&bytes);
}

static void test_a_damaged_batch_does_not_decode(void **state) {
    (void)state;
    struct buffer bytes = make_batch();
    struct command_batch batch;
    for (size_t size = 0; size < bytes.size; size++) {
        uint8_t *cut = mem_dup(bytes.data, size);
        assert_int_equal(command_batch_decode(slice_make(cut, size), &batch, &error),
                         ERROR_CORRUPT);
        mem_free(cut);
    }
    bytes.data[0] = 2;
    assert_int_equal(command_batch_decode(buffer_slice(&bytes), &batch, &error), ERROR_CORRUPT);
    bytes.data[0] = 1;
    bytes_put_u64(bytes.data + 1, UINT64_MAX);
    assert_int_equal(command_batch_decode(buffer_slice(&bytes), &batch, &error), ERROR_CORRUPT);
    bytes_put_u64(bytes.data + 1, 1);
    bytes.data[COMMAND_BATCH_HEADER_SIZE + COMMAND_FRAME_SIZE] =
        200; /* kind of the first command */
    assert_int_equal(command_batch_decode(buffer_slice(&bytes), &batch, &error), ERROR_NONE);
    struct command_origin origin;
    struct command command;
    assert_int_equal(command_batch_next(&batch, &origin, &command, &error), ERROR_CORRUPT);
    buffer_free(&bytes);
}

static void assert_result_survives(const struct result *result) {
    struct buffer bytes = {0};
    result_encode(&bytes, result);
    struct result decoded;
    assert_int_equal(result_decode(buffer_slice(&bytes), &decoded, &error), ERROR_NONE);
    assert_int_equal(decoded.kind, result->kind);
    assert_int_equal(decoded.code, result->code);
    assert_true(decoded.integer == result->integer);
    assert_true(slice_equal(buffer_slice(&decoded.data), buffer_slice(&result->data)));
    result_free(&decoded);
    for (size_t size = 0; size < bytes.size; size++) {
        uint8_t *cut = mem_dup(bytes.data, size);
        assert_int_not_equal(result_decode(slice_make(cut, size), &decoded, &error), ERROR_NONE);
        mem_free(cut);
    }
    buffer_free(&bytes);
}

/* A transaction around one command with the arguments k and v, of which it takes `n_args`. */
static enum error_code decode_around(enum command_kind outer, struct command inner,
                                     uint32_t n_args) {
    struct transaction_builder builder = {0};
    struct slice args[] = {slice_of("k"), slice_of("v")};
    builder_watch(&builder, slice_of("watched"), 7);
    builder_add(&builder, &inner, args, n_args);
    struct command command = {.kind = outer, .token = 5, .project = slice_of("p")};
    struct buffer bytes = builder_encode(&builder, &command);
    struct command decoded;
    enum error_code code = command_decode(buffer_slice(&bytes), &decoded, &error);
    buffer_free(&bytes);
    return code;
}

static void test_what_stands_in_a_transaction_is_checked(void **state) {
    (void)state;
    static const struct {
        struct command inner;
        uint32_t n_args;
        enum error_code writing; /* in a TRANSACTION */
        enum error_code reading; /* in a READ_TRANSACTION */
    } cases[] = {
        {{.kind = COMMAND_SET}, 2, ERROR_NONE, ERROR_INVALID},
        {{.kind = COMMAND_SET}, 1, ERROR_INVALID, ERROR_INVALID},
        {{.kind = COMMAND_SET, .flags = COMMAND_FLAG_NX | COMMAND_FLAG_XX},
         2,
         ERROR_INVALID,
         ERROR_INVALID},
        {{.kind = COMMAND_GET}, 1, ERROR_NONE, ERROR_NONE},
        {{.kind = COMMAND_GET}, 2, ERROR_INVALID, ERROR_INVALID},
        {{.kind = COMMAND_CLEAR}, 0, ERROR_NONE, ERROR_INVALID},
        {{.kind = COMMAND_FENCE}, 0, ERROR_INVALID, ERROR_INVALID},
        {{.kind = COMMAND_KEYS}, 1, ERROR_INVALID, ERROR_NONE},
        {{.kind = COMMAND_GET_VERSION}, 1, ERROR_INVALID, ERROR_NONE},
        {{.kind = COMMAND_VERSIONS}, 1, ERROR_INVALID, ERROR_INVALID},
        {{.kind = (enum command_kind)0}, 1, ERROR_INVALID, ERROR_INVALID},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct command inner = cases[i].inner;
        inner.project = slice_of("p");
        inner.token = 5;
        assert_int_equal(decode_around(COMMAND_TRANSACTION, inner, cases[i].n_args),
                         cases[i].writing);
        assert_int_equal(decode_around(COMMAND_READ_TRANSACTION, inner, cases[i].n_args),
                         cases[i].reading);
        inner.project = slice_of("q");
        assert_int_equal(decode_around(COMMAND_TRANSACTION, inner, cases[i].n_args), ERROR_INVALID);
        inner.project = slice_of("p");
        inner.token = 6;
        assert_int_equal(decode_around(COMMAND_TRANSACTION, inner, cases[i].n_args), ERROR_INVALID);
    }
    assert_true(command_is_write(COMMAND_TRANSACTION));
    assert_false(command_is_write(COMMAND_READ_TRANSACTION));
}

static void test_transactions_do_not_nest(void **state) {
    (void)state;
    const enum command_kind kinds[] = {COMMAND_TRANSACTION, COMMAND_READ_TRANSACTION};
    for (unsigned i = 0; i < 4; i++) {
        struct transaction_builder inner = {0};
        struct transaction_builder outer = {0};
        struct slice key = slice_of("k");
        struct command get = {.kind = COMMAND_GET, .project = slice_of("p")};
        struct command command = {.kind = kinds[i % 2], .project = slice_of("p")};
        builder_add(&inner, &get, &key, 1);
        struct buffer bytes = builder_encode(&inner, &command);
        struct command decoded;
        assert_int_equal(command_decode(buffer_slice(&bytes), &decoded, &error), ERROR_NONE);
        buffer_put_bytes(&outer.nested, buffer_slice(&bytes));
        outer.n_nested = 1;
        buffer_free(&bytes);
        command.kind = kinds[i / 2];
        bytes = builder_encode(&outer, &command);
        assert_int_equal(command_decode(buffer_slice(&bytes), &decoded, &error), ERROR_INVALID);
        buffer_free(&bytes);
    }
}

static void test_a_transaction_that_is_cut_does_not_decode(void **state) {
    (void)state;
    struct transaction_builder builder = {0};
    struct slice args[] = {slice_of("k"), slice_of("v")};
    struct command set = {.kind = COMMAND_SET, .project = slice_of("p")};
    struct command outer = {.kind = COMMAND_TRANSACTION, .project = slice_of("p")};
    builder_watch(&builder, slice_of("watched"), 7);
    builder_add(&builder, &set, args, 2);
    struct buffer bytes = builder_encode(&builder, &outer);
    struct command decoded;
    assert_int_equal(command_decode(buffer_slice(&bytes), &decoded, &error), ERROR_NONE);
    assert_true(command_may_grow(buffer_slice(&bytes)));
    for (size_t size = 0; size < bytes.size; size++) {
        uint8_t *cut = mem_dup(bytes.data, size);
        assert_int_equal(command_decode(slice_make(cut, size), &decoded, &error), ERROR_INVALID);
        (void)command_may_grow(slice_make(cut, size));
        mem_free(cut);
    }
    /* Numbers of watched keys that the arguments do not hold, or that leave no command. */
    assert_int_equal(command_decode(buffer_slice(&bytes), &decoded, &error), ERROR_NONE);
    size_t count_at = bytes.size - decoded.args.size + sizeof(uint32_t);
    const uint64_t counts[] = {0, 2, 3, UINT64_MAX, UINT64_C(1) << 63};
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        bytes_put_u64(bytes.data + count_at, counts[i]);
        assert_int_equal(command_decode(buffer_slice(&bytes), &decoded, &error), ERROR_INVALID);
        (void)command_may_grow(buffer_slice(&bytes));
    }
    buffer_free(&bytes);
}

static void test_a_transaction_grows_as_its_commands_do(void **state) {
    (void)state;
    struct slice args[] = {slice_of("k"), slice_of("v")};
    struct command set = {.kind = COMMAND_SET, .project = slice_of("p")};
    struct command delete = {.kind = COMMAND_DELETE, .project = slice_of("p")};
    struct command outer = {.kind = COMMAND_TRANSACTION, .project = slice_of("p")};
    for (int grows = 0; grows < 2; grows++) {
        struct transaction_builder builder = {0};
        /* A key that looks like a SET. */
        builder_watch(&builder, slice_of("\1"), 1);
        builder_add(&builder, &delete, args, 2);
        if (grows) {
            builder_add(&builder, &set, args, 2);
        }
        struct buffer bytes = builder_encode(&builder, &outer);
        assert_int_equal(command_may_grow(buffer_slice(&bytes)), grows);
        buffer_free(&bytes);
    }
}

static void test_the_words_of_a_transaction_are_limited(void **state) {
    (void)state;
    struct command dbsize = {.kind = COMMAND_DBSIZE, .project = slice_of("p")};
    struct command outer = {.kind = COMMAND_READ_TRANSACTION, .project = slice_of("p")};
    for (unsigned extra = 0; extra < 2; extra++) {
        struct transaction_builder builder = {0};
        builder_watch(&builder, slice_of("k"), 1);
        for (unsigned i = 0; i < LIMIT_RESP_ARGS - 2 + extra; i++) {
            builder_add(&builder, &dbsize, NULL, 0);
        }
        struct buffer bytes = builder_encode(&builder, &outer);
        struct command decoded;
        assert_int_equal(command_decode(buffer_slice(&bytes), &decoded, &error),
                         extra == 0 ? ERROR_NONE : ERROR_TOOBIG);
        buffer_free(&bytes);
    }
}

static void test_walks_count_for_many_words(void **state) {
    (void)state;
    struct command keys = {.kind = COMMAND_KEYS, .project = slice_of("p")};
    struct command outer = {.kind = COMMAND_READ_TRANSACTION, .project = slice_of("p")};
    struct slice pattern = slice_of("*");
    for (unsigned n = 15; n <= 16; n++) {
        struct transaction_builder builder = {0};
        for (unsigned i = 0; i < n; i++) {
            builder_add(&builder, &keys, &pattern, 1);
        }
        struct buffer bytes = builder_encode(&builder, &outer);
        struct command decoded;
        assert_int_equal(command_decode(buffer_slice(&bytes), &decoded, &error),
                         n == 15 ? ERROR_NONE : ERROR_TOOBIG);
        buffer_free(&bytes);
    }
}

static void test_results_survive_the_round_trip(void **state) {
    (void)state;
    struct result result = {.kind = RESULT_OK};
    assert_result_survives(&result);
    result.kind = RESULT_NIL;
    assert_result_survives(&result);
    result = (struct result){.kind = RESULT_INTEGER, .integer = INT64_MIN};
    assert_result_survives(&result);
    result = (struct result){.kind = RESULT_BULK};
    assert_result_survives(&result);
    buffer_append(&result.data, "12345678", 8);
    assert_result_survives(&result);
    result.kind = RESULT_INTEGERS;
    assert_result_survives(&result);
    result.kind = RESULT_STATUS;
    assert_result_survives(&result);
    result_begin_array(&result, 4);
    result_add_nil(&result);
    result_add_array(&result, 2);
    result_add_array(&result, 0);
    result_add_bulk(&result, slice_of("inner"));
    result_add_integer(&result, -1);
    result_add_bulk(&result, slice_of(""));
    assert_result_survives(&result);
    result_set_error(&result, ERROR_QUOTA, "%d of %d", 3, 2);
    assert_true(slice_equal(buffer_slice(&result.data), slice_of("3 of 2")));
    assert_result_survives(&result);
    struct result results = {0};
    struct result ok = {.kind = RESULT_OK};
    result_begin_results(&results, 2);
    result_add_result(&results, &result);
    result_add_result(&results, &ok);
    assert_result_survives(&results);
    struct reader elements = reader_make(buffer_slice(&results.data));
    assert_int_equal(reader_u32(&elements), 2);
    struct result_view view = result_next(&elements);
    assert_int_equal(view.code, ERROR_QUOTA);
    assert_true(slice_equal(view.data, slice_of("3 of 2")));
    assert_int_equal(result_next(&elements).kind, RESULT_OK);
    assert_true(reader_done(&elements));
    result_free(&results);
    result_free(&result);
}

static void test_malformed_results_do_not_decode(void **state) {
    (void)state;
    const struct result malformed[] = {
        {.kind = (enum result_kind)9},
        {.kind = RESULT_RESULTS},
        /* Two are promised and none comes; an element of no bytes; results within results. */
        {.kind = RESULT_RESULTS, .data = {(uint8_t *)"\2\0\0\0", 4, 4}},
        {.kind = RESULT_RESULTS, .data = {(uint8_t *)"\1\0\0\0\0\0\0\0", 8, 8}},
        {.kind = RESULT_RESULTS,
         .data = {(uint8_t *)"\1\0\0\0\x12\0\0\0\x08\0\0\0\0\0\0\0\0\0\4\0\0\0\0\0\0\0", 26, 26}},
        {.kind = RESULT_ARRAY},
        /* One nil is promised and two come; an unknown tag; more elements than bytes. */
        {.kind = RESULT_ARRAY, .data = {(uint8_t *)"\1\0\0\0\0\0", 6, 6}},
        {.kind = RESULT_ARRAY, .data = {(uint8_t *)"\1\0\0\0\4", 5, 5}},
        {.kind = RESULT_ARRAY, .data = {(uint8_t *)"\377\377\377\377\0", 5, 5}},
        {.kind = RESULT_ARRAY, .data = {(uint8_t *)"\1\0\0\0\3\377\377\377\377", 9, 9}},
        {.kind = RESULT_OK, .code = ERROR_IO},
        {.kind = RESULT_ERROR},
        {.kind = RESULT_ERROR, .code = (enum error_code)200},
        {.kind = RESULT_NIL, .integer = 1},
        {.kind = RESULT_INTEGERS, .data = {(uint8_t *)"1234567", 7, 7}},
        {.kind = RESULT_OK, .data = {(uint8_t *)"1", 1, 1}},
    };
    for (size_t i = 0; i < sizeof(malformed) / sizeof(malformed[0]); i++) {
        struct buffer bytes = {0};
        result_encode(&bytes, &malformed[i]);
        struct result decoded;
        assert_int_equal(result_decode(buffer_slice(&bytes), &decoded, &error), ERROR_INVALID);
        assert_null(decoded.data.data);
        buffer_free(&bytes);
    }
}

static void test_a_long_error_message_is_cut(void **state) {
    (void)state;
    struct result result = {0};
    result_set_error(&result, ERROR_IO, "%1000d", 1);
    assert_int_equal(result.data.size, ERROR_MESSAGE_SIZE - 1);
    result_free(&result);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_set_survives_the_round_trip),
        cmocka_unit_test(test_each_kind_takes_its_arguments),
        cmocka_unit_test(test_once_holds_a_write),
        cmocka_unit_test(test_flags_and_expiry_are_checked),
        cmocka_unit_test(test_each_kind_checks_its_options),
        cmocka_unit_test(test_tokens_are_checked),
        cmocka_unit_test(test_sizes_are_limited),
        cmocka_unit_test(test_a_cut_command_does_not_decode),
        cmocka_unit_test(test_batch_survives_the_round_trip),
        cmocka_unit_test(test_a_tick_is_a_batch_without_commands),
        cmocka_unit_test(test_a_damaged_batch_does_not_decode),
        cmocka_unit_test(test_what_stands_in_a_transaction_is_checked),
        cmocka_unit_test(test_transactions_do_not_nest),
        cmocka_unit_test(test_a_transaction_that_is_cut_does_not_decode),
        cmocka_unit_test(test_a_transaction_grows_as_its_commands_do),
        cmocka_unit_test(test_the_words_of_a_transaction_are_limited),
        cmocka_unit_test(test_walks_count_for_many_words),
        cmocka_unit_test(test_results_survive_the_round_trip),
        cmocka_unit_test(test_malformed_results_do_not_decode),
        cmocka_unit_test(test_a_long_error_message_is_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
