#include "node/listener_uv.h"

#include <stdio.h>
#include <uv.h>

#include "base/assert.h"
#include "base/list.h"
#include "base/mem.h"
#include "base/tls_stream.h"
#include "node/acceptor_uv.h"
#include "node/logging.h"
#include "node/session_limits.h"

enum {
    SCAN_INTERVAL_MS = 1000,
    WRITE_SLICES = 64,         /* chunks given to one write */
    TLS_COMPLAINT_MS = 1000,   /* at most one line about connections closed over TLS */
    SHAKES_PER_ITERATION = 16, /* steps of TLS handshakes, each up to some milliseconds */
    ENCRYPT_SIZE = 128 * 1024, /* plaintext that is encrypted ahead of the socket */
    KEPT_WIRE_CAPACITY = 4 * 1024,
    HANDLES = 4 /* of struct listener, all closed by listener_close() */
};

struct listener {
    uv_loop_t *loop;
    struct session_host *sessions;
    struct listener_options options;
    struct acceptor *acceptor; /* NULL once it is closed */
    uint16_t port;
    uv_check_t check;
    uv_prepare_t prepare;
    uv_idle_t idle; /* active while connections are marked: keeps the loop from sleeping */
    uv_timer_t scan;
    struct list_node connections;
    struct list_node marked;  /* connections with output to send or commands to go on with */
    struct list_node shaking; /* connections without a finished TLS handshake, oldest first */
    unsigned n_shaking;
    unsigned shakes_left;   /* in this iteration */
    unsigned n_connections; /* until their handle is closed */
    uint64_t tls_complained_ms;
    uint8_t *tls_input; /* what libuv reads before it is fed to a stream; TLS_FEED_MAX bytes */

    bool closing;
    uint64_t close_at_ms; /* end of the grace period */
    unsigned n_handles;   /* of this struct, not yet closed, and its acceptor */
    void (*closed)(void *data);
    void *closed_data;
};

struct connection {
    struct listener *listener;
    struct list_node link;
    struct list_node mark; /* in listener->marked, or alone */
    uv_tcp_t tcp;
    struct session *session;
    struct output sending; /* taken from the session, not yet accepted by the kernel */
    size_t sending_size;   /* bytes of it that the write request under way covers */
    uv_write_t write;
    bool is_writing;
    bool is_reading;
    bool is_closing;

    bool is_known;          /* its first byte told whether it speaks TLS */
    bool has_ended;         /* the session knows that no more comes */
    struct tls_stream *tls; /* NULL: plaintext */
    struct buffer flying;   /* encrypted form of sending_size bytes, and what TLS itself says */
    struct list_node shake; /* in listener->shaking, or alone */
    uint64_t shaking_since_ms;

    uint64_t input_ms;         /* of the last input */
    uint64_t request_since_ms; /* a command is half received since, 0: none is; ... */
    uint64_t request_bytes;    /* ... so much has come since ... */
    uint64_t request_number;   /* ... and so many had come before it */
    bool is_resting;           /* its session gave memory back, and has had no input since */
    uint64_t sent_ms;          /* sending began or got on */
    size_t write_queue_size;   /* libuv's, when last looked at */
};

static void listener_maybe_closed(struct listener *listener);

/* Nothing to do: an active idle handle alone keeps the loop from sleeping. */
static void listener_on_idle(uv_idle_t *handle) {
    (void)handle;
}

/* ---- connections ---- */

static void connection_mark(struct connection *connection) {
    struct listener *listener = connection->listener;
    if (connection->is_closing || !list_empty(&connection->mark)) {
        return;
    }
    if (list_empty(&listener->marked)) {
        uv_idle_start(&listener->idle, listener_on_idle);
    }
    list_push(&listener->marked, &connection->mark);
}

static void connection_on_wake(void *data) {
    connection_mark(data);
}

static void connection_on_closed(uv_handle_t *handle) {
    struct connection *connection = handle->data;
    struct listener *listener = connection->listener;
    ASSERT(!connection->is_writing);
    output_free(&connection->sending);
    tls_stream_free(connection->tls);
    buffer_free(&connection->flying);
    mem_free(connection);
    ASSERT(listener->n_connections > 0);
    listener->n_connections--;
    listener_maybe_closed(listener);
}

