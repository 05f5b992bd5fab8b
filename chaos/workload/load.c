#include "chaos/workload/load.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "base/assert.h"
#include "base/json.h"
#include "base/mem.h"

/* --- operations ------------------------------------------------------------------------------- */

static void begin_line(struct client *client, uint64_t time, const char *what) {
    char text[160];
    client->line.size = 0;
    (void)snprintf(text, sizeof text,
                   "{\"t\":%" PRIu64 ",\"w\":\"%s\",\"c\":%" PRIu32 ",\"n\":%" PRIu64
                   ",\"e\":\"%s\"",
                   time, client->group->kind->name, client->id, client->operation, what);
    json_append_text(&client->line, text);
}

static void field(struct client *client, const char *name) {
    json_append_text(&client->line, ",\"");
    json_append_text(&client->line, name);
    json_append_text(&client->line, "\":");
}

void op_bytes(struct client *client, const char *name, struct slice text) {
    field(client, name);
    if (utf8_is_valid(text)) {
        json_append_string(&client->line, text);
    } else {
        json_append_text(&client->line, "\"not text\"");
    }
}

void op_text(struct client *client, const char *name, const char *text) {
    op_bytes(client, name, slice_of(text));
}

void op_integer(struct client *client, const char *name, int64_t number) {
    field(client, name);
    json_append_integer(&client->line, number);
}

void op_nil(struct client *client, const char *name) {
    field(client, name);
    json_append_text(&client->line, "null");
}

void op_list(struct client *client, const char *name, const int64_t *numbers, size_t n) {
    field(client, name);
    json_append_text(&client->line, "[");
    for (size_t i = 0; i < n; i++) {
        json_append_text(&client->line, i > 0 ? "," : "");
        json_append_integer(&client->line, numbers[i]);
    }
    json_append_text(&client->line, "]");
}

static void write_line(struct client *client) {
    json_append_text(&client->line, "}");
    record_write(client->load->record, buffer_slice(&client->line));
}

void op_begin(struct client *client, const char *op) {
    client->operation = atomic_fetch_add(&client->load->next_operation, 1) + 1;
    begin_line(client, clock_now(), "invoke");
    op_text(client, "op", op);
}

void op_invoke(struct client *client) {
    if (link_node(client->link) != NULL) {
        op_text(client, "node", link_node(client->link));
    }
    write_line(client);
}

void op_end(struct client *client) {
    static const char *const words[] = {"ok", "fail", "unknown"};
    begin_line(client, clock_now(), words[client->answer.outcome]);
}

void op_done(struct client *client) {
    struct group *group = client->group;
    if (client->answer.outcome != ANSWER_OK) {
        op_text(client, "err", client->answer.message);
    }
    write_line(client);
    switch (client->answer.outcome) {
    case ANSWER_OK:
        atomic_fetch_add(&group->ok, 1);
        return;
    case ANSWER_FAIL:
        atomic_fetch_add(&group->failed, 1);
        return;
    case ANSWER_UNKNOWN:
        atomic_fetch_add(&group->unknown, 1);
        client->id = atomic_fetch_add(&client->load->next_client, 1);
        return;
    }
}

void op_event(struct client *client, const char *op) {
    client->operation = 0;
    begin_line(client, clock_now(), "event");
    op_text(client, "op", op);
}

void op_told(struct client *client) {
    write_line(client);
}

/* --- clients ---------------------------------------------------------------------------------- */

