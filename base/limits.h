/* Every fixed bound of invoke-kv in one place. What an operator may change has its default here and
 * its range in node/config.c. */
#ifndef BASE_LIMITS_H
#define BASE_LIMITS_H

#include <assert.h>
#include <stdint.h>

#define KIB ((uint64_t)1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

enum {
    LIMIT_NODES = 16,               /* nodes of a cluster */
    LIMIT_SHARDS = 64,              /* Raft groups of a cluster */
    LIMIT_PROJECT_NAME = 512,       /* bytes of a project's name ... */
    LIMIT_PROJECT_CHARACTERS = 128, /* ... and its characters */
    LIMIT_KEY_SIZE = 64 * 1024,     /* bytes of a key */
    LIMIT_PATTERN_SIZE = 1024       /* bytes of a pattern that keys are matched with */
};

/* A value: default and hard maximum, bytes. */
#define LIMIT_VALUE_SIZE_DEFAULT (16 * MIB)
#define LIMIT_VALUE_SIZE_MAX (64 * MIB)

/* One log entry: the largest value with its key and framing, or many small commands. */
#define LIMIT_ENTRY_SIZE (LIMIT_VALUE_SIZE_MAX + 1 * MIB)
/* Commands are batched into one entry up to this many bytes and this many commands. */
#define LIMIT_BATCH_SIZE (256 * KIB)
#define LIMIT_BATCH_COMMANDS 1024

/* RESP: arguments of one command, bytes of one inline command. */
#define LIMIT_RESP_ARGS 65536
#define LIMIT_RESP_INLINE (64 * KIB)

/* An answer of many values or keys; a longer one is refused in words. */
#define LIMIT_ANSWER_SIZE (64 * MIB)
/* KEYS and SCAN in a transaction count as so many arguments: they look at many keys. */
#define LIMIT_TRANSACTION_WALK 4096
/* The answers of a transaction together. Behind it come only numbers and errors, which fit into an
 * entry's size as well. */
#define LIMIT_TRANSACTION_ANSWER (60 * MIB)
/* KEYS: keys that it answers, and keys that it looks at. */
#define LIMIT_KEYS_ANSWERED 100000
#define LIMIT_KEYS_EXAMINED 1000000
/* SCAN: keys, and bytes of keys, that one call looks at whatever COUNT it names. */
#define LIMIT_SCAN_KEYS 10000
#define LIMIT_SCAN_BYTES (1 * MIB)

/* Sessions of exactly-once writes, of one shard; see docs/exactly-once.md. Kept results count with
 * what keeping them takes; one result may pass a bound that was not reached before it. */
#define LIMIT_ONCE_SESSIONS 16384
#define LIMIT_ONCE_WINDOW 65536 /* sequence numbers from the lowest that is not done */
#define LIMIT_ONCE_SESSION_BYTES (4 * MIB)
#define LIMIT_ONCE_SHARD_BYTES (256 * MIB)
#define LIMIT_ONCE_TTL_MIN_MS 1000
#define LIMIT_ONCE_TTL_MAX_MS (24 * 60 * 60 * 1000)
#define LIMIT_ONCE_TTL_DEFAULT_MS (10 * 60 * 1000)

/* Log segment, bytes: default, and the least that a test may ask for. */
#define LIMIT_SEGMENT_SIZE_DEFAULT (64 * MIB)
#define LIMIT_SEGMENT_SIZE_MIN (1 * MIB)

#define LIMIT_QUOTA_DEFAULT (1 * GIB)
#define LIMIT_QUOTA_MAX ((uint64_t)1 << 50)
#define LIMIT_PROJECTS 100000
#define LIMIT_PROJECT_TOKENS 64
/* PROJECT LIST: names that one call answers, whatever COUNT it names. */
#define LIMIT_PROJECTS_LISTED 1000
#define LIMIT_CONNECTIONS_DEFAULT 10000

static_assert(LIMIT_VALUE_SIZE_DEFAULT <= LIMIT_VALUE_SIZE_MAX, "default within the maximum");
static_assert(LIMIT_BATCH_SIZE < LIMIT_ENTRY_SIZE, "a batch is an entry");

#endif
