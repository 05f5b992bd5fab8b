#include "raft/log_format.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/assert.h"
#include "base/crc32c.h"

static const uint8_t magic[8] = {'I', 'K', 'V', 'S', 'E', 'G', '1', '\n'};

enum { LAST_BIT = 0x80 };

void log_segment_header_encode(const struct log_segment_header *header, uint8_t *out) {
    memset(out, 0, LOG_BLOCK);
    memcpy(out, magic, sizeof magic);
    bytes_put_u32(out + 8, LOG_VERSION);
    bytes_put_u32(out + 12, header->n_groups);
    bytes_put_u64(out + 16, header->number);
    bytes_put_u64(out + 24, header->identity);
    bytes_put_u64(out + 32, header->base_sequence);
    bytes_put_u64(out + 40, header->size);
    bytes_put_u32(out + 48, crc32c(0, out, 48));
}

enum error_code log_segment_header_decode(struct slice bytes, struct log_segment_header *header,
                                          struct error *error) {
    if (bytes.size < LOG_SEGMENT_HEADER || memcmp(bytes.data, magic, sizeof magic) != 0) {
        return error_set(error, ERROR_CORRUPT, "not a log segment");
    }
    if (bytes_get_u32(bytes.data + 48) != crc32c(0, bytes.data, 48)) {
        return error_set(error, ERROR_CORRUPT, "the segment header is damaged (checksum)");
    }
    uint32_t version = bytes_get_u32(bytes.data + 8);
    if (version != LOG_VERSION) {
        return error_set(error, ERROR_VERSION,
                         "log format version %" PRIu32 ", this program knows version %d", version,
                         LOG_VERSION);
    }
    header->n_groups = bytes_get_u32(bytes.data + 12);
    header->number = bytes_get_u64(bytes.data + 16);
    header->identity = bytes_get_u64(bytes.data + 24);
    header->base_sequence = bytes_get_u64(bytes.data + 32);
    header->size = bytes_get_u64(bytes.data + 40);
    return ERROR_NONE;
}

uint32_t log_record_seed(uint64_t identity, uint64_t segment_number) {
    uint8_t bytes[16];
    bytes_put_u64(bytes, identity);
    bytes_put_u64(bytes + 8, segment_number);
    return crc32c(0, bytes, sizeof bytes);
}

static uint32_t header_crc(const uint8_t *header, uint32_t seed, uint64_t offset) {
    uint8_t place[8];
    bytes_put_u64(place, offset);
    return crc32c(crc32c(seed, place, sizeof place), header + 4, LOG_RECORD_HEADER - 4);
}

void log_record_encode(const struct log_record *record, uint32_t seed, uint64_t offset,
                       uint8_t *out) {
    ASSERT(offset % 8 == 0);
    bytes_put_u32(out + 4, record->payload_crc);
    bytes_put_u32(out + 8, record->size);
    out[12] = (uint8_t)((unsigned)record->type | (record->last ? LAST_BIT : 0U));
    out[13] = (uint8_t)record->kind;
    bytes_put_u16(out + 14, (uint16_t)record->group);
    bytes_put_u64(out + 16, record->sequence);
    bytes_put_u64(out + 24, record->term);
    bytes_put_u64(out + 32, record->index);
    bytes_put_u32(out, header_crc(out, seed, offset));
}

static bool record_is_sane(const struct log_record *record) {
    switch (record->type) {
    case LOG_RECORD_ENTRY:
    case LOG_RECORD_RELOCATED:
        return record->size <= LIMIT_ENTRY_SIZE && record->index > 0 &&
               record->kind >= LOG_ENTRY_COMMAND && record->kind <= LOG_ENTRY_CHANGE;
    case LOG_RECORD_STATE:
        return record->size <= LIMIT_SHARDS * LOG_STATE_SIZE && record->kind == 0;
    case LOG_RECORD_PAD:
        return record->size < 2 * LOG_BLOCK && record->kind == 0;
    case LOG_RECORD_VOTE:
    case LOG_RECORD_RESET:
    case LOG_RECORD_CUT:
    case LOG_RECORD_SEAL:
        return record->size == 0 && record->kind == 0;
    }
    return false;
}

bool log_record_decode_at(struct slice bytes, uint64_t offset, uint32_t seed,
                          struct log_record *record) {
    if (bytes.size < LOG_RECORD_HEADER) {
        return false;
    }
    const uint8_t *header = bytes.data;
    if (bytes_get_u32(header) != header_crc(header, seed, offset)) {
        return false;
    }
    record->payload_crc = bytes_get_u32(header + 4);
    record->size = bytes_get_u32(header + 8);
    record->type = (enum log_record_type)(header[12] & ~LAST_BIT);
    record->last = (header[12] & LAST_BIT) != 0;
    record->kind = (enum log_entry_kind)header[13];
    record->group = bytes_get_u16(header + 14);
    record->sequence = bytes_get_u64(header + 16);
    record->term = bytes_get_u64(header + 24);
    record->index = bytes_get_u64(header + 32);
    return log_record_size(record->size) <= bytes.size && record_is_sane(record);
}

