/* One client has a project for itself and numbers its writes, so it knows its keys to the byte:
 * what PROJECT INFO says must agree, and a write is refused exactly when it would exceed the quota.
 * Full of history, the project is deleted and another one made. */
#include <stdio.h>
#include <string.h>

#include "tests/sim/worker.h"

enum { QUOTA_KEYS = 6, QUOTA = 6000, VALUE_MAX = 2500, WRITES_PER_PROJECT = 150 };

enum stage { QUOTA_SESSION, QUOTA_CREATE, QUOTA_WORK, QUOTA_DELETE };

struct quota {
    struct worker worker;
    enum stage stage;
    unsigned generation;
    unsigned n_writes;
    int64_t sizes[QUOTA_KEYS]; /* of the values, -1: no such key */
    unsigned key;
    int64_t size; /* that the key's value is to have, -1: it is to go */
    bool appends;
};

static void next_project(struct quota *quota) {
    snprintf(quota->worker.project, sizeof quota->worker.project, "quota-%u", quota->generation++);
    quota->worker.bound = false;
    quota->worker.session[0] = '\0';
    quota->stage = QUOTA_SESSION;
    quota->n_writes = 0;
    for (unsigned i = 0; i < QUOTA_KEYS; i++) {
        quota->sizes[i] = -1;
    }
}

static void quota_init(struct worker *worker, unsigned number) {
    (void)number;
    next_project((struct quota *)worker);
}

/* Keys have names of different lengths. */
static const char *name_of(unsigned key) {
    static const char *const names[QUOTA_KEYS] = {"a",    "bb",          "ccc",
                                                  "dddd", "eeeeeeeeeee", "ffffffffffffffffffff"};
    return names[key];
}

static int64_t used_with(const struct quota *quota, unsigned key, int64_t size) {
    int64_t used = 0;
    for (unsigned i = 0; i < QUOTA_KEYS; i++) {
        int64_t of = i == key ? size : quota->sizes[i];
        used += of >= 0 ? of + (int64_t)strlen(name_of(i)) : 0;
    }
    return used;
}

static void write_something(struct quota *quota) {
    char value[VALUE_MAX + 1];
    size_t size = 1 + (size_t)kernel_random(VALUE_MAX);
    memset(value, 'x', size);
    value[size] = '\0';
    quota->key = (unsigned)kernel_random(QUOTA_KEYS);
    quota->appends = kernel_random(4) == 0;
    quota->n_writes++;
    if (kernel_random(5) == 0) {
        quota->appends = false;
        quota->size = -1;
        worker_ask_once(&quota->worker, "DEL %s", name_of(quota->key));
        return;
    }
    int64_t before = quota->sizes[quota->key] > 0 ? quota->sizes[quota->key] : 0;
    quota->size = (int64_t)size + (quota->appends ? before : 0);
    worker_ask_once(&quota->worker, "%s %s %s", quota->appends ? "APPEND" : "SET",
                    name_of(quota->key), value);
}

static void quota_act(struct worker *worker) {
    struct quota *quota = (struct quota *)worker;
    switch (quota->stage) {
    case QUOTA_SESSION:
        worker_ask(worker, "ONCE OPEN");
        return;
    case QUOTA_CREATE:
        worker_ask(worker, "PROJECT CREATE %s QUOTA %d", worker->project, QUOTA);
        return;
    case QUOTA_WORK:
        if (kernel_random(4) == 0) {
            worker_ask(worker, "PROJECT INFO");
        } else {
            write_something(quota);
        }
        return;
    case QUOTA_DELETE:
        worker_ask(worker, "PROJECT DELETE %s", worker->project);
        return;
    }
}

static int64_t field(const struct line_value *map, const char *name) {
    const struct line_value *at = map + 1;
    for (int64_t i = 0; i < map->integer; i += 2) {
        if (line_is(at, name)) {
            return at->next->integer;
        }
        at = at->next->next;
    }
    return -1;
}

