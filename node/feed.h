/* The change feed of a node: what its replicas applied, in log order, to readers that follow one
 * project each, with a bounded history behind it. docs/change-feed.md tells clients what it
 * promises.
 *
 * A shard's events are one stream. Its newest part is kept in blocks; readers either are at its end
 * and get events as they come, or are behind: those that asked for the past, and those that could
 * not take an event when it came. They go on with feed_reader_run(). What falls out of the history
 * takes the readers that still need it along: on_lost. So nothing grows with a reader's slowness.
 *
 * Pure. Threads: the loop thread. */
#ifndef NODE_FEED_H
#define NODE_FEED_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/list.h"
#include "node/machine/events.h"

struct feed;
struct feed_block;
struct feed_project;

enum {
    FEED_RUN_BYTES = 256 * 1024,  /* of the history that one feed_reader_run() looks at, or so */
    FEED_BLOCK_BYTES = 64 * 1024, /* small portions of events gather in blocks of this size */
    FEED_LINK_BYTES = 16 * 1024   /* larger portions are blocks of their own */
};

enum feed_loss {
    FEED_TOO_SLOW, /* the reader was behind, and the history has moved on */
    FEED_UNKNOWN   /* this replica does not know what happened: a snapshot took its place, or there
                    * was more at once than the history holds */
};

/* What a reader is told. None of these may open or close readers, but on_lost may close its own. */
struct feed_listener {
    /* Takes an event, or answers false: then the reader is behind, and this event comes again. */
    bool (*on_event)(void *data, const struct machine_event *event);
    /* Everything up to `index` has been delivered. Called after events, not for every index. */
    void (*on_settled)(void *data, uint64_t index);
    /* Events after the last delivered one and up to `index` are lost to this reader. It is closed
     * already, unless it may skip and the loss is FEED_UNKNOWN: then it goes on behind `index`. */
    void (*on_lost)(void *data, enum feed_loss loss, uint64_t index);
};

/* Embedded by its owner; zeroed before it is opened. */
struct feed_reader {
    /* Set by the owner before it is opened. */
    const struct feed_listener *listener;
    void *data;
    bool may_skip; /* at most once is enough */

    /* The feed's. */
    struct feed *feed; /* NULL while closed */
    unsigned shard;
    struct feed_project *project;
    struct list_node link;    /* in project->live or shard->behind */
    uint64_t after;           /* events up to this index are not wanted */
    struct feed_block *block; /* behind: where it is; NULL: at the end */
    struct machine_event_cursor at;
};

/* `history_bytes` for each shard, 0: the feed is off and no reader can be opened. */
struct feed *feed_new(unsigned n_shards, size_t history_bytes);
/* All readers must be closed. */
void feed_free(struct feed *feed);
bool feed_is_on(const struct feed *feed);

/* Events behind `index`, which the shard has applied, will follow. Again when some were missed;
 * does nothing when the feed has reached that index. */
void feed_restart(struct feed *feed, unsigned shard, uint64_t index);
/* The shard has applied everything up to `index`; takes the bytes out of `events`. */
void feed_applied(struct feed *feed, unsigned shard, struct machine_events *events, uint64_t index);

/* Index that the feed of the shard has reached. */
uint64_t feed_index(const struct feed *feed, unsigned shard);
/* Events behind this index are in the history. */
uint64_t feed_oldest(const struct feed *feed, unsigned shard);
/* Bytes of all histories. */
uint64_t feed_bytes(const struct feed *feed);

/* Events of the project that come from now on; returns the index behind which. */
uint64_t feed_reader_open(struct feed *feed, struct feed_reader *reader, unsigned shard,
                          struct slice project);
/* Events of the project behind `index`, which may lie ahead of what the shard has applied. False
 * when the history does not reach back that far: the reader stays closed. It is behind at first. */
bool feed_reader_open_from(struct feed *feed, struct feed_reader *reader, unsigned shard,
                           struct slice project, uint64_t index);
/* Closing a closed reader is harmless. */
void feed_reader_close(struct feed_reader *reader);
bool feed_reader_is_open(const struct feed_reader *reader);
bool feed_reader_is_behind(const struct feed_reader *reader);
/* Delivers what a reader that is behind has missed, within bounds; does nothing otherwise. */
void feed_reader_run(struct feed_reader *reader);
struct slice feed_reader_project(const struct feed_reader *reader);

#endif
