#include "node/machine/top.h"

#include <string.h>

#include "base/assert.h"
#include "node/machine/machine_internal.h"

static void find_least(struct machine_top *top) {
    top->least = 0;
    for (unsigned i = 1; i < top->n; i++) {
        if (top->entries[i].used_bytes < top->entries[top->least].used_bytes) {
            top->least = i;
        }
    }
}

/* Where an entry of so many bytes goes; NULL when it is too small. */
static struct machine_top_entry *place_for(struct machine_top *top, uint64_t used_bytes) {
    if (top->n < top->most) {
        return &top->entries[top->n++];
    }
    bool fits = top->n > 0 && used_bytes > top->entries[top->least].used_bytes;
    return fits ? &top->entries[top->least] : NULL;
}

void machine_top_add(struct machine_top *top, const struct machine_top_entry *entry) {
    ASSERT(top->most <= MACHINE_TOP_MAX);
    struct machine_top_entry *place = place_for(top, entry->used_bytes);
    if (place != NULL) {
        *place = *entry;
        find_least(top);
    }
}

static void look_at(struct machine_top *top, const struct project *project) {
    top->projects++;
    top->near_quota += project->used_bytes >= project->quota - project->quota / 10 ? 1 : 0;
    struct machine_top_entry *place = place_for(top, project->used_bytes);
    if (place == NULL) {
        return;
    }
    place->used_bytes = project->used_bytes;
    place->quota = project->quota;
    place->keys = project->keys;
    place->shard = top->shard;
    place->name_size = (unsigned)project->name_size;
    memcpy(place->name, project->name, project->name_size);
    find_least(top);
}

void machine_top_step(const struct machine *machine, struct machine_top *top) {
    const struct projects *projects = &machine->projects;
    size_t at = projects_place_after(projects, top->after);
    size_t left = projects->count - at;
    size_t n = left < MACHINE_TOP_STEP ? left : MACHINE_TOP_STEP;
    ASSERT(top->most <= MACHINE_TOP_MAX);
    for (size_t i = at; i < at + n; i++) {
        look_at(top, projects->by_id[i]);
        top->after = projects->by_id[i]->id;
    }
    top->done = n == left;
}
