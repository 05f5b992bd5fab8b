#include "base/assert.h"

#include <execinfo.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { NOTE_COUNT = 32, FRAME_COUNT = 64 };

struct note {
    const char *what;
    uint64_t a;
    uint64_t b;
};

/* Notes of this thread: the newest is at (notes_written - 1) % NOTE_COUNT. */
static _Thread_local struct note notes[NOTE_COUNT];
static _Thread_local uint64_t notes_written;

void assert_note(const char *what, uint64_t a, uint64_t b) {
    notes[notes_written % NOTE_COUNT] = (struct note){.what = what, .a = a, .b = b};
    notes_written++;
}

static void notes_print(void) {
    if (notes_written == 0) {
        return;
    }
    uint64_t first = notes_written > NOTE_COUNT ? notes_written - NOTE_COUNT : 0;
    fprintf(stderr, "recent events of this thread, oldest first:\n");
    for (uint64_t i = first; i < notes_written; i++) {
        const struct note *note = &notes[i % NOTE_COUNT];
        fprintf(stderr, "  %" PRIu64 ": %s %" PRIu64 " %" PRIu64 "\n", i, note->what, note->a,
                note->b);
    }
}

static volatile sig_atomic_t explained;

bool assert_has_explained(void) {
    return explained != 0;
}

_Noreturn static void explain_and_abort(void) {
    void *frames[FRAME_COUNT];
    notes_print();
    fprintf(stderr, "backtrace:\n");
    fflush(stderr);
    /* The _fd variant does not allocate: the heap may be what is broken. */
    backtrace_symbols_fd(frames, backtrace(frames, FRAME_COUNT), STDERR_FILENO);
    explained = 1;
    abort();
}

void assert_failed(const char *expression, const char *file, int line, const char *function) {
    fprintf(stderr, "assertion failed: %s (%s:%d, %s)\n", expression, file, line, function);
    explain_and_abort();
}

void assert_fatal(const char *format, ...) {
    va_list args;
    fprintf(stderr, "fatal: ");
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\n");
    explain_and_abort();
}
