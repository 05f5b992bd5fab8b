/* libinvokekv: the C client of invoke-kv.
 *
 * A client handle (ikv_client) stands for a cluster. It owns one thread, which holds the
 * connections, learns which node leads which shard, sends requests there in pipelines, follows
 * leaders when they move, and repeats what a lost connection left open. A project handle
 * (ikv_project) names a project, the token for it, and how fresh its reads must be; any number of
 * them share the connections.
 *
 * Threads. Every function may be called from every thread at any time, except that a handle must
 * not be used during or after the call that frees it. Callbacks run on the client's thread, one at
 * a time, with no lock held: they must not block, and may call every function but the blocking
 * ones, which answer IKV_ERR_DEADLOCK there.
 *
 * Time. Every request has a deadline: `timeout_ms` milliseconds from the call, 0 for the client's
 * IKV_OPTION_TIMEOUT_MS. By then (plus some milliseconds) it has been answered, whatever happens.
 *
 * Memory. What a caller hands in is copied before the call returns. What is handed out says whose
 * it is. Keys and values are any bytes: a key 1 byte to 64 KiB, a value up to the server's limit.
 *
 * Order. Requests that are under way at the same time may take effect in any order. A request that
 * is made after another was answered takes effect after it.
 *
 * Writes. Each write takes effect at most once, however often it has to be sent: writes carry
 * numbers that the cluster remembers. An error tells by ikv_outcome() whether the write did not
 * happen or whether that is unknown.
 *
 * Fork. A child process has no copy of the client's thread. There every function that takes a
 * handle answers IKV_ERR_FORKED, and those that free do nothing: open a new client in the child.
 * The sockets are closed by exec().
 *
 * docs/client-library.md explains all of this at length. */
#ifndef INVOKE_KV_H
#define INVOKE_KV_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define IKV_API __attribute__((visibility("default")))
#else
#define IKV_API
#endif

#define IKV_VERSION_MAJOR 0
#define IKV_VERSION_MINOR 1
#define IKV_VERSION_PATCH 0

/* Version of the library that runs, such as "0.1.0". Never freed. */
IKV_API const char *ikv_version(void);

/* --- errors ------------------------------------------------------------------------------------
 */

/* Every function that can fail returns one of these; 0 is success. Numbers are stable. */
enum ikv_error {
    IKV_OK = 0,

    /* The caller's side: nothing was sent. */
    IKV_ERR_INVALID = 1,  /* an argument is outside of what the function takes */
    IKV_ERR_NOMEM = 2,    /* no memory */
    IKV_ERR_BUSY = 3,     /* a bound is reached, the client's or the server's; try again later */
    IKV_ERR_CLOSED = 4,   /* the client was closed before the request was carried out */
    IKV_ERR_DEADLOCK = 5, /* a blocking function was called from a callback */
    IKV_ERR_FORKED = 6,   /* the handle belongs to the parent process */

    /* No answer by the deadline; the request was not carried out and never will be. */
    IKV_ERR_TIMEOUT = 10,     /* nodes were reached but did not answer in time */
    IKV_ERR_UNREACHABLE = 11, /* no node could be connected to */
    IKV_ERR_TLS = 12,         /* TLS was refused, by either side */
    IKV_ERR_PROTOCOL = 13,    /* what answers does not speak the protocol */
    IKV_ERR_NO_LEADER = 14,   /* the cluster has no leader for the project's shard */

    /* The server's refusals; not carried out. */
    IKV_ERR_AUTH = 20,       /* a token is missing, wrong, expired or revoked; or no such project */
    IKV_ERR_PERMISSION = 21, /* the token does not allow this */
    IKV_ERR_QUOTA = 22,      /* the project would become larger than its quota */
    IKV_ERR_TOO_BIG = 23,    /* a key, value or request is larger than a limit */
    IKV_ERR_NO_SPACE = 24,   /* the servers' disks are nearly full */
    IKV_ERR_STALE = 25,      /* no replica is as fresh as the read asks for */
    IKV_ERR_REFUSED = 26,    /* anything else that the server refuses; see the reply's message */

