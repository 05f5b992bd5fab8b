#include "node/router.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "node/router_internal.h"

uint64_t router_now(const struct router *router) {
    return router->options.port.now_ms(router->options.port.data);
}

/* --- the table of operations under way -------------------------------------------------------- */

static struct op *find_op(const struct router *router, uint64_t sequence) {
    struct op *op = router->slots[sequence % ROUTER_SLOTS];
    return op != NULL && op->sequence == sequence ? op : NULL;
}

/* Takes the next sequence whose slot is free; false when all are taken. */
static bool enter_op(struct router *router, struct op *op) {
    if (router->stats.inflight >= ROUTER_SLOTS) {
        return false;
    }
    while (router->slots[router->next_sequence % ROUTER_SLOTS] != NULL) {
        router->next_sequence++;
    }
    op->sequence = router->next_sequence++;
    router->slots[op->sequence % ROUTER_SLOTS] = op;
    router->stats.inflight++;
    op->bytes = op->command.size;
    router->stats.inflight_bytes += op->bytes;
    return true;
}

static void leave_op(struct router *router, struct op *op) {
    ASSERT(find_op(router, op->sequence) == op);
    router->slots[op->sequence % ROUTER_SLOTS] = NULL;
    router->stats.inflight--;
    router->stats.inflight_bytes -= op->bytes;
}

/* --- the window of writes in flight ----------------------------------------------------------- */

void router_note_use(struct router *router, unsigned shard) {
    if (shard != router->used_shard) {
        router->other_used_ms = router->used_ms;
        router->used_shard = shard;
    }
    router->used_ms = router_now(router);
}

static bool is_alone(const struct route *route) {
    const struct router *router = route->router;
    uint64_t used_ms =
        router->used_shard == route->number ? router->other_used_ms : router->used_ms;
    return used_ms == 0 || router_now(router) > used_ms + ROUTER_WINDOW_HOLD_MS;
}

/* Shards share the log, the links and the workers. What waits there before a write of one shard
 * waits before those of all, so a flooded shard keeps the rest of its writes here while another
 * shard is in use. Two may always be under way, of any size: one that exceeds the window by itself
 * must pass. */
static bool window_takes(const struct route *route, const struct op *op) {
    return !op->is_write || route->window_ops < ROUTER_WINDOW_OPS ||
           route->window_bytes + op->bytes <= route->router->options.window_bytes ||
           is_alone(route);
}

void router_enter_window(struct route *route, struct op *op) {
    ASSERT(op->is_write && !op->in_window);
    op->in_window = true;
    route->window_bytes += op->bytes;
    route->window_ops++;
}

static void leave_window(struct route *route, struct op *op) {
    if (op->in_window) {
        ASSERT(route->window_ops > 0 && route->window_bytes >= op->bytes);
        op->in_window = false;
        route->window_bytes -= op->bytes;
        route->window_ops--;
    }
}

/* --- answers ---------------------------------------------------------------------------------- */

void router_finish(struct router *router, struct op *op, struct result *result) {
    list_remove(&op->link);
    if (!op->is_remote) {
        leave_window(&router->routes[op->shard], op);
        leave_op(router, op);
    }
    if (op->job != NULL) {
        /* Answered while a state machine may be looking at the command: at the deadline, or by the
         * late answer to an earlier attempt. */
        job_read_abandon(op->job, &op->command);
        op->job = NULL;
    }
    op->done(op, result);
    result_free(result);
}

void router_fail(struct router *router, struct op *op, enum error_code code, const char *text) {
    struct result result = {0};
    if (code == ERROR_UNCERTAIN) {
        router->stats.uncertain++;
    }
    result_set_error(&result, code, "%s", text);
    router_finish(router, op, &result);
}

static void fail_uncertain(struct router *router, struct op *op) {
    router_fail(router, op, ERROR_UNCERTAIN,
                "the leader was lost or did not answer in time; the write may or may not have "
                "been carried out");
}

/* --- sending ---------------------------------------------------------------------------------- */

bool router_leads(const struct route *route) {
    return group_role(route->shard->group) == GROUP_LEADER;
}

