#include "raft/lanes.h"

#include "base/assert.h"
#include "base/crc32c.h"
#include "base/mem.h"

/* One message: a single allocation of the struct, the attachments' pointers, and the head. */
struct queued {
    struct list_node node;
    enum peer_lane lane;
    uint16_t group;
    uint64_t memory; /* what it counts for in lanes.bytes */
    uint64_t left;   /* bytes that no batch has taken yet */
    bool started;
    uint8_t *head;
    size_t head_size;
    unsigned n_attachments;
    unsigned current; /* part that the next byte comes from: 0 the head, i the attachment i - 1 */
    size_t offset;    /* in that part */
    struct payload *attachments[];
};

struct lanes {
    struct list_node queues[PEER_LANES];
    unsigned waiting[PEER_LANES]; /* messages pushed and not released */
    uint64_t bytes;
    uint64_t queue_bytes;
    uint32_t *bulk_by_group;
    unsigned n_groups; /* of that array */

    /* The current batch. */
    bool composed;
    struct list_node done; /* messages whose last byte is in it */
    uint64_t size;
    uint8_t *copied;
    size_t copied_size;
    bool last_is_copied; /* the last piece lies at the end of `copied` */
    struct slice pieces[LANES_PIECES_MAX];
    unsigned n_pieces;
};

struct lanes *lanes_new(uint64_t queue_bytes) {
    struct lanes *lanes = mem_zalloc(1, sizeof *lanes);
    for (unsigned lane = 0; lane < PEER_LANES; lane++) {
        list_init(&lanes->queues[lane]);
    }
    list_init(&lanes->done);
    lanes->queue_bytes = queue_bytes;
    lanes->copied = mem_alloc(LANES_BATCH_MAX);
    return lanes;
}

static void queued_free(struct lanes *lanes, struct queued *queued) {
    list_remove(&queued->node);
    lanes->bytes -= queued->memory;
    lanes->waiting[queued->lane]--;
    if (queued->lane == PEER_LANE_BULK) {
        lanes->bulk_by_group[queued->group]--;
    }
    for (unsigned i = 0; i < queued->n_attachments; i++) {
        payload_unref(queued->attachments[i]);
    }
    mem_free(queued);
}

static void queue_drop(struct lanes *lanes, struct list_node *queue) {
    struct list_node *node;
    while ((node = list_first(queue)) != NULL) {
        queued_free(lanes, LIST_ENTRY(node, struct queued, node));
    }
}

void lanes_free(struct lanes *lanes) {
    if (lanes == NULL) {
        return;
    }
    queue_drop(lanes, &lanes->done);
    for (unsigned lane = 0; lane < PEER_LANES; lane++) {
        queue_drop(lanes, &lanes->queues[lane]);
    }
    ASSERT(lanes->bytes == 0);
    mem_free(lanes->bulk_by_group);
    mem_free(lanes->copied);
    mem_free(lanes);
}

static bool has_room(const struct lanes *lanes, enum peer_lane lane, uint64_t memory) {
    if (lanes->waiting[lane] == 0) {
        return true;
    }
    uint64_t reserve = lane == PEER_LANE_URGENT ? PEER_URGENT_RESERVE : 0;
    uint64_t limit = lanes->queue_bytes + reserve;
    return lanes->bytes <= limit && memory <= limit - lanes->bytes;
}

static void count_bulk(struct lanes *lanes, uint16_t group) {
    if (group >= lanes->n_groups) {
        unsigned n = (unsigned)group + 1;
        lanes->bulk_by_group = mem_realloc(lanes->bulk_by_group, n * sizeof(uint32_t));
        memset(lanes->bulk_by_group + lanes->n_groups, 0, (n - lanes->n_groups) * sizeof(uint32_t));
        lanes->n_groups = n;
    }
    lanes->bulk_by_group[group]++;
}

bool lanes_push(struct lanes *lanes, enum peer_lane lane, const struct peer_message *message) {
    ASSERT(lane < PEER_LANES);
    ASSERT(wire_message_is_valid(message));
    size_t pointers = message->n_attachments * sizeof(struct payload *);
    size_t head_size = wire_message_head_size(message);
    uint64_t size = wire_message_size(message);
    uint64_t memory = sizeof(struct queued) + pointers + size;
    if (!has_room(lanes, lane, memory)) {
        return false;
    }
    struct queued *queued = mem_alloc(sizeof *queued + pointers + head_size);
    *queued = (struct queued){.lane = lane,
                              .group = message->group,
                              .memory = memory,
                              .left = size,
                              .head = (uint8_t *)queued->attachments + pointers,
                              .head_size = head_size,
                              .n_attachments = message->n_attachments};
    wire_message_encode_head(message, queued->head);
    for (unsigned i = 0; i < message->n_attachments; i++) {
        queued->attachments[i] = payload_ref(message->attachments[i]);
    }
    list_push(&lanes->queues[lane], &queued->node);
    lanes->waiting[lane]++;
    lanes->bytes += memory;
    if (lane == PEER_LANE_BULK) {
        count_bulk(lanes, message->group);
    }
    return true;
}

