/* Kinds of errors; ikv_strerror() and ikv_outcome() are in errors.c. Pure. */
#ifndef CLIENT_ERRORS_H
#define CLIENT_ERRORS_H

#include <stdbool.h>
#include <stddef.h>

#include "client/include/invoke_kv.h"

/* What becomes of a request that the server answered with an error. */
enum error_action {
    ERROR_FINAL,     /* the request is over */
    ERROR_AGAIN,     /* this attempt was not carried out; try again after a while */
    ERROR_MOVED,     /* this attempt was not carried out; another node leads */
    ERROR_UNCERTAIN, /* this attempt may have been carried out */
    ERROR_FRESHER,   /* a fresher replica is needed */
    ERROR_SESSION    /* this attempt was not carried out: the numbering session is gone */
};

struct error_meaning {
    int error; /* enum ikv_error */
    enum error_action action;
    /* The server decided it as it carried the write out, and would decide alike for each attempt
     * under the same number: then no attempt had an effect. */
    bool settles;
};

/* `text` is an error reply without its dash. */
struct error_meaning error_meaning_of(const ikv_value *text);

#endif
