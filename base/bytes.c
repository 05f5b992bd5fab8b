#include "base/bytes.h"

#include "base/assert.h"
#include "base/mem.h"

enum { BUFFER_CAPACITY_MIN = 64 };

struct slice slice_of(const char *text) {
    return slice_make(text, strlen(text));
}

struct slice slice_make(const void *data, size_t size) {
    ASSERT(data != NULL || size == 0);
    return (struct slice){.data = data, .size = size};
}

bool slice_equal(struct slice a, struct slice b) {
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

/* Not tolower(): that one depends on the locale. */
static uint8_t ascii_lower(uint8_t c) {
    return c >= 'A' && c <= 'Z' ? (uint8_t)(c + ('a' - 'A')) : c;
}

bool slice_equal_nocase(struct slice a, const char *text) {
    for (size_t i = 0; i < a.size; i++) {
        /* A NUL in the slice must not match the end of the text. */
        if (text[i] == '\0' || ascii_lower(a.data[i]) != ascii_lower((uint8_t)text[i])) {
            return false;
        }
    }
    return text[a.size] == '\0';
}

int slice_compare(struct slice a, struct slice b) {
    size_t common = a.size < b.size ? a.size : b.size;
    int order = common == 0 ? 0 : memcmp(a.data, b.data, common);
    if (order != 0) {
        return order;
    }
    return a.size < b.size ? -1 : a.size > b.size;
}

void buffer_reserve(struct buffer *buffer, size_t extra) {
    ASSERT(buffer->size <= buffer->capacity);
    if (extra <= buffer->capacity - buffer->size) {
        return;
    }
    ASSERT(extra <= SIZE_MAX - buffer->size);
    size_t needed = buffer->size + extra;
    size_t capacity = buffer->capacity <= SIZE_MAX / 2 ? buffer->capacity * 2 : needed;
    if (capacity < BUFFER_CAPACITY_MIN) {
        capacity = BUFFER_CAPACITY_MIN;
    }
    if (capacity < needed) {
        capacity = needed;
    }
    buffer->data = mem_realloc(buffer->data, capacity);
    buffer->capacity = capacity;
}

void buffer_append(struct buffer *buffer, const void *data, size_t size) {
    if (size == 0) {
        return;
    }
    buffer_reserve(buffer, size);
    memcpy(buffer->data + buffer->size, data, size);
    buffer->size += size;
}

void buffer_append_slice(struct buffer *buffer, struct slice slice) {
    buffer_append(buffer, slice.data, slice.size);
}

void buffer_consume(struct buffer *buffer, size_t size) {
    ASSERT(size <= buffer->size);
    buffer->size -= size;
    if (size > 0 && buffer->size > 0) {
        memmove(buffer->data, buffer->data + size, buffer->size);
    }
}

void buffer_free(struct buffer *buffer) {
    mem_free(buffer->data);
    *buffer = (struct buffer){0};
}

struct slice buffer_slice(const struct buffer *buffer) {
    return slice_make(buffer->data, buffer->size);
}

void buffer_put_u8(struct buffer *buffer, uint8_t value) {
    buffer_append(buffer, &value, sizeof value);
}

void buffer_put_u16(struct buffer *buffer, uint16_t value) {
    buffer_reserve(buffer, sizeof value);
    bytes_put_u16(buffer->data + buffer->size, value);
    buffer->size += sizeof value;
}

void buffer_put_u32(struct buffer *buffer, uint32_t value) {
    buffer_reserve(buffer, sizeof value);
    bytes_put_u32(buffer->data + buffer->size, value);
    buffer->size += sizeof value;
}

void buffer_put_u64(struct buffer *buffer, uint64_t value) {
    buffer_reserve(buffer, sizeof value);
    bytes_put_u64(buffer->data + buffer->size, value);
    buffer->size += sizeof value;
}

void buffer_put_bytes(struct buffer *buffer, struct slice slice) {
    ASSERT(slice.size <= UINT32_MAX);
    buffer_put_u32(buffer, (uint32_t)slice.size);
    buffer_append_slice(buffer, slice);
}

struct reader reader_make(struct slice slice) {
    return (struct reader){.rest = slice, .failed = false};
}

struct slice reader_take(struct reader *reader, size_t size) {
    if (reader->failed || size > reader->rest.size) {
        reader->failed = true;
        return (struct slice){0};
    }
    struct slice taken = {.data = reader->rest.data, .size = size};
    if (size > 0) {
        reader->rest.data += size;
        reader->rest.size -= size;
    }
    return taken;
}

uint8_t reader_u8(struct reader *reader) {
    struct slice bytes = reader_take(reader, sizeof(uint8_t));
    return reader->failed ? 0 : bytes.data[0];
}

uint16_t reader_u16(struct reader *reader) {
    struct slice bytes = reader_take(reader, sizeof(uint16_t));
    return reader->failed ? 0 : bytes_get_u16(bytes.data);
}

uint32_t reader_u32(struct reader *reader) {
    struct slice bytes = reader_take(reader, sizeof(uint32_t));
    return reader->failed ? 0 : bytes_get_u32(bytes.data);
}

uint64_t reader_u64(struct reader *reader) {
    struct slice bytes = reader_take(reader, sizeof(uint64_t));
    return reader->failed ? 0 : bytes_get_u64(bytes.data);
}

struct slice reader_bytes(struct reader *reader) {
    uint32_t size = reader_u32(reader);
    return reader_take(reader, size);
}

bool reader_done(const struct reader *reader) {
    return !reader->failed && reader->rest.size == 0;
}
