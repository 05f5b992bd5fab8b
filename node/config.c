#include "node/config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "node/logins.h"
#include "node/machine/top.h"
#include "node/project_limits.h"

enum value_kind {
    VALUE_NAME,
    VALUE_PATH,
    VALUE_ADDRESS,
    VALUE_NODE,
    VALUE_NUMBER,   /* unsigned */
    VALUE_NUMBER64, /* uint64_t */
    VALUE_SIZE,     /* uint64_t, bytes */
    VALUE_TIME,     /* uint64_t, milliseconds */
    VALUE_BOOL,
    VALUE_LEVEL,
    VALUE_AUTH,
    VALUE_TLS
};

struct key_spec {
    const char *name;
    enum value_kind kind;
    size_t offset; /* of the field in struct config */
    uint64_t min;
    uint64_t max;
    const char *initial; /* default as it would stand in a file, NULL when there is none */
    const char *purpose;
};

/* Several times the longest key, so that a few events always fit. */
#define FEED_HISTORY_MIN (256 * KIB)
/* A node without caches, with room for some requests. */
#define MEMORY_OF_PROCESS (64 * MIB)

#define FIELD(member) offsetof(struct config, member)

static const struct key_spec key_specs[CONFIG_KEYS] = {
    [CONFIG_CLUSTER] = {"cluster", VALUE_NAME, FIELD(cluster), 1, CONFIG_NAME_SIZE - 1, NULL,
                        "name of the cluster; nodes of another name are refused"},
    [CONFIG_NODE_ID] = {"node_id", VALUE_NUMBER, FIELD(node_id), 1, UINT32_MAX, NULL,
                        "which of the `node` lines this node is"},
    [CONFIG_DATA_DIR] = {"data_dir", VALUE_PATH, FIELD(data_dir), 1, CONFIG_PATH_SIZE - 1, NULL,
                         "directory of the log and the shards"},
    [CONFIG_LISTEN] = {"listen", VALUE_ADDRESS, FIELD(listen), 0, 0, NULL,
                       "where clients connect; by default as in this node's `node` line"},
    [CONFIG_PEER_LISTEN] = {"peer_listen", VALUE_ADDRESS, FIELD(peer_listen), 0, 0, NULL,
                            "where other nodes connect; by default as in the `node` line"},
    [CONFIG_HTTP_LISTEN] = {"http_listen", VALUE_ADDRESS, FIELD(http_listen), 0, 0,
                            "127.0.0.1:7301", "metrics and health"},
    [CONFIG_INSECURE_LISTEN] = {"insecure_listen", VALUE_BOOL, FIELD(insecure_listen), 0, 0, "no",
                                "allow addresses other than loopback without authentication"},
    [CONFIG_AUTH] = {"auth", VALUE_AUTH, FIELD(auth), 0, 0, "off",
                     "whether clients must show a token; the same on every node"},
    [CONFIG_SERVICE_TOKEN_FILE] =
        {"service_token_file", VALUE_PATH, FIELD(service_token_file), 1, CONFIG_PATH_SIZE - 1, NULL,
         "file with the secret of the user `service`, mode 0600, or credential:NAME"},
    [CONFIG_ADMIN_TOKEN_FILE] =
        {"admin_token_file", VALUE_PATH, FIELD(admin_token_file), 1, CONFIG_PATH_SIZE - 1, NULL,
         "file with the secret of the user `admin`, mode 0600, or credential:NAME"},
    [CONFIG_LOGIN_FAILURES] = {"login_failures", VALUE_NUMBER, FIELD(login_failures), 0,
                               LOGINS_FAILURES_MAX, "10",
                               "failed logins of a kind from one address in a minute before more "
                               "are refused; 0: no bound"},
    [CONFIG_TLS] = {"tls", VALUE_TLS, FIELD(tls), 0, 0, "off",
                    "TLS for clients; optional: plaintext is taken as well"},
    [CONFIG_TLS_CERT] = {"tls_cert", VALUE_PATH, FIELD(tls_cert), 1, CONFIG_PATH_SIZE - 1, NULL,
                         "file with the certificate for clients, then intermediate ones, PEM"},
    [CONFIG_TLS_KEY] = {"tls_key", VALUE_PATH, FIELD(tls_key), 1, CONFIG_PATH_SIZE - 1, NULL,
                        "file with its private key, mode 0600, or credential:NAME"},
    [CONFIG_TLS_CA] = {"tls_ca", VALUE_PATH, FIELD(tls_ca), 1, CONFIG_PATH_SIZE - 1, NULL,
                       "file with the authorities that sign clients' certificates"},
    [CONFIG_TLS_CLIENTS] = {"tls_clients", VALUE_TLS, FIELD(tls_clients), 0, 0, "off",
                            "whether clients must show a certificate"},
    [CONFIG_PEER_TLS] = {"peer_tls", VALUE_TLS, FIELD(peer_tls), 0, 0, "off",
                         "TLS between nodes; optional: plaintext is used as well"},
    [CONFIG_PEER_TLS_CERT] = {"peer_tls_cert", VALUE_PATH, FIELD(peer_tls_cert), 1,
                              CONFIG_PATH_SIZE - 1, NULL,
                              "file with this node's certificate for the others, PEM"},
    [CONFIG_PEER_TLS_KEY] = {"peer_tls_key", VALUE_PATH, FIELD(peer_tls_key), 1,
                             CONFIG_PATH_SIZE - 1, NULL,
                             "file with its private key, mode 0600, or credential:NAME"},
    [CONFIG_PEER_TLS_CA] = {"peer_tls_ca", VALUE_PATH, FIELD(peer_tls_ca), 1, CONFIG_PATH_SIZE - 1,
                            NULL, "file with the authorities that sign nodes' certificates"},
    [CONFIG_NODE] = {"node", VALUE_NODE, FIELD(nodes), 1, LIMIT_NODES, NULL,
                     "a member: ID CLIENT_HOST:PORT PEER_HOST:PORT; one line for each"},
    [CONFIG_JOIN] =
        {"join", VALUE_BOOL, FIELD(join), 0, 0, "no",
         "with an empty data directory, wait to be added instead of founding a cluster"},
    [CONFIG_SHARDS] = {"shards", VALUE_NUMBER, FIELD(shards), 1, LIMIT_SHARDS, "8",
                       "Raft groups; fixed once the cluster has started"},
    [CONFIG_HEARTBEAT_MS] = {"heartbeat_ms", VALUE_TIME, FIELD(heartbeat_ms), 5, 10000, "50",
                             "a leader's heartbeat"},
    [CONFIG_ELECTION_MS] = {"election_ms", VALUE_TIME, FIELD(election_ms), 20, 60000, "500",
                            "silence after which a follower stands for election"},
    [CONFIG_REQUEST_TIMEOUT_MS] = {"request_timeout_ms", VALUE_TIME, FIELD(request_timeout_ms), 100,
                                   600000, "5000", "how long a request may look for a leader"},
    [CONFIG_MAX_CONNECTIONS] = {"max_connections", VALUE_NUMBER, FIELD(max_connections), 1, 1000000,
                                "10000", "client connections of this node"},
    [CONFIG_MAX_CONNECTIONS_PER_PROJECT] = {"max_connections_per_project", VALUE_NUMBER,
                                            FIELD(max_connections_per_project), 0, 1000000, "0",
                                            "of these, in one project; 0: no limit of its own"},
    [CONFIG_REQUESTS_PER_SECOND] = {"requests_per_second", VALUE_NUMBER, FIELD(requests_per_second),
                                    0, PROJECT_LIMITS_RATE_MAX, "0",
                                    "requests that this node takes for one project; 0: no limit"},
    [CONFIG_MAX_VALUE] = {"max_value", VALUE_SIZE, FIELD(max_value), 1, LIMIT_VALUE_SIZE_MAX,
                          "16MiB", "largest value"},
    [CONFIG_MAX_PIPELINE] = {"max_pipeline", VALUE_NUMBER, FIELD(max_pipeline), 1, 65536, "1024",
                             "commands in flight per connection"},
    [CONFIG_MAX_OUTPUT] = {"max_output", VALUE_SIZE, FIELD(max_output), 64 * KIB, 1 * GIB, "8MiB",
                           "replies waiting per connection before its requests wait"},
    [CONFIG_MAX_MEMORY_INFLIGHT] = {"max_memory_inflight", VALUE_SIZE, FIELD(max_memory_inflight),
                                    1 * MIB, 1024 * GIB, "256MiB",
                                    "bytes of operations under way before -BUSY"},
    [CONFIG_MAX_MEMORY] = {"max_memory", VALUE_SIZE, FIELD(max_memory), 0, 1024 * GIB, "4GiB",
                           "memory in use; near to it new requests get -BUSY; 0: no ceiling"},
    [CONFIG_IDLE_TIMEOUT_MS] = {"idle_timeout_ms", VALUE_TIME, FIELD(idle_timeout_ms), 0, 864000000,
                                "0", "silence after which a connection is closed; 0: never"},
    [CONFIG_RECEIVE_TIMEOUT_MS] = {"receive_timeout_ms", VALUE_TIME, FIELD(receive_timeout_ms), 100,
                                   3600000, "30000",
                                   "for a request to arrive in full, or to authenticate"},
    [CONFIG_SEND_TIMEOUT_MS] = {"send_timeout_ms", VALUE_TIME, FIELD(send_timeout_ms), 100, 3600000,
                                "60000", "for a client to take some of its replies"},
    [CONFIG_DEFAULT_QUOTA] = {"default_quota", VALUE_SIZE, FIELD(default_quota), 1, LIMIT_QUOTA_MAX,
                              "1GiB", "quota of a project that comes into being"},
    [CONFIG_SEGMENT_SIZE] = {"segment_size", VALUE_SIZE, FIELD(segment_size),
                             LIMIT_SEGMENT_SIZE_MIN, 4 * GIB, "64MiB",
                             "size of a segment file of the log"},
    [CONFIG_LOG_CACHE] = {"log_cache", VALUE_SIZE, FIELD(log_cache), 64 * KIB, 64 * GIB, "16MiB",
                          "recent log entries kept in memory"},
    [CONFIG_SHARD_CACHE] = {"shard_cache", VALUE_SIZE, FIELD(shard_cache), 64 * KIB, 64 * GIB,
                            "16MiB", "database page cache of each shard"},
    [CONFIG_SHARD_WINDOW] = {"shard_window", VALUE_SIZE, FIELD(shard_window), 64, 1 * GIB, "64KiB",
                             "writes under way to a shard while others are in use; more wait"},
    [CONFIG_WORKERS] = {"workers", VALUE_NUMBER, FIELD(workers), 1, 64, "2",
                        "state machine threads"},
    [CONFIG_SNAPSHOT_LOG_BYTES] = {"snapshot_log_bytes", VALUE_SIZE, FIELD(snapshot_log_bytes),
                                   64 * KIB, 64 * GIB, "16MiB",
                                   "log of a shard after which it is checkpointed and cut"},
    [CONFIG_TRAILING_ENTRIES] = {"trailing_entries", VALUE_NUMBER64, FIELD(trailing_entries), 0,
                                 100000000, "4096",
                                 "entries kept behind a checkpoint for slow followers"},
    [CONFIG_MIN_FREE_DISK] = {"min_free_disk", VALUE_SIZE, FIELD(min_free_disk), 0, 1024 * GIB,
                              "64MiB", "free disk space below which writes are refused"},
    [CONFIG_REBALANCE] = {"rebalance", VALUE_BOOL, FIELD(rebalance), 0, 0, "yes",
                          "hand leaderships back to their preferred nodes"},
    [CONFIG_REDIRECT] = {"redirect", VALUE_BOOL, FIELD(redirect), 0, 0, "no",
                         "answer -MOVED instead of forwarding to the leader, as Redis Cluster"},
    [CONFIG_FEED_HISTORY] = {"feed_history", VALUE_SIZE, FIELD(feed_history), 0, 1 * GIB, "8MiB",
                             "changes kept per shard for subscribers; 0: no change feed"},
    [CONFIG_METRICS_PROJECTS] = {"metrics_projects", VALUE_NUMBER, FIELD(metrics_projects), 0,
                                 MACHINE_TOP_MAX, "20",
                                 "projects in /metrics, those that use most; 0: none"},
    [CONFIG_SLOW_MS] = {"slow_ms", VALUE_TIME, FIELD(slow_ms), 0, 600000, "1000",
                        "operations that take as long are logged; 0: none are"},
    [CONFIG_CORE_DUMPS] = {"core_dumps", VALUE_BOOL, FIELD(core_dumps), 0, 0, "no",
                           "let a crash leave a core file, with keys, values and secrets in it"},
    [CONFIG_LOG_LEVEL] = {"log_level", VALUE_LEVEL, FIELD(log_level), 0, 0, "info",
                          "error, warn, info or debug"},
};

