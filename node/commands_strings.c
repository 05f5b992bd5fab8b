/* Strings: GET and SET. */
#include "base/limits.h"
#include "node/resp_commands.h"
#include "node/session_state.h"

/* A relative expiry is added to the cluster's time by the leader; so that no sum passes 2^53
 * milliseconds (which clients that keep numbers as doubles can hold), the relative part stays below
 * it by more than the clock will show until the year 2200. */
#define EXPIRY_AT_MAX_MS ((int64_t)1 << 53)
#define EXPIRY_AFTER_MAX_MS (EXPIRY_AT_MAX_MS - ((int64_t)1 << 43))

void verb_get(struct call *call) {
    if (call_check_keys(call, 1, 2)) {
        call_submit_args(call, COMMAND_GET, 1);
    }
}

/* The option that an expiry came with. */
struct expiry_option {
    const char *name;
    enum command_expiry mode;
    int64_t unit_ms;
};

static const struct expiry_option expiry_options[] = {
    {"EX", COMMAND_EXPIRY_AFTER, 1000},
    {"PX", COMMAND_EXPIRY_AFTER, 1},
    {"EXAT", COMMAND_EXPIRY_AT, 1000},
    {"PXAT", COMMAND_EXPIRY_AT, 1},
};

struct set_options {
    uint8_t flags; /* enum command_flags */
    const struct expiry_option *expiry;
    struct slice expiry_text;
};

static const struct expiry_option *find_expiry_option(struct slice word) {
    for (unsigned i = 0; i < sizeof expiry_options / sizeof expiry_options[0]; i++) {
        if (slice_equal_nocase(word, expiry_options[i].name)) {
            return &expiry_options[i];
        }
    }
    return NULL;
}

static uint8_t find_set_flag(struct slice word) {
    return slice_equal_nocase(word, "NX")        ? COMMAND_FLAG_NX
           : slice_equal_nocase(word, "XX")      ? COMMAND_FLAG_XX
           : slice_equal_nocase(word, "GET")     ? COMMAND_FLAG_GET
           : slice_equal_nocase(word, "KEEPTTL") ? COMMAND_FLAG_KEEPTTL
                                                 : 0;
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
        const struct expiry_option *expiry = find_expiry_option(call->argv[i]);
        if (expiry == NULL || options->expiry != NULL || i + 1 == call->argc) {
            return false;
        }
        options->expiry = expiry;
        options->expiry_text = call->argv[++i];
    }
    const uint8_t both = COMMAND_FLAG_NX | COMMAND_FLAG_XX;
    bool keeps = (options->flags & COMMAND_FLAG_KEEPTTL) != 0;
    return (options->flags & both) != both && !(keeps && options->expiry != NULL);
}

/* Fills the command's expiry, or answers with an error and returns false. */
static bool parse_expiry(struct call *call, const struct expiry_option *option, struct slice text,
                         struct command *command) {
    int64_t number;
    if (!call_parse_integer(text, &number)) {
        call_error(call, "ERR", "value is not an integer or out of range");
        return false;
    }
    int64_t max_ms = option->mode == COMMAND_EXPIRY_AFTER ? EXPIRY_AFTER_MAX_MS : EXPIRY_AT_MAX_MS;
    if (number <= 0 || number > max_ms / option->unit_ms) {
        call_error(call, "ERR", "invalid expire time in '%s' command", call->verb->name);
        return false;
    }
    command->expiry_mode = option->mode;
    command->expiry_ms = (uint64_t)(number * option->unit_ms);
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
        !parse_expiry(call, options.expiry, options.expiry_text, &command)) {
        return;
    }
    if (!call_check_keys(call, 1, 2)) {
        return;
    }
    uint64_t max_value = call->session->host->limits.max_value;
    if (call->argv[2].size > max_value) {
        call_error(call, "TOOBIG", "value of %zu bytes exceeds the limit of %llu bytes (max_value)",
                   call->argv[2].size, (unsigned long long)max_value);
        return;
    }
    call_submit(call, &command, call->argv + 1, 2);
}
