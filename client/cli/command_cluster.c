/* cluster status: asks every node at once what it knows. */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/json.h"
#include "base/mem.h"
#include "client/cli/commands.h"
#include "client/cli/node_info.h"
#include "client/cli/units.h"

/* A node that needs longer than this for a few lines is as good as down. */
enum { NODE_TIMEOUT_MS = 2000 };

struct gathering {
    pthread_mutex_t mutex;
    pthread_cond_t answered;
    unsigned n_open;
};

struct question {
    struct gathering *gathering;
    struct node_info *node;
};

static void take_answer(void *data, ikv_reply *reply) {
    struct question *question = data;
    struct gathering *gathering = question->gathering;
    struct node_info *node = question->node;
    const ikv_value *value = ikv_reply_value(reply);
    if (ikv_reply_error(reply) == IKV_OK && value->type == IKV_STRING) {
        node->is_up = true;
        node_info_parse(node, cli_slice(value));
    } else {
        const char *said = ikv_reply_message(reply);
        snprintf(node->reason, sizeof node->reason, "%s",
                 said[0] != '\0' ? said : ikv_strerror(ikv_reply_error(reply)));
    }
    pthread_mutex_lock(&gathering->mutex);
    gathering->n_open--;
    pthread_cond_signal(&gathering->answered);
    pthread_mutex_unlock(&gathering->mutex);
}

static void ask_nodes(struct cli *cli, struct cluster_info *cluster) {
    struct gathering gathering = {.n_open = cluster->n_nodes};
    struct question questions[INFO_NODES];
    ikv_bytes words[] = {ikv_text("INFO"), ikv_text("server"), ikv_text("persistence"),
                         ikv_text("cluster"), ikv_text("shards")};
    int64_t timeout_ms =
        cli->connection.timeout_ms < NODE_TIMEOUT_MS ? cli->connection.timeout_ms : NODE_TIMEOUT_MS;
    pthread_mutex_init(&gathering.mutex, NULL);
    pthread_cond_init(&gathering.answered, NULL);
    for (unsigned i = 0; i < cluster->n_nodes; i++) {
        struct node_info *node = &cluster->nodes[i];
        questions[i] = (struct question){&gathering, node};
        int error = ikv_node_command_async(cli->client, node->address, 5, words,
                                           (uint32_t)timeout_ms, take_answer, &questions[i]);
        if (error != IKV_OK) {
            snprintf(node->reason, sizeof node->reason, "%s", ikv_strerror(error));
            pthread_mutex_lock(&gathering.mutex);
            gathering.n_open--;
            pthread_mutex_unlock(&gathering.mutex);
        }
    }
    pthread_mutex_lock(&gathering.mutex);
    while (gathering.n_open > 0) {
        pthread_cond_wait(&gathering.answered, &gathering.mutex);
    }
    pthread_mutex_unlock(&gathering.mutex);
    pthread_cond_destroy(&gathering.answered);
    pthread_mutex_destroy(&gathering.mutex);
}

/* Nodes as [id, host, port, alive] each. */
static bool take_nodes(struct cluster_info *cluster, const ikv_value *nodes) {
    if (nodes == NULL || nodes->type != IKV_ARRAY || nodes->size == 0 || nodes->size > INFO_NODES) {
        return false;
    }
    for (size_t i = 0; i < nodes->size; i++) {
        const ikv_value *fields = &nodes->elements[i];
        struct node_info *node = &cluster->nodes[i];
        int64_t id;
        int64_t port;
        if (fields->type != IKV_ARRAY || fields->size < 3 ||
            !cli_number(&fields->elements[0], &id) || !cli_number(&fields->elements[2], &port)) {
            return false;
        }
        struct slice host = cli_slice(&fields->elements[1]);
        bool is_ipv6 = host.size > 0 && memchr(host.data, ':', host.size) != NULL;
        *node = (struct node_info){.id = (uint64_t)id};
        snprintf(node->address, sizeof node->address, "%s%.*s%s:%" PRId64, is_ipv6 ? "[" : "",
                 (int)(host.size < 200 ? host.size : 200), (const char *)host.data,
                 is_ipv6 ? "]" : "", port);
    }
    cluster->n_nodes = (unsigned)nodes->size;
    return true;
}