/* Bytes of a value that are repeated in a message. */
enum { SHOWN_VALUE = 80 };

struct shown {
    char text[SHOWN_VALUE + 4];
};

/* A value for a message: control characters replaced, long ones cut. */
static struct shown show(struct slice value) {
    struct shown shown;
    size_t size = value.size < SHOWN_VALUE ? value.size : SHOWN_VALUE;
    for (size_t i = 0; i < size; i++) {
        uint8_t c = value.data[i];
        shown.text[i] = c < ' ' || c == 0x7f ? '?' : (char)c;
    }
    snprintf(shown.text + size, sizeof shown.text - size, "%s", value.size > size ? "..." : "");
    return shown;
}

static enum error_code refuse(struct error *error, enum config_key key, struct slice value,
                              const char *reason) {
    return error_set(error, ERROR_INVALID, "%s = '%s': %s", key_specs[key].name, show(value).text,
                     reason);
}

static bool is_blank(uint8_t c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f';
}

static struct slice trim(struct slice text) {
    while (text.size > 0 && is_blank(text.data[0])) {
        text.data++;
        text.size--;
    }
    while (text.size > 0 && is_blank(text.data[text.size - 1])) {
        text.size--;
    }
    return text;
}

/* A comment starts at a '#' that begins the line or follows a blank. */
static struct slice strip_comment(struct slice line) {
    for (size_t i = 0; i < line.size; i++) {
        if (line.data[i] == '#' && (i == 0 || is_blank(line.data[i - 1]))) {
            line.size = i;
        }
    }
    return line;
}

