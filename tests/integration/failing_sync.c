/* Preloaded into a node by the tests: fsync() and fdatasync() fail with EIO while the file named by
 * FAILING_SYNC_TRIGGER exists, as on a disk that lost a write. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

typedef int (*sync_function)(int);

int fsync(int fd);
int fdatasync(int fd);

static int sync_or_fail(const char *name, int fd) {
    const char *trigger = getenv("FAILING_SYNC_TRIGGER");
    if (trigger != NULL && access(trigger, F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    /* POSIX promises that a function's address survives the way through void *. */
    sync_function next = (sync_function)dlsym(RTLD_NEXT, name);
    return next(fd);
}

int fsync(int fd) {
    return sync_or_fail("fsync", fd);
}

int fdatasync(int fd) {
    return sync_or_fail("fdatasync", fd);
}
