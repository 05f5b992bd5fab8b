/* Messages of the snapshot streams. Pure. They are peer messages of the types below; the group is
 * the peer message's, the fields are its header, a chunk's bytes are its only attachment.
 *
 *     OFFER   id, leader_term u64, index u64, term u64, config_index u64, size u64, config bytes
 *     ACCEPT  id
 *     CHUNK   id, offset u64, crc u32      crc: of the file from its start to the end of this chunk
 *     ACK     id, offset u64               bytes written to the staged file so far
 *     END     id, offset u64, crc u32      size and checksum of the whole file
 *     DONE    id                           checked and synced
 *     ABORT   id, by sender u8, error code u32, reason bytes
 *
 *     id = boot number of the sender u64, counter u64: no two streams of a node ever share one, so
 *     that late messages of an older stream are recognised. bytes = u32 length, bytes.
 *
 * OFFER, CHUNK, END and the sender's ABORT travel on the bulk lane, so they stay in order; what the
 * receiver says travels on the normal lane. */
#ifndef RAFT_SNAPSHOT_MESSAGE_H
#define RAFT_SNAPSHOT_MESSAGE_H

#include "base/bytes.h"
#include "raft/snapshot_stream.h"

enum snapshot_kind {
    SNAPSHOT_OFFER = PEER_MESSAGE_SNAPSHOT_FIRST,
    SNAPSHOT_ACCEPT,
    SNAPSHOT_CHUNK_DATA,
    SNAPSHOT_ACK,
    SNAPSHOT_END,
    SNAPSHOT_DONE,
    SNAPSHOT_ABORT
};

static_assert((int)SNAPSHOT_ABORT <= (int)PEER_MESSAGE_SNAPSHOT_LAST, "types of this layer");

enum { SNAPSHOT_REASON_MAX = 400, SNAPSHOT_CONFIG_MAX = 64 * 1024 };

struct snapshot_id {
    uint64_t boot;
    uint64_t counter;
};

struct snapshot_message {
    enum snapshot_kind kind;
    struct snapshot_id id;
    struct snapshot_info info; /* OFFER; config points into the decoded bytes */
    uint64_t offset;           /* CHUNK, ACK, END */
    uint32_t crc;              /* CHUNK, END */
    bool by_sender;            /* ABORT */
    enum error_code code;      /* ABORT */
    char reason[SNAPSHOT_REASON_MAX + 1];
};

bool snapshot_id_equal(struct snapshot_id a, struct snapshot_id b);

/* Appends the message's header. */
void snapshot_message_encode(const struct snapshot_message *message, struct buffer *out);

/* False when `header` is not a message of that type. */
bool snapshot_message_decode(uint8_t type, struct slice header, struct snapshot_message *message);

#endif
