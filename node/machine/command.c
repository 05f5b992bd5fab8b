#include "node/machine/command.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/limits.h"
#include "base/mem.h"
#include "node/machine/project_name.h"

enum { BATCH_VERSION = 1, BATCH_TIME_AT = 1, BATCH_COUNT_AT = 1 + 8 + 8, ORIGIN_SIZE = 4 + 8 + 8 };

static_assert(COMMAND_FRAME_SIZE == 4 + ORIGIN_SIZE, "a frame is its size and its origin");
static_assert(LIMIT_BATCH_COMMANDS <= UINT16_MAX, "the header counts commands in 16 bits");

/* What each kind of command takes. */
struct command_rule {
    enum command_kind kind;
    unsigned traits; /* enum trait */
    uint8_t flags;   /* those that may be set */
    /* A letter for each argument: k key, v value, n number, p pattern, s session, c nested command,
     * t salt, h hash. A condition (IFEQ, IFVER) adds one. */
    const char *args;
};

enum trait {
    WRITES = 1,
    GROWS = 2,        /* may make the state larger */
    EXPIRES = 4,      /* takes an expiry */
    REPEATS = 8,      /* the arguments may come any number of times, but once */
    PROJECTLESS = 16, /* belongs to the shard, not to a project */
    NESTS = 32,       /* the arguments are those of a transaction */
    ALONE = 64,       /* not within another command */
    UNSTEADY = 128,   /* not within a transaction that writes */
    ADMINISTERS = 256 /* is about projects and tokens, not about keys */
};

#define CONDITIONS (COMMAND_FLAG_IFEQ | COMMAND_FLAG_IFVER)
#define TOKEN_ARGS "nnth"

static const struct command_rule rules[] = {
    {COMMAND_SET, WRITES | GROWS | EXPIRES,
     COMMAND_FLAG_NX | COMMAND_FLAG_XX | COMMAND_FLAG_GET | COMMAND_FLAG_KEEPTTL |
         COMMAND_FLAG_COUNT | CONDITIONS,
     "kv"},
    {COMMAND_DELETE, WRITES | REPEATS, 0, "k"},
    {COMMAND_CLEAR, WRITES, 0, ""},
    {COMMAND_FENCE, WRITES | PROJECTLESS | ALONE, 0, ""},
    {COMMAND_INCREMENT, WRITES | GROWS, 0, "knn"},
    {COMMAND_INCREMENT_FLOAT, WRITES | GROWS, 0, "kvn"},
    {COMMAND_APPEND, WRITES | GROWS, 0, "kvn"},
    {COMMAND_SETRANGE, WRITES | GROWS, 0, "knvn"},
    {COMMAND_GETDEL, WRITES, 0, "k"},
    {COMMAND_GETEX, WRITES | EXPIRES, COMMAND_FLAG_PERSIST, "k"},
    {COMMAND_EXPIRE, WRITES | EXPIRES,
     COMMAND_FLAG_NX | COMMAND_FLAG_XX | COMMAND_FLAG_GT | COMMAND_FLAG_LT, "k"},
    {COMMAND_PERSIST, WRITES, 0, "k"},
    {COMMAND_RENAME, WRITES | GROWS, COMMAND_FLAG_NX, "kk"},
    {COMMAND_COPY, WRITES | GROWS, COMMAND_FLAG_REPLACE, "kk"},
    {COMMAND_SET_MANY, WRITES | GROWS | REPEATS, COMMAND_FLAG_NX, "kv"},
    {COMMAND_DELETE_MATCHING, WRITES, CONDITIONS, "k"},
    {COMMAND_TRANSACTION, WRITES | NESTS | ALONE, 0, ""},
    {COMMAND_ONCE_OPEN, WRITES | GROWS | ALONE, 0, "sn"},
    {COMMAND_ONCE_CLOSE, WRITES | ALONE, 0, "s"},
    {COMMAND_ONCE, WRITES | ALONE, 0, "snnc"},
    {COMMAND_PROJECT_CREATE, WRITES | GROWS | EXPIRES | ADMINISTERS | ALONE, COMMAND_FLAG_TOKEN,
     "n"},
    {COMMAND_PROJECT_DELETE, WRITES | ADMINISTERS | ALONE, 0, ""},
    {COMMAND_PROJECT_SET_QUOTA, WRITES | ADMINISTERS | ALONE, 0, "n"},
    {COMMAND_TOKEN_ADD, WRITES | GROWS | EXPIRES | ADMINISTERS | ALONE, 0, TOKEN_ARGS},
    {COMMAND_TOKEN_REVOKE, WRITES | ADMINISTERS | ALONE, 0, "n"},
    {COMMAND_GET, 0, 0, "k"},
    {COMMAND_EXISTS, REPEATS, 0, "k"},
    {COMMAND_PTTL, 0, COMMAND_FLAG_ROUND_S, "k"},
    {COMMAND_DBSIZE, 0, 0, ""},
    {COMMAND_USAGE, 0, 0, ""},
    {COMMAND_GET_MANY, REPEATS, 0, "k"},
    {COMMAND_STRLEN, 0, 0, "k"},
    {COMMAND_GETRANGE, 0, 0, "knn"},
    {COMMAND_TYPE, 0, 0, "k"},
    {COMMAND_EXPIRETIME, 0, COMMAND_FLAG_ROUND_S, "k"},
    {COMMAND_RANDOM_KEY, 0, 0, "n"},
    {COMMAND_KEYS, UNSTEADY, 0, "p"},
    {COMMAND_SCAN, UNSTEADY, 0, "nnp"},
    {COMMAND_INSPECT, 0, 0, "kn"},
    {COMMAND_GET_VERSION, UNSTEADY, 0, "k"},
    {COMMAND_READ_TRANSACTION, NESTS | ALONE, 0, ""},
    {COMMAND_VERSIONS, REPEATS | ALONE, 0, "k"},
    {COMMAND_PROJECT_LIST, PROJECTLESS | ADMINISTERS | ALONE, 0, "nn"},
    {COMMAND_PROJECT_INFO, ADMINISTERS | ALONE, 0, ""},
    {COMMAND_TOKEN_LIST, ADMINISTERS | ALONE, 0, ""},
    {COMMAND_AUTHENTICATE, ADMINISTERS | ALONE, 0, "nh"},
};

