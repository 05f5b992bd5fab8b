#include "tests/sim/network.h"

#include <string.h>

#include "base/assert.h"

enum { WINDOW = 256 * 1024, SEGMENT_MAX = 32 * 1024, LISTENERS = 64, PEER_PORT_MIN = 7200 };

#define RETRY_FIRST (200 * SIM_MS)
#define RETRY_MAX (3 * SIM_S)
#define GIVE_UP (10 * SIM_S)
/* What raft/peers_internal.h asks of the kernel for links between nodes. */
#define PEER_GIVE_UP (5 * SIM_S)
#define KEEPALIVE_IDLE (2 * SIM_S)
#define KEEPALIVE_INTERVAL SIM_S

struct segment {
    struct segment *next;
    uint8_t *data;
    size_t size;
    bool end; /* of the stream */
};

struct endpoint {
    unsigned host;
    uint16_t port;
    struct process *process;
    struct endpoint *other;
    struct endpoint *next; /* of all endpoints */
    net_event_fn on_event;
    void *data;
    bool owned; /* somebody holds it */
    bool connected;
    bool broken;
    bool end_sent;
    bool is_ghost; /* its host lost power: stays, silent, until the other side notices */

    /* Towards the other side. */
    struct segment *first; /* not yet arrived */
    struct segment **last;
    bool sending; /* an attempt to send `first` is under way */
    unsigned attempts;
    uint64_t attempts_since;
    uint64_t arrives_at; /* of the newest segment under way */
    size_t unacknowledged;
    bool wants_room;

    /* Arrived here. */
    uint8_t *arrived;
    size_t arrived_size;
    size_t arrived_at; /* read so far */
    size_t arrived_capacity;
    bool end_arrived;
    size_t to_acknowledge;
    unsigned ack_attempts;
    uint64_t ack_since;
    bool acking;
    uint64_t heard_at; /* anything of the other side's kernel; kept where there is keepalive */

    unsigned n_events; /* planned events that refer to it */
};

struct listener {
    struct process *process;
    uint16_t port;
    net_accept_fn accept;
    void *data;
};

static struct net_path paths[SIM_HOSTS][SIM_HOSTS];
static struct listener listeners[LISTENERS];
static struct endpoint *endpoints;
static uint16_t next_port;

void net_start(void) {
    memset(listeners, 0, sizeof listeners);
    endpoints = NULL;
    next_port = 40000;
    for (unsigned i = 0; i < SIM_HOSTS; i++) {
        for (unsigned k = 0; k < SIM_HOSTS; k++) {
            paths[i][k] = (struct net_path){.latency_ns = 100 * SIM_US};
        }
    }
}

struct net_path *net_path(unsigned from, unsigned to) {
    return &paths[from][to];
}

static bool path_is_cut(unsigned from, unsigned to) {
    return from != to && (paths[from][to].cut || !host_get(to)->powered);
}

static uint64_t path_delay(unsigned from, unsigned to, size_t size) {
    const struct net_path *path = &paths[from][to];
    uint64_t delay = path->latency_ns / 5 + kernel_delay(path->latency_ns);
    if (path->bytes_per_s > 0) {
        delay += size * SIM_S / path->bytes_per_s;
    }
    return delay;
}

static bool is_peer_link(const struct endpoint *endpoint) {
    return endpoint->port >= PEER_PORT_MIN && endpoint->other != NULL &&
           endpoint->other->port >= PEER_PORT_MIN;
}

static uint64_t give_up_after(const struct endpoint *endpoint) {
    return is_peer_link(endpoint) ? PEER_GIVE_UP : GIVE_UP;
}

static uint64_t retry_delay(unsigned attempts) {
    uint64_t delay = RETRY_FIRST << (attempts < 5 ? attempts : 5);
    delay = delay < RETRY_MAX ? delay : RETRY_MAX;
    return delay / 2 + kernel_random(delay);
}

/* ---- life of endpoints ---- */

static struct endpoint *endpoint_new(unsigned host, uint16_t port) {
    struct endpoint *endpoint = sim_alloc(sizeof *endpoint);
    endpoint->host = host;
    endpoint->port = port;
    endpoint->last = &endpoint->first;
    endpoint->owned = true;
    endpoint->next = endpoints;
    endpoints = endpoint;
    return endpoint;
}

