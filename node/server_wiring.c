/* The ports of the node's parts: who tells whom. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "node/forward.h"
#include "node/logging.h"
#include "node/server_internal.h"
#include "raft/messages.h"

/* --- groups ----------------------------------------------------------------------------------- */

static bool port_send(void *data, uint64_t to, enum peer_lane lane,
                      const struct peer_message *message) {
    struct server *server = data;
    return server->peers != NULL && peers_send(server->peers, to, lane, message);
}

static uint64_t port_queued_bytes(void *data, uint64_t to) {
    struct server *server = data;
    return server->peers != NULL ? peers_queued_bytes(server->peers, to) : 0;
}

static uint64_t port_bulk_queued(void *data, uint64_t to, uint16_t group) {
    struct server *server = data;
    return server->peers != NULL ? peers_bulk_queued(server->peers, to, group) : 0;
}

static bool port_disk_low(void *data) {
    return server_disk_is_low(data);
}

static bool port_log_is_full(void *data) {
    struct server *server = data;
    return !log_has_space(server->log);
}

static void group_clock_port(void *data, unsigned group, struct group_clock *clock) {
    struct server *server = data;
    shard_clock(&server->shards[group], clock);
}

static void group_role_port(void *data, unsigned group) {
    struct server *server = data;
    shard_on_role(&server->shards[group]);
}

static void group_commit_port(void *data, unsigned group) {
    struct server *server = data;
    shard_on_commit(&server->shards[group]);
}

static void group_reads_port(void *data, unsigned group, uint64_t round) {
    struct server *server = data;
    (void)round;
    router_on_reads(server->router, group);
}

static void group_on_clock_port(void *data, unsigned group, uint64_t from,
                                const struct group_clock *clock) {
    struct server *server = data;
    shard_on_clock(&server->shards[group], from, clock);
}

static void group_snapshot_port(void *data, unsigned group, uint64_t to) {
    struct server *server = data;
    if (server->streams != NULL && peers_is_up(server->peers, to)) {
        shard_on_snapshot_needed(&server->shards[group], to);
    }
}

static void group_installed_port(void *data, unsigned group) {
    struct server *server = data;
    shard_on_installed(&server->shards[group]);
}

struct group_port server_group_port(struct server *server) {
    return (struct group_port){.data = server,
                               .send = port_send,
                               .queued_bytes = port_queued_bytes,
                               .bulk_queued = port_bulk_queued,
                               .disk_low = port_disk_low,
                               .clock = group_clock_port,
                               .on_role = group_role_port,
                               .on_commit = group_commit_port,
                               .on_reads = group_reads_port,
                               .on_clock = group_on_clock_port,
                               .on_snapshot_needed = group_snapshot_port,
                               .on_installed = group_installed_port};
}

/* --- shards ----------------------------------------------------------------------------------- */

static void port_submit(void *data, struct job *job) {
    struct server *server = data;
    workers_submit(server->workers, job);
}

static bool shard_send_snapshot(void *data, unsigned shard, uint64_t to,
                                const struct snapshot_info *info) {
    struct server *server = data;
    if (server->closing || !snapshot_streams_send(server->streams, to, (uint16_t)shard,
                                                  server->db_paths[shard], info)) {
        return false;
    }
    say_info("sending a snapshot", "shard=%u to=%llu index=%llu bytes=%llu", shard,
             (unsigned long long)to, (unsigned long long)info->index,
             (unsigned long long)info->size);
    return true;
}

static void shard_discard(void *data, const char *path) {
    (void)data;
    (void)unlink(path);
}

static const char *role_name(enum group_role role) {
    switch (role) {
    case GROUP_LEADER:
        return "leader";
    case GROUP_CANDIDATE:
        return "candidate";
    case GROUP_FOLLOWER:
        return "follower";
    }
    return "unknown";
}

/* What a deposed leader still sends nobody wants, and while it does it cannot receive one. */
static void end_snapshots(struct server *server, unsigned shard) {
    for (unsigned i = 0; i < server->config->n_nodes && !server->closing; i++) {
        snapshot_streams_cancel(server->streams, server->config->nodes[i].id, (uint16_t)shard);
    }
}

