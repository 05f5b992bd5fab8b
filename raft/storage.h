/* The disk as a port: the few calls that the log needs, so that tests and the simulator can put a
 * failing or crashing disk in the place of the real one.
 *
 * Every function may be called from any thread. Failures are returned as negative errno values;
 * nothing is retried except after EINTR. */
#ifndef RAFT_STORAGE_H
#define RAFT_STORAGE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

enum storage_mode {
    STORAGE_OPEN,  /* an existing file, for reading and writing */
    STORAGE_CREATE /* a new or emptied file */
};

typedef void (*storage_list_fn)(void *data, const char *name);

struct storage {
    void *context; /* first argument of every function */
    /* A file handle >= 0. */
    int (*open)(void *context, const char *path, enum storage_mode mode);
    void (*close)(void *context, int file);
    /* Bytes written or read, which may be fewer than asked for. */
    ssize_t (*pwritev)(void *context, int file, const struct iovec *pieces, int n, uint64_t offset);
    ssize_t (*pread)(void *context, int file, void *data, size_t size, uint64_t offset);
    /* The file's bytes, and its size, are on stable storage when this returns 0 (fdatasync). */
    int (*sync)(void *context, int file);
    /* Reserves blocks and makes the file `size` bytes long; the new bytes read as zeros. */
    int (*allocate)(void *context, int file, uint64_t size);
    int (*size)(void *context, int file, uint64_t *size);
    int (*rename)(void *context, const char *from, const char *to);
    int (*unlink)(void *context, const char *path);
    int (*make_dir)(void *context, const char *path); /* 0 when it exists already */
    /* Calls `each` for every name but "." and "..". */
    int (*list)(void *context, const char *dir, storage_list_fn each, void *data);
    /* Creations, renames and removals of names in `dir` are on stable storage after this. */
    int (*sync_dir)(void *context, const char *dir);
};

/* The real disk. */
const struct storage *storage_posix(void);

/* Writes all `n` pieces, continuing after short writes. `pieces` is used up. 0 or -errno. */
int storage_write_pieces(const struct storage *storage, int file, struct iovec *pieces, int n,
                         uint64_t offset);
int storage_write(const struct storage *storage, int file, const void *data, size_t size,
                  uint64_t offset);
/* Reads up to `size` bytes, fewer only at the end of the file. Bytes read, or -errno. */
ssize_t storage_read(const struct storage *storage, int file, void *data, size_t size,
                     uint64_t offset);
/* Overwrites [offset, offset + size) with zeros. When `sync_every` is not 0 it syncs after as many
 * bytes, so that a large fill does not hold up the syncs of others. */
int storage_zero(const struct storage *storage, int file, uint64_t offset, uint64_t size,
                 uint64_t sync_every);
/* Syncs the directory that holds `path`. */
int storage_sync_parent(const struct storage *storage, const char *path);

#endif
