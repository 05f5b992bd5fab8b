#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "raft/storage.h"

static int posix_open(void *context, const char *path, enum storage_mode mode) {
    (void)context;
    int flags = O_RDWR | O_CLOEXEC | (mode == STORAGE_CREATE ? O_CREAT | O_TRUNC : 0);
    int file;
    do {
        file = open(path, flags, 0600);
    } while (file < 0 && errno == EINTR);
    return file < 0 ? -errno : file;
}

static void posix_close(void *context, int file) {
    (void)context;
    close(file);
}

static ssize_t posix_pwritev(void *context, int file, const struct iovec *pieces, int n,
                             uint64_t offset) {
    (void)context;
    ssize_t done;
    do {
        done = pwritev(file, pieces, n, (off_t)offset);
    } while (done < 0 && errno == EINTR);
    return done < 0 ? -errno : done;
}

static ssize_t posix_pread(void *context, int file, void *data, size_t size, uint64_t offset) {
    (void)context;
    ssize_t done;
    do {
        done = pread(file, data, size, (off_t)offset);
    } while (done < 0 && errno == EINTR);
    return done < 0 ? -errno : done;
}

static int posix_sync(void *context, int file) {
    (void)context;
    return fdatasync(file) == 0 ? 0 : -errno;
}

static int posix_allocate(void *context, int file, uint64_t size) {
    (void)context;
    int failed;
    do {
        failed = fallocate(file, 0, 0, (off_t)size);
    } while (failed != 0 && errno == EINTR);
    return failed == 0 ? 0 : -errno;
}

static int posix_size(void *context, int file, uint64_t *size) {
    (void)context;
    struct stat info;
    if (fstat(file, &info) != 0) {
        return -errno;
    }
    *size = (uint64_t)info.st_size;
    return 0;
}

static int posix_rename(void *context, const char *from, const char *to) {
    (void)context;
    return rename(from, to) == 0 ? 0 : -errno;
}

static int posix_unlink(void *context, const char *path) {
    (void)context;
    return unlink(path) == 0 ? 0 : -errno;
}

static int posix_make_dir(void *context, const char *path) {
    (void)context;
    if (mkdir(path, 0700) == 0) {
        return 0;
    }
    int failure = errno;
    struct stat info;
    if (failure == EEXIST && stat(path, &info) == 0) {
        return S_ISDIR(info.st_mode) ? 0 : -ENOTDIR;
    }
    return -failure;
}

static int posix_list(void *context, const char *dir, storage_list_fn each, void *data) {
    (void)context;
    DIR *stream = opendir(dir);
    if (stream == NULL) {
        return -errno;
    }
    int result = 0;
    for (;;) {
        errno = 0;
        const struct dirent *item = readdir(stream);
        if (item == NULL) {
            result = -errno;
            break;
        }
        if (strcmp(item->d_name, ".") != 0 && strcmp(item->d_name, "..") != 0) {
            each(data, item->d_name);
        }
    }
    closedir(stream);
    return result;
}

static int posix_sync_dir(void *context, const char *dir) {
    (void)context;
    int file = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (file < 0) {
        return -errno;
    }
    int result = fsync(file) == 0 ? 0 : -errno;
    close(file);
    return result;
}

const struct storage *storage_posix(void) {
    static const struct storage storage = {
        .open = posix_open,
        .close = posix_close,
        .pwritev = posix_pwritev,
        .pread = posix_pread,
        .sync = posix_sync,
        .allocate = posix_allocate,
        .size = posix_size,
        .rename = posix_rename,
        .unlink = posix_unlink,
        .make_dir = posix_make_dir,
        .list = posix_list,
        .sync_dir = posix_sync_dir,
    };
    return &storage;
}

int storage_write_pieces(const struct storage *storage, int file, struct iovec *pieces, int n,
                         uint64_t offset) {
    while (n > 0) {
        int some = n < IOV_MAX ? n : IOV_MAX;
        ssize_t done = storage->pwritev(storage->context, file, pieces, some, offset);
        if (done < 0) {
            return (int)done;
        }
        if (done == 0) {
            return -EIO;
        }
        offset += (uint64_t)done;
        size_t left = (size_t)done;
        while (n > 0 && left >= pieces->iov_len) {
            left -= pieces->iov_len;
            pieces++;
            n--;
        }
        if (left > 0) {
            ASSERT(n > 0);
            pieces->iov_base = (uint8_t *)pieces->iov_base + left;
            pieces->iov_len -= left;
        }
    }
    return 0;
}

int storage_write(const struct storage *storage, int file, const void *data, size_t size,
                  uint64_t offset) {
    struct iovec piece = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
    return storage_write_pieces(storage, file, &piece, size > 0 ? 1 : 0, offset);
}

ssize_t storage_read(const struct storage *storage, int file, void *data, size_t size,
                     uint64_t offset) {
    size_t done = 0;
    while (done < size) {
        ssize_t some = storage->pread(storage->context, file, (uint8_t *)data + done, size - done,
                                      offset + done);
        if (some < 0) {
            return some;
        }
        if (some == 0) {
            break;
        }
        done += (size_t)some;
    }
    return (ssize_t)done;
}

int storage_zero(const struct storage *storage, int file, uint64_t offset, uint64_t size,
                 uint64_t sync_every) {
    static const uint8_t zeros[64 * 1024];
    enum { PIECES = 16 };
    uint64_t unsynced = 0;
    while (size > 0) {
        struct iovec pieces[PIECES];
        int n = 0;
        uint64_t chunk = 0;
        while (n < PIECES && chunk < size) {
            uint64_t part = size - chunk < sizeof zeros ? size - chunk : sizeof zeros;
            pieces[n].iov_base = (void *)(uintptr_t)zeros;
            pieces[n].iov_len = (size_t)part;
            chunk += part;
            n++;
        }
        int result = storage_write_pieces(storage, file, pieces, n, offset);
        if (result != 0) {
            return result;
        }
        offset += chunk;
        size -= chunk;
        unsynced += chunk;
        if (sync_every != 0 && unsynced >= sync_every) {
            result = storage->sync(storage->context, file);
            if (result != 0) {
                return result;
            }
            unsynced = 0;
        }
    }
    return 0;
}

int storage_sync_parent(const struct storage *storage, const char *path) {
    char parent[PATH_MAX];
    size_t size = strlen(path);
    while (size > 1 && path[size - 1] == '/') {
        size--;
    }
    while (size > 0 && path[size - 1] != '/') {
        size--;
    }
    if (size >= sizeof parent) {
        return -ENAMETOOLONG;
    }
    if (size == 0) {
        return storage->sync_dir(storage->context, ".");
    }
    memcpy(parent, path, size);
    parent[size] = '\0';
    return storage->sync_dir(storage->context, parent);
}
