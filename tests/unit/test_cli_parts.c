/* The pure parts of the command line: units, JSON, the forms of export, settings, figures. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/json.h"
#include "client/cli/commands.h"
#include "client/cli/entries.h"
#include "client/cli/histogram.h"
#include "client/cli/node_info.h"
#include "client/cli/progress.h"
#include "client/cli/settings.h"
#include "client/cli/units.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* --- units ------------------------------------------------------------------------------------ */

static void test_durations(void **state) {
    static const struct {
        const char *text;
        int64_t ms; /* 0: refused */
    } cases[] = {{"1ms", 1},
                 {"250ms", 250},
                 {"30s", 30000},
                 {"5m", 300000},
                 {"2h", 7200000},
                 {"1d", 86400000},
                 {"1h30m", 5400000},
                 {"1m1ms", 60001},
                 {"36500d", (int64_t)36500 * 86400000},
                 {"36501d", 0},
                 {"", 0},
                 {"5", 0},
                 {"0s", 0},
                 {"-5s", 0},
                 {"5 s", 0},
                 {"5x", 0},
                 {"s", 0},
                 {"5s ", 0},
                 {"1.5h", 0},
                 {"99999999999999999999d", 0},
                 {"18446744073709551615ms", 0},
                 {"36500d1ms", 0},
                 {"5M", 0}};
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        int64_t ms = 0;
        bool good = units_parse_duration(cases[i].text, &ms);
        assert_int_equal(good, cases[i].ms != 0);
        assert_true(!good || ms == cases[i].ms);
    }
}

static void test_sizes(void **state) {
    static const struct {
        const char *text;
        uint64_t bytes; /* UINT64_MAX: refused */
    } cases[] = {{"0", 0},
                 {"17", 17},
                 {"17B", 17},
                 {"1KiB", 1024},
                 {"1kib", 1024},
                 {"1k", 1024},
                 {"1KB", 1000},
                 {"512MiB", (uint64_t)512 << 20},
                 {"2GiB", (uint64_t)2 << 30},
                 {"1TB", 1000000000000},
                 {"", UINT64_MAX},
                 {"MiB", UINT64_MAX},
                 {"-1", UINT64_MAX},
                 {"1.5MiB", UINT64_MAX},
                 {"1 MiB", UINT64_MAX},
                 {"1EiB", UINT64_MAX},
                 {"99999999999999999999", UINT64_MAX},
                 {"16777216TiB", UINT64_MAX}};
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        uint64_t bytes = 0;
        bool good = units_parse_size(cases[i].text, &bytes);
        assert_int_equal(good, cases[i].bytes != UINT64_MAX);
        assert_true(!good || bytes == cases[i].bytes);
    }
}

static void test_formats(void **state) {
    char text[UNITS_TEXT_SIZE];
    (void)state;
    assert_string_equal(units_format_size(0, text), "0 B");
    assert_string_equal(units_format_size(1023, text), "1023 B");
    assert_string_equal(units_format_size(1024, text), "1.0 KiB");
    assert_string_equal(units_format_size(1048575, text), "1.0 MiB");
    assert_string_equal(units_format_size(UINT64_MAX, text), "16384.0 PiB");
    assert_string_equal(units_format_count(0, text), "0");
    assert_string_equal(units_format_count(999, text), "999");
    assert_string_equal(units_format_count(1000, text), "1,000");
    assert_string_equal(units_format_count(UINT64_MAX, text), "18,446,744,073,709,551,615");
    assert_string_equal(units_format_duration(90000, text), "1m 30s");
    assert_string_equal(units_format_duration(90061000, text), "1d 1h");
    assert_string_equal(units_format_clock(7, text), "0:07");
    assert_string_equal(units_format_clock(3723, text), "1:02:03");
    assert_string_equal(units_format_latency(1500000, text), "1.50 ms");
}

/* --- JSON ------------------------------------------------------------------------------------- */

