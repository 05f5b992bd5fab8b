/* Who may do what on a connection: AUTH, HELLO AUTH, roles, PROJECT USE and the PROJECT commands,
 * against a router whose operations the test completes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <openssl/sha.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/slot.h"
#include "node/credentials.h"
#include "node/logins.h"
#include "node/machine/tokens.h"
#include "node/resp_commands.h"
#include "node/session_state.h"
#include "tests/unit/session_fixture.h"

#define SERVICE_SECRET "service-secret-0123456789"
#define ADMIN_SECRET "admin-secret-0123456789"

static struct {
    struct credentials credentials;
    uint8_t random; /* what the next random bytes are */
    struct logins *logins;
    unsigned refusals; /* told of */
    char refused[64];  /* who was tried in the newest */
    uint64_t wait_ms;
} extra;

static void fake_describe(void *data, struct server_info *info) {
    (void)data;
    info->cluster = "test";
    info->n_shards = SHARDS;
    for (unsigned i = 0; i < SHARDS; i++) {
        info->shards[i] = (struct server_info_shard){.role = "leader", .leader = 10 + i, .keys = 5};
    }
}

static enum error_code fake_random(void *data, void *bytes, size_t size, struct error *error) {
    (void)data;
    if (extra.random == 0) {
        return error_set(error, ERROR_IO, "no random bytes");
    }
    memset(bytes, extra.random, size);
    return ERROR_NONE;
}

static void fake_refused(void *data, const struct session_login *login) {
    (void)data;
    extra.refusals++;
    extra.wait_ms = login->wait_ms;
    snprintf(extra.refused, sizeof extra.refused, "%s %.*s", login->peer, (int)login->user.size,
             login->user.size > 0 ? (const char *)login->user.data : "");
}

static void begin(bool required) {
    memset(&extra, 0, sizeof extra);
    extra.random = 7;
    extra.credentials =
        (struct credentials){.required = required, .has_service = true, .has_admin = true};
    secret_digest(slice_of(SERVICE_SECRET), extra.credentials.service);
    secret_digest(slice_of(ADMIN_SECRET), extra.credentials.admin);
    session_fixture_prepare(session_fixture_limits(1024),
                            (struct session_port){.describe = fake_describe,
                                                  .random = fake_random,
                                                  .on_login_refused = fake_refused});
    t.host.credentials = &extra.credentials;
    t.session = open_session();
}

static int setup_open(void **state) {
    (void)state;
    begin(false);
    return 0;
}

static int setup_required(void **state) {
    (void)state;
    begin(true);
    return 0;
}

static int setup_bounded(void **state) {
    (void)state;
    begin(true);
    extra.logins = logins_new(2, 1);
    t.host.logins = extra.logins;
    return 0;
}

static int teardown(void **state) {
    int status = session_fixture_end(state);
    logins_free(extra.logins);
    return status;
}

#define WRONGPASS "-WRONGPASS invalid project-token pair or credential\r\n"
#define NOAUTH "-NOAUTH authentication required: AUTH project token\r\n"

/* Text of a good token with this number. */
static const char *token_text(uint64_t id) {
    static char text[TOKEN_TEXT_SIZE + 1];
    uint8_t secret[TOKEN_SECRET_BYTES];
    memset(secret, (int)id, sizeof secret);
    token_text_write(text, id, secret);
    return text;
}

static void authenticate(const char *project, uint64_t id) {
    char line[1024];
    snprintf(line, sizeof line, "AUTH \"%s\" %s\r\n", project, token_text(id));
    unsigned at = t.n_ops;
    feed(line);
    assert_int_equal(t.n_ops, at + 1);
    assert_int_equal(command_of(at).kind, COMMAND_AUTHENTICATE);
    complete_integer(at, COMMAND_ACCESS_READWRITE);
    assert_string_equal(sent(), "+OK\r\n");
}

/* --- credentials and tokens --------------------------------------------------------------------
 */

static void test_the_text_of_a_token(void **state) {
    (void)state;
    uint8_t secret[TOKEN_SECRET_BYTES];
    for (unsigned i = 0; i < sizeof secret; i++) {
        secret[i] = (uint8_t)(0xfb + i * 37);
    }
    char text[TOKEN_TEXT_SIZE + 1];
    token_text_write(text, UINT64_C(0x0123456789abcdef), secret);
    assert_string_equal(text, "ikv_0123456789abcdef_-yBFao-02f4jSG2St9wBJktwlbrfBClOc5i94gcsUXY");
    assert_true(token_text_id(slice_of(text)) == UINT64_C(0x0123456789abcdef));
    static const char *const bad[] = {
        "",
        "ikv_",
        "ikv_0123456789abcdef_-yBFao-02f4jSG2St9wBJktwlbrfBClOc5i94gcsUX",
        "ikv_0123456789abcdef_-yBFao-02f4jSG2St9wBJktwlbrfBClOc5i94gcsUXYY",
        "ikv_0123456789ABCDEF_-yBFao-02f4jSG2St9wBJktwlbrfBClOc5i94gcsUXY",
        "ikv_0123456789abcdeg_-yBFao-02f4jSG2St9wBJktwlbrfBClOc5i94gcsUXY",
        "ikx_0123456789abcdef_-yBFao-02f4jSG2St9wBJktwlbrfBClOc5i94gcsUXY",
        "ikv_0123456789abcdef--yBFao-02f4jSG2St9wBJktwlbrfBClOc5i94gcsUXY",
        "ikv_ffffffffffffffff_-yBFao-02f4jSG2St9wBJktwlbrfBClOc5i94gcsUXY",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_true(token_text_id(slice_of(bad[i])) == 0);
    }
}

