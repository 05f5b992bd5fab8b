#include "tests/sim/disk.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "tests/sim/kernel.h"

#define DISK_CAPACITY ((uint64_t)8 << 30)

/* ---- names ---- */

static struct disk_name *names_find(struct disk_names *names, const char *path) {
    for (size_t i = 0; i < names->n; i++) {
        if (strcmp(names->items[i].path, path) == 0) {
            return &names->items[i];
        }
    }
    return NULL;
}

void inode_ref(struct inode *inode) {
    inode->refs++;
}

void inode_unref(struct disk *disk, struct inode *inode) {
    ASSERT(inode->refs > 0);
    if (--inode->refs == 0) {
        disk->used -= inode->size;
        sim_free(inode->data);
        sim_free(inode->durable);
        sim_free(inode->dirty);
        sim_free(inode);
    }
}

static void names_set(struct disk *disk, struct disk_names *names, const char *path,
                      struct inode *inode) {
    inode_ref(inode);
    struct disk_name *name = names_find(names, path);
    if (name != NULL) {
        inode_unref(disk, name->inode);
        name->inode = inode;
        return;
    }
    if (names->n == names->capacity) {
        names->capacity = names->capacity == 0 ? 16 : names->capacity * 2;
        names->items = sim_realloc(names->items, names->capacity * sizeof *names->items);
    }
    name = &names->items[names->n++];
    snprintf(name->path, sizeof name->path, "%s", path);
    name->inode = inode;
}

static void names_remove(struct disk *disk, struct disk_names *names, const char *path) {
    struct disk_name *name = names_find(names, path);
    if (name != NULL) {
        inode_unref(disk, name->inode);
        memmove(name, name + 1, (size_t)(names->items + names->n - (name + 1)) * sizeof *name);
        names->n--;
    }
}

static void names_clear(struct disk *disk, struct disk_names *names) {
    while (names->n > 0) {
        inode_unref(disk, names->items[--names->n].inode);
    }
}

static void names_change(struct disk *disk, struct disk_names *names,
                         const struct pending_name *change) {
    switch (change->change) {
    case NAME_SET:
        names_set(disk, names, change->path, change->inode);
        break;
    case NAME_REMOVED:
        names_remove(disk, names, change->path);
        break;
    case NAME_MOVED:
        names_remove(disk, names, change->path);
        names_set(disk, names, change->to, change->inode);
        break;
    }
}

static void note_change(struct disk *disk, struct pending_name change) {
    if (disk->n_pending == disk->pending_capacity) {
        disk->pending_capacity = disk->pending_capacity == 0 ? 16 : disk->pending_capacity * 2;
        disk->pending = sim_realloc(disk->pending, disk->pending_capacity * sizeof *disk->pending);
    }
    inode_ref(change.inode);
    disk->pending[disk->n_pending++] = change;
}

static bool path_is_in(const char *path, const char *dir) {
    const char *slash = strrchr(path, '/');
    size_t size = slash == NULL ? 0 : (size_t)(slash - path);
    size = size == 0 ? 1 : size;
    return strlen(dir) == size && strncmp(path, dir, size) == 0;
}

/* Makes the changes in `dir` durable, or when `most` allows less, the first of them. */
static void settle_dir(struct disk *disk, const char *dir, size_t most) {
    size_t kept = 0;
    for (size_t i = 0; i < disk->n_pending; i++) {
        struct pending_name change = disk->pending[i];
        if (!path_is_in(change.path, dir) || most == 0) {
            disk->pending[kept++] = change;
            continue;
        }
        most--;
        names_change(disk, &disk->durable, &change);
        inode_unref(disk, change.inode);
    }
    disk->n_pending = kept;
}

void disk_plain_path(const char *path, char plain[DISK_PATH]) {
    size_t size = (size_t)snprintf(plain, DISK_PATH, "%s", path);
    ASSERT(size > 0 && size < DISK_PATH);
    while (size > 1 && plain[size - 1] == '/') {
        plain[--size] = '\0';
    }
}

struct inode *disk_find(struct disk *disk, const char *path) {
    char plain[DISK_PATH];
    disk_plain_path(path, plain);
    struct disk_name *name = names_find(&disk->names, plain);
    return name == NULL ? NULL : name->inode;
}

int disk_create(struct disk *disk, const char *path, bool is_dir, struct inode **inode) {
    if (disk->used + 4096 > disk->capacity) {
        return -ENOSPC;
    }
    *inode = sim_alloc(sizeof **inode);
    (*inode)->is_dir = is_dir;
    names_set(disk, &disk->names, path, *inode);
    struct pending_name change = {.change = NAME_SET, .inode = *inode};
    snprintf(change.path, sizeof change.path, "%s", path);
    note_change(disk, change);
    return 0;
}

