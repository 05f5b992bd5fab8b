#include "chaos/check/history.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/assert.h"
#include "base/json.h"
#include "base/mem.h"

/* Milliseconds, versions, amounts: more is a mistake, and would not fit into ns. */
#define ARGUMENT_MAX INT64_C(1000000000000)

enum { LINE_SIZE_MAX = 64 * 1024, LINES_MAX = INT32_MAX };

static const char *const workload_names[] = {
#define WORKLOAD_NAME(symbol, name) name,
    HISTORY_WORKLOADS(WORKLOAD_NAME)
#undef WORKLOAD_NAME
};

static const char *const op_names[] = {
#define OP_NAME(symbol, name) name,
    HISTORY_OPS(OP_NAME)
#undef OP_NAME
};

const char *workload_name(enum workload workload) {
    return workload < WORKLOADS ? workload_names[workload] : "none";
}

enum workload workload_find(struct slice name) {
    unsigned i = 0;
    while (i < WORKLOADS && !slice_equal(name, slice_of(workload_names[i]))) {
        i++;
    }
    return (enum workload)i;
}

const char *op_kind_name(enum op_kind kind) {
    return kind < OP_KINDS ? op_names[kind] : "none";
}

static enum op_kind op_kind_find(struct slice name) {
    unsigned i = 0;
    while (i < OP_KINDS && !slice_equal(name, slice_of(op_names[i]))) {
        i++;
    }
    return (enum op_kind)i;
}

bool op_kind_is_read(enum op_kind kind) {
    return kind == OP_GET || kind == OP_GETVER || kind == OP_READ || kind == OP_PEEK ||
           kind == OP_COUNT || kind == OP_INFO;
}

int64_t value_list_at(const struct history *history, const struct value *value, unsigned at) {
    ASSERT(value->type == VALUE_LIST && at < value->n);
    return history->numbers[(size_t)value->integer + at];
}

/* --- one line --------------------------------------------------------------------------------- */

enum field {
    FIELD_T,
    FIELD_W,
    FIELD_C,
    FIELD_N,
    FIELD_E,
    FIELD_OP,
    FIELD_K,
    FIELD_P,
    FIELD_V,
    FIELD_OLD,
    FIELD_TO,
    FIELD_TTL,
    FIELD_VER,
    FIELD_AMOUNT,
    FIELD_STALE,
    FIELD_I,
    FIELD_NODE,
    FIELD_ERR,
    FIELD_KIND,
    FIELDS
};

static const char *const field_names[FIELDS] = {"t",     "w", "c",    "n",   "e",   "op",  "k",
                                                "p",     "v", "old",  "to",  "ttl", "ver", "amount",
                                                "stale", "i", "node", "err", "kind"};

/* The raw text of each field; size 0 when it is missing. */
struct line {
    struct slice fields[FIELDS];
};

static enum error_code syntax(struct error *error, const char *what) {
    return error_set(error, ERROR_SYNTAX, "%s", what);
}

static enum field field_find(struct slice raw) {
    struct slice name = slice_make(raw.data + 1, raw.size - 2);
    unsigned i = 0;
    while (i < FIELDS && !slice_equal(name, slice_of(field_names[i]))) {
        i++;
    }
    return (enum field)i;
}

static enum error_code read_field(struct json_cursor *cursor, struct line *line,
                                  struct error *error) {
    struct slice name = {0};
    struct slice value = {0};
    if (json_skip_string(cursor, &name) != JSON_OK || json_expect(cursor, ':') != JSON_OK ||
        json_skip_value(cursor, &value) != JSON_OK) {
        return syntax(error, cursor->reason);
    }
    enum field field = field_find(name);
    if (field == FIELDS) {
        return error_set(error, ERROR_SYNTAX, "unknown field %.*s",
                         (int)(name.size < 40 ? name.size : 40), (const char *)name.data);
    }
    if (line->fields[field].size > 0) {
        return error_set(error, ERROR_SYNTAX, "field \"%s\" comes twice", field_names[field]);
    }
    line->fields[field] = value;
    return ERROR_NONE;
}

