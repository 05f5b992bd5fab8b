#include "node/metrics.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include "base/assert.h"
#include "node/release.h"

static const char *const role_names[METRICS_ROLES] = {
    [METRICS_LEADER] = "leader",
    [METRICS_FOLLOWER] = "follower",
    [METRICS_CANDIDATE] = "candidate",
    [METRICS_STANDBY] = "standby",
};

/* --- the table -------------------------------------------------------------------------------- */

enum family_type { GAUGE, COUNTER, HISTOGRAM };

static const char *const type_names[] = {
    [GAUGE] = "gauge", [COUNTER] = "counter", [HISTOGRAM] = "histogram"};

enum family_unit { AS_IS, SECONDS /* from milliseconds */ };

struct family;

struct source {
    const struct metrics *metrics;
    const struct metrics_process *process;
    struct buffer *out;
};

struct family {
    const char *name;
    enum family_type type;
    enum family_unit unit;
    const char *labels; /* names, separated by ", " */
    const char *help;
    void (*write)(const struct source *source, const struct family *family);
    size_t offset; /* of the uint64_t, in the struct that `write` looks at */
};

__attribute__((format(printf, 2, 3))) static void put(struct buffer *out, const char *format, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    ASSERT(size >= 0 && (size_t)size < sizeof text);
    buffer_append(out, text, (size_t)size);
}

static void put_value(const struct source *source, const struct family *family, uint64_t value) {
    if (family->unit == SECONDS) {
        put(source->out, " %" PRIu64 ".%03u\n", value / 1000, (unsigned)(value % 1000));
    } else {
        put(source->out, " %" PRIu64 "\n", value);
    }
}

static uint64_t field(const void *from, const struct family *family) {
    return *(const uint64_t *)((const char *)from + family->offset);
}

/* A label's value: backslash, quote and line feed are escaped. */
static void put_text(struct buffer *out, const uint8_t *text, size_t size) {
    for (size_t i = 0; i < size; i++) {
        if (text[i] == '\n') {
            buffer_append(out, "\\n", 2);
            continue;
        }
        if (text[i] == '\\' || text[i] == '"') {
            buffer_put_u8(out, '\\');
        }
        buffer_put_u8(out, text[i]);
    }
}

/* --- samples ---------------------------------------------------------------------------------- */

static void write_process(const struct source *source, const struct family *family) {
    put(source->out, "%s", family->name);
    put_value(source, family, field(source->process, family));
}

static void write_node(const struct source *source, const struct family *family) {
    put(source->out, "%s", family->name);
    put_value(source, family, field(source->metrics, family));
}

static void write_shards(const struct source *source, const struct family *family) {
    for (unsigned i = 0; i < source->metrics->n_shards; i++) {
        put(source->out, "%s{shard=\"%u\"}", family->name, i);
        put_value(source, family, field(&source->metrics->shards[i], family));
    }
}

static void write_peers(const struct source *source, const struct family *family) {
    for (unsigned i = 0; i < source->metrics->n_nodes; i++) {
        const struct metrics_node *node = &source->metrics->nodes[i];
        if (!node->is_self) {
            put(source->out, "%s{node=\"%" PRIu64 "\"}", family->name, node->id);
            put_value(source, family, field(node, family));
        }
    }
}

static void write_info(const struct source *source, const struct family *family) {
    const struct metrics *metrics = source->metrics;
    put(source->out, "%s{version=\"%s\",build_id=\"%s\",cluster=\"%s\",node=\"%" PRIu64 "\"} 1\n",
        family->name, release_name(), source->process->build_id, metrics->cluster,
        metrics->node_id);
}

static void write_ready(const struct source *source, const struct family *family) {
    put(source->out, "%s %d\n", family->name, readiness_is_ready(&source->metrics->readiness));
}

static void write_certificates(const struct source *source, const struct family *family) {
    const struct metrics *metrics = source->metrics;
    if (metrics->clients_certificate_s > 0) {
        put(source->out, "%s{use=\"clients\"} %" PRIu64 "\n", family->name,
            metrics->clients_certificate_s);
    }
    if (metrics->peers_certificate_s > 0) {
        put(source->out, "%s{use=\"peers\"} %" PRIu64 "\n", family->name,
            metrics->peers_certificate_s);
    }
}

