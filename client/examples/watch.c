/* Prints what happens to the keys with a prefix, until a number of changes has been seen:
 *
 *     watch [SEEDS [PROJECT [PREFIX [CHANGES]]]] */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include <invoke_kv.h>

struct viewer {
    pthread_mutex_t mutex;
    pthread_cond_t done;
    int left;
};

static void show(void *data, const ikv_event *event) {
    struct viewer *viewer = data;
    unsigned long long index = event->index;
    switch (event->type) {
    case IKV_EVENT_READY:
        printf("ready behind %llu\n", index);
        break;
    case IKV_EVENT_CHANGE:
        printf("%llu %.*s %.*s\n", index, (int)event->kind.size, (const char *)event->kind.data,
               (int)event->key.size, (const char *)event->key.data);
        break;
    case IKV_EVENT_GAP:
        printf("changes were missed: read everything anew\n");
        break;
    case IKV_EVENT_END:
        printf("ended: %s\n", event->message);
        break;
    default:
        break;
    }
    fflush(stdout);
    pthread_mutex_lock(&viewer->mutex);
    viewer->left -= event->type == IKV_EVENT_CHANGE ? 1 : 0;
    if (event->type == IKV_EVENT_END || viewer->left <= 0) {
        viewer->left = 0;
        pthread_cond_signal(&viewer->done);
    }
    pthread_mutex_unlock(&viewer->mutex);
}

int main(int argc, char **argv) {
    struct viewer viewer = {.mutex = PTHREAD_MUTEX_INITIALIZER,
                            .done = PTHREAD_COND_INITIALIZER,
                            .left = argc > 4 ? atoi(argv[4]) : 10};
    ikv_client *client;
    ikv_project *project;
    ikv_watch *watch;
    if (ikv_open(argc > 1 ? argv[1] : "127.0.0.1:7101", NULL, &client, NULL, 0) != IKV_OK ||
        ikv_project_open(client, argc > 2 ? argv[2] : NULL, NULL, IKV_LINEARIZABLE, 0, &project) !=
            IKV_OK ||
        ikv_watch_open(project, ikv_text(argc > 3 ? argv[3] : ""), 0, show, &viewer, &watch) !=
            IKV_OK) {
        fprintf(stderr, "bad arguments\n");
        return 1;
    }
    pthread_mutex_lock(&viewer.mutex);
    while (viewer.left > 0) {
        pthread_cond_wait(&viewer.done, &viewer.mutex);
    }
    pthread_mutex_unlock(&viewer.mutex);
    ikv_watch_close(watch);
    ikv_project_close(project);
    ikv_close(client);
    return 0;
}
