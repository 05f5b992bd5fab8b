/* What goes wrong during a run. Each seed draws which kinds of fault occur, and how often. */
#ifndef SIM_NEMESIS_H
#define SIM_NEMESIS_H

#include "tests/sim/kernel.h"

struct node;

/* X(symbol, name): the names are for --without and the summary. */
#define FAULT_LIST(X)                                                                              \
    X(FAULT_KILL, "kill")                                                                          \
    X(FAULT_POWER, "power")                                                                        \
    X(FAULT_IO_CRASH, "io-crash")                                                                  \
    X(FAULT_STOP, "stop")                                                                          \
    X(FAULT_ALL, "all-down")                                                                       \
    X(FAULT_PAUSE, "pause")                                                                        \
    X(FAULT_PARTITION, "partition")                                                                \
    X(FAULT_ONE_WAY, "one-way")                                                                    \
    X(FAULT_SLOW, "slow-link")                                                                     \
    X(FAULT_DROP, "drop")                                                                          \
    X(FAULT_CORRUPT, "corrupt")                                                                    \
    X(FAULT_RESET, "reset")                                                                        \
    X(FAULT_STALL, "disk-stall")                                                                   \
    X(FAULT_WRITE_ERROR, "write-error")                                                            \
    X(FAULT_SYNC_ERROR, "sync-error")                                                              \
    X(FAULT_FULL, "disk-full")                                                                     \
    X(FAULT_TRANSFER, "transfer")                                                                  \
    X(FAULT_WALL, "wall-clock")                                                                    \
    X(FAULT_WIPE, "wipe")                                                                          \
    X(FAULT_BIT_FLIP, "bit-flip")                                                                  \
    X(FAULT_LOST_FILE, "lost-file")                                                                \
    X(FAULT_MEMBERS, "members")

enum fault {
#define FAULT_ENUM(symbol, name) symbol,
    FAULT_LIST(FAULT_ENUM)
#undef FAULT_ENUM
        FAULTS
};

const char *fault_name(enum fault fault);

/* `kinds` has a bit for each kind that occurs; `mean_ns` is the time between two faults. */
void nemesis_start(uint64_t kinds, uint64_t mean_ns);
/* The node tells another one that it votes for it, or that it holds what it was sent. Now and then
 * its power goes right then: what it told must be on its disk. */
void nemesis_on_promise(struct node *node, bool is_vote);
/* The node's log begins anew behind its database, which must be on the disk before: now and then
 * its power goes right then. `at_start`: since the database was found ahead of the log. */
void nemesis_on_reset(struct node *node, bool at_start);
/* No more faults; what is broken gets repaired, all nodes are started. */
void nemesis_heal(void);
/* Nodes that end are not started again. */
void nemesis_end(void);
/* Cuts these nodes (bit 0: node 1) off from all others for a while. */
void nemesis_part_from_others(uint64_t side);
/* Another node comes to lead, and the old leader hears late of it. */
void nemesis_depose(unsigned shard);
/* A node is being replaced, added or removed. */
bool nemesis_is_replacing(void);

#endif
