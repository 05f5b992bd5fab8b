/* The replicated log of one node: one append-only, segmented log shared by all its Raft groups, so
 * that one fdatasync commits the pending entries, terms and votes of every group (group commit).
 *
 * Threads: every function is called on the loop thread unless said otherwise. One log thread writes
 * and syncs; completions are delivered on the loop thread, in the order of the requests.
 * A failed write or sync is fatal (assert_fatal): after it nobody knows what is on disk. The one
 * exception is lack of space, which is found while preparing the next segment, before anything is
 * promised: see log_has_space().
 *
 * Formats are drawn in raft/log_format.h, recovery is explained in docs/disk-format.md. */
#ifndef RAFT_LOG_H
#define RAFT_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/histogram.h"
#include "base/limits.h"
#include "base/payload.h"

struct uv_loop_s;
struct storage;
struct log;

struct log_options {
    const char *dir;       /* directory of the segments; created when missing */
    unsigned n_groups;     /* groups are numbered 0 .. n_groups - 1 */
    uint64_t segment_size; /* bytes, at least LIMIT_SEGMENT_SIZE_MIN, rounded up to 4 KiB */
    uint64_t cache_size;   /* bytes of recent entries kept in memory, all groups together */
    uint64_t identity;     /* random incarnation of the data directory, stamped into segments */
    /* This node has had a log: its absence is ERROR_CORRUPT. A node that forgot its votes and
     * entries must not take part under its old identity. */
    bool must_exist;
    const struct storage *storage; /* NULL: the real disk */
};

enum log_entry_kind {
    LOG_ENTRY_COMMAND = 1, /* same numbers as libraft's raft_entry_type */
    LOG_ENTRY_BARRIER = 2,
    LOG_ENTRY_CHANGE = 3
};

struct log_entry {
    uint64_t term;
    enum log_entry_kind kind;
    struct payload *payload; /* never NULL, may have size 0 */
};

/* What recovery found for a group. first == last + 1 when the group has no entries; then `first -
 * 1` and `base_term` are where its log was cut or reset (0 and 0 when it never had any). */
struct log_group_state {
    uint64_t term;      /* current term */
    uint64_t voted_for; /* node id voted for in `term`, or 0 */
    uint64_t first;     /* index of the first retained entry */
    uint64_t last;      /* index of the last entry */
    uint64_t base_term; /* term of the entry at first - 1, 0 when unknown */
};

/* A durability request. The caller owns the memory until `done` has run. */
struct log_request {
    void (*done)(struct log_request *request);
    void *data;
    struct log_request *next; /* for the log's own use */
};

/* Opens or creates the log and replays it. A torn tail (a bad record in the last, unsynced batch)
 * is cut off; a bad record with later batches behind it is ERROR_CORRUPT and names segment and
 * offset; segments of another data directory are ERROR_MISMATCH. On error *log is NULL. `loop`
 * receives the completions. */
enum error_code log_open(struct log **log, struct uv_loop_s *loop,
                         const struct log_options *options, struct error *error);

/* Starts closing: writes what is pending, seals the tail, stops the thread; `closed` runs on the
 * loop after the last completion, and the log is freed after it returns. */
void log_close(struct log *log, void (*closed)(void *data), void *data);

struct log_group_state log_state(const struct log *log, unsigned group);

/* Term and kind of a retained entry; false when the log does not hold `index`. The term of
 * `first - 1` is answered as well when it is known (with *kind set to 0). */
bool log_lookup(const struct log *log, unsigned group, uint64_t index, uint64_t *term,
                enum log_entry_kind *kind);

/* Queues `n` entries for `group` from `first` on. When `first` <= last, the entries from `first` on
 * are replaced (that is how Raft truncates a conflicting suffix). `first` may not leave a gap.
 * Takes its own references to the payloads. `request` (may be NULL) completes when the entries and
 * all that was queued before them are durable. The entries can be looked up and read at once. */
void log_append(struct log *log, unsigned group, uint64_t first, const struct log_entry *entries,
                unsigned n, struct log_request *request);

/* Queues the group's new term and vote. */
void log_set_vote(struct log *log, unsigned group, uint64_t term, uint64_t voted_for,
                  struct log_request *request);

/* After a snapshot was installed: forgets every entry of the group; its log goes on after `index`,
 * whose entry had `term`. */
void log_reset(struct log *log, unsigned group, uint64_t index, uint64_t term,
               struct log_request *request);

/* Entries up to `index` (included) are not needed any more. Durable in its own time: after a crash
 * a cut may be forgotten, never the entries behind it. Segments that no group needs are removed or
 * recycled. */
void log_cut(struct log *log, unsigned group, uint64_t index);

/* Hands pending requests to the log thread. Called once at the end of each loop iteration, so that
 * everything of that iteration shares one sync; while a sync is under way more may gather. */
void log_kick(struct log *log);

/* A cached entry with its own payload reference, or false. Never reads the disk. Entries of kind
 * LOG_ENTRY_CHANGE are always cached. */
bool log_cached(const struct log *log, unsigned group, uint64_t index, struct log_entry *entry);

/* Reads entries [first, first + n) in the background, at most `max_bytes` of payload but at least
 * one entry. `done` runs on the loop: on success `n` entries (it takes over their references; the
 * array itself is freed after it returns), on failure error code with n == 0: ERROR_CORRUPT for
 * damaged records, ERROR_INVALID when the range was truncated, reset or cut in the meantime. */
typedef void (*log_read_done)(void *data, enum error_code code, uint64_t first,
                              struct log_entry *entries, unsigned n);
void log_read(struct log *log, unsigned group, uint64_t first, unsigned n, uint64_t max_bytes,
              log_read_done done, void *data);

/* False while the disk has no room for the next segment: the caller refuses new entries, terms and
 * votes still fit into a reserve. Turns true by itself when space returns (retried every second).
 * What was accepted before that was known waits for space, for a minute, then the process ends. */
bool log_has_space(const struct log *log);

/* Entries of `group` whose bytes lie in the oldest segment keep it from being removed. Returns true
 * and the group whose cut would free the oldest segment when the log holds more than
 * `max_segments` segments, so that the caller can checkpoint that group. */
bool log_pinned_by(const struct log *log, unsigned max_segments, unsigned *group);

struct log_stats {
    uint64_t segments;      /* segment files in use */
    uint64_t bytes;         /* of those */
    uint64_t cache_bytes;   /* payload bytes in the cache */
    uint64_t syncs;         /* fdatasync calls so far */
    uint64_t batches;       /* batches written */
    uint64_t sync_ns_total; /* time in fdatasync */
    uint64_t sync_ns_max;   /* longest since the last call of log_stats */
    struct histogram sync;  /* how long each fdatasync took */
    uint64_t queued_bytes;  /* waiting for the log thread */
};
struct log_stats log_stats(struct log *log);

#endif
