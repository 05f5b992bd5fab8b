/* What the files of the library share. Everything here belongs to the client's thread (loop.c)
 * unless it says otherwise; other threads reach it through the inbox only.
 *
 * A request's way:  api*.c (caller's thread)  makes it, puts it into the inbox
 *                   loop.c                    takes it out, arms its deadline
 *                   route.c                   picks node and lane; parks it when there is none
 *                   once.c                    numbers a write
 *                   connection.c              greets, authorises, writes, reads
 *                   request.c                 judges the reply: done, again, elsewhere; calls back
 *
 * A node has up to one connection for each lane. Lanes keep apart what would wait for each other on
 * one connection (the server begins a write once the reads before it are answered), and what needs
 * another state of the connection. */
#ifndef CLIENT_CLIENT_H
#define CLIENT_CLIENT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/socket.h>

#include "base/bytes.h"
#include "base/list.h"
#include "base/prng.h"
#include "client/include/invoke_kv.h"
#include "client/src/options.h"
#include "client/src/url.h"
#include "client/src/value.h"
#include "client/src/wheel.h"

struct connection;
struct node;
struct once;
struct request;
struct tls_context;

enum {
    CLIENT_SHARDS = 64,
    CLIENT_NODES = 64, /* seeds and members known at a time */
    CLIENT_WATCHES = 1000,
    CLIENT_NAME_SIZE = 272, /* "host:port" */
    CLIENT_KEY_SIZE = 64 * 1024,
    CLIENT_ARGUMENTS = 65536 - 16, /* of a command; the server's limit less what ONCE adds */
    CLIENT_TEXT_SIZE = 256
};
/* All arguments of a request together: the largest value with names and options. */
#define CLIENT_REQUEST_SIZE ((size_t)65 * 1024 * 1024)

/* --- projects (client->mutex) ------------------------------------------------------------------
 */

/* One for each pair of name and token that has open handles or requests; `id` is never used again,
 * so that connections can remember whom they have authorised. */
struct identity {
    struct identity *next; /* in its chain of the table */
    uint64_t id;
    uint64_t name_id; /* the same for all identities of a name */
    uint64_t refs;
    unsigned slot;
    char *token; /* NULL: none */
    char name[]; /* NUL-terminated */
};

struct ikv_project {
    atomic_uint refs;
    ikv_client *client; /* one reference */
    struct identity *identity;
    enum ikv_level level;
    uint32_t max_stale_ms;
};

void project_ref(struct ikv_project *project);
/* Any thread. */
void project_unref(struct ikv_project *project);

/* --- nodes -------------------------------------------------------------------------------------
 */

enum lane {
    LANE_WRITE,    /* writes, with redirects instead of forwarding where the leader is known */
    LANE_READ,     /* linearizable reads */
    LANE_BULK,     /* large writes */
    LANE_SESSION,  /* reads and writes of handles at level session */
    LANE_EVENTUAL, /* reads of handles at level eventual */
    LANE_CONTROL,  /* topology, probes, node commands */
    LANE_COUNT
};

struct node {
    ikv_client *client;
    char host[URL_HOST_SIZE];
    uint16_t port;
    char name[CLIENT_NAME_SIZE];
    uint32_t id;               /* 0: a seed whose id is not known */
    bool is_member;            /* stands in the newest topology; all seeds do before there is one */
    bool is_seed;              /* never forgotten */
    unsigned failures;         /* in a row */
    uint64_t usable_at_ms;     /* backing off until then */
    uint64_t too_old_until_ms; /* answered -STALE: not the nearest for a while */
    bool probing;
    struct connection *lanes[LANE_COUNT];

    /* Addresses of the host; resolve.c. */
    struct resolution *resolution; /* under way, or NULL */
    struct sockaddr_storage addresses[8];
    unsigned n_addresses;
    unsigned next_address;
    uint64_t resolved_until_ms;
};

/* What CLUSTER TOPOLOGY told. */
struct topology {
    bool known;
    bool unsupported; /* the server does not have it: seeds are all there is */
    char cluster[CLIENT_TEXT_SIZE];
    unsigned n_shards;
    uint32_t leaders[CLIENT_SHARDS]; /* node ids, 0: none known */
};

/* --- the client --------------------------------------------------------------------------------
 */

struct shard_writes {
    ikv_client *client;
    struct once *once;        /* newest session, or NULL */
    struct list_node waiting; /* writes that wait for it */
    bool opening;
};

struct ikv_client {
    atomic_uint refs; /* the opener's, and one for each project handle and watch */

    /* Constant. */
    struct ikv_options options;
    char *default_name;  /* from the seeds' URL, or NULL */
    char *default_token; /* or NULL */
    bool tls;
    struct tls_context *tls_context;
    unsigned char *fork_guard; /* a page that the kernel zeroes in a child; holds 1 */
    pthread_t thread;

