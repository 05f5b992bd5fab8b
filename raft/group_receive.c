/* From peer messages to libraft's events. Everything that libraft takes for granted about a message
 * is checked here, since its own assertions are compiled out. */
#include <string.h>

#include "base/assert.h"
#include "raft/group_internal.h"

/* Message versions that libraft 0.22 itself would send. */
enum { APPEND_VERSION = 0, APPEND_RESULT_VERSION = 1, VOTE_VERSION = 2, VOTE_RESULT_VERSION = 2 };

static void drop_attachments(struct peer_message *message) {
    for (unsigned i = 0; i < message->n_attachments; i++) {
        payload_unref(message->attachments[i]);
    }
}

static void deliver(struct group *group, struct raft_message *message) {
    struct raft_event event = {.type = RAFT_RECEIVE};
    event.receive.message = message;
    group_step(group, &event);
}

/* A configuration stands first in its message (see group_send.c) and decodes. */
static bool entries_are_sound(const struct raft_wire *wire, struct payload *const *payloads) {
    for (unsigned i = 0; i < wire->append.n; i++) {
        if (wire->append.entries[i].kind == LOG_ENTRY_CHANGE &&
            (i > 0 || !group_config_is_valid(payload_slice(payloads[i])))) {
            return false;
        }
    }
    return true;
}

/* A leader of an older term learns the newer one. libraft would answer with an index that it never
 * set. While the newer term is not durable the answer can wait for the leader's next message. */
static void answer_old_leader(struct group *group, uint64_t to, uint64_t prev_index) {
    struct raft_wire wire = {.kind = PEER_MESSAGE_APPEND_RESULT};
    wire.append_result.rejected = prev_index;
    if (group->votes_pending == 0) {
        group_send_wire(group, to, &wire);
    }
}

/* An index up to which this log surely equals that of every leader to come. */
static void anchor_at_committed(const struct group *group, uint64_t *index, uint64_t *term) {
    enum log_entry_kind kind;
    uint64_t commit = raft_commit_index(&group->raft);
    uint64_t found = 0;
    if (!group->installing && commit > group->raft.trail.snapshot.index &&
        log_lookup(group->options.log, group->options.number, commit, &found, &kind)) {
        *index = commit;
        *term = found;
        return;
    }
    *index = group->raft.trail.snapshot.index;
    *term = group->raft.trail.snapshot.term;
}

/* libraft knows the term of the last entry that was cut off only when the snapshot ends there. */
static bool is_cut_off(const struct group *group, uint64_t index) {
    uint64_t offset = group->raft.trail.offset;
    return offset > 0 && index <= offset && index != group->raft.trail.snapshot.index;
}

/* libraft sets its commit index to what the message covers even when that is less than it knows,
 * and while the state machine is being replaced. */
static uint64_t usable_commit(const struct group *group, uint64_t leader_commit, uint64_t covered) {
    uint64_t commit = raft_commit_index(&group->raft);
    if (group->installing || covered < commit) {
        return leader_commit < commit ? leader_commit : commit;
    }
    return leader_commit;
}

/* The leader says when, by this node's own clock, the newest answer was sent that it had received:
 * what it says itself is younger than that, however long it was on its way. Not its arrival, which
 * a congested link or a pause of this process may have put off. 0: nothing of this boot. */
static uint64_t younger_than_ms(const struct group *group, uint64_t heard_ms) {
    bool is_own = heard_ms >= group->started_ms && heard_ms <= group->now_ms;
    return is_own ? heard_ms : 0;
}

static void note_freshness(struct group *group, uint64_t commit, uint64_t since_ms) {
    bool is_older = group->contact_noted_term == group->contact_term &&
                    since_ms < group->contact.at_ms; /* lanes overtake each other */
    if (since_ms == 0 || is_older) {
        return;
    }
    group->contact = (struct group_contact){.at_ms = since_ms, .commit = commit};
    group->contact_noted_term = group->contact_term;
}

static void note_leader_contact(struct group *group, uint64_t from, const struct raft_wire *wire) {
    uint64_t time_ms = wire->append.time_ms;
    if (group->raft.state != RAFT_FOLLOWER || group_leader(group) != from) {
        return;
    }
    group->contact_ms = group->now_ms;
    uint64_t since_ms = younger_than_ms(group, wire->append.heard_ms);
    note_freshness(group, wire->append.commit, since_ms);
    if (time_ms > 0) {
        group->due.clock = true;
        group->due.clock_from = from;
        group->due.clock_value =
            (struct group_clock){.time_ms = time_ms,
                                 .age_max_ms = since_ms > 0 ? group->now_ms - since_ms : UINT64_MAX,
                                 .anchored = true};
    }
    group_set_fast_election(group, false);
}

