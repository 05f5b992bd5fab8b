/* Links that this node accepts: handshake, then messages. */
#include <stdio.h>

#include "base/assert.h"
#include "base/mem.h"
#include "raft/link_tls.h"
#include "raft/peers_internal.h"

static void on_handle_closed(uv_handle_t *handle) {
    struct in_link *link = handle->data;
    if (--link->n_pending > 0) {
        return;
    }
    struct peers *peers = link->peers;
    wire_decoder_free(link->decoder);
    tls_stream_free(link->tls);
    buffer_free(&link->flying);
    mem_free(link);
    peers_release(peers);
}

void in_link_abort(struct in_link *link) {
    ASSERT(link->state != IN_CLOSED);
    if (link->state == IN_UP) {
        link->peer->in = NULL;
    } else {
        list_remove(&link->node);
        link->peers->n_strangers--;
    }
    link->state = IN_CLOSED;
    uv_close((uv_handle_t *)&link->tcp, on_handle_closed);
    uv_close((uv_handle_t *)&link->deadline, on_handle_closed);
}

/* Ends the link and tells the user when it was up. */
static void in_link_end(struct in_link *link, bool gone) {
    struct peers *peers = link->peers;
    const struct peers_callbacks *callbacks = &peers->options.callbacks;
    bool was_up = link->state == IN_UP;
    in_link_abort(link);
    if (was_up && callbacks->on_link_in != NULL) {
        callbacks->on_link_in(callbacks->data, link->peer->address.id, false, link->epoch);
    }
    if (was_up && gone && !peers->closing && callbacks->on_gone != NULL) {
        callbacks->on_gone(callbacks->data, link->peer->address.id);
    }
}

static void on_deadline(uv_timer_t *timer) {
    struct in_link *link = timer->data;
    peers_log_limited(link->peers, "connection from %s closed: no handshake within %d ms",
                      link->remote, PEERS_HANDSHAKE_MS);
    in_link_end(link, false);
}

/* ---- handshake ---- */

static void on_refusal_written(uv_write_t *write, int status) {
    (void)status;
    struct in_link *link = write->data;
    if (link->state != IN_CLOSED) {
        in_link_end(link, false);
    }
}

static void on_welcome_written(uv_write_t *write, int status) {
    struct in_link *link = write->data;
    if (link->state != IN_CLOSED && status < 0) {
        in_link_end(link, status == UV_ECONNRESET || status == UV_EPIPE);
    }
}

static int write_answer(struct in_link *link, const struct wire_handshake *answer,
                        uv_write_cb done) {
    size_t size = wire_handshake_encode(answer, link->answer);
    uv_buf_t buffer = uv_buf_init((char *)link->answer, (unsigned)size);
    if (link->tls != NULL) {
        if (!tls_stream_write(link->tls, slice_make(link->answer, size))) {
            return UV_ECANCELED;
        }
        link_tls_take(link->tls, &link->flying);
        buffer = uv_buf_init((char *)link->flying.data, (unsigned)link->flying.size);
    }
    link->write.data = link;
    return uv_write(&link->write, (uv_stream_t *)&link->tcp, &buffer, 1, done);
}

static void refuse(struct in_link *link, uint64_t node, const struct error *error) {
    peers_log_limited(link->peers, "refused a link of node %llu from %s: %s",
                      (unsigned long long)node, link->remote, error->message);
    struct wire_handshake answer = {.kind = WIRE_REFUSED, .code = error->code};
    snprintf(answer.reason, sizeof answer.reason, "%.*s", WIRE_REASON_MAX, error->message);
    link->state = IN_REFUSING;
    uv_read_stop((uv_stream_t *)&link->tcp);
    if (write_answer(link, &answer, on_refusal_written) < 0) {
        in_link_end(link, false);
    }
}

static enum error_code check_epoch(const struct peer *peer, const struct wire_handshake *hello,
                                   struct error *error) {
    if (hello->epoch >> 32 != hello->boot) {
        return error_set(error, ERROR_INVALID, "link epoch and boot number disagree");
    }
    /* An older HELLO may arrive behind a newer one; a node whose boot number runs backwards has
     * forgotten what it promised. A replaced node counts anew. */
    if (hello->incarnation == peer->in_incarnation && hello->epoch <= peer->in_epoch) {
        return error_set(
            error, ERROR_MISMATCH,
            "link epoch %llu is not newer than %llu, which was seen before; if the data "
            "directory was restored from a copy, replace the node instead",
            (unsigned long long)hello->epoch, (unsigned long long)peer->in_epoch);
    }
    return ERROR_NONE;
}

