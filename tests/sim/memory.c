/* The heap of simulated processes: malloc() and its kin are linked to these (see CMakeLists.txt),
 * and SQLite and libraft are told to use them. Each block knows its process. */
#include <raft.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "tests/sim/kernel.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *pointer, size_t size);
void __real_free(void *pointer);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *pointer, size_t size);
void __wrap_free(void *pointer);

enum { BLOCK_MAGIC = 0x51b10c };

struct block {
    struct list_node node;
    struct process *owner;
    size_t size;
    uint64_t magic;
    uint64_t padding; /* 16 byte alignment behind it */
};

void *sim_alloc(size_t size) {
    void *pointer = __real_calloc(1, size);
    if (pointer == NULL) {
        fprintf(stderr, "the simulator is out of memory\n");
        exit(2);
    }
    return pointer;
}

void *sim_realloc(void *pointer, size_t size) {
    void *moved = __real_realloc(pointer, size);
    if (moved == NULL) {
        fprintf(stderr, "the simulator is out of memory\n");
        exit(2);
    }
    return moved;
}

void sim_free(void *pointer) {
    __real_free(pointer);
}

static void block_own(struct block *block, size_t size) {
    struct process *owner = process_current();
    block->owner = owner;
    block->size = size;
    block->magic = BLOCK_MAGIC;
    list_init(&block->node);
    if (owner != NULL) {
        list_push(&owner->blocks, &block->node);
        owner->bytes += size;
    }
}

static void block_disown(struct block *block) {
    ASSERT(block->magic == BLOCK_MAGIC);
    if (block->owner != NULL) {
        list_remove(&block->node);
        block->owner->bytes -= block->size;
    }
}

void *__wrap_malloc(size_t size) {
    struct block *block = sim_realloc(NULL, sizeof *block + size);
    block_own(block, size);
    return block + 1;
}

void *__wrap_calloc(size_t count, size_t size) {
    void *pointer = __wrap_malloc(count * size);
    memset(pointer, 0, count * size);
    return pointer;
}

void *__wrap_realloc(void *pointer, size_t size) {
    if (pointer == NULL) {
        return __wrap_malloc(size);
    }
    struct block *block = (struct block *)pointer - 1;
    struct process *owner = block->owner;
    block_disown(block);
    block = sim_realloc(block, sizeof *block + size);
    block->owner = owner;
    block->size = size;
    list_init(&block->node);
    if (owner != NULL) {
        list_push(&owner->blocks, &block->node);
        owner->bytes += size;
    }
    return block + 1;
}

void __wrap_free(void *pointer) {
    if (pointer == NULL) {
        return;
    }
    struct block *block = (struct block *)pointer - 1;
    block_disown(block);
    block->magic = 0;
    __real_free(block);
}

uint64_t memory_release(struct process *process) {
    uint64_t n = 0;
    while (!list_empty(&process->blocks)) {
        struct block *block = LIST_ENTRY(list_first(&process->blocks), struct block, node);
        list_remove(&block->node);
        block->magic = 0;
        __real_free(block);
        n++;
    }
    process->bytes = 0;
    return n;
}

/* ---- SQLite ---- */

static void *sqlite_malloc(int size) {
    return __wrap_malloc((size_t)size);
}

static void *sqlite_realloc(void *pointer, int size) {
    return __wrap_realloc(pointer, (size_t)size);
}

static int sqlite_size(void *pointer) {
    return pointer == NULL ? 0 : (int)((struct block *)pointer - 1)->size;
}

static int sqlite_round_up(int size) {
    return (size + 7) & ~7;
}

static int sqlite_init(void *data) {
    (void)data;
    return SQLITE_OK;
}

static void sqlite_shutdown(void *data) {
    (void)data;
}

/* ---- libraft ---- */

static void *heap_malloc(void *data, size_t size) {
    (void)data;
    return __wrap_malloc(size);
}

static void heap_free(void *data, void *pointer) {
    (void)data;
    __wrap_free(pointer);
}

static void *heap_calloc(void *data, size_t count, size_t size) {
    (void)data;
    return __wrap_calloc(count, size);
}

static void *heap_realloc(void *data, void *pointer, size_t size) {
    (void)data;
    return __wrap_realloc(pointer, size);
}

static void *heap_aligned_alloc(void *data, size_t alignment, size_t size) {
    (void)data;
    ASSERT(alignment <= 16);
    return __wrap_malloc(size);
}

static void heap_aligned_free(void *data, size_t alignment, void *pointer) {
    (void)data;
    (void)alignment;
    __wrap_free(pointer);
}

void memory_install(void) {
    static const sqlite3_mem_methods methods = {
        sqlite_malloc,   __wrap_free, sqlite_realloc,  sqlite_size,
        sqlite_round_up, sqlite_init, sqlite_shutdown, NULL};
    static struct raft_heap heap = {NULL,         heap_malloc,        heap_free,        heap_calloc,
                                    heap_realloc, heap_aligned_alloc, heap_aligned_free};
    (void)sqlite3_config(SQLITE_CONFIG_SINGLETHREAD);
    (void)sqlite3_config(SQLITE_CONFIG_MALLOC, &methods);
    (void)sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
    raft_heap_set(&heap);
}
