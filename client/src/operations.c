/* The operations of the API: each one is a command, put together once and used by the blocking and
 * the asynchronous function. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "client/src/call.h"
#include "client/src/verbs.h"

enum {
    MANY_MAX = 32000,
    SET_WORDS = 8,
    NUMBER_SIZE = 24,
    PREFIX_MAX = 500, /* with every byte escaped still a pattern that the server takes */
    COUNT_MAX = 10000
};

static struct call blocking(uint32_t timeout_ms) {
    return (struct call){.timeout_ms = timeout_ms};
}

static struct call asynchronous(uint32_t timeout_ms, ikv_callback callback, void *data) {
    return (struct call){.timeout_ms = timeout_ms, .callback = callback, .data = data};
}

/* An asynchronous call without a callback would look like one that waits. */
#define REQUIRE_CALLBACK(callback)                                                                 \
    do {                                                                                           \
        if ((callback) == NULL) {                                                                  \
            return IKV_ERR_INVALID;                                                                \
        }                                                                                          \
    } while (0)

/* Refuses before anything is made; a caller that waits gets a reply. */
static int refuse(struct call *call, int error) {
    if (call->callback == NULL) {
        call->reply = reply_new_error(error, ikv_strerror(error));
    }
    return error;
}

static int hand_out(struct call *call, int error, ikv_reply **reply) {
    if (reply != NULL) {
        *reply = call->reply;
    } else {
        ikv_reply_free(call->reply);
    }
    return error;
}

/* Ends a blocking call that answers with a number. A reply of another kind is the server's mistake.
 */
static int take_integer(struct call *call, int error, int64_t *number) {
    int64_t value = 0;
    if (error == IKV_OK && !value_number(ikv_reply_value(call->reply), &value)) {
        error = IKV_ERR_PROTOCOL;
    }
    ikv_reply_free(call->reply);
    if (number != NULL) {
        *number = value;
    }
    return error;
}

static int take_truth(struct call *call, int error, int *truth) {
    int64_t number = 0;
    error = take_integer(call, error, &number);
    if (truth != NULL) {
        *truth = number != 0;
    }
    return error;
}

/* --- one key
 * ------------------------------------------------------------------------------------------------
 */

static int call_key(ikv_project *project, const char *verb, ikv_bytes key, bool is_write,
                    struct call *call) {
    ikv_bytes words[] = {ikv_text(verb), key};
    struct command command = {.is_write = is_write, .argc = 2, .argv = words};
    int error = call_check_key(key);
    return error != IKV_OK ? refuse(call, error) : call_command(project, &command, call);
}

int ikv_get(ikv_project *project, ikv_bytes key, uint32_t timeout_ms, ikv_reply **reply) {
    struct call call = blocking(timeout_ms);
    int error = call_key(project, "GET", key, false, &call);
    return hand_out(&call, error, reply);
}

int ikv_get_async(ikv_project *project, ikv_bytes key, uint32_t timeout_ms, ikv_callback callback,
                  void *data) {
    struct call call = asynchronous(timeout_ms, callback, data);
    REQUIRE_CALLBACK(callback);
    return call_key(project, "GET", key, false, &call);
}

int ikv_has(ikv_project *project, ikv_bytes key, uint32_t timeout_ms, int *exists) {
    struct call call = blocking(timeout_ms);
    int error = call_key(project, "EXISTS", key, false, &call);
    return take_truth(&call, error, exists);
}

int ikv_has_async(ikv_project *project, ikv_bytes key, uint32_t timeout_ms, ikv_callback callback,
                  void *data) {
    struct call call = asynchronous(timeout_ms, callback, data);
    REQUIRE_CALLBACK(callback);
    return call_key(project, "EXISTS", key, false, &call);
}

int ikv_delete(ikv_project *project, ikv_bytes key, uint32_t timeout_ms, int *existed) {
    struct call call = blocking(timeout_ms);
    int error = call_key(project, "DEL", key, true, &call);
    return take_truth(&call, error, existed);
}

int ikv_delete_async(ikv_project *project, ikv_bytes key, uint32_t timeout_ms,
                     ikv_callback callback, void *data) {
    struct call call = asynchronous(timeout_ms, callback, data);
    REQUIRE_CALLBACK(callback);
    return call_key(project, "DEL", key, true, &call);
}

