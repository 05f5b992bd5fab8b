/* A disk in memory that can lose power. Writes, sizes and names are remembered as unsynced until
 * the matching sync; a crash keeps, drops or tears every unsynced 512-byte sector on its own, and
 * keeps some first part of the unsynced changes of names. One directory, one thread.
 *
 * From the crash on every call succeeds without effect, so that the code under test needs no way
 * out; memory_storage_restart() then shows what survived. */
#ifndef TESTS_UNIT_MEMORY_STORAGE_H
#define TESTS_UNIT_MEMORY_STORAGE_H

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "base/prng.h"
#include "raft/storage.h"

enum { SECTOR = 512, MEMORY_FILES = 256, MEMORY_NAME = 96 };

struct memory_file {
    uint8_t *now;     /* what a read sees */
    uint8_t *durable; /* what was synced, the same capacity */
    bool *dirty;      /* sectors */
    uint64_t size;
    uint64_t durable_size;
    uint64_t capacity;
    bool used;
};

struct memory_name {
    char name[MEMORY_NAME];
    int file; /* -1: no such name */
};

struct memory_names {
    struct memory_name names[MEMORY_FILES];
    unsigned n;
};

enum { MEMORY_NAME_CHANGES = 64 };

struct memory_storage {
    struct storage storage;
    struct prng prng;
    struct memory_file files[MEMORY_FILES];
    struct memory_names now;
    /* durable[0] is synced, the others follow from one unsynced change each. */
    struct memory_names *durable[MEMORY_NAME_CHANGES];
    unsigned n_durable;
    uint64_t operations; /* that change the disk, so far */
    uint64_t crash_at;   /* operation that does not complete; 0: never */
    uint64_t fail_at;    /* operation, of any kind, that fails with EIO; 0: never */
    uint64_t calls;      /* of any kind */
    int failure;
    bool crashed;
    int open_files;
};

static inline int memory_find(const struct memory_names *names, const char *path) {
    for (unsigned k = 0; k < names->n; k++) {
        if (strcmp(names->names[k].name, path) == 0) {
            return names->names[k].file;
        }
    }
    return -1;
}

static inline void memory_bind(struct memory_names *names, const char *path, int file) {
    for (unsigned k = 0; k < names->n; k++) {
        if (strcmp(names->names[k].name, path) == 0) {
            names->names[k].file = file;
            return;
        }
    }
    if (file < 0) {
        return;
    }
    unsigned slot = 0;
    while (slot < names->n && names->names[slot].file >= 0) {
        slot++;
    }
    ASSERT(slot < MEMORY_FILES && strlen(path) < MEMORY_NAME);
    snprintf(names->names[slot].name, MEMORY_NAME, "%s", path);
    names->names[slot].file = file;
    names->n = slot == names->n ? slot + 1 : names->n;
}

static inline void memory_names_changed(struct memory_storage *disk) {
    ASSERT(disk->n_durable < MEMORY_NAME_CHANGES);
    disk->durable[disk->n_durable++] = mem_dup(&disk->now, sizeof disk->now);
}

/* True when the call fails by order of the test. */
static inline bool memory_fails(struct memory_storage *disk) {
    disk->calls++;
    return disk->calls == disk->fail_at;
}

/* True when the power is gone, or goes with this very operation. */
static inline bool memory_operation(struct memory_storage *disk) {
    disk->operations++;
    if (disk->crash_at != 0 && disk->operations >= disk->crash_at) {
        disk->crashed = true;
    }
    return disk->crashed;
}

static inline void memory_grow(struct memory_file *file, uint64_t size) {
    if (size > file->capacity) {
        uint64_t capacity = (size + 65535) / 65536 * 65536;
        file->now = mem_realloc(file->now, capacity);
        file->durable = mem_realloc(file->durable, capacity);
        file->dirty = mem_realloc(file->dirty, capacity / SECTOR);
        memset(file->now + file->capacity, 0, capacity - file->capacity);
        memset(file->durable + file->capacity, 0, capacity - file->capacity);
        memset(file->dirty + file->capacity / SECTOR, 0, (capacity - file->capacity) / SECTOR);
        file->capacity = capacity;
    }
    if (size > file->size) {
        file->size = size;
    }
}

