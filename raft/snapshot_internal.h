/* What the files of the snapshot streams share: snapshot_stream_uv.c (the whole), and one file for
 * each end of a stream, snapshot_send_uv.c and snapshot_receive_uv.c.
 *
 * A stream is one object until its last file operation is over. It ends by changing its state; the
 * tick reaps ended streams, which is where the user hears of it. */
#ifndef RAFT_SNAPSHOT_INTERNAL_H
#define RAFT_SNAPSHOT_INTERNAL_H

#include <uv.h>

#include "base/list.h"
#include "raft/snapshot_message.h"

enum {
    SNAPSHOT_TICK_MS = 20,   /* retries of what a full queue refused, and the watch for silence */
    SNAPSHOT_ALIVE_MS = 2000 /* a receiver busy with its disk says so this often */
};

static_assert(SNAPSHOT_ALIVE_MS * 3 < SNAPSHOT_STALL_MS, "one late sign of life is not silence");

struct snapshot_streams {
    uv_loop_t *loop;
    struct peers *peers;
    struct snapshot_callbacks callbacks;
    struct list_node senders;
    struct list_node receivers;
    uv_timer_t tick; /* runs while there are streams */
    uint64_t counter;
    bool closing;
    void (*closed)(void *data);
    void *closed_data;
};

/* snapshot_stream_uv.c */

/* Sends a message of the layer; false when the queue is full or the link down. */
bool streams_send(struct snapshot_streams *streams, uint64_t to, uint16_t group,
                  const struct snapshot_message *message, struct payload *chunk);
/* Tells the other end of a stream that it is over; lost when the queue is full: it will notice. */
void streams_send_abort(struct snapshot_streams *streams, uint64_t to, uint16_t group,
                        struct snapshot_id id, bool by_sender, enum error_code code,
                        const char *reason);
/* Makes the tick run soon. */
void streams_wake(struct snapshot_streams *streams);

/* snapshot_send_uv.c */
struct sender;
struct sender *sender_find(const struct snapshot_streams *streams, uint64_t to, uint16_t group);
void sender_start(struct snapshot_streams *streams, uint64_t to, uint16_t group, const char *path,
                  const struct snapshot_info *info);
void sender_receive(struct snapshot_streams *streams, uint64_t from, uint16_t group,
                    const struct snapshot_message *message);
void sender_cancel(struct sender *sender);
void senders_link_lost(struct snapshot_streams *streams, uint64_t node);
void senders_end_all(struct snapshot_streams *streams);
void senders_tick(struct snapshot_streams *streams);
/* Reports and frees one stream that is over; false when there is none. */
bool senders_reap(struct snapshot_streams *streams);
void senders_progress(const struct snapshot_streams *streams, uint16_t group,
                      struct snapshot_progress *progress);

/* snapshot_receive_uv.c */
void receiver_receive(struct snapshot_streams *streams, uint64_t from, uint16_t group,
                      const struct snapshot_message *message, struct payload *chunk);
void receivers_link_lost(struct snapshot_streams *streams, uint64_t node);
void receivers_end_all(struct snapshot_streams *streams);
void receivers_tick(struct snapshot_streams *streams);
bool receivers_reap(struct snapshot_streams *streams);
void receivers_progress(const struct snapshot_streams *streams, uint16_t group,
                        struct snapshot_progress *progress);

#endif
