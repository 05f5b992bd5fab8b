/* bench: keeps a number of requests under way. Each answer starts the next request, on the client's
 * thread, which therefore owns the figures while the load runs. */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/prng.h"
#include "client/cli/commands.h"
#include "client/cli/histogram.h"
#include "client/cli/progress.h"
#include "client/cli/units.h"

enum {
    KEY_SIZE = 48,
    LOAD_KEYS = 500,
    LOAD_BYTES = 1024 * 1024,
    DELETE_KEYS = 1000,
    CLEANUP_TIMEOUT_MS = 30000
};

struct options {
    int64_t duration_ms;
    int64_t parallel;
    int64_t reads;
    int64_t keys;
    uint64_t size;
};

struct bench {
    struct cli *cli;
    struct options options;
    char run[24]; /* sets the keys of this run apart */
    uint8_t *value;
    struct prng prng;
    pthread_mutex_t mutex;
    pthread_cond_t idle;
    /* Guarded by the mutex. */
    bool stopping;
    int64_t n_under_way;
    uint64_t n_failed;
    int first_error;
    char first_message[256];
    struct histogram reads;
    struct histogram writes;
};

/* One request after the other. */
struct lane {
    struct bench *bench;
    bool is_read;
    uint64_t started_ns;
};

static ikv_bytes key_of(const struct bench *bench, uint64_t number, char *key) {
    int size = snprintf(key, KEY_SIZE, "invoke-kv bench %s %" PRIu64, bench->run, number);
    return ikv_bytes_of(key, (size_t)size);
}

static void take_answer(void *data, ikv_reply *reply);

/* With the mutex held. */
static int send_next(struct lane *lane) {
    struct bench *bench = lane->bench;
    char text[KEY_SIZE];
    ikv_bytes key = key_of(bench, prng_below(&bench->prng, (uint64_t)bench->options.keys), text);
    lane->is_read = prng_below(&bench->prng, 100) < (uint64_t)bench->options.reads;
    lane->started_ns = cli_now_ns();
    ikv_project *project = bench->cli->project;
    return lane->is_read
               ? ikv_get_async(project, key, 0, take_answer, lane)
               : ikv_set_async(project, key, ikv_bytes_of(bench->value, bench->options.size), NULL,
                               0, take_answer, lane);
}

static void note_failure(struct bench *bench, int error, const char *message) {
    if (bench->n_failed++ == 0) {
        bench->first_error = error;
        snprintf(bench->first_message, sizeof bench->first_message, "%s",
                 *message != '\0' ? message : ikv_strerror(error));
    }
}

static void take_answer(void *data, ikv_reply *reply) {
    struct lane *lane = data;
    struct bench *bench = lane->bench;
    uint64_t took_ns = cli_now_ns() - lane->started_ns;
    int error = ikv_reply_error(reply);
    pthread_mutex_lock(&bench->mutex);
    if (error == IKV_OK) {
        histogram_add(lane->is_read ? &bench->reads : &bench->writes, took_ns);
    } else {
        note_failure(bench, error, ikv_reply_message(reply));
    }
    /* Where every request fails at once, starting the next one would only spin. */
    bool goes_on = !bench->stopping && error == IKV_OK;
    if (goes_on) {
        error = send_next(lane);
        goes_on = error == IKV_OK;
        if (!goes_on) {
            note_failure(bench, error, "");
        }
    }
    if (!goes_on && --bench->n_under_way == 0) {
        pthread_cond_signal(&bench->idle);
    }
    pthread_mutex_unlock(&bench->mutex);
}

static void tell(struct bench *bench, struct progress *progress, uint64_t elapsed_ms) {
    uint64_t total_ms = (uint64_t)bench->options.duration_ms;
    struct progress_state state = {.done = elapsed_ms < total_ms ? elapsed_ms : total_ms,
                                   .total = total_ms};
    pthread_mutex_lock(&bench->mutex);
    state.count = bench->reads.count + bench->writes.count;
    pthread_mutex_unlock(&bench->mutex);
    state.bytes = state.count * bench->options.size;
    progress_tell(progress, &state);
}

