/* Workloads that concern whole projects: clear against everything else, quotas at their edge,
 * banks. Each project is used for a while, then a new one takes its place. */
#include <inttypes.h>
#include <stdio.h>

#include "base/mem.h"
#include "chaos/workload/load.h"

struct place {
    uint32_t unit;
    char project[64];
};

static struct place place_of(const struct client *client, uint32_t unit) {
    struct place place = {.unit = unit};
    project_name(client->group, unit, place.project, sizeof place.project);
    return place;
}

static void begin_projects(struct client *client) {
    client->link = client_open_link(client);
}

static void begin_op(struct client *client, const char *op, const struct place *place,
                     const char *key) {
    op_begin(client, op);
    op_integer(client, "p", place->unit);
    if (key != NULL) {
        op_text(client, "k", key);
    }
}

static void carry_out(struct client *client, const struct place *place, const struct words *words,
                      bool is_write) {
    op_invoke(client);
    link_command(client->link, place->project, words, is_write, &client->answer);
    op_end(client);
}

static void end_with_number(struct client *client) {
    if (client->answer.outcome == ANSWER_OK) {
        op_integer(client, "v", answer_number(&client->answer.value, -1));
    }
    op_done(client);
}

static void key_name(struct client *client, unsigned keys, char *key, size_t size) {
    (void)snprintf(key, size, "k%" PRIu64, client_below(client, keys));
}

static void do_delete(struct client *client, const struct place *place, const char *key) {
    struct words words = words_make(2, (const char *const[]){"DEL", key});
    begin_op(client, "delete", place, key);
    carry_out(client, place, &words, true);
    end_with_number(client);
}

/* The latest projects: what was used long ago has been looked at in its time. */
static void finish_latest(struct client *client,
                          void (*look)(struct client *, const struct place *)) {
    uint32_t n = arena_units(client->group);
    uint32_t first = n > 4 * client->group->kind->slots ? n - 4 * client->group->kind->slots : 0;
    for (uint32_t unit = first + client->index; unit < n; unit += client->group->n_clients) {
        struct place place = place_of(client, unit);
        do {
            look(client, &place);
        } while (client->answer.outcome != ANSWER_OK && client_tries_again(client));
    }
}

/* --- clear ------------------------------------------------------------------------------------ */

enum { CLEAR_KEYS = 5 };

static void clear_set(struct client *client, const struct place *place, const char *key) {
    char value[64];
    begin_op(client, "set", place, key);
    unique_value(client, value, sizeof value);
    op_text(client, "v", value);
    struct words words = words_make(3, (const char *const[]){"SET", key, value});
    carry_out(client, place, &words, true);
    op_done(client);
}

static void clear_get(struct client *client, const struct place *place, const char *key) {
    struct words words = words_make(2, (const char *const[]){"GET", key});
    begin_op(client, "get", place, key);
    carry_out(client, place, &words, false);
    if (client->answer.outcome == ANSWER_OK && client->answer.value.type == ANSWER_NIL) {
        op_nil(client, "v");
    } else if (client->answer.outcome == ANSWER_OK) {
        op_bytes(client, "v", answer_text(&client->answer.value));
    }
    op_done(client);
}

static void clear_count(struct client *client, const struct place *place) {
    struct words words = words_make(1, (const char *const[]){"DBSIZE"});
    begin_op(client, "count", place, NULL);
    carry_out(client, place, &words, false);
    end_with_number(client);
}

static void clear_all(struct client *client, const struct place *place) {
    struct words words = words_make(1, (const char *const[]){"FLUSHDB"});
    begin_op(client, "clear", place, NULL);
    carry_out(client, place, &words, true);
    op_done(client);
}

static void step_clear(struct client *client) {
    struct place place = place_of(client, arena_take(client));
    uint64_t dice = client_below(client, 20);
    char key[16];
    key_name(client, CLEAR_KEYS, key, sizeof key);
    if (dice < 8) {
        clear_set(client, &place, key);
    } else if (dice < 15) {
        clear_get(client, &place, key);
    } else if (dice < 16) {
        do_delete(client, &place, key);
    } else if (dice < 18) {
        clear_count(client, &place);
    } else {
        clear_all(client, &place);
    }
}

static void finish_clear(struct client *client) {
    finish_latest(client, clear_count);
}

const struct workload_kind workload_clear = {
    .name = "clear",
    .weight = 2,
    .least = 3,
    .pace = 0.7,
    .rotate = 300,
    .slots = 4,
    .begin = begin_projects,
    .step = step_clear,
    .finish = finish_clear,
};

