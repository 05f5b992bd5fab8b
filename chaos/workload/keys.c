/* Workloads of single keys: registers, large values, counters, compare and set. */
#include <inttypes.h>
#include <stdio.h>

#include "base/crc32c.h"
#include "base/mem.h"
#include "base/number.h"
#include "chaos/workload/load.h"
#include "chaos/workload/once.h"

struct target {
    uint32_t project;
    char project_name[64];
    char key[40];
};

static struct target target_of(const struct group *group, uint32_t unit) {
    struct target target = {.project = unit % PROJECTS_OF_WORKLOAD};
    project_name(group, target.project, target.project_name, sizeof target.project_name);
    (void)snprintf(target.key, sizeof target.key, "%c%" PRIu32, group->kind->name[0], unit);
    return target;
}

static void begin_keys(struct client *client) {
    client->link = client_open_link(client);
}

static void begin_op(struct client *client, const char *op, const struct target *target) {
    op_begin(client, op);
    op_integer(client, "p", target->project);
    op_text(client, "k", target->key);
}

static void carry_out(struct client *client, const struct target *target, const struct words *words,
                      bool is_write) {
    op_invoke(client);
    link_command(client->link, target->project_name, words, is_write, &client->answer);
    op_end(client);
}

/* The value that a read found. What a read must never answer is told as a text that nobody wrote.
 */
static void end_with_value(struct client *client, const struct answer_value *value) {
    if (client->answer.outcome != ANSWER_OK) {
        return;
    }
    if (value->type == ANSWER_NIL) {
        op_nil(client, "v");
    } else if (value->type == ANSWER_TEXT) {
        op_bytes(client, "v", answer_text(value));
    } else {
        op_text(client, "v", "an answer of another type");
    }
}

static void end_with_number(struct client *client) {
    if (client->answer.outcome == ANSWER_OK) {
        op_integer(client, "v", answer_number(&client->answer.value, -1));
    }
}

static void do_get(struct client *client, const struct target *target) {
    struct words words = words_make(2, (const char *const[]){"GET", target->key});
    begin_op(client, "get", target);
    carry_out(client, target, &words, false);
    end_with_value(client, &client->answer.value);
    op_done(client);
}

static void do_delete(struct client *client, const struct target *target) {
    struct words words = words_make(2, (const char *const[]){"DEL", target->key});
    begin_op(client, "delete", target);
    carry_out(client, target, &words, true);
    end_with_number(client);
    op_done(client);
}

static void do_set(struct client *client, const struct target *target) {
    char value[64];
    begin_op(client, "set", target);
    unique_value(client, value, sizeof value);
    op_text(client, "v", value);
    struct words words = words_make(3, (const char *const[]){"SET", target->key, value});
    carry_out(client, target, &words, true);
    op_done(client);
}

/* Reads each key that ever was until that works; clients share the work. */
static void read_all(struct client *client, void (*read)(struct client *, const struct target *)) {
    uint32_t n = arena_units(client->group);
    for (uint32_t unit = client->index; unit < n; unit += client->group->n_clients) {
        struct target target = target_of(client->group, unit);
        do {
            read(client, &target);
        } while (client->answer.outcome != ANSWER_OK && client_tries_again(client));
    }
}

/* --- registers -------------------------------------------------------------------------------- */

static void step_register(struct client *client) {
    struct target target = target_of(client->group, arena_take(client));
    uint64_t dice = client_below(client, 10);
    if (dice < 5) {
        do_get(client, &target);
    } else if (dice < 9) {
        do_set(client, &target);
    } else {
        do_delete(client, &target);
    }
}

static void finish_register(struct client *client) {
    read_all(client, do_get);
}

const struct workload_kind workload_register = {
    .name = "register",
    .weight = 5,
    .least = 2,
    .pace = 1.5,
    .rotate = 400,
    .slots = 16,
    .begin = begin_keys,
    .step = step_register,
    .finish = finish_register,
};

/* --- counters --------------------------------------------------------------------------------- */

static void get_counter(struct client *client, const struct target *target) {
    struct words words = words_make(2, (const char *const[]){"GET", target->key});
    begin_op(client, "get", target);
    carry_out(client, target, &words, false);
    if (client->answer.outcome == ANSWER_OK && client->answer.value.type == ANSWER_NIL) {
        op_nil(client, "v");
    } else {
        end_with_number(client);
    }
    op_done(client);
}