void router_park(struct route *route, struct op *op) {
    struct list_node *at = route->parked.prev;
    list_remove(&op->link);
    leave_window(route, op);
    op->state = OP_PARKED;
    while (at != &route->parked && LIST_ENTRY(at, struct op, link)->sequence > op->sequence) {
        at = at->prev;
    }
    list_insert_before(at->next, &op->link);
}

static bool is_large(const struct op *op) {
    return op->command.size > FORWARD_NORMAL_MAX;
}

/* Lanes of a link overtake each other, so all that is in flight goes over one. Small operations
 * follow large ones on the bulk lane; once no large one is left they wait until the lane is idle
 * and go back to the normal one. */
static bool lane_takes(const struct route *route, const struct op *op) {
    if (route->lane == PEER_LANE_NORMAL) {
        return !is_large(op);
    }
    const struct op *large = find_op(route->router, route->last_large);
    return is_large(op) ||
           (large != NULL && large->shard == route->number && large->state == OP_FORWARDED);
}

/* Whether a further operation may join those in flight: only under the same term and link, so that
 * nothing overtakes an operation whose fate is open. */
static bool may_send(struct route *route, const struct op *next, uint64_t leader, uint64_t epoch) {
    const struct list_node *first = list_first(&route->inflight);
    if (first == NULL) {
        if (route->stream_broken) {
            route->stream++;
            route->stream_broken = false;
            route->answered = 0;
        }
        route->lane = is_large(next) ? PEER_LANE_BULK : PEER_LANE_NORMAL;
        return true;
    }
    const struct op *op = LIST_ENTRY(first, struct op, link);
    if (route->stream_broken || op->term != group_term(route->shard->group)) {
        return false;
    }
    if (leader == route->router->options.self) {
        return op->state != OP_FORWARDED;
    }
    return op->state == OP_FORWARDED && op->link_epoch == epoch && lane_takes(route, next);
}

static bool send_forward(struct route *route, uint64_t leader, const struct forward *forward) {
    struct router_port *port = &route->router->options.port;
    struct buffer header = {0};
    struct payload *attachment = NULL;
    struct peer_message message;
    forward_encode(forward, (uint16_t)route->number, &header, &attachment, &message);
    bool sent = port->send(port->data, leader, route->lane, &message);
    payload_unref(attachment);
    buffer_free(&header);
    return sent;
}

static bool forward_op(struct route *route, struct op *op, uint64_t leader, uint64_t epoch) {
    struct router *router = route->router;
    struct forward forward = {.term = group_term(route->shard->group),
                              .stream = route->stream,
                              .boot = router->options.boot,
                              .sequence = op->sequence,
                              .command = buffer_slice(&op->command)};
    forward.flags = (uint8_t)((op->is_write ? FORWARD_WRITE : 0) |
                              (op->after_writes ? FORWARD_AFTER_WRITES : 0));
    if (!send_forward(route, leader, &forward)) {
        return false;
    }
    op->state = OP_FORWARDED;
    op->term = forward.term;
    op->stream = route->stream;
    op->link_epoch = epoch;
    op->fence = route->fences;
    op->fate_lost = false;
    op->sent_ms = router_now(router);
    route->last_large = is_large(op) ? op->sequence : route->last_large;
    list_remove(&op->link);
    list_push(&route->inflight, &op->link);
    if (op->is_write) {
        router_enter_window(route, op);
    }
    router->stats.forwarded++;
    return true;
}

/* Sends the operation on its way. False: nobody to send it to, or not yet. */
static bool dispatch(struct route *route, struct op *op) {
    struct router_port *port = &route->router->options.port;
    uint64_t leader = group_leader(route->shard->group);
    if (leader == 0 || !window_takes(route, op)) {
        return false;
    }
    if (leader == route->router->options.self) {
        return may_send(route, op, leader, 0) && lead_submit(route, op) != LEAD_LATER;
    }
    uint64_t epoch = port->link_epoch(port->data, leader);
    return epoch != 0 && may_send(route, op, leader, epoch) && forward_op(route, op, leader, epoch);
}