static bool receive_append(struct group *group, struct raft_message *message,
                           const struct raft_wire *wire, struct peer_message *from) {
    struct raft_entry entries[RAFT_APPEND_ENTRIES_MAX];
    struct raft_append_entries *args = &message->append_entries;
    unsigned n = wire->append.n;
    uint64_t prev_index = wire->append.prev_index;
    uint64_t prev_term = wire->append.prev_term;
    if (from->n_attachments != n || !entries_are_sound(wire, from->attachments)) {
        drop_attachments(from);
        return false;
    }
    if (wire->term == raft_current_term(&group->raft) && group->raft.state == RAFT_LEADER) {
        assert_fatal("shard %u: node %llu claims to lead term %llu, which this node leads",
                     group->options.number, (unsigned long long)message->server_id,
                     (unsigned long long)wire->term);
    }
    if (wire->term < raft_current_term(&group->raft)) {
        answer_old_leader(group, message->server_id, prev_index);
        drop_attachments(from);
        return true;
    }
    /* Without room in the log the entries are as good as lost on the way: the leader goes on with
     * the others and sends them again. And what was cut off cannot be compared any more. In both
     * cases answer as if a heartbeat had come that is anchored at something certain. */
    bool full = n > 0 && !log_has_space(group->options.log);
    if (full || is_cut_off(group, prev_index)) {
        anchor_at_committed(group, &prev_index, &prev_term);
        n = 0;
    }
    void *batch = n > 0 ? raft_malloc(1) : NULL;
    for (unsigned i = 0; i < n; i++) {
        entries[i].term = wire->append.entries[i].term;
        entries[i].type = (enum raft_entry_type)wire->append.entries[i].kind;
        entries[i].buf.base = from->attachments[i]->data;
        entries[i].buf.len = from->attachments[i]->size;
        entries[i].batch = batch;
    }
    message->type = RAFT_APPEND_ENTRIES;
    args->version = APPEND_VERSION;
    args->term = wire->term;
    args->prev_log_index = prev_index;
    args->prev_log_term = prev_term;
    args->leader_commit = usable_commit(group, wire->append.commit, prev_index + n);
    args->entries = entries;
    args->n_entries = n;
    group->step_entries = entries;
    group->step_payloads = from->attachments;
    group->contact_term = wire->term;
    group->leader_sent_term = wire->term;
    group->leader_sent_ms = wire->append.sent_ms;
    deliver(group, message);
    group->step_entries = NULL;
    group->step_payloads = NULL;
    note_leader_contact(group, message->server_id, wire);
    drop_attachments(from);
    return true;
}

/* Voters but this one that hold the log up to `index`, the leader among them. */
static unsigned holders_besides(const struct group *group, uint64_t node, uint64_t index,
                                unsigned *n_voters) {
    uint64_t voters[LIMIT_NODES];
    unsigned n = 0;
    *n_voters = group_voters(group, voters);
    for (unsigned i = 0; i < *n_voters; i++) {
        bool is_self = voters[i] == group->options.self;
        uint64_t held = is_self ? group_last(group) : group_match(group, voters[i]);
        n += voters[i] != node && held >= index ? 1 : 0;
    }
    return n;
}

/* Over a new link, a follower's log ends before what it had acknowledged over the old one: a disk
 * that lied, or damage to the very end of its log, which recovery cannot tell from a torn write.
 * libraft does not go back behind an acknowledged index, so the follower would wait for ever. A new
 * leader begins anew with everybody. It must be one that holds these entries: so a majority has to,
 * without the follower. */
static bool has_lost_entries(const struct group *group, const struct group_peer *peer,
                             const struct raft_wire *wire) {
    if (peer == NULL || group->raft.state != RAFT_LEADER ||
        wire->term != raft_current_term(&group->raft) || wire->append_result.rejected == 0 ||
        wire->append_result.last_index >= peer->promised) {
        return false;
    }
    unsigned n_voters;
    unsigned n = holders_besides(group, peer->id, peer->promised, &n_voters);
    return n > n_voters / 2;
}

/* As when somebody answers from a newer term. */
static void step_down(struct group *group, struct raft_message *message) {
    message->type = RAFT_APPEND_ENTRIES_RESULT;
    message->append_entries_result = (struct raft_append_entries_result){
        .version = APPEND_RESULT_VERSION, .term = raft_current_term(&group->raft) + 1};
    deliver(group, message);
}

