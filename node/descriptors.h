/* File descriptors: how many a configuration needs, and the limit of the process.
 *
 * A process without free descriptors cannot start a segment of its log, which ends it, so clients
 * must never get the last ones: the limit is made to fit max_connections, or the other way round.
 */
#ifndef NODE_DESCRIPTORS_H
#define NODE_DESCRIPTORS_H

#include <stdint.h>

#include "node/config.h"

/* What everything else than connections of clients may have open at once. */
uint64_t descriptors_reserve(const struct config *config);

/* Raises the soft limit of the process as far as that is needed and allowed, the hard one too where
 * the process may. When it stays too low: a max_connections that the file names is ERROR_INVALID
 * and the message tells what to do; its default is lowered to what fits, with a line in the log. */
enum error_code descriptors_provide(struct config *config, struct error *error);

#endif
