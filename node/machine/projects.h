/* The projects of a shard, all in memory: by name, by id, and by the expiry that falls due next.
 *
 * LIMIT_PROJECTS bounds them: about 200 bytes each, and 80 for each token. What has changed is on
 * the dirty list until the transaction that changed it writes it back. */
#ifndef NODE_MACHINE_PROJECTS_H
#define NODE_MACHINE_PROJECTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

struct project {
    struct project *next_in_bucket;
    struct project *next_dirty;
    bool is_dirty;
    bool is_new;  /* not in the database yet */
    bool is_gone; /* removed, while it was on the dirty list */
    uint64_t id;  /* 1, 2, ... in order of creation, hence the same on every replica */
    uint64_t epoch;
    uint64_t quota;
    uint64_t used_bytes;
    uint64_t keys;
    uint64_t digest;      /* sum of digest_row() over the live rows */
    uint64_t seed;        /* digest_seed() of the name */
    uint64_t next_expiry; /* no row expires earlier, but the first may later; 0: none expires */
    struct token *tokens; /* in order of their numbers; see tokens.h */
    unsigned n_tokens;
    size_t heap_at; /* place in the heap counted from 1; 0: not in it */
    size_t name_size;
    uint8_t name[];
};

/* A zeroed struct is a valid, empty table. */
struct projects {
    struct project **by_id; /* in order of their ids */
    size_t count;
    size_t capacity;
    uint64_t last_id; /* of all that ever were */
    struct project **buckets;
    size_t n_buckets;      /* a power of two */
    struct project **heap; /* those with expiring rows, least (next_expiry, id) first */
    size_t heap_count;
    size_t heap_capacity;
    struct project *dirty;
};

void projects_free(struct projects *projects);

/* NULL when there is none. */
struct project *projects_find(const struct projects *projects, struct slice name);
struct project *projects_by_id(const struct projects *projects, uint64_t id);
/* Place in by_id of the first project with an id greater than this one; `count` when there is none.
 */
size_t projects_place_after(const struct projects *projects, uint64_t id);
struct slice project_name(const struct project *project);

/* Adds a project under an id greater than all there are, with everything but name and seed zero.
 * The name must not exist yet. */
struct project *projects_add(struct projects *projects, struct slice name, uint64_t id);
/* Forgets a project and frees it. It must have no tokens. Moves the places of those made later in
 * by_id: a few microseconds for ten thousand. */
void projects_remove(struct projects *projects, struct project *project);

void projects_mark_dirty(struct projects *projects, struct project *project);
/* Next project to write back, taken from the list; NULL when there is none. */
struct project *projects_take_dirty(struct projects *projects);

/* Sets next_expiry and moves the project in the heap; 0 takes it out. */
void projects_set_expiry(struct projects *projects, struct project *project, uint64_t next_expiry);
/* The project with the least (next_expiry, id), NULL when none has expiring rows. */
struct project *projects_first_expiring(const struct projects *projects);

#endif