static void receive_append_result(struct group *group, struct raft_message *message,
                                  const struct raft_wire *wire) {
    struct group_peer *peer = group_peer_of(group, message->server_id);
    if (peer != NULL) {
        peer->disk_low = (wire->sender_flags & RAFT_SENDER_DISK_LOW) != 0;
        peer->newcomer = (wire->sender_flags & RAFT_SENDER_NEWCOMER) != 0;
    }
    if (has_lost_entries(group, peer, wire)) {
        step_down(group, message);
        return;
    }
    uint64_t match_before = group_match(group, message->server_id);
    bool leads = group->raft.state == RAFT_LEADER;
    bool transferring = leads && group->raft.leader_state.transferring &&
                        group->raft.leader_state.transferee == message->server_id;
    message->type = RAFT_APPEND_ENTRIES_RESULT;
    message->append_entries_result.version = APPEND_RESULT_VERSION;
    message->append_entries_result.term = wire->term;
    /* The follower holds this leader's log up to `match` for certain. An older answer that says
     * less would bring libraft to go on from an index behind that, and to wait there for ever. */
    uint64_t rejected = wire->append_result.rejected;
    uint64_t last_index = wire->append_result.last_index;
    if (rejected > 0) {
        rejected = rejected <= match_before ? 0 : rejected;
        last_index = last_index < match_before ? match_before : last_index;
    }
    message->append_entries_result.rejected = rejected;
    message->append_entries_result.last_log_index = last_index;
    message->append_entries_result.features = 0;
    message->append_entries_result.capacity = 0;
    if (peer != NULL && rejected > 0) {
        peer->handed_to = 0; /* unless libraft hands over something in this step */
    }
    deliver(group, message);
    if (peer == NULL || group->raft.state != RAFT_LEADER ||
        wire->term != raft_current_term(&group->raft)) {
        return;
    }
    uint64_t match = group_match(group, message->server_id);
    peer->heard_ms = group->now_ms;
    peer->heard_sent_ms = wire->append_result.sent_ms;
    if (wire->append_result.heard_ms > peer->followed_ms) {
        peer->followed_ms = wire->append_result.heard_ms;
    }
    if (rejected > 0) {
        peer->entries_sent_ms = 0;
    } else if (match > match_before) {
        peer->entries_sent_ms = group->now_ms;
    }
    if (transferring && match > match_before && match == group_last(group)) {
        group_send_timeout_now(group, message->server_id);
    }
}

static bool votes(const struct group *group) {
    uint64_t voters[LIMIT_NODES];
    unsigned n = group_voters(group, voters);
    for (unsigned i = 0; i < n; i++) {
        if (voters[i] == group->options.self) {
            return true;
        }
    }
    return false;
}

/* Who is asked for its vote gives it whatever its own configuration says (dissertation 4.2.2): the
 * entry that made it a voter may have reached nobody but the candidate, which then cannot lead
 * without it. libraft looks for this node in the configuration, for nothing else, when a follower
 * is asked; and it takes its leader for alive for ever where this node does not vote. A node that
 * knows no configuration at all has nothing to vote with. */
static void deliver_to_voter(struct group *group, struct raft_message *message) {
    struct raft_configuration *config = &group->raft.configuration;
    if (votes(group) || config->n == 0 || group->raft.state != RAFT_FOLLOWER) {
        deliver(group, message);
        return;
    }
    if (group->now_ms >= group->contact_ms + group->options.election_ms) {
        group->raft.follower_state.current_leader.id = 0;
    }
    struct raft_configuration own = *config;
    char address[] = "";
    struct raft_server self = {.id = group->options.self, .address = address, .role = RAFT_VOTER};
    *config = (struct raft_configuration){.servers = &self, .n = 1};
    deliver(group, message);
    ASSERT(config->servers == &self);
    *config = own;
}

static void receive_vote(struct group *group, struct raft_message *message,
                         const struct raft_wire *wire) {
    message->type = RAFT_REQUEST_VOTE;
    message->request_vote.version = VOTE_VERSION;
    message->request_vote.term = wire->term;
    message->request_vote.candidate_id = wire->vote.candidate;
    message->request_vote.last_log_index = wire->vote.last_index;
    message->request_vote.last_log_term = wire->vote.last_term;
    message->request_vote.disrupt_leader = wire->vote.disrupt;
    message->request_vote.pre_vote = wire->vote.pre_vote;
    deliver_to_voter(group, message);
}

static void receive_vote_result(struct group *group, struct raft_message *message,
                                const struct raft_wire *wire) {
    if (group->raft.state != RAFT_CANDIDATE) {
        return; /* libraft would look at a candidate's state that is not there */
    }
    message->type = RAFT_REQUEST_VOTE_RESULT;
    message->request_vote_result.version = VOTE_RESULT_VERSION;
    message->request_vote_result.term = wire->term;
    message->request_vote_result.vote_granted = wire->vote_result.granted;
    message->request_vote_result.pre_vote = wire->vote_result.pre_vote;
    message->request_vote_result.features = 0;
    message->request_vote_result.capacity = 0;
    deliver(group, message);
}

