/* Who may give which command: what the table in docs/acl.md, the tests and operators look at. The
 * rules themselves stand elsewhere, the flags of a command in resp_commands.c, what a role lacks in
 * session_access.c, and that a token for reading does not write in machine/access.c; here they are
 * put together. Pure. */
#ifndef NODE_ACL_H
#define NODE_ACL_H

#include "base/bytes.h"
#include "node/session_access.h"

struct verb;

/* As in enum session_role, with the two kinds of tokens apart. */
enum acl_role { ACL_OPEN, ACL_NONE, ACL_READER, ACL_WRITER, ACL_SERVICE, ACL_ADMIN };
enum { ACL_ROLES = 6 };

/* `verb` is a leaf: no container that needs a subcommand. */
enum permission acl_permission(enum acl_role role, const struct verb *verb);
/* Appends the rows of docs/acl.md: one for each leaf, in the order of the table of commands. */
void acl_describe(struct buffer *out);

#endif
