/* Reading histories: what is not in the format is refused, with a reason. */
#include <unistd.h>

#include "tests/unit/check_fixture.h"

#define HEAD "\"t\":5,\"w\":\"register\",\"c\":1,\"n\":1"
#define INVOKE "{" HEAD ",\"e\":\"invoke\",\"op\":\"set\",\"k\":\"r\",\"v\":\"a\"}"

static void test_fields(void **state) {
    struct writer w = writer_make("register");
    (void)state;
    writer_line(&w,
                "{ \"t\" : 5 ,\"w\":\"cas\",\"c\":1,\"n\":9,\"e\":\"invoke\",\"op\":\"casver\","
                "\"k\":\"k\\u00e4\",\"p\":3,\"v\":\"b\",\"old\":null,\"ver\":0,\"node\":\"n\"}");
    writer_line(&w, "{\"t\":7,\"w\":\"cas\",\"c\":1,\"n\":9,\"e\":\"ok\",\"v\":1}");
    const struct op *op = &w.history.ops[0];
    assert_int_equal(w.history.n, 1);
    assert_int_equal(op->kind, OP_CASVER);
    assert_int_equal(op->start, 5);
    assert_int_equal(op->end, 7);
    assert_int_equal(op->project, 3);
    assert_int_equal(op->line, 1);
    assert_int_equal(op->outcome, OUTCOME_OK);
    assert_true(op->old_is_nil);
    assert_int_equal(op->out.integer, 1);
    assert_true(slice_equal(texts_get(&w.history.texts, op->key), slice_of("k\xc3\xa4")));
    writer_free(&w);
}

/* An operation that never ended is unknown. */
static void test_open_operation(void **state) {
    struct writer w = writer_make("register");
    (void)state;
    writer_line(&w, INVOKE);
    assert_int_equal(w.history.ops[0].outcome, OUTCOME_UNKNOWN);
    assert_true(w.history.ops[0].end == TIME_NEVER);
    writer_free(&w);
}

