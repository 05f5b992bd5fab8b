/* import: merge in portions, or replace in one transaction. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "client/cli/commands.h"
#include "client/cli/entries.h"
#include "client/cli/progress.h"
#include "client/cli/read_file.h"

enum {
    BATCH_KEYS = 1000,
    BATCH_BYTES = 1024 * 1024,
    /* Bounds of a transaction: commands of the library's, words of the server's. FLUSHDB and MSET
     * are one command each, MSET takes two words for a key, SET with an expiry five. */
    REPLACE_EXPIRING = 9000,
    REPLACE_WORDS = 65000,
    /* A portion may have to wait for a new leader, or for a value of many MiB. */
    BATCH_TIMEOUT_MS = 60000
};

/* No server takes a longer request; the usual limit, max_value + 512 KiB, is the server's to tell.
 */
#define REPLACE_BYTES (LIMIT_VALUE_SIZE_MAX + MIB)

struct importing {
    struct cli *cli;
    const char *name; /* of the file */
    int file;
    struct entries entries;
    struct progress progress;
    struct progress_state state;
    uint32_t timeout_ms;
};

static ssize_t read_source(void *data, void *buffer, size_t size) {
    const struct importing *importing = data;
    return file_read(importing->file, buffer, size);
}

static int fail_entries(const struct importing *importing, const struct error *error) {
    if (cli_interrupted) {
        return cli_fail(importing->cli, EXIT_INTERRUPTED, "interrupted");
    }
    return cli_fail(importing->cli, EXIT_LOCAL, "%s: %s", importing->name, error->message);
}

static int next_entry(struct importing *importing, struct entry *entry, bool *found) {
    struct error error = {0};
    if (entries_next(&importing->entries, entry, found, &error) != ERROR_NONE) {
        return fail_entries(importing, &error);
    }
    importing->state.done = entries_passed(&importing->entries);
    return EXIT_OK;
}

static int add_set(ikv_transaction *transaction, const struct entry *entry) {
    char number[24];
    ikv_bytes words[] = {ikv_text("SET"), ikv_bytes_of(entry->key.data, entry->key.size),
                         ikv_bytes_of(entry->value.data, entry->value.size), ikv_text("PX"),
                         ikv_bytes_of(number, 0)};
    int size = snprintf(number, sizeof number, "%" PRId64, entry->ttl_ms);
    words[4] = ikv_bytes_of(number, (size_t)size);
    return ikv_transaction_add(transaction, entry->ttl_ms > 0 ? 5 : 3, words);
}

/* --- merge ------------------------------------------------------------------------------------ */

/* One portion: a transaction of SETs in the order of the file, so that of several values for a key
 * the last one stays. */
struct batch {
    ikv_transaction *transaction;
    uint64_t count;
    uint64_t bytes;
};

static void tell_how_far(const struct importing *importing) {
    cli_note(importing->cli,
             "invoke-kv: %" PRIu64 " keys of the file are stored; when the cause is "
             "gone, run the import again",
             importing->state.count);
}

/* What each SET of a portion answered; counts those that are stored. */
static int check_results(struct importing *importing, const struct batch *batch,
                         const ikv_value *value) {
    if (value->type != IKV_ARRAY || value->size != batch->count) {
        return cli_fail(importing->cli, EXIT_UNREACHABLE, "a transaction answered nonsense");
    }
    int code = EXIT_OK;
    for (size_t i = 0; i < value->size; i++) {
        if (value->elements[i].type != IKV_ERROR) {
            importing->state.count++;
        } else if (code == EXIT_OK) {
            struct slice text = cli_slice(&value->elements[i]);
            code = cli_fail(importing->cli, EXIT_REFUSED, "before line %" PRIu64 ": %.*s",
                            importing->entries.line + 1, (int)text.size, (const char *)text.data);
        }
    }
    return code;
}

