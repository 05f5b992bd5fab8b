/* Crashes: processes killed at random moments, power lost at random writes, a disk that is full at
 * each write in turn, and a disk that fails to sync.
 *
 * Entry number i is the same in every test, so that the digest of a machine that was never
 * disturbed tells what every other one must hold at the same index. Run it with a seed as its
 * argument to repeat a failure. */
#include "tests/unit/machine_fixture.h"

#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "base/assert.h"
#include "node/machine/wal_vfs.h"
#include "tests/unit/faulty_vfs.h"

enum { ENTRIES = 6000, KILLS = 25, POWER_LOSSES = 250, GROUP_MAX = 6 };

static struct prng prng;
static struct fixture f;
static uint64_t digests[ENTRIES + 1];
/* The faulty disk, or what gathers frames of the WAL over it. */
static const char *vfs_name;

/* The entries. */

static void random_set(struct buffer *batch, struct prng *random) {
    char key[16];
    static uint8_t value[4000];
    uint64_t fill = prng_next(random);
    size_t size = (size_t)prng_below(random, prng_below(random, 6) == 0 ? sizeof(value) : 120);
    for (size_t i = 0; i < size; i++) {
        value[i] = (uint8_t)(fill >> (i % 8 * 8));
    }
    snprintf(key, sizeof(key), "key-%u", (unsigned)prng_below(random, 300));
    bool expires = prng_below(random, 3) == 0;
    batch_set(batch, prng_below(random, 2) == 0 ? "p" : "q", slice_of(key), slice_make(value, size),
              0, expires ? COMMAND_EXPIRY_AFTER : COMMAND_EXPIRY_NONE,
              expires ? 1 + prng_below(random, 500) : 0);
}

static void make_batch(struct buffer *batch, uint64_t index) {
    struct prng random;
    prng_seed(&random, index);
    batch_begin(batch, 1000 + 10 * index, FIXTURE_QUOTA);
    uint64_t n = prng_below(&random, 8);
    for (uint64_t i = 0; i < n; i++) {
        random_set(batch, &random);
    }
    if (prng_below(&random, 150) == 0) {
        batch_plain(batch, COMMAND_CLEAR, "p");
    }
}

/* Applies entries up to `last`. */
static enum error_code apply_up_to(struct fixture *fixture, uint64_t last) {
    struct buffer batches[GROUP_MAX] = {0};
    struct machine_entry entries[GROUP_MAX];
    uint64_t first = machine_state(fixture->machine).applied_index + 1;
    unsigned n = (unsigned)(last - first + 1);
    ASSERT(n <= GROUP_MAX);
    for (unsigned i = 0; i < n; i++) {
        make_batch(&batches[i], first + i);
        entries[i] = (struct machine_entry){.index = first + i,
                                            .term = 1,
                                            .kind = MACHINE_COMMANDS,
                                            .payload = buffer_slice(&batches[i])};
    }
    enum error_code code = machine_apply(fixture->machine, entries, n, NULL, NULL, &fixture->error);
    for (unsigned i = 0; i < n; i++) {
        buffer_free(&batches[i]);
    }
    return code;
}

static void apply_well(struct fixture *fixture, uint64_t last) {
    while (machine_state(fixture->machine).applied_index < last) {
        uint64_t next = machine_state(fixture->machine).applied_index + GROUP_MAX;
        if (apply_up_to(fixture, next < last ? next : last) != ERROR_NONE) {
            fail_msg("apply: %s", fixture->error.message);
        }
    }
}

/* The machine holds what it should at its index. */
static void check(struct fixture *fixture) {
    struct machine_state state = machine_state(fixture->machine);
    assert_true(state.applied_index <= ENTRIES);
    assert_true(state.digest == digests[state.applied_index]);
    fixture_recount(fixture);
}

static int record_digests(void **state) {
    (void)state;
    fixture_make(&f);
    for (uint64_t i = 1; i <= ENTRIES; i++) {
        apply_well(&f, i);
        digests[i] = machine_state(f.machine).digest;
    }
    fixture_destroy(&f);
    return 0;
}

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

/* Closes the machine and opens an empty one on the faulty disk. */
static void switch_to_faulty_disk(void) {
    machine_close(f.machine);
    fixture_unlink(&f, "shard");
    f.options.vfs = vfs_name;
    snprintf(faulty.image, sizeof(faulty.image), "%s/image", f.directory);
    faulty_reset(f.path);
    fixture_open(&f);
}

