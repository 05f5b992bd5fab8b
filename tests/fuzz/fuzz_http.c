/* A request in three texts that end at a NUL (method, path, format), and behind them bytes that
 * become the figures: whatever they are, the answer is a page that its readers can parse. */
#include <stdlib.h>

#include "base/mem.h"
#include "node/http_page.h"
#include "node/metrics.h"

static void expect(bool holds) {
    if (!holds) {
        abort();
    }
}

/* --- the input -------------------------------------------------------------------------------- */

static struct slice rest;

/* Copies what comes next, zeros behind the end. */
static void take(void *to, size_t size) {
    size_t taken = rest.size < size ? rest.size : size;
    memset(to, 0, size);
    if (taken > 0) {
        memcpy(to, rest.data, taken);
        rest = slice_make(rest.data + taken, rest.size - taken);
    }
}

static uint8_t take_u8(void) {
    uint8_t byte;
    take(&byte, 1);
    return byte;
}

static uint64_t take_u64(void) {
    uint8_t bytes[8];
    take(bytes, sizeof bytes);
    return bytes_get_u64(bytes);
}

static void take_text(char *text, size_t size) {
    size_t i = 0;
    for (uint8_t c = take_u8(); c != '\0'; c = take_u8()) {
        if (i < size - 1) {
            text[i++] = (char)c;
        }
    }
    text[i] = '\0';
}

static void take_readiness(struct readiness *readiness) {
    uint8_t flags = take_u8();
    readiness->starting = (flags & 1) != 0;
    readiness->draining = (flags & 2) != 0;
    readiness->joining = (flags & 4) != 0;
    readiness->disk_low = (flags & 8) != 0;
    readiness->replicas_differ = (flags & 16) != 0;
    readiness->disk_free_bytes = take_u64();
    take_text(readiness->refusal, sizeof readiness->refusal);
    readiness->n_shards = take_u8() % (LIMIT_SHARDS + 1);
    for (unsigned i = 0; i < readiness->n_shards; i++) {
        readiness->shards[i] = (enum shard_fault)(take_u8() % 4);
        readiness->stale_ms[i] = readiness->shards[i] == SHARD_BEHIND ? take_u64() : 0;
    }
}

static void take_top(struct machine_top *top) {
    top->n = take_u8() % 4;
    for (unsigned i = 0; i < top->n; i++) {
        struct machine_top_entry *entry = &top->entries[i];
        entry->used_bytes = take_u64();
        entry->quota = take_u64();
        entry->shard = take_u8();
        entry->name_size = take_u8();
        take(entry->name, entry->name_size);
    }
}

static void take_metrics(struct metrics *metrics) {
    requests_init(&metrics->requests);
    metrics->taken_ms = take_u8();
    take_readiness(&metrics->readiness);
    take_top(&metrics->top);
    metrics->n_shards = take_u8() % 4;
    for (unsigned i = 0; i < metrics->n_shards; i++) {
        struct metrics_shard *shard = &metrics->shards[i];
        shard->role = (enum metrics_role)(take_u8() % METRICS_ROLES);
        shard->has_staleness = take_u8() % 2 != 0;
        shard->staleness_ms = take_u64();
        shard->clock_offset_ms = (int64_t)(take_u64() >> 1) - (int64_t)(UINT64_C(1) << 62);
        shard->has_projects = take_u8() % 2 != 0;
        shard->projects = take_u64();
    }
    metrics->n_nodes = take_u8() % 4;
    for (unsigned i = 0; i < metrics->n_nodes; i++) {
        metrics->nodes[i].id = take_u64();
        metrics->nodes[i].is_self = take_u8() % 2 != 0;
    }
    unsigned verb = take_u8() % metrics->requests.n_verbs;
    unsigned result = take_u8();
    result = requests_result_name(result) != NULL ? result : 0;
    requests_count(&metrics->requests, verb, result, take_u64() >> 16);
    metrics->logins.counts[take_u8() % LOGIN_KINDS][take_u8() % LOGIN_RESULTS] = take_u64();
    metrics->connections = take_u64();
}