static int run_batch(struct importing *importing, struct batch *batch) {
    ikv_reply *reply = NULL;
    if (batch->count == 0) {
        return EXIT_OK;
    }
    int error = ikv_transaction_run(batch->transaction, importing->timeout_ms, &reply);
    int code = error == IKV_OK ? check_results(importing, batch, ikv_reply_value(reply))
                               : cli_fail_reply(importing->cli, error, reply, importing->name);
    if (code == EXIT_OK) {
        importing->state.bytes += batch->bytes;
        progress_tell(&importing->progress, &importing->state);
    }
    ikv_reply_free(reply);
    ikv_transaction_free(batch->transaction);
    *batch = (struct batch){.transaction = NULL};
    if (code == EXIT_OK && cli_interrupted) {
        code = cli_fail(importing->cli, EXIT_INTERRUPTED, "interrupted");
    }
    return code;
}

static int merge_entry(struct importing *importing, struct batch *batch,
                       const struct entry *entry) {
    size_t size = entry->key.size + entry->value.size;
    int code = EXIT_OK;
    /* A large value goes alone: with others it could be more than a transaction holds. */
    if (batch->count == BATCH_KEYS || (batch->count > 0 && batch->bytes + size > BATCH_BYTES)) {
        code = run_batch(importing, batch);
    }
    if (code != EXIT_OK) {
        return code;
    }
    if (batch->transaction == NULL) {
        batch->transaction = ikv_transaction_new(importing->cli->project);
    }
    int error = batch->transaction != NULL ? add_set(batch->transaction, entry) : IKV_ERR_NOMEM;
    if (error != IKV_OK) {
        return cli_fail_reply(importing->cli, error, NULL, importing->name);
    }
    batch->count++;
    batch->bytes += size;
    return EXIT_OK;
}

static int merge(struct importing *importing) {
    struct batch batch = {.transaction = NULL};
    struct entry entry;
    bool found = true;
    int code = EXIT_OK;
    while (code == EXIT_OK && found) {
        code = next_entry(importing, &entry, &found);
        if (code == EXIT_OK && found) {
            code = merge_entry(importing, &batch, &entry);
        }
    }
    if (code == EXIT_OK) {
        code = run_batch(importing, &batch);
    }
    ikv_transaction_free(batch.transaction);
    if (code != EXIT_OK) {
        tell_how_far(importing);
    }
    return code;
}

static int check_only(struct importing *importing) {
    struct entry entry;
    bool found = true;
    int code = EXIT_OK;
    while (code == EXIT_OK && found && !cli_interrupted) {
        code = next_entry(importing, &entry, &found);
        if (code == EXIT_OK && found) {
            importing->state.count++;
            importing->state.bytes += entry.key.size + entry.value.size;
            progress_tell(&importing->progress, &importing->state);
        }
    }
    return code == EXIT_OK && cli_interrupted ? EXIT_INTERRUPTED : code;
}

/* --- replace ---------------------------------------------------------------------------------- */

struct kept {
    struct buffer key;
    struct buffer value;
    int64_t ttl_ms;
    size_t order;
};

struct replacement {
    struct kept *kept;
    size_t count;
    size_t capacity;
    uint64_t bytes;
    size_t n_expiring;
};

static void replacement_free(struct replacement *all) {
    for (size_t i = 0; i < all->count; i++) {
        buffer_free(&all->kept[i].key);
        buffer_free(&all->kept[i].value);
    }
    mem_free(all->kept);
}

static void keep(struct replacement *all, const struct entry *entry) {
    if (all->count == all->capacity) {
        all->capacity = all->capacity > 0 ? 2 * all->capacity : 1024;
        all->kept = mem_realloc(all->kept, all->capacity * sizeof *all->kept);
    }
    struct kept *kept = &all->kept[all->count];
    *kept = (struct kept){.ttl_ms = entry->ttl_ms, .order = all->count};
    buffer_append_slice(&kept->key, entry->key);
    buffer_append_slice(&kept->value, entry->value);
    all->count++;
    all->bytes += entry->key.size + entry->value.size;
}

static int compare_kept(const void *a, const void *b) {
    const struct kept *first = a;
    const struct kept *second = b;
    int order = slice_compare(buffer_slice(&first->key), buffer_slice(&second->key));
    return order != 0 ? order : (first->order > second->order) - (first->order < second->order);
}

