/* From libraft's messages to peer messages; above all, sending log entries: libraft only says which
 * ones, their payloads come from the log's cache or, for a follower far behind, from its files. */
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "raft/group_internal.h"

static uint8_t sender_flags(const struct group *group) {
    const struct group_port *port = &group->options.port;
    unsigned flags = port->disk_low(port->data) ? RAFT_SENDER_DISK_LOW : 0;
    flags |= group->newcomer ? RAFT_SENDER_NEWCOMER : 0;
    return (uint8_t)flags;
}

static bool send_with_payloads(struct group *group, uint64_t to, enum peer_lane lane,
                               struct raft_wire *wire, struct payload **payloads, unsigned n) {
    struct group_port *port = &group->options.port;
    struct buffer header = {0};
    wire->term = raft_current_term(&group->raft);
    wire->sender_flags = sender_flags(group);
    raft_wire_encode(&header, wire);
    struct peer_message message = {.type = wire->kind,
                                   .group = (uint16_t)group->options.number,
                                   .header = buffer_slice(&header),
                                   .n_attachments = n,
                                   .attachments = payloads};
    bool sent = port->send(port->data, to, lane, &message);
    buffer_free(&header);
    return sent;
}

void group_send_wire(struct group *group, uint64_t to, const struct raft_wire *wire) {
    struct raft_wire copy = *wire;
    (void)send_with_payloads(group, to, PEER_LANE_URGENT, &copy, NULL, 0);
}

/* Messages other than APPEND keep the term that libraft gave them, which may be the one asked about
 * rather than the current one (pre-votes). */
static void send_plain(struct group *group, uint64_t to, uint64_t term, struct raft_wire *wire) {
    struct group_port *port = &group->options.port;
    struct buffer header = {0};
    wire->term = term;
    wire->sender_flags = sender_flags(group);
    raft_wire_encode(&header, wire);
    struct peer_message message = {.type = wire->kind,
                                   .group = (uint16_t)group->options.number,
                                   .header = buffer_slice(&header)};
    (void)port->send(port->data, to, PEER_LANE_URGENT, &message);
    buffer_free(&header);
}

/* 0 until this leader has opened its clock. */
static uint64_t time_to_tell(const struct group *group) {
    const struct group_port *port = &group->options.port;
    struct group_clock clock;
    port->clock(port->data, group->options.number, &clock);
    return clock.anchored ? clock.time_ms : 0;
}

/* --- entries ---------------------------------------------------------------------------------- */

struct frame {
    struct raft_wire wire;
    struct payload *payloads[RAFT_APPEND_ENTRIES_MAX];
    uint64_t bytes;
};

/* A configuration change must be the first entry of its message: libraft 0.22 notes the index of
 * the message's first new entry as that of the configuration. */
static bool frame_takes(const struct frame *frame, const struct log_entry *entry) {
    unsigned n = frame->wire.append.n;
    if (n == 0) {
        return true;
    }
    return n < RAFT_APPEND_ENTRIES_MAX && entry->kind != LOG_ENTRY_CHANGE &&
           frame->bytes + entry->payload->size <= GROUP_FRAME_BYTES;
}

static void frame_add(struct frame *frame, const struct log_entry *entry) {
    unsigned i = frame->wire.append.n++;
    frame->wire.append.entries[i].term = entry->term;
    frame->wire.append.entries[i].kind = (uint8_t)entry->kind;
    frame->payloads[i] = entry->payload;
    frame->bytes += entry->payload->size;
}

static void frame_release(struct frame *frame) {
    for (unsigned i = 0; i < frame->wire.append.n; i++) {
        payload_unref(frame->payloads[i]);
    }
}

static enum peer_lane lane_for(struct group *group, uint64_t to, uint64_t bytes) {
    struct group_port *port = &group->options.port;
    /* Behind something large of the same group, stay behind it: out of order it would be rejected.
     */
    if (bytes > GROUP_LANE_BYTES ||
        port->bulk_queued(port->data, to, (uint16_t)group->options.number) > 0) {
        return PEER_LANE_BULK;
    }
    return PEER_LANE_NORMAL;
}

