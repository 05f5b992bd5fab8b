/* Every operation once, in its blocking form: operations SEEDS PROJECT LEVEL. */
#include "check.h"

#include <stdbool.h>
#include <unistd.h>

static ikv_project *project;

static void check_set_and_get(void) {
    ikv_reply *reply = NULL;
    int stored = 0;
    CHECK_OK(ikv_set(project, ikv_text("k"), ikv_text("v"), NULL, 0, &stored));
    CHECK(stored);
    CHECK_OK(ikv_get(project, ikv_text("k"), 0, &reply));
    CHECK(check_is(ikv_reply_value(reply), "v"));
    ikv_reply_free(reply);
    CHECK_OK(ikv_get(project, ikv_text("missing"), 0, &reply));
    CHECK(ikv_reply_value(reply)->type == IKV_NIL);
    ikv_reply_free(reply);
    CHECK_OK(
        ikv_set(project, ikv_bytes_of("b\0\r\n", 4), ikv_bytes_of("\0\r\n\xff", 4), NULL, 0, NULL));
    CHECK_OK(ikv_get(project, ikv_bytes_of("b\0\r\n", 4), 0, &reply));
    CHECK(ikv_reply_value(reply)->size == 4 &&
          memcmp(ikv_reply_value(reply)->data, "\0\r\n\xff", 4) == 0);
    ikv_reply_free(reply);
    CHECK_OK(ikv_set(project, ikv_text("empty"), ikv_text(""), NULL, 0, NULL));
    CHECK_OK(ikv_get(project, ikv_text("empty"), 0, &reply));
    CHECK(check_is(ikv_reply_value(reply), ""));
    ikv_reply_free(reply);
}

static void check_conditions(void) {
    ikv_set_options options = {.flags = IKV_SET_IF_MISSING};
    int stored = 1;
    CHECK_OK(ikv_set(project, ikv_text("k"), ikv_text("w"), &options, 0, &stored));
    CHECK(!stored);
    options.flags = IKV_SET_IF_EXISTS;
    CHECK_OK(ikv_set(project, ikv_text("absent"), ikv_text("w"), &options, 0, &stored));
    CHECK(!stored);
    options.flags = IKV_SET_IF_EQUAL;
    options.expected = ikv_text("v");
    CHECK_OK(ikv_set(project, ikv_text("k"), ikv_text("w"), &options, 0, &stored));
    CHECK(stored);
    CHECK_OK(ikv_set(project, ikv_text("k"), ikv_text("x"), &options, 0, &stored));
    CHECK(!stored);
    options.flags = IKV_SET_IF_MISSING | IKV_SET_IF_EXISTS;
    CHECK(ikv_set(project, ikv_text("k"), ikv_text("x"), &options, 0, &stored) == IKV_ERR_INVALID);
}

static void check_versions(void) {
    ikv_reply *reply = NULL;
    uint64_t version = 1;
    int done = 0;
    CHECK_OK(ikv_get_version(project, ikv_text("ver"), 0, &version, NULL));
    CHECK(version == 0);
    CHECK_OK(ikv_cas(project, ikv_text("ver"), 0, ikv_text("one"), 0, 0, &done));
    CHECK(done);
    CHECK_OK(ikv_get_version(project, ikv_text("ver"), 0, &version, &reply));
    CHECK(version > 0 && check_is(&ikv_reply_value(reply)->elements[0], "one"));
    ikv_reply_free(reply);
    CHECK_OK(ikv_cas(project, ikv_text("ver"), version - 1, ikv_text("two"), 0, 0, &done));
    CHECK(!done);
    CHECK_OK(ikv_cas(project, ikv_text("ver"), version, ikv_text("two"), 60000, 0, &done));
    CHECK(done);
    CHECK_OK(ikv_cas_delete(project, ikv_text("ver"), version, 0, &done));
    CHECK(!done);
    CHECK_OK(ikv_get_version(project, ikv_text("ver"), 0, &version, NULL));
    CHECK_OK(ikv_cas_delete(project, ikv_text("ver"), version, 0, &done));
    CHECK(done);
}

