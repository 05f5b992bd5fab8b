/* Keys with a time to live. Each key has one client that writes it, and lives through one story: it
 * is set, perhaps kept longer or for ever, and watched by all until it is gone. */
#include <inttypes.h>
#include <stdio.h>

#include "base/mem.h"
#include "chaos/workload/load.h"

enum { WATCHED = 4 /* keys of a client at a time */ };

struct story {
    uint32_t unit;
    int64_t ttl_ms;   /* as last set; 0: for ever */
    uint64_t set_at;  /* ns; 0: not yet */
    bool was_changed; /* PEXPIRE or PERSIST was tried */
};

/* One list for all clients of the group: anybody reads, the owner writes. */
struct stories {
    pthread_mutex_t lock;
    struct story list[CLIENTS_MAX][WATCHED];
    unsigned n;
};

static struct stories all = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void begin_op(struct client *client, const char *op, uint32_t unit, char *project,
                     size_t project_size, char *key, size_t key_size) {
    uint32_t number = unit % PROJECTS_OF_WORKLOAD;
    project_name(client->group, number, project, project_size);
    (void)snprintf(key, key_size, "t%" PRIu32, unit);
    op_begin(client, op);
    op_integer(client, "p", number);
    op_text(client, "k", key);
}

static void carry_out(struct client *client, const char *project, const struct words *words,
                      bool is_write) {
    op_invoke(client);
    link_command(client->link, project, words, is_write, &client->answer);
    op_end(client);
}

static void read_key(struct client *client, uint32_t unit) {
    char project[64];
    char key[32];
    begin_op(client, "get", unit, project, sizeof project, key, sizeof key);
    struct words words = words_make(2, (const char *const[]){"GET", key});
    carry_out(client, project, &words, false);
    const struct answer_value *value = &client->answer.value;
    if (client->answer.outcome == ANSWER_OK && value->type == ANSWER_NIL) {
        op_nil(client, "v");
    } else if (client->answer.outcome == ANSWER_OK) {
        op_bytes(client, "v", answer_text(value));
    }
    op_done(client);
}

static void set_key(struct client *client, struct story *story) {
    static const int64_t ttls[] = {50, 200, 500, 1000, 2000, 4000, 8000};
    char project[64];
    char key[32];
    char value[64];
    char ttl[32];
    story->ttl_ms = ttls[client_below(client, sizeof ttls / sizeof *ttls)];
    begin_op(client, "set", story->unit, project, sizeof project, key, sizeof key);
    unique_value(client, value, sizeof value);
    (void)snprintf(ttl, sizeof ttl, "%" PRId64, story->ttl_ms);
    op_text(client, "v", value);
    op_integer(client, "ttl", story->ttl_ms);
    struct words words = words_make(5, (const char *const[]){"SET", key, value, "PX", ttl});
    carry_out(client, project, &words, true);
    op_done(client);
    story->set_at = clock_now();
}

/* PEXPIRE, PERSIST or DEL. */
static void change_key(struct client *client, struct story *story) {
    char project[64];
    char key[32];
    char ttl[32];
    uint64_t dice = client_below(client, 5);
    struct words words = {0};
    begin_op(client,
             dice < 3   ? "expire"
             : dice < 4 ? "persist"
                        : "delete",
             story->unit, project, sizeof project, key, sizeof key);
    words_add_text(&words, dice < 3 ? "PEXPIRE" : dice < 4 ? "PERSIST" : "DEL");
    words_add_text(&words, key);
    if (dice < 3) {
        story->ttl_ms = 100 + (int64_t)client_below(client, 5000);
        (void)snprintf(ttl, sizeof ttl, "%" PRId64, story->ttl_ms);
        op_integer(client, "ttl", story->ttl_ms);
        words_add_text(&words, ttl);
    } else if (dice == 3) {
        story->ttl_ms = 2000; /* watched for as long as if it went then */
    }
    carry_out(client, project, &words, true);
    if (client->answer.outcome == ANSWER_OK) {
        op_integer(client, "v", answer_number(&client->answer.value, -1));
    }
    op_done(client);
    story->was_changed = true;
    story->set_at = clock_now();
}

static bool is_over(const struct story *story) {
    return story->set_at != 0 &&
           clock_now() - story->set_at > (uint64_t)(story->ttl_ms + 6500) * UINT64_C(1000000);
}

static uint32_t any_unit(struct client *client) {
    (void)pthread_mutex_lock(&all.lock);
    uint64_t owner = client_below(client, all.n);
    uint32_t unit = all.list[owner][client_below(client, WATCHED)].unit;
    (void)pthread_mutex_unlock(&all.lock);
    return unit;
}

static void step_ttl(struct client *client) {
    struct story *story = &((struct story *)client->own)[client_below(client, WATCHED)];
    if (story->set_at == 0) {
        set_key(client, story);
    } else if (is_over(story)) {
        (void)pthread_mutex_lock(&all.lock);
        *story = (struct story){.unit = arena_take(client)};
        (void)pthread_mutex_unlock(&all.lock);
    } else if (!story->was_changed && client_below(client, 25) == 0) {
        change_key(client, story);
    } else {
        read_key(client, any_unit(client));
    }
}

static void begin_ttl(struct client *client) {
    client->link = client_open_link(client);
    (void)pthread_mutex_lock(&all.lock);
    client->own = all.list[client->index];
    for (unsigned i = 0; i < WATCHED; i++) {
        all.list[client->index][i] = (struct story){.unit = arena_take(client)};
    }
    all.n = client->index + 1 > all.n ? client->index + 1 : all.n;
    (void)pthread_mutex_unlock(&all.lock);
}

/* By now all of it is set; a last look at what is still told to live. */
static void finish_ttl(struct client *client) {
    for (unsigned i = 0; i < WATCHED; i++) {
        const struct story *story = &((struct story *)client->own)[i];
        do {
            read_key(client, story->unit);
        } while (client->answer.outcome != ANSWER_OK && client_tries_again(client));
    }
}

const struct workload_kind workload_ttl = {
    .name = "ttl",
    .weight = 3,
    .least = 2,
    .pace = 1,
    .rotate = 1, /* every key that is taken is a new one */
    .slots = 1,
    .begin = begin_ttl,
    .step = step_ttl,
    .finish = finish_ttl,
};