static const struct command_rule *rule_of(unsigned kind) {
    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
        if ((unsigned)rules[i].kind == kind) {
            return &rules[i];
        }
    }
    return NULL;
}

bool command_is_write(enum command_kind kind) {
    const struct command_rule *rule = rule_of((unsigned)kind);
    return rule != NULL && (rule->traits & WRITES) != 0;
}

/* Reads the header of an encoded command; the reader is at the arguments then. */
static struct command read_header(struct reader *reader, unsigned *kind, unsigned *mode) {
    struct command command = {0};
    *kind = reader_u8(reader);
    command.flags = reader_u8(reader);
    *mode = reader_u8(reader);
    command.expiry_ms = reader_u64(reader);
    command.token = reader_u64(reader);
    command.project = reader_bytes(reader);
    command.n_args = reader_u32(reader);
    command.args = reader->rest;
    return command;
}

/* Reads the number of watched keys, which is the first argument of a transaction. False when there
 * cannot be as many. */
static bool read_watch_count(struct reader *args, uint32_t n_args, uint32_t *n_watched) {
    struct slice number = reader_bytes(args);
    if (args->failed || n_args == 0 || number.size != sizeof(uint64_t) ||
        bytes_get_u64(number.data) > (n_args - 1) / 2) {
        return false;
    }
    *n_watched = (uint32_t)bytes_get_u64(number.data);
    return true;
}

static bool transaction_may_grow(struct slice bytes) {
    struct reader args = reader_make(bytes);
    unsigned kind, mode;
    struct command command = read_header(&args, &kind, &mode);
    uint32_t n_watched;
    if (!read_watch_count(&args, command.n_args, &n_watched)) {
        return false;
    }
    for (uint32_t i = 1; i < command.n_args && !args.failed; i++) {
        struct slice arg = reader_bytes(&args);
        if (i > 2 * n_watched && command_may_grow(arg)) {
            return true;
        }
    }
    return false;
}

