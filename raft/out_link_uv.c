/* Links that this node dials: name look-up, connect, handshake, then batches of its lanes. */
#include <stdio.h>

#include "base/assert.h"
#include "base/mem.h"
#include "raft/link_tls.h"
#include "raft/peers_internal.h"

static void on_deadline(uv_timer_t *timer);
static void send_hello(struct out_link *link);

static void out_link_free_when_idle(struct out_link *link) {
    ASSERT(link->n_pending > 0);
    if (--link->n_pending > 0) {
        return;
    }
    struct peers *peers = link->peer->peers;
    lanes_free(link->lanes);
    tls_stream_free(link->tls);
    buffer_free(&link->flying);
    mem_free(link);
    peers_release(peers);
}

static void on_handle_closed(uv_handle_t *handle) {
    out_link_free_when_idle(handle->data);
}

void out_link_abort(struct out_link *link) {
    ASSERT(link->state != OUT_CLOSED);
    if (link->state == OUT_RESOLVING) {
        /* When it is too late for that, the result is ignored. */
        (void)uv_cancel((uv_req_t *)&link->resolve);
    }
    link->state = OUT_CLOSED;
    link->peer->out = NULL;
    uv_close((uv_handle_t *)&link->tcp, on_handle_closed);
    uv_close((uv_handle_t *)&link->deadline, on_handle_closed);
}

static void on_retry(uv_timer_t *timer) {
    out_link_dial(LIST_ENTRY(timer, struct peer, retry));
}

/* The pause doubles with each failure up to the maximum; jitter takes up to half of it away, so
 * that nodes that lost each other do not dial in step. */
static void schedule_retry(struct peer *peer) {
    struct peers *peers = peer->peers;
    uint64_t pause_ms = peers->options.reconnect_min_ms;
    for (unsigned i = 1; i < peer->failures && pause_ms < peers->options.reconnect_max_ms; i++) {
        pause_ms *= 2;
    }
    if (pause_ms > peers->options.reconnect_max_ms) {
        pause_ms = peers->options.reconnect_max_ms;
    }
    pause_ms -= prng_below(&peers->prng, pause_ms / 2 + 1);
    uv_timer_start(&peer->retry, on_retry, pause_ms, 0);
}

void out_link_hurry(struct peer *peer) {
    if (peer->out == NULL && !peer->peers->closing) {
        uv_timer_start(&peer->retry, on_retry, 0, 0);
    }
}

/* Ends the link and plans the next dial. `gone`: the other side's process seems to have ended. */
static void out_link_end(struct out_link *link, bool gone) {
    struct peer *peer = link->peer;
    struct peers *peers = peer->peers;
    const struct peers_callbacks *callbacks = &peers->options.callbacks;
    bool was_up = link->state == OUT_UP;
    if (link->state == OUT_GREETING) {
        /* Where TLS is not required the other side may not have it yet, or require it. */
        peer->dials_plain = link->tls != NULL && !peers->options.tls_required &&
                            tls_stream_state(link->tls) != TLS_STREAM_UP;
    }
    out_link_abort(link);
    peer->failures++;
    schedule_retry(peer);
    if (was_up && callbacks->on_link_out != NULL) {
        callbacks->on_link_out(callbacks->data, peer->address.id, false, link->epoch);
    }
    if (gone && !peers->closing && callbacks->on_gone != NULL) {
        callbacks->on_gone(callbacks->data, peer->address.id);
    }
}

/* A dial that failed: said once per kind of failure, not at every attempt. */
static void dial_failed(struct out_link *link, const char *what, int status) {
    struct peer *peer = link->peer;
    if (peer->logged != status) {
        peer->logged = status;
        peers_log(peer->peers, PEERS_LOG_WARNING, "node %llu at %s port %u: %s: %s; trying again",
                  (unsigned long long)peer->address.id, peer->address.host,
                  (unsigned)peer->address.port, what, uv_strerror(status));
    }
    out_link_end(link, status == UV_ECONNREFUSED);
}

static void on_deadline(uv_timer_t *timer) {
    dial_failed(timer->data, "no link within the time for a handshake", UV_ETIMEDOUT);
}

/* ---- handshake ---- */

/* This node does not want the link: a wrong answer, or a node that must not be spoken to. */
static void reject(struct out_link *link, const struct error *error) {
    struct peer *peer = link->peer;
    peers_log_limited(peer->peers, "node %llu at %s port %u: link given up: %s",
                      (unsigned long long)peer->address.id, peer->address.host,
                      (unsigned)peer->address.port, error->message);
    out_link_end(link, false);
}