static void test_json_accepts_and_refuses(void **state) {
    static const char *const good[] = {"null",
                                       "true",
                                       " false ",
                                       "0",
                                       "-0",
                                       "1.5",
                                       "-1.5e+10",
                                       "1E5",
                                       "\"\"",
                                       "\"a\\n\\u00e9\"",
                                       "[]",
                                       "{}",
                                       "[1,[2,{\"a\":[]}],3]",
                                       "{\"a\":1,\"a\":2}",
                                       "\t[ 1 , 2 ]\r\n",
                                       "\"\xc3\xa9\xf0\x9f\x98\x80\"",
                                       "123456789012345678901234567890.0001",
                                       "\"\\ud800\""};
    static const char *const wrong[] = {"",
                                        " ",
                                        "nul",
                                        "nulll",
                                        "True",
                                        "01",
                                        "1.",
                                        ".5",
                                        "-",
                                        "+1",
                                        "1e",
                                        "1e+",
                                        "0x1",
                                        "NaN",
                                        "\"",
                                        "\"a",
                                        "\"\\x\"",
                                        "\"\\u12\"",
                                        "\"\\u12g4\"",
                                        "\"\n\"",
                                        "[",
                                        "[1",
                                        "[1,",
                                        "[1,]",
                                        "[,1]",
                                        "[1 2]",
                                        "{",
                                        "{\"a\"",
                                        "{\"a\":",
                                        "{\"a\":1",
                                        "{\"a\":1,",
                                        "{\"a\":1,}",
                                        "{a:1}",
                                        "{1:1}",
                                        "{\"a\" 1}",
                                        "]",
                                        "}",
                                        "[}",
                                        "{]",
                                        "1 2",
                                        "\"\xff\"",
                                        "\"\xc0\xaf\"",
                                        "\"\xed\xa0\x80\"",
                                        "\"\xf4\x90\x80\x80\"",
                                        "\"\xe2\x82\"",
                                        "'a'"};
    (void)state;
    for (size_t i = 0; i < COUNT(good); i++) {
        if (!json_is_value(slice_of(good[i]))) {
            fail_msg("refused: %s", good[i]);
        }
    }
    for (size_t i = 0; i < COUNT(wrong); i++) {
        if (json_is_value(slice_of(wrong[i]))) {
            fail_msg("accepted: %s", wrong[i]);
        }
    }
}

/* The beginning of what is good asks for more, or is good itself; never bad. */
static void test_json_in_pieces(void **state) {
    static const char text[] =
        " {\"a\\u00e9\xc3\xa9\": [1.5e-7, true, null, {\"b\": \"\\\\\"}], \"c\": false}";
    (void)state;
    for (size_t size = 0; size <= strlen(text); size++) {
        struct json_cursor cursor = json_cursor_make(slice_make(text, size), false);
        struct slice raw;
        enum json_status status = json_skip_value(&cursor, &raw);
        assert_int_equal(status, size == strlen(text) ? JSON_OK : JSON_MORE);
        assert_int_equal(cursor.at, size == strlen(text) ? size : size > 0);
    }
}

static void test_json_depth(void **state) {
    struct buffer text = {0};
    (void)state;
    for (int extra = 0; extra <= 1; extra++) {
        text.size = 0;
        for (int i = 0; i < JSON_DEPTH + extra; i++) {
            buffer_put_u8(&text, '[');
        }
        for (int i = 0; i < JSON_DEPTH + extra; i++) {
            buffer_put_u8(&text, ']');
        }
        assert_int_equal(json_is_value(buffer_slice(&text)), extra == 0);
    }
    buffer_free(&text);
}

