#include "base/backup.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/json.h"
#include "base/mem.h"

enum { MANIFEST_SIZE_MAX = 1024 * 1024, PIECE = 1024 * 1024 };

void backup_file_name(unsigned shard, char name[BACKUP_FILE_SIZE]) {
    snprintf(name, BACKUP_FILE_SIZE, "shard-%u.db", shard);
}

/* --- writing ---------------------------------------------------------------------------------- */

static void put_text(struct buffer *out, const char *name, const char *text, const char *end) {
    json_append_string(out, slice_of(name));
    json_append_text(out, ": ");
    json_append_string(out, slice_of(text));
    json_append_text(out, end);
}

static void put_number(struct buffer *out, const char *name, uint64_t number, const char *end) {
    json_append_string(out, slice_of(name));
    json_append_text(out, ": ");
    json_append_unsigned(out, number);
    json_append_text(out, end);
}

static void put_shard(struct buffer *out, const struct backup_shard *shard, unsigned number) {
    json_append_text(out, number > 0 ? ",\n    {" : "\n    {");
    put_number(out, "shard", number, ", ");
    put_text(out, "file", shard->file, ", ");
    put_number(out, "index", shard->index, ", ");
    put_number(out, "term", shard->term, ", ");
    put_number(out, "clock_ms", shard->clock_ms, ", ");
    put_number(out, "keys", shard->keys, ", ");
    put_number(out, "used_bytes", shard->used_bytes, ", ");
    put_number(out, "size", shard->size, ", ");
    put_text(out, "digest", shard->digest, ", ");
    put_text(out, "sha256", shard->sha256, "}");
}

void backup_write_manifest(const struct backup_manifest *manifest, struct buffer *out) {
    json_append_text(out, "{\n  ");
    put_number(out, "format", BACKUP_FORMAT, ",\n  ");
    put_text(out, "id", manifest->id, ",\n  ");
    put_text(out, "cluster", manifest->cluster, ",\n  ");
    put_text(out, "cluster_id", manifest->cluster_id, ",\n  ");
    put_text(out, "created", manifest->created, ",\n  ");
    put_text(out, "release", manifest->release, ",\n  ");
    json_append_text(out, "\"shards\": [");
    for (unsigned i = 0; i < manifest->n_shards; i++) {
        put_shard(out, &manifest->shards[i], i);
    }
    json_append_text(out, "\n  ]\n}\n");
}

/* --- reading ---------------------------------------------------------------------------------- */

static enum error_code bad(struct error *error, const char *what) {
    return error_set(error, ERROR_CORRUPT, BACKUP_MANIFEST " is damaged: %s", what);
}

/* Finds a member of an object; false when it is missing or the text is no object. */
static bool find_member(struct slice object, const char *name, struct slice *value) {
    struct json_cursor cursor = json_cursor_make(object, true);
    if (json_expect(&cursor, '{') != JSON_OK) {
        return false;
    }
    for (;;) {
        struct slice key;
        struct buffer text = {0};
        json_skip_space(&cursor);
        if (json_skip_string(&cursor, &key) != JSON_OK || json_expect(&cursor, ':') != JSON_OK ||
            json_skip_value(&cursor, value) != JSON_OK) {
            return false;
        }
        bool found =
            json_decode_string(key, &text) && slice_equal(buffer_slice(&text), slice_of(name));
        buffer_free(&text);
        if (found) {
            return true;
        }
        if (json_expect(&cursor, ',') != JSON_OK) {
            return false;
        }
    }
}

static bool get_text(struct slice object, const char *name, char *out, size_t size) {
    struct slice raw;
    struct buffer text = {0};
    bool good = find_member(object, name, &raw) && raw.size > 0 && raw.data[0] == '"' &&
                json_decode_string(raw, &text) && text.size < size &&
                (text.size == 0 || memchr(text.data, 0, text.size) == NULL);
    if (good) {
        snprintf(out, size, "%.*s", (int)text.size, text.size > 0 ? (const char *)text.data : "");
    }
    buffer_free(&text);
    return good;
}

static bool get_number(struct slice object, const char *name, uint64_t *number) {
    struct slice raw;
    int64_t value = 0;
    if (!find_member(object, name, &raw) || !json_decode_integer(raw, &value) || value < 0) {
        return false;
    }
    *number = (uint64_t)value;
    return true;
}

static bool parse_shard(struct slice object, unsigned number, struct backup_shard *shard) {
    char expected[BACKUP_FILE_SIZE];
    uint64_t own = 0;
    backup_file_name(number, expected);
    return get_number(object, "shard", &own) && own == number &&
           get_text(object, "file", shard->file, sizeof shard->file) &&
           strcmp(shard->file, expected) == 0 && get_number(object, "index", &shard->index) &&
           shard->index > 0 && get_number(object, "term", &shard->term) && shard->term > 0 &&
           get_number(object, "clock_ms", &shard->clock_ms) &&
           get_number(object, "keys", &shard->keys) &&
           get_number(object, "used_bytes", &shard->used_bytes) &&
           get_number(object, "size", &shard->size) &&
           get_text(object, "digest", shard->digest, sizeof shard->digest) &&
           get_text(object, "sha256", shard->sha256, sizeof shard->sha256);
}

