/* Tokens of sessions as text: what is written is read again, anything else is refused by kind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/crc32c.h"
#include "node/session_token.h"

static void test_what_is_written_is_read(void **state) {
    const uint64_t indexes[] = {0, 1, 0x123456789abcdef0, UINT64_MAX};
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        char text[SESSION_TOKEN_SIZE + 1];
        unsigned shard = 0;
        uint64_t index = 0;
        session_token_write(text, "kv", 63 - i, indexes[i]);
        assert_int_equal(strlen(text), SESSION_TOKEN_SIZE);
        assert_int_equal(session_token_read(slice_of(text), "kv", &shard, &index, NULL),
                         ERROR_NONE);
        assert_int_equal(shard, 63 - i);
        assert_true(index == indexes[i]);
    }
}

static void expect(const char *text, enum error_code expected) {
    struct error error;
    unsigned shard = 7;
    uint64_t index = 7;
    assert_int_equal(session_token_read(slice_of(text), "kv", &shard, &index, &error), expected);
    assert_int_equal(shard, 7);
    assert_int_equal(index, 7);
    assert_true(strlen(error.message) > 0);
}

static void test_every_change_is_noticed(void **state) {
    char text[SESSION_TOKEN_SIZE + 1];
    (void)state;
    session_token_write(text, "kv", 3, 12345);
    for (size_t i = 0; i < SESSION_TOKEN_SIZE; i++) {
        char kept = text[i];
        text[i] = kept == '0' ? '1' : '0';
        expect(text, ERROR_SYNTAX);
        text[i] = 'g';
        expect(text, ERROR_SYNTAX);
        text[i] = kept;
    }
    text[SESSION_TOKEN_SIZE - 1] = '\0';
    expect(text, ERROR_SYNTAX);
    expect("", ERROR_SYNTAX);
    expect("no token at all", ERROR_SYNTAX);
}

static void test_of_another_cluster(void **state) {
    char text[SESSION_TOKEN_SIZE + 1];
    (void)state;
    session_token_write(text, "other", 3, 12345);
    expect(text, ERROR_MISMATCH);
}

static void test_of_a_later_format(void **state) {
    uint8_t bytes[SESSION_TOKEN_BYTES] = {2};
    char text[SESSION_TOKEN_SIZE + 1];
    (void)state;
    bytes_put_u32(bytes + SESSION_TOKEN_BYTES - 4, crc32c(0, bytes, SESSION_TOKEN_BYTES - 4));
    for (unsigned i = 0; i < SESSION_TOKEN_BYTES; i++) {
        text[2 * i] = "0123456789ABCDEF"[bytes[i] >> 4];
        text[2 * i + 1] = "0123456789ABCDEF"[bytes[i] & 15];
    }
    text[SESSION_TOKEN_SIZE] = '\0';
    expect(text, ERROR_VERSION);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_written_is_read),
        cmocka_unit_test(test_every_change_is_noticed),
        cmocka_unit_test(test_of_another_cluster),
        cmocka_unit_test(test_of_a_later_format),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
