#include "raft/log_index.h"

#include "base/assert.h"
#include "base/limits.h"
#include "base/mem.h"
#include "raft/log_format.h"

enum { CHUNK_ENTRIES = 1024 };

static_assert(sizeof(struct log_index_entry) <= 32, "the promise of at most 32 bytes an entry");

struct group {
    struct log_group_state state;
    /* chunks[k] holds entries (chunk_first + k) * CHUNK_ENTRIES and the following; NULL: all of
     * them are unknown. */
    struct log_index_entry **chunks;
    uint64_t chunk_first;
    uint64_t n_chunks;
    uint64_t chunk_capacity;
};

/* An entry's turn to be evicted. It is stale when the entry has another payload by now, or none. */
struct cached {
    const struct payload *payload;
    uint64_t i;
    unsigned group;
};

struct segment_use {
    uint64_t bytes;
    uint64_t entries;
    uint32_t *by_group;
};

struct log_index {
    unsigned n_groups;
    struct group *groups;

    uint64_t cache_size;
    uint64_t cache_bytes;
    struct cached *queue; /* ring of the cached entries in the order in which they came */
    uint64_t queue_capacity;
    uint64_t queue_head;
    uint64_t queue_size;

    struct segment_use *segments; /* of segment_oldest and the following */
    uint32_t segment_oldest;
    uint32_t n_segments;
    uint32_t segment_capacity;
};

struct log_index *log_index_new(unsigned n_groups, uint64_t cache_size) {
    ASSERT(n_groups > 0 && n_groups <= LIMIT_SHARDS);
    struct log_index *index = mem_zalloc(1, sizeof *index);
    index->n_groups = n_groups;
    index->groups = mem_zalloc(n_groups, sizeof *index->groups);
    for (unsigned g = 0; g < n_groups; g++) {
        index->groups[g].state.first = 1;
    }
    index->cache_size = cache_size;
    return index;
}

static struct group *group_of(const struct log_index *index, unsigned group) {
    ASSERT(group < index->n_groups);
    return &index->groups[group];
}

static bool group_has(const struct group *group, uint64_t i) {
    return i >= group->state.first && i <= group->state.last;
}

/* The slot of a retained entry, or NULL when its chunk was never filled. */
static struct log_index_entry *group_find(const struct group *group, uint64_t i) {
    uint64_t chunk = i / CHUNK_ENTRIES;
    if (chunk < group->chunk_first || chunk - group->chunk_first >= group->n_chunks ||
        group->chunks[chunk - group->chunk_first] == NULL) {
        return NULL;
    }
    return &group->chunks[chunk - group->chunk_first][i % CHUNK_ENTRIES];
}

static void group_reserve_chunks(struct group *group, uint64_t n) {
    if (n <= group->chunk_capacity) {
        return;
    }
    uint64_t capacity = group->chunk_capacity * 2 > n ? group->chunk_capacity * 2 : n;
    group->chunks = mem_realloc(group->chunks, (size_t)capacity * sizeof *group->chunks);
    group->chunk_capacity = capacity;
}

/* Makes room for the chunk of entry `i`, which is at most one behind the last. */
static struct log_index_entry *group_slot(struct group *group, uint64_t i) {
    uint64_t chunk = i / CHUNK_ENTRIES;
    if (group->n_chunks == 0) {
        group->chunk_first = chunk;
    }
    ASSERT(chunk >= group->chunk_first);
    uint64_t position = chunk - group->chunk_first;
    ASSERT(position <= group->n_chunks);
    if (position == group->n_chunks) {
        group_reserve_chunks(group, position + 1);
        group->chunks[position] = NULL;
        group->n_chunks++;
    }
    if (group->chunks[position] == NULL) {
        group->chunks[position] = mem_zalloc(CHUNK_ENTRIES, sizeof(struct log_index_entry));
    }
    return &group->chunks[position][i % CHUNK_ENTRIES];
}

