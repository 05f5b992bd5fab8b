/* Completions on their way from the client's thread to JavaScript's.
 *
 * The client's thread pushes; JavaScript's takes all there is in one go and hands it on in batches.
 * Short ASCII values are copied into one text, so that JavaScript makes one string of many answers;
 * whatever else has to be converted one by one travels as the reply itself. */
#ifndef QUEUE_H
#define QUEUE_H

#include <invoke_kv.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* What JavaScript is told; lib/native.js has the same numbers. */
enum record_kind {
    RECORD_NIL = 0,
    RECORD_TEXT = 1, /* bytes `at` to `at + size` of the text */
    RECORD_STATUS = 2,
    RECORD_INTEGER = 3,
    RECORD_REPLY = 4, /* a value that is converted by itself */
    RECORD_ERROR = 5,
    RECORD_EVENT = 6 /* of a watch */
};

struct record {
    uint32_t id; /* of the request, or of the watch */
    enum record_kind kind;
    int64_t integer;  /* RECORD_INTEGER, or enum ikv_event_type */
    size_t at, size;  /* RECORD_TEXT */
    ikv_reply *reply; /* RECORD_REPLY and RECORD_ERROR, where NULL means IKV_ERR_NOMEM */
    struct event *event;
};

/* A copy of an ikv_event. */
struct event {
    int type;
    int error;
    uint64_t index;
    size_t kind_size, key_size, message_size;
    char bytes[]; /* kind, key, message */
};

struct records {
    struct record *items;
    size_t n, room;
    char *text;
    size_t text_size, text_room;
};

struct queue {
    pthread_mutex_t lock;
    struct records filling; /* by the client's thread, under the lock */
    size_t n_events;        /* in `filling` */
    bool announced;         /* JavaScript's thread has been told to come */
};

/* Events of watches that wait at most; those beyond it are dropped, and a gap is told. */
#define QUEUE_EVENTS_MAX 100000
/* Values up to this many bytes are copied into the text. */
#define QUEUE_TEXT_VALUE_MAX 16384

void queue_init(struct queue *queue);
void queue_destroy(struct queue *queue);

/* From a callback, on the client's thread. Takes the reply when it has to be kept. Ends the process
 * when there is no memory: an answer cannot be told otherwise, and nobody must wait for ever. */
void queue_push_reply(struct queue *queue, uint32_t id, ikv_reply *reply);

/* False: the event was dropped. */
bool queue_push_event(struct queue *queue, uint32_t id, const ikv_event *event);

/* Whether JavaScript's thread has to be told: something is there and it does not know yet. */
bool queue_announce(struct queue *queue);

/* All that waits, in exchange for `emptied`, whose memory is used again. */
void queue_take(struct queue *queue, struct records *emptied);

/* Frees what the records hold from `first` on. */
void records_drop(struct records *records, size_t first);
void records_destroy(struct records *records);

#endif
