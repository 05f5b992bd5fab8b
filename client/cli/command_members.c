/* cluster add, remove, replace, transfer, rebalance, and status --wait-healthy. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "client/cli/commands.h"
#include "client/cli/members.h"
#include "client/cli/units.h"

enum {
    LOOK_MS = 500,       /* between two looks at the nodes */
    ASK_AGAIN_MS = 20000 /* an order that nothing came of is given again */
};

static void pause_ms(int64_t ms) {
    struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&pause, NULL);
}

static int64_t now_ms(void) {
    return (int64_t)(cli_now_ns() / 1000000u);
}

/* --timeout, else `fallback_ms`. */
static int deadline_of(struct cli *cli, const struct arguments *arguments, int64_t fallback_ms,
                       int64_t *deadline_ms) {
    const char *text = argument_option(arguments, "within");
    int64_t timeout_ms = fallback_ms;
    if (text != NULL && !units_parse_duration(text, &timeout_ms)) {
        return cli_fail(cli, EXIT_USAGE, "--within: '%s' is no time, such as 60s", text);
    }
    *deadline_ms = now_ms() + timeout_ms;
    return EXIT_OK;
}

static int parse_id(struct cli *cli, const char *text, uint64_t *id) {
    int64_t number;
    if (!units_parse_number(text, 1, UINT32_MAX, &number)) {
        return cli_fail(cli, EXIT_USAGE, "'%s' is no node id: they are numbers from 1 on", text);
    }
    *id = (uint64_t)number;
    return EXIT_OK;
}

/* --- status --wait-healthy -------------------------------------------------------------------- */

static void keep_first(void *data, const char *problem) {
    char *first = data;
    if (first[0] == '\0') {
        snprintf(first, 600, "%s", problem);
    }
}

static void print_line(void *data, const char *problem) {
    cli_print(data, "  %s\n", problem);
}

static void json_line(void *data, const char *problem) {
    struct buffer *out = data;
    if (out->data[out->size - 1] != '[') {
        buffer_put_u8(out, ',');
    }
    struct slice text = slice_of(problem);
    json_append_string(out, utf8_is_valid(text) ? text : slice_of("?"));
}

static void print_health(struct cli *cli, const struct members *members, unsigned n_problems,
                         int64_t waited_ms) {
    bool served;
    if (!cli->json) {
        cli_print(cli, n_problems == 0 ? "healthy\n" : "not healthy:\n");
        (void)members_problems(members, &served, print_line, cli);
        return;
    }
    cli_json_open(cli);
    cli_json_bool(&cli->out, "healthy", n_problems == 0);
    cli_json_integer(&cli->out, "waited_ms", waited_ms);
    cli_json_name(&cli->out, "problems");
    json_append_text(&cli->out, "[");
    (void)members_problems(members, &served, json_line, &cli->out);
    json_append_text(&cli->out, "]");
    cli_json_close(cli);
}

int cluster_wait_healthy(struct cli *cli, const struct arguments *arguments) {
    int64_t deadline_ms = 0;
    int64_t began_ms = now_ms();
    int code = deadline_of(cli, arguments, 60000, &deadline_ms);
    while (code == EXIT_OK) {
        struct members members;
        char first[600] = "";
        bool served = false;
        code = members_ask(cli, &members);
        unsigned n = code == EXIT_OK ? members_problems(&members, &served, keep_first, first) : 0;
        bool over = now_ms() >= deadline_ms || cli_interrupted;
        if (code == EXIT_OK && (n == 0 || over)) {
            print_health(cli, &members, n, now_ms() - began_ms);
            members_free(&members);
            return n == 0 ? EXIT_OK : served ? EXIT_NO : EXIT_UNREACHABLE;
        }
        members_free(&members);
        pause_ms(LOOK_MS);
    }
    return code;
}

/* --- orders ----------------------------------------------------------------------------------- */

/* Refusals that pass by themselves. */
static bool is_passing(int error, const ikv_reply *reply) {
    const char *said = reply != NULL ? ikv_reply_message(reply) : "";
    return error == IKV_ERR_BUSY || error == IKV_ERR_NO_LEADER || error == IKV_ERR_TIMEOUT ||
           strstr(said, "one change at a time") != NULL ||
           strstr(said, "cannot be handed over now") != NULL ||
           strstr(said, "is not connected: start it") != NULL;
}

/* The address of a node of the cluster other than `id`; NULL: none answers now. */
static const char *choose_other(const struct members *members, uint64_t id) {
    for (unsigned i = 0; i < members->n_nodes; i++) {
        const struct members_node *node = &members->nodes[i];
        bool started = node->map != NULL && cli_field_number(node->map, "started") != 0;
        if (started && node->id != id) {
            return node->address;
        }
    }
    return NULL;
}

/* Gives an order to a node other than `id`. What passes by itself is no failure before the
 * deadline: *given tells whether the order was taken. */