static enum error_code read_fields(struct slice text, struct line *line, struct error *error) {
    struct json_cursor cursor = json_cursor_make(text, true);
    enum error_code code = ERROR_NONE;
    if (json_expect(&cursor, '{') != JSON_OK) {
        return syntax(error, cursor.reason);
    }
    do {
        code = read_field(&cursor, line, error);
        if (code != ERROR_NONE) {
            return code;
        }
        json_skip_space(&cursor);
    } while (json_peek(&cursor) == ',' && json_expect(&cursor, ',') == JSON_OK);
    if (json_expect(&cursor, '}') != JSON_OK) {
        return syntax(error, cursor.reason);
    }
    json_skip_space(&cursor);
    return cursor.at == text.size ? ERROR_NONE : syntax(error, "something follows the object");
}

static bool is_text(struct slice raw) {
    return raw.size >= 2 && raw.data[0] == '"';
}

static bool is_nil(struct slice raw) {
    return slice_equal(raw, slice_of("null"));
}

/* What a text says: itself without the quotes, or unescaped into `space`. */
static bool text_of(struct slice raw, struct buffer *space, struct slice *text) {
    if (!is_text(raw)) {
        return false;
    }
    *text = slice_make(raw.data + 1, raw.size - 2);
    if (memchr(text->data, '\\', text->size) == NULL) {
        return true;
    }
    space->size = 0;
    if (!json_decode_string(raw, space)) {
        return false;
    }
    *text = buffer_slice(space);
    return true;
}

static enum error_code bad_field(struct error *error, enum field field, const char *expected) {
    return error_set(error, ERROR_SYNTAX, "field \"%s\" must be %s", field_names[field], expected);
}

/* Fields that are missing leave what is there. */
static enum error_code get_text(struct history *history, const struct line *line, enum field field,
                                uint32_t *number, struct error *error) {
    struct slice text;
    struct buffer space = {0};
    enum error_code code = ERROR_NONE;
    if (line->fields[field].size > 0) {
        if (text_of(line->fields[field], &space, &text)) {
            *number = texts_add(&history->texts, text);
        } else {
            code = bad_field(error, field, "a text");
        }
    }
    buffer_free(&space);
    return code;
}

static enum error_code get_integer(const struct line *line, enum field field, int64_t least,
                                   int64_t most, int64_t *number, struct error *error) {
    int64_t found;
    if (line->fields[field].size == 0) {
        return ERROR_NONE;
    }
    if (!json_decode_integer(line->fields[field], &found) || found < least || found > most) {
        return bad_field(error, field, "a whole number within its range");
    }
    *number = found;
    return ERROR_NONE;
}

static void add_number(struct history *history, int64_t number) {
    if (history->n_numbers == history->numbers_capacity) {
        history->numbers_capacity =
            history->numbers_capacity == 0 ? 256 : 2 * history->numbers_capacity;
        history->numbers =
            mem_realloc(history->numbers, history->numbers_capacity * sizeof *history->numbers);
    }
    history->numbers[history->n_numbers++] = number;
}

static enum error_code get_list(struct history *history, struct slice raw, struct value *value,
                                struct error *error) {
    struct json_cursor cursor = json_cursor_make(raw, true);
    *value = (struct value){.type = VALUE_LIST, .integer = (int64_t)history->n_numbers};
    (void)json_expect(&cursor, '[');
    for (json_skip_space(&cursor); json_peek(&cursor) != ']'; json_skip_space(&cursor)) {
        struct slice item;
        int64_t number;
        if (value->n > 0) {
            (void)json_expect(&cursor, ',');
        }
        if (json_skip_value(&cursor, &item) != JSON_OK || !json_decode_integer(item, &number) ||
            value->n == HISTORY_LIST) {
            return bad_field(error, FIELD_V, "null, a whole number, a text, or up to 16 numbers");
        }
        add_number(history, number);
        value->n++;
    }
    return ERROR_NONE;
}

static enum error_code get_value(struct history *history, const struct line *line,
                                 struct value *value, struct error *error) {
    struct slice raw = line->fields[FIELD_V];
    if (raw.size == 0) {
        return ERROR_NONE;
    }
    if (is_nil(raw)) {
        value->type = VALUE_NIL;
        return ERROR_NONE;
    }
    if (is_text(raw)) {
        value->type = VALUE_TEXT;
        return get_text(history, line, FIELD_V, &value->text, error);
    }
    if (raw.data[0] == '[') {
        return get_list(history, raw, value, error);
    }
    value->type = VALUE_INTEGER;
    if (!json_decode_integer(raw, &value->integer)) {
        return bad_field(error, FIELD_V, "null, a whole number, a text, or up to 16 numbers");
    }
    return ERROR_NONE;
}

