#include "tests/sim/swarm.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/sim/kernel.h"
#include "tests/sim/nemesis.h"

enum { JOBS_MAX = 64, COVER_MAX = 256, NAME = 96, KIND = 32, WALL_LIMIT_S = 600 };

/* What every swarm of some minutes has to exercise. */
static const char *const required[] = {"leaders elected",
                                       "kills",
                                       "power losses",
                                       "crash at an I/O boundary",
                                       "power loss: unsynced sectors torn",
                                       "all nodes down at once",
                                       "orderly stops",
                                       "pauses",
                                       "partitions",
                                       "one-way cuts",
                                       "corrupted segment",
                                       "dropped segment",
                                       "connection resets",
                                       "stalled sync",
                                       "failed sync",
                                       "failed write",
                                       "ENOSPC",
                                       "leadership transfer",
                                       "wall clock jumps",
                                       "sending a snapshot",
                                       "receiving a snapshot",
                                       "replaced nodes",
                                       "damaged node refused to start",
                                       "uncertain outcomes",
                                       "histories checked",
                                       "databases recounted",
                                       "owner reads: session",
                                       "sessions opened",
                                       "numbered writes sent again",
                                       "owner reads: bounded",
                                       "session tokens taken along",
                                       "checkpoints beside the state machine",
                                       "power lost behind a vote",
                                       "transactions carried out",
                                       "transactions in conflict",
                                       "transactions that read",
                                       "used bytes of a project checked",
                                       "writes beyond a quota refused",
                                       "whole walks by SCAN",
                                       "events of a watch checked",
                                       "watches resumed",
                                       "redirected operations",
                                       "nodes added",
                                       "nodes removed",
                                       "committed changes of members",
                                       "keepalive found a dead link"};

struct totals {
    uint64_t seeds;
    uint64_t failed;
    uint64_t events;
    uint64_t operations;
    uint64_t checked;
    uint64_t unchecked;
    uint64_t invariants;
    double simulated_s;
    struct {
        char name[NAME];
        uint64_t n;
    } cover[COVER_MAX];
    unsigned n_cover;
};

struct job {
    pid_t pid;
    uint64_t seed;
    FILE *output;
};

static struct totals totals;

/* The real clock: the simulated one is linked in the place of clock_gettime(). */
int __real_clock_gettime(clockid_t clock, struct timespec *now);