static void drop_segments(struct endpoint *endpoint) {
    while (endpoint->first != NULL) {
        struct segment *segment = endpoint->first;
        endpoint->first = segment->next;
        sim_free(segment->data);
        sim_free(segment);
    }
    endpoint->last = &endpoint->first;
}

/* Freed when nobody holds it, nothing planned refers to it, and it has nothing left to send. */
static void maybe_free(struct endpoint *endpoint) {
    if (endpoint->owned || endpoint->n_events > 0 ||
        (endpoint->first != NULL && !endpoint->broken) ||
        (endpoint->is_ghost && endpoint->other != NULL && endpoint->other->owned &&
         !endpoint->other->broken)) {
        return;
    }
    struct endpoint *other = endpoint->other;
    if (other != NULL) {
        other->other = NULL;
    }
    struct endpoint **at = &endpoints;
    while (*at != endpoint) {
        at = &(*at)->next;
    }
    *at = endpoint->next;
    drop_segments(endpoint);
    sim_free(endpoint->arrived);
    sim_free(endpoint);
    if (other != NULL && other->is_ghost) {
        maybe_free(other);
    }
}

static void tell(struct endpoint *endpoint, enum net_event event) {
    if (endpoint->owned && endpoint->on_event != NULL) {
        endpoint->on_event(endpoint->data, event);
    }
}

static void endpoint_break(struct endpoint *endpoint) {
    if (!endpoint->broken) {
        endpoint->broken = true;
        drop_segments(endpoint);
        tell(endpoint, NET_BROKEN);
    }
}

struct planned {
    struct endpoint *endpoint;
    void (*run)(struct endpoint *endpoint);
};

static void run_planned(void *data) {
    struct planned planned = *(struct planned *)data;
    sim_free(data);
    planned.run(planned.endpoint);
    planned.endpoint->n_events--;
    maybe_free(planned.endpoint);
}

/* The endpoint stays at least until `run` has returned. */
static void plan(struct endpoint *endpoint, uint64_t at, void (*run)(struct endpoint *endpoint)) {
    struct planned *planned = sim_alloc(sizeof *planned);
    *planned = (struct planned){endpoint, run};
    endpoint->n_events++;
    kernel_at(at, NULL, run_planned, planned);
}

/* A word from the other side's kernel that the connection is no more. */
static void on_reset(struct endpoint *endpoint) {
    if (endpoint->connected) {
        endpoint_break(endpoint);
    } else if (!endpoint->broken) {
        endpoint->broken = true;
        tell(endpoint, NET_REFUSED);
    }
}

static void send_reset(unsigned from, struct endpoint *to) {
    if (!path_is_cut(from, to->host)) {
        plan(to, kernel_now() + path_delay(from, to->host, 0), on_reset);
    }
}

/* ---- bytes ---- */

static void try_send(struct endpoint *sender);
static void try_acknowledge(struct endpoint *endpoint);

static void on_arrival(struct endpoint *sender) {
    struct segment *segment = sender->first;
    struct endpoint *receiver = sender->other;
    sender->sending = false;
    if (sender->broken || segment == NULL) {
        return;
    }
    sender->first = segment->next;
    if (sender->first == NULL) {
        sender->last = &sender->first;
    }
    sender->attempts = 0;
    if (receiver != NULL) {
        receiver->heard_at = kernel_now();
    }
    if (receiver == NULL || receiver->broken || !host_get(receiver->host)->powered ||
        (!receiver->owned && segment->size > 0)) {
        /* Nobody there to take it: the other kernel says so. */
        if (sender->owned) {
            send_reset(receiver != NULL ? receiver->host : 0, sender);
        }
    } else {
        const struct net_path *path = &paths[sender->host][receiver->host];
        bool peers = sender->port >= PEER_PORT_MIN && receiver->port >= PEER_PORT_MIN;
        if (segment->size > 0 && peers && path->corrupt > 0 && kernel_chance(path->corrupt)) {
            segment->data[kernel_random(segment->size)] ^= (uint8_t)(1U << kernel_random(8));
            cover("corrupted segment");
        }
        if (receiver->arrived_at == receiver->arrived_size) {
            receiver->arrived_at = 0;
            receiver->arrived_size = 0;
        }
        if (receiver->arrived_size + segment->size > receiver->arrived_capacity) {
            receiver->arrived_capacity = 2 * (receiver->arrived_size + segment->size);
            receiver->arrived = sim_realloc(receiver->arrived, receiver->arrived_capacity);
        }
        if (segment->size > 0) {
            memcpy(receiver->arrived + receiver->arrived_size, segment->data, segment->size);
        }
        receiver->arrived_size += segment->size;
        receiver->end_arrived = receiver->end_arrived || segment->end;
        kernel_mix(segment->size);
        tell(receiver, NET_READABLE);
    }
    sim_free(segment->data);
    sim_free(segment);
    if (sender->first != NULL) {
        sender->sending = true;
        sender->attempts_since = kernel_now();
        try_send(sender);
    }
}

