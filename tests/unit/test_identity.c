#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/mem.h"
#include "raft/identity.h"

struct fixture {
    char root[64];
    char dir[80];
    struct error error;
};

static int setup(void **state) {
    struct fixture *f = mem_zalloc(1, sizeof *f);
    snprintf(f->root, sizeof f->root, "/tmp/ikv-test-identity-XXXXXX");
    assert_non_null(mkdtemp(f->root));
    snprintf(f->dir, sizeof f->dir, "%s/data", f->root);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", f->root);
    assert_int_equal(system(command), 0);
    mem_free(f);
    return 0;
}

static int open_file(const struct fixture *f, const char *name, int flags) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", f->dir, name);
    int file = open(path, flags, 0600);
    assert_true(file >= 0);
    return file;
}

/* Changes one byte; with `repair` the checksum is made to fit again. */
static void change_byte(const struct fixture *f, const char *name, size_t at, bool repair) {
    uint8_t bytes[4096];
    int file = open_file(f, name, O_RDWR);
    ssize_t size = read(file, bytes, sizeof bytes);
    assert_true(size > (ssize_t)at + 4);
    bytes[at] ^= 0x10;
    if (repair) {
        bytes_put_u32(bytes + size - 4, crc32c(0, bytes, (size_t)size - 4));
    }
    assert_int_equal(pwrite(file, bytes, (size_t)size, 0), size);
    close(file);
}

static void test_created_once(void **state) {
    struct fixture *f = *state;
    struct identity first;
    struct identity second;
    assert_int_equal(identity_open(f->dir, "blue", 2, 8, &first, &f->error), ERROR_NONE);
    assert_true(first.incarnation != 0);
    assert_int_equal(first.boot, 0);
    assert_int_equal(identity_open(f->dir, "blue", 2, 8, &second, &f->error), ERROR_NONE);
    assert_string_equal(second.cluster, "blue");
    assert_int_equal(second.node_id, 2);
    assert_int_equal(second.n_shards, 8);
    assert_int_equal(second.incarnation, first.incarnation);
}

static void test_newcomer_becomes_a_member(void **state) {
    struct fixture *f = *state;
    struct identity identity;
    struct identity again;
    assert_int_equal(identity_open(f->dir, "blue", 2, 3, &identity, &f->error), ERROR_NONE);
    assert_int_equal(identity_join(f->dir, &identity, 77, IDENTITY_NEWCOMER, &f->error),
                     ERROR_NONE);
    assert_int_equal(identity_arrive(f->dir, &identity, 1 << 0 | 1 << 2, &f->error), ERROR_NONE);
    assert_int_equal(identity_open(f->dir, "blue", 2, 3, &again, &f->error), ERROR_NONE);
    assert_int_equal(again.standing, IDENTITY_NEWCOMER);
    assert_int_equal(again.arrived, 5);
    assert_int_equal(again.cluster_id, 77);
    assert_int_equal(identity_arrive(f->dir, &again, 1 << 1, &f->error), ERROR_NONE);
    assert_int_equal(identity_open(f->dir, "blue", 2, 3, &again, &f->error), ERROR_NONE);
    assert_int_equal(again.standing, IDENTITY_MEMBER);
    assert_int_equal(again.arrived, 0);
}

static void test_unknown_standing(void **state) {
    struct fixture *f = *state;
    struct identity identity;
    assert_int_equal(identity_open(f->dir, "blue", 2, 8, &identity, &f->error), ERROR_NONE);
    /* Behind magic, version, shards, two numbers, the name and the cluster's id; 0 becomes 16. */
    change_byte(f, "identity", 8 + 4 + 4 + 8 + 8 + 4 + 4 + 8, true);
    assert_int_equal(identity_open(f->dir, "blue", 2, 8, &identity, &f->error), ERROR_CORRUPT);
}

static void test_incarnations_differ(void **state) {
    struct fixture *f = *state;
    char other[96];
    snprintf(other, sizeof other, "%s-other", f->dir);
    struct identity a;
    struct identity b;
    assert_int_equal(identity_open(f->dir, "blue", 2, 8, &a, &f->error), ERROR_NONE);
    assert_int_equal(identity_open(other, "blue", 2, 8, &b, &f->error), ERROR_NONE);
    assert_true(a.incarnation != b.incarnation);
}

static void test_others_are_refused(void **state) {
    struct fixture *f = *state;
    struct identity identity;
    assert_int_equal(identity_open(f->dir, "blue", 2, 8, &identity, &f->error), ERROR_NONE);
    assert_int_equal(identity_open(f->dir, "red", 2, 8, &identity, &f->error), ERROR_MISMATCH);
    assert_non_null(strstr(f->error.message, "blue"));
    assert_non_null(strstr(f->error.message, "red"));
    assert_int_equal(identity_open(f->dir, "blue", 3, 8, &identity, &f->error), ERROR_MISMATCH);
    assert_non_null(strstr(f->error.message, "node 2"));
    assert_non_null(strstr(f->error.message, "node 3"));
    assert_int_equal(identity_open(f->dir, "blue", 2, 16, &identity, &f->error), ERROR_MISMATCH);
    assert_int_equal(identity_open(f->dir, "", 2, 8, &identity, &f->error), ERROR_INVALID);
    assert_int_equal(identity_open(f->dir, "blue", 2, 8, &identity, &f->error), ERROR_NONE);
}

