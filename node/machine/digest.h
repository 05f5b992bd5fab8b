/* Hashes that the state digest is made of. They are part of the replicated state: two releases that
 * disagree here would report a divergence that is none. */
#ifndef NODE_MACHINE_DIGEST_H
#define NODE_MACHINE_DIGEST_H

#include <stdint.h>

#include "base/bytes.h"

/* XXH64 by Yann Collet, after the XXH64 section of the xxHash fast digest algorithm specification,
 * version 0.1.1. */
uint64_t digest_bytes(uint64_t seed, struct slice bytes);

/* Bijective finalizer of splitmix64 (Steele, Lea, Flood 2014, with Stafford's "Mix13" constants).
 */
uint64_t digest_mix(uint64_t value);

/* Seed of a project's rows, from its name. */
uint64_t digest_seed(struct slice project);

/* What one live row adds to the digest, and what is stored beside it to check it when it is read.
 */
uint64_t digest_row(uint64_t seed, struct slice key, struct slice value, uint64_t expires_at_ms);

/* The digest of the same row with another expiry, without its value. */
uint64_t digest_row_moved(uint64_t digest, uint64_t old_expires_at_ms, uint64_t expires_at_ms);

/* What a project adds for itself, with or without rows. */
uint64_t digest_project(uint64_t seed, uint64_t quota);

#endif
