/* A RESP server of the test's own, in a thread: it answers what every node answers (PING, topology,
 * projects, sessions of numbered writes) and asks the test for the rest, which may answer nonsense,
 * close, or never answer at all. Each test has one or more of them. */
#ifndef TESTS_FAKE_SERVER_H
#define TESTS_FAKE_SERVER_H

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/limits.h"
#include "base/resp.h"

enum { FAKE_CONNECTIONS = 64, FAKE_ARGS = 64, FAKE_LOG_SIZE = 1 << 20, FAKE_REPLY_SIZE = 4096 };

enum fake_action {
    FAKE_REPLY,   /* send `reply` */
    FAKE_DEFAULT, /* what every node answers */
    FAKE_CLOSE,   /* send `reply`, then close */
    FAKE_STALL    /* send `reply`, then nothing more over this connection */
};

/* A command as the test sees it: without ONCE, whose parts stand beside it. */
struct fake_command {
    unsigned connection; /* number, from 1 in the order of accepting */
    const char *project; /* in use on the connection, "" at first */
    unsigned argc;
    const char *argv[FAKE_ARGS];
    const char *session; /* of ONCE, or "" */
    uint64_t sequence;
    uint64_t done;
    char reply[FAKE_REPLY_SIZE]; /* the test fills it */
};

struct fake_server;
typedef enum fake_action (*fake_handler)(struct fake_server *server, struct fake_command *command);

struct fake_connection {
    int fd;
    unsigned number;
    bool stalled;
    char project[LIMIT_PROJECT_NAME + 1];
    struct resp_parser *parser;
};

struct fake_server {
    int listener;
    uint16_t port;
    char seed[32];
    pthread_t thread;
    atomic_bool stopping;
    atomic_bool closes_all; /* set by tests: closes every connection once */
    fake_handler handler;
    void *data; /* the test's */
    struct fake_connection connections[FAKE_CONNECTIONS];
    unsigned accepted;
    unsigned sessions;
    char topology[FAKE_REPLY_SIZE]; /* "": unknown command */
    pthread_mutex_t mutex;
    char *log; /* "NUMBER PROJECT COMMAND ..." lines of everything that came */
    size_t log_size;
};

static inline void fake_log(struct fake_server *server, const struct fake_command *command) {
    pthread_mutex_lock(&server->mutex);
    size_t left = FAKE_LOG_SIZE - server->log_size;
    char *at = server->log + server->log_size;
    size_t used = (size_t)snprintf(at, left, "%u [%s]", command->connection, command->project);
    if (command->session[0] != '\0' && used < left) {
        used += (size_t)snprintf(at + used, left - used, " (%s %llu %llu)", command->session,
                                 (unsigned long long)command->sequence,
                                 (unsigned long long)command->done);
    }
    for (unsigned i = 0; i < command->argc && used < left; i++) {
        used += (size_t)snprintf(at + used, left - used, " %.40s", command->argv[i]);
    }
    if (used + 2 < left) {
        at[used++] = '\n';
        at[used] = '\0';
        server->log_size += used;
    }
    pthread_mutex_unlock(&server->mutex);
}

/* A copy of the log, to be freed. */
static inline char *fake_take_log(struct fake_server *server) {
    pthread_mutex_lock(&server->mutex);
    char *copy = strdup(server->log);
    pthread_mutex_unlock(&server->mutex);
    return copy;
}

/* How many commands of the log hold the text. */
static inline unsigned fake_count(struct fake_server *server, const char *text) {
    char *log = fake_take_log(server);
    unsigned count = 0;
    for (const char *at = strstr(log, text); at != NULL; at = strstr(at + 1, text)) {
        count++;
    }
    free(log);
    return count;
}

static inline bool fake_is(const struct fake_command *command, const char *word) {
    return strcasecmp(command->argv[0], word) == 0;
}

static inline bool fake_is2(const struct fake_command *command, const char *word,
                            const char *second) {
    return fake_is(command, word) && command->argc > 1 && strcasecmp(command->argv[1], second) == 0;
}

static inline enum fake_action fake_say(struct fake_command *command, const char *reply) {
    snprintf(command->reply, sizeof command->reply, "%s", reply);
    return FAKE_REPLY;
}

