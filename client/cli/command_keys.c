/* get, set, has, delete, clear, incr, ttl, usage. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/limits.h"
#include "base/mem.h"
#include "client/cli/keys.h"
#include "client/cli/read_file.h"
#include "client/cli/units.h"

int key_read(const struct cli *cli, const struct arguments *arguments, const char *word,
             bool may_be_empty, struct buffer *out) {
    if (argument_option(arguments, "key-base64") == NULL) {
        buffer_append(out, word, strlen(word));
    } else if (!base64_decode(slice_of(word), out)) {
        return cli_fail(cli, EXIT_USAGE, "'%s' is not base64", word);
    }
    if (out->size > LIMIT_KEY_SIZE || (out->size == 0 && !may_be_empty)) {
        return cli_fail(cli, EXIT_USAGE, "a key has 1 to %d bytes, not %zu", LIMIT_KEY_SIZE,
                        out->size);
    }
    return EXIT_OK;
}

ikv_bytes key_bytes(const struct buffer *buffer) {
    return ikv_bytes_of(buffer->data, buffer->size);
}

static int read_first_key(const struct cli *cli, const struct arguments *arguments,
                          struct buffer *key) {
    return key_read(cli, arguments, arguments->words[0], false, key);
}

/* Runs a command of a verb and the key, which is freed. */
static int call_key(struct cli *cli, const struct arguments *arguments, const char *verb,
                    struct buffer *key, ikv_reply **reply) {
    int code = read_first_key(cli, arguments, key);
    if (code != EXIT_OK) {
        return code;
    }
    ikv_bytes words[] = {ikv_text(verb), key_bytes(key)};
    return cli_call(cli, 2, words, reply);
}

static void print_missing(struct cli *cli, const struct buffer *key) {
    cli_json_open(cli);
    cli_json_bytes(&cli->out, "key", buffer_slice(key));
    cli_json_bool(&cli->out, "found", false);
    cli_json_close(cli);
}

/* --- get -------------------------------------------------------------------------------------- */

static void print_value(struct cli *cli, const struct buffer *key, struct slice value) {
    if (!cli->json) {
        cli_put_readable(cli, value);
        if (cli_is_terminal()) {
            cli_put(cli, "\n", 1);
        }
        return;
    }
    cli_json_open(cli);
    cli_json_bytes(&cli->out, "key", buffer_slice(key));
    cli_json_bool(&cli->out, "found", true);
    cli_json_bytes(&cli->out, "value", value);
    cli_json_close(cli);
}

static int print_got(struct cli *cli, const struct buffer *key, const ikv_reply *reply) {
    const ikv_value *value = ikv_reply_value(reply);
    if (value->type != IKV_NIL) {
        print_value(cli, key, cli_slice(value));
        return EXIT_OK;
    }
    if (cli->json) {
        print_missing(cli, key);
    } else {
        cli_note(cli, "invoke-kv: no such key");
    }
    return EXIT_NO;
}

int run_get(struct cli *cli, const struct arguments *arguments) {
    struct buffer key = {0};
    ikv_reply *reply = NULL;
    int code = call_key(cli, arguments, "GET", &key, &reply);
    if (code == EXIT_OK) {
        code = print_got(cli, &key, reply);
    }
    ikv_reply_free(reply);
    buffer_free(&key);
    return code;
}

/* --- set -------------------------------------------------------------------------------------- */

enum { SET_WORDS = 8, NUMBER_SIZE = 24 };

struct set_words {
    ikv_bytes argv[SET_WORDS];
    size_t argc;
    char ttl[NUMBER_SIZE];
};

static void add(struct set_words *words, const char *text) {
    words->argv[words->argc++] = ikv_text(text);
}

static int add_expiry(const struct cli *cli, const struct arguments *arguments,
                      struct set_words *words) {
    const char *ttl = argument_option(arguments, "ttl");
    bool keeps = argument_option(arguments, "keep-ttl") != NULL;
    int64_t ttl_ms = 0;
    if (ttl != NULL && keeps) {
        return cli_fail(cli, EXIT_USAGE, "--ttl and --keep-ttl exclude each other");
    }
    if (keeps) {
        add(words, "KEEPTTL");
    }
    if (ttl == NULL) {
        return EXIT_OK;
    }
    if (!units_parse_duration(ttl, &ttl_ms)) {
        return cli_fail(cli, EXIT_USAGE, "--ttl: '%s' is no time, such as 500ms, 90s, 5m or 12h",
                        ttl);
    }
    snprintf(words->ttl, sizeof words->ttl, "%" PRId64, ttl_ms);
    add(words, "PX");
    add(words, words->ttl);
    return EXIT_OK;
}