/* Runs the load; elapsed time in milliseconds. */
static uint64_t run_load(struct bench *bench, struct progress *progress) {
    size_t n = (size_t)bench->options.parallel;
    struct lane *lanes = mem_zalloc(n, sizeof *lanes);
    uint64_t started = cli_now_ns();
    uint64_t elapsed_ms = 0;
    pthread_mutex_lock(&bench->mutex);
    for (size_t i = 0; i < n; i++) {
        lanes[i].bench = bench;
        int error = send_next(&lanes[i]);
        if (error == IKV_OK) {
            bench->n_under_way++;
        } else {
            note_failure(bench, error, "");
        }
    }
    bool is_idle = bench->n_under_way == 0;
    pthread_mutex_unlock(&bench->mutex);
    while (!is_idle && !cli_interrupted && elapsed_ms < (uint64_t)bench->options.duration_ms) {
        struct timespec pause = {.tv_nsec = 10000000};
        nanosleep(&pause, NULL);
        elapsed_ms = (cli_now_ns() - started) / 1000000;
        tell(bench, progress, elapsed_ms);
        pthread_mutex_lock(&bench->mutex);
        is_idle = bench->n_under_way == 0;
        pthread_mutex_unlock(&bench->mutex);
    }
    pthread_mutex_lock(&bench->mutex);
    bench->stopping = true;
    elapsed_ms = (cli_now_ns() - started) / 1000000;
    while (bench->n_under_way > 0) {
        pthread_cond_wait(&bench->idle, &bench->mutex);
    }
    pthread_mutex_unlock(&bench->mutex);
    mem_free(lanes);
    return elapsed_ms > 0 ? elapsed_ms : 1;
}

/* Sets all keys once, so that reads find them. */
static int load_keys(struct bench *bench) {
    ikv_bytes keys[LOAD_KEYS];
    ikv_bytes values[LOAD_KEYS];
    char texts[LOAD_KEYS][KEY_SIZE];
    uint64_t portion = LOAD_BYTES / (bench->options.size + KEY_SIZE) + 1;
    portion = portion < LOAD_KEYS ? portion : LOAD_KEYS;
    uint64_t total = (uint64_t)bench->options.keys;
    for (uint64_t done = 0; done < total && !cli_interrupted;) {
        uint64_t n = total - done < portion ? total - done : portion;
        for (uint64_t i = 0; i < n; i++) {
            keys[i] = key_of(bench, done + i, texts[i]);
            values[i] = ikv_bytes_of(bench->value, bench->options.size);
        }
        int error = ikv_set_many(bench->cli->project, n, keys, values, CLEANUP_TIMEOUT_MS);
        if (error != IKV_OK) {
            return cli_fail_reply(bench->cli, error, NULL, "setting the keys");
        }
        done += n;
    }
    return EXIT_OK;
}

static int delete_keys(struct bench *bench) {
    ikv_bytes keys[DELETE_KEYS];
    char texts[DELETE_KEYS][KEY_SIZE];
    uint64_t total = (uint64_t)bench->options.keys;
    for (uint64_t done = 0; done < total;) {
        uint64_t n = total - done < DELETE_KEYS ? total - done : DELETE_KEYS;
        for (uint64_t i = 0; i < n; i++) {
            keys[i] = key_of(bench, done + i, texts[i]);
        }
        int error = ikv_delete_many(bench->cli->project, n, keys, CLEANUP_TIMEOUT_MS, NULL);
        if (error != IKV_OK) {
            return cli_fail_reply(bench->cli, error, NULL,
                                  "deleting the keys \"invoke-kv bench ...\"");
        }
        done += n;
    }
    return EXIT_OK;
}

/* --- figures ---------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    double share;
} percentiles[] = {{"p50", 0.50}, {"p90", 0.90}, {"p99", 0.99}, {"p99.9", 0.999}, {"max", 1.0}};

enum { PERCENTILES = sizeof percentiles / sizeof percentiles[0] };

static void print_row(struct cli *cli, const char *name, const struct histogram *histogram,
                      uint64_t elapsed_ms) {
    char text[UNITS_TEXT_SIZE];
    if (histogram->count == 0) {
        return;
    }
    cli_print(cli, "%-7s %12s", name,
              units_format_count(histogram->count * 1000 / elapsed_ms, text));
    cli_print(cli, " %9s", units_format_latency(histogram_mean(histogram), text));
    for (size_t i = 0; i < PERCENTILES; i++) {
        uint64_t value = histogram_percentile(histogram, percentiles[i].share);
        cli_print(cli, " %9s", units_format_latency(value, text));
    }
    cli_print(cli, "\n");
}

static void print_text(struct bench *bench, uint64_t elapsed_ms) {
    struct cli *cli = bench->cli;
    cli_print(cli, "%-7s %12s %9s", "", "per second", "mean");
    for (size_t i = 0; i < PERCENTILES; i++) {
        cli_print(cli, " %9s", percentiles[i].name);
    }
    cli_print(cli, "\n");
    print_row(cli, "reads", &bench->reads, elapsed_ms);
    print_row(cli, "writes", &bench->writes, elapsed_ms);
    if (bench->n_failed > 0) {
        cli_print(cli, "%" PRIu64 " failed; the first: %s\n", bench->n_failed,
                  bench->first_message);
    }
}

static void print_histogram(struct buffer *out, const char *name, const struct histogram *histogram,
                            uint64_t elapsed_ms) {
    cli_json_name(out, name);
    json_append_text(out, "{");
    cli_json_unsigned(out, "count", histogram->count);
    cli_json_unsigned(out, "per_second", histogram->count * 1000 / elapsed_ms);
    cli_json_unsigned(out, "mean_us", histogram_mean(histogram) / 1000);
    for (size_t i = 0; i < PERCENTILES; i++) {
        char member[16];
        snprintf(member, sizeof member, "%s_us", percentiles[i].name);
        cli_json_unsigned(out, member,
                          histogram_percentile(histogram, percentiles[i].share) / 1000);
    }
    json_append_text(out, "}");
}

static void print_json(struct bench *bench, uint64_t elapsed_ms) {
    struct buffer *out = &bench->cli->out;
    cli_json_open(bench->cli);
    cli_json_unsigned(out, "elapsed_ms", elapsed_ms);
    cli_json_integer(out, "parallel", bench->options.parallel);
    cli_json_unsigned(out, "value_bytes", bench->options.size);
    cli_json_unsigned(out, "failed", bench->n_failed);
    print_histogram(out, "reads", &bench->reads, elapsed_ms);
    print_histogram(out, "writes", &bench->writes, elapsed_ms);
    cli_json_close(bench->cli);
}

static int measure(struct bench *bench, struct progress *progress) {
    struct cli *cli = bench->cli;
    int code = load_keys(bench);
    if (code == EXIT_OK && !cli_interrupted) {
        progress->started_ns = cli_now_ns();
        uint64_t elapsed_ms = run_load(bench, progress);
        struct progress_state state = {.done = 1, .total = 1};
        state.count = bench->reads.count + bench->writes.count;
        state.bytes = state.count * bench->options.size;
        progress_end(progress, &state, false);
        if (cli->json) {
            print_json(bench, elapsed_ms);
        } else {
            print_text(bench, elapsed_ms);
        }
        if (bench->n_failed > 0) {
            code = cli_exit_code(bench->first_error);
        }
    }
    int cleaned = delete_keys(bench);
    code = code != EXIT_OK ? code : cleaned;
    return cli_interrupted && code == EXIT_OK ? EXIT_INTERRUPTED : code;
}

/* --- the command ------------------------------------------------------------------------------ */

