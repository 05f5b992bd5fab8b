#include "chaos/fs/tree.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"

/* --- lists of names --------------------------------------------------------------------------- */

static struct name *names_find(const struct names *names, const char *text) {
    for (size_t i = 0; i < names->n; i++) {
        if (strcmp(names->items[i].text, text) == 0) {
            return &names->items[i];
        }
    }
    return NULL;
}

static void names_set(struct names *names, const char *text, struct inode *inode) {
    struct name *name = names_find(names, text);
    if (name != NULL) {
        name->inode = inode;
        return;
    }
    if (names->n == names->capacity) {
        names->capacity = names->capacity > 0 ? 2 * names->capacity : 8;
        names->items = mem_realloc(names->items, names->capacity * sizeof(struct name));
    }
    name = &names->items[names->n++];
    (void)snprintf(name->text, sizeof name->text, "%s", text);
    name->inode = inode;
}

static void names_remove(struct names *names, const char *text) {
    struct name *name = names_find(names, text);
    if (name != NULL) {
        *name = names->items[--names->n];
    }
}

static void names_copy(struct names *to, const struct names *from) {
    to->n = 0;
    for (size_t i = 0; i < from->n; i++) {
        names_set(to, from->items[i].text, from->items[i].inode);
    }
}

static void apply_change(struct names *names, const struct change *change) {
    switch (change->kind) {
    case CHANGE_SET:
        names_set(names, change->text, change->inode);
        break;
    case CHANGE_REMOVED:
        names_remove(names, change->text);
        break;
    case CHANGE_MOVED:
        names_remove(names, change->text);
        names_set(names, change->to, change->inode);
        break;
    }
}

static void change_names(struct inode *inode, enum change_kind kind, const char *text,
                         const char *to, struct inode *subject) {
    struct directory *directory = &inode->directory;
    if (directory->n_changes == directory->changes_capacity) {
        directory->changes_capacity =
            directory->changes_capacity > 0 ? 2 * directory->changes_capacity : 8;
        directory->changes =
            mem_realloc(directory->changes, directory->changes_capacity * sizeof(struct change));
    }
    struct change *change = &directory->changes[directory->n_changes++];
    change->kind = kind;
    change->inode = subject;
    (void)snprintf(change->text, sizeof change->text, "%s", text);
    (void)snprintf(change->to, sizeof change->to, "%s", to);
    apply_change(&directory->live, change);
    clock_gettime(CLOCK_REALTIME, &inode->modified);
}

/* --- inodes ----------------------------------------------------------------------------------- */

static struct inode *inode_new(struct tree *tree, bool is_directory, uint32_t permissions) {
    struct inode *inode = mem_zalloc(1, sizeof *inode);
    inode->number = ++tree->last_number;
    inode->is_directory = is_directory;
    inode->permissions = permissions;
    clock_gettime(CLOCK_REALTIME, &inode->modified);
    inode->next = tree->inodes;
    tree->inodes = inode;
    return inode;
}

static void inode_free(struct inode *inode) {
    contents_free(&inode->contents);
    mem_free(inode->directory.live.items);
    mem_free(inode->directory.durable.items);
    mem_free(inode->directory.changes);
    mem_free(inode);
}

void tree_init(struct tree *tree) {
    *tree = (struct tree){0};
    tree->root = inode_new(tree, true, 0700);
    ASSERT(tree->root->number == ROOT_NUMBER);
}

void tree_free(struct tree *tree) {
    while (tree->inodes != NULL) {
        struct inode *inode = tree->inodes;
        tree->inodes = inode->next;
        inode_free(inode);
    }
    tree->root = NULL;
}

struct inode *tree_find(const struct tree *tree, uint64_t number) {
    for (struct inode *inode = tree->inodes; inode != NULL; inode = inode->next) {
        if (inode->number == number) {
            return inode;
        }
    }
    return NULL;
}

struct inode *tree_lookup(const struct inode *directory, const char *name) {
    const struct name *found = names_find(&directory->directory.live, name);
    return found != NULL ? found->inode : NULL;
}

int tree_create(struct tree *tree, struct inode *directory, const char *name, bool is_directory,
                uint32_t permissions, struct inode **made) {
    if (!directory->is_directory) {
        return -ENOTDIR;
    }
    if (strlen(name) >= NAME_SIZE) {
        return -ENAMETOOLONG;
    }
    if (tree_lookup(directory, name) != NULL) {
        return -EEXIST;
    }
    *made = inode_new(tree, is_directory, permissions);
    change_names(directory, CHANGE_SET, name, "", *made);
    return 0;
}

