/* Failed logins, bounded by where they come from: an IPv4 address or an IPv6 network of 64 bits.
 *
 * A login is of a kind: the address, the user that is tried, and the number of the token where one
 * is shown. Each kind has a budget of failures that refills evenly within a minute, and each
 * address has one for all kinds together that is LOGINS_PER_ADDRESS times as large. While one of
 * the two is used up, logins of that kind or address are refused unseen. So a guesser spends its
 * own budget: not that of other addresses, and behind the same address not that of other projects,
 * nor of those who show another token of the same one. If it tries very many kinds it uses up the
 * budget of its address; then only those kinds go on there that have succeeded lately, each within
 * its own budget. What succeeds costs nothing and gives nothing back, so that a valid token does
 * not buy guesses.
 *
 * Budgets are kept in a table of a fixed size by keyed hashes; when it is full the budget that is
 * used least is forgotten, first those whose kind has not succeeded lately.
 *
 * Pure. Threads: the loop thread. */
#ifndef NODE_LOGINS_H
#define NODE_LOGINS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"

struct logins;

enum {
    LOGINS_WINDOW_MS = 60000,
    LOGINS_WAIT_MAX_MS = 600000, /* however many fail at once, after this long one may try again */
    LOGINS_KNOWN_MS = 3600000,   /* so long a kind that succeeded is known */
    LOGINS_PER_ADDRESS = 10,
    LOGINS_FAILURES_MAX = 1000
};

enum login_kind { LOGIN_PROJECT, LOGIN_SERVICE, LOGIN_ADMIN, LOGIN_CERTIFICATE };
enum { LOGIN_KINDS = 4 };

enum login_outcome {
    LOGIN_GOOD,
    LOGIN_WRONG,
    LOGIN_THROTTLED, /* refused unseen */
    LOGIN_UNKNOWN    /* no answer: neither good nor wrong */
};
enum { LOGIN_RESULTS = 3 }; /* those that are counted: all but LOGIN_UNKNOWN */

/* Since the process started. */
struct logins_stats {
    uint64_t counts[LOGIN_KINDS][LOGIN_RESULTS];
};

/* A login under way. */
struct login {
    enum login_kind kind;
    uint64_t keys[2]; /* of its budgets in the table: of the kind, of the address */
};

/* `failures` in a minute of one kind, 1..LOGINS_FAILURES_MAX; 0: logins are counted, and none is
 * refused. `seed` is nothing that clients can guess. */
struct logins *logins_new(unsigned failures, uint64_t seed);
void logins_free(struct logins *logins); /* NULL is fine */

/* Whom a user name stands for. */
enum login_kind login_kind_of(struct slice user);

/* A login from `peer`, an address as in struct session. `token`: number of the token that is shown,
 * 0: none. Returns 0, or the milliseconds after which it may be tried again: it is refused then and
 * already counted. After 0 the caller owes one logins_end(). */
uint64_t logins_begin(struct logins *logins, uint64_t now_ms, const char *peer, struct slice user,
                      uint64_t token, struct login *login);
/* `outcome` is any but LOGIN_THROTTLED. */
void logins_end(struct logins *logins, uint64_t now_ms, const struct login *login,
                enum login_outcome outcome);

const struct logins_stats *logins_stats(const struct logins *logins);

#endif
