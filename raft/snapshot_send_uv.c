/* The sending end of a snapshot stream. One read at a time on the thread pool; bytes that were read
 * and not acknowledged never exceed the window. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/crc32c.h"
#include "base/mem.h"
#include "raft/snapshot_internal.h"

enum sender_state {
    SENDER_OFFERING, /* the offer waits for room in the queue */
    SENDER_OFFERED,
    SENDER_SENDING,
    SENDER_ENDING, /* END was sent */
    SENDER_ENDED   /* to be reaped */
};

struct sender {
    struct list_node node;
    struct snapshot_streams *streams;
    uint64_t to;
    uint16_t group;
    struct snapshot_id id;
    struct snapshot_info info; /* config owned */
    char *path;
    enum sender_state state;
    uint64_t epoch; /* of the link that it began on */
    uint64_t read_bytes;
    uint64_t sent_bytes;
    uint64_t acked_bytes;
    struct payload *chunk; /* read, not yet sent */
    uint64_t heard_ms;
    enum error_code code; /* how it ended */
    char reason[ERROR_MESSAGE_SIZE];

    /* The read under way; while `reading`, these belong to the thread pool. */
    bool reading;
    uv_work_t work;
    int fd;
    struct payload *buffer;
    uint32_t crc; /* of the file up to the end of the last read */
    struct error error;
};

static void sender_end(struct sender *sender, enum error_code code, const char *reason) {
    if (sender->state == SENDER_ENDED) {
        return;
    }
    sender->state = SENDER_ENDED;
    sender->code = code;
    snprintf(sender->reason, sizeof sender->reason, "%s", reason);
    payload_unref(sender->chunk);
    sender->chunk = NULL;
    streams_wake(sender->streams);
}

/* Ends it for a reason that the receiver does not know yet. */
static void sender_abort(struct sender *sender, enum error_code code, const char *reason) {
    if (sender->state == SENDER_ENDED) {
        return;
    }
    if (sender->state != SENDER_OFFERING) {
        streams_send_abort(sender->streams, sender->to, sender->group, sender->id, true, code,
                           reason);
    }
    sender_end(sender, code, reason);
}

/* ---- reading ---- */

static enum error_code read_fully(struct sender *sender) {
    struct payload *buffer = sender->buffer;
    for (size_t filled = 0; filled < buffer->size;) {
        ssize_t n = pread(sender->fd, buffer->data + filled, buffer->size - filled,
                          (off_t)(sender->read_bytes + filled));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return error_set_errno(&sender->error, errno, "cannot read %s", sender->path);
        }
        if (n == 0) {
            return error_set(&sender->error, ERROR_IO,
                             "%s became shorter than %llu bytes while it was sent", sender->path,
                             (unsigned long long)sender->info.size);
        }
        filled += (size_t)n;
    }
    sender->crc = crc32c(sender->crc, buffer->data, buffer->size);
    return ERROR_NONE;
}

static void read_work(uv_work_t *work) {
    struct sender *sender = LIST_ENTRY(work, struct sender, work);
    if (sender->fd < 0) {
        sender->fd = open(sender->path, O_RDONLY | O_CLOEXEC);
    }
    if (sender->fd < 0) {
        error_set_errno(&sender->error, errno, "cannot open %s", sender->path);
        return;
    }
    read_fully(sender);
}

static void sender_pump(struct sender *sender);

static void on_read(uv_work_t *work, int status) {
    ASSERT(status == 0);
    struct sender *sender = LIST_ENTRY(work, struct sender, work);
    sender->reading = false;
    if (sender->state == SENDER_ENDED || sender->error.code != ERROR_NONE) {
        payload_unref(sender->buffer);
        sender->buffer = NULL;
        sender_abort(sender, sender->error.code, sender->error.message);
        streams_wake(sender->streams);
        return;
    }
    sender->chunk = sender->buffer;
    sender->buffer = NULL;
    sender->read_bytes += sender->chunk->size;
    sender_pump(sender);
}

static uint64_t next_chunk_size(const struct sender *sender) {
    uint64_t left = sender->info.size - sender->read_bytes;
    return left < SNAPSHOT_CHUNK ? left : SNAPSHOT_CHUNK;
}

