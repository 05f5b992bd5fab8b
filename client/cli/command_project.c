/* project ...: what the server's PROJECT does. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "client/cli/commands.h"
#include "client/cli/units.h"

enum { WORDS_MAX = 10, NUMBER_SIZE = 24 };

struct words {
    ikv_bytes argv[WORDS_MAX];
    size_t argc;
};

static void add(struct words *words, const char *text) {
    words->argv[words->argc++] = ikv_text(text);
}

/* NULL, with a message, when it is no access. */
static const char *access_word(const struct cli *cli, const char *text) {
    if (strcmp(text, "readwrite") == 0) {
        return "READWRITE";
    }
    if (strcmp(text, "readonly") == 0) {
        return "READONLY";
    }
    cli_fail(cli, EXIT_USAGE, "access is readwrite or readonly, not '%s'", text);
    return NULL;
}

/* EXPIRES and its number, when the option is there. `number` is NUMBER_SIZE bytes. */
static int add_expires(const struct cli *cli, const struct arguments *arguments,
                       struct words *words, char *number) {
    const char *text = argument_option(arguments, "expires");
    int64_t ms;
    if (text == NULL) {
        return EXIT_OK;
    }
    if (!units_parse_duration(text, &ms)) {
        return cli_fail(cli, EXIT_USAGE, "--expires: '%s' is no time, such as 12h or 90d", text);
    }
    snprintf(number, NUMBER_SIZE, "%" PRId64, ms);
    add(words, "EXPIRES");
    add(words, number);
    return EXIT_OK;
}

static int read_quota(const struct cli *cli, const char *text, char *number) {
    uint64_t bytes;
    if (!units_parse_size(text, &bytes) || bytes > INT64_MAX) {
        return cli_fail(cli, EXIT_USAGE, "'%s' is no size, such as 1000000, 512MiB or 2GiB", text);
    }
    snprintf(number, NUMBER_SIZE, "%" PRIu64, bytes);
    return EXIT_OK;
}

static void print_token(struct cli *cli, const char *project, struct slice token) {
    if (cli->json) {
        cli_json_open(cli);
        cli_json_text(&cli->out, "project", project);
        cli_json_bytes(&cli->out, "token", token);
        cli_json_close(cli);
    } else {
        cli_put(cli, token.data, token.size);
        cli_put(cli, "\n", 1);
        cli_note(cli, "This is the only time that the token is shown.");
    }
}

static void print_done(struct cli *cli, const char *project, const char *what, bool done) {
    if (cli->json) {
        cli_json_open(cli);
        cli_json_text(&cli->out, "project", project);
        cli_json_bool(&cli->out, what, done);
        cli_json_close(cli);
    }
}

int run_project_create(struct cli *cli, const struct arguments *arguments) {
    const char *name = arguments->words[0];
    const char *quota = argument_option(arguments, "quota");
    const char *access = argument_option(arguments, "access");
    char quota_text[NUMBER_SIZE];
    char expires_text[NUMBER_SIZE];
    struct words words = {.argc = 0};
    ikv_reply *reply = NULL;
    int code = EXIT_OK;
    add(&words, "PROJECT");
    add(&words, "CREATE");
    add(&words, name);
    if (quota != NULL) {
        code = read_quota(cli, quota, quota_text);
        add(&words, "QUOTA");
        add(&words, quota_text);
    }
    if (code == EXIT_OK && access == NULL && argument_option(arguments, "expires") != NULL) {
        code = cli_fail(cli, EXIT_USAGE, "--expires is for the token that --access makes");
    }
    if (code == EXIT_OK && access != NULL) {
        const char *word = access_word(cli, access);
        if (word == NULL) {
            return EXIT_USAGE;
        }
        add(&words, "TOKEN");
        add(&words, word);
        code = add_expires(cli, arguments, &words, expires_text);
    }
    code = code == EXIT_OK ? cli_call_node(cli, NULL, words.argc, words.argv, &reply) : code;
    if (code == EXIT_OK && access != NULL) {
        print_token(cli, name, cli_slice(ikv_reply_value(reply)));
    } else if (code == EXIT_OK) {
        print_done(cli, name, "created", true);
    }
    ikv_reply_free(reply);
    return code;
}

