/* Opens the files that the configuration names for secrets and certificates: by a path, or by
 * `credential:NAME` in the directory that the service manager hands over in $CREDENTIALS_DIRECTORY
 * (systemd: LoadCredential=, LoadCredentialEncrypted=, SetCredential=). */
#ifndef NODE_SECRET_FILE_H
#define NODE_SECRET_FILE_H

#include <stdbool.h>
#include <sys/stat.h>

#include "base/error.h"
#include "node/config.h"

/* Opens for reading; never blocks on a pipe. On error *fd is -1, and the message names key and path
 * and tells what to do. */
enum error_code secret_file_open(int *fd, enum config_key key, const char *path,
                                 struct error *error);

/* Whether an open file may hold a secret: ERROR_INVALID unless it is a regular file as below. */
enum error_code secret_file_check(int fd, enum config_key key, const char *path,
                                  struct error *error);

/* Whether nobody but root and the process may read a file with this status, as far as its owner and
 * mode tell: it belongs to root or to the process's user, and only its owner may do anything; but
 * where the process does not run as root, a file of root's may be read by the process's own group
 * or root's (which is also how an access list for the one user shows in the mode). Pure. */
bool secret_file_is_private(const struct stat *status, uid_t user, gid_t group);

#endif
