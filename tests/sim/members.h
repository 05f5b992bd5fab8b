/* What operators do to the membership while everything else goes wrong: nodes with empty disks are
 * added, nodes are removed, run on for a while without being members, are stopped and may come back
 * later as fresh ones. One change at a time, as docs/operations.md tells. */
#ifndef SIM_MEMBERS_H
#define SIM_MEMBERS_H

#include "tests/sim/kernel.h"

struct node;

/* A change is to be begun as soon as all is well. */
void members_want_change(void);
/* Carries on with what has begun; `may_begin`: nothing else is being done to a node. */
void members_watch(bool may_begin);
/* A change is under way: the disks of nodes should not get lost meanwhile. */
bool members_are_changing(void);
/* No new change begins; the one under way goes on. */
void members_heal(void);
/* Its end is near, and must not look like damage: a node whose disk is to be cleared. */
bool members_let_restart(const struct node *node);

#endif
