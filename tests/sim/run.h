/* One run of the simulator: a seed's cluster, its clients, its faults, and the checks at the end.
 */
#ifndef SIM_RUN_H
#define SIM_RUN_H

#include <stdbool.h>
#include <stdint.h>

/* What the command line fixes; 0 (or all faults) where the seed decides. */
struct run_limits {
    unsigned nodes;
    unsigned clients;
    unsigned shards;
    uint64_t seconds;    /* of faults, simulated */
    uint64_t faults_off; /* bit by enum fault */
};

struct run_result {
    uint64_t simulated_ns;
    uint64_t events;
    uint64_t operations;
    uint64_t checked;
    uint64_t unchecked;
    uint64_t invariants;
    uint64_t digest;
};

/* Returns when all is well; a failure ends the process (sim_fail). */
struct run_result run_seed(uint64_t seed, const struct run_limits *limits);

/* How failures are told: set by main.c. */
bool run_prints_failures(void);
void run_report_failure(const char *text);

#endif
