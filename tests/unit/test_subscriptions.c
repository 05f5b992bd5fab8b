/* Subscriptions of a session: what Redis clients see, and what keeps them bounded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "base/limits.h"
#include "base/mem.h"
#include "node/feed.h"
#include "node/machine/projects.h"
#include "node/op.h"
#include "node/server_info.h"
#include "node/session.h"
#include "node/session_state.h"
#include "node/subscriptions.h"

enum { HISTORY = 256 * 1024, TEXT = 512 * 1024 };

static struct {
    struct session_host host;
    struct session *session;
    struct feed *feed;
    struct projects projects;
    struct machine_events events;
    uint64_t index;
    struct op *op; /* submitted and not completed */
    uint64_t now_ms;
    bool blank; /* the node waits to be added */
    unsigned wakes;
    char text[TEXT];
} t;

static void fake_submit(void *data, struct op *op) {
    (void)data;
    assert_null(t.op);
    t.op = op;
}

static void complete_nil(void) {
    struct op *op = t.op;
    struct result result = {.kind = RESULT_NIL};
    t.op = NULL;
    op->done(op, &result);
}

static void complete_refused(void) {
    struct op *op = t.op;
    struct result result = {0};
    result_set_error(&result, ERROR_NOAUTH, "revoked");
    t.op = NULL;
    op->done(op, &result);
    result_free(&result);
}

static uint64_t fake_now_ms(void *data) {
    (void)data;
    return t.now_ms;
}

static bool fake_replica_is_whole(void *data, unsigned shard) {
    (void)data;
    assert_int_equal(shard, 0);
    return !t.blank;
}

static void on_wake(void *data) {
    (void)data;
    t.wakes++;
}

static void open_host(size_t history) {
    const struct session_limits limits = {.n_shards = 1,
                                          .max_value = MIB,
                                          .max_pipeline = 16,
                                          .max_output = 8 * MIB,
                                          .max_input = 4 * MIB};
    t.feed = feed_new(1, history);
    const struct session_port port = {.submit = fake_submit,
                                      .now_ms = fake_now_ms,
                                      .feed = t.feed,
                                      .replica_is_whole = fake_replica_is_whole};
    session_host_init(&t.host, &limits, &port);
    t.session = session_new(&t.host, "127.0.0.1:5000", "127.0.0.1:7101", on_wake, NULL);
}

static int setup(void **state) {
    (void)state;
    memset(&t, 0, sizeof t);
    t.now_ms = 1000;
    t.events.limit_bytes = HISTORY;
    open_host(HISTORY);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    session_free(t.session);
    feed_free(t.feed);
    projects_free(&t.projects);
    machine_events_free(&t.events);
    return t.host.reply_bytes == 0 && t.host.input_bytes == 0 ? 0 : -1;
}

static void feed_text(const char *text) {
    size_t size = strlen(text);
    while (size > 0) {
        uint8_t *data;
        size_t space;
        assert_true(session_wants_read(t.session));
        session_input_space(t.session, &data, &space);
        size_t taken = space < size ? space : size;
        memcpy(data, text, taken);
        session_input_filled(t.session, taken);
        text += taken;
        size -= taken;
    }
}

/* Everything that the session has to send, with "\r\n" as spaces. */
static const char *sent(void) {
    size_t size = 0;
    struct slice slice;
    while (output_peek(session_output(t.session), &slice, 1) > 0) {
        for (size_t i = 0; i < slice.size; i++) {
            assert_true(size + 1 < TEXT);
            if (slice.data[i] != '\r') {
                t.text[size++] = slice.data[i] == '\n' ? ' ' : (char)slice.data[i];
            }
        }
        size_t taken = slice.size;
        output_consume(session_output(t.session), taken);
        session_sent(t.session, taken);
    }
    t.text[size] = '\0';
    return t.text;
}

static void assert_reply(const char *input, const char *output) {
    feed_text(input);
    assert_string_equal(sent(), output);
}

