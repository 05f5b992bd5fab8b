/* The operating system as the server's code sees it: files, clocks, random bytes, POSIX threads.
 * The linker puts these in the place of the C library's functions (see CMakeLists.txt). */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/mem.h"
#include "tests/sim/disk.h"
#include "tests/sim/posix.h"

enum { FD_FIRST = 1000, FD_MAX = 4096 };

struct open_file {
    struct process *process; /* NULL: free */
    struct inode *inode;
    char dir[DISK_PATH]; /* of a directory */
    uint64_t at;
};

/* A directory being listed: names as they were when it was opened. */
struct listing {
    char (*names)[DISK_PATH];
    size_t n;
    size_t at;
    struct dirent item;
};

static struct open_file files[FD_MAX];

static struct disk *disk_here(void) {
    struct process *process = process_current();
    ASSERT(process != NULL);
    return process->host->disk;
}

static int result_of(int result) {
    if (result < 0) {
        errno = -result;
        return -1;
    }
    return result;
}

static struct open_file *file_of(int fd) {
    ASSERT(fd >= FD_FIRST && fd < FD_FIRST + FD_MAX);
    struct open_file *file = &files[fd - FD_FIRST];
    ASSERT(file->process == process_current());
    return file;
}

static void file_close(struct open_file *file) {
    if (file->inode->locked_by == file->process) {
        file->inode->locked_by = NULL;
    }
    inode_unref(file->process->host->disk, file->inode);
    *file = (struct open_file){.process = NULL};
}

void posix_process_ended(struct process *process) {
    for (unsigned i = 0; i < FD_MAX; i++) {
        if (files[i].process == process) {
            file_close(&files[i]);
        }
    }
}

/* ---- files ---- */

int __wrap_open(const char *path, int flags, ...) {
    struct disk *disk = disk_here();
    disk_wait(disk, 0);
    struct inode *inode = disk_find(disk, path);
    if (inode == NULL && (flags & O_CREAT) == 0) {
        return result_of(-ENOENT);
    }
    if (inode == NULL) {
        int result = disk_create(disk, path, false, &inode);
        if (result != 0) {
            return result_of(result);
        }
    }
    if ((flags & O_DIRECTORY) != 0 && !inode->is_dir) {
        return result_of(-ENOTDIR);
    }
    if ((flags & O_TRUNC) != 0) {
        (void)disk_resize(disk, inode, 0);
    }
    for (int i = 0; i < FD_MAX; i++) {
        if (files[i].process == NULL) {
            files[i] = (struct open_file){.process = process_current(), .inode = inode};
            disk_plain_path(path, files[i].dir);
            inode_ref(inode);
            return FD_FIRST + i;
        }
    }
    return result_of(-EMFILE);
}

int __wrap_close(int fd) {
    file_close(file_of(fd));
    return 0;
}

ssize_t __wrap_pread(int fd, void *data, size_t size, off_t offset) {
    return disk_read(disk_here(), file_of(fd)->inode, data, size, (uint64_t)offset);
}

ssize_t __wrap_read(int fd, void *data, size_t size) {
    struct open_file *file = file_of(fd);
    ssize_t n = disk_read(disk_here(), file->inode, data, size, file->at);
    file->at += (uint64_t)n;
    return n;
}

ssize_t __wrap_pwrite(int fd, const void *data, size_t size, off_t offset) {
    ssize_t n = disk_write(disk_here(), file_of(fd)->inode, data, size, (uint64_t)offset);
    return n < 0 ? result_of((int)n) : n;
}

ssize_t __wrap_write(int fd, const void *data, size_t size) {
    struct open_file *file = file_of(fd);
    ssize_t n = __wrap_pwrite(fd, data, size, (off_t)file->at);
    file->at += n > 0 ? (uint64_t)n : 0;
    return n;
}

ssize_t __wrap_pwritev(int fd, const struct iovec *pieces, int n, off_t offset) {
    size_t size = 0;
    for (int i = 0; i < n; i++) {
        size += pieces[i].iov_len;
    }
    uint8_t *all = sim_alloc(size + 1);
    size_t at = 0;
    for (int i = 0; i < n; i++) {
        memcpy(all + at, pieces[i].iov_base, pieces[i].iov_len);
        at += pieces[i].iov_len;
    }
    ssize_t written = __wrap_pwrite(fd, all, size, offset);
    int failure = errno;
    sim_free(all);
    errno = failure;
    return written;
}

