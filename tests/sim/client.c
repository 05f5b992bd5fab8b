#include "tests/sim/client.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "tests/sim/cluster.h"
#include "tests/sim/messages.h"
#include "tests/sim/model.h"
#include "tests/sim/network.h"

enum { PENDING_MAX = 8, OWNED_KEYS = 3, CONNECT_TIMEOUT_S = 3 };

enum pending_kind {
    PENDING_META,
    PENDING_SESSION,
    PENDING_MODEL,
    PENDING_WRITE,
    PENDING_READ,
    PENDING_TOKEN
};

/* A project at a time: it gets a new name, and an empty store, when its history is long. */
struct generation {
    struct history history;
    unsigned users; /* operations under way */
    bool closed;
};

struct project {
    unsigned number;
    unsigned n_generations;
    bool multi_key;
    struct generation *now;
};

/* A write of an owner to one of its keys. */
struct attempt {
    bool is_delete;
    uint32_t size;
    uint64_t acknowledged; /* when, 0: not */
    bool refused;          /* certainly not carried out */
};

struct owned {
    struct attempt *attempts; /* by sequence number; 0 is the empty beginning */
    uint64_t n;
    uint64_t capacity;
};

enum level { LEVEL_LINEARIZABLE, LEVEL_SESSION, LEVEL_EVENTUAL, LEVEL_BOUNDED };

struct pending {
    enum pending_kind kind;
    struct op op;
    struct generation *generation;
    unsigned key;      /* of an owner */
    uint64_t sequence; /* of its write */
    uint64_t number;   /* of a numbered write, 0: not one */
    bool sent_again;
    uint64_t reflects; /* its read must reflect what was acknowledged before this time */
    uint64_t called;
};

struct client {
    unsigned number;
    bool is_owner;
    struct project *project;
    struct generation *bound; /* the connection is bound to this one's project */
    struct endpoint *endpoint;
    bool connected;
    uint64_t epoch; /* of the connection, so that late timers are recognised */
    struct buffer out;
    size_t out_at;
    struct buffer in;
    struct pending pending[PENDING_MAX];
    unsigned n_pending;
    bool idle_planned;
    uint64_t n_done;
    uint64_t n_since;
    uint64_t counter;

    /* Those that number their writes: one at a time, sent again until it is answered. */
    bool numbers_writes;
    bool only_reads;           /* goes on where a writer would wait: at a leader that is cut off */
    bool follows;              /* wants to be sent to the leader (CLUSTER REDIRECT) */
    unsigned sent_to;          /* by a node that does not lead; 0: nowhere */
    char session[MODEL_VALUE]; /* empty: none */
    uint64_t n_numbered;
    bool has_retry;
    struct pending retry;

    /* Owners. */
    struct owned owned[OWNED_KEYS];
    enum level level;
    uint64_t stale_ms;
    uint64_t session_since; /* its session, at any level, reflects what was acknowledged before */
    char token[100];
    uint64_t token_since;
    bool leaving; /* goes to another node when the token is there */
};

static struct client_options options;
static struct client clients[CLIENTS_MAX];
static unsigned n_clients;
static struct project projects[PROJECTS_MAX];
static bool stopped;
static uint64_t strict_from = UINT64_MAX;
static uint64_t early_until;
static uint64_t n_operations;
static uint64_t n_checked;
static uint64_t n_unchecked;

/* ---- projects and their histories ---- */

static struct generation *generation_new(struct project *project) {
    struct generation *generation = sim_alloc(sizeof *generation);
    generation->history.multi_key = project->multi_key;
    generation->history.drift = options.drift;
    snprintf(generation->history.name, sizeof generation->history.name, "p%u.%u", project->number,
             project->n_generations++);
    return generation;
}

static void generation_check(struct generation *generation) {
    struct history *history = &generation->history;
    static char why[4000];
    history->strict_from = strict_from;
    history->early_until = early_until;
    enum verdict verdict = history_check(history, why, sizeof why);
    if (verdict == VERDICT_BAD) {
        sim_fail("LINEARIZABILITY project %s: %s", history->name, why);
    }
    if (verdict == VERDICT_TOO_HARD) {
        n_unchecked += history->n;
        cover("history too hard to check");
    } else {
        n_checked += history->n;
        cover("histories checked");
    }
    sim_free(history->ops);
    sim_free(generation);
}

/* Nobody begins anything new in it. */
static void forget_generation(const struct generation *generation) {
    for (unsigned i = 0; i < n_clients; i++) {
        if (clients[i].bound == generation) {
            clients[i].bound = NULL;
        }
    }
}

static void generation_release(struct generation *generation) {
    ASSERT(generation->users > 0);
    generation->users--;
    if (generation->users == 0 && generation->closed) {
        forget_generation(generation);
        generation_check(generation);
    }
}

static void project_turn(struct project *project) {
    struct generation *old = project->now;
    project->now = generation_new(project);
    old->closed = true;
    forget_generation(old);
    if (old->users == 0) {
        generation_check(old);
    }
}

static void note_op(struct generation *generation, const struct op *op) {
    (void)history_add(&generation->history, op);
}

/* ---- sending ---- */

static void client_plan(struct client *client, uint64_t after_ns);
static void client_drop(struct client *client, const char *why);

