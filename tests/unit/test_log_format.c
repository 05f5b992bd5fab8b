#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/crc32c.h"
#include "base/mem.h"
#include "raft/log_format.h"

enum { SIZE = 16384 };

static uint8_t bytes[SIZE];
static const struct slice segment = {.data = bytes, .size = SIZE};

/* Writes a record of `size` payload bytes at `offset`; returns where the next one goes. */
static uint64_t put(uint64_t offset, uint32_t seed, struct log_record record, uint32_t size) {
    memset(bytes + offset, 0, log_record_size(size));
    memset(bytes + offset + LOG_RECORD_HEADER, 0x5a, size);
    record.size = size;
    record.payload_crc = crc32c(0, bytes + offset + LOG_RECORD_HEADER, size);
    log_record_encode(&record, seed, offset, bytes + offset);
    return offset + log_record_size(size);
}

static struct log_record entry_record(uint64_t sequence, uint64_t index, bool last) {
    return (struct log_record){.type = LOG_RECORD_ENTRY,
                               .kind = LOG_ENTRY_COMMAND,
                               .last = last,
                               .group = 2,
                               .sequence = sequence,
                               .term = 7,
                               .index = index};
}

static int setup(void **state) {
    (void)state;
    memset(bytes, 0, sizeof bytes);
    return 0;
}

static void test_record_comes_back(void **state) {
    (void)state;
    uint32_t seed = log_record_seed(1, 2);
    struct log_record written = entry_record(11, 99, true);
    assert_int_equal(put(4096, seed, written, 13), 4096 + 56);
    struct log_record read;
    assert_true(log_record_decode(segment, 4096, seed, &read));
    assert_true(log_record_intact(segment, 4096, &read));
    assert_int_equal(read.type, LOG_RECORD_ENTRY);
    assert_int_equal(read.kind, LOG_ENTRY_COMMAND);
    assert_true(read.last);
    assert_int_equal(read.group, 2);
    assert_int_equal(read.size, 13);
    assert_int_equal(read.sequence, 11);
    assert_int_equal(read.term, 7);
    assert_int_equal(read.index, 99);
    assert_int_equal(log_record_payload(segment, 4096, &read).size, 13);
}

static void test_every_flipped_bit_is_noticed(void **state) {
    (void)state;
    uint32_t seed = log_record_seed(1, 2);
    put(4096, seed, entry_record(11, 99, true), 16);
    for (unsigned bit = 0; bit < (LOG_RECORD_HEADER + 16) * 8; bit++) {
        uint64_t end;
        bytes[4096 + bit / 8] ^= (uint8_t)(1U << bit % 8);
        assert_false(log_batch_find(segment, 4096, seed, 11, &end));
        bytes[4096 + bit / 8] ^= (uint8_t)(1U << bit % 8);
        assert_true(log_batch_find(segment, 4096, seed, 11, &end));
    }
}

static void test_a_copy_is_no_record(void **state) {
    (void)state;
    uint32_t seed = log_record_seed(1, 2);
    struct log_record record;
    put(4096, seed, entry_record(11, 99, true), 16);
    memcpy(bytes + 8192, bytes + 4096, 64);
    assert_true(log_record_decode(segment, 4096, seed, &record));
    assert_false(log_record_decode(segment, 8192, seed, &record));
    assert_false(log_record_decode(segment, 4096, log_record_seed(1, 3), &record));
    assert_false(log_record_decode(segment, 4096, log_record_seed(2, 2), &record));
    assert_false(log_remains_find(segment, 4152, seed, 1).later);
}

static void test_senseless_records_are_refused(void **state) {
    (void)state;
    uint32_t seed = log_record_seed(1, 2);
    struct log_record record = entry_record(1, 1, true);
    struct log_record read;
    put(4096, seed, record, 0);
    assert_true(log_record_decode(segment, 4096, seed, &read));
    record.kind = 0;
    put(4096, seed, record, 0);
    assert_false(log_record_decode(segment, 4096, seed, &read));
    record = entry_record(1, 0, true);
    put(4096, seed, record, 0);
    assert_false(log_record_decode(segment, 4096, seed, &read));
    record = entry_record(1, 1, true);
    record.type = (enum log_record_type)0;
    put(4096, seed, record, 0);
    assert_false(log_record_decode(segment, 4096, seed, &read));
    record.type = LOG_RECORD_VOTE;
    record.kind = 0;
    put(4096, seed, record, 8);
    assert_false(log_record_decode(segment, 4096, seed, &read));
    /* Too long for the segment. */
    record = entry_record(1, 1, true);
    record.size = SIZE;
    log_record_encode(&record, seed, 4096, bytes + 4096);
    assert_false(log_record_decode(segment, 4096, seed, &read));
    /* No room for a header. */
    assert_false(log_record_decode(segment, SIZE - 32, seed, &read));
    assert_false(log_record_decode(segment, SIZE + 8, seed, &read));
}

