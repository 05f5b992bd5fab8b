/* Whatever a file to import holds, reading ends with entries or with a message that names a line,
 * the same however the file comes in pieces; and what was read can be written and read again. */
#include <stdlib.h>

#include "base/json.h"
#include "client/cli/entries.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct source {
    struct slice rest;
    size_t piece;
};

static ssize_t read_piece(void *data, void *buffer, size_t size) {
    struct source *source = data;
    size_t n = source->rest.size < source->piece ? source->rest.size : source->piece;
    n = n < size ? n : size;
    if (n > 0) {
        memcpy(buffer, source->rest.data, n);
    }
    source->rest = slice_make(source->rest.data + n, source->rest.size - n);
    return (ssize_t)n;
}

static void require(bool truth) {
    if (!truth) {
        abort();
    }
}

/* Reads all, writes it in the lines form to `out`. */
static enum error_code copy(struct slice text, size_t piece, enum entries_form form,
                            struct buffer *out, uint64_t *count) {
    struct source source = {text, piece};
    struct entries entries;
    struct entry entry;
    struct error error = {0};
    bool found = true;
    entries_init(&entries, form, read_piece, &source);
    entries_write_header(out, ENTRIES_LINES);
    enum error_code code = ERROR_NONE;
    while (code == ERROR_NONE && found) {
        code = entries_next(&entries, &entry, &found, &error);
        if (code == ERROR_NONE && found) {
            require(entry.key.size > 0 && entry.key.size <= LIMIT_KEY_SIZE);
            require(entries.form != ENTRIES_OBJECT || json_is_value(entry.value));
            require(entries_write(out, ENTRIES_LINES, &entry, false, &error) == ERROR_NONE);
        }
    }
    require(code == ERROR_NONE || memcmp(error.message, "line ", 5) == 0);
    *count = entries.count;
    if (code == ERROR_NONE) {
        require(entries_passed(&entries) == text.size);
        entries_write_end(out, ENTRIES_LINES, entries.count);
    }
    entries_free(&entries);
    return code;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct buffer whole = {0};
    struct buffer pieces = {0};
    struct buffer again = {0};
    uint64_t count;
    uint64_t count_again;
    if (size == 0) {
        return 0;
    }
    enum entries_form form = (enum entries_form)(data[0] % 3);
    struct slice text = slice_make(data + 1, size - 1);
    enum error_code code = copy(text, SIZE_MAX / 2, form, &whole, &count);
    require(copy(text, 1 + data[0] / 3 % 7, form, &pieces, &count_again) == code);
    require(count == count_again);
    require(slice_equal(buffer_slice(&whole), buffer_slice(&pieces)));
    if (code == ERROR_NONE) {
        code = copy(buffer_slice(&whole), 1024, ENTRIES_AUTO, &again, &count_again);
        require(code == ERROR_NONE && count == count_again);
        require(slice_equal(buffer_slice(&whole), buffer_slice(&again)));
    }
    buffer_free(&whole);
    buffer_free(&pieces);
    buffer_free(&again);
    return 0;
}
