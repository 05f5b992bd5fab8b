/* Peer links over real sockets on loopback: several nodes on one loop, and raw sockets that play a
 * node which misbehaves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/mem.h"
#include "base/prng.h"
#include "raft/peers.h"
#include "raft/wire.h"
#include "tests/unit/free_port.h"
#include "tests/unit/tls_fixture.h"

enum { NODES_MAX = 4, WAIT_MS = 60000, EVENTS_MAX = 256, QUEUE_BYTES = 8 << 20 };

/* ---- nodes ---- */

struct node {
    struct peers *peers;
    bool open;
    uint64_t id;
    /* What its callbacks saw. */
    uint64_t n_messages;
    uint64_t n_bytes;
    uint64_t n_gone;
    uint64_t n_refused;
    char refused[512];
    char logged[1024];
    unsigned n_logged;
    char events[EVENTS_MAX]; /* U D out link, u d in link, letters of messages */
    unsigned n_events;
    uint64_t in_epoch;
    uint64_t out_epoch;
    uint64_t bad_incarnation; /* the one that check_peer() does not accept */
    bool close_on_message;
    uint64_t next[PEER_LANES]; /* expected numbers in the order test */
    bool out_of_order;
    struct payload *kept;
};

static uv_loop_t loop;
static uv_prepare_t flusher;
static uv_timer_t ticker;
static struct node nodes[NODES_MAX];
static uint16_t ports[NODES_MAX];
static struct tls_keys *keys[NODES_MAX]; /* of each node; NULL: plaintext */
static bool tls_is_optional;

static void note(struct node *node, char event) {
    if (node->n_events < EVENTS_MAX - 1) {
        node->events[node->n_events++] = event;
    }
}

static void on_flush(uv_prepare_t *prepare) {
    (void)prepare;
    for (unsigned i = 0; i < NODES_MAX; i++) {
        if (nodes[i].peers != NULL) {
            peers_flush(nodes[i].peers);
        }
    }
}

static void on_tick(uv_timer_t *timer) {
    (void)timer;
}

static void on_closed(void *data) {
    ((struct node *)data)->open = false;
}

static void node_close(struct node *node) {
    peers_close(node->peers, on_closed, node);
    node->peers = NULL;
}

static void check_order(struct node *node, const struct peer_message *message) {
    struct reader reader = reader_make(message->header);
    unsigned lane = reader_u8(&reader);
    uint64_t number = reader_u64(&reader);
    if (!reader_done(&reader) || lane >= PEER_LANES || number != node->next[lane]) {
        node->out_of_order = true;
        return;
    }
    node->next[lane]++;
}

static void on_message(void *data, uint64_t from, struct peer_message *message) {
    struct node *node = data;
    assert_int_not_equal(from, node->id);
    node->n_messages++;
    node->n_bytes += message->header.size;
    if (message->type == 'O') {
        check_order(node, message);
    } else {
        note(node, (char)message->type);
    }
    for (unsigned i = 0; i < message->n_attachments; i++) {
        node->n_bytes += message->attachments[i]->size;
        payload_unref(node->kept);
        node->kept = message->attachments[i];
    }
    if (node->close_on_message && node->peers != NULL) {
        node_close(node);
    }
}

static void on_link_out(void *data, uint64_t peer, bool up, uint64_t epoch) {
    (void)peer;
    struct node *node = data;
    note(node, up ? 'U' : 'D');
    if (up) {
        assert_true(epoch > node->out_epoch);
        node->out_epoch = epoch;
    }
}

static void on_link_in(void *data, uint64_t peer, bool up, uint64_t epoch) {
    (void)peer;
    struct node *node = data;
    note(node, up ? 'u' : 'd');
    if (up) {
        node->in_epoch = epoch;
    }
}

static void on_gone(void *data, uint64_t peer) {
    (void)peer;
    ((struct node *)data)->n_gone++;
}

static bool check_peer(void *data, uint64_t peer, const struct peer_identity *identity,
                       struct error *error) {
    struct node *node = data;
    if (identity->incarnation == node->bad_incarnation) {
        error_set(error, ERROR_MISMATCH, "node %d has another data directory than before",
                  (int)peer);
        return false;
    }
    return true;
}

static void on_refused(void *data, uint64_t peer, const char *reason) {
    (void)peer;
    struct node *node = data;
    node->n_refused++;
    snprintf(node->refused, sizeof node->refused, "%s", reason);
}

static void on_log(void *data, enum peers_log_level level, const char *text) {
    (void)level;
    struct node *node = data;
    node->n_logged++;
    snprintf(node->logged, sizeof node->logged, "%s", text);
}

struct setup {
    const char *cluster;
    const char *host;
    uint64_t incarnation;
    uint64_t boot;
    uint64_t queue_bytes;
};

static const struct setup usual = {"test", "127.0.0.1", 0, 1, QUEUE_BYTES};

