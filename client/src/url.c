#include "client/src/url.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/number.h"

enum { PROJECT_NAME_CHARACTERS = 128 };

static bool complain(char *message, size_t message_size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static bool complain(char *message, size_t message_size, const char *format, ...) {
    if (message != NULL && message_size > 0) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(message, message_size, format, arguments);
        va_end(arguments);
    }
    return false;
}

static bool parse_port(const char *text, size_t size, uint16_t *port) {
    int64_t number;
    if (!number_parse_integer(slice_make(text, size), &number) || number < 1 || number > 65535) {
        return false;
    }
    *port = (uint16_t)number;
    return true;
}

static bool is_host_byte(char byte) {
    return byte > ' ' && byte != 0x7f && strchr("/@?#[]", byte) == NULL;
}

static bool copy_host(const char *text, size_t size, struct url_seed *seed) {
    if (size < 1 || size >= sizeof seed->host) {
        return false;
    }
    for (size_t i = 0; i < size; i++) {
        if (!is_host_byte(text[i])) {
            return false;
        }
    }
    memcpy(seed->host, text, size);
    seed->host[size] = '\0';
    return true;
}

static bool parse_bracketed(const char *text, size_t size, struct url_seed *seed) {
    const char *end = memchr(text, ']', size);
    if (end == NULL || !copy_host(text + 1, (size_t)(end - text) - 1, seed)) {
        return false;
    }
    size_t rest = size - (size_t)(end + 1 - text);
    return rest == 0 || (end[1] == ':' && parse_port(end + 2, rest - 1, &seed->port));
}

bool url_parse_address(const char *text, size_t size, struct url_seed *seed) {
    seed->port = URL_DEFAULT_PORT;
    if (size > 0 && text[0] == '[') {
        return parse_bracketed(text, size, seed);
    }
    const char *colon = memchr(text, ':', size);
    if (colon == NULL) {
        return copy_host(text, size, seed);
    }
    size_t host_size = (size_t)(colon - text);
    size_t rest = size - host_size - 1;
    if (memchr(colon + 1, ':', rest) != NULL) {
        return copy_host(text, size, seed); /* a bare IPv6 address */
    }
    return copy_host(text, host_size, seed) && parse_port(colon + 1, rest, &seed->port);
}

static int hex_digit(char byte) {
    if (byte >= '0' && byte <= '9') {
        return byte - '0';
    }
    if (byte >= 'a' && byte <= 'f') {
        return byte - 'a' + 10;
    }
    return byte >= 'A' && byte <= 'F' ? byte - 'A' + 10 : -1;
}

/* Percent-decodes into a NUL-terminated string; a NUL inside is refused. */
static bool decode(const char *text, size_t size, char *out, size_t out_size) {
    size_t used = 0;
    for (size_t i = 0; i < size; i++) {
        char byte = text[i];
        if (byte == '%') {
            int high = i + 2 < size ? hex_digit(text[i + 1]) : -1;
            int low = high >= 0 ? hex_digit(text[i + 2]) : -1;
            if (low < 0) {
                return false;
            }
            byte = (char)(high * 16 + low);
            i += 2;
        }
        if (byte == '\0' || used + 1 >= out_size) {
            return false;
        }
        out[used++] = byte;
    }
    out[used] = '\0';
    return true;
}

struct credentials {
    bool has_user;
    char user[URL_NAME_SIZE];
    char token[URL_TOKEN_SIZE];
};

/* USER, USER:TOKEN, or :TOKEN for the project `default`. */
static bool parse_credentials(const char *text, size_t size, struct credentials *credentials) {
    const char *colon = memchr(text, ':', size);
    size_t user_size = colon != NULL ? (size_t)(colon - text) : size;
    credentials->has_user = true;
    if (!decode(text, user_size, credentials->user, sizeof credentials->user)) {
        return false;
    }
    if (user_size == 0) {
        memcpy(credentials->user, "default", sizeof "default");
    }
    return colon == NULL ||
           decode(colon + 1, size - user_size - 1, credentials->token, sizeof credentials->token);
}

static bool path_is_empty(const char *text, size_t size) {
    return size == 0 || (size == 1 && text[0] == '/') || (size == 2 && memcmp(text, "/0", 2) == 0);
}

/* What stands behind "redis://". */
static bool parse_url(const char *text, size_t size, struct url_seed *seed,
                      struct credentials *credentials) {
    const char *path = memchr(text, '/', size);
    size_t authority = path != NULL ? (size_t)(path - text) : size;
    if (path != NULL && !path_is_empty(path, size - authority)) {
        return false;
    }
    const char *at = memchr(text, '@', authority);
    if (at != NULL && !parse_credentials(text, (size_t)(at - text), credentials)) {
        return false;
    }
    const char *host = at != NULL ? at + 1 : text;
    return url_parse_address(host, authority - (size_t)(host - text), seed);
}

