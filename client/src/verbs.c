#include "client/src/verbs.h"

#include "base/bytes.h"

struct verb_word {
    const char *name;
    const char *subcommand; /* NULL: any */
    enum verb_kind kind;
};

/* Of several lines for a name the first that fits counts. */
static const struct verb_word words[] = {
    {"APPEND", NULL, VERB_WRITE},
    {"ASKING", NULL, VERB_CONNECTION},
    {"AUTH", NULL, VERB_CONNECTION},
    {"CLIENT", "LIST", VERB_ASK},
    {"CLIENT", "INFO", VERB_ASK},
    {"CLIENT", "ID", VERB_ASK},
    {"CLIENT", "HELP", VERB_ASK},
    {"CLIENT", NULL, VERB_CONNECTION},
    {"CLUSTER", "REDIRECT", VERB_CONNECTION},
    {"CLUSTER", "REPLACE", VERB_ACT},
    {"CLUSTER", NULL, VERB_ASK},
    {"COMMAND", NULL, VERB_ASK},
    {"CONFIG", "GET", VERB_ASK},
    {"CONFIG", NULL, VERB_ACT},
    {"CONSISTENCY", NULL, VERB_CONNECTION},
    {"COPY", NULL, VERB_WRITE},
    {"DBSIZE", NULL, VERB_READ},
    {"DECR", NULL, VERB_WRITE},
    {"DECRBY", NULL, VERB_WRITE},
    {"DEL", NULL, VERB_WRITE},
    {"DELEX", NULL, VERB_WRITE},
    {"DISCARD", NULL, VERB_CONNECTION},
    {"ECHO", NULL, VERB_ASK},
    {"EXEC", NULL, VERB_CONNECTION},
    {"EXISTS", NULL, VERB_READ},
    {"EXPIRE", NULL, VERB_WRITE},
    {"EXPIREAT", NULL, VERB_WRITE},
    {"EXPIRETIME", NULL, VERB_READ},
    {"FLUSHALL", NULL, VERB_WRITE},
    {"FLUSHDB", NULL, VERB_WRITE},
    {"GET", NULL, VERB_READ},
    {"GETDEL", NULL, VERB_WRITE},
    {"GETEX", NULL, VERB_WRITE},
    {"GETRANGE", NULL, VERB_READ},
    {"GETSET", NULL, VERB_WRITE},
    {"GETVER", NULL, VERB_READ},
    {"HELLO", NULL, VERB_CONNECTION},
    {"INCR", NULL, VERB_WRITE},
    {"INCRBY", NULL, VERB_WRITE},
    {"INCRBYFLOAT", NULL, VERB_WRITE},
    {"INFO", NULL, VERB_ASK},
    {"KEYS", NULL, VERB_READ},
    {"MEMORY", NULL, VERB_READ},
    {"MGET", NULL, VERB_READ},
    {"MONITOR", NULL, VERB_CONNECTION},
    {"MSET", NULL, VERB_WRITE},
    {"MSETNX", NULL, VERB_WRITE},
    {"MULTI", NULL, VERB_CONNECTION},
    {"OBJECT", NULL, VERB_READ},
    {"ONCE", NULL, VERB_CONNECTION},
    {"PERSIST", NULL, VERB_WRITE},
    {"PEXPIRE", NULL, VERB_WRITE},
    {"PEXPIREAT", NULL, VERB_WRITE},
    {"PEXPIRETIME", NULL, VERB_READ},
    {"PING", NULL, VERB_ASK},
    {"PROJECT", "HELP", VERB_ASK},
    {"PROJECT", "INFO", VERB_ASK},
    {"PROJECT", "LIST", VERB_ASK},
    {"PROJECT", "USE", VERB_CONNECTION},
    {"PROJECT", NULL, VERB_ACT},
    {"PSETEX", NULL, VERB_WRITE},
    {"PSUBSCRIBE", NULL, VERB_CONNECTION},
    {"PTTL", NULL, VERB_READ},
    {"PUNSUBSCRIBE", NULL, VERB_CONNECTION},
    {"QUIT", NULL, VERB_CONNECTION},
    {"RANDOMKEY", NULL, VERB_READ},
    {"READONLY", NULL, VERB_CONNECTION},
    {"READWRITE", NULL, VERB_CONNECTION},
    {"RENAME", NULL, VERB_WRITE},
    {"RENAMENX", NULL, VERB_WRITE},
    {"RESET", NULL, VERB_CONNECTION},
    {"SCAN", NULL, VERB_READ},
    {"SELECT", NULL, VERB_CONNECTION},
    {"SET", NULL, VERB_WRITE},
    {"SETEX", NULL, VERB_WRITE},
    {"SETNX", NULL, VERB_WRITE},
    {"SETRANGE", NULL, VERB_WRITE},
    {"SSUBSCRIBE", NULL, VERB_CONNECTION},
    {"STRLEN", NULL, VERB_READ},
    {"SUBSCRIBE", NULL, VERB_CONNECTION},
    {"SUBSTR", NULL, VERB_READ},
    {"SUNSUBSCRIBE", NULL, VERB_CONNECTION},
    {"TOKEN", NULL, VERB_CONNECTION},
    {"TOUCH", NULL, VERB_READ},
    {"TTL", NULL, VERB_READ},
    {"TYPE", NULL, VERB_READ},
    {"UNLINK", NULL, VERB_WRITE},
    {"UNSUBSCRIBE", NULL, VERB_CONNECTION},
    {"UNWATCH", NULL, VERB_CONNECTION},
    {"UNWATCHKEYS", NULL, VERB_CONNECTION},
    {"WATCH", NULL, VERB_CONNECTION},
    {"WATCHKEYS", NULL, VERB_CONNECTION},
};

static bool is_word(const ikv_bytes *bytes, const char *word) {
    return slice_equal_nocase(slice_make(bytes->data, bytes->size), word);
}

/* PROJECT TOKEN LIST is the one subcommand of two words that only asks. */
static bool is_token_list(size_t argc, const ikv_bytes *argv) {
    return argc >= 3 && is_word(&argv[1], "TOKEN") && is_word(&argv[2], "LIST");
}

enum verb_kind verb_kind_of(size_t argc, const ikv_bytes *argv) {
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        const struct verb_word *word = &words[i];
        if (!is_word(&argv[0], word->name)) {
            continue;
        }
        if (word->subcommand == NULL || (argc >= 2 && is_word(&argv[1], word->subcommand))) {
            bool asks = word->kind == VERB_ACT && is_token_list(argc, argv);
            return asks ? VERB_ASK : word->kind;
        }
    }
    return VERB_ACT;
}
