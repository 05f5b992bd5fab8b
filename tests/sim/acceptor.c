/* The simulator's listening socket: the simulated libuv's own, which knows no shortage. In the
 * place of node/acceptor_uv.c. */
#include "node/acceptor_uv.h"

#include "base/mem.h"

struct acceptor {
    uv_tcp_t tcp;
    struct acceptor_callbacks callbacks;
    uint16_t port;
    void (*closed)(void *data);
    void *closed_data;
};

static void on_connection(uv_stream_t *stream, int status) {
    struct acceptor *acceptor = stream->data;
    if (status == 0) {
        acceptor->callbacks.on_connection(acceptor->callbacks.data);
    }
}

static void on_discarded(uv_handle_t *handle) {
    mem_free(handle->data);
}

enum error_code acceptor_open(struct acceptor **out, uv_loop_t *loop, const char *host,
                              uint16_t port, const struct acceptor_callbacks *callbacks,
                              struct error *error) {
    struct acceptor *acceptor = mem_zalloc(1, sizeof *acceptor);
    struct sockaddr_in address;
    *out = NULL;
    acceptor->callbacks = *callbacks;
    acceptor->port = port;
    uv_tcp_init(loop, &acceptor->tcp);
    acceptor->tcp.data = acceptor;
    int result = uv_ip4_addr(host, port, &address);
    if (result == 0) {
        result = uv_tcp_bind(&acceptor->tcp, (const struct sockaddr *)&address, 0);
    }
    if (result == 0) {
        result = uv_listen((uv_stream_t *)&acceptor->tcp, ACCEPTOR_BACKLOG, on_connection);
    }
    if (result != 0) {
        uv_close((uv_handle_t *)&acceptor->tcp, on_discarded);
        return error_set(error, ERROR_IO, "cannot listen on %s:%u: %s", host, port,
                         uv_strerror(result));
    }
    *out = acceptor;
    return ERROR_NONE;
}

uint16_t acceptor_port(const struct acceptor *acceptor) {
    return acceptor->port;
}

int acceptor_take(struct acceptor *acceptor, uv_tcp_t *tcp) {
    return uv_accept((uv_stream_t *)&acceptor->tcp, (uv_stream_t *)tcp);
}

void acceptor_go_on(struct acceptor *acceptor) {
    (void)acceptor;
}

static void on_closed(uv_handle_t *handle) {
    struct acceptor *acceptor = handle->data;
    acceptor->closed(acceptor->closed_data);
    mem_free(acceptor);
}

void acceptor_close(struct acceptor *acceptor, void (*closed)(void *data), void *data) {
    acceptor->closed = closed;
    acceptor->closed_data = data;
    uv_close((uv_handle_t *)&acceptor->tcp, on_closed);
}
