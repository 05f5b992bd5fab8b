#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/limits.h"
#include "base/mem.h"
#include "base/prng.h"
#include "base/resp.h"

static const struct resp_limits DEFAULT_LIMITS = {
    .max_args = 1024, .max_bulk = 32 * MIB, .max_request = 64 * MIB, .max_inline = 64 * KIB};

/* Limits small enough that a test reaches each of them with a few bytes. */
static const struct resp_limits TINY_LIMITS = {
    .max_args = 4, .max_bulk = 8, .max_request = 20, .max_inline = 32};

/* ---- feeding a parser and writing down what came out ---- */

/* Puts all of `bytes` into the parser, in pieces of at most `piece` bytes, and appends a readable
 * line per command to `trace`. Stops at a protocol error. */
struct feed {
    struct resp_parser *parser;
    struct buffer trace;
    size_t largest_memory;
    bool broken;
};

static void trace_text(struct buffer *trace, const char *text) {
    buffer_append(trace, text, strlen(text));
}

static void trace_slice(struct buffer *trace, struct slice bytes) {
    if (bytes.size > 64) {
        /* Long ones by size and hash, so that a failing comparison stays readable. */
        char text[64];
        uint64_t hash = 14695981039346656037u;
        for (size_t i = 0; i < bytes.size; i++) {
            hash = (hash ^ bytes.data[i]) * 1099511628211u;
        }
        snprintf(text, sizeof text, "<%zu bytes %016llx>", bytes.size, (unsigned long long)hash);
        trace_text(trace, text);
        return;
    }
    for (size_t i = 0; i < bytes.size; i++) {
        char text[8];
        bool plain = bytes.data[i] > ' ' && bytes.data[i] <= '~' && bytes.data[i] != '%';
        snprintf(text, sizeof text, plain ? "%c" : "%%%02x", bytes.data[i]);
        trace_text(trace, text);
    }
}

static void trace_command(struct buffer *trace, const struct resp_command *command) {
    for (unsigned i = 0; i < command->argc; i++) {
        trace_text(trace, "[");
        trace_slice(trace, command->argv[i]);
        trace_text(trace, "]");
    }
    if (command->oversized > 0) {
        char text[40];
        snprintf(text, sizeof text, " oversized %llu", (unsigned long long)command->oversized);
        trace_text(trace, text);
    }
    trace_text(trace, "\n");
}

static void feed_drain(struct feed *feed) {
    for (;;) {
        struct resp_command command;
        enum resp_status status = resp_parser_next(feed->parser, &command);
        size_t memory = resp_parser_memory(feed->parser);
        if (memory > feed->largest_memory) {
            feed->largest_memory = memory;
        }
        if (status == RESP_MORE) {
            return;
        }
        if (status == RESP_BROKEN) {
            feed->broken = true;
            trace_text(&feed->trace, "broken: ");
            trace_text(&feed->trace, resp_parser_error(feed->parser));
            trace_text(&feed->trace, "\n");
            return;
        }
        trace_command(&feed->trace, &command);
    }
}

/* One read from the "socket" of at most `piece` bytes; returns how many the parser had room for. */
static size_t feed_read(struct feed *feed, struct slice bytes, size_t piece) {
    uint8_t *data = NULL;
    size_t size = 0;
    resp_parser_space(feed->parser, &data, &size);
    assert_true(size > 0);
    if (size > bytes.size) {
        size = bytes.size;
    }
    if (size > piece) {
        size = piece;
    }
    memcpy(data, bytes.data, size);
    resp_parser_filled(feed->parser, size);
    return size;
}

static void feed_bytes(struct feed *feed, struct slice bytes, size_t piece) {
    while (bytes.size > 0 && !feed->broken) {
        size_t size = feed_read(feed, bytes, piece);
        bytes = slice_make(bytes.data + size, bytes.size - size);
        feed_drain(feed);
    }
}

static void feed_free(struct feed *feed) {
    resp_parser_free(feed->parser);
    buffer_free(&feed->trace);
}

/* Feeds in every fixed piece size up to 9 and at once; the trace must be `expected` each time. */
static void assert_trace_of(const struct resp_limits *limits, struct slice bytes,
                            const char *expected) {
    static const size_t pieces[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, SIZE_MAX};
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        struct feed feed = {.parser = resp_parser_new(limits)};
        feed_bytes(&feed, bytes, pieces[i]);
        buffer_put_u8(&feed.trace, 0);
        assert_string_equal((char *)feed.trace.data, expected);
        feed_free(&feed);
    }
}