static void flush(struct client *client) {
    while (client->out_at < client->out.size) {
        size_t n = net_send(client->endpoint, client->out.data + client->out_at,
                            client->out.size - client->out_at);
        if (n == 0) {
            return;
        }
        client->out_at += n;
    }
    client->out.size = 0;
    client->out_at = 0;
}

static void put_array(struct client *client, unsigned n) {
    char text[32];
    int size = snprintf(text, sizeof text, "*%u\r\n", n);
    buffer_append(&client->out, text, (size_t)size);
}

static void put_bytes(struct client *client, const void *data, size_t size) {
    char text[32];
    int n = snprintf(text, sizeof text, "$%zu\r\n", size);
    buffer_append(&client->out, text, (size_t)n);
    buffer_append(&client->out, data, size);
    buffer_append(&client->out, "\r\n", 2);
}

static void put_text(struct client *client, const char *text) {
    put_bytes(client, text, strlen(text));
}

static void put_number(struct client *client, int64_t number) {
    char text[32];
    snprintf(text, sizeof text, "%" PRId64, number);
    put_text(client, text);
}

static void put_key(struct client *client, unsigned key) {
    char text[8];
    snprintf(text, sizeof text, "k%u", key);
    put_text(client, text);
}

static struct pending *expect(struct client *client, enum pending_kind kind) {
    ASSERT(client->n_pending < PENDING_MAX);
    struct pending *pending = &client->pending[client->n_pending++];
    memset(pending, 0, sizeof *pending);
    pending->kind = kind;
    pending->called = kernel_now();
    return pending;
}

struct deadline {
    struct client *client;
    uint64_t epoch;
    uint64_t n_done;
};

static void on_deadline(void *data) {
    struct deadline deadline = *(struct deadline *)data;
    struct client *client = deadline.client;
    sim_free(data);
    if (client->epoch != deadline.epoch) {
        return;
    }
    if (!client->connected || (client->n_pending > 0 && client->n_done == deadline.n_done)) {
        cover("client timed out");
        client_drop(client, "timeout");
    }
}

static void watch(struct client *client, uint64_t ns) {
    struct deadline *deadline = sim_alloc(sizeof *deadline);
    *deadline = (struct deadline){client, client->epoch, client->n_done};
    kernel_at(kernel_now() + ns, NULL, on_deadline, deadline);
}

/* ---- model clients ---- */

static void unique_value(struct client *client, struct model_value *value) {
    char text[MODEL_VALUE];
    int n = snprintf(text, sizeof text, "%u%07" PRIu64, client->number + 1, ++client->counter);
    value->size = (uint32_t)n;
    memcpy(value->data, text, (size_t)n);
}

static bool is_write(enum op_kind kind) {
    switch (kind) {
    case OP_GET:
    case OP_EXISTS:
    case OP_STRLEN:
    case OP_PTTL:
    case OP_GETRANGE:
    case OP_MGET:
    case OP_DBSIZE:
        return false;
    default:
        return true;
    }
}

static enum op_kind draw_kind(const struct client *client) {
    static const enum op_kind single[] = {
        OP_GET,    OP_GET,    OP_GET,    OP_SET,     OP_SET,     OP_DEL,  OP_EXISTS,   OP_INCRBY,
        OP_APPEND, OP_STRLEN, OP_GETDEL, OP_PERSIST, OP_PEXPIRE, OP_PTTL, OP_GETRANGE, OP_DELEX};
    static const enum op_kind multi[] = {OP_GET,    OP_SET,     OP_DEL,    OP_MSET,  OP_MSETNX,
                                         OP_MGET,   OP_MGET,    OP_RENAME, OP_COPY,  OP_DBSIZE,
                                         OP_DBSIZE, OP_FLUSHDB, OP_INCRBY, OP_EXISTS};
    for (unsigned tries = 0; tries < 100; tries++) {
        enum op_kind kind = client->project->multi_key
                                ? multi[kernel_random(sizeof multi / sizeof multi[0])]
                                : single[kernel_random(sizeof single / sizeof single[0])];
        bool wanted = (options.kinds & ((uint64_t)1 << kind)) != 0;
        if (wanted && (!client->only_reads || !is_write(kind))) {
            return kind;
        }
    }
    return OP_GET;
}

static int64_t draw_ttl_ms(void) {
    return (int64_t)(50 + kernel_random(kernel_random(2) == 0 ? 500 : 2000));
}

static void draw_keys(struct op *op, unsigned n) {
    unsigned first = (unsigned)kernel_random(MODEL_KEYS);
    unsigned step = kernel_random(2) == 0 ? 1 : MODEL_KEYS - 1;
    op->n_keys = (uint8_t)n;
    for (unsigned i = 0; i < n; i++) {
        op->keys[i] = (uint8_t)((first + i * step) % MODEL_KEYS);
    }
}

static void draw_set(struct client *client, struct op *op) {
    unique_value(client, &op->values[0]);
    switch (kernel_random(8)) {
    case 0:
        op->flags = SET_NX;
        break;
    case 1:
        op->flags = SET_XX;
        break;
    case 2:
        op->flags = SET_GET;
        break;
    case 3:
        op->flags = SET_IFEQ;
        unique_value(client, &op->expected);
        break;
    case 4:
        op->flags = SET_KEEPTTL;
        return;
    default:
        break;
    }
    if (kernel_chance(options.expiry)) {
        op->flags |= SET_PX;
        op->number = draw_ttl_ms();
    }
}

