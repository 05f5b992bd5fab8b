/* One connection to a node: greeting, authorisation of projects, the pipeline.
 *
 * Requests stand in `pending` until their bytes are put into the output, then in the ring until
 * their replies come. Between them the connection puts what changes its state: PROJECT USE when the
 * next request is of another project, CLUSTER REDIRECT, CONSISTENCY. A project that the connection
 * has not authorised yet is never assumed to be: its requests wait for the answer to AUTH or
 * PROJECT USE, since were that refused, the commands behind it would hit the project that was in
 * use before. */
#ifndef CLIENT_CONNECTION_H
#define CLIENT_CONNECTION_H

#include "client/src/client.h"
#include "client/src/text.h"
#include "client/src/value.h"

enum connection_state {
    CONNECTION_RESOLVING,
    CONNECTION_CONNECTING,
    CONNECTION_TLS,
    CONNECTION_GREETING,
    CONNECTION_READY,
    CONNECTION_CLOSED
};

enum entry_kind {
    ENTRY_REQUEST,
    ENTRY_GREETING, /* must succeed */
    ENTRY_PING,     /* ends the greeting, whatever it says */
    ENTRY_AUTHORISE,
    ENTRY_USE,     /* must succeed: it is sure to */
    ENTRY_SETTING, /* without it the answers are as good, only slower */
    ENTRY_PRIME    /* a read that raises what the session has seen */
};

/* An answer that the node owes. */
struct entry {
    enum entry_kind kind;
    uint32_t replies;        /* still to come */
    uint64_t start;          /* where its bytes begin in all that was written */
    struct request *request; /* ENTRY_REQUEST; NULL: nobody waits any more */
    uint64_t subject;        /* ENTRY_AUTHORISE: name; ENTRY_PRIME: shard */
};

/* Which identity is authorised for a name: the last one of that name that was. The node knows a
 * token for each name, so two identities of one name take turns. */
struct identity_slot {
    uint64_t name; /* 0: free */
    uint64_t identity;
};

struct identity_map {
    struct identity_slot *slots;
    size_t count;
    size_t capacity; /* a power of two, or 0 */
};

struct connection {
    struct list_node link;       /* client->connections or client->graveyard */
    struct list_node dirty_link; /* client->dirty */
    ikv_client *client;
    struct node *node;
    enum lane lane;
    struct ikv_watch *watch; /* NULL, or whose it is */
    enum connection_state state;
    int fd;
    bool wants_output; /* epoll tells when the socket takes more */
    unsigned addresses_left;
    struct timer timer; /* the greeting's deadline, later the health check */
    struct tls *tls;    /* NULL: plain */
    struct text cipher; /* what TLS has made of the output, from cipher_offset on not yet sent */
    size_t cipher_offset;

    redisReader *reader;
    struct value_builder builder;
    uint64_t heard_at_ms;
    uint64_t owing_since_ms; /* the ring has not been empty since */

    /* Output: first `out`, then `large`. */
    struct text out;
    size_t out_offset;
    const char *large;
    size_t large_size;
    struct request *large_request; /* whose body it is */
    char *large_memory;            /* the body of one that is over */
    uint64_t written;              /* bytes put into the output ever */
    uint64_t sent;                 /* bytes that have left */

    struct list_node pending;
    struct entry *ring; /* capacity is a power of two */
    size_t ring_capacity;
    uint64_t ring_head; /* number of the oldest entry */
    uint64_t ring_tail; /* number of the next one */
    char *queue_error;  /* first refusal within the transaction that is being answered */

    /* State of the connection as of what is in the output. */
    uint64_t current;       /* identity in use, 0: unknown */
    uint64_t newest_switch; /* identity of the newest AUTH or USE */
    struct identity_map authorised;
    struct identity_map authorising; /* AUTH or PROJECT USE is under way for the name */
    struct list_node unauthorised;   /* requests that wait for that */
    bool used_token;                 /* AUTH with a project's token was sent */
    bool open_to_all;                /* a project without a token was taken: then every one is */
    bool no_use;                     /* the server has no PROJECT USE */
    int redirect;                    /* asked for: 1 or 0; -1: as the node has it configured */
    bool level_set;
    uint32_t max_stale_ms;
    bool needs_priming;
    uint64_t primed; /* shards, one bit each */
    uint64_t priming;
    struct list_node unprimed; /* requests that wait for that */
};

/* The connection of a node's lane, begun if need be; NULL without memory or descriptors, which has
 * been noted. */
struct connection *connection_get(struct node *node, enum lane lane);
/* One for a watch. */
struct connection *connection_new_watch(struct node *node, struct ikv_watch *watch);
/* Queues a request. */
void connection_push(struct connection *connection, struct request *request);
/* Ends it: its requests go on elsewhere. It is freed at the end of the iteration. */
void connection_fail(struct connection *connection, int error, const char *text);
/* Ends it without anybody's fault, when it is of no more use. */
void connection_drop(struct connection *connection);
/* Resolution of the node's name has ended. */
void connection_resolved(struct connection *connection);
/* An event of epoll. */
void connection_event(struct connection *connection, uint32_t events);
/* Writes what can be written. */
void connection_flush(struct connection *connection);
void connection_mark_dirty(struct connection *connection);
void connection_free(struct connection *connection);

const char *connection_node_name(const struct connection *connection);
/* Whether bytes of a request in the ring may have left this process. */
bool connection_has_sent(const struct request *request);
/* Nobody waits for a request in the ring any more. */
void connection_orphan(struct request *request);
/* The project was refused: authorise it again next time. */
void connection_forget_identity(struct connection *connection, const struct request *request);
/* Puts a command into the output of a watch's connection. */
bool connection_put_command(struct connection *connection, size_t argc, const ikv_bytes *argv);

/* 0: none. */
uint64_t identity_map_get(const struct identity_map *map, uint64_t name);
/* False without memory. */
bool identity_map_put(struct identity_map *map, uint64_t name, uint64_t identity);
void identity_map_remove(struct identity_map *map, uint64_t name);
void identity_map_free(struct identity_map *map);

#endif
