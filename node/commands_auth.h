/* Showing a token or a credential, for AUTH and HELLO. */
#ifndef NODE_COMMANDS_AUTH_H
#define NODE_COMMANDS_AUTH_H

#include "node/resp_commands.h"

/* What becomes of HELLO's other options once its AUTH succeeded. A name is at most
 * SESSION_CLIENT_NAME bytes. */
struct hello_rest {
    int version;
    bool has_name;
    size_t name_size;
    uint8_t name[128];
};

/* Checks name and token, and answers OK, or greets when `hello` is given, or refuses. Where
 * authentication is required, no further command of the connection is taken until that is known.
 * The bytes of `secret`, of the command itself, are zeroed. */
void call_authenticate(struct call *call, struct slice user, struct slice secret,
                       const struct hello_rest *hello);

/* commands_connection.c: takes over the options and writes the greeting. */
void hello_greet(struct session *session, const struct hello_rest *hello, struct buffer *out);

#endif
