/* export: keys in portions, each key's value and expiry read at one instant. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "client/cli/commands.h"
#include "client/cli/entries.h"
#include "client/cli/progress.h"
#include "client/cli/walk.h"

enum { BATCH_KEYS = 200, FLUSH_SIZE = 1024 * 1024 };

/* What a transaction answers is bounded by the server (60 MiB); with values of a usual size two
 * hundred fit. Those that do not are read one by one. */

struct target {
    int file;
    char *path;      /* NULL: standard output */
    char *temporary; /* beside it */
    struct buffer out;
};

struct exporting {
    struct cli *cli;
    enum entries_form form;
    struct target target;
    struct buffer keys[BATCH_KEYS];
    size_t n_keys;
    struct progress progress;
    struct progress_state state;
    uint64_t n_dropped_expiries;
};

/* --- where it goes ---------------------------------------------------------------------------- */

static int open_target(const struct cli *cli, struct target *target, const char *path) {
    target->file = STDOUT_FILENO;
    if (path == NULL || strcmp(path, "-") == 0) {
        return EXIT_OK;
    }
    size_t size = strlen(path) + 32;
    target->path = mem_strdup(path);
    target->temporary = mem_alloc(size);
    snprintf(target->temporary, size, "%s.%ld.partial", path, (long)getpid());
    target->file = open(target->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (target->file < 0) {
        return cli_fail(cli, EXIT_LOCAL, "cannot write %s: %s", target->temporary, strerror(errno));
    }
    return EXIT_OK;
}

static int flush_target(struct cli *cli, struct target *target) {
    size_t at = 0;
    while (at < target->out.size) {
        ssize_t n = write(target->file, target->out.data + at, target->out.size - at);
        if (n >= 0) {
            at += (size_t)n;
        } else if (errno != EINTR) {
            return cli_fail(cli, EXIT_LOCAL, "cannot write: %s", strerror(errno));
        }
    }
    target->out.size = 0;
    return EXIT_OK;
}

/* The usual permissions of a new file, which mkstemp-like modes do not have. */
static mode_t usual_mode(void) {
    mode_t mask = umask(0);
    umask(mask);
    return 0666 & ~mask;
}

static int finish_target(struct cli *cli, struct target *target) {
    int code = flush_target(cli, target);
    if (code != EXIT_OK || target->path == NULL) {
        return code;
    }
    if (fchmod(target->file, usual_mode()) != 0 || fsync(target->file) != 0 ||
        rename(target->temporary, target->path) != 0) {
        return cli_fail(cli, EXIT_LOCAL, "cannot write %s: %s", target->path, strerror(errno));
    }
    mem_free(target->temporary);
    target->temporary = NULL;
    return EXIT_OK;
}

static void close_target(struct target *target) {
    if (target->temporary != NULL && target->file >= 0) {
        unlink(target->temporary);
    }
    if (target->file > STDOUT_FILENO) {
        close(target->file);
    }
    mem_free(target->temporary);
    mem_free(target->path);
    buffer_free(&target->out);
}

/* --- what it holds ---------------------------------------------------------------------------- */

static int write_entry(struct exporting *exporting, const struct buffer *key,
                       const ikv_value *value, const ikv_value *ttl) {
    struct cli *cli = exporting->cli;
    struct error error = {0};
    if (value->type == IKV_NIL) {
        return EXIT_OK; /* it went after its name was listed */
    }
    if (value->type != IKV_STRING || ttl->type != IKV_INTEGER) {
        struct slice text = cli_slice(value->type != IKV_STRING ? value : ttl);
        return cli_fail(cli, EXIT_REFUSED, "cannot read a key: %.*s", (int)text.size,
                        (const char *)text.data);
    }
    struct entry entry = {.key = buffer_slice(key),
                          .value = cli_slice(value),
                          .ttl_ms = ttl->integer > 0 ? ttl->integer : 0};
    bool is_first = exporting->state.count == 0;
    if (entries_write(&exporting->target.out, exporting->form, &entry, is_first, &error) !=
        ERROR_NONE) {
        return cli_fail(cli, EXIT_LOCAL, "%s", error.message);
    }
    exporting->n_dropped_expiries += exporting->form != ENTRIES_LINES && entry.ttl_ms > 0;
    exporting->state.count++;
    exporting->state.done++;
    exporting->state.bytes += entry.key.size + entry.value.size;
    progress_tell(&exporting->progress, &exporting->state);
    return exporting->target.out.size < FLUSH_SIZE ? EXIT_OK
                                                   : flush_target(cli, &exporting->target);
}

/* Value and expiry of n keys at one instant. */
static int read_keys(struct exporting *exporting, const struct buffer *keys, size_t n,
                     ikv_reply **reply) {
    struct cli *cli = exporting->cli;
    ikv_transaction *transaction = ikv_transaction_new(cli->project);
    int error = transaction != NULL ? IKV_OK : IKV_ERR_NOMEM;
    *reply = NULL;
    for (size_t i = 0; i < n && error == IKV_OK; i++) {
        ikv_bytes key = ikv_bytes_of(keys[i].data, keys[i].size);
        ikv_bytes get[] = {ikv_text("GET"), key};
        ikv_bytes pttl[] = {ikv_text("PTTL"), key};
        error = ikv_transaction_add(transaction, 2, get);
        error = error == IKV_OK ? ikv_transaction_add(transaction, 2, pttl) : error;
    }
    error = error == IKV_OK ? ikv_transaction_run(transaction, 0, reply) : error;
    ikv_transaction_free(transaction);
    if (error != IKV_OK) {
        return cli_fail_reply(cli, error, *reply, "reading keys");
    }
    const ikv_value *value = ikv_reply_value(*reply);
    return value->type == IKV_ARRAY && value->size == 2 * n
               ? EXIT_OK
               : cli_fail(cli, EXIT_UNREACHABLE, "a transaction answered nonsense");
}

static int export_one(struct exporting *exporting, const struct buffer *key) {
    ikv_reply *reply;
    int code = read_keys(exporting, key, 1, &reply);
    if (code == EXIT_OK) {
        const ikv_value *elements = ikv_reply_value(reply)->elements;
        code = write_entry(exporting, key, &elements[0], &elements[1]);
    }
    ikv_reply_free(reply);
    return code;
}

static int export_batch(struct exporting *exporting) {
    ikv_reply *reply = NULL;
    size_t n = exporting->n_keys;
    exporting->n_keys = 0;
    if (n == 0) {
        return EXIT_OK;
    }
    int code = read_keys(exporting, exporting->keys, n, &reply);
    for (size_t i = 0; i < n && code == EXIT_OK; i++) {
        const ikv_value *pair = &ikv_reply_value(reply)->elements[2 * i];
        bool found_no_room = pair[0].type == IKV_ERROR || pair[1].type == IKV_ERROR;
        code = found_no_room ? export_one(exporting, &exporting->keys[i])
                             : write_entry(exporting, &exporting->keys[i], &pair[0], &pair[1]);
    }
    ikv_reply_free(reply);
    if (code == EXIT_OK && cli_interrupted) {
        code = cli_fail(exporting->cli, EXIT_INTERRUPTED, "interrupted");
    }
    return code;
}

static int note_key(void *data, struct slice key) {
    struct exporting *exporting = data;
    struct buffer *slot = &exporting->keys[exporting->n_keys++];
    slot->size = 0;
    buffer_append_slice(slot, key);
    return exporting->n_keys < BATCH_KEYS ? EXIT_OK : export_batch(exporting);
}

static int export_keys(struct exporting *exporting, const char *prefix) {
    struct walk walk = {.prefix = slice_of(prefix)};
    struct buffer *out = &exporting->target.out;
    int code = EXIT_OK;
    entries_write_header(out, exporting->form);
    while (code == EXIT_OK && !walk.is_done) {
        code = walk_next(exporting->cli, &walk, note_key, exporting);
    }
    walk_free(&walk);
    code = code == EXIT_OK ? export_batch(exporting) : code;
    if (code == EXIT_OK) {
        entries_write_end(out, exporting->form, exporting->state.count);
        code = finish_target(exporting->cli, &exporting->target);
    }
    return code;
}

static bool has_suffix(const char *path, const char *suffix) {
    size_t size = strlen(path);
    size_t suffix_size = strlen(suffix);
    return size >= suffix_size && strcmp(path + size - suffix_size, suffix) == 0;
}

static int choose_form(const struct cli *cli, const struct arguments *arguments,
                       enum entries_form *form) {
    const char *path = arguments->n_words > 0 ? arguments->words[0] : "-";
    const char *text = argument_option(arguments, "format");
    bool is_lines = has_suffix(path, ".jsonl") || has_suffix(path, ".ndjson");
    *form = is_lines ? ENTRIES_LINES : ENTRIES_OBJECT;
    if (text != NULL) {
        *form = strcmp(text, "lines") == 0 ? ENTRIES_LINES : ENTRIES_OBJECT;
        if (*form == ENTRIES_OBJECT && strcmp(text, "object") != 0) {
            return cli_fail(cli, EXIT_USAGE, "--format is object or lines, not '%s'", text);
        }
    }
    return EXIT_OK;
}

static void report(struct exporting *exporting, const char *path) {
    struct cli *cli = exporting->cli;
    if (exporting->n_dropped_expiries > 0) {
        cli_note(cli,
                 "invoke-kv: %llu keys have an expiry, which this form cannot hold; --format "
                 "lines keeps it",
                 (unsigned long long)exporting->n_dropped_expiries);
    }
    if (cli->json && exporting->target.path != NULL) {
        cli_json_open(cli);
        cli_json_text(&cli->out, "file", path);
        cli_json_unsigned(&cli->out, "exported", exporting->state.count);
        cli_json_unsigned(&cli->out, "bytes", exporting->state.bytes);
        cli_json_unsigned(&cli->out, "expiries_left_out", exporting->n_dropped_expiries);
        cli_json_close(cli);
    }
}

/* How many keys there will be about, for the bar; 0 when a prefix or the server hides it. */
static uint64_t count_keys(struct cli *cli, const char *prefix) {
    ikv_usage usage;
    bool known = *prefix == '\0' && ikv_get_usage(cli->project, 0, &usage) == IKV_OK;
    return known ? usage.keys : 0;
}

int run_export(struct cli *cli, const struct arguments *arguments) {
    const char *path = arguments->n_words > 0 ? arguments->words[0] : NULL;
    const char *prefix = argument_option(arguments, "prefix");
    struct exporting *exporting = mem_zalloc(1, sizeof *exporting);
    exporting->cli = cli;
    prefix = prefix != NULL ? prefix : "";
    int code = choose_form(cli, arguments, &exporting->form);
    if (code == EXIT_OK) {
        code = progress_start(&exporting->progress, cli, argument_option(arguments, "progress"),
                              "exported", "keys");
    }
    if (code == EXIT_OK) {
        cli_catch_signals();
        code = open_target(cli, &exporting->target, path);
    }
    if (code == EXIT_OK) {
        exporting->state.total = count_keys(cli, prefix);
        code = export_keys(exporting, prefix);
        progress_end(&exporting->progress, &exporting->state, code != EXIT_OK);
    }
    if (code == EXIT_OK) {
        report(exporting, path);
    }
    close_target(&exporting->target);
    for (size_t i = 0; i < BATCH_KEYS; i++) {
        buffer_free(&exporting->keys[i]);
    }
    mem_free(exporting);
    return code;
}
