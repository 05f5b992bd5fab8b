#include "node/workers_uv.h"

#include <pthread.h>
#include <stdio.h>
#include <uv.h>

#include "base/assert.h"
#include "base/mem.h"

/* Rows of cleared epochs deleted at a time while a thread has nothing else to do: short enough not
 * to delay a job that arrives meanwhile. */
enum { RECLAIM_STEP = 256 };

/* Jobs, and results in them, that are handed out in one turn of the loop, which has others to
 * serve. One job may pass the bound that was not reached before it. */
enum { DONE_PER_TURN = 8, DONE_RESULTS_PER_TURN = 256 };

struct worker {
    struct workers *workers;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    struct list_node *queues; /* under mutex: jobs of each shard, in order */
    unsigned n_queued;        /* under mutex: in all queues */
    unsigned next;            /* under mutex: shard whose turn it is */
    bool stop;                /* under mutex */
};

struct workers {
    struct worker *threads;
    unsigned n_threads;
    struct machine **machines;
    struct machine_options *options;
    unsigned n_shards;
    uv_async_t async;
    pthread_mutex_t done_mutex;
    struct list_node done; /* under done_mutex */
    uint64_t outstanding;  /* loop thread */
    bool closing;
    void (*closed)(void *data);
    void *closed_data;
};

static void hand_back(struct workers *workers, struct job *job) {
    pthread_mutex_lock(&workers->done_mutex);
    list_push(&workers->done, &job->link);
    pthread_mutex_unlock(&workers->done_mutex);
    uv_async_send(&workers->async);
}

/* One step of deleting cleared rows for each of this thread's shards; true when more is left. */
static bool reclaim(struct worker *worker) {
    struct workers *workers = worker->workers;
    unsigned me = (unsigned)(worker - workers->threads);
    bool more_anywhere = false;
    for (unsigned shard = me; shard < workers->n_shards; shard += workers->n_threads) {
        struct machine *machine = workers->machines[shard];
        bool more = false;
        if (machine == NULL || !machine_state(machine).has_garbage) {
            continue;
        }
        /* Without space the rows stay until there is some. */
        if (machine_reclaim(machine, RECLAIM_STEP, &more, NULL) == ERROR_NONE && more) {
            more_anywhere = true;
        }
    }
    return more_anywhere;
}

/* The next job of the shard whose turn it is: a shard with much to do delays the others by one of
 * its jobs. Under the mutex. */
static struct job *next_job(struct worker *worker) {
    unsigned n_shards = worker->workers->n_shards;
    for (unsigned i = 0; i < n_shards && worker->n_queued > 0; i++) {
        struct list_node *queue = &worker->queues[worker->next];
        worker->next = (worker->next + 1) % n_shards;
        if (!list_empty(queue)) {
            struct list_node *node = list_first(queue);
            list_remove(node);
            worker->n_queued--;
            return LIST_ENTRY(node, struct job, link);
        }
    }
    return NULL;
}

/* False when the thread is to end. *job is NULL when there is none and `wait` is false. */
static bool take_job(struct worker *worker, struct job **job, bool wait) {
    pthread_mutex_lock(&worker->mutex);
    while (wait && worker->n_queued == 0 && !worker->stop) {
        pthread_cond_wait(&worker->wake, &worker->mutex);
    }
    *job = next_job(worker);
    bool go_on = !worker->stop || *job != NULL;
    pthread_mutex_unlock(&worker->mutex);
    return go_on;
}

static void *worker_main(void *data) {
    struct worker *worker = data;
    struct workers *workers = worker->workers;
    struct job *job;
    bool garbage = false;
    while (take_job(worker, &job, !garbage)) {
        if (job == NULL) {
            garbage = reclaim(worker);
            continue;
        }
        job_run(job, &workers->machines[job->shard], &workers->options[job->shard]);
        garbage = garbage || job->state.has_garbage;
        hand_back(workers, job);
    }
    return NULL;
}

static void async_closed(uv_handle_t *handle) {
    struct workers *workers = handle->data;
    void (*closed)(void *) = workers->closed;
    void *data = workers->closed_data;
    mem_free(workers->machines);
    mem_free(workers->options);
    mem_free(workers->threads);
    mem_free(workers);
    closed(data);
}

static void finish_close(struct workers *workers) {
    for (unsigned i = 0; i < workers->n_threads; i++) {
        struct worker *worker = &workers->threads[i];
        pthread_mutex_lock(&worker->mutex);
        worker->stop = true;
        pthread_cond_signal(&worker->wake);
        pthread_mutex_unlock(&worker->mutex);
        pthread_join(worker->thread, NULL);
        pthread_cond_destroy(&worker->wake);
        pthread_mutex_destroy(&worker->mutex);
        mem_free(worker->queues);
    }
    for (unsigned i = 0; i < workers->n_shards; i++) {
        machine_close(workers->machines[i]);
    }
    pthread_mutex_destroy(&workers->done_mutex);
    uv_close((uv_handle_t *)&workers->async, async_closed);
}

static struct job *take_done(struct workers *workers) {
    struct job *job = NULL;
    pthread_mutex_lock(&workers->done_mutex);
    if (!list_empty(&workers->done)) {
        struct list_node *node = list_first(&workers->done);
        list_remove(node);
        job = LIST_ENTRY(node, struct job, link);
    }
    pthread_mutex_unlock(&workers->done_mutex);
    return job;
}