/* Cuts the first word off `rest`; empty when there is none. */
static struct slice next_word(struct slice *rest) {
    *rest = trim(*rest);
    size_t size = 0;
    while (size < rest->size && !is_blank(rest->data[size])) {
        size++;
    }
    struct slice word = slice_make(rest->data, size);
    *rest = trim(slice_make(rest->data + size, rest->size - size));
    return word;
}

/* Leading decimal digits; false when there are none or they overflow. */
static bool parse_digits(struct slice *text, uint64_t *number) {
    size_t i = 0;
    uint64_t sum = 0;
    for (; i < text->size && text->data[i] >= '0' && text->data[i] <= '9'; i++) {
        uint64_t digit = (uint64_t)(text->data[i] - '0');
        if (sum > (UINT64_MAX - digit) / 10) {
            return false;
        }
        sum = sum * 10 + digit;
    }
    *text = slice_make(text->data + i, text->size - i);
    *number = sum;
    return i > 0;
}

struct unit {
    const char *name;
    uint64_t factor;
};

static const struct unit no_units[] = {{"", 1}, {NULL, 0}};
static const struct unit size_units[] = {{"", 1},      {"b", 1},     {"kib", KIB},
                                         {"mib", MIB}, {"gib", GIB}, {NULL, 0}};
static const struct unit time_units[] = {{"", 1}, {"ms", 1}, {"s", 1000}, {NULL, 0}};

static const struct unit *units_of(enum value_kind kind) {
    return kind == VALUE_SIZE ? size_units : kind == VALUE_TIME ? time_units : no_units;
}

static bool parse_quantity(struct slice text, const struct unit *units, uint64_t *number) {
    if (!parse_digits(&text, number)) {
        return false;
    }
    text = trim(text);
    for (const struct unit *unit = units; unit->name != NULL; unit++) {
        if (slice_equal_nocase(text, unit->name)) {
            bool fits = *number <= UINT64_MAX / unit->factor;
            *number *= unit->factor;
            return fits;
        }
    }
    return false;
}

