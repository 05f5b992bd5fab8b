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
 *     u64  token
 *     u32+ project name, see node/machine/project_name.h
 *     u32  number of arguments
 *     u32+ each argument
 *
 * Where the list of kinds calls an argument a number, it is a u64 of 8 bytes; signed ones stand in
 * two's complement. A token as argument is four: its number, its enum command_access, a salt of
 * COMMAND_SALT_SIZE bytes and a hash of COMMAND_HASH_SIZE bytes, see node/machine/tokens.h; its
 * expiry is the command's. "limit" is the largest value, in bytes, that the command may make:
 * max_value of the node that took it, carried along because nodes may be configured differently.
 *
 * A session is COMMAND_SESSION_SIZE bytes. A nested command is an encoded command; it is checked
 * with the one that holds it.
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
    COMMAND_SET = 1,                /* key, value [, condition] : OK or nil */
    COMMAND_DELETE = 2,             /* key ... : number of keys that existed */
    COMMAND_CLEAR = 3,              /* drops every key of the project in O(1) */
    COMMAND_FENCE = 4,              /* no effect; its place in the log is its meaning */
    COMMAND_INCREMENT = 5,          /* key, signed number, limit : the sum */
    COMMAND_INCREMENT_FLOAT = 6,    /* key, text of a number, limit : text of the sum */
    COMMAND_APPEND = 7,             /* key, value, limit : length of the result */
    COMMAND_SETRANGE = 8,           /* key, offset, value, limit : length of the result */
    COMMAND_GETDEL = 9,             /* key : old value or nil */
    COMMAND_GETEX = 10,             /* key : value or nil; changes its expiry */
    COMMAND_EXPIRE = 11,            /* key : 1 when its expiry changed or it was deleted, else 0 */
    COMMAND_PERSIST = 12,           /* key : 1 when it had an expiry, else 0 */
    COMMAND_RENAME = 13,            /* key, new key : OK; with NX 1 or 0 */
    COMMAND_COPY = 14,              /* key, new key : 1 or 0 */
    COMMAND_SET_MANY = 15,          /* key, value ... : OK; with NX 1, or 0 when one existed */
    COMMAND_DELETE_MATCHING = 16,   /* key, condition : 1 or 0 */
    COMMAND_PROJECT_CREATE = 17,    /* quota in bytes [, token] : OK */
    COMMAND_PROJECT_DELETE = 18,    /* with keys and tokens, in O(1) : 1 or 0 */
    COMMAND_PROJECT_SET_QUOTA = 19, /* quota in bytes : OK */
    COMMAND_TOKEN_ADD = 20,         /* token : OK */
    COMMAND_TOKEN_REVOKE = 21,      /* number of the token : 1 or 0 */
    COMMAND_TRANSACTION = 22,       /* watches and commands, see below : RESULT_RESULTS or nil */
    COMMAND_ONCE_OPEN = 23,         /* session, lifetime in milliseconds : its id as text */
    COMMAND_ONCE_CLOSE = 24,        /* session : 1 or 0 */
    COMMAND_ONCE = 25, /* session, sequence, lowest sequence not done (0: as it was), nested
                        * write of the same project : what the nested one answers */
    /* Reads: never in the log. */
    COMMAND_GET = 64,          /* key : value or nil */
    COMMAND_EXISTS = 65,       /* key ... : how many exist, counting repeats */
    COMMAND_PTTL = 66,         /* key : milliseconds left, -1 without expiry, -2 when missing */
    COMMAND_DBSIZE = 67,       /* number of live keys of the project */
    COMMAND_USAGE = 68,        /* array of integers: keys, used bytes, quota */
    COMMAND_GET_MANY = 69,     /* key ... : array of values and nils */
    COMMAND_STRLEN = 70,       /* key : bytes of its value, 0 when missing */
    COMMAND_GETRANGE = 71,     /* key, first, last (signed numbers) : part of the value */
    COMMAND_TYPE = 72,         /* key : status "string" or "none" */
    COMMAND_EXPIRETIME = 73,   /* key : cluster time in milliseconds; -1 and -2 as PTTL */
    COMMAND_RANDOM_KEY = 74,   /* number to choose by : a key or nil */
    COMMAND_KEYS = 75,         /* pattern : array of keys */
    COMMAND_SCAN = 76,         /* cursor, count, pattern : array of next cursor and array of keys */
    COMMAND_INSPECT = 77,      /* key, enum command_aspect : what it says, nil when missing */
    COMMAND_GET_VERSION = 78,  /* key : array of value and version, nil when missing */
    COMMAND_PROJECT_LIST = 79, /* number of a project, count : array of the number to go on with, 0
                                * at the end, and array of the names of projects behind that one */
    COMMAND_PROJECT_INFO = 80, /* array of integers: keys, used bytes, quota; nil when missing */
    COMMAND_TOKEN_LIST = 81,   /* integers, four for each token: number, enum command_access, when
                                * it was made and when it expires (0: never), both cluster time in
                                * milliseconds; nil when the project is missing */
    COMMAND_AUTHENTICATE = 82, /* number of a token, SHA-256 of its secret : enum command_access */
    COMMAND_READ_TRANSACTION = 83, /* as TRANSACTION, of reads only */
    COMMAND_VERSIONS = 84, /* key ... : integers, the versions of the keys, 0 when missing */
};

