/* The manifest of a backup, which may come from anywhere: whatever it says, parsing ends with a
 * message or with a manifest that names only files of its own directory and reads back as itself.
 */
#include <stdlib.h>

#include "base/backup.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool holds) {
    if (!holds) {
        abort();
    }
}

static void check_shard(const struct backup_shard *shard, unsigned number) {
    char name[BACKUP_FILE_SIZE];
    backup_file_name(number, name);
    check(strcmp(shard->file, name) == 0 && shard->index > 0 && shard->term > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct backup_manifest *manifest = calloc(1, sizeof *manifest);
    struct backup_manifest *again = calloc(1, sizeof *again);
    struct error error = {0};
    struct buffer text = {0};
    check(manifest != NULL && again != NULL);
    if (backup_parse_manifest(slice_make(data, size), manifest, &error) != ERROR_NONE) {
        check(error.message[0] != '\0');
    } else {
        check(manifest->n_shards > 0 && manifest->n_shards <= LIMIT_SHARDS);
        for (unsigned i = 0; i < manifest->n_shards; i++) {
            check_shard(&manifest->shards[i], i);
        }
        backup_write_manifest(manifest, &text);
        check(backup_parse_manifest(buffer_slice(&text), again, &error) == ERROR_NONE);
        check(memcmp(manifest, again, sizeof *manifest) == 0);
    }
    buffer_free(&text);
    free(again);
    free(manifest);
    return 0;
}
