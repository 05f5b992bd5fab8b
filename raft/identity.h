/* Who a data directory belongs to, and which incarnations of its peers it has met.
 *
 * A node that lost its disk may have promised its vote, or held the only second copy of an
 * acknowledged write. It must not come back under its old identity with an empty disk. Hence a data
 * directory has a random incarnation; peers remember it and refuse another one under the same node
 * id.
 *
 * Files, all little-endian, each replaced as a whole and closed by a CRC-32C of what is before:
 *
 *   identity  "IKVIDENT"  version u32  shards u32  node id u64  incarnation u64
 *             cluster name: size u32, bytes  cluster id u64  standing u8
 *             of a newcomer: arrived u64                                       CRC-32C u32
 *   boot      "IKVBOOT\n" version u32  incarnation u64  boot u64   CRC-32C u32
 *   peers     "IKVPEERS"  version u32  incarnation u64  count u32
 *             count times (node id u64, incarnation u64)          CRC-32C u32
 *   lock      locked with flock() by the process that uses the directory; holds its pid as text
 *
 * Everything here blocks and is meant for the start of a node, except known_peers_set(), which is
 * called when a peer is met for the first time or was replaced. */
#ifndef RAFT_IDENTITY_H
#define RAFT_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/limits.h"

enum { IDENTITY_CLUSTER_MAX = 128 };

enum identity_standing {
    IDENTITY_MEMBER,  /* came to a cluster that was there, or was restored */
    IDENTITY_FOUNDER, /* wrote, or is to write, the first entry of each shard's log */
    IDENTITY_NEWCOMER /* comes to one, and may still hold what was decided before it came */
};

struct identity {
    char cluster[IDENTITY_CLUSTER_MAX + 1];
    uint64_t node_id;
    uint64_t incarnation;
    /* Tells clusters of the same name apart, such as one that was restored from a backup and what
     * is left of the one before. 0: the node belongs to none yet. */
    uint64_t cluster_id;
    enum identity_standing standing;
    uint64_t arrived; /* of a newcomer: bit by shard, its present is known */
    unsigned n_shards;
    uint64_t boot; /* completed starts so far, see identity_boot(); 0: the node never ran */
};

/* Takes the directory for this process, creating it when it is missing. ERROR_LOCKED names the pid
 * of the holder. The lock lasts until *fd is closed or the process ends. */
enum error_code identity_lock(const char *dir, int *fd, struct error *error);

/* Reads the identity of `dir`, or gives a new one to a directory that is missing or holds nothing
 * (but the lock). ERROR_MISMATCH when it belongs to another cluster or node or has another number
 * of shards; ERROR_CORRUPT when it is damaged, or missing while there is data; ERROR_VERSION when a
 * newer program wrote it. */
enum error_code identity_open(const char *dir, const char *cluster, uint64_t node_id,
                              unsigned n_shards, struct identity *identity, struct error *error);

/* Reads the identity of a directory that has one, without changing anything. ERROR_INVALID: there
 * is none. */
enum error_code identity_read(const char *dir, struct identity *identity, struct error *error);

/* The directory belongs to this cluster, as what it says, from now on; durable when it returns
 * ERROR_NONE, else nothing has changed. */
enum error_code identity_join(const char *dir, struct identity *identity, uint64_t cluster_id,
                              enum identity_standing standing, struct error *error);

/* A newcomer knows the present of these shards; of all of them: it is a member. Durable when it
 * returns ERROR_NONE, else nothing has changed. */
enum error_code identity_arrive(const char *dir, struct identity *identity, uint64_t shards,
                                struct error *error);

/* Increments the boot counter durably and stores the new value, which no earlier start had, in
 * identity->boot. Call it after log_open(): `boot > 0` then means that the log exists, which is
 * what log_options.must_exist is to be set to at the next start. */
enum error_code identity_boot(const char *dir, struct identity *identity, struct error *error);

struct known_peers {
    char *dir;
    uint64_t incarnation; /* of our own directory */
    unsigned n;
    struct {
        uint64_t node_id;
        uint64_t incarnation;
    } known[LIMIT_NODES * 4];
};

/* Reads the peers that `dir` knows; none when there is no such file. On failure nothing needs to be
 * freed. ERROR_CORRUPT, ERROR_VERSION, ERROR_MISMATCH (the file of another directory). */
enum error_code known_peers_load(const char *dir, const struct identity *identity,
                                 struct known_peers *peers, struct error *error);
void known_peers_free(struct known_peers *peers);
/* False when the peer was never met. */
bool known_peers_get(const struct known_peers *peers, uint64_t node_id, uint64_t *incarnation);
/* Remembers a peer, in place of what was known about it; durable when it returns ERROR_NONE, else
 * `peers` is unchanged (and the file holds one or the other). ERROR_TOOBIG when more peers were met
 * than a cluster can have had. */
enum error_code known_peers_set(struct known_peers *peers, uint64_t node_id, uint64_t incarnation,
                                struct error *error);
/* Forgets all of them, in the file. */
enum error_code known_peers_forget_all(struct known_peers *peers, struct error *error);
/* Forgets a peer that was removed from the cluster. Durable when it returns ERROR_NONE. */
enum error_code known_peers_forget(struct known_peers *peers, uint64_t node_id,
                                   struct error *error);

#endif
