/* Reads that this node's replica answers by itself, whoever leads: those of a session, which wait
 * until the replica has applied what the session has seen, and eventual ones, which do not wait.
 *
 * One job at a time and in order of arrival: a later read of a session never sees less than an
 * earlier one, although a job may leave reads over for the next. */
#include <stdio.h>

#include "base/assert.h"
#include "node/router_internal.h"

/* --- how fresh the replica is ----------------------------------------------------------------- */

/* All that was committed at mark.at_ms is applied. That takes an entry of the leader's own term:
 * before it has one committed, a new leader may not know of all that its predecessor had. */
static bool mark_is_reached(const struct route *route) {
    const struct shard *shard = route->shard;
    return shard->state.applied_index >= route->mark.commit &&
           shard->applied_term == group_term(shard->group);
}

static void settle_mark(struct route *route) {
    if (route->mark.at_ms == 0 || !mark_is_reached(route)) {
        return;
    }
    if (route->mark.at_ms > route->fresh_ms) {
        route->fresh_ms = route->mark.at_ms;
    }
    route->mark.at_ms = 0;
}

/* Under load the newest contact is always a little ahead of what is applied, so one contact is kept
 * until it counts. One of an earlier term never will. */
void local_note_fresh(struct route *route) {
    struct group_contact contact;
    settle_mark(route);
    if (!group_contact(route->shard->group, &contact)) {
        route->mark.at_ms = 0;
        return;
    }
    struct group_contact kept = route->mark;
    route->mark = contact;
    settle_mark(route);
    if (route->mark.at_ms > 0 && kept.at_ms > 0) {
        route->mark = kept;
    }
}

/* --- refusals --------------------------------------------------------------------------------- */

static void fail_stale(struct route *route, struct op *op, const char *text) {
    router_fail(route->router, op, ERROR_STALE, text);
}

/* The replica's state is whole: not that of a node that has yet to get its first snapshot. */
static bool replica_is_whole(const struct route *route) {
    const struct shard *shard = route->shard;
    return !shard->stopped && group_is_started(shard->group) && shard->state.applied_index > 0 &&
           !group_is_installing(shard->group);
}

bool router_replica_is_whole(const struct router *router, unsigned shard) {
    return replica_is_whole(&router->routes[shard]);
}

static void refuse_old(struct route *route, struct op *op, uint64_t now_ms) {
    char text[ERROR_MESSAGE_SIZE];
    if (route->fresh_ms == 0) {
        snprintf(text, sizeof text,
                 "this replica has not caught up with a leader since it started, so its age is "
                 "unknown; the limit is %llu ms (MAXSTALE); ask another node",
                 (unsigned long long)op->max_stale_ms);
    } else {
        snprintf(text, sizeof text,
                 "this replica is %llu ms behind its leader, more than the limit of %llu ms "
                 "(MAXSTALE); ask another node",
                 (unsigned long long)(now_ms - route->fresh_ms),
                 (unsigned long long)op->max_stale_ms);
    }
    fail_stale(route, op, text);
}

static bool is_too_old(const struct route *route, const struct op *op, uint64_t now_ms) {
    return op->level == READ_EVENTUAL && op->max_stale_ms > 0 &&
           (route->fresh_ms == 0 || now_ms > route->fresh_ms + op->max_stale_ms);
}

/* False when the read was refused. */
static bool admit_eventual(struct route *route, struct op *op) {
    if (!replica_is_whole(route)) {
        fail_stale(route, op, ROUTER_NOT_WHOLE);
        return false;
    }
    uint64_t now_ms = router_now(route->router);
    local_note_fresh(route);
    if (is_too_old(route, op, now_ms)) {
        refuse_old(route, op, now_ms);
        return false;
    }
    return true;
}

/* --- running ---------------------------------------------------------------------------------- */

void local_submit(struct route *route, struct op *op) {
    op->state = OP_READING;
    /* A replica that fell back for lack of space shows nothing older than what it has shown. */
    op->index = op->level == READ_SESSION ? op->min_index : route->shard->settled;
    list_push(&route->local, &op->link);
    if (op->level == READ_SESSION || admit_eventual(route, op)) {
        local_run(route);
    }
}

