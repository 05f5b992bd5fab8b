/* A SQLite VFS over the real one that fails writes on command and remembers what has been synced,
 * so that it can write down what the disk might hold after the power went.
 *
 * The model of a disk: what was written before the last sync of a file is there; of what was
 * written or truncated since, any part may be there, in units of 512 bytes and in any order. It has
 * no shared memory, which proves that the machine needs none. */
#ifndef TESTS_UNIT_FAULTY_VFS_H
#define TESTS_UNIT_FAULTY_VFS_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/mem.h"
#include "base/prng.h"

enum { FAULTY_SECTOR = 512, FAULTY_FILES = 3 };

static const char *const faulty_suffixes[FAULTY_FILES] = {"", "-wal", "-journal"};

/* A write since the last sync, or a truncation when there is no data. */
struct faulty_change {
    struct faulty_change *next;
    size_t offset;
    size_t size;
    bool is_truncation;
    uint8_t data[];
};

/* One of faulty_suffixes. */
struct faulty_tracked {
    struct buffer durable;
    struct faulty_change *first;
    struct faulty_change **last;
};

struct faulty_file {
    sqlite3_file base;
    struct faulty_tracked *tracked;
    sqlite3_file *real;
};

static struct {
    sqlite3_vfs vfs;
    sqlite3_vfs *real;
    struct faulty_tracked files[FAULTY_FILES]; /* in the order of faulty_suffixes */
    /* Writes that still succeed; negative: all do. Afterwards one fails, or all when it sticks. */
    long writes_left;
    bool failure_sticks;
    bool fails_sync;
    uint64_t failures;
    /* Changes and syncs until an image of the disk is written to `image`; negative: none is. */
    long changes_left;
    char image[128];
    struct prng *prng;
} faulty;

/* Tracking. */

static inline void faulty_forget(struct faulty_tracked *tracked) {
    while (tracked->first != NULL) {
        struct faulty_change *change = tracked->first;
        tracked->first = change->next;
        mem_free(change);
    }
    tracked->last = &tracked->first;
}

static inline void faulty_apply(struct buffer *bytes, const struct faulty_change *change,
                                size_t from, size_t size) {
    if (change->is_truncation) {
        if (change->offset < bytes->size) {
            bytes->size = change->offset;
        }
        return;
    }
    size_t end = change->offset + from + size;
    if (end > bytes->size) {
        size_t hole = end - bytes->size;
        buffer_reserve(bytes, hole);
        memset(bytes->data + bytes->size, 0, hole);
        bytes->size = end;
    }
    memcpy(bytes->data + change->offset + from, change->data + from, size);
}

static inline void faulty_settle(struct faulty_tracked *tracked) {
    for (const struct faulty_change *c = tracked->first; c != NULL; c = c->next) {
        faulty_apply(&tracked->durable, c, 0, c->size);
    }
    faulty_forget(tracked);
}

static inline void faulty_note(struct faulty_tracked *tracked, size_t offset, const void *data,
                               size_t size) {
    struct faulty_change *change = mem_zalloc(1, sizeof(*change) + size);
    change->offset = offset;
    change->size = size;
    change->is_truncation = data == NULL;
    if (data != NULL) {
        memcpy(change->data, data, size);
    }
    *tracked->last = change;
    tracked->last = &change->next;
}

/* Forgets everything, and takes the files at `path` for synced. */
static inline void faulty_reset(const char *path) {
    for (int i = 0; i < FAULTY_FILES; i++) {
        struct faulty_tracked *tracked = &faulty.files[i];
        faulty_forget(tracked);
        buffer_free(&tracked->durable);
        char name[256];
        snprintf(name, sizeof(name), "%s%s", path, faulty_suffixes[i]);
        FILE *file = fopen(name, "rb");
        uint8_t chunk[4096];
        size_t got;
        while (file != NULL && (got = fread(chunk, 1, sizeof(chunk), file)) > 0) {
            buffer_append(&tracked->durable, chunk, got);
        }
        if (file != NULL) {
            fclose(file);
        }
    }
    faulty.writes_left = -1;
    faulty.changes_left = -1;
    faulty.fails_sync = false;
    faulty.failures = 0;
}