static void test_credentials_belong_to_their_user(void **state) {
    (void)state;
    uint8_t service[SECRET_DIGEST_SIZE], admin[SECRET_DIGEST_SIZE];
    secret_digest(slice_of(SERVICE_SECRET), service);
    secret_digest(slice_of(ADMIN_SECRET), admin);
    const struct credentials *good = &extra.credentials;
    assert_int_equal(credentials_check(good, slice_of("service"), service), ROLE_SERVICE);
    assert_int_equal(credentials_check(good, slice_of("admin"), admin), ROLE_ADMIN);
    assert_int_equal(credentials_check(good, slice_of("admin"), service), ROLE_NONE);
    assert_int_equal(credentials_check(good, slice_of("service"), admin), ROLE_NONE);
    assert_int_equal(credentials_check(good, slice_of("other"), admin), ROLE_NONE);
    /* One that is not configured is not matched by the digest that its place holds. */
    const struct credentials none = {.required = true};
    const uint8_t zeros[SECRET_DIGEST_SIZE] = {0};
    assert_int_equal(credentials_check(&none, slice_of("admin"), zeros), ROLE_NONE);
    assert_int_equal(credentials_check(&none, slice_of("service"), zeros), ROLE_NONE);
}

/* --- AUTH --------------------------------------------------------------------------------------
 */

static void test_before_auth_next_to_nothing_is_allowed(void **state) {
    (void)state;
    assert_reply("GET k\r\n", NOAUTH);
    assert_reply("PING\r\n", NOAUTH);
    assert_reply("PROJECT LIST\r\n", NOAUTH);
    assert_reply("CLIENT SETNAME x\r\n", NOAUTH);
    assert_reply("HELLO 3\r\n", "-NOAUTH authentication required: HELLO protover AUTH project "
                                "token, or AUTH first\r\n");
    assert_reply("FOO\r\n", "-ERR unknown command 'FOO', with args beginning with: \r\n");
    assert_int_equal(t.n_ops, 0);
    assert_reply("QUIT\r\n", "+OK\r\n");
}

static void test_a_token_is_asked_for_at_its_shard(void **state) {
    (void)state;
    char line[256];
    snprintf(line, sizeof line, "AUTH shop %s\r\nGET k\r\nPING\r\n", token_text(42));
    feed(line);
    /* What is behind waits. */
    assert_int_equal(t.n_ops, 1);
    assert_string_equal(sent(), "");
    struct command command = command_of(0);
    assert_int_equal(command.kind, COMMAND_AUTHENTICATE);
    assert_true(command.token == COMMAND_TOKEN_OPEN);
    assert_true(slice_equal(command.project, slice_of("shop")));
    assert_true(bytes_get_u64(arg_of(&command, 0).data) == 42);
    uint8_t digest[32];
    SHA256((const uint8_t *)token_text(42), TOKEN_TEXT_SIZE, digest);
    assert_true(slice_equal(arg_of(&command, 1), slice_make(digest, 32)));
    assert_int_equal(t.ops[0]->level, READ_LINEARIZABLE);
    complete_integer(0, COMMAND_ACCESS_READWRITE);
    assert_string_equal(sent(), "+OK\r\n");
    assert_int_equal(t.n_ops, 2);
    command = command_of(1);
    assert_int_equal(command.kind, COMMAND_GET);
    assert_true(command.token == 42);
    assert_true(slice_equal(command.project, slice_of("shop")));
    complete(1, (struct result){.kind = RESULT_NIL});
    assert_string_equal(sent(), "$-1\r\n+PONG\r\n");
}

/* Whatever is wrong, the shard is asked and the answer is the same. */
static void test_every_refusal_looks_alike(void **state) {
    (void)state;
    char good[256];
    snprintf(good, sizeof good, "AUTH shop %s\r\n", token_text(42));
    static char huge[2048];
    memset(huge, 'x', sizeof huge - 1);
    char longest[4096];
    snprintf(longest, sizeof longest, "AUTH shop %s\r\n", huge);
    const struct {
        const char *line;
        const char *project;
        uint64_t id;
    } cases[] = {
        {good, "shop", 42},
        {"AUTH shop nonsense\r\n", "shop", 0},
        {"AUTH nonsense\r\n", "default", 0},
        {"AUTH shop \"\"\r\n", "shop", 0},
        {"AUTH service wrong\r\n", "service", 0},
        {"AUTH admin " SERVICE_SECRET "\r\n", "admin", 0},
        {"AUTH shop " ADMIN_SECRET "\r\n", "shop", 0},
        {longest, "shop", 0},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        feed(cases[i].line);
        assert_int_equal(t.n_ops, i + 1);
        struct command command = command_of(i);
        assert_int_equal(command.kind, COMMAND_AUTHENTICATE);
        assert_true(slice_equal(command.project, slice_of(cases[i].project)));
        assert_true(bytes_get_u64(arg_of(&command, 0).data) == cases[i].id);
        complete_error(i, ERROR_WRONGPASS, error_describe(ERROR_WRONGPASS));
        assert_string_equal(sent(), WRONGPASS);
        assert_reply("GET k\r\n", NOAUTH);
    }
    /* A token of a project that has a reserved name is not looked at. */
    char line[256];
    snprintf(line, sizeof line, "AUTH service %s\r\n", token_text(42));
    unsigned at = t.n_ops;
    feed(line);
    struct command command = command_of(at);
    assert_true(bytes_get_u64(arg_of(&command, 0).data) == 0);
    complete_error(at, ERROR_NOLEADER, "nobody leads");
    assert_string_equal(sent(), "-NOLEADER nobody leads\r\n");
}

