/* What a request over HTTP is answered: the part of node/http.c without sockets and threads.
 *
 * Method, path and query come from anybody who reaches the address. Pure. */
#ifndef NODE_HTTP_PAGE_H
#define NODE_HTTP_PAGE_H

#include "base/bytes.h"

struct metrics;
struct metrics_process;
struct readiness;

enum http_page {
    HTTP_PAGE_LIVE,
    HTTP_PAGE_READY,
    HTTP_PAGE_METRICS,
    HTTP_PAGE_UNKNOWN,    /* 404 */
    HTTP_PAGE_NOT_ALLOWED /* 405: another method than GET and HEAD */
};

struct http_reply {
    unsigned status;
    const char *type;   /* content type */
    const char *allow;  /* methods for the header Allow, NULL: none */
    struct buffer body; /* the caller's to free */
};

/* Which page is asked for. */
enum http_page http_page_find(const char *method, const char *path);

/* Fill a zeroed *reply. `format`: what the query says, NULL when it does not; "json" or text. */
void http_page_write_ready(const struct readiness *readiness, const char *format,
                           struct http_reply *reply);
void http_page_write_metrics(const struct metrics *metrics, const struct metrics_process *process,
                             struct http_reply *reply);
/* Any of the others. */
void http_page_write_fixed(enum http_page page, struct http_reply *reply);

#endif
