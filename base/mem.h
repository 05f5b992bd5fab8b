/* Allocation that cannot fail for the caller.
 *
 * Sizes that depend on input are bounded before they get here, so an exhausted heap means that the
 * machine itself is out of memory: the process stops with a message and restarts from its log. */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stddef.h>

void *mem_alloc(size_t size);
/* `count * size` zeroed bytes; aborts on overflow. */
void *mem_zalloc(size_t count, size_t size);
void *mem_realloc(void *pointer, size_t size);
char *mem_strdup(const char *text);
void *mem_dup(const void *data, size_t size);
void mem_free(void *pointer);

#endif
