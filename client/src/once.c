/* Numbers of writes. The cluster keeps, for each shard, the results of a session's numbered writes,
 * so that one which is sent again is answered with its first result instead of being carried out
 * again.
 *
 * A session is opened with the first write to a shard. A write keeps its session and number however
 * often it is sent. What the cluster has answered `-NOSESSION` to had no effect; if an earlier
 * attempt may have had one, nobody will ever know, else the write gets a number of the next
 * session. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/src/client.h"
#include "client/src/connection.h"

enum {
    ID_SIZE = 64,
    /* Numbers above the lowest open one; the server's window is 65536. */
    WINDOW = 60000,
    CLOSE_MS = 250
};

struct once {
    unsigned refs;
    bool is_gone; /* the server no longer knows it */
    char id[ID_SIZE + 1];
    uint64_t next;               /* next number; the first is 1 */
    struct list_node open;       /* requests, in the order of their numbers */
    struct ikv_project *project; /* of the shard; one reference */
    struct shard_writes *shard;
};

static void once_unref(struct once *once) {
    if (--once->refs == 0) {
        project_unref(once->project);
        free(once);
    }
}

void once_init(ikv_client *client) {
    for (unsigned i = 0; i < CLIENT_SHARDS; i++) {
        list_init(&client->shards[i].waiting);
        client->shards[i].client = client;
    }
}

/* --- opening
 * ------------------------------------------------------------------------------------------ */

static void open_session(struct shard_writes *shard);

static void take_session(struct shard_writes *shard, const ikv_value *value,
                         struct ikv_project *project) {
    struct once *once = calloc(1, sizeof *once);
    if (once == NULL) {
        return; /* the writes that wait ask again */
    }
    once->refs = 1;
    once->next = 1;
    once->shard = shard;
    memcpy(once->id, value->data, value->size);
    project_ref(project);
    once->project = project;
    list_init(&once->open);
    if (shard->once != NULL) {
        once_unref(shard->once);
    }
    shard->once = once;
}

/* Ends those that cannot go on: of that project, or all. */
static void refuse_waiting(struct shard_writes *shard, const struct identity *only, int error,
                           const char *text) {
    for (struct list_node *at = shard->waiting.next; at != &shard->waiting;) {
        struct request *request = LIST_ENTRY(at, struct request, link);
        at = at->next;
        if (only == NULL || request->project->identity == only) {
            request_finish(request, error, text);
        }
    }
}

static void note_waiting(struct shard_writes *shard, int error) {
    for (struct list_node *at = shard->waiting.next; at != &shard->waiting; at = at->next) {
        struct request *request = LIST_ENTRY(at, struct request, link);
        if (request->why == IKV_OK) {
            request->why = error;
        }
    }
}

static void learn_refusal(struct shard_writes *shard, const struct identity *identity,
                          ikv_reply *reply) {
    int error = ikv_reply_error(reply);
    const char *text = ikv_reply_message(reply);
    if (error == IKV_ERR_REFUSED && strstr(text, "unknown command") != NULL) {
        shard->client->once_unsupported = true;
        return;
    }
    switch (error) {
    case IKV_ERR_AUTH:
    case IKV_ERR_PERMISSION:
        refuse_waiting(shard, identity, error, text);
        return;
    case IKV_ERR_TIMEOUT:
    case IKV_ERR_UNREACHABLE:
    case IKV_ERR_TLS:
    case IKV_ERR_PROTOCOL:
    case IKV_ERR_NO_LEADER:
    case IKV_ERR_BUSY:
        note_waiting(shard, error); /* each has a deadline of its own */
        return;
    default:
        refuse_waiting(shard, NULL, error, text);
        return;
    }
}

struct opening {
    struct shard_writes *shard;
    struct ikv_project *project; /* one reference */
};

static void learn(void *data, ikv_reply *reply) {
    struct opening *opening = data;
    struct shard_writes *shard = opening->shard;
    ikv_client *client = shard->client;
    const ikv_value *value = ikv_reply_value(reply);
    shard->opening = false;
    if (!client->stopping) {
        if (ikv_reply_error(reply) != IKV_OK) {
            learn_refusal(shard, opening->project->identity, reply);
        } else if (value->type == IKV_STRING && value->size >= 1 && value->size <= ID_SIZE) {
            take_session(shard, value, opening->project);
        } else {
            client_note_failure(client, IKV_ERR_PROTOCOL, "the answer to ONCE OPEN is not one");
            refuse_waiting(shard, NULL, IKV_ERR_PROTOCOL, "the answer to ONCE OPEN is not one");
        }
        route_list(&shard->waiting);
    }
    project_unref(opening->project);
    free(opening);
}