/* Opens nodes[self] knowing the nodes of `others`, a mask of indexes; ids are index + 1. */
static enum error_code try_open(unsigned self, unsigned others, struct setup setup,
                                struct error *error) {
    struct node *node = &nodes[self];
    struct peer_address known[NODES_MAX];
    unsigned n = 0;
    for (unsigned i = 0; i < NODES_MAX; i++) {
        if (i != self && (others & (1u << i)) != 0) {
            known[n] = (struct peer_address){.id = i + 1, .port = ports[i]};
            snprintf(known[n].host, sizeof known[n].host, "%s", setup.host);
            n++;
        }
    }
    struct peers_options options = {
        .self = self + 1,
        .cluster = setup.cluster,
        .identity = {.incarnation = setup.incarnation != 0 ? setup.incarnation : 1000 + self},
        .boot = setup.boot,
        .listen = {.id = self + 1, .port = ports[self]},
        .nodes = known,
        .n_nodes = n,
        .queue_bytes = setup.queue_bytes,
        .reconnect_min_ms = 5,
        .reconnect_max_ms = 50,
        .tls = keys[self],
        .tls_required = !tls_is_optional,
        .callbacks = {.data = node,
                      .on_message = on_message,
                      .on_link_out = on_link_out,
                      .on_link_in = on_link_in,
                      .on_gone = on_gone,
                      .check_peer = check_peer,
                      .on_refused = on_refused,
                      .log = on_log}};
    snprintf(options.listen.host, sizeof options.listen.host, "%s", setup.host);
    node->id = self + 1;
    enum error_code code = peers_open(&node->peers, &loop, &options, error);
    node->open = code == ERROR_NONE;
    return code;
}

static void node_open(unsigned self, unsigned others, struct setup setup) {
    struct error error;
    if (try_open(self, others, setup, &error) != ERROR_NONE) {
        fail_msg("%s", error.message);
    }
}

/* Runs the loop until `condition` holds; fails the test when it never does. */
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

static void run_ms(uint64_t ms) {
    uint64_t end_ns = uv_hrtime() + ms * 1000000;
    while (uv_hrtime() < end_ns) {
        uv_run(&loop, UV_RUN_ONCE);
    }
}

static int setup_test(void **state) {
    (void)state;
    memset(nodes, 0, sizeof nodes);
    uv_loop_init(&loop);
    uv_prepare_init(&loop, &flusher);
    uv_prepare_start(&flusher, on_flush);
    uv_timer_init(&loop, &ticker);
    uv_timer_start(&ticker, on_tick, 5, 5);
    for (unsigned i = 0; i < NODES_MAX; i++) {
        ports[i] = free_port();
    }
    return 0;
}

static int teardown_test(void **state) {
    (void)state;
    for (unsigned i = 0; i < NODES_MAX; i++) {
        if (nodes[i].peers != NULL) {
            node_close(&nodes[i]);
        }
    }
    for (unsigned i = 0; i < NODES_MAX; i++) {
        RUN_UNTIL(!nodes[i].open);
        payload_unref(nodes[i].kept);
    }
    uv_close((uv_handle_t *)&flusher, NULL);
    uv_close((uv_handle_t *)&ticker, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    return 0;
}

static void open_pair(void) {
    node_open(0, 2, usual);
    node_open(1, 1, usual);
    RUN_UNTIL(peers_is_up(nodes[0].peers, 2) && peers_is_up(nodes[1].peers, 1));
    RUN_UNTIL(nodes[0].in_epoch != 0 && nodes[1].in_epoch != 0);
}

static bool send_text(struct node *from, uint64_t to, enum peer_lane lane, char type,
                      const char *text) {
    struct peer_message message = {.type = (uint8_t)type, .group = 7, .header = slice_of(text)};
    return peers_send(from->peers, to, lane, &message);
}

static bool send_payload(struct node *from, uint64_t to, enum peer_lane lane, char type,
                         struct payload *payload) {
    struct peer_message message = {
        .type = (uint8_t)type, .group = 3, .n_attachments = 1, .attachments = &payload};
    return peers_send(from->peers, to, lane, &message);
}

static struct payload *random_payload(size_t size, uint64_t seed) {
    struct payload *payload = payload_new(size);
    struct prng prng;
    prng_seed(&prng, seed);
    for (size_t i = 0; i < size; i += 8) {
        uint64_t value = prng_next(&prng);
        memcpy(payload->data + i, &value, size - i < 8 ? size - i : 8);
    }
    return payload;
}

/* ---- raw sockets ---- */

static int raw_connect(uint16_t port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static int raw_listen(uint16_t port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 16), 0);
    return fd;
}

static bool raw_readable(int fd) {
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    return poll(&poll_fd, 1, 0) == 1;
}

static int raw_accept(int listener) {
    RUN_UNTIL(raw_readable(listener));
    int fd = accept(listener, NULL, NULL);
    assert_true(fd >= 0);
    return fd;
}

/* Writes all or as much as the other side lets in before it closes. */
static void raw_write(int fd, const void *data, size_t size) {
    const uint8_t *at = data;
    while (size > 0) {
        ssize_t n = send(fd, at, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN) {
            return;
        }
        if (n > 0) {
            at += n;
            size -= (size_t)n;
        }
        uv_run(&loop, UV_RUN_NOWAIT);
    }
}

/* Reads a handshake frame; false when the connection ends before. */
static bool raw_read_handshake(int fd, struct wire_handshake *handshake) {
    struct wire_handshake_decoder decoder = {0};
    struct error error;
    for (;;) {
        uint8_t byte;
        RUN_UNTIL(raw_readable(fd));
        if (recv(fd, &byte, 1, 0) != 1) {
            return false;
        }
        struct slice input = slice_make(&byte, 1);
        enum wire_status status = wire_handshake_decode(&decoder, &input, handshake, &error);
        assert_int_not_equal(status, WIRE_BROKEN);
        if (status == WIRE_FOUND) {
            return true;
        }
    }
}

