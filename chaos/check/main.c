/* chaos-check: decides from histories whether promises were broken. docs/chaos.md. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/json.h"
#include "base/number.h"
#include "chaos/check/report.h"

static const char usage[] =
    "Usage: chaos-check [OPTION]... FILE...\n"
    "Decides from histories of clients whether the store kept its promises.\n"
    "\n"
    "  --workload NAME    only this workload\n"
    "  --json FILE        writes the verdicts there as well\n"
    "  --memory MIB       bound for the history in memory (4096)\n"
    "  --steps N          bound of the search in one key or project (200000000)\n"
    "  --states N         pairs that it remembers at most (8000000, 48 MiB for a million)\n"
    "  --expiry-early MS  how much too early a key may go (10)\n"
    "  --expiry-late MS   how much too late (10000). -1 for both: any, for runs in which wall "
    "clocks\n"
    "                     were wrong while so many nodes were down that they counted\n"
    "  --clock-doubt FROM:TO  times, ns as in the history, in which wall clocks were wrong: keys "
    "that\n"
    "                     lived then are allowed both; up to 4096 times\n"
    "  --walls-count FROM:TO  times in which wall clocks may have counted: keys that were written\n"
    "                     before are allowed to go early\n"
    "  --clock-drift PPM  by how much clocks may run wrong (1000)\n"
    "  --stale-slack MS   what an eventual read may be older than its bound (1000)\n"
    "\n"
    "Exit status: 0 all is well, 1 a promise was broken, 2 unreadable or undecided.\n";

enum { DOUBTS_MAX = 4096 };

struct run {
    struct check_options options;
    struct doubt doubts[DOUBTS_MAX];
    enum workload only;
    const char *json;
    uint64_t memory_max;
};

static int64_t parse_number(const char *name, const char *text, int64_t least) {
    int64_t number;
    if (!number_parse_integer(slice_of(text), &number) || number < least ||
        number > INT64_C(1000000000000)) {
        fprintf(stderr, "chaos-check: --%s: '%s' is not a number in its range\n", name, text);
        exit(2);
    }
    return number;
}

static void add_doubt(struct run *run, const char *name, const char *text) {
    const char *colon = strchr(text, ':');
    int64_t from;
    int64_t to;
    if (colon == NULL || run->options.n_doubts == DOUBTS_MAX ||
        !number_parse_integer(slice_make(text, (size_t)(colon - text)), &from) ||
        !number_parse_integer(slice_of(colon + 1), &to) || from < 0 || to < from) {
        fprintf(stderr, "chaos-check: --%s: '%s' is not FROM:TO, or there are too many\n", name,
                text);
        exit(2);
    }
    run->doubts[run->options.n_doubts++] = (struct doubt){
        .from = (uint64_t)from, .to = (uint64_t)to, .early_only = strcmp(name, "walls-count") == 0};
    run->options.doubts = run->doubts;
}

static void set_option(struct run *run, const char *name, const char *value) {
    if (strcmp(name, "workload") == 0) {
        run->only = workload_find(slice_of(value));
        if (run->only == WORKLOADS) {
            fprintf(stderr, "chaos-check: there is no workload '%s'\n", value);
            exit(2);
        }
    } else if (strcmp(name, "json") == 0) {
        run->json = value;
    } else if (strcmp(name, "memory") == 0) {
        run->memory_max = (uint64_t)parse_number(name, value, 1) << 20;
    } else if (strcmp(name, "steps") == 0) {
        run->options.limits.steps = (uint64_t)parse_number(name, value, 1);
    } else if (strcmp(name, "states") == 0) {
        run->options.limits.states = (uint64_t)parse_number(name, value, 1);
    } else if (strcmp(name, "expiry-early") == 0) {
        int64_t ms = parse_number(name, value, -1);
        run->options.early_ms = ms < 0 ? UINT64_MAX : (uint64_t)ms;
    } else if (strcmp(name, "expiry-late") == 0) {
        int64_t ms = parse_number(name, value, -1);
        run->options.late_ms = ms < 0 ? UINT64_MAX : (uint64_t)ms;
    } else if (strcmp(name, "clock-doubt") == 0 || strcmp(name, "walls-count") == 0) {
        add_doubt(run, name, value);
    } else if (strcmp(name, "clock-drift") == 0) {
        run->options.drift = (double)parse_number(name, value, 0) / 1e6;
    } else if (strcmp(name, "stale-slack") == 0) {
        run->options.stale_ms = (uint64_t)parse_number(name, value, 0);
    }
}

static void parse_options(struct run *run, int argc, char **argv) {
    static const struct option options[] = {{"workload", required_argument, NULL, 0},
                                            {"json", required_argument, NULL, 0},
                                            {"memory", required_argument, NULL, 0},
                                            {"steps", required_argument, NULL, 0},
                                            {"states", required_argument, NULL, 0},
                                            {"expiry-early", required_argument, NULL, 0},
                                            {"expiry-late", required_argument, NULL, 0},
                                            {"clock-doubt", required_argument, NULL, 0},
                                            {"walls-count", required_argument, NULL, 0},
                                            {"clock-drift", required_argument, NULL, 0},
                                            {"stale-slack", required_argument, NULL, 0},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    int index = 0;
    for (int c; (c = getopt_long(argc, argv, "h", options, &index)) != -1;) {
        if (c == 'h') {
            fputs(usage, stdout);
            exit(0);
        }
        if (c != 0) {
            fputs(usage, stderr);
            exit(2);
        }
        set_option(run, options[index].name, optarg);
    }
    if (optind == argc) {
        fputs(usage, stderr);
        exit(2);
    }
}

static double seconds_now(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static const char *verdict_name(enum verdict verdict) {
    return verdict == VERDICT_GOOD        ? "OK"
           : verdict == VERDICT_VIOLATION ? "VIOLATION"
                                          : "UNDECIDED";
}

static void print_report(const struct report *report, double seconds) {
    printf("%s: %s %" PRIu64 " operations (%" PRIu64 " failed, %" PRIu64 " unknown), %" PRIu64
           " %s, %.1f s",
           workload_name(report->workload), verdict_name(report->verdict), report->operations,
           report->failed, report->unknown, report->units, report->units_are, seconds);
    if (report->violations > 0) {
        printf(", %" PRIu64 " violations", report->violations);
    }
    if (report->undecided > 0) {
        printf(", %" PRIu64 " undecided", report->undecided);
    }
    printf("\n%.*s", (int)report->text.size, (const char *)report->text.data);
    (void)fflush(stdout);
}

static void append_json(struct buffer *out, const struct report *report, double seconds) {
    static const struct {
        const char *name;
        size_t offset;
    } numbers[] = {{"operations", offsetof(struct report, operations)},
                   {"failed", offsetof(struct report, failed)},
                   {"unknown", offsetof(struct report, unknown)},
                   {"units", offsetof(struct report, units)},
                   {"violations", offsetof(struct report, violations)},
                   {"undecided", offsetof(struct report, undecided)},
                   {"steps", offsetof(struct report, steps)}};
    json_append_text(out, out->size > 1 ? ",\n " : "\n ");
    json_append_text(out, "{\"workload\":");
    json_append_string(out, slice_of(workload_name(report->workload)));
    json_append_text(out, ",\"verdict\":");
    json_append_string(out, slice_of(verdict_name(report->verdict)));
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        uint64_t number;
        memcpy(&number, (const char *)report + numbers[i].offset, sizeof number);
        json_append_text(out, ",");
        json_append_string(out, slice_of(numbers[i].name));
        json_append_text(out, ":");
        json_append_unsigned(out, number);
    }
    json_append_text(out, ",\"units_are\":");
    json_append_string(out, slice_of(report->units_are));
    json_append_text(out, ",\"seconds\":");
    json_append_double(out, seconds);
    json_append_text(out, ",\"text\":");
    json_append_string(out, buffer_slice(&report->text));
    json_append_text(out, "}");
}

static bool write_json(const char *path, struct buffer *json) {
    FILE *file = fopen(path, "wbe");
    json_append_text(json, "\n]\n");
    bool good = file != NULL && fwrite(json->data, 1, json->size, file) == json->size;
    if ((file != NULL && fclose(file) != 0) || !good) {
        fprintf(stderr, "chaos-check: cannot write %s\n", path);
        return false;
    }
    return true;
}

static bool has_workload(const struct history *history, enum workload workload) {
    for (size_t i = 0; i < history->n; i++) {
        if (history->ops[i].workload == workload) {
            return true;
        }
    }
    return false;
}

/* The exit status. */
static int check_all(const struct run *run, const struct history *history) {
    struct buffer json = {0};
    struct error error = {0};
    int status = 0;
    json_append_text(&json, "[");
    for (unsigned workload = 0; workload < WORKLOADS && status != 2; workload++) {
        struct report report;
        double begin = seconds_now();
        if (!has_workload(history, (enum workload)workload)) {
            continue;
        }
        if (check_workload(history, (enum workload)workload, &run->options, &report, &error) !=
            ERROR_NONE) {
            fprintf(stderr, "chaos-check: %s\n", error.message);
            status = 2;
            report_free(&report);
            break;
        }
        print_report(&report, seconds_now() - begin);
        append_json(&json, &report, seconds_now() - begin);
        if (report.verdict == VERDICT_VIOLATION) {
            status = 1;
        } else if (report.verdict == VERDICT_UNDECIDED && status == 0) {
            status = 3; /* until others are looked at */
        }
        report_free(&report);
    }
    if (run->json != NULL && !write_json(run->json, &json)) {
        status = 2;
    }
    buffer_free(&json);
    return status == 3 ? 2 : status;
}

int main(int argc, char **argv) {
    struct run run = {
        .options = check_options_default(), .only = WORKLOADS, .memory_max = UINT64_C(4096) << 20};
    struct error error = {0};
    run.options = check_options_default();
    parse_options(&run, argc, argv);
    struct history history = {.memory_max = run.memory_max};
    for (int i = optind; i < argc; i++) {
        if (history_read(&history, argv[i], run.only, &error) != ERROR_NONE) {
            fprintf(stderr, "chaos-check: %s\n", error.message);
            history_free(&history);
            return 2;
        }
    }
    if (history.n == 0) {
        fprintf(stderr, "chaos-check: there is no operation to check\n");
    }
    int status = history.n == 0 ? 2 : check_all(&run, &history);
    history_free(&history);
    return status;
}
