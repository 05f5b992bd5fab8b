#include "chaos/workload/link.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>

#include <hiredis/hiredis.h>

#include "base/assert.h"
#include "base/mem.h"
#include "base/number.h"

enum { PROJECTS = 48 };

struct link {
    /* Through the library. */
    ikv_client *client;
    enum ikv_level level;
    uint32_t max_stale_ms;
    ikv_project *projects[PROJECTS]; /* the latest, in turn */
    unsigned n_projects;
    /* Over RESP. */
    const struct link_nodes *nodes;
    unsigned node;
    redisContext *context;
    char project[96]; /* of the connection */
    char consistency[160];
    uint32_t timeout_ms;
};

/* --- words and nodes -------------------------------------------------------------------------- */

void words_add(struct words *words, const void *data, size_t size) {
    ASSERT(words->n < LINK_WORDS);
    words->list[words->n++] = ikv_bytes_of(data, size);
}

void words_add_text(struct words *words, const char *text) {
    words_add(words, text, strlen(text));
}

struct words words_make(size_t n, const char *const *texts) {
    struct words words = {0};
    for (size_t i = 0; i < n; i++) {
        words_add_text(&words, texts[i]);
    }
    return words;
}

static int port_of(const char *name) {
    const char *colon = strrchr(name, ':');
    int64_t port = 0;
    return colon != NULL && number_parse_integer(slice_of(colon + 1), &port) && port > 0 &&
                   port < 65536
               ? (int)port
               : 0;
}

bool link_nodes_parse(struct link_nodes *nodes, const char *text) {
    nodes->n = 0;
    for (;;) {
        size_t size = strcspn(text, ",");
        if (nodes->n == 16 || size == 0 || size >= sizeof nodes->names[0]) {
            return false;
        }
        memcpy(nodes->names[nodes->n], text, size);
        nodes->names[nodes->n][size] = '\0';
        if (port_of(nodes->names[nodes->n++]) == 0) {
            return false;
        }
        if (text[size] == '\0') {
            return true;
        }
        text += size + 1;
    }
}

/* --- opening ---------------------------------------------------------------------------------- */

struct link *link_open_library(ikv_client *client, enum ikv_level level, uint32_t max_stale_ms,
                               uint32_t timeout_ms) {
    struct link *link = mem_zalloc(1, sizeof *link);
    link->client = client;
    link->level = level;
    link->max_stale_ms = max_stale_ms;
    link->timeout_ms = timeout_ms;
    return link;
}

struct link *link_open_resp(const struct link_nodes *nodes, struct prng *prng, const char *level,
                            uint32_t timeout_ms) {
    struct link *link = mem_zalloc(1, sizeof *link);
    link->nodes = nodes;
    link->node = (unsigned)prng_below(prng, nodes->n);
    link->timeout_ms = timeout_ms;
    link_set_level(link, level);
    return link;
}

void link_set_level(struct link *link, const char *level) {
    (void)snprintf(link->consistency, sizeof link->consistency, "%s", level != NULL ? level : "");
}

static void disconnect(struct link *link) {
    if (link->context != NULL) {
        redisFree(link->context);
        link->context = NULL;
    }
    link->project[0] = '\0';
}

void link_free(struct link *link) {
    if (link == NULL) {
        return;
    }
    disconnect(link);
    for (unsigned i = 0; i < PROJECTS; i++) {
        ikv_project_close(link->projects[i]);
    }
    mem_free(link);
}

bool link_is_library(const struct link *link) {
    return link->client != NULL;
}

const char *link_node(const struct link *link) {
    return link_is_library(link) ? NULL : link->nodes->names[link->node];
}

void link_move_to(struct link *link, unsigned node) {
    if (!link_is_library(link)) {
        disconnect(link);
        link->node = node % link->nodes->n;
    }
}

void link_move(struct link *link) {
    if (!link_is_library(link)) {
        link_move_to(link, link->node + 1);
    }
}

/* --- the library ------------------------------------------------------------------------------ */

static ikv_project *library_project(struct link *link, const char *name) {
    for (unsigned i = 0; i < PROJECTS; i++) {
        if (link->projects[i] != NULL && strcmp(ikv_project_name(link->projects[i]), name) == 0) {
            return link->projects[i];
        }
    }
    unsigned at = link->n_projects++ % PROJECTS;
    ikv_project_close(link->projects[at]);
    link->projects[at] = NULL;
    (void)ikv_project_open(link->client, name, NULL, link->level, link->max_stale_ms,
                           &link->projects[at]);
    return link->projects[at];
}

static void from_library(const ikv_value *from, struct answer_value *to) {
    switch (from->type) {
    case IKV_STRING:
    case IKV_STATUS:
        answer_set_text(to, ANSWER_TEXT, from->data, from->size);
        return;
    case IKV_ERROR:
        answer_set_text(to, ANSWER_ERROR, from->data, from->size);
        return;
    case IKV_INTEGER:
        to->type = ANSWER_INTEGER;
        to->integer = from->integer;
        return;
    case IKV_ARRAY:
        to->type = ANSWER_ARRAY;
        to->size = from->size;
        to->elements = mem_zalloc(from->size + 1, sizeof *to->elements);
        for (size_t i = 0; i < from->size; i++) {
            from_library(&from->elements[i], &to->elements[i]);
        }
        return;
    default:
        to->type = ANSWER_NIL;
        return;
    }
}

