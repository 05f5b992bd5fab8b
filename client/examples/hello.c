/* The blocking functions: hello [SEEDS [PROJECT [TOKEN]]] */
#include <stdio.h>
#include <stdlib.h>

#include <invoke_kv.h>

/* What to do about an error depends on whether it happened. */
static void explain(const char *what, int error) {
    switch (ikv_outcome(error)) {
    case IKV_OUTCOME_DONE:
        return;
    case IKV_OUTCOME_NOT_DONE:
        fprintf(stderr, "%s: %s; nothing has changed\n", what, ikv_strerror(error));
        exit(1);
    case IKV_OUTCOME_UNKNOWN:
        fprintf(stderr, "%s: %s; read before you write again\n", what, ikv_strerror(error));
        exit(1);
    }
}

int main(int argc, char **argv) {
    const char *seeds = argc > 1 ? argv[1] : "127.0.0.1:7101,127.0.0.1:7102,127.0.0.1:7103";
    char message[256];
    ikv_client *client;
    if (ikv_open(seeds, NULL, &client, message, sizeof message) != IKV_OK) {
        fprintf(stderr, "%s\n", message);
        return 1;
    }
    ikv_project *project;
    explain("project", ikv_project_open(client, argc > 2 ? argv[2] : NULL,
                                        argc > 3 ? argv[3] : NULL, IKV_LINEARIZABLE, 0, &project));

    /* Expires in an hour; every call may take the client's default of 5 seconds. */
    ikv_set_options hour = {.ttl_ms = 3600 * 1000};
    explain("set", ikv_set(project, ikv_text("greeting"), ikv_text("hello"), &hour, 0, NULL));

    ikv_reply *reply;
    explain("get", ikv_get(project, ikv_text("greeting"), 0, &reply));
    const ikv_value *value = ikv_reply_value(reply);
    if (value->type == IKV_STRING) {
        printf("greeting: %.*s\n", (int)value->size, value->data);
    }
    ikv_reply_free(reply);

    int64_t visits;
    explain("increment", ikv_increment(project, ikv_text("visits"), 1, 0, &visits));
    printf("visits: %lld\n", (long long)visits);

    ikv_project_close(project);
    ikv_close(client);
    return 0;
}
