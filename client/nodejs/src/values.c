#include "values.h"

#define SAFE_INTEGER_MAX (((int64_t)1 << 53) - 1)

/* JSON nests no deeper than this in what the library answers. */
#define DEPTH_MAX 32

napi_value value_text(napi_env env, const char *data, size_t size) {
    napi_value text = NULL;
    if (napi_create_string_utf8(env, size > 0 ? data : "", size, &text) != napi_ok)
        return NULL;
    return text;
}

bool value_is_safe(int64_t integer) {
    return integer >= -SAFE_INTEGER_MAX && integer <= SAFE_INTEGER_MAX;
}

napi_value value_integer(napi_env env, int64_t integer) {
    napi_value result = NULL;
    napi_status status = value_is_safe(integer) ? napi_create_int64(env, integer, &result)
                                                : napi_create_bigint_int64(env, integer, &result);
    return status == napi_ok ? result : NULL;
}

static napi_value convert(napi_env env, const ikv_value *value, int depth) {
    napi_value result = NULL;
    if (value->type == IKV_STRING || value->type == IKV_STATUS)
        return value_text(env, value->data, value->size);
    if (value->type == IKV_INTEGER)
        return value_integer(env, value->integer);
    if (value->type == IKV_ERROR) {
        napi_value text = value_text(env, value->data, value->size);
        if (text == NULL || napi_create_object(env, &result) != napi_ok ||
            napi_set_named_property(env, result, "error", text) != napi_ok)
            return NULL;
        return result;
    }
    if (value->type != IKV_ARRAY || depth == DEPTH_MAX)
        return napi_get_null(env, &result) == napi_ok ? result : NULL;
    if (napi_create_array_with_length(env, value->size, &result) != napi_ok)
        return NULL;
    for (size_t i = 0; i < value->size; i++) {
        napi_handle_scope scope;
        if (napi_open_handle_scope(env, &scope) != napi_ok)
            return NULL;
        napi_value element = convert(env, &value->elements[i], depth + 1);
        bool set =
            element != NULL && napi_set_element(env, result, (uint32_t)i, element) == napi_ok;
        (void)napi_close_handle_scope(env, scope);
        if (!set)
            return NULL;
    }
    return result;
}

napi_value value_convert(napi_env env, const ikv_value *value) {
    return convert(env, value, 0);
}

napi_value value_event(napi_env env, const struct event *event) {
    const char *key = event->bytes + event->kind_size;
    napi_value result;
    napi_value fields[5] = {
        value_integer(env, event->error),
        value_integer(env, (int64_t)event->index),
        value_text(env, event->bytes, event->kind_size),
        value_text(env, key, event->key_size),
        value_text(env, key + event->key_size, event->message_size),
    };
    if (napi_create_array_with_length(env, 5, &result) != napi_ok)
        return NULL;
    for (uint32_t i = 0; i < 5; i++)
        if (fields[i] == NULL || napi_set_element(env, result, i, fields[i]) != napi_ok)
            return NULL;
    return result;
}
