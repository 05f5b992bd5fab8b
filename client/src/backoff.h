/* How long to wait before trying again: longer each time, and never the same for two clients. Pure.
 */
#ifndef CLIENT_BACKOFF_H
#define CLIENT_BACKOFF_H

#include <stdint.h>

#include "base/prng.h"

/* Milliseconds before attempt number `attempt` (from 1): between half and the whole of
 * first_ms * 2^(attempt - 1), which is at most max_ms. Never 0. first_ms and max_ms are positive.
 */
uint64_t backoff_ms(struct prng *prng, unsigned attempt, uint64_t first_ms, uint64_t max_ms);

#endif