static void record(const char *name, enum machine_event_kind kind, const char *key) {
    struct project *project = projects_find(&t.projects, slice_of(name));
    if (project == NULL) {
        project = projects_add(&t.projects, slice_of(name), t.projects.count + 1);
    }
    machine_event_record(&t.events, project, kind, slice_of(key));
}

static void hand_over(void) {
    feed_applied(t.feed, 0, &t.events, t.index);
    machine_events_free(&t.events);
    t.events = (struct machine_events){.limit_bytes = HISTORY};
}

static void happen(enum machine_event_kind kind, const char *key) {
    t.events.index = ++t.index;
    record("default", kind, key);
    hand_over();
}

static void test_subscribe(void **state) {
    (void)state;
    assert_reply("SUBSCRIBE __keyspace@0__:a news\r\n",
                 "*3 $9 subscribe $16 __keyspace@0__:a :1 *3 $9 subscribe $4 news :2 ");
    assert_reply("SUBSCRIBE news\r\n", "*3 $9 subscribe $4 news :2 ");
    assert_reply("PSUBSCRIBE __keyspace@0__:*\r\n", "*3 $10 psubscribe $16 __keyspace@0__:* :3 ");
    happen(MACHINE_EVENT_SET, "a");
    assert_int_equal(t.wakes, 2);
    assert_string_equal(sent(), "*3 $7 message $16 __keyspace@0__:a $3 set "
                                "*4 $8 pmessage $16 __keyspace@0__:* $16 __keyspace@0__:a $3 set ");
    happen(MACHINE_EVENT_EXPIRED, "b");
    assert_string_equal(sent(),
                        "*4 $8 pmessage $16 __keyspace@0__:* $16 __keyspace@0__:b $7 expired ");
    happen(MACHINE_EVENT_CLEAR, "");
    assert_string_equal(sent(),
                        "*4 $8 pmessage $16 __keyspace@0__:* $15 __keyspace@0__: $5 clear ");
    feed_text("CLIENT LIST\r\n");
    assert_reply(
        "UNSUBSCRIBE other\r\n",
        "-ERR Can't execute 'client': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT "
        "/ RESET are allowed in this context *3 $11 unsubscribe $5 other :3 ");
    assert_reply("UNSUBSCRIBE\r\n", "*3 $11 unsubscribe $16 __keyspace@0__:a :2 "
                                    "*3 $11 unsubscribe $4 news :1 ");
    assert_reply("UNSUBSCRIBE\r\n", "*3 $11 unsubscribe $-1 :1 ");
    assert_reply("PUNSUBSCRIBE __keyspace@0__:*\r\n",
                 "*3 $12 punsubscribe $16 __keyspace@0__:* :0 ");
    happen(MACHINE_EVENT_SET, "a");
    assert_string_equal(sent(), "");
    assert_reply("PING\r\n", "+PONG ");
    assert_reply("PUNSUBSCRIBE\r\n", "*3 $12 punsubscribe $-1 :0 ");
    assert_reply("PUBLISH c m\r\n",
                 "-ERR unknown command 'PUBLISH', with args beginning with: 'c' 'm'  ");
}

static void test_resp2_while_subscribed(void **state) {
    (void)state;
    assert_reply("SUBSCRIBE c\r\n", "*3 $9 subscribe $1 c :1 ");
    assert_reply("PING\r\nPING hi\r\n", "*2 $4 pong $0  *2 $4 pong $2 hi ");
    assert_reply("GET k\r\n",
                 "-ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / "
                 "RESET are allowed in this context ");
    assert_reply("NOSUCH\r\n", "-ERR unknown command 'NOSUCH', with args beginning with:  ");
    assert_reply("GET\r\n", "-ERR wrong number of arguments for 'get' command ");
    assert_reply("RESET\r\n", "+RESET ");
    assert_reply("PING\r\n", "+PONG ");
    feed_text("WATCHKEYS x\r\n");
    sent();
    assert_reply(
        "ECHO x\r\n",
        "-ERR Can't execute 'echo': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / "
        "RESET are allowed in this context ");
    assert_reply("QUIT\r\n", "+OK ");
    happen(MACHINE_EVENT_SET, "x");
    assert_string_equal(sent(), "");
    assert_true(session_is_finished(t.session));
}

