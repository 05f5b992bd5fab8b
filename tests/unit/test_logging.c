#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "node/logging.h"

/* 2026-01-31T12:00:00.123Z */
#define WHEN UINT64_C(1769860800123)
#define HEAD "time=2026-01-31T12:00:00.123Z level=info event="

static char line[SAY_LINE_SIZE];

#define FORMAT(...) (line[say_format(line, sizeof line - 1, WHEN, SAY_INFO, __VA_ARGS__)] = '\0')

static void test_plain_fields(void **state) {
    (void)state;
    FORMAT("started", "node=%u term=%lu delta=%lld size=%zu part=%x", 3u, 7ul, -5ll, (size_t)9,
           255u);
    assert_string_equal(line, HEAD "started node=3 term=7 delta=-5 size=9 part=ff\n");
    FORMAT("role changed", NULL);
    assert_string_equal(line, HEAD "\"role changed\"\n");
}

static void test_values_made_of_several_parts(void **state) {
    (void)state;
    FORMAT("listening", "address=%s:%d share=%.1f%% name=%.*s pad=%04d", "::1", 7101, 12.34, 3,
           "abcdef", 7);
    assert_string_equal(line, HEAD "listening address=::1:7101 share=12.3% name=abc pad=0007\n");
}

static void test_a_value_cannot_forge_a_line(void **state) {
    (void)state;
    FORMAT("refused", "name=%s other=%d", "a b\nlevel=error \"x\"\\\x01\x7f", 1);
    assert_string_equal(line, HEAD "refused name=\"a b\\nlevel=error \\\"x\\\"\\\\\\x01\\x7f\" "
                                   "other=1\n");
    FORMAT("refused", "name=%s", "");
    assert_string_equal(line, HEAD "refused name=\"\"\n");
}

static void test_long_lines_are_cut_and_end(void **state) {
    (void)state;
    char big[3 * SAY_LINE_SIZE];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    size_t size = say_format(line, sizeof line, WHEN, SAY_ERROR, "big", "a=%s b=%s", big, big);
    assert_int_equal(size, sizeof line);
    assert_int_equal(line[size - 1], '\n');
    assert_null(memchr(line, '\n', size - 1));
}

static void test_levels(void **state) {
    (void)state;
    enum say_level level = SAY_ERROR;
    assert_true(say_level_parse(slice_of("Debug"), &level));
    assert_int_equal(level, SAY_DEBUG);
    assert_false(say_level_parse(slice_of("verbose"), &level));
    assert_string_equal(say_level_name(SAY_WARN), "warn");

    int pipe_fds[2];
    assert_int_equal(pipe(pipe_fds), 0);
    say_set_descriptor(pipe_fds[1]);
    say_set_level(SAY_WARN);
    int evaluated = 0;
    say_info("dropped", "n=%d", ++evaluated);
    assert_int_equal(evaluated, 0);
    errno = ENOENT;
    say_warn("kept", "n=%d", 1);
    assert_int_equal(errno, ENOENT);
    say_set_level(SAY_INFO);
    say_set_descriptor(STDERR_FILENO);
    close(pipe_fds[1]);
    char text[512];
    ssize_t size = read(pipe_fds[0], text, sizeof text - 1);
    assert_true(size > 0);
    text[size] = '\0';
    assert_non_null(strstr(text, "level=warn event=kept n=1\n"));
    assert_null(strstr(text, "dropped"));
    close(pipe_fds[0]);
}

enum { THREADS = 4, LINES = 200 };

static void *writer(void *argument) {
    for (int i = 0; i < LINES; i++) {
        say_info("tick", "thread=%d line=%d", *(int *)argument, i);
    }
    return NULL;
}

static void test_lines_of_threads_do_not_mix(void **state) {
    (void)state;
    FILE *file = tmpfile();
    assert_non_null(file);
    /* With O_APPEND-less files concurrent writes share one offset, as on a terminal or pipe. */
    say_set_descriptor(fileno(file));
    pthread_t threads[THREADS];
    int numbers[THREADS];
    for (int i = 0; i < THREADS; i++) {
        numbers[i] = i;
        assert_int_equal(pthread_create(&threads[i], NULL, writer, &numbers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    say_set_descriptor(STDERR_FILENO);
    rewind(file);
    int next[THREADS] = {0};
    char text[512];
    while (fgets(text, sizeof text, file) != NULL) {
        int thread, number;
        const char *fields = strstr(text, " event=tick thread=");
        assert_non_null(fields);
        assert_int_equal(sscanf(fields, " event=tick thread=%d line=%d\n", &thread, &number), 2);
        assert_int_equal(number, next[thread]++);
    }
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(next[i], LINES);
    }
    fclose(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_fields),
        cmocka_unit_test(test_values_made_of_several_parts),
        cmocka_unit_test(test_a_value_cannot_forge_a_line),
        cmocka_unit_test(test_long_lines_are_cut_and_end),
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_lines_of_threads_do_not_mix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
