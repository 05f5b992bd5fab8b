/* One Raft group of this node: drives libraft's raft_step() and carries out what it asks for.
 *
 * Events (messages, finished disk writes, time, proposals) go in; each one is a raft_step() whose
 * effects are executed in one place, group_execute() in group.c, in this order: term and vote to
 * the log, entries to the log, messages to the peers. Messages wait until every term and vote
 * queued before them is durable.
 *
 * The group knows nothing of keys and values: entries are opaque payloads. It does no I/O of its
 * own: the log is raft/log.h, everything else goes through `struct group_port`.
 *
 * Sources: Ongaro's Raft dissertation; the event and update model of libraft 0.22. What bites when
 * driving it is written down in docs/consensus.md.
 *
 * Threads: loop thread only. Callbacks of the port run at the end of a call, never from within a
 * step, and may call the group again. */
#ifndef RAFT_GROUP_H
#define RAFT_GROUP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "raft/log.h"
#include "raft/peers.h"
#include "raft/snapshot_stream.h"

struct group;

enum group_role { GROUP_FOLLOWER, GROUP_CANDIDATE, GROUP_LEADER };

/* A replica's view of cluster time: see node/cluster_time.h. A leader's word in an append has no
 * wall clock, and is anchored or not sent at all. */
struct group_clock {
    uint64_t time_ms;
    uint64_t wall_ms;    /* what the time is by the node's wall clock */
    uint64_t age_max_ms; /* a leader's word: sent at most so long ago; UINT64_MAX: not known */
    bool anchored;
};

struct group_port {
    void *data;
    /* Like peers_send(). */
    bool (*send)(void *data, uint64_t to, enum peer_lane lane, const struct peer_message *message);
    /* Like peers_queued_bytes() and peers_bulk_queued(). */
    uint64_t (*queued_bytes)(void *data, uint64_t to);
    uint64_t (*bulk_queued)(void *data, uint64_t to, uint16_t group);
    /* This node's disk is nearly full. */
    bool (*disk_low)(void *data);
    /* This replica's cluster time, for the answer to a probe and for a leader's appends. */
    void (*clock)(void *data, unsigned group, struct group_clock *clock);

    /* Role, leader or term changed. */
    void (*on_role)(void *data, unsigned group);
    /* The commit index moved. */
    void (*on_commit)(void *data, unsigned group);
    /* Reads up to and including `round` are confirmed. */
    void (*on_reads)(void *data, unsigned group, uint64_t round);
    /* A voter answered a probe in this leader's term, or the leader of this term told the time. */
    void (*on_clock)(void *data, unsigned group, uint64_t from, const struct group_clock *clock);
    /* A follower needs entries that the log no longer has: send it a snapshot. Repeated while that
     * is so; ignore it while one is on its way. */
    void (*on_snapshot_needed)(void *data, unsigned group, uint64_t to);
    /* group_install() finished: the log goes on behind the snapshot. */
    void (*on_installed)(void *data, unsigned group);
};

struct group_options {
    unsigned number;
    uint64_t self;
    struct log *log;
    unsigned heartbeat_ms;
    unsigned election_ms;
    uint64_t seed; /* of the election timers' randomness */
    struct group_port port;
};

/* A server of a configuration. */
struct group_server {
    uint64_t id;
    const char *address; /* "host:port" of its peer address */
    bool voter;
};

struct group *group_new(const struct group_options *options);
/* Frees the group. The log must be closed before: its completions refer to the group. */
void group_free(struct group *group);

/* Encoded configuration as it stands in CHANGE entries and in the state machine. */
struct payload *group_encode_config(const struct group_server *servers, unsigned n);
/* False when the bytes are not a configuration. */
bool group_config_is_valid(struct slice config);

/* True when the log holds nothing for this group: it was never part of a cluster. */
bool group_is_blank(const struct group *group);
/* Writes the first entry, the cluster's initial configuration, which must be the same on every
 * node. For a blank group, before group_start(). `request` completes when it is durable. */
void group_bootstrap(struct group *group, struct payload *config, struct log_request *request);

/* Whether the log can go on from what the state machine has applied. Otherwise group_start() resets
 * it behind that, which must be durable by then. */
bool group_log_fits(const struct log *log, unsigned number, uint64_t applied_index,
                    uint64_t applied_term);

/* This data directory comes, with nothing, to a shard that others have: before group_start(). What
 * it copies may name it as a voter, even as the only one, since an earlier node had its number.
 * That was for the earlier one to stand for election by: a newcomer does not stand, and leaders do
 * not make it a voter. It knows the present once it holds an entry that was committed in the term
 * of a leader it hears: that leader counts this directory, so all configurations that meant the
 * earlier one lie before its term. When that is noted durably, group_arrive() makes it a member
 * like others. */
void group_be_newcomer(struct group *group);
bool group_is_newcomer(const struct group *group);
/* A newcomer that is ready for group_arrive(). */
bool group_knows_present(const struct group *group);
void group_arrive(struct group *group);
/* As a node last told this leader. */
bool group_peer_is_newcomer(const struct group *group, uint64_t node);

