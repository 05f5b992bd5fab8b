/* The node's use of memory against its ceiling: see node/memory_ceiling.h. */
#include <malloc.h>

#include "node/logging.h"
#include "node/server_internal.h"

enum { TRIM_AGAIN_MS = 1000 };

/* 0 when it cannot be told. */
static uint64_t read_resident(void) {
    size_t resident = 0;
    return uv_resident_set_memory(&resident) == 0 ? resident : 0;
}

/* What grows with what clients and other nodes send, and is known at once. */
static uint64_t counted_bytes(const struct server *server) {
    struct router_stats routed = router_stats(server->router);
    return server->sessions.input_bytes + server->sessions.reply_bytes + routed.inflight_bytes +
           routed.uncommitted_bytes;
}

/* A write is copied once more on its way into the log. */
static uint64_t expected_bytes(const struct server *server) {
    return router_stats(server->router).inflight_bytes;
}

static void measure(struct server *server) {
    memory_ceiling_measure(&server->memory, read_resident(), counted_bytes(server),
                           expected_bytes(server));
}

/* Memory that was freed may stay with malloc, resident and of no use: it would make the node refuse
 * work although there is room. Giving it back takes milliseconds, so not often. */
static void trim(struct server *server, uint64_t now_ms) {
    if (now_ms < server->memory_trimmed_ms + TRIM_AGAIN_MS) {
        return;
    }
    server->memory_trimmed_ms = now_ms;
    (void)malloc_trim(0);
    measure(server);
}

/* Refusals that no session counts: at the router, and of what other nodes forward. */
static void note_refusals(struct server *server) {
    struct router_stats routed = router_stats(server->router);
    struct bounds *bounds = &server->sessions.bounds;
    if (routed.busy > server->busy_seen) {
        uint64_t times = routed.busy - server->busy_seen;
        server->busy_seen = routed.busy;
        if (bounds_note(bounds, BOUND_INFLIGHT, times, server_now(server))) {
            server_on_bound(server, BOUND_INFLIGHT, "", slice_make(NULL, 0), "");
        }
    }
    if (routed.pressed > server->pressed_seen) {
        uint64_t times = routed.pressed - server->pressed_seen;
        server->pressed_seen = routed.pressed;
        if (bounds_note(bounds, BOUND_MEMORY, times, server_now(server))) {
            server_on_bound(server, BOUND_MEMORY, "", slice_make(NULL, 0),
                            "other nodes' requests are refused");
        }
    }
}

void server_memory_tick(struct server *server, uint64_t now_ms) {
    enum memory_level before = server->memory.level;
    measure(server);
    if (server->memory.level != MEMORY_ENOUGH) {
        trim(server, now_ms);
    }
    if (before != MEMORY_ENOUGH && server->memory.level == MEMORY_ENOUGH) {
        say_info("there is memory again", "resident_bytes=%llu max_memory=%llu",
                 (unsigned long long)server->memory.resident,
                 (unsigned long long)server->config->max_memory);
    }
    note_refusals(server);
}

enum memory_level server_memory_level(void *data, uint64_t *used, uint64_t *max) {
    struct server *server = data;
    if (server->memory.max == 0) {
        return MEMORY_ENOUGH;
    }
    uint64_t counted = counted_bytes(server);
    *used = memory_ceiling_used(&server->memory, counted);
    *max = server->memory.max;
    return memory_ceiling_level(&server->memory, counted, expected_bytes(server));
}
