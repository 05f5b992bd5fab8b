/* Projects, tokens and quotas in the state machine. */
#include "tests/unit/machine_fixture.h"

#include <openssl/sha.h>
#include <sqlite3.h>
#include <time.h>

#include "base/limits.h"

static struct fixture f;

static int setup(void **state) {
    (void)state;
    fixture_make(&f);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    fixture_destroy(&f);
    return 0;
}

/* --- writing -----------------------------------------------------------------------------------
 */

struct request {
    enum command_kind kind;
    const char *project;
    uint64_t token; /* that the command carries */
    unsigned flags;
    enum command_expiry mode;
    uint64_t expiry_ms;
};

/* Applies one command at a time and returns its result, which the fixture owns. */
static const struct result *apply(uint64_t time_ms, const struct request *request,
                                  const struct slice *args, uint32_t n_args) {
    struct command command = {.kind = request->kind,
                              .flags = (uint8_t)request->flags,
                              .expiry_mode = request->mode,
                              .expiry_ms = request->expiry_ms,
                              .token = request->token,
                              .project = slice_of(request->project)};
    batch_begin(&f.batch, time_ms, FIXTURE_QUOTA);
    batch_add(&f.batch, &command, args, n_args);
    fixture_apply(&f);
    assert_int_equal(f.n_results, 1);
    return &f.results[0];
}

static void assert_error(const struct result *result, enum error_code code, const char *text) {
    assert_int_equal(result->kind, RESULT_ERROR);
    assert_int_equal(result->code, code);
    if (text != NULL) {
        assert_true(slice_equal(buffer_slice(&result->data), slice_of(text)));
    }
}

static struct slice number(uint64_t value) {
    static uint8_t bytes[8][8];
    static unsigned next;
    uint8_t *place = bytes[next++ % 8];
    bytes_put_u64(place, value);
    return slice_make(place, 8);
}

static const struct result *create(const char *project, uint64_t quota) {
    struct slice args[] = {number(quota)};
    return apply(1000, &(struct request){.kind = COMMAND_PROJECT_CREATE, .project = project}, args,
                 1);
}

static int64_t remove_project(const char *project) {
    const struct result *result =
        apply(1000, &(struct request){.kind = COMMAND_PROJECT_DELETE, .project = project}, NULL, 0);
    assert_int_equal(result->kind, RESULT_INTEGER);
    return result->integer;
}

static const struct result *set_as(uint64_t token, const char *project, const char *key,
                                   const char *value) {
    struct slice args[] = {slice_of(key), slice_of(value)};
    return apply(1000, &(struct request){.kind = COMMAND_SET, .project = project, .token = token},
                 args, 2);
}

static void set(const char *project, const char *key, const char *value) {
    assert_int_equal(set_as(COMMAND_TOKEN_OPEN, project, key, value)->kind, RESULT_OK);
}

/* The four arguments of a token whose secret is `secret`. */
struct token_args {
    uint8_t salt[COMMAND_SALT_SIZE];
    uint8_t hash[COMMAND_HASH_SIZE];
    uint8_t digest[COMMAND_HASH_SIZE];
    struct slice args[4];
};

static void make_token(struct token_args *token, uint64_t id, enum command_access access,
                       const char *secret) {
    uint8_t bytes[COMMAND_SALT_SIZE + COMMAND_HASH_SIZE];
    memset(token->salt, (int)id, sizeof token->salt);
    SHA256((const uint8_t *)secret, strlen(secret), token->digest);
    memcpy(bytes, token->salt, sizeof token->salt);
    memcpy(bytes + sizeof token->salt, token->digest, sizeof token->digest);
    SHA256(bytes, sizeof bytes, token->hash);
    token->args[0] = number(id);
    token->args[1] = number(access);
    token->args[2] = slice_make(token->salt, sizeof token->salt);
    token->args[3] = slice_make(token->hash, sizeof token->hash);
}

static const struct result *add_token_until(const char *project, uint64_t id,
                                            enum command_access access, const char *secret,
                                            uint64_t now_ms, uint64_t expires_at_ms) {
    struct token_args token;
    make_token(&token, id, access, secret);
    struct request request = {.kind = COMMAND_TOKEN_ADD, .project = project};
    if (expires_at_ms != 0) {
        request.mode = COMMAND_EXPIRY_AT;
        request.expiry_ms = expires_at_ms;
    }
    return apply(now_ms, &request, token.args, 4);
}

