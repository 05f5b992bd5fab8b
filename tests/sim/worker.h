/* What the clients of workloads.h have in common: a line to some node, time to think, patience, and
 * numbered writes that are sent again until they are answered. */
#ifndef SIM_WORKER_H
#define SIM_WORKER_H

#include "tests/sim/kernel.h"
#include "tests/sim/line.h"

enum { WORKER_NAME = 32, WORKER_COMMAND = 4096, WORKER_SESSION = 40 };

struct worker;

struct worker_kind {
    size_t size; /* of the struct that begins with a worker */
    void (*init)(struct worker *worker, unsigned number);
    /* Nothing is under way: sends one command or several. Not called while `must_send_again`. */
    void (*act)(struct worker *worker);
    /* The reply to the command that `act` sent as number `at` (from 0) of this turn. */
    void (*reply)(struct worker *worker, unsigned at, const struct line_value *value);
    /* The final answer of a numbered write; NULL: its session is gone, nobody knows. */
    void (*answered)(struct worker *worker, const struct line_value *value);
    /* The connection broke; numbered writes are taken care of. May be NULL. */
    void (*down)(struct worker *worker);
    /* What comes without having been asked for; may be NULL. */
    void (*pushed)(struct worker *worker, const struct line_value *value);
    /* May be NULL: done as soon as nothing is under way. */
    bool (*is_done)(struct worker *worker);
    void (*finish)(struct worker *worker);
};

struct worker {
    const struct worker_kind *kind;
    struct line *line;
    char project[WORKER_NAME];
    bool listens; /* goes on after the others have stopped: its is_done() says for how long */
    bool bound;   /* the connection has shown the project */
    unsigned node;
    uint64_t epoch;
    unsigned n_asked;
    unsigned n_answered;
    unsigned n_hidden; /* of those asked, before the first of `act` */
    bool planned;
    uint64_t n_since;
    uint64_t heard_at;

    char session[WORKER_SESSION]; /* empty: none */
    uint64_t number;
    char numbered[WORKER_COMMAND]; /* the write under way, empty: none */
    bool must_send_again;
};

void worker_ask(struct worker *worker, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* A write that takes effect once: its answer goes to `answered`. The last command of a turn. */
void worker_ask_once(struct worker *worker, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Leaves for another node, as if the connection had broken. */
void worker_move_on(struct worker *worker);
bool worker_is_stopped(void);
/* The server says that it was not carried out, or that nobody knows. */
bool worker_is_refusal(const struct line_value *value);
_Noreturn void worker_fail(const struct worker *worker, const char *what,
                           const struct line_value *value);

extern const struct worker_kind worker_bank, worker_quota, worker_scan, worker_feed_writer,
    worker_feed_reader;

#endif
