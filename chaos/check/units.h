/* The parts of a workload that are checked on their own: keys, or projects whose keys depend on
 * each other. Each is linearizable exactly if all of them are (Herlihy and Wing's locality; Horn
 * and Kroening call using it P-compositionality, "Faster linearizability checking via
 * P-compositionality", 2015). */
#ifndef CHAOS_CHECK_UNITS_H
#define CHAOS_CHECK_UNITS_H

#include "chaos/check/model.h"
#include "chaos/check/report.h"

enum { UNIT_KEYS = 16 /* keys of a project that is checked as a whole */ };

/* The number at the end of a key's name; UNIT_KEYS when there is none below that. */
unsigned unit_key_slot(struct slice key);

/* Checks all operations of the workload in the history. */
void units_check(const struct history *history, enum workload workload,
                 const struct check_options *options, struct report *report);

#endif