static void test_json_strings(void **state) {
    struct buffer out = {0};
    struct buffer written = {0};
    (void)state;
    assert_true(
        json_decode_string(slice_of("\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\u00e9\""), &out));
    assert_true(slice_equal(buffer_slice(&out), slice_of("a\"\\/\b\f\n\r\tA\xc3\xa9")));
    out.size = 0;
    assert_true(json_decode_string(slice_of("\"\\ud83d\\ude00\\u0000x\""), &out));
    assert_true(slice_equal(buffer_slice(&out), slice_make("\xf0\x9f\x98\x80\0x", 6)));
    static const char *const lone[] = {"\"\\ud83d\"", "\"\\ude00\"", "\"\\ud83dx\"",
                                       "\"\\ud83d\\u0041\"", "\"\\ud83d\\n\""};
    for (size_t i = 0; i < COUNT(lone); i++) {
        assert_true(json_is_value(slice_of(lone[i])));
        assert_false(json_decode_string(slice_of(lone[i]), &out));
        assert_int_equal(out.size, 6);
    }
    for (int c = 0; c < 128; c++) {
        char byte = (char)c;
        written.size = 0;
        out.size = 0;
        json_append_string(&written, slice_make(&byte, 1));
        assert_true(json_is_value(buffer_slice(&written)));
        assert_true(json_decode_string(buffer_slice(&written), &out));
        assert_true(out.size == 1 && out.data[0] == c);
    }
    buffer_free(&out);
    buffer_free(&written);
}

static void test_base64(void **state) {
    static const char *const pairs[][2] = {
        {"", ""},        {"f", "Zg=="},        {"fo", "Zm8="},
        {"foo", "Zm9v"}, {"foob", "Zm9vYg=="}, {"\xff\xfe", "//4="}};
    static const char *const wrong[] = {
        "Z", "Zg", "Zg=", "Zh==", "Zm9=", "Zg==Zg==", "====", "Z===", "Zm 9", "Zm9v\n", "Zm-v"};
    struct buffer out = {0};
    (void)state;
    for (size_t i = 0; i < COUNT(pairs); i++) {
        out.size = 0;
        base64_encode(slice_of(pairs[i][0]), &out);
        assert_true(slice_equal(buffer_slice(&out), slice_of(pairs[i][1])));
        out.size = 0;
        assert_true(base64_decode(slice_of(pairs[i][1]), &out));
        assert_true(slice_equal(buffer_slice(&out), slice_of(pairs[i][0])));
    }
    for (size_t i = 0; i < COUNT(wrong); i++) {
        out.size = 0;
        assert_false(base64_decode(slice_of(wrong[i]), &out));
        assert_int_equal(out.size, 0);
    }
    buffer_free(&out);
}

/* --- the forms of export ---------------------------------------------------------------------- */

struct source {
    struct slice rest;
    size_t piece;
};

static ssize_t read_source(void *data, void *buffer, size_t size) {
    struct source *source = data;
    size_t n = source->rest.size < source->piece ? source->rest.size : source->piece;
    n = n < size ? n : size;
    if (n > 0) {
        memcpy(buffer, source->rest.data, n);
    }
    source->rest = slice_make(source->rest.data + n, source->rest.size - n);
    return (ssize_t)n;
}

/* "key=value@ttl;" for each entry, then the error's text. */
static void read_all(const char *text, enum entries_form form, size_t piece, char *out,
                     size_t size) {
    struct source source = {slice_of(text), piece};
    struct entries entries;
    struct entry entry;
    struct error error = {0};
    bool found = true;
    size_t used = 0;
    entries_init(&entries, form, read_source, &source);
    out[0] = '\0';
    while (found) {
        if (entries_next(&entries, &entry, &found, &error) != ERROR_NONE) {
            snprintf(out + used, size - used, "%s", error.message);
            break;
        }
        if (found) {
            used += (size_t)snprintf(out + used, size - used, "%.*s=%.*s@%d;", (int)entry.key.size,
                                     (const char *)entry.key.data, (int)entry.value.size,
                                     (const char *)entry.value.data, (int)entry.ttl_ms);
        }
    }
    entries_free(&entries);
}

