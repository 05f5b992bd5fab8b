/* The nodes of the simulated cluster, and what must always hold of them. */
#ifndef SIM_CLUSTER_H
#define SIM_CLUSTER_H

#include "node/config.h"
#include "tests/sim/kernel.h"

enum { SIM_NODES = 7, SIM_SHARDS = 3 };
enum { CLIENT_PORT = 7101, PEER_PORT = 7201 };

struct server;

enum node_state { NODE_DOWN, NODE_UP, NODE_STOPPING };

struct node {
    unsigned id;
    struct host *host;
    enum node_state state;
    struct process *process;
    struct server *server; /* while its process serves */
    struct config config;
    bool ready;      /* as /readyz would say */
    bool damaged;    /* the simulator damaged its files: it may refuse to start */
    bool refused;    /* ... and did */
    bool blank;      /* its disk is empty: it has to be replaced */
    bool clean_stop; /* the last end was an orderly one */
    bool listed;     /* the files of all nodes have its line: it may run */
    bool joins;      /* its file says join = yes */
    bool member;     /* one of those that make up the cluster */
    uint64_t starts;
    uint64_t down_since;
};

/* What a seed decides about the cluster. */
struct cluster_options {
    unsigned n_nodes;    /* that there may be */
    unsigned n_founders; /* the first of them: members from the beginning */
    unsigned n_shards;
    uint64_t heartbeat_ms;
    uint64_t election_ms;
    uint64_t snapshot_log_bytes;
    uint64_t trailing_entries;
    uint64_t log_cache;
    uint64_t shard_window;
    unsigned workers;
    bool rebalance;
    uint64_t request_timeout_ms;
    uint64_t default_quota;
};

void cluster_start(const struct cluster_options *options);
const struct cluster_options *cluster_options(void);
struct node *cluster_node(unsigned id); /* 1 to n_nodes */
void node_start(struct node *node);
/* kill -9, or a power loss of its host. */
void node_kill(struct node *node, bool by_power);
/* SIGTERM. */
void node_stop(struct node *node);
bool node_may_end(const struct node *node);
void node_set_ready(struct node *node, bool ready);
/* Of the members. */
unsigned cluster_count_up(void);
unsigned cluster_count_members(void);
unsigned cluster_some_member(void);
/* Running nodes whose files have changed read them again. */
void cluster_reread_files(void);
/* Every member is up, joined and led; for the liveness check. */
bool cluster_is_healthy(char *reason, size_t size);
/* All members have applied the same index of every shard, with the same digest. */
bool cluster_is_even(void);
/* Of `shard` as nodes see it: 0 when none leads. */
unsigned cluster_leader(unsigned shard);
bool cluster_transfer(unsigned shard, unsigned to);
/* At every member the voters of every shard are the members, and nobody else. */
bool cluster_has_all_voters(void);
/* All other members have links to it: none refuses its data directory. */
bool cluster_is_met_by_all(const struct node *node);
/* All members but this one serve. */
bool cluster_others_serve(const struct node *node);
/* Recounts the databases of a node that is down. */
void cluster_verify_files(struct node *node);

/* invariants.c: called after each iteration of a node's loop. */
void invariants_start(unsigned n_shards);
void invariants_check(struct node *node);
/* The node has told another one that it is in this term, and voted in it (0: not): that must hold
 * whatever happens to it. */
void invariants_note_promise(const struct node *node, unsigned shard, uint64_t term,
                             uint64_t voted_for);
/* The node's disk is empty now: what it had promised is void. */
void invariants_forget_node(const struct node *node);
/* So many voters of some shard do not know its time that a majority may go by wall clocks. */
bool invariants_walls_may_decide(void);
uint64_t invariants_checked(void);
uint64_t invariants_committed(unsigned shard);

#endif
