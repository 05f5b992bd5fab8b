/* The receiving end of a snapshot stream. Chunks arrive in order and are written one at a time on
 * the thread pool; each acknowledgement tells how much was written. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/crc32c.h"
#include "base/mem.h"
#include "raft/snapshot_internal.h"

/* Written back every so often, so that the sync at the end is short and a huge file does not sit in
 * the page cache in front of the log's own syncs. */
#define SYNC_EVERY (16 * MIB)

enum { STAGED_MODE = 0640, PATH_SIZE = 4096 };

enum receiver_state {
    RECEIVER_RECEIVING,
    RECEIVER_COMPLETE, /* checked and synced; DONE waits for room in the queue */
    RECEIVER_RECEIVED, /* to be reaped and handed to the user */
    RECEIVER_FAILED,   /* the staged file is to be removed */
    RECEIVER_REMOVED   /* to be reaped */
};

enum receiver_job { JOB_NONE, JOB_WRITE, JOB_SYNC, JOB_REMOVE };

struct arrived {
    struct payload *payload;
    uint32_t crc; /* of the file up to its end */
};

struct receiver {
    struct list_node node;
    struct snapshot_streams *streams;
    uint64_t from;
    uint16_t group;
    struct snapshot_id id;
    struct snapshot_info info; /* config owned */
    char *path;
    enum receiver_state state;
    struct arrived arrived[SNAPSHOT_WINDOW]; /* the first one may be under way to the disk */
    unsigned n_arrived;
    uint64_t arrived_bytes; /* of the whole stream */
    uint64_t written_bytes;
    bool end_arrived;
    uint32_t end_crc;
    bool accept_due;
    bool ack_due;
    uint64_t told_ms;                /* the sender heard of us */
    uint64_t heard_ms;               /* and we of it */
    char reason[ERROR_MESSAGE_SIZE]; /* why it failed */

    /* An offer that waits until this stream is gone. */
    struct buffer next_offer;
    uint64_t next_from;

    /* While a job runs, these belong to the thread pool. */
    enum receiver_job job;
    uv_work_t work;
    int fd;
    uint32_t crc;
    uint64_t unsynced_bytes;
    struct error error;
};

static bool is_receiving(const struct receiver *receiver) {
    return receiver->state == RECEIVER_RECEIVING;
}

static void receiver_fail(struct receiver *receiver, const char *reason) {
    if (receiver->state == RECEIVER_FAILED || receiver->state == RECEIVER_REMOVED) {
        return;
    }
    receiver->state = RECEIVER_FAILED;
    snprintf(receiver->reason, sizeof receiver->reason, "%s", reason);
    streams_wake(receiver->streams);
}

/* Fails for a reason that the sender does not know yet. */
static void receiver_abort(struct receiver *receiver, enum error_code code, const char *reason) {
    streams_send_abort(receiver->streams, receiver->from, receiver->group, receiver->id, false,
                       code, reason);
    receiver_fail(receiver, reason);
}

/* ---- file work, on the thread pool ---- */

/* Room for the whole file is asked for at the start: a full disk is better found before gigabytes
 * have travelled. File systems that cannot tell find out on the way. */
static enum error_code open_staged(struct receiver *receiver) {
    receiver->fd = open(receiver->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, STAGED_MODE);
    if (receiver->fd < 0) {
        return error_set_errno(&receiver->error, errno, "cannot create %s", receiver->path);
    }
    off_t size = (off_t)receiver->info.size;
    if (size > 0 && fallocate(receiver->fd, 0, 0, size) != 0 &&
        (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)) {
        return error_set_errno(&receiver->error, errno == EFBIG ? ENOSPC : errno,
                               "cannot stage a snapshot of %llu bytes",
                               (unsigned long long)receiver->info.size);
    }
    return ERROR_NONE;
}

