#include "node/feed.h"

#include "base/assert.h"
#include "base/limits.h"
#include "base/mem.h"
#include "node/machine/digest.h"

enum { BUCKETS = 1024 /* a power of two */ };

struct feed_block {
    struct list_node link; /* in shard->blocks, oldest first */
    uint64_t last_index;
    struct buffer bytes; /* records, beginning with an index and a project */
};

/* A project that somebody reads. */
struct feed_project {
    struct feed_project *next_in_bucket;
    uint64_t hash;
    unsigned shard; /* that it lives in */
    unsigned n_readers;
    struct list_node live; /* readers at the end of the stream */
    /* While a portion is handed out: in the list of those that got something. */
    struct list_node touched;
    size_t name_size;
    uint8_t name[];
};

struct feed_shard {
    struct list_node blocks;
    size_t bytes;     /* of the blocks */
    uint64_t oldest;  /* events behind this index are in the blocks */
    uint64_t applied; /* ... up to this one */
    unsigned n_readers;
    struct list_node behind; /* readers */
};

struct feed {
    size_t history_bytes;
    unsigned n_shards;
    struct feed_project *buckets[BUCKETS];
    struct feed_shard shards[];
};

struct feed *feed_new(unsigned n_shards, size_t history_bytes) {
    ASSERT(n_shards <= LIMIT_SHARDS);
    struct feed *feed = mem_zalloc(1, sizeof *feed + n_shards * sizeof feed->shards[0]);
    feed->history_bytes = history_bytes;
    feed->n_shards = n_shards;
    for (unsigned i = 0; i < n_shards; i++) {
        list_init(&feed->shards[i].blocks);
        list_init(&feed->shards[i].behind);
    }
    return feed;
}

bool feed_is_on(const struct feed *feed) {
    return feed != NULL && feed->history_bytes > 0;
}

/* --- the history ------------------------------------------------------------------------------ */

static struct feed_block *block_of(struct list_node *node) {
    return LIST_ENTRY(node, struct feed_block, link);
}

static size_t block_bytes(const struct feed_block *block) {
    return sizeof *block + block->bytes.capacity;
}

static struct feed_block *last_block(struct feed_shard *shard) {
    return list_empty(&shard->blocks) ? NULL : block_of(shard->blocks.prev);
}

static void drop_block(struct feed_shard *shard, struct feed_block *block) {
    shard->bytes -= block_bytes(block);
    list_remove(&block->link);
    buffer_free(&block->bytes);
    mem_free(block);
}

static void drop_blocks(struct feed_shard *shard) {
    while (!list_empty(&shard->blocks)) {
        drop_block(shard, block_of(list_first(&shard->blocks)));
    }
}

void feed_free(struct feed *feed) {
    if (feed == NULL) {
        return;
    }
    for (unsigned i = 0; i < feed->n_shards; i++) {
        ASSERT(feed->shards[i].n_readers == 0);
        drop_blocks(&feed->shards[i]);
    }
    mem_free(feed);
}

static struct feed_block *add_block(struct feed_shard *shard) {
    struct feed_block *block = mem_zalloc(1, sizeof *block);
    list_push(&shard->blocks, &block->link);
    shard->bytes += block_bytes(block);
    return block;
}

/* Gives back the room that the buffer has grown in advance. */
static void shrink(struct buffer *bytes) {
    bytes->data = mem_realloc(bytes->data, bytes->size);
    bytes->capacity = bytes->size;
}

/* Adds a portion: a large one as it is, without copying, a small one to others. *offset is where in
 * the block it begins. */
static struct feed_block *append(struct feed_shard *shard, struct buffer *bytes, uint64_t index,
                                 size_t *offset) {
    struct feed_block *block = last_block(shard);
    *offset = 0;
    if (bytes->size >= FEED_LINK_BYTES) {
        block = add_block(shard);
        shard->bytes -= block_bytes(block);
        block->bytes = *bytes;
        *bytes = (struct buffer){0};
        shrink(&block->bytes);
    } else {
        if (block == NULL || block->bytes.size + bytes->size > FEED_BLOCK_BYTES) {
            block = add_block(shard);
        }
        *offset = block->bytes.size;
        shard->bytes -= block_bytes(block);
        buffer_append_slice(&block->bytes, buffer_slice(bytes));
    }
    shard->bytes += block_bytes(block);
    block->last_index = index;
    return block;
}

/* --- projects and readers --------------------------------------------------------------------- */

static struct feed_project **place_of(struct feed *feed, uint64_t hash, struct slice name) {
    struct feed_project **place = &feed->buckets[hash & (BUCKETS - 1)];
    while (*place != NULL &&
           !((*place)->hash == hash &&
             slice_equal(slice_make((*place)->name, (*place)->name_size), name))) {
        place = &(*place)->next_in_bucket;
    }
    return place;
}