static void assert_trace(const struct resp_limits *limits, const char *text, const char *expected) {
    assert_trace_of(limits, slice_of(text), expected);
}

/* ---- commands ---- */

static void test_arrays_of_bulk_strings(void **state) {
    (void)state;
    assert_trace(&DEFAULT_LIMITS, "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n",
                 "[SET][k][value]\n");
    assert_trace(&DEFAULT_LIMITS,
                 "*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$0\r\n\r\n*1\r\n$4\r\nQUIT\r\n",
                 "[PING]\n[GET][]\n[QUIT]\n");
    /* Bytes that look like protocol inside an argument. */
    assert_trace(&DEFAULT_LIMITS, "*2\r\n$4\r\nECHO\r\n$8\r\n*1\r\n$0\r\n\r\n",
                 "[ECHO][*1%0d%0a$0%0d%0a]\n");
    assert_trace_of(&DEFAULT_LIMITS, slice_make("*1\r\n$3\r\na\0b\r\n", 13), "[a%00b]\n");
}

static void test_empty_commands(void **state) {
    (void)state;
    assert_trace(&DEFAULT_LIMITS, "*0\r\n*-1\r\n*-77\r\n\r\n\n   \r\n*1\r\n$1\r\nx\r\n",
                 "\n\n\n\n\n\n[x]\n");
}

static void test_nothing_is_handed_out_early(void **state) {
    (void)state;
    assert_trace(&DEFAULT_LIMITS, "", "");
    assert_trace(&DEFAULT_LIMITS, "*2\r\n$4\r\nECHO\r\n$1\r\nx\r", "");
    assert_trace(&DEFAULT_LIMITS, "*2\r\n$4\r\nECHO\r\n$1\r\nx", "");
    assert_trace(&DEFAULT_LIMITS, "*1\r\n$4", "");
    assert_trace(&DEFAULT_LIMITS, "PING", "");
}

static void test_idle_between_commands_only(void **state) {
    (void)state;
    static const char text[] = "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
    struct feed feed = {.parser = resp_parser_new(&DEFAULT_LIMITS)};
    assert_true(resp_parser_is_idle(feed.parser));
    for (size_t i = 0; i + 1 < sizeof text; i++) {
        feed_bytes(&feed, slice_make(text + i, 1), 1);
        assert_int_equal(resp_parser_is_idle(feed.parser), i + 2 == sizeof text);
    }
    feed_free(&feed);
}

static void test_invalid_counts(void **state) {
    (void)state;
    static const char *const bad[] = {"*5\r\n",
                                      "*x\r\n",
                                      "*\r\n",
                                      "*+1\r\n",
                                      "*1 \r\n",
                                      "*1\n",
                                      "*01\r\n",
                                      "*-0\r\n",
                                      "*-\r\n",
                                      "*99999999999999999999\r\n",
                                      "*-99999999999999999999\r\n",
                                      "*2147483648\r\n"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_trace(&TINY_LIMITS, bad[i], "broken: Protocol error: invalid multibulk length\n");
    }
    assert_trace(&TINY_LIMITS, "*4\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n$1\r\nd\r\n",
                 "[a][b][c][d]\n");
}

static void test_invalid_bulk_lengths(void **state) {
    (void)state;
    static const char *const bad[] = {"$-1\r\n", "$x\r\n",         "$\r\n",
                                      "$1x\r\n", "$01\r\n",        "$1\n",
                                      "$-0\r\n", "$536870913\r\n", "$99999999999999999999\r\n"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char text[64];
        snprintf(text, sizeof text, "*1\r\n%s", bad[i]);
        assert_trace(&DEFAULT_LIMITS, text, "broken: Protocol error: invalid bulk length\n");
    }
}

static void test_missing_bulk_type(void **state) {
    (void)state;
    assert_trace(&DEFAULT_LIMITS, "*1\r\nx1\r\n",
                 "broken: Protocol error: expected '$', got 'x'\n");
    assert_trace(&DEFAULT_LIMITS, "*2\r\n$1\r\na\r\n*1\r\n",
                 "broken: Protocol error: expected '$', got '*'\n");
    assert_trace(&DEFAULT_LIMITS, "*1\r\n\r\n",
                 "broken: Protocol error: expected '$', got '\\x0d'\n");
}

