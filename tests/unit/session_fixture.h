/* A session against a router whose operations the test completes, in any order.
 *
 * `t` is what all such tests have; what a test needs besides stands in a struct of its own. A test
 * includes this behind <cmocka.h>, once, and its setup calls session_fixture_begin(). */
#ifndef TESTS_UNIT_SESSION_FIXTURE_H
#define TESTS_UNIT_SESSION_FIXTURE_H

#include <stdio.h>

#include "base/limits.h"
#include "base/slot.h"
#include "node/op.h"
#include "node/server_info.h"
#include "node/session.h"

enum {
    SESSION_FIXTURE_OPS = 4096,
    SESSION_FIXTURE_TEXT = 256 * 1024, /* of what is sent at a time, with the final NUL */
    SHARDS = 8
};

static struct {
    struct session_host host;
    struct session *session;
    struct op *ops[SESSION_FIXTURE_OPS]; /* submitted, in order; NULL once completed */
    unsigned n_ops;
    bool at_once; /* complete with OK inside submit */
    bool resumes; /* what waited for a completed operation goes on at once, not with sent() */
    unsigned wakes;
    uint64_t now_ms;
} t;

/* ---- operations ---- */

/* Lets the commands go on that waited for something. */
static inline void resume(void) {
    while (session_needs_resume(t.session)) {
        session_resume(t.session);
    }
}

static inline void complete(unsigned i, struct result result) {
    assert_true(i < t.n_ops);
    struct op *op = t.ops[i];
    assert_non_null(op);
    t.ops[i] = NULL;
    op->done(op, &result);
    result_free(&result);
    if (t.resumes && t.session != NULL) {
        resume();
    }
}

static inline void complete_ok(unsigned i) {
    complete(i, (struct result){.kind = RESULT_OK});
}

static inline void complete_integer(unsigned i, int64_t integer) {
    complete(i, (struct result){.kind = RESULT_INTEGER, .integer = integer});
}

static inline void complete_error(unsigned i, enum error_code code, const char *text) {
    struct result result = {0};
    result_set_error(&result, code, "%s", text);
    complete(i, result);
}

/* The command of submitted op i, which goes to the shard of its project. */
static inline struct command command_of(unsigned i) {
    struct command command;
    struct error error = {0};
    assert_true(i < t.n_ops && t.ops[i] != NULL);
    if (command_decode(buffer_slice(&t.ops[i]->command), &command, &error) != ERROR_NONE) {
        fail_msg("%s", error.message);
    }
    if (command.kind != COMMAND_PROJECT_LIST) { /* of any shard */
        assert_int_equal(t.ops[i]->shard, slot_shard(slot_of(command.project), SHARDS));
    }
    return command;
}

static inline struct slice arg_of(const struct command *command, unsigned at) {
    struct reader reader = reader_make(command->args);
    struct slice arg = {0};
    assert_true(at < command->n_args);
    for (unsigned i = 0; i <= at; i++) {
        arg = command_next_arg(&reader);
    }
    return arg;
}

/* ---- the session ---- */

static inline void session_fixture_submit(void *data, struct op *op) {
    (void)data;
    assert_true(t.n_ops < SESSION_FIXTURE_OPS);
    t.ops[t.n_ops++] = op;
    if (t.at_once) {
        complete_ok(t.n_ops - 1);
    }
}

static inline uint64_t session_fixture_now_ms(void *data) {
    (void)data;
    return t.now_ms;
}

static inline void session_fixture_wake(void *data) {
    (void)data;
    t.wakes++;
}

static inline struct session *open_session(void) {
    return session_new(&t.host, "127.0.0.1:5000", "127.0.0.1:7102", session_fixture_wake, NULL);
}

static inline struct session_limits session_fixture_limits(unsigned max_pipeline) {
    return (struct session_limits){.n_shards = SHARDS,
                                   .max_value = MIB,
                                   .max_pipeline = max_pipeline,
                                   .max_output = 256 * 1024,
                                   .max_input = 4 * MIB};
}

/* A host without sessions. `port` may lack submit and now_ms, which are the fixture's then. */
static inline void session_fixture_prepare(struct session_limits limits, struct session_port port) {
    memset(&t, 0, sizeof t);
    t.now_ms = 1000;
    port.submit = port.submit != NULL ? port.submit : session_fixture_submit;
    port.now_ms = port.now_ms != NULL ? port.now_ms : session_fixture_now_ms;
    session_host_init(&t.host, &limits, &port);
}

/* The same, with one session. */
static inline void session_fixture_begin(struct session_limits limits, struct session_port port) {
    session_fixture_prepare(limits, port);
    t.session = open_session();
}

/* A teardown: operations outlive their session, and in the end nothing is left. */
static inline int session_fixture_end(void **state) {
    (void)state;
    if (t.session != NULL) {
        session_free(t.session);
        t.session = NULL;
    }
    for (unsigned i = 0; i < t.n_ops; i++) {
        if (t.ops[i] != NULL) {
            complete_ok(i);
        }
    }
    return t.host.n_sessions == 0 && t.host.n_slots == 0 && t.host.input_bytes == 0 ? 0 : -1;
}

static inline void feed_bytes(struct session *session, const void *bytes, size_t size) {
    const uint8_t *from = bytes;
    while (size > 0) {
        assert_true(session_wants_read(session));
        uint8_t *data;
        size_t space;
        session_input_space(session, &data, &space);
        size_t taken = space < size ? space : size;
        memcpy(data, from, taken);
        session_input_filled(session, taken);
        from += taken;
        size -= taken;
    }
}

/* In a turn of its own. */
static inline void feed(const char *text) {
    session_host_begin_turn(&t.host);
    feed_bytes(t.session, text, strlen(text));
}

/* What the session wants to send now; valid until the next call. */
static inline const char *sent_by(struct session *session) {
    static char text[SESSION_FIXTURE_TEXT];
    size_t size = 0;
    struct slice slice;
    while (output_peek(session_output(session), &slice, 1) > 0) {
        assert_true(size + slice.size < sizeof text);
        memcpy(text + size, slice.data, slice.size);
        size += slice.size;
        output_consume(session_output(session), slice.size);
        session_sent(session, slice.size);
    }
    text[size] = '\0';
    return text;
}

static inline const char *sent(void) {
    resume();
    return sent_by(t.session);
}

static inline void assert_reply(const char *input, const char *output) {
    feed(input);
    assert_string_equal(sent(), output);
}

#endif
