/* MULTI and EXEC: commands of one project as one step; docs/commands.md tells what it promises. */
#include <stdio.h>

#include "base/assert.h"
#include "base/mem.h"
#include "base/number.h"
#include "base/resp.h"
#include "node/resp_commands.h"
#include "node/session_limits.h"
#include "node/session_state.h"

static_assert(LIMIT_VALUE_SIZE_MAX + SESSION_REQUEST_SLACK + 2 * TRANSACTION_OVERHEAD <=
                  LIMIT_ENTRY_SIZE,
              "the largest transaction is an entry");

/* ---- queueing ---- */

/* Whether the transaction may grow by `size` bytes. */
static enum error_code check_room(const struct session *session, size_t size, struct error *error) {
    const struct session_host *host = session->host;
    const struct transaction *transaction = &session->transaction;
    uint64_t most = host->limits.max_value + SESSION_REQUEST_SLACK;
    uint64_t wanted = transaction_size(transaction) + size;
    if (wanted > most) {
        return error_set(error, ERROR_TOOBIG,
                         "transaction of %llu bytes exceeds the limit of %llu bytes",
                         (unsigned long long)wanted, (unsigned long long)most);
    }
    uint64_t held = host->input_bytes - session->input_memory + transaction_memory(transaction) +
                    resp_parser_memory(session->parser) + size;
    if (wanted > SESSION_INPUT_SLACK && held > host->limits.max_input) {
        return error_set(error, ERROR_BUSY,
                         "this node holds %llu bytes of half-received commands and transactions, "
                         "more than the limit of %llu bytes; try again later",
                         (unsigned long long)held, (unsigned long long)host->limits.max_input);
    }
    return ERROR_NONE;
}

void call_queue(struct call *call, const struct command *command, const struct slice *args,
                unsigned n_args) {
    struct session *session = call->session;
    struct queueing *queueing = call->queueing;
    ASSERT(!queueing->answered);
    queueing->answered = true;
    queueing->is_command = true;
    size_t size = CALL_HEADER_SIZE + command->project.size;
    for (unsigned i = 0; i < n_args; i++) {
        size += sizeof(uint32_t) + args[i].size;
    }
    queueing->code = check_room(session, size, &queueing->error);
    if (queueing->code == ERROR_NONE) {
        queueing->code =
            transaction_add_command(&session->transaction, command, args, n_args, &queueing->error);
    }
}

/* The command was answered here and now: by a command that submits nothing, or because of a mistake
 * in its arguments. */
static void queue_reply(struct session *session, struct queueing *queueing) {
    struct slice reply = buffer_slice(&queueing->reply);
    queueing->code = check_room(session, 1 + sizeof(uint32_t) + reply.size, &queueing->error);
    if (queueing->code == ERROR_NONE) {
        queueing->code = transaction_add_reply(&session->transaction, reply, &queueing->error);
    }
}

/* The command's handler runs now; what it would submit or answer goes into the queue. */
static void queue(struct call *call, const struct verb *leaf) {
    struct session *session = call->session;
    struct queueing queueing = {0};
    call->queueing = &queueing;
    leaf->handler(call);
    call->queueing = NULL;
    ASSERT(queueing.answered);
    if (!queueing.is_command) {
        queue_reply(session, &queueing);
    }
    buffer_free(&queueing.reply);
    if (queueing.code != ERROR_NONE) {
        transaction_break(&session->transaction);
        call_error(call, error_prefix(queueing.code), "%s", queueing.error.message);
        return;
    }
    resp_write_simple(call_reply(call), "QUEUED");
}

/* Commands that read or write keys, and those that say so. */
static bool may_be_queued(const struct verb *verb) {
    return verb->first_key > 0 || (verb->flags & VERB_QUEUED) != 0;
}

/* The place to tell a client that it talks to the wrong node is the first command that it queues,
 * as in Redis; EXEC itself is forwarded, should the leader have changed meanwhile. */
static bool redirect(struct call *call, const struct verb *verb) {
    bool needs_leader =
        (verb->flags & VERB_WRITE) != 0 || call->session->level == READ_LINEARIZABLE;
    return verb->first_key > 0 && call_redirect(call, needs_leader);
}

static bool is_exec(const struct verb *verb) {
    return verb != NULL && verb->handler == verb_exec;
}

static void discard_because(struct call *call, const char *reason) {
    transaction_end(&call->session->transaction);
    call_error(call, "EXECABORT", "Transaction discarded because of%s", reason);
}

