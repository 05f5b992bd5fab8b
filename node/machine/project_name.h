/* What a project may be called: 1 to LIMIT_PROJECT_CHARACTERS characters of valid UTF-8 without
 * control characters (U+0000 to U+001F, U+007F to U+009F), hence at most LIMIT_PROJECT_NAME bytes.
 * Names are compared byte by byte. */
#ifndef NODE_MACHINE_PROJECT_NAME_H
#define NODE_MACHINE_PROJECT_NAME_H

#include "base/bytes.h"
#include "base/error.h"

/* ERROR_TOOBIG: too long; ERROR_INVALID: empty, not UTF-8, or with a control character. */
enum error_code project_name_check(struct slice name, struct error *error);

/* A name for messages: a long one is cut behind a whole character and ends in "...". */
enum { PROJECT_LABEL_SIZE = 132 };
struct project_label {
    char text[PROJECT_LABEL_SIZE];
};
struct project_label project_label(struct slice name);

#endif
