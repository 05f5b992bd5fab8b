#include "tests/sim/messages.h"

#include "raft/log.h"
#include "raft/messages.h"
#include "tests/sim/cluster.h"
#include "tests/sim/nemesis.h"

bool __real_peers_send(struct peers *peers, uint64_t to, enum peer_lane lane,
                       const struct peer_message *message);

static bool is_consensus(const struct peer_message *message) {
    return message->type >= PEER_MESSAGE_APPEND && message->type <= PEER_MESSAGE_RAFT_LAST;
}

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

void __real_log_reset(struct log *log, unsigned group, uint64_t index, uint64_t term,
                      struct log_request *request);
void __wrap_log_reset(struct log *log, unsigned group, uint64_t index, uint64_t term,
                      struct log_request *request);

void __wrap_log_reset(struct log *log, unsigned group, uint64_t index, uint64_t term,
                      struct log_request *request) {
    struct node *node = process_current() != NULL ? process_current()->node : NULL;
    __real_log_reset(log, group, index, term, request);
    if (node != NULL) {
        bool at_start = request == NULL;
        cover(at_start ? "logs that were behind their database at a start"
                       : "logs begun anew behind a snapshot");
        nemesis_on_reset(node, at_start);
    }
}

bool __wrap_peers_send(struct peers *peers, uint64_t to, enum peer_lane lane,
                       const struct peer_message *message) {
    struct node *node = process_current() != NULL ? process_current()->node : NULL;
    bool sent = __real_peers_send(peers, to, lane, message);
    if (!sent || node == NULL || !is_consensus(message) || to > SIM_NODES) {
        return sent;
    }
    note_promise(node, to, message);
    return true;
}
