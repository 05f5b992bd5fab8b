/* What a node's limits mean for one session: whether a command is taken now, and for which project
 * the connection counts. For session.c and the command handlers.
 *
 * A connection counts for its project from the first command that works there, or that changes to
 * it. Administrators count for none and have no rate, and what is about the node or the connection
 * (PING, INFO, CLIENT, CLUSTER, AUTH ...) is always taken, so that somebody can still look. */
#ifndef NODE_SESSION_LIMITS_H
#define NODE_SESSION_LIMITS_H

#include <stdbool.h>

#include "base/bytes.h"
#include "base/error.h"
#include "node/bounds.h"

struct call;
struct session;
struct session_host;
struct verb;

/* Before the handler of a command that is permitted. Answers with an error and returns false when a
 * limit is reached. */
bool session_limits_admit(struct call *call, const struct verb *verb);

/* The connection is about to change to a project. Anything but ERROR_NONE: it must not, and counts
 * where it did. */
enum error_code session_limits_enter(struct session *session, struct slice project,
                                     struct error *error);
/* ERROR_BUSY while the node is near to its ceiling of memory. */
enum error_code session_limits_memory(const struct session_host *host, bool is_write,
                                      struct error *error);
/* Counts for no project any more. */
void session_limits_leave(struct session *session);

/* Counts, and tells the node when a line is due. `text` may be NULL. */
void session_limits_reached(struct session_host *host, enum bound bound, const char *peer,
                            struct slice project, const char *text);

#endif
