/* Figures for operators: gathered on the loop thread, published for the one that serves HTTP. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "node/logging.h"
#include "node/machine/project_name.h"
#include "node/server_internal.h"

void server_watch_init(struct server *server) {
    requests_init(&server->watch.requests);
}

void server_watch_free(struct server *server) {
    for (unsigned i = 0; i < LIMIT_SHARDS; i++) {
        mem_free(server->watch.tops[i]);
    }
}

void server_note_leader(struct server *server, unsigned shard) {
    struct server_watch *watch = &server->watch;
    uint64_t leader = group_leader(server->groups[shard]);
    if (leader != 0 && leader != watch->leaders[shard]) {
        watch->leader_changes[shard] += watch->leaders[shard] != 0 ? 1 : 0;
        watch->leaders[shard] = leader;
    }
}

/* --- slow operations -------------------------------------------------------------------------- */

/* When everything is slow a line a second tells it as well as thousands. */
void server_on_slow(void *data, const struct session_slow *slow) {
    struct server *server = data;
    struct server_watch *watch = &server->watch;
    uint64_t now_ms = server_now(server);
    if (watch->slow_said_ms != 0 && now_ms < watch->slow_said_ms + SERVER_SLOW_MS) {
        watch->slow_unsaid++;
        return;
    }
    say_warn("slow operation",
             "command=%s project=%.*s shard=%u duration_ms=%llu failed=%s others_unsaid=%llu",
             slow->command, (int)slow->project.size, (const char *)slow->project.data, slow->shard,
             (unsigned long long)(slow->duration_us / 1000), slow->failed ? "yes" : "no",
             (unsigned long long)watch->slow_unsaid);
    watch->slow_said_ms = now_ms;
    watch->slow_unsaid = 0;
}

/* --- refused logins --------------------------------------------------------------------------- */

void server_on_login_refused(void *data, const struct session_login *login) {
    struct server *server = data;
    struct server_watch *watch = &server->watch;
    uint64_t now_ms = server_now(server);
    if (watch->login_said_ms != 0 && now_ms < watch->login_said_ms + SERVER_LOGIN_MS) {
        watch->login_unsaid++;
        return;
    }
    static const char *const roles[] = {
        [LOGIN_PROJECT] = "project", [LOGIN_SERVICE] = "service", [LOGIN_ADMIN] = "admin"};
    enum login_kind kind = login_kind_of(login->user);
    bool hidden = login->user.size == 0;
    say_warn("login refused", "peer=%s as=%s project=%s reason=%s wait_ms=%llu others_unsaid=%llu",
             login->peer, roles[kind],
             kind != LOGIN_PROJECT ? "-"
             : hidden              ? "not told, it may be a secret"
                                   : project_label(login->user).text,
             login->wait_ms > 0 ? "too many failures" : "wrong", (unsigned long long)login->wait_ms,
             (unsigned long long)watch->login_unsaid);
    watch->login_said_ms = now_ms;
    watch->login_unsaid = 0;
}

/* --- bounds ----------------------------------------------------------------------------------- */

void server_on_bound(void *data, enum bound bound, const char *peer, struct slice project,
                     const char *text) {
    const struct server *server = data;
    say_warn("limit reached", "limit=%s total=%llu peer=%s project=%.*s what=%s", bound_name(bound),
             (unsigned long long)server->sessions.bounds.reached[bound], peer, (int)project.size,
             project.size > 0 ? (const char *)project.data : "", text);
}

/* --- projects --------------------------------------------------------------------------------- */

static void forget_projects(struct server_watch *watch, unsigned shard) {
    mem_free(watch->tops[shard]);
    watch->tops[shard] = NULL;
    watch->walked_ms[shard] = 0;
}

static void walk_step(struct server *server, struct machine_top *top);

