/* The state machine of one shard: a SQLite database that holds the shard's projects and keys, its
 * clock, its digest, its applied index and the Raft configuration as of that index. It knows
 * nothing of sockets or Raft, reads no clock and draws no random numbers, so that the same entries
 * give the same state on every replica.
 *
 * Time: a batch carries the leader's cluster time. Applying it first removes rows whose expiry lies
 * at or before that time, oldest first, until MACHINE_PURGE_STEP rows or MACHINE_PURGE_BYTES are
 * gone; the shard's clock then is the batch's time, or, when rows are left over, one millisecond
 * before the expiry of the first row left. It never moves back. Thus a row that exists is alive:
 * reads, counts, quotas and delete's result agree by construction.
 *
 * Durability: WAL with synchronous=NORMAL and no automatic checkpoint. A crash of the process loses
 * what is not committed, one of the computer a suffix of what is; the log replays it.
 * machine_checkpoint() makes everything up to the index that it returns durable in the database
 * file itself.
 *
 * Threads: one thread at a time per machine; different machines are independent. */
#ifndef NODE_MACHINE_MACHINE_H
#define NODE_MACHINE_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/limits.h"
#include "node/machine/command.h"
#include "node/machine/events.h"

enum { MACHINE_PURGE_STEP = 4096 };
/* What one call of machine_read() may gather, unless a single result is larger. */
#define MACHINE_READ_BYTES (16 * MIB)
/* A step also ends once it has removed this many bytes, so that no batch takes seconds. */
#define MACHINE_PURGE_BYTES (64 * MIB)

struct machine;

struct machine_options {
    const char *path;     /* database file; "-wal" and "-shm" files stand beside it */
    const char *cluster;  /* name of the cluster, checked against the file */
    unsigned shard;       /* number of the shard, checked against the file */
    uint64_t cache_bytes; /* page cache */
    const char *vfs;      /* SQLite VFS to use, NULL for the default */
};

struct machine_state {
    uint64_t applied_index;
    uint64_t applied_term;
    uint64_t config_index; /* index of the entry that `config` came from, 0 when none */
    uint64_t clock_ms;
    uint64_t digest;         /* order-independent digest of all live rows and projects */
    uint64_t next_expiry_ms; /* earliest expiry of a live row, 0 when nothing expires */
    uint64_t keys;           /* live rows of all projects */
    uint64_t used_bytes;     /* key bytes + value bytes of those */
    uint64_t sessions;       /* of exactly-once writes */
    uint64_t session_bytes;  /* what they keep, as counted for their bound */
    bool has_garbage;        /* machine_reclaim() has work */
    int64_t wall_offset_ms;  /* what machine_set_wall_offset() set last; this replica's own */
};

enum machine_entry_kind {
    MACHINE_COMMANDS = 1, /* payload is a command batch */
    MACHINE_BARRIER = 2,  /* no payload */
    MACHINE_CONFIG = 3    /* payload is an encoded Raft configuration, kept as it is */
};

struct machine_entry {
    uint64_t index;
    uint64_t term;
    enum machine_entry_kind kind;
    struct slice payload;
};

/* Called during machine_apply() for each command of a batch, in order. The callee may move the
 * result's data out (and zero the buffer); what is left is freed. */
typedef void (*machine_result_cb)(void *data, uint64_t index, struct command_origin origin,
                                  struct result *result);

/* Opens or creates. ERROR_MISMATCH: the file belongs to another cluster or shard; ERROR_CORRUPT: it
 * is damaged; ERROR_VERSION: written by a newer release. */
enum error_code machine_open(struct machine **machine, const struct machine_options *options,
                             struct error *error);
void machine_close(struct machine *machine);

struct machine_state machine_state(const struct machine *machine);
/* Raft configuration as of the applied index; empty when none. Valid until the next apply. */
struct slice machine_config(const struct machine *machine);

/* Applies consecutive entries. The first index must be applied_index + 1. What they did is seen by
 * everything that follows, but stands in a transaction that machine_commit() ends: a page that many
 * entries change is then written once. Whoever applies sees to it that it does not grow for ever.
 *
 * On error (ERROR_NOSPACE, ERROR_IO, ERROR_CORRUPT) the state is that of the last commit, however
 * many calls ago: the entries behind it have to be applied again, with the same results. */
enum error_code machine_apply(struct machine *machine, const struct machine_entry *entries,
                              unsigned n, machine_result_cb on_result, void *data,
                              struct error *error);

/* Ends the transaction in which entries were applied; without one it does nothing. On error as
 * machine_apply(). Checkpoints, snapshots, machine_reclaim() and machine_recount() do it first. */
enum error_code machine_commit(struct machine *machine, struct error *error);

/* From now on machine_apply() records in `events`, until NULL is set. An apply that fails leaves
 * nothing there; `events` must stay valid as long as it is set. */