static enum error_code write_fully(struct receiver *receiver, struct slice bytes) {
    uint64_t at = receiver->written_bytes;
    while (bytes.size > 0) {
        ssize_t n = pwrite(receiver->fd, bytes.data, bytes.size, (off_t)at);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return error_set_errno(&receiver->error, errno, "cannot write %s", receiver->path);
        }
        at += (uint64_t)n;
        bytes = slice_make(bytes.data + n, bytes.size - (size_t)n);
    }
    return ERROR_NONE;
}

/* A failed sync is no reason to stop the process here: the file is thrown away. */
static enum error_code sync_staged(struct receiver *receiver) {
    receiver->unsynced_bytes = 0;
    if (fsync(receiver->fd) != 0) {
        return error_set_errno(&receiver->error, errno, "cannot sync %s", receiver->path);
    }
    return ERROR_NONE;
}

static enum error_code write_chunk(struct receiver *receiver) {
    const struct arrived *chunk = &receiver->arrived[0];
    struct slice bytes = payload_slice(chunk->payload);
    receiver->crc = crc32c(receiver->crc, bytes.data, bytes.size);
    if (receiver->crc != chunk->crc) {
        return error_set(&receiver->error, ERROR_CORRUPT, "checksum mismatch before offset %llu",
                         (unsigned long long)(receiver->written_bytes + bytes.size));
    }
    enum error_code code = write_fully(receiver, bytes);
    receiver->unsynced_bytes += bytes.size;
    if (code == ERROR_NONE && receiver->unsynced_bytes >= SYNC_EVERY) {
        code = sync_staged(receiver);
    }
    return code;
}

static enum error_code finish_file(struct receiver *receiver) {
    if (receiver->crc != receiver->end_crc) {
        return error_set(&receiver->error, ERROR_CORRUPT, "checksum of the whole file differs");
    }
    enum error_code code = sync_staged(receiver);
    int fd = receiver->fd;
    receiver->fd = -1;
    if (close(fd) != 0 && code == ERROR_NONE) {
        code = error_set_errno(&receiver->error, errno, "cannot close %s", receiver->path);
    }
    return code;
}

static void remove_staged(struct receiver *receiver) {
    if (receiver->fd >= 0) {
        close(receiver->fd);
        receiver->fd = -1;
    }
    (void)unlink(receiver->path); /* it may never have been created */
}

static void file_work(uv_work_t *work) {
    struct receiver *receiver = LIST_ENTRY(work, struct receiver, work);
    if (receiver->job == JOB_REMOVE) {
        remove_staged(receiver);
        return;
    }
    if (receiver->fd < 0 && open_staged(receiver) != ERROR_NONE) {
        return;
    }
    if (receiver->job == JOB_WRITE) {
        write_chunk(receiver);
    } else {
        finish_file(receiver);
    }
}

/* ---- the loop's side ---- */

static void receiver_pump(struct receiver *receiver);

static void drop_first_chunk(struct receiver *receiver) {
    ASSERT(receiver->n_arrived > 0);
    payload_unref(receiver->arrived[0].payload);
    receiver->n_arrived--;
    memmove(&receiver->arrived[0], &receiver->arrived[1],
            receiver->n_arrived * sizeof receiver->arrived[0]);
}

static void chunk_written(struct receiver *receiver) {
    receiver->written_bytes += receiver->arrived[0].payload->size;
    drop_first_chunk(receiver);
    receiver->ack_due = true;
}

static void on_job_done(uv_work_t *work, int status) {
    ASSERT(status == 0);
    struct receiver *receiver = LIST_ENTRY(work, struct receiver, work);
    enum receiver_job job = receiver->job;
    receiver->job = JOB_NONE;
    if (job == JOB_REMOVE) {
        receiver->state = RECEIVER_REMOVED;
        streams_wake(receiver->streams);
        return;
    }
    if (is_receiving(receiver)) {
        /* The sender could not speak while all its chunks waited for this disk. */
        receiver->heard_ms = uv_now(receiver->streams->loop);
        if (receiver->error.code != ERROR_NONE) {
            receiver_abort(receiver, receiver->error.code, receiver->error.message);
        } else if (job == JOB_WRITE) {
            chunk_written(receiver);
        } else {
            receiver->state = RECEIVER_COMPLETE;
        }
    }
    receiver_pump(receiver);
}

