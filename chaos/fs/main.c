/* chaos-fs MOUNTPOINT SOCKET: a disk in memory, mounted by FUSE, whose power can fail.
 *
 * Commands come over the Unix socket, one a connection (fs/control.c). The programs that use the
 * disk are killed first, then "unplug" takes away what they did not sync: together that is a power
 * loss. SIGTERM and SIGINT unmount and end. */
#define FUSE_USE_VERSION 312

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "chaos/fs/faults.h"

enum { BLOCK_SIZE = 4096, MAX_THREADS = 16, MAX_FILE_SIZE_GIB = 64 };

/* Nothing is cached by the kernel but pages of open files: names and sizes change behind its back.
 */
static const double no_cache_s = 0;

static struct disk disk = {.lock = PTHREAD_MUTEX_INITIALIZER};
static struct fuse_session *session;

static struct inode *inode_of(fuse_ino_t number) {
    return tree_find(&disk.tree, number);
}

static void lock_disk(void) {
    pthread_mutex_lock(&disk.lock);
}

static void unlock_disk(void) {
    pthread_mutex_unlock(&disk.lock);
}

static void pause_ms(unsigned ms) {
    struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    while (ms > 0 && nanosleep(&pause, &pause) != 0) {
    }
}

/* Slowness is that of the device: other calls go on meanwhile. */
static void wait_for_device(bool is_sync) {
    lock_disk();
    unsigned ms = is_sync ? disk.faults.sync_delay_ms : disk.faults.write_delay_ms;
    unlock_disk();
    pause_ms(ms);
}

static void fill_stat(const struct inode *inode, struct stat *info) {
    *info = (struct stat){.st_ino = inode->number,
                          .st_mode = inode->permissions | (inode->is_directory ? S_IFDIR : S_IFREG),
                          .st_nlink = inode->is_directory ? 2 : 1,
                          .st_uid = getuid(),
                          .st_gid = getgid(),
                          .st_size = (off_t)inode->contents.size,
                          .st_blksize = BLOCK_SIZE,
                          .st_blocks = (blkcnt_t)((inode->contents.size + 511) / 512),
                          .st_mtim = inode->modified,
                          .st_ctim = inode->modified,
                          .st_atim = inode->modified};
}

static struct fuse_entry_param entry_of(struct inode *inode) {
    struct fuse_entry_param entry = {
        .ino = inode->number, .attr_timeout = no_cache_s, .entry_timeout = no_cache_s};
    fill_stat(inode, &entry.attr);
    inode->lookups++;
    return entry;
}

/* 0, or the error that a change meets on this disk now. */
static int change_error(void) {
    return disk.faults.read_only ? EROFS : 0;
}

static int growth_error(const struct inode *inode, uint64_t size) {
    if (size <= inode->contents.size) {
        return 0;
    }
    if (size > (uint64_t)MAX_FILE_SIZE_GIB << 30) {
        return EFBIG;
    }
    uint64_t more = size - inode->contents.size;
    return tree_used_bytes(&disk.tree) + more > disk.faults.capacity ? ENOSPC : 0;
}

static void touch_time(struct inode *inode) {
    clock_gettime(CLOCK_REALTIME, &inode->modified);
}

/* --- names ------------------------------------------------------------------------------------ */

static void on_lookup(fuse_req_t request, fuse_ino_t parent, const char *name) {
    lock_disk();
    struct inode *directory = inode_of(parent);
    struct inode *inode = directory != NULL ? tree_lookup(directory, name) : NULL;
    struct fuse_entry_param entry = {0};
    if (inode != NULL) {
        entry = entry_of(inode);
    }
    unlock_disk();
    if (inode == NULL) {
        fuse_reply_err(request, ENOENT);
    } else {
        fuse_reply_entry(request, &entry);
    }
}

static void forget(fuse_ino_t number, uint64_t lookups) {
    struct inode *inode = inode_of(number);
    if (inode != NULL) {
        inode->lookups -= lookups < inode->lookups ? lookups : inode->lookups;
    }
}

static void on_forget(fuse_req_t request, fuse_ino_t number, uint64_t lookups) {
    lock_disk();
    forget(number, lookups);
    tree_collect(&disk.tree);
    unlock_disk();
    fuse_reply_none(request);
}

