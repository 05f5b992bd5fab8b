/* What a node says when it dies of a signal: one line with the signal, the address, version and
 * build id, then a backtrace on stderr; then the signal takes its default action.
 * docs/operations.md tells how to read it.
 *
 * Does nothing in builds with sanitizers, which report themselves. */
#ifndef NODE_CRASH_H
#define NODE_CRASH_H

/* Handles SIGSEGV, SIGBUS, SIGABRT, SIGILL and SIGFPE from now on. Called once, before threads are
 * started: the calling thread gets a stack of its own for the report, so that an overflow of its
 * stack is reported as well. */
void crash_install(void);
/* The build id of this program in hex; empty when it was linked without one. */
const char *crash_build_id(void);

#endif
