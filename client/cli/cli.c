#include "client/cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/number.h"

enum { FLUSH_SIZE = 64 * 1024 };

volatile sig_atomic_t cli_interrupted;

static void note_signal(int number) {
    (void)number;
    if (cli_interrupted) {
        _exit(EXIT_INTERRUPTED); /* the second one means it */
    }
    cli_interrupted = 1;
}

void cli_catch_signals(void) {
    struct sigaction action = {.sa_handler = note_signal};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

uint64_t cli_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* --- the client ------------------------------------------------------------------------------- */

static void set_text(ikv_options *options, enum ikv_option option, const char *text) {
    int error = ikv_options_set_text(options, option, text);
    ASSERT(error == IKV_OK || error == IKV_ERR_NOMEM);
}

static int open_client(struct cli *cli, ikv_options *options) {
    const struct connection_settings *connection = &cli->connection;
    char message[512] = "";
    int error = ikv_options_set_number(options, IKV_OPTION_TIMEOUT_MS, connection->timeout_ms);
    if (error != IKV_OK) {
        return cli_fail(cli, EXIT_USAGE, "--timeout is out of range");
    }
    if (connection->user != NULL) {
        set_text(options, IKV_OPTION_USER, connection->user);
        set_text(options, IKV_OPTION_SECRET, connection->secret);
    }
    set_text(options, IKV_OPTION_CA_FILE, cli->settings.values[SETTING_CA_FILE]);
    set_text(options, IKV_OPTION_TLS_NAME, cli->settings.values[SETTING_TLS_NAME]);
    set_text(options, IKV_OPTION_CERT_FILE, cli->settings.values[SETTING_CERT_FILE]);
    set_text(options, IKV_OPTION_KEY_FILE, cli->settings.values[SETTING_KEY_FILE]);
    error = ikv_open(connection->seeds, options, &cli->client, message, sizeof message);
    if (error != IKV_OK) {
        return cli_fail(cli, error == IKV_ERR_INVALID ? EXIT_USAGE : EXIT_LOCAL, "%s",
                        message[0] != '\0' ? message : ikv_strerror(error));
    }
    error = ikv_project_open(cli->client, connection->project, connection->token,
                             (enum ikv_level)connection->level, (uint32_t)connection->max_stale_ms,
                             &cli->project);
    if (error != IKV_OK) {
        return cli_fail(cli, EXIT_USAGE,
                        "--project: a name has 1 to 128 characters of UTF-8, none of them a "
                        "control character; --token: as PROJECT TOKEN ADD showed it");
    }
    return EXIT_OK;
}

int cli_connect(struct cli *cli) {
    struct error error = {0};
    if (settings_resolve(&cli->settings, &cli->connection, &error) != ERROR_NONE) {
        return cli_fail(cli, EXIT_USAGE, "%s", error.message);
    }
    ikv_options *options = ikv_options_new();
    if (options == NULL) {
        return cli_fail(cli, EXIT_LOCAL, "out of memory");
    }
    int code = open_client(cli, options);
    ikv_options_free(options);
    return code;
}

void cli_close(struct cli *cli) {
    ikv_project_close(cli->project);
    ikv_close(cli->client);
    connection_settings_free(&cli->connection);
    settings_free(&cli->settings);
    buffer_free(&cli->out);
}

int cli_call(struct cli *cli, size_t argc, const ikv_bytes *argv, ikv_reply **reply) {
    int error = ikv_command(cli->project, argc, argv, 0, reply);
    if (error == IKV_OK) {
        return EXIT_OK;
    }
    int code = cli_fail_reply(cli, error, *reply, NULL);
    ikv_reply_free(*reply);
    *reply = NULL;
    return code;
}

int cli_call_node(struct cli *cli, const char *node, size_t argc, const ikv_bytes *argv,
                  ikv_reply **reply) {
    int error = ikv_node_command(cli->client, node, argc, argv, 0, reply);
    if (error == IKV_OK) {
        return EXIT_OK;
    }
    int code = cli_fail_reply(cli, error, *reply, NULL);
    ikv_reply_free(*reply);
    *reply = NULL;
    return code;
}

/* --- errors ----------------------------------------------------------------------------------- */

/* On a terminal what is told takes the place of a bar of progress. */
static const char *line_start(void) {
    return isatty(STDERR_FILENO) == 1 ? "\r\033[K" : "";
}

static void print_error(const struct cli *cli, int code, const char *text) {
    struct buffer line = {0};
    if (cli->json) {
        struct slice bytes = slice_of(text);
        json_append_text(&line, "{\"error\":{\"exit\":");
        json_append_integer(&line, code);
        json_append_text(&line, ",\"message\":");
        json_append_string(&line, utf8_is_valid(bytes) ? bytes : slice_of("not UTF-8"));
        json_append_text(&line, "}}");
    } else {
        json_append_text(&line, line_start());
        json_append_text(&line, "invoke-kv: ");
        json_append_text(&line, text);
    }
    buffer_put_u8(&line, '\n');
    fwrite(line.data, 1, line.size, stderr);
    buffer_free(&line);
}

int cli_fail(const struct cli *cli, int code, const char *format, ...) {
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    print_error(cli, code, text);
    return code;
}

int cli_exit_code(int error) {
    switch (error) {
    case IKV_OK:
        return EXIT_OK;
    case IKV_ERR_INVALID:
        return EXIT_USAGE;
    case IKV_ERR_TIMEOUT:
    case IKV_ERR_UNREACHABLE:
    case IKV_ERR_TLS:
    case IKV_ERR_PROTOCOL:
    case IKV_ERR_NO_LEADER:
    case IKV_ERR_CLOSED:
        return EXIT_UNREACHABLE;
    case IKV_ERR_UNKNOWN_OUTCOME:
        return EXIT_UNKNOWN;
    case IKV_ERR_NOMEM:
    case IKV_ERR_FORKED:
    case IKV_ERR_DEADLOCK:
        return EXIT_LOCAL;
    default:
        return EXIT_REFUSED;
    }
}

static const char *advice(int error) {
    switch (error) {
    case IKV_ERR_UNREACHABLE:
        return "check --server, and that the nodes run";
    case IKV_ERR_TIMEOUT:
        return "try again, or with a longer --timeout";
    case IKV_ERR_NO_LEADER:
        return "is a majority of the nodes up? see invoke-kv cluster status";
    case IKV_ERR_TLS:
        return "check --ca-file and --tls-name, and whether the nodes speak TLS (rediss://)";
    case IKV_ERR_PROTOCOL:
        return "is that an invoke-kv node? check --server";
    case IKV_ERR_AUTH:
        return "check --project and --token-file, or --user and --secret-file";
    case IKV_ERR_PERMISSION:
        return "another token or credential is needed";
    case IKV_ERR_QUOTA:
        return "delete keys, or raise the quota: invoke-kv project quota";
    case IKV_ERR_NO_SPACE:
        return "make room on the nodes' disks";
    case IKV_ERR_STALE:
        return "try again, or with a longer --max-stale";
    case IKV_ERR_BUSY:
        return "try again later";
    case IKV_ERR_UNKNOWN_OUTCOME:
        return "look before you try again";
    default:
        return NULL;
    }
}

bool cli_is_no_project(const ikv_reply *reply) {
    static const char prefix[] = "NOPROJECT";
    return reply != NULL && strncmp(ikv_reply_message(reply), prefix, sizeof prefix - 1) == 0;
}

int cli_fail_reply(const struct cli *cli, int error, const ikv_reply *reply, const char *what) {
    const char *said = reply != NULL ? ikv_reply_message(reply) : "";
    bool is_missing = cli_is_no_project(reply);
    const char *todo = is_missing ? "make it: invoke-kv project create" : advice(error);
    return cli_fail(cli, is_missing ? EXIT_NO : cli_exit_code(error), "%s%s%s%s%s",
                    what != NULL ? what : "", what != NULL ? ": " : "",
                    said[0] != '\0' ? said : ikv_strerror(error), todo != NULL ? "; " : "",
                    todo != NULL ? todo : "");
}

void cli_note(const struct cli *cli, const char *format, ...) {
    va_list arguments;
    if (cli->quiet) {
        return;
    }
    fputs(line_start(), stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

/* --- output ----------------------------------------------------------------------------------- */

static void write_out(struct cli *cli) {
    size_t at = 0;
    while (at < cli->out.size && !cli->out_failed) {
        ssize_t n = write(STDOUT_FILENO, cli->out.data + at, cli->out.size - at);
        if (n > 0) {
            at += (size_t)n;
        } else if (n < 0 && errno != EINTR) {
            cli->out_failed = true;
            if (errno != EPIPE) {
                cli_fail(cli, EXIT_LOCAL, "cannot write: %s", strerror(errno));
            }
        }
    }
    cli->out.size = 0;
}

void cli_put(struct cli *cli, const void *data, size_t size) {
    buffer_append(&cli->out, data, size);
    if (cli->out.size >= FLUSH_SIZE) {
        write_out(cli);
    }
}

void cli_print(struct cli *cli, const char *format, ...) {
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    ASSERT(size >= 0);
    cli_put(cli, text, (size_t)size < sizeof text ? (size_t)size : sizeof text - 1);
}

int cli_flush(struct cli *cli) {
    write_out(cli);
    return cli->out_failed ? EXIT_LOCAL : EXIT_OK;
}

void cli_json_open(struct cli *cli) {
    buffer_put_u8(&cli->out, '{');
}

void cli_json_close(struct cli *cli) {
    cli_put(cli, "}\n", 2);
}

void cli_json_name(struct buffer *out, const char *name) {
    if (out->size > 0 && strchr("{[", out->data[out->size - 1]) == NULL) {
        buffer_put_u8(out, ',');
    }
    json_append_string(out, slice_of(name));
    buffer_put_u8(out, ':');
}

void cli_json_bytes(struct buffer *out, const char *name, struct slice bytes) {
    char encoded_name[64];
    if (utf8_is_valid(bytes)) {
        cli_json_name(out, name);
        json_append_string(out, bytes);
        return;
    }
    snprintf(encoded_name, sizeof encoded_name, "%s_base64", name);
    cli_json_name(out, encoded_name);
    buffer_put_u8(out, '"');
    base64_encode(bytes, out);
    buffer_put_u8(out, '"');
}

void cli_json_text(struct buffer *out, const char *name, const char *text) {
    cli_json_bytes(out, name, slice_of(text));
}

void cli_json_unsigned(struct buffer *out, const char *name, uint64_t number) {
    cli_json_name(out, name);
    json_append_unsigned(out, number);
}

void cli_json_integer(struct buffer *out, const char *name, int64_t number) {
    cli_json_name(out, name);
    json_append_integer(out, number);
}

void cli_json_bool(struct buffer *out, const char *name, bool truth) {
    cli_json_name(out, name);
    json_append_text(out, truth ? "true" : "false");
}

bool cli_is_terminal(void) {
    return isatty(STDOUT_FILENO) == 1;
}

void cli_put_readable(struct cli *cli, struct slice bytes) {
    if (!cli_is_terminal()) {
        cli_put(cli, bytes.data, bytes.size);
        return;
    }
    bool is_text = utf8_is_valid(bytes);
    for (size_t i = 0; i < bytes.size; i++) {
        uint8_t c = bytes.data[i];
        /* The control characters above U+007F could steer a terminal as well. */
        bool is_c1 = c == 0xC2 && i + 1 < bytes.size && bytes.data[i + 1] < 0xA0;
        if (c == '\n' || c == '\t' || (c >= 0x20 && c < 0x7F) || (c >= 0x80 && is_text && !is_c1)) {
            cli_put(cli, &c, 1);
        } else {
            cli_print(cli, "\\x%02x", (unsigned)c);
        }
    }
}

int cli_confirm(const struct cli *cli, const char *question) {
    char answer[16] = "";
    if (isatty(STDIN_FILENO) != 1) {
        return cli_fail(cli, EXIT_USAGE, "%s Say --yes, since there is no terminal to ask on",
                        question);
    }
    fprintf(stderr, "%s [y/N] ", question);
    if (fgets(answer, sizeof answer, stdin) != NULL &&
        (strcmp(answer, "y\n") == 0 || strcmp(answer, "yes\n") == 0)) {
        return EXIT_OK;
    }
    return cli_fail(cli, EXIT_NO, "nothing was done");
}

/* --- values ----------------------------------------------------------------------------------- */

struct slice cli_slice(const ikv_value *value) {
    bool is_text =
        value->type == IKV_STRING || value->type == IKV_STATUS || value->type == IKV_ERROR;
    return is_text ? slice_make(value->data, value->size) : slice_make(NULL, 0);
}

const ikv_value *cli_field(const ikv_value *map, const char *name) {
    if (map->type != IKV_ARRAY) {
        return NULL;
    }
    for (size_t i = 0; i + 1 < map->size; i += 2) {
        if (slice_equal(cli_slice(&map->elements[i]), slice_of(name))) {
            return &map->elements[i + 1];
        }
    }
    return NULL;
}

bool cli_number(const ikv_value *value, int64_t *number) {
    if (value->type == IKV_INTEGER) {
        *number = value->integer;
        return true;
    }
    return number_parse_integer(cli_slice(value), number);
}

uint64_t cli_field_number(const ikv_value *map, const char *name) {
    const ikv_value *value = cli_field(map, name);
    int64_t number = 0;
    return value != NULL && cli_number(value, &number) && number > 0 ? (uint64_t)number : 0;
}
