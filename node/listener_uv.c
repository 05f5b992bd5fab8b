#include "node/listener_uv.h"

#include <stdio.h>
#include <uv.h>

#include "base/assert.h"
#include "base/list.h"
#include "base/mem.h"
#include "node/logging.h"

enum {
    SCAN_INTERVAL_MS = 1000,
    WRITE_SLICES = 64,           /* chunks given to one write */
    ACCEPT_COMPLAINT_MS = 10000, /* at most one line about refused or failed accepts */
    HANDLES = 5                  /* of struct listener, all closed by listener_close() */
};

struct listener {
    uv_loop_t *loop;
    struct session_host *sessions;
    struct listener_options options;
    uv_tcp_t tcp;
    uv_check_t check;
    uv_prepare_t prepare;
    uv_idle_t idle; /* active while connections are marked: keeps the loop from sleeping */
    uv_timer_t scan;
    struct list_node connections;
    struct list_node marked; /* connections with output to send or commands to go on with */
    unsigned n_connections;  /* until their handle is closed */
    uint16_t port;
    uint64_t complained_ms;

    bool closing;
    uint64_t close_at_ms; /* end of the grace period */
    unsigned n_handles;   /* of this struct, not yet closed */
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
    uint64_t input_ms;       /* of the last input */
    uint64_t sent_ms;        /* of the last progress in sending */
    size_t write_queue_size; /* libuv's, when last looked at */
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
    mem_free(connection);
    ASSERT(listener->n_connections > 0);
    listener->n_connections--;
    listener_maybe_closed(listener);
}

static void connection_close(struct connection *connection) {
    if (connection->is_closing) {
        return;
    }
    connection->is_closing = true;
    list_remove(&connection->mark);
    list_remove(&connection->link);
    session_free(connection->session);
    connection->session = NULL;
    uv_close((uv_handle_t *)&connection->tcp, connection_on_closed);
}

/* Room for input, straight in the parser: an argument of megabytes is not copied on its way. */
static void connection_on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
    (void)suggested;
    struct connection *connection = handle->data;
    uint8_t *data;
    size_t size;
    session_input_space(connection->session, &data, &size);
    /* A read never returns more than this; uv_buf_t counts in size_t on Unix. */
    *buf = uv_buf_init((char *)data, (unsigned)(size < INT32_MAX ? size : INT32_MAX));
}

static void connection_on_read(uv_stream_t *stream, ssize_t size, const uv_buf_t *buf);

/* Reads from the socket exactly while the session wants input. */
static void connection_update_reading(struct connection *connection) {
    bool wanted = session_wants_read(connection->session);
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
    int result =
        uv_read_start((uv_stream_t *)&connection->tcp, connection_on_alloc, connection_on_read);
    ASSERT(result == 0);
}

static void connection_on_read(uv_stream_t *stream, ssize_t size, const uv_buf_t *buf) {
    (void)buf;
    struct connection *connection = stream->data;
    if (size == 0) {
        return;
    }
    if (size == UV_EOF) {
        session_input_end(connection->session);
    } else if (size < 0) {
        connection_close(connection);
        return;
    } else {
        connection->input_ms = uv_now(connection->listener->loop);
        session_input_filled(connection->session, (size_t)size);
    }
    connection_update_reading(connection);
    connection_mark(connection);
}

