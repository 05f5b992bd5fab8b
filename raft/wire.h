/* What travels between two nodes, byte by byte. Pure: encoders into memory and incremental
 * decoders, no I/O. All numbers are little-endian. docs/peer-protocol.md explains the conversation.
 *
 * Handshake frame; magic, version, kind, length and checksum stay where they are in every version:
 *
 *      0        4         6      7      8         12        16
 *     +--------+---------+------+------+---------+---------+------------
 *     | "IKVP" | version | kind | zero | length  | crc32c  | body ...
 *     +--------+---------+------+------+---------+---------+------------
 *       u8[4]     u16       u8     u8      u32       u32     length bytes, at most 1 KiB
 *
 *     crc32c covers bytes 0..11 and the body.
 *     HELLO (1):   cluster (u32 length, bytes), from u64, incarnation u64, boot u64, epoch u64,
 *                  to u64, who
 *     WELCOME (2): cluster (u32 length, bytes), from u64, incarnation u64, boot u64, who
 *     REFUSED (3): error code u32, reason (u32 length, bytes)
 *     who:         cluster id u64, level u32, lowest and highest version of fragments u16 each,
 *                  release (u32 length, bytes); a later release may append to it
 *
 * Fragment, everything that follows a handshake:
 *
 *      0       1      2       3      4         8         12
 *     +-------+------+-------+------+---------+---------+------------
 *     | magic | lane | flags | zero | length  | crc32c  | body ...
 *     +-------+------+-------+------+---------+---------+------------
 *        u8      u8     u8      u8      u32       u32     length bytes, 1 .. 64 KiB
 *
 *     magic is 0xB1: high half a mark, low half the version. flags: 1 first, 2 last fragment of its
 *     message. crc32c covers bytes 0..7 and the body.
 *
 * Message: the bodies of its fragments in a row. The first fragment holds at least prefix and
 * sizes:
 *
 *      0      1      2       4             8               12
 *     +------+------+-------+-------------+---------------+-------------------+--------+-------------
 *     | type | zero | group | header size | n attachments | size[n] (u32 each)| header |
 * attachments
 *     +------+------+-------+-------------+---------------+-------------------+--------+-------------
 *        u8     u8     u16        u32            u32
 */
#ifndef RAFT_WIRE_H
#define RAFT_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/error.h"
#include "raft/peers.h"

enum {
    WIRE_VERSION = 1,
    WIRE_FRAGMENT_MAGIC = 0xB0 | WIRE_VERSION,
    WIRE_FRAGMENT_HEADER = 12,
    WIRE_FRAGMENT_BODY_MAX = 64 * 1024,
    WIRE_FLAG_FIRST = 1,
    WIRE_FLAG_LAST = 2,
    WIRE_PREFIX = 12,
    WIRE_PREFIX_MAX = WIRE_PREFIX + 4 * PEER_ATTACHMENTS_MAX,
    WIRE_HANDSHAKE_HEADER = 16,
    WIRE_HANDSHAKE_BODY_MAX = 1024,
    WIRE_HANDSHAKE_MAX = WIRE_HANDSHAKE_HEADER + WIRE_HANDSHAKE_BODY_MAX,
    WIRE_CLUSTER_MAX = 255, /* bytes of a cluster's name */
    WIRE_RELEASE_MAX = PEER_RELEASE_SIZE - 1,
    WIRE_REASON_MAX = 511 /* bytes of a refusal's reason */
};

static_assert(WIRE_PREFIX_MAX <= WIRE_FRAGMENT_BODY_MAX, "the first fragment holds all sizes");
static_assert(WIRE_REASON_MAX < (int)ERROR_MESSAGE_SIZE, "a reason fits into struct error");
static_assert(WIRE_CLUSTER_MAX + WIRE_RELEASE_MAX + 64 <= WIRE_HANDSHAKE_BODY_MAX, "HELLO fits");
static_assert(WIRE_REASON_MAX + 8 <= WIRE_HANDSHAKE_BODY_MAX, "REFUSED fits");