void router_drain(struct route *route) {
    if (route->draining) {
        return;
    }
    route->draining = true;
    while (!list_empty(&route->parked)) {
        struct op *op = LIST_ENTRY(list_first(&route->parked), struct op, link);
        if (!dispatch(route, op)) {
            route->retry_at_ms = router_now(route->router) + ROUTER_RETRY_MS;
            break;
        }
    }
    route->draining = false;
}

/* Behind what waits? Not a read of the leader that need not see writes of its client that wait. */
static bool must_queue(const struct route *route, const struct op *op) {
    bool is_free = !op->is_write && !op->after_writes && router_leads(route);
    return !list_empty(&route->parked) && !is_free;
}

void router_submit(struct router *router, struct op *op) {
    ASSERT(op->shard < router->options.n_shards);
    struct route *route = &router->routes[op->shard];
    list_init(&op->link);
    op->state = OP_NEW;
    op->is_remote = false;
    op->fate_lost = false;
    op->in_window = false;
    op->job = NULL;
    op->term = 0;
    op->seen_index = 0;
    op->deadline_ms = router_now(router) + router->options.request_timeout_ms;
    router_note_use(router, op->shard);
    uint64_t max = router->options.inflight_bytes_max;
    bool fits =
        router->stats.inflight == 0 || router->stats.inflight_bytes + op->command.size <= max;
    if (!fits || !enter_op(router, op)) {
        struct result result = {0};
        router->stats.busy++;
        result_set_error(&result, ERROR_BUSY,
                         "this node has %llu operations with %llu bytes under way (limits %d and "
                         "%llu); try again",
                         (unsigned long long)router->stats.inflight,
                         (unsigned long long)router->stats.inflight_bytes, ROUTER_SLOTS,
                         (unsigned long long)max);
        op->done(op, &result);
        result_free(&result);
        return;
    }
    if (!op->is_write && op->level != READ_LINEARIZABLE) {
        local_submit(route, op);
    } else if (must_queue(route, op) || !dispatch(route, op)) {
        router_park(route, op);
    }
}

/* --- fates ------------------------------------------------------------------------------------ */

/* Moves operations in flight that `matches` into a list of their own. */
static void take_inflight(struct route *route, struct list_node *taken,
                          bool (*matches)(const struct op *op, uint64_t a), uint64_t a) {
    list_init(taken);
    struct list_node *at = route->inflight.next;
    while (at != &route->inflight) {
        struct op *op = LIST_ENTRY(at, struct op, link);
        at = at->next;
        if (matches(op, a)) {
            list_remove(&op->link);
            list_push(taken, &op->link);
        }
    }
}

/* The leader took this operation of the present stream, so all before it had arrived. */
static void note_answered(struct route *route, const struct op *op) {
    if (op->state == OP_FORWARDED && op->stream == route->stream &&
        op->sequence > route->answered) {
        route->answered = op->sequence;
    }
}

/* True when sending the write again would let it take effect behind later ones: it had arrived, and
 * was not refused, since then all after it would have been. So the leader had answered that there
 * is no space, and the answer was lost. */
static bool had_failed(const struct route *route, const struct op *op) {
    return op->is_write && op->state == OP_FORWARDED && op->sequence < route->answered;
}

static void fail_lost(struct route *route, struct op *op) {
    if (op->fate_lost) {
        fail_uncertain(route->router, op);
    } else {
        router_fail(route->router, op, ERROR_NOSPACE,
                    "this shard's leader had no space for it, on the disks of most replicas or in "
                    "memory; nothing was written");
    }
}

/* These were certainly not carried out, and never will be (a read may be carried out once more):
 * they are sent again, in a stream of their own, so that a late answer to this attempt is known as
 * such. Writes whose log entries a snapshot may have hidden are the exception. */
static void send_again(struct route *route, struct list_node *ops) {
    struct list_node lost;
    list_init(&lost);
    while (!list_empty(ops)) {
        struct op *op = LIST_ENTRY(list_first(ops), struct op, link);
        if ((op->fate_lost && op->is_write) || had_failed(route, op)) {
            list_remove(&op->link);
            list_push(&lost, &op->link);
            continue;
        }
        route->router->stats.resent++;
        router_park(route, op);
    }
    route->stream_broken = true;
    /* Last, because what their clients submit next must queue behind those that wait. */
    while (!list_empty(&lost)) {
        fail_lost(route, LIST_ENTRY(list_first(&lost), struct op, link));
    }
}