/* The nested command is the last argument. */
static bool once_may_grow(struct slice bytes) {
    struct reader args = reader_make(bytes);
    unsigned kind, mode;
    struct command command = read_header(&args, &kind, &mode);
    struct slice nested = {0};
    for (uint32_t i = 0; i < command.n_args && !args.failed; i++) {
        nested = reader_bytes(&args);
    }
    return !args.failed && nested.size > 0 && nested.data[0] != COMMAND_ONCE &&
           command_may_grow(nested);
}

bool command_is_administrative(enum command_kind kind) {
    const struct command_rule *rule = rule_of((unsigned)kind);
    return rule != NULL && (rule->traits & ADMINISTERS) != 0;
}

bool command_may_grow(struct slice bytes) {
    const struct command_rule *rule = bytes.size > 0 ? rule_of(bytes.data[0]) : NULL;
    if (rule == NULL) {
        return false;
    }
    /* What nests does not stand in its own kind, so this ends. */
    switch (rule->kind) {
    case COMMAND_TRANSACTION:
        return transaction_may_grow(bytes);
    case COMMAND_ONCE:
        return once_may_grow(bytes);
    default:
        return (rule->traits & GROWS) != 0;
    }
}

bool command_may_nest(enum command_kind outer, enum command_kind kind) {
    const struct command_rule *rule = rule_of((unsigned)kind);
    if (outer == COMMAND_ONCE && kind == COMMAND_TRANSACTION) {
        return true;
    }
    if (rule == NULL || (rule->traits & ALONE) != 0) {
        return false;
    }
    if (outer == COMMAND_TRANSACTION) {
        return (rule->traits & UNSTEADY) == 0;
    }
    bool writes = (rule->traits & WRITES) != 0;
    return outer == COMMAND_ONCE ? writes : outer == COMMAND_READ_TRANSACTION && !writes;
}

void command_encode(struct buffer *out, const struct command *command, const struct slice *args,
                    uint32_t n_args) {
    buffer_put_u8(out, (uint8_t)command->kind);
    buffer_put_u8(out, command->flags);
    buffer_put_u8(out, (uint8_t)command->expiry_mode);
    buffer_put_u64(out, command->expiry_ms);
    buffer_put_u64(out, command->token);
    buffer_put_bytes(out, command->project);
    buffer_put_u32(out, n_args);
    for (uint32_t i = 0; i < n_args; i++) {
        buffer_put_bytes(out, args[i]);
    }
}

static bool has_flags(const struct command *command, unsigned flags) {
    return (command->flags & flags) == flags;
}

/* Whether flags of the command's kind contradict each other. */
static bool flags_exclude_each_other(const struct command *command) {
    const unsigned existence = COMMAND_FLAG_NX | COMMAND_FLAG_XX;
    bool conditional = (command->flags & CONDITIONS) != 0;
    if (has_flags(command, existence) || has_flags(command, CONDITIONS)) {
        return true;
    }
    switch (command->kind) {
    case COMMAND_SET:
        return has_flags(command, COMMAND_FLAG_GET | COMMAND_FLAG_COUNT) ||
               (conditional && (command->flags & existence) != 0);
    case COMMAND_EXPIRE:
        return has_flags(command, COMMAND_FLAG_GT | COMMAND_FLAG_LT) ||
               ((command->flags & COMMAND_FLAG_NX) &&
                (command->flags & (COMMAND_FLAG_GT | COMMAND_FLAG_LT)));
    case COMMAND_DELETE_MATCHING:
        return !conditional;
    default:
        return false;
    }
}

static enum error_code check_expiry(const struct command *command, const struct command_rule *rule,
                                    struct error *error) {
    bool persists = command->kind == COMMAND_GETEX && (command->flags & COMMAND_FLAG_PERSIST);
    bool keeps = command->kind == COMMAND_SET && (command->flags & COMMAND_FLAG_KEEPTTL);
    bool tokenless =
        command->kind == COMMAND_PROJECT_CREATE && !(command->flags & COMMAND_FLAG_TOKEN);
    if (command->expiry_mode == COMMAND_EXPIRY_NONE) {
        bool wants_one =
            command->kind == COMMAND_EXPIRE || (command->kind == COMMAND_GETEX && !persists);
        if (wants_one) {
            return error_set(error, ERROR_INVALID, "command %u without an expiry",
                             (unsigned)command->kind);
        }
        return command->expiry_ms == 0 ? ERROR_NONE
                                       : error_set(error, ERROR_INVALID, "expiry without a mode");
    }
    if (!(rule->traits & EXPIRES) || tokenless) {
        return error_set(error, ERROR_INVALID, "command %u does not take an expiry",
                         (unsigned)command->kind);
    }
    if (keeps || persists) {
        return error_set(error, ERROR_INVALID, "%s and an expiry exclude each other",
                         keeps ? "KEEPTTL" : "PERSIST");
    }
    return ERROR_NONE;
}

