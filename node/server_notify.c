/* What a service manager is told of this node. */
#include <stdio.h>
#include <time.h>

#include "node/server_internal.h"

/* One line: the reasons for not being ready, or what it does. */
static void describe(const struct server *server, char *text, size_t size) {
    const struct readiness *readiness = &server->watch.metrics.readiness;
    if (readiness_is_ready(readiness)) {
        snprintf(text, size, "serves; leads %u of %u shards", server_leads(server),
                 server->config->shards);
        return;
    }
    struct buffer reasons = {0};
    readiness_write_text(readiness, &reasons);
    size_t length = reasons.size > 0 ? reasons.size - 1 : 0; /* without the last line feed */
    for (size_t i = 0; i < length; i++) {
        reasons.data[i] = reasons.data[i] == '\n' ? ';' : reasons.data[i];
    }
    snprintf(text, size, "%.*s", (int)length, (const char *)reasons.data);
    buffer_free(&reasons);
}

void server_notify(struct server *server, uint64_t now_ms) {
    char status[NOTIFY_STATUS_SIZE];
    if (server->notify.fd >= 0) {
        describe(server, status, sizeof status);
        notify_tick(&server->notify, now_ms, server->started, status);
    }
}

void server_notify_reloading(struct server *server) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    notify_reloading(&server->notify,
                     (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000);
}
