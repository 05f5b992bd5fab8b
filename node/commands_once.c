/* ONCE: sessions whose writes are numbered and carried out exactly once. docs/exactly-once.md */
#include "base/limits.h"
#include "base/number.h"
#include "node/resp_commands.h"
#include "node/session_state.h"

/* What stands before the command. */
struct once_prefix {
    uint8_t id[COMMAND_SESSION_SIZE];
    uint64_t sequence;
    uint64_t low; /* 0: not said */
};

static void refuse_arguments(struct call *call) {
    call_error(call, "ERR", "wrong number of arguments for 'once' command");
}

static bool digit_value(uint8_t digit, uint8_t *value) {
    if (digit >= '0' && digit <= '9') {
        *value = (uint8_t)(digit - '0');
        return true;
    }
    uint8_t lower = digit | 0x20;
    *value = (uint8_t)(lower - 'a' + 10);
    return lower >= 'a' && lower <= 'f';
}

/* A session as ONCE OPEN answered it, or an error reply. */
static bool parse_session(struct call *call, struct slice text, uint8_t id[COMMAND_SESSION_SIZE]) {
    bool good = text.size == 2 * COMMAND_SESSION_SIZE;
    for (size_t i = 0; i < COMMAND_SESSION_SIZE && good; i++) {
        uint8_t high = 0, low = 0;
        good = digit_value(text.data[2 * i], &high) && digit_value(text.data[2 * i + 1], &low);
        id[i] = (uint8_t)(16 * high + low);
    }
    if (!good) {
        call_error(call, "ERR", "a session is named by the 32 digits that ONCE OPEN answered");
    }
    return good;
}

static bool parse_number(struct call *call, struct slice text, uint64_t most, uint64_t *number) {
    int64_t parsed;
    if (!number_parse_integer(text, &parsed) || parsed < 1 || (uint64_t)parsed > most) {
        call_error(call, "ERR", "value is not an integer or out of range");
        return false;
    }
    *number = (uint64_t)parsed;
    return true;
}

/* OPEN and CLOSE */

static bool parse_ttl(struct call *call, uint64_t *ttl_ms) {
    *ttl_ms = LIMIT_ONCE_TTL_DEFAULT_MS;
    if (call->argc == 2) {
        return true;
    }
    if (call->argc != 4 || !slice_equal_nocase(call->argv[2], "TTL")) {
        call_syntax_error(call);
        return false;
    }
    int64_t parsed;
    if (!number_parse_integer(call->argv[3], &parsed) || parsed < LIMIT_ONCE_TTL_MIN_MS ||
        parsed > LIMIT_ONCE_TTL_MAX_MS) {
        call_error(call, "ERR", "TTL is from %d to %d milliseconds", LIMIT_ONCE_TTL_MIN_MS,
                   LIMIT_ONCE_TTL_MAX_MS);
        return false;
    }
    *ttl_ms = (uint64_t)parsed;
    return true;
}

static void open_session(struct call *call) {
    const struct session_port *port = &call->session->host->port;
    uint8_t id[COMMAND_SESSION_SIZE];
    uint8_t ttl[sizeof(uint64_t)];
    uint64_t ttl_ms;
    struct error error;
    if (!parse_ttl(call, &ttl_ms)) {
        return;
    }
    enum error_code code = port->random(port->data, id, sizeof id, &error);
    if (code != ERROR_NONE) {
        call_error(call, error_prefix(code), "%s", error.message);
        return;
    }
    bytes_put_u64(ttl, ttl_ms);
    struct slice args[] = {slice_make(id, sizeof id), slice_make(ttl, sizeof ttl)};
    struct command command = {.kind = COMMAND_ONCE_OPEN};
    call_submit(call, &command, args, 2);
}

static void close_session(struct call *call) {
    uint8_t id[COMMAND_SESSION_SIZE];
    if (call->argc != 3) {
        refuse_arguments(call);
        return;
    }
    if (parse_session(call, call->argv[2], id)) {
        struct slice arg = slice_make(id, sizeof id);
        struct command command = {.kind = COMMAND_ONCE_CLOSE};
        call_submit(call, &command, &arg, 1);
    }
}

