/* Clients: opened, closed, counted. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "client/src/client.h"
#include "client/src/resolve.h"
#include "client/src/tls.h"

const char *ikv_version(void) {
    return IKV_VERSION;
}

/* --- references
 * ---------------------------------------------------------------------------------------- */

void client_ref(ikv_client *client) {
    atomic_fetch_add(&client->refs, 1);
}

static void close_fd(int fd) {
    if (fd >= 0) {
        close(fd);
    }
}

static void client_free(ikv_client *client) {
    for (unsigned i = 0; i < client->n_nodes; i++) { /* of a client whose thread never ran */
        free(client->nodes[i]);
    }
    resolve_free_all(client);
    tls_context_free(client->tls_context);
    options_release(&client->options);
    free(client->default_name);
    free(client->default_token);
    free(client->identities);
    free(client->scratch);
    close_fd(client->wake_fd);
    close_fd(client->epoll_fd);
    if (client->fork_guard != NULL) {
        munmap(client->fork_guard, (size_t)sysconf(_SC_PAGESIZE));
    }
    pthread_mutex_destroy(&client->mutex);
    free(client);
}

void client_unref(ikv_client *client) {
    if (atomic_fetch_sub(&client->refs, 1) == 1) {
        client_free(client);
    }
}

bool client_is_forked(const ikv_client *client) {
    return *client->fork_guard == 0;
}

bool client_is_own_thread(const ikv_client *client) {
    return pthread_equal(pthread_self(), client->thread) != 0;
}

/* --- opening
 * --------------------------------------------------------------------------------------------- */

static int complain(char *message, size_t size, int error, const char *text) {
    if (message != NULL && size > 0) {
        snprintf(message, size, "%s", text);
    }
    return error;
}

static bool is_credential(const char *user) {
    return strcmp(user, "service") == 0 || strcmp(user, "admin") == 0;
}

static int take_user(ikv_client *client, const struct url_seeds *seeds, char *message,
                     size_t size) {
    struct ikv_options *options = &client->options;
    if (seeds->has_user && is_credential(seeds->user) && seeds->token[0] != '\0') {
        if (!options_set_text(&options->user, seeds->user) ||
            !options_set_text(&options->secret, seeds->token)) {
            return complain(message, size, IKV_ERR_NOMEM, "out of memory");
        }
    } else if (seeds->has_user) {
        const char *token = seeds->token[0] != '\0' ? seeds->token : NULL;
        if (!url_is_project_name(seeds->user)) {
            return complain(
                message, size, IKV_ERR_INVALID,
                "the URL names a project that cannot be one: 1-128 characters of UTF-8, "
                "no control characters");
        }
        if (!options_set_text(&client->default_name, seeds->user) ||
            !options_set_text(&client->default_token, token)) {
            return complain(message, size, IKV_ERR_NOMEM, "out of memory");
        }
    }
    if ((options->user == NULL) != (options->secret == NULL) ||
        (options->user != NULL && !is_credential(options->user))) {
        return complain(message, size, IKV_ERR_INVALID,
                        "IKV_OPTION_USER is \"service\" or \"admin\" and goes with "
                        "IKV_OPTION_SECRET");
    }
    return IKV_OK;
}

static int take_seeds(ikv_client *client, const char *text, char *message, size_t size) {
    struct url_seeds *seeds = malloc(sizeof *seeds);
    if (seeds == NULL) {
        return complain(message, size, IKV_ERR_NOMEM, "out of memory");
    }
    int error = IKV_ERR_INVALID;
    if (url_parse_seeds(text, seeds, message, size)) {
        error = take_user(client, seeds, message, size);
    }
    client->tls = seeds->tls;
    for (size_t i = 0; i < seeds->count && error == IKV_OK; i++) {
        struct node *node = node_add(client, &seeds->seeds[i]);
        if (node == NULL) {
            error = complain(message, size, IKV_ERR_NOMEM, "out of memory");
        } else {
            node->is_seed = true;
        }
    }
    free(seeds);
    return error;
}

static bool make_fork_guard(ikv_client *client) {
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    void *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        return false;
    }
    client->fork_guard = page;
    *client->fork_guard = 1;
    return madvise(page, size, MADV_WIPEONFORK) == 0;
}

