#include "node/machine/wal_vfs.h"

#include <stdbool.h>
#include <string.h>

#include "base/bytes.h"
#include "base/mem.h"

enum { WAL_FRAME_SIZE = WAL_FRAME_HEADER_SIZE + WAL_PAGE_SIZE };

struct wal_file {
    sqlite3_file file; /* first: SQLite's view of it */
    sqlite3_file *lower;
    sqlite3_int64 end; /* behind the last frame, gathered ones included */
    uint8_t *gathered; /* NULL while there are none */
    int size;          /* bytes gathered, which belong to end - size */
    bool commits;      /* the header gathered last is that of a transaction's last frame */
};

static struct wal_file *wal_of(sqlite3_file *file) {
    return (struct wal_file *)(void *)file;
}

static void forget_gathered(struct wal_file *wal) {
    mem_free(wal->gathered);
    wal->gathered = NULL;
    wal->size = 0;
    wal->commits = false;
}

/* After an error SQLite gives the transaction up and writes its frames anew. */
static int write_gathered(struct wal_file *wal) {
    if (wal->size == 0) {
        return SQLITE_OK;
    }
    int rc =
        wal->lower->pMethods->xWrite(wal->lower, wal->gathered, wal->size, wal->end - wal->size);
    forget_gathered(wal);
    return rc;
}

static int gather(struct wal_file *wal, const void *data, int size) {
    if (wal->size + size > WAL_GATHER_BYTES) {
        bool commits = wal->commits;
        int rc = write_gathered(wal);
        wal->commits = commits;
        if (rc != SQLITE_OK) {
            return rc;
        }
    }
    if (wal->gathered == NULL) {
        wal->gathered = mem_alloc(WAL_GATHER_BYTES);
    }
    memcpy(wal->gathered + wal->size, data, (size_t)size);
    wal->size += size;
    wal->end += size;
    return SQLITE_OK;
}

/* A frame's header names the size of the database after the commit that it ends, or 0. */
static bool ends_transaction(const uint8_t *header) {
    return header[4] != 0 || header[5] != 0 || header[6] != 0 || header[7] != 0;
}

static int append(struct wal_file *wal, const void *data, int size) {
    if (size == WAL_FRAME_HEADER_SIZE) {
        wal->commits = ends_transaction(data);
        return gather(wal, data, size);
    }
    bool commits = wal->commits;
    int rc = gather(wal, data, size);
    return rc == SQLITE_OK && commits ? write_gathered(wal) : rc;
}

/* Where the next frame would begin, or the page of the frame whose header came last. */
static bool is_append(const struct wal_file *wal, int size, sqlite3_int64 offset) {
    if (offset != wal->end || offset < WAL_HEADER_SIZE) {
        return false;
    }
    sqlite3_int64 within = (offset - WAL_HEADER_SIZE) % WAL_FRAME_SIZE;
    return within == 0 ? size == WAL_FRAME_HEADER_SIZE
                       : within == WAL_FRAME_HEADER_SIZE && size == WAL_PAGE_SIZE;
}

static int wal_write(sqlite3_file *file, const void *data, int size, sqlite3_int64 offset) {
    struct wal_file *wal = wal_of(file);
    if (is_append(wal, size, offset)) {
        return append(wal, data, size);
    }
    /* The WAL's own header, with which it starts anew, or a frame written over. */
    int rc = write_gathered(wal);
    if (rc == SQLITE_OK) {
        rc = wal->lower->pMethods->xWrite(wal->lower, data, size, offset);
    }
    if (offset == 0 || offset + size > wal->end) {
        wal->end = offset + size;
    }
    return rc;
}

static int wal_read(sqlite3_file *file, void *data, int size, sqlite3_int64 offset) {
    struct wal_file *wal = wal_of(file);
    if (offset + size > wal->end - wal->size) {
        int rc = write_gathered(wal);
        if (rc != SQLITE_OK) {
            return rc;
        }
    }
    return wal->lower->pMethods->xRead(wal->lower, data, size, offset);
}

static int wal_sync(sqlite3_file *file, int flags) {
    struct wal_file *wal = wal_of(file);
    int rc = write_gathered(wal);
    return rc == SQLITE_OK ? wal->lower->pMethods->xSync(wal->lower, flags) : rc;
}

