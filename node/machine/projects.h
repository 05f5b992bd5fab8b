/* The projects of a shard, all in memory: by name, by id, and by the expiry that falls due next.
 *
 * LIMIT_PROJECTS bounds them: about 150 bytes each. What has changed is on the dirty list until the
 * transaction that changed it writes it back. */
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
    bool is_new; /* not in the database yet */
    uint64_t id; /* 1, 2, ... in order of creation, hence the same on every replica */
    uint64_t epoch;
    uint64_t quota;
    uint64_t used_bytes;
    uint64_t keys;
    uint64_t digest;      /* sum of digest_row() over the live rows */
    uint64_t seed;        /* digest_seed() of the name */
    uint64_t next_expiry; /* no row expires earlier, but the first may later; 0: none expires */
    size_t heap_at;       /* place in the heap counted from 1; 0: not in it */
    size_t name_size;
    uint8_t name[];
};

/* A zeroed struct is a valid, empty table. */
struct projects {
    struct project **by_id; /* by_id[id - 1] */
    size_t count;
    size_t capacity;
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
struct slice project_name(const struct project *project);

/* Adds a project under the next id with everything but name and seed zero. The name must not exist
 * yet. */
struct project *projects_add(struct projects *projects, struct slice name);

void projects_mark_dirty(struct projects *projects, struct project *project);
/* Next project to write back, taken from the list; NULL when there is none. */
struct project *projects_take_dirty(struct projects *projects);

/* Sets next_expiry and moves the project in the heap; 0 takes it out. */
void projects_set_expiry(struct projects *projects, struct project *project, uint64_t next_expiry);
/* The project with the least (next_expiry, id), NULL when none has expiring rows. */
struct project *projects_first_expiring(const struct projects *projects);

#endif