static void test_a_refusal_keeps_what_was_shown_before(void **state) {
    (void)state;
    authenticate("shop", 42);
    unsigned at = t.n_ops;
    feed("AUTH other wrong\r\n");
    complete_error(at, ERROR_WRONGPASS, error_describe(ERROR_WRONGPASS));
    assert_string_equal(sent(), WRONGPASS);
    feed("GET k\r\n");
    struct command command = command_of(at + 1);
    assert_true(slice_equal(command.project, slice_of("shop")));
    assert_true(command.token == 42);
}

static void test_hello_authenticates_before_it_greets(void **state) {
    (void)state;
    char line[256];
    snprintf(line, sizeof line, "HELLO 3 AUTH shop %s SETNAME me\r\nCLIENT GETNAME\r\n",
             token_text(42));
    feed(line);
    assert_int_equal(t.n_ops, 1);
    complete_error(0, ERROR_WRONGPASS, error_describe(ERROR_WRONGPASS));
    assert_string_equal(sent(), WRONGPASS NOAUTH);
    feed(line);
    complete_integer(1, COMMAND_ACCESS_READONLY);
    const char *text = sent();
    assert_memory_equal(text, "%7\r\n$6\r\nserver\r\n", 16);
    assert_non_null(strstr(text, "*0\r\n$2\r\nme\r\n"));
    feed("HELLO 2 AUTH admin " ADMIN_SECRET "\r\n");
    assert_memory_equal(sent(), "*14\r\n", 5);
    assert_int_equal(t.session->access.role, ROLE_ADMIN);
    /* Without AUTH it greets whoever has authenticated. */
    feed("HELLO 3\r\n");
    assert_memory_equal(sent(), "%7\r\n", 4);
}

static void test_a_connection_may_go_while_it_waits(void **state) {
    (void)state;
    feed("AUTH shop nonsense\r\nGET k\r\n");
    assert_int_equal(t.n_ops, 1);
    /* teardown() frees the session and completes the operation afterwards */
}

static void test_credentials_need_no_shard(void **state) {
    (void)state;
    assert_reply("AUTH admin " ADMIN_SECRET "\r\nPING\r\n", "+OK\r\n+PONG\r\n");
    assert_int_equal(t.n_ops, 0);
    feed("GET k\r\n");
    struct command command = command_of(0);
    assert_true(command.token == COMMAND_TOKEN_SERVICE);
    assert_true(slice_equal(command.project, slice_of("default")));
    assert_reply("CLIENT INFO\r\n", "");
    complete(0, (struct result){.kind = RESULT_NIL});
    const char *text = sent();
    assert_non_null(strstr(text, " user=default\n"));
    assert_null(strstr(text, ADMIN_SECRET));
}

/* --- bounds on failures ------------------------------------------------------------------------
 */

static uint64_t counted(enum login_kind kind, enum login_outcome outcome) {
    return logins_stats(extra.logins)->counts[kind][outcome];
}

static void test_failures_are_bounded(void **state) {
    (void)state;
    static const char busy[] = "-BUSY too many failed logins like this one from your address "
                               "(login_failures); try again in 30000 ms\r\n";
    for (unsigned i = 0; i < 2; i++) {
        feed("AUTH shop nonsense\r\n");
        complete_error(i, ERROR_WRONGPASS, error_describe(ERROR_WRONGPASS));
        assert_string_equal(sent(), WRONGPASS);
        assert_string_equal(extra.refused, "127.0.0.1:5000 shop");
        assert_int_equal(extra.wait_ms, 0);
    }
    /* Nobody is asked any more, whatever is shown. */
    assert_reply("AUTH shop nonsense\r\n", busy);
    assert_reply("HELLO 3 AUTH shop nonsense\r\n", busy);
    assert_int_equal(t.n_ops, 2);
    assert_int_equal(extra.refusals, 4);
    assert_int_equal(extra.wait_ms, 30000);
    assert_int_equal(counted(LOGIN_PROJECT, LOGIN_WRONG), 2);
    assert_int_equal(counted(LOGIN_PROJECT, LOGIN_THROTTLED), 2);
    /* Another token of the project, another project, the administrator. */
    authenticate("shop", 42);
    authenticate("other", 43);
    assert_reply("AUTH admin " ADMIN_SECRET "\r\n", "+OK\r\n");
    assert_int_equal(counted(LOGIN_PROJECT, LOGIN_GOOD), 2);
    assert_int_equal(counted(LOGIN_ADMIN, LOGIN_GOOD), 1);
}

static void test_credentials_are_bounded(void **state) {
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        feed("AUTH admin " SERVICE_SECRET "\r\n");
        complete_error(i, ERROR_WRONGPASS, error_describe(ERROR_WRONGPASS));
        assert_string_equal(sent(), WRONGPASS);
    }
    feed("AUTH admin " ADMIN_SECRET "\r\n");
    assert_memory_equal(sent(), "-BUSY ", 6);
    assert_string_equal(extra.refused, "127.0.0.1:5000 admin");
    assert_int_equal(counted(LOGIN_ADMIN, LOGIN_THROTTLED), 1);
    assert_reply("AUTH service " SERVICE_SECRET "\r\n", "+OK\r\n");
}

