/* What a connection writes, and the ring of the answers that it is owed. */
#ifndef CLIENT_PIPELINE_H
#define CLIENT_PIPELINE_H

#include "client/src/connection.h"

/* The entry of that number, which is in the ring. */
struct entry *pipeline_entry(struct connection *connection, uint64_t number);
/* Credentials, and a PING that ends the greeting; false without memory. */
bool pipeline_put_greeting(struct connection *connection);

#endif
