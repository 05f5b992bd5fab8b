#include "raft/wire.h"

#include "base/assert.h"
#include "base/crc32c.h"
#include "base/limits.h"
#include "base/mem.h"

/* Kept between messages, so that ordinary ones cost no allocation. */
enum { HEAD_KEEP_BYTES = 64 * 1024 };

static const uint8_t handshake_magic[4] = {'I', 'K', 'V', 'P'};

/* ---- handshake ---- */

static void put_text(struct buffer *out, const char *text, size_t max) {
    size_t size = strlen(text);
    buffer_put_bytes(out, slice_make(text, size < max ? size : max));
}

static void put_handshake_body(struct buffer *out, const struct wire_handshake *handshake) {
    if (handshake->kind == WIRE_REFUSED) {
        buffer_put_u32(out, (uint32_t)handshake->code);
        put_text(out, handshake->reason, WIRE_REASON_MAX);
        return;
    }
    put_text(out, handshake->cluster, WIRE_CLUSTER_MAX);
    buffer_put_u64(out, handshake->from);
    buffer_put_u64(out, handshake->incarnation);
    buffer_put_u64(out, handshake->boot);
    if (handshake->kind == WIRE_HELLO) {
        buffer_put_u64(out, handshake->epoch);
        buffer_put_u64(out, handshake->to);
    }
    buffer_put_u64(out, handshake->cluster_id);
    buffer_put_u32(out, handshake->level);
    buffer_put_u16(out, handshake->wire_min);
    buffer_put_u16(out, handshake->wire_max);
    put_text(out, handshake->release, WIRE_RELEASE_MAX);
}

static uint32_t handshake_crc(const uint8_t *frame, size_t body_size) {
    return crc32c(crc32c(0, frame, 12), frame + WIRE_HANDSHAKE_HEADER, body_size);
}

size_t wire_handshake_encode(const struct wire_handshake *handshake,
                             uint8_t frame[WIRE_HANDSHAKE_MAX]) {
    struct buffer body = {0};
    put_handshake_body(&body, handshake);
    size_t body_size = body.size;
    ASSERT(body_size <= WIRE_HANDSHAKE_BODY_MAX);
    memcpy(frame, handshake_magic, sizeof handshake_magic);
    bytes_put_u16(frame + 4, WIRE_VERSION);
    frame[6] = (uint8_t)handshake->kind;
    frame[7] = 0;
    bytes_put_u32(frame + 8, (uint32_t)body_size);
    memcpy(frame + WIRE_HANDSHAKE_HEADER, body.data, body_size);
    bytes_put_u32(frame + 12, handshake_crc(frame, body_size));
    buffer_free(&body);
    return WIRE_HANDSHAKE_HEADER + body_size;
}

/* Copies text that must be free of NUL; false when it is too long or is not. */
static bool get_text(struct reader *reader, char *out, size_t max) {
    struct slice text = reader_bytes(reader);
    if (reader->failed || text.size > max) {
        return false;
    }
    if (text.size > 0 && memchr(text.data, 0, text.size) != NULL) {
        return false;
    }
    if (text.size > 0) {
        memcpy(out, text.data, text.size);
    }
    out[text.size] = '\0';
    return true;
}

static bool get_handshake_body(struct slice body, struct wire_handshake *handshake) {
    struct reader reader = reader_make(body);
    if (handshake->kind == WIRE_REFUSED) {
        uint32_t code = reader_u32(&reader);
        /* A newer node may know codes that this one does not. */
        bool known = code <= INT32_MAX && error_is_known((int)code);
        handshake->code = known ? (enum error_code)code : ERROR_GENERIC;
        return get_text(&reader, handshake->reason, WIRE_REASON_MAX) && reader_done(&reader);
    }
    if (!get_text(&reader, handshake->cluster, WIRE_CLUSTER_MAX)) {
        return false;
    }
    handshake->from = reader_u64(&reader);
    handshake->incarnation = reader_u64(&reader);
    handshake->boot = reader_u64(&reader);
    if (handshake->kind == WIRE_HELLO) {
        handshake->epoch = reader_u64(&reader);
        handshake->to = reader_u64(&reader);
    }
    handshake->cluster_id = reader_u64(&reader);
    handshake->level = reader_u32(&reader);
    handshake->wire_min = reader_u16(&reader);
    handshake->wire_max = reader_u16(&reader);
    /* What a later release says behind that is not for this one. */
    return get_text(&reader, handshake->release, WIRE_RELEASE_MAX) && !reader.failed;
}

