/* Logical clients and what they have in common.
 *
 * A logical client is a thread that does one thing after another; what it does, when, and what came
 * of it goes to the history. After an operation whose outcome is unknown it goes on under another
 * number, since what it did may still happen beside what it does next. */
#ifndef CHAOS_WORKLOAD_LOAD_H
#define CHAOS_WORKLOAD_LOAD_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/prng.h"
#include "chaos/workload/link.h"
#include "chaos/workload/record.h"

enum via { VIA_LIBRARY, VIA_RESP, VIA_MIXED };

enum { CLIENTS_MAX = 1024, ARENA_SLOTS = 16, PROJECTS_OF_WORKLOAD = 4 };

struct client;

/* What a kind of client does. */
struct workload_kind {
    const char *name;
    unsigned weight; /* clients: share of all */
    unsigned least;  /* ... and at least so many */
    double pace;     /* operations of a client, against those of others */
    uint32_t rotate; /* operations on a key or project before another takes its place; 0: never */
    unsigned slots;  /* keys or projects in use at a time; at most ARENA_SLOTS */
    /* All run on the client's thread. */
    void (*begin)(struct client *client);  /* opens client->link; may set client->own */
    void (*step)(struct client *client);   /* one thing */
    void (*finish)(struct client *client); /* last reads, when all of the workload have ended; or
                                              NULL */
    void (*end)(struct client *client);    /* frees client->own; or NULL */
};

extern const struct workload_kind workload_register;
extern const struct workload_kind workload_large;
extern const struct workload_kind workload_counter;
extern const struct workload_kind workload_cas;
extern const struct workload_kind workload_bank;
extern const struct workload_kind workload_clear;
extern const struct workload_kind workload_quota;
extern const struct workload_kind workload_ttl;
extern const struct workload_kind workload_session;
extern const struct workload_kind workload_eventual;
extern const struct workload_kind workload_watch;

/* The keys or projects that are in use. Each has a number that is never used again; one that has
 * seen its share of operations gives its place to a new one, so that histories of one stay short
 * enough to be searched. The first gets a third of all and more: it is hot. */
struct arena {
    pthread_mutex_t lock;
    uint32_t next;
    struct {
        uint32_t unit;
        uint32_t operations;
        bool is_open;
        bool is_being_opened;
    } slots[ARENA_SLOTS];
};

/* A workload in this run. */
struct group {
    const struct workload_kind *kind;
    struct load *load;
    ikv_client *library; /* of all its clients */
    struct arena arena;
    unsigned n_clients;
    atomic_uint stepping; /* clients that have not ended */
    atomic_ullong ok;
    atomic_ullong failed;
    atomic_ullong unknown;
    void *shared; /* the workload's own */
};

struct load {
    struct link_nodes nodes;
    const char *seeds;
    struct record *record;
    enum via via;
    uint64_t seed;
    double rate; /* operations a second of all clients together; 0: as fast as it goes */
    unsigned n_clients;
    uint32_t timeout_ms;
    uint64_t finish_by; /* ns; last reads are given up then. 0 until all clients are told to stop */
    atomic_bool stopping;
    atomic_ullong next_operation;
    atomic_uint next_client;
};

struct client {
    struct group *group;
    struct load *load;
    unsigned index; /* in its group */
    uint32_t id;
    struct prng prng;
    struct link *link;
    struct answer answer; /* of the operation at hand */
    uint64_t operation;   /* its number */
    struct buffer line;
    void *own;
    pthread_t thread;
};

/* --- operations: begin, add fields, invoke; carry out; end, add fields, done. ------------------
 */

void op_begin(struct client *client, const char *op);
void op_text(struct client *client, const char *field, const char *text);
void op_bytes(struct client *client, const char *field, struct slice text);
void op_integer(struct client *client, const char *field, int64_t number);
void op_nil(struct client *client, const char *field);
void op_list(struct client *client, const char *field, const int64_t *numbers, size_t n);
/* Writes the invocation. The node that it goes to is told with it. */
void op_invoke(struct client *client);
/* Begins the completion, of client->answer's outcome. */
void op_end(struct client *client);
/* Writes it, and counts. */
void op_done(struct client *client);
/* A line that is no operation: what a watch told. */
void op_event(struct client *client, const char *op);
void op_told(struct client *client);

/* --- clients ---------------------------------------------------------------------------------- */

/* Whether the clients of the group are to go on. */
bool client_goes_on(const struct client *client);
/* Whether a last read that failed is to be tried again, after a short wait. */
bool client_tries_again(struct client *client);
/* Opens a link as --via says. */
struct link *client_open_link(struct client *client);
uint64_t client_below(struct client *client, uint64_t bound);
/* chaos-WORKLOAD-N */
void project_name(const struct group *group, uint32_t number, char *name, size_t size);
/* A text that is nowhere else: the workload's values. */
void unique_value(struct client *client, char *text, size_t size);
/* One key or project of those in use, and counts an operation on it. `kind->rotate` tells when
 * another takes its place. */
uint32_t arena_take(struct client *client);
/* The same for projects that must be opened: *must_open tells the caller to do that and to call
 * arena_opened(). False when the one that was picked is being opened by another client. */
bool arena_take_open(struct client *client, uint32_t *unit, bool *must_open);
/* `is_open` false: the unit is given up. */
void arena_opened(struct client *client, uint32_t unit, bool is_open);
/* All units from 0 on that ever were. */
uint32_t arena_units(struct group *group);

/* Runs all of a client, on its thread; `data` is the client. */
void *client_run(void *data);
void group_open(struct group *group);
void group_close(struct group *group);

#endif