static void start_job(struct receiver *receiver, enum receiver_job job) {
    ASSERT(receiver->job == JOB_NONE);
    receiver->job = job;
    int status = uv_queue_work(receiver->streams->loop, &receiver->work, file_work, on_job_done);
    ASSERT(status == 0);
}

static bool tell(struct receiver *receiver, enum snapshot_kind kind) {
    struct snapshot_message message = {
        .kind = kind, .id = receiver->id, .offset = receiver->written_bytes};
    if (!streams_send(receiver->streams, receiver->from, receiver->group, &message, NULL)) {
        return false;
    }
    receiver->told_ms = uv_now(receiver->streams->loop);
    return true;
}

static void tell_sender(struct receiver *receiver) {
    if (receiver->accept_due && tell(receiver, SNAPSHOT_ACCEPT)) {
        receiver->accept_due = false;
    }
    if (!receiver->accept_due && receiver->ack_due && tell(receiver, SNAPSHOT_ACK)) {
        receiver->ack_due = false;
    }
}

static void tell_done(struct receiver *receiver) {
    bool told = tell(receiver, SNAPSHOT_DONE);
    uint64_t now_ms = uv_now(receiver->streams->loop);
    /* The file is good even when the sender cannot be told. */
    if (told || now_ms - receiver->heard_ms > SNAPSHOT_STALL_MS ||
        !peers_is_up(receiver->streams->peers, receiver->from)) {
        receiver->state = RECEIVER_RECEIVED;
        streams_wake(receiver->streams);
    }
}

/* Does whatever can be done now. */
static void receiver_pump(struct receiver *receiver) {
    if (receiver->state == RECEIVER_FAILED && receiver->job == JOB_NONE) {
        start_job(receiver, JOB_REMOVE);
    } else if (receiver->state == RECEIVER_COMPLETE) {
        tell_done(receiver);
    }
    if (!is_receiving(receiver)) {
        return;
    }
    tell_sender(receiver);
    if (receiver->job != JOB_NONE) {
        return;
    }
    if (receiver->n_arrived > 0) {
        start_job(receiver, JOB_WRITE);
    } else if (receiver->end_arrived) {
        start_job(receiver, JOB_SYNC);
    }
}

static void watch_silence(struct receiver *receiver) {
    uint64_t now_ms = uv_now(receiver->streams->loop);
    if (receiver->job != JOB_NONE) {
        receiver->ack_due |= now_ms - receiver->told_ms > SNAPSHOT_ALIVE_MS;
    } else if (now_ms - receiver->heard_ms > SNAPSHOT_STALL_MS) {
        receiver_abort(receiver, ERROR_IO, "the sender fell silent");
    }
}

/* ---- messages ---- */

/* The stream that stages a file of the group, from whomever. */
static struct receiver *receiver_of_group(const struct snapshot_streams *streams, uint16_t group) {
    const struct list_node *list = &streams->receivers;
    for (struct list_node *at = list->next; at != list; at = at->next) {
        struct receiver *receiver = LIST_ENTRY(at, struct receiver, node);
        if (receiver->group == group) {
            return receiver;
        }
    }
    return NULL;
}

static void receiver_start(struct snapshot_streams *streams, uint64_t from, uint16_t group,
                           const struct snapshot_message *offer) {
    const struct snapshot_callbacks *callbacks = &streams->callbacks;
    char path[PATH_SIZE];
    if (!callbacks->on_offer(callbacks->data, from, group, &offer->info, path, sizeof path)) {
        streams_send_abort(streams, from, group, offer->id, false, ERROR_BUSY,
                           "the snapshot was declined");
        return;
    }
    if (streams->closing) {
        return; /* from within on_offer */
    }
    struct receiver *receiver = mem_zalloc(1, sizeof *receiver);
    receiver->streams = streams;
    receiver->from = from;
    receiver->group = group;
    receiver->id = offer->id;
    receiver->info = offer->info;
    receiver->info.config.data = mem_dup(offer->info.config.data, offer->info.config.size);
    receiver->path = mem_strdup(path);
    receiver->fd = -1;
    receiver->accept_due = true;
    receiver->heard_ms = uv_now(streams->loop);
    receiver->told_ms = receiver->heard_ms;
    list_push(&streams->receivers, &receiver->node);
    streams_wake(streams);
}