/* A number with the largest unit that divides it, as a file would have it. */
static void format_quantity(char *text, size_t size, enum value_kind kind, uint64_t number) {
    if (kind == VALUE_TIME) {
        snprintf(text, size, "%" PRIu64 " ms", number);
    } else if (kind == VALUE_SIZE && number >= GIB && number % GIB == 0) {
        snprintf(text, size, "%" PRIu64 "GiB", number / GIB);
    } else if (kind == VALUE_SIZE && number >= MIB && number % MIB == 0) {
        snprintf(text, size, "%" PRIu64 "MiB", number / MIB);
    } else if (kind == VALUE_SIZE && number >= KIB && number % KIB == 0) {
        snprintf(text, size, "%" PRIu64 "KiB", number / KIB);
    } else {
        snprintf(text, size, "%" PRIu64, number);
    }
}

/* What a key allows, in words. */
static void format_range(const struct key_spec *spec, char *text, size_t size) {
    char min[32], max[32];
    format_quantity(min, sizeof min, spec->kind, spec->min);
    format_quantity(max, sizeof max, spec->kind, spec->max);
    switch (spec->kind) {
    case VALUE_NAME:
        snprintf(text, size, "%s to %s characters of A-Z a-z 0-9 . _ -", min, max);
        break;
    case VALUE_PATH:
        snprintf(text, size, "a path of at most %s bytes", max);
        break;
    case VALUE_ADDRESS:
        snprintf(text, size, "HOST:PORT with a port of 1 to 65535");
        break;
    case VALUE_NODE:
        snprintf(text, size, "ID CLIENT_HOST:PORT PEER_HOST:PORT, at most %s nodes", max);
        break;
    case VALUE_BOOL:
        snprintf(text, size, "yes or no");
        break;
    case VALUE_LEVEL:
        snprintf(text, size, "error, warn, info or debug");
        break;
    case VALUE_AUTH:
        snprintf(text, size, "off or required");
        break;
    case VALUE_TLS:
        snprintf(text, size, "off, optional or required");
        break;
    case VALUE_SIZE:
        snprintf(text, size, "a size from %s to %s (units: KiB, MiB, GiB)", min, max);
        break;
    case VALUE_TIME:
        snprintf(text, size, "a time from %s to %s (units: ms, s)", min, max);
        break;
    case VALUE_NUMBER:
    case VALUE_NUMBER64:
        snprintf(text, size, "a number from %s to %s", min, max);
        break;
    }
}

static enum error_code refuse_range(struct error *error, enum config_key key, struct slice value) {
    char range[128], reason[160];
    format_range(&key_specs[key], range, sizeof range);
    snprintf(reason, sizeof reason, "expected %s", range);
    return refuse(error, key, value, reason);
}

static bool parse_name(const struct key_spec *spec, struct slice value, char *field) {
    if (value.size < spec->min || value.size > spec->max) {
        return false;
    }
    for (size_t i = 0; i < value.size; i++) {
        uint8_t c = value.data[i];
        bool allowed = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '.' || c == '_' || c == '-';
        if (!allowed) {
            return false;
        }
    }
    memcpy(field, value.data, value.size);
    field[value.size] = '\0';
    return true;
}

static bool parse_path(const struct key_spec *spec, struct slice value, char *field) {
    if (value.size < spec->min || value.size > spec->max ||
        memchr(value.data, '\0', value.size) != NULL) {
        return false;
    }
    memcpy(field, value.data, value.size);
    field[value.size] = '\0';
    return true;
}

static bool host_is_valid(struct slice host, bool bracketed) {
    if (host.size == 0 || host.size >= CONFIG_HOST_SIZE) {
        return false;
    }
    for (size_t i = 0; i < host.size; i++) {
        uint8_t c = host.data[i];
        if (c <= ' ' || c >= 0x7f || c == '[' || c == ']' || (c == ':' && !bracketed)) {
            return false;
        }
    }
    return true;
}

static bool parse_address(struct slice text, struct config_address *address) {
    size_t colon = text.size;
    while (colon > 0 && text.data[colon - 1] != ':') {
        colon--;
    }
    if (colon == 0) {
        return false;
    }
    struct slice host = slice_make(text.data, colon - 1);
    struct slice digits = slice_make(text.data + colon, text.size - colon);
    bool bracketed = host.size >= 2 && host.data[0] == '[' && host.data[host.size - 1] == ']';
    if (bracketed) {
        host = slice_make(host.data + 1, host.size - 2);
    }
    uint64_t port;
    if (!host_is_valid(host, bracketed) || !parse_quantity(digits, no_units, &port) || port < 1 ||
        port > UINT16_MAX) {
        return false;
    }
    memcpy(address->host, host.data, host.size);
    address->host[host.size] = '\0';
    address->port = (uint16_t)port;
    return true;
}

static bool address_equal(const struct config_address *a, const struct config_address *b) {
    return a->port == b->port && strcmp(a->host, b->host) == 0;
}

static enum error_code set_node(struct config *config, struct slice value, unsigned line,
                                struct error *error) {
    struct slice rest = value;
    struct slice id = next_word(&rest);
    struct slice client = next_word(&rest);
    struct slice peer = next_word(&rest);
    struct config_node node = {0};
    uint64_t number;
    if (!parse_quantity(id, no_units, &number) || number < 1 || number > UINT32_MAX) {
        return refuse(error, CONFIG_NODE, value,
                      "expected ID CLIENT_HOST:PORT PEER_HOST:PORT; the id is a number from 1 to "
                      "4294967295");
    }
    node.id = (uint32_t)number;
    if (!parse_address(client, &node.client)) {
        return refuse(error, CONFIG_NODE, value,
                      "the client address must be HOST:PORT with a port of 1 to 65535");
    }
    if (!parse_address(peer, &node.peer) || rest.size > 0) {
        return refuse(error, CONFIG_NODE, value,
                      "the peer address must be HOST:PORT with a port of 1 to 65535, and nothing "
                      "may follow it");
    }
    char reason[128];
    for (unsigned i = 0; i < config->n_nodes; i++) {
        const struct config_node *other = &config->nodes[i];
        bool same_address =
            address_equal(&node.client, &other->client) || address_equal(&node.peer, &other->peer);
        if (node.id == other->id || same_address) {
            snprintf(reason, sizeof reason, "%s was already given to node %" PRIu32 " in line %u",
                     node.id == other->id ? "this id" : "an address", other->id,
                     config->line_of_node[i]);
            return refuse(error, CONFIG_NODE, value, reason);
        }
    }
    if (config->n_nodes == LIMIT_NODES) {
        snprintf(reason, sizeof reason, "a cluster has at most %d nodes", LIMIT_NODES);
        return refuse(error, CONFIG_NODE, value, reason);
    }
    config->line_of_node[config->n_nodes] = line;
    config->nodes[config->n_nodes++] = node;
    return ERROR_NONE;
}