static int wal_truncate(sqlite3_file *file, sqlite3_int64 size) {
    struct wal_file *wal = wal_of(file);
    int rc = write_gathered(wal);
    return rc == SQLITE_OK ? wal->lower->pMethods->xTruncate(wal->lower, size) : rc;
}

static int wal_size(sqlite3_file *file, sqlite3_int64 *size) {
    struct wal_file *wal = wal_of(file);
    int rc = write_gathered(wal);
    return rc == SQLITE_OK ? wal->lower->pMethods->xFileSize(wal->lower, size) : rc;
}

/* What is gathered belongs to a transaction that did not end. */
static int wal_close(sqlite3_file *file) {
    struct wal_file *wal = wal_of(file);
    forget_gathered(wal);
    return wal->lower->pMethods->xClose(wal->lower);
}

static int wal_lock(sqlite3_file *file, int level) {
    struct wal_file *wal = wal_of(file);
    return wal->lower->pMethods->xLock(wal->lower, level);
}

static int wal_unlock(sqlite3_file *file, int level) {
    struct wal_file *wal = wal_of(file);
    return wal->lower->pMethods->xUnlock(wal->lower, level);
}

static int wal_check_lock(sqlite3_file *file, int *is_reserved) {
    struct wal_file *wal = wal_of(file);
    return wal->lower->pMethods->xCheckReservedLock(wal->lower, is_reserved);
}

static int wal_control(sqlite3_file *file, int operation, void *argument) {
    struct wal_file *wal = wal_of(file);
    return wal->lower->pMethods->xFileControl(wal->lower, operation, argument);
}

static int wal_sector_size(sqlite3_file *file) {
    struct wal_file *wal = wal_of(file);
    return wal->lower->pMethods->xSectorSize(wal->lower);
}

static int wal_characteristics(sqlite3_file *file) {
    struct wal_file *wal = wal_of(file);
    return wal->lower->pMethods->xDeviceCharacteristics(wal->lower);
}

static const sqlite3_io_methods wal_methods = {
    .iVersion = 1,
    .xClose = wal_close,
    .xRead = wal_read,
    .xWrite = wal_write,
    .xTruncate = wal_truncate,
    .xSync = wal_sync,
    .xFileSize = wal_size,
    .xLock = wal_lock,
    .xUnlock = wal_unlock,
    .xCheckReservedLock = wal_check_lock,
    .xFileControl = wal_control,
    .xSectorSize = wal_sector_size,
    .xDeviceCharacteristics = wal_characteristics,
};

static int wal_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags,
                    int *out_flags) {
    sqlite3_vfs *lower = ((struct wal_vfs *)(void *)vfs)->lower;
    if ((flags & SQLITE_OPEN_WAL) == 0) {
        return lower->xOpen(lower, name, file, flags, out_flags);
    }
    struct wal_file *wal = wal_of(file);
    *wal = (struct wal_file){.lower = (sqlite3_file *)(void *)(wal + 1)};
    int rc = lower->xOpen(lower, name, wal->lower, flags, out_flags);
    if (rc == SQLITE_OK) {
        rc = wal->lower->pMethods->xFileSize(wal->lower, &wal->end);
    }
    /* SQLite closes a file that has methods, also when opening it failed. */
    wal->file.pMethods = wal->lower->pMethods != NULL ? &wal_methods : NULL;
    return rc;
}

int wal_vfs_register(struct wal_vfs *wal, const char *name, sqlite3_vfs *lower) {
    wal->lower = lower != NULL ? lower : sqlite3_vfs_find(NULL);
    if (wal->lower == NULL) {
        return SQLITE_ERROR;
    }
    /* The lower VFS's other functions take this one for it: they look at nothing that differs. */
    wal->vfs = *wal->lower;
    wal->vfs.zName = name;
    wal->vfs.pNext = NULL;
    wal->vfs.szOsFile = wal->lower->szOsFile + (int)sizeof(struct wal_file);
    wal->vfs.xOpen = wal_open;
    return sqlite3_vfs_register(&wal->vfs, 0);
}
