/* The simulated machine room: time, threads, processes and hosts, in one real thread.
 *
 * A thread of a simulated process is a fiber; it runs until it sleeps or waits, and time stands
 * still while it runs. Everything that happens later is an event in one queue, ordered by time and
 * then by the order in which it was planned, so that a run depends on its seed alone.
 *
 * What a process allocates is listed under it (memory.c), so that killing it leaves nothing behind
 * and an orderly end can be checked for leaks. */
#ifndef SIM_KERNEL_H
#define SIM_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "base/prng.h"

#define SIM_US ((uint64_t)1000)
#define SIM_MS ((uint64_t)1000 * SIM_US)
#define SIM_S ((uint64_t)1000 * SIM_MS)

enum { SIM_HOSTS = 8 /* host 0 is where the clients live, nodes are on 1 to 7 */ };

struct disk;
struct thread;

struct host {
    unsigned number;
    struct disk *disk;
    struct process *process; /* the one that runs here, or NULL */
    bool powered;            /* false: it does not even answer that nobody listens */
    double drift;            /* its clock runs at 1 + drift */
    uint64_t wall_offset_ms; /* of the wall clock */
};

struct process {
    struct host *host;
    uint64_t number;
    bool alive;
    bool clean; /* ended by itself, in order */
    char reason[600];
    uint64_t paused_until; /* nothing of it runs before */
    struct list_node threads;
    struct list_node blocks; /* memory */
    uint64_t bytes;
    uint64_t n_ios;
    uint64_t die_after_ios; /* a planned crash: after so many more I/O calls; 0: none */
    bool die_by_power;
    bool io_failed; /* the simulator let an I/O call of this process fail */
    void *loop;     /* uv.c */
    void *shm;      /* vfs.c: wal indexes and locks of this process */
    struct node *node;
};

void kernel_start(uint64_t seed);
uint64_t kernel_now(void); /* ns since the start of the run */
uint64_t kernel_random(uint64_t below);
bool kernel_chance(double probability);
/* A delay of `mean` ns on average, exponentially distributed, at most 20 times as long. */
uint64_t kernel_delay(uint64_t mean);
uint64_t kernel_events(void);
/* Mixed from everything that happened: equal for equal runs. */
uint64_t kernel_digest(void);
void kernel_mix(uint64_t what);

/* Runs `run(data)` at a time. Dropped when `owner` (may be NULL) is dead by then, put off while it
 * is paused. */
void kernel_at(uint64_t at_ns, struct process *owner, void (*run)(void *data), void *data);
/* Runs events until the given time, or until kernel_stop(). */
void kernel_run_until(uint64_t until_ns);

struct host *host_get(unsigned number);
uint64_t host_monotonic_ns(const struct host *host);
uint64_t host_wall_ns(const struct host *host);
/* How much simulated time passes while the host's clock counts `ns`. */
uint64_t host_to_real(const struct host *host, uint64_t ns);

/* Starts a process on the host with one thread that runs main(data); when that returns the process
 * has ended cleanly. */
struct process *process_start(struct host *host, struct node *node, void (*main)(void *data),
                              void *data);
/* Ends it at once. When it is the running one this does not return. */
void process_kill(struct process *process, const char *reason);
/* The process of the running thread; NULL in the simulator itself. */
struct process *process_current(void);
void process_pause(struct process *process, uint64_t for_ns);
/* Called for each I/O call of the running process: a planned crash happens here. */
void process_io_point(void);
/* Told when a process ends, however it does. */
extern void (*process_ended)(struct process *process);

struct thread *thread_current(void);
struct thread *thread_start(struct process *process, void (*main)(void *data), void *data);
bool thread_has_ended(const struct thread *thread);
/* Lets the running thread wait. A wake-up that came before is not lost. */
void thread_park(void);
void thread_unpark(struct thread *thread);
/* As thread_park(), at most for so long; false when the time ran out. */
bool thread_park_for(uint64_t ns);
void thread_sleep(uint64_t ns);
/* The running thread waits until `thread` has ended, whose memory is then gone. */
void thread_join(struct thread *thread);

/* The event log (log.c). Lines are kept in a ring that a failure prints. */
void sim_log(const char *format, ...) __attribute__((format(printf, 1, 2)));
void sim_log_to_output(bool on);
/* Something is wrong: says what, prints the end of the event log and ends the run with status 1.
 * The first word names the kind of failure, by which shrinking compares. */
_Noreturn void sim_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
void sim_print_log_tail(void);

/* Memory of the simulator itself, which belongs to no process. */
void *sim_alloc(size_t size); /* zeroed */
void *sim_realloc(void *pointer, size_t size);
void sim_free(void *pointer);
/* memory.c: frees all that the process still has; returns how many blocks that were. */
uint64_t memory_release(struct process *process);
void memory_install(void);

/* Coverage: how often what happened. `name` must be a literal. */
void cover(const char *name);
void cover_add(const char *name, uint64_t n);
void cover_print(void *file, const char *prefix);

#endif
