/* The addon: libinvokekv for JavaScript. lib/native.js tells what its functions take. It uses N-API
 * only, and nothing of the event loop beneath it: wakeups go through one thread-safe function for
 * each store. */
#include "store.h"
#include "values.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRY(call)                                                                                  \
    do {                                                                                           \
        if ((call) != napi_ok)                                                                     \
            return throw_broken(env);                                                              \
    } while (0)

/* One for each JavaScript environment: the main thread, and every worker. */
struct environment {
    struct store *stores;
    uint32_t n_stores, n_projects, n_watches;
};

static napi_value throw_broken(napi_env env) {
    bool pending = false;
    if (napi_is_exception_pending(env, &pending) == napi_ok && !pending)
        (void)napi_throw_type_error(env, NULL, "invoke-kv: wrong arguments for the addon");
    return NULL;
}

static napi_value throw_text(napi_env env, const char *text) {
    (void)napi_throw_error(env, NULL, text);
    return NULL;
}

static struct environment *environment_of(napi_env env) {
    void *data = NULL;
    (void)napi_get_instance_data(env, &data);
    return data;
}

/* --- answers ------------------------------------------------------------------------------------
 */

/* Describes one record; a value that needs a handle of its own goes to `extras`. */
static bool describe(napi_env env, const struct record *record, size_t text_start, double *meta,
                     napi_value extras, uint32_t *n_extras) {
    napi_value extra = NULL;
    meta[0] = record->id;
    meta[1] = record->kind;
    meta[2] = 0;
    meta[3] = 0;
    switch (record->kind) {
    case RECORD_NIL:
    case RECORD_STATUS:
        return true;
    case RECORD_TEXT:
        meta[2] = (double)(record->at - text_start);
        meta[3] = (double)(record->at + record->size - text_start);
        return true;
    case RECORD_INTEGER:
        if (value_is_safe(record->integer)) {
            meta[2] = (double)record->integer;
            return true;
        }
        meta[1] = RECORD_REPLY;
        extra = value_integer(env, record->integer);
        break;
    case RECORD_REPLY:
        extra = value_convert(env, ikv_reply_value(record->reply));
        break;
    case RECORD_ERROR: {
        int error = record->reply != NULL ? ikv_reply_error(record->reply) : IKV_ERR_NOMEM;
        const char *message = record->reply != NULL ? ikv_reply_message(record->reply) : "";
        meta[2] = error;
        extra = value_text(env, message, strlen(message));
        break;
    }
    case RECORD_EVENT:
        meta[2] = record->event->type;
        extra = value_event(env, record->event);
        break;
    }
    if (extra == NULL) { /* a text longer than a string can be */
        bool pending;
        napi_value ignored;
        if (napi_is_exception_pending(env, &pending) == napi_ok && pending)
            (void)napi_get_and_clear_last_exception(env, &ignored);
        meta[1] = RECORD_ERROR;
        meta[2] = IKV_ERR_TOO_BIG;
        extra = value_text(env, "the value is longer than a string can be", 40);
    }
    meta[3] = *n_extras;
    return extra != NULL && napi_set_element(env, extras, (*n_extras)++, extra) == napi_ok;
}

/* Hands over one batch, from `*first` on. */
static bool deliver_batch(napi_env env, struct store *store, size_t *first) {
    struct records *taken = &store->taken;
    napi_value deliver, meta_array, extras, global;
    double *meta;
    if (napi_get_reference_value(env, store->deliver, &deliver) != napi_ok ||
        napi_get_reference_value(env, store->meta, &meta_array) != napi_ok ||
        napi_get_typedarray_info(env, meta_array, NULL, NULL, (void **)&meta, NULL, NULL) !=
            napi_ok ||
        napi_create_array(env, &extras) != napi_ok || napi_get_global(env, &global) != napi_ok)
        return false;
    size_t start = 0;
    size_t end = 0;
    uint32_t n = 0;
    uint32_t n_extras = 0;
    size_t at = *first;
    for (; at < taken->n && n < META_RECORDS && end - start < ((size_t)1 << 20); at++, n++) {
        const struct record *record = &taken->items[at];
        if (record->kind == RECORD_TEXT) {
            if (end == 0)
                start = record->at;
            end = record->at + record->size;
        }
        if (!describe(env, record, start, meta + n * META_FIELDS, extras, &n_extras))
            return false;
        ikv_reply_free(record->reply);
        free(record->event);
        taken->items[at].reply = NULL;
        taken->items[at].event = NULL;
    }
    *first = at;
    napi_value arguments[3];
    if (napi_create_uint32(env, n, &arguments[0]) != napi_ok ||
        napi_create_string_latin1(env, end > start ? taken->text + start : "", end - start,
                                  &arguments[1]) != napi_ok)
        return false;
    arguments[2] = extras;
    return napi_call_function(env, global, deliver, 3, arguments, NULL) == napi_ok;
}

