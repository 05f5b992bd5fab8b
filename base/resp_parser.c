#include <limits.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/assert.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/resp.h"

enum {
    /* The input buffer starts at this size and returns to it. */
    INPUT_SIZE_MIN = 16 * 1024,
    /* Room that a read from the socket gets at least, so that it is worth its system call. */
    READ_SIZE_MIN = 4 * 1024,
    /* A larger buffer grows by a quarter instead of doubling. */
    INPUT_DOUBLES_UP_TO = 1024 * 1024,
    /* Longer arguments get memory of their own instead of staying in the input buffer. */
    SMALL_BULK_MAX = 32 * 1024,
    ARGS_CAPACITY_MIN = 8,
    /* Longer argument arrays are given back after their command. */
    ARGS_CAPACITY_KEPT = 64,
    END_OF_LINE_SIZE = 2,
    ERROR_TEXT_SIZE = 96
};

/* No client may announce more than this, whatever our own limits: it is the protocol's bound. */
#define ANNOUNCED_BULK_MAX (512 * MIB)

enum parser_state {
    STATE_START,       /* before a command */
    STATE_BULK_HEADER, /* before "$size" of the next argument */
    STATE_BULK_SMALL,  /* waits until argument and line end are in the input buffer */
    STATE_BULK_LARGE,  /* bytes go straight into args[n_args - 1].owned */
    STATE_BULK_SKIP,   /* bytes of an argument that is not kept */
    STATE_BULK_END,    /* line end after a large or skipped argument */
    STATE_BROKEN
};

struct arg {
    size_t offset;  /* from the start of the command in the input buffer, when not owned */
    size_t size;    /* bytes */
    uint8_t *owned; /* memory of exactly `size` bytes, or NULL */
};

/* The input buffer:
 *
 *     0      base        gap       next        end       capacity
 *     | free | kept args | skipped | unread    | free    |
 *
 * Small arguments stay where they arrived, as offsets from base, until the command has been handed
 * out and the next one is asked for. `gap` means something only while `skipping`: the bytes from
 * there to `next` belong to arguments that nobody will see. */
struct resp_parser {
    struct resp_limits limits;
    enum parser_state state;
    uint8_t *input; /* NULL while there is nothing to keep: see resp_parser_rest() */
    size_t capacity;
    size_t base;
    size_t gap;
    size_t next;
    size_t end;
    size_t scanned; /* unread bytes known to hold no LF */
    bool skipping;  /* the command broke a limit: this argument and all after it are skipped */

    bool handed_out;  /* argv of the last command is still in use by the caller */
    uint8_t *retired; /* an input buffer that only the handed out command still needs, or NULL */
    size_t retired_size;

    struct arg *args;
    struct slice *argv;
    unsigned args_capacity;
    unsigned argc;   /* announced */
    unsigned n_args; /* begun so far */
    uint64_t total_size;
    uint64_t largest_refused; /* largest argument over max_bulk, or 0 */
    size_t owned_size;        /* bytes of all args[].owned */

    size_t bulk_size; /* of the argument under way */
    size_t bulk_done; /* bytes of it that were received (large) or dropped (skip) */

    char error[ERROR_TEXT_SIZE];
};

/* What one step of the parser came to. */
enum step { STEP_AGAIN, STEP_MORE, STEP_COMMAND, STEP_BROKEN };

struct resp_parser *resp_parser_new(const struct resp_limits *limits) {
    ASSERT(limits->max_args > 0 && limits->max_args <= INT_MAX);
    ASSERT(limits->max_inline > 0 && limits->max_inline < SIZE_MAX / 4);
    ASSERT(limits->max_bulk <= ANNOUNCED_BULK_MAX);
    struct resp_parser *parser = mem_zalloc(1, sizeof *parser);
    parser->limits = *limits;
    parser->state = STATE_START;
    return parser;
}

/* Gives back everything that the last command occupied outside of the input buffer. */
static void args_release(struct resp_parser *parser) {
    for (unsigned i = 0; i < parser->n_args; i++) {
        mem_free(parser->args[i].owned);
    }
    parser->n_args = 0;
    parser->owned_size = 0;
    mem_free(parser->retired);
    parser->retired = NULL;
    parser->retired_size = 0;
    if (parser->args_capacity > ARGS_CAPACITY_KEPT) {
        mem_free(parser->args);
        mem_free(parser->argv);
        parser->args = NULL;
        parser->argv = NULL;
        parser->args_capacity = 0;
    }
}