    /* The only kind with an unknown outcome: the write may have been carried out, may yet be, or
     * never. It is not carried out more than once. */
    IKV_ERR_UNKNOWN_OUTCOME = 40
};

/* Description of an error, never NULL, never freed; also for numbers that are none. */
IKV_API const char *ikv_strerror(int error);

enum ikv_outcome {
    IKV_OUTCOME_DONE = 0,     /* it was carried out */
    IKV_OUTCOME_NOT_DONE = 1, /* it was not, and never will be */
    IKV_OUTCOME_UNKNOWN = 2   /* nobody knows */
};

/* What an error says about a write. */
IKV_API enum ikv_outcome ikv_outcome(int error);

/* --- bytes and replies -------------------------------------------------------------------------
 */

/* Bytes that belong to somebody else. `data` may be NULL only when size is 0. */
typedef struct ikv_bytes {
    const void *data;
    size_t size;
} ikv_bytes;

static inline ikv_bytes ikv_bytes_of(const void *data, size_t size) {
    ikv_bytes bytes;
    bytes.data = data;
    bytes.size = size;
    return bytes;
}
/* The bytes of a NUL-terminated string, without the NUL. */
static inline ikv_bytes ikv_text(const char *text) {
    return ikv_bytes_of(text, strlen(text));
}

enum ikv_type {
    IKV_NIL = 0,     /* no value */
    IKV_STRING = 1,  /* data, size */
    IKV_STATUS = 2,  /* data, size: a word of the server's, such as OK */
    IKV_INTEGER = 3, /* integer */
    IKV_ARRAY = 4,   /* elements, size; a map is an array of names and values in turn */
    IKV_ERROR = 5    /* data, size: an error within an array, such as one of a transaction */
};

typedef struct ikv_value {
    int type;    /* enum ikv_type */
    size_t size; /* bytes of `data`, or number of `elements` */
    int64_t integer;
    const char *data; /* a NUL follows it, which `size` does not count */
    const struct ikv_value *elements;
} ikv_value;

/* The answer to a request: an error or a value. */
typedef struct ikv_reply ikv_reply;

/* 0 or one of enum ikv_error. */
IKV_API int ikv_reply_error(const ikv_reply *reply);
/* What happened, for people: the server's own words where it spoke. Empty on success, never NULL.
 * Valid as long as the reply. */
IKV_API const char *ikv_reply_message(const ikv_reply *reply);
/* The value, never NULL: IKV_NIL when there is an error. Valid as long as the reply. */
IKV_API const ikv_value *ikv_reply_value(const ikv_reply *reply);
/* For callbacks, whose reply is otherwise freed when they return: keeps it, until the caller frees
 * it with ikv_reply_free(), on any thread. */
IKV_API void ikv_reply_take(ikv_reply *reply);
/* NULL is ignored. */
IKV_API void ikv_reply_free(ikv_reply *reply);

/* Called exactly once for each asynchronous request that was accepted, on the client's thread. The
 * reply is valid until the callback returns, or taken by ikv_reply_take(). */
typedef void (*ikv_callback)(void *data, ikv_reply *reply);

/* --- clients -----------------------------------------------------------------------------------
 */

typedef struct ikv_options ikv_options;
typedef struct ikv_client ikv_client;

enum ikv_option {
    /* Numbers; range and default behind each. */
    IKV_OPTION_TIMEOUT_MS = 1,         /* 1-86400000; 5000: deadline of requests that name none */
    IKV_OPTION_CONNECT_TIMEOUT_MS = 2, /* 10-600000; 2000: for one connection, greeting included */
    IKV_OPTION_PROBE_MS = 3,     /* 50-600000; 1000: after that much silence a node is asked whether
                                    it lives, and given up after as much again */
    IKV_OPTION_STALL_MS = 4,     /* 100-3600000; 15000: a connection that owes answers for that long
                                    is given up although its node lives */
    IKV_OPTION_TOPOLOGY_MS = 5,  /* 100-3600000; 30000: the topology is read again that often while
                                    there are requests; what goes wrong makes it read at once */
    IKV_OPTION_MAX_REQUESTS = 6, /* 1-10000000; 100000: requests under way */
    IKV_OPTION_MAX_BYTES = 7,    /* 64 KiB-1 TiB; 256 MiB: bytes of requests under way */
    IKV_OPTION_EXACTLY_ONCE = 8, /* 0-1; 1: number writes, and repeat those with an open outcome */
    IKV_OPTION_MAX_REPLY = 9,    /* 64 KiB-1 GiB; 160 MiB: bytes of one reply */

