#include "tests/sim/run.h"

#include <stdio.h>

#include "base/assert.h"
#include "tests/sim/client.h"
#include "tests/sim/cluster.h"
#include "tests/sim/model.h"
#include "tests/sim/nemesis.h"
#include "tests/sim/network.h"
#include "tests/sim/vfs.h"
#include "tests/sim/workloads.h"

/* Bounds of liveness: once nothing is broken any more. */
#define HEALTHY_WITHIN (180 * SIM_S)
#define EVEN_WITHIN (60 * SIM_S)
#define ANSWERED_WITHIN (40 * SIM_S)
#define PROGRESS_WITHIN (60 * SIM_S)
#define PROGRESS_STEP (3 * SIM_S)
#define STOPPED_WITHIN (30 * SIM_S)

static uint64_t pick(struct prng *prng, const uint64_t *choices, unsigned n) {
    return choices[prng_below(prng, n)];
}

#define PICK(prng, ...)                                                                            \
    pick((prng), (const uint64_t[]){__VA_ARGS__},                                                  \
         sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))

struct plan {
    struct cluster_options cluster;
    struct client_options clients;
    struct workload_options workloads;
    uint64_t faults;
    uint64_t fault_mean_ns;
    uint64_t chaos_ns;
    double drift;
};

static struct workload_options plan_workloads(uint64_t seed, const struct client_options *clients) {
    struct prng prng;
    prng_seed(&prng, seed ^ 0x776f726b);
    return (struct workload_options){.bank = prng_below(&prng, 3) == 0,
                                     .quota = prng_below(&prng, 3) == 0,
                                     .scan = prng_below(&prng, 4) == 0,
                                     .feed = prng_below(&prng, 3) == 0,
                                     .think_ns = clients->think_ns,
                                     .patience_ns = clients->patience_ns};
}

/* Who is a member changes in some seeds: some nodes come later then. */
static void plan_members(uint64_t seed, struct plan *plan, const struct run_limits *limits) {
    const uint64_t bit = (uint64_t)1 << FAULT_MEMBERS;
    struct prng prng;
    prng_seed(&prng, seed ^ 0x6d656d62);
    plan->cluster.n_founders = plan->cluster.n_nodes;
    plan->faults &= ~bit;
    if (prng_below(&prng, 3) != 0 || (limits->faults_off & bit) != 0) {
        return;
    }
    if (plan->cluster.n_nodes == 1 && limits->nodes == 0) {
        plan->cluster.n_nodes = 2;
    }
    plan->faults |= bit;
    plan->cluster.n_founders = 1 + (unsigned)prng_below(&prng, plan->cluster.n_nodes);
}

