#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/prng.h"
#include "raft/log_index.h"

enum { GROUPS = 2 };

static struct log_location at(uint32_t segment, uint32_t unit) {
    return (struct log_location){.segment = segment, .unit = unit};
}

static void append(struct log_index *index, unsigned group, uint64_t first, unsigned n,
                   uint64_t term, size_t size, uint64_t ticket) {
    for (unsigned k = 0; k < n; k++) {
        struct log_entry entry = {
            .term = term, .kind = LOG_ENTRY_COMMAND, .payload = payload_new(size)};
        log_index_append(index, group, first + k, &entry, 1, ticket);
        payload_unref(entry.payload);
    }
}

static struct log_index *index_new(uint64_t cache_size) {
    struct log_index *index = log_index_new(GROUPS, cache_size);
    log_index_segment_add(index, 1);
    return index;
}

static void test_pending_until_durable(void **state) {
    (void)state;
    struct log_index *index = index_new(1000);
    append(index, 0, 1, 3, 5, 10, 77);
    const struct log_index_entry *entry = log_index_get(index, 0, 2);
    assert_true(entry->pending);
    assert_non_null(entry->payload);
    assert_int_equal(log_index_oldest_live_total(index), 0);
    log_index_durable(index, 0, 2, 76, at(1, 8)); /* another append's */
    assert_true(entry->pending);
    log_index_durable(index, 0, 2, 77, at(1, 8));
    assert_false(entry->pending);
    assert_int_equal(log_index_oldest_live_total(index), 1);
    assert_int_equal(log_index_oldest_live(index, 0), 1);
    assert_int_equal(log_index_oldest_live(index, 1), 0);
    assert_int_equal(log_index_oldest_live_bytes(index), 56);
    assert_null(log_index_get(index, 0, 4));
    assert_null(log_index_get(index, 0, 0));
    log_index_durable(index, 0, 4, 77, at(1, 8)); /* not there: ignored */
    log_index_free(index);
}

static void test_replaced_entry_ignores_the_first_write(void **state) {
    (void)state;
    struct log_index *index = index_new(1000);
    append(index, 0, 1, 3, 5, 10, 1);
    append(index, 0, 2, 1, 6, 10, 2);
    assert_int_equal(log_index_state(index, 0).last, 2);
    log_index_durable(index, 0, 2, 1, at(1, 8));
    assert_true(log_index_get(index, 0, 2)->pending);
    log_index_durable(index, 0, 2, 2, at(1, 16));
    assert_int_equal(log_index_get(index, 0, 2)->location.unit, 16);
    assert_int_equal(log_index_get(index, 0, 2)->term, 6);
    log_index_free(index);
}

static void test_eviction_spares_the_pending(void **state) {
    (void)state;
    struct log_index *index = index_new(0);
    append(index, 0, 1, 1, 1, 100, 1);
    append(index, 1, 1, 1, 1, 100, 2);
    log_index_evict(index);
    assert_non_null(log_index_get(index, 0, 1)->payload);
    log_index_durable(index, 0, 1, 1, at(1, 8));
    log_index_evict(index);
    assert_null(log_index_get(index, 0, 1)->payload);
    assert_non_null(log_index_get(index, 1, 1)->payload);
    assert_true(log_index_cache_bytes(index) >= 100);
    log_index_durable(index, 1, 1, 2, at(1, 16));
    log_index_evict(index);
    assert_int_equal(log_index_cache_bytes(index), 0);
    log_index_free(index);
}

static void test_eviction_takes_the_oldest(void **state) {
    (void)state;
    struct log_index *index = index_new(5000);
    for (uint64_t i = 1; i <= 50; i++) {
        append(index, i % 2, (i + 1) / 2, 1, 1, 200, i);
        log_index_durable(index, i % 2, (i + 1) / 2, i, at(1, (uint32_t)i));
        log_index_evict(index);
        assert_true(log_index_cache_bytes(index) <= 5000);
    }
    assert_null(log_index_get(index, 0, 1)->payload);
    assert_non_null(log_index_get(index, 0, 25)->payload);
    log_index_free(index);
}