static void deliver_all(napi_env env, struct store *store) {
    queue_take(&store->queue, &store->taken);
    size_t first = 0;
    while (first < store->taken.n) {
        napi_handle_scope scope;
        if (napi_open_handle_scope(env, &scope) != napi_ok)
            break;
        bool delivered = deliver_batch(env, store, &first);
        (void)napi_close_handle_scope(env, scope);
        if (!delivered)
            break;
    }
    records_drop(&store->taken, first);
}

/* On JavaScript's thread, woken by burst(). */
static void woken(napi_env env, napi_value function, void *context, void *data) {
    (void)function;
    (void)data;
    if (env != NULL)
        deliver_all(env, context);
}

/* On the client's thread, behind callbacks. */
static void burst(void *data) {
    struct store *store = data;
    if (queue_announce(&store->queue))
        (void)napi_call_threadsafe_function(store->wake, NULL, napi_tsfn_nonblocking);
}

/* --- opening and closing ------------------------------------------------------------------------
 */

static void list_insert(struct environment *environment, struct store *store) {
    store->next = environment->stores;
    if (store->next != NULL)
        store->next->previous = store;
    environment->stores = store;
    environment->n_stores++;
}

static void list_remove(struct environment *environment, struct store *store) {
    if (store->previous != NULL)
        store->previous->next = store->next;
    else
        environment->stores = store->next;
    if (store->next != NULL)
        store->next->previous = store->previous;
    environment->n_stores--;
}

/* Any thread; the second of two callers waits for the first one. */
static void close_client(struct store *store) {
    (void)pthread_mutex_lock(&store->close_lock);
    if (store->state != CLOSED)
        (void)ikv_close(store->client);
    store->state = CLOSED;
    (void)pthread_mutex_unlock(&store->close_lock);
}

static void free_parts(struct environment *environment, struct store *store) {
    for (uint32_t i = 0; i < store->n_watches; i++) {
        if (store->watches[i] == NULL)
            continue;
        ikv_watch_close(store->watches[i]->handle);
        free(store->watches[i]);
        environment->n_watches--;
    }
    for (uint32_t i = 0; i < store->n_projects; i++) {
        if (store->projects[i] == NULL)
            continue;
        ikv_project_close(store->projects[i]);
        environment->n_projects--;
    }
    free(store->watches);
    free(store->projects);
    store->watches = NULL;
    store->projects = NULL;
    store->n_watches = 0;
    store->n_projects = 0;
    for (uint32_t i = 0; i < REQUEST_CHUNKS; i++) {
        free(store->requests[i]);
        store->requests[i] = NULL;
    }
}

/* Behind close_client(): nothing calls back any more. The struct itself stays for JavaScript's
 * handle. */
static void release(napi_env env, struct store *store) {
    struct environment *environment = environment_of(env);
    free_parts(environment, store);
    queue_destroy(&store->queue);
    records_destroy(&store->taken);
    (void)napi_delete_reference(env, store->deliver);
    (void)napi_delete_reference(env, store->meta);
    (void)napi_release_threadsafe_function(store->wake, napi_tsfn_abort);
    list_remove(environment, store);
    store->client = NULL;
}

static void finalize_store(napi_env env, void *data, void *hint) {
    (void)env;
    (void)hint;
    struct store *store = data;
    (void)pthread_mutex_destroy(&store->close_lock);
    free(store);
}