static void shard_role_port(void *data, unsigned shard) {
    struct server *server = data;
    struct group *group = server->groups[shard];
    bool leads = group_role(group) == GROUP_LEADER;
    if (leads && server->leading_since_ms[shard] == 0) {
        server->leading_since_ms[shard] = server_now(server);
        say_info("leads", "shard=%u term=%llu", shard, (unsigned long long)group_term(group));
    } else if (!leads && server->leading_since_ms[shard] != 0) {
        server->leading_since_ms[shard] = 0;
        end_snapshots(server, shard);
        say_info("leads no more", "shard=%u term=%llu role=%s leader=%llu", shard,
                 (unsigned long long)group_term(group), role_name(group_role(group)),
                 (unsigned long long)group_leader(group));
    }
    server_note_leader(server, shard);
    router_on_role(server->router, shard);
}

static void shard_reads_port(void *data, unsigned shard) {
    struct server *server = data;
    router_on_reads(server->router, shard);
}

static void shard_applied_port(void *data, unsigned shard, struct job *job, uint64_t index,
                               uint64_t term, bool gap) {
    struct server *server = data;
    router_on_applied(server->router, shard, job, index, term, gap);
    if (gap) {
        feed_restart(server->feed, shard, index);
    } else {
        feed_applied(server->feed, shard, &job->events, index);
    }
}

static void shard_digest_port(void *data, unsigned shard, struct job_digest digest) {
    server_on_digest(data, shard, digest);
}

static void shard_event_port(void *data, unsigned shard, const char *event, uint64_t number) {
    (void)data;
    say_info(event, "shard=%u number=%llu", shard, (unsigned long long)number);
}

struct shard_port server_shard_port(struct server *server) {
    return (struct shard_port){.data = server,
                               .now_ms = server_now,
                               .wall_ms = server_wall,
                               .submit = port_submit,
                               .send_snapshot = shard_send_snapshot,
                               .discard = shard_discard,
                               .on_role = shard_role_port,
                               .on_reads = shard_reads_port,
                               .on_applied = shard_applied_port,
                               .on_digest = shard_digest_port,
                               .on_event = shard_event_port};
}

/* --- router ----------------------------------------------------------------------------------- */

static uint64_t router_link_epoch(void *data, uint64_t node) {
    struct server *server = data;
    return server->peers != NULL ? peers_epoch(server->peers, node) : 0;
}

static bool router_disk_low(void *data) {
    struct server *server = data;
    return server->disk_low;
}

static bool router_replies_full(void *data) {
    struct server *server = data;
    return server->sessions.reply_bytes > server->config->max_memory_inflight;
}

static enum memory_level router_memory(void *data) {
    uint64_t used, max;
    return server_memory_level(data, &used, &max);
}

struct router_port server_router_port(struct server *server) {
    return (struct router_port){.data = server,
                                .memory = router_memory,
                                .now_ms = server_now,
                                .send = port_send,
                                .link_epoch = router_link_epoch,
                                .submit = port_submit,
                                .replies_are_full = router_replies_full,
                                .queued_bytes = port_queued_bytes,
                                .log_is_full = port_log_is_full,
                                .disk_is_low = router_disk_low};
}

/* --- peers ------------------------------------------------------------------------------------ */

static void drop_message(struct peer_message *message) {
    for (unsigned i = 0; i < message->n_attachments; i++) {
        payload_unref(message->attachments[i]);
    }
}

static void say_malformed(uint64_t from, const struct peer_message *message) {
    say_warn("malformed message from a peer", "node=%llu type=%u shard=%u",
             (unsigned long long)from, message->type, message->group);
}

static void peers_message(void *data, uint64_t from, struct peer_message *message) {
    struct server *server = data;
    bool sound = true;
    if (server->closing || message->group >= server->config->shards) {
        drop_message(message);
        return;
    }
    if (message->type <= PEER_MESSAGE_RAFT_LAST) {
        sound = group_receive(server->groups[message->group], server_now(server), from, message);
    } else if (message->type >= PEER_MESSAGE_SNAPSHOT_FIRST &&
               message->type <= PEER_MESSAGE_SNAPSHOT_LAST) {
        snapshot_streams_receive(server->streams, from, message);
    } else if (message->type == PEER_MESSAGE_DIGEST) {
        server_receive_digest(server, from, message);
        drop_message(message);
    } else if (message->type == PEER_MESSAGE_ORDER) {
        server_receive_order(server, from, message);
        drop_message(message);
    } else {
        sound = server->started && router_receive(server->router, from, message);
        sound = sound || !server->started;
        drop_message(message);
    }
    if (!sound) {
        say_malformed(from, message);
    }
}

