#include "node/tls_files.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <time.h>
#include <unistd.h>

#include "node/logging.h"
#include "node/secret_file.h"

/* What one port needs, by the keys that name the files. */
struct file_set {
    enum config_key certificate_key;
    const char *certificate_path;
    enum config_key key_key;
    const char *key_path;
    enum config_key authorities_key;
    const char *authorities_path; /* empty: none */
    enum tls_verify verify;
    const char *peer_uri;
};

static enum error_code read_all(int fd, struct buffer *text, const char *key, const char *path,
                                struct error *error) {
    /* More than a key needs: a buffer that grows leaves a copy where it was. */
    enum { STEP = 64 * 1024 };
    for (;;) {
        if (text->size == text->capacity) {
            buffer_reserve(text, STEP);
        }
        ssize_t size = read(fd, text->data + text->size, text->capacity - text->size);
        if (size < 0 && errno == EINTR) {
            continue;
        }
        if (size < 0) {
            return error_set_errno(error, errno, "%s = '%s': cannot read it", key, path);
        }
        if (size == 0) {
            return ERROR_NONE;
        }
        text->size += (size_t)size;
        if (text->size > CONFIG_FILE_SIZE_MAX) {
            return error_set(error, ERROR_INVALID, "%s = '%s': larger than %d bytes", key, path,
                             CONFIG_FILE_SIZE_MAX);
        }
    }
}

static enum error_code read_file(enum config_key config_key, const char *path, bool is_secret,
                                 struct buffer *text, struct error *error) {
    int fd;
    enum error_code code = secret_file_open(&fd, config_key, path, error);
    if (code != ERROR_NONE) {
        return code;
    }
    if (is_secret) {
        code = secret_file_check(fd, config_key, path, error);
    }
    if (code == ERROR_NONE) {
        code = read_all(fd, text, config_key_name(config_key), path, error);
    }
    (void)close(fd);
    return code;
}

static enum error_code load_set(struct tls_keys **keys, const struct file_set *set,
                                struct error *error) {
    struct buffer certificate = {0}, key = {0}, authorities = {0};
    enum error_code code =
        read_file(set->certificate_key, set->certificate_path, false, &certificate, error);
    if (code == ERROR_NONE) {
        code = read_file(set->key_key, set->key_path, true, &key, error);
    }
    if (code == ERROR_NONE && set->verify != TLS_VERIFY_OFF) {
        code = read_file(set->authorities_key, set->authorities_path, false, &authorities, error);
    }
    if (code == ERROR_NONE) {
        const struct tls_settings settings = {.certificate = buffer_slice(&certificate),
                                              .key = buffer_slice(&key),
                                              .authorities = buffer_slice(&authorities),
                                              .verify = set->verify,
                                              .peer_uri = set->peer_uri};
        code = tls_keys_load(keys, &settings, error);
        if (code != ERROR_NONE) {
            (void)error_wrap(error, "%s = '%s', %s = '%s'", config_key_name(set->certificate_key),
                             set->certificate_path, config_key_name(set->key_key), set->key_path);
        }
    }
    buffer_free(&certificate);
    if (key.size > 0) {
        OPENSSL_cleanse(key.data, key.size);
    }
    buffer_free(&key);
    buffer_free(&authorities);
    return code;
}

static enum tls_verify verify_of(enum config_tls clients) {
    switch (clients) {
    case CONFIG_TLS_OFF:
        return TLS_VERIFY_OFF;
    case CONFIG_TLS_OPTIONAL:
        return TLS_VERIFY_OPTIONAL;
    case CONFIG_TLS_REQUIRED:
        break;
    }
    return TLS_VERIFY_REQUIRED;
}

enum error_code tls_files_load(struct tls_files *files, const struct config *config,
                               struct error *error) {
    enum error_code code = ERROR_NONE;
    *files = (struct tls_files){0};
    if (config->tls != CONFIG_TLS_OFF) {
        const struct file_set set = {.certificate_key = CONFIG_TLS_CERT,
                                     .certificate_path = config->tls_cert,
                                     .key_key = CONFIG_TLS_KEY,
                                     .key_path = config->tls_key,
                                     .authorities_key = CONFIG_TLS_CA,
                                     .authorities_path = config->tls_ca,
                                     .verify = verify_of(config->tls_clients)};
        code = load_set(&files->clients, &set, error);
    }
    if (code == ERROR_NONE && config->peer_tls != CONFIG_TLS_OFF) {
        char uri[TLS_URI_SIZE];
        tls_node_uri(uri, config->cluster, config->node_id);
        const struct file_set set = {.certificate_key = CONFIG_PEER_TLS_CERT,
                                     .certificate_path = config->peer_tls_cert,
                                     .key_key = CONFIG_PEER_TLS_KEY,
                                     .key_path = config->peer_tls_key,
                                     .authorities_key = CONFIG_PEER_TLS_CA,
                                     .authorities_path = config->peer_tls_ca,
                                     .verify = TLS_VERIFY_REQUIRED,
                                     .peer_uri = uri};
        code = load_set(&files->peers, &set, error);
    }
    if (code != ERROR_NONE) {
        tls_files_free(files);
    }
    return code;
}

void tls_files_free(struct tls_files *files) {
    tls_keys_free(files->clients);
    tls_keys_free(files->peers);
    *files = (struct tls_files){0};
}

static void say_expiry(const struct tls_keys *keys, enum config_key key) {
    if (keys == NULL) {
        return;
    }
    time_t expiry = (time_t)tls_keys_expiry_s(keys);
    struct tm parts;
    char text[32];
    (void)gmtime_r(&expiry, &parts);
    (void)strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
    if (expiry - time(NULL) < TLS_EXPIRY_WARNING_S) {
        say_warn("a certificate expires soon: put a new one in its place and send SIGHUP",
                 "key=%s expires=%s", config_key_name(key), text);
    } else {
        say_info("certificate loaded", "key=%s expires=%s", config_key_name(key), text);
    }
}

void tls_files_say_expiry(const struct tls_files *files) {
    say_expiry(files->clients, CONFIG_TLS_CERT);
    say_expiry(files->peers, CONFIG_PEER_TLS_CERT);
}
