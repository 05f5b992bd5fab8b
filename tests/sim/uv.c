/* libuv, as far as the server uses it, on simulated time, threads and network. The order of an
 * iteration is libuv's: timers, idle, prepare, poll, check, closing. Everything that can happen in
 * the poll phase is queued in `ready` in the order of its arrival. */
#include <uv.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/list.h"
#include "base/mem.h"
#include "tests/sim/network.h"
#include "tests/sim/posix.h"
#include "tests/sim/uv.h"

enum { POOL_THREADS = 4, READS_IN_A_ROW = 32, READ_SIZE = 64 * 1024, ACCEPTS_MAX = 128 };

enum ready_kind { READY_HANDLE, READY_WORK, READY_RESOLVED, READY_SIGNAL };

struct ready {
    struct list_node node; /* in loop->ready, or alone */
    enum ready_kind kind;
};

struct work {
    struct ready ready;
    struct list_node node; /* in loop->work */
    uv_work_t *request;
};

struct resolved {
    struct ready ready;
    uv_getaddrinfo_t *request;
    int status;
};

struct signalled {
    struct ready ready;
    void (*run)(void *data);
    void *data;
};

struct loop {
    struct process *process;
    struct thread *thread;
    bool waiting;
    uint64_t now_ms;
    struct list_node handles;
    struct list_node closing;
    struct list_node ready;
    uint64_t n_timers;
    unsigned active_requests;
    struct list_node work;
    struct thread *pool[POOL_THREADS];
    bool pool_waits[POOL_THREADS];
    unsigned n_pool;
};

struct write {
    struct write *next;
    uv_write_t *request;
    uv_buf_t *bufs;
    unsigned n;
    size_t at; /* bytes of the first buffer that are sent */
    int status;
    bool done;
};

struct handle {
    struct ready ready;
    struct list_node node; /* in loop->handles */
    struct list_node closing_node;
    uv_handle_t *uv;
    struct loop *loop;
    bool active;
    bool closing;

    /* Timers. */
    uint64_t due_ms;
    uint64_t repeat_ms;
    uint64_t order;
    uv_timer_cb timer;
    /* Async, idle, prepare, check. */
    uv_async_cb async;
    uv_idle_cb idle;
    uv_prepare_cb prepare;
    uv_check_cb check;

    /* TCP. */
    struct endpoint *endpoint;
    uint16_t port; /* bound */
    bool listening;
    uv_connection_cb on_connection;
    struct endpoint *accepted[ACCEPTS_MAX];
    unsigned n_accepted;
    uv_connect_t *connect;
    uv_connect_cb on_connect;
    int connect_status;
    bool connect_done;
    bool reading;
    bool end_told;
    struct write *writes; /* in order; those that are done stay until their callback ran */
    struct write **writes_end;
};

void (*uv_loop_observer)(struct process *process);

static struct handle *own(const void *uv) {
    return ((const uv_handle_t *)uv)->u.reserved[0];
}

static struct loop *loop_of(const uv_loop_t *loop) {
    return loop->internal_fields;
}

static void loop_wake(struct loop *loop) {
    if (loop->waiting) {
        loop->waiting = false;
        thread_unpark(loop->thread);
    }
}

static void make_ready(struct loop *loop, struct ready *ready) {
    if (list_empty(&ready->node)) {
        list_push(&loop->ready, &ready->node);
    }
    loop_wake(loop);
}

static void handle_ready(struct handle *handle) {
    if (!handle->closing) {
        make_ready(handle->loop, &handle->ready);
    }
}

/* ---- the loop ---- */

int uv_loop_init(uv_loop_t *loop) {
    memset(loop, 0, sizeof *loop);
    struct loop *own_loop = mem_zalloc(1, sizeof *own_loop);
    own_loop->process = process_current();
    own_loop->thread = thread_current();
    list_init(&own_loop->handles);
    list_init(&own_loop->closing);
    list_init(&own_loop->ready);
    list_init(&own_loop->work);
    own_loop->process->loop = own_loop;
    loop->internal_fields = own_loop;
    uv_update_time(loop);
    return 0;
}