static void connection_set_shaking(struct connection *connection, bool is_shaking) {
    struct listener *listener = connection->listener;
    if (is_shaking == !list_empty(&connection->shake)) {
        return;
    }
    if (is_shaking) {
        connection->shaking_since_ms = uv_now(listener->loop);
        list_push(&listener->shaking, &connection->shake);
        listener->n_shaking++;
    } else {
        list_remove(&connection->shake);
        listener->n_shaking--;
    }
}

static void connection_close(struct connection *connection) {
    if (connection->is_closing) {
        return;
    }
    connection->is_closing = true;
    connection_set_shaking(connection, false);
    list_remove(&connection->mark);
    list_remove(&connection->link);
    session_free(connection->session);
    connection->session = NULL;
    uv_close((uv_handle_t *)&connection->tcp, connection_on_closed);
}

/* Room for input, straight in the parser: an argument of megabytes is not copied on its way. TLS
 * takes the way over the listener's buffer. */
static void connection_on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
    (void)suggested;
    struct connection *connection = handle->data;
    if (connection->tls != NULL) {
        *buf = uv_buf_init((char *)connection->listener->tls_input, TLS_FEED_MAX);
        return;
    }
    uint8_t *data;
    size_t size;
    session_input_space(connection->session, &data, &size);
    /* What comes first may turn out to be TLS. */
    size_t limit = connection->is_known ? INT32_MAX : TLS_FEED_MAX;
    /* A read never returns more than this; uv_buf_t counts in size_t on Unix. */
    *buf = uv_buf_init((char *)data, (unsigned)(size < limit ? size : limit));
}

static void connection_on_read(uv_stream_t *stream, ssize_t size, const uv_buf_t *buf);

/* Encrypted input waits here for the session, or for its turn to go on with the handshake. */
static bool connection_has_tls_work(const struct connection *connection) {
    if (connection->tls == NULL || tls_stream_is_starved(connection->tls)) {
        return false;
    }
    enum tls_stream_state state = tls_stream_state(connection->tls);
    return state == TLS_STREAM_SHAKING ||
           (state == TLS_STREAM_UP && session_wants_read(connection->session));
}

static bool connection_wants_read(const struct connection *connection) {
    if (connection->tls == NULL || tls_stream_state(connection->tls) == TLS_STREAM_SHAKING) {
        bool starved = connection->tls == NULL || tls_stream_is_starved(connection->tls);
        return starved && session_wants_read(connection->session);
    }
    return tls_stream_state(connection->tls) == TLS_STREAM_UP &&
           tls_stream_is_starved(connection->tls) && session_wants_read(connection->session);
}

/* After input, or when reading goes on after a pause: the time of a half-received command runs from
 * the input that began it. */
static void connection_time_request(struct connection *connection, size_t size) {
    const struct session *session = connection->session;
    uint64_t number = session_commands(session);
    if (!session_is_mid_command(session)) {
        connection->request_since_ms = 0;
        return;
    }
    if (connection->request_since_ms == 0 || connection->request_number != number || size == 0) {
        connection->request_since_ms = uv_now(connection->listener->loop);
        connection->request_bytes = 0;
        connection->request_number = number;
        return;
    }
    connection->request_bytes += size;
}

/* Reads from the socket exactly while the session wants input. */
static void connection_update_reading(struct connection *connection) {
    bool wanted = connection_wants_read(connection);
    if (wanted == connection->is_reading) {
        return;
    }
    connection->is_reading = wanted;
    if (!wanted) {
        uv_read_stop((uv_stream_t *)&connection->tcp);
        return;
    }
    /* Time during which we did not look does not count as the client's silence. */
    connection->input_ms = uv_now(connection->listener->loop);
    connection_time_request(connection, 0);
    int result =
        uv_read_start((uv_stream_t *)&connection->tcp, connection_on_alloc, connection_on_read);
    ASSERT(result == 0);
}

static void connection_end_input(struct connection *connection) {
    if (!connection->has_ended) {
        connection->has_ended = true;
        session_input_end(connection->session);
    }
}

