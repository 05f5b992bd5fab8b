/* Shared by the server's own files: server.c (life), server_wiring.c (ports), server_duties.c
 * (periodic duties), server_describe.c (INFO). */
#ifndef NODE_SERVER_INTERNAL_H
#define NODE_SERVER_INTERNAL_H

#include <uv.h>

#include "node/credentials.h"
#include "node/feed.h"
#include "node/http.h"
#include "node/listener_uv.h"
#include "node/logins.h"
#include "node/memory_ceiling.h"
#include "node/metrics.h"
#include "node/notify.h"
#include "node/release.h"
#include "node/router.h"
#include "node/server.h"
#include "node/server_info.h"
#include "node/session.h"
#include "node/shard.h"
#include "node/space.h"
#include "node/tls_files.h"
#include "node/workers_uv.h"
#include "raft/identity.h"
#include "raft/peers.h"
#include "raft/snapshot_stream.h"

enum {
    SERVER_TICK_MS = 20,  /* deadlines, retries, expiry */
    SERVER_DUTY_MS = 500, /* disk space, leadership balance, checkpoints */
    SERVER_DIGESTS = 64,  /* remembered per shard, to compare with the others' */
    SERVER_BALANCE_AFTER_MS = 5000,
    SERVER_WALK_MS = 10000, /* between two walks through the projects of a shard, for metrics */
    SERVER_SLOW_MS = 1000,  /* between two lines about slow operations */
    SERVER_LOGIN_MS = 1000, /* and about refused logins */
    SERVER_SAY_AGAIN_MS =
        10000, /* between two lines about a peer that is refused again and again */
    SERVER_STOP_TRANSFER_MS = 3000, /* how long a stop waits for leaderships to be taken over */
    SERVER_STOP_GRACE_MS = 1000     /* and for replies to leave */
};

struct server_digests {
    struct job_digest own[SERVER_DIGESTS];   /* by (index / JOB_DIGEST_EVERY) modulo the size */
    struct job_digest other[SERVER_DIGESTS]; /* a leader's, for an index not applied here yet */
};

/* What only metrics and logs want to know. */
struct server_watch {
    struct requests requests;
    uint64_t leaders[LIMIT_SHARDS];        /* who led last, 0: nobody yet */
    uint64_t leader_changes[LIMIT_SHARDS]; /* to another node than before */
    uint64_t walked_ms[LIMIT_SHARDS];      /* when the newest walk through the projects began */
    bool walking[LIMIT_SHARDS];
    struct machine_top *tops[LIMIT_SHARDS]; /* result of the newest walk, NULL: none */
    uint64_t slow_said_ms;
    uint64_t slow_unsaid;   /* since then */
    uint64_t login_said_ms; /* the same for refused logins */
    uint64_t login_unsaid;
    struct metrics metrics;
};

/* What an operator wants to become of the cluster, until it is done or given up. All nodes know it,
 * so that whoever leads a shard acts on it. */
struct server_orders {
    enum cluster_order kind; /* CLUSTER_ORDER_NONE: nothing is to be done */
    uint64_t node;
    uint64_t until_ms;
    uint64_t out;    /* bit per shard: this node saw it without that voter */
    bool brings_in;  /* of CLUSTER_REPLACE: it is out of all shards, and comes back */
    uint64_t number; /* of the newest order, which is told several times */
    uint64_t given;  /* orders given at this node */

    /* The order that this node repeats to the others, CLUSTER_ORDER_NONE: none. */
    enum cluster_order tells;
    uint64_t tells_node;
    uint64_t tells_incarnation; /* of the directory that was lost, 0: not known here */
    bool tells_done;            /* what is repeated is that the node is out everywhere */
    uint64_t tells_until_ms;
    uint64_t told_ms;

    uint64_t balance_after_ms; /* leaderships stay where they are until then */
    uint64_t balance_until_ms; /* until then they are handed back whatever is configured */
    uint64_t said_ms;          /* when a step that cannot be taken was last logged */
};

/* Another node, as it introduced itself. */
struct server_peer {
    uint64_t node;
    uint64_t cluster_id;
    uint32_t level;
    char release[PEER_RELEASE_SIZE];
};

struct server {
    uv_loop_t *loop;
    struct config *config; /* `node` lines change with server_reload() */
    uint64_t started_ms;

    int lock_fd;
    struct identity identity;
    struct known_peers known_peers;
    struct log *log;
    struct workers *workers;
    struct group *groups[LIMIT_SHARDS];
    struct shard shards[LIMIT_SHARDS];
    struct server_digests digests[LIMIT_SHARDS];
    char *db_paths[LIMIT_SHARDS];
    struct machine_options machine_options[LIMIT_SHARDS];
    struct peers *peers;
    struct snapshot_streams *streams;
    struct router *router;
    struct feed *feed;
    struct credentials credentials;
    struct logins *logins;
    struct tls_files tls;
    struct session_host sessions;
    struct project_limits *projects; /* NULL: without limits */
    struct memory_ceiling memory;
    uint64_t memory_trimmed_ms;
    uint64_t busy_seen; /* refusals of the router that are counted among the bounds */
    uint64_t pressed_seen;
    struct listener *listener;
    struct http *http;

    uv_prepare_t prepare;
    uv_timer_t wake; /* ends the poll phase when a Raft timer is due */
    uv_timer_t tick;
    unsigned open_handles; /* of these three */
    uint64_t last_duty_ms;

    /* Joining the cluster for the first time: every other node must have accepted this one. */
    bool started;
    bool accepted[LIMIT_NODES]; /* by position in config->nodes */
    struct log_request bootstrap;
    struct payload *bootstrap_config;
    bool bootstrapping;
    uint64_t refused_said_ms; /* when a refused peer was last logged */
    char refusal[256];        /* what a peer said when it refused this node, or empty */

