#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/prng.h"

static void test_every_code_has_words(void **state) {
    (void)state;
    /* Numbers travel between nodes: they must never change. */
    assert_int_equal(ERROR_NONE, 0);
    assert_int_equal(ERROR_UNCERTAIN, 10);
    assert_int_equal(ERROR_SYNTAX, 18);
    assert_int_equal(ERROR_FORGOTTEN, 20);
    for (int code = 0; code <= 20; code++) {
        assert_true(error_is_known(code));
        assert_true(strlen(error_describe((enum error_code)code)) > 0);
        assert_true(strlen(error_prefix((enum error_code)code)) > 0);
    }
    assert_false(error_is_known(21));
    assert_false(error_is_known(-1));
    assert_string_equal(error_describe((enum error_code)99), "unknown error");
    assert_string_equal(error_prefix((enum error_code)99), "ERR");
    assert_string_equal(error_prefix(ERROR_NOSPACE), "NOSPACE");
    assert_string_equal(error_prefix(ERROR_QUOTA), "QUOTA");
}

static void test_set_and_wrap(void **state) {
    (void)state;
    struct error error = {0};
    assert_int_equal(error_set(&error, ERROR_TOOBIG, "value of %d bytes", 17), ERROR_TOOBIG);
    assert_int_equal(error.code, ERROR_TOOBIG);
    assert_string_equal(error.message, "value of 17 bytes");
    assert_int_equal(error_wrap(&error, "project %s", "p"), ERROR_TOOBIG);
    assert_int_equal(error.code, ERROR_TOOBIG);
    assert_string_equal(error.message, "project p: value of 17 bytes");
    /* The message may be an argument of its own replacement. */
    error_set(&error, ERROR_BUSY, "then: %s", error.message);
    assert_string_equal(error.message, "then: project p: value of 17 bytes");
    assert_int_equal(error_set(NULL, ERROR_BUSY, "nobody reads this"), ERROR_BUSY);
}

static void test_errno_maps_to_codes(void **state) {
    (void)state;
    struct error error = {0};
    assert_int_equal(error_set_errno(&error, ENOSPC, "write %s", "f"), ERROR_NOSPACE);
    assert_string_equal(error.message, "write f: No space left on device");
    assert_int_equal(error_set_errno(&error, EDQUOT, "write"), ERROR_NOSPACE);
    assert_int_equal(error_set_errno(&error, ENOMEM, "map"), ERROR_NOMEM);
    assert_int_equal(error_set_errno(&error, EACCES, "open"), ERROR_IO);
    assert_int_equal(error.code, ERROR_IO);
    assert_string_equal(error.message, "open: Permission denied");
    assert_int_equal(error_set_errno(NULL, ENOSPC, "write"), ERROR_NOSPACE);
}

static void test_long_messages_are_cut(void **state) {
    (void)state;
    char text[2 * ERROR_MESSAGE_SIZE];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    struct error error;
    memset(&error, 0xFF, sizeof error);
    error_set(&error, ERROR_IO, "%s", text);
    assert_int_equal(strlen(error.message), ERROR_MESSAGE_SIZE - 1);
    error_set_errno(&error, EIO, "%s", text);
    assert_int_equal(strlen(error.message), ERROR_MESSAGE_SIZE - 1);
    error_wrap(&error, "ab");
    assert_int_equal(strlen(error.message), ERROR_MESSAGE_SIZE - 1);
    assert_memory_equal(error.message, "ab: xxx", 7);
    error_wrap(&error, "%s", text);
    assert_int_equal(strlen(error.message), ERROR_MESSAGE_SIZE - 1);
}

/* Runs `body` in a child process, checks that it aborts, and returns what it wrote to stderr. The
 * caller frees it. */
static char *output_of_abort(void (*body)(void)) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        /* cmocka catches SIGABRT's kin; the child must die of it, and leave no core file. */
        struct rlimit no_core = {0, 0};
        setrlimit(RLIMIT_CORE, &no_core);
        signal(SIGABRT, SIG_DFL);
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        body();
        _exit(0);
    }
    close(ends[1]);
    struct buffer output = {0};
    for (;;) {
        buffer_reserve(&output, 4096);
        ssize_t size = read(ends[0], output.data + output.size, 4096);
        if (size < 0 && errno == EINTR) {
            continue;
        }
        if (size <= 0) {
            break;
        }
        output.size += (size_t)size;
    }
    close(ends[0]);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    buffer_put_u8(&output, 0);
    return (char *)output.data;
}

static void assert_contains(const char *text, const char *part) {
    if (strstr(text, part) == NULL) {
        fail_msg("expected \"%s\" in:\n%s", part, text);
    }
}

static void assert_lacks(const char *text, const char *part) {
    if (strstr(text, part) != NULL) {
        fail_msg("did not expect \"%s\" in:\n%s", part, text);
    }
}

static void body_failed_assertion(void) {
    for (uint64_t i = 0; i < 40; i++) {
        assert_note("step", i, 1000 + i);
    }
    int two = 2;
    ASSERT(two + two == 5);
}

static void test_failed_assertion_explains_itself(void **state) {
    (void)state;
    char *output = output_of_abort(body_failed_assertion);
    assert_contains(output, "assertion failed: two + two == 5");
    assert_contains(output, "test_error.c:");
    assert_contains(output, "body_failed_assertion");
    /* The last 32 of 40 notes, oldest first. */
    assert_lacks(output, "step 7 1007\n");
    assert_contains(output, "step 8 1008\n");
    assert_contains(output, "step 39 1039\n");
    assert_true(strstr(output, "step 8 1008\n") < strstr(output, "step 39 1039\n"));
    assert_contains(output, "backtrace:\n");
    /* At least one frame follows. */
    assert_contains(strstr(output, "backtrace:\n"), "[0x");
    mem_free(output);
}

static void body_fatal(void) {
    assert_note("fsync", 3, 5);
    assert_fatal("fsync of %s failed", "segment-1");
}

static void test_fatal_prints_message_and_notes(void **state) {
    (void)state;
    char *output = output_of_abort(body_fatal);
    assert_contains(output, "fatal: fsync of segment-1 failed\n");
    assert_contains(output, "fsync 3 5\n");
    mem_free(output);
}

static void body_overflow(void) {
    mem_free(mem_zalloc(SIZE_MAX / 2, 3));
}

static void body_reader_behind_buffer(void) {
    struct buffer buffer = {0};
    buffer_put_u8(&buffer, 1);
    buffer_consume(&buffer, 2);
}

static void body_prng_without_bound(void) {
    struct prng prng;
    prng_seed(&prng, 1);
    prng_below(&prng, 0);
}

static void test_broken_promises_abort(void **state) {
    (void)state;
    static void (*const bodies[])(void) = {body_overflow, body_reader_behind_buffer,
                                           body_prng_without_bound};
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        char *output = output_of_abort(bodies[i]);
        assert_contains(output, "assertion failed: ");
        mem_free(output);
    }
}

static void test_true_assertion_goes_on(void **state) {
    (void)state;
    int evaluated = 0;
    ASSERT(++evaluated == 1);
    assert_int_equal(evaluated, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_code_has_words),
        cmocka_unit_test(test_set_and_wrap),
        cmocka_unit_test(test_errno_maps_to_codes),
        cmocka_unit_test(test_long_messages_are_cut),
        cmocka_unit_test(test_failed_assertion_explains_itself),
        cmocka_unit_test(test_fatal_prints_message_and_notes),
        cmocka_unit_test(test_broken_promises_abort),
        cmocka_unit_test(test_true_assertion_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