static enum error_code check_options(const struct command *command, const struct command_rule *rule,
                                     struct error *error) {
    if ((command->flags & ~rule->flags) != 0) {
        return error_set(error, ERROR_INVALID, "command %u does not take the flags 0x%02x",
                         (unsigned)command->kind, (unsigned)command->flags);
    }
    if (flags_exclude_each_other(command)) {
        return error_set(error, ERROR_INVALID,
                         "command %u: the flags 0x%02x exclude each other or lack one",
                         (unsigned)command->kind, (unsigned)command->flags);
    }
    return check_expiry(command, rule, error);
}

static enum error_code check_project(const struct command *command, const struct command_rule *rule,
                                     struct error *error) {
    if (command->project.size == 0 && (rule->traits & PROJECTLESS)) {
        return ERROR_NONE;
    }
    return project_name_check(command->project, error);
}

static enum error_code check_key(struct slice key, struct error *error) {
    if (key.size == 0) {
        return error_set(error, ERROR_INVALID, "a key has at least one byte");
    }
    if (key.size > LIMIT_KEY_SIZE) {
        return error_set(error, ERROR_TOOBIG, "key of %zu bytes, the limit is %d", key.size,
                         LIMIT_KEY_SIZE);
    }
    return ERROR_NONE;
}

static enum error_code check_value(struct slice value, struct error *error) {
    if (value.size > LIMIT_VALUE_SIZE_MAX) {
        return error_set(error, ERROR_TOOBIG, "value of %zu bytes, the limit is %llu", value.size,
                         (unsigned long long)LIMIT_VALUE_SIZE_MAX);
    }
    return ERROR_NONE;
}

static enum error_code check_size(struct slice arg, size_t size, const char *what,
                                  struct error *error) {
    return arg.size == size ? ERROR_NONE
                            : error_set(error, ERROR_INVALID, "%s of %zu bytes", what, arg.size);
}

static enum error_code check_arg(char letter, struct slice arg, struct error *error) {
    switch (letter) {
    case 's':
        return check_size(arg, COMMAND_SESSION_SIZE, "session", error);
    case 'k':
        return check_key(arg, error);
    case 'v':
        return check_value(arg, error);
    case 'n':
        return check_size(arg, sizeof(uint64_t), "number", error);
    case 't':
        return check_size(arg, COMMAND_SALT_SIZE, "salt", error);
    case 'h':
        return check_size(arg, COMMAND_HASH_SIZE, "hash", error);
    default:
        ASSERT(letter == 'p');
        return arg.size <= LIMIT_PATTERN_SIZE
                   ? ERROR_NONE
                   : error_set(error, ERROR_TOOBIG, "pattern of %zu bytes, the limit is %d",
                               arg.size, LIMIT_PATTERN_SIZE);
    }
}

/* The letters of one round of arguments, with those that flags add. */
static void expected_args(const struct command *command, const struct command_rule *rule,
                          char letters[8]) {
    size_t n = strlen(rule->args);
    ASSERT(n < 7);
    memcpy(letters, rule->args, n);
    if ((command->flags & rule->flags & CONDITIONS) != 0) {
        letters[n++] = (command->flags & COMMAND_FLAG_IFEQ) ? 'v' : 'n';
    }
    if (command->kind == COMMAND_PROJECT_CREATE && (command->flags & COMMAND_FLAG_TOKEN)) {
        ASSERT(n + strlen(TOKEN_ARGS) < 8);
        memcpy(letters + n, TOKEN_ARGS, strlen(TOKEN_ARGS));
        n += strlen(TOKEN_ARGS);
    }
    letters[n] = '\0';
}

