/* The client's thread: events, inbox, timers, in turn until it is told to stop. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "client/src/client.h"
#include "client/src/connection.h"
#include "client/src/resolve.h"

enum { EVENTS = 64, CLOSE_ROUND_MS = 10, CLOSE_MS = 300 };

uint64_t clock_now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void client_note_failure(ikv_client *client, int error, const char *text) {
    client->last_error = error;
    snprintf(client->last_text, sizeof client->last_text, "%s", text);
}

void client_wake(ikv_client *client) {
    uint64_t one = 1;
    if (client->awake) {
        return;
    }
    client->awake = true;
    while (write(client->wake_fd, &one, sizeof one) < 0) {
        /* Interrupted: an eventfd that is read after each wake-up is never full. */
    }
}

/* --- input
 * ------------------------------------------------------------------------------------------ */

static void take_inbox(ikv_client *client, struct list_node *taken) {
    list_init(taken);
    pthread_mutex_lock(&client->mutex);
    if (!list_empty(&client->inbox)) {
        *taken = client->inbox;
        taken->next->prev = taken;
        taken->prev->next = taken;
        list_init(&client->inbox);
    }
    pthread_mutex_unlock(&client->mutex);
}

static void start_requests(ikv_client *client) {
    struct list_node taken;
    take_inbox(client, &taken);
    if (!list_empty(&taken)) {
        topology_tick(client);
    }
    while (!list_empty(&taken)) {
        struct request *request = LIST_ENTRY(list_first(&taken), struct request, link);
        list_remove(&request->link);
        request_start(client, request);
    }
}

static void empty_wake_fd(ikv_client *client) {
    uint64_t count;
    ssize_t got = read(client->wake_fd, &count, sizeof count);
    (void)got; /* there is something, or there is not */
}

/* False when there is work already: the thread must not sleep. */
static bool may_sleep(ikv_client *client) {
    pthread_mutex_lock(&client->mutex);
    bool idle = list_empty(&client->inbox) && list_empty(&client->orders) &&
                list_empty(&client->resolved) && (!client->closing || client->stopping);
    /* Corked requests wait, at most until something else happens. */
    bool corked = client->corked > 0 && !list_empty(&client->inbox);
    if (idle || corked) {
        client->awake = false;
    }
    pthread_mutex_unlock(&client->mutex);
    return idle || corked;
}

static void wait_for_events(ikv_client *client, int longest_ms) {
    struct epoll_event events[EVENTS];
    int timeout_ms = 0;
    if (may_sleep(client)) {
        timeout_ms = wheel_wait_ms(&client->wheel, clock_now_ms());
    }
    if (longest_ms >= 0 && (timeout_ms < 0 || timeout_ms > longest_ms)) {
        timeout_ms = longest_ms;
    }
    int n = epoll_wait(client->epoll_fd, events, EVENTS, timeout_ms);
    client->now_ms = clock_now_ms();
    for (int i = 0; i < n; i++) {
        if (events[i].data.ptr == NULL) {
            empty_wake_fd(client);
        } else {
            connection_event(events[i].data.ptr, events[i].events);
        }
    }
}

/* --- output
 * ----------------------------------------------------------------------------------------- */

static void flush_all(ikv_client *client) {
    while (!list_empty(&client->dirty)) {
        connection_flush(LIST_ENTRY(list_first(&client->dirty), struct connection, dirty_link));
    }
}

static void bury(ikv_client *client) {
    while (!list_empty(&client->graveyard)) {
        struct connection *connection =
            LIST_ENTRY(list_first(&client->graveyard), struct connection, link);
        list_remove(&connection->link);
        connection_free(connection);
    }
}

static void end_burst(ikv_client *client) {
    if (client->called_back) {
        client->called_back = false;
        if (client->options.burst != NULL) {
            client->options.burst(client->options.burst_data);
        }
    }
}

static void iterate(ikv_client *client, int longest_ms) {
    wait_for_events(client, longest_ms);
    resolve_take_answers(client);
    watch_take_orders(client);
    start_requests(client);
    wheel_run(&client->wheel, client->now_ms);
    flush_all(client);
    end_burst(client);
    bury(client);
}

/* --- the end
 * ----------------------------------------------------------------------------------------- */

static void end_requests(ikv_client *client) {
    while (!list_empty(&client->live)) {
        struct request *request = LIST_ENTRY(list_first(&client->live), struct request, live_link);
        request_abandon(request);
    }
}

/* Everybody else's connections have no more use; sessions of numbered writes are closed in good
 * order if the nodes are quick. */
static void close_sessions(ikv_client *client) {
    unsigned left;
    uint64_t deadline_ms = client->now_ms + CLOSE_MS;
    once_close_all(client, &left);
    while (left > 0 && client->now_ms < deadline_ms) {
        flush_all(client);
        iterate(client, CLOSE_ROUND_MS);
    }
    end_requests(client); /* `left` goes away */
}

static void close_connections(ikv_client *client) {
    while (!list_empty(&client->connections)) {
        connection_drop(LIST_ENTRY(list_first(&client->connections), struct connection, link));
    }
    bury(client);
}

static bool is_closing(ikv_client *client) {
    pthread_mutex_lock(&client->mutex);
    bool closing = client->closing;
    pthread_mutex_unlock(&client->mutex);
    return closing;
}

static void stop(ikv_client *client) {
    start_requests(client);
    client->stopping = true;
    watch_end_all(client);
    end_requests(client);
    close_sessions(client);
    close_connections(client);
    once_free_all(client);
    end_burst(client);
    if (client->topology_project != NULL) {
        project_unref(client->topology_project);
        client->topology_project = NULL;
    }
    for (unsigned i = 0; i < client->n_nodes; i++) {
        node_free(client->nodes[i]);
    }
    client->n_nodes = 0;
}

void *loop_run(void *data) {
    ikv_client *client = data;
    while (!is_closing(client)) {
        iterate(client, -1);
    }
    stop(client);
    return NULL;
}
