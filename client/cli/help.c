/* Help, the manual page and the shells' completion, all from the table of commands. */
#include <stdio.h>
#include <string.h>

#include "client/cli/commands.h"

enum { WIDTH = 80, OPTION_COLUMN = 26 };

static const struct option settings[] = {
#define SETTING_ROW(symbol, option, letter, placeholder, choices, help)                            \
    {option, letter, placeholder, choices, help},
    SETTING_LIST(SETTING_ROW)
#undef SETTING_ROW
        {NULL, 0, NULL, NULL, NULL}};

/* Text in lines of WIDTH, each behind `indent` blanks but the first, which stands at `column`. */
static void print_wrapped(struct cli *cli, const char *text, size_t indent, size_t column) {
    while (*text != '\0') {
        size_t size = strcspn(text, " \n");
        if (column > indent && column + size > WIDTH) {
            cli_print(cli, "\n%*s", (int)indent, "");
            column = indent;
        }
        cli_put(cli, text, size);
        column += size;
        text += size;
        if (*text == '\n') {
            size_t lines = strspn(text, "\n");
            for (size_t i = 0; i < lines; i++) {
                cli_print(cli, "\n");
            }
            cli_print(cli, "%*s", (int)indent, "");
            column = indent;
            text += lines;
        } else if (*text == ' ') {
            text++;
            column++;
            if (*text != '\0' && column + strcspn(text, " \n") <= WIDTH) {
                cli_print(cli, " ");
            }
        }
    }
    cli_print(cli, "\n");
}

static void print_option(struct cli *cli, const struct option *option) {
    char head[64];
    int size = snprintf(
        head, sizeof head, "  %c%c%s--%s%s%s", option->letter != 0 ? '-' : ' ',
        option->letter != 0 ? option->letter : ' ', option->letter != 0 ? ", " : "  ", option->name,
        option->value != NULL ? " " : "", option->value != NULL ? option->value : "");
    cli_print(cli, "%s", head);
    if (size + 2 > OPTION_COLUMN) {
        cli_print(cli, "\n%*s", OPTION_COLUMN, "");
    } else {
        cli_print(cli, "%*s", OPTION_COLUMN - size, "");
    }
    print_wrapped(cli, option->help, OPTION_COLUMN, OPTION_COLUMN);
}

static void print_options(struct cli *cli, const struct option *list, size_t max) {
    for (size_t i = 0; i < max && list[i].name != NULL; i++) {
        print_option(cli, &list[i]);
    }
}

static void print_usage(struct cli *cli, const struct command *command) {
    cli_print(cli, "invoke-kv %s%s%s%s", command->name, *command->arguments != '\0' ? " " : "",
              command->arguments, command->options[0].name != NULL ? " [OPTION...]" : "");
}

static void help_of_command(struct cli *cli, const struct command *command) {
    cli_print(cli, "Usage: ");
    print_usage(cli, command);
    cli_print(cli, "\n\n%c", command->summary[0] - 'a' + 'A');
    print_wrapped(cli, command->summary + 1, 0, 1);
    if (*command->text != '\0') {
        cli_print(cli, "\n");
        print_wrapped(cli, command->text, 0, 0);
    }
    if (command->options[0].name != NULL) {
        cli_print(cli, "\nOptions:\n");
        print_options(cli, command->options, COMMAND_OPTIONS_MAX);
    }
    cli_print(cli, "\nOptions of all commands: invoke-kv --help\n");
}

static void help_of_all(struct cli *cli) {
    cli_print(cli, "Usage: invoke-kv COMMAND [ARGUMENT...] [OPTION...]\n\n"
                   "Works with an invoke-kv cluster: a replicated, durable key-value store.\n\n"
                   "Commands (invoke-kv COMMAND --help tells more):\n");
    for (size_t i = 0; i < command_count; i++) {
        cli_print(cli, "  %-22s  ", command_table[i].name);
        print_wrapped(cli, command_table[i].summary, OPTION_COLUMN, OPTION_COLUMN);
    }
    cli_print(cli, "\nOptions of all commands:\n");
    print_options(cli, common_options, SIZE_MAX);
    print_options(cli, settings, SIZE_MAX);
    cli_print(cli, "\n");
    print_wrapped(
        cli,
        "The latter can also stand in variables, INVOKE_KV_SERVER for --server and so on, "
        "and in ~/.config/invoke-kv.conf, as lines such as server = 10.0.0.1:7101 and "
        "token_file = /home/me/token. Options count before variables, these before the "
        "file. -- ends the options: what follows is taken as it is.",
        0, 0);
    cli_print(cli, "\nExit codes:\n");
    for (const struct exit_meaning *exit = exit_meanings; exit->text != NULL; exit++) {
        cli_print(cli, "  %-3d  ", exit->code);
        print_wrapped(cli, exit->text, 7, 7);
    }
}

