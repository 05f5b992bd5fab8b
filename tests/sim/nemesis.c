#include "tests/sim/nemesis.h"

#include <stdio.h>
#include <string.h>

#include "node/server_internal.h"
#include "raft/group_internal.h"
#include "tests/sim/client.h"
#include "tests/sim/cluster.h"
#include "tests/sim/disk.h"
#include "tests/sim/members.h"
#include "tests/sim/network.h"
#include "tests/sim/uv.h"

enum {
    WATCH_MS = 20,
    PATIENCE_S = 10 /* then the operator does something about a node that is not let in */
};

static uint64_t kinds;
static uint64_t mean_ns;
static bool healing;
static bool ended;
static uint64_t restart_at[SIM_NODES + 1];
static uint64_t epoch; /* of network and disk faults: an older one's end means nothing */

/* A node whose files are gone or damaged. */
static unsigned replaced; /* 0: none */
static unsigned damage_after_stop;
static bool replaced_is_blank;
static bool must_be_noticed; /* the damage: every start from now on must refuse */
static uint64_t replace_again_at;
static uint64_t voter_refused_at; /* since then it votes, and a member does not let it in; 0: no */

static const char *const fault_names[] = {
#define FAULT_NAME(symbol, name) name,
    FAULT_LIST(FAULT_NAME)
#undef FAULT_NAME
};

const char *fault_name(enum fault fault) {
    return fault_names[fault];
}

static unsigned n_nodes(void) {
    return cluster_options()->n_nodes;
}

static struct node *some_node(void) {
    unsigned id = 1 + (unsigned)kernel_random(n_nodes());
    return cluster_node(cluster_node(id)->listed ? id : cluster_some_member());
}

/* Trouble is worst where a leader is. */
static struct node *some_leader(void) {
    unsigned leader = cluster_leader((unsigned)kernel_random(cluster_options()->n_shards));
    return leader == 0 || kernel_random(2) == 0 ? some_node() : cluster_node(leader);
}

bool nemesis_is_replacing(void) {
    return replaced != 0 || members_are_changing();
}

/* ---- nodes ---- */

static uint64_t down_time(void) {
    return kernel_random(4) == 0 ? kernel_delay(4 * SIM_S) : kernel_delay(300 * SIM_MS);
}

static void kill_node(struct node *node, bool by_power) {
    if (node->state == NODE_DOWN) {
        return;
    }
    cover(by_power ? "power losses" : "kills");
    node_kill(node, by_power);
}

static void kill_all(void) {
    bool by_power = kernel_random(2) == 0;
    cover("all nodes down at once");
    for (unsigned i = 1; i <= n_nodes(); i++) {
        kill_node(cluster_node(i), by_power);
    }
}

static void plan_io_crash(struct node *node) {
    if (node->process != NULL && node->state != NODE_DOWN) {
        node->process->die_by_power = kernel_random(2) == 0;
        node->process->die_after_ios = 1 + kernel_random(kernel_random(2) == 0 ? 20 : 400);
    }
}

void nemesis_on_promise(struct node *node, bool is_vote) {
    bool strikes = (kinds & ((uint64_t)1 << FAULT_IO_CRASH | (uint64_t)1 << FAULT_POWER)) != 0;
    if (!strikes || healing || node->state != NODE_UP || damage_after_stop == node->id ||
        node->process->die_after_ios != 0 || kernel_random(is_vote ? 8 : 3000) != 0) {
        return;
    }
    cover(is_vote ? "power lost behind a vote" : "power lost behind an acknowledgement");
    node->process->die_by_power = true;
    node->process->die_after_ios = 1 + kernel_random(4);
}

static bool may_crash(const struct node *node) {
    bool strikes = (kinds & ((uint64_t)1 << FAULT_IO_CRASH | (uint64_t)1 << FAULT_POWER)) != 0;
    return strikes && !healing && node->process->die_after_ios == 0 &&
           damage_after_stop != node->id;
}

void nemesis_on_reset(struct node *node, bool at_start) {
    if (may_crash(node) && (at_start ? kernel_random(4) != 0 : kernel_random(6) == 0)) {
        cover("power lost behind a log's new beginning");
        node->process->die_by_power = true;
        node->process->die_after_ios = 1 + kernel_random(60);
    }
}

static void pause_node(struct node *node) {
    if (node->state == NODE_UP) {
        uint64_t ns = kernel_delay(kernel_random(3) == 0 ? 5 * SIM_S : 300 * SIM_MS);
        sim_log("n%u is paused for %llu ms", node->id, (unsigned long long)(ns / SIM_MS));
        cover("pauses");
        process_pause(node->process, ns);
    }
}