static void test_resp3(void **state) {
    (void)state;
    feed_text("HELLO 3\r\n");
    sent();
    assert_reply("SUBSCRIBE __keyspace@0__:a\r\n", ">3 $9 subscribe $16 __keyspace@0__:a :1 ");
    assert_reply("PING\r\n", "+PONG ");
    /* A push does not wait for a reply, and stands beside it. */
    feed_text("GET k\r\nPING\r\n");
    happen(MACHINE_EVENT_DELETE, "a");
    assert_string_equal(sent(), ">3 $7 message $16 __keyspace@0__:a $3 del ");
    complete_nil();
    assert_string_equal(sent(), "_ +PONG ");
    /* SUBSCRIBE waits for what is under way, so that its own reply stands in its place. */
    feed_text("GET k\r\nSUBSCRIBE b\r\n");
    assert_string_equal(sent(), "");
    complete_nil();
    assert_true(session_needs_resume(t.session));
    session_resume(t.session);
    assert_string_equal(sent(), "_ >3 $9 subscribe $1 b :2 ");
    assert_reply("UNSUBSCRIBE a b __keyspace@0__:a\r\nUNSUBSCRIBE\r\n",
                 ">3 $11 unsubscribe $1 a :2 >3 $11 unsubscribe $1 b :1 "
                 ">3 $11 unsubscribe $16 __keyspace@0__:a :0 >3 $11 unsubscribe _ :0 ");
}

static void test_watch(void **state) {
    (void)state;
    happen(MACHINE_EVENT_SET, "user:0");
    assert_reply("WATCHKEYS user:\r\n", "*3 $9 watchkeys $5 user: :1 ");
    happen(MACHINE_EVENT_SET, "user:1");
    assert_string_equal(sent(), "*4 $5 event :2 $3 set $6 user:1 *4 $5 event :2 $8 progress $0  ");
    happen(MACHINE_EVENT_SET, "user");
    happen(MACHINE_EVENT_SET, "other");
    assert_string_equal(sent(), "");
    t.events.index = ++t.index;
    record("default", MACHINE_EVENT_EXPIRE, "user:1");
    record("elsewhere", MACHINE_EVENT_SET, "user:1");
    record("default", MACHINE_EVENT_CLEAR, "");
    t.events.index = ++t.index;
    record("default", MACHINE_EVENT_PERSIST, "user:2");
    hand_over();
    assert_string_equal(sent(), "*4 $5 event :5 $6 expire $6 user:1 *4 $5 event :5 $5 clear $0  "
                                "*4 $5 event :6 $7 persist $6 user:2 "
                                "*4 $5 event :6 $8 progress $0  ");
    assert_reply("WATCHKEYS b\r\n",
                 "-ERR this connection is watching already; UNWATCHKEYS ends that ");
    happen(MACHINE_EVENT_SET, "other");
    assert_reply("UNWATCHKEYS\r\n", "*3 $11 unwatchkeys $5 user: :7 ");
    assert_reply("UNWATCHKEYS\r\n", "*3 $11 unwatchkeys $-1 :0 ");
    happen(MACHINE_EVENT_SET, "user:3");
    assert_string_equal(sent(), "");
    assert_reply("WATCHKEYS user: FROM 5\r\n",
                 "*3 $9 watchkeys $5 user: :5 *4 $5 event :6 $7 persist $6 user:2 "
                 "*4 $5 event :8 $3 set $6 user:3 *4 $5 event :8 $8 progress $0  ");
    assert_reply("UNWATCHKEYS\r\nWATCHKEYS a FROM\r\n",
                 "*3 $11 unwatchkeys $5 user: :8 -ERR syntax error ");
    assert_reply("WATCHKEYS a FROM -1\r\nWATCHKEYS a TO 1\r\n",
                 "-ERR FROM takes an index, which is a number of 0 or more -ERR syntax error ");
}