/* Moves bytes from `input` until the frame has `want`; false when the input ends before. */
static bool handshake_collect(struct wire_handshake_decoder *decoder, struct slice *input,
                              size_t want) {
    if (decoder->size >= want) {
        return true;
    }
    size_t n = want - decoder->size;
    n = n < input->size ? n : input->size;
    if (n > 0) {
        memcpy(decoder->frame + decoder->size, input->data, n);
        decoder->size += n;
        *input = slice_make(input->data + n, input->size - n);
    }
    return decoder->size >= want;
}

static enum wire_status handshake_broken(struct error *error, const char *what) {
    error_set(error, ERROR_CORRUPT, "not a handshake of invoke-kv: %s", what);
    return WIRE_BROKEN;
}

enum wire_status wire_handshake_decode(struct wire_handshake_decoder *decoder, struct slice *input,
                                       struct wire_handshake *handshake, struct error *error) {
    if (!handshake_collect(decoder, input, WIRE_HANDSHAKE_HEADER)) {
        size_t n = decoder->size < 4 ? decoder->size : 4;
        bool plausible = memcmp(decoder->frame, handshake_magic, n) == 0;
        return plausible ? WIRE_MORE : handshake_broken(error, "wrong first bytes");
    }
    const uint8_t *frame = decoder->frame;
    if (memcmp(frame, handshake_magic, sizeof handshake_magic) != 0) {
        return handshake_broken(error, "wrong first bytes");
    }
    uint32_t body_size = bytes_get_u32(frame + 8);
    if (body_size > WIRE_HANDSHAKE_BODY_MAX) {
        return handshake_broken(error, "too long");
    }
    if (!handshake_collect(decoder, input, WIRE_HANDSHAKE_HEADER + body_size)) {
        return WIRE_MORE;
    }
    if (bytes_get_u32(frame + 12) != handshake_crc(frame, body_size)) {
        return handshake_broken(error, "checksum mismatch");
    }
    memset(handshake, 0, sizeof *handshake);
    handshake->kind = (enum wire_handshake_kind)frame[6];
    if (bytes_get_u16(frame + 4) != WIRE_VERSION && handshake->kind != WIRE_REFUSED) {
        error_set(
            error, ERROR_VERSION,
            "the other side speaks version %u of the peer protocol, this node version %d; run "
            "versions that share one",
            bytes_get_u16(frame + 4), WIRE_VERSION);
        return WIRE_BROKEN;
    }
    if (handshake->kind < WIRE_HELLO || handshake->kind > WIRE_REFUSED) {
        return handshake_broken(error, "unknown kind");
    }
    if (!get_handshake_body(slice_make(frame + WIRE_HANDSHAKE_HEADER, body_size), handshake)) {
        return handshake_broken(error, "malformed body");
    }
    return WIRE_FOUND;
}

/* ---- encoding of messages ---- */

bool wire_message_is_valid(const struct peer_message *message) {
    if (message->header.size > PEER_HEADER_MAX || message->n_attachments > PEER_ATTACHMENTS_MAX) {
        return false;
    }
    uint64_t total = 0;
    for (unsigned i = 0; i < message->n_attachments; i++) {
        size_t size = message->attachments[i]->size;
        if (size > LIMIT_ENTRY_SIZE || size > PEER_ATTACHMENTS_SIZE_MAX - total) {
            return false;
        }
        total += size;
    }
    return true;
}

size_t wire_message_head_size(const struct peer_message *message) {
    return WIRE_PREFIX + 4 * (size_t)message->n_attachments + message->header.size;
}

uint64_t wire_message_size(const struct peer_message *message) {
    uint64_t size = wire_message_head_size(message);
    for (unsigned i = 0; i < message->n_attachments; i++) {
        size += message->attachments[i]->size;
    }
    return size;
}

void wire_message_encode_head(const struct peer_message *message, uint8_t *head) {
    head[0] = message->type;
    head[1] = 0;
    bytes_put_u16(head + 2, message->group);
    bytes_put_u32(head + 4, (uint32_t)message->header.size);
    bytes_put_u32(head + 8, message->n_attachments);
    uint8_t *at = head + WIRE_PREFIX;
    for (unsigned i = 0; i < message->n_attachments; i++) {
        bytes_put_u32(at, (uint32_t)message->attachments[i]->size);
        at += 4;
    }
    if (message->header.size > 0) {
        memcpy(at, message->header.data, message->header.size);
    }
}

