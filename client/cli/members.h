/* Who is a member of the cluster and how far each is, as the nodes themselves tell. */
#ifndef CLIENT_CLI_MEMBERS_H
#define CLIENT_CLI_MEMBERS_H

#include "client/cli/cli.h"

enum { MEMBERS_NODES = 16, MEMBERS_ADDRESS = 300 };

/* Entries that a member may be behind the leader and count as caught up. */
enum { MEMBERS_LAG_MAX = 1000 };

struct members_node {
    uint64_t id;
    char address[MEMBERS_ADDRESS]; /* where its clients connect */
    ikv_reply *reply;              /* NULL: it does not answer, `reason` tells why */
    const ikv_value *map;          /* of the reply, NULL with it */
    char reason[200];
};

struct members {
    unsigned n_nodes;
    unsigned n_shards;
    struct members_node nodes[MEMBERS_NODES];
};

/* What a shard's configuration says about a node. */
enum membership { MEMBERSHIP_NONE, MEMBERSHIP_STANDBY, MEMBERSHIP_VOTER };

/* Asks every node. 0, or an exit code with the reason printed; members_free() in any case. */
int members_ask(struct cli *cli, struct members *members);
void members_free(struct members *members);

const struct members_node *members_find(const struct members *members, uint64_t id);
/* The node that leads the shard in its own eyes, in the newest term; NULL: none. */
const struct members_node *members_leader(const struct members *members, unsigned shard);
/* As the shard's leader sees it; false when it has none, or its configuration is changing. */
bool members_state(const struct members *members, unsigned shard, uint64_t id,
                   enum membership *state);
/* Calls `tell` for everything that keeps the cluster from being healthy: every member answers,
 * every shard has a leader and the same members, all of them are voters that have caught up, and no
 * replicas differ. Returns how many there are; *served: every shard has a leader. */
unsigned members_problems(const struct members *members, bool *served,
                          void (*tell)(void *data, const char *problem), void *data);

#endif
