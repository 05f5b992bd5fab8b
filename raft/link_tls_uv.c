#include "raft/link_tls.h"

#include "base/assert.h"
#include "base/mem.h"
#include "base/tls_keys.h"
#include "raft/peers_internal.h"

static_assert((int)PEERS_READ_BUFFER <= (int)TLS_FEED_MAX, "what is read at once is fed at once");

struct wire_write {
    uv_write_t request;
    struct buffer bytes;
};

static void on_written(uv_write_t *request, int status) {
    (void)status;
    struct wire_write *write = request->data;
    buffer_free(&write->bytes);
    mem_free(write);
}

void link_tls_take(struct tls_stream *tls, struct buffer *to) {
    ASSERT(to->size == 0);
    struct buffer *wire = tls_stream_wire(tls);
    struct buffer emptied = *to;
    *to = *wire;
    *wire = emptied;
}

void link_tls_send(struct tls_stream *tls, uv_tcp_t *tcp) {
    uv_stream_t *stream = (uv_stream_t *)tcp;
    if (tls_stream_wire(tls)->size == 0 ||
        uv_stream_get_write_queue_size(stream) > TLS_OWN_WIRE_MAX) {
        return;
    }
    struct wire_write *write = mem_zalloc(1, sizeof *write);
    link_tls_take(tls, &write->bytes);
    write->request.data = write;
    uv_buf_t buffer = uv_buf_init((char *)write->bytes.data, (unsigned)write->bytes.size);
    if (uv_write(&write->request, stream, &buffer, 1, on_written) != 0) {
        on_written(&write->request, 0);
    }
}

enum error_code link_tls_check(const struct peers *peers, const struct tls_stream *tls,
                               uint64_t node, struct error *error) {
    char uri[TLS_URI_SIZE];
    tls_node_uri(uri, peers->options.cluster, node);
    if (tls_stream_peer_is(tls, uri)) {
        return ERROR_NONE;
    }
    return error_set(error, ERROR_MISMATCH,
                     "the certificate is not that of node %llu: it does not have the name URI:%s",
                     (unsigned long long)node, uri);
}
