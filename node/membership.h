/* Which servers a shard's Raft group should have, and the next single step towards that. Pure.
 *
 * The members of a cluster are those of shard 0's group; the groups of the other shards follow it,
 * and shard 0's changes only on an operator's word (node/server_members.c). A leader brings its
 * group there one server at a time: a node that is missing is added as a standby, which receives
 * the log but does not vote; a standby that has caught up is made a voter; a node that is not
 * wanted is taken out, but only while every voter that stays is there and has caught up. A leader
 * that is not wanted hands its leadership over first.
 *
 * Taking a node out makes any promise of its former self void, and makes the leader forget how much
 * of the log it had. */
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
    const uint64_t *wanted; /* ids; empty: not known now, nobody is added or taken out */
    unsigned n_wanted;
    uint64_t self; /* the leader */
    bool (*is_connected)(void *data, uint64_t id);
    bool (*is_caught_up)(void *data, uint64_t id); /* holds (nearly) all of the leader's log */
    void *data;
};

enum membership_step {
    MEMBERSHIP_NONE,
    MEMBERSHIP_REMOVE,    /* take `id` out */
    MEMBERSHIP_HAND_OVER, /* `id`, the leader, is to be taken out: another one must lead first */
    MEMBERSHIP_ADD,       /* add `id` as a standby */
    MEMBERSHIP_PROMOTE,   /* make the standby `id` a voter */
    MEMBERSHIP_UNSAFE     /* `id` should be taken out, but voters that stay are not all there */
};

/* Decides the next step and the server it concerns. */
enum membership_step membership_next(const struct membership_view *view, uint64_t *id);

/* True when the voters other than `leaving` are all there and there is at least one: then taking it
 * out cannot cost the majority. */
bool membership_can_spare(const struct membership_view *view, uint64_t leaving);

#endif
