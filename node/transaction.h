/* What a connection has queued between MULTI and EXEC, and what it watches. Pure: keeps and bounds
 * it; commands_transaction.c does the rest. */
#ifndef NODE_TRANSACTION_H
#define NODE_TRANSACTION_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/error.h"
#include "node/machine/command.h"

enum {
    TRANSACTION_WATCHED_MAX = 1024,             /* keys that a connection watches */
    TRANSACTION_WATCHED_BYTES_MAX = 256 * 1024, /* bytes of those keys */
    TRANSACTION_OVERHEAD = 1024                 /* header of a transaction and its project */
};

/* What an answer of EXEC is made of: some commands were answered when they were queued, such as
 * ECHO, or for a mistake in their arguments, which Redis tells in the answer of EXEC only.
 *
 *     for each queued command: u8 0: the next result of the transaction
 *                              u8 1, u32+ bytes: this reply */
struct transaction_plan {
    struct buffer parts;
    uint32_t count;
    uint32_t results; /* how many of them are results */
};

/* A zeroed struct is a connection that has said neither MULTI nor WATCH. */
struct transaction {
    bool is_open;           /* MULTI has come, EXEC has not */
    bool is_broken;         /* a command could not be queued: EXEC refuses */
    bool writes;            /* holds a write */
    bool read_only;         /* holds a command that cannot stand beside writes */
    struct buffer commands; /* encoded: u32+ each */
    uint32_t words;         /* commands and arguments, watched keys and versions */
    struct transaction_plan plan;

    /* From WATCH until EXEC, DISCARD or UNWATCH. */
    struct buffer watched;  /* keys: u32+ each */
    struct buffer versions; /* u64 each */
    uint32_t n_watched;
    unsigned watching;     /* WATCHes whose versions are not known yet */
    bool watch_failed;     /* the versions of some could not be learned: EXEC refuses */
    struct buffer project; /* whose keys they are */
};

/* After MULTI. */
void transaction_open(struct transaction *transaction);
/* After EXEC and DISCARD: forgets what was queued and watched. */
void transaction_end(struct transaction *transaction);
void transaction_unwatch(struct transaction *transaction);
/* Forgets what is queued: EXEC will refuse, so that nobody needs it. */
void transaction_break(struct transaction *transaction);
/* Bytes held. */
size_t transaction_memory(const struct transaction *transaction);
/* Bytes that the transaction takes as a command. */
size_t transaction_size(const struct transaction *transaction);

/* Queues a command. Refuses with words for the client: ERROR_TOOBIG for more than LIMIT_RESP_ARGS
 * words, ERROR_GENERIC for what cannot stand in one transaction. */
enum error_code transaction_add_command(struct transaction *transaction,
                                        const struct command *command, const struct slice *args,
                                        uint32_t n_args, struct error *error);
/* Queues a reply that is known already, in RESP. ERROR_TOOBIG as above. */
enum error_code transaction_add_reply(struct transaction *transaction, struct slice reply,
                                      struct error *error);

bool transaction_watches(const struct transaction *transaction, struct slice key);
/* Adds a key of `project` whose version is still to come; `n_watched` is its number then.
 * ERROR_TOOBIG: too many or too long; ERROR_GENERIC: another project's keys are watched. */
enum error_code transaction_watch(struct transaction *transaction, struct slice project,
                                  struct slice key, struct error *error);
/* The versions of the keys from number `first` on. */
void transaction_set_versions(struct transaction *transaction, uint32_t first,
                              struct slice versions);

/* The next of plan.count parts, read from plan.parts. True: a reply that is known already; false:
 * the next result. */
bool transaction_plan_next(struct reader *parts, struct slice *reply);
/* The arguments of the command that carries it out, *n_args of them, to be freed with mem_free().
 * They point into the transaction and into `number`. */
struct slice *transaction_args(const struct transaction *transaction,
                               uint8_t number[sizeof(uint64_t)], uint32_t *n_args);

#endif
