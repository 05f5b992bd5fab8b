/* A watch through whatever happens to the nodes: watching SEEDS
 *
 * One thread counts a key up until the standard input ends; the watch must tell each value's event
 * once, in order, and the progress must reach the last write. */
#include "check.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <unistd.h>

static atomic_llong changes;
static atomic_llong newest;   /* index of the newest change */
static atomic_llong complete; /* of the newest progress */
static atomic_int ready;
static atomic_int gaps;
static atomic_int ended;

static void note(void *data, const ikv_event *event) {
    (void)data;
    switch (event->type) {
    case IKV_EVENT_READY:
        atomic_fetch_add(&ready, 1);
        return;
    case IKV_EVENT_CHANGE:
        CHECK(event->key.size == 8 && memcmp(event->key.data, "watch:me", 8) == 0);
        CHECK(event->kind.size == 3 && memcmp(event->kind.data, "set", 3) == 0);
        CHECK((long long)event->index > atomic_load(&complete));
        CHECK((long long)event->index >= atomic_load(&newest));
        atomic_store(&newest, (long long)event->index);
        atomic_fetch_add(&changes, 1);
        return;
    case IKV_EVENT_PROGRESS:
        CHECK((long long)event->index >= atomic_load(&complete));
        atomic_store(&complete, (long long)event->index);
        return;
    case IKV_EVENT_GAP:
        atomic_fetch_add(&gaps, 1);
        return;
    default:
        CHECK(event->error == IKV_ERR_CLOSED);
        atomic_fetch_add(&ended, 1);
        return;
    }
}

static void wait_for(const char *what, atomic_int *value) {
    for (int i = 0; i < 6000 && atomic_load(value) == 0; i++) {
        usleep(10000);
    }
    if (atomic_load(value) == 0) {
        fprintf(stderr, "waited in vain: %s\n", what);
        exit(1);
    }
}

static bool may_go_on(void) {
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    return poll(&input, 1, 0) == 0;
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    ikv_client *client = check_open(argv[1], NULL);
    ikv_project *project = NULL;
    ikv_watch *watch = NULL;
    ikv_watch *other = NULL;
    CHECK_OK(ikv_project_open(client, "watching", NULL, IKV_LINEARIZABLE, 0, &project));
    CHECK_OK(ikv_watch_open(project, ikv_text("watch:"), 0, note, NULL, &watch));
    wait_for("the watch to be ready", &ready);
    long long writes = 0;
    uint64_t version = 0;
    while (may_go_on()) {
        int64_t sum = 0;
        CHECK_OK(ikv_increment(project, ikv_text("watch:me"), 1, 30000, &sum));
        CHECK_OK(ikv_set(project, ikv_text("not:me"), ikv_text("x"), NULL, 30000, NULL));
        writes++;
        CHECK(sum == writes);
        usleep(2000);
    }
    CHECK_OK(ikv_get_version(project, ikv_text("watch:me"), 30000, &version, NULL));
    for (int i = 0; i < 3000 && atomic_load(&complete) < (long long)version; i++) {
        usleep(10000);
    }
    printf("watching: %lld writes, %lld changes, %d times ready, %d gaps\n", writes,
           atomic_load(&changes), atomic_load(&ready), atomic_load(&gaps));
    fflush(stdout);
    CHECK(atomic_load(&complete) >= (long long)version);
    CHECK(atomic_load(&gaps) > 0 || atomic_load(&changes) == writes);
    ikv_watch_close(watch);
    CHECK(atomic_load(&ended) == 0);
    /* One that is open when the client closes ends with an event, and is closed later. */
    CHECK_OK(ikv_watch_open(project, ikv_text(""), 0, note, NULL, &other));
    CHECK_OK(ikv_close(client));
    CHECK(atomic_load(&ended) == 1);
    ikv_watch_close(other);
    ikv_project_close(project);
    return 0;
}
