/* The leader's side of the router: gathers commands, its own clients' and those forwarded by other
 * nodes, into batches; runs linearizable reads. */
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "node/router_internal.h"

/* --- replies to other nodes ------------------------------------------------------------------- */

static void send_reply(struct route *route, uint64_t node, const struct forward_reply *reply) {
    struct router_port *port = &route->router->options.port;
    struct buffer header = {0};
    struct payload *attachment = NULL;
    struct peer_message message;
    enum peer_lane lane =
        forward_reply_encode(reply, (uint16_t)route->number, &header, &attachment, &message);
    (void)port->send(port->data, node, lane, &message);
    payload_unref(attachment);
    buffer_free(&header);
}

void lead_reply(struct route *route, const struct job_result *result) {
    if (result->origin.sequence & ROUTER_FENCE_BIT) {
        return; /* its sender sees it in the log */
    }
    struct forward_reply reply = {.boot = result->origin.boot,
                                  .sequence = result->origin.sequence,
                                  .kind = FORWARD_REPLY_RESULT,
                                  .index = result->index,
                                  .result = result->result};
    send_reply(route, result->origin.node, &reply);
}

/* Where `node` stands, or would stand, in the table of refused streams. */
static unsigned find_refused(const struct route *route, uint64_t node) {
    unsigned i = 0;
    while (i < route->n_refused && route->refused[i].node != node) {
        i++;
    }
    return i;
}

static bool is_fence(const struct forward *forward) {
    return (forward->flags & FORWARD_FENCE) != 0;
}

/* Once one operation of a stream is refused, all later ones of it are: they must not overtake. A
 * node numbers its streams upwards, so whatever is older than the refused one is over as well. */
static bool is_refused(const struct route *route, uint64_t node, const struct forward *forward) {
    unsigned i = find_refused(route, node);
    if (i == route->n_refused || is_fence(forward)) {
        return false;
    }
    return forward->boot == route->refused[i].boot && forward->stream <= route->refused[i].stream;
}

static void refuse(struct route *route, uint64_t node, const struct forward *forward) {
    unsigned i = find_refused(route, node);
    if (i < LIMIT_NODES && !is_fence(forward) && !is_refused(route, node, forward)) {
        route->n_refused = i == route->n_refused ? i + 1 : route->n_refused;
        route->refused[i].node = node;
        route->refused[i].boot = forward->boot;
        route->refused[i].stream = forward->stream;
    }
    struct forward_reply reply = {.term = forward->term,
                                  .stream = forward->stream,
                                  .boot = forward->boot,
                                  .sequence = forward->sequence,
                                  .kind = FORWARD_REPLY_REFUSED};
    send_reply(route, node, &reply);
}

/* --- space ------------------------------------------------------------------------------------ */

/* Deletes and clears may still pass when space runs low, since they are how space is won back. */
static bool refuses_for_space(const struct route *route, struct slice command) {
    struct router_port *port = &route->router->options.port;
    bool grows = command_may_grow(command);
    if (port->log_is_full(port->data)) {
        return true;
    }
    return grows && (port->disk_is_low(port->data) || route->shard->stalled_until_ms > 0 ||
                     !group_quorum_has_space(route->shard->group));
}

static void set_no_space(struct result *result) {
    result_set_error(result, ERROR_NOSPACE,
                     "the disk of this shard's leader or of most of its replicas is nearly full; "
                     "nothing was written");
}

/* --- batches ---------------------------------------------------------------------------------- */

static void add_closed(struct route_batches *gathered, struct payload *batch) {
    ASSERT(gathered->n_closed < ROUTER_BATCHES);
    gathered->closed[gathered->n_closed++] = batch;
    gathered->bytes += batch->size;
}

static void close_batch(struct route *route) {
    if (route->batch_commands == 0) {
        return;
    }
    add_closed(&route->gathered, payload_copy(buffer_slice(&route->batch)));
    route->batch.size = 0;
    route->batch_commands = 0;
}

