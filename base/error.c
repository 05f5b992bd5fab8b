#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *error_describe(enum error_code code) {
    switch (code) {
#define ERROR_CASE(symbol, number, prefix, description)                                            \
    case symbol:                                                                                   \
        return description;
        ERROR_LIST(ERROR_CASE)
#undef ERROR_CASE
    }
    return "unknown error";
}

const char *error_prefix(enum error_code code) {
    switch (code) {
#define ERROR_CASE(symbol, number, prefix, description)                                            \
    case symbol:                                                                                   \
        return prefix;
        ERROR_LIST(ERROR_CASE)
#undef ERROR_CASE
    }
    return "ERR";
}

int error_is_known(int code) {
    switch (code) {
#define ERROR_CASE(symbol, number, prefix, description) case number:
        ERROR_LIST(ERROR_CASE)
#undef ERROR_CASE
        return 1;
    default:
        return 0;
    }
}

/* Appends `text` to the NUL-terminated `message`, cutting what does not fit. */
static void message_append(char message[ERROR_MESSAGE_SIZE], const char *text) {
    size_t used = strlen(message);
    size_t room = ERROR_MESSAGE_SIZE - 1 - used;
    size_t size = strnlen(text, room);
    memcpy(message + used, text, size);
    message[used + size] = '\0';
}

/* The arguments may point into error->message, so it is formatted aside and then put in place. */
static void message_format(char message[ERROR_MESSAGE_SIZE], const char *format, va_list args) {
    if (vsnprintf(message, ERROR_MESSAGE_SIZE, format, args) < 0) {
        message[0] = '\0';
    }
}

enum error_code error_set(struct error *error, enum error_code code, const char *format, ...) {
    if (error == NULL) {
        return code;
    }
    char message[ERROR_MESSAGE_SIZE];
    va_list args;
    va_start(args, format);
    message_format(message, format, args);
    va_end(args);
    error->code = code;
    memcpy(error->message, message, sizeof message);
    return code;
}

static enum error_code code_of_errno(int errnum) {
    switch (errnum) {
    case ENOSPC:
    case EDQUOT:
        return ERROR_NOSPACE;
    case ENOMEM:
        return ERROR_NOMEM;
    default:
        return ERROR_IO;
    }
}

enum error_code error_set_errno(struct error *error, int errnum, const char *format, ...) {
    enum error_code code = code_of_errno(errnum);
    if (error == NULL) {
        return code;
    }
    char message[ERROR_MESSAGE_SIZE];
    char reason[128];
    va_list args;
    va_start(args, format);
    message_format(message, format, args);
    va_end(args);
    message_append(message, ": ");
    message_append(message, strerror_r(errnum, reason, sizeof reason));
    error->code = code;
    memcpy(error->message, message, sizeof message);
    return code;
}

enum error_code error_wrap(struct error *error, const char *format, ...) {
    if (error == NULL) {
        return ERROR_GENERIC;
    }
    char message[ERROR_MESSAGE_SIZE];
    va_list args;
    va_start(args, format);
    message_format(message, format, args);
    va_end(args);
    message_append(message, ": ");
    message_append(message, error->message);
    memcpy(error->message, message, sizeof message);
    return error->code;
}