/* The newest value that some client wrote or saw: conditions should hold now and then. */
static void likely_value(const struct history *history, unsigned key, struct model_value *value) {
    for (size_t i = history->n; i-- > 0 && history->n - i < 12;) {
        const struct op *op = &history->ops[i];
        if (op->keys[0] == key && op->n_keys > 0) {
            if (op->kind == OP_SET) {
                *value = op->values[0];
                return;
            }
            if (op->kind == OP_GET && op->reply.kind == REPLY_BULK &&
                op->reply.bulk.size <= MODEL_VALUE) {
                *value = op->reply.bulk;
                value->crc = 0;
                return;
            }
        }
    }
}

static void draw_op(struct client *client, struct op *op) {
    op->kind = draw_kind(client);
    op->client = client->number;
    draw_keys(op, 1);
    switch (op->kind) {
    case OP_SET:
        draw_set(client, op);
        if (op->flags == SET_IFEQ) {
            likely_value(&client->bound->history, op->keys[0], &op->expected);
        }
        break;
    case OP_DELEX:
        unique_value(client, &op->expected);
        likely_value(&client->bound->history, op->keys[0], &op->expected);
        break;
    case OP_INCRBY:
        op->number = (int64_t)kernel_random(5) - 1;
        break;
    case OP_APPEND:
        op->values[0].size = 1;
        op->values[0].data[0] = (char)('0' + kernel_random(10));
        break;
    case OP_PEXPIRE:
        op->number = draw_ttl_ms();
        break;
    case OP_GETRANGE:
        op->number = (int64_t)kernel_random(12);
        break;
    case OP_MSET:
    case OP_MSETNX:
        draw_keys(op, 1 + (unsigned)kernel_random(3));
        for (unsigned i = 0; i < op->n_keys; i++) {
            unique_value(client, &op->values[i]);
        }
        break;
    case OP_MGET:
        draw_keys(op, MODEL_KEYS);
        break;
    case OP_DEL:
    case OP_EXISTS:
        draw_keys(op, client->project->multi_key ? 1 + (unsigned)kernel_random(3) : 1);
        break;
    case OP_RENAME:
    case OP_COPY:
        draw_keys(op, 2);
        break;
    case OP_DBSIZE:
    case OP_FLUSHDB:
        op->n_keys = 0;
        break;
    default:
        break;
    }
}

static void put_set(struct client *client, const struct op *op) {
    unsigned n = 3U + ((op->flags & (SET_NX | SET_XX | SET_GET | SET_KEEPTTL)) != 0 ? 1U : 0U) +
                 ((op->flags & SET_PX) != 0 ? 2U : 0U) + ((op->flags & SET_IFEQ) != 0 ? 2U : 0U);
    put_array(client, n);
    put_text(client, "SET");
    put_key(client, op->keys[0]);
    put_bytes(client, op->values[0].data, op->values[0].size);
    if ((op->flags & SET_NX) != 0) {
        put_text(client, "NX");
    } else if ((op->flags & SET_XX) != 0) {
        put_text(client, "XX");
    } else if ((op->flags & SET_GET) != 0) {
        put_text(client, "GET");
    } else if ((op->flags & SET_KEEPTTL) != 0) {
        put_text(client, "KEEPTTL");
    }
    if ((op->flags & SET_IFEQ) != 0) {
        put_text(client, "IFEQ");
        put_bytes(client, op->expected.data, op->expected.size);
    }
    if ((op->flags & SET_PX) != 0) {
        put_text(client, "PX");
        put_number(client, op->number);
    }
}

static void put_keys(struct client *client, const char *name, const struct op *op) {
    put_array(client, 1U + op->n_keys);
    put_text(client, name);
    for (unsigned i = 0; i < op->n_keys; i++) {
        put_key(client, op->keys[i]);
    }
}

static void put_key_number(struct client *client, const char *name, const struct op *op) {
    put_array(client, 3);
    put_text(client, name);
    put_key(client, op->keys[0]);
    put_number(client, op->number);
}

static void put_op(struct client *client, const struct op *op) {
    static const char *const plain[OP_KINDS] = {
        [OP_GET] = "GET",       [OP_DEL] = "DEL",       [OP_EXISTS] = "EXISTS",
        [OP_STRLEN] = "STRLEN", [OP_GETDEL] = "GETDEL", [OP_PERSIST] = "PERSIST",
        [OP_PTTL] = "PTTL",     [OP_MGET] = "MGET",     [OP_RENAME] = "RENAME",
        [OP_COPY] = "COPY",     [OP_DBSIZE] = "DBSIZE", [OP_FLUSHDB] = "FLUSHDB"};
    switch (op->kind) {
    case OP_SET:
        put_set(client, op);
        return;
    case OP_INCRBY:
        put_key_number(client, "INCRBY", op);
        return;
    case OP_PEXPIRE:
        put_key_number(client, "PEXPIRE", op);
        return;
    case OP_APPEND:
        put_array(client, 3);
        put_text(client, "APPEND");
        put_key(client, op->keys[0]);
        put_bytes(client, op->values[0].data, op->values[0].size);
        return;
    case OP_GETRANGE:
        put_array(client, 4);
        put_text(client, "GETRANGE");
        put_key(client, op->keys[0]);
        put_number(client, 0);
        put_number(client, op->number);
        return;
    case OP_DELEX:
        put_array(client, 4);
        put_text(client, "DELEX");
        put_key(client, op->keys[0]);
        put_text(client, "IFEQ");
        put_bytes(client, op->expected.data, op->expected.size);
        return;
    case OP_MSET:
    case OP_MSETNX:
        put_array(client, 1U + 2U * op->n_keys);
        put_text(client, op->kind == OP_MSET ? "MSET" : "MSETNX");
        for (unsigned i = 0; i < op->n_keys; i++) {
            put_key(client, op->keys[i]);
            put_bytes(client, op->values[i].data, op->values[i].size);
        }
        return;
    default:
        ASSERT(plain[op->kind] != NULL);
        put_keys(client, plain[op->kind], op);
    }
}

