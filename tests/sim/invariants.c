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
    uint64_t clock_ms; /* the shard's, with the digest */
};

struct term_leader {
    uint64_t term;
    unsigned node;
};

/* A shard's configuration: bits of nodes, node n is bit n. */
struct members {
    uint64_t index; /* of the entry, 0: the one that the cluster was founded with */
    uint64_t voters;
    uint64_t all;
};

/* What is known of a shard for all nodes together. */
struct shard_facts {
    struct entry *entries; /* by index */
    uint64_t n_entries;
    uint64_t committed;     /* largest index seen committed */
    struct members members; /* the newest committed ones */
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
    uint64_t led_term;   /* the one that it led in after the iteration before, 0: none */
    uint64_t led_voters; /* ... and by these voters */
    uint64_t reads;      /* newest round of reads that was confirmed then */
    bool folding;
};

static struct shard_facts shards[SIM_SHARDS];
static struct node_facts node_facts[SIM_NODES + 1][SIM_SHARDS];
static uint64_t emptied_at[SIM_NODES + 1]
                          [SIM_SHARDS]; /* newest entry committed by then, 0: never */
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
    for (unsigned k = 0; k < SIM_SHARDS; k++) {
        emptied_at[node->id][k] = shards[k].committed;
    }
}

/* Who lost its disk has forgotten what it promised: it must not take part before the voters have
 * taken out the node that it was. */
static void check_emptied(const struct node *node, unsigned shard) {
    const struct members *members = &shards[shard].members;
    uint64_t emptied = emptied_at[node->id][shard];
    if (emptied > 0 && (members->voters >> node->id & 1) != 0 && members->index <= emptied) {
        sim_fail("EMPTIED shard %u: node %u, whose disk was lost at entry %llu, takes part as the "
                 "voter that entry %llu names",
                 shard, node->id, (unsigned long long)emptied, (unsigned long long)members->index);
    }
}

