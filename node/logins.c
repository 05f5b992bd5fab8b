#include "node/logins.h"

#include <arpa/inet.h>
#include <assert.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "node/machine/digest.h"

enum { SETS = 1024, WAYS = 4, KIND = 0, ADDRESS = 1, NETWORK_SIZE = 64 };
static_assert((SETS & (SETS - 1)) == 0, "a set is chosen by the low bits of a hash");
static_assert(LOGINS_WINDOW_MS / LOGINS_FAILURES_MAX / LOGINS_PER_ADDRESS > 0,
              "every failure costs at least a millisecond");

/* What was used of a budget, as the time at which it is whole again: each failure moves that on. */
struct budget {
    uint64_t key;
    uint64_t whole_at_ms;
    uint64_t known_until_ms; /* of a kind: it succeeded lately */
    uint32_t under_way;      /* logins that were let through while it was not whole */
};

struct logins {
    uint64_t seed;
    uint64_t cost_ms[2]; /* of one failure, by KIND and ADDRESS; 0: no bound */
    struct logins_stats stats;
    struct budget table[SETS][WAYS];
};

struct logins *logins_new(unsigned failures, uint64_t seed) {
    ASSERT(failures <= LOGINS_FAILURES_MAX);
    struct logins *logins = mem_zalloc(1, sizeof *logins);
    logins->seed = seed;
    if (failures > 0) {
        logins->cost_ms[KIND] = LOGINS_WINDOW_MS / failures;
        logins->cost_ms[ADDRESS] = LOGINS_WINDOW_MS / (failures * LOGINS_PER_ADDRESS);
    }
    return logins;
}

void logins_free(struct logins *logins) {
    mem_free(logins);
}

const struct logins_stats *logins_stats(const struct logins *logins) {
    return &logins->stats;
}

enum login_kind login_kind_of(struct slice user) {
    if (slice_equal(user, slice_of("service"))) {
        return LOGIN_SERVICE;
    }
    return slice_equal(user, slice_of("admin")) ? LOGIN_ADMIN : LOGIN_PROJECT;
}

/* --- keys ------------------------------------------------------------------------------------- */

/* The host of "HOST:PORT" or "[HOST]:PORT". */
static struct slice host_of(const char *peer) {
    struct slice text = slice_of(peer);
    if (text.size > 0 && text.data[0] == '[') {
        text = slice_make(text.data + 1, text.size - 1);
        const uint8_t *end = memchr(text.data, ']', text.size);
        return end == NULL ? text : slice_make(text.data, (size_t)(end - text.data));
    }
    const uint8_t *end = text.size > 0 ? memchr(text.data, ':', text.size) : NULL;
    return end == NULL ? text : slice_make(text.data, (size_t)(end - text.data));
}

/* Writes what all addresses of one client share, behind a byte that tells what it is. */
static struct slice network_of(const char *peer, uint8_t network[NETWORK_SIZE]) {
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    struct slice host = host_of(peer);
    char text[NETWORK_SIZE];
    uint8_t address[16];
    size_t size = host.size < sizeof text - 1 ? host.size : sizeof text - 1;
    memcpy(text, size > 0 ? (const void *)host.data : "", size);
    text[size] = '\0';
    if (inet_pton(AF_INET, text, address) == 1) {
        network[0] = 4;
        memcpy(network + 1, address, 4);
        return slice_make(network, 5);
    }
    if (inet_pton(AF_INET6, text, address) != 1) {
        network[0] = 0;
        memcpy(network + 1, text, size);
        return slice_make(network, 1 + size);
    }
    if (memcmp(address, mapped, sizeof mapped) == 0) {
        network[0] = 4;
        memcpy(network + 1, address + 12, 4);
        return slice_make(network, 5);
    }
    network[0] = 6;
    memcpy(network + 1, address, 8);
    return slice_make(network, 9);
}

/* Never 0, which stands for an empty place. */
static uint64_t key_of(uint64_t hash) {
    return hash == 0 ? 1 : hash;
}

/* --- the table -------------------------------------------------------------------------------- */

static uint64_t used_ms(const struct budget *budget, uint64_t now_ms) {
    return budget->whole_at_ms > now_ms ? budget->whole_at_ms - now_ms : 0;
}

/* How much is lost when it is forgotten. */
static uint64_t weight(const struct budget *budget, uint64_t now_ms) {
    return 2 * used_ms(budget, now_ms) + (budget->known_until_ms > now_ms);
}