static void check_entries(const char *text, enum entries_form form, const char *expected) {
    char out[1024];
    for (size_t piece = 1; piece < 100; piece = piece * 3 + 1) {
        read_all(text, form, piece, out, sizeof out);
        assert_string_equal(out, expected);
    }
}

static void test_object_form(void **state) {
    (void)state;
    check_entries("{}", ENTRIES_AUTO, "");
    check_entries(" { \"a\" : [1, 2] ,\n \"b\\n\": \"x\" } \n", ENTRIES_AUTO,
                  "a=[1, 2]@0;b\n=\"x\"@0;");
    check_entries("{\"a\":1.50,\"a\":-0}", ENTRIES_AUTO, "a=1.50@0;a=-0@0;");
    check_entries("", ENTRIES_AUTO, "line 1: the file is empty");
    check_entries("[1]", ENTRIES_AUTO, "line 1: expected an object of key to value");
    check_entries("{\"a\":1", ENTRIES_AUTO, "a=1@0;line 1: the file ends within the object");
    check_entries("{\"a\":1,}", ENTRIES_AUTO,
                  "a=1@0;line 1: expected a string, which begins with \"");
    check_entries("{\"a\":1,\n\n\"b\":x}", ENTRIES_AUTO, "a=1@0;line 3: expected a value");
    check_entries("{\"\":1}", ENTRIES_AUTO, "line 1: a key has 1 to 65536 bytes, this one 0");
    check_entries("{\"a\":1}\n{\"b\":1}\n", ENTRIES_AUTO,
                  "a=1@0;line 2: something follows the object; for one object in each line say "
                  "--format lines");
    check_entries("{\"\\ud800\":1}", ENTRIES_AUTO,
                  "line 1: a key holds half of a surrogate pair, which is no character");
}

static void test_lines_form(void **state) {
    (void)state;
    check_entries("{\"invoke_kv_lines\":1}\n{\"invoke_kv_end\":0}\n", ENTRIES_AUTO, "");
    check_entries("{\"invoke_kv_lines\": 1}\r\n{\"key\":\"a\",\"value\":\"b\"}\n\n"
                  "{\"ttl_ms\":7,\"value_base64\":\"Yg==\",\"key_base64\":\"YQ==\"}\n"
                  "{\"invoke_kv_end\":2}",
                  ENTRIES_AUTO, "a=b@0;a=b@7;");
    check_entries("{\"key\":\"a\",\"value\":\"\"}", ENTRIES_LINES, "a=@0;");
    check_entries("", ENTRIES_LINES, "");
    check_entries("{\"invoke_kv_lines\":1}\n{\"key\":\"a\",\"value\":\"b\"}\n", ENTRIES_AUTO,
                  "a=b@0;line 3: the file ends without its last line: it was cut off");
    check_entries("{\"invoke_kv_lines\":1}\n{\"invoke_kv_end\":1}\n", ENTRIES_AUTO,
                  "line 2: the file says that it has 1 keys, but 0 came: a part of it is missing");
    check_entries("{\"invoke_kv_lines\":1}\n{\"invoke_kv_end\":0}\n{\"key\":\"a\",\"value\":\"b\"}",
                  ENTRIES_AUTO,
                  "line 3: something follows the last line: were two files put together?");
    check_entries("{\"invoke_kv_lines\":2}\n", ENTRIES_AUTO,
                  "line 1: written by a newer release, in a form that this one cannot read");
    static const char *const wrong[][2] = {
        {"{\"key\":\"a\"}", "line 1: a key or a value is missing"},
        {"{\"key\":\"a\",\"value\":1}",
         "line 1: key and value are strings; for any JSON as a value "
         "use the object form"},
        {"{\"key\":\"a\",\"key\":\"a\"}", "line 1: a member comes twice"},
        {"{\"key\":\"a\",\"value\":\"b\",\"x\":1}",
         "line 1: unknown member; a line has key or key_base64, value or value_base64, ttl_ms"},
        {"{\"key\":\"a\",\"value\":\"b\",\"ttl_ms\":0}",
         "line 1: ttl_ms is a whole number of milliseconds, from 1 to 100 years"},
        {"{\"key\":\"a\",\"value\":\"b\",\"ttl_ms\":9223372036854775807}",
         "line 1: ttl_ms is a whole number of milliseconds, from 1 to 100 years"},
        {"{\"key\":\"a\",\"value_base64\":\"Y\"}", "line 1: malformed base64"},
        {"{\"key\":\"a\",\"value\":\"b\"} x",
         "line 1: something follows the object; each stands in a line of its own"},
        {"{\"invoke_kv_end\":0,\"key\":\"a\"}", "line 1: this member stands alone in its line"},
        {"\n\n[]", "line 3: expected an object, which begins with {"},
        {"{\"key\":\n\"a\"}", "line 1: it ends too early"}};
    for (size_t i = 0; i < COUNT(wrong); i++) {
        check_entries(wrong[i][0], ENTRIES_LINES, wrong[i][1]);
    }
}