static void add_token(const char *project, uint64_t id, enum command_access access,
                      const char *secret) {
    const struct result *result = add_token_until(project, id, access, secret, 1000, 0);
    assert_int_equal(result->kind, RESULT_OK);
}

static int64_t revoke_token(const char *project, uint64_t id) {
    struct slice args[] = {number(id)};
    const struct result *result =
        apply(1000, &(struct request){.kind = COMMAND_TOKEN_REVOKE, .project = project}, args, 1);
    assert_int_equal(result->kind, RESULT_INTEGER);
    return result->integer;
}

/* --- reading -----------------------------------------------------------------------------------
 */

static struct result read_as(uint64_t token, enum command_kind kind, const char *project,
                             const struct slice *args, uint32_t n_args) {
    struct command plain = {.kind = kind, .token = token, .project = slice_of(project)};
    struct buffer encoded = {0};
    command_encode(&encoded, &plain, args, n_args);
    struct command command;
    assert_int_equal(command_decode(buffer_slice(&encoded), &command, &f.error), ERROR_NONE);
    struct result result;
    unsigned n_done = 0;
    assert_int_equal(machine_read(f.machine, &command, 1, &result, &n_done, &f.error), ERROR_NONE);
    buffer_free(&encoded);
    return result;
}

static void assert_read_refused(uint64_t token, const char *project, enum error_code code) {
    struct slice key = slice_of("k");
    struct result result = read_as(token, COMMAND_GET, project, &key, 1);
    assert_error(&result, code, NULL);
    result_free(&result);
}

static void assert_reads(uint64_t token, const char *project, const char *value) {
    struct slice key = slice_of("k");
    struct result result = read_as(token, COMMAND_GET, project, &key, 1);
    result_assert_bulk(&result, slice_of(value));
    result_free(&result);
}

/* Access that a secret gives, 0 when it is refused. */
static int64_t authenticate(const char *project, uint64_t id, const char *secret) {
    uint8_t digest[COMMAND_HASH_SIZE];
    SHA256((const uint8_t *)secret, strlen(secret), digest);
    struct slice args[] = {number(id), slice_make(digest, sizeof digest)};
    struct result result = read_as(COMMAND_TOKEN_OPEN, COMMAND_AUTHENTICATE, project, args, 2);
    int64_t access = result.integer;
    if (result.kind == RESULT_ERROR) {
        assert_error(&result, ERROR_WRONGPASS, "invalid project-token pair or credential");
    } else {
        assert_int_equal(result.kind, RESULT_INTEGER);
    }
    result_free(&result);
    return access;
}

static uint64_t info(const char *project, unsigned at) {
    struct result result = read_as(COMMAND_TOKEN_OPEN, COMMAND_PROJECT_INFO, project, NULL, 0);
    assert_int_equal(result.kind, RESULT_INTEGERS);
    assert_int_equal(result.data.size, 3 * 8);
    uint64_t value = bytes_get_u64(result.data.data + 8 * at);
    result_free(&result);
    return value;
}

static bool exists(const char *project) {
    struct result result = read_as(COMMAND_TOKEN_OPEN, COMMAND_PROJECT_INFO, project, NULL, 0);
    bool found = result.kind == RESULT_INTEGERS;
    result_free(&result);
    return found;
}

static void reopen_and_recount(void) {
    struct machine_state before = machine_state(f.machine);
    fixture_recount(&f);
    fixture_reopen(&f);
    fixture_recount(&f);
    struct machine_state after = machine_state(f.machine);
    assert_int_equal(before.applied_index, after.applied_index);
    assert_int_equal(before.clock_ms, after.clock_ms);
    assert_int_equal(before.next_expiry_ms, after.next_expiry_ms);
    assert_true(before.digest == after.digest);
}

/* --- projects ----------------------------------------------------------------------------------
 */

static void test_projects_are_created_and_deleted(void **state) {
    (void)state;
    assert_int_equal(create("shop", 500)->kind, RESULT_OK);
    assert_error(create("shop", 600), ERROR_GENERIC, "project 'shop' exists already");
    assert_int_equal(info("shop", 2), 500);
    assert_int_equal(create("other", COMMAND_QUOTA_DEFAULT)->kind, RESULT_OK);
    assert_int_equal(info("other", 2), FIXTURE_QUOTA);
    set("shop", "k", "v");
    reopen_and_recount();
    assert_int_equal(remove_project("shop"), 1);
    assert_int_equal(remove_project("shop"), 0);
    assert_false(exists("shop"));
    assert_true(exists("other"));
    fixture_expect(&f, "shop", "k", NULL);
    assert_int_equal(machine_state(f.machine).keys, 0);
    reopen_and_recount();
}

