/* Is there an order of operations that explains all results: one in which each operation stands
 * between its start and its end, and which a model allows?
 *
 * The search is that of Wing and Gong ("Testing and verifying concurrent objects", 1993) with
 * Lowe's memory of what was tried ("Testing for linearizability", 2017): a set of pairs of the
 * operations that were placed and the state that they led to. What makes it fast here:
 *
 *  - An operation that changes nothing is placed as soon as it fits, and no other place is tried:
 *    where it fits it takes nothing from the others.
 *  - Values are unique. So a write of unknown outcome whose value was read did happen, before the
 *    first of these reads ended; and a value had to be in place by the end of the first read of it
 *    and until the start of the last. (Gibbons and Korach, "Testing shared memories", 1997, call
 *    that its zone.) Operations are tried in an order that fits these times; it is a guess only,
 * the others are tried after it.
 *  - Other operations of unknown outcome need not be placed, so they are tried last; and a pair
 * that was tried before with fewer of them used up was tried better.
 *  - Of unknown operations that do the same only the one that began first is tried.
 *
 * The sets of placed operations are remembered as 128-bit sums of random numbers (Zobrist), so two
 * different ones are mistaken for each other with a chance of about 2^-100. */
#ifndef CHAOS_CHECK_SEARCH_H
#define CHAOS_CHECK_SEARCH_H

#include "chaos/check/model.h"

enum verdict { VERDICT_GOOD, VERDICT_VIOLATION, VERDICT_UNDECIDED };

struct search_limits {
    uint64_t steps;  /* placements tried */
    uint64_t states; /* pairs remembered; 32 bytes each, and as much again while the table grows */
};

enum { SEARCH_STATES = 8 };

struct search_result {
    enum verdict verdict;
    uint64_t steps;
    uint64_t peak_states;
    /* Of a violation: the operation in whose time all ways end, and some of the states that the
     * others leave it with. */
    const struct op *blocked;
    struct model_state states[SEARCH_STATES];
    unsigned n_states;
};

/* `ops`: of one unit, in any order; those that failed and reads of unknown outcome are left out.
 * Allocates and frees what it needs. */
void search_run(const struct model *model, const struct model_context *context,
                const struct op *const *ops, size_t n, const struct search_limits *limits,
                struct search_result *result);

#endif