void transaction_run(struct call *call, const struct verb *verb) {
    struct transaction *transaction = &call->session->transaction;
    if (is_exec(verb) && !verb_accepts(verb, call->argc)) {
        discard_because(call, ": wrong number of arguments for 'exec' command");
        return;
    }
    const struct verb *leaf = verb_resolve(call, verb);
    if (leaf == NULL) {
        transaction_break(transaction);
    } else if ((verb->flags & VERB_CONTROL) != 0) {
        leaf->handler(call);
    } else if (!may_be_queued(verb)) {
        transaction_break(transaction);
        call_error(call, "ERR", "Command not allowed inside a transaction");
    } else if (transaction->is_broken) {
        /* As Redis: nobody will see its result. */
        resp_write_simple(call_reply(call), "QUEUED");
    } else if (redirect(call, leaf) || !session_limits_admit(call, leaf)) {
        transaction_break(transaction);
    } else {
        queue(call, leaf);
    }
}

unsigned transaction_flags(const struct transaction *transaction, const struct verb *verb) {
    /* What ends a transaction, or a watch, needs to know the versions that are watched. And a read
     * that ran beside a WATCH could be answered from an earlier moment, so that EXEC would take
     * what the client makes of it for fresh. */
    unsigned settled = transaction->watching > 0 ? VERB_SETTLED : 0;
    if (!transaction->is_open) {
        bool waits = (verb->flags & VERB_READONLY) != 0 || verb->handler == verb_unwatch;
        return waits ? verb->flags | settled : verb->flags;
    }
    if ((verb->flags & VERB_CONTROL) == 0) {
        return 0; /* queued, or refused */
    }
    if (!is_exec(verb)) {
        return verb->flags | settled;
    }
    bool submits = transaction->plan.results > 0 || transaction->n_watched > 0;
    return settled | (transaction->writes ? VERB_WRITE : submits ? VERB_READONLY : 0);
}

/* ---- the commands ---- */

void verb_multi(struct call *call) {
    if (call->session->transaction.is_open) {
        call_error(call, "ERR", "MULTI calls can not be nested");
        return;
    }
    transaction_open(&call->session->transaction);
    call_ok(call);
}

void verb_discard(struct call *call) {
    if (!call->session->transaction.is_open) {
        call_error(call, "ERR", "DISCARD without MULTI");
        return;
    }
    ASSERT(call->session->transaction.watching == 0);
    transaction_end(&call->session->transaction);
    call_ok(call);
}

/* The answer of a transaction that has nothing to submit. */
static void reply_at_once(struct call *call) {
    const struct transaction_plan *plan = &call->session->transaction.plan;
    struct buffer *out = call_reply(call);
    struct reader parts = reader_make(buffer_slice(&plan->parts));
    resp_write_array(out, plan->count);
    for (uint32_t i = 0; i < plan->count; i++) {
        struct slice reply;
        bool known = transaction_plan_next(&parts, &reply);
        ASSERT(known);
        buffer_append_slice(out, reply);
    }
}

static void submit_transaction(struct call *call) {
    struct session *session = call->session;
    struct transaction *transaction = &session->transaction;
    struct command command = {.kind = transaction->writes ? COMMAND_TRANSACTION
                                                          : COMMAND_READ_TRANSACTION};
    uint8_t number[sizeof(uint64_t)];
    struct submission submission = {
        .command = &command,
        /* Another replica's versions say little about those that were watched. */
        .level = transaction->n_watched > 0 ? READ_LINEARIZABLE : session->level,
        .is_exec = true,
        .plan = transaction->plan,
    };
    struct slice *args = transaction_args(transaction, number, &submission.n_args);
    submission.args = args;
    transaction->plan = (struct transaction_plan){0};
    call_submit_as(call, &submission);
    mem_free(args);
}

void verb_exec(struct call *call) {
    struct session *session = call->session;
    struct transaction *transaction = &session->transaction;
    if (!transaction->is_open) {
        call_error(call, "ERR", "EXEC without MULTI");
        return;
    }
    ASSERT(transaction->watching == 0);
    if (transaction->is_broken || transaction->watch_failed) {
        discard_because(call, " previous errors.");
        return;
    }
    if (call->once != NULL && !transaction->writes) {
        discard_because(call, ": ONCE is for transactions that write.");
        return;
    }
    if (transaction->n_watched > 0 &&
        !slice_equal(buffer_slice(&transaction->project), session_project(session))) {
        discard_because(call, ": the watched keys are of another project.");
        return;
    }
    if (transaction->plan.results == 0 && transaction->n_watched == 0) {
        reply_at_once(call);
    } else {
        submit_transaction(call);
    }
    transaction_end(transaction);
}

