#include "node/resp_commands.h"

#include <stdio.h>

#include "base/assert.h"
#include "base/limits.h"
#include "node/session_limits.h"
#include "node/session_state.h"
#include "node/subscriptions.h"

#define CONNECTION "connection", "0.1.0"
#define GENERIC "generic", "0.1.0"
#define PUBSUB "pubsub", "0.1.0"
#define SERVER "server", "0.1.0"
#define STRING "string", "0.1.0"
#define TRANSACTIONS "transactions", "0.1.0"
#define NO_KEYS 0, 0, 0
#define LEAF NULL, 0
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const struct verb client_verbs[] = {
    {"getname", 2, VERB_FAST, NO_KEYS, CONNECTION, "", "Name of this connection",
     verb_client_getname, LEAF},
    {"help", 2, VERB_FAST, NO_KEYS, CONNECTION, "", "Lists the subcommands", verb_help, LEAF},
    {"id", 2, VERB_FAST, NO_KEYS, CONNECTION, "", "Number of this connection", verb_client_id,
     LEAF},
    {"info", 2, VERB_FAST, NO_KEYS, CONNECTION, "", "Describes this connection", verb_client_info,
     LEAF},
    {"list", -2, VERB_ADMIN, NO_KEYS, CONNECTION, "", "Describes all connections of this node",
     verb_client_list, LEAF},
    {"no-evict", 3, VERB_FAST, NO_KEYS, CONNECTION, "ON | OFF",
     "Accepted and without effect: connections are not evicted", verb_client_no_evict, LEAF},
    {"setinfo", 4, VERB_FAST, NO_KEYS, CONNECTION, "LIB-NAME name | LIB-VER version",
     "Accepted and without effect", verb_client_setinfo, LEAF},
    {"setname", 3, VERB_FAST, NO_KEYS, CONNECTION, "name", "Names this connection",
     verb_client_setname, LEAF},
};

static const struct verb cluster_verbs[] = {
    {"add", 3, VERB_ADMIN, NO_KEYS, SERVER, "node-id",
     "Makes a connected node a member of the cluster: first without a vote, then with one",
     verb_cluster_add, LEAF},
    {"backup", -4, VERB_ADMIN, NO_KEYS, SERVER,
     "BEGIN shard | STATE ticket | READ ticket offset | END ticket",
     "A shard's database, in pieces", verb_cluster_backup, LEAF},
    {"help", 2, VERB_FAST, NO_KEYS, SERVER, "", "Lists the subcommands", verb_help, LEAF},
    {"info", 2, 0, NO_KEYS, SERVER, "", "Whether the project's shard has a leader",
     verb_cluster_info, LEAF},
    {"keyslot", 3, 0, NO_KEYS, SERVER, "key", "Slot of a key", verb_cluster_keyslot, LEAF},
    {"members", 2, VERB_ADMIN, NO_KEYS, SERVER, "",
     "Nodes that this one knows, and each shard's members", verb_cluster_members, LEAF},
    {"myid", 2, 0, NO_KEYS, SERVER, "", "This node's id", verb_cluster_myid, LEAF},
    {"nodes", 2, 0, NO_KEYS, SERVER, "", "The project's nodes, a line each", verb_cluster_nodes,
     LEAF},
    {"rebalance", 2, VERB_ADMIN, NO_KEYS, SERVER, "",
     "Hands leaderships back to their preferred nodes", verb_cluster_rebalance, LEAF},
    {"redirect", 3, VERB_FAST, NO_KEYS, SERVER, "ON | OFF",
     "Sends this connection to the leader by -MOVED instead of forwarding", verb_cluster_redirect,
     LEAF},
    {"remove", 3, VERB_ADMIN, NO_KEYS, SERVER, "node-id",
     "Takes a node out of the cluster for good", verb_cluster_remove, LEAF},
    {"replace", 3, VERB_ADMIN, NO_KEYS, SERVER, "node-id",
     "Takes a node that lost its disk out of all shards, so that it can come back empty",
     verb_cluster_replace, LEAF},
    {"shards", 2, 0, NO_KEYS, SERVER, "", "The project's nodes, with their state",
     verb_cluster_shards, LEAF},
    {"slots", 2, 0, NO_KEYS, SERVER, "", "Who leads the project's shard, and its replicas",
     verb_cluster_slots, LEAF},
    {"topology", 2, 0, NO_KEYS, SERVER, "", "Nodes, shards and leaders of the whole cluster",
     verb_cluster_topology, LEAF},
    {"transfer", -3, VERB_ADMIN, NO_KEYS, SERVER, "shard [node-id]",
     "Hands leadership of a shard that this node leads to another", verb_cluster_transfer, LEAF},
};