static void sleep_until(uint64_t time) {
    struct timespec at = {.tv_sec = (time_t)(time / 1000000000),
                          .tv_nsec = (long)(time % 1000000000)};
    (void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
}

bool client_goes_on(const struct client *client) {
    return !atomic_load(&client->load->stopping);
}

bool client_tries_again(struct client *client) {
    uint64_t now = clock_now();
    if (now >= client->load->finish_by) {
        return false;
    }
    link_move(client->link);
    sleep_until(now + 100000000);
    return true;
}

struct link *client_open_link(struct client *client) {
    struct load *load = client->load;
    bool by_library =
        load->via == VIA_LIBRARY || (load->via == VIA_MIXED && client->index % 2 == 0);
    return by_library
               ? link_open_library(client->group->library, IKV_LINEARIZABLE, 0, load->timeout_ms)
               : link_open_resp(&load->nodes, &client->prng, NULL, load->timeout_ms);
}

uint64_t client_below(struct client *client, uint64_t bound) {
    return prng_below(&client->prng, bound);
}

void project_name(const struct group *group, uint32_t number, char *name, size_t size) {
    (void)snprintf(name, size, "chaos-%s-%" PRIu32, group->kind->name, number);
}

void unique_value(struct client *client, char *text, size_t size) {
    (void)snprintf(text, size, "c%" PRIu32 "n%" PRIu64, client->id, client->operation);
}

/* --- keys and projects in use ----------------------------------------------------------------- */

static unsigned pick_slot(struct client *client) {
    unsigned slots = client->group->kind->slots;
    return client_below(client, 3) == 0 ? 0 : (unsigned)client_below(client, slots);
}

static void refresh_slot(struct arena *arena, unsigned slot) {
    arena->slots[slot].unit = arena->next++;
    arena->slots[slot].operations = 0;
    arena->slots[slot].is_open = false;
    arena->slots[slot].is_being_opened = false;
}

uint32_t arena_take(struct client *client) {
    struct arena *arena = &client->group->arena;
    unsigned slot = pick_slot(client);
    (void)pthread_mutex_lock(&arena->lock);
    uint32_t rotate = client->group->kind->rotate;
    if (rotate > 0 && arena->slots[slot].operations++ >= rotate) {
        refresh_slot(arena, slot);
    }
    uint32_t unit = arena->slots[slot].unit;
    (void)pthread_mutex_unlock(&arena->lock);
    return unit;
}

bool arena_take_open(struct client *client, uint32_t *unit, bool *must_open) {
    struct arena *arena = &client->group->arena;
    unsigned slot = pick_slot(client);
    (void)pthread_mutex_lock(&arena->lock);
    if (arena->slots[slot].is_open &&
        arena->slots[slot].operations++ >= client->group->kind->rotate) {
        refresh_slot(arena, slot);
    }
    *unit = arena->slots[slot].unit;
    bool is_free = !arena->slots[slot].is_being_opened;
    *must_open = is_free && !arena->slots[slot].is_open;
    arena->slots[slot].is_being_opened = !is_free || *must_open;
    (void)pthread_mutex_unlock(&arena->lock);
    return is_free;
}

void arena_opened(struct client *client, uint32_t unit, bool is_open) {
    struct arena *arena = &client->group->arena;
    (void)pthread_mutex_lock(&arena->lock);
    for (unsigned i = 0; i < ARENA_SLOTS; i++) {
        if (arena->slots[i].unit == unit && !is_open) {
            refresh_slot(arena, i);
        } else if (arena->slots[i].unit == unit) {
            arena->slots[i].is_open = true;
            arena->slots[i].is_being_opened = false;
        }
    }
    (void)pthread_mutex_unlock(&arena->lock);
}

uint32_t arena_units(struct group *group) {
    (void)pthread_mutex_lock(&group->arena.lock);
    uint32_t n = group->arena.next;
    (void)pthread_mutex_unlock(&group->arena.lock);
    return n;
}

/* --- running ---------------------------------------------------------------------------------- */

/* ns between two operations of a client. */
static uint64_t interval_of(const struct client *client) {
    const struct load *load = client->load;
    double rate = load->rate * client->group->kind->pace / load->n_clients;
    return rate > 0 ? (uint64_t)(1e9 / rate) : 0;
}

static void run_steps(struct client *client) {
    uint64_t interval = interval_of(client);
    uint64_t next = clock_now() + (interval > 0 ? client_below(client, interval) : 0);
    while (client_goes_on(client)) {
        uint64_t now = clock_now();
        if (interval > 0 && now < next) {
            uint64_t soon = now + 100000000;
            sleep_until(next < soon ? next : soon);
            continue;
        }
        /* What was missed while the cluster was slow is not made up for. */
        next = now > next + interval ? now + interval : next + interval;
        client->group->kind->step(client);
        if (client_below(client, 200) == 0) {
            link_move(client->link);
        }
    }
}

void *client_run(void *data) {
    struct client *client = data;
    struct group *group = client->group;
    group->kind->begin(client);
    run_steps(client);
    atomic_fetch_sub(&group->stepping, 1);
    while (atomic_load(&group->stepping) > 0) {
        sleep_until(clock_now() + 10000000);
    }
    if (group->kind->finish != NULL) {
        group->kind->finish(client);
    }
    if (group->kind->end != NULL) {
        group->kind->end(client);
    }
    link_free(client->link);
    answer_reset(&client->answer);
    buffer_free(&client->line);
    return NULL;
}

void group_open(struct group *group) {
    char message[200];
    ASSERT(group->kind->slots <= ARENA_SLOTS);
    (void)pthread_mutex_init(&group->arena.lock, NULL);
    for (unsigned i = 0; i < ARENA_SLOTS; i++) {
        group->arena.slots[i].unit = UINT32_MAX;
    }
    for (unsigned i = 0; i < group->kind->slots; i++) {
        refresh_slot(&group->arena, i);
    }
    if (ikv_open(group->load->seeds, NULL, &group->library, message, sizeof message) != IKV_OK) {
        assert_fatal("chaos-workload: %s", message);
    }
}

void group_close(struct group *group) {
    (void)ikv_close(group->library);
    (void)pthread_mutex_destroy(&group->arena.lock);
}