int uv_loop_close(uv_loop_t *loop) {
    struct loop *own_loop = loop_of(loop);
    ASSERT(list_empty(&own_loop->handles));
    own_loop->process->loop = NULL;
    mem_free(own_loop);
    return 0;
}

void uv_update_time(uv_loop_t *loop) {
    struct loop *own_loop = loop_of(loop);
    own_loop->now_ms = host_monotonic_ns(own_loop->process->host) / SIM_MS;
}

uint64_t uv_now(const uv_loop_t *loop) {
    return loop_of(loop)->now_ms;
}

static bool loop_is_alive(const struct loop *loop) {
    if (loop->active_requests > 0 || !list_empty(&loop->closing)) {
        return true;
    }
    for (struct list_node *at = loop->handles.next; at != &loop->handles; at = at->next) {
        if (LIST_ENTRY(at, struct handle, node)->active) {
            return true;
        }
    }
    return false;
}

static struct handle *next_timer(const struct loop *loop) {
    struct handle *first = NULL;
    for (struct list_node *at = loop->handles.next; at != &loop->handles; at = at->next) {
        struct handle *handle = LIST_ENTRY(at, struct handle, node);
        if (handle->uv->type == UV_TIMER && handle->active &&
            (first == NULL || handle->due_ms < first->due_ms ||
             (handle->due_ms == first->due_ms && handle->order < first->order))) {
            first = handle;
        }
    }
    return first;
}

static void run_timers(struct loop *loop) {
    struct handle *handle;
    while ((handle = next_timer(loop)) != NULL && handle->due_ms <= loop->now_ms) {
        uv_timer_t *timer = (uv_timer_t *)handle->uv;
        uv_timer_cb callback = handle->timer;
        handle->active = false;
        if (handle->repeat_ms > 0) {
            uv_timer_start(timer, callback, handle->repeat_ms, handle->repeat_ms);
        }
        callback(timer);
    }
}

/* Idle, prepare and check handles: the newest first, as libuv does. */
static void run_phase(struct loop *loop, uv_handle_type type) {
    struct list_node *at = loop->handles.prev;
    while (at != &loop->handles) {
        struct handle *handle = LIST_ENTRY(at, struct handle, node);
        at = at->prev;
        if (handle->uv->type != type || !handle->active) {
            continue;
        }
        if (type == UV_IDLE) {
            handle->idle((uv_idle_t *)handle->uv);
        } else if (type == UV_PREPARE) {
            handle->prepare((uv_prepare_t *)handle->uv);
        } else {
            handle->check((uv_check_t *)handle->uv);
        }
    }
}

static bool has_idle(const struct loop *loop) {
    for (struct list_node *at = loop->handles.next; at != &loop->handles; at = at->next) {
        const struct handle *handle = LIST_ENTRY(at, struct handle, node);
        if (handle->uv->type == UV_IDLE && handle->active) {
            return true;
        }
    }
    return false;
}

static void wait_for_events(struct loop *loop) {
    uint64_t timeout_ns = UINT64_MAX;
    if (has_idle(loop) || !list_empty(&loop->closing) || !loop_is_alive(loop)) {
        return;
    }
    const struct handle *timer = next_timer(loop);
    if (timer != NULL) {
        uint64_t wait_ms = timer->due_ms > loop->now_ms ? timer->due_ms - loop->now_ms : 0;
        timeout_ns = host_to_real(loop->process->host, wait_ms * SIM_MS);
    }
    if (!list_empty(&loop->ready) || timeout_ns == 0) {
        return;
    }
    loop->waiting = true;
    if (timeout_ns == UINT64_MAX) {
        thread_park();
    } else {
        (void)thread_park_for(timeout_ns);
    }
    loop->waiting = false;
}

static void tcp_poll(struct handle *handle);