static bool parse_bool(struct slice value, bool *field) {
    *field = slice_equal_nocase(value, "yes") || slice_equal_nocase(value, "true") ||
             slice_equal_nocase(value, "on");
    return *field || slice_equal_nocase(value, "no") || slice_equal_nocase(value, "false") ||
           slice_equal_nocase(value, "off");
}

static bool parse_auth(struct slice value, enum config_auth *field) {
    bool required = slice_equal_nocase(value, "required");
    *field = required ? CONFIG_AUTH_REQUIRED : CONFIG_AUTH_OFF;
    return required || slice_equal_nocase(value, "off");
}

static bool parse_tls(struct slice value, enum config_tls *field) {
    static const char *const names[] = {"off", "optional", "required"};
    for (unsigned i = 0; i < 3; i++) {
        if (slice_equal_nocase(value, names[i])) {
            *field = (enum config_tls)i;
            return true;
        }
    }
    return false;
}

/* Parses any kind but VALUE_NODE into its field; false when the value is not allowed. */
static bool set_field(struct config *config, const struct key_spec *spec, struct slice value) {
    void *field = (char *)config + spec->offset;
    uint64_t number;
    switch (spec->kind) {
    case VALUE_NAME:
        return parse_name(spec, value, field);
    case VALUE_PATH:
        return parse_path(spec, value, field);
    case VALUE_ADDRESS:
        return parse_address(value, field);
    case VALUE_BOOL:
        return parse_bool(value, field);
    case VALUE_LEVEL:
        return say_level_parse(value, field);
    case VALUE_AUTH:
        return parse_auth(value, field);
    case VALUE_TLS:
        return parse_tls(value, field);
    default:
        ASSERT(spec->kind != VALUE_NODE);
    }
    if (!parse_quantity(value, units_of(spec->kind), &number) || number < spec->min ||
        number > spec->max) {
        return false;
    }
    if (spec->kind == VALUE_NUMBER) {
        *(unsigned *)field = (unsigned)number;
    } else {
        *(uint64_t *)field = number;
    }
    return true;
}

static enum error_code set_key(struct config *config, enum config_key key, struct slice value,
                               unsigned line, struct error *error) {
    if (key == CONFIG_NODE) {
        enum error_code code = set_node(config, value, line, error);
        if (code != ERROR_NONE) {
            return code;
        }
    } else if (!set_field(config, &key_specs[key], value)) {
        return refuse_range(error, key, value);
    }
    config->is_set[key] = true;
    config->line_of[key] = line;
    return ERROR_NONE;
}

/* Edit distance between a word of the file and a key, for "did you mean". */
static unsigned edit_distance(struct slice a, const char *b) {
    enum { LONGEST = 32 };
    unsigned row[LONGEST + 1];
    size_t size = strlen(b);
    if (size > LONGEST || a.size > LONGEST) {
        return UINT32_MAX;
    }
    for (size_t j = 0; j <= size; j++) {
        row[j] = (unsigned)j;
    }
    for (size_t i = 0; i < a.size; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i + 1;
        for (size_t j = 0; j < size; j++) {
            unsigned replaced = diagonal + (a.data[i] != (uint8_t)b[j]);
            unsigned removed = row[j + 1] + 1;
            unsigned inserted = row[j] + 1;
            diagonal = row[j + 1];
            unsigned least = replaced < removed ? replaced : removed;
            row[j + 1] = least < inserted ? least : inserted;
        }
    }
    return row[size];
}

static enum error_code refuse_unknown(struct error *error, struct slice name) {
    unsigned least = UINT32_MAX;
    const char *nearest = key_specs[0].name;
    for (unsigned i = 0; i < CONFIG_KEYS; i++) {
        unsigned distance = edit_distance(name, key_specs[i].name);
        if (distance < least) {
            least = distance;
            nearest = key_specs[i].name;
        }
    }
    return error_set(error, ERROR_INVALID, "unknown key '%s'; did you mean '%s'?", show(name).text,
                     nearest);
}

static bool find_key(struct slice name, enum config_key *key) {
    for (unsigned i = 0; i < CONFIG_KEYS; i++) {
        if (slice_equal(name, slice_of(key_specs[i].name))) {
            *key = (enum config_key)i;
            return true;
        }
    }
    return false;
}

/* `key = value`. A key other than `node` may stand once in the file (line > 0). */
static enum error_code set_assignment(struct config *config, struct slice text, unsigned line,
                                      struct error *error) {
    const uint8_t *equals = memchr(text.data, '=', text.size);
    if (equals == NULL) {
        return error_set(error, ERROR_SYNTAX, "'%s': expected key = value", show(text).text);
    }
    size_t at = (size_t)(equals - text.data);
    struct slice name = trim(slice_make(text.data, at));
    struct slice value = trim(slice_make(equals + 1, text.size - at - 1));
    enum config_key key;
    if (!find_key(name, &key)) {
        return refuse_unknown(error, name);
    }
    if (line > 0 && key != CONFIG_NODE && config->line_of[key] > 0) {
        char reason[64];
        snprintf(reason, sizeof reason, "the key was already set in line %u", config->line_of[key]);
        return refuse(error, key, value, reason);
    }
    return set_key(config, key, value, line, error);
}