static enum error_code check_welcome(struct out_link *link, const struct wire_handshake *welcome,
                                     struct error *error) {
    struct peers *peers = link->peer->peers;
    uint64_t node = link->peer->address.id;
    if (welcome->kind != WIRE_WELCOME) {
        return error_set(error, ERROR_CORRUPT, "expected WELCOME or REFUSED, got kind %d",
                         (int)welcome->kind);
    }
    if (strcmp(welcome->cluster, peers->options.cluster) != 0) {
        return error_set(error, ERROR_MISMATCH, "belongs to cluster '%s', this node to '%s'",
                         welcome->cluster, peers->options.cluster);
    }
    if (welcome->from != node) {
        return error_set(error, ERROR_MISMATCH,
                         "node %llu answered; check the peer addresses in the configuration",
                         (unsigned long long)welcome->from);
    }
    return peers_check(peers, welcome, error) ? ERROR_NONE : ERROR_MISMATCH;
}

static void refused(struct out_link *link, const struct wire_handshake *answer) {
    struct peer *peer = link->peer;
    const struct peers_callbacks *callbacks = &peer->peers->options.callbacks;
    out_link_end(link, false);
    if (callbacks->on_refused != NULL) {
        callbacks->on_refused(callbacks->data, peer->address.id, answer->reason);
    }
}

static void established(struct out_link *link) {
    struct peer *peer = link->peer;
    const struct peers_callbacks *callbacks = &peer->peers->options.callbacks;
    uv_timer_stop(&link->deadline);
    link->state = OUT_UP;
    link->lanes = lanes_new(peer->peers->options.queue_bytes);
    peer->failures = 0;
    peer->logged = 0;
    if (callbacks->on_link_out != NULL) {
        callbacks->on_link_out(callbacks->data, peer->address.id, true, link->epoch);
    }
}

static void on_greeting(struct out_link *link, struct slice input) {
    struct wire_handshake answer;
    struct error error = {0};
    enum wire_status status = wire_handshake_decode(&link->greeting, &input, &answer, &error);
    if (status == WIRE_MORE) {
        return;
    }
    if (status == WIRE_FOUND && answer.kind == WIRE_REFUSED) {
        refused(link, &answer);
        return;
    }
    if (status == WIRE_FOUND && input.size > 0) {
        error_set(&error, ERROR_CORRUPT, "bytes behind the handshake");
        status = WIRE_BROKEN;
    }
    if (status == WIRE_BROKEN || check_welcome(link, &answer, &error) != ERROR_NONE) {
        if (link->state != OUT_CLOSED) {
            reject(link, &error);
        }
        return;
    }
    if (link->state != OUT_CLOSED) {
        established(link);
    }
}

/* ---- reading: only the handshake's answer, then nothing but the end ---- */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer) {
    (void)suggested;
    struct out_link *link = handle->data;
    peers_give_read_buffer(link->peer->peers, buffer);
}

static bool means_gone(long status) {
    return status == UV_EOF || status == UV_ECONNRESET || status == UV_EPIPE;
}

static void on_plain(struct out_link *link, struct slice input) {
    if (link->state == OUT_GREETING) {
        on_greeting(link, input);
        return;
    }
    struct error error;
    error_set(&error, ERROR_CORRUPT, "unexpected bytes on a link that only sends");
    reject(link, &error);
}

/* The other side is the node that was wanted, and hears who this one is; false when the link was
 * given up. */
static bool greet_encrypted(struct out_link *link) {
    struct error error;
    struct peer *peer = link->peer;
    if (link_tls_check(peer->peers, link->tls, peer->address.id, &error) != ERROR_NONE) {
        reject(link, &error);
        return false;
    }
    send_hello(link);
    return true;
}