int ikv_ttl(ikv_project *project, ikv_bytes key, uint32_t timeout_ms, int64_t *ttl_ms) {
    struct call call = blocking(timeout_ms);
    int error = call_key(project, "PTTL", key, false, &call);
    return take_integer(&call, error, ttl_ms);
}

int ikv_ttl_async(ikv_project *project, ikv_bytes key, uint32_t timeout_ms, ikv_callback callback,
                  void *data) {
    struct call call = asynchronous(timeout_ms, callback, data);
    REQUIRE_CALLBACK(callback);
    return call_key(project, "PTTL", key, false, &call);
}

int ikv_get_version(ikv_project *project, ikv_bytes key, uint32_t timeout_ms, uint64_t *version,
                    ikv_reply **reply) {
    struct call call = blocking(timeout_ms);
    int error = call_key(project, "GETVER", key, false, &call);
    int64_t number = 0;
    if (error == IKV_OK) {
        const ikv_value *value = ikv_reply_value(call.reply);
        bool sound = value->type == IKV_NIL || (value->type == IKV_ARRAY && value->size == 2 &&
                                                value_number(&value->elements[1], &number));
        error = sound ? IKV_OK : IKV_ERR_PROTOCOL;
    }
    if (version != NULL) {
        *version = (uint64_t)number;
    }
    return hand_out(&call, error, reply);
}

int ikv_get_version_async(ikv_project *project, ikv_bytes key, uint32_t timeout_ms,
                          ikv_callback callback, void *data) {
    struct call call = asynchronous(timeout_ms, callback, data);
    REQUIRE_CALLBACK(callback);
    return call_key(project, "GETVER", key, false, &call);
}

/* --- set
 * ------------------------------------------------------------------------------------------------------
 */

/* Words of a command with room for numbers in decimal. */
struct words {
    ikv_bytes argv[SET_WORDS];
    char numbers[2][NUMBER_SIZE];
    size_t argc;
    size_t n_numbers;
};

static void add(struct words *words, ikv_bytes word) {
    words->argv[words->argc++] = word;
}

static void add_number(struct words *words, int64_t number) {
    char *text = words->numbers[words->n_numbers++];
    snprintf(text, NUMBER_SIZE, "%" PRId64, number);
    add(words, ikv_text(text));
}

static bool is_one_bit(unsigned flags) {
    return (flags & (flags - 1)) == 0;
}

static int check_set(const ikv_set_options *options) {
    const unsigned conditions =
        IKV_SET_IF_MISSING | IKV_SET_IF_EXISTS | IKV_SET_IF_EQUAL | IKV_SET_IF_VERSION;
    bool keeps = (options->flags & IKV_SET_KEEP_TTL) != 0;
    bool known = (options->flags & ~(conditions | IKV_SET_KEEP_TTL)) == 0;
    if (!known || !is_one_bit(options->flags & conditions) || options->ttl_ms < 0 ||
        (keeps && options->ttl_ms > 0) || options->version > INT64_MAX) {
        return IKV_ERR_INVALID;
    }
    return IKV_OK;
}

static void add_condition(struct words *words, const ikv_set_options *options) {
    if ((options->flags & IKV_SET_IF_MISSING) != 0) {
        add(words, ikv_text("NX"));
    } else if ((options->flags & IKV_SET_IF_EXISTS) != 0) {
        add(words, ikv_text("XX"));
    } else if ((options->flags & IKV_SET_IF_EQUAL) != 0) {
        add(words, ikv_text("IFEQ"));
        add(words, options->expected);
    } else if ((options->flags & IKV_SET_IF_VERSION) != 0) {
        add(words, ikv_text("IFVER"));
        add_number(words, (int64_t)options->version);
    }
}

static int call_set(ikv_project *project, ikv_bytes key, ikv_bytes value,
                    const ikv_set_options *options, struct call *call) {
    static const ikv_set_options none = {0};
    struct words words = {.argc = 0};
    options = options != NULL ? options : &none;
    int error = call_check_key(key);
    error = error != IKV_OK ? error : check_set(options);
    if (error != IKV_OK) {
        return refuse(call, error);
    }
    add(&words, ikv_text("SET"));
    add(&words, key);
    add(&words, value);
    add_condition(&words, options);
    if (options->ttl_ms > 0) {
        add(&words, ikv_text("PX"));
        add_number(&words, options->ttl_ms);
    } else if ((options->flags & IKV_SET_KEEP_TTL) != 0) {
        add(&words, ikv_text("KEEPTTL"));
    }
    struct command command = {.is_write = true, .argc = words.argc, .argv = words.argv};
    return call_command(project, &command, call);
}

