/* Glob patterns as Redis has them: * ? [abc] [^a-z] and \ before a character that means itself.
 * Pure. Time is at most pattern bytes times text bytes: no pattern makes it blow up. */
#ifndef BASE_GLOB_H
#define BASE_GLOB_H

#include <stdbool.h>

#include "base/bytes.h"

bool glob_match(struct slice pattern, struct slice text, bool ignore_case);

#endif
