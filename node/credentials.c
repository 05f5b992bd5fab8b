#include "node/credentials.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <string.h>
#include <unistd.h>

#include "node/config.h"
#include "node/secret_file.h"

static const char token_prefix[] = "ikv_";
enum { PREFIX_SIZE = 4, ID_DIGITS = TOKEN_ID_SIZE };
static_assert(sizeof token_prefix - 1 == PREFIX_SIZE, "the prefix is counted in TOKEN_TEXT_SIZE");
static_assert(SECRET_HASHED_MAX > CREDENTIAL_SIZE_MAX && SECRET_HASHED_MAX > TOKEN_TEXT_SIZE,
              "no good secret is as long as one that is cut");
static_assert(SECRET_DIGEST_SIZE == SHA256_DIGEST_LENGTH, "digests are SHA-256");

void secret_digest(struct slice secret, uint8_t digest[SECRET_DIGEST_SIZE]) {
    static const uint8_t empty;
    size_t size = secret.size < SECRET_HASHED_MAX ? secret.size : SECRET_HASHED_MAX;
    (void)SHA256(size > 0 ? secret.data : &empty, size, digest);
}

/* --- files -------------------------------------------------------------------------------------
 */

static bool is_blank(uint8_t c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* The secret without the line's end; size 0 when the file does not hold exactly one word. */
static struct slice only_word(struct slice text) {
    while (text.size > 0 && is_blank(text.data[text.size - 1])) {
        text.size--;
    }
    for (size_t i = 0; i < text.size; i++) {
        if (text.data[i] <= ' ' || text.data[i] >= 0x7f) {
            return (struct slice){0};
        }
    }
    return text;
}

static enum error_code take_secret(struct slice text, const char *key, const char *path,
                                   uint8_t digest[SECRET_DIGEST_SIZE], struct error *error) {
    struct slice secret = only_word(text);
    if (secret.size < CREDENTIAL_SIZE_MIN || secret.size > CREDENTIAL_SIZE_MAX) {
        return error_set(error, ERROR_INVALID,
                         "%s = '%s': the file must hold one secret of %d to %d printable "
                         "characters without blanks, such as `openssl rand -hex 32` makes",
                         key, path, CREDENTIAL_SIZE_MIN, CREDENTIAL_SIZE_MAX);
    }
    secret_digest(secret, digest);
    return ERROR_NONE;
}

static enum error_code load_file(enum config_key config_key, const char *path,
                                 uint8_t digest[SECRET_DIGEST_SIZE], struct error *error) {
    const char *key = config_key_name(config_key);
    int fd;
    enum error_code code = secret_file_open(&fd, config_key, path, error);
    if (code != ERROR_NONE) {
        return code;
    }
    code = secret_file_check(fd, config_key, path, error);
    if (code == ERROR_NONE) {
        uint8_t text[CREDENTIAL_SIZE_MAX + 16];
        ssize_t size = read(fd, text, sizeof text);
        code = size < 0 ? error_set_errno(error, errno, "%s = '%s': cannot read it", key, path)
                        : take_secret(slice_make(text, (size_t)size), key, path, digest, error);
        OPENSSL_cleanse(text, sizeof text);
    }
    (void)close(fd);
    return code;
}

enum error_code credentials_load(struct credentials *credentials, const struct config *config,
                                 struct error *error) {
    *credentials = (struct credentials){
        .required = config->auth == CONFIG_AUTH_REQUIRED,
        .has_service = config->service_token_file[0] != '\0',
        .has_admin = config->admin_token_file[0] != '\0',
    };
    enum error_code code = ERROR_NONE;
    if (credentials->has_service) {
        code = load_file(CONFIG_SERVICE_TOKEN_FILE, config->service_token_file,
                         credentials->service, error);
    }
    if (code == ERROR_NONE && credentials->has_admin) {
        code =
            load_file(CONFIG_ADMIN_TOKEN_FILE, config->admin_token_file, credentials->admin, error);
    }
    return code;
}

/* --- checking ----------------------------------------------------------------------------------
 */

bool credentials_is_reserved(struct slice user) {
    return slice_equal(user, slice_of("service")) || slice_equal(user, slice_of("admin"));
}

enum session_role credentials_check(const struct credentials *credentials, struct slice user,
                                    const uint8_t digest[SECRET_DIGEST_SIZE]) {
    bool service = CRYPTO_memcmp(credentials->service, digest, SECRET_DIGEST_SIZE) == 0;
    bool admin = CRYPTO_memcmp(credentials->admin, digest, SECRET_DIGEST_SIZE) == 0;
    if (slice_equal(user, slice_of("service")) && credentials->has_service && service) {
        return ROLE_SERVICE;
    }
    if (slice_equal(user, slice_of("admin")) && credentials->has_admin && admin) {
        return ROLE_ADMIN;
    }
    return ROLE_NONE;
}

bool credentials_are(const struct credentials *credentials,
                     const uint8_t digest[SECRET_DIGEST_SIZE]) {
    bool service = CRYPTO_memcmp(credentials->service, digest, SECRET_DIGEST_SIZE) == 0;
    bool admin = CRYPTO_memcmp(credentials->admin, digest, SECRET_DIGEST_SIZE) == 0;
    return (service && credentials->has_service) || (admin && credentials->has_admin);
}

/* --- the text of a token -----------------------------------------------------------------------
 */

void token_id_write(char text[TOKEN_ID_SIZE + 1], uint64_t id) {
    static const char digits[] = "0123456789abcdef";
    for (unsigned i = 0; i < ID_DIGITS; i++) {
        text[i] = digits[id >> (4 * (ID_DIGITS - 1 - i)) & 15];
    }
    text[ID_DIGITS] = '\0';
}

static void write_base64url(char *out, const uint8_t *bytes, size_t size) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    unsigned bits = 0;
    uint32_t held = 0;
    for (size_t i = 0; i < size; i++) {
        held = held << 8 | bytes[i];
        for (bits += 8; bits >= 6; bits -= 6) {
            *out++ = digits[held >> (bits - 6) & 63];
        }
    }
    if (bits > 0) {
        *out++ = digits[held << (6 - bits) & 63];
    }
    *out = '\0';
}