/* --- quota ------------------------------------------------------------------------------------ */

enum { QUOTA_KEYS = 8, QUOTA_BYTES = 20000, QUOTA_VALUE = 6000 };

static void quota_open(struct client *client, const struct place *place) {
    char bytes[16];
    (void)snprintf(bytes, sizeof bytes, "%d", QUOTA_BYTES);
    struct words words =
        words_make(5, (const char *const[]){"PROJECT", "CREATE", place->project, "QUOTA", bytes});
    begin_op(client, "open", place, NULL);
    op_integer(client, "v", QUOTA_BYTES);
    op_invoke(client);
    link_admin(client->link, &words, true, &client->answer);
    op_end(client);
    op_done(client);
}

static void quota_set(struct client *client, const struct place *place, const char *key) {
    size_t size = 1 + (size_t)client_below(client, QUOTA_VALUE);
    char *data = mem_alloc(size);
    memset(data, 'q', size);
    struct words words = words_make(2, (const char *const[]){"SET", key});
    words_add(&words, data, size);
    begin_op(client, "set", place, key);
    op_integer(client, "v", (int64_t)size);
    carry_out(client, place, &words, true);
    op_done(client);
    mem_free(data);
}

/* The number behind a name in a map that stands as names and values in turn. */
static int64_t field_of(const struct answer_value *map, const char *name) {
    for (size_t i = 0; map->type == ANSWER_ARRAY && i + 1 < map->size; i += 2) {
        if (answer_is(&map->elements[i], name)) {
            return answer_number(&map->elements[i + 1], -1);
        }
    }
    return -1;
}

static void quota_info(struct client *client, const struct place *place) {
    struct words words = words_make(3, (const char *const[]){"PROJECT", "INFO", place->project});
    begin_op(client, "info", place, NULL);
    op_invoke(client);
    link_admin(client->link, &words, false, &client->answer);
    op_end(client);
    if (client->answer.outcome == ANSWER_OK) {
        const struct answer_value *map = &client->answer.value;
        int64_t numbers[] = {field_of(map, "keys"), field_of(map, "used_bytes"),
                             field_of(map, "quota_bytes")};
        op_list(client, "v", numbers, 3);
    }
    op_done(client);
}

static void step_quota(struct client *client) {
    uint32_t unit;
    bool must_open;
    char key[16];
    if (!arena_take_open(client, &unit, &must_open)) {
        return;
    }
    struct place place = place_of(client, unit);
    if (must_open) {
        quota_open(client, &place);
        arena_opened(client, unit, client->answer.outcome == ANSWER_OK);
        return;
    }
    uint64_t dice = client_below(client, 20);
    key_name(client, QUOTA_KEYS, key, sizeof key);
    if (dice < 13) {
        quota_set(client, &place, key);
    } else if (dice < 16) {
        do_delete(client, &place, key);
    } else {
        quota_info(client, &place);
    }
}

/* Of a project that was never opened there is nothing to tell: it may be missing. */
static void finish_quota(struct client *client) {
    struct arena *arena = &client->group->arena;
    for (unsigned i = client->index; i < client->group->kind->slots;
         i += client->group->n_clients) {
        struct place place = place_of(client, arena->slots[i].unit);
        while (arena->slots[i].is_open) {
            quota_info(client, &place);
            if (client->answer.outcome == ANSWER_OK || !client_tries_again(client)) {
                break;
            }
        }
    }
}

const struct workload_kind workload_quota = {
    .name = "quota",
    .weight = 2,
    .least = 3,
    .pace = 0.7,
    .rotate = 250,
    .slots = 4,
    .begin = begin_projects,
    .step = step_quota,
    .finish = finish_quota,
};

/* --- banks ------------------------------------------------------------------------------------ */

enum { ACCOUNTS = 5, BALANCE = 100, AMOUNT = 20 };

/* For reads of any replica. */
struct bank_client {
    struct link *any; /* eventual */
};

static void add_gets(struct words *commands, char keys[ACCOUNTS][8]) {
    for (unsigned i = 0; i < ACCOUNTS; i++) {
        (void)snprintf(keys[i], 8, "a%u", i);
        commands[i] = words_make(2, (const char *const[]){"GET", keys[i]});
    }
}

