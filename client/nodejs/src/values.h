/* Values of the library as JavaScript values. NULL when N-API failed. */
#ifndef VALUES_H
#define VALUES_H

#include "store.h"

napi_value value_text(napi_env env, const char *data, size_t size);
/* Integers that a number cannot hold become BigInt; errors within arrays become {error: text}. */
napi_value value_convert(napi_env env, const ikv_value *value);
napi_value value_event(napi_env env, const struct event *event);
/* A number for numbers up to 2^53, else a BigInt. */
napi_value value_integer(napi_env env, int64_t integer);
bool value_is_safe(int64_t integer);

#endif
