#include "client/cli/members.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A node that needs longer than this for a few lines is as good as down. */
enum { NODE_TIMEOUT_MS = 2000 };

static const ikv_value *shard_map(const struct members_node *node, unsigned shard) {
    const ikv_value *shards = node->map != NULL ? cli_field(node->map, "shards") : NULL;
    bool known = shards != NULL && shards->type == IKV_ARRAY && shard < shards->size;
    return known ? &shards->elements[shard] : NULL;
}

static void ask(struct cli *cli, struct members_node *node) {
    ikv_bytes words[] = {ikv_text("CLUSTER"), ikv_text("MEMBERS")};
    int64_t timeout_ms =
        cli->connection.timeout_ms < NODE_TIMEOUT_MS ? cli->connection.timeout_ms : NODE_TIMEOUT_MS;
    int error =
        ikv_node_command(cli->client, node->address, 2, words, (uint32_t)timeout_ms, &node->reply);
    if (error == IKV_OK) {
        node->map = ikv_reply_value(node->reply);
        return;
    }
    const char *said = node->reply != NULL ? ikv_reply_message(node->reply) : "";
    snprintf(node->reason, sizeof node->reason, "%s", said[0] != '\0' ? said : ikv_strerror(error));
    ikv_reply_free(node->reply);
    node->reply = NULL;
}

static bool take_nodes(struct members *members, const ikv_value *nodes) {
    if (nodes == NULL || nodes->type != IKV_ARRAY || nodes->size == 0 ||
        nodes->size > MEMBERS_NODES) {
        return false;
    }
    for (size_t i = 0; i < nodes->size; i++) {
        const ikv_value *client = cli_field(&nodes->elements[i], "client");
        struct members_node *node = &members->nodes[members->n_nodes++];
        node->id = cli_field_number(&nodes->elements[i], "id");
        if (client == NULL || client->type != IKV_STRING || client->size >= MEMBERS_ADDRESS) {
            return false;
        }
        snprintf(node->address, sizeof node->address, "%.*s", (int)client->size, client->data);
    }
    return true;
}

int members_ask(struct cli *cli, struct members *members) {
    ikv_bytes words[] = {ikv_text("CLUSTER"), ikv_text("MEMBERS")};
    ikv_reply *reply = NULL;
    memset(members, 0, sizeof *members);
    int code = cli_call_node(cli, NULL, 2, words, &reply);
    if (code != EXIT_OK) {
        return code;
    }
    if (!take_nodes(members, cli_field(ikv_reply_value(reply), "nodes"))) {
        code = cli_fail(cli, EXIT_UNREACHABLE, "CLUSTER MEMBERS answered nonsense");
    }
    ikv_reply_free(reply);
    for (unsigned i = 0; i < members->n_nodes && code == EXIT_OK; i++) {
        struct members_node *node = &members->nodes[i];
        ask(cli, node);
        const ikv_value *shards = node->map != NULL ? cli_field(node->map, "shards") : NULL;
        if (shards != NULL && shards->type == IKV_ARRAY && shards->size > members->n_shards) {
            members->n_shards = (unsigned)shards->size;
        }
    }
    return code;
}

void members_free(struct members *members) {
    for (unsigned i = 0; i < members->n_nodes; i++) {
        ikv_reply_free(members->nodes[i].reply);
        members->nodes[i].reply = NULL;
        members->nodes[i].map = NULL;
    }
}

const struct members_node *members_find(const struct members *members, uint64_t id) {
    for (unsigned i = 0; i < members->n_nodes; i++) {
        if (members->nodes[i].id == id) {
            return &members->nodes[i];
        }
    }
    return NULL;
}

const struct members_node *members_leader(const struct members *members, unsigned shard) {
    const struct members_node *leader = NULL;
    uint64_t term = 0;
    for (unsigned i = 0; i < members->n_nodes; i++) {
        const struct members_node *node = &members->nodes[i];
        const ikv_value *map = shard_map(node, shard);
        if (map != NULL && cli_field_number(map, "leader") == node->id &&
            cli_field_number(map, "term") > term) {
            leader = node;
            term = cli_field_number(map, "term");
        }
    }
    return leader;
}

/* Its members as the shard's leader sees them; NULL when there is none. */
static const ikv_value *leaders_view(const struct members *members, unsigned shard,
                                     const ikv_value **map) {
    const struct members_node *leader = members_leader(members, shard);
    *map = leader != NULL ? shard_map(leader, shard) : NULL;
    const ikv_value *list = *map != NULL ? cli_field(*map, "members") : NULL;
    return list != NULL && list->type == IKV_ARRAY ? list : NULL;
}