static enum error_code parse_shards(struct slice list, struct backup_manifest *manifest,
                                    struct error *error) {
    struct json_cursor cursor = json_cursor_make(list, true);
    if (json_expect(&cursor, '[') != JSON_OK) {
        return bad(error, "no list of shards");
    }
    do {
        struct slice object;
        json_skip_space(&cursor);
        if (manifest->n_shards == LIMIT_SHARDS || json_skip_value(&cursor, &object) != JSON_OK ||
            !parse_shard(object, manifest->n_shards, &manifest->shards[manifest->n_shards])) {
            return bad(error, "a shard is not described well");
        }
        manifest->n_shards++;
    } while (json_expect(&cursor, ',') == JSON_OK);
    return ERROR_NONE;
}

enum error_code backup_parse_manifest(struct slice text, struct backup_manifest *manifest,
                                      struct error *error) {
    uint64_t format = 0;
    struct slice shards;
    memset(manifest, 0, sizeof *manifest);
    if (!json_is_value(text) || !get_number(text, "format", &format)) {
        return bad(error, "it is not the JSON of a backup");
    }
    if (format != BACKUP_FORMAT) {
        return error_set(error, ERROR_VERSION,
                         "the backup has format %llu, this program knows format %d: use the "
                         "release that made it",
                         (unsigned long long)format, BACKUP_FORMAT);
    }
    if (!get_text(text, "id", manifest->id, sizeof manifest->id) ||
        !get_text(text, "cluster", manifest->cluster, sizeof manifest->cluster) ||
        !get_text(text, "cluster_id", manifest->cluster_id, sizeof manifest->cluster_id) ||
        !get_text(text, "created", manifest->created, sizeof manifest->created) ||
        !get_text(text, "release", manifest->release, sizeof manifest->release) ||
        !find_member(text, "shards", &shards)) {
        return bad(error, "something is missing in it");
    }
    return parse_shards(shards, manifest, error);
}

enum error_code backup_read_manifest(const char *dir, struct backup_manifest *manifest,
                                     struct error *error) {
    char path[PATH_MAX];
    struct buffer text = {0};
    snprintf(path, sizeof path, "%s/%s", dir, BACKUP_MANIFEST);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        return error_set_errno(error, errno,
                               "cannot open %s: a backup is complete when it is there", path);
    }
    buffer_reserve(&text, MANIFEST_SIZE_MAX);
    ssize_t size;
    while ((size = read(file, text.data + text.size, MANIFEST_SIZE_MAX - text.size)) > 0) {
        text.size += (size_t)size;
    }
    enum error_code code = size < 0 ? error_set_errno(error, errno, "cannot read %s", path)
                                    : backup_parse_manifest(buffer_slice(&text), manifest, error);
    close(file);
    buffer_free(&text);
    return code;
}

/* --- files ------------------------------------------------------------------------------------ */

static enum error_code hash_open(int file, const char *path, EVP_MD_CTX *context, uint64_t *size,
                                 struct error *error) {
    uint8_t *piece = mem_alloc(PIECE);
    ssize_t n;
    *size = 0;
    do {
        n = read(file, piece, PIECE);
        if (n > 0) {
            EVP_DigestUpdate(context, piece, (size_t)n);
            *size += (uint64_t)n;
        }
    } while (n > 0 || (n < 0 && errno == EINTR));
    mem_free(piece);
    return n < 0 ? error_set_errno(error, errno, "cannot read %s", path) : ERROR_NONE;
}

enum error_code backup_hash_file(const char *path, char sha256[BACKUP_HASH_SIZE], uint64_t *size,
                                 struct error *error) {
    uint8_t hash[EVP_MAX_MD_SIZE];
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        return error_set_errno(error, errno, "cannot open %s", path);
    }
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    ASSERT(context != NULL && EVP_DigestInit_ex(context, EVP_sha256(), NULL) == 1);
    enum error_code code = hash_open(file, path, context, size, error);
    EVP_DigestFinal_ex(context, hash, NULL);
    EVP_MD_CTX_free(context);
    close(file);
    for (unsigned i = 0; i < (BACKUP_HASH_SIZE - 1) / 2; i++) {
        snprintf(sha256 + 2 * (size_t)i, 3, "%02x", hash[i]);
    }
    return code;
}

enum error_code backup_check_file(const char *dir, const struct backup_shard *shard,
                                  struct error *error) {
    char path[PATH_MAX];
    char sha256[BACKUP_HASH_SIZE] = "";
    uint64_t size = 0;
    snprintf(path, sizeof path, "%s/%s", dir, shard->file);
    enum error_code code = backup_hash_file(path, sha256, &size, error);
    if (code != ERROR_NONE) {
        return code;
    }
    if (size != shard->size) {
        return error_set(error, ERROR_CORRUPT, "%s has %llu bytes, not %llu: it is damaged", path,
                         (unsigned long long)size, (unsigned long long)shard->size);
    }
    return strcmp(sha256, shard->sha256) == 0
               ? ERROR_NONE
               : error_set(error, ERROR_CORRUPT,
                           "%s is damaged: its SHA-256 is not that of the "
                           "manifest",
                           path);
}