/* The state is that of a machine where the project never was. */
static void test_deletion_leaves_nothing_in_the_digest(void **state) {
    (void)state;
    set("kept", "k", "v");
    uint64_t digest = machine_state(f.machine).digest;
    create("gone", 1000);
    add_token("gone", 7, COMMAND_ACCESS_READWRITE, "secret");
    set("gone", "k", "v");
    assert_true(machine_state(f.machine).digest != digest);
    assert_int_equal(remove_project("gone"), 1);
    assert_true(machine_state(f.machine).digest == digest);
    bool more = true;
    while (more) {
        assert_int_equal(machine_reclaim(f.machine, 100, &more, &f.error), ERROR_NONE);
    }
    reopen_and_recount();
}

/* The rows of a deleted project belong to its number: a later one of the same name has another,
 * also when the file is opened in between and when both come in one transaction. */
static void test_numbers_of_projects_are_never_used_again(void **state) {
    (void)state;
    set("p", "old", "v");
    assert_int_equal(remove_project("p"), 1);
    fixture_reopen(&f);
    create("p", COMMAND_QUOTA_DEFAULT);
    fixture_expect(&f, "p", "old", NULL);
    assert_int_equal(info("p", 0), 0);
    batch_begin(&f.batch, 1000, FIXTURE_QUOTA);
    batch_plain(&f.batch, COMMAND_PROJECT_DELETE, "p");
    batch_set(&f.batch, "p", slice_of("between"), slice_of("v"), 0, COMMAND_EXPIRY_NONE, 0);
    batch_plain(&f.batch, COMMAND_PROJECT_DELETE, "p");
    batch_set(&f.batch, "p", slice_of("new"), slice_of("v"), 0, COMMAND_EXPIRY_NONE, 0);
    fixture_apply(&f);
    fixture_expect(&f, "p", "between", NULL);
    fixture_expect(&f, "p", "new", "v");
    reopen_and_recount();
    /* Every number was skipped that some project had: 1, 2, 3 and now 4. */
    struct slice args[] = {number(3), number(10)};
    struct result result = read_as(0, COMMAND_PROJECT_LIST, "", args, 2);
    assert_int_equal(result.kind, RESULT_ARRAY);
    struct reader reader = reader_make(buffer_slice(&result.data));
    assert_int_equal(reader_u32(&reader), 2);
    reader_u8(&reader);
    assert_int_equal(reader_u64(&reader), 0);
    reader_u8(&reader);
    assert_int_equal(reader_u32(&reader), 1);
    result_free(&result);
    batch_begin(&f.batch, 1000, FIXTURE_QUOTA);
    batch_plain(&f.batch, COMMAND_PROJECT_DELETE, "p");
    fixture_apply(&f);
    fixture_reopen(&f);
    set("q", "k", "v");
    args[0] = number(4);
    result = read_as(0, COMMAND_PROJECT_LIST, "", args, 2);
    reader = reader_make(buffer_slice(&result.data));
    reader_take(&reader, 4 + 1 + 8 + 1);
    assert_int_equal(reader_u32(&reader), 1);
    result_free(&result);
}

static double milliseconds_since(const struct timespec *start) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - start->tv_sec) * 1e3 +
           (double)(now.tv_nsec - start->tv_nsec) / 1e6;
}

static void test_deleting_many_keys_is_quick(void **state) {
    (void)state;
    enum { KEYS = 200000, BATCH = 1000 };
    char key[16];
    for (unsigned i = 0; i < KEYS; i += BATCH) {
        batch_begin(&f.batch, 1000, FIXTURE_QUOTA);
        for (unsigned j = 0; j < BATCH; j++) {
            snprintf(key, sizeof key, "%08u", i + j);
            batch_set(&f.batch, "big", slice_of(key), slice_of("value"), 0, COMMAND_EXPIRY_NONE, 0);
        }
        fixture_apply(&f);
    }
    struct timespec start;
    clock_gettime(CLOCK_MONOTONIC, &start);
    assert_int_equal(remove_project("big"), 1);
    double ms = milliseconds_since(&start);
    print_message("deleted a project of %d keys in %.2f ms\n", KEYS, ms);
    assert_true(ms < 1000);
    bool more = true;
    unsigned steps = 0;
    for (; more; steps++) {
        assert_int_equal(machine_reclaim(f.machine, 5000, &more, &f.error), ERROR_NONE);
    }
    assert_int_equal(steps, KEYS / 5000 + 1);
    fixture_recount(&f);
}