static bool count_fits(uint32_t n_args, uint32_t round, const struct command_rule *rule) {
    if (!(rule->traits & REPEATS)) {
        return n_args == round;
    }
    return n_args > 0 && n_args % round == 0 && n_args <= LIMIT_RESP_ARGS;
}

uint64_t command_words(enum command_kind kind, uint32_t n_args) {
    bool walks = kind == COMMAND_KEYS || kind == COMMAND_SCAN;
    return 1 + (uint64_t)n_args + (walks ? LIMIT_TRANSACTION_WALK : 0);
}

enum error_code command_decode_nested(const struct command *outer, struct slice bytes,
                                      struct command *nested, struct error *error) {
    /* The kind is looked at first: so that input cannot nest as deep as it likes. */
    unsigned kind = bytes.size > 0 ? bytes.data[0] : 0;
    if (!command_may_nest(outer->kind, (enum command_kind)kind)) {
        return error_set(error, ERROR_INVALID, "command %u cannot stand within a command %u", kind,
                         (unsigned)outer->kind);
    }
    enum error_code code = command_decode(bytes, nested, error);
    if (code == ERROR_NONE &&
        (!slice_equal(nested->project, outer->project) || nested->token != outer->token)) {
        return error_set(error, ERROR_INVALID,
                         "command %u has another project or token than the command %u around it",
                         kind, (unsigned)outer->kind);
    }
    return code;
}

/* Watched keys and versions, which are the arguments before the nested commands. */
static enum error_code check_watches(struct reader *args, uint32_t n, struct error *error) {
    for (uint32_t i = 0; i < 2 * n; i++) {
        struct slice arg = reader_bytes(args);
        enum error_code code = check_arg(i % 2 == 0 ? 'k' : 'n', arg, error);
        if (code != ERROR_NONE) {
            return code;
        }
    }
    return ERROR_NONE;
}

static enum error_code check_transaction(const struct command *command, struct error *error) {
    struct reader args = reader_make(command->args);
    uint32_t n_watched;
    if (!read_watch_count(&args, command->n_args, &n_watched)) {
        return error_set(error, ERROR_INVALID, "transaction of %u arguments is cut short",
                         command->n_args);
    }
    uint32_t n_nested = command->n_args - 1 - 2 * n_watched;
    /* A read may be about the watched keys alone. */
    if (n_nested == 0 && (n_watched == 0 || command->kind == COMMAND_TRANSACTION)) {
        return error_set(error, ERROR_INVALID, "transaction without commands");
    }
    enum error_code code = check_watches(&args, n_watched, error);
    uint64_t words = 2 * (uint64_t)n_watched;
    for (uint32_t i = 0; i < n_nested && code == ERROR_NONE; i++) {
        struct command decoded = {0};
        code = command_decode_nested(command, reader_bytes(&args), &decoded, error);
        words += command_words(decoded.kind, decoded.n_args);
    }
    if (code != ERROR_NONE) {
        return code;
    }
    if (!reader_done(&args)) {
        return error_set(error, ERROR_INVALID, "arguments of a transaction do not fill it");
    }
    if (words > LIMIT_RESP_ARGS) {
        return error_set(error, ERROR_TOOBIG,
                         "transaction of %llu commands, arguments and watched keys, the limit is "
                         "%d",
                         (unsigned long long)words, LIMIT_RESP_ARGS);
    }
    return ERROR_NONE;
}

static enum error_code check_arg_of(const struct command *command, char letter, struct slice arg,
                                    struct error *error) {
    struct command nested;
    return letter == 'c' ? command_decode_nested(command, arg, &nested, error)
                         : check_arg(letter, arg, error);
}

static enum error_code check_args(const struct command *command, const struct command_rule *rule,
                                  struct error *error) {
    if (rule->traits & NESTS) {
        return check_transaction(command, error);
    }
    char letters[8];
    expected_args(command, rule, letters);
    uint32_t round = (uint32_t)strlen(letters);
    if (!count_fits(command->n_args, round, rule)) {
        return error_set(error, ERROR_INVALID, "command %u with %u arguments",
                         (unsigned)command->kind, command->n_args);
    }
    struct reader args = reader_make(command->args);
    for (uint32_t i = 0; i < command->n_args; i++) {
        struct slice arg = reader_bytes(&args);
        if (args.failed) {
            break;
        }
        enum error_code code = check_arg_of(command, letters[i % round], arg, error);
        if (code != ERROR_NONE) {
            return code;
        }
    }
    if (!reader_done(&args)) {
        return error_set(error, ERROR_INVALID, "arguments of command %u do not fill it",
                         (unsigned)command->kind);
    }
    return ERROR_NONE;
}

