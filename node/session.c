#include "node/session.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/assert.h"
#include "base/mem.h"
#include "base/slot.h"
#include "node/op.h"
#include "node/requests.h"
#include "node/resp_commands.h"
#include "node/session_limits.h"
#include "node/session_state.h"
#include "node/subscriptions.h"

/* The place of a reply that cannot be sent yet: that of an operation, or of local replies behind
 * one. Outlives its session when the operation does. */
struct slot {
    struct list_node link;   /* in session->slots */
    struct session *session; /* NULL when the connection has gone */
    struct session_host *host;
    bool is_op;
    bool done; /* the reply is known */
    int version;
    size_t op_bytes;
    size_t counted; /* bytes of this slot in session->queued */
    struct buffer local;
    struct result result;
    struct call_step *step; /* what becomes of the result, or NULL */
    /* See struct submission. */
    bool is_exec;
    struct transaction_plan plan;
    void (*settle)(struct session *session, uint32_t number, struct result *result);
    uint32_t settle_number;
    unsigned verb;       /* its number in host->requests */
    uint64_t started_us; /* when the command was received */
    struct op op;
};

/* ---- counting ---- */

static uint64_t host_now_us(const struct session_host *host) {
    const struct session_port *port = &host->port;
    return host->requests != NULL ? port->now_us(port->data) : 1000 * port->now_ms(port->data);
}

static unsigned pending_number(const struct session *session) {
    const struct requests *requests = session->host->requests;
    return requests == NULL
               ? 0
               : requests_number(requests, session->pending_verb, session->pending_leaf);
}

static unsigned result_number(const struct result *result) {
    return result->kind == RESULT_ERROR ? requests_result(slice_of(error_prefix(result->code))) : 0;
}

/* ---- replies ---- */

static void write_integers(struct buffer *out, struct slice numbers) {
    struct reader reader = reader_make(numbers);
    size_t count = numbers.size / sizeof(uint64_t);
    resp_write_array(out, count);
    for (size_t i = 0; i < count; i++) {
        resp_write_integer(out, (int64_t)reader_u64(&reader));
    }
}

/* The elements stand in the order in which RESP has them. */
static void write_array(struct buffer *out, struct slice elements, int version) {
    struct reader reader = reader_make(elements);
    buffer_reserve(out, elements.size);
    resp_write_array(out, reader_u32(&reader));
    while (reader.rest.size > 0) {
        switch (reader_u8(&reader)) {
        case RESULT_TAG_NIL:
            resp_write_null(out, version);
            break;
        case RESULT_TAG_BULK:
            resp_write_bulk(out, reader_bytes(&reader));
            break;
        case RESULT_TAG_INTEGER:
            resp_write_integer(out, (int64_t)reader_u64(&reader));
            break;
        default:
            resp_write_array(out, reader_u32(&reader));
            break;
        }
    }
}

/* The words that the state machine answers are short. */
static void write_status(struct buffer *out, struct slice word) {
    char text[64];
    size_t size = word.size < sizeof text - 1 ? word.size : sizeof text - 1;
    if (size > 0) {
        memcpy(text, word.data, size);
    }
    text[size] = '\0';
    resp_write_simple(out, text);
}

static void write_error(struct buffer *out, const struct result_view *result) {
    char text[ERROR_MESSAGE_SIZE];
    size_t size = result->data.size < sizeof text - 1 ? result->data.size : sizeof text - 1;
    if (size > 0) {
        memcpy(text, result->data.data, size);
    }
    text[size] = '\0';
    resp_write_error(out, error_prefix(result->code),
                     size > 0 ? text : error_describe(result->code));
}

static void write_results(struct buffer *out, struct slice results, int version);

/* Writes all of a result but the bytes of a bulk. */
static void write_result(struct buffer *out, const struct result_view *result, int version) {
    switch (result->kind) {
    case RESULT_OK:
        resp_write_simple(out, "OK");
        return;
    case RESULT_NIL:
        resp_write_null(out, version);
        return;
    case RESULT_INTEGER:
        resp_write_integer(out, result->integer);
        return;
    case RESULT_BULK:
        resp_write_bulk_header(out, result->data.size);
        return;
    case RESULT_ERROR:
        write_error(out, result);
        return;
    case RESULT_INTEGERS:
        write_integers(out, result->data);
        return;
    case RESULT_ARRAY:
        write_array(out, result->data, version);
        return;
    case RESULT_STATUS:
        write_status(out, result->data);
        return;
    case RESULT_RESULTS:
        write_results(out, result->data, version);
        return;
    }
    ASSERT(false);
}

