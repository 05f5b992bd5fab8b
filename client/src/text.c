#include "client/src/text.h"

#include <stdlib.h>
#include <string.h>

bool text_reserve(struct text *text, size_t extra) {
    if (extra <= text->capacity - text->size) {
        return true;
    }
    if (extra > SIZE_MAX / 4 - text->size) {
        return false;
    }
    size_t capacity = text->capacity > 0 ? text->capacity : 256;
    while (capacity < text->size + extra) {
        capacity *= 2;
    }
    char *data = realloc(text->data, capacity);
    if (data == NULL) {
        return false;
    }
    text->data = data;
    text->capacity = capacity;
    return true;
}

bool text_append(struct text *text, const void *data, size_t size) {
    if (!text_reserve(text, size)) {
        return false;
    }
    if (size > 0) {
        memcpy(text->data + text->size, data, size);
    }
    text->size += size;
    return true;
}

size_t text_format_header(char header[TEXT_HEADER_SIZE], char kind, uint64_t number) {
    char digits[20];
    size_t n = 0;
    do {
        digits[n++] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    size_t size = 0;
    header[size++] = kind;
    while (n > 0) {
        header[size++] = digits[--n];
    }
    header[size++] = '\r';
    header[size++] = '\n';
    return size;
}

bool text_append_header(struct text *text, char kind, uint64_t number) {
    char header[TEXT_HEADER_SIZE];
    return text_append(text, header, text_format_header(header, kind, number));
}

bool text_append_bulk(struct text *text, const void *data, size_t size) {
    return text_reserve(text, TEXT_HEADER_SIZE + size + 2) && text_append_header(text, '$', size) &&
           text_append(text, data, size) && text_append(text, "\r\n", 2);
}

bool text_append_bulk_number(struct text *text, uint64_t number) {
    char header[TEXT_HEADER_SIZE];
    size_t size = text_format_header(header, '$', number);
    return text_append_bulk(text, header + 1, size - 3);
}

bool text_append_words(struct text *text, unsigned argc, const char *const *argv) {
    bool done = text_append_header(text, '*', argc);
    for (unsigned i = 0; i < argc && done; i++) {
        done = text_append_bulk(text, argv[i], strlen(argv[i]));
    }
    return done;
}

void text_free(struct text *text) {
    free(text->data);
    *text = (struct text){0};
}
