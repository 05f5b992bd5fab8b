#include "client/src/backoff.h"

uint64_t backoff_ms(struct prng *prng, unsigned attempt, uint64_t first_ms, uint64_t max_ms) {
    uint64_t whole = first_ms;
    for (unsigned i = 1; i < attempt && whole < max_ms; i++) {
        whole *= 2;
    }
    if (whole > max_ms) {
        whole = max_ms;
    }
    uint64_t half = (whole + 1) / 2;
    return half + prng_below(prng, whole - half + 1);
}
