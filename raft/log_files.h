/* The files of the log's directory: preparing, naming and recycling segments, each step in an order
 * that leaves a readable log wherever a crash stops it. Free of libuv and of any state.
 *
 *   NAME.tmp -> spare-N or next-N    prepared: the usual size, content of no meaning
 *   spare-N -> 16 digits.seg         in use: its header was synced before it got the name; then
 *                                    `newest` tells of it (raft/log_newest.h)
 *   16 digits.seg -> spare-N         recycled: the name is gone for good before the header changes
 */
#ifndef RAFT_LOG_FILES_H
#define RAFT_LOG_FILES_H

#include <stdbool.h>
#include <stdint.h>

#include "raft/storage.h"

/* What every message about a damaged log ends with. */
#define LOG_REBUILD                                                                                \
    "acknowledged data may be lost, so this node must not serve: rebuild it from its peers "       \
    "(replace the node)"

/* The directory and what its segments have in common. */
struct log_files {
    const struct storage *storage;
    const char *dir;
    uint64_t identity;
    uint64_t segment_size;
    unsigned n_groups;
};

enum { LOG_SPARE_NAME = 32 };

/* A prepared file of the usual size, whatever its content. Its name is "spare-" and a number. */
struct log_spare {
    int file;
    char name[LOG_SPARE_NAME]; /* within the log's directory */
};

/* Creates an empty file of `size` bytes, zero-filled when `fill`, under `name`. On failure nothing
 * is left behind. The file handle, or -errno. */
int log_file_prepare(const struct storage *storage, const char *dir, const char *name,
                     uint64_t size, bool fill);
/* Turns a prepared file into segment `number`: its header is durable before its name is, and its
 * name before it is recorded as the newest. 0 or -errno; on failure the caller still owns the file.
 */
int log_file_activate(const struct log_files *files, const struct log_spare *spare, uint64_t number,
                      uint64_t base_sequence, uint64_t size);
/* `out` has room for PATH_MAX bytes; false when the path is too long. */
bool log_path(char *out, const char *dir, const char *name);

/* Takes segment `number` out of the directory. When `spare` is not NULL it becomes the spare with
 * the name that the caller put there, if it can. 0 or -errno, and spare->file is a file or -1. A
 * failed attempt may be repeated. */
int log_file_retire(const struct log_files *files, uint64_t number, struct log_spare *spare);
/* Name of a spare, and its number from a name. */
void log_spare_name(uint32_t number, char name[LOG_SPARE_NAME]);
bool log_spare_name_parse(const char *name, uint32_t *number);

#endif