/* Of several values for a key the last one stays, as in a merge. With one of each the sum of bytes
 * is exactly what the project will hold. */
static void drop_repeated(struct replacement *all) {
    size_t n = 0;
    if (all->count > 0) {
        qsort(all->kept, all->count, sizeof *all->kept, compare_kept);
    }
    all->bytes = 0;
    all->n_expiring = 0;
    for (size_t i = 0; i < all->count; i++) {
        bool is_last = i + 1 == all->count || !slice_equal(buffer_slice(&all->kept[i].key),
                                                           buffer_slice(&all->kept[i + 1].key));
        if (!is_last) {
            buffer_free(&all->kept[i].key);
            buffer_free(&all->kept[i].value);
            continue;
        }
        all->bytes += all->kept[i].key.size + all->kept[i].value.size;
        all->n_expiring += all->kept[i].ttl_ms > 0;
        all->kept[n++] = all->kept[i];
    }
    all->count = n;
}

static size_t words_of(const struct replacement *all) {
    return 2 * all->count + 3 * all->n_expiring;
}

static int fail_size(const struct importing *importing, const char *what) {
    return cli_fail(importing->cli, EXIT_REFUSED,
                    "%s: %s: more than one transaction can replace; nothing was touched. Use "
                    "--strategy merge, into an empty project if nothing else may stay",
                    importing->name, what);
}

static int read_all(struct importing *importing, struct replacement *all) {
    struct entry entry;
    bool found = true;
    int code = EXIT_OK;
    while (code == EXIT_OK && found) {
        code = next_entry(importing, &entry, &found);
        if (code == EXIT_OK && found) {
            keep(all, &entry);
        }
        if (code == EXIT_OK && all->bytes > REPLACE_BYTES) {
            drop_repeated(all);
            code = all->bytes > REPLACE_BYTES ? fail_size(importing, "more than 65 MiB") : code;
        }
        if (code == EXIT_OK && all->count > REPLACE_WORDS) {
            drop_repeated(all);
            code = all->count > REPLACE_WORDS ? fail_size(importing, "too many keys") : code;
        }
    }
    drop_repeated(all);
    if (code == EXIT_OK && all->n_expiring > REPLACE_EXPIRING) {
        code = fail_size(importing, "more than 9,000 keys with an expiry");
    }
    if (code == EXIT_OK && words_of(all) > REPLACE_WORDS) {
        code = fail_size(importing, "too many keys");
    }
    return code;
}

/* Without authentication a write makes the project, with the default quota. That is the server's to
 * know, so the project is made before. */
static int make_project(const struct importing *importing) {
    struct cli *cli = importing->cli;
    ikv_reply *reply = NULL;
    ikv_bytes words[] = {ikv_text("PROJECT"), ikv_text("CREATE"),
                         ikv_text(ikv_project_name(cli->project))};
    int code = cli_call_node(cli, NULL, 3, words, &reply);
    ikv_reply_free(reply);
    return code;
}

static int ask_quota(const struct importing *importing, bool may_make, uint64_t *quota) {
    struct cli *cli = importing->cli;
    ikv_reply *reply = NULL;
    ikv_bytes words[] = {ikv_text("PROJECT"), ikv_text("INFO")};
    int error = ikv_command(cli->project, 2, words, 0, &reply);
    int code = EXIT_OK;
    if (error == IKV_OK) {
        *quota = cli_field_number(ikv_reply_value(reply), "quota_bytes");
    } else if (may_make && cli_is_no_project(reply)) {
        code = make_project(importing);
        code = code == EXIT_OK ? ask_quota(importing, false, quota) : code;
    } else {
        code = cli_fail_reply(cli, error, reply, NULL);
    }
    ikv_reply_free(reply);
    return code;
}

/* The quota must hold before FLUSHDB is sent: within the transaction it would go first. */
static int check_quota(const struct importing *importing, const struct replacement *all) {
    struct cli *cli = importing->cli;
    uint64_t quota = 0;
    int code = ask_quota(importing, cli->connection.user == NULL, &quota);
    if (code != EXIT_OK) {
        return code;
    }
    if (all->bytes > quota) {
        return cli_fail(cli, EXIT_REFUSED,
                        "%s has %" PRIu64 " bytes of keys and values, the quota of project %s is "
                        "%" PRIu64 "; nothing was touched. Raise it: invoke-kv project quota",
                        importing->name, all->bytes, ikv_project_name(cli->project), quota);
    }
    return EXIT_OK;
}

