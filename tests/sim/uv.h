/* What the simulator's own code needs of its libuv. */
#ifndef SIM_UV_H
#define SIM_UV_H

#include "tests/sim/kernel.h"

/* Runs `run(data)` within the loop of a process, as a signal handler of libuv would. */
void uv_loop_signal(struct process *process, void (*run)(void *data), void *data);

/* Called after each iteration of a loop. */
extern void (*uv_loop_observer)(struct process *process);

#endif