void token_text_write(char text[TOKEN_TEXT_SIZE + 1], uint64_t id,
                      const uint8_t secret[TOKEN_SECRET_BYTES]) {
    memcpy(text, token_prefix, PREFIX_SIZE);
    token_id_write(text + PREFIX_SIZE, id);
    text[PREFIX_SIZE + ID_DIGITS] = '_';
    write_base64url(text + PREFIX_SIZE + ID_DIGITS + 1, secret, TOKEN_SECRET_BYTES);
}

bool token_id_read(struct slice digits, uint64_t *id) {
    *id = 0;
    if (digits.size != ID_DIGITS) {
        return false;
    }
    for (unsigned i = 0; i < ID_DIGITS; i++) {
        uint8_t c = digits.data[i];
        bool is_digit = c >= '0' && c <= '9';
        if (!is_digit && (c < 'a' || c > 'f')) {
            return false;
        }
        *id = *id << 4 | (uint64_t)(is_digit ? c - '0' : c - 'a' + 10);
    }
    return true;
}

uint64_t token_text_id(struct slice text) {
    uint64_t id;
    bool is_token = text.size == TOKEN_TEXT_SIZE &&
                    memcmp(text.data, token_prefix, PREFIX_SIZE) == 0 &&
                    text.data[PREFIX_SIZE + ID_DIGITS] == '_' &&
                    token_id_read(slice_make(text.data + PREFIX_SIZE, ID_DIGITS), &id);
    return is_token && id != COMMAND_TOKEN_SERVICE ? id : 0;
}
