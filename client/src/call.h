/* What the functions of the API share: checking, submitting, waiting. */
#ifndef CLIENT_CALL_H
#define CLIENT_CALL_H

#include "client/src/client.h"

/* How a caller wants its answer. */
struct call {
    uint32_t timeout_ms;
    ikv_callback callback; /* NULL: the caller waits */
    void *data;
    ikv_reply *reply; /* of one that waits: set by call_command() and the like, or NULL */
};

/* A command on a project's keys. */
struct command {
    bool is_write;
    size_t argc;
    const ikv_bytes *argv;
};

/* Checks and encodes a command and carries it out as the call wants it. Returns the error, of the
 * request when the caller waited. */
int call_command(ikv_project *project, const struct command *command, struct call *call);
/* The same for a request that is made already, which this consumes. NULL: IKV_ERR_NOMEM. */
int call_request(ikv_client *client, struct request *request, struct call *call);
/* IKV_OK, IKV_ERR_INVALID or IKV_ERR_TOO_BIG. */
int call_check_arguments(size_t argc, const ikv_bytes *argv);
int call_check_key(ikv_bytes key);
/* A reply of its own, for an error that comes before any request; NULL without memory. */
ikv_reply *reply_new_error(int error, const char *text);

#endif