static inline void faulty_write_image_of(const struct faulty_tracked *tracked, const char *name,
                                         uint64_t percent) {
    struct buffer bytes = {0};
    buffer_append_slice(&bytes, buffer_slice(&tracked->durable));
    for (const struct faulty_change *c = tracked->first; c != NULL; c = c->next) {
        if (c->is_truncation && prng_below(faulty.prng, 100) < percent) {
            faulty_apply(&bytes, c, 0, 0);
        }
        for (size_t at = 0; at < c->size; at += FAULTY_SECTOR) {
            size_t size = c->size - at < FAULTY_SECTOR ? c->size - at : FAULTY_SECTOR;
            if (prng_below(faulty.prng, 100) < percent) {
                faulty_apply(&bytes, c, at, size);
            }
        }
    }
    FILE *file = fopen(name, "wb");
    if (bytes.size > 0) {
        fwrite(bytes.data, 1, bytes.size, file);
    }
    fclose(file);
    buffer_free(&bytes);
}

/* What the disk may hold now. */
static inline void faulty_write_image(void) {
    static const uint64_t percents[] = {0, 50, 90, 99, 100};
    uint64_t percent = percents[prng_below(faulty.prng, 5)];
    for (int i = 0; i < FAULTY_FILES; i++) {
        char name[sizeof(faulty.image) + 16];
        snprintf(name, sizeof(name), "%s%s", faulty.image, faulty_suffixes[i]);
        faulty_write_image_of(&faulty.files[i], name, percent);
    }
}

static inline void faulty_count_change(void) {
    if (faulty.changes_left >= 0 && faulty.changes_left-- == 0) {
        faulty_write_image();
    }
}

/* The VFS. */

static inline sqlite3_file *faulty_real(sqlite3_file *file) {
    return ((struct faulty_file *)file)->real;
}

static inline int faulty_close(sqlite3_file *file) {
    return faulty_real(file)->pMethods->xClose(faulty_real(file));
}

static inline int faulty_read(sqlite3_file *file, void *data, int size, sqlite3_int64 offset) {
    return faulty_real(file)->pMethods->xRead(faulty_real(file), data, size, offset);
}

static inline int faulty_write(sqlite3_file *file, const void *data, int size,
                               sqlite3_int64 offset) {
    if (faulty.writes_left == 0) {
        faulty.failures++;
        faulty.writes_left = faulty.failure_sticks ? 0 : -1;
        return SQLITE_FULL;
    }
    if (faulty.writes_left > 0) {
        faulty.writes_left--;
    }
    int rc = faulty_real(file)->pMethods->xWrite(faulty_real(file), data, size, offset);
    struct faulty_tracked *tracked = ((struct faulty_file *)file)->tracked;
    if (rc == SQLITE_OK && tracked != NULL) {
        faulty_note(tracked, (size_t)offset, data, (size_t)size);
        faulty_count_change();
    }
    return rc;
}

static inline int faulty_truncate(sqlite3_file *file, sqlite3_int64 size) {
    int rc = faulty_real(file)->pMethods->xTruncate(faulty_real(file), size);
    struct faulty_tracked *tracked = ((struct faulty_file *)file)->tracked;
    if (rc == SQLITE_OK && tracked != NULL) {
        faulty_note(tracked, (size_t)size, NULL, 0);
        faulty_count_change();
    }
    return rc;
}

static inline int faulty_sync(sqlite3_file *file, int flags) {
    if (faulty.fails_sync) {
        return SQLITE_IOERR_FSYNC;
    }
    struct faulty_tracked *tracked = ((struct faulty_file *)file)->tracked;
    if (tracked != NULL) {
        faulty_count_change();
        faulty_settle(tracked);
        return SQLITE_OK;
    }
    return faulty_real(file)->pMethods->xSync(faulty_real(file), flags);
}