static double now_s(void) {
    struct timespec now;
    (void)__real_clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double cpu_s(void) {
    struct rusage usage;
    (void)getrusage(RUSAGE_CHILDREN, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

void swarm_format_command(char *text, size_t size, uint64_t seed, const struct run_limits *limits) {
    size_t n = (size_t)snprintf(text, size, "--seed %" PRIu64, seed);
    if (limits->nodes > 0) {
        n += (size_t)snprintf(text + n, size - n, " --nodes %u", limits->nodes);
    }
    if (limits->shards > 0) {
        n += (size_t)snprintf(text + n, size - n, " --shards %u", limits->shards);
    }
    if (limits->clients > 0) {
        n += (size_t)snprintf(text + n, size - n, " --clients %u", limits->clients);
    }
    if (limits->seconds > 0) {
        n += (size_t)snprintf(text + n, size - n, " --seconds %" PRIu64, limits->seconds);
    }
    const char *before = " --without ";
    for (unsigned i = 0; i < FAULTS && n < size; i++) {
        if ((limits->faults_off >> i & 1) != 0) {
            n += (size_t)snprintf(text + n, size - n, "%s%s", before, fault_name((enum fault)i));
            before = ",";
        }
    }
}

/* ---- one run in a process of its own ---- */

static struct job job_start(uint64_t seed, const struct run_limits *limits) {
    struct job job = {.seed = seed, .output = tmpfile()};
    if (job.output == NULL) {
        perror("sim: cannot create a temporary file");
        exit(2);
    }
    fflush(stdout);
    job.pid = fork();
    if (job.pid < 0) {
        perror("sim: cannot start a process");
        exit(2);
    }
    if (job.pid == 0) {
        (void)dup2(fileno(job.output), STDOUT_FILENO);
        (void)dup2(fileno(job.output), STDERR_FILENO);
        alarm(WALL_LIMIT_S);
        _Exit(main_run_one(seed, limits, true));
    }
    return job;
}

static void count_cover(const char *name, uint64_t n) {
    for (unsigned i = 0; i < totals.n_cover; i++) {
        if (strcmp(totals.cover[i].name, name) == 0) {
            totals.cover[i].n += n;
            return;
        }
    }
    if (totals.n_cover < COVER_MAX) {
        snprintf(totals.cover[totals.n_cover].name, NAME, "%s", name);
        totals.cover[totals.n_cover++].n = n;
    }
}

static void read_line(const char *line) {
    double simulated_s;
    uint64_t events, operations, checked, unchecked, invariants;
    if (sscanf(line,
               "seed %*u ok: %lf s simulated, %" SCNu64 " events, %" SCNu64 " operations, %" SCNu64
               " checked, %" SCNu64 " unchecked, %" SCNu64 " invariants",
               &simulated_s, &events, &operations, &checked, &unchecked, &invariants) == 6) {
        totals.simulated_s += simulated_s;
        totals.events += events;
        totals.operations += operations;
        totals.checked += checked;
        totals.unchecked += unchecked;
        totals.invariants += invariants;
    }
    const char *tab = strchr(line, '\t');
    if (strncmp(line, "COVER ", 6) == 0 && tab != NULL) {
        char name[NAME];
        snprintf(name, sizeof name, "%.*s", (int)(tab - line - 6), line + 6);
        count_cover(name, strtoull(tab + 1, NULL, 10));
    }
}

/* The kind of failure is the first word of its text; a crash has the kind of its signal. */
static bool job_finish(struct job *job, int status, char kind[KIND], bool show) {
    char line[4096];
    bool failed = !WIFEXITED(status) || WEXITSTATUS(status) != 0;
    rewind(job->output);
    snprintf(kind, KIND, "%s%d", WIFEXITED(status) ? "exit" : "signal",
             WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
    while (fgets(line, sizeof line, job->output) != NULL) {
        read_line(line);
        const char *text = strstr(line, " s: ");
        if (strncmp(line, "FAILED at ", 10) == 0 && text != NULL) {
            snprintf(kind, KIND, "%.*s", (int)strcspn(text + 4, " "), text + 4);
        }
        if (failed && show && strncmp(line, "COVER ", 6) != 0) {
            fputs(line, stdout);
        }
    }
    fclose(job->output);
    return !failed;
}

static bool run_alone(uint64_t seed, const struct run_limits *limits, char kind[KIND], bool show) {
    struct job job = job_start(seed, limits);
    int status = 0;
    (void)waitpid(job.pid, &status, 0);
    return job_finish(&job, status, kind, show);
}

/* ---- shrinking ---- */

/* Keeps the smaller run when it fails alike. */
static bool try_smaller(uint64_t seed, struct run_limits *best, const struct run_limits *smaller,
                        const char *wanted) {
    char kind[KIND];
    if (run_alone(seed, smaller, kind, false) || strcmp(kind, wanted) != 0) {
        return false;
    }
    char command[600];
    *best = *smaller;
    swarm_format_command(command, sizeof command, seed, best);
    printf("  fails alike: %s\n", command);
    return true;
}

int swarm_shrink(uint64_t seed, const struct run_limits *limits) {
    struct run_limits best = *limits;
    char wanted[KIND];
    char command[600];
    if (run_alone(seed, &best, wanted, true)) {
        printf("seed %" PRIu64 " does not fail\n", seed);
        return 0;
    }
    printf("shrinking a failure of kind %s\n", wanted);
    for (unsigned i = 0; i < FAULTS; i++) {
        struct run_limits smaller = best;
        smaller.faults_off |= (uint64_t)1 << i;
        if (smaller.faults_off != best.faults_off) {
            (void)try_smaller(seed, &best, &smaller, wanted);
        }
    }
    static const unsigned nodes[] = {1, 2, 3};
    for (unsigned i = 0; i < 3; i++) {
        struct run_limits smaller = best;
        smaller.nodes = nodes[i];
        if ((best.nodes == 0 || nodes[i] < best.nodes) &&
            try_smaller(seed, &best, &smaller, wanted)) {
            break;
        }
    }
    struct run_limits smaller = best;
    smaller.shards = 1;
    (void)try_smaller(seed, &best, &smaller, wanted);
    for (unsigned clients = 1; clients <= 3; clients++) {
        smaller = best;
        smaller.clients = clients;
        if ((best.clients == 0 || clients < best.clients) &&
            try_smaller(seed, &best, &smaller, wanted)) {
            break;
        }
    }
    for (uint64_t seconds = 2; seconds <= 32; seconds *= 2) {
        smaller = best;
        smaller.seconds = seconds;
        if ((best.seconds == 0 || seconds < best.seconds) &&
            try_smaller(seed, &best, &smaller, wanted)) {
            break;
        }
    }
    swarm_format_command(command, sizeof command, seed, &best);
    printf("shrunk to: sim %s --log\n", command);
    return 1;
}

/* ---- swarms ---- */

/* For scripts/test: how many tests this was. */
static void write_counts(uint64_t n, uint64_t n_failed) {
    const char *path = getenv("COUNTS");
    FILE *file = path == NULL ? NULL : fopen(path, "w");
    if (file != NULL) {
        fprintf(file, "%" PRIu64 " %" PRIu64 "\n", n - n_failed, n_failed);
        fclose(file);
    }
}

static int by_name(const void *a, const void *b) {
    return strcmp(a, b);
}

static int print_summary(double took_s, bool whole) {
    printf("%" PRIu64 " seeds in %.0f s (%.2f per second), %.1f simulated hours, %" PRIu64
           " events, %" PRIu64 " operations, %" PRIu64 " checked, %" PRIu64 " unchecked, %" PRIu64
           " invariants, %" PRIu64 " failed\n",
           totals.seeds, took_s, (double)totals.seeds / took_s, totals.simulated_s / 3600,
           totals.events, totals.operations, totals.checked, totals.unchecked, totals.invariants,
           totals.failed);
    qsort(totals.cover, totals.n_cover, sizeof totals.cover[0], by_name);
    for (unsigned i = 0; i < totals.n_cover; i++) {
        printf("  %10" PRIu64 "  %s\n", totals.cover[i].n, totals.cover[i].name);
    }
    int missing = 0;
    for (size_t i = 0; i < sizeof required / sizeof required[0] && whole; i++) {
        bool found = false;
        for (unsigned k = 0; k < totals.n_cover; k++) {
            found = found || strcmp(totals.cover[k].name, required[i]) == 0;
        }
        if (!found) {
            printf("never happened: %s\n", required[i]);
            missing++;
        }
    }
    return missing;
}

int swarm_run(const struct swarm_options *options) {
    struct job jobs[JOBS_MAX];
    unsigned n_jobs = 0;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned most = options->jobs > 0 ? options->jobs : (unsigned)(cores > 0 ? cores : 1);
    most = most < JOBS_MAX ? most : JOBS_MAX;
    double begun = now_s();
    double said = begun;
    uint64_t next = options->first_seed;
    uint64_t failed_seed = 0;
    for (;;) {
        double spent_s = options->cpu_minutes ? cpu_s() : now_s() - begun;
        bool more = failed_seed == 0 && spent_s < options->minutes * 60 &&
                    (options->n_seeds == 0 || next < options->first_seed + options->n_seeds);
        if (more && n_jobs < most) {
            jobs[n_jobs++] = job_start(next++, &options->limits);
            continue;
        }
        if (n_jobs == 0) {
            break;
        }
        int status = 0;
        pid_t pid = waitpid(-1, &status, 0);
        for (unsigned i = 0; i < n_jobs; i++) {
            char kind[KIND];
            if (jobs[i].pid != pid) {
                continue;
            }
            totals.seeds++;
            if (!job_finish(&jobs[i], status, kind, true)) {
                totals.failed++;
                printf("seed %" PRIu64 " failed: %s\n", jobs[i].seed, kind);
                failed_seed = failed_seed == 0 ? jobs[i].seed : failed_seed;
            }
            jobs[i] = jobs[--n_jobs];
            break;
        }
        if (now_s() - said > 10) {
            said = now_s();
            printf("%.0f s: %" PRIu64 " seeds, %.1f simulated hours, %" PRIu64 " checked\n",
                   said - begun, totals.seeds, totals.simulated_s / 3600, totals.checked);
            fflush(stdout);
        }
    }
    /* Rare events need some seeds before their absence means anything. */
    int missing = print_summary(now_s() - begun, totals.seeds >= 100);
    write_counts(totals.seeds, totals.failed + (missing > 0 ? 1 : 0));
    if (failed_seed != 0) {
        return options->no_shrink ? 1 : swarm_shrink(failed_seed, &options->limits);
    }
    return missing > 0 ? 2 : 0;
}

int swarm_run_list(const char *program, const char *path) {
    char line[600];
    char command[1400];
    unsigned n = 0;
    unsigned n_failed = 0;
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        fprintf(stderr, "sim: cannot read %s\n", path);
        return 64;
    }
    while (fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "#\n")] = '\0';
        if (strspn(line, " ") == strlen(line)) {
            continue;
        }
        n++;
        snprintf(command, sizeof command, "%s %s", program, line);
        fflush(stdout);
        if (system(command) != 0) {
            printf("failed: sim %s\n", line);
            n_failed++;
        }
    }
    fclose(file);
    write_counts(n, n_failed);
    printf("%u seeds of the list, %u failed\n", n, n_failed);
    return n_failed > 0 ? 1 : 0;
}