static struct plan make_plan(uint64_t seed, const struct run_limits *limits) {
    struct prng prng;
    struct plan plan;
    prng_seed(&prng, seed ^ 0x706c616e);
    plan.cluster =
        (struct cluster_options){.n_nodes = (unsigned)PICK(&prng, 1, 3, 3, 3, 3, 3, 2, 4, 5, 5, 7),
                                 .n_shards = (unsigned)PICK(&prng, 1, 1, 2, 3),
                                 .heartbeat_ms = PICK(&prng, 20, 50, 50, 100),
                                 .snapshot_log_bytes = PICK(&prng, 65536, 65536, 262144, 1048576),
                                 .trailing_entries = PICK(&prng, 0, 0, 8, 64, 4096),
                                 .log_cache = PICK(&prng, 65536, 65536, 1048576),
                                 .shard_window = PICK(&prng, 64, 256, 1024, 65536),
                                 .workers = (unsigned)PICK(&prng, 1, 2),
                                 .rebalance = prng_below(&prng, 2) == 0,
                                 .request_timeout_ms = PICK(&prng, 1000, 5000, 5000),
                                 .default_quota = PICK(&prng, 1 << 30, 1 << 30, 300000)};
    plan.cluster.election_ms = plan.cluster.heartbeat_ms * PICK(&prng, 5, 10);
    plan.drift = (double)PICK(&prng, 0, 1, 10) / 10000;
    plan.clients = (struct client_options){
        .n_model = (unsigned)PICK(&prng, 2, 4, 6, 10),
        .n_owners = (unsigned)PICK(&prng, 1, 2, 4),
        .n_projects = (unsigned)PICK(&prng, 1, 2, 3),
        .think_ns = PICK(&prng, 2 * SIM_MS, 10 * SIM_MS, 10 * SIM_MS, 40 * SIM_MS),
        .patience_ns = PICK(&prng, 300 * SIM_MS, SIM_S, 4 * SIM_S, 15 * SIM_S),
        .depth = (unsigned)PICK(&prng, 1, 1, 2, 4),
        .n_per_check = (unsigned)PICK(&prng, 60, 150, 300),
        .large_bytes = (uint32_t)PICK(&prng, 100, 5000, 60000, 200000),
        .multi_key = (double)PICK(&prng, 0, 1, 2) / 2,
        .numbering = (double)PICK(&prng, 0, 1, 2) / 2,
        .expiry = (double)PICK(&prng, 0, 1, 5) / 10,
        .drift = plan.drift + 0.0001,
        .kinds =
            prng_next(&prng) | prng_next(&prng) | (uint64_t)1 << OP_SET | (uint64_t)1 << OP_GET};
    /* Large clusters cost more than they find. */
    if (plan.cluster.n_nodes > 3 || plan.clients.n_model > 4) {
        plan.clients.think_ns =
            plan.clients.think_ns < 10 * SIM_MS ? 10 * SIM_MS : plan.clients.think_ns;
    }
    /* What many clients do to one project at once is too hard to check. */
    while (plan.clients.n_model * plan.clients.depth > 8 * plan.clients.n_projects) {
        if (plan.clients.depth > 1) {
            plan.clients.depth /= 2;
        } else {
            plan.clients.n_projects++;
        }
    }
    plan.faults = prng_next(&prng) & prng_next(&prng);
    if (prng_below(&prng, 8) == 0) {
        plan.faults |= prng_next(&prng);
    }
    plan.faults &= (((uint64_t)1 << FAULTS) - 1) & ~limits->faults_off;
    plan.fault_mean_ns = PICK(&prng, 100 * SIM_MS, 300 * SIM_MS, SIM_S, 2 * SIM_S);
    plan.chaos_ns =
        PICK(&prng, 3, 6, 6, 10, 10, 20, 40) * SIM_S / (plan.cluster.n_nodes > 3 ? 2 : 1);
    /* A leader that was paused speaks like one for a moment when it goes on. */
    uint64_t holds_back = (uint64_t)1 << FAULT_PAUSE;
    if (prng_below(&prng, 4) == 0) {
        plan.faults &= ~holds_back;
    }
    plan.clients.stale_slack_ns = (plan.faults & holds_back) != 0
                                      ? 3600 * SIM_S
                                      : 2 * plan.cluster.election_ms * SIM_MS + 50 * SIM_MS;
    if (limits->nodes > 0) {
        plan.cluster.n_nodes = limits->nodes;
    }
    if (limits->shards > 0) {
        plan.cluster.n_shards = limits->shards;
    }
    if (limits->clients > 0) {
        plan.clients.n_model = limits->clients;
        plan.clients.n_owners = 1;
    }
    plan_members(seed, &plan, limits);
    plan.workloads = plan_workloads(seed, &plan.clients);
    if (limits->seconds > 0) {
        plan.chaos_ns = limits->seconds * SIM_S;
    }
    return plan;
}

static void describe(uint64_t seed, const struct plan *plan) {
    char faults[400] = "";
    size_t n = 0;
    for (unsigned i = 0; i < FAULTS; i++) {
        if ((plan->faults >> i & 1) != 0 && n < sizeof faults) {
            n += (size_t)snprintf(faults + n, sizeof faults - n, " %s", fault_name((enum fault)i));
        }
    }
    sim_log("seed %llu: %u of %u nodes, %u shards, %u+%u clients, %llu s, faults every %llu ms:%s",
            (unsigned long long)seed, plan->cluster.n_founders, plan->cluster.n_nodes,
            plan->cluster.n_shards, plan->clients.n_model, plan->clients.n_owners,
            (unsigned long long)(plan->chaos_ns / SIM_S),
            (unsigned long long)(plan->fault_mean_ns / SIM_MS), faults);
}

