/* What a backup is: a directory with one SQLite file per shard and `backup.json`, which is written
 * last and says what has to be there. Made by `invoke-kv backup`, taken by `invoke-kvd restore`. */
#ifndef BASE_BACKUP_H
#define BASE_BACKUP_H

#include <stdint.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/limits.h"

enum { BACKUP_FORMAT = 1, BACKUP_NAME_SIZE = 129, BACKUP_HASH_SIZE = 65, BACKUP_FILE_SIZE = 32 };

#define BACKUP_MANIFEST "backup.json"

struct backup_shard {
    char file[BACKUP_FILE_SIZE]; /* within the directory */
    uint64_t index;              /* of the last entry that is in it */
    uint64_t term;               /* of that entry */
    uint64_t clock_ms;           /* the shard's cluster time */
    uint64_t keys;
    uint64_t used_bytes;
    uint64_t size;                 /* bytes of the file */
    char digest[17];               /* of the state, hexadecimal */
    char sha256[BACKUP_HASH_SIZE]; /* of the file, hexadecimal */
};

struct backup_manifest {
    char id[17];                    /* random, hexadecimal */
    char cluster[BACKUP_NAME_SIZE]; /* name */
    char cluster_id[17];            /* hexadecimal */
    char created[32];               /* as in 2026-01-31T12:00:00Z */
    char release[32];               /* of the program that wrote it */
    unsigned n_shards;
    struct backup_shard shards[LIMIT_SHARDS];
};

/* "shard-N.db". */
void backup_file_name(unsigned shard, char name[BACKUP_FILE_SIZE]);

/* Appends the manifest as JSON. */
void backup_write_manifest(const struct backup_manifest *manifest, struct buffer *out);
/* ERROR_CORRUPT, or ERROR_VERSION when a newer release wrote it. */
enum error_code backup_parse_manifest(struct slice text, struct backup_manifest *manifest,
                                      struct error *error);
/* The same from dir/backup.json. */
enum error_code backup_read_manifest(const char *dir, struct backup_manifest *manifest,
                                     struct error *error);

/* SHA-256 and size of a file; blocks. */
enum error_code backup_hash_file(const char *path, char sha256[BACKUP_HASH_SIZE], uint64_t *size,
                                 struct error *error);
/* Compares a shard's file with the manifest; blocks. ERROR_CORRUPT names what differs. */
enum error_code backup_check_file(const char *dir, const struct backup_shard *shard,
                                  struct error *error);

#endif