void help_print(struct cli *cli, const struct command *command) {
    if (command != NULL) {
        help_of_command(cli, command);
    } else {
        help_of_all(cli);
    }
}

/* --- the manual page -------------------------------------------------------------------------- */

/* Text for roff: a dash that is one in ASCII, and no line that begins like a request. */
static void print_roff(struct cli *cli, const char *text) {
    bool begins = true;
    for (; *text != '\0'; text++) {
        if (begins && (*text == '.' || *text == '\'')) {
            cli_print(cli, "\\&");
        }
        begins = *text == '\n';
        if (*text == '\\') {
            cli_print(cli, "\\e");
        } else if (*text == '-') {
            cli_print(cli, "\\-");
        } else if (*text == '\n' && text[1] == '\n') {
            cli_print(cli, "\n.PP\n");
            text++;
            begins = true;
        } else {
            cli_put(cli, text, 1);
        }
    }
}

static void roff_option(struct cli *cli, const struct option *option) {
    cli_print(cli, ".TP\n");
    if (option->letter != 0) {
        cli_print(cli, "\\fB\\-%c\\fR, ", option->letter);
    }
    cli_print(cli, "\\fB\\-\\-");
    print_roff(cli, option->name);
    cli_print(cli, "\\fR");
    if (option->value != NULL) {
        cli_print(cli, " \\fI%s\\fR", option->value);
    }
    cli_print(cli, "\n");
    print_roff(cli, option->help);
    cli_print(cli, ".\n");
}

static void roff_command(struct cli *cli, const struct command *command) {
    cli_print(cli, ".SS \"");
    print_roff(cli, command->name);
    cli_print(cli, "%s%s\"\n%c", *command->arguments != '\0' ? " " : "", command->arguments,
              command->summary[0] - 'a' + 'A');
    print_roff(cli, command->summary + 1);
    cli_print(cli, ".\n");
    if (*command->text != '\0') {
        cli_print(cli, ".PP\n");
        print_roff(cli, command->text);
        cli_print(cli, "\n");
    }
    for (size_t i = 0; i < COMMAND_OPTIONS_MAX && command->options[i].name != NULL; i++) {
        roff_option(cli, &command->options[i]);
    }
}

static void roff_options(struct cli *cli, const struct option *list) {
    for (; list->name != NULL; list++) {
        roff_option(cli, list);
    }
}

void manual_print(struct cli *cli) {
    cli_print(cli,
              ".TH INVOKE\\-KV 1 \"\" \"invoke\\-kv %s\" \"User Commands\"\n.SH NAME\n"
              "invoke\\-kv \\- works with an invoke\\-kv cluster\n.SH SYNOPSIS\n"
              ".B invoke\\-kv\n.I COMMAND\n[\\fIARGUMENT\\fR...] [\\fIOPTION\\fR...]\n"
              ".SH DESCRIPTION\n",
              ikv_version());
    print_roff(cli, "Reads and writes the keys of a project in an invoke-kv cluster, a replicated, "
                    "durable key-value store, exports and imports them, administers projects, and "
                    "shows how the cluster is. It finds the nodes that lead by itself and follows "
                    "them; a write is carried out once, however often it has to be sent.\n");
    cli_print(cli, ".SH COMMANDS\n");
    for (size_t i = 0; i < command_count; i++) {
        roff_command(cli, &command_table[i]);
    }
    cli_print(cli, ".SH OPTIONS\n");
    roff_options(cli, common_options);
    roff_options(cli, settings);
    cli_print(cli, ".SH \"EXIT STATUS\"\n");
    for (const struct exit_meaning *exit = exit_meanings; exit->text != NULL; exit++) {
        cli_print(cli, ".TP\n%d\n", exit->code);
        print_roff(cli, exit->text);
        cli_print(cli, ".\n");
    }
    cli_print(cli, ".SH ENVIRONMENT\n");
    print_roff(cli,
               "INVOKE_KV_ and an option's name in capitals, with _ for -, sets what the option "
               "would: INVOKE_KV_SERVER, INVOKE_KV_TOKEN_FILE. INVOKE_KV_CONFIG names the "
               "configuration file. Options count before variables.\n");
    cli_print(cli, ".SH FILES\n.TP\n~/.config/invoke\\-kv.conf\n");
    print_roff(cli,
               "Settings, one in a line: server = 10.0.0.1:7101,10.0.0.2:7101. Names are those "
               "of the options with _ for -. Lines that begin with # are comments. Variables "
               "count before this file.\n");
    cli_print(cli, ".SH EXAMPLES\n.nf\n");
    print_roff(cli, "invoke-kv set greeting hello --ttl 5m\n"
                    "invoke-kv get greeting\n"
                    "invoke-kv export shop.jsonl --project shop\n"
                    "invoke-kv import shop.json --strategy replace --project shop --yes\n"
                    "invoke-kv watch session: --json\n"
                    "invoke-kv cluster status --watch\n");
    cli_print(cli, ".fi\n");
}