static void add_to_batch(struct route *route, struct command_origin origin, struct slice command) {
    uint64_t quota = route->router->options.default_quota;
    size_t added = COMMAND_FRAME_SIZE + command.size;
    if (command.size > ROUTER_ALONE) {
        close_batch(route);
        add_closed(&route->gathered, command_batch_of_one(quota, origin, command));
        return;
    }
    if (route->batch_commands > 0 && (route->batch.size + added > LIMIT_BATCH_SIZE ||
                                      route->batch_commands >= LIMIT_BATCH_COMMANDS)) {
        close_batch(route);
    }
    if (route->batch_commands == 0) {
        command_batch_begin(&route->batch, 0, quota); /* lead_flush() sets the time */
    }
    command_batch_add(&route->batch, origin, command);
    route->batch_commands++;
}

/* An operation closes at most one batch besides its own, and the flush one more. */
static bool has_slots(const struct route *route) {
    return route->gathered.n_closed + 2 < ROUTER_BATCHES;
}

static bool has_room(const struct route *route) {
    return has_slots(route) &&
           route->uncommitted_bytes + route->gathered.bytes + route->batch.size <
               ROUTER_UNCOMMITTED_BYTES;
}

/* Takes over what `gathered` owns but for its array of remotes. */
static void release_closed(struct route_batches *gathered) {
    for (unsigned i = 0; i < gathered->n_closed; i++) {
        payload_unref(gathered->closed[i]);
    }
    gathered->n_closed = 0;
    gathered->bytes = 0;
}

static void refuse_remotes(struct route *route, struct route_batches *gathered) {
    for (unsigned i = 0; i < gathered->n_remotes; i++) {
        const struct forward_reply *reply = &gathered->remotes[i].reply;
        struct forward forward = {.term = reply->term,
                                  .stream = reply->stream,
                                  .boot = reply->boot,
                                  .sequence = reply->sequence};
        forward.flags = (reply->sequence & ROUTER_FENCE_BIT) ? FORWARD_FENCE : 0;
        refuse(route, gathered->remotes[i].node, &forward);
    }
    gathered->n_remotes = 0;
}

/* Nothing of the batch was proposed: local operations wait, others' are refused. */
static void take_back(struct route *route) {
    struct list_node *at = route->inflight.next;
    while (at != &route->inflight) {
        struct op *op = LIST_ENTRY(at, struct op, link);
        at = at->next;
        if (op->state == OP_BATCHED) {
            router_park(route, op);
        }
    }
    refuse_remotes(route, &route->gathered);
    release_closed(&route->gathered);
    route->batch.size = 0;
    route->batch_commands = 0;
    route->retry_at_ms = router_now(route->router) + ROUTER_RETRY_MS;
}

/* Batched operations are the newest ones in flight. */
static void mark_proposed(struct route *route, uint64_t flush) {
    uint64_t term = group_term(route->shard->group);
    for (struct list_node *at = route->inflight.prev; at != &route->inflight; at = at->prev) {
        struct op *op = LIST_ENTRY(at, struct op, link);
        if (op->state != OP_BATCHED) {
            break;
        }
        op->state = OP_PROPOSED;
        op->term = term;
        op->index = flush;
    }
}

static void unmark_proposed(struct route *route, uint64_t flush) {
    for (struct list_node *at = route->inflight.next; at != &route->inflight; at = at->next) {
        struct op *op = LIST_ENTRY(at, struct op, link);
        if (op->state == OP_PROPOSED && op->index == flush) {
            op->state = OP_BATCHED;
        }
    }
}

/* Moves out what was gathered: the callbacks of a proposal may lead back here, and what they gather
 * belongs to the next flush. */
static struct route_batches *take_gathered(struct route *route) {
    struct route_batches *taken = mem_dup(&route->gathered, sizeof route->gathered);
    memset(&route->gathered, 0, sizeof route->gathered);
    return taken;
}

static void give_back(struct route *route, struct route_batches *taken) {
    release_closed(taken);
    if (route->gathered.remotes == NULL) {
        route->gathered.remotes = taken->remotes;
        route->gathered.remotes_capacity = taken->remotes_capacity;
    } else {
        mem_free(taken->remotes);
    }
    mem_free(taken);
}

