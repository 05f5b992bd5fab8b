/* The chaos disk as its two sides see it: files served through FUSE, commands on a socket. */
#ifndef CHAOS_FS_FAULTS_H
#define CHAOS_FS_FAULTS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "chaos/fs/tree.h"

struct faults {
    unsigned write_delay_ms;
    unsigned sync_delay_ms;
    uint64_t capacity; /* bytes of all files together */
    bool read_only;    /* every change fails with EROFS */
    bool sync_fails;   /* fsync fails with EIO, and makes nothing durable */
};

struct disk {
    pthread_mutex_t lock; /* guards all that follows */
    struct tree tree;
    struct faults faults;
    uint64_t n_writes;
    uint64_t n_syncs;
};

/* Serves commands on a Unix socket until the process ends; runs on a thread of its own. */
struct control;
/* NULL when the socket cannot be made; says why on stderr. `end` is called at the command "end". */
struct control *control_start(struct disk *disk, const char *socket_path, void (*end)(void));

#endif
