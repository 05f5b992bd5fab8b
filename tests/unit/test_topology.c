#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "node/topology.h"

#define TAIL "994ad156ee3a2d4ba78d86fed381c5dd"
#define ID1 "00000001" TAIL
#define ID2 "00000002" TAIL
#define ID3 "00000003" TAIL

/* Three nodes and two shards, seen by node 2: shard 1 is led by node 3. */
static struct server_info three_nodes(void) {
    struct server_info info = {.cluster = "test", .node_id = 2, .n_nodes = 3, .n_shards = 2};
    static const char *hosts[] = {"10.0.0.1", "kv2.example", "::1"};
    for (unsigned i = 0; i < 3; i++) {
        info.nodes[i].id = i + 1;
        info.nodes[i].connected = true;
        info.nodes[i].host = hosts[i];
        info.nodes[i].port = (uint16_t)(7101 + i);
        info.nodes[i].peer_port = (uint16_t)(7201 + i);
    }
    info.shards[0].leader = 1;
    info.shards[1].leader = 3;
    info.shards[1].term = 7;
    info.shards[1].commit = 50;
    info.shards[1].applied = 48;
    return info;
}

static struct buffer text;

/* Takes what was written. */
static const char *taken(void) {
    static char copy[8192];
    assert_true(text.size < sizeof copy);
    memcpy(copy, text.data, text.size);
    copy[text.size] = '\0';
    buffer_free(&text);
    return copy;
}

static unsigned slot(const char *key) {
    return topology_key_slot(slice_of(key));
}

/* As CLUSTER KEYSLOT of a Redis server. */
static void test_key_slots(void **state) {
    (void)state;
    assert_int_equal(slot(""), 0);
    assert_int_equal(slot("123456789"), 0x31C3);
    assert_int_equal(slot("foo"), 12182);
    assert_int_equal(slot("{foo}.bar"), slot("foo"));
    assert_int_equal(slot("a{foo}{bar}"), slot("foo"));
    assert_int_equal(slot("a{{foo}}"), slot("{foo"));
    assert_int_not_equal(slot("{}foo"), slot("foo"));
    assert_int_equal(slot("{}{foo}"), 2263); /* an empty tag: all of the key */
    assert_int_not_equal(slot("{foo"), slot("foo"));
    assert_int_not_equal(slot("foo}"), slot("foo"));
    assert_int_equal(topology_key_slot(slice_make("x{\0}y", 5)), 0); /* CRC16 of one NUL */
}

static void test_node_ids(void **state) {
    (void)state;
    char a[TOPOLOGY_NODE_ID_SIZE + 1], b[TOPOLOGY_NODE_ID_SIZE + 1];
    topology_node_id("test", 1, a);
    assert_string_equal(a, ID1); /* never changes: clients know nodes by it */
    topology_node_id("test", UINT32_MAX, b);
    assert_string_equal(b, "ffffffff" TAIL);
    topology_node_id("tesu", 1, b);
    assert_string_not_equal(a, b);
    assert_int_equal(strlen(b), TOPOLOGY_NODE_ID_SIZE);
}

static void test_a_leader_out_of_reach_is_none(void **state) {
    (void)state;
    struct server_info info = three_nodes();
    assert_int_equal(topology_leader(&info, 0), 1);
    assert_int_equal(topology_leader(&info, 1), 3);
    info.nodes[2].connected = false;
    assert_int_equal(topology_leader(&info, 1), 0);
    info.shards[1].leader = 0;
    assert_int_equal(topology_leader(&info, 1), 0);
    info.shards[1].leader = 9; /* not among the configuration's nodes */
    assert_int_equal(topology_leader(&info, 1), 0);
}

static void test_slots(void **state) {
    (void)state;
    struct server_info info = three_nodes();
    topology_write_slots(&text, &info, 1, 2);
    assert_string_equal(taken(), "*1\r\n*5\r\n:0\r\n:16383\r\n"
                                 "*4\r\n$3\r\n::1\r\n:7103\r\n$40\r\n" ID3 "\r\n*0\r\n"
                                 "*4\r\n$8\r\n10.0.0.1\r\n:7101\r\n$40\r\n" ID1 "\r\n*0\r\n"
                                 "*4\r\n$11\r\nkv2.example\r\n:7102\r\n$40\r\n" ID2 "\r\n*0\r\n");
    info.nodes[0].connected = false;
    topology_write_slots(&text, &info, 1, 3);
    assert_string_equal(taken(), "*1\r\n*4\r\n:0\r\n:16383\r\n"
                                 "*4\r\n$3\r\n::1\r\n:7103\r\n$40\r\n" ID3 "\r\n%0\r\n"
                                 "*4\r\n$11\r\nkv2.example\r\n:7102\r\n$40\r\n" ID2 "\r\n%0\r\n");
    /* Nobody to be seen leads: this node takes commands and keeps them for a while. */
    info.nodes[2].connected = false;
    topology_write_slots(&text, &info, 1, 2);
    assert_string_equal(taken(), "*1\r\n*3\r\n:0\r\n:16383\r\n"
                                 "*4\r\n$11\r\nkv2.example\r\n:7102\r\n$40\r\n" ID2 "\r\n*0\r\n");
}

#define SHARDS_NODE(header, id, port, host, role, offset, health)                                  \
    header "$2\r\nid\r\n$40\r\n" id "\r\n$4\r\nport\r\n:" port "\r\n$2\r\nip\r\n" host             \
           "\r\n$8\r\nendpoint\r\n" host "\r\n$4\r\nrole\r\n" role                                 \
           "\r\n$18\r\nreplication-offset\r\n:" offset "\r\n$6\r\nhealth\r\n" health "\r\n"