/* An append of which the follower takes everything up to `covered` as this leader's log left. */
static void note_told(struct group_peer *peer, uint64_t covered) {
    uint64_t commit = raft_commit_index(&peer->group->raft);
    uint64_t told = covered < commit ? covered : commit;
    peer->told_ms = peer->group->now_ms;
    peer->told_commit = told > peer->told_commit ? told : peer->told_commit;
}

/* Sends the frame's entries, which are the first ones that wait. */
static bool send_frame(struct group_peer *peer, struct frame *frame) {
    struct group *group = peer->group;
    uint64_t prev = peer->queue.prev;
    uint64_t term = 0;
    enum log_entry_kind kind;
    if (prev > 0 &&
        (!log_lookup(group->options.log, group->options.number, prev, &term, &kind) || term == 0)) {
        return false;
    }
    frame->wire.kind = PEER_MESSAGE_APPEND;
    frame->wire.append.prev_index = prev;
    frame->wire.append.prev_term = term;
    frame->wire.append.commit = raft_commit_index(&group->raft);
    frame->wire.append.time_ms = time_to_tell(group);
    frame->wire.append.sent_ms = group->now_ms;
    frame->wire.append.heard_ms = peer->heard_sent_ms;
    enum peer_lane lane = lane_for(group, peer->id, frame->bytes);
    if (!send_with_payloads(group, peer->id, lane, &frame->wire, frame->payloads,
                            frame->wire.append.n)) {
        return false;
    }
    note_told(peer, prev + frame->wire.append.n);
    peer->entries_sent_ms = group->now_ms;
    peer->last_start = peer->queue.start;
    append_queue_advance(&peer->queue, frame->wire.append.n);
    return true;
}

/* What was handed over is lost: libraft's next heartbeat finds the gap. */
static void give_up_sending(struct group_peer *peer) {
    append_queue_clear(&peer->queue);
    peer->entries_sent_ms = 0;
    peer->handed_to = 0;
    peer->told_commit = 0;
}

static void pump_peer(struct group_peer *peer);

static void entries_read(void *data, enum error_code code, uint64_t first,
                         struct log_entry *entries, unsigned n) {
    struct group_peer *peer = data;
    struct group *group = peer->group;
    peer->reading = false;
    if (code == ERROR_CORRUPT) {
        assert_fatal("shard %u: entry %llu cannot be read from the log: it is damaged; rebuild "
                     "this node from its peers",
                     group->options.number, (unsigned long long)first);
    }
    unsigned next = 0;
    bool current =
        group->raft.state == RAFT_LEADER && raft_current_term(&group->raft) == peer->read_term;
    while (current && next < n) {
        struct append_queue *queue = &peer->queue;
        if (append_queue_is_empty(queue) || queue->prev + 1 != first + next) {
            break; /* something else is to be sent by now */
        }
        struct frame frame;
        frame.wire.append.n = 0;
        frame.bytes = 0;
        while (next < n && frame.wire.append.n < queue->n && frame_takes(&frame, &entries[next])) {
            frame_add(&frame, &entries[next++]);
        }
        bool sent = send_frame(peer, &frame);
        frame_release(&frame);
        if (!sent) {
            give_up_sending(peer);
            break;
        }
    }
    for (; next < n; next++) {
        payload_unref(entries[next].payload);
    }
    if (current && n == 0) {
        give_up_sending(peer); /* cut meanwhile: a snapshot will be needed */
    }
    if (group->raft.state == RAFT_LEADER) {
        pump_peer(peer);
    }
    group_settle(group);
}

