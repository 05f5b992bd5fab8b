/* The asynchronous functions: thousands of requests under way from one thread.
 *
 *     pipeline [SEEDS [COUNT]] */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include <invoke_kv.h>

struct progress {
    pthread_mutex_t mutex;
    pthread_cond_t all_answered;
    int left;
    int failed;
};

/* On the client's thread: note the answer and return. */
static void answered(void *data, ikv_reply *reply) {
    struct progress *progress = data;
    pthread_mutex_lock(&progress->mutex);
    if (ikv_reply_error(reply) != IKV_OK) {
        fprintf(stderr, "%s\n", ikv_reply_message(reply));
        progress->failed++;
    }
    if (--progress->left == 0) {
        pthread_cond_signal(&progress->all_answered);
    }
    pthread_mutex_unlock(&progress->mutex);
}

int main(int argc, char **argv) {
    const char *seeds = argc > 1 ? argv[1] : "127.0.0.1:7101";
    int count = argc > 2 ? atoi(argv[2]) : 10000;
    struct progress progress = {.mutex = PTHREAD_MUTEX_INITIALIZER,
                                .all_answered = PTHREAD_COND_INITIALIZER,
                                .left = count};
    ikv_client *client;
    ikv_project *project;
    if (ikv_open(seeds, NULL, &client, NULL, 0) != IKV_OK ||
        ikv_project_open(client, "pipeline", NULL, IKV_LINEARIZABLE, 0, &project) != IKV_OK) {
        fprintf(stderr, "bad seeds\n");
        return 1;
    }
    ikv_cork(client); /* the client's thread is woken once, by ikv_uncork() */
    for (int i = 0; i < count; i++) {
        char key[32];
        snprintf(key, sizeof key, "key-%d", i);
        /* The key is copied: the buffer may be used again at once. */
        int error = ikv_set_async(project, ikv_text(key), ikv_text("value"), NULL, 30000, answered,
                                  &progress);
        if (error != IKV_OK) { /* no callback follows */
            pthread_mutex_lock(&progress.mutex);
            progress.failed++;
            progress.left--;
            pthread_mutex_unlock(&progress.mutex);
        }
    }
    ikv_uncork(client);
    pthread_mutex_lock(&progress.mutex);
    while (progress.left > 0) {
        pthread_cond_wait(&progress.all_answered, &progress.mutex);
    }
    pthread_mutex_unlock(&progress.mutex);
    printf("%d written, %d failed\n", count - progress.failed, progress.failed);
    ikv_project_close(project);
    ikv_close(client);
    return progress.failed == 0 ? 0 : 1;
}
