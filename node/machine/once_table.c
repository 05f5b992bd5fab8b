/* Sessions of exactly-once writes in memory. */
#include "base/assert.h"
#include "base/limits.h"
#include "base/mem.h"
#include "node/machine/digest.h"
#include "node/machine/once.h"

enum { BUCKETS = 4096 };

static_assert(sizeof(struct once_result) == 32, "most results fit into their place");
static_assert(sizeof(struct once_chunk) <= ONCE_CHUNK_BYTES + 64, "a chunk counts for its memory");
/* A session that is done with everything but a full window still has room to go on. */
static_assert((LIMIT_ONCE_WINDOW / ONCE_CHUNK + 1) * ONCE_CHUNK_BYTES < LIMIT_ONCE_SESSION_BYTES,
              "a full window of small results stays within the bound of its session");

/* Sets the seed apart from those of projects. */
#define SESSION_SEED UINT64_C(0x6f6e6365)

void once_init(struct once *once) {
    *once = (struct once){0};
    list_init(&once->changed);
}

static void free_chunk(struct once_chunk *chunk) {
    for (unsigned i = 0; i < ONCE_CHUNK; i++) {
        struct once_result *result = &chunk->results[i];
        if (result->size > ONCE_HERE_MAX && !once_is_large(result)) {
            mem_free(result->at.apart);
        }
    }
    mem_free(chunk);
}

static void free_session(struct once_session *session) {
    for (unsigned i = 0; i < session->n_chunks; i++) {
        free_chunk(session->chunks[i]);
    }
    mem_free(session->chunks);
    mem_free(session);
}

void once_free(struct once *once) {
    for (size_t i = 0; i < once->count; i++) {
        free_session(once->heap[i]);
    }
    mem_free(once->buckets);
    mem_free(once->heap);
    *once = (struct once){0};
}

/* --- by expiry ---------------------------------------------------------------------------------
 */

static bool expires_before(const struct once_session *a, const struct once_session *b) {
    return a->expires_at_ms != b->expires_at_ms ? a->expires_at_ms < b->expires_at_ms
                                                : memcmp(a->id, b->id, COMMAND_SESSION_SIZE) < 0;
}

static void heap_place(struct once *once, size_t at, struct once_session *session) {
    once->heap[at - 1] = session;
    session->heap_at = at;
}

/* Moves the session to where its expiry belongs. */
static void heap_settle(struct once *once, struct once_session *session) {
    size_t at = session->heap_at;
    while (at > 1 && expires_before(session, once->heap[at / 2 - 1])) {
        heap_place(once, at, once->heap[at / 2 - 1]);
        at /= 2;
    }
    while (2 * at <= once->count) {
        size_t child = 2 * at;
        if (child < once->count && expires_before(once->heap[child], once->heap[child - 1])) {
            child++;
        }
        if (!expires_before(once->heap[child - 1], session)) {
            break;
        }
        heap_place(once, at, once->heap[child - 1]);
        at = child;
    }
    heap_place(once, at, session);
}

static void heap_append(struct once *once, struct once_session *session) {
    if (once->count == once->heap_capacity) {
        once->heap_capacity = once->heap_capacity == 0 ? 16 : 2 * once->heap_capacity;
        once->heap = mem_realloc(once->heap, once->heap_capacity * sizeof(once->heap[0]));
    }
    heap_place(once, ++once->count, session);
    heap_settle(once, session);
}

static void heap_remove(struct once *once, struct once_session *session) {
    struct once_session *last = once->heap[--once->count];
    if (last != session) {
        heap_place(once, session->heap_at, last);
        heap_settle(once, last);
    }
}

struct once_session *once_first(const struct once *once) {
    return once->count > 0 ? once->heap[0] : NULL;
}

uint64_t once_next_expiry(const struct once *once) {
    return once->count > 0 ? once->heap[0]->expires_at_ms : 0;
}