/* A line about a connection that is closed over TLS: anybody can provoke these, so not many. */
static void connection_say_insecure(struct connection *connection, const char *reason) {
    struct listener *listener = connection->listener;
    uint64_t now_ms = uv_now(listener->loop);
    listener->sessions->stats.insecure++;
    if (listener->tls_complained_ms == 0 ||
        now_ms - listener->tls_complained_ms >= TLS_COMPLAINT_MS) {
        listener->tls_complained_ms = now_ms;
        say_warn("connection closed over TLS", "peer=%s reason=%s total=%llu",
                 session_peer(connection->session), reason,
                 (unsigned long long)listener->sessions->stats.insecure);
    }
}

/* What TLS still has to say before the socket is closed: an alert, or that nothing follows. As far
 * as the kernel takes it at once. */
static void connection_say_goodbye(struct connection *connection) {
    if (connection->tls == NULL) {
        return;
    }
    tls_stream_end(connection->tls);
    const struct buffer *wire = tls_stream_wire(connection->tls);
    if (wire->size > 0 && connection->flying.size == 0) {
        uv_buf_t buf = uv_buf_init((char *)wire->data, (unsigned)wire->size);
        uv_try_write((uv_stream_t *)&connection->tcp, &buf, 1);
    }
}

/* False, and the connection closed, when its TLS is broken. */
static bool connection_check_tls(struct connection *connection) {
    if (tls_stream_state(connection->tls) != TLS_STREAM_BROKEN) {
        return true;
    }
    if (tls_stream_lacks_certificate(connection->tls)) {
        connection->listener->sessions->stats.bad_certificates++;
    }
    connection_say_insecure(connection, tls_stream_error(connection->tls));
    connection_say_goodbye(connection);
    connection_close(connection);
    return false;
}

/* Decrypts into the session as much as it wants. False when the connection was closed. */
static bool connection_decrypt(struct connection *connection) {
    while (session_wants_read(connection->session)) {
        uint8_t *data;
        size_t size;
        session_input_space(connection->session, &data, &size);
        size = tls_stream_read(connection->tls, data, size);
        if (size == 0) {
            break;
        }
        session_input_filled(connection->session, size);
    }
    if (tls_stream_state(connection->tls) == TLS_STREAM_ENDED) {
        connection_end_input(connection);
    }
    return connection_check_tls(connection);
}

/* Half-open handshakes are bounded: the oldest, which had most time, goes first. */
static void listener_limit_shaking(struct listener *listener) {
    while (listener->n_shaking > listener->options.max_handshakes && listener->n_shaking > 1) {
        struct list_node *oldest = list_first(&listener->shaking);
        struct connection *connection = LIST_ENTRY(oldest, struct connection, shake);
        connection_say_insecure(connection, "too many handshakes that are not done");
        connection_close(connection);
    }
}

/* False when there are keys for TLS but the client does not use it, or the other way round. */
static bool connection_get_to_know(struct connection *connection, uint8_t first) {
    static char plain_text[] = "-ERR this port takes TLS connections only\r\n";
    struct listener *listener = connection->listener;
    bool speaks_tls = first == TLS_FIRST_BYTE;
    connection->is_known = true;
    if (speaks_tls && listener->options.tls == NULL) {
        connection_say_insecure(connection, "the client speaks TLS, and this port does not");
        return false;
    }
    if (!speaks_tls && listener->options.tls != NULL && listener->options.tls_required) {
        uv_buf_t buf = uv_buf_init(plain_text, sizeof plain_text - 1);
        uv_try_write((uv_stream_t *)&connection->tcp, &buf, 1);
        connection_say_insecure(connection, "the client does not speak TLS, which is required");
        return false;
    }
    if (speaks_tls) {
        connection->tls = tls_stream_accept(listener->options.tls);
    }
    connection_set_shaking(connection, speaks_tls);
    listener_limit_shaking(listener);
    return true;
}

/* False when the connection was closed. */
static bool connection_take_input(struct connection *connection, struct slice input) {
    connection->input_ms = uv_now(connection->listener->loop);
    if (!connection->is_known && !connection_get_to_know(connection, input.data[0])) {
        connection_close(connection);
        return false;
    }
    if (connection->tls == NULL) {
        session_input_filled(connection->session, input.size);
        return true;
    }
    tls_stream_feed(connection->tls, input);
    return tls_stream_state(connection->tls) == TLS_STREAM_SHAKING ||
           connection_decrypt(connection);
}