static void library_answer(int error, ikv_reply *reply, bool is_write, struct answer *answer) {
    if (error == IKV_OK) {
        answer_reset(answer);
        from_library(ikv_reply_value(reply), &answer->value);
        ikv_reply_free(reply);
        return;
    }
    bool is_unknown = is_write && ikv_outcome(error) == IKV_OUTCOME_UNKNOWN;
    const char *message = reply != NULL ? ikv_reply_message(reply) : "";
    char text[ANSWER_MESSAGE];
    const char *quota = error == IKV_ERR_QUOTA && strncmp(message, "QUOTA", 5) != 0 ? "QUOTA " : "";
    (void)snprintf(text, sizeof text, "%s%s (%s)", quota, message, ikv_strerror(error));
    answer_fail(answer, is_unknown ? ANSWER_UNKNOWN : ANSWER_FAIL, text);
    ikv_reply_free(reply);
}

static void library_transaction(struct link *link, ikv_project *project,
                                const struct words *commands, size_t n, const char *const *keys,
                                const uint64_t *versions, size_t n_watched, bool is_write,
                                struct answer *answer) {
    ikv_transaction *transaction = ikv_transaction_new(project);
    ikv_reply *reply = NULL;
    int error = transaction == NULL ? IKV_ERR_NOMEM : IKV_OK;
    for (size_t i = 0; i < n_watched && error == IKV_OK; i++) {
        error = ikv_transaction_watch(transaction, ikv_text(keys[i]), versions[i]);
    }
    for (size_t i = 0; i < n && error == IKV_OK; i++) {
        error = ikv_transaction_add(transaction, commands[i].n, commands[i].list);
    }
    if (error == IKV_OK) {
        error = ikv_transaction_run(transaction, link->timeout_ms, &reply);
    }
    library_answer(error, reply, is_write, answer);
    ikv_transaction_free(transaction);
}

/* --- RESP ------------------------------------------------------------------------------------- */

static void from_resp(const redisReply *from, struct answer_value *to) {
    switch (from->type) {
    case REDIS_REPLY_STRING:
    case REDIS_REPLY_STATUS:
        answer_set_text(to, ANSWER_TEXT, from->str, (size_t)from->len);
        return;
    case REDIS_REPLY_ERROR:
        answer_set_text(to, ANSWER_ERROR, from->str, (size_t)from->len);
        return;
    case REDIS_REPLY_INTEGER:
        to->type = ANSWER_INTEGER;
        to->integer = from->integer;
        return;
    case REDIS_REPLY_ARRAY:
        to->type = ANSWER_ARRAY;
        to->size = from->elements;
        to->elements = mem_zalloc(from->elements + 1, sizeof *to->elements);
        for (size_t i = 0; i < from->elements; i++) {
            from_resp(from->element[i], &to->elements[i]);
        }
        return;
    default:
        to->type = ANSWER_NIL;
        return;
    }
}

static void append(struct link *link, const struct words *words) {
    const char *texts[LINK_WORDS];
    size_t sizes[LINK_WORDS];
    for (size_t i = 0; i < words->n; i++) {
        texts[i] = words->list[i].data;
        sizes[i] = words->list[i].size;
    }
    (void)redisAppendCommandArgv(link->context, (int)words->n, texts, sizes);
}

/* The next reply; NULL when the connection is lost, which it is then let go of. */
static redisReply *next_reply(struct link *link, struct answer *answer) {
    void *reply = NULL;
    if (redisGetReply(link->context, &reply) == REDIS_OK && reply != NULL) {
        return reply;
    }
    char text[ANSWER_MESSAGE];
    (void)snprintf(text, sizeof text, "connection lost: %s", link->context->errstr);
    answer_fail(answer, ANSWER_UNKNOWN, text);
    link_move(link);
    return NULL;
}

/* -UNCERTAIN is the only error of the server that leaves open what happened. */
static void resp_answer(const redisReply *reply, struct answer *answer) {
    if (reply->type != REDIS_REPLY_ERROR) {
        answer_reset(answer);
        from_resp(reply, &answer->value);
        return;
    }
    bool is_unknown = strncmp(reply->str, "UNCERTAIN", 9) == 0;
    answer_fail(answer, is_unknown ? ANSWER_UNKNOWN : ANSWER_FAIL, reply->str);
}

static void resp_call(struct link *link, const struct words *words, struct answer *answer) {
    append(link, words);
    redisReply *reply = next_reply(link, answer);
    if (reply != NULL) {
        resp_answer(reply, answer);
        freeReplyObject(reply);
    }
}