static void test_wrong_length_is_noticed(void **state) {
    (void)state;
    const char *expected = "broken: Protocol error: expected CR LF after a bulk string\n";
    assert_trace(&DEFAULT_LIMITS, "*1\r\n$3\r\nPING\r\n", expected);
    assert_trace(&DEFAULT_LIMITS, "*1\r\n$4\r\nPING\n\n", expected);
    /* Also behind an argument that was skipped. */
    assert_trace(&TINY_LIMITS, "*1\r\n$9\r\n0123456789\r\n", expected);
}

static void test_broken_stays_broken(void **state) {
    (void)state;
    struct feed feed = {.parser = resp_parser_new(&TINY_LIMITS)};
    feed_bytes(&feed, slice_of("*1\r\n$1\r\nx\r\n*x\r\n*1\r\n$1\r\ny\r\n"), SIZE_MAX);
    assert_true(feed.broken);
    for (unsigned i = 0; i < 100; i++) {
        struct resp_command command;
        feed_read(&feed, slice_of("*1\r\n$1\r\nx\r\n"), SIZE_MAX);
        assert_int_equal(resp_parser_next(feed.parser, &command), RESP_BROKEN);
    }
    assert_string_equal(resp_parser_error(feed.parser), "Protocol error: invalid multibulk length");
    assert_true(resp_parser_memory(feed.parser) < 20 * KIB);
    feed_free(&feed);
}

static void test_headers_too_long(void **state) {
    (void)state;
    char digits[64];
    memset(digits, '1', sizeof digits);
    digits[sizeof digits - 1] = '\0';
    char text[128];
    /* Whether or not the line ends later. */
    for (int ends = 0; ends < 2; ends++) {
        const char *tail = ends ? "\r\n" : "";
        snprintf(text, sizeof text, "*%s%s", digits, tail);
        assert_trace(&TINY_LIMITS, text, "broken: Protocol error: too big mbulk count string\n");
        snprintf(text, sizeof text, "*1\r\n$%s%s", digits, tail);
        assert_trace(&TINY_LIMITS, text, "broken: Protocol error: too big bulk count string\n");
        snprintf(text, sizeof text, "%s%s", digits, tail);
        assert_trace(&TINY_LIMITS, text, "broken: Protocol error: too big inline request\n");
    }
}

/* ---- inline commands ---- */

static void test_inline_words(void **state) {
    (void)state;
    assert_trace(&DEFAULT_LIMITS, "PING\r\n", "[PING]\n");
    assert_trace(&DEFAULT_LIMITS, "PING\n", "[PING]\n");
    assert_trace(&DEFAULT_LIMITS, "  set \t k\v v  \r\nGET k\r\n", "[set][k][v]\n[GET][k]\n");
    assert_trace(&DEFAULT_LIMITS, "$3\r\n", "[$3]\n");
}

static void test_inline_quotes(void **state) {
    (void)state;
    assert_trace(&DEFAULT_LIMITS, "SET \"a key\" 'a value'\r\n", "[SET][a%20key][a%20value]\n");
    assert_trace(&DEFAULT_LIMITS, "\"\" ''\r\n", "[][]\n");
    assert_trace(&DEFAULT_LIMITS, "\"\\n\\r\\t\\b\\a\\\\\\\"\\q\"\r\n", "[%0a%0d%09%08%07\\\"q]\n");
    assert_trace(&DEFAULT_LIMITS, "\"\\x00\\xfF\\x41\"\r\n", "[%00%ffA]\n");
    /* Not two hexadecimal digits: the x alone. */
    assert_trace(&DEFAULT_LIMITS, "\"\\xg1\\x4\"\r\n", "[xg1x4]\n");
    /* Single quotes know one escape only. */
    assert_trace(&DEFAULT_LIMITS, "'it\\'s \\n \"x\"'\r\n", "[it's%20\\n%20\"x\"]\n");
    /* A quote may open inside a word. */
    assert_trace(&DEFAULT_LIMITS, "foo\"bar baz\" a\\b\r\n", "[foobar%20baz][a\\b]\n");
}