static void check_has_delete_ttl(void) {
    ikv_set_options options = {.ttl_ms = 100000};
    int64_t ttl_ms = 0;
    int truth = 0;
    CHECK_OK(ikv_set(project, ikv_text("t"), ikv_text("v"), &options, 0, NULL));
    CHECK_OK(ikv_ttl(project, ikv_text("t"), 0, &ttl_ms));
    CHECK(ttl_ms > 50000 && ttl_ms <= 100000);
    options = (ikv_set_options){.flags = IKV_SET_KEEP_TTL};
    CHECK_OK(ikv_set(project, ikv_text("t"), ikv_text("w"), &options, 0, NULL));
    CHECK_OK(ikv_ttl(project, ikv_text("t"), 0, &ttl_ms));
    CHECK(ttl_ms > 0);
    CHECK_OK(ikv_set(project, ikv_text("t"), ikv_text("w"), NULL, 0, NULL));
    CHECK_OK(ikv_ttl(project, ikv_text("t"), 0, &ttl_ms));
    CHECK(ttl_ms == -1);
    CHECK_OK(ikv_has(project, ikv_text("t"), 0, &truth));
    CHECK(truth);
    CHECK_OK(ikv_delete(project, ikv_text("t"), 0, &truth));
    CHECK(truth);
    CHECK_OK(ikv_delete(project, ikv_text("t"), 0, &truth));
    CHECK(!truth);
    CHECK_OK(ikv_has(project, ikv_text("t"), 0, &truth));
    CHECK(!truth);
    CHECK_OK(ikv_ttl(project, ikv_text("t"), 0, &ttl_ms));
    CHECK(ttl_ms == -2);
}

static void check_many(void) {
    ikv_bytes keys[] = {ikv_text("m1"), ikv_text("m2"), ikv_text("m3")};
    ikv_bytes values[] = {ikv_text("1"), ikv_text("2"), ikv_text("3")};
    ikv_bytes asked[] = {ikv_text("m3"), ikv_text("m0"), ikv_text("m1")};
    ikv_reply *reply = NULL;
    int64_t deleted = 0;
    CHECK_OK(ikv_set_many(project, 3, keys, values, 0));
    CHECK_OK(ikv_get_many(project, 3, asked, 0, &reply));
    const ikv_value *value = ikv_reply_value(reply);
    CHECK(value->type == IKV_ARRAY && value->size == 3);
    CHECK(check_is(&value->elements[0], "3") && value->elements[1].type == IKV_NIL &&
          check_is(&value->elements[2], "1"));
    ikv_reply_free(reply);
    CHECK_OK(ikv_delete_many(project, 3, asked, 0, &deleted));
    CHECK(deleted == 2);
}

static void check_increment(void) {
    int64_t sum = 0;
    CHECK_OK(ikv_increment(project, ikv_text("n"), 5, 0, &sum));
    CHECK(sum == 5);
    CHECK_OK(ikv_increment(project, ikv_text("n"), -7, 0, &sum));
    CHECK(sum == -2);
    CHECK_OK(ikv_set(project, ikv_text("n"), ikv_text("word"), NULL, 0, NULL));
    CHECK(ikv_increment(project, ikv_text("n"), 1, 0, &sum) == IKV_ERR_REFUSED);
    CHECK(sum == 0);
}

static void check_list(void) {
    char key[32];
    int found = 0;
    for (int i = 0; i < 300; i++) {
        snprintf(key, sizeof key, i % 2 == 0 ? "li*t:%d" : "list:%d", i);
        CHECK_OK(ikv_set(project, ikv_text(key), ikv_text("x"), NULL, 0, NULL));
    }
    uint64_t cursor = 0;
    do {
        ikv_reply *reply = NULL;
        CHECK_OK(ikv_list(project, ikv_text("li*t:"), cursor, 50, 0, &cursor, &reply));
        const ikv_value *keys = ikv_reply_value(reply);
        CHECK(keys->type == IKV_ARRAY);
        for (size_t i = 0; i < keys->size; i++) {
            CHECK(keys->elements[i].size > 5 && memcmp(keys->elements[i].data, "li*t:", 5) == 0);
            found++;
        }
        ikv_reply_free(reply);
    } while (cursor != 0);
    CHECK(found == 150);
}