    /* Texts; NULL (default) unsets. */
    IKV_OPTION_USER = 32,     /* "service" or "admin": credential for all projects, with its ... */
    IKV_OPTION_SECRET = 33,   /* ... secret. A URL that names such a user sets both */
    IKV_OPTION_CA_FILE = 34,  /* rediss: PEM file of the authorities to trust; else the system's */
    IKV_OPTION_TLS_NAME = 35, /* rediss: name to expect in certificates instead of the host's */
    IKV_OPTION_CERT_FILE =
        36,                  /* rediss: PEM file of the client's certificate chain, with its ... */
    IKV_OPTION_KEY_FILE = 37 /* ... private key */
};

/* Options with their defaults, or NULL without memory. Not thread-safe; belongs to the caller. */
IKV_API ikv_options *ikv_options_new(void);
IKV_API void ikv_options_free(ikv_options *options);
/* IKV_ERR_INVALID: no such option, or outside its range. The text is copied. */
IKV_API int ikv_options_set_number(ikv_options *options, enum ikv_option option, int64_t value);
IKV_API int ikv_options_set_text(ikv_options *options, enum ikv_option option, const char *value);
/* `burst` is called on the client's thread after callbacks, once for all that came together: a
 * place to hand them to another thread in one go. */
IKV_API void ikv_options_set_burst(ikv_options *options, void (*burst)(void *data), void *data);

/* Makes a client of the cluster that the seeds belong to. Connects to nothing yet: whoever wants to
 * know whether the cluster is there calls ikv_ping().
 *
 * `seeds`: one or more nodes, separated by commas: HOST, HOST:PORT, [IPV6]:PORT, or URLs
 * redis://[PROJECT[:TOKEN]@]HOST[:PORT][/0] and rediss:// for TLS. Port 7101 when none is named.
 * PROJECT and TOKEN (percent-encoded) are those of ikv_project_open() without a name; `service` and
 * `admin` in the place of PROJECT are credentials for all projects instead. TLS is for all nodes or
 * for none.
 * `options` may be NULL, and belongs to the caller still. `message` may be NULL; else up to
 * `message_size` bytes of text are written there on failure.
 *
 * IKV_ERR_INVALID: seeds or options; IKV_ERR_TLS: certificate files; IKV_ERR_NOMEM: no memory,
 * thread or descriptors. *client is NULL then. */
IKV_API int ikv_open(const char *seeds, const ikv_options *options, ikv_client **client,
                     char *message, size_t message_size);

/* Ends the client: every request under way is answered (IKV_ERR_CLOSED, or IKV_ERR_UNKNOWN_OUTCOME
 * for writes that had been sent) and every callback has returned before this returns; at most about
 * 300 ms. Project handles stay valid until they are closed; their requests answer IKV_ERR_CLOSED.
 * IKV_ERR_DEADLOCK from a callback: nothing was done. NULL is ignored. */
IKV_API int ikv_close(ikv_client *client);

/* Between these two the client's thread is not woken for new requests; the last one wakes it once
 * for all. For callers that make many requests in a row. Calls nest. Requests still get their
 * deadlines. */
IKV_API void ikv_cork(ikv_client *client);
IKV_API void ikv_uncork(ikv_client *client);

/* Succeeds when a node answers. *reply as in ikv_command(). */
IKV_API int ikv_ping(ikv_client *client, uint32_t timeout_ms, ikv_reply **reply);