static void test_cut_and_reset(void **state) {
    (void)state;
    struct log_index *index = index_new(1000000);
    append(index, 0, 1, 5000, 3, 1, 1);
    for (uint64_t i = 1; i <= 5000; i++) {
        log_index_durable(index, 0, i, 1, at(1, (uint32_t)i));
    }
    assert_int_equal(log_index_cut(index, 0, 3000), 3);
    assert_null(log_index_get(index, 0, 3000));
    assert_non_null(log_index_get(index, 0, 3001));
    assert_int_equal(log_index_oldest_live_total(index), 2000);
    assert_int_equal(log_index_state(index, 0).base_term, 3);
    log_index_cut(index, 0, 5000);
    assert_int_equal(log_index_state(index, 0).first, 5001);
    assert_int_equal(log_index_state(index, 0).last, 5000);
    append(index, 0, 5001, 2, 4, 1, 2);
    log_index_reset(index, 0, 100, 2);
    assert_int_equal(log_index_state(index, 0).first, 101);
    assert_int_equal(log_index_state(index, 0).last, 100);
    assert_int_equal(log_index_state(index, 0).base_term, 2);
    assert_int_equal(log_index_oldest_live_total(index), 0);
    append(index, 0, 101, 1, 4, 1, 3);
    assert_non_null(log_index_get(index, 0, 101));
    log_index_free(index);
}

static void test_segments_free_up(void **state) {
    (void)state;
    struct log_index *index = index_new(0);
    append(index, 0, 1, 2, 1, 10, 1);
    log_index_durable(index, 0, 1, 1, at(1, 8));
    log_index_segment_add(index, 2);
    log_index_durable(index, 0, 2, 1, at(2, 8));
    log_index_relocated(index, 0, 1, at(1, 9), at(2, 20)); /* it is not there */
    assert_int_equal(log_index_oldest_live_total(index), 1);
    log_index_relocated(index, 0, 1, at(1, 8), at(2, 20));
    assert_int_equal(log_index_oldest_live_total(index), 0);
    log_index_segment_remove(index);
    assert_int_equal(log_index_segment_oldest(index), 2);
    assert_int_equal(log_index_oldest_live_total(index), 2);
    assert_int_equal(log_index_segment_newest(index), 2);
    log_index_free(index);
}

static void test_restored_entries_have_to_be_placed(void **state) {
    (void)state;
    struct log_index *index = index_new(0);
    struct log_group_state restored = {.term = 4, .voted_for = 1, .first = 10, .last = 5000};
    assert_true(log_index_restore(index, 0, &restored));
    assert_int_equal(log_index_unplaced(index, 0), 10);
    assert_int_equal(log_index_unplaced(index, 1), 0);
    assert_true(log_index_replace(index, 0, 11, 2, LOG_ENTRY_COMMAND, 5, at(1, 1)));
    assert_false(log_index_replace(index, 0, 11, 3, LOG_ENTRY_COMMAND, 5, at(1, 1)));
    assert_false(log_index_replace(index, 0, 9, 2, LOG_ENTRY_COMMAND, 5, at(1, 1)));
    assert_false(log_index_replace(index, 0, 5001, 2, LOG_ENTRY_COMMAND, 5, at(1, 1)));
    assert_true(log_index_replace(index, 0, 10, 2, LOG_ENTRY_COMMAND, 5, at(1, 2)));
    assert_int_equal(log_index_unplaced(index, 0), 12);
    assert_false(log_index_place(index, 0, 5002, 3, LOG_ENTRY_COMMAND, 5, at(1, 3)));
    assert_false(log_index_place(index, 0, 9, 3, LOG_ENTRY_COMMAND, 5, at(1, 3)));
    assert_true(log_index_place(index, 0, 12, 3, LOG_ENTRY_COMMAND, 5, at(1, 3)));
    assert_int_equal(log_index_state(index, 0).last, 12);
    assert_int_equal(log_index_unplaced(index, 0), 0);
    assert_int_equal(log_index_oldest_live_total(index), 3);
    assert_false(log_index_replay_cut(index, 0, 13, 3));
    assert_true(log_index_replay_cut(index, 0, 12, 3));
    assert_int_equal(log_index_oldest_live_total(index), 0);
    restored.last = restored.first + LOG_INDEX_RESTORE_MAX;
    assert_false(log_index_restore(index, 1, &restored));
    restored.last = UINT64_MAX;
    assert_false(log_index_restore(index, 1, &restored));
    log_index_free(index);
}