static void test_entries_have_a_bound(void **state) {
    struct buffer text = {0};
    (void)state;
    buffer_append(&text, "{\"a\":\"", 6);
    for (int i = 0; i < 300000; i++) {
        buffer_put_u8(&text, 'b');
    }
    buffer_append(&text, "\"}", 2);
    for (size_t max = 200000; max <= 400000; max += 200000) {
        struct source source = {buffer_slice(&text), SIZE_MAX};
        struct entries entries;
        struct entry entry;
        struct error error = {0};
        bool found;
        entries_init(&entries, ENTRIES_AUTO, read_source, &source);
        entries.text_max = max;
        enum error_code code = entries_next(&entries, &entry, &found, &error);
        assert_int_equal(code, max < 300000 ? ERROR_TOOBIG : ERROR_NONE);
        assert_int_equal(found, max > 300000);
        entries_free(&entries);
    }
    buffer_free(&text);
}

static void test_object_form_refuses_what_it_cannot_hold(void **state) {
    struct buffer out = {0};
    struct error error = {0};
    struct entry entry = {.key = slice_of("k\xff"), .value = slice_of("1")};
    (void)state;
    assert_int_equal(entries_write(&out, ENTRIES_OBJECT, &entry, true, &error), ERROR_INVALID);
    assert_string_equal(error.message, "the key \"k\\xff\" is not UTF-8; use --format lines");
    entry = (struct entry){.key = slice_of("k"), .value = slice_of("text")};
    assert_int_equal(entries_write(&out, ENTRIES_OBJECT, &entry, true, &error), ERROR_INVALID);
    assert_string_equal(error.message, "the value of \"k\" is not JSON; use --format lines");
    assert_int_equal(out.size, 0);
    buffer_free(&out);
}

/* --- settings --------------------------------------------------------------------------------- */

static char *environment(const char *name) {
    static char server[] = "environment:1";
    static char level[] = "eventual";
    if (strcmp(name, "INVOKE_KV_SERVER") == 0) {
        return server;
    }
    return strcmp(name, "INVOKE_KV_CONSISTENCY") == 0 ? level : NULL;
}

static void test_settings_precedence(void **state) {
    struct settings settings = {.origins = {FROM_NOWHERE}};
    struct connection_settings connection;
    struct error error = {0};
    static const char file[] = "# comment\n\n server = file:1 \nproject=from file\ntimeout = 7s\n"
                               "max_stale = 1m";
    (void)state;
    settings_set(&settings, SETTING_TIMEOUT, "250ms", FROM_OPTION);
    settings_read_environment(&settings, environment);
    assert_int_equal(settings_parse(&settings, "f", slice_of(file), &error), ERROR_NONE);
    assert_int_equal(settings_resolve(&settings, &connection, &error), ERROR_NONE);
    assert_string_equal(connection.seeds, "environment:1");
    assert_string_equal(connection.project, "from file");
    assert_int_equal(connection.timeout_ms, 250);
    assert_int_equal(connection.level, IKV_EVENTUAL);
    assert_int_equal(connection.max_stale_ms, 60000);
    connection_settings_free(&connection);
    settings_free(&settings);
}

