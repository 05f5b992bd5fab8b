/* What nodes tell each other, seen where it is handed to the links and where it comes out of them:
 * promises that must survive a crash, and how late it is when it is read. */
#ifndef SIM_MESSAGES_H
#define SIM_MESSAGES_H

#include "raft/group.h"
#include "raft/peers.h"

/* Longest time from the sending of a message of consensus to its being read, of those that were
 * read within the last seconds: eventual reads may take them for new (docs/consistency.md). */
uint64_t messages_worst_delay(void);

/* The linker calls these instead of peers_send() and group_receive(). */
bool __wrap_peers_send(struct peers *peers, uint64_t to, enum peer_lane lane,
                       const struct peer_message *message);
bool __wrap_group_receive(struct group *group, uint64_t now_ms, uint64_t from,
                          struct peer_message *message);

#endif
