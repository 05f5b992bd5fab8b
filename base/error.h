/* One list of error kinds for the whole project, and errors that carry a message.
 *
 * A function that can fail returns an `enum error_code` (0 is success) and, where the reason helps
 * a human, fills a `struct error` that gains context on its way up. */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include <stddef.h>

/* X(symbol, number, RESP prefix, description). Numbers are stable: they travel between nodes. */
#define ERROR_LIST(X)                                                                              \
    X(ERROR_NONE, 0, "OK", "success")                                                              \
    X(ERROR_GENERIC, 1, "ERR", "request refused")                                                  \
    X(ERROR_NOMEM, 2, "BUSY", "out of memory")                                                     \
    X(ERROR_IO, 3, "ERR", "input/output error")                                                    \
    X(ERROR_CORRUPT, 4, "ERR", "damaged data")                                                     \
    X(ERROR_NOSPACE, 5, "NOSPACE", "no space left on disk")                                        \
    X(ERROR_INVALID, 6, "ERR", "invalid argument")                                                 \
    X(ERROR_TOOBIG, 7, "TOOBIG", "larger than a limit")                                            \
    X(ERROR_BUSY, 8, "BUSY", "a queue is full")                                                    \
    X(ERROR_NOLEADER, 9, "NOLEADER", "no leader is known; the request was not carried out")        \
    X(ERROR_UNCERTAIN, 10, "UNCERTAIN", "the request may or may not have been carried out")        \
    X(ERROR_QUOTA, 11, "QUOTA", "project quota exceeded")                                          \
    X(ERROR_STALE, 12, "STALE", "replica is too far behind")                                       \
    X(ERROR_NOAUTH, 13, "NOAUTH", "authentication required")                                       \
    X(ERROR_NOPERM, 14, "NOPERM", "not permitted")                                                 \
    X(ERROR_MISMATCH, 15, "ERR", "belongs to another cluster or node")                             \
    X(ERROR_LOCKED, 16, "ERR", "in use by another process")                                        \
    X(ERROR_VERSION, 17, "ERR", "unsupported format version")                                      \
    X(ERROR_SYNTAX, 18, "ERR", "syntax error")                                                     \
    X(ERROR_NOSESSION, 19, "NOSESSION", "no such session of exactly-once writes")                  \
    X(ERROR_FORGOTTEN, 20, "FORGOTTEN", "the result of that write is no longer kept")              \
    X(ERROR_WRONGPASS, 24, "WRONGPASS", "invalid project-token pair or credential")                \
    X(ERROR_NOPROJECT, 25, "NOPROJECT", "there is no such project")

enum error_code {
#define ERROR_ENUM(symbol, number, prefix, description) symbol = number,
    ERROR_LIST(ERROR_ENUM)
#undef ERROR_ENUM
};

enum { ERROR_MESSAGE_SIZE = 512 };

/* An error with its message. The message is always NUL-terminated and cut when it is too long. */
struct error {
    enum error_code code;
    char message[ERROR_MESSAGE_SIZE];
};

/* Description of a code, never NULL. */
const char *error_describe(enum error_code code);

/* Prefix that a RESP error of this code starts with, such as "NOSPACE". */
const char *error_prefix(enum error_code code);

/* True when `code` is one of the list. For numbers that arrive from outside. */
int error_is_known(int code);

/* Sets code and message, and returns the code so that callers can `return error_set(...)`.
 * `error` may be NULL. */
enum error_code error_set(struct error *error, enum error_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Like error_set() but appends ": " and the text of errno `errnum`; ENOSPC and EDQUOT become
 * ERROR_NOSPACE, ENOMEM becomes ERROR_NOMEM, whatever else becomes ERROR_IO. */
enum error_code error_set_errno(struct error *error, int errnum, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the message that is already there. Returns the unchanged code. */
enum error_code error_wrap(struct error *error, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
