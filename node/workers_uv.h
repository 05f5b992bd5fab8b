/* The state machine threads: a small pool; a shard always runs on the same thread. */
#ifndef NODE_WORKERS_UV_H
#define NODE_WORKERS_UV_H

#include "base/error.h"
#include "node/jobs.h"

struct uv_loop_s;
struct workers;

/* Opens the machines (`n_shards` options; paths and names must outlive the workers) and starts
 * `n_threads` threads. On error *workers is NULL and everything is closed again. */
enum error_code workers_open(struct workers **workers, struct uv_loop_s *loop, unsigned n_threads,
                             const struct machine_options *options, unsigned n_shards,
                             struct error *error);

/* State of a shard's machine; only before the first job was submitted. */
struct machine_state workers_initial_state(const struct workers *workers, unsigned shard);
struct slice workers_initial_config(const struct workers *workers, unsigned shard);

/* Makes all that the machine has durable; only before the first job was submitted. */
enum error_code workers_checkpoint_initial(struct workers *workers, unsigned shard,
                                           struct error *error);

/* Hands a job to its shard's thread, or a JOB_FOLD to libuv's pool. */
void workers_submit(struct workers *workers, struct job *job);

/* Lets the threads finish their jobs, closes the machines; `closed` runs on the loop after the last
 * `done`. */
void workers_close(struct workers *workers, void (*closed)(void *data), void *data);

#endif