static void put_auth(struct client *client, const char *project) {
    put_array(client, 3);
    put_text(client, "AUTH");
    put_text(client, project);
    put_text(client, "x");
    (void)expect(client, PENDING_META);
}

/* "ONCE session number command ...": the command's array becomes longer. */
static void put_numbered(struct client *client, const struct pending *pending) {
    struct buffer before = client->out;
    client->out = (struct buffer){0};
    put_op(client, &pending->op);
    struct buffer command = client->out;
    client->out = before;
    const char *end = memchr(command.data, '\n', command.size);
    size_t head = (size_t)((const uint8_t *)end + 1 - command.data);
    put_array(client, (unsigned)strtoul((const char *)command.data + 1, NULL, 10) + 3);
    put_text(client, "ONCE");
    put_text(client, client->session);
    put_number(client, (int64_t)pending->number);
    buffer_append(&client->out, command.data + head, command.size - head);
    buffer_free(&command);
}

static void send_again(struct client *client) {
    client->bound = client->retry.generation;
    put_auth(client, client->bound->history.name);
    struct pending *pending = expect(client, PENDING_MODEL);
    *pending = client->retry;
    pending->sent_again = true;
    client->has_retry = false;
    cover("numbered writes sent again");
    put_numbered(client, pending);
}

static void numbering_send(struct client *client) {
    if (client->n_pending > 0) {
        return;
    }
    if (client->has_retry) {
        send_again(client);
        return;
    }
    if (client->bound == NULL) {
        client->bound = client->project->now;
        client->session[0] = '\0';
        put_auth(client, client->bound->history.name);
        put_array(client, 2);
        put_text(client, "ONCE");
        put_text(client, "OPEN");
        (void)expect(client, PENDING_SESSION);
        return;
    }
    struct pending *pending = expect(client, PENDING_MODEL);
    pending->generation = client->bound;
    pending->generation->users++;
    draw_op(client, &pending->op);
    pending->op.called = kernel_now();
    if (is_write(pending->op.kind) && client->session[0] != '\0') {
        pending->number = ++client->n_numbered;
        put_numbered(client, pending);
    } else {
        put_op(client, &pending->op);
    }
    if (client->bound->history.n >= options.n_per_check) {
        project_turn(client->project);
    }
}

static void model_send(struct client *client) {
    if (client->numbers_writes) {
        numbering_send(client);
        return;
    }
    if (client->bound == NULL) {
        if (client->n_pending > 0) {
            return; /* answers first, then the other project */
        }
        client->bound = client->project->now;
        put_auth(client, client->bound->history.name);
    }
    unsigned n = 1 + (unsigned)kernel_random(options.depth);
    while (n-- > 0 && client->n_pending < PENDING_MAX) {
        struct pending *pending = expect(client, PENDING_MODEL);
        pending->generation = client->bound;
        pending->generation->users++;
        draw_op(client, &pending->op);
        pending->op.called = kernel_now();
        put_op(client, &pending->op);
    }
    if (client->bound->history.n >= options.n_per_check) {
        project_turn(client->project);
    }
}

static bool is_error(const struct reply *reply, const char *prefix) {
    return reply->kind == REPLY_ERROR && reply->bulk.size >= strlen(prefix) &&
           memcmp(reply->bulk.data, prefix, strlen(prefix)) == 0;
}

/* The server says that nothing was done. */
static bool is_refusal(const struct reply *reply) {
    static const char *const prefixes[] = {"NOLEADER", "BUSY",  "NOSPACE",
                                           "QUOTA",    "STALE", "TOOBIG"};
    for (unsigned i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        if (is_error(reply, prefixes[i])) {
            cover_add("refused operations", 1);
            return true;
        }
    }
    return false;
}

/* "MOVED slot 10.0.0.N:port": nothing was done, node N is said to lead. */
static bool is_redirection(struct client *client, const struct reply *reply) {
    char text[MODEL_VALUE + 1] = "";
    unsigned node = 0;
    if (!is_error(reply, "MOVED ")) {
        return false;
    }
    memcpy(text, reply->bulk.data, reply->bulk.size < MODEL_VALUE ? reply->bulk.size : MODEL_VALUE);
    if (!client->follows || sscanf(text, "MOVED %*u 10.0.0.%u:", &node) != 1 || node == 0 ||
        node > cluster_options()->n_nodes) {
        sim_fail("REPLY client %u: %s", client->number, text);
    }
    cover("redirected operations");
    client->sent_to = node;
    client->leaving = true;
    return true;
}

static bool may_err(enum op_kind kind) {
    return kind == OP_INCRBY || kind == OP_RENAME;
}

/* An answer about the attempt, not about the write: it is sent again, or, when the session is gone,
 * its fate stays unknown. */
