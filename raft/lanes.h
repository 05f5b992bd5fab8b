/* The messages that wait for one link, and the choice of what goes next. Pure: composes batches of
 * fragments as lists of slices that the caller writes to its socket.
 *
 * A batch holds at most LANES_BATCH_MAX bytes. Urgent fragments come first, then normal, then bulk;
 * each lower lane on which something waits has room for one full fragment kept for it, so that none
 * starves. Small pieces are copied into one contiguous buffer, larger ones go as slices of their
 * payloads, which live until the batch is released. */
#ifndef RAFT_LANES_H
#define RAFT_LANES_H

#include "base/list.h"
#include "raft/peers.h"
#include "raft/wire.h"

enum {
    LANES_FRAGMENT_MAX = WIRE_FRAGMENT_HEADER + WIRE_FRAGMENT_BODY_MAX,
    LANES_BATCH_MAX = 4 * LANES_FRAGMENT_MAX,
    LANES_COPY_MAX = 4096, /* pieces up to this many bytes are copied */
    /* Each piece that is not copied is larger than LANES_COPY_MAX; copied runs lie between them. */
    LANES_PIECES_MAX = 2 * (LANES_BATCH_MAX / LANES_COPY_MAX) + 1
};

struct lanes;

/* `queue_bytes` as in peers_options. */
struct lanes *lanes_new(uint64_t queue_bytes);
/* Drops everything; NULL is ignored. */
void lanes_free(struct lanes *lanes);

/* Queues a message as described at peers_send(); false when there is no room. */
bool lanes_push(struct lanes *lanes, enum peer_lane lane, const struct peer_message *message);

/* Composes the next batch; 0 when nothing waits. The pieces are valid until lanes_release(), which
 * must come before the next batch. */
unsigned lanes_compose(struct lanes *lanes, const struct slice **pieces);
void lanes_release(struct lanes *lanes);

/* Bytes of all messages that were pushed and not yet released with their last batch. */
uint64_t lanes_bytes(const struct lanes *lanes);
/* Messages of `group` on the bulk lane among them. */
uint64_t lanes_bulk_queued(const struct lanes *lanes, uint16_t group);

#endif
