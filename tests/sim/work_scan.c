/* Some keys are there all the time, others come and go. A walk by SCAN, over connections to
 * changing nodes and across elections, must answer all of the former. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/worker.h"

enum { KEPT = 20, OTHERS = 40, CALLS_MAX = 400 };

struct scan {
    struct worker worker;
    unsigned n_kept; /* so many are there for certain */
    bool walking;
    char cursor[24];
    uint32_t seen;
    unsigned n_calls;
    bool asked_scan;
};

static void scan_init(struct worker *worker, unsigned number) {
    (void)number;
    snprintf(worker->project, sizeof worker->project, "scan");
}

static void scan_act(struct worker *worker) {
    struct scan *scan = (struct scan *)worker;
    scan->asked_scan = false;
    if (scan->n_kept < KEPT) {
        worker_ask(worker, "SET keep-%u x", scan->n_kept);
        return;
    }
    if (kernel_random(3) == 0) {
        worker_ask(worker, kernel_random(2) == 0 ? "SET other-%u x" : "DEL other-%u",
                   (unsigned)kernel_random(OTHERS));
        return;
    }
    if (!scan->walking) {
        scan->walking = true;
        scan->seen = 0;
        scan->n_calls = 0;
        snprintf(scan->cursor, sizeof scan->cursor, "0");
    }
    if (kernel_random(40) == 0) {
        worker_move_on(worker); /* the next node goes on with the same cursor */
        return;
    }
    scan->asked_scan = true;
    worker_ask(worker, "SCAN %s COUNT %u", scan->cursor, 1 + (unsigned)kernel_random(12));
}

static void note_key(struct scan *scan, const struct line_value *key) {
    char text[32];
    snprintf(text, sizeof text, "%.*s", (int)key->text.size, (const char *)key->text.data);
    unsigned number =
        (unsigned)strtoul(strchr(text, '-') != NULL ? strchr(text, '-') + 1 : "99", NULL, 10);
    if (strncmp(text, "keep-", 5) == 0 && number < KEPT) {
        scan->seen |= (uint32_t)1 << number;
    } else if (strncmp(text, "other-", 6) != 0 || number >= OTHERS) {
        worker_fail(&scan->worker, "SCAN answers a key that nobody has written", key);
    }
}

static void took_step(struct scan *scan, const struct line_value *value) {
    const struct line_value *cursor = value + 1;
    if (value->kind != LINE_ARRAY || value->integer != 2 || cursor->kind != LINE_BULK) {
        worker_fail(&scan->worker, "SCAN", value);
    }
    const struct line_value *keys = cursor->next;
    for (int64_t i = 0; i < keys->integer; i++) {
        note_key(scan, &keys[1 + i]);
    }
    snprintf(scan->cursor, sizeof scan->cursor, "%.*s", (int)cursor->text.size,
             (const char *)cursor->text.data);
    if (strcmp(scan->cursor, "0") == 0) {
        if (scan->seen != ((uint32_t)1 << KEPT) - 1) {
            sim_fail("WORKLOAD scan: a whole walk of %u calls missed keys: it saw %05x",
                     scan->n_calls, scan->seen);
        }
        cover("whole walks by SCAN");
        scan->walking = false;
    } else if (++scan->n_calls > CALLS_MAX) {
        cover("walks by SCAN given up");
        scan->walking = false;
    }
}

static void scan_reply(struct worker *worker, unsigned at, const struct line_value *value) {
    struct scan *scan = (struct scan *)worker;
    (void)at;
    if (value->kind == LINE_ERROR) {
        if (!worker_is_refusal(value)) {
            worker_fail(worker, "unexpected error", value);
        }
        return;
    }
    if (scan->asked_scan) {
        took_step(scan, value);
    } else if (scan->n_kept < KEPT) {
        scan->n_kept++;
    }
}

static void scan_finish(struct worker *worker) {
    (void)worker;
}

const struct worker_kind worker_scan = {.size = sizeof(struct scan),
                                        .init = scan_init,
                                        .act = scan_act,
                                        .reply = scan_reply,
                                        .finish = scan_finish};