static void test_inline_unbalanced_quotes(void **state) {
    (void)state;
    static const char *const bad[] = {"\"abc\r\n",      "'abc\r\n",     "\"a\"b\r\n", "'a'b\r\n",
                                      "\"a\"\"b\"\r\n", "x \"\\\"\r\n", "'\\'\r\n",   "\"\n"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_trace(&DEFAULT_LIMITS, bad[i],
                     "broken: Protocol error: unbalanced quotes in request\n");
    }
}

static void test_inline_limits(void **state) {
    (void)state;
    /* 32 bytes are the limit, without the line end. */
    assert_trace(&TINY_LIMITS, "a b c                          d\r\n", "[a][b][c][d]\n");
    assert_trace(&TINY_LIMITS, "a b c                          d\n", "[a][b][c][d]\n");
    assert_trace(&TINY_LIMITS, "a b c                           d\r\n",
                 "broken: Protocol error: too big inline request\n");
    assert_trace(&TINY_LIMITS, "a b c                           d\n",
                 "broken: Protocol error: too big inline request\n");
    assert_trace(&TINY_LIMITS, "a b c d e\r\n", "broken: Protocol error: too big inline request\n");
    assert_trace(&TINY_LIMITS, "a 123456789 b\r\nnext\r\n", "[a][][] oversized 9\n[next]\n");
}

/* ---- sizes ---- */

static void test_oversized_arguments_are_skipped(void **state) {
    (void)state;
    assert_trace(&TINY_LIMITS, "*2\r\n$3\r\nSET\r\n$8\r\n12345678\r\n", "[SET][12345678]\n");
    assert_trace(&TINY_LIMITS,
                 "*3\r\n$3\r\nSET\r\n$9\r\n123456789\r\n$1\r\nx\r\n*1\r\n$4\r\nPING\r\n",
                 "[SET][][] oversized 9\n[PING]\n");
    /* The largest of several is reported. */
    assert_trace(&TINY_LIMITS, "*3\r\n$11\r\n12345678901\r\n$9\r\n123456789\r\n$0\r\n\r\n",
                 "[][][] oversized 11\n");
    /* No argument is too long, all together are. */
    assert_trace(&TINY_LIMITS,
                 "*4\r\n$8\r\n12345678\r\n$8\r\n12345678\r\n$5\r\n12345\r\n$2\r\nab\r\nPING\r\n",
                 "[12345678][12345678][][] oversized 23\n[PING]\n");
    assert_trace(&TINY_LIMITS, "*3\r\n$8\r\n12345678\r\n$8\r\n12345678\r\n$4\r\n1234\r\n",
                 "[12345678][12345678][1234]\n");
}

static void append_bulk(struct buffer *out, size_t size, uint8_t fill) {
    resp_write_bulk_header(out, size);
    buffer_reserve(out, size + 2);
    memset(out->data + out->size, fill, size);
    out->size += size;
    buffer_append(out, "\r\n", 2);
}

static void append_command(struct buffer *out, const char *name, size_t size) {
    resp_write_array(out, 2);
    resp_write_bulk(out, slice_of(name));
    append_bulk(out, size, 'v');
}

/* An argument around every size at which the parser changes how it stores it. */
static void test_arguments_of_every_kind(void **state) {
    (void)state;
    static const size_t sizes[] = {0,
                                   1,
                                   4095,
                                   4096,
                                   16 * 1024 - 30,
                                   16 * 1024,
                                   32 * 1024 - 1,
                                   32 * 1024,
                                   32 * 1024 + 1,
                                   100 * 1000,
                                   3 * 1024 * 1024};
    static const size_t pieces[] = {1000, 4096, SIZE_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct buffer bytes = {0};
        for (unsigned round = 0; round < 3; round++) {
            append_command(&bytes, "SET", sizes[i]);
        }
        for (size_t p = 0; p < sizeof pieces / sizeof pieces[0]; p++) {
            struct resp_parser *parser = resp_parser_new(&DEFAULT_LIMITS);
            struct feed feed = {.parser = parser};
            struct slice rest = buffer_slice(&bytes);
            unsigned commands = 0;
            while (rest.size > 0) {
                size_t size = feed_read(&feed, rest, pieces[p]);
                rest = slice_make(rest.data + size, rest.size - size);
                struct resp_command command;
                while (resp_parser_next(parser, &command) == RESP_COMMAND) {
                    commands++;
                    assert_int_equal(command.argc, 2);
                    assert_int_equal(command.oversized, 0);
                    assert_true(slice_equal(command.argv[0], slice_of("SET")));
                    assert_int_equal(command.argv[1].size, sizes[i]);
                    for (size_t at = 0; at < sizes[i]; at++) {
                        if (command.argv[1].data[at] != 'v') {
                            fail_msg("byte %zu of %zu is damaged", at, sizes[i]);
                        }
                    }
                }
            }
            assert_int_equal(commands, 3);
            feed_free(&feed);
        }
        buffer_free(&bytes);
    }
}

