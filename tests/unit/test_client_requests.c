/* The client library against servers that do what the test says: every kind of misbehaviour ends in
 * a typed error by the deadline, or is made good. */
#include "tests/unit/fake_server.h"

#include <sys/wait.h>
#include <time.h>

#include "client/include/invoke_kv.h"
#include "client/src/client.h"

struct fixture {
    struct fake_server servers[3];
    unsigned n;
    ikv_client *client;
    ikv_project *project;
};

static uint64_t now_ms(void) {
    return clock_now_ms();
}

static ikv_options *quick_options(void) {
    ikv_options *options = ikv_options_new();
    ikv_options_set_number(options, IKV_OPTION_TIMEOUT_MS, 5000);
    ikv_options_set_number(options, IKV_OPTION_CONNECT_TIMEOUT_MS, 500);
    ikv_options_set_number(options, IKV_OPTION_PROBE_MS, 200);
    return options;
}

static void open_client(struct fixture *fixture, ikv_options *options) {
    ikv_options *used = options != NULL ? options : quick_options();
    assert_int_equal(ikv_open(fixture->servers[0].seed, used, &fixture->client, NULL, 0), IKV_OK);
    ikv_options_free(used);
    assert_int_equal(
        ikv_project_open(fixture->client, "p", NULL, IKV_LINEARIZABLE, 0, &fixture->project),
        IKV_OK);
}

static void start(struct fixture *fixture, fake_handler handler, void *data) {
    fixture->n = 1;
    fake_start(&fixture->servers[0], handler, data);
    open_client(fixture, NULL);
}

static void stop(struct fixture *fixture) {
    ikv_project_close(fixture->project);
    assert_int_equal(ikv_close(fixture->client), IKV_OK);
    for (unsigned i = 0; i < fixture->n; i++) {
        fake_stop(&fixture->servers[i]);
    }
}

/* GET key within `timeout_ms`; the error comes no later than that, with room for a busy machine. */
static int get(struct fixture *fixture, uint32_t timeout_ms) {
    uint64_t before = now_ms();
    int error = ikv_get(fixture->project, ikv_text("key"), timeout_ms, NULL);
    assert_true(now_ms() - before < timeout_ms + 10000);
    return error;
}

static int set(struct fixture *fixture, uint32_t timeout_ms) {
    return ikv_set(fixture->project, ikv_text("key"), ikv_text("x"), NULL, timeout_ms, NULL);
}

/* --- servers that are none
 * ------------------------------------------------------------------------------- */

static void test_nobody_there(void **state) {
    (void)state;
    struct fake_server server;
    struct fixture fixture = {.n = 0};
    fake_bind(&server); /* the port is taken, nobody listens */
    fixture.servers[0] = server;
    open_client(&fixture, NULL);
    assert_int_equal(get(&fixture, 300), IKV_ERR_UNREACHABLE);
    assert_int_equal(set(&fixture, 300), IKV_ERR_UNREACHABLE);
    assert_int_equal(ikv_ping(fixture.client, 300, NULL), IKV_ERR_UNREACHABLE);
    stop(&fixture);
    close(server.listener);
    pthread_mutex_destroy(&server.mutex);
    free(server.log);
}

static enum fake_action never(struct fake_server *server, struct fake_command *command) {
    (void)server;
    (void)command;
    return FAKE_STALL;
}

static void test_never_greets(void **state) {
    (void)state;
    struct fixture fixture;
    start(&fixture, never, NULL);
    assert_int_equal(get(&fixture, 300), IKV_ERR_UNREACHABLE);
    assert_int_equal(get(&fixture, 1200), IKV_ERR_UNREACHABLE);
    stop(&fixture);
}

static enum fake_action say_data(struct fake_server *server, struct fake_command *command) {
    return fake_say(command, server->data);
}

static void test_garbage_at_once(void **state) {
    (void)state;
    static char *const garbage[] = {"HTTP/1.1 400 Bad Request\r\n\r\n",
                                    "\x15\x03\x01\x02\x02\x16",
                                    "+PONG\r\n+PONG\r\n",
                                    "*1000000000\r\n",
                                    "$-5\r\n",
                                    ":12x\r\n",
                                    "*1\r\n+PONG\r\n",
                                    "+WHAT\r\n"};
    for (size_t i = 0; i < sizeof garbage / sizeof garbage[0]; i++) {
        struct fixture fixture;
        start(&fixture, say_data, garbage[i]);
        assert_int_equal(get(&fixture, 300), IKV_ERR_PROTOCOL);
        stop(&fixture);
    }
}

static void test_refused_greeting(void **state) {
    (void)state;
    struct fixture fixture;
    start(&fixture, say_data, "-ERR max number of clients reached\r\n");
    ikv_reply *reply = NULL;
    assert_int_equal(ikv_get(fixture.project, ikv_text("key"), 300, &reply), IKV_ERR_UNREACHABLE);
    assert_non_null(strstr(ikv_reply_message(reply), "max number of clients"));
    ikv_reply_free(reply);
    stop(&fixture);
}

/* What a GET or SET is answered with. */
static enum fake_action get_says(struct fake_server *server, struct fake_command *command) {
    bool ours = fake_is(command, "GET") || fake_is(command, "SET");
    return ours ? fake_say(command, server->data) : FAKE_DEFAULT;
}

