/* Authentication: access SEEDS ADMIN-SECRET SERVICE-SECRET, against a cluster that requires it. */
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

enum { PROJECTS = 30 };

static const char *seeds;
static char tokens[PROJECTS][128];
static atomic_int answers;

static ikv_client *open_as(const char *user, const char *secret) {
    ikv_options *options = ikv_options_new();
    CHECK_OK(ikv_options_set_text(options, IKV_OPTION_USER, user));
    CHECK_OK(ikv_options_set_text(options, IKV_OPTION_SECRET, secret));
    ikv_client *client = check_open(seeds, options);
    ikv_options_free(options);
    return client;
}

static ikv_project *open_project(ikv_client *client, const char *name, const char *token) {
    ikv_project *project = NULL;
    CHECK_OK(ikv_project_open(client, name, token, IKV_LINEARIZABLE, 0, &project));
    return project;
}

static void create_projects(ikv_client *admin) {
    for (int i = 0; i < PROJECTS; i++) {
        char name[32];
        ikv_reply *reply = NULL;
        snprintf(name, sizeof name, "access %d", i);
        ikv_bytes words[] = {ikv_text("PROJECT"), ikv_text("CREATE"), ikv_text(name),
                             ikv_text("TOKEN"), ikv_text("READWRITE")};
        CHECK_OK(ikv_node_command(admin, NULL, 5, words, 20000, &reply));
        const ikv_value *value = ikv_reply_value(reply);
        CHECK(value->type == IKV_STRING && value->size < sizeof tokens[i]);
        memcpy(tokens[i], value->data, value->size + 1);
        ikv_reply_free(reply);
    }
}

static void check_no_token(ikv_client *client) {
    ikv_project *none = open_project(client, "access 0", NULL);
    CHECK(ikv_get(none, ikv_text("k"), 3000, NULL) == IKV_ERR_AUTH);
    CHECK(ikv_set(none, ikv_text("k"), ikv_text("v"), NULL, 3000, NULL) == IKV_ERR_AUTH);
    ikv_project_close(none);
}

static void check_wrong_token(ikv_client *client) {
    ikv_project *wrong = open_project(client, "access 0", tokens[1]);
    ikv_reply *reply = NULL;
    CHECK(ikv_set(wrong, ikv_text("k"), ikv_text("v"), NULL, 3000, NULL) == IKV_ERR_AUTH);
    CHECK(ikv_get(wrong, ikv_text("k"), 3000, &reply) == IKV_ERR_AUTH);
    CHECK(strstr(ikv_reply_message(reply), "WRONGPASS") != NULL);
    ikv_reply_free(reply);
    ikv_project_close(wrong);
}

static void got(void *data, ikv_reply *reply) {
    CHECK(ikv_reply_error(reply) == IKV_OK);
    CHECK(check_is(ikv_reply_value(reply), data));
    atomic_fetch_add(&answers, 1);
}

/* Many projects over the same connections, each sees its own values. */
static void check_projects(ikv_client *client) {
    ikv_project *projects[PROJECTS];
    char names[PROJECTS][32];
    for (int i = 0; i < PROJECTS; i++) {
        snprintf(names[i], sizeof names[i], "access %d", i);
        projects[i] = open_project(client, names[i], tokens[i]);
        CHECK_OK(ikv_set(projects[i], ikv_text("name"), ikv_text(names[i]), NULL, 0, NULL));
    }
    for (int i = 0; i < PROJECTS * 20; i++) {
        int n = (i * 7) % PROJECTS;
        CHECK_OK(ikv_get_async(projects[n], ikv_text("name"), 20000, got, names[n]));
    }
    while (atomic_load(&answers) < PROJECTS * 20) {
        usleep(1000);
    }
    for (int i = 0; i < PROJECTS; i++) {
        ikv_project_close(projects[i]);
    }
}

