#include "tests/sim/kernel.h"

#include <malloc.h>
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#define HAVE_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define HAVE_ASAN 0
#endif

#include "base/assert.h"

enum { STACK_SIZE = HAVE_ASAN ? 2 << 20 : 512 << 10, STACKS_KEPT = 64 };

struct event {
    uint64_t at;
    uint64_t order;
    struct process *owner;
    void (*run)(void *data);
    void *data;
};

struct thread {
    struct list_node node;
    struct process *process;
    ucontext_t context; /* its beginning; later switches save no signal mask, which is faster */
    jmp_buf resume;
    bool begun;
    void *stack;
    void (*main)(void *data);
    void *data;
    bool ended;
    bool parked;
    bool token;    /* woken before it parked */
    uint64_t park; /* counts waits, so that a late timeout is recognised */
    bool timed_out;
    struct thread *joiner;
    void *fake_stack;
};

/* A timeout of one wait. */
struct timeout {
    struct thread *thread;
    uint64_t park;
};

static struct {
    uint64_t now;
    uint64_t order;
    uint64_t n_events;
    uint64_t digest;
    struct prng prng;
    struct event *heap;
    size_t n;
    size_t capacity;
    struct host hosts[SIM_HOSTS];
    struct thread *running;
    struct process *doomed; /* killed from one of its own threads */
    jmp_buf scheduler;
    void *stacks[STACKS_KEPT];
    unsigned n_stacks;
    uint64_t n_processes;
    const void *scheduler_bottom;
    size_t scheduler_size;
} kernel;

void (*process_ended)(struct process *process);

/* ---- time and chance ---- */

void kernel_start(uint64_t seed) {
    memset(&kernel, 0, sizeof kernel);
    /* Files live in the heap here: large blocks come and go all the time. */
    (void)mallopt(M_MMAP_THRESHOLD, 1 << 30);
    (void)mallopt(M_TRIM_THRESHOLD, 1 << 30);
    prng_seed(&kernel.prng, seed);
    for (unsigned i = 0; i < SIM_HOSTS; i++) {
        kernel.hosts[i] = (struct host){.number = i, .powered = true};
    }
}

uint64_t kernel_now(void) {
    return kernel.now;
}

uint64_t kernel_random(uint64_t below) {
    return prng_below(&kernel.prng, below);
}

bool kernel_chance(double probability) {
    return (double)kernel_random((uint64_t)1 << 40) < probability * (double)((uint64_t)1 << 40);
}

uint64_t kernel_delay(uint64_t mean) {
    double unit = ((double)kernel_random((uint64_t)1 << 40) + 1) / (double)((uint64_t)1 << 40);
    double delay = -log(unit) * (double)mean;
    double most = 20.0 * (double)mean;
    return (uint64_t)(delay < most ? delay : most);
}

uint64_t kernel_events(void) {
    return kernel.n_events;
}

uint64_t kernel_digest(void) {
    return kernel.digest;
}

void kernel_mix(uint64_t what) {
    uint64_t x = kernel.digest ^ what;
    x *= 0x9e3779b97f4a7c15U;
    kernel.digest = x ^ (x >> 29);
}

/* ---- the queue of events ---- */

static bool event_before(const struct event *a, const struct event *b) {
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static void heap_push(struct event event) {
    if (kernel.n == kernel.capacity) {
        kernel.capacity = kernel.capacity == 0 ? 1024 : kernel.capacity * 2;
        kernel.heap = sim_realloc(kernel.heap, kernel.capacity * sizeof *kernel.heap);
    }
    size_t at = kernel.n++;
    while (at > 0 && event_before(&event, &kernel.heap[(at - 1) / 2])) {
        kernel.heap[at] = kernel.heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    kernel.heap[at] = event;
}

static struct event heap_pop(void) {
    struct event top = kernel.heap[0];
    struct event last = kernel.heap[--kernel.n];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= kernel.n) {
            break;
        }
        if (child + 1 < kernel.n && event_before(&kernel.heap[child + 1], &kernel.heap[child])) {
            child++;
        }
        if (!event_before(&kernel.heap[child], &last)) {
            break;
        }
        kernel.heap[at] = kernel.heap[child];
        at = child;
    }
    kernel.heap[at] = last;
    return top;
}

void kernel_at(uint64_t at_ns, struct process *owner, void (*run)(void *data), void *data) {
    heap_push((struct event){.at = at_ns > kernel.now ? at_ns : kernel.now,
                             .order = kernel.order++,
                             .owner = owner,
                             .run = run,
                             .data = data});
}

