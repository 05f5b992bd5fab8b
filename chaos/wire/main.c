/* chaos-wire INTERFACE INTERFACE DELAY_MS JITTER_MS RATE_KBIT FAST_ADDRESS: a slow cable between
 * two interfaces.
 *
 * Frames are taken from either interface and given to the other one after DELAY_MS and up to
 * JITTER_MS more, in their order, and not faster than RATE_KBIT (0: no limit). IPv4 frames from or
 * to FAST_ADDRESS, and those that are not IPv4, go at once. What does not fit into the queue, which
 * holds what the cable passes on in 300 ms, is dropped, as by any switch.
 *
 * Headers of the kernel for unfinished checksums and large segments (PACKET_VNET_HDR) travel with
 * the frames, so that offloading need not be turned off. SIGTERM ends it. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/prng.h"

enum {
    FRAME_SIZE = 80 * 1024, /* a large segment with its headers */
    QUEUE_BYTES = 4 * 1024 * 1024,
    QUEUE_MS = 300,
    IP_SOURCE = 12,
    IP_TARGET = 16,
    MS_NS = 1000000
};

struct frame {
    struct frame *next;
    uint64_t due_ns;
    size_t size;
    uint8_t data[];
};

/* Frames on their way to one interface. */
struct direction {
    struct frame *first;
    struct frame *last;
    size_t bytes;
    uint64_t free_ns; /* when the cable has passed on all before */
    int to;
};

struct wire {
    int sockets[2];
    struct direction directions[2]; /* by the interface that frames come from */
    uint64_t delay_ns;
    uint64_t jitter_ns;
    uint64_t rate_bits; /* a second; 0: no limit */
    in_addr_t fast;
    struct prng prng;
};

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 * MS_NS + (uint64_t)now.tv_nsec;
}

static int fail(const char *what, const char *name) {
    fprintf(stderr, "chaos-wire: %s %s: %s\n", what, name, strerror(errno));
    return -1;
}

static int open_interface(const char *name) {
    int yes = 1;
    struct sockaddr_ll address = {.sll_family = AF_PACKET,
                                  .sll_protocol = htons(ETH_P_ALL),
                                  .sll_ifindex = (int)if_nametoindex(name)};
    if (address.sll_ifindex == 0) {
        return fail("no interface", name);
    }
    int opened = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (opened < 0) {
        return fail("cannot open a packet socket for", name);
    }
    if (setsockopt(opened, SOL_PACKET, PACKET_VNET_HDR, &yes, sizeof yes) != 0 ||
        setsockopt(opened, SOL_PACKET, PACKET_IGNORE_OUTGOING, &yes, sizeof yes) != 0 ||
        bind(opened, (struct sockaddr *)&address, sizeof address) != 0) {
        close(opened);
        return fail("cannot listen at", name);
    }
    return opened;
}

static bool is_fast(const struct wire *wire, const uint8_t *data, size_t size) {
    const uint8_t *frame = data + sizeof(struct virtio_net_hdr);
    uint16_t type;
    in_addr_t source;
    in_addr_t target;
    if (size < sizeof(struct virtio_net_hdr) + ETHER_HDR_LEN + 20) {
        return true;
    }
    memcpy(&type, frame + 12, sizeof type);
    memcpy(&source, frame + ETHER_HDR_LEN + IP_SOURCE, sizeof source);
    memcpy(&target, frame + ETHER_HDR_LEN + IP_TARGET, sizeof target);
    return type != htons(ETHERTYPE_IP) || source == wire->fast || target == wire->fast;
}

static void deliver(const struct direction *direction, const void *data, size_t size) {
    /* A full device drops frames, as cables do. */
    (void)!write(direction->to, data, size);
}