static void set_consistency(struct link *link, struct answer *answer) {
    struct words words = {0};
    char text[sizeof link->consistency];
    char *rest = NULL;
    words_add_text(&words, "CONSISTENCY");
    memcpy(text, link->consistency, sizeof text);
    for (char *word = strtok_r(text, " ", &rest); word != NULL; word = strtok_r(NULL, " ", &rest)) {
        words_add_text(&words, word);
    }
    resp_call(link, &words, answer);
}

/* Connects, and puts the project into use. False: *answer tells why; nothing was sent then. */
static bool resp_ready(struct link *link, const char *project, struct answer *answer) {
    const char *name = link->nodes->names[link->node];
    if (link->context == NULL) {
        char host[80];
        struct timeval connect = {.tv_sec = 1};
        struct timeval timeout = {.tv_sec = (time_t)(link->timeout_ms / 1000),
                                  .tv_usec = (suseconds_t)(link->timeout_ms % 1000) * 1000};
        (void)snprintf(host, sizeof host, "%.*s", (int)(strrchr(name, ':') - name), name);
        link->context = redisConnectWithTimeout(host, port_of(name), connect);
        if (link->context == NULL || link->context->err != 0 ||
            redisSetTimeout(link->context, timeout) != REDIS_OK) {
            char text[ANSWER_MESSAGE];
            (void)snprintf(text, sizeof text, "cannot connect: %s",
                           link->context != NULL ? link->context->errstr : "no memory");
            answer_fail(answer, ANSWER_FAIL, text);
            link_move(link);
            return false;
        }
    }
    if (project != NULL && strcmp(link->project, project) != 0) {
        struct words words = {0};
        words_add_text(&words, "PROJECT");
        words_add_text(&words, "USE");
        words_add_text(&words, project);
        bool is_new = link->project[0] == '\0';
        resp_call(link, &words, answer);
        if (answer->outcome == ANSWER_OK && is_new && link->consistency[0] != '\0') {
            set_consistency(link, answer);
        }
        if (answer->outcome != ANSWER_OK) {
            answer->outcome = ANSWER_FAIL;
            link_move(link);
            return false;
        }
        (void)snprintf(link->project, sizeof link->project, "%s", project);
    }
    return true;
}

static void resp_transaction(struct link *link, const char *project, const struct words *commands,
                             size_t n, struct answer *answer) {
    struct words multi = words_make(1, (const char *const[]){"MULTI"});
    struct words exec = words_make(1, (const char *const[]){"EXEC"});
    if (!resp_ready(link, project, answer)) {
        return;
    }
    append(link, &multi);
    for (size_t i = 0; i < n; i++) {
        append(link, &commands[i]);
    }
    append(link, &exec);
    for (size_t i = 0; i < n + 2; i++) {
        redisReply *reply = next_reply(link, answer);
        if (reply == NULL) {
            return;
        }
        if (i == n + 1) {
            resp_answer(reply, answer);
        }
        freeReplyObject(reply);
    }
}

/* --- both ------------------------------------------------------------------------------------- */

static void settle(struct answer *answer, bool is_write) {
    if (answer->outcome == ANSWER_UNKNOWN && !is_write) {
        answer->outcome = ANSWER_FAIL; /* a read has no effect */
    }
}

void link_command(struct link *link, const char *project, const struct words *words, bool is_write,
                  struct answer *answer) {
    answer_reset(answer);
    if (link_is_library(link)) {
        ikv_reply *reply = NULL;
        ikv_project *handle = library_project(link, project);
        int error = handle == NULL
                        ? IKV_ERR_NOMEM
                        : ikv_command(handle, words->n, words->list, link->timeout_ms, &reply);
        library_answer(error, reply, is_write, answer);
    } else if (resp_ready(link, project, answer)) {
        resp_call(link, words, answer);
    }
    settle(answer, is_write);
}

void link_transaction(struct link *link, const char *project, const struct words *commands,
                      size_t n, const char *const *keys, const uint64_t *versions, size_t n_watched,
                      bool is_write, struct answer *answer) {
    answer_reset(answer);
    if (link_is_library(link)) {
        ikv_project *handle = library_project(link, project);
        if (handle == NULL) {
            answer_fail(answer, ANSWER_FAIL, "no memory");
        } else {
            library_transaction(link, handle, commands, n, keys, versions, n_watched, is_write,
                                answer);
        }
    } else {
        resp_transaction(link, project, commands, n, answer);
    }
    settle(answer, is_write);
}

void link_admin(struct link *link, const struct words *words, bool is_write,
                struct answer *answer) {
    answer_reset(answer);
    if (link_is_library(link)) {
        ikv_reply *reply = NULL;
        int error =
            ikv_node_command(link->client, NULL, words->n, words->list, link->timeout_ms, &reply);
        library_answer(error, reply, is_write, answer);
    } else if (resp_ready(link, NULL, answer)) {
        resp_call(link, words, answer);
    }
    settle(answer, is_write);
}
