/* Byte slices, a growable buffer, and fixed-width little-endian numbers.
 *
 * All integers that invoke-kv stores or sends are little-endian and unaligned. */
#ifndef BASE_BYTES_H
#define BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A view of bytes owned by somebody else. `data` may be NULL only when size is 0. */
struct slice {
    const uint8_t *data;
    size_t size;
};

/* Slice of a NUL-terminated string, without the NUL. */
struct slice slice_of(const char *text);
struct slice slice_make(const void *data, size_t size);
bool slice_equal(struct slice a, struct slice b);
/* ASCII case-insensitive comparison with a string literal. */
bool slice_equal_nocase(struct slice a, const char *text);
/* memcmp order, shorter first when one is a prefix of the other. */
int slice_compare(struct slice a, struct slice b);

/* A growable buffer that owns its memory. A zeroed struct is a valid, empty buffer. */
struct buffer {
    uint8_t *data;
    size_t size;
    size_t capacity;
};

/* Makes room for `extra` more bytes. Aborts the process when memory is exhausted: bounds elsewhere
 * keep that from being reachable by a client. */
void buffer_reserve(struct buffer *buffer, size_t extra);
void buffer_append(struct buffer *buffer, const void *data, size_t size);
void buffer_append_slice(struct buffer *buffer, struct slice slice);
/* Drops the first `size` bytes, moving the rest to the front. */
void buffer_consume(struct buffer *buffer, size_t size);
/* Releases the memory and leaves an empty buffer. */
void buffer_free(struct buffer *buffer);
struct slice buffer_slice(const struct buffer *buffer);

void buffer_put_u8(struct buffer *buffer, uint8_t value);
void buffer_put_u16(struct buffer *buffer, uint16_t value);
void buffer_put_u32(struct buffer *buffer, uint32_t value);
void buffer_put_u64(struct buffer *buffer, uint64_t value);
/* u32 length followed by the bytes. */
void buffer_put_bytes(struct buffer *buffer, struct slice slice);

/* Fixed-width numbers at any alignment. */
static inline void bytes_put_u16(void *at, uint16_t value) {
    uint8_t *p = at;
    p[0] = (uint8_t)value;
    p[1] = (uint8_t)(value >> 8);
}
static inline void bytes_put_u32(void *at, uint32_t value) {
    uint8_t *p = at;
    for (int i = 0; i < 4; i++) {
        p[i] = (uint8_t)(value >> (8 * i));
    }
}
static inline void bytes_put_u64(void *at, uint64_t value) {
    uint8_t *p = at;
    for (int i = 0; i < 8; i++) {
        p[i] = (uint8_t)(value >> (8 * i));
    }
}
static inline uint16_t bytes_get_u16(const void *at) {
    const uint8_t *p = at;
    return (uint16_t)(p[0] | (p[1] << 8));
}
static inline uint32_t bytes_get_u32(const void *at) {
    const uint8_t *p = at;
    return (uint32_t)p[0] | ((uint32_t)p[1] << 8) | ((uint32_t)p[2] << 16) | ((uint32_t)p[3] << 24);
}
static inline uint64_t bytes_get_u64(const void *at) {
    const uint8_t *p = at;
    return (uint64_t)bytes_get_u32(p) | ((uint64_t)bytes_get_u32(p + 4) << 32);
}

/* A checked reader over a slice. After the first failed read `failed` stays true and every further
 * read returns zero or an empty slice, so a decoder may read a whole struct and test once. */
struct reader {
    struct slice rest;
    bool failed;
};

struct reader reader_make(struct slice slice);
uint8_t reader_u8(struct reader *reader);
uint16_t reader_u16(struct reader *reader);
uint32_t reader_u32(struct reader *reader);
uint64_t reader_u64(struct reader *reader);
/* `size` bytes that point into the slice being read. */
struct slice reader_take(struct reader *reader, size_t size);
/* u32 length followed by the bytes. */
struct slice reader_bytes(struct reader *reader);
/* True when nothing failed and nothing is left. */
bool reader_done(const struct reader *reader);

#endif
