/* Which servers a shard's Raft group should have, and the next single step towards that. Pure.
 *
 * The nodes of the configuration file should all be voters. A leader brings its groups there one
 * server at a time: a node that is missing is added as a standby, which receives the log but does
 * not vote; a standby that has caught up is made a voter. So a group heals by itself.
 *
 * A voter is only ever removed on an operator's word, when its disk was lost ("replace"): it is
 * taken out of the group, which makes any promise of its former self void, and then comes back like
 * a new node. Taking it out also makes the leader forget how much of the log it had. */
#ifndef NODE_MEMBERSHIP_H
#define NODE_MEMBERSHIP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/limits.h"

struct member {
    uint64_t id;
    bool voter;
};

struct membership_view {
    const struct member *members; /* of the group now */
    unsigned n_members;
    const uint64_t *wanted; /* ids in the configuration file */
    unsigned n_wanted;
    uint64_t self;    /* the leader */
    uint64_t replace; /* node to be taken out first, 0: none */
    bool (*is_connected)(void *data, uint64_t id);
    bool (*is_caught_up)(void *data, uint64_t id); /* holds (nearly) all of the leader's log */
    void *data;
};

enum membership_step {
    MEMBERSHIP_NONE,
    MEMBERSHIP_REMOVE,  /* take `id` out */
    MEMBERSHIP_ADD,     /* add `id` as a standby */
    MEMBERSHIP_PROMOTE, /* make the standby `id` a voter */
    MEMBERSHIP_UNSAFE   /* `id` should be taken out, but the other voters are not all connected */
};

/* Decides the next step and the server it concerns. */
enum membership_step membership_next(const struct membership_view *view, uint64_t *id);

#endif