/* A command that concerns a node or the cluster, not a project's keys: INFO, CLUSTER ..., PROJECT
 * ... `node` is "HOST:PORT" as in the topology or the seeds, or NULL for any. It is sent again
 * after a lost connection only when it cannot change anything. *reply as in ikv_command(). */
IKV_API int ikv_node_command(ikv_client *client, const char *node, size_t argc,
                             const ikv_bytes *argv, uint32_t timeout_ms, ikv_reply **reply);
IKV_API int ikv_node_command_async(ikv_client *client, const char *node, size_t argc,
                                   const ikv_bytes *argv, uint32_t timeout_ms,
                                   ikv_callback callback, void *data);

/* What the client knows of the cluster, as an array: the cluster's name, the number of shards, an
 * array of nodes [id, "HOST:PORT"], an array of the node ids that lead shard 0, 1, ... (0: none
 * known). Asks the cluster first when it knows nothing yet. */
IKV_API int ikv_topology(ikv_client *client, uint32_t timeout_ms, ikv_reply **reply);

/* --- projects ----------------------------------------------------------------------------------
 */

typedef struct ikv_project ikv_project;

/* What reads of a handle promise; see docs/consistency.md. */
enum ikv_level {
    IKV_LINEARIZABLE = 0, /* by the leader: sees every write acknowledged to anybody before */
    IKV_SESSION = 1,      /* by the nearest replica: never older than what handles of this level of
                             the same client have written or read */
    IKV_EVENTUAL =
        2 /* by the nearest replica: some committed state, none older than max_stale_ms */
};

/* `name`: 1-128 characters of UTF-8 without control characters, NUL-terminated; NULL for the
 * project in the seeds' URL, or "default". `token`: NULL for none (servers without authentication,
 * or a client with IKV_OPTION_SECRET, where it must be NULL); with name NULL the URL's. A handle
 * without a token where the server wants one is refused with IKV_ERR_AUTH, unless another handle of
 * this client has shown one for the project. `max_stale_ms`: for IKV_EVENTUAL, 0 for no bound; else
 * 0. Nothing is sent: a wrong token shows with the first request. Handles are cheap; the same
 * project may be opened many times. IKV_ERR_INVALID, IKV_ERR_NOMEM, IKV_ERR_FORKED. */
IKV_API int ikv_project_open(ikv_client *client, const char *name, const char *token,
                             enum ikv_level level, uint32_t max_stale_ms, ikv_project **project);
/* Requests under way go on. NULL is ignored. */
IKV_API void ikv_project_close(ikv_project *project);
/* The name, as long as the handle is open. */
IKV_API const char *ikv_project_name(const ikv_project *project);

/* --- operations ----------------------------------------------------------------------------------
 *
 * Each comes twice. The blocking one returns the error and fills what its last arguments point to,
 * which may be NULL; on failure numbers are 0. A `reply` is set in every case but IKV_ERR_NOMEM,
 * IKV_ERR_FORKED and IKV_ERR_DEADLOCK, where it is NULL; it belongs to the caller, who frees it
 * with ikv_reply_free(). The asynchronous one returns 0 when the callback will be called, once; any
 * other value tells that it will not: IKV_ERR_INVALID, IKV_ERR_TOO_BIG, IKV_ERR_BUSY,
 * IKV_ERR_NOMEM, IKV_ERR_CLOSED, IKV_ERR_FORKED. Both may end in every error of enum ikv_error. */

/* Value: IKV_STRING, or IKV_NIL when the key is missing or has expired. */
IKV_API int ikv_get(ikv_project *project, ikv_bytes key, uint32_t timeout_ms, ikv_reply **reply);
IKV_API int ikv_get_async(ikv_project *project, ikv_bytes key, uint32_t timeout_ms,
                          ikv_callback callback, void *data);

enum ikv_set_flag {
    IKV_SET_IF_MISSING = 1, /* only when the key is missing */
    IKV_SET_IF_EXISTS = 2,  /* only when it is there */
    IKV_SET_IF_EQUAL = 4,   /* only when its value is `expected` */
    IKV_SET_IF_VERSION = 8, /* only when its version is `version`; 0: missing */
    IKV_SET_KEEP_TTL = 16   /* leave its expiry as it is */
};