/* Killed processes. */

_Noreturn static void run_child(int report) {
    uint64_t last = machine_state(f.machine).applied_index;
    struct prng random;
    prng_seed(&random, last);
    for (;;) {
        last += 1 + prng_below(&random, GROUP_MAX);
        if (last > ENTRIES || apply_up_to(&f, last) != ERROR_NONE) {
            _exit(last > ENTRIES ? 0 : 1);
        }
        if (prng_below(&random, 3) > 0) {
            continue;
        }
        if (machine_commit(f.machine, &f.error) != ERROR_NONE) {
            _exit(1);
        }
        if (write(report, &last, sizeof(last)) != sizeof(last)) {
            _exit(1);
        }
        uint64_t durable_index;
        bool more;
        if (prng_below(&random, 20) == 0) {
            machine_checkpoint(f.machine, &durable_index, &f.error);
        }
        if (prng_below(&random, 5) == 0) {
            machine_reclaim(f.machine, 20, &more, &f.error);
        }
    }
}

/* Starts a process that applies entries, kills it and returns the last index that it reported. */
static uint64_t kill_a_child(void) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        close(ends[0]);
        if (machine_open(&f.machine, &f.options, &f.error) != ERROR_NONE) {
            _exit(1);
        }
        run_child(ends[1]);
    }
    close(ends[1]);
    uint64_t last = 0;
    uint64_t reports = 1 + prng_below(&prng, 80);
    for (uint64_t i = 0; i < reports; i++) {
        if (read(ends[0], &last, sizeof(last)) != sizeof(last)) {
            break;
        }
    }
    usleep((useconds_t)prng_below(&prng, 3000));
    kill(child, SIGKILL);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
    uint64_t report;
    while (read(ends[0], &report, sizeof(report)) == sizeof(report)) {
        last = report;
    }
    close(ends[0]);
    return last;
}

static void test_a_killed_process_loses_no_transaction(void **state) {
    (void)state;
    machine_close(f.machine);
    f.machine = NULL;
    uint64_t last = 0;
    for (int i = 0; i < KILLS; i++) {
        uint64_t reported = kill_a_child();
        fixture_open(&f);
        uint64_t applied = machine_state(f.machine).applied_index;
        assert_true(applied >= reported && applied >= last);
        check(&f);
        last = applied;
        machine_close(f.machine);
        f.machine = NULL;
    }
    assert_true(last > 0);
    print_message("%d kills, %" PRIu64 " entries\n", KILLS, last);
    fixture_open(&f);
    apply_well(&f, last + 20 < ENTRIES ? last + 20 : ENTRIES);
    check(&f);
}

/* Power loss. */

/* Opens the image and returns the index it holds, after checking all of it. */
static uint64_t check_image(uint64_t durable_index, uint64_t last) {
    struct fixture image = {0};
    image.options = f.options;
    image.options.vfs = NULL;
    image.options.path = faulty.image;
    fixture_open(&image);
    uint64_t index = machine_state(image.machine).applied_index;
    assert_true(index >= durable_index && index <= last);
    check(&image);
    apply_well(&image, index + 3 < ENTRIES ? index + 3 : ENTRIES);
    check(&image);
    machine_close(image.machine);
    fixture_unlink(&f, "image");
    fixture_unlink(&f, "image-wal");
    fixture_unlink(&f, "image-journal");
    return index;
}

/* Some entries, and sometimes what a node does between them. */
static void work(uint64_t *durable_index) {
    uint64_t last = machine_state(f.machine).applied_index + 1 + prng_below(&prng, GROUP_MAX);
    apply_well(&f, last);
    bool more;
    if (prng_below(&prng, 3) == 0) {
        assert_int_equal(machine_commit(f.machine, &f.error), ERROR_NONE);
    }
    if (prng_below(&prng, 6) == 0) {
        assert_int_equal(machine_checkpoint(f.machine, durable_index, &f.error), ERROR_NONE);
    }
    if (prng_below(&prng, 4) == 0) {
        assert_int_equal(machine_reclaim(f.machine, 30, &more, &f.error), ERROR_NONE);
    }
}

