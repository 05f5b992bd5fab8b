#include "node/logging.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"

static atomic_int current_level = SAY_INFO;
static atomic_int descriptor = STDERR_FILENO;

static const char *const level_names[] = {"error", "warn", "info", "debug"};

void say_set_level(enum say_level level) {
    atomic_store_explicit(&current_level, (int)level, memory_order_relaxed);
}

enum say_level say_level(void) {
    return (enum say_level)atomic_load_explicit(&current_level, memory_order_relaxed);
}

bool say_level_parse(struct slice text, enum say_level *level) {
    for (unsigned i = 0; i < sizeof level_names / sizeof level_names[0]; i++) {
        if (slice_equal_nocase(text, level_names[i])) {
            *level = (enum say_level)i;
            return true;
        }
    }
    return false;
}

const char *say_level_name(enum say_level level) {
    return level_names[level];
}

void say_set_descriptor(int fd) {
    atomic_store_explicit(&descriptor, fd, memory_order_relaxed);
}

/* A line under construction. The last byte is reserved for the line feed. */
struct line {
    char *at;
    char *end;
};

static void line_put(struct line *line, char c) {
    if (line->at < line->end) {
        *line->at++ = c;
    }
}

static void line_put_text(struct line *line, const char *text) {
    for (; *text != '\0'; text++) {
        line_put(line, *text);
    }
}

static bool value_is_plain(const char *value, size_t size) {
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)value[i];
        if (c <= ' ' || c == '"' || c == '\\' || c == '=' || c == 0x7f) {
            return false;
        }
    }
    return size > 0;
}

static void line_put_value(struct line *line, const char *value, size_t size) {
    static const char hex[] = "0123456789abcdef";
    if (value_is_plain(value, size)) {
        for (size_t i = 0; i < size; i++) {
            line_put(line, value[i]);
        }
        return;
    }
    line_put(line, '"');
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)value[i];
        if (c == '"' || c == '\\') {
            line_put(line, '\\');
            line_put(line, (char)c);
        } else if (c == '\n') {
            line_put_text(line, "\\n");
        } else if (c < ' ' || c == 0x7f) {
            line_put_text(line, "\\x");
            line_put(line, hex[c >> 4]);
            line_put(line, hex[c & 15]);
        } else {
            line_put(line, (char)c);
        }
    }
    line_put(line, '"');
}

/* One conversion of a format string. */
struct conversion {
    char spec[32]; /* from '%' to the conversion's letter, NUL-terminated */
    int stars;     /* '*' among width and precision */
    char length;   /* 0, h, l, L (for ll), z, j, t */
    char letter;
};

/* Reads the conversion that starts at `format` (a '%'). Returns what follows it. */
static const char *conversion_read(struct conversion *conversion, const char *format) {
    size_t size = 0;
    *conversion = (struct conversion){.letter = '\0'};
    do {
        ASSERT(size + 2 < sizeof conversion->spec);
        conversion->spec[size++] = *format++;
        conversion->stars += *format == '*';
    } while (*format != '\0' && strchr("-+ #0123456789.*", *format) != NULL);
    while (*format != '\0' && strchr("hlzjt", *format) != NULL) {
        ASSERT(size + 2 < sizeof conversion->spec);
        conversion->length = conversion->length == 'l' ? 'L' : *format;
        conversion->spec[size++] = *format++;
    }
    ASSERT(*format != '\0');
    conversion->letter = *format;
    conversion->spec[size++] = *format++;
    conversion->spec[size] = '\0';
    return format;
}

/* A va_list may only be handed on by address when it sits in a struct: it may be an array type. */
struct arguments {
    va_list list;
};

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"

#define PRINT(value)                                                                               \
    (conversion->stars == 0   ? snprintf(out, size, conversion->spec, value)                       \
     : conversion->stars == 1 ? snprintf(out, size, conversion->spec, star[0], value)              \
                              : snprintf(out, size, conversion->spec, star[0], star[1], value))

static int print_number(char *out, size_t size, const struct conversion *conversion,
                        const int star[2], struct arguments *arguments) {
    switch (conversion->length) {
    case 'L':
        return PRINT(va_arg(arguments->list, long long));
    case 'l':
        return PRINT(va_arg(arguments->list, long));
    case 'z':
        return PRINT(va_arg(arguments->list, size_t));
    case 'j':
        return PRINT(va_arg(arguments->list, intmax_t));
    case 't':
        return PRINT(va_arg(arguments->list, ptrdiff_t));
    default:
        return PRINT(va_arg(arguments->list, int));
    }
}

