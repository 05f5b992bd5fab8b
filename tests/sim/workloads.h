/* Clients with a task of their own, beside those of client.c: each knows exactly what must come
 * out.
 *
 *   bank    transactions with WATCH: money is moved, never made or lost; readers see the whole
 *   quota   a project's used bytes and keys, to the byte, and its quota
 *   scan    keys that are there all the time are in every walk
 *   feed    what WATCHKEYS tells, over connections to changing nodes: no gap, no repetition, in
 * order
 */
#ifndef SIM_WORKLOADS_H
#define SIM_WORKLOADS_H

#include <stdbool.h>
#include <stdint.h>

struct workload_options {
    bool bank;
    bool quota;
    bool scan;
    bool feed;
    uint64_t think_ns;    /* mean pause between operations */
    uint64_t patience_ns; /* without an answer they go elsewhere */
};

void workloads_start(const struct workload_options *options);
/* Nothing new begins; what has begun is brought to its end. */
void workloads_stop(void);
bool workloads_are_idle(void);
/* The last checks; all of it must be idle. */
void workloads_finish(void);
/* Answers of the worker that has the fewest since the last call; UINT64_MAX: there is none. */
uint64_t workloads_progress(void);
uint64_t workloads_operations(void);

#endif
