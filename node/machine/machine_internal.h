/* What the files of the state machine share; nobody else includes this. */
#ifndef NODE_MACHINE_MACHINE_INTERNAL_H
#define NODE_MACHINE_MACHINE_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/error.h"
#include "node/machine/database.h"
#include "node/machine/machine.h"
#include "node/machine/once.h"
#include "node/machine/projects.h"
#include "node/machine/scan_cursors.h"
#include "node/machine/tokens.h"

struct machine {
    struct database database;
    struct projects projects;
    struct once once;
    struct tokens tokens;
    struct machine_state state;     /* as of the last applied entry */
    bool in_transaction;            /* entries were applied and not yet committed */
    struct machine_state committed; /* while in_transaction: what a failure goes back to */
    struct buffer config;
    uint64_t read_time_ms; /* see machine_set_read_time() */
    uint64_t garbage;      /* epochs that machine_reclaim() has to remove */
    /* The memory does not match the file: reading it back failed after a rollback. */
    bool is_stale;

    struct scan_cursors cursors;
    struct machine_events *events; /* NULL: nobody wants to know */

    unsigned holds;
    struct machine_snapshot held;
    struct buffer held_config;
};

/* machine.c */

/* Reads everything that is kept in memory from the file. */
enum error_code machine_load(struct machine *machine, struct error *error);
/* Loads again when an earlier attempt failed; every operation starts here. */
enum error_code machine_ready(struct machine *machine, struct error *error);
/* Begins a transaction unless one is under way. */
enum error_code machine_begin(struct machine *machine, struct error *error);
/* Ends the transaction without effect and brings the memory back to the last commit. */
void machine_rollback(struct machine *machine);
/* ERROR_MISMATCH unless the meta row names this cluster and shard. */
enum error_code machine_check_identity(struct machine *machine,
                                       const struct machine_options *options, struct error *error);

/* rows.c: one key of a project. */

struct row {
    bool exists;
    uint64_t expires_at_ms; /* 0: never */
    uint64_t hash;
    uint64_t size;    /* bytes of the value */
    uint64_t version; /* index of the entry that wrote it last, value or expiry */
    uint64_t large;   /* id in the table of large values, 0 when the value stands inline */
};

/* Looks the key up. A NULL project has no keys. */
enum error_code row_find(struct machine *machine, const struct project *project, struct slice key,
                         struct row *row, struct error *error);
/* The same, and puts the value, checked against its hash, into the empty buffer `value`. */
enum error_code row_get(struct machine *machine, const struct project *project, struct slice key,
                        struct row *row, struct buffer *value, struct error *error);
/* Writes the key in place of `old`, which row_find() returned, and keeps the counts. */
enum error_code row_put(struct machine *machine, struct project *project, struct slice key,
                        const struct row *old, struct slice value, uint64_t expires_at_ms,
                        uint64_t version, struct error *error);
/* Changes only the expiry of the key, whose row_find() returned `old`. */
enum error_code row_touch(struct machine *machine, struct project *project, struct slice key,
                          const struct row *old, uint64_t expires_at_ms, uint64_t version,
                          struct error *error);
/* Removes the key whose row_find() returned `old`; row_expire() because its time has come. */
enum error_code row_remove(struct machine *machine, struct project *project, struct slice key,
                           const struct row *old, struct error *error);
enum error_code row_expire(struct machine *machine, struct project *project, struct slice key,
                           const struct row *old, struct error *error);

/* read.c */

/* Carries out a read; see below. */
enum error_code read_command(struct machine *machine, const struct command *command,
                             struct result *result, struct error *error);

/* transaction.c */

enum error_code read_transaction(struct machine *machine, const struct project *project,
                                 const struct command *command, struct result *result,
                                 struct error *error);
enum error_code read_versions(struct machine *machine, const struct project *project,
                              const struct command *command, struct result *result,
                              struct error *error);

/* read_keys.c: reads that walk the keys of a project. The result is filled; the return value is an
 * error only when the file could not be read. */

enum error_code read_random_key(struct machine *machine, const struct project *project,
                                const struct command *command, struct result *result,
                                struct error *error);
enum error_code read_keys(struct machine *machine, const struct project *project,
                          const struct command *command, struct result *result,
                          struct error *error);
enum error_code read_scan(struct machine *machine, const struct project *project,
                          const struct command *command, struct result *result,
                          struct error *error);

/* read_projects.c */

enum error_code read_project_list(struct machine *machine, const struct project *project,
                                  const struct command *command, struct result *result,
                                  struct error *error);
enum error_code read_project_info(struct machine *machine, const struct project *project,
                                  const struct command *command, struct result *result,
                                  struct error *error);
enum error_code read_token_list(struct machine *machine, const struct project *project,
                                const struct command *command, struct result *result,
                                struct error *error);
enum error_code read_authenticate(struct machine *machine, const struct project *project,
                                  const struct command *command, struct result *result,
                                  struct error *error);

/* expiry.c */

/* Of two times, where 0 stands for never. */
static inline uint64_t expiry_earlier(uint64_t a_ms, uint64_t b_ms) {
    return a_ms == 0 || (b_ms != 0 && b_ms < a_ms) ? b_ms : a_ms;
}

/* Removes what has expired at `now_ms`, within the bounds of one step, and moves the clock. */
enum error_code expiry_advance(struct machine *machine, uint64_t now_ms, struct error *error);
/* Makes state.next_expiry_ms exact. */
enum error_code expiry_settle(struct machine *machine, struct error *error);
/* Sets next_expiry of every project from the rows. */
enum error_code expiry_load(struct machine *machine, struct error *error);

/* once.c: sessions of exactly-once writes. */

/* Removes sessions that have expired at `now_ms`, within the bounds of one step. *left_ms is the
 * expiry of the first that has expired and stays, 0 when none does. */
enum error_code once_purge(struct machine *machine, uint64_t now_ms, uint64_t *left_ms,
                           struct error *error);

/* once_rows.c: sessions in the database. */

/* Reads all of them into `once`, which may hold others before. */
enum error_code once_load(struct machine *machine, struct once *once, struct error *error);
/* Writes what has changed. */
enum error_code once_save(struct machine *machine, struct error *error);
/* Counts the sessions in the shard's digest, after entries were applied. */
void once_settle(struct machine *machine);
/* Keeps an encoded result under a number that has none. */
enum error_code once_keep(struct machine *machine, struct once_session *session, uint64_t sequence,
                          struct slice encoded, struct error *error);
/* Appends the encoded result to the empty buffer, checked against its hash. */
enum error_code once_recall(struct machine *machine, const struct once_session *session,
                            uint64_t sequence, const struct once_result *kept,
                            struct buffer *encoded, struct error *error);
/* Raises session->low and removes what is kept below it. */
enum error_code once_forget(struct machine *machine, struct once_session *session, uint64_t low,
                            struct error *error);
/* Removes the session and all that it keeps. */
enum error_code once_remove(struct machine *machine, struct once_session *session,
                            struct error *error);
/* Counts everything again from the rows; *large is how many results stand in `large`. */
enum error_code once_recount(struct machine *machine, uint64_t *large, struct error *error);

#endif
