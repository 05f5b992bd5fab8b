/* Which release this is, for people and for other nodes.
 *
 * The feature level is what nodes go by: it grows by one with each release that writes something
 * that the release before cannot read, into the log, the databases or between nodes. Neighbouring
 * levels work together, and others refuse the connection: that is all that it decides so far. What
 * a level brings may be used only once all members have it; `level` of CLUSTER MEMBERS knows only
 * those that this node has met. */
#ifndef NODE_RELEASE_H
#define NODE_RELEASE_H

#include <stdbool.h>
#include <stdint.h>

/* "0.1.0"; async-signal-safe. */
const char *release_name(void);
uint32_t release_level(void);

/* Whether nodes of these levels may run side by side. */
bool release_is_neighbour(uint32_t level, uint32_t other);

#endif