static void write_next_result(struct buffer *out, struct reader *results, int version) {
    struct result_view element = result_next(results);
    write_result(out, &element, version);
    if (element.kind == RESULT_BULK) {
        buffer_append_slice(out, element.data);
        buffer_append(out, "\r\n", 2);
    }
}

static void write_results(struct buffer *out, struct slice results, int version) {
    struct reader reader = reader_make(results);
    uint32_t count = reader_u32(&reader);
    buffer_reserve(out, results.size);
    resp_write_array(out, count);
    for (uint32_t i = 0; i < count; i++) {
        write_next_result(out, &reader, version);
    }
}

/* The results of a transaction, and between them the replies that were known before. */
static void write_planned(struct buffer *out, const struct slot *slot) {
    struct reader results = reader_make(buffer_slice(&slot->result.data));
    struct reader parts = reader_make(buffer_slice(&slot->plan.parts));
    uint32_t count = reader_u32(&results);
    ASSERT(count == slot->plan.results);
    buffer_reserve(out, slot->result.data.size + slot->plan.parts.size);
    resp_write_array(out, slot->plan.count);
    for (uint32_t i = 0; i < slot->plan.count; i++) {
        struct slice reply;
        if (transaction_plan_next(&parts, &reply)) {
            buffer_append_slice(out, reply);
        } else {
            write_next_result(out, &results, slot->version);
        }
    }
}

static void write_exec(struct buffer *out, const struct slot *slot) {
    struct result_view view = result_view_of(&slot->result);
    if (view.kind == RESULT_RESULTS) {
        write_planned(out, slot);
    } else if (view.kind == RESULT_NIL) {
        resp_write_null_array(out, slot->version);
    } else {
        write_result(out, &view, slot->version);
    }
}

/* An array may be long: it is written beside the output and moved there. */
static void render_array(struct session *session, const struct slot *slot) {
    struct buffer array = {0};
    struct result_view view = result_view_of(&slot->result);
    if (slot->is_exec) {
        write_exec(&array, slot);
    } else {
        write_result(&array, &view, slot->version);
    }
    session->unsent += array.size;
    output_move(&session->output, &array);
}

/* Writes the reply of a finished slot to the session's output. A large value is moved, not copied.
 */
static void slot_render(struct session *session, struct slot *slot) {
    if (!slot->is_op) {
        session->unsent += slot->local.size;
        output_move(&session->output, &slot->local);
        return;
    }
    if (slot->result.kind == RESULT_ARRAY || slot->result.kind == RESULT_RESULTS || slot->is_exec) {
        render_array(session, slot);
        return;
    }
    struct buffer *tail = output_tail(&session->output);
    size_t before = tail->size;
    struct result_view view = result_view_of(&slot->result);
    write_result(tail, &view, slot->version);
    session->unsent += tail->size - before;
    if (slot->result.kind == RESULT_BULK) {
        session->unsent += slot->result.data.size + 2;
        output_move(&session->output, &slot->result.data);
        buffer_append(output_tail(&session->output), "\r\n", 2);
    }
}

static void step_free(struct call_step *step) {
    if (step == NULL) {
        return;
    }
    if (step->release != NULL) {
        step->release(step);
    }
    buffer_free(&step->command);
    mem_free(step);
}

static struct slot *slot_new(struct session *session, bool is_op) {
    struct slot *slot = mem_zalloc(1, sizeof *slot);
    slot->session = session;
    slot->host = session->host;
    slot->is_op = is_op;
    slot->done = !is_op;
    slot->version = session->version;
    list_push(&session->slots, &slot->link);
    return slot;
}

static void slot_free(struct slot *slot) {
    step_free(slot->step);
    buffer_free(&slot->local);
    buffer_free(&slot->op.command);
    buffer_free(&slot->plan.parts);
    result_free(&slot->result);
    mem_free(slot);
}