void resp_parser_free(struct resp_parser *parser) {
    if (parser == NULL) {
        return;
    }
    args_release(parser);
    mem_free(parser->args);
    mem_free(parser->argv);
    mem_free(parser->input);
    mem_free(parser);
}

void resp_parser_rest(struct resp_parser *parser) {
    if (!resp_parser_is_idle(parser) || parser->handed_out) {
        return;
    }
    args_release(parser);
    mem_free(parser->args);
    mem_free(parser->argv);
    mem_free(parser->input);
    parser->args = NULL;
    parser->argv = NULL;
    parser->args_capacity = 0;
    parser->input = NULL;
    parser->capacity = 0;
    parser->base = 0;
    parser->gap = 0;
    parser->next = 0;
    parser->end = 0;
    parser->scanned = 0;
}

size_t resp_parser_memory(const struct resp_parser *parser) {
    return sizeof *parser + parser->capacity + parser->retired_size + parser->owned_size +
           parser->args_capacity * (sizeof *parser->args + sizeof *parser->argv);
}

bool resp_parser_is_idle(const struct resp_parser *parser) {
    return parser->state == STATE_START && parser->next == parser->end;
}

const char *resp_parser_error(const struct resp_parser *parser) {
    return parser->error;
}

/* ---- the input buffer ---- */

/* Moves the kept arguments and the unread bytes to the front, over what nobody needs. */
static void input_compact(struct resp_parser *parser) {
    size_t kept = (parser->skipping ? parser->gap : parser->next) - parser->base;
    size_t unread = parser->end - parser->next;
    memmove(parser->input, parser->input + parser->base, kept);
    memmove(parser->input + kept, parser->input + parser->next, unread);
    parser->base = 0;
    parser->gap = kept;
    parser->next = kept;
    parser->end = kept + unread;
}

static void input_grow(struct resp_parser *parser, size_t wanted) {
    size_t capacity = parser->capacity;
    capacity += capacity <= INPUT_DOUBLES_UP_TO ? capacity : capacity / 4;
    if (capacity - parser->end < wanted) {
        capacity = parser->end + wanted;
    }
    parser->input = mem_realloc(parser->input, capacity);
    parser->capacity = capacity;
}

/* Goes on in another buffer with the unread bytes. Returns the old one to the caller. */
static uint8_t *input_replace(struct resp_parser *parser, size_t capacity) {
    uint8_t *old = parser->input;
    size_t unread = parser->end - parser->next;
    ASSERT(unread <= capacity);
    parser->input = mem_alloc(capacity);
    parser->capacity = capacity;
    memcpy(parser->input, old + parser->next, unread);
    parser->base = 0;
    parser->next = 0;
    parser->end = unread;
    return old;
}

/* Gives back what a large command made the input buffer grow to. With unread bytes in it the buffer
 * may stay a little larger, so that a pipeline of middling commands does not move all the time. */
static void input_trim(struct resp_parser *parser) {
    size_t unread = parser->end - parser->next;
    if (unread == 0) {
        parser->base = parser->next = parser->end = 0;
    }
    bool too_large = parser->capacity > (unread == 0 ? 1 : 4) * INPUT_SIZE_MIN;
    if (too_large && unread <= INPUT_SIZE_MIN) {
        mem_free(input_replace(parser, INPUT_SIZE_MIN));
    }
}

__attribute__((format(printf, 2, 3))) static enum step parser_break(struct resp_parser *parser,
                                                                    const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(parser->error, sizeof parser->error, format, args);
    va_end(args);
    args_release(parser);
    parser->state = STATE_BROKEN;
    parser->next = parser->end;
    input_trim(parser);
    return STEP_BROKEN;
}

