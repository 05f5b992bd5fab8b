#include "node/http_page.h"

#include <string.h>

#include "base/assert.h"
#include "node/metrics.h"
#include "node/readiness.h"

enum { OK = 200, NOT_FOUND = 404, NOT_ALLOWED = 405, UNAVAILABLE = 503 };

static const char text_type[] = "text/plain; charset=utf-8";

enum http_page http_page_find(const char *method, const char *path) {
    static const struct {
        const char *path;
        enum http_page page;
    } pages[] = {
        {"/livez", HTTP_PAGE_LIVE}, {"/readyz", HTTP_PAGE_READY}, {"/metrics", HTTP_PAGE_METRICS}};
    if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0) {
        return HTTP_PAGE_NOT_ALLOWED;
    }
    for (unsigned i = 0; i < sizeof pages / sizeof pages[0]; i++) {
        if (strcmp(path, pages[i].path) == 0) {
            return pages[i].page;
        }
    }
    return HTTP_PAGE_UNKNOWN;
}

void http_page_write_ready(const struct readiness *readiness, const char *format,
                           struct http_reply *reply) {
    reply->status = readiness_is_ready(readiness) ? OK : UNAVAILABLE;
    if (format != NULL && strcmp(format, "json") == 0) {
        reply->type = "application/json";
        readiness_write_json(readiness, &reply->body);
        return;
    }
    reply->type = text_type;
    readiness_write_text(readiness, &reply->body);
}

void http_page_write_metrics(const struct metrics *metrics, const struct metrics_process *process,
                             struct http_reply *reply) {
    if (metrics->taken_ms == 0) {
        *reply = (struct http_reply){.status = UNAVAILABLE, .type = text_type};
        buffer_append_slice(&reply->body, slice_of("starting\n"));
        return;
    }
    reply->status = OK;
    reply->type = "text/plain; version=0.0.4; charset=utf-8";
    metrics_render(metrics, process, &reply->body);
}

void http_page_write_fixed(enum http_page page, struct http_reply *reply) {
    static const struct {
        unsigned status;
        const char *text;
    } answers[] = {[HTTP_PAGE_LIVE] = {OK, "ok\n"},
                   [HTTP_PAGE_UNKNOWN] = {NOT_FOUND, "try /livez, /readyz or /metrics\n"},
                   [HTTP_PAGE_NOT_ALLOWED] = {NOT_ALLOWED, "only GET is answered here\n"}};
    ASSERT(page != HTTP_PAGE_READY && page != HTTP_PAGE_METRICS);
    reply->status = answers[page].status;
    reply->type = text_type;
    reply->allow = page == HTTP_PAGE_NOT_ALLOWED ? "GET, HEAD" : NULL;
    buffer_append_slice(&reply->body, slice_of(answers[page].text));
}
