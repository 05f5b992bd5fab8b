/* What a project may be called. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/limits.h"
#include "base/mem.h"
#include "node/machine/project_name.h"

static struct error error;

/* Checks a copy of the exact size, so that reading past it shows under the address sanitizer. */
static enum error_code check(const char *bytes, size_t size) {
    uint8_t *copy = mem_dup(bytes, size);
    enum error_code code = project_name_check(slice_make(copy, size), &error);
    mem_free(copy);
    return code;
}

#define CHECK(literal) check(literal, sizeof(literal) - 1)

static void test_names_of_any_language_are_good(void **state) {
    (void)state;
    assert_int_equal(CHECK("p"), ERROR_NONE);
    assert_int_equal(CHECK("4be0643f-1d98-573b-97cd-ca98a65347dd"), ERROR_NONE);
    assert_int_equal(CHECK(" with blanks "), ERROR_NONE);
    assert_int_equal(CHECK("\xc3\xa4\xe6\xbc\xa2\xf0\x9f\x8c\x8d"), ERROR_NONE);
    assert_int_equal(CHECK("\xc2\xa0\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf"),
                     ERROR_NONE);
    assert_int_equal(CHECK("\xf0\x90\x80\x80\xf4\x8f\xbf\xbf"), ERROR_NONE);
}

static void test_what_is_not_utf_8_is_refused(void **state) {
    (void)state;
    static const char *const bad[] = {
        "\x80",             /* nothing that it continues */
        "\xc3",             /* cut */
        "\xc3(",            /* not continued */
        "\xe6\xbc",         /* cut */
        "\xe6\xbc(",        /* not continued */
        "\xf0\x9f\x8c",     /* cut */
        "\xf0\x9f\x8c(",    /* not continued */
        "\xc0\x80",         /* overlong */
        "\xc1\xbf",         /* overlong */
        "\xe0\x9f\xbf",     /* overlong */
        "\xf0\x8f\xbf\xbf", /* overlong */
        "\xed\xa0\x80",     /* a surrogate */
        "\xed\xbf\xbf",     /* a surrogate */
        "\xf4\x90\x80\x80", /* beyond the last character */
        "\xf5\x80\x80\x80",
        "\xff",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(check(bad[i], strlen(bad[i])), ERROR_INVALID);
        assert_string_equal(error.message, "project name is not UTF-8 at byte 1");
    }
    assert_int_equal(CHECK("ab\xff"), ERROR_INVALID);
    assert_string_equal(error.message, "project name is not UTF-8 at byte 3");
}

static void test_control_characters_are_refused(void **state) {
    (void)state;
    for (unsigned c = 0; c < 0x20; c++) {
        char byte = (char)c;
        assert_int_equal(check(&byte, 1), ERROR_INVALID);
    }
    assert_int_equal(CHECK("a\x7f"), ERROR_INVALID);
    assert_string_equal(error.message, "project name holds a control character at byte 2");
    assert_int_equal(CHECK("\xc2\x80"), ERROR_INVALID);
    assert_int_equal(CHECK("\xc2\x9f"), ERROR_INVALID);
    assert_int_equal(CHECK(""), ERROR_INVALID);
}

static void test_characters_are_counted_not_bytes(void **state) {
    (void)state;
    char name[4 * (LIMIT_PROJECT_CHARACTERS + 1) + 1];
    for (size_t i = 0; i <= LIMIT_PROJECT_CHARACTERS; i++) {
        memcpy(name + 4 * i, "\xf0\x9f\x8c\x8d", 5);
    }
    assert_int_equal(check(name, (size_t)LIMIT_PROJECT_NAME), ERROR_NONE);
    assert_int_equal(check(name, (size_t)LIMIT_PROJECT_NAME + 4), ERROR_TOOBIG);
    assert_string_equal(error.message, "project name of 516 bytes has more than 128 characters");
    memset(name, 'p', sizeof name);
    assert_int_equal(check(name, LIMIT_PROJECT_CHARACTERS), ERROR_NONE);
    assert_int_equal(check(name, LIMIT_PROJECT_CHARACTERS + 1), ERROR_TOOBIG);
}

static void test_a_label_is_cut_behind_a_character(void **state) {
    (void)state;
    assert_string_equal(project_label(slice_of("shop")).text, "shop");
    assert_string_equal(project_label((struct slice){0}).text, "");
    char name[LIMIT_PROJECT_NAME + 1];
    memset(name, 'p', 128);
    assert_int_equal(strlen(project_label(slice_make(name, 128)).text), 128);
    for (size_t i = 0; i < LIMIT_PROJECT_CHARACTERS; i++) {
        memcpy(name + 1 + 4 * i, "\xf0\x9f\x8c\x8d", i + 1 < LIMIT_PROJECT_CHARACTERS ? 4 : 3);
    }
    struct project_label label = project_label(slice_make(name, sizeof name - 4));
    assert_int_equal(strlen(label.text), 125 + 3);
    assert_string_equal(label.text + 121, "\xf0\x9f\x8c\x8d...");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_of_any_language_are_good),
        cmocka_unit_test(test_what_is_not_utf_8_is_refused),
        cmocka_unit_test(test_control_characters_are_refused),
        cmocka_unit_test(test_characters_are_counted_not_bytes),
        cmocka_unit_test(test_a_label_is_cut_behind_a_character),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
