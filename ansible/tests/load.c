/* A client that counts: writes and reads through libinvokekv until SIGTERM, then reads everything
 * again and prints what became of it, as one JSON object.
 *
 *   ansible-load SEEDS CA_FILE SECRET_FILE PROJECT
 *
 * Each worker has a project of its own (PROJECT-0, ...), which must be empty, and is the only one to write there, so it knows what every
 * read must answer. An operation that fails is never repeated by it: the library does what it
 * promises, or the operation counts as failed. */
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/include/invoke_kv.h"

enum { WORKERS = 8, KEYS = 64, PAUSE_US = 4000, TIMEOUT_MS = 20000, TEXT_SIZE = 256 };

struct key {
    uint64_t acknowledged; /* 0: none yet */
    uint64_t unknown;      /* a write whose fate nobody knows; the key is not written again */
};

struct worker {
    pthread_t thread;
    ikv_project *project;
    struct key keys[KEYS];
    uint64_t number;
    uint64_t n_done, n_failed, n_unknown, n_wrong, n_lost;
    uint64_t longest_ms;
    char error[TEXT_SIZE];
};

static volatile sig_atomic_t stopping;

static void on_signal(int number) {
    (void)number;
    stopping = 1;
}

static uint64_t now_ms(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void note_error(struct worker *worker, int error, const char *what) {
    if (worker->error[0] == '\0') {
        snprintf(worker->error, sizeof worker->error, "%s: %s", what, ikv_strerror(error));
    }
}

static void write_key(struct worker *worker, unsigned at, const char *name) {
    struct key *key = &worker->keys[at];
    char value[32];
    if (key->unknown != 0) {
        return;
    }
    uint64_t number = ++worker->number;
    snprintf(value, sizeof value, "%" PRIu64, number);
    int error = ikv_set(worker->project, ikv_text(name), ikv_text(value), NULL, TIMEOUT_MS, NULL);
    switch (ikv_outcome(error)) {
    case IKV_OUTCOME_DONE:
        key->acknowledged = number;
        worker->n_done++;
        return;
    case IKV_OUTCOME_NOT_DONE:
        worker->n_failed++;
        break;
    case IKV_OUTCOME_UNKNOWN:
        worker->n_unknown++;
        key->unknown = number;
        break;
    }
    note_error(worker, error, "set");
}

/* 0 for a missing key. False: no answer. */
static bool read_key(struct worker *worker, const char *name, uint64_t *number) {
    ikv_reply *reply = NULL;
    int error = ikv_get(worker->project, ikv_text(name), TIMEOUT_MS, &reply);
    if (error == IKV_OK) {
        const ikv_value *value = ikv_reply_value(reply);
        *number = value->type == IKV_STRING ? strtoull(value->data, NULL, 10) : 0;
    } else {
        note_error(worker, error, "get");
    }
    ikv_reply_free(reply);
    return error == IKV_OK;
}

static bool may_be(const struct key *key, uint64_t number) {
    return number == key->acknowledged || (key->unknown != 0 && number == key->unknown);
}

static void check_key(struct worker *worker, unsigned at, const char *name, uint64_t *n_wrong) {
    uint64_t number = 0;
    if (!read_key(worker, name, &number)) {
        worker->n_failed++;
        return;
    }
    worker->n_done++;
    if (!may_be(&worker->keys[at], number)) {
        ++*n_wrong;
        fprintf(stderr, "%s/%s is %" PRIu64 ", acknowledged %" PRIu64 "\n",
                ikv_project_name(worker->project), name, number, worker->keys[at].acknowledged);
    }
}

static void *work(void *data) {
    struct worker *worker = data;
    const struct timespec pause = {.tv_nsec = PAUSE_US * 1000};
    char name[16];
    for (uint64_t i = 0; !stopping; i++) {
        unsigned at = (unsigned)(i / 2 % KEYS);
        uint64_t started_ms = now_ms();
        snprintf(name, sizeof name, "key-%u", at);
        if (i % 2 == 0) {
            write_key(worker, at, name);
        } else {
            check_key(worker, at, name, &worker->n_wrong);
        }
        uint64_t took_ms = now_ms() - started_ms;
        worker->longest_ms = took_ms > worker->longest_ms ? took_ms : worker->longest_ms;
        (void)nanosleep(&pause, NULL);
    }
    for (unsigned at = 0; at < KEYS; at++) {
        snprintf(name, sizeof name, "key-%u", at);
        check_key(worker, at, name, &worker->n_lost);
    }
    return NULL;
}

static ikv_client *open_client(char **argv) {
    char secret[TEXT_SIZE] = {0}, message[TEXT_SIZE] = {0};
    ikv_client *client = NULL;
    FILE *file = fopen(argv[3], "r");
    if (file == NULL || fgets(secret, sizeof secret, file) == NULL) {
        perror(argv[3]);
        exit(2);
    }
    (void)fclose(file);
    secret[strcspn(secret, "\n")] = '\0';
    ikv_options *options = ikv_options_new();
    (void)ikv_options_set_text(options, IKV_OPTION_CA_FILE, argv[2]);
    (void)ikv_options_set_text(options, IKV_OPTION_USER, "admin");
    (void)ikv_options_set_text(options, IKV_OPTION_SECRET, secret);
    if (ikv_open(argv[1], options, &client, message, sizeof message) != IKV_OK) {
        fprintf(stderr, "cannot open the client: %s\n", message);
        exit(2);
    }
    ikv_options_free(options);
    return client;
}

static void print_result(const struct worker *workers) {
    struct worker sum = {0};
    for (unsigned i = 0; i < WORKERS; i++) {
        const struct worker *worker = &workers[i];
        sum.n_done += worker->n_done;
        sum.n_failed += worker->n_failed;
        sum.n_unknown += worker->n_unknown;
        sum.n_wrong += worker->n_wrong;
        sum.n_lost += worker->n_lost;
        sum.longest_ms = worker->longest_ms > sum.longest_ms ? worker->longest_ms : sum.longest_ms;
        if (sum.error[0] == '\0') {
            memcpy(sum.error, worker->error, sizeof sum.error);
        }
    }
    printf("{\"done\": %" PRIu64 ", \"failed\": %" PRIu64 ", \"unknown\": %" PRIu64
           ", \"wrong\": %" PRIu64 ", \"lost\": %" PRIu64 ", \"longest_ms\": %" PRIu64
           ", \"error\": \"%s\"}\n",
           sum.n_done, sum.n_failed, sum.n_unknown, sum.n_wrong, sum.n_lost, sum.longest_ms,
           sum.error);
}

int main(int argc, char **argv) {
    static struct worker workers[WORKERS];
    if (argc != 5) {
        fputs("Usage: ansible-load SEEDS CA_FILE SECRET_FILE PROJECT\n", stderr);
        return 2;
    }
    ikv_client *client = open_client(argv);
    (void)signal(SIGTERM, on_signal);
    (void)signal(SIGINT, on_signal);
    for (unsigned i = 0; i < WORKERS; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s-%u", argv[4], i);
        if (ikv_project_open(client, name, NULL, IKV_LINEARIZABLE, 0, &workers[i].project) != 0 ||
            pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0) {
            fputs("cannot start a worker\n", stderr);
            return 2;
        }
    }
    for (unsigned i = 0; i < WORKERS; i++) {
        (void)pthread_join(workers[i].thread, NULL);
        ikv_project_close(workers[i].project);
    }
    (void)ikv_close(client);
    print_result(workers);
    return 0;
}
