#include "node/descriptors.h"

#include <inttypes.h>
#include <sys/resource.h>

#include "node/acceptor_uv.h"
#include "node/http.h"
#include "node/logging.h"

enum {
    OF_PROCESS = 64, /* standard streams, the loop's own, data directory, log and its spares */
    OF_HTTP = HTTP_CONNECTIONS + 16,
    OF_SHARD = 16, /* database, WAL and index: open, being folded, sent, received */
    OF_NODE = 16,  /* links, lanes and handshakes in both directions */
    OF_SEGMENTS = 256,
    CONNECTIONS_MIN = 16
};

/* Connections that are refused or closed keep theirs until the end of a turn. */
uint64_t descriptors_reserve(const struct config *config) {
    return OF_PROCESS + OF_HTTP + OF_SEGMENTS + (uint64_t)OF_SHARD * config->shards +
           (uint64_t)OF_NODE * config->n_nodes + ACCEPTOR_PER_ITERATION + 64;
}

/* As much of `needed` as the process may have. */
static rlim_t raise_limit(uint64_t needed) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return 0;
    }
    rlim_t wanted = (rlim_t)needed;
    if (limit.rlim_cur >= wanted) {
        return limit.rlim_cur;
    }
    struct rlimit raised = {.rlim_cur = wanted,
                            .rlim_max = limit.rlim_max > wanted ? limit.rlim_max : wanted};
    if (setrlimit(RLIMIT_NOFILE, &raised) == 0) {
        return wanted;
    }
    raised = (struct rlimit){.rlim_cur = limit.rlim_max, .rlim_max = limit.rlim_max};
    return setrlimit(RLIMIT_NOFILE, &raised) == 0 ? raised.rlim_cur : limit.rlim_cur;
}

enum error_code descriptors_provide(struct config *config, struct error *error) {
    uint64_t reserve = descriptors_reserve(config);
    uint64_t needed = config->max_connections + reserve;
    uint64_t given = raise_limit(needed);
    if (given >= needed) {
        return ERROR_NONE;
    }
    uint64_t fits = given > reserve ? given - reserve : 0;
    if (fits < CONNECTIONS_MIN) {
        return error_set(error, ERROR_INVALID,
                         "this process may have %" PRIu64 " files open and needs %" PRIu64
                         " beside connections of clients; raise its limit (ulimit -n, or "
                         "LimitNOFILE= in the unit) to %" PRIu64,
                         given, reserve, needed);
    }
    if (config->is_set[CONFIG_MAX_CONNECTIONS]) {
        return error_set(error, ERROR_INVALID,
                         "max_connections = '%u': needs %" PRIu64
                         " open files, and this process may have %" PRIu64
                         "; raise its limit (ulimit -n, or LimitNOFILE= in the unit) or set "
                         "max_connections to at most %" PRIu64,
                         config->max_connections, needed, given, fits);
    }
    say_warn("fewer connections than by default: too few open files are allowed",
             "max_connections=%" PRIu64 " open_files=%" PRIu64 " needed=%" PRIu64, fits, given,
             needed);
    config->max_connections = (unsigned)fits;
    return ERROR_NONE;
}
