#include "raft/rescue.h"

#include <stddef.h>

#include "raft/group.h"

void rescue_reconcile(struct log *log, unsigned group, uint64_t applied_index,
                      uint64_t applied_term) {
    if (applied_index == 0) {
        return;
    }
    struct log_group_state state = log_state(log, group);
    if (state.term < applied_term) {
        log_set_vote(log, group, applied_term, 0, NULL);
    }
    if (!group_log_fits(log, group, applied_index, applied_term)) {
        log_reset(log, group, applied_index, applied_term, NULL);
    }
}

void rescue_take_over(struct log *log, unsigned group, uint64_t self, struct payload *config,
                      struct log_request *request) {
    struct log_group_state state = log_state(log, group);
    struct log_entry entry = {.term = state.term + 1, .kind = LOG_ENTRY_CHANGE, .payload = config};
    log_set_vote(log, group, entry.term, self, NULL);
    log_append(log, group, state.last + 1, &entry, 1, request);
}