static bool raw_is_closed(int fd) {
    uint8_t byte;
    return raw_readable(fd) && recv(fd, &byte, 1, MSG_DONTWAIT) <= 0;
}

static void raw_hello(int fd, const struct wire_handshake *hello) {
    uint8_t frame[WIRE_HANDSHAKE_MAX];
    raw_write(fd, frame, wire_handshake_encode(hello, frame));
}

static struct wire_handshake good_hello(uint64_t epoch) {
    return (struct wire_handshake){.kind = WIRE_HELLO,
                                   .wire_min = WIRE_VERSION,
                                   .wire_max = WIRE_VERSION,
                                   .cluster = "test",
                                   .from = 2,
                                   .incarnation = 5,
                                   .boot = epoch >> 32,
                                   .epoch = epoch,
                                   .to = 1};
}

/* A link from a raw node 2 to nodes[0]. */
static int raw_link(uint64_t epoch) {
    int fd = raw_connect(ports[0]);
    struct wire_handshake hello = good_hello(epoch);
    raw_hello(fd, &hello);
    struct wire_handshake answer;
    assert_true(raw_read_handshake(fd, &answer));
    assert_int_equal(answer.kind, WIRE_WELCOME);
    assert_int_equal(answer.from, 1);
    return fd;
}

/* A one-fragment message without attachments. */
static size_t raw_message(uint8_t *frame, char type, const char *text) {
    struct peer_message message = {.type = (uint8_t)type, .header = slice_of(text)};
    uint8_t *body = frame + WIRE_FRAGMENT_HEADER;
    size_t size = wire_message_head_size(&message);
    wire_message_encode_head(&message, body);
    uint32_t crc =
        wire_fragment_begin(frame, PEER_LANE_NORMAL, WIRE_FLAG_FIRST | WIRE_FLAG_LAST, size);
    wire_fragment_finish(frame, crc32c(crc, body, size));
    return WIRE_FRAGMENT_HEADER + size;
}

/* Accepts the dial of nodes[0] as node 2. */
static int raw_welcome(int listener) {
    int fd = raw_accept(listener);
    struct wire_handshake hello;
    assert_true(raw_read_handshake(fd, &hello));
    assert_int_equal(hello.kind, WIRE_HELLO);
    struct wire_handshake welcome = {.kind = WIRE_WELCOME,
                                     .wire_min = WIRE_VERSION,
                                     .wire_max = WIRE_VERSION,
                                     .cluster = "test",
                                     .from = 2,
                                     .incarnation = 5,
                                     .boot = 1};
    raw_hello(fd, &welcome);
    return fd;
}

/* ---- links ---- */

static void test_pair_exchanges_messages(void **state) {
    (void)state;
    open_pair();
    assert_int_equal(peers_epoch(nodes[0].peers, 2) >> 32, 1);
    assert_int_equal(peers_epoch(nodes[0].peers, 2), nodes[1].in_epoch);
    struct payload *payload = random_payload(100000, 1);
    assert_true(send_text(&nodes[0], 2, PEER_LANE_URGENT, 'a', "hello"));
    assert_true(send_payload(&nodes[1], 1, PEER_LANE_NORMAL, 'b', payload));
    assert_true(peers_queued_bytes(nodes[1].peers, 1) > 100000);
    RUN_UNTIL(nodes[0].n_messages == 1 && nodes[1].n_messages == 1);
    assert_int_equal(nodes[1].n_bytes, 5);
    assert_true(slice_equal(payload_slice(nodes[0].kept), payload_slice(payload)));
    RUN_UNTIL(peers_queued_bytes(nodes[1].peers, 1) == 0);
    payload_unref(payload);
    assert_false(send_text(&nodes[0], 1, PEER_LANE_NORMAL, 'x', "to itself"));
    assert_false(send_text(&nodes[0], 9, PEER_LANE_NORMAL, 'x', "to nobody"));
}

static void test_host_names(void **state) {
    (void)state;
    struct setup named = usual;
    named.host = "localhost";
    node_open(0, 2, named);
    node_open(1, 1, named);
    RUN_UNTIL(peers_is_up(nodes[0].peers, 2) && peers_is_up(nodes[1].peers, 1));
}

static void test_name_that_does_not_resolve(void **state) {
    (void)state;
    struct setup named = usual;
    struct error error;
    named.host = "no such host";
    assert_int_equal(try_open(0, 2, named, &error), ERROR_IO);
    assert_non_null(strstr(error.message, "no such host"));
}

static void test_busy_port(void **state) {
    (void)state;
    int taken = raw_listen(ports[0]);
    struct error error;
    assert_int_equal(try_open(0, 2, usual, &error), ERROR_IO);
    assert_non_null(strstr(error.message, "address already in use"));
    assert_null(nodes[0].peers);
    close(taken);
}

static void test_gone_when_nobody_listens(void **state) {
    (void)state;
    node_open(0, 2, usual);
    RUN_UNTIL(nodes[0].n_gone >= 3); /* it keeps on dialing */
    assert_int_equal(nodes[0].n_logged, 1);
    assert_false(send_text(&nodes[0], 2, PEER_LANE_NORMAL, 'x', "lost"));
}

