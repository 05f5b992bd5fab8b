#include "queue.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A text that grew beyond this is given back when it is empty. */
#define TEXT_KEPT ((size_t)1 << 20)
#define ITEMS_KEPT ((size_t)16384)

static void *grow(void *memory, size_t *room, size_t wanted, size_t unit_size) {
    size_t new_room = *room != 0 ? *room : 256;
    while (new_room < wanted)
        new_room *= 2;
    void *grown = realloc(memory, new_room * unit_size);
    if (grown == NULL) {
        (void)fputs("invoke-kv: no memory for an answer\n", stderr);
        abort();
    }
    *room = new_room;
    return grown;
}

void queue_init(struct queue *queue) {
    memset(queue, 0, sizeof *queue);
    (void)pthread_mutex_init(&queue->lock, NULL);
}

void queue_destroy(struct queue *queue) {
    records_destroy(&queue->filling);
    (void)pthread_mutex_destroy(&queue->lock);
}

static struct record *push(struct records *records) {
    if (records->n == records->room)
        records->items =
            grow(records->items, &records->room, records->n + 1, sizeof(struct record));
    struct record *record = &records->items[records->n++];
    memset(record, 0, sizeof *record);
    return record;
}

static bool is_ascii(const char *data, size_t size) {
    uint64_t seen = 0;
    size_t at = 0;
    for (; at + 8 <= size; at += 8) {
        uint64_t word;
        memcpy(&word, data + at, 8);
        seen |= word;
    }
    for (; at < size; at++)
        seen |= (unsigned char)data[at];
    return (seen & 0x8080808080808080U) == 0;
}

static void copy_text(struct records *records, struct record *record, const ikv_value *value) {
    size_t wanted = records->text_size + value->size;
    if (wanted > records->text_room)
        records->text = grow(records->text, &records->text_room, wanted, 1);
    memcpy(records->text + records->text_size, value->data, value->size);
    record->kind = RECORD_TEXT;
    record->at = records->text_size;
    record->size = value->size;
    records->text_size = wanted;
}

static void keep_reply(struct record *record, enum record_kind kind, ikv_reply *reply) {
    if (reply != NULL)
        ikv_reply_take(reply);
    record->kind = kind;
    record->reply = reply;
}

void queue_push_reply(struct queue *queue, uint32_t id, ikv_reply *reply) {
    bool failed = reply == NULL || ikv_reply_error(reply) != IKV_OK;
    const ikv_value *value = failed ? NULL : ikv_reply_value(reply);
    bool short_text = value != NULL && value->type == IKV_STRING &&
                      value->size <= QUEUE_TEXT_VALUE_MAX && is_ascii(value->data, value->size);
    (void)pthread_mutex_lock(&queue->lock);
    struct record *record = push(&queue->filling);
    record->id = id;
    if (value == NULL) {
        keep_reply(record, RECORD_ERROR, reply);
    } else if (short_text) {
        copy_text(&queue->filling, record, value);
    } else if (value->type == IKV_INTEGER) {
        record->kind = RECORD_INTEGER;
        record->integer = value->integer;
    } else if (value->type == IKV_NIL || value->type == IKV_STATUS) {
        record->kind = value->type == IKV_NIL ? RECORD_NIL : RECORD_STATUS;
    } else {
        keep_reply(record, RECORD_REPLY, reply);
    }
    (void)pthread_mutex_unlock(&queue->lock);
}

static struct event *copy_event(const ikv_event *event) {
    size_t message_size = strlen(event->message);
    size_t size = sizeof(struct event) + event->kind.size + event->key.size + message_size;
    struct event *copy = malloc(size);
    if (copy == NULL)
        return NULL;
    copy->type = event->type;
    copy->error = event->error;
    copy->index = event->index;
    copy->kind_size = event->kind.size;
    copy->key_size = event->key.size;
    copy->message_size = message_size;
    char *at = copy->bytes;
    if (event->kind.size > 0)
        memcpy(at, event->kind.data, event->kind.size);
    at += event->kind.size;
    if (event->key.size > 0)
        memcpy(at, event->key.data, event->key.size);
    memcpy(at + event->key.size, event->message, message_size);
    return copy;
}

bool queue_push_event(struct queue *queue, uint32_t id, const ikv_event *event) {
    (void)pthread_mutex_lock(&queue->lock);
    bool ends = event->type == IKV_EVENT_END; /* must always be told, and comes once */
    bool pushed = false;
    if (queue->n_events < QUEUE_EVENTS_MAX || ends) {
        struct event *copy = copy_event(event);
        if (copy != NULL) {
            struct record *record = push(&queue->filling);
            record->id = id;
            record->kind = RECORD_EVENT;
            record->event = copy;
            queue->n_events++;
            pushed = true;
        }
    }
    (void)pthread_mutex_unlock(&queue->lock);
    return pushed;
}

bool queue_announce(struct queue *queue) {
    (void)pthread_mutex_lock(&queue->lock);
    bool needed = queue->filling.n > 0 && !queue->announced;
    queue->announced = queue->announced || needed;
    (void)pthread_mutex_unlock(&queue->lock);
    return needed;
}

void queue_take(struct queue *queue, struct records *emptied) {
    if (emptied->text_room > TEXT_KEPT || emptied->room > ITEMS_KEPT)
        records_destroy(emptied);
    emptied->n = 0;
    emptied->text_size = 0;
    (void)pthread_mutex_lock(&queue->lock);
    struct records taken = queue->filling;
    queue->filling = *emptied;
    queue->n_events = 0;
    queue->announced = false;
    (void)pthread_mutex_unlock(&queue->lock);
    *emptied = taken;
}

void records_drop(struct records *records, size_t first) {
    for (size_t i = first; i < records->n; i++) {
        ikv_reply_free(records->items[i].reply);
        free(records->items[i].event);
    }
    records->n = 0;
}

void records_destroy(struct records *records) {
    records_drop(records, 0);
    free(records->items);
    free(records->text);
    memset(records, 0, sizeof *records);
}
