/* Configuration of a node: a file of `key = value` lines with '#' comments, and `--set key=value`
 * overrides from the command line.
 *
 * Sizes are bytes and take KiB, MiB or GiB; times are milliseconds and take ms or s. Every error
 * names the file and line (or the override), the key, the value and what is allowed there.
 * docs/operations.md explains the keys; config_describe() prints the table it is made from. */
#ifndef NODE_CONFIG_H
#define NODE_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/limits.h"
#include "node/logging.h"

enum {
    CONFIG_NAME_SIZE = 65,   /* cluster name: 1..64 of [A-Za-z0-9._-], and NUL */
    CONFIG_HOST_SIZE = 256,  /* host name or address, and NUL */
    CONFIG_PATH_SIZE = 1024, /* path, and NUL */
    CONFIG_FILE_SIZE_MAX = 1024 * 1024
};

struct config_address {
    char host[CONFIG_HOST_SIZE]; /* without brackets; empty when not set */
    uint16_t port;
};

/* A member of the cluster as the others reach it. */
struct config_node {
    uint32_t id;
    struct config_address client;
    struct config_address peer;
};

/* Whether clients must show a token or a credential. */
enum config_auth { CONFIG_AUTH_OFF, CONFIG_AUTH_REQUIRED };

/* Whether a port speaks TLS; CONFIG_TLS_OPTIONAL takes plaintext as well. For client certificates
 * it is whether they have to show one. */
enum config_tls { CONFIG_TLS_OFF, CONFIG_TLS_OPTIONAL, CONFIG_TLS_REQUIRED };

/* The keys, in the order of the table in config.c. */
enum config_key {
    CONFIG_CLUSTER,
    CONFIG_NODE_ID,
    CONFIG_DATA_DIR,
    CONFIG_LISTEN,
    CONFIG_PEER_LISTEN,
    CONFIG_HTTP_LISTEN,
    CONFIG_INSECURE_LISTEN,
    CONFIG_AUTH,
    CONFIG_SERVICE_TOKEN_FILE,
    CONFIG_ADMIN_TOKEN_FILE,
    CONFIG_LOGIN_FAILURES,
    CONFIG_TLS,
    CONFIG_TLS_CERT,
    CONFIG_TLS_KEY,
    CONFIG_TLS_CA,
    CONFIG_TLS_CLIENTS,
    CONFIG_PEER_TLS,
    CONFIG_PEER_TLS_CERT,
    CONFIG_PEER_TLS_KEY,
    CONFIG_PEER_TLS_CA,
    CONFIG_NODE,
    CONFIG_JOIN,
    CONFIG_SHARDS,
    CONFIG_HEARTBEAT_MS,
    CONFIG_ELECTION_MS,
    CONFIG_REQUEST_TIMEOUT_MS,
    CONFIG_MAX_CONNECTIONS,
    CONFIG_MAX_CONNECTIONS_PER_PROJECT,
    CONFIG_REQUESTS_PER_SECOND,
    CONFIG_MAX_VALUE,
    CONFIG_MAX_PIPELINE,
    CONFIG_MAX_OUTPUT,
    CONFIG_MAX_MEMORY_INFLIGHT,
    CONFIG_MAX_MEMORY,
    CONFIG_IDLE_TIMEOUT_MS,
    CONFIG_RECEIVE_TIMEOUT_MS,
    CONFIG_SEND_TIMEOUT_MS,
    CONFIG_DEFAULT_QUOTA,
    CONFIG_SEGMENT_SIZE,
    CONFIG_LOG_CACHE,
    CONFIG_SHARD_CACHE,
    CONFIG_SHARD_WINDOW,
    CONFIG_WORKERS,
    CONFIG_SNAPSHOT_LOG_BYTES,
    CONFIG_TRAILING_ENTRIES,
    CONFIG_MIN_FREE_DISK,
    CONFIG_REBALANCE,
    CONFIG_REDIRECT,
    CONFIG_FEED_HISTORY,
    CONFIG_METRICS_PROJECTS,
    CONFIG_SLOW_MS,
    CONFIG_CORE_DUMPS,
    CONFIG_LOG_LEVEL,
    CONFIG_KEYS
};

