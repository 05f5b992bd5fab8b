/* Keys on the command line. */
#ifndef CLIENT_CLI_KEYS_H
#define CLIENT_CLI_KEYS_H

#include "client/cli/commands.h"

/* The bytes that a word stands for: itself, or with --key-base64 what it decodes to. Appended to
 * *out, which they point into: a caller with several keys gives each a buffer. 0, or EXIT_USAGE
 * with a message. `may_be_empty`: it is a prefix. */
int key_read(const struct cli *cli, const struct arguments *arguments, const char *word,
             bool may_be_empty, struct buffer *out);

ikv_bytes key_bytes(const struct buffer *buffer);

#endif
