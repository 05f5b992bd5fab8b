/* Several commands as one step, if the watched keys are as they were. */
#include "base/assert.h"
#include "base/limits.h"
#include "node/machine/apply.h"

/* INCRBYFLOAT answers the text of a number, never longer than this. */
enum { FLOAT_ANSWER_MAX = 8 * 1024 };

static uint64_t version_of(const struct row *row) {
    return row->exists ? row->version : 0;
}

/* Reads the watches at the front of the arguments. *hold: every key has the version that it was
 * watched with; *n_nested: how many commands follow. */
static enum error_code check_watches(struct machine *machine, const struct command *command,
                                     struct reader *args, bool *hold, uint32_t *n_nested,
                                     struct error *error) {
    const struct project *project = projects_find(&machine->projects, command->project);
    uint32_t n_watched = (uint32_t)bytes_get_u64(command_next_arg(args).data);
    enum error_code code = ERROR_NONE;
    *hold = true;
    *n_nested = command->n_args - 1 - 2 * n_watched;
    for (uint32_t i = 0; i < n_watched && *hold && code == ERROR_NONE; i++) {
        struct slice key = command_next_arg(args);
        uint64_t version = bytes_get_u64(command_next_arg(args).data);
        struct row row;
        code = row_find(machine, project, key, &row, error);
        *hold = version_of(&row) == version;
    }
    return code;
}

static void refuse_answer(struct result *result) {
    result_set_error(result, ERROR_TOOBIG,
                     "the answers of this transaction have more than %llu bytes together; this "
                     "command was not carried out",
                     (unsigned long long)LIMIT_TRANSACTION_ANSWER);
}

/* The most bytes that a write's answer may have besides a number or a word. */
static enum error_code answer_size(const struct batch_context *batch, const struct command *command,
                                   uint64_t *size, struct error *error) {
    bool answers_value = command->kind == COMMAND_GETDEL || command->kind == COMMAND_GETEX ||
                         (command->kind == COMMAND_SET && (command->flags & COMMAND_FLAG_GET));
    *size = command->kind == COMMAND_INCREMENT_FLOAT ? FLOAT_ANSWER_MAX : 0;
    if (!answers_value) {
        return ERROR_NONE;
    }
    struct reader args = reader_make(command->args);
    struct target target;
    enum error_code code = apply_find(batch, command, command_next_arg(&args), &target, error);
    *size = target.row.size;
    return code;
}

/* Whether an answer of this size finds room behind what is answered already. */
static bool has_room(const struct result *results, uint64_t size) {
    return size == 0 || results->data.size + size <= LIMIT_TRANSACTION_ANSWER;
}

/* A write without room for its answer is not carried out. */
static enum error_code carry_out(const struct batch_context *batch, const struct command *command,
                                 const struct result *results, struct result *answer,
                                 struct error *error) {
    uint64_t size = 0;
    enum error_code code = ERROR_NONE;
    if (command_is_write(command->kind)) {
        code = answer_size(batch, command, &size, error);
    }
    if (code != ERROR_NONE) {
        return code;
    }
    if (!has_room(results, size)) {
        refuse_answer(answer);
        return ERROR_NONE;
    }
    return apply_command(batch, command, answer, error);
}

/* Without room the answer of a read becomes an error, and an error shrinks to its code, which the
 * front end has words for. */
static void add_answer(struct result *results, struct result *answer) {
    bool fits = has_room(results, answer->data.size);
    if (!fits && answer->kind != RESULT_ERROR) {
        refuse_answer(answer);
        fits = has_room(results, answer->data.size);
    }
    if (!fits) {
        buffer_free(&answer->data);
    }
    result_add_result(results, answer);
    result_free(answer);
}

enum error_code apply_nested(const struct batch_context *batch, const struct command *outer,
                             struct slice bytes, struct result *result, struct error *error) {
    struct command nested;
    enum error_code code = command_decode_nested(outer, bytes, &nested, error);
    ASSERT(code == ERROR_NONE); /* checked with the command around it */
    return apply_command(batch, &nested, result, error);
}

enum error_code apply_transaction(const struct batch_context *batch, const struct command *command,
                                  struct result *result, struct error *error) {
    struct reader args = reader_make(command->args);
    uint32_t n_nested;
    bool hold;
    enum error_code code = check_watches(batch->machine, command, &args, &hold, &n_nested, error);
    if (code != ERROR_NONE || !hold) {
        result->kind = RESULT_NIL;
        return code;
    }
    result_begin_results(result, n_nested);
    for (uint32_t i = 0; i < n_nested && code == ERROR_NONE; i++) {
        struct result answer = {0};
        struct command nested;
        code = command_decode_nested(command, command_next_arg(&args), &nested, error);
        ASSERT(code == ERROR_NONE); /* checked with the command around it */
        code = carry_out(batch, &nested, result, &answer, error);
        add_answer(result, &answer);
    }
    return code;
}

enum error_code read_transaction(struct machine *machine, const struct project *project,
                                 const struct command *command, struct result *result,
                                 struct error *error) {
    (void)project;
    struct reader args = reader_make(command->args);
    uint32_t n_nested;
    bool hold;
    enum error_code code = check_watches(machine, command, &args, &hold, &n_nested, error);
    if (code != ERROR_NONE || !hold) {
        result->kind = RESULT_NIL;
        return code;
    }
    result_begin_results(result, n_nested);
    for (uint32_t i = 0; i < n_nested && code == ERROR_NONE; i++) {
        struct result answer = {0};
        struct command nested;
        code = command_decode_nested(command, command_next_arg(&args), &nested, error);
        ASSERT(code == ERROR_NONE);
        code = read_command(machine, &nested, &answer, error);
        add_answer(result, &answer);
    }
    return code;
}

enum error_code read_versions(struct machine *machine, const struct project *project,
                              const struct command *command, struct result *result,
                              struct error *error) {
    struct reader args = reader_make(command->args);
    enum error_code code = ERROR_NONE;
    result->kind = RESULT_INTEGERS;
    for (uint32_t i = 0; i < command->n_args && code == ERROR_NONE; i++) {
        struct row row;
        code = row_find(machine, project, command_next_arg(&args), &row, error);
        buffer_put_u64(&result->data, version_of(&row));
    }
    return code;
}
