#include "tests/sim/workloads.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "tests/sim/cluster.h"
#include "tests/sim/worker.h"

enum { WORKERS_MAX = 16, CONNECT_TIMEOUT_S = 3, LISTEN_TIMEOUT_S = 12 };

static struct workload_options options;
static struct worker *workers[WORKERS_MAX];
static unsigned n_workers;
static bool stopped;
static uint64_t n_operations;

static void plan(struct worker *worker, uint64_t after_ns);

bool worker_is_stopped(void) {
    return stopped;
}

static bool is_under_way(const struct worker *worker) {
    return worker->n_answered < worker->n_asked;
}

void worker_fail(const struct worker *worker, const char *what, const struct line_value *value) {
    int size = value == NULL ? 0 : (int)value->text.size;
    sim_fail("WORKLOAD %s: %s: %.*s (%lld)", worker->project, what, size < 200 ? size : 200,
             value == NULL ? "" : (const char *)value->text.data,
             value == NULL ? 0LL : (long long)value->integer);
}

bool worker_is_refusal(const struct line_value *value) {
    static const char *const prefixes[] = {"NOLEADER", "BUSY", "NOSPACE", "STALE", "UNCERTAIN"};
    for (unsigned i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        if (line_is_error(value, prefixes[i])) {
            return true;
        }
    }
    return false;
}

/* ---- sending ---- */

void worker_ask(struct worker *worker, const char *format, ...) {
    char text[WORKER_COMMAND + 100];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    ASSERT(size > 0 && (size_t)size < sizeof text);
    worker->n_asked++;
    line_send(worker->line, "%s", text);
}

static void send_numbered(struct worker *worker) {
    worker->must_send_again = false;
    worker_ask(worker, "ONCE %s %llu DONE %llu %s", worker->session,
               (unsigned long long)worker->number, (unsigned long long)worker->number,
               worker->numbered);
}

void worker_ask_once(struct worker *worker, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(worker->numbered, sizeof worker->numbered, format, arguments);
    va_end(arguments);
    ASSERT(size > 0 && (size_t)size < sizeof worker->numbered && worker->session[0] != '\0');
    worker->number++;
    send_numbered(worker);
}

/* ---- answers ---- */

static void numbered_answered(struct worker *worker, const struct line_value *value) {
    if (worker_is_refusal(value)) {
        worker->must_send_again = true;
        return;
    }
    worker->numbered[0] = '\0';
    if (line_is_error(value, "NOSESSION")) {
        cover("workload sessions lost");
        worker->session[0] = '\0';
        worker->kind->answered(worker, NULL);
    } else {
        worker->kind->answered(worker, value);
    }
}

static void on_reply(void *data, const struct line_value *value) {
    struct worker *worker = data;
    worker->heard_at = kernel_now();
    if (!is_under_way(worker)) {
        if (worker->kind->pushed == NULL) {
            worker_fail(worker, "a reply that it did not ask for", value);
        }
        worker->kind->pushed(worker, value);
        return;
    }
    unsigned at = worker->n_answered++;
    n_operations++;
    worker->n_since += value->kind != LINE_ERROR ? 1 : 0;
    if (at < worker->n_hidden) {
        if (value->kind == LINE_ERROR) {
            worker_fail(worker, "AUTH was refused", value);
        }
    } else if (worker->numbered[0] != '\0' && !is_under_way(worker)) {
        numbered_answered(worker, value);
    } else {
        worker->kind->reply(worker, at - worker->n_hidden, value);
    }
    if (line_is_up(worker->line) && !is_under_way(worker)) {
        plan(worker, kernel_delay(options.think_ns));
    }
}

/* ---- connections ---- */

static void on_down(void *data) {
    struct worker *worker = data;
    bool had_numbered = worker->numbered[0] != '\0';
    worker->epoch++;
    worker->n_asked = 0;
    worker->n_answered = 0;
    worker->n_hidden = 0;
    worker->bound = false;
    worker->must_send_again = had_numbered;
    if (worker->kind->down != NULL) {
        worker->kind->down(worker);
    }
    plan(worker, kernel_delay(50 * SIM_MS));
}

void worker_move_on(struct worker *worker) {
    line_close(worker->line);
    on_down(worker);
}

static void watch(struct worker *worker, uint64_t ns);