/* A quiet group keeps the head of the cache; the others come and go without end. */
static void test_cache_queue_stays_small(void **state) {
    (void)state;
    struct log_index *index = index_new(1000000);
    append(index, 1, 1, 1, 1, 10, 1);
    log_index_durable(index, 1, 1, 1, at(1, 1));
    for (uint64_t i = 1; i <= 100000; i++) {
        append(index, 0, i, 1, 1, 10, i + 1);
        log_index_durable(index, 0, i, i + 1, at(1, 2));
        log_index_cut(index, 0, i);
        log_index_evict(index);
    }
    assert_non_null(log_index_get(index, 1, 1)->payload);
    assert_true(log_index_queue_capacity(index) <= 4096);
    log_index_free(index);
}

/* The same random changes to the index and to a plain array. */
static void test_random_changes_against_a_model(void **state) {
    (void)state;
    enum { MAX = 6000 };
    struct model {
        uint64_t term;
        uint32_t unit;
    };
    static struct model model[MAX + 20];
    struct prng prng;
    prng_seed(&prng, 20240607);
    struct log_index *index = index_new(3000);
    uint64_t first = 1;
    uint64_t last = 0;
    uint64_t ticket = 0;
    for (unsigned round = 0; round < 20000; round++) {
        uint64_t die = prng_below(&prng, 100);
        if (die < 80 && last < MAX) {
            uint64_t from = last + 1;
            if (die < 10 && last >= first) {
                from = first + prng_below(&prng, last - first + 1);
            }
            uint64_t term = prng_below(&prng, 1000);
            unsigned n = 1 + (unsigned)prng_below(&prng, 10);
            ticket++;
            append(index, 0, from, 1, term, 20, ticket);
            append(index, 0, from + 1, n - 1, term, 20, ticket);
            for (uint64_t i = from; i < from + n; i++) {
                model[i] = (struct model){.term = term, .unit = (uint32_t)prng_next(&prng)};
                log_index_durable(index, 0, i, ticket, at(1, model[i].unit));
            }
            last = from + n - 1;
        } else if (die < 98 && last >= first) {
            uint64_t to = first + prng_below(&prng, last - first + 1) / 4;
            assert_int_equal(log_index_cut(index, 0, to), model[to].term);
            first = to + 1;
        } else if (last >= MAX) {
            last = prng_below(&prng, 3000);
            first = last + 1;
            log_index_reset(index, 0, last, 1);
        }
        log_index_evict(index);
        struct log_group_state now = log_index_state(index, 0);
        assert_int_equal(now.first, first);
        assert_int_equal(now.last, last);
        assert_int_equal(log_index_oldest_live_total(index), last + 1 - first);
        if (last >= first) {
            uint64_t i = first + prng_below(&prng, last - first + 1);
            const struct log_index_entry *entry = log_index_get(index, 0, i);
            assert_int_equal(entry->term, model[i].term);
            assert_int_equal(entry->location.unit, model[i].unit);
        }
        assert_null(log_index_get(index, 0, first - 1));
        assert_null(log_index_get(index, 0, last + 1));
    }
    log_index_free(index);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pending_until_durable),
        cmocka_unit_test(test_replaced_entry_ignores_the_first_write),
        cmocka_unit_test(test_eviction_spares_the_pending),
        cmocka_unit_test(test_eviction_takes_the_oldest),
        cmocka_unit_test(test_cut_and_reset),
        cmocka_unit_test(test_segments_free_up),
        cmocka_unit_test(test_restored_entries_have_to_be_placed),
        cmocka_unit_test(test_cache_queue_stays_small),
        cmocka_unit_test(test_random_changes_against_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
