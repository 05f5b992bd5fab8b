#include "client/src/options.h"

#include <stdlib.h>
#include <string.h>

#include "client/include/invoke_kv.h"

struct number_spec {
    size_t offset;
    uint64_t minimum;
    uint64_t maximum;
    uint64_t normal;
};

#define NUMBER(field) offsetof(struct ikv_options, field)
static const struct number_spec number_specs[] = {
    [IKV_OPTION_TIMEOUT_MS] = {NUMBER(timeout_ms), 1, 86400000, 5000},
    [IKV_OPTION_CONNECT_TIMEOUT_MS] = {NUMBER(connect_timeout_ms), 10, 600000, 2000},
    [IKV_OPTION_PROBE_MS] = {NUMBER(probe_ms), 50, 600000, 1000},
    [IKV_OPTION_STALL_MS] = {NUMBER(stall_ms), 100, 3600000, 15000},
    [IKV_OPTION_TOPOLOGY_MS] = {NUMBER(topology_ms), 100, 3600000, 30000},
    [IKV_OPTION_MAX_REQUESTS] = {NUMBER(max_requests), 1, 10000000, 100000},
    [IKV_OPTION_MAX_BYTES] = {NUMBER(max_bytes), 64 << 10, (uint64_t)1 << 40, 256 << 20},
    [IKV_OPTION_EXACTLY_ONCE] = {NUMBER(exactly_once), 0, 1, 1},
    [IKV_OPTION_MAX_REPLY] = {NUMBER(max_reply), 64 << 10, 1 << 30, 160 << 20},
};
enum { NUMBER_SPECS = sizeof number_specs / sizeof number_specs[0] };

static const size_t text_offsets[] = {
    offsetof(struct ikv_options, user),      offsetof(struct ikv_options, secret),
    offsetof(struct ikv_options, ca_file),   offsetof(struct ikv_options, tls_name),
    offsetof(struct ikv_options, cert_file), offsetof(struct ikv_options, key_file),
};
enum { TEXTS = sizeof text_offsets / sizeof text_offsets[0] };

static uint64_t *number_at(struct ikv_options *options, size_t offset) {
    return (uint64_t *)(void *)((char *)options + offset);
}

static char **text_at(struct ikv_options *options, size_t i) {
    return (char **)(void *)((char *)options + text_offsets[i]);
}

void options_init(struct ikv_options *options) {
    memset(options, 0, sizeof *options);
    for (unsigned i = 1; i < NUMBER_SPECS; i++) {
        *number_at(options, number_specs[i].offset) = number_specs[i].normal;
    }
}

bool options_set_text(char **text, const char *value) {
    char *copy = value != NULL ? strdup(value) : NULL;
    if (value != NULL && copy == NULL) {
        return false;
    }
    free(*text);
    *text = copy;
    return true;
}

bool options_copy(struct ikv_options *copy, const struct ikv_options *options) {
    *copy = *options;
    for (size_t i = 0; i < TEXTS; i++) {
        *text_at(copy, i) = NULL;
    }
    for (size_t i = 0; i < TEXTS; i++) {
        const char *value = *(char *const *)(const void *)((const char *)options + text_offsets[i]);
        if (!options_set_text(text_at(copy, i), value)) {
            return false;
        }
    }
    return true;
}

void options_release(struct ikv_options *options) {
    for (size_t i = 0; i < TEXTS; i++) {
        free(*text_at(options, i));
        *text_at(options, i) = NULL;
    }
}

ikv_options *ikv_options_new(void) {
    ikv_options *options = malloc(sizeof *options);
    if (options != NULL) {
        options_init(options);
    }
    return options;
}

void ikv_options_free(ikv_options *options) {
    if (options != NULL) {
        options_release(options);
        free(options);
    }
}

int ikv_options_set_number(ikv_options *options, enum ikv_option option, int64_t value) {
    if (options == NULL || (int)option < 1 || (int)option >= NUMBER_SPECS || value < 0) {
        return IKV_ERR_INVALID;
    }
    const struct number_spec *spec = &number_specs[option];
    if ((uint64_t)value < spec->minimum || (uint64_t)value > spec->maximum) {
        return IKV_ERR_INVALID;
    }
    *number_at(options, spec->offset) = (uint64_t)value;
    return IKV_OK;
}

int ikv_options_set_text(ikv_options *options, enum ikv_option option, const char *value) {
    size_t i = (size_t)option - IKV_OPTION_USER;
    if (options == NULL || (int)option < IKV_OPTION_USER || i >= TEXTS) {
        return IKV_ERR_INVALID;
    }
    return options_set_text(text_at(options, i), value) ? IKV_OK : IKV_ERR_NOMEM;
}

void ikv_options_set_burst(ikv_options *options, void (*burst)(void *data), void *data) {
    options->burst = burst;
    options->burst_data = data;
}