/* --- sessions ----------------------------------------------------------------------------------
 */

static uint64_t seed_of(struct slice id) {
    return digest_bytes(SESSION_SEED, id);
}

/* What a session adds to the digest besides its results. */
static uint64_t header_hash(const struct once_session *session) {
    uint64_t hash = digest_mix(session->seed ^ digest_mix(session->ttl_ms));
    return digest_mix(digest_mix(hash ^ session->expires_at_ms) ^ session->low);
}

struct once_session *once_find(const struct once *once, struct slice id) {
    ASSERT(id.size == COMMAND_SESSION_SIZE);
    if (once->count == 0) {
        return NULL;
    }
    struct once_session *session = once->buckets[seed_of(id) % BUCKETS];
    while (session != NULL && memcmp(session->id, id.data, id.size) != 0) {
        session = session->next_in_bucket;
    }
    return session;
}

struct once_session *once_add(struct once *once, struct slice id, uint64_t ttl_ms,
                              uint64_t expires_at_ms, uint64_t low) {
    ASSERT(once->count < LIMIT_ONCE_SESSIONS && id.size == COMMAND_SESSION_SIZE);
    ASSERT(low > 0 && expires_at_ms > 0);
    if (once->buckets == NULL) {
        once->buckets = mem_zalloc(BUCKETS, sizeof(once->buckets[0]));
    }
    struct once_session *session = mem_zalloc(1, sizeof(*session));
    memcpy(session->id, id.data, COMMAND_SESSION_SIZE);
    session->seed = seed_of(id);
    session->ttl_ms = ttl_ms;
    session->expires_at_ms = expires_at_ms;
    session->low = low;
    list_init(&session->changed_link);
    struct once_session **bucket = &once->buckets[session->seed % BUCKETS];
    session->next_in_bucket = *bucket;
    *bucket = session;
    heap_append(once, session);
    once->digest += header_hash(session);
    return session;
}

void once_drop(struct once *once, struct once_session *session) {
    ASSERT(session->n_chunks == 0 && session->bytes == 0);
    once->digest -= header_hash(session);
    struct once_session **link = &once->buckets[session->seed % BUCKETS];
    while (*link != session) {
        link = &(*link)->next_in_bucket;
    }
    *link = session->next_in_bucket;
    heap_remove(once, session);
    list_remove(&session->changed_link);
    free_session(session);
}

void once_mark(struct once *once, struct once_session *session) {
    if (list_empty(&session->changed_link)) {
        list_push(&once->changed, &session->changed_link);
    }
}

void once_set(struct once *once, struct once_session *session, uint64_t expires_at_ms,
              uint64_t low) {
    once->digest -= header_hash(session);
    session->expires_at_ms = expires_at_ms;
    session->low = low;
    once->digest += header_hash(session);
    heap_settle(once, session);
    session->is_changed = true;
    once_mark(once, session);
}

/* --- chunks ------------------------------------------------------------------------------------
 */

static void count_bytes(struct once *once, struct once_session *session, uint64_t added,
                        uint64_t removed) {
    ASSERT(session->bytes + added >= removed && once->bytes + added >= removed);
    session->bytes = session->bytes + added - removed;
    once->bytes = once->bytes + added - removed;
}

/* Index of the first chunk whose number is not below `number`. The newest is asked for most. */
static unsigned find_place(const struct once_session *session, uint64_t number) {
    unsigned at = session->n_chunks;
    while (at > 0 && session->chunks[at - 1]->number >= number) {
        at--;
    }
    return at;
}

struct once_chunk *once_find_chunk(const struct once_session *session, uint64_t number) {
    unsigned at = find_place(session, number);
    return at < session->n_chunks && session->chunks[at]->number == number ? session->chunks[at]
                                                                           : NULL;
}