/* OK or nil. */
static int take_stored(struct call *call, int error, int *stored) {
    if (stored != NULL) {
        *stored = error == IKV_OK && ikv_reply_value(call->reply)->type != IKV_NIL;
    }
    ikv_reply_free(call->reply);
    return error;
}

int ikv_set(ikv_project *project, ikv_bytes key, ikv_bytes value, const ikv_set_options *options,
            uint32_t timeout_ms, int *stored) {
    struct call call = blocking(timeout_ms);
    int error = call_set(project, key, value, options, &call);
    return take_stored(&call, error, stored);
}

int ikv_set_async(ikv_project *project, ikv_bytes key, ikv_bytes value,
                  const ikv_set_options *options, uint32_t timeout_ms, ikv_callback callback,
                  void *data) {
    struct call call = asynchronous(timeout_ms, callback, data);
    REQUIRE_CALLBACK(callback);
    return call_set(project, key, value, options, &call);
}

int ikv_cas(ikv_project *project, ikv_bytes key, uint64_t version, ikv_bytes value, int64_t ttl_ms,
            uint32_t timeout_ms, int *stored) {
    ikv_set_options options = {.flags = IKV_SET_IF_VERSION, .ttl_ms = ttl_ms, .version = version};
    return ikv_set(project, key, value, &options, timeout_ms, stored);
}

int ikv_cas_async(ikv_project *project, ikv_bytes key, uint64_t version, ikv_bytes value,
                  int64_t ttl_ms, uint32_t timeout_ms, ikv_callback callback, void *data) {
    ikv_set_options options = {.flags = IKV_SET_IF_VERSION, .ttl_ms = ttl_ms, .version = version};
    return ikv_set_async(project, key, value, &options, timeout_ms, callback, data);
}

static int call_cas_delete(ikv_project *project, ikv_bytes key, uint64_t version,
                           struct call *call) {
    struct words words = {.argc = 0};
    int error = version > INT64_MAX ? IKV_ERR_INVALID : call_check_key(key);
    if (error != IKV_OK) {
        return refuse(call, error);
    }
    add(&words, ikv_text("DELEX"));
    add(&words, key);
    add(&words, ikv_text("IFVER"));
    add_number(&words, (int64_t)version);
    struct command command = {.is_write = true, .argc = words.argc, .argv = words.argv};
    return call_command(project, &command, call);
}

int ikv_cas_delete(ikv_project *project, ikv_bytes key, uint64_t version, uint32_t timeout_ms,
                   int *deleted) {
    struct call call = blocking(timeout_ms);
    int error = call_cas_delete(project, key, version, &call);
    return take_truth(&call, error, deleted);
}

int ikv_cas_delete_async(ikv_project *project, ikv_bytes key, uint64_t version, uint32_t timeout_ms,
                         ikv_callback callback, void *data) {
    struct call call = asynchronous(timeout_ms, callback, data);
    REQUIRE_CALLBACK(callback);
    return call_cas_delete(project, key, version, &call);
}

static int call_increment(ikv_project *project, ikv_bytes key, int64_t by, struct call *call) {
    struct words words = {.argc = 0};
    int error = call_check_key(key);
    if (error != IKV_OK) {
        return refuse(call, error);
    }
    add(&words, ikv_text("INCRBY"));
    add(&words, key);
    add_number(&words, by);
    struct command command = {.is_write = true, .argc = words.argc, .argv = words.argv};
    return call_command(project, &command, call);
}

int ikv_increment(ikv_project *project, ikv_bytes key, int64_t by, uint32_t timeout_ms,
                  int64_t *sum) {
    struct call call = blocking(timeout_ms);
    int error = call_increment(project, key, by, &call);
    return take_integer(&call, error, sum);
}

int ikv_increment_async(ikv_project *project, ikv_bytes key, int64_t by, uint32_t timeout_ms,
                        ikv_callback callback, void *data) {
    struct call call = asynchronous(timeout_ms, callback, data);
    REQUIRE_CALLBACK(callback);
    return call_increment(project, key, by, &call);
}

/* --- all keys, several keys
 * ------------------------------------------------------------------------------------- */