bool lead_flush(struct route *route) {
    struct group *group = route->shard->group;
    uint64_t first = 0;
    close_batch(route);
    if (route->gathered.n_closed == 0) {
        return true;
    }
    if (!shard_is_ready(route->shard)) {
        take_back(route);
        return false;
    }
    struct route_batches *taken = take_gathered(route);
    uint64_t bytes = taken->bytes;
    uint64_t flush = ++route->flushes;
    /* The time of proposing, not of gathering: an expiry tick may have been proposed between. */
    for (unsigned i = 0; i < taken->n_closed; i++) {
        command_batch_set_time(taken->closed[i], shard_time_ms(route->shard));
    }
    mark_proposed(route, flush);
    bool proposed =
        group_propose(group, router_now(route->router), taken->closed, taken->n_closed, &first);
    if (!proposed) {
        unmark_proposed(route, flush);
        refuse_remotes(route, taken);
        take_back(route);
    } else if (router_leads(route)) {
        route->uncommitted_bytes += bytes;
    }
    give_back(route, taken);
    return proposed;
}

/* --- writes and reads ------------------------------------------------------------------------- */

/* The log index that the state machine must have reached for a read arriving now. False when the
 * writes that the read must see could not be proposed. */
static bool note_read_index(struct route *route, struct op *op) {
    op->index = group_commit(route->shard->group);
    if (op->after_writes) {
        if (!lead_flush(route)) {
            return false;
        }
        op->index = group_last(route->shard->group);
    }
    return router_leads(route);
}

static void begin_read(struct route *route, struct op *op) {
    op->state = OP_READING;
    op->round = group_read(route->shard->group);
    list_remove(&op->link);
    list_push(&route->reading, &op->link);
}

enum lead_answer lead_submit(struct route *route, struct op *op) {
    struct router *router = route->router;
    if (!shard_is_ready(route->shard)) {
        return LEAD_LATER;
    }
    if (!op->is_write) {
        if (!note_read_index(route, op)) {
            return LEAD_LATER;
        }
        begin_read(route, op);
        return LEAD_TAKEN;
    }
    if (refuses_for_space(route, buffer_slice(&op->command))) {
        struct result result = {0};
        set_no_space(&result);
        router_finish(router, op, &result);
        return LEAD_ANSWERED;
    }
    if (group_is_transferring(route->shard->group) || !has_room(route)) {
        return LEAD_LATER;
    }
    struct command_origin origin = {.node = (uint32_t)router->options.self,
                                    .boot = router->options.boot,
                                    .sequence = op->sequence};
    add_to_batch(route, origin, buffer_slice(&op->command));
    op->state = OP_BATCHED;
    op->fate_lost = false;
    op->term = group_term(route->shard->group);
    op->index = 0;
    list_remove(&op->link);
    list_push(&route->inflight, &op->link);
    router_enter_window(route, op);
    return LEAD_TAKEN;
}

struct remote_read {
    struct op op;
    struct route *route;
    uint64_t node;
    struct forward_reply reply;
};

static void remote_read_done(struct op *op, struct result *result) {
    struct remote_read *read = op->data;
    read->reply.kind = FORWARD_REPLY_RESULT;
    read->reply.index = op->seen_index;
    read->reply.result = *result;
    send_reply(read->route, read->node, &read->reply);
    read->route->router->remote_reads--;
    buffer_free(&op->command);
    mem_free(read);
}

static void refuse_remote_read(struct op *op) {
    struct remote_read *read = op->data;
    struct forward forward = {.term = read->reply.term,
                              .stream = read->reply.stream,
                              .boot = read->reply.boot,
                              .sequence = read->reply.sequence};
    list_remove(&op->link);
    refuse(read->route, read->node, &forward);
    read->route->router->remote_reads--;
    buffer_free(&op->command);
    mem_free(read);
}

static void begin_remote_read(struct route *route, uint64_t from, const struct forward *forward) {
    struct remote_read *read = mem_zalloc(1, sizeof *read);
    struct router *router = route->router;
    read->route = route;
    read->node = from;
    read->reply = (struct forward_reply){.term = forward->term,
                                         .stream = forward->stream,
                                         .boot = forward->boot,
                                         .sequence = forward->sequence};
    struct op *op = &read->op;
    list_init(&op->link);
    op->is_remote = true;
    op->done = remote_read_done;
    op->data = read;
    op->shard = route->number;
    op->after_writes = (forward->flags & FORWARD_AFTER_WRITES) != 0;
    op->deadline_ms = router_now(router) + router->options.request_timeout_ms;
    buffer_append_slice(&op->command, forward->command);
    router->remote_reads++;
    if (!note_read_index(route, op)) {
        refuse_remote_read(op);
        return;
    }
    begin_read(route, op);
}

