#include "chaos/check/texts.h"

#include "base/assert.h"
#include "base/mem.h"

enum { BLOCK_SIZE = 1 << 20 };

/* FNV-1a, 64 bits. */
static uint64_t hash_of(struct slice text) {
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < text.size; i++) {
        hash = (hash ^ text.data[i]) * UINT64_C(0x100000001b3);
    }
    return hash ^ hash >> 32;
}

/* Where the text is in the table, or the empty place where it belongs. */
static uint32_t place_of(const struct texts *texts, struct slice text) {
    uint32_t mask = texts->slots - 1;
    uint32_t at = (uint32_t)hash_of(text) & mask;
    while (texts->table[at] != 0 && !slice_equal(texts->list[texts->table[at] - 1], text)) {
        at = (at + 1) & mask;
    }
    return at;
}

static void grow_table(struct texts *texts) {
    mem_free(texts->table);
    texts->bytes -= texts->slots * sizeof *texts->table;
    texts->slots = texts->slots == 0 ? 1024 : 2 * texts->slots;
    texts->table = mem_zalloc(texts->slots, sizeof *texts->table);
    texts->bytes += texts->slots * sizeof *texts->table;
    for (uint32_t i = 0; i < texts->n; i++) {
        texts->table[place_of(texts, texts->list[i])] = i + 1;
    }
}

static uint8_t *keep(struct texts *texts, struct slice text) {
    if (texts->block == NULL || texts->block_used + text.size > BLOCK_SIZE) {
        size_t size = sizeof(uint8_t *) + (text.size > BLOCK_SIZE ? text.size : BLOCK_SIZE);
        uint8_t *block = mem_alloc(size);
        memcpy(block, &texts->block, sizeof texts->block);
        texts->block = block;
        texts->block_used = sizeof(uint8_t *);
        texts->bytes += size;
    }
    uint8_t *at = texts->block + texts->block_used;
    if (text.size > 0) {
        memcpy(at, text.data, text.size);
    }
    texts->block_used += text.size;
    return at;
}

uint32_t texts_add(struct texts *texts, struct slice text) {
    if (2 * (uint64_t)texts->n >= texts->slots) {
        grow_table(texts);
    }
    uint32_t at = place_of(texts, text);
    if (texts->table[at] != 0) {
        return texts->table[at];
    }
    ASSERT(texts->n < UINT32_MAX / 4);
    if (texts->n == texts->capacity) {
        texts->bytes -= texts->capacity * sizeof *texts->list;
        texts->capacity = texts->capacity == 0 ? 1024 : 2 * texts->capacity;
        texts->list = mem_realloc(texts->list, texts->capacity * sizeof *texts->list);
        texts->bytes += texts->capacity * sizeof *texts->list;
    }
    texts->list[texts->n++] = slice_make(keep(texts, text), text.size);
    texts->table[at] = texts->n;
    return texts->n;
}

uint32_t texts_find(const struct texts *texts, struct slice text) {
    return texts->slots == 0 ? 0 : texts->table[place_of(texts, text)];
}

struct slice texts_get(const struct texts *texts, uint32_t number) {
    ASSERT(number <= texts->n);
    return number == 0 ? slice_make(NULL, 0) : texts->list[number - 1];
}

void texts_free(struct texts *texts) {
    while (texts->block != NULL) {
        uint8_t *next;
        memcpy(&next, texts->block, sizeof next);
        mem_free(texts->block);
        texts->block = next;
    }
    mem_free(texts->list);
    mem_free(texts->table);
    *texts = (struct texts){0};
}