static bool is_of_earlier_term(const struct op *op, uint64_t term) {
    return op->state != OP_BATCHED && op->term < term;
}

static bool is_before_fence(const struct op *op, uint64_t fence) {
    return op->state == OP_FORWARDED && op->fence < fence;
}

static bool is_stale_read(const struct op *op, uint64_t term) {
    return op->state == OP_FORWARDED && !op->is_write && op->term != term;
}

static bool is_forwarded_read(const struct op *op, uint64_t unused) {
    (void)unused;
    return op->state == OP_FORWARDED && !op->is_write;
}

static bool is_any(const struct op *op, uint64_t unused) {
    (void)op;
    (void)unused;
    return true;
}

/* Everything up to an entry of `term` is applied here: writes of earlier terms that did not pass
 * will not come any more. */
static void settle_earlier_terms(struct route *route, uint64_t term) {
    struct list_node *first = list_first(&route->inflight);
    struct list_node taken;
    if (first == NULL || !is_of_earlier_term(LIST_ENTRY(first, struct op, link), term)) {
        return; /* all in flight are of one term */
    }
    take_inflight(route, &taken, is_of_earlier_term, term);
    send_again(route, &taken);
}

/* The fence has passed: whatever was sent before it either passed before it, or was refused or
 * lost on the way. */
static void settle_fence(struct route *route, uint64_t fence) {
    struct list_node taken;
    take_inflight(route, &taken, is_before_fence, fence);
    if (!list_empty(&taken)) {
        send_again(route, &taken);
    }
}

void router_on_applied(struct router *router, unsigned shard, struct job *job, uint64_t index,
                       uint64_t term, bool gap) {
    struct route *route = &router->routes[shard];
    if (job != NULL && job->n_results > 0) {
        router_note_use(router, shard);
    }
    for (unsigned i = 0; job != NULL && i < job->n_results; i++) {
        struct job_result *result = &job->results[i];
        if (result->origin.node != router->options.self) {
            lead_reply(route, result);
            continue;
        }
        if (result->origin.sequence & ROUTER_FENCE_BIT) {
            settle_fence(route, result->origin.sequence & ~ROUTER_FENCE_BIT);
            continue;
        }
        struct op *op = find_op(router, result->origin.sequence);
        if (op != NULL && op->shard == shard && op->is_write) {
            note_answered(route, op);
            op->seen_index = result->index;
            router_finish(router, op, &result->result);
        }
    }
    if (job != NULL) {
        lead_on_applied(route, job, index);
    }
    if (gap) {
        for (struct list_node *at = route->inflight.next; at != &route->inflight; at = at->next) {
            LIST_ENTRY(at, struct op, link)->fate_lost = true;
        }
    }
    settle_earlier_terms(route, term);
    local_note_fresh(route);
    local_run(route);
    router_drain(route);
}

void router_on_role(struct router *router, unsigned shard) {
    struct route *route = &router->routes[shard];
    struct list_node taken;
    if (!shard_is_ready(route->shard)) {
        lead_abandon(route);
    }
    take_inflight(route, &taken, is_stale_read, group_term(route->shard->group));
    if (!list_empty(&taken)) {
        send_again(route, &taken);
    }
    router_drain(route);
}

void router_on_reads(struct router *router, unsigned shard) {
    lead_run_reads(&router->routes[shard]);
    local_run(&router->routes[shard]);
}

/* --- links ------------------------------------------------------------------------------------ */

/* Operations went over a link that broke, or there is no answer, as when the leader's refusal was
 * lost: a fence sent behind them will tell which of them arrived. */
static bool wants_fence(const struct route *route, const struct op *op, uint64_t epoch,
                        uint64_t now_ms) {
    bool silent = op->link_epoch != epoch || now_ms >= op->sent_ms + ROUTER_SILENCE_MS;
    return op->state == OP_FORWARDED && epoch != 0 && silent &&
           op->term == group_term(route->shard->group) &&
           now_ms >= route->fence_sent_ms + ROUTER_FENCE_MS;
}