int disk_rename(struct disk *disk, const char *from, const char *to) {
    struct pending_name change = {.change = NAME_MOVED, .inode = disk_find(disk, from)};
    if (change.inode == NULL) {
        return -ENOENT;
    }
    snprintf(change.path, sizeof change.path, "%s", from);
    snprintf(change.to, sizeof change.to, "%s", to);
    note_change(disk, change);
    names_change(disk, &disk->names, &change);
    return 0;
}

int disk_unlink(struct disk *disk, const char *path) {
    struct pending_name change = {.change = NAME_REMOVED, .inode = disk_find(disk, path)};
    if (change.inode == NULL) {
        return -ENOENT;
    }
    snprintf(change.path, sizeof change.path, "%s", path);
    note_change(disk, change);
    names_change(disk, &disk->names, &change);
    return 0;
}

int disk_sync_dir(struct disk *disk, const char *dir) {
    disk_wait(disk, kernel_delay(disk->faults.sync_ns));
    settle_dir(disk, dir, SIZE_MAX);
    return 0;
}

static void make_root(struct disk *disk) {
    struct inode *root;
    (void)disk_create(disk, "/", true, &root);
    settle_dir(disk, "/", SIZE_MAX);
}

struct disk *disk_new(struct host *host) {
    struct disk *disk = sim_alloc(sizeof *disk);
    disk->host = host;
    disk->capacity = DISK_CAPACITY;
    disk->generation = 1;
    disk->faults =
        (struct disk_faults){.write_ns = 10 * SIM_US, .sync_ns = 300 * SIM_US, .survives = -1};
    make_root(disk);
    return disk;
}

/* ---- bytes ---- */

void disk_wait(struct disk *disk, uint64_t ns) {
    if (thread_current() == NULL) {
        return;
    }
    process_io_point();
    thread_sleep(ns > 0 ? ns : kernel_delay(disk->faults.write_ns));
}

static void grow(uint8_t **data, uint64_t *capacity, uint64_t size) {
    if (size > *capacity) {
        uint64_t larger = size > 2 * *capacity ? size : 2 * *capacity;
        *data = sim_realloc(*data, larger);
        memset(*data + *capacity, 0, larger - *capacity);
        *capacity = larger;
    }
}

static void mark_dirty(struct disk *disk, struct inode *inode, uint64_t from, uint64_t to) {
    uint64_t first = from / DISK_SECTOR;
    uint64_t end = (to + DISK_SECTOR - 1) / DISK_SECTOR;
    if (end > inode->n_sectors) {
        uint64_t n = end > 2 * inode->n_sectors ? end : 2 * inode->n_sectors;
        inode->dirty = sim_realloc(inode->dirty, n * sizeof *inode->dirty);
        memset(inode->dirty + inode->n_sectors, 0, (n - inode->n_sectors) * sizeof *inode->dirty);
        inode->n_sectors = n;
    }
    for (uint64_t i = first; i < end; i++) {
        inode->dirty[i] = disk->generation;
    }
    if (inode->dirty_from == inode->dirty_to) {
        inode->dirty_from = first;
        inode->dirty_to = end;
    } else {
        inode->dirty_from = first < inode->dirty_from ? first : inode->dirty_from;
        inode->dirty_to = end > inode->dirty_to ? end : inode->dirty_to;
    }
}

/* One sector reaches the disk. */
static void write_back(struct inode *inode, uint64_t sector) {
    uint64_t from = sector * DISK_SECTOR;
    uint64_t to = from + DISK_SECTOR;
    uint64_t end = to < inode->size ? to : inode->size;
    grow(&inode->durable, &inode->durable_capacity, to);
    if (from < end) {
        memcpy(inode->durable + from, inode->data + from, end - from);
    }
    if (end < to) {
        uint64_t tail = from > end ? from : end;
        memset(inode->durable + tail, 0, to - tail);
    }
    inode->dirty[sector] = 0;
}

/* A sync that is under way covers what was written before it began, also where that is written over
 * meanwhile: then the disk has what was there before, the file the new bytes. */
static void keep_promised(struct inode *inode, uint64_t from, uint64_t to) {
    uint64_t first = from / DISK_SECTOR;
    uint64_t end = (to + DISK_SECTOR - 1) / DISK_SECTOR;
    for (uint64_t i = first; i < end && i < inode->n_sectors; i++) {
        if (inode->dirty[i] != 0 && inode->dirty[i] <= inode->sync_begun) {
            write_back(inode, i);
        }
    }
}