/* ---- network ---- */

static void all_paths(void (*change)(struct net_path *path)) {
    for (unsigned a = 0; a < SIM_HOSTS; a++) {
        for (unsigned b = 0; b < SIM_HOSTS; b++) {
            change(net_path(a, b));
        }
    }
}

static void repair_path(struct net_path *path) {
    *path = (struct net_path){.latency_ns = 100 * SIM_US};
}

static void end_network_faults(void *data) {
    uint64_t *of = data;
    if (*of == epoch) {
        all_paths(repair_path);
        sim_log("the network is whole again");
    }
    sim_free(of);
}

static void repair_later(void) {
    uint64_t *of = sim_alloc(sizeof *of);
    *of = ++epoch;
    uint64_t mean = kernel_random(4) == 0 ? 15 * SIM_S : 2 * SIM_S;
    kernel_at(kernel_now() + kernel_delay(mean), NULL, end_network_faults, of);
}

void nemesis_part_from_others(uint64_t side) {
    sim_log("partition %llx", (unsigned long long)side);
    cover("partitions");
    for (unsigned a = 1; a <= n_nodes(); a++) {
        for (unsigned b = 1; b <= n_nodes(); b++) {
            bool apart = (side >> (a - 1) & 1) != (side >> (b - 1) & 1);
            net_path(a, b)->cut = apart;
        }
    }
    repair_later();
}

static void partition(void) {
    uint64_t side = 1 + kernel_random(((uint64_t)1 << n_nodes()) - 1);
    if (kernel_random(2) == 0) {
        side = (uint64_t)1 << (some_leader()->id - 1);
    }
    nemesis_part_from_others(side);
}

static void one_way(void) {
    unsigned from = (unsigned)kernel_random(n_nodes() + 1);
    unsigned to = (unsigned)kernel_random(n_nodes() + 1);
    if (from != to) {
        sim_log("path %u to %u is cut", from, to);
        cover("one-way cuts");
        net_path(from, to)->cut = true;
        repair_later();
    }
}

static void slow_links(void) {
    unsigned node = 1 + (unsigned)kernel_random(n_nodes());
    uint64_t latency = SIM_MS + kernel_delay(30 * SIM_MS);
    sim_log("links of %u are slow: %llu us", node, (unsigned long long)(latency / SIM_US));
    cover("slow links");
    for (unsigned other = 0; other <= n_nodes(); other++) {
        net_path(node, other)->latency_ns = latency;
        net_path(other, node)->latency_ns = latency;
        if (kernel_random(2) == 0) {
            net_path(node, other)->bytes_per_s = 1000000;
        }
    }
    repair_later();
}

/* Leadership moves while its old holder hears late of everything: what it still answers then must
 * not be old. Whoever is no member it hears at once, since that must not count. */
static void depose(unsigned shard, unsigned to, uint64_t late_ns) {
    unsigned leader = cluster_leader(shard);
    if (!cluster_transfer(shard, to) || late_ns == 0) {
        return;
    }
    uint64_t latency = SIM_MS + kernel_random(late_ns);
    sim_log("n%u hears late: %llu us", leader, (unsigned long long)(latency / SIM_US));
    cover("deposed leader that hears late");
    for (unsigned other = 1; other <= n_nodes(); other++) {
        if (cluster_node(other)->member) {
            net_path(other, leader)->latency_ns = latency;
        }
    }
    repair_later();
}

static void transfer(const struct node *to) {
    unsigned shard = (unsigned)kernel_random(cluster_options()->n_shards);
    depose(shard, to->id, kernel_random(2) == 0 ? 60 * SIM_MS : 0);
}

void nemesis_depose(unsigned shard) {
    unsigned to = cluster_some_member();
    if (!healing) {
        depose(shard, to, cluster_options()->election_ms * SIM_MS);
    }
}

static double drop_rate;

static void set_drop(struct net_path *path) {
    path->drop = drop_rate;
}

static void set_corrupt(struct net_path *path) {
    path->corrupt = drop_rate;
}

static void lossy(bool corrupt) {
    static const double rates[] = {0.001, 0.01, 0.05, 0.2};
    drop_rate = rates[kernel_random(4)];
    sim_log("the network %s %g", corrupt ? "corrupts" : "drops", drop_rate);
    all_paths(corrupt ? set_corrupt : set_drop);
    repair_later();
}

/* ---- disks ---- */

