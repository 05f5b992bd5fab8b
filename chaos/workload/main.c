/* chaos-workload: clients that do many things at once and write down what came of them.
 * docs/chaos.md. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/mem.h"
#include "base/number.h"
#include "chaos/workload/load.h"

static const char usage[] =
    "Usage: chaos-workload --nodes HOST:PORT,... --history FILE [OPTION]...\n"
    "Runs logical clients against a cluster and writes the history of what they did.\n"
    "\n"
    "  --nodes LIST      nodes, HOST:PORT separated by commas\n"
    "  --history FILE    where the history goes; replaced\n"
    "  --workload LIST   names separated by commas; all (default): all of them\n"
    "  --clients N       logical clients, shared out among the workloads (48)\n"
    "  --seconds S       how long; 0 (default): until SIGTERM or SIGINT\n"
    "  --rate N          operations a second of all together; 0: as fast as it goes (1000)\n"
    "  --seed N          of the random numbers (1)\n"
    "  --via HOW         lib: through libinvokekv; resp: plain connections; mixed (default)\n"
    "  --timeout MS      of one operation (5000)\n"
    "  --finish S        for last reads at the end (60)\n";

static const struct workload_kind *const kinds[] = {
    &workload_register, &workload_counter, &workload_cas,   &workload_bank,
    &workload_clear,    &workload_quota,   &workload_ttl,   &workload_session,
    &workload_eventual, &workload_watch,   &workload_large,
};
enum { KINDS = sizeof kinds / sizeof *kinds };

struct arguments {
    const char *history;
    bool chosen[KINDS];
    int64_t seconds;
    int64_t finish_s;
};

static atomic_bool interrupted;

static void on_signal(int number) {
    (void)number;
    atomic_store(&interrupted, true);
}

static _Noreturn void complain(const char *what, const char *value) {
    fprintf(stderr, "chaos-workload: %s '%s'; see --help\n", what, value);
    exit(2);
}

static int64_t parse_number(const char *name, const char *text, int64_t least, int64_t most) {
    int64_t number;
    if (!number_parse_integer(slice_of(text), &number) || number < least || number > most) {
        fprintf(stderr, "chaos-workload: --%s must be %" PRId64 " to %" PRId64 ", not '%s'\n", name,
                least, most, text);
        exit(2);
    }
    return number;
}

static void choose(struct arguments *arguments, const char *list) {
    while (*list != '\0') {
        size_t size = strcspn(list, ",");
        bool found = false;
        for (unsigned i = 0; i < KINDS; i++) {
            bool is_it =
                (size == strlen(kinds[i]->name) && strncmp(list, kinds[i]->name, size) == 0) ||
                (size == 3 && strncmp(list, "all", 3) == 0);
            arguments->chosen[i] = arguments->chosen[i] || is_it;
            found = found || is_it;
        }
        if (!found) {
            complain("unknown workload in", list);
        }
        list += size + (list[size] == ',' ? 1 : 0);
    }
}

static enum via parse_via(const char *text) {
    static const char *const names[] = {"lib", "resp", "mixed"};
    for (int i = 0; i < 3; i++) {
        if (strcmp(text, names[i]) == 0) {
            return (enum via)i;
        }
    }
    complain("--via must be lib, resp or mixed, not", text);
}

static void set_option(struct load *load, struct arguments *arguments, const char *name,
                       const char *value) {
    if (strcmp(name, "nodes") == 0) {
        load->seeds = value;
        if (!link_nodes_parse(&load->nodes, value)) {
            complain("--nodes must be up to 16 of HOST:PORT, not", value);
        }
    } else if (strcmp(name, "history") == 0) {
        arguments->history = value;
    } else if (strcmp(name, "workload") == 0) {
        choose(arguments, value);
    } else if (strcmp(name, "clients") == 0) {
        load->n_clients = (unsigned)parse_number(name, value, 1, CLIENTS_MAX / 2);
    } else if (strcmp(name, "seconds") == 0) {
        arguments->seconds = parse_number(name, value, 0, 1000000);
    } else if (strcmp(name, "rate") == 0) {
        load->rate = (double)parse_number(name, value, 0, 10000000);
    } else if (strcmp(name, "seed") == 0) {
        load->seed = (uint64_t)parse_number(name, value, 0, INT64_MAX);
    } else if (strcmp(name, "via") == 0) {
        load->via = parse_via(value);
    } else if (strcmp(name, "timeout") == 0) {
        load->timeout_ms = (uint32_t)parse_number(name, value, 10, 600000);
    } else if (strcmp(name, "finish") == 0) {
        arguments->finish_s = parse_number(name, value, 0, 3600);
    }
}

static void parse_options(struct load *load, struct arguments *arguments, int argc, char **argv) {
    static const struct option options[] = {
        {"nodes", required_argument, NULL, 0},    {"history", required_argument, NULL, 0},
        {"workload", required_argument, NULL, 0}, {"clients", required_argument, NULL, 0},
        {"seconds", required_argument, NULL, 0},  {"rate", required_argument, NULL, 0},
        {"seed", required_argument, NULL, 0},     {"via", required_argument, NULL, 0},
        {"timeout", required_argument, NULL, 0},  {"finish", required_argument, NULL, 0},
        {"help", no_argument, NULL, 'h'},         {NULL, 0, NULL, 0}};
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
        set_option(load, arguments, options[index].name, optarg);
    }
    if (load->nodes.n == 0 || arguments->history == NULL || optind < argc) {
        fputs(usage, stderr);
        exit(2);
    }
    bool any = false;
    for (unsigned i = 0; i < KINDS; i++) {
        any = any || arguments->chosen[i];
    }
    if (!any) {
        choose(arguments, "all");
    }
}

/* --- running ---------------------------------------------------------------------------------- */

