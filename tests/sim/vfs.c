/* SQLite's files on the simulated disk: the default VFS of a simulator. Several connections of one
 * process may have a database open, with the WAL index in memory that they share. */
#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "tests/sim/disk.h"
#include "tests/sim/kernel.h"
#include "tests/sim/vfs.h"

enum { SHM_REGIONS = 64, NO_LOCK = SQLITE_LOCK_NONE };

/* What the connections of one process to one database share. */
struct shared {
    struct shared *next;
    struct inode *inode;
    unsigned refs;
    unsigned n_shared;       /* connections with at least SQLITE_LOCK_SHARED */
    struct vfs_file *writer; /* with more than that */
    void *regions[SHM_REGIONS];
    unsigned shm_shared[SQLITE_SHM_NLOCK];
    bool shm_exclusive[SQLITE_SHM_NLOCK];
    unsigned shm_refs;
};

struct vfs_file {
    sqlite3_file base;
    struct disk *disk;
    struct inode *inode;
    struct shared *shared; /* main databases only */
    char path[DISK_PATH];
    bool sync_dir; /* with the first sync, as the Unix VFS does it for journals and WALs */
    bool delete_on_close;
    int lock;
    bool has_shm;
    uint16_t shm_shared;
    uint16_t shm_exclusive;
};

static struct vfs_file *own(sqlite3_file *file) {
    return (struct vfs_file *)(void *)file;
}

static struct disk *disk_here(void) {
    struct process *process = process_current();
    ASSERT(process != NULL);
    return process->host->disk;
}

/* ---- what connections share ---- */

static struct shared *shared_take(struct inode *inode) {
    struct process *process = process_current();
    struct shared *shared = process->shm;
    while (shared != NULL && shared->inode != inode) {
        shared = shared->next;
    }
    if (shared == NULL) {
        shared = mem_zalloc(1, sizeof *shared);
        shared->inode = inode;
        shared->next = process->shm;
        process->shm = shared;
    }
    shared->refs++;
    return shared;
}

static void shm_drop(struct shared *shared) {
    for (unsigned i = 0; i < SHM_REGIONS; i++) {
        mem_free(shared->regions[i]);
        shared->regions[i] = NULL;
    }
}

static void shared_give(struct shared *shared) {
    if (--shared->refs > 0) {
        return;
    }
    struct process *process = process_current();
    struct shared *before = process->shm;
    if (before == shared) {
        process->shm = shared->next;
    } else {
        while (before->next != shared) {
            before = before->next;
        }
        before->next = shared->next;
    }
    shm_drop(shared);
    mem_free(shared);
}

/* ---- files ---- */

static int sim_unlock(sqlite3_file *file, int lock);
static int sim_shm_unmap(sqlite3_file *file, int delete);

static int sim_close(sqlite3_file *file) {
    struct vfs_file *f = own(file);
    if (f->shared != NULL) {
        (void)sim_shm_unmap(file, 0);
        (void)sim_unlock(file, NO_LOCK);
        shared_give(f->shared);
    }
    if (f->delete_on_close) {
        (void)disk_unlink(f->disk, f->path);
    }
    inode_unref(f->disk, f->inode);
    return SQLITE_OK;
}

static int sim_read(sqlite3_file *file, void *data, int size, sqlite3_int64 offset) {
    struct vfs_file *f = own(file);
    ssize_t n = disk_read(f->disk, f->inode, data, (size_t)size, (uint64_t)offset);
    if (n < size) {
        memset((char *)data + n, 0, (size_t)(size - n));
        return SQLITE_IOERR_SHORT_READ;
    }
    return SQLITE_OK;
}

static int sim_write(sqlite3_file *file, const void *data, int size, sqlite3_int64 offset) {
    struct vfs_file *f = own(file);
    const char *from = data;
    while (size > 0) {
        ssize_t n = disk_write(f->disk, f->inode, from, (size_t)size, (uint64_t)offset);
        if (n < 0) {
            return n == -ENOSPC ? SQLITE_FULL : SQLITE_IOERR_WRITE;
        }
        from += n;
        size -= (int)n;
        offset += n;
    }
    return SQLITE_OK;
}

static int sim_truncate(sqlite3_file *file, sqlite3_int64 size) {
    struct vfs_file *f = own(file);
    disk_wait(f->disk, 0);
    return disk_resize(f->disk, f->inode, (uint64_t)size) == 0 ? SQLITE_OK : SQLITE_IOERR_TRUNCATE;
}

static int sim_sync(sqlite3_file *file, int flags) {
    struct vfs_file *f = own(file);
    (void)flags;
    if (disk_sync(f->disk, f->inode) != 0) {
        return SQLITE_IOERR_FSYNC;
    }
    if (f->sync_dir) {
        char dir[DISK_PATH];
        snprintf(dir, sizeof dir, "%s", f->path);
        *strrchr(dir, '/') = '\0';
        (void)disk_sync_dir(f->disk, dir);
        f->sync_dir = false;
    }
    return SQLITE_OK;
}

