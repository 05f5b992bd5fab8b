#include "node/machine/digest.h"

#define PRIME_1 UINT64_C(0x9E3779B185EBCA87)
#define PRIME_2 UINT64_C(0xC2B2AE3D27D4EB4F)
#define PRIME_3 UINT64_C(0x165667B19E3779F9)
#define PRIME_4 UINT64_C(0x85EBCA77C2B2AE63)
#define PRIME_5 UINT64_C(0x27D4EB2F165667C5)

#define GOLDEN_GAMMA UINT64_C(0x9E3779B97F4A7C15)

enum { STRIPE_SIZE = 32 };

static uint64_t rotate_left(uint64_t value, unsigned bits) {
    return (value << bits) | (value >> (64 - bits));
}

static uint64_t lane_round(uint64_t lane, uint64_t input) {
    return rotate_left(lane + input * PRIME_2, 31) * PRIME_1;
}

static uint64_t merge_lane(uint64_t hash, uint64_t lane) {
    return (hash ^ lane_round(0, lane)) * PRIME_1 + PRIME_4;
}

/* Consumes whole stripes from *at and returns the four lanes folded into one. */
static uint64_t hash_stripes(uint64_t seed, const uint8_t **at, const uint8_t *end) {
    uint64_t a = seed + PRIME_1 + PRIME_2;
    uint64_t b = seed + PRIME_2;
    uint64_t c = seed;
    uint64_t d = seed - PRIME_1;
    const uint8_t *p = *at;
    for (; end - p >= STRIPE_SIZE; p += STRIPE_SIZE) {
        a = lane_round(a, bytes_get_u64(p));
        b = lane_round(b, bytes_get_u64(p + 8));
        c = lane_round(c, bytes_get_u64(p + 16));
        d = lane_round(d, bytes_get_u64(p + 24));
    }
    *at = p;
    uint64_t hash = rotate_left(a, 1) + rotate_left(b, 7) + rotate_left(c, 12) + rotate_left(d, 18);
    hash = merge_lane(hash, a);
    hash = merge_lane(hash, b);
    hash = merge_lane(hash, c);
    return merge_lane(hash, d);
}

static uint64_t hash_tail(uint64_t hash, const uint8_t *p, const uint8_t *end) {
    for (; end - p >= 8; p += 8) {
        hash = rotate_left(hash ^ lane_round(0, bytes_get_u64(p)), 27) * PRIME_1 + PRIME_4;
    }
    if (end - p >= 4) {
        hash = rotate_left(hash ^ (bytes_get_u32(p) * PRIME_1), 23) * PRIME_2 + PRIME_3;
        p += 4;
    }
    for (; p < end; p++) {
        hash = rotate_left(hash ^ (*p * PRIME_5), 11) * PRIME_1;
    }
    return hash;
}

static uint64_t avalanche(uint64_t hash) {
    hash = (hash ^ (hash >> 33)) * PRIME_2;
    hash = (hash ^ (hash >> 29)) * PRIME_3;
    return hash ^ (hash >> 32);
}

uint64_t digest_bytes(uint64_t seed, struct slice bytes) {
    uint64_t hash = seed + PRIME_5;
    if (bytes.size == 0) {
        return avalanche(hash);
    }
    const uint8_t *p = bytes.data;
    const uint8_t *end = p + bytes.size;
    if (bytes.size >= STRIPE_SIZE) {
        hash = hash_stripes(seed, &p, end);
    }
    return avalanche(hash_tail(hash + bytes.size, p, end));
}

uint64_t digest_mix(uint64_t value) {
    value = (value ^ (value >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94D049BB133111EB);
    return value ^ (value >> 31);
}

/* digest_mix() backwards: the multipliers are the inverses modulo 2^64. */
static uint64_t unmix(uint64_t value) {
    value = (value ^ (value >> 31) ^ (value >> 62)) * UINT64_C(0x319642B2D24D8EC3);
    value = (value ^ (value >> 27) ^ (value >> 54)) * UINT64_C(0x96DE1B173F119089);
    return value ^ (value >> 30) ^ (value >> 60);
}

uint64_t digest_seed(struct slice project) {
    return digest_bytes(0, project);
}

uint64_t digest_row(uint64_t seed, struct slice key, struct slice value, uint64_t expires_at_ms) {
    /* XXH64 folds the length in, so that moving a byte from the key to the value changes both. */
    uint64_t hash = digest_bytes(digest_bytes(seed, key), value);
    return digest_mix(hash ^ digest_mix(expires_at_ms + GOLDEN_GAMMA));
}

uint64_t digest_row_moved(uint64_t digest, uint64_t old_expires_at_ms, uint64_t expires_at_ms) {
    uint64_t hash = unmix(digest) ^ digest_mix(old_expires_at_ms + GOLDEN_GAMMA);
    return digest_mix(hash ^ digest_mix(expires_at_ms + GOLDEN_GAMMA));
}

uint64_t digest_project(uint64_t seed, uint64_t quota) {
    return digest_mix(seed ^ digest_mix(quota - GOLDEN_GAMMA));
}
