/* What a connection may do: its role, its current project, and the projects whose tokens it has
 * shown. For session.c and the command handlers.
 *
 * Roles decide which commands a connection may give (permission_of()); which keys it may touch is
 * decided where commands take effect, by the token that each carries (node/machine/access.h). */
#ifndef NODE_SESSION_ACCESS_H
#define NODE_SESSION_ACCESS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/limits.h"
#include "node/credentials.h"

struct session;

enum { SESSION_PROJECTS = 1024 }; /* projects whose tokens a connection may have shown */

/* A project and the number of the token that was shown for it. */
struct known_project {
    uint64_t hash; /* of the name, to pass over others quickly */
    uint64_t token;
    uint16_t size;
    uint8_t *name;
};

struct session_access {
    enum session_role role;
    uint64_t token; /* ROLE_TOKEN: of the current project */
    uint16_t project_size;
    uint8_t project[LIMIT_PROJECT_NAME];
    struct known_project *known;
    unsigned n_known;
    unsigned known_capacity;
};

enum permission { PERMISSION_GIVEN, PERMISSION_NOAUTH, PERMISSION_NOPERM };
/* Whether a role may give a command with these flags (enum verb_flag). */
enum permission permission_of(enum session_role role, unsigned flags);

/* As a connection begins: project `default`, no token shown. `required`: see struct credentials. */
void session_access_reset(struct session_access *access, bool required);
void session_access_free(struct session_access *access);

/* What commands in the current project carry. */
uint64_t session_access_token(const struct session_access *access);

/* Makes a project the current one, without more ado. */
void session_access_set_project(struct session_access *access, struct slice name);
/* A token was shown and is good. ERROR_TOOBIG when SESSION_PROJECTS others were shown before. */
enum error_code session_access_add(struct session_access *access, struct slice project,
                                   uint64_t token, struct error *error);
/* A credential was shown and is good: the current project is `default`. */
void session_access_become(struct session_access *access, enum session_role role);
/* What commands in that project carry. False when this connection may not work there. */
bool session_access_find(const struct session_access *access, struct slice project,
                         uint64_t *token);
/* PROJECT USE; false as session_access_find(). */
bool session_access_use(struct session_access *access, struct slice project);

#endif