static void test_large_argument_takes_its_size_once(void **state) {
    (void)state;
    struct buffer bytes = {0};
    append_command(&bytes, "SET", 20 * MIB);
    struct feed feed = {.parser = resp_parser_new(&DEFAULT_LIMITS)};
    size_t before = resp_parser_memory(feed.parser);
    feed_bytes(&feed, buffer_slice(&bytes), 64 * KIB);
    assert_true(feed.largest_memory >= 20 * MIB);
    assert_true(feed.largest_memory < 20 * MIB + 64 * KIB);
    /* The command was consumed: everything but a first buffer is given back. */
    assert_true(resp_parser_memory(feed.parser) <= before + 17 * KIB);
    feed_free(&feed);
    buffer_free(&bytes);
}

/* The socket writes a large argument to where it stays: the offered space is exactly its rest. */
static void test_large_argument_is_read_in_place(void **state) {
    (void)state;
    struct feed feed = {.parser = resp_parser_new(&DEFAULT_LIMITS)};
    feed_bytes(&feed, slice_of("*1\r\n$100000\r\n0123456789"), SIZE_MAX);
    uint8_t *place = NULL;
    size_t size = 0;
    resp_parser_space(feed.parser, &place, &size);
    assert_int_equal(size, 100000 - 10);
    memset(place, 'x', size);
    resp_parser_filled(feed.parser, size);
    feed_read(&feed, slice_of("\r\n"), SIZE_MAX);
    struct resp_command command;
    assert_int_equal(resp_parser_next(feed.parser, &command), RESP_COMMAND);
    assert_ptr_equal(command.argv[0].data, place - 10);
    assert_int_equal(command.argv[0].size, 100000);
    assert_memory_equal(command.argv[0].data, "0123456789x", 11);
    feed_free(&feed);
}

static void test_memory_returns_after_many_small_arguments(void **state) {
    (void)state;
    enum { COUNT = 1024, SIZE = 10 * 1024 };
    struct buffer bytes = {0};
    resp_write_array(&bytes, COUNT);
    for (unsigned i = 0; i < COUNT; i++) {
        append_bulk(&bytes, SIZE, (uint8_t)i);
    }
    /* What follows the huge command must survive the shrinking of the buffer. */
    buffer_append_slice(&bytes, slice_of("PING\r\n*2\r\n$4\r\nEC"));
    struct feed feed = {.parser = resp_parser_new(&DEFAULT_LIMITS)};
    size_t before = resp_parser_memory(feed.parser);
    feed_bytes(&feed, buffer_slice(&bytes), SIZE_MAX);
    assert_true(feed.largest_memory >= COUNT * SIZE);
    assert_true(feed.largest_memory < COUNT * SIZE * 3 / 2);
    assert_true(resp_parser_memory(feed.parser) <= before + 17 * KIB);
    feed.trace.size = 0;
    feed_bytes(&feed, slice_of("HO\r\n$2\r\nhi\r\n"), SIZE_MAX);
    buffer_put_u8(&feed.trace, 0);
    assert_string_equal((char *)feed.trace.data, "[ECHO][hi]\n");
    feed_free(&feed);
    buffer_free(&bytes);
}

/* Announced, but never sent: one argument's memory at a time, and none for one that is refused. */
static void test_announced_sizes_do_not_pile_up(void **state) {
    (void)state;
    struct feed feed = {.parser = resp_parser_new(&DEFAULT_LIMITS)};
    feed_bytes(&feed, slice_of("*1024\r\n$536870912\r\nx"), SIZE_MAX);
    assert_true(feed.largest_memory < 64 * KIB);
    feed_free(&feed);

    feed = (struct feed){.parser = resp_parser_new(&DEFAULT_LIMITS)};
    feed_bytes(&feed, slice_of("*1024\r\n$33554432\r\nx"), SIZE_MAX);
    assert_true(feed.largest_memory < 32 * MIB + 64 * KIB);
    feed_free(&feed);
}

