/* invoke-kvd: command line, signals, and the loop. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <uv.h>

#include "base/mem.h"
#include "node/config.h"
#include "node/crash.h"
#include "node/credentials.h"
#include "node/descriptors.h"
#include "node/logging.h"
#include "node/offline.h"
#include "node/release.h"
#include "node/server.h"
#include "node/tls_files.h"

enum { EXIT_CANNOT_START = 1, EXIT_USAGE = 64, EXIT_CONFIG = 78, MAX_OVERRIDES = 64 };

struct arguments {
    const char *config_path;
    const char *single_dir;
    const char *overrides[MAX_OVERRIDES];
    unsigned n_overrides;
    bool check_only;
    const char *tool; /* restore, recover, verify; NULL: run the node */
    const char *tool_dir;
    bool accepts_data_loss;
};

static void print_usage(FILE *to) {
    fputs(
        "Usage: invoke-kvd --config FILE [--set KEY=VALUE]...\n"
        "       invoke-kvd --single DIR [--set KEY=VALUE]...\n"
        "       invoke-kvd restore BACKUP --config FILE\n"
        "       invoke-kvd recover --config FILE --i-accept-data-loss\n"
        "       invoke-kvd verify DIR\n"
        "\n"
        "One node of an invoke-kv cluster, or a cluster of one. Clients speak RESP: try\n"
        "  redis-cli -p 7101 set greeting hello\n"
        "\n"
        "  --config FILE     read the configuration: `key = value` lines, # comments\n"
        "  --single DIR      one node with its data in DIR, clients on 127.0.0.1:7101\n"
        "  --set KEY=VALUE   override one key; may be repeated\n"
        "  --check-config    check the configuration, say what is wrong, and end\n"
        "  --help-config     list every key with its range, default and purpose\n"
        "  restore BACKUP    make this node's data directory from a backup (invoke-kv backup)\n"
        "  recover           make a cluster of this node alone, when the others are lost for good\n"
        "  verify DIR        check the data directory of a node that does not run\n"
        "  --version         print the version\n"
        "  --help            print this\n"
        "\n"
        "SIGHUP reads the TLS certificates and the `node` lines again.\n"
        "SIGTERM and SIGINT stop the node gracefully: it hands its leaderships over first.\n"
        "Exit status: 0 stopped or done, 1 could not start or not done, 2 verify found damage,\n"
        "64 wrong usage, 78 wrong configuration.\n",
        to);
}

static void print_config_help(void) {
    struct buffer text = {0};
    config_describe(&text);
    fwrite(text.data, 1, text.size, stdout);
    buffer_free(&text);
}

/* What the tools take. Returns -1 to go on, or the exit status. */
static int check_tool(int n_words, char **words, struct arguments *given) {
    bool verifies = strcmp(given->tool, "verify") == 0;
    bool restores = strcmp(given->tool, "restore") == 0;
    bool has_words = n_words == (verifies || restores ? 1 : 0);
    bool has_config = (given->config_path != NULL) != verifies;
    given->tool_dir = n_words > 0 ? words[0] : NULL;
    if (!has_words || !has_config || given->single_dir != NULL) {
        fprintf(stderr, "invoke-kvd: wrong words for %s\nTry 'invoke-kvd --help'.\n", given->tool);
        return EXIT_USAGE;
    }
    if (!verifies && !restores && !given->accepts_data_loss) {
        fputs("invoke-kvd: recover drops whatever only the lost nodes had, and they must never "
              "come back: give --i-accept-data-loss when that is so\n",
              stderr);
        return EXIT_USAGE;
    }
    return -1;
}

/* Takes the tool's name out of the words. */
static void find_tool(int *argc, char ***argv, struct arguments *given) {
    static const char *const tools[] = {"restore", "recover", "verify"};
    for (unsigned i = 0; i < 3 && *argc > 1 && given->tool == NULL; i++) {
        if (strcmp((*argv)[1], tools[i]) == 0) {
            given->tool = tools[i];
            (*argv)[1] = (*argv)[0];
            --*argc;
            ++*argv;
        }
    }
}