static void expect_refusal(struct setup other, const char *reason) {
    node_open(0, 2, usual);
    node_open(1, 1, other);
    RUN_UNTIL(nodes[1].n_refused > 0);
    assert_non_null(strstr(nodes[1].refused, reason));
    assert_false(peers_is_up(nodes[1].peers, 1));
    assert_int_equal(nodes[0].n_events, 0);
}

static void test_wrong_cluster_is_refused(void **state) {
    (void)state;
    struct setup other = usual;
    other.cluster = "other";
    expect_refusal(other, "this is a node of cluster 'test', not of 'other'");
}

static void test_wrong_incarnation_is_refused(void **state) {
    (void)state;
    struct setup other = usual;
    other.incarnation = 666;
    nodes[0].bad_incarnation = 666;
    expect_refusal(other, "node 2 has another data directory than before");
    /* Node 0 does not want to speak to it either. */
    RUN_UNTIL(strstr(nodes[0].logged, "another data directory") != NULL);
    assert_false(peers_is_up(nodes[0].peers, 2));
}

static void test_wrong_node_is_refused(void **state) {
    (void)state;
    uint16_t port = ports[0];
    node_open(0, 2, usual);
    ports[2] = port; /* node 2 takes node 1's address for node 3's */
    node_open(1, 4, usual);
    RUN_UNTIL(nodes[1].n_refused > 0);
    assert_non_null(strstr(nodes[1].refused, "this is node 1, not node 3"));
}

static void test_unknown_node_is_refused(void **state) {
    (void)state;
    node_open(0, 2, usual);
    node_open(3, 1, usual);
    RUN_UNTIL(nodes[3].n_refused > 0);
    assert_non_null(strstr(nodes[3].refused, "does not know a node 4"));
}

static void test_node_that_dials_itself_is_refused(void **state) {
    (void)state;
    ports[1] = ports[0];
    node_open(0, 2, usual);
    RUN_UNTIL(nodes[0].n_refused > 0);
    assert_non_null(strstr(nodes[0].refused, "this is node 1, not node 2"));
    assert_false(peers_is_up(nodes[0].peers, 2));
}

static void test_other_version_is_refused_in_words(void **state) {
    (void)state;
    node_open(0, 2, usual);
    int fd = raw_connect(ports[0]);
    struct wire_handshake hello = good_hello(1ull << 32 | 1);
    uint8_t frame[WIRE_HANDSHAKE_MAX];
    size_t size = wire_handshake_encode(&hello, frame);
    bytes_put_u16(frame + 4, WIRE_VERSION + 1);
    bytes_put_u32(frame + 12, crc32c(crc32c(0, frame, 12), frame + WIRE_HANDSHAKE_HEADER,
                                     size - WIRE_HANDSHAKE_HEADER));
    raw_write(fd, frame, size);
    struct wire_handshake answer;
    assert_true(raw_read_handshake(fd, &answer));
    assert_int_equal(answer.kind, WIRE_REFUSED);
    assert_int_equal(answer.code, ERROR_VERSION);
    assert_non_null(strstr(answer.reason, "speaks version 2"));
    RUN_UNTIL(raw_is_closed(fd));
    close(fd);
}

static void test_wrong_welcome_is_given_up(void **state) {
    (void)state;
    int listener = raw_listen(ports[1]);
    node_open(0, 2, usual);
    struct wire_handshake welcome = {.kind = WIRE_WELCOME,
                                     .wire_min = WIRE_VERSION,
                                     .wire_max = WIRE_VERSION,
                                     .cluster = "test",
                                     .from = 3,
                                     .incarnation = 5,
                                     .boot = 1};
    int fd = raw_accept(listener);
    raw_hello(fd, &welcome);
    RUN_UNTIL(strstr(nodes[0].logged, "node 3 answered") != NULL);
    close(fd);
    run_ms(1100); /* past the limit on log lines */
    while (raw_readable(listener)) {
        close(accept(listener, NULL, NULL));
    }
    fd = raw_accept(listener);
    welcome.from = 2;
    snprintf(welcome.cluster, sizeof welcome.cluster, "other");
    raw_hello(fd, &welcome);
    RUN_UNTIL(strstr(nodes[0].logged, "belongs to cluster 'other'") != NULL);
    assert_int_equal(nodes[0].n_events, 0);
    close(fd);
    close(listener);
}

static void test_restart_raises_epoch(void **state) {
    (void)state;
    open_pair();
    uint64_t first = nodes[0].in_epoch;
    uint64_t first_out = nodes[0].out_epoch;
    node_close(&nodes[1]);
    RUN_UNTIL(!nodes[1].open && !peers_is_up(nodes[0].peers, 2) && nodes[0].n_gone > 0);
    assert_int_equal(peers_queued_bytes(nodes[0].peers, 2), 0);
    nodes[1].out_epoch = 0;
    struct setup restarted = usual;
    restarted.boot = 2;
    node_open(1, 1, restarted);
    RUN_UNTIL(peers_is_up(nodes[0].peers, 2) && peers_is_up(nodes[1].peers, 1));
    RUN_UNTIL(nodes[0].in_epoch != first);
    assert_int_equal(nodes[0].in_epoch >> 32, 2);
    assert_true(nodes[0].out_epoch > first_out);
    assert_true(send_text(&nodes[0], 2, PEER_LANE_NORMAL, 'a', "again"));
    RUN_UNTIL(nodes[1].n_messages == 1);
}

