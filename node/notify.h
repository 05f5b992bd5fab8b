/* Tells a service manager how this process does, by the protocol of sd_notify(3): datagrams of
 * `NAME=value` lines to the socket that $NOTIFY_SOCKET names. Without that variable nothing is
 * sent. A manager that does not listen is no reason for a node to stop, so sending cannot fail.
 *
 * The watchdog: when $WATCHDOG_USEC is set, a ping leaves on each half of that time, as long as
 * notify_tick() is called. It is called by the event loop, so a stuck loop ends the pings, and the
 * manager ends the process. Times are milliseconds of a monotonic clock. Threads: one. */
#ifndef NODE_NOTIFY_H
#define NODE_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

enum {
    NOTIFY_STATUS_SIZE = 256,
    NOTIFY_EXTEND_MS = 60000,      /* what a node that waits for others asks for at a time ... */
    NOTIFY_EXTEND_EVERY_MS = 20000 /* ... and how often */
};

struct notify {
    int fd; /* -1: nobody wants to know */
    struct sockaddr_un to;
    socklen_t to_size;
    uint64_t ping_every_ms; /* 0: no watchdog */
    uint64_t pinged_ms;
    uint64_t extended_ms;
    bool ready;
    bool stopping;
    char status[NOTIFY_STATUS_SIZE]; /* the newest that was sent */
};

/* Reads the environment. Values that cannot be used are logged and count as missing. */
void notify_open(struct notify *notify);
void notify_close(struct notify *notify);

/* Sends what is new: that the process is ready (once), its status (in words, on one line), a ping
 * of the watchdog. While it is not ready it asks for more time to start. To be called several times
 * a second; costs nothing when nothing is new. */
void notify_tick(struct notify *notify, uint64_t now_ms, bool ready, const char *status);

/* Around reading the configuration again. `now_us` is CLOCK_MONOTONIC. Nothing is sent before the
 * process is ready or once it stops. */
void notify_reloading(struct notify *notify, uint64_t now_us);
void notify_reloaded(struct notify *notify);

void notify_stopping(struct notify *notify);

#endif
