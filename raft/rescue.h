/* Changes to a log whose node does not run: what a restored or recovered data directory begins
 * with. Each returns at once; what was asked for is durable when a request behind it completes. */
#ifndef RAFT_RESCUE_H
#define RAFT_RESCUE_H

#include "raft/log.h"

/* Where the state machine is ahead of the log, or the log contradicts what was applied (and thus
 * committed), the snapshot that the state machine is replaces the log; it has to be on disk by
 * then. Index 0: nothing is there to be ahead. */
void rescue_reconcile(struct log *log, unsigned group, uint64_t applied_index,
                      uint64_t applied_term);

/* Ends the log with a configuration in a new term, for which `self` has voted: at its next start
 * the node acts on it, whatever the cluster before thought. All entries before stay, and are
 * committed when `config` names `self` as the only voter. */
void rescue_take_over(struct log *log, unsigned group, uint64_t self, struct payload *config,
                      struct log_request *request);

#endif
