/* One client connection without its socket: bytes in, commands, operations, bytes out in the order
 * of the commands. Pure: the listener is its shell, tests are another.
 *
 * Order. Every command gets its reply in the place it came in, although operations complete in any
 * order. A write waits until the reads before it are finished, so that a read never sees a later
 * write; a read behind unfinished writes is marked op.after_writes, so that it sees them. Commands
 * that change the connection (AUTH, HELLO, ...) take effect where they stand; an operation belongs
 * to the project that was current then. At the session level of reads (docs/consistency.md) a read
 * waits until the writes before it are finished, since it runs elsewhere than they do; an eventual
 * read need not see them. What stands between MULTI and EXEC is submitted by EXEC, as one write or
 * one read (node/transaction.h); a read behind a WATCH waits for it. What changes the level or asks
 * for a token waits for all operations.
 * Behind AUTH, where that asks a shard, everything waits for its answer.
 *
 * Pushes of subscriptions (node/subscriptions.h) stand between replies, never inside one.
 *
 * Bounds. A session takes no further command while max_pipeline operations are under way, too many
 * bytes of them are, or max_output bytes of replies are not yet sent; then it stops wanting input,
 * and TCP makes the client wait.
 *
 * Turns. In one turn of the loop a session begins a few commands only and leaves the rest of its
 * pipeline for the next turn, so that a client that sends thousands at once makes others wait for
 * milliseconds at most.
 *
 * Threads: the loop thread. */
#ifndef NODE_SESSION_H
#define NODE_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/list.h"
#include "node/bounds.h"
#include "node/memory_ceiling.h"
#include "node/output.h"

struct credentials;
struct feed;
struct logins;
struct op;
struct project_limits;
struct requests;
struct server_info;
struct session;

enum {
    SESSION_OUTPUT_DEFAULT = 8 * 1024 * 1024, /* max_output */
    SESSION_OP_BYTES = 8 * 1024 * 1024,       /* bytes of operations under way, plus one */
    SESSION_RUN = 32,                         /* commands that a session begins at a time ... */
    SESSION_RUN_BUSY = 2,     /* ... once all of the node's sessions have begun ... */
    SESSION_TURN_ALL = 128,   /* ... this many in the same turn of the loop */
    SESSION_READ_WINDOW = 16, /* reads under way at first; see session.c */
    SESSION_READ_WINDOW_MAX = 128,
    SESSION_LARGE_REPLY = 64 * 1024,    /* a reply that narrows the window */
    SESSION_MODEST_REPLIES = 64 * 1024, /* a client with less to take is no burden */
    SESSION_INPUT_SLACK = 64 * 1024,    /* input that a session may always hold, bytes */
    /* All arguments of a command together may have max_value and this many bytes. */
    SESSION_REQUEST_SLACK = 512 * 1024,
    SESSION_CLIENT_NAME = 128, /* bytes of a name given by CLIENT SETNAME */
    SESSION_ADDRESS_SIZE = 64  /* "[IPv6]:port" and NUL */
};

/* What operators can ask of a cluster; the numbers travel between nodes. */
enum cluster_order {
    CLUSTER_ORDER_NONE = 0,
    CLUSTER_ADD = 1,
    CLUSTER_REMOVE = 2,
    CLUSTER_REPLACE = 3,
    CLUSTER_TRANSFER = 4,
    CLUSTER_REBALANCE = 5
};

/* CLUSTER BACKUP. */
struct backup_request {
    enum { BACKUP_BEGIN, BACKUP_STATE, BACKUP_READ, BACKUP_END } kind;
    unsigned shard;  /* BEGIN */
    uint64_t ticket; /* what BEGIN answered */
    uint64_t offset; /* READ */
};

struct session_limits {
    unsigned n_shards;
    uint64_t max_value;    /* bytes */
    unsigned max_pipeline; /* operations of a session under way */
    size_t max_output;     /* bytes of unsent replies, plus one reply */
    uint64_t max_input;    /* bytes of half-received commands, all sessions together */
    bool redirect;         /* connections begin with CLUSTER REDIRECT ON */
    uint64_t slow_us;      /* operations that take as long are told to on_slow; 0: none are */
    unsigned requests_per_second; /* as in `projects` of the host, for messages */
};

/* An operation that took long. Never tells keys or values. */
struct session_slow {
    const char *command;  /* as in struct requests */
    struct slice project; /* empty when it is not known */
    unsigned shard;
    uint64_t duration_us;
    bool failed; /* it was answered with an error */
};

/* A login that was refused. Never tells what was shown. */
struct session_login {
    const char *peer;  /* where it came from */
    struct slice user; /* who was tried; empty when that may have been a secret */
    uint64_t wait_ms;  /* refused unseen: it may be tried again after so long; 0: it was wrong */
};

