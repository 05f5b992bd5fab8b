#include "node/machine/project_name.h"

#include <string.h>

#include "base/limits.h"

enum { CHARACTER_BYTES = 4 };

static_assert(LIMIT_PROJECT_NAME == CHARACTER_BYTES * LIMIT_PROJECT_CHARACTERS,
              "every name of the longest characters fits");

static bool is_continuation(uint8_t byte) {
    return (byte & 0xc0) == 0x80;
}

/* Bytes of the character that starts `text`, 0 when it is not well-formed (The Unicode Standard,
 * table 3-7: no overlong form, no surrogate, nothing beyond U+10FFFF). */
static size_t character_size(struct slice text) {
    uint8_t lead = text.data[0];
    if (lead < 0x80) {
        return 1;
    }
    if (lead < 0xc2 || lead > 0xf4) {
        return 0;
    }
    size_t size = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if (text.size < size) {
        return 0;
    }
    uint8_t least = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    uint8_t most = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    if (text.data[1] < least || text.data[1] > most) {
        return 0;
    }
    for (size_t i = 2; i < size; i++) {
        if (!is_continuation(text.data[i])) {
            return 0;
        }
    }
    return size;
}

static bool is_control(const uint8_t *character, size_t size) {
    return (size == 1 && (character[0] < ' ' || character[0] == 0x7f)) ||
           (size == 2 && character[0] == 0xc2 && character[1] < 0xa0);
}

enum error_code project_name_check(struct slice name, struct error *error) {
    if (name.size == 0) {
        return error_set(error, ERROR_INVALID, "a project name has at least one character");
    }
    size_t characters = 0;
    for (size_t at = 0; at < name.size; characters++) {
        if (characters == LIMIT_PROJECT_CHARACTERS) {
            return error_set(error, ERROR_TOOBIG,
                             "project name of %zu bytes has more than %d characters", name.size,
                             LIMIT_PROJECT_CHARACTERS);
        }
        size_t size = character_size(slice_make(name.data + at, name.size - at));
        if (size == 0) {
            return error_set(error, ERROR_INVALID, "project name is not UTF-8 at byte %zu", at + 1);
        }
        if (is_control(name.data + at, size)) {
            return error_set(error, ERROR_INVALID,
                             "project name holds a control character at byte %zu", at + 1);
        }
        at += size;
    }
    return ERROR_NONE;
}

struct project_label project_label(struct slice name) {
    struct project_label label;
    size_t most = sizeof label.text - sizeof "...";
    size_t size = name.size;
    if (size > most) {
        size = most;
        while (size > 0 && is_continuation(name.data[size])) {
            size--;
        }
    }
    if (size > 0) {
        memcpy(label.text, name.data, size);
    }
    bool is_cut = size < name.size;
    memcpy(label.text + size, is_cut ? "..." : "", is_cut ? sizeof "..." : 1);
    return label;
}