static void on_encrypted(struct out_link *link, struct slice input) {
    uint8_t plain[TLS_RECORD_SIZE];
    bool was_shaking = tls_stream_state(link->tls) == TLS_STREAM_SHAKING;
    tls_stream_feed(link->tls, input);
    enum tls_stream_state state = tls_stream_shake(link->tls);
    link_tls_send(link->tls, &link->tcp);
    if (was_shaking && state == TLS_STREAM_UP && !greet_encrypted(link)) {
        return;
    }
    while (state != TLS_STREAM_SHAKING && link->state != OUT_CLOSED) {
        size_t size = tls_stream_read(link->tls, plain, sizeof plain);
        if (size == 0) {
            break;
        }
        on_plain(link, slice_make(plain, size));
    }
    if (link->state == OUT_CLOSED) {
        return;
    }
    link_tls_send(link->tls, &link->tcp);
    state = tls_stream_state(link->tls);
    if (state == TLS_STREAM_BROKEN) {
        struct error error;
        error_set(&error, ERROR_MISMATCH, "TLS: %s", tls_stream_error(link->tls));
        reject(link, &error);
    } else if (state == TLS_STREAM_ENDED) {
        out_link_end(link, true);
    }
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer) {
    struct out_link *link = stream->data;
    if (n == 0 || link->state == OUT_CLOSED) {
        return;
    }
    if (n < 0 && link->state == OUT_UP) {
        out_link_end(link, means_gone(n));
    } else if (n < 0) {
        dial_failed(link, "connection ended during the handshake", (int)n);
    } else if (link->tls != NULL) {
        on_encrypted(link, slice_make(buffer->base, (size_t)n));
    } else {
        on_plain(link, slice_make(buffer->base, (size_t)n));
    }
}

/* ---- writing ---- */

static void on_written(uv_write_t *write, int status) {
    struct out_link *link = write->data;
    link->writing = false;
    if (link->state == OUT_CLOSED) {
        return;
    }
    if (status < 0 && link->state == OUT_UP) {
        out_link_end(link, means_gone(status));
        return;
    }
    if (status < 0) {
        dial_failed(link, "cannot send the handshake", status);
        return;
    }
    if (link->batching) {
        link->batching = false;
        lanes_release(link->lanes);
    }
    if (link->state == OUT_UP) {
        out_link_flush(link);
    }
}

static void start_write(struct out_link *link, const uv_buf_t *buffers, unsigned n) {
    link->writing = true;
    link->write.data = link;
    int status = uv_write(&link->write, (uv_stream_t *)&link->tcp, buffers, n, on_written);
    if (status < 0) {
        /* Not from here: this may run within peers_flush(), where no callback is expected. */
        uv_timer_start(&link->deadline, on_deadline, 0, 0);
    }
}

/* Writes what the kernel takes at once; false when something is left, which is then under way. */
static bool write_batch(struct out_link *link, const struct slice *pieces, unsigned n,
                        bool may_finish_now) {
    ASSERT(n > 0 && n <= LANES_PIECES_MAX);
    uv_buf_t buffers[LANES_PIECES_MAX];
    for (unsigned i = 0; i < n; i++) {
        buffers[i] = uv_buf_init((char *)pieces[i].data, (unsigned)pieces[i].size);
    }
    int written = 0;
    if (may_finish_now) {
        written = uv_try_write((uv_stream_t *)&link->tcp, buffers, n);
    }
    /* Errors other than EAGAIN come back through the callback of uv_write. */
    size_t skip = written > 0 ? (size_t)written : 0;
    unsigned first = 0;
    while (first < n && skip >= buffers[first].len) {
        skip -= buffers[first].len;
        first++;
    }
    if (first == n) {
        return true;
    }
    buffers[first].base += skip;
    buffers[first].len -= skip;
    link->batching = true;
    start_write(link, buffers + first, n - first);
    return false;
}

/* As write_batch(), encrypted: the pieces are copied, so the batch is done with in any case. */
static void write_encrypted(struct out_link *link, const struct slice *pieces, unsigned n,
                            bool may_finish_now) {
    ASSERT(!link->writing);
    link->flying.size = 0;
    for (unsigned i = 0; i < n; i++) {
        if (!tls_stream_write(link->tls, pieces[i])) {
            /* Not from here, as in start_write(). */
            link->writing = true;
            uv_timer_start(&link->deadline, on_deadline, 0, 0);
            return;
        }
    }
    link_tls_take(link->tls, &link->flying);
    uv_buf_t buffer = uv_buf_init((char *)link->flying.data, (unsigned)link->flying.size);
    int written = 0;
    if (may_finish_now) {
        written = uv_try_write((uv_stream_t *)&link->tcp, &buffer, 1);
    }
    size_t skip = written > 0 ? (size_t)written : 0;
    buffer.base += skip;
    buffer.len -= skip;
    if (buffer.len > 0) {
        start_write(link, &buffer, 1);
    }
}

void out_link_flush(struct out_link *link) {
    ASSERT(link->state == OUT_UP);
    for (unsigned round = 1; !link->writing; round++) {
        const struct slice *pieces;
        unsigned n = lanes_compose(link->lanes, &pieces);
        if (n == 0) {
            return;
        }
        if (link->tls != NULL) {
            write_encrypted(link, pieces, n, round < PEERS_TRY_WRITES_MAX);
            lanes_release(link->lanes);
            continue;
        }
        if (write_batch(link, pieces, n, round < PEERS_TRY_WRITES_MAX)) {
            lanes_release(link->lanes);
        }
    }
}