/* The versions of keys from number `first` on have come, or could not be learned. The client sees
 * OK or the error. */
static void on_versions(struct session *session, uint32_t first, struct result *result) {
    struct transaction *transaction = &session->transaction;
    ASSERT(transaction->watching > 0);
    transaction->watching--;
    if (result->kind != RESULT_INTEGERS ||
        result->data.size != transaction->versions.size - first * sizeof(uint64_t)) {
        transaction->watch_failed = true;
        if (result->kind != RESULT_ERROR) {
            result_set_error(result, ERROR_INVALID, "the leader answered no versions");
        }
        return;
    }
    transaction_set_versions(transaction, first, buffer_slice(&result->data));
    result_free(result);
}

void verb_watch(struct call *call) {
    struct session *session = call->session;
    struct transaction *transaction = &session->transaction;
    if (transaction->is_open) {
        call_error(call, "ERR", "WATCH inside MULTI is not allowed");
        return;
    }
    if (!call_check_keys(call, 1, call->argc) || call_redirect(call, true)) {
        transaction->watch_failed = true;
        return;
    }
    uint32_t first = transaction->n_watched;
    struct slice *keys = mem_zalloc(call->argc, sizeof(keys[0]));
    uint32_t n_keys = 0;
    struct error error;
    enum error_code code = ERROR_NONE;
    for (unsigned i = 1; i < call->argc && code == ERROR_NONE; i++) {
        /* A key that is watched already keeps the version of then. */
        if (!transaction_watches(transaction, call->argv[i])) {
            code = transaction_watch(transaction, session_project(session), call->argv[i], &error);
            keys[n_keys++] = call->argv[i];
        }
    }
    if (code != ERROR_NONE) {
        /* Whoever does not read this error must not believe that the keys are watched. */
        transaction->watch_failed = true;
        call_error(call, error_prefix(code), "%s", error.message);
    } else if (n_keys == 0) {
        call_ok(call);
    } else {
        struct command command = {.kind = COMMAND_VERSIONS};
        struct submission submission = {.command = &command,
                                        .args = keys,
                                        .n_args = n_keys,
                                        .level = READ_LINEARIZABLE,
                                        .settle = on_versions,
                                        .settle_number = first};
        transaction->watching++;
        call_submit_as(call, &submission);
    }
    mem_free(keys);
}

/* Watches the keys of WATCHVER; false when one cannot be watched, which has been answered. */
static bool watch_versions(struct call *call) {
    struct transaction *transaction = &call->session->transaction;
    struct error error;
    for (unsigned i = 1; i < call->argc; i += 2) {
        int64_t version;
        if (!call_check_keys(call, i, i + 1)) {
            return false;
        }
        if (!number_parse_integer(call->argv[i + 1], &version) || version < 0) {
            call_error(call, "ERR", "a version is a number of 0 or more, as GETVER tells it");
            return false;
        }
        if (transaction_watches(transaction, call->argv[i])) {
            call_error(call, "ERR", "this key is watched already; UNWATCH it first");
            return false;
        }
        uint32_t number = transaction->n_watched;
        enum error_code code =
            transaction_watch(transaction, session_project(call->session), call->argv[i], &error);
        if (code != ERROR_NONE) {
            call_error(call, error_prefix(code), "%s", error.message);
            return false;
        }
        uint8_t bytes[sizeof(uint64_t)];
        bytes_put_u64(bytes, (uint64_t)version);
        transaction_set_versions(transaction, number, slice_make(bytes, sizeof bytes));
    }
    return true;
}

/* Between MULTI and EXEC as well: a client that knows the versions sends all in one go, and
 * whatever is wrong with this command, or a server that does not have it, makes EXEC abort. */
void verb_watchver(struct call *call) {
    if (call->argc % 2 == 0) {
        call->session->transaction.watch_failed = true;
        call_error(call, "ERR", "wrong number of arguments for 'watchver' command");
    } else if (watch_versions(call)) {
        call_ok(call);
    } else {
        call->session->transaction.watch_failed = true;
    }
}

void verb_unwatch(struct call *call) {
    /* Queued it has no effect: EXEC unwatches anyway. */
    if (call->queueing == NULL) {
        ASSERT(call->session->transaction.watching == 0);
        transaction_unwatch(&call->session->transaction);
    }
    call_ok(call);
}