static void test_shards(void **state) {
    (void)state;
    struct server_info info = three_nodes();
    info.nodes[0].connected = false;
    topology_write_shards(&text, &info, 1, 2);
    assert_string_equal(
        taken(),
        "*1\r\n*4\r\n$5\r\nslots\r\n*2\r\n:0\r\n:16383\r\n$5\r\nnodes\r\n*3\r\n" SHARDS_NODE(
            "*14\r\n", ID3, "7103", "$3\r\n::1", "$6\r\nmaster", "50", "$6\r\nonline")
            SHARDS_NODE("*14\r\n", ID1, "7101", "$8\r\n10.0.0.1", "$7\r\nreplica", "50",
                        "$4\r\nfail") SHARDS_NODE("*14\r\n", ID2, "7102", "$11\r\nkv2.example",
                                                  "$7\r\nreplica", "48", "$6\r\nonline"));
    info.n_nodes = 2;
    info.nodes[0].connected = true;
    topology_write_shards(&text, &info, 0, 3);
    assert_string_equal(
        taken(),
        "*1\r\n%2\r\n$5\r\nslots\r\n*2\r\n:0\r\n:16383\r\n$5\r\nnodes\r\n*2\r\n" SHARDS_NODE(
            "%7\r\n", ID1, "7101", "$8\r\n10.0.0.1", "$6\r\nmaster", "0", "$6\r\nonline")
            SHARDS_NODE("%7\r\n", ID2, "7102", "$11\r\nkv2.example", "$7\r\nreplica", "0",
                        "$6\r\nonline"));
}

static void test_nodes(void **state) {
    (void)state;
    struct server_info info = three_nodes();
    info.nodes[0].connected = false;
    topology_write_nodes(&text, &info, 1);
    assert_string_equal(taken(),
                        ID1 " 10.0.0.1:7101@7201 slave,fail? " ID3 " 0 0 7 disconnected\n" ID2
                            " kv2.example:7102@7202 myself,slave " ID3 " 0 0 7 connected\n" ID3
                            " ::1:7103@7203 master - 0 0 7 connected 0-16383\n");
    info.nodes[2].connected = false;
    topology_write_nodes(&text, &info, 1);
    assert_string_equal(taken(),
                        ID1 " 10.0.0.1:7101@7201 slave,fail? " ID2 " 0 0 7 disconnected\n" ID2
                            " kv2.example:7102@7202 myself,master - 0 0 7 connected 0-16383\n" ID3
                            " ::1:7103@7203 slave,fail? " ID2 " 0 0 7 disconnected\n");
}

static void test_the_longest_host_fits(void **state) {
    (void)state;
    struct server_info info = three_nodes();
    char host[256];
    memset(host, 'h', sizeof host - 1);
    host[255] = '\0';
    info.nodes[2].host = host;
    info.nodes[2].id = UINT32_MAX;
    info.shards[1].leader = UINT32_MAX;
    info.shards[1].term = UINT64_MAX;
    info.nodes[2].port = UINT16_MAX;
    info.nodes[2].peer_port = UINT16_MAX;
    topology_write_nodes(&text, &info, 1);
    assert_non_null(strstr(taken(), "hhh:65535@65535 master - 0 0 18446744073709551615 connected "
                                    "0-16383\n"));
}

static void test_info(void **state) {
    (void)state;
    struct server_info info = three_nodes();
    topology_write_info(&text, &info, 1);
    assert_string_equal(
        taken(), "cluster_enabled:1\r\ncluster_state:ok\r\ncluster_slots_assigned:16384\r\n"
                 "cluster_slots_ok:16384\r\ncluster_slots_pfail:0\r\ncluster_slots_fail:0\r\n"
                 "cluster_known_nodes:3\r\ncluster_size:1\r\ncluster_current_epoch:7\r\n"
                 "cluster_my_epoch:7\r\ncluster_stats_messages_sent:0\r\n"
                 "cluster_stats_messages_received:0\r\n"
                 "total_cluster_links_buffer_limit_exceeded:0\r\n");
    info.shards[1].leader = 0;
    topology_write_info(&text, &info, 1);
    const char *words = taken();
    assert_non_null(strstr(words, "cluster_state:fail\r\n"));
    assert_non_null(strstr(words, "cluster_slots_ok:0\r\ncluster_slots_pfail:16384\r\n"));
}

static void test_map(void **state) {
    (void)state;
    struct server_info info = three_nodes();
    info.nodes[0].connected = false;
    topology_write_map(&text, &info, 3);
    assert_string_equal(taken(), "%5\r\n$7\r\ncluster\r\n$4\r\ntest\r\n$4\r\nself\r\n:2\r\n"
                                 "$6\r\nshards\r\n:2\r\n$5\r\nnodes\r\n*3\r\n"
                                 "*4\r\n:1\r\n$8\r\n10.0.0.1\r\n:7101\r\n:0\r\n"
                                 "*4\r\n:2\r\n$11\r\nkv2.example\r\n:7102\r\n:1\r\n"
                                 "*4\r\n:3\r\n$3\r\n::1\r\n:7103\r\n:1\r\n"
                                 "$7\r\nleaders\r\n*2\r\n:0\r\n:3\r\n");
    topology_write_map(&text, &info, 2);
    assert_memory_equal(taken(), "*10\r\n", 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_key_slots),
        cmocka_unit_test(test_node_ids),
        cmocka_unit_test(test_a_leader_out_of_reach_is_none),
        cmocka_unit_test(test_slots),
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_nodes),
        cmocka_unit_test(test_the_longest_host_fits),
        cmocka_unit_test(test_info),
        cmocka_unit_test(test_map),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