uint32_t wire_fragment_begin(uint8_t header[WIRE_FRAGMENT_HEADER], enum peer_lane lane,
                             unsigned flags, size_t length) {
    ASSERT(length > 0 && length <= WIRE_FRAGMENT_BODY_MAX);
    header[0] = WIRE_FRAGMENT_MAGIC;
    header[1] = (uint8_t)lane;
    header[2] = (uint8_t)flags;
    header[3] = 0;
    bytes_put_u32(header + 4, (uint32_t)length);
    return crc32c(0, header, 8);
}

void wire_fragment_finish(uint8_t header[WIRE_FRAGMENT_HEADER], uint32_t crc) {
    bytes_put_u32(header + 8, crc);
}

/* ---- decoding of messages ---- */

/* A message being received on one lane. Until its fragment's checksum is verified nothing in here
 * is trusted for more than bounded allocations. */
struct assembly {
    bool active;            /* a first fragment came, the last one did not */
    struct buffer head;     /* prefix, sizes, header: as much as has come */
    size_t head_size;       /* of all three, 0 until the prefix is known */
    uint32_t n_attachments; /* 0 until the prefix is known */
    uint64_t left;          /* bytes that have not come; 0 until the sizes are known */
    bool sized;             /* the sizes are known */
    struct payload **attachments;
    unsigned capacity;        /* of that array */
    unsigned n_allocated;     /* attachments that have a payload */
    size_t filled;            /* bytes of the latest of them */
    uint64_t allocated_bytes; /* of all of them */
};

struct wire_decoder {
    struct assembly lanes[PEER_LANES];
    uint8_t header[WIRE_FRAGMENT_HEADER]; /* of the current fragment, as much as has come */
    size_t header_size;
    size_t body_size; /* of the current fragment */
    size_t body_left; /* bytes of it that have not come */
    uint32_t crc;     /* over what has come */
    struct error broken;
};

struct wire_decoder *wire_decoder_new(void) {
    return mem_zalloc(1, sizeof(struct wire_decoder));
}

static void assembly_free(struct assembly *assembly) {
    for (unsigned i = 0; i < assembly->n_allocated; i++) {
        payload_unref(assembly->attachments[i]);
    }
    mem_free(assembly->attachments);
    buffer_free(&assembly->head);
}

void wire_decoder_free(struct wire_decoder *decoder) {
    if (decoder == NULL) {
        return;
    }
    for (unsigned lane = 0; lane < PEER_LANES; lane++) {
        assembly_free(&decoder->lanes[lane]);
    }
    mem_free(decoder);
}

/* Makes room for the next message; its predecessor's attachments belong to somebody else by now. */
static void assembly_start(struct assembly *assembly) {
    ASSERT(!assembly->active);
    if (assembly->head.capacity > HEAD_KEEP_BYTES) {
        buffer_free(&assembly->head);
    }
    assembly->active = true;
    assembly->head.size = 0;
    assembly->head_size = 0;
    assembly->n_attachments = 0;
    assembly->left = 0;
    assembly->sized = false;
    assembly->n_allocated = 0;
    assembly->filled = 0;
    assembly->allocated_bytes = 0;
}

static uint32_t attachment_size(const struct assembly *assembly, unsigned i) {
    return bytes_get_u32(assembly->head.data + WIRE_PREFIX + 4 * (size_t)i);
}

/* Bytes from the front of `input` into the head, until it has `want`. */
static bool head_collect(struct assembly *assembly, struct slice *input, size_t want) {
    size_t have = assembly->head.size;
    if (have < want) {
        size_t n = want - have < input->size ? want - have : input->size;
        buffer_append(&assembly->head, input->data, n);
        *input = slice_make(input->data + n, input->size - n);
    }
    return assembly->head.size >= want;
}

/* Checks the fixed prefix against the bounds; NULL when it is fine. */
static const char *assembly_check_prefix(struct assembly *assembly, size_t fragment_size) {
    const uint8_t *prefix = assembly->head.data;
    uint32_t header_size = bytes_get_u32(prefix + 4);
    uint32_t n = bytes_get_u32(prefix + 8);
    if (prefix[1] != 0) {
        return "reserved byte of a message is set";
    }
    if (header_size > PEER_HEADER_MAX) {
        return "message header too long";
    }
    if (n > PEER_ATTACHMENTS_MAX) {
        return "too many attachments";
    }
    if (WIRE_PREFIX + 4 * (size_t)n > fragment_size) {
        return "first fragment without all sizes";
    }
    assembly->n_attachments = n;
    assembly->head_size = WIRE_PREFIX + 4 * (size_t)n + header_size;
    return NULL;
}

