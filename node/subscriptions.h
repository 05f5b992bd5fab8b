/* What a connection is subscribed to: channels and patterns of keyspace events, as Redis has them,
 * and at most one WATCHKEYS. Pushes go to the session's output between its replies.
 *
 * Each subscription belongs to the project that was current when it was made. While the client does
 * not read, at most SUBSCRIPTIONS_OUTPUT bytes of pushes wait; the rest waits in the feed's history
 * or falls out of it, which ends a WATCHKEYS with -GONE and drops a subscriber's connection.
 *
 * Threads: the loop thread. */
#ifndef NODE_SUBSCRIPTIONS_H
#define NODE_SUBSCRIPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"

struct session;
struct session_host;

enum {
    SUBSCRIPTIONS_MAX = 1024,          /* channels and patterns of a connection */
    SUBSCRIPTIONS_BYTES = 256 * 1024,  /* of their names */
    SUBSCRIPTIONS_OUTPUT = 128 * 1024, /* bytes of unsent output that pushes may add to */
    SUBSCRIPTIONS_PROGRESS_MS = 4000   /* a watch that is silent for so long tells its progress */
};

#define SUBSCRIPTIONS_CHANNEL "__keyspace@0__:"

/* Channels and patterns are kept apart: `is_pattern` tells them. */

/* A subscription ends with the token under which it was made: once its removal is applied here no
 * event behind that is told, the connection gets -NOAUTH and is closed. So that nothing slips
 * through between, who subscribes with a token notes feed_index() as `since`, then asks whether the
 * token is good, then subscribes. SUBSCRIPTIONS_NOW: there is no token to lose. */
#define SUBSCRIPTIONS_NOW UINT64_MAX
uint64_t subscriptions_index(const struct session *session);
/* False: this replica does not know what happens to the project's keys. */
bool subscriptions_are_served(const struct session *session);

/* Whether `n` more of these names fit within the bounds. */
bool subscriptions_fit(const struct session *session, const struct slice *names, unsigned n);
/* Subscribing again is harmless. False when what happened since `since` is not known any more. */
bool subscriptions_add(struct session *session, bool is_pattern, struct slice name, uint64_t since);
void subscriptions_remove(struct session *session, bool is_pattern, struct slice name);
/* Some name; false when there is none. Valid until names are added or removed. */
bool subscriptions_any(const struct session *session, bool is_pattern, struct slice *name);
unsigned subscriptions_count(const struct session *session, bool is_pattern);

enum watch_start { WATCH_STARTED, WATCH_OFF, WATCH_GONE };
/* Begins a watch of keys that start with `prefix`: behind *index, or from now on when `from_now`.
 * *index becomes where it begins; with WATCH_GONE, the least that could be asked for. */
enum watch_start subscriptions_watch(struct session *session, struct slice prefix, bool from_now,
                                     uint64_t *index, uint64_t since);
bool subscriptions_is_watching(const struct session *session);
/* What is watched; and the index up to which everything has been told. */
struct slice subscriptions_prefix(const struct session *session);
uint64_t subscriptions_unwatch(struct session *session);

/* For session.c. */

/* A RESP2 connection then takes only commands that are about subscriptions. */
bool subscriptions_exist(const struct session *session);
/* There are events to deliver, and room for them. */
bool subscriptions_are_due(const struct session *session);
void subscriptions_run(struct session *session);
/* Ends all of them. */
void subscriptions_free(struct session *session);
/* Time passed: watches tell their progress. */
void subscriptions_tick(struct session_host *host, uint64_t now_ms);

#endif