static void try_send(struct endpoint *sender) {
    struct endpoint *receiver = sender->other;
    if (sender->broken || sender->first == NULL || receiver == NULL) {
        sender->sending = false;
        drop_segments(sender);
        /* Not from within a call of the owner's. */
        plan(sender, kernel_now(), endpoint_break);
        return;
    }
    double drop = sender->host == receiver->host ? 0 : paths[sender->host][receiver->host].drop;
    bool lost = path_is_cut(sender->host, receiver->host) || (drop > 0 && kernel_chance(drop));
    if (!lost) {
        uint64_t at = kernel_now() + path_delay(sender->host, receiver->host, sender->first->size);
        plan(sender, at, on_arrival);
        return;
    }
    cover("dropped segment");
    if (kernel_now() - sender->attempts_since > give_up_after(sender)) {
        cover("connection timed out");
        sender->sending = false;
        drop_segments(sender);
        plan(sender, kernel_now(), endpoint_break);
        return;
    }
    plan(sender, kernel_now() + retry_delay(sender->attempts++), try_send);
}

static void push_segment(struct endpoint *sender, const uint8_t *data, size_t size, bool end) {
    struct segment *segment = sim_alloc(sizeof *segment);
    segment->size = size;
    segment->end = end;
    segment->data = sim_alloc(size + 1);
    memcpy(segment->data, data, size);
    *sender->last = segment;
    sender->last = &segment->next;
    if (!sender->sending) {
        sender->sending = true;
        sender->attempts_since = kernel_now();
        try_send(sender);
    }
}

size_t net_send(struct endpoint *endpoint, const void *data, size_t size) {
    if (endpoint->broken || !endpoint->connected || endpoint->end_sent) {
        return 0;
    }
    size_t room = WINDOW > endpoint->unacknowledged ? WINDOW - endpoint->unacknowledged : 0;
    size_t taken = size < room ? size : room;
    endpoint->wants_room = taken < size;
    const uint8_t *from = data;
    for (size_t left = taken; left > 0;) {
        size_t part = left < SEGMENT_MAX ? left : SEGMENT_MAX;
        if (kernel_random(8) == 0) {
            part = 1 + (size_t)kernel_random(part);
        }
        endpoint->unacknowledged += part;
        push_segment(endpoint, from, part, false);
        from += part;
        left -= part;
    }
    return taken;
}

static void on_acknowledged(struct endpoint *receiver) {
    struct endpoint *sender = receiver->other;
    receiver->acking = false;
    size_t n = receiver->to_acknowledge;
    receiver->to_acknowledge = 0;
    receiver->ack_attempts = 0;
    if (sender != NULL) {
        sender->heard_at = kernel_now();
        sender->unacknowledged -= n < sender->unacknowledged ? n : sender->unacknowledged;
        if (sender->wants_room && !sender->broken) {
            sender->wants_room = false;
            tell(sender, NET_WRITABLE);
        }
    }
    try_acknowledge(receiver);
}

static void on_ack_retry(struct endpoint *receiver) {
    receiver->acking = false;
    try_acknowledge(receiver);
}

