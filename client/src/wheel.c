#include "client/src/wheel.h"

void wheel_init(struct wheel *wheel, uint64_t now_ms) {
    for (unsigned i = 0; i < WHEEL_SLOTS; i++) {
        list_init(&wheel->slots[i]);
    }
    wheel->tick = now_ms / WHEEL_TICK_MS;
}

void timer_init(struct timer *timer, void (*fire)(struct timer *timer, uint64_t now_ms)) {
    list_init(&timer->link);
    timer->due_ms = 0;
    timer->fire = fire;
}

void wheel_arm(struct wheel *wheel, struct timer *timer, uint64_t due_ms) {
    /* Rounded up: a slot is run once its whole tick has begun. */
    uint64_t tick = due_ms / WHEEL_TICK_MS + (due_ms % WHEEL_TICK_MS != 0 ? 1 : 0);
    list_remove(&timer->link);
    if (tick <= wheel->tick) {
        tick = wheel->tick + 1;
    }
    timer->due_ms = due_ms;
    list_push(&wheel->slots[tick % WHEEL_SLOTS], &timer->link);
}

void timer_disarm(struct timer *timer) {
    list_remove(&timer->link);
}

bool timer_is_armed(const struct timer *timer) {
    return !list_empty(&timer->link);
}

static void run_slot(struct list_node *slot, uint64_t now_ms) {
    struct list_node due;
    list_init(&due);
    for (struct list_node *at = slot->next; at != slot;) {
        struct timer *timer = LIST_ENTRY(at, struct timer, link);
        at = at->next;
        if (timer->due_ms <= now_ms) { /* the others are due in a later turn of the wheel */
            list_remove(&timer->link);
            list_push(&due, &timer->link);
        }
    }
    while (!list_empty(&due)) {
        struct timer *timer = LIST_ENTRY(list_first(&due), struct timer, link);
        list_remove(&timer->link);
        timer->fire(timer, now_ms);
    }
}

void wheel_run(struct wheel *wheel, uint64_t now_ms) {
    uint64_t last = now_ms / WHEEL_TICK_MS;
    if (last > wheel->tick + WHEEL_SLOTS) {
        wheel->tick = last - WHEEL_SLOTS; /* one turn visits every slot */
    }
    while (wheel->tick < last) {
        wheel->tick++;
        run_slot(&wheel->slots[wheel->tick % WHEEL_SLOTS], now_ms);
    }
}

int wheel_wait_ms(const struct wheel *wheel, uint64_t now_ms) {
    for (uint64_t i = 1; i <= WHEEL_SLOTS; i++) {
        uint64_t tick = wheel->tick + i;
        if (!list_empty(&wheel->slots[tick % WHEEL_SLOTS])) {
            uint64_t at_ms = tick * WHEEL_TICK_MS;
            return at_ms > now_ms ? (int)(at_ms - now_ms) : 0;
        }
    }
    return -1;
}