static int run_tool(const struct arguments *given, const struct config *config) {
    if (strcmp(given->tool, "restore") == 0) {
        return offline_restore(given->tool_dir, config);
    }
    return offline_recover(config);
}

/* Returns -1 to go on, or the exit status. */
static int parse_arguments(int argc, char **argv, struct arguments *given) {
    enum {
        OPT_CONFIG = 256,
        OPT_SINGLE,
        OPT_SET,
        OPT_CHECK,
        OPT_DATA_LOSS,
        OPT_HELP_CONFIG,
        OPT_VERSION,
        OPT_HELP
    };
    static const struct option options[] = {
        {"config", required_argument, NULL, OPT_CONFIG},
        {"single", required_argument, NULL, OPT_SINGLE},
        {"set", required_argument, NULL, OPT_SET},
        {"check-config", no_argument, NULL, OPT_CHECK},
        {"i-accept-data-loss", no_argument, NULL, OPT_DATA_LOSS},
        {"help-config", no_argument, NULL, OPT_HELP_CONFIG},
        {"version", no_argument, NULL, OPT_VERSION},
        {"help", no_argument, NULL, OPT_HELP},
        {NULL, 0, NULL, 0}};
    int option;
    while ((option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (option) {
        case OPT_CONFIG:
            given->config_path = optarg;
            break;
        case OPT_SINGLE:
            given->single_dir = optarg;
            break;
        case OPT_SET:
            if (given->n_overrides == MAX_OVERRIDES) {
                fprintf(stderr, "invoke-kvd: more than %d --set options\n", MAX_OVERRIDES);
                return EXIT_USAGE;
            }
            given->overrides[given->n_overrides++] = optarg;
            break;
        case OPT_DATA_LOSS:
            given->accepts_data_loss = true;
            break;
        case OPT_CHECK:
            given->check_only = true;
            break;
        case OPT_HELP_CONFIG:
            print_config_help();
            return EXIT_SUCCESS;
        case OPT_VERSION:
            printf("invoke-kvd %s\n", release_name());
            return EXIT_SUCCESS;
        case 'h':
        case OPT_HELP:
            print_usage(stdout);
            return EXIT_SUCCESS;
        default:
            fputs("Try 'invoke-kvd --help'.\n", stderr);
            return EXIT_USAGE;
        }
    }
    if (given->tool != NULL) {
        return check_tool(argc - optind, argv + optind, given);
    }
    bool one_source = (given->config_path != NULL) != (given->single_dir != NULL);
    if (!one_source || optind != argc) {
        fputs("invoke-kvd: give either --config FILE or --single DIR\n"
              "Try 'invoke-kvd --help'.\n",
              stderr);
        return EXIT_USAGE;
    }
    return -1;
}

static enum error_code load_config(const struct arguments *given, struct config *config,
                                   struct error *error) {
    enum error_code code;
    config_init(config);
    if (given->single_dir != NULL) {
        code = config_default_single(config, given->single_dir, error);
    } else {
        code = config_load(config, given->config_path, error);
    }
    for (unsigned i = 0; i < given->n_overrides && code == ERROR_NONE; i++) {
        code = config_set(config, given->overrides[i], error);
    }
    if (code == ERROR_NONE) {
        code = config_finish(config, error);
    }
    if (code == ERROR_NONE && given->check_only) {
        struct credentials credentials;
        struct tls_files tls = {0};
        code = credentials_load(&credentials, config, error);
        code = code == ERROR_NONE ? tls_files_load(&tls, config, error) : code;
        tls_files_free(&tls);
    }
    return code;
}

static uv_signal_t signal_handles[2];
static uv_signal_t reload_handle;

static struct arguments arguments; /* read again on SIGHUP */

static void on_reload(uv_signal_t *handle, int number) {
    struct config *fresh = mem_zalloc(1, sizeof *fresh);
    struct error error = {0};
    say_info("signal", "number=%d", number);
    if (load_config(&arguments, fresh, &error) == ERROR_NONE) {
        server_reload(handle->data, fresh);
    } else {
        say_error("configuration not read again", "reason=%s", error.message);
    }
    mem_free(fresh);
}

static void on_signal(uv_signal_t *handle, int number) {
    say_info("signal", "number=%d", number);
    /* A second one takes its default action: an impatient operator gets an end at once. */
    for (unsigned i = 0; i < 2; i++) {
        if (!uv_is_closing((uv_handle_t *)&signal_handles[i])) {
            uv_close((uv_handle_t *)&signal_handles[i], NULL);
        }
    }
    /* What comes too late for it has no effect, rather than the default one. */
    if (!uv_is_closing((uv_handle_t *)&reload_handle)) {
        uv_close((uv_handle_t *)&reload_handle, NULL);
        (void)signal(SIGHUP, SIG_IGN);
    }
    server_stop(handle->data);
}

static void watch_signals(uv_loop_t *loop, struct server *server) {
    static const int numbers[2] = {SIGTERM, SIGINT};
    (void)signal(SIGPIPE, SIG_IGN);
    for (unsigned i = 0; i < 2; i++) {
        uv_signal_init(loop, &signal_handles[i]);
        signal_handles[i].data = server;
        uv_signal_start(&signal_handles[i], on_signal, numbers[i]);
    }
    uv_signal_init(loop, &reload_handle);
    reload_handle.data = server;
    uv_signal_start(&reload_handle, on_reload, SIGHUP);
}

static int run(struct config *config) {
    struct error error = {0};
    struct server *server = NULL;
    uv_loop_t loop;
    (void)signal(SIGPIPE, SIG_IGN);
    /* What clients store, their tokens' digests and private keys would stand in a core file, and
     * other processes of the same user could look into this one's memory. */
    if (!config->core_dumps) {
        (void)prctl(PR_SET_DUMPABLE, 0);
    }
    crash_install();
    (void)signal(SIGHUP, SIG_IGN); /* until there is something to reload */
    uv_loop_init(&loop);
    say_set_level(config->log_level);
    say_info("starting", "version=%s build_id=%s node=%u cluster=%s data_dir=%s", release_name(),
             crash_build_id(), config->node_id, config->cluster, config->data_dir);
    if (descriptors_provide(config, &error) != ERROR_NONE ||
        server_open(&server, &loop, config, &error) != ERROR_NONE) {
        say_error("cannot start", "reason=%s", error.message);
        /* Nothing was promised to anybody yet: threads and files end with the process. */
        _Exit(EXIT_CANNOT_START);
    }
    watch_signals(&loop, server);
    uv_run(&loop, UV_RUN_DEFAULT);
    (void)uv_loop_close(&loop);
    return EXIT_SUCCESS;
}

int main(int argc, char **argv) {
    struct config *config = mem_zalloc(1, sizeof *config);
    struct error error = {0};
    find_tool(&argc, &argv, &arguments);
    int status = parse_arguments(argc, argv, &arguments);
    if (status < 0 && arguments.tool != NULL && strcmp(arguments.tool, "verify") == 0) {
        status = offline_verify(arguments.tool_dir);
    }
    if (status < 0 && load_config(&arguments, config, &error) != ERROR_NONE) {
        fprintf(stderr, "invoke-kvd: %s\n", error.message);
        status = EXIT_CONFIG;
    }
    if (status < 0 && arguments.tool != NULL) {
        status = run_tool(&arguments, config);
    }
    if (status < 0 && arguments.check_only) {
        puts("the configuration is good");
        status = EXIT_SUCCESS;
    }
    if (status < 0) {
        status = run(config);
    }
    mem_free(config);
    return status;
}
