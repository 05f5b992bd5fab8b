/* About the node and its commands: INFO, COMMAND, CONFIG. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/glob.h"
#include "base/resp.h"
#include "node/release.h"
#include "node/resp_commands.h"
#include "node/server_info.h"
#include "node/session_state.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- INFO ---- */

__attribute__((format(printf, 2, 3))) static void put(struct buffer *out, const char *format, ...) {
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    ASSERT(size >= 0);
    buffer_append(out, line, (size_t)size < sizeof line ? (size_t)size : sizeof line - 1);
}

struct info_source {
    const struct server_info *info;
    const struct session_host *host;
};

static void info_server(struct buffer *out, const struct info_source *source) {
    const struct server_info *info = source->info;
    put(out, "redis_version:7.0.15\r\ninvoke_kv_version:%s\r\nredis_mode:standalone\r\n",
        release_name());
    put(out, "arch_bits:%zu\r\nprocess_id:%ld\r\ntcp_port:%u\r\n", 8 * sizeof(void *),
        (long)getpid(), info->tcp_port);
    put(out, "uptime_in_seconds:%" PRIu64 "\r\nuptime_in_days:%" PRIu64 "\r\n",
        info->uptime_ms / 1000, info->uptime_ms / 86400000);
}

static void info_clients(struct buffer *out, const struct info_source *source) {
    put(out, "connected_clients:%u\r\nmaxclients:%u\r\nmaxclients_rejected:%" PRIu64 "\r\n",
        source->host->n_sessions, source->info->max_connections, source->host->stats.rejected);
    put(out, "client_input_bytes:%" PRIu64 "\r\noperations_under_way:%u\r\n",
        source->host->input_bytes, source->host->n_slots);
    put(out, "blocked_clients:0\r\n");
}

static void info_memory(struct buffer *out, const struct info_source *source) {
    const struct server_info *info = source->info;
    put(out, "used_memory:%" PRIu64 "\r\nused_memory_rss:%" PRIu64 "\r\n", info->memory_rss,
        info->memory_rss);
    put(out, "used_memory_peak:%" PRIu64 "\r\nmaxmemory:%" PRIu64 "\r\n", info->memory_rss_peak,
        info->memory_max);
    put(out, "memory_pressure:%u\r\n", info->memory_level);
    put(out, "inflight_bytes:%" PRIu64 "\r\ninflight_limit:%" PRIu64 "\r\n", info->memory_inflight,
        info->memory_inflight_limit);
    put(out, "reply_bytes:%" PRIu64 "\r\n", source->host->reply_bytes);
    put(out, "log_cache_bytes:%" PRIu64 "\r\n", info->memory_log_cache);
    put(out, "feed_bytes:%" PRIu64 "\r\n", info->memory_feed);
}

static void info_persistence(struct buffer *out, const struct info_source *source) {
    const struct server_info *info = source->info;
    put(out, "loading:0\r\nlog_bytes:%" PRIu64 "\r\nlog_segments:%" PRIu64 "\r\n", info->log_bytes,
        info->log_segments);
    put(out, "log_syncs:%" PRIu64 "\r\ndisk_free_bytes:%" PRIu64 "\r\ndisk_has_space:%d\r\n",
        info->log_syncs, info->disk_free, info->disk_has_space);
}

static void info_stats(struct buffer *out, const struct info_source *source) {
    const struct session_stats *stats = &source->host->stats;
    put(out, "total_connections_received:%" PRIu64 "\r\n", stats->connections);
    put(out, "total_commands_processed:%" PRIu64 "\r\n", stats->commands);
    put(out, "total_net_input_bytes:%" PRIu64 "\r\n", stats->bytes_in);
    put(out, "total_net_output_bytes:%" PRIu64 "\r\n", stats->bytes_out);
    put(out, "rejected_connections:%" PRIu64 "\r\n", stats->rejected);
    put(out, "stalled_connections:%" PRIu64 "\r\n", stats->stalled);
    put(out, "total_error_replies:%" PRIu64 "\r\n", stats->errors);
    for (unsigned i = 0; i < BOUNDS; i++) {
        put(out, "limit_reached_%s:%" PRIu64 "\r\n", bound_name((enum bound)i),
            source->host->bounds.reached[i]);
    }
}

