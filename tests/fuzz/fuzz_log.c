/* Decodes the input as a segment's header and as a slot of `newest`, and replays a segment made of
 * it: record by record with fitting checksums, so that the input reaches what lies behind them, and
 * then once more with bytes of the input in their place.
 *
 * Input: u8 flags; records of 1 + 1 + 1 + 1 + 1 + 2 + 2 bytes: type and last bit, kind, group,
 * sequence step, term, index, payload size; what does not make a full record any more is written
 * over the segment. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/mem.h"
#include "raft/log_format.h"
#include "raft/log_index.h"
#include "raft/log_newest.h"
#include "raft/log_recover.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SIZE = 4 * LOG_BLOCK, GROUPS = 2, IDENTITY = 1, NUMBER = 3, BASE = 10 };

static uint8_t bytes[SIZE];

/* Puts one record at *offset; false when there is no room or no input left. */
static bool put_record(struct reader *in, uint32_t seed, uint64_t *sequence, uint64_t *offset) {
    if (in->rest.size < 9) {
        return false;
    }
    uint8_t type = reader_u8(in);
    struct log_record record = {
        .type = (enum log_record_type)(type & 0x7f),
        .last = (type & 0x80) != 0,
        .kind = (enum log_entry_kind)reader_u8(in),
        .group = reader_u8(in),
        .sequence = *sequence + reader_u8(in) / 128,
        .term = reader_u8(in),
        .index = reader_u16(in),
    };
    record.size = reader_u16(in) % 1024;
    if (record.index == 0xffff) {
        record.index = UINT64_MAX;
    }
    uint8_t *payload = bytes + *offset + LOG_RECORD_HEADER;
    if (*offset + log_record_size(record.size) > SIZE) {
        return false;
    }
    if (record.type == LOG_RECORD_STATE) {
        size_t have = in->rest.size < record.size ? in->rest.size : record.size;
        memcpy(payload, reader_take(in, have).data, have);
    }
    record.payload_crc = crc32c(0, payload, record.size);
    log_record_encode(&record, seed, *offset, bytes + *offset);
    *offset += log_record_size(record.size);
    *sequence += record.last ? 1 : 0;
    return true;
}

static void replay(bool oldest) {
    const struct slice segment = {.data = bytes, .size = SIZE};
    const struct log_segment_header header = {.number = NUMBER,
                                              .identity = IDENTITY,
                                              .base_sequence = BASE,
                                              .size = SIZE,
                                              .n_groups = GROUPS};
    struct log_index *index = log_index_new(GROUPS, 0);
    struct log_replay_end end;
    struct error error;
    log_index_segment_add(index, NUMBER);
    enum error_code code =
        log_replay_segment(index, GROUPS, &header, segment, oldest, &end, &error);
    ASSERT(code == ERROR_NONE || code == ERROR_CORRUPT);
    ASSERT(end.offset >= LOG_BLOCK && end.offset <= SIZE && end.sequence >= BASE);
    for (unsigned g = 0; g < GROUPS; g++) {
        struct log_group_state state = log_index_state(index, g);
        ASSERT(state.first >= 1 && state.first - 1 <= state.last);
        uint64_t missing = log_index_unplaced(index, g);
        ASSERT(missing == 0 || (missing >= state.first && missing <= state.last));
    }
    if (code == ERROR_NONE) {
        struct log_remains remains =
            log_remains_find(segment, end.offset, log_record_seed(IDENTITY, NUMBER), end.sequence);
        ASSERT(!remains.later || remains.later_offset >= end.offset);
        ASSERT(!remains.same || remains.same_end <= SIZE);
    }
    log_index_free(index);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct log_segment_header header;
    log_segment_header_decode(slice_make(data, size), &header, NULL);
    struct log_newest newest;
    if (log_newest_decode(slice_make(data, size), &newest, NULL) == ERROR_NONE) {
        uint8_t again[LOG_NEWEST_SLOT];
        log_newest_encode(&newest, again);
        ASSERT(memcmp(again, data, sizeof again) == 0);
    }

    struct reader in = reader_make(slice_make(data, size));
    bool oldest = (reader_u8(&in) & 1) != 0;
    uint32_t seed = log_record_seed(IDENTITY, NUMBER);
    uint64_t sequence = BASE;
    uint64_t offset = LOG_BLOCK;
    memset(bytes, 0, sizeof bytes);
    while (put_record(&in, seed, &sequence, &offset)) {
    }
    replay(oldest);
    if (in.rest.size >= 3) {
        size_t at = LOG_BLOCK + reader_u16(&in) % (SIZE - LOG_BLOCK);
        size_t some = in.rest.size < SIZE - at ? in.rest.size : SIZE - at;
        memcpy(bytes + at, in.rest.data, some);
        replay(oldest);
    }
    return 0;
}