static void assembly_reserve_array(struct assembly *assembly) {
    if (assembly->n_attachments > assembly->capacity) {
        assembly->attachments =
            mem_realloc(assembly->attachments, assembly->n_attachments * sizeof(struct payload *));
        assembly->capacity = assembly->n_attachments;
    }
}

/* Adds up the sizes and compares them with what the first fragment says about itself. */
static const char *assembly_check_sizes(struct assembly *assembly, size_t fragment_size,
                                        bool is_last) {
    uint64_t total = 0;
    for (unsigned i = 0; i < assembly->n_attachments; i++) {
        uint32_t size = attachment_size(assembly, i);
        if (size > LIMIT_ENTRY_SIZE || size > PEER_ATTACHMENTS_SIZE_MAX - total) {
            return "attachments too long";
        }
        total += size;
    }
    uint64_t message_size = assembly->head_size + total;
    if (is_last ? fragment_size != message_size : fragment_size >= message_size) {
        return "first fragment and message size disagree";
    }
    assembly->left = message_size - WIRE_PREFIX - 4 * (uint64_t)assembly->n_attachments;
    assembly->sized = true;
    assembly_reserve_array(assembly);
    return NULL;
}

/* Allocates attachments up to the one that the next byte belongs to, empty ones on the way. */
static void assembly_next_attachment(struct assembly *assembly) {
    while (assembly->n_allocated < assembly->n_attachments) {
        unsigned i = assembly->n_allocated;
        if (i > 0 && assembly->filled < assembly->attachments[i - 1]->size) {
            return;
        }
        uint32_t size = attachment_size(assembly, i);
        assembly->attachments[i] = payload_new(size);
        assembly->n_allocated++;
        assembly->filled = 0;
        assembly->allocated_bytes += size;
    }
}

static void assembly_fill_attachments(struct assembly *assembly, struct slice input) {
    while (input.size > 0) {
        assembly_next_attachment(assembly);
        ASSERT(assembly->n_allocated > 0);
        struct payload *payload = assembly->attachments[assembly->n_allocated - 1];
        size_t room = payload->size - assembly->filled;
        ASSERT(room > 0);
        size_t n = room < input.size ? room : input.size;
        memcpy(payload->data + assembly->filled, input.data, n);
        assembly->filled += n;
        input = slice_make(input.data + n, input.size - n);
    }
}

/* Bytes of the current fragment. NULL, or what is wrong with them. */
static const char *assembly_feed(struct assembly *assembly, struct slice input,
                                 size_t fragment_size, bool is_last) {
    const char *wrong = NULL;
    if (!assembly->sized) {
        if (!head_collect(assembly, &input, WIRE_PREFIX)) {
            return NULL;
        }
        if (assembly->head_size == 0) {
            wrong = assembly_check_prefix(assembly, fragment_size);
        }
        if (wrong != NULL ||
            !head_collect(assembly, &input, WIRE_PREFIX + 4 * (size_t)assembly->n_attachments)) {
            return wrong;
        }
        wrong = assembly_check_sizes(assembly, fragment_size, is_last);
        if (wrong != NULL) {
            return wrong;
        }
    }
    ASSERT(input.size <= assembly->left);
    assembly->left -= input.size;
    if (head_collect(assembly, &input, assembly->head_size)) {
        assembly_fill_attachments(assembly, input);
    }
    return NULL;
}

/* The message is whole and verified: hands it out. */
static void assembly_finish(struct assembly *assembly, struct peer_message *message) {
    ASSERT(assembly->sized && assembly->left == 0);
    assembly_next_attachment(assembly); /* empty ones at the end */
    ASSERT(assembly->n_allocated == assembly->n_attachments);
    const uint8_t *head = assembly->head.data;
    size_t header_at = WIRE_PREFIX + 4 * (size_t)assembly->n_attachments;
    message->type = head[0];
    message->group = bytes_get_u16(head + 2);
    message->header = slice_make(head + header_at, assembly->head_size - header_at);
    message->n_attachments = assembly->n_attachments;
    message->attachments = assembly->attachments;
    assembly->active = false;
    assembly->n_allocated = 0;
    assembly->allocated_bytes = 0;
}

