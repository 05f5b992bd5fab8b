#include "node/notify.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/number.h"
#include "node/logging.h"

static void send_text(const struct notify *notify, const char *text) {
    /* A manager whose queue is full is asked again by the next ping; this thread never waits. */
    (void)sendto(notify->fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL,
                 (const struct sockaddr *)&notify->to, notify->to_size);
}

/* False when `path` is none. A leading '@' stands for the NUL of an abstract name. */
static bool parse_address(const char *path, struct sockaddr_un *to, socklen_t *size) {
    size_t length = strlen(path);
    if ((path[0] != '/' && path[0] != '@') || length < 2 || length >= sizeof to->sun_path) {
        return false;
    }
    memset(to, 0, sizeof *to);
    to->sun_family = AF_UNIX;
    memcpy(to->sun_path, path, length);
    bool is_abstract = path[0] == '@';
    if (is_abstract) {
        to->sun_path[0] = '\0';
    }
    *size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + (is_abstract ? 0 : 1));
    return true;
}

/* A positive number in the environment; 0 when it is missing or something else. */
static uint64_t number_from(const char *name) {
    const char *text = getenv(name);
    int64_t number = 0;
    if (text == NULL) {
        return 0;
    }
    if (!number_parse_integer(slice_of(text), &number) || number <= 0) {
        say_warn("ignored a variable of the service manager", "name=%s value=%s", name, text);
        return 0;
    }
    return (uint64_t)number;
}

static uint64_t watchdog_us(void) {
    uint64_t pid = number_from("WATCHDOG_PID");
    if (getenv("WATCHDOG_PID") != NULL && pid != (uint64_t)getpid()) {
        return 0; /* meant for another process, such as the one that started this one */
    }
    return number_from("WATCHDOG_USEC");
}

void notify_open(struct notify *notify) {
    const char *path = getenv("NOTIFY_SOCKET");
    memset(notify, 0, sizeof *notify);
    notify->fd = -1;
    if (path == NULL || path[0] == '\0') {
        return;
    }
    if (!parse_address(path, &notify->to, &notify->to_size)) {
        say_warn("ignored a variable of the service manager", "name=NOTIFY_SOCKET value=%s", path);
        return;
    }
    notify->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (notify->fd < 0) {
        say_warn("cannot tell the service manager anything", "reason=%s", strerror(errno));
        return;
    }
    uint64_t allowed_us = watchdog_us();
    notify->ping_every_ms = allowed_us / 2 / 1000;
    if (allowed_us > 0 && notify->ping_every_ms == 0) {
        notify->ping_every_ms = 1;
    }
}

void notify_close(struct notify *notify) {
    if (notify->fd >= 0) {
        (void)close(notify->fd);
        notify->fd = -1;
    }
}

static void ask_for_time(struct notify *notify, uint64_t now_ms) {
    if (notify->extended_ms == 0 || now_ms >= notify->extended_ms + NOTIFY_EXTEND_EVERY_MS) {
        char text[64];
        snprintf(text, sizeof text, "EXTEND_TIMEOUT_USEC=%" PRIu64,
                 (uint64_t)NOTIFY_EXTEND_MS * 1000);
        send_text(notify, text);
        notify->extended_ms = now_ms;
    }
}

static void ping(struct notify *notify, uint64_t now_ms) {
    if (notify->ping_every_ms > 0 &&
        (notify->pinged_ms == 0 || now_ms >= notify->pinged_ms + notify->ping_every_ms)) {
        send_text(notify, "WATCHDOG=1");
        notify->pinged_ms = now_ms;
    }
}

static void tell_status(struct notify *notify, const char *status) {
    char text[NOTIFY_STATUS_SIZE + 8];
    char shown[NOTIFY_STATUS_SIZE];
    snprintf(shown, sizeof shown, "%s", status);
    /* A line feed would begin another assignment. */
    for (char *at = shown; *at != '\0'; at++) {
        *at = *at == '\n' ? ' ' : *at;
    }
    if (strcmp(shown, notify->status) == 0) {
        return;
    }
    memcpy(notify->status, shown, sizeof shown);
    snprintf(text, sizeof text, "STATUS=%s", shown);
    send_text(notify, text);
}

void notify_tick(struct notify *notify, uint64_t now_ms, bool ready, const char *status) {
    if (notify->fd < 0) {
        return;
    }
    tell_status(notify, status);
    ping(notify, now_ms);
    if (notify->ready || notify->stopping) {
        return;
    }
    if (ready) {
        notify->ready = true;
        send_text(notify, "READY=1");
    } else {
        ask_for_time(notify, now_ms);
    }
}

void notify_reloading(struct notify *notify, uint64_t now_us) {
    char text[64];
    if (notify->fd < 0 || !notify->ready || notify->stopping) {
        return;
    }
    snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64, now_us);
    send_text(notify, text);
}

void notify_reloaded(struct notify *notify) {
    if (notify->fd >= 0 && notify->ready && !notify->stopping) {
        send_text(notify, "READY=1");
    }
}

void notify_stopping(struct notify *notify) {
    if (notify->fd >= 0 && !notify->stopping) {
        notify->stopping = true;
        send_text(notify, "STOPPING=1");
    }
}