/* Brings session->queued up to date with what the slot holds. */
static void slot_count(struct slot *slot) {
    size_t size = slot->local.size + slot->result.data.size + slot->plan.parts.size;
    slot->session->queued += size - slot->counted;
    slot->counted = size;
}

/* Brings the host's sum up to date with what this session has to send. */
static void session_count_replies(struct session *session) {
    size_t bytes = session->unsent + session->queued;
    session->host->reply_bytes += bytes - session->reply_bytes;
    session->reply_bytes = bytes;
}

/* Moves the finished replies at the head of the queue to the output. */
static void session_flush_slots(struct session *session) {
    struct list_node *node;
    while ((node = list_first(&session->slots)) != NULL) {
        struct slot *slot = LIST_ENTRY(node, struct slot, link);
        if (!slot->done) {
            return;
        }
        list_remove(&slot->link);
        ASSERT(session->queued >= slot->counted);
        session->queued -= slot->counted;
        slot_render(session, slot);
        slot_free(slot);
    }
}

/* ---- operations ---- */

/* The size of a read's result is not known before, so the number of reads under way starts small,
 * grows with each small reply and falls with a large one: a burst of reads of large values must not
 * gather far more than max_output. */
static void session_adapt_window(struct session *session, size_t reply_size) {
    if (reply_size <= SESSION_LARGE_REPLY) {
        if (session->read_window < SESSION_READ_WINDOW_MAX) {
            session->read_window++;
        }
        return;
    }
    size_t fitting = session->host->limits.max_output / reply_size;
    if (fitting < session->read_window) {
        session->read_window = fitting > 1 ? (unsigned)fitting : 1;
    }
}

/* The result of EXEC comes from another node, maybe, and must fit what was queued here. */
static void check_exec(const struct slot *slot, struct result *result) {
    bool fits =
        result->kind == RESULT_ERROR || result->kind == RESULT_NIL ||
        (result->kind == RESULT_RESULTS && bytes_get_u32(result->data.data) == slot->plan.results);
    if (!fits) {
        result_set_error(result, ERROR_INVALID, "the answer does not fit the transaction");
    }
}

/* Lets the slot's step work on the result: the slot then holds a reply, or waits to be submitted
 * again. */
static void slot_take_step(struct slot *slot) {
    struct session *session = slot->session;
    struct call_step *step = slot->step;
    struct buffer reply = {0};
    step->again = false;
    bool replies = step->done(step, session, &slot->result, &reply);
    if (step->again) {
        ASSERT(step->blocks && session->again == NULL);
        slot->done = false;
        session->again = slot;
        result_free(&slot->result);
        return;
    }
    if (step->blocks) {
        ASSERT(session->blocked);
        session->blocked = false;
    }
    if (replies) {
        slot->is_op = false;
        slot->local = reply;
        result_free(&slot->result);
    }
}

static void tell_slow(const struct slot *slot, uint64_t took_us, bool failed) {
    const struct session_host *host = slot->host;
    struct command command = {0};
    /* A read that was given up at its deadline left its command with the state machine. */
    if (slot->op.command.size > 0) {
        (void)command_decode(buffer_slice(&slot->op.command), &command, NULL);
    } else if (slot->session != NULL) {
        command.project = session_project(slot->session);
    }
    struct session_slow slow = {.command = host->requests->names[slot->verb],
                                .project = command.project,
                                .shard = slot->op.shard,
                                .duration_us = took_us,
                                .failed = failed};
    host->requests->slow++;
    host->port.on_slow(host->port.data, &slow);
}

/* Of a finished slot: a step may have turned the result into a reply. */
static unsigned slot_result_number(const struct slot *slot) {
    return slot->is_op ? result_number(&slot->result)
                       : requests_result_of(buffer_slice(&slot->local));
}

static void count_op(const struct slot *slot, unsigned result, uint64_t took_us) {
    if (slot->host->requests != NULL) {
        requests_count(slot->host->requests, slot->verb, result, took_us);
    }
}