static void group_free_chunks(struct group *group, uint64_t from, uint64_t to) {
    for (uint64_t k = from; k < to; k++) {
        mem_free(group->chunks[k]);
    }
}

/* Frees the chunks that hold no entry in [first, last]. */
static void group_trim(struct group *group) {
    if (group->n_chunks == 0) {
        return;
    }
    uint64_t keep_from = group->state.first / CHUNK_ENTRIES;
    uint64_t keep_to = group->state.last / CHUNK_ENTRIES + 1;
    if (group->state.first > group->state.last) {
        keep_from = group->chunk_first;
        keep_to = keep_from;
    }
    ASSERT(keep_from >= group->chunk_first);
    uint64_t front = keep_from - group->chunk_first;
    uint64_t end = keep_to - group->chunk_first;
    ASSERT(front <= end && end <= group->n_chunks);
    group_free_chunks(group, end, group->n_chunks);
    group_free_chunks(group, 0, front);
    group->n_chunks = end - front;
    group->chunk_first = keep_from;
    if (front > 0 && group->n_chunks > 0) {
        memmove(group->chunks, group->chunks + front,
                (size_t)group->n_chunks * sizeof *group->chunks);
    }
}

static struct segment_use *segment_find(const struct log_index *index, uint32_t number) {
    ASSERT(number >= index->segment_oldest && number - index->segment_oldest < index->n_segments);
    return &index->segments[number - index->segment_oldest];
}

static void entry_occupy(struct log_index *index, unsigned group,
                         const struct log_index_entry *entry) {
    struct segment_use *use = segment_find(index, entry->location.segment);
    use->bytes += log_record_size(entry->size);
    use->entries++;
    use->by_group[group]++;
}

static void entry_vacate(struct log_index *index, unsigned group,
                         const struct log_index_entry *entry) {
    struct segment_use *use = segment_find(index, entry->location.segment);
    ASSERT(use->entries > 0 && use->by_group[group] > 0);
    use->bytes -= log_record_size(entry->size);
    use->entries--;
    use->by_group[group]--;
}

/* What an entry costs in memory while it is cached. */
static uint64_t cache_cost(const struct log_index_entry *entry) {
    return entry->size + sizeof(struct payload) + sizeof(struct cached);
}

static void entry_uncache(struct log_index *index, struct log_index_entry *entry) {
    if (entry->payload == NULL) {
        return;
    }
    index->cache_bytes -= cache_cost(entry);
    payload_unref(entry->payload);
    entry->payload = NULL;
}

static void entry_drop(struct log_index *index, unsigned group, struct log_index_entry *entry) {
    if (entry->kind == 0) {
        return;
    }
    if (!entry->pending) {
        entry_vacate(index, group, entry);
    }
    entry_uncache(index, entry);
    *entry = (struct log_index_entry){.term = 0};
}

static void drop_range(struct log_index *index, unsigned group, uint64_t from, uint64_t to) {
    struct group *g = group_of(index, group);
    for (uint64_t i = from; i <= to; i++) {
        struct log_index_entry *entry = group_find(g, i);
        if (entry != NULL) {
            entry_drop(index, group, entry);
        } else {
            /* A chunk that was never filled: go to its last entry. */
            i |= CHUNK_ENTRIES - 1;
        }
    }
}

void log_index_free(struct log_index *index) {
    for (unsigned g = 0; g < index->n_groups; g++) {
        struct group *group = &index->groups[g];
        if (group->state.first <= group->state.last) {
            drop_range(index, g, group->state.first, group->state.last);
        }
        group_free_chunks(group, 0, group->n_chunks);
        mem_free(group->chunks);
    }
    ASSERT(index->cache_bytes == 0);
    for (uint32_t s = 0; s < index->n_segments; s++) {
        mem_free(index->segments[s].by_group);
    }
    mem_free(index->segments);
    mem_free(index->queue);
    mem_free(index->groups);
    mem_free(index);
}