static bool is_about_attempt(struct client *client, struct pending *pending,
                             const struct reply *reply) {
    if (pending->number == 0) {
        return false;
    }
    if (is_error(reply, "NOSESSION")) {
        cover("sessions lost");
        client->session[0] = '\0';
        client->bound = NULL;
        pending->op.returned = UINT64_MAX;
        note_op(pending->generation, &pending->op);
        generation_release(pending->generation);
        return true;
    }
    if (is_error(reply, "NOLEADER") || is_error(reply, "NOSPACE") || is_error(reply, "BUSY") ||
        is_error(reply, "UNCERTAIN") || is_redirection(client, reply)) {
        client->retry = *pending;
        client->has_retry = true;
        return true;
    }
    return false;
}

static void model_answered(struct client *client, struct pending *pending,
                           const struct reply *reply) {
    if (is_about_attempt(client, pending, reply)) {
        return;
    }
    if (is_error(reply, "UNCERTAIN")) {
        cover("uncertain outcomes");
        pending->op.returned = UINT64_MAX;
        note_op(pending->generation, &pending->op);
    } else if (is_redirection(client, reply)) {
        client->n_since++; /* it is led on */
    } else if (reply->kind == REPLY_ERROR && !is_refusal(reply) && !may_err(pending->op.kind)) {
        sim_fail("REPLY client %u: unexpected error %.*s", client->number,
                 (int)(reply->bulk.size < MODEL_VALUE ? reply->bulk.size : MODEL_VALUE),
                 reply->bulk.data);
    } else if (reply->kind != REPLY_ERROR || !is_refusal(reply)) {
        pending->op.returned = kernel_now();
        pending->op.reply = *reply;
        note_op(pending->generation, &pending->op);
    }
    generation_release(pending->generation);
}

/* ---- owners ---- */

static void fill_value(struct buffer *value, uint64_t sequence, uint32_t size) {
    char head[32];
    int n = snprintf(head, sizeof head, "w%" PRIu64 "-", sequence);
    buffer_append(value, head, (size_t)n);
    uint8_t run[64];
    for (unsigned k = 0; value->size < size; k++) {
        size_t left = size - value->size;
        memset(run, (int)((sequence * 31 + k) & 0xff), sizeof run);
        buffer_append(value, run, left < sizeof run ? left : sizeof run);
    }
}

static uint64_t attempt_new(struct owned *owned, bool is_delete, uint32_t size) {
    if (owned->n == owned->capacity) {
        owned->capacity = owned->capacity == 0 ? 64 : 2 * owned->capacity;
        owned->attempts = sim_realloc(owned->attempts, owned->capacity * sizeof *owned->attempts);
    }
    owned->attempts[owned->n] = (struct attempt){.is_delete = is_delete, .size = size};
    return owned->n++;
}

static void put_owned_key(struct client *client, unsigned key) {
    char name[32];
    snprintf(name, sizeof name, "own-%u-%u", client->number, key);
    put_text(client, name);
}

static void owner_write(struct client *client) {
    unsigned key = (unsigned)kernel_random(OWNED_KEYS);
    bool is_delete = kernel_random(6) == 0;
    uint32_t size = kernel_random(3) == 0 ? (uint32_t)kernel_random(options.large_bytes) : 20;
    struct pending *pending = expect(client, PENDING_WRITE);
    pending->key = key;
    pending->sequence = attempt_new(&client->owned[key], is_delete, size);
    put_array(client, is_delete ? 2 : 3);
    put_text(client, is_delete ? "DEL" : "SET");
    put_owned_key(client, key);
    if (!is_delete) {
        struct buffer value = {0};
        fill_value(&value, pending->sequence, size);
        client->owned[key].attempts[pending->sequence].size = (uint32_t)value.size;
        put_bytes(client, value.data, value.size);
        buffer_free(&value);
    }
}

static void owner_read(struct client *client) {
    struct pending *pending = expect(client, PENDING_READ);
    uint64_t now = kernel_now();
    pending->key = (unsigned)kernel_random(OWNED_KEYS);
    switch (client->level) {
    case LEVEL_LINEARIZABLE:
        pending->reflects = now;
        break;
    case LEVEL_SESSION:
        /* The same connection since then, or a token of that time. */
        pending->reflects = client->session_since;
        break;
    case LEVEL_EVENTUAL:
        pending->reflects = 0;
        break;
    case LEVEL_BOUNDED: {
        uint64_t stale_ns =
            (uint64_t)((double)(client->stale_ms * SIM_MS) * (1 + 3 * options.drift));
        stale_ns += options.stale_slack_ns;
        pending->reflects = now > stale_ns ? now - stale_ns : 0;
        break;
    }
    }
    put_array(client, 2);
    put_text(client, "GET");
    put_owned_key(client, pending->key);
}

static void owner_set_level(struct client *client) {
    client->level = (enum level)kernel_random(4);
    client->stale_ms = 20 + kernel_random(2000);
    switch (client->level) {
    case LEVEL_LINEARIZABLE:
        put_array(client, 2);
        put_text(client, "CONSISTENCY");
        put_text(client, "LINEARIZABLE");
        break;
    case LEVEL_SESSION:
        put_array(client, client->token[0] == '\0' ? 2 : 3);
        put_text(client, "CONSISTENCY");
        put_text(client, "SESSION");
        if (client->token[0] != '\0') {
            put_text(client, client->token);
            if (client->token_since > client->session_since) {
                client->session_since = client->token_since;
            }
        }
        break;
    case LEVEL_EVENTUAL:
        put_array(client, 2);
        put_text(client, "CONSISTENCY");
        put_text(client, "EVENTUAL");
        break;
    case LEVEL_BOUNDED:
        put_array(client, 4);
        put_text(client, "CONSISTENCY");
        put_text(client, "EVENTUAL");
        put_text(client, "MAXSTALE");
        put_number(client, (int64_t)client->stale_ms);
        break;
    }
    (void)expect(client, PENDING_META);
}