static void run_ready(struct loop *loop, struct ready *ready) {
    if (ready->kind == READY_WORK) {
        struct work *work = LIST_ENTRY(ready, struct work, ready);
        uv_work_t *request = work->request;
        mem_free(work);
        loop->active_requests--;
        request->after_work_cb(request, 0);
    } else if (ready->kind == READY_RESOLVED) {
        struct resolved *resolved = LIST_ENTRY(ready, struct resolved, ready);
        uv_getaddrinfo_t *request = resolved->request;
        int status = resolved->status;
        mem_free(resolved);
        loop->active_requests--;
        request->cb(request, status, request->addrinfo);
    } else if (ready->kind == READY_SIGNAL) {
        struct signalled *signalled = LIST_ENTRY(ready, struct signalled, ready);
        void (*run)(void *data) = signalled->run;
        void *data = signalled->data;
        mem_free(signalled);
        run(data);
    } else {
        struct handle *handle = LIST_ENTRY(ready, struct handle, ready);
        if (handle->uv->type == UV_ASYNC) {
            handle->async((uv_async_t *)handle->uv);
        } else {
            tcp_poll(handle);
        }
    }
}

static void poll_phase(uv_loop_t *uv) {
    struct loop *loop = loop_of(uv);
    wait_for_events(loop);
    /* The processor takes its time. */
    thread_sleep(SIM_US + kernel_random(10 * SIM_US));
    uv_update_time(uv);
    struct list_node now;
    list_init(&now);
    while (!list_empty(&loop->ready)) {
        struct list_node *node = list_first(&loop->ready);
        list_remove(node);
        list_push(&now, node);
    }
    while (!list_empty(&now)) {
        struct list_node *node = list_first(&now);
        list_remove(node);
        run_ready(loop, LIST_ENTRY(node, struct ready, node));
    }
}

static void finish_close(struct handle *handle);

static void closing_phase(struct loop *loop) {
    struct list_node now;
    list_init(&now);
    while (!list_empty(&loop->closing)) {
        struct list_node *node = list_first(&loop->closing);
        list_remove(node);
        list_push(&now, node);
    }
    while (!list_empty(&now)) {
        struct list_node *node = list_first(&now);
        list_remove(node);
        finish_close(LIST_ENTRY(node, struct handle, closing_node));
    }
}

static void pool_end(struct loop *loop);

int uv_run(uv_loop_t *uv, uv_run_mode mode) {
    struct loop *loop = loop_of(uv);
    ASSERT(mode == UV_RUN_DEFAULT);
    uv_update_time(uv);
    while (loop_is_alive(loop)) {
        uv_update_time(uv);
        run_timers(loop);
        run_phase(loop, UV_IDLE);
        run_phase(loop, UV_PREPARE);
        poll_phase(uv);
        run_phase(loop, UV_CHECK);
        closing_phase(loop);
        uv_loop_observer(loop->process);
    }
    pool_end(loop);
    return 0;
}

void uv_loop_signal(struct process *process, void (*run)(void *data), void *data) {
    struct loop *loop = process->loop;
    if (loop == NULL) {
        return;
    }
    struct signalled *signalled = mem_zalloc(1, sizeof *signalled);
    *signalled = (struct signalled){.run = run, .data = data};
    signalled->ready.kind = READY_SIGNAL;
    list_init(&signalled->ready.node);
    make_ready(loop, &signalled->ready);
}

/* ---- handles ---- */

static void handle_init(uv_loop_t *loop, void *uv, uv_handle_type type) {
    struct handle *handle = mem_zalloc(1, sizeof *handle);
    uv_handle_t *base = uv;
    base->loop = loop;
    base->type = type;
    base->u.reserved[0] = handle;
    handle->uv = base;
    handle->loop = loop_of(loop);
    handle->ready.kind = READY_HANDLE;
    handle->writes_end = &handle->writes;
    list_init(&handle->ready.node);
    list_init(&handle->closing_node);
    list_push(&handle->loop->handles, &handle->node);
}

int uv_is_active(const uv_handle_t *handle) {
    return own(handle) != NULL && own(handle)->active;
}

int uv_is_closing(const uv_handle_t *handle) {
    return own(handle) == NULL || own(handle)->closing;
}

static void cancel_writes(struct handle *handle) {
    while (handle->writes != NULL) {
        struct write *write = handle->writes;
        handle->writes = write->next;
        int status = write->done ? write->status : UV_ECANCELED;
        uv_write_t *request = write->request;
        mem_free(write->bufs);
        mem_free(write);
        request->cb(request, status);
    }
}

