/* Reads by replicas: sessions that move between nodes, and eventual reads with a bound. Both of
 * counters that only grow. */
#include <inttypes.h>
#include <stdio.h>

#include "base/assert.h"
#include "base/mem.h"
#include "chaos/workload/load.h"

enum { COUNTERS = 4 /* of a project */ };

struct replica_reader {
    uint32_t project;
    char project_name[64];
    ikv_client *library; /* a session of its own; or NULL */
    struct link *writes; /* eventual: for additions */
    unsigned home;       /* eventual: the node to read at */
    int64_t stale_ms;
};

static void begin_op(struct client *client, const char *op, unsigned counter) {
    const struct replica_reader *own = client->own;
    char key[16];
    (void)snprintf(key, sizeof key, "s%u", counter);
    op_begin(client, op);
    op_integer(client, "p", own->project);
    op_text(client, "k", key);
}

static void end_with_number(struct client *client, const struct answer_value *value) {
    if (client->answer.outcome == ANSWER_OK && value->type == ANSWER_NIL) {
        op_nil(client, "v");
    } else if (client->answer.outcome == ANSWER_OK) {
        op_integer(client, "v", answer_number(value, -1));
    }
    op_done(client);
}

static struct replica_reader *replica_reader_make(struct client *client) {
    struct replica_reader *own = mem_zalloc(1, sizeof *own);
    own->project = client->index % PROJECTS_OF_WORKLOAD;
    project_name(client->group, own->project, own->project_name, sizeof own->project_name);
    client->own = own;
    return own;
}

static bool is_by_library(const struct client *client) {
    return client->load->via == VIA_LIBRARY ||
           (client->load->via == VIA_MIXED && client->index / PROJECTS_OF_WORKLOAD % 2 == 0);
}

/* --- sessions --------------------------------------------------------------------------------- */

static void begin_session(struct client *client) {
    struct replica_reader *own = replica_reader_make(client);
    char message[200];
    if (!is_by_library(client)) {
        client->link = link_open_resp(&client->load->nodes, &client->prng, "SESSION",
                                      client->load->timeout_ms);
        return;
    }
    if (ikv_open(client->load->seeds, NULL, &own->library, message, sizeof message) != IKV_OK) {
        assert_fatal("chaos-workload: %s", message);
    }
    client->link = link_open_library(own->library, IKV_SESSION, 0, client->load->timeout_ms);
}

/* A connection's token covers what it has seen so far: with it the session goes on anywhere. A
 * session whose token is lost with its connection is over. */
static void keep_token(struct client *client) {
    struct words words = words_make(1, (const char *const[]){"TOKEN"});
    const struct replica_reader *own = client->own;
    char level[160];
    if (link_is_library(client->link)) {
        return;
    }
    link_command(client->link, own->project_name, &words, false, &client->answer);
    if (client->answer.outcome == ANSWER_OK && client->answer.value.type == ANSWER_TEXT) {
        (void)snprintf(level, sizeof level, "SESSION %s", (const char *)client->answer.value.data);
        link_set_level(client->link, level);
        return;
    }
    link_set_level(client->link, "SESSION");
    link_move(client->link);
    client->id = atomic_fetch_add(&client->load->next_client, 1);
}

/* Both copies of the counter in one transaction: reads take either. */
static void session_add(struct client *client, unsigned counter) {
    const struct replica_reader *own = client->own;
    char keys[2][16];
    struct words commands[2];
    for (int i = 0; i < 2; i++) {
        (void)snprintf(keys[i], sizeof keys[i], "s%u%c", counter, 'a' + i);
        commands[i] = words_make(2, (const char *const[]){"INCR", keys[i]});
    }
    begin_op(client, "add", counter);
    op_integer(client, "v", 1);
    op_invoke(client);
    link_transaction(client->link, own->project_name, commands, 2, NULL, NULL, 0, true,
                     &client->answer);
    op_end(client);
    const struct answer_value *value = &client->answer.value;
    bool is_good = value->type == ANSWER_ARRAY && value->size == 2 &&
                   answer_number(&value->elements[0], -1) == answer_number(&value->elements[1], -2);
    struct answer_value wrong = {.type = ANSWER_INTEGER, .integer = -1};
    end_with_number(client, is_good ? &value->elements[0] : &wrong);
}