static void owner_send(struct client *client) {
    if (client->n_pending > 0) {
        return;
    }
    uint64_t choice = kernel_random(20);
    if (choice == 0) {
        owner_set_level(client);
    } else if (choice == 1) {
        put_array(client, 1);
        put_text(client, "TOKEN");
        (void)expect(client, PENDING_TOKEN);
        client->leaving = kernel_random(2) == 0;
    } else if (choice < 9) {
        owner_write(client);
    } else {
        owner_read(client);
    }
}

static bool value_is_intact(const struct model_value *got, uint64_t sequence, uint32_t size) {
    struct buffer value = {0};
    fill_value(&value, sequence, size);
    bool intact = got->size == value.size && got->crc == crc32c(0, value.data, value.size);
    buffer_free(&value);
    return intact;
}

/* Whether a read that must reflect everything acknowledged before `reflects` may see the result of
 * attempt `sequence`. */
static bool may_see(const struct owned *owned, uint64_t sequence, uint64_t reflects) {
    uint64_t newest = 0;
    for (uint64_t i = 1; i < owned->n; i++) {
        const struct attempt *attempt = &owned->attempts[i];
        if (attempt->acknowledged != 0 && attempt->acknowledged <= reflects) {
            newest = i;
        }
    }
    const struct attempt *seen = &owned->attempts[sequence];
    if (seen->refused) {
        return false;
    }
    /* An older one that was never answered may have come later than its successors. */
    return sequence >= newest || (sequence > 0 && seen->acknowledged == 0);
}

static const char *const level_names[] = {"linearizable", "session", "eventual", "bounded"};

static void owner_saw(struct client *client, struct pending *pending, const struct reply *reply) {
    struct owned *owned = &client->owned[pending->key];
    bool good = false;
    char what[80] = "nil";
    if (reply->kind == REPLY_NIL) {
        for (uint64_t i = 0; i < owned->n && !good; i++) {
            bool is_nothing = i == 0 || owned->attempts[i].is_delete;
            good = is_nothing && may_see(owned, i, pending->reflects);
        }
    } else if (reply->kind == REPLY_BULK && reply->bulk.data[0] == 'w') {
        char text[MODEL_VALUE + 1] = "";
        memcpy(text, reply->bulk.data,
               reply->bulk.size < MODEL_VALUE ? reply->bulk.size : MODEL_VALUE);
        uint64_t sequence = strtoull(text + 1, NULL, 10);
        snprintf(what, sizeof what, "w%" PRIu64 " of %" PRIu64, sequence, owned->n);
        good = sequence > 0 && sequence < owned->n && !owned->attempts[sequence].is_delete &&
               value_is_intact(&reply->bulk, sequence, owned->attempts[sequence].size) &&
               may_see(owned, sequence, pending->reflects);
    }
    if (!good) {
        sim_fail("OWNER client %u: a %s read of own-%u-%u answered %s, which it must not "
                 "(reflects %.6f)",
                 client->number, level_names[client->level], client->number, pending->key, what,
                 (double)pending->reflects / 1e9);
    }
    n_checked++;
    cover(client->level == LEVEL_LINEARIZABLE ? "owner reads: linearizable"
          : client->level == LEVEL_SESSION    ? "owner reads: session"
          : client->level == LEVEL_EVENTUAL   ? "owner reads: eventual"
                                              : "owner reads: bounded");
}

static void owner_answered(struct client *client, struct pending *pending,
                           const struct reply *reply) {
    struct owned *owned = &client->owned[pending->key];
    if (reply->kind == REPLY_ERROR) {
        if (!is_error(reply, "UNCERTAIN") && !is_refusal(reply)) {
            sim_fail("REPLY client %u: unexpected error %.*s", client->number,
                     (int)(reply->bulk.size < MODEL_VALUE ? reply->bulk.size : MODEL_VALUE),
                     reply->bulk.data);
        }
        if (pending->kind == PENDING_WRITE && !is_error(reply, "UNCERTAIN")) {
            owned->attempts[pending->sequence].refused = true;
        }
        return;
    }
    if (pending->kind == PENDING_WRITE) {
        owned->attempts[pending->sequence].acknowledged = kernel_now();
        client->session_since = kernel_now();
    } else if (pending->kind == PENDING_READ) {
        owner_saw(client, pending, reply);
        if (client->level == LEVEL_LINEARIZABLE) {
            client->session_since = pending->reflects;
        }
    } else if (reply->kind == REPLY_BULK && reply->bulk.size < MODEL_VALUE) {
        snprintf(client->token, sizeof client->token, "%.*s", (int)reply->bulk.size,
                 reply->bulk.data);
        client->token_since = client->session_since;
        cover("session tokens taken along");
    }
}

/* ---- replies ---- */