static uint64_t slot_took_us(const struct slot *slot, const struct result *result) {
    const struct session_host *host = slot->host;
    if (host->requests == NULL) {
        return 0;
    }
    uint64_t took_us = host_now_us(host) - slot->started_us;
    if (host->limits.slow_us > 0 && took_us >= host->limits.slow_us) {
        tell_slow(slot, took_us, result->kind == RESULT_ERROR);
    }
    return took_us;
}

static bool session_op_is_modest(const struct op *op) {
    const struct slot *slot = op->data;
    return slot->session == NULL || slot->session->reply_bytes < SESSION_MODEST_REPLIES;
}

static void session_op_done(struct op *op, struct result *result) {
    struct slot *slot = op->data;
    struct session *session = slot->session;
    ASSERT(slot->is_op && !slot->done);
    slot->host->n_slots--;
    uint64_t took_us = slot_took_us(slot, result);
    if (session == NULL) {
        count_op(slot, result_number(result), took_us);
        slot_free(slot); /* the router frees what it still holds of the result */
        return;
    }
    buffer_free(&slot->op.command);
    if (slot->is_exec) {
        check_exec(slot, result);
    }
    if (slot->settle != NULL) {
        slot->settle(session, slot->settle_number, result);
    }
    slot->done = true;
    slot->result = *result;
    *result = (struct result){.kind = RESULT_OK};
    if (slot->step != NULL) {
        slot_take_step(slot);
    }
    if (slot->done) {
        count_op(slot, slot_result_number(slot), took_us);
    }
    slot_count(slot);

    if (op->seen_index > session->seen[op->shard]) {
        session->seen[op->shard] = op->seen_index;
    }
    unsigned *under_way = op->is_write ? &session->writes : &session->reads;
    ASSERT(*under_way > 0 && session->op_bytes >= slot->op_bytes);
    --*under_way;
    session->op_bytes -= slot->op_bytes;
    if (!op->is_write) {
        session_adapt_window(session, slot->result.data.size);
    }
    if (slot->result.kind == RESULT_ERROR) {
        session->host->stats.errors++;
    }
    session_flush_slots(session); /* frees the slot, and the op in it, when its turn has come */
    session_count_replies(session);
    if (!session->running) {
        session->wake(session->wake_data);
    }
}

/* Adds what the session knows. */
static struct command complete_command(const struct session *session,
                                       const struct command *command) {
    struct command complete = *command;
    complete.project = session_project(session);
    complete.token = session_access_token(&session->access);
    return complete;
}

/* What is read while keys are watched must not be older than their versions. */
static enum read_level read_level(const struct session *session) {
    bool raised = session->level == READ_EVENTUAL && session->transaction.n_watched > 0;
    return raised ? READ_SESSION : session->level;
}

void call_submit(struct call *call, const struct command *command, const struct slice *args,
                 unsigned n_args) {
    if (call->queueing != NULL) {
        struct command complete = complete_command(call->session, command);
        call_queue(call, &complete, args, n_args);
        return;
    }
    bool is_write = command_is_write(command->kind);
    if (call_redirect(call, is_write || call->session->level == READ_LINEARIZABLE)) {
        return;
    }
    if (call->once != NULL && !call_once_accepts(call, command->kind)) {
        return;
    }
    struct submission submission = {
        .command = command, .args = args, .n_args = n_args, .level = read_level(call->session)};
    call_submit_as(call, &submission);
}

