/* Strings: commands that read and write values. */
#include "base/limits.h"
#include "base/number.h"
#include "node/resp_commands.h"
#include "node/session_state.h"

void verb_get(struct call *call) {
    if (call_check_keys(call, 1, 2)) {
        call_submit_args(call, COMMAND_GET, 1);
    }
}

#define CONDITIONS ((unsigned)(COMMAND_FLAG_IFEQ | COMMAND_FLAG_IFVER))

struct set_options {
    uint8_t flags; /* enum command_flags */
    const struct expiry_option *expiry;
    struct slice expiry_text;
    struct slice condition; /* what follows IFEQ or IFVER */
};

static uint8_t find_set_flag(struct slice word) {
    return slice_equal_nocase(word, "NX")        ? COMMAND_FLAG_NX
           : slice_equal_nocase(word, "XX")      ? COMMAND_FLAG_XX
           : slice_equal_nocase(word, "GET")     ? COMMAND_FLAG_GET
           : slice_equal_nocase(word, "KEEPTTL") ? COMMAND_FLAG_KEEPTTL
                                                 : 0;
}

static uint8_t find_condition(struct slice word) {
    return slice_equal_nocase(word, "IFEQ")    ? COMMAND_FLAG_IFEQ
           : slice_equal_nocase(word, "IFVER") ? COMMAND_FLAG_IFVER
                                               : 0;
}

static unsigned count_of(unsigned flags, unsigned mask) {
    return (unsigned)__builtin_popcount(flags & mask);
}

/* Options from argv[3] on; false on a syntax error. */
static bool parse_set_options(const struct call *call, struct set_options *options) {
    *options = (struct set_options){0};
    for (unsigned i = 3; i < call->argc; i++) {
        uint8_t flag = find_set_flag(call->argv[i]);
        if (flag != 0) {
            options->flags |= flag;
            continue;
        }
        if (i + 1 == call->argc) {
            return false;
        }
        uint8_t condition = find_condition(call->argv[i]);
        const struct expiry_option *expiry = expiry_option_find(call->argv[i]);
        if (condition != 0 && !(options->flags & CONDITIONS)) {
            options->flags |= condition;
            options->condition = call->argv[++i];
        } else if (expiry != NULL && options->expiry == NULL) {
            options->expiry = expiry;
            options->expiry_text = call->argv[++i];
        } else {
            return false;
        }
    }
    bool keeps = (options->flags & COMMAND_FLAG_KEEPTTL) != 0;
    return count_of(options->flags, COMMAND_FLAG_NX | COMMAND_FLAG_XX | CONDITIONS) <= 1 &&
           !(keeps && options->expiry != NULL);
}

/* A number as an argument of a command. */
struct number_arg {
    uint8_t bytes[sizeof(uint64_t)];
};

static struct slice number_arg(struct number_arg *arg, uint64_t number) {
    bytes_put_u64(arg->bytes, number);
    return slice_make(arg->bytes, sizeof arg->bytes);
}

static uint64_t max_value(const struct call *call) {
    return call->session->host->limits.max_value;
}

/* Answers -TOOBIG and returns false when the value is too large. */
static bool check_value(struct call *call, struct slice value) {
    if (value.size <= max_value(call)) {
        return true;
    }
    call_error(call, "TOOBIG", "value of %zu bytes exceeds the limit of %llu bytes (max_value)",
               value.size, (unsigned long long)max_value(call));
    return false;
}

static void refuse_integer(struct call *call) {
    call_error(call, "ERR", "value is not an integer or out of range");
}

/* Makes the argument that goes with IFEQ or IFVER, if there is one. */
static bool parse_condition(struct call *call, uint8_t flags, struct slice text,
                            struct number_arg *number, struct slice *arg) {
    int64_t version;
    *arg = text;
    if (!(flags & COMMAND_FLAG_IFVER)) {
        return !(flags & COMMAND_FLAG_IFEQ) || check_value(call, text);
    }
    if (!number_parse_integer(text, &version) || version < 0) {
        refuse_integer(call);
        return false;
    }
    *arg = number_arg(number, (uint64_t)version);
    return true;
}

