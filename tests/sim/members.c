#include "tests/sim/members.h"

#include "node/server_internal.h"
#include "tests/sim/cluster.h"
#include "tests/sim/disk.h"
#include "tests/sim/nemesis.h"
#include "tests/sim/uv.h"

enum change { CHANGE_NONE, CHANGE_ADDING, CHANGE_REMOVING, CHANGE_LINGERING, CHANGE_STOPPING };

enum { PATIENCE_S = 10 };

static enum change change;
static unsigned subject; /* the node that comes or goes */
static bool wanted;
static bool healing;
static uint64_t order_again_at;
static uint64_t linger_until;
static unsigned refused; /* by a member, since `refused_at` */
static uint64_t refused_at;
static bool keeps_down; /* the subject: it is taken out as a dead node */

void members_want_change(void) {
    wanted = true;
}

bool members_are_changing(void) {
    return change != CHANGE_NONE;
}

void members_heal(void) {
    healing = true;
    wanted = false;
}

bool members_let_restart(const struct node *node) {
    return node->listed && !((change == CHANGE_STOPPING || keeps_down) && node->id == subject);
}

/* ---- orders ---- */

struct order {
    unsigned at;
    enum cluster_order kind;
    unsigned node;
};

static void give_order(void *data) {
    struct order order = *(struct order *)data;
    struct server *server = cluster_node(order.at)->server;
    struct error error = {0};
    sim_free(data);
    if (server == NULL || order.node != subject) {
        return;
    }
    enum error_code code = server_order(server, order.kind, order.node, &error);
    sim_log("n%u told to %s %u: %s", order.at, order.kind == CLUSTER_ADD ? "add" : "remove",
            order.node, code == ERROR_NONE ? "OK" : error.message);
    /* Given again now and then although it was taken: that is harmless. */
    order_again_at = kernel_now() + (code == ERROR_NONE ? 5 + kernel_random(60) : 1) * SIM_S;
}

static void order_now_and_then(enum cluster_order kind) {
    unsigned at = cluster_some_member();
    if (kernel_now() < order_again_at || at == subject || cluster_node(at)->server == NULL) {
        return;
    }
    struct order *order = sim_alloc(sizeof *order);
    *order = (struct order){.at = at, .kind = kind, .node = subject};
    order_again_at = kernel_now() + SIM_S;
    uv_loop_signal(cluster_node(at)->process, give_order, order);
}

/* In the committed configurations of all shards, as their leaders see them. */
static bool is_everywhere(enum server_presence presence) {
    for (unsigned k = 0; k < cluster_options()->n_shards; k++) {
        unsigned leader = cluster_leader(k);
        if (leader == 0) {
            return false;
        }
        const struct group *group = cluster_node(leader)->server->groups[k];
        if (group_is_changing(group) || server_presence_of(group, subject) != presence ||
            !shard_is_ready(&cluster_node(leader)->server->shards[k])) {
            return false;
        }
    }
    return true;
}

/* ---- one change ---- */

static unsigned pick(bool member) {
    unsigned chosen = 0;
    uint64_t n = 0;
    for (unsigned i = 1; i <= cluster_options()->n_nodes; i++) {
        if (cluster_node(i)->member == member && kernel_random(++n) == 0) {
            chosen = i;
        }
    }
    return chosen;
}

static void begin(void) {
    char reason[100];
    if (!cluster_is_healthy(reason, sizeof reason)) {
        return;
    }
    wanted = false;
    order_again_at = 0;
    unsigned outside = pick(false);
    unsigned inside = pick(true);
    bool adds = outside != 0 && (cluster_count_members() == 1 || kernel_random(2) == 0);
    if (adds) {
        struct node *node = cluster_node(outside);
        subject = outside;
        change = CHANGE_ADDING;
        node->listed = true;
        node->joins = true;
        sim_log("n%u is to be added", subject);
        cover(node->starts > 0 ? "nodes added again" : "nodes added");
        node_start(node);
    } else if (cluster_count_members() > 1) {
        unsigned leader = cluster_leader((unsigned)kernel_random(cluster_options()->n_shards));
        subject = leader != 0 && kernel_random(2) == 0 ? leader : inside;
        change = CHANGE_REMOVING;
        sim_log("n%u is to be removed", subject);
        cover(subject == leader ? "removals of a leader" : "removals");
    }
}

static void note_removed(void) {
    struct node *node = cluster_node(subject);
    unsigned leader = cluster_leader(0);
    node->member = false;
    linger_until = kernel_now() + 500 * SIM_MS + kernel_delay(2 * SIM_S);
    change = CHANGE_LINGERING;
    sim_log("n%u is no member any more", subject);
    cover("nodes removed");
    /* The one that must not count beside the one that would like to go on leading. */
    if (!healing && kernel_random(3) == 0) {
        nemesis_part_from_others((uint64_t)1 << (subject - 1) | (uint64_t)1 << (leader - 1));
        return;
    }
    for (unsigned k = 0; k < cluster_options()->n_shards; k++) {
        nemesis_depose(k);
    }
}

static void retire(void) {
    struct node *node = cluster_node(subject);
    node->listed = false;
    disk_wipe(node->host->disk);
    invariants_forget_node(node);
    sim_log("n%u is gone", subject);
    change = CHANGE_NONE;
    keeps_down = false;
}

/* A node under the number of one that was removed, of which a member has not heard: it refuses the
 * new directory. Operators are told not to use numbers again; who did takes the node out once more.
 */
static unsigned refused_member(void) {
    for (unsigned i = 1; i <= cluster_options()->n_nodes; i++) {
        const struct node *node = cluster_node(i);
        bool serves = node->member && node->server != NULL && node->server->started;
        if (serves && node->joins && cluster_count_members() > 1 && cluster_others_serve(node) &&
            !cluster_is_met_by_all(node)) {
            return i;
        }
    }
    return 0;
}

static void take_refused_out(void) {
    unsigned id = refused_member();
    if (id == 0 || id != refused) {
        refused = id;
        refused_at = kernel_now();
    } else if (kernel_now() >= refused_at + PATIENCE_S * SIM_S) {
        refused = 0;
        subject = id;
        change = CHANGE_REMOVING;
        order_again_at = 0;
        sim_log("n%u is refused by a member: it is to be removed", subject);
        cover("nodes removed since a member refused them");
        keeps_down = true; /* others come to lead, whom all members follow */
        node_kill(cluster_node(subject), false);
    }
}

void members_watch(bool may_begin) {
    cluster_reread_files();
    switch (change) {
    case CHANGE_NONE:
        if (may_begin) {
            take_refused_out();
        }
        if (change == CHANGE_NONE && wanted && may_begin) {
            begin();
        }
        return;
    case CHANGE_ADDING:
        if (is_everywhere(VOTER)) {
            sim_log("n%u is a member", subject);
            cluster_node(subject)->member = true;
            change = CHANGE_NONE;
            return;
        }
        order_now_and_then(CLUSTER_ADD);
        return;
    case CHANGE_REMOVING:
        if (is_everywhere(ABSENT)) {
            note_removed();
            return;
        }
        order_now_and_then(CLUSTER_REMOVE);
        return;
    case CHANGE_LINGERING:
        if (kernel_now() >= linger_until || healing) {
            change = CHANGE_STOPPING;
            if (kernel_random(2) == 0) {
                node_kill(cluster_node(subject), kernel_random(2) == 0);
            }
        }
        return;
    case CHANGE_STOPPING:
        if (cluster_node(subject)->state == NODE_DOWN) {
            retire();
        } else {
            node_stop(cluster_node(subject));
        }
        return;
    }
}