static void check_settings_error(const char *text, const char *message) {
    struct settings settings = {.origins = {FROM_NOWHERE}};
    struct connection_settings connection;
    struct error error = {0};
    enum error_code code = settings_parse(&settings, "f", slice_of(text), &error);
    if (code == ERROR_NONE) {
        code = settings_resolve(&settings, &connection, &error);
    }
    assert_int_not_equal(code, ERROR_NONE);
    assert_string_equal(error.message, message);
    settings_free(&settings);
}

static void test_settings_errors(void **state) {
    (void)state;
    check_settings_error("\nnonsense", "f:2: expected `key = value`");
    check_settings_error("servers = x", "f:1: unknown key 'servers'; see invoke-kv --help");
    check_settings_error("token-file = x", "f:1: unknown key 'token-file'; see invoke-kv --help");
    check_settings_error("server =", "f:1: a key without a value; take the line out instead");
    check_settings_error("timeout = 5",
                         "--timeout: '5' is no time, such as 500ms, 30s or 5m, of at most a day");
    check_settings_error("consistency = strong",
                         "--consistency: 'strong' is not linearizable, session or eventual");
    check_settings_error("max_stale = 5s", "--max-stale is for --consistency eventual");
    check_settings_error("user = root\nsecret_file = /x", "--user is service or admin");
    check_settings_error("user = admin", "--user needs --secret-file");
    check_settings_error("token = a\ntoken_file = b",
                         "--token and --token-file exclude each other");
}

/* --- the command line ------------------------------------------------------------------------- */

enum { WORDS = 12 };

static int read_line(struct cli *cli, struct invocation *invocation, const char *const *words) {
    char *argv[WORDS + 2] = {(char *)"invoke-kv"};
    static char *kept[WORDS + 2];
    int argc = 1;
    while (words[argc - 1] != NULL) {
        argv[argc] = (char *)words[argc - 1];
        argc++;
    }
    memcpy(kept, argv, sizeof argv);
    return command_line_read(cli, argc, kept, invocation);
}

static void test_command_line(void **state) {
    struct cli cli = {.quiet = false};
    struct invocation invocation;
    (void)state;
    static const char *const set[] = {"-p",  "shop", "set", "--ttl=5m", "key",
                                      "-jq", "--",   "-v-", NULL};
    assert_int_equal(read_line(&cli, &invocation, set), EXIT_OK);
    assert_string_equal(invocation.command->name, "set");
    assert_string_equal(argument_option(&invocation.arguments, "ttl"), "5m");
    assert_null(argument_option(&invocation.arguments, "keep-ttl"));
    assert_int_equal(invocation.arguments.n_words, 2);
    assert_string_equal(invocation.arguments.words[0], "key");
    assert_string_equal(invocation.arguments.words[1], "-v-");
    assert_string_equal(cli.settings.values[SETTING_PROJECT], "shop");
    assert_true(cli.json && cli.quiet);
    static const char *const incr[] = {"incr", "key", "-5", NULL};
    assert_int_equal(read_line(&cli, &invocation, incr), EXIT_OK);
    assert_string_equal(invocation.arguments.words[1], "-5");
    static const char *const token[] = {"project", "token", "add", "shop", "readonly", NULL};
    assert_int_equal(read_line(&cli, &invocation, token), EXIT_OK);
    assert_string_equal(invocation.command->name, "project token add");
    assert_string_equal(invocation.arguments.words[0], "shop");
    static const char *const list[] = {"list", "-0n5", NULL};
    assert_int_equal(read_line(&cli, &invocation, list), EXIT_OK);
    assert_string_equal(argument_option(&invocation.arguments, "limit"), "5");
    assert_string_equal(argument_option(&invocation.arguments, "null"), "");
    settings_free(&cli.settings);
}