static inline int memory_open(void *context, const char *path, enum storage_mode mode) {
    struct memory_storage *disk = context;
    if (memory_fails(disk)) {
        return -disk->failure;
    }
    int found = memory_find(&disk->now, path);
    if (mode == STORAGE_OPEN) {
        disk->open_files += found >= 0;
        return found >= 0 ? found : -ENOENT;
    }
    int file = 0;
    while (disk->files[file].used) {
        file++;
        ASSERT(file < MEMORY_FILES);
    }
    disk->files[file].used = true;
    disk->open_files++;
    if (!memory_operation(disk)) {
        memory_bind(&disk->now, path, file);
        memory_names_changed(disk);
    }
    return file;
}

static inline void memory_close(void *context, int file) {
    struct memory_storage *disk = context;
    ASSERT(file >= 0 && file < MEMORY_FILES && disk->open_files > 0);
    disk->open_files--;
}

static inline ssize_t memory_pwritev(void *context, int file, const struct iovec *pieces, int n,
                                     uint64_t offset) {
    struct memory_storage *disk = context;
    struct memory_file *f = &disk->files[file];
    if (memory_fails(disk)) {
        return -disk->failure;
    }
    bool before = disk->crashed;
    bool crashed = memory_operation(disk);
    ssize_t total = 0;
    for (int k = 0; k < n; k++) {
        uint64_t at = offset + (uint64_t)total;
        if (!before) { /* the write that the power fails in may still reach the disk */
            memory_grow(f, at + pieces[k].iov_len);
            memcpy(f->now + at, pieces[k].iov_base, pieces[k].iov_len);
            for (uint64_t s = at / SECTOR; s * SECTOR < at + pieces[k].iov_len; s++) {
                f->dirty[s] = true;
            }
        }
        total += (ssize_t)pieces[k].iov_len;
        if (!crashed && total > 0 && prng_below(&disk->prng, 64) == 0) {
            break; /* a short write */
        }
    }
    return total;
}

static inline ssize_t memory_pread(void *context, int file, void *data, size_t size,
                                   uint64_t offset) {
    struct memory_storage *disk = context;
    const struct memory_file *f = &disk->files[file];
    if (memory_fails(disk)) {
        return -disk->failure;
    }
    if (offset >= f->size) {
        return 0;
    }
    size_t some = f->size - offset < size ? (size_t)(f->size - offset) : size;
    memcpy(data, f->now + offset, some);
    return (ssize_t)some;
}

static inline int memory_sync(void *context, int file) {
    struct memory_storage *disk = context;
    struct memory_file *f = &disk->files[file];
    if (memory_fails(disk)) {
        return -disk->failure;
    }
    if (memory_operation(disk)) {
        return 0;
    }
    for (uint64_t s = 0; s < f->capacity / SECTOR; s++) {
        if (f->dirty[s]) {
            memcpy(f->durable + s * SECTOR, f->now + s * SECTOR, SECTOR);
            f->dirty[s] = false;
        }
    }
    f->durable_size = f->size;
    return 0;
}

static inline int memory_allocate(void *context, int file, uint64_t size) {
    struct memory_storage *disk = context;
    if (memory_fails(disk)) {
        return -disk->failure;
    }
    if (!memory_operation(disk)) {
        memory_grow(&disk->files[file], size);
    }
    return 0;
}

static inline int memory_size(void *context, int file, uint64_t *size) {
    struct memory_storage *disk = context;
    if (memory_fails(disk)) {
        return -disk->failure;
    }
    *size = disk->files[file].size;
    return 0;
}

static inline int memory_rename(void *context, const char *from, const char *to) {
    struct memory_storage *disk = context;
    if (memory_fails(disk)) {
        return -disk->failure;
    }
    if (memory_operation(disk)) {
        return 0;
    }
    int file = memory_find(&disk->now, from);
    if (file < 0) {
        return -ENOENT;
    }
    memory_bind(&disk->now, from, -1);
    memory_bind(&disk->now, to, file);
    memory_names_changed(disk);
    return 0;
}

static inline int memory_unlink(void *context, const char *path) {
    struct memory_storage *disk = context;
    if (memory_fails(disk)) {
        return -disk->failure;
    }
    if (memory_operation(disk)) {
        return 0;
    }
    if (memory_find(&disk->now, path) < 0) {
        return -ENOENT;
    }
    memory_bind(&disk->now, path, -1);
    memory_names_changed(disk);
    return 0;
}

static inline int memory_make_dir(void *context, const char *path) {
    (void)path;
    return memory_fails(context) ? -((struct memory_storage *)context)->failure : 0;
}

