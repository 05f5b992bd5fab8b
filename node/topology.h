/* The cluster as Redis Cluster's clients want to see it. Pure: writes what a snapshot says.
 *
 * A connection sees the cluster of its project's shard: all 16384 slots belong to one node, the
 * shard's leader, and the other nodes are its replicas. When this node knows of no leader it can
 * reach, it puts itself in the leader's place, since it takes commands for whoever leads next; that
 * nobody leads shows as cluster_state:fail. Formats: redis.io/docs/latest/commands/cluster-slots,
 * cluster-shards, cluster-nodes, cluster-info, as of Redis 7. */
#ifndef NODE_TOPOLOGY_H
#define NODE_TOPOLOGY_H

#include "base/bytes.h"
#include "node/server_info.h"

enum { TOPOLOGY_NODE_ID_SIZE = 40 }; /* hexadecimal digits */

/* Slot of a key as Redis Cluster has it: when there is something between the first '{' and the next
 * '}', only that is hashed. Clients route by it; all slots of a project lead to the same node. */
unsigned topology_key_slot(struct slice key);

/* The shard's leader when it is known and this node has a link to it, else 0. */
uint32_t topology_leader(const struct server_info *info, unsigned shard);

/* A node's number in eight digits, then a hash of the cluster's name: the same wherever and
 * whenever it is asked for. Writes a NUL as well. */
void topology_node_id(const char *cluster, uint32_t node, char text[TOPOLOGY_NODE_ID_SIZE + 1]);

/* Each appends to `out`; `version` is that of RESP. A node that cannot be reached from here is left
 * out of SLOTS, as in Redis, and marked in the others. */
void topology_write_slots(struct buffer *out, const struct server_info *info, unsigned shard,
                          int version);
void topology_write_shards(struct buffer *out, const struct server_info *info, unsigned shard,
                           int version);
/* CLUSTER TOPOLOGY: a map with the whole cluster, for clients that know what a shard is. */
void topology_write_map(struct buffer *out, const struct server_info *info, int version);
/* Text, not a RESP value. */
void topology_write_nodes(struct buffer *out, const struct server_info *info, unsigned shard);
void topology_write_info(struct buffer *out, const struct server_info *info, unsigned shard);

#endif
