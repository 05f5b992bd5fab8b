#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/mem.h"

static void test_slices_compare(void **state) {
    (void)state;
    assert_true(slice_equal(slice_of("abc"), slice_make("abcd", 3)));
    assert_false(slice_equal(slice_of("abc"), slice_of("abd")));
    assert_false(slice_equal(slice_of("abc"), slice_of("ab")));
    assert_true(slice_equal(slice_make(NULL, 0), slice_of("")));

    assert_int_equal(slice_compare(slice_of("a"), slice_of("a")), 0);
    assert_true(slice_compare(slice_of("a"), slice_of("b")) < 0);
    assert_true(slice_compare(slice_of("b"), slice_of("a")) > 0);
    assert_true(slice_compare(slice_of("a"), slice_of("aa")) < 0);
    assert_true(slice_compare(slice_of("b"), slice_of("aa")) > 0);
    assert_true(slice_compare(slice_make(NULL, 0), slice_of("a")) < 0);
    assert_int_equal(slice_compare(slice_make(NULL, 0), slice_of("")), 0);
    /* Bytes are unsigned: 0x80 sorts behind 0x7f. */
    assert_true(slice_compare(slice_make("\x80", 1), slice_make("\x7f", 1)) > 0);
}

static void test_nocase_is_ascii_and_exact(void **state) {
    (void)state;
    assert_true(slice_equal_nocase(slice_of("gEt"), "GET"));
    assert_true(slice_equal_nocase(slice_of(""), ""));
    assert_false(slice_equal_nocase(slice_of("GE"), "GET"));
    assert_false(slice_equal_nocase(slice_of("GETS"), "GET"));
    assert_false(slice_equal_nocase(slice_make("GET\0", 4), "GET"));
    assert_false(slice_equal_nocase(slice_make("\0", 1), ""));
    /* '[' and '{' differ in the same bit as upper and lower case do. */
    assert_false(slice_equal_nocase(slice_of("["), "{"));
    assert_false(slice_equal_nocase(slice_of("@"), "`"));
}

static void test_buffer_grows_and_consumes(void **state) {
    (void)state;
    struct buffer buffer = {0};
    assert_int_equal(buffer_slice(&buffer).size, 0);
    for (unsigned i = 0; i < 10000; i++) {
        buffer_put_u8(&buffer, (uint8_t)(i * 7));
    }
    assert_int_equal(buffer.size, 10000);
    buffer_consume(&buffer, 9990);
    assert_int_equal(buffer.size, 10);
    for (unsigned i = 0; i < 10; i++) {
        assert_int_equal(buffer.data[i], (uint8_t)((9990 + i) * 7));
    }
    buffer_consume(&buffer, 0);
    assert_int_equal(buffer.size, 10);
    buffer_consume(&buffer, 10);
    assert_int_equal(buffer.size, 0);

    buffer_reserve(&buffer, 100000);
    assert_true(buffer.capacity >= 100000);
    buffer_append(&buffer, NULL, 0);
    assert_int_equal(buffer.size, 0);
    buffer_free(&buffer);
    assert_null(buffer.data);
    assert_int_equal(buffer.capacity, 0);
}

static void test_numbers_are_little_endian(void **state) {
    (void)state;
    static const uint8_t expected[] = {0xAB, 0x02, 0x01, 0x06, 0x05, 0x04, 0x83,
                                       0x0E, 0x0D, 0x0C, 0x0B, 0x0A, 0x09, 0x08,
                                       0x87, 0x02, 0x00, 0x00, 0x00, 'h',  'i'};
    struct buffer buffer = {0};
    buffer_put_u8(&buffer, 0xAB);
    buffer_put_u16(&buffer, 0x0102);
    buffer_put_u32(&buffer, 0x83040506);
    buffer_put_u64(&buffer, 0x8708090A0B0C0D0E);
    buffer_put_bytes(&buffer, slice_of("hi"));
    assert_int_equal(buffer.size, sizeof expected);
    assert_memory_equal(buffer.data, expected, sizeof expected);

    struct reader reader = reader_make(buffer_slice(&buffer));
    assert_int_equal(reader_u8(&reader), 0xAB);
    assert_int_equal(reader_u16(&reader), 0x0102);
    assert_int_equal(reader_u32(&reader), 0x83040506);
    assert_true(reader_u64(&reader) == 0x8708090A0B0C0D0E);
    assert_false(reader_done(&reader));
    assert_true(slice_equal(reader_bytes(&reader), slice_of("hi")));
    assert_true(reader_done(&reader));
    buffer_free(&buffer);
}

static void test_reader_failure_sticks(void **state) {
    (void)state;
    struct reader reader = reader_make(slice_make("\x01\x02\x03", 3));
    assert_int_equal(reader_u32(&reader), 0);
    assert_true(reader.failed);
    /* Three bytes are left, but after a failure none of them may be handed out. */
    assert_int_equal(reader_u8(&reader), 0);
    assert_int_equal(reader_take(&reader, 0).size, 0);
    assert_false(reader_done(&reader));
}

static void test_reader_refuses_length_beyond_end(void **state) {
    (void)state;
    struct reader reader = reader_make(slice_make("\xff\xff\xff\xffxy", 6));
    struct slice bytes = reader_bytes(&reader);
    assert_true(reader.failed);
    assert_int_equal(bytes.size, 0);

    reader = reader_make(slice_make("abc", 3));
    reader_take(&reader, SIZE_MAX);
    assert_true(reader.failed);

    reader = reader_make(slice_make(NULL, 0));
    assert_true(reader_done(&reader));
    assert_int_equal(reader_take(&reader, 0).size, 0);
    assert_false(reader.failed);
    reader_u8(&reader);
    assert_true(reader.failed);
}

static void test_every_cut_of_a_record_fails(void **state) {
    (void)state;
    struct buffer buffer = {0};
    buffer_put_u64(&buffer, 1);
    buffer_put_bytes(&buffer, slice_of("some bytes"));
    buffer_put_u16(&buffer, 2);
    for (size_t size = 0; size <= buffer.size; size++) {
        /* A copy of the exact size, so that the address sanitizer sees a read behind it. */
        uint8_t *copy = mem_dup(buffer.data, size);
        struct reader reader = reader_make(slice_make(copy, size));
        reader_u64(&reader);
        reader_bytes(&reader);
        reader_u16(&reader);
        assert_int_equal(reader_done(&reader), size == buffer.size);
        mem_free(copy);
    }
    buffer_free(&buffer);
}

static void test_mem_handles_nothing_and_copies(void **state) {
    (void)state;
    void *nothing = mem_alloc(0);
    assert_non_null(nothing);
    nothing = mem_realloc(nothing, 0);
    assert_non_null(nothing);
    mem_free(nothing);
    mem_free(NULL);

    uint8_t *zeros = mem_zalloc(16, 16);
    for (unsigned i = 0; i < 256; i++) {
        assert_int_equal(zeros[i], 0);
    }
    mem_free(zeros);

    char *text = mem_strdup("text");
    assert_string_equal(text, "text");
    mem_free(text);
    void *empty = mem_dup(NULL, 0);
    assert_non_null(empty);
    mem_free(empty);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slices_compare),
        cmocka_unit_test(test_nocase_is_ascii_and_exact),
        cmocka_unit_test(test_buffer_grows_and_consumes),
        cmocka_unit_test(test_numbers_are_little_endian),
        cmocka_unit_test(test_reader_failure_sticks),
        cmocka_unit_test(test_reader_refuses_length_beyond_end),
        cmocka_unit_test(test_every_cut_of_a_record_fails),
        cmocka_unit_test(test_mem_handles_nothing_and_copies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