static bool starts_with(const char *text, size_t size, const char *word) {
    size_t length = strlen(word);
    return size >= length && memcmp(text, word, length) == 0;
}

struct parsing {
    struct url_seeds *seeds;
    bool has_url;
    char *message;
    size_t message_size;
};

static bool join_credentials(struct parsing *parsing, const struct credentials *credentials,
                             bool tls) {
    struct url_seeds *seeds = parsing->seeds;
    if (!parsing->has_url) {
        parsing->has_url = true;
        seeds->tls = tls;
    } else if (seeds->tls != tls) {
        return complain(
            parsing->message, parsing->message_size,
            "seeds: redis:// and rediss:// are mixed; TLS is for all nodes or for none");
    }
    if (!credentials->has_user) {
        return true;
    }
    if (seeds->has_user && (strcmp(seeds->user, credentials->user) != 0 ||
                            strcmp(seeds->token, credentials->token) != 0)) {
        return complain(parsing->message, parsing->message_size,
                        "seeds: the URLs name different projects or tokens");
    }
    seeds->has_user = true;
    memcpy(seeds->user, credentials->user, sizeof seeds->user);
    memcpy(seeds->token, credentials->token, sizeof seeds->token);
    return true;
}

/* The text of a seed is not repeated in complaints: it may hold a token. */
static bool parse_seed(struct parsing *parsing, const char *text, size_t size) {
    struct url_seeds *seeds = parsing->seeds;
    size_t number = seeds->count + 1;
    if (seeds->count == URL_SEEDS) {
        return complain(parsing->message, parsing->message_size, "more than %d seeds", URL_SEEDS);
    }
    struct url_seed *seed = &seeds->seeds[seeds->count];
    struct credentials credentials = {0};
    bool tls = starts_with(text, size, "rediss://");
    if (tls || starts_with(text, size, "redis://")) {
        size_t scheme = tls ? strlen("rediss://") : strlen("redis://");
        if (!parse_url(text + scheme, size - scheme, seed, &credentials)) {
            return complain(parsing->message, parsing->message_size,
                            "seed %zu is not a URL like redis://PROJECT:TOKEN@HOST:PORT", number);
        }
        if (!join_credentials(parsing, &credentials, tls)) {
            return false;
        }
    } else if (!url_parse_address(text, size, seed)) {
        return complain(parsing->message, parsing->message_size,
                        "seed %zu is not HOST:PORT or a redis:// or rediss:// URL", number);
    }
    seeds->count++;
    return true;
}

bool url_parse_seeds(const char *text, struct url_seeds *seeds, char *message,
                     size_t message_size) {
    memset(seeds, 0, sizeof *seeds);
    struct parsing parsing = {.seeds = seeds, .message = message, .message_size = message_size};
    while (true) {
        size_t size = strcspn(text, ",");
        const char *rest = text + size;
        while (size > 0 && *text == ' ') {
            text++;
            size--;
        }
        while (size > 0 && text[size - 1] == ' ') {
            size--;
        }
        if (!parse_seed(&parsing, text, size)) {
            return false;
        }
        if (*rest == '\0') {
            return true;
        }
        text = rest + 1;
    }
}

/* Bytes of the UTF-8 character at `at`, 0 when it is none: overlong, a surrogate, beyond U+10FFFF.
 */
static size_t character_size(const unsigned char *at) {
    if (at[0] < 0x80) {
        return 1;
    }
    size_t size = at[0] >= 0xf0 ? 4 : at[0] >= 0xe0 ? 3 : 2;
    if (at[0] < 0xc2 || at[0] > 0xf4) {
        return 0;
    }
    for (size_t i = 1; i < size; i++) {
        if ((at[i] & 0xc0) != 0x80) {
            return 0; /* also the NUL of a text that ends early */
        }
    }
    bool bad = (at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] > 0x9f) ||
               (at[0] == 0xf0 && at[1] < 0x90) || (at[0] == 0xf4 && at[1] > 0x8f);
    return bad ? 0 : size;
}

static bool is_control(const unsigned char *at) {
    return at[0] < 0x20 || at[0] == 0x7f || (at[0] == 0xc2 && at[1] < 0xa0);
}

bool url_is_project_name(const char *name) {
    const unsigned char *at = (const unsigned char *)name;
    size_t characters = 0;
    while (*at != '\0') {
        size_t size = character_size(at);
        if (size == 0 || is_control(at) || ++characters > PROJECT_NAME_CHARACTERS) {
            return false;
        }
        at += size;
    }
    return characters > 0;
}
