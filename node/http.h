/* Health and figures over HTTP, for load balancers, orchestrators and Prometheus:
 *
 *   GET /livez     200 while the process runs
 *   GET /readyz    200, or 503 and a line for each reason; ?format=json for programs
 *   GET /metrics   docs/metrics.md
 *
 * On a thread of its own, so that it answers although the loop is busy. It works on copies of what
 * the loop thread publishes and never touches anything else of the node.
 *
 * Bounds: HTTP_CONNECTIONS at once, HTTP_CONNECTIONS_PER_ADDRESS of one address, HTTP_MEMORY bytes
 * for the head of a request, HTTP_IDLE_S of silence; bodies are not read, and no method but GET and
 * HEAD is answered.
 *
 * Threads: the functions are for the loop thread. */
#ifndef NODE_HTTP_H
#define NODE_HTTP_H

#include "base/error.h"
#include "node/config.h"

struct metrics;

enum {
    HTTP_CONNECTIONS = 64,
    HTTP_CONNECTIONS_PER_ADDRESS = 32,
    HTTP_MEMORY = 16 * 1024,
    HTTP_IDLE_S = 10
};

struct http;

/* Port 0 in the address: no HTTP, *http is NULL and the other functions do nothing. Not ready until
 * something was published. */
enum error_code http_open(struct http **http, const struct config_address *address,
                          struct error *error);
/* Takes a copy. */
void http_publish(struct http *http, const struct metrics *metrics);
void http_close(struct http *http);

#endif
