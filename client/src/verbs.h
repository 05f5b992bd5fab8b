/* What the library has to know of a command to route and repeat it. Pure. */
#ifndef CLIENT_VERBS_H
#define CLIENT_VERBS_H

#include <stddef.h>

#include "client/include/invoke_kv.h"

enum verb_kind {
    VERB_READ,      /* reads keys */
    VERB_WRITE,     /* writes keys: to be numbered */
    VERB_ASK,       /* asks a node, changes nothing */
    VERB_ACT,       /* not known, or changes something else: never sent twice */
    VERB_CONNECTION /* changes the connection, which others share: refused */
};

/* argc >= 1. */
enum verb_kind verb_kind_of(size_t argc, const ikv_bytes *argv);

#endif