/* A node that waits to be added has nothing to tell, and says so. */
static void test_blank_node(void **state) {
    (void)state;
    const char *refusal = "-STALE this replica has not started or is being replaced by a snapshot; "
                          "ask another node ";
    t.blank = true;
    assert_reply("WATCHKEYS a\r\n", refusal);
    assert_reply("WATCHKEYS a FROM 3\r\n", refusal);
    assert_reply("SUBSCRIBE a b\r\n", refusal);
    assert_reply("PSUBSCRIBE *\r\n", refusal);
    t.blank = false;
    assert_reply("UNWATCHKEYS\r\n", "*3 $11 unwatchkeys $-1 :0 ");
    assert_reply("WATCHKEYS a\r\n", "*3 $9 watchkeys $1 a :0 ");
    t.blank = true;
    assert_reply("UNWATCHKEYS\r\n", "*3 $11 unwatchkeys $1 a :0 ");
}

static void test_progress(void **state) {
    (void)state;
    assert_reply("WATCHKEYS a FROM 3\r\n", "*3 $9 watchkeys $1 a :3 ");
    happen(MACHINE_EVENT_SET, "b");
    t.now_ms += SUBSCRIPTIONS_PROGRESS_MS - 1;
    subscriptions_tick(&t.host, t.now_ms);
    assert_string_equal(sent(), "");
    t.now_ms++;
    subscriptions_tick(&t.host, t.now_ms);
    subscriptions_tick(&t.host, t.now_ms);
    /* This replica is behind the client: what it was told is still true. */
    assert_string_equal(sent(), "*4 $5 event :3 $8 progress $0  ");
    for (unsigned i = 0; i < 4; i++) {
        happen(MACHINE_EVENT_SET, "b");
    }
    t.now_ms += SUBSCRIPTIONS_PROGRESS_MS;
    subscriptions_tick(&t.host, t.now_ms);
    assert_string_equal(sent(), "*4 $5 event :5 $8 progress $0  ");
}

/* Subscriptions stay with the project in which they were made. */
static void test_projects(void **state) {
    (void)state;
    feed_text("HELLO 3 AUTH blue x\r\nPSUBSCRIBE *\r\nWATCHKEYS k\r\nAUTH red x\r\n"
              "PSUBSCRIBE *\r\n");
    sent();
    happen(MACHINE_EVENT_SET, "k");
    assert_string_equal(sent(), "");
    t.events.index = ++t.index;
    record("blue", MACHINE_EVENT_SET, "k");
    hand_over();
    const char *text = sent();
    assert_non_null(strstr(text, ">4 $8 pmessage $1 * $16 __keyspace@0__:k $3 set "));
    assert_non_null(strstr(text, ">4 $5 event :2 $3 set $1 k "));
    t.events.index = ++t.index;
    record("red", MACHINE_EVENT_SET, "k");
    hand_over();
    assert_string_equal(sent(), ">4 $8 pmessage $1 * $16 __keyspace@0__:k $3 set ");
    assert_reply("PUNSUBSCRIBE *\r\n", ">3 $12 punsubscribe $1 * :0 ");
    t.events.index = ++t.index;
    record("blue", MACHINE_EVENT_SET, "other");
    record("red", MACHINE_EVENT_SET, "k");
    hand_over();
    assert_string_equal(sent(), "");
}

/* Entries of about 1 KiB each. */
static void happen_much(size_t bytes) {
    static char key[1000];
    memset(key, 'x', sizeof key - 1);
    for (size_t sum = 0; sum < bytes; sum += sizeof key) {
        happen(MACHINE_EVENT_SET, key);
    }
}

