/* Files and directories of the chaos disk. Names have a live and a durable side like contents: a
 * file that was made, renamed or removed since its directory was last synced may be as before after
 * a power loss. The changes of a directory survive in their order, a part of them from the first
 * on.
 *
 * Syncing a file makes its bytes durable, not its name. No I/O; the caller serialises calls. */
#ifndef CHAOS_FS_TREE_H
#define CHAOS_FS_TREE_H

#include <time.h>

#include "chaos/fs/contents.h"

enum { NAME_SIZE = 256, ROOT_NUMBER = 1 };

struct inode;

struct name {
    char text[NAME_SIZE];
    struct inode *inode;
};

struct names {
    struct name *items;
    size_t n;
    size_t capacity;
};

enum change_kind { CHANGE_SET, CHANGE_REMOVED, CHANGE_MOVED };

/* A change that the disk may not have yet. */
struct change {
    enum change_kind kind;
    char text[NAME_SIZE];
    char to[NAME_SIZE]; /* CHANGE_MOVED */
    struct inode *inode;
};

struct directory {
    struct names live;
    struct names durable;
    struct change *changes;
    size_t n_changes;
    size_t changes_capacity;
};

struct inode {
    uint64_t number;
    bool is_directory;
    uint32_t permissions;
    uint64_t lookups; /* references that the kernel holds */
    uint64_t handles; /* open files */
    struct timespec modified;
    struct contents contents;
    struct directory directory;
    struct inode *next;
};

struct tree {
    struct inode *inodes; /* all of them; the first made is the root */
    struct inode *root;
    uint64_t last_number;
};

void tree_init(struct tree *tree);
void tree_free(struct tree *tree);
struct inode *tree_find(const struct tree *tree, uint64_t number);
/* NULL when there is no such name. */
struct inode *tree_lookup(const struct inode *directory, const char *name);
/* Return 0 or -errno. */
int tree_create(struct tree *tree, struct inode *directory, const char *name, bool is_directory,
                uint32_t permissions, struct inode **made);
int tree_remove(struct tree *tree, struct inode *directory, const char *name, bool is_directory);
int tree_rename(struct tree *tree, struct inode *from, const char *name, struct inode *to,
                const char *new_name, bool replace);
/* The names in a directory are what a power loss leaves from here on. */
void tree_sync_names(struct tree *tree, struct inode *directory);
/* Frees what nothing refers to any more. */
void tree_collect(struct tree *tree);
/* Bytes of all files that have a name or are open. */
uint64_t tree_used_bytes(const struct tree *tree);
void tree_crash(struct tree *tree, struct prng *prng, int survive, struct crash_count *count);

#endif
