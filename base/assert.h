/* Assertions that stay on in release builds.
 *
 * ASSERT() is for what the code itself promises; bad input and failed I/O are errors, never
 * assertions. A failed assertion prints where, the recent events noted with assert_note() and
 * then aborts: a stopped replica is recoverable, a wrong one is not. */
#ifndef BASE_ASSERT_H
#define BASE_ASSERT_H

#include <stdbool.h>
#include <stdint.h>

/* Aborts with a message when `condition` is false. Never compiled out. */
#define ASSERT(condition)                                                                          \
    ((condition) ? (void)0 : assert_failed(#condition, __FILE__, __LINE__, __func__))

/* Prints the failed expression and the ring of recent events to stderr, then aborts. */
_Noreturn void assert_failed(const char *expression, const char *file, int line,
                             const char *function);

/* Prints `message` like a failed assertion does and aborts: for conditions such as a failed fsync
 * after which the process must not go on. */
_Noreturn void assert_fatal(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* True once one of the two above has printed its backtrace: a handler of SIGABRT need not. Safe in
 * signal handlers. */
bool assert_has_explained(void);

/* Notes one event in a small per-thread ring that a failing assertion prints. `what` must be a
 * string literal; a and b are any numbers that help a reader. Costs a few nanoseconds. */
void assert_note(const char *what, uint64_t a, uint64_t b);

#endif