static void test_garbage_later(void **state) {
    (void)state;
    static char *const garbage[] = {"what?\r\n", "*2\r\n:1\r\n!\r\n", "*-7\r\n", "$-2\r\n"};
    for (size_t i = 0; i < sizeof garbage / sizeof garbage[0]; i++) {
        struct fixture fixture;
        start(&fixture, get_says, garbage[i]);
        assert_int_equal(get(&fixture, 300), IKV_ERR_PROTOCOL);
        assert_int_equal(set(&fixture, 1500), IKV_ERR_UNKNOWN_OUTCOME);
        stop(&fixture);
    }
}

/* Each GET adds 4 KB to a reply that claims more than the client takes: once its bound is passed
 * the connection is given up, and the next one begins anew. */
static void test_reply_without_end(void **state) {
    (void)state;
    struct fixture fixture = {.n = 1};
    ikv_options *options = quick_options();
    char huge[FAKE_REPLY_SIZE];
    memset(huge, 'x', sizeof huge);
    memcpy(huge, "$1000000\r\n", 10);
    huge[sizeof huge - 1] = '\0';
    fake_start(&fixture.servers[0], get_says, huge);
    assert_int_equal(ikv_options_set_number(options, IKV_OPTION_MAX_REPLY, 65536), IKV_OK);
    open_client(&fixture, options);
    unsigned connections = 0;
    for (int i = 0; i < 40 && connections < 3; i++) {
        assert_int_not_equal(get(&fixture, 50), IKV_OK);
        connections = fake_count(&fixture.servers[0], "PROJECT USE");
    }
    assert_int_equal(connections, 3);
    stop(&fixture);
}

/* --- stalls and losses
 * ------------------------------------------------------------------------------------- */

static enum fake_action stall_half_way(struct fake_server *server, struct fake_command *command) {
    (void)server;
    if (fake_is(command, "GET") || fake_is(command, "SET")) {
        snprintf(command->reply, sizeof command->reply, "$10\r\nhal");
        return FAKE_STALL;
    }
    return FAKE_DEFAULT;
}

static void test_stall_half_way(void **state) {
    (void)state;
    struct fixture fixture;
    start(&fixture, stall_half_way, NULL);
    assert_int_equal(get(&fixture, 300), IKV_ERR_TIMEOUT);
    assert_int_equal(set(&fixture, 300), IKV_ERR_UNKNOWN_OUTCOME);
    stop(&fixture);
}

/* The data counts down the losses. */
static enum fake_action close_some(struct fake_server *server, struct fake_command *command) {
    atomic_int *left = server->data;
    bool ours = fake_is(command, "GET") || fake_is(command, "SET") || fake_is(command, "NONSENSE");
    if (ours && atomic_load(left) > 0) {
        atomic_fetch_sub(left, 1);
        return FAKE_CLOSE;
    }
    return FAKE_DEFAULT;
}

static void test_lost_connections_are_made_good(void **state) {
    (void)state;
    struct fixture fixture;
    atomic_int left = 3;
    start(&fixture, close_some, &left);
    assert_int_equal(get(&fixture, 5000), IKV_OK);
    assert_int_equal(fake_count(&fixture.servers[0], "GET key"), 4);
    atomic_store(&left, 3);
    assert_int_equal(set(&fixture, 5000), IKV_OK);
    /* The same session and number each time. */
    assert_int_equal(fake_count(&fixture.servers[0], "01 1 1) SET key x"), 4);
    assert_int_equal(set(&fixture, 5000), IKV_OK);
    assert_int_equal(fake_count(&fixture.servers[0], "01 2 2) SET key x"), 1);
    stop(&fixture);
}

static void test_lost_without_numbers(void **state) {
    (void)state;
    struct fixture fixture;
    atomic_int left = 1;
    ikv_options *options = quick_options();
    ikv_bytes nonsense[] = {ikv_text("NONSENSE"), ikv_text("x")};
    ikv_options_set_number(options, IKV_OPTION_EXACTLY_ONCE, 0);
    fixture.n = 1;
    fake_start(&fixture.servers[0], close_some, &left);
    open_client(&fixture, options);
    assert_int_equal(set(&fixture, 5000), IKV_ERR_UNKNOWN_OUTCOME);
    assert_int_equal(fake_count(&fixture.servers[0], "SET key x"), 1);
    atomic_store(&left, 1);
    assert_int_equal(ikv_command(fixture.project, 2, nonsense, 5000, NULL),
                     IKV_ERR_UNKNOWN_OUTCOME);
    assert_int_equal(fake_count(&fixture.servers[0], "NONSENSE x"), 1);
    stop(&fixture);
}

/* --- refusals
 * ------------------------------------------------------------------------------------------------
 */

struct script {
    const char *const *replies; /* to SET, one after the other; the last one for ever */
    atomic_uint next;
};

static enum fake_action follow_script(struct fake_server *server, struct fake_command *command) {
    struct script *script = server->data;
    if (!fake_is(command, "SET") && !fake_is(command, "GET")) {
        return FAKE_DEFAULT;
    }
    const char *reply = script->replies[atomic_load(&script->next)];
    if (script->replies[atomic_load(&script->next) + 1] != NULL) {
        atomic_fetch_add(&script->next, 1);
    }
    return strcmp(reply, "close") == 0 ? FAKE_CLOSE : fake_say(command, reply);
}

static void assert_script(const char *const *replies, uint32_t timeout_ms, int expected,
                          unsigned attempts) {
    struct fixture fixture;
    struct script script = {.replies = replies};
    start(&fixture, follow_script, &script);
    assert_int_equal(set(&fixture, timeout_ms), expected);
    if (attempts > 0) {
        assert_int_equal(fake_count(&fixture.servers[0], "SET key x"), attempts);
    }
    stop(&fixture);
}

