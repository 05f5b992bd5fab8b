/* One client writes numbered, one write after the other, so the events of its project are known in
 * advance. Readers follow them by WATCHKEYS and resume at other nodes: they must see each once and
 * in this order, unless a node says -GONE, after which they may have missed some. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/worker.h"

enum { EVENTS_MAX = 60000, MOVES_ON = 80 /* one event in so many */ };

struct expected {
    bool is_delete;
    bool is_maybe; /* its session was lost: nobody knows whether it was carried out */
    uint32_t key;
};

static struct expected *expected;
static uint64_t n_expected;

/* ---- the writer ---- */

struct feed_writer {
    struct worker worker;
    uint32_t next_key;
};

static void writer_init(struct worker *worker, unsigned number) {
    (void)number;
    snprintf(worker->project, sizeof worker->project, "feed");
    expected = sim_alloc(EVENTS_MAX * sizeof *expected);
}

static void writer_act(struct worker *worker) {
    struct feed_writer *writer = (struct feed_writer *)worker;
    if (worker->session[0] == '\0') {
        worker_ask(worker, "ONCE OPEN");
        return;
    }
    if (n_expected == EVENTS_MAX) {
        worker_ask(worker, "PING");
        return;
    }
    /* A key is set once and deleted at most once. */
    struct expected *event = &expected[n_expected++];
    const struct expected *before = n_expected > 1 ? &expected[n_expected - 2] : NULL;
    if (before != NULL && !before->is_delete && !before->is_maybe && kernel_random(4) == 0) {
        *event = (struct expected){.is_delete = true, .key = before->key};
        worker_ask_once(worker, "DEL s-%u", event->key);
    } else {
        *event = (struct expected){.key = writer->next_key++};
        worker_ask_once(worker, "SET s-%u x", event->key);
    }
}

static void writer_reply(struct worker *worker, unsigned at, const struct line_value *value) {
    (void)at;
    if (value->kind == LINE_BULK) {
        snprintf(worker->session, sizeof worker->session, "%.*s", (int)value->text.size,
                 (const char *)value->text.data);
        worker->number = 0;
    } else if (value->kind == LINE_ERROR && !worker_is_refusal(value)) {
        worker_fail(worker, "unexpected error", value);
    }
}

static void writer_answered(struct worker *worker, const struct line_value *value) {
    if (value == NULL) {
        expected[n_expected - 1].is_maybe = true;
    } else if (line_is_error(value, "QUOTA")) {
        n_expected--; /* an answer: it was not carried out, and never will be */
        worker->n_since++;
    } else if (value->kind == LINE_ERROR) {
        worker_fail(worker, "unexpected error", value);
    }
}

static void writer_finish(struct worker *worker) {
    (void)worker;
}

/* ---- readers ---- */

struct feed_reader {
    struct worker worker;
    bool watching;
    bool has_place; /* what comes next is expected[next] */
    uint64_t next;
    bool has_complete;
    uint64_t complete; /* index up to which everything was seen */
    uint64_t partial;  /* index behind it of which something was seen, 0: none */
    unsigned n_seen;   /* events of that index, over all connections */
    unsigned n_told;   /* and over this one */
};

static void reader_init(struct worker *worker, unsigned number) {
    (void)number;
    snprintf(worker->project, sizeof worker->project, "feed");
    worker->listens = true;
}

static void reader_act(struct worker *worker) {
    struct feed_reader *reader = (struct feed_reader *)worker;
    if (reader->watching) {
        return;
    }
    reader->watching = true;
    if (reader->has_complete) {
        worker_ask(worker, "WATCHKEYS s- FROM %llu", (unsigned long long)reader->complete);
    } else {
        worker_ask(worker, "WATCHKEYS s-");
    }
}

/* There may be a gap now. */
static void lose_place(struct feed_reader *reader) {
    reader->has_place = false;
    reader->next = 0; /* the next replica may be further behind than this one was */
    reader->has_complete = false;
    reader->partial = 0;
    cover("watches that were told of a gap");
}

static void begin_watch(struct feed_reader *reader, const struct line_value *value) {
    if (value->kind == LINE_ERROR) {
        reader->watching = false;
        if (line_is_error(value, "GONE")) {
            if (kernel_random(2) == 0) {
                lose_place(reader); /* else another node may know more */
            }
        } else if (!worker_is_refusal(value)) {
            worker_fail(&reader->worker, "WATCHKEYS", value);
        }
        worker_move_on(&reader->worker);
        return;
    }
    if (value->kind != LINE_ARRAY || !line_is(value + 1, "watchkeys")) {
        worker_fail(&reader->worker, "WATCHKEYS", value);
    }
    uint64_t index = (uint64_t)value[3].integer;
    if (reader->has_complete && index != reader->complete) {
        worker_fail(&reader->worker, "resumes at another index", &value[3]);
    }
    cover(reader->has_complete ? "watches resumed" : "watches begun");
    reader->n_told = 0;
    reader->has_complete = true;
    reader->complete = index;
}

