/* Values that are numbers: INCR and its family.
 *
 * Sums of floating-point numbers are part of the replicated state, so that every replica must round
 * alike: all machines of a cluster need the same `long double`. */
#include <errno.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/number.h"
#include "node/machine/apply.h"

enum { FLOAT_TEXT_MAX = 5 * 1024 }; /* the largest long double has 4933 digits in front */

static enum error_code store_text(const struct batch_context *batch, const struct command *command,
                                  const struct target *target, const char *text, uint64_t limit,
                                  struct result *result, struct error *error) {
    struct slice value = slice_of(text);
    if (!apply_fits_limit(value.size, limit, result)) {
        return ERROR_NONE;
    }
    return apply_store(batch, command, target, value, target->row.expires_at_ms, result, error);
}

/* Fills the result and returns false when the value is no integer or the sum would not be one. */
static bool add_integers(const struct target *target, struct slice value, int64_t delta,
                         int64_t *sum, struct result *result) {
    *sum = 0;
    if (target->row.exists && !number_parse_integer(value, sum)) {
        result_set_error(result, ERROR_INVALID, "value is not an integer or out of range");
        return false;
    }
    if (__builtin_add_overflow(*sum, delta, sum)) {
        result_set_error(result, ERROR_INVALID, "increment or decrement would overflow");
        return false;
    }
    return true;
}

enum error_code apply_increment(const struct batch_context *batch, const struct command *command,
                                struct result *result, struct error *error) {
    struct reader args = reader_make(command->args);
    struct slice key = command_next_arg(&args);
    int64_t delta = (int64_t)apply_next_number(&args);
    uint64_t limit = apply_next_number(&args);
    struct target target;
    struct buffer value = {0};
    enum error_code code = apply_get(batch, command, key, &target, &value, error);
    int64_t sum = 0;
    if (code == ERROR_NONE && add_integers(&target, buffer_slice(&value), delta, &sum, result)) {
        char text[32];
        snprintf(text, sizeof text, "%" PRId64, sum);
        result->kind = RESULT_INTEGER;
        result->integer = sum;
        code = store_text(batch, command, &target, text, limit, result, error);
    }
    buffer_free(&value);
    return code;
}

/* Fills the result and returns false when one of the two or their sum is not a finite number. */
static bool add_floats(const struct target *target, struct slice value, struct slice increment,
                       long double *sum, struct result *result) {
    long double old = 0;
    long double added = 0;
    if ((target->row.exists && !number_parse_float(value, &old)) ||
        !number_parse_float(increment, &added)) {
        result_set_error(result, ERROR_INVALID, "value is not a valid float");
        return false;
    }
    *sum = old + added;
    if (!isfinite(*sum)) {
        result_set_error(result, ERROR_INVALID, "increment would produce NaN or Infinity");
        return false;
    }
    return true;
}

/* Seventeen digits behind the point without the zeros at their end, and no exponent. */
static void format_float(long double number, char text[FLOAT_TEXT_MAX]) {
    int size = snprintf(text, FLOAT_TEXT_MAX, "%.17Lf", number);
    ASSERT(size > 18 && size < FLOAT_TEXT_MAX);
    char *end = text + size;
    while (end[-1] == '0') {
        end--;
    }
    if (end[-1] == '.') {
        end--;
    }
    *end = '\0';
    if (strcmp(text, "-0") == 0) {
        memcpy(text, "0", 2);
    }
}

enum error_code apply_increment_float(const struct batch_context *batch,
                                      const struct command *command, struct result *result,
                                      struct error *error) {
    struct reader args = reader_make(command->args);
    struct slice key = command_next_arg(&args);
    struct slice increment = command_next_arg(&args);
    uint64_t limit = apply_next_number(&args);
    struct target target;
    struct buffer value = {0};
    enum error_code code = apply_get(batch, command, key, &target, &value, error);
    long double sum = 0;
    if (code == ERROR_NONE && add_floats(&target, buffer_slice(&value), increment, &sum, result)) {
        char text[FLOAT_TEXT_MAX];
        format_float(sum, text);
        result->kind = RESULT_BULK;
        buffer_append_slice(&result->data, slice_of(text));
        code = store_text(batch, command, &target, text, limit, result, error);
    }
    buffer_free(&value);
    return code;
}