static void test_refused(void **state) {
    static const struct {
        const char *line;
        const char *reason;
    } cases[] = {
        {"", "ends too early"},
        {"[]", "object"},
        {"{}", "expected a string"},
        {"{" HEAD "}", "\"e\" is missing"},
        {"{" HEAD ",\"e\":\"perhaps\"}", "\"e\" must be"},
        {"{" HEAD ",\"e\":\"invoke\"}", "\"op\" is missing"},
        {"{" HEAD ",\"e\":\"invoke\",\"op\":\"jump\"}", "\"op\" must be"},
        {"{" HEAD ",\"e\":\"invoke\",\"op\":\"set\",\"t\":6}", "comes twice"},
        {"{" HEAD ",\"e\":\"invoke\",\"op\":\"set\",\"x\":6}", "unknown field"},
        {"{" HEAD ",\"e\":\"invoke\",\"op\":\"set\",\"k\":6}", "\"k\" must be"},
        {"{" HEAD ",\"e\":\"invoke\",\"op\":\"set\",\"v\":1.5}", "\"v\" must be"},
        {"{" HEAD ",\"e\":\"invoke\",\"op\":\"set\",\"v\":[1,\"a\"]}", "\"v\" must be"},
        {"{" HEAD ",\"e\":\"invoke\",\"op\":\"set\",\"v\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,"
         "17]}",
         "\"v\" must be"},
        {"{" HEAD ",\"e\":\"invoke\",\"op\":\"set\",\"ttl\":1,\"ver\":1}", "at most one of"},
        {"{" HEAD ",\"e\":\"ok\"}", "operation 1 is not under way"},
        {INVOKE "x", "follows"},
        {"{\"t\":-5,\"w\":\"register\",\"c\":1,\"n\":1,\"e\":\"ok\"}", "\"t\" must be"},
        {"{\"t\":5,\"w\":\"other\",\"c\":1,\"n\":1,\"e\":\"ok\"}", "\"w\" must be"},
        {"{\"t\":5,\"w\":\"register\",\"c\":\"1\",\"n\":1,\"e\":\"ok\"}", "\"c\" must be"},
        {"{\"t\":5,\"w\":\"register\",\"c\":1,\"n\":0,\"e\":\"invoke\",\"op\":\"set\"}",
         "is there already"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct history history = {0};
        struct error error = {0};
        assert_int_equal(history_add_line(&history, slice_of(cases[i].line), &error), ERROR_SYNTAX);
        if (strstr(error.message, cases[i].reason) == NULL) {
            fail_msg("%s: %s", cases[i].line, error.message);
        }
        history_free(&history);
    }
}

static void test_refused_completions(void **state) {
    static const struct {
        const char *line;
        const char *reason;
    } cases[] = {
        {INVOKE, "is there already"},
        {"{\"t\":6,\"w\":\"register\",\"c\":2,\"n\":1,\"e\":\"ok\"}", "another client"},
        {"{\"t\":6,\"w\":\"cas\",\"c\":1,\"n\":1,\"e\":\"ok\"}", "another client"},
        {"{\"t\":4,\"w\":\"register\",\"c\":1,\"n\":1,\"e\":\"ok\"}", "ends before it begins"},
        {"{\"t\":6,\"w\":\"register\",\"c\":1,\"n\":2,\"e\":\"ok\"}", "not under way"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct history history = {0};
        struct error error = {0};
        assert_int_equal(history_add_line(&history, slice_of(INVOKE), &error), ERROR_NONE);
        assert_int_equal(history_add_line(&history, slice_of(cases[i].line), &error), ERROR_SYNTAX);
        assert_non_null(strstr(error.message, cases[i].reason));
        history_free(&history);
    }
}

static void read_file(const char *text, size_t size, enum error_code expected, const char *reason) {
    char path[] = "/tmp/check-history-XXXXXX";
    struct history history = {0};
    struct error error = {0};
    int file = mkstemp(path);
    assert_true(file >= 0 && write(file, text, size) == (ssize_t)size && close(file) == 0);
    enum error_code code = history_read(&history, path, WORKLOADS, &error);
    if (code != expected || (reason != NULL && strstr(error.message, reason) == NULL)) {
        fail_msg("code %d: %s", (int)code, error.message);
    }
    history_free(&history);
    (void)unlink(path);
}

static void test_files(void **state) {
    static const char good[] = INVOKE "\n{" HEAD ",\"e\":\"ok\"}\n";
    static const char bad[] = INVOKE "\n{" HEAD ",\"e\":\"ok\"\n";
    static char large[70000];
    (void)state;
    read_file("", 0, ERROR_NONE, NULL);
    read_file(good, sizeof good - 1, ERROR_NONE, NULL);
    read_file(bad, sizeof bad - 1, ERROR_SYNTAX, ": line 2: it ends too early");
    read_file(good, sizeof good - 2, ERROR_SYNTAX, ": line 2: the line is cut off");
    memset(large, ' ', sizeof large);
    memcpy(large, INVOKE "\n", sizeof INVOKE);
    read_file(large, sizeof large, ERROR_SYNTAX, ": line 2: longer than 65536 bytes");
}

static void test_memory_bound(void **state) {
    struct history history = {.memory_max = 1};
    struct error error = {0};
    (void)state;
    assert_int_equal(history_add_line(&history, slice_of(INVOKE), &error), ERROR_TOOBIG);
    history_free(&history);
}

/* Well-formed, and still nothing that the workload does. */
static void test_shapes(void **state) {
    static const char *const lines[] = {
        "{" HEAD ",\"e\":\"invoke\",\"op\":\"add\",\"k\":\"r\",\"v\":1}",
        "{" HEAD ",\"e\":\"invoke\",\"op\":\"set\",\"v\":\"a\"}",
        "{" HEAD ",\"e\":\"invoke\",\"op\":\"set\",\"k\":\"r\",\"v\":1}",
        "{\"t\":5,\"w\":\"cas\",\"c\":1,\"n\":1,\"e\":\"invoke\",\"op\":\"cas\",\"k\":\"r\",\"v\":"
        "\"a\"}",
        "{\"t\":5,\"w\":\"clear\",\"c\":1,\"n\":1,\"e\":\"invoke\",\"op\":\"set\",\"k\":\"k16\","
        "\"v\":\"a\"}",
        "{\"t\":5,\"w\":\"bank\",\"c\":1,\"n\":1,\"e\":\"invoke\",\"op\":\"transfer\",\"k\":\"k1\","
        "\"to\":\"x\"}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        struct history history = {0};
        struct error error = {0};
        struct report report;
        struct check_options options = check_options_default();
        assert_int_equal(history_add_line(&history, slice_of(lines[i]), &error), ERROR_NONE);
        enum workload workload = (enum workload)history.ops[0].workload;
        assert_int_equal(check_workload(&history, workload, &options, &report, &error),
                         ERROR_SYNTAX);
        assert_non_null(strstr(error.message, "line 1: "));
        report_free(&report);
        history_free(&history);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),  cmocka_unit_test(test_open_operation),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_refused_completions),
        cmocka_unit_test(test_files),   cmocka_unit_test(test_memory_bound),
        cmocka_unit_test(test_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