/* Refused arguments of any number and size leave nothing in memory. */
static void test_skipping_is_free_of_memory(void **state) {
    (void)state;
    struct resp_limits limits = {
        .max_args = 65536, .max_bulk = 1000, .max_request = 2000, .max_inline = 1024};
    struct buffer bytes = {0};
    resp_write_array(&bytes, 20000);
    for (unsigned i = 0; i < 20000; i++) {
        append_bulk(&bytes, i % 3 == 0 ? 2000 : 500, 'x');
    }
    buffer_append_slice(&bytes, slice_of("PING\r\n"));
    struct feed feed = {.parser = resp_parser_new(&limits)};
    size_t before = resp_parser_memory(feed.parser);
    feed_bytes(&feed, buffer_slice(&bytes), SIZE_MAX);
    /* The argument list itself grows with its length. */
    assert_true(feed.largest_memory < before + 2 * MIB);
    static const char tail[] = "[] oversized 2000\n[PING]\n";
    assert_true(feed.trace.size > sizeof tail);
    assert_memory_equal(feed.trace.data + feed.trace.size - (sizeof tail - 1), tail,
                        sizeof tail - 1);
    assert_true(resp_parser_memory(feed.parser) <= before + 17 * KIB);
    feed_free(&feed);
    buffer_free(&bytes);
}

/* A caller that reads on while it still uses a command: argv must not move under it. */
static void test_command_survives_further_reads(void **state) {
    (void)state;
    struct buffer bytes = {0};
    append_command(&bytes, "FIRST", 9000);
    for (unsigned i = 0; i < 20; i++) {
        append_command(&bytes, "NEXT", 9000);
    }
    struct feed feed = {.parser = resp_parser_new(&DEFAULT_LIMITS)};
    struct slice rest = buffer_slice(&bytes);
    struct resp_command command;
    size_t size = feed_read(&feed, rest, 16 * KIB);
    rest = slice_make(rest.data + size, rest.size - size);
    assert_int_equal(resp_parser_next(feed.parser, &command), RESP_COMMAND);
    while (rest.size > 0) {
        size = feed_read(&feed, rest, SIZE_MAX);
        rest = slice_make(rest.data + size, rest.size - size);
    }
    assert_true(slice_equal(command.argv[0], slice_of("FIRST")));
    assert_int_equal(command.argv[1].size, 9000);
    for (size_t i = 0; i < 9000; i++) {
        assert_int_equal(command.argv[1].data[i], 'v');
    }
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(resp_parser_next(feed.parser, &command), RESP_COMMAND);
        assert_true(slice_equal(command.argv[0], slice_of("NEXT")));
        assert_int_equal(command.argv[1].size, 9000);
    }
    assert_int_equal(resp_parser_next(feed.parser, &command), RESP_MORE);
    assert_true(resp_parser_memory(feed.parser) < 20 * KIB);
    feed_free(&feed);
    buffer_free(&bytes);
}

/* ---- property: how a stream is cut into reads never matters ---- */

static const struct resp_limits PROPERTY_LIMITS = {
    .max_args = 40, .max_bulk = 90 * 1000, .max_request = 150 * 1000, .max_inline = 200};

static void random_array(struct buffer *out, struct prng *prng) {
    size_t count = prng_below(prng, 50) == 0 ? 41 : prng_below(prng, 12);
    resp_write_array(out, count);
    for (size_t i = 0; i < count; i++) {
        uint64_t kind = prng_below(prng, 100);
        size_t size = prng_below(prng, 30);
        if (kind == 0) {
            size = prng_below(prng, 120 * 1000);
        } else if (kind < 5) {
            size = prng_below(prng, 20 * 1000);
        }
        append_bulk(out, size, (uint8_t)prng_next(prng));
    }
}

static void random_inline(struct buffer *out, struct prng *prng) {
    static const char *const words[] = {"GET",  "key",      "\"a b\"", "'c'", "\"\\x01\\n\"",
                                        " \t ", "'it\\'s'", "x\"y\"",  "",    "0123456789"};
    size_t count = prng_below(prng, 8);
    for (size_t i = 0; i < count; i++) {
        buffer_append_slice(out, slice_of(words[prng_below(prng, 10)]));
        buffer_put_u8(out, ' ');
    }
    buffer_append_slice(out, slice_of(prng_below(prng, 2) == 0 ? "\r\n" : "\n"));
}