static int give(struct cli *cli, const struct members *members, const char *order, uint64_t id,
                int64_t deadline_ms, bool *given) {
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, id);
    ikv_bytes words[] = {ikv_text("CLUSTER"), ikv_text(order), ikv_text(text)};
    const char *address = choose_other(members, id);
    bool over = now_ms() >= deadline_ms;
    *given = false;
    if (address == NULL) {
        bool alone = members->n_nodes == 1;
        return alone || over
                   ? cli_fail(cli, EXIT_UNREACHABLE, "no other node of the cluster answers")
                   : EXIT_OK;
    }
    ikv_reply *reply = NULL;
    int error = ikv_node_command(cli->client, address, 3, words, 0, &reply);
    bool passes = error != IKV_OK && is_passing(error, reply) && !over;
    int code = error == IKV_OK || passes ? EXIT_OK : cli_fail_reply(cli, error, reply, NULL);
    *given = error == IKV_OK;
    ikv_reply_free(reply);
    return code;
}

struct goal {
    const char *order; /* word of the command */
    const char *done;  /* what it is then */
    enum membership wanted;
    bool or_less;
};

/* Shards where it is so. */
static unsigned count_done(const struct members *members, const struct goal *goal, uint64_t id) {
    unsigned n = 0;
    for (unsigned i = 0; i < members->n_shards; i++) {
        enum membership state;
        if (members_state(members, i, id, &state)) {
            n += state == goal->wanted || (goal->or_less && state < goal->wanted);
        }
    }
    return n;
}

static int tell_done(struct cli *cli, const struct goal *goal, uint64_t id) {
    if (cli->json) {
        cli_json_open(cli);
        cli_json_unsigned(&cli->out, "node", id);
        cli_json_text(&cli->out, "state", goal->done);
        cli_json_close(cli);
    } else {
        cli_print(cli, "node %" PRIu64 ": %s\n", id, goal->done);
    }
    return EXIT_OK;
}

/* Looks at the nodes until the goal is reached. An order that got lost with whoever knew it is
 * given again. */
static int follow(struct cli *cli, const struct goal *goal, uint64_t id, int64_t deadline_ms) {
    int64_t given_ms = 0;
    unsigned said = UINT32_MAX;
    for (;;) {
        struct members members;
        int code = members_ask(cli, &members);
        if (code == EXIT_OK &&
            (given_ms == 0 || (!goal->or_less && now_ms() >= given_ms + ASK_AGAIN_MS))) {
            bool given;
            code = give(cli, &members, goal->order, id, deadline_ms, &given);
            given_ms = given ? now_ms() : given_ms;
        }
        unsigned n_shards = members.n_shards;
        bool counts = code == EXIT_OK && given_ms != 0;
        unsigned done = counts ? count_done(&members, goal, id) : 0;
        members_free(&members);
        if (code != EXIT_OK) {
            return code;
        }
        if (n_shards > 0 && done == n_shards) {
            return tell_done(cli, goal, id);
        }
        if (done != said) {
            cli_note(cli, "node %" PRIu64 ": %u of %u shards", id, done, n_shards);
            said = done;
        }
        if (now_ms() >= deadline_ms || cli_interrupted) {
            return cli_fail(cli, EXIT_NO,
                            "%s %" PRIu64 ": %u of %u shards so far; it goes on without this "
                            "command: invoke-kv cluster status",
                            goal->order, id, done, n_shards);
        }
        pause_ms(LOOK_MS);
    }
}

static int run_order(struct cli *cli, const struct arguments *arguments, const struct goal *goal,
                     int64_t fallback_ms) {
    uint64_t id = 0;
    int64_t deadline_ms = 0;
    int code = parse_id(cli, arguments->words[0], &id);
    code = code != EXIT_OK ? code : deadline_of(cli, arguments, fallback_ms, &deadline_ms);
    if (code != EXIT_OK) {
        return code;
    }
    cli_catch_signals();
    return follow(cli, goal, id, deadline_ms);
}

int run_cluster_add(struct cli *cli, const struct arguments *arguments) {
    static const struct goal goal = {"ADD", "votes in every shard", MEMBERSHIP_VOTER, false};
    return run_order(cli, arguments, &goal, 600000);
}

int run_cluster_remove(struct cli *cli, const struct arguments *arguments) {
    static const struct goal goal = {"REMOVE", "removed", MEMBERSHIP_NONE, false};
    return run_order(cli, arguments, &goal, 120000);
}

/* A replaced node comes back into the configuration at once, as a standby. */
int run_cluster_replace(struct cli *cli, const struct arguments *arguments) {
    static const struct goal goal = {"REPLACE",
                                     "out of every shard: start it with an empty data directory",
                                     MEMBERSHIP_STANDBY, true};
    return run_order(cli, arguments, &goal, 60000);
}

/* --- leaderships ------------------------------------------------------------------------------ */

