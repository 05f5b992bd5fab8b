/* Immutable, reference-counted bytes of one log entry, shared by the entry cache, the log thread,
 * the peer links and the state machine threads without copying. Reference counts are atomic. */
#ifndef BASE_PAYLOAD_H
#define BASE_PAYLOAD_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

struct payload {
    atomic_uint refs;
    size_t size;
    uint8_t data[];
};

/* One reference, `size` uninitialised bytes that the creator fills before sharing it. */
struct payload *payload_new(size_t size);
struct payload *payload_copy(struct slice slice);
struct payload *payload_ref(struct payload *payload);
/* Drops a reference and frees with the last one; NULL is ignored. */
void payload_unref(struct payload *payload);
struct slice payload_slice(const struct payload *payload);

#endif