static bool has_done(struct workers *workers) {
    pthread_mutex_lock(&workers->done_mutex);
    bool any = !list_empty(&workers->done);
    pthread_mutex_unlock(&workers->done_mutex);
    return any;
}

static void on_async(uv_async_t *async) {
    struct workers *workers = async->data;
    struct job *job;
    unsigned results = 0;
    for (unsigned i = 0;
         i < DONE_PER_TURN && results < DONE_RESULTS_PER_TURN && (job = take_done(workers)) != NULL;
         i++) {
        results += job->n_results + job->n_done;
        workers->outstanding--;
        job->done(job);
    }
    if (has_done(workers)) {
        uv_async_send(async);
    }
    if (workers->closing && workers->outstanding == 0) {
        workers->closing = false;
        finish_close(workers);
    }
}

static void start_threads(struct workers *workers) {
    for (unsigned i = 0; i < workers->n_threads; i++) {
        struct worker *worker = &workers->threads[i];
        worker->workers = workers;
        worker->queues = mem_alloc(workers->n_shards * sizeof *worker->queues);
        for (unsigned shard = 0; shard < workers->n_shards; shard++) {
            list_init(&worker->queues[shard]);
        }
        pthread_mutex_init(&worker->mutex, NULL);
        pthread_cond_init(&worker->wake, NULL);
        int rv = pthread_create(&worker->thread, NULL, worker_main, worker);
        if (rv != 0) {
            assert_fatal("cannot start a state machine thread: error %d", rv);
        }
    }
}

enum error_code workers_open(struct workers **out, struct uv_loop_s *loop, unsigned n_threads,
                             const struct machine_options *options, unsigned n_shards,
                             struct error *error) {
    struct workers *workers = mem_zalloc(1, sizeof *workers);
    *out = NULL;
    workers->n_threads = n_threads < n_shards ? n_threads : n_shards;
    workers->n_shards = n_shards;
    workers->threads = mem_zalloc(workers->n_threads, sizeof *workers->threads);
    workers->machines = mem_zalloc(n_shards, sizeof *workers->machines);
    workers->options = mem_dup(options, n_shards * sizeof *options);
    for (unsigned i = 0; i < n_shards; i++) {
        enum error_code code = machine_open(&workers->machines[i], &options[i], error);
        if (code != ERROR_NONE) {
            while (i-- > 0) {
                machine_close(workers->machines[i]);
            }
            mem_free(workers->machines);
            mem_free(workers->options);
            mem_free(workers->threads);
            mem_free(workers);
            return code;
        }
    }
    list_init(&workers->done);
    pthread_mutex_init(&workers->done_mutex, NULL);
    int rv = uv_async_init(loop, &workers->async, on_async);
    ASSERT(rv == 0);
    workers->async.data = workers;
    start_threads(workers);
    *out = workers;
    return ERROR_NONE;
}

struct machine_state workers_initial_state(const struct workers *workers, unsigned shard) {
    return machine_state(workers->machines[shard]);
}

struct slice workers_initial_config(const struct workers *workers, unsigned shard) {
    return machine_config(workers->machines[shard]);
}

enum error_code workers_checkpoint_initial(struct workers *workers, unsigned shard,
                                           struct error *error) {
    uint64_t durable_index = 0;
    return machine_checkpoint(workers->machines[shard], &durable_index, error);
}

/* A fold has its own connection to the database: libuv's pool runs it. */
struct fold {
    uv_work_t work;
    struct workers *workers;
    struct job *job;
};

static void fold_work(uv_work_t *work) {
    struct fold *fold = work->data;
    job_run(fold->job, NULL, &fold->workers->options[fold->job->shard]);
}

static void fold_finished(uv_work_t *work, int status) {
    struct fold *fold = work->data;
    struct workers *workers = fold->workers;
    struct job *job = fold->job;
    (void)status;
    mem_free(fold);
    workers->outstanding--;
    job->done(job);
    uv_async_send(&workers->async); /* a close may wait for this */
}

static void submit_fold(struct workers *workers, struct job *job) {
    struct fold *fold = mem_zalloc(1, sizeof *fold);
    fold->work.data = fold;
    fold->workers = workers;
    fold->job = job;
    int rv = uv_queue_work(workers->async.loop, &fold->work, fold_work, fold_finished);
    ASSERT(rv == 0);
}

void workers_submit(struct workers *workers, struct job *job) {
    struct worker *worker = &workers->threads[job->shard % workers->n_threads];
    ASSERT(job->shard < workers->n_shards);
    workers->outstanding++;
    if (job->kind == JOB_FOLD) {
        submit_fold(workers, job);
        return;
    }
    pthread_mutex_lock(&worker->mutex);
    list_push(&worker->queues[job->shard], &job->link);
    if (worker->n_queued++ == 0) {
        pthread_cond_signal(&worker->wake);
    }
    pthread_mutex_unlock(&worker->mutex);
}

void workers_close(struct workers *workers, void (*closed)(void *data), void *data) {
    workers->closed = closed;
    workers->closed_data = data;
    workers->closing = true;
    uv_async_send(&workers->async);
}