static void test_power_loss_leaves_a_prefix(void **state) {
    (void)state;
    switch_to_faulty_disk();
    uint64_t lost = 0;
    uint64_t kept = 0;
    for (int i = 0; i < POWER_LOSSES; i++) {
        uint64_t durable_index = 0;
        assert_int_equal(machine_checkpoint(f.machine, &durable_index, &f.error), ERROR_NONE);
        uint64_t durable_before = durable_index;
        faulty.changes_left = (long)prng_below(&prng, 400);
        while (faulty.changes_left >= 0) {
            durable_before = durable_index;
            work(&durable_index);
        }
        uint64_t last = machine_state(f.machine).applied_index;
        uint64_t index = check_image(durable_before, last);
        lost += last - index;
        kept += index - durable_before;
        if (last > ENTRIES - 1000) {
            teardown(NULL);
            setup(NULL);
            switch_to_faulty_disk();
        }
    }
    print_message("%d power losses: %" PRIu64 " entries kept beyond the last checkpoint, %" PRIu64
                  " lost\n",
                  POWER_LOSSES, kept, lost);
    assert_true(lost > 0 && kept > 0);
}

/* Before machine_open() returns, the new file is whole on the disk. */
static void test_power_loss_while_creating(void **state) {
    (void)state;
    unsigned images = 0;
    for (long changes = 0;; changes++) {
        machine_close(f.machine);
        f.machine = NULL;
        fixture_unlink(&f, "shard");
        f.options.vfs = vfs_name;
        snprintf(faulty.image, sizeof(faulty.image), "%s/image", f.directory);
        faulty_reset(f.path);
        faulty.changes_left = changes;
        fixture_open(&f);
        if (faulty.changes_left >= 0) {
            break;
        }
        assert_int_equal(check_image(0, 0), 0);
        images++;
    }
    assert_true(images > 10);
    faulty.changes_left = 0;
    faulty_write_image();
    struct machine_state verified;
    struct machine_options options = f.options;
    options.path = faulty.image;
    options.vfs = NULL;
    assert_int_equal(machine_verify(&options, true, &verified, &f.error), ERROR_NONE);
}

/* A full disk. */

/* One to three calls, then the commit. */
static enum error_code apply_and_commit(uint64_t last) {
    enum error_code code = ERROR_NONE;
    while (code == ERROR_NONE && machine_state(f.machine).applied_index < last) {
        uint64_t left = last - machine_state(f.machine).applied_index;
        code = apply_up_to(&f, left < GROUP_MAX / 2 ? last : last - left / 2);
    }
    return code == ERROR_NONE ? machine_commit(f.machine, &f.error) : code;
}

static void test_a_full_disk_goes_back_to_the_last_commit(void **state) {
    (void)state;
    switch_to_faulty_disk();
    unsigned refused = 0;
    for (uint64_t last = GROUP_MAX; last <= 40 * GROUP_MAX; last += GROUP_MAX) {
        faulty.failure_sticks = last % 2 == 0;
        for (long writes = 0;; writes++) {
            struct machine_state before = machine_state(f.machine);
            faulty.writes_left = writes;
            enum error_code code = apply_and_commit(last);
            faulty.writes_left = -1;
            if (code == ERROR_NONE) {
                break;
            }
            assert_int_equal(code, ERROR_NOSPACE);
            assert_true(machine_state(f.machine).applied_index == before.applied_index);
            assert_true(machine_state(f.machine).clock_ms == before.clock_ms);
            check(&f);
            refused++;
        }
        check(&f);
    }
    assert_true(refused > 40);
    fixture_reopen(&f);
    check(&f);
}

static void test_a_full_disk_during_a_checkpoint(void **state) {
    (void)state;
    switch_to_faulty_disk();
    uint64_t last = 0;
    uint64_t durable_index = 0;
    unsigned refused = 0;
    for (long writes = 0;; writes++) {
        last += GROUP_MAX;
        apply_well(&f, last);
        faulty.writes_left = writes;
        uint64_t reported = 0;
        enum error_code code = machine_checkpoint(f.machine, &reported, &f.error);
        faulty.writes_left = -1;
        if (code == ERROR_NONE) {
            assert_int_equal(reported, last);
            break;
        }
        assert_int_equal(code, ERROR_NOSPACE);
        assert_int_equal(reported, 0);
        check(&f);
        faulty_write_image();
        check_image(durable_index, last);
        refused++;
    }
    assert_true(refused > 10);
    fixture_reopen(&f);
    check(&f);
}