struct config {
    char cluster[CONFIG_NAME_SIZE];
    uint32_t node_id;
    char data_dir[CONFIG_PATH_SIZE];
    struct config_address listen;      /* default: the client address of this node's `node` line */
    struct config_address peer_listen; /* default: the peer address of this node's `node` line */
    struct config_address http_listen;
    bool insecure_listen;
    enum config_auth auth;
    char service_token_file[CONFIG_PATH_SIZE]; /* empty: none */
    char admin_token_file[CONFIG_PATH_SIZE];   /* empty: none */
    unsigned login_failures;                   /* in a minute, see node/logins.h; 0: no bound */
    enum config_tls tls;                       /* of the clients' port */
    char tls_cert[CONFIG_PATH_SIZE];
    char tls_key[CONFIG_PATH_SIZE];
    char tls_ca[CONFIG_PATH_SIZE];
    enum config_tls tls_clients; /* certificates of clients */
    enum config_tls peer_tls;    /* of the links between nodes */
    char peer_tls_cert[CONFIG_PATH_SIZE];
    char peer_tls_key[CONFIG_PATH_SIZE];
    char peer_tls_ca[CONFIG_PATH_SIZE];
    struct config_node nodes[LIMIT_NODES]; /* in the order of the file */
    unsigned n_nodes;
    bool join; /* an empty data directory never founds a cluster */
    unsigned shards;
    uint64_t heartbeat_ms;
    uint64_t election_ms;
    uint64_t request_timeout_ms;
    unsigned max_connections;
    unsigned max_connections_per_project; /* 0: not limited */
    unsigned requests_per_second;         /* of a project, 0: not limited */
    uint64_t max_value;
    unsigned max_pipeline;
    uint64_t max_output; /* replies that a connection has not taken */
    uint64_t max_memory_inflight;
    uint64_t max_memory;         /* resident, 0: not limited */
    uint64_t idle_timeout_ms;    /* 0: connections may be idle for ever */
    uint64_t receive_timeout_ms; /* of a half-sent request */
    uint64_t send_timeout_ms;    /* of replies that are not taken */
    uint64_t default_quota;
    uint64_t segment_size;
    uint64_t log_cache;
    uint64_t shard_cache; /* page cache of each shard */
    /* Bytes of writes that this node has under way to a shard while others are in use as well. */
    uint64_t shard_window;
    unsigned workers;
    uint64_t snapshot_log_bytes;
    uint64_t trailing_entries;
    uint64_t min_free_disk;
    bool rebalance;
    bool redirect;             /* connections begin with CLUSTER REDIRECT ON */
    uint64_t feed_history;     /* of each shard, 0: the change feed is off */
    unsigned metrics_projects; /* projects with figures of their own in /metrics */
    uint64_t slow_ms;          /* operations that take as long are logged; 0: none are */
    bool core_dumps;           /* a crash may leave a core file */
    enum say_level log_level;

    /* Where values came from, for messages. */
    const char *source;            /* file name as given, or NULL; must outlive the config */
    unsigned line_of[CONFIG_KEYS]; /* line of the file, 0: default or override */
    bool is_set[CONFIG_KEYS];
    unsigned line_of_node[LIMIT_NODES];
};

/* Fills in the defaults. */
void config_init(struct config *config);

/* The configuration of `invoke-kvd --single DIR`: cluster "single" of the one node 1 on loopback,
 * clients on 7101, peers on 7201, HTTP on 7301. ERROR_TOOBIG when the path is too long. */
enum error_code config_default_single(struct config *config, const char *dir, struct error *error);

/* Reads a file over the defaults. `path` must outlive the config. The caller goes on with
 * overrides, then config_finish(). */
enum error_code config_load(struct config *config, const char *path, struct error *error);

/* The same from memory; `name` stands for the file in messages. */
enum error_code config_parse(struct config *config, const char *name, struct slice text,
                             struct error *error);

/* Applies one `key=value` override. `node` lines are added to those of the file. */
enum error_code config_set(struct config *config, const char *assignment, struct error *error);

/* Checks what concerns several keys and derives the addresses that were left out. Pure. */
enum error_code config_finish(struct config *config, struct error *error);

/* Checks that data_dir is a directory this process may write, or can be created in an existing
 * parent directory. */
enum error_code config_check_data_dir(const struct config *config, struct error *error);

/* The node of that id, or NULL. */
const struct config_node *config_find_node(const struct config *config, uint32_t id);

/* True for 127.0.0.0/8, for ::1 in any form, and for the name localhost. */
bool config_is_loopback(const struct config_address *address);

/* Appends "HOST:PORT", with brackets around an IPv6 address. `size` should be CONFIG_HOST_SIZE + 8.
 */
void config_format_address(const struct config_address *address, char *text, size_t size);

/* Name of a key, and its default as written in a file ("" when there is none). */
const char *config_key_name(enum config_key key);
/* One line per key: name, range, default, purpose. For --help and the documentation's test. */
void config_describe(struct buffer *out);

#endif