static void start_read(struct sender *sender) {
    sender->reading = true;
    sender->buffer = payload_new((size_t)next_chunk_size(sender));
    int status = uv_queue_work(sender->streams->loop, &sender->work, read_work, on_read);
    ASSERT(status == 0);
}

/* ---- sending ---- */

static bool send_plain(struct sender *sender, enum snapshot_kind kind) {
    struct snapshot_message message = {.kind = kind,
                                       .id = sender->id,
                                       .info = sender->info,
                                       .offset = sender->info.size,
                                       .crc = sender->crc};
    return streams_send(sender->streams, sender->to, sender->group, &message, NULL);
}

static bool send_chunk(struct sender *sender) {
    struct snapshot_message message = {.kind = SNAPSHOT_CHUNK_DATA,
                                       .id = sender->id,
                                       .offset = sender->sent_bytes,
                                       .crc = sender->crc};
    if (!streams_send(sender->streams, sender->to, sender->group, &message, sender->chunk)) {
        return false;
    }
    sender->sent_bytes += sender->chunk->size;
    payload_unref(sender->chunk);
    sender->chunk = NULL;
    return true;
}

static void pump_chunks(struct sender *sender) {
    /* The next read changes the checksum, so it waits until this chunk is queued. */
    if (sender->reading || (sender->chunk != NULL && !send_chunk(sender))) {
        return;
    }
    if (sender->sent_bytes == sender->info.size) {
        if (send_plain(sender, SNAPSHOT_END)) {
            sender->state = SENDER_ENDING;
        }
        return;
    }
    uint64_t unacked = sender->read_bytes - sender->acked_bytes;
    if (unacked + next_chunk_size(sender) <= (uint64_t)SNAPSHOT_WINDOW * SNAPSHOT_CHUNK) {
        start_read(sender);
    }
}

/* Does whatever can be done now. */
static void sender_pump(struct sender *sender) {
    if (sender->state == SENDER_ENDED) {
        return;
    }
    if (sender->epoch == 0 || peers_epoch(sender->streams->peers, sender->to) != sender->epoch) {
        sender_end(sender, ERROR_IO, "the link to the peer is down");
        return;
    }
    if (sender->state == SENDER_OFFERING && send_plain(sender, SNAPSHOT_OFFER)) {
        sender->state = SENDER_OFFERED;
        sender->heard_ms = uv_now(sender->streams->loop);
    }
    if (sender->state == SENDER_SENDING) {
        pump_chunks(sender);
    }
}

/* Silence counts while an answer is due and what it answers has left this node: a slow link is
 * watched by the link itself. */
static void watch_silence(struct sender *sender) {
    struct snapshot_streams *streams = sender->streams;
    bool answer_due = sender->state == SENDER_OFFERED || sender->state == SENDER_ENDING ||
                      sender->sent_bytes > sender->acked_bytes;
    uint64_t now_ms = uv_now(streams->loop);
    if (!answer_due || peers_bulk_queued(streams->peers, sender->to, sender->group) > 0) {
        sender->heard_ms = now_ms;
    } else if (now_ms - sender->heard_ms > SNAPSHOT_STALL_MS) {
        sender_abort(sender, ERROR_IO, "the peer fell silent");
    }
}

/* ---- for snapshot_stream_uv.c ---- */

struct sender *sender_find(const struct snapshot_streams *streams, uint64_t to, uint16_t group) {
    const struct list_node *list = &streams->senders;
    for (struct list_node *at = list->next; at != list; at = at->next) {
        struct sender *sender = LIST_ENTRY(at, struct sender, node);
        if (sender->to == to && sender->group == group) {
            return sender;
        }
    }
    return NULL;
}

void sender_start(struct snapshot_streams *streams, uint64_t to, uint16_t group, const char *path,
                  const struct snapshot_info *info) {
    struct sender *sender = mem_zalloc(1, sizeof *sender);
    sender->streams = streams;
    sender->to = to;
    sender->group = group;
    sender->id = (struct snapshot_id){peers_boot(streams->peers), ++streams->counter};
    sender->info = *info;
    sender->info.config.data = mem_dup(info->config.data, info->config.size);
    sender->path = mem_strdup(path);
    sender->epoch = peers_epoch(streams->peers, to);
    sender->fd = -1;
    list_push(&streams->senders, &sender->node);
    streams_wake(streams);
}

