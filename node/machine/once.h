/* Sessions of exactly-once writes: what a shard remembers of the writes that its clients numbered.
 *
 * All sessions are in memory. A session keeps the results of its writes by number, in chunks of
 * ONCE_CHUNK numbers; a chunk is a row of the database and is written back once per transaction,
 * however many of its results are new. Results above ONCE_APART_MAX bytes stand in the table
 * `large`; memory then holds their place only.
 *
 * once_table.c is the memory alone. It keeps the counts and the sum of the digests; what is in the
 * file is the business of once_rows.c, what commands mean that of once.c. */
#ifndef NODE_MACHINE_ONCE_H
#define NODE_MACHINE_ONCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/list.h"
#include "node/machine/command.h"

enum {
    ONCE_CHUNK = 128,       /* numbers of a chunk */
    ONCE_HERE_MAX = 16,     /* bytes of an encoded result that fits into its place: most do */
    ONCE_APART_MAX = 256,   /* bytes of one that stands in the chunk's row */
    ONCE_CHUNK_BYTES = 4096 /* what a chunk counts for in the bounds */
};

struct once_result {
    uint64_t hash; /* what it adds to the digest */
    uint32_t size; /* of the encoded result; 0: none */
    union {
        uint8_t here[ONCE_HERE_MAX]; /* up to ONCE_HERE_MAX bytes */
        uint8_t *apart;              /* up to ONCE_APART_MAX; owned */
        uint64_t large;              /* beyond: row of the table `large` */
    } at;
};

struct once_chunk {
    uint64_t row;    /* in the database; 0: not there yet */
    uint64_t number; /* holds the sequences from number * ONCE_CHUNK on */
    unsigned count;  /* results; a chunk without any does not exist */
    bool is_changed;
    struct once_result results[ONCE_CHUNK];
};

struct once_session {
    struct once_session *next_in_bucket;
    struct list_node changed_link; /* in once->changed */
    bool is_changed;               /* the session's own row, not only its chunks */
    uint64_t row;                  /* in the database; 0: not there yet */
    uint64_t seed;                 /* hash of the id */
    uint64_t ttl_ms;
    uint64_t expires_at_ms;
    uint64_t low;               /* results of lower sequences are forgotten; 1 or more */
    uint64_t bytes;             /* that count for its bound */
    uint64_t n_large;           /* results in `large` */
    size_t heap_at;             /* place in the heap, counted from 1 */
    struct once_chunk **chunks; /* by number */
    unsigned n_chunks;
    unsigned capacity;
    uint8_t id[COMMAND_SESSION_SIZE];
};

/* A zeroed struct is an empty table that can be freed; to be filled it wants once_init(). */
struct once {
    struct once_session **buckets;
    struct once_session **heap; /* least (expires_at_ms, id) first */
    size_t count;
    size_t heap_capacity;
    struct list_node changed; /* of sessions to write back */
    uint64_t bytes;           /* of all sessions */
    uint64_t digest;
    uint64_t settled_digest; /* the part of machine_state.digest that stands for them */
};

void once_init(struct once *once);
void once_free(struct once *once);

/* NULL when there is none. The id has COMMAND_SESSION_SIZE bytes. */
struct once_session *once_find(const struct once *once, struct slice id);
/* Adds a session that is not there yet. */
struct once_session *once_add(struct once *once, struct slice id, uint64_t ttl_ms,
                              uint64_t expires_at_ms, uint64_t low);
/* Drops a session without chunks. */
void once_drop(struct once *once, struct once_session *session);
/* Sets what changes in a session, and marks it changed. */
void once_set(struct once *once, struct once_session *session, uint64_t expires_at_ms,
              uint64_t low);
/* The session with the least (expires_at_ms, id); NULL when there is none. */
struct once_session *once_first(const struct once *once);
/* When that expires, 0 when there is none. */
uint64_t once_next_expiry(const struct once *once);
/* Puts the session on the list of those to write back. */
void once_mark(struct once *once, struct once_session *session);

/* NULL when there is none. */
struct once_chunk *once_find_chunk(const struct once_session *session, uint64_t number);
/* The chunk of that number, made when it is missing. */
struct once_chunk *once_make_chunk(struct once *once, struct once_session *session,
                                   uint64_t number);
/* Drops a chunk without results. */
void once_drop_chunk(struct once *once, struct once_session *session, struct once_chunk *chunk);

/* NULL when nothing is kept under that sequence. */
const struct once_result *once_find_result(const struct once_session *session, uint64_t sequence);
uint64_t once_hash(const struct once_session *session, uint64_t sequence, struct slice encoded);
/* Fills a free place. `large` is the row of a result above ONCE_APART_MAX, whose bytes are not
 * needed then: `encoded.data` may be NULL. */
void once_put(struct once *once, struct once_session *session, struct once_chunk *chunk,
              unsigned place, uint64_t hash, struct slice encoded, uint64_t large);
/* Empties a place. */
void once_clear(struct once *once, struct once_session *session, struct once_chunk *chunk,
                unsigned place);
bool once_is_large(const struct once_result *result);
/* The bytes of a result that is not large. */
struct slice once_bytes(const struct once_result *result);

#endif