static int add_mset(ikv_transaction *transaction, const struct replacement *all) {
    size_t n = all->count - all->n_expiring;
    size_t argc = 1;
    if (n == 0) {
        return IKV_OK;
    }
    ikv_bytes *argv = mem_alloc((2 * n + 1) * sizeof *argv);
    argv[0] = ikv_text("MSET");
    for (size_t i = 0; i < all->count; i++) {
        const struct kept *kept = &all->kept[i];
        if (kept->ttl_ms == 0) {
            argv[argc++] = ikv_bytes_of(kept->key.data, kept->key.size);
            argv[argc++] = ikv_bytes_of(kept->value.data, kept->value.size);
        }
    }
    int error = ikv_transaction_add(transaction, argc, argv);
    mem_free(argv);
    return error;
}

static int add_all(ikv_transaction *transaction, const struct replacement *all) {
    ikv_bytes flush[] = {ikv_text("FLUSHDB")};
    int error = ikv_transaction_add(transaction, 1, flush);
    error = error == IKV_OK ? add_mset(transaction, all) : error;
    for (size_t i = 0; i < all->count && error == IKV_OK; i++) {
        const struct kept *kept = &all->kept[i];
        if (kept->ttl_ms > 0) {
            struct entry entry = {buffer_slice(&kept->key), buffer_slice(&kept->value),
                                  kept->ttl_ms};
            error = add_set(transaction, &entry);
        }
    }
    return error;
}

static int check_replaced(const struct importing *importing, const ikv_value *value) {
    for (size_t i = 0; value->type == IKV_ARRAY && i < value->size; i++) {
        if (value->elements[i].type == IKV_ERROR) {
            struct slice text = cli_slice(&value->elements[i]);
            return cli_fail(importing->cli, EXIT_REFUSED,
                            "the project was cleared, but a part of the file was refused, since "
                            "its quota or limits changed at this moment: %.*s",
                            (int)text.size, (const char *)text.data);
        }
    }
    return value->type == IKV_ARRAY
               ? EXIT_OK
               : cli_fail(importing->cli, EXIT_UNREACHABLE, "a transaction answered nonsense");
}

static int run_replacement(struct importing *importing, const struct replacement *all) {
    ikv_reply *reply = NULL;
    ikv_transaction *transaction = ikv_transaction_new(importing->cli->project);
    int error = transaction != NULL ? add_all(transaction, all) : IKV_ERR_NOMEM;
    if (error == IKV_OK) {
        error = ikv_transaction_run(transaction, importing->timeout_ms, &reply);
    }
    int code = EXIT_OK;
    if (error == IKV_ERR_TOO_BIG) {
        code = fail_size(importing, reply != NULL ? ikv_reply_message(reply) : "too large");
    } else if (error != IKV_OK) {
        code = cli_fail_reply(importing->cli, error, reply, importing->name);
    } else {
        code = check_replaced(importing, ikv_reply_value(reply));
    }
    ikv_reply_free(reply);
    ikv_transaction_free(transaction);
    return code;
}

static int replace(struct importing *importing, bool is_dry, bool is_sure) {
    struct replacement all = {.kept = NULL};
    char question[768];
    int code = read_all(importing, &all);
    if (code == EXIT_OK && !is_dry) {
        code = check_quota(importing, &all);
    }
    if (code == EXIT_OK && !is_dry && !is_sure) {
        snprintf(question, sizeof question, "Replace all keys of project %s by %zu of the file?",
                 ikv_project_name(importing->cli->project), all.count);
        code = cli_confirm(importing->cli, question);
    }
    if (code == EXIT_OK && !is_dry) {
        code = run_replacement(importing, &all);
    }
    if (code == EXIT_OK) {
        importing->state.count = all.count;
        importing->state.bytes = all.bytes;
    }
    replacement_free(&all);
    return code;
}