static void test_every_damaged_byte_is_noticed(void **state) {
    struct fixture *f = *state;
    struct identity identity;
    assert_int_equal(identity_open(f->dir, "blue", 2, 8, &identity, &f->error), ERROR_NONE);
    for (size_t at = 0; at < 36; at++) {
        change_byte(f, "identity", at, false);
        assert_int_equal(identity_open(f->dir, "blue", 2, 8, &identity, &f->error), ERROR_CORRUPT);
        change_byte(f, "identity", at, false);
    }
    int file = open_file(f, "identity", O_RDWR);
    for (off_t size = 43; size >= 0; size--) {
        assert_int_equal(ftruncate(file, size), 0);
        assert_int_equal(identity_open(f->dir, "blue", 2, 8, &identity, &f->error), ERROR_CORRUPT);
    }
    close(file);
}

static void test_newer_version_is_refused(void **state) {
    struct fixture *f = *state;
    struct identity identity;
    assert_int_equal(identity_open(f->dir, "blue", 2, 8, &identity, &f->error), ERROR_NONE);
    change_byte(f, "identity", 8, true);
    assert_int_equal(identity_open(f->dir, "blue", 2, 8, &identity, &f->error), ERROR_VERSION);
}

static void test_data_without_identity(void **state) {
    struct fixture *f = *state;
    const char *names[] = {"log", "shard-0.db", "peers", "boot"};
    struct identity identity;
    for (size_t k = 0; k < sizeof names / sizeof names[0]; k++) {
        mkdir(f->dir, 0700);
        close(open_file(f, names[k], O_CREAT | O_RDWR));
        assert_int_equal(identity_open(f->dir, "blue", 2, 8, &identity, &f->error), ERROR_CORRUPT);
        assert_non_null(strstr(f->error.message, names[k]));
        char path[128];
        snprintf(path, sizeof path, "%s/%s", f->dir, names[k]);
        unlink(path);
    }
    /* The leftover of a creation that a crash interrupted is no data. */
    close(open_file(f, "identity.tmp", O_CREAT | O_RDWR));
    assert_int_equal(identity_open(f->dir, "blue", 2, 8, &identity, &f->error), ERROR_NONE);
}

static void test_boot_counts(void **state) {
    struct fixture *f = *state;
    struct identity identity;
    for (uint64_t k = 0; k < 5; k++) {
        assert_int_equal(identity_open(f->dir, "blue", 2, 8, &identity, &f->error), ERROR_NONE);
        assert_int_equal(identity.boot, k);
        assert_int_equal(identity_boot(f->dir, &identity, &f->error), ERROR_NONE);
        assert_int_equal(identity.boot, k + 1);
    }
    change_byte(f, "boot", 20, false);
    assert_int_equal(identity_open(f->dir, "blue", 2, 8, &identity, &f->error), ERROR_CORRUPT);
    change_byte(f, "boot", 20, false);
    change_byte(f, "boot", 13, true); /* the incarnation */
    assert_int_equal(identity_open(f->dir, "blue", 2, 8, &identity, &f->error), ERROR_MISMATCH);
}

static void test_lock(void **state) {
    struct fixture *f = *state;
    int fd;
    assert_int_equal(identity_lock(f->dir, &fd, &f->error), ERROR_NONE);
    int second;
    assert_int_equal(identity_lock(f->dir, &second, &f->error), ERROR_LOCKED);
    assert_int_equal(second, -1);
    char pid[32];
    snprintf(pid, sizeof pid, "pid %ld", (long)getpid());
    assert_non_null(strstr(f->error.message, pid));
    close(fd);
    assert_int_equal(identity_lock(f->dir, &fd, &f->error), ERROR_NONE);
    /* The lock file alone is no data. */
    struct identity identity;
    assert_int_equal(identity_open(f->dir, "blue", 2, 8, &identity, &f->error), ERROR_NONE);
    close(fd);
}

/* Only a part of the process's number fits: said as it is, without an errno that nothing set. */
static void test_lock_file_cut_short(void **state) {
    struct fixture *f = *state;
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    struct rlimit tight = {.rlim_cur = 1, .rlim_max = before.rlim_max};
    int fd;
    errno = 0;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
    enum error_code code = identity_lock(f->dir, &fd, &f->error);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(code, ERROR_IO);
    assert_int_equal(fd, -1);
    assert_non_null(strstr(f->error.message, "/data/lock: only 1 of "));
    assert_int_equal(identity_lock(f->dir, &fd, &f->error), ERROR_NONE);
    close(fd);
}

