#include "chaos/fs/contents.h"

#include <string.h>

#include "base/assert.h"
#include "base/mem.h"

static const uint8_t zeros[PIECE_SIZE];

void contents_free(struct contents *contents) {
    for (size_t i = 0; i < contents->n_pieces; i++) {
        mem_free(contents->pieces[i].data);
        mem_free(contents->pieces[i].durable);
    }
    mem_free(contents->pieces);
    *contents = (struct contents){0};
}

static void need_pieces(struct contents *contents, uint64_t size) {
    size_t needed = (size_t)((size + PIECE_SIZE - 1) / PIECE_SIZE);
    if (needed <= contents->n_pieces) {
        return;
    }
    contents->pieces = mem_realloc(contents->pieces, needed * sizeof(struct piece));
    memset(contents->pieces + contents->n_pieces, 0,
           (needed - contents->n_pieces) * sizeof(struct piece));
    contents->n_pieces = needed;
}

static uint32_t sectors_between(size_t from, size_t to) {
    ASSERT(from < to && to <= PIECE_SIZE);
    unsigned first = (unsigned)(from / SECTOR_SIZE);
    unsigned behind = (unsigned)((to + SECTOR_SIZE - 1) / SECTOR_SIZE);
    uint64_t mask = (UINT64_C(1) << behind) - (UINT64_C(1) << first);
    return (uint32_t)mask;
}

/* Before the bytes [from, to) of a piece change: what the disk has of them is kept. */
static void touch(struct piece *piece, size_t from, size_t to) {
    if (piece->dirty == 0) {
        ASSERT(piece->durable == NULL);
        piece->durable = piece->data != NULL ? mem_dup(piece->data, PIECE_SIZE) : NULL;
    }
    piece->dirty |= sectors_between(from, to);
}

static void own_data(struct piece *piece) {
    if (piece->data == NULL) {
        piece->data = mem_zalloc(1, PIECE_SIZE);
    }
}

void contents_write(struct contents *contents, const void *data, size_t size, uint64_t offset) {
    const uint8_t *from = data;
    need_pieces(contents, offset + size);
    contents->size = offset + size > contents->size ? offset + size : contents->size;
    while (size > 0) {
        struct piece *piece = &contents->pieces[offset / PIECE_SIZE];
        size_t begin = (size_t)(offset % PIECE_SIZE);
        size_t some = size < PIECE_SIZE - begin ? size : PIECE_SIZE - begin;
        touch(piece, begin, begin + some);
        own_data(piece);
        memcpy(piece->data + begin, from, some);
        from += some;
        offset += some;
        size -= some;
    }
}

size_t contents_read(const struct contents *contents, void *data, size_t size, uint64_t offset) {
    if (offset >= contents->size) {
        return 0;
    }
    size_t wanted = size < contents->size - offset ? size : (size_t)(contents->size - offset);
    uint8_t *to = data;
    for (size_t left = wanted; left > 0;) {
        size_t number = (size_t)(offset / PIECE_SIZE);
        size_t begin = (size_t)(offset % PIECE_SIZE);
        size_t some = left < PIECE_SIZE - begin ? left : PIECE_SIZE - begin;
        const uint8_t *source = number < contents->n_pieces ? contents->pieces[number].data : NULL;
        memcpy(to, (source != NULL ? source : zeros) + begin, some);
        to += some;
        offset += some;
        left -= some;
    }
    return wanted;
}

/* Behind the end of a file everything is zero, so that lengthening it shows nothing old. */
static void clear_from(struct contents *contents, uint64_t size, bool remember) {
    for (size_t i = (size_t)(size / PIECE_SIZE); i < contents->n_pieces; i++) {
        struct piece *piece = &contents->pieces[i];
        size_t begin = i == size / PIECE_SIZE ? (size_t)(size % PIECE_SIZE) : 0;
        if (piece->data == NULL) {
            continue;
        }
        if (remember) {
            touch(piece, begin, PIECE_SIZE);
        }
        memset(piece->data + begin, 0, PIECE_SIZE - begin);
    }
}

void contents_resize(struct contents *contents, uint64_t size) {
    if (size < contents->size) {
        clear_from(contents, size, true);
    }
    contents->size = size;
}

static void forget_old(struct piece *piece) {
    mem_free(piece->durable);
    piece->durable = NULL;
    piece->dirty = 0;
}

void contents_sync(struct contents *contents) {
    for (size_t i = 0; i < contents->n_pieces; i++) {
        if (contents->pieces[i].dirty != 0) {
            forget_old(&contents->pieces[i]);
        }
    }
    contents->durable_size = contents->size;
}

bool contents_is_durable(const struct contents *contents) {
    for (size_t i = 0; i < contents->n_pieces; i++) {
        if (contents->pieces[i].dirty != 0) {
            return false;
        }
    }
    return contents->size == contents->durable_size;
}

static bool survives(struct prng *prng, int survive) {
    return prng_below(prng, CRASH_SURVIVE_ALL) < (uint64_t)survive;
}

static void crash_piece(struct piece *piece, struct prng *prng, int survive,
                        struct crash_count *count) {
    for (unsigned i = 0; i < PIECE_SECTORS; i++) {
        if ((piece->dirty >> i & 1) == 0) {
            continue;
        }
        count->unsynced++;
        if (survives(prng, survive)) {
            continue;
        }
        count->lost++;
        if (piece->data != NULL) {
            const uint8_t *old = piece->durable != NULL ? piece->durable : zeros;
            memcpy(piece->data + (size_t)i * SECTOR_SIZE, old + (size_t)i * SECTOR_SIZE,
                   SECTOR_SIZE);
        }
    }
    forget_old(piece);
}

void contents_crash(struct contents *contents, struct prng *prng, int survive,
                    struct crash_count *count) {
    static const int drawn[] = {CRASH_SURVIVE_NONE, 100, 500, 900, CRASH_SURVIVE_ALL};
    if (survive == CRASH_DRAWN) {
        survive = drawn[prng_below(prng, sizeof drawn / sizeof drawn[0])];
    }
    for (size_t i = 0; i < contents->n_pieces; i++) {
        if (contents->pieces[i].dirty != 0) {
            crash_piece(&contents->pieces[i], prng, survive, count);
        }
    }
    if (contents->size != contents->durable_size && !survives(prng, survive)) {
        contents->size = contents->durable_size;
    }
    clear_from(contents, contents->size, false);
    contents->durable_size = contents->size;
}
