/* Transactions, watched versions, tokens that take turns: transactions SEEDS THREADS
 *
 * Each thread moves amounts between accounts by optimistic transactions; the sum must stay. */
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>

enum { ACCOUNTS = 4, MOVES = 100 };

static ikv_project *project;
static atomic_int conflicts;

static void add(ikv_transaction *transaction, const char *verb, const char *key,
                const char *value) {
    ikv_bytes words[] = {ikv_text(verb), ikv_text(key), ikv_text(value)};
    CHECK_OK(ikv_transaction_add(transaction, 3, words));
}

static long long read_account(const char *name, uint64_t *version) {
    ikv_reply *reply = NULL;
    CHECK_OK(ikv_get_version(project, ikv_text(name), 30000, version, &reply));
    long long amount = atoll(ikv_reply_value(reply)->elements[0].data);
    ikv_reply_free(reply);
    return amount;
}

/* 1 when it happened, 0 when somebody else was quicker. */
static int move_once(const char *from, const char *to) {
    uint64_t from_version;
    uint64_t to_version;
    char less[32];
    char more[32];
    ikv_reply *reply = NULL;
    snprintf(less, sizeof less, "%lld", read_account(from, &from_version) - 1);
    snprintf(more, sizeof more, "%lld", read_account(to, &to_version) + 1);
    ikv_transaction *transaction = ikv_transaction_new(project);
    CHECK(transaction != NULL);
    CHECK_OK(ikv_transaction_watch(transaction, ikv_text(from), from_version));
    CHECK_OK(ikv_transaction_watch(transaction, ikv_text(to), to_version));
    add(transaction, "SET", from, less);
    add(transaction, "SET", to, more);
    CHECK_OK(ikv_transaction_run(transaction, 30000, &reply));
    int done = ikv_reply_value(reply)->type == IKV_ARRAY;
    CHECK(!done || ikv_reply_value(reply)->size == 2);
    ikv_reply_free(reply);
    ikv_transaction_free(transaction);
    return done;
}

static void *run(void *data) {
    unsigned seed = *(unsigned *)data;
    for (int i = 0; i < MOVES; i++) {
        char from[32];
        char to[32];
        seed = seed * 1103515245u + 12345u;
        unsigned first = (seed >> 16) % ACCOUNTS;
        snprintf(from, sizeof from, "account-%u", first);
        snprintf(to, sizeof to, "account-%u",
                 (first + 1 + (seed >> 20) % (ACCOUNTS - 1)) % ACCOUNTS);
        while (!move_once(from, to)) {
            atomic_fetch_add(&conflicts, 1);
        }
    }
    return NULL;
}

static void check_values(void) {
    ikv_reply *reply = NULL;
    ikv_transaction *transaction = ikv_transaction_new(project);
    ikv_bytes get[] = {ikv_text("GET"), ikv_text("t")};
    ikv_bytes increment[] = {ikv_text("INCR"), ikv_text("t")};
    add(transaction, "SET", "t", "word");
    CHECK_OK(ikv_transaction_add(transaction, 2, increment));
    CHECK_OK(ikv_transaction_add(transaction, 2, get));
    CHECK_OK(ikv_transaction_run(transaction, 0, &reply));
    const ikv_value *value = ikv_reply_value(reply);
    CHECK(value->type == IKV_ARRAY && value->size == 3);
    CHECK(value->elements[0].type == IKV_STATUS && value->elements[1].type == IKV_ERROR);
    CHECK(check_is(&value->elements[2], "word"));
    ikv_reply_free(reply);
    /* A version that is not the key's: nothing happens. */
    CHECK_OK(ikv_transaction_watch(transaction, ikv_text("t"), 1));
    CHECK_OK(ikv_transaction_run(transaction, 0, &reply));
    CHECK(ikv_reply_value(reply)->type == IKV_NIL);
    ikv_reply_free(reply);
    ikv_transaction_free(transaction);
    /* Reads alone, and commands that the server refuses. */
    transaction = ikv_transaction_new(project);
    CHECK_OK(ikv_transaction_add(transaction, 2, get));
    CHECK_OK(ikv_transaction_run(transaction, 0, &reply));
    CHECK(check_is(&ikv_reply_value(reply)->elements[0], "word"));
    ikv_reply_free(reply);
    CHECK_OK(ikv_transaction_add(transaction, 1, get)); /* GET without a key */
    CHECK(ikv_transaction_run(transaction, 0, &reply) == IKV_ERR_REFUSED);
    CHECK(strstr(ikv_reply_message(reply), "wrong number of arguments") != NULL);
    ikv_reply_free(reply);
    ikv_transaction_free(transaction);
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    int n = atoi(argv[2]);
    pthread_t threads[16];
    unsigned seeds[16];
    CHECK(n >= 1 && n <= 16);
    ikv_client *client = check_open(argv[1], NULL);
    CHECK_OK(ikv_project_open(client, "bank", NULL, IKV_LINEARIZABLE, 0, &project));
    CHECK_OK(ikv_clear(project, 0));
    check_values();
    for (int i = 0; i < ACCOUNTS; i++) {
        char name[32];
        snprintf(name, sizeof name, "account-%d", i);
        CHECK_OK(ikv_set(project, ikv_text(name), ikv_text("100"), NULL, 0, NULL));
    }
    for (int i = 0; i < n; i++) {
        seeds[i] = (unsigned)i + 1;
        CHECK(pthread_create(&threads[i], NULL, run, &seeds[i]) == 0);
    }
    for (int i = 0; i < n; i++) {
        pthread_join(threads[i], NULL);
    }
    long long sum = 0;
    for (int i = 0; i < ACCOUNTS; i++) {
        char name[32];
        snprintf(name, sizeof name, "account-%d", i);
        sum += read_account(name, &(uint64_t){0});
    }
    CHECK(sum == 100 * ACCOUNTS);
    printf("transactions: ok, %d moves, %d conflicts\n", n * MOVES, atomic_load(&conflicts));
    ikv_project_close(project);
    CHECK_OK(ikv_close(client));
    return 0;
}