void config_init(struct config *config) {
    *config = (struct config){0};
    for (unsigned i = 0; i < CONFIG_KEYS; i++) {
        if (key_specs[i].initial != NULL) {
            bool valid = set_field(config, &key_specs[i], slice_of(key_specs[i].initial));
            ASSERT(valid);
        }
    }
}

enum error_code config_default_single(struct config *config, const char *dir, struct error *error) {
    config_init(config);
    size_t size = strlen(dir);
    if (size == 0 || size >= CONFIG_PATH_SIZE) {
        return error_set(error, ERROR_TOOBIG,
                         "--single: a path of %zu bytes; expected a directory of 1 to %d bytes",
                         size, CONFIG_PATH_SIZE - 1);
    }
    memcpy(config->data_dir, dir, size + 1);
    memcpy(config->cluster, "single", sizeof "single");
    config->node_id = 1;
    enum error_code code = set_node(config, slice_of("1 127.0.0.1:7101 127.0.0.1:7201"), 0, error);
    ASSERT(code == ERROR_NONE);
    return ERROR_NONE;
}

enum error_code config_parse(struct config *config, const char *name, struct slice text,
                             struct error *error) {
    config->source = name;
    for (unsigned line = 1; text.size > 0; line++) {
        const uint8_t *end = memchr(text.data, '\n', text.size);
        size_t size = end == NULL ? text.size : (size_t)(end - text.data);
        struct slice content = slice_make(text.data, size);
        size_t skip = end == NULL ? size : size + 1;
        text = slice_make(text.data + skip, text.size - skip);

        content = trim(strip_comment(content));
        if (content.size == 0) {
            continue;
        }
        if (set_assignment(config, content, line, error) != ERROR_NONE) {
            return error_wrap(error, "%s:%u", name, line);
        }
    }
    return ERROR_NONE;
}

enum error_code config_load(struct config *config, const char *path, struct error *error) {
    config_init(config);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return error_set_errno(error, errno, "%s:0: cannot open the configuration file", path);
    }
    struct buffer text = {0};
    enum error_code code = ERROR_NONE;
    for (;;) {
        buffer_reserve(&text, 64 * 1024);
        ssize_t size = read(fd, text.data + text.size, 64 * 1024);
        if (size < 0 && errno == EINTR) {
            continue;
        }
        if (size < 0) {
            code = error_set_errno(error, errno, "%s:0: cannot read the configuration file", path);
            break;
        }
        if (size == 0) {
            code = config_parse(config, path, buffer_slice(&text), error);
            break;
        }
        text.size += (size_t)size;
        if (text.size > CONFIG_FILE_SIZE_MAX) {
            code = error_set(error, ERROR_TOOBIG,
                             "%s:0: larger than %d bytes; is this a configuration file?", path,
                             CONFIG_FILE_SIZE_MAX);
            break;
        }
    }
    buffer_free(&text);
    close(fd);
    return code;
}

enum error_code config_set(struct config *config, const char *assignment, struct error *error) {
    if (set_assignment(config, slice_of(assignment), 0, error) != ERROR_NONE) {
        return error_wrap(error, "--set %s", show(slice_of(assignment)).text);
    }
    return ERROR_NONE;
}

/* Puts where the key's value came from before the message. */
static enum error_code wrap_place(const struct config *config, enum config_key key,
                                  struct error *error) {
    if (config->line_of[key] > 0) {
        return error_wrap(error, "%s:%u", config->source, config->line_of[key]);
    }
    if (config->is_set[key]) {
        return error_wrap(error, "--set %s", key_specs[key].name);
    }
    return error_wrap(error, "%s", config->source != NULL ? config->source : "configuration");
}

static enum error_code check_required(const struct config *config, struct error *error) {
    const struct {
        enum config_key key;
        bool missing;
    } required[] = {
        {CONFIG_CLUSTER, config->cluster[0] == '\0'},
        {CONFIG_NODE_ID, config->node_id == 0},
        {CONFIG_DATA_DIR, config->data_dir[0] == '\0'},
        {CONFIG_NODE, config->n_nodes == 0},
    };
    for (unsigned i = 0; i < sizeof required / sizeof required[0]; i++) {
        if (required[i].missing) {
            char range[128];
            format_range(&key_specs[required[i].key], range, sizeof range);
            error_set(error, ERROR_INVALID, "the key '%s' is missing; expected %s",
                      key_specs[required[i].key].name, range);
            return wrap_place(config, required[i].key, error);
        }
    }
    return ERROR_NONE;
}

static enum error_code check_loopback(const struct config *config, enum config_key key,
                                      const struct config_address *address, struct error *error) {
    bool authenticated = (key == CONFIG_LISTEN && config->auth == CONFIG_AUTH_REQUIRED) ||
                         (key == CONFIG_PEER_LISTEN && config->peer_tls == CONFIG_TLS_REQUIRED);
    if (authenticated || config->insecure_listen || config_is_loopback(address)) {
        return ERROR_NONE;
    }
    char text[CONFIG_HOST_SIZE + 8];
    config_format_address(address, text, sizeof text);
    error_set(error, ERROR_INVALID,
              "%s = '%s': not a loopback address, and no authentication is configured, so anybody "
              "who reaches it could read and write everything; listen on 127.0.0.1 or ::1, or set "
              "insecure_listen = yes",
              key_specs[key].name, text);
    return wrap_place(config, key, error);
}

