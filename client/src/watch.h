/* A watch of keys, from ikv_watch_open() to ikv_watch_close(). */
#ifndef CLIENT_WATCH_H
#define CLIENT_WATCH_H

#include "client/src/client.h"

enum watch_state {
    WATCH_IDLE, /* waits for a node, or for its timer */
    WATCH_CONNECTING,
    WATCH_AUTHORISING, /* the answer to AUTH or PROJECT USE is due */
    WATCH_STARTING,    /* the answer to WATCHKEYS is due */
    WATCH_RUNNING,
    WATCH_ENDED
};

struct ikv_watch {
    atomic_uint refs;            /* the caller's, and the thread's while it is attached */
    ikv_client *client;          /* one reference */
    struct ikv_project *project; /* one reference */
    ikv_bytes prefix;            /* behind the struct */
    ikv_watch_callback callback;
    void *data;

    /* Under the client's mutex. */
    struct list_node order_link; /* in client->orders */
    bool is_closing;             /* ikv_watch_close() was called */
    bool is_detached;            /* the thread has done with it */
    pthread_cond_t detached;

    /* The client's thread. */
    struct list_node link; /* in client->watches */
    bool is_attached;
    enum watch_state state;
    struct connection *connection;
    struct node *not_this; /* the node that could not help; only compared */
    struct timer timer;
    unsigned failures; /* in a row */
    unsigned gone;     /* nodes in a row whose history does not reach back */
    bool resumes;      /* from `complete`; else from now on */
    bool no_use;       /* the server has no PROJECT USE */
    uint64_t complete; /* all events up to here have been told */
    uint64_t partial;  /* index of the newest event */
    uint64_t told;     /* events of it that have been told */
    uint64_t skip;     /* events of it that come again */
};

#endif