/* --- the command ------------------------------------------------------------------------------ */

static bool has_suffix(const char *path, const char *suffix) {
    size_t size = strlen(path);
    size_t suffix_size = strlen(suffix);
    return size >= suffix_size && strcmp(path + size - suffix_size, suffix) == 0;
}

static int choose_form(const struct cli *cli, const struct arguments *arguments, const char *path,
                       enum entries_form *form) {
    const char *text = argument_option(arguments, "format");
    bool is_lines = path != NULL && (has_suffix(path, ".jsonl") || has_suffix(path, ".ndjson"));
    if (text == NULL || strcmp(text, "auto") == 0) {
        *form = is_lines ? ENTRIES_LINES : ENTRIES_AUTO;
    } else if (strcmp(text, "lines") == 0) {
        *form = ENTRIES_LINES;
    } else if (strcmp(text, "object") == 0) {
        *form = ENTRIES_OBJECT;
    } else {
        return cli_fail(cli, EXIT_USAGE, "--format is auto, object or lines, not '%s'", text);
    }
    return EXIT_OK;
}

static int choose_strategy(const struct cli *cli, const struct arguments *arguments,
                           bool *replaces) {
    const char *text = argument_option(arguments, "strategy");
    *replaces = text != NULL && strcmp(text, "replace") == 0;
    if (text != NULL && !*replaces && strcmp(text, "merge") != 0) {
        return cli_fail(cli, EXIT_USAGE, "--strategy is merge or replace, not '%s'", text);
    }
    return EXIT_OK;
}

static void report(struct importing *importing, bool replaces, bool is_dry) {
    struct cli *cli = importing->cli;
    if (cli->json) {
        cli_json_open(cli);
        cli_json_unsigned(&cli->out, is_dry ? "checked" : "imported", importing->state.count);
        cli_json_unsigned(&cli->out, "bytes", importing->state.bytes);
        cli_json_text(&cli->out, "strategy", replaces ? "replace" : "merge");
        cli_json_close(cli);
    }
}

static int import(struct importing *importing, const struct arguments *arguments, bool replaces) {
    bool is_dry = argument_option(arguments, "dry-run") != NULL;
    bool is_sure = argument_option(arguments, "yes") != NULL;
    int code = replaces ? replace(importing, is_dry, is_sure)
               : is_dry ? check_only(importing)
                        : merge(importing);
    if (code == EXIT_OK) {
        importing->state.done = importing->state.total;
    }
    progress_end(&importing->progress, &importing->state, code != EXIT_OK);
    if (code == EXIT_OK) {
        report(importing, replaces, is_dry);
    }
    return code;
}

int run_import(struct cli *cli, const struct arguments *arguments) {
    const char *path = arguments->n_words > 0 ? arguments->words[0] : NULL;
    enum entries_form form = ENTRIES_AUTO;
    bool replaces = false;
    struct importing importing = {.cli = cli, .file = -1};
    int64_t timeout_ms = cli->connection.timeout_ms;
    importing.name = path != NULL && strcmp(path, "-") != 0 ? path : "standard input";
    importing.timeout_ms =
        (uint32_t)(timeout_ms > BATCH_TIMEOUT_MS ? timeout_ms : BATCH_TIMEOUT_MS);
    int code = choose_form(cli, arguments, path, &form);
    code = code == EXIT_OK ? choose_strategy(cli, arguments, &replaces) : code;
    if (code == EXIT_OK) {
        code = progress_start(
            &importing.progress, cli, argument_option(arguments, "progress"),
            argument_option(arguments, "dry-run") != NULL ? "checked" : "imported", "keys");
    }
    if (code == EXIT_OK) {
        cli_catch_signals();
        code = file_open(cli, path, &importing.file, &importing.state.total);
    }
    if (code == EXIT_OK) {
        entries_init(&importing.entries, form, read_source, &importing);
        code = import(&importing, arguments, replaces);
        entries_free(&importing.entries);
    }
    if (importing.file > STDIN_FILENO) {
        close(importing.file);
    }
    return code;
}
