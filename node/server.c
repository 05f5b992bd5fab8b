#include "node/server.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/mem.h"
#include "base/prng.h"
#include "node/logging.h"
#include "node/project_limits.h"
#include "node/release.h"
#include "node/server_internal.h"

enum { LINK_QUEUE_BYTES = 32 << 20, LINK_RECONNECT_MIN_MS = 20, LINK_RECONNECT_MAX_MS = 1000 };

static uint64_t clock_ms(clockid_t clock) {
    struct timespec now;
    (void)clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

uint64_t server_now(void *data) {
    (void)data;
    return clock_ms(CLOCK_MONOTONIC);
}

static uint64_t now_us(void *data) {
    struct timespec now;
    (void)data;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

uint64_t server_wall(void *data) {
    (void)data;
    return clock_ms(CLOCK_REALTIME);
}

/* --- opening ---------------------------------------------------------------------------------- */

static char *path_in(const struct server *server, const char *name) {
    size_t size = strlen(server->config->data_dir) + strlen(name) + 2;
    char *path = mem_alloc(size);
    snprintf(path, size, "%s/%s", server->config->data_dir, name);
    return path;
}

static enum error_code open_data_dir(struct server *server, struct error *error) {
    const struct config *config = server->config;
    enum error_code code = config_check_data_dir(config, error);
    if (code != ERROR_NONE) {
        return code;
    }
    code = identity_lock(config->data_dir, &server->lock_fd, error);
    if (code != ERROR_NONE) {
        return code;
    }
    code = identity_open(config->data_dir, config->cluster, config->node_id, config->shards,
                         &server->identity, error);
    if (code != ERROR_NONE) {
        return code;
    }
    return known_peers_load(config->data_dir, &server->identity, &server->known_peers, error);
}

static enum error_code open_log(struct server *server, struct error *error) {
    char *dir = path_in(server, "log");
    struct log_options options = {.dir = dir,
                                  .n_groups = server->config->shards,
                                  .segment_size = server->config->segment_size,
                                  .cache_size = server->config->log_cache,
                                  .identity = server->identity.incarnation,
                                  .must_exist = server->identity.boot > 0};
    enum error_code code = log_open(&server->log, server->loop, &options, error);
    mem_free(dir);
    return code != ERROR_NONE ? code
                              : identity_boot(server->config->data_dir, &server->identity, error);
}

/* What a backup left behind when the process ended. */
static void remove_copy(const char *db_path) {
    char path[CONFIG_PATH_SIZE + 48];
    snprintf(path, sizeof path, "%s.backup", db_path);
    (void)unlink(path);
}

static enum error_code open_machines(struct server *server, struct error *error) {
    for (unsigned i = 0; i < server->config->shards; i++) {
        char name[32];
        snprintf(name, sizeof name, "shard-%u.db", i);
        server->db_paths[i] = path_in(server, name);
        remove_copy(server->db_paths[i]);
        server->machine_options[i] = (struct machine_options){
            .path = server->db_paths[i],
            .cluster = server->config->cluster,
            .shard = i,
            .cache_bytes = server->config->shard_cache,
        };
    }
    return workers_open(&server->workers, server->loop, server->config->workers,
                        server->machine_options, server->config->shards, error);
}

/* Entries may be applied, since they are committed, before this node's log has them on disk. After
 * the death of the process alone, the database then is ahead of the log, which goes on behind it;
 * but what the database read back may be in memory only. A loss of power must not leave a log that
 * starts behind the database's end. */
static enum error_code secure_databases(struct server *server, struct error *error) {
    for (unsigned i = 0; i < server->config->shards; i++) {
        struct machine_state state = workers_initial_state(server->workers, i);
        if (group_log_fits(server->log, i, state.applied_index, state.applied_term)) {
            continue;
        }
        enum error_code code = workers_checkpoint_initial(server->workers, i, error);
        if (code != ERROR_NONE) {
            return error_wrap(error, "shard %u", i);
        }
    }
    return ERROR_NONE;
}

/* Tells this process's operations in the log from those of every other process that had this node
 * id, also before the node lost its disk and its boot counter with it. */
static uint64_t process_tag(const struct server *server) {
    return server->identity.incarnation + server->identity.boot;
}

static void make_groups(struct server *server) {
    const struct config *config = server->config;
    struct prng prng;
    prng_seed(&prng, server->identity.incarnation ^ server->identity.boot ^ server_now(server));
    for (unsigned i = 0; i < config->shards; i++) {
        struct group_options options = {.number = i,
                                        .self = config->node_id,
                                        .log = server->log,
                                        .heartbeat_ms = (unsigned)config->heartbeat_ms,
                                        .election_ms = (unsigned)config->election_ms,
                                        .seed = prng_next(&prng),
                                        .port = server_group_port(server)};
        server->groups[i] = group_new(&options);
        struct shard_options shard = {.number = i,
                                      .self = config->node_id,
                                      .boot = process_tag(server),
                                      .log = server->log,
                                      .group = server->groups[i],
                                      .port = server_shard_port(server),
                                      .snapshot_log_bytes = config->snapshot_log_bytes,
                                      .trailing_entries = (unsigned)config->trailing_entries,
                                      .tick_ms = (unsigned)config->heartbeat_ms};
        shard.feed_bytes = (size_t)config->feed_history;
        struct machine_state state = workers_initial_state(server->workers, i);
        shard_init(&server->shards[i], &shard, state);
        feed_restart(server->feed, i, state.applied_index);
    }
}

static void make_router(struct server *server) {
    const struct config *config = server->config;
    struct router_options options = {.self = config->node_id,
                                     .boot = process_tag(server),
                                     .n_shards = config->shards,
                                     .shards = server->shards,
                                     .request_timeout_ms = (unsigned)config->request_timeout_ms,
                                     .inflight_bytes_max = config->max_memory_inflight,
                                     .window_bytes = config->shard_window,
                                     .default_quota = config->default_quota,
                                     .port = server_router_port(server)};
    server->router = router_new(&options);
}

static enum error_code open_peers(struct server *server, struct error *error) {
    const struct config *config = server->config;
    struct peer_address nodes[LIMIT_NODES];
    struct peers_options options = {.self = config->node_id,
                                    .cluster = config->cluster,
                                    .identity = {.incarnation = server->identity.incarnation,
                                                 .cluster_id = server->identity.cluster_id,
                                                 .level = release_level()},
                                    .boot = server->identity.boot,
                                    .nodes = nodes,
                                    .queue_bytes = LINK_QUEUE_BYTES,
                                    .reconnect_min_ms = LINK_RECONNECT_MIN_MS,
                                    .reconnect_max_ms = LINK_RECONNECT_MAX_MS,
                                    .tls = server->tls.peers,
                                    .tls_required = config->peer_tls == CONFIG_TLS_REQUIRED,
                                    .callbacks = server_peers_callbacks(server)};
    snprintf(options.identity.release, sizeof options.identity.release, "%s", release_name());
    options.n_nodes = server_peer_addresses(config, nodes);
    options.listen = (struct peer_address){.id = config->node_id, .port = config->peer_listen.port};
    snprintf(options.listen.host, sizeof options.listen.host, "%.*s",
             (int)sizeof options.listen.host - 1, config->peer_listen.host);
    enum error_code code = peers_open(&server->peers, server->loop, &options, error);
    if (code != ERROR_NONE) {
        return code;
    }
    struct snapshot_callbacks callbacks = server_snapshot_callbacks(server);
    server->streams = snapshot_streams_new(server->loop, server->peers, &callbacks);
    return ERROR_NONE;
}

static void submit_op(void *data, struct op *op) {
    struct server *server = data;
    router_submit(server->router, op);
}

static bool replica_is_whole(void *data, unsigned shard) {
    const struct server *server = data;
    return server->started && router_replica_is_whole(server->router, shard);
}

static enum error_code carry_out_order(void *data, enum cluster_order order, uint64_t node,
                                       unsigned shard, struct error *error) {
    return order == CLUSTER_TRANSFER ? server_transfer(data, shard, node, error)
                                     : server_order(data, order, node, error);
}

/* getrandom() fills 256 bytes in one go once the system has gathered entropy, and waits for that.
 */
static enum error_code draw_random(void *data, void *bytes, size_t size, struct error *error) {
    (void)data;
    ASSERT(size <= 256);
    ssize_t filled;
    do {
        filled = getrandom(bytes, size, 0);
    } while (filled < 0 && errno == EINTR);
    return filled == (ssize_t)size
               ? ERROR_NONE
               : error_set_errno(error, errno, "cannot get random bytes from the system");
}

/* A part of the connections, so that clients that never finish theirs cannot keep out the rest. */
static unsigned max_handshakes(const struct config *config) {
    unsigned part = config->max_connections / 4;
    return part > LISTENER_HANDSHAKES_MIN ? part : LISTENER_HANDSHAKES_MIN;
}

static enum error_code open_clients(struct server *server, struct error *error) {
    const struct config *config = server->config;
    struct session_limits limits = {.n_shards = config->shards,
                                    .max_value = config->max_value,
                                    .max_pipeline = config->max_pipeline,
                                    .max_output = (size_t)config->max_output,
                                    .max_input = config->max_memory_inflight,
                                    .redirect = config->redirect,
                                    .slow_us = 1000 * config->slow_ms,
                                    .requests_per_second = config->requests_per_second};
    struct session_port port = {.data = server,
                                .submit = submit_op,
                                .now_ms = server_now,
                                .describe = server_describe,
                                .random = draw_random,
                                .find_leader = server_find_leader,
                                .order = carry_out_order,
                                .backup = server_backup,
                                .write_members = server_write_members,
                                .feed = server->feed,
                                .replica_is_whole = replica_is_whole,
                                .now_us = now_us,
                                .on_slow = server_on_slow,
                                .on_login_refused = server_on_login_refused,
                                .memory = server_memory_level,
                                .on_bound = server_on_bound};
    uint64_t seed;
    if (draw_random(server, &seed, sizeof seed, error) != ERROR_NONE) {
        return error->code;
    }
    server->logins = logins_new(config->login_failures, seed);
    session_host_init(&server->sessions, &limits, &port);
    server->sessions.logins = server->logins;
    server->sessions.requests = &server->watch.requests;
    server->sessions.credentials = &server->credentials;
    if (config->max_connections_per_project > 0 || config->requests_per_second > 0) {
        server->projects = project_limits_new(config->max_connections_per_project,
                                              config->requests_per_second, seed);
        server->sessions.projects = server->projects;
    }
    struct listener_options options = {.host = config->listen.host,
                                       .port = config->listen.port,
                                       .max_connections = config->max_connections,
                                       .receive_ms = config->receive_timeout_ms,
                                       .send_ms = config->send_timeout_ms,
                                       .idle_ms = config->idle_timeout_ms,
                                       .tls = server->tls.clients,
                                       .tls_required = config->tls == CONFIG_TLS_REQUIRED,
                                       .max_handshakes = max_handshakes(config),
                                       .handshake_ms = LISTENER_HANDSHAKE_MS};
    enum error_code code =
        listener_open(&server->listener, server->loop, &options, &server->sessions, error);
    if (code != ERROR_NONE) {
        return code;
    }
    return http_open(&server->http, &config->http_listen, error);
}

static void on_prepare(uv_prepare_t *prepare) {
    server_end_iteration(prepare->data);
}

static void on_tick(uv_timer_t *timer) {
    server_on_tick(timer->data);
}

static void start_loop_handles(struct server *server) {
    uv_prepare_init(server->loop, &server->prepare);
    uv_timer_init(server->loop, &server->wake);
    uv_timer_init(server->loop, &server->tick);
    server->open_handles = 3;
    server->prepare.data = server;
    server->wake.data = server;
    server->tick.data = server;
    /* Started after the listener's: libuv runs the newest first, so that replies which this
     * handle's work completes still leave in the same iteration. */
    uv_prepare_start(&server->prepare, on_prepare);
    uv_timer_start(&server->tick, on_tick, SERVER_TICK_MS, SERVER_TICK_MS);
}

/* --- closing ---------------------------------------------------------------------------------- */

static void free_server(struct server *server) {
    router_free(server->router);
    feed_free(server->feed);
    logins_free(server->logins);
    for (unsigned i = 0; i < server->config->shards; i++) {
        shard_free(&server->shards[i]);
        group_free(server->groups[i]);
        mem_free(server->db_paths[i]);
    }
    known_peers_free(&server->known_peers);
    server_watch_free(server);
    notify_close(&server->notify);
    project_limits_free(server->projects);
    tls_files_free(&server->tls);
    if (server->lock_fd >= 0) {
        (void)close(server->lock_fd);
    }
    payload_unref(server->bootstrap_config);
    mem_free(server);
}

static void handle_closed(uv_handle_t *handle) {
    struct server *server = handle->data;
    if (--server->open_handles == 0) {
        free_server(server);
    }
}

static void log_closed(void *data) {
    struct server *server = data;
    say_info("stopped", "node=%u", server->config->node_id);
    uv_close((uv_handle_t *)&server->prepare, handle_closed);
    uv_close((uv_handle_t *)&server->wake, handle_closed);
    uv_close((uv_handle_t *)&server->tick, handle_closed);
}

static void workers_closed(void *data) {
    struct server *server = data;
    uv_prepare_stop(&server->prepare);
    uv_timer_stop(&server->wake);
    log_close(server->log, log_closed, server);
}

static void peers_closed(void *data) {
    struct server *server = data;
    server->peers = NULL;
    for (unsigned i = 0; i < server->config->shards; i++) {
        shard_stop(&server->shards[i]);
    }
    workers_close(server->workers, workers_closed, server);
}

static void streams_closed(void *data) {
    struct server *server = data;
    peers_close(server->peers, peers_closed, server);
}

static void listener_closed(void *data) {
    struct server *server = data;
    server->listener = NULL;
    server->closing = true;
    server_end_backup(server);
    http_close(server->http);
    server->http = NULL;
    snapshot_streams_close(server->streams, streams_closed, server);
}

void server_close(struct server *server) {
    if (server->stopping && server->stop_deadline_ms == UINT64_MAX) {
        return; /* under way */
    }
    server->stopping = true;
    server->stop_deadline_ms = UINT64_MAX;
    uv_timer_stop(&server->tick);
    uv_timer_start(&server->tick, on_tick, SERVER_TICK_MS, SERVER_TICK_MS);
    listener_close(server->listener, SERVER_STOP_GRACE_MS, listener_closed, server);
}

/* The listener and the links look at the new keys before the old ones go. */
static void use_tls(struct server *server, struct tls_files *files) {
    if (files->clients != NULL && server->listener != NULL) {
        listener_set_tls(server->listener, files->clients);
    }
    if (files->peers != NULL && server->peers != NULL) {
        peers_set_tls(server->peers, files->peers);
    }
    tls_files_free(&server->tls);
    server->tls = *files;
    tls_files_say_expiry(&server->tls);
}

void server_reload(struct server *server, const struct config *fresh) {
    struct tls_files files;
    struct error error = {0};
    if (server->stopping) {
        return;
    }
    server_notify_reloading(server);
    server_take_nodes(server, fresh);
    if (tls_files_load(&files, server->config, &error) != ERROR_NONE) {
        say_error("certificates not reloaded, the old ones stay in use", "reason=%s",
                  error.message);
    } else {
        use_tls(server, &files);
        say_info("certificates reloaded", NULL);
    }
    notify_reloaded(&server->notify);
}

void server_stop(struct server *server) {
    if (server->stopping) {
        return;
    }
    say_info("stopping", "leads=%u", server_leads(server));
    notify_stopping(&server->notify);
    server->stopping = true;
    server->stop_deadline_ms = server_now(server) + SERVER_STOP_TRANSFER_MS;
    server->last_duty_ms = 0; /* tell at once */
    server_on_tick(server);
}

enum error_code server_open(struct server **out, struct uv_loop_s *loop, struct config *config,
                            struct error *error) {
    struct server *server = mem_zalloc(1, sizeof *server);
    *out = NULL;
    server->loop = loop;
    server->config = config;
    server->lock_fd = -1;
    server->started_ms = server_now(server);
    server_watch_init(server);
    notify_open(&server->notify);
    memory_ceiling_init(&server->memory, config->max_memory);
    for (unsigned i = 0; i < config->n_nodes; i++) {
        config_format_address(&config->nodes[i].client, server->addresses[i],
                              sizeof server->addresses[i]);
    }
    enum error_code code = credentials_load(&server->credentials, config, error);
    code = code != ERROR_NONE ? code : tls_files_load(&server->tls, config, error);
    code = code != ERROR_NONE ? code : open_data_dir(server, error);
    code = code != ERROR_NONE ? code : open_log(server, error);
    code = code != ERROR_NONE ? code : open_machines(server, error);
    code = code != ERROR_NONE ? code : secure_databases(server, error);
    if (code != ERROR_NONE) {
        return code;
    }
    server->feed = feed_new(config->shards, (size_t)config->feed_history);
    make_groups(server);
    make_router(server);
    code = open_peers(server, error);
    code = code != ERROR_NONE ? code : open_clients(server, error);
    if (code != ERROR_NONE) {
        return code;
    }
    tls_files_say_expiry(&server->tls);
    start_loop_handles(server);
    code = server_start_or_join(server, error);
    if (code != ERROR_NONE) {
        return code;
    }
    server_on_tick(server);
    *out = server;
    return ERROR_NONE;
}
