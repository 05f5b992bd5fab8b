/* What the links between nodes share about TLS. Both ends show certificates; a node's carries its
 * name (base/tls_keys.h), which is compared with the node that the other side claims to be. */
#ifndef RAFT_LINK_TLS_H
#define RAFT_LINK_TLS_H

#include <uv.h>

#include "base/error.h"
#include "base/tls_stream.h"

struct peers;

/* Sends what TLS has to say on its own account: handshake, alerts. In order with other writes to
 * the socket. When much is under way already, what is left stays on the wire of the stream, whose
 * bound ends a link that provokes answers without taking them. An error shows when the socket is
 * read. */
void link_tls_send(struct tls_stream *tls, uv_tcp_t *tcp);

/* Moves what is on the wire to `to`, whose memory the stream goes on with; `to` must be empty. */
void link_tls_take(struct tls_stream *tls, struct buffer *to);

/* ERROR_MISMATCH unless the other side's certificate is that of `node`. */
enum error_code link_tls_check(const struct peers *peers, const struct tls_stream *tls,
                               uint64_t node, struct error *error);

#endif
