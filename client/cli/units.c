#include "client/cli/units.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/bytes.h"
#include "base/number.h"

struct unit {
    const char *name;
    uint64_t factor;
};

/* Digits at *text, moved behind them; false when there are none or they do not fit. */
static bool read_digits(const char **text, uint64_t *number) {
    const char *at = *text;
    uint64_t value = 0;
    for (; *at >= '0' && *at <= '9'; at++) {
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*at - '0'), &value)) {
            return false;
        }
    }
    bool any = at != *text;
    *text = at;
    *number = value;
    return any;
}

static bool read_part(const char **text, int64_t *ms) {
    /* "ms" stands before "m". */
    static const struct unit list[] = {
        {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}};
    uint64_t number = 0;
    if (!read_digits(text, &number)) {
        return false;
    }
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        size_t size = strlen(list[i].name);
        if (strncmp(*text, list[i].name, size) != 0) {
            continue;
        }
        uint64_t product = 0;
        *text += size;
        if (__builtin_mul_overflow(number, list[i].factor, &product) ||
            product > (uint64_t)UNITS_DURATION_MAX_MS) {
            return false;
        }
        *ms += (int64_t)product;
        return *ms <= UNITS_DURATION_MAX_MS;
    }
    return false;
}

bool units_parse_duration(const char *text, int64_t *ms) {
    int64_t sum = 0;
    do {
        if (!read_part(&text, &sum)) {
            return false;
        }
    } while (*text != '\0');
    *ms = sum;
    return sum > 0;
}

bool units_parse_size(const char *text, uint64_t *bytes) {
    static const struct unit list[] = {
        {"", 1},
        {"B", 1},
        {"K", (uint64_t)1 << 10},
        {"M", (uint64_t)1 << 20},
        {"G", (uint64_t)1 << 30},
        {"T", (uint64_t)1 << 40},
        {"KiB", (uint64_t)1 << 10},
        {"MiB", (uint64_t)1 << 20},
        {"GiB", (uint64_t)1 << 30},
        {"TiB", (uint64_t)1 << 40},
        {"KB", 1000},
        {"MB", 1000000},
        {"GB", 1000000000},
        {"TB", 1000000000000},
    };
    uint64_t number = 0;
    if (!read_digits(&text, &number)) {
        return false;
    }
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        if (strcasecmp(text, list[i].name) == 0) {
            return !__builtin_mul_overflow(number, list[i].factor, bytes);
        }
    }
    return false;
}

bool units_parse_number(const char *text, int64_t min, int64_t max, int64_t *number) {
    return number_parse_integer(slice_of(text), number) && *number >= min && *number <= max;
}

const char *units_format_size(uint64_t bytes, char *text) {
    static const char *const names[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    size_t i = 0;
    double value = (double)bytes;
    while (value >= 1023.95 && i + 1 < sizeof names / sizeof names[0]) {
        value /= 1024;
        i++;
    }
    snprintf(text, UNITS_TEXT_SIZE, i == 0 ? "%.0f %s" : "%.1f %s", value, names[i]);
    return text;
}

const char *units_format_count(uint64_t count, char *text) {
    char digits[UNITS_TEXT_SIZE];
    int size = snprintf(digits, sizeof digits, "%" PRIu64, count);
    char *to = text;
    for (int i = 0; i < size; i++) {
        if (i > 0 && (size - i) % 3 == 0) {
            *to++ = ',';
        }
        *to++ = digits[i];
    }
    *to = '\0';
    return text;
}

const char *units_format_duration(uint64_t ms, char *text) {
    uint64_t seconds = ms / 1000;
    if (ms < 1000) {
        snprintf(text, UNITS_TEXT_SIZE, "%" PRIu64 " ms", ms);
    } else if (seconds < 60) {
        snprintf(text, UNITS_TEXT_SIZE, "%" PRIu64 "s", seconds);
    } else if (seconds < 3600) {
        snprintf(text, UNITS_TEXT_SIZE, "%" PRIu64 "m %" PRIu64 "s", seconds / 60, seconds % 60);
    } else if (seconds < 86400) {
        snprintf(text, UNITS_TEXT_SIZE, "%" PRIu64 "h %" PRIu64 "m", seconds / 3600,
                 seconds / 60 % 60);
    } else {
        snprintf(text, UNITS_TEXT_SIZE, "%" PRIu64 "d %" PRIu64 "h", seconds / 86400,
                 seconds / 3600 % 24);
    }
    return text;
}

const char *units_format_clock(uint64_t seconds, char *text) {
    if (seconds < 3600) {
        snprintf(text, UNITS_TEXT_SIZE, "%" PRIu64 ":%02u", seconds / 60, (unsigned)(seconds % 60));
    } else {
        snprintf(text, UNITS_TEXT_SIZE, "%" PRIu64 ":%02u:%02u", seconds / 3600,
                 (unsigned)(seconds / 60 % 60), (unsigned)(seconds % 60));
    }
    return text;
}

const char *units_format_latency(uint64_t ns, char *text) {
    if (ns < 1000000) {
        snprintf(text, UNITS_TEXT_SIZE, "%.0f us", (double)ns / 1e3);
    } else if (ns < 1000000000) {
        snprintf(text, UNITS_TEXT_SIZE, "%.2f ms", (double)ns / 1e6);
    } else {
        snprintf(text, UNITS_TEXT_SIZE, "%.2f s", (double)ns / 1e9);
    }
    return text;
}