static int add_condition(const struct cli *cli, const struct arguments *arguments,
                         struct set_words *words) {
    bool missing = argument_option(arguments, "if-missing") != NULL;
    bool exists = argument_option(arguments, "if-exists") != NULL;
    const char *version = argument_option(arguments, "if-version");
    int64_t number;
    if (missing + exists + (version != NULL) > 1) {
        return cli_fail(cli, EXIT_USAGE,
                        "--if-missing, --if-exists and --if-version exclude each other");
    }
    if (version != NULL && !units_parse_number(version, 0, INT64_MAX, &number)) {
        return cli_fail(cli, EXIT_USAGE, "--if-version: '%s' is no version", version);
    }
    if (missing) {
        add(words, "NX");
    } else if (exists) {
        add(words, "XX");
    } else if (version != NULL) {
        add(words, "IFVER");
        add(words, version);
    }
    return EXIT_OK;
}

/* The argument, --file or standard input. */
static int read_value(const struct cli *cli, const struct arguments *arguments,
                      struct buffer *value) {
    const char *file = argument_option(arguments, "file");
    if (arguments->n_words < 2) {
        return file_read_all(cli, file, LIMIT_VALUE_SIZE_MAX, value);
    }
    if (file != NULL) {
        return cli_fail(cli, EXIT_USAGE, "a value and --file exclude each other");
    }
    buffer_append(value, arguments->words[1], strlen(arguments->words[1]));
    return EXIT_OK;
}

static int print_stored(struct cli *cli, const ikv_reply *reply) {
    bool stored = ikv_reply_value(reply)->type != IKV_NIL;
    if (cli->json) {
        cli_json_open(cli);
        cli_json_bool(&cli->out, "stored", stored);
        cli_json_close(cli);
    } else if (!stored) {
        cli_note(cli, "invoke-kv: the condition does not hold; nothing was stored");
    }
    return stored ? EXIT_OK : EXIT_NO;
}

int run_set(struct cli *cli, const struct arguments *arguments) {
    struct buffer key = {0};
    struct buffer value = {0};
    struct set_words words = {.argc = 3};
    ikv_reply *reply = NULL;
    int code = read_first_key(cli, arguments, &key);
    code = code == EXIT_OK ? add_expiry(cli, arguments, &words) : code;
    code = code == EXIT_OK ? add_condition(cli, arguments, &words) : code;
    code = code == EXIT_OK ? read_value(cli, arguments, &value) : code;
    if (code == EXIT_OK) {
        words.argv[0] = ikv_text("SET");
        words.argv[1] = key_bytes(&key);
        words.argv[2] = key_bytes(&value);
        code = cli_call(cli, words.argc, words.argv, &reply);
    }
    if (code == EXIT_OK) {
        code = print_stored(cli, reply);
    }
    ikv_reply_free(reply);
    buffer_free(&key);
    buffer_free(&value);
    return code;
}

/* --- has, delete, clear ----------------------------------------------------------------------- */

int run_has(struct cli *cli, const struct arguments *arguments) {
    struct buffer key = {0};
    ikv_reply *reply = NULL;
    int code = call_key(cli, arguments, "EXISTS", &key, &reply);
    if (code == EXIT_OK) {
        bool exists = ikv_reply_value(reply)->integer > 0;
        if (cli->json) {
            cli_json_open(cli);
            cli_json_bytes(&cli->out, "key", buffer_slice(&key));
            cli_json_bool(&cli->out, "exists", exists);
            cli_json_close(cli);
        } else {
            cli_print(cli, "%s\n", exists ? "true" : "false");
        }
        code = exists ? EXIT_OK : EXIT_NO;
    }
    ikv_reply_free(reply);
    buffer_free(&key);
    return code;
}

static int delete_keys(struct cli *cli, size_t n, const struct buffer *keys) {
    ikv_reply *reply = NULL;
    ikv_bytes *argv = mem_alloc((n + 1) * sizeof *argv);
    argv[0] = ikv_text("DEL");
    for (size_t i = 0; i < n; i++) {
        argv[i + 1] = key_bytes(&keys[i]);
    }
    int code = cli_call(cli, n + 1, argv, &reply);
    mem_free(argv);
    if (code != EXIT_OK) {
        return code;
    }
    int64_t deleted = ikv_reply_value(reply)->integer;
    ikv_reply_free(reply);
    if (cli->json) {
        cli_json_open(cli);
        cli_json_integer(&cli->out, "deleted", deleted);
        cli_json_close(cli);
    } else {
        cli_print(cli, "%" PRId64 "\n", deleted);
    }
    return deleted > 0 ? EXIT_OK : EXIT_NO;
}