static void bank_open(struct client *client, const struct place *place) {
    char keys[ACCOUNTS][8];
    int64_t balances[ACCOUNTS];
    struct words words = {0};
    words_add_text(&words, "MSET");
    for (unsigned i = 0; i < ACCOUNTS; i++) {
        (void)snprintf(keys[i], sizeof keys[i], "a%u", i);
        balances[i] = BALANCE;
        words_add_text(&words, keys[i]);
        words_add_text(&words, "100");
    }
    begin_op(client, "open", place, NULL);
    op_list(client, "v", balances, ACCOUNTS);
    carry_out(client, place, &words, true);
    op_done(client);
}

static void end_with_balances(struct client *client, const struct answer *answer) {
    int64_t balances[ACCOUNTS];
    const struct answer_value *value = &answer->value;
    bool any = false;
    if (answer->outcome != ANSWER_OK) {
        return;
    }
    for (unsigned i = 0; i < ACCOUNTS; i++) {
        bool is_there =
            value->type == ANSWER_ARRAY && i < value->size && value->elements[i].type != ANSWER_NIL;
        balances[i] = is_there ? answer_number(&value->elements[i], -1000000) : 0;
        any = any || is_there;
    }
    if (any) {
        op_list(client, "v", balances, ACCOUNTS);
    } else {
        op_nil(client, "v");
    }
}

/* A transaction of reads, or one MGET: both are one moment. */
static void bank_read_over(struct client *client, const struct place *place, const char *op,
                           struct link *link) {
    char keys[ACCOUNTS][8];
    struct words commands[ACCOUNTS];
    add_gets(commands, keys);
    struct link *own = client->link;
    client->link = link; /* the history names its node */
    begin_op(client, op, place, NULL);
    op_invoke(client);
    if (client_below(client, 2) == 0) {
        link_transaction(link, place->project, commands, ACCOUNTS, NULL, NULL, 0, false,
                         &client->answer);
    } else {
        struct words words = {0};
        words_add_text(&words, "MGET");
        for (unsigned i = 0; i < ACCOUNTS; i++) {
            words_add_text(&words, keys[i]);
        }
        link_command(link, place->project, &words, false, &client->answer);
    }
    client->link = own;
    op_end(client);
    end_with_balances(client, &client->answer);
    op_done(client);
}

static void bank_read(struct client *client, const struct place *place) {
    bank_read_over(client, place, "read", client->link);
}

struct transfer {
    char from[8];
    char to[8];
    int64_t amount;
};

static struct transfer random_transfer(struct client *client) {
    struct transfer transfer = {.amount = 1 + (int64_t)client_below(client, AMOUNT)};
    unsigned from = (unsigned)client_below(client, ACCOUNTS);
    unsigned to = (from + 1 + (unsigned)client_below(client, ACCOUNTS - 1)) % ACCOUNTS;
    (void)snprintf(transfer.from, sizeof transfer.from, "a%u", from);
    (void)snprintf(transfer.to, sizeof transfer.to, "a%u", to);
    return transfer;
}

static void begin_transfer(struct client *client, const struct place *place,
                           const struct transfer *transfer) {
    begin_op(client, "transfer", place, transfer->from);
    op_text(client, "to", transfer->to);
    op_integer(client, "amount", transfer->amount);
}

/* DECRBY and INCRBY in one transaction: it always happens, and tells both balances. */
static void transfer_blindly(struct client *client, const struct place *place,
                             const struct transfer *transfer) {
    char amount[32];
    (void)snprintf(amount, sizeof amount, "%" PRId64, transfer->amount);
    struct words commands[2] = {
        words_make(3, (const char *const[]){"DECRBY", transfer->from, amount}),
        words_make(3, (const char *const[]){"INCRBY", transfer->to, amount})};
    begin_transfer(client, place, transfer);
    op_invoke(client);
    link_transaction(client->link, place->project, commands, 2, NULL, NULL, 0, true,
                     &client->answer);
    op_end(client);
    const struct answer_value *value = &client->answer.value;
    if (client->answer.outcome == ANSWER_OK) {
        bool is_pair = value->type == ANSWER_ARRAY && value->size == 2;
        int64_t balances[2] = {is_pair ? answer_number(&value->elements[0], -1000000) : -1000000,
                               is_pair ? answer_number(&value->elements[1], -1000000) : -1000000};
        op_list(client, "v", balances, 2);
    }
    op_done(client);
}

/* What a client has read of the two accounts, to write only if nobody else does in between. */
struct watched {
    int64_t balances[2];
    uint64_t versions[2];
};