static void open_session(struct shard_writes *shard) {
    ikv_client *client = shard->client;
    ikv_bytes words[] = {ikv_text("ONCE"), ikv_text("OPEN")};
    struct request *first = LIST_ENTRY(list_first(&shard->waiting), struct request, link);
    struct ikv_project *project = first->project;
    struct opening *opening = malloc(sizeof *opening);
    struct request *request = opening != NULL ? request_new(project, 2, words) : NULL;
    if (request == NULL) {
        free(opening);
        return; /* the next write tries again */
    }
    project_ref(project);
    *opening = (struct opening){.shard = shard, .project = project};
    request->is_write = true;
    request->retry_safe = true; /* a session that nobody learns of expires */
    shard->opening = true;
    request_start_internal(client, request, client->options.timeout_ms, learn, opening);
}

/* --- numbering
 * ------------------------------------------------------------------------------------------ */

static uint64_t lowest_open(const struct once *once) {
    const struct list_node *first = list_first(&once->open);
    return first == NULL ? once->next : LIST_ENTRY(first, struct request, once_link)->sequence;
}

static void number(struct once *once, struct request *request) {
    once->refs++;
    request->once = once;
    request->sequence = once->next++;
    list_push(&once->open, &request->once_link);
}

enum once_verdict once_prepare(struct request *request) {
    ikv_client *client = request->client;
    unsigned number_of_shard;
    if (request->once != NULL && request->once->is_gone) {
        if (request->maybe_done) {
            return ONCE_UNKNOWN;
        }
        once_release(request);
    }
    if (request->once != NULL || !request->wants_once || client->options.exactly_once == 0 ||
        client->once_unsupported || !route_shard(client, request->project, &number_of_shard)) {
        return ONCE_GO;
    }
    struct shard_writes *shard = &client->shards[number_of_shard];
    struct once *once = shard->once;
    if (once != NULL && !once->is_gone && once->next - lowest_open(once) < WINDOW) {
        number(once, request);
        return ONCE_GO;
    }
    request_wait(request, &shard->waiting);
    if ((once == NULL || once->is_gone) && !shard->opening) {
        open_session(shard);
    }
    return ONCE_WAIT;
}

void once_release(struct request *request) {
    struct once *once = request->once;
    if (once == NULL) {
        return;
    }
    struct shard_writes *shard = once->shard;
    bool was_lowest = lowest_open(once) == request->sequence;
    list_remove(&request->once_link);
    request->once = NULL;
    bool goes_on = was_lowest && shard->once == once && !once->is_gone &&
                   !list_empty(&shard->waiting) && !shard->client->stopping;
    once_unref(once);
    if (goes_on) { /* the window was full; in the next turn, since the caller is not done yet */
        struct request *first = LIST_ENTRY(list_first(&shard->waiting), struct request, link);
        request_park(first, 0);
    }
}

void once_forget(struct request *request) {
    request->once->is_gone = true;
}

unsigned once_argc(void) {
    return 5;
}

bool once_append(struct text *out, const struct request *request) {
    const struct once *once = request->once;
    return text_append_bulk(out, "ONCE", 4) && text_append_bulk(out, once->id, strlen(once->id)) &&
           text_append_bulk_number(out, request->sequence) && text_append_bulk(out, "DONE", 4) &&
           text_append_bulk_number(out, lowest_open(once));
}

/* --- the end
 * --------------------------------------------------------------------------------------------- */

static void count_down(void *data, ikv_reply *reply) {
    unsigned *left = data;
    (void)reply;
    (*left)--;
}

static struct connection *ready_connection(ikv_client *client, const struct once *once) {
    unsigned shard;
    struct node *leader = route_shard(client, once->project, &shard)
                              ? node_find_id(client, client->topology.leaders[shard])
                              : NULL;
    struct connection *connection = leader != NULL ? leader->lanes[LANE_WRITE] : NULL;
    return connection != NULL && connection->state == CONNECTION_READY ? connection : NULL;
}

unsigned once_close_all(ikv_client *client, unsigned *left) {
    *left = 0;
    for (unsigned i = 0; i < CLIENT_SHARDS; i++) {
        struct once *once = client->shards[i].once;
        if (once == NULL || once->is_gone || ready_connection(client, once) == NULL) {
            continue; /* it expires */
        }
        ikv_bytes words[] = {ikv_text("ONCE"), ikv_text("CLOSE"), ikv_text(once->id)};
        struct request *request = request_new(once->project, 3, words);
        if (request != NULL) {
            request->is_write = true;
            request->retry_safe = true;
            request->no_retry = true;
            (*left)++;
            request_start_internal(client, request, CLOSE_MS, count_down, left);
        }
    }
    return *left;
}

void once_free_all(ikv_client *client) {
    for (unsigned i = 0; i < CLIENT_SHARDS; i++) {
        if (client->shards[i].once != NULL) {
            once_unref(client->shards[i].once);
            client->shards[i].once = NULL;
        }
    }
}
