/* The command table, glob patterns, strict integers and the chunked output. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ctype.h>
#include <stdio.h>

#include "base/glob.h"
#include "base/mem.h"
#include "base/number.h"
#include "node/output.h"
#include "node/resp_commands.h"

static void test_table_is_sorted_and_complete(void **state) {
    (void)state;
    unsigned count;
    const struct verb *verbs = verb_table(&count);
    assert_true(count >= 19);
    for (unsigned i = 0; i < count; i++) {
        const struct verb *verb = &verbs[i];
        assert_true(i == 0 || strcmp(verbs[i - 1].name, verb->name) < 0);
        assert_ptr_equal(verb_find(slice_of(verb->name)), verb);
        assert_true(strlen(verb->summary) > 0 && strlen(verb->group) > 0);
        assert_true(verb->handler != NULL || (verb->subcommands != NULL && verb->arity < -1));
        /* What takes keys reads or writes, never both. */
        bool reads = (verb->flags & VERB_READONLY) != 0, writes = (verb->flags & VERB_WRITE) != 0;
        assert_false(reads && writes);
        assert_true(verb->first_key == 0 || reads || writes);
        for (unsigned j = 0; j < verb->n_subcommands; j++) {
            assert_non_null(verb->subcommands[j].handler);
            assert_ptr_equal(verb_find_subcommand(verb, slice_of(verb->subcommands[j].name)),
                             &verb->subcommands[j]);
        }
    }
}

static void test_lookup(void **state) {
    (void)state;
    assert_string_equal(verb_find(slice_of("GeT"))->name, "get");
    assert_null(verb_find(slice_of("ge")));
    assert_null(verb_find(slice_of("gets")));
    assert_null(verb_find(slice_of("")));
    assert_null(verb_find(slice_make("get\0", 4)));
    assert_null(verb_find(slice_of("zzz")));
    assert_null(verb_find_subcommand(verb_find(slice_of("client")), slice_of("kill")));
    assert_true(verb_accepts(verb_find(slice_of("get")), 2));
    assert_false(verb_accepts(verb_find(slice_of("get")), 3));
    assert_true(verb_accepts(verb_find(slice_of("del")), 9));
    assert_false(verb_accepts(verb_find(slice_of("del")), 1));
}

static void test_integers(void **state) {
    (void)state;
    int64_t number;
    const struct {
        const char *text;
        int64_t value;
    } good[] = {{"0", 0},
                {"7", 7},
                {"-1", -1},
                {"9223372036854775807", INT64_MAX},
                {"-9223372036854775808", INT64_MIN}};
    for (unsigned i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_true(number_parse_integer(slice_of(good[i].text), &number));
        assert_int_equal(number, good[i].value);
    }
    const char *bad[] = {"",
                         "-",
                         "+1",
                         "01",
                         "-0",
                         " 1",
                         "1 ",
                         "1x",
                         "0x1",
                         "1.0",
                         "--1",
                         "9223372036854775808",
                         "-9223372036854775809",
                         "111111111111111111111"};
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(number_parse_integer(slice_of(bad[i]), &number));
    }
}

static bool matches(const char *pattern, const char *text) {
    return glob_match(slice_of(pattern), slice_of(text), false);
}

static void test_globs(void **state) {
    (void)state;
    assert_true(matches("*", ""));
    assert_true(matches("", ""));
    assert_false(matches("", "a"));
    assert_true(matches("s*e", "save"));
    assert_false(matches("s*e", "saved"));
    assert_true(matches("**a**", "bab"));
    assert_true(matches("a?c", "abc"));
    assert_false(matches("a?c", "ac"));
    assert_true(matches("[a-c]x", "bx"));
    assert_true(matches("[c-a]x", "bx"));
    assert_false(matches("[^a-c]x", "bx"));
    assert_true(matches("[\\]]", "]"));
    assert_true(matches("\\*", "*"));
    assert_false(matches("\\*", "a"));
    assert_true(matches("[abc", "c"));
    assert_true(matches("a\\", "a\\"));
    assert_false(matches("ABC", "abc"));
    assert_true(glob_match(slice_of("A[B-C]*"), slice_of("abXX"), true));
    /* Many stars against a text that almost matches: must not take exponential time. */
    char text[2001];
    memset(text, 'a', 2000);
    text[2000] = '\0';
    assert_false(matches("*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b", text));
}

static size_t drain(struct output *output, char *text, size_t step) {
    size_t total = 0;
    struct slice slices[3];
    unsigned n;
    while ((n = output_peek(output, slices, 3)) > 0) {
        size_t taken = 0;
        for (unsigned i = 0; i < n && taken < step; i++) {
            size_t size = slices[i].size < step - taken ? slices[i].size : step - taken;
            memcpy(text + total, slices[i].data, size);
            total += size;
            taken += size;
        }
        output_consume(output, taken);
    }
    return total;
}