static void connection_on_read(uv_stream_t *stream, ssize_t size, const uv_buf_t *buf) {
    struct connection *connection = stream->data;
    if (size == 0) {
        return;
    }
    if (size == UV_EOF) {
        connection_end_input(connection);
    } else if (size < 0) {
        connection_close(connection);
        return;
    } else if (!connection_take_input(connection, slice_make(buf->base, (size_t)size))) {
        return;
    } else {
        connection->is_resting = false;
        connection_time_request(connection, (size_t)size);
    }
    connection_update_reading(connection);
    connection_mark(connection);
}

/* Its turn to go on with the TLS handshake. False when the connection was closed. */
static bool connection_shake(struct connection *connection) {
    struct listener *listener = connection->listener;
    if (connection->tls == NULL || tls_stream_is_starved(connection->tls) ||
        tls_stream_state(connection->tls) != TLS_STREAM_SHAKING || listener->shakes_left == 0) {
        return true;
    }
    listener->shakes_left--;
    if (tls_stream_shake(connection->tls) != TLS_STREAM_SHAKING) {
        connection_set_shaking(connection, false);
    }
    return connection_check_tls(connection);
}

static void connection_sent(struct connection *connection, size_t size) {
    output_consume(&connection->sending, size);
    connection->sent_ms = uv_now(connection->listener->loop);
    session_sent(connection->session, size);
}

/* All that was encrypted has left. */
static void connection_wire_sent(struct connection *connection) {
    size_t size = connection->sending_size;
    connection->sending_size = 0;
    connection->flying.size = 0;
    if (connection->flying.capacity > KEPT_WIRE_CAPACITY) {
        buffer_free(&connection->flying);
    }
    connection_sent(connection, size);
}

static void connection_on_written(uv_write_t *request, int status) {
    struct connection *connection = request->data;
    connection->is_writing = false;
    if (connection->is_closing) {
        return;
    }
    if (status < 0) {
        connection_close(connection);
        return;
    }
    if (connection->tls != NULL) {
        connection_wire_sent(connection);
    } else {
        connection_sent(connection, connection->sending_size);
    }
    connection_mark(connection);
}

/* The chunks of `sending` that the next write takes. */
static unsigned connection_gather(const struct connection *connection, uv_buf_t *bufs,
                                  size_t *size) {
    struct slice slices[WRITE_SLICES];
    unsigned n = output_peek(&connection->sending, slices, WRITE_SLICES);
    *size = 0;
    for (unsigned i = 0; i < n; i++) {
        bufs[i].base = (char *)(uintptr_t)slices[i].data;
        bufs[i].len = slices[i].size;
        *size += slices[i].size;
    }
    return n;
}

/* Encrypts what comes next, in records as large as possible, and takes it from the stream together
 * with what TLS has to say. */
static bool connection_encrypt(struct connection *connection) {
    struct slice slices[WRITE_SLICES];
    unsigned n = 0;
    connection->sending_size = 0;
    if (tls_stream_state(connection->tls) != TLS_STREAM_SHAKING) {
        n = output_peek(&connection->sending, slices, WRITE_SLICES);
    }
    for (unsigned i = 0; i < n && connection->sending_size < ENCRYPT_SIZE; i++) {
        size_t room = ENCRYPT_SIZE - connection->sending_size;
        size_t size = slices[i].size < room ? slices[i].size : room;
        if (!tls_stream_write(connection->tls, slice_make(slices[i].data, size))) {
            return false;
        }
        connection->sending_size += size;
    }
    struct buffer *wire = tls_stream_wire(connection->tls);
    struct buffer emptied = connection->flying;
    ASSERT(emptied.size == 0);
    connection->flying = *wire;
    *wire = emptied;
    return true;
}

