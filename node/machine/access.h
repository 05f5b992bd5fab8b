/* Who may do what, as the replicated state knows it: the one place where tokens are checked, for
 * every write when it is applied and for every read when it is carried out. So a revoked token or a
 * deleted project stops what comes behind it in the log, on whatever node and connection. */
#ifndef NODE_MACHINE_ACCESS_H
#define NODE_MACHINE_ACCESS_H

#include <stdbool.h>

#include "node/machine/command.h"

struct projects;

/* False, with an error in the result, when the command's token does not allow it. */
bool access_is_allowed(const struct projects *projects, const struct command *command,
                       struct result *result);

#endif
