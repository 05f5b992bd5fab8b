/* What became of the commands of a node's clients: how many, with which result, how long they took.
 * Counted on the loop thread for each command; a copy of the struct is what /metrics is made from.
 *
 * Results are told apart by the first word of the reply, as clients see it: "OK" for every reply
 * that is no error, else "NOLEADER", "ERR" and so on.
 *
 * Pure. Threads: loop thread, but for reading a copy. */
#ifndef NODE_REQUESTS_H
#define NODE_REQUESTS_H

#include <stdint.h>

#include "base/bytes.h"
#include "base/histogram.h"

struct verb;

enum { REQUESTS_VERBS = 192, REQUESTS_RESULTS = 24, REQUESTS_NAME_SIZE = 32 };

struct requests_verb {
    uint64_t results[REQUESTS_RESULTS];
    struct histogram duration; /* from the receipt of the command to its reply */
};

struct requests {
    unsigned n_verbs;
    char names[REQUESTS_VERBS][REQUESTS_NAME_SIZE]; /* "get", "cluster|slots"; 0: "unknown" */
    uint16_t subcommands[REQUESTS_VERBS];           /* of a container: number of the first one */
    struct requests_verb verbs[REQUESTS_VERBS];
    uint64_t slow; /* took slow_ms or longer */
};

/* Numbers all commands of verb_table(). */
void requests_init(struct requests *requests);
/* Number of a command: `leaf` is verb_leaf() of `verb`; both may be NULL. */
unsigned requests_number(const struct requests *requests, const struct verb *verb,
                         const struct verb *leaf);

/* Number of a result by the first word of an error reply, without the '-'. */
unsigned requests_result(struct slice word);
/* The same for a whole reply in RESP. */
unsigned requests_result_of(struct slice reply);
/* NULL: there is no result of that number. */
const char *requests_result_name(unsigned result);

void requests_count(struct requests *requests, unsigned verb, unsigned result,
                    uint64_t duration_us);

#endif