static enum error_code check_hello(struct in_link *link, const struct wire_handshake *hello,
                                   struct error *error) {
    struct peers *peers = link->peers;
    const struct peers_options *options = &peers->options;
    if (hello->kind != WIRE_HELLO) {
        return error_set(error, ERROR_CORRUPT, "expected HELLO, got kind %d", (int)hello->kind);
    }
    if (strcmp(hello->cluster, options->cluster) != 0) {
        return error_set(error, ERROR_MISMATCH,
                         "this is a node of cluster '%s', not of '%s'; check the cluster name and "
                         "the peer addresses in the configuration",
                         options->cluster, hello->cluster);
    }
    if (link->tls != NULL && link_tls_check(peers, link->tls, hello->from, error) != ERROR_NONE) {
        return error->code;
    }
    if (hello->to != options->self) {
        return error_set(error, ERROR_MISMATCH,
                         "this is node %llu, not node %llu; check the peer addresses in the "
                         "configuration",
                         (unsigned long long)options->self, (unsigned long long)hello->to);
    }
    if (hello->from == options->self) {
        return error_set(error, ERROR_MISMATCH,
                         "both sides say that they are node %llu; node ids must differ",
                         (unsigned long long)hello->from);
    }
    struct peer *peer = peers_find(peers, hello->from);
    if (peer == NULL) {
        return error_set(error, ERROR_MISMATCH,
                         "node %llu does not know a node %llu; add it to its configuration",
                         (unsigned long long)options->self, (unsigned long long)hello->from);
    }
    if (!peers_check(peers, hello, error)) {
        return error->code == ERROR_NONE ? ERROR_MISMATCH : error->code;
    }
    return check_epoch(peer, hello, error);
}

static void welcome(struct in_link *link, const struct wire_handshake *hello) {
    struct peers *peers = link->peers;
    struct peer *peer = peers_find(peers, hello->from);
    if (peer->in != NULL) {
        in_link_end(peer->in, false);
    }
    if (link->state == IN_CLOSED) {
        return;
    }
    list_remove(&link->node);
    peers->n_strangers--;
    uv_timer_stop(&link->deadline);
    link->state = IN_UP;
    link->peer = peer;
    link->epoch = hello->epoch;
    link->decoder = wire_decoder_new();
    peer->in = link;
    peer->in_epoch = hello->epoch;
    peer->in_incarnation = hello->incarnation;
    struct wire_handshake answer = {.kind = WIRE_WELCOME};
    peers_introduce(peers, &answer);
    if (write_answer(link, &answer, on_welcome_written) < 0) {
        /* Not reported as up yet, so not reported as down either. */
        in_link_abort(link);
        return;
    }
    out_link_hurry(peer);
    const struct peers_callbacks *callbacks = &peers->options.callbacks;
    if (callbacks->on_link_in != NULL) {
        callbacks->on_link_in(callbacks->data, peer->address.id, true, link->epoch);
    }
}

static void on_greeting(struct in_link *link, struct slice *input) {
    struct wire_handshake hello;
    struct error error = {0};
    enum wire_status status = wire_handshake_decode(&link->greeting, input, &hello, &error);
    if (status == WIRE_MORE) {
        return;
    }
    if (status == WIRE_BROKEN && error.code == ERROR_VERSION) {
        refuse(link, 0, &error);
        return;
    }
    if (status == WIRE_BROKEN) {
        peers_log_limited(link->peers, "connection from %s closed: %s", link->remote,
                          error.message);
        in_link_end(link, false);
        return;
    }
    enum error_code code = check_hello(link, &hello, &error);
    if (link->state == IN_CLOSED) {
        return;
    }
    if (code == ERROR_NONE) {
        welcome(link, &hello);
    } else {
        error.code = code;
        refuse(link, hello.from, &error);
    }
}

/* ---- messages ---- */