/* Starts from the log and from what the state machine has applied (index 0: nothing). Where the
 * state machine is ahead of the log (a snapshot was installed and the log's reset was lost in a
 * crash, or entries were applied that were not on this disk yet), the log is reset. ERROR_CORRUPT
 * when the two do not fit together. */
enum error_code group_start(struct group *group, uint64_t now_ms, uint64_t applied_index,
                            uint64_t applied_term, uint64_t config_index, struct slice config,
                            struct error *error);

/* Time passed; returns when to call again (monotonic ms). */
uint64_t group_tick(struct group *group, uint64_t now_ms);

/* A peer message of one of the kinds in raft/messages.h arrived. Takes over the attachments'
 * references. A malformed message is dropped and false is returned. */
bool group_receive(struct group *group, uint64_t now_ms, uint64_t from,
                   struct peer_message *message);

/* The link to or from `node` came up, so that what was lost before can be sent again. */
void group_link_up(struct group *group, uint64_t now_ms, uint64_t node);

/* `node` is known to be gone (its process ended): when it led, an election starts at once rather
 * than after the election timeout. Safe in any case: pre-vote asks the others first. */
void group_peer_gone(struct group *group, uint64_t now_ms, uint64_t node);

/* Proposes command entries; takes own references. False when this node does not lead or is handing
 * leadership over: nothing was proposed. Otherwise *first is the index of the first one. */
bool group_propose(struct group *group, uint64_t now_ms, struct payload *const *payloads,
                   unsigned n, uint64_t *first);

/* Proposes a new configuration; it may differ from the present one by a single server. False when
 * this node does not lead, or an earlier change is not committed yet. */
bool group_change(struct group *group, uint64_t now_ms, struct payload *config);
/* Servers of the present configuration; the addresses are valid until the next call that may change
 * it. Returns their number. */
unsigned group_servers(const struct group *group, struct group_server servers[LIMIT_NODES]);
/* True while a change of the configuration is not committed yet. */
bool group_is_changing(const struct group *group);

/* A linearizable read arrives at this leader: returns the round to wait for (on_reads). The read
 * may be answered from group_commit() as of now, provided that an entry of this leader's term, or
 * all that it found in its log when it was elected, is committed by then. When role or term change
 * (on_role) the read must be dropped: rounds of a later term prove nothing about it. */
uint64_t group_read(struct group *group);
/* Newest confirmed round. */
uint64_t group_reads_confirmed(const struct group *group);
/* Sends the probes of the next round, when reads wait for one. Called at the end of each loop
 * iteration. */
void group_flush_reads(struct group *group, uint64_t now_ms);

/* Hands leadership to `to`, or when 0 to the best follower among those that answer. False when that
 * is impossible now. */
bool group_transfer(struct group *group, uint64_t now_ms, uint64_t to);

/* The state machine durably holds everything up to `index`: the log may be cut, but for up to
 * `trailing` entries behind it that help slow followers. `config` is the configuration at `index`.
 */
void group_cut(struct group *group, uint64_t now_ms, uint64_t index, uint64_t config_index,
               struct slice config, unsigned trailing);

/* A received snapshot is ready to replace the state machine. False: it is not wanted (any more).
 * True: replace the state machine, then call group_install(); until then no entries arrive. */
bool group_offer_snapshot(struct group *group, uint64_t now_ms, uint64_t from,
                          const struct snapshot_info *info);
void group_install(struct group *group);

/* State. */
enum group_role group_role(const struct group *group);
uint64_t group_leader(const struct group *group); /* node id, 0 when unknown */
uint64_t group_term(const struct group *group);
uint64_t group_commit(const struct group *group);
uint64_t group_last(const struct group *group);
bool group_is_transferring(const struct group *group);
bool group_is_installing(const struct group *group);
/* Index up to which `node` is known to hold this leader's log; 0 when unknown or not leader. */
uint64_t group_match(const struct group *group, uint64_t node);
/* Most recent contact with a leader of the current term or, as leader, when a majority of voters
 * was last found to follow: for staleness. */
uint64_t group_leader_contact_ms(const struct group *group);
/* What a replica knows of how new its state is. */
struct group_contact {
    uint64_t at_ms;  /* a leader of the current term led then; or, as leader, a majority answered */
    uint64_t commit; /* the commit index at that time, or a later one */
};
/* False when no leader of the current term has answered to what this node sent it yet. While that
 * leader has been deposed without knowing it, at most for two election timeouts, its word is older
 * than at_ms says. */
bool group_contact(const struct group *group, struct group_contact *contact);
bool group_is_started(const struct group *group);
/* True unless a majority of voters, this node included, has reported a nearly full disk. */
bool group_quorum_has_space(const struct group *group);
/* What the other node last said of its disk to this leader. */
enum group_space {
    GROUP_SPACE_UNKNOWN, /* it has not answered for an election timeout, or this node does not lead
                          */
    GROUP_SPACE_LOW,
    GROUP_SPACE_FINE
};
enum group_space group_peer_space(const struct group *group, uint64_t node);
/* Ids of the current voters; returns their number. */
unsigned group_voters(const struct group *group, uint64_t ids[LIMIT_NODES]);
uint64_t group_elections(const struct group *group); /* times this node became candidate */

#endif
