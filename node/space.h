/* Leadership goes where there is space: a leader whose own disk is nearly full hands its shard to a
 * node whose disk is not, instead of refusing writes that the others have room for.
 *
 * Pure: no clock, no I/O. One for each node, for all of its shards. */
#ifndef NODE_SPACE_H
#define NODE_SPACE_H

#include "base/limits.h"
#include "raft/group.h"

enum {
    /* A disk that was low is not trusted before it has been well for so long. It keeps two nodes
     * whose disks change about their limits from handing a shard to and fro. */
    SPACE_CALM_MS = 10000,
    /* A transfer that did not succeed is tried again after this time, after twice that, and so on,
     * since a leader takes nothing while it hands over. */
    SPACE_RETRY_MS = 1000,
    SPACE_RETRY_MAX_MS = 60000
};

/* All zero at first. */
struct space {
    struct {
        uint64_t node;
        uint64_t low_ms; /* when it was last known to be low */
    } seen[LIMIT_NODES];
    unsigned n_seen;
    struct {
        uint64_t again_ms; /* no attempt before */
        uint64_t wait_ms;  /* before the next one but this; 0: there was none */
        uint64_t tried;    /* node of the last attempt */
    } shards[LIMIT_SHARDS];
};

/* Notes what the voters of the group say of their disks, if this node leads it. When this node's
 * own disk is `low` and a majority has space, hands leadership to the voter that has space and
 * holds most of the log. Returns that node, 0: none. Called often. */
uint64_t space_tend(struct space *space, struct group *group, unsigned shard, bool low,
                    uint64_t now_ms);

/* True when `node` has just told this leader that its disk has space, and has not said otherwise
 * for SPACE_CALM_MS. */
bool space_may_lead(const struct space *space, const struct group *group, uint64_t node,
                    uint64_t now_ms);

#endif