static void random_stream(struct buffer *out, struct prng *prng) {
    size_t commands = 1 + prng_below(prng, 30);
    for (size_t i = 0; i < commands; i++) {
        if (prng_below(prng, 4) == 0) {
            random_inline(out, prng);
        } else {
            random_array(out, prng);
        }
    }
    /* A damaged byte in every other stream; most of them break the protocol somewhere. */
    if (prng_below(prng, 2) == 0) {
        out->data[prng_below(prng, out->size)] = (uint8_t)prng_next(prng);
    }
}

static void feed_random_pieces(struct feed *feed, struct slice bytes, struct prng *prng) {
    uint64_t bound = (uint64_t)1 << prng_below(prng, 18);
    while (bytes.size > 0 && !feed->broken) {
        size_t size = feed_read(feed, bytes, 1 + prng_below(prng, bound));
        bytes = slice_make(bytes.data + size, bytes.size - size);
        feed_drain(feed);
    }
}

static void assert_cuts_do_not_matter(uint64_t seed) {
    struct prng prng;
    struct buffer bytes = {0};
    prng_seed(&prng, seed);
    random_stream(&bytes, &prng);
    struct feed whole = {.parser = resp_parser_new(&PROPERTY_LIMITS)};
    struct feed single = {.parser = resp_parser_new(&PROPERTY_LIMITS)};
    struct feed pieces = {.parser = resp_parser_new(&PROPERTY_LIMITS)};
    feed_bytes(&whole, buffer_slice(&bytes), SIZE_MAX);
    feed_bytes(&single, buffer_slice(&bytes), 1);
    feed_random_pieces(&pieces, buffer_slice(&bytes), &prng);
    if (!slice_equal(buffer_slice(&whole.trace), buffer_slice(&single.trace)) ||
        !slice_equal(buffer_slice(&whole.trace), buffer_slice(&pieces.trace))) {
        fail_msg("stream of seed %llu depends on how it is cut; run with IKV_TEST_SEED=%llu",
                 (unsigned long long)seed, (unsigned long long)seed);
    }
    feed_free(&whole);
    feed_free(&single);
    feed_free(&pieces);
    buffer_free(&bytes);
}

static void test_cuts_do_not_matter(void **state) {
    (void)state;
    const char *chosen = getenv("IKV_TEST_SEED");
    if (chosen != NULL) {
        assert_cuts_do_not_matter(strtoull(chosen, NULL, 10));
        return;
    }
    for (uint64_t seed = 1; seed <= 300; seed++) {
        assert_cuts_do_not_matter(seed);
    }
}

/* The generator above must reach what it is for: commands, refusals and breaks. */
static void test_random_streams_are_diverse(void **state) {
    (void)state;
    unsigned broken = 0;
    unsigned clean = 0;
    unsigned oversized = 0;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        struct prng prng;
        struct buffer bytes = {0};
        prng_seed(&prng, seed);
        random_stream(&bytes, &prng);
        struct feed feed = {.parser = resp_parser_new(&PROPERTY_LIMITS)};
        feed_bytes(&feed, buffer_slice(&bytes), SIZE_MAX);
        buffer_put_u8(&feed.trace, 0);
        broken += feed.broken;
        clean += !feed.broken;
        oversized += strstr((char *)feed.trace.data, "oversized") != NULL;
        feed_free(&feed);
        buffer_free(&bytes);
    }
    assert_in_range(broken, 10, 90);
    assert_in_range(clean, 10, 90);
    assert_in_range(oversized, 3, 97);
}

/* ---- replies ---- */

static void assert_written(struct buffer *out, const char *expected) {
    buffer_put_u8(out, 0);
    assert_string_equal((char *)out->data, expected);
    out->size = 0;
}