static void step_counter(struct client *client) {
    struct target target = target_of(client->group, arena_take(client));
    struct once *sessions = client->own;
    if (client_below(client, 10) < 2) {
        get_counter(client, &target);
        return;
    }
    struct words words = words_make(2, (const char *const[]){"INCR", target.key});
    begin_op(client, "add", &target);
    op_integer(client, "v", 1);
    if (link_is_library(client->link) || client_below(client, 2) == 0) {
        carry_out(client, &target, &words, true);
    } else {
        op_invoke(client);
        once_command(client, &sessions[target.project], target.project_name, &words);
        op_end(client);
    }
    end_with_number(client);
    op_done(client);
}

static void begin_counter(struct client *client) {
    begin_keys(client);
    client->own = mem_zalloc(PROJECTS_OF_WORKLOAD, sizeof(struct once));
}

static void end_counter(struct client *client) {
    mem_free(client->own);
}

static void finish_counter(struct client *client) {
    read_all(client, get_counter);
}

const struct workload_kind workload_counter = {
    .name = "counter",
    .weight = 3,
    .least = 2,
    .pace = 1,
    .slots = 16,
    .begin = begin_counter,
    .step = step_counter,
    .finish = finish_counter,
    .end = end_counter,
};

/* --- compare and set -------------------------------------------------------------------------- */

/* What the client read last of a key, and may compare with. */
struct seen {
    bool is_there;
    char value[64];
    int64_t version;
};

static bool do_get_version(struct client *client, const struct target *target, struct seen *seen) {
    struct words words = words_make(2, (const char *const[]){"GETVER", target->key});
    const struct answer_value *value = &client->answer.value;
    begin_op(client, "getver", target);
    carry_out(client, target, &words, false);
    *seen = (struct seen){0};
    if (client->answer.outcome == ANSWER_OK && value->type == ANSWER_NIL) {
        op_nil(client, "v");
        op_integer(client, "ver", 0);
    } else if (client->answer.outcome == ANSWER_OK && value->type == ANSWER_ARRAY &&
               value->size == 2) {
        seen->is_there = true;
        seen->version = answer_number(&value->elements[1], -1);
        (void)snprintf(seen->value, sizeof seen->value, "%.*s", (int)value->elements[0].size,
                       (const char *)value->elements[0].data);
        end_with_value(client, &value->elements[0]);
        op_integer(client, "ver", seen->version);
    } else if (client->answer.outcome == ANSWER_OK) {
        op_text(client, "v", "an answer of another type");
    }
    op_done(client);
    return client->answer.outcome == ANSWER_OK;
}

static void add_condition(struct client *client, struct words *words, bool by_version,
                          const struct seen *seen, char *version, size_t size) {
    (void)snprintf(version, size, "%" PRId64, seen->version);
    if (seen->is_there) {
        op_text(client, "old", seen->value);
    } else {
        op_nil(client, "old");
    }
    if (by_version) {
        op_integer(client, "ver", seen->version);
        words_add_text(words, "IFVER");
        words_add_text(words, version);
    } else if (seen->is_there) {
        words_add_text(words, "IFEQ");
        words_add_text(words, seen->value);
    } else {
        words_add_text(words, "NX");
    }
}

static void do_compare_and_set(struct client *client, const struct target *target, bool by_version,
                               const struct seen *seen) {
    char value[64];
    char version[32];
    struct words words = {0};
    begin_op(client, by_version ? "casver" : "cas", target);
    unique_value(client, value, sizeof value);
    op_text(client, "v", value);
    words_add_text(&words, "SET");
    words_add_text(&words, target->key);
    words_add_text(&words, value);
    add_condition(client, &words, by_version, seen, version, sizeof version);
    carry_out(client, target, &words, true);
    if (client->answer.outcome == ANSWER_OK) {
        op_integer(client, "v", client->answer.value.type == ANSWER_NIL ? 0 : 1);
    }
    op_done(client);
}

