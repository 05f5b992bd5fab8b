#include "node/machine/projects.h"

#include "base/assert.h"
#include "base/limits.h"
#include "base/mem.h"
#include "node/machine/digest.h"

enum { BUCKETS_MIN = 16 };

static void free_project(struct project *project) {
    mem_free(project->tokens);
    mem_free(project);
}

/* What was removed and is still on the dirty list. */
static void free_gone(struct projects *projects) {
    struct project *project = projects->dirty;
    while (project != NULL) {
        struct project *next = project->next_dirty;
        if (project->is_gone) {
            free_project(project);
        }
        project = next;
    }
}

void projects_free(struct projects *projects) {
    free_gone(projects);
    for (size_t i = 0; i < projects->count; i++) {
        free_project(projects->by_id[i]);
    }
    mem_free(projects->by_id);
    mem_free(projects->buckets);
    mem_free(projects->heap);
    *projects = (struct projects){0};
}

struct slice project_name(const struct project *project) {
    return slice_make(project->name, project->name_size);
}

static struct project **bucket_of(const struct projects *projects, uint64_t seed) {
    return &projects->buckets[seed & (projects->n_buckets - 1)];
}

struct project *projects_find(const struct projects *projects, struct slice name) {
    if (projects->count == 0) {
        return NULL;
    }
    uint64_t seed = digest_seed(name);
    struct project *project = *bucket_of(projects, seed);
    while (project != NULL &&
           !(project->seed == seed && slice_equal(project_name(project), name))) {
        project = project->next_in_bucket;
    }
    return project;
}

struct project *projects_by_id(const struct projects *projects, uint64_t id) {
    size_t at = id > 0 ? projects_place_after(projects, id - 1) : projects->count;
    return at < projects->count && projects->by_id[at]->id == id ? projects->by_id[at] : NULL;
}

size_t projects_place_after(const struct projects *projects, uint64_t id) {
    size_t low = 0, high = projects->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (projects->by_id[middle]->id <= id) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static void link_into_bucket(struct projects *projects, struct project *project) {
    struct project **bucket = bucket_of(projects, project->seed);
    project->next_in_bucket = *bucket;
    *bucket = project;
}

static void grow(struct projects *projects) {
    if (projects->count < projects->capacity) {
        return;
    }
    size_t capacity = projects->capacity == 0 ? BUCKETS_MIN : 2 * projects->capacity;
    projects->by_id = mem_realloc(projects->by_id, capacity * sizeof(projects->by_id[0]));
    projects->capacity = capacity;
    mem_free(projects->buckets);
    projects->buckets = mem_zalloc(capacity, sizeof(projects->buckets[0]));
    projects->n_buckets = capacity;
    for (size_t i = 0; i < projects->count; i++) {
        link_into_bucket(projects, projects->by_id[i]);
    }
}

struct project *projects_add(struct projects *projects, struct slice name, uint64_t id) {
    ASSERT(id > 0);
    ASSERT(projects->count == 0 || id > projects->by_id[projects->count - 1]->id);
    ASSERT(name.size <= LIMIT_PROJECT_NAME);
    ASSERT(projects->count < LIMIT_PROJECTS);
    grow(projects);
    struct project *project = mem_zalloc(1, sizeof(*project) + name.size);
    project->id = id;
    projects->last_id = id > projects->last_id ? id : projects->last_id;
    project->seed = digest_seed(name);
    project->name_size = name.size;
    if (name.size > 0) {
        memcpy(project->name, name.data, name.size);
    }
    projects->by_id[projects->count++] = project;
    link_into_bucket(projects, project);
    return project;
}

void projects_mark_dirty(struct projects *projects, struct project *project) {
    if (project->is_dirty) {
        return;
    }
    project->is_dirty = true;
    project->next_dirty = projects->dirty;
    projects->dirty = project;
}

struct project *projects_take_dirty(struct projects *projects) {
    struct project *project;
    while ((project = projects->dirty) != NULL) {
        projects->dirty = project->next_dirty;
        if (!project->is_gone) {
            project->next_dirty = NULL;
            project->is_dirty = false;
            return project;
        }
        free_project(project);
    }
    return NULL;
}

void projects_remove(struct projects *projects, struct project *project) {
    ASSERT(project->n_tokens == 0);
    struct project **link = bucket_of(projects, project->seed);
    while (*link != project) {
        link = &(*link)->next_in_bucket;
    }
    *link = project->next_in_bucket;
    size_t at = projects_place_after(projects, project->id - 1);
    ASSERT(projects->by_id[at] == project);
    projects->count--;
    memmove(&projects->by_id[at], &projects->by_id[at + 1],
            (projects->count - at) * sizeof projects->by_id[0]);
    projects_set_expiry(projects, project, 0);
    if (project->is_dirty) {
        project->is_gone = true;
    } else {
        free_project(project);
    }
}

static bool expires_before(const struct project *a, const struct project *b) {
    return a->next_expiry != b->next_expiry ? a->next_expiry < b->next_expiry : a->id < b->id;
}

static void heap_place(struct projects *projects, size_t at, struct project *project) {
    projects->heap[at - 1] = project;
    project->heap_at = at;
}

static void heap_sift_up(struct projects *projects, struct project *project) {
    size_t at = project->heap_at;
    while (at > 1 && expires_before(project, projects->heap[at / 2 - 1])) {
        heap_place(projects, at, projects->heap[at / 2 - 1]);
        at /= 2;
    }
    heap_place(projects, at, project);
}

static void heap_sift_down(struct projects *projects, struct project *project) {
    size_t at = project->heap_at;
    while (2 * at <= projects->heap_count) {
        size_t child = 2 * at;
        if (child < projects->heap_count &&
            expires_before(projects->heap[child], projects->heap[child - 1])) {
            child++;
        }
        if (!expires_before(projects->heap[child - 1], project)) {
            break;
        }
        heap_place(projects, at, projects->heap[child - 1]);
        at = child;
    }
    heap_place(projects, at, project);
}

static void heap_remove(struct projects *projects, struct project *project) {
    struct project *last = projects->heap[--projects->heap_count];
    size_t at = project->heap_at;
    project->heap_at = 0;
    if (last == project) {
        return;
    }
    heap_place(projects, at, last);
    heap_sift_up(projects, last);
    heap_sift_down(projects, last);
}

static void heap_append(struct projects *projects, struct project *project) {
    if (projects->heap_count == projects->heap_capacity) {
        projects->heap_capacity =
            projects->heap_capacity == 0 ? BUCKETS_MIN : 2 * projects->heap_capacity;
        projects->heap =
            mem_realloc(projects->heap, projects->heap_capacity * sizeof(projects->heap[0]));
    }
    heap_place(projects, ++projects->heap_count, project);
}

void projects_set_expiry(struct projects *projects, struct project *project, uint64_t next_expiry) {
    if (project->next_expiry == next_expiry) {
        return;
    }
    project->next_expiry = next_expiry;
    if (next_expiry == 0) {
        heap_remove(projects, project);
        return;
    }
    if (project->heap_at == 0) {
        heap_append(projects, project);
    }
    heap_sift_up(projects, project);
    heap_sift_down(projects, project);
}

struct project *projects_first_expiring(const struct projects *projects) {
    return projects->heap_count > 0 ? projects->heap[0] : NULL;
}