ssize_t disk_read(struct disk *disk, struct inode *inode, void *data, size_t size,
                  uint64_t offset) {
    disk_wait(disk, 0);
    if (offset >= inode->size) {
        return 0;
    }
    size_t n = size < inode->size - offset ? size : (size_t)(inode->size - offset);
    memcpy(data, inode->data + offset, n);
    return (ssize_t)n;
}

static bool call_fails(double chance) {
    struct process *process = process_current();
    if (process == NULL || chance <= 0 || !kernel_chance(chance)) {
        return false;
    }
    process->io_failed = true;
    return true;
}

int disk_resize(struct disk *disk, struct inode *inode, uint64_t size) {
    if (size > inode->size && disk->used + size - inode->size > disk->capacity) {
        cover("ENOSPC");
        return -ENOSPC;
    }
    if (size < inode->size) {
        keep_promised(inode, size, inode->size);
        memset(inode->data + size, 0, inode->size - size);
        mark_dirty(disk, inode, size, inode->size);
    }
    grow(&inode->data, &inode->capacity, size);
    disk->used = disk->used + size - inode->size;
    inode->size = size;
    return 0;
}

ssize_t disk_write(struct disk *disk, struct inode *inode, const void *data, size_t size,
                   uint64_t offset) {
    /* The crash of this call comes before its bytes are there, that of the next one behind them. */
    disk_wait(disk, 0);
    if (call_fails(disk->faults.write_error)) {
        cover("failed write");
        return -EIO;
    }
    if (size > 4096 && kernel_random(200) == 0) {
        size = 1 + (size_t)kernel_random(size); /* a short write */
    }
    if (offset + size > inode->size) {
        int result = disk_resize(disk, inode, offset + size);
        if (result != 0) {
            return result;
        }
    }
    if (size > 0) {
        keep_promised(inode, offset, offset + size);
        memcpy(inode->data + offset, data, size);
        mark_dirty(disk, inode, offset, offset + size);
    }
    return (ssize_t)size;
}

/* What is dirty up to generation `to` goes to the disk, or stays in memory by `chance`. */
static void settle_sectors(struct inode *inode, uint32_t to, double chance) {
    uint64_t from = inode->dirty_to;
    uint64_t end = inode->dirty_from;
    for (uint64_t i = inode->dirty_from; i < inode->dirty_to; i++) {
        if (inode->dirty[i] == 0) {
            continue;
        }
        if (inode->dirty[i] <= to && (chance >= 1 || kernel_chance(chance))) {
            write_back(inode, i);
            continue;
        }
        from = i < from ? i : from;
        end = i + 1;
    }
    inode->dirty_from = from < end ? from : 0;
    inode->dirty_to = from < end ? end : 0;
}

int disk_sync(struct disk *disk, struct inode *inode) {
    uint32_t generation = disk->generation++;
    uint64_t size = inode->size;
    inode->sync_begun = generation;
    uint64_t ns = kernel_delay(disk->faults.sync_ns);
    if (disk->faults.stall > 0 && kernel_chance(disk->faults.stall)) {
        ns = kernel_delay(disk->faults.stall_ns);
        cover("stalled sync");
    }
    if (thread_current() != NULL) {
        disk_wait(disk, ns);
        process_io_point();
    }
    if (call_fails(disk->faults.sync_error)) {
        cover("failed sync");
        settle_sectors(inode, generation, 0.5);
        return -EIO;
    }
    settle_sectors(inode, generation, 1);
    /* One that began later and has ended already knows a newer size. */
    if (generation > inode->sync_ended) {
        inode->sync_ended = generation;
        inode->durable_size = size < inode->size ? size : inode->size;
        grow(&inode->durable, &inode->durable_capacity, inode->durable_size);
    }
    return 0;
}

/* ---- what nobody wishes for ---- */

static void inode_lose_power(struct disk *disk, struct inode *inode, double survives) {
    uint64_t n_dirty = 0;
    uint64_t n_lost = 0;
    for (uint64_t i = inode->dirty_from; i < inode->dirty_to; i++) {
        if (inode->dirty[i] != 0) {
            n_dirty++;
            if (kernel_chance(survives)) {
                write_back(inode, i);
            } else {
                n_lost++;
            }
        }
    }
    if (n_dirty > 0) {
        cover(n_lost == 0         ? "power loss: unsynced sectors all kept"
              : n_lost == n_dirty ? "power loss: unsynced sectors all lost"
                                  : "power loss: unsynced sectors torn");
    }
    uint64_t size = inode->size;
    if (size != inode->durable_size && !kernel_chance(survives)) {
        size = inode->durable_size;
    }
    grow(&inode->durable, &inode->durable_capacity, size);
    grow(&inode->data, &inode->capacity, size);
    if (size > 0) {
        memcpy(inode->data, inode->durable, size);
    }
    if (inode->capacity > size) {
        memset(inode->data + size, 0, inode->capacity - size);
    }
    if (inode->durable_capacity > size) {
        memset(inode->durable + size, 0, inode->durable_capacity - size);
    }
    disk->used = disk->used + size - inode->size;
    inode->size = size;
    inode->durable_size = size;
    if (inode->n_sectors > 0) {
        memset(inode->dirty, 0, inode->n_sectors * sizeof *inode->dirty);
    }
    inode->dirty_from = 0;
    inode->dirty_to = 0;
}