static void peers_link_out(void *data, uint64_t node, bool up, uint64_t epoch) {
    struct server *server = data;
    say_info(up ? "link up" : "link down", "to=%llu epoch=%llu", (unsigned long long)node,
             (unsigned long long)epoch);
    if (server->closing) {
        return;
    }
    if (!up) {
        snapshot_streams_link_lost(server->streams, node);
    } else {
        for (unsigned i = 0; i < server->config->n_nodes; i++) {
            if (server->config->nodes[i].id == node) {
                server->accepted[i] = true;
            }
        }
        for (unsigned i = 0; i < server->config->shards; i++) {
            group_link_up(server->groups[i], server_now(server), node);
        }
        server_try_start(server);
    }
    router_on_link(server->router, node, up);
}

static void peers_link_in(void *data, uint64_t node, bool up, uint64_t epoch) {
    struct server *server = data;
    (void)epoch;
    if (!up && !server->closing) {
        snapshot_streams_link_lost(server->streams, node);
    }
}

static void peers_gone(void *data, uint64_t node) {
    struct server *server = data;
    for (unsigned i = 0; i < server->config->shards && !server->closing; i++) {
        group_peer_gone(server->groups[i], server_now(server), node);
    }
}

static void peers_refused(void *data, uint64_t node, const char *reason) {
    struct server *server = data;
    if (strncmp(server->refusal, reason, sizeof server->refusal - 1) != 0) {
        snprintf(server->refusal, sizeof server->refusal, "%s", reason);
        say_error("refused by a peer", "node=%llu reason=%s", (unsigned long long)node, reason);
    }
}

static void peers_say(void *data, enum peers_log_level level, const char *text) {
    (void)data;
    if (level == PEERS_LOG_WARNING) {
        say_warn("peer link", "what=%s", text);
    } else {
        say_debug("peer link", "what=%s", text);
    }
}

struct peers_callbacks server_peers_callbacks(struct server *server) {
    return (struct peers_callbacks){.data = server,
                                    .on_message = peers_message,
                                    .on_link_out = peers_link_out,
                                    .on_link_in = peers_link_in,
                                    .on_gone = peers_gone,
                                    .check_peer = server_check_peer,
                                    .on_refused = peers_refused,
                                    .log = peers_say};
}

/* --- snapshots -------------------------------------------------------------------------------- */

static bool snapshot_offer(void *data, uint64_t from, uint16_t group,
                           const struct snapshot_info *info, char *path, size_t path_size) {
    struct server *server = data;
    if (server->closing || !server->started || group >= server->config->shards ||
        !shard_accepts_snapshot(&server->shards[group], info) ||
        server->disk_free < info->size + server->config->min_free_disk) {
        return false;
    }
    int length = snprintf(path, path_size, "%s.incoming", server->db_paths[group]);
    if (length < 0 || (size_t)length >= path_size) {
        return false;
    }
    say_info("receiving a snapshot", "shard=%u from=%llu index=%llu bytes=%llu", group,
             (unsigned long long)from, (unsigned long long)info->index,
             (unsigned long long)info->size);
    return true;
}

static void snapshot_received(void *data, uint64_t from, uint16_t group,
                              const struct snapshot_info *info, const char *path) {
    struct server *server = data;
    if (server->closing) {
        (void)unlink(path);
        return;
    }
    shard_on_snapshot_received(&server->shards[group], from, info, path);
}

static void snapshot_failed(void *data, uint64_t from, uint16_t group, const char *reason) {
    struct server *server = data;
    shard_on_snapshot_lost(&server->shards[group]);
    say_warn("a snapshot did not arrive", "shard=%u from=%llu reason=%s", group,
             (unsigned long long)from, reason);
}

static void snapshot_sent(void *data, uint64_t to, uint16_t group, enum error_code code,
                          const char *reason) {
    struct server *server = data;
    if (code != ERROR_NONE) {
        say_warn("a snapshot was not delivered", "shard=%u to=%llu reason=%s", group,
                 (unsigned long long)to, reason);
    }
    shard_on_snapshot_sent(&server->shards[group], to, code);
}

struct snapshot_callbacks server_snapshot_callbacks(struct server *server) {
    return (struct snapshot_callbacks){.data = server,
                                       .on_offer = snapshot_offer,
                                       .on_received = snapshot_received,
                                       .on_failed = snapshot_failed,
                                       .on_sent = snapshot_sent};
}
