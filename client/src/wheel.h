/* Timers of the client's thread: a wheel of lists, so that thousands of deadlines cost nothing
 * until they pass. Pure: the caller brings the time. Accuracy: never early, at most WHEEL_TICK_MS
 * late. */
#ifndef CLIENT_WHEEL_H
#define CLIENT_WHEEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

enum { WHEEL_SLOTS = 512, WHEEL_TICK_MS = 4 };

struct timer {
    struct list_node link;
    uint64_t due_ms;
    void (*fire)(struct timer *timer, uint64_t now_ms); /* may arm and disarm every timer */
};

struct wheel {
    struct list_node slots[WHEEL_SLOTS];
    uint64_t tick; /* slots up to this one have been run */
};

void wheel_init(struct wheel *wheel, uint64_t now_ms);
void timer_init(struct timer *timer, void (*fire)(struct timer *timer, uint64_t now_ms));
/* Arms the timer, or moves it when it is armed. */
void wheel_arm(struct wheel *wheel, struct timer *timer, uint64_t due_ms);
/* Disarming twice is harmless. */
void timer_disarm(struct timer *timer);
bool timer_is_armed(const struct timer *timer);
/* Fires what is due. */
void wheel_run(struct wheel *wheel, uint64_t now_ms);
/* Milliseconds until wheel_run() should be called again, -1 when no timer is armed. */
int wheel_wait_ms(const struct wheel *wheel, uint64_t now_ms);

#endif