static struct feed_project *hold_project(struct feed *feed, unsigned shard, struct slice name) {
    uint64_t hash = digest_seed(name);
    struct feed_project **place = place_of(feed, hash, name);
    if (*place == NULL) {
        struct feed_project *project = mem_zalloc(1, sizeof *project + name.size);
        project->hash = hash;
        project->shard = shard;
        list_init(&project->live);
        list_init(&project->touched);
        project->name_size = name.size;
        if (name.size > 0) {
            memcpy(project->name, name.data, name.size);
        }
        *place = project;
    }
    (*place)->n_readers++;
    return *place;
}

static void release_project(struct feed *feed, struct feed_project *project) {
    if (--project->n_readers > 0) {
        return;
    }
    list_remove(&project->touched);
    struct feed_project **place =
        place_of(feed, project->hash, slice_make(project->name, project->name_size));
    *place = project->next_in_bucket;
    mem_free(project);
}

static struct feed_shard *shard_of(const struct feed_reader *reader) {
    return &reader->feed->shards[reader->shard];
}

static void set_live(struct feed_reader *reader) {
    list_remove(&reader->link);
    list_push(&reader->project->live, &reader->link);
    reader->block = NULL;
}

static void set_behind(struct feed_reader *reader, struct feed_block *block,
                       const struct machine_event_cursor *at) {
    list_remove(&reader->link);
    list_push(&shard_of(reader)->behind, &reader->link);
    reader->block = block;
    reader->at = *at;
}

static void open_reader(struct feed *feed, struct feed_reader *reader, unsigned shard,
                        struct slice project, uint64_t after) {
    ASSERT(feed_is_on(feed) && reader->feed == NULL && shard < feed->n_shards);
    reader->feed = feed;
    reader->shard = shard;
    reader->project = hold_project(feed, shard, project);
    ASSERT(reader->project->shard == shard);
    reader->after = after;
    list_init(&reader->link);
    feed->shards[shard].n_readers++;
    set_live(reader);
}

uint64_t feed_reader_open(struct feed *feed, struct feed_reader *reader, unsigned shard,
                          struct slice project) {
    uint64_t index = feed_index(feed, shard);
    open_reader(feed, reader, shard, project, index);
    return index;
}

bool feed_reader_open_from(struct feed *feed, struct feed_reader *reader, unsigned shard,
                           struct slice project, uint64_t index) {
    struct feed_shard *from = &feed->shards[shard];
    if (index < from->oldest) {
        return false;
    }
    open_reader(feed, reader, shard, project, index);
    for (struct list_node *node = from->blocks.next; node != &from->blocks; node = node->next) {
        if (block_of(node)->last_index > index) {
            set_behind(reader, block_of(node), &(struct machine_event_cursor){0});
            break;
        }
    }
    return true;
}

void feed_reader_close(struct feed_reader *reader) {
    if (reader->feed == NULL) {
        return;
    }
    list_remove(&reader->link);
    shard_of(reader)->n_readers--;
    release_project(reader->feed, reader->project);
    reader->feed = NULL;
    reader->project = NULL;
    reader->block = NULL;
}

bool feed_reader_is_open(const struct feed_reader *reader) {
    return reader->feed != NULL;
}

bool feed_reader_is_behind(const struct feed_reader *reader) {
    return reader->block != NULL;
}

struct slice feed_reader_project(const struct feed_reader *reader) {
    ASSERT(reader->feed != NULL);
    return slice_make(reader->project->name, reader->project->name_size);
}

static void lose(struct feed_reader *reader, enum feed_loss loss, uint64_t index) {
    const struct feed_listener *listener = reader->listener;
    void *data = reader->data;
    if (reader->may_skip && loss == FEED_UNKNOWN) {
        reader->after = index;
        set_live(reader);
    } else {
        feed_reader_close(reader);
    }
    listener->on_lost(data, loss, index);
}

/* --- behind ----------------------------------------------------------------------------------- */

/* Delivers what the reader's block still has for it, within `budget`; false when it has to stop. */
static bool run_block(struct feed_reader *reader, size_t *budget) {
    struct slice bytes = buffer_slice(&reader->block->bytes);
    struct slice name = feed_reader_project(reader);
    struct machine_event_cursor next = reader->at;
    struct machine_event event;
    while (machine_event_next(bytes, &next, &event)) {
        size_t size = next.offset - reader->at.offset;
        bool wanted = event.index > reader->after && slice_equal(event.project, name);
        if (wanted && !reader->listener->on_event(reader->data, &event)) {
            return false;
        }
        reader->at = next;
        *budget = size < *budget ? *budget - size : 0;
        if (*budget == 0) {
            return false;
        }
    }
    return true;
}

void feed_reader_run(struct feed_reader *reader) {
    size_t budget = FEED_RUN_BYTES;
    if (reader->block == NULL) {
        return;
    }
    struct feed_shard *shard = shard_of(reader);
    while (run_block(reader, &budget)) {
        if (reader->block->link.next == &shard->blocks) {
            set_live(reader);
            reader->listener->on_settled(reader->data, shard->applied);
            return;
        }
        reader->block = block_of(reader->block->link.next);
        reader->at = (struct machine_event_cursor){0};
    }
}

/* --- what comes ------------------------------------------------------------------------------- */

