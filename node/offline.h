/* Tools of invoke-kvd for a node that does not run. Each prints what it did or why it could not,
 * blocks, and returns the exit status: 0 done, 1 not done; verify: 2 damaged. */
#ifndef NODE_OFFLINE_H
#define NODE_OFFLINE_H

#include "node/config.h"

/* Makes the node's data directory, which must be empty, from a backup. All nodes of the new
 * cluster are made from the same backup with the same `node` lines. */
int offline_restore(const char *backup_dir, const struct config *config);

/* Makes a cluster of this node alone from its data directory, when the majority is lost for good.
 * Everything that is in its log counts as committed; what only the lost nodes had is lost. */
int offline_recover(const struct config *config);

/* Checks identity, log and databases of a data directory. */
int offline_verify(const char *dir);

#endif
