/* Shared by the files of the consensus driver (group*.c) only. */
#ifndef RAFT_GROUP_INTERNAL_H
#define RAFT_GROUP_INTERNAL_H

#include <raft.h>

#include "base/list.h"
#include "raft/append_queue.h"
#include "raft/group.h"
#include "raft/messages.h"
#include "raft/read_index.h"

/* libraft defines these without parentheses. */
#define UPDATE_VOTE ((RAFT_UPDATE_CURRENT_TERM) | (RAFT_UPDATE_VOTED_FOR))
#define UPDATE_ENTRIES (RAFT_UPDATE_ENTRIES)
#define UPDATE_SNAPSHOT (RAFT_UPDATE_SNAPSHOT)
#define UPDATE_MESSAGES (RAFT_UPDATE_MESSAGES)
#define UPDATE_STATE (RAFT_UPDATE_STATE)
#define UPDATE_COMMIT (RAFT_UPDATE_COMMIT_INDEX)

enum {
    GROUP_INFLIGHT_ENTRIES = 1024, /* unacknowledged entries per follower */
    GROUP_FRAME_BYTES = 1 << 20,   /* entries of one message, unless a single one is larger */
    GROUP_QUEUE_BYTES = 8 << 20,   /* stop feeding a peer's queue at this size */
    GROUP_LANE_BYTES = 64 * 1024,  /* larger appends take the bulk lane */
    GROUP_NOTICE_MS = 3            /* silence before a follower is told of a commit */
};

/* Progress of sending to one follower. */
struct group_peer {
    struct group *group;
    uint64_t id;
    struct append_queue queue;
    bool reading;             /* a read from the log's files is under way for the front range */
    uint64_t read_term;       /* term in which that read began */
    uint64_t entries_sent_ms; /* when entries were last sent, 0: not in this term */
    uint64_t last_start;      /* index before the newest range that was sent */
    uint64_t handed_to;       /* newest index handed over for sending, 0: start anew */
    uint64_t heard_ms;        /* last answer in this leader's term, 0: none */
    uint64_t heard_sent_ms;   /* ... and when it was sent, by the peer's clock */
    uint64_t followed_ms;     /* when what it answered to was sent, by this node's clock */
    uint64_t told_ms;         /* when an append was last sent */
    uint64_t told_commit;     /* newest committed index that those sent cover */
    uint64_t promised; /* index up to which it held this leader's log when its link came up */
    bool disk_low;     /* as the peer last reported */
    bool newcomer;     /* likewise */
};

/* Entries on their way to the disk. */
struct group_persist {
    struct log_request request;
    struct list_node link; /* group->persists, in log order */
    struct group *group;
    uint64_t last; /* 0: replaced meanwhile by entries at lower indexes */
};

/* A term and vote on their way to the disk. */
struct group_vote_write {
    struct log_request request;
    struct group *group;
};

/* Messages that wait for a term or vote to become durable. */
struct group_held {
    struct list_node link;
    struct raft_message message;
};

/* Callbacks that are due, see group_settle(). */
struct group_due {
    bool role;
    bool commit;
    bool reads;
    bool installed;
    bool clock;
    uint64_t snapshot_to; /* bit set by index into peers */
    uint64_t clock_from;
    struct group_clock clock_value;
};

struct group {
    struct group_options options;
    struct raft raft;
    bool started;
    bool newcomer; /* does not stand for election yet, see group_be_newcomer() */
    bool knows_present;
    bool stepping; /* raft_step() is not re-entrant */
    bool settling;
    uint64_t now_ms;

    /* The entries that the step under way takes in: libraft hands back a part of this array. */
    struct raft_entry *step_entries;
    struct payload **step_payloads;

    unsigned votes_pending;
    struct list_node held;
    struct list_node persists;

    struct group_peer peers[LIMIT_NODES];
    unsigned n_peers;

    struct read_index reads;
    uint64_t reads_sent_ms;

    uint64_t commit_seen; /* configurations up to here were fed back */
    bool fast_election;   /* the election timeout is lowered */
    uint64_t elections;
    uint64_t started_ms;
    uint64_t leader_sent_ms;   /* of the newest APPEND, by its sender's clock ... */
    uint64_t leader_sent_term; /* ... and its term */
    uint64_t contact_ms;
    uint64_t contact_term;        /* newest term whose leader was heard */
    struct group_contact contact; /* as follower; at_ms is 0 before the first */
    uint64_t contact_noted_term;  /* of `contact` */
    uint64_t leader_reported;     /* as on_role knows it */

    bool installing;
    struct raft_snapshot_metadata install;
    struct log_request install_request;

    struct group_due due;
};

/* group.c */
void group_step(struct group *group, struct raft_event *event);
void group_settle(struct group *group);
struct group_peer *group_peer_of(struct group *group, uint64_t id);
/* Address of a server as the configuration has it; never NULL. */
const char *group_address_of(const struct group *group, uint64_t id);

/* Time as the caller has it, never backwards: libraft subtracts without looking. */
void group_set_now(struct group *group, uint64_t now_ms);
/* Lowers the election timeout while the leader is known to be gone. */
void group_set_fast_election(struct group *group, bool fast);

/* group_send.c: raft messages to peer messages */
void group_send_message(struct group *group, const struct raft_message *message);
void group_send_wire(struct group *group, uint64_t to, const struct raft_wire *wire);
/* Sends what waits in the append queues, as far as the peers' queues have room. */
void group_pump(struct group *group);
void group_forget_sends(struct group *group);
void group_forget_peer(struct group_peer *peer);
/* Entries first .. first+n-1 were proposed: sends them where libraft would wait. */
void group_feed_idle(struct group *group, uint64_t first, uint64_t n);
/* Followers that hold what was committed since they heard last are told so, unless something was
 * just sent to them. Returns when to call again. */
uint64_t group_tell_commit(struct group *group, uint64_t next_ms);
/* The successor holds the whole log by now. */
void group_send_timeout_now(struct group *group, uint64_t to);

#endif