    /* Shared, under the mutex. */
    pthread_mutex_t mutex;
    struct list_node inbox;    /* requests, by their `link` */
    struct list_node orders;   /* watches that begin or end: struct ikv_watch */
    struct list_node resolved; /* struct resolution */
    bool awake;                /* the thread will look into the inbox before it sleeps */
    unsigned corked;
    bool closing;
    unsigned n_watches;
    struct identity **identities; /* hash table */
    size_t n_identities;
    size_t identity_slots; /* a power of two, or 0 */
    uint64_t next_identity;
    int wake_fd;

    /* Atomic. */
    atomic_size_t n_requests;
    atomic_size_t n_bytes;

    /* The thread's own. */
    int epoll_fd;
    uint64_t now_ms;
    struct wheel wheel;
    struct prng prng;
    struct list_node live;     /* all requests it has taken */
    struct list_node unrouted; /* requests that wait for the first topology */
    struct node *nodes[CLIENT_NODES];
    unsigned n_nodes;
    unsigned next_node; /* round robin */
    struct topology topology;
    unsigned topology_asking; /* questions under way */
    unsigned topology_failures;
    bool topology_needs_auth;             /* the server answers only those who are authorised */
    struct ikv_project *topology_project; /* one that is, or NULL; one reference */
    uint64_t topology_at_ms;              /* of the newest answer */
    uint64_t topology_next_ms;            /* no question before */
    struct timer topology_timer;
    struct node *nearest[LANE_COUNT]; /* for LANE_SESSION, LANE_EVENTUAL; NULL: not chosen */
    struct list_node near_waiting[LANE_COUNT];
    bool session_used; /* a connection of LANE_SESSION has been ready before */
    bool once_unsupported;
    struct shard_writes shards[CLIENT_SHARDS];
    struct list_node connections;
    struct list_node dirty;     /* connections with something to write */
    struct list_node graveyard; /* closed connections, freed at the end of the iteration */
    struct list_node watches;
    bool stopping;
    bool called_back; /* in this iteration */
    int last_error;   /* of a connection that could not be made or used */
    char last_text[CLIENT_TEXT_SIZE];
    char *scratch; /* CLIENT_SCRATCH bytes for reading */
};

enum { CLIENT_SCRATCH = 64 * 1024 };

void client_ref(ikv_client *client);
void client_unref(ikv_client *client);
/* True in a process that forked from the client's. Any thread. */
bool client_is_forked(const ikv_client *client);
/* True on the client's own thread. */
bool client_is_own_thread(const ikv_client *client);
/* Wakes the thread. Under the mutex. */
void client_wake(ikv_client *client);
uint64_t clock_now_ms(void);
/* Remembers why connections fail, for requests that find no node by their deadline. */
void client_note_failure(ikv_client *client, int error, const char *text);
void *loop_run(void *client);

/* --- requests ----------------------------------------------------------------------------------
 */

enum request_state {
    REQUEST_NEW,
    REQUEST_WAITING, /* in a list: unrouted, for a session, for the nearest node */
    REQUEST_PARKED,  /* until its timer fires */
    REQUEST_PENDING, /* in a list of a connection, not written */
    REQUEST_SENT     /* in a connection's ring */
};

struct request {
    struct ikv_reply reply; /* first: ikv_reply_free() frees the request */
    struct list_node link;  /* in the list that its state implies */
    struct list_node live_link;
    struct timer timer;
    enum request_state state;
    ikv_client *client; /* once started */

    /* Set by the maker. */
    struct ikv_project *project;      /* one reference, or NULL */
    char node_name[CLIENT_NAME_SIZE]; /* for that node only; "": any */
    bool is_write;                    /* picks the lane */
    bool wants_once;                  /* to be numbered where the server can */
    bool retry_safe;                  /* changes nothing: may be sent again whatever became of it */
    bool no_retry;                    /* fails with its connection */
    bool is_internal;                 /* the library's own */
    bool wants_topology;              /* ikv_topology(): answered by the client */
    uint32_t commands;                /* of a transaction; 0: a single command */
    uint32_t argc;                    /* of a single command */
    const char *body;                 /* encoded arguments, or whole commands of a transaction */
    size_t body_size;
    char *body_memory; /* to free, or NULL when it stands behind the struct */
    uint64_t deadline_ms;
    ikv_callback callback;
    void *data;

    /* Where it is. */
    struct connection *connection; /* pending there, or sent */
    uint64_t number;               /* of its entry in the connection's ring */
    bool control;                  /* goes over the control lane */
    bool to_leader;                /* a read that replicas are too old for */
    bool redirect;                 /* the node is to answer -MOVED instead of forwarding */
    unsigned attempts;
    unsigned redirects;
    bool maybe_done; /* an attempt ended with an unknown outcome */
    int why;         /* why it is sent again; kept for the deadline */

    /* Its number. */
    struct once *once; /* one reference, or NULL */
    struct list_node once_link;
    uint64_t sequence;
};

/* A request for a command, encoded. `project` gets a reference; NULL without memory. Checks
 * nothing. */
struct request *request_new(struct ikv_project *project, size_t argc, const ikv_bytes *argv);
/* One for `commands` encoded commands, which are copied. */
struct request *request_new_transaction(struct ikv_project *project, uint32_t commands,
                                        const void *body, size_t size);