/* --- completion ------------------------------------------------------------------------------- */

/* First words, or the second ones behind a first. Each once. */
static void print_words(struct cli *cli, const char *before) {
    size_t skip = strlen(before);
    const char *last = "";
    size_t last_size = 0;
    for (size_t i = 0; i < command_count; i++) {
        const char *name = command_table[i].name;
        if (strncmp(name, before, skip) != 0) {
            continue;
        }
        size_t size = strcspn(name + skip, " ");
        if (size != last_size || strncmp(last, name + skip, size) != 0) {
            cli_print(cli, "%s%.*s", last_size > 0 ? " " : "", (int)size, name + skip);
        }
        last = name + skip;
        last_size = size;
    }
}

static void print_flags(struct cli *cli, const struct option *list, size_t max) {
    for (size_t i = 0; i < max && list[i].name != NULL; i++) {
        cli_print(cli, " --%s", list[i].name);
    }
}

static void bash_choices(struct cli *cli, const struct option *option) {
    if (option->value == NULL) {
        return;
    }
    cli_print(cli, "        --%s", option->name);
    if (option->letter != 0) {
        cli_print(cli, "|-%c", option->letter);
    }
    if (option->choices == NULL) {
        cli_print(cli, ") return ;;\n");
    } else if (strcmp(option->choices, "@file") == 0) {
        cli_print(cli, ") COMPREPLY=($(compgen -f -- \"$word\")); return ;;\n");
    } else {
        cli_print(cli, ") COMPREPLY=($(compgen -W \"%s\" -- \"$word\")); return ;;\n",
                  option->choices);
    }
}

static void bash_case(struct cli *cli, const struct command *command) {
    cli_print(cli, "        \"%s\")\n            options=\"", command->name);
    print_flags(cli, command->options, COMMAND_OPTIONS_MAX);
    cli_print(cli, "\"");
    if (command->choices != NULL && strcmp(command->choices, "@file") != 0) {
        cli_print(cli, "; words=\"%s\"", command->choices);
    } else if (command->choices != NULL) {
        cli_print(cli, "; files=yes");
    }
    cli_print(cli, " ;;\n");
}

/* Options of several commands may share a name; the values of --format differ, so those of a
 * command are asked for before the common ones. */
static void bash_values(struct cli *cli) {
    cli_print(cli, "    case \"$previous\" in\n");
    for (const struct option *option = settings; option->name != NULL; option++) {
        bash_choices(cli, option);
    }
    bash_choices(cli, &common_options[2]);
    cli_print(cli, "    esac\n    case \"$command\" in\n");
    for (size_t i = 0; i < command_count; i++) {
        const struct command *command = &command_table[i];
        if (command->options[0].name == NULL) {
            continue;
        }
        cli_print(cli, "    \"%s\")\n        case \"$previous\" in\n", command->name);
        for (size_t k = 0; k < COMMAND_OPTIONS_MAX && command->options[k].name != NULL; k++) {
            bash_choices(cli, &command->options[k]);
        }
        cli_print(cli, "        esac ;;\n");
    }
    cli_print(cli, "    esac\n");
}

static void bash_groups(struct cli *cli) {
    static const char *const groups[] = {"project", "project token", "cluster"};
    for (size_t i = 0; i < sizeof groups / sizeof groups[0]; i++) {
        char before[64];
        snprintf(before, sizeof before, "%s ", groups[i]);
        cli_print(cli, "        \"%s\") words=\"", groups[i]);
        print_words(cli, before);
        cli_print(cli, "\" ;;\n");
    }
}

static void complete_bash(struct cli *cli) {
    cli_print(cli,
              "# bash completion for invoke-kv\n"
              "_invoke_kv() {\n"
              "    local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}\n"
              "    local command=\"\" options=\"\" words=\"\" files=\"\" i\n"
              "    COMPREPLY=()\n"
              "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
              "        case \"$command${command:+ }${COMP_WORDS[i]}\" in\n");
    cli_print(cli, "            project|\"project token\"|cluster");
    for (size_t i = 0; i < command_count; i++) {
        cli_print(cli, "|\"%s\"", command_table[i].name);
    }
    cli_print(cli, ") command=\"$command${command:+ }${COMP_WORDS[i]}\" ;;\n        esac\n"
                   "    done\n");
    bash_values(cli);
    cli_print(cli, "    case \"$command\" in\n        \"\") words=\"");
    print_words(cli, "");
    cli_print(cli, "\" ;;\n");
    bash_groups(cli);
    for (size_t i = 0; i < command_count; i++) {
        bash_case(cli, &command_table[i]);
    }
    cli_print(cli, "    esac\n    if [[ $word == -* ]]; then\n        words=\"$options");
    print_flags(cli, common_options, SIZE_MAX);
    print_flags(cli, settings, SIZE_MAX);
    cli_print(cli, "\"\n    elif [[ -n $files ]]; then\n"
                   "        COMPREPLY=($(compgen -f -- \"$word\"))\n        return\n    fi\n"
                   "    COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n}\n"
                   "complete -o filenames -F _invoke_kv invoke-kv\n");
}

