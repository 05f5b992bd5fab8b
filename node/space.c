#include "node/space.h"

/* How far a successor may be behind: while it catches up, nothing is taken. */
enum { BEHIND_MAX = 64 };

static void note_low(struct space *space, uint64_t node, uint64_t now_ms) {
    unsigned oldest = 0;
    for (unsigned i = 0; i < space->n_seen; i++) {
        if (space->seen[i].node == node) {
            space->seen[i].low_ms = now_ms;
            return;
        }
        oldest = space->seen[i].low_ms < space->seen[oldest].low_ms ? i : oldest;
    }
    /* More nodes than a cluster has: some of them are no members any more. */
    unsigned place = space->n_seen < LIMIT_NODES ? space->n_seen++ : oldest;
    space->seen[place].node = node;
    space->seen[place].low_ms = now_ms;
}

static bool is_calm(const struct space *space, uint64_t node, uint64_t now_ms) {
    for (unsigned i = 0; i < space->n_seen; i++) {
        if (space->seen[i].node == node) {
            return now_ms >= space->seen[i].low_ms + SPACE_CALM_MS;
        }
    }
    return true;
}

bool space_may_lead(const struct space *space, const struct group *group, uint64_t node,
                    uint64_t now_ms) {
    return group_peer_space(group, node) == GROUP_SPACE_FINE && is_calm(space, node, now_ms);
}

/* The one that was tried last is taken if there is no other. */
static uint64_t choose(const struct space *space, const struct group *group, unsigned shard,
                       uint64_t now_ms) {
    uint64_t voters[LIMIT_NODES];
    unsigned n = group_voters(group, voters);
    uint64_t best = 0;
    uint64_t best_match = 0;
    bool best_is_new = false;
    for (unsigned i = 0; i < n; i++) {
        uint64_t match = group_match(group, voters[i]);
        bool is_new = voters[i] != space->shards[shard].tried;
        if (match > 0 && match + BEHIND_MAX >= group_commit(group) &&
            space_may_lead(space, group, voters[i], now_ms) &&
            (best == 0 || (is_new && !best_is_new) ||
             (is_new == best_is_new && match > best_match))) {
            best = voters[i];
            best_match = match;
            best_is_new = is_new;
        }
    }
    return best;
}

static void note_attempt(struct space *space, unsigned shard, uint64_t node, uint64_t now_ms) {
    uint64_t wait_ms = space->shards[shard].wait_ms;
    wait_ms = wait_ms == 0 ? SPACE_RETRY_MS : 2 * wait_ms;
    wait_ms = wait_ms > SPACE_RETRY_MAX_MS ? SPACE_RETRY_MAX_MS : wait_ms;
    space->shards[shard].wait_ms = wait_ms;
    space->shards[shard].again_ms = now_ms + wait_ms;
    space->shards[shard].tried = node;
}

static void note_voters(struct space *space, const struct group *group, uint64_t now_ms) {
    uint64_t voters[LIMIT_NODES];
    unsigned n = group_voters(group, voters);
    for (unsigned i = 0; i < n; i++) {
        if (group_peer_space(group, voters[i]) == GROUP_SPACE_LOW) {
            note_low(space, voters[i], now_ms);
        }
    }
}

uint64_t space_tend(struct space *space, struct group *group, unsigned shard, bool low,
                    uint64_t now_ms) {
    if (group_role(group) != GROUP_LEADER) {
        space->shards[shard].wait_ms = 0;
        space->shards[shard].again_ms = 0;
        space->shards[shard].tried = 0;
        return 0;
    }
    note_voters(space, group, now_ms);
    if (!low && now_ms >= space->shards[shard].again_ms) {
        space->shards[shard].wait_ms = 0;
    }
    if (!low || now_ms < space->shards[shard].again_ms || group_is_transferring(group) ||
        group_is_changing(group) || !group_quorum_has_space(group)) {
        return 0;
    }
    uint64_t to = choose(space, group, shard, now_ms);
    if (to == 0) {
        return 0;
    }
    note_attempt(space, shard, to, now_ms);
    return group_transfer(group, now_ms, to) ? to : 0;
}