struct run {
    struct load load;
    struct group groups[KINDS];
    unsigned n_groups;
    struct client *clients;
    unsigned n_clients;
};

/* Each workload its share, rounded up to what it needs: all may be more than was asked for. */
static void share_out(struct run *run, const struct arguments *arguments) {
    unsigned wanted = run->load.n_clients;
    unsigned weights = 0;
    for (unsigned i = 0; i < KINDS; i++) {
        weights += arguments->chosen[i] ? kinds[i]->weight : 0;
    }
    run->load.n_clients = 0;
    for (unsigned i = 0; i < KINDS; i++) {
        if (arguments->chosen[i]) {
            struct group *group = &run->groups[run->n_groups++];
            unsigned share = wanted * kinds[i]->weight / weights;
            *group = (struct group){.kind = kinds[i], .load = &run->load};
            group->n_clients = share > kinds[i]->least ? share : kinds[i]->least;
            run->load.n_clients += group->n_clients;
        }
    }
    run->clients = mem_zalloc(run->load.n_clients, sizeof *run->clients);
    atomic_init(&run->load.next_client, run->load.n_clients);
}

static void start_group(struct run *run, struct group *group) {
    group_open(group);
    atomic_init(&group->stepping, group->n_clients);
    for (unsigned i = 0; i < group->n_clients; i++) {
        struct client *client = &run->clients[run->n_clients];
        client->group = group;
        client->load = &run->load;
        client->index = i;
        client->id = run->n_clients++;
        prng_seed(&client->prng, run->load.seed * 1000003 + client->id);
        if (pthread_create(&client->thread, NULL, client_run, client) != 0) {
            fprintf(stderr, "chaos-workload: cannot start %u threads: %s\n", run->load.n_clients,
                    strerror(errno));
            exit(2);
        }
    }
}

static void print_progress(struct run *run, uint64_t begin) {
    printf("t=%" PRIu64, (clock_now() - begin) / 1000000000);
    for (unsigned i = 0; i < run->n_groups; i++) {
        struct group *group = &run->groups[i];
        printf(" %s ok=%llu fail=%llu unknown=%llu", group->kind->name, atomic_load(&group->ok),
               atomic_load(&group->failed), atomic_load(&group->unknown));
    }
    printf("\n");
    (void)fflush(stdout);
}

static void wait_for_end(struct run *run, int64_t seconds, uint64_t begin) {
    uint64_t told = begin;
    while (!atomic_load(&interrupted) &&
           (seconds == 0 || clock_now() - begin < (uint64_t)seconds * UINT64_C(1000000000))) {
        struct timespec pause = {.tv_nsec = 50000000};
        (void)nanosleep(&pause, NULL);
        if (clock_now() - told >= UINT64_C(1000000000)) {
            told += UINT64_C(1000000000);
            print_progress(run, begin);
            record_flush(run->load.record);
        }
    }
}

int main(int argc, char **argv) {
    struct run run = {
        .load = {.via = VIA_MIXED, .seed = 1, .rate = 1000, .n_clients = 48, .timeout_ms = 5000}};
    struct arguments arguments = {.finish_s = 60};
    parse_options(&run.load, &arguments, argc, argv);
    share_out(&run, &arguments);
    run.load.record = record_open(arguments.history);
    if (run.load.record == NULL) {
        return 2;
    }
    struct sigaction action = {.sa_handler = on_signal};
    (void)sigaction(SIGTERM, &action, NULL);
    (void)sigaction(SIGINT, &action, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    uint64_t begin = clock_now();
    for (unsigned i = 0; i < run.n_groups; i++) {
        start_group(&run, &run.groups[i]);
    }
    wait_for_end(&run, arguments.seconds, begin);
    run.load.finish_by = clock_now() + (uint64_t)arguments.finish_s * UINT64_C(1000000000);
    atomic_store(&run.load.stopping, true);
    for (unsigned i = 0; i < run.n_clients; i++) {
        (void)pthread_join(run.clients[i].thread, NULL);
    }
    print_progress(&run, begin);
    for (unsigned i = 0; i < run.n_groups; i++) {
        group_close(&run.groups[i]);
    }
    mem_free(run.clients);
    return record_close(run.load.record) ? 0 : 2;
}