static const char *decoder_start_fragment(struct wire_decoder *decoder) {
    const uint8_t *header = decoder->header;
    unsigned flags = header[2];
    uint32_t length = bytes_get_u32(header + 4);
    if (header[0] != WIRE_FRAGMENT_MAGIC || header[1] >= PEER_LANES || header[3] != 0 ||
        (flags & ~(unsigned)(WIRE_FLAG_FIRST | WIRE_FLAG_LAST)) != 0) {
        return "not a fragment";
    }
    if (length == 0 || length > WIRE_FRAGMENT_BODY_MAX) {
        return "fragment length out of range";
    }
    struct assembly *assembly = &decoder->lanes[header[1]];
    bool is_first = (flags & WIRE_FLAG_FIRST) != 0;
    bool is_last = (flags & WIRE_FLAG_LAST) != 0;
    if (is_first == assembly->active) {
        return is_first ? "message starts within another" : "message without its start";
    }
    if (is_first) {
        if (length < WIRE_PREFIX) {
            return "first fragment without prefix";
        }
        assembly_start(assembly);
    } else if (is_last ? length != assembly->left : length >= assembly->left) {
        return "fragment and message size disagree";
    }
    decoder->body_size = length;
    decoder->body_left = length;
    decoder->crc = crc32c(0, header, 8);
    return NULL;
}

/* Collects the fragment's header; true when there is one. */
static bool decoder_collect_header(struct wire_decoder *decoder, struct slice *input) {
    size_t n = WIRE_FRAGMENT_HEADER - decoder->header_size;
    n = n < input->size ? n : input->size;
    memcpy(decoder->header + decoder->header_size, input->data, n);
    decoder->header_size += n;
    *input = slice_make(input->data + n, input->size - n);
    return decoder->header_size == WIRE_FRAGMENT_HEADER;
}

static const char *decoder_feed_body(struct wire_decoder *decoder, struct slice *input) {
    size_t n = decoder->body_left < input->size ? decoder->body_left : input->size;
    struct slice body = slice_make(input->data, n);
    *input = slice_make(input->data + n, input->size - n);
    decoder->body_left -= n;
    decoder->crc = crc32c(decoder->crc, body.data, body.size);
    bool is_last = (decoder->header[2] & WIRE_FLAG_LAST) != 0;
    const char *wrong =
        assembly_feed(&decoder->lanes[decoder->header[1]], body, decoder->body_size, is_last);
    if (wrong != NULL || decoder->body_left > 0) {
        return wrong;
    }
    decoder->header_size = 0;
    return decoder->crc == bytes_get_u32(decoder->header + 8) ? NULL : "checksum mismatch";
}

static enum wire_status decoder_broken(struct wire_decoder *decoder, const char *wrong,
                                       struct error *error) {
    if (decoder->broken.code == ERROR_NONE) {
        error_set(&decoder->broken, ERROR_CORRUPT, "damaged bytes on a peer link: %s", wrong);
    }
    if (error != NULL) {
        *error = decoder->broken;
    }
    return WIRE_BROKEN;
}

enum wire_status wire_decoder_next(struct wire_decoder *decoder, struct slice *input,
                                   enum peer_lane *lane, struct peer_message *message,
                                   struct error *error) {
    if (decoder->broken.code != ERROR_NONE) {
        return decoder_broken(decoder, "", error);
    }
    while (input->size > 0) {
        const char *wrong = NULL;
        if (decoder->header_size < WIRE_FRAGMENT_HEADER) {
            if (!decoder_collect_header(decoder, input)) {
                return WIRE_MORE;
            }
            wrong = decoder_start_fragment(decoder);
        } else {
            wrong = decoder_feed_body(decoder, input);
        }
        if (wrong != NULL) {
            return decoder_broken(decoder, wrong, error);
        }
        if (decoder->header_size == 0 && (decoder->header[2] & WIRE_FLAG_LAST) != 0) {
            *lane = (enum peer_lane)decoder->header[1];
            assembly_finish(&decoder->lanes[*lane], message);
            return WIRE_FOUND;
        }
    }
    return WIRE_MORE;
}

uint64_t wire_decoder_memory(const struct wire_decoder *decoder) {
    uint64_t bytes = sizeof *decoder;
    for (unsigned lane = 0; lane < PEER_LANES; lane++) {
        const struct assembly *assembly = &decoder->lanes[lane];
        bytes += assembly->head.capacity + assembly->capacity * sizeof(struct payload *) +
                 assembly->allocated_bytes;
    }
    return bytes;
}