static void connection_sent(struct connection *connection, size_t size) {
    output_consume(&connection->sending, size);
    connection->sent_ms = uv_now(connection->listener->loop);
    session_sent(connection->session, size);
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
    connection_sent(connection, connection->sending_size);
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
    struct list_node *node;
    while ((node = list_first(&listener->marked)) != NULL) {
        list_remove(node);
        struct connection *connection = LIST_ENTRY(node, struct connection, mark);
        if (!connection_send(connection) || session_is_finished(connection->session)) {
            connection_say_dropped(connection);
            connection_close(connection);
            continue;
        }
        connection_update_reading(connection);
        if (session_needs_resume(connection->session)) {
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

/* Whether the client has left the connection hanging for too long. */
static bool connection_is_stalled(struct connection *connection, uint64_t now_ms) {
    const struct listener_options *options = &connection->listener->options;
    if (connection->is_reading && session_is_mid_command(connection->session) &&
        now_ms - connection->input_ms >= options->stall_ms) {
        say_warn("connection closed in the middle of a command",
                 "peer=%s silent_ms=%llu limit_ms=%llu", session_peer(connection->session),
                 (unsigned long long)(now_ms - connection->input_ms),
                 (unsigned long long)options->stall_ms);
        return true;
    }
    if (!connection->is_writing) {
        return false;
    }
    size_t queued = uv_stream_get_write_queue_size((uv_stream_t *)&connection->tcp);
    if (queued != connection->write_queue_size) {
        connection->write_queue_size = queued;
        connection->sent_ms = now_ms;
    }
    if (now_ms - connection->sent_ms >= options->send_stall_ms) {
        say_warn("connection closed: the client does not take its replies",
                 "peer=%s waiting_bytes=%zu limit_ms=%llu", session_peer(connection->session),
                 queued, (unsigned long long)options->send_stall_ms);
        return true;
    }
    return false;
}

static void listener_close_all(struct listener *listener) {
    struct list_node *node;
    while ((node = list_first(&listener->connections)) != NULL) {
        connection_close(LIST_ENTRY(node, struct connection, link));
    }
}

static void listener_on_scan(uv_timer_t *timer) {
    struct listener *listener = timer->data;
    uint64_t now_ms = uv_now(listener->loop);
    if (listener->closing && now_ms >= listener->close_at_ms) {
        listener_close_all(listener);
        return;
    }
    struct list_node *node = listener->connections.next;
    while (node != &listener->connections) {
        struct connection *connection = LIST_ENTRY(node, struct connection, link);
        node = node->next;
        if (connection_is_stalled(connection, now_ms)) {
            listener->sessions->stats.stalled++;
            connection_close(connection);
        }
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

/* True when it is time for another line about trouble with accepting. */
static bool listener_may_complain(struct listener *listener) {
    uint64_t now_ms = uv_now(listener->loop);
    if (listener->complained_ms != 0 && now_ms - listener->complained_ms < ACCEPT_COMPLAINT_MS) {
        return false;
    }
    listener->complained_ms = now_ms;
    return true;
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
    listener->sessions->stats.rejected++;
    if (listener_may_complain(listener)) {
        say_warn("connection refused: too many clients", "limit=%u rejected=%llu",
                 listener->options.max_connections,
                 (unsigned long long)listener->sessions->stats.rejected);
    }
    uv_close((uv_handle_t *)&connection->tcp, refusal_on_closed);
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
    connection_update_reading(connection);
}

static void listener_on_connection(uv_stream_t *stream, int status) {
    struct listener *listener = stream->data;
    if (status < 0) {
        if (listener_may_complain(listener)) {
            say_error("cannot accept a connection", "reason=%s", uv_strerror(status));
        }
        return;
    }
    struct connection *connection = mem_zalloc(1, sizeof *connection);
    connection->listener = listener;
    list_init(&connection->link);
    list_init(&connection->mark);
    int result = uv_tcp_init(listener->loop, &connection->tcp);
    ASSERT(result == 0);
    connection->tcp.data = connection;
    bool is_full = listener->n_connections >= listener->options.max_connections;
    listener->n_connections++;
    if (uv_accept(stream, (uv_stream_t *)&connection->tcp) != 0) {
        uv_close((uv_handle_t *)&connection->tcp, refusal_on_closed);
    } else if (is_full) {
        connection_refuse(connection);
    } else {
        connection_start(connection);
    }
}

/* ---- opening and closing ---- */

static enum error_code set_uv_error(struct error *error, int status,
                                    const struct listener_options *options, const char *what) {
    return error_set(error, ERROR_IO, "cannot %s %s:%u: %s", what, options->host, options->port,
                     uv_strerror(status));
}

static enum error_code resolve(uv_loop_t *loop, const struct listener_options *options,
                               struct sockaddr_storage *address, struct error *error) {
    char port[8];
    snprintf(port, sizeof port, "%u", options->port);
    const struct addrinfo hints = {.ai_family = AF_UNSPEC,
                                   .ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    uv_getaddrinfo_t request;
    int result = uv_getaddrinfo(loop, &request, NULL, options->host, port, &hints);
    if (result != 0) {
        return set_uv_error(error, result, options, "resolve");
    }
    memcpy(address, request.addrinfo->ai_addr, request.addrinfo->ai_addrlen);
    uv_freeaddrinfo(request.addrinfo);
    return ERROR_NONE;
}

static enum error_code listener_bind(struct listener *listener, struct error *error) {
    struct sockaddr_storage address = {0};
    enum error_code code = resolve(listener->loop, &listener->options, &address, error);
    if (code != ERROR_NONE) {
        return code;
    }
    int result = uv_tcp_bind(&listener->tcp, (const struct sockaddr *)&address, 0);
    if (result == 0) {
        result = uv_listen((uv_stream_t *)&listener->tcp, LISTENER_BACKLOG, listener_on_connection);
    }
    int length = sizeof address;
    if (result == 0) {
        result = uv_tcp_getsockname(&listener->tcp, (struct sockaddr *)&address, &length);
    }
    if (result != 0) {
        return set_uv_error(error, result, &listener->options, "listen on");
    }
    listener->port =
        ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&address)->sin6_port
                                            : ((struct sockaddr_in *)(void *)&address)->sin_port);
    return ERROR_NONE;
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
    listener->n_handles = HANDLES;
    int result = uv_tcp_init(loop, &listener->tcp);
    ASSERT(result == 0);
    uv_check_init(loop, &listener->check);
    uv_prepare_init(loop, &listener->prepare);
    uv_idle_init(loop, &listener->idle);
    uv_timer_init(loop, &listener->scan);
    listener->tcp.data = listener;
    listener->check.data = listener;
    listener->prepare.data = listener;
    listener->scan.data = listener;

    enum error_code code = listener_bind(listener, error);
    if (code != ERROR_NONE) {
        listener_close(listener, 0, NULL, NULL);
        return code;
    }
    uv_check_start(&listener->check, listener_on_check);
    uv_prepare_start(&listener->prepare, listener_on_prepare);
    uv_timer_start(&listener->scan, listener_on_scan, SCAN_INTERVAL_MS, SCAN_INTERVAL_MS);
    *out = listener;
    return ERROR_NONE;
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
    listener_close_handle(listener, &listener->tcp);
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
