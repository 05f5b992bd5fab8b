#include "client/src/resolve.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/src/connection.h"

enum { RESOLVED_FOR_MS = 30000, ADDRESSES_MAX = 8 };

struct resolution {
    struct list_node link; /* in client->resolved, under the mutex */
    ikv_client *client;    /* one reference: the thread may outlive ikv_close() */
    struct node *node;     /* NULL: abandoned; the client's thread only */
    char host[URL_HOST_SIZE];
    char port[8];
    struct sockaddr_storage addresses[ADDRESSES_MAX];
    unsigned n_addresses;
};

static unsigned copy_addresses(const struct addrinfo *list, struct sockaddr_storage *addresses) {
    unsigned n = 0;
    for (const struct addrinfo *at = list; at != NULL && n < ADDRESSES_MAX; at = at->ai_next) {
        if (at->ai_addrlen <= sizeof addresses[n]) {
            memset(&addresses[n], 0, sizeof addresses[n]);
            memcpy(&addresses[n++], at->ai_addr, at->ai_addrlen);
        }
    }
    return n;
}

static unsigned look_up(const char *host, const char *port, int flags,
                        struct sockaddr_storage *addresses) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = flags};
    struct addrinfo *list = NULL;
    if (getaddrinfo(host, port, &hints, &list) != 0) {
        return 0;
    }
    unsigned n = copy_addresses(list, addresses);
    freeaddrinfo(list);
    return n;
}

static void *run(void *data) {
    struct resolution *resolution = data;
    ikv_client *client = resolution->client;
    resolution->n_addresses =
        look_up(resolution->host, resolution->port, AI_NUMERICSERV, resolution->addresses);
    pthread_mutex_lock(&client->mutex);
    list_push(&client->resolved, &resolution->link);
    client_wake(client);
    pthread_mutex_unlock(&client->mutex);
    client_unref(client);
    return NULL;
}

static bool start_thread(struct resolution *resolution) {
    pthread_t thread;
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) != 0) {
        return false;
    }
    bool started = pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED) == 0 &&
                   pthread_create(&thread, &attributes, run, resolution) == 0;
    pthread_attr_destroy(&attributes);
    return started;
}

static enum resolve_status start(struct node *node, const char *port) {
    struct resolution *resolution = calloc(1, sizeof *resolution);
    if (resolution == NULL) {
        return RESOLVE_FAILED;
    }
    list_init(&resolution->link);
    resolution->client = node->client;
    resolution->node = node;
    snprintf(resolution->host, sizeof resolution->host, "%s", node->host);
    snprintf(resolution->port, sizeof resolution->port, "%s", port);
    client_ref(node->client);
    if (!start_thread(resolution)) {
        client_unref(node->client);
        free(resolution);
        return RESOLVE_FAILED;
    }
    node->resolution = resolution;
    return RESOLVE_STARTED;
}

enum resolve_status resolve_node(struct node *node) {
    ikv_client *client = node->client;
    char port[8];
    if (node->n_addresses > 0 && client->now_ms < node->resolved_until_ms) {
        return RESOLVE_DONE;
    }
    if (node->resolution != NULL) {
        return RESOLVE_STARTED;
    }
    snprintf(port, sizeof port, "%u", node->port);
    node->next_address = 0;
    node->n_addresses = look_up(node->host, port, AI_NUMERICHOST | AI_NUMERICSERV, node->addresses);
    if (node->n_addresses > 0) {
        node->resolved_until_ms = UINT64_MAX;
        return RESOLVE_DONE;
    }
    return start(node, port);
}

void resolve_abandon(struct node *node) {
    if (node->resolution != NULL) {
        node->resolution->node = NULL;
        node->resolution = NULL;
    }
}

/* The node's connections that wait for it, those of watches among them. */
static void tell_connections(struct node *node) {
    ikv_client *client = node->client;
    bool found = true;
    while (found) {
        found = false;
        for (struct list_node *at = client->connections.next; at != &client->connections;
             at = at->next) {
            struct connection *connection = LIST_ENTRY(at, struct connection, link);
            if (connection->node == node && connection->state == CONNECTION_RESOLVING) {
                found = true;
                connection_resolved(connection); /* leaves that state; may change the list */
                break;
            }
        }
    }
}

void resolve_take_answers(ikv_client *client) {
    for (;;) {
        struct resolution *resolution = NULL;
        pthread_mutex_lock(&client->mutex);
        if (!list_empty(&client->resolved)) {
            resolution = LIST_ENTRY(list_first(&client->resolved), struct resolution, link);
            list_remove(&resolution->link);
        }
        pthread_mutex_unlock(&client->mutex);
        if (resolution == NULL) {
            return;
        }
        struct node *node = resolution->node;
        if (node != NULL) {
            node->resolution = NULL;
            node->n_addresses = resolution->n_addresses;
            memcpy(node->addresses, resolution->addresses, sizeof node->addresses);
            node->next_address = 0;
            node->resolved_until_ms = client->now_ms + RESOLVED_FOR_MS;
            tell_connections(node);
        }
        free(resolution);
    }
}

void resolve_free_all(ikv_client *client) {
    for (struct list_node *at = client->resolved.next; at != &client->resolved;) {
        struct resolution *resolution = LIST_ENTRY(at, struct resolution, link);
        at = at->next;
        free(resolution);
    }
    list_init(&client->resolved);
}
