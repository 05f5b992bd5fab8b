/* Clients of the simulated cluster. They speak RESP over simulated connections, to any node, and
 * reconnect when they hear nothing.
 *
 * Model clients share small projects and write down what they did; the histories are checked by
 * model.c. Owners have keys that nobody else writes and know therefore what each kind of read may
 * answer: linearizable, session (with tokens carried from node to node) and eventual, with and
 * without a bound. Some of what they write is large, so that logs and databases grow. */
#ifndef SIM_CLIENT_H
#define SIM_CLIENT_H

#include "tests/sim/kernel.h"

enum { CLIENTS_MAX = 24, PROJECTS_MAX = 8 };

struct client_options {
    unsigned n_model;
    unsigned n_owners;
    unsigned n_projects;
    uint64_t think_ns;    /* mean pause between operations */
    uint64_t patience_ns; /* how long they wait for an answer before they go elsewhere */
    unsigned depth;       /* most commands on their way per model client */
    unsigned n_per_check; /* operations of a project until its history is checked */
    uint32_t large_bytes; /* largest value of owners */
    /* How much older than their bound eventual reads may be: leaders that were deposed without
     * knowing it (docs/consistency.md). Messages that were read late come on top. */
    uint64_t stale_slack_ns;
    double multi_key; /* share of projects with operations on several keys */
    double numbering; /* share of model clients that number their writes (ONCE) */
    double expiry;    /* share of writes with an expiry */
    double drift;     /* most that a clock is off */
    uint64_t kinds;   /* bit by enum op_kind: which ones occur */
};

void clients_start(const struct client_options *options);
/* No further operations; what is under way comes to its end. */
void clients_stop(void);
bool clients_are_idle(void);
/* Checks all histories to their end. */
void clients_finish(void);
/* From now on keys must be gone when their time is over. */
void clients_expect_expiry(void);
/* Wall clocks may decide the time now: what was written before may expire early. */
void clients_allow_early_expiry(void);
/* Operations that were answered, of the client that has the fewest since the last call. */
uint64_t clients_progress(void);
uint64_t clients_operations(void);
uint64_t clients_checked(void);
uint64_t clients_unchecked(void);

#endif
