/* Money moves between accounts by WATCH, MULTI and EXEC, and is counted within transactions that
 * only read. What a transaction answers follows to the unit from what was read under its WATCH, and
 * the sum is the same for everybody at all times. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/worker.h"

enum { ACCOUNTS = 4, EACH = 100, TURNS_PER_NODE = 60 };

enum stage { BANK_OPEN, BANK_WATCH, BANK_EXEC, BANK_COUNT };

struct bank {
    struct worker worker;
    enum stage stage;
    unsigned from;
    unsigned to;
    int64_t had[2];
    int64_t amount;
    bool refused;   /* one of the commands under way */
    uint64_t least; /* transfers that the count under way must know of */
};

/* Transfers, all workers together. */
static uint64_t n_carried_out;
static uint64_t n_unknown;

static void bank_init(struct worker *worker, unsigned number) {
    (void)number;
    snprintf(worker->project, sizeof worker->project, "bank");
}

static void bank_act(struct worker *worker) {
    struct bank *bank = (struct bank *)worker;
    bank->refused = false;
    switch (bank->stage) {
    case BANK_OPEN:
        worker_ask(worker, "MSETNX a0 %d a1 %d a2 %d a3 %d n 0", EACH, EACH, EACH, EACH);
        return;
    case BANK_WATCH:
        if (kernel_random(TURNS_PER_NODE) == 0) {
            worker_move_on(worker);
            return;
        }
        bank->from = (unsigned)kernel_random(ACCOUNTS);
        bank->to = (bank->from + 1 + (unsigned)kernel_random(ACCOUNTS - 1)) % ACCOUNTS;
        worker_ask(worker, "WATCH a%u a%u", bank->from, bank->to);
        worker_ask(worker, "GET a%u", bank->from);
        worker_ask(worker, "GET a%u", bank->to);
        return;
    case BANK_EXEC:
        bank->amount = (int64_t)kernel_random(10);
        worker_ask(worker, "MULTI");
        worker_ask(worker, "DECRBY a%u %lld", bank->from, (long long)bank->amount);
        worker_ask(worker, "INCRBY a%u %lld", bank->to, (long long)bank->amount);
        worker_ask(worker, "INCR n");
        worker_ask(worker, "EXEC");
        return;
    case BANK_COUNT:
        bank->least = n_carried_out;
        worker_ask(worker, "MULTI");
        worker_ask(worker, "GET a0");
        worker_ask(worker, "MGET a1 a2");
        worker_ask(worker, "GET a3");
        worker_ask(worker, "GET n");
        worker_ask(worker, "EXEC");
        return;
    }
}

static int64_t number_of(const struct worker *worker, const struct line_value *value) {
    if (value->kind != LINE_BULK) {
        worker_fail(worker, "an account is gone", value);
    }
    return strtoll((const char *)value->text.data, NULL, 10);
}

static void transferred(struct bank *bank, const struct line_value *value) {
    const struct line_value *taken = value + 1;
    if (value->kind == LINE_NIL) {
        cover("transactions in conflict");
        return;
    }
    if (value->kind != LINE_ARRAY || value->integer != 3 ||
        taken[0].integer != bank->had[0] - bank->amount ||
        taken[1].integer != bank->had[1] + bank->amount) {
        worker_fail(&bank->worker, "a transaction went on although what it watches had changed",
                    value);
    }
    n_carried_out++;
    cover("transactions carried out");
}

static void counted(const struct bank *bank, const struct line_value *value) {
    const struct line_value *at = value + 1;
    if (value->kind != LINE_ARRAY || value->integer != 4) {
        worker_fail(&bank->worker, "a transaction that reads", value);
    }
    int64_t sum = number_of(&bank->worker, &at[0]) + number_of(&bank->worker, &at[2]) +
                  number_of(&bank->worker, &at[3]) + number_of(&bank->worker, &at[4]);
    int64_t n = number_of(&bank->worker, &at[5]);
    if (sum != (int64_t)ACCOUNTS * EACH) {
        worker_fail(&bank->worker, "money was made or lost", &at[5]);
    }
    if (n < (int64_t)bank->least || n > (int64_t)(n_carried_out + n_unknown) + 3) {
        worker_fail(&bank->worker, "a transfer was lost or carried out twice", &at[5]);
    }
    cover("transactions that read");
}

static void bank_reply(struct worker *worker, unsigned at, const struct line_value *value) {
    struct bank *bank = (struct bank *)worker;
    if (value->kind == LINE_ERROR) {
        bool is_end = bank->stage == BANK_EXEC && at == 4;
        n_unknown += is_end && line_is_error(value, "UNCERTAIN") ? 1 : 0;
        if (!worker_is_refusal(value) && !line_is_error(value, "EXECABORT")) {
            worker_fail(worker, "unexpected error", value);
        }
        bank->refused = true;
    }
    switch (bank->stage) {
    case BANK_OPEN:
        bank->stage = value->kind == LINE_INTEGER ? BANK_WATCH : BANK_OPEN;
        return;
    case BANK_WATCH:
        if (at > 0 && !bank->refused) {
            bank->had[at - 1] = number_of(worker, value);
        }
        if (at == 2 && !bank->refused) {
            bank->stage = kernel_random(4) == 0 ? BANK_COUNT : BANK_EXEC;
        }
        return;
    case BANK_EXEC:
        if (at == 4) {
            bank->stage = BANK_WATCH;
            if (value->kind != LINE_ERROR) {
                transferred(bank, value);
            }
        }
        return;
    case BANK_COUNT:
        if (at == 5) {
            bank->stage = BANK_WATCH;
            if (value->kind == LINE_ARRAY) {
                counted(bank, value);
            }
        }
        return;
    }
}

static void bank_down(struct worker *worker) {
    struct bank *bank = (struct bank *)worker;
    if (bank->stage == BANK_EXEC) {
        n_unknown++;
    }
    bank->stage = bank->stage == BANK_OPEN ? BANK_OPEN : BANK_WATCH;
}

static void bank_finish(struct worker *worker) {
    (void)worker;
}

const struct worker_kind worker_bank = {.size = sizeof(struct bank),
                                        .init = bank_init,
                                        .act = bank_act,
                                        .reply = bank_reply,
                                        .down = bank_down,
                                        .finish = bank_finish};