static void test_expiring_keys_of_deleted_projects_are_forgotten(void **state) {
    (void)state;
    batch_begin(&f.batch, 1000, FIXTURE_QUOTA);
    batch_set(&f.batch, "p", slice_of("k"), slice_of("v"), 0, COMMAND_EXPIRY_AT, 2000);
    batch_set(&f.batch, "q", slice_of("k"), slice_of("v"), 0, COMMAND_EXPIRY_AT, 3000);
    fixture_apply(&f);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, 2000);
    assert_int_equal(remove_project("p"), 1);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, 3000);
    batch_begin(&f.batch, 5000, FIXTURE_QUOTA);
    fixture_apply(&f);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, 0);
    reopen_and_recount();
}

/* Walks the list by pages and counts how often each of the projects p0, p1, ... comes. */
static void walk_list(unsigned page, unsigned *seen, size_t n) {
    uint64_t after = 0;
    do {
        struct slice args[] = {number(after), number(page)};
        struct result result = read_as(0, COMMAND_PROJECT_LIST, "", args, 2);
        struct reader reader = reader_make(buffer_slice(&result.data));
        assert_int_equal(reader_u32(&reader), 2);
        assert_int_equal(reader_u8(&reader), RESULT_TAG_INTEGER);
        after = reader_u64(&reader);
        assert_int_equal(reader_u8(&reader), RESULT_TAG_ARRAY);
        uint32_t count = reader_u32(&reader);
        assert_true(count <= page);
        for (uint32_t i = 0; i < count; i++) {
            assert_int_equal(reader_u8(&reader), RESULT_TAG_BULK);
            struct slice name = reader_bytes(&reader);
            char text[16];
            snprintf(text, sizeof text, "%.*s", (int)name.size, (const char *)name.data);
            size_t at = (size_t)atoi(text + 1);
            assert_true(at < n);
            seen[at]++;
        }
        assert_true(reader_done(&reader));
        result_free(&result);
    } while (after != 0);
}

static void test_the_list_has_each_project_once(void **state) {
    (void)state;
    enum { PROJECTS = 25 };
    char name[16];
    unsigned none[1] = {0};
    walk_list(10, none, 1);
    assert_int_equal(none[0], 0);
    for (unsigned i = 0; i < PROJECTS; i++) {
        snprintf(name, sizeof name, "p%u", i);
        create(name, 100);
    }
    for (unsigned i = 0; i < PROJECTS; i += 5) {
        snprintf(name, sizeof name, "p%u", i);
        assert_int_equal(remove_project(name), 1);
    }
    for (unsigned page = 1; page < PROJECTS; page++) {
        unsigned seen[PROJECTS] = {0};
        walk_list(page, seen, PROJECTS);
        for (unsigned i = 0; i < PROJECTS; i++) {
            assert_int_equal(seen[i], i % 5 != 0);
        }
    }
}

/* --- quotas ------------------------------------------------------------------------------------
 */

static void set_quota(const char *project, uint64_t quota) {
    struct slice args[] = {number(quota)};
    assert_int_equal(apply(1000,
                           &(struct request){.kind = COMMAND_PROJECT_SET_QUOTA, .project = project},
                           args, 1)
                         ->kind,
                     RESULT_OK);
}

static void test_a_quota_is_exact_and_may_be_lowered(void **state) {
    (void)state;
    create("p", 10);
    assert_int_equal(set_as(0, "p", "key", "1234567")->kind, RESULT_OK);
    assert_error(set_as(0, "p", "key", "12345678"), ERROR_QUOTA, "project p: 11 of 10 bytes");
    assert_error(set_as(0, "p", "k", ""), ERROR_QUOTA, "project p: 11 of 10 bytes");
    set_quota("p", 5);
    assert_int_equal(info("p", 2), 5);
    assert_int_equal(info("p", 1), 10);
    /* Only growth is refused. */
    assert_int_equal(set_as(0, "p", "key", "7654321")->kind, RESULT_OK);
    assert_int_equal(set_as(0, "p", "key", "123456")->kind, RESULT_OK);
    assert_error(set_as(0, "p", "key", "1234567"), ERROR_QUOTA, "project p: 10 of 5 bytes");
    set_quota("p", 0);
    assert_error(set_as(0, "p", "k", ""), ERROR_QUOTA, "project p: 10 of 0 bytes");
    assert_int_equal(set_as(0, "p", "key", "")->kind, RESULT_OK);
    set_quota("p", 4);
    assert_int_equal(set_as(0, "p", "k", "")->kind, RESULT_OK);
    reopen_and_recount();
    assert_int_equal(info("p", 2), 4);
    assert_int_equal(info("p", 1), 4);
    struct slice args[] = {number(5)};
    assert_error(apply(1000,
                       &(struct request){.kind = COMMAND_PROJECT_SET_QUOTA, .project = "none"},
                       args, 1),
                 ERROR_NOPROJECT, "there is no project 'none'");
    assert_false(exists("none"));
}

