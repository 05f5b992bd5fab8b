/* What the log looks like on disk: segments, batches and records. Pure: bytes in, bytes out.
 *
 * A segment is a file of a fixed size (a multiple of LOG_BLOCK) whose first block is its header:
 *
 *      0  magic "IKVSEG1\n"                      8 bytes
 *      8  format version                         u32
 *     12  number of groups                       u32
 *     16  segment number                         u64   also the file's name
 *     24  identity of the data directory         u64
 *     32  sequence of the segment's first batch  u64
 *     40  size of the file                       u64
 *     48  CRC-32C of bytes 0 to 47               u32
 *     52  zeros up to LOG_BLOCK
 *
 * Batches follow, each a run of records with the same sequence; sequences grow by one from batch to
 * batch, across segments. One batch is one write and one sync, so it is there as a whole or it was
 * never promised: its last record says that it is the last. A record starts at a multiple of 8:
 *
 *      0  header CRC-32C, see below              u32
 *      4  CRC-32C of the payload                 u32
 *      8  size of the payload                    u32
 *     12  type; bit 7: last record of its batch  u8
 *     13  kind of the entry, 0 for other types   u8
 *     14  group                                  u16
 *     16  sequence of the batch                  u64
 *     24  term                                   u64
 *     32  index                                  u64
 *     40  payload, then zeros up to a multiple of 8
 *
 * The header CRC covers identity, segment number and the record's offset, none of which is stored,
 * and then bytes 4 to 39. So the copy of a record, be it a value that a client stored or the
 * leftover of a recycled segment, is not a record anywhere else. */
#ifndef RAFT_LOG_FORMAT_H
#define RAFT_LOG_FORMAT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/limits.h"
#include "raft/log.h"

enum {
    LOG_BLOCK = 4096,
    LOG_SEGMENT_HEADER = 52,
    LOG_RECORD_HEADER = 40,
    LOG_STATE_SIZE = 40, /* one group's part of a LOG_RECORD_STATE */
    LOG_VERSION = 1
};

enum log_record_type {
    LOG_RECORD_ENTRY = 1,     /* appends (group, index, term); drops what was at index and behind */
    LOG_RECORD_VOTE = 2,      /* term; index is the node voted for */
    LOG_RECORD_RESET = 3,     /* the group goes on behind (index, term) */
    LOG_RECORD_CUT = 4,       /* entries up to (index, term) are not needed */
    LOG_RECORD_STATE = 5,     /* state of every group; starts each segment */
    LOG_RECORD_RELOCATED = 6, /* the entry (group, index, term) at a new place */
    LOG_RECORD_PAD = 7,       /* fills space */
    LOG_RECORD_SEAL = 8       /* proves that the batch before was synced */
};

struct log_record {
    enum log_record_type type;
    bool last; /* of its batch */
    enum log_entry_kind kind;
    unsigned group;
    uint32_t size; /* of the payload */
    uint32_t payload_crc;
    uint64_t sequence;
    uint64_t term;
    uint64_t index;
};

struct log_segment_header {
    uint64_t number;
    uint64_t identity;
    uint64_t base_sequence;
    uint64_t size;
    unsigned n_groups;
};

/* Bytes that a record with this payload takes in a segment. */
static inline uint64_t log_record_size(uint64_t payload_size) {
    return (LOG_RECORD_HEADER + payload_size + 7) & ~(uint64_t)7;
}

static inline uint64_t log_round_up(uint64_t size) {
    return (size + LOG_BLOCK - 1) & ~(uint64_t)(LOG_BLOCK - 1);
}

/* `out` has LOG_BLOCK bytes. */
void log_segment_header_encode(const struct log_segment_header *header, uint8_t *out);
/* Checks magic, CRC and version and fills `header`; the caller compares the rest with what it
 * expects. ERROR_CORRUPT or ERROR_VERSION. */
enum error_code log_segment_header_decode(struct slice bytes, struct log_segment_header *header,
                                          struct error *error);

/* Start of the header CRC of every record in this segment. */
uint32_t log_record_seed(uint64_t identity, uint64_t segment_number);
/* `out` has LOG_RECORD_HEADER bytes. */
void log_record_encode(const struct log_record *record, uint32_t seed, uint64_t offset,
                       uint8_t *out);
/* Reads the header at `offset` of `segment`. False when it is damaged, makes no sense or its
 * payload would not end within the segment. The payload's CRC is not looked at. */
bool log_record_decode(struct slice segment, uint64_t offset, uint32_t seed,
                       struct log_record *record);
/* The same, when `bytes` is what the segment has from `offset` on. */
bool log_record_decode_at(struct slice bytes, uint64_t offset, uint32_t seed,
                          struct log_record *record);
/* The payload of a decoded record, and whether it is intact. */
struct slice log_record_payload(struct slice segment, uint64_t offset,
                                const struct log_record *record);
bool log_record_intact(struct slice segment, uint64_t offset, const struct log_record *record);

/* True when a whole, intact batch with this sequence starts at `offset`; *end is where it ends. */
bool log_batch_find(struct slice segment, uint64_t offset, uint32_t seed, uint64_t sequence,
                    uint64_t *end);

/* What lies behind the end of the last whole batch. */
struct log_remains {
    bool later;            /* a record of a batch behind `sequence` */
    uint64_t later_offset; /* of the first such record */
    bool same;             /* a record of batch `sequence` itself */
    uint64_t same_end;     /* end of the header of the last such record */
};

/* Looks at every possible place from `offset` on for records of batch `sequence` and later ones. */
struct log_remains log_remains_find(struct slice segment, uint64_t offset, uint32_t seed,
                                    uint64_t sequence);

/* Payload of a LOG_RECORD_STATE: n_groups times LOG_STATE_SIZE bytes. */
void log_state_encode(const struct log_group_state *states, unsigned n_groups, uint8_t *out);
bool log_state_decode(struct slice payload, struct log_group_state *states, unsigned n_groups);

/* File name of a segment: 16 hexadecimal digits and ".seg". */
enum { LOG_SEGMENT_NAME = 21 };
void log_segment_name(uint64_t number, char name[LOG_SEGMENT_NAME]);
bool log_segment_name_parse(const char *name, uint64_t *number);

#endif
