#include "node/session_access.h"

#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "node/machine/digest.h"
#include "node/resp_commands.h"

/* The flags that a role lacks. */
static const unsigned forbidden[] = {
    [ROLE_NONE] = ~0U, /* see permission_of() */
    [ROLE_OPEN] = 0,   [ROLE_TOKEN] = VERB_ADMIN | VERB_SERVICE, [ROLE_SERVICE] = VERB_ADMIN,
    [ROLE_ADMIN] = 0,
};

enum permission permission_of(enum session_role role, unsigned flags) {
    if ((flags & VERB_NO_AUTH) != 0) {
        return PERMISSION_GIVEN;
    }
    if (role == ROLE_NONE) {
        return PERMISSION_NOAUTH;
    }
    return (flags & forbidden[role]) == 0 ? PERMISSION_GIVEN : PERMISSION_NOPERM;
}

void session_access_reset(struct session_access *access, bool required) {
    session_access_free(access);
    *access = (struct session_access){.role = required ? ROLE_NONE : ROLE_OPEN};
    session_access_set_project(access, slice_of("default"));
}

void session_access_free(struct session_access *access) {
    for (unsigned i = 0; i < access->n_known; i++) {
        mem_free(access->known[i].name);
    }
    mem_free(access->known);
    access->known = NULL;
    access->n_known = 0;
    access->known_capacity = 0;
}

uint64_t session_access_token(const struct session_access *access) {
    switch (access->role) {
    case ROLE_OPEN:
        return COMMAND_TOKEN_OPEN;
    case ROLE_TOKEN:
        return access->token;
    case ROLE_SERVICE:
    case ROLE_ADMIN:
        return COMMAND_TOKEN_SERVICE;
    case ROLE_NONE:
        break;
    }
    ASSERT(false); /* permission_of() lets nothing pass that submits a command */
    return COMMAND_TOKEN_SERVICE;
}

void session_access_set_project(struct session_access *access, struct slice name) {
    ASSERT(name.size > 0 && name.size <= sizeof access->project);
    memcpy(access->project, name.data, name.size);
    access->project_size = (uint16_t)name.size;
}

static struct known_project *find_known(const struct session_access *access, struct slice name) {
    uint64_t hash = digest_seed(name);
    for (unsigned i = 0; i < access->n_known; i++) {
        struct known_project *known = &access->known[i];
        if (known->hash == hash && slice_equal(slice_make(known->name, known->size), name)) {
            return known;
        }
    }
    return NULL;
}

static void append_known(struct session_access *access, struct slice name, uint64_t token) {
    if (access->n_known == access->known_capacity) {
        access->known_capacity = access->known_capacity == 0 ? 4 : 2 * access->known_capacity;
        access->known =
            mem_realloc(access->known, access->known_capacity * sizeof access->known[0]);
    }
    access->known[access->n_known++] =
        (struct known_project){.hash = digest_seed(name),
                               .token = token,
                               .size = (uint16_t)name.size,
                               .name = mem_dup(name.data, name.size)};
}

enum error_code session_access_add(struct session_access *access, struct slice project,
                                   uint64_t token, struct error *error) {
    struct known_project *known = find_known(access, project);
    if (known == NULL && access->n_known == SESSION_PROJECTS) {
        return error_set(error, ERROR_TOOBIG,
                         "this connection has shown tokens of %d projects, which is the limit; use "
                         "another connection",
                         SESSION_PROJECTS);
    }
    if (known != NULL) {
        known->token = token;
    } else {
        append_known(access, project, token);
    }
    access->role = ROLE_TOKEN;
    access->token = token;
    session_access_set_project(access, project);
    return ERROR_NONE;
}

void session_access_become(struct session_access *access, enum session_role role) {
    ASSERT(role == ROLE_SERVICE || role == ROLE_ADMIN);
    access->role = role;
    session_access_set_project(access, slice_of("default"));
}

bool session_access_find(const struct session_access *access, struct slice project,
                         uint64_t *token) {
    if (access->role != ROLE_TOKEN) {
        *token = session_access_token(access);
        return true;
    }
    const struct known_project *known = find_known(access, project);
    *token = known != NULL ? known->token : 0;
    return known != NULL;
}

bool session_access_use(struct session_access *access, struct slice project) {
    uint64_t token;
    if (!session_access_find(access, project, &token)) {
        return false;
    }
    access->token = token;
    session_access_set_project(access, project);
    return true;
}