    struct server_watch watch;
    struct notify notify;
    bool disk_low;
    uint64_t disk_free;
    struct space space;
    uint64_t digest_mismatches;
    uint64_t leading_since_ms[LIMIT_SHARDS];
    char addresses[LIMIT_NODES][CONFIG_HOST_SIZE + 8];

    struct server_orders orders;
    struct backup *backup;                /* NULL: none is under way */
    struct server_peer seen[LIMIT_NODES]; /* what other nodes said of themselves */
    unsigned n_seen;

    bool stopping;
    uint64_t stop_deadline_ms;
    bool closing;
};

uint64_t server_now(void *data);  /* monotonic ms */
uint64_t server_wall(void *data); /* ms since the Unix epoch */

/* server_join.c: starts the groups once the node belongs to the cluster. */
void server_try_start(struct server *server);
/* The node's new data directory was let in, since all shards have taken the former one out: what an
 * order to replace it waits for. To take the node out once more would hit its new self. */
void server_note_new_directory(struct server *server, uint64_t node);
/* Notes durably which shards' present this newcomer knows: there it is a member like others. */
void server_note_arrival(struct server *server);
void server_close(struct server *server);

/* server_wiring.c */
struct group_port server_group_port(struct server *server);
struct shard_port server_shard_port(struct server *server);
struct router_port server_router_port(struct server *server);
struct peers_callbacks server_peers_callbacks(struct server *server);
struct snapshot_callbacks server_snapshot_callbacks(struct server *server);

/* server_memory.c */
/* Reads the resident size, about every 20 ms. */
void server_memory_tick(struct server *server, uint64_t now_ms);
/* As session_port.memory and router_port.memory. */
enum memory_level server_memory_level(void *data, uint64_t *used, uint64_t *max);

/* server_duties.c */
void server_end_iteration(struct server *server);
void server_on_tick(struct server *server);
void server_on_digest(struct server *server, unsigned shard, struct job_digest digest);
void server_receive_digest(struct server *server, uint64_t from,
                           const struct peer_message *message);
unsigned server_leads(const struct server *server); /* number of shards led by this node */
/* The disk is nearly full, or the log has no room: the node refuses what grows. */
bool server_disk_is_low(const struct server *server);

/* server_members.c: membership of the groups */
enum server_presence { ABSENT, STANDBY, VOTER };
enum server_presence server_presence_of(const struct group *group, uint64_t id);
void server_tend_members(struct server *server, uint64_t now_ms);
/* True when nothing depends any more on what `node` was before, as far as this node knows: no shard
 * counts on its vote or on what it stored. */
bool server_may_forget(const struct server *server, uint64_t node);
/* CLUSTER MEMBERS, see session_port.write_members. */
void server_write_members(void *data, struct buffer *out, int version);

/* server_orders.c: what operators want */
enum error_code server_order(struct server *server, enum cluster_order order, uint64_t node,
                             struct error *error);
/* CLUSTER TRANSFER: hands the leadership of a shard that this node leads to `node`, 0: to the best.
 */
enum error_code server_transfer(struct server *server, unsigned shard, uint64_t node,
                                struct error *error);
/* server_order() for a node that lost its disk: all groups take it out and in again. */
enum error_code server_replace(struct server *server, uint64_t node, struct error *error);
void server_receive_order(struct server *server, uint64_t from, const struct peer_message *message);
void server_tend_orders(struct server *server, uint64_t now_ms);

/* server_join.c: how a node becomes part of a cluster */
/* All nodes of the configuration as voters, in the order of their ids. */
struct payload *server_initial_config(const struct config *config);
enum error_code server_start_or_join(struct server *server, struct error *error);
/* See peers_callbacks.check_peer. */
bool server_check_peer(void *data, uint64_t node, const struct peer_identity *identity,
                       struct error *error);
/* What `node` said of itself, NULL: nothing yet. */
const struct server_peer *server_seen(const struct server *server, uint64_t node);
/* Takes over the nodes of `fresh`; see server_reload(). */
void server_take_nodes(struct server *server, const struct config *fresh);
/* Addresses of all other nodes; returns their number. */
unsigned server_peer_addresses(const struct config *config, struct peer_address *addresses);

/* server_backup.c */
enum error_code server_backup(void *data, const struct backup_request *request, struct buffer *out,
                              int version, struct error *error);
void server_tend_backup(struct server *server, uint64_t now_ms);
/* The node stops. */
void server_end_backup(struct server *server);

/* server_describe.c */
void server_describe(void *data, struct server_info *info);
/* See session_port.find_leader. */
bool server_find_leader(void *data, unsigned shard, const char **host, uint16_t *port);

/* server_notify.c: tells the service manager what is new. Twice a second. */
void server_notify(struct server *server, uint64_t now_ms);
void server_notify_reloading(struct server *server);

/* server_watch.c */
void server_watch_init(struct server *server);
void server_watch_free(struct server *server);
/* Leader or role of the shard may have changed. */
void server_note_leader(struct server *server, unsigned shard);
/* See session_port.on_slow. */
void server_on_bound(void *data, enum bound bound, const char *peer, struct slice project,
                     const char *text);
void server_on_slow(void *data, const struct session_slow *slow);
/* See session_port.on_login_refused. */
void server_on_login_refused(void *data, const struct session_login *login);
/* Publishes figures and readiness, and begins walks through the projects. Twice a second. */
void server_publish(struct server *server, uint64_t now_ms);

#endif
