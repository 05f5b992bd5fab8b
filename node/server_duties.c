/* What a node does again and again: at the end of each loop iteration, every few milliseconds, and
 * twice a second. */
#include <sys/statvfs.h>

#include "node/forward.h"
#include "node/logging.h"
#include "node/server_internal.h"
#include "node/subscriptions.h"

unsigned server_leads(const struct server *server) {
    unsigned n = 0;
    for (unsigned i = 0; i < server->config->shards; i++) {
        n += group_role(server->groups[i]) == GROUP_LEADER ? 1 : 0;
    }
    return n;
}

/* --- the end of an iteration ------------------------------------------------------------------ */

static void on_wake(uv_timer_t *timer) {
    (void)timer; /* the iteration's end does the work */
}

/* Everything that the iteration's events produced leaves in one batch each: commands as one
 * proposal per shard, log records as one write, messages as one write per peer. */
void server_end_iteration(struct server *server) {
    uv_update_time(server->loop);
    uint64_t now_ms = server_now(server);
    uint64_t next_ms = now_ms + 1000;
    if (server->started) {
        router_flush(server->router);
    }
    for (unsigned i = 0; i < server->config->shards; i++) {
        struct group *group = server->groups[i];
        group_flush_reads(group, now_ms);
        uint64_t due_ms = group_tick(group, now_ms);
        next_ms = due_ms < next_ms ? due_ms : next_ms;
    }
    log_kick(server->log);
    if (server->peers != NULL) {
        peers_flush(server->peers);
    }
    uv_timer_start(&server->wake, on_wake, next_ms > now_ms ? next_ms - now_ms : 1, 0);
}

/* --- duties ----------------------------------------------------------------------------------- */

static void watch_disk(struct server *server) {
    struct statvfs disk;
    if (statvfs(server->config->data_dir, &disk) != 0) {
        return;
    }
    server->disk_free = (uint64_t)disk.f_bavail * disk.f_frsize;
    bool low = server->disk_free < server->config->min_free_disk;
    if (low != server->disk_low) {
        server->disk_low = low;
        say_warn(low ? "disk nearly full: refusing writes" : "disk has room again",
                 "free_bytes=%llu min_free_disk=%llu", (unsigned long long)server->disk_free,
                 (unsigned long long)server->config->min_free_disk);
    }
}

bool server_disk_is_low(const struct server *server) {
    return server->disk_low || !log_has_space(server->log);
}

static void tend_space(struct server *server, uint64_t now_ms) {
    bool low = server_disk_is_low(server);
    for (unsigned i = 0; i < server->config->shards; i++) {
        uint64_t to = space_tend(&server->space, server->groups[i], i, low, now_ms);
        if (to != 0) {
            say_info("hands leadership to a node whose disk has space", "shard=%u to=%llu", i,
                     (unsigned long long)to);
        }
    }
}

/* A shard's leadership belongs to the nodes in turn, so that they share the work. */
static uint64_t preferred_leader(const struct server *server, unsigned shard) {
    uint64_t ids[LIMIT_NODES];
    unsigned n = group_voters(server->groups[shard], ids);
    for (unsigned i = 1; i < n; i++) {
        for (unsigned k = i; k > 0 && ids[k - 1] > ids[k]; k--) {
            uint64_t swap = ids[k];
            ids[k] = ids[k - 1];
            ids[k - 1] = swap;
        }
    }
    return n > 0 ? ids[shard % n] : 0;
}

static void balance(struct server *server, uint64_t now_ms) {
    const struct server_orders *orders = &server->orders;
    bool wanted = (server->config->rebalance && now_ms >= orders->balance_after_ms) ||
                  now_ms < orders->balance_until_ms;
    if (!wanted || server->stopping || orders->kind != CLUSTER_ORDER_NONE) {
        return;
    }
    uint64_t calm_ms = now_ms < orders->balance_until_ms ? 0 : SERVER_BALANCE_AFTER_MS;
    for (unsigned i = 0; i < server->config->shards; i++) {
        struct group *group = server->groups[i];
        uint64_t to = preferred_leader(server, i);
        if (group_role(group) != GROUP_LEADER || to == 0 || to == server->identity.node_id ||
            now_ms < server->leading_since_ms[i] + calm_ms || !peers_is_up(server->peers, to) ||
            group_match(group, to) + 64 < group_commit(group) || group_match(group, to) == 0 ||
            !space_may_lead(&server->space, group, to, now_ms)) {
            continue;
        }
        /* A refused or failed transfer is not tried again at once. */
        server->leading_since_ms[i] = now_ms;
        if (group_transfer(group, now_ms, to)) {
            say_info("hands leadership to its preferred node", "shard=%u to=%llu", i,
                     (unsigned long long)to);
            return; /* one at a time */
        }
    }
}