static void fence_if_needed(struct route *route, uint64_t now_ms) {
    struct router_port *port = &route->router->options.port;
    struct list_node *first = list_first(&route->inflight);
    uint64_t leader = group_leader(route->shard->group);
    if (first == NULL || leader == 0 || leader == route->router->options.self) {
        return;
    }
    const struct op *op = LIST_ENTRY(first, struct op, link);
    if (!wants_fence(route, op, port->link_epoch(port->data, leader), now_ms)) {
        return;
    }
    struct command fence = {.kind = COMMAND_FENCE, .project = slice_of("fence")};
    struct buffer encoded = {0};
    command_encode(&encoded, &fence, NULL, 0);
    /* A stream of its own: a fence has no place in the order of operations. */
    struct forward forward = {.term = op->term,
                              .stream = UINT64_MAX,
                              .boot = route->router->options.boot,
                              .sequence = ROUTER_FENCE_BIT | (route->fences + 1),
                              .flags = FORWARD_WRITE | FORWARD_FENCE,
                              .command = buffer_slice(&encoded)};
    if (send_forward(route, leader, &forward)) {
        route->fences++;
        route->fence_sent_ms = now_ms;
        route->stream_broken = true; /* nothing follows it while it may send others back */
    }
    buffer_free(&encoded);
}

void router_on_link(struct router *router, uint64_t node, bool up) {
    uint64_t now_ms = router_now(router);
    for (unsigned i = 0; i < router->options.n_shards; i++) {
        struct route *route = &router->routes[i];
        struct list_node taken;
        if (group_leader(route->shard->group) != node) {
            continue;
        }
        if (up) {
            route->fence_sent_ms = 0;
            fence_if_needed(route, now_ms);
        } else {
            take_inflight(route, &taken, is_forwarded_read, 0);
            if (!list_empty(&taken)) {
                send_again(route, &taken);
            }
        }
        router_drain(route);
    }
}

static void receive_reply(struct router *router, unsigned shard, struct forward_reply *reply) {
    struct route *route = &router->routes[shard];
    struct op *op = find_op(router, reply->sequence);
    if (reply->boot != router->options.boot || op == NULL || op->shard != shard) {
        return;
    }
    bool is_result = reply->kind == FORWARD_REPLY_RESULT || reply->kind == FORWARD_REPLY_BULK;
    /* That an earlier attempt was not carried out says nothing about the present one. */
    if (!is_result &&
        (op->state != OP_FORWARDED || op->term != reply->term || op->stream != reply->stream)) {
        return;
    }
    if (reply->kind == FORWARD_REPLY_REFUSED) {
        route->stream_broken = true;
        route->retry_at_ms = router_now(router) + ROUTER_RETRY_MS;
        router_park(route, op);
        return;
    }
    if (is_result && (op->is_write || op->stream == reply->stream)) {
        note_answered(route, op);
    }
    op->seen_index = is_result ? reply->index : 0;
    router_finish(router, op, &reply->result);
    router_drain(route);
}

bool router_receive(struct router *router, uint64_t from, const struct peer_message *message) {
    if (message->group >= router->options.n_shards) {
        return false;
    }
    if (message->type == PEER_MESSAGE_FORWARD) {
        struct forward forward;
        if (!forward_decode(message, &forward)) {
            return false;
        }
        lead_receive(&router->routes[message->group], from, &forward);
        return true;
    }
    struct forward_reply reply;
    bool sound = message->type == PEER_MESSAGE_REPLY && forward_reply_decode(message, &reply);
    if (sound) {
        receive_reply(router, message->group, &reply);
    }
    if (message->type == PEER_MESSAGE_REPLY) {
        result_free(&reply.result);
    }
    return sound;
}

/* --- time ------------------------------------------------------------------------------------- */

