/* What holds at every moment, whatever happens (DESIGN section 8, and Raft's own): checked from the
 * inside, after each iteration of a node's loop. */
#include <string.h>

#include "base/assert.h"
#include "base/crc32c.h"
#include "node/server_internal.h"
#include "raft/group_internal.h"
#include "tests/sim/cluster.h"

struct entry {
    uint64_t term; /* 0: not committed as far as anybody was seen */
    uint32_t crc;
    bool has_crc;
    bool has_digest;
    uint64_t digest;
};

struct term_leader {
    uint64_t term;
    unsigned node;
};

/* What is known of a shard for all nodes together. */
struct shard_facts {
    struct entry *entries; /* by index */
    uint64_t n_entries;
    uint64_t committed; /* largest index seen committed */
    struct term_leader *leaders;
    unsigned n_leaders;
    unsigned leaders_capacity;
};

/* And of one node, across its restarts. */
struct node_facts {
    uint64_t term;
    uint64_t voted_for;
    uint64_t process; /* number of the one that what follows is about */
    uint64_t commit;
    uint64_t applied;
    uint64_t settled;
    bool folding;
};

static struct shard_facts shards[SIM_SHARDS];
static struct node_facts node_facts[SIM_NODES + 1][SIM_SHARDS];
static uint64_t n_checked;

void invariants_start(unsigned n_shards) {
    ASSERT(n_shards <= SIM_SHARDS);
}

uint64_t invariants_checked(void) {
    return n_checked;
}

uint64_t invariants_committed(unsigned shard) {
    return shards[shard].committed;
}

void invariants_forget_node(const struct node *node) {
    memset(node_facts[node->id], 0, sizeof node_facts[node->id]);
}

void invariants_note_promise(const struct node *node, unsigned shard, uint64_t term,
                             uint64_t voted_for) {
    struct node_facts *facts = &node_facts[node->id][shard];
    if (term > facts->term) {
        facts->term = term;
        facts->voted_for = 0;
    }
    if (term == facts->term && voted_for != 0) {
        facts->voted_for = voted_for;
    }
}

static struct entry *entry_at(struct shard_facts *facts, uint64_t index) {
    if (index >= facts->n_entries) {
        uint64_t n = index + 1 > 2 * facts->n_entries ? index + 1024 : 2 * facts->n_entries;
        facts->entries = sim_realloc(facts->entries, n * sizeof *facts->entries);
        memset(facts->entries + facts->n_entries, 0,
               (n - facts->n_entries) * sizeof *facts->entries);
        facts->n_entries = n;
    }
    return &facts->entries[index];
}

/* One leader per term. */
static void check_leader(struct shard_facts *facts, const struct node *node, unsigned k,
                         uint64_t term) {
    for (unsigned i = facts->n_leaders; i-- > 0;) {
        if (facts->leaders[i].term == term) {
            if (facts->leaders[i].node != node->id) {
                sim_fail("TWO-LEADERS shard %u: nodes %u and %u lead in term %llu", k,
                         facts->leaders[i].node, node->id, (unsigned long long)term);
            }
            return;
        }
    }
    if (facts->n_leaders == facts->leaders_capacity) {
        facts->leaders_capacity = facts->leaders_capacity == 0 ? 64 : 2 * facts->leaders_capacity;
        facts->leaders =
            sim_realloc(facts->leaders, facts->leaders_capacity * sizeof *facts->leaders);
    }
    facts->leaders[facts->n_leaders++] = (struct term_leader){term, node->id};
    cover("leaders elected");
}

/* A node votes once in a term, and its term never falls, across restarts too. */
static void check_vote(struct node_facts *facts, const struct node *node, unsigned k, uint64_t term,
                       uint64_t voted_for) {
    if (term < facts->term) {
        sim_fail("TERM shard %u: node %u went from term %llu to %llu", k, node->id,
                 (unsigned long long)facts->term, (unsigned long long)term);
    }
    if (term == facts->term && facts->voted_for != 0 && voted_for != facts->voted_for) {
        sim_fail("VOTE shard %u: node %u voted for %llu and then %llu in term %llu", k, node->id,
                 (unsigned long long)facts->voted_for, (unsigned long long)voted_for,
                 (unsigned long long)term);
    }
}