static void write_logins(const struct source *source, const struct family *family) {
    static const char *const kinds[LOGIN_KINDS] = {[LOGIN_PROJECT] = "project",
                                                   [LOGIN_SERVICE] = "service",
                                                   [LOGIN_ADMIN] = "admin",
                                                   [LOGIN_CERTIFICATE] = "certificate"};
    static const char *const results[LOGIN_RESULTS] = {
        [LOGIN_GOOD] = "good", [LOGIN_WRONG] = "wrong", [LOGIN_THROTTLED] = "throttled"};
    for (unsigned i = 0; i < LOGIN_KINDS; i++) {
        for (unsigned k = 0; k < LOGIN_RESULTS; k++) {
            /* Certificates: those that are good are not counted, and none is throttled. */
            if (i != LOGIN_CERTIFICATE || k == LOGIN_WRONG) {
                put(source->out, "%s{as=\"%s\",result=\"%s\"} %" PRIu64 "\n", family->name,
                    kinds[i], results[k], source->metrics->logins.counts[i][k]);
            }
        }
    }
}

static void write_bounds(const struct source *source, const struct family *family) {
    for (unsigned i = 0; i < BOUNDS; i++) {
        put(source->out, "%s{limit=\"%s\"} %" PRIu64 "\n", family->name, bound_name((enum bound)i),
            source->metrics->bounds.reached[i]);
    }
}

static void write_roles(const struct source *source, const struct family *family) {
    for (unsigned i = 0; i < source->metrics->n_shards; i++) {
        for (unsigned role = 0; role < METRICS_ROLES; role++) {
            put(source->out, "%s{shard=\"%u\",role=\"%s\"} %d\n", family->name, i, role_names[role],
                source->metrics->shards[i].role == (enum metrics_role)role);
        }
    }
}

static void write_staleness(const struct source *source, const struct family *family) {
    for (unsigned i = 0; i < source->metrics->n_shards; i++) {
        if (source->metrics->shards[i].has_staleness) {
            put(source->out, "%s{shard=\"%u\"}", family->name, i);
            put_value(source, family, source->metrics->shards[i].staleness_ms);
        }
    }
}

static void write_offsets(const struct source *source, const struct family *family) {
    for (unsigned i = 0; i < source->metrics->n_shards; i++) {
        int64_t offset_ms = source->metrics->shards[i].clock_offset_ms;
        put(source->out, "%s{shard=\"%u\"} %s%" PRId64 ".%03u\n", family->name, i,
            offset_ms < 0 ? "-" : "", offset_ms < 0 ? -(offset_ms / 1000) : offset_ms / 1000,
            (unsigned)(offset_ms < 0 ? -(offset_ms % 1000) : offset_ms % 1000));
    }
}

static void write_follower_lag(const struct source *source, const struct family *family) {
    const struct metrics *metrics = source->metrics;
    for (unsigned i = 0; i < metrics->n_shards; i++) {
        if (metrics->shards[i].role != METRICS_LEADER) {
            continue;
        }
        for (unsigned k = 0; k < metrics->n_nodes; k++) {
            if (!metrics->nodes[k].is_self) {
                put(source->out, "%s{shard=\"%u\",node=\"%" PRIu64 "\"} %" PRIu64 "\n",
                    family->name, i, metrics->nodes[k].id, metrics->shards[i].follower_lag[k]);
            }
        }
    }
}

static void write_shards_projects(const struct source *source, const struct family *family) {
    for (unsigned i = 0; i < source->metrics->n_shards; i++) {
        if (source->metrics->shards[i].has_projects) {
            put(source->out, "%s{shard=\"%u\"}", family->name, i);
            put_value(source, family, field(&source->metrics->shards[i], family));
        }
    }
}