static void test_answers_of_writes(void **state) {
    (void)state;
#define SCRIPT(...) ((const char *const[]){__VA_ARGS__, NULL})
    const char *ok = "+OK\r\n";
    assert_script(SCRIPT("-NOLEADER none\r\n", "-BUSY full\r\n", ok), 5000, IKV_OK, 3);
    assert_script(SCRIPT("-UNCERTAIN\r\n", ok), 5000, IKV_OK, 2);
    assert_script(SCRIPT("-NOLEADER none\r\n"), 200, IKV_ERR_NO_LEADER, 0);
    assert_script(SCRIPT("-BUSY full\r\n"), 200, IKV_ERR_BUSY, 0);
    assert_script(SCRIPT("-UNCERTAIN\r\n", "-NOLEADER none\r\n"), 200, IKV_ERR_UNKNOWN_OUTCOME, 0);
    assert_script(SCRIPT("-UNCERTAIN\r\n", "-NOSPACE full\r\n"), 5000, IKV_ERR_UNKNOWN_OUTCOME, 2);
    assert_script(SCRIPT("-UNCERTAIN\r\n", "-QUOTA full\r\n"), 5000, IKV_ERR_QUOTA, 2);
    assert_script(SCRIPT("-FORGOTTEN\r\n"), 5000, IKV_ERR_UNKNOWN_OUTCOME, 1);
    assert_script(SCRIPT("-NOSESSION\r\n", ok), 5000, IKV_OK, 2);
    assert_script(SCRIPT("-UNCERTAIN\r\n", "-NOSESSION\r\n", ok), 5000, IKV_ERR_UNKNOWN_OUTCOME, 2);
    assert_script(SCRIPT("close", "-NOSESSION\r\n", ok), 5000, IKV_ERR_UNKNOWN_OUTCOME, 2);
    assert_script(SCRIPT("-NOLEADER\r\n", "-NOSESSION\r\n", ok), 5000, IKV_OK, 3);
    assert_script(SCRIPT("-QUOTA full\r\n"), 5000, IKV_ERR_QUOTA, 1);
    assert_script(SCRIPT("-TOOBIG much\r\n"), 5000, IKV_ERR_TOO_BIG, 1);
    assert_script(SCRIPT("-NOSPACE full\r\n"), 5000, IKV_ERR_NO_SPACE, 1);
    assert_script(SCRIPT("-NOPERM no\r\n"), 5000, IKV_ERR_PERMISSION, 1);
    assert_script(SCRIPT("-NOAUTH no\r\n"), 5000, IKV_ERR_AUTH, 1);
    assert_script(SCRIPT("-ERR no\r\n"), 5000, IKV_ERR_REFUSED, 1);
    assert_script(SCRIPT("-WHATEVER\r\n"), 5000, IKV_ERR_REFUSED, 1);
}

static enum fake_action without_once(struct fake_server *server, struct fake_command *command) {
    if (fake_is(command, "ONCE")) {
        return fake_say(command,
                        "-ERR unknown command 'ONCE', with args beginning with: 'OPEN'\r\n");
    }
    return server->data != NULL && fake_is(command, "SET") ? fake_say(command, server->data)
                                                           : FAKE_DEFAULT;
}

static void test_server_without_numbers(void **state) {
    (void)state;
    struct fixture fixture;
    start(&fixture, without_once, NULL);
    assert_int_equal(set(&fixture, 5000), IKV_OK);
    stop(&fixture);
    start(&fixture, without_once, "-UNCERTAIN\r\n");
    assert_int_equal(set(&fixture, 5000), IKV_ERR_UNKNOWN_OUTCOME);
    stop(&fixture);
}

static void test_server_without_topology(void **state) {
    (void)state;
    struct fixture fixture = {.n = 1};
    fake_bind(&fixture.servers[0]);
    fake_serve(&fixture.servers[0], NULL, NULL);
    open_client(&fixture, NULL);
    assert_int_equal(get(&fixture, 5000), IKV_OK);
    assert_int_equal(set(&fixture, 5000), IKV_OK);
    stop(&fixture);
}

/* --- projects
 * ---------------------------------------------------------------------------------------------------
 */

static enum fake_action refuse_tokens(struct fake_server *server, struct fake_command *command) {
    (void)server;
    if (fake_is(command, "AUTH") && strcmp(command->argv[2], "right") != 0) {
        return fake_say(command, "-WRONGPASS invalid token\r\n");
    }
    if (fake_is2(command, "PROJECT", "USE") && strcmp(command->argv[2], "closed") == 0) {
        return fake_say(command, "-NOAUTH project needs a token\r\n");
    }
    return FAKE_DEFAULT;
}

static void assert_get(ikv_client *client, const char *name, const char *token, int expected) {
    ikv_project *project = NULL;
    assert_int_equal(ikv_project_open(client, name, token, IKV_LINEARIZABLE, 0, &project), IKV_OK);
    assert_int_equal(ikv_get(project, ikv_text(name), 5000, NULL), expected);
    assert_int_equal(ikv_set(project, ikv_text(name), ikv_text("x"), NULL, 5000, NULL), expected);
    ikv_project_close(project);
}

