/* Looks hosts up without stopping the client's thread: an address is read at once, a name by a
 * thread of its own, which ends with the answer and outlives the client if it must. */
#ifndef CLIENT_RESOLVE_H
#define CLIENT_RESOLVE_H

#include "client/src/client.h"

enum resolve_status {
    RESOLVE_DONE,    /* node->addresses are set */
    RESOLVE_STARTED, /* connection_resolved() is called for the node's waiting connections */
    RESOLVE_FAILED
};

enum resolve_status resolve_node(struct node *node);
/* The node goes away: a lookup under way is of no use any more. */
void resolve_abandon(struct node *node);
/* Takes the answers that have come. */
void resolve_take_answers(ikv_client *client);
/* Frees answers that nobody took; once the client's thread has ended. */
void resolve_free_all(ikv_client *client);

#endif