static void enqueue(struct wire *wire, struct direction *direction, const uint8_t *data,
                    size_t size) {
    uint64_t moment = now_ns();
    if (direction->bytes + size > QUEUE_BYTES ||
        direction->free_ns > moment + QUEUE_MS * UINT64_C(1000000)) {
        return;
    }
    uint64_t begin = direction->free_ns > moment ? direction->free_ns : moment;
    uint64_t bits = (uint64_t)size * 8;
    direction->free_ns =
        wire->rate_bits > 0 ? begin + bits * 1000 * MS_NS / wire->rate_bits : begin;
    uint64_t jitter = wire->jitter_ns > 0 ? prng_below(&wire->prng, wire->jitter_ns) : 0;
    uint64_t due = direction->free_ns + wire->delay_ns + jitter;
    struct frame *frame = mem_alloc(sizeof *frame + size);
    frame->next = NULL;
    frame->size = size;
    frame->due_ns =
        direction->last != NULL && direction->last->due_ns > due ? direction->last->due_ns : due;
    memcpy(frame->data, data, size);
    if (direction->last != NULL) {
        direction->last->next = frame;
    } else {
        direction->first = frame;
    }
    direction->last = frame;
    direction->bytes += size;
}

static void take_all(struct wire *wire, unsigned side) {
    static uint8_t data[FRAME_SIZE];
    struct direction *direction = &wire->directions[side];
    for (;;) {
        ssize_t size = recv(wire->sockets[side], data, sizeof data, 0);
        if (size <= 0) {
            return;
        }
        if (is_fast(wire, data, (size_t)size)) {
            deliver(direction, data, (size_t)size);
        } else {
            enqueue(wire, direction, data, (size_t)size);
        }
    }
}

static void deliver_due(struct direction *direction, uint64_t moment) {
    while (direction->first != NULL && direction->first->due_ns <= moment) {
        struct frame *frame = direction->first;
        direction->first = frame->next;
        direction->last = direction->first != NULL ? direction->last : NULL;
        direction->bytes -= frame->size;
        deliver(direction, frame->data, frame->size);
        mem_free(frame);
    }
}

static struct timespec time_left(const struct wire *wire) {
    uint64_t moment = now_ns();
    uint64_t next = moment + UINT64_C(1000) * MS_NS;
    for (unsigned i = 0; i < 2; i++) {
        const struct frame *frame = wire->directions[i].first;
        next = frame != NULL && frame->due_ns < next ? frame->due_ns : next;
    }
    uint64_t left = next > moment ? next - moment : 0;
    return (struct timespec){.tv_sec = (time_t)(left / (UINT64_C(1000) * MS_NS)),
                             .tv_nsec = (long)(left % (UINT64_C(1000) * MS_NS))};
}

static void run(struct wire *wire) {
    for (;;) {
        struct pollfd waiting[2] = {{.fd = wire->sockets[0], .events = POLLIN},
                                    {.fd = wire->sockets[1], .events = POLLIN}};
        struct timespec left = time_left(wire);
        (void)ppoll(waiting, 2, &left, NULL);
        for (unsigned i = 0; i < 2; i++) {
            take_all(wire, i);
            deliver_due(&wire->directions[i], now_ns());
        }
    }
}

static bool parse(const char *text, uint64_t factor, uint64_t *value) {
    char *end;
    unsigned long number = strtoul(text, &end, 10);
    *value = number * factor;
    return *text != '\0' && *end == '\0' && number <= 10000000;
}

int main(int argc, char **argv) {
    struct wire wire = {0};
    struct in_addr fast;
    if (argc != 7 || !parse(argv[3], MS_NS, &wire.delay_ns) ||
        !parse(argv[4], MS_NS, &wire.jitter_ns) || !parse(argv[5], 1000, &wire.rate_bits) ||
        inet_pton(AF_INET, argv[6], &fast) != 1) {
        fprintf(stderr, "Usage: chaos-wire INTERFACE INTERFACE DELAY_MS JITTER_MS RATE_KBIT "
                        "FAST_ADDRESS\n");
        return EXIT_FAILURE;
    }
    wire.fast = fast.s_addr;
    prng_seed(&wire.prng, now_ns());
    for (unsigned i = 0; i < 2; i++) {
        wire.sockets[i] = open_interface(argv[1 + i]);
        if (wire.sockets[i] < 0) {
            return EXIT_FAILURE;
        }
        wire.directions[1 - i].to = wire.sockets[i];
    }
    run(&wire);
}
