/* Whether a node is fit to be sent clients, and if not why, in words and as JSON: what /readyz
 * says. Pure; plain data. */
#ifndef NODE_READINESS_H
#define NODE_READINESS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/limits.h"

enum shard_fault {
    SHARD_FINE,
    SHARD_NO_LEADER,  /* this replica knows none: an election, or it is cut from the majority */
    SHARD_INSTALLING, /* it is about to be replaced by the leader's database */
    SHARD_BEHIND      /* its state is older than READINESS_STALE_MS */
};

enum { READINESS_STALE_MS = 10000, READINESS_WORDS_SIZE = 256 };

struct readiness {
    bool starting; /* nothing is known yet */
    bool draining; /* it stops: leaderships are handed over */
    bool joining;  /* other nodes have not accepted it yet */
    bool unadded;  /* it is no member of the cluster (yet) */
    bool disk_low;
    bool replicas_differ;
    uint64_t disk_free_bytes;
    /* What a peer said when it refused this node; only where that may be why something is missing,
     * else empty. */
    char refusal[READINESS_WORDS_SIZE];
    unsigned n_shards;
    enum shard_fault shards[LIMIT_SHARDS];
    uint64_t stale_ms[LIMIT_SHARDS]; /* of SHARD_BEHIND */
};

bool readiness_is_ready(const struct readiness *readiness);
/* Appends "ok", or a line for each reason. */
void readiness_write_text(const struct readiness *readiness, struct buffer *out);
/* Appends {"ready": ..., "reasons": [...], "shards": [{"shard": 0, "ready": ..., "reason": ...}]}.
 */
void readiness_write_json(const struct readiness *readiness, struct buffer *out);

#endif
