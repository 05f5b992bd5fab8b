/* Numbered writes over RESP (docs/exactly-once.md): sent again, at other nodes, until there is an
 * answer. */
#ifndef CHAOS_WORKLOAD_ONCE_H
#define CHAOS_WORKLOAD_ONCE_H

#include "chaos/workload/load.h"

/* A session in the shard of one project. A zeroed struct has none yet. */
struct once {
    char id[80]; /* empty: none */
    uint64_t number;
};

/* Carries out a write and fills client->answer: ANSWER_UNKNOWN when attempts may have had an effect
 * and none was answered. */
void once_command(struct client *client, struct once *once, const char *project,
                  const struct words *words);

#endif