static void finish_close(struct handle *handle) {
    uv_handle_t *uv = handle->uv;
    if (handle->connect != NULL) {
        uv_connect_t *connect = handle->connect;
        handle->connect = NULL;
        handle->on_connect(connect, UV_ECANCELED);
    }
    cancel_writes(handle);
    list_remove(&handle->node);
    list_remove(&handle->ready.node);
    uv->u.reserved[0] = NULL;
    mem_free(handle);
    if (uv->close_cb != NULL) {
        uv->close_cb(uv);
    }
}

void uv_close(uv_handle_t *uv, uv_close_cb close_cb) {
    struct handle *handle = own(uv);
    ASSERT(handle != NULL && !handle->closing);
    handle->closing = true;
    handle->active = false;
    uv->close_cb = close_cb;
    list_remove(&handle->ready.node);
    list_push(&handle->loop->closing, &handle->closing_node);
    if (handle->listening) {
        net_listen_end(handle->loop->process, handle->port);
        for (unsigned i = 0; i < handle->n_accepted; i++) {
            net_close(handle->accepted[i]);
        }
    }
    if (handle->endpoint != NULL) {
        net_close(handle->endpoint);
        handle->endpoint = NULL;
    }
}

int uv_timer_init(uv_loop_t *loop, uv_timer_t *timer) {
    handle_init(loop, timer, UV_TIMER);
    return 0;
}

int uv_timer_start(uv_timer_t *timer, uv_timer_cb callback, uint64_t timeout, uint64_t repeat) {
    struct handle *handle = own(timer);
    if (handle == NULL || handle->closing) {
        return UV_EINVAL;
    }
    handle->timer = callback;
    handle->due_ms = handle->loop->now_ms + timeout;
    handle->repeat_ms = repeat;
    handle->order = ++handle->loop->n_timers;
    handle->active = true;
    return 0;
}

int uv_timer_stop(uv_timer_t *timer) {
    if (own(timer) != NULL) {
        own(timer)->active = false;
    }
    return 0;
}

int uv_async_init(uv_loop_t *loop, uv_async_t *async, uv_async_cb callback) {
    handle_init(loop, async, UV_ASYNC);
    own(async)->async = callback;
    own(async)->active = true;
    return 0;
}

int uv_async_send(uv_async_t *async) {
    handle_ready(own(async));
    return 0;
}

int uv_idle_init(uv_loop_t *loop, uv_idle_t *idle) {
    handle_init(loop, idle, UV_IDLE);
    return 0;
}

int uv_idle_start(uv_idle_t *idle, uv_idle_cb callback) {
    own(idle)->idle = callback;
    own(idle)->active = true;
    return 0;
}

int uv_idle_stop(uv_idle_t *idle) {
    own(idle)->active = false;
    return 0;
}

int uv_prepare_init(uv_loop_t *loop, uv_prepare_t *prepare) {
    handle_init(loop, prepare, UV_PREPARE);
    return 0;
}

int uv_prepare_start(uv_prepare_t *prepare, uv_prepare_cb callback) {
    struct handle *handle = own(prepare);
    handle->prepare = callback;
    handle->active = true;
    list_remove(&handle->node); /* the newest is the one that was started last */
    list_push(&handle->loop->handles, &handle->node);
    return 0;
}

int uv_prepare_stop(uv_prepare_t *prepare) {
    own(prepare)->active = false;
    return 0;
}

int uv_check_init(uv_loop_t *loop, uv_check_t *check) {
    handle_init(loop, check, UV_CHECK);
    return 0;
}

int uv_check_start(uv_check_t *check, uv_check_cb callback) {
    struct handle *handle = own(check);
    handle->check = callback;
    handle->active = true;
    list_remove(&handle->node);
    list_push(&handle->loop->handles, &handle->node);
    return 0;
}

/* ---- threads and the pool ---- */

int uv_mutex_init(uv_mutex_t *mutex) {
    return __wrap_pthread_mutex_init(mutex, NULL);
}

void uv_mutex_destroy(uv_mutex_t *mutex) {
    (void)__wrap_pthread_mutex_destroy(mutex);
}

