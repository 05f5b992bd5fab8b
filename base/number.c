#include "base/number.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>

bool number_parse_integer(struct slice text, int64_t *number) {
    enum { LONGEST = 20 }; /* of INT64_MIN */
    char digits[LONGEST + 1];
    bool negative = text.size > 0 && text.data[0] == '-';
    size_t first = negative ? 1 : 0;
    if (text.size <= first || text.size > LONGEST) {
        return false;
    }
    for (size_t i = first; i < text.size; i++) {
        if (text.data[i] < '0' || text.data[i] > '9') {
            return false;
        }
    }
    if (text.data[first] == '0' && text.size > 1) {
        return false;
    }
    memcpy(digits, text.data, text.size);
    digits[text.size] = '\0';
    errno = 0;
    long long parsed = strtoll(digits, NULL, 10);
    if (errno != 0) {
        return false;
    }
    *number = parsed;
    return true;
}

bool number_parse_float(struct slice text, long double *number) {
    enum { SPACE = 5 * 1024 }; /* the largest long double has 4933 digits */
    char digits[SPACE];
    if (text.size == 0 || text.size >= SPACE || isspace(text.data[0])) {
        return false;
    }
    memcpy(digits, text.data, text.size);
    digits[text.size] = '\0';
    char *end;
    errno = 0;
    long double parsed = strtold(digits, &end);
    /* A NUL among the bytes ends the number too early, and shows here as well. */
    bool out_of_range = errno == ERANGE && (isinf(parsed) || parsed == 0);
    if (end != digits + text.size || out_of_range || isnan(parsed)) {
        return false;
    }
    *number = parsed;
    return true;
}