static const struct verb command_verbs[] = {
    {"count", 2, VERB_FAST, NO_KEYS, SERVER, "", "Number of commands", verb_command_count, LEAF},
    {"docs", -2, 0, NO_KEYS, SERVER, "[name ...]", "What commands do", verb_command_docs, LEAF},
    {"help", 2, VERB_FAST, NO_KEYS, SERVER, "", "Lists the subcommands", verb_help, LEAF},
    {"info", -2, 0, NO_KEYS, SERVER, "[name ...]", "Arity, flags and key positions of commands",
     verb_command_info, LEAF},
    {"list", -2, 0, NO_KEYS, SERVER, "", "Names of all commands", verb_command_list, LEAF},
};

static const struct verb config_verbs[] = {
    {"get", -3, VERB_ADMIN, NO_KEYS, SERVER, "pattern [pattern ...]",
     "Settings under the names that Redis clients ask for", verb_config_get, LEAF},
    {"help", 2, VERB_FAST, NO_KEYS, SERVER, "", "Lists the subcommands", verb_help, LEAF},
    {"resetstat", 2, VERB_ADMIN, NO_KEYS, SERVER, "", "Sets the counters of INFO stats to zero",
     verb_config_resetstat, LEAF},
    {"set", -4, VERB_ADMIN, NO_KEYS, SERVER, "parameter value", "Refused: settings are in the file",
     verb_config_set, LEAF},
};

static const struct verb memory_verbs[] = {
    {"help", 2, VERB_FAST, NO_KEYS, SERVER, "", "Lists the subcommands", verb_help, LEAF},
    {"usage", -3, VERB_READONLY, 2, 2, 1, SERVER, "key [SAMPLES count]",
     "Bytes of key and value, as the quota counts them", verb_memory_usage, LEAF},
};

static const struct verb object_verbs[] = {
    {"encoding", 3, VERB_READONLY, 2, 2, 1, GENERIC, "key", "How Redis would store the value",
     verb_object_encoding, LEAF},
    {"freq", 3, VERB_READONLY, 2, 2, 1, GENERIC, "key", "Refused: access is not counted",
     verb_object_freq, LEAF},
    {"help", 2, VERB_FAST, NO_KEYS, GENERIC, "", "Lists the subcommands", verb_help, LEAF},
    {"idletime", 3, VERB_READONLY, 2, 2, 1, GENERIC, "key", "Always 0: reads leave no trace",
     verb_object_idletime, LEAF},
    {"refcount", 3, VERB_READONLY, 2, 2, 1, GENERIC, "key", "Always 1", verb_object_refcount, LEAF},
};