int tree_remove(struct tree *tree, struct inode *directory, const char *name, bool is_directory) {
    const struct inode *inode = tree_lookup(directory, name);
    if (inode == NULL) {
        return -ENOENT;
    }
    if (inode->is_directory != is_directory) {
        return is_directory ? -ENOTDIR : -EISDIR;
    }
    if (inode->directory.live.n > 0) {
        return -ENOTEMPTY;
    }
    change_names(directory, CHANGE_REMOVED, name, "", NULL);
    tree_collect(tree);
    return 0;
}

static int check_target(const struct inode *inode, const struct inode *target, bool replace) {
    if (target == NULL || target == inode) {
        return 0;
    }
    if (!replace) {
        return -EEXIST;
    }
    if (target->is_directory != inode->is_directory) {
        return target->is_directory ? -EISDIR : -ENOTDIR;
    }
    return target->directory.live.n > 0 ? -ENOTEMPTY : 0;
}

int tree_rename(struct tree *tree, struct inode *from, const char *name, struct inode *to,
                const char *new_name, bool replace) {
    struct inode *inode = tree_lookup(from, name);
    if (inode == NULL) {
        return -ENOENT;
    }
    if (strlen(new_name) >= NAME_SIZE) {
        return -ENAMETOOLONG;
    }
    const struct inode *target = tree_lookup(to, new_name);
    int result = check_target(inode, target, replace);
    if (result != 0 || target == inode) {
        return result;
    }
    if (from == to) {
        change_names(from, CHANGE_MOVED, name, new_name, inode);
    } else {
        change_names(to, CHANGE_SET, new_name, "", inode);
        change_names(from, CHANGE_REMOVED, name, "", NULL);
    }
    tree_collect(tree);
    return 0;
}

void tree_sync_names(struct tree *tree, struct inode *directory) {
    names_copy(&directory->directory.durable, &directory->directory.live);
    directory->directory.n_changes = 0;
    tree_collect(tree);
}

/* --- what is still referred to ---------------------------------------------------------------- */

static bool has_inode(const struct names *names, const struct inode *inode) {
    for (size_t i = 0; i < names->n; i++) {
        if (names->items[i].inode == inode) {
            return true;
        }
    }
    return false;
}

static bool is_named_in(const struct directory *directory, const struct inode *inode) {
    for (size_t i = 0; i < directory->n_changes; i++) {
        if (directory->changes[i].inode == inode) {
            return true;
        }
    }
    return has_inode(&directory->live, inode) || has_inode(&directory->durable, inode);
}

static bool is_needed(const struct tree *tree, const struct inode *inode) {
    if (inode == tree->root || inode->lookups > 0 || inode->handles > 0) {
        return true;
    }
    for (const struct inode *other = tree->inodes; other != NULL; other = other->next) {
        if (other->is_directory && is_named_in(&other->directory, inode)) {
            return true;
        }
    }
    return false;
}

void tree_collect(struct tree *tree) {
    struct inode **link = &tree->inodes;
    while (*link != NULL) {
        struct inode *inode = *link;
        if (is_needed(tree, inode)) {
            link = &inode->next;
            continue;
        }
        *link = inode->next;
        inode_free(inode);
    }
}

static bool is_live(const struct tree *tree, const struct inode *inode) {
    if (inode->handles > 0) {
        return true;
    }
    for (const struct inode *other = tree->inodes; other != NULL; other = other->next) {
        if (other->is_directory && has_inode(&other->directory.live, inode)) {
            return true;
        }
    }
    return false;
}

uint64_t tree_used_bytes(const struct tree *tree) {
    uint64_t used = 0;
    for (const struct inode *inode = tree->inodes; inode != NULL; inode = inode->next) {
        if (!inode->is_directory && is_live(tree, inode)) {
            used += inode->contents.size;
        }
    }
    return used;
}

/* --- power loss ------------------------------------------------------------------------------- */

static void crash_names(struct directory *directory, struct prng *prng, int survive,
                        struct crash_count *count) {
    size_t kept = directory->n_changes;
    if (survive == CRASH_SURVIVE_NONE) {
        kept = 0;
    } else if (survive != CRASH_SURVIVE_ALL) {
        kept = (size_t)prng_below(prng, directory->n_changes + 1);
    }
    for (size_t i = 0; i < kept; i++) {
        apply_change(&directory->durable, &directory->changes[i]);
    }
    count->names += directory->n_changes;
    count->names_lost += directory->n_changes - kept;
    names_copy(&directory->live, &directory->durable);
    directory->n_changes = 0;
}

void tree_crash(struct tree *tree, struct prng *prng, int survive, struct crash_count *count) {
    /* From the oldest inode on, so that the same history and seed give the same result. */
    for (uint64_t number = ROOT_NUMBER; number <= tree->last_number; number++) {
        struct inode *inode = tree_find(tree, number);
        if (inode != NULL && inode->is_directory) {
            crash_names(&inode->directory, prng, survive, count);
        } else if (inode != NULL) {
            contents_crash(&inode->contents, prng, survive, count);
        }
    }
    tree_collect(tree);
}