static int call_clear(ikv_project *project, struct call *call) {
    ikv_bytes words[] = {ikv_text("FLUSHDB")};
    struct command command = {.is_write = true, .argc = 1, .argv = words};
    return call_command(project, &command, call);
}

int ikv_clear(ikv_project *project, uint32_t timeout_ms) {
    struct call call = blocking(timeout_ms);
    int error = call_clear(project, &call);
    return take_stored(&call, error, NULL);
}

int ikv_clear_async(ikv_project *project, uint32_t timeout_ms, ikv_callback callback, void *data) {
    struct call call = asynchronous(timeout_ms, callback, data);
    REQUIRE_CALLBACK(callback);
    return call_clear(project, &call);
}

static int check_many(size_t n, const ikv_bytes *keys) {
    if (n < 1 || n > MANY_MAX || keys == NULL) {
        return IKV_ERR_INVALID;
    }
    for (size_t i = 0; i < n; i++) {
        int error = call_check_key(keys[i]);
        if (error != IKV_OK) {
            return error;
        }
    }
    return IKV_OK;
}

/* `values` NULL: keys alone. */
static int call_many(ikv_project *project, const char *verb, size_t n, const ikv_bytes *keys,
                     const ikv_bytes *values, bool is_write, struct call *call) {
    int error = check_many(n, keys);
    if (error != IKV_OK) {
        return refuse(call, error);
    }
    size_t step = values != NULL ? 2 : 1;
    ikv_bytes *argv = malloc((1 + n * step) * sizeof *argv);
    if (argv == NULL) {
        return IKV_ERR_NOMEM;
    }
    argv[0] = ikv_text(verb);
    for (size_t i = 0; i < n; i++) {
        argv[1 + i * step] = keys[i];
        if (values != NULL) {
            argv[2 + i * step] = values[i];
        }
    }
    struct command command = {.is_write = is_write, .argc = 1 + n * step, .argv = argv};
    error = call_command(project, &command, call);
    free(argv);
    return error;
}

int ikv_get_many(ikv_project *project, size_t n, const ikv_bytes *keys, uint32_t timeout_ms,
                 ikv_reply **reply) {
    struct call call = blocking(timeout_ms);
    int error = call_many(project, "MGET", n, keys, NULL, false, &call);
    return hand_out(&call, error, reply);
}

int ikv_get_many_async(ikv_project *project, size_t n, const ikv_bytes *keys, uint32_t timeout_ms,
                       ikv_callback callback, void *data) {
    struct call call = asynchronous(timeout_ms, callback, data);
    REQUIRE_CALLBACK(callback);
    return call_many(project, "MGET", n, keys, NULL, false, &call);
}

static int call_set_many(ikv_project *project, size_t n, const ikv_bytes *keys,
                         const ikv_bytes *values, struct call *call) {
    return values == NULL ? refuse(call, IKV_ERR_INVALID)
                          : call_many(project, "MSET", n, keys, values, true, call);
}

int ikv_set_many(ikv_project *project, size_t n, const ikv_bytes *keys, const ikv_bytes *values,
                 uint32_t timeout_ms) {
    struct call call = blocking(timeout_ms);
    int error = call_set_many(project, n, keys, values, &call);
    return take_stored(&call, error, NULL);
}

int ikv_set_many_async(ikv_project *project, size_t n, const ikv_bytes *keys,
                       const ikv_bytes *values, uint32_t timeout_ms, ikv_callback callback,
                       void *data) {
    struct call call = asynchronous(timeout_ms, callback, data);
    REQUIRE_CALLBACK(callback);
    return call_set_many(project, n, keys, values, &call);
}

int ikv_delete_many(ikv_project *project, size_t n, const ikv_bytes *keys, uint32_t timeout_ms,
                    int64_t *deleted) {
    struct call call = blocking(timeout_ms);
    int error = call_many(project, "DEL", n, keys, NULL, true, &call);
    return take_integer(&call, error, deleted);
}

int ikv_delete_many_async(ikv_project *project, size_t n, const ikv_bytes *keys,
                          uint32_t timeout_ms, ikv_callback callback, void *data) {
    struct call call = asynchronous(timeout_ms, callback, data);
    REQUIRE_CALLBACK(callback);
    return call_many(project, "DEL", n, keys, NULL, true, &call);
}

/* --- listing
 * -----------------------------------------------------------------------------------------------------
 */

