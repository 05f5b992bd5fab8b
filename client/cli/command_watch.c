/* watch: prints changes as the library tells them, on its thread; the main thread waits. */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>

#include "base/assert.h"
#include "base/json.h"
#include "client/cli/keys.h"
#include "client/cli/units.h"

struct watching {
    struct cli *cli;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int64_t left; /* changes to print */
    bool ended;
    int error;
    char message[256];
};

static void print_line(struct cli *cli, const ikv_event *event, const char *kind) {
    struct slice key = slice_make(event->key.data, event->key.size);
    if (cli->json) {
        cli_json_open(cli);
        cli_json_unsigned(&cli->out, "index", event->index);
        cli_json_text(&cli->out, "kind", kind);
        cli_json_bytes(&cli->out, "key", key);
        cli_json_close(cli);
    } else {
        cli_print(cli, "%" PRIu64 " %s ", event->index, kind);
        cli_put_readable(cli, key);
        cli_put(cli, "\n", 1);
    }
    /* Whoever reads a pipe wants each line as it comes. */
    (void)cli_flush(cli);
}

static void print_event(struct watching *watching, const ikv_event *event) {
    char kind[32];
    switch ((enum ikv_event_type)event->type) {
    case IKV_EVENT_CHANGE:
        if (watching->left > 0) {
            watching->left--;
            snprintf(kind, sizeof kind, "%.*s", (int)event->kind.size,
                     (const char *)event->kind.data);
            print_line(watching->cli, event, kind);
        }
        break;
    case IKV_EVENT_GAP:
        print_line(watching->cli, event, "gap");
        break;
    case IKV_EVENT_READY:
        cli_note(watching->cli, "invoke-kv: watching from index %" PRIu64, event->index);
        break;
    case IKV_EVENT_PROGRESS:
        break;
    case IKV_EVENT_END:
        watching->ended = true;
        watching->error = event->error;
        snprintf(watching->message, sizeof watching->message, "%s", event->message);
        break;
    }
}

static void on_event(void *data, const ikv_event *event) {
    struct watching *watching = data;
    pthread_mutex_lock(&watching->mutex);
    print_event(watching, event);
    if (watching->ended || watching->left == 0 || watching->cli->out_failed) {
        pthread_cond_signal(&watching->changed);
    }
    pthread_mutex_unlock(&watching->mutex);
}

/* Waits in portions, since a signal may come to any thread. */
static void wait_for_end(struct watching *watching, int64_t limit_ms) {
    uint64_t until = limit_ms > 0 ? cli_now_ns() + (uint64_t)limit_ms * 1000000u : UINT64_MAX;
    pthread_mutex_lock(&watching->mutex);
    while (!watching->ended && watching->left > 0 && !watching->cli->out_failed &&
           !cli_interrupted && cli_now_ns() < until) {
        struct timespec next;
        clock_gettime(CLOCK_REALTIME, &next);
        next.tv_nsec += 50000000;
        if (next.tv_nsec >= 1000000000) {
            next.tv_nsec -= 1000000000;
            next.tv_sec++;
        }
        (void)pthread_cond_timedwait(&watching->changed, &watching->mutex, &next);
    }
    watching->left = 0;
    pthread_mutex_unlock(&watching->mutex);
}

static int watch_keys(struct watching *watching, const struct buffer *prefix, uint64_t from,
                      int64_t limit_ms) {
    struct cli *cli = watching->cli;
    ikv_watch *watch = NULL;
    int error = ikv_watch_open(cli->project, key_bytes(prefix), from, on_event, watching, &watch);
    if (error != IKV_OK) {
        return cli_fail_reply(cli, error, NULL, "watch");
    }
    cli_catch_signals();
    wait_for_end(watching, limit_ms);
    ikv_watch_close(watch);
    if (watching->ended) {
        return cli_fail(cli, cli_exit_code(watching->error), "the watch has ended: %s",
                        watching->message[0] != '\0' ? watching->message
                                                     : ikv_strerror(watching->error));
    }
    return cli_interrupted ? EXIT_INTERRUPTED : EXIT_OK;
}

int run_watch(struct cli *cli, const struct arguments *arguments) {
    const char *from = argument_option(arguments, "from");
    const char *count = argument_option(arguments, "count");
    const char *limit = argument_option(arguments, "for");
    struct watching watching = {.cli = cli, .left = INT64_MAX};
    struct buffer prefix = {0};
    int64_t index = 0;
    int64_t limit_ms = 0;
    if (from != NULL && !units_parse_number(from, 1, INT64_MAX, &index)) {
        return cli_fail(cli, EXIT_USAGE, "--from: '%s' is no index", from);
    }
    if (count != NULL && !units_parse_number(count, 1, INT64_MAX, &watching.left)) {
        return cli_fail(cli, EXIT_USAGE, "--count: '%s' is no positive number", count);
    }
    if (limit != NULL && !units_parse_duration(limit, &limit_ms)) {
        return cli_fail(cli, EXIT_USAGE, "--for: '%s' is no time, such as 30s", limit);
    }
    int code = EXIT_OK;
    if (arguments->n_words > 0) {
        code = key_read(cli, arguments, arguments->words[0], true, &prefix);
    }
    if (code == EXIT_OK) {
        pthread_mutex_init(&watching.mutex, NULL);
        pthread_cond_init(&watching.changed, NULL);
        code = watch_keys(&watching, &prefix, (uint64_t)index, limit_ms);
        pthread_cond_destroy(&watching.changed);
        pthread_mutex_destroy(&watching.mutex);
    }
    buffer_free(&prefix);
    return code;
}
