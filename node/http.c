#include "node/http.h"

#include <dirent.h>
#include <malloc.h>
#include <microhttpd.h>
#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <uv.h>

#include "base/mem.h"
#include "node/crash.h"
#include "node/http_page.h"
#include "node/metrics.h"

struct http {
    struct MHD_Daemon *daemon;
    pthread_mutex_t mutex;
    uint64_t start_ms; /* under mutex: start of the process, since the Unix epoch; 0: not known */
    struct metrics published; /* under mutex */
    struct metrics rendered;  /* copy of the thread that answers */
};

/* --- figures of the process ------------------------------------------------------------------- */

static uint64_t clock_of(clockid_t clock) {
    struct timespec now;
    (void)clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static uint64_t milliseconds_of(struct timeval time) {
    return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_usec / 1000;
}

static uint64_t count_open_files(void) {
    uint64_t count = 0;
    DIR *folder = opendir("/proc/self/fd");
    if (folder == NULL) {
        return 0;
    }
    while (readdir(folder) != NULL) {
        count++;
    }
    (void)closedir(folder);
    return count > 3 ? count - 3 : 0; /* ".", "..", and the folder itself */
}

static void look_at_process(const struct http *http, struct metrics_process *process) {
    struct rusage usage = {0};
    struct rlimit files = {0};
    size_t resident = 0;
    struct mallinfo2 heap = mallinfo2();
    (void)uv_resident_set_memory(&resident);
    (void)getrusage(RUSAGE_SELF, &usage);
    (void)getrlimit(RLIMIT_NOFILE, &files);
    uint64_t now_ms = clock_of(CLOCK_MONOTONIC);
    uint64_t taken_ms = http->rendered.taken_ms;
    process->build_id = crash_build_id();
    process->age_ms = now_ms > taken_ms ? now_ms - taken_ms : 0;
    process->resident_bytes = resident;
    process->resident_peak_bytes = (uint64_t)usage.ru_maxrss * 1024;
    process->heap_bytes = heap.uordblks + heap.hblkhd;
    process->heap_free_bytes = heap.fordblks;
    process->cpu_ms = milliseconds_of(usage.ru_utime) + milliseconds_of(usage.ru_stime);
    process->open_files = count_open_files();
    process->open_files_max = files.rlim_cur;
}

/* --- answers ---------------------------------------------------------------------------------- */

/* Frees the body. */
static enum MHD_Result send_reply(struct MHD_Connection *connection, struct http_reply *reply) {
    struct MHD_Response *response =
        MHD_create_response_from_buffer(reply->body.size, reply->body.data, MHD_RESPMEM_MUST_COPY);
    buffer_free(&reply->body);
    if (response == NULL) {
        return MHD_NO;
    }
    (void)MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, reply->type);
    (void)MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    if (reply->allow != NULL) {
        (void)MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, reply->allow);
    }
    enum MHD_Result result = MHD_queue_response(connection, reply->status, response);
    MHD_destroy_response(response);
    return result;
}

static void write_ready(struct http *http, struct MHD_Connection *connection,
                        struct http_reply *reply) {
    const char *format = MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, "format");
    pthread_mutex_lock(&http->mutex);
    struct readiness readiness = http->published.readiness;
    pthread_mutex_unlock(&http->mutex);
    http_page_write_ready(&readiness, format, reply);
}

static void write_metrics(struct http *http, struct http_reply *reply) {
    struct metrics_process process = {0};
    pthread_mutex_lock(&http->mutex);
    http->rendered = http->published;
    process.start_ms = http->start_ms;
    pthread_mutex_unlock(&http->mutex);
    look_at_process(http, &process);
    http_page_write_metrics(&http->rendered, &process, reply);
}

static enum MHD_Result answer(void *data, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *upload,
                              size_t *upload_size, void **state) {
    struct http_reply reply = {0};
    (void)version;
    (void)upload;
    (void)state;
    enum http_page page = http_page_find(method, url);
    if (page == HTTP_PAGE_NOT_ALLOWED) {
        *upload_size = 0;
    }
    if (page == HTTP_PAGE_READY) {
        write_ready(data, connection, &reply);
    } else if (page == HTTP_PAGE_METRICS) {
        write_metrics(data, &reply);
    } else {
        http_page_write_fixed(page, &reply);
    }
    return send_reply(connection, &reply);
}

/* --- opening and closing ---------------------------------------------------------------------- */

static struct MHD_Daemon *start_daemon(struct http *http, const struct addrinfo *address,
                                       uint16_t port) {
    unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL;
    if (address->ai_family == AF_INET6) {
        flags |= MHD_USE_IPv6;
    }
    return MHD_start_daemon(
        flags, port, NULL, NULL, answer, http, MHD_OPTION_SOCK_ADDR, address->ai_addr,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)HTTP_CONNECTIONS, MHD_OPTION_PER_IP_CONNECTION_LIMIT,
        (unsigned)HTTP_CONNECTIONS_PER_ADDRESS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)HTTP_MEMORY, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)HTTP_IDLE_S,
        MHD_OPTION_LISTENING_ADDRESS_REUSE, 1u, MHD_OPTION_END);
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
    http->published.readiness.starting = true;
    http->daemon = start_daemon(http, found, address->port);
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

void http_publish(struct http *http, const struct metrics *metrics) {
    if (http == NULL) {
        return;
    }
    pthread_mutex_lock(&http->mutex);
    if (http->start_ms == 0) {
        http->start_ms = clock_of(CLOCK_REALTIME) - metrics->uptime_ms;
    }
    http->published = *metrics;
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
