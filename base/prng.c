#include "base/prng.h"

#include "base/assert.h"

/* Spreads one seed over the state: nearby seeds give unrelated streams, and never all zeros. */
static uint64_t splitmix64_next(uint64_t *state) {
    *state += 0x9E3779B97F4A7C15u;
    uint64_t z = *state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static uint64_t rotate_left(uint64_t x, unsigned bits) {
    return (x << bits) | (x >> (64 - bits));
}

void prng_seed(struct prng *prng, uint64_t seed) {
    for (int i = 0; i < 4; i++) {
        prng->state[i] = splitmix64_next(&seed);
    }
}

uint64_t prng_next(struct prng *prng) {
    uint64_t *s = prng->state;
    uint64_t result = rotate_left(s[1] * 5, 7) * 9;
    uint64_t shifted = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = rotate_left(s[3], 45);
    return result;
}

uint64_t prng_below(struct prng *prng, uint64_t bound) {
    ASSERT(bound > 0);
    /* 2^64 mod bound: numbers below it would make the small remainders likelier. */
    uint64_t excess = (0 - bound) % bound;
    uint64_t value;
    do {
        value = prng_next(prng);
    } while (value < excess);
    return value % bound;
}