/* Text within single quotes. */
static void print_quoted(struct cli *cli, const char *text) {
    for (; *text != '\0'; text++) {
        if (*text == '\'') {
            cli_print(cli, "'\\''");
        } else {
            cli_put(cli, *text == '\n' ? " " : text, 1);
        }
    }
}

/* zsh reads the bash script through its own compatibility layer, which knows arrays and compgen. */
static void complete_zsh(struct cli *cli) {
    cli_print(cli, "#compdef invoke-kv\n"
                   "autoload -U +X bashcompinit && bashcompinit\n");
    complete_bash(cli);
}

static void fish_option(struct cli *cli, const char *condition, const struct option *option) {
    cli_print(cli, "complete -c invoke-kv");
    if (*condition != '\0') {
        cli_print(cli, " -n '__fish_seen_subcommand_from %s'", condition);
    }
    cli_print(cli, " -l %s", option->name);
    if (option->letter != 0) {
        cli_print(cli, " -s %c", option->letter);
    }
    if (option->value != NULL && option->choices != NULL && strcmp(option->choices, "@file") == 0) {
        cli_print(cli, " -r -F");
    } else if (option->value != NULL) {
        cli_print(cli, " -x");
        if (option->choices != NULL) {
            cli_print(cli, " -a '%s'", option->choices);
        }
    }
    cli_print(cli, " -d '");
    print_quoted(cli, option->help);
    cli_print(cli, "'\n");
}

static void complete_fish(struct cli *cli) {
    cli_print(cli, "# fish completion for invoke-kv\ncomplete -c invoke-kv -f\n");
    for (size_t i = 0; i < command_count; i++) {
        const struct command *command = &command_table[i];
        const char *last = strrchr(command->name, ' ');
        int before = last != NULL ? (int)(last - command->name) : 0;
        last = last != NULL ? last + 1 : command->name;
        if (before > 0) {
            cli_print(cli, "complete -c invoke-kv -n '__fish_seen_subcommand_from %.*s' -a %s -d '",
                      before, command->name, last);
        } else {
            cli_print(cli, "complete -c invoke-kv -n __fish_use_subcommand -a %s -d '", last);
        }
        print_quoted(cli, command->summary);
        cli_print(cli, "'\n");
        if (command->choices != NULL && strcmp(command->choices, "@file") == 0) {
            cli_print(cli, "complete -c invoke-kv -n '__fish_seen_subcommand_from %s' -F\n", last);
        } else if (command->choices != NULL) {
            cli_print(cli, "complete -c invoke-kv -n '__fish_seen_subcommand_from %s' -a '%s'\n",
                      last, command->choices);
        }
        for (size_t k = 0; k < COMMAND_OPTIONS_MAX && command->options[k].name != NULL; k++) {
            fish_option(cli, last, &command->options[k]);
        }
    }
    cli_print(cli, "complete -c invoke-kv -n __fish_use_subcommand -a 'project cluster'\n"
                   "complete -c invoke-kv -n '__fish_seen_subcommand_from project' -a token\n");
    for (const struct option *option = common_options; option->name != NULL; option++) {
        fish_option(cli, "", option);
    }
    for (const struct option *option = settings; option->name != NULL; option++) {
        fish_option(cli, "", option);
    }
}

bool completion_print(struct cli *cli, const char *shell) {
    if (strcmp(shell, "bash") == 0) {
        complete_bash(cli);
    } else if (strcmp(shell, "zsh") == 0) {
        complete_zsh(cli);
    } else if (strcmp(shell, "fish") == 0) {
        complete_fish(cli);
    } else {
        return false;
    }
    return true;
}

int run_completion(struct cli *cli, const struct arguments *arguments) {
    if (!completion_print(cli, arguments->words[0])) {
        return cli_fail(cli, EXIT_USAGE, "bash, zsh or fish, not '%s'", arguments->words[0]);
    }
    return EXIT_OK;
}

int run_manual(struct cli *cli, const struct arguments *arguments) {
    (void)arguments;
    manual_print(cli);
    return EXIT_OK;
}
