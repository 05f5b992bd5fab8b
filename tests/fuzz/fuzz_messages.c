/* Arbitrary bytes into the decoders of Raft's messages and of configurations. The first byte is the
 * kind of message, or 0 for a configuration. */
#include <stddef.h>
#include <stdint.h>

#include "base/assert.h"
#include "raft/group.h"
#include "raft/log.h"
#include "raft/messages.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What libraft takes for granted. */
static void check_append(const struct raft_wire *wire) {
    uint64_t term = wire->append.prev_term;
    ASSERT(wire->append.n <= RAFT_APPEND_ENTRIES_MAX);
    ASSERT((wire->append.prev_index == 0) == (term == 0));
    ASSERT(wire->append.prev_index + wire->append.n >= wire->append.prev_index);
    for (unsigned i = 0; i < wire->append.n; i++) {
        ASSERT(wire->append.entries[i].term >= term && wire->append.entries[i].term > 0);
        ASSERT(wire->append.entries[i].kind >= LOG_ENTRY_COMMAND &&
               wire->append.entries[i].kind <= LOG_ENTRY_CHANGE);
        term = wire->append.entries[i].term;
    }
    ASSERT(term <= wire->term);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) {
        return 0;
    }
    struct slice rest = slice_make(data + 1, size - 1);
    if (data[0] == 0) {
        (void)group_config_is_valid(rest);
        return 0;
    }
    struct raft_wire wire;
    if (!raft_wire_decode(data[0], rest, &wire)) {
        return 0;
    }
    ASSERT(wire.term > 0);
    if (wire.kind == PEER_MESSAGE_APPEND) {
        check_append(&wire);
    }
    /* There is one encoding of each message. */
    struct buffer again = {0};
    raft_wire_encode(&again, &wire);
    ASSERT(slice_equal(buffer_slice(&again), rest));
    buffer_free(&again);
    return 0;
}
