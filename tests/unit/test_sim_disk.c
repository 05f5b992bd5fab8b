/* The simulator's disk: what a power loss leaves of writes and syncs that come at the same time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "tests/sim/disk.h"
#include "tests/sim/kernel.h"

/* What the disk takes from the simulator. A call of a thread ends when thread_sleep() returns: what
 * happens meanwhile is `meanwhile`. */
static struct process process;
static void (*meanwhile)(void);

void *sim_alloc(size_t size) {
    return mem_zalloc(1, size);
}

void *sim_realloc(void *pointer, size_t size) {
    return mem_realloc(pointer, size);
}

void sim_free(void *pointer) {
    mem_free(pointer);
}

struct process *process_current(void) {
    return &process;
}

void process_io_point(void) {
}

/* Nobody looks into it. */
struct thread *thread_current(void) {
    return meanwhile != NULL ? (struct thread *)(void *)&process : NULL;
}

void thread_sleep(uint64_t ns) {
    (void)ns;
    void (*happens)(void) = meanwhile;
    meanwhile = NULL;
    if (happens != NULL) {
        happens();
    }
}

uint64_t kernel_random(uint64_t below) {
    return below - 1;
}

uint64_t kernel_delay(uint64_t mean) {
    return mean;
}

bool kernel_chance(double probability) {
    return probability >= 1;
}

void cover(const char *name) {
    (void)name;
}

static struct disk *disk;
static struct inode *file;

static int set_up(void **state) {
    (void)state;
    disk = disk_new(NULL);
    disk->faults.survives = 0; /* what is not synced is lost */
    assert_int_equal(disk_create(disk, "/file", false, &file), 0);
    assert_int_equal(disk_sync_dir(disk, "/"), 0);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    meanwhile = NULL;
    disk_wipe(disk);
    inode_unref(disk, disk->names.items[0].inode);
    inode_unref(disk, disk->durable.items[0].inode);
    sim_free(disk->names.items);
    sim_free(disk->durable.items);
    sim_free(disk->pending);
    sim_free(disk);
    return 0;
}

static void write_at(uint64_t offset, const char *text) {
    assert_int_equal(disk_write(disk, file, text, strlen(text), offset), (ssize_t)strlen(text));
}

static void sync_file(void) {
    assert_int_equal(disk_sync(disk, file), 0);
}

static void expect_after_power_loss(const char *text) {
    disk_lose_power(disk);
    assert_int_equal(file->size, strlen(text));
    assert_memory_equal(file->data, text, strlen(text));
}

static void test_what_is_not_synced_is_lost(void **state) {
    (void)state;
    write_at(0, "first");
    sync_file();
    write_at(0, "other and more");
    expect_after_power_loss("first");
}

static void append_to_its_sector(void) {
    write_at(5, " second");
}

/* As a WAL is appended to, in the middle of a sector, while a checkpoint syncs it. */
static void test_a_sync_keeps_what_was_before_it_in_a_sector_that_is_appended_to(void **state) {
    (void)state;
    write_at(0, "first");
    meanwhile = append_to_its_sector;
    sync_file();
    expect_after_power_loss("first");
}

static void write_over(void) {
    write_at(0, "other");
}

static void test_a_sync_keeps_what_was_before_it_where_it_is_written_over(void **state) {
    (void)state;
    write_at(0, "first");
    meanwhile = write_over;
    sync_file();
    expect_after_power_loss("first");
}

static void cut_to_one_byte(void) {
    assert_int_equal(disk_resize(disk, file, 1), 0);
    write_at(1, "????");
}

static void test_a_sync_keeps_what_was_before_it_where_the_file_is_cut(void **state) {
    (void)state;
    write_at(0, "first");
    meanwhile = cut_to_one_byte;
    sync_file();
    /* The size is that of the end of the sync, at most that of its beginning. */
    expect_after_power_loss("first");
}

static void append_and_sync(void) {
    write_at(5, " second");
    sync_file();
}

/* Of two syncs at once the older one ends last. */
static void test_an_older_sync_does_not_take_a_newer_size_back(void **state) {
    (void)state;
    write_at(0, "first");
    meanwhile = append_and_sync;
    sync_file();
    expect_after_power_loss("first second");
}

static void test_the_next_sync_keeps_what_came_during_the_one_before(void **state) {
    (void)state;
    write_at(0, "first");
    meanwhile = append_to_its_sector;
    sync_file();
    sync_file();
    expect_after_power_loss("first second");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_what_is_not_synced_is_lost),
        TEST(test_a_sync_keeps_what_was_before_it_in_a_sector_that_is_appended_to),
        TEST(test_a_sync_keeps_what_was_before_it_where_it_is_written_over),
        TEST(test_a_sync_keeps_what_was_before_it_where_the_file_is_cut),
        TEST(test_an_older_sync_does_not_take_a_newer_size_back),
        TEST(test_the_next_sync_keeps_what_came_during_the_one_before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