/* ---- order ---- */

static void test_newer_link_replaces_older(void **state) {
    (void)state;
    node_open(0, 2, usual);
    uint8_t frame[256];
    int old = raw_link(1ull << 32 | 1);
    raw_write(old, frame, raw_message(frame, 'a', "over the old link"));
    RUN_UNTIL(nodes[0].n_messages == 1);
    int new = raw_link(1ull << 32 | 5);
    RUN_UNTIL(nodes[0].in_epoch == (1ull << 32 | 5));
    raw_write(old, frame, raw_message(frame, 'x', "too late"));
    raw_write(new, frame, raw_message(frame, 'b', "over the new link"));
    RUN_UNTIL(nodes[0].n_messages == 2 && raw_is_closed(old));
    assert_string_equal(nodes[0].events, "uadub");
    close(old);

    /* An epoch that is not newer is refused and leaves the link alone. */
    int stale = raw_connect(ports[0]);
    struct wire_handshake hello = good_hello(1ull << 32 | 5);
    struct wire_handshake answer;
    raw_hello(stale, &hello);
    assert_true(raw_read_handshake(stale, &answer));
    assert_int_equal(answer.kind, WIRE_REFUSED);
    assert_non_null(strstr(answer.reason, "is not newer than"));
    raw_write(new, frame, raw_message(frame, 'c', "still there"));
    RUN_UNTIL(nodes[0].n_messages == 3);
    close(stale);
    close(new);
}

static void test_urgent_overtakes_bulk(void **state) {
    (void)state;
    open_pair();
    struct payload *large = random_payload(64 << 20, 2);
    assert_true(send_payload(&nodes[0], 2, PEER_LANE_BULK, 'B', large));
    assert_int_equal(peers_bulk_queued(nodes[0].peers, 2, 3), 1);
    assert_int_equal(peers_bulk_queued(nodes[0].peers, 2, 4), 0);
    /* Let the bulk get going first. */
    for (int i = 0; i < 3; i++) {
        uv_run(&loop, UV_RUN_NOWAIT);
    }
    assert_int_equal(nodes[1].n_messages, 0);
    assert_true(send_text(&nodes[0], 2, PEER_LANE_NORMAL, 'N', "normal"));
    assert_true(send_text(&nodes[0], 2, PEER_LANE_URGENT, 'u', "urgent"));
    RUN_UNTIL(nodes[1].n_messages == 3);
    assert_string_equal(nodes[1].events + nodes[1].n_events - 3, "uNB");
    assert_true(slice_equal(payload_slice(nodes[1].kept), payload_slice(large)));
    RUN_UNTIL(peers_bulk_queued(nodes[0].peers, 2, 3) == 0);
    payload_unref(large);
}

/* Sends number `number` of the lane; false when the queue is full. */
static bool send_numbered(struct node *from, uint64_t to, enum peer_lane lane, uint64_t number) {
    uint8_t header[9];
    header[0] = (uint8_t)lane;
    bytes_put_u64(header + 1, number);
    struct peer_message message = {.type = 'O', .header = slice_make(header, sizeof header)};
    return peers_send(from->peers, to, lane, &message);
}

static void test_many_small_messages_in_order(void **state) {
    (void)state;
    enum { COUNT = 100000 };
    open_pair();
    uint64_t sent[PEER_LANES] = {0};
    while (sent[0] < COUNT || sent[1] < COUNT || sent[2] < COUNT) {
        for (unsigned lane = 0; lane < PEER_LANES; lane++) {
            for (int i = 0; i < 500 && sent[lane] < COUNT; i++) {
                if (!send_numbered(&nodes[0], 2, (enum peer_lane)lane, sent[lane])) {
                    break;
                }
                sent[lane]++;
            }
        }
        uv_run(&loop, UV_RUN_NOWAIT);
    }
    RUN_UNTIL(nodes[1].n_messages == (uint64_t)PEER_LANES * COUNT);
    assert_false(nodes[1].out_of_order);
}

static void test_largest_attachment(void **state) {
    (void)state;
    open_pair();
    struct payload *large = random_payload(LIMIT_ENTRY_SIZE, 3);
    assert_true(send_payload(&nodes[0], 2, PEER_LANE_NORMAL, 'L', large));
    RUN_UNTIL(nodes[1].n_messages == 1);
    assert_true(slice_equal(payload_slice(nodes[1].kept), payload_slice(large)));
    payload_unref(large);
}

/* ---- misbehaviour ---- */

