/* Reads the seeds that a client is opened with. Pure. */
#ifndef CLIENT_URL_H
#define CLIENT_URL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    URL_SEEDS = 32,      /* seeds of one client */
    URL_HOST_SIZE = 254, /* with the NUL */
    URL_NAME_SIZE = 513, /* project, user */
    URL_TOKEN_SIZE = 1025,
    URL_DEFAULT_PORT = 7101
};

struct url_seed {
    char host[URL_HOST_SIZE]; /* a name, or an address without brackets */
    uint16_t port;
};

struct url_seeds {
    struct url_seed seeds[URL_SEEDS];
    size_t count;
    bool tls;
    bool has_user; /* the URLs named a user: project or credential */
    char user[URL_NAME_SIZE];
    char token[URL_TOKEN_SIZE]; /* empty: none */
};

/* False, with a text for people, when `text` is not a list of seeds (see ikv_open()). All URLs must
 * agree about TLS, user and token; plain HOST:PORT seeds go along with them. */
bool url_parse_seeds(const char *text, struct url_seeds *seeds, char *message, size_t message_size);

/* Reads HOST, HOST:PORT, [IPV6] or [IPV6]:PORT. */
bool url_parse_address(const char *text, size_t size, struct url_seed *seed);

/* Whether `name` may name a project: 1-128 characters of UTF-8, no control characters. */
bool url_is_project_name(const char *name);

#endif
