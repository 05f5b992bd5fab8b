/* Small deterministic random numbers (xoshiro256** seeded by splitmix64, Blackman and Vigna).
 * Not for secrets: those come from the operating system. */
#ifndef BASE_PRNG_H
#define BASE_PRNG_H

#include <stdint.h>

struct prng {
    uint64_t state[4];
};

void prng_seed(struct prng *prng, uint64_t seed);
uint64_t prng_next(struct prng *prng);
/* Uniform in [0, bound); bound must be positive. */
uint64_t prng_below(struct prng *prng, uint64_t bound);

#endif
