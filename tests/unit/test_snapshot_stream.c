/* Snapshot streams between two nodes on one loop, over real sockets and files. A filter in front of
 * the receiving function drops, damages or repeats messages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#include "base/bytes.h"
#include "base/mem.h"
#include "base/prng.h"
#include "raft/peers.h"
#include "raft/snapshot_message.h"
#include "tests/unit/free_port.h"

enum { WAIT_MS = 60000, GROUPS = 4 };

struct outcome {
    unsigned n_sent;
    enum error_code sent_code;
    char sent_reason[512];
    unsigned n_received;
    struct snapshot_info info;
    uint8_t config[32];
    uint64_t received_from;
    unsigned n_failed;
    char failed_reason[512];
    unsigned n_offers;
};

struct node {
    struct peers *peers;
    struct snapshot_streams *streams;
    bool peers_open;
    bool streams_open;
    struct outcome groups[GROUPS];
    bool decline;
    uint64_t n_chunks; /* messages of that kind so far */
    struct payload *first_chunk;
    struct buffer first_chunk_header;
};

/* What the filter does with a chunk or message. */
enum trouble { NO_TROUBLE, DAMAGE_CHUNK, DROP_CHUNK, DROP_ALL, DROP_ABORTS };

static uv_loop_t loop;
static uv_prepare_t flusher;
static uv_timer_t ticker;
static struct node nodes[2];
static uint16_t ports[2];
static char dir[64];
static char source[GROUPS][96];
static enum trouble trouble;
static uint64_t trouble_at; /* chunk number, from 1 */

static void staged_path(unsigned group, char *path, size_t size) {
    snprintf(path, size, "%s/staged-%u", dir, group);
}

static bool staged_exists(unsigned group) {
    char path[128];
    struct stat status;
    staged_path(group, path, sizeof path);
    return lstat(path, &status) == 0;
}

/* ---- callbacks ---- */

static bool on_offer(void *data, uint64_t from, uint16_t group, const struct snapshot_info *info,
                     char *path, size_t path_size) {
    (void)from;
    (void)info;
    struct node *node = data;
    node->groups[group].n_offers++;
    staged_path(group, path, path_size);
    return !node->decline;
}

static void on_received(void *data, uint64_t from, uint16_t group, const struct snapshot_info *info,
                        const char *path) {
    struct outcome *outcome = &((struct node *)data)->groups[group];
    char expected[128];
    staged_path(group, expected, sizeof expected);
    assert_string_equal(path, expected);
    outcome->n_received++;
    outcome->received_from = from;
    outcome->info = *info;
    assert_true(info->config.size <= sizeof outcome->config);
    memcpy(outcome->config, info->config.data, info->config.size);
    outcome->info.config.data = outcome->config;
}

static void on_failed(void *data, uint64_t from, uint16_t group, const char *reason) {
    (void)from;
    struct outcome *outcome = &((struct node *)data)->groups[group];
    outcome->n_failed++;
    snprintf(outcome->failed_reason, sizeof outcome->failed_reason, "%s", reason);
    assert_false(staged_exists(group)); /* gone before we hear of it */
}

static void on_sent(void *data, uint64_t to, uint16_t group, enum error_code code,
                    const char *reason) {
    struct node *node = data;
    struct outcome *outcome = &node->groups[group];
    outcome->n_sent++;
    outcome->sent_code = code;
    snprintf(outcome->sent_reason, sizeof outcome->sent_reason, "%s", reason);
    assert_false(snapshot_streams_is_sending(node->streams, to, group));
}

static void keep_first_chunk(struct node *node, const struct peer_message *message) {
    if (node->first_chunk == NULL) {
        node->first_chunk = payload_ref(message->attachments[0]);
        buffer_append_slice(&node->first_chunk_header, message->header);
    }
}