static void test_peer_that_does_not_read(void **state) {
    (void)state;
    int listener = raw_listen(ports[1]);
    node_open(0, 2, usual);
    int fd = raw_welcome(listener);
    close(listener);
    RUN_UNTIL(peers_is_up(nodes[0].peers, 2));
    struct payload *payload = random_payload(100000, 4);
    unsigned accepted = 0;
    unsigned refused = 0;
    while (refused < 200) {
        if (send_payload(&nodes[0], 2, PEER_LANE_BULK, 'B', payload)) {
            accepted++;
            refused = 0;
        } else {
            refused++;
        }
        assert_true(peers_queued_bytes(nodes[0].peers, 2) <= QUEUE_BYTES);
        uv_run(&loop, UV_RUN_NOWAIT);
    }
    assert_true(accepted >= QUEUE_BYTES / 110000);
    /* Heartbeats still have their reserve, with an end. */
    unsigned urgent = 0;
    while (send_text(&nodes[0], 2, PEER_LANE_URGENT, 'u', "heartbeat")) {
        urgent++;
    }
    assert_true(urgent > 1000);
    assert_true(peers_queued_bytes(nodes[0].peers, 2) <= QUEUE_BYTES + PEER_URGENT_RESERVE);
    assert_int_equal(atomic_load(&payload->refs) - 1, peers_bulk_queued(nodes[0].peers, 2, 3));

    /* The link breaks: everything queued is dropped, and a good node takes its place. */
    close(fd);
    RUN_UNTIL(!peers_is_up(nodes[0].peers, 2));
    RUN_UNTIL(atomic_load(&payload->refs) == 1);
    node_open(1, 1, usual);
    RUN_UNTIL(peers_is_up(nodes[0].peers, 2));
    assert_true(send_payload(&nodes[0], 2, PEER_LANE_BULK, 'B', payload));
    RUN_UNTIL(nodes[1].n_messages == 1);
    payload_unref(payload);
}

static void test_garbage_instead_of_handshake(void **state) {
    (void)state;
    node_open(0, 2, usual);
    int fd = raw_connect(ports[0]);
    raw_write(fd, "GET / HTTP/1.1\r\n\r\n", 18);
    RUN_UNTIL(raw_is_closed(fd));
    RUN_UNTIL(strstr(nodes[0].logged, "not a handshake") != NULL);
    close(fd);
    unsigned logged = nodes[0].n_logged;
    for (int i = 0; i < 50; i++) {
        fd = raw_connect(ports[0]);
        raw_write(fd, "garbage!", 8);
        RUN_UNTIL(raw_is_closed(fd));
        close(fd);
    }
    assert_true(nodes[0].n_logged < logged + 25); /* limited to two lines per second */
}

static void test_damaged_bytes_at_any_point(void **state) {
    (void)state;
    node_open(0, 2, usual);
    struct prng prng;
    prng_seed(&prng, 7);
    uint32_t epoch = 0;
    for (int i = 0; i < 60; i++) {
        uint8_t bytes[WIRE_HANDSHAKE_MAX + 512];
        struct wire_handshake hello = good_hello(1ull << 32 | ++epoch);
        size_t hello_size = wire_handshake_encode(&hello, bytes);
        size_t size = hello_size + raw_message(bytes + hello_size, 'g', "good");
        size += raw_message(bytes + size, 'X', "damaged");
        size_t at = prng_below(&prng, size);
        bytes[at] ^= (uint8_t)(1 + prng_below(&prng, 255));
        int fd = raw_connect(ports[0]);
        raw_write(fd, bytes, size);
        shutdown(fd, SHUT_WR);
        for (;;) {
            uint8_t answer[256];
            RUN_UNTIL(raw_readable(fd));
            if (recv(fd, answer, sizeof answer, 0) <= 0) {
                break;
            }
        }
        close(fd);
    }
    /* Whatever arrived is one of the two messages, and the node still works. */
    assert_int_equal(strspn(nodes[0].events, "udgX"), nodes[0].n_events);
    int fd = raw_link(1ull << 32 | 1000);
    uint8_t frame[256];
    raw_write(fd, frame, raw_message(frame, 'z', "fine"));
    RUN_UNTIL(nodes[0].events[nodes[0].n_events - 1] == 'z');
    close(fd);
}

static void test_bytes_on_a_link_that_only_sends(void **state) {
    (void)state;
    int listener = raw_listen(ports[1]);
    node_open(0, 2, usual);
    int fd = raw_welcome(listener);
    RUN_UNTIL(peers_is_up(nodes[0].peers, 2));
    raw_write(fd, "?", 1);
    RUN_UNTIL(!peers_is_up(nodes[0].peers, 2));
    RUN_UNTIL(strstr(nodes[0].logged, "only sends") != NULL);
    close(fd);
    close(listener);
}

static void test_strangers_are_bounded(void **state) {
    (void)state;
    enum { STRANGERS = 80, ALLOWED = 64 };
    node_open(0, 2, usual);
    int fds[STRANGERS];
    for (int i = 0; i < STRANGERS; i++) {
        fds[i] = raw_connect(ports[0]);
        run_ms(2);
    }
    for (int i = 0; i < STRANGERS - ALLOWED; i++) {
        RUN_UNTIL(raw_is_closed(fds[i]));
    }
    assert_false(raw_readable(fds[STRANGERS - ALLOWED]));
    int fd = raw_link(1ull << 32 | 1);
    close(fd);
    for (int i = 0; i < STRANGERS; i++) {
        close(fds[i]);
    }
}

static void test_silent_handshakes_time_out(void **state) {
    (void)state;
    int listener = raw_listen(ports[1]);
    node_open(0, 2, usual);
    int silent_dialer = raw_connect(ports[0]);
    int silent_acceptor = raw_accept(listener);
    struct wire_handshake hello;
    assert_true(raw_read_handshake(silent_acceptor, &hello));
    RUN_UNTIL(raw_is_closed(silent_dialer) && raw_is_closed(silent_acceptor));
    close(silent_dialer);
    close(silent_acceptor);
    int fd = raw_welcome(listener); /* it dialed again */
    RUN_UNTIL(peers_is_up(nodes[0].peers, 2));
    close(fd);
    close(listener);
}

