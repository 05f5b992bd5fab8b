/* Counters under load, from several threads over many projects, blocking and asynchronous:
 *
 *     load SEEDS PROJECTS THREADS SECONDS [DEADLINE_MS]
 *
 * Each thread adds 1 to the counters of its projects in turn and keeps what it was told. At the end
 * every counter must be at least the acknowledged additions, and at most those plus the ones of
 * unknown outcome. It prints: acknowledged unknown failed, and "exact" when nothing was unknown. */
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>
#include <unistd.h>

enum { PROJECTS_MAX = 512, WINDOW = 64 };

struct counter {
    ikv_project *project;
    atomic_llong acknowledged;
    atomic_llong unknown;
    atomic_llong failed;
};

static struct counter counters[PROJECTS_MAX];
static int n_projects;
static uint32_t deadline_ms;
static atomic_bool stopping;

struct worker {
    pthread_t thread;
    int number;
    atomic_int under_way;
};

struct one {
    struct worker *worker;
    struct counter *counter;
};

static void note(struct counter *counter, int error) {
    switch (ikv_outcome(error)) {
    case IKV_OUTCOME_DONE:
        atomic_fetch_add(&counter->acknowledged, 1);
        return;
    case IKV_OUTCOME_UNKNOWN:
        atomic_fetch_add(&counter->unknown, 1);
        return;
    case IKV_OUTCOME_NOT_DONE:
        atomic_fetch_add(&counter->failed, 1);
        return;
    }
}

static void added(void *data, ikv_reply *reply) {
    struct one *one = data;
    note(one->counter, ikv_reply_error(reply));
    if (ikv_reply_error(reply) != IKV_OK) {
        fprintf(stderr, "%s: %s\n", ikv_strerror(ikv_reply_error(reply)), ikv_reply_message(reply));
    }
    atomic_fetch_sub(&one->worker->under_way, 1);
    free(one);
}

static void add_async(struct worker *worker, struct counter *counter) {
    struct one *one = malloc(sizeof *one);
    CHECK(one != NULL);
    *one = (struct one){worker, counter};
    atomic_fetch_add(&worker->under_way, 1);
    int error =
        ikv_increment_async(counter->project, ikv_text("counter"), 1, deadline_ms, added, one);
    if (error != IKV_OK) {
        note(counter, error);
        atomic_fetch_sub(&worker->under_way, 1);
        free(one);
    }
}

static void *run(void *data) {
    struct worker *worker = data;
    for (int i = worker->number; !atomic_load(&stopping); i++) {
        struct counter *counter = &counters[i % n_projects];
        if (i % 16 == 0) {
            note(counter,
                 ikv_increment(counter->project, ikv_text("counter"), 1, deadline_ms, NULL));
        } else if (atomic_load(&worker->under_way) < WINDOW) {
            add_async(worker, counter);
        } else {
            usleep(200);
            i--;
        }
    }
    while (atomic_load(&worker->under_way) > 0) {
        usleep(1000);
    }
    return NULL;
}

static void check_counter(struct counter *counter) {
    ikv_reply *reply = NULL;
    CHECK_OK(ikv_get(counter->project, ikv_text("counter"), 30000, &reply));
    const ikv_value *value = ikv_reply_value(reply);
    long long found = value->type == IKV_STRING ? atoll(value->data) : 0;
    long long least = atomic_load(&counter->acknowledged);
    long long most = least + atomic_load(&counter->unknown);
    if (found < least || found > most) {
        fprintf(stderr, "%s: the counter is %lld, acknowledged were %lld, unknown %lld\n",
                ikv_project_name(counter->project), found, least, most - least);
        exit(1);
    }
    ikv_reply_free(reply);
}

int main(int argc, char **argv) {
    CHECK(argc >= 5);
    n_projects = atoi(argv[2]);
    int n_threads = atoi(argv[3]);
    deadline_ms = argc > 5 ? (uint32_t)atoi(argv[5]) : 20000;
    CHECK(n_projects >= 1 && n_projects <= PROJECTS_MAX && n_threads >= 1 && n_threads <= 64);
    ikv_client *client = check_open(argv[1], NULL);
    for (int i = 0; i < n_projects; i++) {
        char name[32];
        snprintf(name, sizeof name, "load-%d", i);
        CHECK_OK(
            ikv_project_open(client, name, NULL, (enum ikv_level)(i % 3), 0, &counters[i].project));
    }
    struct worker workers[64] = {0};
    for (int i = 0; i < n_threads; i++) {
        workers[i].number = i * 7919;
        CHECK(pthread_create(&workers[i].thread, NULL, run, &workers[i]) == 0);
    }
    sleep((unsigned)atoi(argv[4]));
    atomic_store(&stopping, true);
    long long acknowledged = 0;
    long long unknown = 0;
    long long failed = 0;
    for (int i = 0; i < n_threads; i++) {
        pthread_join(workers[i].thread, NULL);
    }
    ikv_client *judge = check_open(argv[1], NULL);
    for (int i = 0; i < n_projects; i++) {
        struct counter *counter = &counters[i];
        char name[32];
        ikv_project_close(counter->project);
        snprintf(name, sizeof name, "load-%d", i);
        CHECK_OK(ikv_project_open(judge, name, NULL, IKV_LINEARIZABLE, 0, &counter->project));
        check_counter(counter);
        ikv_project_close(counter->project);
        acknowledged += atomic_load(&counter->acknowledged);
        unknown += atomic_load(&counter->unknown);
        failed += atomic_load(&counter->failed);
    }
    CHECK_OK(ikv_close(judge));
    CHECK_OK(ikv_close(client));
    printf("acknowledged %lld unknown %lld failed %lld%s\n", acknowledged, unknown, failed,
           unknown == 0 ? " exact" : "");
    return 0;
}
