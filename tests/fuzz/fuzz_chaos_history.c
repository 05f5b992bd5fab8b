/* Histories of chaos runs: whatever stands in the file is refused in words or judged. */
#include "base/assert.h"
#include "chaos/check/report.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void judge(const struct history *history, enum workload workload) {
    struct check_options options = check_options_default();
    struct report report;
    struct error error = {0};
    options.limits = (struct search_limits){.steps = 2000, .states = 2000};
    if (check_workload(history, workload, &options, &report, &error) != ERROR_NONE) {
        ASSERT(error.message[0] != '\0');
    }
    report_free(&report);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct history history = {.memory_max = 64 << 20};
    struct error error = {0};
    struct slice rest = slice_make(data, size);
    enum error_code code = ERROR_NONE;
    while (rest.size > 0 && code == ERROR_NONE) {
        const uint8_t *end = memchr(rest.data, '\n', rest.size);
        size_t line = end != NULL ? (size_t)(end - rest.data) : rest.size;
        code = history_add_line(&history, slice_make(rest.data, line), &error);
        size_t taken = line < rest.size ? line + 1 : line;
        rest = slice_make(rest.data + taken, rest.size - taken);
    }
    for (unsigned workload = 0; workload < WORKLOADS; workload++) {
        judge(&history, (enum workload)workload);
    }
    history_free(&history);
    return 0;
}