void sender_cancel(struct sender *sender) {
    sender_abort(sender, ERROR_STALE, "cancelled by the sender");
}

static void on_ack(struct sender *sender, uint64_t offset) {
    if (offset < sender->acked_bytes || offset > sender->sent_bytes) {
        sender_abort(sender, ERROR_CORRUPT, "the peer acknowledged what it cannot have");
        return;
    }
    sender->acked_bytes = offset;
    sender_pump(sender);
}

static void on_abort(struct sender *sender, const struct snapshot_message *message) {
    char reason[ERROR_MESSAGE_SIZE];
    snprintf(reason, sizeof reason, "node %llu: %s", (unsigned long long)sender->to,
             message->reason);
    sender_end(sender, message->code, reason);
}

void sender_receive(struct snapshot_streams *streams, uint64_t from, uint16_t group,
                    const struct snapshot_message *message) {
    struct sender *sender = sender_find(streams, from, group);
    if (sender == NULL || sender->state == SENDER_ENDED ||
        !snapshot_id_equal(sender->id, message->id)) {
        return; /* of an older stream */
    }
    sender->heard_ms = uv_now(streams->loop);
    if (message->kind == SNAPSHOT_ABORT) {
        on_abort(sender, message);
    } else if (message->kind == SNAPSHOT_ACCEPT && sender->state == SENDER_OFFERED) {
        sender->state = SENDER_SENDING;
        sender_pump(sender);
    } else if (message->kind == SNAPSHOT_ACK) {
        on_ack(sender, message->offset);
    } else if (message->kind == SNAPSHOT_DONE && sender->state == SENDER_ENDING) {
        sender->acked_bytes = sender->info.size;
        sender_end(sender, ERROR_NONE, "received and checked");
    } else {
        sender_abort(sender, ERROR_CORRUPT, "the peer answered out of turn");
    }
}

void senders_link_lost(struct snapshot_streams *streams, uint64_t node) {
    struct list_node *list = &streams->senders;
    for (struct list_node *at = list->next; at != list; at = at->next) {
        struct sender *sender = LIST_ENTRY(at, struct sender, node);
        if (sender->to == node) {
            sender_end(sender, ERROR_IO, "the link to the peer was lost");
        }
    }
}

void senders_end_all(struct snapshot_streams *streams) {
    struct list_node *list = &streams->senders;
    for (struct list_node *at = list->next; at != list; at = at->next) {
        sender_end(LIST_ENTRY(at, struct sender, node), ERROR_STALE, "closing");
    }
}

void senders_tick(struct snapshot_streams *streams) {
    struct list_node *list = &streams->senders;
    for (struct list_node *at = list->next; at != list; at = at->next) {
        struct sender *sender = LIST_ENTRY(at, struct sender, node);
        sender_pump(sender);
        if (sender->state != SENDER_ENDED) {
            watch_silence(sender);
        }
    }
}

static void sender_report(struct snapshot_streams *streams, struct sender *sender) {
    const struct snapshot_callbacks *callbacks = &streams->callbacks;
    if (!streams->closing) {
        callbacks->on_sent(callbacks->data, sender->to, sender->group, sender->code,
                           sender->reason);
    }
}

bool senders_reap(struct snapshot_streams *streams) {
    struct list_node *list = &streams->senders;
    for (struct list_node *at = list->next; at != list; at = at->next) {
        struct sender *sender = LIST_ENTRY(at, struct sender, node);
        if (sender->state != SENDER_ENDED || sender->reading) {
            continue;
        }
        list_remove(&sender->node);
        if (sender->fd >= 0) {
            close(sender->fd);
        }
        sender_report(streams, sender);
        mem_free((void *)sender->info.config.data);
        mem_free(sender->path);
        mem_free(sender);
        return true;
    }
    return false;
}

void senders_progress(const struct snapshot_streams *streams, uint16_t group,
                      struct snapshot_progress *progress) {
    const struct list_node *list = &streams->senders;
    for (struct list_node *at = list->next; at != list; at = at->next) {
        struct sender *sender = LIST_ENTRY(at, struct sender, node);
        if (sender->group == group && sender->state != SENDER_ENDED) {
            progress->sending = true;
            progress->done_bytes += sender->acked_bytes;
            progress->total_bytes += sender->info.size;
        }
    }
}
