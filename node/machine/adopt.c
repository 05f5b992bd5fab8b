/* A database that becomes the beginning of another cluster. */
#include "base/mem.h"
#include "node/machine/files.h"
#include "node/machine/machine_internal.h"

static char *hexadecimal(struct slice bytes) {
    static const char digits[] = "0123456789abcdef";
    char *text = mem_alloc(2 * bytes.size + 1);
    for (size_t i = 0; i < bytes.size; i++) {
        text[2 * i] = digits[bytes.data[i] >> 4];
        text[2 * i + 1] = digits[bytes.data[i] & 15];
    }
    text[2 * bytes.size] = '\0';
    return text;
}

static enum error_code rewrite_meta(struct database *database, const char *cluster,
                                    struct slice config, struct error *error) {
    char *hex = hexadecimal(config);
    char *sql = sqlite3_mprintf("UPDATE meta SET cluster = %Q, config = x'%s',"
                                " config_index = applied_index",
                                cluster, hex);
    enum error_code code = sql == NULL ? database_error(database, SQLITE_NOMEM, error)
                                       : database_execute(database, sql, error);
    sqlite3_free(sql);
    mem_free(hex);
    return code;
}

enum error_code machine_adopt(const struct machine_options *options, struct slice config,
                              struct error *error) {
    struct database database;
    struct database_options open = {
        .path = options->path, .vfs = options->vfs, .cache_bytes = options->cache_bytes};
    bool is_new = false;
    enum error_code code = database_open(&database, &open, &is_new, error);
    if (code != ERROR_NONE) {
        return code;
    }
    code = is_new ? error_set(error, ERROR_CORRUPT, "%s is empty", options->path)
                  : rewrite_meta(&database, options->cluster, config, error);
    if (code == ERROR_NONE) {
        code = database_checkpoint(&database, error);
    }
    database_close(&database, code != ERROR_NONE);
    code = code == ERROR_NONE ? files_sync(options->path, error) : code;
    return code == ERROR_NONE ? files_sync_directory_of(options->path, error) : code;
}

enum error_code machine_check(struct machine *machine, struct error *error) {
    enum error_code code = database_check_pages(&machine->database, error);
    return code == ERROR_NONE ? machine_recount(machine, error) : code;
}