static void test_replies_common_to_both_versions(void **state) {
    (void)state;
    struct buffer out = {0};
    resp_write_simple(&out, "OK");
    assert_written(&out, "+OK\r\n");
    resp_write_simple(&out, "a\r\nb");
    assert_written(&out, "+a  b\r\n");
    resp_write_error(&out, "ERR", "unknown command");
    assert_written(&out, "-ERR unknown command\r\n");
    resp_write_error(&out, "ERR", "one\r\n+two\n");
    assert_written(&out, "-ERR one  +two \r\n");
    resp_write_integer(&out, 0);
    assert_written(&out, ":0\r\n");
    resp_write_integer(&out, -1);
    assert_written(&out, ":-1\r\n");
    resp_write_integer(&out, INT64_MAX);
    assert_written(&out, ":9223372036854775807\r\n");
    resp_write_integer(&out, INT64_MIN);
    assert_written(&out, ":-9223372036854775808\r\n");
    resp_write_bulk(&out, slice_of("value\r\n"));
    assert_written(&out, "$7\r\nvalue\r\n\r\n");
    resp_write_bulk(&out, slice_make(NULL, 0));
    assert_written(&out, "$0\r\n\r\n");
    resp_write_bulk_header(&out, 67108864);
    assert_written(&out, "$67108864\r\n");
    resp_write_array(&out, 0);
    assert_written(&out, "*0\r\n");
    resp_write_array(&out, 12);
    assert_written(&out, "*12\r\n");
    buffer_free(&out);
}

static void test_replies_that_differ(void **state) {
    (void)state;
    struct buffer out = {0};
    resp_write_null(&out, 2);
    assert_written(&out, "$-1\r\n");
    resp_write_null(&out, 3);
    assert_written(&out, "_\r\n");
    resp_write_bool(&out, true, 2);
    resp_write_bool(&out, false, 2);
    assert_written(&out, ":1\r\n:0\r\n");
    resp_write_bool(&out, true, 3);
    resp_write_bool(&out, false, 3);
    assert_written(&out, "#t\r\n#f\r\n");
    resp_write_map(&out, 3, 2);
    assert_written(&out, "*6\r\n");
    resp_write_map(&out, 3, 3);
    assert_written(&out, "%3\r\n");
    buffer_free(&out);
}

static void test_doubles(void **state) {
    (void)state;
    struct buffer out = {0};
    resp_write_double(&out, 0.1, 3);
    assert_written(&out, ",0.1\r\n");
    resp_write_double(&out, 0.1, 2);
    assert_written(&out, "$3\r\n0.1\r\n");
    resp_write_double(&out, 10, 3);
    assert_written(&out, ",10\r\n");
    resp_write_double(&out, 1.0 / 3.0, 3);
    assert_written(&out, ",0.3333333333333333\r\n");
    resp_write_double(&out, (double)INFINITY, 3);
    assert_written(&out, ",inf\r\n");
    resp_write_double(&out, -(double)INFINITY, 2);
    assert_written(&out, "$4\r\n-inf\r\n");
    resp_write_double(&out, (double)NAN, 3);
    assert_written(&out, ",nan\r\n");
    resp_write_double(&out, -DBL_MAX, 3);
    assert_written(&out, ",-1.7976931348623157e+308\r\n");
    buffer_free(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arrays_of_bulk_strings),
        cmocka_unit_test(test_empty_commands),
        cmocka_unit_test(test_nothing_is_handed_out_early),
        cmocka_unit_test(test_idle_between_commands_only),
        cmocka_unit_test(test_invalid_counts),
        cmocka_unit_test(test_invalid_bulk_lengths),
        cmocka_unit_test(test_missing_bulk_type),
        cmocka_unit_test(test_wrong_length_is_noticed),
        cmocka_unit_test(test_broken_stays_broken),
        cmocka_unit_test(test_headers_too_long),
        cmocka_unit_test(test_inline_words),
        cmocka_unit_test(test_inline_quotes),
        cmocka_unit_test(test_inline_unbalanced_quotes),
        cmocka_unit_test(test_inline_limits),
        cmocka_unit_test(test_oversized_arguments_are_skipped),
        cmocka_unit_test(test_arguments_of_every_kind),
        cmocka_unit_test(test_large_argument_takes_its_size_once),
        cmocka_unit_test(test_large_argument_is_read_in_place),
        cmocka_unit_test(test_memory_returns_after_many_small_arguments),
        cmocka_unit_test(test_announced_sizes_do_not_pile_up),
        cmocka_unit_test(test_skipping_is_free_of_memory),
        cmocka_unit_test(test_command_survives_further_reads),
        cmocka_unit_test(test_cuts_do_not_matter),
        cmocka_unit_test(test_random_streams_are_diverse),
        cmocka_unit_test(test_replies_common_to_both_versions),
        cmocka_unit_test(test_replies_that_differ),
        cmocka_unit_test(test_doubles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
