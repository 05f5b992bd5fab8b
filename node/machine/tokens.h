/* Tokens of projects: what a client shows to work in a project. Each is known by a number and kept
 * as a salted hash; the secret itself is known to its holder only.
 *
 * All are in memory with their project, at most LIMIT_PROJECT_TOKENS each, and written through to
 * the table `tokens`. Expiry is a replicated event like that of keys: a token that has expired by
 * the shard's clock is removed by the next batch, and the leader's tick comes when one falls due.
 * So a token that is there is valid. */
#ifndef NODE_MACHINE_TOKENS_H
#define NODE_MACHINE_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "node/machine/command.h"

struct machine;
struct project;

struct token {
    uint64_t id;
    uint64_t created_ms;    /* cluster time */
    uint64_t expires_at_ms; /* cluster time, 0: never */
    uint8_t access;         /* enum command_access */
    uint8_t salt[COMMAND_SALT_SIZE];
    uint8_t hash[COMMAND_HASH_SIZE]; /* token_hash() of salt and secret's digest */
};

/* When a token expires, if it is still there then. */
struct token_expiry {
    uint64_t at_ms;
    uint64_t project;
    uint64_t token;
};

/* A zeroed struct is a valid, empty table. */
struct tokens {
    uint64_t digest;           /* sum over all tokens of the shard */
    struct token_expiry *heap; /* earliest first; also of tokens that are gone */
    size_t heap_count;
    size_t heap_capacity;
    size_t n_expiring; /* tokens that are there and expire */
};

void tokens_free(struct tokens *tokens);

/* SHA-256 of salt and the secret's digest. */
void token_hash(const uint8_t salt[COMMAND_SALT_SIZE], struct slice secret_digest,
                uint8_t hash[COMMAND_HASH_SIZE]);

/* What a token adds to the shard's digest; `seed` is its project's. */
uint64_t token_digest(uint64_t seed, const struct token *token);

/* NULL when the project is NULL or has no such token. Valid until a token is added or removed. */
const struct token *token_find(const struct project *project, uint64_t id);

/* The project must have less than LIMIT_PROJECT_TOKENS and none of that id. */
enum error_code token_add(struct machine *machine, struct project *project,
                          const struct token *token, struct error *error);
/* The token must be there. */
enum error_code token_remove(struct machine *machine, struct project *project, uint64_t id,
                             struct error *error);
/* All of the project's. */
enum error_code token_remove_all(struct machine *machine, struct project *project,
                                 struct error *error);

/* Reads all from the file; the projects must be there. */
enum error_code tokens_load(struct machine *machine, struct error *error);
/* Removes what has expired at `now_ms`, MACHINE_PURGE_STEP tokens at most. *left_ms is the expiry
 * of the first that has expired and stays, 0 when none does. */
enum error_code tokens_purge(struct machine *machine, uint64_t now_ms, uint64_t *left_ms,
                             struct error *error);
/* Of the first token to expire, 0 when none does. */
uint64_t tokens_next_expiry(struct machine *machine);
/* Compares the table with the memory; *next_expiry_ms is that of the table. */
enum error_code tokens_recount(struct machine *machine, uint64_t *next_expiry_ms,
                               struct error *error);

#endif
