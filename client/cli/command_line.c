/* Reads the command line by the table of commands. Options may stand anywhere; -- ends them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "client/cli/commands.h"

static const struct option setting_options[] = {
#define SETTING_OPTION(symbol, option, letter, placeholder, choices, help)                         \
    {option, letter, placeholder, choices, help},
    SETTING_LIST(SETTING_OPTION)
#undef SETTING_OPTION
        {NULL, 0, NULL, NULL, NULL}};

/* An option on the command line. */
struct seen {
    const struct option *option;
    const char *value;
};

enum { SEEN_MAX = 64 };

struct reading {
    struct cli *cli;
    struct seen seen[SEEN_MAX];
    int n_seen;
};

const struct command *command_find(char **words, int n_words, int *used) {
    const struct command *best = NULL;
    for (size_t i = 0; i < command_count; i++) {
        const char *name = command_table[i].name;
        int n = 0;
        while (n < n_words && name != NULL) {
            size_t size = strcspn(name, " ");
            if (strlen(words[n]) != size || strncmp(words[n], name, size) != 0) {
                break;
            }
            n++;
            name = name[size] == ' ' ? name + size + 1 : NULL;
        }
        if (name == NULL && n > 0 && (best == NULL || n > *used)) {
            best = &command_table[i];
            *used = n;
        }
    }
    return best;
}

static const struct option *find_in(const struct option *list, const char *name, size_t size,
                                    char letter) {
    for (; list->name != NULL; list++) {
        bool named =
            name != NULL && strlen(list->name) == size && strncmp(list->name, name, size) == 0;
        if (named || (letter != 0 && list->letter == letter)) {
            return list;
        }
    }
    return NULL;
}

/* Which command it is decides what an option means, and whether it takes the next word. Words that
 * name the command come before its options, or else the options are common ones. */
static const struct option *find_option(const struct command *command, const char *name,
                                        size_t size, char letter) {
    const struct option *option =
        command != NULL ? find_in(command->options, name, size, letter) : NULL;
    option = option != NULL ? option : find_in(common_options, name, size, letter);
    return option != NULL ? option : find_in(setting_options, name, size, letter);
}

static int note_option(struct reading *reading, const struct option *option, const char *value) {
    if (reading->n_seen == SEEN_MAX) {
        return cli_fail(reading->cli, EXIT_USAGE, "more than %d options", SEEN_MAX);
    }
    reading->seen[reading->n_seen++] = (struct seen){option, value};
    return EXIT_OK;
}

static int unknown_option(const struct reading *reading, const struct command *command,
                          const char *text) {
    return cli_fail(reading->cli, EXIT_USAGE, "unknown option %s; see invoke-kv %s%s--help", text,
                    command != NULL ? command->name : "", command != NULL ? " " : "");
}

/* --name, --name=value, --name value. *next: the word behind it, moved when it is used. */
static int read_long(struct reading *reading, const struct command *command, const char *text,
                     char ***next) {
    const char *equals = strchr(text, '=');
    size_t size = equals != NULL ? (size_t)(equals - text) - 2 : strlen(text) - 2;
    const struct option *option = find_option(command, text + 2, size, 0);
    if (option == NULL) {
        return unknown_option(reading, command, text);
    }
    const char *value = equals != NULL ? equals + 1 : NULL;
    if (option->value == NULL && value != NULL) {
        return cli_fail(reading->cli, EXIT_USAGE, "--%s takes no value", option->name);
    }
    if (option->value != NULL && value == NULL) {
        value = **next;
        if (value == NULL) {
            return cli_fail(reading->cli, EXIT_USAGE, "--%s needs a value, %s", option->name,
                            option->value);
        }
        (*next)++;
    }
    return note_option(reading, option, value != NULL ? value : "");
}

/* -x, -xvalue, -x value, -xyz. */
static int read_short(struct reading *reading, const struct command *command, const char *text,
                      char ***next) {
    for (const char *c = text + 1; *c != '\0'; c++) {
        const struct option *option = find_option(command, NULL, 0, *c);
        if (option == NULL) {
            return unknown_option(reading, command, text);
        }
        const char *value = "";
        if (option->value != NULL) {
            value = c[1] != '\0' ? c + 1 : **next;
            if (value == NULL) {
                return cli_fail(reading->cli, EXIT_USAGE, "-%c needs a value, %s", *c,
                                option->value);
            }
            *next += c[1] == '\0';
        }
        int code = note_option(reading, option, value);
        if (code != EXIT_OK || option->value != NULL) {
            return code;
        }
    }
    return EXIT_OK;
}

