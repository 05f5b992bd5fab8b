#include "node/secret_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char prefix[] = "credential:";

/* The path of a credential; false and an error when there is none. */
static bool resolve(char *resolved, size_t size, const char *key, const char *path,
                    struct error *error) {
    const char *name = path + sizeof prefix - 1;
    const char *directory = getenv("CREDENTIALS_DIRECTORY");
    bool is_name = *name != '\0' && strchr(name, '/') == NULL && strcmp(name, ".") != 0 &&
                   strcmp(name, "..") != 0;
    if (!is_name) {
        error_set(error, ERROR_INVALID, "%s = '%s': expected credential:NAME, a name without '/'",
                  key, path);
        return false;
    }
    if (directory == NULL || directory[0] != '/') {
        error_set(
            error, ERROR_INVALID,
            "%s = '%s': $CREDENTIALS_DIRECTORY is not set; start the node by a service manager "
            "that passes the credential (LoadCredential=%s:PATH in the unit)",
            key, path, name);
        return false;
    }
    int length = snprintf(resolved, size, "%s/%s", directory, name);
    if (length < 0 || (size_t)length >= size) {
        error_set(error, ERROR_INVALID, "%s = '%s': the path in $CREDENTIALS_DIRECTORY is too long",
                  key, path);
        return false;
    }
    return true;
}

enum error_code secret_file_open(int *fd, enum config_key config_key, const char *path,
                                 struct error *error) {
    const char *key = config_key_name(config_key);
    char resolved[2 * CONFIG_PATH_SIZE];
    const char *opened = path;
    *fd = -1;
    if (strncmp(path, prefix, sizeof prefix - 1) == 0) {
        if (!resolve(resolved, sizeof resolved, key, path, error)) {
            return ERROR_INVALID;
        }
        opened = resolved;
    }
    *fd = open(opened, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    return *fd >= 0 ? ERROR_NONE
                    : error_set_errno(error, errno, "%s = '%s': cannot open it", key, path);
}

bool secret_file_is_private(const struct stat *status, uid_t user, gid_t group) {
    bool owned = status->st_uid == user || status->st_uid == 0;
    bool by_group =
        user != 0 && status->st_uid == 0 && (status->st_gid == group || status->st_gid == 0);
    mode_t allowed = by_group ? 0740 : 0700;
    return owned && (status->st_mode & 0777 & ~allowed) == 0;
}

enum error_code secret_file_check(int fd, enum config_key config_key, const char *path,
                                  struct error *error) {
    const char *key = config_key_name(config_key);
    struct stat status;
    if (fstat(fd, &status) != 0) {
        return error_set_errno(error, errno, "%s = '%s'", key, path);
    }
    if (!S_ISREG(status.st_mode)) {
        return error_set(error, ERROR_INVALID, "%s = '%s': not a regular file", key, path);
    }
    if (secret_file_is_private(&status, geteuid(), getegid())) {
        return ERROR_NONE;
    }
    if (status.st_uid != geteuid() && status.st_uid != 0) {
        return error_set(error, ERROR_INVALID,
                         "%s = '%s': it belongs to user %u; it must belong to root or to user %u, "
                         "who runs this node",
                         key, path, (unsigned)status.st_uid, (unsigned)geteuid());
    }
    return error_set(error, ERROR_INVALID,
                     "%s = '%s': others may read or change it (mode %03o); chmod 600 it", key, path,
                     (unsigned)(status.st_mode & 0777));
}