/* Neither good nor wrong: nothing is counted, and nothing is used up. */
static void test_no_answer_is_no_failure(void **state) {
    (void)state;
    for (unsigned i = 0; i < 5; i++) {
        feed("AUTH shop nonsense\r\n");
        complete_error(i, ERROR_NOLEADER, "nobody leads");
        assert_string_equal(sent(), "-NOLEADER nobody leads\r\n");
    }
    assert_int_equal(extra.refusals, 0);
    assert_int_equal(counted(LOGIN_PROJECT, LOGIN_WRONG), 0);
    feed("AUTH shop nonsense\r\n");
    /* teardown() frees the session while it waits */
}

/* Who shows a secret in the wrong place must not find it in the log. */
static void test_secrets_in_the_place_of_names(void **state) {
    (void)state;
    char by_mistake[256];
    snprintf(by_mistake, sizeof by_mistake, "AUTH %s shop\r\n", token_text(42));
    const char *const lines[] = {by_mistake, "AUTH " ADMIN_SECRET " admin\r\n",
                                 "AUTH " SERVICE_SECRET " service\r\n", "AUTH ikv_cut shop\r\n"};
    for (unsigned i = 0; i < 4; i++) {
        feed(lines[i]);
        complete_error(i, ERROR_WRONGPASS, error_describe(ERROR_WRONGPASS));
        assert_string_equal(sent(), WRONGPASS);
        assert_string_equal(extra.refused, "127.0.0.1:5000 ");
    }
}

/* --- roles -------------------------------------------------------------------------------------
 */

static void check_verb(const struct verb *verb) {
    bool admin = (verb->flags & VERB_ADMIN) != 0;
    bool service = (verb->flags & VERB_SERVICE) != 0;
    bool anybody = (verb->flags & VERB_NO_AUTH) != 0;
    assert_int_equal(permission_of(ROLE_NONE, verb->flags),
                     anybody ? PERMISSION_GIVEN : PERMISSION_NOAUTH);
    assert_int_equal(permission_of(ROLE_OPEN, verb->flags), PERMISSION_GIVEN);
    assert_int_equal(permission_of(ROLE_ADMIN, verb->flags), PERMISSION_GIVEN);
    assert_int_equal(permission_of(ROLE_SERVICE, verb->flags),
                     admin ? PERMISSION_NOPERM : PERMISSION_GIVEN);
    assert_int_equal(permission_of(ROLE_TOKEN, verb->flags),
                     admin || service ? PERMISSION_NOPERM : PERMISSION_GIVEN);
    /* What has keys is for everybody: the token decides. */
    assert_false((admin || service || anybody) && verb->first_key > 0);
}

static void test_every_verb_has_its_roles(void **state) {
    (void)state;
    unsigned count;
    const struct verb *verbs = verb_table(&count);
    for (unsigned i = 0; i < count; i++) {
        if (verbs[i].n_subcommands == 0) {
            check_verb(&verbs[i]);
        }
        for (unsigned j = 0; j < verbs[i].n_subcommands; j++) {
            check_verb(&verbs[i].subcommands[j]);
        }
    }
}

/* The lists, in words, so that a flag that is forgotten shows. */
static void test_who_may_give_what(void **state) {
    (void)state;
    static const char *const of_admins[] = {
        "client|list",       "cluster|backup",   "cluster|add",     "cluster|members",
        "cluster|rebalance", "cluster|remove",   "cluster|replace", "cluster|transfer",
        "config|get",        "config|resetstat", "config|set",      "project|delete",
        "project|set-quota", "project|token",
    };
    static const char *const of_services[] = {"project|create", "project|list"};
    static const char *const of_anybody[] = {"auth", "hello", "quit", "reset"};
    const struct {
        unsigned flag;
        const char *const *names;
        unsigned n;
    } lists[] = {
        {VERB_ADMIN, of_admins, 14}, {VERB_SERVICE, of_services, 2}, {VERB_NO_AUTH, of_anybody, 4}};
    unsigned count;
    const struct verb *verbs = verb_table(&count);
    for (unsigned l = 0; l < 3; l++) {
        for (unsigned i = 0; i < count; i++) {
            unsigned n = verbs[i].n_subcommands;
            for (unsigned j = 0; j < (n > 0 ? n : 1); j++) {
                const struct verb *leaf = n > 0 ? &verbs[i].subcommands[j] : &verbs[i];
                char name[64];
                snprintf(name, sizeof name, "%s%s%s", verbs[i].name, n > 0 ? "|" : "",
                         n > 0 ? leaf->name : "");
                bool listed = false;
                for (unsigned k = 0; k < lists[l].n; k++) {
                    listed = listed || strcmp(lists[l].names[k], name) == 0;
                }
                if (listed != ((leaf->flags & lists[l].flag) != 0)) {
                    fail_msg("%s: the list and its flags differ", name);
                }
            }
        }
    }
}

