#include "client/src/value.h"

#include <stdlib.h>
#include <string.h>

#include "base/number.h"

enum { VALUE_ELEMENTS_MAX = 1 << 20, BLOCK_SIZE = 4000 };

struct value_block {
    struct value_block *next;
    size_t used;
    size_t size;
    _Alignas(max_align_t) char data[];
};

static struct value_block *add_block(struct value_builder *builder, size_t size) {
    struct value_block *block = malloc(sizeof *block + size);
    if (block == NULL) {
        return NULL;
    }
    block->next = builder->blocks;
    block->used = 0;
    block->size = size;
    builder->blocks = block;
    return block;
}

/* Memory of the reply under construction. A value of its own gets a block of its size; parts of
 * arrays share blocks. */
static void *take(struct value_builder *builder, size_t size, bool alone) {
    size_t rounded = (size + 15) & ~(size_t)15;
    if (rounded < size || rounded > builder->limit - builder->used) {
        return NULL;
    }
    struct value_block *block = builder->blocks;
    if (block == NULL || block->size - block->used < rounded) {
        size_t least = alone || rounded > BLOCK_SIZE ? rounded : BLOCK_SIZE;
        block = add_block(builder, least);
    }
    if (block == NULL) {
        return NULL;
    }
    void *memory = block->data + block->used;
    block->used += rounded;
    builder->used += rounded;
    return memory;
}

static ikv_value *place(const redisReadTask *task, struct value_builder *builder) {
    if (task->parent == NULL) {
        builder->filled = true;
        return &builder->root;
    }
    const ikv_value *array = task->parent->obj;
    /* The elements are the builder's own memory; only readers see them as constant. */
    return (ikv_value *)(uintptr_t)&array->elements[task->idx];
}

static const char *common_word(const char *text, size_t size) {
    static const char *const words[] = {"OK", "QUEUED", "PONG"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strlen(words[i]) == size && memcmp(words[i], text, size) == 0) {
            return words[i];
        }
    }
    return NULL;
}

static void *create_string(const redisReadTask *task, char *text, size_t size) {
    struct value_builder *builder = task->privdata;
    const char *data = common_word(text, size);
    if (data == NULL) {
        char *copy = take(builder, size + 1, task->parent == NULL);
        if (copy == NULL) {
            return NULL;
        }
        memcpy(copy, text, size);
        copy[size] = '\0';
        data = copy;
    }
    ikv_value *value = place(task, builder);
    int type = task->type == REDIS_REPLY_ERROR    ? IKV_ERROR
               : task->type == REDIS_REPLY_STATUS ? IKV_STATUS
                                                  : IKV_STRING;
    *value = (ikv_value){.type = type, .data = data, .size = size};
    return value;
}

static void *build_array(const redisReadTask *task, size_t count) {
    struct value_builder *builder = task->privdata;
    if (count > VALUE_ELEMENTS_MAX) {
        return NULL;
    }
    ikv_value *elements = NULL;
    if (count > 0) {
        elements = take(builder, count * sizeof *elements, false);
        if (elements == NULL) {
            return NULL;
        }
        memset(elements, 0, count * sizeof *elements);
    }
    ikv_value *value = place(task, builder);
    *value = (ikv_value){.type = IKV_ARRAY, .elements = elements, .size = count};
    return value;
}

#if HIREDIS_MAJOR >= 1
static void *create_array(const redisReadTask *task, size_t count) {
    return build_array(task, count);
}
#else
static void *create_array(const redisReadTask *task, int count) {
    return count < 0 ? NULL : build_array(task, (size_t)count);
}
#endif

static void *create_integer(const redisReadTask *task, long long integer) {
    ikv_value *value = place(task, task->privdata);
    *value = (ikv_value){.type = IKV_INTEGER, .integer = integer};
    return value;
}

static void *create_nil(const redisReadTask *task) {
    ikv_value *value = place(task, task->privdata);
    *value = (ikv_value){.type = IKV_NIL};
    return value;
}

static void free_object(void *object) {
    (void)object; /* belongs to the builder */
}

static redisReplyObjectFunctions functions = {
    .createString = create_string,
    .createArray = create_array,
    .createInteger = create_integer,
    .createNil = create_nil,
    .freeObject = free_object,
};

redisReader *value_reader_new(struct value_builder *builder, size_t limit) {
    *builder = (struct value_builder){.limit = limit};
    redisReader *reader = redisReaderCreateWithFunctions(&functions);
    if (reader != NULL) {
        reader->privdata = builder;
        reader->maxbuf = (size_t)256 * 1024;
    }
    return reader;
}

enum value_status value_next(redisReader *reader, struct value_builder *builder) {
    void *object = NULL;
    if (builder->filled && reader->ridx < 0) {
        value_builder_clear(builder); /* the previous reply; one that is read in part stays */
    }
    if (redisReaderGetReply(reader, &object) != REDIS_OK) {
        return VALUE_BROKEN;
    }
    if (object == NULL) {
        return VALUE_MORE;
    }
    return builder->filled ? VALUE_READY : VALUE_BROKEN;
}

static void free_blocks(struct value_block *block) {
    while (block != NULL) {
        struct value_block *next = block->next;
        free(block);
        block = next;
    }
}

void value_builder_clear(struct value_builder *builder) {
    free_blocks(builder->blocks);
    *builder = (struct value_builder){.limit = builder->limit};
}

void value_move(struct value_builder *builder, struct ikv_reply *reply) {
    reply->value = builder->root;
    reply->blocks = builder->blocks;
    builder->blocks = NULL;
    value_builder_clear(builder);
}

void reply_set_error(struct ikv_reply *reply, int error, const char *text) {
    free(reply->message);
    free_blocks(reply->blocks);
    reply->blocks = NULL;
    reply->value = (ikv_value){.type = IKV_NIL};
    reply->error = error;
    reply->message = text != NULL ? strdup(text) : NULL;
}

void reply_clear(struct ikv_reply *reply) {
    reply_set_error(reply, IKV_OK, NULL);
}

bool value_is_text(const ikv_value *value, const char *text) {
    bool has_bytes =
        value->type == IKV_STRING || value->type == IKV_STATUS || value->type == IKV_ERROR;
    return has_bytes && value->size == strlen(text) && memcmp(value->data, text, value->size) == 0;
}

bool value_has_prefix(const ikv_value *value, const char *word) {
    size_t size = strlen(word);
    return (value->type == IKV_ERROR || value->type == IKV_STRING || value->type == IKV_STATUS) &&
           value->size >= size && memcmp(value->data, word, size) == 0 &&
           (value->size == size || value->data[size] == ' ');
}

bool value_number(const ikv_value *value, int64_t *number) {
    if (value->type == IKV_INTEGER) {
        *number = value->integer;
        return true;
    }
    return value->type == IKV_STRING &&
           number_parse_integer(slice_make(value->data, value->size), number);
}

const ikv_value *value_field(const ikv_value *map, const char *name) {
    if (map->type != IKV_ARRAY) {
        return NULL;
    }
    for (size_t i = 0; i + 1 < map->size; i += 2) {
        if (value_is_text(&map->elements[i], name)) {
            return &map->elements[i + 1];
        }
    }
    return NULL;
}