static bool filter_drops(struct node *node, struct peer_message *message) {
    bool is_chunk = message->type == SNAPSHOT_CHUNK_DATA;
    if (is_chunk) {
        node->n_chunks++;
        keep_first_chunk(node, message);
    }
    bool now = is_chunk && node->n_chunks == trouble_at;
    if (trouble == DAMAGE_CHUNK && now) {
        struct payload *copy = payload_copy(payload_slice(message->attachments[0]));
        copy->data[copy->size / 2] ^= 1;
        payload_unref(message->attachments[0]);
        message->attachments[0] = copy;
    }
    return (trouble == DROP_CHUNK && now) ||
           (trouble == DROP_ALL && nodes[1].n_chunks >= trouble_at) ||
           (trouble == DROP_ABORTS && message->type == SNAPSHOT_ABORT);
}

static void on_message(void *data, uint64_t from, struct peer_message *message) {
    struct node *node = data;
    bool dropped = filter_drops(node, message);
    if (node->streams != NULL && !dropped) {
        snapshot_streams_receive(node->streams, from, message);
        return;
    }
    for (unsigned i = 0; i < message->n_attachments; i++) {
        payload_unref(message->attachments[i]);
    }
}

static void on_link(void *data, uint64_t peer, bool up, uint64_t epoch) {
    (void)epoch;
    struct node *node = data;
    if (!up && node->streams != NULL) {
        snapshot_streams_link_lost(node->streams, peer);
    }
}

static bool check_peer(void *data, uint64_t peer, const struct peer_identity *identity,
                       struct error *error) {
    (void)data;
    (void)peer;
    (void)identity;
    (void)error;
    return true;
}

/* ---- nodes ---- */

static void on_flush(uv_prepare_t *prepare) {
    (void)prepare;
    for (unsigned i = 0; i < 2; i++) {
        if (nodes[i].peers != NULL) {
            peers_flush(nodes[i].peers);
        }
    }
}

static void on_tick(uv_timer_t *timer) {
    (void)timer;
}