static void test_a_token_gives_no_orders(void **state) {
    (void)state;
    authenticate("shop", 42);
    assert_reply("PROJECT DELETE shop\r\n",
                 "-NOPERM this connection may not give the command 'project|delete'\r\n");
    assert_reply("PROJECT CREATE x\r\n",
                 "-NOPERM this connection may not give the command 'project|create'\r\n");
    assert_reply("CONFIG GET save\r\n",
                 "-NOPERM this connection may not give the command 'config|get'\r\n");
    feed("INFO\r\n");
    const char *text = sent();
    assert_non_null(strstr(text, "# Server"));
    assert_null(strstr(text, "shard0"));
    assert_null(strstr(text, "db0"));
    assert_reply("AUTH service " SERVICE_SECRET "\r\n", "+OK\r\n");
    assert_reply("PROJECT TOKEN LIST shop\r\n",
                 "-NOPERM this connection may not give the command 'project|token'\r\n");
    feed("INFO keyspace\r\n");
    assert_non_null(strstr(sent(), "db0:keys=40"));
}

/* --- PROJECT USE -------------------------------------------------------------------------------
 */

static void test_use_changes_among_shown_projects(void **state) {
    (void)state;
    authenticate("a", 1);
    authenticate("b c", 2);
    assert_reply("PROJECT USE x\r\n", "-NOPERM this connection has shown no token of project 'x'; "
                                      "AUTH with one first\r\n");
    /* In a pipeline, without waiting for anything. */
    unsigned at = t.n_ops;
    feed("GET k\r\nPROJECT USE a\r\nGET k\r\nSET k v\r\nPROJECT USE \"b c\"\r\nPROJECT INFO a\r\n");
    assert_int_equal(t.n_ops, at + 2);
    assert_true(command_of(at).token == 2);
    assert_true(slice_equal(command_of(at).project, slice_of("b c")));
    assert_true(command_of(at + 1).token == 1);
    assert_true(slice_equal(command_of(at + 1).project, slice_of("a")));
    complete(at, (struct result){.kind = RESULT_NIL});
    complete(at + 1, (struct result){.kind = RESULT_NIL});
    assert_string_equal(sent(), "$-1\r\n+OK\r\n$-1\r\n");
    assert_true(command_of(at + 2).token == 1);
    complete_ok(at + 2);
    assert_string_equal(sent(), "+OK\r\n+OK\r\n");
    assert_true(command_of(at + 3).token == 1);
    complete(at + 3, (struct result){.kind = RESULT_NIL});
    assert_string_equal(sent(), "-NOPROJECT there is no project 'a'\r\n");
    assert_reply("PROJECT INFO x\r\n",
                 "-NOPERM this connection has shown no token of project 'x'\r\n");
    /* A newer token of the same project takes the place of the older one. */
    authenticate("a", 3);
    feed("GET k\r\n");
    assert_true(command_of(t.n_ops - 1).token == 3);
}

static void test_a_connection_knows_so_many_projects(void **state) {
    (void)state;
    char name[16];
    for (unsigned i = 0; i < SESSION_PROJECTS; i++) {
        snprintf(name, sizeof name, "p%u", i);
        authenticate(name, 1 + i);
    }
    unsigned at = t.n_ops;
    feed("AUTH more nonsense\r\n");
    complete_integer(at, COMMAND_ACCESS_READONLY);
    assert_string_equal(sent(), "-TOOBIG this connection has shown tokens of 1024 projects, which "
                                "is the limit; use another connection\r\n");
    authenticate("p7", 77);
    assert_reply("PROJECT USE p1023\r\n", "+OK\r\n");
    feed("GET k\r\n");
    assert_true(command_of(t.n_ops - 1).token == 1024);
}

/* The commands inside carry the token too: without, the whole would not decode. */
static void test_transactions_carry_the_token(void **state) {
    (void)state;
    assert_reply("MULTI\r\n", NOAUTH);
    authenticate("shop", 5);
    assert_reply("MULTI\r\nSET k v\r\nAUTH other x\r\nEXEC\r\n",
                 "+OK\r\n+QUEUED\r\n-ERR Command not allowed inside a transaction\r\n"
                 "-EXECABORT Transaction discarded because of previous errors.\r\n");
    feed("WATCH k\r\n");
    unsigned at = t.n_ops - 1;
    assert_true(command_of(at).token == 5);
    struct result versions = {.kind = RESULT_INTEGERS};
    buffer_put_u64(&versions.data, 7);
    complete(at, versions);
    feed("MULTI\r\nSET k v\r\nGET k\r\nEXEC\r\n");
    struct command command = command_of(at + 1);
    assert_int_equal(command.kind, COMMAND_TRANSACTION);
    assert_true(command.token == 5);
    assert_true(slice_equal(command.project, slice_of("shop")));
    complete_error(at + 1, ERROR_NOPERM, "read-only");
    assert_string_equal(sent(), "+OK\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n-NOPERM read-only\r\n");
}

static void test_services_use_any_project(void **state) {
    (void)state;
    assert_reply("AUTH service " SERVICE_SECRET "\r\nPROJECT USE any\r\n", "+OK\r\n+OK\r\n");
    feed("GET k\r\n");
    assert_true(slice_equal(command_of(0).project, slice_of("any")));
    assert_true(command_of(0).token == COMMAND_TOKEN_SERVICE);
}

static void test_open_mode_takes_everybody(void **state) {
    (void)state;
    assert_reply("AUTH shop anything\r\nPROJECT USE other\r\n", "+OK\r\n+OK\r\n");
    feed("SET k v\r\n");
    assert_true(slice_equal(command_of(0).project, slice_of("other")));
    assert_true(command_of(0).token == COMMAND_TOKEN_OPEN);
    complete_ok(0);
    feed("PROJECT DELETE other\r\n");
    assert_int_equal(command_of(1).kind, COMMAND_PROJECT_DELETE);
    complete_integer(1, 1);
    assert_string_equal(sent(), "+OK\r\n:1\r\n");
    assert_reply("AUTH service x\r\n", "+OK\r\n");
}

