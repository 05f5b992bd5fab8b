/* Parts of the server that the simulator has its own way with: lines of the log become events of
 * the run, failed assertions end it, HTTP is left out. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "node/http.h"
#include "node/logging.h"
#include "node/metrics.h"
#include "tests/sim/cluster.h"
#include "tests/sim/kernel.h"

void assert_failed(const char *expression, const char *file, int line, const char *function) {
    const struct process *process = process_current();
    sim_fail("ASSERT host %u: %s (%s:%d, %s)", process == NULL ? 0 : process->host->number,
             expression, file, line, function);
}

/* A process may end itself because of what the simulator did to its disk, and for no other reason.
 */
void assert_fatal(const char *format, ...) {
    char text[500];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    struct process *process = process_current();
    if (process != NULL && (process->io_failed || node_may_end(process->node))) {
        cover("process ended itself after a failed disk");
        process_kill(process, text);
    }
    sim_fail("FATAL host %u: %s", process == NULL ? 0 : process->host->number, text);
}

void assert_note(const char *what, uint64_t a, uint64_t b) {
    (void)what;
    (void)a;
    (void)b;
}

void say_set_level(enum say_level level) {
    (void)level;
}

enum say_level say_level(void) {
    return SAY_DEBUG;
}

bool say_level_parse(struct slice text, enum say_level *level) {
    static const char *const names[] = {"error", "warn", "info", "debug"};
    for (unsigned i = 0; i < 4; i++) {
        if (slice_equal_nocase(text, names[i])) {
            *level = (enum say_level)i;
            return true;
        }
    }
    return false;
}

const char *say_level_name(enum say_level level) {
    (void)level;
    return "info";
}

void say(enum say_level level, const char *event, const char *format, ...) {
    char text[300] = "";
    if (format != NULL) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(text, sizeof text, format, arguments);
        va_end(arguments);
    }
    const struct process *process = process_current();
    unsigned host = process == NULL ? 0 : process->host->number;
    sim_log("n%u %s %s", host, event, text);
    if (level <= SAY_INFO) {
        cover(event);
    }
    if (strncmp(event, "replicas differ", 15) == 0) {
        sim_fail("DIGEST host %u says: %s %s", host, event, text);
    }
}

enum error_code http_open(struct http **http, const struct config_address *address,
                          struct error *error) {
    (void)address;
    (void)error;
    *http = NULL;
    return ERROR_NONE;
}

void http_publish(struct http *http, const struct metrics *metrics) {
    (void)http;
    node_set_ready(process_current()->node, readiness_is_ready(&metrics->readiness));
}

void http_close(struct http *http) {
    (void)http;
}
