/* One line per event on stderr, in logfmt:
 *
 *     time=2026-01-31T12:00:00.123Z level=info event="role changed" shard=3 role=leader
 *
 * Every key and value comes from one format string of space-separated `key=conversions` fields.
 * The compiler checks the arguments as for printf; the logger quotes and escapes a value by itself
 * when it holds spaces, quotes or control characters, so a client's bytes can never forge a line:
 *
 *     say_info("role changed", "shard=%u role=%s", shard, role);
 *     say_info("stopped", NULL);
 *
 * Functions are called say_* since log_* belongs to the replicated log (raft/log.h).
 *
 * Threads: any. A line leaves in a single write(2), so lines of several threads do not mix. */
#ifndef NODE_LOGGING_H
#define NODE_LOGGING_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"

enum say_level { SAY_ERROR = 0, SAY_WARN = 1, SAY_INFO = 2, SAY_DEBUG = 3 };

/* Bytes of a line; what is longer is cut, the line feed stays. */
enum { SAY_LINE_SIZE = 4096 };

/* Lines above `level` are dropped. Default: SAY_INFO. */
void say_set_level(enum say_level level);
enum say_level say_level(void);
/* False when `text` is none of error, warn, info, debug. */
bool say_level_parse(struct slice text, enum say_level *level);
const char *say_level_name(enum say_level level);
/* Where lines go; default 2 (stderr). The descriptor stays the caller's. */
void say_set_descriptor(int fd);

void say(enum say_level level, const char *event, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Formats one line, with its line feed, as of `unix_ms`; returns its size. For tests and for those
 * who write elsewhere. Supports the conversions d i u x X c s p f g and %, with flags, width,
 * precision and the length modifiers hh h l ll z j t. `size` must be at least 64. */
size_t say_format(char *line, size_t size, uint64_t unix_ms, enum say_level level,
                  const char *event, const char *format, ...) __attribute__((format(printf, 6, 7)));

/* The arguments are evaluated only when the level is on. */
#define say_error(event, ...) SAY_IF(SAY_ERROR, event, __VA_ARGS__)
#define say_warn(event, ...) SAY_IF(SAY_WARN, event, __VA_ARGS__)
#define say_info(event, ...) SAY_IF(SAY_INFO, event, __VA_ARGS__)
#define say_debug(event, ...) SAY_IF(SAY_DEBUG, event, __VA_ARGS__)
#define SAY_IF(level, event, ...)                                                                  \
    ((level) <= say_level() ? say((level), (event), __VA_ARGS__) : (void)0)

#endif
