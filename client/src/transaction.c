/* Transactions: commands gathered here, sent between MULTI and EXEC. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "client/src/call.h"
#include "client/src/verbs.h"

enum { COMMANDS_MAX = 10000, WATCHED_MAX = 1000 };

struct ikv_transaction {
    struct ikv_project *project; /* one reference */
    struct text commands;        /* encoded */
    uint32_t n_commands;
    struct text watched; /* arguments of WATCHVER, encoded */
    uint32_t n_watched;
    bool writes;
};

ikv_transaction *ikv_transaction_new(ikv_project *project) {
    if (project == NULL || client_is_forked(project->client)) {
        return NULL;
    }
    ikv_transaction *transaction = calloc(1, sizeof *transaction);
    if (transaction != NULL) {
        project_ref(project);
        transaction->project = project;
    }
    return transaction;
}

void ikv_transaction_free(ikv_transaction *transaction) {
    if (transaction == NULL || client_is_forked(transaction->project->client)) {
        return;
    }
    project_unref(transaction->project);
    text_free(&transaction->commands);
    text_free(&transaction->watched);
    free(transaction);
}

int ikv_transaction_add(ikv_transaction *transaction, size_t argc, const ikv_bytes *argv) {
    int error = call_check_arguments(argc, argv);
    if (error != IKV_OK) {
        return error;
    }
    enum verb_kind kind = verb_kind_of(argc, argv);
    if (kind != VERB_READ && kind != VERB_WRITE) {
        return IKV_ERR_INVALID;
    }
    struct text *commands = &transaction->commands;
    size_t before = commands->size;
    if (transaction->n_commands == COMMANDS_MAX) {
        return IKV_ERR_TOO_BIG;
    }
    if (!request_append_command(commands, argc, argv)) {
        commands->size = before;
        return IKV_ERR_NOMEM;
    }
    if (commands->size > CLIENT_REQUEST_SIZE) {
        commands->size = before;
        return IKV_ERR_TOO_BIG;
    }
    transaction->n_commands++;
    transaction->writes |= kind == VERB_WRITE;
    return IKV_OK;
}

int ikv_transaction_watch(ikv_transaction *transaction, ikv_bytes key, uint64_t version) {
    char number[24];
    int error = version > INT64_MAX ? IKV_ERR_INVALID : call_check_key(key);
    if (error != IKV_OK) {
        return error;
    }
    struct text *watched = &transaction->watched;
    size_t before = watched->size;
    if (transaction->n_watched == WATCHED_MAX) {
        return IKV_ERR_TOO_BIG;
    }
    int size = snprintf(number, sizeof number, "%" PRIu64, version);
    if (!text_append_bulk(watched, key.data, key.size) ||
        !text_append_bulk(watched, number, (size_t)size)) {
        watched->size = before;
        return IKV_ERR_NOMEM;
    }
    transaction->n_watched++;
    return IKV_OK;
}

/* Inside of MULTI, so that a server which refuses to watch discards the whole. */
static bool append_watched(struct text *out, const ikv_transaction *transaction) {
    static const char verb[] = "WATCHVER";
    return text_append_header(out, '*', 1 + 2 * (uint64_t)transaction->n_watched) &&
           text_append_bulk(out, verb, sizeof verb - 1) &&
           text_append(out, transaction->watched.data, transaction->watched.size);
}

static struct request *make_request(const ikv_transaction *transaction) {
    struct text body = {0};
    uint32_t commands = transaction->n_commands;
    bool done = true;
    if (transaction->n_watched > 0) {
        done = append_watched(&body, transaction);
        commands++;
    }
    done = done && text_append(&body, transaction->commands.data, transaction->commands.size);
    struct request *request =
        done ? request_new_transaction(transaction->project, commands, body.data, body.size) : NULL;
    text_free(&body);
    if (request != NULL) {
        request->is_write = true; /* also one that only reads: it must not stand before writes */
        request->wants_once = transaction->writes;
        request->retry_safe = !transaction->writes;
    }
    return request;
}

static int run(ikv_transaction *transaction, struct call *call) {
    if (transaction == NULL || transaction->n_commands == 0) {
        call->reply = call->callback == NULL
                          ? reply_new_error(IKV_ERR_INVALID, "a transaction without commands")
                          : NULL;
        return IKV_ERR_INVALID;
    }
    ikv_client *client = transaction->project->client;
    return client_is_forked(client) ? IKV_ERR_FORKED
                                    : call_request(client, make_request(transaction), call);
}

int ikv_transaction_run(ikv_transaction *transaction, uint32_t timeout_ms, ikv_reply **reply) {
    struct call call = {.timeout_ms = timeout_ms};
    int error = run(transaction, &call);
    if (reply != NULL) {
        *reply = call.reply;
    } else {
        ikv_reply_free(call.reply);
    }
    return error;
}

int ikv_transaction_run_async(ikv_transaction *transaction, uint32_t timeout_ms,
                              ikv_callback callback, void *data) {
    struct call call = {.timeout_ms = timeout_ms, .callback = callback, .data = data};
    return callback == NULL ? IKV_ERR_INVALID : run(transaction, &call);
}
