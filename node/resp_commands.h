/* The commands that clients may send: one table that dispatch, COMMAND and the documentation's test
 * read, and what a handler may do.
 *
 * A command as the client names it is called a verb here; `struct command` is what the state
 * machine executes. To add one: a line in the table of resp_commands.c, a handler in the
 * commands_*.c of its family, a case in tests/unit/test_session.c. */
#ifndef NODE_RESP_COMMANDS_H
#define NODE_RESP_COMMANDS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "node/machine/command.h"

struct once_prefix;
struct queueing;
struct result;
struct session;
struct verb;

enum verb_flag {
    VERB_WRITE = 1,    /* submits writes: waits for earlier reads of the connection */
    VERB_READONLY = 2, /* submits reads */
    VERB_FAST = 4,
    VERB_ADMIN = 8,
    VERB_NO_AUTH = 16,  /* allowed before AUTH where authentication is required */
    VERB_SETTLED = 32,  /* waits for all earlier operations of the connection */
    VERB_CONTROL = 256, /* carried out at once between MULTI and EXEC, too */
    /* May be queued between MULTI and EXEC, as what has keys may. Anything else is refused there:
     * its handler must do no more than write a reply or call call_submit(). */
    VERB_QUEUED = 512,
    VERB_SUBSCRIBED = 1024, /* allowed on a RESP2 connection that has subscriptions */
    VERB_SERVICE = 2048     /* for services and administrators only; VERB_ADMIN: for the latter */
};

/* One command being carried out. A handler replies exactly once: it writes one RESP value to
 * call_reply(), or calls call_error(), or calls call_submit(). */
struct call {
    struct session *session;
    const struct verb *verb;
    unsigned argc; /* with the command's name, and that of a subcommand */
    const struct slice *argv;
    const struct once_prefix *once; /* the command stands behind ONCE; handlers need not care */
    struct queueing *queueing;      /* between MULTI and EXEC, else NULL; handlers need not care */
};

struct verb {
    const char *name; /* lower case; of a subcommand without its container's name */
    int arity;        /* as Redis counts: with the name; negative: at least */
    unsigned flags;   /* enum verb_flag */
    int first_key;    /* positions in argv, 0 without keys; last_key may count from the end (-1) */
    int last_key;
    int key_step;
    const char *group; /* connection, generic, pubsub, server, string */
    const char *since; /* release of invoke-kv */
    const char *syntax;
    const char *summary;
    void (*handler)(struct call *call); /* of a container: when it comes without a subcommand */
    const struct verb *subcommands;     /* NULL, or n_subcommands in any order */
    unsigned n_subcommands;
};

/* The whole table, sorted by name. */
const struct verb *verb_table(unsigned *count);
/* Any case of letters; NULL when there is no such command. */
const struct verb *verb_find(struct slice name);
const struct verb *verb_find_subcommand(const struct verb *container, struct slice name);
/* Whether `argc` words satisfy the verb's arity. */
bool verb_accepts(const struct verb *verb, unsigned argc);

/* The verb's subcommand that is named, the verb itself without one. NULL for NULL. */
const struct verb *verb_leaf(const struct verb *verb, unsigned argc, const struct slice *argv);

/* Checks name, arity and permission of call->argv, finds the subcommand and calls its handler, or
 * answers with Redis's error. `verb` is verb_find(argv[0]). */
void verb_run(struct call *call, const struct verb *verb);
/* The same without calling it: the verb whose handler is to be called, NULL after an error. */
const struct verb *verb_resolve(struct call *call, const struct verb *verb);

/* For handlers. */