/* What every node answers. */
static inline void fake_answer(struct fake_server *server, struct fake_connection *connection,
                               struct fake_command *command) {
    if (fake_is(command, "PING")) {
        fake_say(command, "+PONG\r\n");
    } else if (fake_is2(command, "CLUSTER", "TOPOLOGY")) {
        fake_say(command, server->topology[0] != '\0'
                              ? server->topology
                              : "-ERR unknown subcommand 'topology'. Try CLUSTER HELP.\r\n");
    } else if (fake_is2(command, "PROJECT", "USE") || fake_is(command, "AUTH")) {
        const char *name = fake_is(command, "AUTH") ? command->argv[1] : command->argv[2];
        snprintf(connection->project, sizeof connection->project, "%s", name);
        fake_say(command, "+OK\r\n");
    } else if (fake_is2(command, "ONCE", "OPEN")) {
        snprintf(command->reply, sizeof command->reply, "$32\r\n%032x\r\n", ++server->sessions);
    } else if (fake_is(command, "GET")) {
        fake_say(command, "$5\r\nvalue\r\n");
    } else if (fake_is(command, "EXISTS")) {
        fake_say(command, ":0\r\n");
    } else {
        fake_say(command, "+OK\r\n");
    }
}

static inline void fake_close(struct fake_connection *connection) {
    if (connection->fd >= 0) {
        close(connection->fd);
        resp_parser_free(connection->parser);
        connection->fd = -1;
    }
}

static inline void fake_send(struct fake_connection *connection, const char *text) {
    size_t size = strlen(text);
    while (size > 0) {
        ssize_t sent = send(connection->fd, text, size, MSG_NOSIGNAL);
        if (sent <= 0) {
            return;
        }
        text += sent;
        size -= (size_t)sent;
    }
}

/* Takes ONCE id n [DONE n] off the front. */
static inline unsigned fake_unwrap(struct fake_command *command, const struct slice *argv,
                                   char *const *texts, unsigned argc) {
    command->session = "";
    if (argc < 4 || !slice_equal_nocase(argv[0], "ONCE")) {
        return 0;
    }
    command->session = texts[1];
    command->sequence = strtoull(texts[2], NULL, 10);
    if (!slice_equal_nocase(argv[3], "DONE")) {
        return 3;
    }
    command->done = strtoull(texts[4], NULL, 10);
    return 5;
}

static inline void fake_handle(struct fake_server *server, struct fake_connection *connection,
                               const struct resp_command *parsed) {
    struct fake_command command = {.connection = connection->number,
                                   .project = connection->project};
    char *texts[FAKE_ARGS];
    unsigned argc = parsed->argc < FAKE_ARGS ? parsed->argc : FAKE_ARGS;
    for (unsigned i = 0; i < argc; i++) {
        texts[i] = malloc(parsed->argv[i].size + 1);
        memcpy(texts[i], parsed->argv[i].data, parsed->argv[i].size);
        texts[i][parsed->argv[i].size] = '\0';
    }
    unsigned front = fake_unwrap(&command, parsed->argv, texts, argc);
    command.argc = argc - front;
    for (unsigned i = 0; i < command.argc; i++) {
        command.argv[i] = texts[front + i];
    }
    fake_log(server, &command);
    enum fake_action action =
        server->handler != NULL ? server->handler(server, &command) : FAKE_DEFAULT;
    if (action == FAKE_DEFAULT) {
        fake_answer(server, connection, &command);
    }
    fake_send(connection, command.reply);
    connection->stalled |= action == FAKE_STALL;
    for (unsigned i = 0; i < argc; i++) {
        free(texts[i]);
    }
    if (action == FAKE_CLOSE) {
        fake_close(connection);
    }
}

static inline void fake_read(struct fake_server *server, struct fake_connection *connection) {
    uint8_t *space;
    size_t size;
    resp_parser_space(connection->parser, &space, &size);
    ssize_t got = recv(connection->fd, space, size, 0);
    if (got <= 0) {
        fake_close(connection);
        return;
    }
    resp_parser_filled(connection->parser, (size_t)got);
    struct resp_command command;
    while (connection->fd >= 0 && resp_parser_next(connection->parser, &command) == RESP_COMMAND) {
        if (!connection->stalled && command.argc > 0) {
            fake_handle(server, connection, &command);
        }
    }
}