enum error_code command_decode(struct slice bytes, struct command *command, struct error *error) {
    *command = (struct command){0};
    struct reader reader = reader_make(bytes);
    unsigned kind, mode;
    struct command decoded = read_header(&reader, &kind, &mode);
    if (reader.failed) {
        return error_set(error, ERROR_INVALID, "command of %zu bytes is cut short", bytes.size);
    }
    const struct command_rule *rule = rule_of(kind);
    if (rule == NULL) {
        return error_set(error, ERROR_INVALID, "unknown command %u", kind);
    }
    if (mode > COMMAND_EXPIRY_AT) {
        return error_set(error, ERROR_INVALID, "unknown expiry mode %u", mode);
    }
    decoded.kind = rule->kind;
    decoded.expiry_mode = (enum command_expiry)mode;
    enum error_code code = check_options(&decoded, rule, error);
    if (code == ERROR_NONE) {
        code = check_project(&decoded, rule, error);
    }
    if (code == ERROR_NONE) {
        code = check_args(&decoded, rule, error);
    }
    if (code == ERROR_NONE) {
        *command = decoded;
    }
    return code;
}

struct slice command_next_arg(struct reader *args) {
    return reader_bytes(args);
}

void command_batch_begin(struct buffer *out, uint64_t time_ms, uint64_t default_quota) {
    ASSERT(out->size == 0);
    ASSERT(time_ms <= INT64_MAX);
    buffer_put_u8(out, BATCH_VERSION);
    buffer_put_u64(out, time_ms);
    buffer_put_u64(out, default_quota);
    buffer_put_u16(out, 0);
}

void command_batch_add(struct buffer *out, struct command_origin origin, struct slice command) {
    ASSERT(out->size >= COMMAND_BATCH_HEADER_SIZE);
    ASSERT(command.size <= UINT32_MAX - ORIGIN_SIZE);
    uint16_t count = bytes_get_u16(out->data + BATCH_COUNT_AT);
    ASSERT(count < UINT16_MAX);
    buffer_reserve(out, COMMAND_FRAME_SIZE + command.size);
    buffer_put_u32(out, (uint32_t)(ORIGIN_SIZE + command.size));
    buffer_put_u32(out, origin.node);
    buffer_put_u64(out, origin.boot);
    buffer_put_u64(out, origin.sequence);
    buffer_append_slice(out, command);
    bytes_put_u16(out->data + BATCH_COUNT_AT, (uint16_t)(count + 1));
}

struct payload *command_batch_of_one(uint64_t default_quota, struct command_origin origin,
                                     struct slice command) {
    enum { HEAD = COMMAND_BATCH_HEADER_SIZE + COMMAND_FRAME_SIZE };
    struct payload *batch = payload_new(HEAD + command.size);
    struct buffer head = {0};
    command_batch_begin(&head, 0, default_quota);
    command_batch_add(&head, origin, (struct slice){0});
    ASSERT(head.size == HEAD);
    bytes_put_u32(head.data + COMMAND_BATCH_HEADER_SIZE, (uint32_t)(ORIGIN_SIZE + command.size));
    memcpy(batch->data, head.data, HEAD);
    memcpy(batch->data + HEAD, command.data, command.size);
    buffer_free(&head);
    return batch;
}

void command_batch_set_time(struct payload *batch, uint64_t time_ms) {
    ASSERT(batch->size >= COMMAND_BATCH_HEADER_SIZE && time_ms <= INT64_MAX);
    bytes_put_u64(batch->data + BATCH_TIME_AT, time_ms);
}

/* Walks the frames, so that the later walk through the commands cannot run past the end or leave
 * bytes behind. */