static enum error_code check_auth(const struct config *config, struct error *error) {
    const enum config_key files[] = {CONFIG_SERVICE_TOKEN_FILE, CONFIG_ADMIN_TOKEN_FILE};
    bool required = config->auth == CONFIG_AUTH_REQUIRED;
    bool has_file = false;
    for (unsigned i = 0; i < 2; i++) {
        has_file = has_file || config->is_set[files[i]];
        if (!required && config->is_set[files[i]]) {
            error_set(error, ERROR_INVALID,
                      "%s: without effect while auth = off; set auth = required",
                      key_specs[files[i]].name);
            return wrap_place(config, files[i], error);
        }
    }
    if (required && !has_file) {
        error_set(error, ERROR_INVALID,
                  "auth = 'required': nobody could make projects or tokens; set admin_token_file, "
                  "service_token_file or both");
        return wrap_place(config, CONFIG_AUTH, error);
    }
    return ERROR_NONE;
}

/* `key` and `switch_key` go together: a file is there when it is needed, and only then. */
static enum error_code check_tls_file(const struct config *config, enum config_key key,
                                      const char *path, enum config_key switch_key, bool is_needed,
                                      struct error *error) {
    if (is_needed && path[0] == '\0') {
        error_set(error, ERROR_INVALID, "%s is not off: set %s as well, see docs/tls.md",
                  key_specs[switch_key].name, key_specs[key].name);
        return wrap_place(config, switch_key, error);
    }
    if (!is_needed && path[0] != '\0') {
        error_set(error, ERROR_INVALID, "%s: without effect while %s = off", key_specs[key].name,
                  key_specs[switch_key].name);
        return wrap_place(config, key, error);
    }
    return ERROR_NONE;
}

static enum error_code check_tls(const struct config *config, struct error *error) {
    bool for_clients = config->tls != CONFIG_TLS_OFF;
    bool for_peers = config->peer_tls != CONFIG_TLS_OFF;
    if (config->tls_clients != CONFIG_TLS_OFF && !for_clients) {
        error_set(error, ERROR_INVALID, "tls_clients: without effect while tls = off");
        return wrap_place(config, CONFIG_TLS_CLIENTS, error);
    }
    const struct {
        enum config_key key;
        const char *path;
        enum config_key switch_key;
        bool is_needed;
    } files[] = {
        {CONFIG_TLS_CERT, config->tls_cert, CONFIG_TLS, for_clients},
        {CONFIG_TLS_KEY, config->tls_key, CONFIG_TLS, for_clients},
        {CONFIG_TLS_CA, config->tls_ca, CONFIG_TLS_CLIENTS, config->tls_clients != CONFIG_TLS_OFF},
        {CONFIG_PEER_TLS_CERT, config->peer_tls_cert, CONFIG_PEER_TLS, for_peers},
        {CONFIG_PEER_TLS_KEY, config->peer_tls_key, CONFIG_PEER_TLS, for_peers},
        {CONFIG_PEER_TLS_CA, config->peer_tls_ca, CONFIG_PEER_TLS, for_peers},
    };
    enum error_code code = ERROR_NONE;
    for (unsigned i = 0; i < sizeof files / sizeof files[0] && code == ERROR_NONE; i++) {
        code = check_tls_file(config, files[i].key, files[i].path, files[i].switch_key,
                              files[i].is_needed, error);
    }
    return code;
}

/* Writes are taken up to two thirds of the ceiling at least (node/memory_ceiling.c). When the node
 * itself needs more, it would refuse them for ever. */
static enum error_code check_memory(const struct config *config, struct error *error) {
    uint64_t itself = MEMORY_OF_PROCESS + config->log_cache +
                      config->shards * (config->shard_cache + config->feed_history);
    uint64_t least = itself / 2 * 3;
    if (config->max_memory == 0 || config->max_memory >= least) {
        return ERROR_NONE;
    }
    error_set(error, ERROR_INVALID,
              "max_memory = '%" PRIu64 "': must be at least %" PRIu64
              "MiB, one and a half times what the node itself may need: log_cache, shard_cache "
              "and feed_history of each shard, and %" PRIu64 "MiB; set it higher, or these lower",
              config->max_memory, (least + MIB - 1) / MIB, MEMORY_OF_PROCESS / MIB);
    return wrap_place(config, CONFIG_MAX_MEMORY, error);
}

static enum error_code check_listen_distinct(const struct config *config, struct error *error) {
    const enum config_key keys[] = {CONFIG_LISTEN, CONFIG_PEER_LISTEN, CONFIG_HTTP_LISTEN};
    const struct config_address *addresses[] = {&config->listen, &config->peer_listen,
                                                &config->http_listen};
    for (unsigned i = 0; i < 3; i++) {
        for (unsigned j = 0; j < i; j++) {
            if (address_equal(addresses[i], addresses[j])) {
                char text[CONFIG_HOST_SIZE + 8];
                config_format_address(addresses[i], text, sizeof text);
                error_set(error, ERROR_INVALID, "%s = '%s': the same address as %s",
                          key_specs[keys[i]].name, text, key_specs[keys[j]].name);
                return wrap_place(config, keys[i], error);
            }
        }
    }
    return ERROR_NONE;
}