static void on_forget_multi(fuse_req_t request, size_t n, struct fuse_forget_data *items) {
    lock_disk();
    for (size_t i = 0; i < n; i++) {
        forget(items[i].ino, items[i].nlookup);
    }
    tree_collect(&disk.tree);
    unlock_disk();
    fuse_reply_none(request);
}

/* The lock is held; returns a positive errno. */
static int make(fuse_ino_t parent, const char *name, bool is_directory, mode_t mode,
                struct inode **inode) {
    struct inode *directory = inode_of(parent);
    int error = directory == NULL ? ENOENT : change_error();
    if (error != 0) {
        return error;
    }
    return -tree_create(&disk.tree, directory, name, is_directory, mode & 07777, inode);
}

static void on_mkdir(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode) {
    struct fuse_entry_param entry = {0};
    struct inode *inode = NULL;
    lock_disk();
    int error = make(parent, name, true, mode, &inode);
    if (error == 0) {
        entry = entry_of(inode);
    }
    unlock_disk();
    if (error != 0) {
        fuse_reply_err(request, error);
    } else {
        fuse_reply_entry(request, &entry);
    }
}

static void on_create(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode,
                      struct fuse_file_info *file) {
    struct fuse_entry_param entry = {0};
    struct inode *inode = NULL;
    lock_disk();
    int error = make(parent, name, false, mode, &inode);
    if (error == 0) {
        entry = entry_of(inode);
        inode->handles++;
    }
    unlock_disk();
    if (error != 0) {
        fuse_reply_err(request, error);
    } else {
        fuse_reply_create(request, &entry, file);
    }
}

static void remove_name(fuse_req_t request, fuse_ino_t parent, const char *name,
                        bool is_directory) {
    lock_disk();
    struct inode *directory = inode_of(parent);
    int error = directory == NULL ? ENOENT : change_error();
    if (error == 0) {
        error = -tree_remove(&disk.tree, directory, name, is_directory);
    }
    unlock_disk();
    fuse_reply_err(request, error);
}

static void on_unlink(fuse_req_t request, fuse_ino_t parent, const char *name) {
    remove_name(request, parent, name, false);
}

static void on_rmdir(fuse_req_t request, fuse_ino_t parent, const char *name) {
    remove_name(request, parent, name, true);
}

static void on_rename(fuse_req_t request, fuse_ino_t parent, const char *name, fuse_ino_t to,
                      const char *new_name, unsigned flags) {
    lock_disk();
    struct inode *from_directory = inode_of(parent);
    struct inode *to_directory = inode_of(to);
    int error = from_directory == NULL || to_directory == NULL ? ENOENT : change_error();
    if (error == 0 && (flags & ~(unsigned)RENAME_NOREPLACE) != 0) {
        error = EINVAL;
    }
    if (error == 0) {
        error = -tree_rename(&disk.tree, from_directory, name, to_directory, new_name,
                             (flags & RENAME_NOREPLACE) == 0);
    }
    unlock_disk();
    fuse_reply_err(request, error);
}

static size_t add_entry(fuse_req_t request, char *buffer, size_t left, const char *name,
                        const struct inode *inode, off_t next) {
    struct stat info;
    fill_stat(inode, &info);
    return fuse_add_direntry(request, buffer, left, name, &info, next);
}

static void on_readdir(fuse_req_t request, fuse_ino_t number, size_t size, off_t offset,
                       struct fuse_file_info *file) {
    (void)file;
    char *buffer = mem_alloc(size);
    size_t used = 0;
    lock_disk();
    const struct inode *inode = inode_of(number);
    size_t n = inode != NULL ? inode->directory.live.n + 2 : 0;
    for (size_t i = (size_t)offset; i < n; i++) {
        const struct name *name = i < 2 ? NULL : &inode->directory.live.items[i - 2];
        const char *text = name != NULL ? name->text : i == 0 ? "." : "..";
        size_t needed = add_entry(request, buffer + used, size - used, text,
                                  name != NULL ? name->inode : inode, (off_t)i + 1);
        if (needed > size - used) {
            break;
        }
        used += needed;
    }
    unlock_disk();
    fuse_reply_buf(request, buffer, used);
    mem_free(buffer);
}

static void on_fsyncdir(fuse_req_t request, fuse_ino_t number, int data_only,
                        struct fuse_file_info *file) {
    (void)data_only;
    (void)file;
    wait_for_device(true);
    lock_disk();
    struct inode *inode = inode_of(number);
    int error = inode == NULL ? ENOENT : disk.faults.sync_fails ? EIO : 0;
    if (error == 0) {
        disk.n_syncs++;
        tree_sync_names(&disk.tree, inode);
    }
    unlock_disk();
    fuse_reply_err(request, error);
}

