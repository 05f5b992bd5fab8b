#include "client/cli/settings.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/mem.h"
#include "client/cli/units.h"
#include "client/include/invoke_kv.h"

enum { FILE_MAX = 64 * 1024, SECRET_MAX = 4096 };

static const char default_seeds[] = "127.0.0.1:7101,127.0.0.1:7102,127.0.0.1:7103";

static const char *const names[SETTING_COUNT] = {
#define SETTING_NAME(symbol, option, ...) option,
    SETTING_LIST(SETTING_NAME)
#undef SETTING_NAME
};

const char *setting_name(enum setting setting) {
    ASSERT(setting < SETTING_COUNT);
    return names[setting];
}

/* A secret does not stay in memory longer than it is needed. */
static void free_secret(char *text) {
    if (text != NULL) {
        explicit_bzero(text, strlen(text));
        mem_free(text);
    }
}

void settings_free(struct settings *settings) {
    for (int i = 0; i < SETTING_COUNT; i++) {
        free_secret(settings->values[i]);
    }
    *settings = (struct settings){0};
}

void settings_set(struct settings *settings, enum setting setting, const char *value,
                  enum settings_origin origin) {
    if (origin < settings->origins[setting]) {
        return;
    }
    free_secret(settings->values[setting]);
    settings->values[setting] = mem_strdup(value);
    settings->origins[setting] = origin;
}

static struct slice trim(struct slice text) {
    while (text.size > 0 && isspace(text.data[0])) {
        text.data++;
        text.size--;
    }
    while (text.size > 0 && isspace(text.data[text.size - 1])) {
        text.size--;
    }
    return text;
}

/* The names of the file have _ where options have -. */
static bool is_key(struct slice key, const char *name) {
    if (key.size != strlen(name)) {
        return false;
    }
    for (size_t i = 0; i < key.size; i++) {
        if (key.data[i] != (name[i] == '-' ? '_' : name[i])) {
            return false;
        }
    }
    return true;
}

static char *copy_slice(struct slice text) {
    char *copy = mem_alloc(text.size + 1);
    if (text.size > 0) {
        memcpy(copy, text.data, text.size);
    }
    copy[text.size] = '\0';
    return copy;
}

static enum error_code parse_line(struct settings *settings, struct slice line,
                                  struct error *error) {
    const uint8_t *equals = memchr(line.data, '=', line.size);
    if (equals == NULL) {
        return error_set(error, ERROR_SYNTAX, "expected `key = value`");
    }
    size_t at = (size_t)(equals - line.data);
    struct slice key = trim(slice_make(line.data, at));
    struct slice value = trim(slice_make(equals + 1, line.size - at - 1));
    if (value.size == 0 || memchr(value.data, '\0', value.size) != NULL) {
        return error_set(error, ERROR_SYNTAX, "a key without a value; take the line out instead");
    }
    for (int i = 0; i < SETTING_COUNT; i++) {
        if (is_key(key, names[i])) {
            char *text = copy_slice(value);
            settings_set(settings, (enum setting)i, text, FROM_FILE);
            free_secret(text);
            return ERROR_NONE;
        }
    }
    return error_set(error, ERROR_SYNTAX, "unknown key '%.*s'; see invoke-kv --help",
                     (int)(key.size < 64 ? key.size : 64), (const char *)key.data);
}

enum error_code settings_parse(struct settings *settings, const char *name, struct slice text,
                               struct error *error) {
    unsigned number = 0;
    while (text.size > 0) {
        const uint8_t *end = memchr(text.data, '\n', text.size);
        size_t size = end != NULL ? (size_t)(end - text.data) : text.size;
        struct slice line = trim(slice_make(text.data, size));
        size_t passed = end != NULL ? size + 1 : size;
        text = slice_make(text.data + passed, text.size - passed);
        number++;
        if (line.size == 0 || line.data[0] == '#') {
            continue;
        }
        enum error_code code = parse_line(settings, line, error);
        if (code != ERROR_NONE) {
            error_wrap(error, "%s:%u", name, number);
            return code;
        }
    }
    return ERROR_NONE;
}