/* One page of names; *cursor moves on, 0 at the end. */
static int list_page(struct cli *cli, char *cursor, uint64_t *n_listed) {
    ikv_bytes words[] = {ikv_text("PROJECT"), ikv_text("LIST"),  ikv_text("CURSOR"),
                         ikv_text(cursor),    ikv_text("COUNT"), ikv_text("1000")};
    ikv_reply *reply = NULL;
    /* The first call goes without a cursor. */
    ikv_bytes first[] = {words[0], words[1], words[4], words[5]};
    bool is_first = *cursor == '\0';
    int code = cli_call_node(cli, NULL, is_first ? 4 : 6, is_first ? first : words, &reply);
    if (code != EXIT_OK) {
        return code;
    }
    const ikv_value *value = ikv_reply_value(reply);
    if (value->type != IKV_ARRAY || value->size != 2 || value->elements[1].type != IKV_ARRAY) {
        ikv_reply_free(reply);
        return cli_fail(cli, EXIT_UNREACHABLE, "PROJECT LIST answered nonsense");
    }
    snprintf(cursor, 64, "%.*s", (int)(value->elements[0].size < 63 ? value->elements[0].size : 63),
             value->elements[0].data);
    for (size_t i = 0; i < value->elements[1].size; i++) {
        struct slice name = cli_slice(&value->elements[1].elements[i]);
        if (cli->json) {
            if ((*n_listed)++ > 0) {
                buffer_put_u8(&cli->out, ',');
            }
            json_append_string(&cli->out, utf8_is_valid(name) ? name : slice_of("?"));
        } else {
            cli_put_readable(cli, name);
            cli_put(cli, "\n", 1);
        }
    }
    ikv_reply_free(reply);
    return EXIT_OK;
}

int run_project_list(struct cli *cli, const struct arguments *arguments) {
    char cursor[64] = "";
    uint64_t n_listed = 0;
    int code;
    (void)arguments;
    if (cli->json) {
        json_append_text(&cli->out, "{\"projects\":[");
    }
    do {
        code = list_page(cli, cursor, &n_listed);
    } while (code == EXIT_OK && strcmp(cursor, "0") != 0);
    if (code != EXIT_OK) {
        cli->out.size = 0; /* half of a list would look like all of it */
    } else if (cli->json) {
        json_append_text(&cli->out, "]}\n");
    }
    return code;
}

static void print_info(struct cli *cli, const ikv_value *map) {
    const ikv_value *name = cli_field(map, "name");
    struct slice text = name != NULL ? cli_slice(name) : slice_of("");
    uint64_t keys = cli_field_number(map, "keys");
    uint64_t used = cli_field_number(map, "used_bytes");
    uint64_t quota = cli_field_number(map, "quota_bytes");
    double percent = quota > 0 ? 100.0 * (double)used / (double)quota : 0;
    char count[UNITS_TEXT_SIZE];
    char used_text[UNITS_TEXT_SIZE];
    char quota_text[UNITS_TEXT_SIZE];
    if (cli->json) {
        cli_json_open(cli);
        cli_json_bytes(&cli->out, "project", text);
        cli_json_unsigned(&cli->out, "keys", keys);
        cli_json_unsigned(&cli->out, "used_bytes", used);
        cli_json_unsigned(&cli->out, "quota_bytes", quota);
        cli_json_name(&cli->out, "used_percent");
        json_append_double(&cli->out, percent);
        cli_json_unsigned(&cli->out, "shard", cli_field_number(map, "shard"));
        cli_json_unsigned(&cli->out, "leader", cli_field_number(map, "leader"));
        cli_json_close(cli);
        return;
    }
    cli_print(cli, "project  ");
    cli_put_readable(cli, text);
    cli_print(cli, "\nkeys     %s\n", units_format_count(keys, count));
    cli_print(cli, "used     %s of %s (%.1f %%)\n", units_format_size(used, used_text),
              units_format_size(quota, quota_text), percent);
    cli_print(cli, "shard    %" PRIu64 ", led by node %" PRIu64 "\n",
              cli_field_number(map, "shard"), cli_field_number(map, "leader"));
}

int run_project_info(struct cli *cli, const struct arguments *arguments) {
    struct words words = {.argc = 0};
    ikv_reply *reply = NULL;
    add(&words, "PROJECT");
    add(&words, "INFO");
    if (arguments->n_words > 0) {
        add(&words, arguments->words[0]);
    }
    int code = cli_call(cli, words.argc, words.argv, &reply);
    if (code == EXIT_OK) {
        print_info(cli, ikv_reply_value(reply));
    }
    ikv_reply_free(reply);
    return code;
}

int run_project_delete(struct cli *cli, const struct arguments *arguments) {
    const char *name = arguments->words[0];
    char question[768];
    ikv_reply *reply = NULL;
    ikv_bytes words[] = {ikv_text("PROJECT"), ikv_text("DELETE"), ikv_text(name)};
    if (argument_option(arguments, "yes") == NULL) {
        snprintf(question, sizeof question, "Delete project %s with all its keys and tokens?",
                 name);
        int code = cli_confirm(cli, question);
        if (code != EXIT_OK) {
            return code;
        }
    }
    int code = cli_call_node(cli, NULL, 3, words, &reply);
    if (code == EXIT_OK) {
        bool deleted = ikv_reply_value(reply)->integer > 0;
        print_done(cli, name, "deleted", deleted);
        if (!deleted) {
            cli_note(cli, "invoke-kv: there is no project %s", name);
            code = EXIT_NO;
        }
    }
    ikv_reply_free(reply);
    return code;
}