static int transfer_one(struct cli *cli, unsigned shard, const char *address, const char *to,
                        int64_t deadline_ms) {
    char number[16];
    snprintf(number, sizeof number, "%u", shard);
    ikv_bytes words[] = {ikv_text("CLUSTER"), ikv_text("TRANSFER"), ikv_text(number),
                         ikv_text(to != NULL ? to : "")};
    for (;;) {
        ikv_reply *reply = NULL;
        int error = ikv_node_command(cli->client, address, to != NULL ? 4 : 3, words, 0, &reply);
        bool again = error != IKV_OK && is_passing(error, reply) && now_ms() < deadline_ms;
        int code = error == IKV_OK || again ? EXIT_OK : cli_fail_reply(cli, error, reply, NULL);
        ikv_reply_free(reply);
        if (!again) {
            return code;
        }
        pause_ms(LOOK_MS);
    }
}

/* The shard has another leader than before, or the wanted one. */
static bool has_moved(const struct members *members, unsigned shard, uint64_t from, uint64_t to,
                      uint64_t *leader_id) {
    const struct members_node *leader = members_leader(members, shard);
    *leader_id = leader != NULL ? leader->id : 0;
    return leader != NULL && (to != 0 ? leader->id == to : leader->id != from);
}

static int transfer_shard(struct cli *cli, unsigned shard, uint64_t only_from, uint64_t to,
                          const char *to_text, int64_t deadline_ms) {
    uint64_t from = 0;
    for (;;) {
        struct members members;
        uint64_t leader_id = 0;
        int code = members_ask(cli, &members);
        const struct members_node *leader =
            code == EXIT_OK ? members_leader(&members, shard) : NULL;
        if (leader != NULL && from == 0) {
            from = leader->id;
        }
        bool concerned = only_from == 0 || from == only_from;
        bool moved =
            leader != NULL && (!concerned || has_moved(&members, shard, from, to, &leader_id));
        if (code == EXIT_OK && leader != NULL && !moved) {
            code = transfer_one(cli, shard, leader->address, to_text, deadline_ms);
        }
        members_free(&members);
        if (code != EXIT_OK || moved) {
            if (code == EXIT_OK && concerned && !cli->json) {
                cli_print(cli, "shard %u: node %" PRIu64 " leads\n", shard, leader_id);
            }
            return code;
        }
        if (now_ms() >= deadline_ms || cli_interrupted) {
            return cli_fail(cli, EXIT_NO, "shard %u could not be handed over in time", shard);
        }
        pause_ms(LOOK_MS / 5);
    }
}

int run_cluster_transfer(struct cli *cli, const struct arguments *arguments) {
    const char *to_text = argument_option(arguments, "to");
    const char *from_text = argument_option(arguments, "from");
    bool all = strcmp(arguments->words[0], "all") == 0;
    int64_t shard = 0;
    int64_t deadline_ms = 0;
    uint64_t to = 0;
    uint64_t from = 0;
    int code = deadline_of(cli, arguments, 30000, &deadline_ms);
    code = code != EXIT_OK || to_text == NULL ? code : parse_id(cli, to_text, &to);
    code = code != EXIT_OK || from_text == NULL ? code : parse_id(cli, from_text, &from);
    if (code == EXIT_OK && !all && !units_parse_number(arguments->words[0], 0, 63, &shard)) {
        code = cli_fail(cli, EXIT_USAGE, "'%s' is no shard: a number from 0 on, or all",
                        arguments->words[0]);
    }
    if (code == EXIT_OK && all && to == 0 && from == 0) {
        code = cli_fail(cli, EXIT_USAGE, "all: say --to or --from which node");
    }
    struct members members = {.n_nodes = 0};
    code = code == EXIT_OK ? members_ask(cli, &members) : code;
    unsigned n_shards = members.n_shards;
    members_free(&members);
    cli_catch_signals();
    for (unsigned i = all ? 0 : (unsigned)shard; code == EXIT_OK && i < n_shards; i++) {
        code = transfer_shard(cli, i, from, to, to_text, deadline_ms);
        if (!all) {
            break;
        }
    }
    if (code == EXIT_OK && cli->json) {
        cli_json_open(cli);
        cli_json_bool(&cli->out, "transferred", true);
        cli_json_close(cli);
    }
    return code;
}

int run_cluster_rebalance(struct cli *cli, const struct arguments *arguments) {
    ikv_bytes words[] = {ikv_text("CLUSTER"), ikv_text("REBALANCE")};
    ikv_reply *reply = NULL;
    (void)arguments;
    int code = cli_call_node(cli, NULL, 2, words, &reply);
    ikv_reply_free(reply);
    if (code == EXIT_OK && cli->json) {
        cli_json_open(cli);
        cli_json_bool(&cli->out, "rebalancing", true);
        cli_json_close(cli);
    }
    return code;
}