void verb_set(struct call *call) {
    struct set_options options;
    if (!parse_set_options(call, &options)) {
        call_syntax_error(call);
        return;
    }
    struct command command = {.kind = COMMAND_SET, .flags = options.flags};
    if (options.expiry != NULL &&
        !call_parse_expiry(call, options.expiry, options.expiry_text, &command)) {
        return;
    }
    struct number_arg version;
    struct slice args[] = {call->argv[1], call->argv[2], {0}};
    if (!call_check_keys(call, 1, 2) || !check_value(call, call->argv[2]) ||
        !parse_condition(call, options.flags, options.condition, &version, &args[2])) {
        return;
    }
    call_submit(call, &command, args, (options.flags & CONDITIONS) ? 3 : 2);
}

/* SET with flags and nothing else; the value is argv[2]. */
static void submit_set(struct call *call, uint8_t flags) {
    struct command command = {.kind = COMMAND_SET, .flags = flags};
    if (call_check_keys(call, 1, 2) && check_value(call, call->argv[2])) {
        call_submit(call, &command, call->argv + 1, 2);
    }
}

void verb_setnx(struct call *call) {
    submit_set(call, COMMAND_FLAG_NX | COMMAND_FLAG_COUNT);
}

void verb_getset(struct call *call) {
    submit_set(call, COMMAND_FLAG_GET);
}

static void submit_setex(struct call *call, const char *option) {
    struct command command = {.kind = COMMAND_SET};
    struct slice args[] = {call->argv[1], call->argv[3]};
    if (call_parse_expiry(call, expiry_option_find(slice_of(option)), call->argv[2], &command) &&
        call_check_keys(call, 1, 2) && check_value(call, args[1])) {
        call_submit(call, &command, args, 2);
    }
}

void verb_setex(struct call *call) {
    submit_setex(call, "EX");
}

void verb_psetex(struct call *call) {
    submit_setex(call, "PX");
}

/* Several keys. */

static void submit_many(struct call *call, uint8_t flags) {
    if (call->argc % 2 == 0) {
        call_error(call, "ERR", "wrong number of arguments for '%s' command", call->verb->name);
        return;
    }
    for (unsigned i = 1; i < call->argc; i += 2) {
        if (!call_check_keys(call, i, i + 1) || !check_value(call, call->argv[i + 1])) {
            return;
        }
    }
    struct command command = {.kind = COMMAND_SET_MANY, .flags = flags};
    call_submit(call, &command, call->argv + 1, call->argc - 1);
}

void verb_mset(struct call *call) {
    submit_many(call, 0);
}

void verb_msetnx(struct call *call) {
    submit_many(call, COMMAND_FLAG_NX);
}

void verb_mget(struct call *call) {
    if (call_check_keys(call, 1, call->argc)) {
        call_submit_args(call, COMMAND_GET_MANY, 1);
    }
}

/* Numbers. */

static void submit_increment(struct call *call, int64_t delta) {
    struct number_arg number, limit;
    struct slice args[] = {call->argv[1], number_arg(&number, (uint64_t)delta),
                           number_arg(&limit, max_value(call))};
    struct command command = {.kind = COMMAND_INCREMENT};
    if (call_check_keys(call, 1, 2)) {
        call_submit(call, &command, args, 3);
    }
}

void verb_incr(struct call *call) {
    submit_increment(call, 1);
}

void verb_decr(struct call *call) {
    submit_increment(call, -1);
}

void verb_incrby(struct call *call) {
    int64_t delta;
    if (!number_parse_integer(call->argv[2], &delta)) {
        refuse_integer(call);
        return;
    }
    submit_increment(call, delta);
}

void verb_decrby(struct call *call) {
    int64_t delta;
    if (!number_parse_integer(call->argv[2], &delta)) {
        refuse_integer(call);
        return;
    }
    if (delta == INT64_MIN) {
        call_error(call, "ERR", "decrement would overflow");
        return;
    }
    submit_increment(call, -delta);
}