static void run_for(uint64_t ns) {
    kernel_run_until(kernel_now() + ns);
}

/* Runs until `condition` holds; false when it does not within `ns`. */
static bool run_until(bool (*condition)(void), uint64_t ns) {
    uint64_t until = kernel_now() + ns;
    while (!condition()) {
        if (kernel_now() >= until) {
            return false;
        }
        run_for(20 * SIM_MS);
    }
    return true;
}

static char reason[200];

static bool is_healthy(void) {
    if (nemesis_is_replacing()) {
        snprintf(reason, sizeof reason, "a node is being replaced, added or removed");
        return false;
    }
    return cluster_is_healthy(reason, sizeof reason);
}

static bool all_down(void) {
    for (unsigned i = 1; i <= cluster_options()->n_nodes; i++) {
        if (cluster_node(i)->state != NODE_DOWN) {
            return false;
        }
    }
    return true;
}

static uint64_t least_progress(void) {
    uint64_t clients = clients_progress();
    uint64_t workers = workloads_progress();
    return clients < workers ? clients : workers;
}

static bool all_idle(void) {
    return clients_are_idle() && workloads_are_idle();
}

static void expect_progress(void) {
    uint64_t until = kernel_now() + PROGRESS_WITHIN;
    (void)least_progress();
    run_for(PROGRESS_STEP);
    uint64_t least = least_progress();
    while (least == 0) {
        if (kernel_now() >= until) {
            sim_fail("LIVENESS a client makes no progress although nothing is broken");
        }
        run_for(PROGRESS_STEP);
        least = least_progress();
    }
}

static void stop_and_verify(void) {
    for (unsigned i = 1; i <= cluster_options()->n_nodes; i++) {
        node_stop(cluster_node(i));
    }
    if (!run_until(all_down, STOPPED_WITHIN)) {
        sim_fail("LIVENESS a node does not stop");
    }
    for (unsigned i = 1; i <= cluster_options()->n_nodes; i++) {
        if (!cluster_node(i)->member) {
            continue;
        }
        if (!cluster_node(i)->clean_stop) {
            sim_fail("STOP node %u did not end in order", i);
        }
        cluster_verify_files(cluster_node(i));
    }
    run_for(20 * SIM_S);
}

struct run_result run_seed(uint64_t seed, const struct run_limits *limits) {
    struct plan plan = make_plan(seed, limits);
    memory_install();
    kernel_start(seed);
    vfs_install();
    net_start();
    describe(seed, &plan);
    for (unsigned i = 1; i < SIM_HOSTS; i++) {
        host_get(i)->drift = plan.drift * ((double)kernel_random(2001) - 1000) / 1000;
        host_get(i)->wall_offset_ms = kernel_random(1000);
    }
    cluster_start(&plan.cluster);
    if (!run_until(is_healthy, 60 * SIM_S)) {
        sim_fail("LIVENESS the cluster does not start: %s", reason);
    }
    sim_log("the cluster is up");
    clients_start(&plan.clients);
    workloads_start(&plan.workloads);
    nemesis_start(plan.faults, plan.fault_mean_ns);
    run_for(plan.chaos_ns);
    nemesis_heal();
    sim_log("no more faults");
    if (!run_until(is_healthy, HEALTHY_WITHIN)) {
        sim_fail("LIVENESS the cluster does not recover: %s", reason);
    }
    sim_log("the cluster is healthy");
    expect_progress();
    run_for(3 * SIM_S); /* longer than any time to live */
    clients_expect_expiry();
    run_for(2 * SIM_S);
    clients_stop();
    workloads_stop();
    if (!run_until(all_idle, ANSWERED_WITHIN)) {
        sim_fail("LIVENESS operations stay without an answer");
    }
    clients_finish();
    workloads_finish();
    if (!run_until(cluster_is_even, EVEN_WITHIN)) {
        sim_fail("LIVENESS replicas do not catch up");
    }
    nemesis_end();
    stop_and_verify();
    return (struct run_result){.simulated_ns = kernel_now(),
                               .events = kernel_events(),
                               .operations = clients_operations() + workloads_operations(),
                               .checked = clients_checked(),
                               .unchecked = clients_unchecked(),
                               .invariants = invariants_checked(),
                               .digest = kernel_digest()};
}