/* Bytes that the next read should have room for. */
static size_t input_wanted(const struct resp_parser *parser) {
    size_t unread = parser->end - parser->next;
    if (parser->state != STATE_BULK_SMALL) {
        return READ_SIZE_MIN;
    }
    size_t needed = parser->bulk_size + END_OF_LINE_SIZE;
    size_t missing = needed > unread ? needed - unread : 0;
    return missing > READ_SIZE_MIN ? missing : READ_SIZE_MIN;
}

static void input_make_room(struct resp_parser *parser) {
    if (parser->input == NULL) {
        parser->capacity = INPUT_SIZE_MIN;
        parser->input = mem_alloc(parser->capacity);
        return;
    }
    size_t wanted = input_wanted(parser);
    if (parser->capacity - parser->end >= wanted) {
        return;
    }
    if (parser->handed_out && parser->retired == NULL) {
        /* The caller still looks into this buffer: leave it alone until the next command. */
        size_t old_capacity = parser->capacity;
        size_t needed = parser->end - parser->next + wanted;
        parser->retired = input_replace(parser, needed > INPUT_SIZE_MIN ? needed : INPUT_SIZE_MIN);
        parser->retired_size = old_capacity;
        return;
    }
    input_compact(parser);
    if (parser->capacity - parser->end < wanted) {
        input_grow(parser, wanted);
    }
}

static bool bulk_large_is_open(const struct resp_parser *parser) {
    return parser->state == STATE_BULK_LARGE && parser->bulk_done < parser->bulk_size;
}

void resp_parser_space(struct resp_parser *parser, uint8_t **data, size_t *size) {
    if (bulk_large_is_open(parser)) {
        *data = parser->args[parser->n_args - 1].owned + parser->bulk_done;
        *size = parser->bulk_size - parser->bulk_done;
        return;
    }
    input_make_room(parser);
    *data = parser->input + parser->end;
    *size = parser->capacity - parser->end;
    ASSERT(*size > 0);
}

void resp_parser_filled(struct resp_parser *parser, size_t size) {
    if (bulk_large_is_open(parser)) {
        ASSERT(size <= parser->bulk_size - parser->bulk_done);
        parser->bulk_done += size;
        return;
    }
    ASSERT(size <= parser->capacity - parser->end);
    if (parser->state != STATE_BROKEN) {
        parser->end += size;
    }
}

/* ---- arguments ---- */

static void args_push(struct resp_parser *parser, struct arg arg) {
    if (parser->n_args == parser->args_capacity) {
        unsigned capacity =
            parser->args_capacity > 0 ? parser->args_capacity * 2 : ARGS_CAPACITY_MIN;
        parser->args = mem_realloc(parser->args, capacity * sizeof *parser->args);
        parser->argv = mem_realloc(parser->argv, capacity * sizeof *parser->argv);
        parser->args_capacity = capacity;
    }
    parser->args[parser->n_args++] = arg;
}

/* Counts an argument of `size` bytes against the limits; false when it must not be kept. */
static bool args_admit(struct resp_parser *parser, uint64_t size) {
    parser->total_size += size;
    if (size > parser->limits.max_bulk && size > parser->largest_refused) {
        parser->largest_refused = size;
    }
    bool fits = size <= parser->limits.max_bulk && parser->total_size <= parser->limits.max_request;
    if (!fits && !parser->skipping) {
        parser->skipping = true;
        parser->gap = parser->next;
    }
    return !parser->skipping;
}

static void command_begin(struct resp_parser *parser, unsigned argc) {
    parser->argc = argc;
    parser->total_size = 0;
    parser->largest_refused = 0;
    parser->skipping = false;
}

static enum step command_finish(struct resp_parser *parser) {
    ASSERT(parser->n_args == parser->argc);
    for (unsigned i = 0; i < parser->n_args; i++) {
        const struct arg *arg = &parser->args[i];
        const uint8_t *data =
            arg->owned != NULL ? arg->owned : parser->input + parser->base + arg->offset;
        parser->argv[i] = slice_make(data, arg->size);
    }
    parser->state = STATE_START;
    return STEP_COMMAND;
}

static uint64_t command_oversized(const struct resp_parser *parser) {
    if (parser->largest_refused > 0) {
        return parser->largest_refused;
    }
    return parser->total_size > parser->limits.max_request ? parser->total_size : 0;
}

/* ---- lines and numbers ---- */