#define RUN_UNTIL(condition)                                                                       \
    do {                                                                                           \
        uint64_t end_ms = uv_hrtime() / 1000000 + WAIT_MS;                                         \
        while (!(condition)) {                                                                     \
            uv_run(&loop, UV_RUN_ONCE);                                                            \
            if (uv_hrtime() / 1000000 > end_ms) {                                                  \
                fail_msg("never true: %s", #condition);                                            \
            }                                                                                      \
        }                                                                                          \
    } while (0)

static void node_open(unsigned self, uint64_t queue_bytes) {
    struct node *node = &nodes[self];
    unsigned other = 1 - self;
    struct peer_address known = {.id = other + 1, .host = "127.0.0.1", .port = ports[other]};
    struct peers_options options = {
        .self = self + 1,
        .cluster = "test",
        .identity = {.incarnation = 1000 + self},
        .boot = 1,
        .listen = {.id = self + 1, .host = "127.0.0.1", .port = ports[self]},
        .nodes = &known,
        .n_nodes = 1,
        .queue_bytes = queue_bytes,
        .reconnect_min_ms = 5,
        .reconnect_max_ms = 50,
        .callbacks = {.data = node,
                      .on_message = on_message,
                      .on_link_out = on_link,
                      .on_link_in = on_link,
                      .check_peer = check_peer}};
    struct error error;
    assert_int_equal(peers_open(&node->peers, &loop, &options, &error), ERROR_NONE);
    struct snapshot_callbacks callbacks = {.data = node,
                                           .on_offer = on_offer,
                                           .on_received = on_received,
                                           .on_failed = on_failed,
                                           .on_sent = on_sent};
    node->streams = snapshot_streams_new(&loop, node->peers, &callbacks);
    node->peers_open = true;
    node->streams_open = true;
}

static void open_nodes(uint64_t queue_bytes) {
    node_open(0, queue_bytes);
    node_open(1, queue_bytes);
    RUN_UNTIL(peers_is_up(nodes[0].peers, 2) && peers_is_up(nodes[1].peers, 1));
}

static void on_closed(void *data) {
    *(bool *)data = false;
}

static void close_streams(struct node *node) {
    struct snapshot_streams *streams = node->streams;
    node->streams = NULL;
    if (streams != NULL) {
        snapshot_streams_close(streams, on_closed, &node->streams_open);
    }
}

static void close_peers(struct node *node) {
    struct peers *peers = node->peers;
    node->peers = NULL;
    if (peers != NULL) {
        peers_close(peers, on_closed, &node->peers_open);
    }
}

static int setup_test(void **state) {
    (void)state;
    memset(nodes, 0, sizeof nodes);
    trouble = NO_TROUBLE;
    trouble_at = 0;
    uv_loop_init(&loop);
    uv_prepare_init(&loop, &flusher);
    uv_prepare_start(&flusher, on_flush);
    uv_timer_init(&loop, &ticker);
    uv_timer_start(&ticker, on_tick, 5, 5);
    ports[0] = free_port();
    ports[1] = free_port();
    snprintf(dir, sizeof dir, "/tmp/ikv-snapshot-XXXXXX");
    assert_non_null(mkdtemp(dir));
    for (unsigned i = 0; i < GROUPS; i++) {
        snprintf(source[i], sizeof source[i], "%s/source-%u", dir, i);
    }
    return 0;
}

static int teardown_test(void **state) {
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        close_streams(&nodes[i]);
        close_peers(&nodes[i]);
    }
    for (unsigned i = 0; i < 2; i++) {
        RUN_UNTIL(!nodes[i].peers_open && !nodes[i].streams_open);
        payload_unref(nodes[i].first_chunk);
        buffer_free(&nodes[i].first_chunk_header);
    }
    uv_close((uv_handle_t *)&flusher, NULL);
    uv_close((uv_handle_t *)&ticker, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    for (unsigned i = 0; i < GROUPS; i++) {
        char path[128];
        staged_path(i, path, sizeof path);
        unlink(path);
        unlink(source[i]);
    }
    assert_int_equal(rmdir(dir), 0);
    return 0;
}

static void write_source(unsigned group, size_t size) {
    int fd = open(source[group], O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    struct prng prng;
    prng_seed(&prng, group + size);
    while (size > 0) {
        uint64_t block[512];
        for (unsigned i = 0; i < 512; i++) {
            block[i] = prng_next(&prng);
        }
        size_t n = size < sizeof block ? size : sizeof block;
        assert_int_equal(write(fd, block, n), n);
        size -= n;
    }
    close(fd);
}

static struct snapshot_info info_of(uint64_t size) {
    return (struct snapshot_info){.leader_term = 5,
                                  .index = 100,
                                  .term = 4,
                                  .config_index = 9,
                                  .config = slice_of("configuration"),
                                  .size = size};
}

static bool start(unsigned group, uint64_t size) {
    struct snapshot_info info = info_of(size);
    return snapshot_streams_send(nodes[0].streams, 2, (uint16_t)group, source[group], &info);
}

static void assert_same_files(unsigned group) {
    char staged[128];
    char command[256];
    staged_path(group, staged, sizeof staged);
    snprintf(command, sizeof command, "cmp -s %s %s", source[group], staged);
    assert_int_equal(system(command), 0);
}

static void assert_transferred(unsigned group) {
    RUN_UNTIL(nodes[0].groups[group].n_sent > 0);
    if (nodes[0].groups[group].sent_code != ERROR_NONE) {
        fail_msg("%s", nodes[0].groups[group].sent_reason);
    }
    RUN_UNTIL(nodes[1].groups[group].n_received > 0);
    assert_int_equal(nodes[0].groups[group].n_sent, 1);
    assert_int_equal(nodes[1].groups[group].n_received, 1);
    assert_int_equal(nodes[1].groups[group].n_failed, 0);
    assert_same_files(group);
}

static void assert_both_failed(unsigned group, enum error_code code) {
    RUN_UNTIL(nodes[0].groups[group].n_sent == 1 && nodes[1].groups[group].n_failed == 1);
    assert_int_equal(nodes[0].groups[group].sent_code, code);
    assert_int_equal(nodes[1].groups[group].n_received, 0);
    assert_false(staged_exists(group));
}

/* ---- what goes well ---- */

static void test_all_sizes(void **state) {
    (void)state;
    open_nodes(64 << 20);
    const size_t sizes[] = {0,
                            1,
                            SNAPSHOT_CHUNK - 1,
                            SNAPSHOT_CHUNK,
                            SNAPSHOT_CHUNK + 1,
                            (size_t)SNAPSHOT_WINDOW * SNAPSHOT_CHUNK,
                            (size_t)40 * SNAPSHOT_CHUNK + 12345};
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        memset(nodes[0].groups, 0, sizeof nodes[0].groups);
        memset(nodes[1].groups, 0, sizeof nodes[1].groups);
        write_source(0, sizes[i]);
        assert_true(start(0, sizes[i]));
        assert_false(start(0, sizes[i])); /* one per peer and group */
        assert_transferred(0);
        const struct snapshot_info *info = &nodes[1].groups[0].info;
        assert_int_equal(info->leader_term, 5);
        assert_int_equal(info->index, 100);
        assert_int_equal(info->term, 4);
        assert_int_equal(info->config_index, 9);
        assert_int_equal(info->size, sizes[i]);
        assert_true(slice_equal(info->config, slice_of("configuration")));
        assert_int_equal(nodes[1].groups[0].received_from, 1);
    }
}

static void test_groups_share_the_link(void **state) {
    (void)state;
    enum { SIZE = 30 * SNAPSHOT_CHUNK };
    open_nodes(64 << 20);
    write_source(1, SIZE);
    write_source(2, SIZE);
    assert_true(start(1, SIZE));
    assert_true(start(2, SIZE));
    struct snapshot_progress progress;
    do {
        uv_run(&loop, UV_RUN_ONCE);
        progress = snapshot_streams_progress(nodes[0].streams, 1);
        /* Neither has more than its window in this node's memory. */
        assert_true(peers_queued_bytes(nodes[0].peers, 2) <=
                    (uint64_t)2 * SNAPSHOT_WINDOW * (SNAPSHOT_CHUNK + 4096));
    } while (progress.done_bytes < SIZE * 3 / 4);
    assert_true(progress.sending);
    assert_int_equal(progress.total_bytes, SIZE);
    assert_true(snapshot_streams_progress(nodes[0].streams, 2).done_bytes > SIZE / 4);
    assert_true(snapshot_streams_progress(nodes[1].streams, 2).receiving);
    assert_false(snapshot_streams_progress(nodes[0].streams, 3).sending);
    assert_transferred(1);
    assert_transferred(2);
}

static void test_full_queue_only_delays(void **state) {
    (void)state;
    open_nodes(64 << 10); /* room for one chunk at a time */
    write_source(0, 8 * SNAPSHOT_CHUNK + 1);
    assert_true(start(0, 8 * SNAPSHOT_CHUNK + 1));
    assert_transferred(0);
}

static void test_older_staged_file_is_replaced(void **state) {
    (void)state;
    open_nodes(64 << 20);
    char path[128];
    staged_path(0, path, sizeof path);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_int_equal(ftruncate(fd, 5 * SNAPSHOT_CHUNK), 0);
    close(fd);
    write_source(0, 1000);
    assert_true(start(0, 1000));
    assert_transferred(0);
}

/* ---- what goes wrong ---- */

static void test_declined(void **state) {
    (void)state;
    open_nodes(64 << 20);
    nodes[1].decline = true;
    write_source(0, 10);
    assert_true(start(0, 10));
    RUN_UNTIL(nodes[0].groups[0].n_sent == 1);
    assert_int_equal(nodes[0].groups[0].sent_code, ERROR_BUSY);
    assert_int_equal(nodes[1].groups[0].n_failed, 0);
}

static void test_no_link(void **state) {
    (void)state;
    node_open(0, 64 << 20);
    write_source(0, 10);
    assert_true(start(0, 10));
    assert_int_equal(nodes[0].groups[0].n_sent, 0); /* never from inside the call */
    RUN_UNTIL(nodes[0].groups[0].n_sent == 1);
    assert_int_equal(nodes[0].groups[0].sent_code, ERROR_IO);
}

static void test_missing_file(void **state) {
    (void)state;
    open_nodes(64 << 20);
    assert_true(start(0, 10));
    assert_both_failed(0, ERROR_IO);
    assert_non_null(strstr(nodes[0].groups[0].sent_reason, "cannot open"));
    assert_non_null(strstr(nodes[1].groups[0].failed_reason, "cannot open"));
}

static void test_file_became_shorter(void **state) {
    (void)state;
    open_nodes(64 << 20);
    write_source(0, 3 * SNAPSHOT_CHUNK);
    assert_true(start(0, 3 * SNAPSHOT_CHUNK + 1));
    assert_both_failed(0, ERROR_IO);
    assert_non_null(strstr(nodes[0].groups[0].sent_reason, "became shorter"));
}

static void test_damaged_chunk(void **state) {
    (void)state;
    open_nodes(64 << 20);
    write_source(0, 9 * SNAPSHOT_CHUNK);
    trouble = DAMAGE_CHUNK;
    trouble_at = 7;
    assert_true(start(0, 9 * SNAPSHOT_CHUNK));
    assert_both_failed(0, ERROR_CORRUPT);
    assert_non_null(strstr(nodes[0].groups[0].sent_reason, "checksum"));
}

static void test_missing_chunk(void **state) {
    (void)state;
    open_nodes(64 << 20);
    write_source(0, 9 * SNAPSHOT_CHUNK);
    trouble = DROP_CHUNK;
    trouble_at = 3;
    assert_true(start(0, 9 * SNAPSHOT_CHUNK));
    assert_both_failed(0, ERROR_CORRUPT);
}

static void test_missing_last_chunk(void **state) {
    (void)state;
    open_nodes(64 << 20);
    write_source(0, 2 * SNAPSHOT_CHUNK);
    trouble = DROP_CHUNK;
    trouble_at = 2;
    assert_true(start(0, 2 * SNAPSHOT_CHUNK));
    assert_both_failed(0, ERROR_CORRUPT);
}

static void test_full_disk(void **state) {
    (void)state;
    open_nodes(64 << 20);
    char path[128];
    staged_path(0, path, sizeof path);
    assert_int_equal(symlink("/dev/full", path), 0);
    write_source(0, 3 * SNAPSHOT_CHUNK);
    assert_true(start(0, 3 * SNAPSHOT_CHUNK));
    assert_both_failed(0, ERROR_NOSPACE);
    assert_non_null(strstr(nodes[0].groups[0].sent_reason, "No space left"));
    assert_non_null(strstr(nodes[1].groups[0].failed_reason, "No space left"));
}

static void test_more_than_the_disk_can_hold(void **state) {
    (void)state;
    open_nodes(64 << 20);
    write_source(0, SNAPSHOT_CHUNK);
    assert_true(start(0, INT64_MAX));
    RUN_UNTIL(nodes[0].groups[0].n_sent == 1 && nodes[1].groups[0].n_failed == 1);
    assert_int_not_equal(nodes[0].groups[0].sent_code, ERROR_NONE);
    assert_false(staged_exists(0));
}

static void run_until_chunks(uint64_t n) {
    RUN_UNTIL(nodes[1].n_chunks >= n);
}

static void test_cancel_and_again(void **state) {
    (void)state;
    open_nodes(64 << 20);
    write_source(0, 20 * SNAPSHOT_CHUNK);
    assert_true(start(0, 20 * SNAPSHOT_CHUNK));
    run_until_chunks(3);
    snapshot_streams_cancel(nodes[0].streams, 2, 0);
    snapshot_streams_cancel(nodes[0].streams, 2, 1); /* none there */
    RUN_UNTIL(nodes[0].groups[0].n_sent == 1);
    assert_int_equal(nodes[0].groups[0].sent_code, ERROR_STALE);
    nodes[0].groups[0].n_sent = 0;
    assert_true(start(0, 20 * SNAPSHOT_CHUNK)); /* while the other side still cleans up */
    RUN_UNTIL(nodes[1].groups[0].n_failed == 1);
    nodes[1].groups[0].n_failed = 0;
    assert_transferred(0);
}

static void test_newer_offer_ends_older_stream(void **state) {
    (void)state;
    open_nodes(64 << 20);
    write_source(0, 20 * SNAPSHOT_CHUNK);
    trouble = DROP_ABORTS; /* the receiver does not hear of the cancellation */
    assert_true(start(0, 20 * SNAPSHOT_CHUNK));
    run_until_chunks(3);
    snapshot_streams_cancel(nodes[0].streams, 2, 0);
    RUN_UNTIL(nodes[0].groups[0].n_sent == 1);
    nodes[0].groups[0].n_sent = 0;
    assert_true(start(0, 20 * SNAPSHOT_CHUNK));
    RUN_UNTIL(nodes[1].groups[0].n_failed == 1);
    assert_non_null(strstr(nodes[1].groups[0].failed_reason, "newer snapshot"));
    nodes[1].groups[0].n_failed = 0;
    assert_transferred(0);
}

static void receive_as(uint64_t from, unsigned group, const struct snapshot_message *message) {
    struct buffer header = {0};
    snapshot_message_encode(message, &header);
    struct peer_message peer_message = {
        .type = (uint8_t)message->kind, .group = (uint16_t)group, .header = buffer_slice(&header)};
    snapshot_streams_receive(nodes[1].streams, from, &peer_message);
    buffer_free(&header);
}

static void test_only_a_higher_term_takes_over(void **state) {
    (void)state;
    open_nodes(64 << 20);
    struct snapshot_message offer = {.kind = SNAPSHOT_OFFER, .id = {1, 1}, .info = info_of(1000)};
    offer.info.leader_term = 5;
    receive_as(7, 0, &offer);
    assert_int_equal(nodes[1].groups[0].n_offers, 1);
    receive_as(8, 0, &offer);
    offer.info.leader_term = 4;
    receive_as(9, 0, &offer);
    assert_int_equal(nodes[1].groups[0].n_offers, 1);
    assert_true(snapshot_streams_progress(nodes[1].streams, 0).receiving);
    offer.info.leader_term = 6;
    receive_as(9, 0, &offer);
    RUN_UNTIL(nodes[1].groups[0].n_failed == 1 && nodes[1].groups[0].n_offers == 2);
    assert_true(snapshot_streams_progress(nodes[1].streams, 0).receiving);
}

static void test_late_messages_are_ignored(void **state) {
    (void)state;
    open_nodes(64 << 20);
    write_source(0, 2 * SNAPSHOT_CHUNK);
    assert_true(start(0, 2 * SNAPSHOT_CHUNK));
    assert_transferred(0);
    memset(nodes[0].groups, 0, sizeof nodes[0].groups);
    memset(nodes[1].groups, 0, sizeof nodes[1].groups);
    write_source(0, 6 * SNAPSHOT_CHUNK);
    nodes[1].n_chunks = 0;
    assert_true(start(0, 6 * SNAPSHOT_CHUNK));
    for (uint64_t n = 1; n <= 6; n++) {
        run_until_chunks(n);
        struct payload *chunk = payload_ref(nodes[1].first_chunk);
        struct peer_message late = {.type = SNAPSHOT_CHUNK_DATA,
                                    .header = buffer_slice(&nodes[1].first_chunk_header),
                                    .n_attachments = 1,
                                    .attachments = &chunk};
        snapshot_streams_receive(nodes[1].streams, 1, &late);
        struct snapshot_message abort_older = {
            .kind = SNAPSHOT_ABORT, .id = {1, 1}, .by_sender = true, .code = ERROR_IO};
        receive_as(1, 0, &abort_older);
    }
    assert_transferred(0);
}

static void test_lost_link_ends_both_sides(void **state) {
    (void)state;
    open_nodes(64 << 20);
    write_source(0, 30 * SNAPSHOT_CHUNK);
    assert_true(start(0, 30 * SNAPSHOT_CHUNK));
    run_until_chunks(3);
    close_peers(&nodes[1]);
    nodes[1].peers = NULL;
    snapshot_streams_link_lost(nodes[1].streams, 1);
    RUN_UNTIL(nodes[0].groups[0].n_sent == 1 && nodes[1].groups[0].n_failed == 1);
    assert_int_equal(nodes[0].groups[0].sent_code, ERROR_IO);
    assert_false(staged_exists(0));
    close_streams(&nodes[1]);
}

static void test_silence_ends_both_sides(void **state) {
    (void)state;
    open_nodes(64 << 20);
    write_source(0, 30 * SNAPSHOT_CHUNK);
    trouble = DROP_ALL;
    trouble_at = 3;
    assert_true(start(0, 30 * SNAPSHOT_CHUNK));
    assert_both_failed(0, ERROR_IO);
    assert_non_null(strstr(nodes[0].groups[0].sent_reason, "fell silent"));
    assert_non_null(strstr(nodes[1].groups[0].failed_reason, "fell silent"));
}

static void test_close_in_the_middle(void **state) {
    (void)state;
    open_nodes(64 << 20);
    write_source(0, 30 * SNAPSHOT_CHUNK);
    assert_true(start(0, 30 * SNAPSHOT_CHUNK));
    run_until_chunks(3);
    close_streams(&nodes[1]);
    close_streams(&nodes[0]);
    RUN_UNTIL(!nodes[0].streams_open && !nodes[1].streams_open);
    assert_int_equal(nodes[0].groups[0].n_sent, 0);
    assert_int_equal(nodes[1].groups[0].n_failed, 0);
    assert_false(staged_exists(0));
}

/* ---- messages ---- */

static void test_damaged_messages_do_no_harm(void **state) {
    (void)state;
    open_nodes(64 << 20);
    struct prng prng;
    prng_seed(&prng, 11);
    nodes[1].decline = true;
    for (int i = 0; i < 20000; i++) {
        uint8_t bytes[96];
        size_t size = prng_below(&prng, sizeof bytes + 1);
        for (size_t k = 0; k < size; k++) {
            bytes[k] = (uint8_t)(prng_next(&prng) & (i % 2 == 0 ? 0x01 : 0xFF));
        }
        struct peer_message message = {
            .type = (uint8_t)(PEER_MESSAGE_SNAPSHOT_FIRST + prng_below(&prng, 8)),
            .group = (uint16_t)prng_below(&prng, GROUPS),
            .header = slice_make(bytes, size)};
        snapshot_streams_receive(nodes[1].streams, 1, &message);
    }
    nodes[1].decline = false;
    write_source(0, 100);
    assert_true(start(0, 100));
    assert_transferred(0);
}

static void test_messages_survive_encoding(void **state) {
    (void)state;
    struct snapshot_message original = {.kind = SNAPSHOT_ABORT,
                                        .id = {1ull << 40, 77},
                                        .by_sender = true,
                                        .code = ERROR_NOSPACE,
                                        .reason = "full"};
    struct buffer bytes = {0};
    struct snapshot_message decoded;
    snapshot_message_encode(&original, &bytes);
    assert_true(snapshot_message_decode(SNAPSHOT_ABORT, buffer_slice(&bytes), &decoded));
    assert_true(snapshot_id_equal(decoded.id, original.id));
    assert_true(decoded.by_sender);
    assert_int_equal(decoded.code, ERROR_NOSPACE);
    assert_string_equal(decoded.reason, "full");
    for (size_t size = 0; size < bytes.size; size++) {
        assert_false(
            snapshot_message_decode(SNAPSHOT_ABORT, slice_make(bytes.data, size), &decoded));
    }
    buffer_put_u8(&bytes, 0);
    assert_false(snapshot_message_decode(SNAPSHOT_ABORT, buffer_slice(&bytes), &decoded));
    assert_false(snapshot_message_decode(39, buffer_slice(&bytes), &decoded));
    buffer_free(&bytes);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_test, teardown_test)

int main(void) {
    signal(SIGPIPE, SIG_IGN); /* as the server does */
    const struct CMUnitTest tests[] = {
        TEST(test_all_sizes),
        TEST(test_groups_share_the_link),
        TEST(test_full_queue_only_delays),
        TEST(test_older_staged_file_is_replaced),
        TEST(test_declined),
        TEST(test_no_link),
        TEST(test_missing_file),
        TEST(test_file_became_shorter),
        TEST(test_damaged_chunk),
        TEST(test_missing_chunk),
        TEST(test_missing_last_chunk),
        TEST(test_full_disk),
        TEST(test_more_than_the_disk_can_hold),
        TEST(test_cancel_and_again),
        TEST(test_newer_offer_ends_older_stream),
        TEST(test_only_a_higher_term_takes_over),
        TEST(test_late_messages_are_ignored),
        TEST(test_lost_link_ends_both_sides),
        TEST(test_silence_ends_both_sides),
        TEST(test_close_in_the_middle),
        TEST(test_damaged_messages_do_no_harm),
        cmocka_unit_test(test_messages_survive_encoding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