static bool take_topology(struct cluster_info *cluster, const ikv_value *map) {
    const ikv_value *name = cli_field(map, "cluster");
    uint64_t n_shards = cli_field_number(map, "shards");
    if (name == NULL || n_shards == 0 || n_shards > INFO_SHARDS ||
        !take_nodes(cluster, cli_field(map, "nodes"))) {
        return false;
    }
    struct slice text = cli_slice(name);
    snprintf(cluster->name, sizeof cluster->name, "%.*s", (int)(text.size < 200 ? text.size : 200),
             (const char *)text.data);
    cluster->n_shards = (unsigned)n_shards;
    return true;
}

static int gather(struct cli *cli, struct cluster_info *cluster) {
    ikv_bytes words[] = {ikv_text("CLUSTER"), ikv_text("TOPOLOGY")};
    ikv_reply *reply = NULL;
    int code = cli_call_node(cli, NULL, 2, words, &reply);
    if (code == EXIT_OK && !take_topology(cluster, ikv_reply_value(reply))) {
        code = cli_fail(cli, EXIT_UNREACHABLE, "CLUSTER TOPOLOGY answered nonsense");
    }
    ikv_reply_free(reply);
    if (code != EXIT_OK) {
        return code;
    }
    ask_nodes(cli, cluster);
    for (unsigned i = 0; i < cluster->n_nodes; i++) {
        if (cluster->nodes[i].is_up && !cluster->nodes[i].shards[0].is_known) {
            return cli_fail(cli, EXIT_REFUSED,
                            "the nodes tell nothing of their shards to the "
                            "holder of a token; use --user and --secret-file");
        }
    }
    return EXIT_OK;
}

/* --- as text ---------------------------------------------------------------------------------- */

static uint64_t worst_lag(const struct cluster_info *cluster, const struct node_info *node) {
    uint64_t worst = 0;
    for (unsigned i = 0; i < cluster->n_shards; i++) {
        uint64_t lag;
        if (cluster_lag(cluster, node, i, &lag) && lag > worst) {
            worst = lag;
        }
    }
    return worst;
}

static void list_led(const struct cluster_info *cluster, const struct node_info *node, char *text,
                     size_t size) {
    size_t used = 0;
    text[0] = '\0';
    for (unsigned i = 0; i < cluster->n_shards && used + 8 < size; i++) {
        if (cluster_leader(cluster, i) == node) {
            used += (size_t)snprintf(text + used, size - used, "%s%u", used > 0 ? " " : "", i);
        }
    }
    if (used == 0) {
        snprintf(text, size, "-");
    }
}

static void print_node(struct cli *cli, const struct cluster_info *cluster,
                       const struct node_info *node) {
    char led[INFO_SHARDS * 4];
    char uptime[UNITS_TEXT_SIZE];
    char lag[UNITS_TEXT_SIZE];
    char disk[UNITS_TEXT_SIZE];
    if (!node->is_up) {
        cli_print(cli, "%-5" PRIu64 " %-22s DOWN\n", node->id, node->address);
        return;
    }
    list_led(cluster, node, led, sizeof led);
    cli_print(cli, "%-5" PRIu64 " %-22s up    %-9s %-9s %-10s %-11s %s\n", node->id, node->address,
              node->version, units_format_duration(node->uptime_s * 1000, uptime),
              units_format_count(worst_lag(cluster, node), lag),
              units_format_size(node->disk_free, disk), led);
}

static void print_shard(struct cli *cli, const struct cluster_info *cluster, unsigned number) {
    const struct node_info *leader = cluster_leader(cluster, number);
    char keys[UNITS_TEXT_SIZE];
    char bytes[UNITS_TEXT_SIZE];
    char clock[40] = "-";
    if (leader == NULL) {
        cli_print(cli, "%-5u NONE\n", number);
        return;
    }
    const struct shard_info *shard = &leader->shards[number];
    struct tm parts;
    time_t seconds = (time_t)(shard->clock_ms / 1000);
    if (shard->clock_ms > 0 && gmtime_r(&seconds, &parts) != NULL) {
        strftime(clock, sizeof clock, "%Y-%m-%d %H:%M:%S", &parts);
    }
    cli_print(cli, "%-5u %-6" PRIu64 " %-6" PRIu64 " %-12" PRIu64 " %-6" PRIu64 " %-12s %-11s %s\n",
              number, leader->id, shard->term, shard->commit, shard->voters,
              units_format_count(shard->keys, keys), units_format_size(shard->bytes, bytes), clock);
}

