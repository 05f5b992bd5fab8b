/* RESP2 and RESP3, the Redis serialization protocol: an incremental parser for the commands that
 * clients send, and writers for replies. Pure: no I/O.
 *
 * Commands come as arrays of bulk strings or as inline lines. A large argument is read straight
 * into memory of its exact size. Source: redis.io/docs/reference/protocol-spec. */
#ifndef BASE_RESP_H
#define BASE_RESP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

struct resp_parser;

struct resp_limits {
    size_t max_args;    /* arguments of a command */
    size_t max_bulk;    /* bytes of one argument that are kept; see resp_command.oversized */
    size_t max_request; /* bytes of all arguments of a command together */
    size_t max_inline;  /* bytes of an inline command */
};

struct resp_parser *resp_parser_new(const struct resp_limits *limits);
void resp_parser_free(struct resp_parser *parser);

/* Where the next bytes from the socket should go: at least one byte, either the parser's input
 * buffer or the rest of a large argument. Valid until the next call on the parser. The bounds on
 * memory hold for a caller that reads more only after resp_parser_next() returned RESP_MORE; one
 * that reads on with commands unparsed makes the input buffer grow. */
void resp_parser_space(struct resp_parser *parser, uint8_t **data, size_t *size);
/* `size` bytes were put there. */
void resp_parser_filled(struct resp_parser *parser, size_t size);
/* Bytes the parser holds in memory now, for bounds and statistics. */
size_t resp_parser_memory(const struct resp_parser *parser);
/* Gives back the input buffer of a parser that is idle, until bytes come again; else does nothing.
 * A new parser has none either. */
void resp_parser_rest(struct resp_parser *parser);
/* True when no command has been received in part. */
bool resp_parser_is_idle(const struct resp_parser *parser);

struct resp_command {
    unsigned argc;
    struct slice *argv; /* valid until the next resp_parser_next() */
    /* An argument was longer than max_bulk, or all of them together longer than max_request: its
     * bytes and those of all arguments after it were skipped, their argv[i] are empty, and the
     * caller answers -TOOBIG; the connection can go on. Size of the largest argument over max_bulk,
     * else the size of all arguments together when that is over max_request, else 0. */
    uint64_t oversized;
};

enum resp_status {
    RESP_COMMAND, /* *command is filled; argc may be 0 for an empty line or array: ignore it */
    RESP_MORE,    /* needs more bytes */
    RESP_BROKEN   /* protocol error: answer resp_parser_error() and close */
};

enum resp_status resp_parser_next(struct resp_parser *parser, struct resp_command *command);
/* Text as Redis has it, for example "Protocol error: invalid bulk length". */
const char *resp_parser_error(const struct resp_parser *parser);

/* Replies; `version` is 2 or 3 where the two protocols differ. */
void resp_write_simple(struct buffer *out, const char *text);
/* One line "-PREFIX text"; CR and LF in the text become spaces. */
void resp_write_error(struct buffer *out, const char *prefix, const char *text);
void resp_write_integer(struct buffer *out, int64_t value);
void resp_write_bulk(struct buffer *out, struct slice bytes);
void resp_write_bulk_header(struct buffer *out, size_t size); /* then the bytes, then CR LF */
void resp_write_null(struct buffer *out, int version);
/* In the place of an array; RESP2 tells it from a missing bulk string. */
void resp_write_null_array(struct buffer *out, int version);
void resp_write_bool(struct buffer *out, bool value, int version); /* RESP2: integer 1 or 0 */
void resp_write_double(struct buffer *out, double value, int version);
void resp_write_array(struct buffer *out, size_t count);
void resp_write_push(struct buffer *out, size_t count, int version); /* RESP2: an array */
void resp_write_map(struct buffer *out, size_t pairs, int version);  /* RESP2: array of 2 * pairs */

#endif