void uv_mutex_lock(uv_mutex_t *mutex) {
    (void)__wrap_pthread_mutex_lock(mutex);
}

void uv_mutex_unlock(uv_mutex_t *mutex) {
    (void)__wrap_pthread_mutex_unlock(mutex);
}

int uv_cond_init(uv_cond_t *condition) {
    return __wrap_pthread_cond_init(condition, NULL);
}

void uv_cond_destroy(uv_cond_t *condition) {
    (void)__wrap_pthread_cond_destroy(condition);
}

void uv_cond_signal(uv_cond_t *condition) {
    (void)__wrap_pthread_cond_signal(condition);
}

void uv_cond_wait(uv_cond_t *condition, uv_mutex_t *mutex) {
    (void)__wrap_pthread_cond_wait(condition, mutex);
}

int uv_cond_timedwait(uv_cond_t *condition, uv_mutex_t *mutex, uint64_t timeout) {
    uint64_t ns = host_to_real(process_current()->host, timeout);
    return posix_cond_wait_for(condition, mutex, ns) ? 0 : UV_ETIMEDOUT;
}

int uv_thread_create(uv_thread_t *thread, uv_thread_cb main, void *data) {
    *thread = (uv_thread_t)(uintptr_t)thread_start(process_current(), main, data);
    return 0;
}

int uv_thread_join(uv_thread_t *thread) {
    thread_join((struct thread *)(uintptr_t)*thread);
    return 0;
}

struct pool_start {
    struct loop *loop;
    unsigned number;
};

static void pool_main(void *data) {
    struct pool_start start = *(struct pool_start *)data;
    struct loop *loop = start.loop;
    mem_free(data);
    for (;;) {
        while (list_empty(&loop->work)) {
            loop->pool_waits[start.number] = true;
            thread_park();
            loop->pool_waits[start.number] = false;
            if (loop->pool[start.number] == NULL) {
                return; /* pool_end() */
            }
        }
        struct work *work = LIST_ENTRY(list_first(&loop->work), struct work, node);
        list_remove(&work->node);
        work->request->work_cb(work->request);
        make_ready(loop, &work->ready);
    }
}

static void pool_end(struct loop *loop) {
    for (unsigned i = 0; i < loop->n_pool; i++) {
        struct thread *thread = loop->pool[i];
        loop->pool[i] = NULL;
        thread_unpark(thread);
        thread_join(thread);
    }
}

int uv_queue_work(uv_loop_t *uv, uv_work_t *request, uv_work_cb run, uv_after_work_cb after) {
    struct loop *loop = loop_of(uv);
    struct work *work = mem_zalloc(1, sizeof *work);
    request->loop = uv;
    request->work_cb = run;
    request->after_work_cb = after;
    work->request = request;
    work->ready.kind = READY_WORK;
    list_init(&work->ready.node);
    list_push(&loop->work, &work->node);
    loop->active_requests++;
    for (unsigned i = 0; i < loop->n_pool; i++) {
        if (loop->pool_waits[i]) {
            loop->pool_waits[i] = false;
            thread_unpark(loop->pool[i]);
            return 0;
        }
    }
    if (loop->n_pool < POOL_THREADS) {
        struct pool_start *start = mem_zalloc(1, sizeof *start);
        *start = (struct pool_start){.loop = loop, .number = loop->n_pool};
        loop->pool[loop->n_pool++] = thread_start(loop->process, pool_main, start);
    }
    return 0;
}

int uv_cancel(uv_req_t *request) {
    (void)request;
    return UV_EBUSY;
}

/* ---- addresses ---- */

uv_buf_t uv_buf_init(char *base, unsigned size) {
    return (uv_buf_t){.base = base, .len = size};
}

const char *uv_strerror(int status) {
    return status == UV_EOF ? "end of file" : strerror(-status);
}

int uv_ip4_addr(const char *host, int port, struct sockaddr_in *address) {
    memset(address, 0, sizeof *address);
    address->sin_family = AF_INET;
    address->sin_port = htons((uint16_t)port);
    return inet_pton(AF_INET, host, &address->sin_addr) == 1 ? 0 : UV_EINVAL;
}

