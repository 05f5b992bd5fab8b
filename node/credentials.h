/* Who connects, and with what: the roles of connections, the credentials of services and
 * administrators, and the text of a project's token.
 *
 * A credential is a secret that stands in a file of its own, which only this process's user may
 * read; every node has the same. A token's text is
 *
 *     ikv_ NUMBER _ SECRET
 *
 * with 16 lower-case hexadecimal digits and the base64url form, without padding, of 32 random
 * bytes. Only SHA-256 of a text is kept or sent on. Nothing here is ever logged. */
#ifndef NODE_CREDENTIALS_H
#define NODE_CREDENTIALS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/error.h"
#include "node/machine/command.h"

struct config;

enum session_role {
    ROLE_NONE,    /* has not authenticated where that is required: may do next to nothing */
    ROLE_OPEN,    /* auth = off: may do everything, in every project */
    ROLE_TOKEN,   /* showed the token of a project */
    ROLE_SERVICE, /* may work in every project, and make new ones */
    ROLE_ADMIN    /* may do everything */
};

enum {
    CREDENTIAL_SIZE_MIN = 16, /* bytes of a secret in a file */
    CREDENTIAL_SIZE_MAX = 256,
    TOKEN_SECRET_BYTES = 32,
    TOKEN_ID_SIZE = 16, /* digits of a token's number */
    TOKEN_TEXT_SIZE = 4 + TOKEN_ID_SIZE + 1 + 43,
    SECRET_HASHED_MAX = 512, /* bytes of a secret that are looked at */
    SECRET_DIGEST_SIZE = COMMAND_HASH_SIZE
};

/* A zeroed struct stands for auth = off. */
struct credentials {
    bool required;
    bool has_service;
    bool has_admin;
    uint8_t service[SECRET_DIGEST_SIZE];
    uint8_t admin[SECRET_DIGEST_SIZE];
};

/* Reads the files that the configuration names. ERROR_INVALID: others may read one, or it does not
 * hold one secret; the message names the file and what to do. */
enum error_code credentials_load(struct credentials *credentials, const struct config *config,
                                 struct error *error);

/* SHA-256 of what a client shows, of its first SECRET_HASHED_MAX bytes at most: longer ones never
 * match. */
void secret_digest(struct slice secret, uint8_t digest[SECRET_DIGEST_SIZE]);

/* The user names that stand for credentials, and never for projects. */
bool credentials_is_reserved(struct slice user);
/* ROLE_SERVICE, ROLE_ADMIN, or ROLE_NONE when it is wrong. Takes the same time for all. */
enum session_role credentials_check(const struct credentials *credentials, struct slice user,
                                    const uint8_t digest[SECRET_DIGEST_SIZE]);

/* Whether it is the digest of one of the credentials, whoever shows it. */
bool credentials_are(const struct credentials *credentials,
                     const uint8_t digest[SECRET_DIGEST_SIZE]);

/* Writes the text and a NUL. */
void token_text_write(char text[TOKEN_TEXT_SIZE + 1], uint64_t id,
                      const uint8_t secret[TOKEN_SECRET_BYTES]);
void token_id_write(char text[TOKEN_ID_SIZE + 1], uint64_t id);
/* False when these are not TOKEN_ID_SIZE lower-case hexadecimal digits. */
bool token_id_read(struct slice digits, uint64_t *id);
/* Number of the token, 0 when this is no token's text. */
uint64_t token_text_id(struct slice text);

#endif