static void test_refused_projects_leave_no_trace(void **state) {
    (void)state;
    struct fixture fixture;
    start(&fixture, refuse_tokens, NULL);
    for (int i = 0; i < 3; i++) {
        assert_get(fixture.client, "open", NULL, IKV_OK);
        assert_get(fixture.client, "mine", "right", IKV_OK);
        assert_get(fixture.client, "other", "wrong", IKV_ERR_AUTH);
        assert_get(fixture.client, "closed", NULL, IKV_ERR_AUTH);
    }
    struct fake_server *server = &fixture.servers[0];
    assert_int_equal(fake_count(server, "GET other"), 0);
    assert_int_equal(fake_count(server, "SET other"), 0);
    assert_int_equal(fake_count(server, "GET closed"), 0);
    assert_int_equal(fake_count(server, "[mine] GET mine"), 3);
    assert_int_equal(fake_count(server, "SET mine"), 3);
    assert_int_equal(fake_count(server, "[open] GET open"), 3);
    stop(&fixture);
}

/* Two tokens for one project take turns; each request is carried out under its own. */
static enum fake_action note_token(struct fake_server *server, struct fake_command *command) {
    char *last = server->data;
    if (fake_is(command, "AUTH")) {
        snprintf(last, 16, "%s", command->argv[2]);
    } else if (fake_is(command, "GET") && strcmp(last, command->argv[1]) != 0) {
        return fake_say(command, "-ERR under another token\r\n");
    }
    return FAKE_DEFAULT;
}

static atomic_int answers;
static void count_answer(void *data, ikv_reply *reply);
static void wait_for_answers(int n);

static void test_two_tokens_of_a_project(void **state) {
    (void)state;
    struct fixture fixture;
    char last[16] = "";
    const char *tokens[] = {"one", "two"};
    ikv_project *projects[2];
    int expected = IKV_OK;
    start(&fixture, note_token, last);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(ikv_project_open(fixture.client, "shared", tokens[i], IKV_LINEARIZABLE, 0,
                                          &projects[i]),
                         IKV_OK);
    }
    atomic_store(&answers, 0);
    for (int i = 0; i < 200; i++) {
        int which = (i / 3) % 2;
        assert_int_equal(
            ikv_get_async(projects[which], ikv_text(tokens[which]), 20000, count_answer, &expected),
            IKV_OK);
    }
    wait_for_answers(200);
    ikv_project_close(projects[0]);
    ikv_project_close(projects[1]);
    stop(&fixture);
}

/* More tokens than a node remembers for a connection. */
static enum fake_action limit_tokens(struct fake_server *server, struct fake_command *command) {
    unsigned *shown = server->data;
    if (fake_is(command, "RESET")) {
        *shown = 0;
        return fake_say(command, "+RESET\r\n");
    }
    if (fake_is(command, "AUTH") && ++*shown > 1024) {
        return fake_say(command, "-TOOBIG tokens of 1024 projects\r\n");
    }
    return FAKE_DEFAULT;
}

static void test_many_tokens(void **state) {
    (void)state;
    struct fixture fixture;
    unsigned shown = 0;
    start(&fixture, limit_tokens, &shown);
    for (int i = 0; i < 2300; i++) {
        char name[16];
        ikv_project *project = NULL;
        snprintf(name, sizeof name, "n%d", i);
        assert_int_equal(
            ikv_project_open(fixture.client, name, "token", IKV_LINEARIZABLE, 0, &project), IKV_OK);
        assert_int_equal(ikv_get(project, ikv_text("k"), 10000, NULL), IKV_OK);
        ikv_project_close(project);
    }
    assert_int_equal(fake_count(&fixture.servers[0], "RESET"), 2);
    stop(&fixture);
}

static void count_answer(void *data, ikv_reply *reply) {
    int *expected = data;
    assert_int_equal(ikv_reply_error(reply), *expected);
    atomic_fetch_add(&answers, 1);
}

static void wait_for_answers(int n) {
    uint64_t deadline = now_ms() + 30000;
    while (atomic_load(&answers) < n && now_ms() < deadline) {
        usleep(1000);
    }
    assert_int_equal(atomic_load(&answers), n);
}