int uv_ip6_addr(const char *host, int port, struct sockaddr_in6 *address) {
    memset(address, 0, sizeof *address);
    address->sin6_family = AF_INET6;
    address->sin6_port = htons((uint16_t)port);
    return inet_pton(AF_INET6, host, &address->sin6_addr) == 1 ? 0 : UV_EINVAL;
}

int uv_ip4_name(const struct sockaddr_in *address, char *text, size_t size) {
    return inet_ntop(AF_INET, &address->sin_addr, text, (socklen_t)size) != NULL ? 0 : UV_ENOSPC;
}

int uv_ip6_name(const struct sockaddr_in6 *address, char *text, size_t size) {
    return inet_ntop(AF_INET6, &address->sin6_addr, text, (socklen_t)size) != NULL ? 0 : UV_ENOSPC;
}

/* Hosts are 10.0.0.NUMBER. */
static unsigned host_of(const struct sockaddr *address) {
    const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)address;
    ASSERT(address->sa_family == AF_INET);
    return ntohl(in->sin_addr.s_addr) & 0xff;
}

static void fill_address(struct sockaddr *to, int *size, unsigned host, uint16_t port) {
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
    in.sin_addr.s_addr = htonl(0x0a000000U | host);
    ASSERT(*size >= (int)sizeof in);
    memcpy(to, &in, sizeof in);
    *size = sizeof in;
}

int uv_getaddrinfo(uv_loop_t *uv, uv_getaddrinfo_t *request, uv_getaddrinfo_cb callback,
                   const char *host, const char *service, const struct addrinfo *hints) {
    (void)hints;
    struct {
        struct addrinfo info;
        struct sockaddr_in address;
    } *answer = mem_zalloc(1, sizeof *answer);
    int status = uv_ip4_addr(host, (int)strtol(service, NULL, 10), &answer->address);
    answer->info.ai_family = AF_INET;
    answer->info.ai_addrlen = sizeof answer->address;
    answer->info.ai_addr = (struct sockaddr *)(void *)&answer->address;
    if (status != 0) {
        mem_free(answer);
        answer = NULL;
    }
    request->cb = callback;
    request->addrinfo = answer != NULL ? &answer->info : NULL;
    if (callback == NULL) {
        return status;
    }
    struct resolved *resolved = mem_zalloc(1, sizeof *resolved);
    resolved->request = request;
    resolved->status = status;
    resolved->ready.kind = READY_RESOLVED;
    list_init(&resolved->ready.node);
    loop_of(uv)->active_requests++;
    make_ready(loop_of(uv), &resolved->ready);
    return 0;
}

void uv_freeaddrinfo(struct addrinfo *info) {
    mem_free(info);
}

int uv_fileno(const uv_handle_t *handle, uv_os_fd_t *fd) {
    (void)handle;
    (void)fd;
    return UV_EBADF;
}

int uv_resident_set_memory(size_t *size) {
    *size = (size_t)process_current()->bytes;
    return 0;
}

/* ---- TCP ---- */

static void tcp_event(void *data, enum net_event event) {
    struct handle *handle = data;
    if (event == NET_CONNECTED || ((event == NET_REFUSED || event == NET_BROKEN) &&
                                   handle->connect != NULL && !handle->connect_done)) {
        handle->connect_done = true;
        handle->connect_status = event == NET_CONNECTED ? 0
                                 : event == NET_REFUSED ? UV_ECONNREFUSED
                                                        : UV_ETIMEDOUT;
    }
    handle_ready(handle);
}

static void tcp_accepted(void *data, struct endpoint *endpoint) {
    struct handle *handle = data;
    net_adopt(endpoint, handle->loop->process, NULL, NULL);
    if (handle->n_accepted == ACCEPTS_MAX || handle->closing) {
        net_close(endpoint);
        return;
    }
    handle->accepted[handle->n_accepted++] = endpoint;
    handle_ready(handle);
}

int uv_tcp_init(uv_loop_t *loop, uv_tcp_t *tcp) {
    handle_init(loop, tcp, UV_TCP);
    return 0;
}

int uv_tcp_nodelay(uv_tcp_t *tcp, int on) {
    (void)tcp;
    (void)on;
    return 0;
}