int __wrap_fsync(int fd) {
    struct open_file *file = file_of(fd);
    return result_of(file->inode->is_dir ? disk_sync_dir(disk_here(), file->dir)
                                         : disk_sync(disk_here(), file->inode));
}

int __wrap_fdatasync(int fd) {
    return __wrap_fsync(fd);
}

int __wrap_ftruncate(int fd, off_t size) {
    disk_wait(disk_here(), 0);
    return result_of(disk_resize(disk_here(), file_of(fd)->inode, (uint64_t)size));
}

int __wrap_fallocate(int fd, int mode, off_t offset, off_t size) {
    ASSERT(mode == 0);
    struct inode *inode = file_of(fd)->inode;
    disk_wait(disk_here(), 0);
    uint64_t end = (uint64_t)(offset + size);
    return end <= inode->size ? 0 : result_of(disk_resize(disk_here(), inode, end));
}

int __wrap_flock(int fd, int operation) {
    struct inode *inode = file_of(fd)->inode;
    ASSERT((operation & LOCK_EX) != 0);
    if (inode->locked_by != NULL && inode->locked_by != process_current()) {
        return result_of(-EWOULDBLOCK);
    }
    inode->locked_by = process_current();
    return 0;
}

static void fill_stat(const struct inode *inode, struct stat *info) {
    memset(info, 0, sizeof *info);
    info->st_size = (off_t)inode->size;
    info->st_mode = inode->is_dir ? S_IFDIR | 0700 : S_IFREG | 0600;
}

int __wrap_fstat(int fd, struct stat *info) {
    fill_stat(file_of(fd)->inode, info);
    return 0;
}

int __wrap_stat(const char *path, struct stat *info) {
    struct inode *inode = disk_find(disk_here(), path);
    if (inode == NULL) {
        return result_of(-ENOENT);
    }
    fill_stat(inode, info);
    return 0;
}

int __wrap_access(const char *path, int mode) {
    (void)mode;
    return disk_find(disk_here(), path) == NULL ? result_of(-ENOENT) : 0;
}

int __wrap_mkdir(const char *path, mode_t mode) {
    (void)mode;
    struct inode *inode;
    disk_wait(disk_here(), 0);
    if (disk_find(disk_here(), path) != NULL) {
        return result_of(-EEXIST);
    }
    return result_of(disk_create(disk_here(), path, true, &inode));
}

int __wrap_rename(const char *from, const char *to) {
    disk_wait(disk_here(), 0);
    return result_of(disk_rename(disk_here(), from, to));
}

int __wrap_unlink(const char *path) {
    disk_wait(disk_here(), 0);
    return result_of(disk_unlink(disk_here(), path));
}

int __wrap_statvfs(const char *path, struct statvfs *info) {
    (void)path;
    const struct disk *disk = disk_here();
    memset(info, 0, sizeof *info);
    info->f_frsize = 4096;
    info->f_bavail = disk->used < disk->capacity ? (disk->capacity - disk->used) / 4096 : 0;
    return 0;
}

DIR *__wrap_opendir(const char *path) {
    struct disk *disk = disk_here();
    disk_wait(disk, 0);
    struct inode *inode = disk_find(disk, path);
    if (inode == NULL || !inode->is_dir) {
        errno = inode == NULL ? ENOENT : ENOTDIR;
        return NULL;
    }
    struct listing *listing = mem_zalloc(1, sizeof *listing);
    listing->names = mem_zalloc(disk->names.n + 1, sizeof *listing->names);
    size_t size = strlen(path);
    for (size_t i = 0; i < disk->names.n; i++) {
        const char *name = disk->names.items[i].path;
        if (strncmp(name, path, size) == 0 && name[size] == '/' &&
            strchr(name + size + 1, '/') == NULL) {
            snprintf(listing->names[listing->n++], DISK_PATH, "%s", name + size + 1);
        }
    }
    return (DIR *)(void *)listing;
}

struct dirent *__wrap_readdir(DIR *dir) {
    struct listing *listing = (struct listing *)(void *)dir;
    if (listing->at == listing->n) {
        return NULL;
    }
    snprintf(listing->item.d_name, sizeof listing->item.d_name, "%s",
             listing->names[listing->at++]);
    return &listing->item;
}

