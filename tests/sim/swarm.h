/* Many runs, each in a process of its own: swarms, shrinking, lists of seeds. */
#ifndef SIM_SWARM_H
#define SIM_SWARM_H

#include <stddef.h>

#include "tests/sim/run.h"

struct swarm_options {
    double minutes;
    bool cpu_minutes; /* the minutes are of processor time, not of the clock on the wall */
    unsigned jobs;    /* 0: one per core */
    uint64_t n_seeds; /* 0: until the time is over */
    uint64_t first_seed;
    bool no_shrink;
    struct run_limits limits;
};

/* 0: no failure; 1: one, which is shrunk and told; 2: something that should occur never did. */
int swarm_run(const struct swarm_options *options);
/* Shrinks a failing run and prints the command that replays the result. */
int swarm_shrink(uint64_t seed, const struct run_limits *limits);
/* Runs the lines of a file, each of which has arguments of this program. */
int swarm_run_list(const char *program, const char *path);
/* Arguments that make this run. */
void swarm_format_command(char *text, size_t size, uint64_t seed, const struct run_limits *limits);

/* main.c: one run in this process. */
int main_run_one(uint64_t seed, const struct run_limits *wanted, bool is_quiet);

#endif