static void info_replication(struct buffer *out, const struct info_source *source) {
    /* Clients that look for a writable node find one: every node takes writes. */
    put(out, "role:master\r\nconnected_slaves:0\r\nnodes:%u\r\n", source->info->n_nodes);
}

static void info_cluster(struct buffer *out, const struct info_source *source) {
    const struct server_info *info = source->info;
    put(out, "cluster_enabled:1\r\ncluster_name:%s\r\nnode_id:%" PRIu32 "\r\n", info->cluster,
        info->node_id);
    put(out, "nodes:%u\r\nshards:%u\r\n", info->n_nodes, info->n_shards);
    put(out, "digest_mismatches:%" PRIu64 "\r\n", info->digest_mismatches);
    for (unsigned i = 0; i < info->n_nodes; i++) {
        const struct server_info_node *node = &info->nodes[i];
        put(out, "node%" PRIu32 ":address=%s,connected=%d\r\n", node->id, node->client_address,
            node->connected);
    }
}

static void info_shards(struct buffer *out, const struct info_source *source) {
    for (unsigned i = 0; i < source->info->n_shards; i++) {
        const struct server_info_shard *shard = &source->info->shards[i];
        put(out,
            "shard%u:role=%s,leader=%" PRIu32 ",term=%" PRIu64 ",commit=%" PRIu64
            ",applied=%" PRIu64 ",last=%" PRIu64 ",keys=%" PRIu64 ",bytes=%" PRIu64
            ",voters=%u,sessions=%" PRIu64 ",session_bytes=%" PRIu64 ",clock=%" PRIu64 "\r\n",
            i, shard->role, shard->leader, shard->term, shard->commit, shard->applied, shard->last,
            shard->keys, shard->used_bytes, shard->voters, shard->sessions, shard->session_bytes,
            shard->clock_ms);
    }
}

static void info_keyspace(struct buffer *out, const struct info_source *source) {
    uint64_t keys = 0;
    for (unsigned i = 0; i < source->info->n_shards; i++) {
        keys += source->info->shards[i].keys;
    }
    if (keys > 0) {
        put(out, "db0:keys=%" PRIu64 ",expires=0,avg_ttl=0\r\n", keys);
    }
}

static const struct {
    const char *name; /* as in the heading */
    void (*write)(struct buffer *out, const struct info_source *source);
} info_sections[] = {
    {"Server", info_server},           {"Clients", info_clients}, {"Memory", info_memory},
    {"Persistence", info_persistence}, {"Stats", info_stats},     {"Replication", info_replication},
    {"Cluster", info_cluster},         {"Shards", info_shards},   {"Keyspace", info_keyspace},
};

/* What all projects hold together is not for the holder of one's token. */
static bool info_is_allowed(const struct call *call, const char *section) {
    bool counts = strcmp(section, "Shards") == 0 || strcmp(section, "Keyspace") == 0;
    return !counts || call->session->access.role != ROLE_TOKEN;
}

static bool info_is_wanted(const struct call *call, const char *section) {
    bool wanted = call->argc == 1;
    for (unsigned i = 1; i < call->argc; i++) {
        struct slice word = call->argv[i];
        wanted = wanted || slice_equal_nocase(word, section) || slice_equal_nocase(word, "all") ||
                 slice_equal_nocase(word, "default") || slice_equal_nocase(word, "everything");
    }
    return wanted;
}

void verb_info(struct call *call) {
    struct session_host *host = call->session->host;
    struct server_info info = {.cluster = ""};
    host->port.describe(host->port.data, &info);
    const struct info_source source = {.info = &info, .host = host};
    struct buffer text = {0};
    for (unsigned i = 0; i < COUNT(info_sections); i++) {
        if (info_is_wanted(call, info_sections[i].name) &&
            info_is_allowed(call, info_sections[i].name)) {
            put(&text, "%s# %s\r\n", text.size > 0 ? "\r\n" : "", info_sections[i].name);
            info_sections[i].write(&text, &source);
        }
    }
    resp_write_bulk(call_reply(call), buffer_slice(&text));
    buffer_free(&text);
}

/* ---- COMMAND ---- */

/* Writes "container|name" or "name". */
static void write_verb_name(struct buffer *out, const struct verb *container,
                            const struct verb *verb) {
    char name[64];
    snprintf(name, sizeof name, "%s%s%s", container != NULL ? container->name : "",
             container != NULL ? "|" : "", verb->name);
    resp_write_bulk(out, slice_of(name));
}