int uv_tcp_bind(uv_tcp_t *tcp, const struct sockaddr *address, unsigned flags) {
    (void)flags;
    own(tcp)->port = ntohs(((const struct sockaddr_in *)(const void *)address)->sin_port);
    return 0;
}

int uv_listen(uv_stream_t *stream, int backlog, uv_connection_cb callback) {
    struct handle *handle = own(stream);
    (void)backlog;
    if (!net_listen(handle->loop->process, handle->port, tcp_accepted, handle)) {
        return UV_EADDRINUSE;
    }
    handle->on_connection = callback;
    handle->listening = true;
    handle->active = true;
    return 0;
}

int uv_accept(uv_stream_t *server, uv_stream_t *client) {
    struct handle *listener = own(server);
    struct handle *handle = own(client);
    if (listener->n_accepted == 0) {
        return UV_EAGAIN;
    }
    handle->endpoint = listener->accepted[0];
    listener->n_accepted--;
    memmove(listener->accepted, listener->accepted + 1,
            listener->n_accepted * sizeof listener->accepted[0]);
    net_adopt(handle->endpoint, handle->loop->process, tcp_event, handle);
    return 0;
}

int uv_tcp_connect(uv_connect_t *request, uv_tcp_t *tcp, const struct sockaddr *address,
                   uv_connect_cb callback) {
    struct handle *handle = own(tcp);
    request->handle = (uv_stream_t *)tcp;
    handle->connect = request;
    handle->on_connect = callback;
    handle->active = true;
    uint16_t port = ntohs(((const struct sockaddr_in *)(const void *)address)->sin_port);
    handle->endpoint = net_connect(handle->loop->process->host->number, handle->loop->process,
                                   host_of(address), port, tcp_event, handle);
    return 0;
}

int uv_tcp_getpeername(const uv_tcp_t *tcp, struct sockaddr *address, int *size) {
    struct handle *handle = own(tcp);
    if (handle->endpoint == NULL) {
        return UV_ENOTCONN;
    }
    fill_address(address, size, net_remote_host(handle->endpoint),
                 net_remote_port(handle->endpoint));
    return 0;
}

int uv_tcp_getsockname(const uv_tcp_t *tcp, struct sockaddr *address, int *size) {
    struct handle *handle = own(tcp);
    fill_address(address, size, handle->loop->process->host->number, handle->port);
    return 0;
}

int uv_read_start(uv_stream_t *stream, uv_alloc_cb alloc_cb, uv_read_cb read_cb) {
    struct handle *handle = own(stream);
    stream->alloc_cb = alloc_cb;
    stream->read_cb = read_cb;
    handle->reading = true;
    handle->active = true;
    handle_ready(handle);
    return 0;
}

int uv_read_stop(uv_stream_t *stream) {
    struct handle *handle = own(stream);
    if (handle != NULL) {
        handle->reading = false;
    }
    return 0;
}

size_t uv_stream_get_write_queue_size(const uv_stream_t *stream) {
    size_t size = 0;
    for (const struct write *write = own(stream)->writes; write != NULL; write = write->next) {
        for (unsigned i = 0; i < write->n && !write->done; i++) {
            size += write->bufs[i].len;
        }
        size -= write->done ? 0 : write->at;
    }
    return size;
}

static size_t send_bufs(struct handle *handle, const uv_buf_t *bufs, unsigned n, size_t skip) {
    size_t sent = 0;
    for (unsigned i = 0; i < n; i++) {
        if (skip >= bufs[i].len) {
            skip -= bufs[i].len;
            continue;
        }
        size_t size = bufs[i].len - skip;
        size_t taken = net_send(handle->endpoint, bufs[i].base + skip, size);
        sent += taken;
        if (taken < size) {
            break;
        }
        skip = 0;
    }
    return sent;
}

int uv_try_write(uv_stream_t *stream, const uv_buf_t bufs[], unsigned n) {
    struct handle *handle = own(stream);
    if (handle->writes != NULL || handle->endpoint == NULL || handle->connect != NULL) {
        return UV_EAGAIN;
    }
    if (net_is_broken(handle->endpoint)) {
        return UV_ECONNRESET;
    }
    size_t sent = send_bufs(handle, bufs, n, 0);
    return sent > 0 ? (int)sent : UV_EAGAIN;
}

