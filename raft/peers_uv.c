#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>

#include "base/assert.h"
#include "base/mem.h"
#include "raft/peers_internal.h"

enum { LOG_LINE_SIZE = 768, LOG_LIMIT_MS = 1000 };

/* ---- services for the links ---- */

struct peer *peers_find(struct peers *peers, uint64_t node) {
    for (unsigned i = 0; i < peers->n_nodes; i++) {
        if (node != 0 && peers->nodes[i].address.id == node) {
            return &peers->nodes[i];
        }
    }
    return NULL;
}

static void log_line(struct peers *peers, enum peers_log_level level, const char *format,
                     va_list arguments) {
    const struct peers_callbacks *callbacks = &peers->options.callbacks;
    if (callbacks->log == NULL || peers->closing) {
        return;
    }
    char line[LOG_LINE_SIZE];
    vsnprintf(line, sizeof line, format, arguments);
    callbacks->log(callbacks->data, level, line);
}

void peers_log(struct peers *peers, enum peers_log_level level, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    log_line(peers, level, format, arguments);
    va_end(arguments);
}

void peers_log_limited(struct peers *peers, const char *format, ...) {
    struct log_limit *limit = &peers->log_limit;
    uint64_t now_ms = uv_now(peers->loop);
    if (now_ms < limit->next_ms) {
        limit->suppressed++;
        return;
    }
    if (limit->suppressed > 0) {
        peers_log(peers, PEERS_LOG_WARNING, "%u more lines about refused or damaged links left out",
                  limit->suppressed);
    }
    limit->suppressed = 0;
    limit->next_ms = now_ms + LOG_LIMIT_MS;
    va_list arguments;
    va_start(arguments, format);
    log_line(peers, PEERS_LOG_WARNING, format, arguments);
    va_end(arguments);
}

void peers_introduce(const struct peers *peers, struct wire_handshake *handshake) {
    snprintf(handshake->cluster, sizeof handshake->cluster, "%s", peers->options.cluster);
    handshake->from = peers->options.self;
    const struct peer_identity *identity = &peers->options.identity;
    handshake->incarnation = identity->incarnation;
    handshake->boot = peers->options.boot;
    handshake->cluster_id = identity->cluster_id;
    handshake->level = identity->level;
    handshake->wire_min = WIRE_VERSION;
    handshake->wire_max = WIRE_VERSION;
    snprintf(handshake->release, sizeof handshake->release, "%s", identity->release);
}

bool peers_check(const struct peers *peers, const struct wire_handshake *handshake,
                 struct error *error) {
    const struct peers_callbacks *callbacks = &peers->options.callbacks;
    struct peer_identity identity = {.incarnation = handshake->incarnation,
                                     .cluster_id = handshake->cluster_id,
                                     .level = handshake->level};
    snprintf(identity.release, sizeof identity.release, "%s", handshake->release);
    if (handshake->wire_min > WIRE_VERSION || handshake->wire_max < WIRE_VERSION) {
        (void)error_set(error, ERROR_VERSION,
                        "node %llu (release %s) speaks versions %u to %u of the peer protocol, "
                        "node %llu (release %s) version %d; neighbouring releases share one: "
                        "upgrade one release after the other",
                        (unsigned long long)handshake->from, identity.release, handshake->wire_min,
                        handshake->wire_max, (unsigned long long)peers->options.self,
                        peers->options.identity.release, WIRE_VERSION);
        return false;
    }
    return callbacks->check_peer(callbacks->data, handshake->from, &identity, error);
}

bool peers_parse_ip(const char *host, uint16_t port, struct sockaddr_storage *address) {
    memset(address, 0, sizeof *address);
    return uv_ip4_addr(host, port, (struct sockaddr_in *)address) == 0 ||
           uv_ip6_addr(host, port, (struct sockaddr_in6 *)address) == 0;
}

