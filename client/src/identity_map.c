#include <stdlib.h>

#include "client/src/connection.h"

static size_t home(const struct identity_map *map, uint64_t name) {
    return (size_t)(name * 0x9E3779B97F4A7C15u >> 20) & (map->capacity - 1);
}

/* Slot of the name, or the free one where it would go. */
static size_t find(const struct identity_map *map, uint64_t name) {
    size_t at = home(map, name);
    while (map->slots[at].name != 0 && map->slots[at].name != name) {
        at = (at + 1) & (map->capacity - 1);
    }
    return at;
}

uint64_t identity_map_get(const struct identity_map *map, uint64_t name) {
    return map->capacity > 0 ? map->slots[find(map, name)].identity : 0;
}

static bool grow(struct identity_map *map) {
    struct identity_map larger = {.capacity = map->capacity > 0 ? map->capacity * 2 : 16};
    larger.slots = calloc(larger.capacity, sizeof *larger.slots);
    if (larger.slots == NULL) {
        return false;
    }
    for (size_t i = 0; i < map->capacity; i++) {
        if (map->slots[i].name != 0) {
            larger.slots[find(&larger, map->slots[i].name)] = map->slots[i];
        }
    }
    larger.count = map->count;
    free(map->slots);
    *map = larger;
    return true;
}

bool identity_map_put(struct identity_map *map, uint64_t name, uint64_t identity) {
    if (map->count * 2 >= map->capacity && !grow(map)) {
        return false;
    }
    size_t at = find(map, name);
    map->count += map->slots[at].name == 0 ? 1 : 0;
    map->slots[at] = (struct identity_slot){name, identity};
    return true;
}

void identity_map_remove(struct identity_map *map, uint64_t name) {
    if (identity_map_get(map, name) == 0) {
        return;
    }
    size_t hole = find(map, name);
    map->slots[hole] = (struct identity_slot){0, 0};
    map->count--;
    /* What was pushed past the hole moves up, so that it is found again. */
    for (size_t at = (hole + 1) & (map->capacity - 1); map->slots[at].name != 0;
         at = (at + 1) & (map->capacity - 1)) {
        struct identity_slot moved = map->slots[at];
        map->slots[at] = (struct identity_slot){0, 0};
        map->slots[find(map, moved.name)] = moved;
    }
}

void identity_map_free(struct identity_map *map) {
    free(map->slots);
    *map = (struct identity_map){0};
}