static void test_commands_reach_their_projects(void **state) {
    (void)state;
    enum { PROJECTS = 20, ROUNDS = 50 };
    struct fixture fixture;
    ikv_project *projects[PROJECTS];
    int expected = IKV_OK;
    start(&fixture, NULL, NULL);
    for (int i = 0; i < PROJECTS; i++) {
        char name[16];
        snprintf(name, sizeof name, "p%d.", i);
        assert_int_equal(ikv_project_open(fixture.client, name, i % 2 == 0 ? "token" : NULL,
                                          IKV_LINEARIZABLE, 0, &projects[i]),
                         IKV_OK);
    }
    atomic_store(&answers, 0);
    for (int i = 0; i < PROJECTS * ROUNDS; i++) {
        ikv_project *project = projects[(i * 7) % PROJECTS];
        ikv_bytes key = ikv_text(ikv_project_name(project));
        assert_int_equal(ikv_get_async(project, key, 20000, count_answer, &expected), IKV_OK);
        assert_int_equal(
            ikv_set_async(project, key, ikv_text("x"), NULL, 20000, count_answer, &expected),
            IKV_OK);
    }
    wait_for_answers(2 * PROJECTS * ROUNDS);
    for (int i = 0; i < PROJECTS; i++) {
        char line[64];
        snprintf(line, sizeof line, "[p%d.] GET p%d.\n", i, i);
        assert_int_equal(fake_count(&fixture.servers[0], line), ROUNDS);
        snprintf(line, sizeof line, " SET p%d. x\n", i);
        assert_int_equal(fake_count(&fixture.servers[0], line), ROUNDS);
        ikv_project_close(projects[i]);
    }
    char *log = fake_take_log(&fixture.servers[0]);
    for (char *line = strtok(log, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        char project[16];
        char key[16];
        const char *at = strstr(line, " SET ");
        if (at != NULL && sscanf(line, "%*u [%15[^]]]", project) == 1) {
            assert_int_equal(sscanf(at, " SET %15s", key), 1);
            assert_string_equal(project, key);
        }
    }
    free(log);
    stop(&fixture);
}

/* --- several nodes
 * -------------------------------------------------------------------------------------------------
 */

static void start_cluster(struct fixture *fixture, fake_handler handler, void *data) {
    fixture->n = 3;
    for (unsigned i = 0; i < 3; i++) {
        fake_bind(&fixture->servers[i]);
    }
    fake_name_each_other(fixture->servers, 3);
    for (unsigned i = 0; i < 3; i++) {
        fake_serve(&fixture->servers[i], handler, data);
    }
    open_client(fixture, NULL);
}

/* A project of each shard goes to its leader, though only one node was named. */
static void test_each_shard_has_its_leader(void **state) {
    (void)state;
    struct fixture fixture;
    start_cluster(&fixture, NULL, NULL);
    unsigned seen[3] = {0};
    for (int i = 0; i < 30; i++) {
        char name[16];
        snprintf(name, sizeof name, "name%d", i);
        assert_get(fixture.client, name, NULL, IKV_OK);
    }
    for (unsigned i = 0; i < 3; i++) {
        seen[i] = fake_count(&fixture.servers[i], " GET name");
        assert_true(seen[i] > 0);
    }
    assert_int_equal(seen[0] + seen[1] + seen[2], 30);
    stop(&fixture);
}

/* The node that the topology names as leader sends everything to node 3. */
static enum fake_action move_to_third(struct fake_server *server, struct fake_command *command) {
    struct fake_server *third = server->data;
    if (server == third || (!fake_is(command, "GET") && !fake_is(command, "SET"))) {
        return FAKE_DEFAULT;
    }
    snprintf(command->reply, sizeof command->reply, "-MOVED 1 127.0.0.1:%u\r\n", third->port);
    return FAKE_REPLY;
}

static void test_follows_moves(void **state) {
    (void)state;
    struct fixture fixture;
    start_cluster(&fixture, move_to_third, &fixture.servers[2]);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(get(&fixture, 5000), IKV_OK);
        assert_int_equal(set(&fixture, 5000), IKV_OK);
    }
    assert_int_equal(fake_count(&fixture.servers[2], "GET key"), 10);
    stop(&fixture);
}

/* Nodes that do not agree about the leader: the request still ends by its deadline. */
static enum fake_action move_round(struct fake_server *server, struct fake_command *command) {
    struct fake_server *servers = server->data;
    unsigned next = (unsigned)(server - servers + 1) % 3;
    if (!fake_is(command, "GET")) {
        return FAKE_DEFAULT;
    }
    snprintf(command->reply, sizeof command->reply, "-MOVED 1 127.0.0.1:%u\r\n",
             servers[next].port);
    return FAKE_REPLY;
}

static void test_moves_without_end(void **state) {
    (void)state;
    struct fixture fixture;
    start_cluster(&fixture, move_round, fixture.servers);
    assert_int_equal(get(&fixture, 300), IKV_ERR_NO_LEADER);
    assert_true(fake_count(&fixture.servers[0], "REDIRECT OFF") > 0);
    stop(&fixture);
}

static enum fake_action too_old(struct fake_server *server, struct fake_command *command) {
    bool *refuses = server->data;
    bool eventual = fake_is(command, "GET") && *refuses && command->argc == 2;
    /* Only the connection at level eventual is refused: it has said so before. */
    char line[64];
    snprintf(line, sizeof line, "%u [] CONSISTENCY EVENTUAL", command->connection);
    char with_project[64];
    snprintf(with_project, sizeof with_project, "%u [p] CONSISTENCY EVENTUAL", command->connection);
    if (eventual && (fake_count(server, line) > 0 || fake_count(server, with_project) > 0)) {
        return fake_say(command, "-STALE 9 s old; the limit is 1 s\r\n");
    }
    return FAKE_DEFAULT;
}

static void test_stale_replica(void **state) {
    (void)state;
    struct fixture fixture;
    bool refuses = true;
    ikv_project *project = NULL;
    start_cluster(&fixture, too_old, &refuses);
    assert_int_equal(ikv_project_open(fixture.client, "p", NULL, IKV_EVENTUAL, 1000, &project),
                     IKV_OK);
    assert_int_equal(ikv_get(project, ikv_text("key"), 5000, NULL), IKV_OK);
    unsigned gets = 0;
    unsigned levels = 0;
    for (unsigned i = 0; i < 3; i++) {
        gets += fake_count(&fixture.servers[i], "GET key");
        levels += fake_count(&fixture.servers[i], "CONSISTENCY EVENTUAL MAXSTALE 1000");
    }
    assert_int_equal(gets, 2); /* the nearest replica, then the leader */
    assert_int_equal(levels, 1);
    ikv_project_close(project);
    stop(&fixture);
}