static void test_command_line_errors(void **state) {
    static const char *const lines[][4] = {{NULL},
                                           {"nope", NULL},
                                           {"get", NULL},
                                           {"get", "a", "b", NULL},
                                           {"project", NULL},
                                           {"get", "a", "--ttl", NULL},
                                           {"set", "a", "--ttl", NULL},
                                           {"set", "a", "--keep-ttl=1", NULL},
                                           {"get", "a", "-x", NULL},
                                           {"get", "a", "--server=", NULL}};
    (void)state;
    for (size_t i = 0; i < COUNT(lines); i++) {
        struct cli cli = {.quiet = true};
        struct invocation invocation;
        assert_int_equal(read_line(&cli, &invocation, lines[i]), EXIT_USAGE);
        settings_free(&cli.settings);
    }
}

/* What the parser relies on, and what help would be ugly without. */
static void test_command_table(void **state) {
    (void)state;
    for (size_t i = 0; i < command_count; i++) {
        const struct command *command = &command_table[i];
        assert_true(command->summary[0] >= 'a' && command->summary[0] <= 'z');
        assert_non_null(command->run);
        /* The last row of options is free: it ends the list. */
        assert_null(command->options[COMMAND_OPTIONS_MAX - 1].name);
        for (size_t k = 0; command->options[k].name != NULL; k++) {
            const struct option *option = &command->options[k];
            assert_true(strlen(option->help) > 0);
            for (const struct option *common = common_options; common->name != NULL; common++) {
                assert_string_not_equal(option->name, common->name);
                assert_true(option->letter == 0 || option->letter != common->letter);
            }
            for (int setting = 0; setting < SETTING_COUNT; setting++) {
                assert_string_not_equal(option->name, setting_name((enum setting)setting));
            }
            assert_true(option->letter == 0 || strchr("sptc", option->letter) == NULL);
        }
    }
}

/* --- figures ---------------------------------------------------------------------------------- */

static void test_histogram(void **state) {
    struct histogram *histogram = calloc(1, sizeof *histogram);
    (void)state;
    assert_int_equal(histogram_percentile(histogram, 0.5), 0);
    for (uint64_t i = 1; i <= 100000; i++) {
        histogram_add(histogram, i * 1000);
    }
    static const double shares[] = {0.01, 0.5, 0.9, 0.99, 0.999};
    for (size_t i = 0; i < COUNT(shares); i++) {
        double exact = shares[i] * 100000 * 1000;
        double told = (double)histogram_percentile(histogram, shares[i]);
        assert_true(told >= exact && told <= exact * 1.017);
    }
    assert_int_equal(histogram_percentile(histogram, 1), 100000000);
    assert_int_equal(histogram_mean(histogram), 50000500);
    histogram_add(histogram, UINT64_MAX);
    histogram_add(histogram, 0);
    assert_true(histogram_percentile(histogram, 1) == UINT64_MAX);
    free(histogram);
}

static void test_progress_lines(void **state) {
    char line[PROGRESS_LINE];
    struct progress progress = {.is_bar = true, .verb = "imported", .noun = "keys"};
    struct progress_state now = {.done = 25, .total = 100, .count = 5000, .bytes = 2048};
    (void)state;
    progress_format(line, &progress, &now, 2000);
    assert_string_equal(line, " 25 % [######..................] imported 5,000 keys, 2.0 KiB; "
                              "2,500 keys/s, 1.0 KiB/s; 0:06 left");
    progress.is_bar = false;
    now.total = 0;
    progress_format(line, &progress, &now, 0);
    assert_string_equal(line, "imported 5,000 keys, 2.0 KiB; 5,000,000 keys/s, 2.0 MiB/s");
    progress.is_bar = true;
    now = (struct progress_state){.done = 500, .total = 100};
    progress_format(line, &progress, &now, 1000);
    assert_string_equal(line, "100 % [########################] imported 0 keys, 0 B; 0 keys/s, "
                              "0 B/s");
}

