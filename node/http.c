#include "node/http.h"

#include <microhttpd.h>
#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/mem.h"

struct http {
    struct MHD_Daemon *daemon;
    pthread_mutex_t mutex;
    bool ready;                    /* under mutex */
    char reason[HTTP_REASON_SIZE]; /* under mutex */
};

static enum MHD_Result answer_text(struct MHD_Connection *connection, unsigned status,
                                   const char *text) {
    char line[HTTP_REASON_SIZE + 2];
    int length = snprintf(line, sizeof line, "%s\n", text);
    struct MHD_Response *response =
        MHD_create_response_from_buffer((size_t)length, line, MHD_RESPMEM_MUST_COPY);
    if (response == NULL) {
        return MHD_NO;
    }
    (void)MHD_add_response_header(response, "Content-Type", "text/plain; charset=utf-8");
    enum MHD_Result result = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result answer(void *data, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *upload,
                              size_t *upload_size, void **state) {
    struct http *http = data;
    char reason[HTTP_REASON_SIZE];
    (void)version;
    (void)upload;
    (void)state;
    if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0) {
        *upload_size = 0;
        return answer_text(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET is answered here");
    }
    if (strcmp(url, "/livez") == 0) {
        return answer_text(connection, MHD_HTTP_OK, "ok");
    }
    if (strcmp(url, "/readyz") != 0) {
        return answer_text(connection, MHD_HTTP_NOT_FOUND, "try /livez or /readyz");
    }
    pthread_mutex_lock(&http->mutex);
    bool ready = http->ready;
    memcpy(reason, http->reason, sizeof reason);
    pthread_mutex_unlock(&http->mutex);
    return answer_text(connection, ready ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE, reason);
}

enum error_code http_open(struct http **out, const struct config_address *address,
                          struct error *error) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    char port[16];
    *out = NULL;
    if (address->port == 0) {
        return ERROR_NONE;
    }
    snprintf(port, sizeof port, "%u", address->port);
    int rv = getaddrinfo(address->host, port, &hints, &found);
    if (rv != 0) {
        return error_set(error, ERROR_IO, "http_listen: cannot resolve %s: %s", address->host,
                         gai_strerror(rv));
    }
    struct http *http = mem_zalloc(1, sizeof *http);
    pthread_mutex_init(&http->mutex, NULL);
    snprintf(http->reason, sizeof http->reason, "starting");
    unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL;
    if (found->ai_family == AF_INET6) {
        flags |= MHD_USE_IPv6;
    }
    http->daemon = MHD_start_daemon(
        flags, address->port, NULL, NULL, answer, http, MHD_OPTION_SOCK_ADDR, found->ai_addr,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)HTTP_CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)HTTP_IDLE_S, MHD_OPTION_LISTENING_ADDRESS_REUSE, 1u, MHD_OPTION_END);
    freeaddrinfo(found);
    if (http->daemon == NULL) {
        pthread_mutex_destroy(&http->mutex);
        mem_free(http);
        return error_set(error, ERROR_IO,
                         "cannot serve HTTP on %s port %u: is the port taken by another process?",
                         address->host, address->port);
    }
    *out = http;
    return ERROR_NONE;
}

void http_set_ready(struct http *http, bool ready, const char *reason) {
    if (http == NULL) {
        return;
    }
    pthread_mutex_lock(&http->mutex);
    http->ready = ready;
    snprintf(http->reason, sizeof http->reason, "%s", reason);
    pthread_mutex_unlock(&http->mutex);
}

void http_close(struct http *http) {
    if (http == NULL) {
        return;
    }
    MHD_stop_daemon(http->daemon);
    pthread_mutex_destroy(&http->mutex);
    mem_free(http);
}