/* Fills a frame from the cache; false when not even the first entry is there. */
static bool fill_frame(struct group_peer *peer, struct frame *frame) {
    struct group *group = peer->group;
    const struct append_queue *queue = &peer->queue;
    frame->wire.append.n = 0;
    frame->bytes = 0;
    for (uint64_t i = 0; i < queue->n; i++) {
        struct log_entry entry;
        if (!log_cached(group->options.log, group->options.number, queue->prev + 1 + i, &entry)) {
            break;
        }
        if (!frame_takes(frame, &entry)) {
            payload_unref(entry.payload);
            break;
        }
        frame_add(frame, &entry);
    }
    return frame->wire.append.n > 0;
}

static void read_entries(struct group_peer *peer) {
    struct group *group = peer->group;
    const struct append_queue *queue = &peer->queue;
    uint64_t n = queue->n < RAFT_APPEND_ENTRIES_MAX ? queue->n : RAFT_APPEND_ENTRIES_MAX;
    peer->reading = true;
    peer->read_term = raft_current_term(&group->raft);
    log_read(group->options.log, group->options.number, queue->prev + 1, (unsigned)n,
             GROUP_FRAME_BYTES, entries_read, peer);
}

static void pump_peer(struct group_peer *peer) {
    struct group *group = peer->group;
    struct group_port *port = &group->options.port;
    while (!peer->reading && !append_queue_is_empty(&peer->queue)) {
        if (port->queued_bytes(port->data, peer->id) > GROUP_QUEUE_BYTES) {
            return;
        }
        uint64_t term;
        enum log_entry_kind kind;
        uint64_t first = peer->queue.prev + 1;
        if (!log_lookup(group->options.log, group->options.number, first, &term, &kind)) {
            give_up_sending(peer); /* cut meanwhile: a snapshot will be needed */
            return;
        }
        struct frame frame;
        if (!fill_frame(peer, &frame)) {
            read_entries(peer);
            return;
        }
        bool sent = send_frame(peer, &frame);
        frame_release(&frame);
        if (!sent) {
            give_up_sending(peer);
            return;
        }
    }
}

void group_pump(struct group *group) {
    for (unsigned i = 0; i < group->n_peers; i++) {
        pump_peer(&group->peers[i]);
    }
}

void group_forget_sends(struct group *group) {
    for (unsigned i = 0; i < group->n_peers; i++) {
        group_forget_peer(&group->peers[i]);
        group->peers[i].heard_ms = 0;
        group->peers[i].heard_sent_ms = 0;
        group->peers[i].followed_ms = 0;
        group->peers[i].promised = 0;
    }
}

void group_forget_peer(struct group_peer *peer) {
    give_up_sending(peer);
    peer->last_start = 0;
}

/* Hands entries prev+1 .. prev+n over for sending. */
static void hand_over(struct group_peer *peer, uint64_t prev, uint64_t n) {
    append_queue_push(&peer->queue, prev, n);
    peer->handed_to = prev + n;
    pump_peer(peer);
}

/* libraft takes a follower that did not answer between two of its timeouts off the pipeline, and on
 * an idle leader that is easily everybody. Such a follower gets new entries with its next heartbeat
 * only. When it is known to have everything before them, send them at once. */
void group_feed_idle(struct group *group, uint64_t first, uint64_t n) {
    if (group->raft.state != RAFT_LEADER || group->votes_pending > 0) {
        return;
    }
    for (unsigned i = 0; i < group->n_peers; i++) {
        struct group_peer *peer = &group->peers[i];
        uint64_t match = group_match(group, peer->id);
        bool heard =
            peer->heard_ms > 0 && group->now_ms < peer->heard_ms + group->options.election_ms;
        bool fits = first - 1 + n - match <= GROUP_INFLIGHT_ENTRIES;
        if (match > 0 && heard && fits && peer->handed_to < first &&
            (match == first - 1 || peer->handed_to == first - 1)) {
            hand_over(peer, first - 1, n);
        }
    }
}

/* --- heartbeats ------------------------------------------------------------------------------- */

