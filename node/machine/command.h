/* Commands to the state machine, as they stand in log entries and travel between nodes.
 *
 * A log entry of kind COMMAND is a batch:
 *
 *     u8   version (1)
 *     u64  cluster time of the leader, milliseconds since the Unix epoch
 *     u64  default quota in bytes for projects that this batch creates
 *     u16  number of commands (0: a tick that only moves the clock)
 *     then for each command:
 *       u32  size of the rest of this command
 *       u32  origin node id       \
 *       u64  origin boot number    > who waits for the result; node 0: nobody
 *       u64  origin sequence      /
 *       ...  command, see below
 *
 * A command:
 *
 *     u8   kind
 *     u8   flags
 *     u8   expiry mode
 *     u64  expiry value
 *     u32+ project name, at most LIMIT_PROJECT_NAME bytes
 *     u32  number of arguments
 *     u32+ each argument
 *
 * All decoding checks lengths first; a batch that does not decode is damage, not input, since
 * leaders check what they propose. */
#ifndef NODE_MACHINE_COMMAND_H
#define NODE_MACHINE_COMMAND_H

#include "base/bytes.h"
#include "base/error.h"
#include "base/payload.h"

enum command_kind {
    /* Writes: go through the log. */
    COMMAND_SET = 1,    /* key, value */
    COMMAND_DELETE = 2, /* key ... : number of keys that existed */
    COMMAND_CLEAR = 3,  /* drops every key of the project in O(1) */
    COMMAND_FENCE = 4,  /* no effect; its place in the log is its meaning (docs/forwarding.md) */
    /* Reads: never in the log. */
    COMMAND_GET = 64,    /* key : value or nil */
    COMMAND_EXISTS = 65, /* key ... : how many exist, counting repeats */
    COMMAND_PTTL = 66,   /* key : milliseconds left, -1 without expiry, -2 when missing */
    COMMAND_DBSIZE = 67, /* number of live keys of the project */
    COMMAND_USAGE = 68   /* array of integers: keys, used bytes, quota */
};

enum command_flags {
    COMMAND_FLAG_NX = 1,      /* SET only when the key is missing */
    COMMAND_FLAG_XX = 2,      /* SET only when the key exists */
    COMMAND_FLAG_GET = 4,     /* SET answers the old value */
    COMMAND_FLAG_KEEPTTL = 8, /* SET keeps the expiry that the key has */
    COMMAND_FLAG_ROUND_S =
        16 /* PTTL answers seconds, rounded like Redis's TTL: (ms + 500) / 1000 */
};

enum command_expiry {
    COMMAND_EXPIRY_NONE = 0,
    COMMAND_EXPIRY_AFTER = 1, /* milliseconds from the batch's cluster time */
    COMMAND_EXPIRY_AT = 2     /* absolute cluster time in milliseconds */
};

struct command {
    enum command_kind kind;
    uint8_t flags;
    enum command_expiry expiry_mode;
    uint64_t expiry_ms;
    struct slice project;
    uint32_t n_args;
    struct slice args; /* encoded arguments: n_args times u32 length + bytes */
};

/* Who waits for a command's result. */
struct command_origin {
    uint32_t node;
    uint64_t boot;
    uint64_t sequence;
};

bool command_is_write(enum command_kind kind);

/* Appends the encoded command with the given arguments. */
void command_encode(struct buffer *out, const struct command *command, const struct slice *args,
                    uint32_t n_args);
/* Decodes and checks everything: kind, flags, project size, argument count and sizes against what
 * the kind takes. Slices point into `bytes`. */
enum error_code command_decode(struct slice bytes, struct command *command, struct error *error);
/* Next argument of a decoded command; call it n_args times on one reader made of command.args. */
struct slice command_next_arg(struct reader *args);

/* Batches. */
enum { COMMAND_BATCH_HEADER_SIZE = 1 + 8 + 8 + 2, COMMAND_FRAME_SIZE = 4 + 4 + 8 + 8 };

struct command_batch {
    uint64_t time_ms;
    uint64_t default_quota;
    uint16_t count;
    struct reader rest;
};

void command_batch_begin(struct buffer *out, uint64_t time_ms, uint64_t default_quota);
/* `out` must start with command_batch_begin(); keeps the count in the header up to date. */
void command_batch_add(struct buffer *out, struct command_origin origin, struct slice command);
/* A finished batch of one command, with a single copy of it: for large values. */
struct payload *command_batch_of_one(uint64_t default_quota, struct command_origin origin,
                                     struct slice command);
/* Sets the time of a batch that nobody shares yet: it is known only when the batch is proposed. */
void command_batch_set_time(struct payload *batch, uint64_t time_ms);
enum error_code command_batch_decode(struct slice bytes, struct command_batch *batch,
                                     struct error *error);
/* Decodes the next of batch->count commands. */
enum error_code command_batch_next(struct command_batch *batch, struct command_origin *origin,
                                   struct command *command, struct error *error);

/* Results. */
enum result_kind {
    RESULT_OK = 0,
    RESULT_NIL = 1,
    RESULT_INTEGER = 2,
    RESULT_BULK = 3,
    RESULT_ERROR = 4,   /* code, and the text in data without the RESP prefix */
    RESULT_INTEGERS = 5 /* data holds u64 numbers, little-endian */
};

struct result {
    enum result_kind kind;
    enum error_code code;
    int64_t integer;
    struct buffer data; /* owned by the result */
};

void result_free(struct result *result);
void result_set_error(struct result *result, enum error_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void result_encode(struct buffer *out, const struct result *result);
/* Copies what it keeps. */
enum error_code result_decode(struct slice bytes, struct result *result, struct error *error);

#endif
