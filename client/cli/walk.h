/* Walks through a project's keys in the order of their bytes, each once.
 *
 * The server answers keys in their order, and begins anew when it has lost the place after a change
 * of leaders; what comes up to the last key told is skipped then. So a key that is there all the
 * time comes exactly once, in memory for one portion of keys. */
#ifndef CLIENT_CLI_WALK_H
#define CLIENT_CLI_WALK_H

#include "client/cli/cli.h"

struct walk {
    struct slice prefix;
    uint64_t cursor;
    bool has_last;
    struct buffer last; /* the last key told */
    bool is_done;
};

/* Calls `each` for the keys of the next portion, which may be none. Stops with its code when that
 * is not 0. The key is valid during the call. Returns 0 or, with a message, an exit code. */
int walk_next(struct cli *cli, struct walk *walk, int (*each)(void *data, struct slice key),
              void *data);
void walk_free(struct walk *walk);

#endif
