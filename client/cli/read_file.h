/* Reading files and standard input. */
#ifndef CLIENT_CLI_READ_FILE_H
#define CLIENT_CLI_READ_FILE_H

#include <stdint.h>

#include "client/cli/cli.h"

/* Opens for reading; NULL and - are standard input. Returns 0 or, with a message, EXIT_LOCAL.
 * *size: 0 when it is not known beforehand. */
int file_open(const struct cli *cli, const char *path, int *file, uint64_t *size);
/* read() that goes on after signals, unless they interrupt the command. */
ssize_t file_read(int file, void *data, size_t size);
/* The whole of it, at most `max` bytes. 0, or EXIT_LOCAL with a message. */
int file_read_all(const struct cli *cli, const char *path, size_t max, struct buffer *out);

#endif