static const struct verb project_verbs[] = {
    {"create", -3, VERB_WRITE | VERB_SERVICE, NO_KEYS, SERVER,
     "name [QUOTA bytes] [TOKEN READWRITE | READONLY [EXPIRES milliseconds]]",
     "Makes a project, and shows the token's text this one time", verb_project_create, LEAF},
    {"delete", 3, VERB_WRITE | VERB_ADMIN, NO_KEYS, SERVER, "name",
     "Deletes a project with its keys and tokens at once", verb_project_delete, LEAF},
    {"help", 2, VERB_FAST, NO_KEYS, SERVER, "", "Lists the subcommands", verb_help, LEAF},
    {"info", -2, VERB_READONLY, NO_KEYS, SERVER, "[name]",
     "Keys, bytes and quota of a project, and where it lives", verb_project_info, LEAF},
    {"list", -2, VERB_READONLY | VERB_SERVICE, NO_KEYS, SERVER, "[CURSOR cursor] [COUNT count]",
     "Walks through the names of all projects", verb_project_list, LEAF},
    {"set-quota", 4, VERB_WRITE | VERB_ADMIN, NO_KEYS, SERVER, "name bytes",
     "Sets how many bytes of keys and values a project may hold", verb_project_set_quota, LEAF},
    {"token", -4, VERB_WRITE | VERB_ADMIN, NO_KEYS, SERVER,
     "ADD name READWRITE | READONLY [EXPIRES milliseconds] | REVOKE name id | LIST name",
     "Makes a token and shows its text this one time, ends one, or lists them", verb_project_token,
     LEAF},
    {"use", 3, VERB_FAST, NO_KEYS, SERVER, "name",
     "Changes to a project whose token this connection has shown", verb_project_use, LEAF},
};