/* --- files ------------------------------------------------------------------------------------ */

static void on_getattr(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file) {
    (void)file;
    struct stat info = {0};
    lock_disk();
    const struct inode *inode = inode_of(number);
    if (inode != NULL) {
        fill_stat(inode, &info);
    }
    unlock_disk();
    if (inode == NULL) {
        fuse_reply_err(request, ENOENT);
    } else {
        fuse_reply_attr(request, &info, no_cache_s);
    }
}

/* The lock is held. */
static int set_attributes(struct inode *inode, const struct stat *wanted, int which) {
    int error = change_error();
    if (error == 0 && (which & FUSE_SET_ATTR_SIZE) != 0) {
        error = growth_error(inode, (uint64_t)wanted->st_size);
    }
    if (error != 0) {
        return error;
    }
    if ((which & FUSE_SET_ATTR_SIZE) != 0) {
        contents_resize(&inode->contents, (uint64_t)wanted->st_size);
        touch_time(inode);
    }
    if ((which & FUSE_SET_ATTR_MODE) != 0) {
        inode->permissions = wanted->st_mode & 07777;
    }
    if ((which & FUSE_SET_ATTR_MTIME) != 0) {
        inode->modified = wanted->st_mtim;
    }
    return 0;
}

static void on_setattr(fuse_req_t request, fuse_ino_t number, struct stat *wanted, int which,
                       struct fuse_file_info *file) {
    (void)file;
    struct stat info = {0};
    lock_disk();
    struct inode *inode = inode_of(number);
    int error = inode == NULL ? ENOENT : set_attributes(inode, wanted, which);
    if (error == 0) {
        fill_stat(inode, &info);
    }
    unlock_disk();
    if (error != 0) {
        fuse_reply_err(request, error);
    } else {
        fuse_reply_attr(request, &info, no_cache_s);
    }
}

static void on_open(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file) {
    lock_disk();
    struct inode *inode = inode_of(number);
    bool writes = (file->flags & O_ACCMODE) != O_RDONLY;
    int error = inode == NULL ? ENOENT : inode->is_directory ? EISDIR : 0;
    if (error == 0 && writes) {
        error = change_error();
    }
    if (error == 0) {
        inode->handles++;
        if ((file->flags & O_TRUNC) != 0) {
            contents_resize(&inode->contents, 0);
        }
    }
    unlock_disk();
    if (error != 0) {
        fuse_reply_err(request, error);
    } else {
        fuse_reply_open(request, file);
    }
}

static void on_release(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file) {
    (void)file;
    lock_disk();
    struct inode *inode = inode_of(number);
    if (inode != NULL && inode->handles > 0) {
        inode->handles--;
    }
    tree_collect(&disk.tree);
    unlock_disk();
    fuse_reply_err(request, 0);
}

static void on_read(fuse_req_t request, fuse_ino_t number, size_t size, off_t offset,
                    struct fuse_file_info *file) {
    (void)file;
    char *buffer = mem_alloc(size > 0 ? size : 1);
    lock_disk();
    const struct inode *inode = inode_of(number);
    size_t done =
        inode != NULL ? contents_read(&inode->contents, buffer, size, (uint64_t)offset) : 0;
    unlock_disk();
    if (inode == NULL) {
        fuse_reply_err(request, EIO);
    } else {
        fuse_reply_buf(request, buffer, done);
    }
    mem_free(buffer);
}

static void on_write(fuse_req_t request, fuse_ino_t number, const char *data, size_t size,
                     off_t offset, struct fuse_file_info *file) {
    (void)file;
    wait_for_device(false);
    lock_disk();
    struct inode *inode = inode_of(number);
    int error = inode == NULL ? EIO : change_error();
    if (error == 0) {
        error = growth_error(inode, (uint64_t)offset + size);
    }
    if (error == 0) {
        contents_write(&inode->contents, data, size, (uint64_t)offset);
        touch_time(inode);
        disk.n_writes++;
    }
    unlock_disk();
    if (error != 0) {
        fuse_reply_err(request, error);
    } else {
        fuse_reply_write(request, size);
    }
}