/* The buffer to append the reply to. Valid until the handler returns. */
struct buffer *call_reply(struct call *call);
int call_version(const struct call *call);
void call_error(struct call *call, const char *prefix, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void call_ok(struct call *call);
/* "ERR syntax error" */
void call_syntax_error(struct call *call);
/* Submits the command for the session's project; its result becomes the reply. `command` needs
 * kind, flags and expiry only. The arguments are copied. */
void call_submit(struct call *call, const struct command *command, const struct slice *args,
                 unsigned n_args);
/* Sends a command without options, such as COMMAND_GET, with argv from `first` on. */
void call_submit_args(struct call *call, enum command_kind kind, unsigned first);

/* An operation whose result has to be worked on before it is a reply, or that is for another
 * project than the connection's. Made by mem_zalloc(), often as the head of something larger; the
 * session frees it, also when the connection goes first. */
struct call_step {
    /* Called when the operation is done, while the connection is there. True: the RESP value in the
     * empty `out` is the reply; false: the result itself is. When it prepares another command and
     * sets `again`, that one is submitted next, and neither counts; only for a step that blocks. */
    bool (*done)(struct call_step *step, struct session *session, const struct result *result,
                 struct buffer *out);
    void (*release)(struct call_step *step); /* frees what else it holds; may be NULL */
    bool blocks;                             /* the session takes no command until it is done */
    bool again;

    /* By call_step_prepare(). */
    struct buffer command;
    unsigned shard;
    bool is_write;
};

/* `command` is complete: with project and token. A command without a project needs `shard` set
 * afterwards. */
void call_step_prepare(struct call_step *step, const struct session *session,
                       const struct command *command, const struct slice *args, unsigned n_args);
/* Always at the linearizable level, and never answered with -MOVED. */
void call_submit_step(struct call *call, struct call_step *step);

/* Answers -TOOBIG and returns false when a key among argv[first..argc) is empty or too large. */
bool call_check_keys(struct call *call, unsigned first, unsigned end);

/* For call_submit(): where the connection wants to be sent to the leader (CLUSTER REDIRECT) and
 * another node leads, answers -MOVED and returns true. */
bool call_redirect(struct call *call, bool needs_leader);

/* The option that an expiry came with. */
struct expiry_option {
    const char *name;
    enum command_expiry mode;
    int64_t unit_ms;
};
/* EX, PX, EXAT or PXAT; NULL when the word is none of them. */
const struct expiry_option *expiry_option_find(struct slice word);
/* Fills the command's expiry, or answers with an error and returns false. */
bool call_parse_expiry(struct call *call, const struct expiry_option *option, struct slice text,
                       struct command *command);

/* For call_submit(): a command behind ONCE. The first answers with an error and returns false
 * unless it is a write; the other encodes it within a COMMAND_ONCE. `command` is complete. */
bool call_once_accepts(struct call *call, enum command_kind kind);
void call_once_encode(const struct call *call, struct buffer *out, const struct command *command,
                      const struct slice *args, unsigned n_args);

/* Handlers, by file. */

/* commands_cluster.c */
void verb_asking(struct call *call);
void verb_cluster_info(struct call *call);
void verb_cluster_keyslot(struct call *call);
void verb_cluster_myid(struct call *call);
void verb_cluster_nodes(struct call *call);
void verb_cluster_redirect(struct call *call);
void verb_cluster_replace(struct call *call);
void verb_cluster_add(struct call *call);
void verb_cluster_remove(struct call *call);
void verb_cluster_rebalance(struct call *call);
void verb_cluster_transfer(struct call *call);
void verb_cluster_members(struct call *call);
void verb_cluster_backup(struct call *call);
void verb_cluster_shards(struct call *call);
void verb_cluster_slots(struct call *call);
void verb_cluster_topology(struct call *call);
/* commands_auth.c */
void verb_auth(struct call *call);
/* commands_connection.c */
void verb_client_getname(struct call *call);
void verb_client_id(struct call *call);
void verb_client_info(struct call *call);
void verb_client_list(struct call *call);
void verb_client_no_evict(struct call *call);
void verb_client_setinfo(struct call *call);
void verb_client_setname(struct call *call);
void verb_echo(struct call *call);
void verb_hello(struct call *call);
void verb_ping(struct call *call);
void verb_quit(struct call *call);
void verb_reset(struct call *call);
void verb_select(struct call *call);
/* commands_consistency.c */
void verb_consistency(struct call *call);
void verb_readonly(struct call *call);
void verb_readwrite(struct call *call);
void verb_token(struct call *call);
/* commands_expiry.c */
void verb_expire(struct call *call);
void verb_expireat(struct call *call);
void verb_expiretime(struct call *call);
void verb_persist(struct call *call);
void verb_pexpire(struct call *call);
void verb_pexpireat(struct call *call);
void verb_pexpiretime(struct call *call);
void verb_pttl(struct call *call);
void verb_ttl(struct call *call);
/* commands_feed.c */
void verb_psubscribe(struct call *call);
void verb_punsubscribe(struct call *call);
void verb_subscribe(struct call *call);
void verb_unsubscribe(struct call *call);
void verb_unwatchkeys(struct call *call);
void verb_watchkeys(struct call *call);
/* commands_keys.c */
void verb_copy(struct call *call);
void verb_dbsize(struct call *call);
void verb_del(struct call *call);
void verb_exists(struct call *call);
void verb_flushdb(struct call *call);
void verb_keys(struct call *call);
void verb_memory_usage(struct call *call);
void verb_object_encoding(struct call *call);
void verb_object_freq(struct call *call);
void verb_object_idletime(struct call *call);
void verb_object_refcount(struct call *call);
void verb_randomkey(struct call *call);
void verb_rename(struct call *call);
void verb_renamenx(struct call *call);
void verb_scan(struct call *call);
void verb_type(struct call *call);
/* commands_once.c */
void verb_once(struct call *call);
/* commands_projects.c */
void verb_project_create(struct call *call);
void verb_project_delete(struct call *call);
void verb_project_info(struct call *call);
void verb_project_list(struct call *call);
void verb_project_set_quota(struct call *call);
void verb_project_token(struct call *call);
void verb_project_use(struct call *call);
/* commands_strings.c */
void verb_append(struct call *call);
void verb_decr(struct call *call);
void verb_decrby(struct call *call);
void verb_delex(struct call *call);
void verb_get(struct call *call);
void verb_getdel(struct call *call);
void verb_getex(struct call *call);
void verb_getrange(struct call *call);
void verb_getset(struct call *call);
void verb_getver(struct call *call);
void verb_incr(struct call *call);
void verb_incrby(struct call *call);
void verb_incrbyfloat(struct call *call);
void verb_mget(struct call *call);
void verb_mset(struct call *call);
void verb_msetnx(struct call *call);
void verb_psetex(struct call *call);
void verb_set(struct call *call);
void verb_setex(struct call *call);
void verb_setnx(struct call *call);
void verb_setrange(struct call *call);
void verb_strlen(struct call *call);
/* commands_transaction.c */
void verb_discard(struct call *call);
void verb_exec(struct call *call);
void verb_multi(struct call *call);
void verb_unwatch(struct call *call);
void verb_watch(struct call *call);
void verb_watchver(struct call *call);
/* commands_server.c */
void verb_command(struct call *call);
void verb_command_count(struct call *call);
void verb_command_docs(struct call *call);
void verb_command_info(struct call *call);
void verb_command_list(struct call *call);
void verb_config_get(struct call *call);
void verb_config_resetstat(struct call *call);
void verb_config_set(struct call *call);
void verb_help(struct call *call); /* HELP of any container */
void verb_info(struct call *call);

#endif