void machine_record_events(struct machine *machine, struct machine_events *events);

/* From now on the time that a key has left is counted from this time, where it is later than the
 * shard's clock, which stands still while nothing is written and nothing expires. Whether a key
 * exists is still up to the shard's clock alone. 0: counted from that as well. */
void machine_set_read_time(struct machine *machine, uint64_t now_ms);

/* Cluster time less the wall clock of the node, which is kept with what is applied from now on. No
 * part of the replicated state: it differs from replica to replica, and no command sees it. */
void machine_set_wall_offset(struct machine *machine, int64_t offset_ms);

/* Runs read commands against one consistent view, until their results hold MACHINE_READ_BYTES:
 * *n_done of them are carried out then, at least one. results[i] belongs to the caller afterwards,
 * also where it is an error result; the return value is an error only when nothing could be read.
 */
enum error_code machine_read(struct machine *machine, const struct command *commands, unsigned n,
                             struct result *results, unsigned *n_done, struct error *error);

/* Moves the WAL into the database file and syncs it. *durable_index is what the file then holds.
 * While a snapshot is held it does nothing and reports the index of the last checkpoint. */
enum error_code machine_checkpoint(struct machine *machine, uint64_t *durable_index,
                                   struct error *error);
/* A checkpoint through a connection of its own, on any thread, while the machine goes on: syncs the
 * WAL and moves what it holds into the database file. *complete says that it got as far as
 * `wal_bytes`, which is what machine_wal_bytes() told at some moment before: then all that was
 * committed at that moment is durable, in the file or in the synced part of a WAL that stays until
 * the file has all of it. *moved_bytes is how much of the WAL is in the file by then, as
 * machine_wal_bytes() counts it: while that does not grow, there is nothing to fold and nobody may.
 * SQLite before 3.51.3 has a race there, between a checkpoint that begins with nothing to move and
 * a transaction that starts the WAL anew (sqlite.org/wal.html#walresetbug): pages of later
 * transactions would never reach the file. The WAL goes on growing behind it until a
 * machine_checkpoint(), or a moment when nothing is left to move. Not together with
 * machine_checkpoint(), a held snapshot or machine_replace(). Does nothing where `options->vfs` is
 * set, since only SQLite's own VFS is known to allow several connections. */
enum error_code machine_fold(const struct machine_options *options, uint64_t wal_bytes,
                             bool *complete, uint64_t *moved_bytes, struct error *error);
/* True when the entries applied since the last call changed more pages than the cache holds. Such
 * pages go to the WAL one by one and are read back; a commit writes them all at once and makes
 * room, so that it should come soon. */
bool machine_take_overflow(struct machine *machine);
/* Bytes in the WAL, to decide when to checkpoint. */
uint64_t machine_wal_bytes(const struct machine *machine);

/* Snapshots. The database file right after a checkpoint, untouched until the next one, is the
 * snapshot: holding it only postpones checkpoints. Holds nest. */
struct machine_snapshot {
    uint64_t index;
    uint64_t term;
    uint64_t config_index;
    uint64_t size; /* bytes of the database file */
};
enum error_code machine_snapshot_hold(struct machine *machine, struct machine_snapshot *snapshot,
                                      struct buffer *config, struct error *error);
void machine_snapshot_release(struct machine *machine);

/* Checks a received database file before it may replace a shard: opens, identity, integrity of the
 * header and meta rows, digest recounted when `recount` is set. Does not change it. */
enum error_code machine_verify(const struct machine_options *options, bool recount,
                               struct machine_state *state, struct error *error);
/* Replaces the closed database at `options->path` by the file `staged` (same directory): removes
 * the old WAL first, renames, syncs the directory. Crash-safe: afterwards either the old or the new
 * database is there. */
enum error_code machine_replace(const struct machine_options *options, const char *staged,
                                struct error *error);

/* Makes the closed database at `options->path` the beginning of a new cluster: the name becomes
 * `options->cluster`, the Raft configuration `config`, as of its last entry. Durable on success. */
enum error_code machine_adopt(const struct machine_options *options, struct slice config,
                              struct error *error);
/* Everything there is to check: SQLite's own check of all pages, and machine_recount(). */
enum error_code machine_check(struct machine *machine, struct error *error);

/* Deletes up to `max_rows` rows of cleared epochs. Local housekeeping: changes nothing that a
 * replica could see. *more says whether work is left. */
enum error_code machine_reclaim(struct machine *machine, unsigned max_rows, bool *more,
                                struct error *error);

/* Recounts keys, bytes and digest from the rows, for tests and offline checks. ERROR_CORRUPT when
 * they differ from the running ones, with what differs in the message. */
enum error_code machine_recount(struct machine *machine, struct error *error);

#endif