static void write_projects(const struct source *source, const struct family *family) {
    const struct machine_top *top = &source->metrics->top;
    for (unsigned i = 0; i < top->n; i++) {
        const struct machine_top_entry *entry = &top->entries[i];
        put(source->out, "%s{project=\"", family->name);
        put_text(source->out, entry->name, entry->name_size);
        put(source->out, "\",shard=\"%u\"}", entry->shard);
        put_value(source, family, field(entry, family));
    }
}

static void write_results(const struct source *source, const struct family *family) {
    const struct requests *requests = &source->metrics->requests;
    const char *name;
    for (unsigned i = 0; i < requests->n_verbs; i++) {
        for (unsigned k = 0; (name = requests_result_name(k)) != NULL; k++) {
            if (requests->verbs[i].results[k] > 0) {
                put(source->out, "%s{command=\"%s\",result=\"%s\"} %" PRIu64 "\n", family->name,
                    requests->names[i], name, requests->verbs[i].results[k]);
            }
        }
    }
}

/* `label`: as it stands before the bucket's bound, with its comma, or empty. */
static void put_histogram(struct buffer *out, const char *name, const char *label,
                          const struct histogram *histogram) {
    uint64_t count = 0;
    for (unsigned i = 0; i < HISTOGRAM_BOUNDS; i++) {
        count += histogram->counts[i];
        put(out, "%s_bucket{%s%sle=\"%g\"} %" PRIu64 "\n", name, label, *label != '\0' ? "," : "",
            (double)histogram_bounds_us[i] / 1e6, count);
    }
    count += histogram->counts[HISTOGRAM_BOUNDS];
    put(out, "%s_bucket{%s%sle=\"+Inf\"} %" PRIu64 "\n", name, label, *label != '\0' ? "," : "",
        count);
    const char *open = *label != '\0' ? "{" : "";
    const char *close = *label != '\0' ? "}" : "";
    put(out, "%s_sum%s%s%s %" PRIu64 ".%06u\n", name, open, label, close,
        histogram->sum_us / 1000000, (unsigned)(histogram->sum_us % 1000000));
    put(out, "%s_count%s%s%s %" PRIu64 "\n", name, open, label, close, count);
}

static void write_durations(const struct source *source, const struct family *family) {
    const struct requests *requests = &source->metrics->requests;
    char label[REQUESTS_NAME_SIZE + 16];
    for (unsigned i = 0; i < requests->n_verbs; i++) {
        const struct histogram *duration = &requests->verbs[i].duration;
        if (histogram_count(duration) > 0) {
            snprintf(label, sizeof label, "command=\"%s\"", requests->names[i]);
            put_histogram(source->out, family->name, label, duration);
        }
    }
}

static void write_syncs(const struct source *source, const struct family *family) {
    put_histogram(source->out, family->name, "", &source->metrics->log_syncs);
}

/* --- all families, in the order of docs/metrics.md -------------------------------------------- */

#define OF_PROCESS(help, member) "", help, write_process, offsetof(struct metrics_process, member)
#define OF_NODE(help, member) "", help, write_node, offsetof(struct metrics, member)
#define OF_SHARD(help, member) "shard", help, write_shards, offsetof(struct metrics_shard, member)
#define OF_PEER(help, member) "node", help, write_peers, offsetof(struct metrics_node, member)
#define OF_TOP(help, member)                                                                       \
    "project, shard", help, write_projects, offsetof(struct machine_top_entry, member)
#define OF_WALK(help, member)                                                                      \
    "shard", help, write_shards_projects, offsetof(struct metrics_shard, member)