/* Answers a read that was carried out, unless the state machine took so long that the answer has
 * become too old. Jobs end in order, so what counts as fresh by now was there when it ran. */
static void finish_read(struct route *route, struct op *op, struct job *job, unsigned i) {
    uint64_t now_ms = router_now(route->router);
    op->job = NULL;
    if (is_too_old(route, op, now_ms)) {
        refuse_old(route, op, now_ms);
    } else {
        op->seen_index = job->state.applied_index;
        router_finish(route->router, op, &job->reads[i].result);
    }
}

static void local_done(struct job *job) {
    struct route *route = job->data;
    ASSERT(route->local_job);
    route->local_job = false;
    shard_observe(route->shard, job);
    local_note_fresh(route);
    for (unsigned i = job->n_reads; i-- > job->n_done;) {
        struct op *op = job->reads[i].data;
        if (op != NULL) {
            op->job = NULL;
            list_remove(&op->link);
            list_insert_before(route->local.next, &op->link);
        }
    }
    for (unsigned i = 0; i < job->n_done; i++) {
        struct op *op = job->reads[i].data;
        if (op != NULL) {
            finish_read(route, op, job, i);
        }
    }
    job_free(job);
    local_run(route);
}

static bool is_runnable(const struct route *route, const struct op *op) {
    return (op->level == READ_EVENTUAL || replica_is_whole(route)) &&
           op->index <= shard_enqueued(route->shard);
}

void local_run(struct route *route) {
    const struct router_port *port = &route->router->options.port;
    bool full = port->replies_are_full != NULL && port->replies_are_full(port->data);
    if (route->local_job) {
        return;
    }
    uint64_t client = 0;
    struct job *job = NULL;
    struct list_node *at = route->local.next;
    while (at != &route->local && (job == NULL || job->n_reads < ROUTER_READ_JOB)) {
        struct op *op = LIST_ENTRY(at, struct op, link);
        at = at->next;
        if (!is_runnable(route, op) || (full && !router_is_modest(op, &client))) {
            continue;
        }
        if (job == NULL) {
            job = job_new(JOB_READ, route->number, local_done, route);
            job->time_ms = shard_time_ms(route->shard);
        }
        job_add_read(job, buffer_slice(&op->command), op->index, op);
        list_remove(&op->link);
        list_push(&route->executing, &op->link);
    }
    if (job == NULL) {
        return;
    }
    for (unsigned i = 0; i < job->n_reads; i++) {
        struct op *op = job->reads[i].data;
        op->job = &job->reads[i];
    }
    route->local_job = true;
    port->submit(port->data, job);
}

/* --- ends ------------------------------------------------------------------------------------- */

static void refuse_late(struct route *route, struct op *op) {
    char text[ERROR_MESSAGE_SIZE];
    snprintf(text, sizeof text,
             "this replica has applied entry %llu of its shard, this session has seen entry %llu, "
             "and the replica did not get there in time; ask another node",
             (unsigned long long)route->shard->state.applied_index, (unsigned long long)op->index);
    fail_stale(route, op, text);
}

void local_expire(struct route *route, uint64_t now_ms) {
    struct list_node late;
    list_init(&late);
    for (struct list_node *at = route->local.next; at != &route->local;) {
        struct op *op = LIST_ENTRY(at, struct op, link);
        at = at->next;
        if (op->deadline_ms <= now_ms) {
            list_remove(&op->link);
            list_push(&late, &op->link);
        }
    }
    while (!list_empty(&late)) {
        struct op *op = LIST_ENTRY(list_first(&late), struct op, link);
        if (is_runnable(route, op)) {
            router_fail(route->router, op, ERROR_BUSY,
                        "this shard's state machine did not answer in time; try again");
        } else {
            refuse_late(route, op);
        }
    }
}

void local_close(struct route *route) {
    while (!list_empty(&route->local)) {
        struct op *op = LIST_ENTRY(list_first(&route->local), struct op, link);
        router_fail(route->router, op, ERROR_NOLEADER, "this node is shutting down");
    }
}