/* A lone - and negative numbers are words. */
static bool is_option(const char *text) {
    return text[0] == '-' && text[1] != '\0' &&
           !(text[1] >= '0' && text[1] <= '9' &&
             strspn(text + 1, "0123456789") == strlen(text + 1) && strcmp(text, "-0") != 0);
}

static int set_option(struct cli *cli, struct invocation *invocation, const struct seen *seen) {
    const struct command *command = invocation->command;
    const struct option *option = seen->option;
    if (command != NULL && option >= command->options &&
        option < command->options + COMMAND_OPTIONS_MAX) {
        invocation->arguments.options[option - command->options] = seen->value;
        return EXIT_OK;
    }
    if (option >= setting_options && option < setting_options + SETTING_COUNT) {
        if (*seen->value == '\0') {
            return cli_fail(cli, EXIT_USAGE, "--%s is empty", option->name);
        }
        settings_set(&cli->settings, (enum setting)(option - setting_options), seen->value,
                     FROM_OPTION);
    } else if (strcmp(option->name, "json") == 0) {
        cli->json = true;
    } else if (strcmp(option->name, "quiet") == 0) {
        cli->quiet = true;
    } else if (strcmp(option->name, "config") == 0) {
        invocation->config = seen->value;
    } else if (strcmp(option->name, "help") == 0) {
        invocation->help = true;
    } else {
        ASSERT(strcmp(option->name, "version") == 0);
        invocation->version = true;
    }
    return EXIT_OK;
}

static int check_words(const struct cli *cli, const struct invocation *invocation) {
    const struct command *command = invocation->command;
    int n = invocation->arguments.n_words;
    if (n < command->min_words || (command->max_words >= 0 && n > command->max_words)) {
        return cli_fail(cli, EXIT_USAGE, "%s arguments; usage: invoke-kv %s%s%s",
                        n < command->min_words ? "too few" : "too many", command->name,
                        *command->arguments != '\0' ? " " : "", command->arguments);
    }
    return EXIT_OK;
}

static int no_command(const struct cli *cli, char **words, int n_words) {
    if (n_words == 0) {
        return cli_fail(cli, EXIT_USAGE, "which command? see invoke-kv --help");
    }
    size_t size = strlen(words[0]);
    for (size_t i = 0; i < command_count; i++) {
        if (strncmp(command_table[i].name, words[0], size) == 0 &&
            command_table[i].name[size] == ' ') {
            return cli_fail(cli, EXIT_USAGE, "%s what? see invoke-kv --help", words[0]);
        }
    }
    return cli_fail(cli, EXIT_USAGE, "unknown command %s; see invoke-kv --help", words[0]);
}

int command_line_read(struct cli *cli, int argc, char **argv, struct invocation *invocation) {
    struct reading reading = {.cli = cli};
    char **next = argv + (argc > 0);
    char **words = next;
    int n_words = 0;
    bool ended = false;
    int used = 0;
    *invocation = (struct invocation){0};
    while (*next != NULL) {
        char *text = *next++;
        int code = EXIT_OK;
        if (ended || !is_option(text)) {
            words[n_words++] = text;
            /* Up to the longest name; behind it further words are arguments. */
            if (n_words <= COMMAND_WORDS_MAX) {
                invocation->command = command_find(words, n_words, &used);
            }
        } else if (strcmp(text, "--") == 0) {
            ended = true;
        } else if (text[1] == '-') {
            code = read_long(&reading, invocation->command, text, &next);
        } else {
            code = read_short(&reading, invocation->command, text, &next);
        }
        if (code != EXIT_OK) {
            return code;
        }
    }
    for (int i = 0; i < reading.n_seen; i++) {
        int code = set_option(cli, invocation, &reading.seen[i]);
        if (code != EXIT_OK) {
            return code;
        }
    }
    invocation->arguments.command = invocation->command;
    invocation->arguments.words = words + used;
    invocation->arguments.n_words = n_words - used;
    if (invocation->help || invocation->version) {
        return EXIT_OK;
    }
    return invocation->command != NULL ? check_words(cli, invocation)
                                       : no_command(cli, words, n_words);
}

const char *argument_option(const struct arguments *arguments, const char *name) {
    const struct option *list = arguments->command->options;
    const struct option *option = find_in(list, name, strlen(name), 0);
    ASSERT(option != NULL);
    return arguments->options[option - list];
}