static void test_output_keeps_order(void **state) {
    (void)state;
    static char expected[400000], got[400000];
    for (size_t step = 1; step < 100000; step = step * 7 + 1) {
        struct output output = {0}, other = {0};
        size_t size = 0;
        for (unsigned i = 0; i < 60; i++) {
            struct buffer piece = {0};
            size_t piece_size = (i * 7919) % (i % 10 == 9 ? 30000 : 900);
            for (size_t j = 0; j < piece_size; j++) {
                buffer_put_u8(&piece, (uint8_t)('a' + (i + j) % 26));
            }
            assert_true(size + piece_size <= sizeof expected);
            if (piece_size > 0) {
                memcpy(expected + size, piece.data, piece_size);
            }
            size += piece_size;
            output_move(i < 30 ? &output : &other, &piece);
            assert_null(piece.data);
        }
        output_append(&output, &other);
        assert_true(output_is_empty(&other));
        assert_int_equal(output_size(&output), size);
        assert_int_equal(drain(&output, got, step), size);
        assert_memory_equal(expected, got, size);
        assert_true(output_is_empty(&output));
        output_free(&output);
    }
}

static void test_large_buffers_are_not_copied(void **state) {
    (void)state;
    struct output output = {0};
    struct buffer big = {0};
    buffer_reserve(&big, 100000);
    big.size = 100000;
    memset(big.data, 'x', big.size);
    const uint8_t *memory = big.data;
    output_move(&output, &big);
    struct slice slice;
    assert_int_equal(output_peek(&output, &slice, 1), 1);
    assert_ptr_equal(slice.data, memory);
    /* What follows does not make that chunk move. */
    buffer_append(output_tail(&output), "tail", 4);
    assert_int_equal(output_peek(&output, &slice, 1), 1);
    assert_ptr_equal(slice.data, memory);
    output_free(&output);
}

/* docs/commands.md lists every verb in a row "| `NAME syntax` | summary | ...". */

static char *read_page(void) {
    FILE *file = fopen(SOURCE_DIR "/docs/commands.md", "r");
    assert_non_null(file);
    struct buffer text = {0};
    char piece[4096];
    size_t size;
    while ((size = fread(piece, 1, sizeof piece, file)) > 0) {
        buffer_append(&text, piece, size);
    }
    fclose(file);
    buffer_put_u8(&text, 0);
    return (char *)text.data;
}

static void put_upper(struct buffer *out, const char *text) {
    for (; *text != '\0'; text++) {
        buffer_put_u8(out, (uint8_t)toupper((unsigned char)*text));
    }
}

/* Checks the row of one verb. */
static void check_row(const char *page, const struct verb *container, const struct verb *verb) {
    struct buffer row = {0};
    buffer_append_slice(&row, slice_of("\n| `"));
    if (container != NULL) {
        put_upper(&row, container->name);
        buffer_put_u8(&row, ' ');
    }
    put_upper(&row, verb->name);
    if (verb->syntax[0] != '\0') {
        buffer_put_u8(&row, ' ');
    }
    for (const char *c = verb->syntax; *c != '\0'; c++) {
        /* A bar would end the cell. */
        buffer_append(&row, "\\", *c == '|');
        buffer_put_u8(&row, (uint8_t)*c);
    }
    buffer_append_slice(&row, slice_of("` | "));
    buffer_append_slice(&row, slice_of(verb->summary));
    buffer_append(&row, " | ", 4);
    if (strstr(page, (const char *)row.data) == NULL) {
        fail_msg("docs/commands.md lacks the row:%s", (const char *)row.data);
    }
    buffer_free(&row);
}

static void test_the_page_lists_every_command(void **state) {
    (void)state;
    char *page = read_page();
    unsigned count;
    unsigned listed = 0;
    const struct verb *verbs = verb_table(&count);
    unsigned expected = count;
    for (unsigned i = 0; i < count; i++) {
        check_row(page, NULL, &verbs[i]);
        for (unsigned j = 0; j < verbs[i].n_subcommands; j++) {
            check_row(page, &verbs[i], &verbs[i].subcommands[j]);
        }
        expected += verbs[i].n_subcommands;
    }
    for (const char *row = page; (row = strstr(row, "\n| `")) != NULL; row++) {
        listed++;
    }
    assert_int_equal(listed, expected); /* and none that is no more */
    mem_free(page);
}

static void test_floats(void **state) {
    (void)state;
    long double number;
    assert_true(number_parse_float(slice_of("-1.5e3"), &number) && number == -1500);
    assert_true(number_parse_float(slice_of("0x10"), &number) && number == 16);
    assert_true(number_parse_float(slice_of("inf"), &number));
    const char *bad[] = {"", " 1", "1 ", "x", "nan", "1e99999", "1e-99999", "1.5.5", "--1"};
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(number_parse_float(slice_of(bad[i]), &number));
    }
    assert_false(number_parse_float(slice_make("1\0", 2), &number));
    static char longest[5 * 1024];
    memset(longest, '0', sizeof longest);
    assert_false(number_parse_float(slice_make(longest, sizeof longest), &number));
    assert_true(number_parse_float(slice_make(longest, sizeof longest - 1), &number));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table_is_sorted_and_complete),
        cmocka_unit_test(test_lookup),
        cmocka_unit_test(test_integers),
        cmocka_unit_test(test_globs),
        cmocka_unit_test(test_the_page_lists_every_command),
        cmocka_unit_test(test_floats),
        cmocka_unit_test(test_output_keeps_order),
        cmocka_unit_test(test_large_buffers_are_not_copied),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
