/* The parts of `invoke-kv` that every command uses: the client, output, errors, exit codes. */
#ifndef CLIENT_CLI_CLI_H
#define CLIENT_CLI_CLI_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "client/cli/settings.h"
#include "client/include/invoke_kv.h"

enum exit_code {
    EXIT_OK = 0,
    EXIT_NO = 1,           /* not found, condition not true, cluster degraded */
    EXIT_USAGE = 2,        /* the command line or the settings */
    EXIT_REFUSED = 3,      /* the server said no */
    EXIT_UNREACHABLE = 4,  /* no answer: nothing was done */
    EXIT_UNKNOWN = 5,      /* no answer to a write: nobody knows whether it was done */
    EXIT_LOCAL = 6,        /* a file, or what stands in it, or the output */
    EXIT_INTERRUPTED = 130 /* SIGINT */
};

struct cli {
    struct settings settings;
    struct connection_settings connection;
    bool json;
    bool quiet;
    ikv_client *client; /* from cli_connect() on */
    ikv_project *project;
    struct buffer out; /* what cli_flush() writes */
    bool out_failed;
};

/* Set by SIGINT and SIGTERM after cli_catch_signals(): long commands stop at the next good place.
 */
extern volatile sig_atomic_t cli_interrupted;
void cli_catch_signals(void);

/* Makes client and project. Nothing is sent. */
int cli_connect(struct cli *cli);
void cli_close(struct cli *cli);

/* Prints "invoke-kv: ..." (or a JSON object with --json) to standard error; returns `code`. */
int cli_fail(const struct cli *cli, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same for an error of the library, with what to do about it. `reply` may be NULL; `what` says
 * what was tried, or is NULL. */
int cli_fail_reply(const struct cli *cli, int error, const ikv_reply *reply, const char *what);
/* The project does not exist. */
bool cli_is_no_project(const ikv_reply *reply);
/* Exit code of an error of the library. */
int cli_exit_code(int error);
/* A note to standard error, unless --quiet. */
void cli_note(const struct cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Runs a command on the project. On success returns 0, and *reply is the caller's; else the exit
 * code, with the error printed. */
int cli_call(struct cli *cli, size_t argc, const ikv_bytes *argv, ikv_reply **reply);
/* The same for a command to a node, or to any with `node` NULL. */
int cli_call_node(struct cli *cli, const char *node, size_t argc, const ikv_bytes *argv,
                  ikv_reply **reply);

/* Standard output goes through a buffer. cli_flush() returns 0 or, with a message, EXIT_LOCAL; a
 * reader that went away (EPIPE) is no reason for a message. */
void cli_put(struct cli *cli, const void *data, size_t size);
void cli_print(struct cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));
int cli_flush(struct cli *cli);

/* Members of a JSON object in cli->out: "name": and the value, after a comma where one is needed.
 */
void cli_json_open(struct cli *cli);
void cli_json_close(struct cli *cli); /* and a line's end */
void cli_json_name(struct buffer *out, const char *name);
void cli_json_bytes(struct buffer *out, const char *name, struct slice bytes);
void cli_json_text(struct buffer *out, const char *name, const char *text);
void cli_json_unsigned(struct buffer *out, const char *name, uint64_t number);
void cli_json_integer(struct buffer *out, const char *name, int64_t number);
void cli_json_bool(struct buffer *out, const char *name, bool truth);

/* Bytes for a terminal: what is not printable is escaped as in C; for a file or a pipe as they are.
 */
void cli_put_readable(struct cli *cli, struct slice bytes);
bool cli_is_terminal(void);

/* Asks a question on the terminal. 0: yes; else an exit code: without a terminal, or when the
 * answer is no. */
int cli_confirm(const struct cli *cli, const char *question);

struct slice cli_slice(const ikv_value *value);
/* Value of a name in a map; NULL when it is missing. */
const ikv_value *cli_field(const ikv_value *map, const char *name);
uint64_t cli_field_number(const ikv_value *map, const char *name);
/* An integer, or a string that is one. */
bool cli_number(const ikv_value *value, int64_t *number);

uint64_t cli_now_ns(void); /* monotonic */

#endif