bool log_record_decode(struct slice segment, uint64_t offset, uint32_t seed,
                       struct log_record *record) {
    if (offset > segment.size) {
        return false;
    }
    struct slice bytes = slice_make(segment.data + offset, (size_t)(segment.size - offset));
    return log_record_decode_at(bytes, offset, seed, record);
}

struct slice log_record_payload(struct slice segment, uint64_t offset,
                                const struct log_record *record) {
    ASSERT(offset + log_record_size(record->size) <= segment.size);
    return slice_make(segment.data + offset + LOG_RECORD_HEADER, record->size);
}

bool log_record_intact(struct slice segment, uint64_t offset, const struct log_record *record) {
    struct slice payload = log_record_payload(segment, offset, record);
    return crc32c(0, payload.data, payload.size) == record->payload_crc;
}

bool log_batch_find(struct slice segment, uint64_t offset, uint32_t seed, uint64_t sequence,
                    uint64_t *end) {
    struct log_record record;
    do {
        if (!log_record_decode(segment, offset, seed, &record) || record.sequence != sequence ||
            !log_record_intact(segment, offset, &record)) {
            return false;
        }
        offset += log_record_size(record.size);
    } while (!record.last);
    *end = offset;
    return true;
}

struct log_remains log_remains_find(struct slice segment, uint64_t offset, uint32_t seed,
                                    uint64_t sequence) {
    struct log_remains remains = {.later = false};
    ASSERT(offset % 8 == 0);
    if (segment.size < LOG_RECORD_HEADER) {
        return remains;
    }
    /* No more batches than this fit, so a higher sequence cannot be one of this segment. It spares
     * almost every place the checksum. */
    uint64_t most = segment.size / LOG_RECORD_HEADER;
    for (; offset <= segment.size - LOG_RECORD_HEADER; offset += 8) {
        uint64_t distance = bytes_get_u64(segment.data + offset + 16) - sequence;
        struct log_record record;
        if (distance > most || !log_record_decode(segment, offset, seed, &record)) {
            continue;
        }
        if (distance > 0) {
            remains.later = true;
            remains.later_offset = offset;
            return remains;
        }
        remains.same = true;
        remains.same_end = offset + LOG_RECORD_HEADER;
    }
    return remains;
}

void log_state_encode(const struct log_group_state *states, unsigned n_groups, uint8_t *out) {
    for (unsigned i = 0; i < n_groups; i++, out += LOG_STATE_SIZE) {
        bytes_put_u64(out, states[i].term);
        bytes_put_u64(out + 8, states[i].voted_for);
        bytes_put_u64(out + 16, states[i].first);
        bytes_put_u64(out + 24, states[i].last);
        bytes_put_u64(out + 32, states[i].base_term);
    }
}

bool log_state_decode(struct slice payload, struct log_group_state *states, unsigned n_groups) {
    if (payload.size != (size_t)n_groups * LOG_STATE_SIZE) {
        return false;
    }
    const uint8_t *in = payload.data;
    for (unsigned i = 0; i < n_groups; i++, in += LOG_STATE_SIZE) {
        states[i].term = bytes_get_u64(in);
        states[i].voted_for = bytes_get_u64(in + 8);
        states[i].first = bytes_get_u64(in + 16);
        states[i].last = bytes_get_u64(in + 24);
        states[i].base_term = bytes_get_u64(in + 32);
        if (states[i].first == 0 || states[i].first - 1 > states[i].last) {
            return false;
        }
    }
    return true;
}

void log_segment_name(uint64_t number, char name[LOG_SEGMENT_NAME]) {
    int size = snprintf(name, LOG_SEGMENT_NAME, "%016" PRIx64 ".seg", number);
    ASSERT(size == LOG_SEGMENT_NAME - 1);
}

bool log_segment_name_parse(const char *name, uint64_t *number) {
    if (strlen(name) != LOG_SEGMENT_NAME - 1 || strcmp(name + 16, ".seg") != 0) {
        return false;
    }
    uint64_t value = 0;
    for (int i = 0; i < 16; i++) {
        char c = name[i];
        unsigned digit;
        if (c >= '0' && c <= '9') {
            digit = (unsigned)(c - '0');
        } else if (c >= 'a' && c <= 'f') {
            digit = (unsigned)(c - 'a') + 10;
        } else {
            return false;
        }
        value = value << 4 | digit;
    }
    *number = value;
    return true;
}
