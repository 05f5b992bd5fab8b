/* Tells how far a long command is, on standard error: on a terminal a bar that is drawn anew, with
 * rate and time left; otherwise a line every few seconds. */
#ifndef CLIENT_CLI_PROGRESS_H
#define CLIENT_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "client/cli/cli.h"

enum { PROGRESS_LINE = 256 };

struct progress {
    bool is_off;
    bool is_bar;
    const char *verb; /* "exported" */
    const char *noun; /* "keys" */
    uint64_t started_ns;
    uint64_t next_ns; /* when to tell again */
};

/* What there is to tell. Quantities are of `done` and `total` alike; total 0: not known. */
struct progress_state {
    uint64_t done;
    uint64_t total;
    uint64_t count; /* of the noun */
    uint64_t bytes;
};

/* `when`: auto, always, never or NULL. 0, or EXIT_USAGE with a message. */
int progress_start(struct progress *progress, const struct cli *cli, const char *when,
                   const char *verb, const char *noun);
/* Cheap: does nothing most of the time. */
void progress_tell(struct progress *progress, const struct progress_state *state);
/* The last line; with `failed` none, since an error tells more, and takes the place of a bar. */
void progress_end(struct progress *progress, const struct progress_state *state, bool failed);

/* One line without its end, at most PROGRESS_LINE bytes with the NUL. Pure. */
void progress_format(char *line, const struct progress *progress,
                     const struct progress_state *state, uint64_t elapsed_ms);

#endif
