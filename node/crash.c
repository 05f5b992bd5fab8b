#include "node/crash.h"

#include <elf.h>
#include <execinfo.h>
#include <link.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "node/release.h"

enum { BUILD_ID_MAX = 32, FRAMES = 64, REPORT_STACK = 64 * 1024 };

static char build_id[2 * BUILD_ID_MAX + 1];

/* --- the build id ----------------------------------------------------------------------------- */

static void format_id(const uint8_t *bytes, size_t size) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < size && i < BUILD_ID_MAX; i++) {
        build_id[2 * i] = digits[bytes[i] >> 4];
        build_id[2 * i + 1] = digits[bytes[i] & 15];
    }
}

static size_t padded(size_t size) {
    return (size + 3) & ~(size_t)3;
}

/* Notes are a header, a name and contents, the latter two padded to four bytes. */
static void read_notes(const uint8_t *at, size_t size) {
    ElfW(Nhdr) note;
    while (size >= sizeof note) {
        memcpy(&note, at, sizeof note);
        size_t name_size = padded(note.n_namesz);
        size_t whole = sizeof note + name_size + padded(note.n_descsz);
        if (whole > size) {
            return;
        }
        const uint8_t *name = at + sizeof note;
        if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && memcmp(name, "GNU", 4) == 0) {
            format_id(name + name_size, note.n_descsz);
            return;
        }
        at += whole;
        size -= whole;
    }
}

/* The first object is the program itself. */
static int read_program(struct dl_phdr_info *info, size_t size, void *data) {
    (void)size;
    (void)data;
    for (unsigned i = 0; i < info->dlpi_phnum && build_id[0] == '\0'; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        if (header->p_type == PT_NOTE) {
            uintptr_t address = info->dlpi_addr + header->p_vaddr;
            read_notes((const uint8_t *)address, header->p_memsz);
        }
    }
    return 1;
}

const char *crash_build_id(void) {
    if (build_id[0] == '\0') {
        (void)dl_iterate_phdr(read_program, NULL);
    }
    return build_id;
}

/* --- the report ------------------------------------------------------------------------------- */

#ifdef IKV_SANITIZED

void crash_install(void) {
}

#else

static const struct {
    int number;
    const char *name;
} signals[] = {{SIGSEGV, "SIGSEGV"},
               {SIGBUS, "SIGBUS"},
               {SIGABRT, "SIGABRT"},
               {SIGILL, "SIGILL"},
               {SIGFPE, "SIGFPE"}};

static char report_stack[REPORT_STACK];

static size_t append(char *line, size_t used, size_t size, const char *text) {
    while (*text != '\0' && used < size) {
        line[used++] = *text++;
    }
    return used;
}

static size_t append_hex(char *line, size_t used, size_t size, uintptr_t number) {
    char digits[2 * sizeof number + 1];
    size_t at = sizeof digits - 1;
    digits[at] = '\0';
    do {
        digits[--at] = "0123456789abcdef"[number & 15];
        number >>= 4;
    } while (number != 0);
    return append(line, append(line, used, size, "0x"), size, digits + at);
}

static const char *signal_name(int number) {
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        if (signals[i].number == number) {
            return signals[i].name;
        }
    }
    return "unknown";
}

/* Only what a signal handler may do: the heap, a lock or stdio may be what is broken. */
static void on_crash(int number, siginfo_t *info, void *context) {
    char line[512];
    void *frames[FRAMES];
    size_t used = 0;
    (void)context;
    used = append(line, used, sizeof line, "level=error event=crash signal=");
    used = append(line, used, sizeof line, signal_name(number));
    if (number != SIGABRT) {
        used = append(line, used, sizeof line, " address=");
        used = append_hex(line, used, sizeof line, (uintptr_t)info->si_addr);
    }
    used = append(line, used, sizeof line, " version=");
    used = append(line, used, sizeof line, release_name());
    used = append(line, used, sizeof line, " build_id=");
    used = append(line, used, sizeof line, build_id);
    used = append(line, used, sizeof line, assert_has_explained() ? "\n" : "\nbacktrace:\n");
    ssize_t written = write(STDERR_FILENO, line, used);
    if (written > 0 && !assert_has_explained()) {
        backtrace_symbols_fd(frames, backtrace(frames, FRAMES), STDERR_FILENO);
    }
    /* The handler was reset when it was entered. */
    (void)raise(number);
}

void crash_install(void) {
    void *frame;
    struct sigaction action = {.sa_sigaction = on_crash};
    stack_t stack = {.ss_sp = report_stack, .ss_size = sizeof report_stack};
    (void)crash_build_id();
    (void)backtrace(&frame, 1); /* the first call loads a library, which a handler may not do */
    (void)sigaltstack(&stack, NULL);
    sigemptyset(&action.sa_mask);
    action.sa_flags = (int)(SA_SIGINFO | SA_ONSTACK | SA_RESETHAND);
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        (void)sigaction(signals[i].number, &action, NULL);
    }
}

#endif