static struct disk_faults good_disk(void) {
    return (struct disk_faults){.write_ns = 10 * SIM_US, .sync_ns = 300 * SIM_US, .survives = -1};
}

static void repair_disk(void *data) {
    struct disk *disk = data;
    disk->faults = good_disk();
    disk->capacity = (uint64_t)8 << 30;
}

/* While a sync takes long a majority of others may commit what this node's log has not even been
 * given to write, and its state machine applies it. That is the moment at which its process ends.
 */
struct hunt {
    struct node *node;
    uint64_t until;
    uint64_t given[SIM_SHARDS]; /* last entry when the sync under way may have begun */
};

static bool is_ahead_of_log(struct hunt *hunt, unsigned k) {
    const struct group *group = hunt->node->server->groups[k];
    if (group->raft.last_stored >= hunt->given[k]) {
        hunt->given[k] = group_last(group);
    }
    return hunt->node->server->shards[k].state.applied_index > hunt->given[k];
}

static void go_on_hunting(void *data) {
    struct hunt *hunt = data;
    struct node *node = hunt->node;
    bool over = healing || kernel_now() >= hunt->until || node->state != NODE_UP ||
                damage_after_stop == node->id || node->server == NULL || !node->server->started;
    for (unsigned k = 0; k < cluster_options()->n_shards && !over; k++) {
        if (is_ahead_of_log(hunt, k)) {
            cover("killed ahead of the log");
            kill_node(node, false);
            over = true;
        }
    }
    if (over) {
        sim_free(hunt);
    } else {
        kernel_at(kernel_now() + SIM_MS, NULL, go_on_hunting, hunt);
    }
}

static void stall(struct node *node) {
    struct disk_faults *faults = &node->host->disk->faults;
    faults->stall = 0.2;
    faults->stall_ns = 200 * SIM_MS;
    faults->sync_ns = kernel_delay(5 * SIM_MS);
    if (kernel_random(2) == 0) {
        faults->stall = 1;
        faults->stall_ns = 400 * SIM_MS;
        struct hunt *hunt = sim_alloc(sizeof *hunt);
        *hunt = (struct hunt){.node = node, .until = kernel_now() + 2 * SIM_S};
        go_on_hunting(hunt);
    }
}

static void bad_disk(struct node *node, enum fault fault) {
    struct disk *disk = node->host->disk;
    sim_log("n%u disk: %s", node->id, fault_names[fault]);
    if (fault == FAULT_STALL) {
        stall(node);
    } else if (fault == FAULT_WRITE_ERROR) {
        disk->faults.write_error = 0.05;
    } else if (fault == FAULT_SYNC_ERROR) {
        disk->faults.sync_error = 0.1;
    } else {
        cover("full disks");
        /* Half of them so full at once that the server's own limit, which is higher, came too
           late. */
        uint64_t most = kernel_random(2) == 0 ? (uint64_t)6 << 20 : (uint64_t)64 << 10;
        disk->capacity = disk->used + kernel_random(most);
    }
    kernel_at(kernel_now() + kernel_delay(2 * SIM_S), NULL, repair_disk, disk);
}

/* ---- lost and damaged disks ---- */

/* Without `join = yes` a blank node starts when all others have let it in. */
static bool is_let_in(const struct node *blank) {
    return blank->server != NULL && blank->server->started &&
           (!blank->joins || cluster_is_met_by_all(blank));
}

static void tell_replace(void *data) {
    struct node *node = data;
    struct error error = {0};
    if (node->server == NULL) {
        return;
    }
    /* It was let in, but those who knew that it was to be a member again have died meanwhile. */
    bool is_in = is_let_in(cluster_node(replaced));
    enum error_code code =
        server_order(node->server, is_in ? CLUSTER_ADD : CLUSTER_REPLACE, replaced, &error);
    cover(is_in ? "nodes added by an operator" : "nodes replaced by an operator");
    sim_log("n%u told to %s %u: %s", node->id, is_in ? "add" : "replace", replaced,
            code == ERROR_NONE ? "OK" : error.message);
    replace_again_at = kernel_now() + (code == ERROR_NONE ? 62 : 1) * SIM_S;
}

static void wipe(struct node *node) {
    kill_node(node, true);
    disk_wipe(node->host->disk);
    invariants_forget_node(node);
    node->damaged = false;
    node->blank = true;
    node->joins = node->joins || kernel_random(2) == 0;
    replaced = node->id;
    replaced_is_blank = true;
    voter_refused_at = 0;
    replace_again_at = 0;
    restart_at[node->id] = kernel_now() + down_time();
    sim_log("n%u lost its disk", node->id);
    cover("wiped disks");
}