static void try_acknowledge(struct endpoint *receiver) {
    struct endpoint *sender = receiver->other;
    if (receiver->acking || receiver->to_acknowledge == 0 || sender == NULL) {
        return;
    }
    receiver->acking = true;
    if (!path_is_cut(receiver->host, sender->host)) {
        plan(receiver, kernel_now() + path_delay(receiver->host, sender->host, 0), on_acknowledged);
        return;
    }
    if (receiver->ack_attempts == 0) {
        receiver->ack_since = kernel_now();
    }
    if (kernel_now() - receiver->ack_since > give_up_after(receiver)) {
        cover("connection timed out");
        plan(sender, kernel_now(), endpoint_break);
        return;
    }
    plan(receiver, kernel_now() + retry_delay(receiver->ack_attempts++), on_ack_retry);
}

size_t net_receive(struct endpoint *endpoint, void *data, size_t size, bool *end) {
    size_t there = endpoint->arrived_size - endpoint->arrived_at;
    size_t n = there < size ? there : size;
    if (n > 0) {
        memcpy(data, endpoint->arrived + endpoint->arrived_at, n);
        endpoint->arrived_at += n;
        endpoint->to_acknowledge += n;
        try_acknowledge(endpoint);
    }
    *end = n == there && endpoint->end_arrived;
    return n;
}

/* ---- keepalive ---- */

/* Both ways, as a probe and its answer travel. */
static bool probe_is_answered(const struct endpoint *endpoint) {
    unsigned there = endpoint->other->host;
    double drop = paths[endpoint->host][there].drop;
    return !path_is_cut(endpoint->host, there) && !path_is_cut(there, endpoint->host) &&
           (drop == 0 || !kernel_chance(drop));
}

static void keep_alive(struct endpoint *endpoint) {
    struct endpoint *other = endpoint->other;
    if (!endpoint->owned || endpoint->broken || endpoint->end_sent || other == NULL) {
        return;
    }
    if (kernel_now() - endpoint->heard_at >= KEEPALIVE_IDLE && probe_is_answered(endpoint)) {
        if (other->is_ghost || other->broken) {
            cover("keepalive answered by a reset");
            on_reset(endpoint);
            return;
        }
        endpoint->heard_at = kernel_now();
    }
    if (kernel_now() - endpoint->heard_at > PEER_GIVE_UP) {
        cover("keepalive found a dead link");
        endpoint_break(endpoint);
        return;
    }
    plan(endpoint, kernel_now() + KEEPALIVE_INTERVAL, keep_alive);
}

static void begin_keepalive(struct endpoint *endpoint) {
    if (is_peer_link(endpoint)) {
        endpoint->heard_at = kernel_now();
        plan(endpoint, kernel_now() + KEEPALIVE_INTERVAL, keep_alive);
    }
}

/* ---- connecting and closing ---- */

static struct listener *listener_find(unsigned host, uint16_t port) {
    for (unsigned i = 0; i < LISTENERS; i++) {
        if (listeners[i].process != NULL && listeners[i].process->host->number == host &&
            listeners[i].port == port) {
            return &listeners[i];
        }
    }
    return NULL;
}

bool net_listen(struct process *process, uint16_t port, net_accept_fn accept, void *data) {
    if (listener_find(process->host->number, port) != NULL) {
        return false;
    }
    for (unsigned i = 0; i < LISTENERS; i++) {
        if (listeners[i].process == NULL) {
            listeners[i] = (struct listener){process, port, accept, data};
            return true;
        }
    }
    return false;
}

void net_listen_end(struct process *process, uint16_t port) {
    struct listener *listener = listener_find(process->host->number, port);
    if (listener != NULL && listener->process == process) {
        listener->process = NULL;
    }
}

static void on_connect_answer(struct endpoint *dialer) {
    if (!dialer->broken) {
        dialer->connected = true;
        begin_keepalive(dialer);
        tell(dialer, NET_CONNECTED);
    }
}