static void test_peers_are_remembered(void **state) {
    struct fixture *f = *state;
    struct identity identity;
    struct known_peers peers;
    uint64_t incarnation;
    assert_int_equal(identity_open(f->dir, "blue", 2, 8, &identity, &f->error), ERROR_NONE);
    assert_int_equal(known_peers_load(f->dir, &identity, &peers, &f->error), ERROR_NONE);
    assert_false(known_peers_get(&peers, 1, &incarnation));
    assert_int_equal(known_peers_set(&peers, 1, 100, &f->error), ERROR_NONE);
    assert_int_equal(known_peers_set(&peers, 3, 300, &f->error), ERROR_NONE);
    assert_int_equal(known_peers_set(&peers, 1, 101, &f->error), ERROR_NONE);
    known_peers_free(&peers);
    assert_int_equal(known_peers_load(f->dir, &identity, &peers, &f->error), ERROR_NONE);
    assert_true(known_peers_get(&peers, 1, &incarnation));
    assert_int_equal(incarnation, 101);
    assert_true(known_peers_get(&peers, 3, &incarnation));
    assert_int_equal(incarnation, 300);
    assert_int_equal(known_peers_forget(&peers, 1, &f->error), ERROR_NONE);
    assert_int_equal(known_peers_forget(&peers, 1, &f->error), ERROR_NONE);
    known_peers_free(&peers);
    assert_int_equal(known_peers_load(f->dir, &identity, &peers, &f->error), ERROR_NONE);
    assert_false(known_peers_get(&peers, 1, &incarnation));
    assert_true(known_peers_get(&peers, 3, &incarnation));
    for (uint64_t id = 10; id < 10 + LIMIT_NODES * 4 - 1; id++) {
        assert_int_equal(known_peers_set(&peers, id, id, &f->error), ERROR_NONE);
    }
    assert_int_equal(known_peers_set(&peers, 999, 1, &f->error), ERROR_TOOBIG);
    assert_false(known_peers_get(&peers, 999, &incarnation));
    known_peers_free(&peers);
}

static void test_damaged_peers_are_refused(void **state) {
    struct fixture *f = *state;
    struct identity identity;
    struct known_peers peers;
    assert_int_equal(identity_open(f->dir, "blue", 2, 8, &identity, &f->error), ERROR_NONE);
    assert_int_equal(known_peers_load(f->dir, &identity, &peers, &f->error), ERROR_NONE);
    assert_int_equal(known_peers_set(&peers, 1, 100, &f->error), ERROR_NONE);
    known_peers_free(&peers);
    change_byte(f, "peers", 30, false);
    assert_int_equal(known_peers_load(f->dir, &identity, &peers, &f->error), ERROR_CORRUPT);
    change_byte(f, "peers", 30, false);
    change_byte(f, "peers", 20, true); /* the count */
    assert_int_equal(known_peers_load(f->dir, &identity, &peers, &f->error), ERROR_CORRUPT);
    change_byte(f, "peers", 20, true);
    identity.incarnation++;
    assert_int_equal(known_peers_load(f->dir, &identity, &peers, &f->error), ERROR_MISMATCH);
}

static void test_failed_replacement_changes_nothing(void **state) {
    struct fixture *f = *state;
    struct identity identity;
    struct known_peers peers;
    uint64_t incarnation;
    assert_int_equal(identity_open(f->dir, "blue", 2, 8, &identity, &f->error), ERROR_NONE);
    assert_int_equal(known_peers_load(f->dir, &identity, &peers, &f->error), ERROR_NONE);
    assert_int_equal(known_peers_set(&peers, 1, 100, &f->error), ERROR_NONE);
    char blocker[128];
    snprintf(blocker, sizeof blocker, "%s/peers.tmp", f->dir);
    assert_int_equal(mkdir(blocker, 0700), 0); /* nothing can be created under this name */
    assert_int_equal(known_peers_set(&peers, 1, 101, &f->error), ERROR_IO);
    assert_true(known_peers_get(&peers, 1, &incarnation));
    assert_int_equal(incarnation, 100);
    known_peers_free(&peers);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_created_once),
        TEST(test_newcomer_becomes_a_member),
        TEST(test_unknown_standing),
        TEST(test_incarnations_differ),
        TEST(test_others_are_refused),
        TEST(test_every_damaged_byte_is_noticed),
        TEST(test_newer_version_is_refused),
        TEST(test_data_without_identity),
        TEST(test_boot_counts),
        TEST(test_lock),
        TEST(test_lock_file_cut_short),
        TEST(test_peers_are_remembered),
        TEST(test_damaged_peers_are_refused),
        TEST(test_failed_replacement_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