static const struct family families[] = {
    /* The node. */
    {"invokekv_build_info", GAUGE, AS_IS, "version, build_id, cluster, node",
     "Always 1; what runs here", write_info, 0},
    {"invokekv_ready", GAUGE, AS_IS, "", "1 when /readyz answers 200", write_ready, 0},
    {"invokekv_uptime_seconds", GAUGE, SECONDS, OF_NODE("Since the process started", uptime_ms)},
    {"invokekv_snapshot_age_seconds", GAUGE, SECONDS,
     OF_PROCESS("Age of these figures; seconds of it mean that the event loop is held up", age_ms)},
    {"invokekv_digest_mismatches_total", COUNTER, AS_IS,
     OF_NODE("Replicas that differed from their leader: an alarm", digest_mismatches)},

    /* Requests of clients. */
    {"invokekv_requests_total", COUNTER, AS_IS, "command, result",
     "Commands by the first word of their reply, OK for all that is no error", write_results, 0},
    {"invokekv_request_duration_seconds", HISTOGRAM, AS_IS, "command",
     "From the receipt of a command to its reply", write_durations, 0},
    {"invokekv_slow_requests_total", COUNTER, AS_IS,
     OF_NODE("Operations that took slow_ms or longer", requests.slow)},
    {"invokekv_requests_in_flight", GAUGE, AS_IS,
     OF_NODE("Operations of this node's clients under way", inflight)},
    {"invokekv_requests_in_flight_bytes", GAUGE, AS_IS, OF_NODE("Their bytes", inflight_bytes)},
    {"invokekv_requests_in_flight_limit_bytes", GAUGE, AS_IS,
     OF_NODE("max_memory_inflight", inflight_max_bytes)},
    {"invokekv_requests_forwarded_total", COUNTER, AS_IS,
     OF_NODE("Operations sent to a leader on another node", forwarded)},
    {"invokekv_requests_resent_total", COUNTER, AS_IS,
     OF_NODE("Operations sent again after a leader was lost", resent)},
    {"invokekv_requests_uncertain_total", COUNTER, AS_IS,
     OF_NODE("Writes answered with -UNCERTAIN", uncertain)},

    /* Connections of clients. */
    {"invokekv_connections", GAUGE, AS_IS, OF_NODE("Open client connections", connections)},
    {"invokekv_connections_limit", GAUGE, AS_IS, OF_NODE("max_connections", connections_max)},
    {"invokekv_connections_accepted_total", COUNTER, AS_IS,
     OF_NODE("Client connections made so far", connections_accepted)},
    {"invokekv_connections_rejected_total", COUNTER, AS_IS,
     OF_NODE("Client connections refused for max_connections", connections_rejected)},
    {"invokekv_connections_stalled_total", COUNTER, AS_IS,
     OF_NODE("Client connections closed in the middle of a command", connections_stalled)},
    {"invokekv_connections_insecure_total", COUNTER, AS_IS,
     OF_NODE("Closed over TLS: failed handshakes, plaintext", connections_insecure)},
    {"invokekv_logins_total", COUNTER, AS_IS, "as, result",
     "Logins at this node by role; throttled: refused for too many failures", write_logins, 0},
    {"invokekv_certificate_expiry_time_seconds", GAUGE, AS_IS, "use",
     "With TLS: when a certificate for clients or peers expires, since the Unix epoch",
     write_certificates, 0},
    {"invokekv_received_bytes_total", COUNTER, AS_IS, OF_NODE("From clients", received_bytes)},
    {"invokekv_sent_bytes_total", COUNTER, AS_IS, OF_NODE("To clients", sent_bytes)},
    {"invokekv_input_bytes", GAUGE, AS_IS,
     OF_NODE("Memory for half-received commands", input_bytes)},
    {"invokekv_reply_bytes", GAUGE, AS_IS, OF_NODE("Replies not sent yet", reply_bytes)},

    {"invokekv_limits_reached_total", COUNTER, AS_IS, "limit",
     "Requests refused and connections closed for a limit of operations.md", write_bounds, 0},
    {"invokekv_memory_limit_bytes", GAUGE, AS_IS,
     OF_NODE("max_memory, 0: no ceiling", memory_max_bytes)},
    {"invokekv_memory_pressure", GAUGE, AS_IS,
     OF_NODE("1 while writes are refused for it, 2 while reads are as well", memory_level)},

    /* Raft. */
    {"invokekv_raft_role", GAUGE, AS_IS, "shard, role",
     "1 for this replica's role: leader, follower, candidate or standby", write_roles, 0},
    {"invokekv_raft_leader", GAUGE, AS_IS,
     OF_SHARD("Node that leads as far as is known here, 0: none", leader)},
    {"invokekv_raft_term", GAUGE, AS_IS, OF_SHARD("Term", term)},
    {"invokekv_raft_commit_index", GAUGE, AS_IS,
     OF_SHARD("Last entry known to be committed", commit)},
    {"invokekv_raft_applied_index", GAUGE, AS_IS,
     OF_SHARD("Last entry in the state machine", applied)},
    {"invokekv_raft_last_index", GAUGE, AS_IS, OF_SHARD("Last entry of the log", last)},
    {"invokekv_raft_apply_lag_entries", GAUGE, AS_IS,
     OF_SHARD("Committed here and not yet applied", apply_lag)},
    {"invokekv_raft_follower_lag_entries", GAUGE, AS_IS, "shard, node",
     "At the leader: entries that a follower is not known to have", write_follower_lag, 0},
    {"invokekv_raft_voters", GAUGE, AS_IS, OF_SHARD("Voting replicas", voters)},
    {"invokekv_raft_elections_total", COUNTER, AS_IS,
     OF_SHARD("Times that this replica stood for election", elections)},
    {"invokekv_raft_leader_changes_total", COUNTER, AS_IS,
     OF_SHARD("Times that another node than before was seen to lead", leader_changes)},
    {"invokekv_replica_staleness_seconds", GAUGE, SECONDS, "shard",
     "How old this replica's state may be; missing while that is unknown", write_staleness, 0},
    {"invokekv_shard_ready", GAUGE, AS_IS, OF_SHARD("1 when /readyz has no complaint", ready)},
    {"invokekv_cluster_time_offset_seconds", GAUGE, SECONDS, "shard",
     "Cluster time less this node's wall time", write_offsets, 0},

    /* Links between the nodes. */
    {"invokekv_peer_connected", GAUGE, AS_IS, OF_PEER("1 while the link to it is up", connected)},
    {"invokekv_peer_queued_bytes", GAUGE, AS_IS, OF_PEER("Waiting to be sent to it", queued_bytes)},

    /* Log. */
    {"invokekv_log_segments", GAUGE, AS_IS, OF_NODE("Segment files in use", log_segments)},
    {"invokekv_log_bytes", GAUGE, AS_IS, OF_NODE("Their size", log_bytes)},
    {"invokekv_log_cache_bytes", GAUGE, AS_IS, OF_NODE("Entries in memory", log_cache_bytes)},
    {"invokekv_log_queued_bytes", GAUGE, AS_IS, OF_NODE("Waiting to be written", log_queued_bytes)},
    {"invokekv_log_batches_total", COUNTER, AS_IS, OF_NODE("Batches written", log_batches)},
    {"invokekv_log_sync_duration_seconds", HISTOGRAM, AS_IS, "", "Time in fdatasync", write_syncs,
     0},
    {"invokekv_log_has_space", GAUGE, AS_IS,
     OF_NODE("0 while there is no room for another segment", log_has_space)},

    /* Disk and state machines. */
    {"invokekv_disk_free_bytes", GAUGE, AS_IS, OF_NODE("Free on data_dir's disk", disk_free_bytes)},
    {"invokekv_disk_reserve_bytes", GAUGE, AS_IS,
     OF_NODE("min_free_disk: with less than this writes are refused", disk_reserve_bytes)},
    {"invokekv_shard_keys", GAUGE, AS_IS, OF_SHARD("Keys", keys)},
    {"invokekv_shard_used_bytes", GAUGE, AS_IS, OF_SHARD("Keys and values", used_bytes)},
    {"invokekv_sqlite_database_bytes", GAUGE, AS_IS, OF_SHARD("Database file", database_bytes)},
    {"invokekv_sqlite_wal_bytes", GAUGE, AS_IS, OF_SHARD("Its write-ahead log", wal_bytes)},
    {"invokekv_checkpoints_total", COUNTER, AS_IS,
     OF_SHARD("Checkpoints that made entries durable", checkpoints)},
    {"invokekv_checkpoint_seconds_total", COUNTER, SECONDS,
     OF_SHARD("Time that these took", checkpoint_ms)},
    {"invokekv_once_sessions", GAUGE, AS_IS, OF_SHARD("Sessions of numbered writes", sessions)},
    {"invokekv_once_session_bytes", GAUGE, AS_IS, OF_SHARD("What these keep", session_bytes)},

    /* Snapshots. */
    {"invokekv_snapshot_sending", GAUGE, AS_IS, OF_SHARD("1 while one is sent", snapshot_sending)},
    {"invokekv_snapshot_receiving", GAUGE, AS_IS,
     OF_SHARD("1 while one is received", snapshot_receiving)},
    {"invokekv_snapshot_done_bytes", GAUGE, AS_IS,
     OF_SHARD("Of the one under way, so much has passed", snapshot_done_bytes)},
    {"invokekv_snapshot_total_bytes", GAUGE, AS_IS, OF_SHARD("Its size", snapshot_total_bytes)},
    {"invokekv_snapshots_sent_total", COUNTER, AS_IS,
     OF_SHARD("Delivered to followers", snapshots_sent)},
    {"invokekv_snapshots_installed_total", COUNTER, AS_IS,
     OF_SHARD("Taken over by this replica", snapshots_installed)},
    {"invokekv_snapshots_failed_total", COUNTER, AS_IS,
     OF_SHARD("Neither, of those begun", snapshots_failed)},

    /* Change feed. */
    {"invokekv_feed_bytes", GAUGE, AS_IS, OF_NODE("History in memory", feed_bytes)},
    {"invokekv_feed_history_entries", GAUGE, AS_IS,
     OF_SHARD("Log entries that the history reaches back", feed_entries)},

    /* Projects. */
    {"invokekv_projects", GAUGE, AS_IS, OF_WALK("At the leader: projects", projects)},
    {"invokekv_projects_near_quota", GAUGE, AS_IS,
     OF_WALK("At the leader: projects with nine tenths of their quota used", projects_near_quota)},
    {"invokekv_project_used_bytes", GAUGE, AS_IS,
     OF_TOP("At the leader, of the metrics_projects that use most: keys and values", used_bytes)},
    {"invokekv_project_quota_bytes", GAUGE, AS_IS, OF_TOP("Of the same: their quota", quota)},
    {"invokekv_project_keys", GAUGE, AS_IS, OF_TOP("Of the same: their keys", keys)},

    /* The process. */
    {"process_resident_memory_bytes", GAUGE, AS_IS, OF_PROCESS("Memory in use", resident_bytes)},
    {"invokekv_resident_memory_peak_bytes", GAUGE, AS_IS,
     OF_PROCESS("The most that it ever was", resident_peak_bytes)},
    {"invokekv_heap_bytes", GAUGE, AS_IS, OF_PROCESS("Given out by malloc", heap_bytes)},
    {"invokekv_heap_free_bytes", GAUGE, AS_IS,
     OF_PROCESS("Held by malloc and not given out", heap_free_bytes)},
    {"process_cpu_seconds_total", COUNTER, SECONDS, OF_PROCESS("Processor time", cpu_ms)},
    {"process_start_time_seconds", GAUGE, SECONDS,
     OF_PROCESS("Start of the process, since the Unix epoch", start_ms)},
    {"process_open_fds", GAUGE, AS_IS, OF_PROCESS("Open file descriptors", open_files)},
    {"process_max_fds", GAUGE, AS_IS, OF_PROCESS("The most that may be open", open_files_max)},
};

enum { FAMILIES = sizeof families / sizeof families[0] };

void metrics_render(const struct metrics *metrics, const struct metrics_process *process,
                    struct buffer *out) {
    const struct source source = {.metrics = metrics, .process = process, .out = out};
    for (unsigned i = 0; i < FAMILIES; i++) {
        const struct family *family = &families[i];
        put(out, "# HELP %s %s\n", family->name, family->help);
        put(out, "# TYPE %s %s\n", family->name, type_names[family->type]);
        family->write(&source, family);
    }
}

void metrics_describe(struct buffer *out) {
    for (unsigned i = 0; i < FAMILIES; i++) {
        const struct family *family = &families[i];
        put(out, "| `%s` | %s | %s | %s |\n", family->name, type_names[family->type],
            family->labels, family->help);
    }
}