void disk_lose_power(struct disk *disk) {
    double survives = disk->faults.survives;
    if (survives < 0) {
        static const double chances[] = {0, 0.1, 0.5, 0.9, 1};
        survives = chances[kernel_random(5)];
    }
    while (disk->n_pending > 0) {
        char dir[DISK_PATH];
        size_t n = 0;
        snprintf(dir, sizeof dir, "%s", disk->pending[0].path);
        char *slash = strrchr(dir, '/');
        slash[slash == dir ? 1 : 0] = '\0';
        for (size_t i = 0; i < disk->n_pending; i++) {
            n += path_is_in(disk->pending[i].path, dir) ? 1 : 0;
        }
        size_t kept = survives >= 1 ? n : survives <= 0 ? 0 : (size_t)kernel_random(n + 1);
        cover(kept < n ? "power loss: names lost" : "power loss: names kept");
        settle_dir(disk, dir, kept);
        size_t left = 0;
        for (size_t i = 0; i < disk->n_pending; i++) {
            if (path_is_in(disk->pending[i].path, dir)) {
                inode_unref(disk, disk->pending[i].inode);
            } else {
                disk->pending[left++] = disk->pending[i];
            }
        }
        disk->n_pending = left;
    }
    names_clear(disk, &disk->names);
    for (size_t i = 0; i < disk->durable.n; i++) {
        names_set(disk, &disk->names, disk->durable.items[i].path, disk->durable.items[i].inode);
    }
    for (size_t i = 0; i < disk->names.n; i++) {
        inode_lose_power(disk, disk->names.items[i].inode, survives);
    }
}

void disk_wipe(struct disk *disk) {
    while (disk->n_pending > 0) {
        inode_unref(disk, disk->pending[--disk->n_pending].inode);
    }
    names_clear(disk, &disk->names);
    names_clear(disk, &disk->durable);
    make_root(disk);
}

static struct disk_name *some_file(struct disk *disk, const char *word) {
    struct disk_name *chosen = NULL;
    uint64_t seen = 0;
    for (size_t i = 0; i < disk->names.n; i++) {
        struct disk_name *name = &disk->names.items[i];
        if (!name->inode->is_dir && name->inode->size > 0 && strstr(name->path, word) != NULL &&
            kernel_random(++seen) == 0) {
            chosen = name;
        }
    }
    return chosen;
}

bool disk_flip_bit(struct disk *disk, const char *word, char *path, uint64_t *offset) {
    struct disk_name *name = some_file(disk, word);
    if (name == NULL) {
        return false;
    }
    struct inode *inode = name->inode;
    /* Where something was written, so that the flip is worth it. */
    uint64_t used = inode->size;
    while (used > 1 && inode->data[used - 1] == 0) {
        used--;
    }
    *offset = kernel_random(used);
    uint8_t bit = (uint8_t)(1U << kernel_random(8));
    inode->data[*offset] ^= bit;
    grow(&inode->durable, &inode->durable_capacity, inode->size);
    inode->durable[*offset] = inode->data[*offset];
    snprintf(path, DISK_PATH, "%s", name->path);
    return true;
}

bool disk_lose_file(struct disk *disk, const char *word, char *path, bool *is_oldest) {
    struct disk_name *name = some_file(disk, word);
    if (name == NULL) {
        return false;
    }
    snprintf(path, DISK_PATH, "%s", name->path);
    unsigned earlier = 0;
    unsigned later = 0;
    for (size_t i = 0; i < disk->names.n; i++) {
        const char *other = disk->names.items[i].path;
        earlier += strstr(other, word) != NULL && strcmp(other, path) < 0 ? 1 : 0;
        later += strstr(other, word) != NULL && strcmp(other, path) > 0 ? 1 : 0;
    }
    *is_oldest = earlier == 0 && later > 0;
    names_remove(disk, &disk->durable, path);
    names_remove(disk, &disk->names, path);
    return true;
}