static void check_info(const struct quota *quota, const struct line_value *value) {
    int64_t keys = 0;
    for (unsigned i = 0; i < QUOTA_KEYS; i++) {
        keys += quota->sizes[i] >= 0 ? 1 : 0;
    }
    if (value->kind != LINE_ARRAY || field(value, "keys") != keys ||
        field(value, "used_bytes") != used_with(quota, QUOTA_KEYS, 0) ||
        field(value, "quota_bytes") != QUOTA) {
        sim_fail("WORKLOAD %s: PROJECT INFO says %lld keys, %lld bytes, quota %lld; there are %lld "
                 "keys, %lld bytes, quota %d",
                 quota->worker.project, (long long)field(value, "keys"),
                 (long long)field(value, "used_bytes"), (long long)field(value, "quota_bytes"),
                 (long long)keys, (long long)used_with(quota, QUOTA_KEYS, 0), QUOTA);
    }
    cover("used bytes of a project checked");
}

static void quota_reply(struct worker *worker, unsigned at, const struct line_value *value) {
    struct quota *quota = (struct quota *)worker;
    (void)at;
    if (value->kind == LINE_ERROR && !worker_is_refusal(value)) {
        worker_fail(worker, "unexpected error", value);
    }
    bool unknown = value->kind == LINE_ERROR;
    switch (quota->stage) {
    case QUOTA_SESSION:
        if (!unknown) {
            snprintf(worker->session, sizeof worker->session, "%.*s", (int)value->text.size,
                     (const char *)value->text.data);
            worker->number = 0;
            quota->stage = QUOTA_CREATE;
        }
        return;
    case QUOTA_CREATE:
        if (unknown) {
            next_project(quota);
        } else {
            quota->stage = QUOTA_WORK;
        }
        return;
    case QUOTA_WORK:
        if (!unknown) {
            check_info(quota, value);
        }
        return;
    case QUOTA_DELETE:
        cover("projects deleted");
        next_project(quota);
        return;
    }
}

static void quota_answered(struct worker *worker, const struct line_value *value) {
    struct quota *quota = (struct quota *)worker;
    if (value == NULL) {
        next_project(quota);
        return;
    }
    int64_t before = quota->sizes[quota->key];
    if (line_is_error(value, "QUOTA")) {
        if (quota->size < 0 || used_with(quota, quota->key, quota->size) <= QUOTA) {
            worker_fail(worker, "refused although it is within the quota", value);
        }
        cover("writes beyond a quota refused");
    } else if (value->kind == LINE_ERROR) {
        worker_fail(worker, "unexpected error", value);
    } else {
        bool grows = quota->size > before;
        int64_t expected = quota->appends ? quota->size : before >= 0 ? 1 : 0;
        if (grows && used_with(quota, quota->key, quota->size) > QUOTA) {
            worker_fail(worker, "carried out beyond the quota", value);
        }
        if ((quota->appends || quota->size < 0) && value->integer != expected) {
            worker_fail(worker, "a numbered write answers something else than it must", value);
        }
        quota->sizes[quota->key] = quota->size;
    }
    if (quota->n_writes >= WRITES_PER_PROJECT) {
        quota->stage = QUOTA_DELETE;
    }
}

static void quota_down(struct worker *worker) {
    struct quota *quota = (struct quota *)worker;
    if (quota->stage == QUOTA_CREATE || quota->stage == QUOTA_DELETE) {
        next_project(quota); /* what became of that one nobody knows */
    }
}

static void quota_finish(struct worker *worker) {
    (void)worker;
}

const struct worker_kind worker_quota = {.size = sizeof(struct quota),
                                         .init = quota_init,
                                         .act = quota_act,
                                         .reply = quota_reply,
                                         .answered = quota_answered,
                                         .down = quota_down,
                                         .finish = quota_finish};
