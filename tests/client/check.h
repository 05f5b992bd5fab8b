/* Small checks for the programs that integration tests run against a cluster. */
#ifndef CLIENT_CHECK_H
#define CLIENT_CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <invoke_kv.h>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);          \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

#define CHECK_OK(call)                                                                             \
    do {                                                                                           \
        int check_error = (call);                                                                  \
        if (check_error != IKV_OK) {                                                               \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call,                          \
                    ikv_strerror(check_error));                                                    \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static inline ikv_client *check_open(const char *seeds, const ikv_options *options) {
    ikv_client *client = NULL;
    char message[256];
    if (ikv_open(seeds, options, &client, message, sizeof message) != IKV_OK) {
        fprintf(stderr, "ikv_open: %s\n", message);
        exit(1);
    }
    return client;
}

static inline int check_is(const ikv_value *value, const char *text) {
    return value->type == IKV_STRING && value->size == strlen(text) &&
           memcmp(value->data, text, value->size) == 0;
}

#endif