static void session_get(struct client *client, unsigned counter) {
    const struct replica_reader *own = client->own;
    char key[16];
    (void)snprintf(key, sizeof key, "s%u%c", counter, client_below(client, 2) == 0 ? 'a' : 'b');
    struct words words = words_make(2, (const char *const[]){"GET", key});
    begin_op(client, "get", counter);
    op_invoke(client);
    link_command(client->link, own->project_name, &words, false, &client->answer);
    op_end(client);
    end_with_number(client, &client->answer.value);
}

static void step_session(struct client *client) {
    unsigned counter = (unsigned)client_below(client, COUNTERS);
    bool is_write = client_below(client, 3) == 0;
    if (is_write) {
        session_add(client, counter);
    } else {
        session_get(client, counter);
    }
    keep_token(client);
    if (client_below(client, 5) == 0) {
        link_move(client->link);
    }
}

static void end_reader(struct client *client) {
    struct replica_reader *own = client->own;
    link_free(client->link);
    client->link = NULL;
    link_free(own->writes);
    (void)ikv_close(own->library);
    mem_free(own);
}

const struct workload_kind workload_session = {
    .name = "session",
    .weight = 3,
    .least = 6,
    .pace = 0.7,
    .slots = 1,
    .begin = begin_session,
    .step = step_session,
    .end = end_reader,
};

/* --- eventual --------------------------------------------------------------------------------- */

/* A reader over RESP stays at one node, so that each node is asked all the time within the shortest
 * bound, also right after it was cut off or paused. */
static void begin_eventual(struct client *client) {
    static const int64_t bounds[] = {500, 0, 3000, 1000};
    struct load *load = client->load;
    struct replica_reader *own = replica_reader_make(client);
    unsigned round = client->index / (load->nodes.n + 1);
    char level[64];
    own->home = client->index % (load->nodes.n + 1);
    own->project = client->index % 2; /* two projects: enough readers for each */
    project_name(client->group, own->project, own->project_name, sizeof own->project_name);
    own->writes = client_open_link(client);
    if (load->via == VIA_LIBRARY || (load->via == VIA_MIXED && own->home == load->nodes.n)) {
        own->stale_ms = bounds[(round + 3) % 4];
        client->link = link_open_library(client->group->library, IKV_EVENTUAL,
                                         (uint32_t)own->stale_ms, load->timeout_ms);
        return;
    }
    own->stale_ms = bounds[round % 4];
    (void)snprintf(level, sizeof level,
                   own->stale_ms > 0 ? "EVENTUAL MAXSTALE %" PRId64 : "EVENTUAL", own->stale_ms);
    client->link = link_open_resp(&load->nodes, &client->prng, level, load->timeout_ms);
    link_move_to(client->link, own->home);
}

static void eventual_add(struct client *client) {
    struct replica_reader *own = client->own;
    struct words words = words_make(2, (const char *const[]){"INCR", "s0"});
    struct link *reads = client->link;
    client->link = own->writes; /* the history names its node */
    begin_op(client, "add", 0);
    op_integer(client, "v", 1);
    op_invoke(client);
    link_command(own->writes, own->project_name, &words, true, &client->answer);
    client->link = reads;
    op_end(client);
    end_with_number(client, &client->answer.value);
}

static void eventual_get(struct client *client) {
    const struct replica_reader *own = client->own;
    struct words words = words_make(2, (const char *const[]){"GET", "s0"});
    begin_op(client, "get", 0);
    op_integer(client, "stale", own->stale_ms);
    op_invoke(client);
    link_command(client->link, own->project_name, &words, false, &client->answer);
    op_end(client);
    end_with_number(client, &client->answer.value);
}

static void step_eventual(struct client *client) {
    const struct replica_reader *own = client->own;
    if (client_below(client, 4) == 0) {
        eventual_add(client);
        return;
    }
    if (link_node(client->link) != NULL &&
        link_node(client->link) != client->load->nodes.names[own->home % client->load->nodes.n]) {
        link_move_to(client->link, own->home);
    }
    eventual_get(client);
}

const struct workload_kind workload_eventual = {
    .name = "eventual",
    .weight = 3,
    .least = 8,
    .pace = 1,
    .slots = 1,
    .begin = begin_eventual,
    .step = step_eventual,
    .end = end_reader,
};