int run_project_quota(struct cli *cli, const struct arguments *arguments) {
    char number[NUMBER_SIZE];
    ikv_reply *reply = NULL;
    int code = read_quota(cli, arguments->words[1], number);
    if (code == EXIT_OK) {
        ikv_bytes words[] = {ikv_text("PROJECT"), ikv_text("SET-QUOTA"),
                             ikv_text(arguments->words[0]), ikv_text(number)};
        code = cli_call_node(cli, NULL, 4, words, &reply);
    }
    if (code == EXIT_OK) {
        print_done(cli, arguments->words[0], "changed", true);
    }
    ikv_reply_free(reply);
    return code;
}

int run_token_add(struct cli *cli, const struct arguments *arguments) {
    const char *name = arguments->words[0];
    const char *access = access_word(cli, arguments->words[1]);
    char expires[NUMBER_SIZE];
    struct words words = {.argc = 0};
    ikv_reply *reply = NULL;
    if (access == NULL) {
        return EXIT_USAGE;
    }
    add(&words, "PROJECT");
    add(&words, "TOKEN");
    add(&words, "ADD");
    add(&words, name);
    add(&words, access);
    int code = add_expires(cli, arguments, &words, expires);
    code = code == EXIT_OK ? cli_call_node(cli, NULL, words.argc, words.argv, &reply) : code;
    if (code == EXIT_OK) {
        print_token(cli, name, cli_slice(ikv_reply_value(reply)));
    }
    ikv_reply_free(reply);
    return code;
}

static void print_time(struct cli *cli, uint64_t unix_ms) {
    char text[32];
    struct tm parts;
    time_t seconds = (time_t)(unix_ms / 1000);
    if (unix_ms == 0 || gmtime_r(&seconds, &parts) == NULL ||
        strftime(text, sizeof text, "%Y-%m-%d %H:%M UTC", &parts) == 0) {
        snprintf(text, sizeof text, "%s", "never");
    }
    cli_print(cli, "%-22s", text);
}

static void print_listed_token(struct cli *cli, const ikv_value *map, bool is_first) {
    const ikv_value *id = cli_field(map, "id");
    const ikv_value *access = cli_field(map, "access");
    struct slice id_text = id != NULL ? cli_slice(id) : slice_of("?");
    struct slice access_text = access != NULL ? cli_slice(access) : slice_of("?");
    uint64_t created = cli_field_number(map, "created_ms");
    uint64_t expires = cli_field_number(map, "expires_ms");
    if (cli->json) {
        if (!is_first) {
            buffer_put_u8(&cli->out, ',');
        }
        cli_json_open(cli);
        cli_json_bytes(&cli->out, "id", id_text);
        cli_json_bytes(&cli->out, "access", access_text);
        cli_json_unsigned(&cli->out, "created_ms", created);
        cli_json_name(&cli->out, "expires_ms");
        if (expires == 0) {
            json_append_text(&cli->out, "null");
        } else {
            json_append_unsigned(&cli->out, expires);
        }
        buffer_put_u8(&cli->out, '}');
        return;
    }
    cli_put_readable(cli, id_text);
    cli_print(cli, "  %-10.*s  ", (int)access_text.size, (const char *)access_text.data);
    print_time(cli, created);
    print_time(cli, expires);
    cli_put(cli, "\n", 1);
}

int run_token_list(struct cli *cli, const struct arguments *arguments) {
    ikv_reply *reply = NULL;
    ikv_bytes words[] = {ikv_text("PROJECT"), ikv_text("TOKEN"), ikv_text("LIST"),
                         ikv_text(arguments->words[0])};
    int code = cli_call_node(cli, NULL, 4, words, &reply);
    if (code != EXIT_OK) {
        return code;
    }
    const ikv_value *list = ikv_reply_value(reply);
    if (cli->json) {
        json_append_text(&cli->out, "{\"tokens\":[");
    } else if (list->type == IKV_ARRAY && list->size > 0) {
        cli_print(cli, "%-16s  %-10s  %-22s%s\n", "ID", "ACCESS", "MADE", "ENDS");
    }
    for (size_t i = 0; list->type == IKV_ARRAY && i < list->size; i++) {
        print_listed_token(cli, &list->elements[i], i == 0);
    }
    if (cli->json) {
        json_append_text(&cli->out, "]}\n");
    }
    ikv_reply_free(reply);
    return EXIT_OK;
}

int run_token_revoke(struct cli *cli, const struct arguments *arguments) {
    ikv_reply *reply = NULL;
    ikv_bytes words[] = {ikv_text("PROJECT"), ikv_text("TOKEN"), ikv_text("REVOKE"),
                         ikv_text(arguments->words[0]), ikv_text(arguments->words[1])};
    int code = cli_call_node(cli, NULL, 5, words, &reply);
    if (code == EXIT_OK) {
        bool revoked = ikv_reply_value(reply)->integer > 0;
        print_done(cli, arguments->words[0], "revoked", revoked);
        if (!revoked) {
            cli_note(cli, "invoke-kv: project %s has no such token", arguments->words[0]);
            code = EXIT_NO;
        }
    }
    ikv_reply_free(reply);
    return code;
}