static void walked(struct job *job) {
    struct server *server = job->data;
    struct server_watch *watch = &server->watch;
    struct machine_top *top = job->top;
    unsigned shard = job->shard;
    job->top = NULL;
    shard_observe(&server->shards[shard], job);
    job_free(job);
    watch->walking[shard] = false;
    if (server->closing || group_role(server->groups[shard]) != GROUP_LEADER) {
        mem_free(top);
        return;
    }
    if (!top->done) {
        walk_step(server, top);
        return;
    }
    mem_free(watch->tops[shard]);
    watch->tops[shard] = top;
}

static void walk_step(struct server *server, struct machine_top *top) {
    struct job *job = job_new(JOB_TOP, top->shard, walked, server);
    job->top = top;
    server->watch.walking[top->shard] = true;
    workers_submit(server->workers, job);
}

/* Only the leader tells of a shard's projects: three nodes would tell the same. */
static void tend_walks(struct server *server, uint64_t now_ms) {
    struct server_watch *watch = &server->watch;
    for (unsigned i = 0; i < server->config->shards; i++) {
        if (group_role(server->groups[i]) != GROUP_LEADER) {
            forget_projects(watch, i);
            continue;
        }
        bool due = watch->walked_ms[i] == 0 || now_ms >= watch->walked_ms[i] + SERVER_WALK_MS;
        if (due && !watch->walking[i] && shard_is_ready(&server->shards[i])) {
            struct machine_top *top = mem_zalloc(1, sizeof *top);
            top->shard = i;
            top->most = server->config->metrics_projects;
            watch->walked_ms[i] = now_ms;
            walk_step(server, top);
        }
    }
}

static void gather_projects(const struct server *server, struct metrics *metrics) {
    metrics->top.most = server->config->metrics_projects;
    metrics->top.n = 0;
    for (unsigned i = 0; i < server->config->shards; i++) {
        const struct machine_top *top = server->watch.tops[i];
        metrics->shards[i].has_projects = top != NULL;
        if (top == NULL) {
            continue;
        }
        metrics->shards[i].projects = top->projects;
        metrics->shards[i].projects_near_quota = top->near_quota;
        for (unsigned k = 0; k < top->n; k++) {
            machine_top_add(&metrics->top, &top->entries[k]);
        }
    }
}

/* --- readiness -------------------------------------------------------------------------------- */

static enum shard_fault fault_of(const struct server *server, unsigned shard, uint64_t now_ms,
                                 uint64_t *stale_ms) {
    const struct group *group = server->groups[shard];
    const struct shard *state = &server->shards[shard];
    uint64_t fresh_ms = router_fresh_ms(server->router, shard);
    if (group_is_installing(group) || state->receiving_job ||
        snapshot_streams_progress(server->streams, (uint16_t)shard).receiving) {
        return SHARD_INSTALLING;
    }
    if (group_leader(group) == 0) {
        return SHARD_NO_LEADER;
    }
    /* Before the first time: as old as the process, or older. */
    uint64_t since_ms = fresh_ms > 0 ? fresh_ms : server->started_ms;
    *stale_ms = now_ms > since_ms ? now_ms - since_ms : 0;
    return *stale_ms >= READINESS_STALE_MS ? SHARD_BEHIND : SHARD_FINE;
}

static void gather_readiness(const struct server *server, uint64_t now_ms,
                             struct readiness *readiness) {
    bool lacks_leader = false;
    memset(readiness, 0, sizeof *readiness);
    readiness->draining = server->stopping;
    readiness->joining = !server->started;
    readiness->unadded = server->started &&
                         server_presence_of(server->groups[0], server->identity.node_id) == ABSENT;
    readiness->disk_low = server_disk_is_low(server);
    readiness->disk_free_bytes = server->disk_free;
    readiness->replicas_differ = server->digest_mismatches > 0;
    readiness->n_shards = server->started ? server->config->shards : 0;
    for (unsigned i = 0; i < readiness->n_shards; i++) {
        readiness->shards[i] = fault_of(server, i, now_ms, &readiness->stale_ms[i]);
        lacks_leader = lacks_leader || readiness->shards[i] == SHARD_NO_LEADER;
    }
    if (readiness->joining || lacks_leader) {
        snprintf(readiness->refusal, sizeof readiness->refusal, "%s", server->refusal);
    }
}