/* A session over a new connection reads at the leader first. */
static void test_session_goes_on(void **state) {
    (void)state;
    struct fixture fixture = {.n = 1};
    ikv_project *project = NULL;
    start(&fixture, NULL, NULL);
    struct fake_server *server = &fixture.servers[0];
    assert_int_equal(ikv_project_open(fixture.client, "p", NULL, IKV_SESSION, 0, &project), IKV_OK);
    assert_int_equal(ikv_get(project, ikv_text("one"), 5000, NULL), IKV_OK);
    assert_int_equal(fake_count(server, "CONSISTENCY LINEARIZABLE"), 0);
    assert_int_equal(fake_count(server, "CONSISTENCY SESSION"), 1);
    atomic_store(&server->closes_all, true);
    while (atomic_load(&server->closes_all)) {
        usleep(1000);
    }
    assert_int_equal(ikv_get(project, ikv_text("two"), 5000, NULL), IKV_OK);
    assert_int_equal(ikv_get(project, ikv_text("three"), 5000, NULL), IKV_OK);
    char *log = fake_take_log(server);
    const char *strict = strstr(log, "CONSISTENCY LINEARIZABLE");
    const char *primed = strict != NULL ? strstr(strict, "EXISTS") : NULL;
    const char *session = primed != NULL ? strstr(primed, "CONSISTENCY SESSION") : NULL;
    assert_true(session != NULL && strstr(session, "GET two") != NULL);
    free(log);
    assert_int_equal(fake_count(server, "CONSISTENCY LINEARIZABLE"), 1);
    ikv_project_close(project);
    stop(&fixture);
}

/* A node that falls silent with answers owed: it is probed, given up, and the others take over. */
static enum fake_action silent_second(struct fake_server *server, struct fake_command *command) {
    atomic_bool *silent = server->data;
    (void)command;
    return server->port % 2 == 0 && atomic_load(silent) ? FAKE_STALL : FAKE_DEFAULT;
}

static void test_silent_node(void **state) {
    (void)state;
    struct fixture fixture;
    atomic_bool silent = false;
    start_cluster(&fixture, silent_second, &silent);
    /* The silent ones: with even ports. The third is there in any case, or the test is empty. */
    for (int i = 0; i < 12; i++) {
        char name[16];
        snprintf(name, sizeof name, "name%d", i);
        assert_get(fixture.client, name, NULL, IKV_OK);
    }
    bool any_awake = false;
    for (unsigned i = 0; i < 3; i++) {
        any_awake |= fixture.servers[i].port % 2 == 1;
    }
    atomic_store(&silent, true);
    for (int i = 0; i < 12 && any_awake; i++) {
        char name[16];
        ikv_project *project = NULL;
        snprintf(name, sizeof name, "name%d", i);
        assert_int_equal(
            ikv_project_open(fixture.client, name, NULL, IKV_LINEARIZABLE, 0, &project), IKV_OK);
        assert_int_equal(ikv_get(project, ikv_text(name), 20000, NULL), IKV_OK);
        ikv_project_close(project);
    }
    stop(&fixture);
}

/* --- transactions
 * -----------------------------------------------------------------------------------------------------
 */

static enum fake_action transact(struct fake_server *server, struct fake_command *command) {
    (void)server;
    if (fake_is(command, "MULTI")) {
        return fake_say(command, "+OK\r\n");
    }
    if (fake_is(command, "EXEC")) {
        return fake_say(command, "*2\r\n:7\r\n-ERR not a number\r\n");
    }
    if (fake_is(command, "INCR")) {
        return fake_say(command, "+QUEUED\r\n");
    }
    if (fake_is(command, "APPEND")) {
        return fake_say(command, "-TOOBIG much\r\n");
    }
    return FAKE_DEFAULT;
}

static enum fake_action transact_refused(struct fake_server *server, struct fake_command *command) {
    return fake_is(command, "EXEC") ? fake_say(command, "-EXECABORT discarded\r\n")
                                    : transact(server, command);
}

static void add(ikv_transaction *transaction, const char *verb) {
    ikv_bytes words[] = {ikv_text(verb), ikv_text("n")};
    assert_int_equal(ikv_transaction_add(transaction, 2, words), IKV_OK);
}

static void test_transactions(void **state) {
    (void)state;
    struct fixture fixture;
    ikv_reply *reply = NULL;
    ikv_bytes multi[] = {ikv_text("MULTI")};
    start(&fixture, transact, NULL);
    ikv_transaction *transaction = ikv_transaction_new(fixture.project);
    assert_int_equal(ikv_transaction_run(transaction, 5000, NULL), IKV_ERR_INVALID);
    assert_int_equal(ikv_transaction_add(transaction, 1, multi), IKV_ERR_INVALID);
    add(transaction, "INCR");
    add(transaction, "INCR");
    assert_int_equal(ikv_transaction_watch(transaction, ikv_text("k"), 5), IKV_OK);
    assert_int_equal(ikv_transaction_run(transaction, 5000, &reply), IKV_OK);
    const ikv_value *value = ikv_reply_value(reply);
    assert_int_equal(value->type, IKV_ARRAY);
    assert_int_equal(value->elements[0].integer, 7);
    assert_int_equal(value->elements[1].type, IKV_ERROR);
    ikv_reply_free(reply);
    assert_int_equal(fake_count(&fixture.servers[0], "MULTI\n"), 1);
    assert_int_equal(fake_count(&fixture.servers[0], "WATCHVER k 5\n"), 1);
    assert_int_equal(fake_count(&fixture.servers[0], "1 1) EXEC\n"), 1);
    ikv_transaction_free(transaction);
    stop(&fixture);

    start(&fixture, transact_refused, NULL);
    transaction = ikv_transaction_new(fixture.project);
    add(transaction, "INCR");
    add(transaction, "APPEND");
    add(transaction, "INCR");
    assert_int_equal(ikv_transaction_run(transaction, 5000, &reply), IKV_ERR_TOO_BIG);
    assert_string_equal(ikv_reply_message(reply), "TOOBIG much");
    ikv_reply_free(reply);
    ikv_transaction_free(transaction);
    stop(&fixture);
}