static void go_on_writing(struct handle *handle) {
    for (struct write *write = handle->writes; write != NULL; write = write->next) {
        if (write->done) {
            continue;
        }
        if (handle->endpoint == NULL || net_is_broken(handle->endpoint)) {
            write->done = true;
            write->status = UV_ECONNRESET;
            continue;
        }
        size_t size = 0;
        for (unsigned i = 0; i < write->n; i++) {
            size += write->bufs[i].len;
        }
        write->at += send_bufs(handle, write->bufs, write->n, write->at);
        if (write->at < size) {
            return;
        }
        write->done = true;
    }
}

int uv_write(uv_write_t *request, uv_stream_t *stream, const uv_buf_t bufs[], unsigned n,
             uv_write_cb callback) {
    struct handle *handle = own(stream);
    if (handle->endpoint == NULL) {
        return UV_EBADF;
    }
    struct write *write = mem_zalloc(1, sizeof *write);
    request->handle = stream;
    request->cb = callback;
    write->request = request;
    write->bufs = mem_dup(bufs, n * sizeof *bufs);
    write->n = n;
    if (handle->writes == NULL) {
        handle->writes_end = &handle->writes;
    }
    *handle->writes_end = write;
    handle->writes_end = &write->next;
    go_on_writing(handle);
    if (handle->writes->done) {
        handle_ready(handle);
    }
    return 0;
}

static void poll_writes(struct handle *handle) {
    uv_handle_t *uv = handle->uv;
    go_on_writing(handle);
    while (own(uv) == handle && !handle->closing && handle->writes != NULL &&
           handle->writes->done) {
        struct write *write = handle->writes;
        handle->writes = write->next;
        if (handle->writes == NULL) {
            handle->writes_end = &handle->writes;
        }
        uv_write_t *request = write->request;
        int status = write->status;
        mem_free(write->bufs);
        mem_free(write);
        request->cb(request, status);
    }
}

static void poll_reads(struct handle *handle) {
    uv_stream_t *stream = (uv_stream_t *)handle->uv;
    for (unsigned i = 0; i < READS_IN_A_ROW && handle->reading && !handle->closing; i++) {
        if (handle->end_told || handle->connect != NULL || handle->endpoint == NULL) {
            return;
        }
        uv_buf_t buf = {.base = NULL, .len = 0};
        stream->alloc_cb((uv_handle_t *)stream, READ_SIZE, &buf);
        ASSERT(buf.len > 0);
        bool end = false;
        size_t n = net_receive(handle->endpoint, buf.base, buf.len, &end);
        if (n > 0) {
            stream->read_cb(stream, (ssize_t)n, &buf);
            if (n < buf.len && !end) {
                break;
            }
            continue;
        }
        if (end || net_is_broken(handle->endpoint)) {
            handle->end_told = true;
            handle->reading = false;
            stream->read_cb(stream, end ? UV_EOF : UV_ECONNRESET, &buf);
            return;
        }
        stream->read_cb(stream, 0, &buf);
        return;
    }
    /* More may be there: look again in the next iteration, and once more for the end. */
    if (handle->reading && !handle->closing && handle->endpoint != NULL &&
        net_has_input(handle->endpoint)) {
        handle_ready(handle);
    }
}

static void tcp_poll(struct handle *handle) {
    while (handle->listening && handle->n_accepted > 0 && !handle->closing) {
        unsigned before = handle->n_accepted;
        handle->on_connection((uv_stream_t *)handle->uv, 0);
        if (handle->n_accepted == before) {
            break;
        }
    }
    if (handle->listening || handle->closing) {
        return;
    }
    if (handle->connect != NULL) {
        if (!handle->connect_done) {
            return;
        }
        uv_connect_t *connect = handle->connect;
        handle->connect = NULL;
        handle->on_connect(connect, handle->connect_status);
        if (handle->closing) {
            return;
        }
    }
    poll_writes(handle);
    if (!handle->closing) {
        poll_reads(handle);
    }
}