void verb_incrbyfloat(struct call *call) {
    long double increment;
    if (!number_parse_float(call->argv[2], &increment)) {
        call_error(call, "ERR", "value is not a valid float");
        return;
    }
    struct number_arg limit;
    struct slice args[] = {call->argv[1], call->argv[2], number_arg(&limit, max_value(call))};
    struct command command = {.kind = COMMAND_INCREMENT_FLOAT};
    if (call_check_keys(call, 1, 2)) {
        call_submit(call, &command, args, 3);
    }
}

/* Parts of values. */

void verb_append(struct call *call) {
    struct number_arg limit;
    struct slice args[] = {call->argv[1], call->argv[2], number_arg(&limit, max_value(call))};
    struct command command = {.kind = COMMAND_APPEND};
    if (call_check_keys(call, 1, 2) && check_value(call, args[1])) {
        call_submit(call, &command, args, 3);
    }
}

void verb_setrange(struct call *call) {
    int64_t offset;
    if (!number_parse_integer(call->argv[2], &offset)) {
        refuse_integer(call);
        return;
    }
    if (offset < 0) {
        call_error(call, "ERR", "offset is out of range");
        return;
    }
    struct number_arg number, limit;
    struct slice args[] = {call->argv[1], number_arg(&number, (uint64_t)offset), call->argv[3],
                           number_arg(&limit, max_value(call))};
    struct command command = {.kind = COMMAND_SETRANGE};
    if (call_check_keys(call, 1, 2) && check_value(call, args[2])) {
        call_submit(call, &command, args, 4);
    }
}

void verb_getrange(struct call *call) {
    int64_t first, last;
    if (!number_parse_integer(call->argv[2], &first) ||
        !number_parse_integer(call->argv[3], &last)) {
        refuse_integer(call);
        return;
    }
    struct number_arg numbers[2];
    struct slice args[] = {call->argv[1], number_arg(&numbers[0], (uint64_t)first),
                           number_arg(&numbers[1], (uint64_t)last)};
    struct command command = {.kind = COMMAND_GETRANGE};
    if (call_check_keys(call, 1, 2)) {
        call_submit(call, &command, args, 3);
    }
}

void verb_strlen(struct call *call) {
    if (call_check_keys(call, 1, 2)) {
        call_submit_args(call, COMMAND_STRLEN, 1);
    }
}

/* Reading and changing at once. */

void verb_getdel(struct call *call) {
    if (call_check_keys(call, 1, 2)) {
        call_submit_args(call, COMMAND_GETDEL, 1);
    }
}

void verb_getex(struct call *call) {
    struct command command = {.kind = COMMAND_GETEX};
    if (call->argc == 2) {
        verb_get(call);
        return;
    }
    const struct expiry_option *option = expiry_option_find(call->argv[2]);
    bool persists = call->argc == 3 && slice_equal_nocase(call->argv[2], "PERSIST");
    if (!persists && (option == NULL || call->argc != 4)) {
        call_syntax_error(call);
        return;
    }
    if (persists) {
        command.flags = COMMAND_FLAG_PERSIST;
    } else if (!call_parse_expiry(call, option, call->argv[3], &command)) {
        return;
    }
    if (call_check_keys(call, 1, 2)) {
        call_submit(call, &command, call->argv + 1, 1);
    }
}

void verb_getver(struct call *call) {
    if (call_check_keys(call, 1, 2)) {
        call_submit_args(call, COMMAND_GET_VERSION, 1);
    }
}

void verb_delex(struct call *call) {
    if (!call_check_keys(call, 1, 2)) {
        return;
    }
    if (call->argc == 2) {
        call_submit_args(call, COMMAND_DELETE, 1);
        return;
    }
    uint8_t flags = find_condition(call->argv[2]);
    if (flags == 0 || call->argc != 4) {
        call_syntax_error(call);
        return;
    }
    struct number_arg version;
    struct slice args[] = {call->argv[1], {0}};
    struct command command = {.kind = COMMAND_DELETE_MATCHING, .flags = flags};
    if (parse_condition(call, flags, call->argv[3], &version, &args[1])) {
        call_submit(call, &command, args, 2);
    }
}
