/* sim: command line. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/kernel.h"
#include "tests/sim/nemesis.h"
#include "tests/sim/run.h"
#include "tests/sim/swarm.h"

#ifdef __SANITIZE_ADDRESS__
/* The simulator counts leaks itself, per process; killed ones leave their memory to it. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
    return "detect_leaks=0:detect_stack_use_after_return=0";
}
#endif

static uint64_t seed_of_run;
static struct run_limits limits;
static bool quiet;

static void usage(FILE *to) {
    fputs("Usage: sim --seed N [--log] [--nodes N] [--clients N] [--shards N] [--seconds N]\n"
          "           [--without FAULT,FAULT...] [--shrink]\n"
          "       sim --swarm [--minutes M [--cpu]] [--jobs N] [--first SEED] [--seeds N]\n"
          "           [--no-shrink]\n"
          "       sim --list FILE\n"
          "\n"
          "Simulates a cluster with faults, from a seed: the same seed gives the same run.\n"
          "  --seed N      one run; --log prints its events, else only the last ones of a failure\n"
          "  --shrink      when the run fails: looks for a smaller one that fails alike\n"
          "  --swarm       many seeds on all cores; coverage and totals at the end\n"
          "  --cpu         minutes of processor time instead of real ones\n"
          "  --list FILE   the seeds of a file, with their options, one line each\n"
          "Exit status: 0 no failure, 1 a run failed, 2 coverage is missing, 64 wrong usage.\n"
          "Faults:",
          to);
    for (unsigned i = 0; i < FAULTS; i++) {
        fprintf(to, " %s", fault_name((enum fault)i));
    }
    fputc('\n', to);
}

bool run_prints_failures(void) {
    return !quiet;
}

void run_report_failure(const char *text) {
    (void)text;
    char command[600];
    swarm_format_command(command, sizeof command, seed_of_run, &limits);
    printf("replay with: sim %s --log\n", command);
    cover_print(stdout, "COVER ");
}

int main_run_one(uint64_t seed, const struct run_limits *wanted, bool is_quiet) {
    seed_of_run = seed;
    limits = *wanted;
    quiet = is_quiet;
    struct run_result result = run_seed(seed, &limits);
    printf("seed %" PRIu64 " ok: %.1f s simulated, %" PRIu64 " events, %" PRIu64
           " operations, %" PRIu64 " checked, %" PRIu64 " unchecked, %" PRIu64
           " invariants, digest %016" PRIx64 "\n",
           seed, (double)result.simulated_ns / 1e9, result.events, result.operations,
           result.checked, result.unchecked, result.invariants, result.digest);
    cover_print(stdout, "COVER ");
    fflush(stdout);
    return 0;
}

static bool parse_without(const char *list, uint64_t *off) {
    char copy[600];
    snprintf(copy, sizeof copy, "%s", list);
    for (char *word = strtok(copy, ","); word != NULL; word = strtok(NULL, ",")) {
        unsigned i = 0;
        while (i < FAULTS && strcmp(word, fault_name((enum fault)i)) != 0) {
            i++;
        }
        if (i == FAULTS) {
            fprintf(stderr, "sim: no fault is called %s\n", word);
            return false;
        }
        *off |= (uint64_t)1 << i;
    }
    return true;
}

int main(int argc, char **argv) {
    struct run_limits wanted = {0};
    struct swarm_options swarm = {.minutes = 1, .first_seed = 1};
    uint64_t seed = 0;
    bool has_seed = false;
    bool is_swarm = false;
    bool shrink = false;
    bool log = false;
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(name, "--log") == 0) {
            log = true;
        } else if (strcmp(name, "--no-shrink") == 0) {
            swarm.no_shrink = true;
        } else if (strcmp(name, "--shrink") == 0) {
            shrink = true;
        } else if (strcmp(name, "--cpu") == 0) {
            swarm.cpu_minutes = true;
        } else if (strcmp(name, "--swarm") == 0) {
            is_swarm = true;
        } else if (strcmp(name, "--help") == 0) {
            usage(stdout);
            return 0;
        } else if (value == NULL) {
            usage(stderr);
            return 64;
        } else {
            i++;
            if (strcmp(name, "--seed") == 0) {
                seed = strtoull(value, NULL, 10);
                has_seed = true;
            } else if (strcmp(name, "--nodes") == 0) {
                wanted.nodes = (unsigned)strtoul(value, NULL, 10);
            } else if (strcmp(name, "--clients") == 0) {
                wanted.clients = (unsigned)strtoul(value, NULL, 10);
            } else if (strcmp(name, "--shards") == 0) {
                wanted.shards = (unsigned)strtoul(value, NULL, 10);
            } else if (strcmp(name, "--seconds") == 0) {
                wanted.seconds = strtoull(value, NULL, 10);
            } else if (strcmp(name, "--minutes") == 0) {
                swarm.minutes = strtod(value, NULL);
            } else if (strcmp(name, "--jobs") == 0) {
                swarm.jobs = (unsigned)strtoul(value, NULL, 10);
            } else if (strcmp(name, "--first") == 0) {
                swarm.first_seed = strtoull(value, NULL, 10);
            } else if (strcmp(name, "--seeds") == 0) {
                swarm.n_seeds = strtoull(value, NULL, 10);
            } else if (strcmp(name, "--list") == 0) {
                return swarm_run_list(argv[0], value);
            } else if (strcmp(name, "--without") == 0) {
                if (!parse_without(value, &wanted.faults_off)) {
                    return 64;
                }
            } else {
                usage(stderr);
                return 64;
            }
        }
    }
    if (is_swarm) {
        swarm.limits = wanted;
        return swarm_run(&swarm);
    }
    if (!has_seed || wanted.nodes > 7 || wanted.shards > 3 || wanted.clients > 20) {
        usage(stderr);
        return 64;
    }
    if (shrink) {
        return swarm_shrink(seed, &wanted);
    }
    sim_log_to_output(log);
    return main_run_one(seed, &wanted, false);
}