static void check_revocation(ikv_client *admin, ikv_client *client) {
    ikv_project *project = open_project(client, "access 3", tokens[3]);
    char id[17];
    snprintf(id, sizeof id, "%.16s", tokens[3] + 4);
    ikv_bytes words[] = {ikv_text("PROJECT"), ikv_text("TOKEN"), ikv_text("REVOKE"),
                         ikv_text("access 3"), ikv_text(id)};
    CHECK_OK(ikv_get(project, ikv_text("name"), 0, NULL));
    CHECK_OK(ikv_node_command(admin, NULL, 5, words, 20000, NULL));
    CHECK(ikv_get(project, ikv_text("name"), 3000, NULL) == IKV_ERR_AUTH);
    CHECK(ikv_set(project, ikv_text("name"), ikv_text("x"), NULL, 3000, NULL) == IKV_ERR_AUTH);
    ikv_project_close(project);
}

static void check_read_only(ikv_client *admin, ikv_client *client) {
    ikv_reply *reply = NULL;
    ikv_bytes words[] = {ikv_text("PROJECT"), ikv_text("TOKEN"), ikv_text("ADD"),
                         ikv_text("access 4"), ikv_text("READONLY")};
    CHECK_OK(ikv_node_command(admin, NULL, 5, words, 20000, &reply));
    ikv_project *reader = open_project(client, "access 4", ikv_reply_value(reply)->data);
    ikv_project *writer = open_project(client, "access 4", tokens[4]);
    ikv_reply_free(reply);
    /* Two tokens of a project over the same connections: each keeps its own rights. */
    for (int i = 0; i < 5; i++) {
        CHECK_OK(ikv_get(reader, ikv_text("name"), 0, NULL));
        CHECK(ikv_set(reader, ikv_text("k"), ikv_text("v"), NULL, 3000, NULL) ==
              IKV_ERR_PERMISSION);
        CHECK_OK(ikv_set(writer, ikv_text("k"), ikv_text("v"), NULL, 0, NULL));
    }
    ikv_project_close(reader);
    ikv_project_close(writer);
}

static void check_quota(ikv_client *admin, ikv_client *client) {
    ikv_bytes words[] = {ikv_text("PROJECT"), ikv_text("SET-QUOTA"), ikv_text("access 5"),
                         ikv_text("30")};
    ikv_project *project = open_project(client, "access 5", tokens[5]);
    ikv_usage usage;
    CHECK_OK(ikv_node_command(admin, NULL, 4, words, 20000, NULL));
    CHECK(ikv_set(project, ikv_text("k"), ikv_text("longer than what is left"), NULL, 0, NULL) ==
          IKV_ERR_QUOTA);
    CHECK_OK(ikv_get_usage(project, 0, &usage));
    CHECK(usage.quota_bytes == 30 && usage.keys == 1);
    ikv_project_close(project);
}

static void check_service(const char *secret) {
    ikv_client *service = open_as("service", secret);
    ikv_project *project = NULL;
    CHECK(ikv_project_open(service, "access 6", tokens[6], IKV_LINEARIZABLE, 0, &project) ==
          IKV_ERR_INVALID);
    for (int i = 6; i < 12; i++) {
        char name[32];
        snprintf(name, sizeof name, "access %d", i);
        project = open_project(service, name, NULL);
        ikv_reply *reply = NULL;
        CHECK_OK(ikv_get(project, ikv_text("name"), 0, &reply));
        CHECK(check_is(ikv_reply_value(reply), name));
        ikv_reply_free(reply);
        ikv_project_close(project);
    }
    project = open_project(service, "there is none", NULL);
    CHECK(ikv_get(project, ikv_text("name"), 3000, NULL) == IKV_ERR_AUTH);
    ikv_project_close(project);
    CHECK_OK(ikv_close(service));
    service = open_as("service", "not the secret of this service");
    project = open_project(service, "access 6", NULL);
    CHECK(ikv_get(project, ikv_text("name"), 3000, NULL) == IKV_ERR_AUTH);
    ikv_project_close(project);
    CHECK_OK(ikv_close(service));
}

int main(int argc, char **argv) {
    CHECK(argc == 4);
    seeds = argv[1];
    ikv_client *admin = open_as("admin", argv[2]);
    ikv_client *client = check_open(seeds, NULL);
    create_projects(admin);
    check_no_token(client);
    check_wrong_token(client);
    check_projects(client);
    check_wrong_token(client);
    check_revocation(admin, client);
    check_read_only(admin, client);
    check_quota(admin, client);
    check_service(argv[3]);
    CHECK_OK(ikv_close(client));
    CHECK_OK(ikv_close(admin));
    printf("access: ok\n");
    return 0;
}
