/* What a session has seen of a shard, as text that a client carries to another connection, of this
 * node or of any other.
 *
 * Hexadecimal digits of: u8 version (1), u32 CRC-32C of the cluster's name, u16 shard, u64 log
 * index, u32 CRC-32C of all before; little-endian like everything that travels. Opaque to clients,
 * and no secret: a made-up token makes its own session wait, nothing else. */
#ifndef NODE_SESSION_TOKEN_H
#define NODE_SESSION_TOKEN_H

#include "base/bytes.h"
#include "base/error.h"

enum { SESSION_TOKEN_BYTES = 1 + 4 + 2 + 8 + 4, SESSION_TOKEN_SIZE = 2 * SESSION_TOKEN_BYTES };

void session_token_write(char text[SESSION_TOKEN_SIZE + 1], const char *cluster, unsigned shard,
                         uint64_t index);
/* ERROR_SYNTAX: not a token; ERROR_VERSION: of a later format; ERROR_MISMATCH: of another cluster.
 * The outputs are set on success only. */
enum error_code session_token_read(struct slice text, const char *cluster, unsigned *shard,
                                   uint64_t *index, struct error *error);

#endif
