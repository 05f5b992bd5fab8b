#include "node/project_limits.h"

#include <assert.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "node/machine/digest.h"

enum { CAPACITY_MIN = 64, NS_PER_US = 1000 };
#define NS_PER_SECOND UINT64_C(1000000000)

/* The bucket is kept as the time at which it will be full again: a request moves that on by its
 * share of a second, and there is none left when it lies a whole second ahead. */
struct entry {
    uint64_t key; /* 0: free */
    uint64_t full_at_ns;
    uint32_t connections;
};
static_assert(sizeof(struct entry) == PROJECT_LIMITS_ENTRY, "as documented");

/* Open addressing, linear probing. Entries go only when the table is made anew. */
struct project_limits {
    unsigned max_connections;
    uint64_t interval_ns; /* of a request, 0: no limit */
    uint64_t seed;
    struct entry *entries;
    size_t capacity; /* a power of two */
    size_t used;
};

struct project_limits *project_limits_new(unsigned max_connections, unsigned rate, uint64_t seed) {
    ASSERT(rate <= PROJECT_LIMITS_RATE_MAX);
    struct project_limits *limits = mem_zalloc(1, sizeof *limits);
    limits->max_connections = max_connections;
    limits->interval_ns = rate > 0 ? NS_PER_SECOND / rate : 0;
    limits->seed = seed;
    limits->capacity = CAPACITY_MIN;
    limits->entries = mem_zalloc(limits->capacity, sizeof *limits->entries);
    return limits;
}

void project_limits_free(struct project_limits *limits) {
    if (limits != NULL) {
        mem_free(limits->entries);
        mem_free(limits);
    }
}

uint64_t project_limits_key(const struct project_limits *limits, struct slice project) {
    uint64_t key = digest_mix(digest_bytes(limits->seed, project) ^ limits->seed);
    return key != 0 ? key : 1;
}

/* Where the key stands, or where it would. */
static struct entry *find(const struct project_limits *limits, uint64_t key) {
    size_t mask = limits->capacity - 1;
    size_t at = (size_t)key & mask;
    while (limits->entries[at].key != 0 && limits->entries[at].key != key) {
        at = (at + 1) & mask;
    }
    return &limits->entries[at];
}

/* An entry that says no more than a missing one. */
static bool is_idle(const struct entry *entry, uint64_t now_ns) {
    return entry->connections == 0 && entry->full_at_ns <= now_ns;
}

/* A table without idle entries, at most half full. */
static void make_anew(struct project_limits *limits, uint64_t now_ns) {
    struct entry *old = limits->entries;
    size_t old_capacity = limits->capacity;
    size_t kept = 0;
    for (size_t i = 0; i < old_capacity; i++) {
        kept += old[i].key != 0 && !is_idle(&old[i], now_ns);
    }
    limits->capacity = CAPACITY_MIN;
    while (kept * 2 > limits->capacity) {
        limits->capacity *= 2;
    }
    limits->entries = mem_zalloc(limits->capacity, sizeof *limits->entries);
    limits->used = kept;
    for (size_t i = 0; i < old_capacity; i++) {
        if (old[i].key != 0 && !is_idle(&old[i], now_ns)) {
            *find(limits, old[i].key) = old[i];
        }
    }
    mem_free(old);
}

static struct entry *find_or_add(struct project_limits *limits, uint64_t key, uint64_t now_ns) {
    struct entry *entry = find(limits, key);
    if (entry->key != 0) {
        return entry;
    }
    if ((limits->used + 1) * 8 > limits->capacity * 7) {
        make_anew(limits, now_ns);
        entry = find(limits, key);
    }
    *entry = (struct entry){.key = key};
    limits->used++;
    return entry;
}

bool project_limits_enter(struct project_limits *limits, uint64_t key, uint64_t now_us) {
    ASSERT(key != 0);
    struct entry *entry = find_or_add(limits, key, now_us * NS_PER_US);
    if (limits->max_connections > 0 && entry->connections >= limits->max_connections) {
        return false;
    }
    entry->connections++;
    return true;
}

void project_limits_leave(struct project_limits *limits, uint64_t key) {
    struct entry *entry = find(limits, key);
    ASSERT(entry->key == key && entry->connections > 0);
    entry->connections--;
}

unsigned project_limits_connections(const struct project_limits *limits, uint64_t key) {
    const struct entry *entry = find(limits, key);
    return entry->key == key ? entry->connections : 0;
}

bool project_limits_take(struct project_limits *limits, uint64_t key, uint64_t now_us,
                         uint64_t *wait_us) {
    ASSERT(key != 0);
    if (limits->interval_ns == 0) {
        return true;
    }
    uint64_t now_ns = now_us * NS_PER_US;
    struct entry *entry = find_or_add(limits, key, now_ns);
    uint64_t full_at_ns = entry->full_at_ns > now_ns ? entry->full_at_ns : now_ns;
    full_at_ns += limits->interval_ns;
    if (full_at_ns - now_ns > NS_PER_SECOND) {
        *wait_us = (full_at_ns - now_ns - NS_PER_SECOND + NS_PER_US - 1) / NS_PER_US;
        return false;
    }
    entry->full_at_ns = full_at_ns;
    return true;
}

size_t project_limits_memory(const struct project_limits *limits) {
    return limits->capacity * sizeof *limits->entries;
}
