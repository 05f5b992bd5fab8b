/* Which releases work side by side. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "node/release.h"

static void test_only_neighbours_run_side_by_side(void **state) {
    (void)state;
    assert_true(release_is_neighbour(1, 1));
    assert_true(release_is_neighbour(1, 2));
    assert_true(release_is_neighbour(2, 1));
    assert_false(release_is_neighbour(1, 3));
    assert_false(release_is_neighbour(3, 1));
    assert_false(release_is_neighbour(0, UINT32_MAX));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_only_neighbours_run_side_by_side)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