/* libraft anchors a heartbeat behind the entries that it has sent last. While those are still on
 * their way on a slower lane the heartbeat would overtake them and be rejected, and libraft would
 * send everything again. Then it is anchored at what the follower is known to have: it keeps the
 * leadership alive and is true in any case. After an election timeout without news the original
 * goes out, so that a real gap is found. */
static bool entries_are_under_way(struct group *group, struct group_peer *peer) {
    struct group_port *port = &group->options.port;
    return !append_queue_is_empty(&peer->queue) ||
           (peer->entries_sent_ms > 0 &&
            (group->now_ms < peer->entries_sent_ms + group->options.election_ms ||
             port->bulk_queued(port->data, peer->id, (uint16_t)group->options.number) > 0));
}

static void send_heartbeat(struct group *group, struct group_peer *peer, uint64_t prev,
                           uint64_t prev_term) {
    uint64_t match = group_match(group, peer->id);
    uint64_t term = 0;
    enum log_entry_kind kind;
    if (match > 0 && match < prev && entries_are_under_way(group, peer) &&
        log_lookup(group->options.log, group->options.number, match, &term, &kind) && term > 0) {
        prev = match;
        prev_term = term;
    }
    struct raft_wire wire = {.kind = PEER_MESSAGE_APPEND};
    wire.append.prev_index = prev;
    wire.append.prev_term = prev_term;
    wire.append.commit = raft_commit_index(&group->raft);
    wire.append.time_ms = time_to_tell(group);
    wire.append.sent_ms = group->now_ms;
    wire.append.heard_ms = peer->heard_sent_ms;
    wire.append.n = 0;
    if (send_with_payloads(group, peer->id, PEER_LANE_URGENT, &wire, NULL, 0)) {
        note_told(peer, prev);
    }
}

/* A session's read waits at a follower for a commit that the follower would learn of with the next
 * entries or heartbeat only. Under load the next entries are soon there and nothing is sent here;
 * otherwise one heartbeat, anchored at what the follower holds for certain. */
uint64_t group_tell_commit(struct group *group, uint64_t next_ms) {
    uint64_t commit = raft_commit_index(&group->raft);
    for (unsigned i = 0; i < group->n_peers; i++) {
        struct group_peer *peer = &group->peers[i];
        uint64_t match = group_match(group, peer->id);
        uint64_t tellable = match < commit ? match : commit;
        uint64_t term = 0;
        enum log_entry_kind kind;
        bool heard =
            peer->heard_ms > 0 && group->now_ms < peer->heard_ms + group->options.election_ms;
        if (!heard || peer->told_commit >= tellable ||
            !log_lookup(group->options.log, group->options.number, match, &term, &kind) ||
            term == 0) {
            continue;
        }
        uint64_t due_ms = peer->told_ms + GROUP_NOTICE_MS;
        if (due_ms > group->now_ms) {
            next_ms = due_ms < next_ms ? due_ms : next_ms;
        } else if (group->votes_pending == 0) {
            send_heartbeat(group, peer, match, term);
            peer->told_ms = group->now_ms; /* also when the link is down: not again at once */
        }
    }
    return next_ms;
}

static void send_append(struct group *group, const struct raft_message *message) {
    const struct raft_append_entries *args = &message->append_entries;
    struct group_peer *peer = group_peer_of(group, message->server_id);
    struct group_port *port = &group->options.port;
    if (peer == NULL || args->term != raft_current_term(&group->raft) ||
        group->raft.state != RAFT_LEADER) {
        return; /* was held back, and is of a leadership that is over */
    }
    /* libraft repeats itself while probing: not while the same entries are still being sent. */
    bool repeated = peer->last_start == args->prev_log_index && peer->entries_sent_ms > 0 &&
                    port->bulk_queued(port->data, peer->id, (uint16_t)group->options.number) > 0;
    if (args->n_entries == 0 || repeated) {
        send_heartbeat(group, peer, args->prev_log_index, args->prev_log_term);
        return;
    }
    hand_over(peer, args->prev_log_index, args->n_entries);
}