static int read_number(const struct cli *cli, const struct arguments *arguments, const char *name,
                       int64_t min, int64_t max, int64_t *number) {
    const char *text = argument_option(arguments, name);
    if (text != NULL && !units_parse_number(text, min, max, number)) {
        return cli_fail(cli, EXIT_USAGE,
                        "--%s is a number from %" PRId64 " to %" PRId64 ", not '%s'", name, min,
                        max, text);
    }
    return EXIT_OK;
}

static int read_options(const struct cli *cli, const struct arguments *arguments,
                        struct options *options) {
    const char *duration = argument_option(arguments, "duration");
    const char *size = argument_option(arguments, "size");
    *options = (struct options){
        .duration_ms = 10000, .parallel = 64, .reads = 50, .keys = 1000, .size = 256};
    if (duration != NULL && !units_parse_duration(duration, &options->duration_ms)) {
        return cli_fail(cli, EXIT_USAGE, "--duration: '%s' is no time, such as 10s", duration);
    }
    if (size != NULL && (!units_parse_size(size, &options->size) || options->size > 1024 * 1024)) {
        return cli_fail(cli, EXIT_USAGE, "--size: '%s' is no size up to 1MiB", size);
    }
    int code = read_number(cli, arguments, "parallel", 1, 10000, &options->parallel);
    code = code == EXIT_OK ? read_number(cli, arguments, "reads", 0, 100, &options->reads) : code;
    return code == EXIT_OK ? read_number(cli, arguments, "keys", 1, 1000000, &options->keys) : code;
}

int run_bench(struct cli *cli, const struct arguments *arguments) {
    struct bench *bench = mem_zalloc(1, sizeof *bench);
    struct progress progress;
    uint64_t seed = 0;
    bench->cli = cli;
    int code = read_options(cli, arguments, &bench->options);
    if (code == EXIT_OK) {
        code = progress_start(&progress, cli, argument_option(arguments, "progress"), "done",
                              "operations");
    }
    if (code == EXIT_OK && getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed) {
        code = cli_fail(cli, EXIT_LOCAL, "no random numbers");
    }
    if (code == EXIT_OK) {
        cli_catch_signals();
        prng_seed(&bench->prng, seed);
        snprintf(bench->run, sizeof bench->run, "%016" PRIx64, seed);
        /* Random bytes: a network or disk that compresses would flatter itself otherwise. */
        bench->value = mem_alloc((size_t)bench->options.size + 1);
        for (uint64_t i = 0; i < bench->options.size; i++) {
            bench->value[i] = (uint8_t)prng_next(&bench->prng);
        }
        pthread_mutex_init(&bench->mutex, NULL);
        pthread_cond_init(&bench->idle, NULL);
        code = measure(bench, &progress);
        pthread_cond_destroy(&bench->idle);
        pthread_mutex_destroy(&bench->mutex);
        mem_free(bench->value);
    }
    mem_free(bench);
    return code;
}