/* Zeroed: an unconditional set without expiry. At most one of the conditions. */
typedef struct ikv_set_options {
    unsigned flags;     /* enum ikv_set_flag */
    int64_t ttl_ms;     /* > 0: the key expires after that many milliseconds; 0: never */
    ikv_bytes expected; /* for IKV_SET_IF_EQUAL */
    uint64_t version;   /* for IKV_SET_IF_VERSION */
} ikv_set_options;

/* `options` may be NULL. *stored: 1, or 0 when the condition did not hold.
 * Asynchronous value: IKV_STATUS, or IKV_NIL when the condition did not hold. */
IKV_API int ikv_set(ikv_project *project, ikv_bytes key, ikv_bytes value,
                    const ikv_set_options *options, uint32_t timeout_ms, int *stored);
IKV_API int ikv_set_async(ikv_project *project, ikv_bytes key, ikv_bytes value,
                          const ikv_set_options *options, uint32_t timeout_ms,
                          ikv_callback callback, void *data);

/* Compare and set: stores the value if the key's version is still `version` (0: missing), as
 * ikv_get_version() told it. ttl_ms as in ikv_set_options. */
IKV_API int ikv_cas(ikv_project *project, ikv_bytes key, uint64_t version, ikv_bytes value,
                    int64_t ttl_ms, uint32_t timeout_ms, int *stored);
IKV_API int ikv_cas_async(ikv_project *project, ikv_bytes key, uint64_t version, ikv_bytes value,
                          int64_t ttl_ms, uint32_t timeout_ms, ikv_callback callback, void *data);
/* Deletes the key if its version is still `version`. Asynchronous value: IKV_INTEGER 1 or 0. */
IKV_API int ikv_cas_delete(ikv_project *project, ikv_bytes key, uint64_t version,
                           uint32_t timeout_ms, int *deleted);
IKV_API int ikv_cas_delete_async(ikv_project *project, ikv_bytes key, uint64_t version,
                                 uint32_t timeout_ms, ikv_callback callback, void *data);
/* Value and version of a key. *version: 0 when the key is missing. The reply's value is IKV_NIL
 * then, else IKV_ARRAY of the value (IKV_STRING) and the version (IKV_INTEGER). */
IKV_API int ikv_get_version(ikv_project *project, ikv_bytes key, uint32_t timeout_ms,
                            uint64_t *version, ikv_reply **reply);
IKV_API int ikv_get_version_async(ikv_project *project, ikv_bytes key, uint32_t timeout_ms,
                                  ikv_callback callback, void *data);

/* Whether the key is there. Asynchronous value: IKV_INTEGER 1 or 0. */
IKV_API int ikv_has(ikv_project *project, ikv_bytes key, uint32_t timeout_ms, int *exists);
IKV_API int ikv_has_async(ikv_project *project, ikv_bytes key, uint32_t timeout_ms,
                          ikv_callback callback, void *data);

/* *existed: whether the key was there. Asynchronous value: IKV_INTEGER 1 or 0. */
IKV_API int ikv_delete(ikv_project *project, ikv_bytes key, uint32_t timeout_ms, int *existed);
IKV_API int ikv_delete_async(ikv_project *project, ikv_bytes key, uint32_t timeout_ms,
                             ikv_callback callback, void *data);

/* Deletes all keys of the project, in one step. */
IKV_API int ikv_clear(ikv_project *project, uint32_t timeout_ms);
IKV_API int ikv_clear_async(ikv_project *project, uint32_t timeout_ms, ikv_callback callback,
                            void *data);

/* Several keys in one atomic step; n is 1 to 32000. The values of get_many: IKV_ARRAY of n
 * IKV_STRING or IKV_NIL, in order; *deleted, and the asynchronous value of delete_many: how many
 * there were. */