static void test_slow_watcher(void **state) {
    (void)state;
    feed_text("WATCHKEYS x\r\n");
    sent();
    happen_much(HISTORY / 2);
    size_t waiting = output_size(session_output(t.session));
    assert_in_range(waiting, SUBSCRIPTIONS_OUTPUT / 2, SUBSCRIPTIONS_OUTPUT + 2000);
    /* It reads in time: nothing is missing. */
    uint64_t seen = 0;
    for (unsigned i = 0; i < 100 && seen < t.index; i++) {
        const char *text = sent();
        for (const char *at = text; (at = strstr(at, "event :")) != NULL; at++) {
            uint64_t index = strtoull(at + 7, NULL, 10);
            assert_true(index == seen + 1 || (index == seen && strstr(at, "progress") != NULL));
            seen = index;
        }
        if (session_needs_resume(t.session)) {
            session_resume(t.session);
        }
    }
    assert_int_equal(seen, t.index);
    /* It does not: bounded, and told. */
    happen_much(4 * HISTORY);
    assert_true(output_size(session_output(t.session)) < SUBSCRIPTIONS_OUTPUT + 2000);
    const char *gone = strstr(sent(), "-GONE ");
    assert_non_null(gone);
    assert_true(strtoull(gone + 6, NULL, 10) <= feed_oldest(t.feed, 0));
    assert_null(strstr(gone, "event"));
    assert_false(session_is_finished(t.session));
    assert_reply("PING\r\n", "+PONG ");
    char input[64], expected[64];
    snprintf(input, sizeof input, "WATCHKEYS x FROM %llu\r\n",
             (unsigned long long)feed_oldest(t.feed, 0) - 1);
    snprintf(expected, sizeof expected, "-GONE %llu is the oldest index",
             (unsigned long long)feed_oldest(t.feed, 0));
    feed_text(input);
    assert_memory_equal(sent(), expected, strlen(expected));
}

static void test_slow_subscriber(void **state) {
    (void)state;
    feed_text("PSUBSCRIBE *x*\r\n");
    happen_much(HISTORY / 2);
    assert_null(session_dropped(t.session));
    happen_much(4 * HISTORY);
    assert_true(output_size(session_output(t.session)) < SUBSCRIPTIONS_OUTPUT + 3000);
    assert_non_null(strstr(session_dropped(t.session), "feed_history"));
    assert_true(session_is_finished(t.session));
    assert_false(session_needs_resume(t.session));
    sent();
}

/* Subscribers in many projects that are behind all get their turn. */
static void test_many_projects_behind(void **state) {
    (void)state;
    enum { PROJECTS = 30 };
    char text[96];
    feed_text("HELLO 3\r\n");
    for (unsigned i = 0; i < PROJECTS; i++) {
        snprintf(text, sizeof text, "AUTH p%u x\r\nPSUBSCRIBE *\r\n", i);
        feed_text(text);
    }
    sent();
    feed_text("AUTH p0 x\r\n");
    static char key[1000];
    memset(key, 'x', sizeof key - 1);
    for (unsigned i = 0; i < 180; i++) { /* until the output is full */
        t.events.index = ++t.index;
        record("p0", MACHINE_EVENT_SET, key);
        hand_over();
    }
    for (unsigned i = 1; i < PROJECTS; i++) {
        snprintf(text, sizeof text, "p%u", i);
        t.events.index = ++t.index;
        record(text, MACHINE_EVENT_SET, text);
        hand_over();
    }
    unsigned told = 0;
    for (unsigned round = 0; round < 20; round++) {
        const char *at = sent();
        while ((at = strstr(at, "__keyspace@0__:p")) != NULL) {
            at++;
            told++;
        }
        if (session_needs_resume(t.session)) {
            session_resume(t.session);
        }
    }
    assert_int_equal(told, PROJECTS - 1);
    assert_false(session_needs_resume(t.session));
}