/* As connection_send(), over TLS. */
static bool connection_send_encrypted(struct connection *connection) {
    uv_stream_t *stream = (uv_stream_t *)&connection->tcp;
    for (;;) {
        if (!connection_encrypt(connection)) {
            return false;
        }
        if (connection->flying.size == 0) {
            return true;
        }
        uv_buf_t buf =
            uv_buf_init((char *)connection->flying.data, (unsigned)connection->flying.size);
        int sent = uv_try_write(stream, &buf, 1);
        if (sent < 0 && sent != UV_EAGAIN) {
            return false;
        }
        size_t gone = sent > 0 ? (size_t)sent : 0;
        if (gone == connection->flying.size) {
            connection_wire_sent(connection);
            continue;
        }
        buf.base += gone;
        buf.len -= gone;
        connection->write.data = connection;
        connection->is_writing = true;
        connection->sent_ms = uv_now(connection->listener->loop);
        if (uv_write(&connection->write, stream, &buf, 1, connection_on_written) != 0) {
            connection->is_writing = false;
            return false;
        }
        connection->write_queue_size = uv_stream_get_write_queue_size(stream);
        return true;
    }
}

/* Sends what there is: at once as far as the kernel takes it, the rest when it can. False when the
 * connection broke. */
static bool connection_send(struct connection *connection) {
    uv_stream_t *stream = (uv_stream_t *)&connection->tcp;
    uv_buf_t bufs[WRITE_SLICES];
    size_t size;
    if (connection->is_writing) {
        return true; /* its chunks must stay as they are */
    }
    output_append(&connection->sending, session_output(connection->session));
    if (connection->tls != NULL) {
        return connection_send_encrypted(connection);
    }
    unsigned n;
    while ((n = connection_gather(connection, bufs, &size)) > 0) {
        int sent = uv_try_write(stream, bufs, n);
        if (sent < 0 && sent != UV_EAGAIN) {
            return false;
        }
        if (sent > 0) {
            connection_sent(connection, (size_t)sent);
        }
        if (sent < 0 || (size_t)sent < size) {
            break;
        }
    }
    if (n == 0) {
        return true;
    }
    n = connection_gather(connection, bufs, &size);
    connection->sending_size = size;
    connection->write.data = connection;
    connection->is_writing = true;
    connection->sent_ms = uv_now(connection->listener->loop);
    if (uv_write(&connection->write, stream, bufs, n, connection_on_written) != 0) {
        connection->is_writing = false;
        return false;
    }
    connection->write_queue_size = uv_stream_get_write_queue_size(stream);
    return true;
}

/* ---- the loop's phases ---- */

/* Right after the poll phase: commands that were held back go on. */
static void listener_on_check(uv_check_t *handle) {
    struct listener *listener = handle->data;
    struct list_node *node = listener->marked.next;
    while (node != &listener->marked) {
        struct connection *connection = LIST_ENTRY(node, struct connection, mark);
        node = node->next;
        if (session_needs_resume(connection->session)) {
            session_resume(connection->session);
            connection_update_reading(connection);
        }
        if (connection->tls != NULL && tls_stream_state(connection->tls) != TLS_STREAM_SHAKING &&
            connection_decrypt(connection)) {
            connection_update_reading(connection);
        }
    }
}

static void connection_say_dropped(const struct connection *connection) {
    const char *reason = session_dropped(connection->session);
    if (reason != NULL) {
        say_warn("subscriber's connection closed", "peer=%s reason=%s",
                 session_peer(connection->session), reason);
    }
}

/* Just before the loop sleeps: everything of this iteration leaves. */
static void listener_on_prepare(uv_prepare_t *handle) {
    struct listener *listener = handle->data;
    struct list_node marked;
    list_init(&marked);
    listener->shakes_left = SHAKES_PER_ITERATION;
    struct list_node *node;
    while ((node = list_first(&listener->marked)) != NULL) {
        list_remove(node);
        struct connection *connection = LIST_ENTRY(node, struct connection, mark);
        if (!connection_shake(connection)) {
            continue;
        }
        if (!connection_send(connection) || session_is_finished(connection->session)) {
            connection_say_dropped(connection);
            connection_say_goodbye(connection);
            connection_close(connection);
            continue;
        }
        connection_update_reading(connection);
        if (session_needs_resume(connection->session) || connection_has_tls_work(connection)) {
            list_push(&marked, &connection->mark); /* goes on in the next check phase */
        }
    }
    while ((node = list_first(&marked)) != NULL) {
        list_remove(node);
        list_push(&listener->marked, node);
    }
    if (list_empty(&listener->marked)) {
        uv_idle_stop(&listener->idle);
    }
    session_host_begin_turn(listener->sessions);
}

