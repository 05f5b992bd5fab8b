#include "raft/log_files.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "raft/log_format.h"
#include "raft/log_newest.h"

/* Interference of a background fill with the syncs of the log stays within so many bytes. */
#define FILL_SYNC_EVERY (1 * MIB)

bool log_path(char *out, const char *dir, const char *name) {
    int size = snprintf(out, PATH_MAX, "%s/%s", dir, name);
    return size > 0 && size < PATH_MAX;
}

int log_file_prepare(const struct storage *storage, const char *dir, const char *name,
                     uint64_t size, bool fill) {
    char path[PATH_MAX];
    char final_path[PATH_MAX];
    char unfinished[LOG_SPARE_NAME + 4];
    snprintf(unfinished, sizeof unfinished, "%s.tmp", name);
    if (!log_path(path, dir, unfinished) || !log_path(final_path, dir, name)) {
        return -ENAMETOOLONG;
    }
    int file = storage->open(storage->context, path, STORAGE_CREATE);
    if (file < 0) {
        return file;
    }
    int result = storage->allocate(storage->context, file, size);
    if (result == -EOPNOTSUPP || result == -ENOSYS) {
        result = 0;
        fill = true;
    }
    /* Writing zeros costs now what every sync into merely reserved blocks would cost later: the
     * file system has to note that the block is in use. */
    if (result == 0 && fill) {
        result = storage_zero(storage, file, 0, size, FILL_SYNC_EVERY);
    }
    if (result == 0) {
        result = storage->sync(storage->context, file);
    }
    if (result == 0) {
        result = storage->rename(storage->context, path, final_path);
    }
    if (result != 0) {
        storage->close(storage->context, file);
        storage->unlink(storage->context, path);
        return result;
    }
    return file;
}

int log_file_activate(const struct log_files *files, const struct log_spare *spare, uint64_t number,
                      uint64_t base_sequence, uint64_t size) {
    const struct storage *storage = files->storage;
    char name[LOG_SEGMENT_NAME];
    char from[PATH_MAX];
    char to[PATH_MAX];
    log_segment_name(number, name);
    if (!log_path(from, files->dir, spare->name) || !log_path(to, files->dir, name)) {
        return -ENAMETOOLONG;
    }
    const struct log_segment_header header = {
        .number = number,
        .identity = files->identity,
        .base_sequence = base_sequence,
        .size = size,
        .n_groups = files->n_groups,
    };
    uint8_t block[LOG_BLOCK];
    log_segment_header_encode(&header, block);
    int result = storage_write(storage, spare->file, block, sizeof block, 0);
    if (result == 0) {
        result = storage->sync(storage->context, spare->file);
    }
    if (result == 0) {
        result = storage->rename(storage->context, from, to);
    }
    if (result == 0) {
        result = storage->sync_dir(storage->context, files->dir);
    }
    return result == 0 ? log_newest_store(files, number) : result;
}

void log_spare_name(uint32_t number, char name[LOG_SPARE_NAME]) {
    snprintf(name, LOG_SPARE_NAME, "spare-%08" PRIx32, number);
}

bool log_spare_name_parse(const char *name, uint32_t *number) {
    if (strlen(name) != 14 || strncmp(name, "spare-", 6) != 0 ||
        strspn(name + 6, "0123456789abcdef") != 8) {
        return false;
    }
    *number = (uint32_t)strtoul(name + 6, NULL, 16);
    return true;
}

static int recycle(const struct log_files *files, const char *path, struct log_spare *spare) {
    const struct storage *storage = files->storage;
    char to[PATH_MAX];
    if (!log_path(to, files->dir, spare->name)) {
        return -ENAMETOOLONG;
    }
    int result = storage->rename(storage->context, path, to);
    if (result == 0) {
        /* The old name must be gone for good before the header under it changes. */
        result = storage->sync_dir(storage->context, files->dir);
    }
    if (result != 0) {
        return result;
    }
    int file = storage->open(storage->context, to, STORAGE_OPEN);
    if (file < 0) {
        storage->unlink(storage->context, to);
        return 0; /* it is no segment any more, it merely could not become a spare */
    }
    spare->file = file;
    return 0;
}

int log_file_retire(const struct log_files *files, uint64_t number, struct log_spare *spare) {
    const struct storage *storage = files->storage;
    char name[LOG_SEGMENT_NAME];
    char path[PATH_MAX];
    log_segment_name(number, name);
    if (!log_path(path, files->dir, name)) {
        return -ENAMETOOLONG;
    }
    int result;
    if (spare != NULL) {
        spare->file = -1;
        result = recycle(files, path, spare);
    } else {
        result = storage->unlink(storage->context, path);
        if (result == 0) {
            /* Before the next segment goes: a crash must not leave a gap. */
            result = storage->sync_dir(storage->context, files->dir);
        }
    }
    /* An earlier attempt got as far as taking the name away. */
    return result == -ENOENT ? storage->sync_dir(storage->context, files->dir) : result;
}
