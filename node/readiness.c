#include "node/readiness.h"

#include <inttypes.h>
#include <stdio.h>

/* A reason for not being ready; shard -1: the whole node. */
typedef void (*reason_cb)(void *data, int shard, const char *words);

static void node_reasons(const struct readiness *readiness, reason_cb on_reason, void *data) {
    char words[READINESS_WORDS_SIZE + 64];
    if (readiness->starting) {
        on_reason(data, -1, "starting");
    }
    if (readiness->draining) {
        on_reason(data, -1, "draining: this node stops");
    }
    if (readiness->joining) {
        on_reason(data, -1, "waiting until all other nodes have accepted this one");
    }
    if (readiness->unadded) {
        on_reason(data, -1, "no member of the cluster: invoke-kv cluster add");
    }
    if (readiness->refusal[0] != '\0') {
        snprintf(words, sizeof words, "a peer refused this node: %s", readiness->refusal);
        on_reason(data, -1, words);
    }
    if (readiness->disk_low) {
        snprintf(words, sizeof words,
                 "disk nearly full: %" PRIu64 " bytes free; writes are refused",
                 readiness->disk_free_bytes);
        on_reason(data, -1, words);
    }
    if (readiness->replicas_differ) {
        on_reason(data, -1, "replicas differ: see the log");
    }
}

/* False when the shard is fine. */
static bool shard_reason(const struct readiness *readiness, unsigned shard, char *words,
                         size_t size) {
    switch (readiness->shards[shard]) {
    case SHARD_FINE:
        return false;
    case SHARD_NO_LEADER:
        snprintf(words, size, "no leader known");
        return true;
    case SHARD_INSTALLING:
        snprintf(words, size, "installing a snapshot");
        return true;
    case SHARD_BEHIND:
        snprintf(words, size, "replica far behind: its state is %" PRIu64 " s old",
                 readiness->stale_ms[shard] / 1000);
        return true;
    }
    return false;
}

static void all_reasons(const struct readiness *readiness, reason_cb on_reason, void *data) {
    char words[96];
    node_reasons(readiness, on_reason, data);
    for (unsigned i = 0; i < readiness->n_shards; i++) {
        if (shard_reason(readiness, i, words, sizeof words)) {
            on_reason(data, (int)i, words);
        }
    }
}

static void count_reason(void *data, int shard, const char *words) {
    unsigned *count = data;
    (void)shard;
    (void)words;
    ++*count;
}

bool readiness_is_ready(const struct readiness *readiness) {
    unsigned count = 0;
    all_reasons(readiness, count_reason, &count);
    return count == 0;
}

/* --- as text ---------------------------------------------------------------------------------- */

static void put(struct buffer *out, const char *text) {
    buffer_append_slice(out, slice_of(text));
}

static void put_line(void *data, int shard, const char *words) {
    char line[READINESS_WORDS_SIZE + 128];
    if (shard >= 0) {
        snprintf(line, sizeof line, "shard %d: %s\n", shard, words);
    } else {
        snprintf(line, sizeof line, "%s\n", words);
    }
    put(data, line);
}

void readiness_write_text(const struct readiness *readiness, struct buffer *out) {
    if (readiness_is_ready(readiness)) {
        put(out, "ok\n");
    } else {
        all_reasons(readiness, put_line, out);
    }
}

/* --- as JSON ---------------------------------------------------------------------------------- */

static void put_string(struct buffer *out, const char *text) {
    char escape[8];
    put(out, "\"");
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (c < ' ' || c == '"' || c == '\\' || c >= 0x7f) {
            snprintf(escape, sizeof escape, "\\u%04x", c);
            put(out, escape);
        } else {
            buffer_put_u8(out, c);
        }
    }
    put(out, "\"");
}

struct json_list {
    struct buffer *out;
    unsigned n;
};

static void put_element(void *data, int shard, const char *words) {
    struct json_list *list = data;
    (void)shard;
    put(list->out, list->n++ > 0 ? ", " : "");
    put_string(list->out, words);
}

static void put_shard(struct buffer *out, const struct readiness *readiness, unsigned shard) {
    char words[96];
    char head[64];
    bool ready = !shard_reason(readiness, shard, words, sizeof words);
    snprintf(head, sizeof head, "%s{\"shard\": %u, \"ready\": %s", shard > 0 ? ", " : "", shard,
             ready ? "true" : "false");
    put(out, head);
    if (!ready) {
        put(out, ", \"reason\": ");
        put_string(out, words);
    }
    put(out, "}");
}

void readiness_write_json(const struct readiness *readiness, struct buffer *out) {
    bool ready = readiness_is_ready(readiness);
    struct json_list reasons = {.out = out};
    put(out, ready ? "{\"ready\": true, \"reasons\": [" : "{\"ready\": false, \"reasons\": [");
    if (!ready) {
        node_reasons(readiness, put_element, &reasons);
    }
    put(out, "], \"shards\": [");
    for (unsigned i = 0; i < readiness->n_shards; i++) {
        put_shard(out, readiness, i);
    }
    put(out, "]}\n");
}