/* A glob pattern that matches what begins with the prefix. */
static size_t make_pattern(char pattern[2 * PREFIX_MAX + 1], ikv_bytes prefix) {
    const char *at = prefix.data;
    size_t size = 0;
    for (size_t i = 0; i < prefix.size; i++) {
        if (at[i] == '*' || at[i] == '?' || at[i] == '[' || at[i] == ']' || at[i] == '\\') {
            pattern[size++] = '\\';
        }
        pattern[size++] = at[i];
    }
    pattern[size++] = '*';
    return size;
}

static int call_list(ikv_project *project, ikv_bytes prefix, uint64_t cursor, uint32_t count,
                     struct call *call) {
    char pattern[2 * PREFIX_MAX + 1];
    struct words words = {.argc = 0};
    if (count < 1 || count > COUNT_MAX || cursor > INT64_MAX ||
        (prefix.data == NULL && prefix.size > 0)) {
        return refuse(call, IKV_ERR_INVALID);
    }
    if (prefix.size > PREFIX_MAX) {
        return refuse(call, IKV_ERR_TOO_BIG);
    }
    add(&words, ikv_text("SCAN"));
    add_number(&words, (int64_t)cursor);
    add(&words, ikv_text("MATCH"));
    add(&words, ikv_bytes_of(pattern, make_pattern(pattern, prefix)));
    add(&words, ikv_text("COUNT"));
    add_number(&words, count);
    struct command command = {.is_write = false, .argc = words.argc, .argv = words.argv};
    return call_command(project, &command, call);
}

int ikv_list(ikv_project *project, ikv_bytes prefix, uint64_t cursor, uint32_t count,
             uint32_t timeout_ms, uint64_t *next, ikv_reply **reply) {
    struct call call = blocking(timeout_ms);
    int64_t number = 0;
    int error = call_list(project, prefix, cursor, count, &call);
    if (error == IKV_OK) {
        ikv_value *value = &call.reply->value;
        if (value->type == IKV_ARRAY && value->size == 2 &&
            value_number(&value->elements[0], &number) && number >= 0 &&
            value->elements[1].type == IKV_ARRAY) {
            *value = value->elements[1];
        } else {
            error = IKV_ERR_PROTOCOL;
        }
    }
    if (next != NULL) {
        *next = (uint64_t)number;
    }
    return hand_out(&call, error, reply);
}

int ikv_list_async(ikv_project *project, ikv_bytes prefix, uint64_t cursor, uint32_t count,
                   uint32_t timeout_ms, ikv_callback callback, void *data) {
    struct call call = asynchronous(timeout_ms, callback, data);
    REQUIRE_CALLBACK(callback);
    return call_list(project, prefix, cursor, count, &call);
}

/* --- usage
 * -------------------------------------------------------------------------------------------------------
 */

static int call_usage(ikv_project *project, struct call *call) {
    ikv_bytes words[] = {ikv_text("PROJECT"), ikv_text("INFO")};
    struct command command = {.is_write = false, .argc = 2, .argv = words};
    return call_command(project, &command, call);
}

static uint64_t field_number(const ikv_value *map, const char *name, bool *found) {
    const ikv_value *value = value_field(map, name);
    int64_t number = 0;
    if (value == NULL || !value_number(value, &number) || number < 0) {
        *found = false;
        return 0;
    }
    return (uint64_t)number;
}

int ikv_get_usage(ikv_project *project, uint32_t timeout_ms, ikv_usage *usage) {
    struct call call = blocking(timeout_ms);
    ikv_usage filled = {0};
    int error = call_usage(project, &call);
    if (error == IKV_OK) {
        const ikv_value *map = ikv_reply_value(call.reply);
        bool found = true;
        filled.keys = field_number(map, "keys", &found);
        filled.used_bytes = field_number(map, "used_bytes", &found);
        filled.quota_bytes = field_number(map, "quota_bytes", &found);
        filled.shard = (uint32_t)field_number(map, "shard", &found);
        filled.leader = (uint32_t)field_number(map, "leader", &found);
        error = found ? IKV_OK : IKV_ERR_PROTOCOL;
    }
    if (usage != NULL) {
        *usage = error == IKV_OK ? filled : (ikv_usage){0};
    }
    ikv_reply_free(call.reply);
    return error;
}

int ikv_get_usage_async(ikv_project *project, uint32_t timeout_ms, ikv_callback callback,
                        void *data) {
    struct call call = asynchronous(timeout_ms, callback, data);
    REQUIRE_CALLBACK(callback);
    return call_usage(project, &call);
}

