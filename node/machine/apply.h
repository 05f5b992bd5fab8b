/* What applying a command needs, and what the commands share. For apply*.c only.
 *
 * A command that is refused fills an error result and changes nothing; the functions return an
 * error only when the file cannot be read or written. */
#ifndef NODE_MACHINE_APPLY_H
#define NODE_MACHINE_APPLY_H

#include "node/machine/machine_internal.h"

struct batch_context {
    struct machine *machine;
    uint64_t index;  /* of the entry; version of the rows that it writes */
    uint64_t now_ms; /* what expiries count from and are compared with */
    uint64_t default_quota;
};

/* One key as a command found it. */
struct target {
    struct project *project; /* NULL when it does not exist yet */
    struct slice key;
    struct row row;
};

typedef enum error_code (*apply_handler)(const struct batch_context *batch,
                                         const struct command *command, struct result *result,
                                         struct error *error);

/* Next argument that is a number. */
uint64_t apply_next_number(struct reader *args);

enum error_code apply_find(const struct batch_context *batch, const struct command *command,
                           struct slice key, struct target *target, struct error *error);
/* The same, and puts the value into the empty buffer `value`. */
enum error_code apply_get(const struct batch_context *batch, const struct command *command,
                          struct slice key, struct target *target, struct buffer *value,
                          struct error *error);

/* Absolute expiry that the command asks for, 0 for none; `kept_ms` is what KEEPTTL keeps. False
 * when the sum leaves the range of times. */
bool apply_expiry(const struct batch_context *batch, const struct command *command,
                  uint64_t kept_ms, uint64_t *expires_at_ms);
bool apply_is_past(const struct batch_context *batch, const struct command *command,
                   uint64_t expires_at_ms);

/* Whether the project may take `added` bytes for `removed` ones; otherwise fills the result. */
bool apply_fits_quota(const struct batch_context *batch, const struct command *command,
                      uint64_t added, uint64_t removed, struct result *result);
/* Whether a value of this size is within the command's limit; otherwise fills the result. */
bool apply_fits_limit(uint64_t size, uint64_t limit, struct result *result);
/* The command's project, created when it does not exist; NULL with the result filled when no more
 * can be created. */
struct project *apply_project(const struct batch_context *batch, const struct command *command,
                              struct result *result);

/* Writes the key when the quota allows it and the project can be created; otherwise fills the
 * result. */
enum error_code apply_store(const struct batch_context *batch, const struct command *command,
                            const struct target *target, struct slice value, uint64_t expires_at_ms,
                            struct result *result, struct error *error);
/* Makes the rows of the project garbage: they stay where they are, under an epoch that nobody asks
 * for any more. */
enum error_code apply_drop_rows(const struct batch_context *batch, struct project *project,
                                struct error *error);
void apply_set_quota(const struct batch_context *batch, struct project *project, uint64_t quota);
enum error_code apply_remove(const struct batch_context *batch, const struct target *target,
                             struct error *error);

/* apply.c: runs a decoded command, a read too: within a transaction they see what stands before
 * them in the same entry. */
enum error_code apply_command(const struct batch_context *batch, const struct command *command,
                              struct result *result, struct error *error);
/* transaction.c: decodes a nested command, an argument of `outer`, and runs it. */
enum error_code apply_nested(const struct batch_context *batch, const struct command *outer,
                             struct slice bytes, struct result *result, struct error *error);
enum error_code apply_transaction(const struct batch_context *batch, const struct command *command,
                                  struct result *result, struct error *error);
/* apply_strings.c */
enum error_code apply_set(const struct batch_context *batch, const struct command *command,
                          struct result *result, struct error *error);
enum error_code apply_set_many(const struct batch_context *batch, const struct command *command,
                               struct result *result, struct error *error);
enum error_code apply_append(const struct batch_context *batch, const struct command *command,
                             struct result *result, struct error *error);
enum error_code apply_setrange(const struct batch_context *batch, const struct command *command,
                               struct result *result, struct error *error);
enum error_code apply_getdel(const struct batch_context *batch, const struct command *command,
                             struct result *result, struct error *error);
enum error_code apply_delete_matching(const struct batch_context *batch,
                                      const struct command *command, struct result *result,
                                      struct error *error);
/* apply_numbers.c */
enum error_code apply_increment(const struct batch_context *batch, const struct command *command,
                                struct result *result, struct error *error);
enum error_code apply_increment_float(const struct batch_context *batch,
                                      const struct command *command, struct result *result,
                                      struct error *error);
/* apply_keys.c */
enum error_code apply_delete(const struct batch_context *batch, const struct command *command,
                             struct result *result, struct error *error);
enum error_code apply_getex(const struct batch_context *batch, const struct command *command,
                            struct result *result, struct error *error);
enum error_code apply_expire(const struct batch_context *batch, const struct command *command,
                             struct result *result, struct error *error);
enum error_code apply_persist(const struct batch_context *batch, const struct command *command,
                              struct result *result, struct error *error);
enum error_code apply_rename(const struct batch_context *batch, const struct command *command,
                             struct result *result, struct error *error);
enum error_code apply_copy(const struct batch_context *batch, const struct command *command,
                           struct result *result, struct error *error);
/* apply_projects.c */
enum error_code apply_project_create(const struct batch_context *batch,
                                     const struct command *command, struct result *result,
                                     struct error *error);
enum error_code apply_project_delete(const struct batch_context *batch,
                                     const struct command *command, struct result *result,
                                     struct error *error);
enum error_code apply_project_set_quota(const struct batch_context *batch,
                                        const struct command *command, struct result *result,
                                        struct error *error);
enum error_code apply_token_add(const struct batch_context *batch, const struct command *command,
                                struct result *result, struct error *error);
enum error_code apply_token_revoke(const struct batch_context *batch, const struct command *command,
                                   struct result *result, struct error *error);

/* once.c */
enum error_code apply_once_open(const struct batch_context *batch, const struct command *command,
                                struct result *result, struct error *error);
enum error_code apply_once_close(const struct batch_context *batch, const struct command *command,
                                 struct result *result, struct error *error);
enum error_code apply_once(const struct batch_context *batch, const struct command *command,
                           struct result *result, struct error *error);

#endif