struct once_chunk *once_make_chunk(struct once *once, struct once_session *session,
                                   uint64_t number) {
    unsigned at = find_place(session, number);
    if (at < session->n_chunks && session->chunks[at]->number == number) {
        return session->chunks[at];
    }
    if (session->n_chunks == session->capacity) {
        session->capacity = session->capacity == 0 ? 4 : 2 * session->capacity;
        session->chunks =
            mem_realloc(session->chunks, session->capacity * sizeof(session->chunks[0]));
    }
    memmove(session->chunks + at + 1, session->chunks + at,
            (session->n_chunks - at) * sizeof(session->chunks[0]));
    session->n_chunks++;
    struct once_chunk *chunk = mem_zalloc(1, sizeof(*chunk));
    chunk->number = number;
    session->chunks[at] = chunk;
    count_bytes(once, session, ONCE_CHUNK_BYTES, 0);
    return chunk;
}

void once_drop_chunk(struct once *once, struct once_session *session, struct once_chunk *chunk) {
    ASSERT(chunk->count == 0);
    unsigned at = find_place(session, chunk->number);
    ASSERT(session->chunks[at] == chunk);
    session->n_chunks--;
    memmove(session->chunks + at, session->chunks + at + 1,
            (session->n_chunks - at) * sizeof(session->chunks[0]));
    count_bytes(once, session, 0, ONCE_CHUNK_BYTES);
    mem_free(chunk);
}

/* --- results -----------------------------------------------------------------------------------
 */

const struct once_result *once_find_result(const struct once_session *session, uint64_t sequence) {
    const struct once_chunk *chunk = once_find_chunk(session, sequence / ONCE_CHUNK);
    const struct once_result *result =
        chunk != NULL ? &chunk->results[sequence % ONCE_CHUNK] : NULL;
    return result != NULL && result->size > 0 ? result : NULL;
}

uint64_t once_hash(const struct once_session *session, uint64_t sequence, struct slice encoded) {
    return digest_mix(digest_bytes(session->seed ^ digest_mix(sequence), encoded));
}

bool once_is_large(const struct once_result *result) {
    return result->size > ONCE_APART_MAX;
}

struct slice once_bytes(const struct once_result *result) {
    ASSERT(!once_is_large(result));
    return slice_make(result->size > ONCE_HERE_MAX ? result->at.apart : result->at.here,
                      result->size);
}

/* What a result counts for besides its place in the chunk. */
static uint64_t counted_bytes(const struct once_result *result) {
    return result->size > ONCE_HERE_MAX ? result->size : 0;
}

void once_put(struct once *once, struct once_session *session, struct once_chunk *chunk,
              unsigned place, uint64_t hash, struct slice encoded, uint64_t large) {
    struct once_result *result = &chunk->results[place];
    ASSERT(place < ONCE_CHUNK && result->size == 0);
    ASSERT(encoded.size > 0 && encoded.size <= UINT32_MAX);
    result->hash = hash;
    result->size = (uint32_t)encoded.size;
    if (once_is_large(result)) {
        ASSERT(large != 0);
        result->at.large = large;
        session->n_large++;
    } else if (encoded.size > ONCE_HERE_MAX) {
        result->at.apart = mem_dup(encoded.data, encoded.size);
    } else {
        memcpy(result->at.here, encoded.data, encoded.size);
    }
    chunk->count++;
    count_bytes(once, session, counted_bytes(result), 0);
    once->digest += hash;
}

void once_clear(struct once *once, struct once_session *session, struct once_chunk *chunk,
                unsigned place) {
    struct once_result *result = &chunk->results[place];
    ASSERT(place < ONCE_CHUNK && result->size > 0 && chunk->count > 0);
    once->digest -= result->hash;
    count_bytes(once, session, 0, counted_bytes(result));
    if (once_is_large(result)) {
        session->n_large--;
    } else if (result->size > ONCE_HERE_MAX) {
        mem_free(result->at.apart);
    }
    *result = (struct once_result){0};
    chunk->count--;
}