/* Sorted by name: verb_find() searches by halves. */
static const struct verb verbs[] = {
    {"append", 3, VERB_WRITE | VERB_FAST, 1, 1, 1, STRING, "key value",
     "Appends to a value; answers its length", verb_append, LEAF},
    {"asking", 1, VERB_FAST, NO_KEYS, CONNECTION, "", "Accepted and without effect", verb_asking,
     LEAF},
    {"auth", -2, VERB_FAST | VERB_NO_AUTH, NO_KEYS, CONNECTION, "[project] token",
     "Picks the project of this connection", verb_auth, LEAF},
    {"client", -2, 0, NO_KEYS, CONNECTION, "subcommand", "About connections", NULL, client_verbs,
     COUNT(client_verbs)},
    {"cluster", -2, 0, NO_KEYS, SERVER, "subcommand", "About the cluster", NULL, cluster_verbs,
     COUNT(cluster_verbs)},
    {"command", -1, 0, NO_KEYS, SERVER, "[subcommand]", "About commands", verb_command,
     command_verbs, COUNT(command_verbs)},
    {"config", -2, VERB_ADMIN, NO_KEYS, SERVER, "subcommand", "About settings", NULL, config_verbs,
     COUNT(config_verbs)},
    {"consistency", -1, VERB_FAST | VERB_SETTLED, NO_KEYS, CONNECTION,
     "[LINEARIZABLE | SESSION [token] | EVENTUAL [MAXSTALE milliseconds]]",
     "Sets or tells how fresh the reads of this connection must be", verb_consistency, LEAF},
    {"copy", -3, VERB_WRITE, 1, 2, 1, GENERIC, "source destination [DB 0] [REPLACE]",
     "Copies a key with its expiry", verb_copy, LEAF},
    {"dbsize", 1, VERB_READONLY | VERB_FAST | VERB_QUEUED, NO_KEYS, SERVER, "",
     "Number of keys of the project", verb_dbsize, LEAF},
    {"decr", 2, VERB_WRITE | VERB_FAST, 1, 1, 1, STRING, "key", "Subtracts 1 from a number",
     verb_decr, LEAF},
    {"decrby", 3, VERB_WRITE | VERB_FAST, 1, 1, 1, STRING, "key decrement",
     "Subtracts from a number", verb_decrby, LEAF},
    {"del", -2, VERB_WRITE, 1, -1, 1, GENERIC, "key [key ...]",
     "Deletes keys; answers how many existed", verb_del, LEAF},
    {"delex", -2, VERB_WRITE | VERB_FAST, 1, 1, 1, STRING, "key [IFEQ value | IFVER version]",
     "Deletes a key if it is as it was", verb_delex, LEAF},
    {"discard", 1, VERB_FAST | VERB_CONTROL, NO_KEYS, TRANSACTIONS, "",
     "Forgets what MULTI queued, and UNWATCHes", verb_discard, LEAF},
    {"echo", 2, VERB_FAST | VERB_QUEUED, NO_KEYS, CONNECTION, "message", "Answers the message",
     verb_echo, LEAF},
    {"exec", 1, VERB_CONTROL, NO_KEYS, TRANSACTIONS, "",
     "Carries out what MULTI queued, unless a watched key has changed", verb_exec, LEAF},
    {"exists", -2, VERB_READONLY | VERB_FAST, 1, -1, 1, GENERIC, "key [key ...]",
     "How many of the keys exist", verb_exists, LEAF},
    {"expire", -3, VERB_WRITE | VERB_FAST, 1, 1, 1, GENERIC, "key seconds [NX | XX | GT | LT]",
     "Sets when a key expires, from now", verb_expire, LEAF},
    {"expireat", -3, VERB_WRITE | VERB_FAST, 1, 1, 1, GENERIC,
     "key unix-seconds [NX | XX | GT | LT]", "Sets when a key expires", verb_expireat, LEAF},
    {"expiretime", 2, VERB_READONLY | VERB_FAST, 1, 1, 1, GENERIC, "key",
     "When a key expires, Unix time in seconds", verb_expiretime, LEAF},
    {"flushall", -1, VERB_WRITE | VERB_QUEUED, NO_KEYS, SERVER, "[ASYNC | SYNC]",
     "The same as FLUSHDB", verb_flushdb, LEAF},
    {"flushdb", -1, VERB_WRITE | VERB_QUEUED, NO_KEYS, SERVER, "[ASYNC | SYNC]",
     "Deletes every key of the project at once", verb_flushdb, LEAF},
    {"get", 2, VERB_READONLY | VERB_FAST, 1, 1, 1, STRING, "key", "Value of a key", verb_get, LEAF},
    {"getdel", 2, VERB_WRITE | VERB_FAST, 1, 1, 1, STRING, "key",
     "Deletes a key and answers its value", verb_getdel, LEAF},
    {"getex", -2, VERB_WRITE | VERB_FAST, 1, 1, 1, STRING,
     "key [EX seconds | PX milliseconds | EXAT unix-seconds | PXAT unix-milliseconds | PERSIST]",
     "Value of a key, whose expiry changes", verb_getex, LEAF},
    {"getrange", 4, VERB_READONLY, 1, 1, 1, STRING, "key start end", "Part of a value",
     verb_getrange, LEAF},
    {"getset", 3, VERB_WRITE | VERB_FAST, 1, 1, 1, STRING, "key value",
     "Sets a key's value and answers the old one", verb_getset, LEAF},
    {"getver", 2, VERB_READONLY | VERB_FAST, 1, 1, 1, STRING, "key",
     "Value of a key and its version", verb_getver, LEAF},
    {"hello", -1, VERB_FAST | VERB_NO_AUTH, NO_KEYS, CONNECTION,
     "[protover [AUTH project token] [SETNAME name]]", "Greets, and picks RESP 2 or 3", verb_hello,
     LEAF},
    {"incr", 2, VERB_WRITE | VERB_FAST, 1, 1, 1, STRING, "key", "Adds 1 to a number", verb_incr,
     LEAF},
    {"incrby", 3, VERB_WRITE | VERB_FAST, 1, 1, 1, STRING, "key increment", "Adds to a number",
     verb_incrby, LEAF},
    {"incrbyfloat", 3, VERB_WRITE | VERB_FAST, 1, 1, 1, STRING, "key increment",
     "Adds to a number that may have a fraction", verb_incrbyfloat, LEAF},
    {"info", -1, 0, NO_KEYS, SERVER, "[section ...]", "State of this node", verb_info, LEAF},
    {"keys", 2, VERB_READONLY | VERB_QUEUED, NO_KEYS, GENERIC, "pattern",
     "Keys that match a pattern", verb_keys, LEAF},
    {"memory", -2, VERB_READONLY | VERB_QUEUED, NO_KEYS, SERVER, "subcommand", "About memory", NULL,
     memory_verbs, COUNT(memory_verbs)},
    {"mget", -2, VERB_READONLY | VERB_FAST, 1, -1, 1, STRING, "key [key ...]", "Values of keys",
     verb_mget, LEAF},
    {"mset", -3, VERB_WRITE, 1, -1, 2, STRING, "key value [key value ...]",
     "Sets several keys at once", verb_mset, LEAF},
    {"msetnx", -3, VERB_WRITE, 1, -1, 2, STRING, "key value [key value ...]",
     "Sets several keys if none exists", verb_msetnx, LEAF},
    {"multi", 1, VERB_FAST | VERB_CONTROL, NO_KEYS, TRANSACTIONS, "",
     "Queues the commands that follow, for EXEC", verb_multi, LEAF},
    {"object", -2, VERB_READONLY | VERB_QUEUED, NO_KEYS, GENERIC, "subcommand", "About keys", NULL,
     object_verbs, COUNT(object_verbs)},
    {"once", -2, VERB_WRITE | VERB_CONTROL, NO_KEYS, SERVER,
     "OPEN [TTL milliseconds] | CLOSE session | session number [DONE number] command [arg ...]",
     "Carries out a write exactly once, however often it is sent", verb_once, LEAF},
    {"persist", 2, VERB_WRITE | VERB_FAST, 1, 1, 1, GENERIC, "key", "Removes a key's expiry",
     verb_persist, LEAF},
    {"pexpire", -3, VERB_WRITE | VERB_FAST, 1, 1, 1, GENERIC,
     "key milliseconds [NX | XX | GT | LT]", "Sets when a key expires, from now", verb_pexpire,
     LEAF},
    {"pexpireat", -3, VERB_WRITE | VERB_FAST, 1, 1, 1, GENERIC,
     "key unix-milliseconds [NX | XX | GT | LT]", "Sets when a key expires", verb_pexpireat, LEAF},
    {"pexpiretime", 2, VERB_READONLY | VERB_FAST, 1, 1, 1, GENERIC, "key",
     "When a key expires, Unix time in milliseconds", verb_pexpiretime, LEAF},
    {"ping", -1, VERB_FAST | VERB_QUEUED | VERB_SUBSCRIBED, NO_KEYS, CONNECTION, "[message]",
     "Answers PONG or the message", verb_ping, LEAF},
    {"project", -2, 0, NO_KEYS, SERVER, "subcommand", "About projects", NULL, project_verbs,
     COUNT(project_verbs)},
    {"psetex", 4, VERB_WRITE, 1, 1, 1, STRING, "key milliseconds value",
     "Sets a key's value and expiry", verb_psetex, LEAF},
    {"psubscribe", -2, VERB_SETTLED | VERB_SUBSCRIBED, NO_KEYS, PUBSUB, "pattern [pattern ...]",
     "Subscribes to the channels that match", verb_psubscribe, LEAF},
    {"pttl", 2, VERB_READONLY | VERB_FAST, 1, 1, 1, GENERIC, "key",
     "Milliseconds until a key expires", verb_pttl, LEAF},
    {"punsubscribe", -1, VERB_SETTLED | VERB_SUBSCRIBED, NO_KEYS, PUBSUB, "[pattern ...]",
     "Ends subscriptions to patterns, to all of them without a name", verb_punsubscribe, LEAF},
    {"quit", -1, VERB_FAST | VERB_NO_AUTH | VERB_CONTROL | VERB_SUBSCRIBED, NO_KEYS, CONNECTION, "",
     "Closes the connection", verb_quit, LEAF},
    {"randomkey", 1, VERB_READONLY | VERB_QUEUED, NO_KEYS, GENERIC, "", "Some key of the project",
     verb_randomkey, LEAF},
    {"readonly", 1, VERB_FAST | VERB_SETTLED, NO_KEYS, CONNECTION, "",
     "The same as CONSISTENCY EVENTUAL", verb_readonly, LEAF},
    {"readwrite", 1, VERB_FAST | VERB_SETTLED, NO_KEYS, CONNECTION, "",
     "The same as CONSISTENCY LINEARIZABLE", verb_readwrite, LEAF},
    {"rename", 3, VERB_WRITE, 1, 2, 1, GENERIC, "key newkey", "Renames a key", verb_rename, LEAF},
    {"renamenx", 3, VERB_WRITE | VERB_FAST, 1, 2, 1, GENERIC, "key newkey",
     "Renames a key if the new name is free", verb_renamenx, LEAF},
    {"reset", 1, VERB_FAST | VERB_NO_AUTH | VERB_SETTLED | VERB_CONTROL | VERB_SUBSCRIBED, NO_KEYS,
     CONNECTION, "", "Makes this connection as it was when it began", verb_reset, LEAF},
    {"scan", -2, VERB_READONLY | VERB_QUEUED, NO_KEYS, GENERIC,
     "cursor [MATCH pattern] [COUNT count] [TYPE type]", "Walks through the keys", verb_scan, LEAF},
    {"select", 2, VERB_FAST | VERB_QUEUED, NO_KEYS, CONNECTION, "index",
     "Accepts database 0, the only one", verb_select, LEAF},
    {"set", -3, VERB_WRITE, 1, 1, 1, STRING,
     "key value [NX | XX] [GET] [EX seconds | PX milliseconds | EXAT unix-seconds | "
     "PXAT unix-milliseconds | KEEPTTL] [IFEQ value | IFVER version]",
     "Sets a key's value", verb_set, LEAF},
    {"setex", 4, VERB_WRITE, 1, 1, 1, STRING, "key seconds value", "Sets a key's value and expiry",
     verb_setex, LEAF},
    {"setnx", 3, VERB_WRITE | VERB_FAST, 1, 1, 1, STRING, "key value",
     "Sets a key's value if the key is missing", verb_setnx, LEAF},
    {"setrange", 4, VERB_WRITE, 1, 1, 1, STRING, "key offset value", "Overwrites part of a value",
     verb_setrange, LEAF},
    {"strlen", 2, VERB_READONLY | VERB_FAST, 1, 1, 1, STRING, "key", "Bytes of a value",
     verb_strlen, LEAF},
    {"subscribe", -2, VERB_SETTLED | VERB_SUBSCRIBED, NO_KEYS, PUBSUB, "channel [channel ...]",
     "Subscribes to channels, such as __keyspace@0__:key", verb_subscribe, LEAF},
    {"substr", 4, VERB_READONLY, 1, 1, 1, STRING, "key start end", "The same as GETRANGE",
     verb_getrange, LEAF},
    {"token", 1, VERB_FAST | VERB_SETTLED, NO_KEYS, CONNECTION, "",
     "What this connection has seen of its project's shard, for CONSISTENCY SESSION elsewhere",
     verb_token, LEAF},
    {"touch", -2, VERB_READONLY | VERB_FAST, 1, -1, 1, GENERIC, "key [key ...]",
     "How many of the keys exist", verb_exists, LEAF},
    {"ttl", 2, VERB_READONLY | VERB_FAST, 1, 1, 1, GENERIC, "key", "Seconds until a key expires",
     verb_ttl, LEAF},
    {"type", 2, VERB_READONLY | VERB_FAST, 1, 1, 1, GENERIC, "key",
     "\"string\", or \"none\" when the key is missing", verb_type, LEAF},
    {"unlink", -2, VERB_WRITE, 1, -1, 1, GENERIC, "key [key ...]", "The same as DEL", verb_del,
     LEAF},
    {"unsubscribe", -1, VERB_SETTLED | VERB_SUBSCRIBED, NO_KEYS, PUBSUB, "[channel ...]",
     "Ends subscriptions to channels, to all of them without a name", verb_unsubscribe, LEAF},
    {"unwatch", 1, VERB_FAST | VERB_QUEUED, NO_KEYS, TRANSACTIONS, "", "Forgets the watched keys",
     verb_unwatch, LEAF},
    {"unwatchkeys", 1, VERB_SETTLED | VERB_SUBSCRIBED, NO_KEYS, PUBSUB, "",
     "Ends WATCHKEYS; tells the index to resume from", verb_unwatchkeys, LEAF},
    {"watch", -2, VERB_READONLY | VERB_FAST | VERB_CONTROL, 1, -1, 1, TRANSACTIONS, "key [key ...]",
     "EXEC answers nil if one of the keys changes before", verb_watch, LEAF},
    {"watchkeys", -2, VERB_SETTLED | VERB_SUBSCRIBED, NO_KEYS, PUBSUB, "prefix [FROM index]",
     "Follows what happens to the keys with a prefix", verb_watchkeys, LEAF},
    {"watchver", -3, VERB_READONLY | VERB_FAST | VERB_CONTROL, 1, -1, 2, TRANSACTIONS,
     "key version [key version ...]", "EXEC answers nil if a key has another version",
     verb_watchver, LEAF},
};

