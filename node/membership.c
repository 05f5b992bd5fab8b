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

static bool is_wanted(const struct membership_view *view, uint64_t id) {
    for (unsigned i = 0; i < view->n_wanted; i++) {
        if (view->wanted[i] == id) {
            return true;
        }
    }
    return false;
}

bool membership_can_spare(const struct membership_view *view, uint64_t leaving) {
    unsigned voters = 0;
    for (unsigned i = 0; i < view->n_members; i++) {
        const struct member *member = &view->members[i];
        if (!member->voter || member->id == leaving) {
            continue;
        }
        voters++;
        if (member->id != view->self && (!view->is_connected(view->data, member->id) ||
                                         !view->is_caught_up(view->data, member->id))) {
            return false;
        }
    }
    return voters > 0;
}

/* The first member that is not wanted, NULL when there is none or wishes are not known. */
static const struct member *unwanted(const struct membership_view *view) {
    for (unsigned i = 0; i < view->n_members && view->n_wanted > 0; i++) {
        if (!is_wanted(view, view->members[i].id)) {
            return &view->members[i];
        }
    }
    return NULL;
}

/* A standby never votes, so it can go at any time. */
static enum membership_step step_out(const struct membership_view *view,
                                     const struct member *leaving) {
    if (leaving->voter && !membership_can_spare(view, leaving->id)) {
        return MEMBERSHIP_UNSAFE;
    }
    return leaving->id == view->self ? MEMBERSHIP_HAND_OVER : MEMBERSHIP_REMOVE;
}

static enum membership_step step_in(const struct membership_view *view, uint64_t *id) {
    for (unsigned i = 0; i < view->n_members; i++) {
        const struct member *member = &view->members[i];
        bool stays = view->n_wanted == 0 || is_wanted(view, member->id);
        if (stays && !member->voter && view->is_connected(view->data, member->id) &&
            view->is_caught_up(view->data, member->id)) {
            *id = member->id;
            return MEMBERSHIP_PROMOTE;
        }
    }
    for (unsigned i = 0; i < view->n_wanted; i++) {
        if (find(view, view->wanted[i]) == NULL) {
            *id = view->wanted[i];
            return MEMBERSHIP_ADD;
        }
    }
    *id = 0;
    return MEMBERSHIP_NONE;
}

enum membership_step membership_next(const struct membership_view *view, uint64_t *id) {
    const struct member *leaving = unwanted(view);
    enum membership_step out = leaving != NULL ? step_out(view, leaving) : MEMBERSHIP_NONE;
    if (leaving != NULL && out != MEMBERSHIP_UNSAFE) {
        *id = leaving->id;
        return out;
    }
    /* A newcomer may be what makes the other one dispensable. */
    enum membership_step in = step_in(view, id);
    if (in == MEMBERSHIP_NONE && leaving != NULL) {
        *id = leaving->id;
        return MEMBERSHIP_UNSAFE;
    }
    return in;
}
