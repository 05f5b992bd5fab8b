#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/crc32c.h"
#include "base/mem.h"
#include "base/prng.h"

static void assert_both(const void *data, size_t size, uint32_t expected) {
    assert_int_equal(crc32c(0, data, size), expected);
    assert_int_equal(crc32c_table(0, data, size), expected);
}

/* RFC 3720, section B.4. */
static void test_published_vectors(void **state) {
    (void)state;
    uint8_t bytes[32];
    memset(bytes, 0, sizeof bytes);
    assert_both(bytes, sizeof bytes, 0x8A9136AA);
    memset(bytes, 0xFF, sizeof bytes);
    assert_both(bytes, sizeof bytes, 0x62A8AB43);
    for (unsigned i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)i;
    }
    assert_both(bytes, sizeof bytes, 0x46DD794E);
    for (unsigned i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)(31 - i);
    }
    assert_both(bytes, sizeof bytes, 0x113FDB5C);

    static const uint8_t scsi_read[48] = {
        0x01, 0xC0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x00, 0x00, 0x04, 0x00,
        0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x18, 0x28, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00};
    assert_both(scsi_read, sizeof scsi_read, 0xD9963A56);
    assert_both("123456789", 9, 0xE3069283);
    assert_both("", 0, 0);
    assert_both(NULL, 0, 0);
}

/* Every size and alignment around the eight-byte steps, and every way to cut in two. */
static void test_fast_path_and_continuation_agree(void **state) {
    (void)state;
    uint8_t bytes[96];
    struct prng prng;
    prng_seed(&prng, 1);
    for (unsigned i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)prng_next(&prng);
    }
    for (size_t start = 0; start < 9; start++) {
        for (size_t size = 0; size + start <= sizeof bytes; size++) {
            /* A copy of the exact size, so that the address sanitizer sees a read behind it. */
            uint8_t *copy = mem_dup(bytes + start, size);
            uint32_t whole = crc32c_table(0, copy, size);
            assert_int_equal(crc32c(0, copy, size), whole);
            mem_free(copy);
            size_t cut = size / 3;
            uint32_t head = crc32c(0, bytes + start, cut);
            assert_int_equal(crc32c(head, bytes + start + cut, size - cut), whole);
            assert_int_equal(crc32c_table(head, bytes + start + cut, size - cut), whole);
        }
    }
}

static void test_every_flipped_bit_is_noticed(void **state) {
    (void)state;
    uint8_t bytes[64] = {0};
    uint32_t good = crc32c(0, bytes, sizeof bytes);
    for (unsigned bit = 0; bit < sizeof bytes * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        assert_int_not_equal(crc32c(0, bytes, sizeof bytes), good);
        bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_vectors),
        cmocka_unit_test(test_fast_path_and_continuation_agree),
        cmocka_unit_test(test_every_flipped_bit_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