static inline int memory_list(void *context, const char *dir, storage_list_fn each, void *data) {
    struct memory_storage *disk = context;
    if (memory_fails(disk)) {
        return -disk->failure;
    }
    size_t prefix = strlen(dir) + 1;
    for (unsigned k = 0; k < disk->now.n; k++) {
        if (disk->now.names[k].file >= 0) {
            each(data, disk->now.names[k].name + prefix);
        }
    }
    return 0;
}

static inline void memory_names_settle(struct memory_storage *disk, unsigned keep) {
    for (unsigned k = 0; k < disk->n_durable; k++) {
        if (k != keep) {
            mem_free(disk->durable[k]);
        }
    }
    disk->durable[0] = disk->durable[keep];
    disk->n_durable = 1;
}

static inline int memory_sync_dir(void *context, const char *dir) {
    struct memory_storage *disk = context;
    (void)dir;
    if (memory_fails(disk)) {
        return -disk->failure;
    }
    if (!memory_operation(disk)) {
        memory_names_settle(disk, disk->n_durable - 1);
    }
    return 0;
}

static inline struct memory_storage *memory_storage_new(uint64_t seed) {
    struct memory_storage *disk = mem_zalloc(1, sizeof *disk);
    prng_seed(&disk->prng, seed);
    disk->failure = EIO;
    disk->storage = (struct storage){
        .context = disk,
        .open = memory_open,
        .close = memory_close,
        .pwritev = memory_pwritev,
        .pread = memory_pread,
        .sync = memory_sync,
        .allocate = memory_allocate,
        .size = memory_size,
        .rename = memory_rename,
        .unlink = memory_unlink,
        .make_dir = memory_make_dir,
        .list = memory_list,
        .sync_dir = memory_sync_dir,
    };
    memory_names_changed(disk);
    return disk;
}

static inline void memory_file_free(struct memory_file *file) {
    mem_free(file->now);
    mem_free(file->durable);
    mem_free(file->dirty);
    *file = (struct memory_file){.used = false};
}

static inline void memory_storage_free(struct memory_storage *disk) {
    for (int k = 0; k < MEMORY_FILES; k++) {
        memory_file_free(&disk->files[k]);
    }
    memory_names_settle(disk, 0);
    mem_free(disk->durable[0]);
    mem_free(disk);
}

/* One sector after a loss of power: old, new, or new up to some byte and old from there on. */
static inline void memory_sector_crash(struct memory_storage *disk, struct memory_file *file,
                                       uint64_t sector, unsigned keep_of_8) {
    uint8_t *now = file->now + sector * SECTOR;
    uint8_t *durable = file->durable + sector * SECTOR;
    if (file->dirty[sector]) {
        unsigned fate = (unsigned)prng_below(&disk->prng, 8);
        size_t kept = fate < keep_of_8 ? SECTOR : 0;
        if (prng_below(&disk->prng, 8) == 0) {
            kept = (size_t)prng_below(&disk->prng, SECTOR);
        }
        memcpy(durable, now, kept);
    }
    memcpy(now, durable, SECTOR);
    file->dirty[sector] = false;
}

/* The process died and the machine did not: nothing is lost, nothing more is synced. */
static inline void memory_storage_revive(struct memory_storage *disk) {
    disk->crashed = false;
    disk->crash_at = 0;
    disk->open_files = 0;
}

/* The power comes back: what was synced is there, and any part of the rest. */
static inline void memory_storage_restart(struct memory_storage *disk) {
    memory_names_settle(disk, (unsigned)prng_below(&disk->prng, disk->n_durable));
    disk->now = *disk->durable[0];
    /* From "nothing unsynced arrived" to "all of it did". */
    unsigned keep_of_8 = (unsigned)prng_below(&disk->prng, 9);
    for (int k = 0; k < MEMORY_FILES; k++) {
        struct memory_file *file = &disk->files[k];
        bool named = false;
        for (unsigned n = 0; n < disk->now.n; n++) {
            named = named || disk->now.names[n].file == k;
        }
        if (!named) {
            memory_file_free(file);
            continue;
        }
        if (file->size != file->durable_size && prng_below(&disk->prng, 2) == 0) {
            file->size = file->durable_size;
        }
        file->durable_size = file->size;
        for (uint64_t s = 0; s < file->capacity / SECTOR; s++) {
            memory_sector_crash(disk, file, s, keep_of_8);
        }
        if (file->capacity == 0) {
            continue;
        }
        memset(file->now + file->size, 0, file->capacity - file->size);
        memset(file->durable + file->size, 0, file->capacity - file->size);
    }
    disk->crashed = false;
    disk->crash_at = 0;
    disk->operations = 0;
    disk->open_files = 0;
}

#endif
