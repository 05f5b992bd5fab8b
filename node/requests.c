#include "node/requests.h"

#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "node/resp_commands.h"

enum { RESULT_IS_OK = 0, RESULT_IS_OTHER = 1 };

/* Every first word of an error that a node answers. */
static const char *const result_names[] = {
    [RESULT_IS_OK] = "OK",
    [RESULT_IS_OTHER] = "OTHER",
    "ERR",
    "BUSY",
    "NOLEADER",
    "UNCERTAIN",
    "STALE",
    "QUOTA",
    "NOSPACE",
    "TOOBIG",
    "NOAUTH",
    "NOPERM",
    "WRONGPASS",
    "NOPROJECT",
    "NOSESSION",
    "FORGOTTEN",
    "MOVED",
    "GONE",
    "EXECABORT",
    "NOPROTO",
    "BADTOKEN",
};

enum { RESULT_NAMES = sizeof result_names / sizeof result_names[0] };
static_assert((int)RESULT_NAMES <= (int)REQUESTS_RESULTS, "every result has its counter");

static void add_name(struct requests *requests, const char *container, const char *name) {
    ASSERT(requests->n_verbs < REQUESTS_VERBS);
    char *to = requests->names[requests->n_verbs++];
    int size =
        snprintf(to, REQUESTS_NAME_SIZE, "%s%s%s", container, *container != '\0' ? "|" : "", name);
    ASSERT(size > 0 && size < REQUESTS_NAME_SIZE);
}

void requests_init(struct requests *requests) {
    unsigned count;
    const struct verb *verbs = verb_table(&count);
    memset(requests, 0, sizeof *requests);
    add_name(requests, "", "unknown");
    for (unsigned i = 0; i < count; i++) {
        add_name(requests, "", verbs[i].name);
    }
    for (unsigned i = 0; i < count; i++) {
        requests->subcommands[i + 1] = (uint16_t)requests->n_verbs;
        for (unsigned k = 0; k < verbs[i].n_subcommands; k++) {
            add_name(requests, verbs[i].name, verbs[i].subcommands[k].name);
        }
    }
}

unsigned requests_number(const struct requests *requests, const struct verb *verb,
                         const struct verb *leaf) {
    unsigned count;
    if (verb == NULL) {
        return 0;
    }
    unsigned number = 1 + (unsigned)(verb - verb_table(&count));
    if (leaf == NULL || leaf == verb) {
        return number;
    }
    return requests->subcommands[number] + (unsigned)(leaf - verb->subcommands);
}

unsigned requests_result(struct slice word) {
    for (unsigned i = 0; i < RESULT_NAMES; i++) {
        if (slice_equal(word, slice_of(result_names[i]))) {
            return i;
        }
    }
    return RESULT_IS_OTHER;
}

unsigned requests_result_of(struct slice reply) {
    if (reply.size == 0 || reply.data[0] != '-') {
        return RESULT_IS_OK;
    }
    size_t end = 1;
    while (end < reply.size && isupper(reply.data[end])) {
        end++;
    }
    return requests_result(slice_make(reply.data + 1, end - 1));
}

const char *requests_result_name(unsigned result) {
    return result < RESULT_NAMES ? result_names[result] : NULL;
}

void requests_count(struct requests *requests, unsigned verb, unsigned result,
                    uint64_t duration_us) {
    ASSERT(verb < requests->n_verbs && result < RESULT_NAMES);
    requests->verbs[verb].results[result]++;
    histogram_add(&requests->verbs[verb].duration, duration_us);
}
