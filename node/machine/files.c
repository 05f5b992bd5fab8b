#include "node/machine/files.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/mem.h"

static enum error_code sync_opened(const char *path, int flags, struct error *error) {
    int fd = open(path, flags | O_CLOEXEC);
    if (fd < 0) {
        return error_set_errno(error, errno, "open %s to sync it", path);
    }
    if (fsync(fd) != 0) {
        assert_fatal("fsync of %s failed (%s): what reached the disk is unknown; check the disk "
                     "and start again",
                     path, strerror(errno));
    }
    close(fd);
    return ERROR_NONE;
}

enum error_code files_sync_directory_of(const char *path, struct error *error) {
    char *copy = mem_strdup(path);
    enum error_code code = sync_opened(dirname(copy), O_RDONLY | O_DIRECTORY, error);
    mem_free(copy);
    return code;
}

enum error_code files_sync(const char *path, struct error *error) {
    return sync_opened(path, O_RDONLY, error);
}

static char *join(const char *path, const char *suffix) {
    size_t size = strlen(path) + strlen(suffix) + 1;
    char *joined = mem_alloc(size);
    snprintf(joined, size, "%s%s", path, suffix);
    return joined;
}

enum error_code files_remove(const char *path, const char *suffix, struct error *error) {
    char *name = join(path, suffix);
    enum error_code code = ERROR_NONE;
    if (unlink(name) != 0 && errno != ENOENT) {
        code = error_set_errno(error, errno, "remove %s", name);
    }
    mem_free(name);
    return code;
}

enum error_code files_rename(const char *from, const char *to, struct error *error) {
    if (rename(from, to) != 0) {
        return error_set_errno(error, errno, "rename %s to %s", from, to);
    }
    return ERROR_NONE;
}

bool files_exists(const char *path, const char *suffix) {
    char *name = join(path, suffix);
    bool exists = access(name, F_OK) == 0;
    mem_free(name);
    return exists;
}