int __wrap_closedir(DIR *dir) {
    struct listing *listing = (struct listing *)(void *)dir;
    mem_free(listing->names);
    mem_free(listing);
    return 0;
}

/* ---- clocks, chance, identity ---- */

int __wrap_clock_gettime(clockid_t clock, struct timespec *now) {
    struct process *process = process_current();
    ASSERT(process != NULL);
    uint64_t ns =
        clock == CLOCK_REALTIME ? host_wall_ns(process->host) : host_monotonic_ns(process->host);
    now->tv_sec = (time_t)(ns / SIM_S);
    now->tv_nsec = (long)(ns % SIM_S);
    return 0;
}

ssize_t __wrap_getrandom(void *data, size_t size, unsigned flags) {
    (void)flags;
    for (size_t i = 0; i < size; i++) {
        ((uint8_t *)data)[i] = (uint8_t)kernel_random(256);
    }
    return (ssize_t)size;
}

pid_t __wrap_getpid(void) {
    struct process *process = process_current();
    return process == NULL ? 1 : (pid_t)(1000 + process->number);
}

/* ---- POSIX threads ---- */

struct posix_thread {
    void *(*main)(void *data);
    void *data;
};

static void posix_thread_main(void *data) {
    struct posix_thread start = *(struct posix_thread *)data;
    mem_free(data);
    (void)start.main(start.data);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*main)(void *data), void *data) {
    (void)attributes;
    struct posix_thread *start = mem_zalloc(1, sizeof *start);
    *start = (struct posix_thread){.main = main, .data = data};
    *thread = (pthread_t)(uintptr_t)thread_start(process_current(), posix_thread_main, start);
    return 0;
}

int __wrap_pthread_join(pthread_t thread, void **result) {
    (void)result;
    thread_join((struct thread *)(uintptr_t)thread);
    return 0;
}

/* Mutexes and conditions keep what they need in the memory of the real ones. */
struct mutex {
    struct thread *owner;
};

struct condition {
    struct thread *waiting; /* at most one thread waits in this server */
};

static_assert(sizeof(struct mutex) <= sizeof(pthread_mutex_t), "fits");
static_assert(sizeof(struct condition) <= sizeof(pthread_cond_t), "fits");

int __wrap_pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes) {
    (void)attributes;
    memset(mutex, 0, sizeof *mutex);
    return 0;
}

int __wrap_pthread_mutex_destroy(pthread_mutex_t *mutex) {
    ASSERT(((struct mutex *)(void *)mutex)->owner == NULL);
    return 0;
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex) {
    struct mutex *own = (struct mutex *)(void *)mutex;
    while (own->owner != NULL) {
        ASSERT(own->owner != thread_current());
        thread_sleep(SIM_US);
    }
    own->owner = thread_current();
    return 0;
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex) {
    struct mutex *own = (struct mutex *)(void *)mutex;
    ASSERT(own->owner == thread_current());
    own->owner = NULL;
    return 0;
}

int __wrap_pthread_cond_init(pthread_cond_t *condition, const pthread_condattr_t *attributes) {
    (void)attributes;
    memset(condition, 0, sizeof *condition);
    return 0;
}

int __wrap_pthread_cond_destroy(pthread_cond_t *condition) {
    ASSERT(((struct condition *)(void *)condition)->waiting == NULL);
    return 0;
}

int __wrap_pthread_cond_signal(pthread_cond_t *condition) {
    struct condition *own = (struct condition *)(void *)condition;
    if (own->waiting != NULL) {
        thread_unpark(own->waiting);
        own->waiting = NULL;
    }
    return 0;
}

bool posix_cond_wait_for(pthread_cond_t *condition, pthread_mutex_t *mutex, uint64_t ns) {
    struct condition *own = (struct condition *)(void *)condition;
    ASSERT(own->waiting == NULL);
    own->waiting = thread_current();
    (void)__wrap_pthread_mutex_unlock(mutex);
    bool woken = true;
    if (ns == UINT64_MAX) {
        thread_park();
    } else {
        woken = thread_park_for(ns);
    }
    if (own->waiting == thread_current()) {
        own->waiting = NULL;
    }
    (void)__wrap_pthread_mutex_lock(mutex);
    return woken;
}

int __wrap_pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex) {
    (void)posix_cond_wait_for(condition, mutex, UINT64_MAX);
    return 0;
}
