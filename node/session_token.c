#include "node/session_token.h"

#include <string.h>

#include "base/crc32c.h"

enum { TOKEN_VERSION = 1 };

static uint32_t cluster_mark(const char *cluster) {
    return crc32c(0, cluster, strlen(cluster));
}

void session_token_write(char text[SESSION_TOKEN_SIZE + 1], const char *cluster, unsigned shard,
                         uint64_t index) {
    static const char digits[] = "0123456789abcdef";
    struct buffer bytes = {0};
    buffer_put_u8(&bytes, TOKEN_VERSION);
    buffer_put_u32(&bytes, cluster_mark(cluster));
    buffer_put_u16(&bytes, (uint16_t)shard);
    buffer_put_u64(&bytes, index);
    buffer_put_u32(&bytes, crc32c(0, bytes.data, bytes.size));
    for (size_t i = 0; i < SESSION_TOKEN_BYTES; i++) {
        text[2 * i] = digits[bytes.data[i] >> 4];
        text[2 * i + 1] = digits[bytes.data[i] & 15];
    }
    text[SESSION_TOKEN_SIZE] = '\0';
    buffer_free(&bytes);
}

static int digit_value(uint8_t c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static bool parse_digits(struct slice text, uint8_t bytes[SESSION_TOKEN_BYTES]) {
    if (text.size != SESSION_TOKEN_SIZE) {
        return false;
    }
    for (size_t i = 0; i < SESSION_TOKEN_BYTES; i++) {
        int high = digit_value(text.data[2 * i]);
        int low = digit_value(text.data[2 * i + 1]);
        if (high < 0 || low < 0) {
            return false;
        }
        bytes[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static enum error_code not_a_token(struct error *error) {
    return error_set(error, ERROR_SYNTAX,
                     "this is not a session token: take it as TOKEN answered it");
}

enum error_code session_token_read(struct slice text, const char *cluster, unsigned *shard,
                                   uint64_t *index, struct error *error) {
    uint8_t bytes[SESSION_TOKEN_BYTES];
    if (!parse_digits(text, bytes)) {
        return not_a_token(error);
    }
    struct reader reader = reader_make(slice_make(bytes, sizeof bytes));
    unsigned version = reader_u8(&reader);
    uint32_t mark = reader_u32(&reader);
    unsigned read_shard = reader_u16(&reader);
    uint64_t read_index = reader_u64(&reader);
    if (reader_u32(&reader) != crc32c(0, bytes, sizeof bytes - sizeof(uint32_t))) {
        return not_a_token(error);
    }
    if (version != TOKEN_VERSION) {
        return error_set(error, ERROR_VERSION, "session token of format %u; this node knows %d",
                         version, TOKEN_VERSION);
    }
    if (mark != cluster_mark(cluster)) {
        return error_set(error, ERROR_MISMATCH,
                         "this session token is of another cluster than '%s'", cluster);
    }
    *shard = read_shard;
    *index = read_index;
    return ERROR_NONE;
}