static int set_options(napi_env env, napi_value pairs, ikv_options *options) {
    uint32_t n = 0;
    if (napi_get_array_length(env, pairs, &n) != napi_ok)
        return IKV_ERR_INVALID;
    for (uint32_t i = 0; i + 1 < n; i += 2) {
        napi_value name, value;
        napi_valuetype type;
        int32_t option;
        if (napi_get_element(env, pairs, i, &name) != napi_ok ||
            napi_get_element(env, pairs, i + 1, &value) != napi_ok ||
            napi_get_value_int32(env, name, &option) != napi_ok ||
            napi_typeof(env, value, &type) != napi_ok)
            return IKV_ERR_INVALID;
        int error = IKV_ERR_INVALID;
        char text[4096];
        size_t size;
        int64_t number;
        if (type == napi_number && napi_get_value_int64(env, value, &number) == napi_ok)
            error = ikv_options_set_number(options, (enum ikv_option)option, number);
        else if (type == napi_string &&
                 napi_get_value_string_utf8(env, value, text, sizeof text, &size) == napi_ok &&
                 size + 1 < sizeof text && memchr(text, '\0', size) == NULL)
            error = ikv_options_set_text(options, (enum ikv_option)option, text);
        if (error != IKV_OK)
            return error;
    }
    return IKV_OK;
}

/* Only the parts that JavaScript's side needs; the client is opened behind it. */
static struct store *store_new(napi_env env, napi_value deliver, napi_value meta) {
    struct store *store = calloc(1, sizeof *store);
    if (store == NULL)
        return NULL;
    store->env = env;
    queue_init(&store->queue);
    (void)pthread_mutex_init(&store->close_lock, NULL);
    napi_value name;
    if (napi_create_string_latin1(env, "invoke-kv", NAPI_AUTO_LENGTH, &name) == napi_ok &&
        napi_create_reference(env, deliver, 1, &store->deliver) == napi_ok &&
        napi_create_reference(env, meta, 1, &store->meta) == napi_ok &&
        napi_create_threadsafe_function(env, NULL, NULL, name, 0, 1, NULL, NULL, store, woken,
                                        &store->wake) == napi_ok &&
        napi_unref_threadsafe_function(env, store->wake) == napi_ok)
        return store;
    queue_destroy(&store->queue);
    free(store);
    return NULL;
}

/* open(seeds, [option, value, ...], meta, deliver): a store, or an array of error and message. */
static napi_value addon_open(napi_env env, napi_callback_info info) {
    napi_value arguments[4];
    size_t n = 4;
    char seeds[16384];
    size_t size;
    napi_typedarray_type type;
    size_t length;
    TRY(napi_get_cb_info(env, info, &n, arguments, NULL, NULL));
    TRY(napi_get_value_string_utf8(env, arguments[0], seeds, sizeof seeds, &size));
    TRY(napi_get_typedarray_info(env, arguments[2], &type, &length, NULL, NULL, NULL));
    if (type != napi_float64_array || length < (size_t)META_FIELDS * META_RECORDS)
        return throw_broken(env);
    ikv_options *options = ikv_options_new();
    struct store *store = options != NULL ? store_new(env, arguments[3], arguments[2]) : NULL;
    if (store == NULL) {
        ikv_options_free(options);
        return throw_text(env, "invoke-kv: no memory for a store");
    }
    char message[512] = "an option is outside its range";
    ikv_options_set_burst(options, burst, store);
    int error = size + 1 < sizeof seeds ? set_options(env, arguments[1], options) : IKV_ERR_INVALID;
    if (error == IKV_OK)
        error = ikv_open(seeds, options, &store->client, message, sizeof message);
    ikv_options_free(options);
    list_insert(environment_of(env), store);
    napi_value result;
    if (error == IKV_OK) {
        TRY(napi_create_external(env, store, finalize_store, NULL, &result));
        return result;
    }
    store->state = CLOSED;
    release(env, store);
    finalize_store(env, store, NULL);
    napi_value code, text;
    TRY(napi_create_array_with_length(env, 2, &result));
    TRY(napi_create_int32(env, error, &code));
    TRY(napi_create_string_utf8(env, message, NAPI_AUTO_LENGTH, &text));
    TRY(napi_set_element(env, result, 0, code));
    TRY(napi_set_element(env, result, 1, text));
    return result;
}