/* ---- close ---- */

static void test_close_with_things_in_flight(void **state) {
    (void)state;
    open_pair();
    struct payload *payload = random_payload(4 << 20, 5);
    for (unsigned lane = 0; lane < PEER_LANES; lane++) {
        assert_true(send_payload(&nodes[0], 2, (enum peer_lane)lane, 'c', payload));
    }
    for (int i = 0; i < 2; i++) {
        uv_run(&loop, UV_RUN_NOWAIT);
    }
    node_close(&nodes[0]);
    RUN_UNTIL(!nodes[0].open);
    assert_int_equal(atomic_load(&payload->refs), 1);
    node_close(&nodes[1]); /* holds half-received messages */
    RUN_UNTIL(!nodes[1].open);
    payload_unref(payload);
}

static void test_close_from_within_a_callback(void **state) {
    (void)state;
    open_pair();
    nodes[1].close_on_message = true;
    for (int i = 0; i < 10; i++) {
        assert_true(send_text(&nodes[0], 2, PEER_LANE_NORMAL, 'a', "close yourself"));
    }
    RUN_UNTIL(!nodes[1].open);
    assert_int_equal(nodes[1].n_messages, 1); /* nothing is delivered after the close */
    RUN_UNTIL(!peers_is_up(nodes[0].peers, 2));
}

static void test_close_while_dialing(void **state) {
    (void)state;
    struct setup named = usual;
    named.host = "localhost";
    node_open(0, 14, named);
    node_close(&nodes[0]); /* name look-ups are under way */
    RUN_UNTIL(!nodes[0].open);
}

/* ---- TLS ---- */

static struct tls_authority authority;
static struct tls_keys *all_keys[NODES_MAX];

/* Keys with which a node says that it is `id`. */
static struct tls_keys *make_keys(uint64_t id) {
    struct tls_pair pair;
    struct tls_keys *made;
    struct error error;
    char uri[TLS_URI_SIZE], names[TLS_URI_SIZE + 4];
    tls_node_uri(uri, "test", id);
    snprintf(names, sizeof names, "URI:%s", uri);
    tls_pair_make(&pair, &authority, &(struct tls_wish){.names = names});
    struct tls_settings settings = tls_settings_of(&pair, &authority, TLS_VERIFY_REQUIRED);
    settings.peer_uri = uri;
    if (tls_keys_load(&made, &settings, &error) != ERROR_NONE) {
        fail_msg("%s", error.message);
    }
    tls_pair_free(&pair);
    return made;
}

static int make_all_keys(void **state) {
    (void)state;
    tls_authority_make(&authority, "nodes");
    for (unsigned i = 0; i < NODES_MAX; i++) {
        all_keys[i] = make_keys(i + 1);
    }
    return 0;
}

static int free_all_keys(void **state) {
    (void)state;
    for (unsigned i = 0; i < NODES_MAX; i++) {
        tls_keys_free(all_keys[i]);
    }
    tls_authority_free(&authority);
    return 0;
}

static int setup_tls_test(void **state) {
    memcpy(keys, all_keys, sizeof keys);
    tls_is_optional = false;
    return setup_test(state);
}

static int teardown_tls_test(void **state) {
    int result = teardown_test(state);
    memset(keys, 0, sizeof keys);
    return result;
}

static void test_answering_node_with_a_wrong_certificate(void **state) {
    (void)state;
    keys[1] = all_keys[2];
    node_open(0, 2, usual);
    node_open(1, 0, usual);
    RUN_UNTIL(strstr(nodes[0].logged, "the certificate is not that of node 2") != NULL);
    assert_int_equal(nodes[0].n_events, 0);
    assert_int_equal(nodes[1].n_events, 0);
}

static void test_dialing_node_with_a_wrong_certificate(void **state) {
    (void)state;
    keys[0] = all_keys[2];
    node_open(1, 1, usual);
    node_open(0, 2, usual);
    RUN_UNTIL(strstr(nodes[0].refused, "the certificate is not that of node 1") != NULL);
    assert_false(peers_is_up(nodes[0].peers, 2));
    assert_int_equal(nodes[1].in_epoch, 0);
}

static void test_plaintext_where_tls_is_required(void **state) {
    (void)state;
    keys[0] = NULL;
    node_open(0, 2, usual);
    node_open(1, 1, usual);
    RUN_UNTIL(strstr(nodes[0].logged, "it uses TLS") != NULL &&
              strstr(nodes[1].logged, "it does not use TLS") != NULL);
    run_ms(50);
    assert_int_equal(nodes[0].n_events, 0);
    assert_int_equal(nodes[1].n_events, 0);
}

static void test_plaintext_where_tls_is_optional(void **state) {
    (void)state;
    keys[0] = NULL;
    tls_is_optional = true;
    open_pair();
    assert_true(send_text(&nodes[0], 2, PEER_LANE_URGENT, 'a', "hello"));
    assert_true(send_text(&nodes[1], 1, PEER_LANE_URGENT, 'b', "hello"));
    RUN_UNTIL(nodes[0].n_messages == 1 && nodes[1].n_messages == 1);
}

