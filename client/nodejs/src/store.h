/* A client of the library as JavaScript holds it: projects and watches by number, requests by the
 * number that JavaScript gave them. */
#ifndef STORE_H
#define STORE_H

#include "queue.h"

#define NAPI_VERSION 8
#include <node_api.h>

/* Requests live in chunks that never move: their addresses are what callbacks are given. */
#define REQUEST_CHUNK 1024
#define REQUEST_CHUNKS 10240 /* ten million requests, the most that the library admits */

struct request {
    struct store *store;
    uint32_t id;
};

struct watch {
    struct store *store;
    ikv_watch *handle;
    uint32_t id;
    bool lost; /* events were dropped and the gap has not been told */
};

enum close_state { OPEN, CLOSING, CLOSED };

struct store {
    ikv_client *client;
    struct queue queue;
    struct records taken; /* JavaScript's thread only, as all below but `close_lock` */
    struct request *requests[REQUEST_CHUNKS];
    ikv_project **projects; /* NULL where one was closed */
    uint32_t n_projects;
    struct watch **watches;
    uint32_t n_watches;

    napi_env env;
    napi_threadsafe_function wake;
    napi_ref deliver; /* function (count, text, extras) */
    napi_ref meta;    /* Float64Array of META_RECORDS * META_FIELDS */

    pthread_mutex_t close_lock; /* between the closing thread and the end of the environment */
    enum close_state state;
    napi_async_work close_work;
    napi_deferred close_promise;
    struct store *next, *previous; /* in the environment's list */
};

#define META_FIELDS 4
#define META_RECORDS 1024

/* Numbers of operations; lib/native.js has the same. */
enum operation {
    OP_GET = 1,
    OP_SET = 2,
    OP_HAS = 3,
    OP_DELETE = 4,
    OP_CLEAR = 5,
    OP_GET_MANY = 6,
    OP_SET_MANY = 7,
    OP_DELETE_MANY = 8,
    OP_INCREMENT = 9,
    OP_CAS = 10,
    OP_CAS_DELETE = 11,
    OP_GET_VERSION = 12,
    OP_TTL = 13,
    OP_LIST = 14,
    OP_USAGE = 15,
    OP_COMMAND = 16,
    OP_NODE_COMMAND = 17,
    OP_TRANSACTION = 18
};

/* Fields of one operation, all doubles. Its bytes lie in the arena, one operation's behind the
 * other's: for simple operations key and value; for those with n pieces each piece behind its size
 * (4 bytes, little-endian). submit.c overwrites FIELD_OP with the error of what was not accepted.
 */
enum field {
    FIELD_OP = 0,
    FIELD_ID = 1,
    FIELD_PROJECT = 2,
    FIELD_TIMEOUT = 3,
    FIELD_SIZE = 4,   /* bytes of the key, or number of pieces */
    FIELD_VALUE = 5,  /* bytes of the value */
    FIELD_NUMBER = 6, /* time to live, addend, count */
    FIELD_EXTRA = 7,  /* flags of a set, version */
    FIELDS = 8
};

/* Hands `n` operations to the library in one go. How many of them were not accepted. */
uint32_t store_submit(struct store *store, double *fields, uint32_t n, const char *arena,
                      size_t arena_size);

#endif