/* Arguments of TRANSACTION and READ_TRANSACTION:
 *
 *     number of watched keys
 *     key and version (a number) of each of them; version 0: the key is missing
 *     then nested commands, encoded, with the same project and token
 *
 * When a watched key has another version, nothing is carried out and the answer is nil. Otherwise
 * the commands are carried out one after the other as one step, and each one's result is an element
 * of the answer; an error of one does not keep the others from being carried out. All together they
 * have at most LIMIT_RESP_ARGS watched keys, versions, commands and arguments, where KEYS and SCAN
 * count as LIMIT_TRANSACTION_WALK more.
 *
 * In a TRANSACTION stand neither KEYS nor SCAN, since what they walk over would hold up the log and
 * cursors are not part of the state, nor GET_VERSION: versions tell states apart that lie between
 * entries, and this one would lie within one. */

/* A flag belongs to the kinds that are named with it: other kinds may use the same bit. */
enum command_flags {
    COMMAND_FLAG_NX = 1,       /* SET, SET_MANY, RENAME: only when the key is missing;
                                * EXPIRE: only when it has no expiry */
    COMMAND_FLAG_XX = 2,       /* SET: only when the key exists; EXPIRE: only when it has one */
    COMMAND_FLAG_GET = 4,      /* SET answers the old value */
    COMMAND_FLAG_KEEPTTL = 8,  /* SET keeps the expiry that the key has */
    COMMAND_FLAG_ROUND_S = 16, /* PTTL, EXPIRETIME answer seconds, rounded like Redis's TTL:
                                * (ms + 500) / 1000 */
    COMMAND_FLAG_IFEQ = 32,    /* SET, DELETE_MATCHING: only when the value equals the one that
                                * follows as one more argument */
    COMMAND_FLAG_IFVER = 64,   /* the same with the version, a number; 0: the key is missing */
    COMMAND_FLAG_COUNT = 128,  /* SET answers 1 or 0 instead of OK or nil */
    COMMAND_FLAG_GT = 4,       /* EXPIRE: only to a later time; no expiry is the latest */
    COMMAND_FLAG_LT = 8,       /* EXPIRE: only to an earlier time */
    COMMAND_FLAG_PERSIST = 4,  /* GETEX removes the expiry */
    COMMAND_FLAG_REPLACE = 4,  /* COPY overwrites */
    COMMAND_FLAG_TOKEN = 1     /* PROJECT_CREATE adds a token, whose arguments follow */
};

enum command_expiry {
    COMMAND_EXPIRY_NONE = 0,
    COMMAND_EXPIRY_AFTER = 1, /* milliseconds from the batch's cluster time */
    COMMAND_EXPIRY_AT = 2     /* absolute cluster time in milliseconds */
};

/* Nobody checks it, and a write creates the project when it is missing. */
#define COMMAND_TOKEN_OPEN UINT64_C(0)
/* A service's or administrator's credential was checked by the node that took the command: the
 * project must exist. */
#define COMMAND_TOKEN_SERVICE UINT64_MAX

