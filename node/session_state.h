/* A session's state, for session.c and the command handlers (commands_*.c) only. */
#ifndef NODE_SESSION_STATE_H
#define NODE_SESSION_STATE_H

#include "base/limits.h"
#include "base/resp.h"
#include "node/op.h"
#include "node/session.h"
#include "node/session_access.h"
#include "node/transaction.h"

struct call;
struct slot;
struct subscriptions;
struct verb;

struct session {
    struct list_node link; /* in host->sessions */
    struct session_host *host;
    void (*wake)(void *data);
    void *wake_data;

    /* What commands show and change. */
    uint64_t id;
    char peer[SESSION_ADDRESS_SIZE];
    char local[SESSION_ADDRESS_SIZE];
    int version; /* RESP 2 or 3 */
    struct session_access access;
    uint64_t project_key; /* for which it counts in host->projects, 0: none */
    char name[SESSION_CLIENT_NAME + 1];
    uint64_t since_ms;
    uint64_t reset_ms;  /* when it was as a connection begins */
    uint64_t active_ms; /* of the last command */
    uint64_t commands;
    const struct verb *last_verb;
    bool closing;        /* takes no further commands; finished once all is answered and sent */
    const char *dropped; /* finished at once, for this reason */
    struct subscriptions *subscriptions; /* NULL before the first one */

    /* What reads of this connection ask for; see docs/consistency.md. */
    enum read_level level;
    uint64_t max_stale_ms; /* READ_EVENTUAL: 0: any age will do */
    uint64_t *seen;        /* per shard: highest log index that was written or read */

    bool redirect; /* what only the leader can do is answered with -MOVED elsewhere */
    struct transaction transaction; /* MULTI and WATCH */

    /* Input. */
    struct resp_parser *parser;
    struct resp_command pending; /* parsed, not yet carried out, when has_pending */
    const struct verb *pending_verb;
    const struct verb *pending_leaf; /* the same, or its subcommand that is named */
    uint64_t pending_us;             /* when the pending command was found */
    bool has_pending;
    bool input_ended;
    bool running;        /* inside session_run() ... */
    uint64_t run_us;     /* ... which began then, the newest if it is over */
    size_t input_memory; /* counted in host->input_bytes */

    /* Operations under way. */
    struct list_node slots; /* replies not yet in `output`, in order of the commands */
    unsigned reads;
    unsigned writes;
    unsigned read_window; /* reads that may be under way */
    size_t op_bytes;      /* of the operations under way */
    bool blocked;         /* by a step that must be done before the next command; see call_step */
    struct slot *again;   /* whose step goes on with another operation */

    /* Replies. */
    struct output output;
    size_t unsent;        /* in `output` and at the shell */
    size_t queued;        /* in slots */
    size_t reply_bytes;   /* of these two, as counted in the host's sum */
    struct buffer *reply; /* where the current command writes, NULL before it did */
    size_t reply_start;
    bool answered;       /* the current command has replied or submitted */
    struct buffer *push; /* where a push is being written, else NULL */
    size_t push_start;
};

/* What a client can change is as it was when the connection began; subscriptions apart. */
void session_set_defaults(struct session *session);

/* Where a push is to be appended, whole, before session_end_push(). Not while a command is being
 * carried out. */
struct buffer *session_begin_push(struct session *session);
void session_end_push(struct session *session);
/* Finishes the session at once; `reason` must stay valid. */
void session_drop(struct session *session, const char *reason);

/* The encoded header of a command without its project has at most as many bytes. */
enum { CALL_HEADER_SIZE = 64 };

/* A command on its way out, with what is not the same for all. */
struct submission {
    const struct command *command; /* kind, flags and expiry */
    const struct slice *args;
    unsigned n_args;
    enum read_level level;
    /* EXEC: the result is rendered as the plan says, which is taken. */
    bool is_exec;
    struct transaction_plan plan;
    /* Sees the result before the client and may change it; not called when the connection has gone.
     * May be NULL. */
    void (*settle)(struct session *session, uint32_t number, struct result *result);
    uint32_t settle_number;
};

/* As call_submit(), but never queued or redirected. Behind ONCE only what may stand there. */
void call_submit_as(struct call *call, struct submission *submission);

/* What becomes of a command between MULTI and EXEC. */
struct queueing {
    struct buffer reply; /* what the handler answers */
    bool answered;
    bool is_command; /* it is in the queue already */
    enum error_code code;
    struct error error;
};

/* commands_transaction.c */

/* Carries out a command between MULTI and EXEC. `verb` as for verb_run(). */
void transaction_run(struct call *call, const struct verb *verb);
/* The flags that say what the command has to wait for, here and now. */
unsigned transaction_flags(const struct transaction *transaction, const struct verb *verb);
/* What call_submit() does between MULTI and EXEC; the command is complete. */
void call_queue(struct call *call, const struct command *command, const struct slice *args,
                unsigned n_args);

static inline struct slice session_project(const struct session *session) {
    return slice_make(session->access.project, session->access.project_size);
}

#endif