static enum error_code need(const struct line *line, enum field field, struct error *error) {
    return line->fields[field].size > 0
               ? ERROR_NONE
               : error_set(error, ERROR_SYNTAX, "field \"%s\" is missing", field_names[field]);
}

/* --- numbers of operations -------------------------------------------------------------------- */

static size_t seen_place(const struct history *history, uint64_t number) {
    size_t mask = history->slots - 1;
    size_t at = (size_t)(number * UINT64_C(0x9e3779b97f4a7c15) >> 20) & mask;
    while (history->seen[at] != 0 && history->ops[history->seen[at] - 1].number != number) {
        at = (at + 1) & mask;
    }
    return at;
}

static void seen_grow(struct history *history) {
    mem_free(history->seen);
    history->slots = history->slots == 0 ? 1024 : 2 * history->slots;
    history->seen = mem_zalloc(history->slots, sizeof *history->seen);
    for (size_t i = 0; i < history->n; i++) {
        if (history->ops[i].number != 0) {
            history->seen[seen_place(history, history->ops[i].number)] = i + 1;
        }
    }
}

static struct op *find_op(struct history *history, uint64_t number) {
    size_t at = history->slots == 0 ? 0 : seen_place(history, number);
    return history->slots == 0 || history->seen[at] == 0 ? NULL
                                                         : &history->ops[history->seen[at] - 1];
}

static uint64_t memory_of(const struct history *history) {
    return history->capacity * sizeof *history->ops + history->slots * sizeof *history->seen +
           history->numbers_capacity * sizeof *history->numbers + history->texts.bytes;
}

static enum error_code add_op(struct history *history, const struct op *op, struct error *error) {
    if (history->n == history->capacity) {
        history->capacity = history->capacity == 0 ? 1024 : history->capacity * 3 / 2;
        history->ops = mem_realloc(history->ops, history->capacity * sizeof *history->ops);
    }
    history->ops[history->n++] = *op;
    if (op->number != 0) {
        if (2 * history->n >= history->slots) {
            seen_grow(history);
        }
        history->seen[seen_place(history, op->number)] = history->n;
    }
    if (history->memory_max > 0 && memory_of(history) > history->memory_max) {
        return error_set(error, ERROR_TOOBIG,
                         "the history needs more than %" PRIu64
                         " MiB of memory: allow more with --memory, or check one --workload",
                         history->memory_max >> 20);
    }
    return ERROR_NONE;
}

/* --- lines ------------------------------------------------------------------------------------ */

static enum error_code get_args(const struct line *line, int64_t *arg, struct error *error) {
    static const enum field fields[] = {FIELD_TTL, FIELD_VER, FIELD_AMOUNT, FIELD_STALE, FIELD_I};
    unsigned n = 0;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        n += line->fields[fields[i]].size > 0 ? 1 : 0;
        enum error_code code = get_integer(line, fields[i], 0, ARGUMENT_MAX, arg, error);
        if (code != ERROR_NONE) {
            return code;
        }
    }
    return n > 1 ? syntax(error, "at most one of ttl, ver, amount, stale and i can be there")
                 : ERROR_NONE;
}

static enum error_code get_other(struct history *history, const struct line *line, struct op *op,
                                 struct error *error) {
    if (is_nil(line->fields[FIELD_OLD])) {
        op->old_is_nil = true;
        return ERROR_NONE;
    }
    enum error_code code = get_text(history, line, FIELD_OLD, &op->other, error);
    return code != ERROR_NONE ? code : get_text(history, line, FIELD_TO, &op->other, error);
}

static enum error_code get_kind(const struct line *line, struct op *op, struct error *error) {
    struct slice text;
    struct buffer space = {0};
    enum op_kind kind = OP_KINDS;
    if (text_of(line->fields[FIELD_OP], &space, &text)) {
        kind = op_kind_find(text);
    }
    buffer_free(&space);
    op->kind = (uint8_t)kind;
    return kind < OP_KINDS ? ERROR_NONE : bad_field(error, FIELD_OP, "the name of an operation");
}