/* What INSPECT tells. */
enum command_aspect {
    COMMAND_ASPECT_ENCODING = 0, /* "int", "embstr" or "raw", as Redis would store the value */
    COMMAND_ASPECT_REFCOUNT = 1, /* always 1 */
    COMMAND_ASPECT_IDLETIME = 2, /* always 0: reads leave no trace */
    COMMAND_ASPECT_FREQ = 3,     /* an error, as Redis without an LFU policy */
    COMMAND_ASPECT_MEMORY = 4    /* what the quota counts for the key */
};

/* What a token allows. */
enum command_access { COMMAND_ACCESS_READONLY = 1, COMMAND_ACCESS_READWRITE = 2 };
enum { COMMAND_SALT_SIZE = 16, COMMAND_HASH_SIZE = 32 };
/* PROJECT_CREATE: the default quota of its batch. */
#define COMMAND_QUOTA_DEFAULT UINT64_MAX

struct command {
    enum command_kind kind;
    uint8_t flags;
    enum command_expiry expiry_mode;
    uint64_t expiry_ms;
    uint64_t token; /* what allows it: a COMMAND_TOKEN_ value or the number of a project's token */
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

enum { COMMAND_SESSION_SIZE = 16 };

bool command_is_write(enum command_kind kind);
/* About projects and tokens rather than about keys. */
bool command_is_administrative(enum command_kind kind);
/* Whether an encoded write may make the state larger: refused when disks run full. */
bool command_may_grow(struct slice bytes);

/* Appends the encoded command with the given arguments. */
void command_encode(struct buffer *out, const struct command *command, const struct slice *args,
                    uint32_t n_args);
/* Decodes and checks everything: kind, flags, project size, argument count and sizes against what
 * the kind takes. Slices point into `bytes`. */
enum error_code command_decode(struct slice bytes, struct command *command, struct error *error);
/* What a nested command with this many arguments counts as in a transaction. */
uint64_t command_words(enum command_kind kind, uint32_t n_args);
/* Whether `kind` may stand among the nested commands of an `outer` one. */
bool command_may_nest(enum command_kind outer, enum command_kind kind);
/* Decodes and checks a nested command: an argument of `outer`. */
enum error_code command_decode_nested(const struct command *outer, struct slice bytes,
                                      struct command *nested, struct error *error);
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
    RESULT_ERROR = 4,    /* code, and the text in data without the RESP prefix */
    RESULT_INTEGERS = 5, /* data holds u64 numbers, little-endian */
    RESULT_ARRAY = 6,    /* data: u32 number of elements, then each, see below */
    RESULT_STATUS = 7,   /* a word in data, such as "string" */
    /* Results of nested commands. data: u32 count, then each: u32 size, encoded result. Errors may
     * be among them, but no RESULT_RESULTS. */
    RESULT_RESULTS = 8
};

/* An element of a RESULT_ARRAY:
 *
 *     u8   tag
 *     ...  NIL: nothing; BULK: u32+ bytes; INTEGER: u64; ARRAY: u32 number of elements, which
 *          follow */
enum result_tag {
    RESULT_TAG_NIL = 0,
    RESULT_TAG_BULK = 1,
    RESULT_TAG_INTEGER = 2,
    RESULT_TAG_ARRAY = 3
};

struct result {
    enum result_kind kind;
    enum error_code code;
    int64_t integer;
    struct buffer data; /* owned by the result */
};

/* A result whose data belongs to somebody else. */
struct result_view {
    enum result_kind kind;
    enum error_code code;
    int64_t integer;
    struct slice data;
};

void result_free(struct result *result);
struct result_view result_view_of(const struct result *result);
void result_set_error(struct result *result, enum error_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Makes `result` an array, to be followed by `count` elements. */
void result_begin_array(struct result *result, uint32_t count);
void result_add_nil(struct result *result);
void result_add_bulk(struct result *result, struct slice bytes);
void result_add_integer(struct result *result, int64_t integer);
void result_add_array(struct result *result, uint32_t count);
/* Makes `result` a RESULT_RESULTS, to be followed by `count` elements. */
void result_begin_results(struct result *result, uint32_t count);
/* Copies the element. */
void result_add_result(struct result *result, const struct result *element);
/* The next element of a RESULT_RESULTS; call it as often as the count says, on one reader behind
 * the count. The view points into the results. */
struct result_view result_next(struct reader *elements);
void result_encode(struct buffer *out, const struct result *result);
/* Copies what it keeps. */
enum error_code result_decode(struct slice bytes, struct result *result, struct error *error);

#endif