static int sim_file_size(sqlite3_file *file, sqlite3_int64 *size) {
    *size = (sqlite3_int64)own(file)->inode->size;
    return SQLITE_OK;
}

static int sim_lock(sqlite3_file *file, int lock) {
    struct vfs_file *f = own(file);
    struct shared *shared = f->shared;
    if (lock <= f->lock) {
        return SQLITE_OK;
    }
    if (shared->writer != NULL && shared->writer != f &&
        (lock > SQLITE_LOCK_SHARED || shared->writer->lock >= SQLITE_LOCK_PENDING)) {
        return SQLITE_BUSY;
    }
    if (f->lock == NO_LOCK) {
        shared->n_shared++;
        f->lock = SQLITE_LOCK_SHARED;
    }
    if (lock > SQLITE_LOCK_SHARED) {
        shared->writer = f;
        f->lock = lock;
        if (lock == SQLITE_LOCK_EXCLUSIVE && shared->n_shared > 1) {
            f->lock = SQLITE_LOCK_PENDING;
            return SQLITE_BUSY;
        }
    }
    return SQLITE_OK;
}

static int sim_unlock(sqlite3_file *file, int lock) {
    struct vfs_file *f = own(file);
    if (lock >= f->lock) {
        return SQLITE_OK;
    }
    if (f->shared->writer == f && lock <= SQLITE_LOCK_SHARED) {
        f->shared->writer = NULL;
    }
    if (lock == NO_LOCK) {
        f->shared->n_shared--;
    }
    f->lock = lock;
    return SQLITE_OK;
}

static int sim_check_reserved(sqlite3_file *file, int *reserved) {
    *reserved = own(file)->shared->writer != NULL;
    return SQLITE_OK;
}

static int sim_file_control(sqlite3_file *file, int operation, void *argument) {
    (void)file;
    (void)operation;
    (void)argument;
    return SQLITE_NOTFOUND;
}

static int sim_sector_size(sqlite3_file *file) {
    (void)file;
    return 4096;
}

static int sim_characteristics(sqlite3_file *file) {
    (void)file;
    return SQLITE_IOCAP_POWERSAFE_OVERWRITE;
}

/* ---- the WAL index ---- */

static int sim_shm_map(sqlite3_file *file, int region, int size, int extend,
                       void volatile **memory) {
    struct vfs_file *f = own(file);
    ASSERT(region < SHM_REGIONS);
    if (!f->has_shm) {
        f->has_shm = true;
        f->shared->shm_refs++;
    }
    if (f->shared->regions[region] == NULL && extend != 0) {
        f->shared->regions[region] = mem_zalloc(1, (size_t)size);
    }
    *memory = f->shared->regions[region];
    return SQLITE_OK;
}

static int sim_shm_lock(sqlite3_file *file, int first, int n, int flags) {
    struct vfs_file *f = own(file);
    struct shared *shared = f->shared;
    bool exclusive = (flags & SQLITE_SHM_EXCLUSIVE) != 0;
    uint16_t mask = (uint16_t)(((1U << n) - 1) << first);
    if ((flags & SQLITE_SHM_UNLOCK) != 0) {
        for (int i = first; i < first + n; i++) {
            uint16_t bit = (uint16_t)(1U << i);
            if ((f->shm_exclusive & bit) != 0) {
                shared->shm_exclusive[i] = false;
            } else if ((f->shm_shared & bit) != 0) {
                shared->shm_shared[i]--;
            }
        }
        f->shm_exclusive &= (uint16_t)~mask;
        f->shm_shared &= (uint16_t)~mask;
        return SQLITE_OK;
    }
    for (int i = first; i < first + n; i++) {
        bool mine = (f->shm_shared & (1U << i)) != 0;
        if ((shared->shm_exclusive[i] && (f->shm_exclusive & (1U << i)) == 0) ||
            (exclusive && shared->shm_shared[i] > (mine ? 1U : 0U))) {
            return SQLITE_BUSY;
        }
    }
    for (int i = first; i < first + n; i++) {
        uint16_t bit = (uint16_t)(1U << i);
        if (exclusive) {
            shared->shm_exclusive[i] = true;
            f->shm_exclusive |= bit;
        } else if ((f->shm_shared & bit) == 0) {
            shared->shm_shared[i]++;
            f->shm_shared |= bit;
        }
    }
    return SQLITE_OK;
}

static void sim_shm_barrier(sqlite3_file *file) {
    (void)file;
}

static int sim_shm_unmap(sqlite3_file *file, int delete) {
    struct vfs_file *f = own(file);
    (void)delete;
    if (f->has_shm) {
        f->has_shm = false;
        (void)sim_shm_lock(file, 0, SQLITE_SHM_NLOCK, SQLITE_SHM_UNLOCK);
        if (--f->shared->shm_refs == 0) {
            shm_drop(f->shared);
        }
    }
    return SQLITE_OK;
}