/* Arguments of a function whose first one is a store; NULL after an exception. */
static struct store *arguments_of(napi_env env, napi_callback_info info, size_t n,
                                  napi_value *arguments) {
    size_t given = n;
    void *store = NULL;
    if (napi_get_cb_info(env, info, &given, arguments, NULL, NULL) != napi_ok || given < n ||
        napi_get_value_external(env, arguments[0], &store) != napi_ok) {
        (void)throw_broken(env);
        return NULL;
    }
    return store;
}

static void close_execute(napi_env env, void *data) {
    (void)env;
    close_client(data);
}

static void close_complete(napi_env env, napi_status status, void *data) {
    struct store *store = data;
    if (status != napi_ok) /* cancelled: the environment ends, and its hook closes the store */
        return;
    deliver_all(env, store); /* what the library answered while it closed */
    (void)napi_delete_async_work(env, store->close_work);
    napi_deferred promise = store->close_promise;
    release(env, store);
    napi_value undefined;
    if (napi_get_undefined(env, &undefined) == napi_ok)
        (void)napi_resolve_deferred(env, promise, undefined);
}

/* close(store): a promise. Every request has been answered when it resolves. Once only. */
static napi_value addon_close(napi_env env, napi_callback_info info) {
    napi_value arguments[1];
    struct store *store = arguments_of(env, info, 1, arguments);
    if (store == NULL)
        return NULL;
    if (store->state != OPEN)
        return throw_text(env, "invoke-kv: the store is closed");
    napi_value promise, name;
    TRY(napi_create_string_latin1(env, "invoke-kv close", NAPI_AUTO_LENGTH, &name));
    TRY(napi_create_promise(env, &store->close_promise, &promise));
    TRY(napi_create_async_work(env, NULL, name, close_execute, close_complete, store,
                               &store->close_work));
    store->state = CLOSING;
    TRY(napi_queue_async_work(env, store->close_work));
    return promise;
}

/* The environment ends with stores open: process.exit(), or a worker that is terminated. */
static void environment_end(void *data) {
    struct environment *environment = data;
    while (environment->stores != NULL) {
        struct store *store = environment->stores;
        close_client(store);
        release(store->env, store);
    }
}

static void environment_free(napi_env env, void *data, void *hint) {
    (void)env;
    (void)hint;
    free(data);
}

/* --- requests -----------------------------------------------------------------------------------
 */

/* submit(store, fields, count, arena, used): how many were refused; see store.h. */
static napi_value addon_submit(napi_env env, napi_callback_info info) {
    napi_value arguments[5];
    struct store *store = arguments_of(env, info, 5, arguments);
    if (store == NULL)
        return NULL;
    napi_typedarray_type fields_type, arena_type;
    size_t n_fields, arena_size;
    double *fields;
    char *arena;
    uint32_t n, used;
    TRY(napi_get_typedarray_info(env, arguments[1], &fields_type, &n_fields, (void **)&fields, NULL,
                                 NULL));
    TRY(napi_get_value_uint32(env, arguments[2], &n));
    TRY(napi_get_typedarray_info(env, arguments[3], &arena_type, &arena_size, (void **)&arena, NULL,
                                 NULL));
    TRY(napi_get_value_uint32(env, arguments[4], &used));
    if (fields_type != napi_float64_array || arena_type != napi_uint8_array ||
        n_fields / FIELDS < n || arena_size < used)
        return throw_broken(env);
    if (store->state != OPEN)
        return throw_text(env, "invoke-kv: the store is closed");
    napi_value result;
    TRY(napi_create_uint32(env, store_submit(store, fields, n, arena, used), &result));
    return result;
}

/* keepAlive(store, on): whether the event loop waits for answers. */
static napi_value addon_keep_alive(napi_env env, napi_callback_info info) {
    napi_value arguments[2];
    bool on;
    struct store *store = arguments_of(env, info, 2, arguments);
    if (store == NULL)
        return NULL;
    TRY(napi_get_value_bool(env, arguments[1], &on));
    if (store->client == NULL)
        return NULL;
    if (on)
        TRY(napi_ref_threadsafe_function(env, store->wake));
    else
        TRY(napi_unref_threadsafe_function(env, store->wake));
    return NULL;
}