/* --- figures ---------------------------------------------------------------------------------- */

static uint64_t file_bytes(const char *path) {
    struct stat file;
    return stat(path, &file) == 0 ? (uint64_t)file.st_size : 0;
}

static bool is_voter(const struct group *group, uint64_t self, uint64_t *n_voters) {
    uint64_t voters[LIMIT_NODES];
    unsigned n = group_voters(group, voters);
    bool found = false;
    for (unsigned i = 0; i < n; i++) {
        found = found || voters[i] == self;
    }
    *n_voters = n;
    return found;
}

static enum metrics_role role_of(enum group_role role, bool voter) {
    switch (role) {
    case GROUP_LEADER:
        return METRICS_LEADER;
    case GROUP_CANDIDATE:
        return METRICS_CANDIDATE;
    case GROUP_FOLLOWER:
        break;
    }
    return voter ? METRICS_FOLLOWER : METRICS_STANDBY;
}

static void gather_raft(const struct server *server, unsigned i, struct metrics_shard *to) {
    const struct group *group = server->groups[i];
    bool voter = is_voter(group, server->identity.node_id, &to->voters);
    to->role = role_of(group_role(group), voter);
    to->leader = group_leader(group);
    to->term = group_term(group);
    to->commit = group_commit(group);
    to->applied = server->shards[i].state.applied_index;
    to->last = group_last(group);
    to->apply_lag = to->commit > to->applied ? to->commit - to->applied : 0;
    to->elections = group_elections(group);
    to->leader_changes = server->watch.leader_changes[i];
    for (unsigned k = 0; k < server->config->n_nodes; k++) {
        uint64_t match = group_match(group, server->config->nodes[k].id);
        to->follower_lag[k] = to->last > match ? to->last - match : 0;
    }
}

static void gather_state(struct server *server, unsigned i, uint64_t now_ms,
                         struct metrics_shard *to) {
    const struct shard *shard = &server->shards[i];
    uint64_t fresh_ms = router_fresh_ms(server->router, i);
    to->has_staleness = fresh_ms > 0;
    to->staleness_ms = now_ms > fresh_ms ? now_ms - fresh_ms : 0;
    to->clock_offset_ms = (int64_t)(shard_time_ms(shard) - server_wall(server));
    to->keys = shard->state.keys;
    to->used_bytes = shard->state.used_bytes;
    to->sessions = shard->state.sessions;
    to->session_bytes = shard->state.session_bytes;
    to->database_bytes = file_bytes(server->db_paths[i]);
    to->wal_bytes = shard->wal_bytes;
    to->checkpoints = shard->stats.checkpoints;
    to->checkpoint_ms = shard->stats.checkpoint_ms;
    to->snapshots_sent = shard->stats.snapshots_sent;
    to->snapshots_installed = shard->stats.snapshots_installed;
    to->snapshots_failed = shard->stats.snapshots_failed;
    to->feed_entries = feed_index(server->feed, i) - feed_oldest(server->feed, i);
    struct snapshot_progress progress = snapshot_streams_progress(server->streams, (uint16_t)i);
    to->snapshot_sending = progress.sending;
    to->snapshot_receiving = progress.receiving;
    to->snapshot_done_bytes = progress.done_bytes;
    to->snapshot_total_bytes = progress.total_bytes;
}

static uint64_t expiry_of(const struct tls_keys *keys) {
    int64_t expiry_s = keys != NULL ? tls_keys_expiry_s(keys) : 0;
    return expiry_s > 0 ? (uint64_t)expiry_s : 0;
}

