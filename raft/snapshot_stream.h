/* Sends a file to a peer in checksummed chunks and receives one: how a shard's database reaches a
 * follower that fell behind the log. The file must not change while it is sent.
 *
 * Flow control: the receiver acknowledges what it has written; at most SNAPSHOT_WINDOW chunks are
 * unacknowledged, so memory is bounded on both sides. File I/O runs on libuv's thread pool. Chunks
 * travel on PEER_LANE_BULK. The receiver stages the bytes in a file of its own, syncs it and checks
 * the whole file's checksum before it reports completion. Either side may give up at any time; a
 * dropped message, a lost link or silence longer than SNAPSHOT_STALL_MS ends the stream with an
 * error on both sides, and the staged file is removed. The next attempt starts anew.
 *
 * Threads: loop thread only. Callbacks run from the loop, never inside a function of this header,
 * except on_offer, which runs inside snapshot_streams_receive(). Every callback may call any
 * function of this header. Messages and checksums are drawn in raft/snapshot_message.h. */
#ifndef RAFT_SNAPSHOT_STREAM_H
#define RAFT_SNAPSHOT_STREAM_H

#include "raft/peers.h"

enum { SNAPSHOT_CHUNK = 1 << 20, SNAPSHOT_WINDOW = 4, SNAPSHOT_STALL_MS = 10000 };

/* Message types that belong to this layer: hand such messages to snapshot_streams_receive(). */
enum { PEER_MESSAGE_SNAPSHOT_FIRST = 32, PEER_MESSAGE_SNAPSHOT_LAST = 39 };

struct snapshot_streams;

/* What a snapshot is: travels with the first message. */
struct snapshot_info {
    uint64_t leader_term; /* term of the sender as leader */
    uint64_t index;       /* last log index that the file contains */
    uint64_t term;        /* its term */
    uint64_t config_index;
    struct slice config; /* encoded Raft configuration */
    uint64_t size;       /* of the file, bytes */
};

struct snapshot_callbacks {
    void *data;
    /* A peer offers a snapshot. At most one per group is received at a time; a newer offer of the
     * same node, or of a leader of a higher term, ends the older one first. Fill `path` (of
     * `path_size` bytes) with where to stage it and return true, or return false to decline. */
    bool (*on_offer)(void *data, uint64_t from, uint16_t group, const struct snapshot_info *info,
                     char *path, size_t path_size);
    /* A file arrived whole, checked and synced; it now belongs to the callee. */
    void (*on_received)(void *data, uint64_t from, uint16_t group, const struct snapshot_info *info,
                        const char *path);
    /* Receiving ended without success; the staged file is gone. */
    void (*on_failed)(void *data, uint64_t from, uint16_t group, const char *reason);
    /* A stream of ours ended: the peer has received and checked everything, or not. */
    void (*on_sent)(void *data, uint64_t to, uint16_t group, enum error_code code,
                    const char *reason);
};

struct snapshot_progress {
    bool sending;
    bool receiving;
    uint64_t done_bytes;
    uint64_t total_bytes;
};

struct snapshot_streams *snapshot_streams_new(struct uv_loop_s *loop, struct peers *peers,
                                              const struct snapshot_callbacks *callbacks);
/* Ends all streams without a further callback and removes what is staged; `closed` runs on the loop
 * when no file operation is left. `peers` is not used any more. */
void snapshot_streams_close(struct snapshot_streams *streams, void (*closed)(void *data),
                            void *data);

/* Starts sending `path`; path and info are copied. One stream per (peer, group): false when one is
 * running already, which it does until on_sent was called. The end, good or bad, is reported once
 * through on_sent: ERROR_NOSPACE when the peer's disk is full, ERROR_BUSY when it declined,
 * ERROR_IO when the link was lost or the peer fell silent. */
bool snapshot_streams_send(struct snapshot_streams *streams, uint64_t to, uint16_t group,
                           const char *path, const struct snapshot_info *info);
/* Ends a running stream of ours with ERROR_STALE, for example because leadership was lost. */
void snapshot_streams_cancel(struct snapshot_streams *streams, uint64_t to, uint16_t group);
bool snapshot_streams_is_sending(const struct snapshot_streams *streams, uint64_t to,
                                 uint16_t group);

/* A message of this layer's types arrived; takes over its attachments. */
void snapshot_streams_receive(struct snapshot_streams *streams, uint64_t from,
                              struct peer_message *message);
/* The incoming or outgoing link of a peer went down: its streams end. */
void snapshot_streams_link_lost(struct snapshot_streams *streams, uint64_t node);

/* Of all streams of the group together. */
struct snapshot_progress snapshot_streams_progress(const struct snapshot_streams *streams,
                                                   uint16_t group);

#endif