/* --- PROJECT -----------------------------------------------------------------------------------
 */

static void test_project_create(void **state) {
    (void)state;
    feed("PROJECT CREATE shop\r\n");
    struct command command = command_of(0);
    assert_int_equal(command.kind, COMMAND_PROJECT_CREATE);
    assert_true(slice_equal(command.project, slice_of("shop")));
    assert_true(bytes_get_u64(arg_of(&command, 0).data) == COMMAND_QUOTA_DEFAULT);
    complete_ok(0);
    assert_string_equal(sent(), "+OK\r\n");
    feed("project create shop quota 100\r\n");
    command = command_of(1);
    assert_true(bytes_get_u64(arg_of(&command, 0).data) == 100);
    complete_error(1, ERROR_GENERIC, "exists");
    assert_string_equal(sent(), "-ERR exists\r\n");
    assert_reply("PROJECT CREATE shop QUOTA\r\n", "-ERR syntax error\r\n");
    assert_reply("PROJECT CREATE shop QUOTA -1\r\n",
                 "-ERR quota is not a number of bytes from 0 to 1125899906842624\r\n");
    assert_reply("PROJECT CREATE shop QUOTA 1125899906842625\r\n",
                 "-ERR quota is not a number of bytes from 0 to 1125899906842624\r\n");
    assert_reply("PROJECT CREATE shop COLOUR red\r\n", "-ERR syntax error\r\n");
    assert_reply("PROJECT CREATE shop TOKEN\r\n", "-ERR syntax error\r\n");
    assert_reply("PROJECT CREATE shop TOKEN ALL\r\n", "-ERR syntax error\r\n");
    assert_reply("PROJECT CREATE shop TOKEN READONLY EXPIRES\r\n", "-ERR syntax error\r\n");
    assert_reply("PROJECT CREATE shop TOKEN READONLY EXPIRES 0\r\n",
                 "-ERR EXPIRES takes a positive number of milliseconds\r\n");
    assert_reply("PROJECT CREATE \"\"\r\n", "-ERR a project name has at least one character\r\n");
    assert_int_equal(t.n_ops, 2);
}

/* What the state machine gets fits the text that the client gets. */
static void assert_token_command(unsigned op, unsigned first_arg, const char *reply) {
    struct command command = command_of(op);
    char text[TOKEN_TEXT_SIZE + 1];
    assert_memory_equal(reply, "$64\r\n", 5);
    memcpy(text, reply + 5, TOKEN_TEXT_SIZE);
    text[TOKEN_TEXT_SIZE] = '\0';
    assert_string_equal(reply + 5 + TOKEN_TEXT_SIZE, "\r\n");
    uint8_t digest[32], hash[32];
    assert_true(bytes_get_u64(arg_of(&command, first_arg).data) == token_text_id(slice_of(text)));
    SHA256((const uint8_t *)text, TOKEN_TEXT_SIZE, digest);
    token_hash(arg_of(&command, first_arg + 2).data, slice_make(digest, 32), hash);
    assert_true(slice_equal(arg_of(&command, first_arg + 3), slice_make(hash, 32)));
    /* The secret itself goes nowhere. */
    struct slice bytes = buffer_slice(&t.ops[op]->command);
    assert_null(memmem(bytes.data, bytes.size, text + 21, 43));
    assert_null(memmem(bytes.data, bytes.size, digest, 32));
}

static void test_tokens_are_made_here(void **state) {
    (void)state;
    struct buffer kept = {0};
    feed("PROJECT CREATE shop QUOTA 5 TOKEN READWRITE EXPIRES 1000\r\n");
    struct command command = command_of(0);
    assert_int_equal(command.flags, COMMAND_FLAG_TOKEN);
    assert_int_equal(command.expiry_mode, COMMAND_EXPIRY_AFTER);
    assert_int_equal(command.expiry_ms, 1000);
    assert_true(bytes_get_u64(arg_of(&command, 2).data) == COMMAND_ACCESS_READWRITE);
    /* A copy, since completing frees the command. */
    buffer_append_slice(&kept, buffer_slice(&t.ops[0]->command));
    complete_ok(0);
    char reply[128];
    const char *said = sent();
    assert_true(strlen(said) < sizeof reply);
    memcpy(reply, said, strlen(said) + 1);
    struct op copy = {.command = kept, .shard = slot_shard(slot_of(slice_of("shop")), SHARDS)};
    t.ops[0] = &copy;
    assert_token_command(0, 1, reply);
    t.ops[0] = NULL;
    buffer_free(&kept);

    extra.random = 9;
    feed("PROJECT TOKEN ADD shop readonly\r\n");
    command = command_of(1);
    assert_int_equal(command.kind, COMMAND_TOKEN_ADD);
    assert_true(bytes_get_u64(arg_of(&command, 1).data) == COMMAND_ACCESS_READONLY);
    assert_int_equal(command.expiry_mode, COMMAND_EXPIRY_NONE);
    complete_error(1, ERROR_NOPROJECT, "none");
    assert_string_equal(sent(), "-NOPROJECT none\r\n");

    extra.random = 0;
    assert_reply("PROJECT TOKEN ADD shop READONLY\r\n", "-ERR no random bytes\r\n");
    assert_reply("PROJECT TOKEN ADD shop\r\n", "-ERR syntax error\r\n");
    assert_reply("PROJECT TOKEN ADD shop READONLY EXPIRES x\r\n",
                 "-ERR EXPIRES takes a positive number of milliseconds\r\n");
    assert_reply("PROJECT TOKEN FIND shop\r\n", "-ERR syntax error\r\n");
    assert_reply("PROJECT TOKEN REVOKE shop\r\n", "-ERR syntax error\r\n");
    assert_reply("PROJECT TOKEN REVOKE shop 12\r\n",
                 "-ERR a token's id has 16 digits, as PROJECT TOKEN LIST shows it\r\n");
    assert_int_equal(t.n_ops, 2);
    feed("PROJECT TOKEN REVOKE shop 00000000000000ff\r\n");
    command = command_of(2);
    assert_int_equal(command.kind, COMMAND_TOKEN_REVOKE);
    assert_true(bytes_get_u64(arg_of(&command, 0).data) == 255);
    complete_integer(2, 1);
    assert_string_equal(sent(), ":1\r\n");
}