static bool make_descriptors(ikv_client *client) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    client->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    client->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return client->epoll_fd >= 0 && client->wake_fd >= 0 &&
           epoll_ctl(client->epoll_fd, EPOLL_CTL_ADD, client->wake_fd, &event) == 0;
}

/* Different clients must not wait for the same times; nothing secret. */
static uint64_t make_seed(const ikv_client *client) {
    uint64_t seed = 0;
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) != (ssize_t)sizeof seed) {
        seed = client->now_ms ^ (uint64_t)(uintptr_t)client;
    }
    return seed;
}

static void init_lists(ikv_client *client) {
    struct list_node *lists[] = {&client->inbox, &client->orders,    &client->resolved,
                                 &client->live,  &client->unrouted,  &client->connections,
                                 &client->dirty, &client->graveyard, &client->watches};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        list_init(lists[i]);
    }
    for (unsigned i = 0; i < LANE_COUNT; i++) {
        list_init(&client->near_waiting[i]);
    }
}

static ikv_client *make(void) {
    ikv_client *client = calloc(1, sizeof *client);
    if (client == NULL) {
        return NULL;
    }
    if (pthread_mutex_init(&client->mutex, NULL) != 0) {
        free(client);
        return NULL;
    }
    atomic_init(&client->refs, 1);
    client->epoll_fd = -1;
    client->wake_fd = -1;
    client->next_identity = 1;
    client->now_ms = clock_now_ms();
    init_lists(client);
    wheel_init(&client->wheel, client->now_ms);
    prng_seed(&client->prng, make_seed(client));
    once_init(client);
    topology_init(client);
    return client;
}

static int prepare(ikv_client *client, const char *seeds, const ikv_options *options, char *message,
                   size_t size) {
    if (options != NULL) {
        if (!options_copy(&client->options, options)) {
            return complain(message, size, IKV_ERR_NOMEM, "out of memory");
        }
    } else {
        options_init(&client->options);
    }
    int error = take_seeds(client, seeds, message, size);
    if (error != IKV_OK) {
        return error;
    }
    if (client->tls) {
        client->tls_context = tls_context_new(&client->options, message, size);
        if (client->tls_context == NULL) {
            return IKV_ERR_TLS;
        }
    }
    client->scratch = malloc(CLIENT_SCRATCH);
    if (client->scratch == NULL || !make_fork_guard(client) || !make_descriptors(client)) {
        return complain(message, size, IKV_ERR_NOMEM, "no memory or descriptors for a client");
    }
    return IKV_OK;
}

int ikv_open(const char *seeds, const ikv_options *options, ikv_client **client, char *message,
             size_t message_size) {
    if (client == NULL || seeds == NULL) {
        return complain(message, message_size, IKV_ERR_INVALID,
                        "no seeds, or no place for a client");
    }
    *client = NULL;
    complain(message, message_size, IKV_OK, "");
    ikv_client *made = make();
    if (made == NULL) {
        return complain(message, message_size, IKV_ERR_NOMEM, "out of memory");
    }
    int error = prepare(made, seeds, options, message, message_size);
    if (error == IKV_OK && pthread_create(&made->thread, NULL, loop_run, made) != 0) {
        error = complain(message, message_size, IKV_ERR_NOMEM, "no thread for a client");
    }
    if (error != IKV_OK) {
        client_unref(made);
        return error;
    }
    *client = made;
    return IKV_OK;
}

/* --- closing
 * ---------------------------------------------------------------------------------------------- */

int ikv_close(ikv_client *client) {
    if (client == NULL) {
        return IKV_OK;
    }
    if (client_is_forked(client)) {
        return IKV_ERR_FORKED;
    }
    if (client_is_own_thread(client)) {
        return IKV_ERR_DEADLOCK;
    }
    pthread_mutex_lock(&client->mutex);
    client->closing = true;
    client_wake(client);
    pthread_mutex_unlock(&client->mutex);
    pthread_join(client->thread, NULL);
    client_unref(client);
    return IKV_OK;
}

void ikv_cork(ikv_client *client) {
    pthread_mutex_lock(&client->mutex);
    client->corked++;
    pthread_mutex_unlock(&client->mutex);
}

void ikv_uncork(ikv_client *client) {
    pthread_mutex_lock(&client->mutex);
    if (client->corked > 0 && --client->corked == 0 && !list_empty(&client->inbox)) {
        client_wake(client);
    }
    pthread_mutex_unlock(&client->mutex);
}