static void note_remote(struct route *route, uint64_t from, const struct forward *forward) {
    struct route_batches *gathered = &route->gathered;
    if (gathered->n_remotes == gathered->remotes_capacity) {
        gathered->remotes_capacity =
            gathered->remotes_capacity == 0 ? 64 : 2 * gathered->remotes_capacity;
        gathered->remotes =
            mem_realloc(gathered->remotes, gathered->remotes_capacity * sizeof *gathered->remotes);
    }
    struct route_remote *remote = &gathered->remotes[gathered->n_remotes++];
    memset(remote, 0, sizeof *remote);
    remote->node = from;
    remote->reply.term = forward->term;
    remote->reply.stream = forward->stream;
    remote->reply.boot = forward->boot;
    remote->reply.sequence = forward->sequence;
}

/* A leader near to its ceiling of memory: the client hears of it at once, as where it is connected.
 * Fences have no size and settle what is open. */
static bool lacks_memory(const struct route *route, const struct forward *forward) {
    const struct router_port *port = &route->router->options.port;
    if (port->memory == NULL || is_fence(forward)) {
        return false;
    }
    bool is_write = (forward->flags & FORWARD_WRITE) != 0;
    return port->memory(port->data) >= (is_write ? MEMORY_NO_WRITES : MEMORY_NO_DATA);
}

static void fail_forwarded(struct route *route, uint64_t from, const struct forward *forward,
                           struct result *result) {
    struct forward_reply reply = {.term = forward->term,
                                  .stream = forward->stream,
                                  .boot = forward->boot,
                                  .sequence = forward->sequence,
                                  .kind = FORWARD_REPLY_FAILED,
                                  .result = *result};
    send_reply(route, from, &reply);
    result_free(result);
}

void lead_receive(struct route *route, uint64_t from, const struct forward *forward) {
    struct router *router = route->router;
    router_note_use(router, route->number);
    bool is_write = (forward->flags & FORWARD_WRITE) != 0;
    bool can_take = shard_is_ready(route->shard) &&
                    forward->term == group_term(route->shard->group) &&
                    !is_refused(route, from, forward);
    bool room = is_write ? (is_fence(forward) ? has_slots(route) : has_room(route)) &&
                               !group_is_transferring(route->shard->group)
                         : router->remote_reads < ROUTER_REMOTE_READS;
    if (!can_take || !room) {
        refuse(route, from, forward);
        return;
    }
    struct result refusal = {0};
    if (lacks_memory(route, forward)) {
        router->stats.pressed++;
        result_set_error(&refusal, ERROR_BUSY,
                         "the leader of this shard, node %llu, is near to its ceiling of memory "
                         "(max_memory); try again later",
                         (unsigned long long)router->options.self);
        fail_forwarded(route, from, forward, &refusal);
        return;
    }
    if (!is_write) {
        begin_remote_read(route, from, forward);
        return;
    }
    if (refuses_for_space(route, forward->command)) {
        set_no_space(&refusal);
        fail_forwarded(route, from, forward, &refusal);
        return;
    }
    struct command_origin origin = {
        .node = (uint32_t)from, .boot = forward->boot, .sequence = forward->sequence};
    note_remote(route, from, forward);
    add_to_batch(route, origin, forward->command);
}

void lead_abandon(struct route *route) {
    take_back(route);
    while (!list_empty(&route->reading)) {
        struct op *op = LIST_ENTRY(list_first(&route->reading), struct op, link);
        if (op->is_remote) {
            refuse_remote_read(op);
        } else {
            router_park(route, op);
        }
    }
    route->uncommitted_bytes = 0;
}

void lead_on_applied(struct route *route, const struct job *job, uint64_t index) {
    for (unsigned i = 0; i < job->n_entries && job->entries[i].index <= index; i++) {
        uint64_t size = job->entries[i].payload->size;
        /* Ticks, barriers and configurations were not counted when they were proposed. */
        bool counted = job->entries[i].kind == MACHINE_COMMANDS && size > COMMAND_BATCH_HEADER_SIZE;
        if (counted && job->entries[i].term == route->shard->lead_term) {
            route->uncommitted_bytes -=
                size < route->uncommitted_bytes ? size : route->uncommitted_bytes;
        }
    }
}