void call_submit_as(struct call *call, struct submission *submission) {
    struct session *session = call->session;
    struct session_host *host = session->host;
    ASSERT(!session->answered && call->queueing == NULL);
    session->answered = true;

    struct slot *slot = slot_new(session, true);
    slot->is_exec = submission->is_exec;
    slot->plan = submission->plan;
    slot->settle = submission->settle;
    slot->settle_number = submission->settle_number;
    slot->verb = pending_number(session);
    slot->started_us = session->pending_us;
    slot_count(slot);
    struct command complete = complete_command(session, submission->command);
    size_t size = CALL_HEADER_SIZE + complete.project.size;
    size *= call->once != NULL ? 3 : 1; /* its own header, its arguments and that of the command */
    for (unsigned i = 0; i < submission->n_args; i++) {
        size += sizeof(uint32_t) + submission->args[i].size;
    }
    /* At once, so that a large value does not make the buffer double. */
    buffer_reserve(&slot->op.command, size);
    if (call->once != NULL) {
        call_once_encode(call, &slot->op.command, &complete, submission->args, submission->n_args);
    } else {
        command_encode(&slot->op.command, &complete, submission->args, submission->n_args);
    }
    slot->op_bytes = slot->op.command.size;
    slot->op.shard = slot_shard(slot_of(complete.project), host->limits.n_shards);
    slot->op.is_write = command_is_write(complete.kind);
    slot->op.after_writes = !slot->op.is_write && session->writes > 0;
    slot->op.level = submission->level;
    slot->op.min_index = session->seen[slot->op.shard];
    slot->op.max_stale_ms = session->max_stale_ms;
    slot->op.is_modest = session_op_is_modest;
    slot->op.client = session->id;
    slot->op.done = session_op_done;
    slot->op.data = slot;
    ASSERT(!slot->op.is_write || session->reads == 0);

    *(slot->op.is_write ? &session->writes : &session->reads) += 1;
    session->op_bytes += slot->op_bytes;
    host->n_slots++;
    host->port.submit(host->port.data, &slot->op);
}

void call_step_prepare(struct call_step *step, const struct session *session,
                       const struct command *command, const struct slice *args, unsigned n_args) {
    step->command.size = 0;
    command_encode(&step->command, command, args, n_args);
    step->shard = slot_shard(slot_of(command->project), session->host->limits.n_shards);
    step->is_write = command_is_write(command->kind);
}

static void slot_send_step(struct slot *slot) {
    struct session *session = slot->session;
    struct session_host *host = session->host;
    struct call_step *step = slot->step;
    slot->op = (struct op){.command = step->command,
                           .shard = step->shard,
                           .is_write = step->is_write,
                           .after_writes = !step->is_write && session->writes > 0,
                           .level = READ_LINEARIZABLE,
                           .is_modest = session_op_is_modest,
                           .client = session->id,
                           .done = session_op_done,
                           .data = slot};
    step->command = (struct buffer){0};
    slot->op_bytes = slot->op.command.size;
    *(step->is_write ? &session->writes : &session->reads) += 1;
    session->op_bytes += slot->op_bytes;
    session->blocked = session->blocked || step->blocks;
    host->n_slots++;
    host->port.submit(host->port.data, &slot->op);
}

void call_submit_step(struct call *call, struct call_step *step) {
    struct session *session = call->session;
    ASSERT(!session->answered && (!step->is_write || session->reads == 0));
    session->answered = true;
    struct slot *slot = slot_new(session, true);
    slot->step = step;
    slot->verb = pending_number(session);
    slot->started_us = session->pending_us;
    slot_send_step(slot);
}

/* ---- what handlers use ---- */

/* Local replies go straight to the output, or behind the last operation. */
static struct buffer *session_reply(struct session *session) {
    if (list_empty(&session->slots)) {
        return output_tail(&session->output);
    }
    struct slot *last = LIST_ENTRY(session->slots.prev, struct slot, link);
    if (last->is_op) {
        last = slot_new(session, false);
    }
    return &last->local;
}

struct buffer *call_reply(struct call *call) {
    struct session *session = call->session;
    if (call->queueing != NULL) {
        call->queueing->answered = true;
        return &call->queueing->reply;
    }
    if (session->reply == NULL) {
        ASSERT(!session->answered);
        session->answered = true;
        session->reply = session_reply(session);
        session->reply_start = session->reply->size;
    }
    return session->reply;
}

int call_version(const struct call *call) {
    return call->session->version;
}