/* What a session needs from the node. */
struct session_port {
    void *data;
    /* Takes the op until op->done; see router_submit(). */
    void (*submit)(void *data, struct op *op);
    /* Monotonic milliseconds. */
    uint64_t (*now_ms)(void *data);
    /* Fills a zeroed *info. */
    void (*describe)(void *data, struct server_info *info);
    /* Client address of the shard's leader; false when this node leads or knows of no leader that
     * it can reach. The host stays valid until the callback's caller returns to the event loop. May
     * be NULL: nobody is redirected. */
    bool (*find_leader)(void *data, unsigned shard, const char **host, uint16_t *port);
    /* Fills in bytes that nobody can guess. */
    enum error_code (*random)(void *data, void *bytes, size_t size, struct error *error);
    /* CLUSTER ADD, REMOVE, REPLACE, TRANSFER (`shard`; node 0: any), REBALANCE; may be NULL. On
     * refusal the error tells why. */
    enum error_code (*order)(void *data, enum cluster_order order, uint64_t node, unsigned shard,
                             struct error *error);
    /* CLUSTER BACKUP: appends the RESP value, or refuses; may be NULL. */
    enum error_code (*backup)(void *data, const struct backup_request *request, struct buffer *out,
                              int version, struct error *error);
    /* CLUSTER MEMBERS: appends the RESP value; may be NULL. */
    void (*write_members)(void *data, struct buffer *out, int version);
    /* The change feed; NULL: there is none. Must outlive the sessions. */
    struct feed *feed;
    /* This node's replica of the shard has the state of one: not so before its node was added to a
     * cluster, nor while a snapshot takes its place. May be NULL: always. */
    bool (*replica_is_whole)(void *data, unsigned shard);
    /* For session_host.requests, else NULL. Microseconds of the same clock as now_ms. */
    uint64_t (*now_us)(void *data);
    /* Slices are valid during the call. */
    void (*on_slow)(void *data, const struct session_slow *slow);
    /* Only with session_host.logins. The struct is valid during the call. */
    void (*on_login_refused)(void *data, const struct session_login *login);
    /* How near memory is to its ceiling; may be NULL: there is none. */
    enum memory_level (*memory)(void *data, uint64_t *used, uint64_t *max);
    /* A bound was reached, and a line about it is due; may be NULL. `project` may be empty. */
    void (*on_bound)(void *data, enum bound bound, const char *peer, struct slice project,
                     const char *text);
};

struct session_stats {
    uint64_t connections; /* sessions made so far */
    uint64_t rejected;    /* connections refused for max_connections; counted by the shell */
    uint64_t commands;
    uint64_t errors; /* error replies */
    uint64_t bytes_in;
    uint64_t bytes_out;
    uint64_t stalled;  /* closed in the middle of a command; counted by the shell */
    uint64_t insecure; /* closed over TLS: failed handshakes, plaintext; counted by the shell */
    uint64_t bad_certificates; /* of these, clients without a good certificate; by the shell too */
};

/* What all sessions of a node share. Must outlive the sessions and their operations. */
struct session_host {
    struct session_limits limits;
    struct session_port port;
    const struct credentials *credentials; /* NULL: auth = off; set it before the first session */
    struct logins *logins; /* NULL: not bounded, not counted; set it before the first session */
    /* Where commands are counted, NULL: they are not; set it before the first session. */
    struct requests *requests;
    struct list_node sessions; /* of struct session */
    struct list_node watches;  /* for node/subscriptions.c */
    unsigned n_sessions;
    unsigned n_slots;       /* operations of live and of dead sessions that are not completed */
    unsigned turn_commands; /* begun in this turn of the loop */
    uint64_t last_id;
    uint64_t input_bytes; /* held by the parsers */
    uint64_t reply_bytes; /* replies not sent yet, of all sessions */
    struct bounds bounds;
    struct project_limits *projects; /* NULL: projects are not limited; set it before the first */
    struct session_stats stats;
};

void session_host_init(struct session_host *host, const struct session_limits *limits,
                       const struct session_port *port);

/* The next turn of the loop begins. */
void session_host_begin_turn(struct session_host *host);

/* `wake` is called, never from within another call on this session, when an operation completed:
 * there may be output, or session_resume() has work. `peer` and `local` are addresses for humans.
 */
struct session *session_new(struct session_host *host, const char *peer, const char *local,
                            void (*wake)(void *data), void *data);
/* Operations under way complete into nothing. */
void session_free(struct session *session);
uint64_t session_id(const struct session *session);
const char *session_peer(const struct session *session);

/* Where the next bytes from the socket go, see resp_parser_space(). Only while
 * session_wants_read(). */
void session_input_space(struct session *session, uint8_t **data, size_t *size);
/* `size` bytes were put there: takes the commands that are complete. */
void session_input_filled(struct session *session, size_t size);
/* The client sends no more. What it sent is carried out and answered; then the session finishes. */
void session_input_end(struct session *session);

/* False while a bound is reached or no more input is expected. */
bool session_wants_read(const struct session *session);
/* Commands or pushes that were held back can go on now. Not done by itself when an operation
 * completes, since that would submit operations from within the router. */
bool session_needs_resume(const struct session *session);
void session_resume(struct session *session);
/* A command has been received in part. */
bool session_is_mid_command(const struct session *session);
/* Commands received so far, for telling one half-received command from the next. */
uint64_t session_commands(const struct session *session);
/* Since when the client has had to authenticate and given no command to do so that is under way;
 * UINT64_MAX: it need not. Of the port's clock. */
uint64_t session_stranger_since_ms(const struct session *session);
/* When the client last gave a command, or got its answer; UINT64_MAX while it waits for something:
 * an answer, or what it is subscribed to. Of the port's clock. */
uint64_t session_idle_since_ms(const struct session *session);
/* Gives back memory that a client which is silent does not need. */
void session_rest(struct session *session);

/* What can be sent now. The shell consumes it, or moves it away (output_append), and says by
 * session_sent() how many bytes have left. */
struct output *session_output(struct session *session);
void session_sent(struct session *session, size_t size);

/* Takes no further commands; what is under way is still answered. For a node that stops. */
void session_drain(struct session *session);
/* Nothing is left to do or to send: close the connection. */
bool session_is_finished(const struct session *session);
/* Why it is finished although the client was not told everything; else NULL. */
const char *session_dropped(const struct session *session);

#endif