/* The staged file must be gone before another takes its place, so the offer waits for that. */
static void keep_offer(struct receiver *receiver, uint64_t from,
                       const struct snapshot_message *offer) {
    receiver->next_offer.size = 0;
    snapshot_message_encode(offer, &receiver->next_offer);
    receiver->next_from = from;
}

static void on_offer(struct snapshot_streams *streams, uint64_t from, uint16_t group,
                     const struct snapshot_message *offer) {
    struct receiver *current = receiver_of_group(streams, group);
    if (current == NULL) {
        receiver_start(streams, from, group, offer);
        return;
    }
    if (from != current->from && offer->info.leader_term <= current->info.leader_term) {
        streams_send_abort(streams, from, group, offer->id, false, ERROR_BUSY,
                           "a snapshot of another node is being received");
        return;
    }
    if (is_receiving(current)) {
        receiver_abort(current, ERROR_STALE, "a newer snapshot was offered");
    }
    keep_offer(current, from, offer);
}

static const char *check_chunk(const struct receiver *receiver,
                               const struct snapshot_message *message,
                               const struct payload *chunk) {
    if (receiver->end_arrived || message->offset != receiver->arrived_bytes) {
        return "a chunk is missing";
    }
    if (chunk->size == 0 || chunk->size > SNAPSHOT_CHUNK ||
        chunk->size > receiver->info.size - receiver->arrived_bytes) {
        return "a chunk has a wrong size";
    }
    if (receiver->n_arrived == SNAPSHOT_WINDOW) {
        return "the sender does not keep to the window";
    }
    return NULL;
}

static void on_chunk(struct receiver *receiver, const struct snapshot_message *message,
                     struct payload *chunk) {
    const char *wrong = check_chunk(receiver, message, chunk);
    if (wrong != NULL) {
        receiver_abort(receiver, ERROR_CORRUPT, wrong);
        return;
    }
    receiver->arrived[receiver->n_arrived++] = (struct arrived){payload_ref(chunk), message->crc};
    receiver->arrived_bytes += chunk->size;
    receiver_pump(receiver);
}

static void on_end(struct receiver *receiver, const struct snapshot_message *message) {
    if (receiver->end_arrived || message->offset != receiver->info.size ||
        receiver->arrived_bytes != receiver->info.size) {
        receiver_abort(receiver, ERROR_CORRUPT, "the stream ended early");
        return;
    }
    receiver->end_arrived = true;
    receiver->end_crc = message->crc;
    receiver_pump(receiver);
}

/* An offer that still waits may be withdrawn, too. */
static void forget_offer(struct receiver *receiver, const struct snapshot_message *abort) {
    struct snapshot_message offer;
    if (receiver->next_offer.size > 0 &&
        snapshot_message_decode(SNAPSHOT_OFFER, buffer_slice(&receiver->next_offer), &offer) &&
        snapshot_id_equal(offer.id, abort->id)) {
        receiver->next_offer.size = 0;
    }
}

void receiver_receive(struct snapshot_streams *streams, uint64_t from, uint16_t group,
                      const struct snapshot_message *message, struct payload *chunk) {
    if (message->kind == SNAPSHOT_OFFER) {
        on_offer(streams, from, group, message);
        return;
    }
    struct receiver *receiver = receiver_of_group(streams, group);
    if (receiver != NULL && message->kind == SNAPSHOT_ABORT && receiver->next_from == from) {
        forget_offer(receiver, message);
    }
    if (receiver == NULL || receiver->from != from || !is_receiving(receiver) ||
        !snapshot_id_equal(receiver->id, message->id)) {
        return; /* of an older stream */
    }
    receiver->heard_ms = uv_now(streams->loop);
    if (message->kind == SNAPSHOT_CHUNK_DATA) {
        on_chunk(receiver, message, chunk);
    } else if (message->kind == SNAPSHOT_END) {
        on_end(receiver, message);
    } else {
        char reason[ERROR_MESSAGE_SIZE];
        snprintf(reason, sizeof reason, "node %llu: %s", (unsigned long long)from, message->reason);
        receiver_fail(receiver, reason);
    }
}

