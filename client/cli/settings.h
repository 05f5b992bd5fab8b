/* Where the cluster is and who asks: from options, INVOKE_KV_* variables and a configuration file,
 * in this order of precedence. Parsing is pure; reading the file is not. */
#ifndef CLIENT_CLI_SETTINGS_H
#define CLIENT_CLI_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/error.h"

/* X(symbol, option, letter, placeholder, choices, help). The variable is INVOKE_KV_ and the name in
 * capitals, the key of the file the name itself, both with _ for -. */
#define SETTING_LIST(X)                                                                            \
    X(SETTING_SERVER, "server", 's', "SEEDS", NULL,                                                \
      "nodes of the cluster, HOST:PORT or URLs separated by commas; default 127.0.0.1:7101 to "    \
      "7103")                                                                                      \
    X(SETTING_PROJECT, "project", 'p', "NAME", NULL, "project to work in; default: default")       \
    X(SETTING_TOKEN, "token", 0, "TOKEN", NULL,                                                    \
      "the project's token; other users of this machine can see it, so rather name a file")        \
    X(SETTING_TOKEN_FILE, "token-file", 0, "FILE", "@file", "file with the project's token")       \
    X(SETTING_USER, "user", 0, "USER", "service admin",                                            \
      "credential for all projects in the place of a token")                                       \
    X(SETTING_SECRET_FILE, "secret-file", 0, "FILE", "@file", "file with that user's secret")      \
    X(SETTING_TIMEOUT, "timeout", 't', "TIME", NULL,                                               \
      "how long a request may take, such as 500ms or 1m; default 5s")                              \
    X(SETTING_CONSISTENCY, "consistency", 'c', "LEVEL", "linearizable session eventual",           \
      "what reads promise; default linearizable")                                                  \
    X(SETTING_MAX_STALE, "max-stale", 0, "TIME", NULL,                                             \
      "oldest state that eventual reads may show; default: any")                                   \
    X(SETTING_CA_FILE, "ca-file", 0, "FILE", "@file",                                              \
      "TLS: authorities to trust (PEM); default: the system's")                                    \
    X(SETTING_TLS_NAME, "tls-name", 0, "NAME", NULL, "TLS: name to expect in certificates")        \
    X(SETTING_CERT_FILE, "cert-file", 0, "FILE", "@file", "TLS: certificate to show (PEM)")        \
    X(SETTING_KEY_FILE, "key-file", 0, "FILE", "@file", "TLS: private key of that certificate")

enum setting {
#define SETTING_ENUM(symbol, ...) symbol,
    SETTING_LIST(SETTING_ENUM)
#undef SETTING_ENUM
        SETTING_COUNT
};

enum settings_origin {
    FROM_NOWHERE, /* not set */
    FROM_FILE,
    FROM_ENVIRONMENT,
    FROM_OPTION
};

/* A zeroed struct is valid and has nothing set. */
struct settings {
    char *values[SETTING_COUNT]; /* owned; NULL: not set */
    enum settings_origin origins[SETTING_COUNT];
};

/* What follows from the settings, checked. The texts belong to the settings, but for `token` and
 * `secret`, which are owned. */
struct connection_settings {
    const char *seeds;
    const char *project; /* NULL: what the seeds say */
    char *token;
    const char *user;
    char *secret;
    int64_t timeout_ms;
    int level; /* enum ikv_level */
    int64_t max_stale_ms;
};

void settings_free(struct settings *settings);

/* "server", "token-file", ... */
const char *setting_name(enum setting setting);

/* Sets one, unless something of a higher precedence did. The value is copied. */
void settings_set(struct settings *settings, enum setting setting, const char *value,
                  enum settings_origin origin);

/* Lines `key = value`; blank lines and those that begin with # are ignored. The message names
 * `name` and the line. */
enum error_code settings_parse(struct settings *settings, const char *name, struct slice text,
                               struct error *error);
/* `path` NULL: $XDG_CONFIG_HOME/invoke-kv.conf or ~/.config/invoke-kv.conf, which need not exist.
 * *others_can_read: it holds a token, and others than its owner can read it. */
enum error_code settings_read_file(struct settings *settings, const char *path,
                                   bool *others_can_read, struct error *error);
/* `get` is getenv(), or a test's. */
void settings_read_environment(struct settings *settings, char *(*get)(const char *name));

/* Checks all and reads the files with secrets. */
enum error_code settings_resolve(const struct settings *settings, struct connection_settings *out,
                                 struct error *error);
void connection_settings_free(struct connection_settings *settings);

#endif
