#include "raft/log_read.h"

#include <string.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/mem.h"
#include "raft/log_format.h"

/* Records of a group lie between those of others: one read over a gap is cheaper than two. */
#define GAP_MAX (64 * KIB)
#define SPAN_MAX (4 * MIB)

void log_read_batch_init(struct log_read_batch *batch, const struct storage *storage,
                         uint64_t identity, unsigned capacity) {
    *batch = (struct log_read_batch){.storage = storage, .identity = identity};
    batch->items = mem_zalloc(capacity > 0 ? capacity : 1, sizeof *batch->items);
}

void log_read_batch_free(struct log_read_batch *batch) {
    for (unsigned k = 0; k < batch->n; k++) {
        payload_unref(batch->items[k].entry.payload);
    }
    mem_free(batch->items);
}

static uint64_t item_offset(const struct log_read_item *item) {
    return log_location_offset(item->location);
}

static uint64_t item_end(const struct log_read_item *item) {
    return item_offset(item) + log_record_size(item->size);
}

/* Number of items from `from` on that one read covers. */
static unsigned span_length(const struct log_read_batch *batch, unsigned from) {
    const struct log_read_item *start = &batch->items[from];
    uint64_t end = item_end(start);
    unsigned k = from + 1;
    for (; k < batch->n; k++) {
        const struct log_read_item *item = &batch->items[k];
        if (item->entry.payload != NULL || item->location.segment != start->location.segment ||
            item_offset(item) < end || item_offset(item) - end > GAP_MAX ||
            item_end(item) - item_offset(start) > SPAN_MAX) {
            break;
        }
        end = item_end(item);
    }
    return k - from;
}

static bool record_matches(const struct log_record *record, const struct log_read_item *item) {
    return (record->type == LOG_RECORD_ENTRY || record->type == LOG_RECORD_RELOCATED) &&
           record->group == item->group && record->index == item->index &&
           record->term == item->entry.term && record->kind == item->entry.kind &&
           record->size == item->size;
}

/* `bytes` is what the segment has at the item's offset. */
static bool item_parse(struct log_read_item *item, struct slice bytes, uint32_t seed) {
    struct log_record record;
    if (!log_record_decode_at(bytes, item_offset(item), seed, &record) ||
        !record_matches(&record, item)) {
        return false;
    }
    struct slice payload = slice_make(bytes.data + LOG_RECORD_HEADER, record.size);
    if (crc32c(0, payload.data, payload.size) != record.payload_crc) {
        return false;
    }
    item->entry.payload = payload_copy(payload);
    return true;
}

static enum error_code span_read(struct log_read_batch *batch, unsigned from, unsigned n,
                                 struct buffer *buffer) {
    const struct log_read_item *start = &batch->items[from];
    uint64_t offset = item_offset(start);
    size_t size = (size_t)(item_end(&batch->items[from + n - 1]) - offset);
    buffer->size = 0;
    buffer_reserve(buffer, size);
    ssize_t done = storage_read(batch->storage, start->file, buffer->data, size, offset);
    if (done < 0) {
        return ERROR_IO;
    }
    buffer->size = (size_t)done;
    uint32_t seed = log_record_seed(batch->identity, start->location.segment);
    for (unsigned k = from; k < from + n; k++) {
        struct log_read_item *item = &batch->items[k];
        size_t at = (size_t)(item_offset(item) - offset);
        if (at > buffer->size ||
            !item_parse(item, slice_make(buffer->data + at, buffer->size - at), seed)) {
            return ERROR_CORRUPT;
        }
    }
    return ERROR_NONE;
}

enum error_code log_read_batch_run(struct log_read_batch *batch) {
    struct buffer buffer = {.data = NULL};
    enum error_code code = batch->code;
    for (unsigned k = 0; k < batch->n && code == ERROR_NONE;) {
        if (batch->items[k].entry.payload != NULL) {
            k++;
            continue;
        }
        unsigned n = span_length(batch, k);
        code = span_read(batch, k, n, &buffer);
        k += n;
    }
    buffer_free(&buffer);
    batch->code = code;
    return code;
}
