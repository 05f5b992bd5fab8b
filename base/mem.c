#include "base/mem.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

_Noreturn static void mem_exhausted(size_t size) {
    assert_fatal("out of memory: %zu bytes could not be allocated; give the process more memory or "
                 "lower its limits",
                 size);
}

/* malloc(0) may return NULL, which callers could not tell from a failure. */
static size_t mem_size_real(size_t size) {
    return size > 0 ? size : 1;
}

void *mem_alloc(size_t size) {
    void *pointer = malloc(mem_size_real(size));
    if (pointer == NULL) {
        mem_exhausted(size);
    }
    return pointer;
}

void *mem_zalloc(size_t count, size_t size) {
    ASSERT(size == 0 || count <= SIZE_MAX / size);
    void *pointer = calloc(1, mem_size_real(count * size));
    if (pointer == NULL) {
        mem_exhausted(count * size);
    }
    return pointer;
}

void *mem_realloc(void *pointer, size_t size) {
    void *moved = realloc(pointer, mem_size_real(size));
    if (moved == NULL) {
        mem_exhausted(size);
    }
    return moved;
}

char *mem_strdup(const char *text) {
    ASSERT(text != NULL);
    return mem_dup(text, strlen(text) + 1);
}

void *mem_dup(const void *data, size_t size) {
    ASSERT(data != NULL || size == 0);
    void *copy = mem_alloc(size);
    if (size > 0) {
        memcpy(copy, data, size);
    }
    return copy;
}

void mem_free(void *pointer) {
    free(pointer);
}