void kernel_run_until(uint64_t until_ns) {
    ASSERT(kernel.running == NULL);
    while (kernel.n > 0 && kernel.heap[0].at <= until_ns) {
        struct event event = heap_pop();
        kernel.now = event.at;
        if (event.owner != NULL && !event.owner->alive) {
            continue;
        }
        if (event.owner != NULL && event.owner->paused_until > kernel.now) {
            event.at = event.owner->paused_until;
            heap_push(event);
            continue;
        }
        kernel.n_events++;
        kernel_mix(event.at ^ (event.owner != NULL ? event.owner->number << 48 : 0));
        event.run(event.data);
    }
    if (kernel.now < until_ns) {
        kernel.now = until_ns;
    }
}

/* ---- hosts ---- */

struct host *host_get(unsigned number) {
    ASSERT(number < SIM_HOSTS);
    return &kernel.hosts[number];
}

/* An hour: nothing may depend on clocks that begin at zero. */
static const uint64_t monotonic_start = 3600 * SIM_S;
static const uint64_t wall_start_ms = 1790000000000U;

uint64_t host_monotonic_ns(const struct host *host) {
    return monotonic_start * (host->number + 1) +
           (uint64_t)((double)kernel.now * (1.0 + host->drift));
}

uint64_t host_wall_ns(const struct host *host) {
    return (wall_start_ms + host->wall_offset_ms) * SIM_MS +
           (uint64_t)((double)kernel.now * (1.0 + host->drift));
}

uint64_t host_to_real(const struct host *host, uint64_t ns) {
    return (uint64_t)((double)ns / (1.0 + host->drift)) + 1;
}

/* ---- threads ---- */

static void *stack_take(void) {
    if (kernel.n_stacks > 0) {
        return kernel.stacks[--kernel.n_stacks];
    }
    void *stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    ASSERT(stack != MAP_FAILED);
    int result = mprotect(stack, 4096, PROT_NONE);
    ASSERT(result == 0);
    return stack;
}

static void stack_give(void *stack) {
#if HAVE_ASAN
    __asan_unpoison_memory_region((char *)stack + 4096, STACK_SIZE - 4096);
#endif
    if (kernel.n_stacks < STACKS_KEPT) {
        kernel.stacks[kernel.n_stacks++] = stack;
    } else {
        munmap(stack, STACK_SIZE);
    }
}

static void enter_thread(struct thread *thread) {
    kernel.running = thread;
#if HAVE_ASAN
    static void *fake;
    __sanitizer_start_switch_fiber(&fake, thread->stack, STACK_SIZE);
#endif
    if (_setjmp(kernel.scheduler) == 0) {
        if (thread->begun) {
            _longjmp(thread->resume, 1);
        }
        thread->begun = true;
        setcontext(&thread->context);
    }
#if HAVE_ASAN
    __sanitizer_finish_switch_fiber(fake, NULL, NULL);
#endif
    kernel.running = NULL;
}

/* Back to the scheduler; returns when the thread is resumed. */
static void leave_thread(struct thread *thread, bool for_good) {
#if HAVE_ASAN
    __sanitizer_start_switch_fiber(for_good ? NULL : &thread->fake_stack, kernel.scheduler_bottom,
                                   kernel.scheduler_size);
#else
    (void)for_good;
#endif
    if (_setjmp(thread->resume) == 0) {
        _longjmp(kernel.scheduler, 1);
    }
#if HAVE_ASAN
    __sanitizer_finish_switch_fiber(thread->fake_stack, NULL, NULL);
#endif
}

static void process_finish(struct process *process);

/* The thread itself stays until its process ends: a timeout may still point to it. */
static void thread_release_stack(struct thread *thread) {
    if (thread->stack != NULL) {
        stack_give(thread->stack);
        thread->stack = NULL;
    }
}

static void thread_run(void *data) {
    struct thread *thread = data;
    struct process *process = thread->process;
    enter_thread(thread);
    if (kernel.doomed != NULL) {
        ASSERT(kernel.doomed == process);
        kernel.doomed = NULL;
        process_finish(process);
        return;
    }
    if (thread->ended && thread->joiner != NULL) {
        thread_unpark(thread->joiner);
    }
}

static void thread_entry(void) {
    struct thread *thread = kernel.running;
#if HAVE_ASAN
    __sanitizer_finish_switch_fiber(NULL, &kernel.scheduler_bottom, &kernel.scheduler_size);
#endif
    thread->main(thread->data);
    thread->ended = true;
    leave_thread(thread, true);
    ASSERT(false);
}

