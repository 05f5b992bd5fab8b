/* The simulated network: connections that carry bytes in order, as TCP does.
 *
 * Bytes travel in segments of random size. A segment that the network drops is sent again after a
 * growing pause, so a drop shows as delay; segments behind it wait. What is not acknowledged for
 * ten seconds breaks the connection, for five seconds between nodes: those also send keepalive
 * probes over an idle link, as the server asks for (raft/peers_internal.h). Segments that arrive
 * twice or in another order are put right by TCP and cannot be seen, so they are not simulated;
 * corruption that TCP's checksum misses is. A path may be cut in one direction only: then bytes
 * arrive and their acknowledgements do not. */
#ifndef SIM_NETWORK_H
#define SIM_NETWORK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/sim/kernel.h"

enum net_event {
    NET_CONNECTED,
    NET_REFUSED,  /* nobody listens */
    NET_READABLE, /* bytes or the end of the stream */
    NET_WRITABLE, /* there is room again */
    NET_BROKEN    /* reset or timed out */
};

/* One side of a connection. */
struct endpoint;

typedef void (*net_event_fn)(void *data, enum net_event event);
/* A connection arrived at a listener; the callee gives it its functions with net_adopt(). */
typedef void (*net_accept_fn)(void *data, struct endpoint *endpoint);

struct net_path {
    uint64_t latency_ns; /* mean, on top of a fifth of it that is always there */
    double drop;
    double corrupt;
    uint64_t bytes_per_s; /* 0: any */
    bool cut;
};

void net_start(void);
struct net_path *net_path(unsigned from, unsigned to);

bool net_listen(struct process *process, uint16_t port, net_accept_fn accept, void *data);
void net_listen_end(struct process *process, uint16_t port);
/* `process` may be NULL: the simulator's own clients. */
struct endpoint *net_connect(unsigned from, struct process *process, unsigned to, uint16_t port,
                             net_event_fn on_event, void *data);
void net_adopt(struct endpoint *endpoint, struct process *process, net_event_fn on_event,
               void *data);
/* Bytes taken, 0 when there is no room. */
size_t net_send(struct endpoint *endpoint, const void *data, size_t size);
/* Bytes read; 0: none there; *end tells that the other side has ended its stream. */
size_t net_receive(struct endpoint *endpoint, void *data, size_t size, bool *end);
/* Bytes, an end or a break is there to be read. */
bool net_has_input(const struct endpoint *endpoint);
bool net_is_broken(const struct endpoint *endpoint);
unsigned net_remote_host(const struct endpoint *endpoint);
uint16_t net_remote_port(const struct endpoint *endpoint);
/* The endpoint is not used any more; what was sent still travels. */
void net_close(struct endpoint *endpoint);
/* Breaks one of the connections between two hosts; false when there is none. */
bool net_reset_some(unsigned a, unsigned b);

/* What a process had open is closed by its kernel, or, when the power went, is just not there any
 * more. */
void net_process_ended(struct process *process, bool by_power);

#endif
