#include "client/cli/node_info.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/number.h"

static uint64_t read_number(struct slice text) {
    int64_t number = 0;
    return number_parse_integer(text, &number) && number > 0 ? (uint64_t)number : 0;
}

static void copy_text(char *to, struct slice text) {
    size_t size = text.size < INFO_TEXT - 1 ? text.size : INFO_TEXT - 1;
    for (size_t i = 0; i < size; i++) {
        to[i] = text.data[i] > 0x20 && text.data[i] < 0x7F ? (char)text.data[i] : '?';
    }
    to[size] = '\0';
}

/* Splits at the first `c`: what is before it, and *text is what is behind. */
static struct slice cut(struct slice *text, char c) {
    const uint8_t *at = text->size > 0 ? memchr(text->data, c, text->size) : NULL;
    size_t size = at != NULL ? (size_t)(at - text->data) : text->size;
    struct slice before = slice_make(text->data, size);
    size_t passed = at != NULL ? size + 1 : size;
    *text = slice_make(text->data + passed, text->size - passed);
    return before;
}

static bool is(struct slice text, const char *word) {
    return slice_equal(text, slice_of(word));
}

static void parse_shard(struct shard_info *shard, struct slice fields) {
    shard->is_known = true;
    while (fields.size > 0) {
        struct slice value = cut(&fields, ',');
        struct slice name = cut(&value, '=');
        if (is(name, "role")) {
            copy_text(shard->role, value);
        }
        struct {
            const char *name;
            uint64_t *to;
        } numbers[] = {{"leader", &shard->leader}, {"term", &shard->term},
                       {"commit", &shard->commit}, {"applied", &shard->applied},
                       {"keys", &shard->keys},     {"bytes", &shard->bytes},
                       {"voters", &shard->voters}, {"clock", &shard->clock_ms}};
        for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
            if (is(name, numbers[i].name)) {
                *numbers[i].to = read_number(value);
            }
        }
    }
}

static void parse_line(struct node_info *node, struct slice line) {
    struct slice value = line;
    struct slice name = cut(&value, ':');
    if (is(name, "invoke_kv_version")) {
        copy_text(node->version, value);
    } else if (is(name, "uptime_in_seconds")) {
        node->uptime_s = read_number(value);
    } else if (is(name, "disk_free_bytes")) {
        node->disk_free = read_number(value);
    } else if (is(name, "disk_has_space")) {
        node->disk_is_full = is(value, "0");
    } else if (is(name, "digest_mismatches")) {
        node->digest_mismatches = read_number(value);
    } else if (name.size > 5 && memcmp(name.data, "shard", 5) == 0) {
        struct slice digits = slice_make(name.data + 5, name.size - 5);
        int64_t number;
        if (number_parse_integer(digits, &number) && number >= 0 && number < INFO_SHARDS) {
            parse_shard(&node->shards[number], value);
        }
    }
}

void node_info_parse(struct node_info *node, struct slice text) {
    while (text.size > 0) {
        struct slice line = cut(&text, '\n');
        if (line.size > 0 && line.data[line.size - 1] == '\r') {
            line.size--;
        }
        if (line.size > 0 && line.data[0] != '#') {
            parse_line(node, line);
        }
    }
}

const struct node_info *cluster_leader(const struct cluster_info *cluster, unsigned shard) {
    const struct node_info *leader = NULL;
    for (unsigned i = 0; i < cluster->n_nodes; i++) {
        const struct node_info *node = &cluster->nodes[i];
        bool leads = node->is_up && strcmp(node->shards[shard].role, "leader") == 0;
        if (leads && (leader == NULL || node->shards[shard].term > leader->shards[shard].term)) {
            leader = node;
        }
    }
    return leader;
}

bool cluster_lag(const struct cluster_info *cluster, const struct node_info *node, unsigned shard,
                 uint64_t *lag) {
    const struct node_info *leader = cluster_leader(cluster, shard);
    if (leader == NULL || !node->is_up || !node->shards[shard].is_known) {
        return false;
    }
    uint64_t commit = leader->shards[shard].commit;
    uint64_t applied = node->shards[shard].applied;
    /* The nodes are not asked at the same instant. */
    *lag = commit > applied ? commit - applied : 0;
    return true;
}

struct judging {
    const struct cluster_info *cluster;
    void (*tell)(void *data, const char *problem);
    void *data;
    enum health health;
};

__attribute__((format(printf, 3, 4))) static void found(struct judging *judging, enum health health,
                                                        const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    judging->health = health > judging->health ? health : judging->health;
    if (judging->tell != NULL) {
        judging->tell(judging->data, text);
    }
}

static void judge_node(struct judging *judging, const struct node_info *node) {
    if (!node->is_up) {
        found(judging, HEALTH_DEGRADED, "node %" PRIu64 " is down: %s", node->id, node->reason);
        return;
    }
    if (node->digest_mismatches > 0) {
        found(judging, HEALTH_DEGRADED, "node %" PRIu64 " says that replicas differ: see its log",
              node->id);
    }
    if (node->disk_is_full) {
        found(judging, HEALTH_DEGRADED, "the disk of node %" PRIu64 " is nearly full", node->id);
    }
}

static void judge_shard(struct judging *judging, unsigned shard) {
    const struct cluster_info *cluster = judging->cluster;
    const struct node_info *leader = cluster_leader(cluster, shard);
    if (leader == NULL) {
        found(judging, HEALTH_DOWN, "shard %u has no leader", shard);
        return;
    }
    if (leader->shards[shard].voters < cluster->n_nodes) {
        found(judging, HEALTH_DEGRADED, "shard %u has %" PRIu64 " voters of %u nodes", shard,
              leader->shards[shard].voters, cluster->n_nodes);
    }
    for (unsigned i = 0; i < cluster->n_nodes; i++) {
        const struct node_info *node = &cluster->nodes[i];
        uint64_t lag;
        if (cluster_lag(cluster, node, shard, &lag) && lag > INFO_LAG_MAX) {
            found(judging, HEALTH_DEGRADED,
                  "node %" PRIu64 " is %" PRIu64 " entries behind in shard %u", node->id, lag,
                  shard);
        }
    }
}

enum health cluster_health(const struct cluster_info *cluster,
                           void (*tell)(void *data, const char *problem), void *data) {
    struct judging judging = {cluster, tell, data, HEALTH_GOOD};
    for (unsigned i = 0; i < cluster->n_nodes; i++) {
        judge_node(&judging, &cluster->nodes[i]);
    }
    for (unsigned i = 0; i < cluster->n_shards; i++) {
        judge_shard(&judging, i);
    }
    return judging.health;
}