/* What one node knows as committed is so for all. */
static void check_committed(struct shard_facts *facts, const struct node *node, unsigned k,
                            uint64_t index) {
    const struct log *log = node->server->log;
    uint64_t term;
    enum log_entry_kind kind;
    struct log_entry cached;
    if (!log_lookup(log, k, index, &term, &kind)) {
        return;
    }
    struct entry *entry = entry_at(facts, index);
    if (entry->term != 0 && entry->term != term) {
        sim_fail("COMMITTED shard %u: entry %llu has term %llu on node %u and was committed with "
                 "term %llu",
                 k, (unsigned long long)index, (unsigned long long)term, node->id,
                 (unsigned long long)entry->term);
    }
    entry->term = term;
    if (!log_cached(log, k, index, &cached)) {
        return;
    }
    uint32_t crc = crc32c(0, cached.payload->data, cached.payload->size);
    payload_unref(cached.payload);
    if (entry->has_crc && entry->crc != crc) {
        sim_fail("COMMITTED shard %u: entry %llu of term %llu has other bytes on node %u", k,
                 (unsigned long long)index, (unsigned long long)term, node->id);
    }
    entry->crc = crc;
    entry->has_crc = true;
    n_checked++;
}

/* The leader of the newest term has everything that was committed before. */
static void check_complete(const struct shard_facts *facts, const struct node *node, unsigned k,
                           uint64_t last) {
    if (last < facts->committed) {
        sim_fail("INCOMPLETE shard %u: node %u leads term %llu with entries up to %llu, entry %llu "
                 "was committed",
                 k, node->id, (unsigned long long)group_term(node->server->groups[k]),
                 (unsigned long long)last, (unsigned long long)facts->committed);
    }
}

static void check_digest(struct shard_facts *facts, const struct node *node, unsigned k,
                         const struct machine_state *state) {
    struct entry *entry = entry_at(facts, state->applied_index);
    if (entry->has_digest && entry->digest != state->digest) {
        sim_fail("DIGEST shard %u: node %u has another state than others at index %llu", k,
                 node->id, (unsigned long long)state->applied_index);
    }
    entry->digest = state->digest;
    entry->has_digest = true;
    n_checked++;
}

static void check_shard(const struct node *node, unsigned k) {
    struct shard_facts *facts = &shards[k];
    struct node_facts *own = &node_facts[node->id][k];
    const struct group *group = node->server->groups[k];
    const struct shard *shard = &node->server->shards[k];
    struct log_group_state state = log_state(node->server->log, k);
    if (own->process != node->process->number) {
        own->process = node->process->number;
        own->commit = 0;
        own->applied = 0;
        own->settled = 0;
    }
    uint64_t term = raft_current_term(&group->raft);
    uint64_t voted_for = raft_voted_for(&group->raft);
    check_vote(own, node, k, term, voted_for);
    /* What is not on disk yet was told to nobody: a crash may undo it. */
    if (group->votes_pending == 0) {
        own->term = term;
        own->voted_for = voted_for;
    }
    uint64_t commit = group_commit(group);
    /* A snapshot is in the place of the database before the log goes on behind it. */
    bool ahead = shard->state.applied_index > commit && !group_is_installing(group);
    if (commit < own->commit || ahead) {
        sim_fail("COMMIT shard %u: node %u has commit index %llu after %llu, applied %llu", k,
                 node->id, (unsigned long long)commit, (unsigned long long)own->commit,
                 (unsigned long long)shard->state.applied_index);
    }
    for (uint64_t index = own->commit + 1; index <= commit; index++) {
        check_committed(facts, node, k, index);
    }
    own->commit = commit;
    if (group_role(group) == GROUP_LEADER) {
        uint64_t newest = facts->n_leaders > 0 ? facts->leaders[facts->n_leaders - 1].term : 0;
        check_leader(facts, node, k, group_term(group));
        if (group_term(group) > newest) {
            check_complete(facts, node, k, state.last);
        }
    }
    facts->committed = commit > facts->committed ? commit : facts->committed;
    /* What was applied may be undone by a transaction that finds no space, and is applied again;
     * what was answered stays. */
    if (shard->settled < own->settled) {
        sim_fail("APPLIED shard %u: node %u went back from %llu to %llu", k, node->id,
                 (unsigned long long)own->settled, (unsigned long long)shard->settled);
    }
    own->settled = shard->settled;
    if (shard->mark != NULL && !own->folding) {
        cover("checkpoints beside the state machine");
    }
    own->folding = shard->mark != NULL;
    if (shard->state.applied_index != own->applied) {
        own->applied = shard->state.applied_index;
        check_digest(facts, node, k, &shard->state);
    }
}

void invariants_check(struct node *node) {
    if (!node->server->started) {
        return;
    }
    for (unsigned k = 0; k < cluster_options()->n_shards; k++) {
        check_shard(node, k);
    }
}