static void on_fsync(fuse_req_t request, fuse_ino_t number, int data_only,
                     struct fuse_file_info *file) {
    (void)data_only;
    (void)file;
    wait_for_device(true);
    lock_disk();
    struct inode *inode = inode_of(number);
    int error = inode == NULL || disk.faults.sync_fails ? EIO : 0;
    if (error == 0) {
        disk.n_syncs++;
        contents_sync(&inode->contents);
    }
    unlock_disk();
    fuse_reply_err(request, error);
}

static void on_fallocate(fuse_req_t request, fuse_ino_t number, int mode, off_t offset,
                         off_t length, struct fuse_file_info *file) {
    (void)file;
    lock_disk();
    struct inode *inode = inode_of(number);
    uint64_t end = (uint64_t)offset + (uint64_t)length;
    int error = mode != 0 ? EOPNOTSUPP : inode == NULL ? EIO : change_error();
    if (error == 0) {
        error = growth_error(inode, end);
    }
    if (error == 0 && end > inode->contents.size) {
        contents_resize(&inode->contents, end);
        touch_time(inode);
    }
    unlock_disk();
    fuse_reply_err(request, error);
}

static void on_statfs(fuse_req_t request, fuse_ino_t number) {
    (void)number;
    lock_disk();
    uint64_t used = tree_used_bytes(&disk.tree);
    uint64_t capacity = disk.faults.capacity;
    unlock_disk();
    uint64_t left = capacity > used ? capacity - used : 0;
    struct statvfs info = {.f_bsize = BLOCK_SIZE,
                           .f_frsize = BLOCK_SIZE,
                           .f_blocks = capacity / BLOCK_SIZE,
                           .f_bfree = left / BLOCK_SIZE,
                           .f_bavail = left / BLOCK_SIZE,
                           .f_files = 1000000,
                           .f_ffree = 1000000,
                           .f_favail = 1000000,
                           .f_namemax = NAME_SIZE - 1};
    fuse_reply_statfs(request, &info);
}

static const struct fuse_lowlevel_ops operations = {
    .lookup = on_lookup,
    .forget = on_forget,
    .forget_multi = on_forget_multi,
    .getattr = on_getattr,
    .setattr = on_setattr,
    .mkdir = on_mkdir,
    .unlink = on_unlink,
    .rmdir = on_rmdir,
    .rename = on_rename,
    .create = on_create,
    .open = on_open,
    .read = on_read,
    .write = on_write,
    .release = on_release,
    .fsync = on_fsync,
    .readdir = on_readdir,
    .fsyncdir = on_fsyncdir,
    .statfs = on_statfs,
    .fallocate = on_fallocate,
};

/* --- the process ------------------------------------------------------------------------------ */

static void end_session(void) {
    /* As an operator would: the handler interrupts the first thread, which waits for it. */
    kill(getpid(), SIGTERM);
}

static int run(const char *mountpoint) {
    struct fuse_loop_config *config = fuse_loop_cfg_create();
    fuse_loop_cfg_set_max_threads(config, MAX_THREADS);
    int result = fuse_session_loop_mt(session, config);
    fuse_loop_cfg_destroy(config);
    fuse_session_unmount(session);
    fuse_remove_signal_handlers(session);
    if (result < 0) {
        fprintf(stderr, "chaos-fs: %s: %s\n", mountpoint, strerror(-result));
    }
    return result < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "Usage: chaos-fs MOUNTPOINT SOCKET\n");
        return EXIT_FAILURE;
    }
    char *mount_arguments[] = {argv[0], "-o", "fsname=invoke-kv-chaos,subtype=chaos", NULL};
    struct fuse_args arguments = FUSE_ARGS_INIT(3, mount_arguments);
    tree_init(&disk.tree);
    session = fuse_session_new(&arguments, &operations, sizeof operations, NULL);
    if (session == NULL || fuse_set_signal_handlers(session) != 0) {
        return EXIT_FAILURE;
    }
    if (fuse_session_mount(session, argv[1]) != 0) {
        fuse_session_destroy(session);
        return EXIT_FAILURE;
    }
    int status = EXIT_FAILURE;
    if (control_start(&disk, argv[2], end_session) != NULL) {
        status = run(argv[1]);
    } else {
        fuse_session_unmount(session);
    }
    fuse_session_destroy(session);
    fuse_opt_free_args(&arguments);
    tree_free(&disk.tree);
    unlink(argv[2]);
    return status;
}
