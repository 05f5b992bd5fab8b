#include "tests/sim/messages.h"

#include <string.h>

#include "base/crc32c.h"
#include "raft/messages.h"
#include "tests/sim/cluster.h"
#include "tests/sim/nemesis.h"

bool __real_peers_send(struct peers *peers, uint64_t to, enum peer_lane lane,
                       const struct peer_message *message);
bool __real_group_receive(struct group *group, uint64_t now_ms, uint64_t from,
                          struct peer_message *message);

enum { UNDER_WAY = 256 /* messages of one node to another whose time of sending is remembered */ };

/* Two spans follow each other, so what counts is between one and two spans old. */
#define SPAN (8 * SIM_S)
/* Of a message that was sent over a link which is down by now, or long ago. */
#define LATEST (30 * SIM_S)

struct sent {
    uint32_t hash; /* 0: none */
    uint64_t at;
};

static struct sent under_way[SIM_NODES + 1][SIM_NODES + 1][UNDER_WAY];
static unsigned next_sent[SIM_NODES + 1][SIM_NODES + 1];
static uint64_t span_began;
static uint64_t worst;
static uint64_t worst_before;

static bool is_consensus(const struct peer_message *message) {
    return message->type >= PEER_MESSAGE_APPEND && message->type <= PEER_MESSAGE_RAFT_LAST;
}

static uint32_t hash_of(const struct peer_message *message) {
    uint8_t head[3] = {message->type, (uint8_t)message->group, (uint8_t)(message->group >> 8)};
    return crc32c(crc32c(0, head, sizeof head), message->header.data, message->header.size) | 1;
}

/* ---- how late ---- */

static void turn_spans(void) {
    if (kernel_now() - span_began >= SPAN) {
        worst_before = kernel_now() - span_began >= 2 * SPAN ? 0 : worst;
        worst = 0;
        span_began = kernel_now();
    }
}

uint64_t messages_worst_delay(void) {
    turn_spans();
    return worst > worst_before ? worst : worst_before;
}

static void note_sent(unsigned from, unsigned to, const struct peer_message *message) {
    unsigned *next = &next_sent[from][to];
    under_way[from][to][*next] = (struct sent){.hash = hash_of(message), .at = kernel_now()};
    *next = (*next + 1) % UNDER_WAY;
}

/* The oldest one that is equal: those over a link that broke are forgotten. */
static void note_read(unsigned from, unsigned to, const struct peer_message *message) {
    uint32_t hash = hash_of(message);
    uint64_t delay = LATEST;
    for (unsigned i = 0; i < UNDER_WAY; i++) {
        struct sent *sent = &under_way[from][to][(next_sent[from][to] + i) % UNDER_WAY];
        if (sent->hash == hash) {
            delay = kernel_now() - sent->at;
            sent->hash = 0;
            break;
        }
    }
    turn_spans();
    worst = delay > worst ? delay : worst;
}

/* ---- promises ---- */

/* What a node tells must be on its disk: whatever happens to it from now on. */
static void note_promise(struct node *node, uint64_t to, const struct peer_message *message) {
    struct raft_wire wire;
    if (!raft_wire_decode(message->type, message->header, &wire)) {
        sim_fail("MESSAGE node %u sends what nobody can read", node->id);
    }
    bool votes = false;
    uint64_t voted_for = 0;
    if (wire.kind == PEER_MESSAGE_VOTE) {
        if (wire.vote.pre_vote) {
            return; /* asks about a term that may never be */
        }
        votes = true;
        voted_for = node->id;
    } else if (wire.kind == PEER_MESSAGE_VOTE_RESULT) {
        if (wire.vote_result.pre_vote) {
            return;
        }
        votes = wire.vote_result.granted;
        voted_for = votes ? to : 0;
    }
    invariants_note_promise(node, message->group, wire.term, voted_for);
    if (votes || wire.kind == PEER_MESSAGE_APPEND_RESULT) {
        nemesis_on_promise(node, votes);
    }
}

bool __wrap_peers_send(struct peers *peers, uint64_t to, enum peer_lane lane,
                       const struct peer_message *message) {
    struct node *node = process_current() != NULL ? process_current()->node : NULL;
    bool sent = __real_peers_send(peers, to, lane, message);
    if (node == NULL || !is_consensus(message) || to > SIM_NODES) {
        return sent;
    }
    if (!sent) {
        memset(under_way[node->id][to], 0, sizeof under_way[node->id][to]);
        return false;
    }
    note_sent(node->id, (unsigned)to, message);
    note_promise(node, to, message);
    return true;
}

bool __wrap_group_receive(struct group *group, uint64_t now_ms, uint64_t from,
                          struct peer_message *message) {
    struct node *node = process_current()->node;
    if (is_consensus(message) && from <= SIM_NODES) {
        note_read((unsigned)from, node->id, message);
    }
    return __real_group_receive(group, now_ms, from, message);
}