static void print_problem(void *data, const char *problem) {
    cli_print(data, "  %s\n", problem);
}

static const char *const health_names[] = {"good", "degraded", "down"};

static void print_text(struct cli *cli, const struct cluster_info *cluster) {
    static const char *const verdicts[] = {
        "all is well", "every shard is served, but:", "not every shard is served:"};
    enum health health = cluster_health(cluster, NULL, NULL);
    cli_print(cli, "cluster %s: %u nodes, %u shards; %s\n", cluster->name, cluster->n_nodes,
              cluster->n_shards, verdicts[health]);
    (void)cluster_health(cluster, print_problem, cli);
    cli_print(cli, "\n%-5s %-22s %-5s %-9s %-9s %-10s %-11s %s\n", "NODE", "ADDRESS", "STATE",
              "VERSION", "UPTIME", "LAG", "DISK FREE", "LEADS SHARDS");
    for (unsigned i = 0; i < cluster->n_nodes; i++) {
        print_node(cli, cluster, &cluster->nodes[i]);
    }
    cli_print(cli, "\n%-5s %-6s %-6s %-12s %-6s %-12s %-11s %s\n", "SHARD", "LEADER", "TERM",
              "COMMIT", "VOTERS", "KEYS", "BYTES", "CLOCK (UTC)");
    for (unsigned i = 0; i < cluster->n_shards; i++) {
        print_shard(cli, cluster, i);
    }
}

/* --- as JSON ---------------------------------------------------------------------------------- */

static void json_problem(void *data, const char *problem) {
    struct buffer *out = data;
    if (out->data[out->size - 1] != '[') {
        buffer_put_u8(out, ',');
    }
    struct slice text = slice_of(problem);
    json_append_string(out, utf8_is_valid(text) ? text : slice_of("?"));
}

static void json_node(struct buffer *out, const struct cluster_info *cluster,
                      const struct node_info *node) {
    json_append_text(out, "{");
    cli_json_unsigned(out, "id", node->id);
    cli_json_text(out, "address", node->address);
    cli_json_bool(out, "up", node->is_up);
    if (!node->is_up) {
        cli_json_text(out, "reason", node->reason);
    } else {
        cli_json_text(out, "version", node->version);
        cli_json_unsigned(out, "uptime_s", node->uptime_s);
        cli_json_unsigned(out, "disk_free_bytes", node->disk_free);
        cli_json_bool(out, "disk_has_space", !node->disk_is_full);
        cli_json_unsigned(out, "digest_mismatches", node->digest_mismatches);
        cli_json_unsigned(out, "lag", worst_lag(cluster, node));
    }
    json_append_text(out, "}");
}

static void json_replicas(struct buffer *out, const struct cluster_info *cluster, unsigned number) {
    cli_json_name(out, "replicas");
    json_append_text(out, "[");
    for (unsigned i = 0; i < cluster->n_nodes; i++) {
        const struct node_info *node = &cluster->nodes[i];
        const struct shard_info *shard = &node->shards[number];
        uint64_t lag;
        json_append_text(out, i > 0 ? ",{" : "{");
        cli_json_unsigned(out, "node", node->id);
        cli_json_text(out, "role", node->is_up ? shard->role : "down");
        if (cluster_lag(cluster, node, number, &lag)) {
            cli_json_unsigned(out, "applied", shard->applied);
            cli_json_unsigned(out, "lag", lag);
        }
        json_append_text(out, "}");
    }
    json_append_text(out, "]");
}