static const struct {
    unsigned flag;
    const char *name;
    const char *category;
} flag_names[] = {
    {VERB_WRITE, "write", "@write"},       {VERB_READONLY, "readonly", "@read"},
    {VERB_FAST, "fast", "@fast"},          {VERB_ADMIN, "admin", "@admin"},
    {VERB_SERVICE, "service", "@service"}, {VERB_NO_AUTH, "no_auth", "@connection"},
};

static void write_flags(struct buffer *out, unsigned flags, bool categories) {
    size_t count = 0;
    if ((flags & VERB_CONTROL) != 0) {
        flags &=
            ~(unsigned)VERB_READONLY; /* clients may send such commands to a replica: not WATCH */
    }
    for (unsigned i = 0; i < COUNT(flag_names); i++) {
        count += (flags & flag_names[i].flag) != 0;
    }
    resp_write_array(out, count);
    for (unsigned i = 0; i < COUNT(flag_names); i++) {
        if ((flags & flag_names[i].flag) != 0) {
            resp_write_simple(out, categories ? flag_names[i].category : flag_names[i].name);
        }
    }
}

/* The ten fields of COMMAND INFO in Redis 7; tips and key specifications stay empty. */
static void write_verb_info(struct buffer *out, const struct verb *container,
                            const struct verb *verb) {
    resp_write_array(out, 10);
    write_verb_name(out, container, verb);
    resp_write_integer(out, verb->arity);
    write_flags(out, verb->flags, false);
    resp_write_integer(out, verb->first_key);
    resp_write_integer(out, verb->last_key);
    resp_write_integer(out, verb->key_step);
    write_flags(out, verb->flags, true);
    resp_write_array(out, 0);
    resp_write_array(out, 0);
    resp_write_array(out, verb->n_subcommands);
    for (unsigned i = 0; i < verb->n_subcommands; i++) {
        write_verb_info(out, verb, &verb->subcommands[i]);
    }
}

static void write_text_field(struct buffer *out, const char *name, const char *value) {
    resp_write_bulk(out, slice_of(name));
    resp_write_bulk(out, slice_of(value));
}

static void write_verb_docs(struct buffer *out, const struct verb *container,
                            const struct verb *verb, int version) {
    write_verb_name(out, container, verb);
    resp_write_map(out, verb->n_subcommands > 0 ? 5 : 4, version);
    write_text_field(out, "summary", verb->summary);
    write_text_field(out, "since", verb->since);
    write_text_field(out, "group", verb->group);
    write_text_field(out, "syntax", verb->syntax);
    if (verb->n_subcommands > 0) {
        resp_write_bulk(out, slice_of("subcommands"));
        resp_write_map(out, verb->n_subcommands, version);
        for (unsigned i = 0; i < verb->n_subcommands; i++) {
            write_verb_docs(out, verb, &verb->subcommands[i], version);
        }
    }
}

static void write_all_infos(struct buffer *out) {
    unsigned count;
    const struct verb *verbs = verb_table(&count);
    resp_write_array(out, count);
    for (unsigned i = 0; i < count; i++) {
        write_verb_info(out, NULL, &verbs[i]);
    }
}

/* "name" or "container|name". */
static const struct verb *find_named(struct slice name, const struct verb **container) {
    *container = NULL;
    const uint8_t *bar = name.size > 0 ? memchr(name.data, '|', name.size) : NULL;
    if (bar == NULL) {
        return verb_find(name);
    }
    size_t size = (size_t)(bar - name.data);
    *container = verb_find(slice_make(name.data, size));
    return *container == NULL
               ? NULL
               : verb_find_subcommand(*container, slice_make(bar + 1, name.size - size - 1));
}

/* Each name makes up to some kilobytes of reply, so their number is bounded. */
static bool check_name_count(struct call *call) {
    enum { MAX_NAMES = 1024 };
    if (call->argc - 2 > MAX_NAMES) {
        call_error(call, "TOOBIG", "%u names exceed the limit of %d", call->argc - 2, MAX_NAMES);
        return false;
    }
    return true;
}

void verb_command(struct call *call) {
    write_all_infos(call_reply(call));
}