static void test_gap(void **state) {
    (void)state;
    feed_text("HELLO 3\r\nSUBSCRIBE __keyspace@0__:a\r\nWATCHKEYS a\r\n");
    sent();
    t.index = 50;
    feed_restart(t.feed, 0, 50);
    const char *text = sent();
    assert_memory_equal(text, ">4 $5 event :50 $4 gone $", 25);
    assert_non_null(strstr(text, "50 is the oldest index"));
    happen(MACHINE_EVENT_SET, "a");
    assert_string_equal(sent(), ">3 $7 message $16 __keyspace@0__:a $3 set ");
    assert_reply("WATCHKEYS a FROM 49\r\n", "-GONE 50 is the oldest index to resume from here: the "
                                            "history of this shard does not reach back to the one "
                                            "asked for; read the keys anew ");
    assert_reply("WATCHKEYS a FROM 50\r\n",
                 ">3 $9 watchkeys $1 a :50 >4 $5 event :51 $3 set $1 a >4 $5 event :51 $8 progress "
                 "$0  ");
}

/* --- tokens --- */

enum { TOKEN = 77 };

static void show_token(void) {
    assert_int_equal(session_access_add(&t.session->access, slice_of("default"), TOKEN, NULL),
                     ERROR_NONE);
}

static void record_revoked(uint64_t token) {
    uint8_t number[8];
    bytes_put_u64(number, token);
    struct project *project = projects_find(&t.projects, slice_of("default"));
    machine_event_record(&t.events, project, MACHINE_EVENT_REVOKED,
                         slice_make(number, sizeof number));
}

static void revoke(uint64_t token) {
    t.events.index = ++t.index;
    record_revoked(token);
    hand_over();
}

/* With a token the shard is asked; what happens meanwhile is not told but noticed. */
static void test_token_is_asked_for(void **state) {
    (void)state;
    happen(MACHINE_EVENT_SET, "a");
    show_token();
    feed_text("SUBSCRIBE __keyspace@0__:a\r\n");
    assert_string_equal(sent(), "");
    assert_non_null(t.op);
    complete_refused();
    assert_string_equal(sent(), "-NOAUTH revoked ");
    assert_reply("PING\r\n", "+PONG ");

    feed_text("SUBSCRIBE __keyspace@0__:a\r\n");
    happen(MACHINE_EVENT_SET, "a");
    revoke(TOKEN + 1);
    complete_nil();
    session_resume(t.session);
    assert_string_equal(sent(), "*3 $9 subscribe $16 __keyspace@0__:a :1 ");
    happen(MACHINE_EVENT_SET, "a");
    assert_string_equal(sent(), "*3 $7 message $16 __keyspace@0__:a $3 set ");

    feed_text("WATCHKEYS a FROM 1\r\n");
    happen(MACHINE_EVENT_DELETE, "a");
    complete_nil();
    session_resume(t.session);
    assert_string_equal(sent(), "*3 $7 message $16 __keyspace@0__:a $3 del "
                                "*3 $9 watchkeys $1 a :1 *4 $5 event :2 $3 set $1 a "
                                "*4 $5 event :4 $3 set $1 a *4 $5 event :5 $3 del $1 a "
                                "*4 $5 event :5 $8 progress $0  ");
    feed_text("UNWATCHKEYS\r\nWATCHKEYS a\r\n");
    happen(MACHINE_EVENT_EXPIRE, "a");
    complete_nil();
    session_resume(t.session);
    happen(MACHINE_EVENT_PERSIST, "a");
    const char *text = sent();
    assert_non_null(strstr(text, "*3 $9 watchkeys $1 a :6 "));
    assert_non_null(strstr(text, "*4 $5 event :7 $7 persist $1 a "));
    assert_null(strstr(text, "event :6"));
}

static void test_revoked_token_ends_subscriptions(void **state) {
    (void)state;
    const char *const commands[] = {"WATCHKEYS a\r\n", "SUBSCRIBE __keyspace@0__:a\r\n"};
    for (unsigned i = 0; i < 4; i++) {
        teardown(NULL);
        setup(NULL);
        happen(MACHINE_EVENT_SET, "a");
        show_token();
        feed_text(commands[i % 2]);
        if (i < 2) { /* while the shard is asked, whose answer came before it */
            revoke(TOKEN);
            complete_nil();
            session_resume(t.session);
        } else {
            complete_nil();
            t.events.index = ++t.index;
            record("default", MACHINE_EVENT_SET, "a");
            record_revoked(TOKEN);
            record("default", MACHINE_EVENT_SET, "a");
            hand_over();
        }
        const char *text = sent();
        const char *end = strstr(text, "-NOAUTH a token of this connection's subscriptions");
        assert_non_null(end);
        assert_null(strstr(end, "set"));
        assert_int_equal(strstr(text, "$3 set") != NULL, i >= 2);
        assert_true(session_is_finished(t.session));
    }
}

