#include "client/src/errors.h"

#include "client/src/value.h"

struct prefix_meaning {
    const char *prefix;
    struct error_meaning meaning;
};

static const struct prefix_meaning prefixes[] = {
    {"MOVED", {IKV_ERR_NO_LEADER, ERROR_MOVED, false}},
    {"NOLEADER", {IKV_ERR_NO_LEADER, ERROR_AGAIN, false}},
    {"TRYAGAIN", {IKV_ERR_NO_LEADER, ERROR_AGAIN, false}},
    {"CLUSTERDOWN", {IKV_ERR_NO_LEADER, ERROR_AGAIN, false}},
    {"LOADING", {IKV_ERR_NO_LEADER, ERROR_AGAIN, false}},
    {"BUSY", {IKV_ERR_BUSY, ERROR_AGAIN, false}},
    {"UNCERTAIN", {IKV_ERR_UNKNOWN_OUTCOME, ERROR_UNCERTAIN, false}},
    {"FORGOTTEN", {IKV_ERR_UNKNOWN_OUTCOME, ERROR_UNCERTAIN, false}},
    {"NOSESSION", {IKV_ERR_UNKNOWN_OUTCOME, ERROR_SESSION, false}},
    {"STALE", {IKV_ERR_STALE, ERROR_FRESHER, false}},
    {"NOAUTH", {IKV_ERR_AUTH, ERROR_FINAL, false}},
    {"WRONGPASS", {IKV_ERR_AUTH, ERROR_FINAL, false}},
    {"NOPROJECT", {IKV_ERR_AUTH, ERROR_FINAL, false}},
    {"NOPERM", {IKV_ERR_PERMISSION, ERROR_FINAL, false}},
    {"QUOTA", {IKV_ERR_QUOTA, ERROR_FINAL, true}},
    {"TOOBIG", {IKV_ERR_TOO_BIG, ERROR_FINAL, false}},
    {"NOSPACE", {IKV_ERR_NO_SPACE, ERROR_FINAL, false}},
    {"ERR", {IKV_ERR_REFUSED, ERROR_FINAL, true}},
    {"WRONGTYPE", {IKV_ERR_REFUSED, ERROR_FINAL, true}},
};

struct error_meaning error_meaning_of(const ikv_value *text) {
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        if (value_has_prefix(text, prefixes[i].prefix)) {
            return prefixes[i].meaning;
        }
    }
    return (struct error_meaning){IKV_ERR_REFUSED, ERROR_FINAL, false};
}

const char *ikv_strerror(int error) {
    switch (error) {
    case IKV_OK:
        return "success";
    case IKV_ERR_INVALID:
        return "invalid argument";
    case IKV_ERR_NOMEM:
        return "out of memory";
    case IKV_ERR_BUSY:
        return "too much is under way; try again later";
    case IKV_ERR_CLOSED:
        return "the client is closed";
    case IKV_ERR_DEADLOCK:
        return "a blocking function was called from a callback";
    case IKV_ERR_FORKED:
        return "the client belongs to the parent process";
    case IKV_ERR_TIMEOUT:
        return "no answer in time; not carried out";
    case IKV_ERR_UNREACHABLE:
        return "no node could be reached";
    case IKV_ERR_TLS:
        return "TLS failed";
    case IKV_ERR_PROTOCOL:
        return "the server does not speak the protocol";
    case IKV_ERR_NO_LEADER:
        return "no leader was found in time; not carried out";
    case IKV_ERR_AUTH:
        return "not authenticated for this project";
    case IKV_ERR_PERMISSION:
        return "not permitted";
    case IKV_ERR_QUOTA:
        return "the project's quota is exceeded";
    case IKV_ERR_TOO_BIG:
        return "larger than a limit";
    case IKV_ERR_NO_SPACE:
        return "the servers' disks are nearly full";
    case IKV_ERR_STALE:
        return "no replica is fresh enough";
    case IKV_ERR_REFUSED:
        return "refused by the server";
    case IKV_ERR_UNKNOWN_OUTCOME:
        return "the write may or may not have been carried out";
    default:
        return "unknown error";
    }
}

enum ikv_outcome ikv_outcome(int error) {
    if (error == IKV_OK) {
        return IKV_OUTCOME_DONE;
    }
    return error == IKV_ERR_UNKNOWN_OUTCOME ? IKV_OUTCOME_UNKNOWN : IKV_OUTCOME_NOT_DONE;
}
