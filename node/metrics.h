/* The figures of a node, and their text in Prometheus' exposition format: what /metrics serves.
 *
 * The loop thread fills a struct metrics twice a second and publishes a copy (node/http.h); the
 * thread that serves HTTP renders it. docs/metrics.md is the list for operators; a test keeps it
 * equal to the table in metrics.c.
 *
 * Pure; plain data without pointers, so that a copy is complete. */
#ifndef NODE_METRICS_H
#define NODE_METRICS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/histogram.h"
#include "base/limits.h"
#include "node/bounds.h"
#include "node/logins.h"
#include "node/machine/top.h"
#include "node/readiness.h"
#include "node/requests.h"

enum metrics_role { METRICS_LEADER, METRICS_FOLLOWER, METRICS_CANDIDATE, METRICS_STANDBY };
enum { METRICS_ROLES = 4 };

/* Times in milliseconds, sizes in bytes. */
struct metrics_shard {
    enum metrics_role role;
    uint64_t leader; /* node id, 0: none known */
    uint64_t term;
    uint64_t commit;
    uint64_t applied;
    uint64_t last;
    uint64_t apply_lag;
    uint64_t voters;
    uint64_t elections;
    uint64_t leader_changes;
    bool has_staleness;
    uint64_t staleness_ms;
    uint64_t ready;
    int64_t clock_offset_ms; /* cluster time less wall time */
    uint64_t keys;
    uint64_t used_bytes;
    uint64_t sessions;
    uint64_t session_bytes;
    uint64_t database_bytes;
    uint64_t wal_bytes;
    uint64_t checkpoints;
    uint64_t checkpoint_ms;
    uint64_t snapshots_sent;
    uint64_t snapshots_installed;
    uint64_t snapshots_failed;
    uint64_t snapshot_sending;
    uint64_t snapshot_receiving;
    uint64_t snapshot_done_bytes;
    uint64_t snapshot_total_bytes;
    uint64_t feed_entries;
    /* Of the leader, as of the newest walk through the projects. */
    bool has_projects;
    uint64_t projects;
    uint64_t projects_near_quota;
    uint64_t follower_lag[LIMIT_NODES]; /* by position in metrics.nodes; of the leader */
};

struct metrics_node {
    uint64_t id;
    bool is_self;
    uint64_t connected;
    uint64_t queued_bytes;
};

struct metrics {
    char cluster[65];
    uint64_t node_id;
    uint64_t taken_ms; /* monotonic; 0: never */
    uint64_t uptime_ms;
    struct readiness readiness;

    uint64_t connections;
    uint64_t connections_max;
    uint64_t connections_accepted;
    uint64_t connections_rejected;
    uint64_t connections_stalled;
    uint64_t connections_insecure;
    struct logins_stats logins;
    uint64_t clients_certificate_s; /* expiry since the Unix epoch, 0: without TLS */
    uint64_t peers_certificate_s;
    uint64_t received_bytes;
    uint64_t sent_bytes;
    uint64_t input_bytes;
    uint64_t reply_bytes;
    uint64_t inflight;
    uint64_t inflight_bytes;
    uint64_t inflight_max_bytes;
    uint64_t memory_max_bytes;
    uint64_t memory_level; /* enum memory_level */
    struct bounds bounds;
    uint64_t forwarded;
    uint64_t resent;
    uint64_t uncertain;

    uint64_t log_segments;
    uint64_t log_bytes;
    uint64_t log_cache_bytes;
    uint64_t log_queued_bytes;
    uint64_t log_batches;
    struct histogram log_syncs;
    uint64_t log_has_space;
    uint64_t disk_free_bytes;
    uint64_t disk_reserve_bytes; /* min_free_disk */
    uint64_t digest_mismatches;
    uint64_t feed_bytes;

    unsigned n_nodes;
    struct metrics_node nodes[LIMIT_NODES];
    unsigned n_shards;
    struct metrics_shard shards[LIMIT_SHARDS];
    struct machine_top top; /* of the shards that this node leads */
    struct requests requests;
};

/* Figures of the process, which need no help of the loop thread. */
struct metrics_process {
    const char *build_id;
    uint64_t age_ms; /* of the struct metrics, when it is rendered */
    uint64_t resident_bytes;
    uint64_t resident_peak_bytes;
    uint64_t heap_bytes;      /* given out by malloc */
    uint64_t heap_free_bytes; /* held by malloc and not given out */
    uint64_t cpu_ms;
    uint64_t start_ms; /* since the Unix epoch */
    uint64_t open_files;
    uint64_t open_files_max;
};

/* Appends all families, each with its HELP and TYPE line also where it has no sample. */
void metrics_render(const struct metrics *metrics, const struct metrics_process *process,
                    struct buffer *out);
/* Appends the table of docs/metrics.md: a row for each family. */
void metrics_describe(struct buffer *out);

#endif
