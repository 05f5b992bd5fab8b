/* Histories of client operations, and whether they are linearizable: whether each operation can be
 * given a moment between its call and its return such that all results are those of one store that
 * carries them out one after another.
 *
 * An operation whose outcome is unknown may have taken effect at any time after its call, or never.
 * A key with an expiry may be gone from a certain moment on; until when it must be gone is checked
 * only where the history says so. A project is checked as a whole when operations on several of its
 * keys occurred, else key by key. */
#ifndef SIM_MODEL_H
#define SIM_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MODEL_KEYS = 4, MODEL_VALUE = 40, MODEL_ARGS = 2 * MODEL_KEYS };

enum op_kind {
    OP_GET,
    OP_SET,    /* flags below */
    OP_DEL,    /* all keys in `keys` */
    OP_EXISTS, /* all keys in `keys` */
    OP_INCRBY,
    OP_APPEND,
    OP_STRLEN,
    OP_GETDEL,
    OP_PERSIST,
    OP_PEXPIRE,
    OP_PTTL,
    OP_GETRANGE,
    OP_DELEX, /* IFEQ */
    OP_MSET,
    OP_MSETNX,
    OP_MGET,
    OP_RENAME,
    OP_COPY,
    OP_DBSIZE,
    OP_FLUSHDB,
    OP_KINDS
};

enum { SET_NX = 1, SET_XX = 2, SET_GET = 4, SET_PX = 8, SET_KEEPTTL = 16, SET_IFEQ = 32 };

/* Of longer values the size and the first bytes are known. */
struct model_value {
    uint32_t size;
    uint32_t crc; /* of a reply's value, whole */
    char data[MODEL_VALUE];
};

enum reply_kind { REPLY_NIL, REPLY_OK, REPLY_INTEGER, REPLY_BULK, REPLY_ERROR, REPLY_ARRAY };

struct reply {
    enum reply_kind kind;
    int64_t integer;
    struct model_value bulk; /* also the text of an error */
    uint8_t n;               /* of an array */
    bool is_nil[MODEL_KEYS];
    struct model_value items[MODEL_KEYS];
};

struct op {
    enum op_kind kind;
    uint8_t flags;
    uint8_t n_keys;
    uint8_t keys[MODEL_KEYS]; /* numbers within the project */
    struct model_value values[MODEL_KEYS];
    struct model_value expected; /* IFEQ */
    int64_t number;              /* increment, ttl in ms, offset */
    uint64_t called;             /* ns */
    uint64_t returned;           /* UINT64_MAX: the outcome is unknown */
    unsigned client;
    struct reply reply;
};

/* One project's history. */
struct history {
    char name[32];
    struct op *ops;
    size_t n;
    size_t capacity;
    bool multi_key;
    /* Operations that were called after this must not see keys whose time is well over. */
    uint64_t strict_from;
    double drift; /* most that any clock is off */
    /* Keys written before this may expire early: wall clocks may have decided the time then. */
    uint64_t early_until;
};

size_t history_add(struct history *history, const struct op *op);

enum verdict { VERDICT_GOOD, VERDICT_BAD, VERDICT_TOO_HARD };

/* `why` gets a text about the first operation that cannot be explained. */
enum verdict history_check(const struct history *history, char *why, size_t size);

void op_print(const struct op *op, char *text, size_t size);

#endif
