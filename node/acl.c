#include "node/acl.h"

#include "node/resp_commands.h"

static const enum session_role session_roles[ACL_ROLES] = {
    [ACL_OPEN] = ROLE_OPEN,    [ACL_NONE] = ROLE_NONE,       [ACL_READER] = ROLE_TOKEN,
    [ACL_WRITER] = ROLE_TOKEN, [ACL_SERVICE] = ROLE_SERVICE, [ACL_ADMIN] = ROLE_ADMIN,
};

enum permission acl_permission(enum acl_role role, const struct verb *verb) {
    enum permission permission = permission_of(session_roles[role], verb->flags);
    bool writes = (verb->flags & VERB_WRITE) != 0;
    if (permission == PERMISSION_GIVEN && role == ACL_READER && writes) {
        return PERMISSION_NOPERM;
    }
    return permission;
}

static void put(struct buffer *out, const char *text) {
    buffer_append_slice(out, slice_of(text));
}

static void describe(struct buffer *out, const struct verb *container, const struct verb *verb) {
    static const char *const words[] = {[PERMISSION_GIVEN] = " | yes",
                                        [PERMISSION_NOAUTH] = " | NOAUTH",
                                        [PERMISSION_NOPERM] = " | NOPERM"};
    put(out, "| `");
    if (container != NULL) {
        put(out, container->name);
        put(out, " ");
    }
    put(out, verb->name);
    put(out, "`");
    for (unsigned i = 0; i < ACL_ROLES; i++) {
        put(out, words[acl_permission((enum acl_role)i, verb)]);
    }
    put(out, " |\n");
}

void acl_describe(struct buffer *out) {
    unsigned count;
    const struct verb *verbs = verb_table(&count);
    for (unsigned i = 0; i < count; i++) {
        if (verbs[i].handler != NULL) {
            describe(out, NULL, &verbs[i]);
        }
        for (unsigned j = 0; j < verbs[i].n_subcommands; j++) {
            describe(out, &verbs[i], &verbs[i].subcommands[j]);
        }
    }
}