/* Is the sender still the leader? Yes, as far as this voter knows, when its term is the same. A
 * term that is not durable yet does not count: it could be forgotten. */
static void receive_probe(struct group *group, uint64_t from, const struct raft_wire *wire) {
    struct group_port *port = &group->options.port;
    struct group_clock clock;
    if (wire->term != raft_current_term(&group->raft) || group->votes_pending > 0) {
        return;
    }
    port->clock(port->data, group->options.number, &clock);
    struct raft_wire answer = {.kind = PEER_MESSAGE_PROBE_ACK};
    answer.probe_ack.round = wire->probe.round;
    answer.probe_ack.time_ms = clock.time_ms;
    answer.probe_ack.wall_ms = clock.wall_ms;
    answer.probe_ack.anchored = clock.anchored;
    group_send_wire(group, from, &answer);
}

static void receive_probe_ack(struct group *group, uint64_t from, const struct raft_wire *wire) {
    uint64_t voters[LIMIT_NODES];
    if (group->raft.state != RAFT_LEADER || wire->term != raft_current_term(&group->raft)) {
        return;
    }
    unsigned n = group_voters(group, voters);
    if (read_index_ack(&group->reads, from, wire->probe_ack.round, voters, n,
                       group->options.self)) {
        group->due.reads = true;
    }
    group->due.clock = true;
    group->due.clock_from = from;
    group->due.clock_value.time_ms = wire->probe_ack.time_ms;
    group->due.clock_value.wall_ms = wire->probe_ack.wall_ms;
    group->due.clock_value.anchored = wire->probe_ack.anchored;
}

static bool is_member(const struct group *group, uint64_t id) {
    const struct raft_configuration *config = &group->raft.configuration;
    for (unsigned i = 0; i < config->n; i++) {
        if (config->servers[i].id == id) {
            return true;
        }
    }
    return config->n == 0;
}

static bool dispatch(struct group *group, uint64_t from, const struct raft_wire *wire,
                     struct peer_message *message) {
    struct raft_message raft_message;
    memset(&raft_message, 0, sizeof raft_message);
    raft_message.server_id = from;
    raft_message.server_address = group_address_of(group, from);
    if (wire->kind == PEER_MESSAGE_APPEND) {
        return receive_append(group, &raft_message, wire, message);
    }
    if (message->n_attachments > 0) {
        drop_attachments(message);
        return false;
    }
    switch ((enum raft_message_kind)wire->kind) {
    case PEER_MESSAGE_APPEND_RESULT:
        receive_append_result(group, &raft_message, wire);
        return true;
    case PEER_MESSAGE_VOTE:
        if (wire->vote.candidate != from) {
            return false;
        }
        receive_vote(group, &raft_message, wire);
        return true;
    case PEER_MESSAGE_VOTE_RESULT:
        receive_vote_result(group, &raft_message, wire);
        return true;
    case PEER_MESSAGE_TIMEOUT_NOW:
        if (group->newcomer) {
            return true; /* does not stand for election */
        }
        raft_message.type = RAFT_TIMEOUT_NOW;
        raft_message.timeout_now.term = wire->term;
        raft_message.timeout_now.last_log_index = wire->timeout_now.last_index;
        raft_message.timeout_now.last_log_term = wire->timeout_now.last_term;
        deliver(group, &raft_message);
        return true;
    case PEER_MESSAGE_PROBE:
        receive_probe(group, from, wire);
        return true;
    case PEER_MESSAGE_PROBE_ACK:
        receive_probe_ack(group, from, wire);
        return true;
    case PEER_MESSAGE_APPEND:
        break;
    }
    return false;
}

/* Answers count from members only. What a leader or a candidate sends counts from anybody: this
 * node's configuration may be the older one. */
static bool is_accepted(const struct group *group, uint64_t from, uint8_t type) {
    if (from == 0 || from == group->options.self) {
        return false;
    }
    return type == PEER_MESSAGE_APPEND || type == PEER_MESSAGE_VOTE || type == PEER_MESSAGE_PROBE ||
           is_member(group, from);
}

bool group_receive(struct group *group, uint64_t now_ms, uint64_t from,
                   struct peer_message *message) {
    struct raft_wire wire;
    if (!group->started || !is_accepted(group, from, message->type) ||
        !raft_wire_decode(message->type, message->header, &wire)) {
        drop_attachments(message);
        return !group->started;
    }
    group_set_now(group, now_ms);
    bool sound = dispatch(group, from, &wire, message);
    group_settle(group);
    return sound;
}
