/* The node: opens everything in the right order, wires it together, and closes it again. */
#ifndef NODE_SERVER_H
#define NODE_SERVER_H

#include "base/error.h"
#include "node/config.h"

struct uv_loop_s;
struct server;

/* Opens the data directory, replays the log, starts listening and joins the cluster. `config` must
 * outlive the server. On error *server is NULL and what was opened stays open: the caller has to
 * end the process, with _Exit(), as nothing was promised to anybody yet. */
enum error_code server_open(struct server **server, struct uv_loop_s *loop, struct config *config,
                            struct error *error);

/* Reads the certificates again, for new connections; when one is bad, all old ones stay in use and
 * the log tells why. Takes over the `node` lines of `fresh`, unless one is missing whose node is
 * still a member. Nothing else of the configuration is read again. */
void server_reload(struct server *server, const struct config *fresh);

/* Stops gracefully: hands leaderships over, answers what is under way, closes. The loop ends when
 * that is done, and the server is freed. A second call does nothing. */
void server_stop(struct server *server);

#endif