/* A whole small file. ERROR_IO with errno in *missing when it cannot be opened. */
static enum error_code read_small_file(const char *path, size_t max, struct buffer *out,
                                       struct stat *status, int *open_errno, struct error *error) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    *open_errno = file < 0 ? errno : 0;
    if (file < 0) {
        return error_set_errno(error, errno, "cannot read %s", path);
    }
    enum error_code code = ERROR_NONE;
    ssize_t n = -1;
    if (fstat(file, status) != 0) {
        code = error_set_errno(error, errno, "cannot read %s", path);
    }
    while (code == ERROR_NONE && n != 0) {
        buffer_reserve(out, 4096);
        n = read(file, out->data + out->size, 4096);
        if (n < 0 && errno != EINTR) {
            code = error_set_errno(error, errno, "cannot read %s", path);
        } else if (n > 0) {
            out->size += (size_t)n;
        }
        if (out->size > max) {
            code = error_set(error, ERROR_TOOBIG, "%s is larger than %zu bytes", path, max);
        }
    }
    close(file);
    return code;
}

static char *default_path(void) {
    const char *folder = getenv("XDG_CONFIG_HOME");
    const char *home = getenv("HOME");
    struct buffer path = {0};
    if (folder != NULL && folder[0] == '/') {
        buffer_append(&path, folder, strlen(folder));
    } else if (home != NULL && home[0] != '\0') {
        buffer_append(&path, home, strlen(home));
        buffer_append(&path, "/.config", 8);
    } else {
        return NULL;
    }
    buffer_append(&path, "/invoke-kv.conf", sizeof "/invoke-kv.conf");
    return (char *)path.data;
}

static enum error_code read_file(struct settings *settings, const char *path, bool may_miss,
                                 bool *others_can_read, struct error *error) {
    struct buffer text = {0};
    struct stat status = {0};
    int open_errno = 0;
    enum error_code code = read_small_file(path, FILE_MAX, &text, &status, &open_errno, error);
    if (may_miss && (open_errno == ENOENT || open_errno == ENOTDIR)) {
        return ERROR_NONE;
    }
    if (code == ERROR_NONE) {
        code = settings_parse(settings, path, buffer_slice(&text), error);
    }
    *others_can_read =
        settings->values[SETTING_TOKEN] != NULL && (status.st_mode & (S_IRGRP | S_IROTH)) != 0;
    buffer_free(&text);
    return code;
}

enum error_code settings_read_file(struct settings *settings, const char *path,
                                   bool *others_can_read, struct error *error) {
    *others_can_read = false;
    if (path != NULL) {
        return read_file(settings, path, false, others_can_read, error);
    }
    char *found = default_path();
    enum error_code code =
        found != NULL ? read_file(settings, found, true, others_can_read, error) : ERROR_NONE;
    mem_free(found);
    return code;
}

void settings_read_environment(struct settings *settings, char *(*get)(const char *name)) {
    for (int i = 0; i < SETTING_COUNT; i++) {
        char variable[64] = "INVOKE_KV_";
        size_t size = strlen(variable);
        for (const char *c = names[i]; *c != '\0'; c++) {
            variable[size++] = (char)(*c == '-' ? '_' : toupper((unsigned char)*c));
        }
        variable[size] = '\0';
        const char *value = get(variable);
        if (value != NULL && *value != '\0') {
            settings_set(settings, (enum setting)i, value, FROM_ENVIRONMENT);
        }
    }
}

/* The first line of a file. */
static enum error_code read_secret(const char *path, char **secret, struct error *error) {
    struct buffer text = {0};
    struct stat status;
    int open_errno;
    enum error_code code = read_small_file(path, SECRET_MAX, &text, &status, &open_errno, error);
    if (code == ERROR_NONE) {
        struct slice line = trim(buffer_slice(&text));
        bool is_line = line.size > 0;
        for (size_t i = 0; i < line.size; i++) {
            is_line = is_line && line.data[i] > 0x20 && line.data[i] < 0x7F;
        }
        if (is_line) {
            *secret = copy_slice(line);
        } else {
            code = error_set(error, ERROR_INVALID,
                             "%s must hold one line with the secret and nothing else", path);
        }
    }
    if (text.data != NULL) {
        explicit_bzero(text.data, text.size);
    }
    buffer_free(&text);
    return code;
}