static void test_batch_is_whole_or_not_there(void **state) {
    (void)state;
    uint32_t seed = log_record_seed(1, 2);
    uint64_t middle = put(4096, seed, entry_record(5, 1, false), 100);
    uint64_t last = put(middle, seed, entry_record(5, 2, false), 0);
    uint64_t expected = put(last, seed, entry_record(5, 3, true), 1);
    uint64_t end;
    assert_true(log_batch_find(segment, 4096, seed, 5, &end));
    assert_int_equal(end, expected);
    assert_false(log_batch_find(segment, 4096, seed, 4, &end));
    assert_false(log_batch_find(segment, 4096, seed, 6, &end));
    put(last, seed, entry_record(6, 3, true), 1); /* the batch never ended */
    assert_false(log_batch_find(segment, 4096, seed, 5, &end));
}

static void test_remains(void **state) {
    (void)state;
    uint32_t seed = log_record_seed(1, 2);
    assert_false(log_remains_find(segment, 4096, seed, 5).same);
    put(5000, seed, entry_record(4, 1, true), 0); /* stale */
    struct log_remains remains = log_remains_find(segment, 4096, seed, 5);
    assert_false(remains.same);
    assert_false(remains.later);
    put(6000, seed, entry_record(5, 1, true), 10);
    put(7000, seed, entry_record(5, 1, true), 10);
    remains = log_remains_find(segment, 4096, seed, 5);
    assert_true(remains.same);
    assert_int_equal(remains.same_end, 7000 + LOG_RECORD_HEADER);
    assert_false(remains.later);
    put(SIZE - 40, seed, entry_record(6, 1, true), 0); /* at the very end */
    remains = log_remains_find(segment, 4096, seed, 5);
    assert_true(remains.later);
    assert_int_equal(remains.later_offset, SIZE - 40);
}

static void test_header_comes_back(void **state) {
    (void)state;
    struct log_segment_header written = {
        .number = 9, .identity = 8, .base_sequence = 7, .size = SIZE, .n_groups = 6};
    struct log_segment_header read;
    struct error error;
    log_segment_header_encode(&written, bytes);
    assert_int_equal(log_segment_header_decode(segment, &read, &error), ERROR_NONE);
    assert_int_equal(read.number, 9);
    assert_int_equal(read.identity, 8);
    assert_int_equal(read.base_sequence, 7);
    assert_int_equal(read.size, SIZE);
    assert_int_equal(read.n_groups, 6);
    for (unsigned bit = 0; bit < LOG_SEGMENT_HEADER * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1U << bit % 8);
        assert_int_equal(log_segment_header_decode(segment, &read, &error), ERROR_CORRUPT);
        bytes[bit / 8] ^= (uint8_t)(1U << bit % 8);
    }
    assert_int_equal(log_segment_header_decode(slice_make(bytes, 51), &read, &error),
                     ERROR_CORRUPT);
    bytes_put_u32(bytes + 8, LOG_VERSION + 1);
    bytes_put_u32(bytes + 48, crc32c(0, bytes, 48));
    assert_int_equal(log_segment_header_decode(segment, &read, &error), ERROR_VERSION);
}

static void test_states_come_back(void **state) {
    (void)state;
    struct log_group_state written[2] = {{.term = 1, .voted_for = 2, .first = 3, .last = 2},
                                         {.term = 5, .first = 1, .last = 9, .base_term = 4}};
    struct log_group_state read[2];
    uint8_t out[2 * LOG_STATE_SIZE];
    log_state_encode(written, 2, out);
    assert_true(log_state_decode(slice_make(out, sizeof out), read, 2));
    assert_memory_equal(written, read, sizeof read);
    assert_false(log_state_decode(slice_make(out, sizeof out), read, 1));
    written[1].first = 11;
    log_state_encode(written, 2, out);
    assert_false(log_state_decode(slice_make(out, sizeof out), read, 2));
    written[1].first = 0;
    log_state_encode(written, 2, out);
    assert_false(log_state_decode(slice_make(out, sizeof out), read, 2));
}

static void test_names(void **state) {
    (void)state;
    char name[LOG_SEGMENT_NAME];
    uint64_t number;
    log_segment_name(0x1a2b, name);
    assert_string_equal(name, "0000000000001a2b.seg");
    assert_true(log_segment_name_parse(name, &number));
    assert_int_equal(number, 0x1a2b);
    const char *others[] = {"",
                            "1.seg",
                            "0000000000001A2B.seg",
                            "0000000000001a2b.sex",
                            "0000000000001a2b.seg.tmp",
                            "000000000000-a2b.seg"};
    for (size_t k = 0; k < sizeof others / sizeof others[0]; k++) {
        assert_false(log_segment_name_parse(others[k], &number));
    }
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup(name, setup)
    const struct CMUnitTest tests[] = {
        TEST(test_record_comes_back),
        TEST(test_every_flipped_bit_is_noticed),
        TEST(test_a_copy_is_no_record),
        TEST(test_senseless_records_are_refused),
        TEST(test_batch_is_whole_or_not_there),
        TEST(test_remains),
        TEST(test_header_comes_back),
        TEST(test_states_come_back),
        TEST(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
