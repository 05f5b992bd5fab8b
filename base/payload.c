#include "base/payload.h"

#include "base/assert.h"
#include "base/mem.h"

struct payload *payload_new(size_t size) {
    ASSERT(size <= SIZE_MAX - sizeof(struct payload));
    struct payload *payload = mem_alloc(sizeof(struct payload) + size);
    atomic_init(&payload->refs, 1);
    payload->size = size;
    return payload;
}

struct payload *payload_copy(struct slice slice) {
    struct payload *payload = payload_new(slice.size);
    if (slice.size > 0) {
        memcpy(payload->data, slice.data, slice.size);
    }
    return payload;
}

struct payload *payload_ref(struct payload *payload) {
    /* Relaxed: whoever takes another reference already holds one, so nothing can be freed. */
    unsigned before = atomic_fetch_add_explicit(&payload->refs, 1, memory_order_relaxed);
    ASSERT(before > 0 && before < UINT32_MAX);
    return payload;
}

void payload_unref(struct payload *payload) {
    if (payload == NULL) {
        return;
    }
    /* Release our reads, and acquire those of the others before the memory goes. */
    unsigned before = atomic_fetch_sub_explicit(&payload->refs, 1, memory_order_acq_rel);
    ASSERT(before > 0);
    if (before == 1) {
        mem_free(payload);
    }
}

struct slice payload_slice(const struct payload *payload) {
    return slice_make(payload->data, payload->size);
}