/* A quiet shard must not keep old segments alive. */
static void free_segments(struct server *server) {
    unsigned group = 0;
    unsigned max_segments =
        (unsigned)(2 + 2 * server->config->shards * server->config->snapshot_log_bytes /
                           server->config->segment_size);
    if (log_pinned_by(server->log, max_segments, &group)) {
        shard_want_checkpoint(&server->shards[group]);
    }
}

static void hand_over(struct server *server, uint64_t now_ms) {
    for (unsigned i = 0; i < server->config->shards; i++) {
        if (group_role(server->groups[i]) == GROUP_LEADER) {
            (void)group_transfer(server->groups[i], now_ms, 0);
        }
    }
    if (server_leads(server) == 0 || now_ms >= server->stop_deadline_ms ||
        server->config->n_nodes == 1) {
        server_close(server);
    }
}

void server_on_tick(struct server *server) {
    uint64_t now_ms = server_now(server);
    if (server->closing) {
        return;
    }
    if (server->started) {
        for (unsigned i = 0; i < server->config->shards; i++) {
            shard_tick(&server->shards[i], now_ms);
        }
    }
    watch_disk(server); /* often: clients fill a small disk within a second */
    if (server->started && !server->stopping) {
        tend_space(server, now_ms);
    }
    server_memory_tick(server, now_ms);
    router_tick(server->router, now_ms);
    if (now_ms >= server->last_duty_ms + SERVER_DUTY_MS) {
        server->last_duty_ms = now_ms;
        subscriptions_tick(&server->sessions, now_ms);
        if (!server->started) {
            server_try_start(server); /* a write may have failed the last time */
        } else {
            server_note_arrival(server);
            balance(server, now_ms);
            server_tend_members(server, now_ms);
            server_tend_backup(server, now_ms);
            free_segments(server);
        }
        server_publish(server, now_ms);
        server_notify(server, now_ms);
    }
    if (server->stopping) {
        hand_over(server, now_ms);
    }
}

/* --- digests ---------------------------------------------------------------------------------- */

static void compare(struct server *server, unsigned shard, const struct job_digest *own,
                    const struct job_digest *other) {
    if (own->index == 0 || own->index != other->index || own->digest == other->digest) {
        return;
    }
    server->digest_mismatches++;
    say_error("replicas differ: the state of this shard is not the leader's; rebuild one of the "
              "two nodes from its peers",
              "shard=%u index=%llu own=%llx leader=%llx", shard, (unsigned long long)own->index,
              (unsigned long long)own->digest, (unsigned long long)other->digest);
}

static unsigned digest_slot(uint64_t index) {
    return (unsigned)(index / JOB_DIGEST_EVERY % SERVER_DIGESTS);
}

void server_on_digest(struct server *server, unsigned shard, struct job_digest digest) {
    unsigned slot = digest_slot(digest.index);
    server->digests[shard].own[slot] = digest;
    compare(server, shard, &digest, &server->digests[shard].other[slot]);
    if (group_role(server->groups[shard]) != GROUP_LEADER) {
        return;
    }
    struct buffer header = {0};
    buffer_put_u64(&header, digest.index);
    buffer_put_u64(&header, digest.digest);
    struct peer_message message = {
        .type = PEER_MESSAGE_DIGEST, .group = (uint16_t)shard, .header = buffer_slice(&header)};
    for (unsigned i = 0; i < server->config->n_nodes; i++) {
        if (server->config->nodes[i].id != server->config->node_id) {
            (void)peers_send(server->peers, server->config->nodes[i].id, PEER_LANE_NORMAL,
                             &message);
        }
    }
    buffer_free(&header);
}

void server_receive_digest(struct server *server, uint64_t from,
                           const struct peer_message *message) {
    struct reader reader = reader_make(message->header);
    struct job_digest digest;
    digest.index = reader_u64(&reader);
    digest.digest = reader_u64(&reader);
    if (!reader_done(&reader) || group_leader(server->groups[message->group]) != from) {
        return;
    }
    unsigned slot = digest_slot(digest.index);
    server->digests[message->group].other[slot] = digest;
    compare(server, message->group, &server->digests[message->group].own[slot], &digest);
}