/* Readers of the project at a record, NULL when it has none. */
static struct feed_project *find_project(struct feed *feed, struct slice name) {
    return *place_of(feed, digest_seed(name), name);
}

static void hand_out_event(struct feed_project *project, const struct machine_event *event,
                           struct feed_block *block, const struct machine_event_cursor *at) {
    struct list_node *node = project->live.next;
    while (node != &project->live) {
        struct feed_reader *reader = LIST_ENTRY(node, struct feed_reader, link);
        node = node->next;
        if (event->index > reader->after && !reader->listener->on_event(reader->data, event)) {
            set_behind(reader, block, at);
        }
    }
}

/* Gives the new events, in the block from `offset` on, to the readers that were at the end. */
static void hand_out(struct feed *feed, struct feed_shard *shard, struct feed_block *block,
                     size_t offset) {
    struct slice bytes = buffer_slice(&block->bytes);
    struct machine_event_cursor at = {.offset = offset};
    struct machine_event_cursor next = at;
    struct machine_event event;
    struct feed_project *project = NULL;
    size_t project_at = SIZE_MAX;
    struct list_node touched;
    list_init(&touched);
    while (machine_event_next(bytes, &next, &event)) {
        if (next.project_at != project_at) {
            project_at = next.project_at;
            project = find_project(feed, event.project);
            if (project != NULL && list_empty(&project->touched)) {
                list_push(&touched, &project->touched);
            }
        }
        if (project != NULL) {
            hand_out_event(project, &event, block, &at);
        }
        at = next;
    }
    struct list_node *first;
    while ((first = list_first(&touched)) != NULL) {
        list_remove(first);
        project = LIST_ENTRY(first, struct feed_project, touched);
        for (struct list_node *node = project->live.next; node != &project->live;
             node = node->next) {
            struct feed_reader *reader = LIST_ENTRY(node, struct feed_reader, link);
            reader->listener->on_settled(reader->data, shard->applied);
        }
    }
}

/* Keeps the history within its bound. Readers that still need what goes are lost. */
static void trim(struct feed *feed, struct feed_shard *shard) {
    while (shard->bytes > feed->history_bytes && !list_empty(&shard->blocks)) {
        struct feed_block *block = block_of(list_first(&shard->blocks));
        shard->oldest = block->last_index;
        struct list_node *node = shard->behind.next;
        while (node != &shard->behind) {
            struct feed_reader *reader = LIST_ENTRY(node, struct feed_reader, link);
            node = node->next;
            if (reader->block == block) {
                lose(reader, FEED_TOO_SLOW, shard->oldest);
            }
        }
        drop_block(shard, block);
    }
}

void feed_applied(struct feed *feed, unsigned number, struct machine_events *events,
                  uint64_t index) {
    if (!feed_is_on(feed)) {
        return;
    }
    struct feed_shard *shard = &feed->shards[number];
    ASSERT(index >= shard->applied);
    if (events->lost) {
        feed_restart(feed, number, index);
        return;
    }
    shard->applied = index;
    if (events->bytes.size == 0) {
        return;
    }
    size_t offset;
    struct feed_block *block = append(shard, &events->bytes, index, &offset);
    if (shard->n_readers > 0) {
        hand_out(feed, shard, block, offset);
    }
    trim(feed, shard);
}

/* A reader that came from ahead of `index` has missed nothing. */
static void lose_live_of(struct feed *feed, struct feed_project *project, uint64_t index) {
    project->n_readers++; /* stays until this is done */
    struct list_node *node = project->live.next;
    while (node != &project->live) {
        struct feed_reader *reader = LIST_ENTRY(node, struct feed_reader, link);
        node = node->next;
        if (reader->after < index) {
            lose(reader, FEED_UNKNOWN, index);
        }
    }
    release_project(feed, project);
}

void feed_restart(struct feed *feed, unsigned number, uint64_t index) {
    if (!feed_is_on(feed)) {
        return;
    }
    struct feed_shard *shard = &feed->shards[number];
    if (index <= shard->applied) {
        return; /* a state that fell back for lack of space got a snapshot: nothing is unknown */
    }
    shard->applied = index;
    shard->oldest = index;
    while (!list_empty(&shard->behind)) {
        lose(LIST_ENTRY(list_first(&shard->behind), struct feed_reader, link), FEED_UNKNOWN, index);
    }
    for (unsigned i = 0; i < BUCKETS && shard->n_readers > 0; i++) {
        struct feed_project *next;
        for (struct feed_project *project = feed->buckets[i]; project != NULL; project = next) {
            next = project->next_in_bucket;
            if (project->shard == number) {
                lose_live_of(feed, project, index);
            }
        }
    }
    drop_blocks(shard);
}

uint64_t feed_index(const struct feed *feed, unsigned shard) {
    return feed->shards[shard].applied;
}

uint64_t feed_oldest(const struct feed *feed, unsigned shard) {
    return feed->shards[shard].oldest;
}

uint64_t feed_bytes(const struct feed *feed) {
    uint64_t bytes = 0;
    for (unsigned i = 0; i < feed->n_shards; i++) {
        bytes += feed->shards[i].bytes;
    }
    return bytes;
}