static void check_command(void) {
    ikv_bytes append[] = {ikv_text("append"), ikv_text("a"), ikv_text("bc")};
    ikv_bytes unknown[] = {ikv_text("nonsense"), ikv_text("a")};
    ikv_bytes multi[] = {ikv_text("multi")};
    ikv_reply *reply = NULL;
    CHECK_OK(ikv_command(project, 3, append, 0, &reply));
    CHECK(ikv_reply_value(reply)->type == IKV_INTEGER && ikv_reply_value(reply)->integer == 2);
    ikv_reply_free(reply);
    CHECK(ikv_command(project, 2, unknown, 0, &reply) == IKV_ERR_REFUSED);
    CHECK(strstr(ikv_reply_message(reply), "unknown command") != NULL);
    ikv_reply_free(reply);
    CHECK(ikv_command(project, 1, multi, 0, &reply) == IKV_ERR_INVALID);
    ikv_reply_free(reply);
}

static void check_sizes(void) {
    size_t size = (size_t)3 << 20;
    char *large = malloc(size);
    ikv_reply *reply = NULL;
    CHECK(large != NULL);
    memset(large, 'x', size);
    /* On a busy machine it may take longer than a leader lasts. */
    int error = IKV_ERR_UNKNOWN_OUTCOME;
    for (int i = 0; i < 10 && error == IKV_ERR_UNKNOWN_OUTCOME; i++) {
        error = ikv_set(project, ikv_text("large"), ikv_bytes_of(large, size), NULL, 30000, NULL);
    }
    CHECK_OK(error);
    CHECK_OK(ikv_get(project, ikv_text("large"), 30000, &reply));
    CHECK(ikv_reply_value(reply)->size == size);
    CHECK(memcmp(ikv_reply_value(reply)->data, large, size) == 0);
    ikv_reply_free(reply);
    CHECK(ikv_get(project, ikv_bytes_of(large, 65537), 0, NULL) == IKV_ERR_TOO_BIG);
    CHECK(ikv_get(project, ikv_text(""), 0, NULL) == IKV_ERR_INVALID);
    free(large);
    large = malloc((size_t)17 << 20);
    CHECK(large != NULL);
    memset(large, 'y', (size_t)17 << 20);
    CHECK(ikv_set(project, ikv_text("large"), ikv_bytes_of(large, (size_t)17 << 20), NULL, 0,
                  NULL) == IKV_ERR_TOO_BIG);
    free(large);
    CHECK_OK(ikv_delete(project, ikv_text("large"), 0, NULL));
}

static void check_usage(void) {
    ikv_usage usage;
    CHECK_OK(ikv_clear(project, 0));
    CHECK_OK(ikv_set(project, ikv_text("key"), ikv_text("value"), NULL, 0, NULL));
    CHECK_OK(ikv_get_usage(project, 0, &usage));
    CHECK(usage.keys == 1 && usage.used_bytes == 8 && usage.quota_bytes > 8 && usage.leader > 0);
}

/* What this level promises: a read answers something that was once there, and the newest in the
 * end. */
static void check_eventual(void) {
    CHECK_OK(ikv_set(project, ikv_text("k"), ikv_text("v"), NULL, 0, NULL));
    for (int i = 0; i < 1000; i++) {
        ikv_reply *reply = NULL;
        CHECK_OK(ikv_get(project, ikv_text("k"), 0, &reply));
        bool found = check_is(ikv_reply_value(reply), "v");
        CHECK(found || ikv_reply_value(reply)->type == IKV_NIL);
        ikv_reply_free(reply);
        if (found) {
            return;
        }
        usleep(10000);
    }
    CHECK(false);
}

static void check_all(void) {
    check_set_and_get();
    check_conditions();
    check_versions();
    check_has_delete_ttl();
    check_many();
    check_increment();
    check_list();
    check_command();
    check_sizes();
    check_usage();
}

int main(int argc, char **argv) {
    CHECK(argc == 4);
    ikv_client *client = check_open(argv[1], NULL);
    CHECK_OK(ikv_ping(client, 0, NULL));
    CHECK_OK(ikv_project_open(client, argv[2], NULL, (enum ikv_level)atoi(argv[3]), 0, &project));
    CHECK_OK(ikv_clear(project, 0));
    if (atoi(argv[3]) == IKV_EVENTUAL) {
        check_eventual();
    } else {
        check_all();
    }
    ikv_project_close(project);
    CHECK_OK(ikv_close(client));
    printf("operations: ok\n");
    return 0;
}