void invariants_note_promise(const struct node *node, unsigned shard, uint64_t term,
                             uint64_t voted_for) {
    struct node_facts *facts = &node_facts[node->id][shard];
    check_emptied(node, shard);
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

/* ---- members ---- */

static unsigned count(uint64_t bits) {
    return (unsigned)__builtin_popcountll(bits);
}

/* Of the group as it stands. */
static struct members members_of(const struct group *group) {
    struct group_server servers[LIMIT_NODES];
    struct members members = {0};
    unsigned n = group_servers(group, servers);
    for (unsigned i = 0; i < n; i++) {
        members.all |= (uint64_t)1 << servers[i].id;
        members.voters |= servers[i].voter ? (uint64_t)1 << servers[i].id : 0;
    }
    return members;
}

/* One server at a time, and only nodes that an operator has let in. */
static void check_change(struct shard_facts *facts, const struct node *node, unsigned k,
                         uint64_t index, struct slice bytes) {
    struct raft_configuration config;
    struct raft_buffer buffer = {.base = (void *)(uintptr_t)bytes.data, .len = bytes.size};
    struct members members = {.index = index};
    if (index <= facts->members.index) {
        return;
    }
    if (raft_configuration_decode(&buffer, &config) != 0) {
        sim_fail("MEMBERS shard %u: nobody can read the configuration in entry %llu", k,
                 (unsigned long long)index);
    }
    for (unsigned i = 0; i < config.n; i++) {
        uint64_t bit = (uint64_t)1 << config.servers[i].id;
        members.all |= bit;
        members.voters |= config.servers[i].role == RAFT_VOTER ? bit : 0;
        if (!cluster_node((unsigned)config.servers[i].id)->listed &&
            (facts->members.all & bit) == 0) {
            sim_fail(
                "MEMBERS shard %u: entry %llu makes a member of node %llu, which nobody wanted", k,
                (unsigned long long)index, (unsigned long long)config.servers[i].id);
        }
    }
    raft_configuration_close(&config);
    if (facts->members.voters != 0 && (count(members.voters ^ facts->members.voters) > 1 ||
                                       count(members.all ^ facts->members.all) > 1)) {
        sim_fail("MEMBERS shard %u: entry %llu changes voters from %llx to %llx at once, seen on "
                 "node %u",
                 k, (unsigned long long)index, (unsigned long long)facts->members.voters,
                 (unsigned long long)members.voters, node->id);
    }
    facts->members = members;
    cover("committed changes of members");
}

/* A leader votes, and goes by the newest configuration. */
static void check_leading(struct shard_facts *facts, const struct node *node, unsigned k,
                          uint64_t commit) {
    const struct group *group = node->server->groups[k];
    struct members members = members_of(group);
    if ((members.voters >> node->id & 1) == 0) {
        sim_fail("MEMBERS shard %u: node %u leads without a vote", k, node->id);
    }
    /* What was committed right before a crash nobody may have seen here: it stands in the database.
     */
    uint64_t newest = group->raft.configuration_committed_index;
    if (newest > facts->members.index) {
        if (group_is_changing(group)) {
            memset(&members, 0, sizeof members);
        }
        facts->members = members;
        facts->members.index = newest;
    }
    if (!group_is_changing(group) && facts->members.voters != 0 && commit >= facts->members.index &&
        (members.voters != facts->members.voters || members.all != facts->members.all)) {
        sim_fail("MEMBERS shard %u: node %u leads with the voters %llx, entry %llu says %llx", k,
                 node->id, (unsigned long long)members.voters,
                 (unsigned long long)facts->members.index,
                 (unsigned long long)facts->members.voters);
    }
}

/* What a leader commits most voters hold, and nobody else counts. */
static void check_quorum(const struct node *node, unsigned k, uint64_t commit) {
    const struct group *group = node->server->groups[k];
    uint64_t voters = members_of(group).voters;
    unsigned holders = 0;
    for (unsigned i = 1; i <= SIM_NODES; i++) {
        if ((voters >> i & 1) == 0) {
            continue;
        }
        uint64_t held =
            i == node->id ? log_state(node->server->log, k).last : group_match(group, i);
        holders += held >= commit ? 1 : 0;
    }
    if (holders <= count(voters) / 2) {
        sim_fail("QUORUM shard %u: node %u commits entry %llu, which %u of %u voters hold", k,
                 node->id, (unsigned long long)commit, holders, count(voters));
    }
    n_checked++;
}

/* A read is answered when most voters have said, since it arrived, that they follow this leader. */
static void check_reads(const struct node *node, unsigned k, uint64_t round) {
    const struct group *group = node->server->groups[k];
    uint64_t voters = members_of(group).voters;
    unsigned n = (voters >> node->id & 1) != 0 ? 1 : 0;
    for (unsigned i = 0; i < group->reads.n_acks; i++) {
        uint64_t id = group->reads.acks[i].node;
        n += id != node->id && (voters >> id & 1) != 0 && group->reads.acks[i].round >= round;
    }
    if (n <= count(voters) / 2) {
        sim_fail("READS shard %u: node %u confirms reads that %u of %u voters have answered", k,
                 node->id, n, count(voters));
    }
    n_checked++;
}

/* One voter more than needed counts as ignorant: a change of members may be under way. */
static bool walls_may_decide(unsigned k) {
    unsigned n_voters = 0;
    unsigned n_know = 0;
    for (unsigned i = 1; i <= cluster_options()->n_nodes; i++) {
        const struct node *node = cluster_node(i);
        uint64_t voters = shards[k].members.voters;
        bool votes = voters != 0 ? (voters >> i & 1) != 0 : node->member;
        const struct server *server = node->server;
        n_voters += votes ? 1 : 0;
        n_know += votes && server != NULL && server->started && server->shards[k].clock.anchored;
    }
    return 2 * (n_voters - n_know) >= n_voters;
}

bool invariants_walls_may_decide(void) {
    for (unsigned k = 0; k < cluster_options()->n_shards; k++) {
        if (walls_may_decide(k)) {
            return true;
        }
    }
    return false;
}

/* ---- entries ---- */

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
    if (kind == LOG_ENTRY_CHANGE) {
        check_change(facts, node, k, index, payload_slice(cached.payload));
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
    if (entry->has_digest && entry->clock_ms != state->clock_ms) {
        sim_fail("CLOCK shard %u: at index %llu it is %llu on node %u and %llu on others", k,
                 (unsigned long long)state->applied_index, (unsigned long long)state->clock_ms,
                 node->id, (unsigned long long)entry->clock_ms);
    }
    entry->digest = state->digest;
    entry->clock_ms = state->clock_ms;
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
        own->led_term = 0;
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
    bool leads = group_role(group) == GROUP_LEADER;
    if (leads) {
        check_leading(facts, node, k, commit);
    }
    if (leads && commit > own->commit && own->led_term == term) {
        check_quorum(node, k, commit);
    }
    uint64_t voters = leads ? members_of(group).voters : 0;
    bool led_alike = leads && own->led_term == term && own->led_voters == voters;
    if (led_alike && group_reads_confirmed(group) > own->reads) {
        check_reads(node, k, group_reads_confirmed(group));
    }
    own->reads = group_reads_confirmed(group);
    own->led_voters = voters;
    own->led_term = leads ? term : 0;
    own->commit = commit;
    if (leads) {
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
