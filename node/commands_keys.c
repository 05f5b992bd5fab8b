/* Keys of a project: existence, deletion, expiry, count. */
#include "node/resp_commands.h"

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

static void submit_pttl(struct call *call, uint8_t flags) {
    if (call_check_keys(call, 1, 2)) {
        struct command command = {.kind = COMMAND_PTTL, .flags = flags};
        call_submit(call, &command, call->argv + 1, 1);
    }
}

void verb_pttl(struct call *call) {
    submit_pttl(call, 0);
}

void verb_ttl(struct call *call) {
    submit_pttl(call, COMMAND_FLAG_ROUND_S);
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
