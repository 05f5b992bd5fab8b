/* When keys expire. */
#include "base/number.h"
#include "node/resp_commands.h"

/* A relative expiry is added to the cluster's time by the leader; so that no sum passes 2^53
 * milliseconds (which clients that keep numbers as doubles can hold), the relative part stays below
 * it by more than the clock will show until the year 2200. */
#define EXPIRY_AT_MAX_MS ((int64_t)1 << 53)
#define EXPIRY_AFTER_MAX_MS (EXPIRY_AT_MAX_MS - ((int64_t)1 << 43))

static const struct expiry_option expiry_options[] = {
    {"EX", COMMAND_EXPIRY_AFTER, 1000},
    {"PX", COMMAND_EXPIRY_AFTER, 1},
    {"EXAT", COMMAND_EXPIRY_AT, 1000},
    {"PXAT", COMMAND_EXPIRY_AT, 1},
};

const struct expiry_option *expiry_option_find(struct slice word) {
    for (unsigned i = 0; i < sizeof expiry_options / sizeof expiry_options[0]; i++) {
        if (slice_equal_nocase(word, expiry_options[i].name)) {
            return &expiry_options[i];
        }
    }
    return NULL;
}

static void refuse_time(struct call *call) {
    call_error(call, "ERR", "invalid expire time in '%s' command", call->verb->name);
}

bool call_parse_expiry(struct call *call, const struct expiry_option *option, struct slice text,
                       struct command *command) {
    int64_t number;
    if (!number_parse_integer(text, &number)) {
        call_error(call, "ERR", "value is not an integer or out of range");
        return false;
    }
    int64_t max_ms = option->mode == COMMAND_EXPIRY_AFTER ? EXPIRY_AFTER_MAX_MS : EXPIRY_AT_MAX_MS;
    if (number <= 0 || number > max_ms / option->unit_ms) {
        refuse_time(call);
        return false;
    }
    command->expiry_mode = option->mode;
    command->expiry_ms = (uint64_t)(number * option->unit_ms);
    return true;
}

static uint8_t find_expire_flag(struct slice word) {
    return slice_equal_nocase(word, "NX")   ? COMMAND_FLAG_NX
           : slice_equal_nocase(word, "XX") ? COMMAND_FLAG_XX
           : slice_equal_nocase(word, "GT") ? COMMAND_FLAG_GT
           : slice_equal_nocase(word, "LT") ? COMMAND_FLAG_LT
                                            : 0;
}

/* Options from argv[3] on, or an error reply. */
static bool parse_expire_flags(struct call *call, uint8_t *flags) {
    const uint8_t order = COMMAND_FLAG_GT | COMMAND_FLAG_LT;
    *flags = 0;
    for (unsigned i = 3; i < call->argc; i++) {
        struct slice word = call->argv[i];
        uint8_t flag = find_expire_flag(word);
        if (flag == 0) {
            call_error(call, "ERR", "Unsupported option %.*s",
                       (int)(word.size < 128 ? word.size : 128),
                       word.size > 0 ? (const char *)word.data : "");
            return false;
        }
        *flags |= flag;
    }
    if ((*flags & COMMAND_FLAG_NX) && (*flags & (COMMAND_FLAG_XX | order))) {
        call_error(call, "ERR", "NX and XX, GT or LT options at the same time are not compatible");
        return false;
    }
    if ((*flags & order) == order) {
        call_error(call, "ERR", "GT and LT options at the same time are not compatible");
        return false;
    }
    return true;
}

/* Unlike SET's, this time may lie in the past; how far makes no difference. */
static bool parse_expire_time(struct call *call, const struct expiry_option *option,
                              struct command *command) {
    int64_t number;
    if (!number_parse_integer(call->argv[2], &number)) {
        call_error(call, "ERR", "value is not an integer or out of range");
        return false;
    }
    if (number > 0) {
        return call_parse_expiry(call, option, call->argv[2], command);
    }
    if (number < INT64_MIN / option->unit_ms) {
        refuse_time(call);
        return false;
    }
    command->expiry_mode = option->mode;
    return true;
}

static void submit_expire(struct call *call, const char *option) {
    struct command command = {.kind = COMMAND_EXPIRE};
    if (parse_expire_flags(call, &command.flags) &&
        parse_expire_time(call, expiry_option_find(slice_of(option)), &command) &&
        call_check_keys(call, 1, 2)) {
        call_submit(call, &command, call->argv + 1, 1);
    }
}

void verb_expire(struct call *call) {
    submit_expire(call, "EX");
}

void verb_pexpire(struct call *call) {
    submit_expire(call, "PX");
}

void verb_expireat(struct call *call) {
    submit_expire(call, "EXAT");
}

void verb_pexpireat(struct call *call) {
    submit_expire(call, "PXAT");
}

void verb_persist(struct call *call) {
    if (call_check_keys(call, 1, 2)) {
        call_submit_args(call, COMMAND_PERSIST, 1);
    }
}

static void submit_time(struct call *call, enum command_kind kind, uint8_t flags) {
    if (call_check_keys(call, 1, 2)) {
        struct command command = {.kind = kind, .flags = flags};
        call_submit(call, &command, call->argv + 1, 1);
    }
}

void verb_pttl(struct call *call) {
    submit_time(call, COMMAND_PTTL, 0);
}

void verb_ttl(struct call *call) {
    submit_time(call, COMMAND_PTTL, COMMAND_FLAG_ROUND_S);
}

void verb_pexpiretime(struct call *call) {
    submit_time(call, COMMAND_EXPIRETIME, 0);
}

void verb_expiretime(struct call *call) {
    submit_time(call, COMMAND_EXPIRETIME, COMMAND_FLAG_ROUND_S);
}