static const sqlite3_io_methods io_methods = {.iVersion = 2,
                                              .xClose = sim_close,
                                              .xRead = sim_read,
                                              .xWrite = sim_write,
                                              .xTruncate = sim_truncate,
                                              .xSync = sim_sync,
                                              .xFileSize = sim_file_size,
                                              .xLock = sim_lock,
                                              .xUnlock = sim_unlock,
                                              .xCheckReservedLock = sim_check_reserved,
                                              .xFileControl = sim_file_control,
                                              .xSectorSize = sim_sector_size,
                                              .xDeviceCharacteristics = sim_characteristics,
                                              .xShmMap = sim_shm_map,
                                              .xShmLock = sim_shm_lock,
                                              .xShmBarrier = sim_shm_barrier,
                                              .xShmUnmap = sim_shm_unmap};

/* ---- the VFS ---- */

static int sim_open(sqlite3_vfs *vfs, sqlite3_filename name, sqlite3_file *file, int flags,
                    int *out_flags) {
    struct vfs_file *f = own(file);
    (void)vfs;
    memset(f, 0, sizeof *f);
    ASSERT(name != NULL);
    f->disk = disk_here();
    disk_wait(f->disk, 0);
    f->inode = disk_find(f->disk, name);
    if (f->inode == NULL) {
        if ((flags & SQLITE_OPEN_CREATE) == 0) {
            return SQLITE_CANTOPEN;
        }
        int result = disk_create(f->disk, name, false, &f->inode);
        if (result != 0) {
            return result == -ENOSPC ? SQLITE_FULL : SQLITE_CANTOPEN;
        }
    }
    f->sync_dir = (flags & SQLITE_OPEN_CREATE) != 0 &&
                  (flags & (SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL)) != 0;
    inode_ref(f->inode);
    snprintf(f->path, sizeof f->path, "%s", name);
    f->delete_on_close = (flags & SQLITE_OPEN_DELETEONCLOSE) != 0;
    f->shared = (flags & SQLITE_OPEN_MAIN_DB) != 0 ? shared_take(f->inode) : NULL;
    f->base.pMethods = &io_methods;
    if (out_flags != NULL) {
        *out_flags = flags;
    }
    return SQLITE_OK;
}

static int sim_delete(sqlite3_vfs *vfs, const char *name, int sync_dir) {
    (void)vfs;
    struct disk *disk = disk_here();
    disk_wait(disk, 0);
    if (disk_unlink(disk, name) != 0) {
        return SQLITE_IOERR_DELETE_NOENT;
    }
    if (sync_dir != 0) {
        char dir[DISK_PATH];
        snprintf(dir, sizeof dir, "%s", name);
        *strrchr(dir, '/') = '\0';
        (void)disk_sync_dir(disk, dir);
    }
    return SQLITE_OK;
}

static int sim_access(sqlite3_vfs *vfs, const char *name, int flags, int *result) {
    (void)vfs;
    struct inode *inode = disk_find(disk_here(), name);
    *result = inode != NULL && (flags != SQLITE_ACCESS_EXISTS || inode->size > 0);
    return SQLITE_OK;
}

static int sim_full_path(sqlite3_vfs *vfs, const char *name, int size, char *out) {
    (void)vfs;
    snprintf(out, (size_t)size, "%s", name);
    return SQLITE_OK;
}

static int sim_randomness(sqlite3_vfs *vfs, int size, char *out) {
    (void)vfs;
    for (int i = 0; i < size; i++) {
        out[i] = (char)kernel_random(256);
    }
    return size;
}

static int sim_sleep(sqlite3_vfs *vfs, int microseconds) {
    (void)vfs;
    thread_sleep((uint64_t)microseconds * SIM_US);
    return microseconds;
}

static int sim_time(sqlite3_vfs *vfs, sqlite3_int64 *now) {
    (void)vfs;
    *now = 212000000000000 + (sqlite3_int64)(kernel_now() / SIM_MS);
    return SQLITE_OK;
}

static int sim_last_error(sqlite3_vfs *vfs, int size, char *out) {
    (void)vfs;
    (void)size;
    (void)out;
    return EIO;
}

void vfs_install(void) {
    static sqlite3_vfs vfs = {.iVersion = 2,
                              .szOsFile = sizeof(struct vfs_file),
                              .mxPathname = DISK_PATH,
                              .zName = "simulated",
                              .xOpen = sim_open,
                              .xDelete = sim_delete,
                              .xAccess = sim_access,
                              .xFullPathname = sim_full_path,
                              .xRandomness = sim_randomness,
                              .xSleep = sim_sleep,
                              .xGetLastError = sim_last_error,
                              .xCurrentTimeInt64 = sim_time};
    int result = sqlite3_initialize();
    ASSERT(result == SQLITE_OK);
    result = sqlite3_vfs_register(&vfs, 1);
    ASSERT(result == SQLITE_OK);
}