enum line_status { LINE_READY, LINE_PARTIAL, LINE_TOO_LONG };

/* Finds the line at the start of the unread bytes, without its LF but with its CR. Whether it is
 * too long depends on its bytes alone, never on how they were cut into reads. */
static enum line_status line_find(struct resp_parser *parser, struct slice *line) {
    const uint8_t *start = parser->input + parser->next;
    size_t unread = parser->end - parser->next;
    ASSERT(parser->scanned <= unread);
    const uint8_t *lf = memchr(start + parser->scanned, '\n', unread - parser->scanned);
    if (lf == NULL) {
        parser->scanned = unread;
        /* One more, because the last byte may turn out to be the CR. */
        return unread > parser->limits.max_inline + 1 ? LINE_TOO_LONG : LINE_PARTIAL;
    }
    size_t size = (size_t)(lf - start);
    size_t text_size = size > 0 && start[size - 1] == '\r' ? size - 1 : size;
    if (text_size > parser->limits.max_inline) {
        return LINE_TOO_LONG;
    }
    *line = slice_make(start, size);
    return LINE_READY;
}

static void line_consume(struct resp_parser *parser, struct slice line) {
    parser->next += line.size + 1;
    parser->scanned = 0;
}

/* The number of a header line "<type><number>\r". Like Redis: no plus sign, no leading zeros, no
 * blanks. 18 digits always fit and are far beyond every limit. */
static bool header_number(struct slice line, int64_t *value) {
    if (line.size < 3 || line.data[line.size - 1] != '\r') {
        return false;
    }
    const uint8_t *at = line.data + 1;
    const uint8_t *end = line.data + line.size - 1;
    bool negative = *at == '-';
    if (negative) {
        at++;
    }
    if (at == end || end - at > 18) {
        return false;
    }
    if (*at == '0' && (negative || end - at > 1)) {
        return false;
    }
    int64_t number = 0;
    for (; at < end; at++) {
        if (*at < '0' || *at > '9') {
            return false;
        }
        number = number * 10 + (*at - '0');
    }
    *value = negative ? -number : number;
    return true;
}

/* ---- inline commands ---- */

/* Words are unquoted in place: `out` never overtakes `in`. */
struct cursor {
    const uint8_t *in;
    const uint8_t *end;
    uint8_t *out;
};