static bool watch_by_version(struct client *client, const struct place *place,
                             const char *const *keys, struct watched *watched) {
    for (int i = 0; i < 2; i++) {
        struct words words = words_make(2, (const char *const[]){"GETVER", keys[i]});
        const struct answer_value *value = &client->answer.value;
        link_command(client->link, place->project, &words, false, &client->answer);
        if (client->answer.outcome != ANSWER_OK || value->type != ANSWER_ARRAY ||
            value->size != 2) {
            return false;
        }
        watched->balances[i] = answer_number(&value->elements[0], -1000000);
        watched->versions[i] = (uint64_t)answer_number(&value->elements[1], 0);
    }
    return true;
}

/* WATCH stands on the connection: when that breaks, so does what comes next. */
static bool watch_by_connection(struct client *client, const struct place *place,
                                const char *const *keys, struct watched *watched) {
    struct words words = words_make(3, (const char *const[]){"WATCH", keys[0], keys[1]});
    link_command(client->link, place->project, &words, false, &client->answer);
    for (int i = 0; i < 2 && client->answer.outcome == ANSWER_OK; i++) {
        words = words_make(2, (const char *const[]){"GET", keys[i]});
        link_command(client->link, place->project, &words, false, &client->answer);
        watched->balances[i] = answer_number(&client->answer.value, -1000000);
    }
    return client->answer.outcome == ANSWER_OK;
}

static void transfer_watched(struct client *client, const struct place *place,
                             const struct transfer *transfer) {
    const char *keys[2] = {transfer->from, transfer->to};
    struct watched watched = {0};
    bool by_library = link_is_library(client->link);
    char texts[2][32];
    if (!(by_library ? watch_by_version(client, place, keys, &watched)
                     : watch_by_connection(client, place, keys, &watched))) {
        link_move(client->link); /* also forgets what is watched */
        return;
    }
    int64_t balances[2] = {watched.balances[0] - transfer->amount,
                           watched.balances[1] + transfer->amount};
    struct words commands[2];
    for (int i = 0; i < 2; i++) {
        (void)snprintf(texts[i], sizeof texts[i], "%" PRId64, balances[i]);
        commands[i] = words_make(3, (const char *const[]){"SET", keys[i], texts[i]});
    }
    begin_transfer(client, place, transfer);
    op_list(client, "v", balances, 2);
    op_invoke(client);
    link_transaction(client->link, place->project, commands, 2, keys, watched.versions,
                     by_library ? 2 : 0, true, &client->answer);
    if (client->answer.outcome == ANSWER_OK && client->answer.value.type == ANSWER_NIL) {
        answer_fail(&client->answer, ANSWER_FAIL, "a watched account had changed");
    }
    op_end(client);
    op_done(client);
}

static void step_bank(struct client *client) {
    uint32_t unit;
    bool must_open;
    if (!arena_take_open(client, &unit, &must_open)) {
        return;
    }
    struct place place = place_of(client, unit);
    struct bank_client *own = client->own;
    if (must_open) {
        bank_open(client, &place);
        arena_opened(client, unit, client->answer.outcome == ANSWER_OK);
        return;
    }
    struct transfer transfer = random_transfer(client);
    uint64_t dice = client_below(client, 20);
    if (dice < 6) {
        transfer_blindly(client, &place, &transfer);
    } else if (dice < 12) {
        transfer_watched(client, &place, &transfer);
    } else if (dice < 17) {
        bank_read(client, &place);
    } else {
        bank_read_over(client, &place, "peek", own->any);
    }
}

static void begin_bank(struct client *client) {
    struct load *load = client->load;
    struct bank_client *own = mem_zalloc(1, sizeof *own);
    client->link = client_open_link(client);
    own->any = link_is_library(client->link)
                   ? link_open_library(client->group->library, IKV_EVENTUAL, 0, load->timeout_ms)
                   : link_open_resp(&load->nodes, &client->prng, "EVENTUAL", load->timeout_ms);
    client->own = own;
}

static void end_bank(struct client *client) {
    struct bank_client *own = client->own;
    link_free(own->any);
    mem_free(own);
}

static void finish_bank(struct client *client) {
    struct arena *arena = &client->group->arena;
    for (unsigned i = client->index; i < client->group->kind->slots;
         i += client->group->n_clients) {
        struct place place = place_of(client, arena->slots[i].unit);
        while (arena->slots[i].is_open) {
            bank_read(client, &place);
            if (client->answer.outcome == ANSWER_OK || !client_tries_again(client)) {
                break;
            }
        }
    }
}

const struct workload_kind workload_bank = {
    .name = "bank",
    .weight = 3,
    .least = 3,
    .pace = 0.7,
    .rotate = 250,
    .slots = 4,
    .begin = begin_bank,
    .step = step_bank,
    .finish = finish_bank,
    .end = end_bank,
};
