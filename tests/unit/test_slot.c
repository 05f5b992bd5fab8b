#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/limits.h"
#include "base/slot.h"

static void test_crc16_known_values(void **state) {
    (void)state;
    assert_int_equal(slot_crc16(slice_of("123456789")), 0x31C3);
    assert_int_equal(slot_crc16(slice_of("")), 0);
    assert_int_equal(slot_crc16(slice_make("\0", 1)), 0);
    /* What CLUSTER KEYSLOT of a Redis server answers. */
    assert_int_equal(slot_of(slice_of("foo")), 12182);
    assert_int_equal(slot_of(slice_of("bar")), 5061);
    assert_int_equal(slot_of(slice_of("default")), 5718);
}

/* For every number of shards: the ranges cover all slots in order, slot_shard() agrees with them,
 * and no two differ by more than one slot. */
static void test_shards_partition_the_slots(void **state) {
    (void)state;
    for (unsigned n = 1; n <= LIMIT_SHARDS; n++) {
        assert_int_equal(slot_first(0, n), 0);
        assert_int_equal(slot_first(n, n), SLOT_COUNT);
        for (unsigned shard = 0; shard < n; shard++) {
            unsigned first = slot_first(shard, n);
            unsigned end = slot_first(shard + 1, n);
            assert_in_range(end - first, SLOT_COUNT / n, SLOT_COUNT / n + 1);
            for (unsigned slot = first; slot < end; slot++) {
                if (slot_shard(slot, n) != shard) {
                    fail_msg("slot %u of %u shards is in %u, not %u", slot, n, slot_shard(slot, n),
                             shard);
                }
            }
        }
    }
}

static void test_one_shard_per_slot(void **state) {
    (void)state;
    assert_int_equal(slot_shard(SLOT_COUNT - 1, SLOT_COUNT), SLOT_COUNT - 1);
    assert_int_equal(slot_first(777, SLOT_COUNT), 777);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crc16_known_values),
        cmocka_unit_test(test_shards_partition_the_slots),
        cmocka_unit_test(test_one_shard_per_slot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