static void test_a_full_disk_while_opening_and_reclaiming(void **state) {
    (void)state;
    machine_close(f.machine);
    f.machine = NULL;
    fixture_unlink(&f, "shard");
    f.options.vfs = vfs_name;
    faulty_reset(f.path);
    unsigned refused = 0;
    for (long writes = 0; f.machine == NULL; writes++) {
        faulty.writes_left = writes;
        faulty.failure_sticks = true;
        enum error_code code = machine_open(&f.machine, &f.options, &f.error);
        faulty.writes_left = -1;
        assert_true(code == ERROR_NONE || code == ERROR_NOSPACE);
        refused += code == ERROR_NOSPACE;
    }
    assert_true(refused > 2);
    apply_well(&f, 1000);
    assert_int_equal(machine_commit(f.machine, &f.error), ERROR_NONE);
    assert_true(machine_state(f.machine).has_garbage);
    for (long writes = 0;; writes++) {
        faulty.writes_left = writes;
        bool more = false;
        enum error_code code = machine_reclaim(f.machine, 50, &more, &f.error);
        faulty.writes_left = -1;
        check(&f);
        if (code == ERROR_NONE) {
            break;
        }
        assert_int_equal(code, ERROR_NOSPACE);
        assert_true(more);
    }
}

/* A disk that cannot sync. */

static void test_a_failed_sync_stops_the_process(void **state) {
    (void)state;
    switch_to_faulty_disk();
    apply_well(&f, 10);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        faulty.fails_sync = true;
        uint64_t durable_index;
        machine_checkpoint(f.machine, &durable_index, &f.error);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

/* A replacement that is cut short. */

/* A checkpoint that stopped half-way left a file that is whole only with its WAL: the replacement
 * must not take that away before it has something better. */
static void test_replacing_folds_the_old_wal_in(void **state) {
    (void)state;
    switch_to_faulty_disk();
    apply_well(&f, 300);
    assert_int_equal(machine_commit(f.machine, &f.error), ERROR_NONE);
    faulty.writes_left = 3;
    faulty.failure_sticks = true;
    uint64_t durable_index = 0;
    assert_int_equal(machine_checkpoint(f.machine, &durable_index, &f.error), ERROR_NOSPACE);
    machine_close(f.machine); /* the disk is still full: the WAL stays */
    f.machine = NULL;
    faulty.writes_left = -1;
    char name[2 * FIXTURE_PATH_SIZE];
    snprintf(name, sizeof(name), "%s-wal", f.path);
    assert_int_equal(access(name, F_OK), 0);
    snprintf(name, sizeof(name), "%s/missing", f.directory);
    assert_int_not_equal(machine_replace(&f.options, name, &f.error), ERROR_NONE);
    snprintf(name, sizeof(name), "%s/staged", f.directory);
    assert_int_equal(mkdir(name, 0700), 0); /* a directory cannot take the place of a file */
    assert_int_not_equal(machine_replace(&f.options, name, &f.error), ERROR_NONE);
    assert_int_equal(rmdir(name), 0);
    fixture_open(&f);
    assert_int_equal(machine_state(f.machine).applied_index, 300);
    check(&f);
}

int main(int argc, char **argv) {
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : (uint64_t)time(NULL);
    print_message("seed %" PRIu64 "\n", seed);
    prng_seed(&prng, seed);
    faulty_register(&prng);
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_a_killed_process_loses_no_transaction),
        TEST(test_power_loss_leaves_a_prefix),
        TEST(test_power_loss_while_creating),
        TEST(test_a_full_disk_goes_back_to_the_last_commit),
        TEST(test_a_full_disk_during_a_checkpoint),
        TEST(test_a_full_disk_while_opening_and_reclaiming),
        TEST(test_a_failed_sync_stops_the_process),
        TEST(test_replacing_folds_the_old_wal_in),
    };
    struct wal_vfs gathering;
    int rc = wal_vfs_register(&gathering, "gathering", &faulty.vfs);
    ASSERT(rc == SQLITE_OK);
    vfs_name = "faulty";
    int failed = cmocka_run_group_tests_name("on a faulty disk", tests, record_digests, NULL);
    vfs_name = "gathering";
    failed += cmocka_run_group_tests_name("gathering frames of the WAL", tests, NULL, NULL);
    sqlite3_vfs_unregister(&gathering.vfs);
    for (int i = 0; i < FAULTY_FILES; i++) {
        faulty_forget(&faulty.files[i]);
        buffer_free(&faulty.files[i].durable);
    }
    return failed;
}