/* --- projects and watches -----------------------------------------------------------------------
 */

/* The first free place of a table of pointers, which grows by one when there is none; UINT32_MAX:
 * no memory. */
static uint32_t table_place(void ***table, uint32_t *n) {
    for (uint32_t i = 0; i < *n; i++)
        if ((*table)[i] == NULL)
            return i;
    void **grown = realloc(*table, ((size_t)*n + 1) * sizeof *grown);
    if (grown == NULL)
        return UINT32_MAX;
    *table = grown;
    grown[*n] = NULL;
    return (*n)++;
}

/* A negative number tells an error. */
static napi_value number_or_error(napi_env env, uint32_t number, int error) {
    napi_value result;
    TRY(napi_create_int64(env, error == IKV_OK ? (int64_t)number : -error, &result));
    return result;
}

/* projectOpen(store, name, token or "", level, maxStale): a number; below 0: an error. */
static napi_value addon_project_open(napi_env env, napi_callback_info info) {
    napi_value arguments[5];
    struct store *store = arguments_of(env, info, 5, arguments);
    if (store == NULL)
        return NULL;
    char name[1024], token[1024];
    size_t name_size, token_size;
    uint32_t level, max_stale_ms;
    TRY(napi_get_value_string_utf8(env, arguments[1], name, sizeof name, &name_size));
    TRY(napi_get_value_string_utf8(env, arguments[2], token, sizeof token, &token_size));
    TRY(napi_get_value_uint32(env, arguments[3], &level));
    TRY(napi_get_value_uint32(env, arguments[4], &max_stale_ms));
    if (store->state != OPEN)
        return number_or_error(env, 0, IKV_ERR_CLOSED);
    if (name_size + 1 == sizeof name || token_size + 1 == sizeof token || name_size == 0 ||
        memchr(name, '\0', name_size) != NULL || memchr(token, '\0', token_size) != NULL)
        return number_or_error(env, 0, IKV_ERR_INVALID);
    uint32_t number = table_place((void ***)&store->projects, &store->n_projects);
    if (number == UINT32_MAX)
        return number_or_error(env, 0, IKV_ERR_NOMEM);
    int error = ikv_project_open(store->client, name, token_size > 0 ? token : NULL,
                                 (enum ikv_level)level, max_stale_ms, &store->projects[number]);
    if (error != IKV_OK)
        store->projects[number] = NULL;
    else
        environment_of(env)->n_projects++;
    return number_or_error(env, number, error);
}

/* projectClose(store, number) */
static napi_value addon_project_close(napi_env env, napi_callback_info info) {
    napi_value arguments[2];
    uint32_t number;
    struct store *store = arguments_of(env, info, 2, arguments);
    if (store == NULL)
        return NULL;
    TRY(napi_get_value_uint32(env, arguments[1], &number));
    if (number < store->n_projects && store->projects[number] != NULL) {
        ikv_project_close(store->projects[number]);
        store->projects[number] = NULL;
        environment_of(env)->n_projects--;
    }
    return NULL;
}

/* On the client's thread. */
static void watched(void *data, const ikv_event *event) {
    struct watch *watch = data;
    struct queue *queue = &watch->store->queue;
    if (watch->lost && event->type != IKV_EVENT_END) {
        ikv_event gap = {.type = IKV_EVENT_GAP, .index = event->index, .message = ""};
        watch->lost = !queue_push_event(queue, watch->id, &gap);
    }
    if (watch->lost && event->type != IKV_EVENT_END)
        return;
    watch->lost = !queue_push_event(queue, watch->id, event);
}

