/* Workloads of single keys: registers, large values, counters, compare and set. */
#include <inttypes.h>
#include <stdio.h>

#include "base/crc32c.h"
#include "base/mem.h"
#include "base/number.h"
#include "chaos/workload/load.h"

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
    if (client_below(client, 10) < 2) {
        get_counter(client, &target);
        return;
    }
    struct words words = words_make(2, (const char *const[]){"INCR", target.key});
    begin_op(client, "add", &target);
    op_integer(client, "v", 1);
    carry_out(client, &target, &words, true);
    end_with_number(client);
    op_done(client);
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
    .begin = begin_keys,
    .step = step_counter,
    .finish = finish_counter,
};
