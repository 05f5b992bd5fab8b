#include "node/bounds.h"

#include "base/assert.h"

static const char *const names[BOUNDS] = {
    [BOUND_CONNECTIONS] = "connections",
    [BOUND_PROJECT_CONNECTIONS] = "project_connections",
    [BOUND_REQUEST_RATE] = "request_rate",
    [BOUND_REQUEST_SIZE] = "request_size",
    [BOUND_INPUT] = "input",
    [BOUND_INFLIGHT] = "inflight",
    [BOUND_MEMORY] = "memory",
    [BOUND_IDLE] = "idle",
    [BOUND_RECEIVE] = "receive",
    [BOUND_SEND] = "send",
    [BOUND_DESCRIPTORS] = "descriptors",
};

const char *bound_name(enum bound bound) {
    ASSERT(bound < BOUNDS);
    return names[bound];
}

bool bounds_note(struct bounds *bounds, enum bound bound, uint64_t times, uint64_t now_ms) {
    ASSERT(bound < BOUNDS);
    bounds->reached[bound] += times;
    if (bounds->said_ms[bound] != 0 && now_ms < bounds->said_ms[bound] + BOUNDS_SAY_AGAIN_MS) {
        return false;
    }
    bounds->said_ms[bound] = now_ms > 0 ? now_ms : 1;
    return true;
}
