/* Walks through a shard's projects for those that use most. */
#include "node/machine/top.h"
#include "tests/unit/machine_fixture.h"

enum { BATCH = 1000, QUOTA = 1000 };

static struct fixture f;

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

/* Project p<i> uses the key's byte and `used(i) - 1` of the value. */
static uint64_t used(unsigned i) {
    return 1 + i * 7919 % 950;
}

static void make_projects(unsigned n) {
    char name[32];
    uint8_t value[QUOTA] = {0};
    for (unsigned i = 0; i < n; i++) {
        if (i % BATCH == 0) {
            batch_begin(&f.batch, 1000, QUOTA);
        }
        snprintf(name, sizeof name, "p%u", i);
        batch_set(&f.batch, name, slice_of("k"), slice_make(value, used(i) - 1), 0,
                  COMMAND_EXPIRY_NONE, 0);
        if (i % BATCH == BATCH - 1 || i + 1 == n) {
            fixture_apply(&f);
        }
    }
}

static void walk(struct machine_top *top, unsigned n) {
    unsigned steps = 0;
    while (!top->done) {
        machine_top_step(f.machine, top);
        steps++;
    }
    assert_int_equal(steps, n / MACHINE_TOP_STEP + 1);
    assert_int_equal(top->projects, n);
}

static void test_an_empty_shard(void **state) {
    (void)state;
    struct machine_top *top = mem_zalloc(1, sizeof *top);
    top->most = 5;
    walk(top, 0);
    assert_int_equal(top->n, 0);
    mem_free(top);
}

static void test_a_walk_in_steps_finds_the_largest(void **state) {
    (void)state;
    enum { PROJECTS = 2 * MACHINE_TOP_STEP + 100 };
    struct machine_top *top = mem_zalloc(1, sizeof *top);
    uint64_t near = 0;
    uint64_t at_least = 950;
    uint64_t larger = 0;
    make_projects(PROJECTS);
    top->most = 40;
    top->shard = 3;
    walk(top, PROJECTS);
    assert_int_equal(top->n, 40);
    for (unsigned i = 0; i < PROJECTS; i++) {
        near += used(i) >= QUOTA - QUOTA / 10 ? 1 : 0;
    }
    assert_int_equal(top->near_quota, near);
    for (unsigned i = 0; i < top->n; i++) {
        char name[32] = {0};
        memcpy(name, top->entries[i].name, top->entries[i].name_size);
        assert_int_equal(top->entries[i].used_bytes, used((unsigned)strtoul(name + 1, NULL, 10)));
        assert_int_equal(top->entries[i].quota, QUOTA);
        assert_int_equal(top->entries[i].keys, 1);
        assert_int_equal(top->entries[i].shard, 3);
        at_least = top->entries[i].used_bytes < at_least ? top->entries[i].used_bytes : at_least;
    }
    /* None that was left out is larger than one that is in. */
    for (unsigned i = 0; i < PROJECTS; i++) {
        larger += used(i) > at_least ? 1 : 0;
    }
    assert_true(larger < top->n);
    mem_free(top);
}

static void test_projects_may_vanish_between_steps(void **state) {
    (void)state;
    enum { PROJECTS = MACHINE_TOP_STEP + 10 };
    struct machine_top *top = mem_zalloc(1, sizeof *top);
    char name[32];
    make_projects(PROJECTS);
    top->most = 3;
    machine_top_step(f.machine, top);
    assert_false(top->done);
    batch_begin(&f.batch, 2000, QUOTA);
    for (unsigned i = MACHINE_TOP_STEP - 5; i < MACHINE_TOP_STEP + 5; i++) {
        snprintf(name, sizeof name, "p%u", i);
        batch_plain(&f.batch, COMMAND_PROJECT_DELETE, name);
    }
    fixture_apply(&f);
    machine_top_step(f.machine, top);
    assert_true(top->done);
    assert_int_equal(top->projects, PROJECTS - 5);
    mem_free(top);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_an_empty_shard, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_walk_in_steps_finds_the_largest, setup, teardown),
        cmocka_unit_test_setup_teardown(test_projects_may_vanish_between_steps, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
