/* The projects that use most, for metrics. */
#ifndef NODE_MACHINE_TOP_H
#define NODE_MACHINE_TOP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/limits.h"

struct machine;

enum {
    MACHINE_TOP_MAX = 100,  /* projects that a list can hold */
    MACHINE_TOP_STEP = 8192 /* projects that one call looks at: about a millisecond */
};

struct machine_top_entry {
    uint64_t used_bytes;
    uint64_t quota;
    uint64_t keys;
    unsigned shard;
    unsigned name_size;
    uint8_t name[LIMIT_PROJECT_NAME];
};

/* A walk through the projects of a shard. Zeroed but for shard and bound it begins. */
struct machine_top {
    unsigned shard;      /* goes into the entries */
    unsigned most;       /* entries wanted, at most MACHINE_TOP_MAX */
    unsigned n;          /* entries, in no order */
    unsigned least;      /* the one that uses least */
    uint64_t after;      /* id of the last project that was looked at */
    uint64_t projects;   /* looked at */
    uint64_t near_quota; /* of these, so many use nine tenths of their quota or more */
    bool done;
    struct machine_top_entry entries[MACHINE_TOP_MAX];
};

/* Looks at the next MACHINE_TOP_STEP projects. What changes during a walk may be counted as it was
 * or as it is. */
void machine_top_step(const struct machine *machine, struct machine_top *top);
/* Puts an entry into the list if it belongs there. */
void machine_top_add(struct machine_top *top, const struct machine_top_entry *entry);

#endif
