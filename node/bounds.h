/* The bounds that a node's clients may run into, how often they did, and when to say so: a line
 * when one is first reached, and not before BOUNDS_SAY_AGAIN_MS another about the same one.
 *
 * Names are labels of /metrics and fields of INFO: docs/operations.md lists them, they are stable.
 *
 * Pure. Threads: the loop thread. */
#ifndef NODE_BOUNDS_H
#define NODE_BOUNDS_H

#include <stdbool.h>
#include <stdint.h>

enum bound {
    BOUND_CONNECTIONS,         /* max_connections: the connection was refused */
    BOUND_PROJECT_CONNECTIONS, /* max_connections_per_project: the command was */
    BOUND_REQUEST_RATE,        /* requests_per_second: the command was */
    BOUND_REQUEST_SIZE,        /* max_value: the command was */
    BOUND_INPUT,               /* half-received commands of all clients: closed */
    BOUND_INFLIGHT,            /* max_memory_inflight: the command was refused */
    BOUND_MEMORY,              /* max_memory: the command was, or a large half-received one */
    BOUND_IDLE,                /* idle_timeout_ms: closed */
    BOUND_RECEIVE,             /* receive_timeout_ms: closed */
    BOUND_SEND,                /* send_timeout_ms: closed */
    BOUND_DESCRIPTORS,         /* the process has no more of them: the connection was closed */
    BOUNDS
};

enum { BOUNDS_SAY_AGAIN_MS = 10000 };

struct bounds {
    uint64_t reached[BOUNDS];
    uint64_t said_ms[BOUNDS]; /* 0: never */
};

/* Never NULL: "connections", "request_rate" and so on. */
const char *bound_name(enum bound bound);

/* Counts `times`. True when a line is due. */
bool bounds_note(struct bounds *bounds, enum bound bound, uint64_t times, uint64_t now_ms);

#endif