static bool is_over(uint64_t now_ms, uint64_t since_ms, uint64_t limit_ms) {
    return now_ms > since_ms && now_ms - since_ms >= limit_ms;
}

/* A command is half received, and either nothing more comes or what comes is too little. */
static bool connection_is_too_slow(const struct connection *connection, uint64_t now_ms) {
    uint64_t receive_ms = connection->listener->options.receive_ms;
    if (connection->request_since_ms == 0 || !connection->is_reading) {
        return false;
    }
    uint64_t earned_ms = connection->request_bytes * 1000 / LISTENER_RATE_MIN;
    return is_over(now_ms, connection->input_ms, receive_ms) ||
           is_over(now_ms, connection->request_since_ms, receive_ms + earned_ms);
}

static bool connection_is_unread(struct connection *connection, uint64_t now_ms) {
    if (!connection->is_writing) {
        return false;
    }
    size_t queued = uv_stream_get_write_queue_size((uv_stream_t *)&connection->tcp);
    if (queued != connection->write_queue_size) {
        connection->write_queue_size = queued;
        connection->sent_ms = now_ms;
    }
    return is_over(now_ms, connection->sent_ms, connection->listener->options.send_ms);
}

static bool connection_is_idle(const struct connection *connection, uint64_t now_ms) {
    uint64_t idle_ms = connection->listener->options.idle_ms;
    uint64_t since_ms = session_idle_since_ms(connection->session);
    since_ms = connection->sent_ms > since_ms ? connection->sent_ms : since_ms;
    return idle_ms > 0 && connection->request_since_ms == 0 && is_over(now_ms, since_ms, idle_ms);
}

static bool connection_is_strange(const struct connection *connection, uint64_t now_ms) {
    uint64_t since_ms = session_stranger_since_ms(connection->session);
    return is_over(now_ms, since_ms, connection->listener->options.receive_ms);
}

/* Closes a connection whose client has left it hanging for too long. */
static void connection_check_time(struct connection *connection, uint64_t now_ms) {
    const char *text;
    enum bound bound;
    if (connection_is_too_slow(connection, now_ms)) {
        bound = BOUND_RECEIVE;
        text = "closed in the middle of a command that came too slowly";
    } else if (connection_is_strange(connection, now_ms)) {
        bound = BOUND_RECEIVE;
        text = "closed: it did not authenticate";
    } else if (connection_is_unread(connection, now_ms)) {
        bound = BOUND_SEND;
        text = "closed: the client does not take its replies";
    } else if (connection_is_idle(connection, now_ms)) {
        bound = BOUND_IDLE;
        text = "closed: it was idle";
    } else {
        if (!connection->is_resting && is_over(now_ms, connection->input_ms, LISTENER_REST_MS)) {
            connection->is_resting = true;
            session_rest(connection->session);
        }
        return;
    }
    struct session_host *host = connection->listener->sessions;
    host->stats.stalled += bound != BOUND_IDLE;
    session_limits_reached(host, bound, session_peer(connection->session), slice_make(NULL, 0),
                           text);
    connection_close(connection);
}

static void listener_close_all(struct listener *listener) {
    struct list_node *node;
    while ((node = list_first(&listener->connections)) != NULL) {
        connection_close(LIST_ENTRY(node, struct connection, link));
    }
}

/* Clients that began a TLS handshake and do not go on with it. */
static void listener_close_shaking(struct listener *listener, uint64_t now_ms) {
    struct list_node *node;
    while ((node = list_first(&listener->shaking)) != NULL) {
        struct connection *connection = LIST_ENTRY(node, struct connection, shake);
        if (now_ms - connection->shaking_since_ms < listener->options.handshake_ms) {
            return;
        }
        connection_say_insecure(connection, "the handshake was not done in time");
        connection_close(connection);
    }
}

static void listener_on_scan(uv_timer_t *timer) {
    struct listener *listener = timer->data;
    uint64_t now_ms = uv_now(listener->loop);
    if (listener->closing && now_ms >= listener->close_at_ms) {
        listener_close_all(listener);
        return;
    }
    listener_close_shaking(listener, now_ms);
    struct list_node *node = listener->connections.next;
    while (node != &listener->connections) {
        struct connection *connection = LIST_ENTRY(node, struct connection, link);
        node = node->next;
        connection_check_time(connection, now_ms);
    }
    if (!listener->closing) {
        acceptor_go_on(listener->acceptor);
    }
}