static inline int faulty_file_size(sqlite3_file *file, sqlite3_int64 *size) {
    return faulty_real(file)->pMethods->xFileSize(faulty_real(file), size);
}

static inline int faulty_lock(sqlite3_file *file, int level) {
    return faulty_real(file)->pMethods->xLock(faulty_real(file), level);
}

static inline int faulty_unlock(sqlite3_file *file, int level) {
    return faulty_real(file)->pMethods->xUnlock(faulty_real(file), level);
}

static inline int faulty_check_lock(sqlite3_file *file, int *is_locked) {
    return faulty_real(file)->pMethods->xCheckReservedLock(faulty_real(file), is_locked);
}

static inline int faulty_control(sqlite3_file *file, int operation, void *argument) {
    return faulty_real(file)->pMethods->xFileControl(faulty_real(file), operation, argument);
}

static inline int faulty_sector_size(sqlite3_file *file) {
    return faulty_real(file)->pMethods->xSectorSize(faulty_real(file));
}

static inline int faulty_characteristics(sqlite3_file *file) {
    return faulty_real(file)->pMethods->xDeviceCharacteristics(faulty_real(file));
}

static inline struct faulty_tracked *faulty_tracked_of(int flags) {
    if (flags & SQLITE_OPEN_MAIN_DB) {
        return &faulty.files[0];
    }
    if (flags & SQLITE_OPEN_WAL) {
        return &faulty.files[1];
    }
    return flags & SQLITE_OPEN_MAIN_JOURNAL ? &faulty.files[2] : NULL;
}

static inline int faulty_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags,
                              int *out_flags) {
    static const sqlite3_io_methods methods = {
        .iVersion = 1,
        .xClose = faulty_close,
        .xRead = faulty_read,
        .xWrite = faulty_write,
        .xTruncate = faulty_truncate,
        .xSync = faulty_sync,
        .xFileSize = faulty_file_size,
        .xLock = faulty_lock,
        .xUnlock = faulty_unlock,
        .xCheckReservedLock = faulty_check_lock,
        .xFileControl = faulty_control,
        .xSectorSize = faulty_sector_size,
        .xDeviceCharacteristics = faulty_characteristics,
    };
    (void)vfs;
    struct faulty_file *opened = (struct faulty_file *)file;
    opened->real = (sqlite3_file *)(opened + 1);
    opened->tracked = faulty_tracked_of(flags);
    int rc = faulty.real->xOpen(faulty.real, name, opened->real, flags, out_flags);
    file->pMethods = opened->real->pMethods != NULL ? &methods : NULL;
    return rc;
}

/* A file that is gone is one without bytes; SQLite syncs the directory where it matters. */
static inline int faulty_delete(sqlite3_vfs *vfs, const char *name, int sync_directory) {
    (void)vfs;
    faulty_count_change();
    size_t size = strlen(name);
    for (int i = 1; i < FAULTY_FILES; i++) {
        size_t suffix = strlen(faulty_suffixes[i]);
        if (size > suffix && strcmp(name + size - suffix, faulty_suffixes[i]) == 0) {
            faulty_forget(&faulty.files[i]);
            faulty.files[i].durable.size = 0;
        }
    }
    return faulty.real->xDelete(faulty.real, name, sync_directory);
}

/* Registers the VFS under the name "faulty". */
static inline void faulty_register(struct prng *prng) {
    faulty.real = sqlite3_vfs_find(NULL);
    faulty.vfs = *faulty.real;
    faulty.vfs.zName = "faulty";
    faulty.vfs.pNext = NULL;
    faulty.vfs.szOsFile = (int)sizeof(struct faulty_file) + faulty.real->szOsFile;
    faulty.vfs.xOpen = faulty_open;
    faulty.vfs.xDelete = faulty_delete;
    faulty.prng = prng;
    for (int i = 0; i < FAULTY_FILES; i++) {
        faulty.files[i].last = &faulty.files[i].first;
    }
    sqlite3_vfs_register(&faulty.vfs, 0);
    faulty_reset("/dev/null");
}

#endif
