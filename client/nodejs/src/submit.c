/* Operations from JavaScript to the library, one batch at a time. The batch was written by
 * lib/batch.js, but is read as if by a stranger: sizes are checked against the arena. */
#include "store.h"

#include <stdlib.h>
#include <string.h>

/* What is left of the arena. A piece that is not there makes it broken. */
struct arena {
    const char *at;
    size_t left;
    bool broken;
};

static ikv_bytes arena_take(struct arena *arena, double size) {
    if (!(size >= 0) || size > (double)arena->left) {
        arena->broken = true;
        return ikv_bytes_of(NULL, 0);
    }
    ikv_bytes bytes = ikv_bytes_of(arena->at, (size_t)size);
    arena->at += bytes.size;
    arena->left -= bytes.size;
    return bytes;
}

static uint32_t arena_take_u32(struct arena *arena) {
    ikv_bytes bytes = arena_take(arena, 4);
    if (arena->broken)
        return 0;
    const unsigned char *p = bytes.data;
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* NULL: broken, as also without memory. Every piece has 4 bytes, so the arena bounds their number.
 */
static ikv_bytes *arena_take_pieces(struct arena *arena, size_t n) {
    ikv_bytes *pieces = n <= arena->left / 4 ? calloc(n + 1, sizeof *pieces) : NULL;
    if (pieces == NULL)
        arena->broken = true;
    for (size_t i = 0; pieces != NULL && i < n; i++)
        pieces[i] = arena_take(arena, arena_take_u32(arena));
    if (arena->broken) {
        free(pieces);
        return NULL;
    }
    return pieces;
}

static struct request *request_of(struct store *store, uint32_t id) {
    uint32_t chunk = id / REQUEST_CHUNK;
    if (chunk >= REQUEST_CHUNKS)
        return NULL;
    if (store->requests[chunk] == NULL) {
        struct request *requests = calloc(REQUEST_CHUNK, sizeof *requests);
        if (requests == NULL)
            return NULL;
        for (uint32_t i = 0; i < REQUEST_CHUNK; i++)
            requests[i] = (struct request){.store = store, .id = chunk * REQUEST_CHUNK + i};
        store->requests[chunk] = requests;
    }
    return &store->requests[chunk][id % REQUEST_CHUNK];
}

static void answered(void *data, ikv_reply *reply) {
    struct request *request = data;
    queue_push_reply(&request->store->queue, request->id, reply);
}

static int submit_transaction(ikv_project *project, struct arena *arena, size_t n,
                              uint32_t timeout_ms, struct request *request) {
    ikv_transaction *transaction = project != NULL ? ikv_transaction_new(project) : NULL;
    int error = project == NULL ? IKV_ERR_CLOSED : transaction == NULL ? IKV_ERR_NOMEM : IKV_OK;
    for (size_t i = 0; i < n && !arena->broken; i++) {
        uint32_t argc = arena_take_u32(arena);
        ikv_bytes *argv = arena_take_pieces(arena, argc);
        if (argv != NULL && error == IKV_OK)
            error = ikv_transaction_add(transaction, argc, argv);
        free(argv);
    }
    if (arena->broken)
        error = IKV_ERR_INVALID;
    if (error == IKV_OK)
        error = ikv_transaction_run_async(transaction, timeout_ms, answered, request);
    ikv_transaction_free(transaction);
    return error;
}

/* The first piece is the node, with a NUL, or empty. */
static int submit_node_command(struct store *store, size_t n, const ikv_bytes *pieces,
                               uint32_t timeout_ms, struct request *request) {
    if (n < 2)
        return IKV_ERR_INVALID;
    const char *node = pieces[0].size > 0 ? pieces[0].data : NULL;
    if (node != NULL && node[pieces[0].size - 1] != '\0')
        return IKV_ERR_INVALID;
    return ikv_node_command_async(store->client, node, n - 1, pieces + 1, timeout_ms, answered,
                                  request);
}

static int submit_pieces(struct store *store, ikv_project *project, enum operation operation,
                         size_t n, uint32_t timeout_ms, struct arena *arena,
                         struct request *request) {
    size_t total = operation == OP_SET_MANY ? 2 * n : n;
    ikv_bytes *pieces = arena_take_pieces(arena, total);
    if (pieces == NULL)
        return IKV_ERR_INVALID;
    int error = IKV_ERR_INVALID;
    if (operation == OP_NODE_COMMAND)
        error = submit_node_command(store, n, pieces, timeout_ms, request);
    else if (project == NULL)
        error = IKV_ERR_CLOSED;
    else if (operation == OP_GET_MANY)
        error = ikv_get_many_async(project, n, pieces, timeout_ms, answered, request);
    else if (operation == OP_SET_MANY) /* all keys, then all values */
        error = ikv_set_many_async(project, n, pieces, pieces + n, timeout_ms, answered, request);
    else if (operation == OP_DELETE_MANY)
        error = ikv_delete_many_async(project, n, pieces, timeout_ms, answered, request);
    else if (operation == OP_COMMAND)
        error = ikv_command_async(project, n, pieces, timeout_ms, answered, request);
    free(pieces);
    return error;
}

static int submit_simple(ikv_project *project, const double *fields, ikv_bytes key, ikv_bytes value,
                         uint32_t timeout_ms, struct request *request) {
    int64_t number = (int64_t)fields[FIELD_NUMBER];
    ikv_set_options options = {.flags = (unsigned)fields[FIELD_EXTRA], .ttl_ms = number};
    uint64_t version = (uint64_t)fields[FIELD_EXTRA];
    switch ((int)fields[FIELD_OP]) {
    case OP_GET:
        return ikv_get_async(project, key, timeout_ms, answered, request);
    case OP_SET:
        return ikv_set_async(project, key, value, &options, timeout_ms, answered, request);
    case OP_HAS:
        return ikv_has_async(project, key, timeout_ms, answered, request);
    case OP_DELETE:
        return ikv_delete_async(project, key, timeout_ms, answered, request);
    case OP_CLEAR:
        return ikv_clear_async(project, timeout_ms, answered, request);
    case OP_INCREMENT:
        return ikv_increment_async(project, key, number, timeout_ms, answered, request);
    case OP_CAS:
        return ikv_cas_async(project, key, version, value, number, timeout_ms, answered, request);
    case OP_CAS_DELETE:
        return ikv_cas_delete_async(project, key, version, timeout_ms, answered, request);
    case OP_GET_VERSION:
        return ikv_get_version_async(project, key, timeout_ms, answered, request);
    case OP_TTL:
        return ikv_ttl_async(project, key, timeout_ms, answered, request);
    case OP_USAGE:
        return ikv_get_usage_async(project, timeout_ms, answered, request);
    default:
        return IKV_ERR_INVALID;
    }
}

/* The cursor is 64 bits wide and comes as decimal digits in the place of a value. */
static int submit_list(ikv_project *project, const double *fields, ikv_bytes prefix, ikv_bytes text,
                       uint32_t timeout_ms, struct request *request) {
    uint64_t cursor = 0;
    const char *digits = text.data;
    for (size_t i = 0; i < text.size; i++) {
        unsigned digit = (unsigned)(digits[i] - '0');
        if (digit > 9 || cursor > (UINT64_MAX - digit) / 10)
            return IKV_ERR_INVALID;
        cursor = cursor * 10 + digit;
    }
    return ikv_list_async(project, prefix, cursor, (uint32_t)fields[FIELD_NUMBER], timeout_ms,
                          answered, request);
}

/* Takes the operation's bytes from the arena in every case, so that the next one finds its own. */
static int submit_one(struct store *store, const double *fields, struct arena *arena) {
    int operation = (int)fields[FIELD_OP];
    uint32_t timeout_ms = (uint32_t)fields[FIELD_TIMEOUT];
    double number = fields[FIELD_PROJECT];
    bool known = number >= 0 && number < (double)store->n_projects;
    ikv_project *project = known ? store->projects[(uint32_t)number] : NULL;
    struct request *request = request_of(store, (uint32_t)fields[FIELD_ID]);
    if (request == NULL) {
        arena->broken = true;
        return IKV_ERR_NOMEM;
    }
    if (operation == OP_TRANSACTION)
        return submit_transaction(project, arena, (size_t)fields[FIELD_SIZE], timeout_ms, request);
    bool pieces = operation == OP_COMMAND || operation == OP_NODE_COMMAND ||
                  (operation >= OP_GET_MANY && operation <= OP_DELETE_MANY);
    if (pieces)
        return submit_pieces(store, project, (enum operation)operation, (size_t)fields[FIELD_SIZE],
                             timeout_ms, arena, request);
    ikv_bytes key = arena_take(arena, fields[FIELD_SIZE]);
    ikv_bytes value = arena_take(arena, fields[FIELD_VALUE]);
    if (arena->broken)
        return IKV_ERR_INVALID;
    if (project == NULL)
        return IKV_ERR_CLOSED;
    if (operation == OP_LIST)
        return submit_list(project, fields, key, value, timeout_ms, request);
    return submit_simple(project, fields, key, value, timeout_ms, request);
}

uint32_t store_submit(struct store *store, double *fields, uint32_t n, const char *arena,
                      size_t arena_size) {
    struct arena rest = {.at = arena, .left = arena_size};
    uint32_t n_refused = 0;
    ikv_cork(store->client);
    for (uint32_t i = 0; i < n; i++, fields += FIELDS) {
        int error = rest.broken ? IKV_ERR_INVALID : submit_one(store, fields, &rest);
        fields[FIELD_OP] = error;
        n_refused += error != IKV_OK;
    }
    ikv_uncork(store->client);
    return n_refused;
}