void request_free(struct request *request);
/* Appends an encoded command, header and all; false without memory. */
bool request_append_command(struct text *out, size_t argc, const ikv_bytes *argv);

/* Hands a request to the client's thread. On failure the request still belongs to the caller. */
int request_submit(ikv_client *client, struct request *request, uint32_t timeout_ms,
                   ikv_callback callback, void *data);

/* The rest: the client's thread. */
void request_start(ikv_client *client, struct request *request);
/* For the library's own requests. */
void request_start_internal(ikv_client *client, struct request *request, uint64_t timeout_ms,
                            ikv_callback callback, void *data);
/* Ends it: callback, then freed unless taken. `text` may be NULL. */
void request_finish(struct request *request, int error, const char *text);
/* Ends it because the client is closed. */
void request_abandon(struct request *request);
/* A reply of the node's, in the builder, whose value it takes. */
void request_answer(struct request *request, struct connection *connection,
                    struct value_builder *builder);
/* An error that the node answered to this request, or to what had to go before it. */
void request_refused(struct request *request, struct connection *connection,
                     const ikv_value *value);
/* The attempt ended without a reply; `sent`: it may have been carried out. */
void request_lost(struct request *request, bool sent, int error, const char *text);
/* Routes it again, after a delay. */
void request_park(struct request *request, uint64_t delay_ms);
/* The same, when it was tried and failed: after a time that grows. `why` is the error it ends with
 * if the deadline comes first. */
void request_retry(struct request *request, int why, const char *text);
/* Into a list of those that somebody will route again. */
void request_wait(struct request *request, struct list_node *list);

/* --- routes ------------------------------------------------------------------------------------
 */

void route_request(struct request *request);
/* The topology has come: what waits for it goes on. */
void route_unrouted(ikv_client *client);
/* Routes all requests of a list. */
void route_list(struct list_node *list);
/* Shard of a project; false without a topology. */
bool route_shard(const ikv_client *client, const struct ikv_project *project, unsigned *shard);
struct node *node_find(ikv_client *client, const char *name);
struct node *node_find_id(ikv_client *client, uint32_t id);
/* The node of that address, made if need be; NULL when there are too many, or no memory. */
struct node *node_add(ikv_client *client, const struct url_seed *address);
void node_format_name(char name[CLIENT_NAME_SIZE], const char *host, uint16_t port);
bool node_is_usable(const ikv_client *client, const struct node *node);
/* Some usable member (else seed) other than `not_this`, or NULL. */
struct node *node_pick(ikv_client *client, const struct node *not_this);
/* It could not be connected to, or did not speak the protocol. */
void node_penalise(struct node *node, int error, const char *text);
/* It was reached and greets. */
void node_is_well(struct node *node);
/* All its connections end. */
void node_fail(struct node *node, int error, const char *text);
/* A connection hears nothing: asks whether the node lives. */
void node_probe(struct node *node);
void node_free(struct node *node);
/* The connection of a lane that chooses the nearest node is ready. */
void route_nearest_ready(struct connection *connection);
/* It is closed. */
void route_nearest_lost(struct connection *connection);

/* The topology may have changed: asks for it, soon. */
void topology_refresh(ikv_client *client);
/* Asks if the last answer is older than the options want it. */
void topology_tick(ikv_client *client);
void topology_init(ikv_client *client);
/* Fills `topology` and `nodes` from a reply; false when it is not one. Pure. */
struct topology_node {
    uint32_t id;
    struct url_seed address;
};
bool topology_parse(const ikv_value *value, struct topology *topology,
                    struct topology_node nodes[CLIENT_NODES], unsigned *n_nodes);
/* The reply to ikv_topology(). */
void topology_answer(struct request *request);

/* --- numbered writes
 * ------------------------------------------------------------------------------ */

enum once_verdict {
    ONCE_GO,     /* numbered, or goes without */
    ONCE_WAIT,   /* it waits for a session, and is routed again by itself */
    ONCE_UNKNOWN /* its session is gone: nobody knows its outcome */
};

void once_init(ikv_client *client);
enum once_verdict once_prepare(struct request *request);
/* The request is over. */
void once_release(struct request *request);
/* The server does not know the request's session; next, once_prepare() gives it a new one. */
void once_forget(struct request *request);
/* Arguments that go before the command's own. */
unsigned once_argc(void);
bool once_append(struct text *out, const struct request *request);
/* Asks the cluster to forget the sessions; *left counts down to 0 with the answers. Returns how
 * many there will be. */
unsigned once_close_all(ikv_client *client, unsigned *left);
void once_free_all(ikv_client *client);

/* --- watches
 * --------------------------------------------------------------------------------------- */

/* A greeted connection of a watch has a reply, or is lost. */
void watch_connected(struct connection *connection);
void watch_answer(struct connection *connection, const ikv_value *value);
void watch_lost(struct connection *connection, int error, const char *text);
void watch_take_orders(ikv_client *client);
/* Ends all of them. */
void watch_end_all(ikv_client *client);

#endif