static enum error_code check_listens(struct config *config, const struct config_node *self,
                                     struct error *error) {
    if (config->listen.port == 0) {
        config->listen = self->client;
        config->line_of[CONFIG_LISTEN] = config->line_of_node[self - config->nodes];
    }
    if (config->peer_listen.port == 0) {
        config->peer_listen = self->peer;
        config->line_of[CONFIG_PEER_LISTEN] = config->line_of_node[self - config->nodes];
    }
    enum error_code code = check_loopback(config, CONFIG_LISTEN, &config->listen, error);
    if (code == ERROR_NONE) {
        code = check_loopback(config, CONFIG_PEER_LISTEN, &config->peer_listen, error);
    }
    if (code == ERROR_NONE) {
        code = check_loopback(config, CONFIG_HTTP_LISTEN, &config->http_listen, error);
    }
    return code != ERROR_NONE ? code : check_listen_distinct(config, error);
}

enum error_code config_finish(struct config *config, struct error *error) {
    enum error_code code = check_required(config, error);
    if (code != ERROR_NONE) {
        return code;
    }
    const struct config_node *self = config_find_node(config, config->node_id);
    if (self == NULL) {
        error_set(error, ERROR_INVALID,
                  "node_id = '%" PRIu32 "': no `node` line has this id; add `node = %" PRIu32
                  " CLIENT_HOST:PORT PEER_HOST:PORT`",
                  config->node_id, config->node_id);
        return wrap_place(config, CONFIG_NODE_ID, error);
    }
    if (config->election_ms < 4 * config->heartbeat_ms) {
        error_set(error, ERROR_INVALID,
                  "election_ms = '%" PRIu64 "': must be at least 4 times heartbeat_ms (%" PRIu64
                  " ms), so at least %" PRIu64 " ms",
                  config->election_ms, config->heartbeat_ms, 4 * config->heartbeat_ms);
        return wrap_place(
            config, config->is_set[CONFIG_ELECTION_MS] ? CONFIG_ELECTION_MS : CONFIG_HEARTBEAT_MS,
            error);
    }
    if (config->feed_history > 0 && config->feed_history < FEED_HISTORY_MIN) {
        error_set(error, ERROR_INVALID,
                  "feed_history = '%" PRIu64 "': must be 0, which turns the change feed off, or "
                  "at least %" PRIu64 "KiB",
                  config->feed_history, FEED_HISTORY_MIN / KIB);
        return wrap_place(config, CONFIG_FEED_HISTORY, error);
    }
    enum error_code checked = check_auth(config, error);
    checked = checked == ERROR_NONE ? check_memory(config, error) : checked;
    checked = checked == ERROR_NONE ? check_tls(config, error) : checked;
    return checked == ERROR_NONE ? check_listens(config, self, error) : checked;
}

/* The directory that holds `path`. */
static void parent_directory(const char *path, char *parent, size_t size) {
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') {
        length--;
    }
    while (length > 0 && path[length - 1] != '/') {
        length--;
    }
    while (length > 1 && path[length - 1] == '/') {
        length--;
    }
    if (length == 0) {
        path = ".";
        length = 1;
    }
    snprintf(parent, size, "%.*s", (int)length, path);
}

enum error_code config_check_data_dir(const struct config *config, struct error *error) {
    const char *checked = config->data_dir;
    const char *which = "this path";
    char parent[CONFIG_PATH_SIZE];
    struct stat status;
    if (stat(checked, &status) != 0 && errno == ENOENT) {
        parent_directory(checked, parent, sizeof parent);
        checked = parent;
        which = "it does not exist, and its parent";
    }
    if (stat(checked, &status) != 0) {
        error_set_errno(error, errno, "data_dir = '%s': %s cannot be used", config->data_dir,
                        which);
    } else if (!S_ISDIR(status.st_mode)) {
        error_set(error, ERROR_INVALID, "data_dir = '%s': %s is not a directory", config->data_dir,
                  which);
    } else if (access(checked, R_OK | W_OK | X_OK) != 0) {
        error_set_errno(error, errno, "data_dir = '%s': %s must be readable and writable",
                        config->data_dir, which);
    } else {
        return ERROR_NONE;
    }
    return wrap_place(config, CONFIG_DATA_DIR, error);
}

const struct config_node *config_find_node(const struct config *config, uint32_t id) {
    for (unsigned i = 0; i < config->n_nodes; i++) {
        if (config->nodes[i].id == id) {
            return &config->nodes[i];
        }
    }
    return NULL;
}

bool config_is_loopback(const struct config_address *address) {
    struct in_addr v4;
    struct in6_addr v6;
    if (inet_pton(AF_INET, address->host, &v4) == 1) {
        return ntohl(v4.s_addr) >> 24 == 127;
    }
    if (inet_pton(AF_INET6, address->host, &v6) == 1) {
        /* Not ::ffff:127.0.0.1: libraries differ in what they make of an IPv4 address in disguise.
         */
        return IN6_IS_ADDR_LOOPBACK(&v6);
    }
    /* No other name, wherever it may lead today. */
    return strcmp(address->host, "localhost") == 0;
}

void config_format_address(const struct config_address *address, char *text, size_t size) {
    bool brackets = strchr(address->host, ':') != NULL;
    snprintf(text, size, "%s%s%s:%u", brackets ? "[" : "", address->host, brackets ? "]" : "",
             address->port);
}

const char *config_key_name(enum config_key key) {
    return key_specs[key].name;
}

void config_describe(struct buffer *out) {
    for (unsigned i = 0; i < CONFIG_KEYS; i++) {
        const struct key_spec *spec = &key_specs[i];
        char range[128], line[512];
        format_range(spec, range, sizeof range);
        int size = snprintf(line, sizeof line, "%-27s %s%s%s; %s\n", spec->name, range,
                            spec->initial != NULL ? ", default " : "",
                            spec->initial != NULL ? spec->initial : "", spec->purpose);
        ASSERT(size > 0 && (size_t)size < sizeof line);
        buffer_append(out, line, (size_t)size);
    }
}