/* ---- accepting ---- */

static void format_address(char *text, size_t size, const struct sockaddr_storage *address) {
    char host[INET6_ADDRSTRLEN];
    if (address->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)address;
        uv_ip6_name(in6, host, sizeof host);
        snprintf(text, size, "[%s]:%u", host, ntohs(in6->sin6_port));
    } else if (address->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)address;
        uv_ip4_name(in, host, sizeof host);
        snprintf(text, size, "%s:%u", host, ntohs(in->sin_port));
    } else {
        snprintf(text, size, "?");
    }
}

typedef int (*name_function)(const uv_tcp_t *, struct sockaddr *, int *);

static void read_address(const uv_tcp_t *tcp, name_function function, char *text, size_t size) {
    struct sockaddr_storage address = {0};
    int length = sizeof address;
    if (function(tcp, (struct sockaddr *)&address, &length) != 0) {
        address.ss_family = AF_UNSPEC;
    }
    format_address(text, size, &address);
}

/* A handle to refuse a connection with. */
static void refusal_on_closed(uv_handle_t *handle) {
    struct connection *connection = handle->data;
    struct listener *listener = connection->listener;
    mem_free(connection);
    listener->n_connections--;
    listener_maybe_closed(listener);
}

static void connection_refuse(struct connection *connection) {
    static char text[] = "-ERR max number of clients reached\r\n";
    struct listener *listener = connection->listener;
    uv_buf_t buf = uv_buf_init(text, sizeof text - 1);
    uv_try_write((uv_stream_t *)&connection->tcp, &buf, 1);
    char peer[SESSION_ADDRESS_SIZE];
    read_address(&connection->tcp, uv_tcp_getpeername, peer, sizeof peer);
    listener->sessions->stats.rejected++;
    session_limits_reached(listener->sessions, BOUND_CONNECTIONS, peer, slice_make(NULL, 0),
                           "refused: too many clients");
    uv_close((uv_handle_t *)&connection->tcp, refusal_on_closed);
}

/* Where everybody has to speak TLS, the wait for a first byte belongs to the handshake. */
static void connection_await_tls(struct connection *connection) {
    struct listener *listener = connection->listener;
    if (listener->options.tls == NULL || !listener->options.tls_required) {
        return;
    }
    connection_set_shaking(connection, true);
    listener_limit_shaking(listener);
}

static void connection_start(struct connection *connection) {
    struct listener *listener = connection->listener;
    char peer[SESSION_ADDRESS_SIZE], local[SESSION_ADDRESS_SIZE];
    read_address(&connection->tcp, uv_tcp_getpeername, peer, sizeof peer);
    read_address(&connection->tcp, uv_tcp_getsockname, local, sizeof local);
    uv_tcp_nodelay(&connection->tcp, 1);
    connection->session =
        session_new(listener->sessions, peer, local, connection_on_wake, connection);
    connection->input_ms = uv_now(listener->loop);
    connection->sent_ms = connection->input_ms;
    list_push(&listener->connections, &connection->link);
    connection_await_tls(connection);
    connection_update_reading(connection);
}

static void listener_on_connection(void *data) {
    struct listener *listener = data;
    struct connection *connection = mem_zalloc(1, sizeof *connection);
    connection->listener = listener;
    list_init(&connection->link);
    list_init(&connection->mark);
    list_init(&connection->shake);
    int result = uv_tcp_init(listener->loop, &connection->tcp);
    ASSERT(result == 0);
    connection->tcp.data = connection;
    bool is_full = listener->n_connections >= listener->options.max_connections;
    listener->n_connections++;
    if (acceptor_take(listener->acceptor, &connection->tcp) != 0) {
        uv_close((uv_handle_t *)&connection->tcp, refusal_on_closed);
    } else if (is_full) {
        connection_refuse(connection);
    } else {
        connection_start(connection);
    }
}

/* They wait until the next look at all connections. */
static void listener_on_shortage(void *data, const char *reason) {
    struct listener *listener = data;
    session_limits_reached(listener->sessions, BOUND_DESCRIPTORS, "", slice_make(NULL, 0), reason);
}

