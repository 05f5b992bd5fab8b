/* The table of commands: what --help, the manual page and the shells' completion are made from, and
 * what the command line is read by. */
#ifndef CLIENT_CLI_COMMANDS_H
#define CLIENT_CLI_COMMANDS_H

#include <stdbool.h>
#include <stddef.h>

#include "client/cli/cli.h"

enum { COMMAND_OPTIONS_MAX = 12, COMMAND_WORDS_MAX = 3 };

struct option {
    const char *name;    /* without the dashes; NULL ends a list */
    char letter;         /* 0: none */
    const char *value;   /* placeholder; NULL: a flag */
    const char *choices; /* words to complete with, "@file" for files, or NULL */
    const char *help;
};

struct command;

struct arguments {
    const struct command *command;
    const char
        *options[COMMAND_OPTIONS_MAX]; /* in the table's order; "" for a flag, NULL: not there */
    char **words;                      /* behind the command's name */
    int n_words;
};

struct command {
    const char *name;      /* one to three words */
    const char *arguments; /* as in "KEY [VALUE]"; "" for none */
    const char *summary;   /* one line */
    const char *text;      /* more of it, with blank lines between paragraphs */
    int min_words;
    int max_words; /* -1: any number */
    int (*run)(struct cli *cli, const struct arguments *arguments);
    bool is_local;       /* needs no cluster */
    const char *choices; /* words that the first argument can be, or "@file", or NULL */
    struct option options[COMMAND_OPTIONS_MAX];
};

extern const struct command command_table[];
extern const size_t command_count;
/* Options that every command takes, behind those of SETTING_LIST. */
extern const struct option common_options[];

/* One meaning for each exit code, {code, text}; ends with a NULL text. */
struct exit_meaning {
    int code;
    const char *text;
};
extern const struct exit_meaning exit_meanings[];

/* The option's value, "" for a flag, NULL when it was not given. It must be in the command's table.
 */
const char *argument_option(const struct arguments *arguments, const char *name);

/* What the command line says. */
struct invocation {
    const struct command *command; /* NULL: none was named */
    struct arguments arguments;
    const char *config; /* --config */
    bool help;
    bool version;
};

/* Reads the command line; fills settings and flags of `cli`. Words and options point into argv,
 * whose words are moved to the front. Returns 0, or an exit code with the reason printed. */
int command_line_read(struct cli *cli, int argc, char **argv, struct invocation *invocation);

/* Command whose name the words begin with, the longest one; *used: how many words it takes. */
const struct command *command_find(char **words, int n_words, int *used);

/* Help of a command; without one, of all. */
void help_print(struct cli *cli, const struct command *command);
/* The manual page, in roff. */
void manual_print(struct cli *cli);
/* bash, zsh or fish; false when it is another one. */
bool completion_print(struct cli *cli, const char *shell);

/* command_*.c */
int run_get(struct cli *cli, const struct arguments *arguments);
int run_set(struct cli *cli, const struct arguments *arguments);
int run_has(struct cli *cli, const struct arguments *arguments);
int run_delete(struct cli *cli, const struct arguments *arguments);
int run_clear(struct cli *cli, const struct arguments *arguments);
int run_list(struct cli *cli, const struct arguments *arguments);
int run_incr(struct cli *cli, const struct arguments *arguments);
int run_ttl(struct cli *cli, const struct arguments *arguments);
int run_usage(struct cli *cli, const struct arguments *arguments);
int run_watch(struct cli *cli, const struct arguments *arguments);
int run_backup(struct cli *cli, const struct arguments *arguments);
int run_restore(struct cli *cli, const struct arguments *arguments);
int run_export(struct cli *cli, const struct arguments *arguments);
int run_import(struct cli *cli, const struct arguments *arguments);
int run_project_create(struct cli *cli, const struct arguments *arguments);
int run_project_list(struct cli *cli, const struct arguments *arguments);
int run_project_info(struct cli *cli, const struct arguments *arguments);
int run_project_delete(struct cli *cli, const struct arguments *arguments);
int run_project_quota(struct cli *cli, const struct arguments *arguments);
int run_token_add(struct cli *cli, const struct arguments *arguments);
int run_token_list(struct cli *cli, const struct arguments *arguments);
int run_token_revoke(struct cli *cli, const struct arguments *arguments);
int run_cluster_add(struct cli *cli, const struct arguments *arguments);
int run_cluster_remove(struct cli *cli, const struct arguments *arguments);
int run_cluster_replace(struct cli *cli, const struct arguments *arguments);
int run_cluster_transfer(struct cli *cli, const struct arguments *arguments);
int run_cluster_rebalance(struct cli *cli, const struct arguments *arguments);
/* cluster status --wait-healthy */
int cluster_wait_healthy(struct cli *cli, const struct arguments *arguments);
int run_cluster_status(struct cli *cli, const struct arguments *arguments);
int run_bench(struct cli *cli, const struct arguments *arguments);
int run_completion(struct cli *cli, const struct arguments *arguments);
int run_manual(struct cli *cli, const struct arguments *arguments);

#endif