struct thread *thread_start(struct process *process, void (*main)(void *data), void *data) {
    struct thread *thread = sim_alloc(sizeof *thread);
    thread->process = process;
    thread->stack = stack_take();
    thread->main = main;
    thread->data = data;
    getcontext(&thread->context);
    thread->context.uc_stack.ss_sp = (char *)thread->stack + 4096;
    thread->context.uc_stack.ss_size = STACK_SIZE - 4096;
    thread->context.uc_link = NULL;
    makecontext(&thread->context, thread_entry, 0);
    list_push(&process->threads, &thread->node);
    kernel_at(kernel.now + kernel_delay(5 * SIM_US), process, thread_run, thread);
    return thread;
}

struct thread *thread_current(void) {
    return kernel.running;
}

bool thread_has_ended(const struct thread *thread) {
    return thread->ended;
}

void thread_park(void) {
    struct thread *thread = kernel.running;
    ASSERT(thread != NULL);
    if (thread->token) {
        thread->token = false;
        return;
    }
    thread->parked = true;
    leave_thread(thread, false);
}

void thread_unpark(struct thread *thread) {
    if (!thread->parked) {
        thread->token = true;
        return;
    }
    thread->parked = false;
    thread->park++;
    thread->timed_out = false;
    kernel_at(kernel.now + kernel_random(3 * SIM_US), thread->process, thread_run, thread);
}

static void timeout_run(void *data) {
    struct timeout *timeout = data;
    struct thread *thread = timeout->thread;
    if (thread->parked && thread->park == timeout->park) {
        thread->parked = false;
        thread->park++;
        thread->timed_out = true;
        sim_free(timeout);
        thread_run(thread);
        return;
    }
    sim_free(timeout);
}

bool thread_park_for(uint64_t ns) {
    struct thread *thread = kernel.running;
    if (thread->token) {
        thread->token = false;
        return true;
    }
    struct timeout *timeout = sim_alloc(sizeof *timeout);
    *timeout = (struct timeout){.thread = thread, .park = thread->park};
    kernel_at(kernel.now + ns, thread->process, timeout_run, timeout);
    thread->parked = true;
    leave_thread(thread, false);
    return !thread->timed_out;
}

void thread_sleep(uint64_t ns) {
    struct thread *thread = kernel.running;
    ASSERT(thread != NULL);
    kernel_at(kernel.now + ns, thread->process, thread_run, thread);
    leave_thread(thread, false);
}

void thread_join(struct thread *thread) {
    thread->joiner = kernel.running;
    while (!thread->ended) {
        thread_park();
    }
    thread_release_stack(thread);
}

/* ---- processes ---- */

struct start {
    void (*main)(void *data);
    void *data;
};

static void process_main(void *data) {
    struct start start = *(struct start *)data;
    sim_free(data);
    struct process *process = kernel.running->process;
    start.main(start.data);
    process->clean = true;
    process_kill(process, "ended");
}

struct process *process_start(struct host *host, struct node *node, void (*main)(void *data),
                              void *data) {
    ASSERT(host->process == NULL);
    struct process *process = sim_alloc(sizeof *process);
    process->host = host;
    process->number = ++kernel.n_processes;
    process->alive = true;
    process->node = node;
    list_init(&process->threads);
    list_init(&process->blocks);
    host->process = process;
    struct start *start = sim_alloc(sizeof *start);
    *start = (struct start){.main = main, .data = data};
    (void)thread_start(process, process_main, start);
    return process;
}

static void process_finish(struct process *process) {
    process->alive = false;
    process->host->process = NULL;
    while (!list_empty(&process->threads)) {
        struct thread *thread = LIST_ENTRY(list_first(&process->threads), struct thread, node);
        list_remove(&thread->node);
        thread_release_stack(thread);
        sim_free(thread);
    }
    process_ended(process);
    uint64_t leaked = memory_release(process);
    if (process->clean && leaked > 0) {
        sim_fail("LEAK host %u: %llu blocks of memory were not freed by an orderly end",
                 process->host->number, (unsigned long long)leaked);
    }
}

void process_kill(struct process *process, const char *reason) {
    if (!process->alive) {
        return;
    }
    snprintf(process->reason, sizeof process->reason, "%s", reason);
    if (kernel.running != NULL && kernel.running->process == process) {
        kernel.doomed = process;
        leave_thread(kernel.running, true);
        ASSERT(false);
    }
    process_finish(process);
}

struct process *process_current(void) {
    return kernel.running != NULL ? kernel.running->process : NULL;
}

void process_pause(struct process *process, uint64_t for_ns) {
    process->paused_until = kernel.now + for_ns;
}

void process_io_point(void) {
    struct process *process = process_current();
    process->n_ios++;
    if (process->die_after_ios > 0 && --process->die_after_ios == 0) {
        cover("crash at an I/O boundary");
        process_kill(process, process->die_by_power ? "power loss" : "killed");
    }
}
