#include "node/membership.h"

#include <stddef.h>

static const struct member *find(const struct membership_view *view, uint64_t id) {
    for (unsigned i = 0; i < view->n_members; i++) {
        if (view->members[i].id == id) {
            return &view->members[i];
        }
    }
    return NULL;
}

/* The voters that stay must all be there: taking one out must never cost the quorum. */
static bool others_are_connected(const struct membership_view *view, uint64_t leaving) {
    unsigned voters = 0;
    for (unsigned i = 0; i < view->n_members; i++) {
        const struct member *member = &view->members[i];
        if (!member->voter || member->id == leaving) {
            continue;
        }
        voters++;
        if (member->id != view->self && !view->is_connected(view->data, member->id)) {
            return false;
        }
    }
    return voters > 0;
}

enum membership_step membership_next(const struct membership_view *view, uint64_t *id) {
    *id = view->replace;
    if (view->replace != 0 && view->replace != view->self && find(view, view->replace) != NULL) {
        return others_are_connected(view, view->replace) ? MEMBERSHIP_REMOVE : MEMBERSHIP_UNSAFE;
    }
    for (unsigned i = 0; i < view->n_wanted; i++) {
        const struct member *member = find(view, view->wanted[i]);
        *id = view->wanted[i];
        if (member == NULL) {
            return MEMBERSHIP_ADD;
        }
        if (!member->voter && view->is_connected(view->data, *id) &&
            view->is_caught_up(view->data, *id)) {
            return MEMBERSHIP_PROMOTE;
        }
    }
    *id = 0;
    return MEMBERSHIP_NONE;
}
