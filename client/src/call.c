#include "client/src/call.h"

#include <stdlib.h>

int ikv_reply_error(const ikv_reply *reply) {
    return reply->error;
}

const char *ikv_reply_message(const ikv_reply *reply) {
    return reply->message != NULL ? reply->message : "";
}

const ikv_value *ikv_reply_value(const ikv_reply *reply) {
    return &reply->value;
}

void ikv_reply_take(ikv_reply *reply) {
    if (reply->taken != NULL) {
        *reply->taken = true;
        reply->taken = NULL;
    }
}

void ikv_reply_free(ikv_reply *reply) {
    if (reply == NULL) {
        return;
    }
    if (reply->is_plain) {
        reply_clear(reply);
        free(reply);
    } else {
        request_free((struct request *)reply);
    }
}

ikv_reply *reply_new_error(int error, const char *text) {
    ikv_reply *reply = calloc(1, sizeof *reply);
    if (reply != NULL) {
        reply->is_plain = true;
        reply_set_error(reply, error, text);
    }
    return reply;
}

/* --- waiting
 * --------------------------------------------------------------------------------------------- */

struct waiter {
    pthread_mutex_t mutex;
    pthread_cond_t arrived;
    ikv_reply *reply;
};

static void arrive(void *data, ikv_reply *reply) {
    struct waiter *waiter = data;
    ikv_reply_take(reply);
    pthread_mutex_lock(&waiter->mutex);
    waiter->reply = reply;
    pthread_cond_signal(&waiter->arrived);
    pthread_mutex_unlock(&waiter->mutex); /* the waiter, and its memory, may be gone now */
}

static int wait_for(ikv_client *client, struct request *request, struct call *call) {
    struct waiter waiter = {.reply = NULL};
    if (client_is_own_thread(client)) {
        return IKV_ERR_DEADLOCK;
    }
    pthread_mutex_init(&waiter.mutex, NULL);
    pthread_cond_init(&waiter.arrived, NULL);
    int error = request_submit(client, request, call->timeout_ms, arrive, &waiter);
    if (error == IKV_OK) {
        pthread_mutex_lock(&waiter.mutex);
        while (waiter.reply == NULL) {
            pthread_cond_wait(&waiter.arrived, &waiter.mutex);
        }
        pthread_mutex_unlock(&waiter.mutex);
        call->reply = waiter.reply;
        error = waiter.reply->error;
    }
    pthread_cond_destroy(&waiter.arrived);
    pthread_mutex_destroy(&waiter.mutex);
    return error;
}

/* An error that no request carries; a caller that waits wants a reply all the same. */
static int refuse(struct call *call, int error) {
    bool has_reply = error != IKV_ERR_NOMEM && error != IKV_ERR_FORKED && error != IKV_ERR_DEADLOCK;
    if (call->callback == NULL && has_reply) {
        call->reply = reply_new_error(error, ikv_strerror(error));
    }
    return error;
}

int call_request(ikv_client *client, struct request *request, struct call *call) {
    call->reply = NULL;
    if (request == NULL) {
        return IKV_ERR_NOMEM;
    }
    int error = IKV_OK;
    if (client_is_forked(client)) {
        error = IKV_ERR_FORKED;
    } else if (call->callback != NULL) {
        error = request_submit(client, request, call->timeout_ms, call->callback, call->data);
    } else {
        error = wait_for(client, request, call);
    }
    if (error == IKV_OK || call->reply != NULL) {
        return error;
    }
    if (error != IKV_ERR_FORKED) { /* there, locks may be held for ever */
        request_free(request);
    }
    return refuse(call, error);
}

/* --- checking
 * -------------------------------------------------------------------------------------------- */

int call_check_arguments(size_t argc, const ikv_bytes *argv) {
    size_t size = 0;
    if (argc < 1 || argv == NULL) {
        return IKV_ERR_INVALID;
    }
    if (argc > CLIENT_ARGUMENTS) {
        return IKV_ERR_TOO_BIG;
    }
    for (size_t i = 0; i < argc; i++) {
        if (argv[i].data == NULL && argv[i].size > 0) {
            return IKV_ERR_INVALID;
        }
        if (argv[i].size > CLIENT_REQUEST_SIZE - size) {
            return IKV_ERR_TOO_BIG;
        }
        size += argv[i].size;
    }
    return argv[0].size > 0 ? IKV_OK : IKV_ERR_INVALID;
}

int call_check_key(ikv_bytes key) {
    if (key.size == 0 || key.data == NULL) {
        return IKV_ERR_INVALID;
    }
    return key.size > CLIENT_KEY_SIZE ? IKV_ERR_TOO_BIG : IKV_OK;
}

int call_command(ikv_project *project, const struct command *command, struct call *call) {
    call->reply = NULL;
    if (project == NULL) {
        return refuse(call, IKV_ERR_INVALID);
    }
    if (client_is_forked(project->client)) {
        return IKV_ERR_FORKED;
    }
    int error = call_check_arguments(command->argc, command->argv);
    if (error != IKV_OK) {
        return refuse(call, error);
    }
    struct request *request = request_new(project, command->argc, command->argv);
    if (request != NULL) {
        request->is_write = command->is_write;
        request->wants_once = command->is_write;
        request->retry_safe = !command->is_write;
    }
    return call_request(project->client, request, call);
}