static enum error_code get_invocation(struct history *history, const struct line *line,
                                      struct op *op, struct error *error) {
    int64_t project = 0;
    enum error_code code = need(line, FIELD_OP, error);
    if (code == ERROR_NONE) {
        code = get_kind(line, op, error);
    }
    if (code == ERROR_NONE) {
        code = get_text(history, line, FIELD_K, &op->key, error);
    }
    if (code == ERROR_NONE) {
        code = get_integer(line, FIELD_P, 0, UINT32_MAX, &project, error);
        op->project = (uint32_t)project;
    }
    if (code == ERROR_NONE) {
        code = get_value(history, line, &op->in, error);
    }
    if (code == ERROR_NONE) {
        code = get_other(history, line, op, error);
    }
    if (code == ERROR_NONE) {
        code = get_args(line, &op->arg, error);
    }
    if (code == ERROR_NONE) {
        code = get_text(history, line, FIELD_NODE, &op->node, error);
    }
    return code == ERROR_NONE ? get_text(history, line, FIELD_KIND, &op->about, error) : code;
}

static enum error_code on_invoke(struct history *history, const struct line *line, struct op *op,
                                 struct error *error) {
    if (op->number == 0 || find_op(history, op->number) != NULL) {
        return error_set(error, ERROR_SYNTAX, "operation %" PRIu64 " is there already", op->number);
    }
    enum error_code code = get_invocation(history, line, op, error);
    op->end = TIME_NEVER;
    op->outcome = OUTCOME_UNKNOWN; /* until its completion says more */
    return code == ERROR_NONE ? add_op(history, op, error) : code;
}

static enum error_code on_event(struct history *history, const struct line *line, struct op *op,
                                struct error *error) {
    enum error_code code = get_invocation(history, line, op, error);
    op->number = 0;
    op->end = op->start;
    op->outcome = OUTCOME_OK;
    op->is_completed = true;
    return code == ERROR_NONE ? add_op(history, op, error) : code;
}

static enum error_code on_completion(struct history *history, const struct line *line,
                                     const struct op *end, struct error *error) {
    struct op *op = find_op(history, end->number);
    if (op == NULL || op->is_completed) {
        return error_set(error, ERROR_SYNTAX, "operation %" PRIu64 " is not under way",
                         end->number);
    }
    if (op->client != end->client || op->workload != end->workload) {
        return error_set(error, ERROR_SYNTAX,
                         "operation %" PRIu64 " was begun by another client, in line %" PRIu32,
                         end->number, op->line);
    }
    if (end->start < op->start) {
        return error_set(error, ERROR_SYNTAX, "operation %" PRIu64 " ends before it begins",
                         end->number);
    }
    enum error_code code = get_value(history, line, &op->out, error);
    if (code == ERROR_NONE) {
        code = get_args(line, &op->result, error);
    }
    if (code == ERROR_NONE) {
        code = get_text(history, line, FIELD_ERR, &op->about, error);
    }
    op->is_completed = true;
    op->outcome = end->outcome;
    op->end = end->outcome == OUTCOME_UNKNOWN ? TIME_NEVER : end->start;
    return code;
}

static enum error_code get_head(const struct line *line, struct op *op, struct error *error) {
    struct slice text;
    struct buffer space = {0};
    int64_t start = 0;
    int64_t client = 0;
    int64_t number = 0;
    enum error_code code = ERROR_NONE;
    for (enum field field = FIELD_T; field <= FIELD_E && code == ERROR_NONE; field++) {
        code = field == FIELD_N ? ERROR_NONE : need(line, field, error);
    }
    if (code == ERROR_NONE) {
        code = get_integer(line, FIELD_T, 0, INT64_MAX, &start, error);
    }
    if (code == ERROR_NONE) {
        code = get_integer(line, FIELD_C, 0, UINT32_MAX, &client, error);
    }
    if (code == ERROR_NONE) {
        code = get_integer(line, FIELD_N, 0, INT64_MAX, &number, error);
    }
    op->start = (uint64_t)start;
    op->client = (uint32_t)client;
    op->number = (uint64_t)number;
    op->workload = WORKLOADS;
    if (code == ERROR_NONE && text_of(line->fields[FIELD_W], &space, &text)) {
        op->workload = (uint8_t)workload_find(text);
    }
    buffer_free(&space);
    return code != ERROR_NONE || op->workload < WORKLOADS
               ? code
               : bad_field(error, FIELD_W, "the name of a workload");
}

