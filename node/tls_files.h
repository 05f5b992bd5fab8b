/* Reads the files with which the clients' port and the links between nodes speak TLS. */
#ifndef NODE_TLS_FILES_H
#define NODE_TLS_FILES_H

#include "base/error.h"
#include "base/tls_keys.h"
#include "node/config.h"

enum { TLS_EXPIRY_WARNING_S = 14 * 24 * 3600 };

/* NULL where the configuration has TLS off. */
struct tls_files {
    struct tls_keys *clients;
    struct tls_keys *peers;
};

/* Reads and checks everything; the caller frees it. On error nothing is left, and the message names
 * the keys, the files and what is wrong. Reads files, so it blocks for a moment. */
enum error_code tls_files_load(struct tls_files *files, const struct config *config,
                               struct error *error);
void tls_files_free(struct tls_files *files);
/* Logs when certificates expire, as a warning when that is soon. */
void tls_files_say_expiry(const struct tls_files *files);

#endif
