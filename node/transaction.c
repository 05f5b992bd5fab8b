#include "node/transaction.h"

#include "base/assert.h"
#include "base/limits.h"
#include "base/mem.h"

enum { PART_RESULT = 0, PART_REPLY = 1 };

void transaction_open(struct transaction *transaction) {
    ASSERT(!transaction->is_open);
    transaction->is_open = true;
}

static void drop_queue(struct transaction *transaction) {
    buffer_free(&transaction->commands);
    buffer_free(&transaction->plan.parts);
    transaction->plan = (struct transaction_plan){0};
    transaction->words = 0;
    transaction->writes = false;
    transaction->read_only = false;
}

void transaction_unwatch(struct transaction *transaction) {
    buffer_free(&transaction->watched);
    buffer_free(&transaction->versions);
    buffer_free(&transaction->project);
    transaction->n_watched = 0;
    transaction->watch_failed = false;
}

void transaction_end(struct transaction *transaction) {
    drop_queue(transaction);
    transaction_unwatch(transaction);
    transaction->is_open = false;
    transaction->is_broken = false;
}

void transaction_break(struct transaction *transaction) {
    drop_queue(transaction);
    transaction->is_broken = true;
}

size_t transaction_memory(const struct transaction *transaction) {
    return transaction->commands.capacity + transaction->plan.parts.capacity +
           transaction->watched.capacity + transaction->versions.capacity;
}

size_t transaction_size(const struct transaction *transaction) {
    /* A version is an argument with its size. */
    size_t versions = (size_t)transaction->n_watched * (sizeof(uint32_t) + sizeof(uint64_t));
    return TRANSACTION_OVERHEAD + transaction->commands.size + transaction->plan.parts.size +
           transaction->watched.size + versions;
}

static enum error_code add_words(struct transaction *transaction, uint64_t words,
                                 struct error *error) {
    words += transaction->words + 2 * (uint64_t)transaction->n_watched;
    if (words > LIMIT_RESP_ARGS) {
        return error_set(error, ERROR_TOOBIG,
                         "transaction of %llu commands, arguments and watched keys exceeds the "
                         "limit of %d",
                         (unsigned long long)words, LIMIT_RESP_ARGS);
    }
    transaction->words = (uint32_t)(words - 2 * (uint64_t)transaction->n_watched);
    return ERROR_NONE;
}

/* Some reads can only be carried out where nothing is written, see node/machine/command.h. */
static enum error_code check_company(const struct transaction *transaction, enum command_kind kind,
                                     struct error *error) {
    bool needs_reads = !command_may_nest(COMMAND_TRANSACTION, kind);
    if (needs_reads && !command_may_nest(COMMAND_READ_TRANSACTION, kind)) {
        return error_set(error, ERROR_GENERIC, "Command not allowed inside a transaction");
    }
    if ((needs_reads && transaction->writes) ||
        (command_is_write(kind) && transaction->read_only)) {
        return error_set(error, ERROR_GENERIC,
                         "KEYS, SCAN and GETVER cannot share a transaction with writes");
    }
    return ERROR_NONE;
}

enum error_code transaction_add_command(struct transaction *transaction,
                                        const struct command *command, const struct slice *args,
                                        uint32_t n_args, struct error *error) {
    ASSERT(transaction->is_open && !transaction->is_broken);
    enum error_code code = check_company(transaction, command->kind, error);
    if (code == ERROR_NONE) {
        code = add_words(transaction, command_words(command->kind, n_args), error);
    }
    if (code != ERROR_NONE) {
        return code;
    }
    struct buffer *commands = &transaction->commands;
    size_t size_at = commands->size;
    buffer_put_u32(commands, 0);
    command_encode(commands, command, args, n_args);
    bytes_put_u32(commands->data + size_at, (uint32_t)(commands->size - size_at - 4));
    buffer_put_u8(&transaction->plan.parts, PART_RESULT);
    transaction->plan.count++;
    transaction->plan.results++;
    if (command_is_write(command->kind)) {
        transaction->writes = true;
    } else if (!command_may_nest(COMMAND_TRANSACTION, command->kind)) {
        transaction->read_only = true;
    }
    return ERROR_NONE;
}

enum error_code transaction_add_reply(struct transaction *transaction, struct slice reply,
                                      struct error *error) {
    ASSERT(transaction->is_open && !transaction->is_broken);
    enum error_code code = add_words(transaction, 1, error);
    if (code == ERROR_NONE) {
        buffer_put_u8(&transaction->plan.parts, PART_REPLY);
        buffer_put_bytes(&transaction->plan.parts, reply);
        transaction->plan.count++;
    }
    return code;
}

bool transaction_watches(const struct transaction *transaction, struct slice key) {
    struct reader keys = reader_make(buffer_slice(&transaction->watched));
    for (uint32_t i = 0; i < transaction->n_watched; i++) {
        if (slice_equal(reader_bytes(&keys), key)) {
            return true;
        }
    }
    return false;
}

enum error_code transaction_watch(struct transaction *transaction, struct slice project,
                                  struct slice key, struct error *error) {
    if (transaction->n_watched == 0) {
        transaction->project.size = 0;
        buffer_append_slice(&transaction->project, project);
    }
    if (!slice_equal(buffer_slice(&transaction->project), project)) {
        return error_set(error, ERROR_GENERIC,
                         "keys of another project are watched; UNWATCH them first");
    }
    if (transaction->n_watched == TRANSACTION_WATCHED_MAX ||
        transaction->watched.size + key.size > TRANSACTION_WATCHED_BYTES_MAX) {
        return error_set(error, ERROR_TOOBIG,
                         "a connection watches at most %d keys of %d bytes together",
                         TRANSACTION_WATCHED_MAX, TRANSACTION_WATCHED_BYTES_MAX);
    }
    buffer_put_bytes(&transaction->watched, key);
    buffer_put_u64(&transaction->versions, 0);
    transaction->n_watched++;
    return ERROR_NONE;
}

void transaction_set_versions(struct transaction *transaction, uint32_t first,
                              struct slice versions) {
    size_t at = first * sizeof(uint64_t);
    ASSERT(at <= transaction->versions.size && versions.size <= transaction->versions.size - at);
    memcpy(transaction->versions.data + at, versions.data, versions.size);
}

struct slice *transaction_args(const struct transaction *transaction,
                               uint8_t number[sizeof(uint64_t)], uint32_t *n_args) {
    uint32_t n_watches = 2 * transaction->n_watched;
    *n_args = 1 + n_watches + transaction->plan.results;
    struct slice *args = mem_zalloc(*n_args, sizeof(args[0]));
    struct reader keys = reader_make(buffer_slice(&transaction->watched));
    struct reader versions = reader_make(buffer_slice(&transaction->versions));
    struct reader commands = reader_make(buffer_slice(&transaction->commands));
    bytes_put_u64(number, transaction->n_watched);
    args[0] = slice_make(number, sizeof(uint64_t));
    for (uint32_t i = 0; i < transaction->n_watched; i++) {
        args[1 + 2 * i] = reader_bytes(&keys);
        args[2 + 2 * i] = reader_take(&versions, sizeof(uint64_t));
    }
    for (uint32_t i = 0; i < transaction->plan.results; i++) {
        args[1 + n_watches + i] = reader_bytes(&commands);
    }
    ASSERT(reader_done(&keys) && reader_done(&versions) && reader_done(&commands));
    return args;
}

bool transaction_plan_next(struct reader *parts, struct slice *reply) {
    if (reader_u8(parts) == PART_RESULT) {
        return false;
    }
    *reply = reader_bytes(parts);
    return true;
}