struct deadline {
    struct worker *worker;
    uint64_t ns;
    uint64_t epoch;
    uint64_t heard_at;
};

static void on_deadline(void *data) {
    struct deadline deadline = *(struct deadline *)data;
    struct worker *worker = deadline.worker;
    sim_free(data);
    bool waits = is_under_way(worker) || !line_is_up(worker->line) || worker->listens;
    if (worker->epoch != deadline.epoch || !waits) {
        return;
    }
    if (worker->heard_at != deadline.heard_at) {
        watch(worker, deadline.ns);
        return;
    }
    line_close(worker->line);
    on_down(worker);
}

static void watch(struct worker *worker, uint64_t ns) {
    struct deadline *deadline = sim_alloc(sizeof *deadline);
    *deadline = (struct deadline){worker, ns, worker->epoch, worker->heard_at};
    kernel_at(kernel_now() + ns, NULL, on_deadline, deadline);
}

static void begin_turn(struct worker *worker) {
    worker->n_asked = 0;
    worker->n_answered = 0;
    worker->n_hidden = 0;
}

static void on_up(void *data) {
    struct worker *worker = data;
    begin_turn(worker);
    plan(worker, 0);
}

static void go_on(void *data) {
    struct worker *worker = data;
    worker->planned = false;
    bool rests = stopped && !worker->must_send_again && !worker->listens;
    if (rests || is_under_way(worker)) {
        return;
    }
    if (!line_is_up(worker->line)) {
        line_close(worker->line);
        worker->epoch++;
        worker->node = cluster_some_member();
        line_open(worker->line, worker->node);
        watch(worker, CONNECT_TIMEOUT_S * SIM_S);
        return;
    }
    begin_turn(worker);
    if (!worker->bound) {
        worker_ask(worker, "AUTH %s x", worker->project);
        worker->bound = true;
        worker->n_hidden = 1;
    }
    if (worker->must_send_again) {
        cover("workload writes sent again");
        send_numbered(worker);
    } else {
        worker->kind->act(worker);
    }
    watch(worker, worker->listens ? LISTEN_TIMEOUT_S * SIM_S : options.patience_ns);
}

static void plan(struct worker *worker, uint64_t after_ns) {
    if (!worker->planned) {
        worker->planned = true;
        kernel_at(kernel_now() + after_ns, NULL, go_on, worker);
    }
}

/* ---- all of them ---- */

static void add(const struct worker_kind *kind, unsigned n) {
    static const struct line_events events = {.up = on_up, .reply = on_reply, .down = on_down};
    for (unsigned i = 0; i < n; i++) {
        ASSERT(n_workers < WORKERS_MAX);
        struct worker *worker = sim_alloc(kind->size);
        worker->kind = kind;
        worker->line = line_new(&events, worker);
        kind->init(worker, i);
        workers[n_workers++] = worker;
        plan(worker, kernel_delay(100 * SIM_MS));
    }
}

void workloads_start(const struct workload_options *wanted) {
    options = *wanted;
    add(&worker_bank, options.bank ? 3 : 0);
    add(&worker_quota, options.quota ? 1 : 0);
    add(&worker_scan, options.scan ? 1 : 0);
    add(&worker_feed_writer, options.feed ? 1 : 0);
    add(&worker_feed_reader, options.feed ? 2 : 0);
}

void workloads_stop(void) {
    stopped = true;
}

bool workloads_are_idle(void) {
    for (unsigned i = 0; i < n_workers; i++) {
        struct worker *worker = workers[i];
        if (worker->must_send_again || (is_under_way(worker) && !worker->listens) ||
            (worker->kind->is_done != NULL && !worker->kind->is_done(worker))) {
            return false;
        }
    }
    return true;
}

void workloads_finish(void) {
    for (unsigned i = 0; i < n_workers; i++) {
        workers[i]->listens = false;
        workers[i]->epoch++;
        line_close(workers[i]->line);
        workers[i]->kind->finish(workers[i]);
    }
}

uint64_t workloads_progress(void) {
    uint64_t least = UINT64_MAX;
    for (unsigned i = 0; i < n_workers; i++) {
        if (!workers[i]->listens) {
            least = workers[i]->n_since < least ? workers[i]->n_since : least;
        }
        workers[i]->n_since = 0;
    }
    return least;
}

uint64_t workloads_operations(void) {
    return n_operations;
}