static void gather_clients(const struct server *server, struct metrics *metrics) {
    const struct session_host *host = &server->sessions;
    struct router_stats routed = router_stats(server->router);
    metrics->connections = host->n_sessions;
    metrics->connections_max = server->config->max_connections;
    metrics->memory_max_bytes = server->config->max_memory;
    metrics->memory_level = server->memory.level;
    metrics->bounds = host->bounds;
    metrics->connections_accepted = host->stats.connections;
    metrics->connections_rejected = host->stats.rejected;
    metrics->connections_stalled = host->stats.stalled;
    metrics->connections_insecure = host->stats.insecure;
    metrics->logins = *logins_stats(server->logins);
    metrics->logins.counts[LOGIN_CERTIFICATE][LOGIN_WRONG] = host->stats.bad_certificates;
    metrics->clients_certificate_s = expiry_of(server->tls.clients);
    metrics->peers_certificate_s = expiry_of(server->tls.peers);
    metrics->received_bytes = host->stats.bytes_in;
    metrics->sent_bytes = host->stats.bytes_out;
    metrics->input_bytes = host->input_bytes;
    metrics->reply_bytes = host->reply_bytes;
    metrics->inflight = routed.inflight;
    metrics->inflight_bytes = routed.inflight_bytes;
    metrics->inflight_max_bytes = server->config->max_memory_inflight;
    metrics->forwarded = routed.forwarded;
    metrics->resent = routed.resent;
    metrics->uncertain = routed.uncertain;
    metrics->requests = server->watch.requests;
}

static void gather_storage(struct server *server, struct metrics *metrics) {
    struct log_stats log = log_stats(server->log);
    metrics->log_segments = log.segments;
    metrics->log_bytes = log.bytes;
    metrics->log_cache_bytes = log.cache_bytes;
    metrics->log_queued_bytes = log.queued_bytes;
    metrics->log_batches = log.batches;
    metrics->log_syncs = log.sync;
    metrics->log_has_space = log_has_space(server->log);
    metrics->disk_free_bytes = server->disk_free;
    metrics->disk_reserve_bytes = server->config->min_free_disk;
    metrics->digest_mismatches = server->digest_mismatches;
    metrics->feed_bytes = feed_bytes(server->feed);
}

static void gather_peers(const struct server *server, struct metrics *metrics) {
    metrics->n_nodes = server->config->n_nodes;
    for (unsigned i = 0; i < metrics->n_nodes; i++) {
        uint64_t id = server->config->nodes[i].id;
        metrics->nodes[i].id = id;
        metrics->nodes[i].is_self = id == server->config->node_id;
        if (!metrics->nodes[i].is_self) {
            metrics->nodes[i].connected = peers_is_up(server->peers, id);
            metrics->nodes[i].queued_bytes = peers_queued_bytes(server->peers, id);
        }
    }
}

void server_publish(struct server *server, uint64_t now_ms) {
    struct metrics *metrics = &server->watch.metrics;
    if (server->started) {
        tend_walks(server, now_ms);
    }
    snprintf(metrics->cluster, sizeof metrics->cluster, "%s", server->config->cluster);
    metrics->node_id = server->config->node_id;
    metrics->taken_ms = now_ms;
    metrics->uptime_ms = now_ms - server->started_ms;
    gather_readiness(server, now_ms, &metrics->readiness);
    gather_clients(server, metrics);
    gather_storage(server, metrics);
    gather_peers(server, metrics);
    metrics->n_shards = server->config->shards;
    for (unsigned i = 0; i < metrics->n_shards; i++) {
        gather_raft(server, i, &metrics->shards[i]);
        gather_state(server, i, now_ms, &metrics->shards[i]);
        metrics->shards[i].ready =
            server->started && metrics->readiness.shards[i] == SHARD_FINE ? 1 : 0;
    }
    gather_projects(server, metrics);
    http_publish(server->http, metrics);
}