const struct verb *verb_table(unsigned *count) {
    *count = COUNT(verbs);
    return verbs;
}

static int compare_nocase(struct slice name, const char *other) {
    for (size_t i = 0; i < name.size; i++) {
        int c = name.data[i];
        c = c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c;
        int difference = c - (unsigned char)other[i];
        /* A name may hold a NUL: never look behind the one that ends `other`. */
        if (difference != 0 || other[i] == '\0') {
            return difference != 0 ? difference : 1;
        }
    }
    return other[name.size] == '\0' ? 0 : -1;
}

const struct verb *verb_find(struct slice name) {
    size_t low = 0, high = COUNT(verbs);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = compare_nocase(name, verbs[middle].name);
        if (order == 0) {
            return &verbs[middle];
        }
        if (order < 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return NULL;
}

const struct verb *verb_find_subcommand(const struct verb *container, struct slice name) {
    for (unsigned i = 0; i < container->n_subcommands; i++) {
        if (slice_equal_nocase(name, container->subcommands[i].name)) {
            return &container->subcommands[i];
        }
    }
    return NULL;
}

bool verb_accepts(const struct verb *verb, unsigned argc) {
    return verb->arity >= 0 ? argc == (unsigned)verb->arity : argc >= (unsigned)-verb->arity;
}

const struct verb *verb_leaf(const struct verb *verb, unsigned argc, const struct slice *argv) {
    if (verb == NULL || verb->subcommands == NULL || argc < 2) {
        return verb;
    }
    const struct verb *subcommand = verb_find_subcommand(verb, argv[1]);
    return subcommand != NULL ? subcommand : verb;
}

static void refuse_unknown(struct call *call) {
    enum { SHOWN = 128 };
    /* Like Redis: the arguments until 128 bytes are shown, the last of them cut. */
    char args[2 * SHOWN];
    size_t size = 0;
    args[0] = '\0';
    for (unsigned i = 1; i < call->argc && size < SHOWN; i++) {
        struct slice arg = call->argv[i];
        size_t shown = arg.size < SHOWN - size ? arg.size : SHOWN - size;
        size += (size_t)snprintf(args + size, sizeof args - size, "'%.*s' ", (int)shown,
                                 shown > 0 ? (const char *)arg.data : "");
    }
    struct slice name = call->argv[0];
    call_error(call, "ERR", "unknown command '%.*s', with args beginning with: %s",
               (int)(name.size < SHOWN ? name.size : SHOWN),
               name.size > 0 ? (const char *)name.data : "", args);
}

static void refuse_subcommand(struct call *call, const struct verb *container) {
    struct slice name = call->argv[1];
    char upper[32];
    size_t i = 0;
    for (; i < sizeof upper - 1 && container->name[i] != '\0'; i++) {
        upper[i] = (char)(container->name[i] - ('a' - 'A'));
    }
    upper[i] = '\0';
    call_error(call, "ERR", "unknown subcommand '%.*s'. Try %s HELP.",
               (int)(name.size < 128 ? name.size : 128),
               name.size > 0 ? (const char *)name.data : "", upper);
}

static bool check_permission(struct call *call, const struct verb *container,
                             const struct verb *verb) {
    switch (permission_of(call->session->access.role, verb->flags)) {
    case PERMISSION_GIVEN:
        return true;
    case PERMISSION_NOAUTH:
        call_error(call, "NOAUTH", "authentication required: AUTH project token");
        return false;
    case PERMISSION_NOPERM:
        break;
    }
    call_error(call, "NOPERM", "this connection may not give the command '%s%s%s'",
               container != NULL ? container->name : "", container != NULL ? "|" : "", verb->name);
    return false;
}

/* A RESP2 client with subscriptions could not tell a reply from a push. */
static bool refuse_while_subscribed(struct call *call, const struct verb *verb) {
    if (call_version(call) >= 3 || (verb->flags & VERB_SUBSCRIBED) != 0 ||
        !subscriptions_exist(call->session)) {
        return false;
    }
    call_error(call, "ERR",
               "Can't execute '%s': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET "
               "are allowed in this context",
               verb->name);
    return true;
}

const struct verb *verb_resolve(struct call *call, const struct verb *verb) {
    call->verb = verb;
    if (verb == NULL) {
        refuse_unknown(call);
        return NULL;
    }
    if (!verb_accepts(verb, call->argc)) {
        call_error(call, "ERR", "wrong number of arguments for '%s' command", verb->name);
        return NULL;
    }
    if (refuse_while_subscribed(call, verb)) {
        return NULL;
    }
    if (verb->subcommands == NULL || call->argc == 1) {
        return check_permission(call, NULL, verb) ? verb : NULL;
    }
    const struct verb *subcommand = verb_find_subcommand(verb, call->argv[1]);
    if (subcommand == NULL) {
        refuse_subcommand(call, verb);
        return NULL;
    }
    if (!verb_accepts(subcommand, call->argc)) {
        call_error(call, "ERR", "wrong number of arguments for '%s|%s' command", verb->name,
                   subcommand->name);
        return NULL;
    }
    call->verb = subcommand;
    return check_permission(call, verb, subcommand) ? subcommand : NULL;
}

void verb_run(struct call *call, const struct verb *verb) {
    const struct verb *leaf = verb_resolve(call, verb);
    if (leaf != NULL && session_limits_admit(call, leaf)) {
        leaf->handler(call);
    }
}

void call_syntax_error(struct call *call) {
    call_error(call, "ERR", "syntax error");
}

void call_submit_args(struct call *call, enum command_kind kind, unsigned first) {
    ASSERT(first <= call->argc);
    struct command command = {.kind = kind};
    call_submit(call, &command, call->argv + first, call->argc - first);
}

bool call_check_keys(struct call *call, unsigned first, unsigned end) {
    ASSERT(first < end && end <= call->argc);
    for (unsigned i = first; i < end; i++) {
        size_t size = call->argv[i].size;
        if (size < 1 || size > LIMIT_KEY_SIZE) {
            call_error(call, "TOOBIG", "key of %zu bytes is outside the limits of 1 to %d bytes",
                       size, LIMIT_KEY_SIZE);
            return false;
        }
    }
    return true;
}