static void test_bytes_come_back_at_once(void **state) {
    (void)state;
    create("p", 10);
    batch_begin(&f.batch, 1000, FIXTURE_QUOTA);
    batch_set(&f.batch, "p", slice_of("k"), slice_of("123456789"), 0, COMMAND_EXPIRY_AT, 2000);
    fixture_apply(&f);
    assert_error(set_as(0, "p", "j", ""), ERROR_QUOTA, NULL);
    /* The batch's time alone makes room. */
    batch_begin(&f.batch, 2000, FIXTURE_QUOTA);
    batch_set(&f.batch, "p", slice_of("j"), slice_of("123456789"), 0, COMMAND_EXPIRY_NONE, 0);
    fixture_apply(&f);
    assert_int_equal(f.results[0].kind, RESULT_OK);
    batch_begin(&f.batch, 2000, FIXTURE_QUOTA);
    batch_plain(&f.batch, COMMAND_CLEAR, "p");
    batch_set(&f.batch, "p", slice_of("m"), slice_of("123456789"), 0, COMMAND_EXPIRY_NONE, 0);
    fixture_apply(&f);
    assert_int_equal(f.results[1].kind, RESULT_OK);
}

/* --- tokens ------------------------------------------------------------------------------------
 */

static void test_a_token_opens_its_project_only(void **state) {
    (void)state;
    set("p", "k", "of p");
    set("q", "k", "of q");
    add_token("p", 11, COMMAND_ACCESS_READWRITE, "secret");
    add_token("q", 12, COMMAND_ACCESS_READONLY, "another");
    assert_int_equal(authenticate("p", 11, "secret"), COMMAND_ACCESS_READWRITE);
    assert_int_equal(authenticate("q", 12, "another"), COMMAND_ACCESS_READONLY);
    assert_int_equal(authenticate("p", 11, "Secret"), 0);
    assert_int_equal(authenticate("p", 12, "another"), 0);
    assert_int_equal(authenticate("q", 11, "secret"), 0);
    assert_int_equal(authenticate("none", 11, "secret"), 0);
    assert_int_equal(authenticate("p", 0, ""), 0);
    assert_reads(11, "p", "of p");
    assert_int_equal(set_as(11, "p", "k", "changed")->kind, RESULT_OK);
    assert_read_refused(11, "q", ERROR_NOAUTH);
    assert_read_refused(11, "none", ERROR_NOAUTH);
    assert_error(set_as(11, "q", "k", "v"), ERROR_NOAUTH,
                 "the token was revoked or has expired, or its project was deleted");
    assert_error(set_as(11, "none", "k", "v"), ERROR_NOAUTH, NULL);
    assert_false(exists("none"));
    reopen_and_recount();
    assert_int_equal(authenticate("p", 11, "secret"), COMMAND_ACCESS_READWRITE);
}

static void test_a_read_only_token_writes_nothing(void **state) {
    (void)state;
    set("p", "k", "v");
    add_token("p", 5, COMMAND_ACCESS_READONLY, "secret");
    assert_reads(5, "p", "v");
    assert_error(set_as(5, "p", "k", "w"), ERROR_NOPERM, "this token of project 'p' is read-only");
    struct slice key = slice_of("k");
    struct request request = {.kind = COMMAND_DELETE, .project = "p", .token = 5};
    assert_error(apply(1000, &request, &key, 1), ERROR_NOPERM, NULL);
    request.kind = COMMAND_CLEAR;
    assert_error(apply(1000, &request, NULL, 0), ERROR_NOPERM, NULL);
    assert_reads(5, "p", "v");
}