static void test_new_keys(void **state) {
    (void)state;
    open_pair();
    unsigned before = nodes[0].n_events;
    struct tls_keys *renewed = make_keys(1);
    peers_set_tls(nodes[0].peers, renewed);
    assert_true(send_text(&nodes[0], 2, PEER_LANE_URGENT, 'a', "over the old link"));
    RUN_UNTIL(nodes[1].n_messages == 1);
    assert_int_equal(nodes[0].n_events, before);
    node_close(&nodes[1]);
    RUN_UNTIL(!nodes[1].open);
    struct setup again = usual;
    again.boot = 2;
    memset(&nodes[1], 0, sizeof nodes[1]);
    node_open(1, 1, again);
    RUN_UNTIL(peers_is_up(nodes[0].peers, 2) && peers_is_up(nodes[1].peers, 1));
    node_close(&nodes[0]);
    RUN_UNTIL(!nodes[0].open);
    tls_keys_free(renewed);
}

/* ---- silence ---- */

/* Takes the loopback of this thread's network namespace up or down. */
static void set_loopback(bool up) {
    struct ifreq request = {.ifr_name = "lo"};
    request.ifr_flags = up ? IFF_UP : 0;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &request), 0);
    close(fd);
}

static bool has_seen(const struct node *node, char event) {
    return memchr(node->events, event, node->n_events) != NULL;
}

static int namespace_before = -1;

static int setup_network(void **state) {
    namespace_before = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (namespace_before >= 0 && unshare(CLONE_NEWNET) != 0) {
        close(namespace_before);
        namespace_before = -1;
    }
    return setup_test(state);
}

static int teardown_network(void **state) {
    if (namespace_before >= 0) {
        set_loopback(true);
    }
    int status = teardown_test(state);
    if (namespace_before >= 0) {
        assert_int_equal(setns(namespace_before, CLONE_NEWNET), 0);
        close(namespace_before);
    }
    return status;
}

/* Nobody says goodbye: what is sent goes nowhere, and nothing is sent anyway. Both ends of both
 * links notice it by themselves. */
static void test_idle_links_that_are_dead_are_noticed(void **state) {
    (void)state;
    if (namespace_before < 0) {
        print_message("a network of its own needs root\n");
        skip();
    }
    set_loopback(true);
    open_pair();
    set_loopback(false);
    for (unsigned i = 0; i < 2; i++) {
        RUN_UNTIL(has_seen(&nodes[i], 'D'));
        RUN_UNTIL(has_seen(&nodes[i], 'd'));
    }
    set_loopback(true);
    RUN_UNTIL(peers_is_up(nodes[0].peers, 2) && peers_is_up(nodes[1].peers, 1));
}

#define TEST_TLS(name) cmocka_unit_test_setup_teardown(name, setup_tls_test, teardown_tls_test)
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_test, teardown_test)

int main(void) {
    signal(SIGPIPE, SIG_IGN); /* as the server does */
    const struct CMUnitTest tests[] = {
        TEST(test_pair_exchanges_messages),
        TEST(test_host_names),
        TEST(test_name_that_does_not_resolve),
        TEST(test_busy_port),
        TEST(test_gone_when_nobody_listens),
        TEST(test_wrong_cluster_is_refused),
        TEST(test_wrong_incarnation_is_refused),
        TEST(test_wrong_node_is_refused),
        TEST(test_unknown_node_is_refused),
        TEST(test_node_that_dials_itself_is_refused),
        TEST(test_other_version_is_refused_in_words),
        TEST(test_wrong_welcome_is_given_up),
        TEST(test_restart_raises_epoch),
        TEST(test_newer_link_replaces_older),
        TEST(test_urgent_overtakes_bulk),
        TEST(test_many_small_messages_in_order),
        TEST(test_largest_attachment),
        TEST(test_peer_that_does_not_read),
        TEST(test_garbage_instead_of_handshake),
        TEST(test_damaged_bytes_at_any_point),
        TEST(test_bytes_on_a_link_that_only_sends),
        TEST(test_strangers_are_bounded),
        TEST(test_silent_handshakes_time_out),
        cmocka_unit_test_setup_teardown(test_idle_links_that_are_dead_are_noticed, setup_network,
                                        teardown_network),
        TEST(test_close_with_things_in_flight),
        TEST(test_close_from_within_a_callback),
        TEST(test_close_while_dialing),
    };
    /* What goes over links between nodes goes over TLS as well. */
    const struct CMUnitTest tls_tests[] = {
        TEST_TLS(test_pair_exchanges_messages),
        TEST_TLS(test_host_names),
        TEST_TLS(test_wrong_incarnation_is_refused),
        TEST_TLS(test_restart_raises_epoch),
        TEST_TLS(test_urgent_overtakes_bulk),
        TEST_TLS(test_many_small_messages_in_order),
        TEST_TLS(test_largest_attachment),
        TEST_TLS(test_close_with_things_in_flight),
        TEST_TLS(test_close_from_within_a_callback),
        TEST_TLS(test_close_while_dialing),
        TEST_TLS(test_answering_node_with_a_wrong_certificate),
        TEST_TLS(test_dialing_node_with_a_wrong_certificate),
        TEST_TLS(test_plaintext_where_tls_is_required),
        TEST_TLS(test_plaintext_where_tls_is_optional),
        TEST_TLS(test_new_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) +
           cmocka_run_group_tests(tls_tests, make_all_keys, free_all_keys);
}