static struct budget *find(struct logins *logins, uint64_t key) {
    struct budget *set = logins->table[key & (SETS - 1)];
    for (unsigned i = 0; i < WAYS; i++) {
        if (set[i].key == key) {
            return &set[i];
        }
    }
    return NULL;
}

static struct budget *find_or_make(struct logins *logins, uint64_t key, uint64_t now_ms) {
    struct budget *found = find(logins, key);
    if (found != NULL) {
        return found;
    }
    struct budget *set = logins->table[key & (SETS - 1)];
    struct budget *least = &set[0];
    for (unsigned i = 1; i < WAYS; i++) {
        if (weight(&set[i], now_ms) < weight(least, now_ms)) {
            least = &set[i];
        }
    }
    *least = (struct budget){.key = key};
    return least;
}

/* Milliseconds until one more failure has room, were all that is under way to fail; 0: now. Until
 * something failed all is let through: a service that starts logs in many times at once. */
static uint64_t wait_ms(struct logins *logins, unsigned which, uint64_t key, uint64_t now_ms) {
    const struct budget *budget = find(logins, key);
    uint64_t used = budget != NULL ? used_ms(budget, now_ms) : 0;
    if (used == 0) {
        return 0;
    }
    uint64_t cost_ms = logins->cost_ms[which];
    uint64_t needed = used + cost_ms * (budget->under_way + UINT64_C(1));
    return needed > LOGINS_WINDOW_MS ? needed - LOGINS_WINDOW_MS : 0;
}

static bool is_known(struct logins *logins, const struct login *login, uint64_t now_ms) {
    const struct budget *budget = find(logins, login->keys[KIND]);
    return budget != NULL && budget->known_until_ms > now_ms;
}

uint64_t logins_begin(struct logins *logins, uint64_t now_ms, const char *peer, struct slice user,
                      uint64_t token, struct login *login) {
    uint8_t bytes[NETWORK_SIZE];
    struct slice network = network_of(peer, bytes);
    uint64_t address = digest_bytes(logins->seed, network);
    login->kind = login_kind_of(user);
    login->keys[ADDRESS] = key_of(address);
    login->keys[KIND] = key_of(digest_bytes(digest_mix(address ^ digest_mix(token)), user));
    if (logins->cost_ms[KIND] == 0) {
        return 0;
    }
    uint64_t longest_ms = 0;
    unsigned looked_at = is_known(logins, login, now_ms) ? 1 : 2; /* KIND, and ADDRESS */
    for (unsigned i = 0; i < looked_at; i++) {
        uint64_t each_ms = wait_ms(logins, i, login->keys[i], now_ms);
        longest_ms = each_ms > longest_ms ? each_ms : longest_ms;
    }
    if (longest_ms > 0) {
        logins->stats.counts[login->kind][LOGIN_THROTTLED]++;
        return longest_ms;
    }
    for (unsigned i = 0; i < 2; i++) {
        struct budget *budget = find(logins, login->keys[i]);
        if (budget != NULL) {
            budget->under_way++;
        }
    }
    return 0;
}

static void charge(struct logins *logins, unsigned which, uint64_t key, uint64_t now_ms) {
    struct budget *budget = find_or_make(logins, key, now_ms);
    uint64_t used = used_ms(budget, now_ms) + logins->cost_ms[which];
    uint64_t most = LOGINS_WINDOW_MS + LOGINS_WAIT_MAX_MS - logins->cost_ms[which];
    budget->whole_at_ms = now_ms + (used < most ? used : most);
}

static void remember(struct logins *logins, const struct login *login, uint64_t now_ms) {
    struct budget *budget = find_or_make(logins, login->keys[KIND], now_ms);
    budget->known_until_ms = now_ms + LOGINS_KNOWN_MS;
}

void logins_end(struct logins *logins, uint64_t now_ms, const struct login *login,
                enum login_outcome outcome) {
    ASSERT(outcome != LOGIN_THROTTLED);
    if (outcome != LOGIN_UNKNOWN) {
        logins->stats.counts[login->kind][outcome]++;
    }
    for (unsigned i = 0; i < 2 && logins->cost_ms[i] > 0; i++) {
        struct budget *budget = find(logins, login->keys[i]);
        /* It may have been made, or forgotten and made again, since the login began. */
        if (budget != NULL && budget->under_way > 0) {
            budget->under_way--;
        }
        if (outcome == LOGIN_WRONG) {
            charge(logins, i, login->keys[i], now_ms);
        }
    }
    if (outcome == LOGIN_GOOD && logins->cost_ms[KIND] > 0) {
        remember(logins, login, now_ms);
    }
}