/* --- any command
 * ---------------------------------------------------------------------------------------------------
 */

static int call_any(ikv_project *project, size_t argc, const ikv_bytes *argv, struct call *call) {
    int error = project == NULL ? IKV_ERR_INVALID : call_check_arguments(argc, argv);
    if (error != IKV_OK) {
        return refuse(call, error);
    }
    enum verb_kind kind = verb_kind_of(argc, argv);
    if (kind == VERB_CONNECTION) {
        return refuse(call, IKV_ERR_INVALID);
    }
    if (client_is_forked(project->client)) {
        return IKV_ERR_FORKED;
    }
    struct request *request = request_new(project, argc, argv);
    if (request != NULL) {
        request->is_write = kind == VERB_WRITE || kind == VERB_ACT;
        request->wants_once = kind == VERB_WRITE;
        request->retry_safe = kind == VERB_READ || kind == VERB_ASK;
    }
    return call_request(project->client, request, call);
}

int ikv_command(ikv_project *project, size_t argc, const ikv_bytes *argv, uint32_t timeout_ms,
                ikv_reply **reply) {
    struct call call = blocking(timeout_ms);
    int error = call_any(project, argc, argv, &call);
    return hand_out(&call, error, reply);
}

int ikv_command_async(ikv_project *project, size_t argc, const ikv_bytes *argv, uint32_t timeout_ms,
                      ikv_callback callback, void *data) {
    struct call call = asynchronous(timeout_ms, callback, data);
    REQUIRE_CALLBACK(callback);
    return call_any(project, argc, argv, &call);
}

/* --- nodes and the cluster
 * ------------------------------------------------------------------------------------------ */

static int call_node(ikv_client *client, const char *node, size_t argc, const ikv_bytes *argv,
                     struct call *call) {
    int error = client == NULL ? IKV_ERR_INVALID : call_check_arguments(argc, argv);
    if (error == IKV_OK && node != NULL && (*node == '\0' || strlen(node) >= CLIENT_NAME_SIZE)) {
        error = IKV_ERR_INVALID;
    }
    enum verb_kind kind = error == IKV_OK ? verb_kind_of(argc, argv) : VERB_CONNECTION;
    if (kind == VERB_CONNECTION) {
        return refuse(call, error != IKV_OK ? error : IKV_ERR_INVALID);
    }
    if (client_is_forked(client)) {
        return IKV_ERR_FORKED;
    }
    struct request *request = request_new(NULL, argc, argv);
    if (request != NULL) {
        request->control = true;
        request->retry_safe = kind == VERB_READ || kind == VERB_ASK;
        if (node != NULL) {
            snprintf(request->node_name, sizeof request->node_name, "%s", node);
        }
    }
    return call_request(client, request, call);
}

int ikv_node_command(ikv_client *client, const char *node, size_t argc, const ikv_bytes *argv,
                     uint32_t timeout_ms, ikv_reply **reply) {
    struct call call = blocking(timeout_ms);
    int error = call_node(client, node, argc, argv, &call);
    return hand_out(&call, error, reply);
}

int ikv_node_command_async(ikv_client *client, const char *node, size_t argc, const ikv_bytes *argv,
                           uint32_t timeout_ms, ikv_callback callback, void *data) {
    struct call call = asynchronous(timeout_ms, callback, data);
    REQUIRE_CALLBACK(callback);
    return call_node(client, node, argc, argv, &call);
}

int ikv_ping(ikv_client *client, uint32_t timeout_ms, ikv_reply **reply) {
    ikv_bytes words[] = {ikv_text("PING")};
    return ikv_node_command(client, NULL, 1, words, timeout_ms, reply);
}

int ikv_topology(ikv_client *client, uint32_t timeout_ms, ikv_reply **reply) {
    ikv_bytes words[] = {ikv_text("TOPOLOGY")};
    struct call call = blocking(timeout_ms);
    if (client == NULL) {
        return hand_out(&call, refuse(&call, IKV_ERR_INVALID), reply);
    }
    if (client_is_forked(client)) {
        return hand_out(&call, IKV_ERR_FORKED, reply);
    }
    struct request *request = request_new(NULL, 1, words);
    if (request != NULL) {
        request->wants_topology = true;
        request->retry_safe = true;
    }
    int error = call_request(client, request, &call);
    return hand_out(&call, error, reply);
}