static void set_option(uv_tcp_t *tcp, int level, int name, int value) {
    uv_os_fd_t fd;
    if (uv_fileno((uv_handle_t *)tcp, &fd) == 0) {
        /* A kernel without the option works too, it only notices a dead peer later. */
        (void)setsockopt(fd, level, name, &value, sizeof value);
    }
}

void peers_tune_socket(uv_tcp_t *tcp) {
    set_option(tcp, IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(tcp, SOL_SOCKET, SO_SNDBUF, PEERS_SEND_BUFFER);
    set_option(tcp, IPPROTO_TCP, TCP_NOTSENT_LOWAT, PEERS_NOT_SENT_MAX);
    set_option(tcp, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(tcp, IPPROTO_TCP, TCP_KEEPIDLE, PEERS_KEEPALIVE_IDLE_S);
    set_option(tcp, IPPROTO_TCP, TCP_KEEPINTVL, PEERS_KEEPALIVE_INTERVAL_S);
    /* Linux takes this one instead of counting probes. */
    set_option(tcp, IPPROTO_TCP, TCP_USER_TIMEOUT, PEERS_USER_TIMEOUT_MS);
}

void peers_give_read_buffer(struct peers *peers, uv_buf_t *buffer) {
    *buffer = uv_buf_init((char *)peers->read_buffer, PEERS_READ_BUFFER);
}

static void peers_free(struct peers *peers) {
    mem_free((char *)peers->options.cluster);
    mem_free(peers->nodes);
    mem_free(peers->read_buffer);
    mem_free(peers);
}

void peers_release(struct peers *peers) {
    ASSERT(peers->n_open > 0);
    if (--peers->n_open > 0) {
        return;
    }
    void (*closed)(void *data) = peers->closed;
    void *data = peers->closed_data;
    peers_free(peers);
    if (closed != NULL) {
        closed(data);
    }
}

/* ---- open and close ---- */

static void on_handle_closed(uv_handle_t *handle) {
    peers_release(handle->data);
}

static void on_connection(uv_stream_t *listener, int status) {
    struct peers *peers = listener->data;
    if (status < 0) {
        peers_log_limited(peers, "cannot accept a peer's connection: %s", uv_strerror(status));
        return;
    }
    in_link_accept(peers);
}

static int resolve_listen(struct peers *peers, struct sockaddr_storage *address) {
    const struct peer_address *listen = &peers->options.listen;
    if (peers_parse_ip(listen->host, listen->port, address)) {
        return 0;
    }
    char port[8];
    snprintf(port, sizeof port, "%u", (unsigned)listen->port);
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    uv_getaddrinfo_t request;
    /* Without callback it blocks: nothing runs on the loop before a node listens. */
    int status = uv_getaddrinfo(peers->loop, &request, NULL, listen->host, port, &hints);
    if (status == 0) {
        memcpy(address, request.addrinfo->ai_addr, request.addrinfo->ai_addrlen);
        uv_freeaddrinfo(request.addrinfo);
    }
    return status;
}

static enum error_code start_listening(struct peers *peers, struct error *error) {
    const struct peer_address *listen = &peers->options.listen;
    struct sockaddr_storage address;
    int status = resolve_listen(peers, &address);
    if (status == 0) {
        status = uv_tcp_bind(&peers->listener, (const struct sockaddr *)&address, 0);
    }
    if (status == 0) {
        status = uv_listen((uv_stream_t *)&peers->listener, PEERS_BACKLOG, on_connection);
    }
    if (status == 0) {
        return ERROR_NONE;
    }
    return error_set(error, ERROR_IO,
                     "cannot listen for peers on %s port %u: %s; check the peer address in the "
                     "configuration and that no other process has it",
                     listen->host, (unsigned)listen->port, uv_strerror(status));
}

static struct peers *peers_new(struct uv_loop_s *loop, const struct peers_options *options) {
    ASSERT(options->n_nodes < LIMIT_NODES);
    ASSERT(options->boot <= UINT32_MAX);
    ASSERT(strlen(options->cluster) <= WIRE_CLUSTER_MAX);
    ASSERT(options->reconnect_min_ms > 0 && options->reconnect_min_ms <= options->reconnect_max_ms);
    struct peers *peers = mem_zalloc(1, sizeof *peers);
    peers->loop = loop;
    peers->options = *options;
    peers->options.cluster = mem_strdup(options->cluster);
    peers->options.nodes = NULL;
    peers->n_nodes = options->n_nodes;
    peers->nodes = mem_zalloc(LIMIT_NODES, sizeof *peers->nodes);
    peers->read_buffer = mem_alloc(PEERS_READ_BUFFER);
    list_init(&peers->strangers);
    prng_seed(&peers->prng, options->self ^ options->identity.incarnation ^ (options->boot << 20));
    for (unsigned i = 0; i < options->n_nodes; i++) {
        ASSERT(options->nodes[i].id != options->self);
        peers->nodes[i].peers = peers;
        peers->nodes[i].address = options->nodes[i];
    }
    return peers;
}

enum error_code peers_open(struct peers **out, struct uv_loop_s *loop,
                           const struct peers_options *options, struct error *error) {
    *out = NULL;
    struct peers *peers = peers_new(loop, options);
    uv_tcp_init(loop, &peers->listener);
    peers->listener.data = peers;
    peers->n_open = 1;
    enum error_code code = start_listening(peers, error);
    if (code != ERROR_NONE) {
        peers->closing = true;
        uv_close((uv_handle_t *)&peers->listener, on_handle_closed);
        return code;
    }
    for (unsigned i = 0; i < peers->n_nodes; i++) {
        struct peer *peer = &peers->nodes[i];
        uv_timer_init(loop, &peer->retry);
        peer->retry.data = peers;
        peers->n_open++;
        out_link_dial(peer);
    }
    *out = peers;
    return ERROR_NONE;
}

void peers_set_cluster_id(struct peers *peers, uint64_t cluster_id) {
    peers->options.identity.cluster_id = cluster_id;
}

static bool same_address(const struct peer_address *a, const struct peer_address *b) {
    return a->id == b->id && a->port == b->port && strcmp(a->host, b->host) == 0;
}

/* The timer stays, for the next node that takes the place. */
static void drop_peer(struct peer *peer) {
    const struct peers_callbacks *callbacks = &peer->peers->options.callbacks;
    uint64_t node = peer->address.id;
    struct out_link *out = peer->out;
    struct in_link *in = peer->in;
    bool was_out = out != NULL && out->state == OUT_UP;
    uint64_t out_epoch = out != NULL ? out->epoch : 0;
    uint64_t in_epoch = in != NULL ? in->epoch : 0;
    uv_timer_stop(&peer->retry);
    if (out != NULL) {
        out_link_abort(out);
    }
    if (in != NULL) {
        in_link_abort(in);
    }
    peer->address = (struct peer_address){0};
    if (was_out && callbacks->on_link_out != NULL) {
        callbacks->on_link_out(callbacks->data, node, false, out_epoch);
    }
    if (in != NULL && callbacks->on_link_in != NULL) {
        callbacks->on_link_in(callbacks->data, node, false, in_epoch);
    }
}

/* A place that nobody has; its timer is made when it is used for the first time. */
static struct peer *free_place(struct peers *peers) {
    for (unsigned i = 0; i < peers->n_nodes; i++) {
        if (peers->nodes[i].address.id == 0) {
            return &peers->nodes[i];
        }
    }
    ASSERT(peers->n_nodes < LIMIT_NODES);
    struct peer *peer = &peers->nodes[peers->n_nodes++];
    peer->peers = peers;
    uv_timer_init(peers->loop, &peer->retry);
    peer->retry.data = peers;
    peers->n_open++;
    return peer;
}

static void add_peer(struct peers *peers, const struct peer_address *address) {
    struct peer *peer = free_place(peers);
    peer->address = *address;
    peer->failures = 0;
    peer->dials_plain = false;
    peer->logged = 0;
    peer->in_epoch = 0;
    peer->in_incarnation = 0;
    out_link_dial(peer);
}

void peers_set_nodes(struct peers *peers, const struct peer_address *nodes, unsigned n_nodes) {
    ASSERT(n_nodes < LIMIT_NODES && !peers->closing);
    for (unsigned i = 0; i < peers->n_nodes; i++) {
        struct peer *peer = &peers->nodes[i];
        bool stays = peer->address.id == 0;
        for (unsigned k = 0; k < n_nodes && !stays; k++) {
            stays = same_address(&peer->address, &nodes[k]);
        }
        if (!stays) {
            drop_peer(peer);
        }
    }
    for (unsigned k = 0; k < n_nodes; k++) {
        ASSERT(nodes[k].id != 0 && nodes[k].id != peers->options.self);
        if (peers_find(peers, nodes[k].id) == NULL) {
            add_peer(peers, &nodes[k]);
        }
    }
}

void peers_set_tls(struct peers *peers, const struct tls_keys *keys) {
    ASSERT(keys != NULL && peers->options.tls != NULL);
    peers->options.tls = keys;
}

void peers_close(struct peers *peers, void (*closed)(void *data), void *data) {
    ASSERT(!peers->closing);
    peers->closing = true;
    peers->closed = closed;
    peers->closed_data = data;
    uv_close((uv_handle_t *)&peers->listener, on_handle_closed);
    for (unsigned i = 0; i < peers->n_nodes; i++) {
        struct peer *peer = &peers->nodes[i];
        uv_close((uv_handle_t *)&peer->retry, on_handle_closed);
        if (peer->out != NULL) {
            out_link_abort(peer->out);
        }
        if (peer->in != NULL) {
            in_link_abort(peer->in);
        }
    }
    struct list_node *node;
    while ((node = list_first(&peers->strangers)) != NULL) {
        in_link_abort(LIST_ENTRY(node, struct in_link, node));
    }
}

/* ---- use ---- */

/* The link to `node` when it is up. */
static struct out_link *up_link(const struct peers *peers, uint64_t node) {
    const struct peer *peer = peers_find((struct peers *)peers, node);
    bool up = peer != NULL && peer->out != NULL && peer->out->state == OUT_UP;
    return up ? peer->out : NULL;
}

bool peers_send(struct peers *peers, uint64_t to, enum peer_lane lane,
                const struct peer_message *message) {
    struct out_link *link = up_link(peers, to);
    return link != NULL && lanes_push(link->lanes, lane, message);
}

void peers_flush(struct peers *peers) {
    for (unsigned i = 0; i < peers->n_nodes; i++) {
        struct out_link *link = peers->nodes[i].out;
        if (link != NULL && link->state == OUT_UP) {
            out_link_flush(link);
        }
    }
}

bool peers_is_up(const struct peers *peers, uint64_t node) {
    return up_link(peers, node) != NULL;
}

uint64_t peers_epoch(const struct peers *peers, uint64_t node) {
    const struct out_link *link = up_link(peers, node);
    return link == NULL ? 0 : link->epoch;
}

uint64_t peers_boot(const struct peers *peers) {
    return peers->options.boot;
}

uint64_t peers_queued_bytes(const struct peers *peers, uint64_t node) {
    const struct out_link *link = up_link(peers, node);
    return link == NULL ? 0 : lanes_bytes(link->lanes);
}

uint64_t peers_bulk_queued(const struct peers *peers, uint64_t node, uint16_t group) {
    const struct out_link *link = up_link(peers, node);
    return link == NULL ? 0 : lanes_bulk_queued(link->lanes, group);
}
