/* Options of a client; ikv_options_*() in options.c. */
#ifndef CLIENT_OPTIONS_H
#define CLIENT_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ikv_options {
    uint64_t timeout_ms;
    uint64_t connect_timeout_ms;
    uint64_t probe_ms;
    uint64_t stall_ms;
    uint64_t topology_ms;
    uint64_t max_requests;
    uint64_t max_bytes;
    uint64_t exactly_once;
    uint64_t max_reply;
    char *user;
    char *secret;
    char *ca_file;
    char *tls_name;
    char *cert_file;
    char *key_file;
    void (*burst)(void *data);
    void *burst_data;
};

void options_init(struct ikv_options *options);
/* False without memory; *copy is to be released in any case. */
bool options_copy(struct ikv_options *copy, const struct ikv_options *options);
void options_release(struct ikv_options *options);
/* Replaces a text; false without memory. */
bool options_set_text(char **text, const char *value);

#endif