static void try_connect(struct endpoint *dialer) {
    struct endpoint *acceptor = dialer->other;
    if (!dialer->owned || dialer->broken) {
        acceptor->owned = false;
        maybe_free(acceptor);
        return;
    }
    if (path_is_cut(dialer->host, acceptor->host) || path_is_cut(acceptor->host, dialer->host)) {
        if (dialer->attempts >= 8) {
            acceptor->owned = false;
            maybe_free(acceptor);
            endpoint_break(dialer);
            return;
        }
        plan(dialer, kernel_now() + (SIM_S << (dialer->attempts < 4 ? dialer->attempts : 4)),
             try_connect);
        dialer->attempts++;
        return;
    }
    struct listener *listener = listener_find(acceptor->host, acceptor->port);
    uint64_t back = kernel_now() + path_delay(acceptor->host, dialer->host, 0);
    if (listener == NULL) {
        acceptor->owned = false;
        maybe_free(acceptor);
        plan(dialer, back, on_reset);
        return;
    }
    dialer->attempts = 0;
    acceptor->connected = true;
    acceptor->process = listener->process;
    begin_keepalive(acceptor);
    plan(dialer, back, on_connect_answer);
    listener->accept(listener->data, acceptor);
}

struct endpoint *net_connect(unsigned from, struct process *process, unsigned to, uint16_t port,
                             net_event_fn on_event, void *data) {
    struct endpoint *dialer = endpoint_new(from, next_port);
    next_port = next_port == 60000 ? 40000 : next_port + 1;
    struct endpoint *acceptor = endpoint_new(to, port);
    dialer->other = acceptor;
    acceptor->other = dialer;
    net_adopt(dialer, process, on_event, data);
    plan(dialer, kernel_now() + path_delay(from, to, 0), try_connect);
    return dialer;
}

void net_adopt(struct endpoint *endpoint, struct process *process, net_event_fn on_event,
               void *data) {
    endpoint->process = process;
    endpoint->on_event = on_event;
    endpoint->data = data;
}

bool net_has_input(const struct endpoint *endpoint) {
    return endpoint->arrived_at < endpoint->arrived_size || endpoint->end_arrived ||
           endpoint->broken;
}

bool net_is_broken(const struct endpoint *endpoint) {
    return endpoint->broken;
}

unsigned net_remote_host(const struct endpoint *endpoint) {
    return endpoint->other != NULL ? endpoint->other->host : 0;
}

uint16_t net_remote_port(const struct endpoint *endpoint) {
    return endpoint->other != NULL ? endpoint->other->port : 0;
}

void net_close(struct endpoint *endpoint) {
    ASSERT(endpoint->owned);
    bool unread = endpoint->arrived_at < endpoint->arrived_size;
    endpoint->owned = false;
    endpoint->process = NULL;
    if (endpoint->connected && !endpoint->broken && endpoint->other != NULL) {
        if (unread) {
            send_reset(endpoint->host, endpoint->other);
            endpoint->broken = true;
        } else if (!endpoint->end_sent) {
            endpoint->end_sent = true;
            push_segment(endpoint, (const uint8_t *)"", 0, true);
        }
    }
    maybe_free(endpoint);
}

bool net_reset_some(unsigned a, unsigned b) {
    struct endpoint *chosen = NULL;
    uint64_t seen = 0;
    for (struct endpoint *at = endpoints; at != NULL; at = at->next) {
        if (at->connected && at->owned && !at->broken && at->host == a && at->other != NULL &&
            at->other->host == b && kernel_random(++seen) == 0) {
            chosen = at;
        }
    }
    if (chosen == NULL) {
        return false;
    }
    struct endpoint *other = chosen->other;
    endpoint_break(chosen);
    endpoint_break(other);
    return true;
}

void net_process_ended(struct process *process, bool by_power) {
    for (unsigned i = 0; i < LISTENERS; i++) {
        if (listeners[i].process == process) {
            listeners[i].process = NULL;
        }
    }
    struct endpoint *next;
    for (struct endpoint *at = endpoints; at != NULL; at = next) {
        next = at->next;
        if (at->process != process || !at->owned) {
            continue;
        }
        at->on_event = NULL;
        if (by_power) {
            at->broken = true;
            at->is_ghost = true;
            at->owned = false;
            at->process = NULL;
            drop_segments(at);
            maybe_free(at);
        } else {
            net_close(at);
        }
        /* Closing may have freed others, but only those that nobody owned. */
        next = endpoints;
        while (next != NULL && (next->process != process || !next->owned)) {
            next = next->next;
        }
    }
}
