#include "client/cli/progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/cli/units.h"

enum { BAR_CELLS = 24 };

#define BAR_EVERY_NS 100000000u
#define LINE_EVERY_NS 5000000000u

int progress_start(struct progress *progress, const struct cli *cli, const char *when,
                   const char *verb, const char *noun) {
    bool is_auto = when == NULL || strcmp(when, "auto") == 0;
    bool is_always = when != NULL && strcmp(when, "always") == 0;
    bool is_never = when != NULL && strcmp(when, "never") == 0;
    if (!is_auto && !is_always && !is_never) {
        return cli_fail(cli, EXIT_USAGE, "--progress is auto, always or never, not '%s'", when);
    }
    *progress = (struct progress){.is_off = is_never || (cli->quiet && !is_always),
                                  .is_bar = is_always || isatty(STDERR_FILENO) == 1,
                                  .verb = verb,
                                  .noun = noun,
                                  .started_ns = cli_now_ns()};
    progress->next_ns = progress->started_ns + (progress->is_bar ? BAR_EVERY_NS : LINE_EVERY_NS);
    return EXIT_OK;
}

static void append(char *line, const char *text) {
    size_t size = strlen(line);
    snprintf(line + size, PROGRESS_LINE - size, "%s", text);
}

static void append_bar(char *line, const struct progress_state *state) {
    double share = state->done < state->total ? (double)state->done / (double)state->total : 1;
    int cells = (int)(share * BAR_CELLS);
    char bar[BAR_CELLS + 16];
    int size = snprintf(bar, sizeof bar, "%3d %% [", (int)(share * 100));
    for (int i = 0; i < BAR_CELLS; i++) {
        bar[size + i] = i < cells ? '#' : '.';
    }
    memcpy(bar + size + BAR_CELLS, "] ", 3);
    append(line, bar);
}

void progress_format(char *line, const struct progress *progress,
                     const struct progress_state *state, uint64_t elapsed_ms) {
    char text[PROGRESS_LINE];
    char count[UNITS_TEXT_SIZE];
    char bytes[UNITS_TEXT_SIZE];
    char rate[UNITS_TEXT_SIZE];
    char speed[UNITS_TEXT_SIZE];
    double seconds = (double)(elapsed_ms > 0 ? elapsed_ms : 1) / 1000;
    line[0] = '\0';
    if (state->total > 0 && progress->is_bar) {
        append_bar(line, state);
    }
    snprintf(text, sizeof text, "%s %s %s, %s; %s %s/s, %s/s", progress->verb,
             units_format_count(state->count, count), progress->noun,
             units_format_size(state->bytes, bytes),
             units_format_count((uint64_t)((double)state->count / seconds), rate), progress->noun,
             units_format_size((uint64_t)((double)state->bytes / seconds), speed));
    append(line, text);
    if (state->total > 0 && state->done > 0 && state->done < state->total) {
        double left = seconds * (double)(state->total - state->done) / (double)state->done;
        snprintf(text, sizeof text, "; %s left", units_format_clock((uint64_t)(left + 0.5), count));
        append(line, text);
    }
}

static void draw(struct progress *progress, const struct progress_state *state, const char *end) {
    char line[PROGRESS_LINE];
    uint64_t elapsed_ms = (cli_now_ns() - progress->started_ns) / 1000000;
    progress_format(line, progress, state, elapsed_ms);
    fprintf(stderr, "%s%s%s%s", progress->is_bar ? "\r" : "", line,
            progress->is_bar ? "\033[K" : "", end);
    fflush(stderr);
}

void progress_tell(struct progress *progress, const struct progress_state *state) {
    uint64_t now = cli_now_ns();
    if (progress->is_off || now < progress->next_ns) {
        return;
    }
    progress->next_ns = now + (progress->is_bar ? BAR_EVERY_NS : LINE_EVERY_NS);
    draw(progress, state, progress->is_bar ? "" : "\n");
}

void progress_end(struct progress *progress, const struct progress_state *state, bool failed) {
    if (!progress->is_off && !failed) {
        draw(progress, state, "\n");
    }
    progress->is_off = true;
}
