/* What INFO and CLUSTER commands tell about a node: filled by the server on request, rendered by
 * node/commands_server.c. Plain numbers, a snapshot of one moment. */
#ifndef NODE_SERVER_INFO_H
#define NODE_SERVER_INFO_H

#include <stdbool.h>
#include <stdint.h>

#include "base/limits.h"

struct server_info_node {
    uint32_t id;
    const char *client_address; /* HOST:PORT, never NULL */
    bool connected;             /* a peer link is up; true for this node itself */
    const char *host;           /* of client_address, never NULL */
    uint16_t port;
    uint16_t peer_port;
};

struct server_info_shard {
    const char *role; /* "leader", "follower", "candidate" or "standby", never NULL */
    uint32_t leader;  /* node id, 0 when unknown */
    uint64_t term;
    uint64_t commit;
    uint64_t applied;
    uint64_t last; /* index of the last entry of the log */
    uint64_t keys;
    uint64_t used_bytes;
    uint64_t sessions;      /* of exactly-once writes */
    uint64_t session_bytes; /* what they keep */
    uint64_t clock_ms;      /* Unix time of the last entry applied */
    unsigned voters;
};

/* The strings must stay valid until the callback's caller returns to the event loop. */
struct server_info {
    const char *cluster; /* never NULL */
    uint32_t node_id;
    uint16_t tcp_port;
    uint64_t uptime_ms;
    uint64_t digest_mismatches; /* replicas that differed from their leader: an alarm */
    unsigned n_nodes;
    struct server_info_node nodes[LIMIT_NODES];
    unsigned n_shards;
    struct server_info_shard shards[LIMIT_SHARDS];

    /* Memory, bytes. */
    uint64_t memory_rss;
    uint64_t memory_rss_peak;
    uint64_t memory_inflight;       /* operations under way */
    uint64_t memory_inflight_limit; /* max_memory_inflight */
    uint64_t memory_max;            /* max_memory, 0: no ceiling */
    unsigned memory_level;          /* enum memory_level */
    unsigned max_connections;
    uint64_t memory_log_cache;
    uint64_t memory_feed; /* history of the change feed */

    /* Disk. */
    uint64_t log_bytes;
    uint64_t log_segments;
    uint64_t log_syncs;
    uint64_t disk_free;
    bool disk_has_space; /* false: writes are refused with -NOSPACE */
};

#endif