/* --- bounds, closing, threads
 * --------------------------------------------------------------------------------------------- */

static void expect_closed(void *data, ikv_reply *reply) {
    int *expected = data;
    assert_int_equal(ikv_reply_error(reply), *expected);
    atomic_fetch_add(&answers, 1);
}

static void test_closing_with_requests(void **state) {
    (void)state;
    struct fixture fixture;
    int closed = IKV_ERR_CLOSED;
    int unknown = IKV_ERR_UNKNOWN_OUTCOME;
    start(&fixture, stall_half_way, NULL);
    atomic_store(&answers, 0);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(
            ikv_get_async(fixture.project, ikv_text("key"), 60000, expect_closed, &closed), IKV_OK);
        assert_int_equal(ikv_set_async(fixture.project, ikv_text("key"), ikv_text("x"), NULL, 60000,
                                       expect_closed, &unknown),
                         IKV_OK);
    }
    while (fake_count(&fixture.servers[0], "SET key") == 0) {
        usleep(1000);
    }
    assert_int_equal(ikv_close(fixture.client), IKV_OK);
    assert_int_equal(atomic_load(&answers), 200);
    /* The handle outlives its client. */
    assert_int_equal(get(&fixture, 100), IKV_ERR_CLOSED);
    ikv_project_close(fixture.project);
    fake_stop(&fixture.servers[0]);
}

static void test_closing_closes_sessions(void **state) {
    (void)state;
    struct fixture fixture;
    start(&fixture, NULL, NULL);
    assert_int_equal(set(&fixture, 5000), IKV_OK);
    ikv_project_close(fixture.project);
    assert_int_equal(ikv_close(fixture.client), IKV_OK);
    assert_int_equal(fake_count(&fixture.servers[0], "ONCE CLOSE 0"), 1);
    fake_stop(&fixture.servers[0]);
}

static void ignore(void *data, ikv_reply *reply) {
    (void)data;
    (void)reply;
}

static void test_bounds(void **state) {
    (void)state;
    struct fixture fixture = {.n = 1};
    ikv_options *options = quick_options();
    char *value = calloc(1, 100000);
    ikv_options_set_number(options, IKV_OPTION_MAX_REQUESTS, 10);
    ikv_options_set_number(options, IKV_OPTION_MAX_BYTES, 65536);
    fake_start(&fixture.servers[0], stall_half_way, NULL);
    open_client(&fixture, options);
    assert_int_equal(ikv_set_async(fixture.project, ikv_text("k"), ikv_bytes_of(value, 100000),
                                   NULL, 300, ignore, NULL),
                     IKV_ERR_BUSY);
    int refused = 0;
    for (int i = 0; i < 20; i++) {
        int error = ikv_get_async(fixture.project, ikv_text("key"), 300, ignore, NULL);
        assert_true(error == IKV_OK || error == IKV_ERR_BUSY);
        refused += error == IKV_ERR_BUSY ? 1 : 0;
    }
    assert_int_equal(refused, 10);
    uint64_t deadline = now_ms() + 10000;
    int error = IKV_ERR_BUSY;
    while (error == IKV_ERR_BUSY && now_ms() < deadline) {
        usleep(10000);
        error = ikv_get(fixture.project, ikv_text("key"), 50, NULL);
    }
    assert_int_equal(error, IKV_ERR_TIMEOUT); /* there was room again */
    free(value);
    stop(&fixture);
}

static void block_in_callback(void *data, ikv_reply *reply) {
    struct fixture *fixture = data;
    (void)reply;
    assert_int_equal(ikv_get(fixture->project, ikv_text("key"), 100, NULL), IKV_ERR_DEADLOCK);
    assert_int_equal(ikv_close(fixture->client), IKV_ERR_DEADLOCK);
    atomic_fetch_add(&answers, 1);
}

static void test_blocking_in_a_callback(void **state) {
    (void)state;
    struct fixture fixture;
    start(&fixture, NULL, NULL);
    atomic_store(&answers, 0);
    assert_int_equal(
        ikv_get_async(fixture.project, ikv_text("key"), 5000, block_in_callback, &fixture), IKV_OK);
    wait_for_answers(1);
    stop(&fixture);
}

static void test_forked_child(void **state) {
    (void)state;
    struct fixture fixture;
    start(&fixture, NULL, NULL);
    assert_int_equal(get(&fixture, 5000), IKV_OK);
    pid_t child = fork();
    if (child == 0) {
        ikv_client *client = NULL;
        ikv_project *project = NULL;
        bool refused = ikv_get(fixture.project, ikv_text("key"), 100, NULL) == IKV_ERR_FORKED &&
                       ikv_ping(fixture.client, 100, NULL) == IKV_ERR_FORKED &&
                       ikv_project_open(fixture.client, "q", NULL, IKV_SESSION, 0, &project) ==
                           IKV_ERR_FORKED &&
                       ikv_close(fixture.client) == IKV_ERR_FORKED;
        ikv_project_close(fixture.project);
        /* A client of its own works. (ThreadSanitizer allows no thread in a forked child.) */
#ifdef __SANITIZE_THREAD__
        _exit(refused ? 0 : 1);
#endif
        bool works = ikv_open(fixture.servers[0].seed, NULL, &client, NULL, 0) == IKV_OK &&
                     ikv_ping(client, 5000, NULL) == IKV_OK && ikv_close(client) == IKV_OK;
        _exit(refused && works ? 0 : 1);
    }
    int status = 1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(get(&fixture, 5000), IKV_OK);
    stop(&fixture);
}

