/* Exactly-once writes: what the commands mean. docs/exactly-once.md has the rules.
 *
 * The log orders a retry behind the attempt before it, wherever the two were sent to, so looking
 * into the table when the retry is applied is all that is needed. */
#include <inttypes.h>

#include "base/assert.h"
#include "base/limits.h"
#include "node/machine/apply.h"

/* Sessions that wait for their end are no keys, so they have a budget of their own, counted in rows
 * that go. A session goes as a whole. */
enum { PURGE_ROWS = MACHINE_PURGE_STEP };

/* When a session that is used now expires; 0 when that lies beyond the range of times. */
static uint64_t deadline_of(const struct batch_context *batch, uint64_t ttl_ms) {
    return ttl_ms <= INT64_MAX - batch->now_ms ? batch->now_ms + ttl_ms : 0;
}

static void answer_id(struct result *result, struct slice id) {
    static const char digits[] = "0123456789abcdef";
    result->kind = RESULT_BULK;
    for (size_t i = 0; i < id.size; i++) {
        buffer_put_u8(&result->data, (uint8_t)digits[id.data[i] >> 4]);
        buffer_put_u8(&result->data, (uint8_t)digits[id.data[i] & 15]);
    }
}

enum error_code apply_once_open(const struct batch_context *batch, const struct command *command,
                                struct result *result, struct error *error) {
    (void)error;
    struct once *once = &batch->machine->once;
    struct reader args = reader_make(command->args);
    struct slice id = command_next_arg(&args);
    uint64_t ttl_ms = apply_next_number(&args);
    if (ttl_ms < LIMIT_ONCE_TTL_MIN_MS || ttl_ms > LIMIT_ONCE_TTL_MAX_MS) {
        result_set_error(result, ERROR_INVALID,
                         "a session lives %d to %d ms without use, not %" PRIu64,
                         LIMIT_ONCE_TTL_MIN_MS, LIMIT_ONCE_TTL_MAX_MS, ttl_ms);
        return ERROR_NONE;
    }
    uint64_t expires_at_ms = deadline_of(batch, ttl_ms);
    if (expires_at_ms == 0) {
        result_set_error(result, ERROR_INVALID, "the session would expire beyond the end of time");
        return ERROR_NONE;
    }
    if (once_find(once, id) != NULL) {
        result_set_error(result, ERROR_INVALID, "there is a session of that id already");
        return ERROR_NONE;
    }
    if (once->count == LIMIT_ONCE_SESSIONS) {
        result_set_error(result, ERROR_BUSY,
                         "a shard holds at most %d sessions; close some or wait until they expire",
                         LIMIT_ONCE_SESSIONS);
        return ERROR_NONE;
    }
    struct once_session *session = once_add(once, id, ttl_ms, expires_at_ms, 1);
    once_mark(once, session);
    answer_id(result, id);
    return ERROR_NONE;
}

enum error_code apply_once_close(const struct batch_context *batch, const struct command *command,
                                 struct result *result, struct error *error) {
    struct reader args = reader_make(command->args);
    struct once_session *session = once_find(&batch->machine->once, command_next_arg(&args));
    result->kind = RESULT_INTEGER;
    result->integer = session != NULL;
    return session != NULL ? once_remove(batch->machine, session, error) : ERROR_NONE;
}

/* Coarse, so that a busy session's row is not written with every transaction. */
static void renew(const struct batch_context *batch, struct once_session *session) {
    uint64_t deadline_ms = deadline_of(batch, session->ttl_ms);
    if (deadline_ms > session->expires_at_ms &&
        deadline_ms - session->expires_at_ms > session->ttl_ms / 2) {
        once_set(&batch->machine->once, session, deadline_ms, session->low);
    }
}

static enum error_code answer_again(const struct batch_context *batch,
                                    const struct once_session *session, uint64_t sequence,
                                    const struct once_result *kept, struct result *result,
                                    struct error *error) {
    struct buffer encoded = {0};
    enum error_code code = once_recall(batch->machine, session, sequence, kept, &encoded, error);
    if (code == ERROR_NONE) {
        struct error reason;
        code = result_decode(buffer_slice(&encoded), result, &reason);
        if (code != ERROR_NONE) {
            code = error_set(error, ERROR_CORRUPT, "kept %s", reason.message);
        }
    }
    buffer_free(&encoded);
    return code;
}

