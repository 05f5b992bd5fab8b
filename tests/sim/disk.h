/* The disk of one simulated host. What was written and not synced may or may not survive a power
 * loss, 512-byte sector by sector; so may the length of a file, and the newest changes of names in
 * a directory that was not synced (in their order: a prefix of them survives). What was synced
 * stays. A process that is killed loses nothing.
 *
 * Functions return -errno on failure and take simulated time when a thread calls them. */
#ifndef SIM_DISK_H
#define SIM_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { DISK_SECTOR = 512, DISK_PATH = 256 };

struct inode {
    unsigned refs; /* names and open files */
    bool is_dir;
    uint8_t *data;
    uint64_t size;
    uint64_t capacity;
    uint8_t *durable;
    uint64_t durable_size;
    uint64_t durable_capacity;
    uint32_t *dirty; /* by sector: number of the write generation, 0: as on the disk */
    uint64_t n_sectors;
    uint32_t sync_begun; /* generation of the newest sync that began ... */
    uint32_t sync_ended; /* ... and of the newest that ended well; 0: none yet */
    uint64_t dirty_from; /* bounds of the dirty sectors */
    uint64_t dirty_to;
    struct process *locked_by;
};

struct disk_name {
    char path[DISK_PATH];
    struct inode *inode;
};

struct disk_names {
    struct disk_name *items;
    size_t n;
    size_t capacity;
};

enum name_change { NAME_SET, NAME_REMOVED, NAME_MOVED };

struct pending_name {
    enum name_change change;
    char path[DISK_PATH];
    char to[DISK_PATH]; /* NAME_MOVED */
    struct inode *inode;
};

struct disk_faults {
    uint64_t write_ns; /* mean time of calls */
    uint64_t sync_ns;
    double stall; /* chance that a sync takes long ... */
    uint64_t stall_ns;
    double write_error;
    double sync_error;
    double survives; /* chance of an unsynced sector to survive a power loss; < 0: drawn anew */
};

struct disk {
    struct host *host;
    struct disk_names names;   /* as processes see them */
    struct disk_names durable; /* as they are after a power loss */
    struct pending_name *pending;
    size_t n_pending;
    size_t pending_capacity;
    uint64_t capacity; /* bytes; more does not fit */
    uint64_t used;
    uint32_t generation;
    struct disk_faults faults;
};

struct disk *disk_new(struct host *host);
/* Without slashes at its end. */
void disk_plain_path(const char *path, char plain[DISK_PATH]);
struct inode *disk_find(struct disk *disk, const char *path);
int disk_create(struct disk *disk, const char *path, bool is_dir, struct inode **inode);
int disk_rename(struct disk *disk, const char *from, const char *to);
int disk_unlink(struct disk *disk, const char *path);
int disk_sync_dir(struct disk *disk, const char *dir);
void inode_ref(struct inode *inode);
void inode_unref(struct disk *disk, struct inode *inode);
ssize_t disk_read(struct disk *disk, struct inode *inode, void *data, size_t size, uint64_t offset);
ssize_t disk_write(struct disk *disk, struct inode *inode, const void *data, size_t size,
                   uint64_t offset);
int disk_resize(struct disk *disk, struct inode *inode, uint64_t size);
int disk_sync(struct disk *disk, struct inode *inode);
/* Calls take this time; 0: a usual one. */
void disk_wait(struct disk *disk, uint64_t ns);

/* Everything that was not synced is at risk. */
void disk_lose_power(struct disk *disk);
/* No names, no files. */
void disk_wipe(struct disk *disk);
/* Flips one bit of a file whose name contains `word`; false when there is none that has bytes. */
bool disk_flip_bit(struct disk *disk, const char *word, char *path, uint64_t *offset);
/* Removes such a file. *is_oldest tells that it was the first by name of several. */
bool disk_lose_file(struct disk *disk, const char *word, char *path, bool *is_oldest);

#endif