/* A gap may hide a revocation. */
static void test_gap_with_a_token(void **state) {
    (void)state;
    show_token();
    feed_text("SUBSCRIBE a\r\n");
    complete_nil();
    sent();
    feed_restart(t.feed, 0, 50);
    assert_memory_equal(sent(), "-NOAUTH this replica has skipped", 32);
    assert_true(session_is_finished(t.session));
}

static void test_bounds(void **state) {
    (void)state;
    static char line[64 * 1024];
    size_t size = (size_t)snprintf(line, sizeof line, "SUBSCRIBE");
    for (unsigned i = 0; i < SUBSCRIPTIONS_MAX; i++) {
        size += (size_t)snprintf(line + size, sizeof line - size, " c%u", i);
    }
    snprintf(line + size, sizeof line - size, "\r\n");
    feed_text(line);
    sent();
    feed_text("PSUBSCRIBE p\r\n");
    assert_memory_equal(sent(), "-TOOBIG a connection may have 1024 subscriptions", 48);
    assert_reply("UNSUBSCRIBE c0\r\nPSUBSCRIBE p\r\n",
                 "*3 $11 unsubscribe $2 c0 :1023 *3 $10 psubscribe $1 p :1024 ");
    feed_text("RESET\r\n");
    sent();
    size = (size_t)snprintf(line, sizeof line, "PSUBSCRIBE ");
    memset(line + size, 'x', LIMIT_PATTERN_SIZE + 1);
    snprintf(line + size + LIMIT_PATTERN_SIZE + 1, 3, "\r\n");
    feed_text(line);
    assert_memory_equal(sent(), "-TOOBIG pattern of 1025 bytes", 29);
    /* Bytes of names, by a few long ones. */
    for (unsigned i = 0; i < 10; i++) {
        size = (size_t)snprintf(line, sizeof line, "SUBSCRIBE %u", i);
        memset(line + size, 'x', 60000);
        snprintf(line + size + 60000, 3, "\r\n");
        feed_text(line);
        assert_int_equal(strncmp(sent(), "-TOOBIG a connection", 20) == 0,
                         i >= SUBSCRIPTIONS_BYTES / 60001);
    }
}

static void test_off(void **state) {
    (void)state;
    session_free(t.session);
    feed_free(t.feed);
    open_host(0);
    assert_reply("WATCHKEYS a\r\n", "-ERR the change feed of this node is off (feed_history = 0) ");
    assert_reply("SUBSCRIBE c\r\n", "*3 $9 subscribe $1 c :1 ");
    assert_reply("UNSUBSCRIBE\r\n", "*3 $11 unsubscribe $1 c :0 ");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_subscribe, setup, teardown),
        cmocka_unit_test_setup_teardown(test_resp2_while_subscribed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_resp3, setup, teardown),
        cmocka_unit_test_setup_teardown(test_watch, setup, teardown),
        cmocka_unit_test_setup_teardown(test_blank_node, setup, teardown),
        cmocka_unit_test_setup_teardown(test_progress, setup, teardown),
        cmocka_unit_test_setup_teardown(test_projects, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slow_watcher, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slow_subscriber, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_projects_behind, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gap, setup, teardown),
        cmocka_unit_test_setup_teardown(test_token_is_asked_for, setup, teardown),
        cmocka_unit_test_setup_teardown(test_revoked_token_ends_subscriptions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gap_with_a_token, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bounds, setup, teardown),
        cmocka_unit_test_setup_teardown(test_off, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