/* ---- dialing ---- */

static void send_hello(struct out_link *link) {
    struct wire_handshake hello = {
        .kind = WIRE_HELLO, .epoch = link->epoch, .to = link->peer->address.id};
    peers_introduce(link->peer->peers, &hello);
    size_t size = wire_handshake_encode(&hello, link->hello);
    if (link->tls != NULL) {
        (void)tls_stream_write(link->tls, slice_make(link->hello, size));
        link_tls_send(link->tls, &link->tcp);
        return;
    }
    uv_buf_t buffer = uv_buf_init((char *)link->hello, (unsigned)size);
    start_write(link, &buffer, 1);
}

static void on_connected(uv_connect_t *connect, int status) {
    struct out_link *link = connect->data;
    if (link->state == OUT_CLOSED) {
        return;
    }
    if (status < 0) {
        dial_failed(link, "cannot connect", status);
        return;
    }
    peers_tune_socket(&link->tcp);
    status = uv_read_start((uv_stream_t *)&link->tcp, on_alloc, on_read);
    if (status < 0) {
        dial_failed(link, "cannot read", status);
        return;
    }
    link->state = OUT_GREETING;
    const struct peers_options *options = &link->peer->peers->options;
    if (options->tls == NULL || link->peer->dials_plain) {
        send_hello(link);
        return;
    }
    link->tls = tls_stream_connect(options->tls);
    (void)tls_stream_shake(link->tls);
    link_tls_send(link->tls, &link->tcp);
}

static void connect_to(struct out_link *link, const struct sockaddr *address) {
    link->state = OUT_CONNECTING;
    link->connect.data = link;
    int status = uv_tcp_connect(&link->connect, &link->tcp, address, on_connected);
    if (status < 0) {
        dial_failed(link, "cannot connect", status);
    }
}

/* A name may have several addresses: each dial takes the next one. */
static const struct sockaddr *choose_address(const struct addrinfo *list, unsigned failures) {
    unsigned n = 0;
    for (const struct addrinfo *at = list; at != NULL; at = at->ai_next) {
        n++;
    }
    ASSERT(n > 0);
    for (unsigned i = failures % n; i > 0; i--) {
        list = list->ai_next;
    }
    return list->ai_addr;
}

static void on_resolved(uv_getaddrinfo_t *resolve, int status, struct addrinfo *list) {
    struct out_link *link = resolve->data;
    if (link->state != OUT_CLOSED && status < 0) {
        dial_failed(link, "cannot resolve the name", status);
    } else if (link->state != OUT_CLOSED) {
        connect_to(link, choose_address(list, link->peer->failures));
    }
    uv_freeaddrinfo(list);
    out_link_free_when_idle(link);
}

static void resolve_name(struct out_link *link) {
    const struct peer_address *address = &link->peer->address;
    char port[8];
    snprintf(port, sizeof port, "%u", (unsigned)address->port);
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    link->resolve.data = link;
    int status =
        uv_getaddrinfo(link->tcp.loop, &link->resolve, on_resolved, address->host, port, &hints);
    if (status == 0) {
        link->n_pending++;
        return;
    }
    link->state = OUT_CONNECTING; /* nothing to cancel */
    dial_failed(link, "cannot resolve the name", status);
}

void out_link_dial(struct peer *peer) {
    struct peers *peers = peer->peers;
    ASSERT(peer->out == NULL && !peers->closing);
    struct out_link *link = mem_zalloc(1, sizeof *link);
    uv_tcp_init(peers->loop, &link->tcp);
    uv_timer_init(peers->loop, &link->deadline);
    link->tcp.data = link;
    link->deadline.data = link;
    link->n_pending = 2;
    link->peer = peer;
    peers->n_open++;
    peer->out = link;
    peers->n_dials++;
    ASSERT(peers->n_dials != 0);
    link->epoch = peers->options.boot << 32 | peers->n_dials;
    uv_timer_start(&link->deadline, on_deadline, PEERS_HANDSHAKE_MS, 0);
    struct sockaddr_storage address;
    if (peers_parse_ip(peer->address.host, peer->address.port, &address)) {
        connect_to(link, (const struct sockaddr *)&address);
    } else {
        resolve_name(link);
    }
}