/* One reply at the front of `in` from `at`; false when it is not whole yet. */
static bool take_line(const struct buffer *in, size_t *at, const char **line, size_t *size) {
    for (size_t i = *at; i + 1 < in->size; i++) {
        if (in->data[i] == '\r' && in->data[i + 1] == '\n') {
            *line = (const char *)in->data + *at;
            *size = i - *at;
            *at = i + 2;
            return true;
        }
    }
    return false;
}

static void set_value(struct model_value *value, const void *data, size_t size) {
    memset(value, 0, sizeof *value);
    value->size = (uint32_t)size;
    value->crc = crc32c(0, data, size);
    memcpy(value->data, data, size < MODEL_VALUE ? size : MODEL_VALUE);
}

static bool take_bulk(const struct buffer *in, size_t *at, bool *is_nil,
                      struct model_value *value) {
    const char *line;
    size_t size;
    if (!take_line(in, at, &line, &size)) {
        return false;
    }
    long n = strtol(line + 1, NULL, 10);
    *is_nil = n < 0;
    if (n < 0) {
        return true;
    }
    if (in->size - *at < (size_t)n + 2) {
        return false;
    }
    set_value(value, in->data + *at, (size_t)n);
    *at += (size_t)n + 2;
    return true;
}

static bool take_reply(const struct buffer *in, size_t *taken, struct reply *reply) {
    size_t at = 0;
    const char *line;
    size_t size;
    bool is_nil;
    memset(reply, 0, sizeof *reply);
    if (in->size == 0) {
        return false;
    }
    if (in->data[0] == '$') {
        if (!take_bulk(in, &at, &is_nil, &reply->bulk)) {
            return false;
        }
        reply->kind = is_nil ? REPLY_NIL : REPLY_BULK;
        *taken = at;
        return true;
    }
    if (!take_line(in, &at, &line, &size)) {
        return false;
    }
    if (line[0] == '+') {
        reply->kind = REPLY_OK;
    } else if (line[0] == '-') {
        reply->kind = REPLY_ERROR;
        set_value(&reply->bulk, line + 1, size - 1);
    } else if (line[0] == ':') {
        reply->kind = REPLY_INTEGER;
        reply->integer = strtoll(line + 1, NULL, 10);
    } else if (line[0] == '*') {
        long n = strtol(line + 1, NULL, 10);
        reply->kind = n < 0 ? REPLY_NIL : REPLY_ARRAY;
        reply->n = (uint8_t)(n < 0 ? 0 : n);
        for (long i = 0; i < n; i++) {
            ASSERT(i < MODEL_KEYS);
            if (!take_bulk(in, &at, &reply->is_nil[i], &reply->items[i])) {
                return false;
            }
        }
    } else {
        sim_fail("REPLY not RESP: 0x%02x", (unsigned)in->data[0]);
    }
    *taken = at;
    return true;
}

static void on_reply(struct client *client, const struct reply *reply) {
    if (client->n_pending == 0) {
        sim_fail("REPLY client %u: a reply that it did not ask for", client->number);
    }
    struct pending pending = client->pending[0];
    client->n_pending--;
    memmove(client->pending, client->pending + 1, client->n_pending * sizeof client->pending[0]);
    client->n_done++;
    if (pending.kind == PENDING_SESSION) {
        if (reply->kind == REPLY_BULK) {
            snprintf(client->session, sizeof client->session, "%.*s", (int)reply->bulk.size,
                     reply->bulk.data);
            cover("sessions opened");
        }
        return;
    }
    if (pending.kind == PENDING_META) {
        if (reply->kind == REPLY_ERROR) {
            sim_fail("REPLY client %u: %.*s", client->number, (int)reply->bulk.size,
                     reply->bulk.data);
        }
        return;
    }
    n_operations++;
    client->n_since += reply->kind != REPLY_ERROR ? 1 : 0;
    if (pending.kind == PENDING_MODEL) {
        model_answered(client, &pending, reply);
    } else {
        owner_answered(client, &pending, reply);
    }
}

/* ---- connections ---- */

static void on_event(void *data, enum net_event event);

static void client_connect(struct client *client) {
    unsigned node = cluster_some_member();
    node = client->sent_to > 0 ? client->sent_to : node;
    client->sent_to = 0;
    client->epoch++;
    client->connected = false;
    client->endpoint = net_connect(0, NULL, node, CLIENT_PORT, on_event, client);
    watch(client, CONNECT_TIMEOUT_S * SIM_S);
}

/* What is under way has an unknown outcome from now on. */
static void client_drop(struct client *client, const char *why) {
    (void)why;
    if (client->endpoint != NULL) {
        net_close(client->endpoint);
        client->endpoint = NULL;
    }
    client->connected = false;
    client->epoch++;
    client->bound = NULL;
    client->in.size = 0;
    client->out.size = 0;
    client->out_at = 0;
    client->level = LEVEL_LINEARIZABLE;
    client->session_since = 0;
    client->leaving = false;
    for (unsigned i = 0; i < client->n_pending; i++) {
        struct pending *pending = &client->pending[i];
        if (pending->kind == PENDING_MODEL && pending->number > 0 && !stopped) {
            client->retry = *pending;
            client->has_retry = true;
        } else if (pending->kind == PENDING_MODEL) {
            pending->op.returned = UINT64_MAX;
            note_op(pending->generation, &pending->op);
            generation_release(pending->generation);
        }
    }
    client->n_pending = 0;
    client_plan(client, kernel_delay(50 * SIM_MS));
}

