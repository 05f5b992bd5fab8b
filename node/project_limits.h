/* What a project's clients may take of this node: connections at a time, and requests per second
 * by a token bucket that holds a second's worth. Each node counts for itself.
 *
 * Memory. A project has an entry of PROJECT_LIMITS_ENTRY bytes while it has connections here, or
 * while its bucket is not full. A request keeps an entry for 1/rate of a second, so entries follow
 * what goes on now, not how many projects there are; 100,000 projects at once take 3 MiB. Names
 * are not kept: a project is known by 64 bits of its name, mixed with a secret seed, so that
 * nobody can choose a name that shares another project's limits.
 *
 * Pure. Threads: the loop thread. */
#ifndef NODE_PROJECT_LIMITS_H
#define NODE_PROJECT_LIMITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

struct project_limits;

enum { PROJECT_LIMITS_ENTRY = 24, PROJECT_LIMITS_RATE_MAX = 1000000 };

/* 0 for what is not limited; a rate of at most PROJECT_LIMITS_RATE_MAX requests per second. `seed`
 * should be random. */
struct project_limits *project_limits_new(unsigned max_connections, unsigned rate, uint64_t seed);
void project_limits_free(struct project_limits *limits);

/* What stands for a project below. Never 0. */
uint64_t project_limits_key(const struct project_limits *limits, struct slice project);

/* One more connection works in the project. False at its limit: nothing is counted then. */
bool project_limits_enter(struct project_limits *limits, uint64_t key, uint64_t now_us);
/* One less; only after project_limits_enter(). */
void project_limits_leave(struct project_limits *limits, uint64_t key);
unsigned project_limits_connections(const struct project_limits *limits, uint64_t key);

/* Takes a request from the bucket. False when it is empty: *wait_us later there will be one. */
bool project_limits_take(struct project_limits *limits, uint64_t key, uint64_t now_us,
                         uint64_t *wait_us);

/* Of the table, whether used or not. */
size_t project_limits_memory(const struct project_limits *limits);

#endif