/* --- the cluster's health --------------------------------------------------------------------- */

static void count_problem(void *data, const char *problem) {
    (void)problem;
    (*(unsigned *)data)++;
}

static void test_cluster_health(void **state) {
    static const char leader[] = "# Server\r\ninvoke_kv_version:0.1.0\r\nuptime_in_seconds:61\r\n"
                                 "disk_has_space:1\r\ndigest_mismatches:0\r\n\r\n# Shards\r\n"
                                 "shard0:role=leader,leader=1,term=3,commit=20000,applied=20000,"
                                 "keys=4,bytes=5,voters=2,clock=9,unknown=7\r\n";
    static const char follower[] = "shard0:role=follower,leader=1,term=3,commit=9,applied=9999\r\n";
    struct node_info *nodes = calloc(2, sizeof *nodes);
    struct cluster_info cluster = {.n_nodes = 2, .n_shards = 1, .nodes = nodes};
    unsigned problems = 0;
    uint64_t lag = 0;
    (void)state;
    nodes[0].is_up = true;
    nodes[1].is_up = true;
    node_info_parse(&nodes[0], slice_of(leader));
    node_info_parse(&nodes[1], slice_of(follower));
    assert_string_equal(nodes[0].version, "0.1.0");
    assert_int_equal(nodes[0].uptime_s, 61);
    assert_int_equal(nodes[0].shards[0].clock_ms, 9);
    assert_ptr_equal(cluster_leader(&cluster, 0), &nodes[0]);
    assert_true(cluster_lag(&cluster, &nodes[1], 0, &lag));
    assert_int_equal(lag, 10001);
    assert_int_equal(cluster_health(&cluster, count_problem, &problems), HEALTH_DEGRADED);
    assert_int_equal(problems, 1);
    nodes[1].shards[0].applied = 10000;
    assert_int_equal(cluster_health(&cluster, NULL, NULL), HEALTH_GOOD);
    nodes[0].digest_mismatches = 1;
    assert_int_equal(cluster_health(&cluster, NULL, NULL), HEALTH_DEGRADED);
    nodes[0].digest_mismatches = 0;
    nodes[0].shards[0].voters = 1;
    assert_int_equal(cluster_health(&cluster, NULL, NULL), HEALTH_DEGRADED);
    nodes[0].shards[0].voters = 2;
    nodes[1].is_up = false;
    assert_int_equal(cluster_health(&cluster, NULL, NULL), HEALTH_DEGRADED);
    nodes[1].is_up = true;
    nodes[0].is_up = false;
    assert_int_equal(cluster_health(&cluster, NULL, NULL), HEALTH_DOWN);
    /* Two that say so: the newer term counts. */
    nodes[0].is_up = true;
    nodes[1].shards[0].term = 4;
    snprintf(nodes[1].shards[0].role, INFO_TEXT, "leader");
    assert_ptr_equal(cluster_leader(&cluster, 0), &nodes[1]);
    free(nodes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_durations),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_json_accepts_and_refuses),
        cmocka_unit_test(test_json_in_pieces),
        cmocka_unit_test(test_json_depth),
        cmocka_unit_test(test_json_strings),
        cmocka_unit_test(test_base64),
        cmocka_unit_test(test_object_form),
        cmocka_unit_test(test_lines_form),
        cmocka_unit_test(test_entries_have_a_bound),
        cmocka_unit_test(test_object_form_refuses_what_it_cannot_hold),
        cmocka_unit_test(test_settings_precedence),
        cmocka_unit_test(test_settings_errors),
        cmocka_unit_test(test_command_line),
        cmocka_unit_test(test_command_line_errors),
        cmocka_unit_test(test_command_table),
        cmocka_unit_test(test_histogram),
        cmocka_unit_test(test_progress_lines),
        cmocka_unit_test(test_cluster_health),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
