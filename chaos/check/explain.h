/* From a history that cannot be explained to the few operations that show it. */
#ifndef CHAOS_CHECK_EXPLAIN_H
#define CHAOS_CHECK_EXPLAIN_H

#include "chaos/check/report.h"

/* Tells of a unit that search_run() found to be a violation: the shortest beginning of it that is
 * one already, without the operations that it does not take (as in Zeller's delta debugging: parts
 * are left out for as long as the rest cannot be explained either). `name`: of the unit. */
void explain_violation(const struct model *model, const struct model_context *context,
                       const struct op *const *ops, size_t n, const char *name,
                       const struct search_limits *limits, struct report *report);

#endif