IKV_API int ikv_get_many(ikv_project *project, size_t n, const ikv_bytes *keys, uint32_t timeout_ms,
                         ikv_reply **reply);
IKV_API int ikv_get_many_async(ikv_project *project, size_t n, const ikv_bytes *keys,
                               uint32_t timeout_ms, ikv_callback callback, void *data);
IKV_API int ikv_set_many(ikv_project *project, size_t n, const ikv_bytes *keys,
                         const ikv_bytes *values, uint32_t timeout_ms);
IKV_API int ikv_set_many_async(ikv_project *project, size_t n, const ikv_bytes *keys,
                               const ikv_bytes *values, uint32_t timeout_ms, ikv_callback callback,
                               void *data);
IKV_API int ikv_delete_many(ikv_project *project, size_t n, const ikv_bytes *keys,
                            uint32_t timeout_ms, int64_t *deleted);
IKV_API int ikv_delete_many_async(ikv_project *project, size_t n, const ikv_bytes *keys,
                                  uint32_t timeout_ms, ikv_callback callback, void *data);

/* Adds to a number, 0 when the key is missing, and tells the sum. IKV_ERR_REFUSED: the value is no
 * integer, or the sum would overflow. Asynchronous value: IKV_INTEGER. */
IKV_API int ikv_increment(ikv_project *project, ikv_bytes key, int64_t by, uint32_t timeout_ms,
                          int64_t *sum);
IKV_API int ikv_increment_async(ikv_project *project, ikv_bytes key, int64_t by,
                                uint32_t timeout_ms, ikv_callback callback, void *data);

/* Milliseconds until the key expires; -1: never; -2: it is missing. Asynchronous value:
 * IKV_INTEGER. */
IKV_API int ikv_ttl(ikv_project *project, ikv_bytes key, uint32_t timeout_ms, int64_t *ttl_ms);
IKV_API int ikv_ttl_async(ikv_project *project, ikv_bytes key, uint32_t timeout_ms,
                          ikv_callback callback, void *data);

/* Walks through the keys that begin with `prefix` (which may be empty, at most 500 bytes). Start
 * with cursor 0 and go on with *next until that is 0. One call looks at about `count` keys
 * (1-10000) and may answer fewer, or none. A key that is there all the time comes at least once.
 * The value: IKV_ARRAY of keys. Asynchronous value: IKV_ARRAY of the next cursor (IKV_STRING,
 * decimal) and the IKV_ARRAY of keys. */
IKV_API int ikv_list(ikv_project *project, ikv_bytes prefix, uint64_t cursor, uint32_t count,
                     uint32_t timeout_ms, uint64_t *next, ikv_reply **reply);
IKV_API int ikv_list_async(ikv_project *project, ikv_bytes prefix, uint64_t cursor, uint32_t count,
                           uint32_t timeout_ms, ikv_callback callback, void *data);

typedef struct ikv_usage {
    uint64_t keys;        /* live keys */
    uint64_t used_bytes;  /* bytes of their names and values */
    uint64_t quota_bytes; /* limit of used_bytes */
    uint32_t shard;       /* shard that the project lives in */
    uint32_t leader;      /* id of the node that leads it, 0 when unknown */
} ikv_usage;

/* What the project holds. Asynchronous value: the server's answer to PROJECT INFO, a map. */
IKV_API int ikv_get_usage(ikv_project *project, uint32_t timeout_ms, ikv_usage *usage);
IKV_API int ikv_get_usage_async(ikv_project *project, uint32_t timeout_ms, ikv_callback callback,
                                void *data);

/* Any command on the project's keys, as docs/commands.md has it; argv[0] is its name. Refused with
 * IKV_ERR_INVALID are those that change the connection, which the project shares with others: AUTH,
 * HELLO, SELECT, MULTI, EXEC, WATCH, SUBSCRIBE, CONSISTENCY and the like. Commands that the library
 * does not know are never sent twice. */
IKV_API int ikv_command(ikv_project *project, size_t argc, const ikv_bytes *argv,
                        uint32_t timeout_ms, ikv_reply **reply);