/* Prints one argument; returns how many bytes of `out` it took. */
static size_t print_argument(char *out, size_t size, const struct conversion *conversion,
                             struct arguments *arguments) {
    int star[2] = {0, 0};
    for (int i = 0; i < conversion->stars; i++) {
        star[i] = va_arg(arguments->list, int);
    }
    int printed;
    switch (conversion->letter) {
    case 's': {
        const char *text = va_arg(arguments->list, const char *);
        printed = PRINT(text != NULL ? text : "(null)");
        break;
    }
    case 'c':
        printed = PRINT(va_arg(arguments->list, int));
        break;
    case 'p':
        printed = PRINT(va_arg(arguments->list, void *));
        break;
    case 'f':
    case 'g':
        printed = PRINT(va_arg(arguments->list, double));
        break;
    default:
        ASSERT(strchr("diuxX", conversion->letter) != NULL);
        printed = print_number(out, size, conversion, star, arguments);
    }
    if (printed < 0) {
        return 0;
    }
    return (size_t)printed < size ? (size_t)printed : size - 1;
}

#undef PRINT
#pragma GCC diagnostic pop

/* Collects the value that starts at `format` and ends before the next space of the format. */
static const char *line_format_value(struct line *line, const char *format,
                                     struct arguments *arguments) {
    char value[SAY_LINE_SIZE];
    size_t size = 0;
    while (*format != '\0' && *format != ' ') {
        if (*format != '%' || format[1] == '%') {
            if (size < sizeof value - 1) {
                value[size++] = *format;
            }
            format += *format == '%' ? 2 : 1;
            continue;
        }
        struct conversion conversion;
        format = conversion_read(&conversion, format);
        size += print_argument(value + size, sizeof value - size, &conversion, arguments);
    }
    line_put_value(line, value, size);
    return format;
}

static void line_format_fields(struct line *line, const char *format, struct arguments *arguments) {
    while (*format != '\0') {
        line_put(line, *format);
        if (*format++ == '=') {
            format = line_format_value(line, format, arguments);
        }
    }
}

static void line_put_time(struct line *line, uint64_t unix_ms) {
    time_t seconds = (time_t)(unix_ms / 1000);
    struct tm utc;
    char text[64];
    if (gmtime_r(&seconds, &utc) == NULL) {
        utc = (struct tm){.tm_mday = 1, .tm_year = 70};
    }
    size_t size = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(text + size, sizeof text - size, ".%03uZ", (unsigned)(unix_ms % 1000));
    line_put_text(line, text);
}

static size_t line_build(char *out, size_t size, uint64_t unix_ms, enum say_level level,
                         const char *event, const char *format, struct arguments *arguments) {
    ASSERT(size >= 64);
    struct line line = {.at = out, .end = out + size - 1};
    line_put_text(&line, "time=");
    line_put_time(&line, unix_ms);
    line_put_text(&line, " level=");
    line_put_text(&line, level_names[level]);
    line_put_text(&line, " event=");
    line_put_value(&line, event, strlen(event));
    if (format != NULL && *format != '\0') {
        line_put(&line, ' ');
        line_format_fields(&line, format, arguments);
    }
    *line.at++ = '\n';
    return (size_t)(line.at - out);
}

size_t say_format(char *line, size_t size, uint64_t unix_ms, enum say_level level,
                  const char *event, const char *format, ...) {
    struct arguments arguments;
    va_start(arguments.list, format);
    size_t length = line_build(line, size, unix_ms, level, event, format, &arguments);
    va_end(arguments.list);
    return length;
}

void say(enum say_level level, const char *event, const char *format, ...) {
    if (level > say_level()) {
        return;
    }
    int saved_errno = errno;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t unix_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;

    char line[SAY_LINE_SIZE];
    struct arguments arguments;
    va_start(arguments.list, format);
    size_t size = line_build(line, sizeof line, unix_ms, level, event, format, &arguments);
    va_end(arguments.list);

    /* A log line that cannot be written has nowhere to complain to. */
    ssize_t written;
    do {
        written = write(atomic_load_explicit(&descriptor, memory_order_relaxed), line, size);
    } while (written < 0 && errno == EINTR);
    errno = saved_errno;
}
