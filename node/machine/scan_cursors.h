/* Where SCANs stand: which key a cursor means. A memory aid that no replica needs to share: a
 * cursor that is not found here is found again by its hash (docs/commands.md, "SCAN").
 *
 * Holds the newest SCAN_CURSORS cursors, with keys of up to SCAN_CURSOR_KEY bytes. */
#ifndef NODE_MACHINE_SCAN_CURSORS_H
#define NODE_MACHINE_SCAN_CURSORS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"

enum { SCAN_CURSORS = 1024, SCAN_CURSOR_KEY = 4096 };

struct scan_cursor {
    uint64_t project; /* 0: unused */
    uint64_t epoch;
    uint64_t cursor;
    struct buffer key;
};

/* A zeroed struct is a valid, empty table. */
struct scan_cursors {
    struct scan_cursor *entries;
    unsigned next; /* the oldest, to be replaced */
};

void scan_cursors_free(struct scan_cursors *cursors);

/* Remembers a cursor's key. Of two keys with the same cursor the first in order stays: going on
 * from there repeats keys, but misses none. */
void scan_cursors_put(struct scan_cursors *cursors, uint64_t project, uint64_t epoch,
                      uint64_t cursor, struct slice key);
/* Valid until the next put; false when it is not known. */
bool scan_cursors_find(const struct scan_cursors *cursors, uint64_t project, uint64_t epoch,
                       uint64_t cursor, struct slice *key);

#endif