static enum error_code add_line(struct history *history, struct slice text, enum workload only,
                                struct error *error) {
    static const struct {
        const char *text;
        uint8_t outcome;
    } ends[] = {
        {"\"ok\"", OUTCOME_OK}, {"\"fail\"", OUTCOME_FAIL}, {"\"unknown\"", OUTCOME_UNKNOWN}};
    struct line line = {0};
    struct op op = {.line = (uint32_t)++history->lines};
    enum error_code code = read_fields(text, &line, error);
    if (code == ERROR_NONE) {
        code = get_head(&line, &op, error);
    }
    if (code != ERROR_NONE) {
        return code;
    }
    if (only != WORKLOADS && op.workload != only) {
        return ERROR_NONE;
    }
    if (slice_equal(line.fields[FIELD_E], slice_of("\"invoke\""))) {
        return on_invoke(history, &line, &op, error);
    }
    if (slice_equal(line.fields[FIELD_E], slice_of("\"event\""))) {
        return on_event(history, &line, &op, error);
    }
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        if (slice_equal(line.fields[FIELD_E], slice_of(ends[i].text))) {
            op.outcome = ends[i].outcome;
            return on_completion(history, &line, &op, error);
        }
    }
    return bad_field(error, FIELD_E, "invoke, ok, fail, unknown or event");
}

enum error_code history_add_line(struct history *history, struct slice line, struct error *error) {
    return add_line(history, line, WORKLOADS, error);
}

/* --- files ------------------------------------------------------------------------------------ */

struct file_reader {
    FILE *file;
    struct buffer buffer;
    size_t at;
};

/* The next line, without its end. *got is false at the end of the file. */
static enum error_code next_line(struct file_reader *reader, struct slice *line, bool *got,
                                 struct error *error) {
    for (;;) {
        size_t rest = reader->buffer.size - reader->at;
        const uint8_t *from = reader->buffer.data + reader->at;
        const uint8_t *end = rest > 0 ? memchr(from, '\n', rest) : NULL;
        if (end != NULL) {
            *line = slice_make(from, (size_t)(end - from));
            reader->at += line->size + 1;
            *got = true;
            return line->size <= LINE_SIZE_MAX
                       ? ERROR_NONE
                       : error_set(error, ERROR_SYNTAX, "longer than %d bytes", LINE_SIZE_MAX);
        }
        if (rest > LINE_SIZE_MAX) {
            return error_set(error, ERROR_SYNTAX, "longer than %d bytes", LINE_SIZE_MAX);
        }
        buffer_consume(&reader->buffer, reader->at);
        reader->at = 0;
        buffer_reserve(&reader->buffer, 1 << 20);
        size_t n = fread(reader->buffer.data + reader->buffer.size, 1, 1 << 20, reader->file);
        reader->buffer.size += n;
        if (n == 0) {
            *got = false;
            if (ferror(reader->file)) {
                return error_set_errno(error, errno, "cannot read");
            }
            return rest == 0 ? ERROR_NONE
                             : syntax(error, "the line is cut off: was the workload killed?");
        }
    }
}

enum error_code history_read(struct history *history, const char *path, enum workload only,
                             struct error *error) {
    struct file_reader reader = {.file = fopen(path, "rbe")};
    struct slice line = {0};
    bool got = true;
    uint64_t number = 0;
    if (reader.file == NULL) {
        return error_set_errno(error, errno, "cannot open %s", path);
    }
    enum error_code code = ERROR_NONE;
    while (code == ERROR_NONE) {
        number++;
        code = next_line(&reader, &line, &got, error);
        if (code == ERROR_NONE && got && number > LINES_MAX) {
            code = error_set(error, ERROR_TOOBIG, "more than %d lines", LINES_MAX);
        }
        if (code != ERROR_NONE || !got) {
            break;
        }
        history->lines = number - 1;
        code = add_line(history, line, only, error);
    }
    if (code != ERROR_NONE) {
        error_wrap(error, "%s: line %" PRIu64, path, number);
    }
    buffer_free(&reader.buffer);
    (void)fclose(reader.file);
    return code;
}

void history_free(struct history *history) {
    mem_free(history->ops);
    mem_free(history->numbers);
    mem_free(history->seen);
    texts_free(&history->texts);
    *history = (struct history){0};
}
