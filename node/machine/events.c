#include "node/machine/events.h"

#include "base/assert.h"
#include "node/machine/projects.h"

enum { RECORD_INDEX = 0x80, RECORD_PROJECT = 0x81 };
enum { INDEX_SIZE = 1 + 8, PROJECT_HEADER_SIZE = 1 + 2, EVENT_HEADER_SIZE = 1 + 4 };

void machine_events_free(struct machine_events *events) {
    buffer_free(&events->bytes);
}

static void put_index(struct machine_events *events) {
    buffer_put_u8(&events->bytes, RECORD_INDEX);
    buffer_put_u64(&events->bytes, events->index);
    events->told_index = events->index;
}

static void put_project(struct machine_events *events, struct slice name) {
    buffer_put_u8(&events->bytes, RECORD_PROJECT);
    buffer_put_u16(&events->bytes, (uint16_t)name.size);
    events->project_at = events->bytes.size;
    events->project_size = name.size;
    buffer_append_slice(&events->bytes, name);
}

/* By its name: an id could be used again. */
static bool is_told_project(const struct machine_events *events, struct slice name) {
    return events->bytes.size > 0 &&
           slice_equal(name,
                       slice_make(events->bytes.data + events->project_at, events->project_size));
}

static void lose(struct machine_events *events) {
    buffer_free(&events->bytes);
    events->lost = true;
}

void machine_event_record(struct machine_events *events, const struct project *project,
                          enum machine_event_kind kind, struct slice key) {
    if (events == NULL || events->lost || events->index <= events->after) {
        return;
    }
    struct slice name = project_name(project);
    size_t most = INDEX_SIZE + PROJECT_HEADER_SIZE + name.size + EVENT_HEADER_SIZE + key.size;
    if (most > events->limit_bytes || events->bytes.size > events->limit_bytes - most) {
        lose(events);
        return;
    }
    bool same_project = is_told_project(events, name);
    buffer_reserve(&events->bytes, most);
    if (events->bytes.size == 0 || events->told_index != events->index) {
        put_index(events);
    }
    if (!same_project) {
        put_project(events, name);
    }
    buffer_put_u8(&events->bytes, (uint8_t)kind);
    buffer_put_bytes(&events->bytes, key);
}

void machine_events_rollback(struct machine_events *events, const struct machine_events *before) {
    if (events->lost) {
        return;
    }
    ASSERT(before->bytes.size <= events->bytes.size);
    events->bytes.size = before->bytes.size;
    events->told_index = before->told_index;
    events->project_at = before->project_at;
    events->project_size = before->project_size;
}

bool machine_event_next(struct slice bytes, struct machine_event_cursor *cursor,
                        struct machine_event *event) {
    ASSERT(cursor->offset <= bytes.size);
    while (cursor->offset < bytes.size) {
        const uint8_t *record = bytes.data + cursor->offset;
        if (record[0] == RECORD_INDEX) {
            cursor->index = bytes_get_u64(record + 1);
            cursor->offset += INDEX_SIZE;
        } else if (record[0] == RECORD_PROJECT) {
            cursor->project_size = bytes_get_u16(record + 1);
            cursor->project_at = cursor->offset + PROJECT_HEADER_SIZE;
            cursor->offset += PROJECT_HEADER_SIZE + cursor->project_size;
        } else {
            uint32_t key_size = bytes_get_u32(record + 1);
            *event = (struct machine_event){
                .index = cursor->index,
                .kind = (enum machine_event_kind)record[0],
                .project = slice_make(bytes.data + cursor->project_at, cursor->project_size),
                .key = slice_make(record + EVENT_HEADER_SIZE, key_size),
            };
            cursor->offset += EVENT_HEADER_SIZE + key_size;
            ASSERT(cursor->offset <= bytes.size);
            return true;
        }
    }
    return false;
}
