/* Arbitrary bytes into the decoders of a peer link: handshake, fragments, snapshot messages.
 *
 * The first byte picks what the rest is and in which pieces it arrives. Checksums stop nearly every
 * mutation, so in one mode they are put right first and the fuzzer sees what lies behind them. */
#include <stddef.h>
#include <stdint.h>

#include "base/assert.h"
#include "base/crc32c.h"
#include "base/limits.h"
#include "base/mem.h"
#include "raft/snapshot_message.h"
#include "raft/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MODE_HANDSHAKE = 0, MODE_FRAGMENTS = 1, MODE_FRAGMENTS_MENDED = 2, MODES = 3 };

static const size_t piece_sizes[] = {1, 7, 64, SIZE_MAX};

/* Gives each fragment that lies wholly within the bytes a right checksum. */
static void mend_checksums(uint8_t *bytes, size_t size) {
    size_t at = 0;
    while (size - at > WIRE_FRAGMENT_HEADER) {
        uint8_t *header = bytes + at;
        uint32_t length = bytes_get_u32(header + 4);
        if (length > size - at - WIRE_FRAGMENT_HEADER) {
            return;
        }
        uint32_t crc = crc32c(crc32c(0, header, 8), header + WIRE_FRAGMENT_HEADER, length);
        wire_fragment_finish(header, crc);
        at += WIRE_FRAGMENT_HEADER + length;
    }
}

static void use_message(struct peer_message *message) {
    ASSERT(wire_message_is_valid(message));
    struct snapshot_message snapshot;
    (void)snapshot_message_decode(message->type, message->header, &snapshot);
    for (unsigned i = 0; i < message->n_attachments; i++) {
        payload_unref(message->attachments[i]);
    }
}

static void check_memory(const struct wire_decoder *decoder, size_t received) {
    uint64_t fixed = PEER_LANES * (PEER_ATTACHMENTS_MAX * sizeof(struct payload *) + 4 * KIB);
    ASSERT(wire_decoder_memory(decoder) <=
           fixed + 2 * (uint64_t)received + PEER_LANES * LIMIT_ENTRY_SIZE);
}

static void run_fragments(struct slice bytes, size_t piece_size) {
    struct wire_decoder *decoder = wire_decoder_new();
    size_t received = 0;
    enum wire_status status = WIRE_MORE;
    while (bytes.size > 0 && status != WIRE_BROKEN) {
        size_t n = bytes.size < piece_size ? bytes.size : piece_size;
        struct slice piece = slice_make(bytes.data, n);
        bytes = slice_make(bytes.data + n, bytes.size - n);
        received += n;
        do {
            enum peer_lane lane;
            struct peer_message message;
            struct error error;
            status = wire_decoder_next(decoder, &piece, &lane, &message, &error);
            if (status == WIRE_FOUND) {
                ASSERT(lane < PEER_LANES);
                use_message(&message);
            }
            check_memory(decoder, received);
        } while (status == WIRE_FOUND);
    }
    wire_decoder_free(decoder);
}

static void run_handshake(struct slice bytes, size_t piece_size) {
    struct wire_handshake_decoder decoder = {0};
    struct wire_handshake handshake;
    struct error error;
    enum wire_status status = WIRE_MORE;
    while (bytes.size > 0 && status == WIRE_MORE) {
        size_t n = bytes.size < piece_size ? bytes.size : piece_size;
        struct slice piece = slice_make(bytes.data, n);
        bytes = slice_make(bytes.data + n, bytes.size - n);
        status = wire_handshake_decode(&decoder, &piece, &handshake, &error);
    }
    if (status == WIRE_FOUND) {
        uint8_t frame[WIRE_HANDSHAKE_MAX];
        ASSERT(wire_handshake_encode(&handshake, frame) <= WIRE_HANDSHAKE_MAX);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) {
        return 0;
    }
    size_t piece_size = piece_sizes[(data[0] / MODES) % 4];
    struct slice bytes = slice_make(data + 1, size - 1);
    switch (data[0] % MODES) {
    case MODE_HANDSHAKE:
        run_handshake(bytes, piece_size);
        break;
    case MODE_FRAGMENTS:
        run_fragments(bytes, piece_size);
        break;
    default: {
        uint8_t *mended = mem_dup(bytes.data, bytes.size);
        mend_checksums(mended, bytes.size);
        run_fragments(slice_make(mended, bytes.size), piece_size);
        mem_free(mended);
    }
    }
    return 0;
}
