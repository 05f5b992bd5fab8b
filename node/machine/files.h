/* The few things about files that SQLite does not do for us. */
#ifndef NODE_MACHINE_FILES_H
#define NODE_MACHINE_FILES_H

#include <stdbool.h>

#include "base/error.h"

/* Makes the entries of the directory that holds `path` durable. A failed fsync does not return. */
enum error_code files_sync_directory_of(const char *path, struct error *error);
/* Makes the file's contents durable. A failed fsync does not return. */
enum error_code files_sync(const char *path, struct error *error);
/* Removes path + suffix; one that is missing is fine. */
enum error_code files_remove(const char *path, const char *suffix, struct error *error);
enum error_code files_rename(const char *from, const char *to, struct error *error);
bool files_exists(const char *path, const char *suffix);

#endif
