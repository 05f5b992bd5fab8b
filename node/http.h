/* Health over HTTP: GET /livez answers 200 while the process runs, GET /readyz 200 or 503 with the
 * reason in words. On a thread of its own, so that it answers although the loop is busy.
 *
 * Threads: http_set_ready() from the loop thread. */
#ifndef NODE_HTTP_H
#define NODE_HTTP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "node/config.h"

enum { HTTP_REASON_SIZE = 512, HTTP_CONNECTIONS = 64, HTTP_IDLE_S = 10 };

struct http;

/* Port 0 in the address: no HTTP, *http is NULL and the other functions do nothing. */
enum error_code http_open(struct http **http, const struct config_address *address,
                          struct error *error);
void http_set_ready(struct http *http, bool ready, const char *reason);
void http_close(struct http *http);

#endif