/* --- running reads ---------------------------------------------------------------------------- */

/* The state machine ran out of space before it got to what this read must see, or the reads before
 * it in the job gathered enough for one go. */
static void read_again(struct route *route, struct op *op) {
    op->job = NULL;
    if (shard_is_ready(route->shard)) {
        list_remove(&op->link);
        list_insert_before(route->reading.next, &op->link);
    } else if (op->is_remote) {
        refuse_remote_read(op);
    } else {
        router_park(route, op);
    }
}

static void reads_done(struct job *job) {
    struct route *route = job->data;
    struct router *router = route->router;
    ASSERT(route->read_jobs > 0);
    route->read_jobs--;
    shard_observe(route->shard, job);
    for (unsigned i = job->n_reads; i-- > job->n_done;) {
        if (job->reads[i].data != NULL) {
            read_again(route, job->reads[i].data);
        }
    }
    for (unsigned i = 0; i < job->n_done; i++) {
        struct op *op = job->reads[i].data;
        if (op != NULL) {
            op->job = NULL;
            op->seen_index = job->state.applied_index;
            router_finish(router, op, &job->reads[i].result);
        }
    }
    bool behind = job->behind;
    job_free(job);
    if (!behind) {
        lead_run_reads(route); /* what was left over, and what waited for this job */
    }
    router_drain(route);
}

void lead_expire_executing(struct route *route, uint64_t now_ms) {
    struct list_node *at = route->executing.next;
    struct list_node late;
    list_init(&late);
    while (at != &route->executing) {
        struct op *op = LIST_ENTRY(at, struct op, link);
        at = at->next;
        if (op->deadline_ms <= now_ms) {
            list_remove(&op->link);
            list_push(&late, &op->link);
        }
    }
    while (!list_empty(&late)) {
        struct op *op = LIST_ENTRY(list_first(&late), struct op, link);
        router_fail(route->router, op, ERROR_BUSY,
                    "this shard's state machine did not answer in time; try again");
    }
}

static bool is_runnable(const struct route *route, const struct op *op) {
    const struct router_port *port = &route->router->options.port;
    if (op->is_remote && port->queued_bytes != NULL) {
        const struct remote_read *read = op->data;
        if (port->queued_bytes(port->data, read->node) > ROUTER_REPLY_QUEUE) {
            return false; /* its reply would be dropped */
        }
    }
    return op->round <= group_reads_confirmed(route->shard->group) &&
           op->index <= shard_enqueued(route->shard);
}

static void submit_reads(struct route *route, struct job *job) {
    struct router_port *port = &route->router->options.port;
    for (unsigned i = 0; i < job->n_reads; i++) {
        struct op *op = job->reads[i].data;
        op->job = &job->reads[i];
    }
    route->read_jobs++;
    port->submit(port->data, job);
}

void lead_run_reads(struct route *route) {
    const struct router_port *port = &route->router->options.port;
    bool full = port->replies_are_full != NULL && port->replies_are_full(port->data);
    if (!shard_is_ready(route->shard) || (full && route->read_jobs > 0)) {
        return;
    }
    uint64_t client = 0;
    struct job *job = NULL;
    struct list_node *at = route->reading.next;
    while (at != &route->reading && route->read_jobs < ROUTER_READ_JOBS) {
        struct op *op = LIST_ENTRY(at, struct op, link);
        at = at->next;
        if (op->round > group_reads_confirmed(route->shard->group)) {
            break; /* rounds only grow along the list */
        }
        if (!is_runnable(route, op) || (full && !router_is_modest(op, &client))) {
            continue;
        }
        if (job == NULL) {
            job = job_new(JOB_READ, route->number, reads_done, route);
            job->time_ms = shard_time_ms(route->shard);
        }
        job_add_read(job, buffer_slice(&op->command), op->index, op);
        list_remove(&op->link);
        list_push(&route->executing, &op->link);
        if (job->n_reads == ROUTER_READ_JOB) {
            submit_reads(route, job);
            job = NULL;
        }
    }
    if (job != NULL) {
        submit_reads(route, job);
    }
}