/* watchOpen(store, project, prefix, from): a number; below 0: an error. */
static napi_value addon_watch_open(napi_env env, napi_callback_info info) {
    napi_value arguments[4];
    struct store *store = arguments_of(env, info, 4, arguments);
    if (store == NULL)
        return NULL;
    uint32_t project;
    int64_t from;
    char prefix[2048];
    size_t prefix_size;
    TRY(napi_get_value_uint32(env, arguments[1], &project));
    TRY(napi_get_value_string_utf8(env, arguments[2], prefix, sizeof prefix, &prefix_size));
    TRY(napi_get_value_int64(env, arguments[3], &from));
    if (store->state != OPEN || project >= store->n_projects || store->projects[project] == NULL)
        return number_or_error(env, 0, IKV_ERR_CLOSED);
    if (prefix_size + 1 == sizeof prefix || from < 0)
        return number_or_error(env, 0, IKV_ERR_INVALID);
    uint32_t number = table_place((void ***)&store->watches, &store->n_watches);
    struct watch *watch = number != UINT32_MAX ? calloc(1, sizeof *watch) : NULL;
    if (watch == NULL)
        return number_or_error(env, 0, IKV_ERR_NOMEM);
    watch->store = store;
    watch->id = number;
    int error = ikv_watch_open(store->projects[project], ikv_bytes_of(prefix, prefix_size),
                               (uint64_t)from, watched, watch, &watch->handle);
    if (error != IKV_OK) {
        free(watch);
        return number_or_error(env, 0, error);
    }
    store->watches[number] = watch;
    environment_of(env)->n_watches++;
    return number_or_error(env, number, IKV_OK);
}

/* watchClose(store, number): events of it that wait already are still told. */
static napi_value addon_watch_close(napi_env env, napi_callback_info info) {
    napi_value arguments[2];
    uint32_t number;
    struct store *store = arguments_of(env, info, 2, arguments);
    if (store == NULL)
        return NULL;
    TRY(napi_get_value_uint32(env, arguments[1], &number));
    if (number < store->n_watches && store->watches[number] != NULL) {
        ikv_watch_close(store->watches[number]->handle);
        free(store->watches[number]);
        store->watches[number] = NULL;
        environment_of(env)->n_watches--;
    }
    return NULL;
}

/* --- the module ---------------------------------------------------------------------------------
 */

/* describeError(number): text. */
static napi_value addon_describe_error(napi_env env, napi_callback_info info) {
    napi_value argument, result;
    size_t n = 1;
    int32_t error;
    TRY(napi_get_cb_info(env, info, &n, &argument, NULL, NULL));
    TRY(napi_get_value_int32(env, argument, &error));
    TRY(napi_create_string_utf8(env, ikv_strerror(error), NAPI_AUTO_LENGTH, &result));
    return result;
}

/* counts(): [stores, projects, watches] that are open, for tests that look for leaks. */
static napi_value addon_counts(napi_env env, napi_callback_info info) {
    (void)info;
    const struct environment *environment = environment_of(env);
    const uint32_t counts[3] = {environment->n_stores, environment->n_projects,
                                environment->n_watches};
    napi_value result, count;
    TRY(napi_create_array_with_length(env, 3, &result));
    for (uint32_t i = 0; i < 3; i++) {
        TRY(napi_create_uint32(env, counts[i], &count));
        TRY(napi_set_element(env, result, i, count));
    }
    return result;
}

/* The macro defines it without a declaration before it. */
NAPI_MODULE_EXPORT int32_t NODE_API_MODULE_GET_API_VERSION(void);

NAPI_MODULE_INIT() {
    static const struct {
        const char *name;
        napi_callback function;
    } functions[] = {
        {"open", addon_open},
        {"close", addon_close},
        {"submit", addon_submit},
        {"keepAlive", addon_keep_alive},
        {"projectOpen", addon_project_open},
        {"projectClose", addon_project_close},
        {"watchOpen", addon_watch_open},
        {"watchClose", addon_watch_close},
        {"describeError", addon_describe_error},
        {"counts", addon_counts},
    };
    struct environment *environment = calloc(1, sizeof *environment);
    if (environment == NULL)
        return throw_text(env, "invoke-kv: no memory");
    if (napi_set_instance_data(env, environment, environment_free, NULL) != napi_ok) {
        free(environment);
        return throw_broken(env);
    }
    TRY(napi_add_env_cleanup_hook(env, environment_end, environment));
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        napi_value function;
        TRY(napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].function,
                                 NULL, &function));
        TRY(napi_set_named_property(env, exports, functions[i].name, function));
    }
    napi_value version;
    TRY(napi_create_string_utf8(env, ikv_version(), NAPI_AUTO_LENGTH, &version));
    TRY(napi_set_named_property(env, exports, "version", version));
    return exports;
}