static void on_connected(struct client *client) {
    client->connected = true;
    if (client->is_owner) {
        put_auth(client, "owners");
        if (client->token[0] != '\0' && kernel_random(2) == 0) {
            owner_set_level(client);
        }
        flush(client);
        watch(client, options.patience_ns);
    }
    if (client->follows) {
        put_array(client, 3);
        put_text(client, "CLUSTER");
        put_text(client, "REDIRECT");
        put_text(client, "ON");
        (void)expect(client, PENDING_META);
    }
    client_plan(client, 0);
}

static void on_readable(struct client *client) {
    uint8_t data[16 * 1024];
    bool end = false;
    size_t n;
    while ((n = net_receive(client->endpoint, data, sizeof data, &end)) > 0) {
        buffer_append(&client->in, data, n);
        if (end) {
            break;
        }
    }
    struct reply reply;
    size_t taken;
    size_t at = 0;
    struct buffer rest = client->in;
    while (rest.size > 0 && take_reply(&rest, &taken, &reply)) {
        at += taken;
        rest.data += taken;
        rest.size -= taken;
        on_reply(client, &reply);
    }
    if (at > 0) {
        memmove(client->in.data, client->in.data + at, client->in.size - at);
        client->in.size -= at;
    }
    if (end) {
        client_drop(client, "closed by the node");
        return;
    }
    if (!client->is_owner && client->n_pending == 0 && kernel_random(100) == 0) {
        client->leaving = true;
    }
    if (client->leaving && client->n_pending == 0) {
        client_drop(client, "moves on");
        return;
    }
    if (client->n_pending < PENDING_MAX) {
        client_plan(client, kernel_delay(options.think_ns));
    }
}

static void on_event(void *data, enum net_event event) {
    struct client *client = data;
    switch (event) {
    case NET_CONNECTED:
        on_connected(client);
        break;
    case NET_READABLE:
        on_readable(client);
        break;
    case NET_WRITABLE:
        flush(client);
        break;
    case NET_REFUSED:
    case NET_BROKEN:
        client_drop(client, "broken");
        break;
    }
}

static void client_go_on(void *data) {
    struct client *client = data;
    client->idle_planned = false;
    if (stopped) {
        return;
    }
    if (client->endpoint == NULL) {
        client_connect(client);
        return;
    }
    if (!client->connected) {
        return;
    }
    if (client->is_owner) {
        owner_send(client);
    } else {
        model_send(client);
    }
    flush(client);
    watch(client, options.patience_ns);
}

static void client_plan(struct client *client, uint64_t after_ns) {
    if (!client->idle_planned) {
        client->idle_planned = true;
        kernel_at(kernel_now() + after_ns, NULL, client_go_on, client);
    }
}

/* ---- all of them ---- */

void clients_start(const struct client_options *wanted) {
    options = *wanted;
    ASSERT(options.n_model + options.n_owners <= CLIENTS_MAX);
    for (unsigned i = 0; i < options.n_projects; i++) {
        projects[i].number = i;
        projects[i].multi_key = kernel_chance(options.multi_key);
        projects[i].now = generation_new(&projects[i]);
    }
    n_clients = options.n_model + options.n_owners;
    for (unsigned i = 0; i < n_clients; i++) {
        struct client *client = &clients[i];
        client->number = i;
        client->is_owner = i >= options.n_model;
        client->project = &projects[i % options.n_projects];
        client->only_reads = !client->is_owner && kernel_random(3) == 0;
        client->numbers_writes = !client->is_owner && kernel_chance(options.numbering);
        client->follows = !client->is_owner && kernel_random(5) == 0;
        for (unsigned k = 0; k < OWNED_KEYS; k++) {
            (void)attempt_new(&client->owned[k], true, 0);
        }
        client_plan(client, kernel_delay(100 * SIM_MS));
    }
}

void clients_stop(void) {
    stopped = true;
}

bool clients_are_idle(void) {
    for (unsigned i = 0; i < n_clients; i++) {
        if (clients[i].n_pending > 0) {
            return false;
        }
    }
    return true;
}

void clients_finish(void) {
    for (unsigned i = 0; i < n_clients; i++) {
        if (clients[i].has_retry) {
            clients[i].has_retry = false;
            clients[i].retry.op.returned = UINT64_MAX;
            note_op(clients[i].retry.generation, &clients[i].retry.op);
            generation_release(clients[i].retry.generation);
        }
        if (clients[i].endpoint != NULL) {
            client_drop(&clients[i], "the end");
        }
    }
    for (unsigned i = 0; i < options.n_projects; i++) {
        ASSERT(projects[i].now->users == 0);
        generation_check(projects[i].now);
    }
}

void clients_expect_expiry(void) {
    strict_from = kernel_now();
}

void clients_allow_early_expiry(void) {
    early_until = kernel_now();
}

uint64_t clients_progress(void) {
    uint64_t least = UINT64_MAX;
    for (unsigned i = 0; i < n_clients; i++) {
        least = clients[i].n_since < least ? clients[i].n_since : least;
        clients[i].n_since = 0;
    }
    return least;
}

uint64_t clients_operations(void) {
    return n_operations;
}

uint64_t clients_checked(void) {
    return n_checked;
}

uint64_t clients_unchecked(void) {
    return n_unchecked;
}