static void put_numbers(struct result *result, const uint64_t *numbers, unsigned n) {
    result->kind = RESULT_INTEGERS;
    for (unsigned i = 0; i < n; i++) {
        buffer_put_u64(&result->data, numbers[i]);
    }
}

static void test_token_list_and_info(void **state) {
    (void)state;
    struct result result = {0};
    feed("PROJECT TOKEN LIST shop\r\n");
    assert_int_equal(command_of(0).kind, COMMAND_TOKEN_LIST);
    put_numbers(&result, (uint64_t[]){255, COMMAND_ACCESS_READONLY, 1000, 0}, 4);
    complete(0, result);
    assert_string_equal(sent(),
                        "*1\r\n*8\r\n$2\r\nid\r\n$16\r\n00000000000000ff\r\n$6\r\naccess\r\n"
                        "$8\r\nREADONLY\r\n$10\r\ncreated_ms\r\n:1000\r\n$10\r\nexpires_ms"
                        "\r\n:0\r\n");
    feed("PROJECT TOKEN LIST shop\r\n");
    complete(1, (struct result){.kind = RESULT_NIL});
    assert_string_equal(sent(), "-NOPROJECT there is no project 'shop'\r\n");
    feed("HELLO 3\r\n");
    sent();
    feed("PROJECT INFO shop\r\n");
    assert_int_equal(command_of(2).kind, COMMAND_PROJECT_INFO);
    unsigned shard = t.ops[2]->shard;
    result = (struct result){0};
    put_numbers(&result, (uint64_t[]){3, 100, 3000}, 3);
    complete(2, result);
    char expected[512];
    snprintf(expected, sizeof expected,
             "%%7\r\n$4\r\nname\r\n$4\r\nshop\r\n$4\r\nkeys\r\n:3\r\n$10\r\nused_bytes\r\n:100\r\n"
             "$11\r\nquota_bytes\r\n:3000\r\n$12\r\nused_percent\r\n$4\r\n3.33\r\n$5\r\nshard\r\n"
             ":%u\r\n$6\r\nleader\r\n:%u\r\n",
             shard, 10 + shard);
    assert_string_equal(sent(), expected);
    feed("PROJECT INFO\r\n");
    assert_true(slice_equal(command_of(3).project, slice_of("default")));
    result = (struct result){0};
    put_numbers(&result, (uint64_t[]){0, 0, 0}, 3);
    complete(3, result);
    assert_non_null(strstr(sent(), "\r\n$6\r\n100.00\r\n"));
    assert_reply("PROJECT INFO a b\r\n", "-ERR syntax error\r\n");
}

/* A page of one shard: names "n0", "n1", ... */
static void complete_page(unsigned op, uint64_t next, unsigned first, unsigned count) {
    struct result result = {0};
    result_begin_array(&result, 2);
    result_add_integer(&result, (int64_t)next);
    result_add_array(&result, count);
    for (unsigned i = 0; i < count; i++) {
        char name[16];
        snprintf(name, sizeof name, "n%u", first + i);
        result_add_bulk(&result, slice_of(name));
    }
    complete(op, result);
}

static void assert_list_op(unsigned op, unsigned shard, uint64_t after, uint64_t count) {
    assert_int_equal(t.n_ops, op + 1);
    struct command command = command_of(op);
    assert_int_equal(command.kind, COMMAND_PROJECT_LIST);
    assert_int_equal(t.ops[op]->shard, shard);
    assert_true(bytes_get_u64(arg_of(&command, 0).data) == after);
    assert_true(bytes_get_u64(arg_of(&command, 1).data) == count);
}