/* A numbered write */

/* *first is where the command begins. False after an error reply. */
static bool parse_prefix(struct call *call, struct once_prefix *prefix, unsigned *first) {
    *first = 3;
    if (call->argc < 4) {
        refuse_arguments(call);
        return false;
    }
    if (!parse_session(call, call->argv[1], prefix->id) ||
        !parse_number(call, call->argv[2], INT64_MAX, &prefix->sequence)) {
        return false;
    }
    if (!slice_equal_nocase(call->argv[3], "DONE")) {
        return true;
    }
    *first = 5;
    if (call->argc < 6) {
        refuse_arguments(call);
        return false;
    }
    return parse_number(call, call->argv[4], prefix->sequence, &prefix->low);
}

static void refuse_command(struct call *call, const char *name) {
    call_error(call, "ERR", "ONCE is for commands that write keys; '%s' is none", name);
}

/* EXEC itself refuses a transaction that does not write. */
static bool may_follow(const struct verb *verb) {
    return verb->handler == verb_exec ||
           ((verb->flags & VERB_WRITE) != 0 && (verb->flags & VERB_ADMIN) == 0 &&
            verb->subcommands == NULL && verb->handler != verb_once);
}

static void run_numbered(struct call *call) {
    struct once_prefix prefix = {.low = 0};
    unsigned first;
    if (!parse_prefix(call, &prefix, &first)) {
        return;
    }
    const struct verb *verb = verb_find(call->argv[first]);
    if (call->session->transaction.is_open && (verb == NULL || verb->handler != verb_exec)) {
        call_error(call, "ERR", "between MULTI and EXEC only EXEC can stand behind ONCE");
        return;
    }
    if (verb != NULL && !may_follow(verb)) {
        refuse_command(call, verb->name);
        return;
    }
    /* Its handler checks and encodes as ever; call_submit() puts the prefix before it. */
    struct call numbered = *call;
    numbered.argc = call->argc - first;
    numbered.argv = call->argv + first;
    numbered.once = &prefix;
    verb_run(&numbered, verb);
}

void verb_once(struct call *call) {
    struct transaction *transaction = &call->session->transaction;
    bool queues = transaction->is_open;
    if (!queues && slice_equal_nocase(call->argv[1], "OPEN")) {
        open_session(call);
    } else if (!queues && slice_equal_nocase(call->argv[1], "CLOSE")) {
        close_session(call);
    } else {
        run_numbered(call);
    }
    if (queues && transaction->is_open) {
        transaction_break(transaction); /* it was not EXEC */
    }
}

bool call_once_accepts(struct call *call, enum command_kind kind) {
    if (command_may_nest(COMMAND_ONCE, kind)) {
        return true;
    }
    refuse_command(call, call->verb->name);
    return false;
}

void call_once_encode(const struct call *call, struct buffer *out, const struct command *command,
                      const struct slice *args, unsigned n_args) {
    const struct once_prefix *prefix = call->once;
    uint8_t numbers[2][sizeof(uint64_t)];
    bytes_put_u64(numbers[0], prefix->sequence);
    bytes_put_u64(numbers[1], prefix->low);
    const struct slice outer_args[] = {slice_make(prefix->id, sizeof prefix->id),
                                       slice_make(numbers[0], sizeof numbers[0]),
                                       slice_make(numbers[1], sizeof numbers[1]),
                                       {0}};
    struct command outer = *command;
    outer.kind = COMMAND_ONCE;
    outer.flags = 0;
    outer.expiry_mode = COMMAND_EXPIRY_NONE;
    outer.expiry_ms = 0;
    command_encode(out, &outer, outer_args, 4);
    /* The last argument is written in its place, since it may be large. */
    size_t start = out->size;
    command_encode(out, command, args, n_args);
    bytes_put_u32(out->data + start - sizeof(uint32_t), (uint32_t)(out->size - start));
}