struct log_group_state log_index_state(const struct log_index *index, unsigned group) {
    return group_of(index, group)->state;
}

const struct log_index_entry *log_index_get(const struct log_index *index, unsigned group,
                                            uint64_t i) {
    const struct group *g = group_of(index, group);
    return group_has(g, i) ? group_find(g, i) : NULL;
}

void log_index_set_vote(struct log_index *index, unsigned group, uint64_t term,
                        uint64_t voted_for) {
    struct group *g = group_of(index, group);
    g->state.term = term;
    g->state.voted_for = voted_for;
}

/* Drops entry `i` and what follows. */
static void truncate_from(struct log_index *index, unsigned group, uint64_t i) {
    struct group *g = group_of(index, group);
    if (i > g->state.last) {
        return;
    }
    drop_range(index, group, i, g->state.last);
    g->state.last = i - 1;
    group_trim(g);
}

static bool queue_is_stale(const struct log_index *index, const struct cached *cached) {
    const struct log_index_entry *entry = log_index_get(index, cached->group, cached->i);
    return entry == NULL || entry->payload != cached->payload;
}

/* Moves the ring to a larger array, or only drops what is stale when that is half of it. */
static void queue_grow(struct log_index *index) {
    uint64_t capacity = index->queue_capacity;
    struct cached *kept = mem_alloc((size_t)(capacity == 0 ? 1024 : capacity * 2) * sizeof *kept);
    uint64_t n = 0;
    for (uint64_t k = 0; k < index->queue_size; k++) {
        struct cached *cached = &index->queue[(index->queue_head + k) % capacity];
        if (!queue_is_stale(index, cached)) {
            kept[n++] = *cached;
        }
    }
    if (n <= capacity / 2 && capacity > 0) {
        kept = mem_realloc(kept, (size_t)capacity * sizeof *kept);
    } else {
        capacity = capacity == 0 ? 1024 : capacity * 2;
    }
    mem_free(index->queue);
    index->queue = kept;
    index->queue_capacity = capacity;
    index->queue_head = 0;
    index->queue_size = n;
}

static void queue_push(struct log_index *index, unsigned group, uint64_t i,
                       const struct payload *payload) {
    if (index->queue_size == index->queue_capacity) {
        queue_grow(index);
    }
    uint64_t slot = (index->queue_head + index->queue_size) % index->queue_capacity;
    index->queue[slot] = (struct cached){.payload = payload, .i = i, .group = group};
    index->queue_size++;
}

static void queue_pop(struct log_index *index) {
    index->queue_head = (index->queue_head + 1) % index->queue_capacity;
    index->queue_size--;
}

void log_index_evict(struct log_index *index) {
    while (index->queue_size > 0) {
        const struct cached *head = &index->queue[index->queue_head];
        if (!queue_is_stale(index, head)) {
            if (index->cache_bytes <= index->cache_size) {
                return;
            }
            struct log_index_entry *entry = group_find(group_of(index, head->group), head->i);
            if (entry->pending) {
                return; /* what follows is pending as well */
            }
            /* Configurations stay: whoever starts or follows the log needs them at once. */
            if (entry->kind != LOG_ENTRY_CHANGE) {
                entry_uncache(index, entry);
            }
        }
        queue_pop(index);
    }
}

void log_index_append(struct log_index *index, unsigned group, uint64_t first,
                      const struct log_entry *entries, unsigned n, uint64_t ticket) {
    struct group *g = group_of(index, group);
    ASSERT(first >= g->state.first && first <= g->state.last + 1);
    truncate_from(index, group, first);
    for (unsigned k = 0; k < n; k++) {
        const struct log_entry *from = &entries[k];
        ASSERT(from->payload != NULL && from->payload->size <= LIMIT_ENTRY_SIZE);
        ASSERT(from->kind >= LOG_ENTRY_COMMAND && from->kind <= LOG_ENTRY_CHANGE);
        struct log_index_entry *entry = group_slot(g, first + k);
        *entry = (struct log_index_entry){
            .term = from->term,
            .payload = payload_ref(from->payload),
            .location = {.segment = (uint32_t)(ticket >> 32), .unit = (uint32_t)ticket},
            .size = (uint32_t)from->payload->size,
            .kind = (uint8_t)from->kind,
            .pending = true,
        };
        g->state.last = first + k;
        index->cache_bytes += cache_cost(entry);
        queue_push(index, group, first + k, from->payload);
    }
}