IKV_API int ikv_command_async(ikv_project *project, size_t argc, const ikv_bytes *argv,
                              uint32_t timeout_ms, ikv_callback callback, void *data);

/* --- transactions ------------------------------------------------------------------------------
 */

/* Commands that are carried out as one, all or none; at most 10000. Not thread-safe. */
typedef struct ikv_transaction ikv_transaction;

/* NULL without memory. Keeps what it needs of the project handle. */
IKV_API ikv_transaction *ikv_transaction_new(ikv_project *project);
IKV_API void ikv_transaction_free(ikv_transaction *transaction);
/* One more command, a read or write of keys. IKV_ERR_INVALID, IKV_ERR_TOO_BIG, IKV_ERR_NOMEM. */
IKV_API int ikv_transaction_add(ikv_transaction *transaction, size_t argc, const ikv_bytes *argv);
/* The transaction is carried out only while the key's version is `version` (0: missing), as
 * ikv_get_version() told it. At most 1000 keys. */
IKV_API int ikv_transaction_watch(ikv_transaction *transaction, ikv_bytes key, uint64_t version);
/* Carries it out. The value: IKV_ARRAY of the commands' values, IKV_ERROR for those that failed
 * (the others were carried out all the same); IKV_NIL when a watched version differed and nothing
 * was done. It may be run again. */
IKV_API int ikv_transaction_run(ikv_transaction *transaction, uint32_t timeout_ms,
                                ikv_reply **reply);
IKV_API int ikv_transaction_run_async(ikv_transaction *transaction, uint32_t timeout_ms,
                                      ikv_callback callback, void *data);

/* --- watching keys -----------------------------------------------------------------------------
 */

enum ikv_event_type {
    IKV_EVENT_READY = 1,  /* changes behind `index` follow; again after each change of node */
    IKV_EVENT_CHANGE = 2, /* `kind` happened to `key`: "set", "del", "expired", "expire", "persist",
                             "clear" (all keys; `key` is empty) and others that the server names */
    IKV_EVENT_PROGRESS = 3, /* all changes up to `index` have been told; comes also in silence,
                               every few seconds */
    IKV_EVENT_GAP = 4, /* changes were missed: the nodes no longer hold the history from where the
                          watch has to go on. READY follows; whoever mirrors keys reads them then */
    IKV_EVENT_END = 5  /* the last one: `error` and `message` tell why, IKV_ERR_CLOSED after
                          ikv_close() */
};

typedef struct ikv_event {
    int type;       /* enum ikv_event_type */
    int error;      /* enum ikv_error, for IKV_EVENT_END */
    uint64_t index; /* place in the history. Several changes can have the same one; the index of a
                       PROGRESS is what to give to ikv_watch_open() to go on later */
    ikv_bytes kind;
    ikv_bytes key;
    const char *message; /* never NULL */
} ikv_event;

/* On the client's thread. The event and what it points to are valid until the callback returns. */
typedef void (*ikv_watch_callback)(void *data, const ikv_event *event);
typedef struct ikv_watch ikv_watch;

/* Tells of changes to keys that begin with `prefix` (empty: all), in the order in which they
 * happened, each once from READY on: after the loss of a node it goes on at another one, where it
 * left off. `from_index` 0: from now on; else changes behind that index. Each watch has a
 * connection of its own; at most 1000 for a client. IKV_ERR_INVALID, IKV_ERR_BUSY, IKV_ERR_NOMEM,
 * IKV_ERR_CLOSED, IKV_ERR_FORKED. */
IKV_API int ikv_watch_open(ikv_project *project, ikv_bytes prefix, uint64_t from_index,
                           ikv_watch_callback callback, void *data, ikv_watch **watch);
/* Frees the watch; no event follows. Also after IKV_EVENT_END, and after the client was closed.
 * Waits for a callback of this watch that is running, unless called from one. NULL is ignored. */
IKV_API void ikv_watch_close(ikv_watch *watch);

#ifdef __cplusplus
}
#endif

#endif