static void step_cas(struct client *client) {
    struct target target = target_of(client->group, arena_take(client));
    struct seen seen;
    uint64_t dice = client_below(client, 20);
    if (dice == 0) {
        do_delete(client, &target);
    } else if (dice == 1) {
        do_set(client, &target);
    } else if (dice < 5) {
        do_get(client, &target);
    } else if (do_get_version(client, &target, &seen)) {
        do_compare_and_set(client, &target, dice < 13, &seen);
    }
}

const struct workload_kind workload_cas = {
    .name = "cas",
    .weight = 3,
    .least = 2,
    .pace = 0.7, /* most steps are two operations */
    .rotate = 200,
    .slots = 8,
    .begin = begin_keys,
    .step = step_cas,
    .finish = finish_register,
};

/* --- large values ------------------------------------------------------------------------------
 *
 * A value is its own name, "client.operation/size", and bytes that follow from it. In the history
 * stands the name with a checksum of all: what comes back is named anew from its bytes. */

enum { LARGE_MAX = 4 * 1024 * 1024 };

static void fill(uint8_t *data, size_t size, const char *name) {
    struct prng prng;
    size_t at = strlen(name) + 1 < size ? strlen(name) + 1 : 0;
    prng_seed(&prng, crc32c(0, name, strlen(name)));
    if (at > 0) {
        memcpy(data, name, at);
    }
    for (; at < size; at += 8) {
        uint64_t word = prng_next(&prng);
        memcpy(data + at, &word, size - at < 8 ? size - at : 8);
    }
}

/* Small ones have no room for a name: the checksum alone, of few bits, would not be unique. They
 * count by the bytes themselves, which are the client's and operation's numbers. */
static void name_value(const uint8_t *data, size_t size, char *name, size_t name_size) {
    if (size <= 64) {
        (void)snprintf(name, name_size, "%.*s", (int)size, (const char *)data);
        return;
    }
    (void)snprintf(name, name_size, "%.40s/%zu/%08" PRIx32,
                   memchr(data, '\0', 41) != NULL ? (const char *)data : "damaged", size,
                   crc32c(0, data, size));
}

/* Each power of two is as likely. Those up to 64 bytes are the unique text itself. */
static size_t random_size(struct client *client) {
    uint64_t power = client_below(client, 17); /* 2^6 to 2^22 */
    size_t size = (size_t)1 << (6 + power);
    return power == 0 ? 0 : size / 2 + 1 + (size_t)client_below(client, size / 2);
}

static void set_large(struct client *client, const struct target *target) {
    char unique[64];
    char name[120];
    size_t size = random_size(client);
    begin_op(client, "set", target);
    unique_value(client, unique, sizeof unique);
    size = size <= 64 ? strlen(unique) : size;
    uint8_t *data = mem_alloc(size);
    if (size <= 64) {
        memcpy(data, unique, size);
    } else {
        fill(data, size, unique);
    }
    name_value(data, size, name, sizeof name);
    op_text(client, "v", name);
    struct words words = words_make(2, (const char *const[]){"SET", target->key});
    words_add(&words, data, size);
    carry_out(client, target, &words, true);
    op_done(client);
    mem_free(data);
}

static void get_large(struct client *client, const struct target *target) {
    struct words words = words_make(2, (const char *const[]){"GET", target->key});
    struct answer_value *value = &client->answer.value;
    char name[120];
    begin_op(client, "get", target);
    carry_out(client, target, &words, false);
    if (client->answer.outcome == ANSWER_OK && value->type == ANSWER_TEXT) {
        name_value(value->data, value->size, name, sizeof name);
        op_text(client, "v", name);
    } else {
        end_with_value(client, value);
    }
    op_done(client);
}

static void step_large(struct client *client) {
    struct target target = target_of(client->group, arena_take(client));
    uint64_t dice = client_below(client, 20);
    if (dice < 9) {
        get_large(client, &target);
    } else if (dice < 19) {
        set_large(client, &target);
    } else {
        do_delete(client, &target);
    }
}

static void finish_large(struct client *client) {
    read_all(client, get_large);
}

const struct workload_kind workload_large = {
    .name = "large",
    .weight = 2,
    .least = 2,
    .pace = 0.15,
    .rotate = 0, /* so that what is on the disks stays bounded */
    .slots = 12,
    .begin = begin_keys,
    .step = step_large,
    .finish = finish_large,
};