/* --- all messages ----------------------------------------------------------------------------- */

static void note_snapshot_needed(struct group *group, uint64_t to) {
    struct group_peer *peer = group_peer_of(group, to);
    if (peer != NULL) {
        group->due.snapshot_to |= (uint64_t)1 << (peer - group->peers);
    }
}

/* libraft answers a pre-vote with the term that was asked about. A candidate whose term is behind
 * would ask about the same one for ever: where no other candidate's log is as good as its own, the
 * cluster would stay without a leader. So a refusal tells it the newer term. */
static uint64_t vote_result_term(const struct group *group,
                                 const struct raft_request_vote_result *result) {
    uint64_t current = raft_current_term(&group->raft);
    bool refused = result->pre_vote && !result->vote_granted;
    return refused && result->term < current ? current : result->term;
}

/* libraft tells its successor to start as soon as that answered anything. While it does not hold
 * the whole log it ignores that, and libraft does not repeat it: see group_send_timeout_now(). */
static void send_timeout_now(struct group *group, uint64_t to,
                             const struct raft_timeout_now *args) {
    if (group->raft.state != RAFT_LEADER || args->term != raft_current_term(&group->raft) ||
        group_match(group, to) < group_last(group)) {
        return;
    }
    struct raft_wire wire = {.kind = PEER_MESSAGE_TIMEOUT_NOW};
    wire.timeout_now.last_index = args->last_log_index;
    wire.timeout_now.last_term = args->last_log_term;
    send_plain(group, to, args->term, &wire);
}

void group_send_timeout_now(struct group *group, uint64_t to) {
    struct raft_timeout_now args = {.term = raft_current_term(&group->raft)};
    enum log_entry_kind kind;
    uint64_t term = 0;
    args.last_log_index = group_last(group);
    if (log_lookup(group->options.log, group->options.number, args.last_log_index, &term, &kind)) {
        args.last_log_term = term;
        send_timeout_now(group, to, &args);
    }
}

void group_send_message(struct group *group, const struct raft_message *message) {
    struct raft_wire wire;
    uint64_t to = message->server_id;
    switch (message->type) {
    case RAFT_APPEND_ENTRIES:
        send_append(group, message);
        return;
    case RAFT_APPEND_ENTRIES_RESULT:
        wire.kind = PEER_MESSAGE_APPEND_RESULT;
        wire.append_result.rejected = message->append_entries_result.rejected;
        wire.append_result.last_index = message->append_entries_result.last_log_index;
        wire.append_result.sent_ms = group->now_ms;
        wire.append_result.heard_ms = group->leader_sent_term == message->append_entries_result.term
                                          ? group->leader_sent_ms
                                          : 0;
        send_plain(group, to, message->append_entries_result.term, &wire);
        return;
    case RAFT_REQUEST_VOTE:
        wire.kind = PEER_MESSAGE_VOTE;
        wire.vote.candidate = message->request_vote.candidate_id;
        wire.vote.last_index = message->request_vote.last_log_index;
        wire.vote.last_term = message->request_vote.last_log_term;
        wire.vote.disrupt = message->request_vote.disrupt_leader;
        wire.vote.pre_vote = message->request_vote.pre_vote;
        send_plain(group, to, message->request_vote.term, &wire);
        return;
    case RAFT_REQUEST_VOTE_RESULT:
        wire.kind = PEER_MESSAGE_VOTE_RESULT;
        wire.vote_result.granted = message->request_vote_result.vote_granted;
        wire.vote_result.pre_vote = message->request_vote_result.pre_vote;
        send_plain(group, to, vote_result_term(group, &message->request_vote_result), &wire);
        return;
    case RAFT_INSTALL_SNAPSHOT:
        note_snapshot_needed(group, to);
        return;
    case RAFT_TIMEOUT_NOW:
        send_timeout_now(group, to, &message->timeout_now);
        return;
    }
}