static inline void fake_accept(struct fake_server *server) {
    static const struct resp_limits limits = {
        .max_args = 70000, .max_bulk = 64 * MIB, .max_request = 80 * MIB, .max_inline = 64 * KIB};
    int fd = accept(server->listener, NULL, NULL);
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    for (unsigned i = 0; i < FAKE_CONNECTIONS && fd >= 0; i++) {
        if (server->connections[i].fd < 0) {
            server->connections[i] = (struct fake_connection){
                .fd = fd, .number = ++server->accepted, .parser = resp_parser_new(&limits)};
            return;
        }
    }
    if (fd >= 0) {
        close(fd);
    }
}

static inline void *fake_run(void *data) {
    struct fake_server *server = data;
    while (!atomic_load(&server->stopping)) {
        struct pollfd polled[FAKE_CONNECTIONS + 1];
        unsigned owners[FAKE_CONNECTIONS + 1];
        nfds_t n = 0;
        polled[n++] = (struct pollfd){.fd = server->listener, .events = POLLIN};
        for (unsigned i = 0; i < FAKE_CONNECTIONS; i++) {
            if (server->connections[i].fd >= 0) {
                owners[n] = i;
                polled[n++] = (struct pollfd){.fd = server->connections[i].fd, .events = POLLIN};
            }
        }
        poll(polled, n, 5);
        bool closes = atomic_exchange(&server->closes_all, false);
        for (nfds_t i = 1; i < n; i++) {
            struct fake_connection *connection = &server->connections[owners[i]];
            if (closes) {
                fake_close(connection);
            } else if (polled[i].revents != 0) {
                fake_read(server, connection);
            }
        }
        if (polled[0].revents != 0) {
            fake_accept(server);
        }
    }
    return NULL;
}

/* Its address is taken, it does not answer yet: for tests that name it in a topology. */
static inline void fake_bind(struct fake_server *server) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    memset(server, 0, sizeof *server);
    pthread_mutex_init(&server->mutex, NULL);
    server->log = calloc(1, FAKE_LOG_SIZE);
    for (unsigned i = 0; i < FAKE_CONNECTIONS; i++) {
        server->connections[i].fd = -1;
    }
    server->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(server->listener >= 0);
    assert_int_equal(bind(server->listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(getsockname(server->listener, (struct sockaddr *)&address, &size), 0);
    server->port = ntohs(address.sin_port);
    snprintf(server->seed, sizeof server->seed, "127.0.0.1:%u", server->port);
}

static inline void fake_serve(struct fake_server *server, fake_handler handler, void *data) {
    server->handler = handler;
    server->data = data;
    assert_int_equal(listen(server->listener, 64), 0);
    assert_int_equal(pthread_create(&server->thread, NULL, fake_run, server), 0);
}

/* A cluster of n such servers with one shard for each, led by the node of the same number. */
static inline void fake_name_each_other(struct fake_server *servers, unsigned n) {
    char text[FAKE_REPLY_SIZE];
    int size = snprintf(text, sizeof text,
                        "*10\r\n$7\r\ncluster\r\n$4\r\nfake\r\n$4\r\nself\r\n:1\r\n"
                        "$6\r\nshards\r\n:%u\r\n$5\r\nnodes\r\n*%u\r\n",
                        n, n);
    for (unsigned i = 0; i < n; i++) {
        size += snprintf(text + size, sizeof text - (size_t)size,
                         "*4\r\n:%u\r\n$9\r\n127.0.0.1\r\n:%u\r\n:1\r\n", i + 1, servers[i].port);
    }
    size += snprintf(text + size, sizeof text - (size_t)size, "$7\r\nleaders\r\n*%u\r\n", n);
    for (unsigned i = 0; i < n; i++) {
        size += snprintf(text + size, sizeof text - (size_t)size, ":%u\r\n", i + 1);
    }
    for (unsigned i = 0; i < n; i++) {
        memcpy(servers[i].topology, text, (size_t)size + 1);
    }
}

static inline void fake_stop(struct fake_server *server) {
    atomic_store(&server->stopping, true);
    pthread_join(server->thread, NULL);
    for (unsigned i = 0; i < FAKE_CONNECTIONS; i++) {
        fake_close(&server->connections[i]);
    }
    close(server->listener);
    pthread_mutex_destroy(&server->mutex);
    free(server->log);
}

/* The usual: one server that is the whole cluster. */
static inline void fake_start(struct fake_server *server, fake_handler handler, void *data) {
    fake_bind(server);
    fake_name_each_other(server, 1);
    fake_serve(server, handler, data);
}

#endif
