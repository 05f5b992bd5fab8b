/* A buffer of bytes that grows, or says that it cannot: unlike the server, a library must not end
 * the process that it lives in. */
#ifndef CLIENT_TEXT_H
#define CLIENT_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zeroed: empty. */
struct text {
    char *data;
    size_t size;
    size_t capacity;
};

/* Room for `extra` more bytes. False without memory; nothing changes then. */
bool text_reserve(struct text *text, size_t extra);
bool text_append(struct text *text, const void *data, size_t size);
/* "*N\r\n" or "$N\r\n". */
bool text_append_header(struct text *text, char kind, uint64_t number);
/* "$N\r\n", the bytes, "\r\n". */
bool text_append_bulk(struct text *text, const void *data, size_t size);
bool text_append_bulk_number(struct text *text, uint64_t number);
/* A command of `argc` NUL-terminated words. */
bool text_append_words(struct text *text, unsigned argc, const char *const *argv);
void text_free(struct text *text);

enum { TEXT_HEADER_SIZE = 24 };
/* Writes "*N\r\n" or the like, and returns its size. */
size_t text_format_header(char header[TEXT_HEADER_SIZE], char kind, uint64_t number);

#endif
