/* Numbers as clients write them, read strictly: the whole text must be one. Pure. */
#ifndef BASE_NUMBER_H
#define BASE_NUMBER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"

/* Decimal integer as Redis reads it: no blanks, plus signs or leading zeros. */
bool number_parse_integer(struct slice text, int64_t *number);

/* Floating-point number as strtold() reads it, in fewer than 5 KiB, without blanks in front;
 * not one that is too large, too small or NaN. Infinities pass. */
bool number_parse_float(struct slice text, long double *number);

#endif