void log_index_durable(struct log_index *index, unsigned group, uint64_t i, uint64_t ticket,
                       struct log_location location) {
    struct group *g = group_of(index, group);
    struct log_index_entry *entry = group_has(g, i) ? group_find(g, i) : NULL;
    if (entry == NULL || !entry->pending || entry->location.segment != (uint32_t)(ticket >> 32) ||
        entry->location.unit != (uint32_t)ticket) {
        return;
    }
    entry->pending = false;
    entry->location = location;
    entry_occupy(index, group, entry);
}

void log_index_relocated(struct log_index *index, unsigned group, uint64_t i,
                         struct log_location from, struct log_location to) {
    struct group *g = group_of(index, group);
    struct log_index_entry *entry = group_has(g, i) ? group_find(g, i) : NULL;
    if (entry == NULL || entry->pending || entry->location.segment != from.segment ||
        entry->location.unit != from.unit) {
        return;
    }
    entry_vacate(index, group, entry);
    entry->location = to;
    entry_occupy(index, group, entry);
}

void log_index_reset(struct log_index *index, unsigned group, uint64_t i, uint64_t term) {
    struct group *g = group_of(index, group);
    ASSERT(i <= LOG_INDEX_MAX);
    if (g->state.first <= g->state.last) {
        drop_range(index, group, g->state.first, g->state.last);
    }
    g->state.first = i + 1;
    g->state.last = i;
    g->state.base_term = term;
    group_trim(g);
}

static void cut_to(struct log_index *index, unsigned group, uint64_t i, uint64_t term) {
    struct group *g = group_of(index, group);
    drop_range(index, group, g->state.first, i);
    g->state.first = i + 1;
    g->state.base_term = term;
    group_trim(g);
}

uint64_t log_index_cut(struct log_index *index, unsigned group, uint64_t i) {
    const struct log_index_entry *entry = log_index_get(index, group, i);
    ASSERT(entry != NULL);
    uint64_t term = entry->term;
    cut_to(index, group, i, term);
    return term;
}

uint64_t log_index_cache_bytes(const struct log_index *index) {
    return index->cache_bytes;
}

uint64_t log_index_queue_capacity(const struct log_index *index) {
    return index->queue_capacity;
}

void log_index_segment_add(struct log_index *index, uint32_t number) {
    if (index->n_segments == 0) {
        index->segment_oldest = number;
    }
    ASSERT(number == index->segment_oldest + index->n_segments);
    if (index->n_segments == index->segment_capacity) {
        uint32_t capacity = index->segment_capacity == 0 ? 16 : index->segment_capacity * 2;
        index->segments = mem_realloc(index->segments, capacity * sizeof *index->segments);
        index->segment_capacity = capacity;
    }
    index->segments[index->n_segments] = (struct segment_use){
        .by_group = mem_zalloc(index->n_groups, sizeof(uint32_t)),
    };
    index->n_segments++;
}

void log_index_segment_remove(struct log_index *index) {
    ASSERT(index->n_segments > 1 && index->segments[0].entries == 0);
    ASSERT(index->segments[0].bytes == 0);
    mem_free(index->segments[0].by_group);
    index->n_segments--;
    index->segment_oldest++;
    memmove(index->segments, index->segments + 1, index->n_segments * sizeof *index->segments);
}