/* Damage that must be noticed: in the log of a node that stopped in order. */
static void damage(struct node *node, enum fault fault) {
    char path[DISK_PATH];
    uint64_t offset = 0;
    static const char *const flip_words[] = {".seg",      ".seg",  ".seg",   ".seg",
                                             "/identity", "/boot", "/peers", "/newest"};
    static const char *const lose_words[] = {".seg", ".seg", "/identity", "/newest"};
    bool is_oldest = false;
    bool done =
        fault == FAULT_BIT_FLIP
            ? disk_flip_bit(node->host->disk, flip_words[kernel_random(8)], path, &offset)
            : disk_lose_file(node->host->disk, lose_words[kernel_random(4)], path, &is_oldest);
    if (!done) {
        return;
    }
    /* The oldest segment may hold nothing any more that is needed. */
    must_be_noticed = fault == FAULT_LOST_FILE && !is_oldest;
    sim_log("n%u %s: %s at %llu", node->id, fault_names[fault], path, (unsigned long long)offset);
    cover(fault == FAULT_BIT_FLIP ? "flipped bits" : "lost files");
    node->damaged = true;
    replaced = node->id;
    replaced_is_blank = false;
    replace_again_at = 0;
    restart_at[node->id] = kernel_now() + down_time();
}

static enum fault planned_damage;

static void begin_loss(struct node *node, enum fault fault) {
    char reason[100];
    if (cluster_count_members() < 3 || replaced != 0 || damage_after_stop != 0 ||
        members_are_changing() || !node->member || !cluster_is_healthy(reason, sizeof reason)) {
        return;
    }
    if (fault == FAULT_WIPE) {
        wipe(node);
        return;
    }
    planned_damage = fault;
    damage_after_stop = node->id;
    node_stop(node);
}

/* As the leaders of the shards see it. */
static bool votes_somewhere(const struct node *node) {
    for (unsigned k = 0; k < cluster_options()->n_shards; k++) {
        unsigned leader = cluster_leader(k);
        if (leader != 0 && node->server != NULL && node->server->started &&
            server_presence_of(cluster_node(leader)->server->groups[k], node->id) == VOTER) {
            return true;
        }
    }
    return false;
}

static void watch_replacement(void) {
    if (damage_after_stop != 0 && cluster_node(damage_after_stop)->state == NODE_DOWN) {
        struct node *node = cluster_node(damage_after_stop);
        damage_after_stop = 0;
        if (node->clean_stop && replaced == 0) {
            damage(node, planned_damage);
        }
    }
    if (replaced == 0) {
        return;
    }
    struct node *node = cluster_node(replaced);
    if (!replaced_is_blank) {
        if (node->refused && node->state == NODE_DOWN) {
            wipe(node);
        } else if (node->server != NULL && node->server->started) {
            if (must_be_noticed) {
                sim_fail("UNNOTICED node %u starts although a file of it was lost", node->id);
            }
            /* The damage was where nothing needed it. */
            cover("damage that did no harm");
            node->damaged = false;
            replaced = 0;
        }
        return;
    }
    /* A member that missed it goes on refusing the new directory: the operator, who sees that the
     * node is not connected everywhere, follows the procedure once more. */
    if (node->server != NULL && node->server->started && cluster_has_all_voters() &&
        cluster_is_met_by_all(node)) {
        sim_log("n%u is replaced", node->id);
        cover("replaced nodes");
        node->blank = false;
        replaced = 0;
        return;
    }
    if (votes_somewhere(node) && !cluster_is_met_by_all(node) && cluster_others_serve(node)) {
        if (voter_refused_at == 0) {
            voter_refused_at = kernel_now();
        } else if (kernel_now() >= voter_refused_at + PATIENCE_S * SIM_S) {
            cover("nodes replaced anew: a member went on refusing them");
            wipe(node);
        }
        return;
    }
    voter_refused_at = 0;
    if (kernel_now() >= replace_again_at) {
        struct node *teller = cluster_node(cluster_some_member());
        if (teller != node && teller->server != NULL && teller->server->started) {
            replace_again_at = kernel_now() + SIM_S;
            uv_loop_signal(teller->process, tell_replace, teller);
        }
    }
}

/* ---- the whole ---- */

static bool may_touch(const struct node *node) {
    /* A disk that is going to be damaged must have been left in order. */
    return damage_after_stop != node->id;
}