static void json_shard(struct buffer *out, const struct cluster_info *cluster, unsigned number) {
    const struct node_info *leader = cluster_leader(cluster, number);
    json_append_text(out, "{");
    cli_json_unsigned(out, "shard", number);
    cli_json_unsigned(out, "leader", leader != NULL ? leader->id : 0);
    if (leader != NULL) {
        const struct shard_info *shard = &leader->shards[number];
        cli_json_unsigned(out, "term", shard->term);
        cli_json_unsigned(out, "commit", shard->commit);
        cli_json_unsigned(out, "voters", shard->voters);
        cli_json_unsigned(out, "keys", shard->keys);
        cli_json_unsigned(out, "used_bytes", shard->bytes);
        cli_json_unsigned(out, "clock_ms", shard->clock_ms);
    }
    json_replicas(out, cluster, number);
    json_append_text(out, "}");
}

static void print_json(struct cli *cli, const struct cluster_info *cluster) {
    struct buffer *out = &cli->out;
    cli_json_open(cli);
    cli_json_text(out, "cluster", cluster->name);
    cli_json_text(out, "health", health_names[cluster_health(cluster, NULL, NULL)]);
    cli_json_name(out, "problems");
    json_append_text(out, "[");
    (void)cluster_health(cluster, json_problem, out);
    json_append_text(out, "]");
    cli_json_name(out, "nodes");
    json_append_text(out, "[");
    for (unsigned i = 0; i < cluster->n_nodes; i++) {
        json_append_text(out, i > 0 ? "," : "");
        json_node(out, cluster, &cluster->nodes[i]);
    }
    json_append_text(out, "]");
    cli_json_name(out, "shards");
    json_append_text(out, "[");
    for (unsigned i = 0; i < cluster->n_shards; i++) {
        json_append_text(out, i > 0 ? "," : "");
        json_shard(out, cluster, i);
    }
    json_append_text(out, "]");
    cli_json_close(cli);
}

/* --- the command ------------------------------------------------------------------------------ */

static int show_once(struct cli *cli, bool clears) {
    struct cluster_info cluster = {.n_nodes = 0};
    cluster.nodes = mem_zalloc(INFO_NODES, sizeof *cluster.nodes);
    int code = gather(cli, &cluster);
    if (code == EXIT_OK) {
        static const int codes[] = {EXIT_OK, EXIT_NO, EXIT_UNREACHABLE};
        if (clears) {
            cli_print(cli, "\033[H\033[2J");
        }
        if (cli->json) {
            print_json(cli, &cluster);
        } else {
            print_text(cli, &cluster);
        }
        code = codes[cluster_health(&cluster, NULL, NULL)];
    }
    mem_free(cluster.nodes);
    return code;
}

static void sleep_ms(int64_t ms) {
    uint64_t until = cli_now_ns() + (uint64_t)ms * 1000000u;
    while (!cli_interrupted && cli_now_ns() < until) {
        struct timespec pause = {.tv_nsec = 20000000};
        nanosleep(&pause, NULL);
    }
}

static int watch_status(struct cli *cli, int64_t interval_ms, int64_t count) {
    bool clears = cli_is_terminal() && !cli->json;
    int code = EXIT_OK;
    cli_catch_signals();
    for (int64_t i = 0; i < count && !cli_interrupted && !cli->out_failed; i++) {
        if (i > 0) {
            sleep_ms(interval_ms);
        }
        if (!cli_interrupted) {
            code = show_once(cli, clears);
            cli_print(cli, "%s", clears || cli->json ? "" : "\n");
            (void)cli_flush(cli);
        }
    }
    return code;
}

int run_cluster_status(struct cli *cli, const struct arguments *arguments) {
    const char *interval = argument_option(arguments, "interval");
    const char *count_text = argument_option(arguments, "count");
    int64_t interval_ms = 2000;
    if (argument_option(arguments, "wait-healthy") != NULL) {
        cli_catch_signals();
        return cluster_wait_healthy(cli, arguments);
    }
    int64_t count = INT64_MAX;
    if (interval != NULL && !units_parse_duration(interval, &interval_ms)) {
        return cli_fail(cli, EXIT_USAGE, "--interval: '%s' is no time, such as 2s", interval);
    }
    if (count_text != NULL && !units_parse_number(count_text, 1, INT64_MAX, &count)) {
        return cli_fail(cli, EXIT_USAGE, "--count: '%s' is no positive number", count_text);
    }
    return argument_option(arguments, "watch") != NULL ? watch_status(cli, interval_ms, count)
                                                       : show_once(cli, false);
}