static void test_a_token_does_not_administer(void **state) {
    (void)state;
    set("p", "k", "v");
    add_token("p", 5, COMMAND_ACCESS_READWRITE, "secret");
    struct slice args[] = {number(1)};
    struct request request = {.kind = COMMAND_PROJECT_SET_QUOTA, .project = "p", .token = 5};
    assert_error(apply(1000, &request, args, 1), ERROR_NOPERM, NULL);
    request.kind = COMMAND_TOKEN_REVOKE;
    assert_error(apply(1000, &request, args, 1), ERROR_NOPERM, NULL);
    request.kind = COMMAND_PROJECT_DELETE;
    assert_error(apply(1000, &request, NULL, 0), ERROR_NOPERM, NULL);
    struct result result = read_as(5, COMMAND_TOKEN_LIST, "p", NULL, 0);
    assert_error(&result, ERROR_NOPERM, NULL);
    result_free(&result);
    result = read_as(5, COMMAND_PROJECT_INFO, "p", NULL, 0);
    assert_int_equal(result.kind, RESULT_INTEGERS);
    result_free(&result);
}

static void test_revocation_and_deletion_stop_a_token(void **state) {
    (void)state;
    set("p", "k", "v");
    add_token("p", 5, COMMAND_ACCESS_READWRITE, "five");
    add_token("p", 6, COMMAND_ACCESS_READWRITE, "six");
    assert_int_equal(revoke_token("p", 5), 1);
    assert_int_equal(revoke_token("p", 5), 0);
    assert_int_equal(revoke_token("none", 5), 0);
    assert_read_refused(5, "p", ERROR_NOAUTH);
    assert_error(set_as(5, "p", "k", "w"), ERROR_NOAUTH, NULL);
    assert_int_equal(authenticate("p", 5, "five"), 0);
    assert_reads(6, "p", "v");
    reopen_and_recount();
    assert_int_equal(authenticate("p", 5, "five"), 0);
    assert_int_equal(remove_project("p"), 1);
    assert_read_refused(6, "p", ERROR_NOAUTH);
    /* A project of the same name is another one. */
    create("p", COMMAND_QUOTA_DEFAULT);
    assert_read_refused(6, "p", ERROR_NOAUTH);
    assert_int_equal(authenticate("p", 6, "six"), 0);
    reopen_and_recount();
}

static void test_the_service_works_in_projects_that_exist(void **state) {
    (void)state;
    assert_error(set_as(COMMAND_TOKEN_SERVICE, "p", "k", "v"), ERROR_NOPROJECT,
                 "there is no project 'p'");
    assert_false(exists("p"));
    assert_read_refused(COMMAND_TOKEN_SERVICE, "p", ERROR_NOPROJECT);
    struct slice args[] = {number(100)};
    assert_int_equal(apply(1000,
                           &(struct request){.kind = COMMAND_PROJECT_CREATE,
                                             .project = "p",
                                             .token = COMMAND_TOKEN_SERVICE},
                           args, 1)
                         ->kind,
                     RESULT_OK);
    assert_int_equal(set_as(COMMAND_TOKEN_SERVICE, "p", "k", "v")->kind, RESULT_OK);
    assert_reads(COMMAND_TOKEN_SERVICE, "p", "v");
}

static void tick(uint64_t time_ms) {
    batch_begin(&f.batch, time_ms, FIXTURE_QUOTA);
    fixture_apply(&f);
}

static void test_tokens_expire_by_the_clock_of_the_shard(void **state) {
    (void)state;
    set("p", "k", "v");
    uint64_t digest = machine_state(f.machine).digest;
    assert_int_equal(add_token_until("p", 5, COMMAND_ACCESS_READWRITE, "five", 1000, 3000)->kind,
                     RESULT_OK);
    assert_int_equal(add_token_until("p", 6, COMMAND_ACCESS_READWRITE, "six", 1000, 2000)->kind,
                     RESULT_OK);
    assert_error(add_token_until("p", 7, COMMAND_ACCESS_READWRITE, "seven", 1000, 1000),
                 ERROR_INVALID, "invalid expire time of a token");
    assert_int_equal(machine_state(f.machine).next_expiry_ms, 2000);
    reopen_and_recount();
    tick(1999);
    assert_int_equal(authenticate("p", 6, "six"), COMMAND_ACCESS_READWRITE);
    tick(2000);
    assert_int_equal(authenticate("p", 6, "six"), 0);
    assert_read_refused(6, "p", ERROR_NOAUTH);
    assert_reads(5, "p", "v");
    assert_int_equal(machine_state(f.machine).next_expiry_ms, 3000);
    reopen_and_recount();
    tick(10000);
    assert_read_refused(5, "p", ERROR_NOAUTH);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, 0);
    assert_true(machine_state(f.machine).digest == digest);
    reopen_and_recount();
}