static bool is_blank(uint8_t c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static int hex_digit(uint8_t c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    if (c >= 'A' && c <= 'F') {
        return c - 'A' + 10;
    }
    return -1;
}

/* The byte that an escape stands for; `in` is behind the backslash and not at the end. */
static uint8_t inline_unescape(struct cursor *cursor) {
    uint8_t c = *cursor->in++;
    switch (c) {
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    case 'b':
        return '\b';
    case 'a':
        return '\a';
    case 'x':
        if (cursor->end - cursor->in >= 2) {
            int high = hex_digit(cursor->in[0]);
            int low = hex_digit(cursor->in[1]);
            if (high >= 0 && low >= 0) {
                cursor->in += 2;
                return (uint8_t)(high * 16 + low);
            }
        }
        return c;
    default:
        return c;
    }
}

/* Reads up to the closing quote, which must end the word. False when it is missing or does not. */
static bool inline_quoted(struct cursor *cursor, uint8_t quote) {
    while (cursor->in < cursor->end) {
        uint8_t c = *cursor->in++;
        if (c == quote) {
            return cursor->in == cursor->end || is_blank(*cursor->in);
        }
        if (c == '\\' && cursor->in < cursor->end) {
            if (quote == '"') {
                c = inline_unescape(cursor);
            } else if (*cursor->in == '\'') {
                c = *cursor->in++;
            }
        }
        *cursor->out++ = c;
    }
    return false;
}

static bool inline_word(struct cursor *cursor) {
    while (cursor->in < cursor->end && !is_blank(*cursor->in)) {
        uint8_t c = *cursor->in++;
        if (c != '"' && c != '\'') {
            *cursor->out++ = c;
        } else if (!inline_quoted(cursor, c)) {
            return false;
        }
    }
    return true;
}

static enum step inline_split(struct resp_parser *parser, struct slice line) {
    uint8_t *start = parser->input + parser->next;
    struct cursor cursor = {.in = start, .end = start + line.size, .out = start};
    for (;;) {
        while (cursor.in < cursor.end && is_blank(*cursor.in)) {
            cursor.in++;
        }
        if (cursor.in == cursor.end) {
            break;
        }
        const uint8_t *word = cursor.out;
        if (!inline_word(&cursor)) {
            return parser_break(parser, "Protocol error: unbalanced quotes in request");
        }
        if (parser->n_args == parser->limits.max_args) {
            return parser_break(parser, "Protocol error: too big inline request");
        }
        size_t size = (size_t)(cursor.out - word);
        size_t offset = (size_t)(word - (parser->input + parser->base));
        args_push(parser,
                  (struct arg){.offset = offset, .size = args_admit(parser, size) ? size : 0});
    }
    parser->argc = parser->n_args;
    line_consume(parser, line);
    return command_finish(parser);
}

static enum step step_inline(struct resp_parser *parser) {
    struct slice line;
    switch (line_find(parser, &line)) {
    case LINE_PARTIAL:
        return STEP_MORE;
    case LINE_TOO_LONG:
        return parser_break(parser, "Protocol error: too big inline request");
    case LINE_READY:
        break;
    }
    command_begin(parser, 0);
    return inline_split(parser, line);
}

/* ---- arrays of bulk strings ---- */

static enum step step_array_header(struct resp_parser *parser) {
    struct slice line;
    switch (line_find(parser, &line)) {
    case LINE_PARTIAL:
        return STEP_MORE;
    case LINE_TOO_LONG:
        return parser_break(parser, "Protocol error: too big mbulk count string");
    case LINE_READY:
        break;
    }
    int64_t count;
    if (!header_number(line, &count) || count > (int64_t)parser->limits.max_args) {
        return parser_break(parser, "Protocol error: invalid multibulk length");
    }
    line_consume(parser, line);
    command_begin(parser, count > 0 ? (unsigned)count : 0);
    if (count <= 0) {
        return command_finish(parser);
    }
    parser->state = STATE_BULK_HEADER;
    return STEP_AGAIN;
}

static enum step step_start(struct resp_parser *parser) {
    if (parser->next == parser->end) {
        return STEP_MORE;
    }
    return parser->input[parser->next] == '*' ? step_array_header(parser) : step_inline(parser);
}

/* Gives a large argument its memory and moves what has arrived of it there. */
static void bulk_begin_large(struct resp_parser *parser) {
    size_t arrived = parser->end - parser->next;
    ASSERT(arrived < parser->bulk_size + END_OF_LINE_SIZE);
    if (arrived > parser->bulk_size) {
        arrived = parser->bulk_size;
    }
    uint8_t *owned = mem_alloc(parser->bulk_size);
    memcpy(owned, parser->input + parser->next, arrived);
    parser->owned_size += parser->bulk_size;
    parser->bulk_done = arrived;
    args_push(parser, (struct arg){.size = parser->bulk_size, .owned = owned});
    /* At most the CR of the line end is left behind it. */
    size_t rest = parser->end - parser->next - arrived;
    memmove(parser->input + parser->next, parser->input + parser->next + arrived, rest);
    parser->end = parser->next + rest;
    parser->state = STATE_BULK_LARGE;
}

static void bulk_begin(struct resp_parser *parser, size_t size) {
    parser->bulk_size = size;
    parser->bulk_done = 0;
    if (!args_admit(parser, size)) {
        args_push(parser, (struct arg){.offset = 0, .size = 0});
        parser->state = STATE_BULK_SKIP;
        return;
    }
    bool arrived = size + END_OF_LINE_SIZE <= parser->end - parser->next;
    if (arrived || size <= SMALL_BULK_MAX) {
        parser->state = STATE_BULK_SMALL;
        return;
    }
    bulk_begin_large(parser);
}

static enum step refuse_bulk_type(struct resp_parser *parser, uint8_t type) {
    if (type >= ' ' && type <= '~') {
        return parser_break(parser, "Protocol error: expected '$', got '%c'", type);
    }
    return parser_break(parser, "Protocol error: expected '$', got '\\x%02x'", type);
}

static enum step step_bulk_header(struct resp_parser *parser) {
    struct slice line;
    switch (line_find(parser, &line)) {
    case LINE_PARTIAL:
        return STEP_MORE;
    case LINE_TOO_LONG:
        return parser_break(parser, "Protocol error: too big bulk count string");
    case LINE_READY:
        break;
    }
    /* An empty line shows its line end. */
    uint8_t type = parser->input[parser->next];
    if (type != '$') {
        return refuse_bulk_type(parser, type);
    }
    int64_t size;
    if (!header_number(line, &size) || size < 0 || size > (int64_t)ANNOUNCED_BULK_MAX) {
        return parser_break(parser, "Protocol error: invalid bulk length");
    }
    line_consume(parser, line);
    bulk_begin(parser, (size_t)size);
    return STEP_AGAIN;
}

/* The line end behind an argument. Anything else means that the announced length was wrong and that
 * the rest of the stream would be read as something it is not. */
static enum step bulk_end(struct resp_parser *parser) {
    const uint8_t *at = parser->input + parser->next;
    if (at[0] != '\r' || at[1] != '\n') {
        return parser_break(parser, "Protocol error: expected CR LF after a bulk string");
    }
    parser->next += END_OF_LINE_SIZE;
    if (parser->n_args == parser->argc) {
        return command_finish(parser);
    }
    parser->state = STATE_BULK_HEADER;
    return STEP_AGAIN;
}

static enum step step_bulk_small(struct resp_parser *parser) {
    if (parser->end - parser->next < parser->bulk_size + END_OF_LINE_SIZE) {
        return STEP_MORE;
    }
    args_push(parser,
              (struct arg){.offset = parser->next - parser->base, .size = parser->bulk_size});
    parser->next += parser->bulk_size;
    return bulk_end(parser);
}

static enum step step_bulk_large(struct resp_parser *parser) {
    if (parser->bulk_done < parser->bulk_size) {
        return STEP_MORE;
    }
    parser->state = STATE_BULK_END;
    return STEP_AGAIN;
}

static enum step step_bulk_skip(struct resp_parser *parser) {
    size_t unread = parser->end - parser->next;
    size_t missing = parser->bulk_size - parser->bulk_done;
    size_t dropped = unread < missing ? unread : missing;
    parser->next += dropped;
    parser->bulk_done += dropped;
    if (parser->bulk_done < parser->bulk_size) {
        return STEP_MORE;
    }
    parser->state = STATE_BULK_END;
    return STEP_AGAIN;
}

static enum step step_bulk_end(struct resp_parser *parser) {
    return parser->end - parser->next < END_OF_LINE_SIZE ? STEP_MORE : bulk_end(parser);
}

static enum step parser_step(struct resp_parser *parser) {
    switch (parser->state) {
    case STATE_START:
        return step_start(parser);
    case STATE_BULK_HEADER:
        return step_bulk_header(parser);
    case STATE_BULK_SMALL:
        return step_bulk_small(parser);
    case STATE_BULK_LARGE:
        return step_bulk_large(parser);
    case STATE_BULK_SKIP:
        return step_bulk_skip(parser);
    case STATE_BULK_END:
        return step_bulk_end(parser);
    case STATE_BROKEN:
        return STEP_BROKEN;
    }
    ASSERT(false);
}

enum resp_status resp_parser_next(struct resp_parser *parser, struct resp_command *command) {
    if (parser->input == NULL) {
        return RESP_MORE;
    }
    if (parser->handed_out) {
        parser->handed_out = false;
        args_release(parser);
        parser->base = parser->next;
        input_trim(parser);
    }
    enum step step = STEP_AGAIN;
    while (step == STEP_AGAIN) {
        ASSERT(parser->base <= parser->next && parser->next <= parser->end);
        ASSERT(parser->end <= parser->capacity);
        step = parser_step(parser);
    }
    if (step == STEP_MORE) {
        return RESP_MORE;
    }
    if (step == STEP_BROKEN) {
        return RESP_BROKEN;
    }
    *command = (struct resp_command){
        .argc = parser->argc, .argv = parser->argv, .oversized = command_oversized(parser)};
    parser->skipping = false;
    parser->handed_out = true;
    return RESP_COMMAND;
}
