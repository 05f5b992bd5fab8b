/* What a node's INFO tells, and what follows for the cluster. Pure. */
#ifndef CLIENT_CLI_NODE_INFO_H
#define CLIENT_CLI_NODE_INFO_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"

enum { INFO_SHARDS = 64, INFO_NODES = 64, INFO_TEXT = 64 };

/* Entries that a healthy replica may be behind: less than a second of writes at full speed. */
enum { INFO_LAG_MAX = 10000 };

struct shard_info {
    bool is_known;
    char role[INFO_TEXT];
    uint64_t leader, term, commit, applied, keys, bytes, voters;
    uint64_t clock_ms; /* the shard's clock; 0: not told */
};

struct node_info {
    uint64_t id;
    char address[256];
    bool is_up;
    char reason[256]; /* why it is not */
    char version[INFO_TEXT];
    uint64_t uptime_s;
    uint64_t disk_free;
    bool disk_is_full;
    uint64_t digest_mismatches;
    struct shard_info shards[INFO_SHARDS];
};

/* Fills everything but id, address and reason from INFO's text. What it does not know is ignored.
 */
void node_info_parse(struct node_info *node, struct slice text);

enum health { HEALTH_GOOD, HEALTH_DEGRADED, HEALTH_DOWN };

struct cluster_info {
    char name[256];
    unsigned n_nodes;
    unsigned n_shards;
    struct node_info *nodes; /* owned by the caller */
};

/* The node that says that it leads the shard, in the newest term; NULL when there is none. */
const struct node_info *cluster_leader(const struct cluster_info *cluster, unsigned shard);
/* Entries that the leader has committed and the node has not applied; false when not known. */
bool cluster_lag(const struct cluster_info *cluster, const struct node_info *node, unsigned shard,
                 uint64_t *lag);
/* Calls `tell` for each thing that is wrong. */
enum health cluster_health(const struct cluster_info *cluster,
                           void (*tell)(void *data, const char *problem), void *data);

#endif