/* More tokens than one step removes: what is left over holds the clock back, as keys do. */
static void test_tokens_expire_in_bounded_steps(void **state) {
    (void)state;
    enum { TOKENS = MACHINE_PURGE_STEP + 100 };
    char name[16];
    for (uint64_t i = 0; i < TOKENS; i += LIMIT_PROJECT_TOKENS) {
        snprintf(name, sizeof name, "p%u", (unsigned)i);
        create(name, 1000);
        for (uint64_t j = i; j < i + LIMIT_PROJECT_TOKENS && j < TOKENS; j++) {
            add_token_until(name, j + 1, COMMAND_ACCESS_READONLY, "s", 1000, 2000 + j);
        }
    }
    tick(100000);
    uint64_t first_left_ms = 2000 + MACHINE_PURGE_STEP;
    assert_int_equal(machine_state(f.machine).next_expiry_ms, first_left_ms);
    assert_int_equal(machine_state(f.machine).clock_ms, first_left_ms - 1);
    fixture_recount(&f);
    tick(100000);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, 0);
    assert_int_equal(machine_state(f.machine).clock_ms, 100000);
    fixture_recount(&f);
}

static void test_a_project_has_so_many_tokens(void **state) {
    (void)state;
    create("p", 100);
    for (uint64_t i = 1; i <= LIMIT_PROJECT_TOKENS; i++) {
        add_token("p", i * 7919, COMMAND_ACCESS_READONLY, "s");
    }
    assert_error(add_token_until("p", 3, COMMAND_ACCESS_READONLY, "s", 1000, 0), ERROR_TOOBIG,
                 "project 'p' has 64 tokens, which is the limit; revoke one first");
    assert_int_equal(revoke_token("p", 7919), 1);
    add_token("p", 3, COMMAND_ACCESS_READONLY, "s");
    assert_int_equal(revoke_token("p", 7919 * 2), 1);
    assert_error(add_token_until("p", 3, COMMAND_ACCESS_READONLY, "s", 1000, 0), ERROR_GENERIC,
                 "a token of this number exists; try again");
    assert_error(add_token_until("p", COMMAND_TOKEN_SERVICE, COMMAND_ACCESS_READONLY, "s", 1000, 0),
                 ERROR_INVALID, NULL);
    assert_error(add_token_until("p", 0, COMMAND_ACCESS_READONLY, "s", 1000, 0), ERROR_INVALID,
                 NULL);
    assert_error(add_token_until("p", 9, (enum command_access)3, "s", 1000, 0), ERROR_INVALID,
                 NULL);
    assert_error(add_token_until("none", 9, COMMAND_ACCESS_READONLY, "s", 1000, 0), ERROR_NOPROJECT,
                 NULL);
    struct result result = read_as(0, COMMAND_TOKEN_LIST, "p", NULL, 0);
    assert_int_equal(result.kind, RESULT_INTEGERS);
    assert_int_equal(result.data.size, (LIMIT_PROJECT_TOKENS - 1) * 4 * 8);
    assert_int_equal(bytes_get_u64(result.data.data), 3);
    assert_int_equal(bytes_get_u64(result.data.data + 8), COMMAND_ACCESS_READONLY);
    assert_int_equal(bytes_get_u64(result.data.data + 16), 1000);
    assert_int_equal(bytes_get_u64(result.data.data + 24), 0);
    result_free(&result);
    reopen_and_recount();
    /* Adding and revoking expiring ones again and again leaves no memory behind. */
    for (uint64_t i = 0; i < 1000; i++) {
        add_token_until("p", 1000000 + i, COMMAND_ACCESS_READONLY, "s", 1000, 5000 + i);
        assert_int_equal(revoke_token("p", 1000000 + i), 1);
    }
    assert_int_equal(machine_state(f.machine).next_expiry_ms, 0);
    assert_int_equal(remove_project("p"), 1);
    result = read_as(0, COMMAND_TOKEN_LIST, "p", NULL, 0);
    assert_int_equal(result.kind, RESULT_NIL);
    result_free(&result);
    reopen_and_recount();
}