/* Whether a write that was not carried out yet may be; otherwise fills the result. */
static bool may_run(const struct once *once, const struct once_session *session, uint64_t sequence,
                    struct result *result) {
    if (sequence < session->low) {
        result_set_error(result, ERROR_FORGOTTEN,
                         "results below %" PRIu64
                         " are forgotten in this session; this attempt had no effect",
                         session->low);
    } else if (sequence - session->low >= LIMIT_ONCE_WINDOW) {
        result_set_error(result, ERROR_BUSY,
                         "%" PRIu64 " is not within %d of %" PRIu64
                         ", the lowest number that is not done; nothing was carried out",
                         sequence, LIMIT_ONCE_WINDOW, session->low);
    } else if (session->bytes >= LIMIT_ONCE_SESSION_BYTES) {
        result_set_error(result, ERROR_BUSY,
                         "this session keeps results of %" PRIu64 " bytes, the limit is %" PRIu64
                         "; say what is DONE; nothing was carried out",
                         session->bytes, LIMIT_ONCE_SESSION_BYTES);
    } else if (once->bytes >= LIMIT_ONCE_SHARD_BYTES) {
        result_set_error(result, ERROR_BUSY,
                         "the sessions of this shard keep results of %" PRIu64
                         " bytes, the limit is %" PRIu64 "; nothing was carried out",
                         once->bytes, LIMIT_ONCE_SHARD_BYTES);
    } else {
        return true;
    }
    return false;
}

static enum error_code run_and_keep(const struct batch_context *batch,
                                    const struct command *command, struct once_session *session,
                                    uint64_t sequence, struct slice nested, struct result *result,
                                    struct error *error) {
    enum error_code code = apply_nested(batch, command, nested, result, error);
    if (code != ERROR_NONE) {
        return code;
    }
    struct buffer encoded = {0};
    result_encode(&encoded, result);
    code = once_keep(batch->machine, session, sequence, buffer_slice(&encoded), error);
    buffer_free(&encoded);
    return code;
}

enum error_code apply_once(const struct batch_context *batch, const struct command *command,
                           struct result *result, struct error *error) {
    struct machine *machine = batch->machine;
    struct reader args = reader_make(command->args);
    struct once_session *session = once_find(&machine->once, command_next_arg(&args));
    uint64_t sequence = apply_next_number(&args);
    uint64_t low = apply_next_number(&args);
    struct slice nested = command_next_arg(&args);
    if (session == NULL) {
        result_set_error(result, ERROR_NOSESSION,
                         "this session was closed, has expired or never was; this attempt had no "
                         "effect");
        return ERROR_NONE;
    }
    if (sequence == 0 || sequence > INT64_MAX || low > sequence) {
        result_set_error(
            result, ERROR_INVALID,
            "numbers go from 1 to 2^63-1, and DONE names none above the command's own");
        return ERROR_NONE;
    }
    renew(batch, session);
    if (low > session->low) {
        enum error_code code = once_forget(machine, session, low, error);
        if (code != ERROR_NONE) {
            return code;
        }
    }
    const struct once_result *kept = once_find_result(session, sequence);
    if (kept != NULL) {
        return answer_again(batch, session, sequence, kept, result, error);
    }
    if (!may_run(&machine->once, session, sequence, result)) {
        return ERROR_NONE;
    }
    return run_and_keep(batch, command, session, sequence, nested, result, error);
}

enum error_code once_purge(struct machine *machine, uint64_t now_ms, uint64_t *left_ms,
                           struct error *error) {
    uint64_t rows = 0;
    *left_ms = 0;
    for (;;) {
        struct once_session *session = once_first(&machine->once);
        if (session == NULL || session->expires_at_ms > now_ms) {
            return ERROR_NONE;
        }
        if (rows >= PURGE_ROWS) {
            *left_ms = session->expires_at_ms;
            return ERROR_NONE;
        }
        rows += 1 + session->n_chunks + session->n_large;
        enum error_code code = once_remove(machine, session, error);
        if (code != ERROR_NONE) {
            return code;
        }
    }
}