/* ---- for snapshot_stream_uv.c ---- */

void receivers_link_lost(struct snapshot_streams *streams, uint64_t node) {
    struct list_node *list = &streams->receivers;
    for (struct list_node *at = list->next; at != list; at = at->next) {
        struct receiver *receiver = LIST_ENTRY(at, struct receiver, node);
        if (receiver->next_from == node) {
            receiver->next_offer.size = 0;
        }
        if (receiver->from == node && is_receiving(receiver)) {
            receiver_fail(receiver, "the link to the sender was lost");
        }
    }
}

void receivers_end_all(struct snapshot_streams *streams) {
    struct list_node *list = &streams->receivers;
    for (struct list_node *at = list->next; at != list; at = at->next) {
        struct receiver *receiver = LIST_ENTRY(at, struct receiver, node);
        receiver->next_offer.size = 0;
        receiver_fail(receiver, "closing");
    }
}

void receivers_tick(struct snapshot_streams *streams) {
    struct list_node *list = &streams->receivers;
    for (struct list_node *at = list->next; at != list; at = at->next) {
        struct receiver *receiver = LIST_ENTRY(at, struct receiver, node);
        if (is_receiving(receiver)) {
            watch_silence(receiver);
        }
        receiver_pump(receiver);
    }
}

static void receiver_free(struct receiver *receiver) {
    ASSERT(receiver->fd < 0 && receiver->job == JOB_NONE);
    while (receiver->n_arrived > 0) {
        drop_first_chunk(receiver);
    }
    buffer_free(&receiver->next_offer);
    mem_free((void *)receiver->info.config.data);
    mem_free(receiver->path);
    mem_free(receiver);
}

static void receiver_report(struct snapshot_streams *streams, struct receiver *receiver) {
    const struct snapshot_callbacks *callbacks = &streams->callbacks;
    if (streams->closing) {
        return;
    }
    if (receiver->state == RECEIVER_RECEIVED) {
        callbacks->on_received(callbacks->data, receiver->from, receiver->group, &receiver->info,
                               receiver->path);
    } else {
        callbacks->on_failed(callbacks->data, receiver->from, receiver->group, receiver->reason);
    }
}

static void take_next_offer(struct snapshot_streams *streams, struct receiver *receiver) {
    struct snapshot_message offer;
    if (!streams->closing && receiver->next_offer.size > 0 &&
        snapshot_message_decode(SNAPSHOT_OFFER, buffer_slice(&receiver->next_offer), &offer)) {
        on_offer(streams, receiver->next_from, receiver->group, &offer);
    }
}

bool receivers_reap(struct snapshot_streams *streams) {
    struct list_node *list = &streams->receivers;
    for (struct list_node *at = list->next; at != list; at = at->next) {
        struct receiver *receiver = LIST_ENTRY(at, struct receiver, node);
        if (receiver->state != RECEIVER_RECEIVED && receiver->state != RECEIVER_REMOVED) {
            continue;
        }
        list_remove(&receiver->node);
        receiver_report(streams, receiver);
        take_next_offer(streams, receiver);
        receiver_free(receiver);
        return true;
    }
    return false;
}

void receivers_progress(const struct snapshot_streams *streams, uint16_t group,
                        struct snapshot_progress *progress) {
    const struct receiver *receiver = receiver_of_group(streams, group);
    if (receiver != NULL && is_receiving(receiver)) {
        progress->receiving = true;
        progress->done_bytes += receiver->written_bytes;
        progress->total_bytes += receiver->info.size;
    }
}