static bool is_event(const struct expected *event, const struct line_value *kind, uint32_t key) {
    return event->key == key && line_is(kind, event->is_delete ? "del" : "set");
}

static void saw(struct feed_reader *reader, const struct line_value *kind,
                const struct line_value *name) {
    uint32_t key = (uint32_t)strtoul((const char *)name->text.data + 2, NULL, 10);
    uint64_t at = reader->next;
    /* With a place the next one comes, or what nobody knows was left out; else any later one. */
    while (at < n_expected && !is_event(&expected[at], kind, key) &&
           (!reader->has_place || expected[at].is_maybe)) {
        at++;
    }
    if (at == n_expected || !is_event(&expected[at], kind, key)) {
        sim_fail(
            "WORKLOAD feed: node %u tells %.*s of s-%u; event %llu of %llu should come: %s s-%u",
            reader->worker.node, (int)kind->text.size, (const char *)kind->text.data, key,
            (unsigned long long)reader->next, (unsigned long long)n_expected,
            reader->next < n_expected && expected[reader->next].is_delete ? "del" : "set",
            reader->next < n_expected ? expected[reader->next].key : 0);
    }
    reader->has_place = true;
    reader->next = at + 1;
    reader->worker.n_since++;
    cover("events of a watch checked");
}

static void reader_pushed(struct worker *worker, const struct line_value *value) {
    struct feed_reader *reader = (struct feed_reader *)worker;
    if (line_is_error(value, "GONE")) {
        reader->watching = false;
        worker_move_on(worker); /* from the last complete index, elsewhere */
        return;
    }
    if (value->kind != LINE_ARRAY || value->integer != 4 || !line_is(value + 1, "event")) {
        worker_fail(worker, "a watch", value);
    }
    uint64_t index = (uint64_t)value[2].integer;
    bool is_progress = line_is(value + 3, "progress");
    if (index < reader->complete || (index == reader->complete && !is_progress) ||
        (index < reader->partial && !is_progress)) {
        worker_fail(worker, "an event of an earlier index", value + 2);
    }
    if (index < reader->partial) {
        reader->complete = index; /* this replica is not there yet */
        return;
    }
    bool goes_on = is_progress || index > reader->partial;
    if (goes_on && reader->partial > 0 && reader->n_told < reader->n_seen) {
        worker_fail(worker, "resumed without the events of an index that was not complete",
                    value + 2);
    }
    if (is_progress) {
        reader->complete = index;
        reader->partial = 0;
        return;
    }
    if (index > reader->partial) {
        reader->complete = reader->partial > 0 ? reader->partial : reader->complete;
        reader->partial = index;
        reader->n_seen = 0;
        reader->n_told = 0;
    }
    if (++reader->n_told <= reader->n_seen) {
        return; /* again, after a break within its index */
    }
    reader->n_seen = reader->n_told;
    saw(reader, value + 3, value + 4);
    if (kernel_random(MOVES_ON) == 0) {
        worker_move_on(worker);
    }
}

static void reader_reply(struct worker *worker, unsigned at, const struct line_value *value) {
    (void)at;
    begin_watch((struct feed_reader *)worker, value);
}

static void reader_down(struct worker *worker) {
    ((struct feed_reader *)worker)->watching = false;
}

/* The end of what is known to have happened. */
static bool reader_is_done(struct worker *worker) {
    const struct feed_reader *reader = (const struct feed_reader *)worker;
    uint64_t end = n_expected;
    while (end > 0 && expected[end - 1].is_maybe) {
        end--;
    }
    /* Who has no place may have begun behind the last event. */
    return reader->next >= end || !reader->has_place;
}

static void reader_finish(struct worker *worker) {
    (void)worker;
}

const struct worker_kind worker_feed_writer = {.size = sizeof(struct feed_writer),
                                               .init = writer_init,
                                               .act = writer_act,
                                               .reply = writer_reply,
                                               .answered = writer_answered,
                                               .finish = writer_finish};

const struct worker_kind worker_feed_reader = {.size = sizeof(struct feed_reader),
                                               .init = reader_init,
                                               .act = reader_act,
                                               .reply = reader_reply,
                                               .down = reader_down,
                                               .pushed = reader_pushed,
                                               .is_done = reader_is_done,
                                               .finish = reader_finish};