static enum membership find_in(const ikv_value *list, uint64_t id) {
    for (size_t i = 0; i < list->size; i++) {
        if (cli_field_number(&list->elements[i], "id") == id) {
            return cli_field_number(&list->elements[i], "voter") != 0 ? MEMBERSHIP_VOTER
                                                                      : MEMBERSHIP_STANDBY;
        }
    }
    return MEMBERSHIP_NONE;
}

bool members_state(const struct members *members, unsigned shard, uint64_t id,
                   enum membership *state) {
    const ikv_value *map;
    const ikv_value *list = leaders_view(members, shard, &map);
    if (list == NULL || cli_field_number(map, "changing") != 0) {
        return false;
    }
    *state = find_in(list, id);
    return true;
}

/* --- health ----------------------------------------------------------------------------------- */

struct judging {
    const struct members *members;
    void (*tell)(void *data, const char *problem);
    void *data;
    unsigned n;
};

__attribute__((format(printf, 2, 3))) static void found(struct judging *judging, const char *format,
                                                        ...) {
    char text[600];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    judging->n++;
    judging->tell(judging->data, text);
}

static void judge_member(struct judging *judging, unsigned shard, const ikv_value *member,
                         uint64_t commit) {
    uint64_t id = cli_field_number(member, "id");
    uint64_t match = cli_field_number(member, "match");
    const struct members_node *node = members_find(judging->members, id);
    const ikv_value *own = node != NULL ? shard_map(node, shard) : NULL;
    uint64_t applied = own != NULL ? cli_field_number(own, "applied") : 0;
    if (cli_field_number(member, "voter") == 0) {
        found(judging, "node %" PRIu64 " does not vote in shard %u yet", id, shard);
    }
    if (match + MEMBERS_LAG_MAX < commit || applied + MEMBERS_LAG_MAX < commit) {
        found(judging, "node %" PRIu64 " is behind in shard %u", id, shard);
    }
}

static void judge_shard(struct judging *judging, unsigned shard, bool *served) {
    const ikv_value *map;
    const ikv_value *root_map;
    const ikv_value *list = leaders_view(judging->members, shard, &map);
    const ikv_value *root = leaders_view(judging->members, 0, &root_map);
    if (list == NULL) {
        *served = false;
        found(judging, "shard %u has no leader", shard);
        return;
    }
    if (cli_field_number(map, "changing") != 0) {
        found(judging, "the members of shard %u are changing", shard);
    }
    for (size_t i = 0; i < list->size; i++) {
        judge_member(judging, shard, &list->elements[i], cli_field_number(map, "commit"));
    }
    bool same = root == NULL || root->size == list->size;
    for (size_t i = 0; i < list->size && same && root != NULL; i++) {
        same = find_in(root, cli_field_number(&list->elements[i], "id")) != MEMBERSHIP_NONE;
    }
    if (!same) {
        found(judging, "shard %u has other members than shard 0", shard);
    }
}

static bool is_member(const struct members *members, uint64_t id) {
    for (unsigned i = 0; i < members->n_shards; i++) {
        const ikv_value *map;
        const ikv_value *list = leaders_view(members, i, &map);
        if (list != NULL && find_in(list, id) != MEMBERSHIP_NONE) {
            return true;
        }
    }
    return false;
}

unsigned members_problems(const struct members *members, bool *served,
                          void (*tell)(void *data, const char *problem), void *data) {
    struct judging judging = {members, tell, data, 0};
    *served = members->n_shards > 0;
    if (members->n_shards == 0) {
        found(&judging, "no node tells of any shard");
    }
    for (unsigned i = 0; i < members->n_nodes; i++) {
        const struct members_node *node = &members->nodes[i];
        const ikv_value *order = node->map != NULL ? cli_field(node->map, "order") : NULL;
        if (node->map == NULL && is_member(members, node->id)) {
            found(&judging, "node %" PRIu64 " does not answer: %s", node->id, node->reason);
        }
        if (node->map != NULL && cli_field_number(node->map, "digest_mismatches") > 0) {
            found(&judging, "node %" PRIu64 " says that replicas differ: see its log", node->id);
        }
        if (order != NULL && order->type == IKV_STRING && order->size > 0) {
            found(&judging, "node %" PRIu64 " is at work: %.*s", node->id,
                  (int)(order->size < 60 ? order->size : 60), order->data);
        }
    }
    for (unsigned i = 0; i < members->n_shards; i++) {
        judge_shard(&judging, i, served);
    }
    return judging.n;
}