uint32_t log_index_segment_oldest(const struct log_index *index) {
    ASSERT(index->n_segments > 0);
    return index->segment_oldest;
}

uint32_t log_index_segment_newest(const struct log_index *index) {
    ASSERT(index->n_segments > 0);
    return index->segment_oldest + index->n_segments - 1;
}

uint64_t log_index_oldest_live(const struct log_index *index, unsigned group) {
    ASSERT(group < index->n_groups);
    return segment_find(index, index->segment_oldest)->by_group[group];
}

uint64_t log_index_oldest_live_total(const struct log_index *index) {
    return segment_find(index, index->segment_oldest)->entries;
}

uint64_t log_index_oldest_live_bytes(const struct log_index *index) {
    return segment_find(index, index->segment_oldest)->bytes;
}

bool log_index_restore(struct log_index *index, unsigned group,
                       const struct log_group_state *state) {
    struct group *g = group_of(index, group);
    ASSERT(g->n_chunks == 0 && g->state.last + 1 == g->state.first);
    if (state->last > LOG_INDEX_MAX || state->last + 1 - state->first > LOG_INDEX_RESTORE_MAX) {
        return false;
    }
    g->state = *state;
    if (state->first > state->last) {
        return true;
    }
    g->chunk_first = state->first / CHUNK_ENTRIES;
    g->n_chunks = state->last / CHUNK_ENTRIES + 1 - g->chunk_first;
    group_reserve_chunks(g, g->n_chunks);
    memset(g->chunks, 0, (size_t)g->n_chunks * sizeof *g->chunks);
    return true;
}

bool log_index_place(struct log_index *index, unsigned group, uint64_t i, uint64_t term,
                     enum log_entry_kind kind, uint32_t size, struct log_location location) {
    struct group *g = group_of(index, group);
    if (i < g->state.first || i - 1 > g->state.last || i > LOG_INDEX_MAX) {
        return false;
    }
    truncate_from(index, group, i);
    struct log_index_entry *entry = group_slot(g, i);
    *entry = (struct log_index_entry){
        .term = term, .location = location, .size = size, .kind = (uint8_t)kind};
    entry_occupy(index, group, entry);
    g->state.last = i;
    return true;
}

bool log_index_replace(struct log_index *index, unsigned group, uint64_t i, uint64_t term,
                       enum log_entry_kind kind, uint32_t size, struct log_location location) {
    struct group *g = group_of(index, group);
    if (!group_has(g, i)) {
        return false;
    }
    struct log_index_entry *entry = group_slot(g, i);
    if (entry->kind != 0 && (entry->term != term || entry->kind != kind || entry->size != size)) {
        return false;
    }
    entry_drop(index, group, entry);
    *entry = (struct log_index_entry){
        .term = term, .location = location, .size = size, .kind = (uint8_t)kind};
    entry_occupy(index, group, entry);
    return true;
}

bool log_index_replay_cut(struct log_index *index, unsigned group, uint64_t i, uint64_t term) {
    if (!group_has(group_of(index, group), i)) {
        return false;
    }
    cut_to(index, group, i, term);
    return true;
}

void log_index_keep(struct log_index *index, unsigned group, uint64_t i, struct slice bytes) {
    struct group *g = group_of(index, group);
    struct log_index_entry *entry = group_has(g, i) ? group_find(g, i) : NULL;
    ASSERT(entry != NULL && entry->kind == LOG_ENTRY_CHANGE && entry->payload == NULL);
    ASSERT(entry->size == bytes.size);
    entry->payload = payload_copy(bytes);
    index->cache_bytes += cache_cost(entry);
}

uint64_t log_index_unplaced(const struct log_index *index, unsigned group) {
    const struct group *g = group_of(index, group);
    for (uint64_t i = g->state.first; i <= g->state.last; i++) {
        const struct log_index_entry *entry = group_find(g, i);
        if (entry == NULL || entry->kind == 0) {
            return i;
        }
    }
    return 0;
}
