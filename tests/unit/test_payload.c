#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/payload.h"

enum { THREADS = 4, ROUNDS = 20000 };

static void test_references_keep_the_bytes(void **state) {
    (void)state;
    struct payload *payload = payload_copy(slice_of("entry"));
    assert_ptr_equal(payload_ref(payload), payload);
    payload_unref(payload);
    assert_true(slice_equal(payload_slice(payload), slice_of("entry")));
    payload_unref(payload);
    payload_unref(NULL);
}

static void test_empty_payload(void **state) {
    (void)state;
    struct payload *payload = payload_copy(slice_make(NULL, 0));
    assert_int_equal(payload_slice(payload).size, 0);
    payload_unref(payload);
}

static void *take_and_drop(void *argument) {
    struct payload *payload = argument;
    unsigned bad = 0;
    for (unsigned i = 0; i < ROUNDS; i++) {
        payload_ref(payload);
        bad += payload->data[0] != 'x';
        payload_unref(payload);
    }
    payload_unref(payload);
    return bad == 0 ? argument : NULL;
}

/* Each thread holds one reference and takes others; the last one to leave frees. A lost count shows
 * as a leak or a use after free under the sanitizers, and as a wrong count here. */
static void test_references_across_threads(void **state) {
    (void)state;
    struct payload *payload = payload_copy(slice_of("x"));
    pthread_t threads[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, take_and_drop, payload_ref(payload)), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        void *result = NULL;
        assert_int_equal(pthread_join(threads[i], &result), 0);
        assert_ptr_equal(result, payload);
    }
    assert_int_equal(atomic_load(&payload->refs), 1);
    payload_unref(payload);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_references_keep_the_bytes),
        cmocka_unit_test(test_empty_payload),
        cmocka_unit_test(test_references_across_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
