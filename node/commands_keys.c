/* Keys of a project: existence, deletion, names, count. */
#include "base/limits.h"
#include "base/number.h"
#include "node/resp_commands.h"
#include "node/session_state.h"

void verb_exists(struct call *call) {
    if (call_check_keys(call, 1, call->argc)) {
        call_submit_args(call, COMMAND_EXISTS, 1);
    }
}

void verb_del(struct call *call) {
    if (call_check_keys(call, 1, call->argc)) {
        call_submit_args(call, COMMAND_DELETE, 1);
    }
}

void verb_dbsize(struct call *call) {
    call_submit_args(call, COMMAND_DBSIZE, 1);
}

void verb_flushdb(struct call *call) {
    /* Both modes are the same here: clearing takes constant time. */
    if (call->argc > 2 || (call->argc == 2 && !slice_equal_nocase(call->argv[1], "ASYNC") &&
                           !slice_equal_nocase(call->argv[1], "SYNC"))) {
        call_syntax_error(call);
        return;
    }
    call_submit_args(call, COMMAND_CLEAR, call->argc);
}

void verb_type(struct call *call) {
    if (call_check_keys(call, 1, 2)) {
        call_submit_args(call, COMMAND_TYPE, 1);
    }
}

static void submit_rename(struct call *call, uint8_t flags) {
    struct command command = {.kind = COMMAND_RENAME, .flags = flags};
    if (call_check_keys(call, 1, 3)) {
        call_submit(call, &command, call->argv + 1, 2);
    }
}

void verb_rename(struct call *call) {
    submit_rename(call, 0);
}

void verb_renamenx(struct call *call) {
    submit_rename(call, COMMAND_FLAG_NX);
}

/* Takes DB 0 and REPLACE from argv[3] on, or replies with an error. */
static bool parse_copy_options(struct call *call, uint8_t *flags) {
    for (unsigned i = 3; i < call->argc; i++) {
        int64_t number;
        if (slice_equal_nocase(call->argv[i], "REPLACE")) {
            *flags = COMMAND_FLAG_REPLACE;
        } else if (!slice_equal_nocase(call->argv[i], "DB") || i + 1 == call->argc) {
            call_syntax_error(call);
            return false;
        } else if (!number_parse_integer(call->argv[++i], &number)) {
            call_error(call, "ERR", "value is not an integer or out of range");
            return false;
        } else if (number != 0) {
            call_error(call, "ERR", "DB index is out of range");
            return false;
        }
    }
    return true;
}

void verb_copy(struct call *call) {
    struct command command = {.kind = COMMAND_COPY};
    if (!parse_copy_options(call, &command.flags) || !call_check_keys(call, 1, 3)) {
        return;
    }
    if (slice_equal(call->argv[1], call->argv[2])) {
        call_error(call, "ERR", "source and destination objects are the same");
        return;
    }
    call_submit(call, &command, call->argv + 1, 2);
}

/* ---- names of keys ---- */

static bool check_pattern(struct call *call, struct slice pattern) {
    if (pattern.size <= LIMIT_PATTERN_SIZE) {
        return true;
    }
    call_error(call, "TOOBIG", "pattern of %zu bytes exceeds the limit of %d bytes", pattern.size,
               LIMIT_PATTERN_SIZE);
    return false;
}

void verb_keys(struct call *call) {
    if (check_pattern(call, call->argv[1])) {
        call_submit_args(call, COMMAND_KEYS, 1);
    }
}

void verb_randomkey(struct call *call) {
    const struct session *session = call->session;
    uint8_t seed[sizeof(uint64_t)];
    /* Differs from call to call; nobody needs more of it. */
    bytes_put_u64(seed, (session->active_ms << 32) ^ session->host->stats.commands);
    struct slice arg = slice_make(seed, sizeof seed);
    struct command command = {.kind = COMMAND_RANDOM_KEY};
    call_submit(call, &command, &arg, 1);
}

struct scan_options {
    uint64_t count;
    struct slice pattern;
    bool other_type; /* no key has the type that was asked for */
};

/* Options from argv[2] on, or an error reply. */
static bool parse_scan_options(struct call *call, struct scan_options *options) {
    *options = (struct scan_options){.count = 10, .pattern = slice_of("*")};
    for (unsigned i = 2; i < call->argc; i += 2) {
        struct slice word = call->argv[i];
        int64_t count;
        if (i + 1 == call->argc) {
            call_syntax_error(call);
            return false;
        }
        struct slice value = call->argv[i + 1];
        if (slice_equal_nocase(word, "MATCH")) {
            options->pattern = value;
        } else if (slice_equal_nocase(word, "TYPE")) {
            options->other_type = !slice_equal_nocase(value, "string");
        } else if (!slice_equal_nocase(word, "COUNT")) {
            call_syntax_error(call);
            return false;
        } else if (!number_parse_integer(value, &count)) {
            call_error(call, "ERR", "value is not an integer or out of range");
            return false;
        } else if (count < 1) {
            call_syntax_error(call);
            return false;
        } else {
            options->count = (uint64_t)count;
        }
    }
    return check_pattern(call, options->pattern);
}

void verb_scan(struct call *call) {
    int64_t cursor;
    struct scan_options options;
    if (!number_parse_integer(call->argv[1], &cursor) || cursor < 0) {
        call_error(call, "ERR", "invalid cursor");
        return;
    }
    if (!parse_scan_options(call, &options)) {
        return;
    }
    if (options.other_type) {
        struct buffer *out = call_reply(call);
        resp_write_array(out, 2);
        resp_write_bulk(out, slice_of("0"));
        resp_write_array(out, 0);
        return;
    }
    uint8_t numbers[2][sizeof(uint64_t)];
    bytes_put_u64(numbers[0], (uint64_t)cursor);
    bytes_put_u64(numbers[1], options.count);
    struct slice args[] = {slice_make(numbers[0], sizeof numbers[0]),
                           slice_make(numbers[1], sizeof numbers[1]), options.pattern};
    struct command command = {.kind = COMMAND_SCAN};
    call_submit(call, &command, args, 3);
}

/* ---- what clients ask about keys ---- */

static void submit_inspect(struct call *call, enum command_aspect aspect) {
    uint8_t number[sizeof(uint64_t)];
    bytes_put_u64(number, aspect);
    struct slice args[] = {call->argv[2], slice_make(number, sizeof number)};
    struct command command = {.kind = COMMAND_INSPECT};
    if (call_check_keys(call, 2, 3)) {
        call_submit(call, &command, args, 2);
    }
}

void verb_object_encoding(struct call *call) {
    submit_inspect(call, COMMAND_ASPECT_ENCODING);
}

void verb_object_freq(struct call *call) {
    submit_inspect(call, COMMAND_ASPECT_FREQ);
}

void verb_object_idletime(struct call *call) {
    submit_inspect(call, COMMAND_ASPECT_IDLETIME);
}

void verb_object_refcount(struct call *call) {
    submit_inspect(call, COMMAND_ASPECT_REFCOUNT);
}

void verb_memory_usage(struct call *call) {
    int64_t samples;
    if (call->argc != 3 && (call->argc != 5 || !slice_equal_nocase(call->argv[3], "SAMPLES"))) {
        call_syntax_error(call);
        return;
    }
    if (call->argc == 5 && !number_parse_integer(call->argv[4], &samples)) {
        call_error(call, "ERR", "value is not an integer or out of range");
        return;
    }
    submit_inspect(call, COMMAND_ASPECT_MEMORY);
}