/* ---- opening and closing ---- */

static void listener_on_acceptor_closed(void *data) {
    struct listener *listener = data;
    listener->acceptor = NULL;
    listener->n_handles--;
    listener_maybe_closed(listener);
}

static void listener_on_handle_closed(uv_handle_t *handle) {
    struct listener *listener = handle->data;
    listener->n_handles--;
    listener_maybe_closed(listener);
}

static void listener_close_handle(struct listener *listener, void *handle) {
    ((uv_handle_t *)handle)->data = listener;
    if (!uv_is_closing(handle)) {
        uv_close(handle, listener_on_handle_closed);
    }
}

/* Goes on with closing when the last connection has gone. What is still outstanding: connections,
 * then the handles that serve them. */
static void listener_maybe_closed(struct listener *listener) {
    if (!listener->closing || listener->n_connections > 0) {
        return;
    }
    if (listener->n_handles > 0) {
        listener_close_handle(listener, &listener->check);
        listener_close_handle(listener, &listener->prepare);
        listener_close_handle(listener, &listener->idle);
        listener_close_handle(listener, &listener->scan);
        return;
    }
    if (listener->closed != NULL) {
        listener->closed(listener->closed_data);
    }
    mem_free(listener->tls_input);
    mem_free(listener);
}

enum error_code listener_open(struct listener **out, struct uv_loop_s *loop,
                              const struct listener_options *options, struct session_host *sessions,
                              struct error *error) {
    struct listener *listener = mem_zalloc(1, sizeof *listener);
    *out = NULL;
    listener->loop = loop;
    listener->sessions = sessions;
    listener->options = *options;
    list_init(&listener->connections);
    list_init(&listener->marked);
    list_init(&listener->shaking);
    const struct acceptor_callbacks callbacks = {.data = listener,
                                                 .on_connection = listener_on_connection,
                                                 .on_shortage = listener_on_shortage};
    enum error_code code =
        acceptor_open(&listener->acceptor, loop, options->host, options->port, &callbacks, error);
    if (code != ERROR_NONE) {
        mem_free(listener);
        return code;
    }
    listener->tls_input = mem_alloc(TLS_FEED_MAX);
    listener->port = acceptor_port(listener->acceptor);
    listener->n_handles = HANDLES + 1;
    uv_check_init(loop, &listener->check);
    uv_prepare_init(loop, &listener->prepare);
    uv_idle_init(loop, &listener->idle);
    uv_timer_init(loop, &listener->scan);
    listener->check.data = listener;
    listener->prepare.data = listener;
    listener->scan.data = listener;
    uv_check_start(&listener->check, listener_on_check);
    uv_prepare_start(&listener->prepare, listener_on_prepare);
    uv_timer_start(&listener->scan, listener_on_scan, SCAN_INTERVAL_MS, SCAN_INTERVAL_MS);
    *out = listener;
    return ERROR_NONE;
}

void listener_set_tls(struct listener *listener, const struct tls_keys *keys) {
    ASSERT(keys != NULL && listener->options.tls != NULL);
    listener->options.tls = keys;
}

uint16_t listener_port(const struct listener *listener) {
    return listener->port;
}

unsigned listener_connections(const struct listener *listener) {
    return listener->n_connections;
}

void listener_close(struct listener *listener, uint64_t grace_ms, void (*closed)(void *data),
                    void *data) {
    ASSERT(!listener->closing);
    listener->closing = true;
    listener->closed = closed;
    listener->closed_data = data;
    listener->close_at_ms = uv_now(listener->loop) + grace_ms;
    acceptor_close(listener->acceptor, listener_on_acceptor_closed, listener);
    for (struct list_node *node = listener->connections.next; node != &listener->connections;
         node = node->next) {
        struct connection *connection = LIST_ENTRY(node, struct connection, link);
        session_drain(connection->session);
        connection_update_reading(connection);
        connection_mark(connection);
    }
    if (grace_ms == 0) {
        listener_close_all(listener);
    } else {
        uint64_t first_ms = grace_ms < SCAN_INTERVAL_MS ? grace_ms : SCAN_INTERVAL_MS;
        uv_timer_start(&listener->scan, listener_on_scan, first_ms, first_ms);
    }
    listener_maybe_closed(listener);
}