static void add_piece(struct lanes *lanes, struct slice piece, bool is_copied) {
    ASSERT(lanes->n_pieces < LANES_PIECES_MAX);
    lanes->pieces[lanes->n_pieces++] = piece;
    lanes->last_is_copied = is_copied;
}

/* Room for `size` bytes in the contiguous buffer, joined to the last piece when that ends there. */
static uint8_t *add_copied(struct lanes *lanes, size_t size) {
    ASSERT(lanes->copied_size + size <= LANES_BATCH_MAX);
    uint8_t *at = lanes->copied + lanes->copied_size;
    lanes->copied_size += size;
    if (lanes->n_pieces > 0 && lanes->last_is_copied) {
        lanes->pieces[lanes->n_pieces - 1].size += size;
    } else {
        add_piece(lanes, slice_make(at, size), true);
    }
    return at;
}

static void add_bytes(struct lanes *lanes, struct slice bytes) {
    if (bytes.size > LANES_COPY_MAX) {
        add_piece(lanes, bytes, false);
    } else {
        memcpy(add_copied(lanes, bytes.size), bytes.data, bytes.size);
    }
}

/* The next bytes of the message, at most `max`, all from one part. */
static struct slice queued_take(struct queued *queued, size_t max) {
    for (;;) {
        struct slice part = queued->current == 0
                                ? slice_make(queued->head, queued->head_size)
                                : payload_slice(queued->attachments[queued->current - 1]);
        if (queued->offset < part.size) {
            size_t n = part.size - queued->offset < max ? part.size - queued->offset : max;
            struct slice bytes = slice_make(part.data + queued->offset, n);
            queued->offset += n;
            return bytes;
        }
        ASSERT(queued->current < queued->n_attachments);
        queued->current++;
        queued->offset = 0;
    }
}

static size_t next_fragment_size(const struct queued *queued) {
    return queued->left < WIRE_FRAGMENT_BODY_MAX ? (size_t)queued->left : WIRE_FRAGMENT_BODY_MAX;
}

static void add_fragment(struct lanes *lanes, struct queued *queued) {
    size_t size = next_fragment_size(queued);
    unsigned flags = queued->started ? 0 : WIRE_FLAG_FIRST;
    flags |= size == queued->left ? WIRE_FLAG_LAST : 0;
    uint8_t *header = add_copied(lanes, WIRE_FRAGMENT_HEADER);
    uint32_t crc = wire_fragment_begin(header, queued->lane, flags, size);
    for (size_t taken = 0; taken < size;) {
        struct slice bytes = queued_take(queued, size - taken);
        crc = crc32c(crc, bytes.data, bytes.size);
        add_bytes(lanes, bytes);
        taken += bytes.size;
    }
    wire_fragment_finish(header, crc);
    queued->started = true;
    queued->left -= size;
    lanes->size += WIRE_FRAGMENT_HEADER + size;
    if (queued->left == 0) {
        list_remove(&queued->node);
        list_push(&lanes->done, &queued->node);
    }
}

/* Fills the batch from one lane, leaving `reserve` bytes for others. */
static void add_lane(struct lanes *lanes, enum peer_lane lane, uint64_t reserve) {
    struct list_node *node;
    while ((node = list_first(&lanes->queues[lane])) != NULL) {
        struct queued *queued = LIST_ENTRY(node, struct queued, node);
        uint64_t size = WIRE_FRAGMENT_HEADER + next_fragment_size(queued);
        if (lanes->size + size + reserve > LANES_BATCH_MAX) {
            return;
        }
        add_fragment(lanes, queued);
    }
}

unsigned lanes_compose(struct lanes *lanes, const struct slice **pieces) {
    ASSERT(!lanes->composed);
    uint64_t reserve = 0;
    for (unsigned lane = 0; lane < PEER_LANES; lane++) {
        reserve += list_empty(&lanes->queues[lane]) ? 0 : LANES_FRAGMENT_MAX;
    }
    for (unsigned lane = 0; lane < PEER_LANES; lane++) {
        reserve -= list_empty(&lanes->queues[lane]) ? 0 : LANES_FRAGMENT_MAX;
        add_lane(lanes, (enum peer_lane)lane, reserve);
    }
    ASSERT(reserve == 0);
    lanes->composed = lanes->n_pieces > 0;
    *pieces = lanes->pieces;
    return lanes->n_pieces;
}

void lanes_release(struct lanes *lanes) {
    ASSERT(lanes->composed);
    queue_drop(lanes, &lanes->done);
    lanes->composed = false;
    lanes->size = 0;
    lanes->copied_size = 0;
    lanes->n_pieces = 0;
}

uint64_t lanes_bytes(const struct lanes *lanes) {
    return lanes->bytes;
}

uint64_t lanes_bulk_queued(const struct lanes *lanes, uint16_t group) {
    return group < lanes->n_groups ? lanes->bulk_by_group[group] : 0;
}
