#include <stdio.h>

#include "base/assert.h"
#include "base/mem.h"
#include "raft/snapshot_internal.h"

/* ---- services for both ends ---- */

static enum peer_lane lane_of(const struct snapshot_message *message) {
    switch (message->kind) {
    case SNAPSHOT_OFFER:
    case SNAPSHOT_CHUNK_DATA:
    case SNAPSHOT_END:
        return PEER_LANE_BULK;
    case SNAPSHOT_ABORT:
        return message->by_sender ? PEER_LANE_BULK : PEER_LANE_NORMAL;
    case SNAPSHOT_ACCEPT:
    case SNAPSHOT_ACK:
    case SNAPSHOT_DONE:
        break;
    }
    return PEER_LANE_NORMAL;
}

bool streams_send(struct snapshot_streams *streams, uint64_t to, uint16_t group,
                  const struct snapshot_message *message, struct payload *chunk) {
    if (streams->closing) {
        return false;
    }
    struct buffer header = {0};
    snapshot_message_encode(message, &header);
    struct peer_message peer_message = {.type = (uint8_t)message->kind,
                                        .group = group,
                                        .header = buffer_slice(&header),
                                        .n_attachments = chunk == NULL ? 0 : 1,
                                        .attachments = &chunk};
    bool sent = peers_send(streams->peers, to, lane_of(message), &peer_message);
    buffer_free(&header);
    return sent;
}

void streams_send_abort(struct snapshot_streams *streams, uint64_t to, uint16_t group,
                        struct snapshot_id id, bool by_sender, enum error_code code,
                        const char *reason) {
    struct snapshot_message message = {
        .kind = SNAPSHOT_ABORT, .id = id, .by_sender = by_sender, .code = code};
    snprintf(message.reason, sizeof message.reason, "%.*s", SNAPSHOT_REASON_MAX, reason);
    (void)streams_send(streams, to, group, &message, NULL);
}

/* ---- the tick ---- */

static void on_timer_closed(uv_handle_t *handle) {
    struct snapshot_streams *streams = handle->data;
    void (*closed)(void *data) = streams->closed;
    void *data = streams->closed_data;
    mem_free(streams);
    if (closed != NULL) {
        closed(data);
    }
}

static void on_tick(uv_timer_t *timer) {
    struct snapshot_streams *streams = timer->data;
    senders_tick(streams);
    receivers_tick(streams);
    /* The user hears of ends in here and may start, cancel or close: so one at a time. */
    while (senders_reap(streams) || receivers_reap(streams)) {
    }
    if (!list_empty(&streams->senders) || !list_empty(&streams->receivers)) {
        return;
    }
    uv_timer_stop(timer);
    if (streams->closing && !uv_is_closing((uv_handle_t *)timer)) {
        uv_close((uv_handle_t *)timer, on_timer_closed);
    }
}

void streams_wake(struct snapshot_streams *streams) {
    uv_timer_start(&streams->tick, on_tick, 0, SNAPSHOT_TICK_MS);
}

/* ---- the header's functions ---- */

struct snapshot_streams *snapshot_streams_new(struct uv_loop_s *loop, struct peers *peers,
                                              const struct snapshot_callbacks *callbacks) {
    struct snapshot_streams *streams = mem_zalloc(1, sizeof *streams);
    streams->loop = loop;
    streams->peers = peers;
    streams->callbacks = *callbacks;
    list_init(&streams->senders);
    list_init(&streams->receivers);
    uv_timer_init(loop, &streams->tick);
    streams->tick.data = streams;
    return streams;
}

void snapshot_streams_close(struct snapshot_streams *streams, void (*closed)(void *data),
                            void *data) {
    ASSERT(!streams->closing);
    streams->closing = true;
    streams->closed = closed;
    streams->closed_data = data;
    senders_end_all(streams);
    receivers_end_all(streams);
    streams_wake(streams);
}

bool snapshot_streams_send(struct snapshot_streams *streams, uint64_t to, uint16_t group,
                           const char *path, const struct snapshot_info *info) {
    if (streams->closing || sender_find(streams, to, group) != NULL) {
        return false;
    }
    sender_start(streams, to, group, path, info);
    return true;
}

void snapshot_streams_cancel(struct snapshot_streams *streams, uint64_t to, uint16_t group) {
    struct sender *sender = sender_find(streams, to, group);
    if (sender != NULL) {
        sender_cancel(sender);
    }
}

bool snapshot_streams_is_sending(const struct snapshot_streams *streams, uint64_t to,
                                 uint16_t group) {
    return sender_find(streams, to, group) != NULL;
}

static bool goes_to_sender(const struct snapshot_message *message) {
    return message->kind == SNAPSHOT_ACCEPT || message->kind == SNAPSHOT_ACK ||
           message->kind == SNAPSHOT_DONE ||
           (message->kind == SNAPSHOT_ABORT && !message->by_sender);
}

void snapshot_streams_receive(struct snapshot_streams *streams, uint64_t from,
                              struct peer_message *peer_message) {
    struct snapshot_message message;
    bool good = snapshot_message_decode(peer_message->type, peer_message->header, &message);
    unsigned n_expected = good && message.kind == SNAPSHOT_CHUNK_DATA ? 1 : 0;
    /* What is malformed is dropped: the stream that misses it ends by silence. */
    if (good && peer_message->n_attachments == n_expected && !streams->closing) {
        if (goes_to_sender(&message)) {
            sender_receive(streams, from, peer_message->group, &message);
        } else {
            struct payload *chunk = n_expected == 1 ? peer_message->attachments[0] : NULL;
            receiver_receive(streams, from, peer_message->group, &message, chunk);
        }
    }
    for (unsigned i = 0; i < peer_message->n_attachments; i++) {
        payload_unref(peer_message->attachments[i]);
    }
}

void snapshot_streams_link_lost(struct snapshot_streams *streams, uint64_t node) {
    senders_link_lost(streams, node);
    receivers_link_lost(streams, node);
}

struct snapshot_progress snapshot_streams_progress(const struct snapshot_streams *streams,
                                                   uint16_t group) {
    struct snapshot_progress progress = {0};
    senders_progress(streams, group, &progress);
    receivers_progress(streams, group, &progress);
    return progress;
}
