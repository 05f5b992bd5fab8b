#include "raft/log_newest.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/crc32c.h"
#include "raft/log_format.h"

enum { VERSION = 1, FILE_SIZE = LOG_NEWEST_SLOTS * LOG_BLOCK };

static const uint8_t magic[8] = {'I', 'K', 'V', 'N', 'E', 'W', 'S', '\n'};
static const char file_name[] = "newest";

void log_newest_encode(const struct log_newest *newest, uint8_t *out) {
    memcpy(out, magic, sizeof magic);
    bytes_put_u32(out + 8, VERSION);
    bytes_put_u64(out + 12, newest->number);
    bytes_put_u64(out + 20, newest->identity);
    bytes_put_u32(out + 28, crc32c(0, out, 28));
}

enum error_code log_newest_decode(struct slice bytes, struct log_newest *newest,
                                  struct error *error) {
    if (bytes.size < LOG_NEWEST_SLOT || memcmp(bytes.data, magic, sizeof magic) != 0 ||
        bytes_get_u32(bytes.data + 28) != crc32c(0, bytes.data, 28)) {
        return error_set(error, ERROR_CORRUPT, "not the record of a segment's number");
    }
    uint32_t version = bytes_get_u32(bytes.data + 8);
    if (version != VERSION) {
        return error_set(error, ERROR_VERSION,
                         "format version %" PRIu32
                         ", this program knows version %d: run the newer program again",
                         version, VERSION);
    }
    newest->number = bytes_get_u64(bytes.data + 12);
    newest->identity = bytes_get_u64(bytes.data + 20);
    return ERROR_NONE;
}

/* The larger number of the intact slots. A slot that is not intact was never written, or torn by a
 * crash, and then its number was not relied on yet. */
static enum error_code choose_slot(const struct log_files *files, struct slice bytes,
                                   uint64_t *number, struct error *error) {
    for (size_t k = 0; k < LOG_NEWEST_SLOTS && k * LOG_BLOCK < bytes.size; k++) {
        struct slice slot =
            slice_make(bytes.data + k * LOG_BLOCK, bytes.size - k * (size_t)LOG_BLOCK);
        struct log_newest newest = {0};
        enum error_code code = log_newest_decode(slot, &newest, error);
        if (code == ERROR_CORRUPT) {
            continue;
        }
        if (code != ERROR_NONE) {
            return error_wrap(error, "%s/%s", files->dir, file_name);
        }
        if (newest.identity != files->identity) {
            return error_set(error, ERROR_MISMATCH,
                             "%s/%s belongs to the data directory with incarnation %016" PRIx64
                             ", not to this one (%016" PRIx64 "): put back the right log directory",
                             files->dir, file_name, newest.identity, files->identity);
        }
        *number = newest.number > *number ? newest.number : *number;
    }
    return ERROR_NONE;
}

/* A file handle, or -errno. */
static int open_file(const struct log_files *files, enum storage_mode mode) {
    char path[PATH_MAX];
    if (!log_path(path, files->dir, file_name)) {
        return -ENAMETOOLONG;
    }
    return files->storage->open(files->storage->context, path, mode);
}

enum error_code log_newest_load(const struct log_files *files, bool must_exist, uint64_t *number,
                                struct error *error) {
    const struct storage *storage = files->storage;
    uint8_t bytes[FILE_SIZE];
    *number = 0;
    int file = open_file(files, STORAGE_OPEN);
    if (file < 0 && file != -ENOENT) {
        return error_set_errno(error, -file, "cannot open %s/%s", files->dir, file_name);
    }
    if (file >= 0) {
        ssize_t size = storage_read(storage, file, bytes, sizeof bytes, 0);
        storage->close(storage->context, file);
        if (size < 0) {
            return error_set_errno(error, (int)-size, "cannot read %s/%s", files->dir, file_name);
        }
        enum error_code code = choose_slot(files, slice_make(bytes, (size_t)size), number, error);
        if (code != ERROR_NONE) {
            return code;
        }
    }
    if (*number == 0 && must_exist) {
        return error_set(error, ERROR_CORRUPT,
                         "%s/%s, which names the newest log segment, is %s: nobody can tell "
                         "whether that segment is still there; " LOG_REBUILD,
                         files->dir, file_name, file < 0 ? "missing" : "damaged");
    }
    return ERROR_NONE;
}

static int write_slot(const struct log_files *files, int file, uint64_t number) {
    const struct storage *storage = files->storage;
    const struct log_newest newest = {.number = number, .identity = files->identity};
    uint8_t slot[LOG_NEWEST_SLOT];
    log_newest_encode(&newest, slot);
    uint64_t offset = number % LOG_NEWEST_SLOTS * LOG_BLOCK;
    int result = storage_write(storage, file, slot, sizeof slot, offset);
    return result == 0 ? storage->sync(storage->context, file) : result;
}

/* The first segment of a directory. */
static int create_file(const struct log_files *files, uint64_t number) {
    const struct storage *storage = files->storage;
    int file = open_file(files, STORAGE_CREATE);
    if (file < 0) {
        return file;
    }
    int result = storage_zero(storage, file, 0, FILE_SIZE, 0);
    if (result == 0) {
        result = write_slot(files, file, number);
    }
    storage->close(storage->context, file);
    return result == 0 ? storage->sync_dir(storage->context, files->dir) : result;
}

int log_newest_store(const struct log_files *files, uint64_t number) {
    int file = open_file(files, STORAGE_OPEN);
    if (file == -ENOENT) {
        return create_file(files, number);
    }
    if (file < 0) {
        return file;
    }
    int result = write_slot(files, file, number);
    files->storage->close(files->storage->context, file);
    return result;
}

int log_newest_sync(const struct log_files *files) {
    int file = open_file(files, STORAGE_OPEN);
    if (file < 0) {
        return file;
    }
    int result = files->storage->sync(files->storage->context, file);
    files->storage->close(files->storage->context, file);
    return result;
}