static void test_a_project_is_created_with_a_token(void **state) {
    (void)state;
    struct token_args token;
    make_token(&token, 9, COMMAND_ACCESS_READWRITE, "secret");
    struct slice args[] = {number(100), token.args[0], token.args[1], token.args[2], token.args[3]};
    struct request request = {.kind = COMMAND_PROJECT_CREATE,
                              .project = "p",
                              .flags = COMMAND_FLAG_TOKEN,
                              .mode = COMMAND_EXPIRY_AFTER,
                              .expiry_ms = 500};
    assert_int_equal(apply(1000, &request, args, 5)->kind, RESULT_OK);
    assert_int_equal(authenticate("p", 9, "secret"), COMMAND_ACCESS_READWRITE);
    assert_int_equal(machine_state(f.machine).next_expiry_ms, 1500);
    /* When the token cannot be, the project is not made either. */
    request.project = "q";
    request.expiry_ms = INT64_MAX;
    assert_error(apply(1000, &request, args, 5), ERROR_INVALID, NULL);
    assert_false(exists("q"));
    reopen_and_recount();
}

static void test_the_digest_knows_tokens(void **state) {
    (void)state;
    set("p", "k", "v");
    uint64_t digests[5] = {machine_state(f.machine).digest};
    add_token("p", 5, COMMAND_ACCESS_READWRITE, "secret");
    digests[1] = machine_state(f.machine).digest;
    revoke_token("p", 5);
    assert_true(machine_state(f.machine).digest == digests[0]);
    add_token("p", 5, COMMAND_ACCESS_READONLY, "secret");
    digests[2] = machine_state(f.machine).digest;
    revoke_token("p", 5);
    add_token("p", 5, COMMAND_ACCESS_READWRITE, "other");
    digests[3] = machine_state(f.machine).digest;
    revoke_token("p", 5);
    add_token_until("p", 5, COMMAND_ACCESS_READWRITE, "secret", 1000, 2000);
    digests[4] = machine_state(f.machine).digest;
    for (unsigned i = 0; i < 5; i++) {
        for (unsigned j = 0; j < i; j++) {
            assert_true(digests[i] != digests[j]);
        }
    }
}

static void damage(const char *sql) {
    sqlite3 *handle;
    machine_close(f.machine);
    f.machine = NULL;
    assert_int_equal(sqlite3_open(f.path, &handle), SQLITE_OK);
    assert_int_equal(sqlite3_exec(handle, sql, NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(handle), SQLITE_OK);
}

static void test_damaged_tables_are_refused(void **state) {
    (void)state;
    static const char *const damages[][2] = {
        {"UPDATE tokens SET access = 3", "UPDATE tokens SET access = 2"},
        {"UPDATE tokens SET project = 99", "UPDATE tokens SET project = 1"},
        {"UPDATE tokens SET hash = substr(hash, 2)",
         "UPDATE tokens SET hash = CAST(substr(salt, 1, 1) || hash AS BLOB)"},
    };
    set("p", "k", "v");
    add_token("p", 5, COMMAND_ACCESS_READWRITE, "secret");
    for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++) {
        damage(damages[i][0]);
        assert_int_equal(machine_open(&f.machine, &f.options, &f.error), ERROR_CORRUPT);
        damage(damages[i][1]);
    }
    /* A hash that was put together again wrongly no longer adds up to the digest. */
    assert_int_equal(machine_open(&f.machine, &f.options, &f.error), ERROR_CORRUPT);
    assert_non_null(strstr(f.error.message, "do not add up"));
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_projects_are_created_and_deleted),
        TEST(test_deletion_leaves_nothing_in_the_digest),
        TEST(test_numbers_of_projects_are_never_used_again),
        TEST(test_deleting_many_keys_is_quick),
        TEST(test_expiring_keys_of_deleted_projects_are_forgotten),
        TEST(test_the_list_has_each_project_once),
        TEST(test_a_quota_is_exact_and_may_be_lowered),
        TEST(test_bytes_come_back_at_once),
        TEST(test_a_token_opens_its_project_only),
        TEST(test_a_read_only_token_writes_nothing),
        TEST(test_a_token_does_not_administer),
        TEST(test_revocation_and_deletion_stop_a_token),
        TEST(test_the_service_works_in_projects_that_exist),
        TEST(test_tokens_expire_by_the_clock_of_the_shard),
        TEST(test_tokens_expire_in_bounded_steps),
        TEST(test_a_project_has_so_many_tokens),
        TEST(test_a_project_is_created_with_a_token),
        TEST(test_the_digest_knows_tokens),
        TEST(test_damaged_tables_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