static enum error_code check_frames(struct reader frames, unsigned count, struct error *error) {
    for (unsigned i = 0; i < count; i++) {
        struct slice frame = reader_bytes(&frames);
        if (frames.failed || frame.size < ORIGIN_SIZE) {
            return error_set(error, ERROR_CORRUPT, "batch: command %u of %u is cut short", i + 1,
                             count);
        }
    }
    if (!reader_done(&frames)) {
        return error_set(error, ERROR_CORRUPT, "batch: %zu bytes behind its %u commands",
                         frames.rest.size, count);
    }
    return ERROR_NONE;
}

enum error_code command_batch_decode(struct slice bytes, struct command_batch *batch,
                                     struct error *error) {
    *batch = (struct command_batch){0};
    struct reader reader = reader_make(bytes);
    unsigned version = reader_u8(&reader);
    uint64_t time_ms = reader_u64(&reader);
    uint64_t default_quota = reader_u64(&reader);
    uint16_t count = reader_u16(&reader);
    if (reader.failed) {
        return error_set(error, ERROR_CORRUPT, "batch: header cut short at %zu bytes", bytes.size);
    }
    if (version != BATCH_VERSION) {
        return error_set(error, ERROR_CORRUPT, "batch: version %u, this release reads %d", version,
                         BATCH_VERSION);
    }
    if (time_ms > INT64_MAX) {
        return error_set(error, ERROR_CORRUPT, "batch: impossible time");
    }
    enum error_code code = check_frames(reader, count, error);
    if (code == ERROR_NONE) {
        *batch = (struct command_batch){time_ms, default_quota, count, reader};
    }
    return code;
}

enum error_code command_batch_next(struct command_batch *batch, struct command_origin *origin,
                                   struct command *command, struct error *error) {
    struct reader frame = reader_make(reader_bytes(&batch->rest));
    origin->node = reader_u32(&frame);
    origin->boot = reader_u64(&frame);
    origin->sequence = reader_u64(&frame);
    if (batch->rest.failed || frame.failed) {
        return error_set(error, ERROR_CORRUPT, "batch: no further command");
    }
    struct error reason;
    if (command_decode(frame.rest, command, &reason) != ERROR_NONE) {
        return error_set(error, ERROR_CORRUPT, "batch: %s", reason.message);
    }
    return ERROR_NONE;
}

void result_free(struct result *result) {
    buffer_free(&result->data);
    *result = (struct result){0};
}

void result_set_error(struct result *result, enum error_code code, const char *format, ...) {
    ASSERT(code != ERROR_NONE);
    char message[ERROR_MESSAGE_SIZE];
    va_list args;
    va_start(args, format);
    int size = vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    ASSERT(size >= 0);
    result_free(result);
    result->kind = RESULT_ERROR;
    result->code = code;
    size_t kept = (size_t)size < sizeof(message) ? (size_t)size : sizeof(message) - 1;
    buffer_append(&result->data, message, kept);
}

void result_begin_array(struct result *result, uint32_t count) {
    result_free(result);
    result->kind = RESULT_ARRAY;
    buffer_put_u32(&result->data, count);
}

void result_add_nil(struct result *result) {
    buffer_put_u8(&result->data, RESULT_TAG_NIL);
}

void result_add_bulk(struct result *result, struct slice bytes) {
    buffer_put_u8(&result->data, RESULT_TAG_BULK);
    buffer_put_bytes(&result->data, bytes);
}

void result_add_integer(struct result *result, int64_t integer) {
    buffer_put_u8(&result->data, RESULT_TAG_INTEGER);
    buffer_put_u64(&result->data, (uint64_t)integer);
}

void result_add_array(struct result *result, uint32_t count) {
    buffer_put_u8(&result->data, RESULT_TAG_ARRAY);
    buffer_put_u32(&result->data, count);
}

void result_begin_results(struct result *result, uint32_t count) {
    result_free(result);
    result->kind = RESULT_RESULTS;
    buffer_put_u32(&result->data, count);
}

/* Bytes of an encoded result besides its data. */
enum { RESULT_HEADER_SIZE = 1 + 1 + 8 + 4 };

void result_add_result(struct result *result, const struct result *element) {
    ASSERT(result->kind == RESULT_RESULTS && element->kind != RESULT_RESULTS);
    buffer_put_u32(&result->data, (uint32_t)(RESULT_HEADER_SIZE + element->data.size));
    result_encode(&result->data, element);
}