void call_error(struct call *call, const char *prefix, const char *format, ...) {
    char text[ERROR_MESSAGE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    resp_write_error(call_reply(call), prefix, text);
    call->session->host->stats.errors++;
}

void call_ok(struct call *call) {
    resp_write_simple(call_reply(call), "OK");
}

/* ---- pushes ---- */

struct buffer *session_begin_push(struct session *session) {
    ASSERT(session->reply == NULL);
    session->push = output_tail(&session->output);
    session->push_start = session->push->size;
    return session->push;
}

static void session_notify(struct session *session) {
    if (!session->running) {
        session->wake(session->wake_data);
    }
}

void session_end_push(struct session *session) {
    session->unsent += session->push->size - session->push_start;
    session->push = NULL;
    session_count_replies(session);
    session_notify(session);
}

void session_drop(struct session *session, const char *reason) {
    session->closing = true;
    session->dropped = reason;
    session_notify(session);
}

/* ---- commands ---- */

/* A command that was answered at once. */
static void session_count_local(struct session *session) {
    struct session_host *host = session->host;
    if (session->reply != NULL && host->requests != NULL) {
        struct slice reply = slice_make(session->reply->data + session->reply_start,
                                        session->reply->size - session->reply_start);
        requests_count(host->requests, pending_number(session), requests_result_of(reply),
                       host_now_us(host) - session->pending_us);
    }
}

/* Counts what the command wrote. */
static void session_count_reply(struct session *session) {
    if (session->reply == NULL) {
        return;
    }
    if (list_empty(&session->slots)) {
        session->unsent += session->reply->size - session->reply_start;
    } else {
        slot_count(LIST_ENTRY(session->slots.prev, struct slot, link));
    }
    session->reply = NULL;
}

static void refuse_oversized(struct call *call, uint64_t size) {
    const struct session_limits *limits = &call->session->host->limits;
    call_error(call, "TOOBIG",
               "%llu bytes exceed the limit of %llu bytes for an argument (max_value) or of %llu "
               "bytes for a whole command",
               (unsigned long long)size, (unsigned long long)limits->max_value,
               (unsigned long long)(limits->max_value + SESSION_REQUEST_SLACK));
    session_limits_reached(call->session->host, BOUND_REQUEST_SIZE, call->session->peer,
                           session_project(call->session), NULL);
}

/* Carries out the pending command. */
static void session_dispatch(struct session *session) {
    struct call call = {
        .session = session, .argc = session->pending.argc, .argv = session->pending.argv};
    session->has_pending = false;
    session->answered = false;
    session->active_ms = session->run_us / 1000;
    session->host->stats.commands++;
    session->commands++;
    if (session->pending.oversized > 0) {
        refuse_oversized(&call, session->pending.oversized);
        if (session->transaction.is_open) {
            transaction_break(&session->transaction);
        }
    } else if (session->transaction.is_open) {
        session->last_verb = session->pending_verb;
        transaction_run(&call, session->pending_verb);
    } else {
        session->last_verb = session->pending_verb;
        verb_run(&call, session->pending_verb);
    }
    ASSERT(session->answered);
    session_count_local(session);
    session_count_reply(session);
}

/* Replies once more and takes no further commands. */
static void session_break(struct session *session, const char *prefix, const char *text) {
    struct call call = {.session = session};
    session->answered = false;
    call_error(&call, prefix, "%s", text);
    session_count_reply(session);
    session->closing = true;
}

static void session_break_at(struct session *session, enum bound bound, const struct error *error) {
    session_break(session, error_prefix(error->code), error->message);
    session_limits_reached(session->host, bound, session->peer, slice_make(NULL, 0),
                           error->message);
}

/* Makes the next complete command the pending one. False when there is none. */
static bool session_parse(struct session *session) {
    for (;;) {
        switch (resp_parser_next(session->parser, &session->pending)) {
        case RESP_MORE:
            return false;
        case RESP_BROKEN:
            session_break(session, "ERR", resp_parser_error(session->parser));
            return false;
        case RESP_COMMAND:
            break;
        }
        if (session->pending.argc > 0) {
            session->pending_verb = verb_find(session->pending.argv[0]);
            session->pending_leaf =
                verb_leaf(session->pending_verb, session->pending.argc, session->pending.argv);
            session->has_pending = true;
            session->pending_us = session->run_us;
            return true;
        }
    }
}

static bool session_may_dispatch(const struct session *session) {
    const struct session_limits *limits = &session->host->limits;
    unsigned flags = session->pending_leaf != NULL
                         ? transaction_flags(&session->transaction, session->pending_leaf)
                         : 0;
    if (session->blocked) {
        return false;
    }
    if (session->reads + session->writes >= limits->max_pipeline ||
        session->unsent + session->queued >= limits->max_output) {
        return false;
    }
    if (session->op_bytes >= SESSION_OP_BYTES) {
        return false;
    }
    if ((flags & VERB_WRITE) != 0 && session->reads > 0) {
        return false;
    }
    if ((flags & VERB_SETTLED) != 0 && session->reads + session->writes > 0) {
        return false;
    }
    if ((flags & VERB_READONLY) == 0) {
        return true;
    }
    /* The index that the read has to see is known when the writes before it are done. */
    bool sees_writes = session->level != READ_SESSION || session->writes == 0;
    return sees_writes && session->reads < session->read_window;
}

static void session_count_input(struct session *session) {
    struct session_host *host = session->host;
    size_t memory = resp_parser_memory(session->parser) + transaction_memory(&session->transaction);
    host->input_bytes += memory - session->input_memory;
    session->input_memory = memory;
    struct error error;
    if (memory <= SESSION_INPUT_SLACK || session->closing) {
        return;
    }
    if (host->input_bytes > host->limits.max_input) {
        error_set(&error, ERROR_BUSY,
                  "this node holds %llu bytes of half-received commands, more than the limit of "
                  "%llu bytes; try again later",
                  (unsigned long long)host->input_bytes,
                  (unsigned long long)host->limits.max_input);
        session_break_at(session, BOUND_INPUT, &error);
    } else if (session_limits_memory(host, true, &error) != ERROR_NONE) {
        session_break_at(session, BOUND_MEMORY, &error);
    }
}

/* Takes commands until one has to wait, or others' turn has come: it stays pending then. */
static void session_take_commands(struct session *session) {
    struct session_host *host = session->host;
    unsigned left = host->turn_commands < SESSION_TURN_ALL ? SESSION_RUN : SESSION_RUN_BUSY;
    while (!session->closing) {
        if (!session->has_pending && !session_parse(session)) {
            break;
        }
        if (left == 0 || !session_may_dispatch(session)) {
            break;
        }
        left--;
        host->turn_commands++;
        session_dispatch(session);
    }
}

static void session_run(struct session *session) {
    ASSERT(!session->running);
    session->running = true;
    session->run_us = host_now_us(session->host);
    if (session->again != NULL) {
        struct slot *slot = session->again;
        session->again = NULL;
        slot_send_step(slot);
    }
    session_take_commands(session);
    subscriptions_run(session);
    session->running = false;
    session_count_input(session);
    session_count_replies(session);
}

/* ---- the shell's side ---- */

void session_host_init(struct session_host *host, const struct session_limits *limits,
                       const struct session_port *port) {
    ASSERT(limits->n_shards > 0 && limits->max_pipeline > 0 && limits->max_output > 0);
    *host = (struct session_host){.limits = *limits, .port = *port};
    list_init(&host->sessions);
    list_init(&host->watches);
}

void session_set_defaults(struct session *session) {
    transaction_end(&session->transaction);
    session->version = 2;
    session->level = READ_LINEARIZABLE;
    session->max_stale_ms = 0;
    session->name[0] = '\0';
    session_limits_leave(session);
    session->reset_ms = session->host->port.now_ms(session->host->port.data);
    session->redirect = session->host->limits.redirect;
    const struct credentials *credentials = session->host->credentials;
    session_access_reset(&session->access, credentials != NULL && credentials->required);
}

struct session *session_new(struct session_host *host, const char *peer, const char *local,
                            void (*wake)(void *data), void *data) {
    uint64_t max_value = host->limits.max_value;
    const struct resp_limits limits = {
        .max_args = LIMIT_RESP_ARGS,
        .max_bulk = (size_t)(max_value > LIMIT_KEY_SIZE ? max_value : LIMIT_KEY_SIZE),
        .max_request = (size_t)max_value + SESSION_REQUEST_SLACK,
        .max_inline = LIMIT_RESP_INLINE,
    };
    struct session *session = mem_zalloc(1, sizeof *session);
    session->host = host;
    session->wake = wake;
    session->wake_data = data;
    session->id = ++host->last_id;
    snprintf(session->peer, sizeof session->peer, "%s", peer);
    snprintf(session->local, sizeof session->local, "%s", local);
    session_set_defaults(session);
    session->since_ms = host->port.now_ms(host->port.data);
    session->active_ms = session->since_ms;
    session->parser = resp_parser_new(&limits);
    session->read_window = SESSION_READ_WINDOW;
    session->seen = mem_zalloc(host->limits.n_shards, sizeof *session->seen);
    list_init(&session->slots);
    list_push(&host->sessions, &session->link);
    host->n_sessions++;
    host->stats.connections++;
    session_count_input(session);
    return session;
}

void session_free(struct session *session) {
    ASSERT(!session->running);
    struct session_host *host = session->host;
    struct list_node *node;
    while ((node = list_first(&session->slots)) != NULL) {
        struct slot *slot = LIST_ENTRY(node, struct slot, link);
        list_remove(&slot->link);
        if (slot->done || slot == session->again) {
            slot_free(slot);
        } else {
            slot->session = NULL;
        }
    }
    subscriptions_free(session);
    list_remove(&session->link);
    ASSERT(host->n_sessions > 0 && host->input_bytes >= session->input_memory);
    host->n_sessions--;
    host->input_bytes -= session->input_memory;
    ASSERT(host->reply_bytes >= session->reply_bytes);
    host->reply_bytes -= session->reply_bytes;
    resp_parser_free(session->parser);
    transaction_end(&session->transaction);
    output_free(&session->output);
    session_limits_leave(session);
    session_access_free(&session->access);
    mem_free(session->seen);
    mem_free(session);
}

void session_host_begin_turn(struct session_host *host) {
    host->turn_commands = 0;
}

uint64_t session_id(const struct session *session) {
    return session->id;
}

const char *session_peer(const struct session *session) {
    return session->peer;
}

void session_input_space(struct session *session, uint8_t **data, size_t *size) {
    ASSERT(!session->has_pending);
    resp_parser_space(session->parser, data, size);
}

void session_input_filled(struct session *session, size_t size) {
    session->host->stats.bytes_in += size;
    resp_parser_filled(session->parser, size);
    session_run(session);
}

void session_input_end(struct session *session) {
    session->input_ended = true;
}

bool session_wants_read(const struct session *session) {
    return !session->closing && !session->input_ended && !session->has_pending &&
           session->unsent + session->queued < session->host->limits.max_output;
}

bool session_needs_resume(const struct session *session) {
    return session->again != NULL ||
           (session->has_pending && !session->closing && session_may_dispatch(session)) ||
           subscriptions_are_due(session);
}

void session_resume(struct session *session) {
    session_run(session);
}

bool session_is_mid_command(const struct session *session) {
    return !session->closing && !session->has_pending && !resp_parser_is_idle(session->parser);
}

uint64_t session_commands(const struct session *session) {
    return session->commands;
}

uint64_t session_stranger_since_ms(const struct session *session) {
    bool is_stranger = session->access.role == ROLE_NONE && list_empty(&session->slots);
    return is_stranger ? session->reset_ms : UINT64_MAX;
}

uint64_t session_idle_since_ms(const struct session *session) {
    bool waits = !list_empty(&session->slots) || session->has_pending || session->unsent > 0 ||
                 subscriptions_exist(session) || subscriptions_is_watching(session);
    return waits ? UINT64_MAX : session->active_ms;
}

void session_rest(struct session *session) {
    if (!session->has_pending && resp_parser_is_idle(session->parser)) {
        resp_parser_rest(session->parser);
        session_count_input(session);
    }
}

struct output *session_output(struct session *session) {
    return &session->output;
}

void session_sent(struct session *session, size_t size) {
    ASSERT(session->unsent >= size);
    session->unsent -= size;
    session_count_replies(session);
    session->host->stats.bytes_out += size;
}

void session_drain(struct session *session) {
    session->closing = true;
}

bool session_is_finished(const struct session *session) {
    if (session->dropped != NULL) {
        return true;
    }
    bool no_more = session->closing || (session->input_ended && !session->has_pending);
    return no_more && list_empty(&session->slots) && session->unsent == 0;
}

const char *session_dropped(const struct session *session) {
    return session->dropped;
}