int run_delete(struct cli *cli, const struct arguments *arguments) {
    enum { KEYS_MAX = 32000 };
    size_t n = (size_t)arguments->n_words;
    int code = EXIT_OK;
    if (n > KEYS_MAX) {
        return cli_fail(cli, EXIT_USAGE, "at most %d keys at once", KEYS_MAX);
    }
    struct buffer *keys = mem_zalloc(n, sizeof *keys);
    for (size_t i = 0; i < n && code == EXIT_OK; i++) {
        code = key_read(cli, arguments, arguments->words[i], false, &keys[i]);
    }
    if (code == EXIT_OK) {
        code = delete_keys(cli, n, keys);
    }
    for (size_t i = 0; i < n; i++) {
        buffer_free(&keys[i]);
    }
    mem_free(keys);
    return code;
}

int run_clear(struct cli *cli, const struct arguments *arguments) {
    char question[768];
    ikv_reply *reply = NULL;
    ikv_bytes words[] = {ikv_text("FLUSHDB")};
    if (argument_option(arguments, "yes") == NULL) {
        snprintf(question, sizeof question, "Delete all keys of project %s?",
                 ikv_project_name(cli->project));
        int code = cli_confirm(cli, question);
        if (code != EXIT_OK) {
            return code;
        }
    }
    int code = cli_call(cli, 1, words, &reply);
    if (code == EXIT_OK && cli->json) {
        cli_json_open(cli);
        cli_json_bool(&cli->out, "cleared", true);
        cli_json_close(cli);
    }
    ikv_reply_free(reply);
    return code;
}

/* --- incr, ttl, usage ------------------------------------------------------------------------- */

static void print_number(struct cli *cli, const char *name, int64_t number) {
    if (cli->json) {
        cli_json_open(cli);
        cli_json_integer(&cli->out, name, number);
        cli_json_close(cli);
    } else {
        cli_print(cli, "%" PRId64 "\n", number);
    }
}

int run_incr(struct cli *cli, const struct arguments *arguments) {
    const char *by = arguments->n_words > 1 ? arguments->words[1] : "1";
    struct buffer key = {0};
    ikv_reply *reply = NULL;
    int64_t number;
    if (!units_parse_number(by, INT64_MIN, INT64_MAX, &number)) {
        return cli_fail(cli, EXIT_USAGE, "'%s' is no whole number of 64 bits", by);
    }
    int code = read_first_key(cli, arguments, &key);
    if (code == EXIT_OK) {
        ikv_bytes words[] = {ikv_text("INCRBY"), key_bytes(&key), ikv_text(by)};
        code = cli_call(cli, 3, words, &reply);
    }
    if (code == EXIT_OK) {
        print_number(cli, "value", ikv_reply_value(reply)->integer);
    }
    ikv_reply_free(reply);
    buffer_free(&key);
    return code;
}

static int print_ttl(struct cli *cli, const struct buffer *key, int64_t ttl_ms) {
    enum { NEVER = -1, MISSING = -2 };
    if (ttl_ms == MISSING) {
        if (cli->json) {
            print_missing(cli, key);
        } else {
            cli_note(cli, "invoke-kv: no such key");
        }
        return EXIT_NO;
    }
    if (cli->json) {
        cli_json_open(cli);
        cli_json_bytes(&cli->out, "key", buffer_slice(key));
        cli_json_bool(&cli->out, "found", true);
        cli_json_name(&cli->out, "ttl_ms");
        if (ttl_ms == NEVER) {
            json_append_text(&cli->out, "null");
        } else {
            json_append_integer(&cli->out, ttl_ms);
        }
        cli_json_close(cli);
    } else if (ttl_ms == NEVER) {
        cli_print(cli, "never\n");
    } else {
        cli_print(cli, "%" PRId64 "\n", ttl_ms);
    }
    return EXIT_OK;
}

int run_ttl(struct cli *cli, const struct arguments *arguments) {
    struct buffer key = {0};
    ikv_reply *reply = NULL;
    int code = call_key(cli, arguments, "PTTL", &key, &reply);
    if (code == EXIT_OK) {
        code = print_ttl(cli, &key, ikv_reply_value(reply)->integer);
    }
    ikv_reply_free(reply);
    buffer_free(&key);
    return code;
}

int run_usage(struct cli *cli, const struct arguments *arguments) {
    struct arguments none = *arguments;
    none.n_words = 0;
    return run_project_info(cli, &none);
}
