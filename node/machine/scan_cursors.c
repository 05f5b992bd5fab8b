#include "node/machine/scan_cursors.h"

#include "base/mem.h"

void scan_cursors_free(struct scan_cursors *cursors) {
    for (unsigned i = 0; cursors->entries != NULL && i < SCAN_CURSORS; i++) {
        buffer_free(&cursors->entries[i].key);
    }
    mem_free(cursors->entries);
    *cursors = (struct scan_cursors){0};
}

static struct scan_cursor *find(const struct scan_cursors *cursors, uint64_t project,
                                uint64_t epoch, uint64_t cursor) {
    for (unsigned i = 0; cursors->entries != NULL && i < SCAN_CURSORS; i++) {
        struct scan_cursor *entry = &cursors->entries[i];
        if (entry->cursor == cursor && entry->project == project && entry->epoch == epoch) {
            return entry;
        }
    }
    return NULL;
}

void scan_cursors_put(struct scan_cursors *cursors, uint64_t project, uint64_t epoch,
                      uint64_t cursor, struct slice key) {
    if (key.size > SCAN_CURSOR_KEY) {
        return;
    }
    if (cursors->entries == NULL) {
        cursors->entries = mem_zalloc(SCAN_CURSORS, sizeof(cursors->entries[0]));
    }
    struct scan_cursor *entry = find(cursors, project, epoch, cursor);
    if (entry != NULL && slice_compare(buffer_slice(&entry->key), key) <= 0) {
        return;
    }
    if (entry == NULL) {
        entry = &cursors->entries[cursors->next];
        cursors->next = (cursors->next + 1) % SCAN_CURSORS;
    }
    entry->project = project;
    entry->epoch = epoch;
    entry->cursor = cursor;
    /* Released first, so that the memory is that of the keys that are there now. */
    buffer_free(&entry->key);
    buffer_append_slice(&entry->key, key);
}

bool scan_cursors_find(const struct scan_cursors *cursors, uint64_t project, uint64_t epoch,
                       uint64_t cursor, struct slice *key) {
    const struct scan_cursor *entry = find(cursors, project, epoch, cursor);
    if (entry != NULL) {
        *key = buffer_slice(&entry->key);
    }
    return entry != NULL;
}