static void on_messages(struct in_link *link, struct slice input) {
    struct peers *peers = link->peers;
    const struct peers_callbacks *callbacks = &peers->options.callbacks;
    struct peer_message message;
    enum peer_lane lane;
    struct error error;
    while (link->state == IN_UP) {
        enum wire_status status = wire_decoder_next(link->decoder, &input, &lane, &message, &error);
        if (status == WIRE_MORE) {
            return;
        }
        if (status == WIRE_BROKEN) {
            peers_log_limited(peers, "link from node %llu at %s closed: %s",
                              (unsigned long long)link->peer->address.id, link->remote,
                              error.message);
            in_link_end(link, false);
            return;
        }
        callbacks->on_message(callbacks->data, link->peer->address.id, &message);
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer) {
    (void)suggested;
    struct in_link *link = handle->data;
    peers_give_read_buffer(link->peers, buffer);
}

static void on_plain(struct in_link *link, struct slice input) {
    if (link->state == IN_GREETING) {
        on_greeting(link, &input);
    }
    if (link->state == IN_UP && input.size > 0) {
        on_messages(link, input);
    }
}

/* ---- TLS ---- */

/* The first byte tells whether the dialer uses TLS. False when that does not fit, and the link is
 * ended. */
static bool get_to_know(struct in_link *link, uint8_t first) {
    const struct peers_options *options = &link->peers->options;
    bool speaks_tls = first == TLS_FIRST_BYTE;
    link->is_known = true;
    if (speaks_tls == (options->tls != NULL) ||
        (!speaks_tls && options->tls != NULL && !options->tls_required)) {
        link->tls = speaks_tls ? tls_stream_accept(options->tls) : NULL;
        return true;
    }
    peers_log_limited(link->peers, "connection from %s closed: %s", link->remote,
                      speaks_tls ? "it uses TLS, and peer_tls is off here"
                                 : "it does not use TLS, which peer_tls requires here");
    in_link_end(link, false);
    return false;
}

static void on_encrypted(struct in_link *link, struct slice input) {
    uint8_t plain[TLS_RECORD_SIZE];
    tls_stream_feed(link->tls, input);
    enum tls_stream_state state = tls_stream_shake(link->tls);
    link_tls_send(link->tls, &link->tcp);
    while (state != TLS_STREAM_SHAKING && (link->state == IN_GREETING || link->state == IN_UP)) {
        size_t size = tls_stream_read(link->tls, plain, sizeof plain);
        if (size == 0) {
            break;
        }
        on_plain(link, slice_make(plain, size));
    }
    if (link->state == IN_CLOSED || link->state == IN_REFUSING) {
        return;
    }
    link_tls_send(link->tls, &link->tcp);
    state = tls_stream_state(link->tls);
    if (state == TLS_STREAM_BROKEN) {
        peers_log_limited(link->peers, "connection from %s closed: TLS: %s", link->remote,
                          tls_stream_error(link->tls));
    }
    if (state == TLS_STREAM_BROKEN || state == TLS_STREAM_ENDED) {
        in_link_end(link, state == TLS_STREAM_ENDED);
    }
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer) {
    struct in_link *link = stream->data;
    if (n == 0 || link->state == IN_CLOSED) {
        return;
    }
    if (n < 0) {
        in_link_end(link, n == UV_EOF || n == UV_ECONNRESET);
        return;
    }
    struct slice input = slice_make(buffer->base, (size_t)n);
    if (!link->is_known && !get_to_know(link, input.data[0])) {
        return;
    }
    if (link->tls != NULL) {
        on_encrypted(link, input);
    } else {
        on_plain(link, input);
    }
}

/* ---- accepting ---- */

static void note_remote(struct in_link *link) {
    struct sockaddr_storage address = {0};
    int size = sizeof address;
    char host[INET6_ADDRSTRLEN] = "?";
    uint16_t port = 0;
    (void)uv_tcp_getpeername(&link->tcp, (struct sockaddr *)&address, &size);
    if (address.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)&address;
        uv_ip4_name(in, host, sizeof host);
        port = ntohs(in->sin_port);
    } else if (address.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)&address;
        uv_ip6_name(in, host, sizeof host);
        port = ntohs(in->sin6_port);
    }
    snprintf(link->remote, sizeof link->remote, "%s port %u", host, (unsigned)port);
}

static struct in_link *in_link_new(struct peers *peers) {
    struct in_link *link = mem_zalloc(1, sizeof *link);
    uv_tcp_init(peers->loop, &link->tcp);
    uv_timer_init(peers->loop, &link->deadline);
    link->tcp.data = link;
    link->deadline.data = link;
    link->n_pending = 2;
    link->peers = peers;
    peers->n_open++;
    list_push(&peers->strangers, &link->node);
    peers->n_strangers++;
    return link;
}

void in_link_accept(struct peers *peers) {
    if (peers->closing) {
        return;
    }
    if (peers->n_strangers == PEERS_STRANGERS_MAX) {
        struct list_node *oldest = list_first(&peers->strangers);
        peers_log_limited(peers, "too many connections without a handshake, dropped the oldest");
        in_link_end(LIST_ENTRY(oldest, struct in_link, node), false);
    }
    struct in_link *link = in_link_new(peers);
    int status = uv_accept((uv_stream_t *)&peers->listener, (uv_stream_t *)&link->tcp);
    if (status == 0) {
        note_remote(link);
        peers_tune_socket(&link->tcp);
        status = uv_read_start((uv_stream_t *)&link->tcp, on_alloc, on_read);
    }
    if (status < 0) {
        peers_log_limited(peers, "cannot accept a peer's connection: %s", uv_strerror(status));
        in_link_end(link, false);
        return;
    }
    uv_timer_start(&link->deadline, on_deadline, PEERS_HANDSHAKE_MS, 0);
}