/* Token and token-file say the same thing: the one with the higher precedence counts. */
static enum error_code resolve_token(const struct settings *settings,
                                     struct connection_settings *out, struct error *error) {
    enum settings_origin direct = settings->origins[SETTING_TOKEN];
    enum settings_origin by_file = settings->origins[SETTING_TOKEN_FILE];
    if (direct != FROM_NOWHERE && direct == by_file) {
        return error_set(error, ERROR_INVALID, "--token and --token-file exclude each other");
    }
    if (by_file > direct) {
        return read_secret(settings->values[SETTING_TOKEN_FILE], &out->token, error);
    }
    if (direct != FROM_NOWHERE) {
        out->token = mem_strdup(settings->values[SETTING_TOKEN]);
    }
    return ERROR_NONE;
}

static enum error_code resolve_user(const struct settings *settings,
                                    struct connection_settings *out, struct error *error) {
    const char *user = settings->values[SETTING_USER];
    const char *file = settings->values[SETTING_SECRET_FILE];
    if (user == NULL && file == NULL) {
        return ERROR_NONE;
    }
    if (user == NULL || (strcmp(user, "service") != 0 && strcmp(user, "admin") != 0)) {
        return error_set(error, ERROR_INVALID, "--user is service or admin");
    }
    if (file == NULL) {
        return error_set(error, ERROR_INVALID, "--user needs --secret-file");
    }
    out->user = user;
    return read_secret(file, &out->secret, error);
}

static enum error_code resolve_duration(const struct settings *settings, enum setting setting,
                                        int64_t max_ms, int64_t *ms, struct error *error) {
    const char *text = settings->values[setting];
    if (text == NULL) {
        return ERROR_NONE;
    }
    if (!units_parse_duration(text, ms) || *ms > max_ms) {
        return error_set(error, ERROR_INVALID,
                         "--%s: '%s' is no time, such as 500ms, 30s or 5m, of at most a day",
                         names[setting], text);
    }
    return ERROR_NONE;
}

static enum error_code resolve_level(const struct settings *settings,
                                     struct connection_settings *out, struct error *error) {
    const char *text = settings->values[SETTING_CONSISTENCY];
    if (text == NULL || strcmp(text, "linearizable") == 0) {
        out->level = IKV_LINEARIZABLE;
    } else if (strcmp(text, "session") == 0) {
        out->level = IKV_SESSION;
    } else if (strcmp(text, "eventual") == 0) {
        out->level = IKV_EVENTUAL;
    } else {
        return error_set(error, ERROR_INVALID,
                         "--consistency: '%s' is not linearizable, session or eventual", text);
    }
    if (out->max_stale_ms > 0 && out->level != IKV_EVENTUAL) {
        return error_set(error, ERROR_INVALID, "--max-stale is for --consistency eventual");
    }
    return ERROR_NONE;
}

enum error_code settings_resolve(const struct settings *settings, struct connection_settings *out,
                                 struct error *error) {
    static const int64_t day_ms = 86400000;
    const char *seeds = settings->values[SETTING_SERVER];
    *out = (struct connection_settings){.seeds = seeds != NULL ? seeds : default_seeds,
                                        .project = settings->values[SETTING_PROJECT],
                                        .timeout_ms = 5000};
    enum error_code code = resolve_token(settings, out, error);
    if (code == ERROR_NONE) {
        code = resolve_user(settings, out, error);
    }
    if (code == ERROR_NONE) {
        code = resolve_duration(settings, SETTING_TIMEOUT, day_ms, &out->timeout_ms, error);
    }
    if (code == ERROR_NONE) {
        code = resolve_duration(settings, SETTING_MAX_STALE, day_ms, &out->max_stale_ms, error);
    }
    if (code == ERROR_NONE) {
        code = resolve_level(settings, out, error);
    }
    if (code != ERROR_NONE) {
        connection_settings_free(out);
    }
    return code;
}

void connection_settings_free(struct connection_settings *settings) {
    free_secret(settings->token);
    free_secret(settings->secret);
    settings->token = NULL;
    settings->secret = NULL;
}