static void expire_list(struct route *route, struct list_node *list, uint64_t now_ms) {
    struct router *router = route->router;
    struct list_node late;
    list_init(&late);
    for (struct list_node *at = list->next; at != list;) {
        struct op *op = LIST_ENTRY(at, struct op, link);
        at = at->next;
        /* What is batched leaves before the next wait for events: its fate opens then. */
        if (op->deadline_ms <= now_ms && op->state != OP_BATCHED) {
            list_remove(&op->link);
            list_push(&late, &op->link);
        }
    }
    while (!list_empty(&late)) {
        struct op *op = LIST_ENTRY(list_first(&late), struct op, link);
        bool sent = op->state == OP_PROPOSED || op->state == OP_FORWARDED;
        if (sent && op->is_write) {
            fail_uncertain(router, op);
        } else if (op->state == OP_PARKED && route->window_ops >= ROUTER_WINDOW_OPS) {
            router->stats.busy++;
            router_fail(router, op, ERROR_BUSY,
                        "the writes of this project's shard that came before it were not done in "
                        "time; the request was not carried out; try again");
        } else {
            router_fail(router, op, ERROR_NOLEADER,
                        "no leader answered for this project's shard in time; the request was "
                        "not carried out");
        }
    }
}

void router_tick(struct router *router, uint64_t now_ms) {
    for (unsigned i = 0; i < router->options.n_shards; i++) {
        struct route *route = &router->routes[i];
        expire_list(route, &route->parked, now_ms);
        expire_list(route, &route->inflight, now_ms);
        expire_list(route, &route->reading, now_ms);
        local_note_fresh(route);
        local_expire(route, now_ms);
        lead_expire_executing(route, now_ms);
        fence_if_needed(route, now_ms);
        lead_run_reads(route); /* those that waited for room for their replies */
        local_run(route);
        if (now_ms >= route->retry_at_ms) {
            router_drain(route);
        }
    }
}

void router_flush(struct router *router) {
    for (unsigned i = 0; i < router->options.n_shards; i++) {
        (void)lead_flush(&router->routes[i]);
    }
}

/* --- life ------------------------------------------------------------------------------------- */

struct router *router_new(const struct router_options *options) {
    struct router *router = mem_zalloc(1, sizeof *router);
    router->options = *options;
    router->slots = mem_zalloc(ROUTER_SLOTS, sizeof *router->slots);
    router->routes = mem_zalloc(options->n_shards, sizeof *router->routes);
    router->next_sequence = 1;
    for (unsigned i = 0; i < options->n_shards; i++) {
        struct route *route = &router->routes[i];
        route->router = router;
        route->number = i;
        route->shard = &options->shards[i];
        list_init(&route->parked);
        list_init(&route->inflight);
        list_init(&route->reading);
        list_init(&route->executing);
        list_init(&route->local);
    }
    return router;
}

void router_free(struct router *router) {
    for (unsigned i = 0; i < router->options.n_shards; i++) {
        struct route *route = &router->routes[i];
        lead_abandon(route);
        local_close(route);
        ASSERT(list_empty(&route->executing)); /* the state machine threads have ended */
        struct list_node taken;
        take_inflight(route, &taken, is_any, 0);
        while (!list_empty(&taken)) {
            struct op *op = LIST_ENTRY(list_first(&taken), struct op, link);
            if (op->is_write) {
                fail_uncertain(router, op);
            } else {
                router_fail(router, op, ERROR_NOLEADER, "this node is shutting down");
            }
        }
        while (!list_empty(&route->parked)) {
            struct op *op = LIST_ENTRY(list_first(&route->parked), struct op, link);
            router_fail(router, op, ERROR_NOLEADER, "this node is shutting down");
        }
        mem_free(route->gathered.remotes);
        buffer_free(&route->batch);
    }
    mem_free(router->routes);
    mem_free(router->slots);
    mem_free(router);
}

uint64_t router_fresh_ms(const struct router *router, unsigned shard) {
    return router->routes[shard].fresh_ms;
}

struct router_stats router_stats(const struct router *router) {
    struct router_stats stats = router->stats;
    for (unsigned i = 0; i < router->options.n_shards; i++) {
        stats.uncommitted_bytes += router->routes[i].uncommitted_bytes;
    }
    return stats;
}