/* --- the answer ------------------------------------------------------------------------------- */

/* Behind the quoted text that begins here; a backslash takes the next character with it. */
static const uint8_t *skip_quoted(const uint8_t *at, const uint8_t *end) {
    expect(at < end && *at == '"');
    for (at++; at < end && *at != '"'; at++) {
        expect(*at != '\n');
        at += *at == '\\';
    }
    expect(at < end);
    return at + 1;
}

static bool is_name(uint8_t c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == ':';
}

static const uint8_t *skip_name(const uint8_t *at, const uint8_t *end) {
    const uint8_t *start = at;
    while (at < end && (is_name(*at) || (*at >= 'A' && *at <= 'Z'))) {
        at++;
    }
    expect(at > start);
    return at;
}

/* name{label="text",...} number */
static const uint8_t *check_sample(const uint8_t *at, const uint8_t *end) {
    at = skip_name(at, end);
    if (at < end && *at == '{') {
        do {
            at = skip_name(at + 1, end);
            expect(at < end && *at == '=');
            at = skip_quoted(at + 1, end);
        } while (at < end && *at == ',');
        expect(at < end && *at == '}');
        at++;
    }
    expect(at < end && *at == ' ');
    const uint8_t *start = ++at;
    while (at < end && *at != '\n') {
        expect((*at >= '0' && *at <= '9') || *at == '.' || (*at == '-' && at == start));
        at++;
    }
    expect(at < end && at > start);
    return at + 1;
}

static void check_metrics(struct slice page) {
    const uint8_t *at = page.data;
    const uint8_t *end = page.data + page.size;
    while (at < end) {
        if (*at == '#') {
            at = memchr(at, '\n', (size_t)(end - at));
            expect(at != NULL);
            at++;
        } else {
            at = check_sample(at, end);
        }
    }
}

/* Brackets that fit, nothing but ASCII, no control characters within texts. */
static void check_json(struct slice page) {
    uint8_t open[16];
    unsigned depth = 0;
    expect(page.size > 2 && page.data[page.size - 1] == '\n');
    const uint8_t *end = page.data + page.size - 1;
    for (const uint8_t *at = page.data; at < end; at++) {
        expect(*at >= ' ' && *at < 0x7f);
        if (*at == '"') {
            at = skip_quoted(at, end) - 1;
        } else if (*at == '{' || *at == '[') {
            expect(depth < sizeof open);
            open[depth++] = *at;
        } else if (*at == '}' || *at == ']') {
            expect(depth > 0 && open[--depth] == (*at == '}' ? '{' : '['));
        }
    }
    expect(depth == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct metrics *metrics = mem_zalloc(1, sizeof *metrics);
    const struct metrics_process process = {.build_id = "beef"};
    struct http_reply reply = {0};
    char method[32], path[64], format[32];
    rest = slice_make(data, size);
    take_text(method, sizeof method);
    take_text(path, sizeof path);
    take_text(format, sizeof format);
    take_metrics(metrics);
    enum http_page page = http_page_find(method, path);
    if (page == HTTP_PAGE_READY) {
        http_page_write_ready(&metrics->readiness, format[0] != '\0' ? format : NULL, &reply);
        expect((reply.status == 200) == readiness_is_ready(&metrics->readiness));
        if (strcmp(format, "json") == 0) {
            check_json(buffer_slice(&reply.body));
        }
    } else if (page == HTTP_PAGE_METRICS) {
        http_page_write_metrics(metrics, &process, &reply);
        expect((reply.status == 200) == (metrics->taken_ms != 0));
        if (reply.status == 200) {
            check_metrics(buffer_slice(&reply.body));
        }
    } else {
        http_page_write_fixed(page, &reply);
    }
    expect(reply.status >= 200 && reply.status < 600 && reply.type != NULL && reply.body.size > 0);
    buffer_free(&reply.body);
    mem_free(metrics);
    return 0;
}
