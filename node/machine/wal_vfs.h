/* A SQLite VFS that gathers what is appended to a WAL, over another one.
 *
 * SQLite writes each frame of a WAL with two calls, 24 bytes of header and the page. Here frames
 * are gathered in memory and written many at a time, at the latest with the last frame of their
 * transaction: so before SQLite tells other connections of them, and with its result in the hands
 * of the one that commits. Reads, syncs and everything else see the file as if each frame had been
 * written at once. All other files are the lower VFS's own.
 *
 * The format of a WAL is part of SQLite's file format (sqlite.org/fileformat2.html, section 4). */
#ifndef NODE_MACHINE_WAL_VFS_H
#define NODE_MACHINE_WAL_VFS_H

#include <sqlite3.h>

enum {
    WAL_HEADER_SIZE = 32,
    WAL_FRAME_HEADER_SIZE = 24,
    WAL_PAGE_SIZE = 4096,
    /* Memory of one WAL, while frames are gathered. SQLite's own VFS takes no write of 128 KiB. */
    WAL_GATHER_BYTES = 124 * 1024
};

struct wal_vfs {
    sqlite3_vfs vfs; /* first: SQLite hands out pointers to it */
    sqlite3_vfs *lower;
};

/* Registers `wal` under `name` over `lower`, NULL for SQLite's default. `wal` and `name` must live
 * as long as connections use them. Returns SQLite's result code. Not thread-safe by itself. */
int wal_vfs_register(struct wal_vfs *wal, const char *name, sqlite3_vfs *lower);

#endif
