/* What nodes tell each other, seen where it is handed to the links: promises that must survive a
 * crash. And logs that begin anew, which rely on a database. */
#ifndef SIM_MESSAGES_H
#define SIM_MESSAGES_H

#include "raft/group.h"
#include "raft/peers.h"

/* The linker calls this instead of peers_send(). */
bool __wrap_peers_send(struct peers *peers, uint64_t to, enum peer_lane lane,
                       const struct peer_message *message);

#endif