static void strike(enum fault fault) {
    struct node *node = some_node();
    if (!may_touch(node)) {
        return;
    }
    switch (fault) {
    case FAULT_KILL:
    case FAULT_POWER:
        kill_node(node, fault == FAULT_POWER);
        break;
    case FAULT_IO_CRASH:
        plan_io_crash(node);
        break;
    case FAULT_STOP:
        cover("orderly stops");
        node_stop(node);
        break;
    case FAULT_ALL:
        if (damage_after_stop == 0) {
            kill_all();
        }
        break;
    case FAULT_PAUSE:
        node = some_leader();
        if (may_touch(node)) {
            pause_node(node);
        }
        break;
    case FAULT_PARTITION:
        partition();
        break;
    case FAULT_ONE_WAY:
        one_way();
        break;
    case FAULT_SLOW:
        slow_links();
        break;
    case FAULT_DROP:
        lossy(false);
        break;
    case FAULT_CORRUPT:
        lossy(true);
        break;
    case FAULT_RESET:
        if (net_reset_some(node->id, (unsigned)kernel_random(n_nodes() + 1))) {
            cover("connection resets");
        }
        break;
    case FAULT_STALL:
    case FAULT_WRITE_ERROR:
    case FAULT_SYNC_ERROR:
    case FAULT_FULL:
        bad_disk(node, fault);
        break;
    case FAULT_TRANSFER:
        transfer(node);
        break;
    case FAULT_WALL:
        node->host->wall_offset_ms = kernel_random(4) * kernel_random(3600 * 1000);
        cover("wall clock jumps");
        break;
    case FAULT_WIPE:
    case FAULT_BIT_FLIP:
    case FAULT_LOST_FILE:
        begin_loss(node, fault);
        break;
    case FAULT_MEMBERS:
        members_want_change();
        break;
    case FAULTS:
        break;
    }
}

static void next_fault(void *data) {
    (void)data;
    if (healing) {
        return;
    }
    uint64_t n = 0;
    enum fault chosen = FAULTS;
    for (unsigned i = 0; i < FAULTS; i++) {
        if ((kinds >> i & 1) != 0 && kernel_random(++n) == 0) {
            chosen = (enum fault)i;
        }
    }
    if (chosen != FAULTS) {
        strike(chosen);
    }
    kernel_at(kernel_now() + kernel_delay(mean_ns), NULL, next_fault, NULL);
}

/* What a start repairs must be on the disk before anything relies on it. */
static void maybe_crash_start(struct node *node) {
    bool strikes = (kinds & ((uint64_t)1 << FAULT_IO_CRASH | (uint64_t)1 << FAULT_POWER)) != 0;
    if (strikes && !healing && kernel_random(4) == 0) {
        cover("power lost during a start");
        node->process->die_by_power = true;
        node->process->die_after_ios = 1 + kernel_random(kernel_random(2) == 0 ? 30 : 150);
    }
}

static void restart_nodes(void) {
    for (unsigned i = 1; i <= n_nodes(); i++) {
        struct node *node = cluster_node(i);
        if (node->state != NODE_DOWN || damage_after_stop == i || !members_let_restart(node) ||
            (node->refused && !replaced_is_blank)) {
            restart_at[i] = node->state == NODE_DOWN ? restart_at[i] : 0;
            continue;
        }
        if (restart_at[i] == 0) {
            restart_at[i] = kernel_now() + down_time();
        } else if (kernel_now() >= restart_at[i]) {
            restart_at[i] = 0;
            node_start(node);
            maybe_crash_start(node);
        }
    }
}

static void watch(void *data) {
    (void)data;
    if (ended) {
        return;
    }
    if (invariants_walls_may_decide()) {
        clients_allow_early_expiry();
    }
    watch_replacement();
    members_watch(replaced == 0 && damage_after_stop == 0);
    restart_nodes();
    kernel_at(kernel_now() + WATCH_MS * SIM_MS, NULL, watch, NULL);
}

void nemesis_start(uint64_t wanted, uint64_t mean) {
    kinds = wanted;
    mean_ns = mean;
    kernel_at(kernel_now(), NULL, watch, NULL);
    kernel_at(kernel_now() + kernel_delay(mean_ns), NULL, next_fault, NULL);
}

void nemesis_heal(void) {
    healing = true;
    members_heal();
    epoch++;
    all_paths(repair_path);
    for (unsigned i = 1; i <= n_nodes(); i++) {
        struct node *node = cluster_node(i);
        repair_disk(node->host->disk);
        if (node->process != NULL && node->process->alive) {
            node->process->paused_until = 0;
            node->process->die_after_ios = 0;
        }
    }
}

void nemesis_end(void) {
    ended = true;
}