static void test_the_list_walks_from_shard_to_shard(void **state) {
    (void)state;
    feed("PROJECT LIST COUNT 5\r\nPING\r\n");
    assert_list_op(0, 0, 0, 5);
    complete_page(0, 0, 0, 2);
    resume();
    assert_list_op(1, 1, 0, 3);
    complete_page(1, 0, 0, 0);
    resume();
    assert_list_op(2, 2, 0, 3);
    assert_string_equal(sent(), "");
    complete_page(2, 17, 2, 3);
    char expected[256];
    uint64_t cursor = ((uint64_t)2 << 48) + 17;
    snprintf(expected, sizeof expected,
             "*2\r\n$15\r\n%llu\r\n*5\r\n$2\r\nn0\r\n$2\r\nn1\r\n$2\r\nn2\r\n$2\r\nn3\r\n$2\r\nn4"
             "\r\n+PONG\r\n",
             (unsigned long long)cursor);
    assert_string_equal(sent(), expected);
    char line[64];
    snprintf(line, sizeof line, "PROJECT LIST CURSOR %llu COUNT 1\r\n", (unsigned long long)cursor);
    feed(line);
    assert_list_op(3, 2, 17, 1);
    complete_page(3, 0, 5, 1);
    snprintf(expected, sizeof expected, "*2\r\n$15\r\n%llu\r\n*1\r\n$2\r\nn5\r\n",
             (unsigned long long)((uint64_t)3 << 48));
    assert_string_equal(sent(), expected);
    /* The last shard ends the walk. */
    snprintf(line, sizeof line, "PROJECT LIST CURSOR %llu\r\n",
             (unsigned long long)((uint64_t)(SHARDS - 1) << 48));
    feed(line);
    assert_list_op(4, SHARDS - 1, 0, 100);
    complete_page(4, 0, 0, 0);
    assert_string_equal(sent(), "*2\r\n$1\r\n0\r\n*0\r\n");
}

static void test_a_list_may_fail_or_be_left(void **state) {
    (void)state;
    assert_reply("PROJECT LIST COUNT 0\r\n", "-ERR COUNT takes 1 to 1000\r\n");
    assert_reply("PROJECT LIST COUNT 1001\r\n", "-ERR COUNT takes 1 to 1000\r\n");
    assert_reply("PROJECT LIST CURSOR\r\n", "-ERR syntax error\r\n");
    assert_reply("PROJECT LIST COLOUR 1\r\n", "-ERR syntax error\r\n");
    assert_reply("PROJECT LIST CURSOR -1\r\n", "-ERR value is not an integer or out of range\r\n");
    assert_reply("PROJECT LIST CURSOR 2251799813685248\r\n", "-ERR invalid cursor\r\n");
    assert_int_equal(t.n_ops, 0);
    feed("PROJECT LIST\r\n");
    complete_page(0, 0, 0, 1);
    resume();
    complete_error(1, ERROR_NOLEADER, "nobody leads");
    assert_string_equal(sent(), "-NOLEADER nobody leads\r\n");
    /* A session that takes no more commands still ends what it began. */
    feed("PROJECT LIST\r\n");
    complete_page(2, 0, 0, 1);
    session_drain(t.session);
    for (unsigned i = 3; i < 2 + SHARDS; i++) {
        resume();
        complete_page(i, 0, 0, 0);
    }
    assert_string_equal(sent(), "*2\r\n$1\r\n0\r\n*1\r\n$2\r\nn0\r\n");
    assert_true(session_is_finished(t.session));
}

static void test_a_connection_may_go_between_two_shards(void **state) {
    (void)state;
    feed("PROJECT LIST\r\n");
    complete_page(0, 0, 0, 1);
    assert_true(session_needs_resume(t.session));
    /* teardown() frees the session, which waits with the next operation */
}

static void test_writes_wait_for_reads(void **state) {
    (void)state;
    feed("GET k\r\nPROJECT DELETE default\r\n");
    assert_int_equal(t.n_ops, 1);
    complete(0, (struct result){.kind = RESULT_NIL});
    resume();
    assert_int_equal(t.n_ops, 2);
    feed("PROJECT INFO default\r\n");
    assert_int_equal(t.n_ops, 3);
    assert_true(t.ops[2]->after_writes);
}

int main(void) {
#define OPEN(name) cmocka_unit_test_setup_teardown(name, setup_open, teardown)
#define REQUIRED(name) cmocka_unit_test_setup_teardown(name, setup_required, teardown)
#define BOUNDED(name) cmocka_unit_test_setup_teardown(name, setup_bounded, teardown)
    const struct CMUnitTest tests[] = {
        REQUIRED(test_the_text_of_a_token),
        REQUIRED(test_credentials_belong_to_their_user),
        REQUIRED(test_before_auth_next_to_nothing_is_allowed),
        REQUIRED(test_a_token_is_asked_for_at_its_shard),
        REQUIRED(test_every_refusal_looks_alike),
        REQUIRED(test_a_refusal_keeps_what_was_shown_before),
        REQUIRED(test_hello_authenticates_before_it_greets),
        REQUIRED(test_a_connection_may_go_while_it_waits),
        REQUIRED(test_credentials_need_no_shard),
        BOUNDED(test_failures_are_bounded),
        BOUNDED(test_credentials_are_bounded),
        BOUNDED(test_no_answer_is_no_failure),
        BOUNDED(test_secrets_in_the_place_of_names),
        REQUIRED(test_every_verb_has_its_roles),
        REQUIRED(test_who_may_give_what),
        REQUIRED(test_a_token_gives_no_orders),
        REQUIRED(test_use_changes_among_shown_projects),
        REQUIRED(test_a_connection_knows_so_many_projects),
        REQUIRED(test_transactions_carry_the_token),
        REQUIRED(test_services_use_any_project),
        OPEN(test_open_mode_takes_everybody),
        OPEN(test_project_create),
        OPEN(test_tokens_are_made_here),
        OPEN(test_token_list_and_info),
        OPEN(test_the_list_walks_from_shard_to_shard),
        OPEN(test_a_list_may_fail_or_be_left),
        OPEN(test_a_connection_may_go_between_two_shards),
        OPEN(test_writes_wait_for_reads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