static void test_bad_arguments(void **state) {
    (void)state;
    struct fixture fixture;
    ikv_project *project = NULL;
    ikv_client *client = NULL;
    char message[64] = "";
    char *key = calloc(1, 70000);
    start(&fixture, NULL, NULL);
    assert_int_equal(ikv_open("a b c", NULL, &client, message, sizeof message), IKV_ERR_INVALID);
    assert_null(client);
    assert_true(strlen(message) > 0);
    assert_int_equal(ikv_open(NULL, NULL, &client, NULL, 0), IKV_ERR_INVALID);
    assert_int_equal(ikv_project_open(fixture.client, "", NULL, IKV_LINEARIZABLE, 0, &project),
                     IKV_ERR_INVALID);
    assert_int_equal(ikv_project_open(fixture.client, "a\nb", NULL, IKV_LINEARIZABLE, 0, &project),
                     IKV_ERR_INVALID);
    assert_int_equal(ikv_project_open(fixture.client, "a", "", IKV_LINEARIZABLE, 0, &project),
                     IKV_ERR_INVALID);
    assert_int_equal(ikv_project_open(fixture.client, "a", NULL, (enum ikv_level)9, 0, &project),
                     IKV_ERR_INVALID);
    assert_int_equal(ikv_project_open(fixture.client, "a", NULL, IKV_SESSION, 5, &project),
                     IKV_ERR_INVALID);
    assert_int_equal(ikv_get(NULL, ikv_text("k"), 0, NULL), IKV_ERR_INVALID);
    assert_int_equal(ikv_get(fixture.project, ikv_bytes_of(NULL, 3), 0, NULL), IKV_ERR_INVALID);
    assert_int_equal(ikv_get(fixture.project, ikv_bytes_of(key, 70000), 0, NULL), IKV_ERR_TOO_BIG);
    assert_int_equal(ikv_get_many(fixture.project, 0, NULL, 0, NULL), IKV_ERR_INVALID);
    assert_int_equal(ikv_get_async(fixture.project, ikv_text("k"), 0, NULL, NULL), IKV_ERR_INVALID);
    assert_int_equal(ikv_list(fixture.project, ikv_text(""), 0, 0, 0, NULL, NULL), IKV_ERR_INVALID);
    assert_int_equal(ikv_node_command(fixture.client, "10.0.0.1:1", 1,
                                      (ikv_bytes[]){ikv_text("INFO")}, 1000, NULL),
                     IKV_ERR_INVALID);
    free(key);
    stop(&fixture);
}

static void test_topology(void **state) {
    (void)state;
    struct fixture fixture;
    ikv_reply *reply = NULL;
    start_cluster(&fixture, NULL, NULL);
    assert_int_equal(ikv_topology(fixture.client, 5000, &reply), IKV_OK);
    const ikv_value *value = ikv_reply_value(reply);
    assert_int_equal(value->size, 4);
    assert_string_equal(value->elements[0].data, "fake");
    assert_int_equal(value->elements[1].integer, 3);
    assert_int_equal(value->elements[2].size, 3);
    assert_string_equal(value->elements[2].elements[2].elements[1].data, fixture.servers[2].seed);
    assert_int_equal(value->elements[3].elements[2].integer, 3);
    ikv_reply_free(reply);
    assert_int_equal(ikv_node_command(fixture.client, fixture.servers[1].seed, 1,
                                      (ikv_bytes[]){ikv_text("INFO")}, 5000, NULL),
                     IKV_OK);
    assert_int_equal(fake_count(&fixture.servers[1], "INFO"), 1);
    stop(&fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nobody_there),
        cmocka_unit_test(test_never_greets),
        cmocka_unit_test(test_garbage_at_once),
        cmocka_unit_test(test_refused_greeting),
        cmocka_unit_test(test_garbage_later),
        cmocka_unit_test(test_reply_without_end),
        cmocka_unit_test(test_stall_half_way),
        cmocka_unit_test(test_lost_connections_are_made_good),
        cmocka_unit_test(test_lost_without_numbers),
        cmocka_unit_test(test_answers_of_writes),
        cmocka_unit_test(test_server_without_numbers),
        cmocka_unit_test(test_server_without_topology),
        cmocka_unit_test(test_refused_projects_leave_no_trace),
        cmocka_unit_test(test_two_tokens_of_a_project),
        cmocka_unit_test(test_many_tokens),
        cmocka_unit_test(test_commands_reach_their_projects),
        cmocka_unit_test(test_each_shard_has_its_leader),
        cmocka_unit_test(test_follows_moves),
        cmocka_unit_test(test_moves_without_end),
        cmocka_unit_test(test_stale_replica),
        cmocka_unit_test(test_session_goes_on),
        cmocka_unit_test(test_silent_node),
        cmocka_unit_test(test_transactions),
        cmocka_unit_test(test_closing_with_requests),
        cmocka_unit_test(test_closing_closes_sessions),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_blocking_in_a_callback),
        cmocka_unit_test(test_forked_child),
        cmocka_unit_test(test_bad_arguments),
        cmocka_unit_test(test_topology),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