void verb_command_count(struct call *call) {
    unsigned count;
    verb_table(&count);
    resp_write_integer(call_reply(call), count);
}

void verb_command_info(struct call *call) {
    if (!check_name_count(call)) {
        return;
    }
    struct buffer *out = call_reply(call);
    if (call->argc == 2) {
        write_all_infos(out);
        return;
    }
    resp_write_array(out, call->argc - 2);
    for (unsigned i = 2; i < call->argc; i++) {
        const struct verb *container;
        const struct verb *verb = find_named(call->argv[i], &container);
        if (verb != NULL) {
            write_verb_info(out, container, verb);
        } else if (call_version(call) == 3) {
            resp_write_null(out, 3);
        } else {
            buffer_append(out, "*-1\r\n", 5); /* RESP2 has a null of its own for arrays */
        }
    }
}

void verb_command_docs(struct call *call) {
    if (!check_name_count(call)) {
        return;
    }
    unsigned count;
    const struct verb *verbs = verb_table(&count);
    struct buffer *out = call_reply(call);
    if (call->argc == 2) {
        resp_write_map(out, count, call_version(call));
        for (unsigned i = 0; i < count; i++) {
            write_verb_docs(out, NULL, &verbs[i], call_version(call));
        }
        return;
    }
    /* Unknown names are left out, as in Redis. */
    struct buffer docs = {0};
    size_t found = 0;
    for (unsigned i = 2; i < call->argc; i++) {
        const struct verb *container;
        const struct verb *verb = find_named(call->argv[i], &container);
        if (verb != NULL) {
            write_verb_docs(&docs, container, verb, call_version(call));
            found++;
        }
    }
    resp_write_map(out, found, call_version(call));
    buffer_append_slice(out, buffer_slice(&docs));
    buffer_free(&docs);
}

void verb_command_list(struct call *call) {
    if (call->argc > 2) {
        call_syntax_error(call);
        return;
    }
    unsigned count;
    const struct verb *verbs = verb_table(&count);
    struct buffer *out = call_reply(call);
    resp_write_array(out, count);
    for (unsigned i = 0; i < count; i++) {
        resp_write_bulk(out, slice_of(verbs[i].name));
    }
}

/* Lists the subcommands of the container that was called. */
void verb_help(struct call *call) {
    const struct verb *container = verb_find(call->argv[0]);
    ASSERT(container != NULL);
    struct buffer *out = call_reply(call);
    resp_write_array(out, container->n_subcommands + 1);
    char line[256];
    snprintf(line, sizeof line, "%s <subcommand> [<arg> ...]. Subcommands are:", container->name);
    resp_write_simple(out, line);
    for (unsigned i = 0; i < container->n_subcommands; i++) {
        const struct verb *verb = &container->subcommands[i];
        snprintf(line, sizeof line, "%s%s%s: %s", verb->name, *verb->syntax != '\0' ? " " : "",
                 verb->syntax, verb->summary);
        resp_write_simple(out, line);
    }
}

/* ---- CONFIG ---- */

/* What clients and redis-benchmark ask for; the real settings stand in the configuration file. */
static const struct {
    const char *name;
    const char *value;
} settings[] = {
    {"appendonly", "yes"}, {"databases", "1"}, {"maxmemory", "0"}, {"save", ""}, {"timeout", "0"},
};

static bool setting_is_wanted(const struct call *call, const char *name) {
    for (unsigned i = 2; i < call->argc; i++) {
        if (glob_match(call->argv[i], slice_of(name), true)) {
            return true;
        }
    }
    return false;
}

void verb_config_get(struct call *call) {
    size_t found = 0;
    for (unsigned i = 0; i < COUNT(settings); i++) {
        found += setting_is_wanted(call, settings[i].name);
    }
    struct buffer *out = call_reply(call);
    resp_write_map(out, found, call_version(call));
    for (unsigned i = 0; i < COUNT(settings); i++) {
        if (setting_is_wanted(call, settings[i].name)) {
            write_text_field(out, settings[i].name, settings[i].value);
        }
    }
}

void verb_config_set(struct call *call) {
    call_error(call, "ERR",
               "settings cannot be changed over a connection; change the configuration file and "
               "restart the node");
}

void verb_config_resetstat(struct call *call) {
    call->session->host->stats = (struct session_stats){0};
    call_ok(call);
}
