/* Numbers, durations and sizes as people write and read them. Pure. */
#ifndef CLIENT_CLI_UNITS_H
#define CLIENT_CLI_UNITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { UNITS_TEXT_SIZE = 32 };

/* Longest duration: 100 years. What is longer would overflow somewhere, and is a mistake. */
#define UNITS_DURATION_MAX_MS ((int64_t)100 * 365 * 24 * 60 * 60 * 1000)

/* A whole number with a unit, ms, s, m, h or d, or several in a row: 250ms, 5m, 1h30m. A number
 * without a unit is refused, since nobody knows what it means; 0 as well. */
bool units_parse_duration(const char *text, int64_t *ms);

/* Bytes: a number without a unit, or with B, KiB, MiB, GiB, TiB, KB, MB, GB, TB; letters of either
 * case, K, M, G, T alone are powers of 1024. */
bool units_parse_size(const char *text, uint64_t *bytes);

/* Decimal, of the given range. */
bool units_parse_number(const char *text, int64_t min, int64_t max, int64_t *number);

/* Each writes a NUL-terminated text of at most UNITS_TEXT_SIZE bytes and returns it. */
const char *units_format_size(uint64_t bytes, char *text);    /* 1.5 MiB */
const char *units_format_count(uint64_t count, char *text);   /* 1,234,567 */
const char *units_format_duration(uint64_t ms, char *text);   /* 1h 30m, 250 ms */
const char *units_format_clock(uint64_t seconds, char *text); /* 1:02:03, 0:07 */
const char *units_format_latency(uint64_t ns, char *text);    /* 1.23 ms */

#endif