struct result_view result_view_of(const struct result *result) {
    return (struct result_view){result->kind, result->code, result->integer,
                                buffer_slice(&result->data)};
}

/*     u8   kind
 *     u8   error code
 *     u64  integer
 *     u32+ data */
void result_encode(struct buffer *out, const struct result *result) {
    buffer_put_u8(out, (uint8_t)result->kind);
    buffer_put_u8(out, (uint8_t)result->code);
    buffer_put_u64(out, (uint64_t)result->integer);
    buffer_put_bytes(out, buffer_slice(&result->data));
}

/* Walks the elements; each array adds to the number that must still come, so that their depth does
 * not matter. */
static bool array_is_valid(struct slice data) {
    struct reader reader = reader_make(data);
    uint64_t left = reader_u32(&reader);
    /* An element takes a byte at least, which bounds the walk. */
    while (left > 0 && left <= reader.rest.size && !reader.failed) {
        left--;
        switch (reader_u8(&reader)) {
        case RESULT_TAG_NIL:
            break;
        case RESULT_TAG_BULK:
            (void)reader_bytes(&reader);
            break;
        case RESULT_TAG_INTEGER:
            (void)reader_u64(&reader);
            break;
        case RESULT_TAG_ARRAY:
            left += reader_u32(&reader);
            break;
        default:
            return false;
        }
    }
    return left == 0 && reader_done(&reader);
}

/* The fields as result_encode() wrote them, unchecked; false when the bytes do not hold them. */
static bool read_result(struct slice bytes, struct result_view *view) {
    struct reader reader = reader_make(bytes);
    view->kind = (enum result_kind)reader_u8(&reader);
    view->code = (enum error_code)reader_u8(&reader);
    view->integer = (int64_t)reader_u64(&reader);
    view->data = reader_bytes(&reader);
    return reader_done(&reader);
}

struct result_view result_next(struct reader *elements) {
    struct result_view view;
    bool complete = read_result(reader_bytes(elements), &view);
    ASSERT(complete);
    return view;
}

static bool result_is_valid(const struct result_view *view);

static bool results_are_valid(struct slice data) {
    struct reader reader = reader_make(data);
    uint32_t count = reader_u32(&reader);
    for (uint32_t i = 0; i < count && !reader.failed; i++) {
        struct result_view element;
        if (!read_result(reader_bytes(&reader), &element) || element.kind == RESULT_RESULTS ||
            !result_is_valid(&element)) {
            return false;
        }
    }
    return reader_done(&reader);
}

/* True when the fields go together as result_encode() would write them. */
static bool result_is_valid(const struct result_view *view) {
    const unsigned kind = (unsigned)view->kind;
    const unsigned code = (unsigned)view->code;
    const int64_t integer = view->integer;
    const struct slice data = view->data;
    if (kind > RESULT_RESULTS || !error_is_known((int)code)) {
        return false;
    }
    if ((kind == RESULT_ERROR) != (code != ERROR_NONE)) {
        return false;
    }
    if (integer != 0 && kind != RESULT_INTEGER) {
        return false;
    }
    switch (view->kind) {
    case RESULT_OK:
    case RESULT_NIL:
    case RESULT_INTEGER:
        return data.size == 0;
    case RESULT_INTEGERS:
        return data.size % sizeof(uint64_t) == 0;
    case RESULT_ARRAY:
        return array_is_valid(data);
    case RESULT_RESULTS:
        return results_are_valid(data);
    case RESULT_BULK:
    case RESULT_ERROR:
    case RESULT_STATUS:
        return true;
    }
    return false;
}

enum error_code result_decode(struct slice bytes, struct result *result, struct error *error) {
    *result = (struct result){0};
    struct result_view view;
    if (!read_result(bytes, &view)) {
        return error_set(error, ERROR_INVALID, "result of %zu bytes does not fill its frame",
                         bytes.size);
    }
    if (!result_is_valid(&view)) {
        return error_set(error, ERROR_INVALID, "result of kind %u, code %u, %zu bytes is malformed",
                         (unsigned)view.kind, (unsigned)view.code, view.data.size);
    }
    result->kind = view.kind;
    result->code = view.code;
    result->integer = view.integer;
    buffer_append_slice(&result->data, view.data);
    return ERROR_NONE;
}