/* What a decoder found in the bytes it was given. */
enum wire_status {
    WIRE_FOUND, /* a message or handshake frame is complete */
    WIRE_MORE,  /* everything was used up, more bytes are needed */
    WIRE_BROKEN /* the bytes are not what a node of this version sends: close the connection */
};

enum wire_handshake_kind { WIRE_HELLO = 1, WIRE_WELCOME = 2, WIRE_REFUSED = 3 };

struct wire_handshake {
    enum wire_handshake_kind kind;
    char cluster[WIRE_CLUSTER_MAX + 1]; /* HELLO and WELCOME */
    uint64_t from;
    uint64_t incarnation;
    uint64_t boot;
    uint64_t epoch;      /* HELLO */
    uint64_t to;         /* HELLO */
    uint64_t cluster_id; /* HELLO and WELCOME, like what follows; 0: part of no cluster yet */
    uint32_t level;      /* see peer_identity */
    uint16_t wire_min;   /* versions of fragments that the sender speaks */
    uint16_t wire_max;
    char release[WIRE_RELEASE_MAX + 1];
    enum error_code code; /* REFUSED */
    char reason[WIRE_REASON_MAX + 1];
};

/* Writes a handshake frame and returns its size. Texts that are too long are cut. */
size_t wire_handshake_encode(const struct wire_handshake *handshake,
                             uint8_t frame[WIRE_HANDSHAKE_MAX]);

/* Collects one handshake frame from pieces of any size. Zeroed is a valid start. */
struct wire_handshake_decoder {
    uint8_t frame[WIRE_HANDSHAKE_MAX];
    size_t size;
};

/* Takes bytes from the front of `input` up to the end of the frame, no further. WIRE_BROKEN with
 * ERROR_VERSION when the other side speaks another version (a REFUSED of another version is still
 * found, so that its reason can be shown), with ERROR_CORRUPT for anything else. */
enum wire_status wire_handshake_decode(struct wire_handshake_decoder *decoder, struct slice *input,
                                       struct wire_handshake *handshake, struct error *error);

/* Whether the message keeps within the bounds of raft/peers.h. */
bool wire_message_is_valid(const struct peer_message *message);

/* Bytes of prefix, sizes and header; and of the whole message. The message must be valid. */
size_t wire_message_head_size(const struct peer_message *message);
uint64_t wire_message_size(const struct peer_message *message);

/* Writes prefix, sizes and header: wire_message_head_size() bytes. */
void wire_message_encode_head(const struct peer_message *message, uint8_t *head);

/* A fragment's header is written in two steps around its body, which may lie in several pieces:
 * begin returns the checksum of the header fields, the caller continues it over the body with
 * crc32c(), finish stores it. */
uint32_t wire_fragment_begin(uint8_t header[WIRE_FRAGMENT_HEADER], enum peer_lane lane,
                             unsigned flags, size_t length);
void wire_fragment_finish(uint8_t header[WIRE_FRAGMENT_HEADER], uint32_t crc);

/* Puts fragments together again, one message at a time per lane. Copies each byte once: into the
 * lane's head buffer or into the attachment's payload, which is allocated when its first byte is
 * due. Memory: per lane at most what was received plus one attachment. */
struct wire_decoder;

struct wire_decoder *wire_decoder_new(void);
void wire_decoder_free(struct wire_decoder *decoder);

/* Takes bytes from the front of `input` until a message is complete or the input is used up. On
 * WIRE_FOUND, `message` is valid until the next call and the caller takes over its attachments'
 * references. After WIRE_BROKEN every call returns WIRE_BROKEN. */
enum wire_status wire_decoder_next(struct wire_decoder *decoder, struct slice *input,
                                   enum peer_lane *lane, struct peer_message *message,
                                   struct error *error);

/* Bytes that half-received messages hold, for bounds and tests. */
uint64_t wire_decoder_memory(const struct wire_decoder *decoder);

#endif
